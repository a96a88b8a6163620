/* vocab_table.h - a tokenizer's way back, flat: id -> bytes.
 *
 * The text worker writes it once into a shared memfd; the supervisor maps that
 * read-only and turns ids into text without a tokenizer of its own. Layout, in
 * the machine's byte order:
 *
 *   header   magic, version, count, blob_bytes            4 x u32
 *   offsets  u32 [count + 1]   into the blob, ascending, 0 first, blob_bytes last
 *   flags    u8  [count]       bit 0: special
 *   blob     u8  [blob_bytes]  the tokens' bytes (already out of the byte alphabet)
 *
 * An id without a token has no bytes. Ownership: a vocab_table borrows the
 * memory it was attached to, which must outlive it. Death: the writer is
 * another process, so vocab_table_attach() believes nothing, and
 * vocab_table_get() stays inside the memory even if it changes afterwards. */
#ifndef QUERN_TEXT_VOCAB_TABLE_H
#define QUERN_TEXT_VOCAB_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

#define VOCAB_TABLE_MAGIC UINT32_C(0x42545651) /* "QVTB" */

enum {
    VOCAB_TABLE_VERSION = 1,
    VOCAB_TABLE_SPECIAL = 1,          /* flags: left out by skip_special */
    VOCAB_TABLE_MOST_TOKENS = 1 << 24, /* more is a broken file */
};

struct vocab_table_header {
    uint32_t magic, version, count, blob_bytes;
};

struct vocab_table {
    const uint32_t *offsets; /* [count + 1] */
    const uint8_t *flags;    /* [count] */
    const uint8_t *blob;     /* [blob_bytes] */
    uint32_t count, blob_bytes;
};

/* Bytes of a table of `count` tokens with `blob_bytes` bytes together. */
size_t vocab_table_size(uint32_t count, uint32_t blob_bytes);

/* Checks the table in mem[0, bytes) (4-byte aligned; it may be followed by
 * padding) and points *out into it. STATUS_INVALID if it is not one. */
enum status vocab_table_attach(const void *mem, size_t bytes, struct vocab_table *out);

/* The bytes of token `id`; false if there is no such id. */
bool vocab_table_get(const struct vocab_table *t, int32_t id, const uint8_t **bytes,
    size_t *count, bool *special);

/* The table of an open tokenizer (tokenizer.h): its size, and a copy of it into
 * mem[0, bytes); STATUS_INVALID if that is too small. In tokenizer.c. */
struct tokenizer;
size_t vocab_table_bytes(const struct tokenizer *t);
enum status vocab_table_write(const struct tokenizer *t, void *mem, size_t bytes);

#endif
