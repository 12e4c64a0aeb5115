/*
 * Start through firmware: the BIOS image in the address space, and what SeaBIOS and OVMF read from fw_cfg and
 * CMOS (ACPI tables with their loader's script, boot order, option ROMs). SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_MACHINE_FIRMWARE_H
#define RHEA_MACHINE_FIRMWARE_H

#include "machine/acpi_tables.h"
#include "machine/x86_machine.h"

#define FIRMWARE_DEFAULT "bios-256k.bin"

/* Maps the machine's firmware (flash where it is given; else the property "firmware", else SeaBIOS) below 4
 * GiB, its last 128 KiB also below 1 MiB, both in `container`. */
bool x86_firmware_map(X86Machine *x86, MemoryRegion *container, GError **error);
/* fw_cfg's files, once all devices are there. acpi: with tables of x86->acpi_board. */
bool x86_firmware_publish(X86Machine *x86, bool acpi, GError **error);
/* CMOS bytes that tell the boot order; after every reset. */
void x86_firmware_reset(X86Machine *x86);
void x86_firmware_fini(X86Machine *x86);

/* The script by which firmware places ACPI tables (QEMU's documentation of fw_cfg, "ACPI table loader") and
 * the pages of parts (may be NULL): caller owns. For tests. */
GByteArray *acpi_loader_script(const AcpiLinks *links, const GPtrArray *parts);

#endif
