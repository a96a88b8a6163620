/* quern.h - libquern: stories from a C program.
 *
 * Three nouns, none of which shows what is in it. A struct quern is a
 * connection to one running quern: a private one that quern_spawn() starts
 * (and quern_close() ends), or a server's socket that quern_connect() opens.
 * A struct quern_request says what is wanted; each time it is submitted it
 * gets a number on its connection. Answers come as struct quern_event, those
 * of several requests interleaved, through quern_next().
 *
 *     struct quern *q;
 *     struct quern_request *r = quern_request_new();
 *     const struct quern_event *e = NULL;
 *     int s = quern_spawn(NULL, &q);
 *
 *     quern_request_set_text(r, "Once upon a time", QUERN_STRLEN);
 *     if (s == QUERN_OK)
 *         s = quern_submit(q, r, NULL);
 *     while (s == QUERN_OK && !quern_event_is_last(e)) {
 *         s = quern_next(q, -1, &e);
 *         if (s == QUERN_OK)
 *             fputs(quern_event_text(e, NULL), stdout);
 *     }
 *     if (s != QUERN_OK)
 *         fprintf(stderr, "%s\n", quern_error(q));
 *     else if (quern_event_kind(e) == QUERN_EVENT_ERROR)
 *         fprintf(stderr, "%s\n", quern_event_message(e));
 *     quern_request_free(r);
 *     quern_close(q);
 *
 * Threads: one at a time for each connection, request and set of options;
 * quern_cancel() and quern_wake() alone may be called beside it. The library
 * starts no thread, touches no signal and prints nothing: quern_error() says
 * what was wrong. Blocking: quern_next(), quern_tokenize(),
 * quern_count_tokens() and quern_stats() as long as they are told; quern_close()
 * until a private runtime has ended, a few seconds at most; nothing else.
 *
 * Death: when the runtime dies or hangs up, what it had sent still comes, then
 * quern_next() gives QUERN_DEAD, each time, and says why. When the calling
 * process dies, a private runtime ends by itself, also if that process had
 * forked. In a forked child, a connection may only be closed, which leaves the
 * parent's as it is.
 *
 * Growth: a program that was compiled against this header runs with every
 * later library, and with servers that are older or newer than its library.
 * Numbers in enums are for ever. New kinds of event may come: pass over those
 * that you do not know. NULL where something is needed is QUERN_INVALID, and
 * what is asked of a NULL event or connection is 0 or "". */
#ifndef QUERN_H
#define QUERN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QUERN_VERSION "0.1.0"

/* As the bytes of a text: it ends with NUL. */
#define QUERN_STRLEN ((size_t)-1)

/* Negative: failed, and quern_error() says why. New ones may come. */
enum quern_status {
    QUERN_OK = 0,
    QUERN_AGAIN = 1,    /* not now: the timeout passed, quern_wake() was called, no room yet */
    QUERN_INVALID = -1, /* bad input */
    QUERN_IO = -2,      /* the operating system refused */
    QUERN_NOMEM = -3,
    QUERN_DEAD = -4,    /* the runtime is gone */
    QUERN_UNKNOWN = -5, /* this library does not have what is asked for */
};

/* What went wrong with a request or a connection. Numbers are for ever; new ones may come, and
 * one that a program does not know is to be taken like QUERN_CODE_INTERNAL. */
enum quern_code {
    QUERN_CODE_NONE = 0,
    /* 1 to 15, the caller's fault: the same request fails again */
    QUERN_CODE_BAD_FRAME = 1,    /* the bytes are not the protocol's; the connection ends */
    QUERN_CODE_BAD_REQUEST = 2,  /* a parameter, a prompt or a JSON object is wrong */
    QUERN_CODE_UNKNOWN = 3,      /* a field, flag or kind that this server does not have */
    QUERN_CODE_TOO_LONG = 4,     /* the prompt does not fit the context, or the request the caches */
    QUERN_CODE_NUMBER_IN_USE = 5, /* a request with this number or key is running */
    QUERN_CODE_NOT_FOUND = 6,    /* RESUME: no such request, or it is no longer kept */
    QUERN_CODE_TAKEN_OVER = 7,   /* another connection resumed the request: it goes on there */
    /* the caller's, but later it may go well */
    QUERN_CODE_QUOTA = 9,        /* this client has too much under way */
    /* 16 and up, the server's fault */
    QUERN_CODE_OVERLOADED = 16,  /* too much is under way; later */
    QUERN_CODE_STOPPING = 17,    /* the server was told to stop; later */
    QUERN_CODE_WORKER_DIED = 18, /* and is not started again; later, when the server was */
    QUERN_CODE_MODEL = 19,       /* the model's logits are not numbers */
    QUERN_CODE_INTERNAL = 20,    /* a promise of quern's was broken */
};

struct quern;
struct quern_options;
struct quern_request;
struct quern_event;

/* Options: how a private runtime is started ------------------------------------------------ */

/* NULL: no memory. quern_options_free() takes NULL, too. */
struct quern_options *quern_options_new(void);
void quern_options_free(struct quern_options *o);

/* Sets one by its name on the command line of `quern serve`, without the "--": "model", "tp",
 * "threads", "compute", "max-model-len", ..., and "executable", the quern program (found beside
 * the library or on PATH). The value is what one would type there, and is copied; set again, the
 * last one counts. QUERN_UNKNOWN: no such option, the error names the nearest; QUERN_INVALID:
 * not a value that it takes. */
int quern_options_set(struct quern_options *o, const char *name, const char *value);

/* Requests ---------------------------------------------------------------------------------- */

/* Parameters of a request. What is not set is as the model (generation_config.json) has it. */
enum quern_param {
    QUERN_PARAM_MAX_TOKENS = 1,   /* whole: new tokens at most; 256 */
    QUERN_PARAM_TEMPERATURE = 2,  /* real, 0 (greedy) to 100 */
    QUERN_PARAM_TOP_K = 3,        /* whole; 0: all */
    QUERN_PARAM_TOP_P = 4,        /* real, above 0, up to 1 */
    QUERN_PARAM_MIN_P = 5,        /* real, 0 to 1 */
    QUERN_PARAM_SEED = 6,         /* u64; drawn when not set, and told by ACCEPTED */
    QUERN_PARAM_IGNORE_EOS = 7,   /* 0 or 1: go on past an end token */
    QUERN_PARAM_KEY = 8,          /* u64, not 0: what names the request on every connection; drawn
                                   * anew by each quern_submit() when not set */
    QUERN_PARAM_KEEP = 9,         /* whole: seconds for which the server keeps the request when its
                                   * connection is lost, for quern_resume(); 0 */
    QUERN_PARAM_TELL_PAUSES = 10, /* 0 or 1: PAUSED and CONTINUED events are wanted */
    QUERN_PARAM_PRIORITY = 11,    /* whole, -1000 to 1000: of requests that wait, those of a lower
                                   * one go first; 0 */
    QUERN_PARAM_REPETITION_PENALTY = 12, /* real, 0.001 to 100; 1: off. Ids of prompt and
                                          * answer: a logit above 0 is divided by it, else multiplied */
    QUERN_PARAM_FREQUENCY_PENALTY = 13,  /* real, -2 to 2: for each time an id is in the answer; 0 */
    QUERN_PARAM_PRESENCE_PENALTY = 14,   /* real, -2 to 2: if it is in the answer at all; 0 */
    QUERN_PARAM_MIN_TOKENS = 15,         /* whole: nothing ends the answer before so many; 0 */
    QUERN_PARAM_LOGIT_BIAS = 16,         /* bytes: {int32 id, float -100 to 100} x n, added to logits;
                                          * 1024 at most */
    QUERN_PARAM_BAD_WORDS = 17,          /* texts that the answer may not have; quern_request_add_text() */
    QUERN_PARAM_BAD_IDS = 18,            /* bytes: {uint32 n, int32 x n} x m: runs of ids that it may not
                                          * have */
    QUERN_PARAM_STOP = 19,               /* texts that end the answer, which has nothing of them;
                                          * quern_request_add_text(); 32 of 1024 bytes at most */
    QUERN_PARAM_STOP_IDS = 20,           /* bytes: int32 x n: ids that end it, beside the model's own; 128
                                          * at most */
    QUERN_PARAM_INCLUDE_STOP = 21,       /* 0 or 1: it has the stop text at its end; 0 */
    QUERN_PARAM_CHOICES = 22,            /* whole, 1 to 128: different answers to the prompt; 1 */
    QUERN_PARAM_LOGPROBS = 23,           /* whole, 0 to 20: TEXT tells how likely each id was, and the so
                                          * many likeliest */
    QUERN_PARAM_PROMPT_LOGPROBS = 24,    /* the same of the prompt, in PROMPT events */
    QUERN_PARAM_ECHO = 25,               /* 0 or 1: PROMPT events tell the prompt; 0 */
    QUERN_PARAM_SPECULATE = 26,          /* whole, 0 to 16: so many ids are guessed from what was said
                                          * before and verified in one step: the answer is the same; 0 */
    QUERN_PARAM_DIMENSIONS = 27,         /* whole: an embedding is cut to so many numbers; 0: whole */
    QUERN_PARAM_LAST = 28,               /* whole, 1 and more: logits behind so many of the prompt's last
                                          * ids; 1 */
    QUERN_PARAM_VALUE_IDS = 29,          /* bytes: int32 x n: the logits of these ids alone, such as a
                                          * reranker's "no" and "yes"; 1024 at most */
};

enum quern_task {
    QUERN_TASK_COMPLETE = 0, /* an answer */
    QUERN_TASK_TOKENIZE = 1, /* the prompt's ids, as a TEXT event */
    QUERN_TASK_EMBED = 2,    /* one VALUES event: the final hidden state of the prompt's last id, cut to
                              * DIMENSIONS, of length 1 */
    QUERN_TASK_LOGITS = 3,   /* a VALUES event for each of its LAST ids: the logits behind it; of a model
                              * for sequence classification the scores of its labels */
};

/* NULL: no memory. quern_request_free() takes NULL, too. */
struct quern_request *quern_request_new(void);
void quern_request_free(struct quern_request *r);

/* The prompt, copied; the last one set counts. Raw UTF-8, no template; token ids; a JSON object
 * {"messages": [...], "tools": ..., ...} for the model's chat template. */
int quern_request_set_text(struct quern_request *r, const char *text, size_t bytes);
int quern_request_set_ids(struct quern_request *r, const int32_t *ids, size_t n);
int quern_request_set_chat(struct quern_request *r, const char *json, size_t bytes);

int quern_request_set_task(struct quern_request *r, int task);

/* Sets a parameter, each of these whatever the parameter's own type is, as long as the value
 * stays the same: 0 and 0.0 are one. QUERN_UNKNOWN: this library has no such parameter;
 * QUERN_INVALID: out of its bounds, or not of its type. */
int quern_request_set_int(struct quern_request *r, int param, int64_t value);
int quern_request_set_u64(struct quern_request *r, int param, uint64_t value);
int quern_request_set_real(struct quern_request *r, int param, double value);
/* The value's bytes as docs/protocol.md lays them out. */
int quern_request_set_bytes(struct quern_request *r, int param, const void *value, size_t bytes);
/* One more text of QUERN_PARAM_STOP or QUERN_PARAM_BAD_WORDS, copied. */
int quern_request_add_text(struct quern_request *r, int param, const char *text, size_t bytes);

/* The key that names what was last submitted from this; 0 before. */
uint64_t quern_request_key(const struct quern_request *r);

/* Connections ------------------------------------------------------------------------------- */

/* Starts a private runtime. options may be NULL: the storyteller as it comes; nothing of them is
 * kept. It loads in the background: a request may be submitted at once. *out is set even on
 * failure (so that quern_error() can say why) unless memory ran out, when it is NULL. */
int quern_spawn(const struct quern_options *options, struct quern **out);

/* Opens the socket of `quern serve --socket PATH`. *out as with quern_spawn(). */
int quern_connect(const char *socket_path, struct quern **out);

/* Closes the connection; a private runtime ends, and is waited for. NULL is allowed. */
void quern_close(struct quern *q);

/* Sends a request; *id is its number, > 0; id may be NULL. What the socket does not take at once
 * is kept, and sent by quern_next(). QUERN_AGAIN: 32 MiB wait already; call quern_next(). */
int quern_submit(struct quern *q, struct quern_request *r, uint64_t *id);

/* Takes up a request whose connection was lost, behind the first `after` ids of its answer. Its
 * events come under the new number *id. As quern_submit(). An ERROR event with
 * QUERN_CODE_NOT_FOUND: it is no longer kept, submit it again. */
int quern_resume(struct quern *q, uint64_t key, uint64_t after, uint64_t *id);

/* Ends a request early; its last event still comes. One that has ended or never was: nothing
 * happens. Of another thread, quern_error(NULL) has the error. */
int quern_cancel(struct quern *q, uint64_t id);

/* The quern_next() that waits, or the next one, returns QUERN_AGAIN. May be called by a signal
 * handler, too. */
int quern_wake(struct quern *q);

/* The next event of any request, lent until the next call for this connection. Waits at most
 * timeout_ms (-1: for ever), which signals do not cut short. */
int quern_next(struct quern *q, int timeout_ms, const struct quern_event **event);

/* For poll(2) or the like, POLLIN alone: readable when quern_next() has something to do. Read or
 * close it never. -1: there is none, QUERN_IO. */
int quern_fd(struct quern *q);

/* The prompt of r as the model reads it: *ids [*n], lent until the next of these two or
 * quern_close(). Events of other requests are kept meanwhile. QUERN_AGAIN: timeout_ms passed. */
int quern_tokenize(struct quern *q, const struct quern_request *r, int timeout_ms,
    const int32_t **ids, size_t *n);
/* How many they are. */
int quern_count_tokens(struct quern *q, const struct quern_request *r, int timeout_ms, size_t *n);

/* What the server has counted since it was started, and what is so now, over all its clients: a
 * JSON object, whose names docs/protocol.md has; lent until the next call of it or quern_close().
 * Events of requests are kept meanwhile. QUERN_AGAIN: timeout_ms passed. */
int quern_stats(struct quern *q, int timeout_ms, const char **json);

/* One line on the last failure of a call; "" when there was none. q NULL: of the calling thread's
 * last call that failed, whatever it was about. Lent until the next call. */
const char *quern_error(const struct quern *q);
/* The same as enum quern_code; QUERN_CODE_NONE where the status says all. */
int quern_error_code(const struct quern *q);

/* Of the model, once READY has come; 0 and "" before. */
uint32_t quern_vocab_size(const struct quern *q);   /* token ids are below it */
uint32_t quern_context_size(const struct quern *q); /* tokens of prompt and answer together */
const char *quern_model_name(const struct quern *q);
/* Servers of the same weights with the same one give the same answers, bit for bit: it is made of
 * version, instruction set, ranks, plan and types. 0: an older server. */
uint64_t quern_fingerprint(const struct quern *q);
/* Of the server. The generation grows by one each time its workers are started anew. */
uint32_t quern_generation(const struct quern *q);
const char *quern_server_version(const struct quern *q);

/* Events ------------------------------------------------------------------------------------ */

enum quern_event_kind {
    QUERN_EVENT_NONE = 0,
    QUERN_EVENT_LOADING = 1,   /* progress of the weights */
    QUERN_EVENT_READY = 2,     /* the model is loaded */
    QUERN_EVENT_ACCEPTED = 3,  /* a request's prompt is read: its key, seed and prompt tokens */
    QUERN_EVENT_TEXT = 4,      /* new ids, and the whole characters they complete */
    QUERN_EVENT_DONE = 5,      /* a choice of a request ended; or all of it */
    QUERN_EVENT_ERROR = 6,     /* last event of a request, or of all when its number is 0 */
    QUERN_EVENT_PAUSED = 7,    /* workers died and are started anew; the request waits */
    QUERN_EVENT_CONTINUED = 8, /* they are back, and it goes on where it stood */
    QUERN_EVENT_VALUES = 10,   /* a row of numbers, as the task says */
    QUERN_EVENT_PROMPT = 9,    /* ids, text and logprobs of the prompt, before any TEXT; as TEXT has them */
};

/* Why an answer ended. New ones may come. */
enum quern_finish {
    QUERN_FINISH_STOP = 0,      /* an end token */
    QUERN_FINISH_LENGTH = 1,    /* max_tokens, or the context is full */
    QUERN_FINISH_CANCELLED = 2,
};

/* What stopped it, with QUERN_FINISH_STOP. New ones may come. */
enum quern_stop {
    QUERN_STOP_EOS = 0,  /* an end token of the model's */
    QUERN_STOP_ID = 1,   /* one of QUERN_PARAM_STOP_IDS */
    QUERN_STOP_TEXT = 2, /* a text of QUERN_PARAM_STOP */
};

int quern_event_kind(const struct quern_event *e);
uint64_t quern_event_request(const struct quern_event *e); /* its number; 0: the connection */
/* 1: nothing more comes of its request (number 0: of any): DONE of the last choice, or ERROR. */
int quern_event_is_last(const struct quern_event *e);

float quern_event_progress(const struct quern_event *e); /* LOADING: 0 to 1 */

uint64_t quern_event_key(const struct quern_event *e);          /* ACCEPTED */
uint64_t quern_event_seed(const struct quern_event *e);         /* ACCEPTED: given or drawn */
uint32_t quern_event_prompt_tokens(const struct quern_event *e); /* ACCEPTED, DONE */

uint32_t quern_event_choice(const struct quern_event *e); /* TEXT, DONE: which of n answers */
/* TEXT: UTF-8, special tokens left out, NUL behind its *bytes (which may be NULL). */
const char *quern_event_text(const struct quern_event *e, size_t *bytes);
/* TEXT: [*n], special ones included, the end token not. */
const int32_t *quern_event_ids(const struct quern_event *e, size_t *n);
uint64_t quern_event_after(const struct quern_event *e); /* TEXT: ids of this choice before these */
/* TEXT, PROMPT: [*bytes]; none unless asked for. For each id one quern_logprob of itself, then as
 * many of the likeliest, in order, as were asked for. */
struct quern_logprob {
    int32_t id;    /* -1: nothing (the prompt's first id follows none) */
    float logprob; /* natural, of the model's logits as they are */
};
const void *quern_event_logprobs(const struct quern_event *e, size_t *bytes);

/* VALUES: [*n], of the prompt's id at quern_event_after(). */
const float *quern_event_values(const struct quern_event *e, size_t *n);

int quern_event_finish(const struct quern_event *e);             /* DONE: enum quern_finish */
int quern_event_stop_kind(const struct quern_event *e);          /* DONE: enum quern_stop */
int quern_event_stop(const struct quern_event *e); /* DONE: the id, or the text's index in the list */
uint32_t quern_event_more(const struct quern_event *e);          /* DONE: choices that go on */
uint32_t quern_event_output_tokens(const struct quern_event *e); /* DONE: the end token counts */
uint32_t quern_event_restarts(const struct quern_event *e);      /* DONE: of workers under it */
double quern_event_first_token_s(const struct quern_event *e);   /* DONE: from its arrival */
double quern_event_total_s(const struct quern_event *e);         /* DONE */

int quern_event_code(const struct quern_event *e);  /* ERROR: enum quern_code */
int quern_event_retry(const struct quern_event *e); /* ERROR: 1: later it may go well */
int quern_event_server_fault(const struct quern_event *e); /* ERROR: 1: not the caller's */
/* ERROR, PAUSED, CONTINUED: one line for a person. */
const char *quern_event_message(const struct quern_event *e);
uint32_t quern_event_generation(const struct quern_event *e); /* PAUSED, CONTINUED, READY */

/* The library ------------------------------------------------------------------------------- */

enum quern_log_level {
    QUERN_LOG_ERROR = 0,
    QUERN_LOG_WARN = 1,
    QUERN_LOG_INFO = 2,
    QUERN_LOG_DEBUG = 3,
};

/* Hands each line of the process's connections up to `level` to `log`, by the thread that it
 * concerns; NULL (as at first): to nobody. Errors are among them that are returned, too. Set it
 * before there are threads. */
int quern_log_set(int level, void (*log)(void *context, int level, const char *line),
    void *context);

const char *quern_version(void);

#ifdef __cplusplus
}
#endif

#endif
