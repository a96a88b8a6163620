/* test_pace.c - prompts beside answers, on a machine whose times the test makes up. */
#include "engine/engine.h"
#include "tests/engine/fake_device.h"
#include "tests/ipc/ipc_support.h"
#include "worker/meter.h"
#include "worker/pace.h"

enum { MOST = 512, FIRST = 16, CONTEXT = FAKE_BLOCKS * FAKE_BLOCK_SIZE };

/* A step takes fixed + answer_ns for each answer + token_ns for each token of prompts. */
struct machine {
    double fixed, answer_ns, token_ns;
};

static double step_ns(const struct machine *m, uint32_t answers, uint32_t prompts)
{
    return m->fixed + m->answer_ns * answers + m->token_ns * prompts;
}

/* Steps with so many answers and prompts that never end. The longest of the last half, beside what
 * it is without prompts; *tokens: of prompts in them. */
static double run(struct pace *p, const struct machine *m, uint32_t answers, int steps,
    uint32_t *tokens)
{
    double longest = 0;

    *tokens = 0;
    for (int i = 0; i < steps; i++) {
        uint32_t chunk = pace_chunk(p, answers, 1);
        double ns = step_ns(m, answers, chunk), stretch = ns / step_ns(m, answers, 0);

        assert_in_range(chunk, 0, MOST);
        pace_note(p, answers, chunk, (uint64_t)ns);
        if (i < steps / 2)
            continue;
        *tokens += chunk;
        longest = stretch > longest ? stretch : longest;
    }
    return longest;
}

static int open_pace(void **state)
{
    static struct pace p;

    *state = &p;
    return pace_open(&p, MOST, FIRST) == STATUS_OK ? 0 : -1;
}

static int close_pace(void **state)
{
    pace_close(*state);
    return 0;
}

static void a_step_takes_under_twice_what_answers_alone_take(void **state)
{
    static const struct machine machines[] = {
        {9e7, 6e6, 7e6},  /* weights come from memory: tokens beside an answer are cheap */
        {1e5, 1e6, 1e6},  /* each token costs the same */
        {5e6, 1e5, 2e4},  /* a device that is hardly used by answers */
        {1e6, 1e6, 3e6},
    };
    struct pace *p = *state;

    for (size_t i = 0; i < sizeof(machines) / sizeof(machines[0]); i++)
        for (uint32_t answers = 4; answers <= 64; answers *= 4) {
            uint32_t tokens, room;
            double longest;

            p->token.n = 0; /* another machine */
            longest = run(p, &machines[i], answers + (uint32_t)i, 400, &tokens);
            room = (uint32_t)(0.7 * step_ns(&machines[i], answers + (uint32_t)i, 0) / machines[i].token_ns);
            assert_true(longest < 1.75);
            /* and the time is used: all but the probes, and what a rounding costs */
            assert_true(tokens >= 180 * ((room < MOST ? room : MOST) - 1));
        }
}

static void it_follows_what_positions_and_contexts_cost(void **state)
{
    struct machine m = {9e7, 6e6, 7e6};
    struct pace *p = *state;
    uint32_t near, far, after;

    assert_true(run(p, &m, 4, 200, &near) < 1.75);
    m.token_ns *= 3;
    assert_true(run(p, &m, 4, 200, &far) < 1.75);
    assert_in_range(far, near / 4, near / 2);
    m.fixed *= 2; /* answers alone take longer: only a probe can tell */
    assert_true(run(p, &m, 4, 600, &after) < 1.75);
    assert_in_range(after / 3, far * 3 / 2, far * 2);
}

static void a_prompt_gets_on_however_much_it_costs(void **state)
{
    struct machine m = {0, 1e6, 5e7};
    struct pace *p = *state;
    uint32_t tokens;

    run(p, &m, 1, 400, &tokens);
    assert_in_range(tokens, 200 - 200 / PACE_PROBE - 1, 200);
}

static void one_step_that_others_made_long_changes_little(void **state)
{
    struct machine m = {9e7, 6e6, 7e6};
    struct pace *p = *state;
    uint32_t tokens, chunk;

    run(p, &m, 4, 80, &tokens);
    chunk = pace_chunk(p, 4, 1);
    assert_in_range(chunk, 9, 12);
    pace_note(p, 4, chunk, (uint64_t)5e9);
    assert_in_range(pace_chunk(p, 4, 1), chunk * 2 / 3, chunk);
    pace_note(p, 4, 0, (uint64_t)5e9);
    assert_in_range(pace_chunk(p, 4, 1), chunk * 2 / 3, chunk + 2);
}

/* One step in three is several times as long as it would be alone on the machine: chunks stay near
 * what they are there, and what they cost in all is not much more. */
static void a_busy_machine_does_not_make_chunks_ever_smaller(void **state)
{
    struct machine m = {9e7, 6e6, 7e6};
    struct pace *p = *state;
    uint64_t seed = test_seed();
    uint32_t tokens, chunks = 0;

    run(p, &m, 4, 200, &tokens);
    for (int i = 0; i < 1000; i++) {
        uint32_t chunk = pace_chunk(p, 4, 1);
        double others = test_random(&seed) % 3 == 0 ? 1 + (double)(test_random(&seed) % 600) / 100 : 1;

        pace_note(p, 4, chunk, (uint64_t)(others * step_ns(&m, 4, chunk)));
        chunks += i >= 500 ? chunk : 0;
    }
    assert_in_range(chunks, 500 * 5, 500 * 25);
}

static void a_crowd_of_prompts_has_more_than_one(void **state)
{
    struct machine m = {9e7, 6e6, 7e6};
    struct pace *p = *state;
    uint32_t tokens, one;

    run(p, &m, 32, 80, &tokens);
    one = pace_chunk(p, 32, 1);
    assert_int_equal(pace_chunk(p, 32, 3), one); /* not more yet than answers */
    assert_in_range(pace_chunk(p, 32, 9), 4 * one, 4 * one + 4);
    assert_int_equal(pace_chunk(p, 32, 1000), MOST);
}

static void prompts_alone_tell_what_the_first_chunk_may_be(void **state)
{
    struct pace *p = *state;

    pace_note(p, 0, FIRST - 1, 1); /* too few to tell */
    pace_note(p, 4, 0, 1000000);
    assert_int_equal(pace_chunk(p, 4, 1), FIRST);
    pace_note(p, 0, 100, 20000000);
    assert_int_equal(pace_chunk(p, 4, 1), 3); /* 0.7 ms at 0.2 ms each */
}

static void what_was_measured_long_ago_is_measured_anew(void **state)
{
    struct pace *p = *state;

    pace_note(p, 4, 0, 1000000);
    assert_int_equal(pace_chunk(p, 4, 1), FIRST);
    for (int i = 0; i <= PACE_STALE; i++)
        pace_note(p, 5, 0, 1000000);
    assert_int_equal(pace_chunk(p, 4, 1), 0);
    pace_note(p, 4, 0, 90000000);
    assert_true(p->alone[4].time.ns == 90000000);
}

/* The whole way: plans of the engine, the meter's clock, and back into the next plan. */
static uint32_t ask(void *context, uint32_t answers, uint32_t prompts)
{
    return pace_chunk(context, answers, prompts);
}

static void note_end(void *context, const struct engine_event *e)
{
    *(uint32_t *)context += e->kind == ENGINE_DONE;
}

static void add(struct engine *e, uint64_t id, uint32_t n, uint32_t max_tokens)
{
    int32_t ids[CONTEXT];

    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)((id * 7 + i) % FAKE_VOCAB);
    assert_int_equal(engine_add(e, &(struct engine_request){.id = id, .ids = ids, .n_ids = n,
        .max_tokens = max_tokens, .ignore_eos = true, .sampling = {.top_p = 1}}), STATUS_OK);
}

/* One answer, and prompts one after another, on a machine where tokens of prompts become dearer. */
static void the_engine_s_chunks_follow_the_clock(void **state)
{
    enum { STEPS = 60, DEARER = 30, SETTLED = 20 };
    static struct fake_device device;
    static struct stats stats;
    struct pace *p = *state;
    struct meter m = {.stats = &stats, .pace = p};
    struct engine_options o = {.limits = fake_limits, .generation = 1, .max_model_len = CONTEXT,
        .max_chunk = fake_limits.max_tokens, .pace = ask, .pacer = p};
    struct plan *plan = malloc(plan_max_bytes(&fake_limits));
    uint32_t ends = 0, most[2] = {0};
    struct engine *e;

    device = (struct fake_device){0};
    assert_int_equal(engine_open(&o, &e), STATUS_OK);
    add(e, 1, 2, STEPS + 2);
    for (uint64_t i = 0, now = 1; i < STEPS; i++) {
        const struct machine machine = {900, 100, i < DEARER ? 100 : 200};
        const struct fake_step *f;
        uint32_t prompts;

        if (engine_counts(e).running + engine_counts(e).waiting < 2)
            add(e, 2 + i, 30, 1);
        assert_int_equal(engine_plan(e, plan), STATUS_OK);
        prompts = plan->n_tokens - (i > 0);
        meter_submit(&m, plan, now);
        fake_submit(&device, plan);
        if (device.wrong != NULL)
            fail_msg("%s", device.wrong);
        f = fake_finish(&device);
        now += (uint64_t)step_ns(&machine, 1, prompts);
        meter_done(&m, plan->number, now);
        engine_done(e, f->number, f->ids, NULL, note_end, &ends);
        if (i % DEARER > SETTLED && prompts > most[i / DEARER])
            most[i / DEARER] = prompts;
    }
    assert_int_equal(most[0], 7); /* 0.7 * 1000 / 100 */
    assert_int_equal(most[1], 3);
    assert_true(ends >= 5);
    engine_close(e);
    free(plan);
}

int main(void)
{
#define WITH_PACE(test) cmocka_unit_test_setup_teardown(test, open_pace, close_pace)
    const struct CMUnitTest tests[] = {
        WITH_PACE(a_step_takes_under_twice_what_answers_alone_take),
        WITH_PACE(it_follows_what_positions_and_contexts_cost),
        WITH_PACE(a_prompt_gets_on_however_much_it_costs),
        WITH_PACE(one_step_that_others_made_long_changes_little),
        WITH_PACE(a_busy_machine_does_not_make_chunks_ever_smaller),
        WITH_PACE(a_crowd_of_prompts_has_more_than_one),
        WITH_PACE(prompts_alone_tell_what_the_first_chunk_may_be),
        WITH_PACE(what_was_measured_long_ago_is_measured_anew),
        WITH_PACE(the_engine_s_chunks_follow_the_clock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
