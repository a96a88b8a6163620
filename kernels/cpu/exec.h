/* exec.h - a program loaded on the CPU, and a step of it under way. Private to kernels/cpu.
 *
 * Who writes what. The caller (queue.c) fills a step's place and posts it; from
 * then until the step is done the place belongs to the pool. Sequences, block
 * tables and everything that OP_BEGIN derives from the plan belong to thread 0,
 * which changes them only where the others wait (begin.c). Buffers belong to
 * whichever thread an operation gives a part of them, until the next barrier.
 *
 * An operation is a function that every thread calls and that does its own
 * thread's part. It may use pool_barrier() inside, every thread alike. */
#ifndef QUERN_KERNELS_CPU_EXEC_H
#define QUERN_KERNELS_CPU_EXEC_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/edit.h"
#include "kernels/cpu/logprobs.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/sample.h"
#include "quern/backend.h"
#include "quern/comm_ops.h"

enum {
    LIST_ROOM = 256, /* candidates that a rank shows its peers */
    NO_BLOCK = 0xff, /* each byte of a block table entry that has none: UINT32_MAX */
};

struct device {
    struct cpu_kernels kernels;
    struct pool *pool;
    char text[64]; /* describe() */
    _Atomic uint64_t *progress; /* thread 0 of a step writes; may be NULL */
};

struct sequence {
    uint32_t length;  /* tokens in the cache */
    uint32_t n_prompt;
    int32_t last_id;  /* 0 until one is sampled */
    struct sampling sampling; /* its lists: words_of() */
};

/* An output of which something is to be told: an id is sampled, or one that is known is scored. */
struct draw {
    uint32_t output, slot;
    uint32_t position; /* of the new token */
    int32_t scored;    /* NO_ID: sampled */
    uint32_t record_at; /* bytes into the rank's records */
    enum sample_mode mode; /* if sampled */
    bool edited;       /* the request changes its logits first */
    bool logprobs;
    bool whole; /* the lists were too short: gather the row */
};

/* What a rank tells its peers about its shard of one row: `pick`, or all of it with SAMPLE_LIST, if
 * an id is sampled; behind that a logprob_shard, if logprobs are told. */
struct shard_record {
    struct pick pick;
    uint32_t n, total;
    struct mass mass;
    struct candidate candidates[LIST_ROOM];
};

/* Bytes of the sampled part of a draw's record, and of all of it. */
static inline size_t sampled_bytes_of(const struct draw *d)
{
    return d->scored != NO_ID         ? 0
           : d->mode == SAMPLE_LIST ? sizeof(struct shard_record)
                                    : sizeof(struct pick);
}
static inline size_t record_bytes_of(const struct draw *d)
{
    return sampled_bytes_of(d) + (d->logprobs ? sizeof(struct logprob_shard) : 0);
}

/* Room for a rank's records of a step. */
static inline size_t records_room(const struct plan_limits *l)
{
    return l->max_outputs * (sizeof(struct shard_record) + sizeof(struct logprob_shard));
}

/* A thread's room for one row. */
struct row_scratch {
    struct sample_scratch sort; /* [vocab] */
    struct edit_scratch edit;   /* [vocab] */
    float *logits;              /* [vocab] */
    int32_t *ids;               /* [max_blocks_per_slot * block_size] */
};

/* Ids that a rank has. */
struct shard_range {
    uint32_t first, count;
};

/* One of BACKEND_DEPTH places. */
struct step {
    struct executable *x;
    bool used;
    uint32_t ticket;     /* of the pool */
    uint64_t number;
    struct plan *plan;   /* [plan_max_bytes] a copy */
    int32_t *ids;        /* [max_outputs] the result */
    float *logits;       /* [max_outputs, vocab] the result, rank 0 */
    struct token_logprob *logprobs; /* [max_outputs, LOGPROBS_MOST + 1] the result, rank 0 */
    float *hidden;       /* [max_outputs, hidden] the result, rank 0 */
    bool wants_logits, wants_hidden, has_logprobs;
    enum status *told;   /* [threads] a thread that failed says why, before the barrier */
    enum status status;  /* thread 0, at the end */
    int failed_op;
    int suspect_op;      /* finite.c: the first that is not finite, and where; -1: none was seen */
    uint32_t suspect_row;
};

struct executable {
    struct device *device;
    const struct program *program;
    struct comm *comm; /* the program's tp group; NULL: alone */
    int threads;

    void *memory, *cache; /* two mappings: buffers, logits and workspace; KV */
    size_t memory_bytes, cache_bytes;

    float *buffers[PROGRAM_MAX_BUFFERS]; /* [max rows, cols] */
    void *rounded;           /* [max rows, widest linear input] in the kernel's x type */
    uint8_t *codes;          /* [max rows, widest quantised input] */
    float *scales;           /* [max rows, most activation groups] of the codes */
    struct sequence *sequences; /* [max_slots] */
    uint32_t *tables;        /* [max_slots, max_blocks_per_slot]; UINT32_MAX: no block */
    int32_t *words;          /* [max_slots, SAMPLING_WORDS] */
    int32_t *ids;            /* [n_blocks, block_size] of the positions in the cache */
    bool *barrier_after;     /* [n_ops] */
    bool *own_rows;          /* [n_ops] it works on a sequence shard: comm_own_rows() only */

    /* Of the step that runs: OP_BEGIN writes. */
    int32_t *tokens;         /* [max_tokens] ids, none negative */
    uint32_t *positions;     /* [max_tokens] */
    const uint32_t **blocks; /* [max_tokens] */
    float *cos, *sin;        /* [max_tokens, head_dim / 2] */
    uint32_t *picked;        /* [max_outputs] token of each output */
    uint32_t *attention_from; /* [threads + 1] items: each thread's first */
    struct draw *draws;      /* [max_outputs] */
    uint32_t n_draws, record_bytes;

    /* Sampling. */
    struct row_scratch *scratch;    /* [threads] */
    char *records, *all_records;    /* [records_room()]; [size] of that */
    float *chosen, *all_chosen;     /* [max_outputs] logits of a draw's id, 0 where another rank has
                                     * it; [size] of that */
    float *shard, *shards, *row;    /* a whole row: [vocab] padded, [size, vocab], [vocab] */
    struct shard_range *shard_ranges; /* [size] asked for once */
    size_t *shard_sizes, *shard_offsets; /* [size] in bytes */
    bool ranges_known;

    struct step steps[BACKEND_DEPTH];
    uint64_t submitted;      /* caller writes */
    enum status broken;      /* caller's: what wait() answers for ever */
    enum status failed;      /* thread 0's: no step runs any more */
    bool checks_finite;      /* each operation's output is looked at */
    bool suspect_told;       /* caller's */
    char why[160];           /* thread 0 writes, when it finds the fault itself */
};

typedef enum status op_row(struct step *s, const struct op *op, int thread);

op_row op_begin, op_sample;
op_row op_norm;               /* OP_ADD_NORM and OP_REDUCE_ADD_NORM, once reduced, too */
op_row op_linear, op_amax;    /* exec_linear.c */
op_row op_all_reduce, op_max_reduce, op_reduce_scatter, op_gather_rows; /* exec_comm.c */
op_row op_gather_cols, op_slice_cols, op_slice_rows, op_reduce_add_norm;

/* Thread 0, when all operations are done: sequences take the step's tokens and ids. */
void step_commit(struct step *s);

/* pool_work: runs a step. context: struct step. */
void step_run(void *context, int thread);

/* finite.c: whether QUERN_CHECK_FINITE asks for it; a look at what operation i wrote, by thread 0
 * behind a barrier; and what was seen, told once, by the caller. */
bool finite_wanted(void);
void finite_check(struct step *s, int i);
void finite_tell(struct executable *x, const struct step *s);

static inline uint32_t *table_of(const struct executable *x, uint32_t slot)
{
    return x->tables + (size_t)slot * x->program->shape.limits.max_blocks_per_slot;
}
static inline int32_t *words_of(const struct executable *x, uint32_t slot)
{
    return x->words + (size_t)slot * SAMPLING_WORDS;
}

/* Where the id at `position` of a slot that has a block for it lies. */
static inline int32_t *id_at(const struct executable *x, uint32_t slot, uint32_t position)
{
    uint32_t block_size = x->program->shape.limits.block_size;

    return x->ids + (size_t)table_of(x, slot)[position / block_size] * block_size +
           position % block_size;
}

/* Fills own_rows and barrier_after (exec.c). */
void plan_barriers(struct executable *x);

/* The linear layer can read its input as it lies: nothing is rounded or quantised. */
bool linear_reads_in_place(const struct executable *x, const struct weight *w);

/* Values of a linear layer's rounded input: kernels read pairs. */
static inline size_t input_stride(uint32_t k)
{
    return ((size_t)k + 1) & ~(size_t)1;
}

/* Bytes of a row of codes of k inputs. */
static inline size_t code_stride(uint32_t k)
{
    return ((size_t)k + 7) & ~(size_t)7;
}

/* backend.h's gather_bytes (sample_op.c). */
size_t sample_gather_bytes(const struct plan_limits *l, uint32_t longest);

/* OK, or INVALID (logged): the group's row has no function that an operation needs, or a map of
 * columns does not fit this rank's buffer. */
enum status comm_ops_check(const struct program *p);

/* Assigns every pointer of x into its memory, in one order; with memory NULL it only counts.
 * bytes: of buffers, logits and workspace, which are set; the sum is returned. */
size_t layout_memory(struct executable *x, uint64_t bytes[MEMORY_KINDS]);
size_t cache_bytes(const struct program_shape *shape);
struct kv_view cache_view(const struct executable *x, int layer);

static inline bool is_alone(const struct executable *x)
{
    return x->comm == NULL || x->comm->size == 1;
}

/* Results are this rank's to give. */
static inline bool is_root(const struct executable *x)
{
    return is_alone(x) || x->comm->rank == 0;
}

/* Thread `thread`'s part of n items. */
struct part {
    uint32_t from, to;
};

static inline struct part part_of(uint32_t n, int thread, int threads)
{
    return (struct part){
        .from = (uint32_t)((uint64_t)n * (uint32_t)thread / (uint32_t)threads),
        .to = (uint32_t)((uint64_t)n * ((uint32_t)thread + 1) / (uint32_t)threads),
    };
}

/* Rows that a buffer has in this step. */
static inline uint32_t rows_of(const struct step *s, int buffer)
{
    return s->x->program->buffers[buffer].rows == EXTENT_TOKENS ? s->plan->n_tokens
                                                                : s->plan->n_outputs;
}

static inline uint32_t cols_of(const struct executable *x, int buffer)
{
    return x->program->buffers[buffer].cols;
}

static inline float *row_at(const struct executable *x, int buffer, uint32_t row)
{
    return x->buffers[buffer] + (size_t)row * cols_of(x, buffer);
}

/* This thread's rows of a buffer, of those that the operation works on. */
static inline struct part rows_mine(const struct step *s, const struct op *op, int buffer,
    int thread)
{
    const struct executable *x = s->x;
    struct comm_rows own = {.count = rows_of(s, buffer)};
    struct part mine;

    if (x->own_rows[op - x->program->ops])
        own = comm_own_rows(own.count, x->comm->rank, x->comm->size);
    mine = part_of((uint32_t)own.count, thread, x->threads);
    return (struct part){mine.from + (uint32_t)own.first, mine.to + (uint32_t)own.first};
}

/* backend.h's weight_bytes and weight_pack (pack.c). */
size_t pack_bytes(struct device *d, enum weight_format format, uint32_t n, uint32_t k);
void pack_rows(struct device *d, struct weight *w, uint32_t n0, uint32_t rows, const void *src);

/* Memory mapped for this process alone, zeroed, not yet there; NULL when there is none. */
void *memory_map(size_t bytes, bool huge);
void memory_unmap(void *mem, size_t bytes);

#endif
