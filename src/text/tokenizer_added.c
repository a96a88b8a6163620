/* tokenizer_added.c - added tokens as tokenizers takes them from its files.
 *
 * Their ids are no choice of the file: a token of the vocabulary keeps its own,
 * any other gets the next one behind the vocabulary, in the order they come. Where
 * a file says otherwise that is told, once: a model was trained with the ids that
 * tokenizers gave. */
#include "quern/log.h"
#include "text/tokenizer_internal.h"

static int64_t next_id(const struct tokenizer *t)
{
    return t->last_added >= t->model_tokens ? t->last_added + 1 : t->model_tokens;
}

enum status tokenizer_add(struct tokenizer *t, const char *origin, const char *text, size_t bytes,
    int64_t file_id, struct added_flags flags)
{
    int64_t id = vocab_find(&t->vocab, text, bytes);
    enum status s;

    if (bytes == 0)
        return STATUS_OK;
    if (id < 0)
        id = next_id(t);
    if (id >= VOCAB_TABLE_MOST_TOKENS)
        return log_fail(STATUS_INVALID, "%s: more than %d tokens", origin,
            VOCAB_TABLE_MOST_TOKENS);
    if (file_id >= 0 && file_id != id && t->renumbered++ == 0)
        log_warn("%s: \"%.*s\" has id %lld there, but %lld as tokenizers numbers them: taken for "
                 "%lld", origin, (int)(bytes < 64 ? bytes : 64), text, (long long)file_id,
            (long long)id, (long long)id);
    s = vocab_add(&t->vocab, origin, text, bytes, (int32_t)id);
    if (s != STATUS_OK)
        return s;
    if (id > t->last_added)
        t->last_added = id;
    return added_tokens_add(&t->added, text, bytes, (int32_t)id, flags);
}

static enum status read_flag(const char *origin, const struct json_value *entry, const char *key,
    bool *flag)
{
    const struct json_value *v = json_get(entry, key);

    if (json_is_nothing(v))
        return STATUS_OK;
    if (v->type != JSON_IS_BOOL)
        return log_fail(STATUS_INVALID, "%s: %s of an added token must be true or false, not %s",
            origin, key, json_type_name(v));
    *flag = v->truth;
    return STATUS_OK;
}

enum status tokenizer_add_entry(struct tokenizer *t, const char *origin, const struct json_value *v,
    int64_t file_id)
{
    const struct json_value *content = json_get(v, "content");
    struct added_flags f = { 0 };
    enum status s;

    if (content == NULL || content->type != JSON_IS_STRING)
        return log_fail(STATUS_INVALID, "%s: content of an added token must be a string, not %s",
            origin, json_type_name(content));
    s = read_flag(origin, v, "special", &f.special);
    f.normalized = !f.special;
    if (s == STATUS_OK)
        s = read_flag(origin, v, "normalized", &f.normalized);
    if (s == STATUS_OK)
        s = read_flag(origin, v, "single_word", &f.single_word);
    if (s == STATUS_OK)
        s = read_flag(origin, v, "lstrip", &f.lstrip);
    if (s == STATUS_OK)
        s = read_flag(origin, v, "rstrip", &f.rstrip);
    return s == STATUS_OK
               ? tokenizer_add(t, origin, content->text, content->bytes, file_id, f) : s;
}
