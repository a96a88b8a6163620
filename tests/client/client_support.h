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

static inline void next(struct quern *q, struct quern_event *e)
{
    int s = quern_next(q, PATIENCE_MS, e);

    if (s != QUERN_OK)
        fail_msg("quern_next gave %d: %s", s, quern_error(q));
}

static inline struct quern_request story(int max_tokens)
{
    struct quern_request r;

    quern_request_init(&r);
    r.text = "Once upon a time";
    r.temperature = 0;
    r.max_tokens = max_tokens;
    return r;
}

static inline uint64_t submit(struct quern *q, const struct quern_request *r)
{
    uint64_t id = 0;

    if (quern_submit(q, r, &id) != QUERN_OK)
        fail_msg("quern_submit: %s", quern_error(q));
    assert_true(id > 0);
    return id;
}

#endif
