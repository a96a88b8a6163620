/* vocab.c - one pool of text, one array by id, one open hash by text.
 *
 * The byte alphabet: bytes that print in Latin-1 stand for themselves, the
 * other 68 are U+0100, U+0101, ... in ascending order. */
#include "text/vocab.h"

#include <stdlib.h>

#include <xxhash.h>

#include "quern/log.h"
#include "text/utf8.h"

#define NO_TEXT UINT32_MAX

static bool prints(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* How many bytes below this one do not print: the place of one that does not. */
static unsigned place(unsigned byte)
{
    return byte <= 0x20 ? byte : byte <= 0xa0 ? 0x21 + byte - 0x7f : 0x43;
}

size_t vocab_spell_byte(uint8_t byte, char out[4])
{
    return utf8_encode(prints(byte) ? byte : 0x100 + place(byte), out);
}

/* The byte that code point c stands for, or -1. */
static int byte_of(uint32_t c)
{
    if (c < 0x100)
        return prints(c) ? (int)c : -1;
    c -= 0x100;
    if (c <= 0x20)
        return (int)c;
    return c <= 0x42 ? (int)(c - 0x21 + 0x7f) : c == 0x43 ? 0xad : -1;
}

size_t vocab_raw_bytes(const char *text, size_t bytes, uint8_t *out)
{
    size_t count = 0, length;

    for (size_t at = 0; at < bytes; at += length) {
        int byte = byte_of(utf8_decode(text + at, &length));

        if (byte < 0) {
            memcpy(out, text, bytes);
            return bytes;
        }
        out[count++] = (uint8_t)byte;
    }
    return count;
}

static struct vocab_slot *find_slot(const struct vocab *v, uint32_t hash, const char *text,
    size_t bytes)
{
    for (uint32_t at = hash & v->mask;; at = (at + 1) & v->mask) {
        struct vocab_slot *slot = &v->slots[at];

        if (slot->id < 0)
            return slot;
        if (slot->hash == hash && v->spans[slot->id].bytes == bytes
            && memcmp(v->texts.bytes + v->spans[slot->id].start, text, bytes) == 0)
            return slot;
    }
}

static bool grow_slots(struct vocab *v)
{
    struct vocab_slot *old = v->slots;
    uint32_t old_slots = old == NULL ? 0 : v->mask + 1, slots = old == NULL ? 1024 : old_slots * 2;
    struct vocab_slot *grown = malloc(slots * sizeof(*grown));

    if (grown == NULL)
        return false;
    memset(grown, 0xff, slots * sizeof(*grown)); /* every id is -1 */
    v->slots = grown;
    v->mask = slots - 1;
    for (uint32_t i = 0; i < old_slots; i++) {
        uint32_t at = old[i].hash & v->mask;

        if (old[i].id < 0)
            continue;
        while (grown[at].id >= 0)
            at = (at + 1) & v->mask;
        grown[at] = old[i];
    }
    free(old);
    return true;
}

static bool grow_ids(struct vocab *v, uint32_t id)
{
    uint32_t room = v->id_room == 0 ? 1024 : v->id_room;
    struct vocab_span *grown;

    while (room <= id)
        room *= 2;
    grown = realloc(v->spans, room * sizeof(*grown));
    if (grown == NULL)
        return false;
    memset(grown + v->id_room, 0xff, (room - v->id_room) * sizeof(*grown)); /* NO_TEXT */
    v->spans = grown;
    v->id_room = room;
    return true;
}

static bool make_room(struct vocab *v, uint32_t id, size_t bytes)
{
    if (v->used >= v->mask / 3 * 2 && !grow_slots(v))
        return false;
    if (id >= v->id_room && !grow_ids(v, id))
        return false;
    return bytes < NO_TEXT - v->texts.count && text_buffer_reserve(&v->texts, bytes);
}

enum status vocab_add(struct vocab *v, const char *origin, const char *text, size_t bytes,
    int32_t id)
{
    uint32_t hash = (uint32_t)XXH3_64bits(text, bytes);
    struct vocab_slot *slot;

    if (!make_room(v, (uint32_t)id, bytes))
        return log_fail(STATUS_NOMEM, "%s: out of memory for %u tokens", origin, v->count);
    slot = find_slot(v, hash, text, bytes);
    if (slot->id == id)
        return STATUS_OK;
    if (slot->id >= 0)
        return log_fail(STATUS_INVALID, "%s: token \"%.*s\" has two ids, %d and %d", origin,
            (int)(bytes < 64 ? bytes : 64), text, slot->id, id);
    if (v->spans[id].start != NO_TEXT)
        return log_fail(STATUS_INVALID, "%s: id %d belongs to two tokens, \"%.*s\" is the second",
            origin, id, (int)(bytes < 64 ? bytes : 64), text);
    *slot = (struct vocab_slot){ .hash = hash, .id = id };
    v->used++;
    v->spans[id] =
        (struct vocab_span){ .start = (uint32_t)v->texts.count, .bytes = (uint32_t)bytes };
    text_buffer_append(&v->texts, text, bytes);
    if ((uint32_t)id >= v->count)
        v->count = (uint32_t)id + 1;
    return STATUS_OK;
}

void vocab_free(struct vocab *v)
{
    text_buffer_free(&v->texts);
    free(v->spans);
    free(v->slots);
    *v = (struct vocab){ 0 };
}

int32_t vocab_find(const struct vocab *v, const char *text, size_t bytes)
{
    if (v->slots == NULL)
        return -1;
    return find_slot(v, (uint32_t)XXH3_64bits(text, bytes), text, bytes)->id;
}

bool vocab_text(const struct vocab *v, int32_t id, const char **text, size_t *bytes)
{
    if (id < 0 || (uint32_t)id >= v->count || v->spans[id].start == NO_TEXT)
        return false;
    *text = v->texts.bytes + v->spans[id].start;
    *bytes = v->spans[id].bytes;
    return true;
}
