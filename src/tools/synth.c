/* synth.c - quern synth: a checkpoint of random weights, for measuring shapes. */
#include <stdio.h>

#include "base/options.h"
#include "cli/cli.h"
#include "quern/log.h"
#include "tools/folder_write.h"
#include "tools/interrupt.h"
#include "tools/synth_write.h"
#include "tools/tools.h"

struct synth_options {
    const char *like;
    uint64_t seed;
};

static const struct option_row synth_rows[] = {
    {"like", 0, OPTION_TEXT, offsetof(struct synth_options, like), "NAME|FILE.json",
        "0.6b, 1.7b, 4b, 8b, 14b, 32b, or a config.json", 0, 0, 0},
    {"seed", 0, OPTION_SEED, offsetof(struct synth_options, seed), "S", "of the weights (default 0)",
        0, 0, 0},
    {0},
};

int command_synth(int argc, char **argv)
{
    struct synth_options o = {0};
    int first;
    enum status s = options_parse(synth_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        printf("quern synth --like NAME [--seed S] DIR\n\nWrites a checkpoint of random weights with "
               "the shapes of NAME, and a tokenizer.\n\n");
        options_print(synth_rows);
        return EXIT_DONE;
    }
    if (s != STATUS_OK)
        return EXIT_USAGE;
    if (o.like == NULL || argc - first != 1) {
        log_fail(STATUS_INVALID, "quern synth wants --like NAME and one DIR: see quern synth --help");
        return EXIT_USAGE;
    }
    interrupt_catch();
    s = synth_write(o.like, o.seed, argv[first]);
    if (s == STATUS_OK)
        folder_tell(argv[first]);
    return interrupt_exit_status(s);
}
