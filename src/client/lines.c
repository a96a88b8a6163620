/* lines.c - libquern: what a private runtime says on standard error.
 *
 * A library prints nothing, and its caller's standard error may be anything. So
 * the runtime's is a pipe, whose lines go where the library's own do. Neither
 * end waits: what nobody takes is lost once the pipe is full. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "client/client.h"

static void pass_line(struct quern *q)
{
    static const char prefix[] = "quern: "; /* of a line that is printed; ours are not */
    const char *line = q->line;

    q->line[q->line_bytes] = '\0';
    q->line_bytes = 0;
    if (strncmp(line, prefix, sizeof(prefix) - 1) == 0)
        line += sizeof(prefix) - 1;
    if (line[0] != '\0')
        log_warn("%s", line);
}

static void take_bytes(struct quern *q, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != '\n')
            q->line[q->line_bytes++] = bytes[i];
        if (bytes[i] == '\n' || q->line_bytes == sizeof(q->line) - 1)
            pass_line(q);
    }
}

void client_take_lines(struct quern *q)
{
    char bytes[4096];
    ssize_t n = 0;

    while (q->lines_fd >= 0 && (n = read(q->lines_fd, bytes, sizeof(bytes))) > 0)
        take_bytes(q, bytes, (size_t)n);
    if (q->lines_fd < 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    pass_line(q);
    if (q->watch >= 0) /* a forked child's copy would keep it there */
        epoll_ctl(q->watch, EPOLL_CTL_DEL, q->lines_fd, NULL);
    close(q->lines_fd);
    q->lines_fd = -1;
}
