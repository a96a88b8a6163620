/* jinja_run.h - one rendering: its memory, its limits, its errors, and what the
 * parts of the interpreter call of each other. The parts:
 *
 *   jinja_lex        text -> tokens
 *   jinja_parse*     tokens -> nodes
 *   jinja_names      which slot each name is; scopes
 *   jinja_exec       statements; jinja_eval: expressions; jinja_call: calls
 *   jinja_ops        arithmetic; jinja_compare; jinja_access: x.y and x[y]
 *   jinja_print      str, repr; jinja_tojson
 *   jinja_filters*   jinja_tests jinja_methods* jinja_functions jinja_format */
#ifndef QUERN_TEXT_JINJA_RUN_H
#define QUERN_TEXT_JINJA_RUN_H

#include "text/jinja_value.h"

enum {
    JINJA_DEPTH_MAX = 400,      /* of a template's expressions and blocks within each other */
    JINJA_CALLS_MAX = 1000,     /* of evaluations within each other, macros' included */
    JINJA_NESTING_MAX = 400,    /* of values within each other, where they are walked */
    JINJA_ARGUMENTS_MAX = 8,    /* that a builtin names */
};

struct jinja_run {
    const struct jinja_program *program;
    const char *origin; /* begins errors, or NULL */
    struct text_arena arena;
    struct text_buffer out; /* captured blocks stand at its end while they are written */
    const struct jinja_dict *context;
    struct jinja_limits limits;
    uint64_t steps;
    unsigned line, depth;
    enum status status; /* of the first error */
};

struct jinja_args {
    const value_ref *items; /* by position */
    size_t count;
    const struct jinja_dict *named; /* never NULL */
};

/* A function, a method, a filter or a test. Its parameters are words in `params`,
 * "." for one that has no name; the first `least` must be given. Absent ones are
 * NULL in argv. With `any`, the arguments come as they are. */
struct jinja_builtin {
    const char *name;
    const char *params;
    unsigned least;
    value_ref (*call)(struct jinja_run *r, value_ref self, const value_ref *argv);
    value_ref (*any)(struct jinja_run *r, value_ref self, const struct jinja_args *args);
    enum { JINJA_DONE, JINJA_FORBIDDEN, JINJA_NOT_DONE } state;
};

/* Logs "NAME: line N: ..." unless there was an error before; returns NULL. */
value_ref jinja_fail(struct jinja_run *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
value_ref jinja_out_of_memory(struct jinja_run *r);

/* Counts `steps`; false, with an error, past the limit. */
bool jinja_spend(struct jinja_run *r, uint64_t steps);
/* A string of so many bytes may be made; false, with an error, if not. */
bool jinja_may_hold(struct jinja_run *r, uint64_t bytes);
/* Appends text `times` times; false, with an error, past the limit. */
bool jinja_put_times(struct jinja_run *r, struct text_buffer *b, const char *text, size_t bytes,
    int64_t times);
/* Enters one level of a walk; false, with an error, if it is too deep. */
bool jinja_enter(struct jinja_run *r, unsigned level, const char *what);

/* jinja_print.c: str(v) and repr(v); false, with an error, for what has no fixed text. */
bool jinja_put_str(struct jinja_run *r, struct text_buffer *b, value_ref v);
bool jinja_put_repr(struct jinja_run *r, struct text_buffer *b, value_ref v);
value_ref jinja_str(struct jinja_run *r, value_ref v); /* a string stays itself */
void jinja_put_float(struct text_buffer *b, double x);
const char *jinja_why_undefined(value_ref v, char *room, size_t bytes);

/* jinja_tojson.c */
extern const struct jinja_builtin jinja_filter_tojson;

/* jinja_ops.c: op is '+', '-', '*', '/', '%', 'p' for **, 'f' for //. */
value_ref jinja_binary(struct jinja_run *r, char op, value_ref a, value_ref b);
value_ref jinja_negate(struct jinja_run *r, value_ref v);
value_ref jinja_plus(struct jinja_run *r, value_ref v); /* unary */
value_ref jinja_concat(struct jinja_run *r, value_ref a, value_ref b); /* of two strings */
value_ref jinja_escape(struct jinja_run *r, value_ref string);

/* jinja_compare.c: *result is written on success. */
bool jinja_equal(struct jinja_run *r, value_ref a, value_ref b, bool *result);
/* Below 0, 0, above 0; *ordered false if a NaN is among them. */
bool jinja_order(struct jinja_run *r, value_ref a, value_ref b, int *result, bool *ordered);
bool jinja_contains(struct jinja_run *r, value_ref container, value_ref item, bool *result);
bool jinja_same(struct jinja_run *r, value_ref a, value_ref b, bool *result); /* is */
/* The stable order of count keys as indices into them, descending with `reverse`. */
bool jinja_sort(struct jinja_run *r, const value_ref *keys, size_t count, bool reverse,
    size_t *order);

/* jinja_access.c */
value_ref jinja_attribute(struct jinja_run *r, value_ref v, value_ref name); /* v.name */
value_ref jinja_item(struct jinja_run *r, value_ref v, value_ref key);       /* v[key] */
value_ref jinja_slice(struct jinja_run *r, value_ref v, value_ref start, value_ref stop,
    value_ref step); /* none for what is left out */
/* "a.b.0" or a number, as filters take it; NULL path gives v itself. */
value_ref jinja_path(struct jinja_run *r, value_ref v, value_ref path);

/* jinja_call.c */
value_ref jinja_call(struct jinja_run *r, value_ref callee, const struct jinja_args *args);
value_ref jinja_call_builtin(struct jinja_run *r, const struct jinja_builtin *row, value_ref self,
    const struct jinja_args *args);
value_ref jinja_call_macro(struct jinja_run *r, value_ref macro, const struct jinja_args *args);

/* jinja_exec.c: runs a macro's body in a frame that has its arguments. */
value_ref jinja_run_macro(struct jinja_run *r, const struct jinja_node *node,
    struct jinja_frame *frame);
/* jinja_eval.c */
value_ref jinja_eval(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f);
bool jinja_arguments(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f,
    struct jinja_args *out); /* of a CALL, FILTER or TEST */
value_ref jinja_apply_filter(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f, value_ref input);
bool jinja_assign(struct jinja_run *r, const struct jinja_node *target, struct jinja_frame *f,
    value_ref v);

/* The rows by name; NULL, without an error, if there is none. */
const struct jinja_builtin *jinja_find_filter(const char *name, size_t bytes);
const struct jinja_builtin *jinja_find_test(const char *name, size_t bytes);
const struct jinja_builtin *jinja_find_method(value_ref v, const char *name, size_t bytes);
value_ref jinja_find_global(const char *name, size_t bytes);
const struct jinja_builtin *jinja_find_in(const struct jinja_builtin *rows, const char *name,
    size_t bytes);

/* jinja_loop.c: the value `loop`, and what a loop walks over. */
struct jinja_loop;
value_ref jinja_loop_attribute(struct jinja_run *r, value_ref loop, value_ref name);

/* jinja_format.c: printf-style formatting, format % args; and str.format. */
value_ref jinja_format(struct jinja_run *r, value_ref format, value_ref args);
value_ref jinja_str_format(struct jinja_run *r, value_ref format, const struct jinja_args *args);

#endif
