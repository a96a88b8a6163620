/* new_file.c - an unnamed file that gets its name at the end, or FILE.part in its stead.
 *
 * linkat() does not replace a file, rename() does: so an unnamed one has the
 * name FILE.part-PID for the moment between the two. */
#include "tools/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quern/log.h"

enum { TRIES = 8 };

static const int stops[] = {SIGINT, SIGTERM, SIGHUP};
static char to_remove[PATH_MAX]; /* by on_stop(); "": nothing */

static enum status fail_write(const struct new_file *f)
{
    return log_fail(STATUS_IO, "%s: cannot be written: %s", f->path, strerror(errno));
}

static void on_stop(int signal_number)
{
    unlink(to_remove);
    raise(signal_number); /* SA_RESETHAND: it ends us once we return */
}

static void remove_on_stop(const char *part)
{
    const struct sigaction action = {.sa_handler = on_stop, .sa_flags = (int)SA_RESETHAND};

    memcpy(to_remove, part, strlen(part) + 1);
    for (size_t i = 0; i < sizeof(stops) / sizeof(stops[0]); i++) {
        struct sigaction before;

        if (sigaction(stops[i], NULL, &before) == 0 && before.sa_handler == SIG_DFL)
            sigaction(stops[i], &action, NULL);
    }
}

/* Nothing interrupts us between two names. */
static void block_stops(int how)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(stops) / sizeof(stops[0]); i++)
        sigaddset(&set, stops[i]);
    sigprocmask(how, &set, NULL);
}

static int open_unnamed(const struct new_file *f)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(f->path, '/');

    if (slash == NULL)
        strcpy(folder, ".");
    else
        snprintf(folder, sizeof(folder), "%.*s", (int)(slash - f->path) + 1, f->path);
    return open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
}

/* Whether `fd`, which we have locked, is still what FILE.part names: its last owner may have
 * renamed or removed it meanwhile. */
static bool is_still(int fd, const char *part)
{
    struct stat ours, there;

    return fstat(fd, &ours) == 0 && stat(part, &there) == 0 && ours.st_ino == there.st_ino &&
           ours.st_dev == there.st_dev;
}

static int open_named(const struct new_file *f)
{
    for (int i = 0; i < TRIES; i++) {
        int fd = open(f->part, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666), error;

        if (fd < 0)
            return -1;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0 && is_still(fd, f->part) && ftruncate(fd, 0) == 0)
            return fd;
        error = errno;
        close(fd);
        errno = error;
    }
    return -1;
}

/* A descriptor; -1 with errno. */
static int open_new(struct new_file *f)
{
    int fd = open_unnamed(f);

    if (fd >= 0) {
        snprintf(f->part, sizeof(f->part), "%s.part-%ld", f->path, (long)getpid());
        return fd;
    }
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) /* what refuses O_TMPFILE says */
        return -1;
    snprintf(f->part, sizeof(f->part), "%s.part", f->path);
    fd = open_named(f);
    f->named = fd >= 0;
    if (f->named)
        remove_on_stop(f->part);
    return fd;
}

enum status new_file_open(struct new_file *f, const char *path)
{
    struct stat st;
    int fd;

    *f = (struct new_file){.path = path};
    if (path[0] == '\0' || strlen(path) > sizeof(f->part) - 32)
        return log_fail(STATUS_IO, "the file to write has no name, or too long a one");
    f->direct = stat(path, &st) == 0 && !S_ISREG(st.st_mode);
    fd = f->direct ? open(path, O_WRONLY | O_CLOEXEC) : open_new(f);
    if (fd < 0 && errno == EWOULDBLOCK)
        return log_fail(STATUS_IO, "%s: another process is writing it", f->part);
    if (fd < 0)
        return fail_write(f);
    f->out = fdopen(fd, "w");
    if (f->out != NULL)
        return STATUS_OK;
    close(fd);
    if (f->named)
        unlink(f->part);
    return fail_write(f);
}

static enum status name_it(const struct new_file *f)
{
    char unnamed[64];

    snprintf(unnamed, sizeof(unnamed), "/proc/self/fd/%d", fileno(f->out));
    unlink(f->part); /* of a process that had our number, and died between two calls */
    if (linkat(AT_FDCWD, unnamed, AT_FDCWD, f->part, AT_SYMLINK_FOLLOW) != 0)
        return log_call_failed(errno, "linkat", "%s: cannot be written", f->path);
    return STATUS_OK;
}

/* All of it is written: its names. */
static enum status put_in_place(struct new_file *f)
{
    enum status s = STATUS_OK;

    block_stops(SIG_BLOCK);
    if (!f->named)
        s = name_it(f);
    if (s == STATUS_OK && rename(f->part, f->path) != 0) {
        s = fail_write(f);
        unlink(f->part);
    }
    to_remove[0] = '\0';
    block_stops(SIG_UNBLOCK);
    return s;
}

enum status new_file_finish(struct new_file *f, enum status s)
{
    if (s == STATUS_OK && (fflush(f->out) != 0 || ferror(f->out)))
        s = fail_write(f);
    if (s == STATUS_OK && !f->direct)
        s = put_in_place(f);
    else if (f->named)
        unlink(f->part);
    if (fclose(f->out) != 0 && s == STATUS_OK)
        s = fail_write(f);
    return s;
}
