/* stream_decode.h - token bytes in, whole characters out.
 *
 * A token may end in the middle of a character. A stream_decoder hands out the
 * longest prefix that is whole, holds back up to three bytes of a character
 * that may still be completed, and replaces what no continuation can repair
 * with U+FFFD, one for each maximal subpart. All pieces together equal the
 * lossy decode of all bytes at once, wherever the cuts were.
 *
 * Memory: the caller's, no allocation; all zero is a decoder at the start of
 * its text. Nothing blocks, nothing fails. */
#ifndef QUERN_TEXT_STREAM_DECODE_H
#define QUERN_TEXT_STREAM_DECODE_H

#include <stddef.h>
#include <stdint.h>

struct stream_decoder {
    uint8_t held[3];
    uint8_t count; /* of held */
};

enum { STREAM_DECODE_FLUSH_BYTES = 3 };

/* Most bytes that feeding `count` bytes can write: each may become a U+FFFD,
 * and so may what was held back. */
static inline size_t stream_decode_room(size_t count)
{
    return 3 * count + STREAM_DECODE_FLUSH_BYTES;
}

/* Writes what became whole to out (room for stream_decode_room(count)) and
 * returns how many bytes that was. */
size_t stream_decode_feed(struct stream_decoder *d, const uint8_t *bytes, size_t count, char *out);

/* The text ends here: writes U+FFFD for what is held back, if anything is, and
 * returns the bytes written (0 or 3). The decoder is at the start again. */
size_t stream_decode_flush(struct stream_decoder *d, char out[STREAM_DECODE_FLUSH_BYTES]);

#endif
