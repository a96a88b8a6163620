/* frame.h - the socket protocol, as docs/protocol.md tells it.
 *
 * A connection carries frames both ways: a 16-byte header, then `bytes` of
 * payload, little-endian, laid out as the structs here. Both ends are on one
 * machine. The server speaks first (HELLO). A frame that breaks the rules ends
 * its connection with an ERROR for id 0 and harms no other.
 *
 * Growth: a payload begins with a fixed part, whose first field says how long
 * it is as its sender knows it; what varies (ids, text, parameters) begins
 * behind that. A longer fixed part than ours is one of a later version: a
 * server refuses it where what it does not know is not zero, a client skips
 * it. A shorter one is completed with zeros, which always mean "as before".
 * Fields are only ever appended, and numbers never used again.
 *
 * Reading: struct frame_reader gathers bytes as they come and gives whole
 * frames; it allocates once a frame is larger than its buffer. */
#ifndef QUERN_MSG_FRAME_H
#define QUERN_MSG_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

enum { PROTOCOL_VERSION = 1, FRAME_MAX_BYTES = 16 << 20 };

enum frame_type {
    /* client to server */
    FRAME_SUBMIT = 1, /* frame_submit, its parameters (params.h), the prompt */
    FRAME_CANCEL = 2, /* no payload */
    FRAME_RESUME = 3, /* frame_resume: what a request of this or another connection still tells
                       * comes to this one, as request `id` */
    FRAME_ASK_STATS = 4, /* frame_ask_stats */

    /* server to client */
    FRAME_HELLO = 64,    /* frame_hello, the server's version as text */
    FRAME_LOADING = 65,  /* frame_loading */
    FRAME_READY = 66,    /* frame_ready, the model's name */
    FRAME_TOKENS = 67,   /* frame_tokens, ids, text, logprobs */
    FRAME_DONE = 68,     /* frame_done */
    FRAME_ERROR = 69,    /* frame_error, a line of text */
    FRAME_ACCEPTED = 70, /* frame_accepted */
    FRAME_PAUSED = 71,   /* frame_paused, a line of text */
    FRAME_PROMPT = 72,   /* frame_tokens, ids, text, logprobs, of the prompt */
    FRAME_VALUES = 74,   /* frame_values, f32s */
    FRAME_STATS = 73,    /* frame_stats, a JSON object */
};

struct frame_header {
    uint32_t bytes; /* of the payload */
    uint16_t type;
    uint16_t flags; /* 0: others are refused */
    uint64_t id;    /* the client's number of the request; 0: the connection */
};

/* What is wanted. */
enum submit_task {
    TASK_COMPLETE, /* an answer */
    TASK_TOKENIZE, /* the prompt's ids, in TOKENS; nothing is computed */
    TASK_EMBED,    /* the final hidden state of the prompt's last id, in VALUES */
    TASK_LOGITS,   /* the logits behind its last ids, in VALUES */
};

/* What the prompt is. */
enum prompt_kind {
    PROMPT_TEXT, /* UTF-8, no template */
    PROMPT_IDS,  /* int32 ids */
    PROMPT_CHAT, /* a JSON object for the chat template */
};

struct frame_submit {
    uint32_t fixed;        /* sizeof(struct frame_submit), as in all below */
    uint32_t task;         /* enum submit_task */
    uint32_t prompt;       /* enum prompt_kind */
    uint32_t flags;        /* 0 */
    uint32_t params_bytes; /* of parameters, behind the fixed part */
    uint32_t prompt_bytes; /* of the prompt, behind them: the payload's rest */
};

struct frame_resume {
    uint32_t fixed;
    uint32_t flags; /* 0 */
    uint64_t key;   /* of the request, as ACCEPTED told it or SUBMIT gave it */
    uint64_t after; /* ids of choice 0 that the client has already */
};

struct frame_ask_stats {
    uint32_t fixed;
    uint32_t flags; /* 0 */
};

struct frame_hello {
    uint32_t fixed;
    uint32_t protocol;
    uint32_t generation; /* of the workers */
    uint32_t reserved;
    uint64_t instance;   /* another server has another: keys of the old one mean nothing */
};

struct frame_loading {
    uint32_t fixed;
    uint32_t reserved;
    uint64_t loaded, total; /* bytes, over all ranks */
};

struct frame_ready {
    uint32_t fixed;
    uint32_t vocab, max_model_len;
    uint32_t generation;
    uint64_t fingerprint; /* servers of the same weights and fingerprint give the same answers: of
                           * version, instruction set, ranks, plan and types; 0: not known */
};

struct frame_accepted {
    uint32_t fixed;
    uint32_t prompt_tokens;
    uint64_t key;  /* names the request on every connection */
    uint64_t seed; /* given or drawn */
};

struct frame_tokens {
    uint32_t fixed;
    uint32_t choice; /* which of n answers */
    uint64_t after;  /* ids of this choice before these */
    uint32_t n_ids;
    uint32_t text_bytes;
    uint32_t logprobs_bytes; /* 0 unless asked for: for each id {i32 id, f32 logprob}, its own and
                              * then as many of the likeliest */
    uint32_t reserved;
};

struct frame_values {
    uint32_t fixed;
    uint32_t columns;  /* numbers that follow */
    uint64_t position; /* of the prompt's ids */
};

struct frame_done {
    uint32_t fixed;
    uint32_t finish; /* enum quern_finish */
    uint32_t choice;
    uint32_t more;   /* choices of this request that go on; 0: its last frame */
    uint32_t prompt_tokens, output_tokens;
    uint32_t restarts; /* how often workers were started anew under it */
    uint32_t reserved;
    uint64_t first_token_ns, total_ns; /* from the request's arrival */
    uint32_t stop_kind; /* with QUERN_FINISH_STOP: enum stop_kind */
    int32_t stop;       /* the id, or the index of the text in PARAM_STOP */
};
enum stop_kind { STOP_EOS, STOP_ID, STOP_TEXT };

struct frame_error {
    uint32_t fixed;
    uint32_t code;  /* enum quern_code */
    uint32_t fault; /* enum frame_fault */
    uint32_t retry; /* 1: the same request may go well later */
};
enum frame_fault { FAULT_CALLER, FAULT_SERVER };

struct frame_paused {
    uint32_t fixed;
    uint32_t paused;     /* 1: workers died and are started anew; 0: it goes on */
    uint32_t generation; /* of the workers, that go on */
    uint32_t reserved;
};

/* The only frame for its number. */
struct frame_stats {
    uint32_t fixed;
    uint32_t reserved;
};

/* The smallest fixed parts: those of the first version, for ever. */
enum {
    SUBMIT_LEAST = 24,
    RESUME_LEAST = 24,
    ASK_STATS_LEAST = 8,
    HELLO_LEAST = 24,
    LOADING_LEAST = 24,
    READY_LEAST = 16,
    ACCEPTED_LEAST = 24,
    TOKENS_LEAST = 32,
    VALUES_LEAST = 16,
    DONE_LEAST = 48,
    ERROR_LEAST = 16,
    PAUSED_LEAST = 16,
    STATS_LEAST = 8,
};

/* Whose fault a code of ERROR is, and whether one may try again; of a code that is unknown:
 * the server's, no. */
struct frame_error frame_error_of(uint32_t code);

struct frame_reader {
    unsigned char *mem;
    size_t room, start, end; /* bytes [start, end) are not consumed yet */
};

/* Memory is taken with the first bytes. */
void frame_reader_init(struct frame_reader *r);
void frame_reader_free(struct frame_reader *r);

/* Adds bytes; NOMEM (logged). */
enum status frame_reader_feed(struct frame_reader *r, const void *bytes, size_t n);

/* OK with the next whole frame, lent until the next feed; AGAIN when it is not
 * whole yet (a large buffer that holds nothing is given back then); INVALID
 * (logged) when its length is over FRAME_MAX_BYTES or it has flags. */
enum status frame_reader_next(struct frame_reader *r, struct frame_header *header,
    const void **payload);

/* frame_reader_next() would not say AGAIN. */
bool frame_reader_ready(const struct frame_reader *r);

/* The fixed part of a payload into `out` [bytes], `least` of which every version has; zeros for
 * what the sender does not know. *rest, *rest_bytes: what follows it. INVALID (logged) when its
 * length cannot be. */
enum status frame_fixed(const struct frame_header *h, const void *payload, void *out, size_t bytes,
    size_t least, const void **rest, size_t *rest_bytes);

/* The same for a server: UNKNOWN (logged) where the sender says something that this version
 * does not know. */
enum status frame_fixed_known(const struct frame_header *h, const void *payload, void *out,
    size_t bytes, size_t least, const void **rest, size_t *rest_bytes);

#endif
