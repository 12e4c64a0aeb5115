/* The pair of DMA controllers of a PC: see i8257.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_ISA_I8257_H
#define RHEA_HW_ISA_I8257_H

#include "hw/isa/isa.h"

#define TYPE_I8257 "i8257"

/* For a device on a channel (0 to 3 move bytes, 5 to 7 words) that holds its request: moves up to `size`
 * bytes between buffer and memory as the channel is programmed. The number moved: 0 while it is masked or
 * stopped; *done tells that terminal count was reached. The caller holds its own lock, not the controller's.
 */
uint32_t i8257_transfer(Device *dev, unsigned channel, uint8_t *buffer, uint32_t size, bool *done);

/* The controllers of a bus; NULL: it has none. Borrowed. */
Device *i8257_find(Bus *isa);

#endif
