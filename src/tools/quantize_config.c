/* quantize_config.c - rules written back as the field's JSON: the inverse of scheme_compressed.c.
 *
 * Formats: e4m3 is float-quantized; int8 codes whose activations are quantised,
 * too, are int-quantized, integer weights alone pack-quantized. A quantised head
 * has a group of its own, by name, which loaders prefer to the class; with two
 * formats the top one is "mixed-precision". */
#include "tools/quantize_config.h"

#include <limits.h>
#include <string.h>

#include <jansson.h>

#include "checkpoint/config_json.h"
#include "quern/log.h"

enum { CONFIG_BYTES_MAX = 16 << 20 };

bool quantize_packed(const struct quant_rule *rule)
{
    return !rule->floating && rule->act.kind == ACTIVATION_PLAIN;
}

static const char *format_of(const struct quant_rule *rule)
{
    if (rule->floating)
        return "float-quantized";
    return quantize_packed(rule) ? "pack-quantized" : "int-quantized";
}

static json_t *weights_json(const struct quant_rule *rule)
{
    static const char *const strategies[] = {
        [STRATEGY_TENSOR] = "tensor",
        [STRATEGY_CHANNEL] = "channel",
        [STRATEGY_GROUP] = "group",
        [STRATEGY_BLOCK] = "block",
    };
    json_t *group = rule->strategy == STRATEGY_GROUP ? json_integer(rule->group) : json_null();
    json_t *block = rule->strategy == STRATEGY_BLOCK
                        ? json_pack("[i, i]", (int)rule->block_rows, (int)rule->group)
                        : json_null();

    return json_pack("{s:i, s:s, s:s, s:b, s:b, s:o, s:o}", "num_bits", rule->bits, "type",
        rule->floating ? "float" : "int", "strategy", strategies[rule->strategy], "symmetric",
        1, "dynamic", 0, "group_size", group, "block_structure", block);
}

static json_t *activations_json(const struct quant_activation *act)
{
    if (act->kind == ACTIVATION_PLAIN)
        return json_null();
    return json_pack("{s:i, s:s, s:s, s:b, s:b, s:o}", "num_bits", 8, "type",
        act->kind == ACTIVATION_FP8 ? "float" : "int", "strategy",
        act->group > 0 ? "group" : "token", "symmetric", 1, "dynamic", 1, "group_size",
        act->group > 0 ? json_integer(act->group) : json_null());
}

static json_t *group_json(const struct quant_rule *rule, const char *target)
{
    return json_pack("{s:[s], s:o, s:o, s:n, s:s}", "targets", target, "weights",
        weights_json(rule), "input_activations", activations_json(&rule->act),
        "output_activations", "format", format_of(rule));
}

static json_t *quantization_json(const struct quant_rule *rule, const struct quant_rule *head)
{
    json_t *groups = json_pack("{s:o}", "group_0", group_json(rule, "Linear"));
    bool mixed = head != NULL && strcmp(format_of(head), format_of(rule)) != 0;

    if (head != NULL)
        json_object_set_new(groups, "group_1", group_json(head, "lm_head"));
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:n, s:n}", "quant_method", "compressed-tensors",
        "format", mixed ? "mixed-precision" : format_of(rule), "quantization_status", "compressed",
        "config_groups", groups, "ignore",
        head != NULL ? json_array() : json_pack("[s]", "lm_head"),
        "kv_cache_scheme", "global_compression_ratio");
}

static enum status write_json(const void *context, FILE *out)
{
    enum status s = json_write(context, out);

    return s == STATUS_OK ? s : log_fail(s, "config.json: cannot write it");
}

enum status quantize_config_write(const struct folder *f, const char *dir,
    const struct quant_rule *rule, const struct quant_rule *head, bool untie)
{
    char path[PATH_MAX];
    json_t *root = NULL, *config;
    enum status s = path_join(path, sizeof(path), dir, "config.json");

    if (s == STATUS_OK)
        s = json_read_file(path, CONFIG_BYTES_MAX, &root);
    if (s != STATUS_OK)
        return s;
    config = quantization_json(rule, head);
    if (config == NULL || json_object_set_new(root, "quantization_config", config) != 0 ||
        (untie && json_object_set_new(root, "tie_word_embeddings", json_false()) != 0))
        s = log_fail(STATUS_NOMEM, "config.json: no memory to extend it");
    else
        s = folder_file(f, "config.json", write_json, root);
    json_decref(root);
    return s;
}
