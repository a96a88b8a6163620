/* tokenizer_config.c - the files beside the vocabulary, as Transformers reads them.
 *
 * tokenizer_config.json lists the added tokens; where it does not, as older
 * checkpoints have it, added_tokens.json does, and special_tokens_map.json
 * overrules what it says of named tokens. Last, every named token ("eos_token",
 * "additional_special_tokens") that is not an added one becomes one, and all of
 * them are special. */
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "text/text_file.h"
#include "text/tokenizer_internal.h"

#define CONFIG "tokenizer_config.json"
#define MAP "special_tokens_map.json"
#define ADDED "added_tokens.json"

static const char *const names[] = { "bos_token", "eos_token", "unk_token", "sep_token",
    "pad_token", "cls_token", "mask_token" };

enum { NAMES = sizeof(names) / sizeof(names[0]) };

struct config {
    struct tokenizer *t;
    struct json_document config, map; /* root NULL: no such file */
    bool defaults;
};

static enum status read_json(const char *dir, const char *name, struct json_document *d)
{
    struct text_file f;
    enum status s = text_file_read(dir, name, TEXT_FILE_JSON, true, &f);

    if (s != STATUS_OK)
        return s == STATUS_CLOSED ? STATUS_OK : s;
    s = json_document_parse(name, f.bytes, f.count, d);
    text_file_free(&f);
    if (s == STATUS_OK && d->root->type != JSON_IS_OBJECT) {
        s = log_fail(STATUS_INVALID, "%s: expected an object, found %s", name,
            json_type_name(d->root));
        json_document_free(d);
    }
    return s;
}

struct entry { /* one of added_tokens_decoder */
    int64_t id;
    const struct json_value *value;
};

static int by_id(const void *left, const void *right)
{
    const struct entry *l = left, *r = right;

    return l->id < r->id ? -1 : l->id > r->id;
}

static enum status read_entries(const struct json_value *list, struct entry *entries)
{
    size_t n = 0;

    for (const struct json_value *v = list->first; v != NULL; v = v->next, n++) {
        if (!tokenizer_read_id(v->key, v->key_bytes, &entries[n].id))
            return log_fail(STATUS_INVALID, CONFIG ": added_tokens_decoder: a key is not a token "
                "id");
        entries[n].value = v;
    }
    qsort(entries, n, sizeof(*entries), by_id);
    return STATUS_OK;
}

/* added_tokens_decoder, in the order of its ids. */
static enum status add_decoder(struct config *c, const struct json_value *list)
{
    struct entry *entries;
    enum status s;

    if (list->type != JSON_IS_OBJECT)
        return log_fail(STATUS_INVALID, CONFIG ": added_tokens_decoder must be an object, found %s",
            json_type_name(list));
    entries = malloc((list->count + 1) * sizeof(*entries));
    if (entries == NULL)
        return log_fail(STATUS_NOMEM, CONFIG ": out of memory for %zu added tokens", list->count);
    s = read_entries(list, entries);
    for (size_t i = 0; i < list->count && s == STATUS_OK; i++)
        s = tokenizer_add_entry(c->t, CONFIG ": added_tokens_decoder", entries[i].value,
            entries[i].id);
    free(entries);
    return s;
}

/* What a file says of a named token: special_tokens_map.json first, if it counts. */
static const struct json_value *look_up(const struct config *c, const char *key)
{
    const struct json_value *v = json_get(c->map.root, key);

    return v != NULL ? v : json_get(c->config.root, key);
}

/* The text of a named token: a string, or {content, ...}; NULL for any other value. */
static const struct json_value *text_of(const struct json_value *v)
{
    if (v != NULL && v->type == JSON_IS_OBJECT)
        v = json_get(v, "content");
    return v != NULL && v->type == JSON_IS_STRING ? v : NULL;
}

/* A named token is special; one that is not there yet is added. */
static enum status add_named(struct config *c, const struct json_value *v)
{
    const struct json_value *text = text_of(v);
    struct added_token *there;

    if (text == NULL)
        return STATUS_OK;
    there = added_tokens_find(&c->t->added, text->text, text->bytes);
    if (there == NULL && v->type == JSON_IS_OBJECT) {
        enum status s = tokenizer_add_entry(c->t, CONFIG, v, -1);

        there = added_tokens_find(&c->t->added, text->text, text->bytes);
        if (s != STATUS_OK || there == NULL)
            return s;
    }
    if (there == NULL)
        return tokenizer_add(c->t, CONFIG, text->text, text->bytes, -1,
            (struct added_flags){ .special = true });
    there->flags.special = true;
    return STATUS_OK;
}

static bool is_listed(const char *key)
{
    for (size_t i = 0; i < NAMES; i++)
        if (strcmp(key, names[i]) == 0)
            return true;
    return false;
}

/* "image_token": "<|image_pad|>", and the like: any other key of that ending with a string. */
static enum status add_unlisted(struct config *c, const struct json_value *object)
{
    enum status s = STATUS_OK;

    for (const struct json_value *v = object == NULL ? NULL : object->first;
         v != NULL && s == STATUS_OK; v = v->next)
        if (v->type == JSON_IS_STRING && !is_listed(v->key) && v->key_bytes > 6
            && strcmp(v->key + v->key_bytes - 6, "_token") == 0)
            s = add_named(c, v);
    return s;
}

static enum status add_list(struct config *c, const struct json_value *list)
{
    enum status s = STATUS_OK;

    if (list == NULL || (list->type != JSON_IS_ARRAY && list->type != JSON_IS_OBJECT))
        return STATUS_OK;
    for (const struct json_value *v = list->first; v != NULL && s == STATUS_OK; v = v->next)
        s = add_named(c, v);
    return s;
}

static enum status add_all_named(struct config *c)
{
    static const char end_of_text[] = "<|endoftext|>";
    const struct json_value fallback = { .type = JSON_IS_STRING, .text = end_of_text,
        .bytes = sizeof(end_of_text) - 1 };
    enum status s = STATUS_OK;

    for (size_t i = 0; i < NAMES && s == STATUS_OK; i++) {
        const struct json_value *v = look_up(c, names[i]);
        bool defaulted = strcmp(names[i], "eos_token") == 0 || strcmp(names[i], "unk_token") == 0
                         || strcmp(names[i], "pad_token") == 0;

        s = add_named(c, v == NULL && c->defaults && defaulted ? &fallback : v);
    }
    if (s == STATUS_OK)
        s = add_unlisted(c, c->config.root);
    if (s == STATUS_OK)
        s = add_unlisted(c, c->map.root);
    if (s == STATUS_OK)
        s = add_list(c, look_up(c, "additional_special_tokens"));
    return s == STATUS_OK ? add_list(c, look_up(c, "extra_special_tokens")) : s;
}

/* Is a text one of the named tokens? */
static bool is_named(const struct config *c, const struct json_value *v)
{
    const struct json_value *list = look_up(c, "additional_special_tokens");

    for (size_t i = 0; i < NAMES; i++) {
        const struct json_value *text = text_of(look_up(c, names[i]));

        if (text != NULL && text->bytes == v->key_bytes
            && memcmp(text->text, v->key, v->key_bytes) == 0)
            return true;
    }
    for (const struct json_value *each = list == NULL || list->type != JSON_IS_ARRAY ? NULL
                                                                                     : list->first;
         each != NULL; each = each->next)
        if (json_is_word(text_of(each), v->key))
            return true;
    return false;
}

/* {"<text>": id, ...}; what tokenizer.json says of a token counts before it. */
static enum status add_file(struct config *c, const char *dir)
{
    struct json_document d = { 0 };
    enum status s = read_json(dir, ADDED, &d);

    for (const struct json_value *v = d.root == NULL ? NULL : d.root->first;
         v != NULL && s == STATUS_OK; v = v->next) {
        bool special = is_named(c, v);
        int64_t id;

        if (v->type != JSON_IS_NUMBER || !tokenizer_read_id(v->text, v->bytes, &id))
            s = log_fail(STATUS_INVALID, ADDED ": the id of \"%s\" is not a whole number below %d",
                v->key, VOCAB_TABLE_MOST_TOKENS);
        else if (added_tokens_find(&c->t->added, v->key, v->key_bytes) == NULL)
            s = tokenizer_add(c->t, ADDED, v->key, v->key_bytes, id,
                (struct added_flags){ .special = special, .normalized = !special });
    }
    json_document_free(&d);
    return s;
}

static bool is_true(const struct json_value *v)
{
    return v != NULL && v->type == JSON_IS_BOOL && v->truth;
}

/* The named token around every text, unless the post-processor has it there already. */
static enum status add_mark(struct config *c, const char *flag, const char *name,
    struct token_ids *marks)
{
    const struct json_value *text = text_of(look_up(c, name));
    int32_t id = text == NULL ? -1 : vocab_find(&c->t->vocab, text->text, text->bytes);

    if (!is_true(json_get(c->config.root, flag)) || id < 0 || marks->count > 0)
        return STATUS_OK;
    if (!token_ids_reserve(marks, 1))
        return log_fail(STATUS_NOMEM, "out of memory for " CONFIG);
    marks->ids[marks->count++] = id;
    return STATUS_OK;
}

static enum status take_settings(struct config *c)
{
    enum status s;

    if (is_true(json_get(c->config.root, "add_prefix_space")))
        return log_fail(STATUS_INVALID, CONFIG ": add_prefix_space must be false; this reads the "
            "tokenizers of Qwen2 and Qwen3 only");
    c->t->split_special = is_true(json_get(c->config.root, "split_special_tokens"));
    s = add_mark(c, "add_bos_token", "bos_token", &c->t->before);
    return s == STATUS_OK ? add_mark(c, "add_eos_token", "eos_token", &c->t->after) : s;
}

/* The model's files alone do not say how a text is cut; the class's code does. */
static enum status check_class(const struct config *c)
{
    const struct json_value *v = json_get(c->config.root, "tokenizer_class");

    if (!c->defaults || json_is_nothing(v) || json_is_word(v, "Qwen2Tokenizer")
        || json_is_word(v, "Qwen2TokenizerFast"))
        return STATUS_OK;
    return log_fail(STATUS_INVALID, CONFIG ": tokenizer_class is %s%s, vocab.json and merges.txt "
        "are read for Qwen2Tokenizer alone: save it with Transformers, which writes tokenizer.json",
        v->type == JSON_IS_STRING ? "" : json_type_name(v), v->type == JSON_IS_STRING ? v->text : "");
}

static enum status take_config(struct config *c, const char *dir)
{
    const struct json_value *decoder;
    enum status s = read_json(dir, CONFIG, &c->config);

    if (s == STATUS_OK)
        s = check_class(c);
    if (s != STATUS_OK)
        return s;
    decoder = json_get(c->config.root, "added_tokens_decoder");
    if (!json_is_nothing(decoder)) {
        s = add_decoder(c, decoder);
    } else {
        s = read_json(dir, MAP, &c->map);
        if (s == STATUS_OK)
            s = add_file(c, dir);
    }
    if (s == STATUS_OK)
        s = add_all_named(c);
    return s == STATUS_OK ? take_settings(c) : s;
}

enum status tokenizer_load_config(struct tokenizer *t, const char *dir, bool defaults)
{
    struct config c = { .t = t, .defaults = defaults };
    enum status s = take_config(&c, dir);

    json_document_free(&c.config);
    json_document_free(&c.map);
    return s;
}
