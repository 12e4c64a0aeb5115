/* What both kinds of virtqueues share: see virtqueue.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "hw/virtio/virtio_device.h"
#include "hw/virtio/virtqueue_internal.h"
#include "mem/rcu.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(virtqueue_pop, "%s queue %u head %u out %zu in %zu")
TRACE_EVENT(virtqueue_push, "%s queue %u head %u written %zu")
TRACE_EVENT(virtqueue_notify, "%s queue %u")

static const char *name_of(const VirtQueue *vq)
{
    return object_get_typename(OBJECT(vq->vdev));
}

/* ---- iovecs ---- */

size_t iov_total(const struct iovec *iov, unsigned count)
{
    size_t total = 0;
    for (unsigned i = 0; i < count; i++) {
        total += iov[i].iov_len;
    }
    return total;
}

size_t iov_read(const struct iovec *iov, unsigned count, size_t offset, void *buffer, size_t size)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t part = MIN(iov[i].iov_len - offset, size - done);
        guest_memory_copy((uint8_t *)buffer + done, (uint8_t *)iov[i].iov_base + offset, part);
        done += part;
        offset = 0;
    }
    return done;
}

size_t iov_write(const struct iovec *iov, unsigned count, size_t offset, const void *buffer, size_t size)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t part = MIN(iov[i].iov_len - offset, size - done);
        guest_memory_copy((uint8_t *)iov[i].iov_base + offset, (const uint8_t *)buffer + done, part);
        done += part;
        offset = 0;
    }
    return done;
}

/* ---- set-up ---- */

void virtqueue_init(VirtQueue *vq, VirtioDevice *vdev, uint16_t index, uint16_t max_size)
{
    memset(vq, 0, sizeof(*vq));
    vq->vdev = vdev;
    vq->index = index;
    vq->max_size = max_size;
    vq->notifier.fd = -1;
    g_queue_init(&vq->taken);
    virtqueue_reset(vq);
}

static void drop_caches(VirtQueue *vq)
{
    memory_cache_destroy(&vq->desc_cache);
    memory_cache_destroy(&vq->avail_cache);
    memory_cache_destroy(&vq->used_cache);
}

static void detach(VirtQueueElement *e)
{
    if (e->link.data) {
        g_queue_unlink(&e->vq->taken, &e->link);
        e->link.data = NULL;
    }
}

/* Elements that are out stay their owners' and mean nothing to the queue any more. */
static void forget_in_flight(VirtQueue *vq)
{
    while (vq->taken.head) {
        detach(vq->taken.head->data);
    }
    vq->in_use = 0;
    vq->filled_count = vq->filled_slots = 0;
    g_clear_pointer(&vq->again, g_free);
    vq->again_at = vq->again_count = 0;
}

void virtqueue_reset(VirtQueue *vq)
{
    drop_caches(vq);
    forget_in_flight(vq);
    vq->ring = &virtqueue_split;
    vq->size = vq->max_size;
    vq->vector = VIRTIO_NO_VECTOR;
    vq->enabled = false;
    vq->desc = vq->driver = vq->device = 0;
    vq->last_avail = vq->used_idx = vq->signalled_used = 0;
    vq->avail_wrap = vq->used_wrap = true;
    vq->signalled_valid = false;
    vq->notify_on = true;
}

void virtqueue_destroy(VirtQueue *vq)
{
    drop_caches(vq);
    forget_in_flight(vq);
    g_clear_pointer(&vq->in_flight, g_free);
    g_clear_pointer(&vq->filled, g_free);
}

/* ---- what is in flight when the state is saved ---- */

void virtqueue_note_in_flight(VirtQueue *vq)
{
    GByteArray *bytes = g_byte_array_new();
    for (GList *l = vq->taken.head; l; l = l->next) {
        vq->ring->note(l->data, bytes);
    }
    if (vq->again_at < vq->again_count) {
        size_t unit = vq->ring->unit;
        g_byte_array_append(bytes, vq->again + vq->again_at * unit,
                            (guint)((vq->again_count - vq->again_at) * unit));
    }
    vq->in_flight_bytes = bytes->len;
    g_free(vq->in_flight);
    vq->in_flight = g_byte_array_free(bytes, bytes->len == 0);
}

/* What came in is taken again, before anything new. */
static bool restore_in_flight(VirtQueue *vq, GError **error)
{
    size_t unit = vq->ring->unit;
    vq->again_count = (uint32_t)(vq->in_flight_bytes / unit);
    vq->again = vq->again_count ? g_memdup2(vq->in_flight, vq->again_count * unit) : NULL;
    if (vq->in_flight_bytes % unit || vq->again_count > vq->size || !vq->ring->in_flight_valid(vq)) {
        forget_in_flight(vq);
        return error_set(error, "queue %u: impossible chain in flight", vq->index);
    }
    return true;
}

/* As the features say that both sides have agreed on. */
static void choose_ring(VirtQueue *vq)
{
    bool packed = virtio_has_feature(vq->vdev, VIRTIO_F_RING_PACKED);
    vq->ring = packed ? &virtqueue_packed : &virtqueue_split;
    if (packed && !vq->filled) {
        vq->filled = g_new(VirtQueueUsed, vq->max_size);
    }
}

static bool layout_valid(const VirtQueue *vq)
{
    return vq->size && vq->size <= vq->max_size && vq->ring->layout_valid(vq);
}

void virtqueue_enable(VirtQueue *vq)
{
    if (vq->enabled) {
        return;
    }
    choose_ring(vq);
    if (!layout_valid(vq)) {
        virtio_device_error(vq->vdev, "queue %u: size %u or addresses not allowed", vq->index, vq->size);
        return;
    }
    vq->ring->make_caches(vq);
    vq->enabled = true;
}

bool virtqueue_restore(VirtQueue *vq, GError **error)
{
    drop_caches(vq);
    forget_in_flight(vq);
    vq->notify_on = true;
    if (!vq->enabled) {
        return true;
    }
    choose_ring(vq);
    if (!layout_valid(vq)) {
        return error_set(error, "queue %u: size %u or addresses not allowed", vq->index, vq->size);
    }
    if (!vq->ring->indices_valid(vq)) {
        return error_set(error, "queue %u: indices %u and %u do not fit its size %u", vq->index,
                         vq->last_avail, vq->used_idx, vq->size);
    }
    if (!restore_in_flight(vq, error)) {
        return false;
    }
    vq->ring->make_caches(vq);
    return true;
}

bool virtqueue_ready(const VirtQueue *vq)
{
    return vq->enabled && !vq->vdev->broken && !vq->vdev->resetting;
}

bool virtqueue_ring_gone(VirtQueue *vq, const char *what)
{
    virtio_device_error(vq->vdev, "queue %u: its %s ring is not in RAM", vq->index, what);
    return false;
}

/* ---- taking chains ---- */

bool virtqueue_empty(VirtQueue *vq)
{
    return !virtqueue_ready(vq) || (!vq->ring->waiting(vq) && vq->again_at == vq->again_count);
}

bool virtqueue_read_indirect(VirtQueue *vq, uint64_t table, uint32_t index, VirtDescriptor *desc)
{
    if (address_space_read(vq->vdev->dma_as, table + (uint64_t)index * VIRT_DESC_SIZE, MEMTXATTRS_DMA, desc,
                           VIRT_DESC_SIZE) != MEMTX_OK) {
        virtio_device_error(vq->vdev, "queue %u: indirect table is not in RAM", vq->index);
        return false;
    }
    return true;
}

bool virtqueue_indirect_valid(VirtQueue *vq, const VirtBuffer *table)
{
    if (!virtio_has_feature(vq->vdev, VIRTIO_F_INDIRECT_DESC) || (table->flags & VIRT_DESC_F_NEXT) ||
        table->length % VIRT_DESC_SIZE || table->length == 0 || table->addr > UINT64_MAX - table->length) {
        virtio_device_error(vq->vdev, "queue %u: malformed indirect descriptor", vq->index);
        return false;
    }
    return true;
}

static bool gather(void *opaque, const VirtBuffer *buffer)
{
    VirtGather *g = opaque;
    VirtioDevice *vdev = g->vq->vdev;
    bool write = buffer->flags & VIRT_DESC_F_WRITE;
    uint64_t addr = buffer->addr;
    uint32_t left = buffer->length;
    if (left == 0) {
        virtio_device_error(vdev, "queue %u: buffer of no size", g->vq->index);
        return false;
    }
    if (!write && g->in_count) {
        virtio_device_error(vdev, "queue %u: readable buffer behind a writable one", g->vq->index);
        return false;
    }
    while (left) {
        MemoryTarget target;
        unsigned n = g->out_count + g->in_count;
        address_space_translate(vdev->dma_as, addr, &target);
        if (!target.host || (write && !target.writable)) {
            virtio_device_error(vdev, "queue %u: buffer 0x%" PRIx64 " is not in RAM", g->vq->index, addr);
            return false;
        }
        if (n >= VIRTQUEUE_MAX_SG) {
            virtio_device_error(vdev, "queue %u: too many pieces", g->vq->index);
            return false;
        }
        uint32_t part = (uint32_t)MIN(left, target.length);
        g->iov[n] = (struct iovec){ target.host, part };
        g->sg[n] = (VirtSg){ target.ram, target.ram_offset };
        *(write ? &g->in_count : &g->out_count) += 1;
        *(write ? &g->in_size : &g->out_size) += part;
        addr += part;
        left -= part;
    }
    return true;
}

static VirtQueueElement *element_new(VirtQueue *vq, const VirtGather *g, size_t struct_size)
{
    unsigned count = g->out_count + g->in_count;
    size_t iov_at = (struct_size + 15) & ~(size_t)15;
    size_t sg_at = iov_at + count * sizeof(struct iovec);
    size_t descs_at = sg_at + count * sizeof(VirtSg), descs_size = (size_t)g->desc_count * VIRT_DESC_SIZE;
    uint8_t *memory = g_malloc(descs_at + descs_size);
    memset(memory, 0, struct_size);
    memcpy(memory + iov_at, g->iov, count * sizeof(struct iovec));
    memcpy(memory + sg_at, g->sg, count * sizeof(VirtSg));
    memcpy(memory + descs_at, g->descs, descs_size);
    VirtQueueElement *e = (VirtQueueElement *)(void *)memory;
    e->vq = vq;
    e->head = g->head;
    e->slots = g->slots;
    e->descs = memory + descs_at;
    e->out_count = g->out_count;
    e->in_count = g->in_count;
    e->out_size = g->out_size;
    e->in_size = g->in_size;
    e->out = (struct iovec *)(void *)(memory + iov_at);
    e->in = e->out + g->out_count;
    e->out_sg = (VirtSg *)(void *)(memory + sg_at);
    e->in_sg = e->out_sg + g->out_count;
    for (unsigned i = 0; i < count; i++) {
        ram_block_ref(e->out_sg[i].ram);
    }
    return e;
}

/* The element is the queue's until it is given back. */
static void attach(VirtQueue *vq, VirtQueueElement *e, bool again)
{
    e->retaken = again;
    if (again) {
        vq->again_at += e->slots;
    } else {
        vq->ring->move(vq, e->slots);
    }
    vq->in_use += e->slots;
    e->link.data = e;
    g_queue_push_tail_link(&vq->taken, &e->link);
}

void *virtqueue_pop(VirtQueue *vq, size_t struct_size)
{
    if (!virtqueue_ready(vq)) {
        return NULL;
    }
    bool again = vq->again_at < vq->again_count;
    if (!vq->ring->waiting(vq) && !again) {
        return NULL;
    }
    VirtGather g;
    g.vq = vq;
    g.out_count = g.in_count = g.desc_count = 0;
    g.out_size = g.in_size = 0;
    VirtQueueElement *e = NULL;
    memory_rcu_lock();
    if (virtqueue_ready(vq) && vq->ring->take(vq, again, gather, &g)) {
        e = element_new(vq, &g, struct_size);
    }
    memory_rcu_unlock();
    if (!e) {
        return NULL;
    }
    attach(vq, e, again);
    if (vq->notify_on && virtio_has_feature(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        vq->ring->ask_from_here(vq);
    }
    TRACE(virtqueue_pop, name_of(vq), vq->index, e->head, e->out_size, e->in_size);
    return e;
}

bool virtqueue_add_room(void *opaque, const VirtBuffer *buffer)
{
    if (buffer->flags & VIRT_DESC_F_WRITE) {
        *(size_t *)opaque += buffer->length;
    }
    return true;
}

bool virtqueue_has_room(VirtQueue *vq, size_t in_bytes)
{
    return virtqueue_ready(vq) && vq->ring->has_room(vq, in_bytes);
}

/* ---- giving them back ---- */

static void element_free(VirtQueueElement *e, size_t written)
{
    detach(e);
    for (unsigned i = 0; i < e->out_count + e->in_count; i++) {
        if (i >= e->out_count && written) {
            size_t part = MIN(written, e->out[i].iov_len);
            ram_written(e->out_sg[i].ram, e->out_sg[i].ram_offset, part);
            written -= part;
        }
        ram_block_unref(e->out_sg[i].ram);
    }
    g_free(e);
}

void virtqueue_discard(void *element)
{
    VirtQueueElement *e = element;
    /* A back end may have written into it. */
    element_free(e, e->in_size);
}

void virtqueue_unpop(VirtQueue *vq, void *element)
{
    VirtQueueElement *e = element;
    if (e->link.data) {
        if (e->retaken) {
            vq->again_at -= e->slots;
        } else {
            vq->ring->move(vq, -(int)e->slots);
        }
        vq->in_use -= e->slots;
    }
    element_free(e, 0);
}

void virtqueue_fill(VirtQueue *vq, void *element, size_t written)
{
    VirtQueueElement *e = element;
    TRACE(virtqueue_push, name_of(vq), vq->index, e->head, written);
    if (e->link.data) { /* else the queue was reset meanwhile */
        if (virtqueue_ready(vq)) {
            vq->ring->fill(vq, e, (uint32_t)MIN(written, UINT32_MAX));
        }
        vq->filled_count++;
        vq->filled_slots += e->slots;
    }
    element_free(e, written);
}

void virtqueue_flush(VirtQueue *vq)
{
    unsigned count = vq->filled_count, slots = vq->filled_slots;
    vq->filled_count = vq->filled_slots = 0;
    vq->in_use = (uint16_t)(vq->in_use - slots);
    if (count && virtqueue_ready(vq)) {
        vq->ring->flush(vq, count);
    }
}

void virtqueue_push(VirtQueue *vq, void *element, size_t written)
{
    virtqueue_fill(vq, element, written);
    virtqueue_flush(vq);
}

/* ---- notifications ---- */

void virtqueue_notify(VirtQueue *vq)
{
    if (!virtqueue_ready(vq)) {
        return;
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* what was used before the driver's wish */
    if (!vq->ring->driver_wants_notification(vq)) {
        return;
    }
    TRACE(virtqueue_notify, name_of(vq), vq->index);
    VirtioBus *bus = vq->vdev->bus;
    if (bus && bus->ops) {
        bus->ops->notify_queue(bus->opaque, vq);
    }
}

void virtqueue_set_notification(VirtQueue *vq, bool on)
{
    vq->notify_on = on;
    if (!virtqueue_ready(vq)) {
        return;
    }
    vq->ring->set_notification(vq, on);
    if (on) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the wish before the next look at the ring */
    }
}
