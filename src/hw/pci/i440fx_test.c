/* The host bridge: configuration ports, shadow RAM, SMRAM. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/pci/i440fx.h"

typedef struct Fixture {
    TestBoard *board;
    MemoryRegion pci, rom, smram;
    AddressSpace *smm;
    Device *host;
} Fixture;

static Fixture *setup(const char *preset)
{
    Fixture *f = g_new0(Fixture, 1);
    GError *error = NULL;
    f->board = test_board_new();
    memory_region_init(&f->pci, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&f->board->memory_root, 0, &f->pci, -1);
    g_assert_true(memory_region_init_rom(&f->rom, NULL, "bios", 0x10000, &error));
    memset(f->rom.ram->host, 0xb1, 0x10000);
    memory_region_add(&f->pci, 0xf0000, &f->rom);
    memory_region_init(&f->smram, NULL, "smram", UINT64_MAX);
    f->smm = address_space_new(&f->smram, "smm");
    f->host = device_new_unattached(f->board->root, TYPE_I440FX_HOST, NULL);
    i440fx_set_memory(f->host, &f->board->ram, &f->pci, &f->smram);
    object_property_parse(OBJECT(f->host), "firmware-preset", preset, &error);
    g_assert_true(device_realize(f->host, NULL, &f->board->env, &error));
    device_reset(f->host);
    return f;
}

static void teardown(Fixture *f)
{
    device_unrealize_all(f->board->root);
    address_space_free(f->smm);
    memory_region_destroy(&f->smram);
    memory_region_del(&f->pci, &f->rom);
    memory_region_destroy(&f->rom);
    test_board_free(f->board);
    memory_region_destroy(&f->pci);
    g_free(f);
}

static void config_write(Fixture *f, unsigned reg, uint8_t value)
{
    test_out(f->board, 0xcf8, 4, 0x80000000u | (reg & 0xfc));
    test_outb(f->board, 0xcfc + (reg & 3), value);
}

static void test_ports(void)
{
    Fixture *f = setup("off");
    test_out(f->board, 0xcf8, 4, 0x80000000u);
    g_assert_cmphex(test_in(f->board, 0xcf8, 4), ==, 0x80000000u);
    g_assert_cmphex(test_in(f->board, 0xcfc, 4), ==, 0x12378086);
    g_assert_cmphex(test_in(f->board, 0xcfe, 2), ==, 0x1237);
    test_out(f->board, 0xcf8, 4, 0); /* not enabled */
    g_assert_cmphex(test_in(f->board, 0xcfc, 4), ==, 0xffffffff);
    test_out(f->board, 0xcf8, 4, 0x80000800u); /* no such function */
    g_assert_cmphex(test_in(f->board, 0xcfc, 4), ==, 0xffffffff);
    test_out(f->board, 0xcf8, 4, 0x80010000u); /* no such bus */
    g_assert_cmphex(test_in(f->board, 0xcfc, 4), ==, 0xffffffff);
    test_outb(f->board, 0xcf8, 0x12); /* bytes do not reach the latch */
    g_assert_cmphex(test_in(f->board, 0xcf8, 4), ==, 0x80010000u);
    teardown(f);
}

static void test_shadow(void)
{
    Fixture *f = setup("off");
    TestBoard *b = f->board;
    g_assert_cmphex(test_read(b, 0xf1000, 1), ==, 0xb1); /* ROM */
    test_write(b, 0xf1000, 1, 0x11);
    g_assert_cmphex(b->ram.ram->host[0xf1000], ==, 0);
    config_write(f, 0x59, 0x20); /* writes go to RAM, reads still to ROM */
    test_write(b, 0xf1000, 4, 0x22222222);
    g_assert_cmphex(test_read(b, 0xf1000, 1), ==, 0xb1);
    g_assert_cmphex(b->ram.ram->host[0xf1003], ==, 0x22);
    config_write(f, 0x59, 0x10); /* RAM, read-only */
    g_assert_cmphex(test_read(b, 0xf1000, 1), ==, 0x22);
    test_write(b, 0xf1000, 1, 0x33);
    g_assert_cmphex(test_read(b, 0xf1000, 1), ==, 0x22);
    config_write(f, 0x59, 0x30);
    test_write(b, 0xf1000, 1, 0x33);
    g_assert_cmphex(test_read(b, 0xf1000, 1), ==, 0x33);
    g_assert_cmphex(test_read(b, 0xc4000, 1), ==, 0xff);
    config_write(f, 0x5a, 0x30); /* 0xc4000, and only that */
    test_write(b, 0xc4000, 1, 0x44);
    g_assert_cmphex(test_read(b, 0xc4000, 1), ==, 0x44);
    g_assert_cmphex(test_read(b, 0xc0000, 1), ==, 0xff);
    g_assert_cmphex(test_read(b, 0xc8000, 1), ==, 0xff);
    device_reset(f->host);
    g_assert_cmphex(test_read(b, 0xf1000, 1), ==, 0xb1);
    teardown(f);
    f = setup("on");
    test_write(f->board, 0xe8000, 1, 0x55); /* as firmware leaves it: RAM all over */
    g_assert_cmphex(test_read(f->board, 0xe8000, 1), ==, 0x55);
    g_assert_cmphex(test_read(f->board, 0xf1000, 1), ==, 0);
    teardown(f);
}

static void test_smram(void)
{
    Fixture *f = setup("off");
    TestBoard *b = f->board;
    uint8_t byte = 0;
    b->ram.ram->host[0xa0000] = 0x5a;
    g_assert_cmphex(test_read(b, 0xa0000, 1), ==, 0xff); /* VGA's place */
    config_write(f, 0x72, 0x4a);                         /* open */
    g_assert_cmphex(test_read(b, 0xa0000, 1), ==, 0x5a);
    config_write(f, 0x72, 0x1a); /* closed, locked, enabled */
    g_assert_cmphex(test_read(b, 0xa0000, 1), ==, 0xff);
    g_assert_cmpint(address_space_read(f->smm, 0xa0000, MEMTXATTRS_NONE, &byte, 1), ==, MEMTX_OK);
    g_assert_cmphex(byte, ==, 0x5a);
    config_write(f, 0x72, 0x4a); /* too late */
    g_assert_cmphex(test_read(b, 0xa0000, 1), ==, 0xff);
    teardown(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/i440fx/ports", test_ports);
    g_test_add_func("/i440fx/shadow", test_shadow);
    g_test_add_func("/i440fx/smram", test_smram);
    return g_test_run();
}
