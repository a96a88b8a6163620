/* test_backend.c - backends by name. The rows themselves are stood in for: only the table is
 * tried here. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

#include "quern/backend.h"
#include "quern/log.h"

const struct backend cpu_backend = {.name = "cpu"};

static void cpu_and_auto_are_the_cpu(void **state)
{
    (void)state;
    assert_ptr_equal(backend_find("cpu"), &cpu_backend);
    assert_ptr_equal(backend_find("auto"), &cpu_backend);
}

static void an_absent_backend_is_an_error_that_says_what_to_use(void **state)
{
    (void)state;
    assert_null(backend_find("cuda"));
    assert_non_null(strstr(log_last_error(), "no CUDA module: use --backend cpu"));
    assert_null(backend_find("vulkan"));
    assert_non_null(strstr(log_last_error(), "\"vulkan\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_and_auto_are_the_cpu),
        cmocka_unit_test(an_absent_backend_is_an_error_that_says_what_to_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
