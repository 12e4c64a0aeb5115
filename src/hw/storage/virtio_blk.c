/*
 * virtio-blk: a disk. Source: VIRTIO 1.2, section 5.2.
 *
 * Several queues, flush, discard, write-zeroes, the device's id, write-back switching, topology. Left out:
 * lifetime, secure erase, zoned disks (newer features), merging of neighbouring requests.
 *
 * A queue's handler runs in the main loop or the chosen iothread's, with the home lock held; requests are
 * asynchronous (block/block.h), and their completions take the home lock themselves. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "block/block.h"
#include "hw/virtio/virtio_device.h"
#include "loop/iothread.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(virtio_blk_request, "queue %u type %u sector %" G_GINT64_MODIFIER "u out %zu in %zu")
TRACE_EVENT(virtio_blk_complete, "queue %u status %u")

#define TYPE_VIRTIO_BLK "virtio-blk-device"

/* Feature bits (5.2.3). */
enum {
    F_SEG_MAX = 2,
    F_GEOMETRY = 4,
    F_RO = 5,
    F_BLK_SIZE = 6,
    F_FLUSH = 9,
    F_TOPOLOGY = 10,
    F_CONFIG_WCE = 11,
    F_MQ = 12,
    F_DISCARD = 13,
    F_WRITE_ZEROES = 14,
};

/* Request types and statuses (5.2.6). */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

#define SECTOR_SIZE  512u
#define ID_BYTES     20
#define MAX_SEGMENTS 1 /* of a discard or write-zeroes request */
#define SEGMENT_SIZE 16

/* Configuration space (5.2.4). */
typedef struct __attribute__((packed)) BlkConfig {
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
} BlkConfig;
G_STATIC_ASSERT(sizeof(BlkConfig) == 60);

typedef struct RequestHeader {
    uint32_t type, reserved;
    uint64_t sector;
} RequestHeader;

typedef struct Segment {
    uint64_t sector;
    uint32_t sectors, flags;
} Segment;

typedef struct VirtioBlk {
    VirtioDevice parent_obj;
    /* from properties */
    BlockBackend *bb;
    IoThread *iothread;
    char *serial;
    uint16_t num_queues, queue_size;
    bool config_wce, discard, write_zeroes, share_rw, request_merging, seg_max_adjust;
    uint64_t logical_block_size, physical_block_size, min_io_size, opt_io_size, discard_granularity;
    uint32_t max_discard_sectors, max_write_zeroes_sectors;
    int32_t bootindex;
    uint32_t cylinders, heads, sectors;
    int on_read_error, on_write_error;
    int write_cache;
    /* derived */
    BlockLimits limits;
    bool attached;
    bool initial_write_cache;
    Loop *loop;
    GQueue stopped; /* of BlkRequest *: failed, wait for the machine to run again */
} VirtioBlk;
#define VIRTIO_BLK(obj) OBJECT_CHECK(VirtioBlk, obj, TYPE_VIRTIO_BLK)

typedef struct BlkRequest {
    VirtQueueElement elem;
    VirtioBlk *blk;
    RequestHeader header;
    Segment segment;
} BlkRequest;

/* ---- requests ---- */

static void finish(BlkRequest *req, uint8_t status)
{
    VirtQueue *vq = req->elem.vq;
    VirtioDevice *vdev = &req->blk->parent_obj;
    TRACE(virtio_blk_complete, vq->index, status);
    if (vdev->resetting) {
        virtqueue_discard(req);
    } else {
        size_t size = req->elem.in_size;
        iov_write(req->elem.in, req->elem.in_count, size - 1, &status, 1);
        virtqueue_push(vq, req, size);
        virtqueue_notify(vq);
    }
    virtio_device_put(vdev);
}

/* In the queue's loop, no lock held. */
static void request_done(void *opaque, int result)
{
    BlkRequest *req = opaque;
    VirtioBlk *s = req->blk;
    HomeLock *home = s->parent_obj.home;
    uint8_t status = S_OK;
    if (result < 0) {
        bool is_read = req->header.type == T_IN;
        switch (bb_error(s->bb, is_read, -result)) {
        case BLOCK_ERROR_IGNORE:
            break;
        case BLOCK_ERROR_REPORT:
            status = result == -ENOTSUP && !is_read && req->header.type != T_OUT ? S_UNSUPP : S_IOERR;
            break;
        case BLOCK_ERROR_STOP:
            home_lock(home);
            if (!s->parent_obj.resetting) {
                g_queue_push_tail(&s->stopped, req);
                home_unlock(home);
                return;
            }
            home_unlock(home);
            status = S_IOERR;
            break;
        }
    }
    home_lock(home);
    finish(req, status);
    home_unlock(home);
}

/* Iovecs without their first `skip` bytes and without what lies `size` bytes behind those. */
static unsigned trim(const struct iovec *from, unsigned count, size_t skip, size_t size, struct iovec *to)
{
    unsigned n = 0;
    for (unsigned i = 0; i < count && size; i++) {
        if (skip >= from[i].iov_len) {
            skip -= from[i].iov_len;
            continue;
        }
        size_t part = MIN(from[i].iov_len - skip, size);
        to[n++] = (struct iovec){ (uint8_t *)from[i].iov_base + skip, part };
        size -= part;
        skip = 0;
    }
    return n;
}

/* Whether a piece of the disk is whole blocks inside of it. */
static bool range_valid(VirtioBlk *s, uint64_t sector, uint64_t bytes)
{
    uint64_t disk = bb_size(s->bb);
    uint32_t block = (uint32_t)s->logical_block_size;
    if (sector > UINT64_MAX / SECTOR_SIZE) {
        return false;
    }
    uint64_t offset = sector * SECTOR_SIZE;
    return offset % block == 0 && bytes % block == 0 && offset <= disk && bytes <= disk - offset;
}

static void submit_transfer(BlkRequest *req)
{
    VirtioBlk *s = req->blk;
    VirtQueueElement *e = &req->elem;
    struct iovec iov[VIRTQUEUE_MAX_SG];
    bool is_read = req->header.type == T_IN;
    size_t bytes = is_read ? e->in_size - 1 : e->out_size - sizeof(RequestHeader);
    if (!range_valid(s, req->header.sector, bytes) || (!is_read && bb_read_only(s->bb))) {
        finish(req, S_IOERR);
        return;
    }
    if (bytes == 0) {
        finish(req, S_OK);
        return;
    }
    uint64_t offset = req->header.sector * SECTOR_SIZE;
    if (is_read) {
        unsigned count = trim(e->in, e->in_count, 0, bytes, iov);
        bb_readv(s->bb, e->vq->loop, offset, iov, (int)count, request_done, req);
    } else {
        unsigned count = trim(e->out, e->out_count, sizeof(RequestHeader), bytes, iov);
        bb_writev(s->bb, e->vq->loop, offset, iov, (int)count, 0, request_done, req);
    }
}

/* Discard and write-zeroes have one segment (max_discard_seg says so). */
static void submit_segment(BlkRequest *req)
{
    VirtioBlk *s = req->blk;
    VirtQueueElement *e = &req->elem;
    bool is_discard = req->header.type == T_DISCARD;
    unsigned feature = is_discard ? F_DISCARD : F_WRITE_ZEROES;
    uint32_t max = is_discard ? s->max_discard_sectors : s->max_write_zeroes_sectors;
    if (!virtio_has_feature(&s->parent_obj, feature) || e->out_size != sizeof(RequestHeader) + SEGMENT_SIZE) {
        finish(req, S_UNSUPP);
        return;
    }
    iov_read(e->out, e->out_count, sizeof(RequestHeader), &req->segment, SEGMENT_SIZE);
    uint64_t bytes = (uint64_t)req->segment.sectors * SECTOR_SIZE;
    /* 5.2.6.2: reserved flags, and UNMAP of a discard, are not supported. */
    if ((req->segment.flags & ~1u) || (is_discard && req->segment.flags)) {
        finish(req, S_UNSUPP);
        return;
    }
    if (req->segment.sectors > max || !range_valid(s, req->segment.sector, bytes) || bb_read_only(s->bb)) {
        finish(req, S_IOERR);
        return;
    }
    uint64_t offset = req->segment.sector * SECTOR_SIZE;
    if (bytes == 0) {
        finish(req, S_OK);
    } else if (is_discard) {
        bb_discard(s->bb, e->vq->loop, offset, bytes, request_done, req);
    } else {
        bb_write_zeroes(s->bb, e->vq->loop, offset, bytes, req->segment.flags & 1 ? BLOCK_REQ_MAY_UNMAP : 0,
                        request_done, req);
    }
}

static void get_id(BlkRequest *req)
{
    VirtioBlk *s = req->blk;
    char id[ID_BYTES] = { 0 };
    const char *serial = s->serial ? s->serial : "";
    for (size_t i = 0; i < sizeof(id) && serial[i]; i++) {
        id[i] = serial[i]; /* no end mark where it takes all 20 (5.2.6) */
    }
    if (req->elem.in_size - 1 < sizeof(id)) {
        finish(req, S_IOERR);
        return;
    }
    iov_write(req->elem.in, req->elem.in_count, 0, id, sizeof(id));
    finish(req, S_OK);
}

static void submit(BlkRequest *req)
{
    switch (req->header.type) {
    case T_IN:
    case T_OUT:
        submit_transfer(req);
        break;
    case T_FLUSH:
        bb_flush(req->blk->bb, req->elem.vq->loop, request_done, req);
        break;
    case T_GET_ID:
        get_id(req);
        break;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        submit_segment(req);
        break;
    default:
        LOG(LOG_UNIMP, "virtio-blk: request type %u", req->header.type);
        finish(req, S_UNSUPP);
    }
}

static void handle_queue(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioBlk *s = VIRTIO_BLK(vdev);
    do {
        virtqueue_set_notification(vq, false);
        BlkRequest *req;
        while ((req = virtqueue_pop(vq, sizeof(*req)))) {
            req->blk = s;
            if (iov_read(req->elem.out, req->elem.out_count, 0, &req->header, sizeof(req->header)) !=
                    sizeof(req->header) ||
                req->elem.in_size < 1) {
                virtio_device_error(vdev, "queue %u: request without header or status", vq->index);
                virtqueue_discard(req);
                return;
            }
            TRACE(virtio_blk_request, vq->index, req->header.type, req->header.sector, req->elem.out_size,
                  req->elem.in_size);
            virtio_device_get(vdev);
            submit(req);
        }
        virtqueue_set_notification(vq, true);
    } while (!virtqueue_empty(vq));
}

/* ---- features and configuration ---- */

static uint64_t blk_get_features(VirtioDevice *vdev)
{
    VirtioBlk *s = VIRTIO_BLK(vdev);
    uint64_t features = VIRTIO_BIT(F_SEG_MAX) | VIRTIO_BIT(F_GEOMETRY) | VIRTIO_BIT(F_BLK_SIZE) |
                        VIRTIO_BIT(F_TOPOLOGY) | VIRTIO_BIT(F_FLUSH);
    if (bb_read_only(s->bb)) {
        features |= VIRTIO_BIT(F_RO);
    }
    if (s->config_wce) {
        features |= VIRTIO_BIT(F_CONFIG_WCE);
    }
    if (s->num_queues > 1) {
        features |= VIRTIO_BIT(F_MQ);
    }
    if (s->discard && !bb_read_only(s->bb)) {
        features |= VIRTIO_BIT(F_DISCARD);
    }
    if (s->write_zeroes && !bb_read_only(s->bb)) {
        features |= VIRTIO_BIT(F_WRITE_ZEROES);
    }
    return features;
}

/* Old partitioning tools want cylinders: 16 heads and 63 sectors, as every translation does for large disks.
 */
static void set_geometry(const VirtioBlk *s, uint64_t sectors, BlkConfig *c)
{
    if (s->cylinders) {
        c->cylinders = (uint16_t)s->cylinders;
        c->heads = (uint8_t)s->heads;
        c->sectors = (uint8_t)s->sectors;
        return;
    }
    c->heads = 16;
    c->sectors = 63;
    c->cylinders = (uint16_t)MIN(sectors / (16 * 63), 16383);
}

static void blk_get_config(VirtioDevice *vdev, uint8_t *config)
{
    VirtioBlk *s = VIRTIO_BLK(vdev);
    uint64_t sectors = bb_size(s->bb) / SECTOR_SIZE;
    BlkConfig c = {
        .capacity = sectors,
        .seg_max = s->queue_size - 2u,
        .blk_size = (uint32_t)s->logical_block_size,
        .physical_block_exp = (uint8_t)__builtin_ctzll(s->physical_block_size / s->logical_block_size),
        .min_io_size = (uint16_t)(s->min_io_size / s->logical_block_size),
        .opt_io_size = (uint32_t)(s->opt_io_size / s->logical_block_size),
        .writeback = bb_write_cache(s->bb),
        .num_queues = s->num_queues,
    };
    set_geometry(s, sectors, &c);
    if (s->discard) {
        c.max_discard_sectors = s->max_discard_sectors;
        c.max_discard_seg = MAX_SEGMENTS;
        c.discard_sector_alignment = (uint32_t)(s->discard_granularity / SECTOR_SIZE);
    }
    if (s->write_zeroes) {
        c.max_write_zeroes_sectors = s->max_write_zeroes_sectors;
        c.max_write_zeroes_seg = MAX_SEGMENTS;
        c.write_zeroes_may_unmap = 1;
    }
    memcpy(config, &c, sizeof(c));
}

static void blk_set_config(VirtioDevice *vdev, uint32_t offset, const uint8_t *data, unsigned size)
{
    VirtioBlk *s = VIRTIO_BLK(vdev);
    if (offset == offsetof(BlkConfig, writeback) && virtio_has_feature(vdev, F_CONFIG_WCE)) {
        bb_set_write_cache(s->bb, data[0] & 1);
    }
}

/* 5.2.5.2: a driver that knows no flush must get stable writes. */
static void blk_start(VirtioDevice *vdev)
{
    VirtioBlk *s = VIRTIO_BLK(vdev);
    if (!virtio_has_feature(vdev, F_CONFIG_WCE)) {
        bb_set_write_cache(s->bb, s->initial_write_cache && virtio_has_feature(vdev, F_FLUSH));
    }
}

static void drop_stopped(VirtioBlk *s)
{
    BlkRequest *req;
    while ((req = g_queue_pop_head(&s->stopped))) {
        virtqueue_discard(req);
        virtio_device_put(&s->parent_obj);
    }
}

static void blk_reset(VirtioDevice *vdev)
{
    VirtioBlk *s = VIRTIO_BLK(vdev);
    bb_set_write_cache(s->bb, s->initial_write_cache);
}

/* The driver's reset, or the machine's: what waits for the machine to run again will never be made again. */
static void blk_cancel(VirtioDevice *vdev)
{
    drop_stopped(VIRTIO_BLK(vdev));
}

static void blk_drain(VirtioDevice *vdev)
{
    VirtioBlk *s = VIRTIO_BLK(vdev);
    bb_drain(s->bb, DEVICE(vdev)->env->loop);
}

/* In each queue's loop, home lock held: everything that had failed is made again. */
static void blk_resume(VirtioDevice *vdev)
{
    VirtioBlk *s = VIRTIO_BLK(vdev);
    GQueue again = s->stopped;
    g_queue_init(&s->stopped);
    BlkRequest *req;
    while ((req = g_queue_pop_head(&again))) {
        submit(req);
    }
}

static void resized(void *opaque)
{
    VirtioBlk *s = opaque;
    home_lock(s->parent_obj.home);
    virtio_notify_config(&s->parent_obj);
    home_unlock(s->parent_obj.home);
}

static const BlockDevOps blk_dev_ops = { .resized = resized };

/* ---- life ---- */

static bool check_block_size(const char *what, uint64_t size, uint64_t max, GError **error)
{
    if (size < SECTOR_SIZE || size > max || (size & (size - 1))) {
        return error_set(error, "Property '%s' must be a power of two between 512 and %" PRIu64, what, max);
    }
    return true;
}

static bool settle_properties(VirtioBlk *s, GError **error)
{
    bb_limits(s->bb, &s->limits);
    if (s->logical_block_size == 0) {
        s->logical_block_size = MAX(s->limits.logical_block_size, SECTOR_SIZE);
    }
    if (s->physical_block_size == 0) {
        s->physical_block_size = MAX(s->limits.physical_block_size, s->logical_block_size);
    }
    if (!check_block_size("logical_block_size", s->logical_block_size, 2 << 20, error) ||
        !check_block_size("physical_block_size", s->physical_block_size, 2 << 20, error)) {
        return false;
    }
    if (s->physical_block_size < s->logical_block_size) {
        return error_set(error, "physical_block_size is smaller than logical_block_size");
    }
    if (s->min_io_size % s->logical_block_size || s->opt_io_size % s->logical_block_size ||
        s->min_io_size / s->logical_block_size > UINT16_MAX ||
        s->opt_io_size / s->logical_block_size > UINT32_MAX) {
        return error_set(
            error, "min_io_size and opt_io_size must be multiples of logical_block_size, within bounds");
    }
    if (s->discard_granularity == UINT32_MAX) {
        s->discard_granularity = MAX(s->limits.discard_granularity, s->logical_block_size);
    }
    if (s->num_queues == UINT16_MAX) {
        s->num_queues = 1;
    }
    if (s->num_queues == 0 || s->num_queues >= VIRTIO_QUEUE_MAX) {
        return error_set(error, "Property 'num-queues' must be between 1 and %u", VIRTIO_QUEUE_MAX - 1);
    }
    if (s->queue_size < 4 || s->queue_size > VIRTQUEUE_MAX_SIZE || (s->queue_size & (s->queue_size - 1))) {
        return error_set(error, "Property 'queue-size' must be a power of two between 4 and %u",
                         VIRTQUEUE_MAX_SIZE);
    }
    uint32_t largest =
        UINT32_MAX / SECTOR_SIZE; /* requests of less than 2 TiB keep every sum within bounds */
    if (s->max_discard_sectors == 0 || s->max_write_zeroes_sectors == 0) {
        return error_set(error, "max-discard-sectors and max-write-zeroes-sectors must not be 0");
    }
    s->max_discard_sectors = MIN(s->max_discard_sectors, largest);
    s->max_write_zeroes_sectors = MIN(s->max_write_zeroes_sectors, largest);
    if (!s->serial && bb_serial(s->bb)) {
        s->serial = g_strdup(bb_serial(s->bb));
    }
    if (s->serial && strlen(s->serial) > ID_BYTES) {
        return error_set(error, "serial '%s' is longer than %d bytes", s->serial, ID_BYTES);
    }
    return true;
}

static bool blk_realize(VirtioDevice *vdev, GError **error)
{
    VirtioBlk *s = VIRTIO_BLK(vdev);
    Device *proxy = vdev->bus->parent_obj.owner;
    if (!s->bb) {
        return error_set(error, "drive property not set");
    }
    if (!bb_has_medium(s->bb)) {
        return error_set(error, "Device needs media, but drive is empty");
    }
    if (!settle_properties(s, error)) {
        return false;
    }
    s->loop = s->iothread ? iothread_get_loop(s->iothread) : DEVICE(vdev)->env->loop;
    /* Clients know the disk by the back end's own path, below its PCI function. */
    g_autofree char *path = object_get_canonical_path(OBJECT(vdev));
    const char *qdev = proxy && proxy->id ? proxy->id : path;
    if (!bb_attach_device(s->bb, qdev, bb_read_only(s->bb), s->share_rw, &blk_dev_ops, s, error)) {
        return false;
    }
    bb_set_qdev_path(s->bb, path);
    bb_set_on_error(s->bb, (BlockOnError)s->on_read_error, (BlockOnError)s->on_write_error);
    if (s->write_cache) {
        bb_set_write_cache(s->bb, s->write_cache == 1);
    }
    s->initial_write_cache = bb_write_cache(s->bb);
    g_queue_init(&s->stopped);
    vdev->config_size = sizeof(BlkConfig);
    for (unsigned i = 0; i < s->num_queues; i++) {
        virtio_queue_add(vdev, s->queue_size, handle_queue, s->loop);
    }
    return true;
}

static void blk_unrealize(VirtioDevice *vdev)
{
    VirtioBlk *s = VIRTIO_BLK(vdev);
    drop_stopped(s);
    bb_detach_device(s->bb);
}

static const char *const on_off_auto_names[] = { "auto", "on", "off" };
static const EnumLookup on_off_auto_lookup = { "OnOffAuto", on_off_auto_names, 3 };

static const Property blk_properties[] = {
    PROP_TYPED("drive", VirtioBlk, bb, property_type_drive, "the disk: a drive's id or a block node's name"),
    PROP_LINK("iothread", VirtioBlk, iothread, TYPE_IOTHREAD, "the loop that serves the queues"),
    PROP_STR("serial", VirtioBlk, serial, NULL, "what the guest reads as the disk's id (20 bytes)"),
    PROP_UINT16("num-queues", VirtioBlk, num_queues, UINT16_MAX,
                "request queues (65535: let the machine choose)"),
    PROP_UINT16("queue-size", VirtioBlk, queue_size, 256, "entries of a queue"),
    PROP_BOOL("config-wce", VirtioBlk, config_wce, true, "the guest may switch the write cache"),
    PROP_BOOL("discard", VirtioBlk, discard, true, "offer discard"),
    PROP_BOOL("write-zeroes", VirtioBlk, write_zeroes, true, "offer write-zeroes"),
    PROP_BOOL("share-rw", VirtioBlk, share_rw, false, "others may write to the disk too"),
    PROP_BOOL("request-merging", VirtioBlk, request_merging, true, "accepted; neighbours are never merged"),
    PROP_BOOL("seg-max-adjust", VirtioBlk, seg_max_adjust, true,
              "accepted; seg_max always follows queue-size"),
    PROP_SIZE("logical_block_size", VirtioBlk, logical_block_size, 0, "bytes (0: the host's)"),
    PROP_SIZE("physical_block_size", VirtioBlk, physical_block_size, 0, "bytes (0: the host's)"),
    PROP_SIZE("min_io_size", VirtioBlk, min_io_size, 0, "smallest sensible request in bytes (0: not told)"),
    PROP_SIZE("opt_io_size", VirtioBlk, opt_io_size, 0, "best request size in bytes (0: not told)"),
    PROP_SIZE("discard_granularity", VirtioBlk, discard_granularity, UINT32_MAX,
              "bytes (4294967295: the host's)"),
    PROP_UINT32("max-discard-sectors", VirtioBlk, max_discard_sectors, UINT32_MAX / 512, "of one request"),
    PROP_UINT32("max-write-zeroes-sectors", VirtioBlk, max_write_zeroes_sectors, UINT32_MAX / 512,
                "of one request"),
    PROP_INT32("bootindex", VirtioBlk, bootindex, -1, "place in the boot order (-1: none)"),
    PROP_UINT32("cyls", VirtioBlk, cylinders, 0, "geometry: cylinders (0: made up)"),
    PROP_UINT32("heads", VirtioBlk, heads, 0, "geometry: heads"),
    PROP_UINT32("secs", VirtioBlk, sectors, 0, "geometry: sectors of a track"),
    PROP_ENUM("rerror", VirtioBlk, on_read_error, block_on_error_lookup, BLOCK_ON_ERROR_AUTO,
              "when a read fails"),
    PROP_ENUM("werror", VirtioBlk, on_write_error, block_on_error_lookup, BLOCK_ON_ERROR_AUTO,
              "when a write fails"),
    PROP_ENUM("write-cache", VirtioBlk, write_cache, on_off_auto_lookup, 0,
              "write-back caching as the guest finds it"),
    PROP_END,
};

static const VmStateField blk_fields[] = {
    VMS_STRUCT(parent_obj, VirtioBlk, virtio_device_vmstate),
    VMS_END,
};
static const VmState blk_vmstate = { .name = "virtio-blk", .version = 1, .fields = blk_fields };

static void blk_class_init(ObjectClass *klass, const void *data)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &blk_vmstate;
    DEVICE_CLASS(klass)->category = "Storage";
    vc->virtio_id = VIRTIO_ID_BLOCK;
    vc->realize = blk_realize;
    vc->unrealize = blk_unrealize;
    vc->get_features = blk_get_features;
    vc->get_config = blk_get_config;
    vc->set_config = blk_set_config;
    vc->start = blk_start;
    vc->reset = blk_reset;
    vc->cancel = blk_cancel;
    vc->drain = blk_drain;
    vc->resume = blk_resume;
    object_class_add_properties(klass, blk_properties);
}

static const TypeInfo blk_info = {
    .name = TYPE_VIRTIO_BLK,
    .parent = TYPE_VIRTIO_DEVICE,
    .description = "virtio disk",
    .instance_size = sizeof(VirtioBlk),
    .class_init = blk_class_init,
};
TYPE_REGISTER(blk_info);
