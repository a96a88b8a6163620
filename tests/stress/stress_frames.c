/* stress_frames.c - mutated frames and connections by the thousand, while others are served.
 *
 * Valid exchanges are recorded as bytes, a few of their bits, bytes or lengths
 * are changed, and they are sent, whole or in part, over connections that end
 * abruptly. Meanwhile one stream tells its story over and over: each time the
 * same. The server's memory afterwards is what it was half-way. QUERN_TEST_SEED
 * repeats a run; QUERN_STRESS_FRAMES (100000) says how many frames. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/raw_client.h"
#include "tests/support/random.h"

enum { MOST_BYTES = 512, PER_CONNECTION = 40, AT_ONCE = 1000 };

static const char prompt[] = "Once upon a time";
static struct raw_server server;

static size_t resident(void)
{
    unsigned long pages = 0;
    char path[64];
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/statm", (int)server.command.pid);
    f = fopen(path, "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*u %lu", &pages), 1);
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* A frame as a client would send it. */
static size_t valid_frame(uint64_t *seed, unsigned char bytes[MOST_BYTES])
{
    struct raw_params p = raw_params(PROMPT_TEXT, 1 + (uint32_t)(test_random(seed) % 4));
    struct frame_resume resume = {.fixed = sizeof(resume), .key = test_random(seed) % 50 + 1};
    struct frame_header h = {.id = test_random(seed) % 6 + 1};
    size_t n = 0;

    switch (test_random(seed) % 4) {
    case 0: h.type = FRAME_CANCEL; break;
    case 1:
        h.type = FRAME_RESUME;
        n = sizeof(resume);
        memcpy(bytes + sizeof(h), &resume, n);
        break;
    default:
        h.type = FRAME_SUBMIT;
        RAW_GIVE(p, PARAM_KEY, key, test_random(seed) % 50 + 1);
        RAW_GIVE(p, PARAM_KEEP, keep_s, (uint32_t)(test_random(seed) % 2));
        n = raw_payload(&p, strlen(prompt), bytes + sizeof(h));
        memcpy(bytes + sizeof(h) + n, prompt, strlen(prompt));
        n += strlen(prompt);
    }
    h.bytes = (uint32_t)n;
    memcpy(bytes, &h, sizeof(h));
    return sizeof(h) + n;
}

/* Up to three changes; most leave the length alone, or every connection would wait for bytes. */
static size_t mutate(uint64_t *seed, unsigned char *bytes, size_t n)
{
    for (uint64_t changes = test_random(seed) % 4; changes > 0; changes--) {
        size_t at = (size_t)(test_random(seed) % n);

        if (at < 4 && test_random(seed) % 8 != 0)
            at = 4 + at;
        switch (test_random(seed) % 3) {
        case 0: bytes[at] ^= (unsigned char)(1u << test_random(seed) % 8); break;
        case 1: bytes[at] = (unsigned char)test_random(seed); break;
        case 2: bytes[at] = test_random(seed) % 2 ? 0xff : 0; break;
        }
    }
    return test_random(seed) % 64 == 0 ? (size_t)(test_random(seed) % n) : n;
}

static void send_mutated(uint64_t *seed, int frames)
{
    unsigned char bytes[MOST_BYTES];
    struct raw_client c;
    bool going = true;

    raw_connect(&c, &server);
    for (int i = 0; going && i < frames; i++) {
        size_t n = valid_frame(seed, bytes);

        going = raw_send(&c, bytes, mutate(seed, bytes, n));
    }
    raw_close(&c);
}

static char *tell_story(struct raw_client *c, uint64_t id)
{
    char *text;

    raw_submit(c, id, raw_endless(PROMPT_TEXT, 60), prompt, strlen(prompt));
    assert_int_equal(raw_answer(c, id, &text), FRAME_DONE);
    return text;
}

static void mutated_frames_disturb_nobody_and_leave_no_memory(void **state)
{
    const char *given = getenv("QUERN_STRESS_FRAMES");
    long frames = given != NULL ? atol(given) : 100000, sent = 0;
    uint64_t seed = test_seed(), id = 1;
    size_t half = 0, end;
    struct raw_client quiet;
    char *want, *text;

    (void)state;
    raw_connect(&quiet, &server);
    want = tell_story(&quiet, id++);
    while (sent < frames) {
        for (int i = 0; i < 25; i++, sent += PER_CONNECTION)
            send_mutated(&seed, PER_CONNECTION);
        text = tell_story(&quiet, id++);
        assert_string_equal(text, want);
        free(text);
        if (half == 0 && sent >= frames / 2)
            half = resident();
    }
    nap_ms(1500); /* what was kept for a second is gone */
    end = resident();
    print_message("# %ld frames; resident %zu KiB half-way, %zu KiB at the end\n", sent, half >> 10,
        end >> 10);
    assert_true(end < half + (4 << 20));
    free(want);
    raw_close(&quiet);
}

static void a_thousand_connections_disturb_nobody_and_leave_no_memory(void **state)
{
    static struct raw_client many[AT_ONCE];
    size_t first = 0, last = 0;
    struct raw_client quiet;
    char *want, *text;
    uint64_t id = 1;

    (void)state;
    raw_connect(&quiet, &server);
    want = tell_story(&quiet, id++);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < AT_ONCE; i++) {
            raw_connect(&many[i], &server);
            raw_submit(&many[i], 1, raw_params(PROMPT_TEXT, 2), prompt, strlen(prompt));
        }
        text = tell_story(&quiet, id++);
        assert_string_equal(text, want);
        free(text);
        for (int i = 0; i < AT_ONCE; i++) {
            if (i % 2 == 0)
                free(raw_await(&many[i], FRAME_DONE).payload);
            raw_close(&many[i]);
        }
        raw_assert_well(&server);
        nap_ms(200);
        last = resident();
        first = round == 0 ? last : first;
    }
    print_message("# resident %zu KiB after the first round, %zu KiB after the third\n", first >> 10,
        last >> 10);
    assert_true(last < first + (4 << 20));
    free(want);
    raw_close(&quiet);
}

static int start(void **state)
{
    (void)state;
    raw_server_start(&server, (const char *const[]){"--threads", "1", NULL});
    return 0;
}

static int stop(void **state)
{
    (void)state;
    raw_server_stop(&server, "");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutated_frames_disturb_nobody_and_leave_no_memory),
        cmocka_unit_test(a_thousand_connections_disturb_nobody_and_leave_no_memory),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
