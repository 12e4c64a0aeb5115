/*
 * PCI Express root ports with a hot-plug slot: "pcie-root-port", and "ioh3420" for those who know that name.
 * Sources: PCI Express Base Specification 4.0, 6.7 (hot-plug), 7.5.3 (capability).
 *
 * Left out on purpose: power management events, error reporting, access control services. The attention
 * button is the host's wish to take the card out; guests wait five seconds after it, as the specification
 * has it.
 *
 * Threads: registers in vCPUs' threads under the HomeLock; cards come and go in the main loop.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/pci/pci_bridge.h"
#include "hw/pci/pcie.h"
#include "trace/trace.h"

#define TYPE_PCIE_ROOT_PORT "pcie-root-port"
#define TYPE_IOH3420        "ioh3420"
#define RETRY_US            5000000

TRACE_EVENT(pcie_slot_control, "%s was 0x%04x is 0x%04x");
TRACE_EVENT(pcie_slot_event, "%s status 0x%04x");
TRACE_EVENT(pcie_slot_eject, "%s");

typedef struct PcieRootPort {
    PciBridge parent_obj;
    /* saved */
    bool notified; /* an interrupt condition is on */
    /* from properties */
    uint8_t port, chassis;
    uint16_t slot;
    bool hotplug;
    /* derived */
    BottomHalf *eject_bh;
} PcieRootPort;
#define PCIE_ROOT_PORT_OBJ(obj) ((PcieRootPort *)PCI_BRIDGE_BASE(obj))

static PciDevice *pci_of(PcieRootPort *s)
{
    return &s->parent_obj.parent_obj;
}

static const char *name_of(PcieRootPort *s)
{
    const Device *dev = DEVICE(s);
    return dev->id ? dev->id : object_get_typename(OBJECT(dev));
}

static uint8_t *reg(PcieRootPort *s, unsigned offset)
{
    return pci_of(s)->config + pci_of(s)->express_cap + offset;
}

static void set_bits(uint8_t *word, uint16_t clear, uint16_t set)
{
    pci_set_word(word, (pci_get_word(word) & ~clear) | set);
}

static bool occupied(PcieRootPort *s)
{
    return s->parent_obj.bus && s->parent_obj.bus->parent_obj.children->len > 0;
}

/* ---- interrupts; the lock is held ---- */
static void update_interrupt(PcieRootPort *s)
{
    uint16_t control = pci_get_word(reg(s, PCIE_SLOT_CONTROL)),
             status = pci_get_word(reg(s, PCIE_SLOT_STATUS));
    uint16_t events = status & control & (PCIE_CONTROL_EVENTS & 0x1f);
    if ((status & PCIE_STATUS_LINK_CHANGED) && (control & PCIE_CONTROL_LINK_CHANGED)) {
        events |= PCIE_STATUS_LINK_CHANGED;
    }
    bool on = (control & PCIE_CONTROL_INTERRUPT) && events;
    if (on && !s->notified && pci_msi_enabled(pci_of(s))) {
        pci_msi_notify(pci_of(s), 0);
    }
    s->notified = on;
    pci_set_irq(pci_of(s), on && !pci_msi_enabled(pci_of(s)));
}

static void slot_event(PcieRootPort *s, uint16_t status)
{
    set_bits(reg(s, PCIE_SLOT_STATUS), 0, status);
    TRACE(pcie_slot_event, name_of(s), pci_get_word(reg(s, PCIE_SLOT_STATUS)));
    update_interrupt(s);
}

static void set_presence(PcieRootPort *s, bool present)
{
    set_bits(reg(s, PCIE_SLOT_STATUS), PCIE_STATUS_PRESENT, present ? PCIE_STATUS_PRESENT : 0);
    set_bits(reg(s, PCIE_LINK_STATUS), PCIE_LINK_ACTIVE, present ? PCIE_LINK_ACTIVE : 0);
}

/* ---- cards come and go ---- */
static void eject(void *opaque)
{
    PcieRootPort *s = opaque;
    Bus *bus = &s->parent_obj.bus->parent_obj;
    TRACE(pcie_slot_eject, name_of(s));
    while (bus->children->len) {
        device_unplug_done(bus->children->pdata[bus->children->len - 1]);
    }
    home_lock(&DEVICE(s)->lock);
    set_presence(s, false);
    slot_event(s, PCIE_STATUS_PRESENCE_CHANGED | PCIE_STATUS_LINK_CHANGED);
    home_unlock(&DEVICE(s)->lock);
}

static void port_plugged(void *opaque, PciDevice *dev)
{
    PcieRootPort *s = opaque;
    home_lock(&DEVICE(s)->lock);
    if (!DEVICE(dev)->hotplugged) {
        set_presence(s, true);
        set_bits(reg(s, PCIE_SLOT_CONTROL), PCIE_CONTROL_POWER_OFF | PCIE_CONTROL_POWER_LED,
                 PCIE_CONTROL_POWER_LED_ON);
    } else if (PCI_FUNC(dev->devfn) == 0) { /* a card's function 0 comes last */
        set_presence(s, true);
        slot_event(s, PCIE_STATUS_PRESENCE_CHANGED | PCIE_STATUS_LINK_CHANGED | PCIE_STATUS_BUTTON);
    }
    home_unlock(&DEVICE(s)->lock);
}

static bool port_unplug_request(void *opaque, PciDevice *dev, GError **error)
{
    PcieRootPort *s = opaque;
    const Device *device = DEVICE(dev);
    bool at_once = false, busy = false;

    if (!s->hotplug) {
        return error_set(error, "Device '%s': port '%s' has hotplug=off", object_get_typename(OBJECT(dev)),
                         name_of(s));
    }
    home_lock(&DEVICE(s)->lock);
    uint16_t control = pci_get_word(reg(s, PCIE_SLOT_CONTROL));
    at_once = control & PCIE_CONTROL_POWER_OFF;
    busy = (control & PCIE_CONTROL_POWER_LED) == PCIE_CONTROL_POWER_LED_BLINK;
    if (!at_once && !busy) {
        slot_event(s, PCIE_STATUS_BUTTON);
    }
    home_unlock(&DEVICE(s)->lock);
    if (busy) {
        return error_set(error,
                         "Hot-unplug of '%s' failed: the guest is busy with port '%s' (its power "
                         "indicator blinks)",
                         device->id ? device->id : object_get_typename(OBJECT(dev)), name_of(s));
    }
    /* All of a card goes. */
    const GPtrArray *children = s->parent_obj.bus->parent_obj.children;
    for (guint i = 0; i < children->len; i++) {
        Device *child = children->pdata[i];
        child->pending_unplug = true;
        child->unplug_retry_us = g_get_monotonic_time() + RETRY_US;
    }
    if (at_once) {
        eject(s);
    }
    return true;
}

static const PciHotplugOps port_hotplug_ops = {
    .plugged = port_plugged,
    .unplug_request = port_unplug_request,
};

/* ---- configuration ---- */
static void port_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    PcieRootPort *s = PCIE_ROOT_PORT_OBJ(dev);
    uint32_t control_at = dev->express_cap + PCIE_SLOT_CONTROL;
    bool control_written = address < control_at + 2 && address + size > control_at;
    uint16_t before = pci_get_word(dev->config + control_at);

    pci_bridge_config_write(dev, address, value, size);
    if (control_written) {
        uint16_t now = pci_get_word(dev->config + control_at);
        bool off =
            (now & PCIE_CONTROL_POWER_OFF) && (now & PCIE_CONTROL_POWER_LED) == PCIE_CONTROL_POWER_LED_OFF;
        bool was_off = (before & PCIE_CONTROL_POWER_OFF) &&
                       (before & PCIE_CONTROL_POWER_LED) == PCIE_CONTROL_POWER_LED_OFF;
        TRACE(pcie_slot_control, name_of(s), before, now);
        if (off && !was_off && (pci_get_word(reg(s, PCIE_SLOT_STATUS)) & PCIE_STATUS_PRESENT)) {
            bh_schedule(s->eject_bh);
        }
        set_bits(reg(s, PCIE_SLOT_STATUS), 0, PCIE_STATUS_COMPLETED);
    }
    update_interrupt(s);
}

/* ---- life ---- */
static void port_reset(Device *device)
{
    PcieRootPort *s = PCIE_ROOT_PORT_OBJ(device);
    bool pending = false;
    const GPtrArray *children = s->parent_obj.bus->parent_obj.children;

    pci_bridge_reset(&s->parent_obj);
    pcie_cap_reset(pci_of(s));
    set_presence(s, occupied(s));
    pci_set_word(
        reg(s, PCIE_SLOT_CONTROL),
        PCIE_CONTROL_ATTENTION_LED_OFF |
            (occupied(s) ? PCIE_CONTROL_POWER_LED_ON : PCIE_CONTROL_POWER_LED_OFF | PCIE_CONTROL_POWER_OFF));
    update_interrupt(s);
    for (guint i = 0; i < children->len; i++) {
        pending |= DEVICE(children->pdata[i])->pending_unplug;
    }
    if (pending) {
        bh_schedule(s->eject_bh); /* the guest that was asked is gone */
    }
}

static bool port_realize(PciDevice *dev, GError **error)
{
    PcieRootPort *s = PCIE_ROOT_PORT_OBJ(dev);
    g_autofree char *name = g_strdup_printf("pcie-port.%02x.%x", PCI_SLOT(dev->devfn), PCI_FUNC(dev->devfn));

    if (s->slot > 0x1fff) {
        return error_set(error, "Property 'slot' takes at most 8191, not %u", s->slot);
    }
    if (!pci_bridge_realize(&s->parent_obj, TYPE_PCIE_BUS, name, error)) {
        return false;
    }
    dev->config[PCI_INTERRUPT_PIN] = 1;
    if (!pcie_cap_init(dev, PCIE_ROOT_PORT, s->port, error) || !pci_msi_init(dev, 1, true, error)) {
        pci_bridge_unrealize(&s->parent_obj);
        return false;
    }
    unsigned at = dev->express_cap;
    uint32_t slot = (uint32_t)s->slot << PCIE_SLOT_NUMBER_SHIFT;
    if (s->hotplug) {
        slot |= PCIE_SLOT_BUTTON | PCIE_SLOT_POWER | PCIE_SLOT_ATTENTION_LED | PCIE_SLOT_POWER_LED |
                PCIE_SLOT_SURPRISE | PCIE_SLOT_HOTPLUG;
    }
    pci_set_word(dev->config + at + PCIE_CAPABILITIES,
                 pci_get_word(dev->config + at + PCIE_CAPABILITIES) | PCIE_SLOT_IMPLEMENTED);
    pci_set_long(dev->config + at + PCIE_LINK_CAP,
                 pci_get_long(dev->config + at + PCIE_LINK_CAP) | PCIE_LINK_ACTIVE_CAPABLE);
    pci_set_long(dev->config + at + PCIE_SLOT_CAP, slot);
    pci_set_word(dev->wmask + at + PCIE_SLOT_CONTROL, PCIE_CONTROL_WRITABLE);
    pci_set_word(dev->w1cmask + at + PCIE_SLOT_STATUS, PCIE_STATUS_W1C);
    pci_set_word(dev->wmask + at + PCIE_ROOT_CONTROL, 0x000f);

    PciBus *bus = s->parent_obj.bus;
    bus->single_slot = true;
    bus->parent_obj.no_hotplug = !s->hotplug;
    bus->hotplug = &port_hotplug_ops;
    bus->hotplug_opaque = s;
    s->eject_bh = bh_new(DEVICE(dev)->env->loop, eject, s, NULL);
    return true;
}

static void port_unrealize(PciDevice *dev)
{
    PcieRootPort *s = PCIE_ROOT_PORT_OBJ(dev);
    bh_free(s->eject_bh);
    s->eject_bh = NULL;
    pci_bridge_unrealize(&s->parent_obj);
}

static const Property port_properties[] = {
    PROP_UINT8("port", PcieRootPort, port, 0, "number of the port in its link capabilities"),
    PROP_UINT8("chassis", PcieRootPort, chassis, 0, "chassis that the slot is in (for the user's own order)"),
    PROP_UINT16("slot", PcieRootPort, slot, 0, "physical number of the slot"),
    PROP_BOOL("hotplug", PcieRootPort, hotplug, true, "cards may come and go while the guest runs"),
    PROP_END,
};

static const VmStateField port_fields[] = {
    VMS_STRUCT(parent_obj, PcieRootPort, pci_bridge_vmstate),
    VMS_BOOL(notified, PcieRootPort),
    VMS_END,
};

static const VmState port_vmstate = {
    .name = TYPE_PCIE_ROOT_PORT,
    .version = 1,
    .minimum_version = 1,
    .fields = port_fields,
};

static void port_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x1b36;
    pc->device_id = 0x000c;
    pc->realize = port_realize;
    pc->unrealize = port_unrealize;
    pc->config_write = port_config_write;
    dc->bus_type = TYPE_PCIE_BUS;
    dc->reset = port_reset;
    dc->vmstate = &port_vmstate;
    object_class_add_properties(klass, port_properties);
}

static const TypeInfo port_info = {
    .name = TYPE_PCIE_ROOT_PORT,
    .parent = TYPE_PCI_BRIDGE_BASE,
    .description = "PCI Express root port",
    .instance_size = sizeof(PcieRootPort),
    .class_init = port_class_init,
};
TYPE_REGISTER(port_info);

static void ioh3420_class_init(ObjectClass *klass, const void *data)
{
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->device_id = 0x3420;
    pc->revision = 2;
}

static const TypeInfo ioh3420_info = {
    .name = TYPE_IOH3420,
    .parent = TYPE_PCIE_ROOT_PORT,
    .description = "Intel IOH PCI Express root port",
    .instance_size = sizeof(PcieRootPort),
    .class_init = ioh3420_class_init,
};
TYPE_REGISTER(ioh3420_info);
