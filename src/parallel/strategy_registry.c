/* strategy_registry.c - what a plugin registers is checked here, once, so that layers need not.
 *
 * Rows are copied with their names: a plugin may build them on its stack. The
 * list is the process's, like the plugins themselves (a module that was loaded
 * cannot be taken back while its functions may be called). */
#include "parallel/strategy_registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

enum { MOST_ROWS = 64, NAME_BYTES = 64, EFFECT_BYTES = 256 };

struct registered {
    struct strategy row;
    char name[NAME_BYTES], effect[EFFECT_BYTES];
};

/* Writer: strategy_register(), at set-up. */
static struct registered *registered[MOST_ROWS];
static int n_registered;

int registry_count(void)
{
    return n_registered;
}

const struct strategy *registry_at(int i)
{
    return &registered[i]->row;
}

static bool name_valid(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789_-.";
    size_t n = name == NULL ? 0 : strlen(name);

    return n > 0 && n < NAME_BYTES && strspn(name, letters) == n;
}

/* What cannot be, in words; NULL: fine. */
static const char *contradiction(const struct strategy *s)
{
    bool linear = (s->applies & (KIND_LINEAR | KIND_FUSED)) != 0;
    bool table = (s->applies & KIND_EMBEDDING) != 0;
    bool by_columns = s->out == OUT_SHARD || s->out == OUT_GATHER;

    if ((unsigned)s->cut > CUT_COLS || (unsigned)s->in > IN_ANY ||
        (unsigned)s->out > OUT_SEQUENCE || s->applies == 0 ||
        (s->applies & ~(unsigned)KIND_ANY) != 0)
        return "cut, in, out or applies is none of the values in quern/plugin.h";
    if (s->cut == CUT_NONE && s->slice != NULL)
        return "it has a slice function and cuts nothing";
    if (s->cut != CUT_NONE &&
        (s->applies & ~(unsigned)(KIND_LINEAR | KIND_FUSED | KIND_EMBEDDING)) != 0)
        return "only linear layers and embeddings can be cut";
    if (s->cut == CUT_COLS && (s->applies & KIND_FUSED) != 0)
        return "a fused linear layer is cut by outputs (rows) or not at all";
    if (linear && s->cut == CUT_ROWS && !by_columns)
        return "a linear layer with cut rows leaves its output shard or gather";
    if (linear && s->cut == CUT_COLS && by_columns)
        return "a linear layer with cut columns leaves its output partial, replicate or sequence";
    if (table && s->cut == CUT_ROWS && by_columns)
        return "an embedding with cut ids leaves its rows partial, replicate or sequence";
    if (table && s->cut == CUT_COLS && (s->out == OUT_SHARD || s->out == OUT_PARTIAL))
        return "an embedding with cut lanes leaves its rows gather, replicate or sequence";
    if (s->cut == CUT_ROWS && (s->in == IN_SHARD || s->in == IN_SPLIT))
        return "with cut rows every rank needs the whole input";
    if (linear && s->cut == CUT_COLS && s->in != IN_SHARD && s->in != IN_SPLIT)
        return "with cut columns the input is shard or split";
    if (s->cut == CUT_NONE && (by_columns || s->in == IN_SPLIT || s->in == IN_SHARD))
        return "it cuts nothing, so neither its input nor its output can be cut by columns";
    return NULL;
}

enum status strategy_register(const struct strategy *s)
{
    const char *wrong;
    struct registered *r;

    if (!name_valid(s->name))
        return log_fail(STATUS_INVALID, "a strategy's name has 1 to %d letters, digits, '_', '-' "
            "or '.'; \"%s\" is none", NAME_BYTES - 1, s->name != NULL ? s->name : "");
    if (strategy_look_up(s->name) != NULL)
        return log_fail(STATUS_INVALID, "there is a strategy %s already: choose another name",
            s->name);
    wrong = contradiction(s);
    if (wrong != NULL)
        return log_fail(STATUS_INVALID, "strategy %s: %s", s->name, wrong);
    if (n_registered == MOST_ROWS)
        return log_fail(STATUS_INVALID, "strategy %s is number %d, at most %d can be registered",
            s->name, MOST_ROWS + 1, MOST_ROWS);
    r = calloc(1, sizeof(*r));
    if (r == NULL)
        return log_fail(STATUS_NOMEM, "no memory for strategy %s", s->name);
    r->row = *s;
    snprintf(r->name, sizeof(r->name), "%s", s->name);
    snprintf(r->effect, sizeof(r->effect), "%s", s->effect != NULL ? s->effect : "a plugin's own");
    r->row.name = r->name;
    r->row.effect = r->effect;
    memset(r->row.aliases, 0, sizeof(r->row.aliases));
    registered[n_registered++] = r;
    return STATUS_OK;
}
