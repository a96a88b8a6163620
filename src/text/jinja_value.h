/* jinja_value.h - what a template computes with: Python's values, those it needs.
 *
 * A value never changes once it is made (the sandbox forbids that for lists and
 * dicts), but for the few whose point is to change: namespaces, generators,
 * loops, cyclers and joiners. Values lie in the arena of the program or of the
 * rendering, so nobody frees one.
 *
 * Functions that return a value_ref return NULL when they fail: the error is
 * logged then, and the caller returns at once. */
#ifndef QUERN_TEXT_JINJA_VALUE_H
#define QUERN_TEXT_JINJA_VALUE_H

#include <stdint.h>

#include "text/jinja.h"
#include "text/jinja_text.h"

enum jinja_kind {
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,       /* of 64 bits */
    JINJA_BIG,       /* a whole number beyond them: its digits; it can only be printed */
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_VIEW,      /* a dict's keys(), values() or items() */
    JINJA_GENERATOR, /* items that can be walked over once */
    JINJA_RANGE,
    JINJA_DICT,
    JINJA_NAMESPACE,
    JINJA_MACRO,
    JINJA_METHOD,    /* of the value `self`; a function if that is NULL */
    JINJA_LOOP,
    JINJA_CYCLER,
    JINJA_JOINER,
};

/* What more there is to say of a kind. */
enum jinja_flavour {
    JINJA_PLAIN,
    JINJA_MARKUP,      /* STRING: marked as safe, so + escapes the other side */
    JINJA_GROUP,       /* TUPLE: (grouper, list) of groupby */
    JINJA_VIEW_KEYS,   /* VIEW */
    JINJA_VIEW_VALUES,
    JINJA_VIEW_ITEMS,
};

struct jinja_value;
struct jinja_node;
struct jinja_frame;
struct jinja_builtin;
struct jinja_run;
typedef const struct jinja_value *value_ref;

struct jinja_items { /* LIST, TUPLE, VIEW */
    const value_ref *items;
    size_t count;
};

struct jinja_generator {
    const value_ref *items;
    size_t count, at; /* at: the next one */
};

struct jinja_dict { /* in the order of insertion; keys differ */
    value_ref *keys, *values;
    size_t count, room;
};

struct jinja_missing { /* why a value is undefined: `hint`, or else by name and owner */
    const char *hint;
    const char *name, *owner; /* owner: the type that has no such attribute, or NULL */
};

struct jinja_cycler {
    const value_ref *items;
    size_t count, at;
};

struct jinja_value {
    enum jinja_kind kind;
    enum jinja_flavour flavour;
    union {
        bool truth;
        int64_t integer;
        double real;
        struct { /* STRING: UTF-8; BIG: digits, with a sign or none */
            const char *text;
            size_t bytes;
        };
        struct jinja_items list;
        struct {
            int64_t start, stop, step;
        } range;
        struct jinja_generator *generator;
        struct jinja_dict *dict; /* DICT, NAMESPACE */
        struct jinja_missing missing;
        struct {
            const struct jinja_node *node;
            struct jinja_frame *frame; /* in which it was defined */
            const char *name;
        } macro;
        struct {
            value_ref self;
            const struct jinja_builtin *row;
        } method;
        struct jinja_loop *loop;
        struct jinja_cycler *cycler;
        struct {
            value_ref separator;
            bool *used;
        } joiner;
    };
};

extern const struct jinja_value jinja_none, jinja_true, jinja_false, jinja_empty;

static inline value_ref jinja_bool(bool truth)
{
    return truth ? &jinja_true : &jinja_false;
}

static inline bool jinja_is_string(value_ref v)
{
    return v->kind == JINJA_STRING;
}

/* v is that string. */
static inline bool jinja_is_word(value_ref v, const char *word)
{
    return v->kind == JINJA_STRING && json_text_is(v->text, v->bytes, word);
}

/* Makers. The text and items given are kept, not copied, but where it says so. */
value_ref jinja_int(struct jinja_run *r, int64_t x);
value_ref jinja_float(struct jinja_run *r, double x);
value_ref jinja_string(struct jinja_run *r, const char *text, size_t bytes);
value_ref jinja_string_copy(struct jinja_run *r, const char *text, size_t bytes);
value_ref jinja_undefined(struct jinja_run *r, const char *hint);
value_ref jinja_sequence(struct jinja_run *r, enum jinja_kind kind, const value_ref *items,
    size_t count);
value_ref jinja_generator(struct jinja_run *r, const value_ref *items, size_t count);
value_ref jinja_pair(struct jinja_run *r, value_ref a, value_ref b); /* a TUPLE */
value_ref jinja_dict(struct jinja_run *r, enum jinja_kind kind, size_t room);
struct jinja_value *jinja_make(struct jinja_run *r, enum jinja_kind kind);
value_ref *jinja_array(struct jinja_run *r, size_t count); /* room for `count`, cleared */

/* Copies what `b` holds and frees it, also on failure. */
value_ref jinja_string_take(struct jinja_run *r, struct text_buffer *b);

/* A JSON tree as a value; its text is kept, not copied. */
value_ref jinja_from_json(struct jinja_run *r, const struct json_value *v);

/* Sets a key of a dict that is still being made, or of a namespace. */
bool jinja_dict_set(struct jinja_run *r, struct jinja_dict *d, value_ref key, value_ref value);
/* NULL, without an error, if it is not there. */
value_ref jinja_dict_get(struct jinja_run *r, const struct jinja_dict *d, value_ref key);
value_ref jinja_dict_get_text(const struct jinja_dict *d, const char *key, size_t bytes);

/* Python's type name ("str", "dict", "NoneType"). */
const char *jinja_type_name(value_ref v);

/* Whether it counts as true. */
bool jinja_truth(value_ref v);

/* The length of what has one: false, without an error, for what has none. */
bool jinja_length(value_ref v, int64_t *length);

/* Everything that a loop over v would give; a generator is used up by it. Fails,
 * with an error, for what cannot be walked over. */
bool jinja_items(struct jinja_run *r, value_ref v, struct jinja_items *out);
bool jinja_is_iterable(value_ref v);

/* INT and BOOL as a number; false for other kinds. */
bool jinja_as_int(value_ref v, int64_t *x);
/* INT, BOOL and FLOAT. */
bool jinja_as_float(value_ref v, double *x);

#endif
