/* tokenizer_load.c - tokenizer.json in one pass, and a second look at what came too early.
 *
 * The two large parts, model.vocab and model.merges, are read straight into
 * their tables (tokenizer_model.c). All else is small and becomes a tree, a part
 * or an added token at a time and none larger than PART_BYTES: so a file costs a
 * small multiple of its size whatever it holds. Merges that stand before the
 * vocabulary, and added tokens, whose ids follow it, are passed over and read
 * at the end. */
#include "quern/log.h"
#include "text/tokenizer_check.h"
#include "text/tokenizer_internal.h"

#define ORIGIN "tokenizer.json"

enum {
    PART_BYTES = 1 << 20,
    KEY_BYTES = 32, /* keys longer than any that means something are cut, and so mean nothing */
};

struct load {
    struct tokenizer *t;
    struct json_reader reader;
    bool has_vocab, has_merges, has_pre_tokenizer, has_decoder, has_model;
    size_t merges_at, added_at; /* what is still to be read; 0: nothing */
};

static void copy_key(const struct json_token *token, char key[KEY_BYTES])
{
    size_t n = token->bytes < KEY_BYTES ? token->bytes : KEY_BYTES - 1;

    memcpy(key, token->text, n);
    key[n] = '\0';
}

/* Passes over the next value, which begins at token->at; the end of a container is none. */
static enum status pass_over(struct load *l, struct json_token *token)
{
    enum status s = json_next(&l->reader, token);

    if (s != STATUS_OK || token->kind == JSON_ARRAY_END || token->kind == JSON_OBJECT_END)
        return s;
    return json_skip(&l->reader, token);
}

/* The value that was just passed over as a tree. */
static enum status tree_of(const struct load *l, const struct json_token *token,
    struct json_document *d)
{
    size_t bytes = l->reader.at - token->at;

    if (bytes > PART_BYTES)
        return log_fail(STATUS_INVALID, ORIGIN ": byte %zu: a part of %zu bytes, more than %d",
            token->at, bytes, PART_BYTES);
    return json_document_parse(ORIGIN, l->reader.text + token->at, bytes, d);
}

static enum status read_tree(struct load *l, struct json_document *d)
{
    struct json_token token;
    enum status s = pass_over(l, &token);

    return s == STATUS_OK ? tree_of(l, &token, d) : s;
}

static enum status load_model_setting(struct load *l, const char *key)
{
    struct json_document d;
    enum status s = read_tree(l, &d);

    if (s != STATUS_OK)
        return s;
    s = tokenizer_check_setting(l->t, key, d.root);
    json_document_free(&d);
    return s;
}

/* *at: where the value stands, of which this is a promise to read it later. */
static enum status put_off(struct load *l, size_t *at)
{
    struct json_token token;
    enum status s = pass_over(l, &token);

    *at = token.at;
    return s;
}

static enum status load_model_part(struct load *l, const char *key)
{
    struct json_token token;

    if (strcmp(key, "vocab") == 0) {
        l->has_vocab = true;
        return tokenizer_read_vocab(l->t, &l->reader);
    }
    if (strcmp(key, "merges") == 0) {
        l->has_merges = true;
        return l->has_vocab ? tokenizer_read_merges(l->t, &l->reader) : put_off(l, &l->merges_at);
    }
    if (tokenizer_knows_setting(key))
        return load_model_setting(l, key);
    return pass_over(l, &token);
}

static enum status load_model(struct load *l)
{
    struct json_token token;
    char key[KEY_BYTES];
    enum status s = json_expect(&l->reader, JSON_OBJECT, "model to be an object", &token);

    l->has_model = true;
    while (s == STATUS_OK) {
        s = json_next(&l->reader, &token);
        if (s != STATUS_OK || token.kind == JSON_OBJECT_END)
            break;
        copy_key(&token, key);
        s = load_model_part(l, key);
    }
    if (s == STATUS_OK && (!l->has_vocab || !l->has_merges))
        return log_fail(STATUS_INVALID, ORIGIN ": model: %s is missing",
            l->has_vocab ? "merges" : "vocab");
    return s;
}

static enum status load_part(struct load *l, const char *key)
{
    struct json_document d;
    struct json_token token;
    enum status s;

    if (strcmp(key, "model") == 0)
        return load_model(l);
    if (strcmp(key, "added_tokens") == 0)
        return put_off(l, &l->added_at);
    if (!tokenizer_knows_part(key))
        return pass_over(l, &token);
    l->has_pre_tokenizer |= strcmp(key, "pre_tokenizer") == 0;
    l->has_decoder |= strcmp(key, "decoder") == 0;
    s = read_tree(l, &d);
    if (s != STATUS_OK)
        return s;
    s = tokenizer_check_part(l->t, key, d.root);
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

static enum status load_added_token(struct load *l, const struct json_token *token)
{
    struct json_document d;
    const struct json_value *id;
    int64_t file_id;
    enum status s = tree_of(l, token, &d);

    if (s != STATUS_OK)
        return s;
    id = json_get(d.root, "id");
    if (id == NULL || id->type != JSON_IS_NUMBER
        || !tokenizer_read_id(id->text, id->bytes, &file_id))
        s = log_fail(STATUS_INVALID, ORIGIN ": added_tokens: an id is not a whole number below %d",
            VOCAB_TABLE_MOST_TOKENS);
    else
        s = tokenizer_add_entry(l->t, ORIGIN ": added_tokens", d.root, file_id);
    json_document_free(&d);
    return s;
}

static enum status load_added_tokens(struct load *l)
{
    struct json_token token;
    enum status s = json_next(&l->reader, &token);

    if (s != STATUS_OK || token.kind == JSON_NULL)
        return s;
    if (token.kind != JSON_ARRAY)
        return log_fail(STATUS_INVALID, ORIGIN ": added_tokens: expected an array");
    for (;;) {
        s = pass_over(l, &token);
        if (s != STATUS_OK || token.kind == JSON_ARRAY_END)
            return s;
        s = load_added_token(l, &token);
        if (s != STATUS_OK)
            return s;
    }
}

static enum status load_late_merges(struct load *l)
{
    return tokenizer_read_merges(l->t, &l->reader);
}

/* Reads the file again from byte `at`, where a value stands that was passed over. */
static enum status read_late(struct load *l, size_t at, enum status (*read)(struct load *l))
{
    struct json_reader whole = l->reader;
    enum status s;

    if (at == 0)
        return STATUS_OK;
    json_reader_open(&l->reader, ORIGIN, whole.text, whole.bytes);
    l->reader.at = at;
    s = read(l);
    json_reader_close(&l->reader);
    l->reader = whole;
    return s;
}

static enum status check_presence(const struct load *l)
{
    const struct {
        const char *part;
        bool there;
    } parts[] = {
        { "model", l->has_model },
        { "pre_tokenizer", l->has_pre_tokenizer },
        { "decoder", l->has_decoder },
    };

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (!parts[i].there)
            return tokenizer_unsupported(parts[i].part, "it is missing");
    return STATUS_OK;
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
        s = read_late(&l, l.merges_at, load_late_merges);
    if (s == STATUS_OK)
        s = tokenizer_finish_model(t, ORIGIN ": model.vocab");
    if (s == STATUS_OK)
        s = read_late(&l, l.added_at, load_added_tokens);
    json_reader_close(&l.reader);
    return s;
}
