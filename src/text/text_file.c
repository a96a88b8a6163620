/* text_file.c - a path, a limit by kind, and a look at the beginning. */
#include "text/text_file.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "quern/log.h"

static const struct {
    const char *wanted; /* what the file should be, for the message */
    size_t limit;
    bool text;          /* any text will do; otherwise it begins with '{' */
} kinds[] = {
    [TEXT_FILE_VOCABULARY] = { "JSON", TEXT_FILE_MOST_BYTES, false },
    [TEXT_FILE_JSON] = { "JSON", TEXT_FILE_SMALL_BYTES, false },
    [TEXT_FILE_MERGES] = { "a list of merges", TEXT_FILE_MOST_BYTES, true },
    [TEXT_FILE_TEMPLATE] = { "a chat template", TEXT_FILE_SMALL_BYTES, true },
};

/* An object passes at once; another JSON value is for its reader to refuse. An
 * empty template is one that renders nothing. */
static enum status recognise(const char *path, enum text_file_kind kind, const struct text_file *f)
{
    size_t at = strspn(f->bytes, " \t\r\n");

    if (!kinds[kind].text && (f->bytes[at] == '{' || f->bytes[at] == '['))
        return STATUS_OK;
    if (kind == TEXT_FILE_TEMPLATE && f->count == 0)
        return STATUS_OK;
    return file_recognise(path, kinds[kind].wanted, kinds[kind].text, f->bytes,
        f->count < FILE_HEAD_BYTES ? f->count : FILE_HEAD_BYTES);
}

enum status text_file_read(const char *dir, const char *name, enum text_file_kind kind,
    bool optional, struct text_file *out)
{
    char path[PATH_MAX];
    struct text_file f;
    enum status s;

    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return log_fail(STATUS_INVALID, "the path of %s is too long", name);
    s = file_read_whole(path, optional, kinds[kind].limit, &f.bytes, &f.count);
    if (s != STATUS_OK)
        return s;
    s = recognise(path, kind, &f);
    if (s != STATUS_OK) {
        text_file_free(&f);
        return s;
    }
    *out = f;
    return STATUS_OK;
}

void text_file_free(struct text_file *f)
{
    free(f->bytes);
    *f = (struct text_file){ 0 };
}
