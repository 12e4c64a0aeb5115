/* The pair of 8259A interrupt controllers: see i8259.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_INTC_I8259_H
#define RHEA_HW_INTC_I8259_H

#include "hw/core/device.h"

/* Both chips, at ports 0x20, 0xa0 and the ELCR at 0x4d0. Registers itself with env->apic_bus. No bus. */
#define TYPE_I8259 "isa-i8259"

/* Sets input n (0 to 15; 2 is the cascade and does nothing): an IrqHandler whose opaque is the Device. */
void i8259_set_input(void *dev, int n, bool level);
/* INTA: the vector of the highest request, taken into service. [any thread; takes the device's lock] */
int i8259_acknowledge(void *dev);
/* Writes the edge/level register as firmware does (bit n: input n is level triggered). */
void i8259_set_elcr(Device *dev, uint16_t mask);

#endif
