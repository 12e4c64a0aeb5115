/* PCI functions: sizing, decoding, INTx, MSI, MSI-X, bus mastering, state. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/pci/pci.h"
#include "vmstate/vmstate.h"

#define MSI_TARGET 0x3000 /* messages to RAM, where the test can see them */

typedef struct ToyPci {
    PciDevice parent_obj;
    MemoryRegion memory, io;
    uint32_t reg;
} ToyPci;
#define TOY(obj) OBJECT_CHECK(ToyPci, obj, "toy-pci")

static uint64_t toy_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0x1000 + offset;
}

static void toy_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    ((ToyPci *)opaque)->reg = value;
}

static const MemoryRegionOps toy_ops = { .read = toy_read, .write = toy_write };

static bool toy_realize(PciDevice *dev, GError **error)
{
    ToyPci *s = TOY(dev);
    dev->config[PCI_INTERRUPT_PIN] = 1;
    memory_region_init_io(&s->memory, s, &toy_ops, s, "toy-memory", 0x10000, &DEVICE(dev)->lock);
    memory_region_init_io(&s->io, s, &toy_ops, s, "toy-io", 32, &DEVICE(dev)->lock);
    pci_register_bar(dev, 0, PCI_BAR_IO, &s->io);
    pci_register_bar(dev, 2, PCI_BAR_MEM64 | PCI_BAR_PREFETCH, &s->memory);
    return pci_msix_init_exclusive(dev, 4, 1, error) && pci_msi_init(dev, 4, true, error);
}

static void toy_unrealize(PciDevice *dev)
{
    memory_region_destroy(&TOY(dev)->memory);
    memory_region_destroy(&TOY(dev)->io);
}

static void toy_class_init(ObjectClass *klass, const void *data)
{
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x1234;
    pc->device_id = 0x5678;
    pc->class_id = PCI_CLASS_OTHERS;
    pc->realize = toy_realize;
    pc->unrealize = toy_unrealize;
}

static const TypeInfo toy_info = { .name = "toy-pci",
                                   .parent = TYPE_PCI_DEVICE,
                                   .instance_size = sizeof(ToyPci),
                                   .class_init = toy_class_init };
TYPE_REGISTER(toy_info);

typedef struct Fixture {
    TestBoard *board;
    PciBus *bus;
    bool input[4];
    PciDevice *dev;
} Fixture;

static Fixture *current;

static int map_irq(void *opaque, unsigned slot, int pin)
{
    return (slot + pin) & 3;
}

static void set_irq(void *opaque, int input, bool level)
{
    current->input[input] = level;
}

static Fixture *setup(void)
{
    Fixture *f = current = g_new0(Fixture, 1);
    f->board = test_board_new();
    f->bus = pci_root_bus_new(NULL, "pci.0", &f->board->env, &f->board->memory_root, &f->board->io_root,
                              f->board->memory, map_irq, set_irq, f);
    f->dev = PCI_DEVICE(test_board_add(f->board, "toy-pci", BUS(f->bus), "addr", "3", NULL));
    return f;
}

static void teardown(Fixture *f)
{
    test_board_free(f->board);
    g_free(f);
}

static uint32_t get(Fixture *f, unsigned at, unsigned size)
{
    return pci_bus_config_read(f->bus, f->dev->devfn, at, size);
}

static void set(Fixture *f, unsigned at, unsigned size, uint32_t value)
{
    pci_bus_config_write(f->bus, f->dev->devfn, at, value, size);
}

static void test_header(void)
{
    Fixture *f = setup();
    g_assert_cmphex(get(f, 0, 4), ==, 0x56781234);
    g_assert_cmphex(get(f, 0x2c, 4), ==, 0x11001af4);
    g_assert_cmphex(get(f, 0xb, 1), ==, 0);
    set(f, 0, 4, 0xffffffff); /* read-only */
    g_assert_cmphex(get(f, 0, 4), ==, 0x56781234);
    g_assert_cmphex(pci_bus_config_read(f->bus, PCI_DEVFN(9, 0), 0, 2), ==, 0xffff);
    g_assert_cmphex(get(f, 0xfe, 4), ==, 0xffffffff); /* beyond the end */
    teardown(f);
}

static void test_bars(void)
{
    Fixture *f = setup();
    set(f, 0x10, 4, 0xffffffff);
    g_assert_cmphex(get(f, 0x10, 4), ==, 0xffffffe1);
    set(f, 0x18, 4, 0xffffffff);
    set(f, 0x1c, 4, 0xffffffff);
    g_assert_cmphex(get(f, 0x18, 4), ==, 0xffff000c);
    g_assert_cmphex(get(f, 0x1c, 4), ==, 0xffffffff);
    set(f, 0x10, 4, 0xc000);
    set(f, 0x18, 4, 0x23450000);
    set(f, 0x1c, 4, 0x1);
    g_assert_cmphex(test_in(f->board, 0xc004, 4), ==, 0xffffffff); /* not decoded yet */
    set(f, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    g_assert_cmphex(test_in(f->board, 0xc004, 4), ==, 0x1004);
    g_assert_cmphex(test_read(f->board, 0x123450008, 4), ==, 0x1008);
    test_write(f->board, 0x123450000, 4, 0xabcd);
    g_assert_cmphex(TOY(f->dev)->reg, ==, 0xabcd);
    set(f, 0x10, 4, 0xd000); /* moves while it is on */
    g_assert_cmphex(test_in(f->board, 0xc004, 4), ==, 0xffffffff);
    g_assert_cmphex(test_in(f->board, 0xd004, 4), ==, 0x1004);
    set(f, 0x10, 4, 0xfffff000); /* not in 64 KiB of ports */
    g_assert_cmphex(test_in(f->board, 0xd004, 4), ==, 0xffffffff);
    device_reset(DEVICE(f->dev));
    g_assert_cmphex(get(f, 0x18, 4), ==, 0xc);
    g_assert_cmphex(test_read(f->board, 0x123450008, 4), ==, 0xffffffff);
    pci_bus_assign_resources(f->bus, 0xc000, 0x10000, 0xe0000000, 0xfe000000, NULL);
    g_assert_cmphex(get(f, 0x10, 4), ==, 0xc001);
    g_assert_cmphex(test_read(f->board, (get(f, 0x18, 4) & ~15u) + 4, 4), ==, 0x1004);
    teardown(f);
}

static void test_intx(void)
{
    Fixture *f = setup();
    PciDevice *other = PCI_DEVICE(test_board_add(f->board, "toy-pci", BUS(f->bus), "addr", "7", NULL));
    pci_set_irq(f->dev, true);
    g_assert_true(f->input[3]);
    g_assert_true(get(f, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
    pci_set_irq(other, true); /* shares the input */
    pci_set_irq(f->dev, false);
    g_assert_true(f->input[3]);
    pci_set_irq(other, false);
    g_assert_false(f->input[3]);
    pci_set_irq(f->dev, true);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    g_assert_false(f->input[3]);
    set(f, PCI_COMMAND, 2, 0);
    g_assert_true(f->input[3]);
    device_reset(DEVICE(f->dev));
    g_assert_false(f->input[3]);
    teardown(f);
}

static unsigned find_capability(Fixture *f, uint8_t id)
{
    unsigned at = get(f, PCI_CAPABILITY_LIST, 1);
    for (int i = 0; at && i < 48; i++) {
        if (get(f, at, 1) == id) {
            return at;
        }
        at = get(f, at + 1, 1);
    }
    return 0;
}

static void test_msix(void)
{
    Fixture *f = setup();
    unsigned cap = find_capability(f, PCI_CAP_MSIX);
    g_assert_cmpuint(cap, !=, 0);
    g_assert_cmphex(get(f, cap + 2, 2), ==, 3);
    g_assert_cmphex(get(f, cap + 4, 4), ==, 1);
    g_assert_cmphex(get(f, cap + 8, 4), ==, 0x801);
    set(f, 0x14, 4, 0xe0000000);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    g_assert_cmphex(test_read(f->board, 0xe000000c, 4), ==, 1); /* masked */
    test_write(f->board, 0xe0000010, 4, MSI_TARGET);
    test_write(f->board, 0xe0000014, 4, 0);
    test_write(f->board, 0xe0000018, 4, 0x55aa);
    set(f, cap + 2, 2, PCI_MSIX_ENABLE);
    g_assert_true(pci_msix_enabled(f->dev));
    pci_msix_notify(f->dev, 1); /* masked still */
    g_assert_cmphex(test_read(f->board, MSI_TARGET, 4), ==, 0);
    g_assert_cmphex(test_read(f->board, 0xe0000800, 8), ==, 2);
    test_write(f->board, 0xe000001c, 4, 0);
    g_assert_cmphex(test_read(f->board, MSI_TARGET, 4), ==, 0x55aa);
    g_assert_cmphex(test_read(f->board, 0xe0000800, 8), ==, 0);
    test_write(f->board, MSI_TARGET, 4, 0);
    set(f, cap + 2, 2, PCI_MSIX_ENABLE | PCI_MSIX_FUNCTION_MASK);
    pci_msix_notify(f->dev, 1);
    g_assert_cmphex(test_read(f->board, MSI_TARGET, 4), ==, 0);
    set(f, cap + 2, 2, PCI_MSIX_ENABLE);
    g_assert_cmphex(test_read(f->board, MSI_TARGET, 4), ==, 0x55aa);
    test_write(f->board, MSI_TARGET, 4, 0);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY); /* no bus master, no message */
    pci_msix_notify(f->dev, 1);
    pci_msix_notify(f->dev, 1000);
    g_assert_cmphex(test_read(f->board, MSI_TARGET, 4), ==, 0);
    teardown(f);
}

/* ---- messages with routes of their own ---- */

typedef struct FakeRoutes {
    unsigned made, freed, sent, delivered;
    uint32_t last;
    bool none, fails;
} FakeRoutes;

static FakeRoutes fake_routes;

static ApicRoute *fake_route_new(void *opaque)
{
    fake_routes.made++;
    return fake_routes.none ? NULL : (ApicRoute *)&fake_routes;
}

static bool fake_route_send(ApicRoute *route, uint64_t address, uint32_t data)
{
    g_assert_true(route == (ApicRoute *)&fake_routes);
    g_assert_cmphex(address, ==, 0xfee00000u);
    fake_routes.sent += !fake_routes.fails;
    fake_routes.last = data;
    return !fake_routes.fails;
}

static void fake_route_free(ApicRoute *route)
{
    fake_routes.freed++;
}

static void fake_deliver(void *opaque, const ApicMessage *message)
{
    fake_routes.delivered++;
    fake_routes.last = message->vector;
}

static void write_vector(Fixture *f, uint32_t address, uint32_t data, uint32_t control)
{
    test_write(f->board, 0xe0000010, 4, address);
    test_write(f->board, 0xe0000014, 4, 0);
    test_write(f->board, 0xe0000018, 4, data);
    test_write(f->board, 0xe000001c, 4, control);
}

static void test_msix_routes(void)
{
    ApicRemote remote = { .deliver = fake_deliver,
                          .route_new = fake_route_new,
                          .route_send = fake_route_send,
                          .route_free = fake_route_free };
    Fixture *f = setup();
    fake_routes = (FakeRoutes){ .made = 0 };
    apic_bus_set_remote(f->board->apic_bus, &remote);
    unsigned cap = find_capability(f, PCI_CAP_MSIX);
    set(f, 0x14, 4, 0xe0000000);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    set(f, cap + 2, 2, PCI_MSIX_ENABLE);
    write_vector(f, 0xfee00000, 0x41, 1);
    pci_msix_notify(f->dev, 1);
    g_assert_cmpuint(fake_routes.made, ==, 0); /* masked */
    write_vector(f, 0xfee00000, 0x42, 0);
    g_assert_cmpuint(fake_routes.sent, ==, 1); /* what was pending */
    pci_msix_notify(f->dev, 1);
    g_assert_cmpuint(fake_routes.made, ==, 1);
    g_assert_cmpuint(fake_routes.sent, ==, 2);
    g_assert_cmphex(fake_routes.last, ==, 0x42);
    fake_routes.fails = true; /* then it goes as any other */
    pci_msix_notify(f->dev, 1);
    g_assert_cmpuint(fake_routes.delivered, ==, 1);
    fake_routes.fails = false;
    set(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY); /* no bus master, no message */
    pci_msix_notify(f->dev, 1);
    g_assert_cmpuint(fake_routes.sent + fake_routes.delivered, ==, 3);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    write_vector(f, MSI_TARGET, 0x77, 0); /* not to a local APIC */
    pci_msix_notify(f->dev, 1);
    g_assert_cmphex(test_read(f->board, MSI_TARGET, 4), ==, 0x77);
    g_assert_cmpuint(fake_routes.sent, ==, 2);
    teardown(f);
    g_assert_cmpuint(fake_routes.freed, ==, 1);
}

static void test_msi(void)
{
    Fixture *f = setup();
    unsigned cap = find_capability(f, PCI_CAP_MSI);
    g_assert_cmpuint(cap, !=, 0);
    g_assert_cmphex(get(f, cap + 2, 2), ==, 2 << 1 | PCI_MSI_64BIT);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    set(f, cap + 4, 4, MSI_TARGET);
    set(f, cap + 12, 2, 0x4440);
    pci_msi_notify(f->dev, 0);
    g_assert_cmphex(test_read(f->board, MSI_TARGET, 4), ==, 0);
    set(f, cap + 2, 2, PCI_MSI_ENABLE | 2 << 4);
    pci_msi_notify(f->dev, 3);
    g_assert_cmphex(test_read(f->board, MSI_TARGET, 4), ==, 0x4443);
    teardown(f);
}

static void test_bus_master(void)
{
    Fixture *f = setup();
    uint32_t value = 0x12345678;
    g_assert_cmpint(address_space_write(f->dev->dma_as, 0x2000, MEMTXATTRS_DMA, &value, 4), !=, MEMTX_OK);
    g_assert_cmphex(test_read(f->board, 0x2000, 4), ==, 0);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    g_assert_cmpint(address_space_write(f->dev->dma_as, 0x2000, MEMTXATTRS_DMA, &value, 4), ==, MEMTX_OK);
    g_assert_cmphex(test_read(f->board, 0x2000, 4), ==, 0x12345678);
    teardown(f);
}

static void test_addresses(void)
{
    Fixture *f = setup();
    Device *dev = device_new_unattached(f->board->root, "toy-pci", NULL);
    GError *error = NULL;
    g_assert_true(object_property_parse(OBJECT(dev), "addr", "3", &error));
    g_assert_false(device_realize(dev, BUS(f->bus), NULL, &error));
    g_assert_nonnull(
        strstr(error->message, "slot 3 function 0 not available for toy-pci, in use by toy-pci"));
    g_clear_error(&error);
    g_assert_true(object_property_parse(OBJECT(dev), "addr", "3.1", &error));
    g_assert_false(device_realize(dev, BUS(f->bus), NULL, &error));
    g_assert_nonnull(strstr(error->message, "single function device"));
    g_clear_error(&error);
    g_assert_false(object_property_parse(OBJECT(dev), "addr", "32", &error));
    g_clear_error(&error);
    g_assert_false(object_property_parse(OBJECT(dev), "addr", "1.8", &error));
    g_clear_error(&error);
    g_assert_true(object_property_parse(OBJECT(dev), "addr", "0x1f.7", &error));
    g_assert_cmphex(PCI_DEVICE(dev)->devfn, ==, 0xff);
    g_assert_true(device_realize(dev, BUS(f->bus), NULL, &error));
    g_assert_false(object_property_parse(OBJECT(dev), "addr", "5", &error)); /* too late */
    g_clear_error(&error);
    Device *first_free = test_board_add(f->board, "toy-pci", BUS(f->bus), NULL);
    g_assert_cmphex(PCI_DEVICE(first_free)->devfn, ==, 0);
    device_unrealize(dev);
    g_assert_cmphex(pci_bus_config_read(f->bus, 0xff, 0, 2), ==, 0xffff);
    teardown(f);
}

static void test_state(void)
{
    Fixture *f = setup();
    set(f, 0x18, 4, 0x23450000);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci_set_irq(f->dev, true);
    GError *error = NULL;
    g_autoptr(GByteArray) saved = vmstate_save(&pci_device_vmstate, f->dev, &error);
    g_assert_no_error(error);
    device_reset(DEVICE(f->dev));
    g_assert_cmphex(test_read(f->board, 0x23450008, 4), ==, 0xffffffff);
    g_assert_true(vmstate_load(&pci_device_vmstate, f->dev, saved->data, saved->len, &error));
    g_assert_cmphex(test_read(f->board, 0x23450008, 4), ==, 0x1008);
    g_assert_true(f->input[3]);
    teardown(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pci/header", test_header);
    g_test_add_func("/pci/bars", test_bars);
    g_test_add_func("/pci/intx", test_intx);
    g_test_add_func("/pci/msix", test_msix);
    g_test_add_func("/pci/msix-routes", test_msix_routes);
    g_test_add_func("/pci/msi", test_msi);
    g_test_add_func("/pci/bus-master", test_bus_master);
    g_test_add_func("/pci/addresses", test_addresses);
    g_test_add_func("/pci/state", test_state);
    return g_test_run();
}
