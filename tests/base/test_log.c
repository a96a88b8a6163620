/* test_log.c - one line for a person: where it goes, what is kept, where it is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "quern/log.h"

struct heard {
    int lines;
    enum log_level level;
    char line[LOG_LINE_BYTES];
};

static void hear(void *context, enum log_level level, const char *line)
{
    struct heard *h = context;

    h->lines++;
    h->level = level;
    strcpy(h->line, line);
}

static int listen_anew(void **state)
{
    static struct heard heard;

    heard = (struct heard){0};
    *state = &heard;
    log_set_level(LOG_LEVEL_WARN);
    log_set_sink(hear, &heard);
    return 0;
}

static int stop_listening(void **state)
{
    (void)state;
    log_set_sink(NULL, NULL);
    return 0;
}

static void failing_returns_its_status_and_tells_the_sink(void **state)
{
    struct heard *h = *state;

    assert_int_equal(log_fail(STATUS_IO, "%s: %d", "file", 3), STATUS_IO);
    assert_int_equal(h->lines, 1);
    assert_int_equal(h->level, LOG_LEVEL_ERROR);
    assert_string_equal(h->line, "file: 3");
    assert_string_equal(log_last_error(), "file: 3");
}

static void only_errors_are_kept(void **state)
{
    struct heard *h = *state;

    (void)log_fail(STATUS_INVALID, "kept");
    log_warn("not kept");
    assert_int_equal(h->lines, 2);
    assert_string_equal(h->line, "not kept");
    assert_string_equal(log_last_error(), "kept");
}

static void levels_past_the_chosen_one_are_dropped(void **state)
{
    struct heard *h = *state;

    log_info("unheard");
    assert_int_equal(h->lines, 0);
    log_set_level(LOG_LEVEL_INFO);
    log_info("heard");
    log_debug("unheard");
    assert_int_equal(h->lines, 1);
    log_set_level(LOG_LEVEL_ERROR);
    log_warn("unheard");
    (void)log_fail(STATUS_IO, "heard");
    assert_int_equal(h->lines, 2);
}

static void without_a_sink_the_error_is_still_kept(void **state)
{
    struct heard *h = *state;

    log_set_sink(NULL, NULL);
    assert_int_equal(log_fail(STATUS_DEAD, "nobody hears"), STATUS_DEAD);
    assert_int_equal(h->lines, 0);
    assert_string_equal(log_last_error(), "nobody hears");
}

static void last_error_can_be_part_of_the_next_one(void **state)
{
    (void)state;
    (void)log_fail(STATUS_IO, "inner");
    (void)log_fail(STATUS_IO, "outer: %s", log_last_error());
    assert_string_equal(log_last_error(), "outer: inner");
}

static void what_would_command_a_terminal_is_blank(void **state)
{
    (void)state;
    log_fail(STATUS_INVALID, "%s", "a\033[2Jb\r\nc\td\x7f \xc3\xa9");
    assert_string_equal(log_last_error(), "a [2Jb  c d  \xc3\xa9");
}

static void long_line_is_cut_at_a_whole_character(void **state)
{
    struct heard *h = *state;
    char text[LOG_LINE_BYTES + 64];

    /* A euro sign of three bytes at every place around the cut. */
    for (size_t at = LOG_LINE_BYTES - 6; at < LOG_LINE_BYTES + 2; at++) {
        size_t whole = at + 3 <= LOG_LINE_BYTES - 1 ? LOG_LINE_BYTES - 1 : at;

        memset(text, 'a', sizeof(text));
        memcpy(text + at, "\xe2\x82\xac", 3);
        text[sizeof(text) - 1] = '\0';
        (void)log_fail(STATUS_IO, "%s", text);
        if (whole > LOG_LINE_BYTES - 1)
            whole = LOG_LINE_BYTES - 1;
        assert_int_equal(strlen(h->line), whole);
        assert_memory_equal(h->line, text, whole);
    }
}

static void line_that_just_fits_is_whole(void **state)
{
    struct heard *h = *state;
    char text[LOG_LINE_BYTES];

    memset(text, 'b', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    log_warn("%s", text);
    assert_string_equal(h->line, text);
}

static void *fail_elsewhere(void *seen)
{
    *(bool *)seen = log_last_error()[0] == '\0';
    (void)log_fail(STATUS_IO, "of another thread");
    return NULL;
}

static void each_thread_has_its_own_last_error(void **state)
{
    pthread_t thread;
    bool was_empty = false;

    (void)state;
    (void)log_fail(STATUS_IO, "ours");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &was_empty), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(was_empty);
    assert_string_equal(log_last_error(), "ours");
}

static void standard_error_gets_one_line_with_our_name(void **state)
{
    char got[64] = "";
    int saved = dup(STDERR_FILENO), ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    log_to_stderr(NULL, LOG_LEVEL_WARN, "mind the gap");
    dup2(saved, STDERR_FILENO);
    assert_int_equal(read(ends[0], got, sizeof(got) - 1), 20);
    assert_string_equal(got, "quern: mind the gap\n");
    close(saved);
    close(ends[0]);
    close(ends[1]);
}

static void words_name_levels(void **state)
{
    static const char *const words[] = {"error", "warn", "info", "debug"};
    enum log_level level = LOG_LEVEL_DEBUG;

    (void)state;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(log_level_parse(words[i], &level), STATUS_OK);
        assert_int_equal(level, i);
    }
    assert_int_equal(log_level_parse("loud", &level), STATUS_INVALID);
    assert_int_equal(log_level_parse("", &level), STATUS_INVALID);
    assert_int_equal(level, LOG_LEVEL_DEBUG);
}

static void refused_call_is_told_from_one_that_failed(void **state)
{
    (void)state;
    assert_int_equal(log_call_failed(EMFILE, "eventfd", "no bell for rank %d", 3), STATUS_IO);
    assert_string_equal(log_last_error(), "no bell for rank 3: eventfd: Too many open files");
    log_call_failed(ENOSYS, "eventfd", "no bell");
    assert_non_null(strstr(log_last_error(), "no bell: eventfd: Function not implemented: "));
    assert_non_null(strstr(log_last_error(), "allow it in the container's seccomp profile"));
    log_call_failed(EPERM, "eventfd", "%s", log_last_error());
    assert_non_null(strstr(log_last_error(), "no bell: eventfd: Function not"));
}

static void every_status_has_a_name_of_its_own(void **state)
{
    (void)state;
    for (int a = STATUS_INTERNAL; a <= STATUS_UNSUPPORTED; a++) {
        assert_string_not_equal(status_name((enum status)a), "unknown status");
        for (int b = a + 1; b <= STATUS_UNSUPPORTED; b++)
            assert_string_not_equal(status_name((enum status)a), status_name((enum status)b));
    }
    assert_string_equal(status_name((enum status)99), "unknown status");
}

#define LISTENING(test) cmocka_unit_test_setup_teardown(test, listen_anew, stop_listening)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LISTENING(failing_returns_its_status_and_tells_the_sink),
        LISTENING(only_errors_are_kept),
        LISTENING(levels_past_the_chosen_one_are_dropped),
        LISTENING(without_a_sink_the_error_is_still_kept),
        LISTENING(last_error_can_be_part_of_the_next_one),
        LISTENING(what_would_command_a_terminal_is_blank),
        LISTENING(long_line_is_cut_at_a_whole_character),
        LISTENING(line_that_just_fits_is_whole),
        LISTENING(each_thread_has_its_own_last_error),
        LISTENING(standard_error_gets_one_line_with_our_name),
        LISTENING(words_name_levels),
        LISTENING(refused_call_is_told_from_one_that_failed),
        LISTENING(every_status_has_a_name_of_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
