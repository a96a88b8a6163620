/* jinja_exec.c - statements.
 *
 * Text goes to the end of run.out. What captures text (a set block, a macro, a
 * filter block) remembers where the end was and takes what stands behind it
 * afterwards. break and continue unwind as the return value of exec(). */
#include "text/jinja_loop.h"

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE, FLOW_FAILED };

static enum flow exec_list(struct jinja_run *r, const struct jinja_list *body,
    struct jinja_frame *f);

bool jinja_enter_scope(struct jinja_run *r, const struct jinja_scope *s, struct jinja_frame *f)
{
    for (size_t i = 0; i < s->count; i++) {
        const struct jinja_load *load = &s->loads[i];
        struct jinja_frame *from = f;

        switch (load->action) {
        case LOAD_MISSING: f->slots[load->slot] = NULL; break;
        case LOAD_CONTEXT:
            f->slots[load->slot] = jinja_dict_get_text(r->context, load->name, load->bytes);
            if (f->slots[load->slot] == NULL)
                f->slots[load->slot] = jinja_find_global(load->name, load->bytes);
            break;
        case LOAD_ALIAS:
            for (unsigned hops = load->hops; hops > 0; hops--)
                from = from->outer;
            f->slots[load->slot] = from->slots[load->from];
            break;
        }
    }
    return jinja_spend(r, s->count);
}

static enum flow put_text(struct jinja_run *r, value_ref v)
{
    if (!jinja_put_str(r, &r->out, v) || !jinja_may_hold(r, r->out.count)
        || !jinja_spend(r, v->kind == JINJA_STRING ? v->bytes / 64 : 0))
        return FLOW_FAILED;
    return FLOW_NEXT;
}

/* Takes what was written since `start`. */
static value_ref take_text(struct jinja_run *r, size_t start)
{
    value_ref v = r->out.failed ? jinja_out_of_memory(r)
                                : jinja_string_copy(r, r->out.bytes + start, r->out.count - start);

    if (r->out.count > start)
        r->out.count = start;
    return v;
}

static enum flow exec_if(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    for (size_t i = 0; i < n->list.count; i++) {
        const struct jinja_node *branch = n->list.items[i];
        value_ref v = &jinja_true;

        r->line = branch->line;
        if (branch->a != NULL)
            v = jinja_eval(r, branch->a, f);
        if (v == NULL)
            return FLOW_FAILED;
        if (jinja_truth(v))
            return exec_list(r, &branch->body, f);
    }
    return FLOW_NEXT;
}

/* The turns of a loop; *whole says whether one came to its end, as jinja2 asks
 * before it takes the else branch. */
static enum flow exec_turns(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f,
    struct jinja_loop *loop, bool *whole)
{
    enum flow flow = FLOW_NEXT;

    *whole = false;
    while (flow != FLOW_BREAK) {
        value_ref item;

        r->line = n->line;
        if (!jinja_loop_next(r, loop, &item))
            return FLOW_FAILED;
        if (item == NULL)
            break;
        if (!jinja_assign(r, n->a, f, item) || !jinja_enter_scope(r, &n->scope, f))
            return FLOW_FAILED;
        flow = exec_list(r, &n->body, f);
        if (flow == FLOW_FAILED)
            return flow;
        *whole = *whole || flow == FLOW_NEXT;
    }
    return FLOW_NEXT;
}

static enum flow exec_for(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    struct jinja_loop *loop = text_arena_take(&r->arena, sizeof(*loop));
    struct jinja_value *v = jinja_make(r, JINJA_LOOP);
    value_ref over = jinja_eval(r, n->b, f);
    bool whole;
    enum flow flow;

    if (loop == NULL || v == NULL) {
        jinja_out_of_memory(r);
        return FLOW_FAILED;
    }
    if (over == NULL || (n->c != NULL && !jinja_enter_scope(r, &n->other, f))
        || !jinja_loop_open(r, n, f, over, loop))
        return FLOW_FAILED;
    v->loop = loop;
    if (n->has_loop)
        f->slots[n->slot] = v;
    flow = exec_turns(r, n, f, loop, &whole);
    if (flow != FLOW_NEXT || whole || n->more.count == 0)
        return flow;
    return jinja_enter_scope(r, &n->last, f) ? exec_list(r, &n->more, f) : FLOW_FAILED;
}

static enum flow exec_set(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref v = jinja_eval(r, n->b, f);

    return v != NULL && jinja_assign(r, n->a, f, v) ? FLOW_NEXT : FLOW_FAILED;
}

/* The body's text through the filters of the node, if it has some. */
static value_ref captured(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f,
    enum flow *flow)
{
    size_t start = r->out.count;
    value_ref v;

    *flow = jinja_enter_scope(r, &n->scope, f) ? exec_list(r, &n->body, f) : FLOW_FAILED;
    v = *flow != FLOW_FAILED ? take_text(r, start) : NULL;
    if (v != NULL && *flow == FLOW_NEXT && n->b != NULL) {
        r->line = n->line;
        v = jinja_apply_filter(r, n->b, f, v);
    }
    if (v == NULL)
        *flow = FLOW_FAILED;
    return v;
}

static enum flow exec_captured(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f)
{
    enum flow flow;
    value_ref v = captured(r, n, f, &flow);

    if (flow != FLOW_NEXT)
        return flow;
    if (n->kind == NODE_FILTER_BLOCK)
        return put_text(r, v);
    return jinja_assign(r, n->a, f, v) ? FLOW_NEXT : FLOW_FAILED;
}

static value_ref make_macro(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    struct jinja_value *v = jinja_make(r, JINJA_MACRO);

    if (v != NULL) {
        v->macro.node = n;
        v->macro.frame = f;
        v->macro.name = n->name;
    }
    return v;
}

/* The arguments of the call, and caller=. */
static value_ref call_with_caller(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f, value_ref caller)
{
    value_ref callee = jinja_eval(r, n->a->a, f), name = jinja_string(r, "caller", 6);
    struct jinja_args args;

    if (callee == NULL || name == NULL || !jinja_arguments(r, n->a, f, &args))
        return NULL;
    if (!jinja_dict_set(r, (struct jinja_dict *)args.named, name, caller))
        return NULL;
    return jinja_call(r, callee, &args);
}

static enum flow exec_call_block(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f)
{
    value_ref caller = make_macro(r, n, f), v = NULL;
    value_ref named = jinja_dict(r, JINJA_DICT, 0);
    struct jinja_args none = { 0 };

    if (caller == NULL || named == NULL)
        return FLOW_FAILED;
    none.named = named->dict;
    if (n->a == NULL)
        v = jinja_call_macro(r, caller, &none);
    else
        v = call_with_caller(r, n, f, caller);
    return v != NULL ? put_text(r, v) : FLOW_FAILED;
}

static enum flow exec_with(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref *values = jinja_array(r, n->more.count);

    if (values == NULL)
        return FLOW_FAILED;
    for (size_t i = 0; i < n->more.count; i++) {
        values[i] = jinja_eval(r, n->more.items[i], f);
        if (values[i] == NULL)
            return FLOW_FAILED;
    }
    if (!jinja_enter_scope(r, &n->scope, f))
        return FLOW_FAILED;
    for (size_t i = 0; i < n->list.count; i++)
        if (!jinja_assign(r, n->list.items[i], f, values[i]))
            return FLOW_FAILED;
    return exec_list(r, &n->body, f);
}

static enum flow exec_output(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f)
{
    value_ref v = jinja_eval(r, n->a, f);

    return v != NULL ? put_text(r, v) : FLOW_FAILED;
}

static enum flow exec_macro(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref v = make_macro(r, n, f);

    return v != NULL && jinja_assign(r, n->a, f, v) ? FLOW_NEXT : FLOW_FAILED;
}

static enum flow exec(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    r->line = n->line;
    switch (n->kind) {
    case NODE_TEXT: return put_text(r, n->value);
    case NODE_OUTPUT: return exec_output(r, n, f);
    case NODE_IF: return exec_if(r, n, f);
    case NODE_FOR: return exec_for(r, n, f);
    case NODE_BREAK: return FLOW_BREAK;
    case NODE_CONTINUE: return FLOW_CONTINUE;
    case NODE_SET: return exec_set(r, n, f);
    case NODE_SET_BLOCK:
    case NODE_FILTER_BLOCK: return exec_captured(r, n, f);
    case NODE_MACRO: return exec_macro(r, n, f);
    case NODE_CALL_BLOCK: return exec_call_block(r, n, f);
    case NODE_WITH: return exec_with(r, n, f);
    default: jinja_fail(r, "a node of kind %d is no statement", n->kind); return FLOW_FAILED;
    }
}

static enum flow exec_list(struct jinja_run *r, const struct jinja_list *body,
    struct jinja_frame *f)
{
    enum flow flow = FLOW_NEXT;

    if (++r->depth > JINJA_CALLS_MAX) {
        jinja_fail(r, "blocks and macros are within each other too deeply");
        return FLOW_FAILED;
    }
    for (size_t i = 0; i < body->count && flow == FLOW_NEXT; i++)
        flow = jinja_spend(r, 1) ? exec(r, body->items[i], f) : FLOW_FAILED;
    r->depth--;
    return flow;
}

value_ref jinja_run_macro(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    size_t start = r->out.count;
    unsigned line = r->line;
    value_ref v = NULL;

    if (exec_list(r, &n->body, f) != FLOW_FAILED)
        v = take_text(r, start);
    if (v != NULL)
        r->line = line;
    return v;
}
