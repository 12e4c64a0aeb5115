/*
 * PCI-to-PCI bridges: what every one of them does (pci_bridge.c). A type of bridge embeds PciBridge and calls
 * these from its own realize, reset and configuration write. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_PCI_PCI_BRIDGE_H
#define RHEA_HW_PCI_PCI_BRIDGE_H

#include "hw/pci/pci.h"

#define TYPE_PCI_BRIDGE_BASE "base-pci-bridge" /* abstract */

typedef struct PciBridge {
    PciDevice parent_obj;
    /* derived */
    PciBus *bus;
    MemoryRegion memory_space, io_space; /* what the secondary bus's BARs map into */
    MemoryRegion memory_window, prefetch_window, io_window;
    BottomHalf *reset_bh;
} PciBridge;
#define PCI_BRIDGE_BASE(obj) OBJECT_CHECK(PciBridge, obj, TYPE_PCI_BRIDGE_BASE)

/* The secondary bus has the bridge's id, or else default_name, as its name. */
bool pci_bridge_realize(PciBridge *s, const char *bus_type, const char *default_name, GError **error);
void pci_bridge_unrealize(PciBridge *s);
void pci_bridge_reset(PciBridge *s);
void pci_bridge_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size);
/* After a configuration space came in: a bridge type's post_load calls it. */
void pci_bridge_update(PciBridge *s);

extern const VmState pci_bridge_vmstate;

#endif
