/* supervisor.h - starts the workers, carries requests between sockets and rings.
 *
 * One process, one thread, one loop (ipc/loop.h): sockets, the doorbell,
 * pidfds, signals and timers are all completions. It opens no model and no
 * device; of the shared memory it only touches rings and control pages. What
 * it knows of a request is its journal entry: parameters, prompt ids, ids
 * produced.
 *
 * A request's way through here:
 *   client frame (clients.c) -> submit.c -> text ring (text_link.c) -> text
 *   worker -> request ring (rank_link.c) -> rank 0 -> token ring -> journal
 *   (requests.c) -> text by table and a client frame (news.c)
 *
 * Death costs what died (restart.c): a text worker is started again by itself;
 * when a rank dies, its peers are ended, the next generation is started, and
 * what was under way goes on from the journal.
 *
 * Fairness: whatever is limited (the text worker, rank 0, what a socket takes)
 * is dealt to clients in turn, whatever number of requests each has; of requests
 * that wait for the first two, those of a lower priority value go first. */
#ifndef QUERN_SUPERVISOR_SUPERVISOR_H
#define QUERN_SUPERVISOR_SUPERVISOR_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/hash_map.h"
#include "base/heap.h"
#include "base/list.h"
#include "ipc/loop.h"
#include "ipc/proc.h"
#include "msg/frame.h"
#include "msg/param_lists.h"
#include "msg/params.h"
#include "msg/shared.h"
#include "msg/text_shared.h"
#include "quern.h"
#include "text/stop_text.h"
#include "text/stream_decode.h"
#include "text/vocab_table.h"

struct supervisor;

/* Limits: what is under way, over all and for one client. */
enum {
    MOST_REQUESTS = 1 << 18,
    MOST_REQUESTS_EACH = 1 << 16,
    MOST_PROMPT_BYTES = 256 << 20,
    MOST_PROMPT_BYTES_EACH = 64 << 20,
    MOST_PARTIAL_BYTES = 64 << 20,  /* of frames that are not whole yet, over all */
    MOST_KEPT_BYTES = 64 << 20,     /* of answers that have ended and may be asked for again */
    MOST_KEEP_S = 600,
    OUT_MARK = 64 << 10,            /* with so much waiting for a socket, answers wait here */
    PARK_AT = 1024,                 /* tokens of an answer that wait: no more are computed */
    PARK_BYTES = 1 << 20,           /* ... and of all of a request's, with their logprobs */
    GO_ON_AT = 128,
    MOST_ENCODINGS = 2,             /* of one prompt: it ended its text worker so often */
};

/* Bytes on their way; grows. */
struct bytes {
    char *mem;
    size_t n, room;
};

/* What a client's requests wait for: turns.c. */
enum waits_for { FOR_TEXT, FOR_LEADER, WAITS };
struct line {
    struct heap requests;  /* request.waits */
    struct heap_node turn; /* among clients' lines that are not empty */
    int64_t place;         /* when it was served last, or became a line */
};

/* One connection. `nobody` in struct supervisor is the one without a socket: it has the requests
 * whose client has gone. */
struct client {
    struct list_node all;
    struct supervisor *sv;
    int fd;
    bool leaving;  /* no frames any more; freed when nothing is under way */
    bool let_go;   /* ... and what it has not read is dropped */
    uint32_t n_requests;
    size_t prompt_bytes;
    struct hash_map numbers;      /* the client's number -> request that has not ended */
    struct list_node requests;    /* all of its own: request.of_client */
    struct line lines[WAITS];     /* waiting for a ring */
    struct list_node news;        /* requests with something to say: request.news */
    struct list_node dirty;       /* among clients with news, bytes to send, or on the way out */
    struct frame_reader reader;
    struct loop_op recv, send;
    struct bytes out, sending;
    uint64_t send_since_ns;       /* what `sending` holds has waited since then */
};

/* See states.c for what may follow what. */
enum request_state {
    REQUEST_NEW,      /* waits for room in the text ring */
    REQUEST_ENCODING, /* at the text worker */
    REQUEST_QUEUED,   /* ids known; waits for the workers and for room in the request ring */
    REQUEST_RUNNING,  /* at rank 0 */
    REQUEST_PARKED,   /* its client does not read: rank 0 has let go of it */
    REQUEST_ENDED,    /* its end is told, or waits for the client to read, or is kept */
    REQUEST_STATES,
};

/* One of the answers to a request. Its text is made twice: of all ids that are known, where stop texts
 * have to be found, and of those that the client was told. */
enum answer_view { ANSWER_KNOWN, ANSWER_TOLD, ANSWER_VIEWS };
struct answer {
    int32_t *ids;                /* [n_ids] produced */
    struct token_logprob *logprobs; /* [n_ids, request_logprobs()] */
    uint32_t n_ids, room, n_sent;
    uint32_t n_before;           /* produced before rank 0 took it over the last time */
    struct stream_decoder decoders[ANSWER_VIEWS];
    struct stop_scan *scans;     /* [ANSWER_VIEWS]; NULL: there are no stop texts */
    bool running;                /* at rank 0 */
    bool stopped, withdrawn;     /* a stop text came: rank 0 is to let go of it; was told so */
    bool ended, told;            /* told: its DONE was sent */
    enum quern_finish finish;    /* ended: */
    enum stop_kind stop_kind;
    int32_t stop;                /* STOP_ID: it; STOP_TEXT: its index */
    uint32_t output_tokens;
};

/* The journal's entry. */
struct request {
    struct client *client;       /* whose it is; sv->nobody: it hung up */
    struct list_node of_client, encoding, news, withdrawn, kept;
    struct heap_node waits;      /* in its client's line for that: */
    enum waits_for waits_in;
    int64_t place;               /* in it, among those of its priority */
    uint64_t id;                 /* ours: an index into the table, and a serial number */
    uint64_t number;             /* the client's */
    uint64_t key;
    enum request_state state;
    enum submit_task task;
    enum prompt_kind prompt;
    struct params params;        /* its lists lie in: */
    void *params_mem;
    bool cancelled;              /* the client does not want it any more */
    bool parking;                /* rank 0 shall let go of it */
    bool accepted, pause_told;
    uint8_t encodings;
    uint32_t restarts;
    struct bytes data;           /* text or messages, until it is encoded */
    size_t prompt_bytes;         /* as it came: what it counts in the limits */
    int32_t *ids;                /* [n_ids] the prompt */
    uint32_t n_ids;
    int32_t *bad_ids;            /* [n_bad_ids] runs of the bad words, a count before each */
    uint32_t n_bad_ids;
    struct token_logprob *scores; /* [n_scored, request_scores()] of the prompt's ids; the first is
                                   * nobody's */
    uint32_t n_scored, n_prompt_sent;
    struct stream_decoder prompt_decoder; /* has seen ids[0, n_prompt_sent) */
    struct stop_texts *stops;
    struct answer *answers;      /* [n_answers] */
    uint32_t n_answers, n_running;
    struct bytes rows;           /* EMBED, LOGITS: f32 rows [rows_sent, n) that wait for the client */
    size_t rows_sent;
    uint32_t n_values;           /* rows that have come */
    enum quern_code code;        /* ended with an error: */
    char *line;
    uint64_t arrived_ns, first_ns, ended_ns, keep_until_ns;
};

enum child_kind { CHILD_RANK, CHILD_TEXT };
enum child_state { CHILD_ABSENT, CHILD_RUNNING, CHILD_ENDING, CHILD_STATES };
struct child {
    struct supervisor *sv;
    enum child_kind kind;
    enum child_state state;
    int rank;
    pid_t pid;
    int pidfd;
    struct loop_op op;
};

enum supervisor_state {
    SUPERVISOR_LOADING,
    SUPERVISOR_SERVING,
    SUPERVISOR_RESTARTING, /* ranks died: their peers end, then the next generation loads */
    SUPERVISOR_STOPPING,   /* told to: children end in good order, then are killed */
    SUPERVISOR_FAILED,     /* a death that is not mended: clients are told, then it ends */
    SUPERVISOR_ENDED,
    SUPERVISOR_STATES,
};

struct supervisor_options {
    struct runtime_config config;
    const char *socket_path; /* NULL: none */
    int private_fd;          /* a connected client whose end is ours; -1: none */
    int parent_fd;           /* pidfd of the program it is private to; -1: none */
    const char *loop;        /* NULL, "uring" or "epoll" */
    void (*ready)(const char *socket_path); /* called once requests are answered; NULL: nobody */
};

/* When children of one kind died, for "more than so many in a minute". */
enum { DEATHS_KEPT = 1024 };
struct deaths {
    uint64_t at_ns[DEATHS_KEPT];
    uint32_t n;
};

struct supervisor {
    enum supervisor_state state;
    struct runtime_config config;
    struct loop *loop;
    int bell_fd;             /* eventfd: all children ring here */
    uint64_t instance;       /* random: names this server */

    struct shared shared;    /* of this generation of ranks */
    uint32_t generation, condemned; /* condemned: that generation is being ended */
    struct child ranks[MAX_RANKS];
    struct deaths rank_deaths;
    struct model_facts facts; /* a checked copy; vocab 0: not known yet */
    struct stats_copy counted; /* by generations before this one */
    uint64_t shown_loaded, load_since_ns;
    char pause_line[LOG_LINE_BYTES]; /* why it restarts */

    struct text_shared text;
    uint32_t text_generation;
    struct child text_child;
    struct deaths text_deaths;
    bool text_ready;
    char text_line[LOG_LINE_BYTES]; /* why it is being ended; "": it is not */
    struct segment vocab_segment;
    struct vocab_table vocab;

    char failure[LOG_LINE_BYTES];
    enum quern_code failure_code;
    bool untold;             /* connections have not heard of it yet */

    void (*ready)(const char *socket_path);
    const char *socket_path; /* NULL until it is ours */
    dev_t socket_dev;        /* which file it is: by now another server's may be there */
    ino_t socket_ino;
    int lock_fd, listen_fd, signal_fd, private_fd, parent_fd;
    int spare_fd;            /* given up for a connection that is then refused: listen.c */
    bool full;               /* no connection could be served since that was told */
    uint64_t accept_at_ns;   /* when to try again; UINT64_MAX: it is not needed */
    struct loop_op accept, signal, bell, timer, watch, parent;
    uint64_t watch_at_ns;    /* when `watch` fires; 0: it does not */
    uint64_t watch_next_ns;  /* when something watched is over; UINT64_MAX: nothing is watched */
    bool watch_new;          /* something new is to be watched */

    struct client *nobody;
    struct list_node clients, dirty;
    struct heap turns[WAITS]; /* of lines */
    int64_t places;           /* given so far */
    size_t partial_bytes;    /* in all readers */
    uint32_t n_clients, most_clients; /* most: since memory was given back last */

    struct request **table;  /* [table_room], by the low bits of an id */
    uint32_t *free_places;   /* [n_free_places] of the table */
    uint32_t table_room, n_free_places, n_requests, n_running;
    uint32_t n_in_state[REQUEST_STATES]; /* of the n_requests */
    uint32_t n_running_at[PRIORITY_MOST - PRIORITY_LEAST + 1]; /* of those that run, by priority */
    size_t prompt_bytes, kept_bytes;
    uint64_t serial;
    struct hash_map keys;
    bool queued;             /* something was put into a queue since the rings were filled last */
    struct list_node withdrawn, encoding, kept; /* kept: in the order of keep_until_ns */
    uint64_t progress_seen, progress_since_ns; /* the step clock: watch.c */
    uint64_t text_since_ns;  /* the text worker has answered nothing since */
};

/* Runs until told to stop or until the workers are dead and not mended. OK: ended in good order.
 * Otherwise log_last_error() says why. What a client did wrong is logged, too, on its way into a
 * frame: the caller's sink drops errors meanwhile. DEAD: a private client has been told. */
enum status supervisor_run(const struct supervisor_options *options);

/* Every request and connection ends with this, then the supervisor does. */
void supervisor_fail(struct supervisor *sv, enum quern_code code, const char *why);
/* The first time in good order, the second time at once. */
void supervisor_stop(struct supervisor *sv);

/* states.c: the tables of transitions. One that is not allowed ends the supervisor. */
void supervisor_move(struct supervisor *sv, enum supervisor_state to);
void child_move(struct child *c, enum child_state to);
void request_move(struct request *r, enum request_state to);
/* One more, or one less, as it is. */
void request_count(struct supervisor *sv, const struct request *r, int more);

/* bytes.c */
/* Room for n more; who writes there counts them himself. */
enum status bytes_reserve(struct bytes *b, size_t n);
enum status bytes_add(struct bytes *b, const void *more, size_t n);
void bytes_free(struct bytes *b);

/* children.c */
enum status child_start(struct child *c);
void child_kill(struct child *c);
/* "rank 1 (process 123)" */
const char *child_name(const struct child *c, char text[64]);
/* Kills all and waits: nothing of them is left after it, but one that cannot be ended. */
void children_end(struct supervisor *sv);
/* Stages and progress, after a bell. */
void children_look(struct supervisor *sv);
void child_died(struct child *c, const char *why); /* restart.c */

/* restart.c */
enum status ranks_start(struct supervisor *sv);
enum status text_start(struct supervisor *sv);
/* The ranks are done for; the line says why. */
void ranks_fail(struct supervisor *sv, const char *line);
void text_fail(struct supervisor *sv, const char *line);
/* A rank's pidfd completed. */
void rank_ended(struct supervisor *sv, const char *line);
/* All ranks of this generation are ready. */
void ranks_ready(struct supervisor *sv);
int ranks_alive(const struct supervisor *sv);

/* watch.c: one timer for all that may not take too long. */
void watch_update(struct supervisor *sv);

/* listen.c */
/* INVALID: the path cannot be, or another server listens there. */
enum status socket_listen(struct supervisor *sv, const char *path);
void socket_close(struct supervisor *sv);
/* A descriptor was closed, or it is time to try again. */
void socket_accept_again(struct supervisor *sv);

/* clients.c */
enum status clients_open(struct supervisor *sv);
void clients_close(struct supervisor *sv);
enum status client_add(struct supervisor *sv, int fd);
/* It is greeted, told the line and let go. */
enum status client_refuse(struct supervisor *sv, int fd, enum quern_code code, const char *line);
void client_frame(struct client *c, enum frame_type type, uint64_t id, const void *fixed,
    size_t fixed_bytes, const void *more, size_t more_bytes);
void client_error(struct client *c, uint64_t id, enum quern_code code, const char *line);
/* Room for `bytes` of a frame that is written in place; NULL: the client is let go. */
char *client_room(struct client *c, size_t bytes);
/* Bytes that wait for its socket. */
size_t client_waiting(const struct client *c);
void client_touch(struct client *c);
/* It does not read: dropped. */
void client_let_go(struct client *c, const char *why);
/* Sends what has gathered; frees clients that have left. Once a turn. */
void clients_flush(struct supervisor *sv);
void clients_tell(struct supervisor *sv, enum frame_type type, const void *fixed, size_t bytes,
    const void *more, size_t more_bytes);
void clients_tell_ready(struct supervisor *sv);
void clients_tell_error(struct supervisor *sv, enum quern_code code, const char *line);

/* submit.c: frames of a client that are about requests. */
void take_submit(struct client *c, const struct frame_header *h, const void *payload);
void take_cancel(struct client *c, uint64_t number);
void take_resume(struct client *c, const struct frame_header *h, const void *payload);
/* The number is free, and the server answers; false: the client is told why not. */
bool may_ask(struct client *c, uint64_t number);

/* figures.c */
void take_ask_stats(struct client *c, const struct frame_header *h, const void *payload);
/* The ranks have ended, and their segment is about to be closed. */
void figures_take_over(struct supervisor *sv);

/* requests.c: the journal. */
void requests_init(struct supervisor *sv);
void requests_free(struct supervisor *sv);
/* Into the table, under its key, to its client and its queue. NOMEM: too much is under way. */
enum status request_place(struct supervisor *sv, struct client *c, struct request *r,
    enum quern_code *code);
void request_free(struct supervisor *sv, struct request *r);
struct request *request_find(struct supervisor *sv, uint64_t id);
/* Changes hands; its number there is `number`. */
enum status request_give(struct request *r, struct client *to, uint64_t number);
/* All answers that have not ended. */
void request_finish(struct request *r, enum quern_finish finish);
void request_fail(struct request *r, enum quern_code code, const char *line);
/* With its answers' ends, or the code and line that it has already. */
void request_end(struct request *r);
/* The client does not want it any more. */
void request_stop(struct request *r);
/* The client is gone: its requests end, or are kept for a while. */
void requests_orphan(struct client *c);
void requests_fail_all(struct supervisor *sv, enum quern_code code, const char *line);
/* Rank 0 shall hear that it is to let go of it. */
void request_withdraw(struct request *r);
/* Rank 0 has. Goes on by itself once its client has read. */
void request_park(struct request *r);
/* Somebody wants it again, or it goes. */
void request_unkeep(struct request *r);
/* Its end was told to the client: kept for a while, or freed. */
void request_release(struct request *r);
/* Those whose time is over. */
void requests_expire(struct supervisor *sv, uint64_t now_ns);
uint64_t random_u64(void);

/* turns.c */
void turns_init(struct supervisor *sv);
void lines_init(struct client *c);
/* Into the line of its state, behind or before the others of its priority. */
void request_queue(struct request *r, bool first);
/* Out of it, if it is in one. */
void request_unqueue(struct request *r);
/* The next in turn, not taken out; NULL: none. */
struct request *turn_first(struct supervisor *sv, enum waits_for what);
/* That one has had its client's turn. */
void turn_taken(struct request *r);
/* answers.c */
/* Of each id, and of each of the prompt's: what it is told with. 0: nothing is. */
static inline uint32_t request_logprobs(const struct request *r)
{
    return r->task == TASK_COMPLETE && params_has(&r->params, PARAM_LOGPROBS) ? 1 + r->params.logprobs
                                                                              : 0;
}
static inline uint32_t request_scores(const struct request *r)
{
    return r->task == TASK_COMPLETE && params_has(&r->params, PARAM_PROMPT_LOGPROBS)
               ? 1 + r->params.prompt_logprobs
               : 0;
}
/* Its prompt is told, before an answer. */
static inline bool request_echoes(const struct request *r)
{
    return r->task == TASK_COMPLETE && (r->params.echo || params_has(&r->params, PARAM_PROMPT_LOGPROBS));
}
/* r->params is there. NOMEM (logged): answers_free() is needed nevertheless. */
enum status answers_open(struct request *r);
void answers_free(struct request *r);
size_t answers_bytes(const struct request *r);
bool answers_ended(const struct request *r);
/* So many more of them are at rank 0. */
void answers_count(struct request *r, int more);
/* What rank 0 tells of one. logprobs: request_logprobs() of them, or request_scores(). */
void answer_take_id(struct request *r, struct answer *a, int32_t id,
    const struct token_logprob *logprobs);
void answer_take_score(struct request *r, uint32_t position, const struct token_logprob *logprobs);
void answer_take_done(struct request *r, struct answer *a, const struct token_msg *m);
void answer_take_broken(struct request *r, struct answer *a, enum quern_code code, const char *line);
void answer_end(struct request *r, struct answer *a, enum quern_finish finish,
    uint32_t output_tokens);
/* The ranks are gone. */
void answers_take_back(struct request *r);
/* Text that ids[from, from + n) complete, which has room for answer_text_room() of them; views go on
 * from where they were. */
size_t answer_text(const struct request *r, struct answer *a, enum answer_view view, uint32_t from,
    uint32_t n, char *out);
size_t answer_text_room(const struct supervisor *sv, const int32_t *ids, uint32_t n);
/* What is left behind the last id, as told; room for answer_text_room() of none. */
size_t answer_text_end(const struct request *r, struct answer *a, char *out);
/* It was told up to there. */
void answer_rewind(struct request *r, struct answer *a, uint32_t after);

/* Ends it with this when rank 0 has let go of all of it. */
void request_give_up(struct request *r, enum quern_code code, const char *line);

/* values.c: of EMBED and LOGITS */
static inline bool wants_values(const struct request *r)
{
    return r->task == TASK_EMBED || r->task == TASK_LOGITS;
}
uint32_t values_columns(const struct request *r);
/* Rows in all. */
uint32_t values_wanted(const struct request *r);
/* All columns of a row: a hidden state, or the logits of a position; not aligned. */
void request_take_values(struct request *r, uint32_t position, const void *row, size_t bytes);
bool values_waiting(const struct request *r);
/* False: the socket takes no more. */
bool send_values(struct request *r);

/* text_link.c, rank_link.c */
enum status text_take_replies(struct supervisor *sv);
void text_push(struct supervisor *sv);
enum status ranks_take_tokens(struct supervisor *sv);
void ranks_push(struct supervisor *sv);

/* news.c */
void request_has_news(struct request *r);
void request_accept(struct request *r); /* ACCEPTED, once its ids are known */
void request_tell_pause(struct request *r, bool paused, const char *line);
/* All that one client may be told now. */
void client_send_news(struct client *c);
/* It is told again, but for the first `after` ids of its first answer. */
void request_skip(struct request *r, uint64_t after);

#endif
