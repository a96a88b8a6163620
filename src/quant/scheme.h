/* scheme.h - a scheme being put together: rules, and who they are for.
 *
 * scheme.c owns it and answers for a module; the files scheme_*.c read one
 * family of configurations each. `file` is how messages name the object they
 * read: "config.json: quantization_config". */
#ifndef QUERN_QUANT_SCHEME_H
#define QUERN_QUANT_SCHEME_H

#include <jansson.h>

#include "quant/pattern.h"
#include "quant/stored.h"

struct quant_scheme;

/* int8 activations: 127, as vLLM and SGLang divide, not compressed-tensors' 127.5: then no value
 * is clipped, and these checkpoints are served so. Their least scale: an amax of 1e-10. */
#define ACT_INT8_DIVISOR 127.0f
#define ACT_INT8_LEAST (1e-10f / 127.0f)
#define ACT_FP8_DIVISOR 448.0f
#define ACT_FP8_GROUP_LEAST (1e-10f / 448.0f)
#define ACT_FP8_TOKEN_LEAST (1.0f / (448.0f * 512.0f))

/* The activations of a kind, scaled at run time per token (group 0) or per group of inputs. */
struct quant_activation act_dynamic(enum activation kind, uint32_t group);
/* One scale for the layer, from the checkpoint. */
struct quant_activation act_fixed(enum activation kind);

/* Keeps a copy of the rule, with plain activations where that was asked for; NULL (logged) when
 * there is no memory. */
const struct quant_rule *scheme_rule(struct quant_scheme *s, const struct quant_rule *rule);

/* Modules that the text names get `rule`; NULL: they are plain. A name wins over expressions, and
 * these over classes. Among PATTERN_NAMEs of one sort that is the least text and the last of equal
 * ones, as compressed-tensors has it; else the first. What scheme_ignore() names is plain before
 * all. */
enum status scheme_target(struct quant_scheme *s, const char *file, const char *text,
    enum pattern_kind kind, const struct quant_rule *rule);
enum status scheme_ignore(struct quant_scheme *s, const char *file, const char *text,
    enum pattern_kind kind);
/* An array of texts under `key`, or null. */
enum status scheme_ignore_list(struct quant_scheme *s, const char *file, const json_t *config,
    const char *key, enum pattern_kind kind);

/* Each reads its family's configuration into the scheme; INVALID (logged). */
enum status scheme_read_compressed(struct quant_scheme *s, const char *file, const json_t *config);
enum status scheme_read_fp8(struct quant_scheme *s, const char *file, const json_t *config);
enum status scheme_read_awq(struct quant_scheme *s, const char *file, const json_t *config);
enum status scheme_read_gptq(struct quant_scheme *s, const char *file, const json_t *config);
enum status scheme_read_autoround(struct quant_scheme *s, const char *file, const json_t *config);
enum status scheme_read_w8a8_int8(struct quant_scheme *s, const char *file, const json_t *config);
enum status scheme_read_w8a8_fp8(struct quant_scheme *s, const char *file, const json_t *config);
enum status scheme_read_blockwise_int8(struct quant_scheme *s, const char *file,
    const json_t *config);

/* The rule of `o`, which has a method. INVALID (logged): no such, or not with such activations. */
enum status scheme_runtime_rule(const struct quant_options *o, struct quant_rule *rule);

#endif
