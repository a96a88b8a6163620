/* shared.h - the memory and messages that a supervisor and its workers share.
 *
 * One segment (a sealed memfd) per generation of the workers, made by the
 * supervisor: a control page, the request ring with its ring buffer, the token ring,
 * the text worker's rings with theirs, and everybody's doorbells. The plan
 * ring and the symmetric heap depend on the model, which the supervisor never
 * reads: they lie in a second memfd, sized and sealed by rank 0 before the
 * first rendezvous (worker/). So does the detokenisation table, written by the
 * text worker into a third.
 *
 *   supervisor --request ring--> rank 0 --plan ring--> ranks 1..n-1
 *   supervisor <--token ring---- rank 0
 *   supervisor --text ring--> text worker --reply ring--> supervisor
 *
 * Ownership: the supervisor creates and unmaps; it never waits on anything in
 * here but through its doorbell. Each field names its writer. Death: see
 * proc.h; whoever finds the abort word set ends. */
#ifndef QUERN_MSG_SHARED_H
#define QUERN_MSG_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ipc/ring_buffer.h"
#include "ipc/doorbell.h"
#include "ipc/rendezvous.h"
#include "ipc/proc.h"
#include "ipc/ring.h"
#include "ipc/segment.h"
#include "quern/log.h"
#include "quern/plan.h"

enum {
    SHARED_MAGIC = 0x31717267, /* "grq1" */
    MAX_RANKS = 16,
    REQUEST_SLOTS = 64,
    TOKEN_SLOTS = 1024,
    TEXT_SLOTS = 64,
    RING_BUFFER_BYTES = 64 << 20, /* of each; pages are taken when touched */
    MODEL_PATH_BYTES = 4096,
};

/* What the workers run, as the command line gave it. Writer: the supervisor, before any fork. */
struct runtime_config {
    char model[MODEL_PATH_BYTES]; /* a directory or synth:NAME, already located */
    char backend[16], compute[8], kv_dtype[8];
    char quant[8], quant_head[8], quant_activations[8]; /* "": as the checkpoint is */
    char tp_plan[MODEL_PATH_BYTES], plugin[MODEL_PATH_BYTES]; /* absolute paths; "": none */
    uint32_t tp;
    uint32_t threads;            /* 0: the cores divided by the ranks */
    uint32_t max_model_len;      /* 0: the model's, as far as memory allows */
    uint32_t max_seqs, max_batched_tokens, block_size; /* 0: defaults of worker/ */
    uint64_t memory;             /* bytes for all ranks; 0: what the machine has */
    uint64_t seed;               /* of synth: weights */
    uint32_t log_level;
    uint32_t load_timeout_s;
};

enum stage { STAGE_STARTING, STAGE_LOADING, STAGE_READY, STAGE_STOPPED, STAGE_FAILED };

/* One process's standing. Writer: that process. */
struct member {
    _Alignas(64) _Atomic uint32_t stage; /* release: what it says (error, facts) is written before */
    _Atomic uint64_t loaded, total;      /* bytes of weights; relaxed: only shown */
    char error[LOG_LINE_BYTES];          /* with STAGE_FAILED */
};

/* What rank 0 found in the model. Writer: rank 0, before STAGE_READY. */
struct model_facts {
    uint32_t vocab, max_model_len;
    struct sampling defaults; /* generation_config.json; seed and choice unused */
};

struct shared_control {
    uint32_t magic, generation;
    struct runtime_config config;
    struct model_facts facts;
    _Alignas(64) _Atomic uint32_t abort_word; /* supervisor, or a member that fails; 0 -> 1 */
    struct member text;
    struct member ranks[MAX_RANKS];
    struct doorbell_shared supervisor_bell, text_bell, rank_bells[MAX_RANKS];
    struct doorbell_shared leader_room, text_room;
    /* Bytes from the segment's start. Writer: the supervisor. */
    uint64_t rendezvous_at, requests_at, request_bytes_at, tokens_at;
    uint64_t text_requests_at, text_bytes_at, text_replies_at, reply_bytes_at;
};

/* Supervisor to rank 0. */
enum request_kind { REQUEST_SUBMIT, REQUEST_CANCEL, REQUEST_STOP };
enum request_flag { REQUEST_IGNORE_EOS = 1 };
struct request_msg {
    uint32_t generation;
    uint16_t kind, flags;
    uint64_t id;
    uint32_t n_ids, max_tokens;
    uint64_t ids_at, ids_end; /* ring buffer: int32 ids; released up to ids_end once read */
    struct sampling sampling;
};

/* Rank 0 to supervisor. */
enum token_kind { TOKEN_ID, TOKEN_DONE, TOKEN_BROKEN };
struct token_msg {
    uint32_t generation;
    uint16_t kind, finish; /* enum quern_finish with TOKEN_DONE */
    uint64_t id;
    int32_t token;
    uint32_t output_tokens; /* with TOKEN_DONE: the end token counts */
    uint64_t step;          /* with TOKEN_BROKEN: its logits were not finite; the last message */
};

/* Supervisor to text worker, and back. */
enum text_kind { TEXT_ENCODE, TEXT_CHAT };
struct text_msg {
    uint32_t generation;
    uint32_t kind; /* a reply repeats it */
    uint64_t id;
    uint64_t at, end;   /* ring buffer */
    uint32_t bytes;     /* of the text, the error line or the int32 ids */
    int32_t status;     /* reply: enum status; below zero the payload is the error line */
};

/* The shared memory as one process sees it: its ends of everything. */
struct shared {
    struct segment segment;
    struct shared_control *control;
    struct rendezvous rendezvous;
    struct ring requests, tokens, text_requests, text_replies;
    struct ring_buffer request_bytes, text_bytes, reply_bytes;
    struct doorbell supervisor_bell, text_bell, rank_bells[MAX_RANKS];
    /* Room bells (doorbell.h) of rank 0, for the token and the plan ring, and of the text worker,
     * for its replies: second words on the eventfds of rank_bells[0] and text_bell. */
    struct doorbell leader_room, text_room;
    int step_fd;       /* memfd of plan ring and symmetric heap, filled by rank 0 */
    int vocab_fd;      /* memfd of the detokenisation table, filled by the text worker */
    int death_fd;      /* children: hangs up when the supervisor is gone */
    int death_keep_fd; /* supervisor: held open; -1 in a child */
};

/* The numbers a child needs, passed as one argument "3,4,5,...": shared_fds() lists them for
 * proc_spawn(), shared_fds_format() writes the argument. */
enum { SHARED_MAX_FDS = MAX_RANKS + 6, SHARED_FDS_TEXT = 12 * SHARED_MAX_FDS };
int shared_fds(const struct shared *g, int fds[SHARED_MAX_FDS]);
void shared_fds_format(const struct shared *g, char text[SHARED_FDS_TEXT]);

/* Supervisor: makes everything; config->tp in 1..MAX_RANKS. */
enum status shared_create(const struct runtime_config *config, uint32_t generation, struct shared *g);

/* Child: maps what its parent made. INVALID when the text or the memory is not one. */
enum status shared_join(const char *fds_text, struct shared *g);

/* Unmaps and closes. */
void shared_close(struct shared *g);

/* Sets the abort word and wakes who waits for room. */
void shared_abort(struct shared *g);
bool shared_aborted(const struct shared *g);

/* A member's last word: stores the line, sets FAILED and the abort word, wakes the supervisor. */
void member_fail(struct shared *g, struct member *m, const char *line);
/* Sets a stage (release) and wakes the supervisor. */
void member_stage(struct shared *g, struct member *m, enum stage stage);

/* A log sink for members: an error stays with its thread (log_last_error()), where whoever
 * must answer finds it; the rest goes to standard error unless context is not NULL (ranks
 * past 0, which would say it again). */
void member_log(void *context, enum log_level level, const char *line);

#endif
