/*
 * The LPC bridge of the ICH9, function 1f.0: routing of INTx to the 8259 pair and the I/O APIC, the root
 * complex registers that say which PIRQ a device's pin is, power management, SMIs by port 0xb2, the reset
 * port. Source: Intel I/O Controller Hub 9 (ICH9) Family data sheet (316972), chapters 10.1 (chipset
 * configuration registers), 13.1 (configuration), 13.7 (reset control), 13.8 (power management).
 *
 * Left out on purpose: TCO timer, GPIO, decode windows of LPC (their registers hold what is written), SMIs
 * other than those of port 0xb2, resume from S3.
 *
 * Threads: configuration and ports run in vCPUs' threads under the HomeLock; the routing is guarded by the
 * root bus's irq_lock, since pci_set_irq() of any function comes through here; the PM timer needs no lock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/isa/ich9_lpc.h"

#include "base/error.h"
#include "hw/acpi/pm1.h"
#include "hw/isa/isa.h"
#include "hw/isa/reset_control.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(ich9_route, "PIRQ %c to IRQ %d");
TRACE_EVENT(ich9_pm_read, "offset 0x%02x value 0x%02x");
TRACE_EVENT(ich9_pm_write, "offset 0x%02x value 0x%02x");
TRACE_EVENT(ich9_sci, "level %d");
TRACE_EVENT(ich9_apm, "value 0x%02x smi %d");
TRACE_EVENT(ich9_rcba, "offset 0x%04x value 0x%x");

/* Configuration registers. */
enum {
    ICH9_PMBASE = 0x40,
    ICH9_ACPI_CNTL = 0x44,
    ICH9_PIRQA_ROUT = 0x60, /* four: PIRQ A to D */
    ICH9_PIRQE_ROUT = 0x68, /* four: PIRQ E to H */
    ICH9_GEN_PMCON_1 = 0xa0,
    ICH9_RCBA_REG = 0xf0,
};
enum {
    PMBASE_MASK = 0xff80,
    ACPI_CNTL_ENABLE = 0x80,
    ACPI_CNTL_SCI_SELECT = 0x07,
    PIRQ_DISABLED = 0x80,
    PIRQ_MASK = 0x8f,
    PMCON_SMI_LOCK = 0x10,
    RCBA_ENABLE = 1,
};
/* The block at PMBASE. */
enum {
    PM_GPE0_STATUS = 0x20,
    PM_GPE0_ENABLE = 0x28,
    PM_SMI_ENABLE = 0x30,
    PM_SMI_STATUS = 0x34,
    PM_BLOCK_SIZE = 0x80,
};
enum { SMI_GLOBAL = 1u << 0, SMI_EOS = 1u << 1, SMI_APMC = 1u << 5 };
#define SMI_ENABLE_MASK 0x00006eff
#define GPE_BYTES       8
/* Interrupt route registers of devices 31 to 25, in the root complex's space. */
enum { ROUTED_FIRST = 25, ROUTED = 7, ROUTE_DEFAULT = 0x3210, SLOT_DMI_BRIDGE = 30 };
static const uint16_t route_offsets[ROUTED] = { 0x3150, 0x314c, 0x3148, 0x3146, 0x3144, 0x3142, 0x3140 };

/* Where PC firmware routes PIRQ A to H. */
static const uint8_t firmware_routes[ICH9_PIRQS] = { 10, 10, 11, 11, 10, 10, 11, 11 };

typedef struct Ich9Lpc {
    PciDevice parent_obj;
    /* saved */
    AcpiPm1 pm1;
    uint8_t gpe_status[GPE_BYTES], gpe_enable[GPE_BYTES];
    uint32_t smi_enable, smi_status;
    uint8_t apm_control, apm_status;
    ResetControl reset;             /* its value */
    uint16_t device_routes[ROUTED]; /* of devices 25 to 31; guarded by the bus's irq_lock */
    uint8_t pirq_level;             /* bit n: PIRQ n is asserted; same */
    uint8_t routes[ICH9_PIRQS];     /* the configuration's; same */
    /* derived and configured */
    bool sci_level;
    uint16_t pm_at;   /* 0: the block is not decoded */
    uint32_t rcba_at; /* same */
    Bus *isa;
    MemoryRegion pm_block, rcba, apm_io;
    bool firmware_preset, smm_enabled;
} Ich9Lpc;
#define ICH9_LPC(obj) OBJECT_CHECK(Ich9Lpc, obj, TYPE_ICH9_LPC)

static const DeviceEnv *env_of(const Ich9Lpc *s)
{
    return s->parent_obj.parent_obj.env;
}

/* ---- routing; the bus's irq_lock is held ---- */
unsigned ich9_default_pirq(unsigned slot, int pin)
{
    if (slot < ROUTED_FIRST || slot == SLOT_DMI_BRIDGE) {
        return 4 + ((slot < ROUTED_FIRST ? slot : 0) + (unsigned)pin) % 4; /* E to H */
    }
    return (ROUTE_DEFAULT >> (4 * pin)) & 7;
}

static int map_pirq(void *opaque, unsigned slot, int pin)
{
    const Ich9Lpc *s = opaque;
    if (slot < ROUTED_FIRST || slot == SLOT_DMI_BRIDGE) {
        return (int)ich9_default_pirq(slot, pin);
    }
    return (s->device_routes[slot - ROUTED_FIRST] >> (4 * pin)) & 7;
}

/* The global system interrupt of the SCI: 9 to 11 are ISA's. */
static int sci_gsi(const Ich9Lpc *s)
{
    uint8_t select = s->parent_obj.config[ICH9_ACPI_CNTL] & ACPI_CNTL_SCI_SELECT;
    return select <= 2 ? ICH9_SCI_IRQ + select : select == 4 || select == 5 ? 16 + select : -1;
}

/* PIRQs and the SCI may share an interrupt. */
static void drive_irq(Ich9Lpc *s, int irq)
{
    const DeviceEnv *env = env_of(s);
    if (irq >= ISA_IRQS || !env || !env->isa_irqs) {
        return;
    }
    bool level = s->sci_level && irq == sci_gsi(s);
    for (int pirq = 0; pirq < ICH9_PIRQS; pirq++) {
        level |= s->routes[pirq] == irq && (s->pirq_level & (1u << pirq));
    }
    irq_set(env->isa_irqs[irq], level);
}

static void drive_gsi(Ich9Lpc *s, int pirq)
{
    const DeviceEnv *env = env_of(s);
    if (env && env->gsi) {
        irq_set(env->gsi[ICH9_PIRQ_GSI + pirq],
                (s->pirq_level & (1u << pirq)) || (s->sci_level && sci_gsi(s) == ICH9_PIRQ_GSI + pirq));
    }
}

static void set_pirq(void *opaque, int pirq, bool level)
{
    Ich9Lpc *s = opaque;
    uint8_t bit = 1u << pirq;
    s->pirq_level = level ? s->pirq_level | bit : s->pirq_level & ~bit;
    drive_irq(s, s->routes[pirq]);
    drive_gsi(s, pirq);
}

static uint32_t route_register(int pirq)
{
    return pirq < 4 ? ICH9_PIRQA_ROUT + (uint32_t)pirq : ICH9_PIRQE_ROUT + (uint32_t)pirq - 4;
}

/* Takes over what the configuration registers say. */
static void update_routes(Ich9Lpc *s)
{
    PciBus *bus = PCI_BUS(s->parent_obj.parent_obj.bus);
    home_lock(&bus->irq_lock);
    for (int pirq = 0; pirq < ICH9_PIRQS; pirq++) {
        uint8_t old = s->routes[pirq], now = s->parent_obj.config[route_register(pirq)];
        if (old != now) {
            TRACE(ich9_route, 'A' + pirq, now & PIRQ_DISABLED ? -1 : now);
            s->routes[pirq] = now;
            drive_irq(s, old);
            drive_irq(s, now);
        }
    }
    home_unlock(&bus->irq_lock);
}

/* ---- the SCI ---- */
static bool gpe_pending(const Ich9Lpc *s)
{
    bool pending = false;
    for (int i = 0; i < GPE_BYTES; i++) {
        pending |= s->gpe_status[i] & s->gpe_enable[i];
    }
    return pending;
}

static void update_sci(void *opaque)
{
    Ich9Lpc *s = opaque;
    PciBus *bus = PCI_BUS(s->parent_obj.parent_obj.bus);
    bool level = acpi_pm1_pending(&s->pm1) || gpe_pending(s);

    if (level != s->sci_level) {
        TRACE(ich9_sci, level);
    }
    home_lock(&bus->irq_lock);
    s->sci_level = level;
    /* Wherever it may be selected to go, so that one it has left falls. */
    for (int irq = ICH9_SCI_IRQ; irq <= ICH9_SCI_IRQ + 2; irq++) {
        drive_irq(s, irq);
    }
    drive_gsi(s, 4);
    drive_gsi(s, 5);
    home_unlock(&bus->irq_lock);
}

void ich9_lpc_set_gpe(Device *dev, unsigned event, bool on)
{
    Ich9Lpc *s = ICH9_LPC(dev);
    uint8_t bit = 1u << (event % 8);
    home_lock(&dev->lock);
    uint8_t *status = &s->gpe_status[event / 8 % GPE_BYTES];
    *status = on ? *status | bit : *status & ~bit;
    update_sci(s);
    home_unlock(&dev->lock);
}

/* ---- the block at PMBASE, but for PM1 and the timer: byte by byte ---- */
static uint64_t pm_read(void *opaque, hwaddr offset, unsigned size)
{
    Ich9Lpc *s = opaque;
    uint8_t value = 0;
    if (offset >= PM_GPE0_STATUS && offset < PM_GPE0_STATUS + GPE_BYTES) {
        value = s->gpe_status[offset - PM_GPE0_STATUS];
    } else if (offset >= PM_GPE0_ENABLE && offset < PM_GPE0_ENABLE + GPE_BYTES) {
        value = s->gpe_enable[offset - PM_GPE0_ENABLE];
    } else if (offset >= PM_SMI_ENABLE && offset < PM_SMI_ENABLE + 4) {
        value = s->smi_enable >> (8 * (offset - PM_SMI_ENABLE));
    } else if (offset >= PM_SMI_STATUS && offset < PM_SMI_STATUS + 4) {
        value = s->smi_status >> (8 * (offset - PM_SMI_STATUS));
    }
    TRACE(ich9_pm_read, (unsigned)offset, value);
    return value;
}

static void smi_enable_write(Ich9Lpc *s, unsigned byte, uint8_t value)
{
    uint32_t mask = SMI_ENABLE_MASK & (0xffu << (8 * byte));
    if (s->parent_obj.config[ICH9_GEN_PMCON_1] & PMCON_SMI_LOCK) {
        mask &= ~(uint32_t)SMI_GLOBAL;
    }
    if (!s->smm_enabled) {
        mask &= ~(uint32_t)SMI_APMC;
    }
    mask &= ~(uint32_t)SMI_EOS; /* reads as zero: an SMI never stays pending here */
    s->smi_enable = (s->smi_enable & ~mask) | ((uint32_t)value << (8 * byte) & mask);
}

static void pm_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Ich9Lpc *s = opaque;
    TRACE(ich9_pm_write, (unsigned)offset, (unsigned)value);
    if (offset >= PM_GPE0_STATUS && offset < PM_GPE0_STATUS + GPE_BYTES) {
        s->gpe_status[offset - PM_GPE0_STATUS] &= ~value;
        update_sci(s);
    } else if (offset >= PM_GPE0_ENABLE && offset < PM_GPE0_ENABLE + GPE_BYTES) {
        s->gpe_enable[offset - PM_GPE0_ENABLE] = value;
        update_sci(s);
    } else if (offset >= PM_SMI_ENABLE && offset < PM_SMI_ENABLE + 4) {
        smi_enable_write(s, offset - PM_SMI_ENABLE, value);
    } else if (offset >= PM_SMI_STATUS && offset < PM_SMI_STATUS + 4) {
        s->smi_status &= ~((uint32_t)value << (8 * (offset - PM_SMI_STATUS)));
    }
}

static const MemoryRegionOps pm_ops = {
    .read = pm_read,
    .write = pm_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 1 },
};

/* ---- the APM ports: how ACPI mode is entered, and software SMIs ---- */
static uint64_t apm_read(void *opaque, hwaddr offset, unsigned size)
{
    Ich9Lpc *s = opaque;
    return offset == 0 ? s->apm_control : s->apm_status;
}

static void apm_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Ich9Lpc *s = opaque;
    const DeviceEnv *env = env_of(s);
    if (offset == 1) {
        s->apm_status = value;
        return;
    }
    bool smi = s->smm_enabled && (s->smi_enable & SMI_APMC) && env->apic_bus;
    TRACE(ich9_apm, (unsigned)value, smi);
    s->apm_control = value;
    if (value == ICH9_ACPI_ENABLE || value == ICH9_ACPI_DISABLE) {
        acpi_pm1_set_mode(&s->pm1, value == ICH9_ACPI_ENABLE);
    }
    if (smi) {
        s->smi_status |= SMI_APMC;
        apic_bus_smi(env->apic_bus, false);
    }
}

static const MemoryRegionOps apm_ops = {
    .read = apm_read,
    .write = apm_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

/* ---- chipset configuration registers ---- */
static uint64_t rcba_read(void *opaque, hwaddr offset, unsigned size)
{
    Ich9Lpc *s = opaque;
    for (unsigned i = 0; i < ROUTED; i++) {
        if (offset == route_offsets[i]) {
            return s->device_routes[i];
        }
    }
    return 0;
}

static void rcba_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Ich9Lpc *s = opaque;
    PciBus *bus = PCI_BUS(s->parent_obj.parent_obj.bus);
    TRACE(ich9_rcba, (unsigned)offset, (unsigned)value);
    for (unsigned i = 0; i < ROUTED; i++) {
        if (offset == route_offsets[i]) {
            home_lock(&bus->irq_lock);
            s->device_routes[i] = value & 0x7777;
            pci_root_reroute(bus);
            home_unlock(&bus->irq_lock);
        }
    }
}

static const MemoryRegionOps rcba_ops = {
    .read = rcba_read,
    .write = rcba_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 2, .max = 2 },
};

/* ---- configuration ---- */
static void update_decoding(Ich9Lpc *s)
{
    const uint8_t *config = s->parent_obj.config;
    uint16_t pm =
        config[ICH9_ACPI_CNTL] & ACPI_CNTL_ENABLE ? pci_get_word(config + ICH9_PMBASE) & PMBASE_MASK : 0;
    uint32_t rcba = pci_get_long(config + ICH9_RCBA_REG);
    rcba = rcba & RCBA_ENABLE ? rcba & ~(ICH9_RCBA_SIZE - 1) : 0;
    if (pm == s->pm_at && rcba == s->rcba_at) {
        return;
    }
    memory_transaction_begin();
    if (pm != s->pm_at) {
        memory_region_set_enabled(&s->pm_block, pm != 0);
        memory_region_set_address(&s->pm_block, pm);
        __atomic_store_n(&s->pm_at, pm, __ATOMIC_RELAXED);
    }
    if (rcba != s->rcba_at) {
        memory_region_set_enabled(&s->rcba, rcba != 0);
        memory_region_set_address(&s->rcba, rcba);
        s->rcba_at = rcba;
    }
    memory_transaction_commit();
}

static void ich9_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    Ich9Lpc *s = ICH9_LPC(dev);
    uint8_t locked = dev->config[ICH9_GEN_PMCON_1] & PMCON_SMI_LOCK;
    pci_default_config_write(dev, address, value, size);
    dev->config[ICH9_GEN_PMCON_1] |= locked; /* until the next reset */
    update_routes(s);
    update_decoding(s);
    if (address <= ICH9_ACPI_CNTL && address + size > ICH9_ACPI_CNTL) {
        update_sci(s);
    }
}

/* ---- life ---- */
static void ich9_reset(Device *device)
{
    Ich9Lpc *s = ICH9_LPC(device);
    PciBus *bus = PCI_BUS(device->bus);
    uint8_t *config = s->parent_obj.config;

    pci_device_reset(device);
    pci_set_word(config + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    memset(config + PCI_CONFIG_HEADER_SIZE, 0, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    pci_set_long(config + ICH9_PMBASE, 1);
    pci_set_long(config + ICH9_RCBA_REG, 0);
    for (int pirq = 0; pirq < ICH9_PIRQS; pirq++) {
        config[route_register(pirq)] = s->firmware_preset ? firmware_routes[pirq] : PIRQ_DISABLED;
    }
    if (s->firmware_preset) {
        pci_set_long(config + ICH9_PMBASE, ICH9_PM_BASE | 1);
        config[ICH9_ACPI_CNTL] = ACPI_CNTL_ENABLE;
        pci_set_long(config + ICH9_RCBA_REG, ICH9_RCBA | RCBA_ENABLE);
        config[PCI_INTERRUPT_LINE] = ICH9_SCI_IRQ;
    }
    home_lock(&bus->irq_lock);
    for (unsigned i = 0; i < ROUTED; i++) {
        s->device_routes[i] = ROUTE_DEFAULT;
    }
    pci_root_reroute(bus);
    home_unlock(&bus->irq_lock);
    acpi_pm1_reset(&s->pm1, s->firmware_preset);
    memset(s->gpe_status, 0, sizeof(s->gpe_status));
    memset(s->gpe_enable, 0, sizeof(s->gpe_enable));
    /* Without SMM firmware takes it that it has been set up already, and leaves it alone. */
    s->smi_enable = s->smm_enabled ? 0 : SMI_APMC;
    s->smi_status = 0;
    s->apm_control = s->apm_status = 0;
    s->reset.value = 0;
    update_routes(s);
    update_decoding(s);
    update_sci(s);
}

static bool ich9_realize(PciDevice *dev, GError **error)
{
    Ich9Lpc *s = ICH9_LPC(dev);
    Device *device = DEVICE(dev);
    const DeviceEnv *env = device->env;

    if (!env || !env->system_io || !env->system_memory || !env->clocks || !env->loop) {
        return error_set(error, "%s needs memory, I/O ports and a clock", TYPE_ICH9_LPC);
    }
    pci_set_word(dev->config + PCI_STATUS, PCI_STATUS_DEVSEL_MEDIUM);
    memset(dev->wmask + PCI_CONFIG_HEADER_SIZE, 0xff, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    pci_set_long(dev->wmask + ICH9_PMBASE, PMBASE_MASK);
    dev->wmask[ICH9_ACPI_CNTL] = ACPI_CNTL_ENABLE | ACPI_CNTL_SCI_SELECT;
    for (int pirq = 0; pirq < ICH9_PIRQS; pirq++) {
        dev->wmask[route_register(pirq)] = PIRQ_MASK;
    }
    pci_set_long(dev->wmask + ICH9_RCBA_REG, ~(ICH9_RCBA_SIZE - 1) | RCBA_ENABLE);
    memset(s->routes, PIRQ_DISABLED, sizeof(s->routes));
    for (unsigned i = 0; i < ROUTED; i++) {
        s->device_routes[i] = ROUTE_DEFAULT;
    }
    s->pirq_level = 0;

    memory_region_init_io(&s->pm_block, s, &pm_ops, s, "ich9-pm", PM_BLOCK_SIZE, &device->lock);
    acpi_pm1_init(&s->pm1, device, &s->pm_block, update_sci, s);
    memory_region_init_io(&s->rcba, s, &rcba_ops, s, "ich9-rcba", ICH9_RCBA_SIZE, &device->lock);
    memory_region_init_io(&s->apm_io, s, &apm_ops, s, "ich9-apm", 2, &device->lock);
    memory_region_set_enabled(&s->pm_block, false);
    memory_region_set_enabled(&s->rcba, false);
    memory_region_add(env->system_io, 0, &s->pm_block);
    memory_region_add_overlap(env->system_memory, 0, &s->rcba, 1);
    memory_region_add(env->system_io, ICH9_SMI_COMMAND, &s->apm_io);
    reset_control_init(&s->reset, device);
    s->isa = isa_bus_new(device, env);
    pci_bus_set_irq_routing(PCI_BUS(device->bus), map_pirq, set_pirq, s);
    return true;
}

static void ich9_unrealize(PciDevice *dev)
{
    Ich9Lpc *s = ICH9_LPC(dev);
    const DeviceEnv *env = DEVICE(dev)->env;

    pci_bus_set_irq_routing(PCI_BUS(DEVICE(dev)->bus), NULL, NULL, NULL);
    memory_region_del(env->system_io, &s->pm_block);
    memory_region_del(env->system_memory, &s->rcba);
    memory_region_del(env->system_io, &s->apm_io);
    acpi_pm1_destroy(&s->pm1, &s->pm_block);
    memory_region_destroy(&s->pm_block);
    memory_region_destroy(&s->rcba);
    memory_region_destroy(&s->apm_io);
    reset_control_destroy(&s->reset);
    s->pm_at = 0;
    s->rcba_at = 0;
    s->isa = NULL;
}

Bus *ich9_lpc_isa_bus(Device *dev)
{
    return ICH9_LPC(dev)->isa;
}

uint16_t ich9_lpc_pm_base(Device *dev)
{
    return __atomic_load_n(&ICH9_LPC(dev)->pm_at, __ATOMIC_RELAXED);
}

uint8_t ich9_firmware_line(PciDevice *dev, int pin)
{
    return firmware_routes[ich9_default_pirq(PCI_SLOT(dev->devfn), pin)];
}

static const Property ich9_properties[] = {
    ACPI_PM1_PROPERTIES(Ich9Lpc, pm1),
    PROP_BOOL("smm-enabled", Ich9Lpc, smm_enabled, true, "the machine has system management mode"),
    PROP_BOOL("firmware-preset", Ich9Lpc, firmware_preset, false, "reset to what PC firmware leaves"),
    PROP_END,
};

static bool ich9_post_load(void *opaque, int version, GError **error)
{
    Ich9Lpc *s = opaque;
    PciBus *bus = PCI_BUS(s->parent_obj.parent_obj.bus);
    uint8_t *config = s->parent_obj.config;

    for (int pirq = 0; pirq < ICH9_PIRQS; pirq++) {
        config[route_register(pirq)] &= PIRQ_MASK;
        s->routes[pirq] = config[route_register(pirq)];
    }
    home_lock(&bus->irq_lock);
    for (unsigned i = 0; i < ROUTED; i++) {
        s->device_routes[i] &= 0x7777;
    }
    pci_root_reroute(bus);
    home_unlock(&bus->irq_lock);
    s->smi_enable &= SMI_ENABLE_MASK & ~(uint32_t)SMI_EOS;
    config[ICH9_ACPI_CNTL] &= ACPI_CNTL_ENABLE | ACPI_CNTL_SCI_SELECT;
    update_decoding(s);
    update_sci(s);
    return true;
}

static const VmStateField ich9_fields[] = {
    VMS_STRUCT(parent_obj, Ich9Lpc, pci_device_vmstate),
    VMS_STRUCT(pm1, Ich9Lpc, acpi_pm1_vmstate),
    VMS_UINT8(gpe_status, Ich9Lpc),
    VMS_UINT8(gpe_enable, Ich9Lpc),
    VMS_UINT32(smi_enable, Ich9Lpc),
    VMS_UINT32(smi_status, Ich9Lpc),
    VMS_UINT8(apm_control, Ich9Lpc),
    VMS_UINT8(apm_status, Ich9Lpc),
    VMS_UINT8(reset.value, Ich9Lpc),
    VMS_UINT16(device_routes, Ich9Lpc),
    VMS_END,
};

static const VmState ich9_vmstate = {
    .name = TYPE_ICH9_LPC,
    .version = 1,
    .minimum_version = 1,
    .fields = ich9_fields,
    .post_load = ich9_post_load,
};

static void ich9_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->device_id = 0x2918;
    pc->revision = 2;
    pc->class_id = PCI_CLASS_BRIDGE_ISA;
    pc->realize = ich9_realize;
    pc->unrealize = ich9_unrealize;
    pc->config_write = ich9_config_write;
    dc->reset = ich9_reset;
    dc->vmstate = &ich9_vmstate;
    dc->category = "Bridge";
    dc->user_creatable = false;
    dc->hotpluggable = false;
    object_class_add_properties(klass, ich9_properties);
}

static const TypeInfo ich9_info = {
    .name = TYPE_ICH9_LPC,
    .parent = TYPE_PCI_DEVICE,
    .description = "ICH9 LPC bridge",
    .instance_size = sizeof(Ich9Lpc),
    .class_init = ich9_class_init,
};
TYPE_REGISTER(ich9_info);
