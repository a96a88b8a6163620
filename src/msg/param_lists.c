/* param_lists.c - lists as strangers send them. */
#include "msg/param_lists.h"

#include <string.h>

#include "quern/log.h"
#include "quern/plan.h"

/* A count, and `each` bytes for every one. */
static bool next(struct param_bytes *rest, size_t each, const unsigned char **entry, uint32_t *n)
{
    if (rest->n < sizeof(*n))
        return false;
    memcpy(n, rest->at, sizeof(*n));
    if (*n > (rest->n - sizeof(*n)) / each)
        return false;
    *entry = rest->at + sizeof(*n);
    rest->at += sizeof(*n) + *n * each;
    rest->n -= (uint32_t)(sizeof(*n) + *n * each);
    return true;
}

bool list_next_text(struct param_bytes *rest, const char **text, uint32_t *bytes)
{
    const unsigned char *entry;

    if (!next(rest, 1, &entry, bytes))
        return false;
    *text = (const char *)entry;
    return true;
}

bool list_next_run(struct param_bytes *rest, const unsigned char **ids, uint32_t *n)
{
    return next(rest, sizeof(int32_t), ids, n);
}

static enum status ends_within(const char *name)
{
    return log_fail(STATUS_INVALID, "%s: the list ends within an entry", name);
}

static enum status check_ids(const char *name, const unsigned char *ids, uint32_t n, size_t stride)
{
    for (uint32_t i = 0; i < n; i++) {
        int32_t id;

        memcpy(&id, ids + i * stride, sizeof(id));
        if (id < 0)
            return log_fail(STATUS_INVALID, "%s: %d is no token id", name, id);
    }
    return STATUS_OK;
}

enum status list_check_bias(const char *name, struct param_bytes list)
{
    const size_t each = sizeof(int32_t) + sizeof(float);

    if (list.n % each != 0)
        return ends_within(name);
    if (list.n / each > BIAS_WORDS / 2)
        return log_fail(STATUS_INVALID, "%s of %zu ids: at most %d are possible", name, list.n / each,
            BIAS_WORDS / 2);
    for (size_t at = 0; at < list.n; at += each) {
        float bias;

        memcpy(&bias, list.at + at + sizeof(int32_t), sizeof(bias));
        if (!(bias >= -100 && bias <= 100)) /* NaN is not */
            return log_fail(STATUS_INVALID, "%s %g: it goes from -100 to 100", name, (double)bias);
    }
    return check_ids(name, list.at, (uint32_t)(list.n / each), each);
}

static enum status check_texts(const char *name, struct param_bytes list, uint32_t most, uint32_t each)
{
    uint32_t count = 0, bytes;
    const char *text;

    while (list_next_text(&list, &text, &bytes)) {
        if (bytes == 0)
            return log_fail(STATUS_INVALID, "%s: an empty text: give it at least one character", name);
        if (bytes > each)
            return log_fail(STATUS_INVALID, "%s: a text of %u bytes, at most %u are possible", name,
                bytes, each);
        count++;
    }
    if (list.n > 0)
        return ends_within(name);
    if (count > most)
        return log_fail(STATUS_INVALID, "%s: %u texts, at most %u are possible", name, count, most);
    return STATUS_OK;
}

enum status list_check_texts(const char *name, struct param_bytes list)
{
    return check_texts(name, list, BAD_WORDS / 4, BAD_WORDS); /* two runs of each, a count before each */
}

enum status list_check_stops(const char *name, struct param_bytes list)
{
    return check_texts(name, list, MOST_STOPS, MOST_STOP_BYTES);
}

enum status list_check_runs(const char *name, struct param_bytes list)
{
    uint32_t words = list.n / (uint32_t)sizeof(int32_t), n;
    const unsigned char *ids;

    while (list_next_run(&list, &ids, &n)) {
        if (n == 0)
            return log_fail(STATUS_INVALID, "%s: a run of no ids", name);
        if (check_ids(name, ids, n, sizeof(int32_t)) != STATUS_OK)
            return STATUS_INVALID;
    }
    if (list.n > 0)
        return ends_within(name);
    if (words > BAD_WORDS)
        return log_fail(STATUS_INVALID, "%s: %u ids and counts, at most %d are possible", name, words,
            BAD_WORDS);
    return STATUS_OK;
}

static enum status check_id_list(const char *name, struct param_bytes list, uint32_t most)
{
    if (list.n % sizeof(int32_t) != 0)
        return ends_within(name);
    if (list.n / sizeof(int32_t) > most)
        return log_fail(STATUS_INVALID, "%s: %zu ids, at most %u are possible", name,
            list.n / sizeof(int32_t), most);
    return check_ids(name, list.at, (uint32_t)(list.n / sizeof(int32_t)), sizeof(int32_t));
}

enum status list_check_stop_ids(const char *name, struct param_bytes list)
{
    return check_id_list(name, list, MOST_STOP_IDS);
}

enum status list_check_value_ids(const char *name, struct param_bytes list)
{
    return check_id_list(name, list, MOST_VALUE_IDS);
}
