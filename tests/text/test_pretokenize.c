/* test_pretokenize.c - the split, the added tokens, NFC and the merge loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <utf8proc.h>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/nfc.h"
#include "text/pretokenize.h"
#include "text/utf8.h"
#include "text_support.h"

static struct pretokenizer *splitter;

/* The pieces of `text` with | between them. */
static void check_split(const char *text, const char *want)
{
    char got[256] = "";
    const char *piece;
    size_t bytes, n = 0;
    enum status s;

    assert_int_equal(pretokenizer_begin(splitter, text, strlen(text)), STATUS_OK);
    while ((s = pretokenizer_next(splitter, &piece, &bytes)) == STATUS_OK)
        n += (size_t)snprintf(got + n, sizeof(got) - n, n ? "|%.*s" : "%.*s", (int)bytes, piece);
    assert_int_equal(s, STATUS_CLOSED);
    assert_string_equal(got, want);
}

static void texts_split_as_published(void **state)
{
    (void)state;
    check_split("", "");
    check_split("Hello, world! I'M 123", "Hello|,| world|!| I|'M| |1|2|3");
    check_split("  two  spaces\n\n  x\t\ty ", " | two| | spaces|\n\n| | x|\t|\ty| ");
    check_split("price:$12.50\r\nok", "price|:$|1|2|.|5|0|\r\n|ok");
    check_split("I'll don't'Sx", "I|'ll| don|'t|'S|x");
    check_split("foo_bar  \n", "foo|_bar|  \n");
    check_split("a\xc2\xa0" "b", "a|\xc2\xa0" "b");
}

static void corners_split_as_the_reference_does(void **state)
{
    (void)state;
    check_split("a'\xc5\xbf" "b", "a|'\xc5\xbf|b");               /* long s folds to s */
    check_split("x'lla", "x|'ll|a");
    /* U+180E is no space */
    check_split("a\xe1\xa0\x8e\xe1\xa0\x8e.", "a|\xe1\xa0\x8e\xe1\xa0\x8e.");
    check_split("abc\xc3\xa9 d", "abc\xc3\xa9| d");               /* a word goes on past ASCII */
    check_split("\xc2\x85 x", "\xc2\x85| x");                     /* U+0085 is a space */
    check_split("a\xf0\x91\x8e\x90" "b", "a\xf0\x91\x8e\x90" "b"); /* a letter of Unicode 16 */
    check_split("a\xf0\x90\xb5\x80\xf0\x90\xb5\x81", "a|\xf0\x90\xb5\x80|\xf0\x90\xb5\x81");
    check_split("(word", "(word");
    check_split("((word", "((|word");
    check_split("\rword\nx", "\r|word|\n|x");
}

static void every_byte_is_in_one_piece(void **state)
{
    uint64_t random = support_seed();
    char text[4 * 100];

    (void)state;
    for (int round = 0; round < 5000; round++) {
        size_t count = support_random_text(&random, support_random(&random) % 100, text);
        const char *piece, *end = text;
        size_t bytes;

        assert_int_equal(pretokenizer_begin(splitter, text, count), STATUS_OK);
        while (pretokenizer_next(splitter, &piece, &bytes) == STATUS_OK) {
            assert_ptr_equal(piece, end);
            assert_true(bytes > 0);
            end += bytes;
        }
        assert_ptr_equal(end, text + count);
    }
}

static void inert_characters_are_their_own_nfc(void **state)
{
    (void)state;
    for (uint32_t c = 1; c < 0x110000; c++) {
        char text[8];
        size_t bytes, length;
        utf8proc_uint8_t *normal;
        utf8proc_ssize_t n;

        if (!nfc_is_inert(c))
            continue;
        assert_false(c >= 0xd800 && c < 0xe000);
        bytes = utf8_encode(c, text);
        assert_int_equal(utf8_decode(text, &length), c);
        assert_int_equal(utf8proc_get_property((utf8proc_int32_t)c)->combining_class, 0);
        n = utf8proc_map((utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &normal,
            UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        assert_int_equal(n, bytes);
        assert_memory_equal(normal, text, bytes);
        free(normal);
    }
}

static void check_nfc(const char *text, const char *want)
{
    struct text_buffer scratch = { 0 };
    const char *out;
    size_t bytes;

    assert_int_equal(nfc_normalize(text, strlen(text), &scratch, &out, &bytes), STATUS_OK);
    assert_int_equal(bytes, strlen(want));
    assert_memory_equal(out, want, bytes);
    text_buffer_free(&scratch);
}

static void text_is_composed_as_in_unicode_9(void **state)
{
    (void)state;
    check_nfc("plain", "plain");
    check_nfc("e\xcc\x81", "\xc3\xa9");
    check_nfc("\xe2\x84\xab", "\xc3\x85");                                  /* Angstrom sign */
    check_nfc("\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c");      /* Hangul */
    check_nfc("\xed\x95\x98\xe1\x86\xa7", "\xed\x95\x98\xe1\x86\xa7");      /* U+11A7 stays */
    check_nfc("a\xf0\x9e\x85\x80\xcc\xa3", "a\xf0\x9e\x85\x80\xcc\xa3");
    check_nfc("a\xe0\xa2\x98\xcc\xa3", "a\xe0\xa2\x98\xcc\xa3"); /* U+0898 is of Unicode 14 */
    check_nfc("a\xcc\x95\xcc\xa3", "\xe1\xba\xa1\xcc\x95");
}

/* The ids found in a text, as "1 2", with the bytes that each takes: "1:0-3". */
static void check_added(const struct added_tokens *a, const char *text, bool parse_special,
    const char *want)
{
    struct added_match m = { 0 };
    char got[128] = "";
    size_t n = 0, taken = 0;

    while (added_tokens_next(a, &a->raw, text, strlen(text), m.next, taken, parse_special, &m)) {
        n += (size_t)snprintf(got + n, sizeof(got) - n, "%s%d:%zu-%zu", n ? " " : "", m.id,
            m.start, m.end);
        taken = m.end;
    }
    assert_string_equal(got, want);
}

static void add(struct added_tokens *a, const char *text, int32_t id, struct added_flags flags)
{
    assert_int_equal(added_tokens_add(a, text, strlen(text), id, flags), STATUS_OK);
    assert_int_equal(added_tokens_prepare(a, true), STATUS_OK);
}

static void the_longest_added_token_wins(void **state)
{
    static const char text[] = "x<ab><abc<ab";
    struct added_tokens a = { 0 };

    (void)state;
    check_added(&a, text, true, "");
    add(&a, "<ab", 1, (struct added_flags){ 0 });
    add(&a, "<ab>", 2, (struct added_flags){ .special = true });
    add(&a, "", 3, (struct added_flags){ .special = true });
    check_added(&a, text, true, "2:1-5 1:5-8 1:9-12");
    check_added(&a, text, false, "1:5-8 1:9-12"); /* a special token is passed over as a whole */
    add(&a, "c<", 4, (struct added_flags){ 0 });
    check_added(&a, text, true, "2:1-5 1:5-8 4:8-10"); /* leftmost before longest */
    check_added(&a, "<a", true, "");
    check_added(&a, "", true, "");
    add(&a, "<ab", 9, (struct added_flags){ .special = true }); /* keeps its id, not its flags */
    check_added(&a, text, false, "4:8-10");
    check_added(&a, text, true, "2:1-5 1:5-8 4:8-10");
    added_tokens_free(&a);
}

static void added_tokens_take_space_and_want_words_apart(void **state)
{
    struct added_tokens a = { 0 };

    (void)state;
    add(&a, "<l>", 1, (struct added_flags){ .lstrip = true });
    add(&a, "<r>", 2, (struct added_flags){ .rstrip = true });
    add(&a, "<w>", 3, (struct added_flags){ .single_word = true });
    check_added(&a, "a \t<l> b", true, "1:1-6");
    check_added(&a, "a <r> \xe3\x80\x80" "b", true, "2:2-9"); /* U+3000 is white space */
    check_added(&a, "<r> <l>", true, "2:0-4 1:4-7"); /* the first one has the space */
    check_added(&a, "<w> a<w> <w>b <w>_ \xc3\xa9<w>.<w>", true, "3:0-3 3:25-28");
    check_added(&a, "-<w>\xe2\x80\x8d", true, ""); /* a joiner is part of words */
    added_tokens_free(&a);
}

/* "e" with an accent, in two spellings: the special one is first, then the older. */
static void of_tokens_that_normalize_alike_one_is_found(void **state)
{
    const struct added_flags normalized = { .normalized = true };
    struct added_tokens a = { 0 };
    struct added_match m;

    (void)state;
    add(&a, "<\xc3\xa9>", 1, normalized);
    add(&a, "<e\xcc\x81>", 2, normalized);
    assert_int_equal(a.normal.count, 1);
    assert_true(added_tokens_next(&a, &a.normal, "<\xc3\xa9>", 4, 0, 0, true, &m));
    assert_int_equal(m.id, 1);
    added_tokens_find(&a, "<e\xcc\x81>", 5)->flags.special = true;
    assert_int_equal(added_tokens_prepare(&a, true), STATUS_OK);
    assert_true(added_tokens_next(&a, &a.normal, "<\xc3\xa9>", 4, 0, 0, true, &m));
    assert_int_equal(m.id, 2);
    assert_int_equal(added_tokens_prepare(&a, false), STATUS_OK);
    assert_int_equal(a.normal.count, 2);
    added_tokens_free(&a);
}

enum { LETTERS = 3, MERGES = 200 };

struct toy { /* random merges over a few letters */
    struct bpe bpe;
    int32_t left[MERGES], right[MERGES];
    int count;
};

static void make_toy(struct toy *t, uint64_t *random)
{
    assert_int_equal(bpe_init(&t->bpe), STATUS_OK);
    for (int i = 0; i < 256; i++)
        bpe_set_byte(&t->bpe, (uint8_t)i, i);
    t->count = 0;
    for (int i = 0; i < MERGES; i++) {
        int32_t known = LETTERS + t->count;
        int32_t l = (int32_t)(support_random(random) % (uint64_t)known);
        int32_t r = (int32_t)(support_random(random) % (uint64_t)known);
        bool seen = false;

        l = l < LETTERS ? l : 256 + l - LETTERS;
        r = r < LETTERS ? r : 256 + r - LETTERS;
        for (int k = 0; k < t->count; k++)
            seen |= t->left[k] == l && t->right[k] == r;
        if (seen)
            continue;
        assert_int_equal(bpe_add_merge(&t->bpe, l, r, 256 + t->count), STATUS_OK);
        t->left[t->count] = l;
        t->right[t->count++] = r;
    }
}

/* The definition: merge after merge, always the leftmost of the smallest rank. */
static size_t merge_naively(const struct toy *t, int32_t *ids, size_t n)
{
    for (int rank = 0; rank < t->count;) {
        size_t at = 0;

        while (at + 1 < n && !(ids[at] == t->left[rank] && ids[at + 1] == t->right[rank]))
            at++;
        if (at + 1 >= n) {
            rank++;
            continue;
        }
        ids[at] = 256 + rank;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof(*ids));
        n--;
        rank = 0;
    }
    return n;
}

static void merges_follow_rank_then_place(void **state)
{
    uint64_t random = support_seed();

    (void)state;
    for (int round = 0; round < 300; round++) {
        static struct toy t;
        struct token_ids out = { 0 };
        char piece[200];
        int32_t want[200];
        size_t n;

        make_toy(&t, &random);
        for (int text = 0; text < 6; text++) {
            size_t bytes = 1 + support_random(&random) % (text < 3 ? 60 : 200);

            for (size_t i = 0; i < bytes; i++) {
                piece[i] = (char)(support_random(&random) % LETTERS);
                want[i] = piece[i];
            }
            n = merge_naively(&t, want, bytes);
            for (int again = 0; again < 2; again++) { /* the second may come from the cache */
                out.count = 0;
                assert_int_equal(bpe_encode(&t.bpe, piece, bytes, &out), STATUS_OK);
                assert_int_equal(out.count, n);
                assert_memory_equal(out.ids, want, n * sizeof(*want));
            }
        }
        free(out.ids);
        bpe_free(&t.bpe);
    }
}

static int open_splitter(void **state)
{
    (void)state;
    return pretokenizer_open(&splitter) == STATUS_OK ? 0 : -1;
}

static int close_splitter(void **state)
{
    (void)state;
    pretokenizer_close(splitter);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_split_as_published),
        cmocka_unit_test(corners_split_as_the_reference_does),
        cmocka_unit_test(every_byte_is_in_one_piece),
        cmocka_unit_test(inert_characters_are_their_own_nfc),
        cmocka_unit_test(text_is_composed_as_in_unicode_9),
        cmocka_unit_test(the_longest_added_token_wins),
        cmocka_unit_test(added_tokens_take_space_and_want_words_apart),
        cmocka_unit_test(of_tokens_that_normalize_alike_one_is_found),
        cmocka_unit_test(merges_follow_rank_then_place),
    };

    return cmocka_run_group_tests(tests, open_splitter, close_splitter);
}
