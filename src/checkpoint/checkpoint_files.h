/* checkpoint_files.h - which files of a directory are a model's weights.
 *
 * Purpose:  model.safetensors; else what model.safetensors.index.json names; else every
 *           *.safetensors, without consolidated.safetensors if there are others and without an
 *           adapter's. Whatever is missing is named.
 * Owns:     the caller owns the list (file_list_free()).
 * Blocking: lists the directory, reads the index. */
#ifndef QUERN_CHECKPOINT_CHECKPOINT_FILES_H
#define QUERN_CHECKPOINT_CHECKPOINT_FILES_H

#include <jansson.h>
#include <stddef.h>

#include "quern/status.h"

struct file_list {
    char **names; /* [count], sorted, each once; at least one */
    size_t count;
    json_t *map;  /* the index's weight_map, tensor to file; NULL where there is no index */
};

/* IO, INVALID (nothing that could be weights, or less than the names promise) or NOMEM, logged.
 * *list is written only with OK. */
enum status file_list_choose(const char *dir, struct file_list *list);
void file_list_free(struct file_list *list);

#endif
