/* clients.c - sockets: frames in, frames out.
 *
 * A client's frames gather in `out` while the turn runs and leave in one send;
 * what gathers meanwhile waits for that send. Answers are not put there while
 * more than OUT_MARK waits (news.c), so what a client that does not read can
 * cost is bounded by what it asked for and by its answers' ids. A frame that
 * breaks the protocol ends its connection and nothing else. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

enum { MOST_WAITING = 4 << 20, OUT_KEPT = 256 << 10, OWN_MAPPING = 256 << 10 };

void client_touch(struct client *c)
{
    if (c->fd >= 0 && !list_on(&c->dirty))
        list_append(&c->sv->dirty, &c->dirty);
}

void client_let_go(struct client *c, const char *why)
{
    log_warn("a client is let go: %s", why);
    c->leaving = c->let_go = true;
    client_touch(c);
}

size_t client_waiting(const struct client *c)
{
    return c->out.n + c->sending.n;
}

char *client_room(struct client *c, size_t bytes)
{
    if (c->leaving)
        return NULL;
    if (bytes_reserve(&c->out, bytes) != STATUS_OK) {
        client_let_go(c, "there is no memory for what it asked for");
        return NULL;
    }
    client_touch(c);
    return c->out.mem + c->out.n;
}

void client_frame(struct client *c, enum frame_type type, uint64_t id, const void *fixed,
    size_t fixed_bytes, const void *more, size_t more_bytes)
{
    struct frame_header h = {
        .bytes = (uint32_t)(fixed_bytes + more_bytes), .type = (uint16_t)type, .id = id};
    char *at;

    if (client_waiting(c) > MOST_WAITING) { /* of refusals, mostly */
        client_let_go(c, "it asks and does not read the answers");
        return;
    }
    at = client_room(c, sizeof(h) + h.bytes);
    if (at == NULL)
        return;
    memcpy(at, &h, sizeof(h));
    memcpy(at + sizeof(h), fixed, fixed_bytes);
    if (more_bytes > 0)
        memcpy(at + sizeof(h) + fixed_bytes, more, more_bytes);
    c->out.n += sizeof(h) + h.bytes;
}

void client_error(struct client *c, uint64_t id, enum quern_code code, const char *line)
{
    struct frame_error e = frame_error_of(code);

    client_frame(c, FRAME_ERROR, id, &e, sizeof(e), line, strlen(line));
}

void clients_tell(struct supervisor *sv, enum frame_type type, const void *fixed, size_t bytes,
    const void *more, size_t more_bytes)
{
    for (struct list_node *at = sv->clients.next; at != &sv->clients; at = at->next)
        client_frame(LIST_OF(at, struct client, all), type, 0, fixed, bytes, more, more_bytes);
}

void clients_tell_error(struct supervisor *sv, enum quern_code code, const char *line)
{
    struct frame_error e = frame_error_of(code);

    clients_tell(sv, FRAME_ERROR, &e, sizeof(e), line, strlen(line));
}

/* Frames in ------------------------------------------------------------------------------- */

/* Its last word, then it goes. */
static void refuse_connection(struct client *c, enum quern_code code, const char *line)
{
    client_error(c, 0, code, line);
    c->leaving = true;
    client_touch(c);
}

static void take_frame(struct client *c, const struct frame_header *h, const void *payload)
{
    char line[96];

    if (h->id == 0) {
        refuse_connection(c, QUERN_CODE_BAD_FRAME, "a frame has no request number: use 1 and up");
        return;
    }
    switch (h->type) {
    case FRAME_SUBMIT: take_submit(c, h, payload); return;
    case FRAME_RESUME: take_resume(c, h, payload); return;
    case FRAME_ASK_STATS: take_ask_stats(c, h, payload); return;
    case FRAME_CANCEL:
        if (h->bytes == 0) {
            take_cancel(c, h->id);
            return;
        }
        refuse_connection(c, QUERN_CODE_BAD_FRAME, "a CANCEL frame has no payload");
        return;
    default:
        snprintf(line, sizeof(line), "a frame of type %u is none a client sends", h->type);
        refuse_connection(c, QUERN_CODE_BAD_FRAME, line);
    }
}

/* What its frames that are not whole take counts, over all connections. */
static void count_partial(struct client *c, size_t before)
{
    struct supervisor *sv = c->sv;

    sv->partial_bytes += c->reader.room - before;
    if (sv->partial_bytes > MOST_PARTIAL_BYTES && c->reader.room > OUT_MARK && !c->leaving)
        refuse_connection(c, QUERN_CODE_OVERLOADED, "too many large frames are under way: try again "
            "later");
}

static void take_bytes(struct client *c, const void *bytes, size_t n)
{
    struct frame_header h;
    const void *payload;
    size_t room = c->reader.room;
    enum status s = frame_reader_feed(&c->reader, bytes, n);

    while (s == STATUS_OK && !c->leaving) {
        s = frame_reader_next(&c->reader, &h, &payload);
        if (s == STATUS_OK)
            take_frame(c, &h, payload);
    }
    if (s < STATUS_OK)
        refuse_connection(c, s == STATUS_NOMEM ? QUERN_CODE_OVERLOADED : QUERN_CODE_BAD_FRAME,
            log_last_error());
    count_partial(c, room);
}

static void on_recv(struct loop_op *op, int64_t result)
{
    struct client *c = op->context;

    if (result > 0) {
        if (!c->leaving)
            take_bytes(c, op->data, (size_t)result);
        return;
    }
    c->leaving = true;
    requests_orphan(c);
    client_touch(c);
    if (c->sv->private_fd == c->fd)
        supervisor_stop(c->sv);
}

/* Frames out ------------------------------------------------------------------------------ */

static void on_send(struct loop_op *op, int64_t result)
{
    struct client *c = op->context;

    c->sending.n = 0;
    if (c->sending.room > OUT_KEPT)
        bytes_free(&c->sending);
    if (result < 0)
        c->leaving = true;
    client_touch(c); /* there is room for more */
}

static void client_send(struct client *c)
{
    struct bytes swap = c->sending;

    if (c->out.n == 0 || loop_op_active(&c->send))
        return;
    c->sending = c->out;
    c->out = swap;
    c->out.n = 0;
    c->send_since_ns = spin_now_ns();
    c->sv->watch_new = true;
    loop_send(c->sv->loop, &c->send, c->fd, c->sending.mem, c->sending.n);
}

static void client_free(struct client *c)
{
    c->sv->partial_bytes -= c->reader.room;
    list_remove(&c->all);
    list_remove(&c->dirty);
    if (c->fd >= 0)
        close(c->fd);
    frame_reader_free(&c->reader);
    hash_map_free(&c->numbers);
    bytes_free(&c->out);
    bytes_free(&c->sending);
    free(c);
}

/* After a crowd: the allocator would keep the small things it took for it. */
static void give_back(struct supervisor *sv)
{
    if (sv->most_clients < 64 || sv->n_clients > sv->most_clients / 4)
        return;
    malloc_trim(0);
    sv->most_clients = sv->n_clients;
}

/* Its last words leave first, unless it is let go. */
static void client_leave(struct client *c)
{
    struct supervisor *sv = c->sv;

    requests_orphan(c);
    if (c->let_go)
        loop_cancel(sv->loop, &c->send);
    if (c->let_go || !loop_op_active(&c->send))
        loop_cancel(sv->loop, &c->recv);
    if (loop_op_active(&c->send) || loop_op_active(&c->recv))
        return; /* its completion touches it */
    client_free(c);
    sv->n_clients--;
    give_back(sv);
    socket_accept_again(sv); /* it may have run out of descriptors */
}

void clients_flush(struct supervisor *sv)
{
    struct list_node *last = sv->dirty.prev, *at = sv->dirty.next, *after;

    for (bool more = !list_empty(&sv->dirty); more; at = after) { /* what is touched meanwhile: next */
        struct client *c = LIST_OF(at, struct client, dirty);

        after = at->next;
        more = at != last;
        list_remove(&c->dirty);
        client_send_news(c);
        if (!c->let_go)
            client_send(c);
        if (c->leaving)
            client_leave(c);
    }
}

/* Coming and going ------------------------------------------------------------------------ */

static struct client *client_new(struct supervisor *sv, int fd)
{
    struct client *c = calloc(1, sizeof(*c));

    if (c == NULL) {
        log_fail(STATUS_NOMEM, "no memory for another client");
        return NULL;
    }
    c->sv = sv;
    c->fd = fd;
    list_init(&c->requests);
    lines_init(c);
    list_init(&c->news);
    c->recv = (struct loop_op){.done = on_recv, .context = c};
    c->send = (struct loop_op){.done = on_send, .context = c};
    frame_reader_init(&c->reader);
    return c;
}

/* A directory's last name, or of a Hugging Face cache "org/name". */
static void model_name(const char *path, char name[256])
{
    const char *repo = strstr(path, "/models--"), *slash = strrchr(path, '/');
    char *dashes;

    if (repo == NULL) {
        snprintf(name, 256, "%.255s", slash != NULL ? slash + 1 : path);
        return;
    }
    repo += strlen("/models--");
    snprintf(name, 256, "%.*s", (int)strcspn(repo, "/"), repo);
    dashes = strstr(name, "--");
    if (dashes != NULL) {
        *dashes = '/';
        memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
    }
}

static void tell_ready(struct client *c)
{
    struct supervisor *sv = c->sv;
    struct frame_ready ready = {.fixed = sizeof(ready), .vocab = sv->facts.vocab,
        .max_model_len = sv->facts.max_model_len, .generation = sv->generation,
        .fingerprint = sv->facts.fingerprint};
    char name[256];

    model_name(sv->config.model, name);
    client_frame(c, FRAME_READY, 0, &ready, sizeof(ready), name, strlen(name));
}

void clients_tell_ready(struct supervisor *sv)
{
    for (struct list_node *at = sv->clients.next; at != &sv->clients; at = at->next)
        tell_ready(LIST_OF(at, struct client, all));
}

static void tell_hello(struct client *c)
{
    struct supervisor *sv = c->sv;
    struct frame_hello hello = {.fixed = sizeof(hello), .protocol = PROTOCOL_VERSION,
        .generation = sv->generation, .instance = sv->instance};

    client_frame(c, FRAME_HELLO, 0, &hello, sizeof(hello), QUERN_VERSION, strlen(QUERN_VERSION));
    if (sv->facts.vocab != 0)
        tell_ready(c);
}

static struct client *client_greet(struct supervisor *sv, int fd)
{
    struct client *c = client_new(sv, fd);

    if (c == NULL)
        return NULL;
    list_append(&sv->clients, &c->all);
    if (++sv->n_clients > sv->most_clients)
        sv->most_clients = sv->n_clients;
    tell_hello(c);
    return c;
}

enum status client_add(struct supervisor *sv, int fd)
{
    struct client *c = client_greet(sv, fd);

    if (c == NULL)
        return STATUS_NOMEM;
    loop_recv(sv->loop, &c->recv, fd);
    return STATUS_OK;
}

enum status client_refuse(struct supervisor *sv, int fd, enum quern_code code, const char *line)
{
    struct client *c = client_greet(sv, fd);

    if (c == NULL)
        return STATUS_NOMEM;
    refuse_connection(c, code, line);
    return STATUS_OK;
}

enum status clients_open(struct supervisor *sv)
{
    /* Large buffers go back when they are freed. Left to itself the allocator moves this limit up
       to the largest thing it saw freed, and then one buffer in use keeps all below it. */
    mallopt(M_MMAP_THRESHOLD, OWN_MAPPING);
    list_init(&sv->clients);
    list_init(&sv->dirty);
    turns_init(sv);
    sv->nobody = client_new(sv, -1);
    if (sv->nobody == NULL)
        return STATUS_NOMEM;
    sv->nobody->leaving = true; /* it is told nothing */
    return STATUS_OK;
}

void clients_close(struct supervisor *sv)
{
    while (sv->nobody != NULL && !list_empty(&sv->clients))
        client_free(LIST_OF(sv->clients.next, struct client, all));
    if (sv->nobody != NULL)
        client_free(sv->nobody);
}
