/*
 * Page walks (SDM vol. 3 chapter 4), the software TLB, and the slow paths of guest memory accesses.
 *
 * Invariants:
 *  1. A read tag is in the TLB only for plain RAM or ROM that no data breakpoint touches; a write tag besides
 * only for writable RAM whose dirty log has the page marked for every client and whose page-table entry has D
 * set.
 *  2. Whoever clears a page's dirty bits takes the write tags away before it relies on them (dirty_cleared
 * below): in the own thread at once, in another vCPU's at that vCPU's next boundary, which the clearing
 * thread waits for.
 *  3. A page-table entry changes by compare-and-exchange only, so that other vCPUs' updates are never lost.
 *  4. Nothing is changed before the last byte of an access is known to be reachable.
 *
 * Threads: the TLB belongs to the vCPU's thread. Other threads leave work in MmuPrivate under its lock and
 * set CPU_INTERRUPT_TLB. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/mmu.h"

#include "arch/x86/apic.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/system.h"
#include "base/log.h"

#include <sched.h>

#define PHYS_CACHE_SIZE 512u
#define PENDING_MAX     32
/* How long the clearing thread waits for another vCPU's boundary at most. Not as long as an instruction takes
 * but as long as the host may keep that thread off its CPUs: whoever gives up too early decodes code that is
 * still written. */
#define BOUNDARY_WAIT_NS (2000 * 1000 * 1000)

#define SLOT_LISTED 1u
#define SLOT_GLOBAL 2u
#define SLOT_LARGE  4u /* 2 or 4 MiB */
#define SLOT_HUGE   8u /* 1 GiB */

typedef struct PhysPage {
    uint64_t gpa;  /* 1: empty */
    uint8_t *host; /* NULL: not RAM, ROM or the whole page is not one target */
    RamBlock *ram;
    uint64_t ram_offset;
    bool writable;
} PhysPage;

typedef struct MmuPrivate {
    X86Cpu *cpu;
    PhysPage phys[PHYS_CACHE_SIZE];
    /* Which slots hold something: makes a flush cost what is in use. */
    uint16_t used[MMU_INDEXES * TLB_SIZE];
    unsigned used_count;
    uint8_t slot_flags[MMU_INDEXES * TLB_SIZE];
    uint64_t slot_page[MMU_INDEXES * TLB_SIZE]; /* whose tags are there, where any are */
    bool large_entries; /* since the last full flush: INVLPG has to look for pieces of large pages */
    uint64_t itlb_large_low, itlb_large_high;
    bool lock_slow_held;

    /* Other threads' requests. */
    pthread_mutex_t lock;
    bool flush_all;
    unsigned pending_count;
    struct {
        const uint8_t *low, *high;
    } pending[PENDING_MAX];
    bool pending_overflow;

    MemoryListener memory_listener, smram_listener;
    RamListener ram_listener;
    GHashTable *blocks; /* RamBlock -> how many sections show it */
    pthread_t thread;   /* the one that last processed requests: the vCPU's */
    bool thread_known;
} MmuPrivate;

/* One for all machines: LOCKed accesses that cannot be done by one host instruction. */
static pthread_mutex_t slow_lock = PTHREAD_MUTEX_INITIALIZER;

/* A page-aligned address that can never be looked up in this slot. */
static inline uint64_t tag_none(unsigned slot)
{
    return (uint64_t)((slot & (TLB_SIZE - 1)) ^ 1) << 12;
}

static inline TlbEntry *slot_entry(X86Mmu *mmu, unsigned slot)
{
    return &mmu->tlb[0][0] + slot;
}

static void slot_clear(X86Mmu *mmu, unsigned slot)
{
    TlbEntry *e = slot_entry(mmu, slot);

    e->tag[MMU_READ] = e->tag[MMU_EXEC] = tag_none(slot);
    __atomic_store_n(&e->tag[MMU_WRITE], tag_none(slot), __ATOMIC_RELEASE); /* others look at this one */
}

/* ---- physical memory ---- */

static inline AddressSpace *physical_space(X86Cpu *cpu)
{
    return G_UNLIKELY(cpu->in_smm) && cpu->env.smram ? cpu->env.smram : cpu->env.memory;
}

static inline uint64_t a20(const X86Cpu *cpu, uint64_t gpa)
{
    /* The gate does not act in SMM (AMD APM vol. 2 chapter 10). */
    return G_UNLIKELY(cpu->a20_masked) && !cpu->in_smm ? gpa & ~(UINT64_C(1) << 20) : gpa;
}

static void phys_flush(MmuPrivate *p)
{
    for (unsigned i = 0; i < PHYS_CACHE_SIZE; i++) {
        p->phys[i].gpa = 1;
    }
}

/* What backs the page of gpa (A20 already applied). */
static PhysPage *phys_lookup(X86Cpu *cpu, uint64_t gpa)
{
    MmuPrivate *p = cpu->mmu->priv;
    uint64_t page = gpa & PAGE_MASK_4K;
    PhysPage *pp = &p->phys[(page >> 12) & (PHYS_CACHE_SIZE - 1)];

    if (G_LIKELY(pp->gpa == page)) {
        return pp;
    }
    MemoryTarget target;
    address_space_translate(physical_space(cpu), page, &target);
    pp->gpa = page;
    if (target.host != NULL && target.ram != NULL && target.length >= 4096 &&
        !(cpu->apic != NULL && apic_owns(cpu->apic, page))) {
        pp->host = target.host;
        pp->ram = target.ram;
        pp->ram_offset = target.ram_offset;
        pp->writable = target.writable;
    } else {
        pp->host = NULL;
        pp->ram = NULL;
        pp->ram_offset = 0;
        pp->writable = false;
    }
    return pp;
}

static MemTxAttrs cpu_attrs(const X86Cpu *cpu)
{
    return (MemTxAttrs){ .secure = cpu->in_smm };
}

uint64_t mmu_physical_load(X86Cpu *cpu, uint64_t gpa, unsigned size)
{
    uint64_t value = UINT64_MAX;

    gpa = a20(cpu, gpa);
    PhysPage *pp = phys_lookup(cpu, gpa);
    if (pp->host != NULL && (gpa & 0xfff) + size <= 4096) {
        const uint8_t *host = pp->host + (gpa & 0xfff);
        switch (size) {
        case 1:
            return *host;
        case 2: {
            uint16_t v;
            memcpy(&v, host, 2);
            return v;
        }
        case 4: {
            uint32_t v;
            memcpy(&v, host, 4);
            return v;
        }
        default:
            memcpy(&value, host, 8);
            return value;
        }
    }
    if (cpu->apic != NULL && apic_owns(cpu->apic, gpa)) {
        /* The registers are 32 bits wide, 16 bytes apart (SDM vol. 3 10.4.1); other widths are undefined
         * there. */
        uint32_t offset = gpa & 0xfff;
        uint64_t reg = apic_mmio_read(cpu->apic, offset & ~3u) >> ((offset & 3) * 8);
        return size == 8 ? reg : reg & (UINT64_C(0xffffffff) >> (32 - size * 8));
    }
    bool was = mmu_suspend(cpu);
    if (address_space_load(physical_space(cpu), gpa, size, &value, cpu_attrs(cpu)) != MEMTX_OK) {
        value = UINT64_MAX;
    }
    mmu_resume(cpu, was);
    return size == 8 ? value : value & ((UINT64_C(1) << (size * 8)) - 1);
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

static inline void mark_written(RamBlock *ram, uint64_t offset, uint64_t length)
{
    if (!ram_page_fully_dirty(ram, offset)) {
        ram_written(ram, offset, length);
    }
}

void mmu_physical_store(X86Cpu *cpu, uint64_t gpa, uint64_t value, unsigned size)
{
    gpa = a20(cpu, gpa);
    PhysPage *pp = phys_lookup(cpu, gpa);
    if (pp->host != NULL && pp->writable && (gpa & 0xfff) + size <= 4096) {
        host_store(pp->host + (gpa & 0xfff), value, size);
        mark_written(pp->ram, pp->ram_offset + (gpa & 0xfff), size);
        return;
    }
    if (cpu->apic != NULL && apic_owns(cpu->apic, gpa)) {
        uint32_t offset = gpa & 0xfff;
        if (size >= 4 && (offset & 3) == 0) {
            apic_mmio_write(cpu->apic, offset, (uint32_t)value);
        }
        return;
    }
    bool was = mmu_suspend(cpu);
    address_space_store(physical_space(cpu), gpa, size, value, cpu_attrs(cpu));
    mmu_resume(cpu, was);
}

/* ---- the walk ---- */

#define PTE_P       UINT64_C(1)
#define PTE_W       UINT64_C(2)
#define PTE_U       UINT64_C(4)
#define PTE_A       UINT64_C(0x20)
#define PTE_D       UINT64_C(0x40)
#define PTE_PS      UINT64_C(0x80)
#define PTE_G       UINT64_C(0x100)
#define PTE_NX      (UINT64_C(1) << 63)
#define PTE_ADDRESS UINT64_C(0x000ffffffffff000)

#define PF_P    1u
#define PF_W    2u
#define PF_U    4u
#define PF_RSVD 8u
#define PF_I    16u

/* An entry of a paging structure: where it is and what it held when read. */
typedef struct Pte {
    uint64_t value;
    uint64_t gpa;
    unsigned size; /* 4 or 8 */
} Pte;

static uint64_t pte_load(X86Cpu *cpu, uint64_t gpa, unsigned size, bool debug)
{
    gpa = a20(cpu, gpa);
    if (!debug) {
        PhysPage *pp = phys_lookup(cpu, gpa);
        if (G_LIKELY(pp->host != NULL)) {
            const uint8_t *host = pp->host + (gpa & 0xfff);
            return size == 8 ? __atomic_load_n((const uint64_t *)host, __ATOMIC_ACQUIRE)
                             : __atomic_load_n((const uint32_t *)host, __ATOMIC_ACQUIRE);
        }
    }
    uint64_t value = 0;
    uint32_t value32 = 0;
    AddressSpace *as = physical_space(cpu);
    if (size == 8) {
        return address_space_read(as, gpa, MEMTXATTRS_NONE, &value, 8) == MEMTX_OK ? value : 0;
    }
    return address_space_read(as, gpa, MEMTXATTRS_NONE, &value32, 4) == MEMTX_OK ? value32 : 0;
}

/* Sets bits of an entry unless it changed meanwhile; false: walk again. Tables outside RAM keep what they
 * are. */
static bool pte_set(X86Cpu *cpu, Pte *pte, uint64_t bits)
{
    uint64_t gpa = a20(cpu, pte->gpa);
    PhysPage *pp = phys_lookup(cpu, gpa);

    if (pp->host == NULL || !pp->writable) {
        return true;
    }
    uint8_t *host = pp->host + (gpa & 0xfff);
    bool done;
    if (pte->size == 8) {
        uint64_t expected = pte->value;
        done = __atomic_compare_exchange_n((uint64_t *)host, &expected, pte->value | bits, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        uint32_t expected = (uint32_t)pte->value;
        done = __atomic_compare_exchange_n((uint32_t *)host, &expected, (uint32_t)(pte->value | bits), false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    if (done) {
        pte->value |= bits;
        mark_written(pp->ram, pp->ram_offset + (gpa & 0xfff), pte->size);
    }
    return done;
}

typedef struct WalkResult {
    Pte leaf;
    uint64_t rights; /* PTE_W and PTE_U, combined over the levels */
    bool nx;
    unsigned shift; /* log2 of the page size */
} WalkResult;

enum { WALK_OK, WALK_NOT_PRESENT, WALK_RESERVED, WALK_AGAIN };

static int walk_tables(X86Cpu *cpu, uint64_t linear, bool debug, WalkResult *r)
{
    uint64_t high = PTE_ADDRESS & ~((UINT64_C(1) << cpu->phys_bits) - 1);

    r->rights = PTE_W | PTE_U;
    r->nx = false;
    if (!(cpu->cr4 & CR4_PAE)) {
        /* 32-bit paging, SDM vol. 3 4.3 */
        Pte pde = { .gpa = (cpu->cr3 & 0xfffff000) + ((linear >> 22) & 0x3ff) * 4, .size = 4 };
        pde.value = pte_load(cpu, pde.gpa, 4, debug);
        if (!(pde.value & PTE_P)) {
            return WALK_NOT_PRESENT;
        }
        r->rights &= pde.value;
        if ((pde.value & PTE_PS) && (cpu->cr4 & CR4_PSE)) {
            /* Bits 20 to 13 are address bits 39 to 32 (PSE-36). */
            if (pde.value & (1u << 21)) {
                return WALK_RESERVED;
            }
            r->leaf = pde;
            r->shift = 22;
            return WALK_OK;
        }
        if (!(pde.value & PTE_A) && !debug && !pte_set(cpu, &pde, PTE_A)) {
            return WALK_AGAIN;
        }
        Pte pte = { .gpa = (pde.value & 0xfffff000) + ((linear >> 12) & 0x3ff) * 4, .size = 4 };
        pte.value = pte_load(cpu, pte.gpa, 4, debug);
        if (!(pte.value & PTE_P)) {
            return WALK_NOT_PRESENT;
        }
        r->rights &= pte.value;
        r->leaf = pte;
        r->shift = 12;
        return WALK_OK;
    }

    bool lma = cpu->efer & EFER_LMA;
    uint64_t nx_reserved = cpu->efer & EFER_NXE ? 0 : PTE_NX;
    uint64_t table;
    int level;
    if (lma) {
        table = cpu->cr3 & PTE_ADDRESS;
        level = 4;
    } else {
        uint64_t pdpte = pte_load(cpu, (cpu->cr3 & 0xffffffe0) + ((linear >> 30) & 3) * 8, 8, debug);
        if (!(pdpte & PTE_P)) {
            return WALK_NOT_PRESENT;
        }
        if (pdpte & (high | UINT64_C(0x1e6) | UINT64_C(0xfff0000000000000))) {
            return WALK_RESERVED;
        }
        table = pdpte & PTE_ADDRESS;
        level = 2;
        high |= UINT64_C(0x7ff0000000000000); /* PAE paging: bits 62 to 52 are reserved too */
    }
    for (;; level--) {
        unsigned shift = 12 + 9 * (unsigned)(level - 1);
        Pte pte = { .gpa = table + ((linear >> shift) & 0x1ff) * 8, .size = 8 };
        pte.value = pte_load(cpu, pte.gpa, 8, debug);
        if (!(pte.value & PTE_P)) {
            return WALK_NOT_PRESENT;
        }
        bool large = level > 1 && (pte.value & PTE_PS);
        uint64_t reserved = high | nx_reserved;
        if (level == 4 || (level == 3 && !cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_PDPE1GB))) {
            reserved |= PTE_PS;
        }
        if (large) {
            reserved |= ((UINT64_C(1) << shift) - 1) & ~UINT64_C(0x1fff);
        }
        if (pte.value & reserved) {
            return WALK_RESERVED;
        }
        r->rights &= pte.value;
        r->nx |= pte.value >> 63;
        if (large || level == 1) {
            r->leaf = pte;
            r->shift = shift;
            return WALK_OK;
        }
        if (!(pte.value & PTE_A) && !debug && !pte_set(cpu, &pte, PTE_A)) {
            return WALK_AGAIN;
        }
        table = pte.value & PTE_ADDRESS;
    }
}

static uint64_t leaf_gpa(const WalkResult *r, uint64_t linear)
{
    uint64_t mask = (UINT64_C(1) << r->shift) - 1;
    uint64_t base;

    if (r->leaf.size == 4 && r->shift == 22) {
        base = (r->leaf.value & 0xffc00000) | (((r->leaf.value >> 13) & 0xff) << 32);
    } else if (r->leaf.size == 4) {
        base = r->leaf.value & 0xfffff000;
    } else {
        base = r->leaf.value & PTE_ADDRESS & ~mask;
    }
    return base | (linear & mask);
}

/* writable_now: a write would need no more bookkeeping in the tables. */
static bool walk(X86Cpu *cpu, uint64_t linear, MmuAccess access, MmuIndex index, MmuTranslation *out,
                 bool *writable_now, uint32_t *error_code)
{
    bool user = index >= MMU_USER;

    if (!(cpu->cr0 & CR0_PG)) {
        *out = (MmuTranslation){ .gpa = linear, .page_size = 4096, .writable = true, .user = true };
        *writable_now = true;
        return true;
    }
    bool nxe = (cpu->efer & EFER_NXE) && (cpu->cr4 & CR4_PAE);
    uint32_t error = (access == MMU_WRITE ? PF_W : 0) | (user ? PF_U : 0);
    if (access == MMU_EXEC && (nxe || (cpu->cr4 & CR4_SMEP))) {
        error |= PF_I;
    }
    for (;;) {
        WalkResult r;
        int status = walk_tables(cpu, linear, false, &r);
        if (status == WALK_AGAIN) {
            continue;
        }
        if (status != WALK_OK) {
            *error_code = error | (status == WALK_RESERVED ? PF_P | PF_RSVD : 0);
            return false;
        }
        bool user_page = r.rights & PTE_U;
        bool may_write = (r.rights & PTE_W) || (!user && !(cpu->cr0 & CR0_WP));
        bool denied = user && !user_page;
        denied |= access == MMU_WRITE && !may_write;
        denied |= access == MMU_EXEC && nxe && r.nx;
        if (!user && user_page) {
            denied |= access == MMU_EXEC && (cpu->cr4 & CR4_SMEP);
            denied |= access != MMU_EXEC && (cpu->cr4 & CR4_SMAP) && index == MMU_KERNEL;
        }
        if (denied) {
            *error_code = error | PF_P;
            return false;
        }
        uint64_t bits = PTE_A | (access == MMU_WRITE ? PTE_D : 0);
        if ((r.leaf.value & bits) != bits && !pte_set(cpu, &r.leaf, bits)) {
            continue;
        }
        *out = (MmuTranslation){
            .gpa = leaf_gpa(&r, linear),
            .page_size = UINT64_C(1) << r.shift,
            .writable = may_write,
            .user = user_page,
            .nx = nxe && r.nx,
            .global = (r.leaf.value & PTE_G) && (cpu->cr4 & CR4_PGE),
        };
        *writable_now = may_write && (r.leaf.value & PTE_D);
        return true;
    }
}

bool mmu_walk(X86Cpu *cpu, uint64_t linear, MmuAccess access, MmuIndex index, MmuTranslation *out,
              uint32_t *error_code)
{
    bool writable_now;

    return walk(cpu, linear, access, index, out, &writable_now, error_code);
}

bool mmu_walk_debug(X86Cpu *cpu, uint64_t linear, uint64_t *gpa)
{
    WalkResult r;

    if (!(cpu->efer & EFER_LMA)) {
        linear &= UINT32_MAX;
    } else if (!x86_is_canonical(linear)) {
        return false;
    }
    if (!(cpu->cr0 & CR0_PG)) {
        *gpa = a20(cpu, linear);
        return true;
    }
    if (walk_tables(cpu, linear, true, &r) != WALK_OK) {
        return false;
    }
    *gpa = a20(cpu, leaf_gpa(&r, linear));
    return true;
}

/* ---- TLB ---- */

/* Where one access within one page goes. */
typedef struct Target {
    uint64_t gpa;
    uint8_t *host; /* of the byte; NULL: device */
    RamBlock *ram;
    uint64_t ram_offset; /* of the byte */
    bool writable;
} Target;

/* Whether an enabled data breakpoint lies in the page (SDM vol. 3 17.2.4). */
static bool page_watched(const X86Cpu *cpu, uint64_t page)
{
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

/* Makes the slot one of this page's, keeping what it already holds of it. */
static unsigned claim_slot(X86Cpu *cpu, uint64_t page, MmuIndex index, const MmuTranslation *tr,
                           const PhysPage *pp)
{
    X86Mmu *mmu = cpu->mmu;
    MmuPrivate *p = mmu->priv;
    unsigned slot = (unsigned)index * TLB_SIZE + ((page >> 12) & (TLB_SIZE - 1));
    TlbEntry *e = slot_entry(mmu, slot);
    intptr_t addend = (intptr_t)pp->host - (intptr_t)page;

    if (p->slot_page[slot] != page || e->addend != addend || !(p->slot_flags[slot] & SLOT_LISTED)) {
        slot_clear(mmu, slot);
        p->slot_page[slot] = page;
        __atomic_store_n(&e->addend, addend, __ATOMIC_RELEASE);
    }
    uint8_t flags = SLOT_LISTED | (tr->global ? SLOT_GLOBAL : 0);
    if (tr->page_size > 4096) {
        flags |= tr->page_size == (UINT64_C(1) << 30) ? SLOT_HUGE : SLOT_LARGE;
        p->large_entries = true;
    }
    if (!(p->slot_flags[slot] & SLOT_LISTED)) {
        p->used[p->used_count++] = (uint16_t)slot;
    }
    p->slot_flags[slot] = flags;
    return slot;
}

static void install(X86Cpu *cpu, uint64_t linear, MmuIndex index, const MmuTranslation *tr,
                    const PhysPage *pp, bool write)
{
    uint64_t page = linear & PAGE_MASK_4K;
    unsigned slot = claim_slot(cpu, page, index, tr, pp);
    TlbEntry *e = slot_entry(cpu->mmu, slot);

    e->tag[MMU_READ] = page;
    __atomic_store_n(&e->tag[MMU_WRITE], tag_none(slot), __ATOMIC_RELEASE);
    if (write) {
        __atomic_store_n(&e->tag[MMU_WRITE], page, __ATOMIC_SEQ_CST);
        /* Invariant 2: whoever clears the bit either sees the tag or is seen here. */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (!ram_page_fully_dirty(pp->ram, pp->ram_offset)) {
            __atomic_store_n(&e->tag[MMU_WRITE], tag_none(slot), __ATOMIC_RELEASE);
        }
    }
}

static G_NORETURN void raise_page_fault(X86Cpu *cpu, uint64_t linear, uint32_t error_code)
{
    LOG(LOG_MMU, "#PF linear %" PRIx64 " error %x", linear, error_code);
    cpu->cr2 = linear;
    x86_raise_error(cpu, EXC_PF, error_code);
}

static G_NORETURN void raise_noncanonical(X86Cpu *cpu, uint64_t linear)
{
    x86_raise_noncanonical(cpu, linear);
}

/* Translates, raising #PF, and caches what may be cached. The access lies in one page. */
static void translate(X86Cpu *cpu, uint64_t linear, MmuAccess access, MmuIndex index, Target *target)
{
    MmuTranslation tr;
    bool writable_now;
    uint32_t error_code;

    if (!walk(cpu, linear, access, index, &tr, &writable_now, &error_code)) {
        raise_page_fault(cpu, linear, error_code);
    }
    target->gpa = a20(cpu, tr.gpa);
    PhysPage *pp = phys_lookup(cpu, target->gpa);
    target->host = pp->host ? pp->host + (target->gpa & 0xfff) : NULL;
    target->ram = pp->ram;
    target->ram_offset = pp->ram_offset + (target->gpa & 0xfff);
    target->writable = pp->writable;
    if (pp->host != NULL && index != MMU_USER_ALIGN && access != MMU_EXEC &&
        !page_watched(cpu, linear & PAGE_MASK_4K)) {
        install(cpu, linear, index, &tr, pp,
                writable_now && pp->writable && ram_page_fully_dirty(pp->ram, pp->ram_offset));
    }
}

static void itlb_flush(X86Mmu *mmu, bool keep_global)
{
    mmu->generation += 2;
    if (!keep_global) {
        mmu->global_generation += 2;
        mmu->priv->itlb_large_low = UINT64_MAX;
        mmu->priv->itlb_large_high = 0;
    }
}

void mmu_flush(X86Cpu *cpu, bool keep_global)
{
    X86Mmu *mmu = cpu->mmu;
    MmuPrivate *p = mmu->priv;
    unsigned kept = 0;

    for (unsigned i = 0; i < p->used_count; i++) {
        unsigned slot = p->used[i];
        if (keep_global && (p->slot_flags[slot] & SLOT_GLOBAL)) {
            p->used[kept++] = (uint16_t)slot;
            continue;
        }
        slot_clear(mmu, slot);
        p->slot_flags[slot] = 0;
    }
    p->used_count = kept;
    if (kept == 0) {
        p->large_entries = false;
    }
    itlb_flush(mmu, keep_global);
}

void mmu_flush_physical(X86Cpu *cpu)
{
    phys_flush(cpu->mmu->priv);
    mmu_flush(cpu, false);
}

void mmu_flush_page(X86Cpu *cpu, uint64_t linear)
{
    X86Mmu *mmu = cpu->mmu;
    MmuPrivate *p = mmu->priv;
    uint64_t page = linear & PAGE_MASK_4K;

    for (unsigned index = 0; index < MMU_INDEXES; index++) {
        unsigned slot = index * TLB_SIZE + ((linear >> 12) & (TLB_SIZE - 1));
        if (p->slot_page[slot] == page) {
            slot_clear(mmu, slot);
        }
    }
    if (p->large_entries) {
        for (unsigned i = 0; i < p->used_count; i++) {
            unsigned slot = p->used[i];
            unsigned shift = p->slot_flags[slot] & SLOT_HUGE ? 30 : p->slot_flags[slot] & SLOT_LARGE ? 22 : 0;
            if (shift && (p->slot_page[slot] ^ linear) >> shift == 0) {
                slot_clear(mmu, slot);
            }
        }
    }
    if (linear >= p->itlb_large_low && linear <= p->itlb_large_high) {
        itlb_flush(mmu, false);
    } else {
        for (int user = 0; user < 2; user++) {
            ItlbEntry *e = &mmu->itlb[user][(linear >> 12) & (ITLB_SIZE - 1)];
            if (e->page == page) {
                e->generation = 0;
                mmu->code_drops++;
            }
        }
    }
}

void mmu_switch(X86Cpu *cpu, uint64_t new_cr3, bool no_flush)
{
    /* One context is cached at a time, so that even a switch that need not flush has to. */
    mmu_flush(cpu, true);
}

void mmu_invpcid(X86Cpu *cpu, unsigned type, uint64_t pcid, uint64_t linear)
{
    bool current = !(cpu->cr4 & CR4_PCIDE) ? pcid == 0 : (cpu->cr3 & 0xfff) == pcid;

    switch (type) {
    case 0:
        if (current) {
            mmu_flush_page(cpu, linear);
        }
        break;
    case 1:
        if (current) {
            mmu_flush(cpu, true);
        }
        break;
    case 2:
        mmu_flush(cpu, false);
        break;
    case 3:
        mmu_flush(cpu, true);
        break;
    }
}

/* ---- accesses ---- */

/* Canonical form and width of a linear address; an access of size bytes. */
static inline uint64_t check_linear(X86Cpu *cpu, uint64_t linear, unsigned size)
{
    if (!(cpu->efer & EFER_LMA)) {
        return linear & UINT32_MAX;
    }
    if (G_UNLIKELY(!x86_is_canonical(linear) || !x86_is_canonical(linear + size - 1))) {
        raise_noncanonical(cpu, linear);
    }
    return linear;
}

static inline void check_alignment(X86Cpu *cpu, uint64_t linear, unsigned size, MmuIndex index)
{
    if (G_UNLIKELY(index == MMU_USER_ALIGN) && (linear & (size - 1)) && size <= 8) {
        x86_raise_error(cpu, EXC_AC, 0);
    }
}

static inline void check_watch(X86Cpu *cpu, uint64_t linear, unsigned size, bool write)
{
    if (G_UNLIKELY(cpu->dr[7] & 0xff)) {
        x86_debug_data(cpu, linear, size, write);
    }
}

static inline uint64_t next_page(const X86Cpu *cpu, uint64_t linear)
{
    uint64_t next = (linear & PAGE_MASK_4K) + 4096;

    return cpu->efer & EFER_LMA ? next : next & UINT32_MAX;
}

/* Copies from or to a target piecewise, in the largest naturally aligned units, as a bus would split it. */
static void target_read(X86Cpu *cpu, const Target *t, uint8_t *buffer, unsigned size)
{
    if (t->host != NULL) {
        memcpy(buffer, t->host, size);
        return;
    }
    for (unsigned done = 0; done < size;) {
        uint64_t gpa = t->gpa + done;
        unsigned unit = 8;
        while (unit > size - done || (gpa & (unit - 1))) {
            unit /= 2;
        }
        uint64_t value = mmu_physical_load(cpu, gpa, unit);
        memcpy(buffer + done, &value, unit);
        done += unit;
    }
}

static void target_write(X86Cpu *cpu, const Target *t, const uint8_t *buffer, unsigned size)
{
    if (t->host != NULL && t->writable) {
        memcpy(t->host, buffer, size);
        mark_written(t->ram, t->ram_offset, size);
        return;
    }
    for (unsigned done = 0; done < size;) {
        uint64_t gpa = t->gpa + done;
        unsigned unit = 8;
        while (unit > size - done || (gpa & (unit - 1))) {
            unit /= 2;
        }
        uint64_t value = 0;
        memcpy(&value, buffer + done, unit);
        mmu_physical_store(cpu, gpa, value, unit);
        done += unit;
    }
}

uint64_t mmu_load_slow(X86Cpu *cpu, uint64_t linear, unsigned size, MmuIndex index)
{
    linear = check_linear(cpu, linear, size);
    check_alignment(cpu, linear, size, index);
    unsigned in_page = 4096 - (linear & 0xfff);
    Target first, second;
    uint64_t value = 0;

    if (G_LIKELY(size <= in_page)) {
        translate(cpu, linear, MMU_READ, index, &first);
        check_watch(cpu, linear, size, false);
        if (first.host != NULL) {
            memcpy(&value, first.host, size);
            return value;
        }
        return mmu_physical_load(cpu, first.gpa, size);
    }
    translate(cpu, linear, MMU_READ, index, &first);
    translate(cpu, next_page(cpu, linear), MMU_READ, index, &second);
    check_watch(cpu, linear, size, false);
    target_read(cpu, &first, (uint8_t *)&value, in_page);
    target_read(cpu, &second, (uint8_t *)&value + in_page, size - in_page);
    return value;
}

void mmu_store_slow(X86Cpu *cpu, uint64_t linear, uint64_t value, unsigned size, MmuIndex index)
{
    linear = check_linear(cpu, linear, size);
    check_alignment(cpu, linear, size, index);
    unsigned in_page = 4096 - (linear & 0xfff);
    Target first, second;

    if (G_LIKELY(size <= in_page)) {
        translate(cpu, linear, MMU_WRITE, index, &first);
        check_watch(cpu, linear, size, true);
        if (first.host != NULL && first.writable) {
            host_store(first.host, value, size);
            mark_written(first.ram, first.ram_offset, size);
        } else {
            mmu_physical_store(cpu, first.gpa, value, size);
        }
        return;
    }
    translate(cpu, linear, MMU_WRITE, index, &first);
    translate(cpu, next_page(cpu, linear), MMU_WRITE, index, &second);
    check_watch(cpu, linear, size, true);
    target_write(cpu, &first, (const uint8_t *)&value, in_page);
    target_write(cpu, &second, (const uint8_t *)&value + in_page, size - in_page);
}

#define RUN_PAGES 4

/* Translates every page of a run; returns how many there are, with the size of each part. */
static unsigned translate_run(X86Cpu *cpu, uint64_t linear, unsigned size, MmuAccess access, MmuIndex index,
                              Target targets[RUN_PAGES], unsigned sizes[RUN_PAGES])
{
    unsigned n = 0;

    while (size > 0 && n < RUN_PAGES) {
        unsigned part = MIN(size, 4096 - (unsigned)(linear & 0xfff));
        translate(cpu, linear, access, index, &targets[n]);
        sizes[n++] = part;
        size -= part;
        linear = next_page(cpu, linear);
    }
    return n;
}

static inline MmuIndex data_index(const X86Cpu *cpu)
{
    return (MmuIndex)cpu->mmu->index;
}

void x86_read_bytes(X86Cpu *cpu, uint64_t linear, void *buffer, unsigned size)
{
    MmuIndex index = data_index(cpu);
    TlbEntry *e = mmu_entry(cpu->mmu, index, linear);

    if (G_LIKELY(size <= 4096 && linear - e->tag[MMU_READ] <= 4096 - size)) {
        memcpy(buffer, (const void *)(linear + e->addend), size);
        return;
    }
    Target targets[RUN_PAGES];
    unsigned sizes[RUN_PAGES];
    uint8_t *out = buffer;
    linear = check_linear(cpu, linear, size);
    unsigned n = translate_run(cpu, linear, size, MMU_READ, index, targets, sizes);
    check_watch(cpu, linear, size, false);
    for (unsigned i = 0; i < n; i++) {
        target_read(cpu, &targets[i], out, sizes[i]);
        out += sizes[i];
    }
}

void x86_write_bytes(X86Cpu *cpu, uint64_t linear, const void *buffer, unsigned size)
{
    MmuIndex index = data_index(cpu);
    TlbEntry *e = mmu_entry(cpu->mmu, index, linear);

    if (G_LIKELY(size <= 4096 && linear - e->tag[MMU_WRITE] <= 4096 - size)) {
        memcpy((void *)(linear + e->addend), buffer, size);
        return;
    }
    Target targets[RUN_PAGES];
    unsigned sizes[RUN_PAGES];
    const uint8_t *in = buffer;
    linear = check_linear(cpu, linear, size);
    unsigned n = translate_run(cpu, linear, size, MMU_WRITE, index, targets, sizes);
    check_watch(cpu, linear, size, true);
    for (unsigned i = 0; i < n; i++) {
        target_write(cpu, &targets[i], in, sizes[i]);
        in += sizes[i];
    }
}

void x86_probe(X86Cpu *cpu, uint64_t linear, unsigned size, MmuAccess access)
{
    x86_probe_idx(cpu, linear, size, access, data_index(cpu));
}

void x86_probe_idx(X86Cpu *cpu, uint64_t linear, unsigned size, MmuAccess access, MmuIndex index)
{
    Target targets[RUN_PAGES];
    unsigned sizes[RUN_PAGES];

    if (size == 0) {
        return;
    }
    TlbEntry *e = mmu_entry(cpu->mmu, index, linear);
    if (size <= 4096 && linear - e->tag[access] <= 4096 - size) {
        return;
    }
    linear = check_linear(cpu, linear, size);
    translate_run(cpu, linear, size, access, index, targets, sizes);
}

void *x86_rmw_pointer(X86Cpu *cpu, uint64_t linear, unsigned size)
{
    MmuIndex index = data_index(cpu);
    TlbEntry *e = mmu_entry(cpu->mmu, index, linear);

    if (G_LIKELY(linear - e->tag[MMU_WRITE] <= 4096 - size)) {
        return (void *)(linear + e->addend);
    }
    linear = check_linear(cpu, linear, size);
    check_alignment(cpu, linear, size, index);
    if ((linear & 0xfff) + size > 4096) {
        /* The fault, if any, is a write's even where the instruction reads first. */
        x86_probe_idx(cpu, linear, size, MMU_WRITE, index);
        return NULL;
    }
    Target target;
    translate(cpu, linear, MMU_WRITE, index, &target);
    if (target.host == NULL || !target.writable || page_watched(cpu, linear & PAGE_MASK_4K)) {
        return NULL;
    }
    if (e->tag[MMU_WRITE] != (linear & PAGE_MASK_4K)) {
        /* The page is written ahead of the access; only with the tag in place does a clearing thread wait for
         * it. */
        mark_written(target.ram, target.ram_offset, size);
        translate(cpu, linear, MMU_WRITE, index, &target);
        if (e->tag[MMU_WRITE] != (linear & PAGE_MASK_4K)) {
            return NULL;
        }
    }
    return target.host;
}

void mmu_lock_slow_begin(X86Cpu *cpu)
{
    bool was = mmu_suspend(cpu);

    pthread_mutex_lock(&slow_lock);
    mmu_resume(cpu, was);
    cpu->mmu->priv->lock_slow_held = true;
}

void mmu_lock_slow_end(X86Cpu *cpu)
{
    cpu->mmu->priv->lock_slow_held = false;
    pthread_mutex_unlock(&slow_lock);
}

void mmu_lock_slow_abort(X86Cpu *cpu)
{
    if (cpu->mmu != NULL && G_UNLIKELY(cpu->mmu->priv->lock_slow_held)) {
        mmu_lock_slow_end(cpu);
    }
}

void x86_code_page_slow(X86Cpu *cpu, uint64_t linear, CodePage *page)
{
    X86Mmu *mmu = cpu->mmu;
    MmuPrivate *p = mmu->priv;
    bool user = cpu->cpl == 3;
    MmuTranslation tr;
    bool writable_now;
    uint32_t error_code;

    linear = check_linear(cpu, linear, 1);
    if (!walk(cpu, linear, MMU_EXEC, user ? MMU_USER : MMU_KERNEL, &tr, &writable_now, &error_code)) {
        raise_page_fault(cpu, linear, error_code);
    }
    uint64_t gpa = a20(cpu, tr.gpa);
    PhysPage *pp = phys_lookup(cpu, gpa);
    ItlbEntry *e = &mmu->itlb[user][(linear >> 12) & (ITLB_SIZE - 1)];
    e->page = linear & PAGE_MASK_4K;
    e->global = tr.global;
    e->generation = tr.global ? mmu->global_generation : mmu->generation;
    e->code = (CodePage){
        .gpa = gpa & PAGE_MASK_4K, .host = pp->host, .ram = pp->ram, .ram_offset = pp->ram_offset
    };
    if (tr.page_size > 4096) {
        p->itlb_large_low = MIN(p->itlb_large_low, linear & ~(tr.page_size - 1));
        p->itlb_large_high = MAX(p->itlb_large_high, linear | (tr.page_size - 1));
    }
    if (pp->host != NULL) {
        /* The executor's block links are checked against the host page that this tag gives. */
        unsigned slot = claim_slot(cpu, linear & PAGE_MASK_4K, user ? MMU_USER : MMU_KERNEL, &tr, pp);
        slot_entry(mmu, slot)->tag[MMU_EXEC] = linear & PAGE_MASK_4K;
    }
    *page = e->code;
    page->gpa = gpa;
}

uint8_t x86_fetch_slow(X86Cpu *cpu, uint64_t linear)
{
    CodePage page;

    x86_code_page(cpu, linear, &page);
    if (page.host != NULL) {
        return page.host[linear & 0xfff];
    }
    return (uint8_t)mmu_physical_load(cpu, page.gpa, 1);
}

/* ---- what other threads ask for ---- */

/* Takes the write tags of a range of host memory away. */
static void drop_write_tags(X86Mmu *mmu, const uint8_t *low, const uint8_t *high)
{
    MmuPrivate *p = mmu->priv;

    for (unsigned i = 0; i < p->used_count; i++) {
        unsigned slot = p->used[i];
        TlbEntry *e = slot_entry(mmu, slot);
        if (e->tag[MMU_WRITE] == tag_none(slot)) {
            continue;
        }
        const uint8_t *host = (const uint8_t *)(e->tag[MMU_WRITE] + (uint64_t)e->addend);
        if (host + 4096 > low && host < high) {
            __atomic_store_n(&e->tag[MMU_WRITE], tag_none(slot), __ATOMIC_RELEASE);
        }
    }
}

void mmu_process_pending(X86Cpu *cpu)
{
    X86Mmu *mmu = cpu->mmu;
    MmuPrivate *p = mmu->priv;

    pthread_mutex_lock(&p->lock);
    p->thread = pthread_self();
    p->thread_known = true;
    if (p->flush_all) {
        phys_flush(p);
        mmu_flush(cpu, false);
    } else if (p->pending_overflow) {
        mmu_flush(cpu, false);
    } else {
        for (unsigned i = 0; i < p->pending_count; i++) {
            drop_write_tags(mmu, p->pending[i].low, p->pending[i].high);
        }
    }
    p->flush_all = p->pending_overflow = false;
    p->pending_count = 0;
    cpu_interrupt_clear(cpu, CPU_INTERRUPT_TLB);
    pthread_mutex_unlock(&p->lock);
}

void mmu_flush_later(X86Cpu *cpu)
{
    if (cpu->mmu == NULL) {
        return;
    }
    MmuPrivate *p = cpu->mmu->priv;

    pthread_mutex_lock(&p->lock);
    p->flush_all = true;
    pthread_mutex_unlock(&p->lock);
    cpu_interrupt(cpu, CPU_INTERRUPT_TLB);
}

static void wait_for_boundary(X86Cpu *cpu)
{
    gint64 start_us = 0;

    for (unsigned spins = 0; __atomic_load_n(&cpu->executing, __ATOMIC_SEQ_CST) &&
                             (__atomic_load_n(&cpu->interrupt_request, __ATOMIC_ACQUIRE) & CPU_INTERRUPT_TLB);
         spins++) {
        if (spins < 200) {
            __builtin_ia32_pause();
            continue;
        }
        gint64 now_us = g_get_monotonic_time();
        if (start_us == 0) {
            start_us = now_us;
        } else if (now_us > start_us + BOUNDARY_WAIT_NS / 1000) {
            break;
        }
        if (now_us < start_us + 50) {
            sched_yield();
        } else {
            g_usleep(20); /* it needs a CPU, perhaps this one */
        }
    }
}

/* Whether another vCPU's TLB may hold a write tag of the range. That vCPU goes on meanwhile: a tag that it
 * installs later is checked against the dirty bits once more (install), and a store through a tag that it has
 * given up is done. */
static bool may_have_write_tag(const X86Mmu *mmu, const uint8_t *low, const uint8_t *high)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (unsigned slot = 0; slot < MMU_USER_ALIGN * TLB_SIZE; slot++) {
        const TlbEntry *e = &mmu->tlb[0][0] + slot;
        uint64_t tag = __atomic_load_n(&e->tag[MMU_WRITE], __ATOMIC_ACQUIRE);
        if (tag == tag_none(slot)) {
            continue;
        }
        const uint8_t *host =
            (const uint8_t *)(tag + (uint64_t)__atomic_load_n(&e->addend, __ATOMIC_ACQUIRE));
        if ((host + 4096 > low && host < high) ||
            __atomic_load_n(&e->tag[MMU_WRITE], __ATOMIC_ACQUIRE) != tag) {
            return true;
        }
    }
    return false;
}

static void dirty_cleared(RamListener *l, RamBlock *block, uint64_t offset, uint64_t length)
{
    MmuPrivate *p = (MmuPrivate *)((char *)l - offsetof(MmuPrivate, ram_listener));
    X86Cpu *cpu = p->cpu;
    const uint8_t *low = block->host + (offset & PAGE_MASK_4K);
    const uint8_t *high = block->host + offset + length;

    pthread_mutex_lock(&p->lock);
    if (p->thread_known && pthread_equal(p->thread, pthread_self())) {
        drop_write_tags(cpu->mmu, low, high);
        pthread_mutex_unlock(&p->lock);
        return;
    }
    if (!may_have_write_tag(cpu->mmu, low, high)) {
        pthread_mutex_unlock(&p->lock);
        return;
    }
    if (p->pending_count < PENDING_MAX) {
        p->pending[p->pending_count].low = low;
        p->pending[p->pending_count].high = high;
        p->pending_count++;
    } else {
        p->pending_overflow = true;
    }
    pthread_mutex_unlock(&p->lock);
    cpu_interrupt(cpu, CPU_INTERRUPT_TLB);
    wait_for_boundary(cpu);
}

static void section_added(MmuPrivate *p, const MemoryRegionSection *section)
{
    RamBlock *block = section->region->ram;

    if (block == NULL) {
        return;
    }
    unsigned count = GPOINTER_TO_UINT(g_hash_table_lookup(p->blocks, block));
    if (count == 0) {
        ram_add_listener(block, &p->ram_listener);
    }
    g_hash_table_insert(p->blocks, block, GUINT_TO_POINTER(count + 1));
}

static void section_removed(MmuPrivate *p, const MemoryRegionSection *section)
{
    RamBlock *block = section->region->ram;

    if (block == NULL) {
        return;
    }
    unsigned count = GPOINTER_TO_UINT(g_hash_table_lookup(p->blocks, block));
    if (count <= 1) {
        if (count == 1) {
            ram_remove_listener(block, &p->ram_listener);
        }
        g_hash_table_remove(p->blocks, block);
    } else {
        g_hash_table_insert(p->blocks, block, GUINT_TO_POINTER(count - 1));
    }
}

#define FROM_LISTENER(l, field) ((MmuPrivate *)((char *)(l)-offsetof(MmuPrivate, field)))

static void memory_section_add(MemoryListener *l, const MemoryRegionSection *section)
{
    section_added(FROM_LISTENER(l, memory_listener), section);
}

static void memory_section_del(MemoryListener *l, const MemoryRegionSection *section)
{
    section_removed(FROM_LISTENER(l, memory_listener), section);
}

static void memory_commit(MemoryListener *l)
{
    mmu_flush_later(FROM_LISTENER(l, memory_listener)->cpu);
}

static void smram_section_add(MemoryListener *l, const MemoryRegionSection *section)
{
    section_added(FROM_LISTENER(l, smram_listener), section);
}

static void smram_section_del(MemoryListener *l, const MemoryRegionSection *section)
{
    section_removed(FROM_LISTENER(l, smram_listener), section);
}

static void smram_commit(MemoryListener *l)
{
    mmu_flush_later(FROM_LISTENER(l, smram_listener)->cpu);
}

X86Mmu *mmu_new(X86Cpu *cpu)
{
    X86Mmu *mmu = g_aligned_alloc0(1, sizeof(X86Mmu), 64);
    MmuPrivate *p = g_new0(MmuPrivate, 1);

    mmu->priv = p;
    mmu->generation = 1; /* 0 marks an empty entry; the two count apart so that neither matches the other's */
    mmu->global_generation = 2;
    p->cpu = cpu;
    p->itlb_large_low = UINT64_MAX;
    pthread_mutex_init(&p->lock, NULL);
    for (unsigned slot = 0; slot < MMU_INDEXES * TLB_SIZE; slot++) {
        slot_clear(mmu, slot);
    }
    phys_flush(p);
    p->blocks = g_hash_table_new(NULL, NULL);
    p->ram_listener = (RamListener){ .dirty_cleared = dirty_cleared };
    p->memory_listener = (MemoryListener){
        .name = "cpu-memory",
        .region_add = memory_section_add,
        .region_del = memory_section_del,
        .commit = memory_commit,
    };
    p->smram_listener = (MemoryListener){
        .name = "cpu-smram",
        .region_add = smram_section_add,
        .region_del = smram_section_del,
        .commit = smram_commit,
    };
    cpu->mmu = mmu;
    if (cpu->env.memory != NULL) {
        memory_listener_add(&p->memory_listener, cpu->env.memory);
    }
    if (cpu->env.smram != NULL && cpu->env.smram != cpu->env.memory) {
        memory_listener_add(&p->smram_listener, cpu->env.smram);
    }
    return mmu;
}

void mmu_free(X86Mmu *mmu)
{
    if (mmu == NULL) {
        return;
    }
    MmuPrivate *p = mmu->priv;
    if (p->memory_listener.as != NULL) {
        memory_listener_remove(&p->memory_listener);
    }
    if (p->smram_listener.as != NULL) {
        memory_listener_remove(&p->smram_listener);
    }
    GHashTableIter it;
    gpointer block;
    g_hash_table_iter_init(&it, p->blocks);
    while (g_hash_table_iter_next(&it, &block, NULL)) {
        ram_remove_listener(block, &p->ram_listener);
    }
    g_hash_table_unref(p->blocks);
    pthread_mutex_destroy(&p->lock);
    g_free(p);
    g_aligned_free(mmu);
}
