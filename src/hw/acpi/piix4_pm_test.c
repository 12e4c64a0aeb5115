/* The PIIX4's power management function. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/acpi/piix4_pm.h"

#define PM(offset) (PIIX4_PM_BASE + (offset))

typedef struct Fixture {
    TestBoard *board;
    PciBus *bus;
    Device *pm;
} Fixture;

static Fixture *setup(const char *preset)
{
    Fixture *f = g_new0(Fixture, 1);
    TestBoard *b = f->board = test_board_new();
    f->bus =
        pci_root_bus_new(NULL, "pci.0", &b->env, &b->memory_root, &b->io_root, b->memory, NULL, NULL, NULL);
    f->pm = test_board_add(b, TYPE_PIIX4_PM, BUS(f->bus), "addr", "1.3", "firmware-preset", preset,
                           "memory-size", "768M", NULL);
    return f;
}

static void teardown(Fixture *f)
{
    test_board_free(f->board);
    g_free(f);
}

static void test_power(void)
{
    Fixture *f = setup("on");
    TestBoard *b = f->board;
    g_assert_cmphex(test_in(b, PM(4), 2), ==, 1); /* SCI_EN */
    test_out(b, PM(2), 2, 0x0100);
    b->power_button(b->power_button_dev);
    g_assert_true(b->isa[9].level);
    g_assert_cmphex(test_in(b, PM(0), 2) & 0x100, ==, 0x100);
    test_out(b, PM(0), 2, 0x0100);
    g_assert_false(b->isa[9].level);
    test_out(b, PM(4), 2, 0x2001 | PIIX4_SLP_TYP_S5 << 10);
    g_assert_cmpint(b->shutdowns, ==, 1);
    g_assert_cmpint(b->cause, ==, SHUTDOWN_GUEST_SHUTDOWN);
    g_assert_cmphex(test_in(b, PM(4), 2) & 0x2000, ==, 0); /* SLP_EN reads as zero */
    test_out(b, PM(4), 2, 0x2001 | PIIX4_SLP_TYP_S3 << 10);
    g_assert_cmpint(b->suspends, ==, 1);
    test_outb(b, 0xb2, PIIX4_ACPI_DISABLE);
    g_assert_cmphex(test_in(b, PM(4), 2) & 1, ==, 0);
    test_outb(b, 0xb2, PIIX4_ACPI_ENABLE);
    g_assert_cmphex(test_in(b, PM(4), 2) & 1, ==, 1);
    test_outb(b, 0xb3, 0x42);
    g_assert_cmphex(test_inb(b, 0xb3), ==, 0x42);
    teardown(f);
}

enum { SMBUS = 0x700 };

static unsigned smbus(uint8_t address, unsigned protocol, uint8_t command, TestBoard *b)
{
    test_outb(b, SMBUS, 0x1e);
    test_outb(b, SMBUS + 3, command);
    test_outb(b, SMBUS + 4, address);
    test_outb(b, SMBUS + 2, (uint8_t)(0x40 | protocol << 2));
    return test_inb(b, SMBUS);
}

static void test_smbus(void)
{
    Fixture *f = setup("on");
    TestBoard *b = f->board;
    uint8_t sum = 0;
    for (unsigned i = 0; i < 63; i++) { /* 768 MiB: 512 and 256 */
        g_assert_cmphex(smbus(0xa1, 2, (uint8_t)i, b), ==, 2);
        sum = (uint8_t)(sum + test_inb(b, SMBUS + 5));
    }
    smbus(0xa1, 2, 63, b);
    g_assert_cmphex(test_inb(b, SMBUS + 5), ==, sum);
    smbus(0xa1, 3, 2, b); /* a word: SDRAM, rows */
    g_assert_cmphex(test_inb(b, SMBUS + 5), ==, 4);
    g_assert_cmphex(test_inb(b, SMBUS + 6), ==, 13);
    smbus(0xa1, 2, 31, b);
    g_assert_cmphex(test_inb(b, SMBUS + 5), ==, 0x80);
    smbus(0xa2, 1, 31, b); /* send the address, receive a byte */
    smbus(0xa3, 1, 0, b);
    g_assert_cmphex(test_inb(b, SMBUS + 5), ==, 0x40);
    g_assert_cmphex(smbus(0xa5, 0, 0, b), ==, 4); /* nobody there */
    g_assert_cmphex(smbus(0x11, 2, 0, b), ==, 4);
    g_assert_cmphex(smbus(0xa1, 5, 0, b), ==, 4); /* a block of 128 bytes cannot be */
    g_assert_cmphex(smbus(0xa1, 5, 1, b), ==, 2);
    g_assert_cmphex(test_inb(b, SMBUS + 5), ==, 8);
    test_inb(b, SMBUS + 2);
    g_assert_cmphex(test_inb(b, SMBUS + 7), ==, 4);
    g_assert_cmphex(test_inb(b, SMBUS + 7), ==, 13);
    for (unsigned i = 0; i < 100; i++) {
        test_outb(b, SMBUS + 7, 0xff);
    }
    g_assert_cmphex(smbus(0xa1, 7, 0, b), ==, 4); /* no such protocol */
    pci_bus_config_write(f->bus, 0x0b, 0xd2, 0, 1);
    g_assert_cmphex(test_inb(b, SMBUS + 4), ==, 0xff);
    teardown(f);
}

static void test_timer(void)
{
    Fixture *f = setup("on");
    TestBoard *b = f->board;
    uint32_t start = test_in(b, PM(8), 4);
    test_board_advance(b, 1000000000);
    uint32_t ticks = (test_in(b, PM(8), 4) - start) & 0xffffff;
    g_assert_cmpint(ticks, >=, 3579544);
    g_assert_cmpint(ticks, <=, 3579546);
    test_out(b, PM(0), 2, 1);
    test_out(b, PM(2), 2, 1); /* TMR_EN: the overflow of bit 23 is 2.3 s away at most */
    g_assert_false(b->isa[9].level);
    test_board_advance(b, 2400000000);
    g_assert_true(b->isa[9].level);
    g_assert_cmphex(test_in(b, PM(0), 2) & 1, ==, 1);
    test_out(b, PM(0), 2, 1);
    g_assert_false(b->isa[9].level);
    test_board_advance(b, 2400000000);
    g_assert_true(b->isa[9].level);
    teardown(f);
}

static void test_base(void)
{
    Fixture *f = setup("off");
    TestBoard *b = f->board;
    unsigned devfn = PCI_DEVFN(1, 3);
    g_assert_cmphex(pci_bus_config_read(f->bus, devfn, 0, 4), ==, 0x71138086);
    g_assert_cmphex(test_in(b, PM(8), 4), ==, 0xffffffff); /* not decoded */
    pci_bus_config_write(f->bus, devfn, 0x40, 0xb001, 4);
    pci_bus_config_write(f->bus, devfn, 0x80, 1, 1);
    g_assert_cmphex(test_in(b, 0xb004, 2), ==, 0);
    g_assert_cmphex(test_in(b, 0xb008, 4) & 0xff000000, ==, 0);
    test_out(b, PIIX4_GPE0_BASE + 2, 1, 0xff);
    g_assert_cmphex(test_in(b, PIIX4_GPE0_BASE, 4), ==, 0x00ff0000);
    device_reset(f->pm);
    g_assert_cmphex(test_in(b, 0xb004, 2), ==, 0xffff);
    teardown(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/piix4-pm/power", test_power);
    g_test_add_func("/piix4-pm/timer", test_timer);
    g_test_add_func("/piix4-pm/base", test_base);
    g_test_add_func("/piix4-pm/smbus", test_smbus);
    return g_test_run();
}
