/* test_unicode.c - every code point, against what the reference made of it: the split regex, NFC,
 * words and white space. tests/golden/make_tokenizer.py wrote it down. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "text/nfc.h"
#include "text/pretokenize.h"
#include "text/utf8.h"
#include "text/word.h"
#include "text_support.h"

enum { CODE_POINTS = 0x110000, SURROGATES = 0xd800, BEHIND_SURROGATES = 0xe000, PLACES = 16 };

static struct json_document facts;

struct place {
    const char *before, *after;
};

/* The places that a fact's texts were made of; returns how many. */
static size_t read_places(const char *key, struct place *places)
{
    size_t n = 0;

    for (const struct json_value *v = json_get(facts.root, key)->first; v != NULL; v = v->next) {
        assert_true(n < PLACES);
        places[n++] = (struct place){ v->first->text, v->first->next->text };
    }
    assert_true(n > 0);
    return n;
}

/* Calls check(c, value) for every code point of a list of runs. */
static void for_all(const char *key, void (*check)(uint32_t c, int value))
{
    uint32_t c = 0;

    for (const struct json_value *v = json_get(facts.root, key)->first; v != NULL; v = v->next) {
        int value = atoi(v->first->next->text);

        for (long n = atol(v->first->text); n > 0; n--) {
            check(c, value);
            c = c + 1 == SURROGATES ? BEHIND_SURROGATES : c + 1;
        }
    }
    assert_int_equal(c, CODE_POINTS);
}

static size_t put_text(char *out, const struct place *p, uint32_t c)
{
    size_t n = strlen(p->before), after = strlen(p->after);

    memcpy(out, p->before, n);
    n += utf8_encode(c, out + n);
    memcpy(out + n, p->after, after);
    return n + after;
}

static struct pretokenizer *splitter;
static struct place places[PLACES];
static size_t n_places;
static const char *kinds[PLACES];

/* The characters of each piece, as digits. */
static size_t put_shape(const char *text, size_t bytes, char *out)
{
    const char *piece;
    size_t piece_bytes, n = 0;

    assert_int_equal(pretokenizer_begin(splitter, text, bytes), STATUS_OK);
    while (pretokenizer_next(splitter, &piece, &piece_bytes) == STATUS_OK) {
        char characters = '0';

        for (size_t i = 0; i < piece_bytes; i++)
            characters += ((unsigned char)piece[i] & 0xc0) != 0x80;
        out[n++] = characters;
    }
    return n;
}

static void check_split(uint32_t c, int kind)
{
    char text[32], shape[32];
    size_t n = 0;

    for (size_t i = 0; i < n_places; i++) {
        if (i > 0)
            shape[n++] = ' ';
        n += put_shape(text, put_text(text, &places[i], c), shape + n);
    }
    shape[n] = '\0';
    if (strcmp(shape, kinds[kind]) != 0)
        fail_msg("U+%04X is cut as \"%s\", wanted \"%s\"", c, shape, kinds[kind]);
}

static void every_code_point_is_cut_as_in_the_reference(void **state)
{
    const struct json_value *v = json_get(facts.root, "kinds")->first;

    (void)state;
    for (size_t i = 0; v != NULL; v = v->next, i++) {
        assert_true(i < PLACES);
        kinds[i] = v->text;
    }
    n_places = read_places("split_places", places);
    assert_int_equal(pretokenizer_open(&splitter), STATUS_OK);
    for_all("split", check_split);
    pretokenizer_close(splitter);
}

/* The texts of 256 code points, a newline behind each. */
static size_t put_block(uint32_t first, char *out)
{
    size_t n = 0;

    for (uint32_t c = first; c < first + 256; c++)
        for (size_t i = 0; i < n_places; i++) {
            n += put_text(out + n, &places[i], c);
            out[n++] = '\n';
        }
    return n;
}

static uint64_t fnv(const char *bytes, size_t count)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < count; i++)
        h = (h ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
    return h;
}

static void every_code_point_is_normalized_as_in_the_reference(void **state)
{
    static char text[256 * PLACES * 32];
    const struct json_value *v = json_get(facts.root, "normal")->first;
    struct text_buffer scratch = { 0 };

    (void)state;
    n_places = read_places("normal_places", places);
    for (uint32_t first = 0; first < CODE_POINTS; first += 256) {
        const char *out;
        size_t bytes, count;

        if (first >= SURROGATES && first < BEHIND_SURROGATES)
            continue;
        bytes = put_block(first, text);
        assert_int_equal(nfc_normalize(text, bytes, &scratch, &out, &count), STATUS_OK);
        if (v == NULL || (uint32_t)atol(v->first->text) != first) {
            if (count != bytes || memcmp(out, text, bytes) != 0)
                fail_msg("one of U+%04X to U+%04X changes a text", first, first + 255);
            continue;
        }
        if (fnv(out, count) != strtoull(v->first->next->text, NULL, 16))
            fail_msg("one of U+%04X to U+%04X is normalized otherwise", first, first + 255);
        v = v->next;
    }
    assert_null(v);
    text_buffer_free(&scratch);
}

static void check_word(uint32_t c, int word)
{
    if (is_word_character(c) != (word != 0))
        fail_msg("U+%04X is %sa word character", c, word ? "not " : "");
}

static void check_space(uint32_t c, int space)
{
    if (is_white_space(c) != (space != 0))
        fail_msg("U+%04X is %swhite space", c, space ? "not " : "");
}

static void every_code_point_is_a_word_or_space_as_in_the_reference(void **state)
{
    (void)state;
    for_all("word", check_word);
    for_all("space", check_space);
}

static void words_and_spaces_are_found_at_either_end(void **state)
{
    (void)state;
    assert_true(ends_with_word("a\xc3\xa9", 3));
    assert_false(ends_with_word("\xc3\xa9.", 3));
    assert_false(ends_with_word("", 0));
    assert_true(starts_with_word("\xc3\xa9.", 3));
    assert_false(starts_with_word(".a", 2));
    assert_false(starts_with_word("", 0));
    assert_int_equal(space_at_end("a \xe3\x80\x80\t", 6), 5);
    assert_int_equal(space_at_end(" \xe3\x80\x80", 4), 4);
    assert_int_equal(space_at_end("a", 1), 0);
    assert_int_equal(space_at_start("\xc2\xa0 a ", 5), 3);
    assert_int_equal(space_at_start("", 0), 0);
}

static int open_facts(void **state)
{
    (void)state;
    facts = support_golden_file("tokenizer/unicode.json");
    return 0;
}

static int close_facts(void **state)
{
    (void)state;
    json_document_free(&facts);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_is_cut_as_in_the_reference),
        cmocka_unit_test(every_code_point_is_normalized_as_in_the_reference),
        cmocka_unit_test(every_code_point_is_a_word_or_space_as_in_the_reference),
        cmocka_unit_test(words_and_spaces_are_found_at_either_end),
    };

    return cmocka_run_group_tests(tests, open_facts, close_facts);
}
