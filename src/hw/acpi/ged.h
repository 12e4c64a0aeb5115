/*
 * The generic event device of hardware-reduced ACPI machines: power button event, sleep and reset registers.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_ACPI_GED_H
#define RHEA_HW_ACPI_GED_H

#include "hw/core/device.h"

#define TYPE_ACPI_GED "acpi-ged"
/* One region of GED_SIZE bytes: the event selector (32 bits, read clears) at 0, the sleep control register at
 * GED_SLEEP_CONTROL, sleep status, reset register. */
#define GED_SIZE               0x210
#define GED_REGS               0x200
#define GED_SLEEP_CONTROL      (GED_REGS + 0)
#define GED_SLEEP_STATUS       (GED_REGS + 1)
#define GED_RESET              (GED_REGS + 2)
#define GED_RESET_VALUE        0x42
#define GED_EVENT_POWER_BUTTON (1u << 1)

/* For boards, before realize: the interrupt line; after it: the region to map. Borrowed. */
void acpi_ged_set_irq(Device *dev, IrqLine *line);
MemoryRegion *acpi_ged_region(Device *dev);

#endif
