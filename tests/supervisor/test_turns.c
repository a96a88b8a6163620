/* test_turns.c - in which order rank 0 gets what waits: by priority, then by turns. */
#include "tests/supervisor/supervisor_fixture.h"
#include "tests/support/random.h"

static const int32_t prompt[] = {5, 6, 7};

static void ask(struct client *c, uint64_t number, int32_t priority)
{
    submit(c, number, PROMPT_IDS, &(struct params){.given = 1u << PARAM_PRIORITY,
        .priority = priority}, prompt, sizeof(prompt));
}

/* The number of the next request that rank 0 takes out of its ring; 0: none. */
static uint64_t taken(struct fixture *f)
{
    struct request_msg m;
    const void *slot;

    ranks_push(&f->sv);
    if (ring_peek(&f->sv.shared.requests, &slot) != STATUS_OK)
        return 0;
    memcpy(&m, slot, sizeof(m));
    ring_release(&f->sv.shared.requests);
    assert_int_equal(ring_buffer_release(&f->sv.shared.request_bytes, m.end), STATUS_OK);
    assert_int_equal(m.priority, request_find(&f->sv, m.id)->params.priority);
    return request_find(&f->sv, m.id)->number;
}

static void end(struct fixture *f, struct client *c, uint64_t number)
{
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = request_of(c, number)->id});
}

static void an_urgent_request_overtakes_a_hundred_that_wait(void **state)
{
    struct fixture *f = *state;
    struct client *many = client_come(&f->sv), *one = client_come(&f->sv);

    f->sv.facts.max_seqs = 2; /* and two more are sent ahead */
    for (uint64_t number = 1; number <= 100; number++)
        ask(many, number, 0);
    for (uint64_t number = 1; number <= 4; number++)
        assert_int_equal(taken(f), number);
    assert_int_equal(taken(f), 0);
    ask(one, 201, -1); /* rank 0 has enough, but nothing that is as urgent */
    assert_int_equal(taken(f), 201);
    ask(many, 300, -2);
    assert_int_equal(taken(f), 300);
    assert_int_equal(taken(f), 0);
    ask(one, 202, 1);
    end(f, many, 1);
    end(f, many, 2);
    assert_int_equal(taken(f), 0); /* four are with rank 0 still */
    end(f, many, 3);
    assert_int_equal(taken(f), 5);
    assert_int_equal(taken(f), 0);
}

static void rank_0_gets_no_more_than_some_crowds_whatever_their_priorities(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    int n = 0;

    f->sv.facts.max_seqs = 2;
    for (uint64_t number = 1; number <= 200; number++) {
        ask(c, number, 1000 - (int32_t)number);
        n += taken(f) != 0;
    }
    assert_int_equal(n, 8 * 4);
}

/* c became a line last, and was not served when the urgent ones were. */
static void clients_take_turns_at_each_priority(void **state)
{
    static const uint64_t order[] = {103, 203, 104, 204, 301, 101, 201, 102, 202};
    struct fixture *f = *state;
    struct client *a = client_come(&f->sv), *b = client_come(&f->sv), *c = client_come(&f->sv);

    ask(a, 101, 0);
    ask(a, 102, 0);
    ask(b, 201, 0);
    ask(b, 202, 0);
    ask(a, 103, -9);
    ask(a, 104, -9);
    ask(b, 203, -9);
    ask(b, 204, -9);
    ask(c, 301, 0);
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
        assert_int_equal(taken(f), order[i]);
    assert_int_equal(taken(f), 0);
}

static void one_that_is_cancelled_leaves_its_place_to_the_next(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);

    ask(c, 1, 5);
    ask(c, 2, -5);
    ask(c, 3, 0);
    take_cancel(c, 2);
    take_cancel(c, 1);
    assert_int_equal(taken(f), 3);
    assert_int_equal(taken(f), 0);
    assert_null(heap_first(&f->sv.turns[FOR_LEADER]));
}

/* Whatever comes, is cancelled and is taken: nobody is taken while a more urgent one waits, nor a
 * later one of its client's and priority. */
static void random_requests_go_by_priority_and_arrival(void **state)
{
    enum { CLIENTS = 5, CALLS = 3000 };
    struct fixture *f = *state;
    struct client *clients[CLIENTS];
    uint64_t seed = test_seed(), number = 0;

    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_come(&f->sv);
    for (int i = 0; i < CALLS; i++) {
        struct client *c = clients[test_random(&seed) % CLIENTS];
        uint64_t what = test_random(&seed) % 8;

        f->sv.facts.max_seqs = what == 0 ? 1u << 20 : 0;
        if (what > 4) {
            ask(c, ++number, (int32_t)(test_random(&seed) % 7) - 3);
        } else if (what == 1 && number > 0) {
            take_cancel(c, 1 + test_random(&seed) % number);
        } else if (what == 0) {
            int32_t before = PRIORITY_LEAST;
            uint64_t last[CLIENTS][7] = {0};

            for (uint64_t n; (n = taken(f)) != 0;)
                for (int k = 0; k < CLIENTS; k++) {
                    struct request *r = request_of(clients[k], n);

                    if (r == NULL)
                        continue;
                    assert_true(r->params.priority >= before);
                    before = r->params.priority;
                    assert_true(last[k][before + 3] < n);
                    last[k][before + 3] = n;
                    end(f, clients[k], n);
                }
            assert_int_equal(f->sv.n_in_state[REQUEST_QUEUED], 0);
            for (int k = 0; k < CLIENTS; k++)
                clients[k]->out.n = 0;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_A_SUPERVISOR(an_urgent_request_overtakes_a_hundred_that_wait),
        ON_A_SUPERVISOR(rank_0_gets_no_more_than_some_crowds_whatever_their_priorities),
        ON_A_SUPERVISOR(clients_take_turns_at_each_priority),
        ON_A_SUPERVISOR(one_that_is_cancelled_leaves_its_place_to_the_next),
        ON_A_SUPERVISOR(random_requests_go_by_priority_and_arrival),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
