/* source.h - where weights come from: a checkpoint on disk, or made in memory (synth.h).
 *
 * Purpose:  layers and quant methods load through this alone, slice by slice, so that a rank
 *           touches only its own part and neither knows nor asks what is behind it.
 * Owns:     the caller owns the source (source_close()); nothing it returns outlives it.
 *           Read-only after opening: any number of threads may check and read at once.
 * Blocking: source_read() of a checkpoint waits for the disk through page faults. source_head()
 *           reads two whole tensors when a tied checkpoint has a redundant lm_head, and keeps
 *           neither.
 * Death:    see safetensors.h. */
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
    struct tensor_view view; /* data is NULL where nothing is stored */
    const char *file;        /* for messages */
};

struct weight_source;

struct source_ops {
    bool (*find)(const struct weight_source *src, const char *name, struct source_tensor *out);
    /* Elements [first, first + n) of the tensor as F32 or BF16 into dst; in range, of a type that
     * file_dtype_float() takes. */
    void (*read)(const struct weight_source *src, const struct source_tensor *t, uint64_t first,
                 uint64_t n, enum dtype as, void *dst);
    /* The same as they are stored; of a type of whole bytes. */
    void (*copy)(const struct weight_source *src, const struct source_tensor *t, uint64_t first,
                 uint64_t n, void *dst);
    /* Elements [first, first + n) will not be read again soon: gives back what memory they hold
     * in this process. NULL where they hold none. */
    void (*forget)(const struct weight_source *src, const struct source_tensor *t, uint64_t first,
                   uint64_t n);
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
 * Touches only those bytes of the file, and few of its pages stay in this process's memory.
 * INVALID: no such tensor, or of a type that source_check() refuses. INTERNAL: out of range. */
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
 * UNTIED. Whether the tensors exist is left to source_check(). Never fails today. */
enum status source_head(const struct weight_source *src, const struct model_config *cfg,
                        enum head_kind *out);

/* For implementations: src [n] of type F32, BF16 or F16 at any address, to dst [n] of F32 or
 * BF16, aligned; they do not overlap. */
void source_convert(enum dtype stored, const void *src, uint64_t n, enum dtype as, void *dst);

#endif
