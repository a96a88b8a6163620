/* values.c - embeddings and logits: rows of numbers that rank 0 computes of a prompt.
 *
 * A row is cut down to what the request wants as it comes. Rows wait here until
 * their client can take them; when more than ROWS_MARK bytes wait, rank 0 lets go
 * of the rest, and is asked for it again once they are sent. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "supervisor/supervisor.h"

enum { ROWS_MARK = 1 << 20 };

/* Columns of a row as it is told. */
uint32_t values_columns(const struct request *r)
{
    const struct model_facts *f = &r->client->sv->facts;
    uint32_t wanted = r->params.value_ids.n / (uint32_t)sizeof(int32_t);

    if (r->task == TASK_EMBED)
        return r->params.dimensions > 0 ? r->params.dimensions : f->hidden;
    return wanted > 0 ? wanted : f->width;
}

uint32_t values_wanted(const struct request *r)
{
    uint32_t last = params_has(&r->params, PARAM_LAST) ? r->params.last : 1;

    return r->task == TASK_LOGITS && last < r->n_ids ? last : r->task == TASK_LOGITS ? r->n_ids : 1;
}

/* Scaled to length 1, as sentence embeddings are compared; all zero stays so. */
static void normalise(float *x, uint32_t n)
{
    double sum = 0;
    float scale;

    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    scale = sum > 0 ? (float)(1 / sqrt(sum)) : 0;
    for (uint32_t i = 0; i < n; i++)
        x[i] *= scale;
}

static bool is_finite(const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

/* The id's column of a row in shared memory, which may not be aligned. */
static float column(const void *row, const struct param_bytes *ids, uint32_t i)
{
    int32_t id;
    float x;

    memcpy(&id, ids->at + i * sizeof(id), sizeof(id));
    memcpy(&x, (const char *)row + (size_t)id * sizeof(x), sizeof(x));
    return x;
}

/* The row as it is told, into out, which has room for all of its columns. False: it is not finite. */
static bool cut_row(const struct request *r, const void *row, size_t bytes, float *out)
{
    const struct param_bytes *ids = &r->params.value_ids;

    if (r->task == TASK_LOGITS && ids->n > 0) {
        for (uint32_t i = 0; i < ids->n / sizeof(int32_t); i++)
            out[i] = column(row, ids, i);
        return true;
    }
    memcpy(out, row, bytes);
    if (r->task != TASK_EMBED)
        return true;
    if (!is_finite(out, (uint32_t)(bytes / sizeof(*out))))
        return false;
    normalise(out, values_columns(r));
    return true;
}

void request_take_values(struct request *r, uint32_t position, const void *row, size_t bytes)
{
    size_t told = values_columns(r) * sizeof(float);

    if (r->n_values >= values_wanted(r) || position != r->n_ids - values_wanted(r) + r->n_values)
        return; /* rank 0 does not tell such things: its memory was damaged */
    if (bytes_reserve(&r->rows, bytes > told ? bytes : told) != STATUS_OK) {
        request_give_up(r, QUERN_CODE_OVERLOADED, log_last_error());
        return;
    }
    if (!cut_row(r, row, bytes, (float *)(void *)(r->rows.mem + r->rows.n))) {
        request_give_up(r, QUERN_CODE_MODEL, "the hidden state is not finite: a weight of this checkpoint "
            "may be damaged; with QUERN_CHECK_FINITE=1 the first layer that it comes from is named");
        return;
    }
    r->rows.n += told;
    r->n_values++;
    if (r->rows.n - r->rows_sent > ROWS_MARK && r->n_values < values_wanted(r) && !r->parking) {
        r->parking = true;
        request_withdraw(r);
    }
    request_has_news(r);
}

bool values_waiting(const struct request *r)
{
    return r->rows_sent < r->rows.n;
}

static void send_row(struct request *r)
{
    size_t bytes = values_columns(r) * sizeof(float);
    uint32_t left = (uint32_t)((r->rows.n - r->rows_sent) / bytes);
    struct frame_values v = {.fixed = sizeof(v), .columns = values_columns(r),
        .position = r->n_ids - values_wanted(r) + r->n_values - left};

    client_frame(r->client, FRAME_VALUES, r->number, &v, sizeof(v), r->rows.mem + r->rows_sent, bytes);
    r->rows_sent += bytes;
    if (r->rows_sent < r->rows.n && r->rows_sent < ROWS_MARK)
        return;
    memmove(r->rows.mem, r->rows.mem + r->rows_sent, r->rows.n - r->rows_sent);
    r->rows.n -= r->rows_sent;
    r->rows_sent = 0;
}

bool send_values(struct request *r)
{
    while (values_waiting(r)) {
        if (client_waiting(r->client) > OUT_MARK || r->client->leaving)
            return false;
        send_row(r);
    }
    return true;
}
