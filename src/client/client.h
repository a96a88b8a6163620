/* client.h - inside of struct quern: a socket, what came through it, and perhaps a child. */
#ifndef QUERN_CLIENT_CLIENT_H
#define QUERN_CLIENT_CLIENT_H

#include <limits.h>
#include <stdbool.h>

#include "ipc/proc.h"
#include "msg/frame.h"
#include "quern.h"
#include "quern/log.h"

struct quern {
    int fd;              /* -1 once the other end is gone */
    int pidfd;           /* of a private runtime; -1: none */
    pid_t pid;
    uint64_t last_id;
    struct frame_reader reader;
    char *text;          /* of the event last given: NUL-terminated */
    size_t text_room;
    int32_t *ids;        /* of the event last given, aligned */
    size_t ids_room;
    char error[LOG_LINE_BYTES];
    char end[LOG_LINE_BYTES]; /* why there is no connection any more */
};

/* Keeps the thread's last error line for quern_error(), and turns the status. */
int client_failed(struct quern *q, enum status s);

/* The quern program: the option, then beside this library, then the place it is installed
 * in, then PATH. INVALID (logged) when there is none. */
enum status client_find_program(const char *wanted, char path[PATH_MAX]);

/* Starts `program serve --fd N` with the options; q->fd, pid and pidfd are set. */
enum status client_spawn(struct quern *q, const struct quern_options *options);

/* Waits for a private runtime to end, a few seconds at most; then kills it. Says how it ended. */
void client_reap(struct quern *q, char how[128]);

#endif
