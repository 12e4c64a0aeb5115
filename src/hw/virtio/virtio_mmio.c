/*
 * virtio-mmio: the transport without a bus, version 2 registers. Source: VIRTIO 1.2, section 4.2.
 *
 * Left out: shared memory regions (none of the devices has one), the legacy (version 1) registers.
 * Registers are under the device's HomeLock, which the virtio device borrows; QueueNotify is a region of its
 * own without a lock, since it only rings a queue's notifier. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/virtio/virtio_mmio.h"

#include "base/error.h"
#include "base/log.h"
#include "hw/virtio/virtio_device.h"
#include "trace/trace.h"

TRACE_EVENT(virtio_mmio_read, "offset 0x%x value 0x%x")
TRACE_EVENT(virtio_mmio_write, "offset 0x%x value 0x%x")
TRACE_EVENT(virtio_mmio_irq, "level %d")

enum {
    REG_MAGIC = 0x000,
    REG_VERSION = 0x004,
    REG_DEVICE_ID = 0x008,
    REG_VENDOR_ID = 0x00c,
    REG_DEVICE_FEATURES = 0x010,
    REG_DEVICE_FEATURES_SEL = 0x014,
    REG_DRIVER_FEATURES = 0x020,
    REG_DRIVER_FEATURES_SEL = 0x024,
    REG_QUEUE_SEL = 0x030,
    REG_QUEUE_NUM_MAX = 0x034,
    REG_QUEUE_NUM = 0x038,
    REG_QUEUE_READY = 0x044,
    REG_QUEUE_NOTIFY = 0x050,
    REG_INTERRUPT_STATUS = 0x060,
    REG_INTERRUPT_ACK = 0x064,
    REG_STATUS = 0x070,
    REG_QUEUE_DESC_LOW = 0x080,
    REG_QUEUE_DESC_HIGH = 0x084,
    REG_QUEUE_DRIVER_LOW = 0x090,
    REG_QUEUE_DRIVER_HIGH = 0x094,
    REG_QUEUE_DEVICE_LOW = 0x0a0,
    REG_QUEUE_DEVICE_HIGH = 0x0a4,
    REG_SHM_LEN_LOW = 0x0b0,
    REG_SHM_BASE_HIGH = 0x0bc,
    REG_CONFIG_GENERATION = 0x0fc,
    REG_CONFIG = 0x100,
};

#define MAGIC     0x74726976 /* "virt" */
#define VENDOR_ID 0x1af4

typedef struct VirtioMmio {
    Device parent_obj;
    /* saved */
    uint32_t device_features_sel, driver_features_sel, queue_sel;
    /* from the board */
    IrqLine *irq;
    /* derived */
    MemoryRegion window, registers, notify;
    VirtioBus *bus;
} VirtioMmio;
#define VIRTIO_MMIO(obj) OBJECT_CHECK(VirtioMmio, obj, TYPE_VIRTIO_MMIO)

/* ---- interrupts ---- */

static void update_irq(VirtioMmio *s)
{
    VirtioDevice *vdev = s->bus->vdev;
    bool level = vdev && __atomic_load_n(&vdev->isr, __ATOMIC_ACQUIRE);
    TRACE(virtio_mmio_irq, level);
    irq_set(s->irq, level);
}

static void notify_queue(void *opaque, VirtQueue *vq)
{
    __atomic_fetch_or(&vq->vdev->isr, VIRTIO_ISR_QUEUE, __ATOMIC_ACQ_REL);
    update_irq(opaque);
}

static void notify_config(void *opaque)
{
    VirtioMmio *s = opaque;
    __atomic_fetch_or(&s->bus->vdev->isr, VIRTIO_ISR_CONFIG, __ATOMIC_ACQ_REL);
    update_irq(s);
}

/* The queue is told by its number (4.2.2). */
static void connect_queue(void *opaque, VirtQueue *vq, bool on)
{
    VirtioMmio *s = opaque;
    (on ? memory_region_add_eventfd : memory_region_del_eventfd)(&s->notify, 0, 4, true, vq->index,
                                                                 &vq->notifier);
}

static const VirtioTransportOps transport_ops = { .notify_queue = notify_queue,
                                                  .notify_config = notify_config,
                                                  .connect_queue = connect_queue };

/* ---- registers ---- */

static uint32_t read_register(VirtioMmio *s, VirtioDevice *vdev, hwaddr offset)
{
    VirtQueue *vq = virtio_get_queue(vdev, s->queue_sel);
    switch (offset) {
    case REG_DEVICE_FEATURES:
        return s->device_features_sel > 1
                   ? 0
                   : (uint32_t)(virtio_device_features(vdev) >> (32 * s->device_features_sel));
    case REG_QUEUE_NUM_MAX:
        return vq ? vq->max_size : 0;
    case REG_QUEUE_READY:
        return vq && vq->enabled;
    case REG_INTERRUPT_STATUS:
        return __atomic_load_n(&vdev->isr, __ATOMIC_ACQUIRE);
    case REG_STATUS:
        return virtio_get_status(vdev);
    case REG_CONFIG_GENERATION:
        return __atomic_load_n(&vdev->config_generation, __ATOMIC_RELAXED);
    }
    if (offset >= REG_SHM_LEN_LOW && offset <= REG_SHM_BASE_HIGH) {
        return UINT32_MAX; /* 4.2.2.1: no such region */
    }
    LOG(LOG_GUEST_ERROR, "virtio-mmio: read of register 0x%x", (unsigned)offset);
    return 0;
}

static uint64_t mmio_read(void *opaque, hwaddr offset, unsigned size)
{
    VirtioMmio *s = opaque;
    VirtioDevice *vdev = s->bus->vdev;
    uint32_t value;
    if (vdev && offset >= REG_CONFIG) {
        return virtio_config_read(vdev, offset - REG_CONFIG, size);
    }
    if (size != 4 || (offset & 3)) {
        LOG(LOG_GUEST_ERROR, "virtio-mmio: read of %u bytes at 0x%x", size, (unsigned)offset);
        return 0;
    }
    if (offset == REG_MAGIC) {
        value = MAGIC;
    } else if (offset == REG_VERSION) {
        value = 2;
    } else if (offset == REG_VENDOR_ID) {
        value = VENDOR_ID;
    } else if (offset == REG_DEVICE_ID) {
        value = vdev ? virtio_device_id(vdev) : 0;
    } else {
        value = vdev ? read_register(s, vdev, offset) : 0;
    }
    TRACE(virtio_mmio_read, (unsigned)offset, value);
    return value;
}

static void set_half(uint64_t *address, bool high, uint32_t value)
{
    *address =
        high ? (*address & UINT32_MAX) | (uint64_t)value << 32 : (*address & ~(uint64_t)UINT32_MAX) | value;
}

static void write_queue_register(VirtQueue *vq, hwaddr offset, uint32_t value)
{
    if (offset == REG_QUEUE_READY) {
        if (value & 1) {
            virtqueue_enable(vq);
        } else if (vq->in_use == 0) {
            virtqueue_reset(vq); /* 4.2.2.2: the driver takes the queue away */
        }
        return;
    }
    if (vq->enabled) {
        LOG(LOG_GUEST_ERROR, "virtio-mmio: register 0x%x of a live queue", (unsigned)offset);
        return;
    }
    switch (offset) {
    case REG_QUEUE_NUM:
        vq->size = (uint16_t)MIN(value, UINT16_MAX);
        break;
    case REG_QUEUE_DESC_LOW:
    case REG_QUEUE_DESC_HIGH:
        set_half(&vq->desc, offset == REG_QUEUE_DESC_HIGH, value);
        break;
    case REG_QUEUE_DRIVER_LOW:
    case REG_QUEUE_DRIVER_HIGH:
        set_half(&vq->driver, offset == REG_QUEUE_DRIVER_HIGH, value);
        break;
    case REG_QUEUE_DEVICE_LOW:
    case REG_QUEUE_DEVICE_HIGH:
        set_half(&vq->device, offset == REG_QUEUE_DEVICE_HIGH, value);
        break;
    }
}

static void write_register(VirtioMmio *s, VirtioDevice *vdev, hwaddr offset, uint32_t value)
{
    VirtQueue *vq = virtio_get_queue(vdev, s->queue_sel);
    switch (offset) {
    case REG_DEVICE_FEATURES_SEL:
        s->device_features_sel = value;
        break;
    case REG_DRIVER_FEATURES:
        virtio_set_driver_features(vdev, s->driver_features_sel, value);
        break;
    case REG_DRIVER_FEATURES_SEL:
        s->driver_features_sel = value;
        break;
    case REG_QUEUE_SEL:
        s->queue_sel = value;
        break;
    case REG_INTERRUPT_ACK:
        __atomic_fetch_and(&vdev->isr, (uint8_t)~value, __ATOMIC_ACQ_REL);
        update_irq(s);
        break;
    case REG_STATUS:
        virtio_set_status(vdev, (uint8_t)value);
        update_irq(s);
        break;
    case REG_QUEUE_NUM:
    case REG_QUEUE_READY:
    case REG_QUEUE_DESC_LOW:
    case REG_QUEUE_DESC_HIGH:
    case REG_QUEUE_DRIVER_LOW:
    case REG_QUEUE_DRIVER_HIGH:
    case REG_QUEUE_DEVICE_LOW:
    case REG_QUEUE_DEVICE_HIGH:
        if (vq) {
            write_queue_register(vq, offset, value);
        }
        break;
    default:
        LOG(LOG_GUEST_ERROR, "virtio-mmio: write of register 0x%x", (unsigned)offset);
    }
}

static void mmio_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    VirtioMmio *s = opaque;
    VirtioDevice *vdev = s->bus->vdev;
    TRACE(virtio_mmio_write, (unsigned)offset, (unsigned)value);
    if (!vdev) {
        return;
    }
    if (offset >= REG_CONFIG) {
        virtio_config_write(vdev, offset - REG_CONFIG, value, size);
    } else if (size == 4 && !(offset & 3)) {
        write_register(s, vdev, offset, (uint32_t)value);
    } else {
        LOG(LOG_GUEST_ERROR, "virtio-mmio: write of %u bytes at 0x%x", size, (unsigned)offset);
    }
}

static const MemoryRegionOps mmio_ops = {
    .read = mmio_read,
    .write = mmio_write,
    .valid = { .min = 1, .max = 8 },
    .impl = { .min = 1, .max = 4 },
};

static uint64_t notify_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0;
}

/* No lock: in the vCPU's thread, and it only rings. */
static void notify_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    VirtioMmio *s = opaque;
    virtio_bus_ring(s->bus, (uint32_t)value);
}

static const MemoryRegionOps notify_ops = {
    .read = notify_read,
    .write = notify_write,
    .valid = { .min = 4, .max = 4 },
    .impl = { .min = 4, .max = 4 },
};

/* ---- life ---- */

void virtio_mmio_set_irq(Device *dev, IrqLine *irq)
{
    VIRTIO_MMIO(dev)->irq = irq;
}

MemoryRegion *virtio_mmio_region(Device *dev)
{
    return &VIRTIO_MMIO(dev)->window;
}

static bool virtio_mmio_realize(Device *dev, GError **error)
{
    VirtioMmio *s = VIRTIO_MMIO(dev);
    /* With a reference of its own: the core lets the bus go while registers can still be reached. */
    s->bus = VIRTIO_BUS(object_ref(OBJECT(bus_new(TYPE_VIRTIO_MMIO_BUS, dev, NULL, dev->env))));
    s->bus->ops = &transport_ops;
    s->bus->opaque = s;
    s->bus->home = &dev->lock;
    s->bus->dma_as = dev->env->memory;
    memory_region_init(&s->window, dev, "virtio-mmio", VIRTIO_MMIO_SIZE);
    memory_region_init_io(&s->registers, dev, &mmio_ops, s, "virtio-mmio-registers", VIRTIO_MMIO_SIZE,
                          &dev->lock);
    memory_region_init_io(&s->notify, dev, &notify_ops, s, "virtio-mmio-notify", 4, NULL);
    memory_region_add(&s->window, 0, &s->registers);
    memory_region_add_overlap(&s->window, REG_QUEUE_NOTIFY, &s->notify, 1);
    return true;
}

static void virtio_mmio_unrealize(Device *dev)
{
    VirtioMmio *s = VIRTIO_MMIO(dev);
    memory_region_destroy(&s->window);
    memory_region_destroy(&s->notify);
    memory_region_destroy(&s->registers);
    object_unref(OBJECT(s->bus));
    s->bus = NULL;
}

static void virtio_mmio_reset(Device *dev)
{
    VirtioMmio *s = VIRTIO_MMIO(dev);
    s->device_features_sel = s->driver_features_sel = s->queue_sel = 0;
    if (s->bus->vdev) {
        virtio_device_power_reset(s->bus->vdev);
    }
    update_irq(s);
}

static const VmStateField virtio_mmio_fields[] = {
    VMS_UINT32(device_features_sel, VirtioMmio),
    VMS_UINT32(driver_features_sel, VirtioMmio),
    VMS_UINT32(queue_sel, VirtioMmio),
    VMS_END,
};
static const VmState virtio_mmio_vmstate = { .name = "virtio-mmio",
                                             .version = 1,
                                             .fields = virtio_mmio_fields };

static void virtio_mmio_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->user_creatable = false; /* the board has them */
    dc->category = "Misc";
    dc->vmstate = &virtio_mmio_vmstate;
    dc->realize = virtio_mmio_realize;
    dc->unrealize = virtio_mmio_unrealize;
    dc->reset = virtio_mmio_reset;
}

static const TypeInfo virtio_mmio_info = {
    .name = TYPE_VIRTIO_MMIO,
    .parent = TYPE_DEVICE,
    .description = "virtio over MMIO",
    .instance_size = sizeof(VirtioMmio),
    .class_init = virtio_mmio_class_init,
};
TYPE_REGISTER(virtio_mmio_info);

static const TypeInfo virtio_mmio_bus_info = { .name = TYPE_VIRTIO_MMIO_BUS, .parent = TYPE_VIRTIO_BUS };
TYPE_REGISTER(virtio_mmio_bus_info);
