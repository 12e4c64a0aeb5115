/*
 * Packed virtqueues: one ring of descriptors that both sides write, and two words that say who wants to be
 * notified. Source: VIRTIO 1.2, section 2.8.
 *
 * Invariants:
 *  1. last_avail and used_idx are below size. From used_idx to last_avail, counted with the wrap counters,
 * are the entries of the chains that are out: never more than size.
 *  2. A used descriptor may overwrite the descriptors of chains that are still out, so each element keeps its
 * own.
 *  3. Of the chains that a flush shows, the first one's flags are written last (2.8.20 lets the driver see
 * them at once). SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/virtio/virtio_device.h"
#include "hw/virtio/virtqueue_internal.h"

#define DESC_F_AVAIL (1u << 7)
#define DESC_F_USED  (1u << 15)

#define DESC_LENGTH 8
#define DESC_ID     12
#define DESC_FLAGS  14

/* Event suppression (2.8.10): a word with a place and its wrap counter, and flags. */
#define EVENT_OFF_WRAP 0
#define EVENT_FLAGS    2
#define EVENT_SIZE     4
#define WRAP_BIT       (1u << 15)
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };

/* A place in the ring. */
typedef struct Place {
    uint16_t index;
    bool wrap;
} Place;

static Place place_move(const VirtQueue *vq, Place p, int slots)
{
    int index = p.index + slots;
    if (index >= vq->size) {
        return (Place){ (uint16_t)(index - vq->size), !p.wrap };
    }
    return index < 0 ? (Place){ (uint16_t)(index + vq->size), !p.wrap } : (Place){ (uint16_t)index, p.wrap };
}

static bool packed_layout_valid(const VirtQueue *vq)
{
    return !(vq->desc & 15) && !(vq->driver & 3) && !(vq->device & 3);
}

static bool packed_indices_valid(const VirtQueue *vq)
{
    if (vq->last_avail >= vq->size || vq->used_idx >= vq->size || vq->signalled_used >= vq->size) {
        return false;
    }
    int out = vq->last_avail - vq->used_idx + (vq->avail_wrap != vq->used_wrap ? vq->size : 0);
    return out >= 0 && out <= vq->size;
}

static const VirtDescriptor *descriptors_again(const VirtQueue *vq)
{
    return (const VirtDescriptor *)(const void *)vq->again;
}

/* They fit between both indices, and the last chain ends. */
static bool packed_in_flight_valid(const VirtQueue *vq)
{
    uint32_t out =
        (uint32_t)(vq->last_avail - vq->used_idx + (vq->avail_wrap != vq->used_wrap ? vq->size : 0));
    return vq->again_count == 0 ||
           (vq->again_count <= out &&
            !(descriptors_again(vq)[vq->again_count - 1].packed.flags & VIRT_DESC_F_NEXT));
}

static void packed_make_caches(VirtQueue *vq)
{
    AddressSpace *as = vq->vdev->dma_as;
    memory_cache_init(&vq->desc_cache, as, vq->desc, (uint64_t)vq->size * VIRT_DESC_SIZE, true);
    memory_cache_init(&vq->avail_cache, as, vq->driver, EVENT_SIZE, false);
    memory_cache_init(&vq->used_cache, as, vq->device, EVENT_SIZE, true);
}

static void packed_note(const VirtQueueElement *e, GByteArray *in_flight)
{
    g_byte_array_append(in_flight, e->descs, e->slots * VIRT_DESC_SIZE);
}

/* ---- taking chains ---- */

/* Whether the driver has made the descriptor at a place available (2.8.1); what else it holds is there, too.
 */
static bool available(VirtQueue *vq, Place p)
{
    uint16_t flags;
    if (!memory_cache_load16(&vq->desc_cache, (uint64_t)p.index * VIRT_DESC_SIZE + DESC_FLAGS, &flags)) {
        return virtqueue_ring_gone(vq, "descriptor");
    }
    bool avail = flags & DESC_F_AVAIL, used = flags & DESC_F_USED;
    return avail == p.wrap && used != p.wrap;
}

static Place next_place(const VirtQueue *vq)
{
    return (Place){ vq->last_avail, vq->avail_wrap };
}

static bool packed_waiting(VirtQueue *vq)
{
    return available(vq, next_place(vq));
}

/* 2.8.7: all entries of the table belong to the chain, and of the flags only WRITE means something. */
static bool walk_indirect(VirtQueue *vq, const VirtBuffer *table, VirtBufferFn *fn, void *opaque)
{
    uint32_t count = table->length / VIRT_DESC_SIZE;
    if (!virtqueue_indirect_valid(vq, table)) {
        return false;
    }
    if (count > VIRTQUEUE_MAX_SIZE) {
        virtio_device_error(vq->vdev, "queue %u: indirect table with %u entries", vq->index, count);
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        VirtDescriptor desc = { 0 };
        if (!virtqueue_read_indirect(vq, table->addr, i, &desc) ||
            !fn(opaque, &(VirtBuffer){ desc.addr, desc.length, desc.packed.flags & VIRT_DESC_F_WRITE })) {
            return false;
        }
    }
    return true;
}

/* A chain's descriptors one after the other: those of the ring, or those that are to be taken again. */
typedef struct Walk {
    Place at;
    const VirtDescriptor *again; /* NULL: of the ring */
    unsigned limit;              /* more do not belong to one chain */
} Walk;

static bool walk_next(VirtQueue *vq, Walk *w, VirtDescriptor *desc)
{
    if (w->again) {
        *desc = *w->again++;
        return true;
    }
    const uint8_t *host =
        memory_cache_host(&vq->desc_cache, (uint64_t)w->at.index * VIRT_DESC_SIZE, VIRT_DESC_SIZE);
    if (!host) {
        return virtqueue_ring_gone(vq, "descriptor");
    }
    guest_memory_copy(desc, host, VIRT_DESC_SIZE);
    w->at = place_move(vq, w->at, 1);
    return true;
}

/* Calls fn for every buffer of a chain. Its descriptors go to descs (of w->limit; NULL: nowhere), and their
 * number comes back: 0 where the chain is not well formed. */
static unsigned walk_chain(VirtQueue *vq, Walk *w, VirtDescriptor *descs, VirtBufferFn *fn, void *opaque)
{
    VirtDescriptor desc = { 0 };
    for (unsigned count = 1; count <= w->limit; count++) {
        if (!walk_next(vq, w, &desc)) {
            return 0;
        }
        if (descs) {
            descs[count - 1] = desc;
        }
        VirtBuffer buffer = { desc.addr, desc.length, desc.packed.flags };
        if (buffer.flags & VIRT_DESC_F_INDIRECT) {
            if (count != 1) { /* 2.8.8: a chain is direct or one indirect descriptor */
                virtio_device_error(vq->vdev, "queue %u: indirect descriptor inside a chain", vq->index);
                return 0;
            }
            return walk_indirect(vq, &buffer, fn, opaque) ? 1 : 0;
        }
        if (!fn(opaque, &buffer)) {
            return 0;
        }
        if (!(buffer.flags & VIRT_DESC_F_NEXT)) {
            return count;
        }
    }
    virtio_device_error(vq->vdev, "queue %u: chain is too long", vq->index);
    return 0;
}

static bool packed_take(VirtQueue *vq, bool again, VirtBufferFn *fn, VirtGather *g)
{
    Walk w = { .at = next_place(vq), .limit = vq->size - MIN(vq->in_use, vq->size) };
    if (again) {
        w.again = descriptors_again(vq) + vq->again_at;
        w.limit = MIN(w.limit, vq->again_count - vq->again_at);
    }
    unsigned count = walk_chain(vq, &w, g->descs, fn, g);
    if (!count) {
        return false;
    }
    g->desc_count = count;
    g->slots = (uint16_t)count;
    g->head = g->descs[count - 1].packed.id; /* 2.8.6: the last one's counts */
    return true;
}

static void packed_move(VirtQueue *vq, int slots)
{
    Place p = place_move(vq, next_place(vq), slots);
    vq->last_avail = p.index;
    vq->avail_wrap = p.wrap;
}

static bool packed_has_room(VirtQueue *vq, size_t in_bytes)
{
    Walk w = { .at = next_place(vq), .limit = vq->size };
    size_t room = 0;
    while (room < in_bytes && w.limit && available(vq, w.at)) {
        size_t before = room;
        unsigned count = walk_chain(vq, &w, NULL, virtqueue_add_room, &room);
        if (!count) {
            return false;
        }
        if (room == before) { /* else a queue full of such chains would be walked for every frame */
            virtio_device_error(vq->vdev, "queue %u: chain without a writable buffer", vq->index);
            return false;
        }
        w.limit -= count;
    }
    return room >= in_bytes;
}

/* ---- giving them back ---- */

static void packed_fill(VirtQueue *vq, const VirtQueueElement *e, uint32_t written)
{
    vq->filled[vq->filled_count] = (VirtQueueUsed){ e->head, e->slots, written };
}

/* Everything of a used descriptor but its flags, which make it one. */
static bool store_used(VirtQueue *vq, Place p, const VirtQueueUsed *used)
{
    uint64_t offset = (uint64_t)p.index * VIRT_DESC_SIZE;
    uint8_t *host = memory_cache_host(&vq->desc_cache, offset, VIRT_DESC_SIZE);
    if (!host) {
        return virtqueue_ring_gone(vq, "descriptor");
    }
    guest_memory_copy(host + DESC_LENGTH, &used->written, sizeof(used->written));
    guest_memory_copy(host + DESC_ID, &used->id, sizeof(used->id));
    memory_cache_written(&vq->desc_cache, offset, VIRT_DESC_SIZE);
    return true;
}

static bool store_used_flags(VirtQueue *vq, Place p, const VirtQueueUsed *used)
{
    unsigned flags = (p.wrap ? DESC_F_AVAIL | DESC_F_USED : 0) | (used->written ? VIRT_DESC_F_WRITE : 0);
    /* With release order: what the guest reads then is there. */
    return memory_cache_store16(&vq->desc_cache, (uint64_t)p.index * VIRT_DESC_SIZE + DESC_FLAGS,
                                (uint16_t)flags) ||
           virtqueue_ring_gone(vq, "descriptor");
}

static void packed_flush(VirtQueue *vq, unsigned count)
{
    Place first = { vq->used_idx, vq->used_wrap }, p = first;
    for (unsigned i = 0; i < count; i++) {
        if (!store_used(vq, p, &vq->filled[i]) || (i && !store_used_flags(vq, p, &vq->filled[i]))) {
            return;
        }
        p = place_move(vq, p, vq->filled[i].slots);
    }
    store_used_flags(vq, first, &vq->filled[0]);
    if (p.wrap != first.wrap) {
        vq->signalled_valid = false; /* of the last round: nothing can be concluded from it */
    }
    vq->used_idx = p.index;
    vq->used_wrap = p.wrap;
}

/* ---- notifications ---- */

static bool packed_driver_wants_notification(VirtQueue *vq)
{
    uint16_t flags, event;
    bool valid = vq->signalled_valid;
    uint16_t old = vq->signalled_used;
    vq->signalled_used = vq->used_idx;
    vq->signalled_valid = true;
    /* Flags first: the driver writes them last. */
    if (!memory_cache_load16(&vq->avail_cache, EVENT_FLAGS, &flags) ||
        !memory_cache_load16(&vq->avail_cache, EVENT_OFF_WRAP, &event)) {
        return virtqueue_ring_gone(vq, "driver");
    }
    if ((flags & 3) == EVENT_DISABLE) {
        return false;
    }
    if ((flags & 3) != EVENT_DESC || !virtio_has_feature(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        return true;
    }
    bool wrap = event & WRAP_BIT;
    int place = (int)(event & (WRAP_BIT - 1)) - (wrap != vq->used_wrap ? vq->size : 0);
    return !valid || virtqueue_event_passed((uint16_t)place, vq->used_idx, old);
}

static bool store_event(VirtQueue *vq, uint64_t offset, unsigned value)
{
    return memory_cache_store16(&vq->used_cache, offset, (uint16_t)value) ||
           virtqueue_ring_gone(vq, "device");
}

static void packed_ask_from_here(VirtQueue *vq)
{
    store_event(vq, EVENT_OFF_WRAP, vq->last_avail | (vq->avail_wrap ? WRAP_BIT : 0));
}

static void packed_set_notification(VirtQueue *vq, bool on)
{
    if (!on || !virtio_has_feature(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        store_event(vq, EVENT_FLAGS, on ? EVENT_ENABLE : EVENT_DISABLE);
        return;
    }
    /* Behind what the driver has added, so that only the next chain notifies. */
    Place p = next_place(vq);
    for (unsigned i = 0; i < vq->size && available(vq, p); i++) {
        p = place_move(vq, p, 1);
    }
    if (store_event(vq, EVENT_OFF_WRAP, p.index | (p.wrap ? WRAP_BIT : 0))) {
        store_event(vq, EVENT_FLAGS, EVENT_DESC);
    }
}

const VirtQueueRing virtqueue_packed = {
    .unit = VIRT_DESC_SIZE,
    .layout_valid = packed_layout_valid,
    .indices_valid = packed_indices_valid,
    .in_flight_valid = packed_in_flight_valid,
    .make_caches = packed_make_caches,
    .note = packed_note,
    .waiting = packed_waiting,
    .take = packed_take,
    .move = packed_move,
    .has_room = packed_has_room,
    .fill = packed_fill,
    .flush = packed_flush,
    .driver_wants_notification = packed_driver_wants_notification,
    .set_notification = packed_set_notification,
    .ask_from_here = packed_ask_from_here,
};
