/* worker.h - one rank: a device, its shard of the model, and the loop.
 *
 * worker_open() joins the others, agrees with the other ranks on the limits of
 * a plan, loads this rank's slices and meets the others again; then rank 0
 * leads (leader.c: requests in, plans out, ids back) and the others follow
 * (follower.c: plans in). A tool that needs the ranks but no requests opens
 * rank 0 itself and publishes plans of its own (worker_publish()).
 *
 * Ownership: a struct worker owns everything in it but `shared`.
 * Death: the supervisor's (the death pipe) ends every wait with STATUS_DEAD,
 * and so does the abort word, which the first rank that fails sets. */
#ifndef QUERN_WORKER_WORKER_H
#define QUERN_WORKER_WORKER_H

#include "ipc/broadcast_ring.h"
#include "ipc/symheap_shm.h"
#include "checkpoint/config.h"
#include "checkpoint/generation.h"
#include "model/qwen3.h"
#include "msg/shared.h"
#include "parallel/mesh.h"

struct worker {
    struct shared *shared;
    struct member_seat seat;
    int rank, size, threads;
    struct model_config config;
    struct generation_defaults generation;
    struct weight_source *source;
    struct tp_plan *plan;
    struct quant_scheme *scheme; /* NULL: nothing is quantised */
    const struct backend *backend;
    struct device *device;
    struct plan_limits limits;
    uint32_t max_model_len;
    struct segment step_segment;
    struct symheap heap;
    struct broadcast_ring plans;
    struct mesh mesh;
    struct qwen3 model;
    uint64_t beyond[MEMORY_KINDS]; /* bytes that the rank which needs most of a kind takes beyond
                                    * this one */
    uint64_t memory[MEMORY_KINDS]; /* rank 0: as planned, of the rank that needs most of a kind */
    struct executable *executable;
    uint64_t submitted, finished; /* steps: numbers below these */
};

/* quern worker RANK FDS: an exit status for main(). */
int worker_main(int argc, char **argv);

/* The type that --kv-dtype names. */
enum dtype worker_kv_dtype(const struct runtime_config *c);

enum status worker_open(struct shared *shared, int rank, struct worker *w);
void worker_close(struct worker *w);

/* A plan for the followers and for our own device. AGAIN: wait for a step first. */
enum status worker_publish(struct worker *w, const struct plan *plan);

/* Waits for the oldest step under way. */
enum status worker_wait(struct worker *w, struct step_result *result);

enum status leader_run(struct worker *w);
enum status follower_run(struct worker *w);

/* setup.c --------------------------------------------------------------------------------- */

/* What all ranks must agree on; rank 0 decides, the rendezvous carries it. */
struct agreement {
    struct plan_limits limits;
    uint32_t max_model_len, threads;
    uint64_t config_hash; /* of the program, which each rank made of config and plan by itself */
    uint64_t region_bytes;
    uint64_t plan_bytes;
};

/* All ranks: sets w->beyond. */
enum status setup_sizes(struct worker *w);

/* What this rank would take within the options' own limits, with one KV block. */
void setup_own(struct worker *w, uint64_t bytes[MEMORY_KINDS]);

/* Shared memory of each rank; 0: it is alone. */
uint64_t setup_symmetric_bytes(struct worker *w, const struct agreement *a);

/* Rank 0: limits that the options ask for and the memory allows, for w->beyond; sets w->memory. */
enum status setup_limits(struct worker *w, struct agreement *a);

/* All ranks: the step segment, the comm, the same numbers everywhere. */
enum status setup_agree(struct worker *w, struct agreement *a);

/* fit.c ----------------------------------------------------------------------------------- */

/* How a kind is called in JSON and in words, and what makes it smaller. */
struct memory_row {
    const char *key, *name, *takes, *smaller;
};
extern const struct memory_row memory_rows[MEMORY_KINDS];

/* "weights 1.2 GB, buffers 52.3 MB, ...", of so many ranks alike; returns text. */
enum { MEMORY_LIST = 256 };
const char *memory_list(const uint64_t bytes[MEMORY_KINDS], uint64_t ranks,
    char text[MEMORY_LIST]);
uint64_t memory_sum(const uint64_t bytes[MEMORY_KINDS]);

/* What this rank takes within a->limits. */
void memory_own(struct worker *w, const struct agreement *a, uint64_t bytes[MEMORY_KINDS]);

/* Raises w->beyond where another rank takes more than this one. */
void memory_compare(struct worker *w, const uint64_t own[MEMORY_KINDS],
    const uint64_t other[MEMORY_KINDS]);

/* Rank 0: sizes the KV cache, and the context where the options leave it open. NOMEM (logged): it
 * does not fit, and which kind is large. */
enum status memory_fit(struct worker *w, struct agreement *a);

/* memory.c -------------------------------------------------------------------------------- */

/* Bytes that could be taken now without swapping, MemAvailable. */
uint64_t memory_available(void);

/* OK when the machine can really give `bytes`. In some virtual machines memory grows with
 * use, so above memory_available() it is tried: *could is what there was. */
enum status memory_try(uint64_t bytes, uint64_t *could);

/* "16.4 GB" into text[16]; returns it. */
const char *memory_text(uint64_t bytes, char text[16]);

#endif
