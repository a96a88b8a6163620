/* quern.h - libquern: stories from a C program.
 *
 * A struct quern is a connection to one running quern: a private one that
 * quern_spawn() starts (and quern_close() ends), or a server's socket that
 * quern_connect() opens. Requests are submitted under a number; their answers
 * come as events, interleaved, through quern_next().
 *
 *     struct quern *q;
 *     struct quern_request r;
 *     struct quern_event e;
 *     uint64_t id;
 *
 *     if (quern_spawn(NULL, &q) == QUERN_OK) {
 *         quern_request_init(&r);
 *         r.text = "Once upon a time";
 *         quern_submit(q, &r, &id);
 *         while (quern_next(q, -1, &e) == QUERN_OK && e.kind != QUERN_EVENT_DONE)
 *             if (e.kind == QUERN_EVENT_TEXT)
 *                 fwrite(e.text, 1, e.text_bytes, stdout);
 *     }
 *     quern_close(q);
 *
 * Threads: one thread per struct quern at a time. The library starts none,
 * installs no signal handler and prints nothing; quern_error() says what was
 * wrong. Death: when the runtime dies, quern_next() gives QUERN_DEAD; when one
 * of its workers dies, every request ends with an event that names it. When
 * the calling process dies, a private runtime ends by itself. */
#ifndef QUERN_H
#define QUERN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QUERN_VERSION "0.1.0"

enum quern_status {
    QUERN_OK = 0,
    QUERN_AGAIN = 1,    /* the timeout passed */
    QUERN_INVALID = -1, /* bad input */
    QUERN_IO = -2,      /* the operating system refused */
    QUERN_NOMEM = -3,
    QUERN_DEAD = -4,    /* the runtime is gone */
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
    QUERN_CODE_TOO_SLOW = 8,     /* the client did not read what it asked for */
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

/* How a private runtime is started. Zero or NULL means the default, so a
 * zeroed struct is complete; set `size` to sizeof(struct quern_options). */
struct quern_options {
    size_t size;
    const char *model;      /* directory, Hugging Face cache name or synth:NAME; the storyteller */
    const char *backend;    /* "cpu", "cuda" or "auto" */
    const char *compute;    /* "bf16" (default) or "f32" */
    const char *kv_dtype;   /* "bf16" (default), "f16" or "f32" */
    const char *quant;      /* "int8", "int4" or "fp8": quantise a plain checkpoint while it loads */
    const char *quant_head; /* "int8" (default with quant) or "none" */
    const char *quant_activations; /* inputs of quantised layers: "auto", "none" or "dynamic" */
    const char *tp_plan;    /* a JSON file of patterns and shard strategies; Qwen3's own */
    const char *plugin;     /* a module with strategies of your own (quern/plugin.h) */
    const char *executable; /* the quern program; found beside the library or on PATH */
    const char *log_level;  /* "error", "warn" (default), "info", "debug" */
    int tp;                 /* ranks that share the model */
    int threads;            /* per rank; the cores divided by the ranks */
    int max_model_len;      /* tokens, prompt and answer */
    int max_seqs;           /* sequences at once */
    int max_batched_tokens; /* tokens in one step */
    int block_size;         /* tokens in a KV block */
    uint64_t memory;        /* bytes that all ranks together may take */
    uint64_t seed;          /* of synth: weights */
};

/* What to complete. quern_request_init() sets every field to "the model's
 * default"; give one of text, ids, messages. Nothing is kept after
 * quern_submit() returns. */
struct quern_request {
    const char *text;       /* raw UTF-8, no template */
    size_t text_bytes;      /* 0: text ends with NUL */
    const int32_t *ids;     /* or token ids */
    size_t n_ids;
    const char *messages;   /* or a JSON object {messages, tools, enable_thinking, ...} for the
                             * model's chat template, NUL-terminated */
    int max_tokens;         /* 0: 256 */
    float temperature;      /* < 0: the model's; 0: greedy */
    float top_p, min_p;     /* < 0: the model's */
    int top_k;              /* < 0: the model's; 0: off */
    uint64_t seed;          /* used when has_seed; otherwise drawn once */
    int has_seed;
    int ignore_eos;
};

enum quern_event_kind {
    QUERN_EVENT_LOADING, /* progress of the weights, 0 to 1 */
    QUERN_EVENT_READY,   /* the model is loaded */
    QUERN_EVENT_TEXT,    /* new ids, and the whole characters they complete */
    QUERN_EVENT_DONE,    /* last event of a request */
    QUERN_EVENT_ERROR,   /* last event of a request, or of all when id is 0 */
};

enum quern_finish {
    QUERN_FINISH_STOP,      /* an end token */
    QUERN_FINISH_LENGTH,    /* max_tokens, or the context is full */
    QUERN_FINISH_CANCELLED,
};

struct quern_event {
    enum quern_event_kind kind;
    uint64_t id;          /* of the request; 0 for LOADING, READY */
    const char *text;     /* TEXT: UTF-8, special tokens left out; ERROR: what happened.
                           * NUL-terminated, lent until the next call on this quern */
    size_t text_bytes;
    const int32_t *ids;   /* TEXT: new ids, special ones included, the end token not */
    size_t n_ids;
    float progress;       /* LOADING */
    enum quern_finish finish;       /* DONE */
    uint32_t prompt_tokens, output_tokens; /* DONE; the end token counts */
    double first_token_s, total_s;  /* DONE: seconds from the request's arrival */
};

/* Starts a private runtime. options may be NULL. It loads in the background:
 * a request may be submitted at once. *out is set even on failure (so that
 * quern_error() can say why) unless memory ran out, when it is NULL. */
int quern_spawn(const struct quern_options *options, struct quern **out);

/* Opens the socket of `quern serve --socket PATH`. *out as with quern_spawn(). */
int quern_connect(const char *socket_path, struct quern **out);

void quern_request_init(struct quern_request *r);

/* Sends a request; *id is its number, > 0. */
int quern_submit(struct quern *q, const struct quern_request *r, uint64_t *id);

/* The next event of any request. Waits at most timeout_ms (-1: for ever);
 * QUERN_AGAIN when it passed. Also QUERN_AGAIN when a signal handler ran. */
int quern_next(struct quern *q, int timeout_ms, struct quern_event *event);

/* Ends a request early; its DONE event still comes. */
int quern_cancel(struct quern *q, uint64_t id);

/* For poll(2): readable when quern_next() may have something. */
int quern_fd(const struct quern *q);

/* One line on the last failure; "" when there was none. */
const char *quern_error(const struct quern *q);

/* Closes the connection; a private runtime ends, and is waited for. NULL is allowed. */
void quern_close(struct quern *q);

const char *quern_version(void);

#ifdef __cplusplus
}
#endif

#endif
