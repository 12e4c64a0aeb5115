/*
 * Power management of the 82371AB (PIIX4), function 3: PM1 and timer (pm1.c), the GPE0 block, the APM ports;
 * and hot-plug of PCI functions by ACPI (pci_hotplug.c). Sources: Intel 82371AB data sheet (290562), chapter
 * 7; ACPI specification 6.4, chapter 4.8 (fixed hardware).
 *
 * With the SMBus host controller (smbus.c). Left out on purpose: device monitors, clock control, resume from
 * S3.
 *
 * Threads: registers under the HomeLock in vCPUs' threads; the PM timer is read without any lock; its
 * overflow comes from the main loop. The GPE0 block sits at a fixed port, as PC firmware tables expect it.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/acpi/piix4_pm.h"

#include "base/error.h"
#include "hw/acpi/pci_hotplug.h"
#include "hw/acpi/pm1.h"
#include "hw/acpi/smbus.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(piix4_pm_sci, "level %d");
TRACE_EVENT(piix4_pm_apm, "port 0xb2 value 0x%02x");

/* Configuration registers. */
enum { PIIX4_PMBA = 0x40, PIIX4_DEVACTB = 0x58, PIIX4_PMREGMISC = 0x80, PMREGMISC_PMIOSE = 1 };
enum { PIIX4_SMBBA = 0x90, PIIX4_SMBHSTCFG = 0xd2, SMBHSTCFG_ENABLE = 1, SMBHSTCFG_IRQ9 = 8 };
enum { PIIX4_SMBUS_BASE = 0x700 };
#define DEVACTB_APMC_EN (1u << 25)
enum { PM_BLOCK_SIZE = 64 };

typedef struct Piix4PmState {
    PciDevice parent_obj;
    /* saved */
    AcpiPm1 pm1;
    uint8_t gpe_status[2], gpe_enable[2];
    uint8_t apm_control, apm_status;
    AcpiPciHotplug hotplug;
    SmbusHost smbus;
    /* derived and configured */
    bool sci_level;
    uint16_t mapped_at; /* 0: the PM block is not decoded */
    IrqLine *sci;
    MemoryRegion block, gpe_io, apm_io, smbus_io;
    uint64_t memory_size;
    bool firmware_preset, smm_enabled, pci_hotplug;
} Piix4PmState;
#define PIIX4_PM(obj) OBJECT_CHECK(Piix4PmState, obj, TYPE_PIIX4_PM)

/* ---- the SCI ---- */
static void update_sci(void *opaque)
{
    Piix4PmState *s = opaque;
    bool level = acpi_pm1_pending(&s->pm1) || (s->gpe_status[0] & s->gpe_enable[0]) ||
                 (s->gpe_status[1] & s->gpe_enable[1]);
    if (level != s->sci_level) {
        TRACE(piix4_pm_sci, level);
        s->sci_level = level;
    }
    irq_set(s->sci, level);
}

/* What of the block has no register. */
static uint64_t rest_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0;
}

static void rest_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
}

static const MemoryRegionOps rest_ops = {
    .read = rest_read,
    .write = rest_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

/* The lock is held. */
static void gpe_event(Piix4PmState *s, unsigned event)
{
    s->gpe_status[event / 8 % sizeof(s->gpe_status)] |= 1u << (event % 8);
    update_sci(s);
}

static void hotplug_event(void *opaque)
{
    gpe_event(opaque, ACPI_PCI_HOTPLUG_EVENT);
}

void piix4_pm_raise_gpe(Device *dev, unsigned event)
{
    home_lock(&dev->lock);
    gpe_event(PIIX4_PM(dev), event);
    home_unlock(&dev->lock);
}

/* ---- GPE0: two status bytes (write ones to clear), two enable bytes ---- */
static uint64_t gpe_read(void *opaque, hwaddr offset, unsigned size)
{
    Piix4PmState *s = opaque;
    return offset < 2 ? s->gpe_status[offset] : s->gpe_enable[offset - 2];
}

static void gpe_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Piix4PmState *s = opaque;
    if (offset < 2) {
        s->gpe_status[offset] &= ~value;
    } else {
        s->gpe_enable[offset - 2] = value;
    }
    update_sci(s);
}

static const MemoryRegionOps gpe_ops = {
    .read = gpe_read,
    .write = gpe_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 1 },
};

/* ---- the APM ports: how ACPI mode is entered, and software SMIs ---- */
static uint64_t apm_read(void *opaque, hwaddr offset, unsigned size)
{
    Piix4PmState *s = opaque;
    return offset == 0 ? s->apm_control : s->apm_status;
}

static void apm_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Piix4PmState *s = opaque;
    const DeviceEnv *env = s->parent_obj.parent_obj.env;
    if (offset == 1) {
        s->apm_status = value;
        return;
    }
    TRACE(piix4_pm_apm, (unsigned)value);
    s->apm_control = value;
    if (value == PIIX4_ACPI_ENABLE) {
        acpi_pm1_set_mode(&s->pm1, true);
    } else if (value == PIIX4_ACPI_DISABLE) {
        acpi_pm1_set_mode(&s->pm1, false);
    }
    if (s->smm_enabled && (pci_get_long(s->parent_obj.config + PIIX4_DEVACTB) & DEVACTB_APMC_EN) &&
        env->apic_bus) {
        apic_bus_smi(env->apic_bus, false);
    }
}

static const MemoryRegionOps apm_ops = {
    .read = apm_read,
    .write = apm_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

/* ---- configuration ---- */
static void update_block(Piix4PmState *s)
{
    const uint8_t *config = s->parent_obj.config;
    uint16_t base = pci_get_long(config + PIIX4_PMBA) & 0xffc0;
    if (!(config[PIIX4_PMREGMISC] & PMREGMISC_PMIOSE)) {
        base = 0;
    }
    if (base == s->mapped_at) {
        return;
    }
    memory_transaction_begin();
    memory_region_set_enabled(&s->block, base != 0);
    if (base) {
        memory_region_set_address(&s->block, base);
    }
    __atomic_store_n(&s->mapped_at, base, __ATOMIC_RELAXED);
    memory_transaction_commit();
}

static void update_smbus(Piix4PmState *s)
{
    const uint8_t *config = s->parent_obj.config;
    uint16_t base = pci_get_word(config + PIIX4_SMBBA) & 0xfff0;
    bool on = base && (config[PIIX4_SMBHSTCFG] & SMBHSTCFG_ENABLE);

    memory_transaction_begin();
    memory_region_set_enabled(&s->smbus_io, on);
    if (on) {
        memory_region_set_address(&s->smbus_io, base);
    }
    memory_transaction_commit();
}

static void piix4_pm_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    pci_default_config_write(dev, address, value, size);
    update_block(PIIX4_PM(dev));
    if ((address & ~3u) == PIIX4_SMBBA || (address & ~3u) == (PIIX4_SMBHSTCFG & ~3u)) {
        update_smbus(PIIX4_PM(dev));
    }
}

/* ---- life ---- */
static void piix4_pm_reset(Device *device)
{
    Piix4PmState *s = PIIX4_PM(device);
    uint8_t *config = s->parent_obj.config;
    pci_device_reset(device);
    memset(config + PCI_CONFIG_HEADER_SIZE, 0, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    pci_set_long(config + PIIX4_PMBA, 1);
    pci_set_long(config + PIIX4_SMBBA, 1); /* SMBus base: I/O space */
    acpi_pm1_reset(&s->pm1, s->firmware_preset);
    memset(s->gpe_status, 0, sizeof(s->gpe_status));
    memset(s->gpe_enable, 0, sizeof(s->gpe_enable));
    s->apm_control = s->apm_status = 0;
    if (s->pci_hotplug) {
        acpi_pci_hotplug_reset(&s->hotplug);
    }
    if (!s->smm_enabled) {
        /* Firmware takes it that SMM has been set up already, and leaves it alone. */
        pci_set_long(config + PIIX4_DEVACTB, DEVACTB_APMC_EN);
    }
    if (s->firmware_preset) {
        pci_set_long(config + PIIX4_PMBA, PIIX4_PM_BASE | 1);
        config[PIIX4_PMREGMISC] = PMREGMISC_PMIOSE;
        config[PCI_INTERRUPT_LINE] = PIIX4_SCI_IRQ;
        pci_set_long(config + PIIX4_SMBBA, PIIX4_SMBUS_BASE | 1);
        config[PIIX4_SMBHSTCFG] = SMBHSTCFG_ENABLE | SMBHSTCFG_IRQ9;
    }
    smbus_reset(&s->smbus);
    update_block(s);
    update_smbus(s);
    update_sci(s);
}

static bool piix4_pm_realize(PciDevice *dev, GError **error)
{
    Piix4PmState *s = PIIX4_PM(dev);
    Device *device = DEVICE(dev);
    const DeviceEnv *env = device->env;
    if (!env || !env->system_io || !env->clocks || !env->loop) {
        return error_set(error, "%s needs I/O ports and a clock", TYPE_PIIX4_PM);
    }
    if (!s->sci && env->isa_irqs) {
        s->sci = env->isa_irqs[PIIX4_SCI_IRQ];
    }
    pci_set_word(dev->config + PCI_STATUS, PCI_STATUS_FAST_BACK | PCI_STATUS_DEVSEL_MEDIUM);
    dev->config[PCI_INTERRUPT_PIN] = 1;
    memset(dev->wmask + PCI_CONFIG_HEADER_SIZE, 0xff, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    pci_set_long(dev->wmask + PIIX4_PMBA, 0xffc0);
    pci_set_long(dev->config + PIIX4_PMBA, 1);
    pci_set_long(dev->wmask + PIIX4_SMBBA, 0xfff0);

    memory_region_init_io(&s->block, s, &rest_ops, s, "piix4-pm", PM_BLOCK_SIZE, NULL);
    acpi_pm1_init(&s->pm1, device, &s->block, update_sci, s);
    memory_region_init_io(&s->gpe_io, s, &gpe_ops, s, "acpi-gpe0", PIIX4_GPE0_LENGTH, &device->lock);
    memory_region_init_io(&s->apm_io, s, &apm_ops, s, "apm-io", 2, &device->lock);
    memory_region_init_io(&s->smbus_io, s, &smbus_ops, &s->smbus, "piix4-smbus", SMBUS_IO_SIZE,
                          &device->lock);
    smbus_set_memory(&s->smbus, s->memory_size);
    memory_region_set_enabled(&s->block, false);
    memory_region_set_enabled(&s->smbus_io, false);
    memory_region_add(env->system_io, 0, &s->block);
    memory_region_add(env->system_io, 0, &s->smbus_io);
    memory_region_add(env->system_io, PIIX4_GPE0_BASE, &s->gpe_io);
    memory_region_add(env->system_io, PIIX4_SMI_COMMAND, &s->apm_io);
    if (s->pci_hotplug) {
        acpi_pci_hotplug_init(&s->hotplug, device, PCI_BUS(device->bus), PIIX4_PCI_HOTPLUG, hotplug_event, s);
    }
    return true;
}

static void piix4_pm_unrealize(PciDevice *dev)
{
    Piix4PmState *s = PIIX4_PM(dev);
    const DeviceEnv *env = DEVICE(dev)->env;
    MemoryRegion *ports[] = { &s->block, &s->gpe_io, &s->apm_io, &s->smbus_io };
    for (size_t i = 0; i < G_N_ELEMENTS(ports); i++) {
        memory_region_del(env->system_io, ports[i]);
    }
    acpi_pm1_destroy(&s->pm1, &s->block);
    if (s->pci_hotplug) {
        acpi_pci_hotplug_destroy(&s->hotplug);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(ports); i++) {
        memory_region_destroy(ports[i]);
    }
    s->mapped_at = 0;
}

uint16_t piix4_pm_base(Device *dev)
{
    return __atomic_load_n(&PIIX4_PM(dev)->mapped_at, __ATOMIC_RELAXED);
}

void piix4_pm_set_sci(Device *dev, IrqLine *sci)
{
    PIIX4_PM(dev)->sci = sci;
}

static const Property piix4_pm_properties[] = {
    ACPI_PM1_PROPERTIES(Piix4PmState, pm1),
    PROP_BOOL("acpi-root-pci-hotplug", Piix4PmState, pci_hotplug, true,
              "the guest is asked, by ACPI, before a card goes"),
    PROP_BOOL("smm-enabled", Piix4PmState, smm_enabled, true, "the machine has system management mode"),
    PROP_SIZE("memory-size", Piix4PmState, memory_size, 0, "what the memory modules on the SMBus tell"),
    PROP_BOOL("firmware-preset", Piix4PmState, firmware_preset, false, "reset to what PC firmware leaves"),
    PROP_END,
};

static bool piix4_pm_post_load(void *opaque, int version, GError **error)
{
    Piix4PmState *s = opaque;
    s->sci_level = false;
    update_block(s);
    update_smbus(s);
    return true;
}

static const VmStateField piix4_pm_fields[] = {
    VMS_STRUCT(parent_obj, Piix4PmState, pci_device_vmstate),
    VMS_STRUCT(pm1, Piix4PmState, acpi_pm1_vmstate),
    VMS_UINT8(gpe_status, Piix4PmState),
    VMS_UINT8(gpe_enable, Piix4PmState),
    VMS_UINT8(apm_control, Piix4PmState),
    VMS_UINT8(apm_status, Piix4PmState),
    VMS_STRUCT(hotplug, Piix4PmState, acpi_pci_hotplug_vmstate),
    VMS_STRUCT(smbus, Piix4PmState, smbus_vmstate),
    VMS_END,
};

static const VmState piix4_pm_vmstate = {
    .name = "piix4_pm",
    .version = 1,
    .minimum_version = 1,
    .fields = piix4_pm_fields,
    .post_load = piix4_pm_post_load,
};

static void piix4_pm_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->device_id = 0x7113;
    pc->revision = 3;
    pc->class_id = PCI_CLASS_BRIDGE_OTHER;
    pc->realize = piix4_pm_realize;
    pc->unrealize = piix4_pm_unrealize;
    pc->config_write = piix4_pm_config_write;
    dc->reset = piix4_pm_reset;
    dc->vmstate = &piix4_pm_vmstate;
    dc->category = "Bridge";
    dc->user_creatable = false;
    dc->hotpluggable = false;
    object_class_add_properties(klass, piix4_pm_properties);
}

static const TypeInfo piix4_pm_info = {
    .name = TYPE_PIIX4_PM,
    .parent = TYPE_PCI_DEVICE,
    .description = "PIIX4 power management",
    .instance_size = sizeof(Piix4PmState),
    .class_init = piix4_pm_class_init,
};
TYPE_REGISTER(piix4_pm_info);
