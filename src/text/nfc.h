/* nfc.h - Unicode normalization form C, as the reference tokenizer applies it.
 *
 * The reference's tables are of Unicode 9: characters that later versions gave
 * a combining class or a composition to pass through it unchanged, and act as
 * boundaries; they do so here too. Text whose characters can neither change nor
 * combine, which is nearly all text, is recognised and returned as it is. */
#ifndef QUERN_TEXT_NFC_H
#define QUERN_TEXT_NFC_H

#include <stdint.h>

#include "text/text_buffer.h"

/* text[0, bytes) is well-formed UTF-8. *out is `text` itself or `scratch`'s
 * bytes, valid until scratch is used again. STATUS_NOMEM, logged. */
enum status nfc_normalize(const char *text, size_t bytes, struct text_buffer *scratch,
    const char **out, size_t *out_bytes);

/* True only if c is its own NFC and never changes, or is changed by, what stands before it. */
bool nfc_is_inert(uint32_t c);

#endif
