/* test_outputs.c - what commands write: standard output that takes nothing, disks that are full,
 * limits, and signals in the middle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e/command.h"

/* Each prints something. */
static const char *const printing[] = {
    "--version", "--help", "run --help", "run --greedy -n 4 x", "run --greedy -n 4 --print-ids x",
    "doctor", "doctor --json", "plan", "plan --json", "bench --help", "bench ipc --help",
    "tokenize", "detokenize --help", "template --help",
};

static void output_that_goes_nowhere_is_one_line_and_a_failure(void **state)
{
    static const char *const nowhere[] = {">&-", ">/dev/full"};
    char line[256], said[512];

    (void)state;
    for (size_t i = 0; i < sizeof(printing) / sizeof(printing[0]); i++)
        for (size_t j = 0; j < 2; j++) {
            int status;

            snprintf(line, sizeof(line), "echo '\"a\"' | { \"$QUERN\" %s 2>&1 %s; }", printing[i],
                nowhere[j]);
            status = shell(line, said, sizeof(said));
            if (status != 1 || strncmp(said, "quern: ", 7) != 0 ||
                strchr(said, '\n') != said + strlen(said) - 1)
                fail_msg("%s: status %d, \"%s\"", line, status, said);
        }
}

static void commands_that_print_nothing_need_no_output(void **state)
{
    char said[512];

    (void)state;
    assert_int_equal(
        shell("\"$QUERN\" logits --ids 1,2 -o /dev/null 2>&1 >&-", said, sizeof(said)), 0);
    assert_string_equal(said, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_that_goes_nowhere_is_one_line_and_a_failure),
        cmocka_unit_test(commands_that_print_nothing_need_no_output),
    };

    setenv("QUERN", "build/quern", 0); /* as command.h says; the shell needs it, too */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
