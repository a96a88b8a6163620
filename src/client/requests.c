/* requests.c - libquern: what is wanted, and its way onto the wire.
 *
 * Parameters are kept as the bytes that they will be sent as, each checked by
 * the table of msg/params.c when it is set: a new parameter needs nothing here. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "client/client.h"
#include "msg/params.h"

/* What is left of a frame for the prompt, when there are parameters too. */
enum { PROMPT_MOST = FRAME_MAX_BYTES - (64 << 10), PARAM_MOST = FRAME_MAX_BYTES - PROMPT_MOST - 1024 };

EXPORT struct quern_request *quern_request_new(void)
{
    struct quern_request *r = calloc(1, sizeof(*r));

    if (r == NULL)
        log_fail(STATUS_NOMEM, "no memory for a request");
    return r;
}

EXPORT void quern_request_free(struct quern_request *r)
{
    if (r == NULL)
        return;
    free(r->prompt);
    free(r->params);
    free(r);
}

static int set_prompt(struct quern_request *r, uint32_t kind, const void *bytes, size_t n)
{
    void *copy;

    if (n > PROMPT_MOST)
        return client_failed(NULL, log_fail(STATUS_INVALID,
            "a prompt of %zu bytes is larger than the protocol's %d", n, PROMPT_MOST));
    copy = malloc(n + 1); /* never NULL for being empty */
    if (copy == NULL)
        return client_failed(NULL, log_fail(STATUS_NOMEM, "no memory for a prompt of %zu bytes", n));
    memcpy(copy, bytes, n);
    free(r->prompt);
    r->prompt = copy;
    r->prompt_bytes = n;
    r->prompt_kind = kind;
    r->has_prompt = true;
    return QUERN_OK;
}

EXPORT int quern_request_set_text(struct quern_request *r, const char *text, size_t bytes)
{
    if (r == NULL || text == NULL)
        return client_null(NULL, "quern_request_set_text");
    return set_prompt(r, PROMPT_TEXT, text, bytes == QUERN_STRLEN ? strlen(text) : bytes);
}

EXPORT int quern_request_set_chat(struct quern_request *r, const char *json, size_t bytes)
{
    if (r == NULL || json == NULL)
        return client_null(NULL, "quern_request_set_chat");
    return set_prompt(r, PROMPT_CHAT, json, bytes == QUERN_STRLEN ? strlen(json) : bytes);
}

EXPORT int quern_request_set_ids(struct quern_request *r, const int32_t *ids, size_t n)
{
    if (r == NULL || ids == NULL)
        return client_null(NULL, "quern_request_set_ids");
    return set_prompt(r, PROMPT_IDS, ids, n <= PROMPT_MOST ? n * sizeof(*ids) : n);
}

EXPORT int quern_request_set_task(struct quern_request *r, int task)
{
    if (r == NULL)
        return client_null(NULL, "quern_request_set_task");
    if (task < QUERN_TASK_COMPLETE || task > QUERN_TASK_LOGITS)
        return client_failed(NULL, log_fail(STATUS_UNKNOWN, "task %d: this version of quern does "
            "not have it", task));
    r->task = task;
    return QUERN_OK;
}

EXPORT uint64_t quern_request_key(const struct quern_request *r)
{
    return r != NULL ? r->key : 0;
}

/* Parameters ------------------------------------------------------------------------------- */

/* The record of `param` among the bytes, with its header; NULL when it is not set. */
static unsigned char *find(const struct quern_request *r, unsigned param, struct param_header *h)
{
    for (size_t at = 0; at < r->params_bytes; at += sizeof(*h) + h->bytes) {
        memcpy(h, r->params + at, sizeof(*h));
        if (h->key == param)
            return r->params + at;
    }
    return NULL;
}

static void remove_param(struct quern_request *r, unsigned param)
{
    struct param_header h;
    unsigned char *at = find(r, param, &h);
    size_t n = sizeof(h) + h.bytes;

    if (at == NULL)
        return;
    memmove(at, at + n, r->params_bytes - (size_t)(at - r->params) - n);
    r->params_bytes -= n;
}

/* That the parameter takes already. */
static size_t set_bytes(const struct quern_request *r, unsigned param)
{
    struct param_header h;

    return find(r, param, &h) != NULL ? sizeof(h) + h.bytes : 0;
}

static enum status set_param(struct quern_request *r, unsigned param, const void *value,
    size_t bytes)
{
    struct param_header h = {.key = (uint16_t)param, .bytes = (uint32_t)bytes};
    struct params scratch = {0};
    enum status s = params_set(&scratch, (enum param_key)param, value, bytes);
    unsigned char *mem;

    if (s != STATUS_OK)
        return s;
    if (r->params_bytes - set_bytes(r, param) + bytes > PARAM_MOST)
        return log_fail(STATUS_INVALID, "parameter %u: %zu bytes are too many", param, bytes);
    mem = realloc(r->params, r->params_bytes + sizeof(h) + bytes);
    if (mem == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a parameter of %zu bytes", bytes);
    r->params = mem;
    remove_param(r, param);
    memcpy(r->params + r->params_bytes, &h, sizeof(h));
    memcpy(r->params + r->params_bytes + sizeof(h), value, bytes);
    r->params_bytes += sizeof(h) + bytes;
    return STATUS_OK;
}

/* A whole number in the parameter's own type. */
static enum status set_whole(struct quern_request *r, unsigned param, bool negative,
    uint64_t magnitude)
{
    uint32_t small = (uint32_t)magnitude;
    float real = negative ? -(float)magnitude : (float)magnitude;
    int32_t with_sign = negative ? -(int32_t)small : (int32_t)small;
    enum param_type type = params_type(param);

    if (type == PARAM_F32)
        return set_param(r, param, &real, sizeof(real));
    if (type == PARAM_I32 && magnitude <= INT32_MAX)
        return set_param(r, param, &with_sign, sizeof(with_sign));
    if (type == PARAM_I32)
        return log_fail(STATUS_INVALID, "parameter %u: %s%llu is not between %d and %d", param,
            negative ? "-" : "", (unsigned long long)magnitude, INT32_MIN, INT32_MAX);
    if (type != PARAM_NONE && (negative || (type == PARAM_U32 && magnitude > UINT32_MAX)))
        return log_fail(STATUS_INVALID, "parameter %u: %s%llu is not between 0 and %llu", param,
            negative ? "-" : "", (unsigned long long)magnitude,
            type == PARAM_U32 ? (unsigned long long)UINT32_MAX : (unsigned long long)UINT64_MAX);
    if (type == PARAM_U64)
        return set_param(r, param, &magnitude, sizeof(magnitude));
    return set_param(r, param, &small, sizeof(small)); /* also where the table is to refuse it */
}

EXPORT int quern_request_set_u64(struct quern_request *r, int param, uint64_t value)
{
    enum status s;

    if (r == NULL)
        return client_null(NULL, "quern_request_set_u64");
    s = set_whole(r, (unsigned)param, false, value);
    return s == STATUS_OK ? QUERN_OK : client_failed(NULL, s);
}

EXPORT int quern_request_set_int(struct quern_request *r, int param, int64_t value)
{
    enum status s;

    if (r == NULL)
        return client_null(NULL, "quern_request_set_int");
    s = set_whole(r, (unsigned)param, value < 0, value < 0 ? -(uint64_t)value : (uint64_t)value);
    return s == STATUS_OK ? QUERN_OK : client_failed(NULL, s);
}

static bool is_whole(double value)
{
    return value > -0x1p53 && value < 0x1p53 && (double)(int64_t)value == value;
}

EXPORT int quern_request_set_real(struct quern_request *r, int param, double value)
{
    float real = (float)value;
    enum param_type type = params_type((unsigned)param);
    enum status s;

    if (r == NULL)
        return client_null(NULL, "quern_request_set_real");
    if (type == PARAM_F32)
        s = set_param(r, (unsigned)param, &real, sizeof(real));
    else if (type != PARAM_NONE && !is_whole(value))
        s = log_fail(STATUS_INVALID, "parameter %d: %g is no whole number", param, value);
    else
        s = set_whole(r, (unsigned)param, value < 0,
            type == PARAM_NONE ? 0 : (uint64_t)(value < 0 ? -value : value));
    return s == STATUS_OK ? QUERN_OK : client_failed(NULL, s);
}

EXPORT int quern_request_set_bytes(struct quern_request *r, int param, const void *value,
    size_t bytes)
{
    enum status s;

    if (r == NULL || value == NULL)
        return client_null(NULL, "quern_request_set_bytes");
    s = set_param(r, (unsigned)param, value, bytes);
    return s == STATUS_OK ? QUERN_OK : client_failed(NULL, s);
}

EXPORT int quern_request_add_text(struct quern_request *r, int param, const char *text, size_t bytes)
{
    struct param_header h = {0};
    const unsigned char *before;
    unsigned char *list;
    uint32_t n;
    enum status s;

    if (r == NULL || text == NULL)
        return client_null(NULL, "quern_request_add_text");
    if (param != PARAM_STOP && param != PARAM_BAD_WORDS)
        return client_failed(NULL, log_fail(STATUS_UNKNOWN, "parameter %d takes no texts", param));
    bytes = bytes == QUERN_STRLEN ? strlen(text) : bytes;
    if (bytes > PARAM_MOST)
        return client_failed(NULL, log_fail(STATUS_INVALID, "parameter %d: %zu bytes are too many", param,
            bytes));
    n = (uint32_t)bytes;
    before = find(r, (unsigned)param, &h);
    h.bytes = before != NULL ? h.bytes : 0;
    list = malloc(h.bytes + sizeof(n) + n);
    if (list == NULL)
        return client_failed(NULL, log_fail(STATUS_NOMEM, "no memory for a parameter"));
    if (h.bytes > 0)
        memcpy(list, before + sizeof(h), h.bytes);
    memcpy(list + h.bytes, &n, sizeof(n));
    memcpy(list + h.bytes + sizeof(n), text, n);
    s = set_param(r, (unsigned)param, list, h.bytes + sizeof(n) + n);
    free(list);
    return s == STATUS_OK ? QUERN_OK : client_failed(NULL, s);
}

/* Onto the wire ---------------------------------------------------------------------------- */

/* It has to be no other's, not to be secret. */
static uint64_t draw_key(void)
{
    uint64_t key = 0;

    while (key == 0)
        if (getrandom(&key, sizeof(key), 0) != (ssize_t)sizeof(key)) {
            struct timespec now;

            clock_gettime(CLOCK_REALTIME, &now);
            key = (uint64_t)getpid() << 40 ^ (uint64_t)now.tv_sec << 20 ^ (uint64_t)now.tv_nsec;
        }
    return key;
}

enum status client_submit(struct quern *q, const struct quern_request *r, int task, uint64_t id,
    uint64_t *key)
{
    struct param_header key_header = {.key = PARAM_KEY, .bytes = sizeof(*key)}, given;
    const unsigned char *own = find(r, PARAM_KEY, &given);
    uint64_t chosen = own == NULL ? draw_key() : 0;
    size_t drawn = own == NULL ? sizeof(key_header) + sizeof(chosen) : 0;
    struct frame_submit submit = {
        .fixed = sizeof(submit),
        .task = (uint32_t)task,
        .prompt = r->prompt_kind,
        .params_bytes = (uint32_t)(r->params_bytes + drawn),
        .prompt_bytes = (uint32_t)r->prompt_bytes,
    };
    struct frame_header header = {.type = FRAME_SUBMIT, .id = id,
        .bytes = (uint32_t)(sizeof(submit) + submit.params_bytes + submit.prompt_bytes)};
    struct iovec parts[] = {{&header, sizeof(header)}, {&submit, sizeof(submit)},
        {r->params, r->params_bytes}, {&key_header, drawn ? sizeof(key_header) : 0},
        {&chosen, drawn ? sizeof(chosen) : 0}, {r->prompt, r->prompt_bytes}};
    enum status s;

    if (!r->has_prompt)
        return log_fail(STATUS_INVALID, "a request without a prompt: quern_request_set_text(), "
            "_ids() or _chat() gives it one");
    if (own != NULL)
        memcpy(&chosen, own + sizeof(given), sizeof(chosen));
    s = client_send(q, parts, sizeof(parts) / sizeof(parts[0]));
    if (s == STATUS_OK)
        *key = chosen;
    return s;
}

EXPORT int quern_submit(struct quern *q, struct quern_request *r, uint64_t *id)
{
    uint64_t key;
    enum status s;

    if (q == NULL || r == NULL)
        return client_null(q, "quern_submit");
    s = client_submit(q, r, r->task, q->last_id + 1, &key);
    if (s == STATUS_AGAIN)
        return QUERN_AGAIN;
    if (s != STATUS_OK)
        return client_failed(q, s);
    r->key = key;
    q->last_id++;
    if (id != NULL)
        *id = q->last_id;
    return QUERN_OK;
}

EXPORT int quern_resume(struct quern *q, uint64_t key, uint64_t after, uint64_t *id)
{
    struct frame_resume resume = {.fixed = sizeof(resume), .key = key, .after = after};
    struct frame_header header = {.type = FRAME_RESUME, .bytes = sizeof(resume)};
    struct iovec parts[] = {{&header, sizeof(header)}, {&resume, sizeof(resume)}};
    enum status s;

    if (q == NULL)
        return client_null(q, "quern_resume");
    header.id = q->last_id + 1;
    s = client_send(q, parts, 2);
    if (s == STATUS_AGAIN)
        return QUERN_AGAIN;
    if (s != STATUS_OK)
        return client_failed(q, s);
    q->last_id++;
    if (id != NULL)
        *id = q->last_id;
    return QUERN_OK;
}

EXPORT int quern_cancel(struct quern *q, uint64_t id)
{
    struct frame_header header = {.type = FRAME_CANCEL, .id = id};
    enum status s;

    if (q == NULL)
        return client_null(NULL, "quern_cancel");
    s = client_send(q, &(struct iovec){&header, sizeof(header)}, 1);
    if (s == STATUS_AGAIN)
        return QUERN_AGAIN;
    return s == STATUS_OK ? QUERN_OK : client_failed(NULL, s); /* q->error is the owner's */
}
