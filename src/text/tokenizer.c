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
#include "text/tokenizer_internal.h"
#include "text/utf8.h"

struct table { /* a flat table being written */
    struct vocab_table_header *header;
    uint32_t *offsets;
    uint8_t *flags, *blob;
    uint32_t used; /* of blob */
};

/* The bytes of one token. The reference gives a normalized added token back as it
 * is when normalized, and then does not know one that this changed for special. */
static enum status put_token(struct tokenizer *t, struct table *table, uint32_t id,
    const struct added_token *added)
{
    const char *text = "", *normal;
    size_t bytes = 0, normal_bytes;
    bool special = added != NULL && added->flags.special;

    if (vocab_text(&t->vocab, (int32_t)id, &text, &bytes) && added != NULL && t->nfc
        && added->flags.normalized) {
        enum status s = nfc_normalize(text, bytes, &t->normal, &normal, &normal_bytes);

        if (s != STATUS_OK)
            return s;
        special = special && normal_bytes == bytes && memcmp(normal, text, bytes) == 0;
        text = normal;
        bytes = normal_bytes;
    }
    table->offsets[id] = table->used;
    table->used += (uint32_t)vocab_raw_bytes(text, bytes, table->blob + table->used);
    table->flags[id] = special ? VOCAB_TABLE_SPECIAL : 0;
    return STATUS_OK;
}

/* added[id]: which of the added tokens that id is, counted from 1; 0: none. */
static enum status put_tokens(struct tokenizer *t, struct table *table, uint32_t *added)
{
    uint32_t count = t->vocab.count;
    enum status s = STATUS_OK;

    for (uint32_t i = 0; i < t->added.count; i++)
        added[t->added.tokens[i].id] = i + 1;
    for (uint32_t id = 0; id < count && s == STATUS_OK; id++)
        s = put_token(t, table, id, added[id] == 0 ? NULL : &t->added.tokens[added[id] - 1]);
    table->offsets[count] = table->used;
    return s;
}

/* The flat table, in memory of our own. */
static enum status build_table(struct tokenizer *t)
{
    uint32_t count = t->vocab.count;
    size_t texts = t->vocab.texts.count + t->added.normal.texts.count;
    struct table table = { .header = malloc(vocab_table_size(count, 0) + texts) };
    uint32_t *added = calloc((size_t)count + 1, sizeof(*added));
    enum status s = STATUS_OK;

    t->table_mem = table.header;
    if (table.header == NULL || added == NULL || texts > UINT32_MAX) {
        free(added);
        return log_fail(STATUS_NOMEM, "out of memory for a vocabulary of %u tokens", count);
    }
    table.offsets = (uint32_t *)(table.header + 1);
    table.flags = (uint8_t *)(table.offsets + count + 1);
    table.blob = table.flags + count;
    s = put_tokens(t, &table, added);
    free(added);
    *table.header = (struct vocab_table_header){ .magic = VOCAB_TABLE_MAGIC,
        .version = VOCAB_TABLE_VERSION, .count = count, .blob_bytes = table.used };
    t->table_bytes = vocab_table_size(count, table.used);
    return s == STATUS_OK ? vocab_table_attach(t->table_mem, t->table_bytes, &t->table) : s;
}

static enum status fail_none(const char *dir)
{
    return log_fail(STATUS_IO, "%s: no tokenizer: there is no tokenizer.json, nor vocab.json and "
        "merges.txt", dir);
}

static enum status open_any(const char *dir, bool may_be_none, struct tokenizer **out)
{
    struct tokenizer *t = calloc(1, sizeof(*t));
    enum status s;

    if (t == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for a tokenizer");
    s = tokenizer_load_files(t, dir);
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
    text_buffer_free(&t->spelled);
    free(t->before.ids);
    free(t->after.ids);
    bpe_free(&t->bpe);
    added_tokens_free(&t->added);
    vocab_free(&t->vocab);
    free(t);
}

/* The token that a piece is as a whole; -1 if it is none of the model's. */
static int32_t whole_token(struct tokenizer *t, const char *piece, size_t bytes)
{
    const char *text;
    char spelled[4];
    int32_t id;

    t->spelled.count = 0;
    for (size_t i = 0; i < bytes; i++)
        text_buffer_append(&t->spelled, spelled, vocab_spell_byte((uint8_t)piece[i], spelled));
    if (t->spelled.failed) /* merging gives the answer too, or fails */
        return -1;
    id = vocab_find(&t->vocab, t->spelled.bytes, t->spelled.count);
    if (id < 0 || !vocab_text(&t->vocab, id, &text, &bytes)
        || (size_t)(text - t->vocab.texts.bytes) >= t->model_text_bytes)
        return -1;
    return id;
}

static enum status put_id(struct token_ids *out, int32_t id)
{
    if (!token_ids_reserve(out, 1))
        return log_fail(STATUS_NOMEM, "out of memory for %zu token ids", out->count);
    out->ids[out->count++] = id;
    return STATUS_OK;
}

static enum status encode_piece(struct tokenizer *t, const char *piece, size_t bytes,
    struct token_ids *out)
{
    int32_t id = t->whole_first ? whole_token(t, piece, bytes) : -1;

    return id >= 0 ? put_id(out, id) : bpe_encode(&t->bpe, piece, bytes, out);
}

/* Normalized text without added tokens: split, merge. */
static enum status encode_plain(struct tokenizer *t, const char *text, size_t bytes,
    struct token_ids *out)
{
    const char *piece;
    size_t piece_bytes;
    enum status s;

    if (bytes == 0)
        return STATUS_OK;
    s = pretokenizer_begin(t->pretokenizer, text, bytes);
    while (s == STATUS_OK) {
        s = pretokenizer_next(t->pretokenizer, &piece, &piece_bytes);
        if (s == STATUS_OK)
            s = encode_piece(t, piece, piece_bytes, out);
    }
    return s == STATUS_CLOSED ? STATUS_OK : s;
}

typedef enum status encode_part(struct tokenizer *t, const char *text, size_t bytes,
    bool parse_special, struct token_ids *out);

/* The tokens of `set` within a text, and what `between` makes of all else. Where a match takes
 * white space in which the next one begins, the reference encodes some of it twice, and so does
 * this; a match of which nothing is left is none. */
static enum status encode_around(struct tokenizer *t, const struct added_set *set,
    const char *text, size_t bytes, bool parse_special, encode_part *between,
    struct token_ids *out)
{
    struct added_match m = { 0 };
    size_t at = 0;
    enum status s = STATUS_OK;

    while (s == STATUS_OK
           && added_tokens_next(&t->added, set, text, bytes, m.next, at, parse_special, &m)) {
        if (m.start >= m.end)
            continue;
        if (at < m.start)
            s = between(t, text + at, m.start - at, parse_special, out);
        if (s == STATUS_OK)
            s = put_id(out, m.id);
        at = m.end;
    }
    return s == STATUS_OK && at < bytes ? between(t, text + at, bytes - at, parse_special, out) : s;
}

static enum status encode_normal(struct tokenizer *t, const char *text, size_t bytes,
    bool parse_special, struct token_ids *out)
{
    (void)parse_special; /* all added tokens are cut out by now */
    return encode_plain(t, text, bytes, out);
}

/* Raw text without raw tokens: normalize, and cut out the other tokens. */
static enum status encode_raw(struct tokenizer *t, const char *text, size_t bytes,
    bool parse_special, struct token_ids *out)
{
    enum status s = t->nfc ? nfc_normalize(text, bytes, &t->normal, &text, &bytes) : STATUS_OK;

    return s == STATUS_OK
               ? encode_around(t, &t->added.normal, text, bytes, parse_special, encode_normal, out)
               : s;
}

static enum status put_marks(const struct token_ids *marks, unsigned flags, struct token_ids *out)
{
    enum status s = STATUS_OK;

    for (size_t i = 0; i < marks->count && (flags & TOKENIZER_ADD_SPECIAL) && s == STATUS_OK; i++)
        s = put_id(out, marks->ids[i]);
    return s;
}

static enum status encode_text(struct tokenizer *t, const char *text, size_t bytes, unsigned flags,
    struct token_ids *out)
{
    bool parse_special = (flags & TOKENIZER_PARSE_SPECIAL) != 0 && !t->split_special;
    enum status s = put_marks(&t->before, flags, out);

    if (s == STATUS_OK)
        s = encode_around(t, &t->added.raw, text, bytes, parse_special, encode_raw, out);
    return s == STATUS_OK ? put_marks(&t->after, flags, out) : s;
}

enum status tokenizer_encode(struct tokenizer *t, const char *text, size_t bytes,
    unsigned flags, int32_t **ids, size_t *count)
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
    s = encode_text(t, text, bytes, flags, &out);
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
