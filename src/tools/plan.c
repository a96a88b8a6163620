/* plan.c - quern plan: what every rank would hold, run and send, before any worker starts.
 *
 * The model is built for each rank as its worker would build it, and no weight
 * is read (plan_model.h); lists are made of that (plan_list.h) and printed. */
#include <stdio.h>
#include <stdlib.h>

#include "base/options.h"
#include "base/runtime_options.h"
#include "cli/cli.h"
#include "quern/log.h"
#include "tools/runtime_config.h"
#include "tools/plan_list.h"
#include "tools/tools.h"

struct plan_options {
    struct runtime_options runtime;
    bool json;
};

#define AT(field) offsetof(struct plan_options, field)
static const struct option_row plan_option_rows[] = {
    RUNTIME_OPTION_ROWS(AT(runtime)),
    {"json", 0, OPTION_FLAG, AT(json), NULL, "print it as JSON", 0, 0, 0},
    {0},
};

static enum status print(const struct plan_model *m, bool json)
{
    struct plan_list list;
    enum status s = plan_list_make(m, &list);

    if (s != STATUS_OK)
        return s;
    s = json ? plan_print_json(&list) : plan_print_text(&list);
    plan_list_free(&list);
    return s;
}

static enum status run(const struct plan_options *o)
{
    struct runtime_config config;
    struct plan_model *m = calloc(1, sizeof(*m));
    enum status s = runtime_config_from(&o->runtime, &config);

    if (m == NULL)
        s = log_fail(STATUS_NOMEM, "no memory for a plan");
    if (s == STATUS_OK)
        s = plan_model_open(&config, m);
    if (s == STATUS_OK) {
        s = print(m, o->json);
        plan_model_close(m);
    }
    free(m);
    return s;
}

int command_plan(int argc, char **argv)
{
    struct plan_options o = {0};
    int first;
    enum status s = options_parse(plan_option_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        printf("quern plan [-m DIR] [--tp N] [--tp-plan FILE.json] [--plugin FILE.so] [--json]\n\n"
               "Prints how a model is shared between ranks: each tensor's strategy and slices,\n"
               "the program, what is communicated, and the memory. No worker is started.\n\n");
        options_print(plan_option_rows);
        return EXIT_DONE;
    }
    if (s != STATUS_OK)
        return EXIT_USAGE;
    if (first != argc) {
        log_fail(STATUS_INVALID, "quern plan: one word too many: %s", argv[first]);
        return EXIT_USAGE;
    }
    s = run(&o);
    return s == STATUS_OK ? EXIT_DONE : EXIT_FAILED;
}
