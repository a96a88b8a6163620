/* nfc.c - utf8proc does the work, on the rare text that needs any.
 *
 * nfc_is_inert() may say "no" too often, which costs time, and never "yes" too
 * often, which would cost correctness: its ranges leave out whole blocks rather
 * than list exceptions. */
#include "text/nfc.h"

#include <stdlib.h>

#include <utf8proc.h>

#include "quern/log.h"
#include "text/utf8.h"

struct range {
    uint32_t first, last;
};

/* Ascending. Below U+0300 everything is inert. */
static const struct range inert[] = {
    { 0x0391, 0x0482 },   { 0x048a, 0x0590 },   { 0x05d0, 0x05f4 },   { 0x0620, 0x064a },
    { 0x0660, 0x066f },   { 0x0671, 0x06d5 },   { 0x0904, 0x0939 },   { 0x0e01, 0x0e37 },
    { 0x0e3f, 0x0e47 },   { 0x2002, 0x20cf },
    { 0x2190, 0x2328 },   { 0x232b, 0x2adb },   { 0x3000, 0x3029 },   { 0x3030, 0x3098 },
    { 0x309b, 0x9fff },   { 0xac00, 0xd7a3 },   { 0xfe0e, 0xfe0f },   { 0xff01, 0xffee },
    { 0x1f000, 0x1faff }, { 0x20000, 0x2f7ff },
};

/* Ascending. What the reference takes for a plain character and utf8proc does
 * not: those younger than Unicode 9 with a combining class or a composition,
 * and U+11A7, which utf8proc swallows after a Hangul syllable as if it were the
 * empty final consonant that the arithmetic of composition counts from. */
static const struct range walls[] = {
    { 0x07fd, 0x07fd },   { 0x0898, 0x089f },   { 0x08ca, 0x08d3 },   { 0x09fe, 0x09fe },
    { 0x0c3c, 0x0c3c },   { 0x0d3b, 0x0d3c },   { 0x0eba, 0x0eba },   { 0x11a7, 0x11a7 },
    { 0x1715, 0x1715 },
    { 0x1abf, 0x1ace },   { 0x1df6, 0x1dfa },   { 0xa82c, 0xa82c },
    { 0x10d24, 0x10d27 }, { 0x10eab, 0x10eac }, { 0x10efd, 0x10eff }, { 0x10f46, 0x10f50 },
    { 0x10f82, 0x10f85 }, { 0x11070, 0x11070 }, { 0x1133b, 0x1133b }, { 0x1145e, 0x1145e },
    { 0x11839, 0x1183a }, { 0x11930, 0x11930 }, { 0x11938, 0x11938 }, { 0x1193d, 0x1193e },
    { 0x11943, 0x11943 }, { 0x119e0, 0x119e0 }, { 0x11a34, 0x11a34 }, { 0x11a47, 0x11a47 },
    { 0x11a99, 0x11a99 }, { 0x11d42, 0x11d42 }, { 0x11d44, 0x11d45 }, { 0x11d97, 0x11d97 },
    { 0x11f41, 0x11f42 }, { 0x16ff0, 0x16ff1 }, { 0x1e08f, 0x1e08f }, { 0x1e130, 0x1e136 },
    { 0x1e2ae, 0x1e2ae }, { 0x1e2ec, 0x1e2ef }, { 0x1e4ec, 0x1e4ef },
};

static bool in_ranges(const struct range *ranges, size_t count, uint32_t c)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (c > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && c >= ranges[low].first;
}

bool nfc_is_inert(uint32_t c)
{
    return c < 0x300 || in_ranges(inert, sizeof(inert) / sizeof(inert[0]), c);
}

static bool is_wall(uint32_t c)
{
    return c >= walls[0].first && in_ranges(walls, sizeof(walls) / sizeof(walls[0]), c);
}

/* Is every character inert? */
static bool is_normal(const char *text, size_t bytes)
{
    size_t at = 0, length;

    for (;;) {
        at += utf8_ascii_run(text + at, bytes - at);
        if (at == bytes)
            return true;
        do {
            if (!nfc_is_inert(utf8_decode(text + at, &length)))
                return false;
            at += length;
        } while (at < bytes && (unsigned char)text[at] >= 0x80);
    }
}

/* Appends the normal form of a run without walls. */
static bool append_normal(const char *text, size_t bytes, struct text_buffer *out)
{
    utf8proc_uint8_t *normal = NULL;
    utf8proc_ssize_t n;

    if (bytes == 0)
        return true;
    n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &normal,
        UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0)
        return false;
    text_buffer_append(out, (const char *)normal, (size_t)n);
    free(normal);
    return true;
}

enum status nfc_normalize(const char *text, size_t bytes, struct text_buffer *scratch,
    const char **out, size_t *out_bytes)
{
    size_t run = 0, at, length;
    bool fine = true;

    if (is_normal(text, bytes)) {
        *out = text;
        *out_bytes = bytes;
        return STATUS_OK;
    }
    scratch->count = 0;
    for (at = 0; at < bytes && fine; at += length) {
        if (!is_wall(utf8_decode(text + at, &length)))
            continue;
        fine = append_normal(text + run, at - run, scratch);
        text_buffer_append(scratch, text + at, length);
        run = at + length;
    }
    fine = fine && append_normal(text + run, bytes - run, scratch);
    if (!fine || scratch->failed)
        return log_fail(STATUS_NOMEM, "out of memory to normalize %zu bytes", bytes);
    *out = scratch->bytes;
    *out_bytes = scratch->count;
    return STATUS_OK;
}
