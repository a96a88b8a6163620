/* shared.c - lays the shared segment out, and hands its descriptors to children.
 *
 * Parent and child attach to the same list of objects (attach_all), so there
 * is one place that knows what lies where; the offsets are read from the
 * control page, which a child checks before it believes them. */
#include "msg/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void no_group(struct shared *g)
{
    *g = (struct shared){.step_fd = -1, .vocab_fd = -1, .death_fd = -1, .death_keep_fd = -1};
    g->supervisor_bell.fd = g->text_bell.fd = -1;
    for (int i = 0; i < MAX_RANKS; i++)
        g->rank_bells[i].fd = -1;
}

int shared_fds(const struct shared *g, int fds[SHARED_MAX_FDS])
{
    int n = 0;

    fds[n++] = g->segment.fd;
    fds[n++] = g->step_fd;
    fds[n++] = g->vocab_fd;
    fds[n++] = g->death_fd;
    fds[n++] = g->supervisor_bell.fd;
    fds[n++] = g->text_bell.fd;
    for (uint32_t i = 0; i < g->control->config.tp; i++)
        fds[n++] = g->rank_bells[i].fd;
    return n;
}

void shared_fds_format(const struct shared *g, char text[SHARED_FDS_TEXT])
{
    int fds[SHARED_MAX_FDS], n = shared_fds(g, fds);
    char *at = text;

    for (int i = 0; i < n; i++)
        at += sprintf(at, "%s%d", i > 0 ? "," : "", fds[i]);
}

/* Where each object lies, in the order of the segment. */
static enum status carve(struct shared_control *layout, size_t *bytes)
{
    struct segment_cursor c = {0};

    segment_carve(&c, sizeof(*layout), 64);
    layout->rendezvous_at = segment_carve(&c, rendezvous_bytes(layout->config.tp), 64);
    layout->requests_at =
        segment_carve(&c, ring_bytes(REQUEST_SLOTS, sizeof(struct request_msg)), 64);
    layout->tokens_at = segment_carve(&c, ring_bytes(TOKEN_SLOTS, sizeof(struct token_msg)), 64);
    layout->text_requests_at =
        segment_carve(&c, ring_bytes(TEXT_SLOTS, sizeof(struct text_msg)), 64);
    layout->text_replies_at =
        segment_carve(&c, ring_bytes(TEXT_SLOTS, sizeof(struct text_msg)), 64);
    layout->request_bytes_at = segment_carve(&c, ring_buffer_bytes(RING_BUFFER_BYTES), 64);
    layout->text_bytes_at = segment_carve(&c, ring_buffer_bytes(RING_BUFFER_BYTES), 64);
    layout->reply_bytes_at = segment_carve(&c, ring_buffer_bytes(RING_BUFFER_BYTES), 64);
    return segment_carved(&c, bytes);
}

static void *at(const struct shared *g, uint64_t offset)
{
    return (char *)g->segment.base + offset;
}

static enum status init_all(struct shared *g)
{
    const struct shared_control *c = g->control;
    uint32_t generation = c->generation;
    enum status s = rendezvous_init(at(g, c->rendezvous_at), c->config.tp, generation);

    if (s == STATUS_OK)
        s = ring_init(at(g, c->requests_at), REQUEST_SLOTS, sizeof(struct request_msg), generation);
    if (s == STATUS_OK)
        s = ring_init(at(g, c->tokens_at), TOKEN_SLOTS, sizeof(struct token_msg), generation);
    if (s == STATUS_OK)
        s = ring_init(at(g, c->text_requests_at), TEXT_SLOTS, sizeof(struct text_msg), generation);
    if (s == STATUS_OK)
        s = ring_init(at(g, c->text_replies_at), TEXT_SLOTS, sizeof(struct text_msg), generation);
    if (s == STATUS_OK)
        s = ring_buffer_init(at(g, c->request_bytes_at), RING_BUFFER_BYTES, generation);
    if (s == STATUS_OK)
        s = ring_buffer_init(at(g, c->text_bytes_at), RING_BUFFER_BYTES, generation);
    if (s == STATUS_OK)
        s = ring_buffer_init(at(g, c->reply_bytes_at), RING_BUFFER_BYTES, generation);
    return s;
}

static enum status attach_ring(struct shared *g, uint64_t offset, struct ring *ring)
{
    if (offset > g->segment.bytes)
        return log_fail(STATUS_INVALID, "the shared memory has a ring outside of itself");
    return ring_attach(at(g, offset), g->segment.bytes - offset, g->control->generation, ring);
}

static enum status attach_ring_buffer(struct shared *g, uint64_t offset, struct ring_buffer *buffer)
{
    if (offset > g->segment.bytes)
        return log_fail(STATUS_INVALID, "the shared memory has a ring buffer outside of itself");
    return ring_buffer_attach(at(g, offset), g->segment.bytes - offset, g->control->generation, buffer);
}

static enum status attach_all(struct shared *g)
{
    const struct shared_control *c = g->control;
    enum status s = STATUS_INVALID;

    if (c->rendezvous_at < g->segment.bytes)
        s = rendezvous_attach(at(g, c->rendezvous_at), g->segment.bytes - c->rendezvous_at,
            &g->rendezvous);
    if (s == STATUS_OK)
        s = attach_ring(g, c->requests_at, &g->requests);
    if (s == STATUS_OK)
        s = attach_ring(g, c->tokens_at, &g->tokens);
    if (s == STATUS_OK)
        s = attach_ring(g, c->text_requests_at, &g->text_requests);
    if (s == STATUS_OK)
        s = attach_ring(g, c->text_replies_at, &g->text_replies);
    if (s == STATUS_OK)
        s = attach_ring_buffer(g, c->request_bytes_at, &g->request_bytes);
    if (s == STATUS_OK)
        s = attach_ring_buffer(g, c->text_bytes_at, &g->text_bytes);
    if (s == STATUS_OK)
        s = attach_ring_buffer(g, c->reply_bytes_at, &g->reply_bytes);
    return s;
}

static void share_bells(struct shared *g)
{
    doorbell_share(&g->control->leader_room, &g->rank_bells[0], &g->leader_room);
    doorbell_share(&g->control->text_room, &g->text_bell, &g->text_room);
}

static enum status open_bells(struct shared *g)
{
    struct shared_control *c = g->control;
    enum status s = doorbell_open(&c->supervisor_bell, &g->supervisor_bell);

    if (s == STATUS_OK)
        s = doorbell_open(&c->text_bell, &g->text_bell);
    for (uint32_t i = 0; s == STATUS_OK && i < c->config.tp; i++)
        s = doorbell_open(&c->rank_bells[i], &g->rank_bells[i]);
    share_bells(g);
    return s;
}

enum status shared_create(const struct runtime_config *config, uint32_t generation, struct shared *g)
{
    struct shared_control layout = {
        .magic = SHARED_MAGIC, .generation = generation, .config = *config};
    size_t bytes;
    enum status s;

    no_group(g);
    if (config->tp < 1 || config->tp > MAX_RANKS)
        return log_fail(STATUS_INVALID, "--tp %u: there can be 1 to %d ranks", config->tp,
            MAX_RANKS);
    s = carve(&layout, &bytes);
    if (s == STATUS_OK)
        s = segment_create("quern-shared", bytes, &g->segment);
    if (s != STATUS_OK)
        return s;
    g->control = g->segment.base;
    memcpy(g->control, &layout, sizeof(layout));
    s = init_all(g);
    if (s == STATUS_OK)
        s = attach_all(g);
    if (s == STATUS_OK)
        s = open_bells(g);
    if (s == STATUS_OK)
        s = segment_reserve("quern-step", &g->step_fd);
    if (s == STATUS_OK)
        s = segment_reserve("quern-vocab", &g->vocab_fd);
    if (s == STATUS_OK)
        s = proc_death_pipe(&g->death_keep_fd, &g->death_fd);
    if (s != STATUS_OK)
        shared_close(g);
    return s;
}

/* "3,4,5" -> numbers of open descriptors. */
static int parse_fds(const char *text, int fds[SHARED_MAX_FDS])
{
    int n = 0;

    while (n < SHARED_MAX_FDS) {
        char *end;
        long fd = strtol(text, &end, 10);

        if (end == text || fd < 3 || fd > 1 << 20 || fcntl((int)fd, F_SETFD, FD_CLOEXEC) != 0)
            return 0;
        fds[n++] = (int)fd;
        if (*end == '\0')
            return n;
        if (*end != ',')
            return 0;
        text = end + 1;
    }
    return 0;
}

static enum status join_bells(struct shared *g, const int *fds)
{
    struct shared_control *c = g->control;
    enum status s = doorbell_attach(&c->supervisor_bell, fds[0], &g->supervisor_bell);

    if (s == STATUS_OK)
        s = doorbell_attach(&c->text_bell, fds[1], &g->text_bell);
    for (uint32_t i = 0; s == STATUS_OK && i < c->config.tp; i++)
        s = doorbell_attach(&c->rank_bells[i], fds[2 + i], &g->rank_bells[i]);
    share_bells(g);
    return s;
}

enum status shared_join(const char *fds_text, struct shared *g)
{
    int fds[SHARED_MAX_FDS], n = parse_fds(fds_text, fds);
    enum status s;

    no_group(g);
    if (n < 7)
        return log_fail(STATUS_INVALID, "this command is for quern's own use: it needs the "
                                        "supervisor's descriptors, not \"%s\"", fds_text);
    s = segment_map(fds[0], &g->segment);
    if (s != STATUS_OK)
        return s;
    g->control = g->segment.base;
    g->step_fd = fds[1];
    g->vocab_fd = fds[2];
    g->death_fd = fds[3];
    if (g->segment.bytes < sizeof(*g->control) || g->control->magic != SHARED_MAGIC ||
        g->control->config.tp != (uint32_t)n - 6)
        s = log_fail(STATUS_INVALID, "the descriptors \"%s\" are not those of a supervisor", fds_text);
    if (s == STATUS_OK)
        s = attach_all(g);
    if (s == STATUS_OK)
        s = join_bells(g, fds + 4);
    if (s != STATUS_OK)
        shared_close(g);
    return s;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void shared_close(struct shared *g)
{
    if (g->control == NULL)
        return;
    for (int i = 0; i < MAX_RANKS; i++)
        close_fd(&g->rank_bells[i].fd);
    close_fd(&g->text_bell.fd);
    close_fd(&g->supervisor_bell.fd);
    close_fd(&g->death_keep_fd);
    close_fd(&g->death_fd);
    close_fd(&g->vocab_fd);
    close_fd(&g->step_fd);
    g->control = NULL;
    segment_close(&g->segment);
}

void member_stage(struct shared *g, struct member *m, enum stage stage)
{
    /* release: pairs with the supervisor's acquire; error and facts are written before */
    atomic_store_explicit(&m->stage, stage, memory_order_release);
    doorbell_ring(&g->supervisor_bell);
}

void shared_abort(struct shared *g)
{
    /* release: who finds the abort word finds the reason, too */
    atomic_store_explicit(&g->control->abort_word, 1, memory_order_release);
    doorbell_ring(&g->leader_room);
    doorbell_ring(&g->text_room);
}

bool shared_aborted(const struct shared *g)
{
    /* acquire: pairs with shared_abort() */
    return atomic_load_explicit(&g->control->abort_word, memory_order_acquire) != 0;
}

void member_fail(struct shared *g, struct member *m, const char *line)
{
    snprintf(m->error, sizeof(m->error), "%s", line);
    atomic_store_explicit(&m->stage, STAGE_FAILED, memory_order_release);
    shared_abort(g);
    doorbell_ring(&g->supervisor_bell);
}

void member_log(void *context, enum log_level level, const char *line)
{
    if (level != LOG_LEVEL_ERROR && context == NULL)
        log_to_stderr(NULL, level, line);
}
