/* config.c - config.json, field by field, then rules between fields.
 *
 * Whole-number fields are rows of one table; the rest has rules of its own and a function each.
 * Sources: FACTS 1 (spellings, defaults, precedence) and 1.4 (YaRN). Shapes have no defaults,
 * although Hugging Face's classes do: those are not the values of any released model. */
#include "checkpoint/config.h"

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/config_json.h"
#include "quern/log.h"

enum { CONFIG_FILE_MAX = 16 << 20, POSITIONS_MAX = 1 << 30 };

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
    { "max_position_embeddings", NULL, FIELD(max_position), 1, POSITIONS_MAX, false },
    { "bos_token_id", NULL, FIELD(bos), INT_MIN, INT_MAX, false },
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

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The class that wrote the file, or one of several: a language model's where there is one. Fully
 * sharded training puts something in front of its name. NULL: the file does not say. */
static const char *class_of(const json_t *root)
{
    const json_t *classes = json_object_get(root, "architectures"), *entry;
    size_t i;

    json_array_foreach(classes, i, entry) {
        const char *class = json_string_value(entry);

        if (class != NULL && (ends_with(class, "Qwen3ForCausalLM") ||
                              ends_with(class, "Qwen3MoeForCausalLM")))
            return class;
    }
    return json_string_value(json_array_get(classes, 0));
}

static bool scores(const char *class)
{
    return class != NULL && ends_with(class, "Qwen3ForSequenceClassification");
}

/* As many as Transformers' configuration says: its names of them, or 2. */
static enum status read_labels(const char *file, const json_t *root, struct model_config *cfg)
{
    const json_t *names = json_object_get(root, "id2label");

    if (!scores(class_of(root)))
        return STATUS_OK;
    cfg->labels = json_is_object(names) && json_object_size(names) > 0 ? (int)json_object_size(names)
                                                                       : 2;
    return json_field_int(file, root, "num_labels", 1, 1 << 16, &cfg->labels);
}

/* Of a model_type that quern runs. Transformers' AutoModelForCausalLM runs any class of it as a
 * language model; where the file says that it is another kind of model, that would be an answer to
 * another question. */
static enum status check_class(const char *file, const char *class)
{
    static const struct {
        const char *end, *what;
    } kinds[] = {
        { "ForTokenClassification", "a tagger" },
        { "ForQuestionAnswering", "a span finder" },
    };

    if (class == NULL || ends_with(class, "Qwen3ForCausalLM") ||
        ends_with(class, "Qwen3MoeForCausalLM") || strcmp(class, "Qwen3Model") == 0 ||
        scores(class))
        return STATUS_OK;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (ends_with(class, kinds[i].end))
            return log_fail(STATUS_INVALID, "%s: architecture %s is %s: quern runs language models "
                            "alone, Qwen3ForCausalLM", file, class, kinds[i].what);
    return log_fail(STATUS_INVALID, "%s: architecture %s is not one quern runs: where the weights "
                    "are those of a plain Qwen3ForCausalLM, write that in its place", file, class);
}

/* A file without model_type is known by its class. */
static const char *type_of_class(const char *class)
{
    if (class == NULL)
        return NULL;
    if (ends_with(class, "Qwen3ForCausalLM") || strcmp(class, "Qwen3Model") == 0 || scores(class))
        return "qwen3";
    return ends_with(class, "Qwen3MoeForCausalLM") ? "qwen3_moe" : NULL;
}

/* model_type decides. */
static enum status read_architecture(const char *file, const json_t *root,
                                     enum architecture *architecture)
{
    const char *class = class_of(root), *type = type_of_class(class);
    enum status s = json_field_string(file, root, "model_type", &type);

    if (s != STATUS_OK)
        return s;
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
        return log_fail(STATUS_INVALID, "%s: model_type %s is not one quern runs: it runs qwen3, "
                        "dense", file, type);
    return check_class(file, class);
}

/* Says what synth makes; weights on disk have their own types, which may be any of these. */
static enum status read_dtype(const char *file, const json_t *root, enum dtype *dtype)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } names[] = {
        { "bfloat16", DTYPE_BF16 }, { "float16", DTYPE_F16 }, { "half", DTYPE_F16 },
        { "float32", DTYPE_F32 },   { "float", DTYPE_F32 },   { "float64", DTYPE_F32 },
        { "double", DTYPE_F32 },
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
    if (strncmp(name, "float8_", 7) == 0) /* of quantised weights: the others are as by default */
        return STATUS_OK;
    return log_fail(STATUS_INVALID, "%s: %s %s is not supported: use bfloat16, float16 or "
                    "float32", file, key, name);
}

/* What was stretched may be used: cards tell to leave max_position_embeddings as it is. */
static void lengthen_context(struct model_config *cfg)
{
    double stretched = fmin(cfg->rope.factor * cfg->rope.original_max, POSITIONS_MAX);

    if (stretched > cfg->max_position)
        cfg->max_position = (int)stretched;
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
    s = json_field_int(file, rope, "original_max_position_embeddings", 1, POSITIONS_MAX,
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
    if (s == STATUS_OK)
        lengthen_context(cfg);
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
    if (type == NULL || strcmp(type, "default") == 0 ||
        (strcmp(type, "linear") == 0 && json_number_value(json_object_get(rope, "factor")) == 1.0))
        return STATUS_OK;
    if (strcmp(type, "yarn") != 0)
        return log_fail(STATUS_INVALID, "%s: rope type %s is not supported: use default or yarn",
                        file, type);
    return read_yarn(file, rope, cfg);
}

/* sliding_window and how many layers at the bottom do without it. */
struct sliding {
    bool on;
    int window, full_layers;
};

/* layer_types is null or names each layer's kind; *first: one that slides, -1 when none does. */
static enum status find_sliding_layer(const char *file, const json_t *root,
                                      const struct model_config *cfg, const struct sliding *sliding,
                                      int *first)
{
    const json_t *types = json_object_get(root, "layer_types"), *type;
    size_t i;

    *first = sliding->on && sliding->full_layers < cfg->layers ? sliding->full_layers : -1;
    if (!present(root, "layer_types"))
        return STATUS_OK;
    if (!json_is_array(types) || json_array_size(types) != (size_t)cfg->layers)
        return log_fail(STATUS_INVALID, "%s: layer_types must have num_hidden_layers %d entries",
                        file, cfg->layers);
    *first = -1;
    json_array_foreach(types, i, type) {
        const char *name = json_string_value(type);
        bool slides = name != NULL && strcmp(name, "sliding_attention") == 0;

        if (name == NULL || (!slides && strcmp(name, "full_attention") != 0))
            return log_fail(STATUS_INVALID, "%s: layer_types[%zu] is %s, only full_attention is "
                            "supported", file, i, name != NULL ? name : "not a string");
        if (slides && *first < 0)
            *first = (int)i;
    }
    return STATUS_OK;
}

/* As Transformers decides which layers slide. A window as wide as the context hides nothing. */
static enum status refuse_sliding_window(const char *file, const json_t *root,
                                         const struct model_config *cfg)
{
    struct sliding sliding = { .window = 4096, .full_layers = 28 };
    int first = -1;
    enum status s = json_field_bool(file, root, "use_sliding_window", &sliding.on);

    if (s == STATUS_OK && sliding.on)
        s = json_field_int(file, root, "sliding_window", 1, POSITIONS_MAX, &sliding.window);
    if (s == STATUS_OK && sliding.on)
        s = json_field_int(file, root, "max_window_layers", 0, INT_MAX, &sliding.full_layers);
    if (json_is_null(json_object_get(root, "sliding_window")))
        sliding.on = false;
    if (s == STATUS_OK)
        s = find_sliding_layer(file, root, cfg, &sliding, &first);
    if (s != STATUS_OK || first < 0 || (sliding.on && sliding.window >= cfg->max_position))
        return s;
    if (!sliding.on)
        return log_fail(STATUS_INVALID, "%s: layer_types[%d] is sliding_attention, but "
                        "use_sliding_window is false or sliding_window null", file, first);
    return log_fail(STATUS_INVALID, "%s: layer %d slides (use_sliding_window, sliding_window %d): "
                    "sliding attention is not supported, no released Qwen3 has it", file, first,
                    sliding.window);
}

static enum status refuse_unsupported(const char *file, const json_t *root)
{
    const char *act = "silu";
    double rotary = 1.0;
    enum status s = json_field_string(file, root, "hidden_act", &act);

    if (s == STATUS_OK)
        s = json_field_real(file, root, "partial_rotary_factor", 0.0, 1.0, &rotary);
    if (s != STATUS_OK)
        return s;
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0) /* two names of one function */
        return log_fail(STATUS_INVALID, "%s: hidden_act %s is not supported: Qwen3 has silu",
                        file, act);
    if (rotary < 1.0)
        return log_fail(STATUS_INVALID, "%s: partial_rotary_factor %g is not supported: Qwen3 "
                        "rotates whole heads", file, rotary);
    return STATUS_OK;
}

/* The first of what may be a longer list: generation_read() has all of it. */
static enum status read_eos(const char *file, const json_t *root, struct model_config *cfg)
{
    int *ids = NULL, n = 0;
    enum status s = json_field_ids(file, root, "eos_token_id", &ids, &n);

    cfg->n_eos = n < CONFIG_EOS_MAX ? n : CONFIG_EOS_MAX;
    for (int i = 0; i < cfg->n_eos; i++)
        cfg->eos[i] = ids[i];
    free(ids);
    return s;
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
        s = read_eos(file, root, cfg);
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
    if (s == STATUS_OK)
        s = read_labels(file, root, cfg);
    if (s == STATUS_OK)
        s = refuse_sliding_window(file, root, cfg);
    if (s != STATUS_OK)
        return s;
    if (cfg->bos < 0)
        cfg->bos = -1;
    if (cfg->tied && class_of(root) != NULL && strcmp(class_of(root), "Qwen3Model") == 0)
        log_warn("%s: architecture Qwen3Model has no output head: its embedding serves as one, as "
                 "in Transformers", file);
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
