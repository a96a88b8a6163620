/* scheme_field.c - the configurations that are a few keys: fp8, awq, gptq, SGLang's int8, --quant.
 *
 * FACTS 4a, 4c, 4d, 4e. Each says one rule for all Linear modules and a list
 * of modules that are left out; GPTQ's `dynamic` changes the rule by module.
 * Keys that change how a tensor lies and that quern does not know are refused
 * by name; all others are passed over. */
#include "quant/scheme.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "checkpoint/config_json.h"
#include "quern/log.h"

enum { GROUP_MAX = 1 << 20 };

/* The two names of the list of plain modules; the second wins where it has any. */
static enum status read_left_out(struct quant_scheme *s, const char *file, const json_t *config)
{
    const json_t *second = json_object_get(config, "ignored_layers");
    const char *key = json_array_size(second) > 0 ? "ignored_layers" : "modules_to_not_convert";
    enum status status = scheme_ignore_list(s, file, config, key, PATTERN_PART);

    return status == STATUS_OK ? scheme_ignore_list(s, file, config, "ignore", PATTERN_PART)
                               : status;
}

static enum status add_for_all(struct quant_scheme *s, const char *file, const json_t *config,
    const struct quant_rule *rule)
{
    const struct quant_rule *kept = scheme_rule(s, rule);
    enum status status;

    if (kept == NULL)
        return STATUS_NOMEM;
    status = read_left_out(s, file, config);
    return status == STATUS_OK ? scheme_target(s, file, "Linear", PATTERN_NAME, kept) : status;
}

/* "dynamic" or "static" */
static enum status read_scheme_word(const char *file, const json_t *config, bool *fixed)
{
    const char *word = "dynamic";
    enum status status = json_field_string(file, config, "activation_scheme", &word);

    if (status != STATUS_OK)
        return status;
    *fixed = strcmp(word, "static") == 0;
    if (!*fixed && strcmp(word, "dynamic") != 0)
        return log_fail(STATUS_INVALID, "%s: activation_scheme %s is not supported: use dynamic or "
            "static", file, word);
    return STATUS_OK;
}

/* weight_block_size [rows, inputs] -> a BLOCK rule; absent or null: *rule stays. */
static enum status read_blocks(const char *file, const json_t *config, struct quant_rule *rule)
{
    const json_t *size = json_object_get(config, "weight_block_size");
    json_int_t rows = json_integer_value(json_array_get(size, 0));
    json_int_t cols = json_integer_value(json_array_get(size, 1));

    if (size == NULL || json_is_null(size))
        return STATUS_OK;
    if (json_array_size(size) != 2 || rows < 1 || cols < 1 || rows > GROUP_MAX || cols > GROUP_MAX)
        return log_fail(STATUS_INVALID, "%s: weight_block_size must be two numbers, [128, 128]",
            file);
    rule->strategy = STRATEGY_BLOCK;
    rule->block_rows = (uint32_t)rows;
    rule->group = (uint32_t)cols;
    return STATUS_OK;
}

/* Activations of per-tensor weights are scaled per token, not per batch as some do: an answer must
 * not depend on its neighbours. */
enum status scheme_read_fp8(struct quant_scheme *s, const char *file, const json_t *config)
{
    struct quant_rule rule = {.method = &quant_fp8, .bits = 8, .floating = true, .symmetric = true};
    const char *format = "e4m3";
    bool fixed = false;
    enum status status = json_field_string(file, config, "fmt", &format);

    if (status == STATUS_OK && strcmp(format, "e4m3") != 0)
        status = log_fail(STATUS_INVALID, "%s: fmt %s is not supported: quern reads e4m3", file,
            format);
    if (status == STATUS_OK)
        status = read_scheme_word(file, config, &fixed);
    if (status == STATUS_OK)
        status = read_blocks(file, config, &rule);
    if (status == STATUS_OK && fixed && rule.strategy == STRATEGY_BLOCK)
        status = log_fail(STATUS_INVALID, "%s: activation_scheme static with weight_block_size is "
            "not supported: blocks have dynamic activations", file);
    if (status != STATUS_OK)
        return status;
    rule.act = fixed ? act_fixed(ACTIVATION_FP8) : act_dynamic(ACTIVATION_FP8, rule.group);
    return add_for_all(s, file, config, &rule);
}

enum status scheme_read_w8a8_int8(struct quant_scheme *s, const char *file, const json_t *config)
{
    const struct quant_rule rule = {.method = &quant_int8, .bits = 8, .symmetric = true,
        .strategy = STRATEGY_CHANNEL, .act = act_dynamic(ACTIVATION_INT8, 0)};

    return add_for_all(s, file, config, &rule);
}

enum status scheme_read_w8a8_fp8(struct quant_scheme *s, const char *file, const json_t *config)
{
    const struct quant_rule rule = {.method = &quant_fp8, .bits = 8, .floating = true,
        .symmetric = true, .strategy = STRATEGY_CHANNEL, .act = act_dynamic(ACTIVATION_FP8, 0)};

    return add_for_all(s, file, config, &rule);
}

enum status scheme_read_blockwise_int8(struct quant_scheme *s, const char *file,
    const json_t *config)
{
    struct quant_rule rule = {.method = &quant_int8, .bits = 8, .symmetric = true,
        .strategy = STRATEGY_BLOCK, .block_rows = 128, .group = 128};
    bool fixed = false;
    enum status status = read_scheme_word(file, config, &fixed);

    if (status == STATUS_OK && fixed)
        status = log_fail(STATUS_INVALID, "%s: activation_scheme static is not supported with "
            "blockwise_int8", file);
    if (status == STATUS_OK)
        status = read_blocks(file, config, &rule);
    if (status != STATUS_OK)
        return status;
    rule.act = act_dynamic(ACTIVATION_INT8, rule.group);
    return add_for_all(s, file, config, &rule);
}

/* AWQ and GPTQ --------------------------------------------------------------------------------- */

/* -1 is "all inputs": rule.group 0. `key` and `other` are two spellings. */
static enum status read_group(const char *file, const json_t *config, const char *key,
    const char *other, struct quant_rule *rule)
{
    int group = rule->group > 0 ? (int)rule->group : -1;
    enum status status = json_field_int(file, config, other, -1, GROUP_MAX, &group);

    if (status == STATUS_OK)
        status = json_field_int(file, config, key, -1, GROUP_MAX, &group);
    if (status == STATUS_OK && group == 0)
        status = log_fail(STATUS_INVALID, "%s: %s is 0, it must be -1 or more than 0", file, key);
    if (status == STATUS_OK)
        rule->group = group < 0 ? 0 : (uint32_t)group;
    return status;
}

static enum status read_bits(const char *file, const json_t *config, const char *key,
    const char *other, bool eight, int *bits)
{
    enum status status = json_field_int(file, config, other, 1, 64, bits);

    if (status == STATUS_OK)
        status = json_field_int(file, config, key, 1, 64, bits);
    if (status == STATUS_OK && *bits != 4 && !(eight && *bits == 8))
        status = log_fail(STATUS_INVALID, "%s: %s %d is not supported: use %s", file, key, *bits,
            eight ? "4 or 8" : "4");
    return status;
}

enum status scheme_read_awq(struct quant_scheme *s, const char *file, const json_t *config)
{
    struct quant_rule rule = {.method = &quant_awq, .bits = 4, .strategy = STRATEGY_GROUP,
        .group = 128};
    const char *version = "gemm";
    enum status status = json_field_string(file, config, "format", &version);

    if (status == STATUS_OK)
        status = json_field_string(file, config, "version", &version);
    if (status == STATUS_OK && strcasecmp(version, "gemm") != 0)
        status = log_fail(STATUS_INVALID, "%s: AWQ version %s is not supported: quern reads gemm",
            file, version);
    if (status == STATUS_OK)
        status = read_bits(file, config, "bits", "w_bit", false, &rule.bits);
    if (status == STATUS_OK)
        status = read_group(file, config, "group_size", "q_group_size", &rule);
    return status == STATUS_OK ? add_for_all(s, file, config, &rule) : status;
}

static enum status read_gptq_rule(const char *file, const json_t *config, struct quant_rule *rule)
{
    enum status status = read_bits(file, config, "bits", "bits", true, &rule->bits);

    if (status == STATUS_OK)
        status = read_group(file, config, "group_size", "group_size", rule);
    if (status == STATUS_OK)
        status = json_field_bool(file, config, "desc_act", &rule->indexed);
    if (status == STATUS_OK)
        status = json_field_bool(file, config, "sym", &rule->symmetric);
    return status;
}

/* "-:REGEX" leaves modules out, "+:REGEX" or "REGEX" changes their rule. */
static enum status read_dynamic(struct quant_scheme *s, const char *file, const json_t *config,
    const struct quant_rule *base)
{
    json_t *rules = json_object_get(config, "dynamic"), *entry;
    const char *key;

    if (rules == NULL || json_is_null(rules))
        return STATUS_OK;
    if (!json_is_object(rules))
        return log_fail(STATUS_INVALID, "%s: dynamic must be an object or null", file);
    json_object_foreach(rules, key, entry) {
        bool skip = strncmp(key, "-:", 2) == 0;
        struct quant_rule rule = *base;
        const struct quant_rule *kept = NULL;
        enum status status = skip ? STATUS_OK : read_gptq_rule(file, entry, &rule);

        if (status != STATUS_OK)
            return status;
        if (!skip && (kept = scheme_rule(s, &rule)) == NULL)
            return STATUS_NOMEM;
        status = scheme_target(s, file, key + (skip || strncmp(key, "+:", 2) == 0 ? 2 : 0),
            PATTERN_REGEX, kept);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static enum status check_gptq_layout(const char *file, const json_t *config, const char **format)
{
    const char *pack = "int32";
    bool marlin = false;
    enum status status = json_field_string(file, config, "format", format);

    if (status == STATUS_OK)
        status = json_field_string(file, config, "checkpoint_format", format);
    if (status == STATUS_OK)
        status = json_field_bool(file, config, "is_marlin_format", &marlin);
    if (status == STATUS_OK)
        status = json_field_string(file, config, "pack_dtype", &pack);
    if (status != STATUS_OK)
        return status;
    if (marlin)
        *format = "marlin";
    if (strcmp(*format, "gptq") != 0 && strcmp(*format, "gptq_v2") != 0)
        return log_fail(STATUS_INVALID, "%s: GPTQ checkpoint_format %s is not supported: quern "
            "reads gptq and gptq_v2", file, *format);
    if (strcmp(pack, "int32") != 0)
        return log_fail(STATUS_INVALID, "%s: pack_dtype %s is not supported: quern reads int32",
            file, pack);
    return STATUS_OK;
}

enum status scheme_read_gptq(struct quant_scheme *s, const char *file, const json_t *config)
{
    struct quant_rule rule = {.method = &quant_gptq, .bits = 4, .symmetric = true,
        .strategy = STRATEGY_GROUP, .group = 128};
    const char *format = "gptq";
    enum status status = check_gptq_layout(file, config, &format);

    rule.zeros_less_one = strcmp(format, "gptq") == 0;
    if (status == STATUS_OK)
        status = read_gptq_rule(file, config, &rule);
    if (status == STATUS_OK)
        status = read_dynamic(s, file, config, &rule);
    return status == STATUS_OK ? add_for_all(s, file, config, &rule) : status;
}

/* --quant -------------------------------------------------------------------------------------- */

enum status scheme_runtime_rule(const struct quant_options *o, struct quant_rule *rule)
{
    const struct {
        const char *name;
        struct quant_rule rule;
        struct quant_activation dynamic;
    } rows[] = {
        {"int8", {.bits = 8, .strategy = STRATEGY_CHANNEL}, act_dynamic(ACTIVATION_INT8, 0)},
        {"int4", {.bits = 4, .strategy = STRATEGY_GROUP, .group = 128}, {0}},
        {"fp8", {.bits = 8, .floating = true, .strategy = STRATEGY_BLOCK, .block_rows = 128,
            .group = 128}, act_dynamic(ACTIVATION_FP8, 128)},
    };
    bool dynamic = o->activations != NULL && strcmp(o->activations, "dynamic") == 0;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(o->method, rows[i].name) != 0)
            continue;
        if (dynamic && rows[i].dynamic.kind == ACTIVATION_PLAIN)
            return log_fail(STATUS_INVALID, "--quant-activations dynamic is for --quant int8 and "
                "fp8: %s quantises weights alone", o->method);
        *rule = rows[i].rule;
        rule->method = &quant_runtime;
        rule->symmetric = true;
        if (dynamic)
            rule->act = rows[i].dynamic;
        return STATUS_OK;
    }
    return log_fail(STATUS_INVALID, "--quant %s is not known: use int8, int4 or fp8", o->method);
}
