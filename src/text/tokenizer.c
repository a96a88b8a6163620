/* tokenizer.c - the pipeline, segment by segment.
 *
 * The way back lives in one flat table, the same that other processes map
 * (vocab_table.h): so what this process decodes and what the supervisor streams
 * cannot differ. */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "text/nfc.h"
#include "text/stream_decode.h"
#include "text/text_file.h"
#include "text/tokenizer_internal.h"
#include "text/utf8.h"

static bool is_special(const struct tokenizer *t, int32_t id, const char *text, size_t bytes)
{
    struct added_match m;

    /* An added token is found as the whole of its own text, and only if special
     * tokens are looked for when it is one. */
    if (!added_tokens_next(&t->added, text, bytes, 0, true, &m) || m.id != id || m.bytes != bytes)
        return false;
    return !added_tokens_next(&t->added, text, bytes, 0, false, &m) || m.id != id;
}

/* The flat table, in memory of our own. */
static enum status build_table(struct tokenizer *t)
{
    uint32_t count = t->vocab.count, used = 0;
    size_t room = vocab_table_size(count, (uint32_t)t->vocab.texts.count);
    struct vocab_table_header *h = malloc(room);
    uint32_t *offsets = (uint32_t *)(h + 1);
    uint8_t *flags = (uint8_t *)(offsets + count + 1), *blob = flags + count;

    if (h == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for a vocabulary of %u tokens", count);
    for (uint32_t id = 0; id < count; id++) {
        const char *text = "";
        size_t bytes = 0;

        offsets[id] = used;
        flags[id] = 0;
        if (!vocab_text(&t->vocab, (int32_t)id, &text, &bytes))
            continue;
        used += (uint32_t)vocab_raw_bytes(text, bytes, blob + used);
        if (is_special(t, (int32_t)id, text, bytes))
            flags[id] = VOCAB_TABLE_SPECIAL;
    }
    offsets[count] = used;
    *h = (struct vocab_table_header){ .magic = VOCAB_TABLE_MAGIC, .version = VOCAB_TABLE_VERSION,
        .count = count, .blob_bytes = used };
    t->table_mem = h;
    t->table_bytes = vocab_table_size(count, used);
    return vocab_table_attach(t->table_mem, t->table_bytes, &t->table);
}

static enum status load_config(struct tokenizer *t, const char *dir)
{
    struct text_file f;
    enum status s = text_file_read(dir, "tokenizer_config.json", TEXT_FILE_JSON, true, &f);

    if (s != STATUS_OK)
        return s == STATUS_CLOSED ? STATUS_OK : s;
    s = tokenizer_load_config(t, f.bytes, f.count);
    text_file_free(&f);
    return s;
}

static enum status load_files(struct tokenizer *t, const char *dir)
{
    struct text_file f;
    enum status s = text_file_read(dir, "tokenizer.json", TEXT_FILE_VOCABULARY, true, &f);

    t->none = s == STATUS_CLOSED;
    if (t->none)
        return STATUS_OK;
    if (s != STATUS_OK)
        return s;
    s = tokenizer_load(t, f.bytes, f.count);
    text_file_free(&f);
    return s == STATUS_OK ? load_config(t, dir) : s;
}

static enum status fail_none(const char *dir)
{
    return log_fail(STATUS_IO, "%s: no tokenizer: it has no tokenizer.json", dir);
}

static enum status open_any(const char *dir, bool may_be_none, struct tokenizer **out)
{
    struct tokenizer *t = calloc(1, sizeof(*t));
    enum status s;

    if (t == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for a tokenizer");
    s = load_files(t, dir);
    if (s == STATUS_OK && t->none && !may_be_none)
        s = fail_none(dir);
    if (s == STATUS_OK)
        s = build_table(t);
    if (s == STATUS_OK)
        s = pretokenizer_open(&t->pretokenizer);
    if (s != STATUS_OK) {
        tokenizer_close(t);
        return s;
    }
    *out = t;
    return STATUS_OK;
}

enum status tokenizer_open(const char *dir, struct tokenizer **out)
{
    return open_any(dir, false, out);
}

enum status tokenizer_open_or_none(const char *dir, struct tokenizer **out)
{
    return open_any(dir, true, out);
}

void tokenizer_close(struct tokenizer *t)
{
    if (t == NULL)
        return;
    pretokenizer_close(t->pretokenizer);
    free(t->table_mem);
    text_buffer_free(&t->normal);
    bpe_free(&t->bpe);
    added_tokens_free(&t->added);
    vocab_free(&t->vocab);
    free(t);
}

/* Text without added tokens: NFC, split, merge. */
static enum status encode_segment(struct tokenizer *t, const char *text, size_t bytes,
    struct token_ids *out)
{
    const char *piece;
    size_t piece_bytes;
    enum status s;

    if (bytes == 0)
        return STATUS_OK;
    s = nfc_normalize(text, bytes, &t->normal, &text, &bytes);
    if (s != STATUS_OK)
        return s;
    s = pretokenizer_begin(t->pretokenizer, text, bytes);
    while (s == STATUS_OK) {
        s = pretokenizer_next(t->pretokenizer, &piece, &piece_bytes);
        if (s == STATUS_OK)
            s = bpe_encode(&t->bpe, piece, piece_bytes, out);
    }
    return s == STATUS_CLOSED ? STATUS_OK : s;
}

static enum status encode_text(struct tokenizer *t, const char *text, size_t bytes,
    bool parse_special, struct token_ids *out)
{
    struct added_match m;
    size_t at = 0;

    while (added_tokens_next(&t->added, text, bytes, at, parse_special, &m)) {
        enum status s = encode_segment(t, text + at, m.at - at, out);

        if (s != STATUS_OK)
            return s;
        if (!token_ids_reserve(out, 1))
            return log_fail(STATUS_NOMEM, "out of memory for %zu token ids", out->count);
        out->ids[out->count++] = m.id;
        at = m.at + m.bytes;
    }
    return encode_segment(t, text + at, bytes - at, out);
}

enum status tokenizer_encode(struct tokenizer *t, const char *text, size_t bytes,
    bool parse_special, int32_t **ids, size_t *count)
{
    struct token_ids out = { 0 };
    size_t valid = utf8_valid_prefix(text, bytes);
    enum status s;

    if (t->none)
        return log_fail(STATUS_INVALID, "this model has no tokenizer files: give it token ids "
            "(--ids and --print-ids), or put its tokenizer.json beside its config.json");
    if (valid != bytes)
        return log_fail(STATUS_INVALID, "the text is not UTF-8: byte %zu is 0x%02x", valid,
            (unsigned char)text[valid]);
    if (!token_ids_reserve(&out, bytes / 3 + 1))
        return log_fail(STATUS_NOMEM, "out of memory to tokenize %zu bytes", bytes);
    s = encode_text(t, text, bytes, parse_special, &out);
    if (s != STATUS_OK) {
        free(out.ids);
        return s;
    }
    *ids = out.ids;
    *count = out.count;
    return STATUS_OK;
}

enum status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t count,
    bool skip_special, char **text, size_t *bytes)
{
    struct text_buffer out = { 0 };
    struct stream_decoder decoder = { 0 };

    for (size_t i = 0; i < count; i++) {
        const uint8_t *raw;
        size_t raw_bytes;
        bool special;

        if (!vocab_table_get(&t->table, ids[i], &raw, &raw_bytes, &special)) {
            text_buffer_free(&out);
            return log_fail(STATUS_INVALID, "token id %d is out of range: there are %u", ids[i],
                t->table.count);
        }
        if ((special && skip_special) || !text_buffer_reserve(&out, stream_decode_room(raw_bytes)))
            continue;
        out.count += stream_decode_feed(&decoder, raw, raw_bytes, out.bytes + out.count);
    }
    if (text_buffer_reserve(&out, STREAM_DECODE_FLUSH_BYTES))
        out.count += stream_decode_flush(&decoder, out.bytes + out.count);
    return text_buffer_take(&out, text, bytes);
}

size_t tokenizer_vocab_size(const struct tokenizer *t)
{
    return t->vocab.count;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *token)
{
    return vocab_find(&t->vocab, token, strlen(token));
}

size_t vocab_table_bytes(const struct tokenizer *t)
{
    return t->table_bytes;
}

enum status vocab_table_write(const struct tokenizer *t, void *mem, size_t bytes)
{
    if (bytes < t->table_bytes)
        return log_fail(STATUS_INVALID, "the vocabulary table needs %zu bytes, there are %zu",
            t->table_bytes, bytes);
    memcpy(mem, t->table_mem, t->table_bytes);
    return STATUS_OK;
}
