/* test_builder.c - layers put together: what a rank loads, what is reduced, where a bias goes.
 *
 * Weights come from a source that computes them from their names, and a
 * backend that keeps matrices as plain float32 rows, so that a rank's part can
 * be compared with what the checkpoint "has". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layers/layers.h"
#include "quern/log.h"
#include "tests/ipc/ipc_support.h"

enum { HIDDEN = 24, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 8, INNER = 48, VOCAB = 56, TOKENS = 16 };

/* The source ------------------------------------------------------------------------------- */

struct fake_tensor {
    const char *name;
    uint64_t rows, cols; /* cols 0: a vector */
};

static const struct fake_tensor tensors[] = {
    {"table.weight", VOCAB, HIDDEN},
    {"norm.weight", HIDDEN, 0},
    {"attn.q_proj.weight", HEADS * HEAD_DIM, HIDDEN},
    {"attn.k_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN},
    {"attn.v_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN},
    {"attn.o_proj.weight", HIDDEN, HEADS * HEAD_DIM},
    {"attn.q_proj.bias", HEADS * HEAD_DIM, 0},
    {"attn.k_proj.bias", KV_HEADS * HEAD_DIM, 0},
    {"attn.v_proj.bias", KV_HEADS * HEAD_DIM, 0},
    {"attn.o_proj.bias", HIDDEN, 0},
    {"attn.q_norm.weight", HEAD_DIM, 0},
    {"attn.k_norm.weight", HEAD_DIM, 0},
    {"mlp.gate_proj.weight", INNER, HIDDEN},
    {"mlp.up_proj.weight", INNER, HIDDEN},
    {"mlp.down_proj.weight", HIDDEN, INNER},
};

/* An element tells where it came from, exactly in float32: tensor, row, column. */
static float element(const char *name, uint64_t row, uint64_t col)
{
    size_t t = 0;

    while (strcmp(tensors[t].name, name) != 0)
        t++;
    return (float)(t * 10000 + row * 100 + col);
}

static const char *missing; /* a tensor that this checkpoint has not */

static bool fake_find(const struct weight_source *src, const char *name, struct source_tensor *out)
{
    (void)src;
    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]); i++)
        if (strcmp(tensors[i].name, name) == 0 && (missing == NULL || strcmp(name, missing) != 0)) {
            *out = (struct source_tensor){.file = "fake", .view = {.name = tensors[i].name,
                .dtype = FILE_F32, .ndim = tensors[i].cols ? 2 : 1,
                .shape = {tensors[i].rows, tensors[i].cols}}};
            return true;
        }
    return false;
}

static void fake_read(const struct weight_source *src, const struct source_tensor *t,
    uint64_t first, uint64_t n, enum dtype as, void *dst)
{
    uint64_t cols = t->view.ndim == 2 ? t->view.shape[1] : 1;

    (void)src;
    assert_int_equal(as, DTYPE_F32);
    for (uint64_t i = 0; i < n; i++)
        ((float *)dst)[i] = element(t->view.name, (first + i) / cols, (first + i) % cols);
}

static void fake_close(struct weight_source *src)
{
    (void)src;
}

static const struct source_ops fake_ops = {
    .find = fake_find, .read = fake_read, .close = fake_close};

/* The backend ------------------------------------------------------------------------------- */

static size_t bytes_held; /* taken and not released */

static void *fake_alloc(struct device *d, size_t bytes)
{
    (void)d;
    bytes_held += bytes;
    return calloc(1, bytes);
}

static void fake_release(struct device *d, void *mem, size_t bytes)
{
    (void)d;
    bytes_held -= bytes;
    free(mem);
}

static size_t fake_weight_bytes(struct device *d, enum weight_format format, uint32_t n, uint32_t k)
{
    (void)d;
    assert_int_equal(format, WEIGHT_F32);
    return (size_t)n * k * sizeof(float);
}

static void fake_pack(struct device *d, struct weight *w, uint32_t n0, uint32_t rows,
    const void *src)
{
    (void)d;
    assert_int_equal(n0 % 16, 0);
    assert_true(rows % 16 == 0 || n0 + rows == w->n);
    memcpy((float *)w->data + (size_t)n0 * w->k, src, (size_t)rows * w->k * sizeof(float));
}

static void fake_vector(struct device *d, float *dst, const float *src, uint32_t n)
{
    (void)d;
    memcpy(dst, src, n * sizeof(float));
}

static const struct backend fake_backend = {
    .name = "fake",
    .alloc = fake_alloc,
    .release = fake_release,
    .weight_bytes = fake_weight_bytes,
    .weight_pack = fake_pack,
    .vector_write = fake_vector,
};

static uint64_t progressed;

static void count_progress(void *context, uint64_t bytes)
{
    (void)context;
    progressed += bytes;
}

/* A model of one layer ------------------------------------------------------------------------ */

struct model {
    struct weight_source source;
    struct weight_loader loader;
    struct comm comm;
    struct program program;
    struct builder b;
};

static void fill_shape(struct program_shape *s, int rank, int size)
{
    struct head_shard own = shard_heads(HEADS, KV_HEADS, rank, size);
    struct range vocab = shard_range(VOCAB, VOCAB_UNIT, rank, size);

    *s = (struct program_shape){
        .limits = {.max_slots = 2, .max_tokens = TOKENS, .max_outputs = 2, .max_blocks_per_slot = 2,
            .n_blocks = 4, .block_size = 8, .vocab = VOCAB},
        .hidden = HIDDEN, .layers = 1, .head_dim = HEAD_DIM, .heads = own.q.count,
        .kv_heads = own.kv.count, .vocab_first = vocab.first, .vocab_rows = vocab.count,
        .vocab = VOCAB, .kv_dtype = DTYPE_F32};
    for (uint32_t i = 0; i < own.q.count; i++)
        s->q_to_kv[i] = (uint16_t)((own.q.first + i) / (HEADS / KV_HEADS) - own.kv.first);
}

static void begin(struct model *m, int rank, int size)
{
    struct program_shape shape;

    *m = (struct model){.source = {.ops = &fake_ops, .model = "fake"}};
    m->loader = (struct weight_loader){.source = &m->source, .backend = &fake_backend,
        .compute = COMPUTE_F32, .progress = count_progress};
    m->comm = (struct comm){.rank = rank, .size = size};
    fill_shape(&shape, rank, size);
    program_init(&m->program, &shape, &m->comm);
    builder_init(&m->b, &m->program, &m->loader, &quant_none, rank, size);
}

static enum status build(struct model *m, int rank, int size)
{
    struct builder *b = &m->b;
    struct range inner = shard_range(INNER, MLP_UNIT, rank, size);
    const struct weight *table;
    struct program_shape *s;
    int x, h, y, picked, logits;
    struct attention_shape attention;
    struct mlp_shape mlp;

    begin(m, rank, size);
    s = &m->program.shape;
    x = builder_buffer(b, "x", EXTENT_TOKENS, HIDDEN, partial_place(b));
    h = builder_buffer(b, "h", EXTENT_TOKENS, HIDDEN, PLACE_REPLICATE);
    y = builder_buffer(b, "y", EXTENT_TOKENS, HIDDEN, partial_place(b));
    picked = builder_buffer(b, "picked", EXTENT_OUTPUTS, HIDDEN, PLACE_REPLICATE);
    logits = builder_buffer(b, "logits", EXTENT_OUTPUTS, s->vocab_rows, PLACE_SHARD);
    attention = (struct attention_shape){.hidden = HIDDEN, .heads = HEADS, .kv_heads = KV_HEADS,
        .head_dim = HEAD_DIM, .bias = true,
        .qkv = builder_buffer(b, "qkv", EXTENT_TOKENS, (s->heads + 2 * s->kv_heads) * HEAD_DIM,
            PLACE_SHARD),
        .attended = builder_buffer(b, "attended", EXTENT_TOKENS, s->heads * HEAD_DIM, PLACE_SHARD)};
    mlp = (struct mlp_shape){.hidden = HIDDEN, .intermediate = INNER,
        .gate_up = builder_buffer(b, "gate_up", EXTENT_TOKENS, 2 * inner.count, PLACE_SHARD),
        .product = builder_buffer(b, "product", EXTENT_TOKENS, inner.count, PLACE_SHARD)};
    table = vocabulary_weight(b, "table", VOCAB, HIDDEN);
    builder_op(b, (struct op){.kind = OP_BEGIN, .layer = -1, .in = {-1, -1}, .out = -1});
    embedding_layer(b, table, x);
    norm_layer(b, 0, "norm", HIDDEN, x, -1, h);
    attention_layer(b, 0, "attn", &attention, h, y);
    norm_layer(b, 0, "norm", HIDDEN, x, y, h);
    mlp_layer(b, 0, "mlp", &mlp, h, y);
    norm_layer(b, 0, "norm", HIDDEN, x, y, h);
    head_layer(b, table, h, picked, logits);
    return builder_finish(b);
}

static void end(struct model *m)
{
    builder_free(&m->b);
    program_free(&m->program);
}

static int count_ops(const struct program *p, enum op_kind kind)
{
    int n = 0;

    for (int i = 0; i < p->n_ops; i++)
        n += p->ops[i].kind == kind;
    return n;
}

static const struct op *find_weight(const struct program *p, const char *name)
{
    for (int i = 0; i < p->n_ops; i++)
        if (p->ops[i].weight != NULL && strcmp(p->ops[i].weight->name, name) == 0)
            return &p->ops[i];
    fail_msg("no operation has weight %s", name);
    return NULL;
}

/* Tests ------------------------------------------------------------------------------------- */

static void every_partial_product_is_reduced_on_several_ranks(void **state)
{
    struct model m;

    (void)state;
    for (int size = 2; size <= 4; size++)
        for (int rank = 0; rank < size; rank++) {
            assert_int_equal(build(&m, rank, size), STATUS_OK);
            assert_int_equal(count_ops(&m.program, OP_ALL_REDUCE), 3); /* embedding, o, down */
            for (int i = 0; i + 1 < m.program.n_ops; i++) {
                const struct op *op = &m.program.ops[i];

                if (op->out >= 0 && op->kind != OP_ALL_REDUCE && op->kind != OP_ADD_BIAS &&
                    m.program.buffers[op->out].place == PLACE_PARTIAL) {
                    assert_int_equal(op[1].kind, OP_ALL_REDUCE);
                    assert_int_equal(op[1].in[0], op->out);
                }
            }
            end(&m);
        }
}

static void one_rank_reduces_nothing(void **state)
{
    struct model m;

    (void)state;
    assert_int_equal(build(&m, 0, 1), STATUS_OK);
    assert_int_equal(count_ops(&m.program, OP_ALL_REDUCE), 0);
    assert_int_equal(count_ops(&m.program, OP_ADD_BIAS), 0);
    for (int i = 0; i < m.program.n_buffers; i++)
        assert_int_not_equal(m.program.buffers[i].place, PLACE_PARTIAL);
    end(&m);
}

static void forgotten_reduce_is_found_when_the_program_is_built(void **state)
{
    struct model m;
    int x, h;

    (void)state;
    begin(&m, 0, 2);
    x = builder_buffer(&m.b, "x", EXTENT_TOKENS, HIDDEN, PLACE_PARTIAL);
    h = builder_buffer(&m.b, "h", EXTENT_TOKENS, HIDDEN, PLACE_REPLICATE);
    builder_op(&m.b, (struct op){.kind = OP_BEGIN, .layer = -1, .in = {-1, -1}, .out = -1});
    builder_op(&m.b, (struct op){.kind = OP_EMBED, .layer = -1, .in = {-1, -1}, .out = x,
        .weight = vocabulary_weight(&m.b, "table", VOCAB, HIDDEN)});
    norm_layer(&m.b, 0, "norm", HIDDEN, x, -1, h); /* embedding_layer() would have reduced x */
    assert_int_equal(builder_finish(&m.b), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "x: is Partial here: only all_reduce may read it"));
    end(&m);
}

static void missing_tensor_is_an_error_that_names_it(void **state)
{
    static const char *const names[] = {
        "table.weight", "norm.weight", "attn.v_proj.weight", "attn.k_proj.bias", "attn.q_norm.weight",
        "attn.o_proj.bias", "mlp.down_proj.weight",
    };
    struct model m;

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        for (int size = 1; size <= 2; size++) {
            missing = names[i];
            assert_int_equal(build(&m, 0, size), STATUS_INVALID);
            assert_non_null(strstr(log_last_error(), names[i]));
            end(&m);
        }
    missing = NULL;
    assert_int_equal(bytes_held, 0);
}

static void wrong_shape_is_an_error_that_names_both(void **state)
{
    struct model m;

    (void)state;
    begin(&m, 0, 1);
    assert_null(vocabulary_weight(&m.b, "table", VOCAB + 1, HIDDEN));
    assert_int_equal(builder_finish(&m.b), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "[56,24]"));
    assert_non_null(strstr(log_last_error(), "[57,24]"));
    end(&m);
}

static void too_many_buffers_are_an_error(void **state)
{
    struct model m;

    (void)state;
    begin(&m, 0, 1);
    for (int i = 0; i < PROGRAM_MAX_BUFFERS; i++)
        assert_int_equal(builder_buffer(&m.b, "b", EXTENT_TOKENS, 1, PLACE_REPLICATE), i);
    assert_int_equal(builder_buffer(&m.b, "b", EXTENT_TOKENS, 1, PLACE_REPLICATE), -1);
    assert_int_equal(builder_finish(&m.b), STATUS_INVALID);
    end(&m);
}

static void row_parallel_bias_is_added_once(void **state)
{
    struct model m;
    int biases = 0;

    (void)state;
    for (int rank = 0; rank < 2; rank++) {
        const struct op *bias;

        assert_int_equal(build(&m, rank, 2), STATUS_OK);
        assert_int_equal(builder_load(&m.b), STATUS_OK);
        assert_null(find_weight(&m.program, "attn.o_proj")->weight->bias);
        bias = find_weight(&m.program, "attn.o_proj.bias");
        assert_int_equal(bias->kind, OP_ADD_BIAS);
        assert_int_equal(bias[-1].kind, OP_ALL_REDUCE); /* behind the sum over ranks */
        assert_int_equal(bias[-1].in[0], bias->in[0]);
        for (uint32_t i = 0; i < HIDDEN; i++)
            assert_true(((float *)bias->weight->data)[i] == element("attn.o_proj.bias", i, 0));
        biases += count_ops(&m.program, OP_ADD_BIAS);
        end(&m);
    }
    assert_int_equal(biases, 2); /* each rank to its own copy of the sum */
    assert_int_equal(build(&m, 0, 1), STATUS_OK);
    assert_int_equal(builder_load(&m.b), STATUS_OK);
    assert_true(find_weight(&m.program, "attn.o_proj")->weight->bias[3] ==
        element("attn.o_proj.bias", 3, 0));
    end(&m);
}

static void check_rows(const float *got, const char *name, uint64_t row, uint32_t rows, uint64_t col,
    uint32_t cols)
{
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++)
            assert_true(got[(size_t)r * cols + c] == element(name, row + r, col + c));
}

static void check_vector(const float *got, const char *name, uint64_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        assert_true(got[i] == element(name, first + i, 0));
}

static void check_qkv(const struct program *p, int rank, int size)
{
    const struct weight *w = find_weight(p, "attn.q_proj")->weight;
    struct head_shard own = shard_heads(HEADS, KV_HEADS, rank, size);
    uint32_t q = own.q.count * HEAD_DIM, kv = own.kv.count * HEAD_DIM;
    const float *data = w->data;

    assert_int_equal(w->n, q + 2 * kv);
    check_rows(data, "attn.q_proj.weight", own.q.first * HEAD_DIM, q, 0, HIDDEN);
    check_rows(data + (size_t)q * HIDDEN, "attn.k_proj.weight", own.kv.first * HEAD_DIM, kv, 0,
        HIDDEN);
    check_rows(data + (size_t)(q + kv) * HIDDEN, "attn.v_proj.weight", own.kv.first * HEAD_DIM, kv,
        0, HIDDEN);
    check_vector(w->bias, "attn.q_proj.bias", own.q.first * HEAD_DIM, q);
    check_vector(w->bias + q, "attn.k_proj.bias", own.kv.first * HEAD_DIM, kv);
    check_vector(w->bias + q + kv, "attn.v_proj.bias", own.kv.first * HEAD_DIM, kv);
}

static void check_columns(const struct program *p, const char *name, const char *tensor,
    struct range cols)
{
    const struct weight *w = find_weight(p, name)->weight;

    assert_int_equal(w->n, HIDDEN);
    assert_int_equal(w->k, cols.count);
    check_rows(w->data, tensor, 0, HIDDEN, cols.first, cols.count);
}

static void each_rank_loads_its_own_part(void **state)
{
    (void)state;
    for (int size = 1; size <= 4; size++)
        for (int rank = 0; rank < size; rank++) {
            struct range inner = shard_range(INNER, MLP_UNIT, rank, size);
            struct range vocab = shard_range(VOCAB, VOCAB_UNIT, rank, size);
            struct range q = shard_heads(HEADS, KV_HEADS, rank, size).q;
            const struct weight *gate_up;
            struct model m;

            progressed = 0;
            assert_int_equal(build(&m, rank, size), STATUS_OK);
            assert_int_equal(bytes_held, 0); /* nothing is taken before it is known */
            assert_int_equal(builder_load(&m.b), STATUS_OK);
            assert_int_equal(bytes_held, m.b.weight_bytes);
            assert_true(progressed > 0);
            check_rows(find_weight(&m.program, "table")->weight->data, "table.weight", vocab.first,
                vocab.count, 0, HIDDEN);
            check_qkv(&m.program, rank, size);
            check_columns(&m.program, "attn.o_proj", "attn.o_proj.weight",
                (struct range){q.first * HEAD_DIM, q.count * HEAD_DIM});
            gate_up = find_weight(&m.program, "mlp.gate_proj")->weight;
            check_rows(gate_up->data, "mlp.gate_proj.weight", inner.first, inner.count, 0, HIDDEN);
            check_rows((float *)gate_up->data + (size_t)inner.count * HIDDEN, "mlp.up_proj.weight",
                inner.first, inner.count, 0, HIDDEN);
            check_columns(&m.program, "mlp.down_proj", "mlp.down_proj.weight", inner);
            end(&m);
            assert_int_equal(bytes_held, 0);
        }
}

static void tied_table_is_one_weight(void **state)
{
    struct model m;
    const struct op *head;

    (void)state;
    assert_int_equal(build(&m, 0, 2), STATUS_OK);
    head = &m.program.ops[m.program.n_ops - 2];
    assert_int_equal(head->kind, OP_LINEAR);
    assert_ptr_equal(head->weight, find_weight(&m.program, "table")->weight);
    end(&m);
}

static void built_and_never_loaded_leaves_nothing(void **state)
{
    struct model m;

    (void)state;
    assert_int_equal(build(&m, 1, 2), STATUS_OK);
    end(&m);
    end(&m);
    assert_int_equal(bytes_held, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_partial_product_is_reduced_on_several_ranks),
        cmocka_unit_test(one_rank_reduces_nothing),
        cmocka_unit_test(forgotten_reduce_is_found_when_the_program_is_built),
        cmocka_unit_test(missing_tensor_is_an_error_that_names_it),
        cmocka_unit_test(wrong_shape_is_an_error_that_names_both),
        cmocka_unit_test(too_many_buffers_are_an_error),
        cmocka_unit_test(row_parallel_bias_is_added_once),
        cmocka_unit_test(each_rank_loads_its_own_part),
        cmocka_unit_test(tied_table_is_one_weight),
        cmocka_unit_test(built_and_never_loaded_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
