/* stop_text.c - Knuth, Morris and Pratt for each text; what is held is the longest of what they have
 * seen. */
#include "text/stop_text.h"

#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

struct pattern {
    const char *text;
    uint16_t bytes;
    uint16_t *back; /* [bytes] after so many bytes that match, and one that does not: how many still do */
};

struct stop_texts {
    int n;
    struct pattern patterns[STOP_TEXTS_MOST];
};

/* How many bytes match after one more, where `seen` did. */
static uint16_t advance(const struct pattern *p, uint16_t seen, char byte)
{
    while (seen > 0 && p->text[seen] != byte)
        seen = p->back[seen - 1];
    return p->text[seen] == byte ? (uint16_t)(seen + 1) : 0;
}

static void prepare(struct pattern *p)
{
    uint16_t seen = 0;

    p->back[0] = 0;
    for (uint16_t i = 1; i < p->bytes; i++) {
        seen = advance(p, seen, p->text[i]);
        p->back[i] = seen;
    }
}

enum status stop_texts_new(const struct stop_text *texts, int n, struct stop_texts **out)
{
    struct stop_texts *set;
    size_t all = 0;
    char *at;

    for (int i = 0; i < n; i++)
        all += texts[i].bytes * (1 + sizeof(uint16_t));
    set = calloc(1, sizeof(*set) + all);
    if (set == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %d stop texts", n);
    set->n = n;
    at = (char *)(set + 1);
    for (int i = 0; i < n; i++) { /* tables first: they are aligned */
        set->patterns[i].back = (uint16_t *)(void *)at;
        set->patterns[i].bytes = (uint16_t)texts[i].bytes;
        at += texts[i].bytes * sizeof(uint16_t);
    }
    for (int i = 0; i < n; i++) {
        memcpy(at, texts[i].text, texts[i].bytes);
        set->patterns[i].text = at;
        at += texts[i].bytes;
        prepare(&set->patterns[i]);
    }
    *out = set;
    return STATUS_OK;
}

void stop_texts_free(struct stop_texts *set)
{
    free(set);
}

/* One byte more; the text that is whole with it, or -1. *most: bytes that may begin one. */
static int step(struct stop_scan *s, const struct stop_texts *set, char byte, uint16_t *most)
{
    *most = 0;
    for (int i = 0; i < set->n; i++) {
        const struct pattern *p = &set->patterns[i];

        s->seen[i] = advance(p, s->seen[i], byte);
        if (s->seen[i] == p->bytes)
            return i;
        *most = s->seen[i] > *most ? s->seen[i] : *most;
    }
    return -1;
}

/* Writes the first bytes of what is held, and moves the others up. */
static size_t let_go(struct stop_scan *s, size_t n, char *out)
{
    memcpy(out, s->held, n);
    memmove(s->held, s->held + n, s->n_held - n);
    s->n_held = (uint16_t)(s->n_held - n);
    return n;
}

static size_t end_at(struct stop_scan *s, uint16_t bytes, int which, bool include, char *out)
{
    size_t before = (size_t)s->n_held - bytes;
    size_t written = let_go(s, include ? s->n_held : before, out);

    s->ended = true;
    s->which = (uint16_t)which;
    s->n_held = 0;
    return written;
}

size_t stop_scan_feed(struct stop_scan *s, const struct stop_texts *set, bool include,
    const char *text, size_t n, char *out)
{
    size_t written = 0;

    for (size_t i = 0; i < n && !s->ended; i++) {
        uint16_t most;
        int which = step(s, set, text[i], &most);

        s->held[s->n_held++] = text[i];
        if (which >= 0)
            return written + end_at(s, set->patterns[which].bytes, which, include, out + written);
        if (s->n_held > most)
            written += let_go(s, (size_t)s->n_held - most, out + written);
    }
    return written;
}

size_t stop_scan_pass(struct stop_scan *s, const char *text, size_t n, char *out)
{
    size_t written = stop_scan_end(s, out);

    memset(s->seen, 0, sizeof(s->seen));
    memcpy(out + written, text, n);
    return written + n;
}

size_t stop_scan_end(struct stop_scan *s, char *out)
{
    return let_go(s, s->n_held, out);
}
