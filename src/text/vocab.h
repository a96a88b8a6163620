/* vocab.h - token texts and their ids, both ways.
 *
 * A text is the token's literal spelling in tokenizer.json ("Ġthe"), still in
 * the byte alphabet. Ids may have gaps. Ownership: struct vocab owns copies of
 * all texts; zero is the empty vocabulary; free with vocab_free(). Reading from
 * several threads is safe once nothing is added any more. Nothing blocks. */
#ifndef QUERN_TEXT_VOCAB_H
#define QUERN_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/text_buffer.h"

struct vocab_slot {
    uint32_t hash;
    int32_t id; /* -1: free */
};

struct vocab_span { /* of a text in the pool; start UINT32_MAX: no such id */
    uint32_t start, bytes;
};

struct vocab {
    struct text_buffer texts; /* the pool */
    struct vocab_span *spans; /* by id */
    uint32_t id_room;
    uint32_t count;          /* highest id + 1 */
    struct vocab_slot *slots;
    uint32_t mask, used;
};

/* `origin` begins the error line. STATUS_INVALID, logged, if the text has
 * another id already or the id another text; the same pair again is fine. */
enum status vocab_add(struct vocab *v, const char *origin, const char *text, size_t bytes,
    int32_t id);
void vocab_free(struct vocab *v);

/* The id of a text, -1 if it has none. */
int32_t vocab_find(const struct vocab *v, const char *text, size_t bytes);

/* The text of an id (not 0-terminated); false if there is no such id. */
bool vocab_text(const struct vocab *v, int32_t id, const char **text, size_t *bytes);

/* The text with the byte alphabet undone, to out (room for `bytes`); returns
 * its length. A text with a character outside the alphabet stays as it is. */
size_t vocab_raw_bytes(const char *text, size_t bytes, uint8_t *out);

/* The spelling of one byte in the alphabet: 1 or 2 bytes of UTF-8 to out. */
size_t vocab_spell_byte(uint8_t byte, char out[4]);

#endif
