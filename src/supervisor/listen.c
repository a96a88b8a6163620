/* listen.c - the socket's path: one server at a time, its owner's alone.
 *
 * A lock file beside the socket (PATH.lock) says who serves it. Whoever holds
 * the lock may remove what a killed server left; two that start
 * at once cannot both find the other's socket stale. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "quern/log.h"
#include "quern/spin.h"
#include "supervisor/supervisor.h"

enum { LOCK_PATH = sizeof(((struct sockaddr_un *)0)->sun_path) + 8 };

static const uint64_t accept_again_ns = UINT64_C(100000000);

/* A connection is served only where a spare descriptor is left beside it. When the kernel has none
 * for the next connection the spare goes: the connection gets it, is told so and goes, and with it
 * the spare is back. So a full server answers everybody at once, and hears when it is no longer. */
static bool has_spare(struct supervisor *sv)
{
    if (sv->spare_fd < 0)
        sv->spare_fd = fcntl(sv->listen_fd, F_DUPFD_CLOEXEC, 0);
    if (sv->spare_fd < 0 && errno == EINVAL)
        errno = EMFILE; /* so F_DUPFD calls a limit that leaves no number at all */
    return sv->spare_fd >= 0;
}

void socket_accept_again(struct supervisor *sv)
{
    if (sv->listen_fd < 0)
        return;
    has_spare(sv);
    sv->accept_at_ns = UINT64_MAX;
    if (!loop_op_active(&sv->accept))
        loop_accept(sv->loop, &sv->accept, sv->listen_fd);
}

/* Once, until a connection is served again. */
static void tell_full(struct supervisor *sv, int error)
{
    if (!sv->full)
        log_warn("no more connections can be taken until others end (%s): raise the limit of open "
                 "files (ulimit -n) for more", strerror(error));
    sv->full = true;
}

static void take_connection(struct supervisor *sv, int fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof(peer);
    enum status s;

    /* root may do everything anyway; nobody else got past the file's mode but by a mistake in it */
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 ||
        (peer.uid != geteuid() && peer.uid != 0)) {
        log_warn("a connection of another user is refused");
        close(fd);
        return;
    }
    if (has_spare(sv)) {
        s = client_add(sv, fd);
        sv->full = sv->full && s != STATUS_OK;
    } else {
        tell_full(sv, errno);
        s = client_refuse(sv, fd, QUERN_CODE_OVERLOADED,
            "the server has no room for more connections: try again later");
    }
    if (s != STATUS_OK)
        close(fd);
}

/* Also said of a connection that is not there yet: with io_uring the descriptor comes first. Without
 * even a spare (it is the system that is short of something) it tries again later. */
static void accept_failed(struct supervisor *sv, int error)
{
    if (error != EMFILE && error != ENFILE && error != ENOMEM && error != ENOBUFS) {
        log_warn("no more connections can be taken: %s", strerror(error));
        supervisor_fail(sv, QUERN_CODE_INTERNAL, "the socket cannot accept any more");
        return;
    }
    if (sv->spare_fd >= 0) {
        fd_close(&sv->spare_fd);
        loop_accept(sv->loop, &sv->accept, sv->listen_fd);
        return;
    }
    tell_full(sv, error);
    sv->accept_at_ns = spin_now_ns() + accept_again_ns;
    sv->watch_new = true;
}

static void on_accept(struct loop_op *op, int64_t result)
{
    struct supervisor *sv = op->context;

    if (result >= 0)
        take_connection(sv, (int)result);
    else if (result != -ECANCELED)
        accept_failed(sv, (int)-result);
}

static void lock_path(const char *path, char lock[LOCK_PATH])
{
    snprintf(lock, LOCK_PATH, "%s.lock", path);
}

/* Is it the file of that name? */
static bool is_at(int fd, const char *path)
{
    struct stat mine, there;

    return fstat(fd, &mine) == 0 && lstat(path, &there) == 0 && mine.st_dev == there.st_dev &&
           mine.st_ino == there.st_ino;
}

/* Its holder removes the file before it lets go: whoever gets the lock of a file that is gone by
 * then tries again. */
static enum status take_lock(struct supervisor *sv, const char *path)
{
    char lock[LOCK_PATH];

    lock_path(path, lock);
    for (;;) {
        sv->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
            S_IRUSR | S_IWUSR);
        if (sv->lock_fd < 0)
            return log_fail(STATUS_IO, "%s: %s", lock, strerror(errno));
        if (flock(sv->lock_fd, LOCK_EX | LOCK_NB) != 0)
            return log_fail(STATUS_INVALID, "%s: another server listens there: choose another path",
                path);
        if (is_at(sv->lock_fd, lock))
            return STATUS_OK;
        close(sv->lock_fd);
    }
}

/* A refusal says that nobody does; a server with a full queue (EAGAIN) or of another user (EACCES)
 * is there, and so is one that takes the connection and says something. One that hangs up without
 * a word has been killed, and the kernel is about to close its socket. */
static bool somebody_listens(const struct sockaddr_un *address)
{
    const struct timespec nap = {.tv_nsec = 20000000};
    char byte;

    for (int tries = 0; tries < 50; tries++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        bool there;

        if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0) {
            there = fd < 0 || errno != ECONNREFUSED;
            close(fd);
            return there;
        }
        there = poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 1000) <= 0 ||
                recv(fd, &byte, 1, 0) > 0;
        close(fd);
        if (there)
            return true;
        nanosleep(&nap, NULL);
    }
    return true;
}

/* A socket file that nobody listens on is left from a killed server: it goes. */
static enum status remove_stale(const char *path, const struct sockaddr_un *address)
{
    struct stat st;

    if (lstat(path, &st) != 0)
        return STATUS_OK;
    if (!S_ISSOCK(st.st_mode))
        return log_fail(STATUS_INVALID, "%s: there is a file that is no socket: choose another path",
            path);
    if (somebody_listens(address))
        return log_fail(STATUS_INVALID, "%s: another server listens there: choose another path", path);
    unlink(path);
    return STATUS_OK;
}

static enum status bind_to(struct supervisor *sv, const char *path, const struct sockaddr_un *address)
{
    struct stat st;

    sv->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* fchmod() before bind(): the file is the owner's alone from its first moment on */
    if (sv->listen_fd < 0 || fchmod(sv->listen_fd, S_IRUSR | S_IWUSR) != 0 ||
        bind(sv->listen_fd, (const struct sockaddr *)address, sizeof(*address)) != 0)
        return log_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    sv->socket_path = path;
    if (lstat(path, &st) == 0) {
        sv->socket_dev = st.st_dev;
        sv->socket_ino = st.st_ino;
    }
    if (listen(sv->listen_fd, 1024) != 0)
        return log_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    return STATUS_OK;
}

enum status socket_listen(struct supervisor *sv, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    enum status s;

    if (path[0] == '\0' || strlen(path) >= sizeof(address.sun_path))
        return log_fail(STATUS_INVALID, "--socket \"%s\": a socket's path has 1 to %zu bytes", path,
            sizeof(address.sun_path) - 1);
    strcpy(address.sun_path, path);
    s = take_lock(sv, path);
    if (s == STATUS_OK)
        s = remove_stale(path, &address);
    if (s == STATUS_OK)
        s = bind_to(sv, path, &address);
    if (s != STATUS_OK)
        return s;
    sv->accept.done = on_accept;
    sv->accept.context = sv;
    socket_accept_again(sv);
    return STATUS_OK;
}

/* After loop_close(): nothing is under way any more. What is there by now may be another's. */
void socket_close(struct supervisor *sv)
{
    char lock[LOCK_PATH];
    struct stat st;

    if (sv->socket_path != NULL && lstat(sv->socket_path, &st) == 0 &&
        st.st_dev == sv->socket_dev && st.st_ino == sv->socket_ino)
        unlink(sv->socket_path);
    fd_close(&sv->listen_fd);
    fd_close(&sv->spare_fd);
    if (sv->socket_path != NULL) {
        lock_path(sv->socket_path, lock);
        if (is_at(sv->lock_fd, lock))
            unlink(lock);
    }
    fd_close(&sv->lock_fd);
}
