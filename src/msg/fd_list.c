/* fd_list.c - the text is our own supervisor's, and checked like a stranger's. */
#include "msg/fd_list.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void fd_list_format(const int *fds, int n, char text[FD_LIST_TEXT])
{
    char *at = text;

    *at = '\0';
    for (int i = 0; i < n; i++)
        at += sprintf(at, "%s%d", i > 0 ? "," : "", fds[i]);
}

int fd_list_parse(const char *text, int fds[FD_LIST_MOST])
{
    int n = 0;

    while (n < FD_LIST_MOST) {
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

void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}
