/* plan_json.c - a plan for programs: everything, nothing left out or rounded. */
#include <jansson.h>
#include <stdio.h>

#include "quern/log.h"
#include "tools/plan_list.h"

/* Appends `value` (owned) to `array`; a NULL one is a failure that jansson keeps quiet about. */
static void append(json_t *array, json_t *value, bool *failed)
{
    if (json_array_append_new(array, value) != 0)
        *failed = true;
}

static void set(json_t *object, const char *key, json_t *value, bool *failed)
{
    if (json_object_set_new(object, key, value) != 0)
        *failed = true;
}

static json_t *number(uint64_t n)
{
    return json_integer((json_int_t)n);
}

/* Tensors ---------------------------------------------------------------------------------- */

static json_t *shape_json(const struct tensor_item *r)
{
    return r->cols > 0 ? json_pack("[i,i]", (int)r->rows, (int)r->cols)
                       : json_pack("[i]", (int)r->rows);
}

static json_t *part_json(const struct tensor_item *r, const struct tensor_part *p, bool *failed)
{
    json_t *part = json_pack("{s:[i,i]}", "rows", (int)p->row, (int)p->rows);

    if (r->cols > 0)
        set(part, "cols", json_pack("[i,i]", (int)p->col, (int)p->cols), failed);
    set(part, "bytes", number(p->bytes), failed);
    return part;
}

static json_t *tensor_json(const struct tensor_item *r, int size, bool *failed)
{
    json_t *ranks = json_array(), *t;

    for (int rank = 0; rank < size; rank++)
        append(ranks, part_json(r, &r->parts[rank], failed), failed);
    t = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o}", "name", r->name, "strategy",
        r->strategy->name, "placement", plan_cut_name(r), "method", r->method, "format", r->format,
        "shape", shape_json(r), "ranks", ranks);
    if (r->line > 0)
        set(t, "line", json_integer(r->line), failed);
    return t;
}

static json_t *tensors_json(const struct plan_list *list, bool *failed)
{
    json_t *tensors = json_array();

    for (size_t i = 0; i < list->n_tensors; i++)
        append(tensors, tensor_json(&list->tensors[i], list->model->size, failed), failed);
    return tensors;
}

/* Program ---------------------------------------------------------------------------------- */

static json_t *buffer_json(const struct plan_list *list, int buffer, enum place place)
{
    return json_pack("{s:s, s:s}", "buffer",
        list->model->ranks[0].model.program.buffers[buffer].name, "placement", place_name(place));
}

static json_t *op_json(const struct plan_list *list, const struct op_item *r, bool *failed)
{
    json_t *op = json_pack("{s:s, s:i}", "op", op_name(r->op->kind), "layer", r->op->layer);
    json_t *reads = json_array();
    int out = r->op->out >= 0 ? r->op->out : r->op->in[0];

    for (int n = 0; n < 2; n++)
        if (r->op->in[n] >= 0)
            append(reads, buffer_json(list, r->op->in[n], r->in[n]), failed);
    set(op, "reads", reads, failed);
    if (out >= 0 && r->op->kind != OP_SAMPLE)
        set(op, "writes", buffer_json(list, out, r->out), failed);
    if (r->weight[0] != '\0')
        set(op, "weight", json_string(r->weight), failed);
    if (r->moved == 0)
        return op;
    set(op, r->per_output ? "bytes_per_output" : "bytes_per_token", number(r->moved), failed);
    if (r->moved_most != r->moved)
        set(op, "most_bytes_per_output", number(r->moved_most), failed);
    return op;
}

static json_t *program_json(const struct plan_list *list, bool *failed)
{
    json_t *ops = json_array();

    for (size_t i = 0; i < list->n_ops; i++)
        append(ops, op_json(list, &list->ops[i], failed), failed);
    return ops;
}

/* Communication: bytes per token of each section. */
static json_t *communication_json(const struct plan_list *list, bool *failed)
{
    json_t *layers = json_array();

    for (int layer = 0; layer < list->model->config.layers; layer++)
        append(layers, number(plan_list_moved(list, layer)), failed);
    return json_pack("{s:o, s:o, s:o, s:o}", "before_layers",
        number(plan_list_moved(list, SECTION_BEGIN)), "layers", layers, "behind_layers",
        number(plan_list_moved(list, SECTION_END)), "bytes_per_token",
        number(plan_list_moved(list, SECTION_ALL)));
}

/* Ranks ------------------------------------------------------------------------------------ */

static json_t *buffers_json(const struct program *p, bool *failed)
{
    json_t *buffers = json_array();

    for (int i = 0; i < p->n_buffers; i++)
        append(buffers,
            json_pack("{s:s, s:s, s:i}", "name", p->buffers[i].name, "row_for",
                p->buffers[i].rows == EXTENT_TOKENS ? "token" : "output", "cols",
                (int)p->buffers[i].cols),
            failed);
    return buffers;
}

static json_t *memory_json(const uint64_t bytes[MEMORY_KINDS], bool *failed)
{
    json_t *memory = json_object();

    for (int k = 0; k < MEMORY_KINDS; k++)
        set(memory, memory_rows[k].key, number(bytes[k]), failed);
    return memory;
}

static json_t *rank_json(const struct plan_model *m, int rank, bool *failed)
{
    const struct program *p = &m->ranks[rank].model.program;
    json_t *r = json_pack("{s:i, s:i, s:i, s:i, s:i}", "rank", rank, "heads", (int)p->shape.heads,
        "kv_heads", (int)p->shape.kv_heads, "first_id", (int)p->shape.vocab_first, "ids",
        (int)p->shape.vocab_rows);

    set(r, "memory", memory_json(m->ranks[rank].memory, failed), failed);
    set(r, "kv_per_token", number(m->ranks[rank].kv_per_token), failed);
    set(r, "buffers", buffers_json(p, failed), failed);
    return r;
}

static json_t *evenness_json(struct evenness e)
{
    return json_pack("{s:o, s:f, s:f}", "largest", number(e.largest), "mean", e.mean,
        "largest_to_mean", e.mean > 0 ? (double)e.largest / e.mean : 1.0);
}

static json_t *model_json(const struct plan_model *m)
{
    const struct model_config *c = &m->config;

    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "path", m->options.model, "layers",
        c->layers, "hidden", c->hidden, "intermediate", c->intermediate, "heads", c->heads,
        "kv_heads", c->kv_heads, "head_dim", c->head_dim, "vocab", c->vocab);
}

static json_t *plan_json(const struct plan_list *list, bool *failed)
{
    const struct plan_model *m = list->model;
    json_t *plan = json_object(), *ranks = json_array();

    for (int rank = 0; rank < m->size; rank++)
        append(ranks, rank_json(m, rank, failed), failed);
    set(plan, "model", model_json(m), failed);
    set(plan, "plan", json_string(tp_plan_name(m->plan)), failed);
    set(plan, "tp", json_integer(m->size), failed);
    set(plan, "backend", json_string(m->backend->name), failed);
    set(plan, "compute", json_string(m->options.compute), failed);
    set(plan, "kv_dtype", json_string(m->options.kv_dtype), failed);
    set(plan, "max_batched_tokens", number(m->max_batched_tokens), failed);
    set(plan, "max_seqs", number(m->max_seqs), failed);
    set(plan, "max_model_len", number(m->max_model_len), failed);
    set(plan, "tensors", tensors_json(list, failed), failed);
    set(plan, "program", program_json(list, failed), failed);
    set(plan, "communication", communication_json(list, failed), failed);
    set(plan, "ranks", ranks, failed);
    set(plan, "memory", memory_json(m->memory, failed), failed);
    set(plan, "weights_evenness", evenness_json(plan_weights_evenness(m)), failed);
    set(plan, "kv_evenness", evenness_json(plan_kv_evenness(m)), failed);
    return plan;
}

enum status plan_print_json(const struct plan_list *list)
{
    bool failed = false;
    json_t *plan = plan_json(list, &failed);
    enum status s = STATUS_OK;

    if (plan == NULL || failed)
        s = log_fail(STATUS_NOMEM, "no memory for the plan as JSON");
    else if (json_dumpf(plan, stdout, JSON_INDENT(2)) != 0 && !ferror(stdout)) /* that: main() */
        s = log_fail(STATUS_NOMEM, "no memory for the plan as JSON");
    else
        putchar('\n');
    json_decref(plan);
    return s;
}
