/*
 * Page walks (SDM vol. 3 chapter 4) and what fills the TLB.
 *
 * mmu_refill() runs with the guest's vector registers live and its thread inside translated code, so this
 * file is compiled without vector instructions and calls nothing outside itself, but through MmuSlow, which
 * mmu_refill() does not have (a test looks at the object). What it cannot do that way it leaves to the
 * interpreter.
 *
 * Paging-structure cache (4.10.3): the last table of a walk by the linear address's upper bits. An entry
 * counts under its context's walk_generation only, and is made only where all entries above have A set.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/cpuid.h"
#include "arch/x86/mmu_internal.h"

#define PTE_P       UINT64_C(1)
#define PTE_W       UINT64_C(2)
#define PTE_U       UINT64_C(4)
#define PTE_A       UINT64_C(0x20)
#define PTE_D       UINT64_C(0x40)
#define PTE_PS      UINT64_C(0x80)
#define PTE_G       UINT64_C(0x100)
#define PTE_NX      (UINT64_C(1) << 63)
#define PTE_KEY(v)  ((unsigned)((v) >> 59) & 15)
#define PTE_ADDRESS UINT64_C(0x000ffffffffff000)

#define PF_P    1u
#define PF_W    2u
#define PF_U    4u
#define PF_RSVD 8u
#define PF_I    16u
#define PF_PK   32u

/* How often another vCPU may change an entry below the light walk. */
#define LIGHT_TRIES 8

/* An entry of a paging structure: where it is and what it held when read. */
typedef struct Pte {
    uint64_t value;
    uint64_t gpa;
    uint8_t *host; /* NULL: not in RAM */
    unsigned size; /* 4 or 8 */
} Pte;

typedef struct WalkResult {
    Pte leaf;
    uint64_t rights; /* PTE_W and PTE_U, combined over the levels */
    bool nx;
    unsigned shift; /* log2 of the page size */
    MmuPde *cached; /* the entry of the paging-structure cache that was used */
} WalkResult;

enum { WALK_OK, WALK_NOT_PRESENT, WALK_RESERVED, WALK_AGAIN, WALK_UNABLE };

/* Reads an entry; false: it cannot be had this way. */
static inline bool pte_load(X86Cpu *cpu, Pte *pte, const MmuSlow *slow)
{
    uint64_t gpa = mmu_a20(cpu, pte->gpa);

    pte->host = NULL;
    if (slow == NULL || !slow->debug) {
        const MmuRam *ram = mmu_ram_at(cpu->mmu->priv, gpa);
        if (G_LIKELY(ram != NULL)) {
            pte->host = ram->host + (gpa - ram->gpa);
            pte->value = pte->size == 8 ? __atomic_load_n((const uint64_t *)pte->host, __ATOMIC_ACQUIRE)
                                        : __atomic_load_n((const uint32_t *)pte->host, __ATOMIC_ACQUIRE);
            return true;
        }
    }
    if (slow == NULL) {
        return false;
    }
    pte->value = slow->load(cpu, gpa, pte->size);
    return true;
}

/* Sets bits of an entry unless it changed meanwhile (WALK_AGAIN). Tables outside RAM keep what they are. */
static int pte_set(X86Cpu *cpu, Pte *pte, uint64_t bits, const MmuSlow *slow)
{
    MmuPrivate *p = cpu->mmu->priv;
    uint64_t gpa = mmu_a20(cpu, pte->gpa);
    const MmuRam *ram = pte->host != NULL ? mmu_ram_at(p, gpa) : NULL;

    if (ram == NULL) {
        return slow == NULL                                       ? WALK_UNABLE
               : slow->set(cpu, gpa, pte->value, bits, pte->size) ? WALK_OK
                                                                  : WALK_AGAIN;
    }
    if (!ram->writable) {
        return WALK_OK;
    }
    uint64_t offset = ram->ram_offset + (gpa - ram->gpa);
    if (slow == NULL && !ram_page_fully_dirty(ram->ram, offset)) {
        return WALK_UNABLE;
    }
    bool done;
    if (pte->size == 8) {
        uint64_t expected = pte->value;
        done = __atomic_compare_exchange_n((uint64_t *)pte->host, &expected, pte->value | bits, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        uint32_t expected = (uint32_t)pte->value;
        done = __atomic_compare_exchange_n((uint32_t *)pte->host, &expected, (uint32_t)(pte->value | bits),
                                           false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    if (!done) {
        return WALK_AGAIN;
    }
    pte->value |= bits;
    if (!ram_page_fully_dirty(ram->ram, offset)) {
        if (slow ==
            NULL) { /* somebody cleared it just now: the interpreter's walk tells of this write, too */
            p->late_ram = ram->ram;
            p->late_offset = offset;
            return WALK_UNABLE;
        }
        slow->written(ram->ram, offset, pte->size);
    }
    return WALK_OK;
}

/* 32-bit paging, 4.3 */
static int walk_legacy(X86Cpu *cpu, uint64_t linear, const MmuSlow *slow, WalkResult *r)
{
    Pte pde = { .gpa = (cpu->cr3 & 0xfffff000) + ((linear >> 22) & 0x3ff) * 4, .size = 4 };

    if (!pte_load(cpu, &pde, slow)) {
        return WALK_UNABLE;
    }
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
    if (!(pde.value & PTE_A) && !(slow != NULL && slow->debug)) {
        int status = pte_set(cpu, &pde, PTE_A, slow);
        if (status != WALK_OK) {
            return status;
        }
    }
    Pte pte = { .gpa = (pde.value & 0xfffff000) + ((linear >> 12) & 0x3ff) * 4, .size = 4 };
    if (!pte_load(cpu, &pte, slow)) {
        return WALK_UNABLE;
    }
    if (!(pte.value & PTE_P)) {
        return WALK_NOT_PRESENT;
    }
    r->rights &= pte.value;
    r->leaf = pte;
    r->shift = 12;
    return WALK_OK;
}

static inline MmuPde *pde_of(MmuPrivate *p, unsigned context, uint64_t linear)
{
    return &p->pdes[((unsigned)(linear >> 21) ^ (context * (PDE_CACHE_SIZE / MMU_CONTEXTS + 1))) &
                    (PDE_CACHE_SIZE - 1)];
}

static inline __attribute__((always_inline)) int walk_tables(X86Cpu *cpu, uint64_t linear,
                                                             const MmuSlow *slow, WalkResult *r)
{
    MmuPrivate *p = cpu->mmu->priv;
    bool debug = slow != NULL && slow->debug;
    uint64_t high = PTE_ADDRESS & ~((UINT64_C(1) << cpu->phys_bits) - 1);

    r->rights = PTE_W | PTE_U;
    r->nx = false;
    r->cached = NULL;
    if (!(cpu->cr4 & CR4_PAE)) {
        return walk_legacy(cpu, linear, slow, r);
    }
    uint64_t reserved = high | (cpu->efer & EFER_NXE ? 0 : PTE_NX);
    bool lma = cpu->efer & EFER_LMA;
    if (!lma) {
        reserved |= UINT64_C(0x7ff0000000000000); /* PAE paging: bits 62 to 52 are reserved too */
    }

    MmuPde *cached = debug ? NULL : pde_of(p, cpu->mmu->context, linear);
    if (!debug && cached->region == linear >> 21 && cached->generation == p->walk_generation) {
        uint64_t at = ((linear >> 12) & 0x1ff) * 8;
        Pte pte = { .gpa = (cached->gpa & PTE_ADDRESS) + at, .host = cached->host + at, .size = 8 };
        pte.value = __atomic_load_n((const uint64_t *)pte.host, __ATOMIC_ACQUIRE);
        r->cached = cached;
        if (!(pte.value & PTE_P)) {
            return WALK_NOT_PRESENT;
        }
        if (pte.value & reserved) {
            return WALK_RESERVED;
        }
        r->rights = cached->gpa & pte.value & (PTE_W | PTE_U);
        r->nx = (cached->gpa | pte.value) >> 63;
        r->leaf = pte;
        r->shift = 12;
        return WALK_OK;
    }

    uint64_t table;
    int level;
    if (lma) {
        table = cpu->cr3 & PTE_ADDRESS;
        level = 4;
    } else {
        Pte pdpte = { .gpa = (cpu->cr3 & 0xffffffe0) + ((linear >> 30) & 3) * 8, .size = 8 };
        if (!pte_load(cpu, &pdpte, slow)) {
            return WALK_UNABLE;
        }
        if (!(pdpte.value & PTE_P)) {
            return WALK_NOT_PRESENT;
        }
        if (pdpte.value & (high | UINT64_C(0x1e6) | UINT64_C(0xfff0000000000000))) {
            return WALK_RESERVED;
        }
        table = pdpte.value & PTE_ADDRESS;
        level = 2;
    }
    uint64_t upper_rights = r->rights;
    bool upper_nx = false, upper_accessed = true;
    for (;; level--) {
        unsigned shift = 12 + 9 * (unsigned)(level - 1);
        Pte pte = { .gpa = table + ((linear >> shift) & 0x1ff) * 8, .size = 8 };
        if (!pte_load(cpu, &pte, slow)) {
            return WALK_UNABLE;
        }
        if (!(pte.value & PTE_P)) {
            return WALK_NOT_PRESENT;
        }
        bool large = level > 1 && (pte.value & PTE_PS);
        uint64_t reserved_here = reserved;
        if (level == 4 || (level == 3 && !cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_PDPE1GB))) {
            reserved_here |= PTE_PS;
        }
        if (large) {
            reserved_here |= ((UINT64_C(1) << shift) - 1) & ~UINT64_C(0x1fff);
        }
        if (pte.value & reserved_here) {
            return WALK_RESERVED;
        }
        upper_rights = r->rights;
        upper_nx = r->nx;
        r->rights &= pte.value;
        r->nx |= pte.value >> 63;
        if (large || level == 1) {
            if (level == 1 && !debug && upper_accessed && pte.host != NULL) {
                *cached = (MmuPde){
                    .region = linear >> 21,
                    .generation = p->walk_generation,
                    .gpa = table | upper_rights | (upper_nx ? PTE_NX : 0),
                    .host = pte.host - ((linear >> 12) & 0x1ff) * 8,
                };
            }
            r->leaf = pte;
            r->shift = shift;
            return WALK_OK;
        }
        if (!(pte.value & PTE_A) && !debug) {
            int status = pte_set(cpu, &pte, PTE_A, slow);
            if (status != WALK_OK) {
                return status;
            }
            upper_accessed &= (pte.value & PTE_A) != 0; /* tables in ROM do not change */
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

bool mmu_walk_look(X86Cpu *cpu, uint64_t linear, const MmuSlow *slow, uint64_t *gpa)
{
    WalkResult r;

    if (walk_tables(cpu, linear, slow, &r) != WALK_OK) {
        return false;
    }
    *gpa = leaf_gpa(&r, linear);
    return true;
}

/* What protection keys take away (SDM vol. 3 4.6.2): bit 0 any access to data, bit 1 writes. */
static inline unsigned key_denies(X86Cpu *cpu, uint64_t leaf, bool user_page, bool user)
{
    if (G_LIKELY(!(cpu->cr4 & (user_page ? CR4_PKE : CR4_PKS))) || !(cpu->efer & EFER_LMA)) {
        return 0;
    }
    unsigned key = PTE_KEY(leaf);
    cpu->mmu->priv->keys_seen[user_page] |= (uint16_t)(1u << key);
    unsigned denies = (user_page ? cpu->pkru : cpu->pkrs) >> (2 * key) & 3;
    return user || (cpu->cr0 & CR0_WP) ? denies : denies & 1;
}

/* Once with and once without the slow ways. */
static inline __attribute__((always_inline)) MmuWalkEnd run(X86Cpu *cpu, uint64_t linear, MmuAccess access,
                                                            MmuIndex index, const MmuSlow *slow,
                                                            MmuTranslation *out, bool *writable_now,
                                                            uint32_t *error_code)
{
    bool user = index >= MMU_USER;

    if (!(cpu->cr0 & CR0_PG)) {
        *out = (MmuTranslation){ .gpa = linear, .page_size = 4096, .writable = true, .user = true };
        *writable_now = true;
        return MMU_WALK_DONE;
    }
    bool nxe = (cpu->efer & EFER_NXE) && (cpu->cr4 & CR4_PAE);
    uint32_t error = (access == MMU_WRITE ? PF_W : 0) | (user ? PF_U : 0);
    if (access == MMU_EXEC && (nxe || (cpu->cr4 & CR4_SMEP))) {
        error |= PF_I;
    }
    for (unsigned tries = 0;; tries++) {
        WalkResult r;
        if (slow == NULL && tries == LIGHT_TRIES) {
            return MMU_WALK_UNABLE;
        }
        int status = walk_tables(cpu, linear, slow, &r);
        bool denied = false, user_page = false, may_write = false, key_denied = false;
        if (status == WALK_OK) {
            user_page = r.rights & PTE_U;
            may_write = (r.rights & PTE_W) || (!user && !(cpu->cr0 & CR0_WP));
            denied = user && !user_page;
            denied |= access == MMU_WRITE && !may_write;
            denied |= access == MMU_EXEC && nxe && r.nx;
            unsigned keys = key_denies(cpu, r.leaf.value, user_page, user);
            may_write &= keys == 0;
            if (access != MMU_EXEC && (keys & (access == MMU_WRITE ? 3 : 1))) {
                denied = key_denied = true;
            }
            if (!user && user_page) {
                denied |= access == MMU_EXEC && (cpu->cr4 & CR4_SMEP);
                denied |= access != MMU_EXEC && (cpu->cr4 & CR4_SMAP) && index == MMU_KERNEL;
            }
            if (!denied) {
                uint64_t bits = PTE_A | (access == MMU_WRITE ? PTE_D : 0);
                if ((r.leaf.value & bits) != bits) {
                    status = pte_set(cpu, &r.leaf, bits, slow);
                }
            }
        }
        if (status == WALK_AGAIN) {
            continue;
        }
        if (status == WALK_UNABLE) {
            return MMU_WALK_UNABLE;
        }
        if (status != WALK_OK || denied) {
            if (r.cached != NULL) {
                /* A page fault drops what would be used for its address, and must not come from that alone
                 * (4.10.4.1). */
                r.cached->generation = 0;
                continue;
            }
            *error_code = error | (key_denied ? PF_PK : 0) |
                          (denied                    ? PF_P
                           : status == WALK_RESERVED ? PF_P | PF_RSVD
                                                     : 0);
            return MMU_WALK_FAULT;
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
        return MMU_WALK_DONE;
    }
}

MmuWalkEnd mmu_walk_run(X86Cpu *cpu, uint64_t linear, MmuAccess access, MmuIndex index, const MmuSlow *slow,
                        MmuTranslation *out, bool *writable_now, uint32_t *error_code)
{
    return run(cpu, linear, access, index, slow, out, writable_now, error_code);
}

/* ---- the TLB ---- */

unsigned mmu_claim_slot(X86Cpu *cpu, uint64_t page, MmuIndex index, const MmuTranslation *tr,
                        const uint8_t *host)
{
    MmuPrivate *p = cpu->mmu->priv;
    MmuTable *t = mmu_table_of(cpu->mmu, index);
    unsigned slot = (page >> 12) & (TLB_SIZE - 1);
    TlbEntry *e = &t->entries[slot];
    intptr_t addend = (intptr_t)host - (intptr_t)page;
    uint8_t before = t->flags[slot], flags = SLOT_LISTED | (before & SLOT_LOCAL_LISTED);

    if (!entry_holds(e, page) || e->addend != addend) {
        if (e->tag[MMU_WRITE] != tag_none(slot)) {
            /* First this, then that: who looks for the tag looks here afterwards. */
            mmu_note_replaced(cpu->mmu);
        }
        slot_clear(e, slot);
        __atomic_store_n(&e->addend, addend, __ATOMIC_RELEASE);
    }
    if (tr->page_size > 4096) {
        bool huge = tr->page_size == UINT64_C(1) << 30;
        flags |= huge ? SLOT_HUGE : SLOT_LARGE;
        regions_add(&t->regions, page, huge);
    }
    if (tr->global) {
        flags |= SLOT_GLOBAL;
        if (index != MMU_KERNEL) {
            p->spread_low = MIN(p->spread_low, page & ~(tr->page_size - 1));
            p->spread_high = MAX(p->spread_high, page | (tr->page_size - 1));
        }
    } else if (index == MMU_KERNEL && !(flags & SLOT_LOCAL_LISTED)) {
        flags |= SLOT_LOCAL_LISTED;
        t->local[t->local_count++] = (uint16_t)slot;
    }
    if (!(before & SLOT_LISTED)) {
        __atomic_store_n(&t->used[t->used_count], (uint16_t)slot, __ATOMIC_RELEASE);
        __atomic_store_n(&t->used_count, t->used_count + 1, __ATOMIC_RELEASE);
    }
    t->flags[slot] = flags;
    return slot;
}

bool mmu_install(X86Cpu *cpu, uint64_t linear, MmuIndex index, const MmuTranslation *tr, const uint8_t *host,
                 const RamBlock *ram, uint64_t ram_offset, bool write)
{
    uint64_t page = linear & PAGE_MASK_4K;
    unsigned slot = mmu_claim_slot(cpu, page, index, tr, host);
    TlbEntry *e = &cpu->mmu->table[index][slot];

    e->tag[MMU_READ] = page;
    if (write && ram_page_fully_dirty(ram, ram_offset)) {
        if (G_UNLIKELY(cpu->mmu->write_watch != NULL)) {
            cpu->mmu->write_watch(cpu, (uint8_t *)host, e, tag_none(slot));
        }
        uint64_t *written = &mmu_table_of(cpu->mmu, index)->written[written_bit(host) / 64];
        __atomic_store_n(written, *written | UINT64_C(1) << (written_bit(host) % 64), __ATOMIC_RELEASE);
        /* Invariant 2: whoever clears the bit either sees the tag or is seen here. */
        __atomic_exchange_n(&e->tag[MMU_WRITE], page, __ATOMIC_SEQ_CST);
        if (G_LIKELY(ram_page_fully_dirty(ram, ram_offset))) {
            return true;
        }
    }
    __atomic_store_n(&e->tag[MMU_WRITE], tag_none(slot), __ATOMIC_RELEASE);
    return false;
}

bool mmu_refill(X86Cpu *cpu, uint64_t linear, MmuAccess access)
{
    X86Mmu *mmu = cpu->mmu;
    MmuIndex index = (MmuIndex)mmu->index;
    MmuTranslation tr;
    bool writable_now;
    uint32_t error_code;

    if (index == MMU_USER_ALIGN || (cpu->efer & EFER_LMA ? !x86_is_canonical(linear) : linear > UINT32_MAX) ||
        mmu_page_watched(cpu, linear & PAGE_MASK_4K)) {
        return false;
    }
    if (run(cpu, linear, access, index, NULL, &tr, &writable_now, &error_code) != MMU_WALK_DONE) {
        return false;
    }
    uint64_t gpa = mmu_a20(cpu, tr.gpa) & PAGE_MASK_4K;
    const MmuRam *ram = mmu_ram_at(mmu->priv, gpa);
    if (ram == NULL) {
        return false;
    }
    bool write = mmu_install(cpu, linear, index, &tr, ram->host + (gpa - ram->gpa), ram->ram,
                             ram->ram_offset + (gpa - ram->gpa), writable_now && ram->writable);
    return access == MMU_READ || (access == MMU_WRITE && write);
}

/* So that what is looked through for a page's right to be written is bounded. */
#define MMU_LOOK_MAX (UINT64_C(2) << 20)

static bool range_has_own_page(const MmuPrivate *p, uint64_t gpa, uint64_t size)
{
    return p->own_page - gpa < size;
}

bool mmu_look(X86Cpu *cpu, uint64_t linear, MmuAccess access, MmuLook *out)
{
    X86Mmu *mmu = cpu->mmu;
    MmuTranslation tr;
    bool writable_now;
    uint32_t error_code;

    if (cpu->mmu->index != MMU_USER || !x86_is_canonical(linear) || (cpu->dr[7] & 0xff) || cpu->debugger ||
        mmu->write_watch ||
        run(cpu, linear, access, MMU_USER, NULL, &tr, &writable_now, &error_code) != MMU_WALK_DONE ||
        tr.global) {
        return false;
    }
    uint64_t gpa = mmu_a20(cpu, tr.gpa) & PAGE_MASK_4K, page = linear & PAGE_MASK_4K, size = 4096;
    const MmuRam *ram = mmu_ram_at(mmu->priv, gpa);
    if (ram == NULL) {
        return false;
    }
    uint64_t before = page & (tr.page_size - 1), from = gpa - ram->gpa;
    if (tr.page_size > 4096 && tr.page_size <= MMU_LOOK_MAX && from >= before && !cpu->a20_masked &&
        ram->size - (from - before) >= tr.page_size &&
        !range_has_own_page(mmu->priv, gpa - before, tr.page_size)) {
        from -= before;
        page -= before;
        size = tr.page_size;
    }
    *out = (MmuLook){ .host = ram->host + from,
                      .ram = ram->ram,
                      .ram_offset = ram->ram_offset + from,
                      .linear = page,
                      .size = size,
                      .writable = writable_now && ram->writable };
    for (uint64_t at = 0; at < size && out->writable; at += 4096) {
        out->writable = ram_page_fully_dirty(ram->ram, out->ram_offset + at);
    }
    if (access == MMU_WRITE && !out->writable && size > 4096) {
        /* The one page, perhaps. */
        out->writable =
            writable_now && ram->writable && ram_page_fully_dirty(ram->ram, out->ram_offset + before);
        out->host += before;
        out->ram_offset += before;
        out->linear += before;
        out->size = 4096;
    }
    return access != MMU_WRITE || out->writable;
}

/* ---- the interpreter's misses ---- */

/* Where a plain access that lies in one page goes, with the TLB filled for the next one; NULL: all else. */
static inline uint8_t *quick_host(X86Cpu *cpu, uint64_t linear, unsigned size, MmuAccess access,
                                  MmuIndex index)
{
    if (G_UNLIKELY(index != (MmuIndex)cpu->mmu->index || (linear & 0xfff) + size > 4096) ||
        !mmu_refill(cpu, linear, access)) {
        return NULL;
    }
    return (uint8_t *)(linear + (uint64_t)mmu_entry_now(cpu, linear)->addend);
}

uint64_t mmu_load_slow(X86Cpu *cpu, uint64_t linear, unsigned size, MmuIndex index)
{
    const uint8_t *host = quick_host(cpu, linear, size, MMU_READ, index);

    return host != NULL ? host_load(host, size) : mmu_load_general(cpu, linear, size, index);
}

void mmu_store_slow(X86Cpu *cpu, uint64_t linear, uint64_t value, unsigned size, MmuIndex index)
{
    uint8_t *host = quick_host(cpu, linear, size, MMU_WRITE, index);

    if (host != NULL) {
        host_store(host, value, size);
        return;
    }
    mmu_store_general(cpu, linear, value, size, index);
}
