/* The pair of 8259A interrupt controllers: see i8259.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_INTC_I8259_H
#define RHEA_HW_INTC_I8259_H

#include "hw/core/device.h"

/* Both chips, at ports 0x20, 0xa0 and the ELCR at 0x4d0. Registers itself with env->apic_bus. No bus.
 * Property "firmware-preset" (bool): every reset leaves the pair as PC firmware does (vectors 0x08 and 0x70,
 * all masked but the cascade, inputs 10 and 11 level triggered for PCI). */
#define TYPE_I8259 "isa-i8259"

/* Sets input n (0 to 15; 2 is the cascade and does nothing): an IrqHandler whose opaque is the Device. */
void i8259_set_input(void *dev, int n, bool level);
/* INTA: the vector of the highest request, taken into service. [any thread; takes the device's lock] */
int i8259_acknowledge(void *dev);

#endif
