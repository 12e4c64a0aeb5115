/*
 * The PCI Express capability (PCI Express Base Specification 4.0, 7.5.3) and its registers' names.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_PCI_PCIE_H
#define RHEA_HW_PCI_PCIE_H

#include "hw/pci/pci.h"

/* Offsets in the capability. */
enum {
    PCIE_CAPABILITIES = 0x02,
    PCIE_DEVICE_CAP = 0x04,
    PCIE_DEVICE_CONTROL = 0x08,
    PCIE_DEVICE_STATUS = 0x0a,
    PCIE_LINK_CAP = 0x0c,
    PCIE_LINK_CONTROL = 0x10,
    PCIE_LINK_STATUS = 0x12,
    PCIE_SLOT_CAP = 0x14,
    PCIE_SLOT_CONTROL = 0x18,
    PCIE_SLOT_STATUS = 0x1a,
    PCIE_ROOT_CONTROL = 0x1c,
    PCIE_ROOT_STATUS = 0x20,
    PCIE_DEVICE_CAP2 = 0x24,
    PCIE_DEVICE_CONTROL2 = 0x28,
    PCIE_LINK_CAP2 = 0x2c,
    PCIE_LINK_CONTROL2 = 0x30,
    PCIE_CAP_SIZE = 0x3c,
};
typedef enum PcieType {
    PCIE_ENDPOINT = 0,
    PCIE_ROOT_PORT = 4,
    PCIE_INTEGRATED_ENDPOINT = 9,
} PcieType;

enum { PCIE_SLOT_IMPLEMENTED = 1u << 8 };
enum { PCIE_LINK_ACTIVE_CAPABLE = 1u << 20, PCIE_LINK_ACTIVE = 1u << 13 };
/* Slot capabilities, control and status. */
enum {
    PCIE_SLOT_BUTTON = 1u << 0,
    PCIE_SLOT_POWER = 1u << 1,
    PCIE_SLOT_ATTENTION_LED = 1u << 3,
    PCIE_SLOT_POWER_LED = 1u << 4,
    PCIE_SLOT_SURPRISE = 1u << 5,
    PCIE_SLOT_HOTPLUG = 1u << 6,
    PCIE_SLOT_NUMBER_SHIFT = 19,
};
enum {
    PCIE_CONTROL_EVENTS = 0x101f, /* what raises an interrupt, as status bits (bit 12: bit 8 of status) */
    PCIE_CONTROL_COMPLETED = 1u << 4,
    PCIE_CONTROL_INTERRUPT = 1u << 5,
    PCIE_CONTROL_POWER_LED = 3u << 8,
    PCIE_CONTROL_POWER_LED_ON = 1u << 8,
    PCIE_CONTROL_POWER_LED_BLINK = 2u << 8,
    PCIE_CONTROL_POWER_LED_OFF = 3u << 8,
    PCIE_CONTROL_ATTENTION_LED_OFF = 3u << 6,
    PCIE_CONTROL_POWER_OFF = 1u << 10,
    PCIE_CONTROL_LINK_CHANGED = 1u << 12,
    PCIE_CONTROL_WRITABLE = 0x17ff,
};
enum {
    PCIE_STATUS_BUTTON = 1u << 0,
    PCIE_STATUS_PRESENCE_CHANGED = 1u << 3,
    PCIE_STATUS_COMPLETED = 1u << 4,
    PCIE_STATUS_PRESENT = 1u << 6,
    PCIE_STATUS_LINK_CHANGED = 1u << 8,
    PCIE_STATUS_W1C = 0x011f,
};

/* Adds the capability of a function of that type; port is a port's number (0 for endpoints). */
bool pcie_cap_init(PciDevice *dev, PcieType type, uint8_t port, GError **error);
/* Clears what a guest can write in it. */
void pcie_cap_reset(PciDevice *dev);
/* Whether the function sits behind a PCI Express port, where legacy I/O ports and INTx are no good. */
bool pcie_behind_port(const PciDevice *dev);

#endif
