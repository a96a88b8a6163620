/* header_example.c - the example in quern.h as it stands there, under a rain of signals. */
#include <quern.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>

static void on_alarm(int number)
{
    (void)number;
}

int main(void)
{
    const struct itimerval often = {{.tv_usec = 5000}, {.tv_usec = 5000}};

    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    {
#include "examples/header_example.inc"
    }
    return 0;
}
