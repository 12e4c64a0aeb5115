/*
 * The reset control register at port 0xcf9, which PC south bridges share (82371SB 2.5.5; ICH9 13.7.5).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_ISA_RESET_CONTROL_H
#define RHEA_HW_ISA_RESET_CONTROL_H

#include "hw/core/device.h"

typedef struct ResetControl {
    uint8_t value; /* saved by the owner */
    Device *dev;
    MemoryRegion io;
} ResetControl;

/* At realize and unrealize of the owner, whose lock the register is under. */
void reset_control_init(ResetControl *rc, Device *dev);
void reset_control_destroy(ResetControl *rc);

#endif
