/* The 8254 interval timer with port 0x61: see i8254.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_TIMER_I8254_H
#define RHEA_HW_TIMER_I8254_H

#include "hw/core/device.h"

#define TYPE_I8254 "isa-pit" /* ports 0x40-0x43 and 0x61. No bus */

/* Before realize: where OUT 0 goes (an HPET's hpet_legacy_line(), say); NULL: isa_irqs[0]. Borrowed. */
void i8254_set_irq(Device *dev, IrqLine *out0);

#endif
