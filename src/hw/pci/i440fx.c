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
#include "hw/pci/pam.h"
#include "hw/pci/pci_host.h"

#include <string.h>

enum { I440FX_PAM = 0x59, I440FX_SMRAM = 0x72, SMRAM_WRITABLE = 0x78 };

typedef struct I440fxState {
    PciDevice parent_obj;
    /* derived and configured */
    MemoryRegion *ram, *pci, *smram;
    Pam pam;
    bool firmware_preset;
} I440fxState;
#define I440FX(obj) OBJECT_CHECK(I440fxState, obj, TYPE_I440FX)

typedef struct I440fxHost {
    Device parent_obj;
    PciHostPorts ports; /* saved: its address latch */
    /* derived and configured */
    PciBus *bus;
    Device *function0;
    MemoryRegion *ram, *pci, *smram;
    bool firmware_preset;
} I440fxHost;
#define I440FX_HOST(obj) OBJECT_CHECK(I440fxHost, obj, TYPE_I440FX_HOST)

static void update_memory(I440fxState *s)
{
    const uint8_t *config = s->parent_obj.config;
    if (s->ram) {
        pam_update(&s->pam, config + I440FX_PAM, config[I440FX_SMRAM]);
    }
}

/* ---- function 00.0 ---- */
static void i440fx_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    I440fxState *s = I440FX(dev);
    uint8_t old_smram = dev->config[I440FX_SMRAM];
    pci_default_config_write(dev, address, value, size);
    uint8_t *smram = &dev->config[I440FX_SMRAM];
    *smram = smram_written(old_smram, *smram);
    if (address < I440FX_PAM + PAM_COUNT && address + size > I440FX_PAM) {
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
        memset(config + I440FX_PAM, 0x33, PAM_COUNT);
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
    memset(dev->wmask + I440FX_PAM, 0x33, PAM_COUNT);
    dev->wmask[I440FX_PAM] = 0x30;
    dev->wmask[I440FX_SMRAM] = SMRAM_WRITABLE;
    if (s->ram && s->pci && DEVICE(dev)->env->system_memory) {
        pam_init(&s->pam, s, DEVICE(dev)->env->system_memory, s->ram, s->pci, s->smram);
    } else {
        s->ram = NULL;
    }
    return true;
}

static void i440fx_unrealize(PciDevice *dev)
{
    if (I440FX(dev)->ram) {
        pam_destroy(&I440FX(dev)->pam);
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
    I440FX_HOST(dev)->ports.config_address = 0;
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
    pci_host_ports_init(&h->ports, h, h->bus, env->system_io);
    return true;
}

static void host_unrealize(Device *dev)
{
    I440fxHost *h = I440FX_HOST(dev);
    pci_host_ports_destroy(&h->ports, dev->env->system_io);
    h->bus = NULL;
}

static const Property host_properties[] = {
    PROP_BOOL("firmware-preset", I440fxHost, firmware_preset, false, "reset to what PC firmware leaves"),
    PROP_END,
};

static const VmStateField host_fields[] = {
    VMS_UINT32(ports.config_address, I440fxHost),
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
