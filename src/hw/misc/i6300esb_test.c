/* The watchdog as Linux's driver uses it. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/pci/pci.h"

#define MEM 0xe0000000u

static TestBoard *b;
static MemoryRegion pci_memory;
static PciBus *bus;
static unsigned expired;
static bool irq;

static int no_irq(void *opaque, unsigned slot, int pin)
{
    return 0;
}

static void set_irq(void *opaque, int input, bool level)
{
    irq = level;
}

static void on_expired(void *opaque)
{
    expired++;
}

static void setup(void)
{
    b = test_board_new();
    b->vm.watchdog_expired = on_expired;
    memory_region_init(&pci_memory, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&b->memory_root, 0, &pci_memory, -1);
    bus =
        pci_root_bus_new(NULL, "pci.0", &b->env, &pci_memory, &b->io_root, b->memory, no_irq, set_irq, NULL);
    test_board_add(b, "i6300esb", BUS(bus), "addr", "3", NULL);
    pci_bus_config_write(bus, 0x18, 0x10, MEM, 4);
    pci_bus_config_write(bus, 0x18, PCI_COMMAND, 2, 2);
    expired = 0;
    irq = false;
}

static void teardown(void)
{
    device_unrealize_all(b->root);
    memory_region_del(&b->memory_root, &pci_memory);
    test_board_free(b);
    memory_region_destroy(&pci_memory);
}

static void write_unlocked(unsigned offset, uint32_t value, unsigned size)
{
    test_write(b, MEM + 0xc, 1, 0x80);
    test_write(b, MEM + 0xc, 1, 0x86);
    test_write(b, MEM + offset, size, value);
}

static void test_stages(void)
{
    setup();
    write_unlocked(0, 1000, 4); /* about a second: 2^15 / 33 MHz is 0.993 ms */
    write_unlocked(4, 2000, 4);
    test_write(b, MEM, 4, 5); /* without the key */
    g_assert_cmpuint(test_read(b, MEM, 4), ==, 1000);
    pci_bus_config_write(bus, 0x18, 0x68, 2, 1);
    test_board_advance(b, 900000000);
    g_assert_false(irq);
    write_unlocked(0xc, 0x100, 2); /* the guest is alive */
    test_board_advance(b, 900000000);
    g_assert_false(irq);
    test_board_advance(b, 200000000);
    g_assert_true(irq);
    test_write(b, MEM + 8, 4, 1);
    g_assert_false(irq);
    g_assert_cmpuint(expired, ==, 0);
    test_board_advance(b, 2000000000);
    g_assert_cmpuint(expired, ==, 1);
    g_assert_cmphex(test_read(b, MEM + 0xc, 2), ==, 0x200);
    device_reset_all(b->root); /* what it does to the machine; the next driver is told */
    pci_bus_config_write(bus, 0x18, 0x10, MEM, 4);
    pci_bus_config_write(bus, 0x18, PCI_COMMAND, 2, 2);
    g_assert_cmphex(test_read(b, MEM + 0xc, 2), ==, 0x200);
    write_unlocked(0xc, 0x200, 2);
    g_assert_cmphex(test_read(b, MEM + 0xc, 2), ==, 0);
    test_board_advance(b, 20000000000);
    g_assert_cmpuint(expired, ==, 1); /* it stands still */
    teardown();
}

static void test_modes(void)
{
    setup();
    write_unlocked(0, 1000, 4);
    write_unlocked(4, 1000, 4);
    pci_bus_config_write(bus, 0x18, 0x60, 0x23, 2); /* no interrupt, no reboot */
    pci_bus_config_write(bus, 0x18, 0x68, 3, 1);    /* on, and locked */
    pci_bus_config_write(bus, 0x18, 0x68, 0, 1);
    g_assert_cmphex(pci_bus_config_read(bus, 0x18, 0x68, 1), ==, 3);
    test_board_advance(b, 1500000000);
    test_board_advance(b, 1500000000);
    g_assert_false(irq);
    g_assert_cmpuint(expired, ==, 0);
    g_assert_cmphex(test_read(b, MEM + 0xc, 2), ==, 0x200);
    device_reset_all(b->root);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/i6300esb/stages", test_stages);
    g_test_add_func("/i6300esb/modes", test_modes);
    return g_test_run();
}
