/* options.c - libquern: options of a private runtime, by the names of the command line.
 *
 * The table is the command line's own, and so are the checks: what a runtime
 * would refuse is refused here, where it was said. Values stay text, since
 * they travel as a command line again. */
#include <stdlib.h>
#include <string.h>

#include "base/runtime_options.h"
#include "client/client.h"

struct values {
    struct runtime_options runtime;
    struct death_options deaths;
    bool has_seed;
    const char *executable;
};

#define AT(field) offsetof(struct values, field)
const struct option_row client_options[] = {
    RUNTIME_OPTION_ROWS(AT(runtime)),
    DEATH_OPTION_ROWS(AT(deaths)),
    {"seed", 0, OPTION_SEED, AT(runtime.seed), "S", "", 0, 0, AT(has_seed)},
    {"executable", 0, OPTION_TEXT, AT(executable), "FILE", "", 0, 0, 0},
    {0},
};
_Static_assert(sizeof(client_options) / sizeof(client_options[0]) <= CLIENT_OPTIONS + 1,
    "each option has its place");

EXPORT struct quern_options *quern_options_new(void)
{
    struct quern_options *o = calloc(1, sizeof(*o));

    if (o == NULL)
        log_fail(STATUS_NOMEM, "no memory for options");
    return o;
}

EXPORT void quern_options_free(struct quern_options *o)
{
    for (int i = 0; o != NULL && i < CLIENT_OPTIONS; i++)
        free(o->values[i]);
    free(o);
}

static int index_of(const char *name)
{
    int i = 0;

    while (client_options[i].name != NULL && strcmp(client_options[i].name, name) != 0)
        i++;
    return i;
}

EXPORT int quern_options_set(struct quern_options *o, const char *name, const char *value)
{
    struct values checked;
    enum status s;
    char *copy;
    int i;

    if (o == NULL || name == NULL || value == NULL)
        return client_null(NULL, "quern_options_set");
    s = options_set(client_options, name, value, &checked);
    if (s != STATUS_OK)
        return client_failed(NULL, s);
    copy = strdup(value);
    if (copy == NULL)
        return client_failed(NULL, log_fail(STATUS_NOMEM, "no memory for --%s", name));
    i = index_of(name);
    free(o->values[i]);
    o->values[i] = copy;
    return QUERN_OK;
}

const char *client_option(const struct quern_options *o, const char *name)
{
    return o != NULL ? o->values[index_of(name)] : NULL;
}
