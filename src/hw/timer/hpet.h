/* The HPET: see hpet.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_TIMER_HPET_H
#define RHEA_HW_TIMER_HPET_H

#include "hw/core/device.h"

/* Maps itself at HPET_ADDRESS of env->system_memory; its timers reach env->gsi. Property "timers" (3 to 24).
 * No bus. */
#define TYPE_HPET    "hpet"
#define HPET_ADDRESS 0xfed00000u

/* The line that the 8254's OUT 0 (n 0) or the RTC's interrupt (n 1) must be wired to where there is an HPET:
 * it passes on to isa_irqs[0] or [8] unless legacy replacement is on. After the HPET's realize. Borrowed. */
IrqLine *hpet_legacy_line(Device *dev, int n);
/* An i8254_control_line(): low while legacy replacement makes channel 0's edges useless. After realize.
 * Borrowed. */
void hpet_set_pit_control(Device *dev, IrqLine *control);

#endif
