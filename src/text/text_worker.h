/* text_worker.h - the process in which all text is tokenized.
 *
 * A long prompt or a strange file must not stall or harm other streams, so the
 * tokenizer and the chat template live in a process of their own, between two
 * rings. It also writes the detokenisation table that the supervisor maps.
 * Blocking: sleeps on its doorbell. Death: the death pipe ends it. */
#ifndef QUERN_TEXT_TEXT_WORKER_H
#define QUERN_TEXT_TEXT_WORKER_H

#include "msg/text_shared.h"

struct text_worker {
    struct text_shared *g; /* the caller's */
    struct tokenizer *tokenizer;
    struct chat_template *template; /* NULL: it has an error, which chats are told */
    char *template_error;
};

/* Reads the tokenizer files of `dir`, which is not needed any more afterwards, and publishes the
 * table: an empty one if there are none, and then only ids can be served. After OK,
 * text_worker_close(). */
enum status text_worker_open(struct text_shared *g, const char *dir, struct text_worker *out);
void text_worker_close(struct text_worker *t);

/* Serves until the request ring is closed (OK) or the supervisor is gone (DEAD). */
enum status text_worker_run(struct text_worker *t);

#endif
