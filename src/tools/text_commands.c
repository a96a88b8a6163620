/* text_commands.c - quern tokenize, detokenize, template: one JSON value a line, in and out. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/options.h"
#include "cli/cli.h"
#include "checkpoint/config_json.h"
#include "checkpoint/locate.h"
#include "quern/log.h"
#include "tools/text_tools.h"
#include "tools/tools.h"

enum { MOST_CONFIG_BYTES = 4 << 20 };

struct text_options {
    const char *model;
    bool skip_special;
};

#define AT(field) offsetof(struct text_options, field)
#define MODEL_ROW                                                                                  \
    {"model", 'm', OPTION_TEXT, AT(model), "DIR",                                                  \
        "a directory with tokenizer files (default: the storyteller's)", 0, 0, 0}
static const struct option_row plain_rows[] = {MODEL_ROW, {0}};
static const struct option_row detokenize_rows[] = {
    MODEL_ROW,
    {"skip-special", 0, OPTION_FLAG, AT(skip_special), NULL, "leave special tokens out", 0, 0, 0},
    {0},
};

typedef enum status text_tool(const char *dir, const struct text_options *o);

static int run_text_tool(int argc, char **argv, const struct option_row *rows, text_tool *tool,
    const char *help)
{
    struct text_options o = {0};
    char dir[4096];
    int first;
    enum status s = options_parse(rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        printf("%s\n\n", help);
        options_print(rows);
        return EXIT_DONE;
    }
    if (s != STATUS_OK)
        return EXIT_USAGE;
    if (first != argc) {
        log_fail(STATUS_INVALID, "quern %s reads standard input: \"%s\" is one word too many",
            argv[0], argv[first]);
        return EXIT_USAGE;
    }
    s = locate_model(o.model, LOCATE_TOKENIZER, dir, sizeof(dir));
    if (s == STATUS_OK)
        s = tool(dir, &o);
    return s == STATUS_OK ? EXIT_DONE : EXIT_FAILED;
}

static enum status tokenize(const char *dir, const struct text_options *o)
{
    (void)o;
    return tool_tokenize(dir, stdin, stdout);
}

/* Of config.json, if there is one; 0 without. */
static enum status read_vocab_size(const char *dir, int *vocab_size)
{
    char path[4200];
    json_t *config = NULL;
    enum status s = path_join(path, sizeof(path), dir, "config.json");

    *vocab_size = 0;
    if (s == STATUS_OK)
        s = json_read_optional(path, MOST_CONFIG_BYTES, &config);
    if (s != STATUS_OK || config == NULL)
        return s;
    s = json_field_int("config.json", config, "vocab_size", 1, INT_MAX, vocab_size);
    json_decref(config);
    return s;
}

static enum status detokenize(const char *dir, const struct text_options *o)
{
    int vocab_size;
    enum status s = read_vocab_size(dir, &vocab_size);

    return s == STATUS_OK ? tool_detokenize(dir, o->skip_special, vocab_size, stdin, stdout) : s;
}

static enum status render(const char *dir, const struct text_options *o)
{
    (void)o;
    return tool_template(dir, stdin, stdout);
}

int command_tokenize(int argc, char **argv)
{
    return run_text_tool(argc, argv, plain_rows, tokenize,
        "quern tokenize -m DIR\n\nEach line of standard input is a JSON string; each line of "
        "standard output the\narray of its token ids.");
}

int command_detokenize(int argc, char **argv)
{
    return run_text_tool(argc, argv, detokenize_rows, detokenize,
        "quern detokenize -m DIR [--skip-special]\n\nEach line of standard input is a JSON array of "
        "token ids; each line of standard\noutput the JSON string they are.");
}

int command_template(int argc, char **argv)
{
    return run_text_tool(argc, argv, plain_rows, render,
        "quern template -m DIR\n\nEach line of standard input is a JSON object {messages, tools, documents,\n"
        "enable_thinking, add_generation_prompt, continue_final_message,\n"
        "chat_template_kwargs}; each line of standard output the prompt that the\n"
        "model's chat template makes of it, as a JSON string.");
}
