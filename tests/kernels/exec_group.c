/* exec_group.c - see exec_group.h. Ranks show each other pointers; pthread barriers keep the
 * calls together. Sums are in rank order from +0.0. */
#include "exec_group.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct shared {
    struct comm comms[GROUP_MAX];
    struct comm_row row;
    pthread_barrier_t everyone, speakers; /* all threads; one thread a rank */
    float *reduced[GROUP_MAX];
    const void *shown[GROUP_MAX];
    int gathers;
    size_t most_given;
};

static float add(float a, float b)
{
    return a + b;
}

static float larger(float a, float b)
{
    return a > b ? a : b;
}

static void show(struct comm *c, int thread, float *x)
{
    struct shared *g = c->state;

    if (thread == 0)
        g->reduced[c->rank] = x;
    pthread_barrier_wait(&g->everyone);
}

static void *room(size_t n)
{
    float *x = malloc((n + 1) * sizeof(*x));

    if (x == NULL)
        abort();
    return x;
}

/* Every thread a part: of all ranks' x into its own x. */
static void combine(struct comm *c, int thread, int threads, float *x, size_t n,
    float (*both)(float, float))
{
    struct shared *g = c->state;
    size_t from = n * (size_t)thread / (size_t)threads;
    size_t to = n * ((size_t)thread + 1) / (size_t)threads;
    float *part = room(to - from);

    show(c, thread, x);
    for (size_t i = from; i < to; i++) {
        part[i - from] = 0;
        for (int r = 0; r < c->size; r++)
            part[i - from] = both(part[i - from], g->reduced[r][i]);
    }
    pthread_barrier_wait(&g->everyone);
    memcpy(x + from, part, (to - from) * sizeof(*part));
    free(part);
}

static enum status sum(struct comm *c, int thread, int threads, float *x, size_t n)
{
    combine(c, thread, threads, x, n, add);
    return STATUS_OK;
}

static enum status maximum(struct comm *c, int thread, int threads, float *x, size_t n)
{
    combine(c, thread, threads, x, n, larger);
    return STATUS_OK;
}

static enum status reduce_scatter(struct comm *c, int thread, int threads, float *x, size_t rows,
    size_t cols)
{
    struct shared *g = c->state;
    struct comm_rows own = comm_own_rows(rows, c->rank, c->size);

    combine(c, thread, threads, x, rows * cols, add);
    pthread_barrier_wait(&g->everyone);
    for (size_t r = 0; thread == 0 && r < rows; r++)
        for (size_t i = 0; (r < own.first || r >= own.first + own.count) && i < cols; i++)
            x[r * cols + i] = NAN;
    return STATUS_OK;
}

static enum status gather_own_rows(struct comm *c, int thread, int threads, float *x, size_t rows,
    size_t cols)
{
    struct shared *g = c->state;

    (void)threads;
    show(c, thread, x);
    for (int r = 0; thread == 0 && r < c->size; r++) {
        struct comm_rows own = comm_own_rows(rows, r, c->size);

        if (r != c->rank)
            memcpy(x + own.first * cols, g->reduced[r] + own.first * cols,
                own.count * cols * sizeof(*x));
    }
    pthread_barrier_wait(&g->everyone);
    return STATUS_OK;
}

static enum status gather_columns(struct comm *c, int thread, int threads, const float *mine,
    size_t mine_cols, float *out, size_t rows, const struct column_map *map)
{
    struct shared *g = c->state;

    (void)threads;
    (void)mine_cols;
    show(c, thread, (float *)mine);
    for (int r = 0; thread == 0 && r < c->size; r++) {
        size_t cols = 0, at = 0;

        for (int p = 0; p < map->n_parts; p++)
            cols += map->parts[p].count[r];
        for (int p = 0; p < map->n_parts; at += map->parts[p++].count[r])
            for (size_t i = 0; i < rows; i++)
                memcpy(out + i * map->cols + map->parts[p].at + map->parts[p].first[r],
                    g->reduced[r] + i * cols + at, map->parts[p].count[r] * sizeof(*out));
    }
    pthread_barrier_wait(&g->everyone);
    return STATUS_OK;
}

static enum status fused(struct comm *c, int thread, int threads, const struct fused_norm_args *a)
{
    struct shared *g = c->state;

    combine(c, thread, threads, a->y, a->rows * a->cols, add);
    pthread_barrier_wait(&g->everyone);
    for (size_t r = 0; thread == 0 && r < a->rows; r++) {
        float *x = a->x + r * a->cols, *y = a->y + r * a->cols;
        double squares = 0;

        for (size_t i = 0; i < a->cols; i++) {
            x[i] += y[i];
            squares += (double)x[i] * x[i];
        }
        for (size_t i = 0; i < a->cols; i++) {
            a->out[r * a->cols + i] =
                x[i] * (float)(1 / sqrt(squares / (double)a->cols + (double)a->eps)) * a->w[i];
            y[i] = NAN;
        }
    }
    return STATUS_OK;
}

static enum status fused_not_here(struct comm *c, int thread, int threads,
    const struct fused_norm_args *a)
{
    (void)c;
    (void)thread;
    (void)threads;
    (void)a;
    return STATUS_UNSUPPORTED;
}

void group_set_fused(struct shared *g, enum group_fused how)
{
    g->row.fused_all_reduce_norm =
        how == FUSED_MISSING ? NULL : how == FUSED_WORKS ? fused : fused_not_here;
}

/* What a rank gives. */
static void give(struct comm *c, const void *mine, size_t bytes)
{
    struct shared *g = c->state;

    g->shown[c->rank] = mine;
    if (c->rank == 0 && bytes > g->most_given)
        g->most_given = bytes;
}

static enum status gather(struct comm *c, const void *mine, size_t bytes, void *all)
{
    struct shared *g = c->state;

    give(c, mine, bytes);
    if (c->rank == 0)
        g->gathers++;
    pthread_barrier_wait(&g->speakers);
    for (int r = 0; r < c->size; r++)
        memcpy((char *)all + (size_t)r * bytes, g->shown[r], bytes);
    pthread_barrier_wait(&g->speakers);
    return STATUS_OK;
}

static enum status gather_rows(struct comm *c, int root, const void *mine, size_t rows,
    const size_t *sizes, const size_t *offsets, void *out, size_t out_stride)
{
    struct shared *g = c->state;

    give(c, mine, rows * sizes[c->rank]);
    pthread_barrier_wait(&g->speakers);
    for (int r = 0; r < c->size && c->rank == root; r++)
        for (size_t i = 0; i < rows; i++)
            memcpy((char *)out + i * out_stride + offsets[r],
                (const char *)g->shown[r] + i * sizes[r], sizes[r]);
    pthread_barrier_wait(&g->speakers);
    return STATUS_OK;
}

struct shared *group_open(int size, int threads)
{
    struct shared *g = calloc(1, sizeof(*g));

    if (g == NULL)
        abort();
    g->row = (struct comm_row){.name = "threads", .all_reduce_f32 = sum, .max_reduce_f32 = maximum,
        .reduce_scatter_rows = reduce_scatter, .all_gather_rows = gather_own_rows,
        .all_gather_cols = gather_columns, .all_gather = gather, .gather_rows = gather_rows};
    for (int r = 0; r < size; r++)
        g->comms[r] = (struct comm){.rank = r, .size = size, .row = &g->row, .state = g};
    pthread_barrier_init(&g->everyone, NULL, (unsigned)(size * threads));
    pthread_barrier_init(&g->speakers, NULL, (unsigned)size);
    return g;
}

void shared_close(struct shared *g)
{
    pthread_barrier_destroy(&g->everyone);
    pthread_barrier_destroy(&g->speakers);
    free(g);
}

struct comm *group_comm(struct shared *g, int rank)
{
    return &g->comms[rank];
}

size_t group_most_given(const struct shared *g)
{
    return g->most_given;
}

int group_gathers(const struct shared *g)
{
    return g->gathers;
}
