/*
 * Address translation of the software CPU: page walks (SDM vol. 3 chapter 4) behind a TLB, and guest memory
 * accesses by linear address. A TLB tag is installed only for plain RAM with that permission; a write tag
 * only where every dirty client has the page marked and no code is cached from it (design invariant 4). All
 * else takes the slow path.
 *
 * Accessors raise #PF and friends through x86_raise() and never return then. They handle page-crossing
 * accesses so that a fault on either page leaves memory unchanged. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_MMU_H
#define RHEA_ARCH_X86_MMU_H

#include "arch/x86/cpu.h"

#include <string.h>

typedef enum MmuAccess { MMU_READ, MMU_WRITE, MMU_EXEC } MmuAccess;
/* Which permissions apply. MMU_KERNEL: supervisor, SMAP enforced; MMU_KERNEL_AC: supervisor with EFLAGS.AC
 * set (SMAP lets through); MMU_USER: CPL 3. Implicit supervisor accesses (descriptor tables, TSS) use
 * MMU_KERNEL always. */
typedef enum MmuIndex {
    MMU_KERNEL,
    MMU_KERNEL_AC,
    MMU_USER,
    MMU_USER_ALIGN, /* CPL 3 with alignment checks on: its TLB stays empty, so that every access takes the
                       slow path */
    MMU_INDEXES
} MmuIndex;

/* How many address spaces (PCIDs) are kept at a time; without CR4.PCIDE there is one. Each has TLBs of its
 * own for MMU_USER and MMU_KERNEL_AC; all share that of MMU_KERNEL. */
#define MMU_CONTEXTS    8u
#define MMU_CONTEXT_ALL UINT32_MAX
/* Code of supervisors whose mapping is not global: it is the current context's, until that changes. */
#define MMU_CONTEXT_KERNEL (UINT32_MAX - 1)

#define TLB_BITS     12
#define TLB_SIZE     (1u << TLB_BITS)
#define PAGE_MASK_4K (~UINT64_C(0xfff))

/* tag: the page's linear address (bits 0 to 11 clear), or a page that belongs to the neighbouring slot and so
 * never matches here. */
typedef struct TlbEntry {
    uint64_t tag[3]; /* by MmuAccess */
    intptr_t addend; /* host address = linear + addend */
} TlbEntry;

/* An instruction page: its guest physical address, with the host pointer and RAM block of its page; host
 * NULL: code runs from a device, without RAM: fetch byte-wise with x86_fetch_slow. */
typedef struct CodePage {
    uint64_t gpa;        /* of the very byte asked for */
    const uint8_t *host; /* of the page's first byte */
    RamBlock *ram;
    uint64_t ram_offset; /* of the page */
} CodePage;

#define ITLB_SIZE 2048u
typedef struct ItlbEntry {
    uint64_t page;       /* linear address of the page */
    uint64_t generation; /* valid where it equals the mmu's generation or global_generation, by `global`;
                            those of other contexts wait for their context's return */
    bool global;
    CodePage code; /* gpa of the page */
} ItlbEntry;

/* What was said of user pages by mmu_look() and holds no more. */
typedef struct MmuDropped {
    enum {
        MMU_DROPPED_PAGE,    /* the mapping at linear, of the context */
        MMU_DROPPED_CONTEXT, /* all of the context's; MMU_CONTEXT_ALL: of all of them */
        MMU_DROPPED_WRITES,  /* the right to write, of [low, high) in host memory, in all contexts */
    } kind;
    unsigned context;
    uint64_t linear;
    const uint8_t *low, *high;
} MmuDropped;

struct X86Mmu {
    TlbEntry *table[MMU_INDEXES]; /* of the current context: TLB_SIZE entries each */
    ItlbEntry itlb[2][ITLB_SIZE]; /* supervisor, user */
    uint64_t generation,
        global_generation; /* of the current context's instruction pages, and of global ones */
    int index;             /* the MmuIndex of the running code's data accesses: kept by x86_update_mode */
    /* Counts what has been dropped from the TLBs other than by replacement: whoever holds copies of entries
     * drops them when it changes. */
    uint64_t drops;
    /* Atomic: an entry with a write tag was replaced by another page's, or dropped, or a copy of one was.
     * Translated code may go on with what it read there, until its next boundary, where it clears this. */
    bool replaced;
    unsigned context; /* the current address space: 0 to MMU_CONTEXTS - 1 */
    /* Where to look: contexts that have the same user pages do not evict each other. 0 for supervisors. */
    unsigned itlb_mix[2];
    /* Set by who looks up code by linear address: instruction pages were dropped, the one at linear, or all
     * of them, of a context's users (0 to MMU_CONTEXTS - 1), of supervisors (MMU_CONTEXT_KERNEL), or of
     * anybody, global ones too (MMU_CONTEXT_ALL). What a context's users have outlives switches, what
     * supervisors have outlives them where it is global. Called in the vCPU's thread, with no lock held, and
     * not for pages that x86_code_page did not give. */
    void (*code_mapping_changed)(X86Cpu *cpu, unsigned context, uint64_t linear, bool one_page);
    /* Set by who wants to know which pages of RAM may be written: before the first write, and before the page
     * gets a write tag (in entry, where it can be replaced by none; NULL: it gets none). The guest's vector
     * registers may be live. */
    void (*write_watch)(X86Cpu *cpu, uint8_t *host_page, TlbEntry *entry, uint64_t none);
    /* Set by who maps guest pages into host memory by mmu_look(): what of it is void. In the vCPU's thread,
     * at a boundary. */
    void (*dropped)(X86Cpu *cpu, const MmuDropped *what);
    /* See mmu_copies_set. */
    bool (*may_write)(const X86Cpu *cpu, const uint8_t *low, const uint8_t *high);
    /* The rest is mmu.c's. */
    struct MmuPrivate *priv;
};

/* Walks the tables. false: *error_code and cr2 tell the page fault (not raised). Sets accessed and dirty
 * bits. */
typedef struct MmuTranslation {
    uint64_t gpa;       /* of the very byte */
    uint64_t page_size; /* of the mapping */
    bool writable, user, nx, global;
} MmuTranslation;
bool mmu_walk(X86Cpu *cpu, uint64_t linear, MmuAccess access, MmuIndex index, MmuTranslation *out,
              uint32_t *error_code);
/* For debuggers and the monitor: no permissions, no side effects. */
bool mmu_walk_debug(X86Cpu *cpu, uint64_t linear, uint64_t *gpa);

/* Of all contexts. Without keep_global the current context becomes that of CR3 and CR4 as they are now. */
void mmu_flush(X86Cpu *cpu, bool keep_global);
/* INVLPG: of the current context, and global mappings (SDM vol. 3 4.10.4.1). */
void mmu_flush_page(X86Cpu *cpu, uint64_t linear);
/* On a CR3 write: goes to the context of its PCID, and flushes that one's mappings that are not global,
 * unless no_flush (and CR4.PCIDE) says that they are still good. */
void mmu_switch(X86Cpu *cpu, uint64_t new_cr3, bool no_flush);
/* Sets PKRU (users' pages) or PKRS, and drops what was cached under the rights that change. */
void mmu_set_keys(X86Cpu *cpu, bool user, uint32_t rights);
void mmu_invpcid(X86Cpu *cpu, unsigned type, uint64_t pcid, uint64_t linear);
X86Mmu *mmu_new(X86Cpu *cpu); /* listens to env.memory's (and env.smram's) changes */
void mmu_free(X86Mmu *mmu);
/* Does what CPU_INTERRUPT_TLB asks for; in the vCPU's thread, between instructions. */
void mmu_process_pending(X86Cpu *cpu);
/* The view of physical memory changed (SMM): drops all. vCPU's thread. */
void mmu_flush_physical(X86Cpu *cpu);
/* Everything is dropped at the next boundary. [any thread] */
void mmu_flush_later(X86Cpu *cpu);
/* Physical memory as this CPU sees it (SMM, A20, its own APIC page): one access of 1, 2, 4 or 8 bytes. */
uint64_t mmu_physical_load(X86Cpu *cpu, uint64_t gpa, unsigned size);
void mmu_physical_store(X86Cpu *cpu, uint64_t gpa, uint64_t value, unsigned size);

/* Fills the TLB for a read or write of the running code, so that the next probe of linear's page hits. False:
 * it cannot (a fault, a device, a page to be marked dirty, ...): nothing but accessed and dirty bits changed,
 * and the instruction is the interpreter's. Uses no vector registers and calls nothing (mmu_walk.c). */
bool mmu_refill(X86Cpu *cpu, uint64_t linear, MmuAccess access);

/* Where the user's page of linear lies, for who maps it elsewhere (X86Mmu.dropped tells when that is void).
 * False: it cannot be had, as mmu_refill says, or is global. writable: writes need nothing more. size: of the
 * mapping, 4 KiB or more, as far as the same RAM goes on; host and ram_offset are those of its start. */
typedef struct MmuLook {
    uint8_t *host;
    const RamBlock *ram;
    uint64_t ram_offset, linear, size;
    bool writable;
} MmuLook;
bool mmu_look(X86Cpu *cpu, uint64_t linear, MmuAccess access, MmuLook *out);

/* For who keeps copies of write translations that outlive the TLB's and boundaries: whether one may be of
 * [low, high) in host memory. Asked by other threads, with a leaf lock held, when dirty bits were cleared: a
 * copy that is made later was made of what the TLB holds, or was checked against the dirty bits once more
 * after it could be seen. NULL: there are no such copies. */
void mmu_copies_set(X86Cpu *cpu,
                    bool (*may_write)(const X86Cpu *cpu, const uint8_t *low, const uint8_t *high));
/* Before a write tag or a copy of one goes in the own thread: translated code may still use it. */
static inline void mmu_note_replaced(X86Mmu *mmu)
{
    if (!mmu->replaced) {
        __atomic_store_n(&mmu->replaced, true, __ATOMIC_SEQ_CST);
    }
}

/* Slow paths: fill the TLB or reach devices. size 1, 2, 4, 8. */
uint64_t mmu_load_slow(X86Cpu *cpu, uint64_t linear, unsigned size, MmuIndex index);
void mmu_store_slow(X86Cpu *cpu, uint64_t linear, uint64_t value, unsigned size, MmuIndex index);

/* Says with which permissions the running code accesses data. */
static inline void mmu_select(X86Cpu *cpu, MmuIndex index)
{
    cpu->mmu->index = index;
    cpu->tlb = cpu->mmu->table[index];
}

static inline TlbEntry *mmu_entry(X86Mmu *mmu, MmuIndex index, uint64_t linear)
{
    return &mmu->table[index][(linear >> 12) & (TLB_SIZE - 1)];
}

static inline unsigned mmu_itlb_index(unsigned mix, uint64_t linear)
{
    return ((unsigned)(linear >> 12) ^ mix) & (ITLB_SIZE - 1);
}

/* Where an instruction page of the running code is, if it is there: check page and generation. */
static inline ItlbEntry *mmu_itlb_entry(const X86Cpu *cpu, uint64_t linear)
{
    bool user = cpu->cpl == 3;

    return &cpu->mmu->itlb[user][mmu_itlb_index(cpu->mmu->itlb_mix[user], linear)];
}

/* With the running code's permissions. */
static inline TlbEntry *mmu_entry_now(const X86Cpu *cpu, uint64_t linear)
{
    return (TlbEntry *)cpu->tlb + ((linear >> 12) & (TLB_SIZE - 1));
}

/* x86_ld8/16/32/64(cpu, linear) and x86_st...: with the running code's MmuIndex; ..._idx: with another one.
 * One compare checks tag, permission, and that the access stays within the page. Values are host
 * (little-endian) order. */
#define MMU_ACCESSORS(bits, type)                                                                     \
    static inline type x86_ld##bits##_in(X86Cpu *cpu, const TlbEntry *e, uint64_t linear, int index)  \
    {                                                                                                 \
        if (G_LIKELY(linear - e->tag[MMU_READ] <= 4096 - sizeof(type))) {                             \
            type value;                                                                               \
            memcpy(&value, (void *)(linear + e->addend), sizeof(value));                              \
            return value;                                                                             \
        }                                                                                             \
        return (type)mmu_load_slow(cpu, linear, sizeof(type), (MmuIndex)index);                       \
    }                                                                                                 \
    static inline void x86_st##bits##_in(X86Cpu *cpu, const TlbEntry *e, uint64_t linear, type value, \
                                         int index)                                                   \
    {                                                                                                 \
        if (G_LIKELY(linear - e->tag[MMU_WRITE] <= 4096 - sizeof(type))) {                            \
            memcpy((void *)(linear + e->addend), &value, sizeof(value));                              \
            return;                                                                                   \
        }                                                                                             \
        mmu_store_slow(cpu, linear, value, sizeof(type), (MmuIndex)index);                            \
    }                                                                                                 \
    static inline type x86_ld##bits##_idx(X86Cpu *cpu, uint64_t linear, MmuIndex index)               \
    {                                                                                                 \
        return x86_ld##bits##_in(cpu, mmu_entry(cpu->mmu, index, linear), linear, (int)index);        \
    }                                                                                                 \
    static inline void x86_st##bits##_idx(X86Cpu *cpu, uint64_t linear, type value, MmuIndex index)   \
    {                                                                                                 \
        x86_st##bits##_in(cpu, mmu_entry(cpu->mmu, index, linear), linear, value, (int)index);        \
    }                                                                                                 \
    static inline type x86_ld##bits(X86Cpu *cpu, uint64_t linear)                                     \
    {                                                                                                 \
        return x86_ld##bits##_in(cpu, mmu_entry_now(cpu, linear), linear, cpu->mmu->index);           \
    }                                                                                                 \
    static inline void x86_st##bits(X86Cpu *cpu, uint64_t linear, type value)                         \
    {                                                                                                 \
        x86_st##bits##_in(cpu, mmu_entry_now(cpu, linear), linear, value, cpu->mmu->index);           \
    }
MMU_ACCESSORS(8, uint8_t)
MMU_ACCESSORS(16, uint16_t)
MMU_ACCESSORS(32, uint32_t)
MMU_ACCESSORS(64, uint64_t)

/* Runs of bytes (SIMD operands, FXSAVE, string operations): all pages are checked before anything is changed.
 */
void x86_read_bytes(X86Cpu *cpu, uint64_t linear, void *buffer, unsigned size);
void x86_write_bytes(X86Cpu *cpu, uint64_t linear, const void *buffer, unsigned size);
/* Raises what a write (or read) of the range would raise, and changes nothing. */
void x86_probe(X86Cpu *cpu, uint64_t linear, unsigned size, MmuAccess access);
void x86_probe_idx(X86Cpu *cpu, uint64_t linear, unsigned size, MmuAccess access, MmuIndex index);
/* For read-modify-write and LOCKed instructions: a host pointer that stays valid until the next access, where
 * the whole range lies in one page of plain writable RAM; NULL: take the slow way (load, then store; for
 * LOCK: mmu_lock_slow_begin/end around them, which stops no other vCPU but excludes other slow locks and
 * splits). */
void *x86_rmw_pointer(X86Cpu *cpu, uint64_t linear, unsigned size);
void mmu_lock_slow_begin(X86Cpu *cpu);
/* While a vCPU waits for a lock or a device it uses nothing cached, so that nobody needs to wait for its
 * boundary (cpu->executing). suspend returns what resume needs. */
static inline bool mmu_suspend(X86Cpu *cpu)
{
    bool was = __atomic_load_n(&cpu->executing, __ATOMIC_RELAXED);

    if (was) {
        __atomic_store_n(&cpu->executing, false, __ATOMIC_RELEASE);
    }
    return was;
}
static inline void mmu_resume(X86Cpu *cpu, bool was)
{
    if (was) {
        __atomic_store_n(&cpu->executing, true, __ATOMIC_SEQ_CST);
    }
}
void mmu_lock_slow_end(X86Cpu *cpu);
/* x86_raise() calls it: a fault inside begin/end gives the lock back. */
void mmu_lock_slow_abort(X86Cpu *cpu);
static inline bool x86_is_canonical(uint64_t linear)
{
    return (uint64_t)((int64_t)(linear << 16) >> 16) == linear;
}
/* For block lookup: translates an instruction fetch (raises #PF, or #GP where linear is not canonical). The
 * slow one walks; the other one looks into the instruction TLB first. */
void x86_code_page_slow(X86Cpu *cpu, uint64_t linear, CodePage *page);
static inline void x86_code_page(X86Cpu *cpu, uint64_t linear, CodePage *page)
{
    X86Mmu *mmu = cpu->mmu;
    const ItlbEntry *e = mmu_itlb_entry(cpu, linear);

    if (G_LIKELY(e->page == (linear & PAGE_MASK_4K) &&
                 e->generation == (e->global ? mmu->global_generation : mmu->generation))) {
        *page = e->code;
        page->gpa |= linear & 0xfff;
        return;
    }
    x86_code_page_slow(cpu, linear, page);
}
uint8_t x86_fetch_slow(X86Cpu *cpu, uint64_t linear);

#endif
