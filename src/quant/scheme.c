/* scheme.c - who is quantised, and how: found once, asked by every layer.
 *
 * A scheme is three lists: what is ignored, targets in order, and the rules
 * they point to; and apart from them what --quant-head says of the head.
 * In the end the weight's own type decides: where a list says "quantised" and
 * the file has a BF16 matrix, the matrix is right (FACTS 4a). */
#include "quant/scheme.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/config_json.h"
#include "checkpoint/synth.h"
#include "quern/log.h"

enum { CONFIG_BYTES_MAX = 16 << 20 };

struct rule_entry {
    struct rule_entry *next;
    struct quant_rule rule;
};

struct target {
    struct target *next;
    struct pattern *pattern;
    const struct quant_rule *rule; /* NULL: plain */
};

struct quant_scheme {
    struct rule_entry *rules;
    struct target *targets;
    struct target *ignored; /* in any order */
    const struct quant_rule *head; /* of a plain head; NULL: it stays plain */
    bool plain_activations;        /* whatever the checkpoint says */
};

/* Putting together ----------------------------------------------------------------------------- */

static struct quant_scheme *scheme_new(void)
{
    struct quant_scheme *s = calloc(1, sizeof(*s));

    if (s == NULL)
        log_fail(STATUS_NOMEM, "no memory for a quantisation scheme");
    return s;
}

static void free_targets(struct target *t)
{
    while (t != NULL) {
        struct target *next = t->next;

        pattern_free(t->pattern);
        free(t);
        t = next;
    }
}

void quant_close(struct quant_scheme *s)
{
    if (s == NULL)
        return;
    free_targets(s->targets);
    free_targets(s->ignored);
    while (s->rules != NULL) {
        struct rule_entry *entry = s->rules;

        s->rules = entry->next;
        free(entry);
    }
    free(s);
}

const struct quant_rule *scheme_rule(struct quant_scheme *s, const struct quant_rule *rule)
{
    struct rule_entry *entry = malloc(sizeof(*entry));

    if (entry == NULL) {
        log_fail(STATUS_NOMEM, "no memory for a quantisation rule");
        return NULL;
    }
    *entry = (struct rule_entry){.next = s->rules, .rule = *rule};
    if (s->plain_activations)
        entry->rule.act = (struct quant_activation){.kind = ACTIVATION_PLAIN};
    s->rules = entry;
    return &entry->rule;
}

static struct target *target_new(const char *file, const char *text, enum pattern_kind kind,
    const struct quant_rule *rule, enum status *s)
{
    struct target *t = calloc(1, sizeof(*t));

    *s = t != NULL ? pattern_open(file, text, kind, &t->pattern)
                   : log_fail(STATUS_NOMEM, "%s: no memory", file);
    if (*s != STATUS_OK) {
        free(t);
        return NULL;
    }
    t->rule = rule;
    return t;
}

enum status scheme_target(struct quant_scheme *s, const char *file, const char *text,
    enum pattern_kind kind, const struct quant_rule *rule)
{
    struct target **at = &s->targets;
    enum status status;
    struct target *t = target_new(file, text, kind, rule, &status);

    if (t == NULL)
        return status;
    while (*at != NULL && (kind != PATTERN_NAME ||
                              strcmp(pattern_text((*at)->pattern), pattern_text(t->pattern)) < 0))
        at = &(*at)->next;
    t->next = *at;
    *at = t;
    return STATUS_OK;
}

enum status scheme_ignore(struct quant_scheme *s, const char *file, const char *text,
    enum pattern_kind kind)
{
    enum status status;
    struct target *t = target_new(file, text, kind, NULL, &status);

    if (t == NULL)
        return status;
    t->next = s->ignored;
    s->ignored = t;
    return STATUS_OK;
}

enum status scheme_ignore_list(struct quant_scheme *s, const char *file, const json_t *config,
    const char *key, enum pattern_kind kind)
{
    const json_t *list = json_object_get(config, key), *entry;
    enum status status = STATUS_OK;
    size_t i;

    if (list == NULL || json_is_null(list))
        return STATUS_OK;
    if (!json_is_array(list))
        return log_fail(STATUS_INVALID, "%s: %s must be an array of names or null", file, key);
    json_array_foreach(list, i, entry) {
        if (!json_is_string(entry))
            return log_fail(STATUS_INVALID, "%s: %s[%zu] is not a string", file, key, i);
        status = scheme_ignore(s, file, json_string_value(entry), kind);
        if (status != STATUS_OK)
            return status;
    }
    return status;
}

struct quant_activation act_dynamic(enum activation kind, uint32_t group)
{
    if (kind == ACTIVATION_INT8)
        return (struct quant_activation){.kind = kind, .group = group,
            .divisor = ACT_INT8_DIVISOR, .least = ACT_INT8_LEAST};
    return (struct quant_activation){.kind = kind, .group = group, .divisor = ACT_FP8_DIVISOR,
        .least = group > 0 ? ACT_FP8_GROUP_LEAST : ACT_FP8_TOKEN_LEAST};
}

struct quant_activation act_fixed(enum activation kind)
{
    struct quant_activation act = act_dynamic(kind, 0);

    act.fixed = true;
    return act;
}

/* Opening -------------------------------------------------------------------------------------- */

static const struct family {
    const char *name;
    enum status (*read)(struct quant_scheme *s, const char *file, const json_t *config);
} families[] = {
    {"fp8", scheme_read_fp8},
    {"compressed-tensors", scheme_read_compressed},
    {"awq", scheme_read_awq},
    {"gptq", scheme_read_gptq},
    {"auto-round", scheme_read_autoround},
    {"intel/auto-round", scheme_read_autoround},
    {"w8a8_int8", scheme_read_w8a8_int8},
    {"w8a8_fp8", scheme_read_w8a8_fp8},
    {"blockwise_int8", scheme_read_blockwise_int8},
};

/* Its older files do not name it. */
static bool has_bitsandbytes(const json_t *config)
{
    return json_is_true(json_object_get(config, "load_in_4bit")) ||
           json_is_true(json_object_get(config, "load_in_8bit"));
}

static enum status read_family(struct quant_scheme *s, const char *file, const json_t *config,
    const char *fallback)
{
    const char *method = has_bitsandbytes(config) ? "bitsandbytes" : fallback;
    enum status status = json_field_string(file, config, "quant_method", &method);

    if (status != STATUS_OK)
        return status;
    if (method == NULL)
        return log_fail(STATUS_INVALID, "%s: quant_method is missing", file);
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        if (strcmp(method, families[i].name) == 0)
            return families[i].read(s, file, config);
    return log_fail(STATUS_INVALID, "%s: quant_method %s is not supported: quern reads fp8, "
        "compressed-tensors, awq, gptq, auto-round, w8a8_int8, w8a8_fp8 and blockwise_int8: get "
        "the model in one of these, or whole", file, method);
}

static const json_t *present(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return value != NULL && !json_is_null(value) ? value : NULL;
}

/* A file of `dir`, or *out NULL where there is none. */
static enum status read_beside(const char *dir, const char *name, json_t **out)
{
    char path[PATH_MAX];
    enum status s = path_join(path, sizeof(path), dir, name);

    *out = NULL;
    return s == STATUS_OK ? json_read_optional(path, CONFIG_BYTES_MAX, out) : s;
}

/* The older places: GPTQ's own file, and ModelOpt's, which quern does not read. */
static enum status read_other_files(struct quant_scheme *s, const char *dir, bool *found)
{
    json_t *config;
    enum status status = read_beside(dir, "quantize_config.json", &config);

    if (status != STATUS_OK)
        return status;
    if (config != NULL) {
        *found = true;
        status = read_family(s, "quantize_config.json", config, "gptq");
        json_decref(config);
        return status;
    }
    status = read_beside(dir, "hf_quant_config.json", &config);
    if (config != NULL) {
        const char *algorithm = json_string_value(
            json_object_get(json_object_get(config, "quantization"), "quant_algo"));

        status = log_fail(STATUS_INVALID, "hf_quant_config.json: ModelOpt's %s is not supported: "
            "use a checkpoint in compressed-tensors, fp8, awq or gptq form",
            algorithm != NULL ? algorithm : "layout");
        json_decref(config);
    }
    return status;
}

/* mlx-lm writes "quantization", {"group_size", "bits"}, and the same again without a method. */
static enum status refuse_mlx(const json_t *root)
{
    const json_t *mlx = json_object_get(root, "quantization");

    if (json_object_get(mlx, "bits") == NULL ||
        json_object_get(json_object_get(root, "quantization_config"), "quant_method") != NULL)
        return STATUS_OK;
    return log_fail(STATUS_INVALID, "config.json: quantization: this is a checkpoint of MLX's, of "
        "%lld bits: get the repository that it was made from", (long long)json_integer_value(
        json_object_get(mlx, "bits")));
}

/* What the checkpoint in `dir` says; *found: anything at all. */
static enum status read_checkpoint(struct quant_scheme *s, const char *dir, bool *found)
{
    static const char *const keys[] = {"quantization_config", "compression_config"};
    const json_t *config = NULL;
    json_t *root;
    char file[64];
    enum status status = read_beside(dir, "config.json", &root);

    *found = false;
    if (status == STATUS_OK && (status = refuse_mlx(root)) != STATUS_OK)
        json_decref(root);
    if (status != STATUS_OK)
        return status;
    for (int i = 0; root != NULL && config == NULL && i < 2; i++) {
        config = present(root, keys[i]);
        snprintf(file, sizeof(file), "config.json: %s", keys[i]);
    }
    if (config == NULL)
        status = read_other_files(s, dir, found);
    else if (!json_is_object(config))
        status = log_fail(STATUS_INVALID, "%s must be an object or null", file);
    else
        status = read_family(s, file, config, NULL);
    *found = *found || config != NULL;
    json_decref(root);
    return status;
}

static enum status add_runtime(struct quant_scheme *s, const struct quant_options *o)
{
    struct quant_rule rule;
    const struct quant_rule *kept;
    enum status status = scheme_runtime_rule(o, &rule);

    if (status != STATUS_OK)
        return status;
    kept = scheme_rule(s, &rule);
    if (kept == NULL)
        return STATUS_NOMEM;
    status = scheme_ignore(s, "--quant", "lm_head", PATTERN_NAME);
    return status == STATUS_OK ? scheme_target(s, "--quant", "Linear", PATTERN_NAME, kept) : status;
}

static const struct quant_rule head_rule = {.method = &quant_runtime, .bits = 8,
    .symmetric = true, .strategy = STRATEGY_CHANNEL};

/* One of the words, or NULL: not given. */
static enum status check_word(const char *option, const char *given, const char *const words[],
    const char *use)
{
    if (given == NULL)
        return STATUS_OK;
    for (int i = 0; words[i] != NULL; i++)
        if (strcmp(given, words[i]) == 0)
            return STATUS_OK;
    return log_fail(STATUS_INVALID, "%s %s is not known: use %s", option, given, use);
}

static bool is_word(const char *given, const char *word)
{
    return given != NULL && strcmp(given, word) == 0;
}

/* What can be said of the options before a file is read. */
static enum status check_options(const struct quant_options *o)
{
    static const char *const heads[] = {"int8", "none", NULL};
    static const char *const activations[] = {"auto", "none", "dynamic", NULL};
    enum status s = check_word("--quant-head", o->head, heads, "int8 or none");

    if (s == STATUS_OK)
        s = check_word("--quant-activations", o->activations, activations, "auto, none or dynamic");
    if (s == STATUS_OK && o->method == NULL && is_word(o->activations, "dynamic"))
        s = log_fail(STATUS_INVALID, "--quant-activations dynamic goes with --quant int8 or fp8: a "
            "quantised checkpoint says itself how its activations are");
    return s;
}

static enum status read_scheme(struct quant_scheme *s, const char *model,
    const struct quant_options *o, bool *found)
{
    bool head = o->head != NULL ? strcmp(o->head, "int8") == 0 : o->method != NULL;
    enum status status = check_options(o);

    *found = false;
    s->plain_activations = is_word(o->activations, "none");
    if (status == STATUS_OK && !synth_is(model))
        status = read_checkpoint(s, model, found);
    if (status == STATUS_OK && o->method != NULL && *found)
        return log_fail(STATUS_INVALID, "--quant %s: %s is quantised already: leave --quant out",
            o->method, model);
    if (status == STATUS_OK && o->method != NULL)
        status = add_runtime(s, o);
    if (head)
        s->head = &head_rule;
    *found = *found || o->method != NULL || head;
    return status;
}

static const char *or_null(const char *text)
{
    return text != NULL && text[0] != '\0' ? text : NULL;
}

enum status quant_open(const char *model, const struct quant_options *o,
    struct quant_scheme **out)
{
    struct quant_options asked = {0};
    struct quant_scheme *s = scheme_new();
    bool found;
    enum status status;

    if (s == NULL)
        return STATUS_NOMEM;
    if (o != NULL)
        asked = (struct quant_options){.method = or_null(o->method), .head = or_null(o->head),
            .activations = or_null(o->activations)};
    status = read_scheme(s, model, &asked, &found);
    if (status != STATUS_OK || !found) {
        quant_close(s);
        s = NULL;
    }
    if (status == STATUS_OK)
        *out = s;
    return status;
}

/* Asking --------------------------------------------------------------------------------------- */

static const struct quant_rule *find_rule(const struct quant_scheme *s, const char *module)
{
    for (const struct target *t = s->ignored; t != NULL; t = t->next)
        if (pattern_matches_name(t->pattern, module) || pattern_matches_class(t->pattern, module))
            return NULL;
    for (int regex = 0; regex < 2; regex++)
        for (const struct target *t = s->targets; t != NULL; t = t->next)
            if (pattern_is_regex(t->pattern) == regex && pattern_matches_name(t->pattern, module))
                return t->rule;
    for (const struct target *t = s->targets; t != NULL; t = t->next)
        if (pattern_matches_class(t->pattern, module))
            return t->rule;
    return NULL;
}

static bool stored_plain(const struct weight_loader *l, const char *module)
{
    char name[QUANT_NAME_BYTES];
    struct source_tensor t;
    enum dtype stored;

    return source_find(l->source, tensor_name(name, module, "weight"), &t) &&
           file_dtype_float(t.view.dtype, &stored) == STATUS_OK;
}

static bool is_head(const struct weight_loader *l, const char *module)
{
    return strcmp(module, "lm_head") == 0 ||
           (l->tied && strcmp(module, "model.embed_tokens") == 0);
}

const struct quant_rule *quant_rule_of(const struct weight_loader *l, const char *module)
{
    const struct quant_rule *rule;

    if (l->scheme == NULL)
        return NULL;
    rule = find_rule(l->scheme, module);
    if (rule != NULL && rule->method != &quant_runtime && stored_plain(l, module))
        rule = NULL;
    if (rule == NULL && l->scheme->head != NULL && is_head(l, module) &&
        stored_plain(l, module))
        rule = l->scheme->head;
    return rule;
}

const struct quant_method *quant_method_of(const struct weight_loader *l, const char *module)
{
    const struct quant_rule *rule = quant_rule_of(l, module);

    return rule != NULL ? rule->method : &quant_none;
}

uint32_t quant_col_group(const struct weight_loader *l, const char *module)
{
    const struct quant_rule *rule = quant_rule_of(l, module);
    bool grouped = rule != NULL && !rule->indexed &&
                   (rule->strategy == STRATEGY_GROUP || rule->strategy == STRATEGY_BLOCK);
    uint32_t weights = grouped && rule->group > 0 ? rule->group : 1;

    return rule != NULL && rule->act.group > weights ? rule->act.group : weights;
}
