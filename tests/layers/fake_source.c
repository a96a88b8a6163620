/* fake_source.c - see fake_source.h. Nothing is stored, so nothing can be out of step. */
#include "tests/layers/fake_source.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static const struct fake_source *fake(const struct weight_source *src)
{
    return (const struct fake_source *)src;
}

static const struct fake_tensor *look_up(const struct fake_source *f, const char *name)
{
    for (int i = 0; i < f->n; i++)
        if (strcmp(f->tensors[i].name, name) == 0)
            return &f->tensors[i];
    return NULL;
}

static bool find(const struct weight_source *src, const char *name, struct source_tensor *out)
{
    const struct fake_source *f = fake(src);
    const struct fake_tensor *t = look_up(f, name);

    if (t == NULL || (f->missing != NULL && strcmp(name, f->missing) == 0))
        return false;
    *out = (struct source_tensor){.file = "fake", .view = {.name = t->name, .dtype = t->type,
        .ndim = t->cols ? 2 : 1, .shape = {t->rows, t->cols},
        .bytes = t->rows * (t->cols ? t->cols : 1) * file_dtype_bits(t->type) / 8}};
    return true;
}

static float at(const struct fake_source *f, const struct fake_tensor *t, uint64_t i)
{
    uint64_t cols = t->cols ? t->cols : 1;

    return f->element(f, t, i / cols, i % cols);
}

/* As they are stored: one-byte tensors, what the layers' tests need of integers. */
static void put(const struct fake_source *f, const struct fake_tensor *t, uint64_t i,
    enum dtype as, void *dst, uint64_t to)
{
    float x = at(f, t, i);

    if (as == DTYPE_F32) {
        ((float *)dst)[to] = x;
    } else if (as == DTYPE_BF16) {
        ((uint16_t *)dst)[to] = f32_to_bf16(x);
    } else {
        assert_int_equal(file_dtype_bits(t->type), 8);
        ((int8_t *)dst)[to] = (int8_t)x;
    }
}

static enum status read_runs(const struct weight_source *src, const struct source_tensor *t,
    const struct source_runs *runs, enum dtype as, void *dst)
{
    const struct fake_tensor *tensor = look_up(fake(src), t->view.name);

    for (uint64_t row = 0; row < runs->rows; row++)
        for (uint64_t i = 0; i < runs->n; i++)
            put(fake(src), tensor, runs->first + row * runs->stride + i, as, dst,
                row * runs->n + i);
    return STATUS_OK;
}

static void close_nothing(struct weight_source *src)
{
    (void)src;
}

static const struct source_ops ops = {
    .find = find, .read = read_runs, .close = close_nothing};

static float by_position(const struct fake_source *f, const struct fake_tensor *t, uint64_t row,
    uint64_t col)
{
    return (float)((uint64_t)(t - f->tensors) * 100000 + row * 300 + col);
}

void fake_source_open(struct fake_source *f)
{
    *f = (struct fake_source){.source = {.ops = &ops, .model = "fake"}, .element = by_position};
}

void fake_source_add(struct fake_source *f, enum file_dtype type, uint64_t rows, uint64_t cols,
    const char *format, ...)
{
    struct fake_tensor *t = &f->tensors[f->n];
    va_list args;

    assert_true(f->n < FAKE_TENSORS);
    *t = (struct fake_tensor){.rows = rows, .cols = cols, .type = type};
    va_start(args, format);
    vsnprintf(t->name, sizeof(t->name), format, args);
    va_end(args);
    f->n++;
}

float fake_source_element(const struct fake_source *f, const char *name, uint64_t row,
    uint64_t col)
{
    const struct fake_tensor *t = look_up(f, name);

    if (t == NULL)
        fail_msg("no tensor %s", name);
    return f->element(f, t, row, col);
}
