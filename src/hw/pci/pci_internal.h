/* Shared by the files of hw/pci. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_PCI_PCI_INTERNAL_H
#define RHEA_HW_PCI_PCI_INTERNAL_H

#include "hw/pci/pci.h"

/* After configuration bytes [address, address + size) changed; old_msix_control is what the word was before.
 */
void pci_msix_config_written(PciDevice *dev, uint32_t address, unsigned size);
void pci_msi_reset(PciDevice *dev);
void pci_msix_reset(PciDevice *dev);
/* Sends one message as the device: to the local APICs, or as a write into its DMA address space. */
void pci_msi_send(PciDevice *dev, uint64_t address, uint32_t data);
bool pci_msix_save(VmStateWriter *w, const void *field, GError **error);
bool pci_msix_load(VmStateReader *r, void *field, GError **error);

#endif
