/* cli.h - commands that are clients: they know libquern and nothing below it. */
#ifndef QUERN_CLI_CLI_H
#define QUERN_CLI_CLI_H

/* Exit statuses of every command. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* show.c */
/* What is told from here on is told by tell() alone: the library's errors are told when they
 * are the command's, too. */
void tell_alone(void);
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* argv[0] is the command's name. Each returns an exit status. */
int command_embed(int argc, char **argv);
int command_run(int argc, char **argv);
int command_stats(int argc, char **argv);

#endif
