/*
 * virtio-scsi: a SCSI host adapter. Source: VIRTIO 1.2, section 5.6.
 *
 * Several request queues, the control queue's task management (which waits for requests under way, since
 * those cannot be called back), hot-plug events. Left out: protection information, bidirectional commands,
 * asynchronous notifications of units (answered with "none").
 *
 * Queues run in the main loop or the chosen iothread's, under the home lock. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/storage/scsi.h"
#include "hw/virtio/virtio_device.h"
#include "loop/iothread.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(virtio_scsi_request, "target %u lun %u operation 0x%02x out %zu in %zu");
TRACE_EVENT(virtio_scsi_control, "type %u subtype %u");

#define TYPE_VIRTIO_SCSI "virtio-scsi-device"

enum { F_HOTPLUG = 1, F_CHANGE = 2 };
enum { QUEUE_CONTROL, QUEUE_EVENT, QUEUE_REQUESTS };
/* 5.6.6.1 */
enum { RESPONSE_OK = 0, RESPONSE_OVERRUN = 1, RESPONSE_ABORTED = 2, RESPONSE_BAD_TARGET = 3 };
/* 5.6.6.2 */
enum { CONTROL_TMF = 0, CONTROL_QUERY = 1, CONTROL_SUBSCRIBE = 2 };
enum {
    TMF_ABORT_TASK = 0,
    TMF_ABORT_TASK_SET = 1,
    TMF_CLEAR_TASK_SET = 3,
    TMF_NEXUS_RESET = 4,
    TMF_UNIT_RESET = 5,
    TMF_QUERY_TASK = 6,
    TMF_QUERY_TASK_SET = 7,
};
enum { TMF_COMPLETE = 0, TMF_SUCCEEDED = 10, TMF_REJECTED = 11, TMF_INCORRECT_LUN = 12, TMF_BAD_TARGET = 3 };
/* 5.6.6.3 */
enum { EVENT_NONE = 0, EVENT_TRANSPORT_RESET = 1, EVENT_MISSED = 0x80000000u };
enum { REASON_RESCAN = 1, REASON_REMOVED = 2 };

#define MAX_TARGET      255u
#define MAX_LUN         16383u
#define DEFAULT_SENSE   96u
#define DEFAULT_CDB     32u
#define REQUEST_HEAD    19u /* lun, tag, attribute, priority, crn */
#define RESPONSE_HEAD   12u /* lengths, qualifier, status, response */
#define MAX_SENSE       252u
#define CONTROL_SIZE    24u
#define TMF_RESPONSE    1u
#define NOTIFY_RESPONSE 5u
#define EVENT_SIZE      16u

typedef struct __attribute__((packed)) ScsiConfig {
    uint32_t num_queues, seg_max, max_sectors, cmd_per_lun, event_info_size, sense_size, cdb_size;
    uint16_t max_channel, max_target;
    uint32_t max_lun;
} ScsiConfig;
G_STATIC_ASSERT(sizeof(ScsiConfig) == 36);

typedef struct VirtioScsi {
    VirtioDevice parent_obj;
    /* saved */
    uint32_t sense_size, cdb_size;
    bool events_missed;
    /* from properties */
    IoThread *iothread;
    uint32_t num_queues, queue_size, max_sectors, cmd_per_lun;
    bool hotplug, param_change;
    /* derived */
    ScsiBus *bus;
    Loop *loop;
    GQueue pending; /* of VirtioScsiTmf *: wait for requests under way */
} VirtioScsi;
#define VIRTIO_SCSI(obj) OBJECT_CHECK(VirtioScsi, obj, TYPE_VIRTIO_SCSI)

typedef struct VirtioScsiRequest {
    VirtQueueElement elem;
    VirtioScsi *owner;
    ScsiRequest scsi;
    struct iovec *out, *in; /* the data's */
} VirtioScsiRequest;

typedef struct VirtioScsiTmf {
    VirtQueueElement elem;
    unsigned target, lun;
    bool whole_target;
} VirtioScsiTmf;

/* ---- addresses (5.6.6.1) ---- */

static bool parse_lun(const uint8_t *address, unsigned *target, unsigned *lun)
{
    *target = address[1];
    *lun = (unsigned)(address[2] << 8 | address[3]) & 0x3fff;
    return address[0] == 1 && (address[2] & 0x80) == 0;
}

/* ---- requests ---- */

static void request_free(VirtioScsiRequest *r)
{
    g_free(r->out);
    g_free(r->in);
    r->out = r->in = NULL;
}

static void respond(VirtioScsiRequest *r, uint8_t response)
{
    VirtioScsi *s = r->owner;
    VirtQueue *vq = r->elem.vq;
    uint8_t head[RESPONSE_HEAD + MAX_SENSE] = { 0 };
    uint32_t sense = response == RESPONSE_OK ? MIN(r->scsi.sense_size, s->sense_size) : 0;
    size_t expected = r->scsi.out_size + r->scsi.in_size, fixed = RESPONSE_HEAD + s->sense_size;
    uint32_t residual = (uint32_t)(expected - MIN(response == RESPONSE_OK ? r->scsi.moved : 0, expected));
    uint32_t words[2] = { GUINT32_TO_LE(sense), GUINT32_TO_LE(residual) };

    memcpy(head, words, 8);
    head[10] = response == RESPONSE_OK ? r->scsi.status : 0;
    head[11] = response;
    memcpy(head + RESPONSE_HEAD, r->scsi.sense, sense);
    iov_write(r->elem.in, r->elem.in_count, 0, head, fixed);
    size_t written = fixed + (r->scsi.in_size ? r->scsi.moved : 0);
    request_free(r);
    virtqueue_push(vq, r, MIN(written, r->elem.in_size));
    virtqueue_notify(vq);
}

static void run_pending(VirtioScsi *s);

static void request_done(ScsiRequest *req)
{
    VirtioScsiRequest *r = (VirtioScsiRequest *)((uint8_t *)req - offsetof(VirtioScsiRequest, scsi));
    VirtioScsi *s = r->owner;

    if (s->parent_obj.resetting) {
        request_free(r);
        virtqueue_discard(r);
    } else {
        respond(r, req->status == SCSI_TASK_ABORTED ? RESPONSE_ABORTED : RESPONSE_OK);
        run_pending(s);
    }
    virtio_device_put(&s->parent_obj);
}

/* A copy of iovecs without their first `skip` bytes. */
static struct iovec *behind(const struct iovec *from, unsigned count, size_t skip, unsigned *n)
{
    struct iovec *to = g_new(struct iovec, count + 1);

    *n = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t part = MIN(skip, from[i].iov_len);
        skip -= part;
        if (part < from[i].iov_len) {
            to[(*n)++] = (struct iovec){ (uint8_t *)from[i].iov_base + part, from[i].iov_len - part };
        }
    }
    return to;
}

static bool start_request(VirtioScsi *s, VirtioScsiRequest *r)
{
    uint8_t head[REQUEST_HEAD + SCSI_CDB_MAX] = { 0 };
    size_t head_size = REQUEST_HEAD + s->cdb_size, response_size = RESPONSE_HEAD + s->sense_size;
    unsigned target, lun;
    bool target_there = false;

    if (r->elem.out_size < head_size || r->elem.in_size < response_size) {
        return false;
    }
    iov_read(r->elem.out, r->elem.out_count, 0, head, MIN(head_size, sizeof(head)));
    memcpy(r->scsi.cdb, head + REQUEST_HEAD, SCSI_CDB_MAX);
    r->owner = s;
    r->out = behind(r->elem.out, r->elem.out_count, head_size, &r->scsi.out_count);
    r->in = behind(r->elem.in, r->elem.in_count, response_size, &r->scsi.in_count);
    r->scsi.out = r->out;
    r->scsi.in = r->in;
    r->scsi.out_size = r->elem.out_size - head_size;
    r->scsi.in_size = r->elem.in_size - response_size;
    r->scsi.loop = s->loop;
    r->scsi.done = request_done;
    ScsiDevice *dev = parse_lun(head, &target, &lun) ? scsi_find(s->bus, target, lun, &target_there) : NULL;
    TRACE(virtio_scsi_request, target, lun, r->scsi.cdb[0], r->scsi.out_size, r->scsi.in_size);
    if (r->scsi.out_size && r->scsi.in_size) {
        respond(r, RESPONSE_OVERRUN); /* there are no commands with data both ways */
    } else if (head[0] != 1 || (!dev && !target_there)) {
        respond(r, RESPONSE_BAD_TARGET);
    } else {
        virtio_device_get(&s->parent_obj);
        if (dev) {
            scsi_submit(dev, &r->scsi);
        } else {
            scsi_submit_no_unit(s->bus, target, &r->scsi);
        }
    }
    return true;
}

static void handle_requests(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioScsi *s = VIRTIO_SCSI(vdev);

    do {
        VirtioScsiRequest *r;
        virtqueue_set_notification(vq, false);
        while ((r = virtqueue_pop(vq, sizeof(*r)))) {
            if (!start_request(s, r)) {
                virtio_device_error(vdev, "queue %u: a request without room for command or response",
                                    vq->index);
                virtqueue_discard(r);
                return;
            }
        }
        virtqueue_set_notification(vq, true);
    } while (!virtqueue_empty(vq));
}

/* ---- the control queue ---- */

static void answer_control(VirtQueueElement *e, const void *response, size_t size)
{
    VirtQueue *vq = e->vq;

    iov_write(e->in, e->in_count, 0, response, size);
    virtqueue_push(vq, e, MIN(size, e->in_size));
    virtqueue_notify(vq);
}

static bool units_busy(VirtioScsi *s, const VirtioScsiTmf *tmf)
{
    GPtrArray *children = s->bus->units;

    for (guint i = 0; i < children->len; i++) {
        const ScsiDevice *dev = children->pdata[i];
        if (dev->target == (int)tmf->target && (tmf->whole_target || dev->lun == (int)tmf->lun) &&
            dev->under_way.length) {
            return true;
        }
    }
    return false;
}

/* Answers those whose units have come to rest. */
static void run_pending(VirtioScsi *s)
{
    for (GList *l = s->pending.head, *next; l; l = next) {
        VirtioScsiTmf *tmf = l->data;
        next = l->next;
        if (!units_busy(s, tmf)) {
            uint8_t response = TMF_COMPLETE;
            g_queue_delete_link(&s->pending, l);
            answer_control(&tmf->elem, &response, 1);
        }
    }
}

static void reset_units(VirtioScsi *s, const VirtioScsiTmf *tmf)
{
    GPtrArray *children = s->bus->units;

    for (guint i = 0; i < children->len; i++) {
        ScsiDevice *dev = children->pdata[i];
        if (dev->target == (int)tmf->target && (tmf->whole_target || dev->lun == (int)tmf->lun)) {
            scsi_device_reset_unit(dev);
        }
    }
}

/* The answer, or -1: it comes later. */
static int task_management(VirtioScsi *s, VirtioScsiTmf *tmf, uint32_t subtype, const uint8_t *address)
{
    bool target_there = false;

    if (!parse_lun(address, &tmf->target, &tmf->lun)) {
        return TMF_BAD_TARGET;
    }
    ScsiDevice *dev = scsi_find(s->bus, tmf->target, tmf->lun, &target_there);
    tmf->whole_target = subtype == TMF_NEXUS_RESET;
    if (!target_there) {
        return TMF_BAD_TARGET;
    }
    if (!dev && !tmf->whole_target) {
        return TMF_INCORRECT_LUN;
    }
    switch (subtype) {
    case TMF_ABORT_TASK:
    case TMF_ABORT_TASK_SET:
    case TMF_CLEAR_TASK_SET:
        scsi_device_abort_stopped(dev);
        break;
    case TMF_NEXUS_RESET:
    case TMF_UNIT_RESET:
        if (dev) {
            scsi_device_abort_stopped(dev);
        }
        reset_units(s, tmf);
        break;
    case TMF_QUERY_TASK:
    case TMF_QUERY_TASK_SET:
        return dev->under_way.length ? TMF_SUCCEEDED : TMF_COMPLETE;
    default:
        return TMF_REJECTED;
    }
    if (units_busy(s, tmf)) {
        g_queue_push_tail(&s->pending, tmf);
        return -1;
    }
    return TMF_COMPLETE;
}

static void handle_control(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioScsi *s = VIRTIO_SCSI(vdev);
    VirtioScsiTmf *tmf;

    while (virtio_device_active(vdev) && (tmf = virtqueue_pop(vq, sizeof(*tmf)))) {
        uint8_t request[CONTROL_SIZE] = { 0 }, response[NOTIFY_RESPONSE] = { 0 };
        size_t size = iov_read(tmf->elem.out, tmf->elem.out_count, 0, request, sizeof(request));
        uint32_t type, subtype;
        memcpy(&type, request, 4);
        memcpy(&subtype, request + 4, 4);
        type = GUINT32_FROM_LE(type);
        subtype = GUINT32_FROM_LE(subtype);
        TRACE(virtio_scsi_control, type, subtype);
        if (size < 4 || (type == CONTROL_TMF && (size < CONTROL_SIZE || tmf->elem.in_size < TMF_RESPONSE)) ||
            (type != CONTROL_TMF && tmf->elem.in_size < NOTIFY_RESPONSE)) {
            virtio_device_error(vdev, "a control request of %zu bytes", size);
            virtqueue_discard(tmf);
            return;
        }
        if (type == CONTROL_TMF) {
            int result = task_management(s, tmf, subtype, request + 8);
            if (result >= 0) {
                response[0] = (uint8_t)result;
                answer_control(&tmf->elem, response, TMF_RESPONSE);
            }
        } else { /* no notifications are there to query or subscribe to */
            response[4] = type == CONTROL_QUERY || type == CONTROL_SUBSCRIBE ? RESPONSE_OK : TMF_REJECTED;
            answer_control(&tmf->elem, response, NOTIFY_RESPONSE);
        }
    }
}

/* ---- events ---- */

static void send_event(VirtioScsi *s, uint32_t event, uint32_t reason, const ScsiDevice *dev)
{
    VirtQueue *vq = virtio_get_queue(&s->parent_obj, QUEUE_EVENT);
    uint8_t bytes[EVENT_SIZE] = { 0 };

    if (!virtio_device_active(&s->parent_obj)) {
        return;
    }
    VirtQueueElement *e = virtqueue_pop(vq, sizeof(*e));
    if (!e) {
        s->events_missed = true;
        return;
    }
    uint32_t head = GUINT32_TO_LE(event | (s->events_missed ? EVENT_MISSED : 0)),
             tail = GUINT32_TO_LE(reason);
    s->events_missed = false;
    memcpy(bytes, &head, 4);
    if (dev) {
        bytes[4] = 1;
        bytes[5] = (uint8_t)dev->target;
        bytes[6] = (uint8_t)(dev->lun >= 256 ? 0x40 | dev->lun >> 8 : 0);
        bytes[7] = (uint8_t)dev->lun;
    }
    memcpy(bytes + 12, &tail, 4);
    answer_control(e, bytes, sizeof(bytes));
}

static void handle_events(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioScsi *s = VIRTIO_SCSI(vdev);

    if (s->events_missed) {
        send_event(s, EVENT_NONE, 0, NULL);
    }
}

static void bus_changed(void *opaque, ScsiDevice *dev, bool came)
{
    VirtioScsi *s = opaque;

    if (virtio_has_feature(&s->parent_obj, F_HOTPLUG)) {
        send_event(s, EVENT_TRANSPORT_RESET, came ? REASON_RESCAN : REASON_REMOVED, dev);
    }
}

static const ScsiBusOps bus_ops = { bus_changed };

/* ---- the device ---- */

static uint64_t scsi_get_features(VirtioDevice *vdev)
{
    const VirtioScsi *s = VIRTIO_SCSI(vdev);

    return (s->hotplug ? VIRTIO_BIT(F_HOTPLUG) : 0) | (s->param_change ? VIRTIO_BIT(F_CHANGE) : 0);
}

static void scsi_get_config(VirtioDevice *vdev, uint8_t *config)
{
    const VirtioScsi *s = VIRTIO_SCSI(vdev);
    const ScsiConfig c = {
        .num_queues = s->num_queues,
        .seg_max = s->queue_size - 2,
        .max_sectors = s->max_sectors,
        .cmd_per_lun = s->cmd_per_lun,
        .event_info_size = EVENT_SIZE,
        .sense_size = s->sense_size,
        .cdb_size = s->cdb_size,
        .max_target = MAX_TARGET,
        .max_lun = MAX_LUN,
    };

    memcpy(config, &c, sizeof(c));
}

static void scsi_set_config(VirtioDevice *vdev, uint32_t offset, const uint8_t *data, unsigned size)
{
    VirtioScsi *s = VIRTIO_SCSI(vdev);
    uint32_t value;

    if (size != 4 ||
        (offset != offsetof(ScsiConfig, sense_size) && offset != offsetof(ScsiConfig, cdb_size))) {
        return;
    }
    memcpy(&value, data, 4);
    value = GUINT32_FROM_LE(value);
    if (offset == offsetof(ScsiConfig, sense_size)) {
        s->sense_size = MIN(value, MAX_SENSE);
    } else {
        s->cdb_size = CLAMP(value, 6, SCSI_CDB_MAX);
    }
}

/* The device is being taken away: its bus went first, and each unit came to rest before. */
static bool bus_gone(VirtioDevice *vdev)
{
    return DEVICE(vdev)->child_buses->len == 0;
}

static void scsi_cancel(VirtioDevice *vdev)
{
    VirtioScsi *s = VIRTIO_SCSI(vdev);
    VirtioScsiTmf *tmf;

    if (!bus_gone(vdev)) {
        scsi_bus_abort_stopped(s->bus);
    }
    while ((tmf = g_queue_pop_head(&s->pending))) {
        virtqueue_discard(tmf);
    }
}

static void scsi_reset(VirtioDevice *vdev)
{
    VirtioScsi *s = VIRTIO_SCSI(vdev);

    s->sense_size = DEFAULT_SENSE;
    s->cdb_size = DEFAULT_CDB;
    s->events_missed = false;
    for (guint i = 0; !bus_gone(vdev) && i < s->bus->units->len; i++) {
        scsi_device_reset_unit(s->bus->units->pdata[i]);
    }
}

static void scsi_resume(VirtioDevice *vdev)
{
    scsi_bus_resume(VIRTIO_SCSI(vdev)->bus);
}

static void scsi_drain(VirtioDevice *vdev)
{
    if (!bus_gone(vdev)) {
        scsi_bus_drain(VIRTIO_SCSI(vdev)->bus, DEVICE(vdev)->env->loop);
    }
}

static bool scsi_realize(VirtioDevice *vdev, GError **error)
{
    VirtioScsi *s = VIRTIO_SCSI(vdev);
    const Device *proxy = vdev->bus->parent_obj.owner;
    g_autofree char *name = proxy && proxy->id ? g_strdup_printf("%s.0", proxy->id) : NULL;

    if (s->num_queues == UINT32_MAX) {
        s->num_queues = 1;
    }
    if (s->num_queues == 0 || s->num_queues > VIRTIO_QUEUE_MAX - QUEUE_REQUESTS) {
        return error_set(error, "Property 'num_queues' must be between 1 and %d",
                         VIRTIO_QUEUE_MAX - QUEUE_REQUESTS);
    }
    if (s->queue_size < 4 || s->queue_size > VIRTQUEUE_MAX_SIZE || (s->queue_size & (s->queue_size - 1))) {
        return error_set(error, "Property 'virtqueue_size' must be a power of two between 4 and %u",
                         VIRTQUEUE_MAX_SIZE);
    }
    s->loop = s->iothread ? iothread_get_loop(s->iothread) : DEVICE(vdev)->env->loop;
    s->sense_size = DEFAULT_SENSE;
    s->cdb_size = DEFAULT_CDB;
    g_queue_init(&s->pending);
    vdev->config_size = sizeof(ScsiConfig);
    virtio_queue_add(vdev, (uint16_t)s->queue_size, handle_control, s->loop);
    virtio_queue_add(vdev, (uint16_t)s->queue_size, handle_events, s->loop);
    for (uint32_t i = 0; i < s->num_queues; i++) {
        virtio_queue_add(vdev, (uint16_t)s->queue_size, handle_requests, s->loop);
    }
    s->bus = scsi_bus_new(DEVICE(vdev), name, DEVICE(vdev)->env, vdev->home, s->loop, MAX_TARGET, MAX_LUN,
                          &bus_ops, s);
    return true;
}

static bool scsi_post_load(void *opaque, int version, GError **error)
{
    VirtioScsi *s = opaque;

    if (s->sense_size > MAX_SENSE || s->cdb_size < 6 || s->cdb_size > SCSI_CDB_MAX) {
        s->sense_size = DEFAULT_SENSE;
        s->cdb_size = DEFAULT_CDB;
        return error_set(error, "virtio-scsi: impossible sizes of commands and sense data");
    }
    return true;
}

static const Property scsi_properties[] = {
    PROP_LINK("iothread", VirtioScsi, iothread, TYPE_IOTHREAD, "the loop that serves the queues"),
    PROP_UINT32("num_queues", VirtioScsi, num_queues, UINT32_MAX, "request queues (4294967295: one)"),
    PROP_UINT32("virtqueue_size", VirtioScsi, queue_size, 256, "entries of a queue"),
    PROP_UINT32("max_sectors", VirtioScsi, max_sectors, 0xffff, "of a request, in 512 bytes"),
    PROP_UINT32("cmd_per_lun", VirtioScsi, cmd_per_lun, 128, "requests at a time for each unit"),
    PROP_BOOL("hotplug", VirtioScsi, hotplug, true, "tell the guest of units that come and go"),
    PROP_BOOL("param_change", VirtioScsi, param_change, true, "offer events of changed parameters"),
    PROP_END,
};

static const VmStateField scsi_fields[] = {
    VMS_STRUCT(parent_obj, VirtioScsi, virtio_device_vmstate),
    VMS_UINT32(sense_size, VirtioScsi),
    VMS_UINT32(cdb_size, VirtioScsi),
    VMS_BOOL(events_missed, VirtioScsi),
    VMS_END,
};
static const VmState scsi_vmstate = {
    .name = "virtio-scsi", .version = 1, .fields = scsi_fields, .post_load = scsi_post_load
};

static void scsi_class_init(ObjectClass *klass, const void *data)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &scsi_vmstate;
    DEVICE_CLASS(klass)->category = "Storage";
    vc->virtio_id = VIRTIO_ID_SCSI;
    vc->realize = scsi_realize;
    vc->get_features = scsi_get_features;
    vc->get_config = scsi_get_config;
    vc->set_config = scsi_set_config;
    vc->reset = scsi_reset;
    vc->cancel = scsi_cancel;
    vc->drain = scsi_drain;
    vc->resume = scsi_resume;
    object_class_add_properties(klass, scsi_properties);
}

static const TypeInfo scsi_info = {
    .name = TYPE_VIRTIO_SCSI,
    .parent = TYPE_VIRTIO_DEVICE,
    .description = "virtio SCSI host adapter",
    .instance_size = sizeof(VirtioScsi),
    .class_init = scsi_class_init,
};
TYPE_REGISTER(scsi_info);
