/* test_outputs.c - what commands write: standard output that takes nothing, disks that are full,
 * limits, and signals in the middle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/checkpoint/temp_dir.h"
#include "tests/e2e/command.h"

/* 96 million weights: long enough to be met at work, and small enough for any disk. */
static const char medium[] =
    "{\"model_type\": \"qwen3\", \"hidden_size\": 1024, \"intermediate_size\": 4096, "
    "\"num_hidden_layers\": 4, \"num_attention_heads\": 8, \"num_key_value_heads\": 4, "
    "\"head_dim\": 128, \"vocab_size\": 32000, \"tie_word_embeddings\": true}";

static struct temp_dir inputs, outputs; /* medium.json and a checkpoint of it; what is written */
static char like[1024], model[1024], out[1024];

static int group_setup(void **state)
{
    const char *words[] = {"synth", "--like", like, "--seed", "1", model, NULL};
    struct command c;
    int status;

    (void)state;
    signal(SIGINT, SIG_DFL); /* a shell that runs us in the background, or nohup, ignored them */
    signal(SIGHUP, SIG_DFL);
    temp_dir_make(&inputs);
    temp_dir_make(&outputs);
    snprintf(like, sizeof(like), "%s", temp_dir_write(&inputs, "medium.json", medium,
        sizeof(medium) - 1));
    snprintf(model, sizeof(model), "%s", temp_dir_file(&inputs, "medium"));
    snprintf(out, sizeof(out), "%s", temp_dir_file(&outputs, "out"));
    status = child_run(&c, NULL, words);
    child_free(&c);
    return status;
}

static int group_teardown(void **state)
{
    (void)state;
    temp_dir_remove(&inputs);
    temp_dir_remove(&outputs);
    return 0;
}

/* How many names in `outputs` begin with `name`. */
static int count_names(const char *name)
{
    DIR *dir = opendir(outputs.path);
    struct dirent *entry;
    int n = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL)
        n += entry->d_name[0] != '.' && strncmp(entry->d_name, name, strlen(name)) == 0;
    closedir(dir);
    return n;
}

static void empty_outputs(void)
{
    temp_dir_remove(&outputs);
    assert_int_equal(mkdir(outputs.path, 0700), 0);
}

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

/* Writers that are interrupted -------------------------------------------------------------- */

static const char *const synth_words[] = {"synth", "--like", like, out, NULL};
static const char *const quantize_words[] = {"quantize", "-m", model, "--quant", "int4", out, NULL};
static const char *const logits_words[] = {"logits", "--ids", "@", "--last", "2000", "-o", out, NULL};

/* Whether `pid` has a file open in `outputs`, with or without a name. A folder is none: it is there
 * before its writer has locked it, and until then others may take it for a left over one. */
static bool has_output_open(pid_t pid)
{
    char path[64], target[1024];
    struct dirent *entry;
    struct stat st;
    bool found = false;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    dir = opendir(path);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target));

        if (n > (ssize_t)strlen(outputs.path) &&
            strncmp(target, outputs.path, strlen(outputs.path)) == 0 &&
            fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            found = true;
    }
    if (dir != NULL)
        closedir(dir);
    return found;
}

/* Starts a command and returns when it has begun to write. False: it was done before that was
 * seen. */
static bool start_writer(struct command *c, const char *const *words)
{
    static char ids[16000];
    const char *copy[COMMAND_ARGS] = {0};
    siginfo_t ended = {0};

    if (ids[0] == '\0')
        for (int i = 1; i <= 2000; i++)
            snprintf(ids + strlen(ids), 16, "%s%d", i > 1 ? "," : "", i);
    for (int i = 0; words[i] != NULL; i++)
        copy[i] = strcmp(words[i], "@") == 0 ? ids : words[i];
    child_start(c, NULL, copy, NULL);
    for (int i = 0; i < 30000; i++) {
        if (has_output_open(c->pid))
            return true;
        if (waitid(P_PID, (id_t)c->pid, &ended, WEXITED | WNOHANG | WNOWAIT) != 0 ||
            ended.si_pid != 0)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return has_output_open(c->pid);
}

/* Interrupts one at work: on a busy machine it may take more than one. */
static void interrupt(const char *const *words, int signal_number, struct command *c)
{
    for (int tries = 0; tries < 8; tries++) {
        bool begun = start_writer(c, words);

        kill(c->pid, signal_number);
        if (child_finish(c, 30000) == 128 + signal_number && begun)
            return;
        child_free(c);
        empty_outputs();
    }
    fail_msg("%s was never met at work", words[0]);
}

static void interrupted_writers_leave_nothing(void **state)
{
    static const char *const *const writers[] = {synth_words, quantize_words, logits_words};
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

    (void)state;
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < 3; j++) {
            struct command c;

            interrupt(writers[i], signals[j], &c);
            if (count_names("") != 0)
                fail_msg("%s left something behind", writers[i][0]);
            assert_true(i == 2 || strstr(c.err, "quern: interrupted: ") == c.err);
            child_free(&c);
        }
}

static void killed_logits_leave_nothing(void **state)
{
    int fd = open(outputs.path, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    struct command c;

    (void)state;
    interrupt(logits_words, SIGKILL, &c);
    child_free(&c);
    assert_int_equal(count_names(""), fd < 0); /* out.part, where there are no unnamed files */
    if (fd >= 0)
        close(fd);
    empty_outputs();
}

static void what_a_killed_writer_left_is_removed_by_the_next(void **state)
{
    struct command c;

    (void)state;
    interrupt(quantize_words, SIGKILL, &c);
    child_free(&c);
    assert_int_equal(count_names("out.tmp-"), 1);
    assert_int_equal(mkdir(temp_dir_file(&outputs, "out.tmp-"), 0700), 0);
    assert_int_equal(mkdir(temp_dir_file(&outputs, "out.tmp-1x"), 0700), 0); /* somebody else's */
    assert_int_equal(child_run(&c, NULL, synth_words), 0);
    child_free(&c);
    assert_int_equal(count_names("out.tmp-"), 2);
    assert_int_equal(count_names(""), 3);
    empty_outputs();
}

static void a_writer_at_work_is_left_alone(void **state)
{
    struct command first, second;
    bool begun = false;
    int left;

    (void)state;
    for (int tries = 0; tries < 40 && !begun; tries++) {
        begun = start_writer(&first, quantize_words);
        kill(first.pid, SIGSTOP);
        begun = begun && count_names("out.tmp-") == 1;
        if (!begun) {
            kill(first.pid, SIGKILL);
            child_finish(&first, 10000);
            child_free(&first);
            empty_outputs();
        }
    }
    assert_true(begun);
    child_run(&second, NULL, synth_words);
    left = count_names("out.tmp-");
    kill(first.pid, SIGCONT);
    child_finish(&first, 60000);
    assert_int_equal(second.status, 0);
    assert_int_equal(left, 1);
    child_free(&second);
    assert_int_equal(first.status, 1);
    assert_non_null(strstr(first.err, "Directory not empty"));
    assert_int_equal(count_names(""), 1);
    child_free(&first);
    empty_outputs();
}

/* SIGXFSZ would end the process without a word. */
static void a_limit_on_file_sizes_is_told(void **state)
{
    char line[8192], said[512];

    (void)state;
    snprintf(line, sizeof(line), "ulimit -f 100; \"$QUERN\" synth --like %s %s 2>&1", like, out);
    assert_int_equal(shell(line, said, sizeof(said)), 1);
    assert_non_null(strstr(said, "File too large: look at ulimit -f"));
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
    snprintf(line, sizeof(line), "ulimit -f 1; \"$QUERN\" run -n 3 x 2>&1");
    assert_int_equal(shell(line, said, sizeof(said)), 1);
    assert_memory_equal(said, "quern: ", 7);
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
    assert_int_equal(count_names(""), 0);
}

/* What is said of the work --------------------------------------------------------------------- */

/* The bytes of the files in `out`, and how many. */
static long long sizes(int *files)
{
    char line[4096], said[64];
    long long bytes;

    snprintf(line, sizeof(line), "cat %s/* | wc -c; ls %s | wc -l", out, out);
    assert_int_equal(shell(line, said, sizeof(said)), 0);
    assert_int_equal(sscanf(said, "%lld %d", &bytes, files), 2);
    return bytes;
}

static void the_last_line_says_what_was_written(void **state)
{
    static const char *const *const writers[] = {synth_words, quantize_words};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct command c;
        char want[2048];
        int files;
        long long bytes;

        assert_int_equal(child_run(&c, NULL, writers[i]), 0);
        bytes = sizes(&files);
        snprintf(want, sizeof(want), "quern: wrote %s: %d files, %lld bytes\n", out, files, bytes);
        assert_string_equal(c.err, want); /* and no bar, which is for terminals */
        assert_string_equal(c.out, "");
        child_free(&c);
        empty_outputs();
    }
}

/* Runs quern on a terminal of its own; what that showed. */
static int on_terminal(const char *const *words, char *shown, size_t room)
{
    const char *argv[COMMAND_ARGS] = {getenv("QUERN")};
    size_t n = 0;
    ssize_t got;
    int master, status;
    pid_t child = forkpty(&master, NULL, NULL, NULL);

    assert_true(child >= 0);
    if (child == 0) {
        for (int i = 0; words[i] != NULL; i++)
            argv[i + 1] = words[i];
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    while (n < room - 1 && (got = read(master, shown + n, room - 1 - n)) > 0)
        n += (size_t)got;
    shown[n] = '\0';
    close(master);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void a_terminal_shows_how_far_it_is(void **state)
{
    static char shown[1 << 16];
    const char *bar, *last;

    (void)state;
    assert_int_equal(on_terminal(quantize_words, shown, sizeof(shown)), 0);
    bar = strstr(shown, "writing [#");
    last = strstr(shown, "quern: wrote ");
    assert_non_null(bar);
    assert_non_null(last);
    assert_true(bar < last);
    assert_memory_equal(last - 4, "\r\033[K", 4); /* the bar is gone */
    empty_outputs();
}

/* Logits ----------------------------------------------------------------------------------- */

/* As exact as DESIGN promises: prompts in chunks give the same bits. */
static void the_last_positions_may_span_chunks(void **state)
{
    char line[4096], said[512];

    (void)state;
    snprintf(line, sizeof(line),
        "cd %s && ids=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21\n"
        "for last in 1 5 6 13 21; do\n"
        "\"$QUERN\" logits --ids $ids --last $last -o whole &&\n"
        "\"$QUERN\" logits --ids $ids --last $last -o chunks --max-batched-tokens 8 &&\n"
        "cmp whole chunks || exit 1\n"
        "done 2>&1", outputs.path);
    if (shell(line, said, sizeof(said)) != 0)
        fail_msg("%s", said);
    empty_outputs();
}

/* Every figure of a column ends where its head does. */
static void figures_of_bench_ipc_stand_in_columns(void **state)
{
    struct command c;
    const char *line;
    long end, lines = 0;

    (void)state;
    assert_int_equal(child_run(&c, NULL,
        (const char *const[]){"bench", "ipc", "--seconds", "0.1", NULL}), 0);
    line = c.out;
    assert_non_null(strstr(line, " median "));
    end = strstr(line, " median ") - line + 7;
    while ((line = strchr(line, '\n') + 1)[0] != '\n') {
        const char *skipped = strstr(line, " not measured: ");
        const char *unit = line + end - 1; /* the s of us or M/s */

        lines++;
        if (skipped != NULL && skipped < strchr(line, '\n'))
            continue;
        if (strchr(line, '\n') <= unit || unit[0] != 's' || unit[1] != ' ')
            fail_msg("out of line: %s", c.out);
    }
    assert_int_equal(lines, 5);
    child_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_that_goes_nowhere_is_one_line_and_a_failure),
        cmocka_unit_test(commands_that_print_nothing_need_no_output),
        cmocka_unit_test(interrupted_writers_leave_nothing),
        cmocka_unit_test(killed_logits_leave_nothing),
        cmocka_unit_test(what_a_killed_writer_left_is_removed_by_the_next),
        cmocka_unit_test(a_writer_at_work_is_left_alone),
        cmocka_unit_test(a_limit_on_file_sizes_is_told),
        cmocka_unit_test(the_last_line_says_what_was_written),
        cmocka_unit_test(a_terminal_shows_how_far_it_is),
        cmocka_unit_test(the_last_positions_may_span_chunks),
        cmocka_unit_test(figures_of_bench_ipc_stand_in_columns),
    };

    setenv("QUERN", "build/quern", 0); /* as command.h says; the shell needs it, too */
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
