/* test_edited.c - what the storyteller says when a request changes its logits, and how likely each
 * token was, as Transformers computes it (tests/golden/make_edited.py); over 1, 2 and 3 ranks, and
 * with guesses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e/command.h"

enum { WORDS = 48, TEXT = 64 };

static json_t *runs;

static int read_runs(void **state)
{
    json_error_t error;
    char path[4096];

    (void)state;
    runs = json_load_file(test_file(path, "golden/edited.json"), JSON_REJECT_DUPLICATES, &error);
    return json_array_size(runs) > 0 ? 0 : -1;
}

static int free_runs(void **state)
{
    (void)state;
    json_decref(runs);
    return 0;
}

/* A command line being written. */
struct line {
    const char *words[WORDS];
    char texts[WORDS][TEXT];
    int n;
};

static char *room(struct line *l)
{
    assert_true(l->n < WORDS - 1);
    l->words[l->n] = l->texts[l->n];
    return l->texts[l->n++];
}

static void add(struct line *l, const char *word)
{
    assert_true(l->n < WORDS - 1);
    l->words[l->n++] = word;
}

static void add_number(struct line *l, const json_t *run, const char *key, const char *option)
{
    const json_t *value = json_object_get(run, key);

    if (value == NULL)
        return;
    add(l, option);
    snprintf(room(l), TEXT, "%g", json_number_value(value));
}

static void add_ids(char *text, const json_t *ids)
{
    size_t i, at = 0;
    json_t *id;

    json_array_foreach(ids, i, id)
        at += (size_t)snprintf(text + at, TEXT - at, "%s%d", i > 0 ? "," : "",
            (int)json_integer_value(id));
}

static void add_lists(struct line *l, const json_t *run)
{
    const json_t *bias = json_object_get(run, "logit_bias");
    json_t *entry;
    size_t i, at = 0;
    char *text;

    if (bias != NULL) {
        add(l, "--logit-bias");
        text = room(l);
        json_array_foreach(bias, i, entry)
            at += (size_t)snprintf(text + at, TEXT - at, "%s%d:%g", i > 0 ? "," : "",
                (int)json_integer_value(json_array_get(entry, 0)),
                json_number_value(json_array_get(entry, 1)));
    }
    json_array_foreach(json_object_get(run, "bad_ids"), i, entry) {
        add(l, "--bad-ids");
        add_ids(room(l), entry);
    }
    if (json_object_get(run, "stop_ids") != NULL) {
        add(l, "--stop-ids");
        add_ids(room(l), json_object_get(run, "stop_ids"));
    }
    if (json_object_get(run, "stop") != NULL) {
        add(l, "--stop");
        add(l, json_string_value(json_object_get(run, "stop")));
    }
}

static void ask(struct command *c, const json_t *run, const char *tp, const char *const *more)
{
    static const char *const always[] = {"run", "--compute", "f32", "--kv-dtype", "f32",
        "--threads", "1", "--greedy", "--logprobs", "3", "-n", "24", "--tp"};
    struct line l = {.n = 0};

    for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
        add(&l, always[i]);
    add(&l, tp);
    add_number(&l, run, "repetition_penalty", "--repetition-penalty");
    add_number(&l, run, "frequency_penalty", "--frequency-penalty");
    add_number(&l, run, "presence_penalty", "--presence-penalty");
    add_number(&l, run, "min_tokens", "--min-tokens");
    add_lists(&l, run);
    for (; *more != NULL; more++)
        add(&l, *more);
    add(&l, json_string_value(json_object_get(run, "prompt")));
    child_run(c, NULL, l.words);
    if (c->status != 0)
        fail_msg("status %d: %s", c->status, c->err);
}

static void near(const json_t *got, double want)
{
    assert_true(json_is_number(got));
    if (fabs(json_number_value(got) - want) > 2e-4)
        fail_msg("a logprob of %g, not %g", json_number_value(got), want);
}

/* A line of JSON for each token; *lines moves behind it. */
static json_t *next_line(const char **lines)
{
    const char *end = strchr(*lines, '\n');
    json_error_t error;
    json_t *line;

    assert_non_null(end);
    line = json_loadb(*lines, (size_t)(end - *lines), 0, &error);
    if (line == NULL)
        fail_msg("%s: %.*s", error.text, (int)(end - *lines), *lines);
    *lines = end + 1;
    return line;
}

static void check_top(const json_t *got, const json_t *want)
{
    size_t i;
    json_t *entry;

    assert_int_equal(json_array_size(got), json_array_size(want));
    json_array_foreach(got, i, entry) {
        const json_t *other = json_array_get(want, i);

        near(json_array_get(entry, 1), json_number_value(json_array_get(other, 1)));
        assert_int_equal(json_integer_value(json_array_get(entry, 0)),
            json_integer_value(json_array_get(other, 0)));
    }
}

static void check_lines(const json_t *run, const char *lines)
{
    const json_t *ids = json_object_get(run, "ids"), *id;
    size_t i;

    json_array_foreach(ids, i, id) {
        const json_t *want = json_array_get(json_object_get(run, "logprobs"), i);
        json_t *line = next_line(&lines);

        assert_int_equal(json_integer_value(json_object_get(line, "id")), json_integer_value(id));
        near(json_object_get(line, "logprob"), json_number_value(json_object_get(want, "logprob")));
        check_top(json_object_get(line, "top"), json_object_get(want, "top"));
        json_decref(line);
    }
    assert_string_equal(lines, "");
}

static void says(const json_t *run, const char *tp, const char *const *more)
{
    const char *text = json_string_value(json_object_get(run, "text"));
    struct command c;

    ask(&c, run, tp, more);
    if (strncmp(c.out, text, strlen(text)) != 0 || c.out[strlen(text)] != '\n')
        fail_msg("tp %s: got %s, want %s", tp, c.out, text);
    check_lines(run, c.out + strlen(text) + 1);
    child_free(&c);
}

static void changed_logits_give_transformers_answers_and_logprobs(void **state)
{
    static const char *const nothing[] = {NULL};
    json_t *run;
    size_t i;

    (void)state;
    json_array_foreach(runs, i, run)
        says(run, "1", nothing);
}

static void so_they_do_over_ranks_and_with_guesses(void **state)
{
    static const char *const guesses[] = {"--speculate", "ngram:3", NULL};
    json_t *run;
    size_t i;

    (void)state;
    json_array_foreach(runs, i, run) {
        says(run, "2", guesses);
        says(run, "3", guesses);
    }
}

/* The prompt's tokens come first, then the answer's. */
static void the_prompt_is_scored_as_transformers_scores_it(void **state)
{
    static const char *const echo[] = {"--echo", NULL};
    json_t *run;
    size_t i, k;

    (void)state;
    json_array_foreach(runs, i, run) {
        const json_t *want = json_object_get(run, "prompt_logprobs"), *logprob;
        const char *lines;
        struct command c;
        json_t *line;

        ask(&c, run, i % 2 == 0 ? "1" : "2", echo);
        lines = strchr(strchr(c.out, '{') != NULL ? strchr(c.out, '{') : c.out, '{');
        line = next_line(&lines);
        assert_true(json_is_null(json_object_get(line, "logprob")));
        assert_int_equal(json_array_size(json_object_get(line, "top")), 0);
        json_decref(line);
        json_array_foreach(want, k, logprob) {
            line = next_line(&lines);
            near(json_object_get(line, "logprob"), json_number_value(logprob));
            assert_int_equal(json_array_size(json_object_get(line, "top")), 3);
            json_decref(line);
        }
        check_lines(run, lines);
        child_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changed_logits_give_transformers_answers_and_logprobs),
        cmocka_unit_test(so_they_do_over_ranks_and_with_guesses),
        cmocka_unit_test(the_prompt_is_scored_as_transformers_scores_it),
    };

    return cmocka_run_group_tests(tests, read_runs, free_runs);
}
