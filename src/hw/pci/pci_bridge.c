/*
 * What PCI-to-PCI bridges have in common: bus numbers, address windows, the secondary bus. Source: PCI-to-PCI
 * Bridge Architecture Specification 1.2, chapters 3 and 4.
 *
 * Left out on purpose: forwarding of VGA and of ISA's ports (their bits read as zero), subtractive decoding,
 * the discard timers.
 *
 * Threads: configuration in vCPUs' threads under the bridge's HomeLock. A secondary bus reset reaches other
 * devices, so it is done by the main loop, with no lock of the bridge's. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "hw/pci/pci_bridge.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(pci_bridge_numbers, "%s primary %u secondary %u subordinate %u");
TRACE_EVENT(pci_bridge_window, "%s %s 0x%" G_GINT64_MODIFIER "x to 0x%" G_GINT64_MODIFIER "x");
TRACE_EVENT(pci_bridge_bus_reset, "%s");

enum { PREFETCH_64BIT = 1, IO_WINDOW_MASK = 0xf0 };
#define MEMORY_WINDOW_MASK 0xfff0u

static const char *name_of(const PciBridge *s)
{
    const Device *dev = DEVICE(s);
    return dev->id ? dev->id : object_get_typename(OBJECT(dev));
}

/* ---- windows ---- */
static void set_window(PciBridge *s, MemoryRegion *window, const char *kind, bool decoded, uint64_t base,
                       uint64_t limit)
{
    bool on = decoded && base <= limit && limit != UINT64_MAX;
    if (!on) {
        memory_region_set_enabled(window, false);
        return;
    }
    TRACE(pci_bridge_window, name_of(s), kind, base, limit);
    memory_region_set_address(window, base);
    memory_region_set_alias_offset(window, base);
    memory_region_set_size(window, limit - base + 1);
    memory_region_set_enabled(window, true);
}

void pci_bridge_update(PciBridge *s)
{
    const uint8_t *c = s->parent_obj.config;
    uint16_t command = pci_get_word(c + PCI_COMMAND);
    bool io = command & PCI_COMMAND_IO, memory = command & PCI_COMMAND_MEMORY;
    uint64_t base = (uint64_t)pci_get_long(c + PCI_PREFETCH_BASE_UPPER) << 32 |
                    (uint64_t)(pci_get_word(c + PCI_PREFETCH_BASE) & MEMORY_WINDOW_MASK) << 16;
    uint64_t limit = (uint64_t)pci_get_long(c + PCI_PREFETCH_LIMIT_UPPER) << 32 |
                     (uint64_t)(pci_get_word(c + PCI_PREFETCH_LIMIT) & MEMORY_WINDOW_MASK) << 16 | 0xfffff;

    memory_transaction_begin();
    set_window(s, &s->io_window, "io", io, (uint64_t)(c[PCI_IO_BASE] & IO_WINDOW_MASK) << 8,
               (uint64_t)(c[PCI_IO_LIMIT] & IO_WINDOW_MASK) << 8 | 0xfff);
    set_window(s, &s->memory_window, "memory", memory,
               (uint64_t)(pci_get_word(c + PCI_MEMORY_BASE) & MEMORY_WINDOW_MASK) << 16,
               (uint64_t)(pci_get_word(c + PCI_MEMORY_LIMIT) & MEMORY_WINDOW_MASK) << 16 | 0xfffff);
    set_window(s, &s->prefetch_window, "prefetch", memory, base, limit);
    memory_transaction_commit();
    __atomic_store_n(&s->bus->number, c[PCI_SECONDARY_BUS], __ATOMIC_RELAXED);
}

/* ---- configuration ---- */
static void bus_reset_later(void *opaque)
{
    PciBridge *s = opaque;
    TRACE(pci_bridge_bus_reset, name_of(s));
    bus_reset(&s->bus->parent_obj);
}

static bool touches(uint32_t address, unsigned size, uint32_t first, uint32_t last)
{
    return address <= last && address + size > first;
}

void pci_bridge_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    PciBridge *s = PCI_BRIDGE_BASE(dev);
    uint16_t old_control = pci_get_word(dev->config + PCI_BRIDGE_CONTROL);

    pci_default_config_write(dev, address, value, size);
    if (touches(address, size, PCI_COMMAND, PCI_COMMAND + 1) ||
        touches(address, size, PCI_PRIMARY_BUS, PCI_IO_LIMIT) ||
        touches(address, size, PCI_MEMORY_BASE, PCI_IO_LIMIT_UPPER + 1)) {
        TRACE(pci_bridge_numbers, name_of(s), dev->config[PCI_PRIMARY_BUS], dev->config[PCI_SECONDARY_BUS],
              dev->config[PCI_SUBORDINATE_BUS]);
        pci_bridge_update(s);
    }
    uint16_t control = pci_get_word(dev->config + PCI_BRIDGE_CONTROL);
    if (control & ~old_control & PCI_BRIDGE_CONTROL_RESET) {
        bh_schedule(s->reset_bh);
    }
}

/* ---- life ---- */
void pci_bridge_reset(PciBridge *s)
{
    uint8_t *c = s->parent_obj.config;
    pci_device_reset(DEVICE(s));
    memset(c + PCI_PRIMARY_BUS, 0, 4);
    c[PCI_IO_BASE] = IO_WINDOW_MASK; /* closed: the base lies above the limit */
    c[PCI_IO_LIMIT] = 0;
    pci_set_word(c + PCI_SECONDARY_STATUS, 0);
    pci_set_word(c + PCI_MEMORY_BASE, MEMORY_WINDOW_MASK);
    pci_set_word(c + PCI_MEMORY_LIMIT, 0);
    pci_set_word(c + PCI_PREFETCH_BASE, MEMORY_WINDOW_MASK | PREFETCH_64BIT);
    pci_set_word(c + PCI_PREFETCH_LIMIT, PREFETCH_64BIT);
    pci_set_long(c + PCI_PREFETCH_BASE_UPPER, 0);
    pci_set_long(c + PCI_PREFETCH_LIMIT_UPPER, 0);
    pci_set_word(c + PCI_BRIDGE_CONTROL, 0);
    pci_bridge_update(s);
}

bool pci_bridge_realize(PciBridge *s, const char *bus_type, const char *default_name, GError **error)
{
    PciDevice *dev = &s->parent_obj;
    Device *device = DEVICE(dev);
    const DeviceEnv *env = device->env;
    PciBus *primary = PCI_BUS(device->bus);
    uint8_t *w = dev->wmask;

    if (!env || !env->loop || !primary->memory || !primary->io) {
        return error_set(error, "%s needs memory, I/O ports and a loop", object_get_typename(OBJECT(dev)));
    }
    memset(w + PCI_PRIMARY_BUS, 0xff, 3);
    w[PCI_IO_BASE] = w[PCI_IO_LIMIT] = IO_WINDOW_MASK;
    pci_set_word(dev->w1cmask + PCI_SECONDARY_STATUS, PCI_STATUS_W1C);
    pci_set_word(w + PCI_MEMORY_BASE, MEMORY_WINDOW_MASK);
    pci_set_word(w + PCI_MEMORY_LIMIT, MEMORY_WINDOW_MASK);
    pci_set_word(w + PCI_PREFETCH_BASE, MEMORY_WINDOW_MASK);
    pci_set_word(w + PCI_PREFETCH_LIMIT, MEMORY_WINDOW_MASK);
    pci_set_long(w + PCI_PREFETCH_BASE_UPPER, 0xffffffff);
    pci_set_long(w + PCI_PREFETCH_LIMIT_UPPER, 0xffffffff);
    pci_set_word(w + PCI_BRIDGE_CONTROL, 0x0003 | PCI_BRIDGE_CONTROL_RESET);

    memory_region_init(&s->memory_space, s, "pci-bridge-memory", UINT64_MAX);
    memory_region_init(&s->io_space, s, "pci-bridge-io", 0x10000);
    s->bus = pci_secondary_bus_new(dev, bus_type, device->id ? device->id : default_name, &s->memory_space,
                                   &s->io_space);
    s->reset_bh = bh_new(env->loop, bus_reset_later, s, NULL);
    const struct {
        MemoryRegion *window, *target, *container;
        const char *name;
    } windows[] = {
        { &s->io_window, &s->io_space, primary->io, "pci-bridge-io-window" },
        { &s->memory_window, &s->memory_space, primary->memory, "pci-bridge-window" },
        { &s->prefetch_window, &s->memory_space, primary->memory, "pci-bridge-prefetch-window" },
    };
    memory_transaction_begin();
    for (size_t i = 0; i < G_N_ELEMENTS(windows); i++) {
        memory_region_init_alias(windows[i].window, s, windows[i].name, windows[i].target, 0, 0x1000);
        memory_region_set_enabled(windows[i].window, false);
        memory_region_add_overlap(windows[i].container, 0, windows[i].window, 1);
    }
    memory_transaction_commit();
    return true;
}

/* The secondary bus is gone already. */
void pci_bridge_unrealize(PciBridge *s)
{
    PciBus *primary = PCI_BUS(DEVICE(s)->bus);
    s->parent_obj.secondary = NULL;
    s->bus = NULL;
    bh_free(s->reset_bh);
    s->reset_bh = NULL;
    memory_region_del(primary->io, &s->io_window);
    memory_region_del(primary->memory, &s->memory_window);
    memory_region_del(primary->memory, &s->prefetch_window);
    MemoryRegion *all[] = { &s->io_window, &s->memory_window, &s->prefetch_window, &s->memory_space,
                            &s->io_space };
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        memory_region_destroy(all[i]);
    }
}

static bool pci_bridge_post_load(void *opaque, int version, GError **error)
{
    PciBridge *s = opaque;
    s->parent_obj.config[PCI_IO_BASE] &= IO_WINDOW_MASK;
    s->parent_obj.config[PCI_IO_LIMIT] &= IO_WINDOW_MASK;
    pci_bridge_update(s);
    return true;
}

static const VmStateField pci_bridge_fields[] = {
    VMS_STRUCT(parent_obj, PciBridge, pci_device_vmstate),
    VMS_END,
};

const VmState pci_bridge_vmstate = {
    .name = TYPE_PCI_BRIDGE_BASE,
    .version = 1,
    .minimum_version = 1,
    .fields = pci_bridge_fields,
    .post_load = pci_bridge_post_load,
};

static void pci_bridge_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->is_bridge = true;
    pc->class_id = PCI_CLASS_BRIDGE_PCI;
    pc->config_write = pci_bridge_config_write;
    dc->category = "Bridge";
    dc->hotpluggable = false;
}

static const TypeInfo pci_bridge_info = {
    .name = TYPE_PCI_BRIDGE_BASE,
    .parent = TYPE_PCI_DEVICE,
    .description = "PCI-to-PCI bridge",
    .instance_size = sizeof(PciBridge),
    .abstract = true,
    .class_init = pci_bridge_class_init,
};
TYPE_REGISTER(pci_bridge_info);
