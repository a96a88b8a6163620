/* config_json.c - one place that turns JSON values into C values.
 *
 * Every reader here leaves its output alone when the field is absent or null, so that a caller
 * writes its defaults first and then reads: Hugging Face treats the two alike. */
#include "checkpoint/config_json.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "checkpoint/json_numbers.h"
#include "quern/log.h"

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

enum status path_join(char *out, size_t out_bytes, const char *dir, const char *name)
{
    int n = snprintf(out, out_bytes, "%s/%s", dir, name);

    if (n < 0 || (size_t)n >= out_bytes)
        return log_fail(STATUS_INVALID, "path %.64s... is too long: use a shorter one", dir);
    return STATUS_OK;
}

/* Not how an object begins: what is it then? */
static enum status check_beginning(const char *path, const char *text, size_t bytes)
{
    size_t at = 0;

    while (at < bytes && isspace((unsigned char)text[at]))
        at++;
    if (at < bytes && text[at] == '{')
        return STATUS_OK;
    return file_recognise(path, "JSON", true, text,
                          bytes < FILE_HEAD_BYTES ? bytes : FILE_HEAD_BYTES);
}

/* As Python reads it: of a key that is there twice the last one counts. */
static enum status parse_text(const char *path, const char *text, size_t bytes, json_t **root)
{
    json_error_t error;
    size_t marked_bytes;
    char *marked;

    if (json_numbers_mark(text, bytes, &marked, &marked_bytes) != STATUS_OK)
        return log_fail(STATUS_NOMEM, "%s: no memory to read it", path);
    *root = json_loadb(marked, marked_bytes, 0, &error);
    free(marked);
    if (*root == NULL)
        return log_fail(STATUS_INVALID, "%s: line %d: not valid JSON: %s", path_base(path),
                        error.line, error.text);
    if (json_is_object(*root))
        return STATUS_OK;
    json_decref(*root);
    return log_fail(STATUS_INVALID, "%s: the top level is not a JSON object", path_base(path));
}

static enum status read_object(const char *path, bool optional, size_t max_bytes, json_t **object)
{
    char *text = NULL;
    size_t bytes = 0;
    json_t *root;
    enum status s = file_read_whole(path, optional, max_bytes, &text, &bytes);

    if (s != STATUS_OK)
        return s;
    s = check_beginning(path, text, bytes);
    if (s == STATUS_OK)
        s = parse_text(path, text, bytes, &root);
    free(text);
    if (s == STATUS_OK)
        *object = root;
    return s;
}

enum status json_read_file(const char *path, size_t max_bytes, json_t **object)
{
    return read_object(path, false, max_bytes, object);
}

enum status json_read_optional(const char *path, size_t max_bytes, json_t **object)
{
    json_t *root = NULL;
    enum status s = read_object(path, true, max_bytes, &root);

    if (s == STATUS_CLOSED)
        s = STATUS_OK;
    if (s == STATUS_OK)
        *object = root;
    return s;
}

enum status json_write(const json_t *value, FILE *out)
{
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(15));

    if (text == NULL)
        return STATUS_NOMEM;
    json_numbers_restore(text);
    fputs(text, out);
    fputc('\n', out);
    free(text);
    return ferror(out) ? STATUS_IO : STATUS_OK;
}

/* What the file says, for a message: at most 40 characters of JSON. */
static const char *shown(const json_t *value, char out[48])
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII);

    if (text != NULL)
        json_numbers_restore(text);
    snprintf(out, 48, "%.40s", text != NULL ? text : "?");
    free(text);
    return out;
}

enum status json_field_int(const char *file, const json_t *object, const char *key, int low,
                           int high, int *out)
{
    const json_t *value = json_object_get(object, key);
    char text[48];

    if (value == NULL || json_is_null(value))
        return STATUS_OK;
    if (!json_is_integer(value) || json_integer_value(value) < low ||
        json_integer_value(value) > high)
        return log_fail(STATUS_INVALID, "%s: %s is %s, it must be a whole number from %d to %d",
                        file, key, shown(value, text), low, high);
    *out = (int)json_integer_value(value);
    return STATUS_OK;
}

enum status json_field_real(const char *file, const json_t *object, const char *key, double low,
                            double high, double *out)
{
    const json_t *value = json_object_get(object, key);
    double x = json_number_value(value);
    char text[48];

    if (value == NULL || json_is_null(value))
        return STATUS_OK;
    if (!json_is_number(value) || !(x >= low && x <= high))
        return log_fail(STATUS_INVALID, "%s: %s is %s, it must be a number from %g to %g", file,
                        key, shown(value, text), low, high);
    *out = x;
    return STATUS_OK;
}

enum status json_field_bool(const char *file, const json_t *object, const char *key, bool *out)
{
    const json_t *value = json_object_get(object, key);
    char text[48];

    if (value == NULL || json_is_null(value))
        return STATUS_OK;
    if (!json_is_boolean(value))
        return log_fail(STATUS_INVALID, "%s: %s is %s, it must be true or false", file, key,
                        shown(value, text));
    *out = json_is_true(value);
    return STATUS_OK;
}

enum status json_field_string(const char *file, const json_t *object, const char *key,
                              const char **out)
{
    const json_t *value = json_object_get(object, key);
    char text[48];

    if (value == NULL || json_is_null(value))
        return STATUS_OK;
    if (!json_is_string(value))
        return log_fail(STATUS_INVALID, "%s: %s is %s, it must be a string", file, key,
                        shown(value, text));
    *out = json_string_value(value);
    return STATUS_OK;
}

static enum status add_id(const char *file, const char *key, const json_t *value, int **ids,
                          int *count)
{
    char text[48];
    int *larger, id;

    if (!json_is_integer(value))
        return log_fail(STATUS_INVALID, "%s: %s has %s, it must hold token ids", file, key,
                        shown(value, text));
    if (json_integer_value(value) < 0 || json_integer_value(value) > INT_MAX)
        return STATUS_OK;
    id = (int)json_integer_value(value);
    for (int i = 0; i < *count; i++)
        if ((*ids)[i] == id)
            return STATUS_OK;
    larger = realloc(*ids, ((size_t)*count + 1) * sizeof(*larger));
    if (larger == NULL)
        return log_fail(STATUS_NOMEM, "%s: %s: no memory for %d ids", file, key, *count + 1);
    larger[(*count)++] = id;
    *ids = larger;
    return STATUS_OK;
}

enum status json_field_ids(const char *file, const json_t *object, const char *key, int **ids,
                           int *count)
{
    const json_t *value = json_object_get(object, key), *element;
    size_t i;
    enum status s;

    if (value == NULL || json_is_null(value))
        return STATUS_OK;
    if (!json_is_array(value))
        return add_id(file, key, value, ids, count);
    json_array_foreach(value, i, element) {
        s = add_id(file, key, element, ids, count);
        if (s != STATUS_OK)
            return s;
    }
    return STATUS_OK;
}
