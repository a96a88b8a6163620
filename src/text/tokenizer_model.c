/* tokenizer_model.c - vocabulary and merges, token by token into their tables.
 *
 * They are nearly all of a file, so nothing is built on the way: what a file
 * takes in memory is what its tables take. A merge names tokens by their texts,
 * so the vocabulary comes first. */
#include "quern/log.h"
#include "text/tokenizer_internal.h"

bool tokenizer_read_id(const char *text, size_t bytes, int64_t *id)
{
    return json_text_to_id(text, bytes, VOCAB_TABLE_MOST_TOKENS - 1, id);
}

enum status tokenizer_read_vocab(struct tokenizer *t, struct json_reader *r)
{
    struct json_token key, value;
    int64_t id;
    enum status s = json_expect(r, JSON_OBJECT, "the vocabulary to be an object", &key);

    if (s != STATUS_OK)
        return s;
    for (;;) {
        s = json_next(r, &key);
        if (s != STATUS_OK || key.kind == JSON_OBJECT_END)
            return s;
        s = json_expect(r, JSON_NUMBER, "a token's id", &value);
        if (s != STATUS_OK)
            return s;
        if (!tokenizer_read_id(value.text, value.bytes, &id))
            return json_complain(r, value.at, "a token's id is a whole number below 16777216");
        s = vocab_add(&t->vocab, r->name, key.text, key.bytes, (int32_t)id);
        if (s != STATUS_OK)
            return s;
    }
}

/* Finds the tokens of a merge, its halves being text[0, left) and text[left, bytes);
 * STATUS_INVALID, not logged, if one of the three is none. */
static enum status add_merge(struct tokenizer *t, const char *text, size_t left, size_t bytes)
{
    const struct vocab *v = &t->vocab;
    int32_t first = vocab_find(v, text, left);
    int32_t second = vocab_find(v, text + left, bytes - left);
    int32_t merged = vocab_find(v, text, bytes);

    if (first < 0 || second < 0 || merged < 0)
        return STATUS_INVALID;
    return bpe_add_merge(&t->bpe, first, second, merged);
}

/* "left right": neither half holds a space, for that is spelled "Ġ". *product is scratch. */
static enum status add_joined(struct tokenizer *t, const char *text, size_t bytes,
    struct text_buffer *product, const char **why)
{
    const char *space = memchr(text, ' ', bytes);
    size_t left = space == NULL ? 0 : (size_t)(space - text);

    *why = "a merge is two tokens with a space between";
    if (space == NULL || memchr(space + 1, ' ', bytes - left - 1) != NULL)
        return STATUS_INVALID;
    *why = "a merge of tokens that are not in the vocabulary";
    product->count = 0;
    text_buffer_append(product, text, left);
    text_buffer_append(product, space + 1, bytes - left - 1);
    if (product->failed)
        return log_fail(STATUS_NOMEM, "out of memory for a merge");
    return add_merge(t, product->bytes, left, bytes - 1);
}

/* ["left", "right"] */
static enum status read_pair(struct tokenizer *t, struct json_reader *r, size_t at,
    struct text_buffer *product)
{
    struct json_token token;
    size_t left = 0;
    enum status s;

    product->count = 0;
    for (int i = 0; i < 2; i++) {
        s = json_expect(r, JSON_STRING, "a merge to be two strings", &token);
        if (s != STATUS_OK)
            return s;
        if (i == 0)
            left = token.bytes;
        text_buffer_append(product, token.text, token.bytes);
    }
    s = json_expect(r, JSON_ARRAY_END, "a merge to be two strings", &token);
    if (s != STATUS_OK)
        return s;
    if (product->failed)
        return log_fail(STATUS_NOMEM, "out of memory for a merge");
    s = add_merge(t, product->bytes, left, product->count);
    return s == STATUS_INVALID
               ? json_complain(r, at, "a merge of tokens that are not in the vocabulary") : s;
}

static enum status read_merge(struct tokenizer *t, struct json_reader *r,
    const struct json_token *token, struct text_buffer *product)
{
    const char *why;
    enum status s;

    if (token->kind == JSON_ARRAY)
        return read_pair(t, r, token->at, product);
    if (token->kind != JSON_STRING)
        return json_complain(r, token->at, "a merge must be a string or an array of two strings");
    s = add_joined(t, token->text, token->bytes, product, &why);
    return s == STATUS_INVALID ? json_complain(r, token->at, why) : s;
}

enum status tokenizer_read_merges(struct tokenizer *t, struct json_reader *r)
{
    struct text_buffer product = { 0 };
    struct json_token token;
    enum status s = json_expect(r, JSON_ARRAY, "the merges to be an array", &token);

    while (s == STATUS_OK) {
        s = json_next(r, &token);
        if (s != STATUS_OK || token.kind == JSON_ARRAY_END)
            break;
        s = read_merge(t, r, &token, &product);
    }
    text_buffer_free(&product);
    return s;
}

/* The first line, and any like it, names the format's version. */
static bool is_version(const char *line, size_t bytes)
{
    static const char word[] = "#version";

    return bytes >= sizeof(word) - 1 && memcmp(line, word, sizeof(word) - 1) == 0;
}

enum status tokenizer_read_merge_lines(struct tokenizer *t, const char *origin, const char *text,
    size_t bytes)
{
    struct text_buffer product = { 0 };
    size_t number = 1;
    enum status s = STATUS_OK;

    for (size_t at = 0, next; at < bytes && s == STATUS_OK; at = next, number++) {
        const char *end = memchr(text + at, '\n', bytes - at), *why = NULL;
        size_t length = end == NULL ? bytes - at : (size_t)(end - text) - at;

        next = at + length + 1;
        if (length > 0 && text[at + length - 1] == '\r')
            length--;
        if (length == 0 || is_version(text + at, length))
            continue;
        s = add_joined(t, text + at, length, &product, &why);
        if (s == STATUS_INVALID)
            s = log_fail(s, "%s: line %zu: %s", origin, number, why);
    }
    text_buffer_free(&product);
    return s;
}

/* Every byte needs a token, or a text could not be written at all. */
enum status tokenizer_finish_model(struct tokenizer *t, const char *origin)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char spelled[4];
        int32_t id = vocab_find(&t->vocab, spelled, vocab_spell_byte((uint8_t)byte, spelled));

        if (id < 0)
            return log_fail(STATUS_INVALID, "%s: no token for byte 0x%02x", origin, byte);
        bpe_set_byte(&t->bpe, (uint8_t)byte, id);
    }
    t->model_tokens = t->vocab.used;
    t->model_text_bytes = t->vocab.texts.count;
    return STATUS_OK;
}
