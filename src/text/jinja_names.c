/* jinja_names.c - which variable every name is, settled before anything runs.
 *
 * jinja2 compiles scopes into Python variables, and some of what its templates do
 * follows from that: a name that a block sets is its own from the block's first
 * line on, filled from outside when the block is entered; if has no scope; for,
 * with, macros and captured blocks have; a macro sees the variables around it as
 * they are when it is called. So the same tables are made here: for each scope, its
 * names, and for each name a slot of the function's frame and what fills it.
 *
 * Two passes over a scope: collect() finds all its names, bind() then gives each
 * name in it its slot and goes into the scopes within. */
#include "text/jinja_ast.h"

enum { MOST_NAMES = 2000 }; /* in all scopes; a lookup walks over those in reach */

struct symbol {
    const char *name;
    size_t bytes;
    unsigned slot;
    bool parameter, stored;
    struct jinja_load load;
};

struct function {
    unsigned slots;
};

struct symbols {
    struct symbols *parent;
    struct function *function;
    struct symbol *list;
    size_t count, room;
    size_t *stored; /* indices, in the order in which they were first stored */
    size_t stored_count;
};

static bool bind(struct jinja_compiler *c, struct symbols *s, struct jinja_node *n);
static bool collect(struct jinja_compiler *c, struct symbols *s, const struct jinja_node *n);

static struct symbol *own_symbol(const struct symbols *s, const char *name, size_t bytes)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->list[i].bytes == bytes && memcmp(s->list[i].name, name, bytes) == 0)
            return &s->list[i];
    return NULL;
}

/* The name here or further out, and how many functions out; NULL if nowhere. */
static struct symbol *find(const struct symbols *s, const char *name, size_t bytes, unsigned *hops)
{
    *hops = 0;
    for (; s != NULL; s = s->parent) {
        struct symbol *found = own_symbol(s, name, bytes);

        if (found != NULL)
            return found;
        *hops += s->parent != NULL && s->parent->function != s->function;
    }
    return NULL;
}

static bool grow(struct jinja_compiler *c, struct symbols *s)
{
    size_t room = s->room == 0 ? 8 : s->room * 2;
    struct symbol *list = text_arena_take(&c->run.arena, room * sizeof(*list));
    size_t *stored = text_arena_take(&c->run.arena, room * sizeof(*stored));

    if (list == NULL || stored == NULL)
        return jinja_out_of_memory(&c->run) != NULL;
    if (s->count > 0) {
        memcpy(list, s->list, s->count * sizeof(*list));
        memcpy(stored, s->stored, s->stored_count * sizeof(*stored));
    }
    s->list = list;
    s->stored = stored;
    s->room = room;
    return true;
}

static struct symbol *define(struct jinja_compiler *c, struct symbols *s,
    const struct jinja_node *n)
{
    struct symbol *symbol;

    if (s->count == s->room && !grow(c, s))
        return NULL;
    if (c->names++ == MOST_NAMES) {
        c->run.line = n->line;
        jinja_fail(&c->run, "the template has more than %d names", MOST_NAMES);
        return NULL;
    }
    symbol = &s->list[s->count++];
    *symbol = (struct symbol){ .name = n->name, .bytes = n->bytes, .slot = s->function->slots++ };
    symbol->load.slot = symbol->slot;
    return symbol;
}

static void mark_stored(struct symbols *s, struct symbol *symbol)
{
    if (symbol->stored)
        return;
    symbol->stored = true;
    s->stored[s->stored_count++] = (size_t)(symbol - s->list);
}

/* Filled, when the scope is entered, from outside or, failing that, by `otherwise`. */
static void load_from_outside(const struct symbols *s, struct symbol *symbol, int otherwise)
{
    unsigned hops = 0;
    const struct symbol *outer = NULL;

    if (s->parent != NULL)
        outer = find(s->parent, symbol->name, symbol->bytes, &hops);
    if (outer == NULL) {
        symbol->load.action = otherwise;
        symbol->load.name = symbol->name;
        symbol->load.bytes = symbol->bytes;
        return;
    }
    symbol->load.action = LOAD_ALIAS;
    symbol->load.from = outer->slot;
    symbol->load.hops = hops + (s->parent->function != s->function);
}

static bool note_load(struct jinja_compiler *c, struct symbols *s, const struct jinja_node *n)
{
    struct symbol *symbol;
    unsigned hops;

    if (find(s, n->name, n->bytes, &hops) != NULL)
        return true;
    symbol = define(c, s, n);
    if (symbol == NULL)
        return false;
    load_from_outside(s, symbol, LOAD_CONTEXT);
    return true;
}

static bool note_store(struct jinja_compiler *c, struct symbols *s, const struct jinja_node *n)
{
    struct symbol *symbol = own_symbol(s, n->name, n->bytes);

    if (symbol == NULL) {
        symbol = define(c, s, n);
        if (symbol == NULL)
            return false;
        load_from_outside(s, symbol, LOAD_MISSING);
    }
    mark_stored(s, symbol);
    return true;
}

static bool note_parameter(struct jinja_compiler *c, struct symbols *s, const struct jinja_node *n)
{
    struct symbol *symbol = own_symbol(s, n->name, n->bytes);

    if (symbol == NULL)
        symbol = define(c, s, n);
    if (symbol == NULL)
        return false;
    symbol->parameter = true;
    mark_stored(s, symbol);
    return true;
}

static bool collect_target(struct jinja_compiler *c, struct symbols *s,
    const struct jinja_node *n, bool parameter)
{
    if (n->kind == NODE_NS_REF)
        return note_load(c, s, n->a);
    if (n->kind == NODE_NAME)
        return parameter ? note_parameter(c, s, n) : note_store(c, s, n);
    for (size_t i = 0; i < n->list.count; i++)
        if (!collect_target(c, s, n->list.items[i], parameter))
            return false;
    return true;
}

static bool collect_list(struct jinja_compiler *c, struct symbols *s, const struct jinja_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        if (!collect(c, s, list->items[i]))
            return false;
    return true;
}

static bool collect_expression(struct jinja_compiler *c, struct symbols *s,
    const struct jinja_node *n)
{
    if (n == NULL)
        return true;
    if (n->kind == NODE_NAME)
        return note_load(c, s, n);
    return collect_expression(c, s, n->a) && collect_expression(c, s, n->b)
           && collect_expression(c, s, n->c) && collect_list(c, s, &n->list)
           && collect_list(c, s, &n->more);
}

/* What some branches set and others may not comes from outside if none did. */
static bool collect_if(struct jinja_compiler *c, struct symbols *s, const struct jinja_node *n)
{
    size_t before = s->stored_count;

    for (size_t i = 0; i < n->list.count; i++)
        if (!collect_expression(c, s, n->list.items[i]->a)
            || !collect_list(c, s, &n->list.items[i]->body))
            return false;
    for (size_t i = before; i < s->stored_count; i++)
        load_from_outside(s, &s->list[s->stored[i]], LOAD_CONTEXT);
    return true;
}

static bool collect(struct jinja_compiler *c, struct symbols *s, const struct jinja_node *n)
{
    switch (n->kind) {
    case NODE_TEXT:
    case NODE_BREAK:
    case NODE_CONTINUE: return true;
    case NODE_IF: return collect_if(c, s, n);
    case NODE_FOR: return collect_expression(c, s, n->b);
    case NODE_SET: return collect_expression(c, s, n->b) && collect_target(c, s, n->a, false);
    case NODE_SET_BLOCK: return collect_target(c, s, n->a, false);
    case NODE_MACRO: return note_store(c, s, n->a);
    case NODE_CALL_BLOCK: return collect_expression(c, s, n->a);
    case NODE_FILTER_BLOCK: return collect_expression(c, s, n->b);
    case NODE_WITH: return collect_list(c, s, &n->more);
    default: return collect_expression(c, s, n);
    }
}

/* Writes down what entering the scope does. */
static bool finish(struct jinja_compiler *c, const struct symbols *s, struct jinja_scope *out)
{
    out->loads = text_arena_take(&c->run.arena, (s->count + 1) * sizeof(*out->loads));
    if (out->loads == NULL)
        return jinja_out_of_memory(&c->run) != NULL;
    out->count = 0;
    for (size_t i = 0; i < s->count; i++)
        if (!s->list[i].parameter)
            out->loads[out->count++] = s->list[i].load;
    return true;
}

static bool bind_list(struct jinja_compiler *c, struct symbols *s, const struct jinja_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        if (!bind(c, s, list->items[i]))
            return false;
    return true;
}

/* `name` is read somewhere in the nodes, before it is set there. */
enum mention { NOT_MENTIONED, READ, SET };

static enum mention mention(const struct jinja_node *n, const char *name, bool target)
{
    enum mention m = NOT_MENTIONED;
    const struct jinja_list *lists[3] = { &n->list, &n->more, &n->body };
    const struct jinja_node *parts[3] = { n->kind == NODE_MACRO ? NULL : n->a, n->b, n->c };
    bool sets = n->kind == NODE_SET || n->kind == NODE_SET_BLOCK || n->kind == NODE_FOR;

    if (n->kind == NODE_NAME)
        return !json_text_is(n->name, n->bytes, name) ? NOT_MENTIONED : target ? SET : READ;
    for (int i = 0; i < 3 && m == NOT_MENTIONED; i++)
        if (parts[i] != NULL)
            m = mention(parts[i], name, (sets && i == 0) || (target && n->kind != NODE_NS_REF));
    for (int i = 0; i < 3 && m == NOT_MENTIONED; i++)
        for (size_t k = 0; k < lists[i]->count && m == NOT_MENTIONED; k++) {
            bool parameters = i == 0 && (n->kind == NODE_MACRO || n->kind == NODE_CALL_BLOCK
                                            || n->kind == NODE_WITH);

            m = mention(lists[i]->items[k], name, parameters || (target && n->kind == NODE_TUPLE));
        }
    return m;
}

static bool reads(const struct jinja_list *body, const char *name)
{
    enum mention m = NOT_MENTIONED;

    for (size_t i = 0; i < body->count && m == NOT_MENTIONED; i++)
        m = mention(body->items[i], name, false);
    return m == READ;
}

/* A parameter that has no node in the template: loop, caller, kwargs, varargs. */
static bool special(struct jinja_compiler *c, struct symbols *s, const struct jinja_node *at,
    const char *name, unsigned *slot)
{
    struct jinja_node n = { .kind = NODE_NAME, .name = name, .bytes = strlen(name),
        .line = at->line };

    if (!note_parameter(c, s, &n))
        return false;
    *slot = own_symbol(s, name, n.bytes)->slot;
    return true;
}

static bool bind_loop_body(struct jinja_compiler *c, struct symbols *outer, struct jinja_node *n)
{
    struct symbols s = { .parent = outer, .function = outer->function };

    n->has_loop = reads(&n->body, "loop");
    if (n->has_loop && !special(c, &s, n, "loop", &n->slot))
        return false;
    if (n->has_loop && mention(n->a, "loop", true) == SET) {
        c->run.line = n->line;
        jinja_fail(&c->run, "a loop's variable may not be called loop");
        return false;
    }
    return collect_target(c, &s, n->a, true) && collect_list(c, &s, &n->body) && bind(c, &s, n->a)
           && bind_list(c, &s, &n->body) && finish(c, &s, &n->scope);
}

static bool bind_for(struct jinja_compiler *c, struct symbols *outer, struct jinja_node *n)
{
    struct symbols test = { .parent = outer, .function = outer->function };
    struct symbols otherwise = { .parent = outer, .function = outer->function };

    if (!bind(c, outer, n->b) || !bind_loop_body(c, outer, n))
        return false;
    if (n->c != NULL
        && (!collect_target(c, &test, n->d, true) || !collect_expression(c, &test, n->c)
            || !bind(c, &test, n->d) || !bind(c, &test, n->c) || !finish(c, &test, &n->other)))
        return false;
    return collect_list(c, &otherwise, &n->more) && bind_list(c, &otherwise, &n->more)
           && finish(c, &otherwise, &n->last);
}

static bool bind_specials(struct jinja_compiler *c, struct symbols *s, struct jinja_node *n)
{
    n->calls_caller = reads(&n->body, "caller");
    n->takes_named = reads(&n->body, "kwargs");
    n->takes_more = reads(&n->body, "varargs");
    for (size_t i = 0; i < n->list.count; i++) {
        const struct jinja_node *p = n->list.items[i];

        n->calls_caller = n->calls_caller && !json_text_is(p->name, p->bytes, "caller");
        n->takes_named = n->takes_named && !json_text_is(p->name, p->bytes, "kwargs");
        n->takes_more = n->takes_more && !json_text_is(p->name, p->bytes, "varargs");
    }
    return (!n->calls_caller || special(c, s, n, "caller", &n->caller_slot))
           && (!n->takes_named || special(c, s, n, "kwargs", &n->named_slot))
           && (!n->takes_more || special(c, s, n, "varargs", &n->more_slot));
}

/* A macro's body, a call block's, or the template's: a function of its own. */
static bool bind_function(struct jinja_compiler *c, struct symbols *outer, struct jinja_node *n)
{
    struct function function = { 0 };
    struct symbols s = { .parent = outer, .function = &function };

    for (size_t i = 0; i < n->list.count; i++)
        if (!note_parameter(c, &s, n->list.items[i]))
            return false;
    if (!bind_specials(c, &s, n) || !collect_list(c, &s, &n->more) || !collect_list(c, &s, &n->body)
        || !bind_list(c, &s, &n->list) || !bind_list(c, &s, &n->more)
        || !bind_list(c, &s, &n->body) || !finish(c, &s, &n->scope))
        return false;
    n->slot = function.slots;
    return true;
}

static bool bind_captured(struct jinja_compiler *c, struct symbols *outer, struct jinja_node *n)
{
    struct symbols s = { .parent = outer, .function = outer->function };

    return collect_list(c, &s, &n->body) && collect_expression(c, &s, n->b)
           && bind_list(c, &s, &n->body) && (n->b == NULL || bind(c, &s, n->b))
           && finish(c, &s, &n->scope);
}

static bool bind_with(struct jinja_compiler *c, struct symbols *outer, struct jinja_node *n)
{
    struct symbols s = { .parent = outer, .function = outer->function };

    for (size_t i = 0; i < n->list.count; i++)
        if (!note_parameter(c, &s, n->list.items[i]))
            return false;
    return bind_list(c, outer, &n->more) && collect_list(c, &s, &n->body)
           && bind_list(c, &s, &n->list) && bind_list(c, &s, &n->body) && finish(c, &s, &n->scope);
}

static bool bind_name(const struct symbols *s, struct jinja_node *n)
{
    const struct symbol *symbol = find(s, n->name, n->bytes, &n->hops);

    if (symbol == NULL)
        return false;
    n->slot = symbol->slot;
    return true;
}

static bool bind_parts(struct jinja_compiler *c, struct symbols *s, struct jinja_node *n)
{
    return (n->a == NULL || bind(c, s, n->a)) && (n->b == NULL || bind(c, s, n->b))
           && (n->c == NULL || bind(c, s, n->c)) && bind_list(c, s, &n->list)
           && bind_list(c, s, &n->more) && bind_list(c, s, &n->body);
}

static bool bind(struct jinja_compiler *c, struct symbols *s, struct jinja_node *n)
{
    switch (n->kind) {
    case NODE_NAME:
        if (bind_name(s, n))
            return true;
        c->run.line = n->line;
        jinja_fail(&c->run, "the name '%s' is in no scope", n->name); /* a fault of ours */
        return false;
    case NODE_FOR: return bind_for(c, s, n);
    case NODE_MACRO: return bind(c, s, n->a) && bind_function(c, s, n);
    case NODE_CALL_BLOCK: return (n->a == NULL || bind(c, s, n->a)) && bind_function(c, s, n);
    case NODE_SET_BLOCK: return bind(c, s, n->a) && bind_captured(c, s, n);
    case NODE_FILTER_BLOCK: return bind_captured(c, s, n);
    case NODE_WITH: return bind_with(c, s, n);
    default: return bind_parts(c, s, n);
    }
}

bool jinja_resolve(struct jinja_compiler *c, struct jinja_node *root)
{
    return bind_function(c, NULL, root);
}
