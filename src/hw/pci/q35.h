/* The Q35 host bridge: see q35.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_PCI_Q35_H
#define RHEA_HW_PCI_Q35_H

#include "hw/pci/pci.h"

/* The part that the board makes (no bus); it brings the root bus "pcie.0" and the function 00.0 ("mch") on
 * it. Property "firmware-preset" (bool): every reset leaves the registers as firmware does (0xc0000-0xfffff
 * is RAM, the configuration window is open at Q35_ECAM_PRESET). */
#define TYPE_Q35_HOST   "q35-pcihost"
#define TYPE_MCH        "mch"
#define Q35_ECAM_PRESET 0xb0000000u
#define Q35_ECAM_SIZE   0x10000000u

/* Before realize. ram: the region whose offset 0 is guest physical 0, of which below_4g bytes lie below 4 GiB
 * (TSEG is at their end). pci and smram as i440fx_set_memory() takes them. All borrowed. */
void q35_set_memory(Device *dev, MemoryRegion *ram, uint64_t below_4g, MemoryRegion *pci,
                    MemoryRegion *smram);
/* Borrowed; NULL before realize. */
PciBus *q35_bus(Device *dev);
/* Where the memory-mapped configuration window is now; false: it is closed. [any thread] */
bool q35_ecam(Device *dev, uint64_t *base, uint64_t *size);

#endif
