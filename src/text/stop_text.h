/* stop_text.h - texts that end an answer, found as its text comes, and none of them let through.
 *
 * Text goes in piece by piece and comes out as soon as no stop text can begin in it: a stop text
 * that is half there is held back. All pieces that come out are the answer's text up to its first
 * stop text (the one whose last byte comes first; of several, the first of the list), wherever the
 * cuts were. Nothing blocks. */
#ifndef QUERN_TEXT_STOP_TEXT_H
#define QUERN_TEXT_STOP_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

enum { STOP_TEXTS_MOST = 32, STOP_TEXT_BYTES_MOST = 1024 };

struct stop_texts;

/* Each text is copied; at least one byte. NOMEM (logged). NULL is the set of none. */
struct stop_text {
    const char *text;
    size_t bytes;
};
enum status stop_texts_new(const struct stop_text *texts, int n, struct stop_texts **out);
void stop_texts_free(struct stop_texts *set);

/* How far each text has been seen at the end of what came. All zero: at the beginning. */
struct stop_scan {
    uint16_t seen[STOP_TEXTS_MOST];
    char held[STOP_TEXT_BYTES_MOST]; /* [n_held] */
    uint16_t n_held;
    bool ended;      /* a stop text came: nothing more comes out */
    uint16_t which;  /* of the list */
};

/* Writes what may be told of the text so far into out, which has room for n bytes and those held;
 * returns how many. include: the stop text itself comes out at the end. */
size_t stop_scan_feed(struct stop_scan *s, const struct stop_texts *set, bool include,
    const char *text, size_t n, char *out);

/* Text in which no stop text counts, nor begins: all of it may be told. */
size_t stop_scan_pass(struct stop_scan *s, const char *text, size_t n, char *out);

/* The answer ended otherwise: what is held back, at most STOP_TEXT_BYTES_MOST bytes. */
size_t stop_scan_end(struct stop_scan *s, char *out);

#endif
