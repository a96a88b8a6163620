/* hash_map.c - linear probing; a removal shifts back what follows, so nothing is ever walked
 * past a hole. */
#include "base/hash_map.h"

#include <stdlib.h>
#include <sys/random.h>

#include "quern/log.h"

enum { FIRST_ROOM = 16 };

/* MurmurHash3's finalizer: every bit of the key moves every bit of the place. */
static uint32_t place_of(const struct hash_map *m, uint64_t key)
{
    key ^= m->salt;
    key = (key ^ key >> 33) * UINT64_C(0xff51afd7ed558ccd);
    key = (key ^ key >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return (uint32_t)(key ^ key >> 33) & (m->room - 1);
}

/* The key's place, or the free one where it would go. */
static uint32_t find(const struct hash_map *m, uint64_t key)
{
    uint32_t i = place_of(m, key);

    while (m->entries[i].value != NULL && m->entries[i].key != key)
        i = (i + 1) & (m->room - 1);
    return i;
}

void *hash_map_get(const struct hash_map *m, uint64_t key)
{
    return m->used > 0 ? m->entries[find(m, key)].value : NULL;
}

static enum status grow(struct hash_map *m)
{
    struct hash_map bigger = {.room = m->room ? 2 * m->room : FIRST_ROOM, .salt = m->salt};

    bigger.entries = calloc(bigger.room, sizeof(*bigger.entries));
    if (bigger.entries == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a table of %u places", bigger.room);
    /* without randomness the map works all the same */
    if (m->room == 0 && getrandom(&bigger.salt, sizeof(bigger.salt), GRND_NONBLOCK) < 0)
        bigger.salt = (uint64_t)(uintptr_t)bigger.entries;
    for (uint32_t i = 0; i < m->room; i++)
        if (m->entries[i].value != NULL)
            bigger.entries[find(&bigger, m->entries[i].key)] = m->entries[i];
    bigger.used = m->used;
    free(m->entries);
    *m = bigger;
    return STATUS_OK;
}

enum status hash_map_put(struct hash_map *m, uint64_t key, void *value)
{
    uint32_t i;
    enum status s = 2 * (m->used + 1) > m->room ? grow(m) : STATUS_OK;

    if (s != STATUS_OK)
        return s;
    i = find(m, key);
    m->used += m->entries[i].value == NULL;
    m->entries[i] = (struct hash_map_entry){.key = key, .value = value};
    return STATUS_OK;
}

void hash_map_remove(struct hash_map *m, uint64_t key)
{
    uint32_t hole, i, mask = m->room - 1;

    if (m->used == 0)
        return;
    hole = find(m, key);
    if (m->entries[hole].value == NULL)
        return;
    m->used--;
    for (i = (hole + 1) & mask; m->entries[i].value != NULL; i = (i + 1) & mask) {
        uint32_t home = place_of(m, m->entries[i].key);

        if (((i - home) & mask) < ((i - hole) & mask))
            continue; /* its home lies behind the hole: it may not move before it */
        m->entries[hole] = m->entries[i];
        hole = i;
    }
    m->entries[hole].value = NULL;
}

void hash_map_free(struct hash_map *m)
{
    free(m->entries);
    *m = (struct hash_map){0};
}
