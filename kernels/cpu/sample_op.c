/* sample_op.c - OP_SAMPLE: rows over threads, vocabulary over ranks.
 *
 * Alone, each thread samples its rows. In a group each rank makes a record of
 * its shard of each row (a pick, or a short list), one all_gather carries the
 * records of the whole step, and each rank decides every row by itself, alike.
 * Only rows whose lists were too short are gathered whole, one at a time; all
 * ranks find the same rows to be so. Logits that were asked for go to rank 0. */
#include <string.h>

#include "kernels/cpu/exec.h"

static const float *logits_of(const struct executable *x, const struct op *op, uint32_t output)
{
    return x->buffers[op->in[0]] + (size_t)output * x->program->shape.vocab_rows;
}

static const struct sampling *sampling_of(const struct executable *x, const struct draw *d)
{
    return &x->sequences[d->slot].sampling;
}

/* Alone ---------------------------------------------------------------------------------- */

static void copy_logits(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    const struct plan_row *row = plan_rows(s->plan);
    uint32_t vocab = x->program->shape.vocab, output = 0;

    for (uint32_t i = 0; i < s->plan->n_rows; output += row[i++].n_outputs) {
        struct part mine = part_of(row[i].n_outputs, thread, x->threads);

        if (row[i].output == OUTPUT_LOGITS)
            memcpy(s->logits + (size_t)(output + mine.from) * vocab,
                logits_of(x, op, output + mine.from),
                (size_t)(mine.to - mine.from) * vocab * sizeof(float));
    }
}

static void sample_alone(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;

    for (uint32_t i = (uint32_t)thread; i < x->n_draws; i += (uint32_t)x->threads) {
        const struct draw *d = &x->draws[i];

        s->ids[d->output] = (int32_t)sample_row(logits_of(x, op, d->output),
            x->program->shape.vocab, sampling_of(x, d), d->position, &x->scratch[thread]);
    }
    copy_logits(s, op, thread);
}

/* Shards --------------------------------------------------------------------------------- */

/* What exchange(), gather_row() and gather_logits() give, whichever is most. */
size_t sample_gather_bytes(const struct plan_limits *l, uint32_t longest)
{
    const size_t most[] = {sizeof(struct shard_range), records_room(l), longest * sizeof(float),
        (size_t)l->max_outputs * longest * sizeof(float)};
    size_t bytes = 0;

    for (size_t i = 0; i < sizeof(most) / sizeof(most[0]); i++)
        bytes = most[i] > bytes ? most[i] : bytes;
    return bytes;
}

static void make_record(struct executable *x, const struct op *op, const struct draw *d,
    struct sample_scratch *scratch)
{
    const struct program_shape *shape = &x->program->shape;
    struct shard_record *r = (struct shard_record *)(x->records + d->record_at);
    const float *logits = logits_of(x, op, d->output);
    uint32_t n = shape->vocab_rows, first = shape->vocab_first;

    switch (d->mode) {
    case SAMPLE_GREEDY: r->pick = pick_greedy(logits, n, first); break;
    case SAMPLE_PLAIN:
        r->pick = pick_plain(logits, n, first, sampling_of(x, d), d->position);
        break;
    case SAMPLE_LIST:
        r->total = n;
        r->n = list_make(r->candidates, LIST_ROOM, logits, n, first, sampling_of(x, d), scratch);
        list_mass(&r->mass, logits, n, sampling_of(x, d), shape->vocab);
        break;
    }
}

static const struct shard_record *record_of(const struct executable *x, const struct draw *d,
    int rank)
{
    return (const struct shard_record *)(x->all_records + (size_t)rank * x->record_bytes +
                                         d->record_at);
}

static enum status decide_lists(const struct executable *x, const struct draw *d, uint32_t *id)
{
    struct list lists[SAMPLE_MAX_LISTS];
    int size = x->comm->size;

    for (int r = 0; r < size; r++) {
        const struct shard_record *record = record_of(x, d, r);

        lists[r] = (struct list){.n = record->n, .total = record->total,
            .candidates = record->candidates, .mass = &record->mass};
    }
    return lists_decide(lists, size, sampling_of(x, d), x->program->shape.vocab, d->position, id);
}

static void decide(struct step *s, struct draw *d)
{
    struct executable *x = s->x;
    struct pick best = {.id = UINT32_MAX};
    uint32_t id = 0;

    if (d->mode == SAMPLE_LIST) {
        d->whole = decide_lists(x, d, &id) != STATUS_OK;
    } else {
        for (int r = 0; r < x->comm->size; r++)
            best = pick_best(best, record_of(x, d, r)->pick);
        id = pick_id(best);
    }
    s->ids[d->output] = (int32_t)id;
}

/* Who owns which ids; the same question and answer on every rank, once. */
static enum status learn_ranges(struct executable *x)
{
    const struct program_shape *shape = &x->program->shape;
    const struct shard_range mine = {shape->vocab_first, shape->vocab_rows};
    enum status status;

    if (x->ranges_known)
        return STATUS_OK;
    status = all_gather(&x->program->groups, GROUP_TP, &mine, sizeof(mine), x->shard_ranges);
    for (int r = 0; status == STATUS_OK && r < x->comm->size; r++) {
        struct shard_range of = x->shard_ranges[r];

        if (of.first > shape->vocab || of.count > shape->vocab - of.first)
            return STATUS_INTERNAL;
        x->shard_offsets[r] = of.first * sizeof(float);
        x->shard_sizes[r] = of.count * sizeof(float);
    }
    x->ranges_known = status == STATUS_OK;
    return status;
}

static enum status exchange(struct executable *x)
{
    enum status status = learn_ranges(x);

    if (status != STATUS_OK || x->n_draws == 0)
        return status;
    return all_gather(&x->program->groups, GROUP_TP, x->records, x->record_bytes, x->all_records);
}

/* The row from all ranks, each shard padded to the largest. */
static enum status gather_row(struct executable *x, const float *mine)
{
    size_t most = 0;
    int size = x->comm->size;
    enum status status;

    for (int r = 0; r < size; r++)
        most = x->shard_sizes[r] > most ? x->shard_sizes[r] : most;
    memcpy(x->shard, mine, x->shard_sizes[x->comm->rank]);
    status = all_gather(&x->program->groups, GROUP_TP, x->shard, most, x->shards);
    for (int r = 0; status == STATUS_OK && r < size; r++)
        memcpy((char *)x->row + x->shard_offsets[r], (char *)x->shards + (size_t)r * most,
            x->shard_sizes[r]);
    return status;
}

static enum status sample_whole_rows(struct step *s, const struct op *op)
{
    struct executable *x = s->x;

    for (uint32_t i = 0; i < x->n_draws; i++) {
        const struct draw *d = &x->draws[i];
        enum status status;

        if (!d->whole)
            continue;
        status = gather_row(x, logits_of(x, op, d->output));
        if (status != STATUS_OK)
            return status;
        s->ids[d->output] = (int32_t)sample_row(x->row, x->program->shape.vocab,
            sampling_of(x, d), d->position, &x->scratch[0]);
    }
    return STATUS_OK;
}

static enum status gather_logits(struct step *s, const struct op *op)
{
    struct executable *x = s->x;
    const struct plan_row *row = plan_rows(s->plan);
    size_t stride = x->program->shape.vocab * sizeof(float);
    uint32_t output = 0;

    for (uint32_t i = 0; i < s->plan->n_rows; output += row[i++].n_outputs) {
        char *out = x->comm->rank == 0 ? (char *)s->logits + output * stride : NULL;
        enum status status;

        if (row[i].output != OUTPUT_LOGITS)
            continue;
        status = gather(&x->program->groups, GROUP_TP, 0, logits_of(x, op, output),
            row[i].n_outputs, x->shard_sizes, x->shard_offsets, out, stride);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static enum status sample_group(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    struct pool *pool = x->device->pool;
    enum status status = STATUS_OK;

    for (uint32_t i = (uint32_t)thread; i < x->n_draws; i += (uint32_t)x->threads)
        make_record(x, op, &x->draws[i], &x->scratch[thread]);
    pool_barrier(pool, false);
    if (thread == 0)
        status = exchange(x);
    if (pool_barrier(pool, status != STATUS_OK))
        return status != STATUS_OK ? status : STATUS_CLOSED;
    for (uint32_t i = (uint32_t)thread; i < x->n_draws; i += (uint32_t)x->threads)
        decide(s, &x->draws[i]);
    pool_barrier(pool, false);
    if (thread != 0)
        return STATUS_OK;
    status = sample_whole_rows(s, op);
    return status == STATUS_OK ? gather_logits(s, op) : status;
}

enum status op_sample(struct step *s, const struct op *op, int thread)
{
    if (s->plan->n_outputs == 0)
        return STATUS_OK;
    if (!is_alone(s->x))
        return sample_group(s, op, thread);
    sample_alone(s, op, thread);
    return STATUS_OK;
}
