/* exec_mill.h - a program made operation by operation, run by ranks as threads, and looked into.
 *
 * Its data come from a table: buffer x is the embedding of ids, cut over the ranks, so Partial
 * until it is reduced. Buffers are read where the backend keeps them. */
#ifndef TESTS_KERNELS_EXEC_MILL_H
#define TESTS_KERNELS_EXEC_MILL_H

#include "exec_group.h"
#include "kernels/cpu/exec.h"
#include "program/program.h"

enum { MILL_VOCAB = 48, MILL_TOKENS = 40, MILL_WEIGHTS = 8 };

struct mill {
    struct program program;
    struct device *device;
    struct executable *executable;
    struct comm *comm;
    struct weight weights[MILL_WEIGHTS];
    float *packed; /* the table's own rows */
    int n_weights;
    int x; /* buffer [tokens, cols] */
};

/* table [MILL_VOCAB, cols] f32, of which this rank takes its part. comm NULL: alone. */
void mill_open(struct mill *m, struct comm *comm, int threads, enum compute compute,
    const float *table, uint32_t cols);
void mill_close(struct mill *m);

int mill_buffer(struct mill *m, const char *name, uint32_t cols, enum place place);
void mill_op(struct mill *m, struct op op);
/* In place. */
void mill_in_place(struct mill *m, enum op_kind kind, int buffer);
/* A norm weight or bias; values [n] must outlive the mill. */
const struct weight *mill_vector(struct mill *m, const float *values, uint32_t n);

/* Checks the program and loads it. */
void mill_load(struct mill *m);

/* One step of `n` tokens on all ranks; id i is mill_id(i). */
void mill_step(struct mill *mills, int size, uint32_t n);
int32_t mill_id(uint32_t i);

static inline float *mill_row(const struct mill *m, int buffer, uint32_t row)
{
    return row_at(m->executable, buffer, row);
}

#endif
