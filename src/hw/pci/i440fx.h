/* The i440FX host bridge: see i440fx.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_PCI_I440FX_H
#define RHEA_HW_PCI_I440FX_H

#include "hw/pci/pci.h"

/* The part that the board makes (no bus); it brings the root bus "pci.0" and the function 00.0 ("i440FX") on
 * it. Property "firmware-preset" (bool): every reset leaves the PAM registers as firmware does
 * (0xc0000-0xfffff is RAM). */
#define TYPE_I440FX_HOST "i440FX-pcihost"
#define TYPE_I440FX      "i440FX"

/* Before realize. ram: the region whose offset 0 is guest physical 0 (at least 1 MiB). pci: what BARs map
 * into, and where ROMs and VGA memory at 0xa0000-0xfffff live; the board adds it to system memory below RAM's
 * priority. smram: the root of the address space that CPUs see in SMM, or NULL. All borrowed. */
void i440fx_set_memory(Device *dev, MemoryRegion *ram, MemoryRegion *pci, MemoryRegion *smram);
/* Borrowed; NULL before realize. */
PciBus *i440fx_bus(Device *dev);

#endif
