/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mem/cache.h"

#include "mem/rcu.h"

#include <string.h>

void memory_cache_destroy(MemoryCache *c)
{
    ram_block_unref(c->ram);
    memset(c, 0, sizeof(*c));
}

void memory_cache_init(MemoryCache *c, AddressSpace *as, hwaddr addr, uint64_t length, bool writable)
{
    memory_cache_destroy(c);
    c->as = as;
    c->addr = addr;
    c->length = length;
    c->writable = writable;
}

bool memory_cache_refresh(MemoryCache *c)
{
    MemoryTarget target;
    RamBlock *old = c->ram;
    c->ram = NULL;
    c->host = NULL;
    memory_rcu_lock();
    /* The number first: a view that is published in between costs another look, not a stale mapping. */
    c->generation = address_space_generation(c->as);
    address_space_translate(c->as, c->addr, &target);
    if (target.host && target.length >= c->length && (target.writable || !c->writable)) {
        c->host = target.host;
        c->ram = ram_block_ref(target.ram);
        c->ram_offset = target.ram_offset;
    }
    memory_rcu_unlock();
    ram_block_unref(old);
    return c->host != NULL;
}
