/* pack.c - weights into panels of 16 outputs (cpu.h), by all threads.
 *
 * A panel is written by one thread from 16 rows read in step, so both sides are
 * streams. When a matrix comes whole, the thread that packs a panel is the one
 * that will read it in every step, and so it lies on that thread's node. */
#include "kernels/cpu/exec.h"
#include "kernels/cpu/ref_quant.h"

struct packing {
    struct device *device;
    const struct weight *w;
    uint32_t n0, rows;
    const void *src;
};

static size_t panels_of(uint32_t n)
{
    return ((size_t)n + PANEL - 1) / PANEL;
}

size_t pack_bytes(struct device *d, enum weight_format format, uint32_t n, uint32_t k)
{
    size_t row;

    (void)d;
    if (format == WEIGHT_F32)
        row = k * sizeof(float);
    else if (format == WEIGHT_BF16)
        row = ((size_t)k + 1) / 2 * 2 * sizeof(uint16_t);
    else
        row = ((size_t)k + quant_pack_width(format) - 1) / quant_pack_width(format) * 4;
    return panels_of(n) * PANEL * row;
}

/* Rows of src that a panel has; its other lanes are zero. */
static uint32_t lanes_of(const struct packing *p, uint32_t row)
{
    uint32_t left = p->n0 + p->rows - row;

    return left < PANEL ? left : PANEL;
}

static void pack_f32(const struct packing *p, uint32_t panel)
{
    uint32_t k = p->w->k, row = panel * PANEL, lanes = lanes_of(p, row);
    const float *src = (const float *)p->src + (size_t)(row - p->n0) * k;
    float *dst = (float *)p->w->data + (size_t)panel * k * PANEL;

    for (uint32_t i = 0; i < k; i++)
        for (uint32_t lane = 0; lane < PANEL; lane++)
            dst[(size_t)i * PANEL + lane] = lane < lanes ? src[(size_t)lane * k + i] : 0;
}

static void pack_bf16(const struct packing *p, uint32_t panel)
{
    uint32_t k = p->w->k, pairs = (k + 1) / 2, row = panel * PANEL, lanes = lanes_of(p, row);
    const uint16_t *src = (const uint16_t *)p->src + (size_t)(row - p->n0) * k;
    uint16_t *dst = (uint16_t *)p->w->data + (size_t)panel * pairs * PANEL * 2;

    for (uint32_t i = 0; i < pairs; i++)
        for (uint32_t lane = 0; lane < PANEL; lane++) {
            const uint16_t *from = src + (size_t)lane * k + 2 * (size_t)i;
            uint16_t *to = dst + ((size_t)i * PANEL + lane) * 2;

            to[0] = lane < lanes ? from[0] : 0;
            to[1] = lane < lanes && 2 * i + 1 < k ? from[1] : 0;
        }
}

/* One code a byte in src; INT4's keep the low half of it. */
static void pack_codes(const struct packing *p, uint32_t panel)
{
    enum weight_format format = p->w->format;
    uint32_t k = p->w->k, row = panel * PANEL, lanes = lanes_of(p, row);
    uint32_t width = quant_pack_width(format), bits = 32 / width;
    const uint8_t *src = (const uint8_t *)p->src + (size_t)(row - p->n0) * k;

    for (uint32_t col = 0; col < k; col += width)
        for (uint32_t lane = 0; lane < PANEL; lane++) {
            uint8_t *word = (uint8_t *)p->w->data + quant_word_at(format, k, panel, lane, col);

            memset(word, 0, 4);
            for (uint32_t i = 0; i < width && col + i < k && lane < lanes; i++) {
                uint8_t code = src[(size_t)lane * k + col + i];

                word[i * bits / 8] |= bits == 4 ? (uint8_t)((code & 15) << i % 2 * 4) : code;
            }
        }
}

static void pack_part(const struct packing *p, int thread, int threads)
{
    uint32_t first = p->n0 / PANEL, count = (uint32_t)panels_of(p->n0 + p->rows) - first;
    struct part mine = part_of(count, thread, threads);

    for (uint32_t i = mine.from; i < mine.to; i++)
        if (p->w->format == WEIGHT_F32)
            pack_f32(p, first + i);
        else if (p->w->format == WEIGHT_BF16)
            pack_bf16(p, first + i);
        else
            pack_codes(p, first + i);
}

static void pack_work(void *context, int thread)
{
    const struct packing *p = context;

    pack_part(p, thread, pool_threads(p->device->pool));
}

void pack_rows(struct device *d, struct weight *w, uint32_t n0, uint32_t rows, const void *src)
{
    struct packing p = {.device = d, .w = w, .n0 = n0, .rows = rows, .src = src};
    uint32_t ticket;

    if (rows == 0)
        return;
    /* A pool full of steps would have to be waited for: this thread is here already. */
    if (pool_post(d->pool, pack_work, &p, &ticket) == STATUS_OK)
        pool_wait(d->pool, ticket);
    else
        pack_part(&p, 0, 1);
}
