/* Split virtqueues: see virtqueue.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/virtio/virtqueue.h"

#include "base/error.h"
#include "hw/virtio/virtio_device.h"
#include "mem/rcu.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(virtqueue_pop, "%s queue %u head %u out %zu in %zu")
TRACE_EVENT(virtqueue_push, "%s queue %u head %u written %zu")
TRACE_EVENT(virtqueue_notify, "%s queue %u")

#define DESC_F_NEXT     1
#define DESC_F_WRITE    2
#define DESC_F_INDIRECT 4
#define DESC_SIZE       16

#define AVAIL_F_NO_INTERRUPT 1
#define USED_F_NO_NOTIFY     1

/* Offsets in the rings (2.7.6, 2.7.8). */
#define RING_FLAGS   0
#define RING_IDX     2
#define RING_ENTRIES 4
#define USED_SIZE    8

typedef struct Descriptor {
    uint64_t addr;
    uint32_t length;
    uint16_t flags, next;
} Descriptor;

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
    vq->popped = g_new0(uint32_t, max_size);
    virtqueue_reset(vq);
}

static void drop_caches(VirtQueue *vq)
{
    memory_cache_destroy(&vq->desc_cache);
    memory_cache_destroy(&vq->avail_cache);
    memory_cache_destroy(&vq->used_cache);
}

static void forget_in_flight(VirtQueue *vq)
{
    memset(vq->popped, 0, vq->max_size * sizeof(*vq->popped));
    vq->pop_count = 0;
    vq->in_use = 0;
    g_free(vq->again);
    vq->again = NULL;
    vq->again_at = vq->again_count = 0;
}

void virtqueue_reset(VirtQueue *vq)
{
    drop_caches(vq);
    forget_in_flight(vq);
    vq->size = vq->max_size;
    vq->vector = VIRTIO_NO_VECTOR;
    vq->enabled = false;
    vq->desc = vq->driver = vq->device = 0;
    vq->last_avail = vq->used_idx = vq->signalled_used = 0;
    vq->signalled_valid = false;
    vq->notify_on = true;
}

void virtqueue_destroy(VirtQueue *vq)
{
    drop_caches(vq);
    g_free(vq->popped);
    g_free(vq->in_flight);
    vq->popped = NULL;
    vq->in_flight = NULL;
}

/* ---- what is in flight when the state is saved ---- */

static int compare_age(const void *a, const void *b, void *opaque)
{
    const uint32_t *popped = opaque;
    int32_t order = (int32_t)(popped[*(const uint16_t *)a] - popped[*(const uint16_t *)b]);
    return order < 0 ? -1 : order > 0;
}

void virtqueue_note_in_flight(VirtQueue *vq)
{
    GArray *heads = g_array_new(FALSE, FALSE, sizeof(uint16_t));
    for (uint32_t head = 0; vq->in_use && head < vq->max_size; head++) {
        uint16_t narrow = (uint16_t)head;
        if (vq->popped[head]) {
            g_array_append_val(heads, narrow);
        }
    }
    g_array_sort_with_data(heads, compare_age, vq->popped);
    g_array_append_vals(heads, vq->again + vq->again_at, vq->again_count - vq->again_at);
    vq->in_flight_bytes = heads->len * (uint32_t)sizeof(uint16_t);
    g_free(vq->in_flight);
    vq->in_flight = (uint8_t *)g_array_free(heads, vq->in_flight_bytes == 0);
}

/* What came in is taken again, before anything new. */
static bool restore_in_flight(VirtQueue *vq, GError **error)
{
    uint32_t count = vq->in_flight_bytes / sizeof(uint16_t);
    vq->again = g_new(uint16_t, count);
    if (count) {
        memcpy(vq->again, vq->in_flight, count * sizeof(uint16_t));
    }
    vq->again_count = count;
    for (uint32_t i = 0; i < count; i++) {
        if (vq->again[i] >= vq->size || vq->popped[vq->again[i]]) {
            forget_in_flight(vq);
            return error_set(error, "queue %u: impossible chain in flight", vq->index);
        }
        vq->popped[vq->again[i]] = 1;
    }
    memset(vq->popped, 0, vq->max_size * sizeof(*vq->popped));
    return true;
}

static void make_caches(VirtQueue *vq)
{
    AddressSpace *as = vq->vdev->dma_as;
    memory_cache_init(&vq->desc_cache, as, vq->desc, (uint64_t)vq->size * DESC_SIZE, false);
    memory_cache_init(&vq->avail_cache, as, vq->driver, RING_ENTRIES + 2ull * vq->size + 2, false);
    memory_cache_init(&vq->used_cache, as, vq->device, RING_ENTRIES + (uint64_t)USED_SIZE * vq->size + 2,
                      true);
}

/* Alignment (2.7): 16, 2 and 4; a size that is a power of two (2.7.5 asks it of split queues). */
static bool layout_valid(const VirtQueue *vq)
{
    return vq->size && vq->size <= vq->max_size && !(vq->size & (vq->size - 1)) && !(vq->desc & 15) &&
           !(vq->driver & 1) && !(vq->device & 3);
}

void virtqueue_enable(VirtQueue *vq)
{
    if (vq->enabled) {
        return;
    }
    if (!layout_valid(vq)) {
        virtio_device_error(vq->vdev, "queue %u: size %u or addresses not allowed", vq->index, vq->size);
        return;
    }
    make_caches(vq);
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
    if (!layout_valid(vq)) {
        return error_set(error, "queue %u: size %u or addresses not allowed", vq->index, vq->size);
    }
    if ((uint16_t)(vq->last_avail - vq->used_idx) > vq->size) {
        return error_set(error, "queue %u: indices %u and %u do not fit its size %u", vq->index,
                         vq->last_avail, vq->used_idx, vq->size);
    }
    if (!restore_in_flight(vq, error)) {
        return false;
    }
    make_caches(vq);
    return true;
}

bool virtqueue_ready(const VirtQueue *vq)
{
    return vq->enabled && !vq->vdev->broken && !vq->vdev->resetting;
}

static bool ring_gone(VirtQueue *vq, const char *what)
{
    virtio_device_error(vq->vdev, "queue %u: its %s ring is not in RAM", vq->index, what);
    return false;
}

/* ---- taking chains ---- */

/* How many chains the driver has made available; false: the queue cannot be used. */
static bool available(VirtQueue *vq, uint16_t *count)
{
    uint16_t idx;
    if (!virtqueue_ready(vq)) {
        return false;
    }
    if (!memory_cache_load16(&vq->avail_cache, RING_IDX, &idx)) {
        return ring_gone(vq, "driver");
    }
    *count = idx - vq->last_avail;
    if (*count > vq->size) {
        virtio_device_error(vq->vdev, "queue %u: driver's index moved from %u to %u", vq->index,
                            vq->last_avail, idx);
        return false;
    }
    return true;
}

bool virtqueue_empty(VirtQueue *vq)
{
    uint16_t count;
    return !available(vq, &count) || (count == 0 && vq->again_at == vq->again_count);
}

/* Where a chain's descriptors are read from: the queue's table or an indirect one. */
typedef struct Table {
    VirtQueue *vq;
    bool indirect;
    uint64_t addr; /* of an indirect table */
    uint32_t count;
} Table;

static bool read_descriptor(const Table *t, uint32_t index, Descriptor *desc)
{
    if (t->indirect) {
        if (address_space_read(t->vq->vdev->dma_as, t->addr + (uint64_t)index * DESC_SIZE, MEMTXATTRS_DMA,
                               desc, DESC_SIZE) != MEMTX_OK) {
            virtio_device_error(t->vq->vdev, "queue %u: indirect table is not in RAM", t->vq->index);
            return false;
        }
        return true;
    }
    const uint8_t *host = memory_cache_host(&t->vq->desc_cache, (uint64_t)index * DESC_SIZE, DESC_SIZE);
    if (!host) {
        return ring_gone(t->vq, "descriptor");
    }
    guest_memory_copy(desc, host, DESC_SIZE);
    return true;
}

/* Calls fn for every buffer of the chain that begins at head; false where the chain is not well formed. */
static bool walk_chain(VirtQueue *vq, uint16_t head, bool (*fn)(void *opaque, const Descriptor *desc),
                       void *opaque)
{
    Table table = { .vq = vq, .count = vq->size };
    uint32_t index = head, steps = 0;
    for (;;) {
        Descriptor desc;
        if (index >= table.count) {
            virtio_device_error(vq->vdev, "queue %u: descriptor %u of %u", vq->index, index, table.count);
            return false;
        }
        if (!read_descriptor(&table, index, &desc)) {
            return false;
        }
        if (desc.flags & DESC_F_INDIRECT) {
            /* 2.7.5.3: never inside an indirect table, never with NEXT, a whole number of entries. */
            uint32_t count = desc.length / DESC_SIZE;
            if (!virtio_has_feature(vq->vdev, VIRTIO_F_INDIRECT_DESC) || table.indirect ||
                (desc.flags & DESC_F_NEXT) || desc.length % DESC_SIZE || count == 0 ||
                desc.addr > UINT64_MAX - desc.length) {
                virtio_device_error(vq->vdev, "queue %u: malformed indirect descriptor", vq->index);
                return false;
            }
            table = (Table){ .vq = vq, .indirect = true, .addr = desc.addr, .count = count };
            index = 0;
            continue;
        }
        if (++steps > VIRTQUEUE_MAX_SIZE || (!table.indirect && steps > vq->size)) {
            virtio_device_error(vq->vdev, "queue %u: chain is too long or has a loop", vq->index);
            return false;
        }
        if (!fn(opaque, &desc)) {
            return false;
        }
        if (!(desc.flags & DESC_F_NEXT)) {
            return true;
        }
        index = desc.next;
    }
}

typedef struct Gather {
    VirtQueue *vq;
    unsigned out_count, in_count;
    size_t out_size, in_size;
    struct iovec iov[VIRTQUEUE_MAX_SG];
    VirtSg sg[VIRTQUEUE_MAX_SG];
} Gather;

static bool gather(void *opaque, const Descriptor *desc)
{
    Gather *g = opaque;
    VirtioDevice *vdev = g->vq->vdev;
    bool write = desc->flags & DESC_F_WRITE;
    uint64_t addr = desc->addr;
    uint32_t left = desc->length;
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

static VirtQueueElement *element_new(VirtQueue *vq, uint16_t head, const Gather *g, size_t struct_size)
{
    unsigned count = g->out_count + g->in_count;
    size_t iov_at = (struct_size + 15) & ~(size_t)15;
    size_t sg_at = iov_at + count * sizeof(struct iovec);
    uint8_t *memory = g_malloc(sg_at + count * sizeof(VirtSg));
    memset(memory, 0, struct_size);
    memcpy(memory + iov_at, g->iov, count * sizeof(struct iovec));
    memcpy(memory + sg_at, g->sg, count * sizeof(VirtSg));
    VirtQueueElement *e = (VirtQueueElement *)(void *)memory;
    e->vq = vq;
    e->head = head;
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

/* The head of the chain `ahead` places behind the next one; false where it breaks a rule. */
static bool read_head(VirtQueue *vq, uint16_t ahead, uint16_t *head)
{
    unsigned slot = (uint16_t)(vq->last_avail + ahead) & (vq->size - 1);
    if (!memory_cache_load16(&vq->avail_cache, RING_ENTRIES + 2 * slot, head)) {
        return ring_gone(vq, "driver");
    }
    if (*head >= vq->size) {
        virtio_device_error(vq->vdev, "queue %u: head %u of %u", vq->index, *head, vq->size);
        return false;
    }
    return true;
}

/* The event index field behind the used ring: "notify me when you add the chain with this index". */
static void store_avail_event(VirtQueue *vq, uint16_t value)
{
    if (!memory_cache_store16(&vq->used_cache, RING_ENTRIES + (uint64_t)USED_SIZE * vq->size, value)) {
        ring_gone(vq, "device");
    }
}

void *virtqueue_pop(VirtQueue *vq, size_t struct_size)
{
    uint16_t count, head;
    if (!available(vq, &count)) {
        return NULL;
    }
    bool again = vq->again_at < vq->again_count;
    if (again) {
        head = vq->again[vq->again_at];
    } else if (count == 0 || !read_head(vq, 0, &head)) {
        return NULL;
    }
    if (vq->in_use >= vq->size) {
        virtio_device_error(vq->vdev, "queue %u: more chains than entries", vq->index);
        return NULL;
    }
    Gather g;
    g.vq = vq;
    g.out_count = g.in_count = 0;
    g.out_size = g.in_size = 0;
    VirtQueueElement *e = NULL;
    memory_rcu_lock();
    if (walk_chain(vq, head, gather, &g)) {
        e = element_new(vq, head, &g, struct_size);
    }
    memory_rcu_unlock();
    if (!e) {
        return NULL;
    }
    e->retaken = again;
    vq->again_at += again;
    vq->last_avail += !again;
    vq->in_use++;
    vq->pop_count += vq->pop_count == UINT32_MAX ? 2 : 1;
    vq->popped[head] = vq->pop_count;
    if (vq->notify_on && virtio_has_feature(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        store_avail_event(vq, vq->last_avail);
    }
    TRACE(virtqueue_pop, name_of(vq), vq->index, head, e->out_size, e->in_size);
    return e;
}

typedef struct Room {
    size_t bytes;
} Room;

static bool add_room(void *opaque, const Descriptor *desc)
{
    if (desc->flags & DESC_F_WRITE) {
        ((Room *)opaque)->bytes += desc->length;
    }
    return true;
}

bool virtqueue_has_room(VirtQueue *vq, size_t in_bytes)
{
    uint16_t count, head;
    Room room = { 0 };
    if (!available(vq, &count)) {
        return false;
    }
    for (uint16_t i = 0; i < count && room.bytes < in_bytes; i++) {
        if (!read_head(vq, i, &head)) {
            return false;
        }
        size_t before = room.bytes;
        if (!walk_chain(vq, head, add_room, &room)) {
            return false;
        }
        if (room.bytes == before) { /* else a queue full of such chains would be walked for every frame */
            virtio_device_error(vq->vdev, "queue %u: chain without a writable buffer", vq->index);
            return false;
        }
    }
    return room.bytes >= in_bytes;
}

/* ---- giving them back ---- */

static void element_free(VirtQueueElement *e, size_t written)
{
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
    if (e->retaken && vq->again_at) {
        vq->again_at--;
    } else {
        vq->last_avail--;
    }
    vq->in_use--;
    vq->popped[e->head] = 0;
    element_free(element, 0);
}

void virtqueue_fill(VirtQueue *vq, void *element, size_t written, unsigned number)
{
    VirtQueueElement *e = element;
    TRACE(virtqueue_push, name_of(vq), vq->index, e->head, written);
    vq->popped[e->head] = 0;
    if (virtqueue_ready(vq)) {
        uint64_t offset =
            RING_ENTRIES + (uint64_t)USED_SIZE * ((uint16_t)(vq->used_idx + number) & (vq->size - 1));
        uint8_t *host = memory_cache_host(&vq->used_cache, offset, USED_SIZE);
        uint32_t entry[2] = { e->head, (uint32_t)MIN(written, UINT32_MAX) };
        if (host) {
            guest_memory_copy(host, entry, sizeof(entry));
            memory_cache_written(&vq->used_cache, offset, sizeof(entry));
        } else {
            ring_gone(vq, "device");
        }
    }
    element_free(e, written);
}

void virtqueue_flush(VirtQueue *vq, unsigned count)
{
    vq->in_use = (uint16_t)(vq->in_use >= count ? vq->in_use - count : 0);
    if (!virtqueue_ready(vq)) {
        return;
    }
    uint16_t old = vq->used_idx;
    vq->used_idx = (uint16_t)(old + count);
    /* With release order: the entries and the buffers are there before the index. */
    if (!memory_cache_store16(&vq->used_cache, RING_IDX, vq->used_idx)) {
        ring_gone(vq, "device");
    }
    /* The notification remembered is a whole round old: nothing can be concluded from it (2.7.10). */
    if ((uint16_t)(vq->used_idx - vq->signalled_used) < count) {
        vq->signalled_valid = false;
    }
}

void virtqueue_push(VirtQueue *vq, void *element, size_t written)
{
    virtqueue_fill(vq, element, written, 0);
    virtqueue_flush(vq, 1);
}

/* ---- notifications ---- */

/* 2.7.10: whether `event` lies in what was added since the last notification. */
static bool event_passed(uint16_t event, uint16_t new_idx, uint16_t old_idx)
{
    return (uint16_t)(new_idx - event - 1) < (uint16_t)(new_idx - old_idx);
}

static bool driver_wants_notification(VirtQueue *vq)
{
    uint16_t value;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the used index before the driver's wish */
    if (!virtio_has_feature(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        if (!memory_cache_load16(&vq->avail_cache, RING_FLAGS, &value)) {
            return ring_gone(vq, "driver");
        }
        return !(value & AVAIL_F_NO_INTERRUPT);
    }
    if (!memory_cache_load16(&vq->avail_cache, RING_ENTRIES + 2ull * vq->size, &value)) {
        return ring_gone(vq, "driver");
    }
    bool valid = vq->signalled_valid;
    uint16_t old = vq->signalled_used;
    vq->signalled_used = vq->used_idx;
    vq->signalled_valid = true;
    return !valid || event_passed(value, vq->used_idx, old);
}

void virtqueue_notify(VirtQueue *vq)
{
    if (!virtqueue_ready(vq) || !driver_wants_notification(vq)) {
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
    if (virtio_has_feature(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        if (on) {
            /* Up to what the driver has added, so that only the next chain notifies. */
            uint16_t idx;
            if (!memory_cache_load16(&vq->avail_cache, RING_IDX, &idx)) {
                ring_gone(vq, "driver");
                return;
            }
            store_avail_event(vq, idx);
        }
    } else if (!memory_cache_store16(&vq->used_cache, RING_FLAGS, on ? 0 : USED_F_NO_NOTIFY)) {
        ring_gone(vq, "device");
    }
    if (on) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the wish before the next look at the index */
    }
}
