/*
 * ACPI tables for the boards: what a guest kernel learns about CPUs, interrupt routing, PCI windows and power
 * (ACPI specification 6.4, chapters 5, 6, 19 and 20). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MACHINE_ACPI_TABLES_H
#define RHEA_MACHINE_ACPI_TABLES_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct AcpiRange {
    uint64_t base, size; /* size 0: absent */
} AcpiRange;

/* A board as ACPI describes it; everything borrowed for the call. */
typedef struct AcpiBoard {
    const uint32_t *apic_ids; /* of all possible CPUs */
    unsigned cpus;            /* present: the first ones */
    unsigned max_cpus;
    uint32_t ioapic_address; /* 0: none */
    bool irq0_override;      /* ISA IRQ 0 arrives at GSI 2 */
    bool pic;                /* an 8259 pair is there */
    uint8_t sci_irq;         /* level triggered */

    /* Fixed hardware (PIIX4): pm_base 0 selects the hardware-reduced profile. */
    uint16_t pm_base; /* PM1a event at +0, control at +4, PM timer at +8 */
    uint16_t gpe0_base;
    uint8_t gpe0_length;
    uint16_t smi_command; /* 0: already in ACPI mode, none */
    uint8_t acpi_enable, acpi_disable;
    bool reset_register; /* port 0xcf9, value 0x0f */

    /* Hardware-reduced: a generic event device (hw/acpi/ged.h). */
    AcpiRange ged; /* event register, then sleep and reset registers at +0x200 */
    uint8_t ged_gsi;

    bool hpet; /* at 0xfed00000 */
    bool rtc, i8042;
    unsigned serial_ports; /* how many of the standard four */
    bool pci;              /* a root bridge, with the PIIX3's routing or */
    bool ich9;             /* with the ICH9's: PCI Express, the LPC bridge at 1f.0 */
    AcpiRange pci_mem32, pci_mem64;
    uint16_t pci_hotplug; /* ports of hw/acpi/pci_hotplug.h; 0: none */
    AcpiRange
        ecam; /* the memory-mapped configuration space; it may lie in pci_mem32, which has a hole then */
    AcpiRange virtio_mmio; /* slots of 0x200 bytes */
    unsigned virtio_mmio_slots;
    uint32_t virtio_mmio_gsi; /* of the first slot; one each */
    bool legacy_free;         /* no VGA, no legacy devices (FADT boot flags) */
    bool fw_cfg;              /* at its standard ports */
    /* Of AcpiPart * (hw/acpi/acpi_part.h), at most ACPI_MAX_PARTS, may be NULL: what devices add. */
    const GPtrArray *parts;
} AcpiBoard;
#define ACPI_MAX_PARTS 8

/* Where tables hold addresses of each other and checksums, for firmware that places them itself. Offsets are
 * those of the image. */
#define ACPI_RSDP_SIZE 36
typedef struct AcpiPointer {
    uint32_t offset;
    uint8_t size;
    const char *file; /* borrowed: where it points to; NULL: the image */
} AcpiPointer;
typedef struct AcpiChecksum {
    uint32_t offset, start, length;
} AcpiChecksum;
typedef struct AcpiLinks {
    GArray *pointers;  /* of AcpiPointer */
    GArray *checksums; /* of AcpiChecksum, of whole tables first, then of the RSDP */
} AcpiLinks;
AcpiLinks *acpi_links_new(void);
void acpi_links_free(AcpiLinks *links);

/* Builds all tables as one image to be placed at guest physical address `address` (16-byte aligned, below 4
 * GiB); the RSDP is its first structure. links (may be NULL) gets its pointers and checksums; without them
 * the pages of board->parts lie between the tables, and each part's page_gpa says where. NULL with an error
 * where the board does not fit ACPI (too many CPUs). Caller owns. */
GByteArray *acpi_build(const AcpiBoard *board, uint32_t address, AcpiLinks *links, GError **error);

#endif
