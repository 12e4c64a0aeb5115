/* The ICH9's LPC bridge: routing to both interrupt controllers, power management, the SCI, resets.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/isa/ich9_lpc.h"

#define LPC        PCI_DEVFN(0x1f, 0)
#define PM(offset) (ICH9_PM_BASE + (offset))

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
    TestBoard *b;
    PciBus *bus;
    Device *lpc, *low, *high;
} Fixture;

static Fixture *setup(const char *preset)
{
    Fixture *f = g_new0(Fixture, 1);
    TestBoard *b = f->b = test_board_new();
    f->bus =
        pci_root_bus_new(NULL, "pcie.0", &b->env, &b->memory_root, &b->io_root, b->memory, NULL, NULL, NULL);
    f->lpc = test_board_add(b, TYPE_ICH9_LPC, BUS(f->bus), "addr", "1f.0", "multifunction", "on",
                            "firmware-preset", preset, NULL);
    f->low = test_board_add(b, "toy-intx", BUS(f->bus), "addr", "2", NULL);     /* pin A: PIRQ G */
    f->high = test_board_add(b, "toy-intx", BUS(f->bus), "addr", "1f.3", NULL); /* pin A: PIRQ A */
    return f;
}

static void teardown(Fixture *f)
{
    test_board_free(f->b);
    g_free(f);
}

static void test_routing(void)
{
    Fixture *f = setup("on");
    TestBoard *b = f->b;
    g_assert_cmphex(pci_bus_config_read(f->bus, LPC, 0, 4), ==, 0x29188086);
    g_assert_cmpint(ich9_default_pirq(2, 0), ==, 6);
    g_assert_cmpint(ich9_default_pirq(0x1f, 3), ==, 3);
    g_assert_cmpint(ich9_default_pirq(30, 1), ==, 5);
    pci_set_irq(PCI_DEVICE(f->low), true);
    g_assert_true(b->gsi[22].level && b->isa[11].level);
    pci_bus_config_write(f->bus, LPC, 0x6a, 5, 1); /* PIRQ G */
    g_assert_true(!b->isa[11].level && b->isa[5].level && b->gsi[22].level);
    pci_bus_config_write(f->bus, LPC, 0x6a, 0x80, 1);
    g_assert_true(!b->isa[5].level && b->gsi[22].level);
    pci_set_irq(PCI_DEVICE(f->low), false);
    g_assert_false(b->gsi[22].level);
    /* Device 31's pins are where its route register says. */
    pci_set_irq(PCI_DEVICE(f->high), true);
    g_assert_true(b->gsi[16].level && b->isa[10].level);
    g_assert_cmphex(test_read(b, ICH9_RCBA + 0x3140, 2), ==, 0x3210);
    test_write(b, ICH9_RCBA + 0x3140, 2, 0x3213);
    g_assert_true(!b->gsi[16].level && b->gsi[19].level && b->isa[11].level && !b->isa[10].level);
    device_reset(f->lpc);
    g_assert_true(b->gsi[16].level && !b->gsi[19].level);
    teardown(f);
}

static void test_power(void)
{
    Fixture *f = setup("on");
    TestBoard *b = f->b;
    g_assert_cmphex(test_in(b, PM(4), 2), ==, 1);
    test_out(b, PM(2), 2, 0x0100);
    b->power_button(b->power_button_dev);
    g_assert_true(b->isa[9].level);
    pci_bus_config_write(f->bus, LPC, 0x44, 0x85, 1); /* the SCI goes to GSI 21 */
    g_assert_true(!b->isa[9].level && b->gsi[21].level);
    pci_bus_config_write(f->bus, LPC, 0x44, 0x80, 1);
    g_assert_true(b->isa[9].level && !b->gsi[21].level);
    test_out(b, PM(0), 2, 0x0100);
    g_assert_false(b->isa[9].level);
    /* General purpose events. */
    ich9_lpc_set_gpe(f->lpc, 9, true);
    g_assert_false(b->isa[9].level);
    test_out(b, PM(0x29), 1, 0x02);
    g_assert_true(b->isa[9].level);
    g_assert_cmphex(test_in(b, PM(0x20), 4), ==, 0x200);
    test_out(b, PM(0x21), 1, 0x02);
    g_assert_false(b->isa[9].level);
    /* SMI enable and its lock. */
    test_out(b, PM(0x30), 4, 0x21);
    g_assert_cmphex(test_in(b, PM(0x30), 4), ==, 0x21);
    pci_bus_config_write(f->bus, LPC, 0xa0, 0x10, 1);
    pci_bus_config_write(f->bus, LPC, 0xa0, 0x00, 1);
    test_out(b, PM(0x30), 4, 0x20);
    g_assert_cmphex(test_in(b, PM(0x30), 4), ==, 0x21);
    test_outb(b, 0xb2, ICH9_ACPI_DISABLE);
    g_assert_cmphex(test_in(b, PM(4), 2) & 1, ==, 0);
    g_assert_cmphex(test_in(b, PM(0x34), 4), ==, 0x20);
    test_outb(b, 0xb2, ICH9_ACPI_ENABLE);
    g_assert_cmphex(test_in(b, PM(4), 2) & 1, ==, 1);
    test_out(b, PM(4), 2, 0x2001);
    g_assert_cmpint(b->shutdowns, ==, 1);
    test_outb(b, 0xcf9, 0x06);
    g_assert_cmpint(b->resets, ==, 1);
    teardown(f);
}

static void test_base(void)
{
    Fixture *f = setup("off");
    TestBoard *b = f->b;
    g_assert_cmphex(test_in(b, PM(8), 4), ==, 0xffffffff);
    g_assert_cmpint(ich9_lpc_pm_base(f->lpc), ==, 0);
    pci_bus_config_write(f->bus, LPC, 0x40, 0xb001, 4);
    pci_bus_config_write(f->bus, LPC, 0x44, 0x80, 1);
    g_assert_cmphex(ich9_lpc_pm_base(f->lpc), ==, 0xb000);
    g_assert_cmphex(test_in(b, 0xb008, 4) & 0xff000000, ==, 0);
    g_assert_cmphex(test_read(b, 0xfed1c000 + 0x3140, 2), ==, 0xffff);
    pci_bus_config_write(f->bus, LPC, 0xf0, 0xfed1c001, 4);
    g_assert_cmphex(test_read(b, 0xfed1c000 + 0x3140, 4), ==, 0x00003210 | 0x3210u << 16);
    teardown(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ich9-lpc/routing", test_routing);
    g_test_add_func("/ich9-lpc/power", test_power);
    g_test_add_func("/ich9-lpc/base", test_base);
    return g_test_run();
}
