/* test_stop_text.c - however the text is cut, it ends before its first stop text, and no part of one
 * is let through early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/random.h"
#include "text/stop_text.h"

enum { MOST = 40, CASES = 20000 };

struct list {
    char texts[4][8];
    int n;
};

static struct stop_texts *open_set(const struct list *l)
{
    struct stop_text texts[4];
    struct stop_texts *set;

    for (int i = 0; i < l->n; i++)
        texts[i] = (struct stop_text){l->texts[i], strlen(l->texts[i])};
    assert_int_equal(stop_texts_new(texts, l->n, &set), STATUS_OK);
    return set;
}

/* The definition: where the first one ends, and which it is; -1: none does. */
static int first_stop(const struct list *l, const char *text, size_t n, size_t *begin)
{
    for (size_t end = 1; end <= n; end++)
        for (int i = 0; i < l->n; i++) {
            size_t bytes = strlen(l->texts[i]);

            if (bytes <= end && memcmp(text + end - bytes, l->texts[i], bytes) == 0) {
                *begin = end - bytes;
                return i;
            }
        }
    return -1;
}

/* The longest end of the text that begins one of them. */
static size_t begun(const struct list *l, const char *text, size_t n)
{
    size_t most = 0;

    for (int i = 0; i < l->n; i++)
        for (size_t bytes = 1; bytes < strlen(l->texts[i]) && bytes <= n; bytes++)
            if (memcmp(text + n - bytes, l->texts[i], bytes) == 0 && bytes > most)
                most = bytes;
    return most;
}

static size_t random_text(uint64_t *seed, char *text, size_t most)
{
    size_t n = 1 + (size_t)(test_random(seed) % most);

    for (size_t i = 0; i < n; i++)
        text[i] = test_random(seed) % 3 == 0 ? 'b' : 'a';
    text[n] = '\0';
    return n;
}

static void the_text_ends_before_the_first_stop_wherever_it_is_cut(void **state)
{
    uint64_t seed = test_seed();
    int stopped = 0;

    (void)state;
    for (int c = 0; c < CASES; c++) {
        struct list l = {.n = 1 + (int)(test_random(&seed) % 4)};
        char text[MOST + 1], out[2 * MOST];
        struct stop_scan s = {0};
        struct stop_texts *set;
        size_t n = random_text(&seed, text, MOST), begin = 0, told = 0;
        int which;
        bool include = test_random(&seed) % 2 == 0;

        for (int i = 0; i < l.n; i++)
            random_text(&seed, l.texts[i], 7);
        set = open_set(&l);
        which = first_stop(&l, text, n, &begin);
        for (size_t at = 0, part; at < n; at += part) {
            part = 1 + (size_t)(test_random(&seed) % 9);
            part = part < n - at ? part : n - at;
            told += stop_scan_feed(&s, set, include, text + at, part, out + told);
            if (!s.ended) /* nothing is held that need not be */
                assert_int_equal(told, at + part - begun(&l, text, at + part));
        }
        assert_int_equal(s.ended, which >= 0);
        if (which >= 0) {
            assert_int_equal(s.which, which);
            assert_int_equal(told, begin + (include ? strlen(l.texts[which]) : 0));
            stopped++;
        } else {
            told += stop_scan_end(&s, out + told);
            assert_int_equal(told, n);
        }
        assert_memory_equal(out, text, told);
        stop_texts_free(set);
    }
    assert_in_range(stopped, CASES / 10, CASES * 9 / 10);
}

static void text_that_passes_neither_stops_nor_begins_a_stop(void **state)
{
    const struct list l = {.texts = {"ab"}, .n = 1};
    struct stop_texts *set = open_set(&l);
    struct stop_scan s = {0};
    char out[64];

    (void)state;
    assert_int_equal(stop_scan_pass(&s, "xaba", 4, out), 4);
    assert_int_equal(stop_scan_feed(&s, set, false, "bxa", 3, out), 2); /* the a is held */
    assert_int_equal(stop_scan_pass(&s, "b", 1, out), 2);
    assert_memory_equal(out, "ab", 2);
    assert_false(s.ended);
    stop_texts_free(set);
}

static void a_text_as_long_as_can_be_is_held_whole(void **state)
{
    static char text[STOP_TEXT_BYTES_MOST], out[3 * STOP_TEXT_BYTES_MOST];
    struct stop_text longest = {text, sizeof(text)};
    struct stop_texts *set;
    struct stop_scan s = {0};

    (void)state;
    memset(text, 'a', sizeof(text));
    text[sizeof(text) - 1] = 'b';
    assert_int_equal(stop_texts_new(&longest, 1, &set), STATUS_OK);
    assert_int_equal(stop_scan_feed(&s, set, false, text, sizeof(text) - 1, out), 0);
    assert_int_equal(stop_scan_feed(&s, set, false, "a", 1, out), 1); /* one a was too many */
    assert_int_equal(stop_scan_feed(&s, set, false, "b", 1, out), 0);
    assert_true(s.ended);
    stop_texts_free(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_text_ends_before_the_first_stop_wherever_it_is_cut),
        cmocka_unit_test(text_that_passes_neither_stops_nor_begins_a_stop),
        cmocka_unit_test(a_text_as_long_as_can_be_is_held_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
