/* run.h - the pieces of quern run: what was asked for, and what is shown. */
#ifndef QUERN_CLI_RUN_H
#define QUERN_CLI_RUN_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/runtime_options.h"
#include "quern.h"

struct run_options {
    struct runtime_options runtime;
    const char *socket, *ids;
    int max_tokens, priority;
    bool greedy, print_ids, ignore_eos, has_seed, echo;
    float temperature, top_p, min_p;
    int top_k;
    uint64_t seed;
};

/* What was asked for. */
struct prompt {
    const char *text; /* [bytes]; or */
    size_t bytes;
    int32_t *ids;     /* [n_ids] */
    size_t n_ids;
    void *owned;      /* to free */
};

/* What has been shown. */
struct progress {
    struct timespec start; /* the prompt was there */
    bool terminal, bar_shown, begun;
    double first_text_s, last_text_s;
    uint64_t ids, bytes; /* bytes: of what was printed for them */
};

extern volatile sig_atomic_t run_interrupted; /* times */

/* prompt.c: from --ids or the one argument. An exit status, told; or -1 to go on. */
int prompt_take(const struct run_options *o, int words, char **argument, struct prompt *p);

/* show.c */
/* What is told from here on is told by tell() alone: the library's errors are told when they
 * are the command's, too. */
void tell_alone(void);
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

void show_clear_bar(struct progress *p);
/* A bar on a terminal, once loading has taken long enough to wonder. */
void show_bar(struct progress *p, float done);
/* New text or ids; the prompt before the first, where it is wanted. -1: standard output failed. */
int show_text(const struct run_options *o, const struct prompt *prompt, struct progress *p,
    const struct quern_event *e);
/* The end of the line, and statistics. An exit status. */
int show_end(const struct run_options *o, const struct prompt *prompt, struct progress *p,
    const struct quern_event *e);
/* Standard output failed, errno says how; an exit status. */
int show_failed(void);

#endif
