/* stream_decode.c - the held bytes are finished first, one byte at a time.
 *
 * What is held is a proper prefix of some character, so at most three more
 * bytes decide it; after that the input is walked in place. */
#include "text/stream_decode.h"

#include "text/utf8.h"

static size_t put_replacement(char *out)
{
    memcpy(out, "\xef\xbf\xbd", 3);
    return 3;
}

/* Joins input to the held character until that is whole or broken, or the
 * input is used up. Returns how many input bytes it took. */
static size_t finish_held(struct stream_decoder *d, const uint8_t *bytes, size_t count, char *out,
    size_t *written)
{
    unsigned char c[4];
    size_t used = 0, length;

    memcpy(c, d->held, sizeof(d->held));
    while (d->count > 0 && used < count) {
        c[d->count] = bytes[used];
        switch (utf8_step(c, d->count + 1u, &length)) {
        case UTF8_CUT:
            d->held[d->count++] = bytes[used++];
            break;
        case UTF8_WHOLE:
            memcpy(out + *written, c, length);
            *written += length;
            used++;
            d->count = 0;
            break;
        case UTF8_BROKEN: /* the new byte begins something else */
            *written += put_replacement(out + *written);
            d->count = 0;
            break;
        }
    }
    return used;
}

static void hold(struct stream_decoder *d, const uint8_t *bytes, size_t count)
{
    memcpy(d->held, bytes, count);
    d->count = (uint8_t)count;
}

size_t stream_decode_feed(struct stream_decoder *d, const uint8_t *bytes, size_t count, char *out)
{
    size_t written = 0, length, at = finish_held(d, bytes, count, out, &written);

    while (at < count) {
        size_t plain = utf8_ascii_run((const char *)bytes + at, count - at);

        memcpy(out + written, bytes + at, plain);
        written += plain;
        at += plain;
        if (at == count)
            break;
        switch (utf8_step(bytes + at, count - at, &length)) {
        case UTF8_WHOLE:
            memcpy(out + written, bytes + at, length);
            written += length;
            break;
        case UTF8_BROKEN:
            written += put_replacement(out + written);
            break;
        case UTF8_CUT:
            hold(d, bytes + at, length);
            break;
        }
        at += length;
    }
    return written;
}

size_t stream_decode_flush(struct stream_decoder *d, char out[STREAM_DECODE_FLUSH_BYTES])
{
    size_t written = d->count > 0 ? put_replacement(out) : 0;

    d->count = 0;
    return written;
}
