/* small_tokenizer.c - its parts as text, put together on demand. */
#include "small_tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "text/json_write.h"
#include "text/pretokenize.h"
#include "text/vocab.h"
#include "text_support.h"

static const char *const sound[PART_COUNT] = {
    [PART_ADDED] = "\"added_tokens\": [{\"id\": 258, \"content\": \"<|end|>\", \"special\": true},"
                   "{\"id\": 259, \"content\": \"<t>\", \"special\": false}]",
    [PART_NORMALIZER] = "\"normalizer\": {\"type\": \"NFC\"}",
    [PART_PRE] = NULL, /* holds the regex: made when needed */
    [PART_POST] = "\"post_processor\": null",
    [PART_DECODER] = "\"decoder\": {\"type\": \"ByteLevel\"}",
    [PART_SETTINGS] = "\"type\": \"BPE\", \"dropout\": null, \"byte_fallback\": false",
    [PART_VOCAB] = ", \"ab\": 256, \"abc\": 257}",
    [PART_MERGES] = "[\"a b\", [\"ab\", \"c\"]]",
};

static void put_pre_tokenizer(struct text_buffer *b, const char *regex, const char *more)
{
    text_buffer_put(b, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
                       "\"Split\", \"pattern\": {\"Regex\": ");
    json_write_string(b, regex, strlen(regex));
    text_buffer_put(b, "}, \"behavior\": \"Isolated\", \"invert\": false}, {\"type\": "
                       "\"ByteLevel\", \"use_regex\": false, \"add_prefix_space\": false");
    text_buffer_put(b, more);
    text_buffer_put(b, "}]}");
}

void small_tokenizer_put_vocab(struct text_buffer *b, const char *end)
{
    text_buffer_put(b, "\"vocab\": {");
    for (unsigned byte = 0; byte < 256; byte++) {
        char spelled[4], id[16];

        snprintf(id, sizeof(id), ": %u", byte);
        text_buffer_put(b, byte == 0 ? "" : ", ");
        json_write_string(b, spelled, vocab_spell_byte((uint8_t)byte, spelled));
        text_buffer_put(b, id);
    }
    text_buffer_put(b, end);
}

struct text_buffer small_tokenizer_file(int part, const char *instead, bool merges_first)
{
    struct text_buffer b = { 0 };
    const char *parts[PART_COUNT];

    memcpy(parts, sound, sizeof(parts));
    if (part >= 0)
        parts[part] = instead;
    text_buffer_put(&b, "{");
    for (int i = PART_ADDED; i <= PART_DECODER; i++) {
        if (i == PART_PRE && parts[i] == NULL)
            put_pre_tokenizer(&b, pretokenizer_regex, "");
        else
            text_buffer_put(&b, parts[i]);
        text_buffer_put(&b, ", ");
    }
    text_buffer_put(&b, "\"model\": {");
    text_buffer_put(&b, parts[PART_SETTINGS]);
    text_buffer_put(&b, ", ");
    if (merges_first) {
        text_buffer_put(&b, "\"merges\": ");
        text_buffer_put(&b, parts[PART_MERGES]);
        text_buffer_put(&b, ", ");
    }
    small_tokenizer_put_vocab(&b, parts[PART_VOCAB]);
    if (!merges_first) {
        text_buffer_put(&b, ", \"merges\": ");
        text_buffer_put(&b, parts[PART_MERGES]);
    }
    text_buffer_put(&b, "}}");
    return b;
}

enum status small_tokenizer_open(struct text_buffer b, struct tokenizer **t)
{
    support_write("tokenizer.json", b.bytes, b.count);
    text_buffer_free(&b);
    return tokenizer_open(support_temp_dir(), t);
}

void small_tokenizer_works(struct tokenizer *t)
{
    static const int32_t want[] = { 257, 'b', 258, 259, 256 };
    int32_t *ids;
    size_t count;

    assert_int_equal(tokenizer_encode(t, "abcb<|end|><t>ab", 16, TOKENIZER_PARSE_SPECIAL, &ids, &count), STATUS_OK);
    assert_int_equal(count, 5);
    assert_memory_equal(ids, want, sizeof(want));
    free(ids);
}
