/* The PCI transport, with virtio-rng behind it: capabilities, MSI-X, INTx, the window in configuration space,
 * the state. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/pci/pci.h"
#include "hw/virtio/virtio_device.h"
#include "tests/machine/test_board.h"

#define BAR4       0xe0000000u
#define BAR1       0xe0010000u
#define COMMON     BAR4
#define ISR        (BAR4 + 0x1000)
#define NOTIFY     (BAR4 + 0x3000)
#define MSI_TARGET 0x1000u
#define RINGS      0x2000u
#define BUFFER     0x8000u

typedef struct Fixture {
    TestBoard *board;
    PciBus *bus;
    PciDevice *dev;
    bool input[4];
    uint16_t avail;
} Fixture;

static int map_irq(void *opaque, unsigned slot, int pin)
{
    return (slot + pin) & 3;
}

static void set_irq(void *opaque, int input, bool level)
{
    ((Fixture *)opaque)->input[input] = level;
}

static uint32_t get(Fixture *f, unsigned at, unsigned size)
{
    return pci_bus_config_read(f->bus, (unsigned)f->dev->devfn, at, size);
}

static void set(Fixture *f, unsigned at, unsigned size, uint32_t value)
{
    pci_bus_config_write(f->bus, (unsigned)f->dev->devfn, at, value, size);
}

static uint64_t rd(Fixture *f, uint64_t addr, unsigned size)
{
    return address_space_ld(f->board->memory, addr, size, MEMTXATTRS_NONE);
}

static void wr(Fixture *f, uint64_t addr, unsigned size, uint64_t value)
{
    address_space_store(f->board->memory, addr, size, value, MEMTXATTRS_NONE);
}

static void map_bars(Fixture *f)
{
    set(f, 0x20, 4, BAR4);
    set(f, 0x24, 4, 0);
    set(f, 0x14, 4, BAR1);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static Fixture *setup_type(const char *type, const char *vectors)
{
    Fixture *f = g_new0(Fixture, 1);
    f->board = test_board_new();
    f->bus = pci_root_bus_new(NULL, "pci.0", &f->board->env, &f->board->memory_root, &f->board->io_root,
                              f->board->memory, map_irq, set_irq, f);
    f->dev = PCI_DEVICE(
        test_board_add(f->board, type, BUS(f->bus), "addr", "3", vectors ? "vectors" : NULL, vectors, NULL));
    map_bars(f);
    return f;
}

static Fixture *setup(const char *vectors)
{
    return setup_type("virtio-rng-pci", vectors);
}

static void teardown(Fixture *f)
{
    test_board_free(f->board);
    g_free(f);
}

/* The capability of a type (4.1.4); 0: none. */
static unsigned find_cap(Fixture *f, uint8_t type)
{
    for (unsigned at = get(f, PCI_CAPABILITY_LIST, 1); at; at = get(f, at + 1, 1)) {
        if (get(f, at, 1) == PCI_CAP_VENDOR && get(f, at + 3, 1) == type) {
            return at;
        }
    }
    return 0;
}

static void start(Fixture *f, uint16_t vector)
{
    wr(f, COMMON + 0x14, 1, 3);
    wr(f, COMMON + 0x08, 4, 1);
    wr(f, COMMON + 0x0c, 4, 1); /* VERSION_1 */
    wr(f, COMMON + 0x14, 1, 11);
    g_assert_cmphex(rd(f, COMMON + 0x14, 1), ==, 11);
    wr(f, COMMON + 0x16, 2, 0);
    wr(f, COMMON + 0x1a, 2, vector);
    wr(f, COMMON + 0x20, 4, RINGS);
    wr(f, COMMON + 0x24, 4, 0);
    wr(f, COMMON + 0x28, 8, RINGS + 0x400); /* whole 64 bit fields are fine too */
    wr(f, COMMON + 0x30, 4, RINGS + 0x800);
    wr(f, COMMON + 0x34, 4, 0);
    wr(f, COMMON + 0x1c, 2, 1);
    g_assert_cmphex(rd(f, COMMON + 0x1c, 2), ==, 1);
    wr(f, COMMON + 0x14, 1, 15);
    while (loop_iterate(f->board->loop, false)) {}
}

/* One buffer goes through the queue. */
static void fill(Fixture *f)
{
    wr(f, RINGS, 8, BUFFER);
    wr(f, RINGS + 8, 4, 32);
    wr(f, RINGS + 12, 4, 2);
    wr(f, RINGS + 0x404 + 2 * (f->avail % 8), 2, 0);
    wr(f, RINGS + 0x402, 2, ++f->avail);
    wr(f, NOTIFY, 2, 0);
    for (int i = 0; i < 1000 && rd(f, RINGS + 0x802, 2) != f->avail; i++) {
        loop_iterate(f->board->loop, false);
    }
    g_assert_cmpuint(rd(f, RINGS + 0x802, 2), ==, f->avail);
}

static void test_identity(void)
{
    Fixture *f = setup_type("virtio-rng-pci-non-transitional", NULL);
    g_assert_cmphex(get(f, 0, 4), ==, 0x10441af4);
    g_assert_cmphex(get(f, PCI_SUBSYSTEM_VENDOR_ID, 4), ==, 0x11001af4);
    g_assert_cmphex(get(f, PCI_REVISION_ID, 1), ==, 1);
    g_assert_cmphex(get(f, 0x10, 4), ==, 0);
    teardown(f);
    f = setup(NULL); /* transitional, on a conventional bus */
    g_assert_cmphex(get(f, 0, 4), ==, 0x10051af4);
    g_assert_cmphex(get(f, PCI_SUBSYSTEM_VENDOR_ID, 4), ==, 0x00041af4);
    g_assert_cmphex(get(f, PCI_REVISION_ID, 1), ==, 0);
    g_assert_cmphex(get(f, 0x10, 4), ==, 1);
    for (uint8_t type = 1; type <= 5; type++) {
        g_assert_cmpuint(find_cap(f, type), !=, 0);
    }
    unsigned notify = find_cap(f, 2);
    g_assert_cmphex(get(f, notify + 2, 1), ==, 20);
    g_assert_cmphex(get(f, notify + 4, 1), ==, 4);
    g_assert_cmphex(get(f, notify + 8, 4), ==, 0x3000);
    g_assert_cmphex(get(f, notify + 16, 4), ==, 4);
    g_assert_cmpuint(rd(f, COMMON + 0x12, 2), ==, 1);
    g_assert_cmpuint(rd(f, COMMON + 0x18, 2), ==, 8);
    wr(f, COMMON + 0x16, 2, 1); /* no such queue */
    g_assert_cmpuint(rd(f, COMMON + 0x18, 2), ==, 0);
    g_autoptr(GError) error = NULL;
    Object *backend = object_resolve_path_component(OBJECT(f->dev), "virtio-backend");
    g_assert_cmpstr(object_get_typename(backend), ==, "virtio-rng-device");
    uint64_t period = 0;
    g_assert_true(object_property_get_uint(OBJECT(f->dev), "period", &period, &error));
    g_assert_cmpuint(period, ==, 65536);
    teardown(f);
}

/* ---- the legacy interface ---- */

#define PORT        0xc000u
#define LEGACY_PAGE 0x10u /* the rings begin at 10000h */

static uint32_t in(Fixture *f, unsigned offset, unsigned size)
{
    return test_in(f->board, (uint16_t)(PORT + offset), size);
}

static void out(Fixture *f, unsigned offset, unsigned size, uint32_t value)
{
    test_out(f->board, (uint16_t)(PORT + offset), size, value);
}

static void legacy_start(Fixture *f, uint32_t features)
{
    f->avail = 0;
    address_space_set(f->board->memory, LEGACY_PAGE << 12, 0, 0x3000, MEMTXATTRS_NONE);
    out(f, 0x12, 1, 0);
    out(f, 0x12, 1, 3);
    out(f, 0x04, 4, features);
    out(f, 0x0e, 2, 0);
    g_assert_cmpuint(in(f, 0x0c, 2), ==, 8);
    g_assert_cmphex(in(f, 0x08, 4), ==, 0);
    out(f, 0x08, 4, LEGACY_PAGE);
    g_assert_cmphex(in(f, 0x08, 4), ==, LEGACY_PAGE);
    out(f, 0x12, 1, 7);
    g_assert_cmphex(in(f, 0x12, 1), ==, 7);
    while (loop_iterate(f->board->loop, false)) {}
}

/* One buffer through the queue: 8 descriptors, the available ring behind them, the used ring on the next
 * page. */
static void legacy_fill(Fixture *f)
{
    uint32_t rings = LEGACY_PAGE << 12;
    wr(f, rings, 8, BUFFER);
    wr(f, rings + 8, 4, 32);
    wr(f, rings + 12, 4, 2);
    wr(f, rings + 128 + 4 + 2 * (f->avail % 8), 2, 0);
    wr(f, rings + 128 + 2, 2, ++f->avail);
    out(f, 0x10, 2, 0);
    for (int i = 0; i < 1000 && rd(f, rings + 0x1002, 2) != f->avail; i++) {
        loop_iterate(f->board->loop, false);
    }
    g_assert_cmpuint(rd(f, rings + 0x1002, 2), ==, f->avail);
}

static void test_legacy(void)
{
    Fixture *f = setup_type("virtio-rng-pci-transitional", "0");
    set(f, 0x10, 4, PORT);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    uint32_t offered = in(f, 0x00, 4);
    g_assert_cmphex(offered, ==, 1u << 29 | 1u << 28 | 1u << 27);
    wr(f, COMMON + 0x00, 4, 0);
    g_assert_cmphex(rd(f, COMMON + 0x04, 4), ==, 1u << 29 | 1u << 28); /* ANY_LAYOUT is legacy's alone */
    legacy_start(f, UINT32_MAX); /* what was not offered does not count */
    g_assert_cmphex(in(f, 0x04, 4), ==, offered);
    legacy_fill(f);
    g_assert_true(f->input[3]);
    g_assert_cmphex(in(f, 0x13, 1), ==, VIRTIO_ISR_QUEUE);
    g_assert_false(f->input[3]);
    legacy_fill(f);
    out(f, 0x08, 4, 0); /* the queue is taken away */
    g_assert_cmphex(in(f, 0x08, 4), ==, 0);
    out(f, 0x0e, 2, 1);
    g_assert_cmpuint(in(f, 0x0c, 2), ==, 0); /* no such queue */
    legacy_start(f, 0);
    legacy_fill(f);
    out(f, 0x12, 1, 0);
    f->avail = 0;
    start(f, 0); /* the same function by its modern interface */
    g_assert_cmphex(rd(f, COMMON + 0x20, 8), ==, RINGS);
    fill(f);
    teardown(f);
}

static void test_legacy_msix(void)
{
    Fixture *f = setup_type("virtio-rng-pci-transitional", NULL);
    set(f, 0x10, 4, PORT);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    wr(f, BAR1 + 16, 4, MSI_TARGET);
    wr(f, BAR1 + 24, 4, 0x4321);
    wr(f, BAR1 + 28, 4, 0);
    set(f, f->dev->msix_cap + 2u, 2, PCI_MSIX_ENABLE);
    legacy_start(f, 0);
    out(f, 0x16, 2, 9); /* no such vector */
    g_assert_cmphex(in(f, 0x16, 2), ==, 0xffff);
    out(f, 0x16, 2, 1);
    g_assert_cmphex(in(f, 0x16, 2), ==, 1);
    legacy_fill(f);
    g_assert_cmphex(rd(f, MSI_TARGET, 4), ==, 0x4321);
    teardown(f);
}

static void test_msix(void)
{
    Fixture *f = setup(NULL);
    unsigned cap = f->dev->msix_cap;
    g_assert_cmphex(get(f, cap + 2, 2), ==, 1); /* two vectors */
    wr(f, BAR1 + 16, 4, MSI_TARGET);
    wr(f, BAR1 + 24, 4, 0x4321);
    wr(f, BAR1 + 28, 4, 0);
    set(f, cap + 2, 2, PCI_MSIX_ENABLE);
    wr(f, COMMON + 0x10, 2, 7); /* no such vector */
    g_assert_cmphex(rd(f, COMMON + 0x10, 2), ==, 0xffff);
    start(f, 1);
    g_assert_cmphex(rd(f, COMMON + 0x1a, 2), ==, 1);
    fill(f);
    g_assert_cmphex(rd(f, MSI_TARGET, 4), ==, 0x4321);
    g_assert_false(f->input[3]);
    teardown(f);
}

static void test_intx(void)
{
    Fixture *f = setup("0");
    g_assert_cmpuint(f->dev->msix_cap, ==, 0);
    start(f, 0);
    fill(f);
    g_assert_true(f->input[3]);
    g_assert_cmphex(rd(f, ISR, 1), ==, VIRTIO_ISR_QUEUE);
    g_assert_false(f->input[3]);
    g_assert_cmphex(rd(f, ISR, 1), ==, 0);
    fill(f);
    g_assert_true(f->input[3]);
    wr(f, COMMON + 0x14, 1, 0); /* the reset takes the line down */
    g_assert_false(f->input[3]);
    g_assert_cmphex(rd(f, COMMON + 0x14, 1), ==, 0);
    /* Without bus mastering the device reaches nothing, and says so. */
    f->avail = 0;
    address_space_set(f->board->memory, RINGS, 0, 0x1000, MEMTXATTRS_NONE);
    start(f, 0);
    set(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    wr(f, NOTIFY, 2, 0);
    for (int i = 0; i < 10; i++) {
        loop_iterate(f->board->loop, false);
    }
    g_assert_true(rd(f, COMMON + 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET);
    teardown(f);
}

static void test_window(void)
{
    Fixture *f = setup(NULL);
    unsigned cap = find_cap(f, 5);
    set(f, cap + 4, 1, 4);
    set(f, cap + 8, 4, 0x18);
    set(f, cap + 12, 4, 2);
    g_assert_cmphex(get(f, cap + 16, 4) & 0xffff, ==, 8); /* queue_size */
    set(f, cap + 8, 4, 0x14);
    set(f, cap + 12, 4, 1);
    set(f, cap + 16, 4, 3); /* device_status */
    g_assert_cmphex(rd(f, COMMON + 0x14, 1), ==, 3);
    set(f, cap + 8, 4, 0x4000); /* beyond the BAR, odd sizes, another BAR: nothing happens */
    get(f, cap + 16, 4);
    set(f, cap + 8, 4, 0x14);
    set(f, cap + 12, 4, 3);
    set(f, cap + 16, 4, 0);
    set(f, cap + 12, 4, 1);
    set(f, cap + 4, 1, 1);
    set(f, cap + 16, 4, 0);
    g_assert_cmphex(rd(f, COMMON + 0x14, 1), ==, 3);
    teardown(f);
}

static void test_refusals(void)
{
    static const char *const options[][3] = { { "disable-legacy", "off", "virtio-vsock-pci" },
                                              { "disable-modern", "on", "virtio-vsock-pci" },
                                              { "disable-modern", "on", "virtio-rng-pci-non-transitional" },
                                              { "vectors", "3000", "virtio-rng-pci" } };
    Fixture *f = setup(NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        g_autoptr(GError) error = NULL;
        Device *dev = device_new_unattached(f->board->root, options[i][2], NULL);
        g_assert_true(object_property_parse(OBJECT(dev), options[i][0], options[i][1], &error));
        g_assert_false(device_realize(dev, BUS(f->bus), NULL, &error));
        g_assert_nonnull(error);
        g_assert_nonnull(strstr(error->message, options[i][0]));
        object_unparent(OBJECT(dev));
    }
    teardown(f);
}

static void copy_state(Object *from, Object *to)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GByteArray) state = vmstate_save(DEVICE_GET_CLASS(from)->vmstate, from, &error);
    g_assert_no_error(error);
    vmstate_load(DEVICE_GET_CLASS(to)->vmstate, to, state->data, state->len, &error);
    g_assert_no_error(error);
}

static void test_state(void)
{
    Fixture *a = setup("0"), *b = setup("0");
    start(a, 0);
    fill(a);
    memcpy(b->board->ram.ram->host, a->board->ram.ram->host, TEST_RAM_SIZE);
    copy_state(OBJECT(a->dev), OBJECT(b->dev));
    copy_state(object_resolve_path_component(OBJECT(a->dev), "virtio-backend"),
               object_resolve_path_component(OBJECT(b->dev), "virtio-backend"));
    b->avail = a->avail;
    g_assert_cmphex(rd(b, COMMON + 0x14, 1), ==, 15);
    g_assert_cmphex(rd(b, COMMON + 0x20, 8), ==, RINGS);
    g_assert_cmphex(rd(b, ISR, 1), ==, VIRTIO_ISR_QUEUE);
    fill(b);
    g_assert_cmphex(rd(b, ISR, 1), ==, VIRTIO_ISR_QUEUE);
    teardown(a);
    teardown(b);
}

/* Comes and goes while its registers are used from another thread. */
typedef struct Hammer {
    Fixture *f;
    int stop;
} Hammer;

static void *hammer(void *opaque)
{
    Hammer *h = opaque;
    while (!__atomic_load_n(&h->stop, __ATOMIC_RELAXED)) {
        rd(h->f, COMMON + 0x14, 1);
        wr(h->f, NOTIFY, 2, 0);
    }
    return NULL;
}

static void test_unplug(void)
{
    g_autoptr(GError) error = NULL;
    Fixture *f = setup(NULL);
    Hammer h = { .f = f };
    pthread_t thread;
    device_unrealize(DEVICE(f->dev));
    object_unparent(OBJECT(f->dev));
    pthread_create(&thread, NULL, hammer, &h);
    for (int i = 0; i < 20; i++) {
        f->dev = PCI_DEVICE(test_board_add(f->board, "virtio-rng-pci", BUS(f->bus), "addr", "3", NULL));
        map_bars(f);
        loop_iterate(f->board->loop, false);
        device_unrealize(DEVICE(f->dev));
        object_unparent(OBJECT(f->dev));
    }
    __atomic_store_n(&h.stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    teardown(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-pci/identity", test_identity);
    g_test_add_func("/virtio-pci/legacy", test_legacy);
    g_test_add_func("/virtio-pci/legacy-msix", test_legacy_msix);
    g_test_add_func("/virtio-pci/msix", test_msix);
    g_test_add_func("/virtio-pci/intx", test_intx);
    g_test_add_func("/virtio-pci/window", test_window);
    g_test_add_func("/virtio-pci/refusals", test_refusals);
    g_test_add_func("/virtio-pci/state", test_state);
    g_test_add_func("/virtio-pci/unplug", test_unplug);
    return g_test_run();
}
