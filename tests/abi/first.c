/* first.c - a program of the first version, to be run with every later library.
 *
 * tests/abi/first.x86-64 is this, compiled against the first quern.h and linked
 * with the first libquern, and is not made again:
 *
 *     cc -Os -s -Wl,-z,noseparate-code -Iinclude -o tests/abi/first.x86-64 \
 *         tests/abi/first.c -Lbuild/.libs -lquern
 *
 * It calls everything that the first version had. Each line it prints is a
 * fact; the last says that it came to its end. */
#include <poll.h>
#include <quern.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int facts;

static void fact(int holds, const char *what)
{
    facts++;
    printf("%s - %s\n", holds ? "holds" : "does not hold", what);
    fflush(stdout);
}

static void on_line(void *context, int level, const char *line)
{
    (void)level;
    snprintf(context, 200, "%s", line);
}

/* The next event of that kind, others passed over. */
static const struct quern_event *await(struct quern *q, int kind)
{
    const struct quern_event *e = NULL;

    while (quern_next(q, 60000, &e) == QUERN_OK)
        if (quern_event_kind(e) == kind)
            return e;
    return NULL;
}

static struct quern *start(void)
{
    struct quern_options *o = quern_options_new();
    struct quern *q = NULL;

    fact(quern_options_set(o, "compute", "f32") == QUERN_OK &&
             quern_options_set(o, "kv-dtype", "f32") == QUERN_OK, "options are known by name");
    fact(quern_options_set(o, "no-such-option", "1") == QUERN_UNKNOWN, "others are not");
    fact(quern_spawn(o, &q) == QUERN_OK, "a runtime starts");
    quern_options_free(o);
    return q;
}

static void read_facts(struct quern *q)
{
    const struct quern_event *e = await(q, QUERN_EVENT_READY);

    fact(e != NULL && quern_event_request(e) == 0 && quern_event_progress(e) == 0, "it is ready");
    fact(quern_vocab_size(q) == 8192 && quern_context_size(q) == 2048 &&
             strcmp(quern_model_name(q), "storyteller") == 0, "the model is known");
    fact(quern_generation(q) == quern_event_generation(e) &&
             quern_server_version(q)[0] != '\0' && quern_version()[0] != '\0',
        "generation and versions are known");
    fact(quern_event_generation(e) == 1, "it is the first generation");
}

static struct quern_request *request(void)
{
    struct quern_request *r = quern_request_new();
    const float top_p = 1;

    fact(quern_request_set_chat(r, "{}", QUERN_STRLEN) == QUERN_OK &&
             quern_request_set_text(r, "Once upon a time", QUERN_STRLEN) == QUERN_OK,
        "a prompt is set");
    fact(quern_request_set_int(r, QUERN_PARAM_MAX_TOKENS, 12) == QUERN_OK &&
             quern_request_set_real(r, QUERN_PARAM_TEMPERATURE, 0) == QUERN_OK &&
             quern_request_set_u64(r, QUERN_PARAM_SEED, 42) == QUERN_OK &&
             quern_request_set_bytes(r, QUERN_PARAM_TOP_P, &top_p, sizeof(top_p)) == QUERN_OK &&
             quern_request_set_int(r, QUERN_PARAM_TOP_K, 0) == QUERN_OK &&
             quern_request_set_int(r, QUERN_PARAM_MIN_P, 0) == QUERN_OK &&
             quern_request_set_int(r, QUERN_PARAM_IGNORE_EOS, 1) == QUERN_OK &&
             quern_request_set_int(r, QUERN_PARAM_KEEP, 30) == QUERN_OK &&
             quern_request_set_int(r, QUERN_PARAM_TELL_PAUSES, 1) == QUERN_OK,
        "parameters are set");
    fact(quern_request_set_task(r, QUERN_TASK_COMPLETE) == QUERN_OK, "a task is set");
    return r;
}

static void complete(struct quern *q, struct quern_request *r)
{
    char text[400] = "";
    const struct quern_event *e;
    int32_t last = 0;
    uint64_t id = 0, ids = 0;
    size_t n;

    fact(quern_submit(q, r, &id) == QUERN_OK && id > 0 && quern_request_key(r) != 0,
        "a request is submitted");
    e = await(q, QUERN_EVENT_ACCEPTED);
    fact(quern_event_key(e) == quern_request_key(r) && quern_event_seed(e) == 42 &&
             quern_event_prompt_tokens(e) == 4 && quern_event_request(e) == id, "it is accepted");
    while (quern_next(q, 60000, &e) == QUERN_OK && !quern_event_is_last(e)) {
        fact(quern_event_kind(e) == QUERN_EVENT_TEXT && quern_event_choice(e) == 0 &&
                 quern_event_after(e) == ids, "text follows text");
        quern_event_logprobs(e, &n);
        strncat(text, quern_event_text(e, &n), sizeof(text) - strlen(text) - 1);
        last = quern_event_ids(e, &n)[n - 1];
        ids += n;
    }
    fact(quern_event_kind(e) == QUERN_EVENT_DONE &&
             quern_event_finish(e) == QUERN_FINISH_LENGTH && quern_event_more(e) == 0 &&
             quern_event_output_tokens(e) == 12 && quern_event_restarts(e) == 0 && ids == 12 &&
             last > 0 && quern_event_first_token_s(e) > 0 &&
             quern_event_total_s(e) >= quern_event_first_token_s(e), "it is done");
    fact(strcmp(text, ", there was a little girl named Lily who loved to play") == 0,
        "the story is the one it always was");
}

/* Its end is told once more: it is kept. */
static void resume(struct quern *q, struct quern_request *r)
{
    const struct quern_event *e;
    uint64_t id;

    fact(quern_resume(q, quern_request_key(r), 4, &id) == QUERN_OK, "an answer is asked for again");
    e = await(q, QUERN_EVENT_TEXT);
    fact(quern_event_request(e) == id && quern_event_after(e) == 4, "it comes again");
    await(q, QUERN_EVENT_DONE);
    quern_resume(q, 1, 0, &id);
    e = await(q, QUERN_EVENT_ERROR);
    fact(quern_event_code(e) == QUERN_CODE_NOT_FOUND && quern_event_retry(e) == 0 &&
             quern_event_server_fault(e) == 0 && quern_event_message(e)[0] != '\0',
        "one that never was is not found");
}

static void tokenize(struct quern *q, struct quern_request *r)
{
    const int32_t *ids;
    size_t n = 0;

    fact(quern_tokenize(q, r, 60000, &ids, &n) == QUERN_OK && n == 4 && ids[0] == 410 &&
             ids[3] == 367, "a prompt is tokenized");
    fact(quern_count_tokens(q, r, 60000, &n) == QUERN_OK && n == 4, "and counted");
    fact(quern_request_set_ids(r, ids, n) == QUERN_OK, "ids are set");
}

static void cancel_and_wake(struct quern *q, struct quern_request *r)
{
    struct pollfd p = {.fd = quern_fd(q), .events = POLLIN};
    const struct quern_event *e = NULL;
    uint64_t id = 0;

    quern_request_set_int(r, QUERN_PARAM_MAX_TOKENS, 2000);
    quern_submit(q, r, &id);
    await(q, QUERN_EVENT_TEXT);
    fact(quern_cancel(q, id) == QUERN_OK, "a request is cancelled");
    e = await(q, QUERN_EVENT_DONE);
    fact(quern_event_finish(e) == QUERN_FINISH_CANCELLED, "and ends so");
    fact(quern_wake(q) == QUERN_OK && poll(&p, 1, 0) == 1 && quern_next(q, -1, &e) == QUERN_AGAIN,
        "a wake is answered");
}

int main(void)
{
    char line[200] = "";
    struct quern *q, *nowhere;
    struct quern_request *r;

    fact(quern_log_set(QUERN_LOG_WARN, on_line, line) == QUERN_OK, "lines are asked for");
    fact(quern_connect("/nowhere/socket", &nowhere) == QUERN_IO &&
             quern_error_code(nowhere) == QUERN_CODE_NONE && quern_error(nowhere)[0] != '\0' &&
             strcmp(line, quern_error(nowhere)) == 0, "and one came");
    quern_close(nowhere);
    q = start();
    read_facts(q);
    r = request();
    complete(q, r);
    resume(q, r);
    tokenize(q, r);
    cancel_and_wake(q, r);
    quern_request_free(r);
    quern_close(q);
    printf("the end\n");
    return facts > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
