/* The floppy controller: see fdc.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_STORAGE_FDC_H
#define RHEA_HW_STORAGE_FDC_H

#include "hw/core/device.h"

#define TYPE_ISA_FDC    "isa-fdc"
#define TYPE_FLOPPY     "floppy"
#define TYPE_FLOPPY_BUS "floppy-bus"
#define FDC_DRIVES      2

/* What CMOS byte 10h says of a controller's drives: a nibble each, the first drive's is the high one; 0:
 * there is none. The machine is built. */
uint8_t isa_fdc_cmos_types(Device *dev);

#endif
