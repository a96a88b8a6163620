/* shared.c - lays the ranks' segment out, and hands its descriptors to children.
 *
 * Parent and child carve the same list (carve()) and attach to it (attach_all()),
 * so there is one place that knows what lies where. */
#include "msg/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct layout {
    uint64_t rendezvous, requests, tokens, request_bytes, token_bytes;
};

static void nothing(struct shared *g)
{
    memset(g, 0, sizeof(*g));
    g->step_fd = g->config_fd = g->death_fd = g->death_keep_fd = -1;
    g->supervisor_bell.fd = -1;
    for (int i = 0; i < MAX_RANKS; i++)
        g->rank_bells[i].fd = -1;
}

int shared_fds(const struct shared *g, int fds[FD_LIST_MOST])
{
    int n = 0;

    fds[n++] = g->segment.fd;
    fds[n++] = g->config_fd;
    fds[n++] = g->step_fd;
    fds[n++] = g->death_fd;
    fds[n++] = g->supervisor_bell.fd;
    for (uint32_t i = 0; i < g->config.tp; i++)
        fds[n++] = g->rank_bells[i].fd;
    return n;
}

static enum status carve(uint32_t tp, struct layout *l, size_t *bytes)
{
    struct segment_cursor c = {0};

    segment_carve(&c, sizeof(struct shared_control), 64);
    l->rendezvous = segment_carve(&c, rendezvous_bytes(tp), 64);
    l->requests = segment_carve(&c, ring_bytes(REQUEST_SLOTS, sizeof(struct request_msg)), 64);
    l->tokens = segment_carve(&c, ring_bytes(TOKEN_SLOTS, sizeof(struct token_msg)), 64);
    l->request_bytes = segment_carve(&c, ring_buffer_bytes(RING_BUFFER_BYTES), 64);
    l->token_bytes = segment_carve(&c, ring_buffer_bytes(RING_BUFFER_BYTES), 64);
    return segment_carved(&c, bytes);
}

static void *at(const struct shared *g, uint64_t offset)
{
    return (char *)g->segment.base + offset;
}

static enum status init_all(struct shared *g, const struct layout *l)
{
    enum status s = rendezvous_init(at(g, l->rendezvous), g->config.tp, g->generation);

    if (s == STATUS_OK)
        s = ring_init(at(g, l->requests), REQUEST_SLOTS, sizeof(struct request_msg), g->generation);
    if (s == STATUS_OK)
        s = ring_init(at(g, l->tokens), TOKEN_SLOTS, sizeof(struct token_msg), g->generation);
    if (s == STATUS_OK)
        s = ring_buffer_init(at(g, l->request_bytes), RING_BUFFER_BYTES, g->generation);
    if (s == STATUS_OK)
        s = ring_buffer_init(at(g, l->token_bytes), RING_BUFFER_BYTES, g->generation);
    return s;
}

enum status shared_ring(const struct segment *s, uint64_t offset, uint32_t generation,
    struct ring *ring)
{
    if (offset > s->bytes)
        return log_fail(STATUS_INVALID, "the shared memory has a ring outside of itself");
    return ring_attach((char *)s->base + offset, s->bytes - offset, generation, ring);
}

enum status shared_ring_buffer(const struct segment *s, uint64_t offset, uint32_t generation,
    struct ring_buffer *buffer)
{
    if (offset > s->bytes)
        return log_fail(STATUS_INVALID, "the shared memory has a ring buffer outside of itself");
    return ring_buffer_attach((char *)s->base + offset, s->bytes - offset, generation, buffer);
}

static enum status attach_all(struct shared *g, const struct layout *l)
{
    enum status s = STATUS_INVALID;

    if (l->rendezvous < g->segment.bytes)
        s = rendezvous_attach(at(g, l->rendezvous), g->segment.bytes - l->rendezvous,
            &g->rendezvous);
    if (s == STATUS_OK)
        s = shared_ring(&g->segment, l->requests, g->generation, &g->requests);
    if (s == STATUS_OK)
        s = shared_ring(&g->segment, l->tokens, g->generation, &g->tokens);
    if (s == STATUS_OK)
        s = shared_ring_buffer(&g->segment, l->request_bytes, g->generation, &g->request_bytes);
    if (s == STATUS_OK)
        s = shared_ring_buffer(&g->segment, l->token_bytes, g->generation, &g->token_bytes);
    return s;
}

static void share_room(struct shared *g)
{
    doorbell_share(&g->control->leader_room, &g->rank_bells[0], &g->leader_room);
}

static enum status open_bells(struct shared *g, int bell_fd)
{
    struct shared_control *c = g->control;
    enum status s;
    int fd;

    if (bell_fd < 0) {
        s = doorbell_open(&c->supervisor_bell, &g->supervisor_bell);
    } else {
        fd = fcntl(bell_fd, F_DUPFD_CLOEXEC, 3);
        s = fd >= 0 ? doorbell_attach(&c->supervisor_bell, fd, &g->supervisor_bell)
                    : log_fail(STATUS_IO, "no descriptor for a doorbell: %s", strerror(errno));
    }
    for (uint32_t i = 0; s == STATUS_OK && i < g->config.tp; i++)
        s = doorbell_open(&c->rank_bells[i], &g->rank_bells[i]);
    share_room(g);
    return s;
}

static enum status create_all(struct shared *g, int bell_fd)
{
    struct layout l;
    size_t bytes;
    enum status s = carve(g->config.tp, &l, &bytes);

    if (s == STATUS_OK)
        s = segment_create("quern-shared", bytes, &g->segment);
    if (s != STATUS_OK)
        return s;
    g->control = g->segment.base;
    g->control->magic = SHARED_MAGIC;
    g->control->generation = g->generation;
    s = init_all(g, &l);
    if (s == STATUS_OK)
        s = attach_all(g, &l);
    if (s == STATUS_OK)
        s = open_bells(g, bell_fd);
    if (s == STATUS_OK)
        s = config_page_create(&g->config, &g->config_fd);
    if (s == STATUS_OK)
        s = segment_reserve("quern-step", &g->step_fd);
    return s == STATUS_OK ? proc_death_pipe(&g->death_keep_fd, &g->death_fd) : s;
}

enum status shared_create(const struct runtime_config *config, uint32_t generation, int bell_fd,
    struct shared *g)
{
    enum status s;

    nothing(g);
    if (config->tp < 1 || config->tp > MAX_RANKS)
        return log_fail(STATUS_INVALID, "--tp %u: there can be 1 to %d ranks", config->tp,
            MAX_RANKS);
    g->config = *config;
    g->generation = generation;
    s = create_all(g, bell_fd);
    if (s != STATUS_OK)
        shared_close(g);
    return s;
}

static enum status join_bells(struct shared *g, const int *fds)
{
    struct shared_control *c = g->control;
    enum status s = doorbell_attach(&c->supervisor_bell, fds[0], &g->supervisor_bell);

    for (uint32_t i = 0; s == STATUS_OK && i < g->config.tp; i++)
        s = doorbell_attach(&c->rank_bells[i], fds[1 + i], &g->rank_bells[i]);
    share_room(g);
    return s;
}

static enum status join_all(struct shared *g, const int *fds, int n)
{
    struct layout l;
    size_t bytes;
    enum status s = config_page_read(g->config_fd, &g->config);

    if (s == STATUS_OK)
        s = carve(g->config.tp, &l, &bytes);
    if (s != STATUS_OK)
        return s;
    if (g->segment.bytes < bytes || g->control->magic != SHARED_MAGIC ||
        g->config.tp != (uint32_t)n - 5)
        return log_fail(STATUS_INVALID, "the descriptors given are not those of a supervisor");
    g->generation = g->control->generation;
    s = attach_all(g, &l);
    return s == STATUS_OK ? join_bells(g, fds + 4) : s;
}

enum status shared_join(const char *fds_text, struct shared *g)
{
    int fds[FD_LIST_MOST], n = fd_list_parse(fds_text, fds);
    enum status s;

    nothing(g);
    if (n < 6)
        return log_fail(STATUS_INVALID, "this command is for quern's own use: it needs the "
                                        "supervisor's descriptors, not \"%s\"", fds_text);
    s = segment_map(fds[0], &g->segment);
    if (s != STATUS_OK)
        return s;
    g->control = g->segment.base;
    g->config_fd = fds[1];
    g->step_fd = fds[2];
    g->death_fd = fds[3];
    s = join_all(g, fds, n);
    if (s != STATUS_OK)
        shared_close(g);
    return s;
}

void shared_close(struct shared *g)
{
    if (g->segment.base == NULL)
        return;
    for (int i = 0; i < MAX_RANKS; i++)
        fd_close(&g->rank_bells[i].fd);
    fd_close(&g->supervisor_bell.fd);
    fd_close(&g->death_keep_fd);
    fd_close(&g->death_fd);
    fd_close(&g->config_fd);
    fd_close(&g->step_fd);
    segment_close(&g->segment);
    nothing(g);
}

void shared_abort(struct shared *g)
{
    /* release: who finds the abort word finds the reason, too */
    atomic_store_explicit(&g->control->abort_word, 1, memory_order_release);
    doorbell_ring(&g->leader_room);
}

bool shared_aborted(const struct shared *g)
{
    /* acquire: pairs with shared_abort() */
    return atomic_load_explicit(&g->control->abort_word, memory_order_acquire) != 0;
}

struct member_seat shared_seat(struct shared *g, int rank)
{
    return (struct member_seat){.member = &g->control->ranks[rank],
        .abort_word = &g->control->abort_word, .supervisor_bell = &g->supervisor_bell,
        .room_bell = &g->leader_room};
}
