/*
 * Hot-plug of PCI functions on a root bus through ACPI: registers that the tables' methods read and write
 * (QEMU's docs/specs/acpi_pci_hotplug: up at +0, down at +4, eject at +8, removable at +12, bus selector at
 * +16). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_ACPI_PCI_HOTPLUG_H
#define RHEA_HW_ACPI_PCI_HOTPLUG_H

#include "hw/pci/pci.h"

#define ACPI_PCI_HOTPLUG_SIZE  20
#define ACPI_PCI_HOTPLUG_EVENT 1 /* of the general purpose events */

typedef struct AcpiPciHotplug {
    /* saved */
    uint32_t up, down; /* a bit a slot: to be found, to be let go of */
    uint32_t selector;
    /* derived */
    Device *dev;
    PciBus *bus;
    void (*event)(void *opaque); /* the general purpose event happens; the device's lock is held */
    void *opaque;
    uint32_t ejecting; /* slots that the guest has let go of */
    BottomHalf *bh;
    MemoryRegion io;
} AcpiPciHotplug;

/* At realize of the device whose lock guards the registers: they go to `port`, and what comes to or leaves
 * `bus` goes by them from now on. */
void acpi_pci_hotplug_init(AcpiPciHotplug *hp, Device *dev, PciBus *bus, uint16_t port,
                           void (*event)(void *opaque), void *opaque);
void acpi_pci_hotplug_destroy(AcpiPciHotplug *hp);
/* With the device's lock held. What the guest was to let go of goes: it will not be asked any more. */
void acpi_pci_hotplug_reset(AcpiPciHotplug *hp);

extern const VmState acpi_pci_hotplug_vmstate;

#endif
