/* generation.c - generation_config.json over the defaults.
 *
 * A missing file is the ordinary case of a base model, not an error. Fields that quern has no use
 * for (pad_token_id, repetition penalties of other engines) are left unread. */
#include "checkpoint/generation.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/config_json.h"
#include "quern/log.h"

enum { GENERATION_FILE_MAX = 1 << 20 };

static enum status read_real(const char *file, const json_t *root, const char *key, double low,
                             double high, float *out)
{
    double x = *out;
    enum status s = json_field_real(file, root, key, low, high, &x);

    *out = (float)x;
    return s;
}

static enum status parse(const char *file, const json_t *root, struct generation_defaults *g)
{
    enum status s = json_field_bool(file, root, "do_sample", &g->do_sample);

    if (s == STATUS_OK)
        s = read_real(file, root, "temperature", 0.0, 100.0, &g->temperature);
    if (s == STATUS_OK)
        s = read_real(file, root, "top_p", 1e-6, 1.0, &g->top_p);
    if (s == STATUS_OK)
        s = read_real(file, root, "min_p", 0.0, 1.0, &g->min_p);
    if (s == STATUS_OK)
        s = json_field_int(file, root, "top_k", -1, INT_MAX, &g->top_k);
    if (g->top_k < 0) /* vLLM's spelling of "no cut" */
        g->top_k = 0;
    if (s == STATUS_OK)
        s = json_field_ids(file, root, "eos_token_id", g->eos, GENERATION_EOS_MAX, &g->n_eos);
    return s;
}

static void add_config_eos(const struct model_config *cfg, struct generation_defaults *g)
{
    for (int i = 0; i < cfg->n_eos; i++)
        g->eos[g->n_eos++] = cfg->eos[i];
}

enum status generation_read(const char *model, const struct model_config *cfg,
                            struct generation_defaults *out)
{
    struct generation_defaults g = { .temperature = 1.0f, .top_p = 1.0f };
    char path[PATH_MAX];
    json_t *root;
    enum status s = path_join(path, sizeof(path), model, "generation_config.json");

    if (s != STATUS_OK)
        return s;
    add_config_eos(cfg, &g);
    if (strncmp(model, "synth:", 6) != 0 && access(path, F_OK) == 0) {
        s = json_read_file(path, GENERATION_FILE_MAX, &root);
        if (s != STATUS_OK)
            return s;
        s = parse(path_base(path), root, &g);
        json_decref(root);
    }
    if (s == STATUS_OK)
        *out = g;
    return s;
}
