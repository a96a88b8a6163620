/* words.h - codes packed in 32-bit words, as the field's tools pack them; FACTS 4b, 4c, 4d.
 *
 * Pure functions; `bits` is 4 or 8. A code comes out as the bits it has. */
#ifndef QUERN_QUANT_WORDS_H
#define QUERN_QUANT_WORDS_H

#include <stdint.h>

/* Codes in a word. */
static inline uint32_t word_codes(int bits)
{
    return 32u / (uint32_t)bits;
}

/* Code i of a word, lowest bits first. */
static inline uint8_t word_code(uint32_t word, uint32_t i, int bits)
{
    return (uint8_t)(word >> (i * (uint32_t)bits) & ((1u << bits) - 1));
}

/* AWQ: the code of column i (0..7) of a word, which lie in the order 0 2 4 6 1 3 5 7. */
static inline uint8_t word_code_awq(uint32_t word, uint32_t i)
{
    return (uint8_t)(word >> ((i / 2 + i % 2 * 4) * 4) & 15);
}

/* GPTQ v1: a word of zeros less one, subtracted from the word as a whole, with borrows. */
static inline uint32_t word_zeros_v1(uint32_t word, int bits)
{
    return word + (bits == 4 ? 0x11111111u : 0x01010101u);
}

#endif
