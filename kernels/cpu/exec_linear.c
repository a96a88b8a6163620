/* exec_linear.c - a linear layer under way: its input made ready by rows, then panels of outputs.
 *
 * Threads share the rows while they round or quantise them, and after a barrier
 * the outputs: every thread reads all of the input then. Where the kernel can
 * read the buffer as it lies there is only the second half.
 *
 * The scale of a token's activations is of a whole group of inputs. Where other
 * ranks have some of them, OP_AMAX and OP_MAX_REDUCE have found the maxima
 * before, so that a rank's codes are those of the whole row. */
#include <string.h>

#include "kernels/cpu/exec.h"
#include "kernels/cpu/ref_quant.h"

static const struct linear_kernel *kernel_of(const struct executable *x, const struct weight *w)
{
    return &x->device->kernels.linear[w->format][x->program->shape.compute];
}

static bool quantises(const struct weight *w)
{
    return is_quantised(w->format) && w->quant.activation != ACTIVATION_PLAIN;
}

bool linear_reads_in_place(const struct executable *x, const struct weight *w)
{
    return !quantises(w) && kernel_of(x, w)->x == DTYPE_F32 && w->k % 2 == 0 &&
           x->program->shape.compute == COMPUTE_F32;
}

/* One row of a linear layer's input, padded to an even count, as the kernel wants it. */
static void round_row(const struct executable *x, const struct weight *w, const float *in,
    uint32_t row)
{
    const struct cpu_kernels *k = &x->device->kernels;
    size_t width = input_stride(w->k);

    if (kernel_of(x, w)->x == DTYPE_BF16) {
        uint16_t *out = (uint16_t *)x->rounded + row * width;

        k->round_bf16(out, in, w->k);
        memset(out + w->k, 0, (width - w->k) * sizeof(*out));
    } else {
        float *out = (float *)x->rounded + row * width;

        if (x->program->shape.compute == COMPUTE_BF16)
            k->round_bf16_f32(out, in, w->k);
        else
            memcpy(out, in, w->k * sizeof(*out));
        memset(out + w->k, 0, (width - w->k) * sizeof(*out));
    }
}

/* As float32 that is rounded where --compute says so: what the codes are made of. */
static const float *plain_row(const struct executable *x, const struct weight *w, const float *in,
    uint32_t row)
{
    float *out = (float *)x->rounded + row * input_stride(w->k);

    if (x->program->shape.compute == COMPUTE_F32)
        return in;
    x->device->kernels.round_bf16_f32(out, in, w->k);
    return out;
}

/* Of inputs in [n] of one activation group, whose largest over all ranks is *amax (NULL: what is
 * here is all there is). Rounding keeps order: the maximum of rounded inputs is it rounded. */
static float scale_of(const struct executable *x, const struct weight_quant *q, const float *in,
    uint32_t n, const float *amax)
{
    if (q->activation_scale > 0)
        return q->activation_scale;
    if (amax == NULL)
        return quant_act_scale(q, x->device->kernels.amax(in, n));
    return quant_act_scale(q,
        x->program->shape.compute == COMPUTE_BF16 ? bf16_round(*amax) : *amax);
}

/* amax [act_groups] of the whole token, or NULL. */
static void quantize_row(const struct executable *x, const struct weight *w, const float *in,
    const float *amax, uint32_t row)
{
    const struct cpu_kernels *kernels = &x->device->kernels;
    const struct weight_quant *q = &w->quant;
    uint8_t *codes = x->codes + row * code_stride(w->k);
    float *scales = x->scales + row * (size_t)quant_act_groups(q, w->k);
    uint32_t to, group = quant_act_group_first(q);

    in = plain_row(x, w, in, row);
    for (uint32_t from = 0; from < w->k; from = to, group++) {
        to = quant_act_group_end(q, w->k, from);
        *scales = scale_of(x, q, in + from, to - from, amax != NULL ? amax + group : NULL);
        kernels->quantize(codes + from, in + from, to - from, *scales++, q->activation,
            quant_by_inverse(q));
    }
    memset(codes + w->k, 0, code_stride(w->k) - w->k);
}

/* The input of `op`, this thread's rows; afterwards args say where all of it is. */
static void prepare_input(struct step *s, const struct op *op, int thread, struct linear_args *args)
{
    struct executable *x = s->x;
    const struct weight *w = op->weight;
    struct part rows = rows_mine(s, op, op->in[0], thread);

    for (uint32_t r = rows.from; r < rows.to; r++)
        if (quantises(w))
            quantize_row(x, w, row_at(x, op->in[0], r),
                op->in[1] >= 0 ? row_at(x, op->in[1], r) : NULL, r);
        else
            round_row(x, w, row_at(x, op->in[0], r), r);
    pool_barrier(x->device->pool, false);
    args->x = quantises(w) ? x->codes : x->rounded;
    args->ldx = quantises(w) ? code_stride(w->k) : input_stride(w->k);
    args->x_scales = x->scales;
    args->ld_scales = quant_act_groups(&w->quant, w->k);
}

enum status op_linear(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    const struct weight *w = op->weight;
    struct linear_args args = {
        .y = x->buffers[op->out] + op->out_col,
        .ldy = cols_of(x, op->out),
        .x = x->buffers[op->in[0]],
        .ldx = w->k,
        .m = rows_of(s, op->out),
        .n = w->n,
        .k = w->k,
        .w = w->data,
        .bias = w->bias,
        .quant = is_quantised(w->format) ? &w->quant : NULL,
    };
    struct part panels = part_of((w->n + PANEL - 1) / PANEL, thread, x->threads);

    if (!linear_reads_in_place(x, w))
        prepare_input(s, op, thread, &args);
    if (args.m > 0 && panels.from < panels.to)
        kernel_of(x, w)->apply(&args, panels.from, panels.to);
    return STATUS_OK;
}

enum status op_amax(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    const struct weight *w = op->weight;
    struct part rows = rows_mine(s, op, op->out, thread);

    for (uint32_t r = rows.from; r < rows.to; r++) {
        const float *in = row_at(x, op->in[0], r);
        float *out = row_at(x, op->out, r);
        uint32_t to, group = quant_act_group_first(&w->quant);

        memset(out, 0, cols_of(x, op->out) * sizeof(*out));
        for (uint32_t from = 0; from < w->k; from = to) {
            to = quant_act_group_end(&w->quant, w->k, from);
            out[group++] = x->device->kernels.amax(in + from, to - from);
        }
    }
    return STATUS_OK;
}
