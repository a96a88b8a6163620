/* engine_bench.h - an engine, its last plan, and what it told. Steps are what the test says. */
#ifndef TESTS_ENGINE_ENGINE_BENCH_H
#define TESTS_ENGINE_ENGINE_BENCH_H

#include "engine/engine.h"
#include "quern/log.h"
#include "tests/engine/fake_device.h"
#include "tests/ipc/ipc_support.h"

enum { CONTEXT = FAKE_BLOCKS * FAKE_BLOCK_SIZE, EOS = 7, MOST_EVENTS = 256 };

struct bench {
    struct engine *engine;
    struct plan *plan;
    struct engine_event events[MOST_EVENTS];
    size_t n_events;
    uint64_t times[ENGINE_TOKEN_TIME + 1][8];
    size_t n_times[ENGINE_TOKEN_TIME + 1];
};

static inline void note_time(void *context, enum engine_time what, uint64_t ns)
{
    struct bench *b = context;

    assert_true(b->n_times[what] < 8);
    b->times[what][b->n_times[what]++] = ns;
}

static inline void note_event(void *context, const struct engine_event *e)
{
    struct bench *b = context;

    assert_true(b->n_events < MOST_EVENTS);
    b->events[b->n_events++] = *e;
}

static inline int open_with(void **state, const struct plan_limits *limits)
{
    static const int32_t eos[] = {EOS, EOS + 1};
    struct bench *b = calloc(1, sizeof(*b));
    struct engine_options o = {
        .limits = *limits, .generation = 1, .max_model_len = CONTEXT,
        .max_chunk = 12, .eos = eos, .n_eos = 2, .observe = note_time, .observer = b};

    *state = b;
    b->plan = malloc(plan_max_bytes(limits));
    return engine_open(&o, &b->engine) == STATUS_OK ? 0 : -1;
}

static inline int open_bench(void **state)
{
    return open_with(state, &fake_limits);
}

static inline int close_bench(void **state)
{
    struct bench *b = *state;

    engine_close(b->engine);
    free(b->plan);
    free(b);
    return 0;
}

/* A prompt of n ids, `id` giving their values. */
static inline enum status add(struct bench *b, uint64_t id, uint32_t n, uint32_t max_tokens)
{
    int32_t ids[CONTEXT];

    for (uint32_t i = 0; i < n && i < CONTEXT; i++)
        ids[i] = (int32_t)((id + i) % FAKE_VOCAB);
    return engine_add(b->engine, &(struct engine_request){.id = id, .ids = ids, .n_ids = n, .n_prompt = n,
        .max_tokens = max_tokens, .ignore_eos = true, .sampling = {.seed = id, .top_p = 1}});
}

static inline const struct plan_row *planned(struct bench *b)
{
    assert_int_equal(engine_plan(b->engine, b->plan), STATUS_OK);
    assert_int_equal(plan_check(b->plan, b->plan->bytes, &fake_limits, 1), STATUS_OK);
    return plan_rows(b->plan);
}

static inline void done(struct bench *b, uint64_t number, const int32_t *ids)
{
    engine_done(b->engine, number, ids, NULL, note_event, b);
}

#define ENGINE_TEST(test) cmocka_unit_test_setup_teardown(test, open_bench, close_bench)

#endif
