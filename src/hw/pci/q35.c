/*
 * The host bridge of the Q35 (82P35 MCH): configuration by ports and by memory (ECAM), the root bus, and
 * function 00.0 with PAM, SMRAM and TSEG. Sources: Intel 3 Series Express Chipset Family data sheet (316966),
 * chapters 5.1.15 (PCIEXBAR), 5.1.19 (PAM), 5.1.26 (SMRAM), 5.1.27 (ESMRAMC); PCI Express Base Specification
 * 4.0, 7.2.2 (ECAM). Register 0x50 is QEMU's: how large a TSEG of size code 3 is.
 *
 * Left out on purpose: DRAM registers, EPBAR, MCHBAR, DMIBAR (their registers just hold what is written), the
 * high alias of SMRAM (H_SMRAME reads as zero), the graphics device's stolen memory.
 *
 * Threads: ports, the window and configuration run in vCPUs' threads; function 00.0's registers are under its
 * HomeLock, the two ways to configuration space need no lock of the bridge's. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "hw/pci/q35.h"

#include "base/error.h"
#include "hw/pci/pam.h"
#include "hw/pci/pci_host.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(q35_ecam, "base 0x%" G_GINT64_MODIFIER "x size 0x%" G_GINT64_MODIFIER "x");
TRACE_EVENT(q35_tseg, "base 0x%" G_GINT64_MODIFIER "x size 0x%" G_GINT64_MODIFIER "x on %d");

enum {
    MCH_EXT_TSEG_MBYTES = 0x50,
    MCH_PCIEXBAR = 0x60,
    MCH_PAM = 0x90,
    MCH_SMRAM = 0x9d,
    MCH_ESMRAMC = 0x9e,
};
enum { SMRAM_WRITABLE = SMRAM_OPEN | SMRAM_CLOSED | SMRAM_LOCK | SMRAM_ENABLE };
enum {
    ESMRAMC_T_EN = 0x01,
    ESMRAMC_TSEG_SIZE = 0x06,
    ESMRAMC_CACHE = 0x38, /* SM_CACHE, SM_L1, SM_L2: fixed */
    ESMRAMC_WRITABLE = ESMRAMC_T_EN | ESMRAMC_TSEG_SIZE,
};
enum { PCIEXBAR_ENABLE = 1, PCIEXBAR_LENGTH_SHIFT = 1, PCIEXBAR_LENGTH = 6 };
#define PCIEXBAR_ADDRESS     UINT64_C(0xff0000000) /* bits 35 to 28 */
#define PCIEXBAR_ADDRESS_128 UINT64_C(0x008000000) /* with 128 MiB, and */
#define PCIEXBAR_ADDRESS_64  UINT64_C(0x004000000) /* with 64 MiB */
#define EXT_TSEG_QUERY       0xffff
#define MIB                  (UINT64_C(1) << 20)

typedef struct MchState {
    PciDevice parent_obj;
    /* derived and configured */
    MemoryRegion *ram, *pci, *smram;
    uint64_t below_4g;
    uint16_t ext_tseg_mbytes;
    PciBus *root;
    Pam pam;
    MemoryRegion ecam, tseg_nothing, tseg_ram;
    uint64_t ecam_at, ecam_size; /* size 0: closed */
    uint64_t tseg_size;
    bool firmware_preset;
} MchState;
#define MCH(obj) OBJECT_CHECK(MchState, obj, TYPE_MCH)

typedef struct Q35Host {
    Device parent_obj;
    PciHostPorts ports; /* saved: its address latch */
    /* derived and configured */
    PciBus *bus;
    Device *mch;
    MemoryRegion *ram, *pci, *smram;
    uint64_t below_4g;
    uint16_t ext_tseg_mbytes;
    bool firmware_preset;
} Q35Host;
#define Q35_HOST(obj) OBJECT_CHECK(Q35Host, obj, TYPE_Q35_HOST)

/* ---- the configuration window: bus, device and function, register ---- */
static uint64_t ecam_read(void *opaque, hwaddr offset, unsigned size)
{
    MchState *s = opaque;
    return pci_root_config_read(s->root, (offset >> 20) & 0xff, (offset >> 12) & 0xff, offset & 0xfff, size);
}

static void ecam_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    MchState *s = opaque;
    pci_root_config_write(s->root, (offset >> 20) & 0xff, (offset >> 12) & 0xff, offset & 0xfff, value, size);
}

static const MemoryRegionOps ecam_ops = {
    .read = ecam_read,
    .write = ecam_write,
    .valid = { .min = 1, .max = 8 },
    .impl = { .min = 1, .max = 4 },
};

static uint64_t pciexbar(const uint8_t *config)
{
    return pci_get_long(config + MCH_PCIEXBAR) | (uint64_t)pci_get_long(config + MCH_PCIEXBAR + 4) << 32;
}

/* False: closed, or its length is a reserved code. */
static bool decode_pciexbar(uint64_t bar, uint64_t *base, uint64_t *size)
{
    unsigned code = (bar & PCIEXBAR_LENGTH) >> PCIEXBAR_LENGTH_SHIFT;
    uint64_t mask = PCIEXBAR_ADDRESS;
    if (!(bar & PCIEXBAR_ENABLE) || code > 2) {
        return false;
    }
    mask |= code >= 1 ? PCIEXBAR_ADDRESS_128 : 0;
    mask |= code == 2 ? PCIEXBAR_ADDRESS_64 : 0;
    *base = bar & mask;
    *size = Q35_ECAM_SIZE >> code;
    return true;
}

static void update_ecam(MchState *s)
{
    uint64_t base = 0, size = 0;
    decode_pciexbar(pciexbar(s->parent_obj.config), &base, &size);
    if (base == s->ecam_at && size == s->ecam_size) {
        return;
    }
    TRACE(q35_ecam, base, size);
    memory_transaction_begin();
    if (size) {
        memory_region_set_size(&s->ecam, size);
        memory_region_set_address(&s->ecam, base);
    }
    memory_region_set_enabled(&s->ecam, size != 0);
    memory_transaction_commit();
    s->ecam_at = base;
    s->ecam_size = size;
}

/* ---- TSEG: the end of RAM below 4 GiB, which only CPUs in SMM see ---- */
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

static uint64_t tseg_wanted(const MchState *s)
{
    static const uint8_t mbytes[] = { 1, 2, 8 };
    const uint8_t *config = s->parent_obj.config;
    uint8_t code = (config[MCH_ESMRAMC] & ESMRAMC_TSEG_SIZE) >> 1;
    uint64_t size = (code < 3 ? mbytes[code] : s->ext_tseg_mbytes) * MIB;

    if (!(config[MCH_ESMRAMC] & ESMRAMC_T_EN) || !(config[MCH_SMRAM] & SMRAM_ENABLE)) {
        return 0;
    }
    return size <= s->below_4g ? size : 0;
}

static void update_tseg(MchState *s)
{
    uint64_t size = s->smram ? tseg_wanted(s) : 0;
    if (size == s->tseg_size) {
        return;
    }
    uint64_t base = s->below_4g - size;
    TRACE(q35_tseg, base, size, size != 0);
    memory_transaction_begin();
    if (size) {
        memory_region_set_size(&s->tseg_nothing, size);
        memory_region_set_address(&s->tseg_nothing, base);
        memory_region_set_size(&s->tseg_ram, size);
        memory_region_set_address(&s->tseg_ram, base);
        memory_region_set_alias_offset(&s->tseg_ram, base);
    }
    memory_region_set_enabled(&s->tseg_nothing, size != 0);
    memory_region_set_enabled(&s->tseg_ram, size != 0);
    memory_transaction_commit();
    s->tseg_size = size;
}

static void update_memory(MchState *s)
{
    const uint8_t *config = s->parent_obj.config;
    if (s->ram) {
        memory_transaction_begin();
        pam_update(&s->pam, config + MCH_PAM, config[MCH_SMRAM]);
        update_tseg(s);
        memory_transaction_commit();
    }
    update_ecam(s);
}

/* ---- function 00.0 ---- */
static void mch_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    MchState *s = MCH(dev);
    uint8_t old_smram = dev->config[MCH_SMRAM], old_esmramc = dev->config[MCH_ESMRAMC];
    uint8_t *tseg = dev->config + MCH_EXT_TSEG_MBYTES;

    pci_default_config_write(dev, address, value, size);
    dev->config[MCH_SMRAM] = smram_written(old_smram, dev->config[MCH_SMRAM]);
    if (old_smram & SMRAM_LOCK) {
        dev->config[MCH_ESMRAMC] = old_esmramc;
    }
    if (pci_get_word(tseg) == EXT_TSEG_QUERY) {
        pci_set_word(tseg, s->ext_tseg_mbytes);
    }
    update_memory(s);
}

static void mch_reset(Device *device)
{
    MchState *s = MCH(device);
    uint8_t *config = s->parent_obj.config;

    pci_device_reset(device);
    memset(config + PCI_CONFIG_HEADER_SIZE, 0, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    config[MCH_SMRAM] = SMRAM_BASE_SEG;
    config[MCH_ESMRAMC] = ESMRAMC_CACHE;
    pci_set_long(config + MCH_PCIEXBAR, Q35_ECAM_PRESET);
    if (s->firmware_preset) {
        memset(config + MCH_PAM, 0x33, PAM_COUNT);
        config[MCH_PAM] = 0x30;
        config[MCH_PCIEXBAR] |= PCIEXBAR_ENABLE;
    }
    update_memory(s);
}

static bool mch_realize(PciDevice *dev, GError **error)
{
    MchState *s = MCH(dev);
    const DeviceEnv *env = DEVICE(dev)->env;
    MemoryRegion *system = env->system_memory;

    pci_set_word(dev->config + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    pci_set_word(dev->wmask + PCI_COMMAND, PCI_COMMAND_PARITY | PCI_COMMAND_SERR);
    pci_set_word(dev->config + PCI_STATUS, PCI_STATUS_FAST_BACK);
    memset(dev->wmask + PCI_CONFIG_HEADER_SIZE, 0xff, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    memset(dev->wmask + MCH_PAM, 0x33, PAM_COUNT);
    dev->wmask[MCH_PAM] = 0x30;
    dev->wmask[MCH_SMRAM - 1] = 0; /* QEMU's: no SMRAM at the default SMBASE */
    dev->wmask[MCH_SMRAM] = SMRAM_WRITABLE;
    dev->wmask[MCH_ESMRAMC] = ESMRAMC_WRITABLE;
    uint64_t mask =
        PCIEXBAR_ADDRESS | PCIEXBAR_ADDRESS_128 | PCIEXBAR_ADDRESS_64 | PCIEXBAR_LENGTH | PCIEXBAR_ENABLE;
    pci_set_long(dev->wmask + MCH_PCIEXBAR, (uint32_t)mask);
    pci_set_long(dev->wmask + MCH_PCIEXBAR + 4, mask >> 32);

    s->root = PCI_BUS(DEVICE(dev)->bus);
    if (!system) {
        return error_set(error, "%s needs memory", TYPE_MCH);
    }
    memory_region_init_io(&s->ecam, s, &ecam_ops, s, "pcie-mmcfg", Q35_ECAM_SIZE, NULL);
    memory_region_set_enabled(&s->ecam, false);
    memory_region_add_overlap(system, 0, &s->ecam, 3);
    if (!s->ram || !s->pci) {
        s->ram = NULL;
        return true;
    }
    pam_init(&s->pam, s, system, s->ram, s->pci, s->smram);
    memory_region_init_io(&s->tseg_nothing, s, &nothing_ops, NULL, "tseg-nothing", MIB, NULL);
    memory_region_init_alias(&s->tseg_ram, s, "tseg", s->ram, 0, MIB);
    memory_region_set_enabled(&s->tseg_nothing, false);
    memory_region_set_enabled(&s->tseg_ram, false);
    memory_region_add_overlap(system, 0, &s->tseg_nothing, 1);
    if (s->smram) {
        memory_region_add_overlap(s->smram, 0, &s->tseg_ram, 10);
    }
    return true;
}

static void mch_unrealize(PciDevice *dev)
{
    MchState *s = MCH(dev);
    MemoryRegion *system = DEVICE(dev)->env->system_memory;

    memory_region_del(system, &s->ecam);
    memory_region_destroy(&s->ecam);
    if (s->ram) {
        pam_destroy(&s->pam);
        memory_region_del(system, &s->tseg_nothing);
        if (s->smram) {
            memory_region_del(s->smram, &s->tseg_ram);
        }
        memory_region_destroy(&s->tseg_nothing);
        memory_region_destroy(&s->tseg_ram);
    }
    s->ecam_at = s->ecam_size = s->tseg_size = 0;
}

static bool mch_post_load(void *opaque, int version, GError **error)
{
    MchState *s = opaque;
    s->parent_obj.config[MCH_ESMRAMC] =
        (s->parent_obj.config[MCH_ESMRAMC] & ESMRAMC_WRITABLE) | ESMRAMC_CACHE;
    update_memory(s);
    return true;
}

static const VmStateField mch_fields[] = {
    VMS_STRUCT(parent_obj, MchState, pci_device_vmstate),
    VMS_END,
};

static const VmState mch_vmstate = {
    .name = TYPE_MCH,
    .version = 1,
    .minimum_version = 1,
    .fields = mch_fields,
    .post_load = mch_post_load,
};

static void mch_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->device_id = 0x29c0;
    pc->class_id = PCI_CLASS_BRIDGE_HOST;
    pc->realize = mch_realize;
    pc->unrealize = mch_unrealize;
    pc->config_write = mch_config_write;
    dc->reset = mch_reset;
    dc->vmstate = &mch_vmstate;
    dc->category = "Bridge";
    dc->user_creatable = false;
    dc->hotpluggable = false;
}

static const TypeInfo mch_info = {
    .name = TYPE_MCH,
    .parent = TYPE_PCI_DEVICE,
    .description = "Host bridge",
    .instance_size = sizeof(MchState),
    .class_init = mch_class_init,
};
TYPE_REGISTER(mch_info);

/* ---- the host ---- */
void q35_set_memory(Device *dev, MemoryRegion *ram, uint64_t below_4g, MemoryRegion *pci, MemoryRegion *smram)
{
    Q35Host *h = Q35_HOST(dev);
    h->ram = ram;
    h->below_4g = below_4g;
    h->pci = pci;
    h->smram = smram;
}

PciBus *q35_bus(Device *dev)
{
    return Q35_HOST(dev)->bus;
}

bool q35_ecam(Device *dev, uint64_t *base, uint64_t *size)
{
    uint8_t copy[8];
    const uint8_t *bar = PCI_DEVICE(Q35_HOST(dev)->mch)->config + MCH_PCIEXBAR;
    for (int i = 0; i < 8; i++) { /* written by one vCPU long before another asks */
        copy[i] = __atomic_load_n(&bar[i], __ATOMIC_RELAXED);
    }
    return decode_pciexbar(pci_get_long(copy) | (uint64_t)pci_get_long(copy + 4) << 32, base, size);
}

static void host_reset(Device *dev)
{
    Q35_HOST(dev)->ports.config_address = 0;
}

static bool host_realize(Device *dev, GError **error)
{
    Q35Host *h = Q35_HOST(dev);
    const DeviceEnv *env = dev->env;

    if (!env || !env->system_io || !env->system_memory) {
        return error_set(error, "%s needs memory and I/O ports", TYPE_Q35_HOST);
    }
    if (h->ext_tseg_mbytes > 0xfff) {
        return error_set(error, "Property 'extended-tseg-mbytes' takes at most 4095, not %u",
                         h->ext_tseg_mbytes);
    }
    h->bus = pci_root_express_bus_new(dev, "pcie.0", env, h->pci ? h->pci : env->system_memory,
                                      env->system_io, env->memory);
    Object *mch = object_new_known(TYPE_MCH);
    h->mch = DEVICE(mch);
    MchState *s = MCH(mch);
    s->ram = h->ram;
    s->below_4g = h->below_4g;
    s->pci = h->pci;
    s->smram = h->smram;
    s->ext_tseg_mbytes = h->ext_tseg_mbytes;
    s->firmware_preset = h->firmware_preset;
    s->parent_obj.devfn = 0;
    bool ok = object_property_add_child(OBJECT(dev), "mch", mch, error) &&
              device_realize(h->mch, &h->bus->parent_obj, NULL, error);
    object_unref(mch);
    if (!ok) {
        return false;
    }
    pci_host_ports_init(&h->ports, h, h->bus, env->system_io);
    return true;
}

static void host_unrealize(Device *dev)
{
    Q35Host *h = Q35_HOST(dev);
    pci_host_ports_destroy(&h->ports, dev->env->system_io);
    h->bus = NULL;
}

static const Property host_properties[] = {
    PROP_BOOL("firmware-preset", Q35Host, firmware_preset, false, "reset to what PC firmware leaves"),
    PROP_UINT16("extended-tseg-mbytes", Q35Host, ext_tseg_mbytes, 16, "MiB of a TSEG of size code 3"),
    PROP_END,
};

static const VmStateField host_fields[] = {
    VMS_UINT32(ports.config_address, Q35Host),
    VMS_END,
};

static const VmState host_vmstate = {
    .name = TYPE_Q35_HOST,
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
    .name = TYPE_Q35_HOST,
    .parent = TYPE_DEVICE,
    .description = "Q35 PCI Express host",
    .instance_size = sizeof(Q35Host),
    .class_init = host_class_init,
};
TYPE_REGISTER(host_info);
