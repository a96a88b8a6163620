/* fake_source.h - a checkpoint that is a list of names and a formula.
 *
 * An element is computed from its tensor, row and column, so a test knows what
 * any slice must hold, and a seed makes another model. Tensors are F32, F16 or
 * BF16 (values of the formula) or of whole-byte integers (the same, truncated).
 *
 * Ownership: the test's; nothing is allocated. Blocking: never. */
#ifndef TESTS_LAYERS_FAKE_SOURCE_H
#define TESTS_LAYERS_FAKE_SOURCE_H

#include "checkpoint/source.h"

enum { FAKE_TENSORS = 96, FAKE_NAME = 96 };

struct fake_tensor {
    char name[FAKE_NAME];
    uint64_t rows, cols; /* cols 0: a vector */
    enum file_dtype type;
};

struct fake_source {
    struct weight_source source; /* first: what layers see */
    float (*element)(const struct fake_source *f, const struct fake_tensor *t, uint64_t row,
        uint64_t col);
    uint64_t seed;
    const char *missing; /* a tensor that this checkpoint has not, or NULL */
    struct fake_tensor tensors[FAKE_TENSORS];
    int n;
};

/* Empty, with elements by position: exact in float32, different for each element. */
void fake_source_open(struct fake_source *f);

/* Fails the test when there is no room. */
void fake_source_add(struct fake_source *f, enum file_dtype type, uint64_t rows, uint64_t cols,
    const char *format, ...) __attribute__((format(printf, 5, 6)));

/* What an element is; fails the test when there is no such tensor. */
float fake_source_element(const struct fake_source *f, const char *name, uint64_t row,
    uint64_t col);

#endif
