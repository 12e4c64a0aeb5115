/*
 * Split virtqueues: descriptor table, available ring, used ring. Source: VIRTIO 1.2, section 2.7.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/virtio/virtio_device.h"
#include "hw/virtio/virtqueue_internal.h"

#define AVAIL_F_NO_INTERRUPT 1
#define USED_F_NO_NOTIFY     1

/* Offsets in the rings (2.7.6, 2.7.8). */
#define RING_FLAGS   0
#define RING_IDX     2
#define RING_ENTRIES 4
#define USED_SIZE    8

/* Alignment (2.7): 16, 2 and 4; a size that is a power of two (2.7.5). */
static bool split_layout_valid(const VirtQueue *vq)
{
    return !(vq->size & (vq->size - 1)) && !(vq->desc & 15) && !(vq->driver & 1) && !(vq->device & 3);
}

static bool split_indices_valid(const VirtQueue *vq)
{
    return (uint16_t)(vq->last_avail - vq->used_idx) <= vq->size;
}

static bool split_in_flight_valid(const VirtQueue *vq)
{
    g_autofree bool *seen = g_new0(bool, vq->size);
    for (uint32_t i = 0; i < vq->again_count; i++) {
        uint16_t head = ((const uint16_t *)(const void *)vq->again)[i];
        if (head >= vq->size || seen[head]) {
            return false;
        }
        seen[head] = true;
    }
    return true;
}

static void split_make_caches(VirtQueue *vq)
{
    AddressSpace *as = vq->vdev->dma_as;
    memory_cache_init(&vq->desc_cache, as, vq->desc, (uint64_t)vq->size * VIRT_DESC_SIZE, false);
    memory_cache_init(&vq->avail_cache, as, vq->driver, RING_ENTRIES + 2ull * vq->size + 2, false);
    memory_cache_init(&vq->used_cache, as, vq->device, RING_ENTRIES + (uint64_t)USED_SIZE * vq->size + 2,
                      true);
}

static void split_note(const VirtQueueElement *e, GByteArray *in_flight)
{
    g_byte_array_append(in_flight, (const uint8_t *)&e->head, sizeof(e->head));
}

/* ---- taking chains ---- */

/* How many chains the driver has made available; false: the queue cannot be used. */
static bool available(VirtQueue *vq, uint16_t *count)
{
    uint16_t idx = 0;
    if (!memory_cache_load16(&vq->avail_cache, RING_IDX, &idx)) {
        return virtqueue_ring_gone(vq, "driver");
    }
    *count = idx - vq->last_avail;
    if (*count > vq->size) {
        virtio_device_error(vq->vdev, "queue %u: driver's index moved from %u to %u", vq->index,
                            vq->last_avail, idx);
        return false;
    }
    return true;
}

static bool split_waiting(VirtQueue *vq)
{
    uint16_t count = 0;
    return available(vq, &count) && count;
}

/* Where a chain's descriptors are read from: the queue's table or an indirect one. */
typedef struct Table {
    VirtQueue *vq;
    bool indirect;
    uint64_t addr; /* of an indirect table */
    uint32_t count;
} Table;

static bool read_descriptor(const Table *t, uint32_t index, VirtDescriptor *desc)
{
    if (t->indirect) {
        return virtqueue_read_indirect(t->vq, t->addr, index, desc);
    }
    const uint8_t *host =
        memory_cache_host(&t->vq->desc_cache, (uint64_t)index * VIRT_DESC_SIZE, VIRT_DESC_SIZE);
    if (!host) {
        return virtqueue_ring_gone(t->vq, "descriptor");
    }
    guest_memory_copy(desc, host, VIRT_DESC_SIZE);
    return true;
}

/* Calls fn for every buffer of the chain that begins at head; false where the chain is not well formed. */
static bool walk_chain(VirtQueue *vq, uint16_t head, VirtBufferFn *fn, void *opaque)
{
    Table table = { .vq = vq, .count = vq->size };
    uint32_t index = head, steps = 0;
    for (;;) {
        VirtDescriptor desc = { 0 };
        if (index >= table.count) {
            virtio_device_error(vq->vdev, "queue %u: descriptor %u of %u", vq->index, index, table.count);
            return false;
        }
        if (!read_descriptor(&table, index, &desc)) {
            return false;
        }
        VirtBuffer buffer = { desc.addr, desc.length, desc.split.flags };
        if (buffer.flags & VIRT_DESC_F_INDIRECT) {
            if (table.indirect) { /* 2.7.5.3.1: never inside an indirect table */
                virtio_device_error(vq->vdev, "queue %u: indirect table in an indirect table", vq->index);
                return false;
            }
            if (!virtqueue_indirect_valid(vq, &buffer)) {
                return false;
            }
            table = (Table){
                .vq = vq, .indirect = true, .addr = desc.addr, .count = desc.length / VIRT_DESC_SIZE
            };
            index = 0;
            continue;
        }
        if (++steps > VIRTQUEUE_MAX_SIZE || (!table.indirect && steps > vq->size)) {
            virtio_device_error(vq->vdev, "queue %u: chain is too long or has a loop", vq->index);
            return false;
        }
        if (!fn(opaque, &buffer)) {
            return false;
        }
        if (!(buffer.flags & VIRT_DESC_F_NEXT)) {
            return true;
        }
        index = desc.split.next;
    }
}

/* The head of the chain `ahead` places behind the next one; false where it breaks a rule. */
static bool read_head(VirtQueue *vq, uint16_t ahead, uint16_t *head)
{
    unsigned slot = (uint16_t)(vq->last_avail + ahead) & (vq->size - 1);
    if (!memory_cache_load16(&vq->avail_cache, RING_ENTRIES + 2 * slot, head)) {
        return virtqueue_ring_gone(vq, "driver");
    }
    if (*head >= vq->size) {
        virtio_device_error(vq->vdev, "queue %u: head %u of %u", vq->index, *head, vq->size);
        return false;
    }
    return true;
}

static bool split_take(VirtQueue *vq, bool again, VirtBufferFn *fn, VirtGather *g)
{
    g->slots = 1;
    if (again) {
        g->head = ((const uint16_t *)(const void *)vq->again)[vq->again_at];
    } else if (!read_head(vq, 0, &g->head)) {
        return false;
    }
    if (vq->in_use >= vq->size) {
        virtio_device_error(vq->vdev, "queue %u: more chains than entries", vq->index);
        return false;
    }
    return walk_chain(vq, g->head, fn, g);
}

static void split_move(VirtQueue *vq, int slots)
{
    vq->last_avail = (uint16_t)(vq->last_avail + slots);
}

static bool split_has_room(VirtQueue *vq, size_t in_bytes)
{
    uint16_t count = 0, head = 0;
    size_t room = 0;
    if (!available(vq, &count)) {
        return false;
    }
    for (uint16_t i = 0; i < count && room < in_bytes; i++) {
        if (!read_head(vq, i, &head)) {
            return false;
        }
        size_t before = room;
        if (!walk_chain(vq, head, virtqueue_add_room, &room)) {
            return false;
        }
        if (room == before) { /* else a queue full of such chains would be walked for every frame */
            virtio_device_error(vq->vdev, "queue %u: chain without a writable buffer", vq->index);
            return false;
        }
    }
    return room >= in_bytes;
}

/* ---- giving them back ---- */

static void split_fill(VirtQueue *vq, const VirtQueueElement *e, uint32_t written)
{
    uint64_t offset =
        RING_ENTRIES + (uint64_t)USED_SIZE * ((uint16_t)(vq->used_idx + vq->filled_count) & (vq->size - 1));
    uint8_t *host = memory_cache_host(&vq->used_cache, offset, USED_SIZE);
    uint32_t entry[2] = { e->head, written };
    if (host) {
        guest_memory_copy(host, entry, sizeof(entry));
        memory_cache_written(&vq->used_cache, offset, sizeof(entry));
    } else {
        virtqueue_ring_gone(vq, "device");
    }
}

static void split_flush(VirtQueue *vq, unsigned count)
{
    vq->used_idx = (uint16_t)(vq->used_idx + count);
    /* With release order: the entries and the buffers are there before the index. */
    if (!memory_cache_store16(&vq->used_cache, RING_IDX, vq->used_idx)) {
        virtqueue_ring_gone(vq, "device");
    }
    /* The notification remembered is a whole round old: nothing can be concluded from it (2.7.10). */
    if ((uint16_t)(vq->used_idx - vq->signalled_used) < count) {
        vq->signalled_valid = false;
    }
}

/* ---- notifications ---- */

static bool split_driver_wants_notification(VirtQueue *vq)
{
    uint16_t value;
    if (!virtio_has_feature(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        if (!memory_cache_load16(&vq->avail_cache, RING_FLAGS, &value)) {
            return virtqueue_ring_gone(vq, "driver");
        }
        return !(value & AVAIL_F_NO_INTERRUPT);
    }
    if (!memory_cache_load16(&vq->avail_cache, RING_ENTRIES + 2ull * vq->size, &value)) {
        return virtqueue_ring_gone(vq, "driver");
    }
    bool valid = vq->signalled_valid;
    uint16_t old = vq->signalled_used;
    vq->signalled_used = vq->used_idx;
    vq->signalled_valid = true;
    return !valid || virtqueue_event_passed(value, vq->used_idx, old);
}

/* The event index field behind the used ring: "notify me when you add the chain with this index". */
static void store_avail_event(VirtQueue *vq, uint16_t value)
{
    if (!memory_cache_store16(&vq->used_cache, RING_ENTRIES + (uint64_t)USED_SIZE * vq->size, value)) {
        virtqueue_ring_gone(vq, "device");
    }
}

static void split_ask_from_here(VirtQueue *vq)
{
    store_avail_event(vq, vq->last_avail);
}

static void split_set_notification(VirtQueue *vq, bool on)
{
    if (!virtio_has_feature(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        if (!memory_cache_store16(&vq->used_cache, RING_FLAGS, on ? 0 : USED_F_NO_NOTIFY)) {
            virtqueue_ring_gone(vq, "device");
        }
    } else if (on) {
        /* Up to what the driver has added, so that only the next chain notifies. */
        uint16_t idx = 0;
        if (memory_cache_load16(&vq->avail_cache, RING_IDX, &idx)) {
            store_avail_event(vq, idx);
        } else {
            virtqueue_ring_gone(vq, "driver");
        }
    }
}

const VirtQueueRing virtqueue_split = {
    .unit = sizeof(uint16_t),
    .layout_valid = split_layout_valid,
    .indices_valid = split_indices_valid,
    .in_flight_valid = split_in_flight_valid,
    .make_caches = split_make_caches,
    .note = split_note,
    .waiting = split_waiting,
    .take = split_take,
    .move = split_move,
    .has_room = split_has_room,
    .fill = split_fill,
    .flush = split_flush,
    .driver_wants_notification = split_driver_wants_notification,
    .set_notification = split_set_notification,
    .ask_from_here = split_ask_from_here,
};
