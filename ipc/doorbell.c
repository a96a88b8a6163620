/* doorbell.c - eventfd plus a word that says whether anybody needs it.
 *
 * F1 ring:  publish; full fence; load sleeping.
 * F2 arm:   store sleeping; full fence; look at what is published.
 * In the one order of the two fences, either the ringer sees the sleeper or the
 * sleeper sees the message; both is harmless, neither is impossible.
 *
 * The ringer that finds the sleeper takes the word back to 0 by exchange, so of
 * many ringers one makes the system call. Who disarms takes it back in the same
 * way, and drains the counter only when a ringer was there before. A write that
 * arrives after its sleeper has found work by itself leaves the counter set: one
 * needless wake-up later on, which the wait loop takes for what it is. */
#include "ipc/doorbell.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <fcntl.h>
#include <unistd.h>

#include "quern/spin.h"
#include "quern/log.h"

enum status doorbell_open(struct doorbell_shared *shared, struct doorbell *out)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        return log_call_failed(errno, "eventfd", "no doorbell");
    /* relaxed: nobody is attached yet */
    atomic_store_explicit(&shared->sleeping, 0, memory_order_relaxed);
    *out = (struct doorbell){.shared = shared, .fd = fd};
    return STATUS_OK;
}

enum status doorbell_attach(struct doorbell_shared *shared, int fd, struct doorbell *out)
{
    if (fcntl(fd, F_GETFD) < 0)
        return log_fail(STATUS_INVALID, "doorbell: fd %d is not open", fd);
    *out = (struct doorbell){.shared = shared, .fd = fd};
    return STATUS_OK;
}

void doorbell_share(
    struct doorbell_shared *shared, const struct doorbell *of, struct doorbell *out)
{
    *out = (struct doorbell){.shared = shared, .fd = of->fd};
}

void doorbell_close(struct doorbell *d)
{
    if (d->shared == NULL)
        return;
    close(d->fd);
    *d = (struct doorbell){.fd = -1};
}

enum status doorbell_ring(struct doorbell *d)
{
    static const uint64_t one = 1;

    spin_fence(); /* F1 */
    /* relaxed: the fence orders it; looked at first, so that an awake reader's
     * line stays shared */
    if (atomic_load_explicit(&d->shared->sleeping, memory_order_relaxed) == 0 ||
        atomic_exchange_explicit(&d->shared->sleeping, 0, memory_order_relaxed) == 0)
        return STATUS_OK;
    while (write(d->fd, &one, sizeof(one)) < 0)
        if (errno == EAGAIN) /* the counter is full: it is rung */
            return STATUS_OK;
        else if (errno != EINTR)
            return log_fail(STATUS_IO, "doorbell: write to fd %d: %s", d->fd, strerror(errno));
    return STATUS_OK;
}

void doorbell_arm(struct doorbell *d)
{
    /* relaxed: the fence orders it */
    atomic_store_explicit(&d->shared->sleeping, 1, memory_order_relaxed);
    spin_fence(); /* F2 */
}

bool doorbell_awake(struct doorbell *d)
{
    /* relaxed: it carries no data */
    return atomic_exchange_explicit(&d->shared->sleeping, 0, memory_order_relaxed) == 0;
}

void doorbell_disarm(struct doorbell *d)
{
    uint64_t count;

    if (!doorbell_awake(d))
        return;
    while (read(d->fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
}

enum status doorbell_wait(struct doorbell *d, int death_fd, int timeout_ms)
{
    struct pollfd fds[2] = {
        {.fd = d->fd, .events = POLLIN},
        {.fd = death_fd, .events = POLLIN}, /* poll() skips a negative fd */
    };
    int n = poll(fds, 2, timeout_ms);

    if (n == 0 || (n < 0 && errno == EINTR))
        return STATUS_AGAIN;
    if (n < 0)
        return log_call_failed(errno, "poll", "cannot wait at a doorbell");
    if (fds[1].revents != 0)
        return STATUS_DEAD;
    if ((fds[0].revents & POLLIN) == 0)
        return log_fail(STATUS_IO, "doorbell: fd %d is no longer usable", d->fd);
    return STATUS_OK;
}

enum status doorbell_await(
    struct doorbell *d, int death_fd, doorbell_ready *ready, void *context, uint64_t spin_ns)
{
    if (spin_until(ready, context, spin_ns))
        return STATUS_OK;
    for (;;) {
        enum status s = STATUS_OK;
        bool found;

        doorbell_arm(d);
        found = ready(context);
        if (!found)
            s = doorbell_wait(d, death_fd, -1);
        doorbell_disarm(d);
        if (found || s < 0)
            return s;
    }
}
