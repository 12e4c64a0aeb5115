/*
 * The 82441FX (i440FX) host bridge: configuration mechanism 1, the root bus, and function 00.0 with the PAM
 * and SMRAM registers. Sources: Intel 440FX PCIset data sheet (290549), chapters 3.1 (ports 0xCF8 and
 * 0xCFC), 3.2.18 (PAM), 3.2.20 (SMRAM).
 *
 * Left out on purpose: DRAM timing and ECC (their registers just hold what is written).
 *
 * Threads: ports and configuration run in vCPUs' threads; the address latch is one atomic word, so that the
 * data port needs no lock of the bridge; function 00.0's registers are under its HomeLock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/pci/i440fx.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(i440fx_pam, "area 0x%05x mode %u");
TRACE_EVENT(i440fx_smram, "register 0x%02x");

enum {
    I440FX_PAM = 0x59, /* seven registers */
    I440FX_PAM_COUNT = 7,
    I440FX_SMRAM = 0x72,
    SMRAM_BASE_SEG = 0x02,
    SMRAM_ENABLE = 0x08, /* G_SMRAME */
    SMRAM_LOCK = 0x10,   /* D_LCK */
    SMRAM_OPEN = 0x40,   /* D_OPEN */
    SMRAM_WRITABLE = 0x78,
};
enum { CONFIG_ADDRESS_PORT = 0xcf8, CONFIG_DATA_PORT = 0xcfc, CONFIG_ENABLE = 1 };
enum { PAM_READ = 1, PAM_WRITE = 2 };
#define PAM_AREAS    13
#define SMRAM_START  0xa0000u
#define SMRAM_LENGTH 0x20000u

typedef struct PamArea {
    struct I440fxState *owner;
    uint32_t start, size;
    /* What covers the RAM: PCI with, below it, nothing at all where PCI has nothing; or RAM that is
     * read-only; or reads from PCI and writes to RAM; or no cover. */
    MemoryRegion to_pci, read_only, window;
    uint8_t mode;
} PamArea;

typedef struct I440fxState {
    PciDevice parent_obj;
    /* derived and configured */
    MemoryRegion *ram, *pci, *smram;
    AddressSpace *pci_as; /* for areas that read from ROM and write to RAM */
    PamArea pam[PAM_AREAS];
    MemoryRegion vga_hole, vga_nothing, smram_overlay;
    bool firmware_preset;
} I440fxState;
#define I440FX(obj) OBJECT_CHECK(I440fxState, obj, TYPE_I440FX)

typedef struct I440fxHost {
    Device parent_obj;
    /* saved */
    uint32_t config_address; /* atomic */
    /* derived and configured */
    PciBus *bus;
    Device *function0;
    MemoryRegion address_io, data_io;
    MemoryRegion *ram, *pci, *smram;
    bool firmware_preset;
} I440fxHost;
#define I440FX_HOST(obj) OBJECT_CHECK(I440fxHost, obj, TYPE_I440FX_HOST)

/* ---- shadow RAM ---- */
static void pam_area_set(PamArea *area, uint8_t mode)
{
    TRACE(i440fx_pam, area->start, mode);
    area->mode = mode;
    memory_region_set_enabled(&area->to_pci, mode == 0);
    memory_region_set_enabled(&area->read_only, mode == PAM_READ);
    memory_region_set_enabled(&area->window, mode == PAM_WRITE || mode == 0);
}

/* Area 0 is 0xf0000-0xfffff, in the high half of the first register; the others are 16 KiB each from 0xc0000.
 */
static uint8_t pam_mode(const I440fxState *s, int area)
{
    const uint8_t *pam = s->parent_obj.config + I440FX_PAM;
    uint8_t half = area == 0 ? pam[0] >> 4 : (area & 1) ? pam[(area + 1) / 2] : pam[area / 2] >> 4;
    return half & (PAM_READ | PAM_WRITE);
}

static void update_memory(I440fxState *s)
{
    uint8_t smram = s->parent_obj.config[I440FX_SMRAM];
    if (!s->ram) {
        return;
    }
    memory_transaction_begin();
    for (int i = 0; i < PAM_AREAS; i++) {
        if (pam_mode(s, i) != s->pam[i].mode) {
            pam_area_set(&s->pam[i], pam_mode(s, i));
        }
    }
    TRACE(i440fx_smram, smram);
    memory_region_set_enabled(&s->vga_hole, !(smram & SMRAM_OPEN));
    memory_region_set_enabled(&s->vga_nothing, !(smram & SMRAM_OPEN));
    if (s->smram) {
        memory_region_set_enabled(&s->smram_overlay, smram & SMRAM_ENABLE);
    }
    memory_transaction_commit();
}

/* The RAM below an area, through whatever aliases the board put above the block. */
static uint8_t *ram_at(I440fxState *s, hwaddr addr, RamBlock **block, uint64_t *offset)
{
    MemoryRegion *mr = s->ram;
    while (mr->kind == MEMORY_ALIAS) {
        addr += mr->alias_offset;
        mr = mr->alias;
    }
    if (!mr->ram || addr >= mr->ram->size) {
        return NULL;
    }
    *block = mr->ram;
    *offset = addr;
    return mr->ram->host + addr;
}

static uint64_t window_read(void *opaque, hwaddr offset, unsigned size)
{
    PamArea *area = opaque;
    if (area->mode == 0) {
        return UINT64_MAX; /* a hole of PCI's */
    }
    return address_space_ld(area->owner->pci_as, area->start + offset, size, MEMTXATTRS_NONE);
}

static void window_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    PamArea *area = opaque;
    if (area->mode == 0) {
        return;
    }
    RamBlock *block;
    uint64_t at;
    uint8_t *host = ram_at(area->owner, area->start + offset, &block, &at);
    if (host && at + size <= block->size) {
        memcpy(host, &value, size); /* both sides are little-endian */
        ram_written(block, at, size);
    }
}

static const MemoryRegionOps window_ops = {
    .read = window_read,
    .write = window_write,
    .valid = { .min = 1, .max = 8, .unaligned = true },
    .impl = { .min = 1, .max = 8, .unaligned = true },
};

/* What answers where RAM is covered and PCI has nothing. */
static uint64_t nothing_read(void *opaque, hwaddr offset, unsigned size)
{
    return UINT64_MAX;
}

static void nothing_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
}

static const MemoryRegionOps nothing_ops = {
    .read = nothing_read,
    .write = nothing_write,
    .valid = { .min = 1, .max = 8, .unaligned = true },
    .impl = { .min = 1, .max = 8, .unaligned = true },
};

static void memory_setup(I440fxState *s)
{
    MemoryRegion *system = s->parent_obj.parent_obj.env->system_memory;
    s->pci_as = address_space_new(s->pci, "i440FX-pci");
    memory_transaction_begin();
    for (int i = 0; i < PAM_AREAS; i++) {
        PamArea *area = &s->pam[i];
        area->owner = s;
        area->start = i == 0 ? 0xf0000 : 0xc0000 + (i - 1) * 0x4000;
        area->size = i == 0 ? 0x10000 : 0x4000;
        area->mode = 0;
        memory_region_init_alias(&area->to_pci, s, "pam-pci", s->pci, area->start, area->size);
        memory_region_init_alias(&area->read_only, s, "pam-rom", s->ram, area->start, area->size);
        memory_region_set_readonly(&area->read_only, true);
        memory_region_init_io(&area->window, s, &window_ops, area, "pam-window", area->size, NULL);
        memory_region_set_enabled(&area->read_only, false);
        memory_region_add_overlap(system, area->start, &area->to_pci, 2);
        memory_region_add_overlap(system, area->start, &area->read_only, 1);
        memory_region_add_overlap(system, area->start, &area->window, 1);
    }
    memory_region_init_alias(&s->vga_hole, s, "smram-region", s->pci, SMRAM_START, SMRAM_LENGTH);
    memory_region_add_overlap(system, SMRAM_START, &s->vga_hole, 2);
    memory_region_init_io(&s->vga_nothing, s, &nothing_ops, s, "vga-nothing", SMRAM_LENGTH, NULL);
    memory_region_add_overlap(system, SMRAM_START, &s->vga_nothing, 1);
    if (s->smram) {
        memory_region_init_alias(&s->smram_overlay, s, "smram-low", s->ram, SMRAM_START, SMRAM_LENGTH);
        memory_region_set_enabled(&s->smram_overlay, false);
        memory_region_add_overlap(s->smram, SMRAM_START, &s->smram_overlay, 10);
    }
    memory_transaction_commit();
}

static void memory_teardown(I440fxState *s)
{
    MemoryRegion *system = s->parent_obj.parent_obj.env->system_memory;
    for (int i = 0; i < PAM_AREAS; i++) {
        MemoryRegion *all[] = { &s->pam[i].to_pci, &s->pam[i].read_only, &s->pam[i].window };
        for (size_t j = 0; j < G_N_ELEMENTS(all); j++) {
            memory_region_del(system, all[j]);
            memory_region_destroy(all[j]);
        }
    }
    memory_region_del(system, &s->vga_hole);
    memory_region_destroy(&s->vga_hole);
    memory_region_del(system, &s->vga_nothing);
    memory_region_destroy(&s->vga_nothing);
    if (s->smram) {
        memory_region_del(s->smram, &s->smram_overlay);
        memory_region_destroy(&s->smram_overlay);
    }
    address_space_free(s->pci_as);
    s->pci_as = NULL;
}

/* ---- function 00.0 ---- */
static void i440fx_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    I440fxState *s = I440FX(dev);
    uint8_t old_smram = dev->config[I440FX_SMRAM];
    pci_default_config_write(dev, address, value, size);
    uint8_t *smram = &dev->config[I440FX_SMRAM];
    if (address <= I440FX_SMRAM && address + size > I440FX_SMRAM) {
        if (old_smram & SMRAM_LOCK) {
            *smram = old_smram; /* until the next reset */
        } else if (*smram & SMRAM_LOCK) {
            *smram &= ~SMRAM_OPEN;
        }
        *smram |= SMRAM_BASE_SEG;
    }
    if (address < I440FX_PAM + I440FX_PAM_COUNT && address + size > I440FX_PAM) {
        update_memory(s);
    } else if (*smram != old_smram) {
        update_memory(s);
    }
}

static void i440fx_reset(Device *device)
{
    I440fxState *s = I440FX(device);
    uint8_t *config = s->parent_obj.config;
    pci_device_reset(device);
    memset(config + PCI_CONFIG_HEADER_SIZE, 0, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    config[I440FX_SMRAM] = SMRAM_BASE_SEG;
    if (s->firmware_preset) {
        memset(config + I440FX_PAM, 0x33, I440FX_PAM_COUNT);
        config[I440FX_PAM] = 0x30;
    }
    update_memory(s);
}

static bool i440fx_realize(PciDevice *dev, GError **error)
{
    I440fxState *s = I440FX(dev);
    pci_set_word(dev->config + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    pci_set_word(dev->wmask + PCI_COMMAND, PCI_COMMAND_PARITY | PCI_COMMAND_SERR);
    pci_set_word(dev->config + PCI_STATUS, PCI_STATUS_FAST_BACK | PCI_STATUS_DEVSEL_MEDIUM);
    memset(dev->wmask + PCI_CONFIG_HEADER_SIZE, 0xff, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    memset(dev->wmask + I440FX_PAM, 0x33, I440FX_PAM_COUNT);
    dev->wmask[I440FX_PAM] = 0x30;
    dev->wmask[I440FX_SMRAM] = SMRAM_WRITABLE;
    if (s->ram && s->pci && DEVICE(dev)->env->system_memory) {
        memory_setup(s);
    } else {
        s->ram = NULL;
    }
    return true;
}

static void i440fx_unrealize(PciDevice *dev)
{
    if (I440FX(dev)->ram) {
        memory_teardown(I440FX(dev));
    }
}

static bool i440fx_post_load(void *opaque, int version, GError **error)
{
    update_memory(opaque);
    return true;
}

static const VmStateField i440fx_fields[] = {
    VMS_STRUCT(parent_obj, I440fxState, pci_device_vmstate),
    VMS_END,
};

static const VmState i440fx_vmstate = {
    .name = "i440FX",
    .version = 1,
    .minimum_version = 1,
    .fields = i440fx_fields,
    .post_load = i440fx_post_load,
};

static void i440fx_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->device_id = 0x1237;
    pc->revision = 2;
    pc->class_id = PCI_CLASS_BRIDGE_HOST;
    pc->realize = i440fx_realize;
    pc->unrealize = i440fx_unrealize;
    pc->config_write = i440fx_config_write;
    dc->reset = i440fx_reset;
    dc->vmstate = &i440fx_vmstate;
    dc->category = "Bridge";
    dc->user_creatable = false;
    dc->hotpluggable = false;
}

static const TypeInfo i440fx_info = {
    .name = TYPE_I440FX,
    .parent = TYPE_PCI_DEVICE,
    .description = "Host bridge",
    .instance_size = sizeof(I440fxState),
    .class_init = i440fx_class_init,
};
TYPE_REGISTER(i440fx_info);

/* ---- the configuration ports (mechanism 1) ---- */
static uint64_t address_read(void *opaque, hwaddr offset, unsigned size)
{
    I440fxHost *h = opaque;
    /* Only a whole dword is the address register; anything else goes on to ISA, where nobody answers. */
    if (offset != 0 || size != 4) {
        return UINT64_MAX;
    }
    return __atomic_load_n(&h->config_address, __ATOMIC_RELAXED);
}

static void address_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    I440fxHost *h = opaque;
    if (offset == 0 && size == 4) {
        __atomic_store_n(&h->config_address, (uint32_t)value, __ATOMIC_RELAXED);
    }
}

static const MemoryRegionOps address_ops = {
    .read = address_read,
    .write = address_write,
    .valid = { .min = 1, .max = 4, .unaligned = true },
    .impl = { .min = 1, .max = 4, .unaligned = true },
};

/* Whether the latch selects the root bus; its function and register then. */
static bool config_target(I440fxHost *h, hwaddr offset, unsigned *devfn, uint32_t *reg)
{
    uint32_t address = __atomic_load_n(&h->config_address, __ATOMIC_RELAXED);
    *devfn = (address >> 8) & 0xff;
    *reg = (address & 0xfc) + offset;
    return (address >> 31) == CONFIG_ENABLE && ((address >> 16) & 0xff) == h->bus->number;
}

static uint64_t data_read(void *opaque, hwaddr offset, unsigned size)
{
    I440fxHost *h = opaque;
    unsigned devfn;
    uint32_t reg;
    return config_target(h, offset, &devfn, &reg) ? pci_bus_config_read(h->bus, devfn, reg, size)
                                                  : UINT64_MAX;
}

static void data_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    I440fxHost *h = opaque;
    unsigned devfn;
    uint32_t reg;
    if (config_target(h, offset, &devfn, &reg)) {
        pci_bus_config_write(h->bus, devfn, reg, value, size);
    }
}

static const MemoryRegionOps data_ops = {
    .read = data_read,
    .write = data_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

/* ---- the host ---- */
void i440fx_set_memory(Device *dev, MemoryRegion *ram, MemoryRegion *pci, MemoryRegion *smram)
{
    I440fxHost *h = I440FX_HOST(dev);
    h->ram = ram;
    h->pci = pci;
    h->smram = smram;
}

PciBus *i440fx_bus(Device *dev)
{
    return I440FX_HOST(dev)->bus;
}

static void host_reset(Device *dev)
{
    I440FX_HOST(dev)->config_address = 0;
}

static bool host_realize(Device *dev, GError **error)
{
    I440fxHost *h = I440FX_HOST(dev);
    const DeviceEnv *env = dev->env;
    if (!env || !env->system_io || !env->system_memory) {
        return error_set(error, "%s needs memory and I/O ports", TYPE_I440FX_HOST);
    }
    h->bus = pci_root_bus_new(dev, "pci.0", env, h->pci ? h->pci : env->system_memory, env->system_io,
                              env->memory, NULL, NULL, NULL);
    Object *function0 = object_new_known(TYPE_I440FX);
    h->function0 = DEVICE(function0);
    I440fxState *s = I440FX(function0);
    s->ram = h->ram;
    s->pci = h->pci;
    s->smram = h->smram;
    s->firmware_preset = h->firmware_preset;
    s->parent_obj.devfn = 0;
    bool ok = object_property_add_child(OBJECT(dev), "i440FX", function0, error) &&
              device_realize(h->function0, &h->bus->parent_obj, NULL, error);
    object_unref(function0);
    if (!ok) {
        return false;
    }
    memory_region_init_io(&h->address_io, h, &address_ops, h, "pci-conf-idx", 4, NULL);
    memory_region_init_io(&h->data_io, h, &data_ops, h, "pci-conf-data", 4, NULL);
    memory_region_add(env->system_io, CONFIG_ADDRESS_PORT, &h->address_io);
    memory_region_add(env->system_io, CONFIG_DATA_PORT, &h->data_io);
    return true;
}

static void host_unrealize(Device *dev)
{
    I440fxHost *h = I440FX_HOST(dev);
    memory_region_del(dev->env->system_io, &h->address_io);
    memory_region_del(dev->env->system_io, &h->data_io);
    memory_region_destroy(&h->address_io);
    memory_region_destroy(&h->data_io);
    h->bus = NULL;
}

static const Property host_properties[] = {
    PROP_BOOL("firmware-preset", I440fxHost, firmware_preset, false, "reset to what PC firmware leaves"),
    PROP_END,
};

static const VmStateField host_fields[] = {
    VMS_UINT32(config_address, I440fxHost),
    VMS_END,
};

static const VmState host_vmstate = {
    .name = "i440FX-pcihost",
    .version = 1,
    .minimum_version = 1,
    .fields = host_fields,
};

static void host_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = host_realize;
    dc->unrealize = host_unrealize;
    dc->reset = host_reset;
    dc->vmstate = &host_vmstate;
    dc->category = "Bridge";
    dc->hotpluggable = false;
    object_class_add_properties(klass, host_properties);
}

static const TypeInfo host_info = {
    .name = TYPE_I440FX_HOST,
    .parent = TYPE_DEVICE,
    .description = "i440FX PCI host",
    .instance_size = sizeof(I440fxHost),
    .class_init = host_class_init,
};
TYPE_REGISTER(host_info);
