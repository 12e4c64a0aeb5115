/* The Q35 host bridge and PCI Express root ports: configuration by memory, TSEG, windows, hot-plug.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/pci/pcie.h"
#include "hw/pci/q35.h"

#define ECAM                     0xb0000000u
#define ECAM_AT(bus, devfn, reg) (ECAM + ((uint64_t)(bus) << 20) + ((devfn) << 12) + (reg))
#define PORT_DEVFN               PCI_DEVFN(3, 0)

typedef struct Fixture {
    TestBoard *b;
    MemoryRegion pci_memory, smram_root, smram_view;
    AddressSpace *smm;
    Device *host;
    PciBus *bus;
} Fixture;

typedef struct Card {
    PciDevice parent_obj;
    MemoryRegion bar;
} Card;

static uint64_t card_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0x11223344;
}

static void card_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
}

static const MemoryRegionOps card_ops = { .read = card_read, .write = card_write };

static bool card_realize(PciDevice *dev, GError **error)
{
    Card *s = (Card *)dev;
    dev->config[PCI_INTERRUPT_PIN] = 1;
    memory_region_init_io(&s->bar, s, &card_ops, s, "card", 4096, &DEVICE(dev)->lock);
    pci_register_bar(dev, 0, PCI_BAR_MEM32, &s->bar);
    return true;
}

static void card_unrealize(PciDevice *dev)
{
    memory_region_destroy(&((Card *)dev)->bar);
}

static void card_class_init(ObjectClass *klass, const void *data)
{
    PCI_DEVICE_CLASS(klass)->vendor_id = 0x1234;
    PCI_DEVICE_CLASS(klass)->device_id = 0x5678;
    PCI_DEVICE_CLASS(klass)->realize = card_realize;
    PCI_DEVICE_CLASS(klass)->unrealize = card_unrealize;
}

static const TypeInfo card_info = { .name = "toy-card",
                                    .parent = TYPE_PCI_DEVICE,
                                    .instance_size = sizeof(Card),
                                    .class_init = card_class_init };
TYPE_REGISTER(card_info);

static Fixture *setup(const char *preset)
{
    Fixture *f = g_new0(Fixture, 1);
    TestBoard *b = f->b = test_board_new();
    GError *error = NULL;
    memory_region_init(&f->pci_memory, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&b->memory_root, 0, &f->pci_memory, -1);
    memory_region_init(&f->smram_root, NULL, "smram", UINT64_MAX);
    memory_region_init_alias(&f->smram_view, NULL, "in-smm", &b->memory_root, 0, UINT64_MAX);
    memory_region_add(&f->smram_root, 0, &f->smram_view);
    f->smm = address_space_new(&f->smram_root, "smm");
    f->host = device_new_unattached(b->root, TYPE_Q35_HOST, NULL);
    q35_set_memory(f->host, &b->ram, TEST_RAM_SIZE, &f->pci_memory, &f->smram_root);
    object_property_parse(OBJECT(f->host), "firmware-preset", preset, &error);
    g_assert_no_error(error);
    device_realize(f->host, NULL, &b->env, &error);
    g_assert_no_error(error);
    device_reset(f->host);
    f->bus = q35_bus(f->host);
    return f;
}

static void teardown(Fixture *f)
{
    device_unrealize_all(f->b->root);
    address_space_free(f->smm);
    memory_region_destroy(&f->smram_view);
    memory_region_destroy(&f->smram_root);
    test_board_free(f->b);
    memory_region_destroy(&f->pci_memory);
    g_free(f);
}

static void cfg(Fixture *f, unsigned bus, unsigned devfn, uint32_t reg, unsigned size, uint32_t value)
{
    pci_root_config_write(f->bus, bus, devfn, reg, value, size);
}

static uint32_t get(Fixture *f, unsigned bus, unsigned devfn, uint32_t reg, unsigned size)
{
    return pci_root_config_read(f->bus, bus, devfn, reg, size);
}

static void test_ecam(void)
{
    Fixture *f = setup("off");
    TestBoard *b = f->b;
    uint64_t base, size;
    g_assert_false(q35_ecam(f->host, &base, &size));
    g_assert_cmphex(test_read(b, ECAM, 4), ==, 0xffffffff);
    cfg(f, 0, 0, 0x64, 4, 0);
    cfg(f, 0, 0, 0x60, 4, ECAM | 1);
    g_assert_true(q35_ecam(f->host, &base, &size));
    g_assert_cmphex(base, ==, ECAM);
    g_assert_cmphex(size, ==, 0x10000000);
    g_assert_cmphex(test_read(b, ECAM, 4), ==, 0x29c08086);
    g_assert_cmphex(test_read(b, ECAM + 2, 2), ==, 0x29c0);
    g_assert_cmphex(test_read(b, ECAM_AT(0, PCI_DEVFN(5, 0), 0), 4), ==, 0xffffffff);
    g_assert_cmphex(test_read(b, ECAM_AT(7, 0, 0), 4), ==, 0xffffffff);
    /* The same registers by the ports. */
    test_write(b, ECAM + 0x90, 1, 0x30);
    test_out(b, 0xcf8, 4, 0x80000090);
    g_assert_cmphex(test_in(b, 0xcfc, 1), ==, 0x30);
    /* 64 MiB elsewhere; then a length that is reserved. */
    cfg(f, 0, 0, 0x60, 4, 0xc4000000 | 2 << 1 | 1);
    g_assert_cmphex(test_read(b, 0xc4000000, 4), ==, 0x29c08086);
    g_assert_cmphex(test_read(b, 0xc8000000, 4), ==, 0xffffffff);
    g_assert_cmphex(test_read(b, ECAM, 4), ==, 0xffffffff);
    cfg(f, 0, 0, 0x60, 4, ECAM | 3 << 1 | 1);
    g_assert_false(q35_ecam(f->host, &base, &size));
    teardown(f);
    f = setup("on");
    g_assert_cmphex(test_read(f->b, ECAM, 4), ==, 0x29c08086);
    teardown(f);
}

static void test_tseg(void)
{
    Fixture *f = setup("on");
    TestBoard *b = f->b;
    uint64_t last = TEST_RAM_SIZE - 0x1000, value;
    test_write(b, last, 4, 0xaabbccdd);
    cfg(f, 0, 0, 0x50, 2, 0xffff);
    g_assert_cmpint(get(f, 0, 0, 0x50, 2), ==, 16); /* how large the extended one is */
    cfg(f, 0, 0, 0x9d, 1, 0x08);                    /* G_SMRAME */
    cfg(f, 0, 0, 0x9e, 1, 0x01);                    /* 1 MiB */
    g_assert_cmphex(get(f, 0, 0, 0x9e, 1), ==, 0x39);
    g_assert_cmphex(test_read(b, last, 4), ==, 0xffffffff);
    test_write(b, last, 4, 0x12345678);
    address_space_load(f->smm, last, 4, &value, MEMTXATTRS_NONE);
    g_assert_cmphex(value, ==, 0xaabbccdd);
    g_assert_cmphex(test_read(b, TEST_RAM_SIZE - 0x100000 - 4, 4), ==, 0); /* below it all is as before */
    /* One that is larger than memory is none. */
    cfg(f, 0, 0, 0x9e, 1, 0x07);
    g_assert_cmphex(test_read(b, last, 4), ==, 0xaabbccdd);
    cfg(f, 0, 0, 0x9e, 1, 0x01);
    cfg(f, 0, 0, 0x9d, 1, 0x58); /* locked: D_OPEN falls, and nothing changes any more */
    g_assert_cmphex(get(f, 0, 0, 0x9d, 1), ==, 0x1a);
    cfg(f, 0, 0, 0x9d, 1, 0x00);
    cfg(f, 0, 0, 0x9e, 1, 0x00);
    g_assert_cmphex(test_read(b, last, 4), ==, 0xffffffff);
    device_reset(f->host);
    g_assert_cmphex(test_read(b, last, 4), ==, 0xaabbccdd);
    teardown(f);
}

static Device *add_port(Fixture *f, const char *hotplug)
{
    Device *port = test_board_add(f->b, "pcie-root-port", BUS(f->bus), "addr", "3", "slot", "5", "hotplug",
                                  hotplug, NULL);
    cfg(f, 0, PORT_DEVFN, PCI_PRIMARY_BUS, 4, 0x00020200); /* bus 2, and that only */
    cfg(f, 0, PORT_DEVFN, PCI_MEMORY_BASE, 4, 0xe000e000); /* 0xe0000000 to 0xe00fffff */
    cfg(f, 0, PORT_DEVFN, PCI_COMMAND, 2, 7);
    return port;
}

static Bus *port_bus(Device *port)
{
    return port->child_buses->pdata[0];
}

static void test_bridge(void)
{
    Fixture *f = setup("on");
    TestBoard *b = f->b;
    Device *port = add_port(f, "on");
    g_assert_cmphex(get(f, 0, PORT_DEVFN, 0x0a, 2), ==, 0x0604);
    g_assert_cmphex(get(f, 0, PORT_DEVFN, PCI_HEADER_TYPE, 1), ==, 1);
    Device *card = test_board_add(b, "toy-card", port_bus(port), NULL);
    g_assert_cmphex(get(f, 2, 0, 0, 4), ==, 0x56781234);
    g_assert_cmphex(test_read(b, ECAM_AT(2, 0, 0), 4), ==, 0x56781234);
    g_assert_cmphex(get(f, 1, 0, 0, 4), ==, 0xffffffff);
    g_assert_cmphex(get(f, 0, PORT_DEVFN, 0x100, 4), ==, 0); /* no extended capabilities */
    g_assert_cmphex(get(f, 2, 0, 0x100, 4), ==, 0xffffffff); /* no such space */
    cfg(f, 2, 0, PCI_BASE_ADDRESS_0, 4, 0xe0004000);
    cfg(f, 2, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    g_assert_cmphex(test_read(b, 0xe0004000, 4), ==, 0x11223344);
    cfg(f, 0, PORT_DEVFN, PCI_MEMORY_BASE, 4, 0xe010e010); /* the window moves away */
    g_assert_cmphex(test_read(b, 0xe0004000, 4), ==, 0xffffffff);
    cfg(f, 0, PORT_DEVFN, PCI_MEMORY_BASE, 4, 0x0000e000); /* its end lies below its beginning: closed */
    g_assert_cmphex(test_read(b, 0xe0004000, 4), ==, 0xffffffff);
    cfg(f, 0, PORT_DEVFN, PCI_MEMORY_BASE, 4, 0xe000e000);
    g_assert_cmphex(test_read(b, 0xe0004000, 4), ==, 0x11223344);
    cfg(f, 0, PORT_DEVFN, PCI_COMMAND, 2, 0);
    g_assert_cmphex(test_read(b, 0xe0004000, 4), ==, 0xffffffff);
    /* A reset of the bus reaches what is on it, later. */
    cfg(f, 0, PORT_DEVFN, PCI_BRIDGE_CONTROL, 2, PCI_BRIDGE_CONTROL_RESET);
    while (loop_iterate(b->loop, false)) {}
    g_assert_cmphex(get(f, 2, 0, PCI_BASE_ADDRESS_0, 4), ==, 0);
    /* There is slot 0 only. */
    GError *error = NULL;
    Device *other = device_new_unattached(b->root, "toy-card", NULL);
    object_property_parse(OBJECT(other), "addr", "1", &error);
    g_assert_false(device_realize(other, port_bus(port), NULL, &error));
    g_assert_nonnull(strstr(error->message, "slot 0"));
    g_clear_error(&error);
    (void)card;
    teardown(f);
}

/* A plain bridge behind a port: two hops for configuration, windows and interrupts. */
static unsigned last_input;
static bool last_level;

static int map_irq(void *opaque, unsigned slot, int pin)
{
    return (int)(slot + (unsigned)pin) & 7;
}

static void set_irq(void *opaque, int input, bool level)
{
    last_input = (unsigned)input;
    last_level = level;
}

static void test_two_bridges(void)
{
    Fixture *f = setup("on");
    GError *error = NULL;
    Device *port = add_port(f, "on");
    Device *none = device_new_unattached(f->b->root, "pci-bridge", NULL);
    g_assert_false(device_realize(none, port_bus(port), NULL, &error));
    g_assert_nonnull(strstr(error->message, "chassis"));
    g_clear_error(&error);
    Device *bridge = test_board_add(f->b, "pci-bridge", port_bus(port), "chassis_nr", "9", NULL);
    Device *card = test_board_add(f->b, "toy-card", port_bus(bridge), "addr", "6", NULL);
    pci_bus_set_irq_routing(f->bus, map_irq, set_irq, f);
    cfg(f, 0, PORT_DEVFN, PCI_SUBORDINATE_BUS, 1, 4);
    cfg(f, 2, 0, PCI_PRIMARY_BUS, 4, 0x00040402);
    g_assert_cmphex(get(f, 4, PCI_DEVFN(6, 0), 0, 4), ==, 0x56781234);
    g_assert_cmphex(get(f, 3, PCI_DEVFN(6, 0), 0, 4), ==, 0xffffffff);
    cfg(f, 2, 0, PCI_MEMORY_BASE, 4, 0xe000e000);
    cfg(f, 2, 0, PCI_COMMAND, 2, 7);
    cfg(f, 4, PCI_DEVFN(6, 0), PCI_BASE_ADDRESS_0, 4, 0xe0008000);
    cfg(f, 4, PCI_DEVFN(6, 0), PCI_COMMAND, 2, 2);
    g_assert_cmphex(test_read(f->b, 0xe0008000, 4), ==, 0x11223344);
    pci_set_irq(PCI_DEVICE(card),
                true); /* pin A of slot 6 is C; of slot 0, C again; of the port in slot 3: 5 */
    g_assert_cmpint(last_input, ==, 5);
    g_assert_true(last_level);
    pci_set_irq(PCI_DEVICE(card), false);
    g_assert_false(last_level);
    /* Numbers that make a circle end all the same. */
    cfg(f, 2, 0, PCI_PRIMARY_BUS, 4, 0x00ff0002);
    get(f, 0x77, 0, 0, 4);
    cfg(f, 0, PORT_DEVFN, PCI_PRIMARY_BUS, 4, 0x00ff0000);
    get(f, 0x77, 0, 0, 4);
    teardown(f);
}

static uint16_t slot_reg(Fixture *f, unsigned reg)
{
    PciDevice *port = f->bus->devices[PORT_DEVFN];
    return (uint16_t)get(f, 0, PORT_DEVFN, port->express_cap + reg, 2);
}

static void slot_set(Fixture *f, unsigned reg, uint16_t value)
{
    PciDevice *port = f->bus->devices[PORT_DEVFN];
    cfg(f, 0, PORT_DEVFN, port->express_cap + reg, 2, value);
}

static void test_hotplug(void)
{
    Fixture *f = setup("on");
    TestBoard *b = f->b;
    Device *port = add_port(f, "on");
    GError *error = NULL;
    g_assert_cmphex(get(f, 0, PORT_DEVFN, PCI_DEVICE(port)->express_cap + PCIE_SLOT_CAP, 4) >> 19, ==, 5);
    g_assert_false(slot_reg(f, PCIE_SLOT_STATUS) & PCIE_STATUS_PRESENT);
    g_assert_true(slot_reg(f, PCIE_SLOT_CONTROL) & PCIE_CONTROL_POWER_OFF);

    g_autoptr(QapiDeviceOptions) options = g_new0(QapiDeviceOptions, 1);
    options->driver = g_strdup("toy-card");
    options->id = g_strdup("card");
    options->bus = g_strdup(port_bus(port)->name);
    Device *card = device_create(b->root, NULL, options, true, NULL, &error);
    g_assert_no_error(error);
    g_assert_true(slot_reg(f, PCIE_SLOT_STATUS) & PCIE_STATUS_PRESENT);
    g_assert_true(slot_reg(f, PCIE_SLOT_STATUS) & PCIE_STATUS_PRESENCE_CHANGED);
    g_assert_true(slot_reg(f, PCIE_LINK_STATUS) & PCIE_LINK_ACTIVE);
    slot_set(f, PCIE_SLOT_STATUS, 0xffff);
    g_assert_cmphex(slot_reg(f, PCIE_SLOT_STATUS), ==, PCIE_STATUS_PRESENT);
    slot_set(f, PCIE_SLOT_CONTROL, PCIE_CONTROL_POWER_LED_ON | PCIE_CONTROL_ATTENTION_LED_OFF);
    g_assert_true(slot_reg(f, PCIE_SLOT_STATUS) & PCIE_STATUS_COMPLETED);

    g_assert_true(device_delete(b->root, "card", &error));
    g_assert_true(card->pending_unplug);
    g_assert_true(slot_reg(f, PCIE_SLOT_STATUS) & PCIE_STATUS_BUTTON);
    g_assert_false(device_delete(b->root, "card", &error));
    g_assert_nonnull(strstr(error->message, "process of unplug"));
    g_clear_error(&error);
    slot_set(f, PCIE_SLOT_CONTROL, PCIE_CONTROL_POWER_LED_BLINK);
    while (loop_iterate(b->loop, false)) {}
    g_assert_nonnull(device_find(b->root, "card"));
    slot_set(f, PCIE_SLOT_CONTROL, PCIE_CONTROL_POWER_LED_OFF | PCIE_CONTROL_POWER_OFF);
    while (loop_iterate(b->loop, false)) {}
    g_assert_null(device_find(b->root, "card"));
    g_assert_cmpstr(b->last_event, ==, "DEVICE_DELETED");
    g_assert_false(slot_reg(f, PCIE_SLOT_STATUS) & PCIE_STATUS_PRESENT);
    g_assert_false(slot_reg(f, PCIE_LINK_STATUS) & PCIE_LINK_ACTIVE);
    /* The root bus takes none. */
    g_free(options->bus);
    options->bus = g_strdup("pcie.0");
    g_assert_null(device_create(b->root, NULL, options, true, NULL, &error));
    g_assert_nonnull(strstr(error->message, "does not support hotplugging"));
    g_clear_error(&error);
    teardown(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/q35/ecam", test_ecam);
    g_test_add_func("/q35/tseg", test_tseg);
    g_test_add_func("/q35/bridge", test_bridge);
    g_test_add_func("/q35/two-bridges", test_two_bridges);
    g_test_add_func("/q35/hotplug", test_hotplug);
    return g_test_run();
}
