/* tokenizer_load.c - tokenizer.json into tables, in one pass.
 *
 * The two large parts, model.vocab and model.merges, are pulled token by token
 * straight into their tables; all else is small and read as trees, because its
 * keys may come in any order, and checked in tokenizer_check.c. If the merges
 * come before the vocabulary they are passed over and read at the end: a merge
 * names tokens by their texts. */
#include <stdlib.h>

#include "quern/log.h"
#include "text/tokenizer_check.h"
#include "text/tokenizer_internal.h"

#define ORIGIN "tokenizer.json"

struct merge {
    int32_t left, right, merged;
};

struct load {
    struct tokenizer *t;
    struct json_reader reader;
    struct merge *merges;
    size_t merge_count, merge_room;
    struct text_buffer product; /* scratch: the two halves of a merge, joined */
    bool has_vocab, has_merges, has_normalizer, has_pre_tokenizer, has_decoder, has_model;
    size_t merges_at; /* where the merges stand, if they came before the vocabulary; 0: read */
};

static bool is_bool(const struct json_value *v, bool truth)
{
    return v != NULL && v->type == JSON_IS_BOOL && v->truth == truth;
}

/* One token of added_tokens or added_tokens_decoder. */
static enum status add_added(struct tokenizer *t, const char *origin, const struct json_value *v,
    int32_t id)
{
    static const char *const flags[] = { "single_word", "lstrip", "rstrip", "normalized" };
    const struct json_value *content = json_get(v, "content");
    enum status s;

    if (content == NULL || content->type != JSON_IS_STRING)
        return log_fail(STATUS_INVALID, "%s: added token %d: content must be a string, not %s",
            origin, id, json_type_name(content));
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        if (!json_is_nothing(json_get(v, flags[i])) && !is_bool(json_get(v, flags[i]), false))
            return log_fail(STATUS_INVALID, "%s: added token %d: %s must be false", origin, id,
                flags[i]);
    s = vocab_add(&t->vocab, origin, content->text, content->bytes, id);
    if (s != STATUS_OK)
        return s;
    return added_tokens_add(&t->added, content->text, content->bytes, id,
        is_bool(json_get(v, "special"), true));
}

static bool read_id(const struct json_value *v, int32_t *id)
{
    int64_t value;

    if (v == NULL || v->type != JSON_IS_NUMBER
        || !json_text_to_id(v->text, v->bytes, VOCAB_TABLE_MOST_TOKENS - 1, &value))
        return false;
    *id = (int32_t)value;
    return true;
}

static enum status load_added_tokens(struct tokenizer *t, const struct json_value *list)
{
    int32_t id;

    if (json_is_nothing(list))
        return STATUS_OK;
    if (list->type != JSON_IS_ARRAY)
        return log_fail(STATUS_INVALID, ORIGIN ": added_tokens: expected an array, found %s",
            json_type_name(list));
    for (const struct json_value *v = list->first; v != NULL; v = v->next) {
        enum status s;

        if (!read_id(json_get(v, "id"), &id))
            return log_fail(STATUS_INVALID,
                ORIGIN ": added_tokens: an id is not a whole number below %d",
                VOCAB_TABLE_MOST_TOKENS);
        s = add_added(t, ORIGIN ": added_tokens", v, id);
        if (s != STATUS_OK)
            return s;
    }
    return STATUS_OK;
}

static enum status load_vocab(struct load *l)
{
    struct json_token key, value;
    int64_t id;
    enum status s = json_expect(&l->reader, JSON_OBJECT, "model.vocab to be an object", &key);

    if (s != STATUS_OK)
        return s;
    for (;;) {
        s = json_next(&l->reader, &key);
        if (s != STATUS_OK || key.kind == JSON_OBJECT_END)
            return s;
        s = json_expect(&l->reader, JSON_NUMBER, "a token's id", &value);
        if (s != STATUS_OK)
            return s;
        if (!json_text_to_id(value.text, value.bytes, VOCAB_TABLE_MOST_TOKENS - 1, &id))
            return json_complain(&l->reader, value.at,
                "a token's id is a whole number below 16777216");
        s = vocab_add(&l->t->vocab, ORIGIN ": model.vocab", key.text, key.bytes, (int32_t)id);
        if (s != STATUS_OK)
            return s;
    }
}

/* Adds the merge whose halves are product[0, left) and product[left, count). */
static enum status add_merge(struct load *l, size_t left, size_t at)
{
    const struct text_buffer *p = &l->product;
    const struct vocab *v = &l->t->vocab;
    struct merge m;

    if (p->failed)
        return log_fail(STATUS_NOMEM, ORIGIN ": out of memory for a merge");
    m.left = vocab_find(v, p->bytes, left);
    m.right = vocab_find(v, p->bytes + left, p->count - left);
    m.merged = vocab_find(v, p->bytes, p->count);
    if (m.left < 0 || m.right < 0 || m.merged < 0)
        return json_complain(&l->reader, at, "a merge of tokens that are not in model.vocab");
    if (l->merge_count == l->merge_room) {
        size_t room = l->merge_room == 0 ? 8192 : 2 * l->merge_room;
        struct merge *grown = realloc(l->merges, room * sizeof(*grown));

        if (grown == NULL)
            return log_fail(STATUS_NOMEM, ORIGIN ": out of memory for %zu merges", room);
        l->merges = grown;
        l->merge_room = room;
    }
    l->merges[l->merge_count++] = m;
    return STATUS_OK;
}

/* "left right": neither half holds a space, for that is spelled "Ġ". */
static enum status load_joined_merge(struct load *l, const struct json_token *token)
{
    const char *space = memchr(token->text, ' ', token->bytes);
    size_t left;

    if (space == NULL)
        return json_complain(&l->reader, token->at, "a merge is two tokens with a space between");
    left = (size_t)(space - token->text);
    l->product.count = 0;
    text_buffer_append(&l->product, token->text, left);
    text_buffer_append(&l->product, space + 1, token->bytes - left - 1);
    return add_merge(l, left, token->at);
}

/* ["left", "right"] */
static enum status load_paired_merge(struct load *l, size_t at)
{
    struct json_token token;
    size_t left = 0;
    enum status s;

    l->product.count = 0;
    for (int i = 0; i < 2; i++) {
        s = json_expect(&l->reader, JSON_STRING, "a merge to be two strings", &token);
        if (s != STATUS_OK)
            return s;
        if (i == 0)
            left = token.bytes;
        text_buffer_append(&l->product, token.text, token.bytes);
    }
    s = json_expect(&l->reader, JSON_ARRAY_END, "a merge to be two strings", &token);
    return s == STATUS_OK ? add_merge(l, left, at) : s;
}

static enum status load_merges(struct load *l)
{
    struct json_token token;
    enum status s = json_expect(&l->reader, JSON_ARRAY, "model.merges to be an array", &token);

    while (s == STATUS_OK) {
        s = json_next(&l->reader, &token);
        if (s != STATUS_OK || token.kind == JSON_ARRAY_END)
            return s;
        if (token.kind == JSON_STRING)
            s = load_joined_merge(l, &token);
        else if (token.kind == JSON_ARRAY)
            s = load_paired_merge(l, token.at);
        else
            s = json_complain(&l->reader, token.at,
                "a merge must be a string or an array of two strings");
    }
    return s;
}

static enum status pass_over(struct load *l)
{
    struct json_token token;
    enum status s = json_next(&l->reader, &token);

    return s == STATUS_OK ? json_skip(&l->reader, &token) : s;
}

static enum status load_model_setting(struct load *l, const char *key)
{
    struct json_document d;
    enum status s = json_document_read(&l->reader, &d);

    if (s != STATUS_OK)
        return s;
    s = tokenizer_check_setting(key, d.root);
    json_document_free(&d);
    return s;
}

/* Keys longer than any that means something are cut, and so mean nothing. */
enum { KEY_BYTES = 32 };

static void copy_key(const struct json_token *token, char key[KEY_BYTES])
{
    size_t n = token->bytes < KEY_BYTES ? token->bytes : KEY_BYTES - 1;

    memcpy(key, token->text, n);
    key[n] = '\0';
}

static enum status load_model_part(struct load *l, const char *key)
{
    if (strcmp(key, "vocab") == 0) {
        l->has_vocab = true;
        return load_vocab(l);
    }
    if (strcmp(key, "merges") == 0) {
        l->has_merges = true;
        if (l->has_vocab)
            return load_merges(l);
        l->merges_at = l->reader.at;
        return pass_over(l);
    }
    return load_model_setting(l, key);
}

/* The merges that were passed over: reads the file again from there. */
static enum status load_late_merges(struct load *l)
{
    struct json_reader whole = l->reader;
    enum status s;

    json_reader_open(&l->reader, ORIGIN, whole.text, whole.bytes);
    l->reader.at = l->merges_at;
    s = load_merges(l);
    json_reader_close(&l->reader);
    l->reader = whole;
    return s;
}

static enum status load_model(struct load *l)
{
    struct json_token token;
    char key[KEY_BYTES];
    enum status s = json_expect(&l->reader, JSON_OBJECT, "model to be an object", &token);

    l->has_model = true;
    while (s == STATUS_OK) {
        s = json_next(&l->reader, &token);
        if (s != STATUS_OK)
            return s;
        if (token.kind == JSON_OBJECT_END)
            break;
        copy_key(&token, key);
        s = load_model_part(l, key);
    }
    if (s != STATUS_OK)
        return s;
    if (!l->has_vocab || !l->has_merges)
        return log_fail(STATUS_INVALID, ORIGIN ": model: %s is missing",
            l->has_vocab ? "merges" : "vocab");
    return l->merges_at != 0 ? load_late_merges(l) : STATUS_OK;
}

static enum status check_part(struct load *l, const char *key, const struct json_value *v)
{
    if (strcmp(key, "added_tokens") == 0)
        return load_added_tokens(l->t, v);
    l->has_normalizer |= strcmp(key, "normalizer") == 0;
    l->has_pre_tokenizer |= strcmp(key, "pre_tokenizer") == 0;
    l->has_decoder |= strcmp(key, "decoder") == 0;
    return tokenizer_check_part(key, v);
}

static enum status load_part(struct load *l, const char *key)
{
    struct json_document d;
    enum status s;

    if (strcmp(key, "model") == 0)
        return load_model(l);
    s = json_document_read(&l->reader, &d);
    if (s != STATUS_OK)
        return s;
    s = check_part(l, key, d.root);
    json_document_free(&d);
    return s;
}

static enum status load_parts(struct load *l)
{
    struct json_token token;
    char key[KEY_BYTES];
    enum status s = json_expect(&l->reader, JSON_OBJECT, "the file to be an object", &token);

    while (s == STATUS_OK) {
        s = json_next(&l->reader, &token);
        if (s != STATUS_OK)
            return s;
        if (token.kind == JSON_OBJECT_END)
            return json_next(&l->reader, &token); /* nothing may follow */
        copy_key(&token, key);
        s = load_part(l, key);
    }
    return s;
}

static enum status check_presence(const struct load *l)
{
    const struct {
        const char *part;
        bool there;
    } parts[] = {
        { "model", l->has_model },
        { "normalizer", l->has_normalizer },
        { "pre_tokenizer", l->has_pre_tokenizer },
        { "decoder", l->has_decoder },
    };

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (!parts[i].there)
            return tokenizer_unsupported(parts[i].part, "it is missing");
    return STATUS_OK;
}

/* Every byte needs a token, or a text could not be written at all. */
static enum status set_bytes(struct tokenizer *t)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char spelled[4];
        int32_t id = vocab_find(&t->vocab, spelled, vocab_spell_byte((uint8_t)byte, spelled));

        if (id < 0)
            return log_fail(STATUS_INVALID, ORIGIN ": model.vocab: no token for byte 0x%02x", byte);
        bpe_set_byte(&t->bpe, (uint8_t)byte, id);
    }
    return STATUS_OK;
}

static enum status build_bpe(struct load *l)
{
    enum status s = bpe_init(&l->t->bpe, (uint32_t)l->merge_count);

    if (s != STATUS_OK)
        return s;
    for (size_t i = 0; i < l->merge_count; i++)
        bpe_add_merge(&l->t->bpe, l->merges[i].left, l->merges[i].right, l->merges[i].merged);
    return set_bytes(l->t);
}

enum status tokenizer_load(struct tokenizer *t, const char *text, size_t bytes)
{
    struct load l = { .t = t };
    enum status s;

    json_reader_open(&l.reader, ORIGIN, text, bytes);
    s = load_parts(&l);
    if (s == STATUS_OK)
        s = check_presence(&l);
    if (s == STATUS_OK)
        s = build_bpe(&l);
    json_reader_close(&l.reader);
    text_buffer_free(&l.product);
    free(l.merges);
    return s;
}

enum status tokenizer_load_config(struct tokenizer *t, const char *text, size_t bytes)
{
    struct json_document d;
    const struct json_value *list;
    enum status s = json_document_parse("tokenizer_config.json", text, bytes, &d);

    if (s != STATUS_OK)
        return s;
    list = json_get(d.root, "added_tokens_decoder");
    if (list != NULL && list->type != JSON_IS_OBJECT)
        s = log_fail(STATUS_INVALID,
            "tokenizer_config.json: added_tokens_decoder must be an object, found %s",
            json_type_name(list));
    for (const struct json_value *v = list == NULL ? NULL : list->first;
         v != NULL && s == STATUS_OK; v = v->next) {
        int64_t id;

        if (!json_text_to_id(v->key, v->key_bytes, VOCAB_TABLE_MOST_TOKENS - 1, &id))
            s = log_fail(STATUS_INVALID,
                "tokenizer_config.json: added_tokens_decoder: a key is not a token id");
        else
            s = add_added(t, "tokenizer_config.json: added_tokens_decoder", v, (int32_t)id);
    }
    json_document_free(&d);
    return s;
}
