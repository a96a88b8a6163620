/* test_ranks.c - ranks that disagree, a plan that is none, and a leader that nobody listens to.
 *
 * Ranks are forked from here and opened as the program opens them; each may stand in a folder of
 * its own, where the same relative path is another file, or cut by a strategy of its own. */
#include "tests/ipc/ipc_support.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "parallel/strategy.h"
#include "tests/checkpoint/temp_dir.h"
#include "worker/worker.h"

enum { PATIENCE_S = 60, GENERATION = 7 };

static struct temp_dir folders[2], *const dirs[2] = {&folders[0], &folders[1]}; /* a rank's each */

static const char like[] = "{\"architectures\": [\"Qwen3ForCausalLM\"], \"hidden_size\": 16, "
    "\"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"head_dim\": 8, \"vocab_size\": 300, "
    "\"max_position_embeddings\": 4096, \"tie_word_embeddings\": true, "
    "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1000000.0, \"hidden_act\": \"silu\"}";

static const char plan[] = "{\"layers.*.mlp.gate_proj\": \"mine\", \"layers.*.mlp.up_proj\": \"mine\", "
    "\"layers.*.mlp.down_proj\": \"rowwise\"}";

static void write_model(int rank, int inner, int layers)
{
    char text[1024];
    int n = snprintf(text, sizeof(text), like, inner, layers);

    temp_dir_write(dirs[rank], "like.json", text, (size_t)n);
    temp_dir_write(dirs[rank], "plan.json", plan, sizeof(plan) - 1);
}

static int make_folders(void **state)
{
    (void)state;
    for (int r = 0; r < 2; r++) {
        temp_dir_make(dirs[r]);
        write_model(r, 64, 2);
    }
    return 0;
}

static int remove_folders(void **state)
{
    (void)state;
    for (int r = 0; r < 2; r++)
        temp_dir_remove(dirs[r]);
    return 0;
}

static struct runtime_config config_of(uint32_t tp, const char *plan_path)
{
    struct runtime_config c = {.backend = "cpu", .compute = "f32", .kv_dtype = "bf16",
        .model = "synth:like.json", .tp = tp, .threads = 1, .max_seqs = 4,
        .max_batched_tokens = 16, .load_timeout_s = PATIENCE_S};

    snprintf(c.tp_plan, sizeof(c.tp_plan), "%s", plan_path);
    return c;
}

/* A rank's life: what it does once it is open, and how that must end. */
struct life {
    int rank;
    strategy_slice *slice;                    /* of strategy "mine"; NULL: evenly */
    void (*first)(struct shared *g);          /* before it opens; NULL: nothing */
    enum status (*then)(struct worker *w);    /* NULL: nothing more */
    enum status want;
    const char *words;                        /* in its error line; NULL: any */
};

static enum status live(const struct life *l, struct shared *g)
{
    const struct strategy mine = {.name = "mine", .effect = "cuts outputs", .cut = CUT_ROWS,
        .in = IN_REPLICATE, .out = OUT_SHARD, .applies = KIND_LINEAR, .slice = l->slice};
    struct worker w;
    enum status s = strategy_register(&mine);

    if (l->first != NULL)
        l->first(g);
    if (s == STATUS_OK)
        s = worker_open(g, l->rank, &w);
    if (s != STATUS_OK)
        return s;
    if (l->then != NULL)
        s = l->then(&w);
    worker_close(&w);
    return s;
}

static pid_t start(const struct life *l, const struct shared *made)
{
    char fds[FD_LIST_TEXT];
    int list[FD_LIST_MOST];
    struct member_seat seat;
    struct shared g;
    enum status s;
    pid_t pid;

    fd_list_format(list, shared_fds(made, list), fds);
    pid = fork();
    if (pid != 0)
        return pid;
    alarm(PATIENCE_S);
    log_set_sink(member_log, &g); /* errors are kept, not printed */
    if (chdir(dirs[l->rank]->path) != 0 || shared_join(fds, &g) != STATUS_OK)
        _exit(2);
    seat = shared_seat(&g, l->rank);
    s = live(l, &g);
    if (s < 0)
        member_fail(&seat, log_last_error());
    if (s == l->want && (l->words == NULL || strstr(log_last_error(), l->words) != NULL))
        _exit(0);
    fprintf(stderr, "# rank %d: %s, \"%s\"; wanted %s, \"%s\"\n", l->rank, status_name(s),
        log_last_error(), status_name(l->want), l->words != NULL ? l->words : "");
    _exit(1);
}

static void two_ranks(const char *plan_path, const struct life lives[2])
{
    struct runtime_config config = config_of(2, plan_path);
    struct shared g;
    pid_t pids[2];

    assert_int_equal(shared_create(&config, GENERATION, -1, &g), STATUS_OK);
    for (int r = 0; r < 2; r++)
        pids[r] = start(&lives[r], &g);
    for (int r = 0; r < 2; r++)
        child_must_succeed(pids[r]);
    shared_close(&g);
}

static void ranks_that_agree_are_opened(void **state)
{
    (void)state;
    two_ranks("", (const struct life[2]){{.rank = 0}, {.rank = 1}});
    two_ranks("plan.json", (const struct life[2]){{.rank = 0}, {.rank = 1}});
}

static void rank_that_read_another_config_ends_the_group(void **state)
{
    const struct life lives[2] = {{.rank = 0, .want = STATUS_DEAD},
        {.rank = 1, .want = STATUS_INVALID, .words = "rank 1 read another config.json"}};

    (void)state;
    write_model(1, 64, 3); /* a layer more */
    two_ranks("", lives);
    write_model(1, 96, 2); /* the same operations of other widths */
    two_ranks("", lives);
    write_model(1, 64, 2);
}

/* Rank 0 gets 16, the others the rest. */
static int uneven(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count)
{
    if (size != 2 || unit > 16)
        return -1;
    *first = rank == 0 ? 0 : 16;
    *count = rank == 0 ? 16 : total - 16;
    return 0;
}

/* The program is the same, operation by operation: only where it is cut differs. */
static void rank_whose_strategy_cuts_otherwise_ends_the_group(void **state)
{
    (void)state;
    two_ranks("plan.json", (const struct life[2]){{.rank = 0, .slice = uneven},
        {.rank = 1, .slice = uneven}});
    two_ranks("plan.json", (const struct life[2]){{.rank = 0, .want = STATUS_DEAD},
        {.rank = 1, .slice = uneven, .want = STATUS_INVALID,
            .words = "a plugin's strategy cuts otherwise there"}});
}

/* Rank 0 has said how many it runs when it is at the first rendezvous. */
static void run_more_threads(struct shared *g)
{
    while (flag_value(&g->rendezvous.shared->seats[0].joined) == 0)
        sched_yield();
    g->config.threads = 2;
}

static void rank_of_other_threads_ends_the_group(void **state)
{
    (void)state;
    two_ranks("", (const struct life[2]){{.rank = 0, .want = STATUS_DEAD},
        {.rank = 1, .first = run_more_threads, .want = STATUS_INVALID,
            .words = "rank 1 would run 2 threads, rank 0 1"}});
}

/* Plans ---------------------------------------------------------------------------------- */

static int damage; /* which */

/* One token, one output, or what `damage` makes of it. */
static void write_damaged(struct plan *p, const struct plan_limits *limits)
{
    plan_begin(p, limits, GENERATION, 0);
    plan_starts(p)[p->n_starts++] = (struct slot_start){.sampling = {.top_p = 1}};
    plan_changes(p)[p->n_changes++] = (struct block_change){0};
    plan_rows(p)[p->n_rows++] = (struct plan_row){
        .n_tokens = 1, .n_outputs = 1, .kind = ROW_DECODE, .output = OUTPUT_TOKEN};
    plan_tokens(p)[p->n_tokens++] = 5;
    p->n_outputs = 1;
    switch (damage) {
    case 1: plan_tokens(p)[0] = 1 << 20; break;
    case 2: plan_rows(p)[0].slot = limits->max_slots; break;
    case 3: p->generation++; break;
    case 4: plan_changes(p)[0].block = limits->n_blocks; break;
    case 5: p->n_outputs = 0; break;
    }
    plan_pack(p);
}

static enum status send_damaged(struct worker *w)
{
    void *slot;
    enum status s = broadcast_ring_reserve(&w->plans, &slot);

    if (s != STATUS_OK)
        return s;
    write_damaged(slot, &w->limits);
    broadcast_ring_publish(&w->plans);
    doorbell_ring(&w->shared->rank_bells[1]);
    return STATUS_OK;
}

static void follower_ends_at_a_plan_that_is_none(void **state)
{
    (void)state;
    for (damage = 1; damage <= 5; damage++)
        two_ranks("", (const struct life[2]){{.rank = 0, .then = send_damaged},
            {.rank = 1, .then = follower_run, .want = STATUS_INVALID, .words = "plan: "}});
}

/* The leader ----------------------------------------------------------------------------- */

/* More ids than the token ring holds, as the supervisor would ask for them. */
static void ask_for_too_much(struct shared *g)
{
    struct request_msg m = {.generation = GENERATION, .kind = REQUEST_SUBMIT,
        .flags = REQUEST_IGNORE_EOS, .id = 1, .n_prompt = 2, .n_answers = 1, .n_words = 4,
        .max_tokens = 2 * TOKEN_SLOTS,
        .sampling = {.top_p = 1}};
    void *slot;

    assert_int_equal(ring_buffer_alloc(&g->request_bytes, 4 * sizeof(int32_t), &m.at, &m.end),
        STATUS_OK);
    memset(ring_buffer_at(&g->request_bytes, m.at, 4 * sizeof(int32_t)), 0, 4 * sizeof(int32_t));
    assert_int_equal(ring_reserve(&g->requests, &slot), STATUS_OK);
    *(struct request_msg *)slot = m;
    ring_publish(&g->requests);
    doorbell_ring(&g->rank_bells[0]);
}

/* As many as there is room for have come, and none goes: the leader waits. */
static void await_full_ring(struct shared *g)
{
    const struct ring_shared *r = g->tokens.shared;

    while (atomic_load_explicit(&r->tail, memory_order_acquire) < TOKEN_SLOTS)
        nap_ms(5);
    nap_ms(50);
}

static void leader_whose_ring_is_full_hears_the_abort(void **state)
{
    const struct life l = {.rank = 0, .then = leader_run, .want = STATUS_DEAD};
    struct runtime_config config = config_of(1, "");
    struct shared g;
    pid_t pid;

    (void)state;
    assert_int_equal(shared_create(&config, GENERATION, -1, &g), STATUS_OK);
    pid = start(&l, &g);
    ask_for_too_much(&g);
    await_full_ring(&g);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    shared_abort(&g);
    child_must_succeed(pid);
    shared_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_that_agree_are_opened),
        cmocka_unit_test(rank_that_read_another_config_ends_the_group),
        cmocka_unit_test(rank_whose_strategy_cuts_otherwise_ends_the_group),
        cmocka_unit_test(rank_of_other_threads_ends_the_group),
        cmocka_unit_test(follower_ends_at_a_plan_that_is_none),
        cmocka_unit_test(leader_whose_ring_is_full_hears_the_abort),
    };

    return cmocka_run_group_tests(tests, make_folders, remove_folders);
}
