/* added_tokens.h - finds the added tokens ("<|im_start|>", "<think>") in a text.
 *
 * As Hugging Face's tokenizers does it: tokens that are not `normalized` are
 * looked for in the raw text, the others, themselves normalized, in what lies
 * between, once that is normalized. Leftmost, and of those that begin there the
 * longest; of two that became equal a special one, or the older. A match that
 * may not stand (not a single word, a special token where they are plain text)
 * is passed over as a whole. lstrip and rstrip take the white space beside it.
 *
 * Ownership: struct added_tokens owns its copies of all texts; zero is empty.
 * After the last added_tokens_add(), added_tokens_prepare() once; searching
 * changes nothing. Nothing blocks. */
#ifndef QUERN_TEXT_ADDED_TOKENS_H
#define QUERN_TEXT_ADDED_TOKENS_H

#include "text/text_buffer.h"
#include "text/vocab.h"

struct added_flags {
    bool special;     /* plain text where special tokens are not parsed; left out by skip_special */
    bool normalized;  /* looked for in the normalized text, not in the raw one */
    bool single_word; /* only where no word character stands beside it */
    bool lstrip, rstrip;
};

struct added_token {
    int32_t id;
    struct added_flags flags;
};

struct added_pattern { /* what is looked for: a token's text, normalized if it is to be */
    uint32_t start, bytes;
    uint32_t token;
};

struct added_set {
    struct text_buffer texts;
    struct added_pattern *patterns; /* by text, no two alike */
    uint32_t count;
    uint32_t first[257]; /* patterns that begin with byte b: [first[b], first[b + 1]) */
    int16_t only;        /* the one such byte; -1 if there are several */
};

struct added_tokens {
    struct added_token *tokens; /* in the order they came */
    uint32_t count, room;
    struct vocab by_text;       /* text -> index into tokens, and back */
    struct added_set raw, normal;
};

struct added_match {
    size_t start, end; /* what it takes, white space with it */
    size_t next;       /* where the search goes on; may be within what it takes */
    int32_t id;
};

/* An empty text is passed over. A text that is there keeps its place and id and
 * gets the new flags. STATUS_NOMEM, logged. */
enum status added_tokens_add(struct added_tokens *a, const char *text, size_t bytes, int32_t id,
    struct added_flags flags);
void added_tokens_free(struct added_tokens *a);

/* The token of that text, NULL if there is none; valid until the next one is added. */
struct added_token *added_tokens_find(const struct added_tokens *a, const char *text,
    size_t bytes);

/* Makes both sets; with `nfc` normalized tokens are put into NFC. STATUS_NOMEM, logged. */
enum status added_tokens_prepare(struct added_tokens *a, bool nfc);

/* The first match of a set that begins at or after `from`; what lies before `taken` belongs to
 * the match before. False if there is none. */
bool added_tokens_next(const struct added_tokens *a, const struct added_set *set, const char *text,
    size_t bytes, size_t from, size_t taken, bool parse_special, struct added_match *out);

#endif
