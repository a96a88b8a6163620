/* stored.h - what quantised layouts share: a rule says how a module is quantised, a layout reads.
 *
 * A scheme resolves a module to a struct quant_rule. The rule's method has a
 * layout: it checks the module's tensors once (form) and then fills blocks of
 * codes, scales and zeros for any rows and columns. stored.c does the rest for
 * all layouts: stacking parts, blocks of bounded size, backend memory.
 *
 * Ownership: a rule belongs to its scheme; forms and blocks live on the stack of a load.
 * Blocking: reading waits for the disk. Memory: a block takes WORK_BYTES and BLOCK_CODES. */
#ifndef QUERN_QUANT_STORED_H
#define QUERN_QUANT_STORED_H

#include "quant/quant.h"

enum { QUANT_NAME_BYTES = 192 };

/* Which weights share a scale. */
enum quant_strategy { STRATEGY_TENSOR, STRATEGY_CHANNEL, STRATEGY_GROUP, STRATEGY_BLOCK };

/* How activations are quantised; all 0 for ACTIVATION_PLAIN. */
struct quant_activation {
    enum activation kind;
    bool fixed;      /* the checkpoint has one scale for the layer */
    uint32_t group;  /* inputs that share a scale; 0: all of a token */
    float divisor;   /* scale = max(amax / divisor, least) */
    float least;
};

/* What a scheme says of a module. */
struct quant_rule {
    const struct quant_method *method;
    int bits;                 /* of a code */
    bool floating;            /* codes are e4m3, not integers */
    bool symmetric;           /* codes have no zero points */
    enum quant_strategy strategy;
    uint32_t group;           /* GROUP, BLOCK: inputs that share a scale; 0: all of them */
    uint32_t block_rows;      /* BLOCK: outputs that do */
    bool indexed;             /* inputs may be in groups in any order */
    bool zeros_less_one;      /* GPTQ v1 stores zero - 1 */
    struct quant_activation act;
};

/* A module's tensors, checked. */
struct quant_form {
    const struct quant_rule *rule;
    enum weight_format format;
    uint32_t group;           /* inputs in a group, > 0 */
    uint32_t groups;          /* of the whole matrix */
    bool zero;                /* has zero points that matter */
    bool index;               /* the group of an input is looked up */
    float act_scale;          /* > 0: fixed */
    char scale[32];           /* the scales' tensor: "weight_scale" */
};

/* Rows [row, row + rows) x columns [col, col + cols) of a module, to be filled. Scale and zero of
 * group group0 + g, row row + r go to [g * stride + r]. */
struct quant_block {
    const struct weight_part *part;
    uint32_t row, rows, col, cols;
    uint32_t group0, groups;
    uint8_t *codes;           /* [rows, cols]: int8, e4m3 bits, or 0..15 */
    float *scale;
    int16_t *zero;            /* NULL: none wanted */
    size_t stride;
    void *work;               /* [work_bytes], aligned, of the layout's own use */
    size_t work_bytes;        /* at least WORK_BYTES, and 16 bytes per column of the whole matrix */
};

/* The most codes and rows of a block, and the least work memory: at least 4 bytes per row. */
enum { BLOCK_CODES = 4 << 20, BLOCK_ROWS = 1 << 15, WORK_BYTES = 1 << 20 };

struct quant_layout {
    /* Checks types and shapes of part's tensors: INVALID (logged), naming them. */
    enum status (*form)(const struct weight_loader *l, const struct weight_part *part,
        const struct quant_rule *rule, struct quant_form *form);
    enum status (*fill)(const struct weight_loader *l, const struct quant_form *form,
        const struct quant_block *b);
    /* The name of the tensor that gives each input's group; NULL: no such layout. */
    const char *index;
};

/* scheme.c: what the loader's scheme says of a module; NULL: it is plain. */
const struct quant_rule *quant_rule_of(const struct weight_loader *l, const char *module);

/* stored.c: the functions of every method with a layout. */
enum status stored_mergeable(const struct weight_loader *l, const struct weight_slice *slice,
    bool *merges);
enum status stored_measure(const struct weight_loader *l, const struct weight_slice *slice,
    struct weight_plan *plan);
enum status stored_load(struct weight_loader *l, const struct weight_slice *slice,
    struct weight *w);

/* tensors.c: names and checks. ---------------------------------------------------------------- */

/* "MODULE.what" */
const char *tensor_name(char name[QUANT_NAME_BYTES], const char *module, const char *what);

/* The sum of the parts' rows. */
uint32_t slice_rows(const struct weight_slice *slice);

/* Staging memory of at least `bytes`. NOMEM. */
enum status grow_staging(struct weight_loader *l, size_t bytes);

/* Biases of all parts into w->bias [w->n]; what measure() checks of them. */
enum status bias_check(const struct weight_loader *l, const struct weight_slice *slice);
enum status bias_load(struct weight_loader *l, const struct weight_slice *slice, struct weight *w);

/* Checks the scales of a row-major matrix under MODULE.`what` by the rule's strategy and sets
 * form->group, groups and scale. INVALID, naming the tensor. */
enum status scales_check(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, const char *what, struct quant_form *form);
/* Fills b->scale from them. */
enum status scales_fill(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b);
/* Fills b->zero (when wanted) with what `code - zero` needs to be signed: the symmetric case. */
void zeros_fill_plain(const struct quant_form *form, const struct quant_block *b);

/* Checks MODULE.`what`, I32 [all_cols]: the group of each input. form->index tells whether it says
 * more than input / group; values beyond form->groups are INVALID. */
enum status index_check(const struct weight_loader *l, const struct weight_part *part,
    const char *what, struct quant_form *form);

/* The activations' fixed scale, where the rule has one: from the first of `names` that is there. */
enum status act_scale_read(const struct weight_loader *l, const struct weight_part *part,
    const char *const names[2], struct quant_form *form);

/* The methods. -------------------------------------------------------------------------------- */

extern const struct quant_method quant_fp8, quant_int8, quant_packed, quant_awq, quant_gptq;
extern const struct quant_method quant_runtime;

#endif
