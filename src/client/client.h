/* client.h - inside of libquern's three nouns.
 *
 * One thread owns a connection. quern_cancel() alone writes beside it, so what
 * goes out, and the closing of the socket, is under `lock`; quern_wake() sets a
 * flag and rings the bell. All else is the owner's. */
#ifndef QUERN_CLIENT_CLIENT_H
#define QUERN_CLIENT_CLIENT_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/uio.h>

#include "base/options.h"
#include "ipc/proc.h"
#include "msg/frame.h"
#include "quern.h"
#include "quern/log.h"

#define EXPORT __attribute__((visibility("default")))

/* What is no event for programs. */
enum { CLIENT_EVENT_STATS = -1 };

/* Numbers of requests that the library makes for itself: their frames are no events. */
#define CLIENT_OWN_ID (UINT64_C(1) << 63)

struct quern_event {
    int kind;
    uint64_t request;
    bool is_last;
    float progress;
    uint64_t key, seed, after;
    uint32_t choice, more, prompt_tokens, output_tokens, restarts, generation;
    int finish, code, stop_kind, stop;
    bool retry, server_fault;
    double first_token_s, total_s;
    const char *text; /* of TEXT, or the message of another: lent by the connection, as all below */
    size_t text_bytes;
    const int32_t *ids;
    size_t n_ids;
    const float *values;
    size_t n_values;
    const void *logprobs;
    size_t logprobs_bytes;
};

/* A deadline. */
struct patience {
    bool forever;
    int64_t end_ms;
};
struct patience client_patience(int timeout_ms);
int client_left_ms(struct patience p); /* for poll(2) */

/* What a pointer of an event points to; aligned, and grows. */
struct lent {
    void *mem;
    size_t room;
};

/* What the socket did not take yet: bytes [start, end). */
struct outgoing {
    unsigned char *mem;
    size_t start, end, room;
    bool broken; /* the other end reads no more; what it said is still to be read */
    int error;   /* errno of a send that failed although the other end is there; 0: none did */
};

struct quern {
    pid_t owner;         /* the process that opened it */
    int fd;              /* -1 once the other end is gone */
    int bell;            /* eventfd: readable when quern_next() has something to do that the
                          * socket does not show */
    int watch;           /* epoll of both, for quern_fd(); -1 until it is asked for */
    int pidfd;           /* of a private runtime; -1: none */
    pid_t pid;
    int lines_fd;        /* what it says on standard error; -1: nothing any more */
    char line[LOG_LINE_BYTES]; /* [line_bytes], not whole yet */
    size_t line_bytes;
    pthread_mutex_t lock;
    struct outgoing out; /* under lock */
    _Atomic bool woken;  /* set by any thread before it rings; taken by the owner */
    bool rung;           /* there may be a count in the bell */
    uint64_t last_id, last_own_id;
    struct frame_reader reader;
    struct frame_reader kept; /* frames for quern_next() that came while we waited for others */
    struct quern_event event;
    struct lent text, ids, logprobs, values;
    struct lent tokenized, stats;
    uint32_t vocab, context, generation;
    uint64_t fingerprint;
    char model[256], version[64];
    int code;                 /* enum quern_code of `error` */
    char error[LOG_LINE_BYTES];
    enum status end_status;
    int end_code;             /* an ERROR about the connection has come */
    struct patience last_words; /* ... and what is said after it comes by then */
    char end[LOG_LINE_BYTES]; /* why there is no connection any more */
};

struct quern_request {
    int task;
    uint32_t prompt_kind;
    bool has_prompt;
    void *prompt;
    size_t prompt_bytes;
    unsigned char *params; /* as they go over the wire, each once */
    size_t params_bytes;
    uint64_t key; /* of the last submission */
};

/* Keeps the thread's last error line for quern_error(), and turns the status. q may be NULL. */
int client_failed(struct quern *q, enum status s);
/* The same, for an argument of `function` that is NULL. */
int client_null(struct quern *q, const char *function);

/* connection.c ---------------------------------------------------------------------------- */

/* Sends the parts or keeps them to be sent. AGAIN: too much waits already. DEAD (logged): no
 * connection. NOMEM (logged). By any thread. */
enum status client_send(struct quern *q, const struct iovec *parts, size_t n);

/* Something waits to be sent. */
bool client_waits(struct quern *q);
/* Sends what the socket takes of it. */
void client_flush(struct quern *q);

/* Ends the connection for good, for this reason; logs and returns it, as each later call does. */
enum status client_end(struct quern *q, enum status s, int code, const char *why);

/* receive.c ------------------------------------------------------------------------------- */

/* The next frame, lent until the next call. `kept`: also those kept for quern_next(). AGAIN: the
 * time is up, or quern_wake() was called. Otherwise the connection's end (logged). */
enum status client_next_frame(struct quern *q, bool kept, struct patience p, struct frame_header *h,
    const void **payload);

/* The bell says whether whole frames are waiting, for who watches. */
void client_tell_bell(struct quern *q);

/* own.c ----------------------------------------------------------------------------------- */

/* A number for a request of the library's own. */
uint64_t client_own_id(struct quern *q);

/* An event of such a request, in q->event. */
typedef enum status client_take(struct quern *q, void *context);
/* Hands its events to take() until the last; s: of sending it. Those of others are kept for
 * quern_next(). What the calling function of quern.h returns: an ERROR event is a failure, too. */
int client_await_own(struct quern *q, enum status s, uint64_t id, int timeout_ms, client_take *take,
    void *context);

/* events.c -------------------------------------------------------------------------------- */

/* A frame as q->event. AGAIN: it is none, or none that this library knows. INVALID (logged): it
 * breaks the rules. */
enum status client_event(struct quern *q, const struct frame_header *h, const void *payload);

/* Room for n bytes. */
enum status lent_reserve(struct lent *l, size_t n);

/* requests.c ------------------------------------------------------------------------------ */

/* Sends r under the number `id`; *key names it. Status as client_send(); INVALID (logged). */
enum status client_submit(struct quern *q, const struct quern_request *r, int task, uint64_t id,
    uint64_t *key);

/* spawn.c --------------------------------------------------------------------------------- */

/* The quern program: the option, then beside this library, then the place it is installed
 * in, then PATH. INVALID (logged) when there is none. */
enum status client_find_program(const char *wanted, char path[PATH_MAX]);

/* Starts `program serve` with the options (NULL: none); q->fd, lines_fd, pid and pidfd are set. */
enum status client_spawn(struct quern *q, const struct quern_options *options);

/* Waits for a private runtime to end, at most so long; then kills it, if it may. Says how it
 * ended, or "". */
void client_reap(struct quern *q, int wait_ms, bool kill, char how[128]);

/* lines.c --------------------------------------------------------------------------------- */

/* What has come of a private runtime's lines, to the log. */
void client_take_lines(struct quern *q);

/* options.c ------------------------------------------------------------------------------- */

enum { CLIENT_OPTIONS = 32 };

struct quern_options {
    char *values[CLIENT_OPTIONS]; /* as they were given; [i] of client_options[i] */
};
extern const struct option_row client_options[]; /* ends with a NULL name */
const char *client_option(const struct quern_options *o, const char *name);

#endif
