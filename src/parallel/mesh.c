/* mesh.c - rank arithmetic, and one dispatcher per distinct set of ranks.
 *
 * Whether two groups are the same set depends on the shape alone (a block and a
 * stride are the same only when they are everything), so every rank opens the
 * same comms in the same order and the symmetric heap stays symmetric. */
#include "parallel/mesh.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "parallel/coll_auto.h"
#include "quern/log.h"

const char *mesh_group_name(enum comm_group group)
{
    static const char *const names[COMM_GROUPS] = {
        [GROUP_TP] = "tp",
        [GROUP_ATTN_TP] = "attn_tp",
        [GROUP_MOE_TP] = "moe_tp",
        [GROUP_MOE_EP] = "moe_ep",
    };

    return names[group];
}

/* `what` must divide tp: if not, the numbers that do. */
static enum status check_divides(const char *what, int n, int tp)
{
    char works[64] = "";
    size_t used = 0;

    if (n >= 1 && tp % n == 0)
        return STATUS_OK;
    for (int i = 1; i <= tp; i++)
        if (tp % i == 0)
            used += (size_t)snprintf(works + used, sizeof(works) - used, "%s%d",
                used > 0 ? ", " : "", i);
    return log_fail(STATUS_INVALID, "%s %d does not divide tp %d: use %s", what, n, tp, works);
}

enum status mesh_check(struct mesh_shape shape)
{
    enum status s;

    if (shape.tp < 1 || shape.tp > COMM_MAX_RANKS)
        return log_fail(STATUS_INVALID, "tp %d: use 1 to %d ranks", shape.tp, COMM_MAX_RANKS);
    s = check_divides("dp", shape.dp, shape.tp);
    return s == STATUS_OK ? check_divides("ep", shape.ep, shape.tp) : s;
}

/* `size` ranks from `first` on, `stride` apart. */
static struct mesh_group series(int first, int stride, int size, int rank)
{
    struct mesh_group g = {.size = size, .place = (rank - first) / stride};

    for (int i = 0; i < size; i++)
        g.ranks[i] = first + i * stride;
    return g;
}

static struct mesh_group block(int size, int rank)
{
    return series(rank / size * size, 1, size, rank);
}

struct mesh_group mesh_group_of(struct mesh_shape shape, enum comm_group group, int rank)
{
    int moe_tp = shape.tp / shape.ep;

    switch (group) {
    case GROUP_TP: break;
    case GROUP_ATTN_TP: return block(shape.tp / shape.dp, rank);
    case GROUP_MOE_TP: return block(moe_tp, rank);
    case GROUP_MOE_EP: return series(rank % moe_tp, moe_tp, shape.ep, rank);
    case COMM_GROUPS: break;
    }
    return block(shape.tp, rank);
}

static bool same_ranks(const struct mesh_group *a, const struct mesh_group *b)
{
    return a->size == b->size &&
           memcmp(a->ranks, b->ranks, (size_t)a->size * sizeof(a->ranks[0])) == 0;
}

/* The first group with the ranks of group g; g itself when it is the first. */
static int first_alike(const struct mesh_group groups[COMM_GROUPS], int g)
{
    for (int i = 0; i < g; i++)
        if (same_ranks(&groups[i], &groups[g]))
            return i;
    return g;
}

static void find_groups(struct mesh_shape shape, int rank, struct mesh_group groups[COMM_GROUPS])
{
    for (int g = 0; g < COMM_GROUPS; g++)
        groups[g] = mesh_group_of(shape, (enum comm_group)g, rank);
}

static struct coll_shm_options options_of(const struct mesh_group *g,
    const struct coll_shm_options *o)
{
    struct coll_shm_options own = *o;

    own.rank = g->place;
    own.size = g->size;
    own.ranks = g->ranks;
    return own;
}

size_t mesh_heap_bytes(struct mesh_shape shape, const struct coll_shm_options *o)
{
    struct mesh_group groups[COMM_GROUPS];
    size_t bytes = 0;

    find_groups(shape, 0, groups);
    for (int g = 0; g < COMM_GROUPS; g++) {
        struct coll_shm_options own = options_of(&groups[g], o);

        if (groups[g].size > 1 && first_alike(groups, g) == g)
            bytes += coll_auto_heap_bytes(&own);
    }
    return bytes;
}

enum status mesh_open(struct mesh_shape shape, int rank, const struct coll_shm_options *o,
    uint64_t measure_ns, struct mesh *out)
{
    struct mesh m = {.shape = shape, .rank = rank};
    enum status s = mesh_check(shape);

    if (s != STATUS_OK)
        return s;
    find_groups(shape, rank, m.groups);
    for (int g = 0; s == STATUS_OK && g < COMM_GROUPS; g++) {
        int like = first_alike(m.groups, g);
        struct coll_shm_options own = options_of(&m.groups[g], o);

        if (like < g)
            m.comms.group[g] = m.comms.group[like];
        else if (m.groups[g].size > 1)
            s = coll_auto_open(&own, measure_ns, &m.comms.group[g]);
    }
    if (s != STATUS_OK) {
        mesh_close(&m);
        return s;
    }
    *out = m;
    return STATUS_OK;
}

void mesh_close(struct mesh *m)
{
    for (int g = 0; g < COMM_GROUPS; g++)
        if (first_alike(m->groups, g) == g)
            coll_auto_close(m->comms.group[g]);
    *m = (struct mesh){0};
}
