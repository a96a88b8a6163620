/* ref_quant.h - how quantised weights and activations are numbered and read.
 *
 * One place for three questions: where a code lies in packed memory, which
 * weight group an input belongs to, and which activation group. Packing, the
 * reference row, lookups and the executor all ask here.
 *
 * Private to kernels/cpu. Pure; nothing is owned. */
#ifndef QUERN_KERNELS_CPU_REF_QUANT_H
#define QUERN_KERNELS_CPU_REF_QUANT_H

#include "kernels/cpu/cpu.h"
#include "quern/dtype.h"

static inline bool is_quantised(enum weight_format format)
{
    return format >= WEIGHT_FP8;
}

/* Codes of one output that share 4 bytes of a packed panel. */
static inline uint32_t quant_pack_width(enum weight_format format)
{
    return format == WEIGHT_INT4 ? 8 : 4;
}

/* The 4 bytes in which the code of (panel, lane, col) lies. */
static inline size_t quant_word_at(enum weight_format format, uint32_t k, uint32_t panel,
    uint32_t lane, uint32_t col)
{
    size_t width = quant_pack_width(format), words = (k + width - 1) / width;

    return ((panel * words + col / width) * PANEL + lane) * 4;
}

/* What a code stands for, before zero and scale. */
static inline float quant_code_value(const uint8_t *w, enum weight_format format, uint32_t k,
    uint32_t panel, uint32_t lane, uint32_t col)
{
    const uint8_t *word = w + quant_word_at(format, k, panel, lane, col);

    if (format == WEIGHT_INT4)
        return (float)(word[col % 8 / 2] >> (col % 2 * 4) & 15);
    return format == WEIGHT_INT8 ? (float)(int8_t)word[col % 4] : e4m3_to_f32(word[col % 4]);
}

/* The weight group of input `col`; a group of 0 inputs is all of them. */
static inline uint32_t quant_group_of(const struct weight_quant *q, uint32_t col)
{
    if (q->group_of != NULL)
        return q->group_of[col];
    return q->group == 0 ? 0 : (q->first + col) / q->group;
}

/* The activation group of input `col` in the whole token, and the first of this rank's. */
static inline uint32_t quant_act_group_of(const struct weight_quant *q, uint32_t col)
{
    return q->act_group == 0 ? 0 : (q->act_first + col) / q->act_group;
}

static inline uint32_t quant_act_group_first(const struct weight_quant *q)
{
    return quant_act_group_of(q, 0);
}

/* How many activation groups this rank's k inputs touch. */
static inline uint32_t quant_act_groups(const struct weight_quant *q, uint32_t k)
{
    return k == 0 ? 0 : quant_act_group_of(q, k - 1) - quant_act_group_first(q) + 1;
}

/* The end of the activation group that input `col` is in, at most k. */
static inline uint32_t quant_act_group_end(const struct weight_quant *q, uint32_t k, uint32_t col)
{
    uint64_t end = ((uint64_t)quant_act_group_of(q, col) + 1) * q->act_group;

    return q->act_group == 0 || end - q->act_first > k ? k : (uint32_t)(end - q->act_first);
}

/* FP8 codes of whole tokens are of x * (1 / scale), as the field's kernels for them compute it;
 * all others of x / scale (FACTS 4a, 4b). */
static inline bool quant_by_inverse(const struct weight_quant *q)
{
    return q->activation == ACTIVATION_FP8 && q->act_group == 0 && q->activation_scale <= 0;
}

/* The scale of activations whose largest is amax, where it is not static. A NaN stays one. */
static inline float quant_act_scale(const struct weight_quant *q, float amax)
{
    float scale = amax / q->act_divisor;

    return scale < q->act_least ? q->act_least : scale;
}

/* cpu.h's lookup, of quantised weights. */
void quant_lookup(float *out, const struct weight *w, uint32_t row);

#endif
