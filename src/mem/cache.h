/*
 * A cached mapping of a small piece of guest RAM (a virtqueue's ring): found once, checked against the
 * address space's generation at each use, and made again when the topology has changed. Pieces that are not
 * plain RAM, or that cross from one block to another, fail: rings belong into RAM.
 *
 * Of one thread at a time (its owner's lock). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MEM_CACHE_H
#define RHEA_MEM_CACHE_H

#include "mem/memory.h"
#include "mem/rcu.h"

#include <string.h>

/* memcpy for guest memory, which the guest may change at the same time: its own business, so ThreadSanitizer
 * does not look. */
static inline void guest_memory_copy(void *to, const void *from, size_t size)
{
#if RHEA_TSAN
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
#else
    memcpy(to, from, size);
#endif
}

typedef struct MemoryCache {
    AddressSpace *as; /* NULL: not set up */
    hwaddr addr;
    uint64_t length;
    bool writable;
    unsigned generation; /* of the view it was made from; 0: none */
    uint8_t *host;       /* NULL: not RAM now */
    RamBlock *ram;       /* held */
    uint64_t ram_offset;
} MemoryCache;

/* Says what is to be cached; nothing can fail yet. An old mapping is dropped. */
void memory_cache_init(MemoryCache *c, AddressSpace *as, hwaddr addr, uint64_t length, bool writable);
void memory_cache_destroy(MemoryCache *c);
bool memory_cache_refresh(MemoryCache *c); /* used by memory_cache_host */

/* Where byte `offset` lies in the host for an access of size bytes; NULL beyond the piece or where it is not
 * RAM. The mapping holds its block, so the pointer stays readable until the next call. */
static inline uint8_t *memory_cache_host(MemoryCache *c, uint64_t offset, uint64_t size)
{
    if (G_UNLIKELY(!c->as || offset > c->length || size > c->length - offset)) {
        return NULL;
    }
    if (G_UNLIKELY(c->generation != address_space_generation(c->as)) && !memory_cache_refresh(c)) {
        return NULL;
    }
    return c->host ? c->host + offset : NULL;
}

/* Tells the dirty log of a write through memory_cache_host. */
static inline void memory_cache_written(MemoryCache *c, uint64_t offset, uint64_t size)
{
    ram_written(c->ram, c->ram_offset + offset, size);
}

/* One aligned 16-bit access with acquire or release order; false where there is no RAM. */
static inline bool memory_cache_load16(MemoryCache *c, uint64_t offset, uint16_t *value)
{
    uint8_t *host = memory_cache_host(c, offset, 2);
    if (!host) {
        return false;
    }
    *value = __atomic_load_n((uint16_t *)(void *)host, __ATOMIC_ACQUIRE);
    return true;
}

static inline bool memory_cache_store16(MemoryCache *c, uint64_t offset, uint16_t value)
{
    uint8_t *host = memory_cache_host(c, offset, 2);
    if (!host) {
        return false;
    }
    __atomic_store_n((uint16_t *)(void *)host, value, __ATOMIC_RELEASE);
    memory_cache_written(c, offset, 2);
    return true;
}

#endif
