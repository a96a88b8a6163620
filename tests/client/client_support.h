/* client_support.h - the steps that every test of libquern takes. */
#ifndef TESTS_CLIENT_CLIENT_SUPPORT_H
#define TESTS_CLIENT_CLIENT_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <time.h>

#include "quern.h"

enum { PATIENCE_MS = 30000 };

static inline long now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

static inline const struct quern_event *next(struct quern *q)
{
    const struct quern_event *e = NULL;
    int s = quern_next(q, PATIENCE_MS, &e);

    if (s != QUERN_OK)
        fail_msg("quern_next gave %d: %s", s, quern_error(q));
    return e;
}

/* The next event, which is of that kind. */
static inline const struct quern_event *next_of(struct quern *q, int kind)
{
    const struct quern_event *e = next(q);

    if (quern_event_kind(e) != kind)
        fail_msg("an event of kind %d in place of %d (%s)", quern_event_kind(e), kind,
            quern_event_message(e));
    return e;
}

/* The next event of that kind, others left out. */
static inline const struct quern_event *await(struct quern *q, int kind)
{
    const struct quern_event *e;

    do
        e = next(q);
    while (quern_event_kind(e) != kind);
    return e;
}

static inline void set_int(struct quern_request *r, int param, int64_t value)
{
    if (quern_request_set_int(r, param, value) != QUERN_OK)
        fail_msg("%s", quern_error(NULL));
}

/* Greedy, of "Once upon a time". */
static inline struct quern_request *story(int max_tokens)
{
    struct quern_request *r = quern_request_new();

    assert_int_equal(quern_request_set_text(r, "Once upon a time", QUERN_STRLEN), QUERN_OK);
    set_int(r, QUERN_PARAM_TEMPERATURE, 0);
    set_int(r, QUERN_PARAM_MAX_TOKENS, max_tokens);
    return r;
}

/* The same, past end tokens. */
static inline struct quern_request *endless(int max_tokens)
{
    struct quern_request *r = story(max_tokens);

    set_int(r, QUERN_PARAM_IGNORE_EOS, 1);
    return r;
}

static inline uint64_t submit(struct quern *q, struct quern_request *r)
{
    uint64_t id = 0;

    if (quern_submit(q, r, &id) != QUERN_OK)
        fail_msg("quern_submit: %s", quern_error(q));
    assert_true(id > 0);
    return id;
}

/* Submits and frees. */
static inline uint64_t ask(struct quern *q, struct quern_request *r)
{
    uint64_t id = submit(q, r);

    quern_request_free(r);
    return id;
}

/* A private runtime with options "name", "value", ..., NULL. */
static inline int spawn(struct quern **q, const char *const options[])
{
    struct quern_options *o = quern_options_new();
    int s;

    for (; options != NULL && options[0] != NULL; options += 2)
        if (quern_options_set(o, options[0], options[1]) != QUERN_OK)
            fail_msg("%s", quern_error(NULL));
    s = quern_spawn(o, q);
    quern_options_free(o);
    return s;
}

#endif
