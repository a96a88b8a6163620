/* test_rendezvous.c - ranks meet, or say who is missing. */
#include "tests/ipc/ipc_support.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ipc/rendezvous.h"

enum { RANKS = 4, GENERATION = 9 };

static const uint64_t ms = 1000000;

static int setup(void **state)
{
    static struct views v;

    views_open(&v, rendezvous_bytes(RANKS) + sizeof(uint32_t));
    assert_int_equal(rendezvous_init(v.a.base, RANKS, GENERATION), STATUS_OK);
    *state = &v;
    return 0;
}

static int teardown(void **state)
{
    views_close(*state);
    return 0;
}

static struct rendezvous view_of(const struct segment *s)
{
    struct rendezvous r = {0};

    assert_int_equal(rendezvous_attach(s->base, s->bytes, &r), STATUS_OK);
    return r;
}

/* One rank of a test: it joins `rounds` times and checks what all left. */
struct guest {
    struct rendezvous r;
    uint32_t rank, rounds;
    const _Atomic uint32_t *stop;
    long late_ms;
};

static void say(char text[64], uint32_t rank, uint32_t round)
{
    snprintf(text, 64, "rank %u in round %u", rank, round);
}

static bool all_said_so(const struct rendezvous *r, uint32_t round)
{
    char expected[64];

    for (uint32_t i = 0; i < r->ranks; i++) {
        size_t bytes;
        const char *got;

        say(expected, i, round);
        got = rendezvous_blob(r, i, &bytes);
        if (got == NULL || bytes != strlen(expected) + 1 || strcmp(got, expected) != 0)
            return false;
    }
    return true;
}

static bool attend(void *context)
{
    struct guest *g = context;
    char text[64];

    nap_ms(g->late_ms);
    for (uint32_t round = 1; round <= g->rounds; round++) {
        say(text, g->rank, round);
        if (rendezvous_join(&g->r, g->rank, GENERATION, text, strlen(text) + 1, g->stop,
                spin_deadline_ns(TEST_PATIENCE_NS)) != STATUS_OK ||
            !all_said_so(&g->r, round))
            return false;
    }
    return true;
}

static void meet(struct views *v, uint32_t rounds, long late_ms)
{
    pid_t children[RANKS];

    for (uint32_t i = 0; i < RANKS; i++) {
        struct guest g = {
            .r = view_of(i & 1 ? &v->b : &v->a),
            .rank = i,
            .rounds = rounds,
            .late_ms = i == 2 ? late_ms : 0,
        };

        children[i] = child_start(attend, &g);
    }
    for (int i = 0; i < RANKS; i++)
        child_must_succeed(children[i]);
}

static void every_rank_sees_every_blob(void **state)
{
    meet(*state, 1, 0);
}

static void everybody_waits_for_the_late(void **state)
{
    meet(*state, 1, 150);
}

static void hundreds_of_rounds_stay_in_step(void **state)
{
    meet(*state, 500, 0);
}

struct guest_thread {
    struct guest guest;
    bool good;
};

static void *attending_thread(void *context)
{
    struct guest_thread *t = context;

    t->good = attend(&t->guest);
    return NULL;
}

/* At one address, where the thread sanitizer sees what they share. */
static void threads_stay_in_step_too(void **state)
{
    struct views *v = *state;
    struct guest_thread guests[RANKS];
    pthread_t threads[RANKS];

    for (uint32_t i = 0; i < RANKS; i++) {
        guests[i] = (struct guest_thread){.guest = {.r = view_of(&v->a), .rank = i, .rounds = 200}};
        assert_int_equal(pthread_create(&threads[i], NULL, attending_thread, &guests[i]), 0);
    }
    for (int i = 0; i < RANKS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(guests[i].good);
    }
}

static void lonely_rank_meets_itself(void **state)
{
    struct segment s;
    struct rendezvous r;
    size_t bytes = 9;

    (void)state;
    assert_int_equal(segment_create("test", rendezvous_bytes(1), &s), STATUS_OK);
    assert_int_equal(rendezvous_init(s.base, 1, 1), STATUS_OK);
    r = view_of(&s);
    assert_null(rendezvous_blob(&r, 0, &bytes));
    assert_int_equal(rendezvous_join(&r, 0, 1, NULL, 0, NULL, 0), STATUS_OK);
    assert_non_null(rendezvous_blob(&r, 0, &bytes));
    assert_int_equal(bytes, 0);
    assert_null(rendezvous_blob(&r, 1, &bytes));
    segment_close(&s);
}

static void deadline_names_the_missing_ranks(void **state)
{
    struct views *v = *state;
    struct rendezvous zero = view_of(&v->a), two = view_of(&v->b);

    assert_int_equal(
        rendezvous_join(&zero, 0, GENERATION, NULL, 0, NULL, spin_deadline_ns(10 * ms)),
        STATUS_TIMEOUT);
    assert_string_equal(
        log_last_error(), "rendezvous: ranks 1, 2, 3 of 4 did not join within 0.0 s");
    assert_int_equal(
        rendezvous_join(&two, 2, GENERATION, NULL, 0, NULL, spin_deadline_ns(200 * ms)),
        STATUS_TIMEOUT);
    assert_string_equal(log_last_error(), "rendezvous: ranks 1, 3 of 4 did not join within 0.2 s");
}

static void one_missing_rank_is_named_in_the_singular(void **state)
{
    struct views *v = *state;
    struct rendezvous r = view_of(&v->a);

    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(rendezvous_join(&r, i, GENERATION, NULL, 0, NULL, 0), STATUS_TIMEOUT);
    assert_string_equal(log_last_error(), "rendezvous: rank 3 of 4 did not join within 0.0 s");
    assert_int_equal(rendezvous_join(&r, 3, GENERATION, NULL, 0, NULL, 0), STATUS_OK);
}

static void long_lists_of_missing_ranks_are_cut(void **state)
{
    struct segment s;
    struct rendezvous r;

    (void)state;
    assert_int_equal(segment_create("test", rendezvous_bytes(RENDEZVOUS_RANKS), &s), STATUS_OK);
    assert_int_equal(rendezvous_init(s.base, RENDEZVOUS_RANKS, 1), STATUS_OK);
    r = view_of(&s);
    assert_int_equal(rendezvous_join(&r, 0, 1, NULL, 0, NULL, 0), STATUS_TIMEOUT);
    assert_non_null(strstr(log_last_error(), "ranks 1, 2, 3, "));
    assert_non_null(strstr(log_last_error(), ", ... of 256 did not join"));
    segment_close(&s);
}

static bool is_stopped(void *context)
{
    struct guest *g = context;

    return rendezvous_join(&g->r, g->rank, GENERATION, NULL, 0, g->stop, SPIN_FOREVER) ==
               STATUS_DEAD &&
           strcmp(log_last_error(),
               "rendezvous: the group was stopped while rank 1 waited for rank 0") == 0;
}

static void abort_word_ends_the_wait(void **state)
{
    struct views *v = *state;
    _Atomic uint32_t *stop = segment_at(&v->a, v->a.bytes - 64, 4);
    struct guest g = {.r = view_of(&v->b), .rank = 1, .stop = stop};
    pid_t child = child_start(is_stopped, &g);

    nap_ms(30);
    atomic_store_explicit(stop, 1, memory_order_relaxed);
    child_must_succeed(child);
}

static void another_generation_is_refused(void **state)
{
    struct rendezvous r = view_of(&((struct views *)*state)->a);

    assert_int_equal(
        rendezvous_join(&r, 0, GENERATION - 1, NULL, 0, NULL, SPIN_FOREVER), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "generation 9, rank 0 to generation 8"));
    assert_int_equal(flag_value(&r.shared->seats[0].joined), 0);
}

static void bad_arguments_are_refused(void **state)
{
    struct rendezvous r = view_of(&((struct views *)*state)->a);
    char blob[RENDEZVOUS_BLOB_BYTES + 1] = {0};

    assert_int_equal(
        rendezvous_join(&r, RANKS, GENERATION, NULL, 0, NULL, SPIN_FOREVER), STATUS_INVALID);
    assert_int_equal(
        rendezvous_join(&r, 0, GENERATION, blob, sizeof(blob), NULL, SPIN_FOREVER), STATUS_INVALID);
    assert_int_equal(rendezvous_bytes(0), 0);
    assert_int_equal(rendezvous_bytes(RENDEZVOUS_RANKS + 1), 0);
    assert_int_equal(rendezvous_init(r.shared, 0, 1), STATUS_INVALID);
}

static void blob_length_that_lies_is_cut(void **state)
{
    struct segment s;
    struct rendezvous r;
    size_t bytes;

    (void)state;
    assert_int_equal(segment_create("test", rendezvous_bytes(1), &s), STATUS_OK);
    assert_int_equal(rendezvous_init(s.base, 1, 1), STATUS_OK);
    r = view_of(&s);
    assert_int_equal(rendezvous_join(&r, 0, 1, "x", 1, NULL, 0), STATUS_OK);
    r.shared->seats[0].blob_bytes[1] = UINT32_MAX;
    assert_non_null(rendezvous_blob(&r, 0, &bytes));
    assert_int_equal(bytes, RENDEZVOUS_BLOB_BYTES);
    segment_close(&s);
}

static void memory_without_a_rendezvous_is_refused(void **state)
{
    struct views *v = *state;
    struct rendezvous_shared *shared = v->a.base;
    struct rendezvous r;

    assert_int_equal(rendezvous_attach(shared, rendezvous_bytes(RANKS) - 1, &r), STATUS_INVALID);
    shared->ranks = RENDEZVOUS_RANKS;
    assert_int_equal(rendezvous_attach(shared, v->a.bytes, &r), STATUS_INVALID);
    shared->ranks = 0;
    assert_int_equal(rendezvous_attach(shared, v->a.bytes, &r), STATUS_INVALID);
    shared->magic++;
    assert_int_equal(rendezvous_attach(shared, v->a.bytes, &r), STATUS_INVALID);
}

#define IN_A_GROUP(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_GROUP(every_rank_sees_every_blob),
        IN_A_GROUP(everybody_waits_for_the_late),
        IN_A_GROUP(hundreds_of_rounds_stay_in_step),
        IN_A_GROUP(threads_stay_in_step_too),
        cmocka_unit_test(lonely_rank_meets_itself),
        IN_A_GROUP(deadline_names_the_missing_ranks),
        IN_A_GROUP(one_missing_rank_is_named_in_the_singular),
        cmocka_unit_test(long_lists_of_missing_ranks_are_cut),
        IN_A_GROUP(abort_word_ends_the_wait),
        IN_A_GROUP(another_generation_is_refused),
        IN_A_GROUP(bad_arguments_are_refused),
        cmocka_unit_test(blob_length_that_lies_is_cut),
        IN_A_GROUP(memory_without_a_rendezvous_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
