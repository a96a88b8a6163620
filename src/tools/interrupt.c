/* interrupt.c - one flag that a handler sets.
 *
 * Loops that write look at it between two blocks, so that what they had begun
 * is taken away by the same code as after any other failure. */
#include "tools/interrupt.h"

#include <signal.h>

#include "cli/cli.h"
#include "quern/log.h"

static const int stops[] = {SIGINT, SIGTERM, SIGHUP};
static volatile sig_atomic_t caught; /* the signal's number */

static void on_stop(int signal_number)
{
    caught = signal_number;
}

void interrupt_catch(void)
{
    const struct sigaction action = {.sa_handler = on_stop, .sa_flags = SA_RESETHAND | SA_RESTART};

    for (size_t i = 0; i < sizeof(stops) / sizeof(stops[0]); i++) {
        struct sigaction before;

        if (sigaction(stops[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(stops[i], &action, NULL);
    }
}

enum status interrupt_check(const char *what)
{
    if (caught == 0)
        return STATUS_OK;
    return log_fail(STATUS_INTERRUPTED, "interrupted: %s was not written", what);
}

int interrupt_exit_status(enum status s)
{
    if (s == STATUS_INTERRUPTED)
        return 128 + caught;
    return s == STATUS_OK ? EXIT_DONE : EXIT_FAILED;
}
