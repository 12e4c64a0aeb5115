/*
 * The cache of decoded blocks.
 *
 * Invariants:
 *  1. A block is found by the host address of its first byte and the mode word, so that page tables do not
 * matter.
 *  2. Before a page's bytes are decoded, its DIRTY_CODE bit is clear and no vCPU holds a write translation of
 * it: every later write is reported (code_written).
 *  3. A block whose page was written is stale at once in the own thread: every one of its operations leaves
 * it, and no look-up finds it. Its memory stays until the cache is flushed, so links to it are harmless.
 *  4. The cache is flushed only between blocks.
 *  5. Other threads only note written pages, under Interp.lock, and set CPU_INTERRUPT_CODE.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "accel/soft/interp/ops.h"

#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#define CHUNK_BYTES (256u * 1024)
/* How large the cache may grow before it is flushed. It starts small; flushes in quick succession mean that
 * the guest has more code in use, and double it. A guest that idles gives it all back (interp_cache_trim). */
#define CACHE_BYTES_MIN  (4u * 1024 * 1024)
#define CACHE_BYTES_MAX  (64u * 1024 * 1024)
#define CACHE_BYTES_IDLE (1u * 1024 * 1024)
#define THRASH_NS        (INT64_C(400) * 1000 * 1000)
#define TRIM_PERIOD_NS   (INT64_C(1000) * 1000 * 1000)
#define MAX_OPS          64
#define HASH_BITS        12

typedef struct Chunk {
    struct Chunk *next;
    size_t used, size;
    uint8_t data[] __attribute__((aligned(32)));
} Chunk;

/* The blocks with code in one host page. */
typedef struct PageBlocks {
    Block *first;
} PageBlocks;

/* The Interp whose vCPU runs in this thread. */
static __thread Interp *current;

void *interp_cache_alloc(Interp *d, size_t size)
{
    size = (size + 31) & ~(size_t)31;
    Chunk *c = d->chunks;
    if (!c || c->size - c->used < size) {
        size_t bytes = MAX(size + sizeof(Chunk), CHUNK_BYTES);
        if (d->spare_chunks && d->spare_chunks->size >= size) {
            c = d->spare_chunks;
            d->spare_chunks = c->next;
            c->next = d->chunks;
            c->used = 0;
            d->chunks = c;
            d->chunk_bytes += c->size + sizeof(Chunk);
            goto found;
        }
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            g_error("out of memory for decoded code");
        }
        c = p;
        c->next = d->chunks;
        c->used = 0;
        c->size = bytes - sizeof(Chunk);
        d->chunks = c;
        d->chunk_bytes += bytes;
    }
found:;
    void *result = c->data + c->used;
    c->used += size;
    return result;
}

static unsigned block_hash(const Interp *d, const uint8_t *host, uint32_t mode)
{
    /* A page's blocks lie close together, in the order of their addresses: what is run for the first time is
     * looked for, too. */
    uint64_t page = (uint64_t)(uintptr_t)host >> 12 ^ (uint64_t)mode << 40, offset = (uintptr_t)host & 4095;
    uint64_t h = page * UINT64_C(0x9e3779b97f4a7c15) >> (64 - d->hash_bits);
    return (unsigned)(h + (offset >> 4)) & ((1u << d->hash_bits) - 1);
}

static void hash_grow(Interp *d)
{
    unsigned old_size = 1u << d->hash_bits;
    Block **old = d->hash;
    d->hash_bits++;
    d->hash = g_new0(Block *, (gsize)1 << d->hash_bits);
    for (unsigned i = 0; i < old_size; i++) {
        Block *next;
        for (Block *b = old[i]; b; b = next) {
            next = b->hash_next;
            unsigned h = block_hash(d, b->host, b->mode);
            b->hash_next = d->hash[h];
            d->hash[h] = b;
        }
    }
    g_free(old);
}

static void hash_remove(Interp *d, Block *block)
{
    Block **p = &d->hash[block_hash(d, block->host, block->mode)];
    while (*p && *p != block) {
        p = &(*p)->hash_next;
    }
    if (*p) {
        *p = block->hash_next;
        d->block_count--;
    }
}

/* ---- invalidation ---- */
static void block_make_stale(Interp *d, Block *block)
{
    if (!block->host) {
        return;
    }
    hash_remove(d, block);
    block->host = NULL;
    for (unsigned i = 0; i < block->count; i++) {
        block->ops[i].handler = interp_h_stale;
    }
    d->invalidated++;
}

static void page_invalidate(Interp *d, const uint8_t *host_page)
{
    PageBlocks *page = g_hash_table_lookup(d->pages, host_page);
    if (!page) {
        return;
    }
    Block *next;
    for (Block *b = page->first; b; b = next) {
        /* A straddling block hangs in two lists: [1] is its second page's. */
        next = b->host2 && (const uint8_t *)((uintptr_t)b->host2 & PAGE_MASK_4K) == host_page
                   ? b->page_next[1]
                   : b->page_next[0];
        block_make_stale(d, b);
    }
    if (d->last_key == host_page) {
        d->last_key = NULL;
    }
    g_hash_table_remove(d->pages, host_page);
    code_pages_count(&d->code_pages, host_page, -1);
}

static void chunks_free(Chunk *first)
{
    Chunk *next;
    for (Chunk *c = first; c; c = next) {
        next = c->next;
        munmap(c, c->size + sizeof(Chunk));
    }
}

/* keep: the memory is about to be used again. */
static void flush(Interp *d, bool keep)
{
    Chunk *next;
    for (Chunk *c = d->chunks; c && keep; c = next) {
        next = c->next;
        c->next = d->spare_chunks;
        d->spare_chunks = c;
    }
    if (!keep) {
        chunks_free(d->chunks);
        chunks_free(d->spare_chunks);
        d->spare_chunks = NULL;
    }
    d->chunks = NULL;
    d->chunk_bytes = 0;
    g_hash_table_remove_all(d->pages);
    memset(&d->code_pages, 0, sizeof(d->code_pages)); /* there is no block of which anybody need hear */
    d->last_key = NULL;
    g_free(d->hash);
    d->hash_bits = HASH_BITS;
    d->hash = g_new0(Block *, (gsize)1 << HASH_BITS);
    d->block_count = 0;
    memset(d->jump, 0, sizeof(d->jump));
    d->link_slot = NULL;
    d->cpu->current_op = NULL;
    d->flushes++;
}

void interp_cache_flush(Interp *d)
{
    flush(d, false);
}

static int64_t thread_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static void cache_full(Interp *d)
{
    int64_t now = thread_ns();
    if (now - d->flush_ns < THRASH_NS && d->cache_limit < CACHE_BYTES_MAX) {
        d->cache_limit *= 2;
        d->flush_ns = now;
        return;
    }
    d->flush_ns = now;
    flush(d, true);
}

void interp_cache_trim(Interp *d)
{
    if (d->chunk_bytes <= CACHE_BYTES_IDLE) {
        return;
    }
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    int64_t now = ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
    if (now - d->trim_ns < TRIM_PERIOD_NS) {
        return;
    }
    int64_t busy = thread_ns();
    if (d->trim_ns && (busy - d->trim_busy_ns) * 20 < now - d->trim_ns) {
        interp_cache_flush(d);
        d->cache_limit = CACHE_BYTES_MIN;
    }
    d->trim_ns = now;
    d->trim_busy_ns = busy;
}

static void code_written(RamListener *l, RamBlock *ram, uint64_t offset, uint64_t length)
{
    Interp *d = (Interp *)((char *)l - offsetof(Interp, ram_listener));
    uint64_t end = offset + length;
    bool own = current == d, noted = false;
    if (length > 1024 * RAM_PAGE_SIZE) {
        pthread_mutex_lock(&d->lock);
        d->drop_all = noted = true;
        if (d->page_written) {
            d->page_written(d, NULL);
        }
        pthread_mutex_unlock(&d->lock);
    } else {
        for (offset &= PAGE_MASK_4K; offset < end; offset += RAM_PAGE_SIZE) {
            const uint8_t *page = ram->host + offset;
            if (d->page_written) {
                d->page_written(d, page);
            }
            if (!code_pages_has(&d->code_pages, page)) {
                continue; /* so that a vCPU is not disturbed by what others do with their code */
            }
            if (own) {
                page_invalidate(d, page);
            } else {
                pthread_mutex_lock(&d->lock);
                g_array_append_val(d->written, page);
                pthread_mutex_unlock(&d->lock);
                noted = true;
            }
        }
    }
    if (noted) {
        cpu_interrupt(d->cpu, CPU_INTERRUPT_CODE);
    }
}

void interp_cache_process(Interp *d)
{
    cpu_interrupt_clear(d->cpu, CPU_INTERRUPT_CODE);
    pthread_mutex_lock(&d->lock);
    bool all = d->drop_all;
    d->drop_all = false;
    for (guint i = 0; i < d->written->len && !all; i++) {
        page_invalidate(d, g_array_index(d->written, const uint8_t *, i));
    }
    g_array_set_size(d->written, 0);
    pthread_mutex_unlock(&d->lock);
    if (all) {
        interp_cache_flush(d);
    }
}

/* ---- which RAM to listen to ---- */
static void ram_appears(Interp *d, const MemoryRegionSection *section)
{
    RamBlock *ram = section->region->ram;
    if (!ram) {
        return;
    }
    unsigned count = GPOINTER_TO_UINT(g_hash_table_lookup(d->rams, ram));
    if (count == 0) {
        ram_block_ref(ram);
        ram_add_listener(ram, &d->ram_listener);
    }
    g_hash_table_insert(d->rams, ram, GUINT_TO_POINTER(count + 1));
}

static void ram_disappears(Interp *d, const MemoryRegionSection *section)
{
    RamBlock *ram = section->region->ram;
    unsigned count = ram ? GPOINTER_TO_UINT(g_hash_table_lookup(d->rams, ram)) : 0;
    if (count > 1) {
        g_hash_table_insert(d->rams, ram, GUINT_TO_POINTER(count - 1));
    } else if (count == 1) {
        g_hash_table_remove(d->rams, ram);
        ram_remove_listener(ram, &d->ram_listener);
        if (d->page_written) {
            d->page_written(d, NULL);
        }
        pthread_mutex_lock(&d->lock);
        d->drop_all = true;
        pthread_mutex_unlock(&d->lock);
        cpu_interrupt(d->cpu, CPU_INTERRUPT_CODE);
        ram_block_unref(ram);
    }
}

static void memory_add(MemoryListener *l, const MemoryRegionSection *section)
{
    ram_appears((Interp *)((char *)l - offsetof(Interp, memory_listener)), section);
}
static void memory_del(MemoryListener *l, const MemoryRegionSection *section)
{
    ram_disappears((Interp *)((char *)l - offsetof(Interp, memory_listener)), section);
}
static void smram_add(MemoryListener *l, const MemoryRegionSection *section)
{
    ram_appears((Interp *)((char *)l - offsetof(Interp, smram_listener)), section);
}
static void smram_del(MemoryListener *l, const MemoryRegionSection *section)
{
    ram_disappears((Interp *)((char *)l - offsetof(Interp, smram_listener)), section);
}

void interp_cache_init(X86Cpu *cpu, Interp *d)
{
    d->hash_bits = HASH_BITS;
    d->cache_limit = CACHE_BYTES_MIN;
    d->hash = g_new0(Block *, (gsize)1 << HASH_BITS);
    d->pages = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
    d->rams = g_hash_table_new(g_direct_hash, g_direct_equal);
    d->written = g_array_new(FALSE, FALSE, sizeof(const uint8_t *));
    d->scratch = aligned_alloc(64, sizeof(Block) + 4 * sizeof(InterpOp) + 64 - sizeof(Block) % 64);
    pthread_mutex_init(&d->lock, NULL);
    d->ram_listener.code_written = code_written;
    d->memory_listener =
        (MemoryListener){ .name = "interp", .region_add = memory_add, .region_del = memory_del };
    d->smram_listener =
        (MemoryListener){ .name = "interp-smram", .region_add = smram_add, .region_del = smram_del };
    if (cpu->env.memory) {
        memory_listener_add(&d->memory_listener, cpu->env.memory);
    }
    if (cpu->env.smram && cpu->env.smram != cpu->env.memory) {
        memory_listener_add(&d->smram_listener, cpu->env.smram);
    }
}

void interp_cache_free(Interp *d)
{
    if (d->memory_listener.as) {
        memory_listener_remove(&d->memory_listener);
    }
    if (d->smram_listener.as) {
        memory_listener_remove(&d->smram_listener);
    }
    GHashTableIter it;
    gpointer ram;
    g_hash_table_iter_init(&it, d->rams);
    while (g_hash_table_iter_next(&it, &ram, NULL)) {
        ram_remove_listener(ram, &d->ram_listener);
        ram_block_unref(ram);
    }
    interp_cache_flush(d);
    g_hash_table_unref(d->rams);
    g_hash_table_unref(d->pages);
    g_array_unref(d->written);
    g_free(d->hash);
    free(d->scratch);
    pthread_mutex_destroy(&d->lock);
}

/* ---- building ---- */
/* Pages whose bit is cleared, but whose write translations other vCPUs may still have: how many there are, by
 * a hash of their addresses. */
#define PROTECTING_BITS 6
static struct {
    int count; /* atomic */
} __attribute__((aligned(64))) protecting[1u << PROTECTING_BITS];

static int *protecting_of(const CodePage *page)
{
    const uint8_t *host = page->ram->host + page->ram_offset;
    return &protecting[(((uintptr_t)host >> RAM_PAGE_BITS) * UINT64_C(0x9e3779b97f4a7c15)) >>
                       (64 - PROTECTING_BITS)]
                .count;
}

bool interp_protect_pending(const X86Cpu *cpu, const CodePage *page)
{
    return __atomic_load_n(protecting_of(page), __ATOMIC_SEQ_CST) != 0 ||
           (__atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST) & CPU_INTERRUPT_TLB);
}

/* Invariant 2. */
void interp_page_protect(X86Cpu *cpu, const CodePage *page)
{
    if (!page->ram) {
        return;
    }
    int *pending = protecting_of(page);
    bool done = false;
    /* While this thread waits for the others, others need not wait for it. */
    if (__atomic_load_n(&page->ram->dirty[page->ram_offset >> RAM_PAGE_BITS], __ATOMIC_SEQ_CST) &
        1u << DIRTY_CODE) {
        bool was = __atomic_exchange_n(&cpu->executing, false, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(pending, 1, __ATOMIC_SEQ_CST);
        done = ram_test_and_clear_dirty(page->ram, page->ram_offset, RAM_PAGE_SIZE, DIRTY_CODE);
        __atomic_fetch_sub(pending, 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&cpu->executing, was, __ATOMIC_SEQ_CST);
    }
    if (G_UNLIKELY(!done && __atomic_load_n(pending, __ATOMIC_SEQ_CST))) {
        /* Somebody else cleared it, perhaps just now, and still waits for the last writers. */
        bool was = __atomic_exchange_n(&cpu->executing, false, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(pending, __ATOMIC_SEQ_CST)) {
            sched_yield();
        }
        __atomic_store_n(&cpu->executing, was, __ATOMIC_SEQ_CST);
    }
    if (__atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST) & CPU_INTERRUPT_TLB) {
        mmu_process_pending(cpu);
    }
}

/* From here on others tell of writes to the page. */
static PageBlocks *page_of(Interp *d, const uint8_t *host)
{
    const uint8_t *key = (const uint8_t *)((uintptr_t)host & PAGE_MASK_4K);
    PageBlocks *page = d->last_page;
    if (key != d->last_key) {
        page = g_hash_table_lookup(d->pages, key);
        if (!page) {
            page = g_new0(PageBlocks, 1);
            g_hash_table_insert(d->pages, (gpointer)key, page);
            code_pages_count(&d->code_pages, key, 1);
        }
        d->last_page = page;
        d->last_key = key;
    }
    return page;
}

static void page_list_add(Interp *d, const uint8_t *host, Block *block, unsigned which)
{
    PageBlocks *page = page_of(d, host);
    block->page_next[which] = page->first;
    page->first = block;
}

static void set_decode_mode(Interp *d, uint32_t mode)
{
    d->decode_mode.code_size = mode & MODE_CS64 ? 8 : mode & MODE_CS32 ? 4 : 2;
    d->decode_mode.protected_mode = d->decode_mode.vex = (mode & (MODE_PE | MODE_VM86)) == MODE_PE;
}

/* Makes the operation of one instruction. Returns whether the block ends with it. */
static bool add_operation(X86Cpu *cpu, X86DecodeStatus status, const X86Insn *insn, InterpOp *op,
                          unsigned offset, unsigned page_offset)
{
    if (status != X86_DECODE_OK) {
        memset(op, 0, sizeof(*op));
        op->offset = (uint16_t)offset;
        op->length = insn->length;
        op->handler = status == X86_DECODE_UD ? interp_h_ud : interp_h_gp0;
        return true;
    }
    return interp_bind(cpu, insn, op, offset, page_offset, NULL);
}

static bool ends_itself(const InterpOp *op)
{
    return op->handler == interp_h_ud || op->handler == interp_h_gp0;
}

/* Closes a block that no branch ends. */
static void add_end(InterpOp *op, unsigned offset, unsigned page_offset, bool near_allowed)
{
    InterpLink link = { .fall_near = near_allowed && page_offset + offset < 4096 };
    memset(op, 0, sizeof(*op));
    op->handler = interp_h_end;
    op->offset = (uint16_t)offset;
    op->disp = (int32_t)offset;
    memcpy(op + 1, &link, sizeof(link));
}

static bool has_link(const InterpOp *op)
{
    if (op->handler == interp_h_end) {
        return true;
    }
    if (ends_itself(op)) {
        return false;
    }
    const X86Form *form = &x86_forms[op->form];
    for (unsigned i = 0; i < form->operand_count; i++) {
        if (form->operands[i].kind == X86_OPERAND_J) {
            return true;
        }
    }
    return false;
}

static void block_fill(Block *b, const InterpOp *ops, unsigned count, unsigned slots, unsigned length)
{
    memcpy(b->ops, ops, slots * sizeof(InterpOp));
    b->count = (uint16_t)count;
    b->length = (uint16_t)length;
}

/* Whatever a fetch may raise belongs to rip itself. */
static Block *build(X86Cpu *cpu, Interp *d, const CodePage *page, uint64_t linear, uint64_t room,
                    uint32_t key_mode)
{
    InterpOp ops[MAX_OPS + 4];
    X86Insn insn;
    bool counts = d->run_limit && (key_mode & d->count_mask) == d->count_mode;
    unsigned page_offset = (unsigned)(linear & 4095), offset = 0, count = 0, first = 0;
    size_t available = MIN((uint64_t)(4096 - page_offset), room);
    const uint8_t *code = page->host + page_offset;
    const uint8_t *second = NULL;
    uint8_t buffer[X86_INSN_MAX];
    bool ended = false, single = key_mode & INTERP_SINGLE, cacheable = !d->uncached;

    set_decode_mode(d, cpu->mode);
    if (!page->host) {
        /* From a device: byte by byte, and never kept. */
        X86DecodeStatus status = X86_DECODE_MORE;
        unsigned n = 0;
        while (status == X86_DECODE_MORE && n < X86_INSN_MAX) {
            if (n >= room) {
                x86_raise_error(cpu, EXC_GP, 0);
            }
            buffer[n] = x86_fetch_slow(cpu, cpu->mode & MODE_CS64 ? linear + n : (uint32_t)(linear + n));
            n++;
            status = x86_decode(&d->decode_mode, buffer, n, &insn);
        }
        ended = add_operation(cpu, status, &insn, &ops[0], 0, page_offset);
        count = 1;
        offset = insn.length;
        cacheable = false;
    } else {
        if (cacheable) {
            page_of(d, page->host);
            interp_page_protect(cpu, page);
        }
        if (counts) {
            ops[count++] = (InterpOp){ .handler = interp_h_count };
            first = 1;
        }
        while (count < (single ? 1 : MAX_OPS + first) && !ended && offset < available) {
            X86DecodeStatus status = x86_decode(&d->decode_mode, code + offset, available - offset, &insn);
            if (status == X86_DECODE_MORE) {
                break;
            }
            InterpOp *op = &ops[count];
            ended = add_operation(cpu, status, &insn, op, offset, page_offset);
            if (ended && count > first && !single) {
                interp_hot_fuse(op - 1, op);
            }
            count++;
            offset += insn.length;
        }
        if (count == first) {
            /* The first one goes beyond the page or the segment. */
            if (available == room) {
                x86_raise_error(cpu, EXC_GP, 0);
            }
            CodePage next;
            uint64_t next_linear = (linear & PAGE_MASK_4K) + 4096;
            if (!(cpu->mode & MODE_CS64)) {
                next_linear = (uint32_t)next_linear;
            }
            x86_code_page(cpu, next_linear, &next);
            unsigned n = (unsigned)MIN((uint64_t)X86_INSN_MAX, room);
            memcpy(buffer, code, available);
            if (next.host) {
                if (cacheable) {
                    page_of(d, next.host);
                    interp_page_protect(cpu, &next);
                }
                memcpy(buffer + available, next.host, n - available);
                second = next.host;
            } else {
                cacheable = false;
                for (unsigned i = (unsigned)available; i < n; i++) {
                    buffer[i] = x86_fetch_slow(cpu, next_linear + i - available);
                }
            }
            X86DecodeStatus status = x86_decode(&d->decode_mode, buffer, n, &insn);
            if (status == X86_DECODE_MORE) {
                x86_raise_error(cpu, EXC_GP, 0); /* the segment's end */
            }
            ended = add_operation(cpu, status, &insn, &ops[count], 0, page_offset);
            count++;
            offset = insn.length;
        }
    }
    unsigned slots = count;
    if (!ended) {
        add_end(&ops[count], offset, page_offset, !(cpu->mode & MODE_CS64) ? cpu->mode & MODE_CS32 : true);
        count++;
        slots++;
    }
    if (has_link(&ops[count - 1])) {
        slots++;
        if (second || !cacheable) {
            ((InterpLink *)&ops[slots - 1])->fall_near = ((InterpLink *)&ops[slots - 1])->taken_near = false;
        }
    }
    Block *b = d->scratch;
    if (cacheable) {
        b = interp_cache_alloc(d, sizeof(Block) + slots * sizeof(InterpOp));
    }
    memset(b, 0, sizeof(*b));
    b->mode = key_mode;
    block_fill(b, ops, count, slots, offset);
    if (!cacheable) {
        return b;
    }
    b->host = code;
    b->host2 = second;
    unsigned h = block_hash(d, b->host, b->mode);
    b->hash_next = d->hash[h];
    d->hash[h] = b;
    page_list_add(d, code, b, 0);
    if (second) {
        page_list_add(d, second, b, 1);
    }
    if (++d->block_count > 1u << (d->hash_bits - 2)) { /* chains lead to memory that is in no cache */
        hash_grow(d);
    }
    d->built++;
    return b;
}

Block *interp_block_at(X86Cpu *cpu, const uint8_t *host)
{
    Interp *d = cpu->accel_data;
    Block *b = d->hash[block_hash(d, host, cpu->mode)];

    while (b && (b->host != host || b->mode != cpu->mode || b->host2)) {
        b = b->hash_next;
    }
    current = d;
    return b;
}

Block *interp_new_block(X86Cpu *cpu, const uint8_t *host)
{
    Interp *d = cpu->accel_data;
    CodePage page;

    if (((uintptr_t)host & 4095) + X86_INSN_MAX > 4096) {
        return interp_find_block(cpu, false); /* in two pages, perhaps */
    }
    current = d;
    cpu->current_op = NULL;
    x86_code_page(cpu, cpu->rip, &page);
    if (d->chunk_bytes > d->cache_limit) {
        cache_full(d);
    }
    return build(cpu, d, &page, cpu->rip, UINT64_MAX, cpu->mode);
}

Block *interp_find_block(X86Cpu *cpu, bool single)
{
    Interp *d = cpu->accel_data;
    CodePage page;
    uint64_t rip = cpu->rip, linear = rip, room = UINT64_MAX;
    uint32_t key_mode = cpu->mode | (single ? INTERP_SINGLE : 0);

    current = d;
    cpu->current_op = NULL;
    if (!(cpu->mode & MODE_CS64)) {
        const X86Segment *cs = &cpu->segs[SEG_CS];
        if (rip > cs->limit) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
        room = (uint64_t)cs->limit - rip + 1;
        linear = (uint32_t)(cs->base + rip);
    }
    x86_code_page(cpu, linear, &page);
    if (page.host && !d->uncached) {
        const uint8_t *host = page.host + (linear & 4095);
        for (Block *b = d->hash[block_hash(d, host, key_mode)]; b; b = b->hash_next) {
            if (b->host != host || b->mode != key_mode || b->length > room) {
                continue;
            }
            if (b->host2) {
                CodePage next;
                uint64_t next_linear = (linear & PAGE_MASK_4K) + 4096;
                x86_code_page(cpu, cpu->mode & MODE_CS64 ? next_linear : (uint32_t)next_linear, &next);
                if (next.host != b->host2) {
                    continue;
                }
            }
            return b;
        }
    }
    if (d->chunk_bytes > d->cache_limit) {
        cache_full(d);
    }
    return build(cpu, d, &page, linear, room, key_mode);
}
