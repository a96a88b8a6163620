/* params.c - the table of parameters, and the one reader and writer that follow from it. */
#include "msg/params.h"

#include <string.h>

#include "msg/param_lists.h"
#include "quern/log.h"
#include "quern/plan.h"

struct param {
    const char *name; /* NULL: no such key */
    enum param_type type;
    size_t at;
    double least, most; /* of all but U64 */
    bool above;         /* `least` itself is out */
    enum status (*check)(const char *name, struct param_bytes list); /* of BYTES */
};

#define AT(field) offsetof(struct params, field)
static const struct param table[PARAM_KEYS] = {
    [PARAM_MAX_TOKENS] = {"max_tokens", PARAM_U32, AT(max_tokens), .least = 1, .most = UINT32_MAX},
    [PARAM_TEMPERATURE] = {"temperature", PARAM_F32, AT(temperature), .least = 0, .most = 100},
    [PARAM_TOP_K] = {"top_k", PARAM_U32, AT(top_k), .least = 0, .most = INT32_MAX},
    [PARAM_TOP_P] = {"top_p", PARAM_F32, AT(top_p), .least = 0, .most = 1, .above = true},
    [PARAM_MIN_P] = {"min_p", PARAM_F32, AT(min_p), .least = 0, .most = 1},
    [PARAM_SEED] = {.name = "seed", .type = PARAM_U64, .at = AT(seed)},
    [PARAM_IGNORE_EOS] = {"ignore_eos", PARAM_U32, AT(ignore_eos), .least = 0, .most = 1},
    [PARAM_KEY] = {.name = "key", .type = PARAM_U64, .at = AT(key)},
    [PARAM_KEEP] = {"keep", PARAM_U32, AT(keep_s), .least = 0, .most = UINT32_MAX},
    [PARAM_TELL_PAUSES] = {"tell_pauses", PARAM_U32, AT(tell_pauses), .least = 0, .most = 1},
    [PARAM_PRIORITY] = {"priority", PARAM_I32, AT(priority), .least = PRIORITY_LEAST,
        .most = PRIORITY_MOST},
    [PARAM_REPETITION_PENALTY] = {"repetition_penalty", PARAM_F32, AT(repetition_penalty),
        .least = 0.001f, .most = 100},
    [PARAM_FREQUENCY_PENALTY] = {"frequency_penalty", PARAM_F32, AT(frequency_penalty), .least = -2,
        .most = 2},
    [PARAM_PRESENCE_PENALTY] = {"presence_penalty", PARAM_F32, AT(presence_penalty), .least = -2,
        .most = 2},
    [PARAM_MIN_TOKENS] = {"min_tokens", PARAM_U32, AT(min_tokens), .least = 0, .most = UINT32_MAX},
    [PARAM_LOGIT_BIAS] = {"logit_bias", PARAM_BYTES, AT(logit_bias), .check = list_check_bias},
    [PARAM_BAD_WORDS] = {"bad_words", PARAM_BYTES, AT(bad_words), .check = list_check_texts},
    [PARAM_BAD_IDS] = {"bad_ids", PARAM_BYTES, AT(bad_ids), .check = list_check_runs},
    [PARAM_STOP] = {"stop", PARAM_BYTES, AT(stop), .check = list_check_stops},
    [PARAM_STOP_IDS] = {"stop_ids", PARAM_BYTES, AT(stop_ids), .check = list_check_stop_ids},
    [PARAM_INCLUDE_STOP] = {"include_stop", PARAM_U32, AT(include_stop), .least = 0, .most = 1},
    [PARAM_CHOICES] = {"choices", PARAM_U32, AT(choices), .least = 1, .most = MOST_CHOICES},
    [PARAM_LOGPROBS] = {"logprobs", PARAM_U32, AT(logprobs), .least = 0, .most = LOGPROBS_MOST},
    [PARAM_PROMPT_LOGPROBS] = {"prompt_logprobs", PARAM_U32, AT(prompt_logprobs), .least = 0,
        .most = LOGPROBS_MOST},
    [PARAM_ECHO] = {"echo", PARAM_U32, AT(echo), .least = 0, .most = 1},
    [PARAM_SPECULATE] = {"speculate", PARAM_U32, AT(speculate), .least = 0, .most = MOST_GUESSES},
    [PARAM_DIMENSIONS] = {"dimensions", PARAM_U32, AT(dimensions), .least = 0, .most = UINT32_MAX},
    [PARAM_LAST] = {"last", PARAM_U32, AT(last), .least = 1, .most = UINT32_MAX},
    [PARAM_VALUE_IDS] = {"value_ids", PARAM_BYTES, AT(value_ids), .check = list_check_value_ids},
};

enum param_type params_type(unsigned key)
{
    return key < PARAM_KEYS ? table[key].type : PARAM_NONE; /* a row that is not there has it, too */
}

static size_t size_of(enum param_type type)
{
    return type == PARAM_U64 ? sizeof(uint64_t) : sizeof(uint32_t);
}

static double value_of(const struct param *row, const void *value)
{
    uint32_t whole;
    int32_t with_sign;
    float real;

    if (row->type == PARAM_F32) {
        memcpy(&real, value, sizeof(real));
        return (double)real;
    }
    if (row->type == PARAM_I32) {
        memcpy(&with_sign, value, sizeof(with_sign));
        return with_sign;
    }
    memcpy(&whole, value, sizeof(whole));
    return whole;
}

static enum status check_bounds(const struct param *row, const void *value)
{
    double v;

    if (row->type == PARAM_U64)
        return STATUS_OK;
    v = value_of(row, value);
    if (v >= row->least && v <= row->most && !(row->above && v == row->least)) /* NaN is not */
        return STATUS_OK;
    return log_fail(STATUS_INVALID, "%s %g: it goes from %s%g to %g", row->name, v,
        row->above ? "above " : "", row->least, row->most);
}

static enum status set_list(struct params *p, const struct param *row, const void *value, size_t bytes)
{
    struct param_bytes list = {value, (uint32_t)bytes};
    enum status s = bytes <= UINT32_MAX ? row->check(row->name, list)
                                        : log_fail(STATUS_INVALID, "%s: %zu bytes", row->name, bytes);

    if (s == STATUS_OK)
        memcpy((char *)p + row->at, &list, sizeof(list));
    return s;
}

static enum status set_number(struct params *p, const struct param *row, const void *value,
    size_t bytes)
{
    if (bytes != size_of(row->type))
        return log_fail(STATUS_INVALID, "%s: a value of %zu bytes, it has %zu", row->name, bytes,
            size_of(row->type));
    if (check_bounds(row, value) != STATUS_OK)
        return STATUS_INVALID;
    memcpy((char *)p + row->at, value, bytes);
    return STATUS_OK;
}

enum status params_set(struct params *p, enum param_key key, const void *value, size_t bytes)
{
    const struct param *row = (unsigned)key < PARAM_KEYS ? &table[key] : NULL;
    enum status s;

    if (row == NULL || row->name == NULL)
        return log_fail(STATUS_UNKNOWN, "parameter %u: this version of quern does not have it",
            (unsigned)key);
    s = row->type == PARAM_BYTES ? set_list(p, row, value, bytes) : set_number(p, row, value, bytes);
    if (s != STATUS_OK)
        return s;
    if (key == PARAM_KEY && p->key == 0)
        return log_fail(STATUS_INVALID, "key 0: use another number");
    p->given |= 1ull << key;
    return STATUS_OK;
}

enum status params_read(const void *bytes, size_t n, struct params *out)
{
    struct params p = {0};
    const char *at = bytes;

    while (n > 0) {
        struct param_header h;
        enum status s;

        if (n < sizeof(h))
            return log_fail(STATUS_INVALID, "the parameters end within one");
        memcpy(&h, at, sizeof(h));
        at += sizeof(h);
        n -= sizeof(h);
        if (h.bytes > n)
            return log_fail(STATUS_INVALID, "parameter %u is said to have %u bytes, %zu are there",
                h.key, h.bytes, n);
        if (h.reserved != 0)
            return log_fail(STATUS_UNKNOWN, "parameter %u has flags that this version of quern does "
                "not have", h.key);
        if (h.key < PARAM_KEYS && params_has(&p, (enum param_key)h.key))
            return log_fail(STATUS_INVALID, "%s is given twice", table[h.key].name);
        s = params_set(&p, (enum param_key)h.key, at, h.bytes);
        if (s != STATUS_OK)
            return s;
        at += h.bytes;
        n -= h.bytes;
    }
    *out = p;
    return STATUS_OK;
}

size_t params_write(const struct params *p, void *bytes)
{
    char *at = bytes;

    for (int key = 0; key < PARAM_KEYS; key++) {
        const struct param *row = &table[key];
        struct param_header h = {.key = (uint16_t)key, .bytes = (uint32_t)size_of(row->type)};
        const void *value = (const char *)p + row->at;
        struct param_bytes list;

        if (row->name == NULL || !params_has(p, (enum param_key)key))
            continue;
        if (row->type == PARAM_BYTES) {
            memcpy(&list, value, sizeof(list));
            value = list.at;
            h.bytes = list.n;
        }
        memcpy(at, &h, sizeof(h));
        if (h.bytes > 0)
            memcpy(at + sizeof(h), value, h.bytes);
        at += sizeof(h) + h.bytes;
    }
    return (size_t)(at - (char *)bytes);
}
