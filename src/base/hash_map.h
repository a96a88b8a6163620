/* hash_map.h - u64 -> pointer, in constant time whatever numbers a stranger chooses.
 *
 * Open addressing at most half full; the salt, drawn when the first entry
 * comes, keeps chosen keys from meeting. All zero is an empty map. NULL is no
 * value. One owner, no locks. */
#ifndef QUERN_BASE_HASH_MAP_H
#define QUERN_BASE_HASH_MAP_H

#include <stdint.h>

#include "quern/status.h"

struct hash_map {
    struct hash_map_entry {
        uint64_t key;
        void *value; /* NULL: free */
    } *entries;
    uint32_t room, used;
    uint64_t salt;
};

void *hash_map_get(const struct hash_map *m, uint64_t key);

/* Puts in, or replaces. NOMEM (logged). */
enum status hash_map_put(struct hash_map *m, uint64_t key, void *value);

/* A key that is not there: no effect. */
void hash_map_remove(struct hash_map *m, uint64_t key);

void hash_map_free(struct hash_map *m);

#endif
