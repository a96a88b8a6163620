/* backend.h - a device that holds memory and runs programs, one plan at a time.
 *
 * A backend is a row of a table (`cpu`; later `cuda` from its module). It is an
 * asynchronous queue: submit() returns at once, wait() says when a step is
 * done. Up to BACKEND_DEPTH steps are under way; they run in order.
 *
 * Threads: one caller thread per device. Memory is opaque to the caller, who
 * fills weights through weight_pack() and reads results from wait().
 * Failure: a step that fails (a peer died) fails wait() with that status, and
 * the device answers the same ever after. */
#ifndef QUERN_BACKEND_H
#define QUERN_BACKEND_H

#include <stdatomic.h>

#include "quern/program.h"

enum { BACKEND_DEPTH = 2 };

struct backend_options {
    int threads;         /* CPU: of the pool, >= 1 */
    int first_cpu;       /* CPU: where to pin the pool's first thread; -1: do not pin */
    const char *isa;     /* CPU: "scalar", "avx2", ...; NULL: the best there is */
    _Atomic uint64_t *progress; /* moves with every operation that is done, so that a long step can
                                 * be told from one that hangs; NULL: nobody looks */
};

/* What memory is for: it is planned by these before any is taken. */
enum memory_kind {
    MEMORY_WEIGHTS,
    MEMORY_BUFFERS,   /* what has a row for each token of a step: activations, also rounded */
    MEMORY_KV,
    MEMORY_LOGITS,    /* what has a row for each output of a step, and the results of steps */
    MEMORY_WORKSPACE, /* sequences and their block tables, copies of plans, scratch of threads */
    MEMORY_SYMMETRIC, /* what ranks share for collectives */
    MEMORY_KINDS,
};

struct device;     /* a backend's own */
struct executable; /* a program loaded on a device */

/* What a finished step has to say; valid until BACKEND_DEPTH more submits. */
struct step_result {
    uint64_t number;
    uint32_t n_outputs;
    const int32_t *ids;   /* [n_outputs]; NO_ID or BROKEN_ID where plan.h says so */
    const float *logits;  /* rank 0: [n_outputs, vocab] f32, rows of OUTPUT_LOGITS rows filled;
                           * NULL when the plan wants none */
    const float *hidden;  /* rank 0: [n_outputs, hidden] f32, rows of OUTPUT_POOLED rows filled; NULL when
                           * the plan wants none */
    const struct token_logprob *logprobs; /* rank 0: [n_outputs, LOGPROBS_MOST + 1], of outputs whose
                           * slot wants them: first of the id sampled or scored, then of the
                           * likeliest, in order; the id is BROKEN_ID where the logits are not finite.
                           * NULL when no slot wants any */
};

struct backend {
    const char *name;

    enum status (*open)(const struct backend_options *options, struct device **device);
    void (*close)(struct device *d);

    /* Which rows run: "avx2, 2 threads". */
    const char *(*describe)(struct device *d);

    /* Zeroed memory; NULL when there is none. */
    void *(*alloc)(struct device *d, size_t bytes);
    void (*release)(struct device *d, void *mem, size_t bytes);

    /* Packed size of a [n, k] matrix. */
    size_t (*weight_bytes)(struct device *d, enum weight_format format, uint32_t n, uint32_t k);

    /* Packs rows [n0, n0 + rows) of w: src [rows, w->k], f32 for WEIGHT_F32, bf16 bits for
     * WEIGHT_BF16, a byte a code for the others (INT4: 0..15). n0 is a multiple of 16, and so is
     * rows unless it reaches w->n. */
    void (*weight_pack)(struct device *d, struct weight *w, uint32_t n0, uint32_t rows,
        const void *src);

    /* A vector [n] f32 (norm weight, bias) into memory from alloc(). */
    void (*vector_write)(struct device *d, float *dst, const float *src, uint32_t n);

    /* `rows` runs of `bytes`, `src_stride` bytes apart, into memory from alloc(), where they lie
     * `dst_stride` apart: a weight's scales, zeros and groups of inputs. */
    void (*write_rows)(struct device *d, void *dst, size_t dst_stride, const void *src,
        size_t src_stride, size_t bytes, size_t rows);

    /* The most bytes that a rank of a group gives at once when ranks gather in a step (comm.h:
     * all_gather, gather_rows), where `longest` vocabulary rows lie on the rank that has most: the
     * same on every rank. The group is opened with room for them. */
    size_t (*gather_bytes)(const struct plan_limits *limits, uint32_t longest);

    /* Sets the bytes of the kinds that program_load() takes: all but weights and symmetric. */
    void (*program_bytes)(struct device *d, const struct program *p,
        uint64_t bytes[MEMORY_KINDS]);

    /* The program and its weights must outlive the executable. */
    enum status (*program_load)(struct device *d, const struct program *p,
        struct executable **executable);
    void (*program_unload)(struct executable *x);

    /* Copies the plan. AGAIN when BACKEND_DEPTH steps are under way. */
    enum status (*submit)(struct executable *x, const struct plan *plan);

    /* Blocks until step `number` is done (or failed). */
    enum status (*wait)(struct executable *x, uint64_t number, struct step_result *result);
};

extern const struct backend cpu_backend;

/* NULL and a logged error for a name there is no row for; "auto" is the best there is. */
const struct backend *backend_find(const char *name);

#endif
