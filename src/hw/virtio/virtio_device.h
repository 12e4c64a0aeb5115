/*
 * Virtio devices, whatever their transport. Source: OASIS Virtual I/O Device (VIRTIO) Version 1.2, chapters
 * 2, 3 and 5.
 *
 * A VirtioDevice is the back end ("virtio-blk-device"): features, status, configuration space, queues. It
 * sits on a VirtioBus, which belongs to a transport (PCI function or MMIO window): the transport has the
 * registers, delivers interrupts and lends its HomeLock, so that registers, queue handlers and back-end
 * callbacks exclude each other.
 *
 * A vCPU that notifies a queue only rings its EventNotifier; the handler runs in the queue's loop.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_VIRTIO_VIRTIO_DEVICE_H
#define RHEA_HW_VIRTIO_VIRTIO_DEVICE_H

#include "hw/core/device.h"
#include "hw/virtio/virtqueue.h"

#define TYPE_VIRTIO_DEVICE "virtio-device" /* abstract */
#define TYPE_VIRTIO_BUS    "virtio-bus"    /* abstract */

/* Device status (2.1). */
#define VIRTIO_STATUS_ACKNOWLEDGE 1
#define VIRTIO_STATUS_DRIVER      2
#define VIRTIO_STATUS_DRIVER_OK   4
#define VIRTIO_STATUS_FEATURES_OK 8
#define VIRTIO_STATUS_NEEDS_RESET 64
#define VIRTIO_STATUS_FAILED      128

/* Feature bits of every device (6; ANY_LAYOUT is of the legacy interface alone, 6.3). */
#define VIRTIO_F_ANY_LAYOUT      27
#define VIRTIO_F_INDIRECT_DESC   28
#define VIRTIO_F_EVENT_IDX       29
#define VIRTIO_F_VERSION_1       32
#define VIRTIO_F_ACCESS_PLATFORM 33
#define VIRTIO_F_RING_PACKED     34
#define VIRTIO_F_RING_RESET      40
#define VIRTIO_BIT(n)            (1ull << (n))

/* Device types (5). */
#define VIRTIO_ID_NET     1
#define VIRTIO_ID_BLOCK   2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_ENTROPY 4
#define VIRTIO_ID_BALLOON 5
#define VIRTIO_ID_SCSI    8
#define VIRTIO_ID_GPU     16
#define VIRTIO_ID_INPUT   18
#define VIRTIO_ID_VSOCK   19

#define VIRTIO_NO_VECTOR  0xffff
#define VIRTIO_QUEUE_MAX  1024 /* queues of a device */
#define VIRTIO_CONFIG_MAX 256
#define VIRTIO_ISR_QUEUE  1
#define VIRTIO_ISR_CONFIG 2

typedef struct VirtioDevice VirtioDevice;
typedef struct VirtioDeviceClass VirtioDeviceClass;

/* What a transport does for its device. All of them: any thread, the home lock held. */
typedef struct VirtioTransportOps {
    void (*notify_queue)(void *opaque, VirtQueue *vq); /* the used buffer notification */
    void (*notify_config)(void *opaque);               /* the configuration change notification */
    /* Where the driver's notifications of a queue arrive: its notifier is connected to that place, or taken
     * away again. */
    void (*connect_queue)(void *opaque, VirtQueue *vq, bool on);
} VirtioTransportOps;

typedef struct VirtioBus {
    Bus parent_obj;
    const VirtioTransportOps *ops;
    void *opaque;
    HomeLock *home;
    AddressSpace *dma_as;
    bool legacy; /* the transport has the legacy interface, too */
    VirtioDevice
        *vdev; /* NULL: none; set while it is realized. Atomic; readers outside of the lock use RCU */
} VirtioBus;
#define VIRTIO_BUS(obj) OBJECT_CHECK(VirtioBus, obj, TYPE_VIRTIO_BUS)

struct VirtioDevice {
    Device parent_obj;
    /* saved */
    uint8_t status;
    uint8_t isr; /* atomic */
    uint16_t config_vector;
    uint64_t driver_features; /* as the driver wrote them; fixed by FEATURES_OK */
    uint32_t queue_count;
    VirtQueue *queues; /* queue_count of them */
    /* from properties */
    bool use_event_idx, use_indirect, use_packed;
    /* derived */
    uint64_t device_features;
    HomeLock *home;
    AddressSpace *dma_as;
    VirtioBus *bus;
    uint32_t config_generation;
    size_t config_size;
    bool broken;    /* NEEDS_RESET: queues are not touched until then */
    bool resetting; /* the driver asked for a reset; ends with the last request in flight */
    bool vm_running, resume_pending;
    unsigned in_flight; /* requests whose buffers a back end has */
};

struct VirtioDeviceClass {
    DeviceClass parent_class;
    uint16_t virtio_id;
    /* Makes queues with virtio_queue_add and sets config_size. The transport is connected already. */
    bool (*realize)(VirtioDevice *vdev, GError **error);
    void (*unrealize)(VirtioDevice *vdev);
    /* The device's own feature bits on top of the common ones. */
    uint64_t (*get_features)(VirtioDevice *vdev);
    /* May refuse what the driver chose (FEATURES_OK stays off). NULL: any subset is fine. */
    bool (*validate_features)(VirtioDevice *vdev, uint64_t features);
    /* Features are final and queues may be used (DRIVER_OK). */
    void (*start)(VirtioDevice *vdev);
    /* Fills the configuration space (config_size bytes). */
    void (*get_config)(VirtioDevice *vdev, uint8_t *config);
    /* The driver wrote `size` bytes at offset; NULL: read-only. */
    void (*set_config)(VirtioDevice *vdev, uint32_t offset, const uint8_t *data, unsigned size);
    /* Nothing is in flight any more: device state as after power-on. */
    void (*reset)(VirtioDevice *vdev);
    /* A reset begins: gives up requests in flight that no back end works on (virtio_device_put each). May be
     * NULL. */
    void (*cancel)(VirtioDevice *vdev);
    /* The machine runs again: makes requests again that had stopped it. In the first queue's loop. May be
     * NULL. */
    void (*resume)(VirtioDevice *vdev);
    /* Waits, in the main loop with no lock held, until nothing is in flight. NULL: never anything is. */
    void (*drain)(VirtioDevice *vdev);
};
#define VIRTIO_DEVICE(obj)           OBJECT_CHECK(VirtioDevice, obj, TYPE_VIRTIO_DEVICE)
#define VIRTIO_DEVICE_CLASS(klass)   ((VirtioDeviceClass *)(klass))
#define VIRTIO_DEVICE_GET_CLASS(obj) OBJECT_GET_CLASS(VirtioDeviceClass, obj)

/* A device's state table embeds it: VMS_STRUCT(parent_obj, VirtioBlk, virtio_device_vmstate). */
extern const VmState virtio_device_vmstate;

/* ---- for devices; the home lock is held unless said otherwise ---- */
/* In realize: adds a queue of at most size entries (a power of two up to 1024) whose handler runs in loop
 * (NULL: the main loop). */
VirtQueue *virtio_queue_add(VirtioDevice *vdev, uint16_t size, VirtQueueHandler *handler, Loop *loop);
static inline bool virtio_has_feature(const VirtioDevice *vdev, unsigned bit)
{
    return (vdev->driver_features >> bit) & 1;
}
/* Whether the driver came by the legacy interface; known from DRIVER_OK on. */
static inline bool virtio_is_legacy(const VirtioDevice *vdev)
{
    return !virtio_has_feature(vdev, VIRTIO_F_VERSION_1);
}
/* Whether the driver is up and the machine runs: queues may be worked on. */
bool virtio_device_active(const VirtioDevice *vdev);
/* The driver broke a rule: stops the device until it is reset, and tells the driver so (2.1.2). Never aborts.
 */
void virtio_device_error(VirtioDevice *vdev, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* The configuration space has changed. */
void virtio_notify_config(VirtioDevice *vdev);
/* A back end has a request's buffers; a reset waits for the last put, which may finish it. */
void virtio_device_get(VirtioDevice *vdev);
void virtio_device_put(VirtioDevice *vdev);
/* Rings every queue as its driver would (after something outside has changed). */
void virtio_device_kick_all(VirtioDevice *vdev);

/* ---- for transports; the home lock is held unless said otherwise ---- */
uint64_t virtio_device_features(VirtioDevice *vdev);
/* The same as the legacy interface shows them, and its status register, which knows no FEATURES_OK: DRIVER_OK
 * fixes the features; those that were not offered are left out. */
uint32_t virtio_legacy_features(VirtioDevice *vdev);
void virtio_legacy_set_status(VirtioDevice *vdev, uint8_t status);
uint8_t virtio_legacy_get_status(const VirtioDevice *vdev);
/* Half 0 or 1 of the driver's features; ignored once FEATURES_OK is set. */
void virtio_set_driver_features(VirtioDevice *vdev, unsigned half, uint32_t value);
void virtio_set_status(VirtioDevice *vdev, uint8_t status);
uint8_t virtio_get_status(const VirtioDevice *vdev);
/* Configuration space: any offset and size; beyond the end reads are all ones and writes ignored. */
uint64_t virtio_config_read(VirtioDevice *vdev, uint64_t offset, unsigned size);
void virtio_config_write(VirtioDevice *vdev, uint64_t offset, uint64_t value, unsigned size);
VirtQueue *virtio_get_queue(VirtioDevice *vdev, unsigned n); /* NULL: there is no such queue */
/* The device's number, or 0. */
uint16_t virtio_device_id(VirtioDevice *vdev);
/* Rings queue n. [any thread, no lock needed: uses RCU] */
void virtio_bus_ring(VirtioBus *bus, unsigned n);
/* Machine reset: the transport's DeviceClass.reset calls this with its lock (the home lock) held, which is
 * dropped while requests in flight end. */
void virtio_device_power_reset(VirtioDevice *vdev);
/* Reads and clears the interrupt status. */
uint8_t virtio_take_isr(VirtioDevice *vdev);

/* ---- proxies ---- */
/* Gives a proxy's class the properties of its back end's class, and those of the instance's back end to it.
 */
void virtio_proxy_class_add_backend_properties(ObjectClass *proxy, const char *backend_type,
                                               VirtioDevice *(*backend_of)(Object *proxy));

#endif
