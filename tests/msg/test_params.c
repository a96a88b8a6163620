/* test_params.c - parameters as bytes, as we write them and as strangers do. */
#include <math.h>
#include <string.h>

#include "msg/params.h"
#include "quern/log.h"
#include "tests/ipc/ipc_support.h"

static size_t put(unsigned char *at, uint16_t key, const void *value, uint32_t bytes)
{
    struct param_header h = {.key = key, .bytes = bytes};

    memcpy(at, &h, sizeof(h));
    if (bytes > 0)
        memcpy(at + sizeof(h), value, bytes);
    return sizeof(h) + bytes;
}

static enum status read_one(uint16_t key, const void *value, uint32_t bytes, struct params *p)
{
    unsigned char wire[64];

    return params_read(wire, put(wire, key, value, bytes), p);
}

/* Each list with two entries. */
static const unsigned char bias[] = {1, 0, 0, 0, 0, 0, 0x80, 0x3f, 2, 0, 0, 0, 0, 0, 0xc8, 0xc2};
static const unsigned char texts[] = {1, 0, 0, 0, 'a', 2, 0, 0, 0, 'b', 'c'};
static const unsigned char runs[] = {1, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0};
static const unsigned char ids[] = {5, 0, 0, 0, 6, 1, 0, 0};

static const struct {
    const void *value;
    size_t bytes;
} lists[PARAM_KEYS] = {
    [PARAM_LOGIT_BIAS] = {bias, sizeof(bias)},
    [PARAM_BAD_WORDS] = {texts, sizeof(texts)},
    [PARAM_BAD_IDS] = {runs, sizeof(runs)},
    [PARAM_STOP] = {texts, sizeof(texts)},
    [PARAM_STOP_IDS] = {ids, sizeof(ids)},
    [PARAM_VALUE_IDS] = {ids, sizeof(ids)},
};
enum { LISTS_BYTES = 128 };

/* A value that the key takes; 0: there is no such key. */
static size_t value_for(int key, uint64_t *seed, unsigned char *value)
{
    uint32_t whole = 1;
    float real = (float)(test_random(seed) % 1000 + 1) / 1000;
    uint64_t big = test_random(seed) | 1;

    switch (params_type((unsigned)key)) {
    case PARAM_U64: memcpy(value, &big, 8); return 8;
    case PARAM_F32: memcpy(value, &real, 4); return 4;
    case PARAM_BYTES:
        memcpy(value, lists[key].value, lists[key].bytes);
        return lists[key].bytes;
    case PARAM_NONE: return 0;
    default: memcpy(value, &whole, 4); return 4;
    }
}

static void what_is_written_is_read_again(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (int i = 0; i < 2000; i++) {
        struct params p = {0}, q;
        unsigned char wire[PARAMS_FIRST_BYTES + LISTS_BYTES], again[sizeof(wire)];
        unsigned char value[PARAM_KEYS][64];
        size_t n;

        for (int key = 1; key < PARAM_KEYS; key++) {
            size_t bytes = value_for(key, &seed, value[key]);

            if (bytes > 0 && test_random(&seed) % 2 == 0)
                assert_int_equal(params_set(&p, (enum param_key)key, value[key], bytes), STATUS_OK);
        }
        n = params_write(&p, wire);
        assert_int_equal(params_read(wire, n, &q), STATUS_OK);
        assert_true(q.given == p.given);
        assert_int_equal(params_write(&q, again), n);
        assert_memory_equal(wire, again, n);
    }
}

static void all_keys_fit_the_room_for_all(void **state)
{
    unsigned char wire[PARAMS_FIRST_BYTES + LISTS_BYTES], value[PARAM_KEYS][64];
    struct params p = {0};
    uint64_t seed = 1;

    (void)state;
    for (int key = 1; key < PARAM_KEYS; key++) {
        size_t bytes = value_for(key, &seed, value[key]);

        if (bytes == 0)
            continue;
        assert_int_equal(params_set(&p, (enum param_key)key, value[key], bytes), STATUS_OK);
        assert_true(params_has(&p, (enum param_key)key));
    }
    assert_true(params_write(&p, wire) <= sizeof(wire));
}

static void lists_that_are_cut_or_hold_what_cannot_be_are_refused(void **state)
{
    static const int32_t low = -1;
    static const float far = 100.5f;
    unsigned char value[64];
    struct params p;

    (void)state;
    for (int key = 1; key < PARAM_KEYS; key++) {
        if (lists[key].value == NULL)
            continue;
        memcpy(value, lists[key].value, lists[key].bytes);
        assert_int_equal(read_one((uint16_t)key, value, 0, &p), STATUS_OK);
        for (uint32_t n = 1; n < lists[key].bytes; n++) {
            bool whole = ((key == PARAM_STOP_IDS || key == PARAM_VALUE_IDS) && n % 4 == 0) || (key == PARAM_LOGIT_BIAS && n == 8) ||
                         (key == PARAM_BAD_IDS && n == 8) ||
                         ((key == PARAM_STOP || key == PARAM_BAD_WORDS) && n == 5);

            assert_int_equal(read_one((uint16_t)key, value, n, &p) == STATUS_OK, whole);
        }
    }
    memcpy(value, bias, sizeof(bias));
    memcpy(value, &low, sizeof(low));
    assert_int_equal(read_one(PARAM_LOGIT_BIAS, value, sizeof(bias), &p), STATUS_INVALID);
    assert_int_equal(read_one(PARAM_STOP_IDS, &low, 4, &p), STATUS_INVALID);
    memcpy(value, bias, sizeof(bias));
    memcpy(value + 4, &far, sizeof(far));
    assert_int_equal(read_one(PARAM_LOGIT_BIAS, value, sizeof(bias), &p), STATUS_INVALID);
    memcpy(value, runs, sizeof(runs));
    memcpy(value + 4, &low, sizeof(low));
    assert_int_equal(read_one(PARAM_BAD_IDS, value, sizeof(runs), &p), STATUS_INVALID);
    assert_int_equal(read_one(PARAM_BAD_IDS, (uint32_t[]){0}, 4, &p), STATUS_INVALID);
    assert_int_equal(read_one(PARAM_STOP, (uint32_t[]){0}, 4, &p), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "an empty text"));
}

/* Too many or too long. */
static void lists_have_their_bounds(void **state)
{
    static unsigned char value[64 << 10];
    struct params p = {0};
    const uint32_t long_text = MOST_STOP_BYTES + 1;

    (void)state;
    assert_int_equal(params_set(&p, PARAM_STOP_IDS, value, 4 * MOST_STOP_IDS), STATUS_OK);
    assert_int_equal(params_set(&p, PARAM_STOP_IDS, value, 4 * MOST_STOP_IDS + 4), STATUS_INVALID);
    assert_int_equal(params_set(&p, PARAM_LOGIT_BIAS, value, 8 * 1024), STATUS_OK);
    assert_int_equal(params_set(&p, PARAM_LOGIT_BIAS, value, 8 * 1025), STATUS_INVALID);
    memcpy(value, &long_text, 4);
    assert_int_equal(params_set(&p, PARAM_STOP, value, 4 + long_text), STATUS_INVALID);
    for (int i = 0; i <= MOST_STOPS; i++)
        memcpy(value + 5 * i, texts, 5);
    assert_int_equal(params_set(&p, PARAM_STOP, value, 5 * MOST_STOPS), STATUS_OK);
    assert_int_equal(params_set(&p, PARAM_STOP, value, 5 * MOST_STOPS + 5), STATUS_INVALID);
}

static void unknown_keys_are_refused_by_number(void **state)
{
    struct params p;

    (void)state;
    assert_int_equal(read_one(0, "abcd", 4, &p), STATUS_UNKNOWN);
    assert_int_equal(read_one(PARAM_KEYS, "abcd", 4, &p), STATUS_UNKNOWN);
    assert_int_equal(read_one(65535, "abcd", 4, &p), STATUS_UNKNOWN);
    assert_non_null(strstr(log_last_error(), "parameter 65535"));
}

static void values_out_of_their_bounds_are_refused(void **state)
{
    static const struct {
        uint16_t key;
        float value;
    } reals[] = {{PARAM_TEMPERATURE, -0.5f}, {PARAM_TEMPERATURE, 101}, {PARAM_TEMPERATURE, NAN},
        {PARAM_TOP_P, 0}, {PARAM_TOP_P, 1.5f}, {PARAM_TOP_P, NAN}, {PARAM_TOP_P, INFINITY},
        {PARAM_MIN_P, -1}, {PARAM_MIN_P, 2}, {PARAM_REPETITION_PENALTY, 0},
        {PARAM_REPETITION_PENALTY, 101}, {PARAM_FREQUENCY_PENALTY, 2.5f},
        {PARAM_PRESENCE_PENALTY, NAN}};
    static const struct {
        uint16_t key;
        uint32_t value;
    } wholes[] = {{PARAM_MAX_TOKENS, 0}, {PARAM_IGNORE_EOS, 2}, {PARAM_TELL_PAUSES, 7},
        {PARAM_TOP_K, UINT32_MAX}, {PARAM_CHOICES, 0}, {PARAM_CHOICES, MOST_CHOICES + 1},
        {PARAM_LOGPROBS, 21}, {PARAM_PROMPT_LOGPROBS, 21}, {PARAM_ECHO, 2}, {PARAM_INCLUDE_STOP, 2},
        {PARAM_SPECULATE, MOST_GUESSES + 1}};
    uint64_t none = 0;
    struct params p;

    (void)state;
    for (size_t i = 0; i < sizeof(reals) / sizeof(reals[0]); i++)
        assert_int_equal(read_one(reals[i].key, &reals[i].value, 4, &p), STATUS_INVALID);
    for (size_t i = 0; i < sizeof(wholes) / sizeof(wholes[0]); i++)
        assert_int_equal(read_one(wholes[i].key, &wholes[i].value, 4, &p), STATUS_INVALID);
    assert_int_equal(read_one(PARAM_KEY, &none, 8, &p), STATUS_INVALID);
    assert_int_equal(read_one(PARAM_PRIORITY, &(int32_t){-1001}, 4, &p), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "priority -1001: it goes from -1000 to 1000"));
    assert_int_equal(read_one(PARAM_PRIORITY, &(int32_t){1001}, 4, &p), STATUS_INVALID);
    assert_int_equal(read_one(PARAM_PRIORITY, &(int32_t){-1000}, 4, &p), STATUS_OK);
    assert_int_equal(p.priority, -1000);
    assert_int_equal(read_one(PARAM_SEED, &none, 4, &p), STATUS_INVALID);
    assert_int_equal(read_one(PARAM_TOP_P, &(float){1}, 4, &p), STATUS_OK);
}

static void broken_lists_are_refused(void **state)
{
    unsigned char wire[64];
    uint32_t value = 5;
    size_t n = put(wire, PARAM_MAX_TOKENS, &value, 4);
    struct params p;

    (void)state;
    for (size_t cut = 1; cut < n; cut++)
        assert_int_equal(params_read(wire, cut, &p), STATUS_INVALID);
    n += put(wire + n, PARAM_MAX_TOKENS, &value, 4);
    assert_int_equal(params_read(wire, n, &p), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "max_tokens is given twice"));
    wire[2] = 1; /* a flag of the first */
    assert_int_equal(params_read(wire, 12, &p), STATUS_UNKNOWN);
}

static void noise_does_no_harm(void **state)
{
    uint64_t seed = test_seed();
    int ok = 0;

    (void)state;
    for (int i = 0; i < 100000; i++) {
        unsigned char wire[48];
        size_t n = (size_t)(test_random(&seed) % sizeof(wire));
        struct params p;

        for (size_t j = 0; j < n; j++)
            wire[j] = test_random(&seed) % 3 != 0 ? 0 : (unsigned char)(test_random(&seed) % 16);
        ok += params_read(wire, n, &p) == STATUS_OK;
    }
    assert_true(ok > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_again),
        cmocka_unit_test(all_keys_fit_the_room_for_all),
        cmocka_unit_test(lists_that_are_cut_or_hold_what_cannot_be_are_refused),
        cmocka_unit_test(lists_have_their_bounds),
        cmocka_unit_test(unknown_keys_are_refused_by_number),
        cmocka_unit_test(values_out_of_their_bounds_are_refused),
        cmocka_unit_test(broken_lists_are_refused),
        cmocka_unit_test(noise_does_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
