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

/* The part of a region that is for hot code. */
#define HOT_SHARE(size) ((size) / 3 * 2 & ~(size_t)4095)
#define HASH_BITS       16
#define PAGES_LIMIT     65536u
#define HUGE_PAGE       ((size_t)2 << 20)
#define ARENA_CHUNK     HUGE_PAGE
/* How much code memory the host makes at a time. */
#define READY_STEP ((size_t)256 << 10)
/* See jit_checked_in_vain. */
#define VAIN_MAX    (1024 / JIT_VAIN_STEP) /* within VAIN_CYCLES: a few per cent of the time */
#define VAIN_CYCLES (UINT64_C(1) << 24)
#define SPLIT_MAX   4096
/* One access in so many cycles may be in another window than its block expects. */
#define FAR_CYCLES UINT64_C(2000)

/* Memory of zeros, in large pages where it is that large and the host has them; never fails. */
static void *map_zeros(size_t size, size_t align)
{
    uint8_t *p = mmap(NULL, size + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        g_error("out of memory for what belongs to translated code");
    }
    uint8_t *start = (uint8_t *)(((uintptr_t)p + align - 1) & ~(uintptr_t)(align - 1));
    if (start > p) {
        munmap(p, (size_t)(start - p));
    }
    munmap(start + size, (size_t)(p + align - start));
    if (size >= HUGE_PAGE) {
        madvise(start, size, MADV_HUGEPAGE);
    }
    return start;
}

static JitHash *hash_new(unsigned bits)
{
    JitHash *hash = g_new0(JitHash, 1);
    hash->bits = bits;
    hash->entries =
        map_zeros(sizeof(JitHashEntry) << bits, sizeof(JitHashEntry) << bits >= HUGE_PAGE ? HUGE_PAGE : 4096);
    return hash;
}

static void hash_free(JitHash *hash)
{
    munmap(hash->entries, sizeof(JitHashEntry) << hash->bits);
    g_free(hash);
}

static void hash_free_list(JitHash *first)
{
    JitHash *next;
    for (JitHash *h = first; h; h = next) {
        next = h->older;
        hash_free(h);
    }
}

static void chunk_free(void *chunk)
{
    munmap(chunk, ARENA_CHUNK);
}

/* A file of JIT_FARS_REGION times the address. -1: error is set. */
static int far_file(const uint8_t *address, GError **error)
{
    size_t size = JIT_FARS_REGION * sizeof(address);
    int fd = memfd_create("rhea-far", MFD_CLOEXEC);

    if (fd >= 0 && ftruncate(fd, (off_t)size) == 0) {
        const uint8_t **p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p != MAP_FAILED) {
            for (unsigned i = 0; i < JIT_FARS_REGION; i++) {
                p[i] = address;
            }
            munmap(p, size);
            return fd;
        }
    }
    error_set_errno(error, errno, "Cannot make memory for what belongs to translated code");
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

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
    jit->chain = jit->elide = jit->loops = jit->sites = jit->superblocks = jit->lookahead = true;
    jit->tier = true;
    jit->max_insns = JIT_MAX_INSNS;
    jit->bmi2 = __builtin_cpu_supports("bmi2");
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
        r->end = r->cold_start = r->cold_used = r->start + HOT_SHARE(part);
        r->cold_end = r->start + part;
        r->ready = r->start;
        r->cold_ready = r->cold_start;
        r->blocks = g_ptr_array_new();
        r->arena.chunks = g_ptr_array_new_with_free_func(chunk_free);
    }
    jit->fars = g_malloc0(JIT_FARS * sizeof(JitFar)); /* whose pages the host makes as they are used */
    jit->far_fd = far_file(jit_rx(jit, jit->thunks.far), error);
    if (jit->far_fd < 0) {
        jit_range_remove(rx);
        munmap(rw, size);
        munmap(rx, size);
        g_free(jit->fars);
        g_free(jit);
        return NULL;
    }
    pthread_mutex_init(&jit->lock, NULL);
    g_mutex_init(&jit->turn.lock);
    g_cond_init(&jit->turn.passed);
    jit->hash = hash_new(HASH_BITS);
    jit->pages = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    jit->pages_limit = PAGES_LIMIT;
    jit->often = g_ptr_array_new();
    jit->vcpus = g_ptr_array_new();
    jit->split = g_hash_table_new(NULL, NULL);
    jit->scattered = g_hash_table_new(NULL, NULL);
    jit->varying = g_hash_table_new(NULL, NULL);
    return jit;
fail:
    if (fd >= 0) {
        close(fd);
    }
    g_free(jit);
    return NULL;
}

#define SCATTERED_MAX 4096u

void *jit_alloc(Jit *jit, size_t size, bool align64)
{
    JitArena *arena = &jit->regions[jit->current].arena;
    uintptr_t align = align64 ? 63 : 15;
    uintptr_t p = ((uintptr_t)arena->p + align) & ~align;

    if (!arena->p || p + size > (uintptr_t)arena->end) {
        if (arena->next == arena->chunks->len) {
            g_ptr_array_add(arena->chunks, map_zeros(ARENA_CHUNK, HUGE_PAGE));
        }
        uint8_t *chunk = arena->chunks->pdata[arena->next++];
        p = (uintptr_t)chunk;
        arena->end = chunk + ARENA_CHUNK;
    }
    arena->p = (uint8_t *)p + size;
    if (arena->next <= arena->fresh) {
        memset((void *)p, 0, size);
    }
    return (void *)p;
}

static void arena_empty(JitArena *arena)
{
    arena->fresh = MAX(arena->fresh, arena->next);
    arena->next = 0;
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
    close(jit->far_fd);
    g_free(jit->fars);
    hash_free_list(jit->hash);
    for (unsigned i = 0; i < JIT_REGIONS; i++) {
        hash_free_list(jit->regions[i].old_hashes);
    }
    g_hash_table_unref(jit->pages);
    g_ptr_array_unref(jit->often);
    g_ptr_array_unref(jit->vcpus);
    g_hash_table_unref(jit->split);
    g_hash_table_unref(jit->scattered);
    g_hash_table_unref(jit->varying);
    pthread_mutex_destroy(&jit->lock);
    g_mutex_clear(&jit->turn.lock);
    g_cond_clear(&jit->turn.passed);
    g_free(jit);
}

/* ---- the hash ---- */

enum { TAG_FREE, TAG_WAS_USED, TAG_FIRST };

static uint64_t tag_of(const uint8_t *page, unsigned offset, uint32_t key)
{
    uint64_t h = ((uint64_t)(uintptr_t)page + offset) ^ (uint64_t)key << 40;
    h *= UINT64_C(0x9e3779b97f4a7c15);
    return h < TAG_FIRST ? TAG_FIRST : h;
}

/* second: where the next page is, if anybody knows. Without the lock it may not find what is there, while
 * others change the table. */
static JitBlock *hash_find(const Jit *jit, const uint8_t *page, unsigned offset, uint32_t key,
                           const uint8_t *second)
{
    const JitHash *hash = __atomic_load_n(&jit->hash, __ATOMIC_ACQUIRE);
    uint64_t tag = tag_of(page, offset, key);
    size_t mask = ((size_t)1 << hash->bits) - 1;

    for (size_t n = tag >> (64 - hash->bits);; n = (n + 1) & mask) {
        const JitHashEntry *e = &hash->entries[n];
        uint64_t found = __atomic_load_n(&e->tag, __ATOMIC_ACQUIRE);
        if (found == TAG_FREE) {
            return NULL;
        }
        if (found == tag) {
            JitBlock *b = __atomic_load_n(&e->block, __ATOMIC_ACQUIRE);
            if (b->page == page && b->offset == offset && b->key == key && !b->stale &&
                (!b->second || b->second == second)) {
                return b;
            }
        }
    }
}

static void hash_insert(JitHash *hash, JitBlock *b)
{
    uint64_t tag = tag_of(b->page, b->offset, b->key);
    size_t mask = ((size_t)1 << hash->bits) - 1, n = tag >> (64 - hash->bits);

    while (hash->entries[n].tag >= TAG_FIRST) {
        n = (n + 1) & mask;
    }
    hash->used += hash->entries[n].tag == TAG_FREE;
    __atomic_store_n(&hash->entries[n].block, b, __ATOMIC_RELEASE);
    __atomic_store_n(&hash->entries[n].tag, tag, __ATOMIC_RELEASE);
}

/* Another one, with room for twice the blocks that there are at least. */
static void hash_renew(Jit *jit)
{
    JitHash *old = jit->hash, *hash;
    unsigned bits = HASH_BITS;

    while (jit->block_count > 1u << (bits - 2)) {
        bits++;
    }
    hash = hash_new(bits);
    for (size_t n = 0; n < (size_t)1 << old->bits; n++) {
        if (old->entries[n].tag >= TAG_FIRST) {
            hash_insert(hash, old->entries[n].block);
        }
    }
    hash->older = old;
    __atomic_store_n(&jit->hash, hash, __ATOMIC_RELEASE);
}

static void hash_add(Jit *jit, JitBlock *b)
{
    if (jit->hash->used >= 1u << (jit->hash->bits - 1)) {
        hash_renew(jit);
    }
    jit->block_count++;
    hash_insert(jit->hash, b);
    b->in_hash = true;
}

static void hash_remove(Jit *jit, const JitBlock *b)
{
    JitHash *hash = jit->hash;
    uint64_t tag = tag_of(b->page, b->offset, b->key);
    size_t mask = ((size_t)1 << hash->bits) - 1, n = tag >> (64 - hash->bits);

    while (hash->entries[n].tag != tag || hash->entries[n].block != b) {
        n = (n + 1) & mask;
    }
    bool last = hash->entries[(n + 1) & mask].tag == TAG_FREE;
    __atomic_store_n(&hash->entries[n].tag, last ? TAG_FREE : TAG_WAS_USED, __ATOMIC_RELEASE);
    hash->used -= last;
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

JitLink *jit_careful_link(Jit *jit, X86Cpu *cpu, const JitCareful *way, const JitBlock *to)
{
    JitLink *link = NULL;

    if (!jit->chain) {
        return NULL; /* lockstep compares one block at a time */
    }
    x86_fpu_leave(cpu);
    pthread_mutex_lock(&jit->lock);
    JitBlock *from = jit_block_at(jit, (const uint8_t *)way);
    /* A link to a block of two pages looks the address up (they may not be neighbours for long), and would
     * find the variant that it has come from. */
    if (from && !from->stale && !to->stale && !to->second && to->page == from->page &&
        to->offset == (*way & 4095)) {
        link = jit_alloc(jit, sizeof(JitLink), false);
        link->from = from;
        link->target = to->offset;
        link->in_mem = *way & JIT_CAREFUL_IN_MEM;
        link->careful = true;
        link->site = jit_rw(jit, (const uint8_t *)way) - JIT_CAREFUL_SITE;
        link->stub = jit_rw(jit, (const uint8_t *)way) - JIT_CAREFUL_STUB;
        link->next_out = from->links;
        from->links = link;
    }
    pthread_mutex_unlock(&jit->lock);
    return link;
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

/* The first instruction of ibtc_entry is seven bytes long and lies in an aligned eight: it becomes a jump. So
 * does that of mem_poll_entry, the last five bytes of the next eight: that is where far jumps lead. */
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
    d = (int32_t)(b->gone - (b->code + 16));
    memcpy(bytes, b->code + 8, 8);
    bytes[3] = 0xe9;
    memcpy(bytes + 4, &d, 4);
    memcpy(&word, bytes, 8);
    __atomic_store_n((uint64_t *)(void *)(b->code + 8), word, __ATOMIC_RELEASE);
}

/* ---- pages ---- */

/* Whether the instruction TLB has the page of linear, and it is RAM. */
static bool code_page_now(const X86Cpu *cpu, uint64_t linear, const uint8_t **host)
{
    const ItlbEntry *e = mmu_itlb_entry(cpu, linear);
    const X86Mmu *mmu = cpu->mmu;

    if (e->page != (linear & PAGE_MASK_4K) ||
        e->generation != (e->global ? mmu->global_generation : mmu->generation) || !e->code.ram) {
        return false;
    }
    *host = e->code.host;
    return *host != NULL;
}

#define OFTEN_COUNT     6
#define OFTEN_WINDOW_NS (100 * INT64_C(1000000))
#define OFTEN_KEEP_NS   (2000 * INT64_C(1000000))
#define OFTEN_RELAPSES  5 /* twice as long each time */
#define REVIEW_NS       (250 * INT64_C(1000000))

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static gboolean page_is_idle(gpointer key, gpointer value, gpointer user_data)
{
    const JitPage *page = value;
    (void)key;
    return !page->blocks && !page->checking && !page->often && !page->aliased && !page->has_split &&
           !page->has_scattered && !page->has_varying &&
           *(int64_t *)user_data - page->since_ns > OFTEN_KEEP_NS;
}

/* Forgets pages of which nothing is known, where there are many. */
static void pages_trim(Jit *jit)
{
    if (g_hash_table_size(jit->pages) >= jit->pages_limit) {
        int64_t now = now_ns();
        g_hash_table_foreach_remove(jit->pages, page_is_idle, &now);
        jit->pages_limit = MAX(PAGES_LIMIT, g_hash_table_size(jit->pages) * 2);
    }
}

/* What is known of a page, from now on. */
static JitPage *page_get(Jit *jit, const uint8_t *host)
{
    JitPage *page = g_hash_table_lookup(jit->pages, host);
    if (!page) {
        page = g_new0(JitPage, 1);
        page->host = host;
        g_hash_table_insert(jit->pages, (gpointer)host, page);
    }
    return page;
}

static JitBlock **page_list(JitPage *page, const JitBlock *b)
{
    return b->checks_itself ? &page->checking : &page->blocks;
}

static void page_add(Jit *jit, JitPage *page, JitBlock *b, unsigned which)
{
    JitBlock **list = page_list(page, b), *first = *list;
    if (!first && !b->checks_itself) {
        code_pages_count(&jit->code_pages, page->host, 1);
    }
    b->of_page[which].page = page;
    b->of_page[which].next = first;
    b->of_page[which].previous = NULL;
    if (first) {
        first->of_page[first->page != page->host].previous = b;
    }
    *list = b;
}

static void page_remove(Jit *jit, JitBlock *b)
{
    for (unsigned which = 0; which < 2; which++) {
        JitPage *page = b->of_page[which].page;
        if (!page) {
            continue;
        }
        JitBlock *next = b->of_page[which].next, *previous = b->of_page[which].previous;
        if (next) {
            next->of_page[next->page != page->host].previous = previous;
        }
        if (previous) {
            previous->of_page[previous->page != page->host].next = next;
        } else {
            *page_list(page, b) = next;
            if (!next && !b->checks_itself) {
                code_pages_count(&jit->code_pages, page->host, -1);
            }
        }
        b->of_page[which].page = NULL;
    }
}

/* Invariant 6. */
static void block_make_stale(Jit *jit, JitBlock *b)
{
    if (b->stale) {
        return;
    }
    b->stale = true;
    hash_remove(jit, b);
    page_remove(jit, b);
    unlink_incoming(b);
    unlink_outgoing(b);
    patch_entry(jit, b);
    jit->stale_count++;
}

/* Writes to a page are frequent from now on, or no more. */
static void set_often(Jit *jit, JitPage *page, bool often)
{
    page->often = often;
    if (often) {
        g_ptr_array_add(jit->often, page);
    } else {
        g_ptr_array_remove_fast(jit->often, page);
    }
    __atomic_store_n(&jit->often_count, jit->often->len, __ATOMIC_RELAXED);
}

static void count_write(Jit *jit, JitPage *page)
{
    int64_t now = now_ns();
    if (now - page->since_ns > OFTEN_WINDOW_NS) {
        page->since_ns = now;
        page->writes = 0;
    }
    if (++page->writes >= OFTEN_COUNT) {
        if (!page->often) {
            set_often(jit, page, true);
        }
        page->since_ns = now;
    }
}

/* Whether blocks of the page are to check themselves. When that is over, those that do are made anew. The
 * lock is held. */
static bool written_often(Jit *jit, JitPage *page)
{
    if (!page->often) {
        return false;
    }
    if (now_ns() - page->since_ns <= OFTEN_KEEP_NS << page->relapses) {
        return true;
    }
    page->writes = 0;
    page->relapses += page->relapses < OFTEN_RELAPSES;
    set_often(jit, page, false);
    while (page->checking) {
        block_make_stale(jit, page->checking);
    }
    return false;
}

void jit_review_pages(Jit *jit, X86Cpu *cpu)
{
    if (!__atomic_load_n(&jit->often_count, __ATOMIC_RELAXED)) {
        return;
    }
    int64_t now = now_ns();
    if (now - __atomic_load_n(&jit->reviewed_ns, __ATOMIC_RELAXED) < REVIEW_NS) {
        return;
    }
    x86_fpu_leave(cpu);
    pthread_mutex_lock(&jit->lock);
    __atomic_store_n(&jit->reviewed_ns, now, __ATOMIC_RELAXED);
    for (guint i = jit->often->len; i-- > 0;) {
        written_often(jit, jit->often->pdata[i]);
    }
    pthread_mutex_unlock(&jit->lock);
}

static void page_invalidate(Jit *jit, const uint8_t *host_page)
{
    JitPage *page = g_hash_table_lookup(jit->pages, host_page);
    if (!page || !page->blocks) {
        return;
    }
    while (page->blocks) {
        block_make_stale(jit, page->blocks);
    }
    count_write(jit, page);
}

bool jit_page_aliased(Jit *jit, const uint8_t *host_page)
{
    pthread_mutex_lock(&jit->lock);
    JitPage *page = page_get(jit, host_page);
    bool changes = !page->aliased;
    page->aliased = true;
    while (changes && page->blocks) {
        block_make_stale(jit, page->blocks);
    }
    while (changes && page->checking) {
        block_make_stale(jit, page->checking);
    }
    pthread_mutex_unlock(&jit->lock);
    return changes;
}

void jit_block_changed(Jit *jit, JitBlock *block)
{
    pthread_mutex_lock(&jit->lock);
    if (!block->stale) {
        jit_note_varying(jit, page_get(jit, block->page), block);
        block_make_stale(jit, block);
    }
    pthread_mutex_unlock(&jit->lock);
}

void jit_block_scattered(Jit *jit, const void *executable, unsigned offset)
{
    pthread_mutex_lock(&jit->lock);
    JitBlock *b = jit_block_at(jit, executable);
    if (b) {
        if (g_hash_table_size(jit->scattered) > SCATTERED_MAX) {
            g_hash_table_remove_all(jit->scattered); /* what is still so is found again */
        }
        g_hash_table_add(jit->scattered, (gpointer)(b->page + offset));
        page_get(jit, b->page)->has_scattered = true;
        block_make_stale(jit, b);
    }
    pthread_mutex_unlock(&jit->lock);
}

void jit_page_written(Jit *jit, const uint8_t *host_page)
{
    if (!code_pages_has(&jit->code_pages, host_page)) {
        return; /* what is being made of it now will be looked at once more */
    }
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
    pthread_mutex_unlock(&jit->lock);
}

/* ---- regions ---- */

/* Makes the blocks of a region stale and asks every vCPU to forget them. */
static void region_evict(Jit *jit, JitRegion *r)
{
    for (guint i = 0; i < r->blocks->len; i++) {
        block_make_stale(jit, r->blocks->pdata[i]);
    }
    if (!r->old_hashes) {
        /* Who sees this epoch looks there no more. */
        r->old_hashes = jit->hash->older;
        jit->hash->older = NULL;
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

void jit_table_far_clear(JitVcpu *v, unsigned i)
{
    const uint8_t **far = v->tables[i].far, *unknown = jit_rx(v->jit, v->jit->thunks.far);
    unsigned count = v->tables[i].far_count;

    if (count > JIT_FILLS) {
        madvise(far, JIT_FARS * sizeof(uint8_t *), MADV_DONTNEED);
    } else {
        for (unsigned n = 0; n < count; n++) {
            far[v->tables[i].far_fills[n]] = unknown;
        }
    }
    v->tables[i].far_count = 0;
    v->tables[i].seen_count = 0;
    if (++v->tables[i].turn == 4096) {
        memset(v->tables[i].seen, 0, sizeof(JitSeen) * JIT_SEEN);
        v->tables[i].turn = 1;
    }
}

void jit_table_clear(JitVcpu *v, unsigned i)
{
    IbtcTable *table = v->tables[i].entries;
    unsigned count = v->tables[i].fill_count;

    if (count > JIT_FILLS) {
        memset(table->va, 0, sizeof(table->va));
    } else {
        for (unsigned n = 0; n < count; n++) {
            unsigned slot = v->tables[i].fills[n];
            table->va[slot] = table->va[slot ^ 1] = 0;
        }
    }
    jit_table_init(table);
    v->tables[i].fill_count = 0;
    jit_table_far_clear(v, i);
}

/* All of them lead to thunks.far, whose address fills the file. */
static const uint8_t **far_table(const Jit *jit)
{
    size_t part = JIT_FARS_REGION * sizeof(uint8_t *);
    uint8_t *p =
        mmap(NULL, part * JIT_REGIONS, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bool ok = p != MAP_FAILED;
    for (unsigned i = 0; ok && i < JIT_REGIONS; i++) {
        ok = mmap(p + i * part, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, jit->far_fd, 0) !=
             MAP_FAILED;
    }
    if (!ok) {
        g_error("out of memory for what belongs to translated code");
    }
    return (const uint8_t **)(void *)p;
}

void jit_table_new(JitVcpu *v, unsigned i)
{
    v->tables[i].entries = map_zeros(sizeof(IbtcTable), JIT_IBTC_ALIGN);
    jit_table_init(v->tables[i].entries);
    v->tables[i].fill_count = 0;
    v->tables[i].far = far_table(v->jit);
    v->tables[i].far_count = 0;
    v->tables[i].seen = map_zeros(sizeof(JitSeen) * JIT_SEEN, 4096);
    v->tables[i].seen_count = 0;
    v->tables[i].turn = 1;
}

void jit_table_free(JitVcpu *v, unsigned i)
{
    munmap(v->tables[i].entries, sizeof(IbtcTable));
    munmap(v->tables[i].far, JIT_FARS * sizeof(uint8_t *));
    munmap(v->tables[i].seen, sizeof(JitSeen) * JIT_SEEN);
}

void jit_tables_drop(JitVcpu *v)
{
    for (unsigned i = 0; i < v->table_count; i++) {
        jit_table_clear(v, i);
    }
    __atomic_store_n(&v->epoch_seen, __atomic_load_n(&v->jit->epoch, __ATOMIC_SEQ_CST), __ATOMIC_SEQ_CST);
}

/* Has the host make the pages that the next block goes to, some at a time: that costs less than faults. */
static void make_ready(const Jit *jit, const uint8_t *used, uint8_t **ready, const uint8_t *end)
{
    if (used + READY_STEP / 2 <= *ready || *ready >= end) {
        return;
    }
    uintptr_t from = (uintptr_t)*ready & ~(uintptr_t)4095, to = from + READY_STEP;
    size_t size = MIN(to, (uintptr_t)end) - from;
#ifdef MADV_POPULATE_WRITE
    madvise((void *)from, size, MADV_POPULATE_WRITE);
    madvise((uint8_t *)from + jit->rx_delta, size, MADV_POPULATE_READ);
#endif
    *ready = (uint8_t *)from + size;
}

/* Goes on with the next region. The lock is held; let go of while waiting. */
static void region_next(Jit *jit, JitVcpu *v)
{
    unsigned next = (jit->current + 1) % JIT_REGIONS;
    JitRegion *r = &jit->regions[next];
    uint64_t turn = jit->turns;

    if (r->blocks->len) {
        region_evict(jit, r);
        jit_tables_drop(v);
        while (!region_is_free(jit, r, v)) {
            pthread_mutex_unlock(&jit->lock);
            bool was = mmu_suspend(v->cpu);
            sched_yield();
            mmu_resume(v->cpu, was);
            pthread_mutex_lock(&jit->lock);
            if (jit->turns != turn) {
                return; /* somebody else went on, and has perhaps put something there */
            }
        }
        g_ptr_array_set_size(r->blocks, 0);
        arena_empty(&r->arena);
        r->used = r->start;
        r->cold_used = r->cold_start;
        r->fars = 0;
        hash_free_list(r->old_hashes);
        r->old_hashes = NULL;
    }
    jit->current = next;
    jit->turns++;
}

JitBlock *jit_block_at(Jit *jit, const uint8_t *executable)
{
    const uint8_t *p = jit_rw(jit, executable);
    for (unsigned i = 0; i < JIT_REGIONS; i++) {
        JitRegion *r = &jit->regions[i];
        bool cold = p >= r->cold_start && p < r->cold_used;
        if (!cold && (p < r->start || p >= r->used)) {
            continue;
        }
        guint low = 0, high = r->blocks->len;
        while (low < high) {
            guint mid = (low + high) / 2;
            const JitBlock *b = r->blocks->pdata[mid];
            if (p >= (cold ? b->cold + b->cold_size : b->code + b->code_size)) {
                low = mid + 1;
            } else {
                high = mid;
            }
        }
        if (low < r->blocks->len) {
            JitBlock *b = r->blocks->pdata[low];
            if (p >= (cold ? b->cold : b->code)) {
                return b;
            }
        }
    }
    return NULL;
}

/* What was expected of the block's accesses is to be expected no more. The lock is held. */
static void note_split(Jit *jit, JitBlock *b)
{
    if (g_hash_table_size(jit->split) >= SPLIT_MAX) {
        g_hash_table_remove_all(jit->split);
    }
    g_hash_table_add(jit->split, jit_split_key(b->page + b->offset, b->key));
    page_get(jit, b->page)->has_split = true;
    block_make_stale(jit, b);
}

void jit_checked_in_vain(Jit *jit, X86Cpu *cpu, const void *executable)
{
    pthread_mutex_lock(&jit->lock);
    JitBlock *b = jit_block_at(jit, executable);
    uint64_t now = __builtin_ia32_rdtsc();
    if (b && now - b->in_vain_since > VAIN_CYCLES) {
        b->in_vain_since = now;
        b->in_vain = 0;
    }
    if (b && !b->stale && ++b->in_vain == VAIN_MAX) {
        x86_fpu_leave(cpu);
        note_split(jit, b);
    }
    pthread_mutex_unlock(&jit->lock);
}

void jit_far_windows(Jit *jit, X86Cpu *cpu, JitBlock *b)
{
    uint64_t now = __builtin_ia32_rdtsc();

    x86_fpu_leave(cpu);
    pthread_mutex_lock(&jit->lock);
    if (now - b->in_vain_since > FAR_CYCLES * JIT_FAR_WINDOWS) {
        b->in_vain_since = now;
        b->far_windows = JIT_FAR_WINDOWS;
    } else if (!b->stale) {
        note_split(jit, b);
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
        block_make_stale(jit, b);
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
    JitBlock *b;
    bool full, check = false, protected = false;

    x86_fpu_leave(cpu);
    pthread_mutex_lock(&jit->lock);
    for (;;) {
        pages_trim(jit);
        JitPage *first_page = page_get(jit, page->host);
        JitPage *second_page = second ? page_get(jit, second->host) : NULL;
        check = written_often(jit, first_page) || (second && written_often(jit, second_page));
        if (!check && !protected) {
            /* Where that is not so already the lock must not be held: it waits for others. */
            protected = true;
            if (!still_protected(page) || (second && !still_protected(second)) ||
                interp_protect_pending(cpu, page) || (second && interp_protect_pending(cpu, second))) {
                pthread_mutex_unlock(&jit->lock);
                interp_page_protect(cpu, page);
                if (second) {
                    interp_page_protect(cpu, second);
                }
                pthread_mutex_lock(&jit->lock);
                continue;
            }
        }
        /* Somebody else may have made it meanwhile. */
        b = hash_find(jit, page->host, offset, key, second ? second->host : NULL);
        if (b) {
            break;
        }
        JitRegion *region = &jit->regions[jit->current];
        make_ready(jit, region->used, &region->ready, region->end);
        make_ready(jit, region->cold_used, &region->cold_ready, region->cold_end);
        b = jit_translate(jit, cpu, first_page, offset, second_page, key, check, &full);
        if (!b && full) {
            region_next(jit, v);
            continue; /* the lock was let go of */
        }
        if (!b) {
            break;
        }
        g_ptr_array_add(jit->regions[jit->current].blocks, b);
        hash_add(jit, b);
        page_add(jit, first_page, b, 0);
        if (second && second_page != first_page) {
            page_add(jit, second_page, b, 1);
        }
        if (!check) {
            if (!still_protected(page) || (second && !still_protected(second))) {
                /* Written while it was read: whoever wrote did not find it. */
                block_make_stale(jit, b);
                b = NULL;
            }
        }
        break;
    }
    pthread_mutex_unlock(&jit->lock);
    return b;
}

JitBlock *jit_find_now(X86Cpu *cpu, const Jit *jit, uint32_t key)
{
    unsigned offset = (unsigned)(cpu->rip & 4095);
    const uint8_t *page, *second = NULL;

    if (!code_page_now(cpu, cpu->rip, &page)) {
        return NULL;
    }
    if (offset + X86_INSN_MAX > 4096 && !code_page_now(cpu, (cpu->rip & PAGE_MASK_4K) + 4096, &second)) {
        second = NULL;
    }
    return hash_find(jit, page, offset, key, second);
}

const JitBlock *jit_far_now(X86Cpu *cpu, const Jit *jit, const JitFar *far, uint32_t key)
{
    uint64_t epoch = __atomic_load_n(&jit->epoch, __ATOMIC_SEQ_CST) + 1;
    const uint8_t *page;

    if (__atomic_load_n(&far->epoch, __ATOMIC_ACQUIRE) != epoch || !code_page_now(cpu, cpu->rip, &page)) {
        return NULL;
    }
    const JitBlock *to = __atomic_load_n(&far->to, __ATOMIC_ACQUIRE);
    /* Where another vCPU has noted something meanwhile, `to` may be of another epoch. */
    if (__atomic_load_n(&far->epoch, __ATOMIC_SEQ_CST) != epoch || to->page != page || to->key != key ||
        to->stale || to->second) {
        return NULL;
    }
    return to;
}

void jit_far_note(const Jit *jit, JitFar *far, const JitBlock *to)
{
    uint64_t epoch = __atomic_load_n(&jit->epoch, __ATOMIC_SEQ_CST) + 1;

    __atomic_store_n(&far->epoch, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&far->to, to, __ATOMIC_SEQ_CST);
    __atomic_store_n(&far->epoch, epoch, __ATOMIC_SEQ_CST);
}

const uint8_t *jit_code_at(X86Cpu *cpu)
{
    CodePage page;

    cpu->current_op = NULL;
    x86_code_page(cpu, cpu->rip, &page);
    return page.host && page.ram ? page.host + (cpu->rip & 4095) : NULL;
}

JitBlock *jit_find_made(X86Cpu *cpu, JitVcpu *v, uint32_t key, const uint8_t *host)
{
    unsigned offset = (unsigned)((uintptr_t)host & 4095);
    const uint8_t *second = NULL;

    v->lookups++;
    if (offset + X86_INSN_MAX > 4096 && !code_page_now(cpu, (cpu->rip & PAGE_MASK_4K) + 4096, &second)) {
        second = NULL;
    }
    return hash_find(v->jit, host - offset, offset, key, second);
}

JitBlock *jit_find(X86Cpu *cpu, JitVcpu *v, uint32_t key)
{
    unsigned offset = (unsigned)(cpu->rip & 4095);
    const uint8_t *host;
    CodePage page, next;

    host = jit_code_at(cpu);
    JitBlock *b = host ? jit_find_made(cpu, v, key, host) : NULL;
    if (b || !host) {
        return b;
    }
    x86_code_page(cpu, cpu->rip, &page);
    b = translate(cpu, v, &page, NULL, key);
    if (b || offset + X86_INSN_MAX <= 4096) {
        return b;
    }
    /* The instruction goes on in the next page, perhaps. */
    x86_code_page(cpu, (cpu->rip & PAGE_MASK_4K) + 4096, &next);
    return next.host && next.ram ? translate(cpu, v, &page, &next, key) : NULL;
}
