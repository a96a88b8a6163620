/* config_json.h - JSON files of a checkpoint, and typed fields with a name in every error.
 *
 * Purpose:  config.json, generation_config.json and the shard index are read whole and looked at
 *           field by field; a field of the wrong type or range is reported as
 *           "config.json: hidden_size is "x", it must be a whole number from 1 to 1048576".
 * Owns:     the caller owns what json_read_file() returns (json_decref()).
 * Blocking: json_read_file() reads a file; nothing else blocks. */
#ifndef QUERN_CHECKPOINT_CONFIG_JSON_H
#define QUERN_CHECKPOINT_CONFIG_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "quern/status.h"

/* The part of `path` after its last '/': how files are named in messages. */
const char *path_base(const char *path);

/* "DIR/NAME" into out; INVALID (logged) when it does not fit. */
enum status path_join(char *out, size_t out_bytes, const char *dir, const char *name);

/* Parses a file of at most `max_bytes` whose top level is an object, as Python's json does: of a
 * key that is there twice the last counts, and NaN, Infinity and numbers of any size are read
 * (json_numbers.h), though no typed reader below takes them.
 * IO: cannot be read. INVALID: not a file, too large, not JSON, not an object. NOMEM. */
enum status json_read_file(const char *path, size_t max_bytes, json_t **object);

/* The same; *object NULL, and OK, when there is no such file. */
enum status json_read_optional(const char *path, size_t max_bytes, json_t **object);

/* Writes what json_read_file() read, indented, and a newline. NOMEM or IO, not logged. */
enum status json_write(const json_t *value, FILE *out);

/* Reads `key` of `object` into *out. Absent or null: *out is left as it is, and OK.
 * Another type, or a value outside [low, high]: INVALID, naming `file` and `key`. */
enum status json_field_int(const char *file, const json_t *object, const char *key, int low,
                           int high, int *out);
enum status json_field_real(const char *file, const json_t *object, const char *key, double low,
                            double high, double *out);
enum status json_field_bool(const char *file, const json_t *object, const char *key, bool *out);

/* *out points into `object` and lives as long. */
enum status json_field_string(const char *file, const json_t *object, const char *key,
                              const char **out);

/* A token id, an array of them, or null: appended to *ids [*count], each once; the caller frees
 * *ids, also after a failure. Negative ones and those beyond an int, which no token has, are passed
 * over. INVALID: something that is no whole number. NOMEM. */
enum status json_field_ids(const char *file, const json_t *object, const char *key, int **ids,
                           int *count);

#endif
