/* json_pull.c - one token per call.
 *
 * What may come next is one enum and one bit per open container, so the depth
 * costs bits, not stack. A string without escapes is lent from the buffer
 * itself; only one with escapes is copied. */
#include "text/json_pull.h"

#include "quern/log.h"
#include "text/utf8.h"

void json_reader_open(struct json_reader *r, const char *name, const char *text, size_t bytes)
{
    *r = (struct json_reader){
        .name = name, .text = text, .bytes = bytes, .expect = JSON_EXPECT_VALUE
    };
}

void json_reader_close(struct json_reader *r)
{
    text_buffer_free(&r->scratch);
}

enum status json_complain(const struct json_reader *r, size_t at, const char *message)
{
    return log_fail(STATUS_INVALID, "%s: byte %zu: %s", r->name, at, message);
}

static void skip_space(struct json_reader *r)
{
    const char *t = r->text;
    size_t at = r->at;

    while (at < r->bytes && (t[at] == ' ' || t[at] == '\n' || t[at] == '\r' || t[at] == '\t'))
        at++;
    r->at = at;
}

static bool in_array(const struct json_reader *r)
{
    return (r->in_array[(r->depth - 1) / 64] >> ((r->depth - 1) % 64) & 1) != 0;
}

static void after_value(struct json_reader *r)
{
    r->expect = r->depth == 0 ? JSON_EXPECT_NOTHING : JSON_EXPECT_COMMA_OR_END;
}

static enum status open_container(struct json_reader *r, struct json_token *token, bool array)
{
    uint64_t bit = UINT64_C(1) << (r->depth % 64);

    if (r->depth == JSON_DEPTH_MAX)
        return json_complain(r, r->at, "containers are nested too deeply (256 is the limit)");
    if (array)
        r->in_array[r->depth / 64] |= bit;
    else
        r->in_array[r->depth / 64] &= ~bit;
    r->depth++;
    r->at++;
    r->expect = array ? JSON_EXPECT_ELEMENT_OR_END : JSON_EXPECT_KEY_OR_END;
    token->kind = array ? JSON_ARRAY : JSON_OBJECT;
    return STATUS_OK;
}

static enum status close_container(struct json_reader *r, struct json_token *token)
{
    token->kind = in_array(r) ? JSON_ARRAY_END : JSON_OBJECT_END;
    r->depth--;
    r->at++;
    after_value(r);
    return STATUS_OK;
}

/* Four hex digits at text[at]; -1 if they are not there. */
static int32_t hex4(const struct json_reader *r, size_t at)
{
    int32_t value = 0;

    if (at + 4 > r->bytes)
        return -1;
    for (size_t i = at; i < at + 4; i++) {
        char c = r->text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;

        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* \uXXXX, or a surrogate pair of two, whose backslash is at text[at]. */
static enum status unescape_unicode(struct json_reader *r, size_t *at)
{
    int32_t first = hex4(r, *at + 2), second;
    size_t used = 6, length;
    char out[4];

    if (first < 0)
        return json_complain(r, *at, "\\u needs four hexadecimal digits");
    if (first >= 0xd800 && first < 0xe000) {
        bool escape = *at + 8 <= r->bytes && memcmp(r->text + *at + 6, "\\u", 2) == 0;

        second = escape ? hex4(r, *at + 8) : -1;
        if (first >= 0xdc00 || second < 0xdc00 || second > 0xdfff)
            return json_complain(r, *at, "a lone surrogate is not a character");
        first = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        used = 12;
    }
    length = utf8_encode((uint32_t)first, out);
    text_buffer_append(&r->scratch, out, length);
    *at += used;
    return STATUS_OK;
}

static enum status unescape(struct json_reader *r, size_t *at)
{
    static const char plain[256] = {
        ['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
        ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t',
    };
    unsigned char c = *at + 1 < r->bytes ? (unsigned char)r->text[*at + 1] : 0;

    if (c == 'u')
        return unescape_unicode(r, at);
    if (plain[c] == 0)
        return json_complain(r, *at, "unknown escape in a string");
    text_buffer_append(&r->scratch, &plain[c], 1);
    *at += 2;
    return STATUS_OK;
}

/* From text[at] to the next quote, backslash or end; checks what lies between. */
static enum status scan_plain(const struct json_reader *r, size_t *at)
{
    size_t i = *at, length;

    for (; i < r->bytes; i += length) {
        unsigned char c = (unsigned char)r->text[i];

        length = 1;
        if (c == '"' || c == '\\')
            break;
        if (c < 0x20)
            return json_complain(r, i, "a raw control character in a string");
        if (c >= 0x80
            && utf8_step((const unsigned char *)r->text + i, r->bytes - i, &length) != UTF8_WHOLE)
            return json_complain(r, i, "not UTF-8");
    }
    *at = i;
    return STATUS_OK;
}

/* The slow half of a string: at text[at] stands its first backslash. */
static enum status read_escaped(struct json_reader *r, size_t start, size_t at,
    struct json_token *token)
{
    enum status s = STATUS_OK;

    r->scratch.count = 0;
    text_buffer_append(&r->scratch, r->text + start, at - start);
    while (s == STATUS_OK && at < r->bytes && r->text[at] != '"') {
        size_t from = at;

        if (r->text[at] == '\\') {
            s = unescape(r, &at);
            continue;
        }
        s = scan_plain(r, &at);
        if (s == STATUS_OK)
            text_buffer_append(&r->scratch, r->text + from, at - from);
    }
    if (s == STATUS_OK && r->scratch.failed)
        s = log_fail(STATUS_NOMEM, "%s: out of memory for a string", r->name);
    r->at = at;
    token->text = r->scratch.bytes;
    token->bytes = r->scratch.count;
    return s;
}

static enum status read_string(struct json_reader *r, struct json_token *token)
{
    size_t start = r->at + 1, at = start;
    enum status s = scan_plain(r, &at);

    if (s != STATUS_OK)
        return s;
    if (at < r->bytes && r->text[at] == '"') {
        token->text = r->text + start;
        token->bytes = at - start;
        r->at = at + 1;
        return STATUS_OK;
    }
    s = read_escaped(r, start, at, token);
    if (s != STATUS_OK)
        return s;
    if (r->at >= r->bytes)
        return json_complain(r, start - 1, "a string without its closing quote");
    r->at++;
    return STATUS_OK;
}

static size_t digits(const struct json_reader *r, size_t at)
{
    size_t i = at;

    while (i < r->bytes && r->text[i] >= '0' && r->text[i] <= '9')
        i++;
    return i - at;
}

static char char_at(const struct json_reader *r, size_t at)
{
    return at < r->bytes ? r->text[at] : '\0';
}

static enum status read_number(struct json_reader *r, struct json_token *token)
{
    size_t at = r->at + (r->text[r->at] == '-'), count = digits(r, at);

    if (count == 0 || (count > 1 && r->text[at] == '0'))
        return json_complain(r, r->at, "not a number as JSON writes it");
    at += count;
    if (char_at(r, at) == '.') {
        count = digits(r, at + 1);
        if (count == 0)
            return json_complain(r, r->at, "a number needs digits after its point");
        at += 1 + count;
    }
    if (char_at(r, at) == 'e' || char_at(r, at) == 'E') {
        at += 1 + (char_at(r, at + 1) == '+' || char_at(r, at + 1) == '-');
        count = digits(r, at);
        if (count == 0)
            return json_complain(r, r->at, "a number needs digits in its exponent");
        at += count;
    }
    *token = (struct json_token){
        .kind = JSON_NUMBER, .text = r->text + r->at, .bytes = at - r->at, .at = r->at
    };
    r->at = at;
    return STATUS_OK;
}

static enum status read_word(struct json_reader *r, const char *word, enum json_kind kind,
    struct json_token *token)
{
    size_t length = strlen(word);

    if (r->bytes - r->at < length || memcmp(r->text + r->at, word, length) != 0)
        return json_complain(r, r->at, "not a JSON value");
    token->kind = kind;
    r->at += length;
    return STATUS_OK;
}

static enum status read_scalar(struct json_reader *r, struct json_token *token)
{
    switch (r->text[r->at]) {
    case '"':
        token->kind = JSON_STRING;
        return read_string(r, token);
    case 't':
        return read_word(r, "true", JSON_TRUE, token);
    case 'f':
        return read_word(r, "false", JSON_FALSE, token);
    case 'n':
        return read_word(r, "null", JSON_NULL, token);
    default:
        return read_number(r, token);
    }
}

static enum status read_value(struct json_reader *r, struct json_token *token)
{
    enum status s;

    if (r->text[r->at] == '{' || r->text[r->at] == '[')
        return open_container(r, token, r->text[r->at] == '[');
    s = read_scalar(r, token);
    after_value(r);
    return s;
}

static enum status read_key(struct json_reader *r, struct json_token *token)
{
    enum status s;

    if (r->text[r->at] != '"')
        return json_complain(r, r->at, "an object needs a key in quotes here");
    token->kind = JSON_KEY;
    s = read_string(r, token);
    if (s != STATUS_OK)
        return s;
    skip_space(r);
    if (char_at(r, r->at) != ':')
        return json_complain(r, r->at, "a ':' is missing after a key");
    r->at++;
    r->expect = JSON_EXPECT_VALUE;
    return STATUS_OK;
}

/* After an element: passes the comma and says what must follow it. */
static enum status pass_comma(struct json_reader *r)
{
    if (r->text[r->at] != ',')
        return json_complain(r, r->at, "a ',' or the end of the container is missing");
    r->at++;
    skip_space(r);
    r->expect = in_array(r) ? JSON_EXPECT_VALUE : JSON_EXPECT_KEY;
    return STATUS_OK;
}

enum status json_next(struct json_reader *r, struct json_token *token)
{
    bool may_close = r->expect == JSON_EXPECT_ELEMENT_OR_END
                     || r->expect == JSON_EXPECT_KEY_OR_END
                     || r->expect == JSON_EXPECT_COMMA_OR_END;

    skip_space(r);
    *token = (struct json_token){ .kind = JSON_END, .text = "", .at = r->at };
    if (r->expect == JSON_EXPECT_NOTHING)
        return r->at == r->bytes ? STATUS_OK
                                 : json_complain(r, r->at, "bytes after the end of the document");
    if (may_close && char_at(r, r->at) == (in_array(r) ? ']' : '}'))
        return close_container(r, token);
    if (r->expect == JSON_EXPECT_COMMA_OR_END && r->at < r->bytes) {
        enum status s = pass_comma(r);

        if (s != STATUS_OK)
            return s;
        token->at = r->at;
    }
    if (r->at == r->bytes)
        return json_complain(r, r->at, "the document ends too early");
    if (r->expect == JSON_EXPECT_KEY || r->expect == JSON_EXPECT_KEY_OR_END)
        return read_key(r, token);
    return read_value(r, token);
}

enum status json_skip(struct json_reader *r, const struct json_token *first)
{
    struct json_token token;
    unsigned outside = r->depth - 1;

    if (first->kind != JSON_OBJECT && first->kind != JSON_ARRAY)
        return STATUS_OK;
    while (r->depth > outside) {
        enum status s = json_next(r, &token);

        if (s != STATUS_OK)
            return s;
    }
    return STATUS_OK;
}

enum status json_expect(struct json_reader *r, enum json_kind kind, const char *what,
    struct json_token *token)
{
    enum status s = json_next(r, token);

    if (s != STATUS_OK)
        return s;
    if (token->kind != kind)
        return log_fail(STATUS_INVALID, "%s: byte %zu: expected %s", r->name, token->at, what);
    return STATUS_OK;
}

bool json_text_is(const char *text, size_t bytes, const char *word)
{
    return strlen(word) == bytes && memcmp(text, word, bytes) == 0;
}

bool json_text_to_id(const char *text, size_t bytes, int64_t limit, int64_t *value)
{
    int64_t v = 0;

    if (bytes == 0 || bytes > 18)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        v = v * 10 + (text[i] - '0');
    }
    if (v > limit)
        return false;
    *value = v;
    return true;
}
