/* shared.h - the memory and messages that a supervisor and its ranks share.
 *
 * One segment (a sealed memfd) per generation of the ranks, made by the
 * supervisor: a control page, the request ring and the token ring, each with its
 * bytes, and everybody's doorbells. The plan ring and the symmetric heap depend on the
 * model, which the supervisor never reads: they lie in a second memfd, sized
 * and sealed by rank 0 before the first rendezvous (worker/). Options are in a
 * page of their own that nobody can write to (config_page.h).
 *
 *   supervisor --request ring--> rank 0 --plan ring--> ranks 1..n-1
 *   supervisor <--token ring---- rank 0
 *
 * Ownership: the supervisor creates and unmaps; it never waits on anything in
 * here but through its doorbell. Each field names its writer. What lies where
 * follows from the number of ranks, so no offset is read from the memory.
 * Trust: a rank may have died at any point of any write. The supervisor copies
 * each message and each number once, and checks its copy.
 * Death: see proc.h; whoever finds the abort word set ends. */
#ifndef QUERN_MSG_SHARED_H
#define QUERN_MSG_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ipc/doorbell.h"
#include "ipc/rendezvous.h"
#include "ipc/proc.h"
#include "ipc/ring.h"
#include "ipc/ring_buffer.h"
#include "ipc/segment.h"
#include "msg/config_page.h"
#include "msg/fd_list.h"
#include "msg/member.h"
#include "msg/stats.h"
#include "quern/plan.h"

enum {
    SHARED_MAGIC = 0x32717267, /* "grq2" */
    REQUEST_SLOTS = 64,
    TOKEN_SLOTS = 1024,
    RING_BUFFER_BYTES = 64 << 20, /* of each; pages are taken when touched */
};

/* What rank 0 found in the model. Writer: rank 0, before STAGE_READY. */
struct model_facts {
    uint32_t vocab, max_model_len, max_seqs;
    uint32_t hidden; /* numbers of a hidden state */
    uint32_t width;  /* logits of a position: vocab, or the labels of a model that scores */
    uint32_t reserved;
    uint64_t fingerprint; /* of what an answer's bits depend on, beside weights and request: frame.h */
    struct sampling defaults; /* generation_config.json; seed and choice unused */
};

struct shared_control {
    uint32_t magic, generation; /* writer: the supervisor, before any child */
    struct model_facts facts;
    _Alignas(64) _Atomic uint32_t abort_word; /* supervisor, or a member that fails; 0 -> 1 */
    struct member ranks[MAX_RANKS];
    _Alignas(64) struct stats stats; /* writer: rank 0 */
    struct doorbell_shared supervisor_bell, rank_bells[MAX_RANKS], leader_room;
};

/* Supervisor to rank 0. */
enum request_kind {
    REQUEST_SUBMIT,
    REQUEST_CANCEL,
    REQUEST_STOP, /* all of it, in good order */
};
enum request_flag { REQUEST_IGNORE_EOS = 1, REQUEST_POOL = 2, REQUEST_LOGITS = 4 };
enum { ALL_CHOICES = UINT32_MAX };
struct request_msg {
    uint32_t generation;
    uint16_t kind, flags;
    uint64_t id;
    uint32_t choice;     /* CANCEL: it, or ALL_CHOICES */
    uint32_t n_prompt;   /* ids */
    uint32_t n_answers;  /* wanted: choices that have not ended */
    uint32_t n_stops;    /* ids that end an answer */
    uint32_t max_tokens; /* of each answer, with what it has already */
    uint32_t guesses;    /* in a step */
    uint32_t score, score_from; /* as in struct engine_request, of choice 0 */
    uint32_t last;       /* with REQUEST_LOGITS: of so many ids */
    /* int32 words, released up to `end` once read: the prompt; for each answer its choice, how many
     * ids it has already (produced before a restart), and these; sampling's n_bias and n_bad words;
     * the stops. */
    uint32_t n_words;
    int32_t priority;
    uint64_t at, end;
    uint64_t arrived_ns; /* at the server, by the machine's monotonic clock; 0: it goes on after it
                          * stood still, and how long that took is nothing to measure */
    struct sampling sampling; /* choice and n_ends unused */
};

/* Rank 0 to supervisor, about one choice of a request. */
enum token_kind {
    TOKEN_ID,     /* with logprobs, if asked for: token_logprob, the id's and then the likeliest's */
    TOKEN_SCORED, /* the same of prompt ids */
    TOKEN_VALUES, /* f32: a hidden state, or the logits of a position */
    TOKEN_DONE,
    TOKEN_ERROR,  /* of all choices */
};
enum token_error {
    TOKEN_ERROR_NO_MEMORY,
    TOKEN_ERROR_TOO_LARGE, /* detail: KV blocks needed, there are */
    TOKEN_ERROR_LOGITS,    /* detail: the step whose logits are not finite */
};
struct token_msg {
    uint32_t generation;
    uint16_t kind, finish;  /* enum quern_finish with TOKEN_DONE */
    uint64_t id;
    uint32_t choice;
    int32_t token;          /* ID; DONE with QUERN_FINISH_STOP: the id that ended it */
    uint32_t is_eos;        /* ... and whether the model says so, and not the request */
    uint32_t position;      /* SCORED, VALUES: index of the id in the prompt */
    uint32_t output_tokens; /* with TOKEN_DONE: the end token counts */
    uint32_t error;         /* with TOKEN_ERROR: enum token_error */
    uint64_t detail[2];
    uint64_t at, end;       /* of `bytes` in token_bytes, if there are any */
    uint32_t bytes, reserved;
};

/* The shared memory as one process sees it: its ends of everything. */
struct shared {
    struct segment segment;
    struct shared_control *control;
    struct runtime_config config; /* this process's copy */
    uint32_t generation;
    struct rendezvous rendezvous;
    struct ring requests, tokens;
    struct ring_buffer request_bytes, token_bytes;
    struct doorbell supervisor_bell, rank_bells[MAX_RANKS];
    struct doorbell leader_room; /* rank 0 waits for room in the token or the plan ring: a second
                                  * word on the eventfd of rank_bells[0] (doorbell.h) */
    int step_fd;       /* memfd of plan ring and symmetric heap, filled by rank 0 */
    int config_fd;
    int death_fd;      /* children: hangs up when the supervisor is gone */
    int death_keep_fd; /* supervisor: held open; -1 in a child */
};

/* For proc_spawn(): the descriptors a child keeps; returns how many. */
int shared_fds(const struct shared *g, int fds[FD_LIST_MOST]);

/* Supervisor: makes everything; config->tp in 1..MAX_RANKS. Whatever the ranks ring for is heard
 * on `bell_fd` (an eventfd, of which it keeps a duplicate; -1: one of its own). */
enum status shared_create(const struct runtime_config *config, uint32_t generation, int bell_fd,
    struct shared *g);

/* Child: maps what its parent made. INVALID when the text or the memory is not one. */
enum status shared_join(const char *fds_text, struct shared *g);

/* Unmaps and closes. */
void shared_close(struct shared *g);

/* Sets the abort word and wakes who waits for room. */
void shared_abort(struct shared *g);
bool shared_aborted(const struct shared *g);

/* Rank `rank`'s seat. */
struct member_seat shared_seat(struct shared *g, int rank);

/* For those who lay rings out in a segment: the ring at an offset of it. */
enum status shared_ring(const struct segment *s, uint64_t offset, uint32_t generation,
    struct ring *ring);
enum status shared_ring_buffer(const struct segment *s, uint64_t offset, uint32_t generation,
    struct ring_buffer *buffer);

#endif
