/* frame.h - the socket protocol, as docs/protocol.md tells it.
 *
 * A connection carries frames both ways: a 16-byte header, then `bytes` of
 * payload, little-endian, laid out as the structs here. Both ends are on one
 * machine. The server speaks first (HELLO). A frame that breaks the rules ends
 * its connection with an ERROR for id 0 and harms no other.
 *
 * Reading: struct frame_reader gathers bytes as they come and gives whole
 * frames; it allocates once a frame is larger than its buffer. */
#ifndef QUERN_MSG_FRAME_H
#define QUERN_MSG_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

enum { PROTOCOL_VERSION = 1, FRAME_MAX_BYTES = 16 << 20 };

enum frame_type {
    /* client to server */
    FRAME_SUBMIT = 1, /* frame_submit, then its data */
    FRAME_CANCEL = 2, /* no payload */
    FRAME_RESUME = 3, /* frame_resume: go on with request `id` after the first `after` ids */

    /* server to client */
    FRAME_HELLO = 64,   /* frame_hello */
    FRAME_LOADING = 65, /* frame_loading */
    FRAME_READY = 66,   /* frame_ready */
    FRAME_TOKENS = 67,  /* frame_tokens, ids, text */
    FRAME_DONE = 68,    /* frame_done */
    FRAME_ERROR = 69,   /* text */
};

struct frame_header {
    uint32_t bytes; /* of the payload */
    uint16_t type;
    uint16_t flags; /* 0 */
    uint64_t id;    /* the client's number of the request; 0: the connection */
};

enum submit_kind { SUBMIT_TEXT, SUBMIT_IDS, SUBMIT_CHAT };
enum submit_flag { SUBMIT_HAS_SEED = 1, SUBMIT_IGNORE_EOS = 2 };

/* Sampling fields below zero ask for the model's default. */
struct frame_submit {
    uint32_t kind;
    uint32_t flags;
    uint32_t max_tokens; /* >= 1 */
    int32_t top_k;
    float temperature, top_p, min_p;
    uint32_t reserved;
    uint64_t seed;
};

struct frame_resume {
    uint64_t after;
};

struct frame_hello {
    uint32_t protocol;
    uint32_t generation;
};

struct frame_loading {
    uint64_t loaded, total; /* bytes, over all ranks */
};

struct frame_ready {
    uint32_t vocab, max_model_len;
};

struct frame_tokens {
    uint64_t after; /* ids sent before these */
    uint32_t n_ids;
    uint32_t text_bytes;
};

struct frame_done {
    uint32_t finish; /* enum quern_finish */
    uint32_t prompt_tokens, output_tokens;
    uint32_t reserved;
    uint64_t first_token_ns, total_ns; /* from the request's arrival */
};

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
 * whole yet; INVALID (logged) when its length is over FRAME_MAX_BYTES. */
enum status frame_reader_next(struct frame_reader *r, struct frame_header *header,
    const void **payload);

/* A payload's fixed part, checked: INVALID (logged) when it is shorter than `bytes`. */
enum status frame_fixed(const struct frame_header *h, const void *payload, void *fixed,
    size_t bytes);

#endif
