/* The PIIX3 PCI-to-ISA bridge: see piix3.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_ISA_PIIX3_H
#define RHEA_HW_ISA_PIIX3_H

#include "hw/pci/pci.h"

#define TYPE_PIIX3 "PIIX3"

/* Its ISA bus "isa.0". Borrowed; NULL before realize. */
Bus *piix3_isa_bus(Device *dev);
/* Before realize: the 8259 pair whose ELCR (ports 0x4d0, 0x4d1) the firmware-preset property sets for the PCI
 * interrupts. */
void piix3_set_pic(Device *dev, Device *i8259);

#endif
