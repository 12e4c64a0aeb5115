/*
 * The part of virtio that every device and transport share: see virtio_device.h.
 *
 * Invariants:
 *  1. Everything below is under the home lock, but for isr, the bus's vdev pointer (RCU) and the notifiers.
 *  2. While a back end has a request's buffers (in_flight), the driver's reset is not finished: status reads
 * as it was, and queues are not touched (2.4 lets a reset take its time).
 *  3. A broken device (NEEDS_RESET) does nothing with its queues until it is reset.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/virtio/virtio_device.h"

#include "base/error.h"
#include "base/log.h"
#include "mem/rcu.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(virtio_set_status, "%s 0x%02x")
TRACE_EVENT(virtio_set_features, "%s 0x%" G_GINT64_MODIFIER "x")
TRACE_EVENT(virtio_reset, "%s")
TRACE_EVENT(virtio_queue_ring, "%s queue %u")

static const char *name_of(const VirtioDevice *vdev)
{
    return object_get_typename(OBJECT(vdev));
}

bool virtio_device_active(const VirtioDevice *vdev)
{
    return (vdev->status & VIRTIO_STATUS_DRIVER_OK) && !vdev->broken && !vdev->resetting && vdev->vm_running;
}

void virtio_device_error(VirtioDevice *vdev, const char *fmt, ...)
{
    if (G_UNLIKELY(log_mask & LOG_GUEST_ERROR)) {
        va_list ap;
        va_start(ap, fmt);
        g_autofree char *text = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        log_write("%s: %s", name_of(vdev), text);
    }
    if (vdev->broken) {
        return;
    }
    vdev->broken = true;
    vdev->status |= VIRTIO_STATUS_NEEDS_RESET;
    if (vdev->status & VIRTIO_STATUS_DRIVER_OK) {
        virtio_notify_config(vdev);
    }
}

void virtio_notify_config(VirtioDevice *vdev)
{
    __atomic_fetch_add(&vdev->config_generation, 1, __ATOMIC_RELAXED);
    if ((vdev->status & VIRTIO_STATUS_DRIVER_OK) && vdev->bus && vdev->bus->ops) {
        vdev->bus->ops->notify_config(vdev->bus->opaque);
    }
}

uint8_t virtio_take_isr(VirtioDevice *vdev)
{
    return __atomic_exchange_n(&vdev->isr, 0, __ATOMIC_ACQ_REL);
}

/* ---- queues ---- */

VirtQueue *virtio_queue_add(VirtioDevice *vdev, uint16_t size, VirtQueueHandler *handler, Loop *loop)
{
    g_assert(size && size <= VIRTQUEUE_MAX_SIZE && !(size & (size - 1)) &&
             vdev->queue_count < VIRTIO_QUEUE_MAX);
    if (!vdev->queues) {
        vdev->queues = g_new0(VirtQueue, VIRTIO_QUEUE_MAX); /* pointers to queues stay good */
    }
    VirtQueue *vq = &vdev->queues[vdev->queue_count];
    virtqueue_init(vq, vdev, (uint16_t)vdev->queue_count, size);
    vq->handler = handler;
    vq->loop = loop ? loop : DEVICE(vdev)->env->loop;
    vdev->queue_count++;
    return vq;
}

VirtQueue *virtio_get_queue(VirtioDevice *vdev, unsigned n)
{
    return n < vdev->queue_count ? &vdev->queues[n] : NULL;
}

/* In the queue's loop, home lock held. */
static void queue_rung(void *opaque)
{
    VirtQueue *vq = opaque;
    event_notifier_test_and_clear(&vq->notifier);
    TRACE(virtio_queue_ring, name_of(vq->vdev), vq->index);
    VirtioDevice *vdev = vq->vdev;
    if (!virtio_device_active(vdev)) {
        return;
    }
    if (vdev->resume_pending) {
        vdev->resume_pending = false;
        if (VIRTIO_DEVICE_GET_CLASS(vdev)->resume) {
            VIRTIO_DEVICE_GET_CLASS(vdev)->resume(vdev);
        }
    }
    if (vq->enabled && vq->handler) {
        vq->handler(vdev, vq);
    }
}

static void watch_queue(void *opaque)
{
    VirtQueue *vq = opaque;
    vq->loop_fd = loop_add_fd(vq->loop, vq->notifier.fd, queue_rung, NULL, NULL, vq, vq->vdev->home);
}

static void unwatch_queue(void *opaque)
{
    VirtQueue *vq = opaque;
    loop_remove_fd(vq->loop_fd);
    vq->loop_fd = NULL;
}

static bool watch_queues(VirtioDevice *vdev, GError **error)
{
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        VirtQueue *vq = &vdev->queues[i];
        if (!event_notifier_init(&vq->notifier, error)) {
            vq->notifier.fd = -1;
            return false;
        }
        loop_call_sync(vq->loop, watch_queue, vq);
    }
    return true;
}

static void connect_queues(VirtioDevice *vdev, bool on)
{
    const VirtioBus *bus = vdev->bus;
    if (!bus->ops || !bus->ops->connect_queue) {
        return;
    }
    memory_transaction_begin();
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        bus->ops->connect_queue(bus->opaque, &vdev->queues[i], on);
    }
    memory_transaction_commit();
}

static void free_queues(VirtioDevice *vdev)
{
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        VirtQueue *vq = &vdev->queues[i];
        if (vq->loop_fd) {
            loop_call_sync(vq->loop, unwatch_queue, vq);
        }
        if (vq->notifier.fd >= 0) {
            event_notifier_destroy(&vq->notifier);
        }
        virtqueue_destroy(vq);
    }
    g_free(vdev->queues);
    vdev->queues = NULL;
    vdev->queue_count = 0;
}

void virtio_device_kick_all(VirtioDevice *vdev)
{
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        if (vdev->queues[i].enabled) {
            event_notifier_set(&vdev->queues[i].notifier);
        }
    }
}

void virtio_bus_ring(VirtioBus *bus, unsigned n)
{
    memory_rcu_lock();
    VirtioDevice *vdev = rcu_fetch(&bus->vdev);
    if (vdev && n < vdev->queue_count) {
        event_notifier_set(&vdev->queues[n].notifier);
    }
    memory_rcu_unlock();
}

/* ---- features and status ---- */

#define LEGACY_ONLY VIRTIO_BIT(VIRTIO_F_ANY_LAYOUT)

uint64_t virtio_device_features(VirtioDevice *vdev)
{
    return vdev->device_features & ~LEGACY_ONLY;
}

uint32_t virtio_legacy_features(VirtioDevice *vdev)
{
    return (uint32_t)vdev->device_features;
}

static void compute_features(VirtioDevice *vdev)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    vdev->device_features =
        VIRTIO_BIT(VIRTIO_F_VERSION_1) | (vdev->use_event_idx ? VIRTIO_BIT(VIRTIO_F_EVENT_IDX) : 0) |
        (vdev->use_indirect ? VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) : 0) |
        (vdev->use_packed ? VIRTIO_BIT(VIRTIO_F_RING_PACKED) : 0) | (vdev->bus->legacy ? LEGACY_ONLY : 0) |
        (vc->get_features ? vc->get_features(vdev) : 0);
}

void virtio_set_driver_features(VirtioDevice *vdev, unsigned half, uint32_t value)
{
    if (half > 1 || (vdev->status & VIRTIO_STATUS_FEATURES_OK)) {
        return;
    }
    unsigned shift = 32 * half;
    vdev->driver_features =
        (vdev->driver_features & ~((uint64_t)UINT32_MAX << shift)) | ((uint64_t)value << shift);
}

static bool features_ok(VirtioDevice *vdev, uint64_t features)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    return !(features & ~virtio_device_features(vdev)) && (features & VIRTIO_BIT(VIRTIO_F_VERSION_1)) &&
           (!vc->validate_features || vc->validate_features(vdev, features));
}

/* Back to power-on state; nothing is in flight. */
static void finish_reset(VirtioDevice *vdev)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    TRACE(virtio_reset, name_of(vdev));
    vdev->resetting = false;
    if (vc->reset) {
        vc->reset(vdev);
    }
    vdev->status = 0;
    vdev->broken = false;
    vdev->driver_features = 0;
    vdev->config_vector = VIRTIO_NO_VECTOR;
    __atomic_store_n(&vdev->isr, 0, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        virtqueue_reset(&vdev->queues[i]);
    }
}

/* Resets now, or with the last request in flight. */
static void begin_reset(VirtioDevice *vdev)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    vdev->resetting = true;
    vdev->in_flight++; /* so that it ends here and once */
    if (vc->cancel) {
        vc->cancel(vdev);
    }
    virtio_device_put(vdev);
}

void virtio_device_get(VirtioDevice *vdev)
{
    vdev->in_flight++;
}

void virtio_device_put(VirtioDevice *vdev)
{
    g_assert(vdev->in_flight > 0);
    if (--vdev->in_flight == 0 && vdev->resetting) {
        finish_reset(vdev);
    }
}

uint8_t virtio_get_status(const VirtioDevice *vdev)
{
    return vdev->status;
}

void virtio_set_status(VirtioDevice *vdev, uint8_t status)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    TRACE(virtio_set_status, name_of(vdev), status);
    if (status == 0) {
        begin_reset(vdev);
        return;
    }
    if (vdev->resetting) {
        return;
    }
    uint8_t before = vdev->status;
    if ((status & VIRTIO_STATUS_FEATURES_OK) && !(before & VIRTIO_STATUS_FEATURES_OK)) {
        TRACE(virtio_set_features, name_of(vdev), vdev->driver_features);
        if (!features_ok(vdev, vdev->driver_features)) {
            LOG(LOG_GUEST_ERROR, "%s: driver's features 0x%" PRIx64 " are not a fit for 0x%" PRIx64,
                name_of(vdev), vdev->driver_features, vdev->device_features);
            status &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
        }
    }
    /* Bits are only ever added by the driver (2.1.1); NEEDS_RESET is the device's. */
    vdev->status = (uint8_t)(before | (status & ~VIRTIO_STATUS_NEEDS_RESET));
    if (!(before & VIRTIO_STATUS_DRIVER_OK) && (status & VIRTIO_STATUS_DRIVER_OK)) {
        if (!(vdev->status & VIRTIO_STATUS_FEATURES_OK)) {
            virtio_device_error(vdev, "driver is up without having agreed on features");
            return;
        }
        if (vc->start) {
            vc->start(vdev);
        }
        virtio_device_kick_all(vdev); /* what it notified before it was up (3.1.1 allows it to) */
    }
}

uint8_t virtio_legacy_get_status(const VirtioDevice *vdev)
{
    return vdev->status & (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
}

void virtio_legacy_set_status(VirtioDevice *vdev, uint8_t status)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    status &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
    if ((status & VIRTIO_STATUS_DRIVER_OK) && !vdev->resetting &&
        !(vdev->status & VIRTIO_STATUS_FEATURES_OK)) {
        uint64_t features = vdev->driver_features & virtio_legacy_features(vdev);
        if (vc->validate_features && !vc->validate_features(vdev, features)) {
            virtio_device_error(vdev, "driver's features 0x%" PRIx64 " do not go together", features);
            return;
        }
        TRACE(virtio_set_features, name_of(vdev), features);
        vdev->driver_features = features;
        vdev->status |= VIRTIO_STATUS_FEATURES_OK;
    }
    virtio_set_status(vdev, status);
}

void virtio_device_power_reset(VirtioDevice *vdev)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    if (vdev->in_flight && vc->drain) {
        vdev->resetting = true; /* no new ones */
        home_unlock(vdev->home);
        vc->drain(vdev);
        home_lock(vdev->home);
    }
    begin_reset(vdev);
}

uint16_t virtio_device_id(VirtioDevice *vdev)
{
    return VIRTIO_DEVICE_GET_CLASS(vdev)->virtio_id;
}

/* ---- configuration space ---- */

uint64_t virtio_config_read(VirtioDevice *vdev, uint64_t offset, unsigned size)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    uint8_t config[VIRTIO_CONFIG_MAX] = { 0 };
    uint64_t value = 0;
    if (!vc->get_config || offset > vdev->config_size || size > vdev->config_size - offset) {
        return size >= 8 ? UINT64_MAX : (1ull << (8 * size)) - 1;
    }
    vc->get_config(vdev, config);
    memcpy(&value, config + offset, size);
    return value;
}

void virtio_config_write(VirtioDevice *vdev, uint64_t offset, uint64_t value, unsigned size)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    if (!vc->set_config || offset > vdev->config_size || size > vdev->config_size - offset) {
        return;
    }
    uint8_t bytes[8];
    memcpy(bytes, &value, sizeof(bytes));
    vc->set_config(vdev, (uint32_t)offset, bytes, size);
}

/* ---- life ---- */

static void run_changed(void *opaque, bool running)
{
    VirtioDevice *vdev = opaque;
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    home_lock(vdev->home);
    vdev->vm_running = running;
    vdev->resume_pending = running;
    if (running && (vdev->status & VIRTIO_STATUS_DRIVER_OK)) {
        virtio_device_kick_all(vdev);
    }
    home_unlock(vdev->home);
    if (!running && vc->drain) {
        vc->drain(vdev);
    }
}

static void virtio_device_teardown(VirtioDevice *vdev)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    home_lock(vdev->home);
    vdev->in_flight++;      /* a reset under way does not end any more */
    vdev->resetting = true; /* handlers do nothing from here on */
    home_unlock(vdev->home);
    if (vc->drain) {
        vc->drain(vdev);
    }
    if (vc->unrealize) {
        vc->unrealize(vdev);
    }
    free_queues(vdev);
    vdev->in_flight = 0;
    vdev->resetting = false;
    vdev->status = 0;
    vdev->bus = NULL;
}

/* For registers under the home lock, and for those who ring under RCU. */
static void show_on_bus(VirtioBus *bus, VirtioDevice *vdev)
{
    home_lock(bus->home);
    rcu_publish(&bus->vdev, vdev);
    home_unlock(bus->home);
}

static bool virtio_device_realize(Device *dev, GError **error)
{
    VirtioDevice *vdev = VIRTIO_DEVICE(dev);
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    VirtioBus *bus = object_dynamic_cast(OBJECT(dev->bus), TYPE_VIRTIO_BUS);
    if (!bus) {
        return error_set(error, "Device '%s' needs a virtio bus", name_of(vdev));
    }
    vdev->bus = bus;
    vdev->home = bus->home;
    vdev->dma_as = bus->dma_as;
    vdev->vm_running = true;
    vdev->config_vector = VIRTIO_NO_VECTOR;
    if (!vc->realize(vdev, error)) {
        free_queues(vdev);
        vdev->bus = NULL;
        return false;
    }
    g_assert(vdev->config_size <= VIRTIO_CONFIG_MAX);
    compute_features(vdev);
    if (!watch_queues(vdev, error)) {
        virtio_device_teardown(vdev);
        return false;
    }
    if (dev->env->vm && dev->env->vm->add_run_handler) {
        dev->env->vm->add_run_handler(dev->env->vm->opaque, run_changed, vdev);
    }
    show_on_bus(bus, vdev);
    connect_queues(vdev, true);
    return true;
}

static void virtio_device_unrealize(Device *dev)
{
    VirtioDevice *vdev = VIRTIO_DEVICE(dev);
    connect_queues(vdev, false);
    show_on_bus(vdev->bus, NULL);
    memory_rcu_synchronize(); /* nobody rings its queues any more */
    if (dev->env->vm && dev->env->vm->remove_handlers) {
        dev->env->vm->remove_handlers(dev->env->vm->opaque, vdev);
    }
    virtio_device_teardown(vdev);
}

static bool base_post_load(void *opaque, int version, GError **error)
{
    VirtioDevice *vdev = opaque;
    VirtioDeviceClass *vc = VIRTIO_DEVICE_GET_CLASS(vdev);
    if (vdev->driver_features & ~vdev->device_features) {
        return error_set(error, "features 0x%" PRIx64 " are not among this device's 0x%" PRIx64,
                         vdev->driver_features, vdev->device_features);
    }
    vdev->broken = vdev->status & VIRTIO_STATUS_NEEDS_RESET;
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        if (!virtqueue_restore(&vdev->queues[i], error)) {
            return false;
        }
    }
    if (vdev->status & VIRTIO_STATUS_DRIVER_OK) {
        if (vc->start) {
            vc->start(vdev);
        }
        virtio_device_kick_all(vdev);
    }
    return true;
}

static const VmStateField queue_fields[] = {
    VMS_UINT16(size, VirtQueue),
    VMS_UINT16(vector, VirtQueue),
    VMS_BOOL(enabled, VirtQueue),
    VMS_UINT64(desc, VirtQueue),
    VMS_UINT64(driver, VirtQueue),
    VMS_UINT64(device, VirtQueue),
    VMS_UINT16(last_avail, VirtQueue),
    VMS_UINT16(used_idx, VirtQueue),
    VMS_UINT16(signalled_used, VirtQueue),
    VMS_BOOL(signalled_valid, VirtQueue),
    VMS_VBUFFER(in_flight, VirtQueue, in_flight_bytes, VIRTQUEUE_MAX_SIZE * 16),
    VMS_FIELD_(avail_wrap, VirtQueue, VMS_KIND_BOOL, .size = sizeof(bool), .count = 1, .since_version = 2),
    VMS_FIELD_(used_wrap, VirtQueue, VMS_KIND_BOOL, .size = sizeof(bool), .count = 1, .since_version = 2),
    VMS_END,
};
static bool queue_pre_save(void *opaque, GError **error)
{
    virtqueue_note_in_flight(opaque);
    return true;
}

/* Version 2: packed rings. */
static const VmState queue_vmstate = { .name = "virtqueue",
                                       .version = 2,
                                       .minimum_version = 1,
                                       .fields = queue_fields,
                                       .pre_save = queue_pre_save };

static const VmStateField device_fields[] = {
    VMS_UINT8(status, VirtioDevice),
    VMS_UINT8(isr, VirtioDevice),
    VMS_UINT16(config_vector, VirtioDevice),
    VMS_UINT64(driver_features, VirtioDevice),
    VMS_VSTRUCT(queues, VirtioDevice, VirtQueue, queue_count, queue_vmstate),
    VMS_END,
};
const VmState virtio_device_vmstate = {
    .name = "virtio-device", .version = 1, .fields = device_fields, .post_load = base_post_load
};

static const Property device_properties[] = {
    PROP_BOOL("indirect_desc", VirtioDevice, use_indirect, true, "offer indirect descriptors"),
    PROP_BOOL("event_idx", VirtioDevice, use_event_idx, true, "offer the event index"),
    PROP_BOOL("packed", VirtioDevice, use_packed, false, "offer packed rings"),
    PROP_END,
};

static void virtio_device_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->bus_type = TYPE_VIRTIO_BUS;
    dc->user_creatable = true;
    dc->hotpluggable = false; /* its transport comes and goes instead */
    dc->realize = virtio_device_realize;
    dc->unrealize = virtio_device_unrealize;
    object_class_add_properties(klass, device_properties);
}

static const TypeInfo virtio_device_info = {
    .name = TYPE_VIRTIO_DEVICE,
    .parent = TYPE_DEVICE,
    .instance_size = sizeof(VirtioDevice),
    .class_size = sizeof(VirtioDeviceClass),
    .abstract = true,
    .class_init = virtio_device_class_init,
};
TYPE_REGISTER(virtio_device_info);

static void virtio_bus_class_init(ObjectClass *klass, const void *data)
{
    ((BusClass *)klass)->max_devices = 1;
}

static const TypeInfo virtio_bus_info = {
    .name = TYPE_VIRTIO_BUS,
    .parent = TYPE_BUS,
    .instance_size = sizeof(VirtioBus),
    .abstract = true,
    .class_init = virtio_bus_class_init,
};
TYPE_REGISTER(virtio_bus_info);

/* ---- a proxy's view of its back end's properties ---- */

typedef struct BackendProperty {
    char *name;
    VirtioDevice *(*backend_of)(Object *proxy);
} BackendProperty;

static bool backend_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    BackendProperty *p = opaque;
    return object_property_get(OBJECT(p->backend_of(obj)), p->name, v, error);
}

static bool backend_set(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    BackendProperty *p = opaque;
    return object_property_set(OBJECT(p->backend_of(obj)), p->name, v, error);
}

void virtio_proxy_class_add_backend_properties(ObjectClass *proxy, const char *backend_type,
                                               VirtioDevice *(*backend_of)(Object *proxy))
{
    ObjectClass *backend = object_class_by_name(backend_type);
    if (!backend) {
        return; /* not in this build */
    }
    g_autoptr(GPtrArray) list = object_class_property_list(backend);
    for (guint i = 0; i < list->len; i++) {
        ObjectProperty *from = list->pdata[i];
        if (object_class_property_find(proxy, from->name)) {
            continue;
        }
        BackendProperty *p = g_new0(BackendProperty, 1); /* as long-lived as the class */
        p->name = g_strdup(from->name);
        p->backend_of = backend_of;
        ObjectProperty *to = object_class_property_add(
            proxy, from->name, from->type, from->get ? backend_get : NULL, from->set ? backend_set : NULL, p);
        if (from->description) {
            object_property_set_description(to, from->description);
        }
        if (from->default_value) {
            object_property_set_default_json(to, from->default_value);
        }
    }
}
