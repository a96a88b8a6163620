/* interrupt.h - SIGINT, SIGTERM and SIGHUP as a question, for commands that have files to remove.
 *
 * From interrupt_catch() on, the first such signal is only noted; the second ends the process, as
 * without us. One that was ignored at the start stays ignored (nohup). Process-wide. */
#ifndef QUERN_TOOLS_INTERRUPT_H
#define QUERN_TOOLS_INTERRUPT_H

#include "quern/status.h"

void interrupt_catch(void);

/* INTERRUPTED (logged: "interrupted: WHAT was not written"), once a signal has come. */
enum status interrupt_check(const char *what);

/* The exit status of a command that ended with `s`: what a shell shows for the signal, 130 for
 * SIGINT, if that is how it ended. */
int interrupt_exit_status(enum status s);

#endif
