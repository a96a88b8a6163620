/* test_many.c - many requests at once: each gets what it would get alone, in every byte.
 *
 * The cache is so small that those who run give way to each other all the time, and all prompts
 * begin alike, to a length of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e/raw_client.h"
#include "tests/support/random.h"

enum { REQUESTS = 64, MOST_TOKENS = 90, PROMPT_BYTES = 400 };

static const char story[] =
    "Once upon a time there was a little dog named Max who lived in a small house near the park. "
    "Every morning Max ran to the big tree and waited for his friend Lily, who had a red ball. "
    "They played until the sun was high, and then they went home to eat. ";

struct request {
    char prompt[PROMPT_BYTES];
    struct raw_params params;
    char *alone;
};

static struct request requests[REQUESTS];

static uint32_t pick(uint64_t *seed, uint32_t n)
{
    return (uint32_t)(test_random(seed) % n);
}

static void draw(struct request *r, uint64_t *seed)
{
    int alike = (int)pick(seed, (uint32_t)strlen(story));

    snprintf(r->prompt, sizeof(r->prompt), "%.*s The %u cats", alike, story, pick(seed, 5));
    r->params = raw_endless(PROMPT_TEXT, 1 + pick(seed, MOST_TOKENS));
    RAW_GIVE(r->params, PARAM_SEED, seed, test_random(seed));
    RAW_GIVE(r->params, PARAM_TEMPERATURE, temperature, (float)pick(seed, 4) * 0.5f);
    if (pick(seed, 2) == 0)
        RAW_GIVE(r->params, PARAM_TOP_K, top_k, 1 + pick(seed, 40));
    if (pick(seed, 2) == 0)
        RAW_GIVE(r->params, PARAM_TOP_P, top_p, 0.5f + (float)pick(seed, 50) * 0.01f);
    if (pick(seed, 3) == 0)
        RAW_GIVE(r->params, PARAM_MIN_P, min_p, (float)pick(seed, 20) * 0.01f);
}

static void submit(struct raw_client *c, const struct request *r)
{
    assert_true(raw_submit(c, 1, r->params, r->prompt, strlen(r->prompt)));
}

static void answer_alone(const struct raw_server *s)
{
    for (int i = 0; i < REQUESTS; i++) {
        struct raw_client c;

        raw_connect(&c, s);
        submit(&c, &requests[i]);
        assert_int_equal(raw_answer(&c, 1, &requests[i].alone), FRAME_DONE);
        raw_close(&c);
    }
}

static void answer_together(const struct raw_server *s)
{
    static struct raw_client c[REQUESTS];

    for (int i = 0; i < REQUESTS; i++) {
        raw_connect(&c[i], s);
        submit(&c[i], &requests[i]);
    }
    for (int i = 0; i < REQUESTS; i++) {
        char *text;

        assert_int_equal(raw_answer(&c[i], 1, &text), FRAME_DONE);
        if (strcmp(text, requests[i].alone) != 0)
            fail_msg("request %d, \"%s\": \"%s\" beside others, alone \"%s\"", i,
                requests[i].prompt, text, requests[i].alone);
        free(text);
        raw_close(&c[i]);
    }
}

/* It says what it did: prompts were found again, and sequences gave way. */
static void stop_crowded(struct raw_server *s)
{
    unsigned long long found, gave_way;
    const char *at;

    kill(s->command.pid, SIGTERM);
    assert_int_equal(child_finish(&s->command, 10000), 0);
    at = strstr(s->command.err, " tokens of prompts came, ");
    assert_non_null(at);
    assert_int_equal(sscanf(at, " tokens of prompts came, %llu of them were found in the cache; %*u "
        "were computed, %*u produced; %llu sequences gave way", &found, &gave_way), 2);
    print_message("# %llu ids found again, %llu sequences gave way\n", found, gave_way);
    assert_true(found > 1000 && gave_way > 10);
    child_free(&s->command);
}

/* Without a prefix to share: each by a server that has just one place. */
static void each_is_what_it_is_alone(const char *tp, const char *kv_dtype)
{
    const char *const lonely[] = {"--tp", tp, "--max-seqs", "1", "--max-batched-tokens", "64",
        "--kv-blocks", "20", "--kv-dtype", kv_dtype, NULL};
    const char *const crowded[] = {"--tp", tp, "--max-seqs", "24", "--max-batched-tokens", "48",
        "--kv-blocks", "80", "--block-size", "4", "--log-level", "info", "--kv-dtype", kv_dtype,
        NULL};
    struct raw_server s;
    uint64_t seed = test_seed();

    for (int i = 0; i < REQUESTS; i++)
        draw(&requests[i], &seed);
    raw_server_start(&s, lonely);
    answer_alone(&s);
    raw_server_stop(&s, "");
    raw_server_start(&s, crowded);
    answer_together(&s);
    answer_together(&s); /* and with what the first time left in the cache */
    stop_crowded(&s);
    for (int i = 0; i < REQUESTS; i++)
        free(requests[i].alone);
}

static void of_many_at_once_each_is_what_it_is_alone(void **state)
{
    (void)state;
    each_is_what_it_is_alone("1", "bf16");
}

static void so_it_is_over_two_ranks(void **state)
{
    (void)state;
    each_is_what_it_is_alone("2", "bf16");
}

static void so_it_is_over_three_ranks(void **state)
{
    (void)state;
    each_is_what_it_is_alone("3", "bf16");
}

static void so_it_is_with_a_cache_of_e4m3(void **state)
{
    (void)state;
    each_is_what_it_is_alone("2", "fp8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_many_at_once_each_is_what_it_is_alone),
        cmocka_unit_test(so_it_is_over_two_ranks),
        cmocka_unit_test(so_it_is_over_three_ranks),
        cmocka_unit_test(so_it_is_with_a_cache_of_e4m3),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
