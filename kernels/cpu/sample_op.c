/* sample_op.c - OP_SAMPLE: rows over threads, vocabulary over ranks.
 *
 * Logprobs are of a draw's logits as they are; an id is sampled of a copy that
 * is edited as the request wants. Alone, each thread does all of it for its
 * rows. In a group each rank makes a record of its shard of each row (a pick,
 * or a short list), one all_gather carries the records of the whole step, and
 * each rank decides every row by itself, alike; where logprobs are told, a
 * second one carries the logits of the ids that were chosen. Only rows whose
 * lists were too short are gathered whole, one at a time; all ranks find the
 * same rows to be so. Logits that were asked for go to rank 0. */
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

/* A draw's logits ---------------------------------------------------------------------------- */

static const int32_t *gather_ids(const struct executable *x, const struct draw *d, int32_t *ids)
{
    uint32_t block_size = x->program->shape.limits.block_size;

    for (uint32_t at = 0; at < d->position; at += block_size) {
        uint32_t n = d->position - at < block_size ? d->position - at : block_size;

        memcpy(ids + at, id_at(x, d->slot, at), n * sizeof(*ids));
    }
    return ids;
}

/* As the request wants them; lent by the scratch if it wants any changed. */
static const float *edited_logits(const struct executable *x, const struct op *op,
    const struct draw *d, struct row_scratch *scratch)
{
    const struct program_shape *shape = &x->program->shape;
    const struct sampling *s = sampling_of(x, d);
    const float *logits = logits_of(x, op, d->output);
    struct edit e = {
        .sampling = s,
        .words = words_of(x, d->slot),
        .n_ids = d->position,
        .n_prompt = x->sequences[d->slot].n_prompt,
    };

    if (!d->edited)
        return logits;
    if (edit_reads_ids(s))
        e.ids = gather_ids(x, d, scratch->ids);
    memcpy(scratch->logits, logits, shape->vocab_rows * sizeof(*logits));
    edit_logits(scratch->logits, shape->vocab_rows, shape->vocab_first, &e, &scratch->edit);
    return scratch->logits;
}

static struct logprob_shard *logprob_record(const struct draw *d, char *records)
{
    return (struct logprob_shard *)(records + d->record_at + sampled_bytes_of(d));
}

static void note_logprobs(struct executable *x, const struct op *op, const struct draw *d,
    struct row_scratch *scratch)
{
    const struct program_shape *shape = &x->program->shape;

    if (d->logprobs)
        logprob_shard_make(logprob_record(d, x->records), logits_of(x, op, d->output),
            shape->vocab_rows, shape->vocab_first, sampling_of(x, d)->logprobs - 1, &scratch->sort);
}

/* The id whose logprob is told; below 0: the logits are broken. */
static int32_t told_id(const struct step *s, const struct draw *d)
{
    return d->scored != NO_ID ? d->scored : s->ids[d->output];
}

/* This rank's logit of it; 0 where another has it. */
static float chosen_logit(const struct step *s, const struct op *op, const struct draw *d)
{
    const struct executable *x = s->x;
    uint32_t at = (uint32_t)told_id(s, d) - x->program->shape.vocab_first;

    if (told_id(s, d) < 0 || at >= x->program->shape.vocab_rows)
        return 0;
    return logits_of(x, op, d->output)[at];
}

static void tell_logprobs(struct step *s, const struct draw *d,
    const struct logprob_shard *const *shards, int n_shards, float logit)
{
    struct token_logprob *out = s->logprobs + (size_t)d->output * (LOGPROBS_MOST + 1);
    int32_t id = told_id(s, d);

    if (id < 0 || !logprobs_merge(shards, n_shards, id, logit, sampling_of(s->x, d)->logprobs - 1,
                      out))
        *out = (struct token_logprob){.id = BROKEN_ID};
}

/* Hidden states are whole on every rank: rank 0's own are the result. */
static void copy_hidden(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    const struct plan_row *row = plan_rows(s->plan);
    uint32_t hidden = x->program->shape.hidden, output = 0;

    if (!s->wants_hidden)
        return;
    for (uint32_t i = 0; i < s->plan->n_rows; output += row[i++].n_outputs) {
        struct part mine = part_of(row[i].n_outputs, thread, x->threads);

        if (row[i].output == OUTPUT_POOLED)
            memcpy(s->hidden + (size_t)(output + mine.from) * hidden,
                row_at(x, op->in[1], output + mine.from),
                (size_t)(mine.to - mine.from) * hidden * sizeof(float));
    }
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

        note_logprobs(x, op, d, &x->scratch[thread]);
        if (d->scored == NO_ID)
            s->ids[d->output] = (int32_t)sample_row(edited_logits(x, op, d, &x->scratch[thread]),
                x->program->shape.vocab, sampling_of(x, d), d->position, &x->scratch[thread].sort);
        if (d->logprobs)
            tell_logprobs(s, d, (const struct logprob_shard *[]){logprob_record(d, x->records)}, 1,
                chosen_logit(s, op, d));
    }
    copy_logits(s, op, thread);
}

/* Shards --------------------------------------------------------------------------------- */

/* What exchange(), gather_row() and gather_logits() give, whichever is most. */
size_t sample_gather_bytes(const struct plan_limits *l, uint32_t longest)
{
    const size_t most[] = {sizeof(struct shard_range), records_room(l), longest * sizeof(float),
        l->max_outputs * sizeof(float),
        (size_t)l->max_outputs * longest * sizeof(float)};
    size_t bytes = 0;

    for (size_t i = 0; i < sizeof(most) / sizeof(most[0]); i++)
        bytes = most[i] > bytes ? most[i] : bytes;
    return bytes;
}

static void make_record(struct executable *x, const struct op *op, const struct draw *d,
    struct row_scratch *scratch)
{
    const struct program_shape *shape = &x->program->shape;
    struct shard_record *r = (struct shard_record *)(x->records + d->record_at);
    uint32_t n = shape->vocab_rows, first = shape->vocab_first;
    const float *logits;

    note_logprobs(x, op, d, scratch);
    if (d->scored != NO_ID)
        return;
    logits = edited_logits(x, op, d, scratch);
    switch (d->mode) {
    case SAMPLE_GREEDY: r->pick = pick_greedy(logits, n, first); break;
    case SAMPLE_PLAIN:
        r->pick = pick_plain(logits, n, first, sampling_of(x, d), d->position);
        break;
    case SAMPLE_LIST:
        r->total = n;
        r->n = list_make(r->candidates, LIST_ROOM, logits, n, first, sampling_of(x, d),
            &scratch->sort);
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

    if (d->scored != NO_ID)
        return;
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
        status = gather_row(x, edited_logits(x, op, d, &x->scratch[0]));
        if (status != STATUS_OK)
            return status;
        s->ids[d->output] = (int32_t)sample_row(x->row, x->program->shape.vocab,
            sampling_of(x, d), d->position, &x->scratch[0].sort);
    }
    return STATUS_OK;
}

static bool any_logprobs(const struct executable *x)
{
    for (uint32_t i = 0; i < x->n_draws; i++)
        if (x->draws[i].logprobs)
            return true;
    return false;
}

/* Each draw's logit is that of the one rank that has its id. */
static enum status gather_logprobs(struct step *s, const struct op *op)
{
    struct executable *x = s->x;
    const struct logprob_shard *shards[SAMPLE_MAX_LISTS];
    enum status status;

    for (uint32_t i = 0; i < x->n_draws; i++)
        x->chosen[i] = chosen_logit(s, op, &x->draws[i]);
    status = all_gather(&x->program->groups, GROUP_TP, x->chosen, x->n_draws * sizeof(float),
        x->all_chosen);
    for (uint32_t i = 0; status == STATUS_OK && x->comm->rank == 0 && i < x->n_draws; i++) {
        const struct draw *d = &x->draws[i];
        float logit = 0;

        for (int r = 0; r < x->comm->size; r++) {
            logit += x->all_chosen[(size_t)r * x->n_draws + i];
            shards[r] = logprob_record(d, x->all_records + (size_t)r * x->record_bytes);
        }
        if (d->logprobs)
            tell_logprobs(s, d, shards, x->comm->size, logit);
    }
    return status;
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
    if (status == STATUS_OK && any_logprobs(x))
        status = gather_logprobs(s, op);
    return status == STATUS_OK ? gather_logits(s, op) : status;
}

enum status op_sample(struct step *s, const struct op *op, int thread)
{
    if (s->plan->n_outputs == 0)
        return STATUS_OK;
    if (thread == 0)
        s->has_logprobs = any_logprobs(s->x) && is_root(s->x);
    copy_hidden(s, op, thread);
    if (!is_alone(s->x))
        return sample_group(s, op, thread);
    sample_alone(s, op, thread);
    return STATUS_OK;
}
