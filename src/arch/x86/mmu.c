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
 *  5. What is in a context's own tables, or in the instruction TLB under its generation, was walked while
 * that context was current. MMU_KERNEL's table holds global mappings and such of the current context only:
 * those go when it changes.
 *  6. Whoever was given an instruction page by x86_code_page hears of its end through code_mapping_changed.
 *
 * Threads: the TLB belongs to the vCPU's thread. Other threads leave work in MmuPrivate under its lock and
 * set CPU_INTERRUPT_TLB. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/apic.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/mmu_internal.h"
#include "arch/x86/system.h"
#include "base/log.h"

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

/* How long the clearing thread waits for another vCPU's boundary at most. Not as long as an instruction takes
 * but as long as the host may keep that thread off its CPUs: whoever gives up too early decodes code that is
 * still written. */
#define BOUNDARY_WAIT_NS (2000 * 1000 * 1000)

/* One for all machines: LOCKed accesses that cannot be done by one host instruction. */
static pthread_mutex_t slow_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- physical memory ---- */

static inline AddressSpace *physical_space(X86Cpu *cpu)
{
    return G_UNLIKELY(cpu->in_smm) && cpu->env.smram ? cpu->env.smram : cpu->env.memory;
}

static void phys_flush(MmuPrivate *p)
{
    for (unsigned i = 0; i < PHYS_CACHE_SIZE; i++) {
        p->phys[i].gpa = 1;
    }
}

static void own_page_update(MmuPrivate *p)
{
    X86Apic *apic = p->cpu->apic;
    uint64_t page = apic != NULL ? apic_get_base(apic) & PAGE_MASK_4K : 1;

    p->own_page = apic != NULL && apic_owns(apic, page) ? page : 1;
}

/* What backs the page of gpa (A20 already applied). */
static PhysPage phys_lookup(X86Cpu *cpu, uint64_t gpa)
{
    MmuPrivate *p = cpu->mmu->priv;
    uint64_t page = gpa & PAGE_MASK_4K;
    const MmuRam *ram = mmu_ram_at(p, page);

    if (G_LIKELY(ram != NULL)) {
        return (PhysPage){ .gpa = page,
                           .host = ram->host + (page - ram->gpa),
                           .ram = ram->ram,
                           .ram_offset = ram->ram_offset + (page - ram->gpa),
                           .writable = ram->writable };
    }
    PhysPage *pp = &p->phys[(page >> 12) & (PHYS_CACHE_SIZE - 1)];
    if (G_LIKELY(pp->gpa == page)) {
        return *pp;
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
    return *pp;
}

static MemTxAttrs cpu_attrs(const X86Cpu *cpu)
{
    return (MemTxAttrs){ .secure = cpu->in_smm };
}

uint64_t mmu_physical_load(X86Cpu *cpu, uint64_t gpa, unsigned size)
{
    uint64_t value = UINT64_MAX;

    gpa = mmu_a20(cpu, gpa);
    PhysPage pp = phys_lookup(cpu, gpa);
    if (pp.host != NULL && (gpa & 0xfff) + size <= 4096) {
        return host_load(pp.host + (gpa & 0xfff), size);
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

static inline void mark_written(RamBlock *ram, uint64_t offset, uint64_t length)
{
    if (!ram_page_fully_dirty(ram, offset)) {
        ram_written(ram, offset, length);
    }
}

void mmu_physical_store(X86Cpu *cpu, uint64_t gpa, uint64_t value, unsigned size)
{
    gpa = mmu_a20(cpu, gpa);
    PhysPage pp = phys_lookup(cpu, gpa);
    if (pp.host != NULL && pp.writable && (gpa & 0xfff) + size <= 4096) {
        host_store(pp.host + (gpa & 0xfff), value, size);
        mark_written(pp.ram, pp.ram_offset + (gpa & 0xfff), size);
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

static uint64_t load_outside(X86Cpu *cpu, uint64_t gpa, unsigned size)
{
    AddressSpace *as = physical_space(cpu);
    uint64_t value = 0;

    return address_space_read(as, gpa, MEMTXATTRS_NONE, &value, size) == MEMTX_OK ? value : 0;
}

/* RAM that the map has no room for. */
static uint64_t load_phys(X86Cpu *cpu, uint64_t gpa, unsigned size)
{
    PhysPage pp = phys_lookup(cpu, gpa);

    if (pp.host == NULL) {
        return load_outside(cpu, gpa, size);
    }
    const uint8_t *host = pp.host + (gpa & 0xfff);
    return size == 8 ? __atomic_load_n((const uint64_t *)host, __ATOMIC_ACQUIRE)
                     : __atomic_load_n((const uint32_t *)host, __ATOMIC_ACQUIRE);
}

static bool set_phys(X86Cpu *cpu, uint64_t gpa, uint64_t value, uint64_t bits, unsigned size)
{
    PhysPage pp = phys_lookup(cpu, gpa);
    bool done;

    if (pp.host == NULL || !pp.writable) {
        return true; /* tables outside RAM keep what they are */
    }
    uint8_t *host = pp.host + (gpa & 0xfff);
    if (size == 8) {
        done = __atomic_compare_exchange_n((uint64_t *)host, &value, value | bits, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    } else {
        uint32_t expected = (uint32_t)value;
        done = __atomic_compare_exchange_n((uint32_t *)host, &expected, (uint32_t)(value | bits), false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    if (done) {
        mark_written(pp.ram, pp.ram_offset + (gpa & 0xfff), size);
    }
    return done;
}

static const MmuSlow slow_walk = { .load = load_phys, .set = set_phys, .written = ram_written };
static const MmuSlow debug_walk = { .debug = true, .load = load_outside };

/* Tells of what mmu_refill() wrote to the tables and could not mark. */
static void mark_late(MmuPrivate *p)
{
    if (G_UNLIKELY(p->late_ram != NULL)) {
        RamBlock *ram = p->late_ram;
        p->late_ram = NULL;
        ram_written(ram, p->late_offset, 8);
    }
}

static bool walk(X86Cpu *cpu, uint64_t linear, MmuAccess access, MmuIndex index, MmuTranslation *out,
                 bool *writable_now, uint32_t *error_code)
{
    mark_late(cpu->mmu->priv);
    return mmu_walk_run(cpu, linear, access, index, &slow_walk, out, writable_now, error_code) ==
           MMU_WALK_DONE;
}

bool mmu_walk(X86Cpu *cpu, uint64_t linear, MmuAccess access, MmuIndex index, MmuTranslation *out,
              uint32_t *error_code)
{
    bool writable_now;

    return walk(cpu, linear, access, index, out, &writable_now, error_code);
}

bool mmu_walk_debug(X86Cpu *cpu, uint64_t linear, uint64_t *gpa)
{
    if (!(cpu->efer & EFER_LMA)) {
        linear &= UINT32_MAX;
    } else if (!x86_is_canonical(linear)) {
        return false;
    }
    if (!(cpu->cr0 & CR0_PG)) {
        *gpa = mmu_a20(cpu, linear);
        return true;
    }
    if (!mmu_walk_look(cpu, linear, &debug_walk, gpa)) {
        return false;
    }
    *gpa = mmu_a20(cpu, *gpa);
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
    x86_fpu_leave(cpu);
    MmuTranslation tr;
    bool writable_now;
    uint32_t error_code;

    if (!walk(cpu, linear, access, index, &tr, &writable_now, &error_code)) {
        raise_page_fault(cpu, linear, error_code);
    }
    target->gpa = mmu_a20(cpu, tr.gpa);
    PhysPage pp = phys_lookup(cpu, target->gpa);
    target->host = pp.host ? pp.host + (target->gpa & 0xfff) : NULL;
    target->ram = pp.ram;
    target->ram_offset = pp.ram_offset + (target->gpa & 0xfff);
    target->writable = pp.writable;
    if (G_UNLIKELY(cpu->mmu->write_watch != NULL) && access == MMU_WRITE && pp.host != NULL && pp.writable) {
        cpu->mmu->write_watch(cpu, pp.host, NULL, 0);
    }
    if (pp.host != NULL && index != MMU_USER_ALIGN && access != MMU_EXEC &&
        !mmu_page_watched(cpu, linear & PAGE_MASK_4K)) {
        mmu_install(cpu, linear, index, &tr, pp.host, pp.ram, pp.ram_offset, writable_now && pp.writable);
    }
}

/* ---- contexts ---- */

#define TABLES_SIZE ((1 + MMU_CONTEXTS * CONTEXT_TABLES) * sizeof(MmuTable))
#define DROP_LOCAL  1u /* mappings that are not global */
#define DROP_GLOBAL 2u

/* MMU_USER_ALIGN's, in every context. */
static const TlbEntry empty_table[TLB_SIZE] = { { .tag = { 4096, 4096, 4096 } } };

static void table_init(MmuTable *t)
{
    slot_clear(&t->entries[0], 0);
}

/* Before something is dropped. */
static inline void count_drop(X86Mmu *mmu)
{
    mmu->drops++;
    mmu_note_replaced(mmu);
}

static inline uint64_t slot_page(const TlbEntry *e, unsigned slot)
{
    return e->tag[MMU_READ] != tag_none(slot) ? e->tag[MMU_READ] : e->tag[MMU_EXEC];
}

static void table_flush(MmuTable *t, bool keep_global)
{
    unsigned kept = 0;

    memset(&t->regions, 0, sizeof(t->regions));
    for (unsigned i = 0; i < t->used_count; i++) {
        unsigned slot = t->used[i];
        uint8_t flags = t->flags[slot];
        if (keep_global && (flags & SLOT_GLOBAL)) {
            TlbEntry *e = &t->entries[slot];
            if (flags & (SLOT_LARGE | SLOT_HUGE)) {
                regions_add(&t->regions, slot_page(e, slot), flags & SLOT_HUGE);
            }
            __atomic_store_n(&t->used[kept++], (uint16_t)slot, __ATOMIC_RELEASE);
            t->flags[slot] = flags & ~SLOT_LOCAL_LISTED;
            continue;
        }
        slot_clear(&t->entries[slot], slot);
        t->flags[slot] = 0;
    }
    for (unsigned i = 0; kept == 0 && t->used_count > 0 && i < G_N_ELEMENTS(t->written); i++) {
        __atomic_store_n(&t->written[i], 0, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&t->used_count, kept, __ATOMIC_RELEASE);
    t->local_count = 0;
}

/* Of MMU_KERNEL's table: what is not global. It stays listed as used, so that this costs what there is. */
static void table_drop_local(MmuTable *t)
{
    for (unsigned i = 0; i < t->local_count; i++) {
        unsigned slot = t->local[i];
        t->flags[slot] &= ~SLOT_LOCAL_LISTED;
        if (!(t->flags[slot] & SLOT_GLOBAL)) {
            slot_clear(&t->entries[slot], slot);
        }
    }
    t->local_count = 0;
}

static void slot_drop_piece(MmuTable *t, unsigned slot, uint64_t linear, unsigned shift, unsigned which)
{
    TlbEntry *e = &t->entries[slot];

    if ((which & (t->flags[slot] & SLOT_GLOBAL ? DROP_GLOBAL : DROP_LOCAL)) &&
        (slot_page(e, slot) ^ linear) >> shift == 0) {
        slot_clear(e, slot);
    }
}

static void table_drop_page(MmuTable *t, uint64_t linear, unsigned which)
{
    unsigned slot = (linear >> 12) & (TLB_SIZE - 1);

    if (entry_holds(&t->entries[slot], linear & PAGE_MASK_4K) &&
        (which & (t->flags[slot] & SLOT_GLOBAL ? DROP_GLOBAL : DROP_LOCAL))) {
        slot_clear(&t->entries[slot], slot);
    }
    if (G_UNLIKELY(regions_have_large(&t->regions, linear))) {
        slot = (linear >> 12) & (TLB_SIZE - 1) & ~1023u; /* 4 MiB lie in as many slots, side by side */
        for (unsigned end = slot + 1024; slot < end; slot++) {
            if (t->flags[slot] & SLOT_LARGE) {
                slot_drop_piece(t, slot, linear, 22, which);
            }
        }
    }
    if (G_UNLIKELY(regions_have_huge(&t->regions, linear))) {
        for (unsigned i = 0; i < t->used_count; i++) {
            if (t->flags[t->used[i]] & SLOT_HUGE) {
                slot_drop_piece(t, t->used[i], linear, 30, which);
            }
        }
    }
}

G_STATIC_ASSERT(TLB_SIZE >= 1024);

static inline void code_bits(uint64_t linear, unsigned *first, unsigned *second)
{
    uint64_t hash = (linear >> 12) * UINT64_C(0x9e3779b97f4a7c15);

    *first = (unsigned)(hash >> (64 - CODE_FILTER_BITS));
    *second = (unsigned)(hash >> (64 - 2 * CODE_FILTER_BITS)) & ((1u << CODE_FILTER_BITS) - 1);
}

static void code_add(CodeFilter *f, uint64_t linear, uint64_t page_size)
{
    unsigned first, second;

    code_bits(linear, &first, &second);
    f->any = true;
    f->pages[first / 64] |= UINT64_C(1) << (first % 64);
    f->pages[second / 64] |= UINT64_C(1) << (second % 64);
    if (page_size > 4096) {
        regions_add(&f->regions, linear, page_size == UINT64_C(1) << 30);
    }
}

static bool code_has(const CodeFilter *f, uint64_t linear)
{
    unsigned first, second;

    code_bits(linear, &first, &second);
    return ((f->pages[first / 64] >> (first % 64)) & (f->pages[second / 64] >> (second % 64))) & 1;
}

/* Whether there was something to empty. */
static bool code_empty(CodeFilter *f)
{
    bool any = f->any;

    if (any) {
        memset(f, 0, sizeof(*f));
    }
    return any;
}

static void code_changed(X86Cpu *cpu, unsigned context, uint64_t linear, bool one_page)
{
    if (cpu->mmu->code_mapping_changed != NULL) {
        cpu->mmu->code_mapping_changed(cpu, context, linear, one_page);
    }
}

static inline void tell_dropped(X86Cpu *cpu, const MmuDropped *what)
{
    if (cpu->mmu->dropped != NULL) {
        cpu->mmu->dropped(cpu, what);
    }
}

static void tell_context_dropped(X86Cpu *cpu, unsigned context)
{
    tell_dropped(cpu, &(MmuDropped){ .kind = MMU_DROPPED_CONTEXT, .context = context });
}

/* A number that no instruction page has; 0 is of no use to anybody. */
static uint64_t fresh_generation(MmuPrivate *p)
{
    return ++p->next_generation;
}

/* All of a context's entries in the paging-structure cache. */
static void context_end_walks(X86Mmu *mmu, unsigned i)
{
    MmuPrivate *p = mmu->priv;

    p->contexts[i].walk_generation = fresh_generation(p);
    if (i == mmu->context) {
        p->walk_generation = p->contexts[i].walk_generation;
    }
}

static void code_changed_in(X86Cpu *cpu, unsigned i, bool user, uint64_t linear, bool one_page)
{
    if (user) {
        code_changed(cpu, i, linear, one_page);
    } else if (i == cpu->mmu->context) {
        code_changed(cpu, MMU_CONTEXT_KERNEL, linear, one_page);
    } /* else it was told of when that context was left */
}

/* All instruction pages of a context that are not global. tell: not if all of everybody's go. Returns whether
 * there may have been any. */
static bool context_end_code(X86Cpu *cpu, unsigned i, bool tell)
{
    X86Mmu *mmu = cpu->mmu;
    MmuContext *c = &mmu->priv->contexts[i];
    bool any = false;

    c->generation = fresh_generation(mmu->priv);
    if (i == mmu->context) {
        mmu->generation = c->generation;
    }
    for (int user = 0; user < 2; user++) {
        if (code_empty(&c->code[user])) {
            any = true;
            if (tell) {
                code_changed_in(cpu, i, user, 0, false);
            }
        }
    }
    return any;
}

static bool global_end_code(X86Mmu *mmu)
{
    mmu->global_generation = fresh_generation(mmu->priv);
    return code_empty(&mmu->priv->global_code);
}

static uint32_t pcid_of(const X86Cpu *cpu, uint64_t cr3)
{
    return cpu->cr4 & CR4_PCIDE ? cr3 & 0xfff : 0;
}

/* MMU_CONTEXTS: there is none. */
static unsigned context_find(const MmuPrivate *p, uint32_t pcid)
{
    unsigned i = 0;

    while (i < MMU_CONTEXTS && p->contexts[i].pcid != pcid) {
        i++;
    }
    return i;
}

static void context_flush(X86Cpu *cpu, unsigned i, bool keep_global)
{
    X86Mmu *mmu = cpu->mmu;
    MmuPrivate *p = mmu->priv;
    MmuContext *c = &p->contexts[i];

    for (unsigned k = 0; k < CONTEXT_TABLES && c->ready; k++) {
        table_flush(c->table[k], keep_global);
    }
    if (i == mmu->context) {
        table_drop_local(p->tables);
    }
    context_end_walks(mmu, i);
    context_end_code(cpu, i, true);
    tell_context_dropped(cpu, i);
}

static unsigned context_mix(unsigned i)
{
    return i * (ITLB_SIZE / MMU_CONTEXTS + 1);
}

/* Whose mappings are looked at from now on. */
static void context_enter(X86Cpu *cpu, unsigned i)
{
    X86Mmu *mmu = cpu->mmu;
    MmuPrivate *p = mmu->priv;
    MmuContext *c = &p->contexts[i];

    if (!c->ready) {
        for (unsigned k = 0; k < CONTEXT_TABLES; k++) {
            table_init(c->table[k]);
        }
        __atomic_store_n(&c->ready, true, __ATOMIC_RELEASE);
    }
    c->used_at = ++p->clock;
    mmu->context = i;
    mmu->generation = c->generation;
    mmu->itlb_mix[1] = context_mix(i);
    p->walk_generation = c->walk_generation;
    mmu->table[MMU_KERNEL_AC] = c->table[CONTEXT_KERNEL_AC]->entries;
    mmu->table[MMU_USER] = c->table[CONTEXT_USER]->entries;
    cpu->tlb = mmu->table[mmu->index];
}

/* A context for a PCID that has none: a free one, or the one that was left the longest ago. */
static unsigned context_take(X86Cpu *cpu, uint32_t pcid)
{
    MmuPrivate *p = cpu->mmu->priv;
    unsigned i = context_find(p, PCID_NONE);

    if (i == MMU_CONTEXTS) {
        i = 0;
        for (unsigned k = 1; k < MMU_CONTEXTS; k++) {
            if (p->contexts[k].used_at < p->contexts[i].used_at) {
                i = k;
            }
        }
        context_flush(cpu, i, false);
    }
    p->contexts[i].pcid = pcid;
    return i;
}

static void contexts_init(X86Mmu *mmu)
{
    MmuPrivate *p = mmu->priv;

    p->tables =
        mmap(NULL, TABLES_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p->tables == MAP_FAILED) {
        g_error("no memory for the TLB of a vCPU: %s", g_strerror(errno)); /* as g_malloc would */
    }
    table_init(p->tables);
    mmu->table[MMU_KERNEL] = p->tables->entries;
    mmu->table[MMU_USER_ALIGN] = (TlbEntry *)empty_table; /* nobody writes to it */
    mmu->global_generation = fresh_generation(p);
    p->spread_low = UINT64_MAX;
    for (unsigned i = 0; i < MMU_CONTEXTS; i++) {
        MmuContext *c = &p->contexts[i];
        c->pcid = i == 0 ? 0 : PCID_NONE;
        c->generation = fresh_generation(p);
        c->walk_generation = fresh_generation(p);
        for (unsigned k = 0; k < CONTEXT_TABLES; k++) {
            c->table[k] = p->tables + 1 + i * CONTEXT_TABLES + k;
        }
    }
}

void mmu_flush(X86Cpu *cpu, bool keep_global)
{
    x86_fpu_leave(cpu);
    count_drop(cpu->mmu);
    X86Mmu *mmu = cpu->mmu;
    MmuPrivate *p = mmu->priv;
    bool code = false;

    if (keep_global) {
        table_drop_local(p->tables);
    } else {
        table_flush(p->tables, false);
        p->spread_low = UINT64_MAX;
        p->spread_high = 0;
        code |= global_end_code(mmu);
    }
    for (unsigned i = 0; i < MMU_CONTEXTS; i++) {
        MmuContext *c = &p->contexts[i];
        for (unsigned k = 0; k < CONTEXT_TABLES && c->ready; k++) {
            table_flush(c->table[k], keep_global);
        }
        context_end_walks(mmu, i);
        code |= context_end_code(cpu, i, false);
        if (!keep_global) {
            c->pcid = i == mmu->context ? pcid_of(cpu, cpu->cr3) : PCID_NONE;
        }
    }
    if (code) {
        code_changed(cpu, MMU_CONTEXT_ALL, 0, false);
    }
    tell_context_dropped(cpu, MMU_CONTEXT_ALL);
}

void mmu_flush_physical(X86Cpu *cpu)
{
    x86_fpu_leave(cpu);
    count_drop(cpu->mmu);
    phys_flush(cpu->mmu->priv);
    own_page_update(cpu->mmu->priv);
    mmu_flush(cpu, false);
}

static void itlb_drop(ItlbEntry *e, uint64_t linear, bool global, uint64_t generation)
{
    if (e->page == (linear & PAGE_MASK_4K) && e->global == global && e->generation == generation) {
        e->generation = 0;
    }
}

/* A context's page, or a global one of whichever context's users. */
static void itlb_drop_page(X86Mmu *mmu, unsigned context, uint64_t linear)
{
    bool global = context == MMU_CONTEXT_ALL;
    uint64_t generation = global ? mmu->global_generation : mmu->priv->contexts[context].generation;

    itlb_drop(&mmu->itlb[0][mmu_itlb_index(0, linear)], linear, global, generation);
    for (unsigned i = 0; i < MMU_CONTEXTS; i++) {
        if (global || i == context) {
            itlb_drop(&mmu->itlb[1][mmu_itlb_index(context_mix(i), linear)], linear, global, generation);
        }
    }
}

/* One page's mapping in a context that is not global. */
static void context_drop_page(X86Cpu *cpu, unsigned i, uint64_t linear)
{
    X86Mmu *mmu = cpu->mmu;
    MmuContext *c = &mmu->priv->contexts[i];

    context_end_walks(mmu, i);
    tell_dropped(cpu, &(MmuDropped){ .kind = MMU_DROPPED_PAGE, .context = i, .linear = linear });
    for (unsigned k = 0; k < CONTEXT_TABLES && c->ready; k++) {
        table_drop_page(c->table[k], linear, DROP_LOCAL);
    }
    if (i == mmu->context) {
        table_drop_page(mmu->priv->tables, linear, DROP_LOCAL);
    }
    if (G_UNLIKELY(regions_have(&c->code[0].regions, linear) || regions_have(&c->code[1].regions, linear))) {
        context_end_code(cpu, i, true);
        return;
    }
    for (int user = 0; user < 2; user++) {
        if (G_UNLIKELY(code_has(&c->code[user], linear))) {
            itlb_drop_page(mmu, i, linear);
            code_changed_in(cpu, i, user, linear & PAGE_MASK_4K, true);
        }
    }
}

void mmu_flush_page(X86Cpu *cpu, uint64_t linear)
{
    x86_fpu_leave(cpu);
    count_drop(cpu->mmu);
    X86Mmu *mmu = cpu->mmu;
    MmuPrivate *p = mmu->priv;

    context_drop_page(cpu, mmu->context, linear);
    if (linear >> 63) {
        /* Kernels give tables of their own half back after INVLPG in one context, as processors that cache
         * tables of that half once for all let them. */
        for (unsigned i = 0; i < MMU_CONTEXTS; i++) {
            context_end_walks(mmu, i);
        }
    }
    table_drop_page(p->tables, linear, DROP_GLOBAL);
    if (linear >= p->spread_low && linear <= p->spread_high) {
        for (unsigned i = 0; i < MMU_CONTEXTS; i++) {
            for (unsigned k = 0; k < CONTEXT_TABLES && p->contexts[i].ready; k++) {
                table_drop_page(p->contexts[i].table[k], linear, DROP_GLOBAL);
            }
        }
    }
    if (G_UNLIKELY(regions_have(&p->global_code.regions, linear))) {
        global_end_code(mmu);
        code_changed(cpu, MMU_CONTEXT_ALL, 0, false);
    } else if (G_UNLIKELY(code_has(&p->global_code, linear))) {
        itlb_drop_page(mmu, MMU_CONTEXT_ALL, linear);
        code_changed(cpu, MMU_CONTEXT_ALL, linear & PAGE_MASK_4K, true);
    }
}

void mmu_switch(X86Cpu *cpu, uint64_t new_cr3, bool no_flush)
{
    x86_fpu_leave(cpu);
    count_drop(cpu->mmu);
    MmuPrivate *p = cpu->mmu->priv;
    uint32_t pcid = pcid_of(cpu, new_cr3);
    unsigned to = context_find(p, pcid);

    if (to == MMU_CONTEXTS) {
        to = context_take(cpu, pcid);
    } else if (!no_flush || !(cpu->cr4 & CR4_PCIDE)) {
        context_flush(cpu, to, true);
    }
    unsigned from = cpu->mmu->context;
    if (to != from) {
        table_drop_local(p->tables);
        context_enter(cpu, to);
        if (G_UNLIKELY(p->contexts[from].code[0].any)) {
            code_changed(cpu, MMU_CONTEXT_KERNEL, 0, false);
        }
    }
}

void mmu_set_keys(X86Cpu *cpu, bool user, uint32_t rights)
{
    uint32_t *now = user ? &cpu->pkru : &cpu->pkrs, changed = *now ^ rights;

    *now = rights;
    for (unsigned key = 0; changed != 0 && key < 16; key++, changed >>= 2) {
        if ((changed & 3) && (cpu->mmu->priv->keys_seen[user] >> key & 1)) {
            mmu_flush(cpu, false);
            memset(cpu->mmu->priv->keys_seen, 0, sizeof(cpu->mmu->priv->keys_seen));
            return;
        }
    }
}

void mmu_invpcid(X86Cpu *cpu, unsigned type, uint64_t pcid, uint64_t linear)
{
    x86_fpu_leave(cpu);
    count_drop(cpu->mmu);
    unsigned i = context_find(cpu->mmu->priv, (uint32_t)pcid);

    switch (type) {
    case 0:
        if (i < MMU_CONTEXTS) {
            context_drop_page(cpu, i, linear);
        }
        break;
    case 1:
        if (i < MMU_CONTEXTS) {
            context_flush(cpu, i, true);
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
    if (G_UNLIKELY((cpu->dr[7] & 0xff) || cpu->debugger)) {
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

uint64_t mmu_load_general(X86Cpu *cpu, uint64_t linear, unsigned size, MmuIndex index)
{
    x86_fpu_leave(cpu);
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

/* What was written may be a register that changes the map of memory (flash, BARs): instructions that follow
 * in the same block must see it. */
static void map_settle(X86Cpu *cpu)
{
    if (G_UNLIKELY(__atomic_load_n(&cpu->interrupt_request, __ATOMIC_RELAXED) & CPU_INTERRUPT_TLB)) {
        mmu_process_pending(cpu);
    }
}

void mmu_store_general(X86Cpu *cpu, uint64_t linear, uint64_t value, unsigned size, MmuIndex index)
{
    x86_fpu_leave(cpu);
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
            map_settle(cpu);
        }
        return;
    }
    translate(cpu, linear, MMU_WRITE, index, &first);
    translate(cpu, next_page(cpu, linear), MMU_WRITE, index, &second);
    check_watch(cpu, linear, size, true);
    target_write(cpu, &first, (const uint8_t *)&value, in_page);
    target_write(cpu, &second, (const uint8_t *)&value + in_page, size - in_page);
    map_settle(cpu);
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
    if (target.host == NULL || !target.writable || mmu_page_watched(cpu, linear & PAGE_MASK_4K)) {
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
    x86_fpu_leave(cpu);
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
    uint64_t gpa = mmu_a20(cpu, tr.gpa);
    PhysPage pp = phys_lookup(cpu, gpa);
    ItlbEntry *e = mmu_itlb_entry(cpu, linear);
    e->page = linear & PAGE_MASK_4K;
    e->global = tr.global;
    e->generation = tr.global ? mmu->global_generation : mmu->generation;
    e->code =
        (CodePage){ .gpa = gpa & PAGE_MASK_4K, .host = pp.host, .ram = pp.ram, .ram_offset = pp.ram_offset };
    code_add(tr.global ? &p->global_code : &p->contexts[mmu->context].code[user], linear, tr.page_size);
    if (pp.host != NULL) {
        /* The executor's block links are checked against the host page that this tag gives. */
        MmuIndex index = user ? MMU_USER : MMU_KERNEL;
        unsigned slot = mmu_claim_slot(cpu, linear & PAGE_MASK_4K, index, &tr, pp.host);
        mmu->table[index][slot].tag[MMU_EXEC] = linear & PAGE_MASK_4K;
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

/* False: no write tag of the table is of that memory. */
static bool table_wrote(const MmuTable *t, const uint8_t *low, const uint8_t *high)
{
    if ((uintptr_t)high - (uintptr_t)low > 16 * 4096) {
        return true;
    }
    for (const uint8_t *host = low; host < high; host += 4096) {
        unsigned bit = written_bit(host);
        if ((__atomic_load_n(&t->written[bit / 64], __ATOMIC_ACQUIRE) >> (bit % 64)) & 1) {
            return true;
        }
    }
    return false;
}

static void table_drop_write_tags(MmuTable *t, const uint8_t *low, const uint8_t *high)
{
    uint64_t written[G_N_ELEMENTS(t->written)] = { 0 };

    if (!table_wrote(t, low, high)) {
        return;
    }
    for (unsigned i = 0; i < t->used_count; i++) {
        unsigned slot = t->used[i];
        TlbEntry *e = &t->entries[slot];
        if (e->tag[MMU_WRITE] == tag_none(slot)) {
            continue;
        }
        const uint8_t *host = (const uint8_t *)(e->tag[MMU_WRITE] + (uint64_t)e->addend);
        if (host + 4096 > low && host < high) {
            __atomic_store_n(&e->tag[MMU_WRITE], tag_none(slot), __ATOMIC_RELEASE);
        } else {
            written[written_bit(host) / 64] |= UINT64_C(1) << (written_bit(host) % 64);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(written);
         i++) { /* others see a bit of every tag before, now and after */
        __atomic_store_n(&t->written[i], written[i], __ATOMIC_RELEASE);
    }
}

/* Takes the write tags of a range of host memory away, in every context. */
static void drop_write_tags(X86Mmu *mmu, const uint8_t *low, const uint8_t *high)
{
    count_drop(mmu);
    MmuPrivate *p = mmu->priv;

    tell_dropped(p->cpu, &(MmuDropped){ .kind = MMU_DROPPED_WRITES, .low = low, .high = high });
    table_drop_write_tags(p->tables, low, high);
    for (unsigned i = 0; i < MMU_CONTEXTS; i++) {
        for (unsigned k = 0; k < CONTEXT_TABLES && p->contexts[i].ready; k++) {
            table_drop_write_tags(p->contexts[i].table[k], low, high);
        }
    }
}

/* With the lock held. */
static void ram_maps_take(MmuPrivate *p)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(p->map); i++) {
        if (p->next_map[i] != NULL) {
            p->map[i] = *p->next_map[i];
            g_free(p->next_map[i]);
            p->next_map[i] = NULL;
        }
    }
}

void mmu_process_pending(X86Cpu *cpu)
{
    x86_fpu_leave(cpu);
    count_drop(cpu->mmu);
    X86Mmu *mmu = cpu->mmu;
    MmuPrivate *p = mmu->priv;
    struct MmuPending pending[PENDING_MAX];

    mark_late(p);
    pthread_mutex_lock(&p->lock);
    p->thread = pthread_self();
    p->thread_known = true;
    /* Not with the lock held: who hears of a dropped code page may take locks. Those who wait for the
     * request's bit to go wait until the last of them is served. */
    while (p->flush_all || p->pending_overflow || p->pending_count > 0) {
        bool all = p->flush_all, overflow = p->pending_overflow;
        if (all) {
            ram_maps_take(p);
        }
        unsigned count = p->pending_count;
        memcpy(pending, p->pending, count * sizeof(pending[0]));
        p->flush_all = p->pending_overflow = false;
        p->pending_count = 0;
        pthread_mutex_unlock(&p->lock);
        if (all) {
            phys_flush(p);
            own_page_update(p);
            mmu_flush(cpu, false);
        } else if (overflow) {
            mmu_flush(cpu, false);
        } else {
            for (unsigned i = 0; i < count; i++) {
                drop_write_tags(mmu, pending[i].low, pending[i].high);
            }
        }
        pthread_mutex_lock(&p->lock);
    }
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

/* From the last one down, since a flush moves entries of the list down. */
static bool table_may_write(const MmuTable *t, const uint8_t *low, const uint8_t *high)
{
    if (!table_wrote(t, low, high)) {
        return false;
    }
    for (unsigned i = __atomic_load_n(&t->used_count, __ATOMIC_ACQUIRE); i-- > 0;) {
        unsigned slot = __atomic_load_n(&t->used[i], __ATOMIC_ACQUIRE);
        const TlbEntry *e = &t->entries[slot];
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

/* Whether another vCPU's TLBs may hold a write tag of the range. That vCPU goes on meanwhile: a tag that it
 * installs later is checked against the dirty bits once more (install), and a store through a tag that it has
 * given up is done. */
static bool may_have_write_tag(const X86Mmu *mmu, const uint8_t *low, const uint8_t *high)
{
    const MmuPrivate *p = mmu->priv;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (table_may_write(p->tables, low, high)) {
        return true;
    }
    for (unsigned i = 0; i < MMU_CONTEXTS; i++) {
        const MmuContext *c = &p->contexts[i];
        for (unsigned k = 0; k < CONTEXT_TABLES && __atomic_load_n(&c->ready, __ATOMIC_ACQUIRE); k++) {
            if (table_may_write(c->table[k], low, high)) {
                return true;
            }
        }
    }
    /* Behind the tables: who replaces an entry has copied it before, and tells before it goes. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (mmu->may_write != NULL && mmu->may_write(p->cpu, low, high)) {
        return true;
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n(&mmu->replaced, __ATOMIC_SEQ_CST);
}

void mmu_copies_set(X86Cpu *cpu,
                    bool (*may_write)(const X86Cpu *cpu, const uint8_t *low, const uint8_t *high))
{
    MmuPrivate *p = cpu->mmu->priv;

    pthread_mutex_lock(&p->lock);
    cpu->mmu->may_write = may_write;
    pthread_mutex_unlock(&p->lock);
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

/* Largest first. */
static int compare_ranges(const void *a, const void *b)
{
    uint64_t x = ((const MmuRam *)a)->size, y = ((const MmuRam *)b)->size;

    return x < y ? 1 : x > y ? -1 : 0;
}

/* Makes the map of a new view, for the vCPU's thread to take (ram_maps_take) when it drops its TLB. */
static void ram_map_make(MmuPrivate *p, AddressSpace *as, unsigned which)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(MmuRam));
    MmuRamMap *map = g_new0(MmuRamMap, 1);
    MemoryTarget target;

    for (uint64_t addr = 0; addr >> 52 == 0; addr += target.length) {
        address_space_translate(as, addr, &target);
        uint64_t in_page = -addr & 0xfff; /* up to the first whole page */
        if (target.host != NULL && target.ram != NULL && target.length >= in_page + 4096 &&
            ((target.ram_offset + in_page) & 0xfff) == 0) {
            MmuRam range = {
                .gpa = addr + in_page,
                .size = (target.length - in_page) & PAGE_MASK_4K,
                .host = target.host + in_page,
                .ram = target.ram,
                .ram_offset = target.ram_offset + in_page,
                .writable = target.writable,
            };
            g_array_append_val(found, range);
        }
        if (target.length > UINT64_MAX - addr) {
            break;
        }
    }
    qsort(found->data, found->len, sizeof(MmuRam), compare_ranges);
    map->count = MIN(found->len, MMU_RAM_RANGES);
    memcpy(map->ranges, found->data, map->count * sizeof(MmuRam));
    g_array_free(found, TRUE);
    pthread_mutex_lock(&p->lock);
    g_free(p->next_map[which]);
    p->next_map[which] = map;
    pthread_mutex_unlock(&p->lock);
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
    MmuPrivate *p = FROM_LISTENER(l, memory_listener);

    ram_map_make(p, l->as, 0);
    if (p->cpu->env.smram == NULL || p->cpu->env.smram == l->as) {
        ram_map_make(p, l->as, 1);
    }
    mmu_flush_later(p->cpu);
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
    MmuPrivate *p = FROM_LISTENER(l, smram_listener);

    ram_map_make(p, l->as, 1);
    mmu_flush_later(p->cpu);
}

X86Mmu *mmu_new(X86Cpu *cpu)
{
    X86Mmu *mmu = g_aligned_alloc0(1, sizeof(X86Mmu), 64);
    MmuPrivate *p = g_new0(MmuPrivate, 1);

    mmu->priv = p;
    p->cpu = cpu;
    pthread_mutex_init(&p->lock, NULL);
    contexts_init(mmu);
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
    context_enter(cpu, 0);
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
    g_free(p->next_map[0]);
    g_free(p->next_map[1]);
    munmap(p->tables, TABLES_SIZE);
    g_free(p);
    g_aligned_free(mmu);
}
