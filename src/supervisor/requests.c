/* requests.c - the journal: what each request asked for, and how it ends.
 *
 * A request's id carries its place in the table, so its way back costs no
 * search, and a serial number, so a late message of an ended request finds
 * nothing. Its client finds it by number, everybody by key; both are hash
 * maps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

enum { INDEX_BITS = 20, FIRST_TABLE = 64 };

/* A system call for every 64 numbers. */
uint64_t random_u64(void)
{
    static uint64_t drawn[64];
    static unsigned left;

    if (left == 0) {
        if (getrandom(drawn, sizeof(drawn), 0) != (ssize_t)sizeof(drawn)) /* cannot be for so few */
            drawn[0] = spin_now_ns();
        left = 64;
    }
    return drawn[--left];
}

void requests_init(struct supervisor *sv)
{
    list_init(&sv->withdrawn);
    list_init(&sv->encoding);
    list_init(&sv->kept);
}

struct request *request_find(struct supervisor *sv, uint64_t id)
{
    uint64_t index = id & ((1u << INDEX_BITS) - 1);
    struct request *r = index < sv->table_room ? sv->table[index] : NULL;

    return r != NULL && r->id == id ? r : NULL;
}

/* The table ------------------------------------------------------------------------------- */

static enum status grow_table(struct supervisor *sv)
{
    uint32_t room = sv->table_room ? 2 * sv->table_room : FIRST_TABLE;
    struct request **table = realloc(sv->table, room * sizeof(struct request *));
    uint32_t *places;

    if (table != NULL)
        sv->table = table;
    places = realloc(sv->free_places, room * sizeof(*places));
    if (places != NULL)
        sv->free_places = places;
    if (table == NULL || places == NULL)
        return log_fail(STATUS_NOMEM, "no memory for another request");
    for (uint32_t i = room; i > sv->table_room; i--) {
        table[i - 1] = NULL;
        places[sv->n_free_places++] = i - 1;
    }
    sv->table_room = room;
    return STATUS_OK;
}

/* Ended ones that are kept make room for new ones. */
static void make_room(struct supervisor *sv)
{
    struct list_node *at = sv->kept.next, *after;

    for (; sv->n_requests >= MOST_REQUESTS && at != &sv->kept; at = after) {
        struct request *r = LIST_OF(at, struct request, kept);

        after = at->next;
        if (r->state == REQUEST_ENDED)
            request_free(sv, r);
    }
}

static enum status check_limits(struct supervisor *sv, const struct client *c,
    const struct request *r, enum quern_code *code)
{
    *code = QUERN_CODE_QUOTA;
    if (c->n_requests >= MOST_REQUESTS_EACH)
        return log_fail(STATUS_NOMEM, "this connection has %u requests under way, a connection may "
            "have no more: wait for some to end", c->n_requests);
    if (r->prompt_bytes > MOST_PROMPT_BYTES_EACH - c->prompt_bytes)
        return log_fail(STATUS_NOMEM, "the prompts of this connection take %zu MiB, %d are possible: "
            "wait for some to end", c->prompt_bytes >> 20, MOST_PROMPT_BYTES_EACH >> 20);
    *code = QUERN_CODE_OVERLOADED;
    make_room(sv);
    if (sv->n_requests >= MOST_REQUESTS)
        return log_fail(STATUS_NOMEM, "there are %u requests already: try again later",
            sv->n_requests);
    if (r->prompt_bytes > MOST_PROMPT_BYTES - sv->prompt_bytes)
        return log_fail(STATUS_NOMEM, "the prompts of %u requests take %zu MiB already: try again "
            "later", sv->n_requests, sv->prompt_bytes >> 20);
    return sv->n_free_places == 0 ? grow_table(sv) : STATUS_OK;
}

enum status request_place(struct supervisor *sv, struct client *c, struct request *r,
    enum quern_code *code)
{
    enum status s = check_limits(sv, c, r, code);

    if (s == STATUS_OK)
        s = hash_map_put(&c->numbers, r->number, r);
    if (s != STATUS_OK)
        return s;
    if (hash_map_put(&sv->keys, r->key, r) != STATUS_OK) {
        hash_map_remove(&c->numbers, r->number);
        return STATUS_NOMEM;
    }
    r->client = c;
    r->id = ++sv->serial << INDEX_BITS | sv->free_places[--sv->n_free_places];
    sv->table[r->id & ((1u << INDEX_BITS) - 1)] = r;
    sv->n_requests++;
    request_count(sv, r, 1);
    sv->prompt_bytes += r->prompt_bytes;
    c->n_requests++;
    c->prompt_bytes += r->prompt_bytes;
    list_append(&c->requests, &r->of_client);
    return STATUS_OK;
}

static size_t kept_bytes_of(const struct request *r)
{
    return sizeof(*r) + ((size_t)r->n_ids + r->n_bad_ids) * sizeof(int32_t) + answers_bytes(r);
}

void request_unkeep(struct request *r)
{
    if (!list_on(&r->kept))
        return;
    list_remove(&r->kept);
    if (r->state == REQUEST_ENDED)
        r->client->sv->kept_bytes -= kept_bytes_of(r);
}

/* Out of its client's books. */
static void take_from_client(struct request *r)
{
    struct client *c = r->client;

    if (hash_map_get(&c->numbers, r->number) == r)
        hash_map_remove(&c->numbers, r->number);
    c->n_requests--;
    c->prompt_bytes -= r->prompt_bytes;
    list_remove(&r->of_client);
    list_remove(&r->news);
}

/* Nobody's turn comes to it any more. */
static void take_from_queue(struct request *r)
{
    request_unqueue(r);
    list_remove(&r->encoding);
}

void request_free(struct supervisor *sv, struct request *r)
{
    request_unkeep(r);
    take_from_queue(r);
    take_from_client(r);
    list_remove(&r->withdrawn);
    if (hash_map_get(&sv->keys, r->key) == r)
        hash_map_remove(&sv->keys, r->key);
    sv->table[r->id & ((1u << INDEX_BITS) - 1)] = NULL;
    sv->free_places[sv->n_free_places++] = (uint32_t)(r->id & ((1u << INDEX_BITS) - 1));
    sv->n_requests--;
    request_count(sv, r, -1);
    sv->prompt_bytes -= r->prompt_bytes;
    bytes_free(&r->data);
    answers_free(r);
    free(r->params_mem);
    free(r->bad_ids);
    free(r->ids);
    free(r->line);
    free(r);
}

void requests_free(struct supervisor *sv)
{
    for (uint32_t i = 0; i < sv->table_room; i++)
        if (sv->table[i] != NULL)
            request_free(sv, sv->table[i]);
    hash_map_free(&sv->keys);
    free(sv->free_places);
    free(sv->table);
    sv->table = NULL;
    sv->table_room = 0;
}

/* Ends ------------------------------------------------------------------------------------ */

void request_withdraw(struct request *r)
{
    if (!list_on(&r->withdrawn))
        list_append(&r->client->sv->withdrawn, &r->withdrawn);
    r->client->sv->queued = true;
}

void request_park(struct request *r)
{
    r->parking = false;
    list_remove(&r->withdrawn);
    request_move(r, REQUEST_PARKED);
    request_has_news(r);
}

void request_end(struct request *r)
{
    struct supervisor *sv = r->client->sv;

    answers_count(r, -(int)r->n_running);
    take_from_queue(r);
    list_remove(&r->withdrawn);
    bytes_free(&r->data);
    request_move(r, REQUEST_ENDED);
    r->ended_ns = spin_now_ns();
    if (list_on(&r->kept)) { /* its client has gone: from now on its bytes count */
        sv->kept_bytes += kept_bytes_of(r);
        sv->watch_new = true;
        return;
    }
    if (r->client == sv->nobody)
        request_free(sv, r);
    else
        request_has_news(r);
}

void request_finish(struct request *r, enum quern_finish finish)
{
    for (uint32_t i = 0; i < r->n_answers; i++)
        if (!r->answers[i].ended)
            answer_end(r, &r->answers[i], finish, r->answers[i].n_ids);
    request_end(r);
}

void request_fail(struct request *r, enum quern_code code, const char *line)
{
    if (r->code == QUERN_CODE_NONE) { /* else it is given up already, for the first reason */
        r->code = code;
        r->line = strdup(line);
    }
    request_end(r);
}

/* What a worker has ends when the worker says so; the rest ends here. */
void request_stop(struct request *r)
{
    if (r->cancelled || r->state == REQUEST_ENDED)
        return;
    r->cancelled = true;
    if (r->state == REQUEST_RUNNING)
        request_withdraw(r);
    else if (r->state != REQUEST_ENCODING)
        request_finish(r, QUERN_FINISH_CANCELLED);
}

void requests_fail_all(struct supervisor *sv, enum quern_code code, const char *line)
{
    for (uint32_t i = 0; i < sv->table_room; i++) {
        struct request *r = sv->table[i];

        if (r != NULL && r->state != REQUEST_ENDED)
            request_fail(r, code, line);
    }
}

/* Keeping --------------------------------------------------------------------------------- */

enum status request_give(struct request *r, struct client *to, uint64_t number)
{
    struct supervisor *sv = to->sv;
    bool queued = heap_on(&r->waits);

    if (to != sv->nobody && hash_map_put(&to->numbers, number, r) != STATUS_OK)
        return STATUS_NOMEM;
    request_unqueue(r);
    take_from_client(r);
    r->client = to;
    r->number = number;
    to->n_requests++;
    to->prompt_bytes += r->prompt_bytes;
    list_append(&to->requests, &r->of_client);
    if (queued)
        request_queue(r, false);
    return STATUS_OK;
}

/* Nobody's now, for a while. */
static void keep(struct request *r)
{
    struct supervisor *sv = r->client->sv;
    uint32_t s = r->params.keep_s < MOST_KEEP_S ? r->params.keep_s : MOST_KEEP_S;
    struct list_node *at = sv->kept.prev;

    request_give(r, sv->nobody, 0);
    r->keep_until_ns = spin_now_ns() + s * UINT64_C(1000000000);
    while (at != &sv->kept && LIST_OF(at, struct request, kept)->keep_until_ns > r->keep_until_ns)
        at = at->prev; /* from the end: mostly all keep for the same time */
    list_insert_before(at->next, &r->kept);
    if (r->state == REQUEST_ENDED)
        sv->kept_bytes += kept_bytes_of(r);
    sv->watch_new = true;
}

static void drop_kept(struct supervisor *sv, struct request *r)
{
    request_unkeep(r);
    if (r->state == REQUEST_ENDED)
        request_free(sv, r);
    else
        request_stop(r);
}

void requests_expire(struct supervisor *sv, uint64_t now_ns)
{
    while (!list_empty(&sv->kept)) {
        struct request *r = LIST_OF(sv->kept.next, struct request, kept);

        if (r->keep_until_ns > now_ns && sv->kept_bytes <= MOST_KEPT_BYTES)
            return;
        drop_kept(sv, r);
    }
}

void request_release(struct request *r)
{
    struct supervisor *sv = r->client->sv;

    if (r->params.keep_s == 0 || r->task != TASK_COMPLETE) {
        request_free(sv, r);
        return;
    }
    keep(r);
    requests_expire(sv, spin_now_ns());
}

void requests_orphan(struct client *c)
{
    struct list_node *at = c->requests.next, *after;

    for (; at != &c->requests; at = after) {
        struct request *r = LIST_OF(at, struct request, of_client);

        after = at->next;
        if (r->params.keep_s > 0 && r->task == TASK_COMPLETE && !r->cancelled) {
            keep(r);
            continue;
        }
        if (r->state == REQUEST_ENDED) {
            request_free(c->sv, r);
            continue;
        }
        request_give(r, c->sv->nobody, 0);
        request_stop(r);
    }
}
