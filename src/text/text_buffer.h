/* text_buffer.h - bytes that grow, with the failure kept until the end.
 *
 * A writer appends many small pieces and asks once, at the end, whether all of
 * them fitted: after a failed allocation the buffer only remembers that. Zero
 * is the empty buffer. The buffer owns `bytes` until text_buffer_take() hands
 * it to the caller or text_buffer_free() frees it. Never blocks. */
#ifndef QUERN_TEXT_BUFFER_H
#define QUERN_TEXT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "quern/status.h"

struct text_buffer {
    char *bytes;
    size_t count, room;
    bool failed;
};

/* Makes room for `more` bytes; false (and failed) if there is none. */
bool text_buffer_reserve(struct text_buffer *b, size_t more);
void text_buffer_append(struct text_buffer *b, const char *bytes, size_t count);
void text_buffer_free(struct text_buffer *b);

/* A malloc'ed, 0-terminated copy goes to *text, its length to *bytes, and the
 * buffer is empty again. STATUS_NOMEM (logged) if any append failed. */
enum status text_buffer_take(struct text_buffer *b, char **text, size_t *bytes);

static inline void text_buffer_put(struct text_buffer *b, const char *string)
{
    text_buffer_append(b, string, strlen(string));
}

#endif
