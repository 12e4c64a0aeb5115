/*
 * PCI functions and buses. Sources: PCI Local Bus Specification 3.0, chapters 2.2.6 (INTx), 3.2.2.3
 * (configuration cycles), 6.1 to 6.4 (configuration space, base address registers, expansion ROMs), 6.7
 * (capabilities).
 *
 * Left out on purpose: extended capabilities (their space reads as zeros), parity and target-abort reporting.
 *
 * Threads: configuration accesses run in a vCPU's thread with the function's HomeLock held. A bus's devices[]
 * is guarded by devices_lock, taken before a function's lock; its interrupt counts by irq_lock, taken after.
 *
 * Invariants:
 *  1. A BAR's region is in the bus's address space exactly while regions[i].addr != UINT64_MAX.
 *  2. irq_count[input] is the number of functions on that input that drive INTx and do not have it disabled.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/pci/pci.h"

#include "base/error.h"
#include "base/log.h"
#include "hw/core/firmware_file.h"
#include "hw/pci/pci_internal.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(pci_config_read, "%s %02x.%x offset 0x%02x size %u value 0x%x");
TRACE_EVENT(pci_config_write, "%s %02x.%x offset 0x%02x size %u value 0x%x");
TRACE_EVENT(pci_bar_map,
            "%s %02x.%x bar %d address 0x%" G_GINT64_MODIFIER "x size 0x%" G_GINT64_MODIFIER "x");
TRACE_EVENT(pci_bar_unmap, "%s %02x.%x bar %d");
TRACE_EVENT(pci_rom_missing, "%s file %s");
TRACE_EVENT(pci_irq, "%s %02x.%x level %d");

#define PCI_NO_ADDRESS               UINT64_MAX
#define PCI_DEFAULT_SUBSYSTEM_VENDOR 0x1af4
#define PCI_DEFAULT_SUBSYSTEM        0x1100
#define PCI_ROM_MAX_BYTES            (16u << 20)

static const char *type_of(const PciDevice *dev)
{
    return object_get_typename(OBJECT(dev));
}

char *pci_device_address(const PciDevice *dev)
{
    const Bus *bus = dev->parent_obj.bus;
    return g_strdup_printf("0000:%02x:%02x.%x", bus ? ((const PciBus *)bus)->number : 0, PCI_SLOT(dev->devfn),
                           PCI_FUNC(dev->devfn));
}

/* ---- interrupts ---- */
void pci_bus_set_irq_routing(PciBus *bus, int (*map_irq)(void *, unsigned, int),
                             void (*set_irq)(void *, int, bool), void *irq_opaque)
{
    bus->map_irq = map_irq;
    bus->set_irq = set_irq;
    bus->irq_opaque = irq_opaque;
}

static bool intx_disabled(const PciDevice *dev)
{
    return pci_get_word(dev->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
}

/* Counts a function's INTx in or out of its input of the board. Bridges on the way turn the pins by the slot
 * (PCI-to-PCI Bridge Architecture Specification 1.2, 9.1). */
static void intx_propagate(PciDevice *dev, bool level)
{
    PciBus *bus = dev->parent_obj.bus ? PCI_BUS(dev->parent_obj.bus) : NULL;
    int pin = dev->config[PCI_INTERRUPT_PIN] - 1;
    while (bus && bus->bridge) {
        pin = pin < 0 ? pin : (PCI_SLOT(dev->devfn) + pin) & 3;
        dev = bus->bridge;
        bus = dev->parent_obj.bus ? PCI_BUS(dev->parent_obj.bus) : NULL;
    }
    if (!bus || !bus->set_irq || pin < 0 || pin > 3) {
        return;
    }
    unsigned slot = PCI_SLOT(dev->devfn);
    home_lock(&bus->irq_lock);
    bus->pin_count[slot][pin] += level ? 1 : -1;
    int input = bus->map_irq(bus->irq_opaque, slot, pin);
    if (input >= 0 && input < (int)G_N_ELEMENTS(bus->irq_count)) {
        bus->irq_count[input] += level ? 1 : -1;
        bus->set_irq(bus->irq_opaque, input, bus->irq_count[input] > 0);
    }
    home_unlock(&bus->irq_lock);
}

void pci_root_reroute(PciBus *root)
{
    int counts[G_N_ELEMENTS(root->irq_count)] = { 0 };
    for (unsigned slot = 0; slot < 32; slot++) {
        for (int pin = 0; pin < 4; pin++) {
            int input = root->map_irq(root->irq_opaque, slot, pin);
            if (input >= 0 && input < (int)G_N_ELEMENTS(counts)) {
                counts[input] += root->pin_count[slot][pin];
            }
        }
    }
    for (unsigned input = 0; input < G_N_ELEMENTS(counts); input++) {
        root->irq_count[input] = counts[input];
        root->set_irq(root->irq_opaque, (int)input, counts[input] > 0);
    }
}

void pci_set_irq(PciDevice *dev, bool level)
{
    if (dev->irq_pin_level == level) {
        return;
    }
    TRACE(pci_irq, type_of(dev), PCI_SLOT(dev->devfn), PCI_FUNC(dev->devfn), level);
    dev->irq_pin_level = level;
    uint16_t status = pci_get_word(dev->config + PCI_STATUS);
    pci_set_word(dev->config + PCI_STATUS,
                 level ? status | PCI_STATUS_INTERRUPT : status & ~(unsigned)PCI_STATUS_INTERRUPT);
    if (!intx_disabled(dev)) {
        intx_propagate(dev, level);
    }
}

/* ---- base address registers ---- */
static uint32_t bar_offset(const PciDevice *dev, int number)
{
    if (number == PCI_ROM_SLOT) {
        return PCI_DEVICE_GET_CLASS(dev)->is_bridge ? PCI_BRIDGE_ROM_ADDRESS : PCI_ROM_ADDRESS;
    }
    return PCI_BASE_ADDRESS_0 + 4 * number;
}

void pci_register_bar(PciDevice *dev, int number, uint8_t type, MemoryRegion *memory)
{
    g_assert(number >= 0 && number < PCI_NUM_REGIONS && !dev->regions[number].memory);
    uint64_t size = memory->size;
    g_assert(size && !(size & (size - 1)));
    uint32_t offset = bar_offset(dev, number);
    dev->regions[number] =
        (PciRegion){ .memory = memory, .size = size, .addr = PCI_NO_ADDRESS, .type = type };
    uint64_t mask = ~(size - 1);
    pci_set_long(dev->config + offset, number == PCI_ROM_SLOT ? 0 : type);
    pci_set_long(dev->wmask + offset, (uint32_t)mask | (number == PCI_ROM_SLOT ? PCI_ROM_ENABLE : 0));
    if (!(type & PCI_BAR_IO) && (type & PCI_BAR_MEM64) && number < 5) {
        pci_set_long(dev->wmask + offset + 4, mask >> 32);
    }
}

/* Where a BAR wants to be, or PCI_NO_ADDRESS while it is not decoded. */
static uint64_t bar_address(const PciDevice *dev, int number)
{
    const PciRegion *r = &dev->regions[number];
    uint16_t command = pci_get_word(dev->config + PCI_COMMAND);
    const uint8_t *reg = dev->config + bar_offset(dev, number);
    if (r->type & PCI_BAR_IO) {
        uint64_t addr = pci_get_long(reg) & ~(r->size - 1) & ~3ull;
        if (!(command & PCI_COMMAND_IO) || addr == 0 || addr + r->size > 0x10000) {
            return PCI_NO_ADDRESS;
        }
        return addr;
    }
    if (!(command & PCI_COMMAND_MEMORY)) {
        return PCI_NO_ADDRESS;
    }
    uint64_t addr = pci_get_long(reg);
    bool is64 = number != PCI_ROM_SLOT && (r->type & PCI_BAR_MEM64);
    if (number == PCI_ROM_SLOT && !(addr & PCI_ROM_ENABLE)) {
        return PCI_NO_ADDRESS;
    }
    if (is64) {
        addr |= (uint64_t)pci_get_long(reg + 4) << 32;
    }
    addr &= ~(r->size - 1) & ~15ull;
    uint64_t last = addr + r->size - 1;
    /* Address 0 and the all-ones of the sizing protocol mean "not assigned". */
    if (addr == 0 || last <= addr || last == UINT64_MAX || (!is64 && last >= UINT32_MAX)) {
        return PCI_NO_ADDRESS;
    }
    return addr;
}

static void update_mappings(PciDevice *dev)
{
    PciBus *bus = dev->parent_obj.bus ? PCI_BUS(dev->parent_obj.bus) : NULL;
    bool changed = false;
    for (int i = 0; bus && i < PCI_NUM_REGIONS; i++) {
        PciRegion *r = &dev->regions[i];
        uint64_t addr = r->memory ? bar_address(dev, i) : PCI_NO_ADDRESS;
        MemoryRegion *container = r->type & PCI_BAR_IO ? bus->io : bus->memory;
        if (addr == r->addr || !container || !r->memory) {
            continue;
        }
        if (!changed) {
            memory_transaction_begin();
            changed = true;
        }
        if (r->addr != PCI_NO_ADDRESS) {
            TRACE(pci_bar_unmap, type_of(dev), PCI_SLOT(dev->devfn), PCI_FUNC(dev->devfn), i);
            memory_region_del(container, r->memory);
        }
        r->addr = addr;
        if (addr != PCI_NO_ADDRESS) {
            TRACE(pci_bar_map, type_of(dev), PCI_SLOT(dev->devfn), PCI_FUNC(dev->devfn), i, addr, r->size);
            memory_region_add_overlap(container, addr, r->memory, 1);
        }
    }
    if (changed) {
        memory_transaction_commit();
    }
}

static void update_bus_master(PciDevice *dev)
{
    bool on = pci_get_word(dev->config + PCI_COMMAND) & PCI_COMMAND_MASTER;
    __atomic_store_n(&dev->bus_master, on, __ATOMIC_RELAXED);
    if (dev->dma_as && dev->bus_master_alias.enabled != on) {
        memory_region_set_enabled(&dev->bus_master_alias, on);
    }
}

/* ---- configuration space ---- */
uint8_t pci_add_capability(PciDevice *dev, uint8_t id, uint8_t offset, uint8_t size, GError **error)
{
    unsigned length = (size + 3u) & ~3u;
    unsigned at = offset;
    if (!at) {
        for (unsigned start = PCI_CONFIG_HEADER_SIZE; !at && start + length <= PCI_CONFIG_SIZE; start += 4) {
            bool is_free = true;
            for (unsigned i = start; i < start + length; i++) {
                is_free = is_free && !dev->used[i];
            }
            at = is_free ? start : 0;
        }
        if (!at) {
            error_set(error, "%s: no room for PCI capability 0x%02x of %u bytes", type_of(dev), id, size);
            return 0;
        }
    }
    bool fits = at >= PCI_CONFIG_HEADER_SIZE && at + length <= PCI_CONFIG_SIZE && !(at & 3);
    for (unsigned i = at; fits && i < at + length; i++) {
        fits = !dev->used[i];
    }
    if (!fits) {
        error_set(error, "%s: PCI capability 0x%02x at 0x%x overlaps another", type_of(dev), id, at);
        return 0;
    }
    memset(dev->used + at, 1, length);
    memset(dev->config + at, 0, length);
    memset(dev->wmask + at, 0, length);
    dev->config[at] = id;
    dev->config[at + 1] = dev->config[PCI_CAPABILITY_LIST];
    dev->config[PCI_CAPABILITY_LIST] = at;
    dev->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    return at;
}

uint32_t pci_default_config_read(PciDevice *dev, uint32_t address, unsigned size)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = address + i < PCI_CONFIG_SIZE ? dev->config[address + i] : 0xff;
        value |= (uint32_t)byte << (8 * i);
    }
    return value;
}

static bool ranges_meet(uint32_t a, unsigned a_size, uint32_t b, unsigned b_size)
{
    return a < b + b_size && b < a + a_size;
}

void pci_default_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    bool was_disabled = intx_disabled(dev);
    for (unsigned i = 0; i < size && address + i < PCI_CONFIG_SIZE; i++, value >>= 8) {
        uint8_t byte = value, mask = dev->wmask[address + i];
        uint8_t *reg = &dev->config[address + i];
        *reg = (*reg & ~mask) | (byte & mask);
        *reg &= ~(byte & dev->w1cmask[address + i]);
    }
    if (ranges_meet(address, size, PCI_COMMAND, 2) || ranges_meet(address, size, PCI_BASE_ADDRESS_0, 24) ||
        ranges_meet(address, size, bar_offset(dev, PCI_ROM_SLOT), 4)) {
        update_mappings(dev);
    }
    if (ranges_meet(address, size, PCI_COMMAND, 2)) {
        update_bus_master(dev);
        if (dev->irq_pin_level && was_disabled != intx_disabled(dev)) {
            intx_propagate(dev, was_disabled);
        }
    }
    pci_msix_config_written(dev, address, size);
}

/* Finds a function and takes its lock; NULL: nobody answers. The caller unlocks. */
static PciDevice *device_enter(PciBus *bus, unsigned devfn)
{
    pthread_mutex_lock(&bus->devices_lock);
    PciDevice *dev = devfn < 256 ? bus->devices[devfn] : NULL;
    if (dev && !home_lock_enter(&dev->parent_obj.lock)) {
        dev = NULL; /* a configuration access from inside the device's own handler */
    }
    pthread_mutex_unlock(&bus->devices_lock);
    return dev;
}

uint32_t pci_bus_config_read(PciBus *bus, unsigned devfn, uint32_t address, unsigned size)
{
    uint32_t ones = size >= 4 ? UINT32_MAX : (1u << (8 * size)) - 1;
    PciDevice *dev = address + size <= PCI_EXPRESS_CONFIG_SIZE ? device_enter(bus, devfn) : NULL;
    if (!dev) {
        return ones;
    }
    uint32_t value;
    if (address + size <= PCI_CONFIG_SIZE) {
        value = PCI_DEVICE_GET_CLASS(dev)->config_read(dev, address, size) & ones;
    } else {
        value = dev->express_cap ? 0 : ones; /* no extended capabilities; or no such space */
    }
    TRACE(pci_config_read, type_of(dev), PCI_SLOT(devfn), PCI_FUNC(devfn), address, size, value);
    home_unlock(&dev->parent_obj.lock);
    return value;
}

void pci_bus_config_write(PciBus *bus, unsigned devfn, uint32_t address, uint32_t value, unsigned size)
{
    PciDevice *dev = address + size <= PCI_CONFIG_SIZE ? device_enter(bus, devfn) : NULL;
    if (dev) {
        TRACE(pci_config_write, type_of(dev), PCI_SLOT(devfn), PCI_FUNC(devfn), address, size, value);
        PCI_DEVICE_GET_CLASS(dev)->config_write(dev, address, value, size);
        home_unlock(&dev->parent_obj.lock);
    }
}

bool pci_bus_is_express(const PciBus *bus)
{
    return object_dynamic_cast(OBJECT(bus), TYPE_PCIE_BUS) != NULL;
}

static uint8_t bus_number_of(const PciDevice *bridge, uint32_t reg)
{
    return __atomic_load_n(&bridge->config[reg], __ATOMIC_RELAXED);
}

/* Bridges stay for as long as vCPUs run, so their buses need no counting. */
PciBus *pci_root_find_bus(PciBus *root, unsigned number)
{
    PciBus *bus = root;
    while (number != __atomic_load_n(&bus->number, __ATOMIC_RELAXED)) {
        PciBus *next = NULL;
        pthread_mutex_lock(&bus->devices_lock);
        for (unsigned devfn = 0; devfn < 256 && !next; devfn++) {
            const PciDevice *dev = bus->devices[devfn];
            if (dev && dev->secondary && bus_number_of(dev, PCI_SECONDARY_BUS) <= number &&
                number <= bus_number_of(dev, PCI_SUBORDINATE_BUS) && number > 0) {
                next = dev->secondary;
            }
        }
        pthread_mutex_unlock(&bus->devices_lock);
        if (!next) {
            return NULL;
        }
        bus = next;
    }
    return bus;
}

uint32_t pci_root_config_read(PciBus *root, unsigned number, unsigned devfn, uint32_t address, unsigned size)
{
    PciBus *bus = pci_root_find_bus(root, number);
    return bus ? pci_bus_config_read(bus, devfn, address, size) : UINT32_MAX;
}

void pci_root_config_write(PciBus *root, unsigned number, unsigned devfn, uint32_t address, uint32_t value,
                           unsigned size)
{
    PciBus *bus = pci_root_find_bus(root, number);
    if (bus) {
        pci_bus_config_write(bus, devfn, address, value, size);
    }
}

/* ---- reset ---- */
void pci_device_reset(Device *device)
{
    PciDevice *dev = PCI_DEVICE(device);
    pci_set_irq(dev, false);
    pci_set_word(dev->config + PCI_COMMAND,
                 pci_get_word(dev->config + PCI_COMMAND) & ~pci_get_word(dev->wmask + PCI_COMMAND));
    pci_set_word(dev->config + PCI_STATUS,
                 pci_get_word(dev->config + PCI_STATUS) & ~pci_get_word(dev->w1cmask + PCI_STATUS));
    dev->config[PCI_CACHE_LINE_SIZE] = 0;
    dev->config[PCI_LATENCY_TIMER] &= ~dev->wmask[PCI_LATENCY_TIMER];
    dev->config[PCI_INTERRUPT_LINE] = 0;
    for (int i = 0; i < PCI_NUM_REGIONS; i++) {
        PciRegion *r = &dev->regions[i];
        if (r->memory) {
            pci_set_long(dev->config + bar_offset(dev, i), i == PCI_ROM_SLOT ? 0 : r->type);
            if (!(r->type & PCI_BAR_IO) && (r->type & PCI_BAR_MEM64) && i < 5) {
                pci_set_long(dev->config + bar_offset(dev, i) + 4, 0);
            }
        }
    }
    pci_msi_reset(dev);
    pci_msix_reset(dev);
    update_mappings(dev);
    update_bus_master(dev);
}

/* ---- what firmware does ---- */
static uint64_t align_up(uint64_t value, uint64_t size)
{
    return (value + size - 1) & ~(size - 1);
}

void pci_bus_assign_resources(PciBus *bus, uint32_t io_start, uint32_t io_end, uint64_t memory_start,
                              uint64_t memory_end, uint8_t (*line_of)(PciDevice *dev, int pin))
{
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        PciDevice *dev = device_enter(bus, devfn);
        if (!dev) {
            continue;
        }
        uint16_t command = pci_get_word(dev->config + PCI_COMMAND);
        for (int i = 0; i < PCI_ROM_SLOT && !PCI_DEVICE_GET_CLASS(dev)->is_bridge; i++) {
            PciRegion *r = &dev->regions[i];
            uint32_t offset = bar_offset(dev, i);
            if (!r->memory) {
                continue;
            }
            if (r->type & PCI_BAR_IO) {
                uint64_t addr = align_up(io_start, r->size);
                if (addr + r->size <= io_end) {
                    pci_set_long(dev->config + offset, (uint32_t)addr | r->type);
                    io_start = addr + r->size;
                    command |= PCI_COMMAND_IO;
                }
            } else {
                uint64_t addr = align_up(memory_start, r->size < 4096 ? 4096 : r->size);
                if (r->size <= memory_end && addr <= memory_end - r->size) {
                    pci_set_long(dev->config + offset, (uint32_t)addr | r->type);
                    memory_start = addr + r->size;
                    command |= PCI_COMMAND_MEMORY;
                }
            }
        }
        if (line_of && dev->config[PCI_INTERRUPT_PIN]) {
            dev->config[PCI_INTERRUPT_LINE] = line_of(dev, dev->config[PCI_INTERRUPT_PIN] - 1);
        }
        pci_set_word(dev->config + PCI_COMMAND, command & pci_get_word(dev->wmask + PCI_COMMAND));
        update_mappings(dev);
        home_unlock(&dev->parent_obj.lock);
    }
}

/* ---- realize ---- */
static bool check_address(Bus *b, Device *device, GError **error)
{
    PciBus *bus = PCI_BUS(b);
    PciDevice *dev = PCI_DEVICE(device);
    if (dev->devfn < 0) {
        for (int devfn = 0; devfn < (bus->single_slot ? 8 : 256); devfn += 8) {
            if (!bus->devices[devfn]) {
                dev->devfn = devfn;
                break;
            }
        }
        if (dev->devfn < 0) {
            return error_set(error, "PCI: no slot/function available for %s, all in use or reserved",
                             type_of(dev));
        }
    }
    if (bus->single_slot && PCI_SLOT(dev->devfn)) {
        return error_set(error,
                         "PCI: slot %d is not valid for %s, parent device only allows plugging into slot 0.",
                         PCI_SLOT(dev->devfn), type_of(dev));
    }
    PciDevice *other = dev->devfn < 256 ? bus->devices[dev->devfn] : NULL;
    if (dev->devfn >= 256 || other) {
        return error_set(error, "PCI: slot %d function %d not available for %s, in use by %s,id=%s",
                         PCI_SLOT(dev->devfn), PCI_FUNC(dev->devfn), type_of(dev),
                         other ? type_of(other) : "nothing",
                         other && other->parent_obj.id ? other->parent_obj.id : "(null)");
    }
    /* Functions beyond 0 are found only where function 0 says that there are some. */
    PciDevice *function0 = bus->devices[dev->devfn & ~7];
    if (PCI_FUNC(dev->devfn) && function0 && !function0->multifunction) {
        return error_set(error, "PCI: single function device can't be populated in function %x.%x",
                         PCI_SLOT(dev->devfn), PCI_FUNC(dev->devfn));
    }
    if (!PCI_FUNC(dev->devfn) && !dev->multifunction) {
        for (int function = 1; function < 8; function++) {
            if (bus->devices[dev->devfn + function]) {
                return error_set(error,
                                 "PCI: %x.0 indicates single function, but %x.%x is already populated.",
                                 PCI_SLOT(dev->devfn), PCI_SLOT(dev->devfn), function);
            }
        }
    }
    return true;
}

static void config_init(PciDevice *dev)
{
    PciDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);
    memset(dev->config, 0, sizeof(dev->config));
    memset(dev->wmask, 0, sizeof(dev->wmask));
    memset(dev->w1cmask, 0, sizeof(dev->w1cmask));
    memset(dev->used, 0, sizeof(dev->used));
    memset(dev->regions, 0, sizeof(dev->regions));
    memset(dev->used, 1, PCI_CONFIG_HEADER_SIZE);
    pci_set_word(dev->config + PCI_VENDOR_ID, pc->vendor_id);
    pci_set_word(dev->config + PCI_DEVICE_ID, pc->device_id);
    dev->config[PCI_REVISION_ID] = pc->revision;
    pci_set_word(dev->config + PCI_CLASS_DEVICE, pc->class_id);
    if (pc->is_bridge) {
        dev->config[PCI_HEADER_TYPE] = PCI_HEADER_BRIDGE;
    } else {
        bool given = pc->subsystem_vendor_id || pc->subsystem_id;
        pci_set_word(dev->config + PCI_SUBSYSTEM_VENDOR_ID,
                     given ? pc->subsystem_vendor_id : PCI_DEFAULT_SUBSYSTEM_VENDOR);
        pci_set_word(dev->config + PCI_SUBSYSTEM_ID, given ? pc->subsystem_id : PCI_DEFAULT_SUBSYSTEM);
    }
    dev->config[PCI_HEADER_TYPE] |= dev->multifunction ? PCI_HEADER_MULTIFUNCTION : 0;
    pci_set_word(dev->wmask + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
                                               PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
                                               PCI_COMMAND_INTX_DISABLE);
    pci_set_word(dev->w1cmask + PCI_STATUS, PCI_STATUS_W1C);
    dev->wmask[PCI_CACHE_LINE_SIZE] = 0xff;
    dev->wmask[PCI_INTERRUPT_LINE] = 0xff;
    /* What lies behind the header is the device's; a driver may write scratch bytes nobody gave a meaning. */
    dev->msi_cap = dev->msix_cap = dev->express_cap = 0;
}

/* Firmware runs a ROM only for the device whose ids it names: those of the function are put there, and the
 * checksum is made right with a byte that the header keeps free (PCI Firmware Specification 3.0, 5.1.1). */
static void rom_patch_ids(PciDevice *dev, uint8_t *rom, gsize length)
{
    enum { PCIR_POINTER = 0x18, PCIR_VENDOR = 4, PCIR_DEVICE = 6, PCIR_SIZE = 0x18, SPARE = 6 };
    const uint8_t *ids = dev->config + PCI_VENDOR_ID;

    if (length < PCIR_POINTER + 2 || rom[0] != 0x55 || rom[1] != 0xaa) {
        return;
    }
    gsize pcir = pci_get_word(rom + PCIR_POINTER);
    if (pcir + PCIR_SIZE > length || memcmp(rom + pcir, "PCIR", 4) != 0) {
        return;
    }
    for (unsigned i = 0; i < 4; i++) {
        uint8_t *to = rom + pcir + PCIR_VENDOR + i;
        rom[SPARE] += *to - ids[i];
        *to = ids[i];
    }
}

static bool rom_load(PciDevice *dev, GError **error)
{
    const PciDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);
    const DeviceEnv *env = dev->parent_obj.env;
    bool by_default = !dev->romfile && env && env->firmware;
    const char *file = by_default ? pc->default_rom : dev->romfile;
    if (!file || !*file || dev->rombar == 0) {
        return true;
    }
    g_autoptr(GError) local = NULL;
    g_autoptr(GByteArray) rom =
        firmware_file_load(env ? env->firmware_dirs : NULL, file, PCI_ROM_MAX_BYTES, &local);
    if (!rom) {
        if (by_default && !pc->default_rom_required) {
            TRACE(pci_rom_missing, type_of(dev), file);
            return true;
        }
        g_propagate_error(error, g_steal_pointer(&local));
        error_prefix(error, "%s: ", type_of(dev));
        return false;
    }
    if (by_default) {
        rom_patch_ids(dev, rom->data, rom->len);
    }
    uint64_t size = 4096;
    while (size < rom->len) {
        size *= 2;
    }
    MemoryRegion *region = g_new0(MemoryRegion, 1);
    g_autofree char *address = pci_device_address(dev);
    g_autofree char *name = g_strdup_printf("%s/%s.rom", address, type_of(dev));
    if (!memory_region_init_rom(region, dev, name, size, error)) {
        g_free(region);
        return false;
    }
    memcpy(region->ram->host, rom->data, rom->len);
    ram_written(region->ram, 0, rom->len);
    dev->rom = region;
    pci_register_bar(dev, PCI_ROM_SLOT, PCI_BAR_MEM32, region);
    return true;
}

static void rom_free(PciDevice *dev)
{
    if (dev->rom) {
        dev->regions[PCI_ROM_SLOT].memory = NULL;
        memory_region_destroy(dev->rom);
        g_clear_pointer(&dev->rom, g_free);
    }
}

static void unmap_all(PciDevice *dev)
{
    home_lock(&dev->parent_obj.lock);
    pci_set_irq(dev, false);
    pci_set_word(dev->config + PCI_COMMAND, 0);
    update_mappings(dev);
    update_bus_master(dev);
    home_unlock(&dev->parent_obj.lock);
}

static void dma_free(PciDevice *dev)
{
    if (dev->dma_as) {
        address_space_free(dev->dma_as);
        dev->dma_as = NULL;
        memory_region_destroy(&dev->bus_master_alias);
        memory_region_destroy(&dev->bus_master_root);
    }
}

static bool pci_device_realize(Device *device, GError **error)
{
    PciDevice *dev = PCI_DEVICE(device);
    PciDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);
    if (!device->bus) {
        return error_set(error, "Device '%s' needs a PCI bus", type_of(dev));
    }
    PciBus *bus = PCI_BUS(device->bus);
    config_init(dev);
    if (device->env && device->env->system_memory) {
        memory_region_init(&dev->bus_master_root, dev, "bus master container", UINT64_MAX);
        /* Whether the bridges on the way are bus masters is not asked: SeaBIOS does not make them so. */
        memory_region_init_alias(&dev->bus_master_alias, dev, "bus master", device->env->system_memory, 0,
                                 UINT64_MAX);
        memory_region_set_enabled(&dev->bus_master_alias, false);
        memory_region_add(&dev->bus_master_root, 0, &dev->bus_master_alias);
        dev->dma_as = address_space_new(&dev->bus_master_root, type_of(dev));
    }
    if (pc->realize && !pc->realize(dev, error)) {
        pci_msix_uninit(dev);
        dma_free(dev);
        return false;
    }
    if (!rom_load(dev, error)) {
        unmap_all(dev);
        if (pc->unrealize) {
            pc->unrealize(dev);
        }
        pci_msix_uninit(dev);
        dma_free(dev);
        return false;
    }
    pthread_mutex_lock(&bus->devices_lock);
    bus->devices[dev->devfn] = dev;
    pthread_mutex_unlock(&bus->devices_lock);
    return true;
}

static void pci_device_unrealize(Device *device)
{
    PciDevice *dev = PCI_DEVICE(device);
    PciDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);
    PciBus *bus = PCI_BUS(device->bus);
    pthread_mutex_lock(&bus->devices_lock);
    bus->devices[dev->devfn] = NULL;
    pthread_mutex_unlock(&bus->devices_lock);
    unmap_all(dev); /* takes the lock: a configuration access that was under way has ended after it */
    if (pc->unrealize) {
        pc->unrealize(dev);
    }
    rom_free(dev);
    pci_msix_uninit(dev);
    dma_free(dev);
}

/* ---- buses ---- */
PciBus *pci_root_bus_new(Device *owner, const char *name, const DeviceEnv *env, MemoryRegion *memory,
                         MemoryRegion *io, AddressSpace *dma, int (*map_irq)(void *, unsigned, int),
                         void (*set_irq)(void *, int, bool), void *irq_opaque)
{
    PciBus *bus = PCI_BUS(bus_new(TYPE_PCI_BUS, owner, name, env));
    bus->memory = memory;
    bus->io = io;
    bus->dma = dma;
    pci_bus_set_irq_routing(bus, map_irq, set_irq, irq_opaque);
    return bus;
}

PciBus *pci_root_express_bus_new(Device *owner, const char *name, const DeviceEnv *env, MemoryRegion *memory,
                                 MemoryRegion *io, AddressSpace *dma)
{
    PciBus *bus = PCI_BUS(bus_new(TYPE_PCIE_BUS, owner, name, env));
    bus->memory = memory;
    bus->io = io;
    bus->dma = dma;
    bus->parent_obj.no_hotplug = true; /* the root complex's own functions are built in */
    return bus;
}

PciBus *pci_secondary_bus_new(PciDevice *bridge, const char *type, const char *name, MemoryRegion *memory,
                              MemoryRegion *io)
{
    Device *device = DEVICE(bridge);
    PciBus *bus = PCI_BUS(bus_new(type, device, name, device->env));
    bus->bridge = bridge;
    bus->memory = memory;
    bus->io = io;
    bus->dma = PCI_BUS(device->bus)->dma;
    bridge->secondary = bus;
    return bus;
}

/* ---- hot-plug ---- */
static void pci_plugged(Bus *b, Device *device)
{
    PciBus *bus = PCI_BUS(b);
    if (bus->hotplug) {
        bus->hotplug->plugged(bus->hotplug_opaque, PCI_DEVICE(device));
    }
}

static bool pci_unplug_request(Device *device, GError **error)
{
    PciBus *bus = PCI_BUS(device->bus);
    if (bus->hotplug) {
        return bus->hotplug->unplug_request(bus->hotplug_opaque, PCI_DEVICE(device), error);
    }
    device_unplug_done(device);
    return true;
}

static char *pci_device_path(Device *device)
{
    /* Open Firmware's generic names, by class; what hangs on a disk's or a network card's function. */
    static const struct {
        uint16_t class_id;
        const char *name, *child;
    } classes[] = {
        { PCI_CLASS_STORAGE_SCSI, "scsi", "/disk@0,0" },
        { PCI_CLASS_STORAGE_IDE, "ide", "" },
        { PCI_CLASS_NETWORK_ETHERNET, "ethernet", "/ethernet-phy@0" },
        { PCI_CLASS_BRIDGE_PCI, "pci-bridge", "" },
        { PCI_CLASS_DISPLAY_VGA, "display", "" },
        { PCI_CLASS_SERIAL_USB, "usb", "" },
    };
    PciDevice *dev = PCI_DEVICE(device);
    uint16_t class_id = pci_get_word(dev->config + PCI_CLASS_DEVICE);
    /* What has no such name goes by its ids. */
    g_autofree char *ids = g_strdup_printf("pci%04x,%04x", pci_get_word(dev->config + PCI_VENDOR_ID),
                                           pci_get_word(dev->config + PCI_DEVICE_ID));
    const char *name = ids, *child = "";
    for (size_t i = 0; i < G_N_ELEMENTS(classes); i++) {
        if (classes[i].class_id == class_id) {
            name = classes[i].name;
            child = classes[i].child;
        }
    }
    return PCI_FUNC(dev->devfn)
               ? g_strdup_printf("%s@%x,%x%s", name, PCI_SLOT(dev->devfn), PCI_FUNC(dev->devfn), child)
               : g_strdup_printf("%s@%x%s", name, PCI_SLOT(dev->devfn), child);
}

static void pci_print_device(Device *device, GString *out, int indent)
{
    PciDevice *dev = PCI_DEVICE(device);
    const uint8_t *c = dev->config;
    g_string_append_printf(out, "%*sclass %04x, addr %02x:%02x.%x, pci id %04x:%04x (sub %04x:%04x)\n",
                           indent, "", pci_get_word(c + PCI_CLASS_DEVICE), PCI_BUS(device->bus)->number,
                           PCI_SLOT(dev->devfn), PCI_FUNC(dev->devfn), pci_get_word(c + PCI_VENDOR_ID),
                           pci_get_word(c + PCI_DEVICE_ID), pci_get_word(c + PCI_SUBSYSTEM_VENDOR_ID),
                           pci_get_word(c + PCI_SUBSYSTEM_ID));
    for (int i = 0; i < PCI_NUM_REGIONS; i++) {
        const PciRegion *r = &dev->regions[i];
        if (r->memory) {
            g_string_append_printf(out, "%*sbar %d: %s at 0x%" PRIx64 " [0x%" PRIx64 "]\n", indent, "", i,
                                   r->type & PCI_BAR_IO ? "i/o" : "mem", r->addr,
                                   r->addr == PCI_NO_ADDRESS ? r->size - 1 : r->addr + r->size - 1);
        }
    }
}

static void pci_bus_instance_init(Object *obj)
{
    PciBus *bus = PCI_BUS(obj);
    home_lock_init(&bus->irq_lock);
    pthread_mutex_init(&bus->devices_lock, NULL);
}

static void pci_bus_instance_finalize(Object *obj)
{
    PciBus *bus = PCI_BUS(obj);
    home_lock_destroy(&bus->irq_lock);
    pthread_mutex_destroy(&bus->devices_lock);
}

static void pci_bus_class_init(ObjectClass *klass, const void *data)
{
    BusClass *bc = (BusClass *)klass;
    bc->hotplug = true;
    bc->plugged = pci_plugged;
    bc->check_address = check_address;
    bc->device_path = pci_device_path;
    bc->print_device = pci_print_device;
}

static const TypeInfo pci_bus_info = {
    .name = TYPE_PCI_BUS,
    .parent = TYPE_BUS,
    .description = "PCI bus",
    .instance_size = sizeof(PciBus),
    .instance_init = pci_bus_instance_init,
    .instance_finalize = pci_bus_instance_finalize,
    .class_init = pci_bus_class_init,
};
TYPE_REGISTER(pci_bus_info);

static const TypeInfo pcie_bus_info = {
    .name = TYPE_PCIE_BUS,
    .parent = TYPE_PCI_BUS,
    .description = "PCI Express bus",
};
TYPE_REGISTER(pcie_bus_info);

/* ---- the "addr" property: "slot" or "slot.function", in hexadecimal ---- */
static bool devfn_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                      GError **error)
{
    return visit_int32(v, name, field, error);
}

static bool devfn_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                      GError **error)
{
    int32_t devfn = -1;
    if (visit_peek_type(v, name) != json_type_string) {
        if (!visit_int32(v, name, &devfn, error)) {
            return false;
        }
        if (devfn < -1 || devfn > 255) {
            return error_set(error, "Property '%s.%s' doesn't take value '%d'", object_get_typename(obj),
                             name, devfn);
        }
        *(int32_t *)field = devfn;
        return true;
    }
    g_autofree char *text = NULL;
    if (!visit_str(v, name, &text, error)) {
        return false;
    }
    char *end = text;
    guint64 slot = g_ascii_isxdigit(text[0]) ? g_ascii_strtoull(text, &end, 16) : 32, function = 0;
    if (end != text && *end == '.' && g_ascii_isxdigit(end[1])) {
        function = g_ascii_strtoull(end + 1, &end, 16);
    }
    if (!strcmp(text, "-1")) {
        *(int32_t *)field = -1;
        return true;
    }
    if (slot > 31 || function > 7 || *end) {
        return error_set(error, "Property '%s.%s' doesn't take value '%s'", object_get_typename(obj), name,
                         text);
    }
    *(int32_t *)field = PCI_DEVFN(slot, function);
    return true;
}

static void devfn_set_default(Object *obj, const Property *prop, void *field)
{
    *(int32_t *)field = prop->has_default ? prop->def.i : -1;
}

const PropertyType property_type_pci_devfn = {
    .name = "int32",
    .get = devfn_get,
    .set = devfn_set,
    .set_default = devfn_set_default,
};

static const Property pci_device_properties[] = {
    PROP_TYPED_DEFAULT("addr", PciDevice, devfn, property_type_pci_devfn, -1, "slot[.function], hexadecimal"),
    PROP_STR("romfile", PciDevice, romfile, NULL, "file with the expansion ROM"),
    PROP_INT32("rombar", PciDevice, rombar, 1, "0: no expansion ROM"),
    PROP_BOOL("multifunction", PciDevice, multifunction, false, "the slot has more functions than 0"),
    PROP_END,
};

/* ---- state ---- */
static bool pci_device_post_load(void *opaque, int version, GError **error)
{
    PciDevice *dev = opaque;
    PciDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);
    if (pci_get_word(dev->config + PCI_VENDOR_ID) != pc->vendor_id ||
        pci_get_word(dev->config + PCI_CLASS_DEVICE) != pc->class_id || dev->irq_pin_level > 1) {
        return error_set(error, "%s: the saved configuration space is another device's", type_of(dev));
    }
    for (int i = 0; i < PCI_ROM_SLOT; i++) { /* type bits are read-only */
        if (dev->regions[i].memory) {
            uint32_t fixed = dev->regions[i].type & PCI_BAR_IO ? 3 : 15;
            uint32_t reg = pci_get_long(dev->config + bar_offset(dev, i));
            pci_set_long(dev->config + bar_offset(dev, i), (reg & ~fixed) | (dev->regions[i].type & fixed));
        }
    }
    update_mappings(dev);
    update_bus_master(dev);
    if (dev->irq_pin_level && !intx_disabled(dev)) {
        intx_propagate(dev, true);
    }
    return true;
}

static bool pci_device_pre_load(void *opaque, GError **error)
{
    PciDevice *dev = opaque;
    if (dev->irq_pin_level && !intx_disabled(dev)) {
        intx_propagate(dev, false);
    }
    dev->irq_pin_level = 0;
    return true;
}

static const VmStateField pci_device_fields[] = {
    VMS_BUFFER(config, PciDevice),
    VMS_UINT8(irq_pin_level, PciDevice),
    VMS_CUSTOM(msix, PciDevice, pci_msix_save, pci_msix_load),
    VMS_END,
};

const VmState pci_device_vmstate = {
    .name = "pci-device",
    .version = 1,
    .minimum_version = 1,
    .fields = pci_device_fields,
    .pre_load = pci_device_pre_load,
    .post_load = pci_device_post_load,
};

static void pci_device_finalize(Object *obj)
{
    pci_msix_uninit(PCI_DEVICE(obj));
}

static void pci_device_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    dc->bus_type = TYPE_PCI_BUS;
    dc->user_creatable = true;
    dc->realize = pci_device_realize;
    dc->unrealize = pci_device_unrealize;
    dc->reset = pci_device_reset;
    dc->vmstate = &pci_device_vmstate;
    dc->unplug_request = pci_unplug_request;
    pc->config_read = pci_default_config_read;
    pc->config_write = pci_default_config_write;
    object_class_add_properties(klass, pci_device_properties);
}

static const TypeInfo pci_device_info = {
    .name = TYPE_PCI_DEVICE,
    .parent = TYPE_DEVICE,
    .description = "PCI function",
    .instance_size = sizeof(PciDevice),
    .class_size = sizeof(PciDeviceClass),
    .abstract = true,
    .class_init = pci_device_class_init,
    .instance_finalize = pci_device_finalize,
};
TYPE_REGISTER(pci_device_info);
