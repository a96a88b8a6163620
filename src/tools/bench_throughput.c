/* bench_throughput.c - quern bench throughput: the field's offline test, beside the limit by bytes.
 *
 * The limit: every step reads the weights once, and for each id that is computed
 * attention reads the positions before it, at the rate at which as many threads
 * read plain memory in the same run, before or after. With many sequences in a
 * step it is arithmetic that takes the time, and the ratio says how far that is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/spawn.h"
#include "quern/log.h"
#include "tools/bench_load.h"
#include "tools/bench_read.h"
#include "tools/plan_model.h"
#include "tools/runtime_config.h"
#include "tools/tools.h"

struct throughput_options {
    struct runtime_options runtime;
    int requests, turns, shared_prefix, shortest, longest, disturb, streams;
    uint64_t seed;
    bool json;
};

#define AT(field) offsetof(struct throughput_options, field)
static const struct option_row throughput_rows[] = {
    RUNTIME_OPTION_ROWS(AT(runtime)),
    {"requests", 0, OPTION_INT, AT(requests), "N", "requests, or conversations (default 256)", 1,
        65536, 0},
    {"shortest", 0, OPTION_INT, AT(shortest), "N",
        "tokens of a prompt and of an answer, at least (default 100)", 1, 1048576, 0},
    {"longest", 0, OPTION_INT, AT(longest), "N", "and at most, as the context allows (default 1024)", 1,
        1048576, 0},
    {"shared-prefix", 0, OPTION_INT, AT(shared_prefix), "N",
        "all prompts begin with the same N ids", 0, 1048576, 0},
    {"turns", 0, OPTION_INT, AT(turns), "N",
        "turns of each conversation: what was said so far, and some new ids (default 1)", 1, 1000, 0},
    {"disturb", 0, OPTION_INT, AT(disturb), "N",
        "instead: the time between tokens while a prompt of N ids is computed", 1, 1048576, 0},
    {"streams", 0, OPTION_INT, AT(streams), "N", "with --disturb: answers that run (default 8)", 1,
        1024, 0},
    {"seed", 0, OPTION_SEED, AT(seed), "S", "of lengths, ids and synth: weights", 0, 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "print figures as JSON", 0, 0, 0},
    {0},
};

/* What a step reads, of all ranks. */
struct machine {
    double weights, kv_per_token; /* bytes */
    int threads;
    double read_rate; /* bytes a second */
};

struct figures {
    struct load load;
    struct load_result result;
    struct machine machine;
    double steps, sequences, step_tokens, step_s, engine_s; /* step_s, engine_s: in all */
    double asked, hit, preemptions;
};

static double limit_s(const struct figures *f)
{
    return (f->steps * f->machine.weights +
               (double)f->result.context_tokens * f->machine.kv_per_token) / f->machine.read_rate;
}

/* Measuring -------------------------------------------------------------------------------- */

static enum status look_at_model(const struct runtime_options *o, struct machine *m)
{
    struct plan_model *plan = calloc(1, sizeof(*plan));
    struct runtime_config config;
    enum status s = runtime_config_from(o, &config);

    if (plan == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a plan");
    if (s == STATUS_OK)
        s = plan_model_open(&config, plan);
    if (s == STATUS_OK) {
        for (int i = 0; i < plan->size; i++) {
            m->weights += (double)plan->ranks[i].memory[MEMORY_WEIGHTS];
            m->kv_per_token += (double)plan->ranks[i].kv_per_token;
        }
        m->threads = plan->threads * plan->size;
        plan_model_close(plan);
    }
    free(plan);
    return s;
}

static void take_figures(const json_t *before, const json_t *after, struct figures *f)
{
    f->steps = load_grown(before, after, "steps", NULL);
    f->sequences = load_grown(before, after, "step_sequences", "sum");
    f->step_tokens = load_grown(before, after, "step_tokens", "sum");
    f->step_s = load_grown(before, after, "step_time", "sum");
    f->engine_s = load_grown(before, after, "engine_time", "sum");
    f->asked = load_grown(before, after, "prefix_tokens_asked", NULL);
    f->hit = load_grown(before, after, "prefix_tokens_hit", NULL);
    f->preemptions = load_grown(before, after, "preemptions", NULL);
}

static enum status run_load(struct quern *q, struct figures *f)
{
    json_t *before = NULL, *after = NULL;
    enum status s = load_fit(q, &f->load);

    if (s == STATUS_OK && (before = load_figures(q)) == NULL)
        s = STATUS_IO;
    if (s == STATUS_OK)
        s = load_run(q, &f->load, &f->result);
    if (s == STATUS_OK && (after = load_figures(q)) == NULL)
        s = STATUS_IO;
    if (s == STATUS_OK)
        take_figures(before, after, f);
    json_decref(before);
    json_decref(after);
    return s;
}

static enum status spawn(const struct throughput_options *o, struct quern **q)
{
    return spawn_runtime(&o->runtime, &o->seed, q) == QUERN_OK ? STATUS_OK : STATUS_IO;
}

static enum status measure(const struct throughput_options *o, struct figures *f)
{
    struct machine *m = &f->machine;
    struct quern *q = NULL;
    enum status s = look_at_model(&o->runtime, m);

    if (s == STATUS_OK)
        s = bench_read(m->threads, (uint64_t)m->weights, &m->read_rate);
    if (s == STATUS_OK)
        s = spawn(o, &q);
    if (s == STATUS_OK)
        s = run_load(q, f);
    quern_close(q);
    return s == STATUS_OK ? bench_read(m->threads, (uint64_t)m->weights, &m->read_rate) : s;
}

/* Printing --------------------------------------------------------------------------------- */

static void print_table(const struct figures *f)
{
    const struct load_result *r = &f->result;
    const struct machine *m = &f->machine;

    printf("%u requests of %u turns, %u to %u tokens each way", f->load.conversations,
        f->load.turns, f->load.shortest, f->load.longest);
    if (f->load.shared > 0)
        printf(", %u shared", f->load.shared);
    printf(", seed %llu: %.1f s\n\n", (unsigned long long)f->load.seed, r->seconds);
    printf("  in            %10llu tokens  %10.1f /s\n", (unsigned long long)r->prompt_tokens,
        (double)r->prompt_tokens / r->seconds);
    printf("  out           %10llu tokens  %10.1f /s\n", (unsigned long long)r->output_tokens,
        (double)r->output_tokens / r->seconds);
    printf("  first token   %10.2f s after its submission, on average\n", r->first_token_s);
    printf("  steps         %10.0f         %10.2f ms each, with %.1f sequences and %.1f tokens\n",
        f->steps, 1e3 * f->step_s / f->steps, f->sequences / f->steps, f->step_tokens / f->steps);
    printf("  engine        %10.1f us a step, %.1f %% of it\n", 1e6 * f->engine_s / f->steps,
        100 * f->engine_s / f->step_s);
    printf("  prefix        %10.1f %% of %.0f tokens found again\n",
        f->asked > 0 ? 100 * f->hit / f->asked : 0, f->asked);
    printf("  preemptions   %10.0f\n", f->preemptions);
    printf("  limit         %10.2f s, of %.2f MB of weights a step and %.0f bytes of cache a\n"
           "                position, read at %.1f GB/s by %d threads: %.3f of it reached\n",
        limit_s(f), m->weights * 1e-6, m->kv_per_token, m->read_rate * 1e-9, m->threads,
        limit_s(f) / r->seconds);
}

static json_t *figures_json(const struct figures *f)
{
    const struct load_result *r = &f->result;
    const struct machine *m = &f->machine;

    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, "
        "s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:f, s:f}",
        "requests", (json_int_t)f->load.conversations, "turns", (json_int_t)f->load.turns,
        "shortest", (json_int_t)f->load.shortest, "longest", (json_int_t)f->load.longest,
        "shared_prefix", (json_int_t)f->load.shared, "seed", (json_int_t)f->load.seed, "seconds",
        r->seconds, "prompt_tokens", (json_int_t)r->prompt_tokens, "output_tokens",
        (json_int_t)r->output_tokens, "prompt_tokens_per_s", (double)r->prompt_tokens / r->seconds,
        "output_tokens_per_s", (double)r->output_tokens / r->seconds, "first_token_s",
        r->first_token_s, "steps", f->steps, "step_ms", 1e3 * f->step_s / f->steps, "mean_batch",
        f->sequences / f->steps, "tokens_per_step", f->step_tokens / f->steps, "engine_us",
        1e6 * f->engine_s / f->steps, "hit_rate", f->asked > 0 ? f->hit / f->asked : 0,
        "preemptions", f->preemptions, "weights_bytes", m->weights, "kv_bytes_per_token",
        m->kv_per_token, "threads", m->threads, "read_bytes_per_s", m->read_rate, "limit_ratio",
        limit_s(f) / r->seconds);
}

static enum status print_json(json_t *json)
{
    int failed = json == NULL || json_dumpf(json, stdout, JSON_INDENT(2)) != 0;

    putchar('\n');
    json_decref(json);
    return failed ? log_fail(STATUS_NOMEM, "the figures cannot be printed as JSON") : STATUS_OK;
}

static enum status throughput(const struct throughput_options *o)
{
    struct figures f = {.load = {
        .conversations = (uint32_t)o->requests,
        .turns = (uint32_t)o->turns,
        .shortest = (uint32_t)o->shortest,
        .longest = (uint32_t)o->longest,
        .shared = (uint32_t)o->shared_prefix,
        .seed = o->seed,
    }};
    enum status s = measure(o, &f);

    if (s == STATUS_OK && o->json)
        return print_json(figures_json(&f));
    if (s == STATUS_OK)
        print_table(&f);
    return s;
}

/* Of answers alone, at about the length that they had while the prompt was computed. */
static struct between undisturbed(const struct disturb_result *r)
{
    return (struct between){(r->before.median_s + r->after.median_s) / 2,
        (r->before.p99_s + r->after.p99_s) / 2};
}

static json_t *disturb_json(const struct disturb_result *r)
{
    struct between alone = undisturbed(r);

    return json_pack("{s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f}", "streams", (int)r->streams,
        "prompt_tokens", (int)r->long_prompt, "undisturbed_median_ms", 1e3 * alone.median_s,
        "undisturbed_p99_ms", 1e3 * alone.p99_s, "disturbed_median_ms", 1e3 * r->beside.median_s,
        "disturbed_p99_ms", 1e3 * r->beside.p99_s, "ratio", r->beside.p99_s / alone.p99_s,
        "prompt_s", r->prompt_s);
}

static void disturb_row(const char *when, const struct between *b)
{
    printf("  %-24s %10.2f %10.2f\n", when, 1e3 * b->median_s, 1e3 * b->p99_s);
}

static enum status disturb(const struct throughput_options *o)
{
    struct disturb_result r;
    struct load fits = {.turns = 1, .shortest = 1, .longest = 1};
    struct quern *q = NULL;
    enum status s = spawn(o, &q);

    if (s == STATUS_OK)
        s = load_fit(q, &fits);
    if (s == STATUS_OK)
        s = load_disturb(q, (uint32_t)o->streams, (uint32_t)o->disturb, o->seed, &r);
    quern_close(q);
    if (s == STATUS_OK && o->json)
        return print_json(disturb_json(&r));
    if (s != STATUS_OK)
        return s;
    printf("%u answers, and a prompt of %u tokens, computed in %.2f s\n\n", r.streams, r.long_prompt,
        r.prompt_s);
    printf("  %-24s %10s %10s\n", "between tokens, ms", "median", "99 %");
    disturb_row("before it came", &r.before);
    disturb_row("while it was computed", &r.beside);
    disturb_row("after it", &r.after);
    printf("  %-24s %10.2f %10.2f  goal: under 2\n", "ratio to answers alone",
        r.beside.median_s / undisturbed(&r).median_s, r.beside.p99_s / undisturbed(&r).p99_s);
    return STATUS_OK;
}

static void usage(void)
{
    printf("quern bench throughput [OPTIONS]\n\nSubmits many requests of random ids at once to a "
           "private runtime, and tells what\ncame of it beside what reading the weights and the cache "
           "takes at least.\n\n");
    options_print(throughput_rows);
}

int command_bench_throughput(int argc, char **argv)
{
    struct throughput_options o = {
        .requests = 256, .turns = 1, .shortest = 100, .longest = 1024, .streams = 8};
    int first;
    enum status s = options_parse(throughput_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s == STATUS_OK && first < argc)
        s = log_fail(STATUS_INVALID, "quern bench throughput takes no argument: \"%s\"", argv[first]);
    if (s == STATUS_OK && o.shortest > o.longest)
        s = log_fail(STATUS_INVALID, "--shortest %d is more than --longest %d", o.shortest, o.longest);
    if (s != STATUS_OK)
        return EXIT_USAGE;
    s = o.disturb > 0 ? disturb(&o) : throughput(&o);
    return s == STATUS_OK ? EXIT_DONE : EXIT_FAILED;
}
