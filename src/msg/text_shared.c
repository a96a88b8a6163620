/* text_shared.c - lays the text worker's segment out; shaped as shared.c. */
#include "msg/text_shared.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_FDS = 6 };

struct layout {
    uint64_t requests, replies, request_bytes, reply_bytes;
};

static void nothing(struct text_shared *g)
{
    memset(g, 0, sizeof(*g));
    g->vocab_fd = g->config_fd = g->death_fd = g->death_keep_fd = -1;
    g->supervisor_bell.fd = g->text_bell.fd = -1;
}

int text_shared_fds(const struct text_shared *g, int fds[FD_LIST_MOST])
{
    const int all[TEXT_FDS] = {g->segment.fd, g->config_fd, g->vocab_fd, g->death_fd,
        g->supervisor_bell.fd, g->text_bell.fd};

    memcpy(fds, all, sizeof(all));
    return TEXT_FDS;
}

static enum status carve(struct layout *l, size_t *bytes)
{
    struct segment_cursor c = {0};

    segment_carve(&c, sizeof(struct text_control), 64);
    l->requests = segment_carve(&c, ring_bytes(TEXT_SLOTS, sizeof(struct text_msg)), 64);
    l->replies = segment_carve(&c, ring_bytes(TEXT_SLOTS, sizeof(struct text_msg)), 64);
    l->request_bytes = segment_carve(&c, ring_buffer_bytes(RING_BUFFER_BYTES), 64);
    l->reply_bytes = segment_carve(&c, ring_buffer_bytes(RING_BUFFER_BYTES), 64);
    return segment_carved(&c, bytes);
}

static enum status init_all(struct text_shared *g, const struct layout *l)
{
    char *base = g->segment.base;
    uint32_t generation = g->generation;
    enum status s = ring_init(base + l->requests, TEXT_SLOTS, sizeof(struct text_msg), generation);

    if (s == STATUS_OK)
        s = ring_init(base + l->replies, TEXT_SLOTS, sizeof(struct text_msg), generation);
    if (s == STATUS_OK)
        s = ring_buffer_init(base + l->request_bytes, RING_BUFFER_BYTES, generation);
    if (s == STATUS_OK)
        s = ring_buffer_init(base + l->reply_bytes, RING_BUFFER_BYTES, generation);
    return s;
}

static enum status attach_all(struct text_shared *g, const struct layout *l)
{
    enum status s = shared_ring(&g->segment, l->requests, g->generation, &g->requests);

    if (s == STATUS_OK)
        s = shared_ring(&g->segment, l->replies, g->generation, &g->replies);
    if (s == STATUS_OK)
        s = shared_ring_buffer(&g->segment, l->request_bytes, g->generation, &g->request_bytes);
    if (s == STATUS_OK)
        s = shared_ring_buffer(&g->segment, l->reply_bytes, g->generation, &g->reply_bytes);
    return s;
}

static enum status open_bells(struct text_shared *g, int bell_fd)
{
    int fd = fcntl(bell_fd, F_DUPFD_CLOEXEC, 3);
    enum status s;

    if (fd < 0)
        return log_fail(STATUS_IO, "no descriptor for a doorbell: %s", strerror(errno));
    s = doorbell_attach(&g->control->supervisor_bell, fd, &g->supervisor_bell);
    if (s == STATUS_OK)
        s = doorbell_open(&g->control->text_bell, &g->text_bell);
    doorbell_share(&g->control->text_room, &g->text_bell, &g->text_room);
    return s;
}

static enum status create_all(struct text_shared *g, int bell_fd)
{
    struct layout l;
    size_t bytes;
    enum status s = carve(&l, &bytes);

    if (s == STATUS_OK)
        s = segment_create("quern-text", bytes, &g->segment);
    if (s != STATUS_OK)
        return s;
    g->control = g->segment.base;
    g->control->magic = TEXT_SHARED_MAGIC;
    g->control->generation = g->generation;
    s = init_all(g, &l);
    if (s == STATUS_OK)
        s = attach_all(g, &l);
    if (s == STATUS_OK)
        s = open_bells(g, bell_fd);
    if (s == STATUS_OK)
        s = config_page_create(&g->config, &g->config_fd);
    if (s == STATUS_OK)
        s = segment_reserve("quern-vocab", &g->vocab_fd);
    return s == STATUS_OK ? proc_death_pipe(&g->death_keep_fd, &g->death_fd) : s;
}

enum status text_shared_create(const struct runtime_config *config, uint32_t generation,
    int bell_fd, struct text_shared *g)
{
    enum status s;

    nothing(g);
    g->config = *config;
    g->generation = generation;
    s = create_all(g, bell_fd);
    if (s != STATUS_OK)
        text_shared_close(g);
    return s;
}

static enum status join_all(struct text_shared *g, const int fds[TEXT_FDS])
{
    struct layout l;
    size_t bytes;
    enum status s = config_page_read(g->config_fd, &g->config);

    if (s == STATUS_OK)
        s = carve(&l, &bytes);
    if (s != STATUS_OK)
        return s;
    if (g->segment.bytes < bytes || g->control->magic != TEXT_SHARED_MAGIC)
        return log_fail(STATUS_INVALID, "the descriptors given are not those of a supervisor");
    g->generation = g->control->generation;
    s = attach_all(g, &l);
    if (s == STATUS_OK)
        s = doorbell_attach(&g->control->supervisor_bell, fds[4], &g->supervisor_bell);
    if (s == STATUS_OK)
        s = doorbell_attach(&g->control->text_bell, fds[5], &g->text_bell);
    doorbell_share(&g->control->text_room, &g->text_bell, &g->text_room);
    return s;
}

enum status text_shared_join(const char *fds_text, struct text_shared *g)
{
    int fds[FD_LIST_MOST];
    enum status s;

    nothing(g);
    if (fd_list_parse(fds_text, fds) != TEXT_FDS)
        return log_fail(STATUS_INVALID, "this command is for quern's own use: it needs the "
                                        "supervisor's descriptors, not \"%s\"", fds_text);
    s = segment_map(fds[0], &g->segment);
    if (s != STATUS_OK)
        return s;
    g->control = g->segment.base;
    g->config_fd = fds[1];
    g->vocab_fd = fds[2];
    g->death_fd = fds[3];
    s = join_all(g, fds);
    if (s != STATUS_OK)
        text_shared_close(g);
    return s;
}

void text_shared_close(struct text_shared *g)
{
    if (g->segment.base == NULL)
        return;
    fd_close(&g->text_bell.fd);
    fd_close(&g->supervisor_bell.fd);
    fd_close(&g->death_keep_fd);
    fd_close(&g->death_fd);
    fd_close(&g->config_fd);
    fd_close(&g->vocab_fd);
    segment_close(&g->segment);
    nothing(g);
}

struct member_seat text_shared_seat(struct text_shared *g)
{
    return (struct member_seat){.member = &g->control->member,
        .supervisor_bell = &g->supervisor_bell};
}
