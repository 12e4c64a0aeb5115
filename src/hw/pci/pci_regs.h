/*
 * Registers of the PCI configuration space, as PCI Local Bus Specification 3.0 chapter 6 and the PCI Code and
 * ID Assignment Specification name them. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_PCI_PCI_REGS_H
#define RHEA_HW_PCI_PCI_REGS_H

enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION_ID = 0x08,
    PCI_CLASS_PROG = 0x09,
    PCI_CLASS_DEVICE = 0x0a,
    PCI_CACHE_LINE_SIZE = 0x0c,
    PCI_LATENCY_TIMER = 0x0d,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BASE_ADDRESS_0 = 0x10,
    /* Of a bridge (PCI-to-PCI Bridge Architecture Specification 1.2, 3.2). */
    PCI_PRIMARY_BUS = 0x18,
    PCI_SECONDARY_BUS = 0x19,
    PCI_SUBORDINATE_BUS = 0x1a,
    PCI_SECONDARY_LATENCY = 0x1b,
    PCI_IO_BASE = 0x1c,
    PCI_IO_LIMIT = 0x1d,
    PCI_SECONDARY_STATUS = 0x1e,
    PCI_MEMORY_BASE = 0x20,
    PCI_MEMORY_LIMIT = 0x22,
    PCI_PREFETCH_BASE = 0x24,
    PCI_PREFETCH_LIMIT = 0x26,
    PCI_PREFETCH_BASE_UPPER = 0x28,
    PCI_PREFETCH_LIMIT_UPPER = 0x2c,
    PCI_IO_BASE_UPPER = 0x30,
    PCI_IO_LIMIT_UPPER = 0x32,
    PCI_BRIDGE_ROM_ADDRESS = 0x38,
    PCI_BRIDGE_CONTROL = 0x3e,
    PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_ROM_ADDRESS = 0x30,
    PCI_CAPABILITY_LIST = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
    PCI_CONFIG_HEADER_SIZE = 0x40,
};

enum {
    PCI_COMMAND_IO = 1u << 0,
    PCI_COMMAND_MEMORY = 1u << 1,
    PCI_COMMAND_MASTER = 1u << 2,
    PCI_COMMAND_PARITY = 1u << 6,
    PCI_COMMAND_SERR = 1u << 8,
    PCI_COMMAND_INTX_DISABLE = 1u << 10,
};

enum {
    PCI_STATUS_INTERRUPT = 1u << 3,
    PCI_STATUS_CAP_LIST = 1u << 4,
    PCI_STATUS_FAST_BACK = 1u << 7,
    PCI_STATUS_DEVSEL_MEDIUM = 1u << 9,
    /* Set by the device, cleared by writing ones. */
    PCI_STATUS_W1C = 0xf900u,
};

enum { PCI_HEADER_BRIDGE = 0x01, PCI_HEADER_MULTIFUNCTION = 0x80 };
enum {
    PCI_BRIDGE_CONTROL_SERR = 1u << 1,
    PCI_BRIDGE_CONTROL_VGA = 1u << 3,
    PCI_BRIDGE_CONTROL_RESET = 1u << 6,
};
enum { PCI_ROM_ENABLE = 1u };

/* Capability ids. */
enum {
    PCI_CAP_PM = 0x01,
    PCI_CAP_SLOT_ID = 0x04,
    PCI_CAP_MSI = 0x05,
    PCI_CAP_VENDOR = 0x09,
    PCI_CAP_SUBSYSTEM = 0x0d,
    PCI_CAP_EXPRESS = 0x10,
    PCI_CAP_MSIX = 0x11,
    PCI_CAP_SATA = 0x12,
};

/* MSI (6.8.1): offsets in the capability and bits of message control. */
enum {
    PCI_MSI_CONTROL = 2,
    PCI_MSI_ADDRESS = 4,
    PCI_MSI_ADDRESS_HIGH = 8,
    PCI_MSI_DATA_32 = 8,
    PCI_MSI_DATA_64 = 12
};
enum {
    PCI_MSI_ENABLE = 1u << 0,
    PCI_MSI_64BIT = 1u << 7,
    PCI_MSI_MULTIPLE_CAPABLE_SHIFT = 1,
    PCI_MSI_MULTIPLE_ENABLE_SHIFT = 4
};

/* MSI-X (6.8.2). */
enum { PCI_MSIX_CONTROL = 2, PCI_MSIX_TABLE = 4, PCI_MSIX_PBA = 8, PCI_MSIX_CAP_SIZE = 12 };
enum { PCI_MSIX_FUNCTION_MASK = 1u << 14, PCI_MSIX_ENABLE = 1u << 15 };
enum { PCI_MSIX_ENTRY_SIZE = 16, PCI_MSIX_ENTRY_MASKED = 1u };

/* Class codes (base and sub-class). */
enum {
    PCI_CLASS_NOT_DEFINED = 0x0000,
    PCI_CLASS_STORAGE_SCSI = 0x0100,
    PCI_CLASS_STORAGE_IDE = 0x0101,
    PCI_CLASS_STORAGE_SATA = 0x0106,
    PCI_CLASS_NETWORK_ETHERNET = 0x0200,
    PCI_CLASS_DISPLAY_VGA = 0x0300,
    PCI_CLASS_MEMORY_RAM = 0x0500,
    PCI_CLASS_BRIDGE_HOST = 0x0600,
    PCI_CLASS_BRIDGE_ISA = 0x0601,
    PCI_CLASS_BRIDGE_PCI = 0x0604,
    PCI_CLASS_BRIDGE_OTHER = 0x0680,
    PCI_CLASS_COMMUNICATION_OTHER = 0x0780,
    PCI_CLASS_SERIAL_USB = 0x0c03,
    PCI_CLASS_SERIAL_SMBUS = 0x0c05,
    PCI_CLASS_OTHERS = 0x00ff,
};

#endif
