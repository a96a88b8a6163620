/* plan_text.c - a plan for people: five tables, equal layers told once. */
#include <stdio.h>
#include <string.h>

#include "quern/log.h"
#include "tools/plan_list.h"
#include "tools/text_table.h"

enum { RANKS_ABREAST = 4 };

typedef bool same_layers(const struct plan_list *list, int a, int b);
typedef void add_section(const struct plan_list *list, int section, struct table *t);

static void add_run(struct table *t, int first, int last, int like)
{
    if (first == last)
        table_line(t, "  layer %d: as layer %d", first, like);
    else if (first < last)
        table_line(t, "  layers %d-%d: as layer %d", first, last, like);
}

/* The first layer that this one is the same as; itself if none before it is. */
static int first_like(const struct plan_list *list, int layer, same_layers *same)
{
    for (int i = 0; i < layer; i++)
        if (same(list, i, layer))
            return i;
    return layer;
}

/* Each layer that is like none before it, and one line for each run of others. */
static void add_layers(const struct plan_list *list, struct table *t, same_layers *same,
    add_section *add)
{
    int begun = 0, like = -1, layers = list->model->config.layers;

    for (int layer = 0; layer < layers; layer++) {
        int now = first_like(list, layer, same);

        if (now == like)
            continue;
        if (like >= 0)
            add_run(t, begun, layer - 1, like);
        like = now == layer ? -1 : now;
        begun = layer;
        if (now == layer)
            add(list, layer, t);
    }
    if (like >= 0)
        add_run(t, begun, layers - 1, like);
}

static void add_all(const struct plan_list *list, struct table *t, same_layers *same,
    add_section *add)
{
    add(list, SECTION_BEGIN, t);
    add_layers(list, t, same, add);
    add(list, SECTION_END, t);
}

static enum status print_and_free(struct table *t)
{
    enum status s = table_print(t);

    table_free(t);
    return s;
}

/* Tensors ---------------------------------------------------------------------------------- */

static void add_parts(const struct plan_list *list, const struct tensor_item *r, int from,
    struct table *t)
{
    for (int rank = from; rank < list->model->size && rank < from + RANKS_ABREAST; rank++) {
        const struct tensor_part *p = &r->parts[rank];
        uint32_t first = r->cut == 1 ? p->col : p->row, n = r->cut == 1 ? p->cols : p->rows;
        char bytes[16];

        if (n == 0)
            table_word(t, "none");
        else
            table_word(t, "%u-%u, %s", first, first + n - 1, bytes_text(p->bytes, bytes));
    }
}

static void add_tensor(const struct plan_list *list, const struct tensor_item *r, struct table *t)
{
    char line[24] = "", bytes[16];

    if (r->line > 0)
        snprintf(line, sizeof(line), " (line %d)", r->line);
    table_begin(t);
    table_word(t, "  %s", r->tail);
    table_word(t, "%s%s", r->strategy->name, line);
    table_word(t, "%s", plan_cut_name(r));
    if (r->cols > 0)
        table_word(t, "[%u, %u]", r->rows, r->cols);
    else
        table_word(t, "[%u]", r->rows);
    table_word(t, "%s", r->format);
    if (r->cut < 0) {
        table_word(t, "%s%s", bytes_text(r->parts[0].bytes, bytes),
            list->model->size > 1 ? " each" : "");
        return;
    }
    add_parts(list, r, 0, t);
    for (int from = RANKS_ABREAST; from < list->model->size; from += RANKS_ABREAST) {
        table_begin(t);
        for (int i = 0; i < 4; i++)
            table_word(t, "%s", "");
        table_word(t, "from rank %d:", from);
        add_parts(list, r, from, t);
    }
}

/* Rows behind this line are of that section. */
static void add_section_line(int section, struct table *t)
{
    if (section == SECTION_END)
        table_line(t, "  behind the layers:");
    else if (section >= 0)
        table_line(t, "  layer %d:", section);
}

static void add_tensors(const struct plan_list *list, int section, struct table *t)
{
    add_section_line(section, t);
    for (size_t i = 0; i < list->n_tensors; i++)
        if (list->tensors[i].section == section)
            add_tensor(list, &list->tensors[i], t);
}

static enum status print_tensors(const struct plan_list *list)
{
    static const char *const heads[] = {"TENSORS", "strategy", "placement", "shape", "stored as"};
    struct table t = {0};

    table_begin(&t);
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        table_word(&t, "%s", heads[i]);
    for (int rank = 0; rank < list->model->size && rank < RANKS_ABREAST; rank++)
        table_word(&t, "rank %d", rank);
    add_all(list, &t, plan_same_tensors, add_tensors);
    return print_and_free(&t);
}

/* Program ---------------------------------------------------------------------------------- */

/* "model.layers.0.self_attn.q_proj+model.layers.0.self_attn.k_proj" ->
 * "model.layers.0.self_attn.q_proj+k_proj". */
static void short_weight(const char *name, char *text, size_t room)
{
    size_t at = 0;

    text[0] = '\0';
    while (*name != '\0' && at < room) {
        size_t n = strcspn(name, "+");
        const char *from = name;

        for (size_t i = 0; at > 0 && i < n; i++)
            if (name[i] == '.')
                from = name + i + 1;
        at += (size_t)snprintf(text + at, room - at, "%s%.*s", at > 0 ? "+" : "",
            (int)(name + n - from), from);
        name += n + (name[n] == '+');
    }
}

static const char *buffer_name(const struct plan_list *list, int buffer)
{
    return list->model->ranks[0].model.program.buffers[buffer].name;
}

static void add_inputs(const struct plan_list *list, const struct op_item *r, struct table *t)
{
    const int *in = r->op->in;

    if (in[0] < 0)
        table_word(t, "%s", "");
    else if (in[1] < 0)
        table_word(t, "%s (%s)", buffer_name(list, in[0]), place_name(r->in[0]));
    else
        table_word(t, "%s (%s), %s (%s)", buffer_name(list, in[0]), place_name(r->in[0]),
            buffer_name(list, in[1]), place_name(r->in[1]));
}

static void add_op(const struct plan_list *list, const struct op_item *r, struct table *t)
{
    int out = r->op->out >= 0 ? r->op->out : r->op->in[0];
    char weight[TABLE_WORD], bytes[16];

    short_weight(r->weight, weight, sizeof(weight));
    table_begin(t);
    table_word(t, "  %s", op_name(r->op->kind));
    add_inputs(list, r, t);
    if (out < 0 || r->op->kind == OP_SAMPLE)
        table_word(t, "%s", "");
    else
        table_word(t, "-> %s (%s)", buffer_name(list, out), place_name(r->out));
    table_word(t, "%s", weight);
    if (r->moved > 0)
        table_word(t, "%s", bytes_text(r->moved, bytes));
}

static void add_ops(const struct plan_list *list, int section, struct table *t)
{
    add_section_line(section, t);
    for (size_t i = 0; i < list->n_ops; i++)
        if (list->ops[i].section == section)
            add_op(list, &list->ops[i], t);
}

static enum status print_program(const struct plan_list *list)
{
    static const char *const heads[] = {"PROGRAM", "reads", "writes", "weight", "communicates"};
    struct table t = {0};

    table_begin(&t);
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        table_word(&t, "%s", heads[i]);
    add_all(list, &t, plan_same_ops, add_ops);
    return print_and_free(&t);
}

static enum status print_buffers(const struct plan_list *list)
{
    const struct plan_model *m = list->model;
    const struct program *p = &m->ranks[0].model.program;
    struct table t = {0};

    table_begin(&t);
    table_word(&t, "BUFFERS");
    table_word(&t, "a row for each");
    table_word(&t, "columns of float32 on rank 0");
    for (int i = 0; i < p->n_buffers; i++) {
        table_begin(&t);
        table_word(&t, "  %s", p->buffers[i].name);
        table_word(&t, "%s", p->buffers[i].rows == EXTENT_TOKENS ? "token" : "output");
        table_word(&t, "%u", p->buffers[i].cols);
    }
    return print_and_free(&t);
}

/* Communication ---------------------------------------------------------------------------- */

static void add_traffic(const struct plan_list *list, int section, struct table *t)
{
    for (size_t i = 0; i < list->n_ops; i++) {
        const struct op_item *r = &list->ops[i];
        int buffer = r->op->in[r->op->kind == OP_REDUCE_ADD_NORM];
        char bytes[16], most[16];

        if (r->section != section || r->moved == 0)
            continue;
        table_begin(t);
        if (section >= 0 && section != SECTION_END)
            table_word(t, "  layer %d", section);
        else
            table_word(t, "  %s the layers", section == SECTION_END ? "behind" : "before");
        table_word(t, "%s", op_name(r->op->kind));
        table_word(t, "%s", buffer_name(list, buffer));
        if (r->moved_most != r->moved)
            table_word(t, "%s, or %s with top-k, top-p or min-p", bytes_text(r->moved, bytes),
                bytes_text(r->moved_most, most));
        else
            table_word(t, "%s", bytes_text(r->moved, bytes));
        if (r->per_output)
            table_word(t, "for each output");
    }
}

static enum status print_communication(const struct plan_list *list)
{
    char bytes[16];
    struct table t = {0};

    if (list->model->size == 1) {
        puts("COMMUNICATION: none, there is one rank");
        return STATUS_OK;
    }
    table_begin(&t);
    table_word(&t, "COMMUNICATION");
    table_word(&t, "operation");
    table_word(&t, "buffer");
    table_word(&t, "bytes per token (each value once)");
    add_all(list, &t, plan_same_ops, add_traffic);
    table_line(&t, "  in all: %s per token", bytes_text(plan_list_moved(list, SECTION_ALL), bytes));
    return print_and_free(&t);
}

/* Memory ----------------------------------------------------------------------------------- */

static void add_memory(const struct plan_model *m, int rank, struct table *t)
{
    const struct plan_rank *r = &m->ranks[rank];
    const struct program_shape *shape = &r->model.program.shape;
    char bytes[16];

    table_begin(t);
    table_word(t, "  rank %d", rank);
    table_word(t, "%u", shape->heads);
    table_word(t, "%u", shape->kv_heads);
    for (int k = 0; k < MEMORY_KINDS; k++)
        table_word(t, "%s", bytes_text(r->memory[k], bytes));
    table_word(t, "%s", bytes_text(memory_sum(r->memory), bytes));
    table_word(t, "%s", bytes_text(r->kv_per_token, bytes));
}

static void print_evenness(const char *what, struct evenness e)
{
    char largest[16], mean[16];

    printf("    %s: the largest rank has %s, the mean is %s: %.3f times\n", what,
        bytes_text(e.largest, largest), bytes_text((uint64_t)e.mean, mean),
        e.mean > 0 ? (double)e.largest / e.mean : 1.0);
}

static enum status print_memory(const struct plan_list *list)
{
    static const char *const heads[] = {"MEMORY", "heads", "KV heads"};
    const struct plan_model *m = list->model;
    struct table t = {0};
    enum status s;

    table_begin(&t);
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        table_word(&t, "%s", heads[i]);
    for (int k = 0; k < MEMORY_KINDS; k++)
        table_word(&t, "%s", memory_rows[k].name);
    table_word(&t, "%s", "in all");
    table_word(&t, "%s", "KV per token");
    for (int rank = 0; rank < m->size; rank++)
        add_memory(m, rank, &t);
    s = print_and_free(&t);
    printf("  buffers are for %u tokens in a step, the KV cache for %u sequences of %u tokens "
           "(%s)\n", m->max_batched_tokens, m->max_seqs, m->max_model_len,
        m->options.memory == 0 ? "it gets what memory there is" : "as far as --memory allows");
    if (m->size == 1)
        return s;
    puts("  a step takes as long as the rank that has most:");
    print_evenness("weights", plan_weights_evenness(m));
    print_evenness("KV cache for a token", plan_kv_evenness(m));
    return s;
}

static void print_head(const struct plan_model *m)
{
    const struct model_config *c = &m->config;

    printf("model  %s: Qwen3, %d layer%s, hidden %d, intermediate %d, %d query and %d KV heads of "
           "%d, vocabulary %d\n", m->options.model, c->layers, c->layers == 1 ? "" : "s",
        c->hidden, c->intermediate, c->heads, c->kv_heads, c->head_dim, c->vocab);
    printf("plan   %s, %d rank%s (%s), compute %s, KV cache %s\n\n", tp_plan_name(m->plan), m->size,
        m->size > 1 ? "s" : "", m->backend->describe(m->device), m->options.compute,
        m->options.kv_dtype);
}

enum status plan_print_text(const struct plan_list *list)
{
    static enum status (*const parts[])(const struct plan_list *) = {
        print_tensors, print_program, print_buffers, print_communication, print_memory};
    enum status s = STATUS_OK;

    print_head(list->model);
    for (size_t i = 0; s == STATUS_OK && i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (i > 0)
            putchar('\n');
        s = parts[i](list);
    }
    return s;
}
