/* test_spawn.c - libquern: how a private runtime is started and ended; scripts play the runtime. */
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/checkpoint/temp_dir.h"
#include "tests/client/client_support.h"

static struct temp_dir dir;

/* A runtime that is this shell script. */
static const char *script(const char *name, const char *text)
{
    char whole[2048];
    const char *path;

    snprintf(whole, sizeof(whole), "#!/bin/sh\ncd %s\n%s", dir.path, text);
    path = temp_dir_write(&dir, name, whole, strlen(whole));
    assert_int_equal(chmod(path, 0700), 0);
    return path;
}

/* What the script wrote into that file, once it has. */
static const char *written(const char *name)
{
    static char text[4096];
    char path[4096];

    snprintf(path, sizeof(path), "%s/%s", dir.path, name);
    for (int i = 0; i < 1000; i++) {
        FILE *f = fopen(path, "re");
        size_t n = f != NULL ? fread(text, 1, sizeof(text) - 1, f) : 0;

        if (f != NULL)
            fclose(f);
        text[n] = '\0';
        if (n > 0)
            return text;
        poll(NULL, 0, 10);
    }
    fail_msg("the script wrote no %s", name);
    return NULL;
}

static void every_option_reaches_the_runtime_by_its_name(void **state)
{
    const char *const options[] = {"model", "DIR", "tp", "2", "threads", "3", "backend", "cpu",
        "compute", "f32", "kv-dtype", "f16", "quant", "int8", "quant-head", "none",
        "quant-activations", "dynamic", "tp-plan", "FILE", "plugin", "SO", "max-model-len", "64",
        "max-seqs", "5", "max-batched-tokens", "7", "block-size", "16", "kv-blocks", "99",
        "memory", "1.5G", "log-level", "info", "max-restarts", "0", "step-timeout", "9", "seed", "0x10", NULL};
    struct quern_options *o = quern_options_new();
    struct quern *q;

    (void)state;
    quern_options_set(o, "tp", "16"); /* the last one counts */
    for (int i = 0; options[i] != NULL; i += 2)
        if (quern_options_set(o, options[i], options[i + 1]) != QUERN_OK)
            fail_msg("%s", quern_error(NULL));
    quern_options_set(o, "executable", script("says", "echo \"$@\" >said.part; mv said.part said\n"));
    assert_int_equal(quern_spawn(o, &q), QUERN_OK);
    quern_options_free(o); /* nothing of them is kept */
    assert_non_null(strstr(written("said"), "serve --private-fd "));
    assert_non_null(strstr(written("said"), " --parent-pidfd "));
    assert_non_null(strstr(written("said"), " --model DIR --tp 2 --threads 3 --backend cpu --compute "
        "f32 --kv-dtype f16 --quant int8 --quant-head none --quant-activations dynamic --tp-plan "
        "FILE --plugin SO --max-model-len 64 --max-seqs 5 --max-batched-tokens 7 --block-size 16 "
        "--kv-blocks 99 --memory 1.5G --log-level info --max-restarts 0 --step-timeout 9 --seed 0x10\n"));
    quern_close(q);
}

static void options_that_cannot_be_are_refused_where_they_are_set(void **state)
{
    struct quern_options *o = quern_options_new();

    (void)state;
#define REFUSED(status, name, value, line)                                                         \
    assert_int_equal(quern_options_set(o, name, value), status),                                   \
        assert_string_equal(quern_error(NULL), line)
    REFUSED(QUERN_UNKNOWN, "max-model-length", "8",
        "unknown option --max-model-length: did you mean --max-model-len?");
    REFUSED(QUERN_UNKNOWN, "temperature", "1", "unknown option --temperature");
    REFUSED(QUERN_UNKNOWN, "private-fd", "1", "unknown option --private-fd");
    REFUSED(QUERN_UNKNOWN, "", "1", "unknown option --");
    REFUSED(QUERN_INVALID, "tp", "two", "--tp two: it wants a whole number from 1 to 16");
    REFUSED(QUERN_INVALID, "tp", "99", "--tp 99: it wants a whole number from 1 to 16");
    REFUSED(QUERN_INVALID, "compute", "f64", "--compute f64: it wants one of bf16|f32");
    REFUSED(QUERN_INVALID, "memory", "much", "--memory much: it wants bytes, such as 800M or 16G");
#undef REFUSED
    quern_options_free(o);
}

static struct quern *start(const char *executable)
{
    struct quern *q;

    if (spawn(&q, (const char *[]){"executable", executable, NULL}) != QUERN_OK)
        fail_msg("%s", quern_error(q));
    return q;
}

/* Its grace is 5 s. */
static void a_runtime_that_does_not_end_is_killed(void **state)
{
    struct quern *q = start(script("stays", "trap '' TERM HUP\necho $$ >pid\n"
                                            "while :; do sleep 1; done\n"));
    pid_t pid;
    long begin;

    (void)state;
    pid = (pid_t)atoi(written("pid"));
    assert_int_equal(kill(pid, 0), 0);
    begin = now_ms();
    quern_close(q);
    assert_in_range(now_ms() - begin, 4900, 15000);
    assert_int_equal(kill(pid, 0), -1);
}

static void on_alarm(int number)
{
    (void)number;
}

/* One that takes a moment to end, under signals: it ends by itself, and is not killed. */
static void closing_waits_on_although_signals_arrive(void **state)
{
    const struct itimerval often = {{.tv_usec = 10000}, {.tv_usec = 10000}}, never = {.it_value = {0}};
    struct quern *q = start(script("slow", "echo ready >ready\nsleep 1\necho end >end\n"));

    (void)state;
    written("ready");
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    quern_close(q);
    setitimer(ITIMER_REAL, &never, NULL);
    assert_string_equal(written("end"), "end\n");
}

/* How it ended is told, also where nobody asks for seconds. */
static void a_runtime_that_ends_at_once_is_told(void **state)
{
    struct quern *q = start(script("fails", "exit 7\n"));
    const struct quern_event *e;

    (void)state;
    assert_int_equal(quern_next(q, PATIENCE_MS, &e), QUERN_DEAD);
    assert_non_null(strstr(quern_error(q), "ended with status 7"));
    quern_close(q);
}

/* This test as a runtime: it hangs up, and lives on. */
static int hang_up(void)
{
    for (int fd = STDERR_FILENO + 1; fd < 64; fd++)
        close(fd);
    sleep(3);
    return 0;
}

static void an_end_without_a_death_is_told_soon(void **state)
{
    struct quern *q = start("/proc/self/exe");
    const struct quern_event *e;
    long begin = now_ms();

    (void)state;
    assert_int_equal(quern_next(q, PATIENCE_MS, &e), QUERN_DEAD);
    assert_string_equal(quern_error(q), "the quern runtime closed the connection");
    assert_true(now_ms() - begin < 2900);
    quern_close(q);
}

static char logged[4096];

static void keep_line(void *context, int level, const char *line)
{
    (void)context;
    if (level == QUERN_LOG_WARN) /* the others are the library's own */
        strcat(strcat(logged, line), "|");
}

/* By this process's standard error, nothing; what nobody reads stops nobody. */
static void what_a_runtime_says_goes_to_the_log(void **state)
{
    static const char talk[] = "while [ \"$1\" != --lines-fd ]; do shift; done\n"
        "out=/proc/self/fd/$2\n"
        "printf 'quern: a warning\\nplain\\n\\nhal' >$out\n"
        "printf 'f\\nno newline' >$out\n"
        "echo spoken >spoken\n";
    const struct quern_event *e;
    struct quern *q;

    (void)state;
    quern_log_set(QUERN_LOG_WARN, keep_line, NULL);
    q = start(script("talks", talk));
    written("spoken");
    assert_int_equal(quern_next(q, 100, &e), QUERN_DEAD);
    quern_log_set(QUERN_LOG_WARN, NULL, NULL);
    assert_string_equal(logged, "a warning|plain|half|no newline|");
    quern_close(q);
}

/* This test as a runtime: it says more than a pipe holds, and ends. */
static int flood(int argc, char **argv)
{
    static const char line[] = "a line that nobody reads\n";

    for (int i = 0; i + 1 < argc; i++)
        for (int n = 0; strcmp(argv[i], "--lines-fd") == 0 && n < 10000; n++)
            if (write(atoi(argv[i + 1]), line, sizeof(line) - 1) < 0)
                return 0;
    return 0;
}

static void a_runtime_that_talks_is_not_stopped_by_who_does_not_read(void **state)
{
    struct quern *q;
    long begin = now_ms();

    (void)state;
    setenv("QUERN_TEST_FLOOD", "1", 1);
    q = start("/proc/self/exe");
    unsetenv("QUERN_TEST_FLOOD");
    quern_close(q);
    assert_true(now_ms() - begin < 4500); /* it ended by itself */
}

static int make_dir(void **state)
{
    (void)state;
    temp_dir_make(&dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_option_reaches_the_runtime_by_its_name),
        cmocka_unit_test(options_that_cannot_be_are_refused_where_they_are_set),
        cmocka_unit_test(a_runtime_that_does_not_end_is_killed),
        cmocka_unit_test(closing_waits_on_although_signals_arrive),
        cmocka_unit_test(a_runtime_that_ends_at_once_is_told),
        cmocka_unit_test(an_end_without_a_death_is_told_soon),
        cmocka_unit_test(what_a_runtime_says_goes_to_the_log),
        cmocka_unit_test(a_runtime_that_talks_is_not_stopped_by_who_does_not_read),
    };

    if (argc > 1 && strcmp(argv[1], "serve") == 0)
        return getenv("QUERN_TEST_FLOOD") != NULL ? flood(argc, argv) : hang_up();
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
