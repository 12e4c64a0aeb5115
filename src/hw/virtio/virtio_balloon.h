/* The memory balloon as monitors use it: see virtio_balloon.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_VIRTIO_VIRTIO_BALLOON_H
#define RHEA_HW_VIRTIO_VIRTIO_BALLOON_H

#include "object/object.h"

/* Both find the machine's balloon below root; without one the error's class is DeviceNotActive. ram_size: the
 * machine's RAM in bytes. Main loop's thread. */
/* query-balloon: how much memory the guest has left to itself, in bytes. */
bool virtio_balloon_query(Object *root, uint64_t ram_size, int64_t *actual_bytes, GError **error);
/* balloon: asks the guest to shrink or grow to that many bytes. */
bool virtio_balloon_set_target(Object *root, uint64_t ram_size, int64_t target_bytes, GError **error);

#endif
