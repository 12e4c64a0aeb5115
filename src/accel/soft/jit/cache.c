/*
 * The code memory: regions, blocks, links, what becomes stale. See the invariants in jit.h.
 *
 * The memory is mapped twice, writable and executable. It is divided into regions that are filled in turn;
 * when the next one is entered it is emptied first: its blocks become stale, and every vCPU has to drop its
 * look-up tables (it does so at its next boundary) before the region is written again. So nobody is stopped.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/jit.h"

#include "base/error.h"

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#define HASH_BITS 12
/* See jit_checked_in_vain. */
#define VAIN_MAX  256
#define SPLIT_MAX 4096

Jit *jit_new(size_t size, GError **error)
{
    Jit *jit = g_new0(Jit, 1);
    int fd = memfd_create("rhea-code", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        error_set_errno(error, errno, "Cannot make memory for translated code");
        goto fail;
    }
    void *rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (rw == MAP_FAILED || rx == MAP_FAILED) {
        error_set_errno(error, errno, "Cannot map executable memory for translated code");
        goto fail;
    }
    close(fd);
    jit->rw = rw;
    jit->rx_delta = (uint8_t *)rx - (uint8_t *)rw;
    jit->size = size;
    jit->chain = jit->elide = jit->loops = jit->sites = true;
    jit->max_insns = JIT_MAX_INSNS;
    if (!jit_range_add(rx, size)) {
        error_set(error, "Too many machines with translated code in one process");
        munmap(rw, size);
        munmap(rx, size);
        g_free(jit);
        return NULL;
    }
    Asm a = { .p = jit->rw, .end = jit->rw + size };
    jit_thunks_make(jit, &a);
    size_t part = (size_t)(a.end - a.p) / JIT_REGIONS & ~(size_t)4095;
    for (unsigned i = 0; i < JIT_REGIONS; i++) {
        JitRegion *r = &jit->regions[i];
        r->start = r->used = a.p + i * part;
        r->end = r->start + part;
        r->blocks = g_ptr_array_new();
    }
    pthread_mutex_init(&jit->lock, NULL);
    jit->hash_bits = HASH_BITS;
    jit->hash = g_new0(JitBlock *, (gsize)1 << HASH_BITS);
    jit->pages = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_ptr_array_unref);
    jit->vcpus = g_ptr_array_new();
    jit->split = g_hash_table_new(NULL, NULL);
    return jit;
fail:
    if (fd >= 0) {
        close(fd);
    }
    g_free(jit);
    return NULL;
}

void jit_block_free(JitBlock *block)
{
    for (guint i = 0; i < block->links->len; i++) {
        g_free(block->links->pdata[i]);
    }
    for (guint i = 0; i < block->callouts->len; i++) {
        g_aligned_free(block->callouts->pdata[i]);
    }
    g_ptr_array_unref(block->links);
    g_ptr_array_unref(block->callouts);
    g_free(block->pcs);
    g_free(block);
}

void jit_free(Jit *jit)
{
    jit_range_remove(jit->rw + jit->rx_delta);
    for (unsigned i = 0; i < JIT_REGIONS; i++) {
        for (guint k = 0; k < jit->regions[i].blocks->len; k++) {
            jit_block_free(jit->regions[i].blocks->pdata[k]);
        }
        g_ptr_array_unref(jit->regions[i].blocks);
    }
    munmap(jit->rw, jit->size);
    munmap(jit->rw + jit->rx_delta, jit->size);
    g_free(jit->hash);
    g_hash_table_unref(jit->pages);
    g_ptr_array_unref(jit->vcpus);
    g_hash_table_unref(jit->split);
    pthread_mutex_destroy(&jit->lock);
    g_free(jit);
}

/* ---- the hash ---- */

static unsigned hash_of(const Jit *jit, const uint8_t *page, unsigned offset, uint32_t key)
{
    uint64_t h = ((uint64_t)(uintptr_t)page + offset) ^ (uint64_t)key << 40;
    return (unsigned)(h * UINT64_C(0x9e3779b97f4a7c15) >> (64 - jit->hash_bits));
}

/* second: where the next page is, if anybody knows. */
static JitBlock *hash_find(const Jit *jit, const uint8_t *page, unsigned offset, uint32_t key,
                           const uint8_t *second)
{
    JitBlock *b = jit->hash[hash_of(jit, page, offset, key)];
    while (b &&
           (b->page != page || b->offset != offset || b->key != key || (b->second && b->second != second))) {
        b = b->hash_next;
    }
    return b;
}

static void hash_add(Jit *jit, JitBlock *b)
{
    if (++jit->block_count > 1u << jit->hash_bits) {
        JitBlock **old = jit->hash;
        unsigned old_size = 1u << jit->hash_bits;
        jit->hash_bits++;
        jit->hash = g_new0(JitBlock *, (gsize)1 << jit->hash_bits);
        for (unsigned i = 0; i < old_size; i++) {
            JitBlock *next;
            for (JitBlock *e = old[i]; e; e = next) {
                next = e->hash_next;
                unsigned h = hash_of(jit, e->page, e->offset, e->key);
                e->hash_next = jit->hash[h];
                jit->hash[h] = e;
            }
        }
        g_free(old);
    }
    unsigned h = hash_of(jit, b->page, b->offset, b->key);
    b->hash_next = jit->hash[h];
    jit->hash[h] = b;
}

static void hash_remove(Jit *jit, JitBlock *b)
{
    JitBlock **p = &jit->hash[hash_of(jit, b->page, b->offset, b->key)];
    while (*p != b) {
        p = &(*p)->hash_next;
    }
    *p = b->hash_next;
    jit->block_count--;
}

/* ---- links ---- */

static void site_write(uint8_t *site, const uint8_t *target)
{
    int32_t d = (int32_t)(target - (site + 4));
    __atomic_store_n((int32_t *)(void *)site, d, __ATOMIC_RELEASE);
}

void jit_link_to(Jit *jit, JitLink *link, JitBlock *to)
{
    if (link->to || to->stale || link->from->stale) {
        return;
    }
    if (to->second) {
        /* Which page follows depends on the mapping. */
        if (jit_emit_far_link(jit, link)) {
            site_write(link->site, link->stub);
        }
        return;
    }
    bool backwards = link->target <= link->from->offset + link->from->length && link->target <= to->offset &&
                     to->offset <= link->from->offset;
    const uint8_t *entry;
    if (link->in_reg) {
        entry = backwards ? to->reg_poll_entry : to->reg_entry;
    } else {
        entry = backwards ? to->mem_poll_entry : to->mem_entry;
    }
    link->to = to;
    link->next_in = to->incoming;
    to->incoming = link;
    site_write(link->site, jit_rw(jit, entry));
}

static void unlink_incoming(JitBlock *b)
{
    JitLink *next;
    for (JitLink *l = b->incoming; l; l = next) {
        next = l->next_in;
        site_write(l->site, l->stub);
        l->to = NULL;
        l->next_in = NULL;
    }
    b->incoming = NULL;
}

static void unlink_outgoing(JitBlock *b)
{
    for (guint i = 0; i < b->links->len; i++) {
        JitLink *l = b->links->pdata[i];
        if (!l->to) {
            continue;
        }
        JitLink **p = &l->to->incoming;
        while (*p != l) {
            p = &(*p)->next_in;
        }
        *p = l->next_in;
        l->to = NULL;
        site_write(l->site, l->stub);
    }
}

/* The first instruction of ibtc_entry is seven bytes long and lies in an aligned eight: it becomes a jump. */
static void patch_entry(Jit *jit, JitBlock *b)
{
    uint64_t word;
    uint8_t bytes[8];
    int32_t d = (int32_t)(jit->thunks.stale - (b->code + 5));

    memcpy(bytes, b->code, 8);
    bytes[0] = 0xe9;
    memcpy(bytes + 1, &d, 4);
    memcpy(&word, bytes, 8);
    __atomic_store_n((uint64_t *)(void *)b->code, word, __ATOMIC_RELEASE);
}

/* Invariant 6. */
static void block_make_stale(Jit *jit, JitBlock *b)
{
    if (b->stale) {
        return;
    }
    b->stale = true;
    hash_remove(jit, b);
    unlink_incoming(b);
    unlink_outgoing(b);
    patch_entry(jit, b);
    jit->stale_count++;
}

static void page_invalidate(Jit *jit, const uint8_t *host_page)
{
    GPtrArray *blocks = g_hash_table_lookup(jit->pages, host_page);
    if (!blocks) {
        return;
    }
    for (guint i = 0; i < blocks->len; i++) {
        block_make_stale(jit, blocks->pdata[i]);
    }
    g_hash_table_remove(jit->pages, host_page);
}

static void page_add(Jit *jit, const uint8_t *host_page, JitBlock *b)
{
    GPtrArray *blocks = g_hash_table_lookup(jit->pages, host_page);
    if (!blocks) {
        blocks = g_ptr_array_new();
        g_hash_table_insert(jit->pages, (gpointer)host_page, blocks);
    }
    g_ptr_array_add(blocks, b);
}

static void page_remove(Jit *jit, const uint8_t *host_page, JitBlock *b)
{
    GPtrArray *blocks = g_hash_table_lookup(jit->pages, host_page);
    if (blocks && g_ptr_array_remove_fast(blocks, b) && blocks->len == 0) {
        g_hash_table_remove(jit->pages, host_page);
    }
}

void jit_page_written(Jit *jit, const uint8_t *host_page)
{
    pthread_mutex_lock(&jit->lock);
    page_invalidate(jit, host_page);
    pthread_mutex_unlock(&jit->lock);
}

void jit_drop_all(Jit *jit)
{
    pthread_mutex_lock(&jit->lock);
    for (unsigned i = 0; i < JIT_REGIONS; i++) {
        for (guint k = 0; k < jit->regions[i].blocks->len; k++) {
            block_make_stale(jit, jit->regions[i].blocks->pdata[k]);
        }
    }
    g_hash_table_remove_all(jit->pages);
    pthread_mutex_unlock(&jit->lock);
}

/* ---- regions ---- */

/* Makes the blocks of a region stale and asks every vCPU to forget them. */
static void region_evict(Jit *jit, JitRegion *r)
{
    for (guint i = 0; i < r->blocks->len; i++) {
        JitBlock *b = r->blocks->pdata[i];
        block_make_stale(jit, b);
        page_remove(jit, b->page, b);
        if (b->second) {
            page_remove(jit, b->second, b);
        }
    }
    r->epoch = __atomic_add_fetch(&jit->epoch, 1, __ATOMIC_SEQ_CST);
    for (guint i = 0; i < jit->vcpus->len; i++) {
        cpu_interrupt(((JitVcpu *)jit->vcpus->pdata[i])->cpu, CPU_INTERRUPT_CODE);
    }
    jit->evictions++;
}

/* Whether every vCPU has dropped its tables since the eviction, or runs no translated code. The caller's own
 * has (it is at a boundary). */
static bool region_is_free(Jit *jit, const JitRegion *r, const JitVcpu *own)
{
    for (guint i = 0; i < jit->vcpus->len; i++) {
        JitVcpu *v = jit->vcpus->pdata[i];
        if (v != own && __atomic_load_n(&v->epoch_seen, __ATOMIC_SEQ_CST) < r->epoch &&
            __atomic_load_n(&v->cpu->executing, __ATOMIC_SEQ_CST)) {
            return false;
        }
    }
    return true;
}

void jit_table_clear(JitVcpu *v, unsigned i)
{
    if (!v->tables[i].empty) {
        memset(v->tables[i].entries, 0, sizeof(IbtcEntry) * JIT_IBTC_SIZE);
        v->tables[i].entries[0].va = 1; /* 0 is an address that is looked up there */
        v->tables[i].empty = true;
    }
}

void jit_tables_drop(JitVcpu *v)
{
    for (unsigned i = 0; i < v->table_count; i++) {
        jit_table_clear(v, i);
    }
    __atomic_store_n(&v->epoch_seen, __atomic_load_n(&v->jit->epoch, __ATOMIC_SEQ_CST), __ATOMIC_SEQ_CST);
}

/* Goes on with the next region. The lock is held; let go of while waiting. */
static void region_next(Jit *jit, JitVcpu *v)
{
    unsigned next = (jit->current + 1) % JIT_REGIONS;
    JitRegion *r = &jit->regions[next];

    if (r->blocks->len) {
        region_evict(jit, r);
        jit_tables_drop(v);
        while (!region_is_free(jit, r, v)) {
            pthread_mutex_unlock(&jit->lock);
            bool was = mmu_suspend(v->cpu);
            sched_yield();
            mmu_resume(v->cpu, was);
            pthread_mutex_lock(&jit->lock);
        }
        for (guint i = 0; i < r->blocks->len; i++) {
            jit_block_free(r->blocks->pdata[i]);
        }
        g_ptr_array_set_size(r->blocks, 0);
        r->used = r->start;
    }
    jit->current = next;
}

JitBlock *jit_block_at(Jit *jit, const uint8_t *executable)
{
    const uint8_t *p = jit_rw(jit, executable);
    for (unsigned i = 0; i < JIT_REGIONS; i++) {
        JitRegion *r = &jit->regions[i];
        if (p < r->start || p >= r->used) {
            continue;
        }
        guint low = 0, high = r->blocks->len;
        while (low < high) {
            guint mid = (low + high) / 2;
            JitBlock *b = r->blocks->pdata[mid];
            if (p >= b->code + b->code_size) {
                low = mid + 1;
            } else {
                high = mid;
            }
        }
        if (low < r->blocks->len && p >= ((JitBlock *)r->blocks->pdata[low])->code) {
            return r->blocks->pdata[low];
        }
    }
    return NULL;
}

void jit_checked_in_vain(Jit *jit, X86Cpu *cpu, const void *executable)
{
    pthread_mutex_lock(&jit->lock);
    JitBlock *b = jit_block_at(jit, executable);
    if (b && !b->stale && ++b->in_vain == VAIN_MAX) {
        x86_fpu_leave(cpu);
        if (g_hash_table_size(jit->split) >= SPLIT_MAX) {
            g_hash_table_remove_all(jit->split);
        }
        g_hash_table_add(jit->split, (gpointer)(b->page + b->offset));
        block_make_stale(jit, b);
    }
    pthread_mutex_unlock(&jit->lock);
}

void jit_evict_one(Jit *jit, X86Cpu *cpu, unsigned random)
{
    x86_fpu_leave(cpu);
    pthread_mutex_lock(&jit->lock);
    const JitRegion *r = &jit->regions[random % (jit->current + 1)];
    if (r->blocks->len) {
        JitBlock *b = r->blocks->pdata[random / JIT_REGIONS % r->blocks->len];
        if (!b->stale) {
            block_make_stale(jit, b);
            page_remove(jit, b->page, b);
            if (b->second) {
                page_remove(jit, b->second, b);
            }
        }
    }
    pthread_mutex_unlock(&jit->lock);
}

/* ---- finding and making ---- */

static bool still_protected(const CodePage *page)
{
    return !(__atomic_load_n(&page->ram->dirty[page->ram_offset >> RAM_PAGE_BITS], __ATOMIC_SEQ_CST) &
             1u << DIRTY_CODE);
}

static JitBlock *translate(X86Cpu *cpu, JitVcpu *v, const CodePage *page, const CodePage *second,
                           uint32_t key)
{
    Jit *jit = v->jit;
    unsigned offset = (unsigned)(cpu->rip & 4095);
    const uint8_t *second_host = second ? second->host : NULL;
    JitBlock *b = NULL;
    bool full;

    x86_fpu_leave(cpu);
    interp_page_protect(cpu, page);
    if (second) {
        interp_page_protect(cpu, second);
    }
    pthread_mutex_lock(&jit->lock);
    /* Somebody else may have made it meanwhile. */
    b = hash_find(jit, page->host, offset, key, second_host);
    while (!b) {
        b = jit_translate(jit, cpu, page->host, offset, second_host, key, &full);
        if (!b && full) {
            region_next(jit, v);
            continue;
        }
        break;
    }
    if (b && !b->in_hash) {
        g_ptr_array_add(jit->regions[jit->current].blocks, b);
        b->in_hash = true;
        hash_add(jit, b);
        page_add(jit, b->page, b);
        if (second) {
            page_add(jit, b->second, b);
        }
        if (!still_protected(page) || (second && !still_protected(second))) {
            /* Written while it was read: whoever wrote did not find it. */
            block_make_stale(jit, b);
            b = NULL;
        }
    }
    pthread_mutex_unlock(&jit->lock);
    return b;
}

JitBlock *jit_find(X86Cpu *cpu, JitVcpu *v, uint32_t key)
{
    Jit *jit = v->jit;
    unsigned offset = (unsigned)(cpu->rip & 4095);
    CodePage page, next;

    cpu->current_op = NULL;
    x86_code_page(cpu, cpu->rip, &page);
    if (!page.host || !page.ram) {
        return NULL;
    }
    v->lookups++;
    pthread_mutex_lock(&jit->lock);
    JitBlock *b = hash_find(jit, page.host, offset, key, NULL);
    pthread_mutex_unlock(&jit->lock);
    if (b) {
        return b;
    }
    b = translate(cpu, v, &page, NULL, key);
    if (b || offset + X86_INSN_MAX <= 4096) {
        return b;
    }
    /* The instruction goes on in the next page, perhaps. */
    x86_code_page(cpu, (cpu->rip & PAGE_MASK_4K) + 4096, &next);
    return next.host && next.ram ? translate(cpu, v, &page, &next, key) : NULL;
}
