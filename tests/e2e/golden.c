/* golden.c - the storyteller's four stories, run through the real program. */
#include "tests/e2e/golden.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e/command.h"

enum { END_TOKEN = 8154 };

static void copy_ids(const json_t *ids, char *out, size_t room)
{
    size_t at = 0, n = json_array_size(ids);

    out[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));

        if (i + 1 == n && id == END_TOKEN)
            break;
        at += (size_t)snprintf(out + at, room - at, "%s%d", i > 0 ? "," : "", (int)id);
    }
}

int golden_read(struct golden stories[GOLDEN_MOST])
{
    char path[4096];
    json_t *all = json_load_file(story_file(path, "golden.json"), 0, NULL);
    int n = (int)json_array_size(all);

    for (int i = 0; i < n && i < GOLDEN_MOST; i++) {
        const json_t *one = json_array_get(all, (size_t)i);

        snprintf(stories[i].text, sizeof(stories[i].text), "%s",
            json_string_value(json_object_get(one, "text")));
        snprintf(stories[i].greedy_text, sizeof(stories[i].greedy_text), "%s",
            json_string_value(json_object_get(one, "greedy_text")));
        copy_ids(json_object_get(one, "greedy"), stories[i].greedy, sizeof(stories[i].greedy));
    }
    json_decref(all);
    return n;
}

static int differs(const struct golden *story, const struct golden_way *way)
{
    char isa[64], loop[64];
    const char *env[] = {isa, loop, NULL};
    const char *words[] = {"run", "--greedy", "-n", "64", "--compute", "f32", "--kv-dtype", "f32",
        "--tp", way->tp, "--threads", way->threads, "--print-ids", story->text, NULL};
    struct command c;
    int wrong;

    snprintf(isa, sizeof(isa), "QUERN_CPU_ISA=%s", way->isa);
    snprintf(loop, sizeof(loop), "QUERN_LOOP=%s", way->loop);
    child_run(&c, env, words);
    c.out[strcspn(c.out, "\n")] = '\0';
    wrong = c.status != 0 || strcmp(c.out, story->greedy) != 0;
    if (wrong)
        fprintf(stderr, "# \"%s\" at isa %s, loop %s, tp %s, threads %s: status %d\n#  got  %s\n"
                        "#  want %s\n#  said %s\n", story->text, way->isa, way->loop, way->tp,
            way->threads, c.status, c.out, story->greedy, c.err);
    child_free(&c);
    return wrong;
}

int golden_differences(const struct golden *stories, int n, const struct golden_way *way)
{
    int differences = 0;

    for (int i = 0; i < n; i++)
        differences += differs(&stories[i], way);
    return differences;
}
