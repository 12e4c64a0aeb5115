/* The I/O APIC: see ioapic.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_INTC_IOAPIC_H
#define RHEA_HW_INTC_IOAPIC_H

#include "hw/core/device.h"

/* Maps itself at property "address" (0xfec00000) of env->system_memory and registers with env->apic_bus. No
 * bus. Property "id" is the reset value of its ID register. */
#define TYPE_IOAPIC    "ioapic"
#define IOAPIC_PINS    24
#define IOAPIC_ADDRESS 0xfec00000u

/* Sets a pin: an IrqHandler whose opaque is the Device. */
void ioapic_set_input(void *dev, int pin, bool level);

#endif
