/* queue.c - the cpu row of the backend table: a device is a pool and a kernel table.
 *
 * submit() copies the plan into one of BACKEND_DEPTH places and posts it to the
 * pool, which runs steps in order; wait() sleeps on the pool's ticket. The
 * copy means that a plan ring's slot is free as soon as submit() returns.
 *
 * A failure is kept twice, since two sides need it: `failed` belongs to thread
 * 0 of the pool, which then runs no further step, `broken` to the caller, whom
 * wait() tells once why and ever after the same status. It is logged in wait(),
 * on the thread that will carry log_last_error() on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/exec.h"
#include "quern/log.h"

/* Device --------------------------------------------------------------------------------- */

static enum status cpu_open(const struct backend_options *options, struct device **out)
{
    struct device *d = calloc(1, sizeof(*d));
    enum status s;

    if (d == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a device");
    s = cpu_kernels_select(options->isa, &d->kernels);
    if (s != STATUS_OK)
        goto err_free;
    s = pool_open(options->threads, options->first_cpu, &d->pool);
    if (s != STATUS_OK)
        goto err_free;
    snprintf(d->text, sizeof(d->text), "%s, %d thread%s", d->kernels.name, options->threads,
        options->threads == 1 ? "" : "s");
    d->progress = options->progress;
    *out = d;
    return STATUS_OK;
err_free:
    free(d);
    return s;
}

static void cpu_close(struct device *d)
{
    if (d == NULL)
        return;
    pool_close(d->pool);
    free(d);
}

static const char *cpu_describe(struct device *d)
{
    return d->text;
}

static void *cpu_alloc(struct device *d, size_t bytes)
{
    (void)d;
    return memory_map(bytes, true);
}

static void cpu_release(struct device *d, void *mem, size_t bytes)
{
    (void)d;
    memory_unmap(mem, bytes);
}

static void cpu_vector_write(struct device *d, float *dst, const float *src, uint32_t n)
{
    (void)d;
    memcpy(dst, src, n * sizeof(*dst));
}

static void cpu_write_rows(struct device *d, void *dst, size_t dst_stride, const void *src,
    size_t src_stride, size_t bytes, size_t rows)
{
    (void)d;
    for (size_t i = 0; i < rows; i++)
        memcpy((char *)dst + i * dst_stride, (const char *)src + i * src_stride, bytes);
}

/* Steps ---------------------------------------------------------------------------------- */

static void cpu_program_bytes(struct device *d, const struct program *p,
    uint64_t bytes[MEMORY_KINDS])
{
    struct executable x = {
        .device = d, .program = p, .comm = program_comm(p), .threads = pool_threads(d->pool)};

    layout_memory(&x, bytes);
    bytes[MEMORY_KV] = cache_bytes(&p->shape);
}

static enum status check_group(const struct program *p)
{
    if (plan_max_bytes(&p->shape.limits) == 0)
        return log_fail(STATUS_INVALID, "%u sequences of %u KV blocks make a plan of over 4 GiB: "
            "use fewer --max-seqs or a smaller --max-model-len", p->shape.limits.max_slots,
            p->shape.limits.max_blocks_per_slot);
    if (program_comm(p) != NULL && program_comm(p)->size > SAMPLE_MAX_LISTS)
        return log_fail(STATUS_INVALID, "%d ranks, the sampler takes at most %d",
            program_comm(p)->size, SAMPLE_MAX_LISTS);
    return STATUS_OK;
}

static enum status cpu_program_load(struct device *d, const struct program *p,
    struct executable **out)
{
    uint64_t bytes[MEMORY_KINDS];
    struct executable *x;
    enum status s = check_group(p);

    if (s == STATUS_OK)
        s = comm_ops_check(p);
    if (s != STATUS_OK)
        return s;
    x = calloc(1, sizeof(*x));
    if (x == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a program");
    x->device = d;
    x->program = p;
    x->comm = program_comm(p);
    x->threads = pool_threads(d->pool);
    x->checks_finite = finite_wanted();
    x->memory_bytes = layout_memory(x, bytes);
    x->cache_bytes = cache_bytes(&p->shape);
    x->memory = memory_map(x->memory_bytes, false);
    x->cache = memory_map(x->cache_bytes, false);
    if (x->memory == NULL || x->cache == NULL) {
        s = log_fail(STATUS_NOMEM, "no memory for %llu bytes of buffers, %llu of logits, %llu of "
            "workspace and %zu of KV cache: use a smaller --memory, --max-seqs or "
            "--max-batched-tokens", (unsigned long long)bytes[MEMORY_BUFFERS],
            (unsigned long long)bytes[MEMORY_LOGITS], (unsigned long long)bytes[MEMORY_WORKSPACE],
            x->cache_bytes);
        goto err_unmap;
    }
    layout_memory(x, bytes);
    memset(x->tables, NO_BLOCK, (size_t)p->shape.limits.max_slots *
        p->shape.limits.max_blocks_per_slot * sizeof(*x->tables));
    plan_barriers(x);
    *out = x;
    return STATUS_OK;
err_unmap:
    memory_unmap(x->memory, x->memory_bytes);
    memory_unmap(x->cache, x->cache_bytes);
    free(x);
    return s;
}

static void cpu_program_unload(struct executable *x)
{
    if (x == NULL)
        return;
    for (int i = 0; i < BACKEND_DEPTH; i++)
        if (x->steps[i].used)
            pool_wait(x->device->pool, x->steps[i].ticket);
    memory_unmap(x->memory, x->memory_bytes);
    memory_unmap(x->cache, x->cache_bytes);
    free(x);
}

static bool wants(const struct plan *p, enum row_output output)
{
    const struct plan_row *row = plan_rows(p);

    for (uint32_t i = 0; i < p->n_rows; i++)
        if (row[i].output == output)
            return true;
    return false;
}

static enum status cpu_submit(struct executable *x, const struct plan *plan)
{
    struct step *s = &x->steps[x->submitted % BACKEND_DEPTH];
    enum status status;

    if (x->broken != STATUS_OK)
        return x->broken;
    if (s->used && !pool_done(x->device->pool, s->ticket))
        return STATUS_AGAIN;
    if (plan->bytes > plan_max_bytes(&x->program->shape.limits))
        return log_fail(STATUS_INVALID, "plan %llu has %u bytes, at most %zu are allowed",
            (unsigned long long)plan->number, plan->bytes,
            plan_max_bytes(&x->program->shape.limits));
    memcpy(s->plan, plan, plan->bytes);
    s->number = plan->number;
    s->wants_logits = wants(s->plan, OUTPUT_LOGITS) && is_root(x);
    s->wants_hidden = wants(s->plan, OUTPUT_POOLED) && is_root(x);
    s->has_logprobs = false;
    s->status = STATUS_OK;
    s->suspect_op = -1;
    memset(s->told, 0, (size_t)x->threads * sizeof(*s->told));
    status = pool_post(x->device->pool, step_run, s, &s->ticket);
    if (status != STATUS_OK) {
        s->used = false;
        return status;
    }
    s->used = true;
    x->submitted++;
    return STATUS_OK;
}

static struct step *step_numbered(struct executable *x, uint64_t number)
{
    for (int i = 0; i < BACKEND_DEPTH; i++)
        if (x->steps[i].used && x->steps[i].number == number)
            return &x->steps[i];
    return NULL;
}

/* The first time a failure is seen. */
static enum status tell_failure(struct executable *x, const struct step *s)
{
    const struct op *op;

    if (x->broken != STATUS_OK)
        return x->broken;
    x->broken = s->status;
    if (x->why[0] != '\0')
        return log_fail(s->status, "step %llu: %s", (unsigned long long)s->number, x->why);
    op = &x->program->ops[s->failed_op];
    if (op->layer < 0)
        return log_fail(s->status, "step %llu ended in %s: %s", (unsigned long long)s->number,
            op_name(op->kind), status_name(s->status));
    return log_fail(s->status, "step %llu ended in %s of layer %d: %s",
        (unsigned long long)s->number, op_name(op->kind), op->layer, status_name(s->status));
}

static enum status cpu_wait(struct executable *x, uint64_t number, struct step_result *result)
{
    struct step *s;

    if (x->broken != STATUS_OK)
        return x->broken;
    s = step_numbered(x, number);
    if (s == NULL)
        return log_fail(STATUS_INVALID, "step %llu is not one of the last %d",
            (unsigned long long)number, BACKEND_DEPTH);
    pool_wait(x->device->pool, s->ticket);
    if (s->status != STATUS_OK)
        return tell_failure(x, s);
    finite_tell(x, s);
    *result = (struct step_result){
        .number = number,
        .n_outputs = s->plan->n_outputs,
        .ids = s->ids,
        .logits = s->wants_logits ? s->logits : NULL,
        .hidden = s->wants_hidden ? s->hidden : NULL,
        .logprobs = s->has_logprobs ? s->logprobs : NULL,
    };
    return STATUS_OK;
}

const struct backend cpu_backend = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .weight_bytes = pack_bytes,
    .weight_pack = pack_rows,
    .vector_write = cpu_vector_write,
    .write_rows = cpu_write_rows,
    .gather_bytes = sample_gather_bytes,
    .program_bytes = cpu_program_bytes,
    .program_load = cpu_program_load,
    .program_unload = cpu_program_unload,
    .submit = cpu_submit,
    .wait = cpu_wait,
};
