/*
 * What mmu.c keeps behind X86Mmu. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_MMU_INTERNAL_H
#define RHEA_ARCH_X86_MMU_INTERNAL_H

#include "arch/x86/mmu.h"

#define PHYS_CACHE_SIZE 512u
#define PENDING_MAX     32
#define PCID_NONE       UINT32_MAX

/* Of a TLB slot. */
#define SLOT_LISTED       1u /* in MmuTable.used */
#define SLOT_GLOBAL       2u
#define SLOT_LARGE        4u  /* a piece of a page of 2 or 4 MiB */
#define SLOT_HUGE         8u  /* of one of 1 GiB */
#define SLOT_LOCAL_LISTED 16u /* in MmuTable.local */

typedef struct PhysPage {
    uint64_t gpa;  /* 1: empty */
    uint8_t *host; /* NULL: not RAM, ROM or the whole page is not one target */
    RamBlock *ram;
    uint64_t ram_offset;
    bool writable;
} PhysPage;

/* Where there may be pieces of large pages: a bit for each 4 MiB and 1 GiB, both modulo 256. */
typedef struct MmuRegions {
    uint64_t large[4], huge[4];
} MmuRegions;

/* A TLB, and which of its slots hold something, so that a flush costs what is in use. Memory of zeros is an
 * empty one, but for slot 0 (table_init). Others read entries' write tags and addends, used and used_count.
 */
typedef struct MmuTable {
    TlbEntry entries[TLB_SIZE];
    uint8_t flags[TLB_SIZE];
    uint16_t used[TLB_SIZE];  /* atomic; entries move down only */
    uint16_t local[TLB_SIZE]; /* of MMU_KERNEL's: slots with mappings of the current context */
    unsigned used_count;      /* atomic */
    unsigned local_count;
    MmuRegions regions;
} __attribute__((aligned(4096))) MmuTable;

/* The pages that code was fetched from since it was last emptied, and perhaps some others. */
#define CODE_FILTER_BITS 15
typedef struct CodeFilter {
    bool any;
    MmuRegions regions;
    uint64_t pages[(1u << CODE_FILTER_BITS) / 64];
} CodeFilter;

enum { CONTEXT_KERNEL_AC, CONTEXT_USER, CONTEXT_TABLES };

/* What is cached of one address space. */
typedef struct MmuContext {
    MmuTable *table[CONTEXT_TABLES];
    bool ready;    /* atomic: its tables are made */
    uint32_t pcid; /* PCID_NONE: of nobody */
    uint64_t used_at;
    uint64_t generation; /* of its instruction pages */
    CodeFilter code;
} MmuContext;

typedef struct MmuPrivate {
    X86Cpu *cpu;
    PhysPage phys[PHYS_CACHE_SIZE];
    MmuTable *tables; /* mapped: MMU_KERNEL's, then those of the contexts */
    MmuContext contexts[MMU_CONTEXTS];
    uint64_t next_generation, clock;
    CodeFilter global_code;
    uint64_t spread_low, spread_high; /* where contexts' own tables may have global mappings */
    bool lock_slow_held;

    /* Other threads' requests. */
    pthread_mutex_t lock;
    bool flush_all;
    unsigned pending_count;
    struct MmuPending {
        const uint8_t *low, *high;
    } pending[PENDING_MAX];
    bool pending_overflow;

    MemoryListener memory_listener, smram_listener;
    RamListener ram_listener;
    GHashTable *blocks; /* RamBlock -> how many sections show it */
    pthread_t thread;   /* the one that last processed requests: the vCPU's */
    bool thread_known;
} MmuPrivate;

/* A page-aligned address that can never be looked up in this slot. */
static inline uint64_t tag_none(unsigned slot)
{
    return slot == 0 ? 4096 : 0;
}

static inline void slot_clear(TlbEntry *e, unsigned slot)
{
    e->tag[MMU_READ] = e->tag[MMU_EXEC] = tag_none(slot);
    __atomic_store_n(&e->tag[MMU_WRITE], tag_none(slot), __ATOMIC_RELEASE); /* others look at this one */
}

static inline void regions_add(MmuRegions *r, uint64_t linear, bool huge)
{
    unsigned bit = (unsigned)(linear >> (huge ? 30 : 22)) & 255;

    (huge ? r->huge : r->large)[bit >> 6] |= UINT64_C(1) << (bit & 63);
}

static inline bool regions_have(const MmuRegions *r, uint64_t linear)
{
    unsigned large = (unsigned)(linear >> 22) & 255, huge = (unsigned)(linear >> 30) & 255;

    return ((r->large[large >> 6] >> (large & 63)) | (r->huge[huge >> 6] >> (huge & 63))) & 1;
}

#endif
