/* tokenizer_check.c - a file that asks for more than is done here is refused.
 *
 * Each check names its part and what it must be. Settings that cannot change
 * the ids of a text (trim_offsets, truncation, what the decoder adds to words
 * that it never sees) are let pass, as different releases spell them differently. */
#include "text/tokenizer_check.h"

#include <string.h>

#include "quern/log.h"
#include "text/pretokenize.h"

enum status tokenizer_unsupported(const char *part, const char *what)
{
    return log_fail(STATUS_INVALID,
        "tokenizer.json: %s: %s; this reads the tokenizers of Qwen2 and Qwen3 only", part, what);
}

static bool is_bool(const struct json_value *v, bool truth)
{
    return v != NULL && v->type == JSON_IS_BOOL && v->truth == truth;
}

static bool is_false_or_absent(const struct json_value *v)
{
    return json_is_nothing(v) || is_bool(v, false);
}

static bool is_empty_or_absent(const struct json_value *v)
{
    return json_is_nothing(v) || json_is_word(v, "");
}

static enum status check_normalizer(const struct json_value *v)
{
    if (json_is_word(json_get(v, "type"), "NFC"))
        return STATUS_OK;
    return tokenizer_unsupported("normalizer", "it must be NFC");
}

static enum status check_split(const struct json_value *v)
{
    const struct json_value *regex = json_get(json_get(v, "pattern"), "Regex");

    if (!json_is_word(json_get(v, "type"), "Split"))
        return tokenizer_unsupported("pre_tokenizer", "its first step must be Split");
    if (!json_is_word(regex, pretokenizer_regex))
        return tokenizer_unsupported("pre_tokenizer", "its Split has another regex");
    if (!json_is_word(json_get(v, "behavior"), "Isolated")
        || !is_bool(json_get(v, "invert"), false))
        return tokenizer_unsupported("pre_tokenizer",
            "its Split must be Isolated and not inverted");
    return STATUS_OK;
}

static enum status check_pre_tokenizer(const struct json_value *v)
{
    const struct json_value *steps = json_get(v, "pretokenizers"), *last;
    enum status s;

    if (!json_is_word(json_get(v, "type"), "Sequence") || steps == NULL
        || steps->type != JSON_IS_ARRAY || steps->count != 2)
        return tokenizer_unsupported("pre_tokenizer",
            "it must be a Sequence of Split and ByteLevel");
    s = check_split(steps->first);
    if (s != STATUS_OK)
        return s;
    last = steps->first->next;
    if (!json_is_word(json_get(last, "type"), "ByteLevel")
        || !is_bool(json_get(last, "add_prefix_space"), false)
        || !is_bool(json_get(last, "use_regex"), false))
        return tokenizer_unsupported("pre_tokenizer",
            "its second step must be ByteLevel without prefix space and regex");
    return STATUS_OK;
}

static enum status check_post_processor(const struct json_value *v)
{
    if (json_is_nothing(v) || json_is_word(json_get(v, "type"), "ByteLevel"))
        return STATUS_OK;
    return tokenizer_unsupported("post_processor", "it must be ByteLevel or null");
}

static enum status check_decoder(const struct json_value *v)
{
    if (json_is_word(json_get(v, "type"), "ByteLevel"))
        return STATUS_OK;
    return tokenizer_unsupported("decoder", "it must be ByteLevel");
}

enum status tokenizer_check_setting(const char *key, const struct json_value *v)
{
    static const struct {
        const char *key, *must;
        bool (*fine)(const struct json_value *v);
    } rules[] = {
        { "dropout", "dropout must be null", json_is_nothing },
        { "unk_token", "unk_token must be null", json_is_nothing },
        { "continuing_subword_prefix", "continuing_subword_prefix must be empty",
            is_empty_or_absent },
        { "end_of_word_suffix", "end_of_word_suffix must be empty", is_empty_or_absent },
        { "byte_fallback", "byte_fallback must be false", is_false_or_absent },
        { "ignore_merges", "ignore_merges must be false", is_false_or_absent },
    };

    if (strcmp(key, "type") == 0 && !json_is_word(v, "BPE"))
        return tokenizer_unsupported("model", "its type must be BPE");
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
        if (strcmp(key, rules[i].key) == 0 && !rules[i].fine(v))
            return tokenizer_unsupported("model", rules[i].must);
    return STATUS_OK;
}

enum status tokenizer_check_part(const char *part, const struct json_value *v)
{
    static const struct {
        const char *part;
        enum status (*check)(const struct json_value *v);
    } rules[] = {
        { "normalizer", check_normalizer },
        { "pre_tokenizer", check_pre_tokenizer },
        { "post_processor", check_post_processor },
        { "decoder", check_decoder },
    };

    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
        if (strcmp(part, rules[i].part) == 0)
            return rules[i].check(v);
    return STATUS_OK;
}
