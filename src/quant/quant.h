/* quant.h - how a linear layer's weight is stored, and how it is loaded.
 *
 * A row of the method table knows which tensors of a checkpoint make up a
 * linear layer's weight, what of them a rank reads, and in which format the
 * backend keeps it. Layers ask their method for everything and never what it
 * is. `none` is a plain matrix in bf16, f16 or f32. */
#ifndef QUERN_QUANT_QUANT_H
#define QUERN_QUANT_QUANT_H

#include <stdint.h>

#include "checkpoint/source.h"
#include "quern/backend.h"

/* Rows [row, row + rows) of the checkpoint's matrix NAME.weight [all_rows, all_cols]. */
struct weight_part {
    const char *module; /* "model.layers.0.self_attn.q_proj" */
    uint32_t all_rows, all_cols;
    uint32_t row, rows;
};

/* A rank's own weight: parts stacked on top of each other, columns [col, col + cols) of each. */
struct weight_slice {
    const struct weight_part *parts;
    int n_parts;
    uint32_t col, cols;
    bool bias; /* the parts have biases, wanted here */
};

/* What loading needs; one per rank. */
struct weight_loader {
    struct weight_source *source;
    const struct backend *backend;
    struct device *device;
    enum compute compute;
    void (*progress)(void *context, uint64_t bytes); /* bytes of weights just packed */
    void *context;
    void *staging;       /* grows to the largest block read at once */
    size_t staging_bytes;
};

struct quant_method {
    const char *name;
    /* Bytes the slice will take in backend memory, and the format it will have. */
    enum status (*measure)(const struct weight_loader *l, const struct weight_slice *slice,
        enum weight_format *format, size_t *bytes);
    /* Fills w: n, k, format, data, bias (backend memory, owned by the caller on success). */
    enum status (*load)(struct weight_loader *l, const struct weight_slice *slice,
        struct weight *w);
};

extern const struct quant_method quant_none;

#endif
