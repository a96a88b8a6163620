/* test_vocab_table.c - the table is read by another process, so nothing is believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quern/log.h"
#include "text/vocab_table.h"
#include "text_support.h"

struct sample { /* three tokens: "ab", none, "c" (special) */
    struct vocab_table_header h;
    uint32_t offsets[4];
    uint8_t flags[3];
    uint8_t blob[3];
};

enum { SAMPLE_BYTES = sizeof(struct vocab_table_header) + 16 + 3 + 3 };

static const struct sample sample = {
    .h = { VOCAB_TABLE_MAGIC, VOCAB_TABLE_VERSION, 3, 3 },
    .offsets = { 0, 2, 2, 3 },
    .flags = { 0, 0, VOCAB_TABLE_SPECIAL },
    .blob = { 'a', 'b', 'c' },
};

static void tokens_are_read_back(void **state)
{
    struct vocab_table t;
    const uint8_t *bytes;
    size_t count;
    bool special;

    (void)state;
    assert_int_equal(vocab_table_size(3, 3), SAMPLE_BYTES);
    assert_int_equal(vocab_table_attach(&sample, SAMPLE_BYTES, &t), STATUS_OK);
    assert_true(vocab_table_get(&t, 0, &bytes, &count, &special));
    assert_int_equal(count, 2);
    assert_memory_equal(bytes, "ab", 2);
    assert_false(special);
    assert_true(vocab_table_get(&t, 1, &bytes, &count, &special));
    assert_int_equal(count, 0);
    assert_true(vocab_table_get(&t, 2, &bytes, &count, &special));
    assert_true(special);
    assert_false(vocab_table_get(&t, 3, &bytes, &count, &special));
    assert_false(vocab_table_get(&t, -1, &bytes, &count, &special));
}

/* What the text worker of a model without a tokenizer writes. */
static void an_empty_table_is_one_without_tokens(void **state)
{
    const uint32_t mem[5] = { VOCAB_TABLE_MAGIC, VOCAB_TABLE_VERSION, 0, 0, 0 };
    struct vocab_table t;
    const uint8_t *bytes;
    size_t count;
    bool special;

    (void)state;
    assert_int_equal(vocab_table_size(0, 0), sizeof(mem));
    assert_int_equal(vocab_table_attach(mem, sizeof(mem), &t), STATUS_OK);
    assert_int_equal(t.count, 0);
    assert_false(vocab_table_get(&t, 0, &bytes, &count, &special));
    assert_false(vocab_table_get(&t, -1, &bytes, &count, &special));
    assert_int_equal(vocab_table_attach(mem, sizeof(mem) - 1, &t), STATUS_INVALID);
}

static void broken_tables_are_refused(void **state)
{
    struct sample bad[8];
    struct vocab_table t;

    (void)state;
    for (size_t i = 0; i < 8; i++)
        bad[i] = sample;
    bad[0].h.magic++;
    bad[1].h.version++;
    bad[2].h.count = 0xffffffff;
    bad[3].h.blob_bytes = 0xffffffff;
    bad[4].offsets[0] = 1;
    bad[5].offsets[3] = 2;
    bad[6].offsets[1] = 3;
    bad[7].h.count = 4;
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(vocab_table_attach(&bad[i], SAMPLE_BYTES, &t), STATUS_INVALID);
    for (size_t n = 0; n < SAMPLE_BYTES; n++)
        assert_int_equal(vocab_table_attach(&sample, n, &t), STATUS_INVALID);
}

static void a_table_that_changes_is_never_left(void **state)
{
    struct sample s = sample;
    struct vocab_table t;
    const uint8_t *bytes;
    size_t count;
    bool special;

    (void)state;
    assert_int_equal(vocab_table_attach(&s, SAMPLE_BYTES, &t), STATUS_OK);
    s.offsets[1] = 0x7fffffff;
    s.h.count = 1000;
    assert_false(vocab_table_get(&t, 0, &bytes, &count, &special));
    assert_false(vocab_table_get(&t, 1, &bytes, &count, &special));
    assert_false(vocab_table_get(&t, 3, &bytes, &count, &special));
}

/* Random damage: attaching either refuses or every token lies inside. */
static void random_damage_is_harmless(void **state)
{
    uint64_t random = support_seed();
    unsigned char *mem = malloc(SAMPLE_BYTES);

    (void)state;
    for (int round = 0; round < 20000; round++) {
        struct vocab_table t;
        const uint8_t *bytes;
        size_t count;
        bool special;

        memcpy(mem, &sample, SAMPLE_BYTES);
        for (int i = 0; i < 3; i++)
            mem[8 + support_random(&random) % (SAMPLE_BYTES - 8)] =
                (uint8_t)(support_random(&random) % 6);
        if (vocab_table_attach(mem, SAMPLE_BYTES, &t) != STATUS_OK)
            continue;
        for (int32_t id = 0; id < (int32_t)t.count; id++)
            if (vocab_table_get(&t, id, &bytes, &count, &special))
                assert_true(bytes >= mem && bytes + count <= mem + SAMPLE_BYTES);
    }
    free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_read_back),
        cmocka_unit_test(an_empty_table_is_one_without_tokens),
        cmocka_unit_test(broken_tables_are_refused),
        cmocka_unit_test(a_table_that_changes_is_never_left),
        cmocka_unit_test(random_damage_is_harmless),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
