/* The UART behind a PCI function: its ports move with the BAR, its interrupt is the pin's, it comes and goes.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "chardev/chardev.h"
#include "hw/pci/pci.h"

#define PORTS 0xc000
#define DEVFN PCI_DEVFN(3, 0)

static TestBoard *b;
static ChardevRegistry *chardevs;
static MemoryRegion pci_memory;
static PciBus *bus;
static Device *card;
static bool irq;

static int no_irq(void *opaque, unsigned slot, int pin)
{
    return 0;
}

static void set_irq(void *opaque, int input, bool level)
{
    irq = level;
}

static void setup(void)
{
    GError *error = NULL;
    b = test_board_new();
    chardevs = chardev_registry_new(b->loop, NULL);
    chardev_property_set_registry(chardevs);
    g_assert_nonnull(chardev_add_text(chardevs, "ringbuf,id=ring,size=1024", &error));
    memory_region_init(&pci_memory, NULL, "pci", UINT64_MAX);
    bus =
        pci_root_bus_new(NULL, "pci.0", &b->env, &pci_memory, &b->io_root, b->memory, no_irq, set_irq, NULL);
    card = test_board_add(b, "pci-serial", BUS(bus), "addr", "3", "chardev", "ring", NULL);
    irq = false;
    pci_bus_config_write(bus, DEVFN, 0x10, PORTS, 4);
    pci_bus_config_write(bus, DEVFN, PCI_COMMAND, 1, 2);
}

static void teardown(void)
{
    device_unrealize_all(b->root);
    chardev_property_set_registry(NULL);
    chardev_registry_free(chardevs);
    test_board_free(b);
    memory_region_destroy(&pci_memory);
}

static void expect_output(const char *want)
{
    size_t count = 0;
    GError *error = NULL;
    while (loop_iterate(b->loop, false)) {}
    g_autofree char *text = chardev_ringbuf_read(chardevs, "ring", 1024, &count, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(text, count, want, strlen(want));
}

static void test_identity(void)
{
    setup();
    g_assert_cmphex(pci_bus_config_read(bus, DEVFN, 0, 4), ==, 0x00021b36);
    g_assert_cmphex(pci_bus_config_read(bus, DEVFN, 8, 4), ==,
                    0x07000201); /* a serial controller like a 16550 */
    g_assert_cmphex(pci_bus_config_read(bus, DEVFN, PCI_INTERRUPT_PIN, 1), ==, 1);
    pci_bus_config_write(bus, DEVFN, 0x10, 0xffffffff, 4);
    g_assert_cmphex(pci_bus_config_read(bus, DEVFN, 0x10, 4), ==, 0xfffffff9); /* eight ports */
    teardown();
}

static void test_line(void)
{
    setup();
    test_outb(b, PORTS, 'h');
    test_outb(b, PORTS, 'i');
    expect_output("hi");
    g_assert_cmphex(test_inb(b, PORTS + 5), ==, 0x60);
    /* The transmitter's interrupt is the function's pin, and a masked pin is silent. */
    test_outb(b, PORTS + 1, 2);
    g_assert_true(irq);
    pci_bus_config_write(bus, DEVFN, PCI_COMMAND, 1 | 0x400, 2);
    g_assert_false(irq);
    pci_bus_config_write(bus, DEVFN, PCI_COMMAND, 1, 2);
    g_assert_true(irq);
    g_assert_cmphex(test_inb(b, PORTS + 2), ==, 0x02); /* reading it takes it back */
    g_assert_false(irq);
    /* Loopback feeds the receiver. */
    test_outb(b, PORTS + 4, 0x10);
    test_outb(b, PORTS + 1, 1);
    test_outb(b, PORTS, 'x');
    g_assert_true(irq);
    g_assert_cmphex(test_inb(b, PORTS), ==, 'x');
    g_assert_false(irq);
    expect_output("");
    teardown();
}

static void test_ports_move(void)
{
    setup();
    pci_bus_config_write(bus, DEVFN, 0x10, PORTS + 0x100, 4);
    test_outb(b, PORTS + 0x107, 0x5a);
    g_assert_cmphex(test_inb(b, PORTS + 0x107), ==, 0x5a);
    g_assert_cmphex(test_inb(b, PORTS + 7), ==, 0xff); /* nothing is left there */
    pci_bus_config_write(bus, DEVFN, PCI_COMMAND, 0, 2);
    g_assert_cmphex(test_inb(b, PORTS + 0x107), ==, 0xff);
    teardown();
}

/* It goes with its interrupt raised and output that nobody took, and leaves its chardev to the next one. */
static void test_comes_and_goes(void)
{
    GError *error = NULL;
    setup();
    for (unsigned i = 0; i < 3; i++) {
        test_outb(b, PORTS + 1, 2);
        g_assert_true(irq);
        device_unplug_done(card);
        while (loop_iterate(b->loop, false)) {}
        g_assert_false(irq);
        g_assert_cmphex(pci_bus_config_read(bus, DEVFN, 0, 4), ==, 0xffffffff);
        card = test_board_add(b, "pci-serial", BUS(bus), "addr", "3", "chardev", "ring", NULL);
        pci_bus_config_write(bus, DEVFN, 0x10, PORTS, 4);
        pci_bus_config_write(bus, DEVFN, PCI_COMMAND, 1, 2);
        test_outb(b, PORTS, 'a' + i);
    }
    g_assert_no_error(error);
    expect_output("abc");
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pci-serial/identity", test_identity);
    g_test_add_func("/pci-serial/line", test_line);
    g_test_add_func("/pci-serial/ports-move", test_ports_move);
    g_test_add_func("/pci-serial/comes-and-goes", test_comes_and_goes);
    return g_test_run();
}
