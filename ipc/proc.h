/* proc.h - start a program, learn how it ended, and end with one's parent.
 *
 * Ownership: a pidfd belongs to the caller (close it); until proc_reap() says
 *           how it ended, the pid cannot be reused. SIGCHLD must not be ignored
 *           and nobody else may wait for these children.
 * Blocking: proc_spawn() waits for the exec to have happened or failed, no
 *           longer; nothing else blocks. A pidfd is readable once the process
 *           has ended, so an event loop waits on it.
 * Death:    a child dies (SIGKILL) with the *thread* that spawned it: spawn
 *           from one that lives as long as the process. Where that is too
 *           rough or a sandbox forbids it, the death pipe says the same. */
#ifndef IPC_PROC_H
#define IPC_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "quern/status.h"

enum { PROC_KEEP_FDS = 64 };

struct proc_exit {
    int status_or_signal; /* exit status, or the signal when signalled */
    bool signalled;
};

/* Runs `path` (no search) with `argv` (NULL-terminated) and our environment.
 * The child gets standard input, output and error, and keep_fds[n] (at most 64)
 * under the same numbers; nothing else, whatever its close-on-exec flag. All
 * signals are unblocked and at their defaults there. IO: it could not be
 * started, the message names path and reason; INVALID: too many fds. */
enum status proc_spawn(
    const char *path, char *const argv[], const int keep_fds[], size_t n, pid_t *pid, int *pidfd);

/* The same, but the child outlives us and our threads: for a library, whose
 * caller's threads come and go. It learns of our end by other means (a socket). */
enum status proc_spawn_detached(
    const char *path, char *const argv[], const int keep_fds[], size_t n, pid_t *pid, int *pidfd);

/* OK when it has ended (and now is gone), AGAIN while it runs; IO. */
enum status proc_reap(int pidfd, struct proc_exit *how);

/* "was killed by signal 9 (SIGKILL)", "ended with status 3": fits in 64 bytes.
 * Returns `text`. */
const char *proc_describe(struct proc_exit how, char *text, size_t bytes);

/* OK: sent. CLOSED: it has ended and was reaped. IO. */
enum status proc_signal(int pidfd, int signal_number);

/* A pipe nobody writes to. The supervisor holds *keep; workers are given *give
 * (proc_spawn's keep_fds) and see it hang up when the supervisor is gone,
 * however it went. Both are close-on-exec. IO. */
enum status proc_death_pipe(int *keep, int *give);

/* The file this process runs, for finding what lies beside it; to start it once
 * more, spawn "/proc/self/exe", which an upgrade cannot take away. IO, INVALID
 * (path longer than `bytes`). */
enum status proc_self_path(char *path, size_t bytes);

#endif
