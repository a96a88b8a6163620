/* test_shared.c - what a supervisor makes is what its children find.
 *
 * One test starts this program again, as the supervisor starts its workers:
 * `test_shared join FDS RANK` is the child. */
#include <poll.h>
#include <sys/mman.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "msg/shared.h"
#include "tests/ipc/ipc_support.h"

enum { GENERATION = 7, TP = 3, ANSWER = 4711 };

static const struct runtime_config config = {
    .model = "synth:none", .backend = "cpu", .compute = "f32", .tp = TP, .threads = 2, .seed = 99};

static int make_group(void **state)
{
    static struct shared shared;

    *state = &shared;
    return shared_create(&config, GENERATION, -1, &shared) == STATUS_OK ? 0 : -1;
}

static int end_group(void **state)
{
    shared_close(*state);
    return 0;
}

static void shared_memory_begins_in_good_order(void **state)
{
    const struct shared *g = *state;
    const struct shared_control *c = g->control;

    assert_int_equal(c->generation, GENERATION);
    assert_memory_equal(&g->config, &config, sizeof(config));
    assert_int_equal(atomic_load_explicit(&c->abort_word, memory_order_relaxed), 0);
    for (int i = 0; i < TP; i++)
        assert_int_equal(
            atomic_load_explicit(&c->ranks[i].stage, memory_order_relaxed), STAGE_STARTING);
    assert_int_equal(g->requests.slots, REQUEST_SLOTS);
    assert_int_equal(g->tokens.slots, TOKEN_SLOTS);
    assert_true(g->request_bytes.capacity >= RING_BUFFER_BYTES);
    assert_true(g->death_keep_fd >= 0);
}

static void every_object_has_memory_of_its_own(void **state)
{
    const struct shared *g = *state;
    const char *base = g->segment.base;
    const char *const at[] = {base, (const char *)g->rendezvous.shared,
        (const char *)g->requests.shared, (const char *)g->tokens.shared,
        (const char *)g->request_bytes.shared, (const char *)g->token_bytes.shared, base + g->segment.bytes};
    const size_t bytes[] = {sizeof(*g->control), rendezvous_bytes(TP),
        ring_bytes(REQUEST_SLOTS, sizeof(struct request_msg)),
        ring_bytes(TOKEN_SLOTS, sizeof(struct token_msg)), ring_buffer_bytes(RING_BUFFER_BYTES),
        ring_buffer_bytes(RING_BUFFER_BYTES)};

    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
        assert_int_equal((uintptr_t)at[i] % 64, 0);
        assert_true(at[i] + bytes[i] <= at[i + 1]);
    }
}

static void fds_text(const struct shared *g, char text[FD_LIST_TEXT])
{
    int fds[FD_LIST_MOST], n = shared_fds(g, fds);

    fd_list_format(fds, n, text);
}

static void text_lists_all_descriptors(void **state)
{
    const struct shared *g = *state;
    char text[FD_LIST_TEXT], want[FD_LIST_TEXT];

    fds_text(g, text);
    snprintf(want, sizeof(want), "%d,%d,%d,%d,%d,%d,%d,%d", g->segment.fd, g->config_fd, g->step_fd,
        g->death_fd, g->supervisor_bell.fd, g->rank_bells[0].fd, g->rank_bells[1].fd,
        g->rank_bells[2].fd);
    assert_string_equal(text, want);
}

static void nobody_can_change_the_options(void **state)
{
    const struct shared *g = *state;
    struct runtime_config mine;

    assert_int_equal(pwrite(g->config_fd, "x", 1, 0), -1);
    assert_int_equal(ftruncate(g->config_fd, 1), -1);
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, g->config_fd, 0),
        MAP_FAILED);
    assert_int_equal(config_page_read(g->config_fd, &mine), STATUS_OK);
    assert_memory_equal(&mine, &config, sizeof(config));
    assert_int_equal(config_page_read(g->segment.fd, &mine), STATUS_INVALID);
}

static void what_a_member_says_is_believed_within_bounds(void **state)
{
    const struct shared *g = *state;
    struct member *m = &g->control->ranks[0];
    char line[LOG_LINE_BYTES];

    memset(m->error, 'x', sizeof(m->error)); /* without an end */
    m->error[3] = '\n';
    member_error(m, line);
    assert_int_equal(strlen(line), LOG_LINE_BYTES - 1);
    assert_int_equal(line[3], ' ');
    atomic_store_explicit(&m->stage, 77, memory_order_relaxed);
    assert_int_equal(member_stage_of(m), STAGE_FAILED);
    m->error[0] = '\0';
    member_error(m, line);
    assert_non_null(strstr(line, "did not say why"));
}

/* The child: takes one request and its ids, answers with a token, meets nobody. */
static bool child(const char *text, int rank)
{
    struct shared g;
    struct member_seat seat;
    struct request_msg request;
    const void *slot;
    void *out;
    const int32_t *ids;

    if (shared_join(text, &g) != STATUS_OK || g.death_keep_fd != -1 ||
        g.generation != GENERATION || g.config.seed != 99 ||
        ring_peek(&g.requests, &slot) != STATUS_OK)
        return false;
    request = *(const struct request_msg *)slot;
    ring_release(&g.requests);
    ids = ring_buffer_at(&g.request_bytes, request.at, request.n_words * sizeof(*ids));
    if (ids == NULL || ids[0] != ANSWER || ring_reserve(&g.tokens, &out) != STATUS_OK)
        return false;
    *(struct token_msg *)out =
        (struct token_msg){.generation = GENERATION, .id = request.id, .token = ids[0]};
    ring_publish(&g.tokens);
    seat = shared_seat(&g, rank);
    member_stage(&seat, STAGE_READY);
    shared_close(&g);
    return true;
}

static void send_request(struct shared *g)
{
    uint64_t at, end;
    void *slot;

    assert_int_equal(ring_reserve(&g->requests, &slot), STATUS_OK);
    assert_int_equal(ring_buffer_alloc(&g->request_bytes, sizeof(int32_t), &at, &end), STATUS_OK);
    *(int32_t *)ring_buffer_at(&g->request_bytes, at, sizeof(int32_t)) = ANSWER;
    *(struct request_msg *)slot = (struct request_msg){
        .generation = GENERATION, .id = 5, .n_prompt = 1, .n_words = 1, .at = at, .end = end};
    ring_publish(&g->requests);
}

static void expect_answer(struct shared *g, int rank)
{
    const void *slot;

    assert_int_equal(ring_peek(&g->tokens, &slot), STATUS_OK);
    assert_int_equal(((const struct token_msg *)slot)->id, 5);
    assert_int_equal(((const struct token_msg *)slot)->token, ANSWER);
    ring_release(&g->tokens);
    assert_int_equal(atomic_load_explicit(&g->control->ranks[rank].stage, memory_order_acquire),
        STAGE_READY);
}

struct join {
    const char *text;
    int rank;
};

static bool join_forked(void *context)
{
    const struct join *j = context;

    return child(j->text, j->rank);
}

static void forked_child_joins_by_the_text(void **state)
{
    struct shared *g = *state;
    char text[FD_LIST_TEXT];

    fds_text(g, text);
    send_request(g);
    child_must_succeed(child_start(join_forked, &(struct join){text, 1}));
    expect_answer(g, 1);
}

static void started_child_joins_by_the_text(void **state)
{
    struct shared *g = *state;
    char text[FD_LIST_TEXT];
    char *argv[] = {(char *)"test_shared", (char *)"join", text, (char *)"2", NULL};
    int fds[FD_LIST_MOST], n = shared_fds(g, fds), pidfd;
    struct proc_exit how = {.status_or_signal = -1};
    pid_t pid;

    fds_text(g, text);
    send_request(g);
    assert_int_equal(proc_spawn("/proc/self/exe", argv, fds, (size_t)n, &pid, &pidfd), STATUS_OK);
    assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 60000), 1);
    assert_int_equal(proc_reap(pidfd, &how), STATUS_OK);
    assert_false(how.signalled);
    assert_int_equal(how.status_or_signal, 0);
    close(pidfd);
    expect_answer(g, 2);
}

/* In a child of its own, since a join that fails halfway closes what it took over. */
static bool is_refused(void *text)
{
    struct shared g;

    return shared_join(text, &g) == STATUS_INVALID && log_last_error()[0] != '\0';
}

static void texts_that_are_none_are_refused(void **state)
{
    static const char *const bad[] = {
        "", ",", "3", "abc", "0,1,2,3,4,5,6", "-3,4,5,6,7,8,9", "3,4,5,6,7,8,",
        "900,901,902,903,904,905,906", "3 4 5 6 7 8 9", "99999999999999999999,4,5,6,7,8,9",
        "3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        child_must_succeed(child_start(is_refused, (void *)bad[i]));
}

static void too_few_or_other_descriptors_are_refused(void **state)
{
    struct shared *g = *state;
    char text[FD_LIST_TEXT];
    int other = eventfd(0, 0);

    fds_text(g, text);
    strrchr(text, ',')[0] = '\0'; /* a rank less than there are */
    child_must_succeed(child_start(is_refused, text));
    snprintf(text, sizeof(text), "%d,%d,%d,%d,%d,%d,%d", other, other, other, other, other, other,
        other);
    child_must_succeed(child_start(is_refused, text)); /* no memory at all */
    close(other);
}

static void memory_that_is_no_group_is_refused(void **state)
{
    struct shared *g = *state;
    char text[FD_LIST_TEXT];

    fds_text(g, text);
    g->control->magic++;
    child_must_succeed(child_start(is_refused, text));
    g->control->magic--;
    memset(g->requests.shared, 0, 64);
    child_must_succeed(child_start(is_refused, text));
}

static bool fail_as_rank_one(void *text)
{
    struct shared g;
    struct member_seat seat;

    if (shared_join(text, &g) != STATUS_OK)
        return false;
    nap_ms(20);
    seat = shared_seat(&g, 1);
    member_fail(&seat, "model.safetensors: it rains in");
    return true;
}

static void members_failure_wakes_the_parent(void **state)
{
    struct shared *g = *state;
    struct shared_control *c = g->control;
    char text[FD_LIST_TEXT];
    pid_t pid;

    fds_text(g, text);
    doorbell_arm(&g->supervisor_bell);
    pid = child_start(fail_as_rank_one, text);
    assert_int_equal(doorbell_wait(&g->supervisor_bell, -1, 60000), STATUS_OK);
    doorbell_disarm(&g->supervisor_bell);
    /* acquire: pairs with member_fail() */
    assert_int_equal(atomic_load_explicit(&c->abort_word, memory_order_acquire), 1);
    assert_int_equal(atomic_load_explicit(&c->ranks[1].stage, memory_order_acquire), STAGE_FAILED);
    assert_string_equal(c->ranks[1].error, "model.safetensors: it rains in");
    assert_int_equal(
        atomic_load_explicit(&c->ranks[0].stage, memory_order_relaxed), STAGE_STARTING);
    child_must_succeed(pid);
}

static void abort_wakes_who_waits_for_room(void **state)
{
    struct shared *g = *state;

    doorbell_arm(&g->leader_room);
    assert_false(shared_aborted(g));
    shared_abort(g);
    assert_true(shared_aborted(g));
    assert_int_equal(doorbell_wait(&g->leader_room, -1, 0), STATUS_OK);
    doorbell_disarm(&g->leader_room);
}

static bool ring_the_leaders_room(void *text)
{
    struct shared g;

    return shared_join(text, &g) == STATUS_OK && doorbell_ring(&g.leader_room) == STATUS_OK;
}

static void child_reaches_the_room_bell(void **state)
{
    struct shared *g = *state;
    char text[FD_LIST_TEXT];

    fds_text(g, text);
    doorbell_arm(&g->leader_room);
    child_must_succeed(child_start(ring_the_leaders_room, text));
    assert_int_equal(doorbell_wait(&g->leader_room, -1, 0), STATUS_OK);
    doorbell_disarm(&g->leader_room);
}

static bool wait_for_death(void *text)
{
    struct shared g;

    return shared_join(text, &g) == STATUS_OK &&
           poll(&(struct pollfd){.fd = g.death_fd, .events = POLLIN}, 1, 60000) == 1;
}

static void parents_death_hangs_up_the_pipe(void **state)
{
    struct shared *g = *state;
    char text[FD_LIST_TEXT];
    pid_t pid;
    int keep = g->death_keep_fd;

    fds_text(g, text);
    /* The forked child would hold the kept end, too, which a started one does not. */
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        close(keep);
        _exit(wait_for_death(text) ? 0 : 1);
    }
    nap_ms(20);
    close(g->death_keep_fd);
    g->death_keep_fd = -1;
    child_must_succeed(pid);
}

static void impossible_number_of_ranks_is_refused(void **state)
{
    struct runtime_config wrong = config;
    struct shared g;

    (void)state;
    wrong.tp = 0;
    assert_int_equal(shared_create(&wrong, GENERATION, -1, &g), STATUS_INVALID);
    wrong.tp = MAX_RANKS + 1;
    assert_int_equal(shared_create(&wrong, GENERATION, -1, &g), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "1 to 16"));
}

static void closed_group_may_be_closed_again(void **state)
{
    struct shared *g = *state;

    shared_close(g);
    shared_close(g);
    assert_null(g->control);
}

#define SHARED_TEST(test) cmocka_unit_test_setup_teardown(test, make_group, end_group)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        SHARED_TEST(shared_memory_begins_in_good_order),
        SHARED_TEST(every_object_has_memory_of_its_own),
        SHARED_TEST(text_lists_all_descriptors),
        SHARED_TEST(nobody_can_change_the_options),
        SHARED_TEST(what_a_member_says_is_believed_within_bounds),
        SHARED_TEST(forked_child_joins_by_the_text),
        SHARED_TEST(started_child_joins_by_the_text),
        SHARED_TEST(texts_that_are_none_are_refused),
        SHARED_TEST(too_few_or_other_descriptors_are_refused),
        SHARED_TEST(memory_that_is_no_group_is_refused),
        SHARED_TEST(members_failure_wakes_the_parent),
        SHARED_TEST(abort_wakes_who_waits_for_room),
        SHARED_TEST(child_reaches_the_room_bell),
        SHARED_TEST(parents_death_hangs_up_the_pipe),
        cmocka_unit_test(impossible_number_of_ranks_is_refused),
        SHARED_TEST(closed_group_may_be_closed_again),
    };

    if (argc == 4 && strcmp(argv[1], "join") == 0)
        return child(argv[2], atoi(argv[3])) ? 0 : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
