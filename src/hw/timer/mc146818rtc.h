/* The MC146818 real-time clock and CMOS RAM: see mc146818rtc.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_TIMER_MC146818RTC_H
#define RHEA_HW_TIMER_MC146818RTC_H

#include "hw/core/device.h"

#include <time.h>

/* Ports 0x70, 0x71. On no bus or on an ISA bus. Properties: "base" ("utc", "localtime" or a date as in -rtc
 * base=), "clock" ("host", "rt", "vm"), "base_year", "lost_tick_policy" ("discard", "slew"). Read-only "date"
 * is the guest's time. */
#define TYPE_MC146818_RTC "mc146818rtc"

/* CMOS RAM as the board's firmware set it up; kept over resets. index 0x0e to 0x7f. */
void mc146818rtc_set_cmos(Device *dev, uint8_t index, uint8_t value);
/* Before realize: where IRQ 8 goes; NULL: isa_irqs[8]. Borrowed. */
void mc146818rtc_set_irq(Device *dev, IrqLine *irq);
/* The guest's time of day (for qom-get rtc-time). */
void mc146818rtc_get_date(Device *dev, struct tm *tm);

#endif
