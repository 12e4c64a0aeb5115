/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mem/memory.h"

#include "base/error.h"
#include "mem/cache.h"
#include "mem/rcu.h"

#include <string.h>
#include <unistd.h>

/* A register file that remembers its accesses and answers with a pattern of its own. */
typedef struct Probe {
    uint8_t bytes[64];
    GString *log;
} Probe;

static uint64_t probe_read(void *opaque, hwaddr offset, unsigned size)
{
    Probe *p = opaque;
    uint64_t value = 0;
    g_assert_cmpuint(offset + size, <=, sizeof(p->bytes));
    memcpy(&value, p->bytes + offset, size);
    g_string_append_printf(p->log, "r%u@%u ", size, (unsigned)offset);
    return value;
}

static void probe_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Probe *p = opaque;
    g_assert_cmpuint(offset + size, <=, sizeof(p->bytes));
    memcpy(p->bytes + offset, &value, size);
    g_string_append_printf(p->log, "w%u@%u ", size, (unsigned)offset);
}

static void probe_init(Probe *p)
{
    for (unsigned i = 0; i < sizeof(p->bytes); i++) {
        p->bytes[i] = (uint8_t)(0x10 + i);
    }
    p->log = g_string_new(NULL);
}

#define EXPECT_LOG(p, text)                         \
    do {                                            \
        g_assert_cmpstr((p)->log->str, ==, (text)); \
        g_string_truncate((p)->log, 0);             \
    } while (0)

static const MemoryRegionOps any_ops = {
    .read = probe_read, .write = probe_write, .valid = { 1, 8, true }, .impl = { 1, 8, true }
};

/* "name@first-last+offset " for each range of the flat view. */
static char *flat_text(AddressSpace *as)
{
    GString *text = g_string_new(NULL);
    hwaddr addr = 0;
    memory_rcu_lock();
    for (;;) {
        MemoryTarget t;
        address_space_translate(as, addr, &t);
        if (t.region) {
            g_string_append_printf(text, "%s@%" PRIx64 "-%" PRIx64 "+%" PRIx64 " ", t.region->name, addr,
                                   addr + t.length - 1, t.offset);
        }
        if (t.length == UINT64_MAX || addr + t.length < addr || addr + t.length == 0) {
            break;
        }
        addr += t.length;
    }
    memory_rcu_unlock();
    return g_string_free(text, FALSE);
}

#define EXPECT_FLAT(as, text)                   \
    do {                                        \
        g_autofree char *flat_ = flat_text(as); \
        g_assert_cmpstr(flat_, ==, (text));     \
    } while (0)

static void test_overlap(void)
{
    MemoryRegion root, low, high, container, inner, alias;
    Probe p;
    probe_init(&p);
    memory_region_init(&root, NULL, "root", UINT64_MAX);
    memory_region_init_io(&low, NULL, &any_ops, &p, "low", 0x4000, NULL);
    memory_region_init_io(&high, NULL, &any_ops, &p, "high", 0x1000, NULL);
    AddressSpace *as = address_space_new(&root, "test");
    EXPECT_FLAT(as, "");
    memory_region_add(&root, 0x1000, &low);
    EXPECT_FLAT(as, "low@1000-4fff+0 ");
    memory_region_add_overlap(&root, 0x2000, &high, 1);
    EXPECT_FLAT(as, "low@1000-1fff+0 high@2000-2fff+0 low@3000-4fff+2000 ");
    memory_region_set_address(&high, 0x4800);
    EXPECT_FLAT(as, "low@1000-47ff+0 high@4800-57ff+0 ");
    memory_region_set_enabled(&high, false);
    EXPECT_FLAT(as, "low@1000-4fff+0 ");
    memory_region_set_enabled(&high, true);
    /* A container with a hole over low: the hole shows low. */
    memory_region_init(&container, NULL, "container", 0x2000);
    memory_region_init_io(&inner, NULL, &any_ops, &p, "inner", 0x100, NULL);
    memory_region_add(&container, 0x80, &inner);
    memory_region_add_overlap(&root, 0x1000, &container, 5);
    EXPECT_FLAT(as, "low@1000-107f+0 inner@1080-117f+0 low@1180-47ff+180 high@4800-57ff+0 ");
    /* A container clips what hangs out of it. */
    memory_region_set_size(&container, 0x100);
    EXPECT_FLAT(as, "low@1000-107f+0 inner@1080-10ff+0 low@1100-47ff+100 high@4800-57ff+0 ");
    memory_region_set_size(&container, 0x2000);
    /* An alias of the middle of low, at the very end of the space. */
    memory_region_init_alias(&alias, NULL, "alias", &low, 0x1000, 0x1000);
    memory_region_add(&root, UINT64_MAX - 0xfff, &alias);
    memory_region_set_enabled(&container, false);
    EXPECT_FLAT(as, "low@1000-47ff+0 high@4800-57ff+0 low@fffffffffffff000-ffffffffffffffff+1000 ");
    memory_region_set_alias_offset(&alias, 0x3800); /* beyond the target's end there is nothing */
    EXPECT_FLAT(as, "low@1000-47ff+0 high@4800-57ff+0 low@fffffffffffff000-fffffffffffff7ff+3800 ");
    g_autofree char *text = memory_print_tree(as, false);
    g_assert_nonnull(strstr(text, "alias alias @low 0000000000003800-00000000000047ff"));
    g_assert_nonnull(strstr(text, "[disabled]"));
    g_autofree char *flat = memory_print_tree(as, true);
    g_assert_nonnull(strstr(flat, "0000000000004800-00000000000057ff (prio 1, i/o): high"));
    memory_region_destroy(&alias);
    memory_region_destroy(&container);
    memory_region_destroy(&inner);
    memory_region_destroy(&high);
    memory_region_destroy(&low);
    EXPECT_FLAT(as, "");
    address_space_free(as);
    memory_region_destroy(&root);
    g_string_free(p.log, TRUE);
}

static void test_transactions(void)
{
    MemoryRegion root, a, b;
    Probe p;
    probe_init(&p);
    memory_region_init(&root, NULL, "root", UINT64_MAX);
    memory_region_init_io(&a, NULL, &any_ops, &p, "a", 0x100, NULL);
    memory_region_init_io(&b, NULL, &any_ops, &p, "b", 0x100, NULL);
    AddressSpace *as = address_space_new(&root, "test");
    unsigned before = address_space_generation(as);
    memory_transaction_begin();
    memory_region_add(&root, 0, &a);
    memory_transaction_begin();
    memory_region_add(&root, 0x100, &b);
    memory_transaction_commit();
    EXPECT_FLAT(as, "");
    memory_transaction_commit();
    EXPECT_FLAT(as, "a@0-ff+0 b@100-1ff+0 ");
    g_assert_cmpuint(address_space_generation(as), ==, before + 1);
    memory_region_set_enabled(&a, true); /* no change, no new view */
    g_assert_cmpuint(address_space_generation(as), ==, before + 1);
    memory_region_destroy(&a);
    memory_region_destroy(&b);
    address_space_free(as);
    memory_region_destroy(&root);
    g_string_free(p.log, TRUE);
}

/* A whole address space of one region of registers. */
typedef struct Bench {
    MemoryRegion root, io;
    AddressSpace *as;
    MemoryRegionOps ops;
    Probe p;
    HomeLock lock;
} Bench;

static Bench *bench_new(MemoryRegionOps ops)
{
    Bench *b = g_new0(Bench, 1);
    b->ops = ops;
    b->ops.read = probe_read;
    b->ops.write = probe_write;
    probe_init(&b->p);
    home_lock_init(&b->lock);
    memory_region_init(&b->root, NULL, "root", UINT64_MAX);
    memory_region_init_io(&b->io, NULL, &b->ops, &b->p, "io", sizeof(b->p.bytes), &b->lock);
    memory_region_add(&b->root, 0, &b->io);
    b->as = address_space_new(&b->root, "test");
    return b;
}

static void bench_free(Bench *b)
{
    memory_region_destroy(&b->io);
    address_space_free(b->as);
    memory_region_destroy(&b->root);
    home_lock_destroy(&b->lock);
    g_string_free(b->p.log, TRUE);
    g_free(b);
}

static void test_sizes(void)
{
    uint64_t value;
    MemTxAttrs none = MEMTXATTRS_NONE;
    Bench *b = bench_new((MemoryRegionOps){ 0 }); /* 1 to 4, aligned */
    g_assert_cmphex(address_space_ld(b->as, 4, 4, none), ==, 0x17161514);
    EXPECT_LOG(&b->p, "r4@4 ");
    g_assert_cmpint(address_space_load(b->as, 2, 4, &value, none), ==, MEMTX_ACCESS_ERROR);
    g_assert_cmphex(value, ==, 0xffffffff);
    g_assert_cmpint(address_space_load(b->as, 0, 8, &value, none), ==, MEMTX_ACCESS_ERROR);
    g_assert_cmphex(value, ==, UINT64_MAX);
    EXPECT_LOG(&b->p, "");
    uint8_t buffer[11];
    g_assert_cmpint(address_space_read(b->as, 1, none, buffer, sizeof(buffer)), ==, MEMTX_OK);
    g_assert_cmpmem(buffer, 11, b->p.bytes + 1, 11);
    EXPECT_LOG(&b->p, "r1@1 r2@2 r4@4 r4@8 ");
    g_assert_cmpint(address_space_read(b->as, 62, none, buffer, 4), ==, MEMTX_DECODE_ERROR);
    g_assert_cmphex(buffer[1], ==, 0x4f);
    g_assert_cmphex(buffer[2], ==, 0xff);
    bench_free(b);

    /* 8 bytes on a device that implements 4: two halves. */
    b = bench_new((MemoryRegionOps){ .valid = { 1, 8 }, .impl = { 4, 4 } });
    g_assert_cmphex(address_space_ld(b->as, 8, 8, none), ==, 0x1f1e1d1c1b1a1918);
    EXPECT_LOG(&b->p, "r4@8 r4@12 ");
    address_space_store(b->as, 8, 8, 0x0102030405060708, none);
    EXPECT_LOG(&b->p, "w4@8 w4@12 ");
    g_assert_cmphex(b->p.bytes[8], ==, 8);
    g_assert_cmphex(b->p.bytes[15], ==, 1);
    /* 1 and 2 bytes: widened reads, merged writes. */
    g_assert_cmphex(address_space_ld(b->as, 5, 1, none), ==, 0x15);
    EXPECT_LOG(&b->p, "r4@4 ");
    g_assert_cmphex(address_space_ld(b->as, 6, 2, none), ==, 0x1716);
    EXPECT_LOG(&b->p, "r4@4 ");
    address_space_store(b->as, 6, 1, 0xee, none);
    EXPECT_LOG(&b->p, "r4@4 w4@4 ");
    g_assert_cmphex(address_space_ld(b->as, 4, 4, none), ==, 0x17ee1514);
    bench_free(b);

    /* Unaligned for the bus, aligned for the device. */
    b = bench_new((MemoryRegionOps){ .valid = { 1, 8, true }, .impl = { 1, 4, false } });
    g_assert_cmphex(address_space_ld(b->as, 3, 4, none), ==, 0x16151413);
    EXPECT_LOG(&b->p, "r1@3 r2@4 r1@6 ");
    bench_free(b);

    b = bench_new((MemoryRegionOps){ .endian = MEMORY_BIG_ENDIAN, .valid = { 1, 8 }, .impl = { 2, 2 } });
    g_assert_cmphex(address_space_ld(b->as, 0, 2, none), ==, 0x1011);
    g_assert_cmphex(address_space_ld(b->as, 0, 4, none), ==, 0x12131011);
    bench_free(b);
}

static uint64_t reenter_read(void *opaque, hwaddr offset, unsigned size)
{
    Bench *b = opaque;
    uint64_t value;
    g_assert_cmpint(address_space_load(b->as, 4, 4, &value, MEMTXATTRS_NONE), ==, MEMTX_ACCESS_ERROR);
    return 5;
}

/* An access goes whole to the region where it begins, even where another one covers its end. */
static void test_neighbour(void)
{
    Bench *b = bench_new((MemoryRegionOps){ 0 });
    Probe other;
    MemoryRegion byte;
    uint8_t bytes[4];
    probe_init(&other);
    memory_region_init_io(&byte, NULL, &any_ops, &other, "byte", 1, NULL);
    memory_region_add_overlap(&b->root, 1, &byte, 1);
    g_assert_cmphex(address_space_ld(b->as, 0, 4, MEMTXATTRS_NONE), ==, 0x13121110);
    g_assert_cmpint(address_space_store(b->as, 0, 4, 0x1020304, MEMTXATTRS_NONE), ==, MEMTX_OK);
    g_assert_cmpint(address_space_read(b->as, 0, MEMTXATTRS_NONE, bytes, 4), ==, MEMTX_OK);
    EXPECT_LOG(&b->p, "r4@0 w4@0 r4@0 ");
    EXPECT_LOG(&other, "");
    address_space_store(b->as, 1, 1, 5, MEMTXATTRS_NONE);
    EXPECT_LOG(&other, "w1@0 ");
    memory_region_destroy(&byte);
    g_string_free(other.log, TRUE);
    bench_free(b);
}

static void test_reentrancy_and_dma(void)
{
    static const MemoryRegionOps reenter_ops = { .read = reenter_read };
    Bench *b = bench_new((MemoryRegionOps){ 0 });
    uint64_t value;
    g_assert_cmpint(address_space_load(b->as, 0, 4, &value, MEMTXATTRS_DMA), ==, MEMTX_ACCESS_ERROR);
    g_assert_cmpint(address_space_store(b->as, 0, 4, 1, MEMTXATTRS_DMA), ==, MEMTX_ACCESS_ERROR);
    EXPECT_LOG(&b->p, "");
    MemoryRegion again;
    memory_region_init_io(&again, NULL, &reenter_ops, b, "again", 16, &b->lock);
    memory_region_add(&b->root, 0x100, &again);
    g_assert_cmpuint(address_space_ld(b->as, 0x100, 4, MEMTXATTRS_NONE), ==, 5);
    EXPECT_LOG(&b->p, "");
    g_assert_false(home_lock_held(&b->lock));
    memory_region_destroy(&again);
    b->ops.dma_ok = true;
    g_assert_cmpint(address_space_store(b->as, 0, 4, 1, MEMTXATTRS_DMA), ==, MEMTX_OK);
    EXPECT_LOG(&b->p, "w4@0 ");
    bench_free(b);
}

static void test_ram(void)
{
    g_autoptr(GError) error = NULL;
    MemoryRegion root, ram, rom, alias;
    memory_region_init(&root, NULL, "root", UINT64_MAX);
    g_assert_true(memory_region_init_ram(&ram, NULL, "ram", 0x4000, &error));
    g_assert_true(memory_region_init_rom(&rom, NULL, "rom", 0x1000, &error));
    memory_region_add(&root, 0, &ram);
    memory_region_add(&root, 0x4000, &rom);
    AddressSpace *as = address_space_new(&root, "test");
    char text[32] = "across the border";
    g_assert_cmpint(address_space_write(as, 0x3ff8, MEMTXATTRS_DMA, text, 18), ==, MEMTX_OK);
    char back[32];
    g_assert_cmpint(address_space_read(as, 0x3ff8, MEMTXATTRS_DMA, back, 18), ==, MEMTX_OK);
    g_assert_cmpmem(back, 8, text, 8);
    for (int i = 8; i < 18; i++) {
        g_assert_cmpint((uint8_t)back[i], ==, 0); /* the ROM did not take it */
    }
    g_assert_cmpint(address_space_store(as, 0x1001, 8, 0x1122334455667788, MEMTXATTRS_NONE), ==, MEMTX_OK);
    g_assert_cmphex(address_space_ld(as, 0x1001, 8, MEMTXATTRS_NONE), ==, 0x1122334455667788);
    g_assert_cmphex(address_space_ld(as, 0x1003, 4, MEMTXATTRS_NONE), ==, 0x33445566);
    address_space_set(as, 0x1000, 0xab, 0x20, MEMTXATTRS_NONE);
    g_assert_cmphex(address_space_ld(as, 0x101e, 4, MEMTXATTRS_NONE), ==, 0xabab);
    hwaddr length = 0x10000;
    uint8_t *host = address_space_map(as, 0x3000, &length, true, MEMTXATTRS_DMA);
    g_assert_nonnull(host);
    g_assert_cmphex(length, ==, 0x1000);
    g_assert_cmphex(ram.ram->dirty[3], ==, DIRTY_ALL);
    ram_test_and_clear_dirty(ram.ram, 0, ram.size, DIRTY_MIGRATION);
    host[0] = 1;
    address_space_unmap(as, host, length, true, 1);
    g_assert_true(ram_test_and_clear_dirty(ram.ram, 0x3000, 1, DIRTY_MIGRATION));
    length = 16;
    g_assert_null(address_space_map(as, 0x4000, &length, true, MEMTXATTRS_DMA));
    length = 16;
    host = address_space_map(as, 0x4000, &length, false, MEMTXATTRS_DMA);
    g_assert_nonnull(host);
    address_space_unmap(as, host, length, false, 16);
    length = 16;
    g_assert_null(address_space_map(as, 0x5000, &length, false, MEMTXATTRS_DMA));
    /* Read-only through an alias, as PAM registers do it. */
    memory_region_init_alias(&alias, NULL, "pam", &ram, 0x1000, 0x1000);
    memory_region_add_overlap(&root, 0x1000, &alias, 1);
    memory_region_set_readonly(&alias, true);
    address_space_store(as, 0x1000, 4, 0x12345678, MEMTXATTRS_NONE);
    g_assert_cmphex(address_space_ld(as, 0x1000, 4, MEMTXATTRS_NONE), ==, 0xabababab);
    memory_region_destroy(&alias);
    memory_region_destroy(&ram);
    memory_region_destroy(&rom);
    address_space_free(as);
    memory_region_destroy(&root);
}

static void test_romd(void)
{
    g_autoptr(GError) error = NULL;
    MemoryRegion root, flash;
    Probe p;
    probe_init(&p);
    memory_region_init(&root, NULL, "root", UINT64_MAX);
    g_assert_true(memory_region_init_rom_device(&flash, NULL, &any_ops, &p, "flash", 0x1000, NULL, &error));
    memory_region_add(&root, 0, &flash);
    AddressSpace *as = address_space_new(&root, "test");
    flash.ram->host[0] = 0x77;
    g_assert_cmphex(address_space_ld(as, 0, 1, MEMTXATTRS_NONE), ==, 0x77);
    address_space_store(as, 0, 1, 0x55, MEMTXATTRS_NONE);
    EXPECT_LOG(&p, "w1@0 ");
    g_assert_cmphex(address_space_ld(as, 0, 1, MEMTXATTRS_NONE), ==, 0x77);
    memory_region_set_romd(&flash, false);
    g_assert_cmphex(address_space_ld(as, 0, 1, MEMTXATTRS_NONE), ==, 0x55);
    EXPECT_LOG(&p, "r1@0 ");
    memory_region_destroy(&flash);
    address_space_free(as);
    memory_region_destroy(&root);
    g_string_free(p.log, TRUE);
}

typedef struct CodeListener {
    RamListener l;
    unsigned code, cleared;
    uint64_t offset, length;
} CodeListener;

static void on_code(RamListener *l, RamBlock *block, uint64_t offset, uint64_t length)
{
    CodeListener *c = (CodeListener *)l;
    c->code++;
    c->offset = offset;
    c->length = length;
}

static void on_cleared(RamListener *l, RamBlock *block, uint64_t offset, uint64_t length)
{
    ((CodeListener *)l)->cleared++;
}

static void test_dirty(void)
{
    g_autoptr(GError) error = NULL;
    RamBlock *block = ram_block_new("ram", &(RamBlockOptions){ .size = 8 * RAM_PAGE_SIZE }, &error);
    CodeListener c = { .l = { on_code, on_cleared } };
    ram_add_listener(block, &c.l);
    ram_written(block, 0, 8 * RAM_PAGE_SIZE);
    g_assert_cmpuint(c.code, ==, 8);
    g_assert_true(ram_page_fully_dirty(block, 5 * RAM_PAGE_SIZE));
    c.code = 0;
    g_assert_true(ram_test_and_clear_dirty(block, RAM_PAGE_SIZE, 1, DIRTY_CODE));
    g_assert_cmpuint(c.cleared, ==, 1);
    g_assert_false(ram_test_and_clear_dirty(block, RAM_PAGE_SIZE, 1, DIRTY_CODE));
    g_assert_cmpuint(c.cleared, ==, 1);
    g_assert_false(ram_page_fully_dirty(block, RAM_PAGE_SIZE));
    ram_written(block, RAM_PAGE_SIZE - 16, 32); /* ends 16 bytes into the code page */
    g_assert_cmpuint(c.code, ==, 1);
    g_assert_cmpuint(c.offset, ==, RAM_PAGE_SIZE);
    g_assert_cmpuint(c.length, ==, 16);
    ram_written(block, RAM_PAGE_SIZE, 16); /* reported once */
    g_assert_cmpuint(c.code, ==, 1);
    ram_test_and_clear_dirty(block, 0, block->size, DIRTY_DISPLAY);
    ram_written(block, 3 * RAM_PAGE_SIZE, 1);
    g_assert_cmpuint(c.code, ==, 1); /* clients are independent */
    g_assert_true(ram_test_and_clear_dirty(block, 0, block->size, DIRTY_DISPLAY));
    g_assert_false(ram_test_and_clear_dirty(block, 0, block->size, DIRTY_DISPLAY));
    ram_remove_listener(block, &c.l);
    ram_block_unref(block);
}

typedef struct Listener {
    MemoryListener l;
    GString *log;
} Listener;

#define LISTEN(fn, text)                                                                                  \
    static void fn(MemoryListener *l, const MemoryRegionSection *s)                                       \
    {                                                                                                     \
        g_string_append_printf(((Listener *)l)->log, text "%s@%" PRIx64 "+%" PRIx64 " ", s->region->name, \
                               s->addr, s->size);                                                         \
    }
LISTEN(listen_add, "+")
LISTEN(listen_del, "-")
LISTEN(listen_log_start, "log")
LISTEN(listen_log_stop, "nolog")
static void listen_commit(MemoryListener *l)
{
    g_string_append(((Listener *)l)->log, "commit");
}

static void test_listeners(void)
{
    MemoryRegion root, a, b;
    Probe p;
    probe_init(&p);
    Listener l = { .l = { .region_add = listen_add,
                          .region_del = listen_del,
                          .commit = listen_commit,
                          .log_start = listen_log_start,
                          .log_stop = listen_log_stop },
                   .log = g_string_new(NULL) };
    memory_region_init(&root, NULL, "root", UINT64_MAX);
    memory_region_init_io(&a, NULL, &any_ops, &p, "a", 0x1000, NULL);
    memory_region_init_io(&b, NULL, &any_ops, &p, "b", 0x100, NULL);
    memory_region_add(&root, 0, &a);
    AddressSpace *as = address_space_new(&root, "test");
    memory_listener_add(&l.l, as);
    EXPECT_LOG(&l, "+a@0+1000 commit");
    memory_region_add_overlap(&root, 0x800, &b, 1);
    EXPECT_LOG(&l, "-a@0+1000 +a@0+800 +b@800+100 +a@900+700 commit");
    memory_region_set_log(&b, true, DIRTY_DISPLAY);
    EXPECT_LOG(&l, "logb@800+100 commit");
    memory_region_set_log(&b, false, DIRTY_DISPLAY);
    EXPECT_LOG(&l, "nologb@800+100 commit");
    memory_region_del(&root, &b);
    EXPECT_LOG(&l, "-a@0+800 -b@800+100 -a@900+700 +a@0+1000 commit");
    memory_listener_remove(&l.l);
    EXPECT_LOG(&l, "-a@0+1000 commit");
    memory_region_destroy(&a);
    memory_region_destroy(&b);
    address_space_free(as);
    memory_region_destroy(&root);
    g_string_free(l.log, TRUE);
    g_string_free(p.log, TRUE);
}

static void test_ioeventfd(void)
{
    Bench *b = bench_new((MemoryRegionOps){ 0 });
    EventNotifier any, one;
    g_assert_true(event_notifier_init(&any, NULL));
    g_assert_true(event_notifier_init(&one, NULL));
    memory_region_add_eventfd(&b->io, 8, 0, false, 0, &any);
    memory_region_add_eventfd(&b->io, 4, 2, true, 7, &one);
    address_space_store(b->as, 8, 4, 99, MEMTXATTRS_NONE);
    EXPECT_LOG(&b->p, "");
    g_assert_true(event_notifier_test_and_clear(&any));
    g_assert_false(event_notifier_test_and_clear(&one));
    address_space_store(b->as, 4, 2, 7, MEMTXATTRS_NONE);
    EXPECT_LOG(&b->p, "");
    g_assert_true(event_notifier_test_and_clear(&one));
    address_space_store(b->as, 4, 2, 8, MEMTXATTRS_NONE); /* another value */
    address_space_store(b->as, 4, 4, 7, MEMTXATTRS_NONE); /* another size */
    EXPECT_LOG(&b->p, "w2@4 w4@4 ");
    g_assert_false(event_notifier_test_and_clear(&one));
    memory_region_del_eventfd(&b->io, 8, 0, false, 0, &any);
    address_space_store(b->as, 8, 4, 99, MEMTXATTRS_NONE);
    EXPECT_LOG(&b->p, "w4@8 ");
    memory_region_del_eventfd(&b->io, 4, 2, true, 7, &one);
    memory_rcu_synchronize();
    event_notifier_destroy(&any);
    event_notifier_destroy(&one);
    bench_free(b);
}

typedef struct EventfdLog {
    MemoryListener l;
    GString *log;
} EventfdLog;

static void eventfd_added(MemoryListener *l, const MemoryIoeventfd *e)
{
    g_string_append_printf(((EventfdLog *)l)->log, "+%" PRIx64 "/%u ", e->offset, e->size);
}

static void eventfd_deleted(MemoryListener *l, const MemoryIoeventfd *e)
{
    g_string_append_printf(((EventfdLog *)l)->log, "-%" PRIx64 "/%u ", e->offset, e->size);
}

#define EXPECT_EVENTFDS(l, text)                  \
    do {                                          \
        g_assert_cmpstr((l)->log->str, ==, text); \
        g_string_truncate((l)->log, 0);           \
    } while (0)

/* Listeners see notifiers where the view shows them, and only those that come or go. */
static void test_ioeventfd_listener(void)
{
    MemoryRegion root, io, cover;
    EventNotifier e;
    EventfdLog log = {
        .l = { .name = "eventfds", .eventfd_add = eventfd_added, .eventfd_del = eventfd_deleted },
        .log = g_string_new(NULL)
    };
    MemoryRegionOps none = { 0 };
    g_assert_true(event_notifier_init(&e, NULL));
    memory_region_init(&root, NULL, "root", 0x10000);
    memory_region_init_io(&io, NULL, &none, NULL, "io", 0x100, NULL);
    memory_region_init_io(&cover, NULL, &none, NULL, "cover", 0x10, NULL);
    AddressSpace *as = address_space_new(&root, "as");
    memory_region_add_eventfd(&io, 0x20, 4, false, 0, &e);
    memory_region_add_eventfd(&io, 0x10, 0, false, 0, &e);
    memory_listener_add(&log.l, as);
    EXPECT_EVENTFDS(&log, "");
    memory_region_add(&root, 0x1000, &io);
    EXPECT_EVENTFDS(&log, "+1010/0 +1020/4 ");
    memory_region_add_eventfd(&io, 0x18, 2, true, 5, &e);
    memory_region_add_eventfd(&io, 0x18, 2, true, 3, &e);
    EXPECT_EVENTFDS(&log, "+1018/2 +1018/2 ");
    memory_region_add_overlap(&root, 0x1010, &cover, 1);
    EXPECT_EVENTFDS(&log, "-1010/0 -1018/2 -1018/2 ");
    memory_region_del(&root, &cover);
    EXPECT_EVENTFDS(&log, "+1010/0 +1018/2 +1018/2 ");
    memory_region_set_address(&io, 0x2000);
    EXPECT_EVENTFDS(&log, "-1010/0 -1018/2 -1018/2 -1020/4 +2010/0 +2018/2 +2018/2 +2020/4 ");
    memory_transaction_begin();
    memory_region_del_eventfd(&io, 0x18, 2, true, 5, &e);
    memory_region_del_eventfd(&io, 0x10, 0, false, 0, &e);
    EXPECT_EVENTFDS(&log, ""); /* not before the end */
    memory_transaction_commit();
    EXPECT_EVENTFDS(&log, "-2010/0 -2018/2 ");
    memory_listener_remove(&log.l);
    EXPECT_EVENTFDS(&log, "-2018/2 -2020/4 ");
    address_space_free(as);
    memory_region_destroy(&io);
    memory_region_destroy(&cover);
    memory_region_destroy(&root);
    event_notifier_destroy(&e);
    g_string_free(log.log, TRUE);
}

typedef struct SyncLog {
    RamListener l;
    unsigned count;
} SyncLog;

static void sync_writes(RamListener *l, RamBlock *block, uint64_t offset, uint64_t length)
{
    ((SyncLog *)l)->count++;
    ram_written(block, 0x3000, 4096);
}

/* A log that somebody else keeps is asked before the map is looked at; not for code. */
static void test_dirty_sync(void)
{
    RamBlock *block = ram_block_new("b", &(RamBlockOptions){ .size = 0x8000 }, NULL);
    SyncLog log = { .l = { .dirty_sync = sync_writes } };
    g_assert_false(ram_test_and_clear_dirty(block, 0, 0x8000, DIRTY_DISPLAY));
    ram_add_listener(block, &log.l);
    g_assert_false(ram_test_and_clear_dirty(block, 0, 0x8000, DIRTY_CODE));
    g_assert_cmpuint(log.count, ==, 0);
    g_assert_true(ram_test_and_clear_dirty(block, 0x3000, 0x1000, DIRTY_DISPLAY));
    g_assert_cmpuint(log.count, ==, 1);
    g_assert_false(ram_test_and_clear_dirty(block, 0x4000, 0x1000, DIRTY_DISPLAY));
    ram_sync_dirty(block, 0, 0x8000);
    g_assert_cmpuint(log.count, ==, 3);
    ram_remove_listener(block, &log.l);
    g_assert_true(ram_test_and_clear_dirty(block, 0, 0x8000, DIRTY_DISPLAY));
    g_assert_cmpuint(log.count, ==, 3);
    ram_block_unref(block);
}

static void test_blocks(void)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(ram_block_new("huge", &(RamBlockOptions){ .size = 1ull << 60 }, &error));
    g_assert_nonnull(strstr(error->message, "huge"));
    g_clear_error(&error);
    g_assert_null(ram_block_new("huge", &(RamBlockOptions){ .size = UINT64_MAX }, &error));
    g_clear_error(&error);
    g_assert_null(ram_block_new("none", &(RamBlockOptions){ 0 }, &error));
    g_clear_error(&error);
    RamBlock *m = ram_block_new("m",
                                &(RamBlockOptions){ .size = 1 << 20,
                                                    .memfd = true,
                                                    .share = true,
                                                    .prealloc = true,
                                                    .prealloc_threads = 3,
                                                    .seal = true },
                                &error);
    g_assert_no_error(error);
    g_assert_cmpint(m->fd, >=, 0);
    m->host[12345] = 42;
    uint8_t byte = 0;
    g_assert_cmpint(pread(m->fd, &byte, 1, 12345), ==, 1);
    g_assert_cmpint(byte, ==, 42);
    g_assert_cmpint(ftruncate(m->fd, 0), ==, -1);
    uint64_t offset;
    memory_rcu_lock();
    g_assert_true(ram_block_from_host(m->host + 777, &offset) == m);
    g_assert_cmpuint(offset, ==, 777);
    g_assert_null(ram_block_from_host(&offset, &offset));
    memory_rcu_unlock();
    ram_block_unref(m);
    g_autofree char *path = g_strdup_printf("%s/rhea-mem-test-%d", g_get_tmp_dir(), (int)getpid());
    RamBlock *f = ram_block_new("f", &(RamBlockOptions){ .size = 8192, .path = path, .share = true }, &error);
    g_assert_no_error(error);
    memcpy(f->host + 4096, "kept", 4);
    ram_block_unref(f);
    memory_rcu_synchronize();
    g_assert_null(ram_block_new("f", &(RamBlockOptions){ .size = 16384, .path = path }, &error));
    g_assert_nonnull(strstr(error->message, "too small"));
    g_clear_error(&error);
    f = ram_block_new("f", &(RamBlockOptions){ .size = 8192, .path = path, .readonly = true }, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(f->host + 4096, 4, "kept", 4);
    ram_block_unref(f);
    unlink(path);
    g_assert_null(ram_block_new("f", &(RamBlockOptions){ .size = 8192, .path = "/nonexistent/x" }, &error));
    g_assert_nonnull(strstr(error->message, "/nonexistent/x"));
}

/* Readers on several threads while regions come, go and move: they see one of the two worlds, never a
 * mixture, and never freed memory (ThreadSanitizer and AddressSanitizer watch). */
typedef struct Race {
    AddressSpace *as;
    int stop;
} Race;

static uint64_t race_read(void *opaque, hwaddr offset, unsigned size)
{
    return (uintptr_t)opaque;
}

static void *race_thread(void *opaque)
{
    Race *r = opaque;
    uint64_t reads = 0;
    while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
        uint64_t value = address_space_ld(r->as, 0x1000, 4, MEMTXATTRS_NONE);
        g_assert_true(value == 1 || value == 2);
        value = address_space_ld(r->as, 0x2000, 4, MEMTXATTRS_NONE);
        g_assert_true(value == 3 || value == UINT32_MAX);
        uint64_t ram = address_space_ld(r->as, 0x3000, 8, MEMTXATTRS_NONE);
        address_space_store(r->as, 0x3000, 8, ram, MEMTXATTRS_NONE);
        reads++;
    }
    return (void *)(uintptr_t)reads;
}

static void test_race(void)
{
    static const MemoryRegionOps ops = { .read = race_read };
    MemoryRegion root, one, two, ram;
    memory_region_init(&root, NULL, "root", UINT64_MAX);
    memory_region_init_io(&one, NULL, &ops, (void *)1, "one", 0x100, NULL);
    memory_region_init_io(&two, NULL, &ops, (void *)2, "two", 0x100, NULL);
    g_assert_true(memory_region_init_ram(&ram, NULL, "ram", 0x1000, NULL));
    memory_region_add(&root, 0x1000, &one);
    memory_region_add(&root, 0x3000, &ram);
    AddressSpace *as = address_space_new(&root, "race");
    Race r = { .as = as };
    pthread_t threads[3];
    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++) {
        pthread_create(&threads[i], NULL, race_thread, &r);
    }
    gint64 end = g_get_monotonic_time() + 300 * 1000;
    unsigned changes = 0;
    while (g_get_monotonic_time() < end) {
        memory_region_add_overlap(&root, 0x1000, &two, 1);
        MemoryRegion *three = g_new0(MemoryRegion, 1);
        memory_region_init_io(three, NULL, &ops, (void *)3, "three", 0x100, NULL);
        memory_region_add(&root, 0x2000, three);
        memory_region_del(&root, &two);
        memory_region_destroy(three);
        g_free(three);
        changes++;
    }
    __atomic_store_n(&r.stop, 1, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++) {
        void *reads;
        pthread_join(threads[i], &reads);
        g_assert_cmpuint((uintptr_t)reads, >, 0);
    }
    g_test_message("%u topology changes", changes);
    memory_region_destroy(&one);
    memory_region_destroy(&two);
    memory_region_destroy(&ram);
    address_space_free(as);
    memory_region_destroy(&root);
}

static void test_cache(void)
{
    MemoryRegion root, ram;
    memory_region_init(&root, NULL, "root", UINT64_MAX);
    g_assert_true(memory_region_init_ram(&ram, NULL, "ram", 0x4000, NULL));
    memory_region_add(&root, 0, &ram);
    AddressSpace *as = address_space_new(&root, "cache");
    MemoryCache c = { 0 };
    memory_cache_init(&c, as, 0x1000, 0x100, true);
    g_assert_true(memory_cache_store16(&c, 2, 0xabcd));
    uint16_t value = 0;
    g_assert_true(memory_cache_load16(&c, 2, &value));
    g_assert_cmphex(value, ==, 0xabcd);
    g_assert_cmphex(address_space_ld(as, 0x1002, 2, MEMTXATTRS_NONE), ==, 0xabcd);
    g_assert_true(ram_test_and_clear_dirty(ram.ram, 0x1000, 1, DIRTY_MIGRATION));
    g_assert_false(memory_cache_load16(&c, 0xff, &value)); /* beyond what was asked for */
    memory_region_set_address(&ram, 0x1000);               /* the same guest address is other RAM now */
    g_assert_true(memory_cache_load16(&c, 2, &value));
    g_assert_cmphex(value, ==, 0);
    memory_region_set_enabled(&ram, false);
    g_assert_false(memory_cache_load16(&c, 2, &value));
    memory_cache_destroy(&c);
    memory_region_destroy(&ram);
    address_space_free(as);
    memory_region_destroy(&root);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/mem/overlap", test_overlap);
    g_test_add_func("/mem/transactions", test_transactions);
    g_test_add_func("/mem/sizes", test_sizes);
    g_test_add_func("/mem/neighbour", test_neighbour);
    g_test_add_func("/mem/reentrancy-and-dma", test_reentrancy_and_dma);
    g_test_add_func("/mem/ram", test_ram);
    g_test_add_func("/mem/romd", test_romd);
    g_test_add_func("/mem/dirty", test_dirty);
    g_test_add_func("/mem/listeners", test_listeners);
    g_test_add_func("/mem/ioeventfd", test_ioeventfd);
    g_test_add_func("/mem/ioeventfd-listener", test_ioeventfd_listener);
    g_test_add_func("/mem/dirty-sync", test_dirty_sync);
    g_test_add_func("/mem/blocks", test_blocks);
    g_test_add_func("/mem/race", test_race);
    g_test_add_func("/mem/cache", test_cache);
    return g_test_run();
}
