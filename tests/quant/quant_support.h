/* quant_support.h - weights loaded without a device: codes kept as they come.
 *
 * Owns:     a struct loaded owns its memory (loaded_free()); quant_model_open() opens a model's
 *           source, configuration and scheme, and quant_model_close() ends them all.
 * Failures end the test at once, but for those a function returns. */
#ifndef QUERN_TESTS_QUANT_SUPPORT_H
#define QUERN_TESTS_QUANT_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "quant/quant.h"

struct quant_model {
    char dir[1024];
    struct model_config cfg;
    struct weight_source *source;
    struct quant_scheme *scheme;
    struct weight_loader loader;
};

/* `dir` as it is; options as quant_open() has them. */
enum status quant_model_open(struct quant_model *m, const char *dir,
    const struct quant_options *options);
void quant_model_close(struct quant_model *m);

/* TEST_DATA/golden/NAME into out. */
const char *golden_path(char out[1024], const char *name);

/* Bytes that the fake backend lent and did not get back. */
size_t backend_bytes_held(void);

struct loaded {
    struct weight weight;
    struct weight_plan plan;
    float *value; /* [n, k]: (code - zero) * scale, or the plain number */
};

enum status loaded_slice(struct quant_model *m, const struct weight_slice *slice,
    struct loaded *out);
/* One module: rows [row, row + rows) x columns [col, col + cols) of its [all_rows, all_cols]. */
enum status loaded_part(struct quant_model *m, const char *module, uint32_t all_rows,
    uint32_t all_cols, uint32_t row, uint32_t rows, uint32_t col, uint32_t cols,
    struct loaded *out);
void loaded_free(struct quant_model *m, struct loaded *x);

/* A tensor to be written: `bytes` of data, or zeros where it is NULL. */
struct made_tensor {
    const char *name;
    enum file_dtype dtype;
    int ndim;
    uint64_t shape[2];
    const void *data;
};

/* Writes DIR/model.safetensors with `count` tensors, and DIR/config.json: Qwen3, hidden 16,
 * intermediate 32, 2 heads of 8, 1 KV head, vocab 16, one layer, with `quantization` (JSON, may be
 * NULL) as its quantization_config. DIR must exist. */
void write_checkpoint(const char *dir, const char *quantization, const struct made_tensor *tensors,
    size_t count);

/* The linear modules of a decoder layer, with their shapes. */
enum { LAYER_MODULES = 7 };
struct module_shape {
    char name[64]; /* "model.layers.0.self_attn.q_proj" */
    uint32_t rows, cols;
};
void layer_modules(const struct model_config *cfg, int layer,
    struct module_shape out[LAYER_MODULES]);

#endif
