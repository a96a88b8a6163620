/* config.h - the shape of a model, as config.json gives it.
 *
 * Purpose:  reads both spellings of Qwen3's config.json (transformers 4 and 5), checks every
 *           value, and refuses by name what quern does not run, before any weight is touched.
 * Owns:     struct model_config is a plain value: copy it freely, nothing to free.
 * Blocking: config_read() reads one small file. Nothing else blocks.
 * Death:    no shared state. */
#ifndef QUERN_CHECKPOINT_CONFIG_H
#define QUERN_CHECKPOINT_CONFIG_H

#include <stdbool.h>

#include "quern/dtype.h"
#include "quern/program.h"
#include "quern/status.h"

enum { CONFIG_EOS_MAX = 16, CONFIG_HEAD_DIM_MAX = PROGRAM_MAX_HEAD_DIM };

enum architecture { ARCHITECTURE_QWEN3, ARCHITECTURE_QWEN3_MOE };

/* YaRN, with every default resolved. yarn false: the other fields are not used. */
struct rope_scaling {
    bool yarn;
    bool truncate;           /* low and high are whole numbers */
    int original_max;        /* positions the model was trained on */
    double factor;           /* how far they are stretched */
    double beta_fast, beta_slow;
    double attention_factor; /* cos and sin are both multiplied by it */
};

/* Mixture of Experts: experts is 0 in a dense model. */
struct moe_config {
    int experts, experts_per_token, intermediate, sparse_step;
    bool norm_topk_prob;
};

struct model_config {
    enum architecture architecture;
    int hidden, intermediate, layers;
    int heads, kv_heads, head_dim; /* heads % kv_heads == 0; head_dim is even */
    int labels;                    /* of a model for sequence classification, in place of a language
                                    * model's head; 0: it is none */
    int vocab, max_position;       /* with YaRN the stretched context, where that is longer */
    bool tied;           /* as config.json says; source_head() tells what the weights say */
    bool attention_bias; /* q, k, v and o have one */
    float rms_eps;
    double rope_theta;
    struct rope_scaling rope;
    enum dtype dtype; /* of the stored weights; BF16 where config.json does not say */
    int bos;          /* -1: none */
    int eos[CONFIG_EOS_MAX], n_eos; /* the first ones; all: generation_read() */
    struct moe_config moe;
};

/* Reads DIR/config.json. IO: it cannot be read. INVALID: it is no JSON, a field is missing, of
 * the wrong type or out of range, or asks for something that quern does not run; the message
 * names the field. *cfg is written only with OK. */
enum status config_read(const char *dir, struct model_config *cfg);

/* The same from a file of any name. */
enum status config_read_file(const char *path, struct model_config *cfg);

/* Refuses shapes that cannot be (heads not a multiple of kv_heads, odd head_dim) and the
 * architectures that quern does not run. `file` names the origin in messages. */
enum status config_check(const char *file, const struct model_config *cfg);

/* The rotation of lane pair i (i, i + head_dim / 2) at position p is p * inv_freq[i] radians;
 * inv_freq [head_dim / 2] float32, computed in float32 as Hugging Face does. cos and sin are
 * both multiplied by *attention_factor (1 without YaRN). */
void config_rope_inv_freq(const struct model_config *cfg, float *inv_freq,
                          float *attention_factor);

/* YaRN's ramp: lanes below *low keep their frequency, above *high it is divided by the factor. */
void config_yarn_range(const struct model_config *cfg, double *low, double *high);

#endif
