/* virtio-gpu, for those that put it into a card: see virtio_gpu.c. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_DISPLAY_VIRTIO_GPU_H
#define RHEA_HW_DISPLAY_VIRTIO_GPU_H

#include "display/display.h"
#include "hw/virtio/virtio_device.h"

#define TYPE_VIRTIO_GPU "virtio-gpu-device"

/* Before realize: who draws the first screen while the driver has not set it up. ops is called without a
 * lock. Borrowed. */
void virtio_gpu_set_fallback(VirtioDevice *vdev, const DisplayConsoleOps *ops, void *opaque);

#endif
