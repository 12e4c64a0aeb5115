/*
 * What a device adds to the machine's ACPI tables: an SSDT of its own, and a page of guest memory whose
 * address that SSDT and the device are told. Firmware places both by the loader's script (QEMU's
 * documentation of fw_cfg, "ACPI table loader"); without firmware the board does. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_HW_ACPI_ACPI_PART_H
#define RHEA_HW_ACPI_ACPI_PART_H

#include <glib.h>
#include <stdint.h>

#define ACPI_PART_PAGE_SIZE 4096u

/* The device's, who puts it into DeviceEnv.acpi_parts while he is realized. */
typedef struct AcpiPart {
    GByteArray *aml;          /* the body of the SSDT */
    guint address_at;         /* of its 32 bits for the page's guest address; they are zero */
    const char *page_file;    /* of fw_cfg: what the page holds at first, ACPI_PART_PAGE_SIZE bytes */
    const char *address_file; /* of fw_cfg, writable, 8 bytes: it is told where in guest memory `told` is,
                                 little-endian */
    uint32_t told;            /* an offset in the page */
    uint32_t page_gpa;        /* the board's own note of a start without firmware */
} AcpiPart;

#endif
