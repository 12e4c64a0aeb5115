/*
 * What mmu.c keeps behind X86Mmu. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_MMU_INTERNAL_H
#define RHEA_ARCH_X86_MMU_INTERNAL_H

#include "arch/x86/mmu.h"
#include "arch/x86/system.h"

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

/* RAM and ROM as the CPU sees it, whole pages; the largest ranges come first. What does not fit is found
 * through the memory core. */
#define MMU_RAM_RANGES 24
typedef struct MmuRam {
    uint64_t gpa, size;
    uint8_t *host;
    RamBlock *ram;
    uint64_t ram_offset;
    bool writable;
} MmuRam;
typedef struct MmuRamMap {
    unsigned count;
    MmuRam ranges[MMU_RAM_RANGES];
} MmuRamMap;

/* An entry of the paging-structure cache: the table of 4 KiB pages that maps a region of 2 MiB. */
#define PDE_CACHE_SIZE 256u
typedef struct MmuPde {
    uint64_t region;     /* linear >> 21 */
    uint64_t generation; /* its context's walk_generation, or it is void */
    uint64_t gpa;        /* of the table; with W, U and NX as combined over the levels above */
    uint8_t *host;
} MmuPde;

/* Where there may be pieces of large pages: a bit for each 4 MiB and 1 GiB, both modulo 256; for each half of
 * the address space, since kernels map all memory with them and users' pages come and go one by one. */
typedef struct MmuRegions {
    uint64_t large[2][4], huge[2][4];
} MmuRegions;

#define WRITTEN_BITS 8192u

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
    /* Atomic: a bit for each page of host memory that has a write tag, and for some that had one. Set before
     * the tag; made anew when the tags are looked through. */
    uint64_t written[WRITTEN_BITS / 64];
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
    uint64_t generation;      /* of its instruction pages */
    uint64_t walk_generation; /* of its entries in the paging-structure cache */
    CodeFilter code[2];       /* not global: supervisor, user */
} MmuContext;

typedef struct MmuPrivate {
    X86Cpu *cpu;
    MmuRamMap map[2];         /* outside SMM, in SMM */
    uint64_t own_page;        /* the local APIC's, in front of whatever RAM; 1: none */
    uint64_t walk_generation; /* the current context's */
    MmuPde pdes[PDE_CACHE_SIZE];
    RamBlock *late_ram; /* a page-table page that was written and is not marked yet; NULL: none */
    uint64_t late_offset;
    PhysPage phys[PHYS_CACHE_SIZE]; /* what is not in map */
    MmuTable *tables;               /* mapped: MMU_KERNEL's, then those of the contexts */
    MmuContext contexts[MMU_CONTEXTS];
    uint64_t next_generation, clock;
    CodeFilter global_code;
    uint64_t spread_low, spread_high; /* where contexts' own tables may have global mappings */
    uint16_t keys_seen[2];            /* protection keys of what may be cached: supervisors' pages, users' */
    bool lock_slow_held;

    /* Other threads' requests. */
    pthread_mutex_t lock;
    bool flush_all;
    MmuRamMap *next_map[2]; /* NULL: map still holds */
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

/* How a walk reaches what is not plain RAM, and tells of what it changed there. */
typedef struct MmuSlow {
    bool debug; /* no side effects, nothing cached */
    uint64_t (*load)(X86Cpu *cpu, uint64_t gpa, unsigned size);
    /* Sets bits of an entry that held value; false: it held something else. */
    bool (*set)(X86Cpu *cpu, uint64_t gpa, uint64_t value, uint64_t bits, unsigned size);
    void (*written)(RamBlock *ram, uint64_t offset, uint64_t length);
} MmuSlow;
typedef enum MmuWalkEnd { MMU_WALK_DONE, MMU_WALK_FAULT, MMU_WALK_UNABLE } MmuWalkEnd;

/* writable_now: a write would need no more bookkeeping in the tables. slow NULL: UNABLE where it would be
 * needed. */
MmuWalkEnd mmu_walk_run(X86Cpu *cpu, uint64_t linear, MmuAccess access, MmuIndex index, const MmuSlow *slow,
                        MmuTranslation *out, bool *writable_now, uint32_t *error_code);
/* Without rights. */
bool mmu_walk_look(X86Cpu *cpu, uint64_t linear, const MmuSlow *slow, uint64_t *gpa);
/* Makes a slot one of this page's (whose bytes are at host), keeping what it already holds of it. */
unsigned mmu_claim_slot(X86Cpu *cpu, uint64_t page, MmuIndex index, const MmuTranslation *tr,
                        const uint8_t *host);
/* For reads and, where write says that all else allows it and the page is fully dirty, for writes: returns
 * whether that tag is there. */
bool mmu_install(X86Cpu *cpu, uint64_t linear, MmuIndex index, const MmuTranslation *tr, const uint8_t *host,
                 const RamBlock *ram, uint64_t ram_offset, bool write);

/* What mmu_load_slow and mmu_store_slow do where mmu_refill does not. */
uint64_t mmu_load_general(X86Cpu *cpu, uint64_t linear, unsigned size, MmuIndex index);
void mmu_store_general(X86Cpu *cpu, uint64_t linear, uint64_t value, unsigned size, MmuIndex index);

static inline uint64_t host_load(const uint8_t *host, unsigned size)
{
    uint16_t v16;
    uint32_t v32;
    uint64_t v64;

    switch (size) {
    case 1:
        return *host;
    case 2:
        memcpy(&v16, host, 2);
        return v16;
    case 4:
        memcpy(&v32, host, 4);
        return v32;
    default:
        memcpy(&v64, host, 8);
        return v64;
    }
}

static inline void host_store(uint8_t *host, uint64_t value, unsigned size)
{
    switch (size) {
    case 1:
        *host = (uint8_t)value;
        break;
    case 2: {
        uint16_t v = (uint16_t)value;
        memcpy(host, &v, 2);
        break;
    }
    case 4: {
        uint32_t v = (uint32_t)value;
        memcpy(host, &v, 4);
        break;
    }
    default:
        memcpy(host, &value, 8);
        break;
    }
}

static inline uint64_t mmu_a20(const X86Cpu *cpu, uint64_t gpa)
{
    /* The gate does not act in SMM (AMD APM vol. 2 chapter 10). */
    return G_UNLIKELY(cpu->a20_masked) && !cpu->in_smm ? gpa & ~(UINT64_C(1) << 20) : gpa;
}

/* The range that holds the page of gpa (A20 applied), or NULL. */
static inline const MmuRam *mmu_ram_at(const MmuPrivate *p, uint64_t gpa)
{
    const MmuRamMap *map = &p->map[G_UNLIKELY(p->cpu->in_smm) ? 1 : 0];

    if (G_UNLIKELY((gpa & PAGE_MASK_4K) == p->own_page)) {
        return NULL;
    }
    for (unsigned i = 0; i < map->count; i++) {
        if (gpa - map->ranges[i].gpa < map->ranges[i].size) {
            return &map->ranges[i];
        }
    }
    return NULL;
}

/* Whether an enabled data breakpoint (SDM vol. 3 17.2.4) or a debugger's watchpoint lies in the page. */
static inline bool mmu_page_watched(const X86Cpu *cpu, uint64_t page)
{
    if (G_UNLIKELY(cpu->debugger != NULL)) {
        for (unsigned i = 0; i < cpu->debugger->watchpoint_count; i++) {
            const X86Watchpoint *w = &cpu->debugger->watchpoints[i];
            if (w->address < page + 4096 && page < w->address + w->length) {
                return true;
            }
        }
    }
    if (G_LIKELY(!(cpu->dr[7] & 0xff))) {
        return false;
    }
    for (int i = 0; i < 4; i++) {
        unsigned type = (cpu->dr[7] >> (16 + i * 4)) & 3;
        if (((cpu->dr[7] >> (i * 2)) & 3) && (type & 1) && (cpu->dr[i] & PAGE_MASK_4K) == page) {
            return true;
        }
    }
    return false;
}

static inline MmuTable *mmu_table_of(X86Mmu *mmu, MmuIndex index)
{
    return (MmuTable *)(void *)mmu->table[index];
}

static inline bool entry_holds(const TlbEntry *e, uint64_t page)
{
    return e->tag[MMU_READ] == page || e->tag[MMU_WRITE] == page || e->tag[MMU_EXEC] == page;
}

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

static inline unsigned written_bit(const uint8_t *host)
{
    return (unsigned)((((uintptr_t)host >> 12) * UINT64_C(0x9e3779b97f4a7c15)) >> 51); /* of WRITTEN_BITS */
}

static inline void regions_add(MmuRegions *r, uint64_t linear, bool huge)
{
    unsigned bit = (unsigned)(linear >> (huge ? 30 : 22)) & 255;

    (huge ? r->huge : r->large)[linear >> 63][bit >> 6] |= UINT64_C(1) << (bit & 63);
}

static inline bool regions_have_huge(const MmuRegions *r, uint64_t linear)
{
    unsigned bit = (unsigned)(linear >> 30) & 255;

    return (r->huge[linear >> 63][bit >> 6] >> (bit & 63)) & 1;
}

static inline bool regions_have_large(const MmuRegions *r, uint64_t linear)
{
    unsigned bit = (unsigned)(linear >> 22) & 255;

    return (r->large[linear >> 63][bit >> 6] >> (bit & 63)) & 1;
}

static inline bool regions_have(const MmuRegions *r, uint64_t linear)
{
    return regions_have_large(r, linear) || regions_have_huge(r, linear);
}

#endif
