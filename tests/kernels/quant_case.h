/* quant_case.h - a random quantised product: codes as a checkpoint would have them, the packed
 * matrix, and the same written out in numbers.
 *
 * Packing is done here from what cpu.h says, not with the backend's. */
#ifndef QUERN_TESTS_KERNELS_QUANT_CASE_H
#define QUERN_TESTS_KERNELS_QUANT_CASE_H

#include "tests/kernels/support.h"

/* How scales lie: groups of `group` inputs, the first of which begins `first` inputs before this
 * matrix; or a random group for each input. */
struct scale_layout {
    uint32_t group, first;
    bool scattered, zeros;
};

struct activation_rule {
    enum activation kind;
    uint32_t group, first; /* as scale_layout's */
    float fixed;           /* > 0: static scale */
};

struct quant_case {
    struct weight weight;
    uint8_t *codes; /* [n, k] one a byte: int8, e4m3, 0..15 */
    float *values;  /* [n, k] what they stand for, in float32 */
    float *x;       /* [m, k] */
    uint8_t *x_codes; /* [m, ld] */
    float *x_scales;  /* [m, groups] */
    float *y;         /* [m, ldy] */
    float *bias;
    struct linear_args args;
};

SUPPORT float code_value(enum weight_format format, uint8_t code)
{
    return format == WEIGHT_INT4 ? (float)code
         : format == WEIGHT_INT8 ? (float)(int8_t)code : e4m3_to_f32(code);
}

SUPPORT uint8_t random_code(enum weight_format format, uint64_t *seed)
{
    uint8_t code = (uint8_t)random_bits(seed);

    if (format == WEIGHT_INT4)
        return code & 15;
    return format == WEIGHT_FP8 && (code & 0x7f) == 0x7f ? 0 : code;
}

SUPPORT size_t quant_bytes(enum weight_format format, uint32_t n, uint32_t k)
{
    return format == WEIGHT_INT4 ? (size_t)(n + 15) / 16 * ((k + 7) / 8) * 64
                                 : (size_t)(n + 15) / 16 * ((k + 3) / 4) * 64;
}

SUPPORT void quant_pack(uint8_t *packed, enum weight_format format, const uint8_t *codes,
    uint32_t n, uint32_t k)
{
    memset(packed, 0, quant_bytes(format, n, k));
    for (size_t row = 0; row < n; row++)
        for (size_t col = 0; col < k; col++) {
            uint8_t code = codes[row * k + col];

            if (format == WEIGHT_INT4)
                packed[(row / 16 * ((k + 7) / 8) + col / 8) * 64 + row % 16 * 4 + col % 8 / 2] |=
                    (uint8_t)(col % 2 ? code << 4 : code);
            else
                packed[(row / 16 * ((k + 3) / 4) + col / 4) * 64 + row % 16 * 4 + col % 4] = code;
        }
}

SUPPORT uint32_t case_group(const struct weight_quant *q, uint32_t col)
{
    return q->group_of != NULL ? q->group_of[col] : (col + q->first) / q->group;
}

SUPPORT void case_weight(struct quant_case *c, enum weight_format format, uint32_t n, uint32_t k,
    const struct scale_layout *s, uint64_t *seed)
{
    struct weight_quant q = {.group = s->group, .first = s->first,
        .groups = (s->first + k - 1) / s->group + 1};

    q.scale = take_exact((size_t)q.groups * n * sizeof(*q.scale));
    q.zero = s->zeros ? take_exact((size_t)q.groups * n * sizeof(*q.zero)) : NULL;
    q.group_of = s->scattered ? take_exact(k * sizeof(*q.group_of)) : NULL;
    for (size_t i = 0; i < (size_t)q.groups * n; i++) {
        q.scale[i] = (0.2f + fabsf(random_float(seed))) * 0.01f;
        if (s->zeros)
            q.zero[i] = format == WEIGHT_INT4 ? (int16_t)random_between(seed, 0, 15)
                                              : (int16_t)((int)random_between(seed, 0, 255) - 128);
    }
    for (uint32_t col = 0; s->scattered && col < k; col++)
        q.group_of[col] = random_between(seed, 0, q.groups - 1);
    c->codes = take_exact((size_t)n * k);
    c->values = take_exact((size_t)n * k * sizeof(*c->values));
    for (size_t i = 0; i < (size_t)n * k; i++) {
        size_t at = (size_t)case_group(&q, (uint32_t)(i % k)) * n + i / k;
        int zero = q.zero != NULL ? q.zero[at] : format == WEIGHT_INT4 ? 8 : 0;

        c->codes[i] = random_code(format, seed);
        c->values[i] = (code_value(format, c->codes[i]) - (float)zero) * q.scale[at];
    }
    c->weight = (struct weight){.n = n, .k = k, .format = format, .quant = q,
        .data = take_exact(quant_bytes(format, n, k))};
    quant_pack(c->weight.data, format, c->codes, n, k);
}

/* Random activation codes and scales, as exact as any. */
SUPPORT void case_codes(struct quant_case *c, const struct activation_rule *rule, uint64_t *seed)
{
    struct weight_quant *q = &c->weight.quant;
    uint32_t m = c->args.m, k = c->weight.k;
    size_t ld = (k + 7) / 8 * 8, groups;

    q->activation = rule->kind;
    q->act_group = rule->group;
    q->act_first = rule->first;
    q->activation_scale = rule->fixed;
    groups = rule->group == 0 ? 1
        : (rule->first + k - 1) / rule->group - rule->first / rule->group + 1;
    c->x_codes = take_exact(m * ld);
    c->x_scales = random_floats(m * groups, seed);
    memset(c->x_codes, 0, m * ld);
    for (size_t i = 0; i < (size_t)m * k; i++)
        c->x_codes[i / k * ld + i % k] =
            random_code(rule->kind == ACTIVATION_INT8 ? WEIGHT_INT8 : WEIGHT_FP8, seed);
    c->args.x = c->x_codes;
    c->args.ldx = ld;
    c->args.x_scales = c->x_scales;
    c->args.ld_scales = groups;
}

SUPPORT struct quant_case *case_make(enum weight_format format, uint32_t m, uint32_t n, uint32_t k,
    const struct scale_layout *s, const struct activation_rule *rule, bool bias, uint64_t *seed)
{
    struct quant_case *c = take_exact(sizeof(*c));
    size_t ldy = n + random_between(seed, 0, 3);

    *c = (struct quant_case){.x = random_floats((size_t)m * k, seed),
        .y = take_exact(m * ldy * sizeof(float)), .bias = random_floats(n, seed)};
    case_weight(c, format, n, k, s, seed);
    for (size_t i = 0; i < m * ldy; i++)
        c->y[i] = MARK;
    c->args = (struct linear_args){.y = c->y, .ldy = ldy, .x = c->x, .ldx = k, .m = m, .n = n,
        .k = k, .w = c->weight.data, .bias = bias ? c->bias : NULL, .quant = &c->weight.quant};
    if (rule->kind != ACTIVATION_PLAIN)
        case_codes(c, rule, seed);
    return c;
}

/* Columns [from, to) of c, as the rank that has them would: groups begin before its first. */
SUPPORT struct quant_case *case_cut(const struct quant_case *c, uint32_t from, uint32_t to)
{
    struct quant_case *part = take_exact(sizeof(*part));
    const struct weight_quant *q = &c->weight.quant;
    uint32_t n = c->weight.n, k = to - from, m = c->args.m;
    uint32_t group = (q->first + from) / q->group, last = (q->first + to - 1) / q->group;
    size_t groups = last - group + 1, ld = (k + 7) / 8 * 8;

    *part = (struct quant_case){.weight = c->weight, .args = c->args};
    part->weight.k = k;
    part->weight.quant.groups = (uint32_t)groups;
    part->weight.quant.first = (q->first + from) % q->group;
    part->weight.quant.scale = take_exact(groups * n * sizeof(float));
    memcpy(part->weight.quant.scale, q->scale + (size_t)group * n, groups * n * sizeof(float));
    part->weight.quant.act_first = q->act_first + from;
    part->weight.data = take_exact(quant_bytes(c->weight.format, n, k));
    part->codes = take_exact((size_t)n * k);
    for (uint32_t row = 0; row < n; row++)
        memcpy(part->codes + (size_t)row * k, c->codes + (size_t)row * c->weight.k + from, k);
    quant_pack(part->weight.data, c->weight.format, part->codes, n, k);
    part->x_codes = take_exact(m * ld);
    for (uint32_t row = 0; row < m && c->x_codes != NULL; row++)
        memcpy(part->x_codes + row * ld, c->x_codes + row * c->args.ldx + from, k);
    part->y = take_exact(m * n * sizeof(float));
    part->args.y = part->y;
    part->args.ldy = n;
    part->args.k = k;
    part->args.w = part->weight.data;
    part->args.quant = &part->weight.quant;
    part->args.x = part->x_codes;
    part->args.ldx = ld;
    if (q->act_group > 0)
        part->args.x_scales += (q->act_first + from) / q->act_group - q->act_first / q->act_group;
    return part;
}

SUPPORT void case_free(struct quant_case *c)
{
    free(c->weight.data);
    free(c->weight.quant.scale);
    free(c->weight.quant.zero);
    free(c->weight.quant.group_of);
    free(c->codes);
    free(c->values);
    free(c->x);
    free(c->x_codes);
    free(c->x_scales);
    free(c->y);
    free(c->bias);
    free(c);
}

#endif
