/* jinja_run.c - the limits of a rendering and its first error. */
#include "text/jinja_run.h"

#include <stdarg.h>
#include <stdio.h>

#include "quern/log.h"
#include "text/jinja_ast.h"

const struct jinja_limits jinja_default_limits = {
    .steps = 50 * 1000 * 1000,
    .output_bytes = (size_t)64 << 20,
    .memory_bytes = (size_t)512 << 20,
};

value_ref jinja_fail(struct jinja_run *r, const char *format, ...)
{
    char what[768];
    va_list arguments;

    if (r->status != STATUS_OK)
        return NULL;
    va_start(arguments, format);
    vsnprintf(what, sizeof(what), format, arguments);
    va_end(arguments);
    r->status = log_fail(STATUS_INVALID, "%s%s%s: line %u: %s", r->origin != NULL ? r->origin : "",
        r->origin != NULL ? ": " : "", r->program->name, r->line, what);
    return NULL;
}

value_ref jinja_out_of_memory(struct jinja_run *r)
{
    if (r->arena.over)
        return jinja_fail(r, "the template needs more than %zu MiB of memory",
            r->limits.memory_bytes >> 20);
    if (r->status == STATUS_OK)
        r->status = log_fail(STATUS_NOMEM, "%s: out of memory", r->program->name);
    return NULL;
}

bool jinja_spend(struct jinja_run *r, uint64_t steps)
{
    if (steps < r->limits.steps - r->steps) {
        r->steps += steps;
        return true;
    }
    jinja_fail(r, "the template takes more than %llu steps",
        (unsigned long long)r->limits.steps);
    return false;
}

bool jinja_may_hold(struct jinja_run *r, uint64_t bytes)
{
    if (bytes <= r->limits.output_bytes)
        return true;
    jinja_fail(r, "the template makes a text of more than %zu bytes", r->limits.output_bytes);
    return false;
}

bool jinja_put_times(struct jinja_run *r, struct text_buffer *b, const char *text, size_t bytes,
    int64_t times)
{
    if (times <= 0 || bytes == 0)
        return true;
    if (times > INT32_MAX || bytes > INT32_MAX) {
        jinja_may_hold(r, UINT64_MAX);
        return false;
    }
    if (!jinja_may_hold(r, b->count + bytes * (uint64_t)times)
        || !jinja_spend(r, bytes * (uint64_t)times / 64))
        return false;
    while (times-- > 0)
        text_buffer_append(b, text, bytes);
    return true;
}

bool jinja_enter(struct jinja_run *r, unsigned level, const char *what)
{
    if (level <= JINJA_NESTING_MAX)
        return jinja_spend(r, 1);
    jinja_fail(r, "%s is nested too deeply", what);
    return false;
}
