/* The ICH9's SMBus controller as Linux's i2c-i801 uses it. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/acpi/ich9_smb.h"
#include "hw/pci/pci.h"

#define IO    0x700u
#define DEVFN 0xfbu /* 1f.3 */

static TestBoard *b;
static MemoryRegion pci_memory;
static PciBus *bus;
static Device *dev;
static bool irq;

static int no_irq(void *opaque, unsigned slot, int pin)
{
    return pin;
}

static void set_irq(void *opaque, int input, bool level)
{
    g_assert_cmpint(input, ==, 1); /* INTB */
    irq = level;
}

static void setup(void)
{
    b = test_board_new();
    irq = false;
    memory_region_init(&pci_memory, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&b->memory_root, 0, &pci_memory, -1);
    bus =
        pci_root_bus_new(NULL, "pci.0", &b->env, &pci_memory, &b->io_root, b->memory, no_irq, set_irq, NULL);
    dev = test_board_add(b, TYPE_ICH9_SMB, BUS(bus), "addr", "1f.3", "multifunction", "on", "memory-size",
                         "1G", NULL);
    pci_bus_config_write(bus, DEVFN, 0x20, IO, 4);
    pci_bus_config_write(bus, DEVFN, PCI_COMMAND, 1, 2);
    g_assert_cmphex(test_inb(b, IO), ==, 0xff); /* not switched on yet */
    pci_bus_config_write(bus, DEVFN, 0x40, 1, 1);
}

static void teardown(void)
{
    device_unrealize_all(b->root);
    memory_region_del(&b->memory_root, &pci_memory);
    test_board_free(b);
    memory_region_destroy(&pci_memory);
}

static void start(uint8_t address, uint8_t control, uint8_t command)
{
    test_outb(b, IO, 0xfe);
    test_outb(b, IO + 3, command);
    test_outb(b, IO + 4, address);
    test_outb(b, IO + 2, 0x40 | control);
}

static void test_interrupt(void)
{
    setup();
    g_assert_cmphex(test_inb(b, IO), ==, 0);
    g_assert_cmphex(test_inb(b, IO), ==, 0x40); /* in use */
    test_outb(b, IO, 0x40);
    start(0xa1, 2 << 2, 2);
    g_assert_cmphex(test_inb(b, IO), ==, 2);
    g_assert_cmphex(test_inb(b, IO + 5), ==, 4);
    g_assert_false(irq);
    start(0xa1, 2 << 2 | 1, 3);
    g_assert_true(irq);
    g_assert_cmphex(pci_bus_config_read(bus, DEVFN, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, !=, 0);
    test_outb(b, IO, 2);
    g_assert_false(irq);
    start(0x61, 2 << 2 | 1, 0); /* nobody there */
    g_assert_true(irq);
    g_assert_cmphex(test_inb(b, IO) & 0x1e, ==, 4);
    pci_bus_config_write(bus, DEVFN, 0x40, 0, 1);
    g_assert_false(irq);
    teardown();
}

/* A block through the buffer, and the same byte by byte. */
static void test_block(void)
{
    uint8_t buffered[8], single[8];
    setup();
    test_outb(b, IO + 13, 2);
    start(0xa1, 5 << 2, 1); /* its first byte says that 8 follow */
    g_assert_cmphex(test_inb(b, IO) & 0xbe, ==, 2);
    g_assert_cmpuint(test_inb(b, IO + 5), ==, 8);
    test_inb(b, IO + 2);
    for (int i = 0; i < 8; i++) {
        buffered[i] = test_inb(b, IO + 7);
    }
    test_outb(b, IO + 13, 0);
    start(0xa1, 5 << 2, 1);
    for (int i = 0; i < 8; i++) {
        g_assert_cmphex(test_inb(b, IO) & 0xbe, ==, 0x80);
        single[i] = test_inb(b, IO + 7);
        g_assert_cmphex(test_inb(b, IO + 7), ==, single[i]); /* until it is taken */
        test_outb(b, IO, 0x80);
    }
    g_assert_cmphex(test_inb(b, IO) & 0xbe, ==, 2);
    g_assert_cmpmem(single, 8, buffered, 8);
    teardown();
}

static void test_i2c_read(void)
{
    setup();
    test_outb(b, IO + 6, 2); /* from there on */
    start(0xa1, 6 << 2, 0);
    static const uint8_t wanted[] = { 4, 13 };
    for (int i = 0; i < 40; i++) {
        g_assert_cmphex(test_inb(b, IO) & 0xbe, ==, 0x80);
        if (i < 2) {
            g_assert_cmphex(test_inb(b, IO + 7), ==, wanted[i]);
        }
        if (i == 39) {
            test_outb(b, IO + 2, 6 << 2 | 0x20); /* that was the last one */
        }
        test_outb(b, IO, 0x80);
    }
    g_assert_cmphex(test_inb(b, IO) & 0xbe, ==, 2);
    /* Given up in the middle. */
    start(0xa1, 6 << 2, 0);
    test_outb(b, IO + 2, 2);
    test_outb(b, IO, 0xfe);
    g_assert_cmphex(test_inb(b, IO) & 0xbe, ==, 0);
    /* Saved in the middle. */
    start(0xa1, 6 << 2, 0);
    GError *error = NULL;
    const VmState *vms = DEVICE_GET_CLASS(dev)->vmstate;
    g_autoptr(GByteArray) state = vmstate_save(vms, dev, &error);
    device_reset(dev);
    g_assert_true(vmstate_load(vms, dev, state->data, state->len, &error));
    test_outb(b, IO, 0x80);
    g_assert_cmphex(test_inb(b, IO) & 0xbe, ==, 0x80);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ich9-smb/interrupt", test_interrupt);
    g_test_add_func("/ich9-smb/block", test_block);
    g_test_add_func("/ich9-smb/i2c-read", test_i2c_read);
    return g_test_run();
}
