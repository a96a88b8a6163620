/* getters.c - libquern: what a program may ask of an event and of a connection.
 *
 * A function for each, since a struct that programs see could never grow. */
#include "client/client.h"

/* What a NULL event is. */
static const struct quern_event none;

static const struct quern_event *event_or_none(const struct quern_event *e)
{
    return e != NULL ? e : &none;
}

#define GETTER(type, name)                                                                         \
    EXPORT type quern_event_##name(const struct quern_event *e)                                    \
    {                                                                                              \
        return event_or_none(e)->name;                                                             \
    }

GETTER(int, kind)
GETTER(uint64_t, request)
GETTER(int, is_last)
GETTER(float, progress)
GETTER(uint64_t, key)
GETTER(uint64_t, seed)
GETTER(uint32_t, prompt_tokens)
GETTER(uint32_t, choice)
GETTER(uint64_t, after)
GETTER(int, finish)
GETTER(int, stop)
GETTER(int, stop_kind)
GETTER(uint32_t, more)
GETTER(uint32_t, output_tokens)
GETTER(uint32_t, restarts)
GETTER(double, first_token_s)
GETTER(double, total_s)
GETTER(int, code)
GETTER(int, retry)
GETTER(int, server_fault)
GETTER(uint32_t, generation)

static void tell(size_t *where, size_t n)
{
    if (where != NULL)
        *where = n;
}

static bool has_text(const struct quern_event *e)
{
    return e->kind == QUERN_EVENT_TEXT || e->kind == QUERN_EVENT_PROMPT;
}

EXPORT const char *quern_event_text(const struct quern_event *e, size_t *bytes)
{
    bool is_text = has_text(event_or_none(e));

    tell(bytes, is_text ? e->text_bytes : 0);
    return is_text ? e->text : "";
}

EXPORT const char *quern_event_message(const struct quern_event *e)
{
    e = event_or_none(e);
    return !has_text(e) && e->text != NULL ? e->text : "";
}

EXPORT const int32_t *quern_event_ids(const struct quern_event *e, size_t *n)
{
    tell(n, event_or_none(e)->n_ids);
    return event_or_none(e)->ids;
}

EXPORT const float *quern_event_values(const struct quern_event *e, size_t *n)
{
    tell(n, event_or_none(e)->n_values);
    return event_or_none(e)->values;
}

EXPORT const void *quern_event_logprobs(const struct quern_event *e, size_t *bytes)
{
    tell(bytes, event_or_none(e)->logprobs_bytes);
    return event_or_none(e)->logprobs;
}

EXPORT uint32_t quern_vocab_size(const struct quern *q)
{
    return q != NULL ? q->vocab : 0;
}

EXPORT uint32_t quern_context_size(const struct quern *q)
{
    return q != NULL ? q->context : 0;
}

EXPORT uint64_t quern_fingerprint(const struct quern *q)
{
    return q != NULL ? q->fingerprint : 0;
}

EXPORT const char *quern_model_name(const struct quern *q)
{
    return q != NULL ? q->model : "";
}

EXPORT uint32_t quern_generation(const struct quern *q)
{
    return q != NULL ? q->generation : 0;
}

EXPORT const char *quern_server_version(const struct quern *q)
{
    return q != NULL ? q->version : "";
}
