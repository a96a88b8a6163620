/* pretokenize.c - PCRE2 where it must be, a byte table where it may be.
 *
 * Two things keep PCRE2 away from most pieces: an ASCII word with at most one
 * leading mark that an ASCII byte ends, and an ASCII digit, can only match in
 * one way, which a table finds. All else goes through the regex.
 *
 * Its \s also matches U+180E, which the reference's does not, so the class is
 * spelled out as Unicode's White_Space property. And the reference knows the
 * letters and digits of Unicode 16, while PCRE2 knows those of its own version:
 * a text that holds younger ones is matched in a shadow copy in which each is
 * replaced by an old letter or digit of as many bytes, so that offsets agree. */
#include "text/pretokenize.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "quern/log.h"
#include "text/text_buffer.h"
#include "text/utf8.h"

const char pretokenizer_regex[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

#define SPACE \
    "\\t-\\r \\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* The same with \s spelled out. */
static const char pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" SPACE
    "\\p{L}\\p{N}]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+";

enum {
    JIT_STACK_FIRST = 32 << 10,
    JIT_STACK_MOST = 16 << 20,
};

struct pretokenizer {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    bool jit;

    const char *text;    /* what is being cut */
    const char *subject; /* `text`, or its shadow */
    size_t bytes, at;
    struct text_buffer shadow;
};

static enum status compile(struct pretokenizer *p)
{
    PCRE2_SIZE offset;
    int error;

    /* Anchored: the pieces adjoin, so a search would only find what a match finds. */
    p->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
        PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, &error, &offset, NULL);
    if (p->code == NULL)
        return log_fail(STATUS_INTERNAL, "PCRE2 refused the split regex (error %d at %zu)", error,
            (size_t)offset);
    p->jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0;
    p->match = pcre2_match_data_create(1, NULL);
    p->context = pcre2_match_context_create(NULL);
    if (p->match == NULL || p->context == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for the split regex");
    if (p->jit)
        p->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MOST, NULL);
    if (p->stack != NULL)
        pcre2_jit_stack_assign(p->context, NULL, p->stack);
    return STATUS_OK;
}

enum status pretokenizer_open(struct pretokenizer **out)
{
    struct pretokenizer *p = calloc(1, sizeof(*p));
    enum status s;

    if (p == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for the split regex");
    s = compile(p);
    if (s != STATUS_OK) {
        pretokenizer_close(p);
        return s;
    }
    *out = p;
    return STATUS_OK;
}

void pretokenizer_close(struct pretokenizer *p)
{
    if (p == NULL)
        return;
    pcre2_jit_stack_free(p->stack);
    pcre2_match_context_free(p->context);
    pcre2_match_data_free(p->match);
    pcre2_code_free(p->code);
    text_buffer_free(&p->shadow);
    free(p);
}

struct younger {
    uint32_t first, last;
    bool digit; /* \p{N}, otherwise \p{L} */
};

/* Letters and numbers from Unicode 15 and 16, ascending. */
static const struct younger younger[] = {
    { 0x1c89, 0x1c8a, false },   { 0xa7cb, 0xa7cd, false },   { 0xa7da, 0xa7dc, false },
    { 0x105c0, 0x105f3, false }, { 0x10d40, 0x10d49, true },  { 0x10d4a, 0x10d65, false },
    { 0x10d6f, 0x10d85, false }, { 0x10ec2, 0x10ec4, false }, { 0x1123f, 0x11240, false },
    { 0x11380, 0x11389, false }, { 0x1138b, 0x1138b, false }, { 0x1138e, 0x1138e, false },
    { 0x11390, 0x113b5, false }, { 0x113b7, 0x113b7, false }, { 0x113d1, 0x113d1, false },
    { 0x113d3, 0x113d3, false }, { 0x116d0, 0x116e3, true },  { 0x11bc0, 0x11be0, false },
    { 0x11bf0, 0x11bf9, true },  { 0x11f02, 0x11f02, false }, { 0x11f04, 0x11f10, false },
    { 0x11f12, 0x11f33, false }, { 0x11f50, 0x11f59, true },  { 0x1342f, 0x1342f, false },
    { 0x13441, 0x13446, false }, { 0x13460, 0x143fa, false }, { 0x16100, 0x1611d, false },
    { 0x16130, 0x16139, true },  { 0x16d40, 0x16d6c, false }, { 0x16d70, 0x16d79, true },
    { 0x18cff, 0x18cff, false }, { 0x1b132, 0x1b132, false }, { 0x1b155, 0x1b155, false },
    { 0x1ccf0, 0x1ccf9, true },  { 0x1d2c0, 0x1d2d3, true },  { 0x1df25, 0x1df2a, false },
    { 0x1e030, 0x1e06d, false }, { 0x1e4d0, 0x1e4eb, false }, { 0x1e4f0, 0x1e4f9, true },
    { 0x1e5d0, 0x1e5ed, false }, { 0x1e5f0, 0x1e5f0, false }, { 0x1e5f1, 0x1e5fa, true },
    { 0x2b739, 0x2b739, false }, { 0x2ebf0, 0x2ee5d, false }, { 0x31350, 0x323af, false },
};

static const struct younger *find_younger(uint32_t c)
{
    size_t low = 0, high = sizeof(younger) / sizeof(younger[0]);

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (c > younger[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof(younger) / sizeof(younger[0]) && c >= younger[low].first ? &younger[low]
                                                                                 : NULL;
}

/* An old letter or digit of the same length in UTF-8: 3 or 4 bytes. */
static const char *stand_in(const struct younger *y)
{
    if (y->last < 0x10000)
        return "\xe4\xb8\x80"; /* U+4E00; no digits among these */
    return y->digit ? "\xf0\x90\x84\x87" /* U+10107 */ : "\xf0\xa0\x80\x80" /* U+20000 */;
}

/* Replaces the characters younger than PCRE2's tables, if there are any. */
static bool make_shadow(struct pretokenizer *p, const char *text, size_t bytes)
{
    size_t length;
    bool made = false;

    for (size_t at = 0; at < bytes; at += length) {
        const struct younger *y;

        length = utf8_ascii_run(text + at, bytes - at);
        if (length > 0)
            continue;
        y = find_younger(utf8_decode(text + at, &length));
        if (y == NULL)
            continue;
        if (!made) {
            p->shadow.count = 0;
            text_buffer_append(&p->shadow, text, bytes);
            if (p->shadow.failed)
                return false;
            p->subject = p->shadow.bytes;
            made = true;
        }
        memcpy(p->shadow.bytes + at, stand_in(y), length);
    }
    return true;
}

enum status pretokenizer_begin(struct pretokenizer *p, const char *text, size_t bytes)
{
    p->text = p->subject = text;
    p->bytes = bytes;
    p->at = 0;
    if (!make_shadow(p, text, bytes))
        return log_fail(STATUS_NOMEM, "out of memory to split %zu bytes", bytes);
    return STATUS_OK;
}

static bool is_letter(unsigned char c)
{
    return (unsigned char)((c | 0x20) - 'a') < 26;
}

static bool is_digit(unsigned char c)
{
    return (unsigned char)(c - '0') < 10;
}

/* The length of the piece at `at` if ASCII alone decides it, otherwise 0. */
static size_t match_ascii(const char *t, size_t at, size_t bytes)
{
    unsigned char c = (unsigned char)t[at];
    size_t start, end;

    if (is_digit(c))
        return 1;
    if (c >= 0x80 || c == '\r' || c == '\n' || c == '\'')
        return 0;
    start = at + !is_letter(c);
    end = start;
    while (end < bytes && is_letter((unsigned char)t[end]))
        end++;
    if (end == start || (end < bytes && (unsigned char)t[end] >= 0x80))
        return 0;
    return end - at;
}

/* The end of the regex's match at p->at; STATUS_INTERNAL (logged) if PCRE2 gave up. */
static enum status match_regex(struct pretokenizer *p, size_t *end)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)p->subject;
    int found = PCRE2_ERROR_JIT_STACKLIMIT;

    if (p->jit)
        found = pcre2_jit_match(p->code, subject, p->bytes, p->at, PCRE2_NO_UTF_CHECK, p->match,
            p->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) /* or no JIT: some systems forbid it */
        found = pcre2_match(p->code, subject, p->bytes, p->at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
            p->match, p->context);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
        return log_fail(STATUS_INTERNAL, "the split regex failed at byte %zu of %zu (PCRE2 %d)",
            p->at, p->bytes, found);
    *end = found < 0 ? p->bytes : pcre2_get_ovector_pointer(p->match)[1];
    return STATUS_OK;
}

enum status pretokenizer_next(struct pretokenizer *p, const char **piece, size_t *bytes)
{
    size_t length, end;

    if (p->at == p->bytes)
        return STATUS_CLOSED;
    length = match_ascii(p->subject, p->at, p->bytes);
    end = p->at + length;
    if (length == 0) {
        enum status s = match_regex(p, &end);

        if (s != STATUS_OK)
            return s;
    }
    *piece = p->text + p->at;
    *bytes = end - p->at;
    p->at = end;
    return STATUS_OK;
}
