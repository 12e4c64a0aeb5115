/*
 * "pci-bridge": a plain PCI-to-PCI bridge with 31 slots behind it. Source: PCI-to-PCI Bridge Architecture
 * Specification 1.2, 3.2; 13 (slot numbering: its capability with the chassis number).
 *
 * Left out on purpose: the standard hot-plug controller (what is behind it stays).
 *
 * Threads: see pci_bridge.c. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/pci/pci_bridge.h"

#define TYPE_PCI_PCI_BRIDGE "pci-bridge"

enum { SLOT_ID_SIZE = 4, SLOT_ID_CHASSIS = 3 };

typedef struct PciPciBridge {
    PciBridge parent_obj;
    /* from properties */
    uint8_t chassis;
} PciPciBridge;
#define PCI_PCI_BRIDGE(obj) OBJECT_CHECK(PciPciBridge, obj, TYPE_PCI_PCI_BRIDGE)

static void bridge_reset(Device *device)
{
    pci_bridge_reset(&PCI_PCI_BRIDGE(device)->parent_obj);
}

static bool bridge_realize(PciDevice *dev, GError **error)
{
    PciPciBridge *s = PCI_PCI_BRIDGE(dev);
    g_autofree char *name = g_strdup_printf("pci-bridge.%02x.%x", PCI_SLOT(dev->devfn), PCI_FUNC(dev->devfn));

    if (!s->chassis) {
        error_set(error,
                  "Bridge chassis not specified. Each bridge is required to be assigned a unique chassis id "
                  "> 0.");
        error_append_hint(error, "Add chassis_nr=N to its options.");
        return false;
    }
    uint8_t at = pci_add_capability(dev, PCI_CAP_SLOT_ID, 0, SLOT_ID_SIZE, error);
    if (!at) {
        return false;
    }
    dev->config[at + SLOT_ID_CHASSIS] = s->chassis;
    pci_set_word(dev->config + PCI_STATUS,
                 pci_get_word(dev->config + PCI_STATUS) | PCI_STATUS_FAST_BACK | PCI_STATUS_DEVSEL_MEDIUM);
    if (!pci_bridge_realize(&s->parent_obj, TYPE_PCI_BUS, name, error)) {
        return false;
    }
    s->parent_obj.bus->parent_obj.no_hotplug = true;
    return true;
}

static void bridge_unrealize(PciDevice *dev)
{
    pci_bridge_unrealize(&PCI_PCI_BRIDGE(dev)->parent_obj);
}

static const Property bridge_properties[] = {
    PROP_UINT8("chassis_nr", PciPciBridge, chassis, 0, "number of its chassis, not 0"),
    PROP_END,
};

static void bridge_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x1b36;
    pc->device_id = 0x0001;
    pc->realize = bridge_realize;
    pc->unrealize = bridge_unrealize;
    dc->reset = bridge_reset;
    dc->vmstate = &pci_bridge_vmstate;
    object_class_add_properties(klass, bridge_properties);
}

static const TypeInfo bridge_info = {
    .name = TYPE_PCI_PCI_BRIDGE,
    .parent = TYPE_PCI_BRIDGE_BASE,
    .description = "PCI-to-PCI bridge",
    .instance_size = sizeof(PciPciBridge),
    .class_init = bridge_class_init,
};
TYPE_REGISTER(bridge_info);
