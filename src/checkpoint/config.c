/* config.c - config.json, field by field, then rules between fields.
 *
 * Whole-number fields are rows of one table; the rest has rules of its own and a function each.
 * Sources: FACTS 1 (spellings, defaults, precedence) and 1.4 (YaRN). Shapes have no defaults,
 * although Hugging Face's classes do: those are not the values of any released model. */
#include "checkpoint/config.h"

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "checkpoint/config_json.h"
#include "quern/log.h"

enum { CONFIG_FILE_MAX = 16 << 20 };

#define FIELD(member) offsetof(struct model_config, member)

struct int_field {
    const char *key, *other; /* two spellings; other may be NULL */
    size_t offset;
    int low, high;
    bool required;
};

static const struct int_field int_fields[] = {
    { "hidden_size", NULL, FIELD(hidden), 1, 1 << 20, true },
    { "intermediate_size", NULL, FIELD(intermediate), 1, 1 << 22, true },
    { "num_hidden_layers", NULL, FIELD(layers), 1, 4096, true },
    { "num_attention_heads", NULL, FIELD(heads), 1, 4096, true },
    { "num_key_value_heads", NULL, FIELD(kv_heads), 1, 4096, false },
    { "head_dim", NULL, FIELD(head_dim), 2, CONFIG_HEAD_DIM_MAX, false },
    { "vocab_size", NULL, FIELD(vocab), 1, 1 << 24, true },
    { "max_position_embeddings", NULL, FIELD(max_position), 1, 1 << 30, false },
    { "bos_token_id", NULL, FIELD(bos), 0, INT_MAX, false },
    { "num_experts", "num_local_experts", FIELD(moe.experts), 0, 1 << 16, false },
    { "num_experts_per_tok", NULL, FIELD(moe.experts_per_token), 1, 1 << 16, false },
    { "moe_intermediate_size", NULL, FIELD(moe.intermediate), 1, 1 << 22, false },
    { "decoder_sparse_step", NULL, FIELD(moe.sparse_step), 1, 4096, false },
};

static bool present(const json_t *object, const char *key)
{
    const json_t *value = key != NULL ? json_object_get(object, key) : NULL;

    return value != NULL && !json_is_null(value);
}

static enum status read_int_fields(const char *file, const json_t *root, struct model_config *cfg)
{
    for (size_t i = 0; i < sizeof(int_fields) / sizeof(int_fields[0]); i++) {
        const struct int_field *f = &int_fields[i];
        const char *key = present(root, f->key) || !present(root, f->other) ? f->key : f->other;
        int *out = (int *)((char *)cfg + f->offset);
        enum status s;

        if (f->required && !present(root, key))
            return log_fail(STATUS_INVALID, "%s: %s is missing", file, key);
        s = json_field_int(file, root, key, f->low, f->high, out);
        if (s != STATUS_OK)
            return s;
    }
    return STATUS_OK;
}

/* model_type decides; a file without one is known by its first architecture. */
static enum status read_architecture(const char *file, const json_t *root,
                                     enum architecture *architecture)
{
    const char *type = NULL, *class = NULL;
    enum status s = json_field_string(file, root, "model_type", &type);

    if (s != STATUS_OK)
        return s;
    class = json_string_value(json_array_get(json_object_get(root, "architectures"), 0));
    if (type == NULL && class != NULL && strcmp(class, "Qwen3ForCausalLM") == 0)
        type = "qwen3";
    if (type == NULL && class != NULL && strcmp(class, "Qwen3MoeForCausalLM") == 0)
        type = "qwen3_moe";
    if (type == NULL && class != NULL)
        return log_fail(STATUS_INVALID, "%s: architecture %s is not one quern runs: it runs "
                        "Qwen3ForCausalLM", file, class);
    if (type == NULL)
        return log_fail(STATUS_INVALID, "%s: model_type is missing: is this a model's "
                        "config.json?", file);
    if (strcmp(type, "qwen3") == 0)
        *architecture = ARCHITECTURE_QWEN3;
    else if (strcmp(type, "qwen3_moe") == 0)
        *architecture = ARCHITECTURE_QWEN3_MOE;
    else
        return log_fail(STATUS_INVALID, "%s: model_type %s is not one quern runs: it runs qwen3",
                        file, type);
    return STATUS_OK;
}

static enum status read_dtype(const char *file, const json_t *root, enum dtype *dtype)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } names[] = {
        { "bfloat16", DTYPE_BF16 },
        { "float16", DTYPE_F16 },
        { "float32", DTYPE_F32 },
    };
    const char *key = present(root, "dtype") ? "dtype" : "torch_dtype", *name = NULL;
    enum status s = json_field_string(file, root, key, &name);

    if (s != STATUS_OK || name == NULL || strcmp(name, "auto") == 0)
        return s;
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(name, names[i].name) == 0) {
            *dtype = names[i].dtype;
            return STATUS_OK;
        }
    return log_fail(STATUS_INVALID, "%s: %s %s is not supported: use bfloat16, float16 or "
                    "float32", file, key, name);
}

static double yarn_scale(double factor, double mscale)
{
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static enum status read_attention_factor(const char *file, const json_t *rope,
                                         struct rope_scaling *r)
{
    double given = 0.0, mscale = 0.0, all_dim = 0.0;
    enum status s = json_field_real(file, rope, "attention_factor", 1e-6, 1e6, &given);

    if (s == STATUS_OK)
        s = json_field_real(file, rope, "mscale", 0.0, 1e6, &mscale);
    if (s == STATUS_OK)
        s = json_field_real(file, rope, "mscale_all_dim", 0.0, 1e6, &all_dim);
    if (s != STATUS_OK)
        return s;
    if (given != 0.0)
        r->attention_factor = given;
    else if (mscale != 0.0 && all_dim != 0.0)
        r->attention_factor = yarn_scale(r->factor, mscale) / yarn_scale(r->factor, all_dim);
    else
        r->attention_factor = yarn_scale(r->factor, 1.0);
    return STATUS_OK;
}

static enum status read_yarn(const char *file, const json_t *rope, struct model_config *cfg)
{
    struct rope_scaling *r = &cfg->rope;
    enum status s;

    r->yarn = true;
    r->truncate = true;
    r->original_max = cfg->max_position;
    s = json_field_int(file, rope, "original_max_position_embeddings", 1, 1 << 30,
                       &r->original_max);
    r->factor = (double)cfg->max_position / r->original_max;
    if (s == STATUS_OK)
        s = json_field_real(file, rope, "factor", 1e-3, 1e6, &r->factor);
    if (s == STATUS_OK)
        s = json_field_real(file, rope, "beta_fast", 0.0, 1e6, &r->beta_fast);
    if (s == STATUS_OK)
        s = json_field_real(file, rope, "beta_slow", 0.0, 1e6, &r->beta_slow);
    if (s == STATUS_OK)
        s = json_field_bool(file, rope, "truncate", &r->truncate);
    if (r->beta_fast == 0.0)
        r->beta_fast = 32.0;
    if (r->beta_slow == 0.0)
        r->beta_slow = 1.0;
    if (s == STATUS_OK && !(cfg->rope_theta > 1.0))
        s = log_fail(STATUS_INVALID, "%s: rope_theta is %g, yarn needs more than 1", file,
                     cfg->rope_theta);
    return s == STATUS_OK ? read_attention_factor(file, rope, r) : s;
}

/* A non-null rope_scaling replaces rope_parameters; either one's rope_theta beats the top's. */
static enum status read_rope(const char *file, const json_t *root, struct model_config *cfg)
{
    const char *key = present(root, "rope_scaling") ? "rope_scaling" : "rope_parameters";
    const json_t *rope = json_object_get(root, key);
    const char *type = NULL;
    enum status s = json_field_real(file, root, "rope_theta", 1e-3, 1e15, &cfg->rope_theta);

    if (s != STATUS_OK || !present(root, key))
        return s;
    if (!json_is_object(rope))
        return log_fail(STATUS_INVALID, "%s: %s must be an object or null", file, key);
    s = json_field_real(file, rope, "rope_theta", 1e-3, 1e15, &cfg->rope_theta);
    if (s == STATUS_OK)
        s = json_field_string(file, rope, present(rope, "rope_type") ? "rope_type" : "type",
                              &type);
    if (s != STATUS_OK)
        return s;
    if (json_is_object(json_object_get(rope, "full_attention")))
        return log_fail(STATUS_INVALID, "%s: %s per kind of layer is not supported: Qwen3 has one",
                        file, key);
    if (type == NULL || strcmp(type, "default") == 0)
        return STATUS_OK;
    if (strcmp(type, "yarn") != 0)
        return log_fail(STATUS_INVALID, "%s: rope type %s is not supported: use default or yarn",
                        file, type);
    return read_yarn(file, rope, cfg);
}

static enum status refuse_sliding_window(const char *file, const json_t *root)
{
    const json_t *types = json_object_get(root, "layer_types"), *type;
    bool sliding = false;
    size_t i;
    enum status s = json_field_bool(file, root, "use_sliding_window", &sliding);

    if (s != STATUS_OK)
        return s;
    if (sliding)
        return log_fail(STATUS_INVALID, "%s: use_sliding_window is not supported: no released "
                        "Qwen3 uses it", file);
    json_array_foreach(types, i, type) {
        const char *name = json_string_value(type);

        if (name == NULL || strcmp(name, "full_attention") != 0)
            return log_fail(STATUS_INVALID, "%s: layer_types[%zu] is %s, only full_attention is "
                            "supported", file, i, name != NULL ? name : "not a string");
    }
    return STATUS_OK;
}

static enum status refuse_unsupported(const char *file, const json_t *root)
{
    const char *act = "silu";
    double rotary = 1.0;
    enum status s = refuse_sliding_window(file, root);

    if (s == STATUS_OK)
        s = json_field_string(file, root, "hidden_act", &act);
    if (s == STATUS_OK)
        s = json_field_real(file, root, "partial_rotary_factor", 0.0, 1.0, &rotary);
    if (s != STATUS_OK)
        return s;
    if (strcmp(act, "silu") != 0)
        return log_fail(STATUS_INVALID, "%s: hidden_act %s is not supported: Qwen3 has silu",
                        file, act);
    if (rotary < 1.0)
        return log_fail(STATUS_INVALID, "%s: partial_rotary_factor %g is not supported: Qwen3 "
                        "rotates whole heads", file, rotary);
    return STATUS_OK;
}

static enum status read_other_fields(const char *file, const json_t *root,
                                     struct model_config *cfg)
{
    double eps = 1e-6;
    enum status s = json_field_real(file, root, "rms_norm_eps", 0.0, 1.0, &eps);

    cfg->rms_eps = (float)eps;
    if (s == STATUS_OK)
        s = json_field_bool(file, root, "tie_word_embeddings", &cfg->tied);
    if (s == STATUS_OK)
        s = json_field_bool(file, root, "attention_bias", &cfg->attention_bias);
    if (s == STATUS_OK)
        s = json_field_bool(file, root, "norm_topk_prob", &cfg->moe.norm_topk_prob);
    if (s == STATUS_OK)
        s = json_field_ids(file, root, "eos_token_id", cfg->eos, CONFIG_EOS_MAX, &cfg->n_eos);
    if (s == STATUS_OK)
        s = read_dtype(file, root, &cfg->dtype);
    return s == STATUS_OK ? read_rope(file, root, cfg) : s;
}

enum status config_check(const char *file, const struct model_config *cfg)
{
    if (cfg->architecture == ARCHITECTURE_QWEN3_MOE)
        return log_fail(STATUS_INVALID, "%s: model_type qwen3_moe: Mixture of Experts is not "
                        "supported by this version", file);
    if (cfg->heads % cfg->kv_heads != 0)
        return log_fail(STATUS_INVALID, "%s: num_attention_heads %d is not a multiple of "
                        "num_key_value_heads %d", file, cfg->heads, cfg->kv_heads);
    if (cfg->head_dim % 2 != 0)
        return log_fail(STATUS_INVALID, "%s: head_dim %d is odd: rope needs pairs", file,
                        cfg->head_dim);
    return STATUS_OK;
}

static enum status parse(const char *file, const json_t *root, struct model_config *cfg)
{
    enum status s = read_architecture(file, root, &cfg->architecture);

    if (s == STATUS_OK)
        s = refuse_unsupported(file, root);
    if (s == STATUS_OK)
        s = read_int_fields(file, root, cfg);
    if (s == STATUS_OK)
        s = read_other_fields(file, root, cfg);
    if (s != STATUS_OK)
        return s;
    if (cfg->kv_heads == 0)
        cfg->kv_heads = cfg->heads;
    if (cfg->head_dim == 0)
        cfg->head_dim = cfg->architecture == ARCHITECTURE_QWEN3 ? 128 : cfg->hidden / cfg->heads;
    return config_check(file, cfg);
}

enum status config_read_file(const char *path, struct model_config *cfg)
{
    struct model_config read = {
        .max_position = 32768,
        .rope_theta = 10000.0,
        .dtype = DTYPE_BF16,
        .bos = -1,
        .rope.attention_factor = 1.0,
        .moe.sparse_step = 1,
    };
    json_t *root;
    enum status s = json_read_file(path, CONFIG_FILE_MAX, &root);

    if (s != STATUS_OK)
        return s;
    s = parse(path_base(path), root, &read);
    json_decref(root);
    if (s == STATUS_OK)
        *cfg = read;
    return s;
}

enum status config_read(const char *dir, struct model_config *cfg)
{
    char path[PATH_MAX];
    enum status s = path_join(path, sizeof(path), dir, "config.json");

    return s == STATUS_OK ? config_read_file(path, cfg) : s;
}
