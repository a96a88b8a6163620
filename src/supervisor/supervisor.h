/* supervisor.h - starts the workers, carries requests between sockets and rings.
 *
 * One process, one thread, one loop (ipc/loop.h): sockets, the doorbell,
 * pidfds, signals and timers are all completions. It opens no model and no
 * device; of the shared memory it only touches rings, ring buffers and the control
 * page. What it knows of a request is its journal entry: parameters, prompt
 * ids, ids produced.
 *
 * A request's way through here:
 *   client frame -> request_submit() -> text ring -> text worker -> reply ring
 *   -> request ring -> rank 0 -> token ring -> text by table -> client frame
 *
 * Death: a child's end completes its pidfd; then the abort word is set, the
 * other children are killed, every request in flight ends with one error that
 * says who died of what, and the supervisor ends. */
#ifndef QUERN_SUPERVISOR_SUPERVISOR_H
#define QUERN_SUPERVISOR_SUPERVISOR_H

#include <stdbool.h>
#include <sys/types.h>

#include "ipc/loop.h"
#include "ipc/proc.h"
#include "msg/frame.h"
#include "msg/shared.h"
#include "text/stream_decode.h"
#include "text/vocab_table.h"

struct supervisor;

/* Bytes on their way; grows. */
struct bytes {
    char *mem;
    size_t n, room;
};

struct client {
    struct client *next;
    struct supervisor *sv;
    int fd;
    bool leaving;  /* no frames any more; freed when nothing is under way */
    bool let_go;   /* ... and what it has not read is dropped */
    uint32_t requests; /* in flight */
    struct frame_reader reader;
    struct loop_op recv, send;
    struct bytes out, sending;
};

enum request_state {
    REQUEST_NEW,      /* waits for room in the text ring */
    REQUEST_ENCODING, /* at the text worker */
    REQUEST_QUEUED,   /* ids known; waits for the workers and for room in the request ring */
    REQUEST_RUNNING,  /* at rank 0 */
};

/* The journal's entry. */
struct request {
    struct request *next; /* in the FIFO of its state, or among those with news */
    struct client *client; /* NULL: it hung up */
    uint64_t id;           /* ours: an index into the table, and a serial number */
    uint64_t client_id;
    enum request_state state;
    bool cancelled, cancel_sent, has_news;
    struct frame_submit params;
    struct bytes data;     /* text or messages, until the text worker has it */
    size_t given_bytes;    /* of the prompt, as it came */
    int32_t *ids;          /* [n_ids] the prompt */
    uint32_t n_ids;
    int32_t *produced;     /* [n_produced] */
    uint32_t n_produced, produced_room, n_sent;
    struct bytes text;     /* whole characters not sent yet */
    struct stream_decoder decoder;
    uint64_t arrived_ns, first_ns;
};

struct fifo {
    struct request *head, **tail;
};

enum child_kind { CHILD_RANK, CHILD_TEXT };
struct child {
    struct supervisor *sv;
    enum child_kind kind;
    int rank;
    pid_t pid;
    int pidfd; /* -1: ended */
    struct loop_op op;
};

enum supervisor_state {
    SUPERVISOR_LOADING,
    SUPERVISOR_SERVING,
    SUPERVISOR_STOPPING, /* told to: children end in good order, then are killed */
    SUPERVISOR_FAILED,   /* a child died: clients are told, then it ends */
    SUPERVISOR_ENDED,
};

struct supervisor_options {
    struct runtime_config config;
    const char *socket_path; /* NULL: none */
    int private_fd;          /* a connected client whose end is ours; -1: none */
    const char *loop;        /* NULL, "uring" or "epoll" */
    void (*ready)(const char *socket_path); /* called once requests are answered; NULL: nobody */
};

struct supervisor {
    enum supervisor_state state;
    struct loop *loop;
    struct shared shared;
    struct child children[MAX_RANKS + 1];
    int n_children, n_alive;
    bool text_ready;
    struct segment vocab_segment;
    struct vocab_table vocab;
    char failure[LOG_LINE_BYTES];
    uint64_t shown_loaded;

    void (*ready)(const char *socket_path);
    const char *socket_path; /* NULL until it is ours */
    dev_t socket_dev;        /* which file it is: by now another server's may be there */
    ino_t socket_ino;
    int listen_fd, signal_fd, private_fd;
    struct loop_op accept, signal, bell, timer;
    struct client *clients;

    struct request **table; /* [table_room], by the low bits of an id */
    uint32_t table_room, n_requests;
    size_t given_bytes; /* of all prompts in the table */
    uint64_t serial;
    struct fifo to_text, to_leader, news;
};

/* Runs until told to stop or until the workers are dead. OK: ended in good order. Otherwise
 * log_last_error() says why. What a client did wrong is logged, too, on its way into a frame:
 * the caller's sink drops errors meanwhile. DEAD: a private client has been told. */
enum status supervisor_run(const struct supervisor_options *options);

/* bytes.c */
/* Room for n more; who writes there counts them himself. */
enum status bytes_reserve(struct bytes *b, size_t n);
enum status bytes_add(struct bytes *b, const void *more, size_t n);
void bytes_free(struct bytes *b);

/* children.c */
enum status children_start(struct supervisor *sv);
void children_kill(struct supervisor *sv);
/* Kills and waits: nothing of them is left after it. */
void children_end(struct supervisor *sv);
/* Stages and progress, after a bell. */
void children_look(struct supervisor *sv);
void supervisor_fail(struct supervisor *sv, const char *why);
void supervisor_stop(struct supervisor *sv);

/* clients.c */
/* INVALID: the path cannot be, or another server listens there. */
enum status clients_listen(struct supervisor *sv, const char *path);
void clients_close(struct supervisor *sv);
enum status client_add(struct supervisor *sv, int fd);
void client_frame(struct client *c, enum frame_type type, uint64_t id, const void *fixed,
    size_t fixed_bytes, const void *more, size_t more_bytes);
void client_error(struct client *c, uint64_t id, const char *line);
/* Sends what has gathered; frees clients that have left. Once a turn. */
void clients_flush(struct supervisor *sv);
void clients_tell(struct supervisor *sv, enum frame_type type, const void *fixed, size_t bytes);

/* requests.c */
void requests_init(struct supervisor *sv);
void requests_free(struct supervisor *sv);
void request_submit(struct client *c, uint64_t client_id, const struct frame_submit *params,
    const void *data, size_t bytes);
void request_cancel(struct client *c, uint64_t client_id);
/* The client is gone: its requests end. */
void requests_orphan(struct client *c);
/* All end with `line`. */
void requests_fail(struct supervisor *sv, const char *line);
struct request *request_find(struct supervisor *sv, uint64_t id);
void request_free(struct supervisor *sv, struct request *r);
void request_end_with_error(struct supervisor *sv, struct request *r, const char *line);
void request_send_done(struct request *r, uint32_t finish, uint32_t output_tokens);
/* What no worker has yet ends here; the rest is told to rank 0, whose last word ends it. */
void request_stop(struct supervisor *sv, struct request *r);
void fifo_put(struct fifo *f, struct request *r);
struct request *fifo_take(struct fifo *f);

/* rings.c: rings in, rings out, news to the clients. Once a turn. */
void requests_pump(struct supervisor *sv);

#endif
