/* test_tokenizer_reference.c - tokenizers as people have them, against tokenizers and
 * Transformers themselves: tests/golden/make_tokenizer.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quern/log.h"
#include "text/text_buffer.h"
#include "text/tokenizer.h"
#include "text_support.h"

static const char *say(const struct json_value *v)
{
    return v == NULL ? "" : v->text;
}

static void check_ids(const char *name, struct tokenizer *t, const struct json_value *text,
    unsigned flags, const struct json_value *want)
{
    const struct json_value *v = want->first;
    int32_t *ids;
    size_t count, i = 0;

    assert_int_equal(tokenizer_encode(t, text->text, text->bytes, flags, &ids, &count), STATUS_OK);
    while (v != NULL && i < count && atoi(v->text) == ids[i]) {
        v = v->next;
        i++;
    }
    if (v != NULL || i < count)
        fail_msg("%s: \"%s\": id %zu of %zu is %d, wanted %s of %zu", name, text->text, i, count,
            i < count ? ids[i] : -1, v == NULL ? "none" : v->text, want->count);
    free(ids);
}

static void check_text(const char *name, struct tokenizer *t, const struct json_value *list,
    bool skip_special, const struct json_value *want)
{
    int32_t ids[512];
    size_t count = 0, bytes;
    char *text;

    assert_true(list->count <= 512);
    for (const struct json_value *v = list->first; v != NULL; v = v->next)
        ids[count++] = atoi(v->text);
    assert_int_equal(tokenizer_decode(t, ids, count, skip_special, &text, &bytes), STATUS_OK);
    if (bytes != want->bytes || memcmp(text, want->text, bytes) != 0)
        fail_msg("%s: decoded \"%s\", wanted \"%s\"", name, text, want->text);
    free(text);
}

static struct tokenizer *open_files(const char *name)
{
    struct tokenizer *t = NULL;

    if (tokenizer_open(support_temp_dir(), &t) != STATUS_OK)
        fail_msg("%s: %s", name, log_last_error());
    return t;
}

/* Each text with its ids, its ids with special tokens as plain text, and its two decodings. */
static void check_added(struct tokenizer *t, const char *name, const struct json_value *texts)
{
    for (const struct json_value *v = texts->first; v != NULL; v = v->next) {
        const struct json_value *text = v->first, *ids = text->next, *plain = ids->next;

        check_ids(name, t, text, TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, ids);
        check_ids(name, t, text, 0, plain);
        check_text(name, t, ids, false, plain->next);
        check_text(name, t, ids, true, plain->next->next);
    }
}

static void added_tokens_with_any_flags_are_as_in_tokenizers(void **state)
{
    struct json_document d = support_golden_file("tokenizer/added.json");
    const struct json_value *cases = json_get(d.root, "cases");
    const struct json_value *head = json_get(d.root, "head"), *tail = json_get(d.root, "tail");

    (void)state;
    assert_int_equal(cases->count, 120);
    for (const struct json_value *v = cases->first; v != NULL; v = v->next) {
        struct text_buffer file = { 0 };
        struct tokenizer *t;

        text_buffer_append(&file, head->text, head->bytes);
        text_buffer_append(&file, say(json_get(v, "added")), json_get(v, "added")->bytes);
        text_buffer_append(&file, tail->text, tail->bytes);
        support_write("tokenizer.json", file.bytes, file.count);
        text_buffer_free(&file);
        t = open_files(say(json_get(v, "added")));
        check_added(t, say(json_get(v, "added")), json_get(v, "texts"));
        tokenizer_close(t);
    }
    json_document_free(&d);
    support_remove();
}

/* Each text with its ids, and those without what is put around it. */
static void check_texts(struct tokenizer *t, const char *name, const struct json_value *texts)
{
    for (const struct json_value *v = texts->first; v != NULL; v = v->next) {
        const struct json_value *text = v->first, *ids = text->next, *bare = ids->next;

        check_ids(name, t, text, TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, ids);
        check_ids(name, t, text, TOKENIZER_PARSE_SPECIAL, bare);
        if (bare->next != NULL)
            check_text(name, t, bare, true, bare->next);
    }
}

static void forms_of_tokenizer_json_are_as_in_tokenizers(void **state)
{
    struct json_document d = support_golden_file("tokenizer/variants.json");

    (void)state;
    assert_true(d.root->count >= 20);
    for (const struct json_value *v = d.root->first; v != NULL; v = v->next) {
        const struct json_value *file = json_get(v, "file");
        struct tokenizer *t;

        support_write("tokenizer.json", file->text, file->bytes);
        t = open_files(say(json_get(v, "name")));
        check_texts(t, say(json_get(v, "name")), json_get(v, "texts"));
        tokenizer_close(t);
    }
    json_document_free(&d);
    support_remove();
}

static void folders_of_tokenizer_files_are_as_in_transformers(void **state)
{
    struct json_document d = support_golden_file("tokenizer/folders.json");

    (void)state;
    assert_true(d.root->count >= 18);
    for (const struct json_value *v = d.root->first; v != NULL; v = v->next) {
        struct tokenizer *t;

        for (const struct json_value *f = json_get(v, "files")->first; f != NULL; f = f->next)
            support_write(f->key, f->text, f->bytes);
        t = open_files(say(json_get(v, "name")));
        check_texts(t, say(json_get(v, "name")), json_get(v, "texts"));
        tokenizer_close(t);
        support_remove();
    }
    json_document_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(added_tokens_with_any_flags_are_as_in_tokenizers),
        cmocka_unit_test(forms_of_tokenizer_json_are_as_in_tokenizers),
        cmocka_unit_test(folders_of_tokenizer_files_are_as_in_transformers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
