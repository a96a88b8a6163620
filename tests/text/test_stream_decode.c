/* test_stream_decode.c - however the bytes are cut, the text is the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "text/stream_decode.h"
#include "text/utf8.h"
#include "text_support.h"

/* The plain definition: one step after another over the whole. */
static size_t decode_whole(const uint8_t *bytes, size_t count, char *out)
{
    size_t written = 0, length;

    for (size_t at = 0; at < count; at += length) {
        if (utf8_step(bytes + at, count - at, &length) == UTF8_WHOLE) {
            memcpy(out + written, bytes + at, length);
            written += length;
        } else {
            memcpy(out + written, "\xef\xbf\xbd", 3);
            written += 3;
        }
    }
    return written;
}

static void check_lossy(const char *in, const char *want)
{
    struct stream_decoder d = { 0 };
    char out[256];
    size_t n = stream_decode_feed(&d, (const uint8_t *)in, strlen(in), out);

    n += stream_decode_flush(&d, out + n);
    assert_int_equal(n, strlen(want));
    assert_memory_equal(out, want, n);
}

#define R "\xef\xbf\xbd"

static void each_maximal_subpart_is_one_replacement(void **state)
{
    (void)state;
    check_lossy("a\xff" "b", "a" R "b");
    check_lossy("\xe4\xb8" "b", R "b");
    check_lossy("\xe4\xb8", R);
    check_lossy("\xf0\x9f\x98", R);
    check_lossy("\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80");
    check_lossy("\xf0\x80\x80", R R R);
    check_lossy("\xed\xa0\x80", R R R);
    check_lossy("\xc0\xaf", R R);
    check_lossy("\xe4\xe4\xb8\xad", R "\xe4\xb8\xad");
    check_lossy("\xf4\x90\x80\x80", R R R R);
    check_lossy("\xf1\x80\x80\xe1\x80\xc2" "b\x80", R R R "b" R);
}

static void half_a_character_is_held_back(void **state)
{
    struct stream_decoder d = { 0 };
    char out[16];

    (void)state;
    assert_int_equal(stream_decode_feed(&d, (const uint8_t *)"x\xf0\x9f", 3, out), 1);
    assert_int_equal(stream_decode_feed(&d, (const uint8_t *)"\x98", 1, out), 0);
    assert_int_equal(stream_decode_feed(&d, (const uint8_t *)"\x80!", 2, out), 5);
    assert_memory_equal(out, "\xf0\x9f\x98\x80!", 5);
    assert_int_equal(stream_decode_flush(&d, out), 0);
    assert_int_equal(stream_decode_feed(&d, (const uint8_t *)"\xe2\x82", 2, out), 0);
    assert_int_equal(stream_decode_flush(&d, out), 3);
    assert_int_equal(stream_decode_feed(&d, (const uint8_t *)"\x82", 1, out), 3);
}

/* Bytes that often are characters, and often nearly. */
static size_t random_bytes(uint64_t *random, uint8_t *out, size_t characters)
{
    size_t count = support_random_text(random, characters, (char *)out);

    for (size_t i = 0; i < count; i++)
        if (support_random(random) % 8 == 0)
            out[i] = (uint8_t)support_random(random);
    return count;
}

static void any_cut_gives_the_whole_text(void **state)
{
    uint64_t random = support_seed();

    (void)state;
    for (int round = 0; round < 20000; round++) {
        uint8_t in[4 * 40];
        char want[3 * sizeof(in)], got[3 * sizeof(in) + 3];
        size_t count = random_bytes(&random, in, support_random(&random) % 40), n = 0;
        size_t want_bytes = decode_whole(in, count, want);
        struct stream_decoder d = { 0 };

        for (size_t at = 0; at < count;) {
            size_t take = support_random(&random) % 6, made;
            char *out = malloc(stream_decode_room(take)); /* for the sanitizer to watch */

            take = take < count - at ? take : count - at;
            made = stream_decode_feed(&d, in + at, take, out);
            memcpy(got + n, out, made);
            assert_int_equal(utf8_valid_prefix(out, made), made);
            free(out);
            n += made;
            at += take;
        }
        n += stream_decode_flush(&d, got + n);
        assert_int_equal(n, want_bytes);
        assert_memory_equal(got, want, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_maximal_subpart_is_one_replacement),
        cmocka_unit_test(half_a_character_is_held_back),
        cmocka_unit_test(any_cut_gives_the_whole_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
