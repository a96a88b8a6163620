/* word.h - what the reference calls a word character, and white space.
 *
 * Word: Alphabetic, Mark, Decimal_Number, Connector_Punctuation, Join_Control of
 * Unicode 16, as the \w of Rust's regex crate. Space: White_Space. Both decide
 * where added tokens may stand and how far they reach. Nothing blocks or fails. */
#ifndef QUERN_TEXT_WORD_H
#define QUERN_TEXT_WORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool is_word_character(uint32_t c);
bool is_white_space(uint32_t c);

/* text[0, bytes) is well-formed UTF-8. Is its last, or first, character one of a
 * word? An empty text has none. */
bool ends_with_word(const char *text, size_t bytes);
bool starts_with_word(const char *text, size_t bytes);

/* The bytes of white space at the end, and at the beginning. */
size_t space_at_end(const char *text, size_t bytes);
size_t space_at_start(const char *text, size_t bytes);

#endif
