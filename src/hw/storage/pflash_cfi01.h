/* Parallel NOR flash: see pflash_cfi01.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_STORAGE_PFLASH_CFI01_H
#define RHEA_HW_STORAGE_PFLASH_CFI01_H

#include "hw/core/device.h"

/* The part that a board makes (no bus) and maps. Properties: "drive": what it holds; "name": of its region;
 * "sector-length" (4096): bytes that are erased together; "secure" (off): only CPUs in SMM can write. */
#define TYPE_PFLASH_CFI01 "cfi.pflash01"

/* After realize: as large as the drive. Borrowed. */
MemoryRegion *pflash_cfi01_region(Device *dev);

#endif
