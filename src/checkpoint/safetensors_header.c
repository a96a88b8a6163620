/* safetensors_header.c - the format's rules, in the order in which the reference reader checks.
 *
 * jansson parses; what it lets through and the format does not is caught before it, in one pass
 * over the header's text: deep nesting (which would cost jansson stack) and the number -0. It
 * refuses 02, NUL, lone surrogates, bad UTF-8 and duplicate keys itself, and gives 2.0 and 2e0
 * another type than 2. Where the reference reader is lenient and the format is not clear, this
 * one refuses: a tensor given as an array, a __metadata__ of null, duplicate names, empty names.
 * Unknown fields beside dtype, shape and data_offsets are accepted. */
#include "checkpoint/safetensors_header.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

enum { HEADER_BYTES_MAX = 100000000, HEADER_DEPTH_MAX = 8 };

struct placed_view {
    struct tensor_view view;
    uint64_t begin, end;
};

static uint64_t header_length(const unsigned char *head)
{
    uint64_t length = 0;

    for (int i = 7; i >= 0; i--)
        length = length << 8 | head[i];
    return length;
}

bool safetensors_begins(const void *head, size_t n)
{
    return n > 8 && header_length(head) <= HEADER_BYTES_MAX && ((const char *)head)[8] == '{';
}

enum status safetensors_header_bytes(const char *file, const unsigned char *head,
                                     uint64_t file_bytes, size_t *bytes)
{
    uint64_t length;

    if (file_bytes < 8)
        return log_fail(STATUS_INVALID, "%s: %llu bytes are too few for a safetensors file: it "
                        "begins with 8 bytes of header length", file,
                        (unsigned long long)file_bytes);
    length = header_length(head);
    if (length > HEADER_BYTES_MAX)
        return log_fail(STATUS_INVALID, "%s: header length %llu is larger than the format's "
                        "limit of %d", file, (unsigned long long)length, HEADER_BYTES_MAX);
    if (length > file_bytes - 8)
        return log_fail(STATUS_INVALID, "%s: header length %llu is larger than the file "
                        "(%llu bytes): copy or download it again", file,
                        (unsigned long long)length, (unsigned long long)file_bytes);
    if (length == 0 || head[8] != '{')
        return log_fail(STATUS_INVALID, "%s: the header does not begin with '{'", file);
    *bytes = 8 + (size_t)length;
    return STATUS_OK;
}

static bool minus_zero_at(const char *text, size_t n)
{
    return n >= 2 && text[0] == '-' && text[1] == '0' &&
           !(n >= 3 && (text[2] == '.' || text[2] == 'e' || text[2] == 'E'));
}

static enum status scan(const char *file, const char *text, size_t n)
{
    int depth = 0;
    bool string = false;

    for (size_t i = 0; i < n; i++) {
        char c = text[i];

        if (string && c == '\\')
            i++;
        else if (c == '"')
            string = !string;
        else if (string)
            continue;
        else if ((c == '{' || c == '[') && ++depth > HEADER_DEPTH_MAX)
            return log_fail(STATUS_INVALID, "%s: the header is nested more than %d deep", file,
                            HEADER_DEPTH_MAX);
        else if (c == '}' || c == ']')
            depth--;
        else if (minus_zero_at(text + i, n - i))
            return log_fail(STATUS_INVALID, "%s: the header has the number -0", file);
    }
    return STATUS_OK;
}

static enum status parse_json(const char *file, const char *text, size_t n, json_t **root)
{
    json_error_t error;
    enum status s = scan(file, text, n);

    if (s != STATUS_OK)
        return s;
    *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    if (*root != NULL)
        return STATUS_OK;
    switch (json_error_code(&error)) {
    case json_error_out_of_memory:
        return log_fail(STATUS_NOMEM, "%s: no memory for a header of %zu bytes", file, n);
    case json_error_invalid_utf8:
        return log_fail(STATUS_INVALID, "%s: the header is not UTF-8: %s at byte %d", file,
                        error.text, error.position);
    default:
        return log_fail(STATUS_INVALID, "%s: the header is not valid JSON: %s at byte %d", file,
                        error.text, error.position);
    }
}

static enum status check_metadata(const char *file, json_t *metadata)
{
    const char *key;
    json_t *value;

    if (!json_is_object(metadata))
        return log_fail(STATUS_INVALID, "%s: __metadata__ is not an object", file);
    json_object_foreach(metadata, key, value)
        if (!json_is_string(value))
            return log_fail(STATUS_INVALID, "%s: __metadata__ %s is not a string", file, key);
    return STATUS_OK;
}

static enum status read_dtype(const char *file, const json_t *info, struct tensor_view *v)
{
    const char *name = json_string_value(json_object_get(info, "dtype"));

    if (name == NULL)
        return log_fail(STATUS_INVALID, "%s: tensor %s: dtype is missing or not a string", file,
                        v->name);
    for (int t = 0; t < FILE_DTYPE_COUNT; t++)
        if (strcmp(name, file_dtype_name((enum file_dtype)t)) == 0) {
            v->dtype = (enum file_dtype)t;
            return STATUS_OK;
        }
    return log_fail(STATUS_INVALID, "%s: tensor %s: dtype %s is unknown", file, v->name, name);
}

/* A whole number from 0 to 2^63 - 1: no file is larger. */
static bool read_u63(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static enum status read_shape(const char *file, const json_t *info, struct tensor_view *v)
{
    const json_t *shape = json_object_get(info, "shape");

    if (!json_is_array(shape))
        return log_fail(STATUS_INVALID, "%s: tensor %s: shape is missing or not an array", file,
                        v->name);
    if (json_array_size(shape) > TENSOR_DIMS_MAX)
        return log_fail(STATUS_INVALID, "%s: tensor %s: %zu dimensions, at most %d are supported",
                        file, v->name, json_array_size(shape), TENSOR_DIMS_MAX);
    v->ndim = (int)json_array_size(shape);
    for (int i = 0; i < v->ndim; i++)
        if (!read_u63(json_array_get(shape, (size_t)i), &v->shape[i]))
            return log_fail(STATUS_INVALID, "%s: tensor %s: shape has an entry that is not a "
                            "whole number", file, v->name);
    return STATUS_OK;
}

static enum status read_offsets(const char *file, const json_t *info, struct placed_view *p)
{
    const json_t *offsets = json_object_get(info, "data_offsets");

    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return log_fail(STATUS_INVALID, "%s: tensor %s: data_offsets is not an array of two",
                        file, p->view.name);
    if (!read_u63(json_array_get(offsets, 0), &p->begin) ||
        !read_u63(json_array_get(offsets, 1), &p->end))
        return log_fail(STATUS_INVALID, "%s: tensor %s: data_offsets has an entry that is not a "
                        "whole number", file, p->view.name);
    return STATUS_OK;
}

static enum status read_tensor(const char *file, const json_t *info, struct placed_view *p)
{
    enum status s;

    if (p->view.name[0] == '\0')
        return log_fail(STATUS_INVALID, "%s: a tensor has an empty name", file);
    if (!json_is_object(info))
        return log_fail(STATUS_INVALID, "%s: tensor %s is not described by an object", file,
                        p->view.name);
    s = read_dtype(file, info, &p->view);
    if (s == STATUS_OK)
        s = read_shape(file, info, &p->view);
    return s == STATUS_OK ? read_offsets(file, info, p) : s;
}

/* Room for every name, and a view for each. */
static enum status read_tensors(const char *file, json_t *root, struct placed_view *placed,
                                char *names, size_t *count)
{
    const char *key;
    json_t *info;
    enum status s;

    json_object_foreach(root, key, info) {
        if (strcmp(key, "__metadata__") == 0) {
            s = check_metadata(file, info);
        } else {
            struct placed_view *p = &placed[(*count)++];

            p->view.name = names;
            names = stpcpy(names, key) + 1;
            s = read_tensor(file, info, p);
        }
        if (s != STATUS_OK)
            return s;
    }
    return STATUS_OK;
}

static enum status tensor_bits(const char *file, const struct tensor_view *v, uint64_t *bits)
{
    uint64_t total = 1;
    bool overflow = false;

    for (int i = 0; i < v->ndim; i++)
        overflow |= __builtin_mul_overflow(total, v->shape[i], &total);
    overflow |= __builtin_mul_overflow(total, file_dtype_bits(v->dtype), &total);
    if (overflow)
        return log_fail(STATUS_INVALID, "%s: tensor %s: its shape has more than 2^64 bits", file,
                        v->name);
    *bits = total;
    return STATUS_OK;
}

static enum status check_tensor(const char *file, struct placed_view *p, uint64_t previous_end)
{
    const char *name = p->view.name;
    unsigned long long begin = p->begin, end = p->end;
    uint64_t bits = 0;
    char shape[128];
    enum status s;

    if (end < begin)
        return log_fail(STATUS_INVALID, "%s: tensor %s: data_offsets [%llu,%llu] end before they "
                        "begin", file, name, begin, end);
    if (begin > previous_end)
        return log_fail(STATUS_INVALID, "%s: tensor %s: data_offsets [%llu,%llu] leave a hole "
                        "after byte %llu", file, name, begin, end,
                        (unsigned long long)previous_end);
    if (begin < previous_end)
        return log_fail(STATUS_INVALID, "%s: tensor %s: data_offsets [%llu,%llu] overlap the "
                        "tensor before, which ends at %llu", file, name, begin, end,
                        (unsigned long long)previous_end);
    s = tensor_bits(file, &p->view, &bits);
    if (s != STATUS_OK)
        return s;
    if (bits % 8 != 0)
        return log_fail(STATUS_INVALID, "%s: tensor %s: %llu bits of %s are no whole number of "
                        "bytes", file, name, (unsigned long long)bits,
                        file_dtype_name(p->view.dtype));
    if (end - begin != bits / 8)
        return log_fail(STATUS_INVALID, "%s: tensor %s: shape %s of %s needs %llu bytes, "
                        "data_offsets give %llu", file, name,
                        tensor_shape_text(&p->view, shape, sizeof(shape)),
                        file_dtype_name(p->view.dtype), (unsigned long long)(bits / 8),
                        end - begin);
    return STATUS_OK;
}

static int by_offset(const void *a, const void *b)
{
    const struct placed_view *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b)
{
    const struct tensor_view *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static enum status check_layout(const char *file, struct placed_view *placed, size_t count,
                                uint64_t data_bytes)
{
    uint64_t previous_end = 0;

    if (count > 0)
        qsort(placed, count, sizeof(*placed), by_offset);
    for (size_t i = 0; i < count; i++) {
        enum status s = check_tensor(file, &placed[i], previous_end);

        if (s != STATUS_OK)
            return s;
        previous_end = placed[i].end;
    }
    if (previous_end > data_bytes)
        return log_fail(STATUS_INVALID, "%s: the file is cut short: its tensors take %llu bytes, "
                        "%llu are there: copy or download it again", file,
                        (unsigned long long)previous_end, (unsigned long long)data_bytes);
    if (previous_end < data_bytes)
        return log_fail(STATUS_INVALID, "%s: %llu bytes follow the last tensor", file,
                        (unsigned long long)(data_bytes - previous_end));
    return STATUS_OK;
}

static void fill_table(struct safetensors_table *table, const struct placed_view *placed,
                       uint64_t data_at)
{
    for (size_t i = 0; i < table->count; i++) {
        table->views[i] = placed[i].view;
        table->views[i].at = data_at + placed[i].begin;
        table->views[i].bytes = (size_t)(placed[i].end - placed[i].begin);
    }
    if (table->count > 0)
        qsort(table->views, table->count, sizeof(table->views[0]), by_name);
}

static size_t names_bytes(json_t *root)
{
    const char *key;
    json_t *info;
    size_t bytes = 0;

    json_object_foreach(root, key, info)
        bytes += strlen(key) + 1;
    return bytes;
}

enum status safetensors_parse(const char *file, const char *text, size_t bytes,
                              uint64_t file_bytes, struct safetensors_table *out)
{
    json_t *root = NULL;
    struct placed_view *placed;
    struct safetensors_table table = { 0 };
    enum status s = parse_json(file, text + 8, bytes - 8, &root);

    if (s != STATUS_OK)
        return s;
    placed = calloc(json_object_size(root) + 1, sizeof(*placed));
    table.views = calloc(json_object_size(root) + 1, sizeof(*table.views));
    table.names = malloc(names_bytes(root) + 1);
    if (placed == NULL || table.views == NULL || table.names == NULL)
        s = log_fail(STATUS_NOMEM, "%s: no memory for %zu tensors", file,
                     json_object_size(root));
    if (s == STATUS_OK)
        s = read_tensors(file, root, placed, table.names, &table.count);
    if (s == STATUS_OK)
        s = check_layout(file, placed, table.count, file_bytes - bytes);
    if (s == STATUS_OK) {
        fill_table(&table, placed, bytes);
        *out = table;
    } else {
        safetensors_table_free(&table);
    }
    free(placed);
    json_decref(root);
    return s;
}

void safetensors_table_free(struct safetensors_table *table)
{
    free(table->views);
    free(table->names);
    *table = (struct safetensors_table){ 0 };
}

static int by_writer_order(const void *a, const void *b)
{
    const struct tensor_view *x = a, *y = b;

    if (x->dtype != y->dtype)
        return x->dtype > y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Takes *offset forward over the tensor. NULL: no memory. */
static json_t *describe(struct tensor_view *v, uint64_t *offset)
{
    json_t *shape = json_array();
    uint64_t bits = file_dtype_bits(v->dtype), begin = *offset;

    for (int i = 0; i < v->ndim; i++) {
        bits *= v->shape[i];
        json_array_append_new(shape, json_integer((json_int_t)v->shape[i]));
    }
    v->bytes = (size_t)(bits / 8);
    *offset += v->bytes;
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", file_dtype_name(v->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)*offset);
}

static char *layout_json(struct tensor_view *views, size_t count)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    uint64_t offset = 0;
    char *json;

    for (size_t i = 0; i < count; i++)
        if (json_object_set_new(root, views[i].name, describe(&views[i], &offset)) != 0) {
            json_decref(root);
            return NULL;
        }
    json = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return json;
}

enum status safetensors_layout(struct tensor_view *views, size_t count, char **text,
                               size_t *text_bytes)
{
    char *json, *whole;
    size_t length, padded;

    if (count > 0)
        qsort(views, count, sizeof(*views), by_writer_order);
    json = layout_json(views, count);
    length = json != NULL ? strlen(json) : 0;
    padded = (length + 7) / 8 * 8;
    whole = malloc(8 + padded);
    if (json == NULL || whole == NULL) {
        free(json);
        free(whole);
        return log_fail(STATUS_NOMEM, "no memory for a header of %zu tensors", count);
    }
    for (int i = 0; i < 8; i++)
        whole[i] = (char)(padded >> (8 * i) & 0xff);
    memset(whole + 8, ' ', padded);
    memcpy(whole + 8, json, length);
    free(json);
    *text = whole;
    *text_bytes = 8 + padded;
    return STATUS_OK;
}
