/* added_tokens.c - some dozens of tokens, so children are a linked list. */
#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

/* The child of `node` for `byte`, 0 if there is none. */
static int32_t child_of(const struct added_tokens *a, int32_t node, uint8_t byte)
{
    int32_t c = a->nodes[node].child;

    while (c != 0 && a->nodes[c].byte != byte)
        c = a->nodes[c].sibling;
    return c;
}

static bool reserve_nodes(struct added_tokens *a, size_t more)
{
    size_t room = a->room == 0 ? 256 : (size_t)a->room;
    struct added_node *grown;

    if (more > INT32_MAX / 4 - (size_t)a->count)
        return false;
    while (room < (size_t)a->count + more)
        room *= 2;
    grown = realloc(a->nodes, room * sizeof(*grown));
    if (grown == NULL)
        return false;
    a->nodes = grown;
    a->room = (int32_t)room;
    return true;
}

static int32_t new_node(struct added_tokens *a, uint8_t byte, int32_t sibling)
{
    a->nodes[a->count] = (struct added_node){ .byte = byte, .sibling = sibling, .id = -1 };
    return a->count++;
}

static void note_first_byte(struct added_tokens *a, uint8_t byte)
{
    bool first = a->nodes[0].child == 0;

    a->begins[byte] = true;
    a->only = first || a->only == byte ? byte : -1;
}

enum status added_tokens_add(struct added_tokens *a, const char *text, size_t bytes, int32_t id,
    bool special)
{
    int32_t node = 0;

    if (bytes == 0)
        return STATUS_OK;
    if (!reserve_nodes(a, bytes + 1))
        return log_fail(STATUS_NOMEM, "out of memory for the added tokens");
    if (a->count == 0)
        new_node(a, 0, 0);
    note_first_byte(a, (uint8_t)text[0]);
    for (size_t i = 0; i < bytes; i++) {
        int32_t next = child_of(a, node, (uint8_t)text[i]);

        if (next == 0) {
            next = new_node(a, (uint8_t)text[i], a->nodes[node].child);
            a->nodes[node].child = next;
        }
        node = next;
    }
    a->nodes[node].id = id;
    a->nodes[node].special = special;
    return STATUS_OK;
}

void added_tokens_free(struct added_tokens *a)
{
    free(a->nodes);
    *a = (struct added_tokens){ 0 };
}

/* The next place where a token might begin; `bytes` if there is none. */
static size_t next_candidate(const struct added_tokens *a, const char *text, size_t bytes,
    size_t from)
{
    if (a->only >= 0) {
        const char *hit = memchr(text + from, a->only, bytes - from);

        return hit == NULL ? bytes : (size_t)(hit - text);
    }
    while (from < bytes && !a->begins[(uint8_t)text[from]])
        from++;
    return from;
}

/* The node of the longest token at text[0], 0 if none begins here. */
static int32_t longest(const struct added_tokens *a, const char *text, size_t bytes,
    size_t *length)
{
    int32_t node = 0, best = 0;

    for (size_t i = 0; i < bytes; i++) {
        node = child_of(a, node, (uint8_t)text[i]);
        if (node == 0)
            break;
        if (a->nodes[node].id >= 0) {
            best = node;
            *length = i + 1;
        }
    }
    return best;
}

bool added_tokens_next(const struct added_tokens *a, const char *text, size_t bytes, size_t from,
    bool parse_special, struct added_match *out)
{
    size_t length = 0;

    if (a->count == 0)
        return false;
    for (size_t at = from; at < bytes;) {
        int32_t node;

        at = next_candidate(a, text, bytes, at);
        if (at == bytes)
            return false;
        node = longest(a, text + at, bytes - at, &length);
        if (node != 0 && (parse_special || !a->nodes[node].special)) {
            *out = (struct added_match){ .at = at, .bytes = length, .id = a->nodes[node].id };
            return true;
        }
        at += node == 0 ? 1 : length;
    }
    return false;
}
