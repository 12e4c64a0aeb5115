/* The PIIX3: routing of a function's INTx, the reset port. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/isa/isa.h"
#include "hw/isa/piix3.h"

static bool toy_realize(PciDevice *dev, GError **error)
{
    dev->config[PCI_INTERRUPT_PIN] = 1;
    return true;
}

static void toy_class_init(ObjectClass *klass, const void *data)
{
    PCI_DEVICE_CLASS(klass)->vendor_id = 0x1234;
    PCI_DEVICE_CLASS(klass)->realize = toy_realize;
}

static const TypeInfo toy_info = { .name = "toy-intx",
                                   .parent = TYPE_PCI_DEVICE,
                                   .class_init = toy_class_init };
TYPE_REGISTER(toy_info);

typedef struct Fixture {
    TestBoard *board;
    PciBus *bus;
    Device *piix3, *toy;
} Fixture;

static Fixture *setup(const char *preset)
{
    Fixture *f = g_new0(Fixture, 1);
    TestBoard *b = f->board = test_board_new();
    f->bus =
        pci_root_bus_new(NULL, "pci.0", &b->env, &b->memory_root, &b->io_root, b->memory, NULL, NULL, NULL);
    f->piix3 = test_board_add(b, TYPE_PIIX3, BUS(f->bus), "addr", "1.0", "multifunction", "on",
                              "firmware-preset", preset, NULL);
    f->toy = test_board_add(b, "toy-intx", BUS(f->bus), "addr", "1.1", NULL);
    return f;
}

static void teardown(Fixture *f)
{
    test_board_free(f->board);
    g_free(f);
}

static void test_routing(void)
{
    Fixture *f = setup("on");
    TestBoard *b = f->board;
    PciDevice *toy = PCI_DEVICE(f->toy); /* slot 1, pin A: PIRQ A */
    g_assert_cmphex(pci_bus_config_read(f->bus, PCI_DEVFN(1, 0), 0, 4), ==, 0x70008086);
    g_assert_cmphex(pci_bus_config_read(f->bus, PCI_DEVFN(1, 0), 0x60, 4), ==, 0x0b0b0a0a);
    pci_set_irq(toy, true);
    g_assert_true(b->isa[10].level);
    pci_bus_config_write(f->bus, PCI_DEVFN(1, 0), 0x60, 5, 1);
    g_assert_true(!b->isa[10].level && b->isa[5].level);
    pci_bus_config_write(f->bus, PCI_DEVFN(1, 0), 0x60, 0x80, 1);
    g_assert_false(b->isa[5].level);
    pci_bus_config_write(f->bus, PCI_DEVFN(1, 0), 0x60, 0xffffffff, 4);
    g_assert_cmphex(pci_bus_config_read(f->bus, PCI_DEVFN(1, 0), 0x60, 4), ==, 0x8f8f8f8f);
    pci_bus_config_write(f->bus, PCI_DEVFN(1, 0), 0x60, 11, 1);
    g_assert_true(b->isa[11].level);
    device_reset(f->toy);
    g_assert_false(b->isa[11].level);
    g_assert_cmpint(piix3_firmware_line(toy, 0), ==, 10);
    g_assert_nonnull(object_dynamic_cast(OBJECT(piix3_isa_bus(f->piix3)), TYPE_ISA_BUS));
    teardown(f);
    f = setup("off");
    g_assert_cmphex(pci_bus_config_read(f->bus, PCI_DEVFN(1, 0), 0x60, 4), ==, 0x80808080);
    teardown(f);
}

static void test_reset_port(void)
{
    Fixture *f = setup("off");
    TestBoard *b = f->board;
    test_outb(b, 0xcf9, 0x02);
    g_assert_cmphex(test_inb(b, 0xcf9), ==, 0x02);
    g_assert_cmpint(b->resets, ==, 0);
    test_outb(b, 0xcf9, 0x06);
    g_assert_cmpint(b->resets, ==, 1);
    g_assert_cmpint(b->cause, ==, SHUTDOWN_GUEST_RESET);
    teardown(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/piix3/routing", test_routing);
    g_test_add_func("/piix3/reset-port", test_reset_port);
    return g_test_run();
}
