/* AHCI: a disk and a CD-ROM by command lists in memory, queued commands, errors, resets.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "block/block.h"
#include "hw/pci/i440fx.h"
#include "hw/storage/ahci.h"
#include "hw/storage/ide.h"
#include "vmstate/vmstate.h"

#include <unistd.h>

#define SECTORS    4096u
#define CD_SECTORS 100u
#define BAR        0xe0000000u
#define LIST       0x10000u /* command lists, 0x1000 a port */
#define RECEIVED   0x18000u
#define TABLES     0x20000u /* command tables, 0x1000 a slot */
#define DATA       0x100000u
enum { P_CLB = 0x100, P_FB = 0x108, P_IS = 0x110, P_IE = 0x114, P_CMD = 0x118, P_TFD = 0x120, P_SIG = 0x124 };
enum { P_SSTS = 0x128, P_SCTL = 0x12c, P_SERR = 0x130, P_SACT = 0x134, P_CI = 0x138 };

typedef struct Bench {
    TestBoard *b;
    MemoryRegion pci_memory;
    Device *host, *ahci;
    BlockRegistry *blocks;
    char *disk_path, *cd_path;
} Bench;

static uint8_t expected(uint32_t at)
{
    return (uint8_t)(at / 512 * 7 + at);
}

static char *make_file(const char *name, uint32_t size)
{
    char *path = g_strdup_printf("%s/rhea-ahci-%s-%d", g_get_tmp_dir(), name, (int)getpid());
    g_autofree uint8_t *content = g_malloc(size);
    for (uint32_t i = 0; i < size; i++) {
        content[i] = expected(i);
    }
    g_assert_true(g_file_set_contents(path, (const char *)content, size, NULL));
    return path;
}

static uint32_t rd(Bench *n, uint32_t reg)
{
    return (uint32_t)test_read(n->b, BAR + reg, 4);
}

static void wr(Bench *n, uint32_t reg, uint32_t value)
{
    test_write(n->b, BAR + reg, 4, value);
}

static void start_port(Bench *n, unsigned port)
{
    uint32_t at = port * 0x80;
    wr(n, at + P_CLB, LIST + port * 0x1000);
    wr(n, at + P_FB, RECEIVED + port * 0x400);
    wr(n, at + P_SERR, 0xffffffff);
    wr(n, at + P_IS, 0xffffffff);
    wr(n, at + P_IE, 0x7dc0007f);
    wr(n, at + P_CMD, 0x10); /* FRE */
    wr(n, at + P_CMD, 0x11); /* ST */
    g_assert_cmphex(rd(n, at + P_CMD) & 0xc000, ==, 0xc000);
}

static void bench_new(Bench *n)
{
    GError *error = NULL;
    memset(n, 0, sizeof(*n));
    n->b = test_board_new();
    n->disk_path = make_file("disk", SECTORS * 512);
    n->cd_path = make_file("cd", CD_SECTORS * 2048);
    n->blocks = block_registry_new(n->b->loop, NULL);
    block_property_set_registry(n->blocks);
    g_autofree char *disk = g_strdup_printf("driver=file,node-name=disk,filename=%s", n->disk_path);
    g_autofree char *cd = g_strdup_printf("driver=file,node-name=cd,read-only=on,filename=%s", n->cd_path);
    blockdev_add_text(n->blocks, disk, &error);
    blockdev_add_text(n->blocks, cd, &error);
    g_assert_no_error(error);
    memory_region_init(&n->pci_memory, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&n->b->memory_root, 0, &n->pci_memory, -1);
    n->host = device_new_unattached(n->b->root, TYPE_I440FX_HOST, NULL);
    i440fx_set_memory(n->host, &n->b->ram, &n->pci_memory, NULL);
    device_realize(n->host, NULL, &n->b->env, &error);
    g_assert_no_error(error);
    n->ahci = test_board_add(n->b, TYPE_ICH9_AHCI, BUS(i440fx_bus(n->host)), "addr", "5", NULL);
    test_board_add(n->b, "ide-hd", bus_lookup(n->b->root, "ide.0"), "drive", "disk", "serial", "S77", NULL);
    test_board_add(n->b, "ide-cd", bus_lookup(n->b->root, "ide.2"), "drive", "cd", NULL);
    device_reset(n->ahci);
    pci_bus_config_write(i440fx_bus(n->host), PCI_DEVFN(5, 0), 0x24, BAR, 4);
    pci_bus_config_write(i440fx_bus(n->host), PCI_DEVFN(5, 0), PCI_COMMAND, 6, 2);
    wr(n, 0x04, 0x80000002);
    start_port(n, 0);
    start_port(n, 2);
}

static void bench_free(Bench *n)
{
    device_unrealize_all(n->b->root);
    block_property_set_registry(NULL);
    block_registry_free(n->blocks);
    test_board_free(n->b);
    memory_region_destroy(&n->pci_memory);
    unlink(n->disk_path);
    unlink(n->cd_path);
    g_free(n->disk_path);
    g_free(n->cd_path);
}

typedef struct Command {
    uint8_t code, device;
    uint64_t lba;
    uint16_t count, feature;
    uint32_t bytes; /* of one memory region at DATA + slot * 64 KiB; 0: none */
    bool write, atapi;
    uint8_t packet[12];
} Command;

static void put(Bench *n, unsigned port, unsigned slot, const Command *c)
{
    uint64_t table = TABLES + slot * 0x1000u, header = LIST + port * 0x1000u + slot * 32;
    uint8_t fis[20] = { 0x27,         0x80,         c->code,      c->feature,   c->lba,       c->lba >> 8,
                        c->lba >> 16, c->device,    c->lba >> 24, c->lba >> 32, c->lba >> 40, c->feature >> 8,
                        c->count,     c->count >> 8 };
    address_space_write(n->b->memory, table, MEMTXATTRS_NONE, fis, sizeof(fis));
    address_space_write(n->b->memory, table + 0x40, MEMTXATTRS_NONE, c->packet, sizeof(c->packet));
    test_write(n->b, table + 0x80, 8, DATA + slot * 0x10000u);
    test_write(n->b, table + 0x88, 8, (uint64_t)(c->bytes - 1) << 32);
    test_write(n->b, header, 4, 5 | (c->atapi ? 0x20 : 0) | (c->write ? 0x40 : 0) | (c->bytes ? 1 : 0) << 16);
    test_write(n->b, header + 4, 4, 0);
    test_write(n->b, header + 8, 8, table);
}

static void run_until(Bench *n, uint32_t reg, uint32_t bits, uint32_t value)
{
    for (int i = 0; i < 20000 && (rd(n, reg) & bits) != value; i++) {
        if (!loop_iterate(n->b->loop, false)) {
            g_usleep(20);
        }
    }
    g_assert_cmphex(rd(n, reg) & bits, ==, value);
}

/* One command in slot 0 to its end; the interrupt status. */
static uint32_t run(Bench *n, unsigned port, const Command *c)
{
    uint32_t at = port * 0x80;
    put(n, port, 0, c);
    wr(n, at + P_IS, 0xffffffff);
    wr(n, at + P_CI, 1);
    for (int i = 0; i < 20000 && !(rd(n, at + P_IS) & 0x60000001); i++) {
        if (!loop_iterate(n->b->loop, false)) {
            g_usleep(20);
        }
    }
    return rd(n, at + P_IS);
}

static void test_registers(void)
{
    Bench n;
    bench_new(&n);
    g_assert_cmphex(rd(&n, 0x00), ==, 0xc1141f05);
    g_assert_cmphex(rd(&n, 0x0c), ==, 0x3f);
    g_assert_cmphex(rd(&n, P_SIG), ==, 0x00000101);
    g_assert_cmphex(rd(&n, P_SIG + 0x100), ==, 0xeb140101);
    g_assert_cmphex(rd(&n, P_SSTS), ==, 0x113);
    g_assert_cmphex(rd(&n, P_SSTS + 0x80), ==, 0);
    g_assert_cmphex(rd(&n, P_TFD), ==, 0x0150);
    /* COMRESET: gone while it lasts, then a new signature and a connect change. */
    wr(&n, P_SCTL, 1);
    g_assert_cmphex(rd(&n, P_SSTS), ==, 0);
    wr(&n, P_SCTL, 0);
    g_assert_cmphex(rd(&n, P_SSTS), ==, 0x113);
    g_assert_cmphex(rd(&n, P_SERR) & 1u << 26, ==, 1u << 26);
    g_assert_cmphex(rd(&n, P_IS) & 0x40, ==, 0x40);
    wr(&n, P_IS, 0xffffffff); /* stays until SERR is cleared */
    g_assert_cmphex(rd(&n, P_IS) & 0x40, ==, 0x40);
    wr(&n, P_SERR, 1u << 26);
    g_assert_cmphex(rd(&n, P_IS) & 0x40, ==, 0);
    wr(&n, 0x04, 1); /* everything */
    g_assert_cmphex(rd(&n, 0x04), ==, 0x80000000);
    g_assert_cmphex(rd(&n, P_CLB), ==, 0);
    g_assert_cmphex(rd(&n, P_CMD) & 0xc011, ==, 0);
    bench_free(&n);
}

static void test_disk(void)
{
    Bench n;
    bench_new(&n);
    TestBoard *b = n.b;
    g_assert_cmphex(run(&n, 0, &(Command){ .code = 0xec, .bytes = 512 }), ==, 0x03); /* by PIO */
    g_assert_cmphex(test_read(b, DATA + 75 * 2, 2), ==, 31);
    g_assert_cmphex(test_read(b, DATA + 76 * 2, 2) & 0x100, ==, 0x100);
    g_assert_cmphex(test_read(b, DATA + 10 * 2, 2), ==, 'S' << 8 | '7');
    g_assert_cmphex(test_read(b, LIST + 4, 4), ==, 512);
    g_assert_cmphex(rd(&n, P_CI), ==, 0);
    g_assert_cmphex(rd(&n, P_TFD), ==, 0x50);
    g_assert_cmphex(test_read(b, RECEIVED + 0x40, 1), ==, 0x34); /* the register frame */
    g_assert_cmphex(test_read(b, RECEIVED + 0x42, 1), ==, 0x50);
    g_assert_cmphex(rd(&n, 0x08), ==, 1);
    /* By DMA, with 48 bits. */
    g_assert_cmphex(
        run(&n, 0, &(Command){ .code = 0x25, .device = 0x40, .lba = 9, .count = 16, .bytes = 8192 }), ==,
        0x01);
    for (uint32_t i = 0; i < 8192; i += 97) {
        g_assert_cmphex(test_read(b, DATA + i, 1), ==, expected(9 * 512 + i));
    }
    for (uint32_t i = 0; i < 1024; i += 8) {
        test_write(b, DATA + i, 8, 0x0101010101010101 * (i / 8));
    }
    g_assert_cmphex(
        run(&n, 0,
            &(Command){ .code = 0x35, .device = 0x40, .lba = 100, .count = 2, .bytes = 1024, .write = true }),
        ==, 0x01);
    g_autofree char *content = NULL;
    g_assert_true(g_file_get_contents(n.disk_path, &content, NULL, NULL));
    for (uint32_t i = 0; i < 1024; i++) {
        g_assert_cmphex((uint8_t)content[100 * 512 + i], ==, (uint8_t)(i / 8));
    }
    /* Beyond its end: an error stops the port, and the command's bit stays. */
    g_assert_cmphex(
        run(&n, 0, &(Command){ .code = 0x25, .device = 0x40, .lba = SECTORS, .count = 1, .bytes = 512 }), ==,
        0x40000001);
    g_assert_cmphex(rd(&n, P_CI), ==, 1);
    g_assert_cmphex(rd(&n, P_TFD) & 0xff, ==, 0x51);
    wr(&n, P_CMD, 0x10);
    g_assert_cmphex(rd(&n, P_CI), ==, 0);
    wr(&n, P_CMD, 0x11);
    /* No room in memory for all of it. */
    g_assert_cmphex(
        run(&n, 0, &(Command){ .code = 0x25, .device = 0x40, .lba = 0, .count = 4, .bytes = 512 }) &
            0x40000000,
        ==, 0x40000000);
    bench_free(&n);
}

static void test_queued(void)
{
    Bench n;
    bench_new(&n);
    TestBoard *b = n.b;
    /* Three at once: two reads and a write. */
    for (uint32_t i = 0; i < 512; i += 8) {
        test_write(b, DATA + 0x70000 + i, 8, 0x5a5a5a5a5a5a5a5a);
    }
    const Command first = {
        .code = 0x60, .device = 0x40, .lba = 1000, .feature = 100, .count = 2 << 3, .bytes = 51200
    };
    const Command second = {
        .code = 0x60, .device = 0x40, .lba = 5, .feature = 1, .count = 5 << 3, .bytes = 512
    };
    const Command third = {
        .code = 0x61, .device = 0xc0, .lba = 50, .feature = 1, .count = 7 << 3, .bytes = 512, .write = true
    };
    put(&n, 0, 2, &first);
    put(&n, 0, 5, &second);
    put(&n, 0, 7, &third);
    wr(&n, P_IS, 0xffffffff);
    wr(&n, P_SACT, 0xa4);
    wr(&n, P_CI, 0xa4);
    run_until(&n, P_SACT, 0xffffffff, 0);
    g_assert_cmphex(rd(&n, P_CI), ==, 0);
    g_assert_cmphex(rd(&n, P_IS) & 0x40000008, ==, 0x08);
    for (uint32_t i = 0; i < 51200; i += 501) {
        g_assert_cmphex(test_read(b, DATA + 0x20000 + i, 1), ==, expected(1000 * 512 + i));
    }
    g_assert_cmphex(test_read(b, DATA + 0x50000 + 3, 1), ==, expected(5 * 512 + 3));
    g_autofree char *content = NULL;
    g_assert_true(g_file_get_contents(n.disk_path, &content, NULL, NULL));
    g_assert_cmphex((uint8_t)content[50 * 512 + 17], ==, 0x5a);
    /* One that fails: the log tells which. */
    const Command bad = {
        .code = 0x60, .device = 0x40, .lba = SECTORS - 1, .feature = 2, .count = 3 << 3, .bytes = 1024
    };
    put(&n, 0, 3, &bad);
    wr(&n, P_IS, 0xffffffff);
    wr(&n, P_SACT, 8);
    wr(&n, P_CI, 8);
    run_until(&n, P_IS, 0x40000000, 0x40000000);
    g_assert_cmphex(rd(&n, P_SACT), ==, 8);
    wr(&n, P_CMD, 0x10);
    g_assert_cmphex(rd(&n, P_SACT), ==, 0);
    wr(&n, P_CMD, 0x11);
    g_assert_cmphex(
        run(&n, 0, &(Command){ .code = 0x2f, .lba = 0x10, .count = 1, .bytes = 512 }) & 0x40000000, ==, 0);
    g_assert_cmphex(test_read(b, DATA, 1), ==, 3);
    g_assert_cmphex(test_read(b, DATA + 4, 2), ==, SECTORS - 1);
    uint8_t sum = 0;
    for (int i = 0; i < 512; i++) {
        sum += (uint8_t)test_read(b, DATA + i, 1);
    }
    g_assert_cmphex(sum, ==, 0);
    /* A tag that is not its slot's is refused. */
    const Command odd = {
        .code = 0x60, .device = 0x40, .lba = 0, .feature = 1, .count = 9 << 3, .bytes = 512
    };
    put(&n, 0, 4, &odd);
    wr(&n, P_IS, 0xffffffff);
    wr(&n, P_SACT, 1u << 4);
    wr(&n, P_CI, 1u << 4);
    run_until(&n, P_IS, 0x40000000, 0x40000000);
    bench_free(&n);
}

static void test_cd(void)
{
    Bench n;
    bench_new(&n);
    Command c = { .code = 0xa0, .bytes = 4096, .atapi = true, .feature = 1 };
    /* The first command after a reset hears of that. */
    g_assert_cmphex(run(&n, 2, &c) & 0x40000000, ==, 0x40000000);
    wr(&n, P_CMD + 0x100, 0x10);
    wr(&n, P_CMD + 0x100, 0x11);
    const uint8_t read10[12] = { 0x28, 0, 0, 0, 0, 7, 0, 0, 2, 0 };
    memcpy(c.packet, read10, sizeof(read10));
    g_assert_cmphex(run(&n, 2, &c) & 0x40000001, ==, 1);
    for (uint32_t i = 0; i < 4096; i += 33) {
        g_assert_cmphex(test_read(n.b, DATA + i, 1), ==, expected(7 * 2048 + i));
    }
    /* A short answer, by PIO. */
    const uint8_t capacity[12] = { 0x25 };
    memcpy(c.packet, capacity, sizeof(capacity));
    c.feature = 0;
    c.lba = 0xfffe00;
    c.bytes = 8;
    g_assert_cmphex(run(&n, 2, &c) & 0x40000001, ==, 1);
    g_assert_cmphex(test_read(n.b, DATA + 3, 1), ==, CD_SECTORS - 1);
    bench_free(&n);
}

/* Saved with requests under way: whoever loads it makes them again. */
static void test_saved(void)
{
    Bench n;
    GError *error = NULL;
    bench_new(&n);
    const Command c = {
        .code = 0x60, .device = 0x40, .lba = 40, .feature = 8, .count = 1 << 3, .bytes = 4096
    };
    put(&n, 0, 1, &c);
    wr(&n, P_SACT, 2);
    wr(&n, P_CI, 2);
    loop_iterate(n.b->loop, false);
    const VmState *vms = DEVICE_GET_CLASS(n.ahci)->vmstate;
    g_autoptr(GByteArray) bytes = vmstate_save(vms, n.ahci, &error);
    g_assert_no_error(error);
    run_until(&n, P_SACT, 2, 0);
    address_space_set(n.b->memory, DATA + 0x10000, 0, 4096, MEMTXATTRS_NONE);
    vmstate_load(vms, n.ahci, bytes->data, bytes->len, &error);
    g_assert_no_error(error);
    g_assert_cmphex(rd(&n, P_SACT), ==, 2);
    run_until(&n, P_SACT, 2, 0);
    g_assert_cmphex(test_read(n.b, DATA + 0x10000 + 99, 1), ==, expected(40 * 512 + 99));
    bench_free(&n);
}

/* Lists and tables that are not in memory, frames that are none. */
static void test_hostile(void)
{
    Bench n;
    bench_new(&n);
    wr(&n, P_CLB, 0xfff00000);
    wr(&n, P_IS, 0xffffffff);
    wr(&n, P_CI, 1);
    run_until(&n, P_IS, 0x20000000, 0x20000000);
    wr(&n, P_CMD, 0x10);
    start_port(&n, 0);
    const Command c = { .code = 0x25, .device = 0x40, .count = 1, .bytes = 512 };
    put(&n, 0, 0, &c);
    test_write(n.b, TABLES, 1, 0x34); /* not a frame of a host */
    wr(&n, P_CI, 1);
    run_until(&n, P_IS, 0x20000000, 0x20000000);
    wr(&n, P_CMD, 0x10);
    start_port(&n, 0);
    put(&n, 0, 0, &c);
    test_write(n.b, TABLES + 0x80, 8, UINT64_MAX - 100); /* data at the end of all addresses */
    wr(&n, P_CI, 1);
    run_until(&n, P_IS, 0x40000000, 0x40000000);
    wr(&n, P_CI + 0x80, 0xffffffff); /* a port with no drive */
    wr(&n, P_CMD + 0x80, 0x11);
    wr(&n, P_CI + 0x80, 0xffffffff);
    while (loop_iterate(n.b->loop, false)) {}
    bench_free(&n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ahci/registers", test_registers);
    g_test_add_func("/ahci/disk", test_disk);
    g_test_add_func("/ahci/queued", test_queued);
    g_test_add_func("/ahci/cd", test_cd);
    g_test_add_func("/ahci/saved", test_saved);
    g_test_add_func("/ahci/hostile", test_hostile);
    return g_test_run();
}
