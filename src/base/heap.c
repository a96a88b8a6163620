/* heap.c - trees whose roots go before their children, joined two by two. */
#include "base/heap.h"

void heap_init(struct heap *h, heap_before *before)
{
    h->root = NULL;
    h->before = before;
}

/* Two trees as one; neither root has siblings. */
static struct heap_node *join(const struct heap *h, struct heap_node *a, struct heap_node *b)
{
    struct heap_node *top = h->before(b, a) ? b : a, *below = top == a ? b : a;

    below->next = top->child;
    if (below->next != NULL)
        below->next->prev = below;
    below->prev = top;
    top->child = below;
    return top;
}

/* A list of trees as one: pairs from the left, then these from the right. */
static struct heap_node *join_all(const struct heap *h, struct heap_node *first)
{
    struct heap_node *pairs = NULL, *all;

    while (first != NULL) {
        struct heap_node *a = first, *b = a->next;

        first = b != NULL ? b->next : NULL;
        a->next = NULL;
        if (b != NULL) {
            b->next = NULL;
            a = join(h, a, b);
        }
        a->next = pairs;
        pairs = a;
    }
    all = pairs;
    pairs = all != NULL ? all->next : NULL;
    while (pairs != NULL) {
        struct heap_node *next = pairs->next;

        pairs->next = all->next = NULL;
        all = join(h, all, pairs);
        pairs = next;
    }
    return all;
}

static void set_root(struct heap *h, struct heap_node *root)
{
    h->root = root;
    if (root == NULL)
        return;
    root->next = NULL;
    root->prev = root;
}

void heap_insert(struct heap *h, struct heap_node *node)
{
    node->child = node->next = NULL;
    set_root(h, h->root != NULL ? join(h, h->root, node) : node);
}

void heap_remove(struct heap *h, struct heap_node *node)
{
    struct heap_node *below;

    if (!heap_on(node))
        return;
    below = join_all(h, node->child);
    if (node == h->root) {
        set_root(h, below);
    } else {
        if (node->prev->child == node)
            node->prev->child = node->next;
        else
            node->prev->next = node->next;
        if (node->next != NULL)
            node->next->prev = node->prev;
        if (below != NULL) {
            below->next = NULL;
            set_root(h, join(h, h->root, below));
        }
    }
    *node = (struct heap_node){0};
}
