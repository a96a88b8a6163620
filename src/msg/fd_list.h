/* fd_list.h - descriptors that a child inherits by number, as one argument "3,4,5". */
#ifndef QUERN_MSG_FD_LIST_H
#define QUERN_MSG_FD_LIST_H

enum { FD_LIST_MOST = 24, FD_LIST_TEXT = 12 * FD_LIST_MOST };

void fd_list_format(const int *fds, int n, char text[FD_LIST_TEXT]);

/* Numbers of open descriptors, close-on-exec from now on; how many, 0 when the text is none. */
int fd_list_parse(const char *text, int fds[FD_LIST_MOST]);

/* Closes one that is there. */
void fd_close(int *fd);

#endif
