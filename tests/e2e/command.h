/* command.h - run the quern program as a person would, and keep what it said. */
#ifndef TESTS_E2E_COMMAND_H
#define TESTS_E2E_COMMAND_H

#include <stddef.h>
#include <sys/types.h>

struct command {
    pid_t pid;
    int out_fd, err_fd; /* -1 once at their end */
    char *out, *err;    /* NUL-terminated so far */
    size_t out_bytes, err_bytes;
    int status;         /* exit status, or 128 + signal */
};

enum { COMMAND_ARGS = 64 };

/* Starts $QUERN (build/quern without it) with these words, NULL-terminated, and extra
 * "NAME=value" pairs in its environment (NULL: none). `input` is its standard input, NULL: none. */
void child_start(struct command *c, const char *const env[], const char *const words[],
    const char *input);

/* Called in the child before it becomes the program; NULL: nothing is. */
extern void (*child_prepare)(void);

/* Reads until at least `bytes` of standard output are there, or it ended, or ms passed.
 * Returns 0 when the time was up. */
int child_read_out(struct command *c, size_t bytes, int ms);

/* The same until it has said something on standard error. */
int child_read_err(struct command *c, const char *said, int ms);

/* Until it has ended; kills it and says so when that takes longer than ms. Returns the status. */
int child_finish(struct command *c, int ms);

/* All of it. */
int child_run(struct command *c, const char *const env[], const char *const words[]);

void child_free(struct command *c);

/* Runs a shell line, with the program as $QUERN; its standard output, at most room - 1 bytes of
 * it, NUL-terminated. Returns the status, -1 when a signal ended it. */
int shell(const char *line, char *said, size_t room);

/* Processes whose parent is, or was, of the family of `root`: fills pids, returns how many. */
int child_family(pid_t root, pid_t *pids, int room);

/* The one of that name among them; 0 when there is none. */
pid_t child_named(pid_t root, const char *name);

/* The path of tests/NAME, and of share/models/storyteller/NAME. */
const char *test_file(char path[4096], const char *name);
const char *story_file(char path[4096], const char *name);

#endif
