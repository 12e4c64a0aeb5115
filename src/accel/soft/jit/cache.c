/*
 * The code memory: regions, blocks, links, what becomes stale. See the invariants in jit.h.
 *
 * The memory is mapped twice, writable and executable. It is divided into regions that are filled in turn;
 * when the next one is entered it is emptied first: its blocks become stale, and every vCPU has to drop its
 * look-up tables (it does so at its next boundary) before the region is written again. So nobody is stopped.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/jit.h"
#include "base/log.h"

#include "base/error.h"

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <time.h>
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
        r->arena.chunks = g_ptr_array_new_with_free_func(g_aligned_free);
    }
    pthread_mutex_init(&jit->lock, NULL);
    jit->hash_bits = HASH_BITS;
    jit->hash = g_new0(JitBlock *, (gsize)1 << HASH_BITS);
    jit->pages = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_ptr_array_unref);
    jit->writes = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    jit->vcpus = g_ptr_array_new();
    jit->split = g_hash_table_new(NULL, NULL);
    jit->scattered = g_hash_table_new(NULL, NULL);
    return jit;
fail:
    if (fd >= 0) {
        close(fd);
    }
    g_free(jit);
    return NULL;
}

#define SCATTERED_MAX 4096u
#define ARENA_CHUNK   (256u * 1024)

void *jit_alloc(Jit *jit, size_t size, bool align64)
{
    JitArena *arena = &jit->regions[jit->current].arena;
    uintptr_t align = align64 ? 63 : 15;
    uintptr_t p = ((uintptr_t)arena->p + align) & ~align;

    if (!arena->p || p + size > (uintptr_t)arena->end) {
        void *chunk = g_aligned_alloc(1, ARENA_CHUNK, 64);
        g_ptr_array_add(arena->chunks, chunk);
        p = (uintptr_t)chunk;
        arena->end = (uint8_t *)chunk + ARENA_CHUNK;
    }
    arena->p = (uint8_t *)p + size;
    memset((void *)p, 0, size);
    return (void *)p;
}

static void arena_empty(JitArena *arena)
{
    g_ptr_array_set_size(arena->chunks, 0);
    arena->p = arena->end = NULL;
}

void jit_free(Jit *jit)
{
    jit_range_remove(jit->rw + jit->rx_delta);
    if (log_mask & LOG_OUT_ASM) {
        jit_dump_hot(jit);
    }
    for (unsigned i = 0; i < JIT_REGIONS; i++) {
        g_ptr_array_unref(jit->regions[i].blocks);
        g_ptr_array_unref(jit->regions[i].arena.chunks);
    }
    munmap(jit->rw, jit->size);
    munmap(jit->rw + jit->rx_delta, jit->size);
    g_free(jit->hash);
    g_hash_table_unref(jit->pages);
    g_hash_table_unref(jit->writes);
    g_ptr_array_unref(jit->vcpus);
    g_hash_table_unref(jit->split);
    g_hash_table_unref(jit->scattered);
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
    for (JitLink *l = b->links; l; l = l->next_out) {
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

/* Writes to a page with code: of late, and whether its blocks check themselves since. */
typedef struct JitWrites {
    int64_t since_ns;
    unsigned count;
    bool often;
} JitWrites;
#define OFTEN_COUNT     6
#define OFTEN_WINDOW_NS (100 * INT64_C(1000000))
#define OFTEN_KEEP_NS   (2000 * INT64_C(1000000))

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static void count_write(Jit *jit, const uint8_t *host_page)
{
    JitWrites *w = g_hash_table_lookup(jit->writes, host_page);
    int64_t now = now_ns();
    if (!w) {
        w = g_new0(JitWrites, 1);
        g_hash_table_insert(jit->writes, (gpointer)host_page, w);
    }
    if (now - w->since_ns > OFTEN_WINDOW_NS) {
        w->since_ns = now;
        w->count = 0;
    }
    if (++w->count >= OFTEN_COUNT) {
        w->often = true;
        w->since_ns = now;
    }
}

/* Whether blocks of the page are to check themselves. The lock is held. */
static bool written_often(Jit *jit, const uint8_t *host_page)
{
    JitWrites *w = host_page ? g_hash_table_lookup(jit->writes, host_page) : NULL;
    if (!w || !w->often) {
        return false;
    }
    if (now_ns() - w->since_ns > OFTEN_KEEP_NS) {
        g_hash_table_remove(jit->writes, host_page);
        return false;
    }
    return true;
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
    count_write(jit, host_page);
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

void jit_block_changed(Jit *jit, JitBlock *block)
{
    pthread_mutex_lock(&jit->lock);
    block_make_stale(jit, block);
    pthread_mutex_unlock(&jit->lock);
}

void jit_block_scattered(Jit *jit, JitBlock *block, unsigned offset)
{
    pthread_mutex_lock(&jit->lock);
    if (g_hash_table_size(jit->scattered) > SCATTERED_MAX) {
        g_hash_table_remove_all(jit->scattered); /* what is still so is found again */
    }
    g_hash_table_add(jit->scattered, (gpointer)(block->page + offset));
    block_make_stale(jit, block);
    pthread_mutex_unlock(&jit->lock);
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
            __atomic_load_n(&v->in_code, __ATOMIC_SEQ_CST)) {
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
        g_ptr_array_set_size(r->blocks, 0);
        arena_empty(&r->arena);
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
    pthread_mutex_lock(&jit->lock);
    bool check = written_often(jit, page->host) || written_often(jit, second_host);
    pthread_mutex_unlock(&jit->lock);
    if (!check) {
        interp_page_protect(cpu, page);
        if (second) {
            interp_page_protect(cpu, second);
        }
    }
    pthread_mutex_lock(&jit->lock);
    /* Somebody else may have made it meanwhile. */
    b = hash_find(jit, page->host, offset, key, second_host);
    while (!b) {
        b = jit_translate(jit, cpu, page->host, offset, second_host, key, check, &full);
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
        if (!check) {
            page_add(jit, b->page, b);
            if (second) {
                page_add(jit, b->second, b);
            }
        }
        if (!check && (!still_protected(page) || (second && !still_protected(second)))) {
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
