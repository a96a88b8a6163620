/* test_calls.c - libquern's calls: when they wait, what cuts that short, and their manners towards
 * the program that they are in. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "tests/client/fake_server.h"

/* Waiting ------------------------------------------------------------------------------------ */

static volatile sig_atomic_t alarms;
static struct quern *volatile to_wake;

static void on_alarm(int number)
{
    (void)number;
    alarms++;
    if (to_wake != NULL)
        quern_wake(to_wake);
}

static void alarm_every(long ms)
{
    struct itimerval every = {{.tv_usec = ms * 1000}, {.tv_usec = ms * 1000}};

    alarms = ms > 0 ? 0 : alarms;
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

static void signals_do_not_cut_a_wait_short(void **state)
{
    struct fake f = fake_open();
    const struct quern_event *e;
    long start = now_ms();

    (void)state;
    alarm_every(10);
    assert_int_equal(quern_next(f.q, 200, &e), QUERN_AGAIN);
    alarm_every(0);
    assert_true(now_ms() - start >= 200);
    assert_true(alarms > 3);
    fake_close(&f);
}

static void a_signal_handler_may_wake(void **state)
{
    struct fake f = fake_open();
    const struct quern_event *e;

    (void)state;
    to_wake = f.q;
    alarm_every(20);
    assert_int_equal(quern_next(f.q, -1, &e), QUERN_AGAIN);
    alarm_every(0);
    to_wake = NULL;
    fake_close(&f);
}

static void *wake_later(void *q)
{
    poll(NULL, 0, 50);
    quern_wake(q);
    return NULL;
}

static void a_wake_is_answered_once(void **state)
{
    struct fake f = fake_open();
    struct pollfd p = {.fd = quern_fd(f.q), .events = POLLIN};
    const struct quern_event *e;
    pthread_t other;

    (void)state;
    quern_next(f.q, 0, &e);
    assert_int_equal(poll(&p, 1, 0), 0);
    quern_wake(f.q);
    quern_wake(f.q);
    assert_int_equal(poll(&p, 1, 0), 1);
    fake_tokens(&f, 1, 0, 1, "a");
    assert_int_equal(quern_next(f.q, -1, &e), QUERN_AGAIN); /* before what is there */
    assert_int_equal(quern_next(f.q, -1, &e), QUERN_OK);
    assert_int_equal(quern_next(f.q, 0, &e), QUERN_AGAIN);
    assert_int_equal(poll(&p, 1, 0), 0);
    pthread_create(&other, NULL, wake_later, f.q);
    assert_int_equal(quern_next(f.q, -1, &e), QUERN_AGAIN);
    pthread_join(other, NULL);
    fake_close(&f);
}

enum { CANCELS = 20000, SUBMITS = 500 };

static void *cancel_many(void *q)
{
    int s = QUERN_OK;

    for (uint64_t i = 1; i <= CANCELS && s == QUERN_OK; i++)
        s = quern_cancel(q, i);
    quern_wake(q);
    return s == QUERN_OK ? q : NULL;
}

/* More than a socket takes, beside the owner's own: each is whole, and in order. */
static void cancels_of_another_thread_go_out_whole(void **state)
{
    struct fake f = fake_open();
    const struct quern_event *e;
    uint64_t cancels = 0, submits = 0;
    struct frame_reader reader;
    struct frame_header h;
    const void *payload;
    pthread_t other;
    char bytes[4096];
    ssize_t n;
    void *well;

    (void)state;
    frame_reader_init(&reader);
    assert_int_equal(pthread_create(&other, NULL, cancel_many, f.q), 0);
    for (int i = 0; i < SUBMITS; i++)
        ask(f.q, story(1));
    while (quern_next(f.q, -1, &e) != QUERN_AGAIN)
        ;
    pthread_join(other, &well);
    assert_non_null(well);
    while (cancels < CANCELS || submits < SUBMITS) {
        assert_int_equal(quern_next(f.q, 0, &e), QUERN_AGAIN); /* it sends on */
        while ((n = recv(f.fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
            assert_int_equal(frame_reader_feed(&reader, bytes, (size_t)n), STATUS_OK);
        while (frame_reader_next(&reader, &h, &payload) == STATUS_OK)
            assert_int_equal(h.id, h.type == FRAME_CANCEL ? ++cancels : ++submits);
    }
    frame_reader_free(&reader);
    fake_close(&f);
}

/* A frame that never comes to its end, a byte now and then. */
static void bytes_that_trickle_keep_no_deadline_off(void **state)
{
    struct fake f = fake_open();
    const struct quern_event *e;
    long start, took;
    pid_t child = fork();

    (void)state;
    if (child == 0)
        for (;;) {
            send(f.fd, "\0", 1, MSG_NOSIGNAL);
            poll(NULL, 0, 5);
        }
    start = now_ms();
    assert_int_equal(quern_next(f.q, 150, &e), QUERN_AGAIN);
    took = now_ms() - start;
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_true(took >= 150 && took < 1500);
    fake_close(&f);
}

/* Put before the library's recv(): zeros without an end, which are frames of a type that it passes
 * over. */
static bool endless_zeros;
ssize_t __real_recv(int fd, void *bytes, size_t n, int flags);
ssize_t __wrap_recv(int fd, void *bytes, size_t n, int flags);

ssize_t __wrap_recv(int fd, void *bytes, size_t n, int flags)
{
    if (!endless_zeros)
        return __real_recv(fd, bytes, n, flags);
    memset(bytes, 0, n);
    return (ssize_t)n;
}

static void frames_that_are_no_events_keep_no_deadline_off(void **state)
{
    struct fake f = fake_open();
    const struct quern_event *e;
    long start = now_ms(), took;

    (void)state;
    endless_zeros = true; /* what is in the socket makes it readable */
    assert_int_equal(quern_next(f.q, 100, &e), QUERN_AGAIN);
    took = now_ms() - start;
    assert_int_equal(quern_next(f.q, 0, &e), QUERN_AGAIN);
    endless_zeros = false;
    assert_true(took >= 100 && took < 1500);
    fake_close(&f);
}

/* All that is there is looked at, also by who does not wait. */
static void an_event_behind_others_is_found_without_waiting(void **state)
{
    struct fake f = fake_open();
    const struct quern_event *e;

    (void)state;
    for (int i = 0; i < 100; i++)
        fake_frame(&f, 99, 0, NULL, 0, NULL, 0);
    fake_tokens(&f, 1, 0, 1, "a");
    assert_int_equal(quern_next(f.q, 0, &e), QUERN_OK);
    fake_close(&f);
}

static void poll_sees_frames_that_the_library_has_read(void **state)
{
    struct fake f = fake_open();
    struct pollfd p = {.fd = quern_fd(f.q), .events = POLLIN};
    const struct quern_event *e;

    (void)state;
    for (int i = 0; i < 3; i++)
        fake_tokens(&f, 1, (uint64_t)i, 1, "a");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(poll(&p, 1, 0), 1);
        assert_int_equal(quern_next(f.q, 0, &e), QUERN_OK);
        assert_int_equal(quern_event_after(e), i);
    }
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_int_equal(quern_fd(f.q), p.fd);
    close(f.fd);
    f.fd = -1;
    for (int i = 0; i < 2; i++) { /* the end stays */
        assert_int_equal(poll(&p, 1, 0), 1);
        assert_int_equal(quern_next(f.q, 0, &e), QUERN_DEAD);
    }
    fake_close(&f);
}

/* Manners ------------------------------------------------------------------------------------ */

static void null_is_refused_everywhere(void **state)
{
    struct fake f = fake_open();
    struct quern_request *r = quern_request_new();
    struct quern_options *o = quern_options_new();
    const struct quern_event *e;
    const int32_t *ids;
    const char *json;
    struct quern *q;
    size_t n = 1;

    (void)state;
#define REFUSED(call) assert_int_equal(call, QUERN_INVALID)
    REFUSED(quern_options_set(NULL, "tp", "1"));
    REFUSED(quern_options_set(o, NULL, "1"));
    REFUSED(quern_options_set(o, "tp", NULL));
    REFUSED(quern_request_set_text(NULL, "", 0));
    REFUSED(quern_request_set_text(r, NULL, 0));
    REFUSED(quern_request_set_ids(NULL, (const int32_t[]){1}, 1));
    REFUSED(quern_request_set_ids(r, NULL, 1));
    REFUSED(quern_request_set_chat(NULL, "", 0));
    REFUSED(quern_request_set_chat(r, NULL, 0));
    REFUSED(quern_request_set_task(NULL, 0));
    REFUSED(quern_request_set_int(NULL, 1, 1));
    REFUSED(quern_request_set_u64(NULL, 1, 1));
    REFUSED(quern_request_set_real(NULL, 1, 1));
    REFUSED(quern_request_set_bytes(NULL, 1, "", 1));
    REFUSED(quern_request_set_bytes(r, 1, NULL, 1));
    REFUSED(quern_spawn(NULL, NULL));
    REFUSED(quern_connect("/nowhere", NULL));
    REFUSED(quern_connect(NULL, &q));
    assert_non_null(strstr(quern_error(q), "quern_connect(): a NULL where something is needed"));
    quern_close(q);
    REFUSED(quern_submit(NULL, r, NULL));
    REFUSED(quern_submit(f.q, NULL, NULL));
    REFUSED(quern_resume(NULL, 1, 0, NULL));
    REFUSED(quern_cancel(NULL, 1));
    REFUSED(quern_wake(NULL));
    REFUSED(quern_next(NULL, 0, &e));
    REFUSED(quern_next(f.q, 0, NULL));
    REFUSED(quern_tokenize(NULL, r, 0, &ids, &n));
    REFUSED(quern_tokenize(f.q, NULL, 0, &ids, &n));
    REFUSED(quern_tokenize(f.q, r, 0, NULL, &n));
    REFUSED(quern_tokenize(f.q, r, 0, &ids, NULL));
    REFUSED(quern_count_tokens(NULL, r, 0, &n));
    REFUSED(quern_count_tokens(f.q, NULL, 0, &n));
    REFUSED(quern_count_tokens(f.q, r, 0, NULL));
    REFUSED(quern_stats(NULL, 0, &json));
    REFUSED(quern_stats(f.q, 0, NULL));
#undef REFUSED
    assert_int_equal(quern_fd(NULL), -1);
    assert_int_equal(quern_error_code(NULL), QUERN_CODE_NONE);
    assert_int_equal(quern_request_key(NULL), 0);
    assert_int_equal(quern_vocab_size(NULL) + quern_context_size(NULL) + quern_generation(NULL), 0);
    assert_string_equal(quern_model_name(NULL), "");
    assert_string_equal(quern_server_version(NULL), "");
    assert_int_equal(quern_event_kind(NULL), QUERN_EVENT_NONE);
    assert_int_equal(quern_event_is_last(NULL), 0);
    assert_string_equal(quern_event_text(NULL, &n), "");
    assert_int_equal(n, 0);
    assert_string_equal(quern_event_message(NULL), "");
    assert_null(quern_event_ids(NULL, NULL));
    quern_request_free(NULL);
    quern_options_free(NULL);
    quern_request_free(r);
    quern_options_free(o);
    fake_close(&f);
}

/* A child of the program closes what it inherited; the connection is the parent's. */
static void a_forked_child_that_closes_leaves_the_connection(void **state)
{
    struct fake f = fake_open();
    pid_t child = fork();
    int status;

    (void)state;
    if (child == 0) {
        quern_close(f.q);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    fake_tokens(&f, 1, 0, 1, "a");
    next_of(f.q, QUERN_EVENT_TEXT);
    ask(f.q, story(1));
    fake_submitted(&f);
    fake_close(&f);
}

static void closing_hangs_up_although_a_child_has_the_socket(void **state)
{
    struct fake f = fake_open();
    char byte;
    pid_t child = fork();

    (void)state;
    if (child == 0) {
        close(f.fd);
        for (;;)
            pause();
    }
    quern_close(f.q);
    assert_int_equal(recv(f.fd, &byte, 1, 0), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(f.fd);
}

static char logged[1024];

static void keep_line(void *context, int level, const char *line)
{
    assert_ptr_equal(context, &alarms);
    assert_int_equal(level, QUERN_LOG_ERROR);
    snprintf(logged, sizeof(logged), "%s", line);
}

static void lines_go_to_the_callback(void **state)
{
    struct quern *q;

    (void)state;
    assert_int_equal(quern_log_set(9, keep_line, NULL), QUERN_INVALID);
    assert_int_equal(quern_log_set(QUERN_LOG_WARN, keep_line, (void *)&alarms), QUERN_OK);
    assert_int_equal(quern_connect("", &q), QUERN_INVALID);
    assert_string_equal(logged, quern_error(q));
    quern_close(q);
    assert_int_equal(quern_log_set(QUERN_LOG_WARN, NULL, NULL), QUERN_OK);
    assert_int_equal(quern_connect("/nowhere", &q), QUERN_IO);
    assert_string_not_equal(logged, quern_error(q));
    quern_close(q);
}

/* How many descriptors we have; *kept of them stay open over exec. */
static int descriptors(int *kept)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    int n = 0;

    *kept = 0;
    while ((entry = readdir(dir)) != NULL) {
        int fd = atoi(entry->d_name);

        if (entry->d_name[0] == '.' || fd == dirfd(dir))
            continue;
        n++;
        *kept += (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0;
    }
    closedir(dir);
    return n;
}

static void descriptors_are_closed_by_exec_and_by_close(void **state)
{
    int kept_before, kept, before = descriptors(&kept_before);
    struct fake f = fake_open();

    (void)state;
    assert_true(quern_fd(f.q) >= 0);
    assert_int_equal(descriptors(&kept), before + 4); /* both ends, the bell, and the watch */
    assert_int_equal(kept, kept_before);
    fake_close(&f);
    assert_int_equal(descriptors(&kept), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signals_do_not_cut_a_wait_short),
        cmocka_unit_test(a_signal_handler_may_wake),
        cmocka_unit_test(a_wake_is_answered_once),
        cmocka_unit_test(cancels_of_another_thread_go_out_whole),
        cmocka_unit_test(bytes_that_trickle_keep_no_deadline_off),
        cmocka_unit_test(frames_that_are_no_events_keep_no_deadline_off),
        cmocka_unit_test(an_event_behind_others_is_found_without_waiting),
        cmocka_unit_test(poll_sees_frames_that_the_library_has_read),
        cmocka_unit_test(null_is_refused_everywhere),
        cmocka_unit_test(a_forked_child_that_closes_leaves_the_connection),
        cmocka_unit_test(closing_hangs_up_although_a_child_has_the_socket),
        cmocka_unit_test(lines_go_to_the_callback),
        cmocka_unit_test(descriptors_are_closed_by_exec_and_by_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
