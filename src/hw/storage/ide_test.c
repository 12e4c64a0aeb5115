/* IDE: disks and CD-ROM drives behind the PIIX3's controller, by registers and by bus mastering, on files.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "block/block.h"
#include "hw/pci/i440fx.h"
#include "hw/storage/ide.h"
#include "hw/storage/piix3_ide.h"
#include "vmstate/vmstate.h"

#include <unistd.h>

#define SECTORS    2048u /* of the disk */
#define CD_SECTORS 100u
#define TABLE      0x8000u
#define DATA       0x10000u
enum { ERR = 0x01, DRQ = 0x08, DRDY = 0x40, BSY = 0x80 };

typedef struct Bench {
    TestBoard *b;
    MemoryRegion pci_memory;
    Device *host, *ide, *disk, *cd;
    BlockRegistry *blocks;
    char *disk_path, *cd_path;
    uint16_t bm;
} Bench;

static char *make_file(const char *name, uint32_t size)
{
    char *path = g_strdup_printf("%s/rhea-ide-%s-%d", g_get_tmp_dir(), name, (int)getpid());
    g_autofree uint8_t *content = g_malloc(size);
    for (uint32_t i = 0; i < size; i++) {
        content[i] = (uint8_t)(i / 512 * 7 + i);
    }
    g_assert_true(g_file_set_contents(path, (const char *)content, size, NULL));
    return path;
}

static uint8_t expected(uint32_t at)
{
    return (uint8_t)(at / 512 * 7 + at);
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
    n->ide = test_board_add(n->b, TYPE_PIIX3_IDE, BUS(i440fx_bus(n->host)), "firmware-preset", "on", NULL);
    Bus *first = bus_find(n->b->root, TYPE_IDE_BUS, "ide.0", &error);
    Bus *second = bus_find(n->b->root, TYPE_IDE_BUS, "ide.1", &error);
    g_assert_no_error(error);
    n->disk = test_board_add(n->b, "ide-hd", first, "drive", "disk", "serial", "S1234", NULL);
    n->cd = test_board_add(n->b, "ide-cd", second, "drive", "cd", NULL);
    device_reset(n->ide);
    pci_bus_assign_resources(i440fx_bus(n->host), 0xc000, 0x10000, 0xe0000000, 0xfea00000, NULL);
    PciDevice *pci = PCI_DEVICE(n->ide);
    pci_bus_config_write(i440fx_bus(n->host), pci->devfn, PCI_COMMAND, 5, 2);
    n->bm = (uint16_t)pci->regions[4].addr;
    g_assert_cmphex(n->bm, !=, 0xffff);
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

/* Lets the loop run until the selected drive is not busy; its status. */
static uint8_t wait_ready(Bench *n, uint16_t base)
{
    for (int i = 0; i < 10000 && (test_inb(n->b, base == 0x1f0 ? 0x3f6 : 0x376) & BSY); i++) {
        if (!loop_iterate(n->b->loop, false)) {
            g_usleep(50);
        }
    }
    uint8_t status = test_inb(n->b, base == 0x1f0 ? 0x3f6 : 0x376);
    g_assert_false(status & BSY);
    return status;
}

static void command(Bench *n, uint8_t code, uint32_t lba, uint8_t count)
{
    test_outb(n->b, 0x1f6, 0xe0 | (lba >> 24 & 15));
    test_outb(n->b, 0x1f2, count);
    test_outb(n->b, 0x1f3, lba);
    test_outb(n->b, 0x1f4, lba >> 8);
    test_outb(n->b, 0x1f5, lba >> 16);
    test_outb(n->b, 0x1f7, code);
}

static void command48(Bench *n, uint8_t code, uint64_t lba, uint16_t count)
{
    const uint16_t ports[] = { 0x1f2, 0x1f3, 0x1f4, 0x1f5 };
    const uint8_t high[] = { count >> 8, lba >> 24, lba >> 32, lba >> 40 };
    const uint8_t low[] = { count, lba, lba >> 8, lba >> 16 };
    test_outb(n->b, 0x1f6, 0xe0);
    for (int i = 0; i < 4; i++) {
        test_outb(n->b, ports[i], high[i]);
        test_outb(n->b, ports[i], low[i]);
    }
    test_outb(n->b, 0x1f7, code);
}

static void read_words(Bench *n, uint16_t base, uint8_t *to, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 2) {
        uint16_t word = test_in(n->b, base, 2);
        memcpy(to + i, &word, 2);
    }
}

static void check_file(Bench *n, uint32_t sector, const uint8_t *data, uint32_t bytes)
{
    g_autofree char *content = NULL;
    gsize length;
    g_assert_true(g_file_get_contents(n->disk_path, &content, &length, NULL));
    g_assert_cmpmem(content + sector * 512, bytes, data, bytes);
}

static void test_identify(void)
{
    Bench n;
    uint16_t w[256];
    bench_new(&n);
    command(&n, 0xec, 0, 0);
    g_assert_cmphex(wait_ready(&n, 0x1f0) & (DRQ | ERR), ==, DRQ);
    g_assert_true(n.b->isa[14].level);
    test_inb(n.b, 0x1f7);
    g_assert_false(n.b->isa[14].level);
    read_words(&n, 0x1f0, (uint8_t *)w, sizeof(w));
    g_assert_cmphex(test_inb(n.b, 0x1f7), ==, 0x50);
    g_assert_cmphex(w[10], ==, 'S' << 8 | '1');
    g_assert_cmphex(w[27], ==, 'Q' << 8 | 'E');
    g_assert_cmpuint(w[60] | (uint32_t)w[61] << 16, ==, SECTORS);
    g_assert_cmpuint(w[100], ==, SECTORS);
    /* The second unit is not there; a CD-ROM refuses, and shows its signature. */
    test_outb(n.b, 0x1f6, 0xf0);
    g_assert_cmphex(test_inb(n.b, 0x1f7), ==, 0);
    test_outb(n.b, 0x176, 0xa0);
    test_outb(n.b, 0x177, 0xec);
    g_assert_cmphex(wait_ready(&n, 0x170) & ERR, ==, ERR);
    g_assert_cmphex(test_inb(n.b, 0x174), ==, 0x14);
    g_assert_cmphex(test_inb(n.b, 0x175), ==, 0xeb);
    bench_free(&n);
}

static void test_pio(void)
{
    Bench n;
    uint8_t data[4 * 512];
    bench_new(&n);
    command(&n, 0x20, 5, 3);
    for (unsigned sector = 0; sector < 3; sector++) {
        g_assert_cmphex(wait_ready(&n, 0x1f0) & (DRQ | ERR), ==, DRQ);
        g_assert_true(n.b->isa[14].level);
        test_inb(n.b, 0x1f7);
        read_words(&n, 0x1f0, data, 512);
        for (unsigned i = 0; i < 512; i++) {
            g_assert_cmphex(data[i], ==, expected((5 + sector) * 512 + i));
        }
    }
    g_assert_cmphex(wait_ready(&n, 0x1f0) & DRQ, ==, 0);
    g_assert_cmphex(test_inb(n.b, 0x1f3), ==, 7); /* the last sector */
    /* Writing: the first block at once, the next with an interrupt; 32-bit data. */
    command(&n, 0x30, 10, 2);
    for (unsigned sector = 0; sector < 2; sector++) {
        g_assert_cmphex(wait_ready(&n, 0x1f0) & DRQ, ==, DRQ);
        test_inb(n.b, 0x1f7);
        for (unsigned i = 0; i < 128; i++) {
            test_out(n.b, 0x1f0, 4, sector * 1000 + i);
        }
    }
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x50);
    g_assert_true(n.b->isa[14].level);
    uint32_t words[256];
    for (unsigned i = 0; i < 256; i++) {
        words[i] = i / 128 * 1000 + i % 128;
    }
    check_file(&n, 10, (const uint8_t *)words, sizeof(words));
    /* Blocks of four sectors. */
    command(&n, 0xc6, 0, 4);
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x50);
    command(&n, 0xc4, 100, 6);
    wait_ready(&n, 0x1f0);
    read_words(&n, 0x1f0, data, 4 * 512);
    g_assert_cmphex(data[2047], ==, expected(100 * 512 + 2047));
    g_assert_cmphex(test_inb(n.b, 0x3f6) & DRQ, ==, DRQ);
    read_words(&n, 0x1f0, data, 2 * 512);
    g_assert_cmphex(test_inb(n.b, 0x3f6) & DRQ, ==, 0);
    g_assert_cmphex(data[1023], ==, expected(105 * 512 + 511));
    /* Cylinder, head, sector: 16 heads, 63 sectors. */
    test_outb(n.b, 0x1f6, 0xa1);
    test_outb(n.b, 0x1f2, 1);
    test_outb(n.b, 0x1f3, 2);
    test_outb(n.b, 0x1f4, 1);
    test_outb(n.b, 0x1f5, 0);
    test_outb(n.b, 0x1f7, 0x20);
    wait_ready(&n, 0x1f0);
    read_words(&n, 0x1f0, data, 512);
    g_assert_cmphex(data[0], ==, expected(((1 * 16 + 1) * 63 + 1) * 512));
    bench_free(&n);
}

static void test_errors(void)
{
    Bench n;
    bench_new(&n);
    command(&n, 0x20, SECTORS - 1, 2);
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x51);
    g_assert_cmphex(test_inb(n.b, 0x1f1), ==, 0x14);
    command48(&n, 0x24, UINT64_C(0xffffffffffff), 0);
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x51);
    command(&n, 0xb0, 0, 0); /* no SMART */
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x51);
    g_assert_cmphex(test_inb(n.b, 0x1f1), ==, 0x04);
    command(&n, 0xc4, 0, 1); /* no block size was set */
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x51);
    /* A reset in the middle of a read: nothing of it is left. */
    command(&n, 0x20, 0, 255);
    test_outb(n.b, 0x3f6, 4);
    g_assert_cmphex(test_inb(n.b, 0x3f6) & BSY, ==, BSY);
    test_outb(n.b, 0x3f6, 0);
    g_assert_cmphex(test_inb(n.b, 0x3f6), ==, 0x50);
    test_board_advance(n.b, 1000000);
    g_usleep(2000);
    test_board_advance(n.b, 1000000);
    g_assert_cmphex(test_inb(n.b, 0x3f6), ==, 0x50);
    g_assert_cmphex(test_inb(n.b, 0x1f1), ==, 1);
    g_assert_cmphex(test_inb(n.b, 0x1f2), ==, 1);
    /* No interrupt while it is switched off. */
    test_outb(n.b, 0x3f6, 2);
    command(&n, 0xe7, 0, 0);
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x50);
    g_assert_false(n.b->isa[14].level);
    bench_free(&n);
}

static void descriptor(Bench *n, unsigned index, uint32_t address, uint16_t size, bool last)
{
    test_write(n->b, TABLE + 8 * index, 4, address);
    test_write(n->b, TABLE + 8 * index + 4, 4, size | (last ? 0x80000000u : 0));
}

static void bus_master(Bench *n, unsigned channel, uint8_t command)
{
    uint16_t bm = n->bm + 8 * channel;
    test_outb(n->b, bm, 0);
    test_out(n->b, bm + 4, 4, TABLE);
    test_outb(n->b, bm + 2, 6);
    test_outb(n->b, bm, command & 8);
    test_outb(n->b, bm, command);
}

static void test_dma(void)
{
    Bench n;
    bench_new(&n);
    /* 300 sectors, in more than one piece, over uneven parts of memory. */
    descriptor(&n, 0, DATA, 1000, false);
    descriptor(&n, 1, DATA + 1000, 0, false); /* 64 KiB */
    descriptor(&n, 2, DATA + 1000 + 0x10000, 0, false);
    descriptor(&n, 3, DATA + 1000 + 0x20000, 300 * 512 - 1000 - 0x20000 - 2, false);
    descriptor(&n, 4, DATA + 300 * 512 - 2, 2, true);
    command48(&n, 0x25, 700, 300);
    g_assert_cmphex(test_inb(n.b, 0x3f6) & (BSY | DRQ), ==, DRQ); /* waits for the start */
    bus_master(&n, 0, 9);
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x50);
    g_assert_true(n.b->isa[14].level);
    g_assert_cmphex(test_inb(n.b, n.bm + 2) & 7, ==, 4);
    for (unsigned i = 0; i < 300 * 512; i += 97) {
        g_assert_cmphex(test_read(n.b, DATA + i, 1), ==, expected(700 * 512 + i));
    }
    /* Back to another place, with the engine started first. */
    descriptor(&n, 0, DATA, 1024, true);
    bus_master(&n, 0, 1);
    command(&n, 0xca, 20, 2);
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x50);
    uint8_t data[1024];
    address_space_read(n.b->memory, DATA, MEMTXATTRS_NONE, data, sizeof(data));
    check_file(&n, 20, data, sizeof(data));
    /* A list that is too short, and one outside of memory, are errors. */
    bus_master(&n, 0, 9);
    command(&n, 0xc8, 0, 4);
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x51);
    g_assert_cmphex(test_inb(n.b, n.bm + 2) & 3, ==, 2);
    descriptor(&n, 0, 0xd0000000, 1024, true);
    bus_master(&n, 0, 9);
    command(&n, 0xc8, 0, 2);
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x51);
    /* The wrong way round. */
    descriptor(&n, 0, DATA, 1024, true);
    bus_master(&n, 0, 1);
    command(&n, 0xc8, 0, 2);
    g_assert_cmphex(wait_ready(&n, 0x1f0), ==, 0x51);
    bench_free(&n);
}

static void packet(Bench *n, const uint8_t bytes[12], uint16_t limit, bool dma)
{
    test_outb(n->b, 0x176, 0xa0);
    test_outb(n->b, 0x171, dma);
    test_outb(n->b, 0x174, limit);
    test_outb(n->b, 0x175, limit >> 8);
    test_outb(n->b, 0x177, 0xa0);
    g_assert_cmphex(wait_ready(n, 0x170) & DRQ, ==, DRQ);
    g_assert_cmphex(test_inb(n->b, 0x172) & 3, ==, 1);
    for (int i = 0; i < 12; i += 2) {
        test_out(n->b, 0x170, 2, bytes[i] | bytes[i + 1] << 8);
    }
}

/* Reads all that a packet command sends; its size. */
static uint32_t packet_data(Bench *n, uint8_t *to, uint32_t room)
{
    uint32_t total = 0;
    while (wait_ready(n, 0x170) & DRQ) {
        g_assert_cmphex(test_inb(n->b, 0x172) & 3, ==, 2);
        uint32_t size = test_inb(n->b, 0x174) | test_inb(n->b, 0x175) << 8;
        g_assert_cmpuint(total + size, <=, room);
        read_words(n, 0x170, to + total, size);
        total += size;
    }
    g_assert_cmphex(test_inb(n->b, 0x172) & 3, ==, 3);
    return total;
}

static void test_cd(void)
{
    Bench n;
    uint8_t data[8192];
    bench_new(&n);
    /* After a reset: unit attention, once. */
    packet(&n, (uint8_t[12]){ 0x00 }, 0, false);
    g_assert_cmphex(wait_ready(&n, 0x170), ==, 0x51);
    g_assert_cmphex(test_inb(n.b, 0x171) >> 4, ==, 6);
    packet(&n, (uint8_t[12]){ 0x03, 0, 0, 0, 18 }, 18, false);
    g_assert_cmpuint(packet_data(&n, data, sizeof(data)), ==, 18);
    g_assert_cmphex(data[2], ==, 6);
    g_assert_cmphex(data[12], ==, 0x29);
    packet(&n, (uint8_t[12]){ 0x00 }, 0, false);
    g_assert_cmphex(wait_ready(&n, 0x170), ==, 0x50);
    packet(&n, (uint8_t[12]){ 0x12, 0, 0, 0, 36 }, 0xfffe, false);
    g_assert_cmpuint(packet_data(&n, data, sizeof(data)), ==, 36);
    g_assert_cmphex(data[0], ==, 5);
    packet(&n, (uint8_t[12]){ 0x25 }, 8, false);
    packet_data(&n, data, sizeof(data));
    g_assert_cmpuint(data[3], ==, CD_SECTORS - 1);
    g_assert_cmpuint(data[6], ==, 8);
    packet(&n, (uint8_t[12]){ 0x43, 0, 0, 0, 0, 0, 0, 0, 20 }, 20, false);
    g_assert_cmpuint(packet_data(&n, data, sizeof(data)), ==, 20);
    g_assert_cmphex(data[14], ==, 0xaa);
    g_assert_cmpuint(data[19], ==, CD_SECTORS);
    /* Two sectors in blocks of 1000 bytes. */
    packet(&n, (uint8_t[12]){ 0x28, 0, 0, 0, 0, 7, 0, 0, 2 }, 1000, false);
    g_assert_cmpuint(packet_data(&n, data, sizeof(data)), ==, 4096);
    for (unsigned i = 0; i < 4096; i++) {
        g_assert_cmphex(data[i], ==, expected(7 * 2048 + i));
    }
    /* Beyond the end. */
    packet(&n, (uint8_t[12]){ 0xa8, 0, 0, 0, 0, 99, 0, 0, 0, 2 }, 0, false);
    g_assert_cmphex(wait_ready(&n, 0x170), ==, 0x51);
    g_assert_cmphex(test_inb(n.b, 0x171) >> 4, ==, 5);
    /* By bus mastering. */
    descriptor(&n, 0, DATA, 4096, true);
    packet(&n, (uint8_t[12]){ 0x28, 0, 0, 0, 0, 50, 0, 0, 2 }, 0, true);
    bus_master(&n, 1, 9);
    g_assert_cmphex(wait_ready(&n, 0x170), ==, 0x50);
    g_assert_true(n.b->isa[15].level);
    g_assert_cmphex(test_read(n.b, DATA + 4095, 1), ==, expected(50 * 2048 + 4095));
    /* An open tray has no medium; a locked one stays shut. */
    packet(&n, (uint8_t[12]){ 0x1e, 0, 0, 0, 1 }, 0, false);
    packet(&n, (uint8_t[12]){ 0x1b, 0, 0, 0, 2 }, 0, false);
    g_assert_cmphex(wait_ready(&n, 0x170), ==, 0x51);
    packet(&n, (uint8_t[12]){ 0x1e }, 0, false);
    packet(&n, (uint8_t[12]){ 0x1b, 0, 0, 0, 2 }, 0, false);
    g_assert_cmphex(wait_ready(&n, 0x170), ==, 0x50);
    packet(&n, (uint8_t[12]){ 0x00 }, 0, false);
    g_assert_cmphex(wait_ready(&n, 0x170), ==, 0x51);
    g_assert_cmphex(test_inb(n.b, 0x171) >> 4, ==, 2);
    packet(&n, (uint8_t[12]){ 0xff }, 0, false);
    g_assert_cmphex(wait_ready(&n, 0x170), ==, 0x51);
    bench_free(&n);
}

/* Saved with a command under way, another machine's drive ends it. */
static void test_state(void)
{
    Bench a, b;
    GError *error = NULL;
    uint8_t data[512];
    bench_new(&a);
    command(&a, 0x20, 5, 2);
    wait_ready(&a, 0x1f0);
    read_words(&a, 0x1f0, data, 100);
    g_autoptr(GByteArray) drive = vmstate_save(DEVICE_GET_CLASS(a.disk)->vmstate, a.disk, &error);
    g_autoptr(GByteArray) controller = vmstate_save(DEVICE_GET_CLASS(a.ide)->vmstate, a.ide, &error);
    g_assert_no_error(error);
    bench_free(&a);
    bench_new(&b);
    vmstate_load(DEVICE_GET_CLASS(b.ide)->vmstate, b.ide, controller->data, controller->len, &error);
    vmstate_load(DEVICE_GET_CLASS(b.disk)->vmstate, b.disk, drive->data, drive->len, &error);
    g_assert_no_error(error);
    g_assert_true(b.b->isa[14].level);
    read_words(&b, 0x1f0, data, 412);
    g_assert_cmphex(data[411], ==, expected(5 * 512 + 511));
    read_words(&b, 0x1f0, data, 512);
    g_assert_cmphex(data[511], ==, expected(6 * 512 + 511));
    /* Between command and answer. */
    command(&b, 0x20, 9, 1);
    g_autoptr(GByteArray) busy = vmstate_save(DEVICE_GET_CLASS(b.disk)->vmstate, b.disk, &error);
    test_outb(b.b, 0x3f6, 4);
    test_outb(b.b, 0x3f6, 0);
    vmstate_load(DEVICE_GET_CLASS(b.disk)->vmstate, b.disk, busy->data, busy->len, &error);
    g_assert_no_error(error);
    g_assert_cmphex(test_inb(b.b, 0x3f6) & BSY, ==, BSY);
    g_assert_cmphex(wait_ready(&b, 0x1f0) & DRQ, ==, DRQ);
    read_words(&b, 0x1f0, data, 512);
    g_assert_cmphex(data[3], ==, expected(9 * 512 + 3));
    bench_free(&b);
}

static void test_refusals(void)
{
    Bench n;
    GError *error = NULL;
    bench_new(&n);
    Bus *bus = bus_find(n.b->root, TYPE_IDE_BUS, "ide.0", NULL);
    Device *dev = device_new_unattached(n.b->root, "ide-hd", NULL);
    g_assert_false(device_realize(dev, bus, NULL, &error));
    g_assert_cmpstr(error->message, ==, "drive property not set");
    g_clear_error(&error);
    object_unparent(OBJECT(dev));
    dev = device_new_unattached(n.b->root, "ide-cd", NULL);
    object_property_parse(OBJECT(dev), "unit", "0", &error);
    g_assert_false(device_realize(dev, bus, NULL, &error));
    g_assert_nonnull(strstr(error->message, "unit 0 is in use"));
    g_clear_error(&error);
    object_unparent(OBJECT(dev));
    g_autofree char *path = BUS_GET_CLASS(n.disk->bus)->device_path(n.disk);
    g_assert_cmpstr(path, ==, "drive@0/disk@0");
    bench_free(&n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ide/identify", test_identify);
    g_test_add_func("/ide/pio", test_pio);
    g_test_add_func("/ide/errors", test_errors);
    g_test_add_func("/ide/dma", test_dma);
    g_test_add_func("/ide/cd", test_cd);
    g_test_add_func("/ide/state", test_state);
    g_test_add_func("/ide/refusals", test_refusals);
    return g_test_run();
}
