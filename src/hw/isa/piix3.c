/*
 * The PCI-to-ISA bridge of the 82371SB (PIIX3), function 0. Source: Intel 82371FB/82371SB data sheet
 * (290550), chapters 2.2 (function 0's configuration), 2.5.5 (reset control register).
 *
 * Left out on purpose: distributed DMA, the ISA clock and recovery timers (their registers just hold what is
 * written), APIC chip select.
 *
 * Threads: configuration and the reset port run in a vCPU's thread under the HomeLock; the routing is guarded
 * by the PCI bus's irq_lock, since pci_set_irq() of any function comes through here. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "hw/isa/piix3.h"

#include "base/error.h"
#include "hw/isa/isa.h"
#include "hw/isa/reset_control.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(piix3_route, "PIRQ %c to IRQ %d");

enum {
    PIIX3_PIRQRC = 0x60, /* four: PIRQ A to D */
    PIIX3_PIRQ_DISABLED = 0x80,
    PIIX3_PIRQ_MASK = 0x8f,
};

/* Where PC firmware routes PIRQ A to D. */
static const uint8_t firmware_routes[4] = { 10, 10, 11, 11 };

typedef struct Piix3State {
    PciDevice parent_obj;
    /* saved */
    ResetControl reset; /* its value */
    uint8_t route[4];   /* config's PIRQRC, guarded by the bus's irq_lock */
    uint8_t pirq_level; /* bit n: PIRQ n is asserted; same */
    /* derived and configured */
    Bus *isa;
    bool firmware_preset;
} Piix3State;
#define PIIX3(obj) OBJECT_CHECK(Piix3State, obj, TYPE_PIIX3)

/* ---- routing; the bus's irq_lock is held ---- */
static void drive_irq(Piix3State *s, int irq)
{
    const DeviceEnv *env = s->parent_obj.parent_obj.env;
    if (irq >= ISA_IRQS || !env || !env->isa_irqs) {
        return;
    }
    bool level = false;
    for (int pirq = 0; pirq < 4; pirq++) {
        level |= s->route[pirq] == irq && (s->pirq_level & (1u << pirq));
    }
    irq_set(env->isa_irqs[irq], level);
}

static void set_pirq(void *opaque, int pirq, bool level)
{
    Piix3State *s = opaque;
    uint8_t bit = 1u << pirq;
    s->pirq_level = level ? s->pirq_level | bit : s->pirq_level & ~bit;
    drive_irq(s, s->route[pirq]);
}

static int map_pirq(void *opaque, unsigned slot, int pin)
{
    return (slot + 3 + pin) & 3; /* slot 1's pin A is PIRQ A, each slot shifts by one */
}

/* Takes over what the configuration registers say. */
static void update_routes(Piix3State *s)
{
    PciBus *bus = PCI_BUS(s->parent_obj.parent_obj.bus);
    home_lock(&bus->irq_lock);
    for (int pirq = 0; pirq < 4; pirq++) {
        uint8_t old = s->route[pirq], now = s->parent_obj.config[PIIX3_PIRQRC + pirq];
        if (old != now) {
            TRACE(piix3_route, 'A' + pirq, now & PIIX3_PIRQ_DISABLED ? -1 : now);
            s->route[pirq] = now;
            drive_irq(s, old);
            drive_irq(s, now);
        }
    }
    home_unlock(&bus->irq_lock);
}

/* ---- configuration ---- */
static void piix3_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    pci_default_config_write(dev, address, value, size);
    if (address < PIIX3_PIRQRC + 4 && address + size > PIIX3_PIRQRC) {
        update_routes(PIIX3(dev));
    }
}

/* ---- life ---- */
static void piix3_reset(Device *device)
{
    Piix3State *s = PIIX3(device);
    uint8_t *config = s->parent_obj.config;
    pci_device_reset(device);
    pci_set_word(config + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    memset(config + PCI_CONFIG_HEADER_SIZE, 0, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    config[0x4c] = 0x4d;                /* IORT */
    config[0x4e] = 0x03;                /* XBCS: RTC and keyboard controller decoded */
    config[0x69] = 0x02;                /* TOM: 1 MiB */
    config[0x70] = 0x80;                /* MBIRQ0: off */
    config[0x76] = config[0x77] = 0x0c; /* MBDMA */
    config[0xa0] = 0x08;                /* SMICNTL */
    config[0xa8] = 0x0f;                /* FTMR */
    for (int pirq = 0; pirq < 4; pirq++) {
        config[PIIX3_PIRQRC + pirq] = s->firmware_preset ? firmware_routes[pirq] : PIIX3_PIRQ_DISABLED;
    }
    update_routes(s);
    s->reset.value = 0;
}

static bool piix3_realize(PciDevice *dev, GError **error)
{
    Piix3State *s = PIIX3(dev);
    Device *device = DEVICE(dev);
    const DeviceEnv *env = device->env;
    if (!env || !env->system_io) {
        return error_set(error, "PIIX3 needs I/O ports, which this machine lacks");
    }
    pci_set_word(dev->config + PCI_STATUS, PCI_STATUS_DEVSEL_MEDIUM);
    memset(dev->wmask + PCI_CONFIG_HEADER_SIZE, 0xff, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    memset(dev->wmask + PIIX3_PIRQRC, PIIX3_PIRQ_MASK, 4);
    memset(s->route, PIIX3_PIRQ_DISABLED, sizeof(s->route));
    s->pirq_level = 0;
    reset_control_init(&s->reset, device);
    s->isa = isa_bus_new(device, env);
    pci_bus_set_irq_routing(PCI_BUS(device->bus), map_pirq, set_pirq, s);
    return true;
}

static void piix3_unrealize(PciDevice *dev)
{
    Piix3State *s = PIIX3(dev);
    pci_bus_set_irq_routing(PCI_BUS(DEVICE(dev)->bus), NULL, NULL, NULL);
    reset_control_destroy(&s->reset);
    s->isa = NULL;
}

Bus *piix3_isa_bus(Device *dev)
{
    return PIIX3(dev)->isa;
}

uint8_t piix3_firmware_line(PciDevice *dev, int pin)
{
    return firmware_routes[map_pirq(NULL, PCI_SLOT(dev->devfn), pin)];
}

static const Property piix3_properties[] = {
    PROP_BOOL("firmware-preset", Piix3State, firmware_preset, false, "reset to what PC firmware leaves"),
    PROP_END,
};

static bool piix3_post_load(void *opaque, int version, GError **error)
{
    Piix3State *s = opaque;
    if (s->pirq_level > 15) {
        return error_set(error, "PIIX3: impossible interrupt levels 0x%x", s->pirq_level);
    }
    for (int pirq = 0; pirq < 4; pirq++) {
        s->parent_obj.config[PIIX3_PIRQRC + pirq] &= PIIX3_PIRQ_MASK;
        s->route[pirq] = s->parent_obj.config[PIIX3_PIRQRC + pirq];
    }
    return true;
}

static const VmStateField piix3_fields[] = {
    VMS_STRUCT(parent_obj, Piix3State, pci_device_vmstate),
    VMS_UINT8(reset.value, Piix3State),
    VMS_UINT8(pirq_level, Piix3State),
    VMS_END,
};

static const VmState piix3_vmstate = {
    .name = "PIIX3",
    .version = 1,
    .minimum_version = 1,
    .fields = piix3_fields,
    .post_load = piix3_post_load,
};

static void piix3_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->device_id = 0x7000;
    pc->class_id = PCI_CLASS_BRIDGE_ISA;
    pc->realize = piix3_realize;
    pc->unrealize = piix3_unrealize;
    pc->config_write = piix3_config_write;
    dc->reset = piix3_reset;
    dc->vmstate = &piix3_vmstate;
    dc->category = "Bridge";
    dc->user_creatable = false;
    dc->hotpluggable = false;
    object_class_add_properties(klass, piix3_properties);
}

static const TypeInfo piix3_info = {
    .name = TYPE_PIIX3,
    .parent = TYPE_PCI_DEVICE,
    .description = "PIIX3 PCI-to-ISA bridge",
    .instance_size = sizeof(Piix3State),
    .class_init = piix3_class_init,
};
TYPE_REGISTER(piix3_info);
