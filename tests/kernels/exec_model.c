/* exec_model.c - see exec_model.h. The forward pass is written from the formulas, one position
 * at a time and in double, sharing nothing with the kernels. */
#include "exec_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What tests share ----------------------------------------------------------------------- */

void prompt_of(int32_t *ids, int n)
{
    for (int i = 0; i < n; i++)
        ids[i] = (i * 31 + i * i * 7 + 3) % VOCAB;
}

struct step_result rank_wait(struct rank *r, uint64_t number)
{
    struct step_result result;

    assert_int_equal(cpu_backend.wait(r->executable, number, &result), STATUS_OK);
    assert_int_equal(result.number, number);
    return result;
}

double relative_error(const float *got, const double *want, size_t n)
{
    double difference = 0, size = 0;

    for (size_t i = 0; i < n; i++) {
        difference += (got[i] - want[i]) * (got[i] - want[i]);
        size += want[i] * want[i];
    }
    return sqrt(difference / size);
}

/* Weights -------------------------------------------------------------------------------- */

static float next_value(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 40) * 0x1p-23 - 1); /* [-1, 1) */
}

static void fill(float *x, size_t n, float center, float width, uint64_t *state)
{
    for (size_t i = 0; i < n; i++)
        x[i] = bf16_round(center + width * next_value(state));
}

#define FILL(array, center, width) \
    fill(m->array, sizeof(m->array) / sizeof(m->array[0]), center, width, &state)

void model_fill(struct model *m, uint32_t seed)
{
    uint64_t state = seed;

    FILL(embed, 0, 1);
    FILL(head, 0, 0.8f);
    FILL(norm1, 1, 0.3f);
    FILL(norm2, 1, 0.3f);
    FILL(norm3, 1, 0.3f);
    FILL(q_norm, 1, 0.3f);
    FILL(k_norm, 1, 0.3f);
    FILL(q, 0, 0.4f);
    FILL(k, 0, 0.4f);
    FILL(v, 0, 0.4f);
    FILL(o, 0, 0.4f);
    FILL(gate, 0, 0.4f);
    FILL(up, 0, 0.4f);
    FILL(down, 0, 0.4f);
    FILL(o_bias, 0, 0.5f);
    for (int i = 0; i < HEAD_DIM / 2; i++)
        m->inv_freq[i] = 1.0f / powf(1000.0f, 2.0f * (float)i / HEAD_DIM);
}

/* By hand -------------------------------------------------------------------------------- */

static void product(double *y, const float *w, const double *x, int n, int k)
{
    for (int i = 0; i < n; i++) {
        y[i] = 0;
        for (int j = 0; j < k; j++)
            y[i] += (double)w[i * k + j] * x[j];
    }
}

static void norm(double *y, const double *x, const float *w, int n)
{
    double square = 0;

    for (int i = 0; i < n; i++)
        square += x[i] * x[i];
    for (int i = 0; i < n; i++)
        y[i] = x[i] / sqrt(square / n + 1e-6) * w[i];
}

static void rotate(double *x, const struct model *m, int position)
{
    for (int i = 0; i < HEAD_DIM / 2; i++) {
        double angle = (float)position * m->inv_freq[i], a = x[i], b = x[i + HEAD_DIM / 2];

        x[i] = a * cos(angle) - b * sin(angle);
        x[i + HEAD_DIM / 2] = b * cos(angle) + a * sin(angle);
    }
}

struct cache {
    double k[KV_HEADS][TOKENS][HEAD_DIM], v[KV_HEADS][TOKENS][HEAD_DIM];
};

static void attend(double *out, const double *q, const struct cache *c, int head, int position)
{
    double score[TOKENS], sum = 0;

    for (int p = 0; p <= position; p++) {
        score[p] = 0;
        for (int i = 0; i < HEAD_DIM; i++)
            score[p] += q[i] * c->k[head][p][i];
        score[p] = exp(score[p] / sqrt(HEAD_DIM));
        sum += score[p];
    }
    for (int i = 0; i < HEAD_DIM; i++) {
        out[i] = 0;
        for (int p = 0; p <= position; p++)
            out[i] += score[p] / sum * c->v[head][p][i];
    }
}

static void layer_forward(const struct model *m, struct cache *c, double *x, int position)
{
    double h[HIDDEN], q[HEADS * HEAD_DIM], k[KV_HEADS * HEAD_DIM], v[KV_HEADS * HEAD_DIM],
        a[HEADS * HEAD_DIM], y[HIDDEN], gate[INTER], up[INTER];

    norm(h, x, m->norm1, HIDDEN);
    product(q, m->q, h, HEADS * HEAD_DIM, HIDDEN);
    product(k, m->k, h, KV_HEADS * HEAD_DIM, HIDDEN);
    product(v, m->v, h, KV_HEADS * HEAD_DIM, HIDDEN);
    for (int j = 0; j < KV_HEADS; j++) {
        norm(c->k[j][position], k + j * HEAD_DIM, m->k_norm, HEAD_DIM);
        rotate(c->k[j][position], m, position);
        memcpy(c->v[j][position], v + j * HEAD_DIM, HEAD_DIM * sizeof(double));
    }
    for (int j = 0; j < HEADS; j++) {
        double turned[HEAD_DIM];

        norm(turned, q + j * HEAD_DIM, m->q_norm, HEAD_DIM);
        rotate(turned, m, position);
        attend(a + j * HEAD_DIM, turned, c, j / (HEADS / KV_HEADS), position);
    }
    product(y, m->o, a, HIDDEN, HEADS * HEAD_DIM);
    for (int i = 0; i < HIDDEN; i++)
        x[i] += y[i] + m->o_bias[i];
    norm(h, x, m->norm2, HIDDEN);
    product(gate, m->gate, h, INTER, HIDDEN);
    product(up, m->up, h, INTER, HIDDEN);
    for (int i = 0; i < INTER; i++)
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    product(y, m->down, gate, HIDDEN, INTER);
    for (int i = 0; i < HIDDEN; i++)
        x[i] += y[i];
}

void model_forward(const struct model *m, const int32_t *ids, int n, bool layer, double *logits)
{
    struct cache *c = calloc(1, sizeof(*c));
    double x[HIDDEN], h[HIDDEN];

    assert_non_null(c);
    for (int p = 0; p < n; p++) {
        for (int i = 0; i < HIDDEN; i++)
            x[i] = m->embed[ids[p] * HIDDEN + i];
        if (layer)
            layer_forward(m, c, x, p);
        norm(h, x, m->norm3, HIDDEN);
        product(logits + (size_t)p * VOCAB, m->head, layer ? h : x, VOCAB, HIDDEN);
    }
    free(c);
}

/* The program ---------------------------------------------------------------------------- */

/* [first, first + count) of n units, as evenly as ceil allows. */
struct cut {
    int first, count;
};

static struct cut cut_of(int n, const struct rank_options *o)
{
    int each = (n + o->size - 1) / o->size, first = each * o->rank < n ? each * o->rank : n;

    return (struct cut){first, n - first < each ? n - first : each};
}

static const struct weight *add_vector(struct rank *r, const char *name, const float *src, int n)
{
    struct weight *w = &r->weights[r->n_weights++];

    *w = (struct weight){.name = name, .n = (uint32_t)n, .format = WEIGHT_F32,
        .data = cpu_backend.alloc(r->device, (size_t)n * sizeof(float))};
    assert_non_null(w->data);
    cpu_backend.vector_write(r->device, w->data, src, (uint32_t)n);
    return w;
}

/* rows [n, k], dense; packed in two goes, the first ending at a panel. */
static const struct weight *add_matrix(struct rank *r, const char *name, const float *rows, int n,
    int k)
{
    struct weight *w = &r->weights[r->n_weights++];
    uint32_t half = (uint32_t)n / 32 * 16;
    uint16_t *narrow = malloc((size_t)n * (size_t)k * sizeof(*narrow));
    bool wide = r->options.format == WEIGHT_F32;

    assert_non_null(narrow);
    for (int i = 0; i < n * k; i++)
        narrow[i] = f32_to_bf16(rows[i]);
    *w = (struct weight){.name = name, .n = (uint32_t)n, .k = (uint32_t)k,
        .format = r->options.format};
    w->data = cpu_backend.alloc(r->device,
        cpu_backend.weight_bytes(r->device, w->format, w->n, w->k));
    assert_non_null(w->data);
    cpu_backend.weight_pack(r->device, w, 0, half, wide ? (const void *)rows : narrow);
    cpu_backend.weight_pack(r->device, w, half, w->n - half,
        wide ? (const void *)(rows + half * w->k) : narrow + half * w->k);
    free(narrow);
    return w;
}

/* Columns [first, first + count) of w [n, k]. */
static const struct weight *add_columns(struct rank *r, const char *name, const float *w, int n,
    int k, struct cut c)
{
    float *part = malloc((size_t)n * (size_t)c.count * sizeof(*part));
    const struct weight *out;

    assert_non_null(part);
    for (int i = 0; i < n; i++)
        memcpy(part + i * c.count, w + i * k + c.first, (size_t)c.count * sizeof(*part));
    out = add_matrix(r, name, part, n, c.count);
    free(part);
    return out;
}

static void add_op(struct rank *r, struct op op)
{
    assert_int_equal(program_op(&r->program, op), STATUS_OK);
}

static int add_buffer(struct rank *r, const char *name, enum extent rows, int cols,
    enum place place)
{
    int number = program_buffer(&r->program, name, rows, (uint32_t)cols, place);

    assert_true(number >= 0);
    return number;
}

/* The heads of a rank, and the KV heads that cover them. */
static struct cut kv_cut(const struct rank_options *o)
{
    int each = KV_HEADS >= o->size ? KV_HEADS / o->size : 1;

    return (struct cut){o->rank * KV_HEADS / o->size, each};
}

static const struct weight *add_qkv(struct rank *r, const struct model *m, struct cut q,
    struct cut kv)
{
    enum { ROW = HEAD_DIM * HIDDEN };
    float *rows = malloc(sizeof(m->q) + sizeof(m->k) + sizeof(m->v));
    const struct weight *w;

    assert_non_null(rows);
    memcpy(rows, m->q + q.first * ROW, (size_t)(q.count * ROW) * sizeof(*rows));
    memcpy(rows + q.count * ROW, m->k + kv.first * ROW, (size_t)(kv.count * ROW) * sizeof(*rows));
    memcpy(rows + (q.count + kv.count) * ROW, m->v + kv.first * ROW,
        (size_t)(kv.count * ROW) * sizeof(*rows));
    w = add_matrix(r, "qkv", rows, (q.count + 2 * kv.count) * HEAD_DIM, HIDDEN);
    free(rows);
    return w;
}

static const struct weight *add_gate_up(struct rank *r, const struct model *m, struct cut c)
{
    float *rows = malloc(sizeof(m->gate) + sizeof(m->up));
    const struct weight *w;

    assert_non_null(rows);
    memcpy(rows, m->gate + c.first * HIDDEN, (size_t)(c.count * HIDDEN) * sizeof(*rows));
    memcpy(rows + c.count * HIDDEN, m->up + c.first * HIDDEN,
        (size_t)(c.count * HIDDEN) * sizeof(*rows));
    w = add_matrix(r, "gate+up", rows, 2 * c.count, HIDDEN);
    free(rows);
    return w;
}

static void reduce(struct rank *r, int buffer)
{
    if (r->options.size > 1)
        add_op(r, (struct op){.kind = OP_ALL_REDUCE, .in = {buffer, -1}, .out = buffer});
}

/* The layer; returns the buffer of the last norm. */
static int add_layer(struct rank *r, const struct model *m, int x, enum place partial)
{
    const struct rank_options *o = &r->options;
    struct cut q = cut_of(HEADS, o), kv = kv_cut(o), inter = cut_of(INTER, o);
    int h = add_buffer(r, "h", EXTENT_TOKENS, HIDDEN, PLACE_REPLICATE);
    int y = add_buffer(r, "y", EXTENT_TOKENS, HIDDEN, partial);
    int qkv = add_buffer(r, "qkv", EXTENT_TOKENS, (q.count + 2 * kv.count) * HEAD_DIM,
        PLACE_SHARD);
    int a = add_buffer(r, "attended", EXTENT_TOKENS, q.count * HEAD_DIM, PLACE_SHARD);
    int gate_up = add_buffer(r, "gate_up", EXTENT_TOKENS, 2 * inter.count, PLACE_SHARD);
    int act = add_buffer(r, "product", EXTENT_TOKENS, inter.count, PLACE_SHARD);

    add_op(r, (struct op){.kind = OP_NORM, .in = {x, -1}, .out = h,
        .weight = add_vector(r, "norm1", m->norm1, HIDDEN)});
    add_op(r, (struct op){.kind = OP_LINEAR, .in = {h, -1}, .out = qkv,
        .weight = add_qkv(r, m, q, kv)});
    add_op(r, (struct op){.kind = OP_QK_ROPE, .in = {qkv, -1}, .out = qkv,
        .weight = add_vector(r, "q_norm", m->q_norm, HEAD_DIM),
        .weight2 = add_vector(r, "k_norm", m->k_norm, HEAD_DIM)});
    add_op(r, (struct op){.kind = OP_ATTENTION, .in = {qkv, -1}, .out = a});
    add_op(r, (struct op){.kind = OP_LINEAR, .in = {a, -1}, .out = y,
        .weight = add_columns(r, "o", m->o, HIDDEN, HEADS * HEAD_DIM,
            (struct cut){q.first * HEAD_DIM, q.count * HEAD_DIM})});
    reduce(r, y);
    add_op(r, (struct op){.kind = OP_ADD_BIAS, .in = {y, -1}, .out = y,
        .weight = add_vector(r, "o_bias", m->o_bias, HIDDEN)});
    add_op(r, (struct op){.kind = OP_ADD_NORM, .in = {x, y}, .out = h,
        .weight = add_vector(r, "norm2", m->norm2, HIDDEN)});
    add_op(r, (struct op){.kind = OP_LINEAR, .in = {h, -1}, .out = gate_up,
        .weight = add_gate_up(r, m, inter)});
    add_op(r, (struct op){.kind = OP_SILU_MUL, .in = {gate_up, -1}, .out = act});
    add_op(r, (struct op){.kind = OP_LINEAR, .in = {act, -1}, .out = y,
        .weight = add_columns(r, "down", m->down, HIDDEN, INTER, inter)});
    reduce(r, y);
    add_op(r, (struct op){.kind = OP_ADD_NORM, .in = {x, y}, .out = h,
        .weight = add_vector(r, "norm3", m->norm3, HIDDEN)});
    return h;
}

static void add_program(struct rank *r, const struct model *m)
{
    const struct rank_options *o = &r->options;
    struct cut vocab = cut_of(VOCAB, o);
    enum place partial = o->size > 1 ? PLACE_PARTIAL : PLACE_REPLICATE;
    int x = add_buffer(r, "x", EXTENT_TOKENS, HIDDEN, partial), last = x;
    int picked = add_buffer(r, "picked", EXTENT_OUTPUTS, HIDDEN, PLACE_REPLICATE);
    int logits = add_buffer(r, "logits", EXTENT_OUTPUTS, vocab.count, PLACE_SHARD);

    add_op(r, (struct op){.kind = OP_BEGIN, .layer = -1, .in = {-1, -1}, .out = -1});
    add_op(r, (struct op){.kind = OP_EMBED, .layer = -1, .in = {-1, -1}, .out = x,
        .first_id = (uint32_t)vocab.first,
        .weight = add_matrix(r, "embed", m->embed + vocab.first * HIDDEN, vocab.count, HIDDEN)});
    reduce(r, x);
    if (o->layer)
        last = add_layer(r, m, x, partial);
    add_op(r, (struct op){.kind = OP_PICK, .layer = -1, .in = {last, -1}, .out = picked});
    add_op(r, (struct op){.kind = OP_LINEAR, .layer = -1, .in = {picked, -1}, .out = logits,
        .weight = add_matrix(r, "head", m->head + vocab.first * HIDDEN, vocab.count, HIDDEN)});
    add_op(r, (struct op){.kind = OP_SAMPLE, .layer = -1, .in = {logits, picked}, .out = -1});
    assert_int_equal(program_check(&r->program), STATUS_OK);
}

static struct program_shape shape_of(const struct rank_options *o, const struct model *m)
{
    struct cut vocab = cut_of(VOCAB, o);
    struct cut q = o->layer ? cut_of(HEADS, o) : (struct cut){0, 0};
    struct cut kv = o->layer ? kv_cut(o) : (struct cut){0, 0};
    struct program_shape s = {
        .limits = {.max_slots = SLOTS, .max_tokens = TOKENS, .max_outputs = OUTPUTS,
            .max_blocks_per_slot = BLOCKS_PER_SLOT, .n_blocks = N_BLOCKS, .block_size = BLOCK,
            .vocab = VOCAB},
        .hidden = HIDDEN, .layers = 1, .head_dim = HEAD_DIM, .heads = (uint32_t)q.count,
        .kv_heads = (uint32_t)kv.count, .vocab_first = (uint32_t)vocab.first,
        .vocab_rows = (uint32_t)vocab.count, .vocab = VOCAB, .rms_eps = 1e-6f, .rope_scale = 1,
        .kv_dtype = o->kv_dtype, .compute = o->compute,
    };

    for (int h = 0; h < q.count; h++)
        s.q_to_kv[h] = (uint16_t)((q.first + h) / (HEADS / KV_HEADS) - kv.first);
    memcpy(s.inv_freq, m->inv_freq, sizeof(m->inv_freq));
    return s;
}

void rank_open(struct rank *r, const struct model *m, const struct rank_options *options)
{
    struct program_shape shape = shape_of(options, m);
    const struct backend_options backend = {
        .threads = options->threads, .first_cpu = -1, .isa = options->isa};
    uint64_t bytes[MEMORY_KINDS] = {0};

    *r = (struct rank){.options = *options};
    assert_int_equal(cpu_backend.open(&backend, &r->device), STATUS_OK);
    program_init(&r->program, &shape, options->comm);
    add_program(r, m);
    cpu_backend.program_bytes(r->device, &r->program, bytes);
    assert_true(bytes[MEMORY_BUFFERS] > 0 && bytes[MEMORY_LOGITS] > 0 &&
        bytes[MEMORY_WORKSPACE] > 0);
    assert_true(bytes[MEMORY_WEIGHTS] == 0 && bytes[MEMORY_SYMMETRIC] == 0); /* not its own */
    assert_int_equal(bytes[MEMORY_KV], N_BLOCKS * program_block_bytes(&shape));
    assert_int_equal(cpu_backend.program_load(r->device, &r->program, &r->executable), STATUS_OK);
    r->plan = malloc(plan_max_bytes(&shape.limits));
    assert_non_null(r->plan);
}

void rank_close(struct rank *r)
{
    cpu_backend.program_unload(r->executable);
    for (int i = 0; i < r->n_weights; i++) {
        const struct weight *w = &r->weights[i];

        cpu_backend.release(r->device, w->data, w->k == 0 ? w->n * sizeof(float)
            : cpu_backend.weight_bytes(r->device, w->format, w->n, w->k));
    }
    program_free(&r->program);
    cpu_backend.close(r->device);
    free(r->plan);
}
