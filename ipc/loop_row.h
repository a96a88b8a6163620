/* loop_row.h - what loop.c and its two rows share; nobody else includes it.
 *
 * loop.c keeps what needs no kernel: the list of active ops, timers, results
 * that are ready, the order of a turn. A row moves bytes.
 *
 * An op's life:
 *   IDLE    the caller's
 *   QUEUED  armed, its request not yet in the kernel (io_uring); on a row's queue
 *   FLYING  the kernel, the row or the timer list will complete it
 *   READY   its final result is known; on loop->ready until this or the next
 *           turn delivers it
 * and from any of them back to IDLE through loop_finish(), which alone makes
 * the final call of done(). */
#ifndef IPC_LOOP_ROW_H
#define IPC_LOOP_ROW_H

#include "ipc/loop.h"

enum loop_kind {
    LOOP_ACCEPT,
    LOOP_RECV,
    LOOP_SEND,
    LOOP_BELL,
    LOOP_POLL_ONCE,
    LOOP_TIMER,
};

enum loop_state { LOOP_IDLE, LOOP_QUEUED, LOOP_FLYING, LOOP_READY };

struct loop {
    const struct loop_row *row;
    struct loop_node active; /* every op that is not IDLE */
    struct loop_node ready;
    struct loop_node timers; /* ascending deadlines */
    unsigned ran;            /* calls of done() in this turn */
    bool passed_over;        /* the last turn asked the kernel for nothing */
    bool turning, closing;
};

struct loop_row {
    const char *name;
    /* 0, or -errno where the system refuses; logs nothing. */
    int (*open)(struct loop **out);
    /* No op is FLYING or QUEUED any more. */
    void (*close)(struct loop *loop);
    /* op is FLYING, its kind, fd and bytes are set; never a timer. What fits of a send is out. */
    void (*arm)(struct loop *loop, struct loop_op *op);
    /* op is QUEUED or FLYING; ends in loop_finish(op, -ECANCELED), now or later. */
    void (*cancel)(struct loop *loop, struct loop_op *op);
    /* Waits once, at most timeout_ns (< 0: no end). OK also where the wait was cut short (a
     * signal): loop.c waits again. AGAIN: out of kernel memory for now, do not wait again. */
    enum status (*turn)(struct loop *loop, int64_t timeout_ns);
};

extern const struct loop_row loop_row_uring, loop_row_epoll;

/* Sends what fits, counting it in op. 0: all is out; -EAGAIN: the socket is full; else -errno. */
int loop_send_some(struct loop_op *op);

/* op's final result is known: a turn will deliver it. The row holds it no more. */
void loop_ready(struct loop *loop, struct loop_op *op, int64_t result);

/* Delivers the final completion now, inside a turn. op may be gone afterwards. */
void loop_finish(struct loop *loop, struct loop_op *op, int64_t result);

/* Delivers one that is not the last; op is still there afterwards, maybe cancelled. */
void loop_progress(struct loop *loop, struct loop_op *op, int64_t result);

#define LOOP_OP_OF(node, member)                                                                   \
    ((struct loop_op *)(void *)((char *)(node)-offsetof(struct loop_op, member)))

static inline void loop_list_init(struct loop_node *list)
{
    list->next = list->prev = list;
}

static inline bool loop_list_empty(const struct loop_node *list)
{
    return list->next == list;
}

/* Puts `node` before `place`; before the list itself is at its end. */
static inline void loop_list_insert(struct loop_node *place, struct loop_node *node)
{
    node->next = place;
    node->prev = place->prev;
    place->prev->next = node;
    place->prev = node;
}

/* A node that is on no list stays so. */
static inline void loop_list_remove(struct loop_node *node)
{
    if (node->next == NULL)
        return;
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node->prev = NULL;
}

/* Moves all of `from` to the empty list `to`. */
static inline void loop_list_take(struct loop_node *to, struct loop_node *from)
{
    loop_list_init(to);
    if (loop_list_empty(from))
        return;
    to->next = from->next;
    to->prev = from->prev;
    to->next->prev = to;
    to->prev->next = to;
    loop_list_init(from);
}

#endif
