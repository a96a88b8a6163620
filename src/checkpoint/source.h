/* source.h - where weights come from: a checkpoint on disk, or made in memory (synth.h).
 *
 * Purpose:  layers and quant methods load through this alone, slice by slice, so that a rank
 *           touches only its own part and neither knows nor asks what is behind it.
 * Owns:     the caller owns the source (source_close()); nothing it returns outlives it.
 *           Read-only after opening: any number of threads may check and read at once.
 * Blocking: source_read() of a checkpoint waits for the disk. source_head() reads two whole
 *           tensors when a tied checkpoint has a redundant lm_head, and keeps neither.
 * Death:    a file that is cut short meanwhile is an error, STATUS_IO, of whatever reads. */
#ifndef QUERN_CHECKPOINT_SOURCE_H
#define QUERN_CHECKPOINT_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpoint/config.h"
#include "checkpoint/safetensors.h"
#include "quern/dtype.h"
#include "quern/status.h"

/* What a backend of this table knows of a tensor. */
struct source_tensor {
    struct tensor_view view;
    const char *file;        /* for messages */
    const char *other;       /* a file with another tensor of this name: it cannot be read */
};

struct weight_source;

/* `rows` runs of `n` elements each, the first at element `first`, each `stride` behind the last. */
struct source_runs {
    uint64_t first, n, stride, rows;
};

/* Beside DTYPE_F32 and DTYPE_BF16: elements as they are stored, of a type of whole bytes. */
#define SOURCE_AS_STORED DTYPE_COUNT

struct source_ops {
    bool (*find)(const struct weight_source *src, const char *name, struct source_tensor *out);
    /* Why there is no tensor `name`, as checkpoint_explain(); NULL: nothing is ever known. */
    void (*explain)(const struct weight_source *src, const char *name, char *out, size_t n);
    /* The runs one behind the other into dst, as F32 or BF16 (of a type that file_dtype_float()
     * takes) or SOURCE_AS_STORED; they are within the tensor. IO, logged: they cannot be read. */
    enum status (*read)(const struct weight_source *src, const struct source_tensor *t,
                        const struct source_runs *runs, enum dtype as, void *dst);
    void (*close)(struct weight_source *src);
};

/* The head of every source; implementations embed it first. */
struct weight_source {
    const struct source_ops *ops;
    const char *model; /* what was opened, for messages; owned by the implementation */
};

/* How the embedding and the output head are stored. */
enum head_kind {
    HEAD_TIED,   /* model.embed_tokens.weight serves as both */
    HEAD_UNTIED, /* model.embed_tokens.weight and lm_head.weight */
    HEAD_ONLY,   /* tied, but stored as lm_head.weight, which serves as both */
};

/* The configuration of `model`, a directory or "synth:NAME" or "synth:FILE.json": config_read()
 * or synth_config(), with their errors. */
enum status source_config(const char *model, struct model_config *cfg);

/* Opens the weights of `model`. `seed` and `cfg` matter to synth: only; cfg is copied.
 * Errors of checkpoint_open() and synth_open(). */
enum status source_open(const char *model, uint64_t seed, const struct model_config *cfg,
                        struct weight_source **out);
void source_close(struct weight_source *src);

bool source_has(const struct weight_source *src, const char *name);

/* What is stored under `name`; false when nothing is. */
bool source_find(const struct weight_source *src, const char *name, struct source_tensor *out);

/* Checks that tensor `name` exists with shape [rows, cols], or [rows] for cols 0, and is F32, F16
 * or BF16: *stored. INVALID: "tensor X has shape [3,4], this model needs [4,4]". */
enum status source_check(const struct weight_source *src, const char *name, uint64_t rows,
                         uint64_t cols, enum dtype *stored);

/* Reads rows [row, row + n_rows) x columns [col, col + n_cols) into dst [n_rows, n_cols], dense,
 * as DTYPE_F32 or DTYPE_BF16 (rounded to nearest even). Of a one-dimensional tensor, elements
 * [row, row + n_rows): col and n_cols are then 0; a scalar is one of one element.
 * INVALID: no such tensor, or of a type that source_check() refuses. IO. INTERNAL: out of range. */
enum status source_read(const struct weight_source *src, const char *name, uint64_t row,
                        uint64_t n_rows, uint64_t col, uint64_t n_cols, enum dtype as, void *dst);

/* A set of stored types, for source_check_stored(). */
#define FILE_TYPE(t) (1u << (t))

/* Checks that tensor `name` exists with shape [rows, cols], or [rows] for cols 0, in one of the
 * types of the set: *stored. INVALID: "tensor X is stored as F32, it must be I32". */
enum status source_check_stored(const struct weight_source *src, const char *name, unsigned types,
                                uint64_t rows, uint64_t cols, enum file_dtype *stored);

/* As source_read(), but the elements as they are stored, of any type of whole bytes. */
enum status source_read_raw(const struct weight_source *src, const char *name, uint64_t row,
                            uint64_t n_rows, uint64_t col, uint64_t n_cols, void *dst);

/* The one element of a float tensor of any number of dimensions. INVALID: there are more. */
enum status source_read_scalar(const struct weight_source *src, const char *name, float *out);

/* Resolves tied weights as Hugging Face does. With tie_word_embeddings: no lm_head, or one equal
 * to the embedding: TIED; one that differs: UNTIED, with a warning; only lm_head: ONLY. Else
 * UNTIED. Whether the tensors exist is left to source_check(). IO: they cannot be compared. */
enum status source_head(const struct weight_source *src, const struct model_config *cfg,
                        enum head_kind *out);

/* What source_open() opens for a directory (source_checkpoint.c). */
enum status source_checkpoint_open(const char *dir, struct weight_source **out);

/* For implementations: src [n] of type F32, BF16 or F16 at any address, to dst [n] of F32 or
 * BF16, aligned; they do not overlap. */
void source_convert(enum dtype stored, const void *src, uint64_t n, enum dtype as, void *dst);

#endif
