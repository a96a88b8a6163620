/* scheme_compressed.c - compressed-tensors' configuration: groups of targets, each with a scheme.
 *
 * FACTS 4b. A group says how weights and activations are quantised, and its
 * format, or the top's, how the codes lie. What quern has no row for is
 * refused by name here, before any tensor is looked at. */
#include "quant/scheme.h"

#include <stdio.h>
#include <string.h>

#include "checkpoint/config_json.h"
#include "quern/log.h"

enum { GROUP_MAX = 1 << 20 };

/* weights or input_activations of a group, as they stand */
struct args {
    int bits, group;
    const char *type, *strategy;
    bool symmetric, dynamic, indexed;
    int block[2];
};

static const json_t *present(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return value != NULL && !json_is_null(value) ? value : NULL;
}

/* [128, 128] or "128x128" */
static enum status read_block(const char *file, const json_t *args, int block[2])
{
    const json_t *value = present(args, "block_structure");
    const char *text = json_string_value(value);

    block[0] = block[1] = 128;
    if (value == NULL)
        return STATUS_OK;
    if (text != NULL && sscanf(text, "%dx%d", &block[0], &block[1]) != 2)
        block[0] = 0;
    for (int i = 0; text == NULL && i < 2; i++)
        block[i] = (int)json_integer_value(json_array_get(value, (size_t)i));
    if (block[0] < 1 || block[1] < 1 || block[0] > GROUP_MAX || block[1] > GROUP_MAX)
        return log_fail(STATUS_INVALID, "%s: block_structure must be two numbers, [128, 128]",
            file);
    return STATUS_OK;
}

/* true, false, "local" (of a newer layout) */
static enum status read_dynamic(const char *file, const json_t *args, bool *dynamic)
{
    const json_t *value = present(args, "dynamic");

    if (json_is_string(value))
        return log_fail(STATUS_INVALID, "%s: dynamic \"%s\" is not supported: use true or false",
            file, json_string_value(value));
    return json_field_bool(file, args, "dynamic", dynamic);
}

/* "group" and its alias mean that inputs lie in groups in any order; "weight" does not. */
static enum status read_order(const char *file, const json_t *args, bool *indexed)
{
    const json_t *value = present(args, "actorder");
    const char *word = json_string_value(value);

    *indexed = word != NULL ? strcmp(word, "group") == 0 || strcmp(word, "dynamic") == 0
                            : json_is_true(value);
    if (word != NULL && !*indexed && strcmp(word, "weight") != 0 && strcmp(word, "static") != 0)
        return log_fail(STATUS_INVALID, "%s: actorder %s is not known: use group or weight", file,
            word);
    return STATUS_OK;
}

static enum status read_args(const char *file, const json_t *json, struct args *a)
{
    enum status s;

    *a = (struct args){.bits = 8, .group = -1, .type = "int", .symmetric = true};
    s = json_field_int(file, json, "num_bits", 1, 64, &a->bits);
    if (s == STATUS_OK)
        s = json_field_int(file, json, "group_size", -1, GROUP_MAX, &a->group);
    if (s == STATUS_OK)
        s = json_field_string(file, json, "type", &a->type);
    if (s == STATUS_OK)
        s = json_field_string(file, json, "strategy", &a->strategy);
    if (s == STATUS_OK)
        s = json_field_bool(file, json, "symmetric", &a->symmetric);
    if (s == STATUS_OK)
        s = read_dynamic(file, json, &a->dynamic);
    if (s == STATUS_OK)
        s = read_order(file, json, &a->indexed);
    if (s == STATUS_OK)
        s = read_block(file, json, a->block);
    if (s == STATUS_OK && a->strategy == NULL)
        a->strategy = a->group > 0 ? "group" : "tensor";
    return s;
}

/* Weights -------------------------------------------------------------------------------------- */

static enum status read_strategy(const char *file, const struct args *a, struct quant_rule *rule)
{
    if (strcmp(a->strategy, "tensor") == 0) {
        rule->strategy = STRATEGY_TENSOR;
    } else if (strcmp(a->strategy, "channel") == 0) {
        rule->strategy = STRATEGY_CHANNEL;
    } else if (strcmp(a->strategy, "group") == 0) {
        rule->strategy = a->group > 0 ? STRATEGY_GROUP : STRATEGY_CHANNEL;
        rule->group = a->group > 0 ? (uint32_t)a->group : 0;
    } else if (strcmp(a->strategy, "block") == 0) {
        rule->strategy = STRATEGY_BLOCK;
        rule->block_rows = (uint32_t)a->block[0];
        rule->group = (uint32_t)a->block[1];
    } else {
        return log_fail(STATUS_INVALID, "%s: strategy %s of weights is not supported: quern reads "
            "tensor, channel, group and block", file, a->strategy);
    }
    return STATUS_OK;
}

static const struct quant_method *method_of(const char *format, bool floating)
{
    if (strcmp(format, "naive-quantized") == 0)
        return floating ? &quant_fp8 : &quant_int8;
    if (strcmp(format, "float-quantized") == 0)
        return floating ? &quant_fp8 : NULL;
    if (strcmp(format, "int-quantized") == 0)
        return floating ? NULL : &quant_int8;
    if (strcmp(format, "pack-quantized") == 0)
        return floating ? NULL : &quant_packed;
    return NULL;
}

static enum status check_format(const char *file, const char *format)
{
    static const char *const known[] = {"naive-quantized", "float-quantized", "int-quantized",
        "pack-quantized"};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(format, known[i]) == 0)
            return STATUS_OK;
    return log_fail(STATUS_INVALID, "%s: format %s is not supported: quern reads float-quantized, "
        "int-quantized, naive-quantized and pack-quantized", file, format);
}

static enum status read_weights(const char *file, const char *format, const json_t *json,
    struct quant_rule *rule)
{
    struct args a;
    enum status s = check_format(file, format);

    if (s == STATUS_OK)
        s = read_args(file, json, &a);
    if (s != STATUS_OK)
        return s;
    rule->floating = strcmp(a.type, "float") == 0;
    rule->bits = a.bits;
    rule->symmetric = a.symmetric;
    rule->indexed = a.indexed;
    rule->method = method_of(format, rule->floating);
    if (rule->method == NULL || (a.bits != 8 && (rule->floating || a.bits != 4)))
        return log_fail(STATUS_INVALID, "%s: weights of %d bits, type %s, are not supported in "
            "format %s: quern reads 8-bit float, 4- and 8-bit int", file, a.bits, a.type, format);
    if (a.dynamic || (rule->floating && !a.symmetric))
        return log_fail(STATUS_INVALID, "%s: %s weights are not supported", file,
            a.dynamic ? "dynamic" : "asymmetric float");
    s = read_strategy(file, &a, rule);
    if (s == STATUS_OK && !rule->symmetric && (rule->strategy == STRATEGY_TENSOR ||
                                                  rule->strategy == STRATEGY_BLOCK))
        s = log_fail(STATUS_INVALID, "%s: asymmetric weights with strategy %s are not supported",
            file, a.strategy);
    return s;
}

/* Activations ---------------------------------------------------------------------------------- */

/* A scale of a whole dynamic tensor would be one of the batch: it is taken per token, so that an
 * answer does not depend on its neighbours. */
static enum status read_activations(const char *file, const json_t *json, struct quant_rule *rule)
{
    bool floating, grouped;
    struct args a;
    enum status s;

    if (json == NULL)
        return STATUS_OK;
    s = read_args(file, json, &a);
    if (s != STATUS_OK)
        return s;
    floating = strcmp(a.type, "float") == 0;
    grouped = strcmp(a.strategy, "group") == 0;
    if (a.bits != 8 || !a.symmetric || (rule->floating && !floating))
        return log_fail(STATUS_INVALID, "%s: %sactivations of %d bits, type %s, are not supported: "
            "quern has symmetric 8-bit float and, for int weights, int", file,
            a.symmetric ? "" : "asymmetric ", a.bits, a.type);
    if (!a.dynamic && strcmp(a.strategy, "tensor") != 0)
        return log_fail(STATUS_INVALID, "%s: static activations with strategy %s are not "
            "supported: use tensor", file, a.strategy);
    if (!grouped && strcmp(a.strategy, "tensor") != 0 && strcmp(a.strategy, "token") != 0)
        return log_fail(STATUS_INVALID, "%s: strategy %s of activations is not supported: quern "
            "has token, tensor and group", file, a.strategy);
    if (!a.dynamic)
        rule->act = act_fixed(floating ? ACTIVATION_FP8 : ACTIVATION_INT8);
    else
        rule->act = act_dynamic(floating ? ACTIVATION_FP8 : ACTIVATION_INT8,
            grouped && a.group > 0 ? (uint32_t)a.group : 0);
    return STATUS_OK;
}

/* Groups --------------------------------------------------------------------------------------- */

static enum status add_targets(struct quant_scheme *s, const char *file, const json_t *group,
    const struct quant_rule *rule)
{
    const json_t *targets = json_object_get(group, "targets"), *target;
    enum status status = STATUS_OK;
    size_t i;

    if (!json_is_array(targets))
        return log_fail(STATUS_INVALID, "%s: targets must be an array of names", file);
    json_array_foreach(targets, i, target) {
        if (!json_is_string(target))
            return log_fail(STATUS_INVALID, "%s: targets[%zu] is not a string", file, i);
        status = scheme_target(s, file, json_string_value(target), PATTERN_NAME, rule);
        if (status != STATUS_OK)
            return status;
    }
    return status;
}

static enum status read_group(struct quant_scheme *s, const char *file, const char *top_format,
    const json_t *group)
{
    const json_t *weights = present(group, "weights");
    const struct quant_rule *kept;
    const char *format = top_format;
    struct quant_rule rule = {0};
    enum status status = json_field_string(file, group, "format", &format);

    if (status != STATUS_OK)
        return status;
    if (present(group, "output_activations") != NULL)
        return log_fail(STATUS_INVALID, "%s: output_activations are not supported", file);
    if (weights == NULL || strcmp(format, "dense") == 0)
        return add_targets(s, file, group, NULL);
    status = read_weights(file, format, weights, &rule);
    if (status == STATUS_OK)
        status = read_activations(file, present(group, "input_activations"), &rule);
    if (status != STATUS_OK)
        return status;
    kept = scheme_rule(s, &rule);
    return kept != NULL ? add_targets(s, file, group, kept) : STATUS_NOMEM;
}

static enum status refuse_extras(const char *file, const json_t *config)
{
    const json_t *transform = json_object_get(config, "transform_config");
    const json_t *sparsity = json_object_get(config, "sparsity_config");
    const char *sparse = json_string_value(json_object_get(sparsity, "format"));

    if (json_object_size(transform) > 0)
        return log_fail(STATUS_INVALID, "%s: transform_config is not supported: use a checkpoint "
            "without transforms", file);
    if (sparse != NULL && strcmp(sparse, "dense") != 0)
        return log_fail(STATUS_INVALID, "%s: sparsity format %s is not supported", file, sparse);
    if (present(config, "kv_cache_scheme") != NULL)
        log_warn("%s: kv_cache_scheme is passed over: the KV cache has the type of --kv-dtype",
            file);
    return STATUS_OK;
}

enum status scheme_read_compressed(struct quant_scheme *s, const char *file, const json_t *config)
{
    json_t *groups = json_object_get(config, "config_groups"), *group;
    const char *format = "(none given)", *name;
    enum status status = refuse_extras(file, config);

    if (status == STATUS_OK)
        status = json_field_string(file, config, "format", &format);
    if (status == STATUS_OK)
        status = scheme_ignore_list(s, file, config, "ignore", PATTERN_NAME);
    if (status == STATUS_OK && json_object_size(groups) == 0)
        status = log_fail(STATUS_INVALID, "%s: config_groups is missing or empty", file);
    if (status != STATUS_OK)
        return status;
    json_object_foreach(groups, name, group) {
        char where[160];

        snprintf(where, sizeof(where), "%s: %s", file, name);
        status = read_group(s, where, format, group);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}
