/* jinja_loop.h - what a for statement walks over, one item at a time.
 *
 * Items are drawn as late as jinja2 draws them: the condition of a filtered loop is
 * evaluated between two turns of its body, a generator that a loop breaks off gives
 * the rest to the next one, and loop.last looks one item ahead. */
#ifndef QUERN_TEXT_JINJA_LOOP_H
#define QUERN_TEXT_JINJA_LOOP_H

#include "text/jinja_ast.h"

struct jinja_loop {
    const struct jinja_node *node; /* the FOR */
    struct jinja_frame *frame;
    struct jinja_generator own, *source; /* source: own, or a generator's */
    bool sized;                          /* what is walked over has a length of its own */
    int64_t index0, length;              /* length: -1 until it is asked for */
    value_ref before, current, after;    /* after: drawn ahead, or NULL */
    value_ref changed;                   /* the last arguments of loop.changed */
};

bool jinja_loop_open(struct jinja_run *r, const struct jinja_node *node, struct jinja_frame *f,
    value_ref over, struct jinja_loop *loop);

/* The next item in *item, NULL at the end; false after an error. */
bool jinja_loop_next(struct jinja_run *r, struct jinja_loop *loop, value_ref *item);

#endif
