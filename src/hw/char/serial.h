/* 16550A serial ports: see serial.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_CHAR_SERIAL_H
#define RHEA_HW_CHAR_SERIAL_H

#include "hw/isa/isa.h"

/* On an ISA bus. Properties "index" (0 to 3, default the first free), "iobase", "irq" (default: the standard
 * ones of index), "chardev" (the id of a chardev; optional). */
#define TYPE_ISA_SERIAL "isa-serial"

#endif
