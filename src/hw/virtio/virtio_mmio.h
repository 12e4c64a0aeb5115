/* Virtio over MMIO: see virtio_mmio.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_VIRTIO_VIRTIO_MMIO_H
#define RHEA_HW_VIRTIO_VIRTIO_MMIO_H

#include "hw/core/device.h"

/* A transport for one device, empty until one sits on its bus. The board sets the interrupt before realize
 * and maps the region after it. */
#define TYPE_VIRTIO_MMIO     "virtio-mmio"
#define TYPE_VIRTIO_MMIO_BUS "virtio-mmio-bus"
#define VIRTIO_MMIO_SIZE     0x200

/* The interrupt that it raises; borrowed. */
void virtio_mmio_set_irq(Device *dev, IrqLine *irq);
/* Its register window of VIRTIO_MMIO_SIZE bytes; borrowed. */
MemoryRegion *virtio_mmio_region(Device *dev);

#endif
