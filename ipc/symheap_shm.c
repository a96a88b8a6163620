/* symheap_shm.c - a bump allocator that N processes run in step.
 *
 * It keeps no state in shared memory: a header there would need a lock or an
 * owner, and could only repeat what every rank knows anyway. */
#include "ipc/symheap_shm.h"

#include "quern/log.h"

static const uint64_t fnv_offset = 0xcbf29ce484222325u, fnv_prime = 0x100000001b3u;

static size_t to_pages(size_t bytes)
{
    return (bytes + SYMHEAP_PAGE - 1) & ~(size_t)(SYMHEAP_PAGE - 1);
}

size_t symheap_bytes(uint32_t ranks, size_t region_bytes)
{
    size_t bytes;

    if (ranks == 0 || region_bytes == 0 || region_bytes > SIZE_MAX / 2 ||
        __builtin_mul_overflow(to_pages(region_bytes), (size_t)ranks, &bytes))
        return 0;
    return bytes;
}

enum status symheap_attach(
    void *mem, size_t available, uint32_t ranks, size_t region_bytes, struct symheap *out)
{
    size_t bytes = symheap_bytes(ranks, region_bytes);

    if (bytes == 0 || bytes > available || (uintptr_t)mem % SYMHEAP_PAGE != 0)
        return log_fail(STATUS_INVALID,
            "symmetric heap: %u regions of %zu bytes do not fit into the %zu bytes at %p", ranks,
            region_bytes, available, mem);
    *out = (struct symheap){
        .base = mem,
        .region_bytes = to_pages(region_bytes),
        .ranks = ranks,
        .signature = fnv_offset,
    };
    return STATUS_OK;
}

static uint64_t mixed(uint64_t signature, uint64_t word)
{
    for (int i = 0; i < 64; i += 8)
        signature = (signature ^ (word >> i & 0xffu)) * fnv_prime;
    return signature;
}

enum status symheap_alloc(struct symheap *h, size_t bytes, size_t align, size_t *offset)
{
    size_t start;

    if (align == 0 || (align & (align - 1)) != 0 || align > SYMHEAP_PAGE)
        return log_fail(STATUS_INVALID, "symmetric heap: cannot align to %zu bytes", align);
    start = (h->used + align - 1) & ~(align - 1);
    if (start > h->region_bytes || bytes > h->region_bytes - start)
        return log_fail(STATUS_NOMEM,
            "symmetric heap: %zu bytes do not fit, %zu of %zu per rank are used: make it larger",
            bytes, h->used, h->region_bytes);
    h->used = start + bytes;
    h->signature = mixed(mixed(h->signature, bytes), align);
    *offset = start;
    return STATUS_OK;
}

void *symheap_at(const struct symheap *h, uint32_t rank, size_t offset)
{
    if (rank >= h->ranks || offset >= h->region_bytes)
        return NULL;
    return h->base + (size_t)rank * h->region_bytes + offset;
}

uint64_t symheap_signature(const struct symheap *h)
{
    return h->signature;
}
