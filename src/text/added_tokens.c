/* added_tokens.c - patterns in order of their texts, so that the longest match is
 * a narrowing of one range, byte by byte.
 *
 * That takes 12 bytes a pattern whatever its text is; and nearly all bytes of a
 * text are passed over by a table of first bytes, or by memchr() while all
 * patterns begin with the same byte, as Qwen's do. */
#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "text/nfc.h"
#include "text/word.h"

static enum status fail_memory(void)
{
    return log_fail(STATUS_NOMEM, "out of memory for the added tokens");
}

static bool grow_tokens(struct added_tokens *a)
{
    uint32_t room = a->room == 0 ? 64 : 2 * a->room;
    struct added_token *grown = realloc(a->tokens, room * sizeof(*grown));

    if (grown == NULL)
        return false;
    a->tokens = grown;
    a->room = room;
    return true;
}

struct added_token *added_tokens_find(const struct added_tokens *a, const char *text, size_t bytes)
{
    int32_t at = vocab_find(&a->by_text, text, bytes);

    return at < 0 ? NULL : &a->tokens[at];
}

enum status added_tokens_add(struct added_tokens *a, const char *text, size_t bytes, int32_t id,
    struct added_flags flags)
{
    struct added_token *there = added_tokens_find(a, text, bytes);
    enum status s;

    if (bytes == 0)
        return STATUS_OK;
    if (there != NULL) {
        there->flags = flags;
        return STATUS_OK;
    }
    if (a->count == a->room && !grow_tokens(a))
        return fail_memory();
    s = vocab_add(&a->by_text, "added tokens", text, bytes, (int32_t)a->count);
    if (s != STATUS_OK)
        return s;
    a->tokens[a->count++] = (struct added_token){ .id = id, .flags = flags };
    return STATUS_OK;
}

static void set_free(struct added_set *set)
{
    text_buffer_free(&set->texts);
    free(set->patterns);
    *set = (struct added_set){ 0 };
}

void added_tokens_free(struct added_tokens *a)
{
    set_free(&a->raw);
    set_free(&a->normal);
    vocab_free(&a->by_text);
    free(a->tokens);
    *a = (struct added_tokens){ 0 };
}

/* Appends the text of a token to the set's pool. */
static enum status put_pattern(struct added_set *set, const struct added_tokens *a, uint32_t token,
    bool nfc, struct text_buffer *scratch)
{
    const char *text = "";
    size_t bytes = 0;
    enum status s = STATUS_OK;

    vocab_text(&a->by_text, (int32_t)token, &text, &bytes);
    if (nfc)
        s = nfc_normalize(text, bytes, scratch, &text, &bytes);
    if (s != STATUS_OK)
        return s;
    set->patterns[set->count++] = (struct added_pattern){
        .start = (uint32_t)set->texts.count, .bytes = (uint32_t)bytes, .token = token
    };
    text_buffer_append(&set->texts, text, bytes);
    return set->texts.failed || set->texts.count > UINT32_MAX ? fail_memory() : STATUS_OK;
}

struct order { /* what patterns are sorted by */
    const struct added_tokens *a;
    const char *texts;
};

/* By text, a prefix first; of equal texts the one that counts first. */
static int compare(const void *left, const void *right, void *context)
{
    const struct order *o = context;
    const struct added_pattern *l = left, *r = right;
    int d = memcmp(o->texts + l->start, o->texts + r->start,
        l->bytes < r->bytes ? l->bytes : r->bytes);

    if (d != 0 || l->bytes != r->bytes)
        return d != 0 ? d : l->bytes < r->bytes ? -1 : 1;
    if (o->a->tokens[l->token].flags.special != o->a->tokens[r->token].flags.special)
        return o->a->tokens[l->token].flags.special ? -1 : 1;
    return l->token < r->token ? -1 : 1;
}

static bool same_text(const struct added_set *set, const struct added_pattern *l,
    const struct added_pattern *r)
{
    return l->bytes == r->bytes
           && memcmp(set->texts.bytes + l->start, set->texts.bytes + r->start, l->bytes) == 0;
}

static void drop_doubles(struct added_set *set)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < set->count; i++) {
        const struct added_pattern *p = &set->patterns[i];

        if (kept == 0 || !same_text(set, p, &set->patterns[kept - 1]))
            set->patterns[kept++] = *p;
    }
    set->count = kept;
}

static void index_first_bytes(struct added_set *set)
{
    uint32_t at = 0;

    for (unsigned byte = 0; byte < 256; byte++) {
        set->first[byte] = at;
        while (at < set->count
               && (unsigned char)set->texts.bytes[set->patterns[at].start] == byte)
            at++;
        if (at - set->first[byte] == set->count)
            set->only = (int16_t)byte;
    }
    set->first[256] = at;
}

static enum status prepare_set(struct added_tokens *a, struct added_set *set, bool normalized,
    bool nfc)
{
    struct order order = { .a = a };
    struct text_buffer scratch = { 0 };
    enum status s = STATUS_OK;

    set_free(set);
    set->only = -1;
    set->patterns = malloc((a->count + 1) * sizeof(*set->patterns));
    if (set->patterns == NULL)
        return fail_memory();
    for (uint32_t i = 0; i < a->count && s == STATUS_OK; i++)
        if (a->tokens[i].flags.normalized == normalized)
            s = put_pattern(set, a, i, nfc, &scratch);
    text_buffer_free(&scratch);
    if (s != STATUS_OK || set->count == 0)
        return s;
    order.texts = set->texts.bytes;
    qsort_r(set->patterns, set->count, sizeof(*set->patterns), compare, &order);
    drop_doubles(set);
    index_first_bytes(set);
    return STATUS_OK;
}

enum status added_tokens_prepare(struct added_tokens *a, bool nfc)
{
    enum status s = prepare_set(a, &a->raw, false, false);

    return s == STATUS_OK ? prepare_set(a, &a->normal, true, nfc) : s;
}

/* The next place where a pattern might begin; `bytes` if there is none. */
static size_t next_candidate(const struct added_set *set, const char *text, size_t bytes,
    size_t from)
{
    if (set->only >= 0) {
        const char *hit = memchr(text + from, set->only, bytes - from);

        return hit == NULL ? bytes : (size_t)(hit - text);
    }
    while (from < bytes) {
        unsigned char byte = (unsigned char)text[from];

        if (set->first[byte] != set->first[byte + 1])
            break;
        from++;
    }
    return from;
}

/* The first pattern in [low, high) whose byte at `depth` is `byte` or above (one that ends there
 * comes before all others). */
static uint32_t narrow(const struct added_set *set, uint32_t low, uint32_t high, size_t depth,
    unsigned byte)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct added_pattern *p = &set->patterns[middle];

        if (p->bytes <= depth || (unsigned char)set->texts.bytes[p->start + depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest pattern at text[0, bytes), NULL if none begins there. */
static const struct added_pattern *longest(const struct added_set *set, const char *text,
    size_t bytes)
{
    const struct added_pattern *best = NULL;
    uint32_t low = set->first[(unsigned char)text[0]], high = set->first[(unsigned char)text[0] + 1];

    for (size_t depth = 1; low < high; depth++) {
        if (set->patterns[low].bytes == depth)
            best = &set->patterns[low];
        if (depth == bytes)
            break;
        high = narrow(set, low, high, depth, (unsigned char)text[depth] + 1u);
        low = narrow(set, low, high, depth, (unsigned char)text[depth]);
    }
    return best;
}

static bool may_stand(const struct added_flags *f, const char *text, size_t bytes, size_t start,
    size_t end, bool parse_special)
{
    if (f->special && !parse_special)
        return false;
    return !f->single_word
           || (!ends_with_word(text, start) && !starts_with_word(text + end, bytes - end));
}

bool added_tokens_next(const struct added_tokens *a, const struct added_set *set, const char *text,
    size_t bytes, size_t from, size_t taken, bool parse_special, struct added_match *out)
{
    size_t at = from;

    if (set->count == 0)
        return false;
    while ((at = next_candidate(set, text, bytes, at)) < bytes) {
        const struct added_pattern *p = longest(set, text + at, bytes - at);
        const struct added_token *t = p == NULL ? NULL : &a->tokens[p->token];
        size_t end = at + (p == NULL ? 1 : p->bytes);

        if (t != NULL && may_stand(&t->flags, text, bytes, at, end, parse_special)) {
            *out = (struct added_match){ .start = at, .end = end, .next = end, .id = t->id };
            if (t->flags.lstrip)
                out->start -= space_at_end(text, at);
            if (t->flags.lstrip && out->start < taken)
                out->start = taken;
            if (t->flags.rstrip)
                out->end += space_at_start(text + end, bytes - end);
            return true;
        }
        at = end;
    }
    return false;
}
