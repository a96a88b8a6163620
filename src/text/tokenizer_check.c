/* tokenizer_check.c - a file that asks for more than is done here is refused.
 *
 * Each check names its part and what it must be. Settings that cannot change
 * the ids of a text are let pass, as different releases spell them differently:
 * trim_offsets, truncation, what the decoder adds to words that it never sees;
 * and as every byte has a token, unk_token, fuse_unk and byte_fallback. */
#include "text/tokenizer_check.h"

#include <string.h>

#include "quern/log.h"
#include "text/pretokenize.h"

enum { MOST_MARKS = 64 }; /* ids that a post-processor may put around a text */

enum status tokenizer_unsupported(const char *part, const char *what)
{
    return log_fail(STATUS_INVALID,
        "tokenizer.json: %s: %s; this reads the tokenizers of Qwen2 and Qwen3 only", part, what);
}

static bool is_bool(const struct json_value *v, bool truth)
{
    return v != NULL && v->type == JSON_IS_BOOL && v->truth == truth;
}

static bool is_type(const struct json_value *v, const char *type)
{
    return json_is_word(json_get(v, "type"), type);
}

/* ---- normalizer ---- */

/* NFC, none, or a sequence of such; *nfc becomes true where there is one. */
static bool read_normalizer(const struct json_value *v, bool *nfc)
{
    const struct json_value *list = json_get(v, "normalizers");

    if (json_is_nothing(v))
        return true;
    if (is_type(v, "NFC")) {
        *nfc = true;
        return true;
    }
    if (!is_type(v, "Sequence") || list == NULL || list->type != JSON_IS_ARRAY)
        return false;
    for (v = list->first; v != NULL; v = v->next)
        if (!is_type(v, "NFC"))
            return false;
    *nfc |= list->count > 0;
    return true;
}

static enum status check_normalizer(struct tokenizer *t, const struct json_value *v)
{
    if (read_normalizer(v, &t->nfc))
        return STATUS_OK;
    return tokenizer_unsupported("normalizer", "it must be NFC or null");
}

/* ---- pre_tokenizer ---- */

/* The regex leaves nothing between its matches, so it is all the same to keep matches apart from
 * the rest and to throw the rest away. */
static bool splits_by_matches(const struct json_value *v)
{
    const struct json_value *behavior = json_get(v, "behavior"), *invert = json_get(v, "invert");

    if (json_is_word(behavior, "Isolated"))
        return is_bool(invert, false) || is_bool(invert, true);
    return json_is_word(behavior, "Removed") && is_bool(invert, true);
}

static enum status check_split(const struct json_value *v)
{
    const struct json_value *regex = json_get(json_get(v, "pattern"), "Regex");

    if (!is_type(v, "Split"))
        return tokenizer_unsupported("pre_tokenizer", "its first step must be Split");
    if (!json_is_word(regex, pretokenizer_regex))
        return tokenizer_unsupported("pre_tokenizer", "its Split has another regex");
    if (!splits_by_matches(v))
        return tokenizer_unsupported("pre_tokenizer",
            "its Split must be Isolated, or Removed and inverted");
    return STATUS_OK;
}

static enum status check_pre_tokenizer(struct tokenizer *t, const struct json_value *v)
{
    const struct json_value *steps = json_get(v, "pretokenizers"), *last;
    enum status s;

    (void)t;
    if (!is_type(v, "Sequence") || steps == NULL || steps->type != JSON_IS_ARRAY
        || steps->count != 2)
        return tokenizer_unsupported("pre_tokenizer",
            "it must be a Sequence of Split and ByteLevel");
    s = check_split(steps->first);
    if (s != STATUS_OK)
        return s;
    last = steps->first->next;
    if (!is_type(last, "ByteLevel") || !is_bool(json_get(last, "add_prefix_space"), false)
        || !is_bool(json_get(last, "use_regex"), false))
        return tokenizer_unsupported("pre_tokenizer",
            "its second step must be ByteLevel without prefix space and regex");
    return STATUS_OK;
}

/* ---- post_processor ---- */

static enum status unknown_processor(void)
{
    return tokenizer_unsupported("post_processor",
        "it must be ByteLevel, TemplateProcessing with tokens and one text, or null");
}

/* Appends the ids of a special token of a template. */
static enum status put_mark(struct token_ids *marks, const struct json_value *template,
    const struct json_value *mark)
{
    const struct json_value *name = json_get(mark, "id"), *entry = NULL, *ids;

    if (name != NULL && name->type == JSON_IS_STRING)
        entry = json_get(json_get(template, "special_tokens"), name->text);
    ids = json_get(entry, "ids");
    if (ids == NULL || ids->type != JSON_IS_ARRAY)
        return unknown_processor();
    for (const struct json_value *v = ids->first; v != NULL; v = v->next) {
        int64_t id;

        if (v->type != JSON_IS_NUMBER || !tokenizer_read_id(v->text, v->bytes, &id)
            || marks->count == MOST_MARKS)
            return unknown_processor();
        if (!token_ids_reserve(marks, 1))
            return log_fail(STATUS_NOMEM, "out of memory for a post-processor");
        marks->ids[marks->count++] = (int32_t)id;
    }
    return STATUS_OK;
}

/* What a template puts before the text and behind it. */
static enum status read_template(const struct json_value *v, struct token_ids *before,
    struct token_ids *after)
{
    const struct json_value *single = json_get(v, "single");
    bool text = false;

    if (single == NULL || single->type != JSON_IS_ARRAY)
        return unknown_processor();
    for (const struct json_value *step = single->first; step != NULL; step = step->next) {
        const struct json_value *mark = json_get(step, "SpecialToken");
        enum status s = STATUS_OK;

        if (mark != NULL)
            s = put_mark(text ? after : before, v, mark);
        else if (text || !json_is_word(json_get(json_get(step, "Sequence"), "id"), "A"))
            s = unknown_processor();
        else
            text = true;
        if (s != STATUS_OK)
            return s;
    }
    return text ? STATUS_OK : unknown_processor();
}

static enum status add_processor(struct tokenizer *t, const struct json_value *v,
    bool *templated)
{
    if (json_is_nothing(v) || is_type(v, "ByteLevel"))
        return STATUS_OK;
    if (!is_type(v, "TemplateProcessing") || *templated) /* of two the reference fails */
        return unknown_processor();
    *templated = true;
    return read_template(v, &t->before, &t->after);
}

static enum status check_post_processor(struct tokenizer *t, const struct json_value *v)
{
    const struct json_value *list = json_get(v, "processors");
    bool templated = false;
    enum status s = STATUS_OK;

    if (!is_type(v, "Sequence"))
        return add_processor(t, v, &templated);
    if (list == NULL || list->type != JSON_IS_ARRAY)
        return unknown_processor();
    for (v = list->first; v != NULL && s == STATUS_OK; v = v->next)
        s = add_processor(t, v, &templated);
    return s;
}

/* ---- decoder and model ---- */

static enum status check_decoder(struct tokenizer *t, const struct json_value *v)
{
    (void)t;
    if (is_type(v, "ByteLevel"))
        return STATUS_OK;
    return tokenizer_unsupported("decoder", "it must be ByteLevel");
}

static bool is_bpe(const struct json_value *v)
{
    return json_is_word(v, "BPE");
}

static bool is_no_dropout(const struct json_value *v)
{
    return json_is_nothing(v)
           || (v->type == JSON_IS_NUMBER && strspn(v->text, "0.") == v->bytes);
}

static bool is_empty_or_absent(const struct json_value *v)
{
    return json_is_nothing(v) || json_is_word(v, "");
}

static bool is_flag(const struct json_value *v)
{
    return json_is_nothing(v) || v->type == JSON_IS_BOOL;
}

static const struct {
    const char *key, *must;
    bool (*fine)(const struct json_value *v);
} settings[] = {
    { "type", "its type must be BPE", is_bpe },
    { "dropout", "dropout must be null or 0", is_no_dropout },
    { "continuing_subword_prefix", "continuing_subword_prefix must be empty", is_empty_or_absent },
    { "end_of_word_suffix", "end_of_word_suffix must be empty", is_empty_or_absent },
    { "ignore_merges", "ignore_merges must be true or false", is_flag },
};

static const struct {
    const char *part;
    enum status (*check)(struct tokenizer *t, const struct json_value *v);
} parts[] = {
    { "normalizer", check_normalizer },
    { "pre_tokenizer", check_pre_tokenizer },
    { "post_processor", check_post_processor },
    { "decoder", check_decoder },
};

enum { SETTINGS = sizeof(settings) / sizeof(settings[0]), PARTS = sizeof(parts) / sizeof(parts[0]) };

static size_t find_setting(const char *key)
{
    size_t i = 0;

    while (i < SETTINGS && strcmp(key, settings[i].key) != 0)
        i++;
    return i;
}

static size_t find_part(const char *part)
{
    size_t i = 0;

    while (i < PARTS && strcmp(part, parts[i].part) != 0)
        i++;
    return i;
}

bool tokenizer_knows_setting(const char *key)
{
    return find_setting(key) < SETTINGS;
}

bool tokenizer_knows_part(const char *part)
{
    return find_part(part) < PARTS;
}

enum status tokenizer_check_setting(struct tokenizer *t, const char *key,
    const struct json_value *v)
{
    size_t i = find_setting(key);

    if (i < SETTINGS && !settings[i].fine(v))
        return tokenizer_unsupported("model", settings[i].must);
    if (strcmp(key, "ignore_merges") == 0)
        t->whole_first = is_bool(v, true);
    return STATUS_OK;
}

enum status tokenizer_check_part(struct tokenizer *t, const char *part, const struct json_value *v)
{
    size_t i = find_part(part);

    return i < PARTS ? parts[i].check(t, v) : STATUS_OK;
}
