/* requests.c - the journal: what each request asked for, and how it ends.
 *
 * A request's number carries its place in the table, so an id's way back costs
 * no search, and a serial number, so a late message of an ended request finds
 * nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "quern/spin.h"
#include "quern.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

enum { INDEX_BITS = 20, FIRST_TABLE = 64, MOST_REQUESTS = 1 << 16, MOST_GIVEN_BYTES = 256 << 20 };

static void fifo_init(struct fifo *f)
{
    f->head = NULL;
    f->tail = &f->head;
}

void fifo_put(struct fifo *f, struct request *r)
{
    r->next = NULL;
    *f->tail = r;
    f->tail = &r->next;
}

struct request *fifo_take(struct fifo *f)
{
    struct request *r = f->head;

    f->head = r->next;
    if (f->head == NULL)
        f->tail = &f->head;
    return r;
}

static void fifo_remove(struct fifo *f, struct request *r)
{
    for (struct request **at = &f->head; *at != NULL; at = &(*at)->next)
        if (*at == r) {
            *at = r->next;
            if (f->tail == &r->next)
                f->tail = at;
            return;
        }
}

void requests_init(struct supervisor *sv)
{
    fifo_init(&sv->to_text);
    fifo_init(&sv->to_leader);
    fifo_init(&sv->news);
}

struct request *request_find(struct supervisor *sv, uint64_t id)
{
    uint64_t index = id & ((1u << INDEX_BITS) - 1);
    struct request *r = index < sv->table_room ? sv->table[index] : NULL;

    return r != NULL && r->id == id ? r : NULL;
}

/* A free place in the table; it doubles when there is none. */
static enum status place(struct supervisor *sv, struct request *r)
{
    uint32_t i = 0, room = sv->table_room ? 2 * sv->table_room : FIRST_TABLE;
    struct request **table;

    if (sv->n_requests >= MOST_REQUESTS)
        return log_fail(STATUS_NOMEM, "there are %u requests already: try again later",
            sv->n_requests);
    if (r->given_bytes > MOST_GIVEN_BYTES - sv->given_bytes)
        return log_fail(STATUS_NOMEM, "the prompts of %u requests take %zu MiB already: try again "
            "later", sv->n_requests, sv->given_bytes >> 20);
    while (i < sv->table_room && sv->table[i] != NULL)
        i++;
    if (i == sv->table_room) {
        table = realloc(sv->table, room * sizeof(struct request *));
        if (table == NULL)
            return log_fail(STATUS_NOMEM, "no memory for another request");
        memset(table + sv->table_room, 0, (room - sv->table_room) * sizeof(struct request *));
        sv->table = table;
        sv->table_room = room;
    }
    r->id = ++sv->serial << INDEX_BITS | i;
    sv->table[i] = r;
    sv->n_requests++;
    sv->given_bytes += r->given_bytes;
    return STATUS_OK;
}

void request_free(struct supervisor *sv, struct request *r)
{
    if (r->has_news)
        fifo_remove(&sv->news, r);
    if (r->state == REQUEST_NEW)
        fifo_remove(&sv->to_text, r);
    if (r->state == REQUEST_QUEUED)
        fifo_remove(&sv->to_leader, r);
    sv->table[r->id & ((1u << INDEX_BITS) - 1)] = NULL;
    sv->n_requests--;
    sv->given_bytes -= r->given_bytes;
    if (r->client != NULL)
        r->client->requests--;
    bytes_free(&r->data);
    bytes_free(&r->text);
    free(r->ids);
    free(r->produced);
    free(r);
}

void request_end_with_error(struct supervisor *sv, struct request *r, const char *line)
{
    if (r->client != NULL)
        client_error(r->client, r->client_id, line);
    request_free(sv, r);
}

void requests_fail(struct supervisor *sv, const char *line)
{
    for (uint32_t i = 0; i < sv->table_room; i++)
        if (sv->table[i] != NULL)
            request_end_with_error(sv, sv->table[i], line);
}

void requests_free(struct supervisor *sv)
{
    for (uint32_t i = 0; i < sv->table_room; i++)
        if (sv->table[i] != NULL) {
            sv->table[i]->client = NULL;
            request_free(sv, sv->table[i]);
        }
    free(sv->table);
    sv->table = NULL;
}

/* Submitting ------------------------------------------------------------------------------ */

static enum status check_params(const struct frame_submit *p, size_t bytes)
{
    if (p->kind > SUBMIT_CHAT)
        return log_fail(STATUS_INVALID, "a request of kind %u: there are 0 (text), 1 (ids), 2 (chat)",
            p->kind);
    if (bytes == 0)
        return log_fail(STATUS_INVALID, "the prompt is empty: give it at least one character");
    if (p->kind == SUBMIT_IDS && bytes % sizeof(int32_t) != 0)
        return log_fail(STATUS_INVALID, "%zu bytes of token ids are no whole number of them", bytes);
    if (p->max_tokens == 0)
        return log_fail(STATUS_INVALID, "max_tokens is 0: use 1 or more");
    if (!(p->temperature <= 100) || !(p->top_p <= 1) || p->top_p == 0 || !(p->min_p <= 1))
        return log_fail(STATUS_INVALID, "temperature %g, top_p %g, min_p %g: they go up to 100, 1 "
            "and 1, and top_p is above 0", p->temperature, p->top_p, p->min_p);
    return STATUS_OK;
}

static enum status fill_request(struct request *r, const void *data, size_t bytes)
{
    if (r->params.kind != SUBMIT_IDS) {
        r->state = REQUEST_NEW;
        return bytes_add(&r->data, data, bytes);
    }
    r->state = REQUEST_QUEUED;
    r->n_ids = (uint32_t)(bytes / sizeof(int32_t));
    r->ids = malloc(bytes);
    if (r->ids == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %u token ids", r->n_ids);
    memcpy(r->ids, data, bytes);
    return STATUS_OK;
}

static enum status draw_seed(struct frame_submit *p)
{
    if (p->flags & SUBMIT_HAS_SEED)
        return STATUS_OK;
    p->flags |= SUBMIT_HAS_SEED;
    if (getrandom(&p->seed, sizeof(p->seed), 0) != (ssize_t)sizeof(p->seed))
        return log_fail(STATUS_IO, "the system gives no random seed: use --seed");
    return STATUS_OK;
}

static enum status accept_request(struct client *c, uint64_t client_id,
    const struct frame_submit *params, const void *data, size_t bytes)
{
    struct supervisor *sv = c->sv;
    struct request *r;
    enum status s = check_params(params, bytes);

    if (s != STATUS_OK)
        return s;
    r = calloc(1, sizeof(*r));
    if (r == NULL)
        return log_fail(STATUS_NOMEM, "no memory for another request");
    r->client_id = client_id;
    r->params = *params;
    r->given_bytes = bytes;
    r->arrived_ns = spin_now_ns();
    s = fill_request(r, data, bytes);
    if (s == STATUS_OK)
        s = draw_seed(&r->params);
    if (s == STATUS_OK)
        s = place(sv, r);
    if (s != STATUS_OK) {
        bytes_free(&r->data);
        free(r->ids);
        free(r);
        return s;
    }
    r->client = c;
    c->requests++;
    fifo_put(r->state == REQUEST_NEW ? &sv->to_text : &sv->to_leader, r);
    return STATUS_OK;
}

static struct request *find_of_client(const struct client *c, uint64_t client_id)
{
    for (uint32_t i = 0; i < c->sv->table_room; i++) {
        struct request *r = c->sv->table[i];

        if (r != NULL && r->client == c && r->client_id == client_id)
            return r;
    }
    return NULL;
}

void request_submit(struct client *c, uint64_t client_id, const struct frame_submit *params,
    const void *data, size_t bytes)
{
    if (c->sv->state >= SUPERVISOR_STOPPING)
        client_error(c, client_id,
            c->sv->state == SUPERVISOR_FAILED ? c->sv->failure : "the server is stopping");
    else if (c->requests > 0 && find_of_client(c, client_id) != NULL)
        client_error(c, client_id, "a request with this number is running: use another");
    else if (accept_request(c, client_id, params, data, bytes) != STATUS_OK)
        client_error(c, client_id, log_last_error());
}

/* Ending early ---------------------------------------------------------------------------- */

void request_send_done(struct request *r, uint32_t finish, uint32_t output_tokens)
{
    struct frame_done d = {
        .finish = finish,
        .prompt_tokens = r->n_ids,
        .output_tokens = output_tokens,
        .first_token_ns = r->first_ns ? r->first_ns - r->arrived_ns : 0,
        .total_ns = spin_now_ns() - r->arrived_ns,
    };

    if (r->client != NULL)
        client_frame(r->client, FRAME_DONE, r->client_id, &d, sizeof(d), NULL, 0);
}

void request_stop(struct supervisor *sv, struct request *r)
{
    if (r->cancelled)
        return;
    r->cancelled = true;
    if (r->state == REQUEST_RUNNING || r->state == REQUEST_ENCODING)
        return;
    request_send_done(r, QUERN_FINISH_CANCELLED, 0);
    request_free(sv, r);
}

void request_cancel(struct client *c, uint64_t client_id)
{
    struct request *r = c->requests > 0 ? find_of_client(c, client_id) : NULL;

    if (r != NULL) /* else it has just ended */
        request_stop(c->sv, r);
}

void requests_orphan(struct client *c)
{
    for (uint32_t i = 0; c->requests > 0 && i < c->sv->table_room; i++) {
        struct request *r = c->sv->table[i];

        if (r == NULL || r->client != c)
            continue;
        c->requests--;
        r->client = NULL;
        request_stop(c->sv, r);
    }
}
