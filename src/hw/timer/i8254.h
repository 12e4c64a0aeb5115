/* The 8254 interval timer with port 0x61: see i8254.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_TIMER_I8254_H
#define RHEA_HW_TIMER_I8254_H

#include "hw/core/device.h"

/* Ports 0x40-0x43 and 0x61. No bus. Property "firmware-preset" (bool): after every reset channel 0 ticks
 * at 18.2 Hz, as PC firmware has it. */
#define TYPE_I8254 "isa-pit"

/* Before realize: where OUT 0 goes (an HPET's hpet_legacy_line(), say); NULL: isa_irqs[0]. Borrowed. */
void i8254_set_irq(Device *dev, IrqLine *out0);
/* A line that, while low, keeps channel 0 from giving edges (an HPET that replaces it pulls it). Borrowed. */
IrqLine *i8254_control_line(Device *dev);

#endif
