/* columns.h - what AWQ and GPTQ share: matrices that lie inputs first, with scales and zeros too.
 *
 * A rank's outputs are columns of these tensors, so a block is a stripe of
 * columns, read in runs as long as its rows. Both have MODULE.scales
 * [groups, N] and MODULE.qzeros I32 [groups, N * bits / 32], and tools that
 * write them round N up to whole words, which the model's N must fit. */
#ifndef QUERN_QUANT_COLUMNS_H
#define QUERN_QUANT_COLUMNS_H

#include "quant/stored.h"

/* Code i of a word. */
typedef uint8_t columns_code(uint32_t word, uint32_t i);

/* Sets the form's group and groups by the rule; checks scales and qzeros, and that the matrix's
 * rows fill words. INVALID, naming the tensor. */
enum status columns_check(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, struct quant_form *form);

enum status columns_fill_scales(const struct weight_loader *l, const struct quant_block *b);

/* Fills b->zero (if wanted) from qzeros: code_of() each word after `add` was added to it; less
 * `offset`. */
enum status columns_fill_zeros(const struct weight_loader *l, const struct quant_block *b,
    int bits, columns_code *code_of, uint32_t add, int offset);

#endif
