/* jinja_text.c - characters, and the white space that Python's strings know.
 *
 * Python counts code points, this runtime bytes of UTF-8: between the two stand
 * jinja_characters() and jinja_offset(), cheap where text is ASCII. */
#include "text/jinja_text.h"
#include "text/utf8.h"

bool jinja_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680
           || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f
           || c == 0x205f || c == 0x3000;
}

size_t jinja_skip_space(const char *text, size_t bytes, size_t at)
{
    size_t length;

    while (at < bytes && jinja_is_space(utf8_decode(text + at, &length)))
        at += length;
    return at;
}

size_t jinja_trim_end(const char *text, size_t bytes)
{
    while (bytes > 0) {
        size_t start = bytes - 1, length;

        while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
            start--;
        if (!jinja_is_space(utf8_decode(text + start, &length)))
            break;
        bytes = start;
    }
    return bytes;
}

size_t jinja_characters(const char *text, size_t bytes)
{
    size_t count = utf8_ascii_run(text, bytes);

    for (size_t i = count; i < bytes; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

size_t jinja_offset(const char *text, size_t bytes, size_t index)
{
    size_t at = utf8_ascii_run(text, index < bytes ? index : bytes);

    for (index -= at; at < bytes; at++) {
        if (((unsigned char)text[at] & 0xc0) == 0x80)
            continue;
        if (index-- == 0)
            break;
    }
    return at;
}
