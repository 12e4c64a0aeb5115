/*
 * What PC host bridges do to the first megabyte: shadow RAM (the PAM registers) and the window of system
 * management RAM at 0xa0000, as 440FX (290549, 3.2.18 and 3.2.20) and Q35 (316966, 5.1.19 and 5.1.26) share
 * it. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_PCI_PAM_H
#define RHEA_HW_PCI_PAM_H

#include "mem/memory.h"

#define PAM_COUNT      7 /* registers, byte each */
#define PAM_AREAS      13
#define SMRAM_START    0xa0000u
#define SMRAM_LENGTH   0x20000u
#define SMRAM_BASE_SEG 0x02u
#define SMRAM_ENABLE   0x08u /* G_SMRAME */
#define SMRAM_LOCK     0x10u /* D_LCK */
#define SMRAM_CLOSED   0x20u /* D_CLS: code only; holds what is written */
#define SMRAM_OPEN     0x40u /* D_OPEN */

typedef struct PamArea {
    struct Pam *pam;
    uint32_t start, size;
    /* What covers the RAM: PCI with, below it, nothing at all where PCI has nothing; or RAM that is
     * read-only; or reads from PCI and writes to RAM; or no cover. */
    MemoryRegion to_pci, read_only, window;
    uint8_t mode;
} PamArea;

typedef struct Pam {
    MemoryRegion *system, *ram, *pci, *smram;
    AddressSpace *pci_as; /* for areas that read from ROM and write to RAM */
    PamArea areas[PAM_AREAS];
    MemoryRegion vga_hole, vga_nothing, smram_overlay;
} Pam;

/* Covers system memory from 0xa0000 to 0xfffff with what reset leaves: PCI. ram: the region whose offset 0 is
 * guest physical 0. smram: the root of what CPUs see in SMM, or NULL. All borrowed until pam_destroy(). */
void pam_init(Pam *pam, void *owner, MemoryRegion *system, MemoryRegion *ram, MemoryRegion *pci,
              MemoryRegion *smram);
void pam_destroy(Pam *pam);
/* Takes over what the seven PAM registers and SMRAM say. */
void pam_update(Pam *pam, const uint8_t *registers, uint8_t smram);
/* What SMRAM becomes when a guest changes it from old to value: its lock holds until the next reset. */
uint8_t smram_written(uint8_t old, uint8_t value);

#endif
