/* cpu.h - the CPU's kernel table: pointers and shapes, no processes, no models.
 *
 * Every function is pure (no allocation, no state) and works on a range of its
 * items, so that a pool's threads share the work without talking. The scalar
 * reference fills every entry; AVX2, AVX-512 and AVX-512 BF16 overwrite what
 * they do faster (features.c). QUERN_CPU_ISA forces a level.
 *
 * Order of sums (DESIGN, decision 3): never a function of the batch or of the
 * range. Per output element, a product runs over k ascending in chunks of
 * LINEAR_CHUNK: one running sum per chunk, chunk sums added ascending. Within
 * a row of the table the same element has the same bits whatever m, whichever
 * thread. Different ISA rows may differ in the last bits (<= 1e-5 relative).
 * Attention cuts at absolute positions, multiples of ATTENTION_SPLIT.
 *
 * Packed weights: panels of 16 outputs.
 *   WEIGHT_F32:  [ceil(n/16)][k][16] f32
 *   WEIGHT_BF16: [ceil(n/16)][ceil(k/2)][16][2] bf16 (pairs along k)
 *   WEIGHT_FP8, WEIGHT_INT8: [ceil(n/16)][ceil(k/4)][16][4] bytes
 *   WEIGHT_INT4: [ceil(n/16)][ceil(k/8)][16][4] bytes, each two codes, the low nibble the even k
 * rows past n and columns past k are zero bits.
 *
 * Quantised weights (program.h: struct weight_quant), by what activations are:
 *   ACTIVATION_PLAIN: x is float32 (rounded to bf16 where --compute says so); a weight is
 *     (code - zero) * scale in f32, and then the sums are those of a WEIGHT_F32 row.
 *   ACTIVATION_INT8, ACTIVATION_FP8: x is codes, with one scale a token and activation group. A
 *     block is the longest run of k inside one weight group and one activation group. Its sum of
 *     x code * (weight code - zero) is exact where both are integers; otherwise it is f32: one
 *     running sum between two multiples of LINEAR_CHUNK, those added ascending. Block sums,
 *     rounded to f32, times (x scale * weight scale), are added ascending. */
#ifndef QUERN_KERNELS_CPU_H
#define QUERN_KERNELS_CPU_H

#include "quern/program.h"

enum { PANEL = 16, LINEAR_CHUNK = 512, ATTENTION_SPLIT = 256 };

enum cpu_isa { ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_AVX512BF16, ISA_LEVELS };

struct linear_args {
    float *y;          /* [m, ldy] f32; columns [16 * panel0, min(n, 16 * panel1)) are written */
    size_t ldy;
    const void *x;     /* [m, ldx] in the row's x type; columns k .. round_up(k, 2) are zero */
    size_t ldx;        /* in elements */
    uint32_t m, n, k;
    const void *w;     /* packed */
    const float *bias; /* [n] or NULL; added to the finished sum */

    /* Quantised weights; otherwise NULL. Unless their activation is PLAIN, x is codes of one byte
     * (int8 or e4m3; columns k .. round_up(k, 8) are zero), and x_scales [m, ld_scales] has a
     * column for each activation group that the k inputs touch (quant_act_groups()). */
    const struct weight_quant *quant;
    const float *x_scales;
    size_t ld_scales;
};

struct linear_kernel {
    const char *name; /* "avx2.bf16" */
    enum dtype x;     /* DTYPE_F32 or DTYPE_BF16: what apply() reads, if not codes */
    void (*apply)(const struct linear_args *a, uint32_t panel0, uint32_t panel1);
};

/* The KV cache of one layer, in blocks as program.h says; k and v: those of block 0. */
struct kv_view {
    void *k, *v;
    enum dtype dtype;
    uint32_t kv_heads, block_size, head_dim;
    size_t head_bytes, block_bytes; /* from one head of k or v to the next, from block to block */
};

struct attention_args {
    float *out;                 /* [tokens, ld_out]: heads * head_dim */
    size_t ld_out;
    const float *q;             /* [tokens, ld_q]: heads * head_dim first */
    size_t ld_q;
    struct kv_view kv;
    const uint16_t *q_to_kv;    /* [heads]; heads of one KV head are neighbours */
    uint32_t heads;
    float scale;                /* head_dim^-0.5 */
    const uint32_t *const *blocks; /* [tokens]: the block table of each token's slot */
    const uint32_t *position;   /* [tokens]: attends to 0 .. position, itself included */
    uint32_t tokens;
};

struct rope_args {
    float *qkv;                 /* [tokens, ld]: heads, kv_heads (k), kv_heads (v), head_dim each */
    size_t ld;
    const float *q_norm, *k_norm; /* [head_dim] */
    float eps;
    const float *cos, *sin;     /* [tokens, head_dim / 2], scaled */
    struct kv_view kv;
    uint32_t heads;
    const uint32_t *const *blocks;
    const uint32_t *position;
};

struct cpu_kernels {
    enum cpu_isa isa;
    const char *name; /* "avx2" */

    /* [weight format][compute] */
    struct linear_kernel linear[WEIGHT_FORMATS][2];

    /* Items: tokens * kv_heads; item = token * kv_heads + kv head. */
    void (*attention)(const struct attention_args *a, uint32_t item0, uint32_t item1);

    /* Rows [row0, row1). x += y first unless y is NULL; out = x * rsqrt(mean(x^2) + eps) * w. */
    void (*add_norm)(float *out, float *x, const float *y, const float *w, float eps,
        uint32_t cols, uint32_t row0, uint32_t row1);

    /* Tokens [row0, row1): head norms and rotation in place, k and v stored to the cache. */
    void (*qk_rope)(const struct rope_args *a, uint32_t row0, uint32_t row1);

    /* out [rows, cols] = silu(x[:, :cols]) * x[:, cols:2*cols]; x has stride 2 * cols. */
    void (*silu_mul)(float *out, const float *x, uint32_t cols, uint32_t row0, uint32_t row1);

    /* dst[i] = +0.0 + src[0][i] + src[1][i] + ...; dst may be one of the sources. */
    void (*sum_ranks)(float *dst, const float *const *src, int ranks, size_t n);

    /* A linear layer's input: to bf16, or to f32 values that bf16 can hold (in place allowed). */
    void (*round_bf16)(uint16_t *dst, const float *src, size_t n);
    void (*round_bf16_f32)(float *dst, const float *src, size_t n);

    /* The largest |x| of n, 0 when n is 0; a NaN among them is the answer. */
    float (*amax)(const float *x, size_t n);

    /* ACTIVATION_INT8: the nearest whole number to x / scale (ties to even), within -128 and 127.
     * ACTIVATION_FP8: the nearest e4m3 to x / scale, or to x * (1 / scale) when `inverse`; past
     * 448 it is 448. With a NaN for a scale the codes are of no use, nor is the product. */
    void (*quantize)(uint8_t *codes, const float *x, size_t n, float scale, enum activation to,
        bool inverse);

    /* Row `row` of a packed matrix w [n, k], of any format -> out [k] f32. */
    void (*lookup)(float *out, const struct weight *w, uint32_t row);

    /* The largest of x [n], lowest index among equals. */
    uint32_t (*argmax)(const float *x, uint32_t n);
};

/* The table for `isa` (NULL: $QUERN_CPU_ISA, else the best of this machine). A level that
 * this CPU or this build does not have is INVALID, naming those it has. */
enum status cpu_kernels_select(const char *isa, struct cpu_kernels *table);

/* Levels usable on this machine, ISA_SCALAR first. */
int cpu_isa_levels(enum cpu_isa levels[ISA_LEVELS]);
const char *cpu_isa_name(enum cpu_isa isa);

/* Rows: each overwrites what it has. Only called where the CPU can run it. */
void cpu_rows_scalar(struct cpu_kernels *t);
void cpu_rows_avx2(struct cpu_kernels *t);
void cpu_rows_avx512(struct cpu_kernels *t);
void cpu_rows_avx512bf16(struct cpu_kernels *t);

#endif
