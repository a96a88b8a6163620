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
    memcpy(at + sizeof(h), value, bytes);
    return sizeof(h) + bytes;
}

static enum status read_one(uint16_t key, const void *value, uint32_t bytes, struct params *p)
{
    unsigned char wire[64];

    return params_read(wire, put(wire, key, value, bytes), p);
}

static void what_is_written_is_read_again(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (int i = 0; i < 2000; i++) {
        struct params p = {0}, q;
        unsigned char wire[PARAMS_FIRST_BYTES];
        uint32_t n = (uint32_t)(test_random(&seed) % 1000) + 1, on = (uint32_t)test_random(&seed) % 2;
        int32_t below = (int32_t)(test_random(&seed) % 2001) - 1000;
        float f = (float)(test_random(&seed) % 1000 + 1) / 1000;
        uint64_t big = test_random(&seed) | 1;
        const struct {
            const void *value;
            size_t bytes;
        } values[PARAM_KEYS] = {
            [PARAM_MAX_TOKENS] = {&n, 4}, [PARAM_TEMPERATURE] = {&f, 4}, [PARAM_TOP_K] = {&n, 4},
            [PARAM_TOP_P] = {&f, 4}, [PARAM_MIN_P] = {&f, 4}, [PARAM_SEED] = {&big, 8},
            [PARAM_IGNORE_EOS] = {&on, 4}, [PARAM_KEY] = {&big, 8}, [PARAM_KEEP] = {&n, 4},
            [PARAM_TELL_PAUSES] = {&on, 4}, [PARAM_PRIORITY] = {&below, 4},
        };

        for (int key = 1; key < PARAM_KEYS; key++)
            if (test_random(&seed) % 2 == 0)
                assert_int_equal(params_set(&p, (enum param_key)key, values[key].value,
                    values[key].bytes), STATUS_OK);
        assert_int_equal(params_read(wire, params_write(&p, wire), &q), STATUS_OK);
        assert_memory_equal(&p, &q, sizeof(p));
    }
}

static void every_key_has_a_row_and_fits_the_room_for_all(void **state)
{
    struct params p = {0};
    unsigned char wire[PARAMS_FIRST_BYTES];
    uint64_t one = 1;
    float f = 1;

    (void)state;
    for (int key = 1; key < PARAM_KEYS; key++) {
        enum status s = params_set(&p, (enum param_key)key, &one, 4);

        if (s != STATUS_OK)
            s = params_set(&p, (enum param_key)key, &one, 8);
        if (s != STATUS_OK)
            s = params_set(&p, (enum param_key)key, &f, 4);
        assert_int_equal(s, STATUS_OK);
        assert_true(params_has(&p, (enum param_key)key));
    }
    assert_true(params_write(&p, wire) <= sizeof(wire));
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
        {PARAM_MIN_P, -1}, {PARAM_MIN_P, 2}};
    static const struct {
        uint16_t key;
        uint32_t value;
    } wholes[] = {{PARAM_MAX_TOKENS, 0}, {PARAM_IGNORE_EOS, 2}, {PARAM_TELL_PAUSES, 7},
        {PARAM_TOP_K, UINT32_MAX}};
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
        cmocka_unit_test(every_key_has_a_row_and_fits_the_room_for_all),
        cmocka_unit_test(unknown_keys_are_refused_by_number),
        cmocka_unit_test(values_out_of_their_bounds_are_refused),
        cmocka_unit_test(broken_lists_are_refused),
        cmocka_unit_test(noise_does_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
