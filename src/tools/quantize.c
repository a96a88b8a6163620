/* quantize.c - quern quantize: a plain checkpoint in, a quantised one out. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/options.h"
#include "checkpoint/locate.h"
#include "checkpoint/synth.h"
#include "cli/cli.h"
#include "quern/log.h"
#include "tools/folder_write.h"
#include "tools/interrupt.h"
#include "tools/quantize_write.h"
#include "tools/tools.h"

struct quantize_arguments {
    const char *model, *method, *head, *activations;
    int group;
};

static const struct option_row quantize_rows[] = {
    {"model", 'm', OPTION_TEXT, offsetof(struct quantize_arguments, model), "DIR",
        "the checkpoint to quantise (default: the storyteller)", 0, 0, 0},
    {"quant", 0, OPTION_CHOICE, offsetof(struct quantize_arguments, method), "int8|int4|fp8",
        "weights: int8 by row, int4 in groups, fp8 in blocks of 128", 0, 0, 0},
    {"quant-activations", 0, OPTION_CHOICE, offsetof(struct quantize_arguments, activations),
        "none|dynamic", "inputs of the layers: as they are (default), or int8 or fp8 like the "
        "weights", 0, 0, 0},
    {"group", 0, OPTION_INT, offsetof(struct quantize_arguments, group), "N",
        "int4: inputs that share a scale (default 128)", 8, 1 << 20, 0},
    {"quant-head", 0, OPTION_CHOICE, offsetof(struct quantize_arguments, head), "none|int8",
        "the output head (default none; int8 writes a tied head apart)", 0, 0, 0},
    {0},
};

static int help(void)
{
    printf("quern quantize -m DIR --quant METHOD OUT\n\nWrites a quantised checkpoint to OUT, in "
           "the layout of compressed-tensors.\n\n");
    options_print(quantize_rows);
    return EXIT_DONE;
}

int command_quantize(int argc, char **argv)
{
    struct quantize_arguments a = {.head = "none"};
    struct quantize_options o;
    char dir[PATH_MAX];
    int first;
    enum status s = options_parse(quantize_rows, argc, argv, &a, &first);

    if (s == STATUS_CLOSED)
        return help();
    if (s != STATUS_OK)
        return EXIT_USAGE;
    if (a.method == NULL || argc - first != 1) {
        log_fail(STATUS_INVALID, "quern quantize wants --quant METHOD and one OUT: see quern "
            "quantize --help");
        return EXIT_USAGE;
    }
    s = locate_model(a.model, LOCATE_MODEL, dir, sizeof(dir));
    if (s == STATUS_OK && synth_is(dir))
        s = log_fail(STATUS_INVALID, "%s has no files: write it with quern synth, or run it with "
            "--quant %s", dir, a.method);
    o = (struct quantize_options){.method = a.method, .activations = a.activations,
        .group = a.group,
        .head = strcmp(a.head, "int8") == 0};
    interrupt_catch();
    if (s == STATUS_OK)
        s = quantize_write(dir, &o, argv[first]);
    if (s == STATUS_OK)
        folder_tell(argv[first]);
    return interrupt_exit_status(s);
}
