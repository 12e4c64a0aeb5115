/*
 * What the two kinds of virtqueues (virtqueue_split.c, virtqueue_packed.c) give to what they share
 * (virtqueue.c). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_VIRTIO_VIRTQUEUE_INTERNAL_H
#define RHEA_HW_VIRTIO_VIRTQUEUE_INTERNAL_H

#include "hw/virtio/virtqueue.h"

/* 2.7.5, 2.8.1 */
#define VIRT_DESC_F_NEXT     1
#define VIRT_DESC_F_WRITE    2
#define VIRT_DESC_F_INDIRECT 4
#define VIRT_DESC_SIZE       16

/* As it lies in guest memory; how the last four bytes are used differs. */
typedef struct VirtDescriptor {
    uint64_t addr;
    uint32_t length;
    union {
        struct {
            uint16_t flags, next;
        } split;
        struct {
            uint16_t id, flags;
        } packed;
    };
} VirtDescriptor;
G_STATIC_ASSERT(sizeof(VirtDescriptor) == VIRT_DESC_SIZE);

typedef struct VirtBuffer {
    uint64_t addr;
    uint32_t length;
    uint16_t flags;
} VirtBuffer;

/* Called for every buffer of a chain; false ends the walk as a failure. */
typedef bool VirtBufferFn(void *opaque, const VirtBuffer *buffer);

/* A chain while it is looked at. */
typedef struct VirtGather {
    VirtQueue *vq;
    uint16_t head, slots; /* set by take */
    unsigned desc_count;  /* packed: the descriptors of the ring */
    unsigned out_count, in_count;
    size_t out_size, in_size;
    struct iovec iov[VIRTQUEUE_MAX_SG];
    VirtSg sg[VIRTQUEUE_MAX_SG];
    VirtDescriptor descs[VIRTQUEUE_MAX_SIZE];
} VirtGather;

typedef struct VirtQueueUsed {
    uint16_t id, slots;
    uint32_t written;
} VirtQueueUsed;

/* All of them: of a queue that is ready, but for the first five. */
struct VirtQueueRing {
    size_t unit;                                  /* bytes that an entry has in in_flight and again */
    bool (*layout_valid)(const VirtQueue *vq);    /* alignment; the size is in bounds already */
    bool (*indices_valid)(const VirtQueue *vq);   /* that were loaded */
    bool (*in_flight_valid)(const VirtQueue *vq); /* what `again` has, at most as many entries as the ring */
    void (*make_caches)(VirtQueue *vq);
    void (*note)(const VirtQueueElement *e, GByteArray *in_flight);
    bool (*waiting)(VirtQueue *vq); /* whether there is a new chain */
    /* Walks the next chain (again: the next of those that are to be taken again) and sets head, slots, descs.
     */
    bool (*take)(VirtQueue *vq, bool again, VirtBufferFn *fn, VirtGather *g);
    void (*move)(VirtQueue *vq, int slots); /* last_avail, forth or back */
    bool (*has_room)(VirtQueue *vq, size_t in_bytes);
    void (*fill)(VirtQueue *vq, const VirtQueueElement *e, uint32_t written); /* the filled_count-th */
    void (*flush)(VirtQueue *vq, unsigned count);
    bool (*driver_wants_notification)(VirtQueue *vq);
    void (*set_notification)(VirtQueue *vq, bool on);
    void (*ask_from_here)(
        VirtQueue *vq); /* event index: notify of the chain behind the last that was taken */
};
extern const VirtQueueRing virtqueue_split, virtqueue_packed;

/* The driver took the memory of a ring away: the device is broken. Always false. */
bool virtqueue_ring_gone(VirtQueue *vq, const char *what);
/* The entry of an indirect table; false: not in RAM, and the device is broken. */
bool virtqueue_read_indirect(VirtQueue *vq, uint64_t table, uint32_t index, VirtDescriptor *desc);
/* 2.7.5.3: only where agreed, never with NEXT, a whole number of entries. */
bool virtqueue_indirect_valid(VirtQueue *vq, const VirtBuffer *table);
/* A VirtBufferFn that adds up what may be written; opaque: a size_t. */
bool virtqueue_add_room(void *opaque, const VirtBuffer *buffer);
/* 2.7.10: whether `event` lies in what was added since the last notification. */
static inline bool virtqueue_event_passed(uint16_t event, uint16_t new_idx, uint16_t old_idx)
{
    return (uint16_t)(new_idx - event - 1) < (uint16_t)(new_idx - old_idx);
}

#endif
