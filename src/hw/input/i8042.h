/* The keyboard controller: see i8042.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_INPUT_I8042_H
#define RHEA_HW_INPUT_I8042_H

#include "hw/isa/isa.h"

#define TYPE_I8042 "i8042" /* on an ISA bus: ports 0x60, 0x64, interrupts 1 and 12 */

/* Before realize: the A20 gate (level true: addresses pass unchanged). Borrowed. */
void i8042_set_a20(Device *dev, IrqLine *a20);

#endif
