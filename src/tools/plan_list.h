/* plan_list.h - what `quern plan` prints, as lists: tensors, operations, what is communicated.
 *
 * Items are made from the programs of all ranks (plan_model.h) and say nothing
 * that those do not. Printing (plan_text.c, plan_json.c) only spells them.
 *
 * Ownership: plan_list_make()'s until plan_list_free(); strings and operations
 * in them are the model's, which must outlive the lists. */
#ifndef QUERN_TOOLS_PLAN_LIST_H
#define QUERN_TOOLS_PLAN_LIST_H

#include "tools/plan_model.h"

/* Where an item belongs: a decoder layer (0 ..), or before or behind them all. */
enum { SECTION_BEGIN = -1, SECTION_END = 1 << 30 };

/* A rank's part of a tensor [rows, cols], and what it takes of this rank's memory. */
struct tensor_part {
    uint32_t row, rows, col, cols;
    uint64_t bytes;
};

struct tensor_item {
    char name[192];             /* "model.layers.0.self_attn.q_proj.weight" */
    const char *tail;           /* of the name: behind "model.layers.0." */
    int section;
    const struct strategy *strategy; /* its own, also in a product of several */
    int line;                   /* of the plan's file that chose it; 0: none */
    const char *method;         /* how it is quantised: "none", ... */
    const char *format;         /* as it lies in memory: "bf16", "f32", "int4", ... */
    uint32_t rows, cols;        /* cols 0: a vector */
    int cut;                    /* dimension that ranks have parts of; -1: none */
    struct tensor_part parts[MAX_RANKS];
};

struct op_item {
    const struct op *op;        /* of rank 0's program */
    int section;
    enum place in[2], out;      /* before it and behind it, of the buffers it has */
    const char *weight;         /* its weight's name, or "" */
    uint64_t moved;             /* bytes of float32 that it sums or gathers, each value once */
    uint64_t moved_most;        /* sample: with top-k, top-p or min-p; else as `moved` */
    bool per_output;            /* `moved` is for a token that wants an output; else for each */
};

struct plan_list {
    const struct plan_model *model;
    struct tensor_item *tensors; /* in the order of sections */
    size_t n_tensors;
    struct op_item *ops;
    size_t n_ops;
};

enum status plan_list_make(const struct plan_model *m, struct plan_list *list);
void plan_list_free(struct plan_list *list);

/* Bytes communicated for each token (not for outputs) in a section; SECTION_ALL: in all. */
enum { SECTION_ALL = -2 };
uint64_t plan_list_moved(const struct plan_list *list, int section);

/* Are two layers the same but for their number? */
bool plan_same_tensors(const struct plan_list *list, int a, int b);
bool plan_same_ops(const struct plan_list *list, int a, int b);

/* "replicate", "shard(0)", "shard(1)". */
const char *plan_cut_name(const struct tensor_item *t);

/* How uneven a sum over ranks is: the largest rank's, and the mean. */
struct evenness {
    uint64_t largest;
    double mean;
};
struct evenness plan_weights_evenness(const struct plan_model *m);
struct evenness plan_kv_evenness(const struct plan_model *m);

/* plan_ops.c: list->ops and n_ops. */
enum status plan_list_ops(struct plan_list *list);

/* Printing to standard output; whether it arrived is main()'s to see. NOMEM (logged). */
enum status plan_print_text(const struct plan_list *list);
enum status plan_print_json(const struct plan_list *list);

#endif
