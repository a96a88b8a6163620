/* cache_case.h - one layer's KV cache as program.h lays it out, written and read value by value.
 *
 * The layout and its arithmetic are spelled out here once more, so that kernels are not held to
 * their own. Memory is exact: the address sanitizer sees what lies past its end. */
#ifndef QUERN_TESTS_KERNELS_CACHE_CASE_H
#define QUERN_TESTS_KERNELS_CACHE_CASE_H

#include "tests/kernels/support.h"

static const enum dtype cache_types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_E4M3};
enum { CACHE_TYPES = sizeof(cache_types) / sizeof(cache_types[0]) };

/* Bytes of a value: E4M3's scale apart. */
SUPPORT size_t value_bytes(enum dtype type)
{
    return type == DTYPE_F32 ? 4 : type == DTYPE_E4M3 ? 1 : 2;
}

/* Where the scales of a head begin: whole floats. */
SUPPORT size_t codes_bytes(enum dtype type, uint32_t block_size, uint32_t head_dim)
{
    size_t bytes = (size_t)block_size * head_dim * value_bytes(type);

    return type == DTYPE_E4M3 && bytes % 4 != 0 ? bytes + 4 - bytes % 4 : bytes;
}

/* Every byte is `fill`. */
SUPPORT struct kv_view cache_make(enum dtype type, uint32_t n_blocks, uint32_t kv_heads,
    uint32_t block_size, uint32_t head_dim, int fill)
{
    size_t head = codes_bytes(type, block_size, head_dim) +
        (type == DTYPE_E4M3 ? 4 * (size_t)block_size : 0);
    char *memory = take_exact(n_blocks * 2 * kv_heads * head);

    memset(memory, fill, n_blocks * 2 * kv_heads * head);
    return (struct kv_view){.k = memory, .v = memory + kv_heads * head, .dtype = type,
        .kv_heads = kv_heads, .block_size = block_size, .head_dim = head_dim, .head_bytes = head,
        .block_bytes = 2 * kv_heads * head};
}

SUPPORT void cache_free(struct kv_view *kv)
{
    free(kv->k);
}

/* Position `at` of a block: its row; and its scale, of E4M3. */
SUPPORT char *cache_row(const struct kv_view *kv, const void *k_or_v, uint32_t block,
    uint32_t head, uint32_t at)
{
    return (char *)(uintptr_t)k_or_v + ((size_t)block * 2 * kv->kv_heads + head) * kv->head_bytes +
        (size_t)at * kv->head_dim * value_bytes(kv->dtype);
}
SUPPORT float *cache_scale(const struct kv_view *kv, const void *k_or_v, uint32_t block,
    uint32_t head, uint32_t at)
{
    return (float *)(void *)(cache_row(kv, k_or_v, block, head, 0) +
        codes_bytes(kv->dtype, kv->block_size, kv->head_dim)) + at;
}

/* Value `lane` as it is read. */
SUPPORT float cache_get(const struct kv_view *kv, const void *k_or_v, uint32_t block,
    uint32_t head, uint32_t at, uint32_t lane)
{
    const char *row = cache_row(kv, k_or_v, block, head, at);

    switch (kv->dtype) {
    case DTYPE_BF16: return bf16_to_f32(((const uint16_t *)(const void *)row)[lane]);
    case DTYPE_F16: return f16_to_f32(((const uint16_t *)(const void *)row)[lane]);
    case DTYPE_E4M3:
        return e4m3_to_f32((uint8_t)row[lane]) * *cache_scale(kv, k_or_v, block, head, at);
    default: return ((const float *)(const void *)row)[lane];
    }
}

/* The scale that x [n] gets: its largest becomes 448, and none is below the smallest normal. */
SUPPORT float scale_wanted(const float *x, uint32_t n)
{
    float most = 0;

    for (uint32_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    return fmaxf(most / 448, 0x1p-126f);
}

/* x [head_dim], as rows shall store it; x becomes what is read. */
SUPPORT void cache_put(const struct kv_view *kv, void *k_or_v, uint32_t block, uint32_t head,
    uint32_t at, float *x)
{
    char *row = cache_row(kv, k_or_v, block, head, at);
    float scale = scale_wanted(x, kv->head_dim);

    if (kv->dtype == DTYPE_E4M3)
        *cache_scale(kv, k_or_v, block, head, at) = scale;
    for (uint32_t i = 0; i < kv->head_dim; i++) {
        switch (kv->dtype) {
        case DTYPE_BF16: ((uint16_t *)(void *)row)[i] = f32_to_bf16(x[i]); break;
        case DTYPE_F16: ((uint16_t *)(void *)row)[i] = f32_to_f16(x[i]); break;
        case DTYPE_E4M3: row[i] = (char)f32_to_e4m3(x[i] / scale); break;
        default: ((float *)(void *)row)[i] = x[i];
        }
        x[i] = cache_get(kv, k_or_v, block, head, at, i);
    }
}

#endif
