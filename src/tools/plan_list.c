/* plan_list.c - tensors: the ranks' lists of weights, side by side.
 *
 * Each goes by the name that the plan has for its module, also where the checkpoint keeps several
 * modules in one tensor.
 *
 * All ranks name the same weights in the same order, since they run the same
 * code; only the ranges differ. A weight may stack several tensors: each gets
 * its item, with its share of the bytes that the whole takes. */
#include "tools/plan_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

static const char layers_prefix[] = "model.layers.";

/* The layer's number and what follows it, or -1 and the name. */
static int layer_of(const char *name, const char **tail)
{
    char *end;
    long layer;

    *tail = name;
    if (strncmp(name, layers_prefix, sizeof(layers_prefix) - 1) != 0)
        return -1;
    layer = strtol(name + sizeof(layers_prefix) - 1, &end, 10);
    if (*end == '.')
        *tail = end + 1;
    return (int)layer;
}

static uint64_t bias_bytes(const struct planned_weight *p)
{
    return p->slice.bias ? (uint64_t)p->weight.n * sizeof(float) : 0;
}

/* Part `i`'s share of the weight's bytes; shares add up exactly. */
static uint64_t share(const struct planned_weight *p, int i)
{
    uint64_t bytes = p->bytes - bias_bytes(p), before = 0, n = p->weight.n;

    for (int k = 0; k < i; k++)
        before += p->parts[k].rows;
    return n == 0 ? 0 : bytes * (before + p->parts[i].rows) / n - bytes * before / n;
}

/* Which tensor of a planned weight an item is of. */
enum tensor_kind { TENSOR_MATRIX, TENSOR_BIAS, TENSOR_VECTOR };

static void fill_item(struct tensor_item *t, const struct plan_model *m,
    const struct planned_weight *p, int i, enum tensor_kind kind)
{
    static const char *const endings[] = {
        [TENSOR_MATRIX] = ".weight", [TENSOR_BIAS] = ".bias", [TENSOR_VECTOR] = ""};
    static const char *const formats[WEIGHT_FORMATS] = {
        [WEIGHT_F32] = "f32",
        [WEIGHT_BF16] = "bf16",
        [WEIGHT_FP8] = "fp8",
        [WEIGHT_INT8] = "int8",
        [WEIGHT_INT4] = "int4",
    };
    char *dot;
    char module[MODULE_BYTES];

    snprintf(t->name, sizeof(t->name), "%s%s", p->as[i], endings[kind]);
    snprintf(module, sizeof(module), "%s", p->as[i]);
    if (kind == TENSOR_VECTOR && (dot = strrchr(module, '.')) != NULL)
        *dot = '\0';
    t->section = layer_of(t->name, &t->tail);
    /* several parts are linear layers, which may have got there by rules of their own */
    t->strategy = p->slice.n_parts == 1 ? p->strategy
                                        : tp_plan_strategy(m->plan, module, KIND_LINEAR);
    t->line = tp_plan_line(m->plan, module);
    t->method = kind == TENSOR_MATRIX ? p->method->name : "none";
    t->format = kind == TENSOR_MATRIX ? formats[p->weight.format] : formats[WEIGHT_F32];
    t->rows = p->parts[i].as_rows;
    t->cols = kind == TENSOR_MATRIX ? p->parts[i].all_cols : 0;
    t->cut = -1;
}

static void fill_part(struct tensor_item *t, int rank, const struct planned_weight *p, int i,
    enum tensor_kind kind)
{
    const struct weight_part *w = &p->parts[i];
    struct tensor_part *part = &t->parts[rank];

    *part = (struct tensor_part){.row = w->row - w->as_row, .rows = w->rows};
    if (kind == TENSOR_MATRIX) {
        part->col = p->slice.col;
        part->cols = p->slice.cols;
        part->bytes = share(p, i);
    } else {
        part->bytes = (uint64_t)w->rows * sizeof(float);
    }
    if (part->rows != t->rows)
        t->cut = 0;
    else if (part->cols != t->cols)
        t->cut = 1;
}

static int tensors_of(const struct planned_weight *p)
{
    return p->slice.n_parts * (p->slice.bias ? 2 : 1);
}

static void add_tensor(struct plan_list *list, const struct planned_weight *const all[], int i,
    enum tensor_kind kind)
{
    struct tensor_item *t = &list->tensors[list->n_tensors++];

    fill_item(t, list->model, all[0], i, kind);
    for (int rank = 0; rank < list->model->size; rank++)
        fill_part(t, rank, all[rank], i, kind);
}

static void add_weight(struct plan_list *list, const struct planned_weight *const all[])
{
    const struct planned_weight *p = all[0];

    for (int i = 0; i < p->slice.n_parts; i++) {
        add_tensor(list, all, i, p->vector ? TENSOR_VECTOR : TENSOR_MATRIX);
        if (p->slice.bias)
            add_tensor(list, all, i, TENSOR_BIAS);
    }
}

/* Outside the layers: before them until the first was seen, behind them afterwards. */
static void set_sections(struct plan_list *list)
{
    bool seen = false;

    for (size_t i = 0; i < list->n_tensors; i++) {
        struct tensor_item *t = &list->tensors[i];

        seen = seen || t->section >= 0;
        if (t->section < 0)
            t->section = seen ? SECTION_END : SECTION_BEGIN;
    }
}

/* qsort() is not stable: items of one section keep their order, that of the memory they lie in. */
struct numbered {
    int section;
    size_t number;
};

static int by_section(const void *a, const void *b)
{
    const struct numbered *x = a, *y = b;

    if (x->section != y->section)
        return x->section < y->section ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

/* tail points into name: after an item has moved, it is found again. */
static enum status sort_tensors(struct plan_list *list)
{
    size_t n = list->n_tensors;
    struct numbered *order = calloc(n, sizeof(*order));
    struct tensor_item *sorted = calloc(n, sizeof(*sorted));

    if (order == NULL || sorted == NULL) {
        free(order);
        free(sorted);
        return log_fail(STATUS_NOMEM, "no memory to sort %zu tensors", n);
    }
    for (size_t i = 0; i < n; i++)
        order[i] = (struct numbered){.section = list->tensors[i].section, .number = i};
    qsort(order, n, sizeof(*order), by_section);
    for (size_t i = 0; i < n; i++) {
        sorted[i] = list->tensors[order[i].number];
        layer_of(sorted[i].name, &sorted[i].tail);
    }
    free(order);
    free(list->tensors);
    list->tensors = sorted;
    return STATUS_OK;
}

static enum status make_tensors(struct plan_list *list)
{
    const struct plan_model *m = list->model;
    const struct planned_weight *at[MAX_RANKS] = {0};
    size_t n = 0;

    for (int rank = 0; rank < m->size; rank++)
        at[rank] = m->ranks[rank].model.builder.first;
    for (const struct planned_weight *p = at[0]; p != NULL; p = p->next)
        n += (size_t)tensors_of(p);
    list->tensors = calloc(n, sizeof(*list->tensors));
    if (list->tensors == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a list of %zu tensors", n);
    while (at[0] != NULL) {
        for (int rank = 1; rank < m->size; rank++)
            if (at[rank] == NULL || strcmp(at[rank]->name, at[0]->name) != 0)
                return log_fail(STATUS_INTERNAL, "rank %d does not load %s where rank 0 does", rank,
                    at[0]->name);
        add_weight(list, at);
        for (int rank = 0; rank < m->size; rank++)
            at[rank] = at[rank]->next;
    }
    set_sections(list);
    return sort_tensors(list);
}

enum status plan_list_make(const struct plan_model *m, struct plan_list *list)
{
    enum status s;

    *list = (struct plan_list){.model = m};
    s = make_tensors(list);
    if (s == STATUS_OK)
        s = plan_list_ops(list);
    if (s != STATUS_OK)
        plan_list_free(list);
    return s;
}

void plan_list_free(struct plan_list *list)
{
    free(list->tensors);
    free(list->ops);
    *list = (struct plan_list){0};
}

/* Asking ----------------------------------------------------------------------------------- */

const char *plan_cut_name(const struct tensor_item *t)
{
    return t->cut < 0 ? "replicate" : t->cut == 0 ? "shard(0)" : "shard(1)";
}

static bool same_tensor(const struct tensor_item *a, const struct tensor_item *b, int size)
{
    if (strcmp(a->tail, b->tail) != 0 || a->strategy != b->strategy || a->line != b->line ||
        a->format != b->format || strcmp(a->method, b->method) != 0 || a->rows != b->rows ||
        a->cols != b->cols)
        return false;
    return memcmp(a->parts, b->parts, (size_t)size * sizeof(a->parts[0])) == 0;
}

static size_t first_of(const struct plan_list *list, int section)
{
    size_t i = 0;

    while (i < list->n_tensors && list->tensors[i].section != section)
        i++;
    return i;
}

bool plan_same_tensors(const struct plan_list *list, int a, int b)
{
    size_t i = first_of(list, a), k = first_of(list, b), n = list->n_tensors;

    while (i < n && k < n && list->tensors[i].section == a && list->tensors[k].section == b)
        if (!same_tensor(&list->tensors[i++], &list->tensors[k++], list->model->size))
            return false;
    return (i == n || list->tensors[i].section != a) && (k == n || list->tensors[k].section != b);
}

static struct evenness evenness_of(const struct plan_model *m,
    uint64_t (*of)(const struct plan_rank *))
{
    struct evenness e = {0};

    for (int rank = 0; rank < m->size; rank++) {
        uint64_t bytes = of(&m->ranks[rank]);

        e.mean += (double)bytes / m->size;
        if (bytes > e.largest)
            e.largest = bytes;
    }
    return e;
}

static uint64_t weights_of(const struct plan_rank *r)
{
    return r->memory[MEMORY_WEIGHTS];
}

static uint64_t kv_of(const struct plan_rank *r)
{
    return r->kv_per_token;
}

struct evenness plan_weights_evenness(const struct plan_model *m)
{
    return evenness_of(m, weights_of);
}

struct evenness plan_kv_evenness(const struct plan_model *m)
{
    return evenness_of(m, kv_of);
}
