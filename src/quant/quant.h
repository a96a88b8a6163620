/* quant.h - how a linear layer's weight is stored, and how it is loaded.
 *
 * A scheme is what config.json's quantization_config says (or --quant): which
 * modules are quantised, and how. A row of the method table knows which tensors
 * of a checkpoint make up a module's weight, what of them a rank reads, and in
 * which format the backend keeps it. Layers ask the scheme for everything and
 * never what it is. `none` is a plain matrix in bf16, f16 or f32.
 *
 * Loading streams: never more of a tensor in memory than a few rows. */
#ifndef QUERN_QUANT_QUANT_H
#define QUERN_QUANT_QUANT_H

#include <stdint.h>

#include "checkpoint/source.h"
#include "quern/backend.h"

/* Rows [row, row + rows) of the module's matrix [all_rows, all_cols]: its weight is the tensor
 * MODULE.weight, or what the method has in its place. */
struct weight_part {
    const char *module; /* "model.layers.0.self_attn.q_proj" */
    uint32_t all_rows, all_cols;
    uint32_t row, rows;

    /* Where the tensor has several modules' rows, one of which this is a part of: what the plan
     * calls that one, and which rows are its. NULL and 0: the tensor is one module's. */
    const char *as;
    uint32_t as_row, as_rows;
};

/* A rank's own weight: parts stacked on top of each other, columns [col, col + cols) of each. */
struct weight_slice {
    const struct weight_part *parts;
    int n_parts;
    uint32_t col, cols;
    bool bias; /* the parts have biases, wanted here */
};

struct quant_scheme;

/* What loading needs; one per rank. */
struct weight_loader {
    struct weight_source *source;
    const struct quant_scheme *scheme; /* NULL: nothing is quantised */
    const struct backend *backend;
    struct device *device;
    enum compute compute;
    bool tied;           /* the embedding is the head, too, as source_head() finds */
    void (*progress)(void *context, uint64_t bytes); /* bytes of weights just packed */
    void *context;
    void *staging;       /* grows to the largest block read at once */
    size_t staging_bytes;
};

enum { WEIGHT_PARTS_MAX = 8 }; /* in one slice */

/* What a slice will be, before anything is read. Pointers in `weight` are NULL. */
struct weight_plan {
    struct weight weight; /* n, k, format, quant's numbers */
    size_t bytes;         /* in backend memory: codes, scales, zeros, bias */
};

struct quant_layout; /* stored.h: how the tensors of a method lie in a file */

struct quant_method {
    const char *name;
    const struct quant_layout *layout; /* NULL: a plain matrix */
    /* *merges: can these parts be one product? (Their activations are quantised alike, ...)
     * INVALID (logged): measure() would refuse one of them. */
    enum status (*mergeable)(const struct weight_loader *l, const struct weight_slice *slice,
        bool *merges);
    /* Checks tensors, types and shapes; INVALID (logged). */
    enum status (*measure)(const struct weight_loader *l, const struct weight_slice *slice,
        struct weight_plan *plan);
    /* Fills w (but for its name): everything, in backend memory, to be released by
     * quant_release() also after a failure. */
    enum status (*load)(struct weight_loader *l, const struct weight_slice *slice,
        struct weight *w);
};

extern const struct quant_method quant_none;

/* What is asked for beside what the checkpoint says of itself: --quant and its companions. NULL or
 * "" is the default of each. */
struct quant_options {
    /* "int8", "int4", "fp8": a plain checkpoint is quantised while it loads */
    const char *method;
    /* "int8", "none": a plain head and a tied embedding; default: int8 with a method, else none */
    const char *head;
    /* Inputs of quantised layers. "none": as they are, whatever the checkpoint says. "dynamic",
     * with method int8 or fp8: quantised too, by token or by group of 128. "auto" (default): as
     * the checkpoint says, with a method none. */
    const char *activations;
};

/* The scheme of `model` (a directory or synth:NAME): its quantization_config, which may lie in
 * quantize_config.json, or what `o` (NULL: nothing) asks for. Neither: *out is NULL. INVALID
 * (logged): a layout that is not supported, named; options that do not fit the checkpoint or each
 * other. */
enum status quant_open(const char *model, const struct quant_options *o,
    struct quant_scheme **out);
void quant_close(struct quant_scheme *s);

/* Has the checkpoint a weight of this module, under whatever name a method gives it? */
bool quant_is_stored(const struct weight_loader *l, const char *module);

/* The method of this module; never NULL. A module whose MODULE.weight is F32, F16 or BF16 is
 * plain whatever the scheme says of it. */
const struct quant_method *quant_method_of(const struct weight_loader *l, const char *module);

/* The inputs that share a scale, of weights or of activations, whichever are more; 1 where whole
 * rows do. Rows and columns may be cut anywhere: words that a cut goes through are read by both
 * ranks and unpacked, scales are kept per row, and both ranks keep a group's. But cut at multiples
 * of it, no group is split, and activations scaled by group need no maximum of other ranks. */
uint32_t quant_col_group(const struct weight_loader *l, const char *module);

/* Gives a loaded weight's memory back; what is NULL is left out. */
void quant_release(const struct weight_loader *l, struct weight *w);

#endif
