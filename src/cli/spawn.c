/* spawn.c - what was typed becomes libquern's options, by the table that parsed it. */
#include "cli/spawn.h"

#include <stdio.h>

const struct option_row spawn_rows[] = {RUNTIME_OPTION_ROWS(0), {0}};

static int fill(const struct runtime_options *o, const uint64_t *seed, struct quern_options *options)
{
    char text[32];
    int s = quern_options_set(options, "executable", "/proc/self/exe");

    for (const struct option_row *row = spawn_rows; row->name != NULL && s == QUERN_OK; row++) {
        const char *value = options_value(row, o, text, sizeof(text));

        if (value != NULL)
            s = quern_options_set(options, row->name, value);
    }
    if (s == QUERN_OK && seed != NULL) {
        snprintf(text, sizeof(text), "%llu", (unsigned long long)*seed);
        s = quern_options_set(options, "seed", text);
    }
    return s;
}

int spawn_runtime(const struct runtime_options *o, const uint64_t *seed, struct quern **out)
{
    struct quern_options *options = quern_options_new();
    int s;

    *out = NULL;
    s = fill(o, seed, options);
    if (s == QUERN_OK)
        s = quern_spawn(options, out);
    quern_options_free(options);
    return s;
}
