/*
 * "pci-serial": a 16550A (uart16550.c) behind eight I/O ports of a PCI function, as Linux's 8250_pci and
 * Windows's serial driver know it by its class. Source: QEMU's docs/specs/pci-serial.rst (identity, BAR); PCI
 * Local Bus Specification 3.0. Threads: as uart16550.c. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/char/uart16550.h"
#include "hw/pci/pci.h"

#define TYPE_PCI_SERIAL "pci-serial"
#define INTERFACE_16550 2

typedef struct PciSerial {
    PciDevice parent_obj;
    /* saved */
    Uart16550 uart;
} PciSerial;
#define PCI_SERIAL(obj) OBJECT_CHECK(PciSerial, obj, TYPE_PCI_SERIAL)

static void pci_serial_set_irq(Device *dev, bool level)
{
    pci_set_irq(PCI_DEVICE(dev), level);
}

static void pci_serial_reset(Device *dev)
{
    pci_device_reset(dev);
    uart16550_reset(&PCI_SERIAL(dev)->uart);
}

static bool pci_serial_realize(PciDevice *dev, GError **error)
{
    PciSerial *s = PCI_SERIAL(dev);
    if (!uart16550_realize(&s->uart, DEVICE(dev), pci_serial_set_irq, error)) {
        return false;
    }
    dev->config[PCI_CLASS_PROG] = INTERFACE_16550;
    dev->config[PCI_INTERRUPT_PIN] = 1;
    pci_register_bar(dev, 0, PCI_BAR_IO, &s->uart.ports);
    uart16550_connect(&s->uart);
    return true;
}

static void pci_serial_unrealize(PciDevice *dev)
{
    uart16550_unrealize(&PCI_SERIAL(dev)->uart);
}

static const Property pci_serial_properties[] = {
    PROP_TYPED("chardev", PciSerial, uart.chr, property_type_chardev, "host end of the line"),
    PROP_END,
};

static const VmStateField pci_serial_fields[] = {
    VMS_STRUCT(parent_obj, PciSerial, pci_device_vmstate),
    VMS_STRUCT(uart, PciSerial, uart16550_vmstate),
    VMS_END,
};
static const VmState pci_serial_vmstate = {
    .name = TYPE_PCI_SERIAL,
    .version = 1,
    .minimum_version = 1,
    .fields = pci_serial_fields,
};

static void pci_serial_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x1b36;
    pc->device_id = 0x0002;
    pc->revision = 1;
    pc->class_id = 0x0700;
    pc->realize = pci_serial_realize;
    pc->unrealize = pci_serial_unrealize;
    dc->reset = pci_serial_reset;
    dc->vmstate = &pci_serial_vmstate;
    dc->category = "Input";
    object_class_add_properties(klass, pci_serial_properties);
}

static const TypeInfo pci_serial_info = {
    .name = TYPE_PCI_SERIAL,
    .parent = TYPE_PCI_DEVICE,
    .description = "16550A serial port on PCI",
    .instance_size = sizeof(PciSerial),
    .class_init = pci_serial_class_init,
};
TYPE_REGISTER(pci_serial_info);
