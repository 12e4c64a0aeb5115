/*
 * Windows onto the memory of processes that run for long.
 *
 * Of the guest's user half, each TiB that a process uses gets as much of the host's address space (nothing is
 * behind it at first), with room before and behind it (WINDOW_GUARD). The distance of the two is in
 * JitArea.windows: code that is made for this (KEY_WINDOW) adds it to an address and needs no other check.
 * Where nothing is mapped the host faults; windows_fault() then maps the RAM that the guest's page tables
 * say, with no more rights than they give, and the instruction is run again. What they do not give is the
 * interpreter's, which raises what there is to raise.
 *
 * Invariants:
 *  1. A page in a window is a copy of a TLB entry: it comes from the page tables as mmu_look() reads them,
 * and goes before the vCPU's next translated instruction when the MMU says that it is void (X86Mmu.dropped).
 *  2. It may be written only where a write needs no more bookkeeping (accessed, dirty, dirty logs, code).
 *  3. Windows are a vCPU's own, and are changed by its thread only.
 *
 * A mapping costs as much as some ten thousand looks at the TLB, so only address spaces that ran for some
 * milliseconds get windows, and lose them for a while where pages come and go too fast.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/window.h"
#include "accel/soft/jit/jit.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

#define WINDOW_SIZE    (UINT64_C(1) << WINDOW_SHIFT)
#define SPACE_WINDOWS  8u  /* of an address space */
#define POOL_WINDOWS   24u /* of a vCPU */
#define POOL_PAIRS     6u
#define MAX_PAGES      16384u
#define OTHER_MAPPINGS 10000 /* that the process may need besides */
#define PAGE_MAPPINGS  2     /* of the host, of a page at most: its own, and what it cuts off */
#define EXPECTED       16u
#define GOING          256u
#define RUN            16u /* pages that are mapped at once */
#define HEAT_ON        2u  /* how often it was found running before it gets windows */
#define WRITTEN_LOG2   16
#define LARGE          (UINT64_C(2) << 20)
#define CR3_TABLE      UINT64_C(0x000ffffffffff000)

/* Host time, in cycles, that all this may take of an address space's: so much at first, and this part of what
 * passes. */
#define CREDIT_FIRST (INT64_C(1) << 25)
#define CREDIT_SHARE 6
/* Besides what it takes, of a page that comes back after it went, or is to be written again: who makes and
 * ends mappings or processes all the time is better off without windows. */
#define COST_AGAIN (INT64_C(1) << 16)
#define GONE_LOG2  12
/* What a fault takes before and behind windows_fault, and the guest's next access to a page that is new. */
#define COST_FAULT 6000
/* How long an address space goes without after that, at first; the next time its first credit is smaller. */
#define PAUSE_CYCLES (UINT64_C(1) << 30)

/*
 * Linux puts programs (but those for fixed addresses) and their heaps into the TiBs 55h and 56h, what is
 * mapped and stacks into 7Eh and 7Fh. An address space gets windows for these at the same distance, so that
 * code may take it for granted that an operand lies as far from its guest address as the stack does
 * (access.c).
 */
#define PAIR_COUNT 2u
static const uint64_t pair_guest[PAIR_COUNT] = { UINT64_C(0x55) << WINDOW_SHIFT, UINT64_C(0x7e)
                                                                                     << WINDOW_SHIFT };
#define PAIR_SIZE    (2 * WINDOW_SIZE)
#define PAIR_SPACING 3u /* TiB, between the pairs of two address spaces */
#define PAIR_LOWEST  8u /* TiB, that they lie below the guest's addresses */
#define PAIR_HIGHEST 80u

/* Flags in the low bits of a page's host address. */
#define PAGE_WRITABLE UINT64_C(1)
#define PAGE_LARGE    UINT64_C(2)
#define PAGE_HOST     (~UINT64_C(0xfff))

typedef struct Space {
    uint64_t pgd; /* whose it is */
    bool on, stale;
    bool failed; /* a page could not be mapped: all are to go */
    unsigned heat;
    struct {
        uint64_t guest; /* where it begins */
        uint8_t *host;  /* the same place here */
        bool paired;    /* of Space.pair */
    } windows[SPACE_WINDOWS];
    unsigned window_count;
    uint64_t pair; /* host minus guest address of pair_guest's windows; 0: it has not got these */
    /* Guest page -> host page and flags. Large ones are under their first page with PAGE_LARGE set. */
    GHashTable *pages;
    /* Host page -> the key of the small page that may be written and lies there; MANY: of several. */
    GHashTable *writable;
    unsigned large_writable;
    int64_t credit;
    uint64_t credit_tsc, paused_until, pause;
    uint64_t used; /* by Windows.clock */
} Space;

typedef struct Going {
    uint8_t *at;
    size_t size;
} Going;

struct Windows {
    X86Cpu *cpu;
    Space spaces[MMU_CONTEXTS];
    unsigned shown;     /* the context that JitArea.windows is of; MMU_CONTEXTS: none */
    bool something;     /* to do before code runs: a space is stale, pages are expected */
    Going going[GOING]; /* what is to go out of the windows before code runs */
    unsigned going_count;
    uint64_t expected[EXPECTED];
    unsigned expected_count;
    void *pool[POOL_WINDOWS]; /* reservations that nobody has, with their guards */
    unsigned pool_count, made, pages;
    uint64_t pairs[POOL_PAIRS]; /* distances of pairs that nobody has */
    unsigned pair_count, pairs_made;
    bool none_to_be_had, no_pairs_to_be_had;
    uint64_t clock;
    uint64_t gone[1u << GONE_LOG2]; /* pages that went, with their contexts */
    unsigned again;                 /* came back since somebody paid for it */
    bool at_once;                   /* for tests: whatever it costs, within bounds */
    /* Atomic: how many pages of host memory may be written through a window, by a hash of their addresses,
     * and in all. */
    uint16_t written[1u << WRITTEN_LOG2];
    uint32_t written_all;
    WindowCounts counts;
};

/* How many pages may be in windows in the whole process: the host bounds its mappings. */
static int pages_limit, pages_all;

/* Whether the kernel's half holds something that users may read, as old hosts' vsyscall page. */
static bool kernel_half_is_readable(void)
{
    char line[256];
    bool readable = false;
    FILE *maps = fopen("/proc/self/maps", "re");

    while (maps && fgets(line, sizeof(line), maps)) {
        unsigned long long start;
        char rights[8];
        readable |= sscanf(line, "%llx-%*x %7s", &start, rights) == 2 && start >> 63 && rights[0] == 'r';
    }
    if (maps) {
        fclose(maps);
    }
    return readable;
}

/* What this host has, looked at when it is wanted first: starting takes no longer for it. */
static bool host_has_windows(void)
{
    static gsize once; /* 1: no, 2: yes */
    if (g_once_init_enter(&once)) {
        g_autofree char *text = NULL;
        gint64 mappings = 65530; /* what Linux begins with */
        if (g_file_get_contents("/proc/sys/vm/max_map_count", &text, NULL, NULL)) {
            mappings = g_ascii_strtoll(text, NULL, 10);
        }
        pages_limit = (int)CLAMP((mappings - OTHER_MAPPINGS) / PAGE_MAPPINGS, 0, 1 << 20);
        g_once_init_leave(&once, kernel_half_is_readable() ? 1 : 2);
    }
    return once == 2;
}

static void count_pages(Windows *w, int n)
{
    w->pages += (unsigned)n;
    __atomic_add_fetch(&pages_all, n, __ATOMIC_RELAXED);
}

static bool is_full(const Windows *w)
{
    return w->pages >= MAX_PAGES || __atomic_load_n(&pages_all, __ATOMIC_RELAXED) >= pages_limit;
}

static uint64_t now(void)
{
    return __builtin_ia32_rdtsc();
}

static Space *current(const Windows *w)
{
    return (Space *)&w->spaces[w->cpu->mmu->context];
}

/* ---- host memory ---- */

static bool map_none(void *at, size_t size)
{
    return mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
           MAP_FAILED;
}

/* A window's memory with its guards; NULL: there is none. */
static uint8_t *reserve(Windows *w)
{
    if (w->pool_count) {
        return w->pool[--w->pool_count];
    }
    if (w->made == POOL_WINDOWS || w->none_to_be_had) {
        return NULL;
    }
    void *p = mmap(NULL, WINDOW_SIZE + 2 * WINDOW_GUARD, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        w->none_to_be_had = true;
        return NULL;
    }
    madvise(p, WINDOW_SIZE + 2 * WINDOW_GUARD, MADV_DONTDUMP);
    w->made++;
    return p;
}

static void give_back(Windows *w, uint8_t *host)
{
    uint8_t *start = host - WINDOW_GUARD;
    if (map_none(start, WINDOW_SIZE + 2 * WINDOW_GUARD)) {
        w->pool[w->pool_count++] = start;
    } else {
        munmap(start, WINDOW_SIZE + 2 * WINDOW_GUARD);
        w->made--;
    }
}

static uint8_t *pair_start(unsigned k, uint64_t distance)
{
    return (uint8_t *)(uintptr_t)(pair_guest[k] + distance - WINDOW_GUARD);
}

static void pair_unmap(uint64_t distance, unsigned count)
{
    for (unsigned k = 0; k < count; k++) {
        munmap(pair_start(k, distance), PAIR_SIZE + 2 * WINDOW_GUARD);
    }
}

/* Memory for the windows of pair_guest with its guards: its distance; 0: there is none. */
static uint64_t pair_reserve(Windows *w)
{
    if (w->pair_count) {
        return w->pairs[--w->pair_count];
    }
    if (w->pairs_made == POOL_PAIRS || w->no_pairs_to_be_had) {
        return 0;
    }
    unsigned places = (PAIR_HIGHEST - PAIR_LOWEST) / PAIR_SPACING;
    unsigned first = (unsigned)g_random_int_range(0, (gint32)places);
    for (unsigned n = 0; n < places; n++) {
        uint64_t below = PAIR_LOWEST + (first + n) % places * PAIR_SPACING,
                 distance = -(below << WINDOW_SHIFT);
        unsigned k;
        for (k = 0; k < PAIR_COUNT; k++) {
            uint8_t *want = pair_start(k, distance);
            void *p = mmap(want, PAIR_SIZE + 2 * WINDOW_GUARD, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
            if (p != want) {
                if (p != MAP_FAILED) { /* by a kernel that does not know the flag */
                    munmap(p, PAIR_SIZE + 2 * WINDOW_GUARD);
                }
                break;
            }
            madvise(p, PAIR_SIZE + 2 * WINDOW_GUARD, MADV_DONTDUMP);
        }
        if (k == PAIR_COUNT) {
            w->pairs_made++;
            return distance;
        }
        pair_unmap(distance, k);
    }
    w->no_pairs_to_be_had = true;
    return 0;
}

static void pair_give_back(Windows *w, uint64_t distance)
{
    bool done = true;
    for (unsigned k = 0; k < PAIR_COUNT; k++) {
        done &= map_none(pair_start(k, distance), PAIR_SIZE + 2 * WINDOW_GUARD);
    }
    if (done) {
        w->pairs[w->pair_count++] = distance;
    } else {
        pair_unmap(distance, PAIR_COUNT);
        w->pairs_made--;
    }
}

static bool is_paired(uint64_t linear)
{
    return linear - pair_guest[0] < PAIR_SIZE || linear - pair_guest[1] < PAIR_SIZE;
}

/* ---- what may be written ---- */

static unsigned written_hash(const uint8_t *host)
{
    return (unsigned)((((uintptr_t)host >> 12) * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - WRITTEN_LOG2));
}

/* More or less of it may be written. */
static void count_written(Windows *w, const uint8_t *host, size_t size, int n)
{
    for (size_t at = 0; at < size; at += 4096) {
        uint16_t *count = &w->written[written_hash(host + at)];
        __atomic_store_n(count, (uint16_t)(*count + n), __ATOMIC_RELEASE);
    }
    __atomic_store_n(&w->written_all, w->written_all + (uint32_t)n, __ATOMIC_SEQ_CST);
}

static size_t page_size(uint64_t page)
{
    return page & PAGE_LARGE ? LARGE : 4096;
}

#define MANY GUINT_TO_POINTER(1)
/* So that the key of page 0 is something. */
#define SOME UINT64_C(8)

static gpointer some(gpointer key)
{
    return (gpointer)((uintptr_t)key | SOME);
}

/* The page is there, and may be written. */
static void page_count(Space *s, gpointer key, uint64_t page)
{
    if (page & PAGE_LARGE) {
        s->large_writable++;
        return;
    }
    gpointer host = (gpointer)(uintptr_t)(page & PAGE_HOST), other = g_hash_table_lookup(s->writable, host);
    g_hash_table_insert(s->writable, host, other && other != some(key) ? MANY : some(key));
}

/* The page is gone, or its right to be written is. */
static void page_uncount(Windows *w, Space *s, gpointer key, uint64_t page)
{
    if (!(page & PAGE_WRITABLE)) {
        return;
    }
    gpointer host = (gpointer)(uintptr_t)(page & PAGE_HOST);
    count_written(w, host, page_size(page), -1);
    if (page & PAGE_LARGE) {
        s->large_writable--;
    } else if (g_hash_table_lookup(s->writable, host) == some(key)) {
        g_hash_table_remove(s->writable, host);
    }
}

static int compare_going(const void *a, const void *b)
{
    const Going *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

/* Takes out of the windows what is not to be there any more: neighbours at once, since each call costs. */
static void going_flush(Windows *w)
{
    unsigned count = w->going_count;

    if (!count) {
        return;
    }
    w->going_count = 0;
    qsort(w->going, count, sizeof(w->going[0]), compare_going);
    for (unsigned k = 0; k < count;) {
        uint8_t *at = w->going[k].at, *end = at;
        for (; k < count && w->going[k].at <= end; k++) {
            end = MAX(end, w->going[k].at + w->going[k].size);
        }
        if (!map_none(at, (size_t)(end - at))) {
            g_error("no memory to take pages out of a window: %s", g_strerror(errno));
        }
    }
}

/* ---- spaces ---- */

static uint8_t *window_of(const Space *s, uint64_t linear)
{
    for (unsigned i = 0; i < s->window_count; i++) {
        if (linear - s->windows[i].guest < WINDOW_SIZE) {
            return s->windows[i].host + (linear - s->windows[i].guest);
        }
    }
    return NULL;
}

static void hide(Windows *w)
{
    if (w->shown < MMU_CONTEXTS) {
        const Space *s = &w->spaces[w->shown];
        for (unsigned i = 0; i < s->window_count; i++) {
            jit_hot(w->cpu)->windows[s->windows[i].guest >> WINDOW_SHIFT] = WINDOW_NONE;
        }
        w->shown = MMU_CONTEXTS;
    }
}

static void show(Windows *w, Space *s)
{
    hide(w);
    for (unsigned i = 0; i < s->window_count; i++) {
        jit_hot(w->cpu)->windows[s->windows[i].guest >> WINDOW_SHIFT] =
            (uint64_t)(uintptr_t)s->windows[i].host - s->windows[i].guest;
    }
    w->shown = (unsigned)(s - w->spaces);
    s->used = ++w->clock;
}

/* Gives all of its windows back. */
static void space_clear(Windows *w, Space *s)
{
    going_flush(w);
    if (w->shown == (unsigned)(s - w->spaces)) {
        hide(w);
    }
    for (unsigned i = 0; i < s->window_count; i++) {
        if (!s->windows[i].paired) {
            give_back(w, s->windows[i].host);
        }
    }
    s->window_count = 0;
    if (s->pair) {
        pair_give_back(w, s->pair);
        s->pair = 0;
    }
    if (s->pages) {
        GHashTableIter it;
        gpointer key, value;
        g_hash_table_iter_init(&it, s->pages);
        while (g_hash_table_iter_next(&it, &key, &value)) {
            page_uncount(w, s, key, (uint64_t)(uintptr_t)value);
        }
        count_pages(w, -(int)g_hash_table_size(s->pages));
        g_hash_table_remove_all(s->pages);
        g_hash_table_remove_all(s->writable);
    }
    s->on = s->stale = s->failed = false;
}

/* For another process. */
static void space_reset(Windows *w, Space *s)
{
    space_clear(w, s);
    s->heat = 0;
    s->pgd = w->cpu->cr3 & CR3_TABLE;
    s->paused_until = 0;
    s->pause = PAUSE_CYCLES;
}

static void space_pause(Windows *w, Space *s)
{
    space_clear(w, s);
    w->counts.given_up++;
    s->paused_until = now() + s->pause;
    s->pause = MIN(s->pause * 4, UINT64_C(1) << 36);
}

/* Time that passed here since `since`, and cycles besides, are at its cost, and what came back. */
static void charge(Windows *w, Space *s, uint64_t since, int64_t cycles)
{
    uint64_t t = now();
    s->credit = MIN(s->credit + (int64_t)((t - s->credit_tsc) / CREDIT_SHARE), CREDIT_FIRST);
    s->credit_tsc = t;
    s->credit -= (int64_t)(t - since) + cycles;
    if (!w->at_once) {
        s->credit -= w->again * COST_AGAIN;
    }
    w->again = 0;
    if (s->credit < 0) {
        w->something = true; /* the end is in windows_refresh */
    }
}

/* Takes the windows of who has not run for the longest time. false: nobody else has any. */
static bool steal(Windows *w, const Space *s, bool pair)
{
    Space *oldest = NULL;
    for (unsigned i = 0; i < MMU_CONTEXTS; i++) {
        Space *other = &w->spaces[i];
        if (other != s && (pair ? other->pair != 0 : other->window_count > 0) &&
            (!oldest || other->used < oldest->used)) {
            oldest = other;
        }
    }
    if (!oldest) {
        return false;
    }
    space_clear(w, oldest);
    oldest->heat = 0;
    return true;
}

static bool window_add(Windows *w, Space *s, uint64_t linear)
{
    uint64_t guest = linear & ~(WINDOW_SIZE - 1);
    uint8_t *host = NULL;

    if (s->window_count == SPACE_WINDOWS) {
        return false;
    }
    bool paired = is_paired(linear);
    while (paired && !s->pair) {
        s->pair = pair_reserve(w);
        paired = s->pair || steal(w, s, true);
    }
    if (paired) {
        host = (uint8_t *)(uintptr_t)(guest + s->pair);
    } else {
        uint8_t *start = reserve(w);
        while (!start) {
            if (!steal(w, s, false)) {
                return false;
            }
            start = reserve(w);
        }
        host = start + WINDOW_GUARD;
    }
    unsigned i = s->window_count++;
    s->windows[i].guest = guest;
    s->windows[i].host = host;
    s->windows[i].paired = paired;
    return true;
}

bool windows_near(uint64_t linear, uint64_t other)
{
    return linear >> WINDOW_SHIFT == other >> WINDOW_SHIFT || (is_paired(linear) && is_paired(other));
}

bool windows_all_near(const Windows *w, uint64_t linear)
{
    const Space *s = current(w);
    for (unsigned i = 0; i < s->window_count; i++) {
        if (!windows_near(s->windows[i].guest, linear)) {
            return false;
        }
    }
    return true;
}

/* ---- pages ---- */

static gpointer page_key(uint64_t linear, bool large)
{
    return (gpointer)(uintptr_t)(linear | (large ? PAGE_LARGE : 0));
}

/* The page that linear is in: its key, or NULL. */
static gpointer page_find(const Space *s, uint64_t linear, uint64_t *page)
{
    gpointer key = page_key(linear & PAGE_MASK_4K, false), value;
    for (unsigned large = 0; large < 2; large++) {
        if (g_hash_table_lookup_extended(s->pages, key, NULL, &value)) {
            *page = (uint64_t)(uintptr_t)value;
            return key;
        }
        key = page_key(linear & ~(LARGE - 1), true);
    }
    return NULL;
}

static uint64_t *gone_of(Windows *w, uint64_t linear)
{
    return &w->gone[(linear >> 12) * UINT64_C(0x9e3779b97f4a7c15) >> (64 - GONE_LOG2)];
}

/* Out of its window, before code runs; the table is the caller's. */
static void page_unmap(Windows *w, Space *s, gpointer key, uint64_t page)
{
    uint64_t linear = (uint64_t)(uintptr_t)key & ~PAGE_LARGE;
    uint8_t *at = window_of(s, linear);
    w->counts.dropped++;
    *gone_of(w, linear) = linear | (uint64_t)(s - w->spaces);
    if (at) {
        if (w->going_count == GOING) {
            going_flush(w);
        }
        w->going[w->going_count].at = at;
        w->going[w->going_count++].size = page_size(page);
        w->something = true;
    }
    page_uncount(w, s, key, page);
}

static void page_drop(Windows *w, Space *s, uint64_t linear, bool expect)
{
    uint64_t page;
    gpointer key = s->pages ? page_find(s, linear, &page) : NULL;
    if (key) {
        page_unmap(w, s, key, page);
        g_hash_table_remove(s->pages, key);
        count_pages(w, -1);
        if (expect) {
            windows_expect(w, linear & PAGE_MASK_4K);
        }
    }
}

/* No right to write any more. */
static void page_protect(Windows *w, Space *s, gpointer key, uint64_t page)
{
    uint8_t *at = window_of(s, (uint64_t)(uintptr_t)key & ~PAGE_LARGE);
    w->counts.dropped++;
    if (at && mprotect(at, page_size(page), PROT_READ) < 0) {
        g_error("no memory to protect a page of a window: %s", g_strerror(errno));
    }
    page_uncount(w, s, key, page);
}

/* Whether a page that is about to be mapped may be written, and counts it then: who clears a dirty bit either
 * finds it counted or is seen here. */
static bool claim_writable(Windows *w, const MmuLook *look)
{
    if (!look->writable) {
        return false;
    }
    count_written(w, look->host, look->size, 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint64_t at = 0; at < look->size; at += 4096) {
        if (!ram_page_fully_dirty(look->ram, look->ram_offset + at)) {
            count_written(w, look->host, look->size, -1);
            return false;
        }
    }
    return true;
}

/* Out of the table, where it is there. */
static void page_forget(Windows *w, Space *s, gpointer key)
{
    gpointer value;
    if (g_hash_table_lookup_extended(s->pages, key, NULL, &value)) {
        page_uncount(w, s, key, (uint64_t)(uintptr_t)value);
        g_hash_table_remove(s->pages, key);
        count_pages(w, -1);
    }
}

static bool page_failed(Windows *w, Space *s)
{
    s->failed = w->something = true; /* the end is in windows_refresh */
    return false;
}

/* Maps pages that lie one behind the other, in the guest's addresses and in RAM; large ones one at a time. */
static bool pages_map(Windows *w, Space *s, const MmuLook *looks, unsigned count)
{
    uint8_t *at = window_of(s, looks->linear);
    uint64_t size = looks->size;
    bool large = size > 4096, writable[RUN];

    going_flush(w);
    if (!at || looks->ram->fd < 0 || !looks->ram->shared || is_full(w)) {
        return page_failed(w, s);
    }
    for (uint64_t n = 0; large && n < size; n += 4096) {
        page_forget(w, s, page_key(looks->linear + n, false)); /* single pages of it may be there */
    }
    for (unsigned k = 0; k < count; k++) {
        writable[k] = claim_writable(w, &looks[k]);
        page_forget(w, s, page_key(looks[k].linear, large));
    }
    for (unsigned k = 0, end; k < count; k = end) {
        for (end = k + 1; end < count && writable[end] == writable[k]; end++) {}
        int prot = PROT_READ | (writable[k] ? PROT_WRITE : 0);
        if (mmap(at + k * size, (end - k) * size, prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, looks->ram->fd,
                 (off_t)(looks->ram->fd_offset + looks[k].ram_offset)) == MAP_FAILED) {
            for (; k < count; k++) {
                if (writable[k]) {
                    count_written(w, looks[k].host, size, -1);
                }
            }
            return page_failed(w, s); /* and what was there is in the table no more */
        }
        if (large || looks->ram->no_dump) {
            /* Small pages twice in a core dump are not worth the time. */
            madvise(at + k * size, (end - k) * size, MADV_DONTDUMP);
        }
        for (unsigned n = k; n < end; n++) {
            gpointer key = page_key(looks[n].linear, large);
            uint64_t page = (uint64_t)(uintptr_t)looks[n].host | (writable[n] ? PAGE_WRITABLE : 0) |
                            (large ? PAGE_LARGE : 0);
            count_pages(w, g_hash_table_insert(s->pages, key, (gpointer)(uintptr_t)page));
            if (writable[n]) {
                page_count(s, key, page);
            }
            w->counts.mapped++;
            uint64_t *gone = gone_of(w, looks[n].linear);
            if (*gone == (looks[n].linear | (uint64_t)(s - w->spaces))) {
                *gone = 0;
                w->again++;
            }
        }
    }
    return true;
}

static bool page_map(Windows *w, Space *s, const MmuLook *look)
{
    return pages_map(w, s, look, 1);
}

/* Whether the page comes behind the other one. */
static bool follows(const MmuLook *look, const MmuLook *other)
{
    return look->size == 4096 && other->size == 4096 && look->linear == other->linear + 4096 &&
           look->ram == other->ram && look->ram_offset == other->ram_offset + 4096;
}

/* Maps what is found at these addresses, which rise, and is not there yet. small: no large pages. */
static void map_found(Windows *w, Space *s, const uint64_t *linear, unsigned count, bool small)
{
    MmuLook run[RUN];
    unsigned n = 0;
    uint64_t unused;

    for (unsigned k = 0; k < count; k++) {
        MmuLook look;
        if (!window_of(s, linear[k]) || page_find(s, linear[k], &unused) ||
            !mmu_look(w->cpu, linear[k], MMU_READ, &look) || (small && look.size != 4096)) {
            continue;
        }
        if (n && (n == RUN || !follows(&look, &run[n - 1]))) {
            pages_map(w, s, run, n);
            n = 0;
        }
        run[n++] = look;
    }
    if (n) {
        pages_map(w, s, run, n);
    }
}

/* Pages around it that are there, too, and were used. */
static void map_around(Windows *w, Space *s, uint64_t linear)
{
    uint64_t around[8];
    for (unsigned k = 0; k < G_N_ELEMENTS(around); k++) {
        around[k] = (linear & ~UINT64_C(0x7fff)) + k * 4096;
    }
    map_found(w, s, around, G_N_ELEMENTS(around), true);
}

bool windows_fault(Windows *w, uintptr_t host, bool write)
{
    Space *s = current(w);
    uint64_t linear = 0, page;
    bool inside = false;
    MmuLook look;
    uint64_t since = now();

    if (w->shown != w->cpu->mmu->context || !s->on) {
        return false;
    }
    for (unsigned i = 0; i < s->window_count && !inside; i++) {
        inside = host - (uintptr_t)s->windows[i].host < WINDOW_SIZE;
        linear = s->windows[i].guest + (host - (uintptr_t)s->windows[i].host);
    }
    if (!inside) {
        linear = host - WINDOW_NONE;
        if (linear < UINT64_C(1) << 47 && !window_of(s, linear) && window_add(w, s, linear)) {
            show(w, s); /* for the next time: this instruction has looked it up already */
        }
        charge(w, s, since, COST_FAULT); /* a process may use more TiBs than it can have windows for */
        return false;
    }
    w->counts.faults++;
    linear &= PAGE_MASK_4K;
    gpointer key = page_find(s, linear, &page);
    if (key && (!write || (page & PAGE_WRITABLE))) {
        charge(w, s, since, COST_FAULT);
        return false;
    }
    w->again += key != NULL;
    if (!mmu_look(w->cpu, linear, write ? MMU_WRITE : MMU_READ, &look)) {
        windows_expect(w, linear);
        charge(w, s, since, COST_FAULT);
        return false;
    }
    if (key && (page & PAGE_LARGE) && look.size == 4096) {
        page_unmap(w, s, key, page); /* it falls to pieces */
        g_hash_table_remove(s->pages, key);
        count_pages(w, -1);
    }
    bool done = page_map(w, s, &look);
    if (done && look.size == 4096) {
        map_around(w, s, linear);
    }
    charge(w, s, since, COST_FAULT);
    return done;
}

/* ---- what the MMU says ---- */

bool windows_may_write(const Windows *w, const uint8_t *low, const uint8_t *high)
{
    if (high - low > 16 * 4096) {
        return __atomic_load_n(&w->written_all, __ATOMIC_SEQ_CST) != 0;
    }
    for (const uint8_t *host = low; host < high; host += 4096) {
        if (__atomic_load_n(&w->written[written_hash(host)], __ATOMIC_SEQ_CST)) {
            return true;
        }
    }
    return false;
}

/* false: it takes a look at all pages. */
static bool drop_few_writes(Windows *w, Space *s, const uint8_t *low, const uint8_t *high)
{
    if (s->large_writable || high - low > 16 * 4096) {
        return false;
    }
    for (const uint8_t *host = low; host < high; host += 4096) {
        gpointer key = g_hash_table_lookup(s->writable, host);
        if (key == MANY) {
            return false;
        }
        if (key) {
            key = (gpointer)((uintptr_t)key & ~SOME);
            uint64_t page = (uint64_t)(uintptr_t)g_hash_table_lookup(s->pages, key);
            page_protect(w, s, key, page);
            g_hash_table_replace(s->pages, key, (gpointer)(uintptr_t)(page & ~PAGE_WRITABLE));
        }
    }
    return true;
}

static void drop_writes(Windows *w, Space *s, const uint8_t *low, const uint8_t *high)
{
    GHashTableIter it;
    gpointer key, value;

    if (drop_few_writes(w, s, low, high)) {
        return;
    }
    g_hash_table_iter_init(&it, s->pages);
    while (g_hash_table_iter_next(&it, &key, &value)) {
        uint64_t page = (uint64_t)(uintptr_t)value;
        const uint8_t *host = (const uint8_t *)(uintptr_t)(page & PAGE_HOST);
        if ((page & PAGE_WRITABLE) && host + page_size(page) > low && host < high) {
            page_protect(w, s, key, page);
            g_hash_table_iter_replace(&it, (gpointer)(uintptr_t)(page & ~PAGE_WRITABLE));
        }
    }
}

static void dropped(X86Cpu *cpu, const MmuDropped *what)
{
    Windows *w = jit_vcpu(cpu)->windows;

    if (!w->made && !w->pairs_made) {
        return;
    }
    x86_fpu_leave(cpu);
    for (unsigned i = 0; i < MMU_CONTEXTS; i++) {
        Space *s = &w->spaces[i];
        uint64_t since = now();
        bool mine = what->context == i || what->context == MMU_CONTEXT_ALL;
        if (!s->pages || !s->on) {
            continue;
        }
        switch (what->kind) {
        case MMU_DROPPED_PAGE:
            if (mine) {
                page_drop(w, s, what->linear, i == cpu->mmu->context);
                charge(w, s, since, 0);
            }
            break;
        case MMU_DROPPED_CONTEXT:
            s->stale |= mine;
            w->something |= mine;
            break;
        case MMU_DROPPED_WRITES:
            if (windows_may_write(w, what->low, what->high)) {
                drop_writes(w, s, what->low, what->high);
                charge(w, s, since, 0);
            }
            break;
        }
    }
}

/* ---- before code runs ---- */

/* What the page tables do not say any more goes. */
static void space_check(Windows *w, Space *s)
{
    GHashTableIter it;
    gpointer key, value;

    s->stale = false;
    g_hash_table_iter_init(&it, s->pages);
    while (g_hash_table_iter_next(&it, &key, &value)) {
        uint64_t page = (uint64_t)(uintptr_t)value, linear = (uint64_t)(uintptr_t)key & ~PAGE_LARGE;
        MmuLook look;
        w->counts.checked++;
        if (!mmu_look(w->cpu, linear, MMU_READ, &look) ||
            (uint64_t)(uintptr_t)look.host != (page & PAGE_HOST) || look.size < page_size(page)) {
            page_unmap(w, s, key, page);
            g_hash_table_iter_remove(&it);
            count_pages(w, -1);
        } else if ((page & PAGE_WRITABLE) && !look.writable) {
            page_protect(w, s, key, page);
            g_hash_table_iter_replace(&it, (gpointer)(uintptr_t)(page & ~PAGE_WRITABLE));
        }
    }
}

static int compare_linear(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void map_expected(Windows *w, Space *s)
{
    if (w->expected_count > 1) {
        qsort(w->expected, w->expected_count, sizeof(w->expected[0]), compare_linear);
    }
    map_found(w, s, w->expected, w->expected_count, false);
    w->expected_count = 0;
}

bool windows_on(const Windows *w)
{
    const Space *s = current(w);
    return s->on && w->cpu->mmu->index == MMU_USER && s->pgd == (w->cpu->cr3 & CR3_TABLE);
}

bool windows_refresh(Windows *w)
{
    Space *s = current(w);

    if (G_LIKELY(w->shown == w->cpu->mmu->context && !w->something)) {
        return true;
    }
    x86_fpu_leave(w->cpu);
    if (w->shown != w->cpu->mmu->context) {
        show(w, s);
    }
    w->something = false;
    uint64_t since = now();
    if (s->stale) {
        space_check(w, s);
    }
    going_flush(w);
    map_expected(w, s);
    charge(w, s, since, 0);
    if (s->credit < 0 || s->failed) {
        space_pause(w, s);
        return false;
    }
    return true;
}

void windows_expect(Windows *w, uint64_t linear)
{
    if (w->expected_count < EXPECTED) {
        w->expected[w->expected_count++] = linear;
        w->something = true;
    }
}

void windows_sample(Windows *w, bool at_once)
{
    Space *s = current(w);

    w->at_once = at_once;
    if (w->cpu->mmu->index != MMU_USER || w->none_to_be_had) {
        return;
    }
    if (s->pgd != (w->cpu->cr3 & CR3_TABLE)) {
        space_reset(w, s);
    }
    if (s->on || (++s->heat < HEAT_ON && !at_once)) {
        return;
    }
    if (s->paused_until) {
        if (now() < s->paused_until) {
            return;
        }
        s->paused_until = 0;
    }
    if (!host_has_windows()) {
        w->none_to_be_had = true;
        return;
    }
    if (!s->pages) {
        s->pages = g_hash_table_new(NULL, NULL);
        s->writable = g_hash_table_new(NULL, NULL);
    }
    s->on = true;
    s->stale = false;
    s->credit = CREDIT_FIRST / (int64_t)MAX(s->pause / PAUSE_CYCLES, 1);
    s->credit_tsc = now();
    w->counts.spaces++;
}

/* ---- life ---- */

Windows *windows_new(X86Cpu *cpu)
{
    Windows *w = g_new0(Windows, 1);
    w->cpu = cpu;
    w->shown = MMU_CONTEXTS;
    for (unsigned i = 0; i < WINDOW_SLOTS; i++) {
        jit_hot(cpu)->windows[i] = i < WINDOW_SLOTS / 2 ? WINDOW_NONE : WINDOW_NEVER;
    }
    cpu->mmu->dropped = dropped;
    return w;
}

void windows_free(Windows *w)
{
    if (!w) {
        return;
    }
    w->cpu->mmu->dropped = NULL;
    for (unsigned i = 0; i < MMU_CONTEXTS; i++) {
        space_clear(w, &w->spaces[i]);
        g_clear_pointer(&w->spaces[i].pages, g_hash_table_unref);
        g_clear_pointer(&w->spaces[i].writable, g_hash_table_unref);
    }
    while (w->pool_count) {
        munmap(w->pool[--w->pool_count], WINDOW_SIZE + 2 * WINDOW_GUARD);
    }
    while (w->pair_count) {
        pair_unmap(w->pairs[--w->pair_count], PAIR_COUNT);
    }
    g_free(w);
}

void windows_counts(const Windows *w, WindowCounts *counts)
{
    *counts = w->counts;
    counts->pages = w->pages;
}
