/* jinja_loop.c - drawing items, and the attributes of `loop`. */
#include "text/jinja_loop.h"

bool jinja_loop_open(struct jinja_run *r, const struct jinja_node *node, struct jinja_frame *f,
    value_ref over, struct jinja_loop *loop)
{
    struct jinja_items items = { 0 };

    *loop = (struct jinja_loop){ .node = node, .frame = f, .index0 = -1, .length = -1,
        .sized = over->kind != JINJA_GENERATOR && node->c == NULL };
    if (over->kind == JINJA_GENERATOR) {
        loop->source = over->generator;
        return true;
    }
    if (!jinja_items(r, over, &items))
        return false;
    loop->own = (struct jinja_generator){ .items = items.items, .count = items.count };
    loop->source = &loop->own;
    if (loop->sized)
        loop->length = (int64_t)items.count;
    return true;
}

/* Whether the condition of the loop lets the item through. */
static bool passes(struct jinja_run *r, struct jinja_loop *loop, value_ref item, bool *pass)
{
    const struct jinja_node *n = loop->node;
    value_ref v;

    *pass = true;
    if (n->c == NULL)
        return true;
    if (!jinja_assign(r, n->d, loop->frame, item))
        return false;
    v = jinja_eval(r, n->c, loop->frame);
    if (v != NULL)
        *pass = jinja_truth(v);
    return v != NULL;
}

static bool draw(struct jinja_run *r, struct jinja_loop *loop, value_ref *item)
{
    struct jinja_generator *g = loop->source;
    bool pass = false;

    *item = NULL;
    while (g->at < g->count && !pass) {
        value_ref each = g->items[g->at++];

        if (!passes(r, loop, each, &pass))
            return false;
        if (pass)
            *item = each;
    }
    return true;
}

bool jinja_loop_next(struct jinja_run *r, struct jinja_loop *loop, value_ref *item)
{
    *item = loop->after;
    loop->after = NULL;
    if (*item == NULL && !draw(r, loop, item))
        return false;
    if (*item == NULL)
        return true;
    loop->index0++;
    loop->before = loop->current;
    loop->current = *item;
    return jinja_spend(r, 1);
}

/* Draws all the rest, to know how many there are. */
static bool know_length(struct jinja_run *r, struct jinja_loop *loop)
{
    struct jinja_generator *g = loop->source;
    value_ref *rest, item;
    size_t count = 0;

    if (loop->length >= 0)
        return true;
    rest = jinja_array(r, g->count - g->at);
    if (rest == NULL)
        return false;
    for (;;) {
        if (!draw(r, loop, &item))
            return false;
        if (item == NULL)
            break;
        rest[count++] = item;
    }
    loop->length = (int64_t)count + loop->index0 + 1 + (loop->after != NULL);
    loop->own = (struct jinja_generator){ .items = rest, .count = count };
    loop->source = &loop->own;
    return true;
}

static bool peek(struct jinja_run *r, struct jinja_loop *loop)
{
    return loop->after != NULL || draw(r, loop, &loop->after);
}

static value_ref cycle(struct jinja_run *r, value_ref self, const struct jinja_args *args)
{
    if (args->count == 0 || args->named->count > 0)
        return jinja_fail(r, "loop.cycle needs items");
    return args->items[(size_t)self->loop->index0 % args->count];
}

static value_ref changed(struct jinja_run *r, value_ref self, const struct jinja_args *args)
{
    value_ref now = jinja_sequence(r, JINJA_TUPLE, args->items, args->count);
    bool equal = false;

    if (now == NULL)
        return NULL;
    if (self->loop->changed != NULL && !jinja_equal(r, self->loop->changed, now, &equal))
        return NULL;
    self->loop->changed = now;
    return jinja_bool(!equal);
}

static value_ref bound(struct jinja_run *r, value_ref self, const struct jinja_builtin *row)
{
    struct jinja_value *v = jinja_make(r, JINJA_METHOD);

    if (v != NULL) {
        v->method.self = self;
        v->method.row = row;
    }
    return v;
}

enum { INDEX, INDEX0, REVINDEX, REVINDEX0, FIRST, LAST, LENGTH, DEPTH, DEPTH0, PREVIOUS, NEXT,
    CYCLE, CHANGED, ATTRIBUTES };

static const char *const attributes[ATTRIBUTES] = { [INDEX] = "index", [INDEX0] = "index0",
    [REVINDEX] = "revindex", [REVINDEX0] = "revindex0", [FIRST] = "first", [LAST] = "last",
    [LENGTH] = "length", [DEPTH] = "depth", [DEPTH0] = "depth0", [PREVIOUS] = "previtem",
    [NEXT] = "nextitem", [CYCLE] = "cycle", [CHANGED] = "changed" };

static value_ref counted(struct jinja_run *r, struct jinja_loop *loop, int which)
{
    if (!know_length(r, loop))
        return NULL;
    return jinja_int(r, which == LENGTH     ? loop->length
                        : which == REVINDEX ? loop->length - loop->index0
                                            : loop->length - loop->index0 - 1);
}

static value_ref neighbour(struct jinja_run *r, struct jinja_loop *loop, int which)
{
    if (which == PREVIOUS)
        return loop->index0 > 0 ? loop->before : jinja_undefined(r, "there is no previous item");
    if (!peek(r, loop))
        return NULL;
    if (which == LAST)
        return jinja_bool(loop->after == NULL);
    return loop->after != NULL ? loop->after : jinja_undefined(r, "there is no next item");
}

value_ref jinja_loop_attribute(struct jinja_run *r, value_ref v, value_ref name)
{
    static const struct jinja_builtin rows[] = { { .name = "cycle", .any = cycle },
        { .name = "changed", .any = changed } };
    struct jinja_loop *loop = v->loop;
    int which = 0;

    while (which < ATTRIBUTES && !json_text_is(name->text, name->bytes, attributes[which]))
        which++;
    switch (which) {
    case INDEX: return jinja_int(r, loop->index0 + 1);
    case INDEX0: return jinja_int(r, loop->index0);
    case REVINDEX:
    case REVINDEX0:
    case LENGTH: return counted(r, loop, which);
    case FIRST: return jinja_bool(loop->index0 == 0);
    case PREVIOUS:
    case NEXT:
    case LAST: return neighbour(r, loop, which);
    case DEPTH: return jinja_int(r, 1);
    case DEPTH0: return jinja_int(r, 0);
    case CYCLE: return bound(r, v, &rows[0]);
    case CHANGED: return bound(r, v, &rows[1]);
    default: return NULL;
    }
}
