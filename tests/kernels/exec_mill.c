/* exec_mill.c - see exec_mill.h. */
#include "exec_mill.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 64 };

int32_t mill_id(uint32_t i)
{
    return (int32_t)((i * 29 + 7) % MILL_VOCAB);
}

static struct program_shape shape_of(enum compute compute, uint32_t cols)
{
    return (struct program_shape){
        .limits = {.max_slots = 1, .max_tokens = MILL_TOKENS, .max_outputs = 1,
            .max_blocks_per_slot = 1, .n_blocks = 1, .block_size = BLOCK, .vocab = MILL_VOCAB},
        .hidden = cols, .layers = 1, .head_dim = 4, .vocab = MILL_VOCAB,
        .vocab_rows = MILL_VOCAB, .rms_eps = 1e-6f, .rope_scale = 1, .kv_dtype = DTYPE_F32,
        .compute = compute,
    };
}

static void add_table(struct mill *m, const float *table, uint32_t cols)
{
    struct comm_rows own = comm_own_rows(MILL_VOCAB, m->comm != NULL ? m->comm->rank : 0,
        m->comm != NULL ? m->comm->size : 1);
    struct weight *w = &m->weights[m->n_weights++];

    *w = (struct weight){.name = "table", .n = (uint32_t)own.count, .k = cols,
        .format = WEIGHT_F32};
    m->packed = malloc(cpu_backend.weight_bytes(m->device, w->format, w->n, w->k));
    assert_non_null(m->packed);
    w->data = m->packed;
    cpu_backend.weight_pack(m->device, w, 0, w->n, table + own.first * cols);
    m->x = mill_buffer(m, "x", cols, m->comm != NULL ? PLACE_PARTIAL : PLACE_REPLICATE);
    mill_op(m, (struct op){.kind = OP_EMBED, .in = {-1, -1}, .out = m->x,
        .first_id = (uint32_t)own.first, .weight = w});
}

void mill_open(struct mill *m, struct comm *comm, int threads, enum compute compute,
    const float *table, uint32_t cols)
{
    const struct backend_options options = {.threads = threads, .first_cpu = -1};
    struct program_shape shape = shape_of(compute, cols);

    *m = (struct mill){.comm = comm};
    assert_int_equal(cpu_backend.open(&options, &m->device), STATUS_OK);
    program_init(&m->program, &shape, comm);
    mill_op(m, (struct op){.kind = OP_BEGIN, .in = {-1, -1}, .out = -1});
    add_table(m, table, cols);
}

void mill_close(struct mill *m)
{
    cpu_backend.program_unload(m->executable);
    program_free(&m->program);
    cpu_backend.close(m->device);
    free(m->packed);
}

int mill_buffer(struct mill *m, const char *name, uint32_t cols, enum place place)
{
    int buffer = program_buffer(&m->program, name, EXTENT_TOKENS, cols, place);

    assert_true(buffer >= 0);
    return buffer;
}

void mill_op(struct mill *m, struct op op)
{
    assert_int_equal(program_op(&m->program, op), STATUS_OK);
}

void mill_in_place(struct mill *m, enum op_kind kind, int buffer)
{
    mill_op(m, (struct op){.kind = kind, .in = {buffer, -1}, .out = buffer});
}

const struct weight *mill_vector(struct mill *m, const float *values, uint32_t n)
{
    struct weight *w = &m->weights[m->n_weights++];

    assert_true(m->n_weights <= MILL_WEIGHTS);
    *w = (struct weight){.name = "vector", .n = n, .format = WEIGHT_F32, .data = (void *)values};
    return w;
}

void mill_load(struct mill *m)
{
    assert_int_equal(program_check(&m->program), STATUS_OK);
    assert_int_equal(cpu_backend.program_load(m->device, &m->program, &m->executable), STATUS_OK);
}

static void submit(struct mill *m, uint32_t n)
{
    const struct plan_limits *limits = &m->program.shape.limits;
    struct plan *p = malloc(plan_max_bytes(limits));

    assert_non_null(p);
    plan_begin(p, limits, 1, m->executable->submitted);
    plan_starts(p)[p->n_starts++] = (struct slot_start){.sampling = {.top_p = 1}};
    plan_changes(p)[p->n_changes++] = (struct block_change){.block = 0};
    plan_rows(p)[p->n_rows++] = (struct plan_row){.n_tokens = n, .output = OUTPUT_NONE};
    for (uint32_t i = 0; i < n; i++)
        plan_tokens(p)[p->n_tokens++] = mill_id(i);
    plan_pack(p);
    assert_int_equal(plan_check(p, p->bytes, limits, 1), STATUS_OK);
    assert_int_equal(cpu_backend.submit(m->executable, p), STATUS_OK);
    free(p);
}

void mill_step(struct mill *mills, int size, uint32_t n)
{
    for (int r = 0; r < size; r++)
        submit(&mills[r], n);
    for (int r = 0; r < size; r++) {
        struct step_result result;

        assert_int_equal(cpu_backend.wait(mills[r].executable,
            mills[r].executable->submitted - 1, &result), STATUS_OK);
    }
}
