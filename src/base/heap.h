/* heap.h - intrusive priority queues: who goes first, and anybody may leave.
 *
 * A pairing heap: joining and asking who is first cost a comparison or none,
 * leaving a logarithm of them on average over any sequence of calls. No
 * allocation. A node is in one heap at most; all zero means in none. While it is
 * in, nothing that before() looks at may change. */
#ifndef QUERN_BASE_HEAP_H
#define QUERN_BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>

struct heap_node {
    struct heap_node *child, *next; /* its first child, and its parent's next */
    struct heap_node *prev;         /* the child before it, or its parent; the root: itself */
};

/* A strict order. */
typedef bool heap_before(const struct heap_node *a, const struct heap_node *b);

struct heap {
    struct heap_node *root;
    heap_before *before;
};

void heap_init(struct heap *h, heap_before *before);

/* NULL: it is empty. */
static inline struct heap_node *heap_first(const struct heap *h)
{
    return h->root;
}

static inline bool heap_on(const struct heap_node *node)
{
    return node->prev != NULL;
}

void heap_insert(struct heap *h, struct heap_node *node);

/* In none: no effect. */
void heap_remove(struct heap *h, struct heap_node *node);

#endif
