/* The PCI Express capability: see pcie.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/pci/pcie.h"

enum { CAPABILITY_VERSION = 2, ROLE_BASED_ERRORS = 1u << 15 };
enum { LINK_SPEED = 1, LINK_WIDTH = 1, LINK_ASPM_L0S = 1u << 10 }; /* 2.5 GT/s, one lane */

bool pcie_cap_init(PciDevice *dev, PcieType type, uint8_t port, GError **error)
{
    uint8_t at = pci_add_capability(dev, PCI_CAP_EXPRESS, 0, PCIE_CAP_SIZE, error);
    if (!at) {
        return false;
    }
    uint8_t *c = dev->config + at, *w = dev->wmask + at;
    dev->express_cap = at;
    pci_set_word(c + PCIE_CAPABILITIES, CAPABILITY_VERSION | type << 4);
    pci_set_long(c + PCIE_DEVICE_CAP, ROLE_BASED_ERRORS);
    pci_set_word(w + PCIE_DEVICE_CONTROL, 0x78ff); /* errors, ordering, payload and read request sizes */
    pci_set_word(dev->w1cmask + at + PCIE_DEVICE_STATUS, 0x000f);
    if (type != PCIE_INTEGRATED_ENDPOINT) {
        pci_set_long(c + PCIE_LINK_CAP, LINK_SPEED | LINK_WIDTH << 4 | LINK_ASPM_L0S | (uint32_t)port << 24);
        pci_set_word(c + PCIE_LINK_STATUS, LINK_SPEED | LINK_WIDTH << 4);
        pci_set_word(w + PCIE_LINK_CONTROL, 0x00d3);
        pci_set_long(c + PCIE_LINK_CAP2, 1u << 1);
        pci_set_word(w + PCIE_LINK_CONTROL2, 0x000f);
    }
    pci_set_word(w + PCIE_DEVICE_CONTROL2, 0x001f);
    return true;
}

void pcie_cap_reset(PciDevice *dev)
{
    for (unsigned i = PCIE_CAPABILITIES; dev->express_cap && i < PCIE_CAP_SIZE; i++) {
        unsigned at = dev->express_cap + i;
        dev->config[at] &= ~(dev->wmask[at] | dev->w1cmask[at]);
    }
}

bool pcie_behind_port(const PciDevice *dev)
{
    const PciBus *bus = PCI_BUS(dev->parent_obj.bus);
    return !pci_bus_is_root(bus) && pci_bus_is_express(bus);
}
