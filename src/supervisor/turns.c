/* turns.c - who is next for the text worker and for rank 0.
 *
 * Each client has a line of requests for either: the most urgent first, and of
 * equals in order of arrival. Among clients the one whose first request is most
 * urgent is next; of equals, the one that was served longest ago. So a client
 * with thousands of requests waits as long for its next as one with two, and
 * whoever is in a hurry says so by its priority. Lines are heaps: what thousands
 * of priorities in any order cost is a logarithm. */
#include "supervisor/supervisor.h"

static const struct request *request_at(const struct heap_node *node)
{
    return LIST_OF(node, struct request, waits);
}

static const struct line *line_at(const struct heap_node *node)
{
    return LIST_OF(node, struct line, turn);
}

static bool request_before(const struct heap_node *a, const struct heap_node *b)
{
    const struct request *x = request_at(a), *y = request_at(b);

    if (x->params.priority != y->params.priority)
        return x->params.priority < y->params.priority;
    return x->place < y->place;
}

/* Of lines that are not empty. */
static bool line_before(const struct heap_node *a, const struct heap_node *b)
{
    const struct line *x = line_at(a), *y = line_at(b);
    int32_t urgency_x = request_at(heap_first(&x->requests))->params.priority;
    int32_t urgency_y = request_at(heap_first(&y->requests))->params.priority;

    if (urgency_x != urgency_y)
        return urgency_x < urgency_y;
    return x->place < y->place;
}

void turns_init(struct supervisor *sv)
{
    for (int i = 0; i < WAITS; i++)
        heap_init(&sv->turns[i], line_before);
}

void lines_init(struct client *c)
{
    for (int i = 0; i < WAITS; i++)
        heap_init(&c->lines[i].requests, request_before);
}

static enum waits_for waits_for(const struct request *r)
{
    return r->state == REQUEST_NEW ? FOR_TEXT : FOR_LEADER;
}

void request_queue(struct request *r, bool first)
{
    struct supervisor *sv = r->client->sv;
    enum waits_for what = waits_for(r);
    struct line *line = &r->client->lines[what];
    int64_t place = ++sv->places;

    if (heap_first(&line->requests) == NULL)
        line->place = place;
    heap_remove(&sv->turns[what], &line->turn);
    r->waits_in = what;
    r->place = first ? -place : place;
    heap_insert(&line->requests, &r->waits);
    heap_insert(&sv->turns[what], &line->turn);
    sv->queued = true;
}

static void leave(struct request *r, bool served)
{
    struct supervisor *sv = r->client->sv;
    struct line *line = &r->client->lines[r->waits_in];

    if (!heap_on(&r->waits))
        return;
    heap_remove(&sv->turns[r->waits_in], &line->turn);
    heap_remove(&line->requests, &r->waits);
    if (served)
        line->place = ++sv->places;
    if (heap_first(&line->requests) != NULL)
        heap_insert(&sv->turns[r->waits_in], &line->turn);
}

void request_unqueue(struct request *r)
{
    leave(r, false);
}

struct request *turn_first(struct supervisor *sv, enum waits_for what)
{
    struct heap_node *turn = heap_first(&sv->turns[what]);

    return turn == NULL ? NULL
                        : LIST_OF(heap_first(&LIST_OF(turn, struct line, turn)->requests),
                              struct request, waits);
}

void turn_taken(struct request *r)
{
    leave(r, true);
}
