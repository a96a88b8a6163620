/* dtype.h - element types of tensors, and exact conversions between them.
 *
 * Sources: FACTS 3 (names as safetensors spells them). bf16 and f16 are held
 * as uint16_t bits, e4m3 (e4m3fn: bias 7, no infinity, most 448) as uint8_t.
 * Narrowing rounds to nearest, ties to even; a NaN stays a (quiet) NaN. */
#ifndef QUERN_DTYPE_H
#define QUERN_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype {
    DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_I32, DTYPE_U8, DTYPE_I8, DTYPE_E4M3, DTYPE_COUNT
};

static inline size_t dtype_bytes(enum dtype t)
{
    static const unsigned char bytes[DTYPE_COUNT] = {
        [DTYPE_F32] = 4, [DTYPE_BF16] = 2, [DTYPE_F16] = 2,
        [DTYPE_I32] = 4, [DTYPE_U8] = 1,   [DTYPE_I8] = 1,  [DTYPE_E4M3] = 1,
    };
    return bytes[t];
}

static inline float bf16_to_f32(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float x;

    memcpy(&x, &wide, sizeof(x));
    return x;
}

static inline uint16_t f32_to_bf16(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float bf16_round(float x)
{
    return bf16_to_f32(f32_to_bf16(x));
}

static inline float f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, e = (bits >> 10) & 0x1fu, m = bits & 0x3ffu;
    uint32_t wide;
    float x;

    if (e == 0) { /* zero or subnormal: m * 2^-24 is exact in f32 */
        x = (float)m * 0x1p-24f;
        return sign ? -x : x;
    }
    wide = sign | (e == 31 ? 0x7f800000u : (e + 112u) << 23) | m << 13;
    if (e == 31 && m != 0)
        wide |= 0x00400000u;
    memcpy(&x, &wide, sizeof(x));
    return x;
}

static inline uint16_t f32_to_f16(float x)
{
    uint32_t bits, magnitude, sign, shift, m;

    memcpy(&bits, &x, sizeof(bits));
    sign = (bits >> 16) & 0x8000u;
    magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and up round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) /* normal: rounding may carry into the exponent */
        return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
    if (magnitude < 0x33000000u) /* below half of the smallest subnormal */
        return (uint16_t)sign;
    shift = 126u - (magnitude >> 23);
    m = (magnitude & 0x7fffffu) | 0x800000u;
    return (uint16_t)(sign | ((m + (1u << (shift - 1)) - 1u + ((m >> shift) & 1u)) >> shift));
}

static inline float e4m3_to_f32(uint8_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x80u) << 24, magnitude = bits & 0x7fu, wide;
    float x;

    if (magnitude < 8) { /* zero or subnormal: m * 2^-9 is exact in f32 */
        x = (float)magnitude * 0x1p-9f;
        return sign ? -x : x;
    }
    wide = sign | (magnitude == 0x7f ? 0x7fc00000u : (magnitude << 20) + (120u << 23));
    memcpy(&x, &wide, sizeof(x));
    return x;
}

/* Saturates: what would round past 448, infinity too, is 448. */
static inline uint8_t f32_to_e4m3(float x)
{
    uint32_t bits, magnitude, sign, shift, m;

    memcpy(&bits, &x, sizeof(bits));
    sign = (bits >> 24) & 0x80u;
    magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (magnitude >= 0x43e00000u) /* 448 */
        return (uint8_t)(sign | 0x7eu);
    if (magnitude >= 0x3c800000u) /* normal: rounding may carry into the exponent */
        return (uint8_t)(sign |
            ((magnitude - (120u << 23) + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20));
    if (magnitude < 0x3a800000u) /* below half of the smallest subnormal */
        return (uint8_t)sign;
    shift = 141u - (magnitude >> 23);
    m = (magnitude & 0x7fffffu) | 0x800000u;
    return (uint8_t)(sign | ((m + (1u << (shift - 1)) - 1u + ((m >> shift) & 1u)) >> shift));
}

#endif
