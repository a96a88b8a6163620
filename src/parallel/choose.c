/* choose.c - the leader plans, followers execute: also while measuring.
 *
 * Each turn the leader broadcasts what to run next; all run it. Only the leader
 * looks at a clock, so only it decides when the time is spent. A time is the
 * median of a few batches of calls, which the algorithms make in turn: the best
 * batch is one in which ranks happened to meet, and says how lucky an algorithm
 * can be, above all where ranks share a core and take turns. Where one was the
 * fastest in each of the first batches, or it makes no difference, there are no
 * more of them.
 *
 * An algorithm with more meetings per call must be better by a little (`margin`)
 * to displace one with fewer, which suffers less from ranks that come late. */
#include "parallel/choose.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "quern/spin.h"
#include "quern/log.h"

enum {
    LEAST_BATCHES = 4,     /* that count, after one that warms both buffers */
    CLOSE_BATCHES = 6,     /* of them, where the best two are as good */
    MOST_BATCHES = 9,
    MOST_CALLS = 16,       /* in a batch */
    MOST_BYTES = 4 << 20,  /* larger sizes behave alike */
    BATCH_BYTES = 256 << 10,
};
static const float margin = 0.95f, as_good = 1.05f;

/* One turn, as the leader broadcasts it: a batch by every algorithm. calls 0: the end. */
struct turn {
    uint32_t kind, index, batch, calls; /* batch 0 does not count */
};

/* Of the size and kind under way: microseconds a call of each batch that counts. */
struct samples {
    float us[COLL_ALGORITHMS][MOST_BATCHES];
    int n[COLL_ALGORITHMS];
};

/* What calls work on: all of MOST_BYTES at most. */
struct scratch {
    float *x, *y, *out, *w;
};

int choice_index(size_t bytes)
{
    int i = 0;

    /* 45/64 of the next size is the geometric middle: 2^-0.5 */
    while (i < CHOICE_SIZES - 1 && bytes > ((size_t)CHOICE_LEAST << (i + 1)) / 64 * 45)
        i++;
    return i;
}

static enum coll_op op_of(enum choice_kind kind)
{
    return kind == CHOICE_FUSED ? COLL_FUSED_NORM : COLL_ALL_REDUCE;
}

static bool serves(int algorithm, const struct coll_shm_options *o, enum choice_kind kind,
    size_t bytes)
{
    const struct coll_algorithm *a = coll_algorithms[algorithm];
    enum coll_op op = op_of(kind);

    return o->size >= a->min_ranks && o->size <= a->max_ranks && (a->ops & 1u << op) != 0 &&
           bytes <= a->max_bytes(o, op);
}

/* Two-shot from so many bytes on: found with `quern bench allreduce` on two cores, where ranks
 * take turns and what counts is the work of all of them together. The fused way pays earlier,
 * for its sums are read where they lie. */
static size_t twoshot_from(enum choice_kind kind, int ranks)
{
    static const size_t from[CHOICE_KINDS][3] = {
        [CHOICE_REDUCE] = {2 << 20, 128 << 10, 32 << 10}, /* 2, 3, more ranks */
        [CHOICE_FUSED] = {256 << 10, 64 << 10, 16 << 10},
    };

    return from[kind][ranks <= 2 ? 0 : ranks == 3 ? 1 : 2];
}

void choice_default(const struct coll_shm_options *o, struct choice *out)
{
    memset(out, 0, sizeof(*out));
    for (int k = 0; k < CHOICE_KINDS; k++)
        for (int i = 0; i < CHOICE_SIZES; i++) {
            size_t bytes = (size_t)CHOICE_LEAST << i;
            bool two = bytes >= twoshot_from((enum choice_kind)k, o->size) &&
                       serves(COLL_SHM_TWOSHOT, o, (enum choice_kind)k, 0);

            out->algorithm[k][i] = two ? COLL_SHM_TWOSHOT : COLL_SHM_ONESHOT;
        }
}

/* Measuring ------------------------------------------------------------------------------ */

static size_t most_bytes(const struct coll_shm_options *o)
{
    size_t all = o->reduce_floats * sizeof(float);

    return all < MOST_BYTES ? all : MOST_BYTES;
}

static enum status scratch_open(struct scratch *s, size_t bytes)
{
    char *all = calloc(4, bytes);

    if (all == NULL)
        return log_fail(STATUS_NOMEM, "no memory to measure collectives");
    s->x = (float *)(void *)all;
    s->y = s->x + bytes / sizeof(float);
    s->out = s->y + bytes / sizeof(float);
    s->w = s->out + bytes / sizeof(float);
    return STATUS_OK;
}

/* Rows of the group's width where a size is that long. */
static struct fused_norm_args fused_args(const struct scratch *s, const struct coll_shm_options *o,
    size_t floats)
{
    size_t cols = o->norm_cols > 0 && o->norm_cols <= floats ? o->norm_cols : floats;

    return (struct fused_norm_args){.out = s->out, .x = s->x, .y = s->y, .w = s->w, .eps = 1e-6f,
        .rows = floats / cols, .cols = cols};
}

/* UNSUPPORTED on every rank alike. */
static enum status run_calls(struct comm *comm, const struct scratch *s,
    const struct coll_shm_options *o, const struct turn *t, uint32_t calls)
{
    size_t floats = ((size_t)CHOICE_LEAST << t->index) / sizeof(float);
    struct fused_norm_args args = fused_args(s, o, floats);
    enum status status = STATUS_OK;

    for (uint32_t i = 0; status == STATUS_OK && i < calls; i++)
        status = t->kind == CHOICE_FUSED ? comm->row->fused_all_reduce_norm(comm, 0, 1, &args)
                                         : comm->row->all_reduce_f32(comm, 0, 1, s->y, floats);
    return status;
}

static enum status meet(struct comm *host)
{
    char all[COMM_MAX_RANKS];

    return host->row->all_gather(host, "", 1, all);
}

/* From when all ranks are there until all are through: a leader that is through first, because
 * others were not given a core, has not measured the calls. */
static enum status time_batch(struct comm *host, struct comm *comm, const struct scratch *s,
    const struct coll_shm_options *o, const struct turn *t, float *us)
{
    enum status status = run_calls(comm, s, o, t, 1); /* the caches are another algorithm's */
    uint64_t start;

    if (status == STATUS_OK)
        status = meet(host);
    start = spin_now_ns();
    if (status == STATUS_OK)
        status = run_calls(comm, s, o, t, t->calls);
    if (status == STATUS_OK)
        status = meet(host);
    *us = (float)(spin_now_ns() - start) * 1e-3f / (float)t->calls;
    return status;
}

/* All ranks: a batch by each algorithm in turn. */
static enum status take_turn(struct comm *const comms[COLL_ALGORITHMS], const struct scratch *s,
    const struct coll_shm_options *o, const struct turn *t, struct samples *samples)
{
    if (t->batch == 0)
        *samples = (struct samples){0};
    for (int a = 0; a < COLL_ALGORITHMS; a++) {
        enum status status;
        float us;

        if (comms[a] == NULL ||
            !serves(a, o, (enum choice_kind)t->kind, (size_t)CHOICE_LEAST << t->index))
            continue;
        status = time_batch(comms[COLL_SHM_ONESHOT], comms[a], s, o, t, &us);
        if (status == STATUS_OK && t->batch > 0)
            samples->us[a][samples->n[a]++] = us;
        if (status != STATUS_OK && status != STATUS_UNSUPPORTED)
            return status;
    }
    return STATUS_OK;
}

static uint32_t calls_for(size_t bytes)
{
    size_t calls = BATCH_BYTES / bytes;

    return calls < 1 ? 1 : calls > MOST_CALLS ? MOST_CALLS : (uint32_t)calls;
}

/* Was one algorithm the fastest in every batch so far? */
static bool all_batches_agree(const struct samples *s, uint32_t batches)
{
    int winner = -1;

    for (uint32_t i = 0; i < batches; i++) {
        int best = -1;

        for (int a = 0; a < COLL_ALGORITHMS; a++)
            if ((uint32_t)s->n[a] == batches && (best < 0 || s->us[a][i] < s->us[best][i]))
                best = a;
        if (winner >= 0 && best != winner)
            return false;
        winner = best;
    }
    return true;
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

float choice_median(float *us, int n)
{
    qsort(us, (size_t)n, sizeof(*us), compare_floats);
    return n % 2 == 1 ? us[n / 2] : (us[n / 2 - 1] + us[n / 2]) / 2;
}

/* 0: it has no batch. The samples stay in the order of their batches. */
static float median_of(const struct samples *s, int algorithm)
{
    float us[MOST_BATCHES];

    memcpy(us, s->us[algorithm], sizeof(us));
    return s->n[algorithm] > 0 ? choice_median(us, s->n[algorithm]) : 0;
}

/* Are the two fastest algorithms as good as each other? */
static bool best_are_alike(const struct samples *s)
{
    float best = 0, second = 0;

    for (int a = 0; a < COLL_ALGORITHMS; a++) {
        float us = median_of(s, a);

        if (us > 0 && (best <= 0 || us < best)) {
            second = best;
            best = us;
        } else if (us > 0 && (second <= 0 || us < second)) {
            second = us;
        }
    }
    return second < best * as_good;
}

static bool is_enough(const struct samples *s, const struct turn *t)
{
    return t->batch == MOST_BATCHES ||
           (t->batch >= LEAST_BATCHES && all_batches_agree(s, t->batch)) ||
           (t->batch >= CLOSE_BATCHES && best_are_alike(s));
}

static void keep_medians(const struct samples *s, const struct turn *t, struct choice *c)
{
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        c->us[t->kind][a][t->index] = median_of(s, a);
}

/* The turn behind `last`, if there is one left; with the next kind or size when `done`. */
static struct turn next_turn(const struct coll_shm_options *o, const struct turn *last, bool done)
{
    struct turn t = *last;

    t.batch = done ? 0 : last->batch + 1;
    if (t.batch == 0) {
        bool again = o->add_norm != NULL && last->kind == CHOICE_REDUCE;

        t.kind = again ? CHOICE_FUSED : CHOICE_REDUCE;
        t.index += again ? 0 : 1;
    }
    if (t.index >= CHOICE_SIZES || (size_t)CHOICE_LEAST << t.index > most_bytes(o))
        t.calls = 0;
    else
        t.calls = t.batch == 0 ? 1 : calls_for((size_t)CHOICE_LEAST << t.index);
    return t;
}

/* The leader's: what to do after `last`, which took `took` of the time spent. */
static struct turn decide(const struct coll_shm_options *o, const struct turn *last,
    const struct samples *samples, uint64_t spent, uint64_t took, uint64_t measure_ns,
    struct choice *c)
{
    bool done = is_enough(samples, last);
    struct turn t = next_turn(o, last, done);

    if (done) {
        keep_medians(samples, last, c);
        c->measured = last->index + 1;
    }
    if (t.calls > 0 && spent + took > measure_ns)
        t.calls = 0;
    return t;
}

/* Leader and followers alike; only the leader's turns count, the others' are overwritten. */
static enum status take_turns(struct comm *const comms[COLL_ALGORITHMS], const struct scratch *s,
    const struct coll_shm_options *o, uint64_t measure_ns, struct choice *c)
{
    struct comm *host = comms[COLL_SHM_ONESHOT];
    struct turn t = {.calls = most_bytes(o) < CHOICE_LEAST ? 0 : 1};
    uint64_t begin = spin_now_ns();
    struct samples samples;

    for (;;) {
        enum status status = host->row->broadcast(host, 0, &t, sizeof(t));
        uint64_t start = spin_now_ns();

        if (status != STATUS_OK || t.calls == 0)
            return status;
        if (t.index >= CHOICE_SIZES || t.kind >= CHOICE_KINDS ||
            (size_t)CHOICE_LEAST << t.index > most_bytes(o))
            return log_fail(STATUS_INVALID, "the leader measures a size that this rank has not");
        status = take_turn(comms, s, o, &t, &samples);
        if (status != STATUS_OK)
            return status;
        t = decide(o, &t, &samples, spin_now_ns() - begin, spin_now_ns() - start, measure_ns, c);
    }
}

/* The fastest at size `i`. Where that was not measured the default stands, but for what larger
 * sizes only make better: more meetings that paid already. */
static void pick(struct choice *c, int kind, int i)
{
    int best = c->algorithm[kind][i], before = i > 0 ? c->algorithm[kind][i - 1] : best;
    bool known = false;

    for (int a = 0; a < COLL_ALGORITHMS; a++) {
        float us = c->us[kind][a][i];

        if (us > 0 && (!known || us < c->us[kind][best][i] * margin)) {
            best = a;
            known = true;
        }
    }
    if (!known && before > best)
        best = before;
    c->algorithm[kind][i] = (uint8_t)best;
}

void choice_take_fastest(struct choice *c)
{
    for (int i = 0; i < CHOICE_SIZES; i++)
        for (int kind = 0; kind < CHOICE_KINDS; kind++)
            pick(c, kind, i);
}

enum status choice_measure(struct comm *const comms[COLL_ALGORITHMS],
    const struct coll_shm_options *o, uint64_t measure_ns, struct choice *out)
{
    struct comm *host = comms[COLL_SHM_ONESHOT];
    struct choice c;
    uint64_t begin = spin_now_ns();
    struct scratch s = {0};
    enum status status;

    choice_default(o, &c);
    status = scratch_open(&s, most_bytes(o));
    if (status != STATUS_OK)
        return status;
    status = take_turns(comms, &s, o, measure_ns, &c);
    free(s.x);
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        if (comms[a] != NULL)
            coll_shm_align(comms[a]);
    if (status != STATUS_OK)
        return status;
    choice_take_fastest(&c);
    status = host->row->broadcast(host, 0, &c, sizeof(c));
    if (status != STATUS_OK)
        return status;
    log_debug("collectives of %d ranks: %u sizes measured in %llu us", o->size, c.measured,
        (unsigned long long)((spin_now_ns() - begin) / 1000));
    *out = c;
    return STATUS_OK;
}

/* Agreement ------------------------------------------------------------------------------ */

static uint64_t hash_of(const struct coll_shm_options *o, const struct choice *c)
{
    const uint64_t sizes[] = {(uint64_t)o->size, (uint64_t)o->threads, o->reduce_floats,
        o->gather_bytes, o->row_floats, o->norm_cols, o->add_norm != NULL};
    XXH64_hash_t h = XXH3_64bits(c, sizeof(*c));

    h = XXH3_64bits_withSeed(sizes, sizeof(sizes), h);
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        h = XXH3_64bits_withSeed(coll_algorithms[a]->name, strlen(coll_algorithms[a]->name), h);
    return h;
}

enum status choice_agree(struct comm *comm, const struct coll_shm_options *o,
    const struct choice *choice)
{
    uint64_t mine = hash_of(o, choice), all[COMM_MAX_RANKS];
    enum status s = comm->row->all_gather(comm, &mine, sizeof(mine), all);

    for (int r = 0; s == STATUS_OK && r < comm->size; r++)
        if (all[r] != mine)
            s = log_fail(STATUS_INVALID,
                "rank %d would run other collective algorithms than rank %d: are QUERN_COLL, the "
                "options and the program the same for both?",
                o->ranks != NULL ? o->ranks[comm->rank] : comm->rank,
                o->ranks != NULL ? o->ranks[r] : r);
    return s;
}
