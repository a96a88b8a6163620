/* mesh.h - the world's ranks by named dimensions, and the groups cut from it.
 *
 * The world is the `tp` ranks. `dp` of attention cuts them into attn_tp groups
 * that each see other sequences; `ep` cuts them for experts (FACTS 7):
 *
 *   tp        all ranks
 *   attn_tp   contiguous blocks of tp / dp
 *   moe_tp    contiguous blocks of tp / ep
 *   moe_ep    the ranks at one place of each moe_tp block (stride tp / ep)
 *
 * A mesh opens one dispatcher (coll_auto.h) per distinct group: groups of the
 * same ranks share one, a rank that is alone in its group has none.
 *
 * Ownership: a mesh owns its comms. Blocking: opening meets the other ranks. */
#ifndef QUERN_PARALLEL_MESH_H
#define QUERN_PARALLEL_MESH_H

#include "parallel/coll_shm.h"
#include "quern/comm_ops.h"

struct mesh_shape {
    int tp, dp, ep; /* dp and ep divide tp */
};

/* World ranks in the order of their places; `place` is ours. */
struct mesh_group {
    int size, place;
    int ranks[COMM_MAX_RANKS];
};

struct mesh {
    struct mesh_shape shape;
    int rank;
    struct mesh_group groups[COMM_GROUPS];
    struct comm_groups comms; /* NULL: alone in that group */
};

/* "tp", "attn_tp", ... */
const char *mesh_group_name(enum comm_group group);

/* INVALID (logged) with the numbers that work. */
enum status mesh_check(struct mesh_shape shape);

/* The group that `rank` is in. The shape has been checked. */
struct mesh_group mesh_group_of(struct mesh_shape shape, enum comm_group group, int rank);

/* Bytes of a rank's region that mesh_open() takes. Of `o` only the sizes count. */
size_t mesh_heap_bytes(struct mesh_shape shape, const struct coll_shm_options *o);

/* Every rank of the world at the same time. `o` as for one group of the whole world; rank, size
 * and ranks in it are overwritten for each group. measure_ns: see coll_auto_open(). */
enum status mesh_open(struct mesh_shape shape, int rank, const struct coll_shm_options *o,
    uint64_t measure_ns, struct mesh *out);

/* A zeroed mesh is ignored. */
void mesh_close(struct mesh *m);

#endif
