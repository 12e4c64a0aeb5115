/*
 * An SMBus host controller's registers, as the PIIX4 and the ICH9 have them, with the serial-presence-detect
 * EEPROMs of memory modules at addresses 0x50 and up. Sources: Intel 82371AB data sheet (290562),
 * chapter 7.3; Intel ICH9 data sheet (316972), chapter 19.2; System Management Bus specification 2.0,
 * chapter 5.5; JEDEC Standard 21-C, 4.1.2.5 (SPD of SDRAM).
 *
 * A transfer ends within the write that starts it; the ICH9's blocks may come byte by byte, each asked for.
 * Left out on purpose: the PIIX4's interrupts (drivers poll), the slave interface, process calls, packet
 * error codes, writes to the EEPROMs (they are write-protected). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_ACPI_SMBUS_H
#define RHEA_HW_ACPI_SMBUS_H

#include "mem/memory.h"
#include "vmstate/vmstate.h"

enum { SMBUS_MODULES = 8, SMBUS_SPD_SIZE = 256, SMBUS_SPD_ADDRESS = 0x50, SMBUS_IO_SIZE = 16 };

/* Embedded in its function's state, whose lock guards it and whose table saves it (smbus_vmstate). */
typedef struct SmbusHost {
    /* saved */
    uint8_t status, control, command, address, data[2], block[32];
    uint8_t block_at;
    uint8_t pointer[SMBUS_MODULES]; /* where each EEPROM reads next */
    uint8_t auxiliary;              /* AUX_CTL */
    uint8_t
        streaming; /* a block goes byte by byte: 1, of a known length; 2, until its last byte is announced */
    /* derived */
    uint8_t spd[SMBUS_MODULES][SMBUS_SPD_SIZE];
    unsigned modules;
    bool ich9; /* set by the owner before the guest runs */
} SmbusHost;

extern const MemoryRegionOps smbus_ops; /* opaque: the SmbusHost */
extern const VmState smbus_vmstate;

/* Puts modules in that together have a memory size, as far as powers of two from 4 MiB to 4 GiB and eight
 * modules go. */
void smbus_set_memory(SmbusHost *s, uint64_t size_bytes);
void smbus_reset(SmbusHost *s);
/* Whether it asks for an interrupt. */
bool smbus_interrupt(const SmbusHost *s);

#endif
