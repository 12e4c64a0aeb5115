/*
 * The SMBus controller of the ICH9, function 1f.3, with the memory modules' EEPROMs. Source: Intel I/O
 * Controller Hub 9 (ICH9) Family data sheet (316972), chapter 19. The host controller is smbus.c, which the
 * PIIX4 has, too.
 *
 * Left out on purpose: the slave interface, alerts, SMIs, packet error codes, the memory-mapped copy of the
 * registers (BAR 0).
 *
 * Threads: configuration and ports in vCPUs' threads under the HomeLock. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "hw/acpi/ich9_smb.h"

#include "base/error.h"
#include "hw/acpi/smbus.h"
#include "hw/pci/pci.h"

enum { HOSTC = 0x40, HOSTC_ENABLE = 0x01, HOSTC_SMI = 0x02, HOSTC_I2C = 0x04 };
enum { SMB_BAR = 4, SMB_IO_SIZE = 32, SMB_PIN = 2 };

typedef struct Ich9Smb {
    PciDevice parent_obj;
    SmbusHost smbus;
    /* configured */
    uint64_t memory_size;
    bool firmware_preset;
    MemoryRegion io;
} Ich9Smb;
#define ICH9_SMB(obj) OBJECT_CHECK(Ich9Smb, obj, TYPE_ICH9_SMB)

static bool enabled(const Ich9Smb *s)
{
    return s->parent_obj.config[HOSTC] & HOSTC_ENABLE;
}

static void update_irq(Ich9Smb *s)
{
    pci_set_irq(&s->parent_obj, enabled(s) && smbus_interrupt(&s->smbus));
}

static uint64_t smb_read(void *opaque, hwaddr offset, unsigned size)
{
    Ich9Smb *s = opaque;
    return enabled(s) ? smbus_ops.read(&s->smbus, offset, size) : UINT64_MAX;
}

static void smb_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Ich9Smb *s = opaque;
    if (enabled(s)) {
        smbus_ops.write(&s->smbus, offset, value, size);
        update_irq(s);
    }
}

static const MemoryRegionOps smb_ops = {
    .read = smb_read,
    .write = smb_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 1 },
};

static void smb_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    pci_default_config_write(dev, address, value, size);
    update_irq(ICH9_SMB(dev));
}

static void smb_reset(Device *device)
{
    Ich9Smb *s = ICH9_SMB(device);
    pci_device_reset(device);
    s->parent_obj.config[HOSTC] = s->firmware_preset ? HOSTC_ENABLE : 0;
    smbus_reset(&s->smbus);
}

static bool smb_realize(PciDevice *dev, GError **error)
{
    Ich9Smb *s = ICH9_SMB(dev);
    dev->config[PCI_INTERRUPT_PIN] = SMB_PIN;
    dev->wmask[HOSTC] = HOSTC_ENABLE | HOSTC_SMI | HOSTC_I2C;
    s->smbus.ich9 = true;
    smbus_set_memory(&s->smbus, s->memory_size);
    memory_region_init_io(&s->io, s, &smb_ops, s, "ich9-smbus", SMB_IO_SIZE, &DEVICE(dev)->lock);
    pci_register_bar(dev, SMB_BAR, PCI_BAR_IO, &s->io);
    return true;
}

static void smb_unrealize(PciDevice *dev)
{
    memory_region_destroy(&ICH9_SMB(dev)->io);
}

static const Property smb_properties[] = {
    PROP_SIZE("memory-size", Ich9Smb, memory_size, 0, "what the memory modules on the SMBus tell"),
    PROP_BOOL("firmware-preset", Ich9Smb, firmware_preset, false, "reset to what PC firmware leaves"),
    PROP_END,
};

static const VmStateField smb_fields[] = {
    VMS_STRUCT(parent_obj, Ich9Smb, pci_device_vmstate),
    VMS_STRUCT(smbus, Ich9Smb, smbus_vmstate),
    VMS_END,
};
static const VmState smb_vmstate = { .name = TYPE_ICH9_SMB, .version = 1, .fields = smb_fields };

static void smb_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->device_id = 0x2930;
    pc->revision = 2;
    pc->class_id = 0x0c05;
    pc->realize = smb_realize;
    pc->unrealize = smb_unrealize;
    pc->config_write = smb_config_write;
    dc->reset = smb_reset;
    dc->vmstate = &smb_vmstate;
    dc->category = "Bridge";
    dc->user_creatable = false;
    dc->hotpluggable = false;
    object_class_add_properties(klass, smb_properties);
}

static const TypeInfo smb_info = {
    .name = TYPE_ICH9_SMB,
    .parent = TYPE_PCI_DEVICE,
    .description = "ICH9 SMBus controller",
    .instance_size = sizeof(Ich9Smb),
    .class_init = smb_class_init,
};
TYPE_REGISTER(smb_info);
