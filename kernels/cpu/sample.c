/* sample.c - the sampler's arithmetic.
 *
 * Almost all of a vocabulary never matters: without filters, a token so far
 * below the best one that no noise can lift it there is passed over unseen;
 * with filters, only the best few hundred are sorted, and a longer list is
 * made only when the nucleus is found to be longer.
 *
 * exp() is in double by plain multiplications and additions: the same bits
 * everywhere, and exact enough for z as large as a float logit over 1e-5. */
#include "kernels/cpu/sample.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/philox.h"

#define GREEDY_BELOW 1e-5f

enum { SHORT_LIST = 256, LONG_LIST = 4096 };

static bool top_k_on(const struct sampling *s, uint32_t vocab)
{
    return s->top_k > 0 && (uint32_t)s->top_k < vocab;
}

enum sample_mode sample_mode(const struct sampling *s, uint32_t vocab, bool alone)
{
    if (!(s->temperature >= GREEDY_BELOW))
        return SAMPLE_GREEDY;
    if (s->top_p < 1 || top_k_on(s, vocab))
        return SAMPLE_LIST;
    return s->min_p > 0 && !alone ? SAMPLE_LIST : SAMPLE_PLAIN;
}

/* top_p alone filters: its softmax runs over every token. */
static bool mass_needed(const struct sampling *s, uint32_t vocab)
{
    return s->top_p < 1 && !(s->min_p > 0) && !top_k_on(s, vocab);
}

static float scaled(float logit, float temperature)
{
    return logit / temperature + 0.0f; /* no -0, so that equal values have equal bits */
}

static float min_p_cut(float max, const struct sampling *s)
{
    return s->min_p > 0 ? max + portable_log(s->min_p) : -INFINITY;
}


/* Picks ---------------------------------------------------------------------------------- */

struct pick pick_best(struct pick a, struct pick b)
{
    if (a.id == UINT32_MAX || b.id == UINT32_MAX)
        return a.id == UINT32_MAX ? b : a;
    if (a.value != b.value)
        return a.value > b.value || a.value != a.value ? a : b; /* a NaN stays */
    return a.id < b.id ? a : b;
}

uint32_t pick_id(struct pick best)
{
    return best.value > -INFINITY ? best.id : SAMPLE_BROKEN; /* a NaN is not */
}

static struct noise noise_of(const struct sampling *s, uint32_t position)
{
    return (struct noise){.seed = s->seed, .choice = s->choice, .position = position};
}

/* The better of `best` and this token with its noise. Rounding is monotone, so where a bound
 * of the noise does not reach, the noise does not. */
static struct pick try_token(struct pick best, float z, uint32_t id, struct noise *noise)
{
    uint32_t word;

    if (best.id != UINT32_MAX && z + GUMBEL_MAX < best.value)
        return best;
    word = noise_word(noise, id);
    if (best.id != UINT32_MAX && z + gumbel_bound(word) < best.value)
        return best;
    return pick_best(best, (struct pick){z + gumbel_noise(word), id});
}

struct pick pick_greedy(const float *logits, uint32_t n, uint32_t first)
{
    struct pick best = {.value = -INFINITY, .id = n > 0 ? first : UINT32_MAX};

    for (uint32_t i = 0; i < n; i++)
        if (!(logits[i] <= best.value)) { /* larger, or a NaN */
            best = (struct pick){logits[i], first + i};
            if (!(logits[i] < INFINITY))
                return (struct pick){NAN, first + i};
        }
    return best;
}

struct pick pick_plain(const float *logits, uint32_t n, uint32_t first, const struct sampling *s,
    uint32_t position)
{
    struct pick top = pick_greedy(logits, n, first), best = {.id = UINT32_MAX};
    float max = scaled(top.value, s->temperature), cut = min_p_cut(max, s);
    struct noise noise = noise_of(s, position);

    if (n == 0 || isnan(top.value))
        return top;
    best = try_token(best, max, top.id, &noise); /* first: it rules out the most */
    for (uint32_t i = 0; i < n; i++) {
        float z = scaled(logits[i], s->temperature);

        if (!(z < cut))
            best = try_token(best, z, first + i, &noise);
    }
    return best;
}

/* exp(z) as mantissa and exponent -------------------------------------------------------- */

struct power {
    int32_t exponent;
    uint32_t mantissa; /* exp(z) = mantissa 2^(exponent - MASS_BITS), 0.7 <= . < 1.42 */
};

static struct power power_of(float z)
{
    const double inverse_ln2 = 0x1.71547652b82fep+0, ln2 = 0x1.62e42fefa39efp-1;
    double wide = z > 1e8f ? 1e8 : z < -1e8f ? -1e8 : (double)z;
    const double whole = 0x1.8p52; /* added and taken away, it leaves the nearest integer */
    double n = (wide * inverse_ln2 + whole) - whole, r = wide - n * ln2, e = 1.0 / 40320;

    e = e * r + 1.0 / 5040;
    e = e * r + 1.0 / 720;
    e = e * r + 1.0 / 120;
    e = e * r + 1.0 / 24;
    e = e * r + 1.0 / 6;
    e = e * r + 0.5;
    e = e * r + 1;
    e = e * r + 1;
    return (struct power){.exponent = (int32_t)n, .mantissa = (uint32_t)(e * (1 << MASS_BITS))};
}

/* 2^-n, 0 <= n < 1023 */
static double power_of_half(int32_t n)
{
    uint64_t bits = (uint64_t)(1023 - n) << 52;
    double x;

    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* exp(z) 2^-top; 0 where that is below every bin. */
static double weight_of(float z, int32_t top)
{
    struct power p = power_of(z);

    if (p.exponent <= top - MASS_BINS)
        return 0;
    return (double)p.mantissa * power_of_half(top - p.exponent + MASS_BITS);
}

void mass_of(struct mass *m, const float *logits, uint32_t n, float temperature)
{
    float max = scaled(pick_greedy(logits, n, 0).value, temperature);
    float least = max - 0.6931472f * (MASS_BINS + 1); /* below: no bin */

    memset(m, 0, sizeof(*m));
    if (!(max > -INFINITY)) /* a NaN is told in the list; here it would lead past the bins */
        return;
    m->top = power_of(max).exponent;
    for (uint32_t i = 0; i < n; i++) {
        float z = scaled(logits[i], temperature);
        struct power p;

        if (z < least)
            continue;
        p = power_of(z);
        if (p.exponent > m->top - MASS_BINS)
            m->bins[m->top - p.exponent] += p.mantissa;
    }
}

void list_mass(struct mass *m, const float *logits, uint32_t n, const struct sampling *s,
    uint32_t vocab)
{
    if (n > 0 && mass_needed(s, vocab))
        mass_of(m, logits, n, s->temperature);
}

/* All shards' mass times 2^-top: integers first, whose sums have no order, then one fixed order. */
static double mass_total(const struct list *lists, int n_lists, int32_t top)
{
    double total = 0;

    for (int32_t i = 0; i < MASS_BINS; i++) {
        uint64_t bin = 0;

        for (int l = 0; l < n_lists; l++) {
            const struct mass *m = lists[l].mass;
            int64_t at = (int64_t)m->top - top + i; /* its own bin of that power */

            if (lists[l].total > 0 && at >= 0 && at < MASS_BINS)
                bin += m->bins[at];
        }
        total += (double)bin * power_of_half(i + MASS_BITS);
    }
    return total;
}

double masses_log_sum(const struct list *lists, int n_lists, float max)
{
    const double ln2 = 0x1.62e42fefa39efp-1;
    int32_t top = power_of(max).exponent;

    return log(mass_total(lists, n_lists, top)) + top * ln2;
}

/* Lists ---------------------------------------------------------------------------------- */

enum { DIGIT = 11, DIGITS = 3, BUCKETS = 1 << DIGIT };

/* Larger z, smaller key. */
static uint32_t sort_key(float z)
{
    uint32_t bits;

    memcpy(&bits, &z, sizeof(bits));
    return bits & 0x80000000u ? bits : 0x7fffffffu - bits;
}

/* Sorts a[n], ids ascending, by z descending and keeps equals in order; b is room. */
static void sort_candidates(struct candidate *a, struct candidate *b, uint32_t n)
{
    uint32_t begin[DIGITS][BUCKETS] = {{0}};

    for (uint32_t i = 0; i < n; i++)
        for (int d = 0; d < DIGITS; d++)
            begin[d][sort_key(a[i].z) >> (d * DIGIT) & (BUCKETS - 1)]++;
    for (int d = 0; d < DIGITS; d++) {
        struct candidate *from = d % 2 == 0 ? a : b, *to = d % 2 == 0 ? b : a;
        uint32_t sum = 0;

        for (int i = 0; i < BUCKETS; i++) {
            uint32_t count = begin[d][i];

            begin[d][i] = sum;
            sum += count;
        }
        for (uint32_t i = 0; i < n; i++)
            to[begin[d][sort_key(from[i].z) >> (d * DIGIT) & (BUCKETS - 1)]++] = from[i];
    }
    memcpy(a, b, n * sizeof(*a)); /* an odd number of digits ends in b */
}

/* Keeps the best `room` of what came so far at the front of a; later equals lose to them. 0: a NaN
 * or plus infinity is among them. */
static uint32_t collect(struct candidate *a, struct candidate *b, uint32_t room,
    const float *logits, uint32_t n, uint32_t first, float temperature)
{
    uint32_t full = room < n / 2 ? 2 * room : n, held = 0;
    float least = -INFINITY;
    bool cut = false;

    for (uint32_t i = 0; i < n; i++) {
        float z = scaled(logits[i], temperature);

        if (!(logits[i] < INFINITY))
            return 0;
        if (cut && !(z > least))
            continue;
        a[held++] = (struct candidate){z, first + i};
        if (held < full || i + 1 == n)
            continue;
        sort_candidates(a, b, held);
        held = room;
        least = a[room - 1].z;
        cut = true;
    }
    sort_candidates(a, b, held);
    return held < room ? held : room;
}

uint32_t list_make(struct candidate *out, uint32_t room, const float *logits, uint32_t n,
    uint32_t first, const struct sampling *s, struct sample_scratch *scratch)
{
    uint32_t held;

    if (n == 0)
        return 0;
    held = collect(scratch->a, scratch->b, room, logits, n, first, s->temperature);
    if (held == 0) {
        *out = (struct candidate){NAN, first};
        return 1;
    }
    if (out != scratch->a)
        memcpy(out, scratch->a, held * sizeof(*out));
    return held;
}

static bool comes_before(const struct candidate *a, const struct candidate *b)
{
    return a->z != b->z ? a->z > b->z : a->id < b->id;
}

enum status merge_next(struct merge *m, struct candidate *next)
{
    int best = -1;

    for (int l = 0; l < m->n_lists; l++) {
        const struct list *list = &m->lists[l];

        if (m->at[l] == list->n) {
            if (list->n < list->total)
                return STATUS_AGAIN;
            continue;
        }
        if (best < 0 || comes_before(&list->candidates[m->at[l]],
                            &m->lists[best].candidates[m->at[best]]))
            best = l;
    }
    if (best < 0)
        return STATUS_CLOSED;
    *next = m->lists[best].candidates[m->at[best]++];
    return STATUS_OK;
}

/* What min_p and top_k leave: how many from the top, and their weight. */
struct kept {
    uint32_t count;
    double weight;
};

static enum status filter(const struct list *lists, int n_lists, const struct sampling *s,
    uint32_t vocab, float max, struct kept *out)
{
    struct merge m = {.lists = lists, .n_lists = n_lists};
    struct kept kept = {0};
    float cut = min_p_cut(max, s);
    int32_t top = power_of(max).exponent;
    struct candidate c;
    enum status status;

    while ((status = merge_next(&m, &c)) == STATUS_OK && !(c.z < cut)) {
        kept.count++;
        kept.weight += weight_of(c.z, top);
        if (top_k_on(s, vocab) && kept.count == (uint32_t)s->top_k)
            cut = c.z; /* it passed min_p's, so this one is higher */
    }
    if (status == STATUS_AGAIN)
        return status;
    *out = kept;
    return STATUS_OK;
}

/* Of the first kept->count, the nucleus; of that, the largest with noise. */
static enum status choose(const struct list *lists, int n_lists, const struct sampling *s,
    uint32_t position, int32_t top, const struct kept *kept, uint32_t *id)
{
    struct merge m = {.lists = lists, .n_lists = n_lists};
    struct pick best = {.id = UINT32_MAX};
    struct noise noise = noise_of(s, position);
    double before = 0, limit = s->top_p < 1 ? (double)s->top_p * kept->weight : INFINITY;

    for (uint32_t i = 0; i < kept->count && (i == 0 || before < limit); i++) {
        struct candidate c;
        enum status status = merge_next(&m, &c);

        if (status == STATUS_AGAIN)
            return status;
        if (status == STATUS_CLOSED)
            break;
        if (s->top_p < 1)
            before += weight_of(c.z, top);
        best = try_token(best, c.z, c.id, &noise);
    }
    *id = best.id;
    return STATUS_OK;
}

static bool list_is_broken(const struct list *l)
{
    return l->n > 0 && isnan(l->candidates[0].z);
}

enum status lists_decide(const struct list *lists, int n_lists, const struct sampling *s,
    uint32_t vocab, uint32_t position, uint32_t *id)
{
    struct merge m = {.lists = lists, .n_lists = n_lists};
    struct kept kept = {.count = UINT32_MAX};
    struct candidate first;
    enum status status;
    int32_t top;

    for (int l = 0; l < n_lists; l++)
        if (list_is_broken(&lists[l])) {
            *id = SAMPLE_BROKEN;
            return STATUS_OK;
        }
    if (n_lists > SAMPLE_MAX_LISTS || merge_next(&m, &first) != STATUS_OK)
        return STATUS_AGAIN;
    if (!(first.z > -INFINITY)) {
        *id = SAMPLE_BROKEN;
        return STATUS_OK;
    }
    top = power_of(first.z).exponent;
    if (mass_needed(s, vocab))
        kept.weight = mass_total(lists, n_lists, top);
    else if ((status = filter(lists, n_lists, s, vocab, first.z, &kept)) != STATUS_OK)
        return status;
    return choose(lists, n_lists, s, position, top, &kept, id);
}

/* The whole row -------------------------------------------------------------------------- */

static uint32_t sample_list(const float *logits, uint32_t vocab, const struct sampling *s,
    uint32_t position, struct sample_scratch *scratch)
{
    const uint32_t rooms[] = {SHORT_LIST, LONG_LIST, vocab};
    struct mass mass;
    uint32_t id = 0;

    list_mass(&mass, logits, vocab, s, vocab);
    for (unsigned i = 0; i < sizeof(rooms) / sizeof(rooms[0]); i++) {
        uint32_t room = rooms[i] < vocab ? rooms[i] : vocab;
        struct list list = {.total = vocab, .candidates = scratch->a, .mass = &mass};

        if (top_k_on(s, vocab) && room <= (uint32_t)s->top_k && room < vocab)
            continue; /* could not see the end of the ties */
        list.n = list_make(scratch->a, room, logits, vocab, 0, s, scratch);
        if (lists_decide(&list, 1, s, vocab, position, &id) == STATUS_OK)
            break;
    }
    return id;
}

uint32_t sample_row(const float *logits, uint32_t vocab, const struct sampling *s,
    uint32_t position, struct sample_scratch *scratch)
{
    switch (sample_mode(s, vocab, true)) {
    case SAMPLE_GREEDY: return pick_id(pick_greedy(logits, vocab, 0));
    case SAMPLE_PLAIN: return pick_id(pick_plain(logits, vocab, 0, s, position));
    case SAMPLE_LIST: break;
    }
    return sample_list(logits, vocab, s, position, scratch);
}
