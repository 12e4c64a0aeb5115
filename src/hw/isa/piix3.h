/* The PIIX3 PCI-to-ISA bridge: see piix3.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_ISA_PIIX3_H
#define RHEA_HW_ISA_PIIX3_H

#include "hw/pci/pci.h"

#define TYPE_PIIX3 "PIIX3"

/* A PCI function, on PC boards at 01.0, multifunction. Property "firmware-preset" (bool): every reset leaves
 * PIRQ A to D routed as firmware does (10, 10, 11, 11). It takes over the routing of its bus's INTx. */
/* Its ISA bus "isa.0". Borrowed; NULL before realize. */
Bus *piix3_isa_bus(Device *dev);
/* The interrupt line that PC firmware writes for a function's pin: for pci_bus_assign_resources(). */
uint8_t piix3_firmware_line(PciDevice *dev, int pin);

#endif
