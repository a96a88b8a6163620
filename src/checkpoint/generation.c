/* generation.c - generation_config.json over the defaults.
 *
 * A missing file is the ordinary case of a base model, not an error. What would change answers and
 * is not done is a row of a table with the value that changes nothing, and warned about; the rest
 * (pad_token_id, lengths, which cache another engine takes) is left unread. */
#include "checkpoint/generation.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/config_json.h"
#include "checkpoint/synth.h"
#include "quern/log.h"

enum { GENERATION_FILE_MAX = 1 << 20, CONFIG_FILE_MAX = 16 << 20 };

#define LEAST_TOP_P 1e-6f

/* Null and an empty list or object never change anything. */
enum neutral { NUMBER, NOTHING };

static const struct key_not_done {
    const char *key;
    enum neutral kind; /* NOTHING: any value changes answers, but false */
    double neutral;    /* NUMBER: this one does not */
    bool samples;      /* does nothing when answers are greedy */
} not_done[] = {
    { "encoder_repetition_penalty", NUMBER, 1, false },
    { "no_repeat_ngram_size", NUMBER, 0, false },
    { "encoder_no_repeat_ngram_size", NUMBER, 0, false },
    { "num_beams", NUMBER, 1, false },
    { "penalty_alpha", NUMBER, 0, false },
    { "dola_layers", NOTHING, 0, false },
    { "min_length", NUMBER, 0, false },
    { "guidance_scale", NUMBER, 1, false },
    { "typical_p", NUMBER, 1, true },
    { "top_h", NOTHING, 0, true },
    { "epsilon_cutoff", NUMBER, 0, true },
    { "eta_cutoff", NUMBER, 0, true },
    { "bad_words_ids", NOTHING, 0, false },
    { "force_words_ids", NOTHING, 0, false },
    { "constraints", NOTHING, 0, false },
    { "sequence_bias", NOTHING, 0, false },
    { "suppress_tokens", NOTHING, 0, false },
    { "begin_suppress_tokens", NOTHING, 0, false },
    { "forced_bos_token_id", NOTHING, 0, false },
    { "forced_eos_token_id", NOTHING, 0, false },
    { "exponential_decay_length_penalty", NOTHING, 0, false },
    { "stop_strings", NOTHING, 0, false },
    { "watermarking_config", NOTHING, 0, false },
};

static bool changes_answers(const struct key_not_done *k, const json_t *value, bool sampled)
{
    if (value == NULL || json_is_null(value) || json_is_false(value) || (k->samples && !sampled))
        return false;
    if ((json_is_array(value) && json_array_size(value) == 0) ||
        (json_is_object(value) && json_object_size(value) == 0))
        return false;
    return k->kind == NOTHING || !json_is_number(value) || json_number_value(value) != k->neutral;
}

/* One line for all of them. */
static void warn_not_done(const char *file, const json_t *root, bool sampled)
{
    char names[LOG_LINE_BYTES / 2] = "";
    size_t used = 0;

    for (size_t i = 0; i < sizeof(not_done) / sizeof(not_done[0]); i++)
        if (changes_answers(&not_done[i], json_object_get(root, not_done[i].key), sampled) &&
            used < sizeof(names))
            used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
                                     used > 0 ? ", " : "", not_done[i].key);
    if (used > 0)
        log_warn("%s asks for %s, which this version does not do: answers are as without", file,
                 names);
}

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
        s = read_real(file, root, "top_p", 0.0, 1.0, &g->top_p);
    if (g->top_p < LEAST_TOP_P) /* 0 keeps the likeliest token alone, and so does this */
        g->top_p = LEAST_TOP_P;
    if (s == STATUS_OK)
        s = read_real(file, root, "min_p", 0.0, 1.0, &g->min_p);
    if (s == STATUS_OK)
        s = json_field_int(file, root, "top_k", -1, INT_MAX, &g->top_k);
    if (g->top_k < 0) /* vLLM's spelling of "no cut" */
        g->top_k = 0;
    if (s == STATUS_OK)
        s = read_real(file, root, "repetition_penalty", 0.0, 100.0, &g->repetition_penalty);
    if (s == STATUS_OK && !(g->repetition_penalty > 0))
        s = log_fail(STATUS_INVALID, "%s: repetition_penalty %g: it has to be above 0", file,
                     (double)g->repetition_penalty);
    if (s == STATUS_OK)
        s = json_field_int(file, root, "min_new_tokens", 0, INT_MAX, &g->min_new_tokens);
    if (s == STATUS_OK)
        s = json_field_ids(file, root, "eos_token_id", &g->eos, &g->n_eos);
    if (s == STATUS_OK)
        warn_not_done(file, root, g->do_sample && g->temperature > 0.0f && g->top_k != 1);
    return s;
}

static enum status add_config_eos(const struct model_config *cfg, struct generation_defaults *g)
{
    if (cfg->n_eos == 0)
        return STATUS_OK;
    g->eos = malloc((size_t)cfg->n_eos * sizeof(*g->eos));
    if (g->eos == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %d ids", cfg->n_eos);
    memcpy(g->eos, cfg->eos, (size_t)cfg->n_eos * sizeof(*g->eos));
    g->n_eos = cfg->n_eos;
    return STATUS_OK;
}

/* *root is NULL without the file. */
static enum status read_json(const char *model, const char *name, size_t limit, json_t **root)
{
    char path[PATH_MAX];
    enum status s = path_join(path, sizeof(path), model, name);

    return s == STATUS_OK ? json_read_optional(path, limit, root) : s;
}

/* config.json once more: a model_config keeps the first ids of a long list alone, and without a
 * generation_config.json its generation keys count, as older versions of Transformers wrote them
 * and GenerationConfig.from_model_config() reads them. */
static enum status read_config(const char *model, bool alone, struct generation_defaults *g)
{
    json_t *root;
    enum status s = read_json(model, "config.json", CONFIG_FILE_MAX, &root);

    if (s != STATUS_OK || root == NULL)
        return s;
    s = alone ? parse("config.json", root, g)
              : json_field_ids("config.json", root, "eos_token_id", &g->eos, &g->n_eos);
    json_decref(root);
    return s;
}

static enum status read_files(const char *model, const struct model_config *cfg,
                              struct generation_defaults *g)
{
    json_t *root;
    enum status s = add_config_eos(cfg, g);

    if (s != STATUS_OK || synth_is(model))
        return s;
    s = read_json(model, "generation_config.json", GENERATION_FILE_MAX, &root);
    if (s != STATUS_OK)
        return s;
    if (root == NULL || cfg->n_eos == CONFIG_EOS_MAX)
        s = read_config(model, root == NULL, g);
    if (s == STATUS_OK && root != NULL)
        s = parse("generation_config.json", root, g);
    json_decref(root);
    return s;
}

enum status generation_read(const char *model, const struct model_config *cfg,
                            struct generation_defaults *out)
{
    struct generation_defaults g = { .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f };
    enum status s = read_files(model, cfg, &g);

    if (s == STATUS_OK)
        *out = g;
    else
        generation_free(&g);
    return s;
}

void generation_free(struct generation_defaults *g)
{
    free(g->eos);
    g->eos = NULL;
    g->n_eos = 0;
}
