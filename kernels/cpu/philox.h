/* philox.h - the noise of sampling: a pure function of seed, position, choice and token.
 *
 * Philox4x32-10 (Salmon et al., SC11): key = seed, counter = (absolute
 * position, choice index, token id / 4, 0), and the word is number token id % 4
 * of the block. No state, so that any rank, thread or device can draw any
 * token's noise, in any order, and gets the same bits. */
#ifndef QUERN_KERNELS_CPU_PHILOX_H
#define QUERN_KERNELS_CPU_PHILOX_H

#include <stdbool.h>
#include <stdint.h>

struct philox_block {
    uint32_t word[4];
};

/* Ten rounds. */
struct philox_block philox(const uint32_t counter[4], const uint32_t key[2]);

/* ln x for a normal x > 0; relative error below 2e-7. Built of fused multiply-adds in one
 * order, so the same bits wherever there is IEEE arithmetic. */
float portable_log(float x);

/* Standard Gumbel noise -ln(-ln u), u = ((word >> 8) + 0.5) 2^-24; within [-2.86, GUMBEL_MAX). */
float gumbel_noise(uint32_t word);

#define GUMBEL_MAX 17.4f

/* More than gumbel_noise(word), and much cheaper: by its leading ones. */
float gumbel_bound(uint32_t word);

/* The words of one position of one choice. Neighbouring tokens share a block, which is drawn once
 * for those asked for in a row. */
struct noise {
    uint64_t seed;
    uint32_t position, choice;
    bool drawn;
    uint32_t quad; /* whose block it is: token / 4 */
    struct philox_block block;
};
uint32_t noise_word(struct noise *n, uint32_t token);

#endif
