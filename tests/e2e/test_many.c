/* test_many.c - many requests at once: each gets what it would get alone, in every byte.
 *
 * The cache is so small that those who run give way to each other all the time, and all prompts
 * begin alike, to a length of their own. Beside others half of them speculate; alone none does. */
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

enum { REQUESTS = 64, MOST_TOKENS = 90, PROMPT_BYTES = 400, CHOICES = 3 };

static const char story[] =
    "Once upon a time there was a little dog named Max who lived in a small house near the park. "
    "Every morning Max ran to the big tree and waited for his friend Lily, who had a red ball. "
    "They played until the sun was high, and then they went home to eat. ";

/* What it is told: of each choice its ids, text, logprobs and end; the prompt's before them. */
struct told {
    char *mem;
    size_t bytes;
};

struct request {
    char prompt[PROMPT_BYTES];
    struct raw_params params;
    unsigned char lists[3][64]; /* bias, bad ids, a stop text */
    struct told alone;
};

static struct request requests[REQUESTS];

static uint32_t pick(uint64_t *seed, uint32_t n)
{
    return (uint32_t)(test_random(seed) % n);
}

static struct param_bytes put(unsigned char *mem, const void *bytes, uint32_t n)
{
    memcpy(mem, bytes, n);
    return (struct param_bytes){mem, n};
}

static void draw_lists(struct request *r, uint64_t *seed)
{
    const struct quern_logprob pair = {(int32_t)pick(seed, 1000) + 260,
        (float)pick(seed, 100) * 0.1f - 5}; /* an id and a float: so does a bias lie */
    const int32_t run[] = {2, 365, 273, 1, 11};
    static const char *const stops[] = {"and ", "e d", "they", ". "};
    const char *stop = stops[pick(seed, 4)];
    unsigned char text[16];
    uint32_t n = (uint32_t)strlen(stop);

    if (pick(seed, 4) == 0)
        RAW_GIVE(r->params, PARAM_LOGIT_BIAS, logit_bias, put(r->lists[0], &pair, sizeof(pair)));
    if (pick(seed, 4) == 0)
        RAW_GIVE(r->params, PARAM_BAD_IDS, bad_ids, put(r->lists[1], run, sizeof(run)));
    memcpy(text, &n, sizeof(n));
    memcpy(text + sizeof(n), stop, n);
    if (pick(seed, 4) == 0)
        RAW_GIVE(r->params, PARAM_STOP, stop, put(r->lists[2], text, sizeof(n) + n));
}

static void draw_edits(struct request *r, uint64_t *seed)
{
    if (pick(seed, 3) == 0)
        RAW_GIVE(r->params, PARAM_REPETITION_PENALTY, repetition_penalty,
            0.8f + (float)pick(seed, 60) * 0.01f);
    if (pick(seed, 3) == 0)
        RAW_GIVE(r->params, PARAM_FREQUENCY_PENALTY, frequency_penalty, (float)pick(seed, 4) - 1.5f);
    if (pick(seed, 3) == 0)
        RAW_GIVE(r->params, PARAM_PRESENCE_PENALTY, presence_penalty, (float)pick(seed, 4) - 1.5f);
    if (pick(seed, 3) == 0)
        RAW_GIVE(r->params, PARAM_MIN_TOKENS, min_tokens, pick(seed, 20));
    if (pick(seed, 3) == 0)
        RAW_GIVE(r->params, PARAM_IGNORE_EOS, ignore_eos, 0);
    if (pick(seed, 4) == 0)
        RAW_GIVE(r->params, PARAM_LOGPROBS, logprobs, pick(seed, 6));
    if (pick(seed, 6) == 0)
        RAW_GIVE(r->params, PARAM_PROMPT_LOGPROBS, prompt_logprobs, pick(seed, 4));
    if (pick(seed, 4) == 0)
        RAW_GIVE(r->params, PARAM_CHOICES, choices, 1 + pick(seed, CHOICES));
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
    draw_edits(r, seed);
    draw_lists(r, seed);
}

static void submit(struct raw_client *c, const struct request *r, uint32_t guesses)
{
    struct raw_params p = r->params;

    if (guesses > 0)
        RAW_GIVE(p, PARAM_SPECULATE, speculate, guesses);
    assert_true(raw_submit(c, 1, p, r->prompt, strlen(r->prompt)));
}

/* Each part of a frame of tokens into a stream of its own, since frames are cut by chance. */
struct parts {
    struct told told[3];
    FILE *streams[3];
};

static void open_parts(struct parts *p)
{
    for (int i = 0; i < 3; i++)
        p->streams[i] = open_memstream(&p->told[i].mem, &p->told[i].bytes);
}

static void take_frame(struct parts *p, const struct raw_frame *f)
{
    struct frame_tokens t;
    const char *at = raw_rest(f);

    raw_fixed(f, &t, sizeof(t));
    fwrite(at, sizeof(int32_t), t.n_ids, p->streams[0]);
    fwrite(at + t.n_ids * sizeof(int32_t), 1, t.text_bytes, p->streams[1]);
    fwrite(at + t.n_ids * sizeof(int32_t) + t.text_bytes, 1, t.logprobs_bytes, p->streams[2]);
}

static void close_parts(struct parts *p, FILE *to)
{
    for (int i = 0; i < 3; i++) {
        fclose(p->streams[i]);
        fprintf(to, "%zu:", p->told[i].bytes);
        fwrite(p->told[i].mem, 1, p->told[i].bytes, to);
        free(p->told[i].mem);
    }
}

static void take_done(const struct raw_frame *f, char ends[CHOICES][64], bool *last)
{
    struct frame_done d;

    raw_fixed(f, &d, sizeof(d));
    snprintf(ends[d.choice], sizeof(ends[0]), "%u %u %d %u", d.finish, d.stop_kind, d.stop,
        d.output_tokens);
    *last = d.more == 0;
}

static struct told take_answer(struct raw_client *c)
{
    struct parts parts[1 + CHOICES]; /* the prompt's first */
    char ends[CHOICES][64] = {{0}};
    struct told told;
    struct raw_frame f;
    FILE *to = open_memstream(&told.mem, &told.bytes);

    for (int i = 0; i <= CHOICES; i++)
        open_parts(&parts[i]);
    for (bool last = false; !last; free(f.payload)) {
        struct frame_tokens t;

        assert_true(raw_next(c, &f));
        switch (f.header.type) {
        case FRAME_PROMPT: take_frame(&parts[0], &f); break;
        case FRAME_TOKENS:
            raw_fixed(&f, &t, sizeof(t));
            take_frame(&parts[1 + t.choice], &f);
            break;
        case FRAME_DONE: take_done(&f, ends, &last); break;
        case FRAME_ERROR: fail_msg("%s", raw_rest(&f)); break;
        }
    }
    for (int i = 0; i <= CHOICES; i++)
        close_parts(&parts[i], to);
    fwrite(ends, 1, sizeof(ends), to);
    fclose(to);
    return told;
}

static void answer_alone(const struct raw_server *s)
{
    for (int i = 0; i < REQUESTS; i++) {
        struct raw_client c;

        raw_connect(&c, s);
        submit(&c, &requests[i], 0);
        requests[i].alone = take_answer(&c);
        raw_close(&c);
    }
}

static void answer_together(const struct raw_server *s, int guessing)
{
    static struct raw_client c[REQUESTS];

    for (int i = 0; i < REQUESTS; i++) {
        raw_connect(&c[i], s);
        submit(&c[i], &requests[i], i % 2 == guessing ? 1 + (uint32_t)i % 7 : 0);
    }
    for (int i = 0; i < REQUESTS; i++) {
        struct told told = take_answer(&c[i]);

        if (told.bytes != requests[i].alone.bytes ||
            memcmp(told.mem, requests[i].alone.mem, told.bytes) != 0)
            fail_msg("request %d, \"%s\": another answer beside others than alone", i,
                requests[i].prompt);
        free(told.mem);
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
    answer_together(&s, 0);
    answer_together(&s, 1); /* and with what the first time left in the cache */
    stop_crowded(&s);
    for (int i = 0; i < REQUESTS; i++)
        free(requests[i].alone.mem);
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

static void so_it_is_over_three_ranks_with_a_cache_of_e4m3(void **state)
{
    (void)state;
    each_is_what_it_is_alone("3", "fp8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_many_at_once_each_is_what_it_is_alone),
        cmocka_unit_test(so_it_is_over_two_ranks),
        cmocka_unit_test(so_it_is_over_three_ranks_with_a_cache_of_e4m3),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
