/* System control port A (0x92): A20 gate and fast reset. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_MISC_PORT92_H
#define RHEA_HW_MISC_PORT92_H

#include "hw/isa/isa.h"

#define TYPE_PORT92 "port92" /* on an ISA bus */

/* Before realize: the A20 gate (level true: addresses pass unchanged). Borrowed. */
void port92_set_a20(Device *dev, IrqLine *a20);

#endif
