/*
 * One test over every registered device type: whatever can be realized on the test board is reset, saved,
 * loaded into a second one and saved again, asked for properties it does not have, and given a storm of
 * random register accesses. A type that needs a back end gets what it asks for below; one that still cannot
 * be realized is named and skipped.
 *
 * Seed: RHEA_TEST_SEED; seconds of random access per type: RHEA_TEST_SECONDS (default 0.05).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "tests/machine/test_board.h"

#include "block/block.h"
#include "chardev/chardev.h"
#include "display/display.h"
#include "hw/firmware/fw_cfg.h"
#include "hw/isa/isa.h"
#include "hw/pci/i440fx.h"
#include "net/net.h"
#include "vmstate/vmstate.h"

#include <unistd.h>

typedef struct Bench {
    TestBoard *board;
    MemoryRegion pci_memory;
    Device *host, *fw_cfg;
    Bus *isa;
    Device *dev;
    ChardevRegistry *chardevs;
    BlockRegistry *blocks;
    NetRegistry *nets;
    DisplayRegistry *displays;
    GPtrArray *acpi_parts;
} Bench;

static uint32_t seed;
static double seconds = 0.05;

/* What a type needs besides the board; NULL-terminated pairs. */
static const struct {
    const char *type, *name, *value;
} needs[] = {
    { "cfi.pflash01", "drive", "disk0" },
    { "ide-cd", "drive", "cd0" },
    { "ide-hd", "drive", "disk0" },
    { "isa-debugcon", "chardev", "null0" },
    { "pci-bridge", "chassis_nr", "3" },
    { "isa-parallel", "chardev", "null0" },
    { "pci-serial", "chardev", "null0" },
    { "isa-serial", "chardev", "null0" },
    { "scsi-cd", "drive", "cd0" },
    { "scsi-hd", "drive", "disk0" },
    { "usb-storage", "drive", "disk0" },
    { "virtconsole", "chardev", "null0" },
    { "virtserialport", "chardev", "null0" },
    { "virtio-blk-device", "drive", "disk0" },
    { "virtio-blk-pci", "drive", "disk0" },
    { "virtio-blk-pci-non-transitional", "drive", "disk0" },
    { "virtio-blk-pci-transitional", "drive", "disk0" },
    { "virtio-vsock-device", "guest-cid", "3" },
    { "virtio-vsock-device", "socket", "" },
    { "virtio-vsock-pci", "guest-cid", "3" },
    { "virtio-vsock-pci", "socket", "" },
    { "virtio-vsock-pci-non-transitional", "guest-cid", "3" },
    { "virtio-vsock-pci-non-transitional", "socket", "" },
};

/* Who brings a bus that the board has not. */
static const struct {
    const char *bus_type, *provider;
} providers[] = {
    { "IDE", "piix3-ide" },
    { "PCIE", "q35-pcihost" },
    { "SCSI", "virtio-scsi-pci" },
    { "usb-bus", "piix3-usb-uhci" },
    { "floppy-bus", "isa-fdc" },
    { "virtio-bus", "virtio-mmio" },
    { "virtio-serial-bus", "virtio-serial-pci" },
};

static void raise_gpe(Device *pm, unsigned event)
{
}

static void bench_init(Bench *n)
{
    GError *error = NULL;
    memset(n, 0, sizeof(*n));
    n->board = test_board_new();
    n->chardevs = chardev_registry_new(n->board->loop, NULL);
    chardev_add_text(n->chardevs, "null,id=null0", &error);
    g_assert_no_error(error);
    n->blocks = block_registry_new(n->board->loop, NULL);
    blockdev_add_text(n->blocks, "driver=null-co,node-name=disk0,size=1M,read-zeroes=on", &error);
    g_assert_no_error(error);
    blockdev_add_text(n->blocks, "driver=null-co,node-name=cd0,size=1M,read-zeroes=on,read-only=on", &error);
    g_assert_no_error(error);
    n->nets = net_registry_new(n->board->loop, NULL);
    memory_region_init(&n->pci_memory, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&n->board->memory_root, 0, &n->pci_memory, -1);
    n->fw_cfg = test_board_add(n->board, TYPE_FW_CFG_IO, NULL, NULL);
    n->board->env.fw_cfg = FW_CFG(n->fw_cfg);
    n->board->env.acpi_parts = n->acpi_parts = g_ptr_array_new();
    n->board->env.raise_gpe = raise_gpe;
    n->board->env.displays = n->displays = display_registry_new();
    n->host = device_new_unattached(n->board->root, TYPE_I440FX_HOST, NULL);
    i440fx_set_memory(n->host, &n->board->ram, &n->pci_memory, NULL);
    device_realize(n->host, NULL, &n->board->env, &error);
    g_assert_no_error(error);
    n->isa = isa_bus_new(NULL, &n->board->env);
}

static void bench_free(Bench *n)
{
    device_unrealize_all(n->board->root);
    chardev_property_set_registry(NULL);
    block_property_set_registry(NULL);
    net_property_set_registry(NULL);
    block_registry_free(n->blocks);
    net_registry_free(n->nets);
    chardev_registry_free(n->chardevs);
    test_board_free(n->board);
    display_registry_free(n->displays);
    g_ptr_array_unref(n->acpi_parts);
    memory_region_destroy(&n->pci_memory);
    memset(n, 0, sizeof(*n));
}

/* Makes and realizes a device of a type where the board has a place for it. */
static bool bench_realize(Bench *n, const char *type, GError **error)
{
    DeviceClass *dc = DEVICE_CLASS(object_class_by_name(type));
    Bus *bus = NULL;
    chardev_property_set_registry(n->chardevs);
    block_property_set_registry(n->blocks);
    net_property_set_registry(n->nets);
    for (size_t i = 0; dc->bus_type && i < G_N_ELEMENTS(providers); i++) {
        if (!strcmp(dc->bus_type, providers[i].bus_type)) {
            DeviceClass *provider = DEVICE_CLASS(object_class_by_name(providers[i].provider));
            Bus *its_bus =
                provider->bus_type ? bus_find(n->board->root, provider->bus_type, NULL, error) : NULL;
            test_board_add(n->board, providers[i].provider, its_bus, NULL);
        }
    }
    if (dc->bus_type) {
        bus = bus_find(n->board->root, dc->bus_type, NULL, error);
        if (!bus) {
            return false;
        }
    }
    n->dev = device_new_unattached(n->board->root, type, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(needs); i++) {
        if (strcmp(needs[i].type, type) != 0) {
            continue;
        }
        /* Of sockets each device has its own. */
        static unsigned sockets;
        g_autofree char *path =
            g_strdup_printf("%s/rhea-all-devices-%d-%u", g_get_tmp_dir(), (int)getpid(), sockets++);
        const char *value = strcmp(needs[i].name, "socket") == 0 ? path : needs[i].value;
        if (!object_property_parse(OBJECT(n->dev), needs[i].name, value, error)) {
            return false;
        }
    }
    return device_realize(n->dev, bus, bus ? NULL : &n->board->env, error);
}

/* Devices that the bench has anyway cannot be there twice. */
static bool part_of_bench(const char *type)
{
    return !strcmp(type, TYPE_FW_CFG_IO) || !strcmp(type, TYPE_I440FX_HOST) || !strcmp(type, TYPE_I440FX);
}

static Device *bench_device(Bench *n, const char *type, GError **error)
{
    if (!strcmp(type, TYPE_FW_CFG_IO)) {
        return n->fw_cfg;
    }
    if (!strcmp(type, TYPE_I440FX_HOST)) {
        return n->host;
    }
    if (!strcmp(type, TYPE_I440FX)) {
        return DEVICE(i440fx_bus(n->host)->devices[0]);
    }
    return bench_realize(n, type, error) ? n->dev : NULL;
}

/* ---- random accesses: to every region that the device owns, and to its configuration space ---- */
static void collect_regions(MemoryRegion *mr, void *owner, GPtrArray *found)
{
    if (mr->owner == owner && mr->ops) {
        g_ptr_array_add(found, mr);
    }
    for (guint i = 0; mr->subregions && i < mr->subregions->len; i++) {
        collect_regions(mr->subregions->pdata[i], owner, found);
    }
}

static GPtrArray *device_regions(Bench *n, Device *dev)
{
    GPtrArray *found = g_ptr_array_new();
    collect_regions(&n->board->memory_root, dev, found);
    collect_regions(&n->board->io_root, dev, found);
    PciDevice *pci = object_dynamic_cast(OBJECT(dev), TYPE_PCI_DEVICE);
    for (int i = 0; pci && i < PCI_NUM_REGIONS; i++) {
        if (pci->regions[i].memory) {
            collect_regions(pci->regions[i].memory, dev, found);
        }
    }
    return found;
}

static void random_accesses(Bench *n, Device *dev, GRand *rand)
{
    GPtrArray *regions = device_regions(n, dev);
    PciDevice *pci = object_dynamic_cast(OBJECT(dev), TYPE_PCI_DEVICE);
    gint64 end = g_get_monotonic_time() + (gint64)(seconds * 1e6);
    static const unsigned sizes[] = { 1, 2, 4, 8 };
    unsigned count = 0;
    while ((regions->len || pci) && g_get_monotonic_time() < end) {
        for (int i = 0; i < 200; i++, count++) {
            unsigned size = sizes[g_rand_int_range(rand, 0, 4)];
            uint64_t value = g_rand_int_range(rand, 0, 3) == 0
                                 ? (uint64_t)g_rand_int_range(rand, 0, 256)
                                 : (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
            if (pci && (!regions->len || g_rand_int_range(rand, 0, 4) == 0)) {
                PciBus *bus = PCI_BUS(dev->bus);
                uint32_t at = g_rand_int_range(rand, 0, 256);
                size = MIN(size, 4);
                if (g_rand_boolean(rand)) {
                    pci_bus_config_read(bus, pci->devfn, at, size);
                } else {
                    pci_bus_config_write(bus, pci->devfn, at, value, size);
                }
                continue;
            }
            MemoryRegion *mr = regions->pdata[g_rand_int_range(rand, 0, regions->len)];
            uint64_t span = MIN(mr->size, 1u << 20);
            uint64_t at = g_rand_int_range(rand, 0, span);
            if (g_rand_int_range(rand, 0, 4)) {
                at &= ~(uint64_t)(size - 1);
            }
            if (at + size > mr->size) {
                continue;
            }
            if (g_rand_boolean(rand)) {
                memory_region_dispatch_read(mr, at, &value, size, MEMTXATTRS_NONE);
            } else {
                memory_region_dispatch_write(mr, at, value, size, MEMTXATTRS_NONE);
            }
        }
        test_board_advance(n->board, g_rand_int_range(rand, 0, 100000000));
    }
    g_test_message("%u accesses to %u regions", count, regions->len);
    g_ptr_array_unref(regions);
}

/* ---- the test of one type ---- */
static GByteArray *save(Device *dev)
{
    GError *error = NULL;
    GByteArray *bytes = vmstate_save(DEVICE_GET_CLASS(dev)->vmstate, dev, &error);
    g_assert_no_error(error);
    return bytes;
}

static void save_load_compare(const char *type, Device *dev)
{
    const VmState *vms = DEVICE_GET_CLASS(dev)->vmstate;
    if (!vms || vms->unmigratable) {
        return;
    }
    Bench other;
    GError *error = NULL;
    g_autoptr(GByteArray) first = save(dev);
    bench_init(&other);
    clock_set_virtual_ns(other.board->clocks, clock_now_ns(dev->env->clocks, CLOCK_TYPE_VIRTUAL));
    Device *twin = bench_device(&other, type, &error);
    g_assert_no_error(error);
    device_reset(twin);
    vmstate_load(vms, twin, first->data, first->len, &error);
    g_assert_no_error(error);
    GByteArray *second = save(twin);
    g_assert_cmpmem(first->data, first->len, second->data, second->len);
    g_byte_array_unref(second);
    /* Damaged state is refused or taken, but nothing breaks. */
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    for (int i = 0; i < 50 && first->len; i++) {
        g_autofree uint8_t *copy = g_memdup2(first->data, first->len);
        copy[g_rand_int_range(rand, 0, first->len)] ^= 1u << g_rand_int_range(rand, 0, 8);
        vmstate_load(vms, twin, copy, i % 5 ? first->len : (size_t)g_rand_int_range(rand, 0, first->len),
                     NULL);
    }
    device_reset(twin);
    random_accesses(&other, twin, rand);
    bench_free(&other);
}

static void test_type(gconstpointer data)
{
    const char *type = data;
    Bench n;
    GError *error = NULL;
    bench_init(&n);
    Device *dev = bench_device(&n, type, &error);
    if (!dev) {
        g_test_skip(error ? error->message : "no reason given");
        g_clear_error(&error);
        bench_free(&n);
        return;
    }
    device_reset(dev);
    /* Properties: an unknown one is an error that names it; every readable one can be read. */
    g_assert_false(object_property_parse(OBJECT(dev), "no-such-property", "1", &error));
    g_assert_nonnull(strstr(error->message, "no-such-property"));
    g_clear_error(&error);
    GPtrArray *properties = object_property_list(OBJECT(dev));
    for (guint i = 0; i < properties->len; i++) {
        ObjectProperty *p = properties->pdata[i];
        if (p->get && !g_str_has_prefix(p->type, "child<") && !g_str_has_prefix(p->type, "link<")) {
            g_free(object_property_print(OBJECT(dev), p->name, NULL));
        }
        if (p->set && (g_str_has_prefix(p->type, "uint") || !strcmp(p->type, "bool"))) {
            g_assert_false(object_property_parse(OBJECT(dev), p->name, "seven of nine", &error));
            g_clear_error(&error);
        }
    }
    g_ptr_array_unref(properties);
    save_load_compare(type, dev);
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    random_accesses(&n, dev, rand);
    save_load_compare(type, dev); /* whatever state that has left */
    device_reset(dev);
    g_autofree char *tree = device_print_tree(n.board->root);
    g_assert_nonnull(strstr(tree, type));
    if (!part_of_bench(type)) {
        device_unrealize(dev);
        object_unparent(OBJECT(dev));
    }
    bench_free(&n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    seed = g_getenv("RHEA_TEST_SEED") ? g_ascii_strtoull(g_getenv("RHEA_TEST_SEED"), NULL, 0) : 1;
    if (g_getenv("RHEA_TEST_SECONDS")) {
        seconds = g_ascii_strtod(g_getenv("RHEA_TEST_SECONDS"), NULL);
    }
    GPtrArray *classes = object_class_list(TYPE_DEVICE, false);
    for (guint i = 0; i < classes->len; i++) {
        const char *type = object_class_get_name(classes->pdata[i]);
        g_autofree char *path = g_strdup_printf("/devices/%s", type);
        g_test_add_data_func(path, type, test_type);
    }
    g_ptr_array_unref(classes);
    return g_test_run();
}
