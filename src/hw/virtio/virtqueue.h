/*
 * Virtqueues, split (VIRTIO 1.2, section 2.7) and packed (2.8), as the driver has agreed to.
 *
 * Everything in the rings is the guest's and may change at any time: each field is read once, checked, and
 * used from the copy. Whatever breaks a rule stops the device (virtio_device_error); no length, index or loop
 * is unbounded. All functions: the device's home lock is held. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_VIRTIO_VIRTQUEUE_H
#define RHEA_HW_VIRTIO_VIRTQUEUE_H

#include "loop/loop.h"
#include "mem/cache.h"

#include <sys/uio.h>

#define VIRTQUEUE_MAX_SIZE 1024
/* Pieces of host memory that a chain may fall into: a descriptor more where guest RAM is not contiguous. */
#define VIRTQUEUE_MAX_SG (VIRTQUEUE_MAX_SIZE + 32)

struct VirtioDevice;
typedef struct VirtQueue VirtQueue;
typedef struct VirtQueueRing VirtQueueRing;
typedef void VirtQueueHandler(struct VirtioDevice *vdev, VirtQueue *vq);

struct VirtQueue {
    struct VirtioDevice *vdev;
    uint16_t index;
    uint16_t max_size; /* what the device offers */
    /* saved: what the driver set */
    uint16_t size;
    uint16_t vector;
    bool enabled;
    uint64_t desc, driver, device; /* guest addresses of the three parts */
    /* saved: where both sides are. Split: free-running indices. Packed: places in the ring, and the wrap
     * counters. */
    uint16_t last_avail, used_idx;
    bool avail_wrap, used_wrap;
    uint16_t signalled_used; /* used_idx at the last notification; event index compares against it */
    bool signalled_valid;
    /* saved: the chains that were taken and not given back, in the order of their taking; after a load they
     * are taken again first. Split: their heads. Packed: their descriptors, since used ones may have taken
     * their place. */
    uint8_t *in_flight;
    uint32_t in_flight_bytes;
    /* derived */
    const VirtQueueRing *ring; /* split or packed */
    uint16_t in_use;           /* entries of the ring that popped chains hold */
    GQueue taken;              /* elements that are out, in the order of their taking */
    uint8_t *again;            /* what in_flight was: to be taken again, from again_at on, in entries */
    uint32_t again_at, again_count;
    struct VirtQueueUsed *filled; /* packed: what the next flush shows */
    unsigned filled_count, filled_slots;
    bool notify_on; /* the driver is asked to notify */
    MemoryCache desc_cache, avail_cache, used_cache;
    EventNotifier notifier; /* the driver's notifications */
    Loop *loop;
    LoopFd *loop_fd;
    VirtQueueHandler *handler;
};

/* One piece of a buffer in host memory; holds the block. */
typedef struct VirtSg {
    RamBlock *ram;
    uint64_t ram_offset;
} VirtSg;

/* A chain of buffers taken from a queue. It is the first member of what virtqueue_pop() allocates. */
typedef struct VirtQueueElement {
    VirtQueue *vq;
    GList link;                   /* in vq->taken; its data is NULL once the queue was reset */
    uint16_t head;                /* packed: the buffer id */
    uint16_t slots;               /* entries of the ring that it holds; split: 1 */
    uint8_t *descs;               /* packed: its descriptors as they were in the ring */
    bool retaken;                 /* was in flight when the state was saved */
    unsigned out_count, in_count; /* iovecs that the device reads and those that it writes */
    struct iovec *out, *in;
    size_t out_size, in_size; /* their bytes */
    VirtSg *out_sg, *in_sg;
} VirtQueueElement;

/* Takes the next chain, or NULL: none is there, or the queue is broken. struct_size is at least that of
 * VirtQueueElement: a device's request begins with one; the rest of it is zero. Ends with virtqueue_push,
 * _fill or _discard. */
void *virtqueue_pop(VirtQueue *vq, size_t struct_size);
/* Gives a chain back, `written` bytes of its in part filled, and frees it. */
void virtqueue_push(VirtQueue *vq, void *element, size_t written);
/* The same in two steps for several chains that appear at once: fill for each, then flush. */
void virtqueue_fill(VirtQueue *vq, void *element, size_t written);
void virtqueue_flush(VirtQueue *vq);
/* Puts the chain taken last back as if it had not been popped, and frees it. */
void virtqueue_unpop(VirtQueue *vq, void *element);
/* Frees an element without telling the guest (the device is being reset). */
void virtqueue_discard(void *element);
/* Tells the driver of used buffers, unless it asked not to be told. */
void virtqueue_notify(VirtQueue *vq);
/* Asks the driver to notify or not; a hint. After switching it on look at the queue once more. */
void virtqueue_set_notification(VirtQueue *vq, bool on);
/* Whether no chain is waiting (also true for a queue that is off or broken). */
bool virtqueue_empty(VirtQueue *vq);
/* Whether the queue is set up and may be used. */
bool virtqueue_ready(const VirtQueue *vq);
/* Whether the chains that wait have at least in_bytes of room (for a whole frame in mergeable buffers).
 * Bounded. */
bool virtqueue_has_room(VirtQueue *vq, size_t in_bytes);

/* Copies between a piece of linear memory and iovecs; returns the bytes copied (less where they end). */
size_t iov_read(const struct iovec *iov, unsigned count, size_t offset, void *buffer, size_t size);
size_t iov_write(const struct iovec *iov, unsigned count, size_t offset, const void *buffer, size_t size);
size_t iov_total(const struct iovec *iov, unsigned count);

/* ---- for virtio_device.c and transports ---- */
void virtqueue_init(VirtQueue *vq, struct VirtioDevice *vdev, uint16_t index, uint16_t max_size);
void virtqueue_reset(VirtQueue *vq);
void virtqueue_destroy(VirtQueue *vq);
/* The driver switches the queue on with the addresses and size that it set. */
void virtqueue_enable(VirtQueue *vq);
/* Fills in_flight for saving. */
void virtqueue_note_in_flight(VirtQueue *vq);
/* Sets the rings up again after the state was loaded; false refuses it. */
bool virtqueue_restore(VirtQueue *vq, GError **error);

#endif
