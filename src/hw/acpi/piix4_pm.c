/*
 * Power management of the 82371AB (PIIX4), function 3: PM1 event and control blocks, the PM timer, the GPE0
 * block, the APM ports. Sources: Intel 82371AB data sheet (290562), chapter 7; ACPI specification 6.4,
 * chapter 4.8 (fixed hardware).
 *
 * Left out on purpose: the SMBus controller, device monitors, clock control, resume from S3.
 *
 * Threads: registers under the HomeLock in vCPUs' threads; the PM timer is read without any lock; its
 * overflow comes from the main loop. The GPE0 block sits at a fixed port, as PC firmware tables expect it.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/acpi/piix4_pm.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(piix4_pm_read, "offset 0x%02x size %u value 0x%x");
TRACE_EVENT(piix4_pm_write, "offset 0x%02x size %u value 0x%x");
TRACE_EVENT(piix4_pm_sci, "level %d");
TRACE_EVENT(piix4_pm_apm, "port 0xb2 value 0x%02x");

/* Configuration registers. */
enum { PIIX4_PMBA = 0x40, PIIX4_DEVACTB = 0x58, PIIX4_PMREGMISC = 0x80, PMREGMISC_PMIOSE = 1 };
#define DEVACTB_APMC_EN (1u << 25)
/* The PM block. */
enum { PM1_STATUS = 0, PM1_ENABLE = 2, PM1_CONTROL = 4, PM_TIMER = 8, PM_BLOCK_SIZE = 64 };
enum {
    PM1_TMR = 1u << 0,
    PM1_BM = 1u << 4,
    PM1_GBL = 1u << 5,
    PM1_PWRBTN = 1u << 8,
    PM1_SLPBTN = 1u << 9,
    PM1_RTC = 1u << 10,
    PM1_WAK = 1u << 15,
    PM1_STATUS_MASK = 0x8731,
    PM1_ENABLE_MASK = 0x0721,
};
enum {
    PM1_SCI_EN = 1u << 0,
    PM1_SLP_TYP_SHIFT = 10,
    PM1_SLP_EN = 1u << 13,
    PM1_CONTROL_MASK = 0x1c03,
};
#define PM_TIMER_HZ   3579545u
#define PM_TIMER_MASK 0xffffffu
#define NS_PER_SECOND 1000000000ll

typedef struct Piix4PmState {
    PciDevice parent_obj;
    /* saved */
    uint16_t pm1_status, pm1_enable, pm1_control;
    uint64_t timer_half; /* how often bit 23 had toggled when TMR_STS was cleared last */
    Timer overflow;
    uint8_t gpe_status[2], gpe_enable[2];
    uint8_t apm_control, apm_status;
    /* derived and configured */
    bool sci_level;
    uint16_t mapped_at; /* 0: the PM block is not decoded */
    IrqLine *sci;
    MemoryRegion block, timer_io, gpe_io, apm_io;
    uint8_t disable_s3, disable_s4, s4_val;
    bool firmware_preset, smm_enabled;
} Piix4PmState;
#define PIIX4_PM(obj) OBJECT_CHECK(Piix4PmState, obj, TYPE_PIIX4_PM)

/* ---- the PM timer ---- */
static uint64_t timer_ticks(const Piix4PmState *s)
{
    int64_t now_ns = clock_now_ns(s->parent_obj.parent_obj.env->clocks, CLOCK_TYPE_VIRTUAL);
    return (unsigned __int128)(uint64_t)now_ns * PM_TIMER_HZ / NS_PER_SECOND;
}

static uint16_t current_status(const Piix4PmState *s)
{
    return s->pm1_status | ((timer_ticks(s) >> 23) != s->timer_half ? PM1_TMR : 0);
}

static void update_sci(Piix4PmState *s)
{
    uint16_t status = current_status(s);
    bool level = (status & s->pm1_enable & (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_RTC)) ||
                 (s->gpe_status[0] & s->gpe_enable[0]) || (s->gpe_status[1] & s->gpe_enable[1]);
    if (level != s->sci_level) {
        TRACE(piix4_pm_sci, level);
        s->sci_level = level;
    }
    irq_set(s->sci, level);
    if ((s->pm1_enable & PM1_TMR) && !(status & PM1_TMR)) {
        uint64_t next = (s->timer_half + 1) << 23;
        timer_set(&s->overflow, (unsigned __int128)next * NS_PER_SECOND / PM_TIMER_HZ + 1);
    } else {
        timer_cancel(&s->overflow);
    }
}

static void timer_overflowed(void *opaque)
{
    update_sci(opaque);
}

static uint64_t timer_read(void *opaque, hwaddr offset, unsigned size)
{
    return (timer_ticks(opaque) & PM_TIMER_MASK) >> (8 * offset);
}

static void timer_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    /* read-only */
}

static const MemoryRegionOps timer_ops = {
    .read = timer_read,
    .write = timer_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

/* ---- PM1 ---- */
static void sleep_enter(Piix4PmState *s, unsigned type)
{
    const VmServices *vm = s->parent_obj.parent_obj.env->vm;
    if (!vm) {
        return;
    }
    if (type == PIIX4_SLP_TYP_S5) {
        vm->request_shutdown(vm->opaque, SHUTDOWN_GUEST_SHUTDOWN);
    } else if (type == PIIX4_SLP_TYP_S3 && !s->disable_s3) {
        if (vm->request_suspend) {
            vm->request_suspend(vm->opaque);
        }
    } else if (type == s->s4_val && !s->disable_s4) {
        if (vm->emit_event) {
            vm->emit_event(vm->opaque, "SUSPEND_DISK", NULL);
        }
        vm->request_shutdown(vm->opaque, SHUTDOWN_GUEST_SHUTDOWN);
    }
}

/* Registers are 16 bits wide; narrower accesses take their half, a dword two neighbours. */
static uint16_t block_get(Piix4PmState *s, unsigned reg)
{
    switch (reg) {
    case PM1_STATUS:
        return current_status(s);
    case PM1_ENABLE:
        return s->pm1_enable;
    case PM1_CONTROL:
        return s->pm1_control;
    default:
        return 0;
    }
}

static void block_set(Piix4PmState *s, unsigned reg, uint16_t value, uint16_t mask)
{
    switch (reg) {
    case PM1_STATUS:
        value &= mask & PM1_STATUS_MASK;
        s->pm1_status &= ~value;
        if (value & PM1_TMR) {
            s->timer_half = timer_ticks(s) >> 23;
        }
        update_sci(s);
        break;
    case PM1_ENABLE:
        s->pm1_enable = ((s->pm1_enable & ~mask) | (value & mask)) & PM1_ENABLE_MASK;
        update_sci(s);
        break;
    case PM1_CONTROL:
        s->pm1_control = ((s->pm1_control & ~mask) | (value & mask)) & PM1_CONTROL_MASK;
        if (value & mask & PM1_SLP_EN) {
            sleep_enter(s, (s->pm1_control >> PM1_SLP_TYP_SHIFT) & 7);
        }
        break;
    default:
        break;
    }
}

static uint64_t block_read(void *opaque, hwaddr offset, unsigned size)
{
    Piix4PmState *s = opaque;
    uint32_t pair = block_get(s, offset & ~1ull);
    if (size == 4) {
        pair |= (uint32_t)block_get(s, offset + 2) << 16;
    }
    uint32_t value = pair >> (8 * (offset & 1));
    TRACE(piix4_pm_read, (unsigned)offset, size, value);
    return value;
}

static void block_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Piix4PmState *s = opaque;
    TRACE(piix4_pm_write, (unsigned)offset, size, (uint32_t)value);
    if (size == 1) {
        unsigned shift = 8 * (offset & 1);
        block_set(s, offset & ~1ull, value << shift, 0xff << shift);
        return;
    }
    block_set(s, offset, value, 0xffff);
    if (size == 4) {
        block_set(s, offset + 2, value >> 16, 0xffff);
    }
}

static const MemoryRegionOps block_ops = {
    .read = block_read,
    .write = block_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

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
        s->pm1_control |= PM1_SCI_EN;
    } else if (value == PIIX4_ACPI_DISABLE) {
        s->pm1_control &= ~PM1_SCI_EN;
    }
    if (s->smm_enabled && (pci_get_long(s->parent_obj.config + PIIX4_DEVACTB) & DEVACTB_APMC_EN) &&
        env->apic_bus) {
        const ApicMessage smi = { .destination = 0, .mode = APIC_SMI, .assert_ = true };
        apic_bus_deliver(env->apic_bus, &smi);
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
    s->mapped_at = base;
    memory_transaction_commit();
}

static void piix4_pm_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    pci_default_config_write(dev, address, value, size);
    update_block(PIIX4_PM(dev));
}

/* ---- life ---- */
static void power_button(void *opaque)
{
    Piix4PmState *s = opaque;
    home_lock(&s->parent_obj.parent_obj.lock);
    s->pm1_status |= PM1_PWRBTN;
    update_sci(s);
    home_unlock(&s->parent_obj.parent_obj.lock);
}

static void piix4_pm_reset(Device *device)
{
    Piix4PmState *s = PIIX4_PM(device);
    uint8_t *config = s->parent_obj.config;
    pci_device_reset(device);
    memset(config + PCI_CONFIG_HEADER_SIZE, 0, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    pci_set_long(config + PIIX4_PMBA, 1);
    pci_set_long(config + 0x90, 1); /* SMBus base: I/O space */
    s->pm1_status = s->pm1_enable = s->pm1_control = 0;
    s->timer_half = timer_ticks(s) >> 23;
    memset(s->gpe_status, 0, sizeof(s->gpe_status));
    memset(s->gpe_enable, 0, sizeof(s->gpe_enable));
    s->apm_control = s->apm_status = 0;
    if (!s->smm_enabled) {
        /* Firmware takes it that SMM has been set up already, and leaves it alone. */
        pci_set_long(config + PIIX4_DEVACTB, DEVACTB_APMC_EN);
    }
    if (s->firmware_preset) {
        pci_set_long(config + PIIX4_PMBA, PIIX4_PM_BASE | 1);
        config[PIIX4_PMREGMISC] = PMREGMISC_PMIOSE;
        config[PCI_INTERRUPT_LINE] = PIIX4_SCI_IRQ;
        s->pm1_control = PM1_SCI_EN;
    }
    update_block(s);
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
    pci_set_long(dev->wmask + 0x90, 0xfff0);

    timer_init(&s->overflow, env->loop, env->clocks, CLOCK_TYPE_VIRTUAL, timer_overflowed, s, &device->lock);
    memory_region_init_io(&s->block, s, &block_ops, s, "piix4-pm", PM_BLOCK_SIZE, &device->lock);
    memory_region_init_io(&s->timer_io, s, &timer_ops, s, "acpi-tmr", 4, NULL);
    memory_region_init_io(&s->gpe_io, s, &gpe_ops, s, "acpi-gpe0", PIIX4_GPE0_LENGTH, &device->lock);
    memory_region_init_io(&s->apm_io, s, &apm_ops, s, "apm-io", 2, &device->lock);
    memory_region_add_overlap(&s->block, PM_TIMER, &s->timer_io, 1);
    memory_region_set_enabled(&s->block, false);
    memory_region_add(env->system_io, 0, &s->block);
    memory_region_add(env->system_io, PIIX4_GPE0_BASE, &s->gpe_io);
    memory_region_add(env->system_io, PIIX4_SMI_COMMAND, &s->apm_io);
    if (env->vm && env->vm->add_powerdown_handler) {
        env->vm->add_powerdown_handler(env->vm->opaque, power_button, s);
    }
    return true;
}

static void piix4_pm_unrealize(PciDevice *dev)
{
    Piix4PmState *s = PIIX4_PM(dev);
    const DeviceEnv *env = DEVICE(dev)->env;
    MemoryRegion *ports[] = { &s->block, &s->gpe_io, &s->apm_io };
    for (size_t i = 0; i < G_N_ELEMENTS(ports); i++) {
        memory_region_del(env->system_io, ports[i]);
    }
    memory_region_del(&s->block, &s->timer_io);
    memory_region_destroy(&s->timer_io);
    for (size_t i = 0; i < G_N_ELEMENTS(ports); i++) {
        memory_region_destroy(ports[i]);
    }
    timer_destroy(&s->overflow);
    s->mapped_at = 0;
}

void piix4_pm_set_sci(Device *dev, IrqLine *sci)
{
    PIIX4_PM(dev)->sci = sci;
}

static const Property piix4_pm_properties[] = {
    PROP_UINT8("disable_s3", Piix4PmState, disable_s3, 0, "1: no suspend to RAM"),
    PROP_UINT8("disable_s4", Piix4PmState, disable_s4, 0, "1: no suspend to disk"),
    PROP_UINT8("s4_val", Piix4PmState, s4_val, PIIX4_SLP_TYP_S4, "SLP_TYP of suspend to disk"),
    PROP_BOOL("smm-enabled", Piix4PmState, smm_enabled, true, "the machine has system management mode"),
    PROP_BOOL("firmware-preset", Piix4PmState, firmware_preset, false, "reset to what PC firmware leaves"),
    PROP_END,
};

static bool piix4_pm_post_load(void *opaque, int version, GError **error)
{
    Piix4PmState *s = opaque;
    s->pm1_status &= PM1_STATUS_MASK;
    s->pm1_enable &= PM1_ENABLE_MASK;
    s->pm1_control &= PM1_CONTROL_MASK;
    s->timer_half &= UINT64_MAX >> 24;
    s->sci_level = false;
    update_block(s);
    return true;
}

static const VmStateField piix4_pm_fields[] = {
    VMS_STRUCT(parent_obj, Piix4PmState, pci_device_vmstate),
    VMS_UINT16(pm1_status, Piix4PmState),
    VMS_UINT16(pm1_enable, Piix4PmState),
    VMS_UINT16(pm1_control, Piix4PmState),
    VMS_UINT64(timer_half, Piix4PmState),
    VMS_TIMER(overflow, Piix4PmState),
    VMS_UINT8(gpe_status, Piix4PmState),
    VMS_UINT8(gpe_enable, Piix4PmState),
    VMS_UINT8(apm_control, Piix4PmState),
    VMS_UINT8(apm_status, Piix4PmState),
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
