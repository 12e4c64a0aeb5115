/* EDID: what a monitor tells of itself. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_DISPLAY_EDID_H
#define RHEA_HW_DISPLAY_EDID_H

#include <stdint.h>

#define EDID_SIZE 128u

/* Makes the block of a monitor whose preferred mode is width by height at 60 Hz; what does not fit its fields
 * (more than 4095 pixels, or 655 MHz) leaves the common modes alone. */
void edid_fill(uint8_t edid[EDID_SIZE], uint32_t width, uint32_t height);

#endif
