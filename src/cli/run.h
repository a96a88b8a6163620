/* run.h - the pieces of quern run: what was asked for, and what is shown. */
#ifndef QUERN_CLI_RUN_H
#define QUERN_CLI_RUN_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/options.h"
#include "base/runtime_options.h"
#include "quern.h"

struct run_options {
    struct runtime_options runtime;
    const char *socket, *ids, *logit_bias, *stop_ids, *speculate;
    struct option_texts stop, bad_words, bad_ids;
    int max_tokens, min_tokens, top_k, choices, logprobs, priority, guesses; /* guesses: of `speculate` */
    float temperature, top_p, min_p, repetition, frequency, presence;
    uint64_t seed;
    bool greedy, print_ids, ignore_eos, echo;
    bool has_seed, has_temperature, has_top_p, has_min_p, has_top_k, has_repetition, has_frequency,
        has_presence, has_min_tokens, has_logprobs;
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
    uint64_t prompt_ids;    /* shown; told again when a connection is taken up */
    uint32_t output_tokens; /* of the choices that have ended */
    struct choice *choices; /* [n_choices] */
    uint32_t n_choices, current; /* current: the one whose text is printed as it comes */
};

extern volatile sig_atomic_t run_interrupted; /* times */

/* ask.c: the request; an enum quern_status. */
int ask(struct quern_request *r, const struct run_options *o, const struct prompt *p);
/* A lost connection can be taken up: its one answer is where it stood. */
bool run_can_resume(const struct run_options *o);

/* prompt.c: from --ids or the one argument. An exit status, told; or -1 to go on. */
int prompt_take(const struct run_options *o, int words, char **argument, struct prompt *p);

/* show.c */
void show_clear_bar(struct progress *p);
/* A bar on a terminal, once loading has taken long enough to wonder. */
void show_bar(struct progress *p, float done);
/* Room for the answers; an enum quern_status. show_close() gives it back. */
int show_open(const struct run_options *o, struct progress *p);
void show_close(struct progress *p);
/* The prompt as the server tells it. -1, here and below: standard output failed. */
int show_prompt(const struct run_options *o, const struct prompt *prompt, struct progress *p,
    const struct quern_event *e);
/* New text or ids; the prompt before the first, where it is wanted. */
int show_text(const struct run_options *o, const struct prompt *prompt, struct progress *p,
    const struct quern_event *e);
/* A choice has ended: its line does, and what is told of its tokens follows. */
int show_done(const struct run_options *o, const struct prompt *prompt, struct progress *p,
    const struct quern_event *e);
/* Statistics, after the last of them; an exit status. */
int show_end(struct progress *p, const struct quern_event *e);
/* Standard output failed, errno says how; an exit status. */
int show_failed(void);

#endif
