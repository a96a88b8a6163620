/* stats.c - two tables, of names and of bounds; counting, adding and printing follow from them.
 *
 * Bounds are fixed, so histograms of several generations add up and a count is
 * a search among a few dozen words. What a user waits for has the bounds that
 * others' dashboards know; what takes microseconds has decades of 1, 2 and 5. */
#include "msg/stats.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

struct bounds {
    bool seconds; /* values are ns, and are shown as seconds */
    unsigned n;
    uint64_t most[STATS_MOST_BOUNDS];
};

#define US(n) ((n) * UINT64_C(1000))
#define MS(n) US((n) * UINT64_C(1000))
#define S(n) MS((n) * UINT64_C(1000))

static const struct bounds waits = {true, 22,
    {MS(1), MS(5), MS(10), MS(20), MS(40), MS(60), MS(80), MS(100), MS(250), MS(500), MS(750), S(1),
        MS(2500), S(5), MS(7500), S(10), S(20), S(40), S(80), S(160), S(640), S(2560)}};

static const struct bounds steps = {true, 25,
    {US(1), US(2), US(5), US(10), US(20), US(50), US(100), US(200), US(500), MS(1), MS(2), MS(5),
        MS(10), MS(20), MS(50), MS(100), MS(200), MS(500), S(1), S(2), S(5), S(10), S(20), S(50),
        S(100)}};

static const struct bounds sizes = {false, 16,
    {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000}};

static const char *const number_names[STAT_NUMBERS] = {
    [STAT_RUNNING] = "running",
    [STAT_WAITING] = "waiting",
    [STAT_KV_BLOCKS_USED] = "kv_blocks_used",
    [STAT_KV_BLOCKS] = "kv_blocks",
    [STAT_PREFIX_ASKED] = "prefix_tokens_asked",
    [STAT_PREFIX_HIT] = "prefix_tokens_hit",
    [STAT_PREEMPTIONS] = "preemptions",
    [STAT_PROMPT_TOKENS] = "prompt_tokens",
    [STAT_PREFILL_TOKENS] = "prefill_tokens",
    [STAT_OUTPUT_TOKENS] = "output_tokens",
    [STAT_DRAFT_TOKENS] = "draft_tokens",
    [STAT_DRAFT_ACCEPTED] = "draft_tokens_accepted",
    [STAT_STEPS] = "steps",
};

static const struct {
    const char *name;
    const struct bounds *bounds;
} distributions[STAT_DISTRIBUTIONS] = {
    [STAT_FIRST_TOKEN] = {"time_to_first_token", &waits},
    [STAT_QUEUE] = {"queue_time", &waits},
    [STAT_BETWEEN] = {"time_between_tokens", &steps},
    [STAT_STEP] = {"step_time", &steps},
    [STAT_ENGINE] = {"engine_time", &steps},
    [STAT_STEP_TOKENS] = {"step_tokens", &sizes},
    [STAT_STEP_SEQS] = {"step_sequences", &sizes},
};

/* Counting -------------------------------------------------------------------------------- */

/* relaxed, all of it: one writer, and no number says anything about another */
static uint64_t get(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static void set(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

void stats_set(struct stats *s, enum stats_number which, uint64_t value)
{
    set(&s->numbers[which], value);
}

void stats_count(struct stats *s, enum stats_number which, uint64_t more)
{
    set(&s->numbers[which], get(&s->numbers[which]) + more);
}

void stats_observe(struct stats *s, enum stats_distribution which, uint64_t value)
{
    const struct bounds *b = distributions[which].bounds;
    struct stats_histogram *h = &s->histograms[which];
    unsigned i = 0;

    while (i < b->n && value > b->most[i])
        i++;
    set(&h->counts[i], get(&h->counts[i]) + 1);
    set(&h->sum, get(&h->sum) + value);
}

/* Reading --------------------------------------------------------------------------------- */

void stats_read(const struct stats *s, struct stats_copy *out)
{
    for (int i = 0; i < STAT_NUMBERS; i++)
        out->numbers[i] = get(&s->numbers[i]);
    for (int i = 0; i < STAT_DISTRIBUTIONS; i++) {
        for (unsigned k = 0; k <= STATS_MOST_BOUNDS; k++)
            out->histograms[i].counts[k] = get(&s->histograms[i].counts[k]);
        out->histograms[i].sum = get(&s->histograms[i].sum);
    }
}

void stats_add(struct stats_copy *sum, const struct stats_copy *more)
{
    for (int i = 0; i < STAT_NUMBERS; i++)
        sum->numbers[i] = more->numbers[i] + (i < STAT_GAUGES ? 0 : sum->numbers[i]);
    for (int i = 0; i < STAT_DISTRIBUTIONS; i++) {
        for (unsigned k = 0; k <= STATS_MOST_BOUNDS; k++)
            sum->histograms[i].counts[k] += more->histograms[i].counts[k];
        sum->histograms[i].sum += more->histograms[i].sum;
    }
}

/* Printing -------------------------------------------------------------------------------- */

struct text {
    char *mem;
    size_t n, room;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(t->n < t->room ? t->mem + t->n : NULL, t->n < t->room ? t->room - t->n : 0, format,
        args);
    va_end(args);
    t->n += n > 0 ? (size_t)n : 0;
}

/* ns as seconds, in whole numbers: no locale, no rounding. */
static void put_value(struct text *t, uint64_t value, bool seconds)
{
    char fraction[10];
    size_t n = 9;

    if (!seconds) {
        put(t, "%llu", (unsigned long long)value);
        return;
    }
    snprintf(fraction, sizeof(fraction), "%09llu", (unsigned long long)(value % S(1)));
    while (n > 1 && fraction[n - 1] == '0')
        n--;
    put(t, "%llu.%.*s", (unsigned long long)(value / S(1)), (int)n, fraction);
}

/* Cumulative, as Prometheus has it; what is above the last bound is in "count" alone. */
static void put_histogram(struct text *t, const struct stats_copy *s, int which)
{
    const struct bounds *b = distributions[which].bounds;
    uint64_t count = 0;

    put(t, ",\"%s\":{\"buckets\":[", distributions[which].name);
    for (unsigned i = 0; i < b->n; i++) {
        count += s->histograms[which].counts[i];
        put(t, i > 0 ? ",[" : "[");
        put_value(t, b->most[i], b->seconds);
        put(t, ",%llu]", (unsigned long long)count);
    }
    put(t, "],\"sum\":");
    put_value(t, s->histograms[which].sum, b->seconds);
    put(t, ",\"count\":%llu}", (unsigned long long)(count + s->histograms[which].counts[b->n]));
}

size_t stats_json(const struct stats_copy *s, char *text, size_t room)
{
    struct text t = {.mem = text, .room = room};

    for (int i = 0; i < STAT_NUMBERS; i++)
        put(&t, "%s\"%s\":%llu", i > 0 ? "," : "", number_names[i],
            (unsigned long long)s->numbers[i]);
    for (int i = 0; i < STAT_DISTRIBUTIONS; i++)
        put_histogram(&t, s, i);
    return t.n;
}
