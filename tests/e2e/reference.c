/* reference.c - runs quern logits on a reference checkpoint and compares. */
#include "tests/e2e/reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/safetensors.h"
#include "tests/e2e/command.h"

enum { MOST_IDS = 256, MOST_BYTES = 64 << 20 };

/* A tensor of 4-byte elements, read whole. */
struct values {
    uint64_t rows, cols, bytes;
    void *data; /* malloc'ed */
};

struct reference {
    struct values logits;
    char dir[4096], ids[8 * MOST_IDS], last[16];
};

static struct values values_of(const struct safetensors *file, const char *name)
{
    const struct tensor_view *found = safetensors_find(file, name);
    struct values v;

    assert_non_null(found);
    v = (struct values){found->shape[0], found->ndim == 2 ? found->shape[1] : 1, found->bytes,
        malloc(found->bytes)};
    assert_non_null(v.data);
    assert_int_equal(v.bytes, v.rows * v.cols * 4);
    assert_int_equal(tensor_read(found, 0, found->bytes, v.data), STATUS_OK);
    return v;
}

/* The checkpoint at `dir` with the answers in `file`. */
static void open_reference(struct reference *r, const char *dir, const char *file,
    const char *tensor)
{
    struct safetensors *answers;
    struct values ids;
    size_t at = 0;

    snprintf(r->dir, sizeof(r->dir), "%s", dir);
    assert_int_equal(safetensors_open(file, &answers), STATUS_OK);
    ids = values_of(answers, "ids");
    r->logits = values_of(answers, tensor);
    safetensors_close(answers);
    assert_in_range(ids.rows, 1, MOST_IDS);
    for (uint64_t i = 0; i < ids.rows; i++)
        at += (size_t)snprintf(r->ids + at, sizeof(r->ids) - at, "%s%d", i > 0 ? "," : "",
            ((const int32_t *)ids.data)[i]);
    snprintf(r->last, sizeof(r->last), "%d", (int)ids.rows);
    free(ids.data);
}

/* tests/DIR and the answers in it. */
static void open_beside(struct reference *r, const char *dir, const char *tensor)
{
    char model[4096], path[4200];

    test_file(model, dir);
    snprintf(path, sizeof(path), "%s/reference.safetensors", model);
    open_reference(r, model, path, tensor);
}

static void output_path(char path[256])
{
    snprintf(path, 256, "%s/quern-logits-%d.safetensors",
        getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", (int)getpid());
}

static void run_logits(const struct reference *r, const struct way *way, const char *output)
{
    const char *words[COMMAND_ARGS] = {"logits", "-m", r->dir, "--ids", r->ids, "--last", r->last,
        "-o", output};
    char isa[64];
    const char *env[] = {isa, NULL};
    struct command c;
    int n = 9;

    for (int i = 0; way->words[i] != NULL; i++)
        words[n++] = way->words[i];
    snprintf(isa, sizeof(isa), "QUERN_CPU_ISA=%s", way->isa != NULL ? way->isa : "");
    if (child_run(&c, env, words) != 0)
        fail_msg("quern logits on %s: %s", r->dir, c.err);
    child_free(&c);
}

/* Of elements [from, to). */
static double relative_error(const struct values *got, const struct values *want, uint64_t from,
    uint64_t to)
{
    const float *x = got->data, *y = want->data;
    double d = 0, norm = 0;

    for (uint64_t i = from; i < to; i++) {
        double difference = (double)x[i] - y[i];

        d += difference * difference;
        norm += (double)y[i] * y[i];
    }
    return sqrt(d / norm);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median_row(const struct values *got, const struct values *want)
{
    uint64_t rows = want->rows, cols = want->cols;
    double errors[MOST_IDS];

    assert_in_range(rows, 1, MOST_IDS);
    for (uint64_t r = 0; r < rows; r++)
        errors[r] = relative_error(got, want, r * cols, (r + 1) * cols);
    qsort(errors, rows, sizeof(errors[0]), compare_doubles);
    return errors[rows / 2];
}

/* Closes r. */
static struct reference_error error_of(struct reference *r, const struct way *way)
{
    struct reference_error error;
    char output[256];
    struct safetensors *file;
    struct values got;

    output_path(output);
    run_logits(r, way, output);
    assert_int_equal(safetensors_open(output, &file), STATUS_OK);
    got = values_of(file, "logits");
    safetensors_close(file);
    assert_int_equal(got.bytes, r->logits.bytes);
    error.whole = relative_error(&got, &r->logits, 0, got.bytes / 4);
    error.median_row = median_row(&got, &r->logits);
    free(got.data);
    free(r->logits.data);
    unlink(output);
    return error;
}

struct reference_error reference_errors(const char *dir, const char *tensor,
    const struct way *way)
{
    struct reference r;

    open_beside(&r, dir, tensor);
    return error_of(&r, way);
}

double reference_error(const char *dir, const char *tensor, const struct way *way)
{
    return reference_errors(dir, tensor, way).whole;
}

double reference_error_apart(const char *dir, const char *file, const struct way *way)
{
    struct reference r;

    open_reference(&r, dir, file, "logits");
    return error_of(&r, way).whole;
}

char *reference_bytes(const char *dir, const struct way *way, unsigned long *bytes)
{
    char output[256], *mem = malloc(MOST_BYTES);
    struct reference r;
    FILE *f;

    output_path(output);
    open_beside(&r, dir, "logits");
    run_logits(&r, way, output);
    f = fopen(output, "rb");
    assert_non_null(f);
    assert_non_null(mem);
    *bytes = fread(mem, 1, MOST_BYTES, f);
    fclose(f);
    unlink(output);
    free(r.logits.data);
    return mem;
}
