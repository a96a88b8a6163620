/* test_runtime.c - libquern: runtimes that cannot start, and how they end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "quern.h"
#include "tests/client/client_support.h"
#include "tests/e2e/command.h"

enum { FAMILY = 32 };

static void nothing_to_connect_to_is_told(void **state)
{
    char path[300];
    struct quern *q;
    struct quern_request *r = story(1);
    const struct quern_event *e;
    uint64_t id;

    (void)state;
    assert_int_equal(quern_connect("/nowhere/quern.socket", &q), QUERN_IO);
    assert_non_null(strstr(quern_error(q), "is `quern serve --socket` running there?"));
    assert_int_equal(quern_submit(q, r, &id), QUERN_DEAD);
    quern_request_free(r);
    assert_non_null(strstr(quern_error(q), "there is no connection"));
    assert_int_equal(quern_next(q, 0, &e), QUERN_DEAD);
    quern_close(q);
    memset(path, 'x', sizeof(path));
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(quern_connect(path, &q), QUERN_INVALID);
    quern_close(q);
    assert_int_equal(quern_connect("", &q), QUERN_INVALID);
    quern_close(q);
    quern_close(NULL);
}

static void a_folder_of_its_name_is_not_the_program(void **state)
{
    static const char *const folder[] = {"executable", "/tmp", NULL};
    char *program = strdup(getenv("QUERN") != NULL ? getenv("QUERN") : "build/quern");
    struct quern *q;

    (void)state;
    assert_non_null(program);
    assert_int_equal(spawn(&q, folder), QUERN_INVALID);
    assert_non_null(strstr(quern_error(q), "/tmp: not a program"));
    quern_close(q);
    setenv("QUERN", "/tmp", 1);
    assert_int_equal(quern_spawn(NULL, &q), QUERN_INVALID);
    quern_close(q);
    setenv("QUERN", program, 1);
    free(program);
}

/* A runtime with these options tells why it cannot be, as the first and only event but LOADING,
 * to a program that only waits. It prints nothing. */
static void refused(const char *const options[], const char *line)
{
    int fds[2], saved = dup(STDERR_FILENO);
    const struct quern_event *e;
    char said[512] = "", text[512];
    struct quern *q;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    dup2(fds[1], STDERR_FILENO);
    assert_int_equal(spawn(&q, options), QUERN_OK);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fds[1]);
    do
        e = next(q);
    while (quern_event_kind(e) == QUERN_EVENT_LOADING);
    assert_int_equal(quern_event_kind(e), QUERN_EVENT_ERROR);
    assert_true(quern_event_is_last(e));
    snprintf(text, sizeof(text), "%s", quern_event_message(e));
    if (strstr(text, line) == NULL || strchr(text, '\n') != NULL)
        fail_msg("the runtime said \"%s\", not \"%s\"", text, line);
    assert_int_equal(quern_next(q, PATIENCE_MS, &e), QUERN_DEAD);
    assert_string_equal(quern_error(q), text); /* and no less when it has ended */
    quern_close(q);
    assert_int_equal(read(fds[0], said, sizeof(said) - 1), 0);
    close(fds[0]);
}

static void wrong_options_reach_who_waits_for_the_model(void **state)
{
    char tokenizer_only[4096];

    (void)state;
#define OPTIONS(...) ((const char *const[]){__VA_ARGS__, NULL})
    refused(OPTIONS("model", "/nowhere"), "no model /nowhere");
    refused(OPTIONS("tp", "5"), "tp 5 needs 5 query heads, this model has 4");
    refused(OPTIONS("max-model-len", "4096"), "--max-model-len 4096 is more than");
    refused(OPTIONS("model", test_file(tokenizer_only, "golden/qwen3-tokenizer")),
        "has no config.json");
#undef OPTIONS
}

/* Ends of runtimes -------------------------------------------------------------------------- */

/* Processes of the family that are no zombies. */
static int alive_of(pid_t *pids, int n)
{
    int alive = 0;

    for (int i = 0; i < n; i++)
        alive += kill(pids[i], 0) == 0;
    return alive;
}

static void closing_in_mid_answer_leaves_no_process(void **state)
{
    pid_t before[FAMILY], family[FAMILY];
    struct quern *q;
    int n_before = child_family(getpid(), before, FAMILY), n;

    (void)state;
    assert_int_equal(quern_spawn(NULL, &q), QUERN_OK);
    for (int i = 0; i < 5; i++)
        ask(q, endless(2000));
    await(q, QUERN_EVENT_TEXT);
    n = child_family(getpid(), family, FAMILY);
    assert_int_equal(n, n_before + 3); /* supervisor, text worker, rank 0 */
    quern_close(q);
    assert_int_equal(alive_of(family, n), n_before); /* reaped, too: no zombies */
}

static void closing_at_once_leaves_no_process(void **state)
{
    static const char *const large[] = {"model", "synth:0.6b", NULL};
    pid_t family[FAMILY];
    int n = child_family(getpid(), family, FAMILY);
    struct quern *q;

    (void)state;
    assert_int_equal(quern_spawn(NULL, &q), QUERN_OK);
    quern_close(q);
    assert_int_equal(child_family(getpid(), family, FAMILY), n);
    assert_int_equal(spawn(&q, large), QUERN_OK); /* a large one, while it loads */
    poll(NULL, 0, 300);
    quern_close(q);
    assert_int_equal(child_family(getpid(), family, FAMILY), n);
}

static int temporary_folders(void)
{
    DIR *dir = opendir(getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    struct dirent *entry;
    int n = 0;

    while (dir != NULL && (entry = readdir(dir)) != NULL)
        n += strncmp(entry->d_name, "quern-", 6) == 0 && strlen(entry->d_name) == 12;
    if (dir != NULL)
        closedir(dir);
    return n;
}

static void random_weights_leave_no_files(void **state)
{
    static const char *const large[] = {"model", "synth:0.6b", NULL};
    char base[] = "/tmp/quern-client-XXXXXX";
    const char *before = getenv("TMPDIR");
    struct quern *q;

    (void)state;
    assert_non_null(mkdtemp(base));
    setenv("TMPDIR", base, 1);
    assert_int_equal(spawn(&q, large), QUERN_OK);
    for (int i = 0; i < 400 && temporary_folders() == 0; i++)
        poll(NULL, 0, 5);
    for (int i = 0; i < 1000 && temporary_folders() > 0; i++) /* gone while it loads */
        poll(NULL, 0, 5);
    assert_int_equal(temporary_folders(), 0);
    quern_close(q);
    assert_int_equal(rmdir(base), 0);
    if (before != NULL)
        setenv("TMPDIR", before, 1);
    else
        unsetenv("TMPDIR");
}

static void a_dead_runtime_is_told_the_same_way_each_time(void **state)
{
    struct quern_request *r = story(2000);
    pid_t before[FAMILY], family[FAMILY];
    char line[1024];
    const struct quern_event *e;
    struct quern *q;
    uint64_t id;
    int n_before = child_family(getpid(), before, FAMILY), s, n;
    pid_t supervisor = 0;

    (void)state;
    assert_int_equal(quern_spawn(NULL, &q), QUERN_OK);
    submit(q, r);
    next(q);
    n = child_family(getpid(), family, FAMILY);
    assert_true(n > n_before);
    for (int i = 0; i < n && supervisor == 0; i++) { /* our own new child */
        int old = 0;

        for (int j = 0; j < n_before; j++)
            old |= family[i] == before[j];
        supervisor = old ? 0 : family[i];
    }
    kill(supervisor, SIGKILL);
    do
        s = quern_next(q, PATIENCE_MS, &e);
    while (s == QUERN_OK);
    assert_int_equal(s, QUERN_DEAD);
    snprintf(line, sizeof(line), "%s", quern_error(q));
    assert_non_null(strstr(line, "was killed by signal 9 (SIGKILL)"));
    assert_int_equal(quern_next(q, 0, &e), QUERN_DEAD);
    assert_string_equal(quern_error(q), line);
    assert_int_equal(quern_submit(q, r, &id), QUERN_DEAD);
    assert_string_equal(quern_error(q), line);
    assert_int_equal(quern_cancel(q, 1), QUERN_DEAD);
    quern_request_free(r);
    quern_close(q);
}

/* A program that has forked a child of its own, which lives on and holds the connection's socket,
 * ends; so does its runtime. Both say their pid through the pipe. */
static void fork_and_end(int out)
{
    struct quern *q;
    pid_t pids[FAMILY], said[2];

    if (quern_spawn(NULL, &q) != QUERN_OK || child_family(getpid(), pids, FAMILY) < 1)
        _exit(1);
    await(q, QUERN_EVENT_READY);
    said[0] = pids[0];
    said[1] = fork();
    if (said[1] == 0) {
        close(out);
        sleep(60);
        _exit(0);
    }
    _exit(write(out, said, sizeof(said)) == (ssize_t)sizeof(said) ? 0 : 2);
}

static void a_runtime_ends_with_a_program_that_had_forked(void **state)
{
    pid_t child, said[2];
    int fds[2], status;

    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    child = fork();
    if (child == 0)
        fork_and_end(fds[1]);
    close(fds[1]);
    assert_int_equal(read(fds[0], said, sizeof(said)), sizeof(said));
    close(fds[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    for (int i = 0; i < 600 && kill(said[0], 0) == 0; i++)
        poll(NULL, 0, 10);
    status = kill(said[0], 0);
    kill(said[1], SIGKILL);
    assert_int_equal(status, -1);
}

/* As in a daemon that has closed its standard descriptors. */
static void closed_standard_descriptors_do_no_harm(void **state)
{
    pid_t child = fork();
    int status;

    (void)state;
    if (child == 0) {
        struct quern_request *r = story(12);
        const struct quern_event *e = NULL;
        struct quern *q;
        bool done;

        close(0);
        close(1);
        close(2);
        if (quern_spawn(NULL, &q) != QUERN_OK || quern_submit(q, r, NULL) != QUERN_OK)
            _exit(1);
        while (!quern_event_is_last(e))
            if (quern_next(q, PATIENCE_MS, &e) < 0)
                _exit(2);
        done = quern_event_kind(e) == QUERN_EVENT_DONE;
        quern_close(q);
        _exit(done ? 0 : 3);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_connect_to_is_told),
        cmocka_unit_test(a_folder_of_its_name_is_not_the_program),
        cmocka_unit_test(wrong_options_reach_who_waits_for_the_model),
        cmocka_unit_test(closing_in_mid_answer_leaves_no_process),
        cmocka_unit_test(closing_at_once_leaves_no_process),
        cmocka_unit_test(random_weights_leave_no_files),
        cmocka_unit_test(a_dead_runtime_is_told_the_same_way_each_time),
        cmocka_unit_test(a_runtime_ends_with_a_program_that_had_forked),
        cmocka_unit_test(closed_standard_descriptors_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
