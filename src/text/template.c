/* template.c - where a checkpoint keeps its chat template.
 *
 * The same places in the same order as Transformers, which replaces one by the
 * next and never mixes them. The names of the special tokens come along, since
 * templates write them. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "text/template_internal.h"
#include "text/template_qwen3.h"
#include "text/text_file.h"

enum { MOST_TEMPLATES = 64 };

#define CONFIG "tokenizer_config.json"
#define FOLDER "additional_chat_templates"

static enum status add(struct chat_template *t, const char *name, const char *origin,
    const char *text, size_t bytes)
{
    struct named_template added = { 0 };
    enum status s;

    if (t->count == MOST_TEMPLATES)
        return log_fail(STATUS_INVALID, "%s: there are more than %d chat templates", origin,
            MOST_TEMPLATES);
    if (t->list == NULL)
        t->list = text_arena_take(&t->arena, MOST_TEMPLATES * sizeof(*t->list));
    added.name = text_arena_copy(&t->arena, name, strlen(name));
    if (t->list == NULL || added.name == NULL)
        return log_fail(STATUS_NOMEM, "%s: out of memory", origin);
    s = jinja_compile(origin, text, bytes, &added.program);
    if (s == STATUS_OK)
        t->list[t->count++] = added;
    return s;
}

static enum status add_file(struct chat_template *t, const char *dir, const char *file,
    const char *name)
{
    struct text_file f;
    enum status s = text_file_read(dir, file, TEXT_FILE_TEMPLATE, true, &f);

    if (s != STATUS_OK)
        return s == STATUS_CLOSED ? STATUS_OK : s;
    s = add(t, name, file, f.bytes, f.count);
    text_file_free(&f);
    return s;
}

/* The templates of the folder, by their names without ".jinja". */
static enum status add_folder(struct chat_template *t, const char *dir)
{
    char path[PATH_MAX];
    const struct dirent *entry;
    enum status s = STATUS_OK;
    DIR *folder;

    snprintf(path, sizeof(path), "%s/%s", dir, FOLDER);
    folder = opendir(path);
    while (folder != NULL && s == STATUS_OK && (entry = readdir(folder)) != NULL) {
        size_t n = strlen(entry->d_name);
        char file[sizeof(FOLDER) + sizeof(entry->d_name)], name[sizeof(entry->d_name)];

        if (n <= 6 || strcmp(entry->d_name + n - 6, ".jinja") != 0)
            continue;
        snprintf(file, sizeof(file), FOLDER "/%s", entry->d_name);
        snprintf(name, sizeof(name), "%.*s", (int)(n - 6), entry->d_name);
        s = add_file(t, dir, file, name);
    }
    if (folder != NULL)
        closedir(folder);
    return s;
}

/* One of several: {"name": ..., "template": ...}. */
static enum status add_listed(struct chat_template *t, const char *origin,
    const struct json_value *v)
{
    const struct json_value *name = json_get(v, "name"), *text = json_get(v, "template");

    if (name == NULL || name->type != JSON_IS_STRING || text == NULL
        || text->type != JSON_IS_STRING)
        return log_fail(STATUS_INVALID,
            "%s: chat_template: each template needs a name and a template, both strings", origin);
    return add(t, name->text, origin, text->text, text->bytes);
}

/* chat_template's value: a string, a list of {name, template}, or an object of strings. */
static enum status add_value(struct chat_template *t, const char *origin,
    const struct json_value *v)
{
    enum status s = STATUS_OK;

    if (v->type == JSON_IS_STRING)
        return add(t, "default", origin, v->text, v->bytes);
    if (v->type != JSON_IS_ARRAY && v->type != JSON_IS_OBJECT)
        return log_fail(STATUS_INVALID,
            "%s: chat_template must be a string or templates by name, found %s", origin,
            json_type_name(v));
    for (const struct json_value *each = v->first; each != NULL && s == STATUS_OK;
         each = each->next) {
        if (v->type == JSON_IS_ARRAY)
            s = add_listed(t, origin, each);
        else if (each->type == JSON_IS_STRING)
            s = add(t, each->key, origin, each->text, each->bytes);
        else
            s = log_fail(STATUS_INVALID, "%s: chat_template: \"%s\" must be a string", origin,
                each->key);
    }
    return s;
}

/* The file's tree; root NULL if there is no such file. */
static enum status read_json(const char *dir, const char *name, struct json_document *d)
{
    struct text_file f;
    enum status s = text_file_read(dir, name, TEXT_FILE_JSON, true, &f);

    *d = (struct json_document){ 0 };
    if (s != STATUS_OK)
        return s == STATUS_CLOSED ? STATUS_OK : s;
    s = json_document_parse(name, f.bytes, f.count, d);
    text_file_free(&f);
    return s;
}

static enum status add_config(struct chat_template *t, const char *origin,
    const struct json_document *d)
{
    const struct json_value *v = json_get(d->root, "chat_template");

    return json_is_nothing(v) ? STATUS_OK : add_value(t, origin, v);
}

/* A token is a string, or an object that has it as `content`. */
static enum status add_token(struct chat_template *t, const char *name,
    const struct json_value *v)
{
    struct json_value *token;

    if (v != NULL && v->type == JSON_IS_OBJECT)
        v = json_get(v, "content");
    if (v == NULL || v->type != JSON_IS_STRING)
        return STATUS_OK;
    token = chat_value(&t->arena, v, name);
    if (token == NULL)
        return STATUS_NOMEM;
    token->text = text_arena_copy(&t->arena, v->text, v->bytes);
    if (token->text == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for a special token");
    chat_put(&t->tokens, token);
    return STATUS_OK;
}

/* As special_tokens_map.json says, or else the configuration. */
static enum status add_tokens(struct chat_template *t, const struct json_document *config,
    const struct json_document *map)
{
    static const char *const names[] = { "bos_token", "eos_token", "unk_token", "sep_token",
        "pad_token", "cls_token", "mask_token" };
    enum status s = STATUS_OK;

    t->tokens = (struct json_value){ .type = JSON_IS_OBJECT };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && s == STATUS_OK; i++) {
        s = add_token(t, names[i], json_get(config->root, names[i]));
        if (s == STATUS_OK)
            s = add_token(t, names[i], json_get(map->root, names[i]));
    }
    return s;
}

static enum status read_all(struct chat_template *t, const char *dir)
{
    struct json_document config = { 0 }, map = { 0 }, old = { 0 };
    enum status s = add_file(t, dir, "chat_template.jinja", "default");

    if (s == STATUS_OK)
        s = add_folder(t, dir);
    if (s == STATUS_OK)
        s = read_json(dir, CONFIG, &config);
    if (s == STATUS_OK && t->count == 0)
        s = add_config(t, CONFIG, &config);
    if (s == STATUS_OK && t->count == 0)
        s = read_json(dir, "chat_template.json", &old);
    if (s == STATUS_OK && t->count == 0)
        s = add_config(t, "chat_template.json", &old);
    if (s == STATUS_OK && t->count == 0)
        s = add(t, "default", "Qwen3's chat template", template_qwen3,
            sizeof(template_qwen3) - 1);
    if (s == STATUS_OK)
        s = read_json(dir, "special_tokens_map.json", &map);
    if (s == STATUS_OK)
        s = add_tokens(t, &config, &map);
    json_document_free(&config);
    json_document_free(&map);
    json_document_free(&old);
    return s;
}

enum status template_select(const char *dir, struct chat_template **out)
{
    struct chat_template *t = calloc(1, sizeof(*t));
    enum status s;

    if (t == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for a chat template");
    s = read_all(t, dir);
    if (s == STATUS_OK)
        *out = t;
    else
        template_close(t);
    return s;
}

void template_close(struct chat_template *t)
{
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->count; i++)
        jinja_free(t->list[i].program);
    text_arena_free(&t->arena);
    free(t);
}
