/* What the files of src/mem share. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_MEM_MEMORY_INTERNAL_H
#define RHEA_MEM_MEMORY_INTERNAL_H

#include "mem/memory.h"
#include "mem/rcu.h"

/* One piece of a view. Everything that readers need and that may change in the region later is copied here.
 */
typedef struct FlatRange {
    hwaddr first, last; /* inclusive, so that 2^64 needs no special case */
    MemoryRegion *region;
    hwaddr offset; /* of `first` in the region */
    uint8_t *host; /* NULL unless reads come from RAM */
    bool readonly; /* RAM that writes do not reach */
    bool romd;
    uint8_t log_mask;
} FlatRange;

struct FlatView {
    struct rcu_head rcu;
    int ref; /* of address spaces; under the topology lock */
    MemoryRegion *root;
    unsigned count;
    unsigned last_hit; /* a hint; relaxed atomic */
    FlatRange ranges[];
};

struct AddressSpace {
    char *name;
    MemoryRegion *root;
    FlatView *view;       /* RCU */
    unsigned generation;  /* atomic */
    GPtrArray *listeners; /* under the topology lock */
    GArray
        *eventfds; /* of MemoryIoeventfd, as listeners were told, by address; NULL: nobody listens to them */
};

typedef struct MemoryIoeventfdTable {
    struct rcu_head rcu;
    unsigned count;
    MemoryIoeventfd entries[]; /* by offset */
} MemoryIoeventfdTable;

/* The flat picture of a tree; ref 1. The topology lock is held. */
FlatView *flat_view_render(MemoryRegion *root);
/* Drops a reference; the last one frees it after a grace period. */
void flat_view_unref(FlatView *view);

static inline const FlatRange *flat_view_find(FlatView *view, hwaddr addr)
{
    unsigned hint = __atomic_load_n(&view->last_hit, __ATOMIC_RELAXED);
    if (hint < view->count && addr >= view->ranges[hint].first && addr <= view->ranges[hint].last) {
        return &view->ranges[hint];
    }
    unsigned low = 0, high = view->count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (addr > view->ranges[middle].last) {
            low = middle + 1;
        } else if (addr < view->ranges[middle].first) {
            high = middle;
        } else {
            __atomic_store_n(&view->last_hit, middle, __ATOMIC_RELAXED);
            return &view->ranges[middle];
        }
    }
    return NULL;
}

/* How many bytes an unmapped hole goes on from addr; UINT64_MAX for 2^64. */
uint64_t flat_view_hole(const FlatView *view, hwaddr addr);

void memory_topology_lock(void);
void memory_topology_unlock(void);

#endif
