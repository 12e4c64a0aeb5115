/*
 * Configuration mechanism 1: the ports 0xcf8 and 0xcfc of a host bridge (PCI Local Bus Specification 3.0,
 * 3.2.2.3.2). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_PCI_PCI_HOST_H
#define RHEA_HW_PCI_PCI_HOST_H

#include "hw/pci/pci.h"

typedef struct PciHostPorts {
    uint32_t config_address; /* atomic; saved by the owner */
    PciBus *bus;
    MemoryRegion address_io, data_io;
} PciHostPorts;

/* At realize and unrealize of the host bridge. The bus is borrowed; the ports need no lock of the bridge's.
 */
void pci_host_ports_init(PciHostPorts *ports, void *owner, PciBus *bus, MemoryRegion *io);
void pci_host_ports_destroy(PciHostPorts *ports, MemoryRegion *io);

#endif
