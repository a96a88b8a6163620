/* exec_group.c - see exec_group.h. Ranks show each other pointers; pthread barriers keep the
 * calls together. Sums are in rank order from +0.0. */
#include "exec_group.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct group {
    struct comm comms[GROUP_MAX];
    pthread_barrier_t everyone, speakers; /* all threads; one thread a rank */
    float *reduced[GROUP_MAX];
    const void *shown[GROUP_MAX];
    int gathers;
};

static enum status sum(struct comm *c, int thread, int threads, float *x, size_t n)
{
    struct group *g = c->state;
    size_t from = n * (size_t)thread / (size_t)threads;
    size_t to = n * ((size_t)thread + 1) / (size_t)threads;
    float *part = malloc((to - from + 1) * sizeof(*part));

    if (part == NULL)
        abort();
    if (thread == 0)
        g->reduced[c->rank] = x;
    pthread_barrier_wait(&g->everyone);
    for (size_t i = from; i < to; i++) {
        part[i - from] = 0;
        for (int r = 0; r < c->size; r++)
            part[i - from] += g->reduced[r][i];
    }
    pthread_barrier_wait(&g->everyone);
    memcpy(x + from, part, (to - from) * sizeof(*part));
    free(part);
    return STATUS_OK;
}

static enum status gather(struct comm *c, const void *mine, size_t bytes, void *all)
{
    struct group *g = c->state;

    g->shown[c->rank] = mine;
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
    struct group *g = c->state;

    g->shown[c->rank] = mine;
    pthread_barrier_wait(&g->speakers);
    for (int r = 0; r < c->size && c->rank == root; r++)
        for (size_t i = 0; i < rows; i++)
            memcpy((char *)out + i * out_stride + offsets[r],
                (const char *)g->shown[r] + i * sizes[r], sizes[r]);
    pthread_barrier_wait(&g->speakers);
    return STATUS_OK;
}

struct group *group_open(int size, int threads)
{
    static const struct comm_row row = {
        .name = "threads", .all_reduce_f32 = sum, .all_gather = gather, .gather_rows = gather_rows};
    struct group *g = calloc(1, sizeof(*g));

    if (g == NULL)
        abort();
    for (int r = 0; r < size; r++)
        g->comms[r] = (struct comm){.rank = r, .size = size, .row = &row, .state = g};
    pthread_barrier_init(&g->everyone, NULL, (unsigned)(size * threads));
    pthread_barrier_init(&g->speakers, NULL, (unsigned)size);
    return g;
}

void group_close(struct group *g)
{
    pthread_barrier_destroy(&g->everyone);
    pthread_barrier_destroy(&g->speakers);
    free(g);
}

struct comm *group_comm(struct group *g, int rank)
{
    return &g->comms[rank];
}

int group_gathers(const struct group *g)
{
    return g->gathers;
}
