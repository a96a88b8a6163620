/* text_tools.c - three filters around one loop over lines.
 *
 * A filter turns one parsed line into one line of output; the loop reads,
 * parses, writes, flushes and gives errors the line they are about. */
#include "tools/text_tools.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "text/json_write.h"
#include "text/template.h"
#include "text/tokenizer.h"

struct filter {
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    bool skip_special;
    int vocab_size; /* the model's; 0: not known */
    char line_name[32]; /* "line 3": begins every error about it */
    enum status (*run)(struct filter *f, const struct json_value *in, struct text_buffer *out);
};

static enum status tokenize_line(struct filter *f, const struct json_value *in,
    struct text_buffer *out)
{
    int32_t *ids;
    size_t count;
    enum status s;

    if (in->type != JSON_IS_STRING)
        return log_fail(STATUS_INVALID, "%s: expected a string in quotes, found %s", f->line_name,
            json_type_name(in));
    s = tokenizer_encode(f->tokenizer, in->text, in->bytes,
        TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, &ids, &count);
    if (s != STATUS_OK)
        return s;
    text_buffer_put(out, "[");
    for (size_t i = 0; i < count; i++) {
        char id[16];

        snprintf(id, sizeof(id), i == 0 ? "%d" : ", %d", ids[i]);
        text_buffer_put(out, id);
    }
    text_buffer_put(out, "]");
    free(ids);
    return STATUS_OK;
}

/* The ids of a line. Those behind the tokenizer's that the model has are its padding rows: they
 * have no text, and are left out here as where an answer is printed. */
static enum status read_ids(const struct filter *f, const struct json_value *in, int32_t *ids,
    size_t *count)
{
    int64_t tokens = (int64_t)tokenizer_vocab_size(f->tokenizer);
    int64_t last = (tokens < f->vocab_size ? f->vocab_size : tokens) - 1;
    size_t i = 0;

    *count = 0;
    for (const struct json_value *v = in->first; v != NULL; v = v->next, i++) {
        int64_t id;

        if (v->type != JSON_IS_NUMBER || !json_text_to_id(v->text, v->bytes, last, &id))
            return log_fail(STATUS_INVALID, "%s: element %zu is not a token id (0 to %lld)",
                f->line_name, i, (long long)last);
        if (id < tokens)
            ids[(*count)++] = (int32_t)id;
    }
    return STATUS_OK;
}

static enum status detokenize_line(struct filter *f, const struct json_value *in,
    struct text_buffer *out)
{
    int32_t *ids;
    char *text = NULL;
    size_t count, bytes = 0;
    enum status s;

    if (in->type != JSON_IS_ARRAY)
        return log_fail(STATUS_INVALID, "%s: expected an array of token ids, found %s",
            f->line_name, json_type_name(in));
    ids = malloc((in->count + 1) * sizeof(*ids));
    if (ids == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for %zu token ids", in->count);
    s = read_ids(f, in, ids, &count);
    if (s == STATUS_OK)
        s = tokenizer_decode(f->tokenizer, ids, count, f->skip_special, &text, &bytes);
    free(ids);
    if (s != STATUS_OK)
        return s;
    json_write_string(out, text, bytes);
    free(text);
    return STATUS_OK;
}

static enum status template_line(struct filter *f, const struct json_value *in,
    struct text_buffer *out)
{
    char *text;
    size_t bytes;
    enum status s = template_render_from(f->chat_template, f->line_name, in, &text, &bytes);

    if (s != STATUS_OK)
        return s;
    json_write_string(out, text, bytes);
    free(text);
    return STATUS_OK;
}

static enum status write_line(struct text_buffer *line, FILE *out)
{
    text_buffer_put(line, "\n");
    if (line->failed)
        return log_fail(STATUS_NOMEM, "out of memory for the answer");
    if (fwrite(line->bytes, 1, line->count, out) != line->count || fflush(out) != 0)
        return log_fail(STATUS_IO, "cannot write: %s", strerror(errno));
    return STATUS_OK;
}

static enum status run_line(struct filter *f, const char *text, size_t bytes,
    struct text_buffer *line, FILE *out)
{
    struct json_document d;
    enum status s = json_document_parse(f->line_name, text, bytes, &d);

    if (s != STATUS_OK)
        return s;
    line->count = 0;
    s = f->run(f, d.root, line);
    json_document_free(&d);
    return s == STATUS_OK ? write_line(line, out) : s;
}

static enum status run_lines(struct filter *f, FILE *in, FILE *out)
{
    struct text_buffer line = { 0 };
    char *text = NULL;
    size_t room = 0;
    ssize_t bytes;
    enum status s = STATUS_OK;

    for (size_t number = 1; s == STATUS_OK && (bytes = getline(&text, &room, in)) >= 0; number++) {
        snprintf(f->line_name, sizeof(f->line_name), "line %zu", number);
        s = run_line(f, text, (size_t)bytes, &line, out);
    }
    if (s == STATUS_OK && ferror(in))
        s = log_fail(STATUS_IO, "cannot read the input: %s", strerror(errno));
    free(text);
    text_buffer_free(&line);
    return s;
}

static enum status run_with_tokenizer(const char *dir, struct filter *f, FILE *in, FILE *out)
{
    enum status s = tokenizer_open(dir, &f->tokenizer);

    if (s != STATUS_OK)
        return s;
    s = run_lines(f, in, out);
    tokenizer_close(f->tokenizer);
    return s;
}

enum status tool_tokenize(const char *dir, FILE *in, FILE *out)
{
    struct filter f = { .run = tokenize_line };

    return run_with_tokenizer(dir, &f, in, out);
}

enum status tool_detokenize(const char *dir, bool skip_special, int vocab_size, FILE *in, FILE *out)
{
    struct filter f = { .run = detokenize_line, .skip_special = skip_special,
        .vocab_size = vocab_size };

    return run_with_tokenizer(dir, &f, in, out);
}

enum status tool_template(const char *dir, FILE *in, FILE *out)
{
    struct filter f = { .run = template_line };
    enum status s = template_select(dir, &f.chat_template);

    if (s != STATUS_OK)
        return s;
    s = run_lines(&f, in, out);
    template_close(f.chat_template);
    return s;
}
