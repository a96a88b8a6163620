/* ask.c - quern run: what the options say of the answer, as a request. */
#include <stdlib.h>
#include <string.h>

#include "cli/run.h"
#include "quern/log.h"

enum { KEEP_S = 10 }; /* how long a server is to wait for a lost connection */

/* Bytes of a list that grows. */
struct list {
    unsigned char *mem;
    size_t n;
    int status;
};

static void list_add(struct list *l, const void *bytes, size_t n)
{
    unsigned char *more = l->status == QUERN_OK ? realloc(l->mem, l->n + n) : NULL;

    if (more == NULL) {
        l->status = QUERN_NOMEM;
        return;
    }
    memcpy(more + l->n, bytes, n);
    l->mem = more;
    l->n += n;
}

/* Sets it, if there is anything in it, and frees it. */
static int list_set(struct list *l, struct quern_request *r, int param)
{
    int s = l->status;

    if (s == QUERN_OK && l->n > 0)
        s = quern_request_set_bytes(r, param, l->mem, l->n);
    free(l->mem);
    return s;
}

/* "5:-1.5,": the id and its bias; the rest behind it, or NULL. */
static const char *take_pair(const char *at, int32_t *id, float *bias)
{
    char *end;
    long n = strtol(at, &end, 10);

    if (end == at || *end != ':' || n < 0 || n > INT32_MAX)
        return NULL;
    *id = (int32_t)n;
    at = end + 1;
    *bias = strtof(at, &end);
    if (end == at || (*end != ',' && *end != '\0'))
        return NULL;
    return *end == ',' ? end + 1 : end;
}

/* "ID:V,ID:V" */
static int set_bias(struct quern_request *r, const char *text)
{
    struct list l = {0};
    const char *at = text;
    int32_t id;
    float bias;

    while (at != NULL && *at != '\0') {
        at = take_pair(at, &id, &bias);
        if (at == NULL) {
            free(l.mem);
            log_fail(STATUS_INVALID, "--logit-bias %s: it wants pairs such as 5:-100,17:2.5", text);
            return QUERN_INVALID;
        }
        list_add(&l, &id, sizeof(id));
        list_add(&l, &bias, sizeof(bias));
    }
    return list_set(&l, r, QUERN_PARAM_LOGIT_BIAS);
}

static int set_bad_ids(struct quern_request *r, const struct option_texts *runs)
{
    struct list l = {0};

    for (int i = 0; i < runs->n; i++) {
        int32_t *ids;
        size_t n;

        if (options_ids(runs->texts[i], &ids, &n) != STATUS_OK) {
            free(l.mem);
            return QUERN_INVALID;
        }
        list_add(&l, &(uint32_t){(uint32_t)n}, sizeof(uint32_t));
        list_add(&l, ids, n * sizeof(*ids));
        free(ids);
    }
    return list_set(&l, r, QUERN_PARAM_BAD_IDS);
}

static int set_stop_ids(struct quern_request *r, const char *text)
{
    int32_t *ids;
    size_t n;
    int s;

    if (text == NULL)
        return QUERN_OK;
    if (options_ids(text, &ids, &n) != STATUS_OK)
        return QUERN_INVALID;
    s = quern_request_set_bytes(r, QUERN_PARAM_STOP_IDS, ids, n * sizeof(*ids));
    free(ids);
    return s;
}

static int add_texts(struct quern_request *r, int param, const struct option_texts *t)
{
    int s = QUERN_OK;

    for (int i = 0; i < t->n && s == QUERN_OK; i++)
        s = quern_request_add_text(r, param, t->texts[i], QUERN_STRLEN);
    return s;
}

static int set_lists(struct quern_request *r, const struct run_options *o)
{
    int s = add_texts(r, QUERN_PARAM_STOP, &o->stop);

    if (s == QUERN_OK)
        s = add_texts(r, QUERN_PARAM_BAD_WORDS, &o->bad_words);
    if (s == QUERN_OK)
        s = set_bad_ids(r, &o->bad_ids);
    if (s == QUERN_OK)
        s = set_stop_ids(r, o->stop_ids);
    return s == QUERN_OK ? set_bias(r, o->logit_bias) : s;
}

/* Where it was given. */
static int set_real(struct quern_request *r, int param, bool given, float value)
{
    return given ? quern_request_set_real(r, param, (double)value) : QUERN_OK;
}

static int set_whole(struct quern_request *r, int param, bool given, int value)
{
    return given ? quern_request_set_int(r, param, value) : QUERN_OK;
}

static int set_reals(struct quern_request *r, const struct run_options *o)
{
    int s = set_real(r, QUERN_PARAM_TEMPERATURE, o->greedy || o->has_temperature,
        o->greedy ? 0 : o->temperature);

    if (s == QUERN_OK)
        s = set_real(r, QUERN_PARAM_TOP_P, o->has_top_p, o->top_p);
    if (s == QUERN_OK)
        s = set_real(r, QUERN_PARAM_MIN_P, o->has_min_p, o->min_p);
    if (s == QUERN_OK)
        s = set_real(r, QUERN_PARAM_REPETITION_PENALTY, o->has_repetition, o->repetition);
    if (s == QUERN_OK)
        s = set_real(r, QUERN_PARAM_FREQUENCY_PENALTY, o->has_frequency, o->frequency);
    return s == QUERN_OK ? set_real(r, QUERN_PARAM_PRESENCE_PENALTY, o->has_presence, o->presence) : s;
}

/* The prompt is the server's to tell: its ids, or the text of ids, or how likely they are. */
static bool asks_for_prompt(const struct run_options *o)
{
    return o->echo && (o->print_ids || o->ids != NULL || o->has_logprobs);
}

static int set_wholes(struct quern_request *r, const struct run_options *o)
{
    const struct {
        int param;
        bool given;
        int value;
    } wholes[] = {
        {QUERN_PARAM_MAX_TOKENS, o->max_tokens > 0, o->max_tokens},
        {QUERN_PARAM_TOP_K, o->has_top_k, o->top_k},
        {QUERN_PARAM_IGNORE_EOS, o->ignore_eos, 1},
        {QUERN_PARAM_MIN_TOKENS, o->has_min_tokens, o->min_tokens},
        {QUERN_PARAM_CHOICES, o->choices > 0, o->choices},
        {QUERN_PARAM_LOGPROBS, o->has_logprobs, o->logprobs},
        {QUERN_PARAM_PROMPT_LOGPROBS, o->has_logprobs && asks_for_prompt(o), o->logprobs},
        {QUERN_PARAM_ECHO, asks_for_prompt(o), 1},
        {QUERN_PARAM_SPECULATE, o->guesses > 0, o->guesses},
        {QUERN_PARAM_PRIORITY, o->priority != 0, o->priority},
        {QUERN_PARAM_KEEP, run_can_resume(o), KEEP_S},
        {QUERN_PARAM_TELL_PAUSES, true, 1},
    };
    int s = QUERN_OK;

    for (size_t i = 0; i < sizeof(wholes) / sizeof(wholes[0]) && s == QUERN_OK; i++)
        s = set_whole(r, wholes[i].param, wholes[i].given, wholes[i].value);
    return s;
}

bool run_can_resume(const struct run_options *o)
{
    return o->socket != NULL && o->choices <= 1;
}

int ask(struct quern_request *r, const struct run_options *o, const struct prompt *p)
{
    int s = p->text != NULL ? quern_request_set_text(r, p->text, p->bytes)
                            : quern_request_set_ids(r, p->ids, p->n_ids);

    if (s == QUERN_OK)
        s = set_reals(r, o);
    if (s == QUERN_OK)
        s = set_wholes(r, o);
    if (s == QUERN_OK && o->has_seed)
        s = quern_request_set_u64(r, QUERN_PARAM_SEED, o->seed);
    return s == QUERN_OK ? set_lists(r, o) : s;
}
