/* added_tokens.h - finds the added tokens ("<|im_start|>", "<think>") in raw text.
 *
 * Leftmost, and of those that begin there the longest. A trie whose nodes are
 * numbers in one array; bytes that begin no token are passed over by a table,
 * or by memchr() while all tokens begin with the same byte, as Qwen's do.
 *
 * Ownership: struct added_tokens owns its nodes; zero is empty; searching does
 * not change it. Nothing blocks. */
#ifndef QUERN_TEXT_ADDED_TOKENS_H
#define QUERN_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

struct added_node {
    int32_t child, sibling; /* node numbers; 0: none (the root is nobody's child) */
    int32_t id;             /* of the token that ends here; -1: none */
    uint8_t byte;
    bool special;
};

struct added_tokens {
    struct added_node *nodes;
    int32_t count, room;
    bool begins[256];  /* a token begins with this byte */
    int16_t only;      /* the one such byte; -1 if there are several */
};

struct added_match {
    size_t at, bytes;
    int32_t id;
};

/* An empty text is passed over. Adding a text again renews id and special. */
enum status added_tokens_add(struct added_tokens *a, const char *text, size_t bytes, int32_t id,
    bool special);
void added_tokens_free(struct added_tokens *a);

/* The first match at or after `from`; false if there is none. A special token
 * is passed over as plain text unless parse_special. */
bool added_tokens_next(const struct added_tokens *a, const char *text, size_t bytes, size_t from,
    bool parse_special, struct added_match *out);

#endif
