/* jinja_text.h - characters of UTF-8, and the white space that Python's strings know. */
#ifndef QUERN_TEXT_JINJA_TEXT_H
#define QUERN_TEXT_JINJA_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As str.isspace(), strip() without arguments, and \s of Python's regular expressions. */
bool jinja_is_space(uint32_t c);

/* The first byte from `at` on that is no white space; bytes if there is none. */
size_t jinja_skip_space(const char *text, size_t bytes, size_t at);

/* How many bytes are left without the white space at the end. */
size_t jinja_trim_end(const char *text, size_t bytes);

/* Characters, not bytes. */
size_t jinja_characters(const char *text, size_t bytes);

/* The byte offset of the character `index`, at most bytes. */
size_t jinja_offset(const char *text, size_t bytes, size_t index);

#endif
