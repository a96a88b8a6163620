/* prompt.c - quern run: the prompt, from the command line or standard input. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/run.h"
#include "quern/log.h"

enum { PROMPT_MOST = 16 << 20 }; /* bytes; more than the protocol carries, or any model reads */

/* OK: more bytes came. CLOSED: the end. */
static enum status read_some(char *text, size_t room, size_t *n)
{
    ssize_t got;

    do
        got = read(STDIN_FILENO, text, room);
    while (got < 0 && errno == EINTR && !run_interrupted);
    if (got < 0 && run_interrupted)
        return STATUS_INTERRUPTED;
    if (got < 0)
        return log_fail(STATUS_IO, "standard input: %s", strerror(errno));
    *n += (size_t)got;
    if (*n > PROMPT_MOST)
        return log_fail(STATUS_INVALID, "standard input has more than %d MiB: no prompt is so long",
            PROMPT_MOST >> 20);
    return got == 0 ? STATUS_CLOSED : STATUS_OK;
}

/* All of standard input, malloc'ed; NULL when it cannot be had. */
static char *read_stdin(size_t *bytes)
{
    size_t room = 64 << 10, n = 0;
    char *text = malloc(room);
    enum status s = STATUS_OK;

    while (text != NULL && s == STATUS_OK) {
        s = read_some(text + n, room - n, &n);
        if (n == room) {
            char *more = realloc(text, room *= 2);

            if (more == NULL)
                break;
            text = more;
        }
    }
    if (s == STATUS_OK)
        log_fail(STATUS_NOMEM, "no memory for a prompt of %zu bytes", room);
    if (s == STATUS_CLOSED) {
        *bytes = n;
        return text;
    }
    free(text);
    return NULL;
}

/* The newline that ends what a shell's echo or a file says is no part of the prompt. */
static size_t without_newline(const char *text, size_t bytes)
{
    return bytes > 0 && text[bytes - 1] == '\n' ? bytes - 1 : bytes;
}

int prompt_take(const struct run_options *o, int words, char **argument, struct prompt *p)
{
    if (words != (o->ids == NULL ? 1 : 0)) {
        log_fail(STATUS_INVALID, "quern run takes one PROMPT (in quotes), or --ids: see quern run "
                                 "--help");
        return EXIT_USAGE;
    }
    if (o->ids != NULL) {
        if (options_ids(o->ids, &p->ids, &p->n_ids) != STATUS_OK)
            return EXIT_USAGE;
        p->owned = p->ids;
    } else if (strcmp(argument[0], "-") == 0) {
        p->text = p->owned = read_stdin(&p->bytes);
        if (p->text == NULL)
            return run_interrupted ? EXIT_INTERRUPTED : EXIT_FAILED;
        p->bytes = without_newline(p->text, p->bytes);
    } else {
        p->text = argument[0];
        p->bytes = strlen(argument[0]);
    }
    if (p->bytes > 0 || p->n_ids > 0)
        return -1;
    log_fail(STATUS_INVALID, "the prompt is empty: give it at least one character");
    return EXIT_USAGE;
}
