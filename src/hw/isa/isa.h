/*
 * The ISA bus: devices at fixed I/O ports with one of sixteen interrupt inputs.
 * The bus's env must have system_io and isa_irqs. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_ISA_ISA_H
#define RHEA_HW_ISA_ISA_H

#include "hw/core/device.h"

#define TYPE_ISA_BUS    "ISA"
#define TYPE_ISA_DEVICE "isa-device" /* abstract: bus_type and category are set, no state of its own */
#define ISA_IRQS        16

/* An ISA bus "isa.0" below owner (the PIIX3 makes its own; microvm gives NULL). Borrowed result. */
Bus *isa_bus_new(Device *owner, const DeviceEnv *env);
/* Interrupt input n of the device's bus, or NULL where the board has none. Borrowed. Fails (false) for n
 * > 15. */
bool isa_get_irq(Device *dev, uint32_t n, IrqLine **line, GError **error);
/* Puts a region at a port; the range must be inside the 64 KiB of I/O space. */
bool isa_map_port(Device *dev, MemoryRegion *region, uint32_t port, GError **error);

#endif
