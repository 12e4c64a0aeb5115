/*
 * The legacy interface of virtio over PCI: registers in an I/O BAR, queues at page numbers. Sources: Virtio
 * PCI Card Specification 0.9.5, chapter 2; VIRTIO 1.2, sections 2.7.2 and 4.1.4.10.
 *
 * All registers are under the function's HomeLock, but for the notification, which only rings.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/log.h"
#include "hw/virtio/virtio_pci_internal.h"
#include "trace/trace.h"

TRACE_EVENT(virtio_pci_legacy_read, "%s offset 0x%x size %u value 0x%x")
TRACE_EVENT(virtio_pci_legacy_write, "%s offset 0x%x size %u value 0x%x")

enum {
    LEGACY_DEVICE_FEATURES = 0x00,
    LEGACY_DRIVER_FEATURES = 0x04,
    LEGACY_QUEUE_PFN = 0x08,
    LEGACY_QUEUE_SIZE = 0x0c,
    LEGACY_QUEUE_SELECT = 0x0e,
    LEGACY_QUEUE_NOTIFY = 0x10,
    LEGACY_STATUS = 0x12,
    LEGACY_ISR = 0x13,
    LEGACY_CONFIG_VECTOR =
        0x14, /* both only while MSI-X is on; else the device's configuration begins here */
    LEGACY_QUEUE_VECTOR = 0x16,
};
#define LEGACY_BAR 0
#define CONFIG_AT  0x14
#define MSIX_SIZE  4
#define PAGE_SHIFT 12
#define USED_ALIGN 4096u

static const char *name_of(const VirtioPci *s)
{
    return object_get_typename(OBJECT(s));
}

static hwaddr config_at(const VirtioPci *s)
{
    return CONFIG_AT + (pci_msix_enabled(PCI_DEVICE(s)) ? MSIX_SIZE : 0);
}

static uint32_t legacy_get(VirtioPci *s, VirtioDevice *vdev, hwaddr offset)
{
    VirtQueue *vq = virtio_get_queue(vdev, s->queue_select);
    switch (offset) {
    case LEGACY_DEVICE_FEATURES:
        return virtio_legacy_features(vdev);
    case LEGACY_DRIVER_FEATURES:
        return (uint32_t)vdev->driver_features;
    case LEGACY_QUEUE_PFN:
        return vq && vq->enabled ? (uint32_t)(vq->desc >> PAGE_SHIFT) : 0;
    case LEGACY_QUEUE_SIZE:
        return vq ? vq->max_size : 0;
    case LEGACY_QUEUE_SELECT:
        return s->queue_select;
    case LEGACY_STATUS:
        return virtio_legacy_get_status(vdev);
    case LEGACY_ISR:
        return virtio_pci_take_isr(s);
    case LEGACY_CONFIG_VECTOR:
        return vdev->config_vector;
    case LEGACY_QUEUE_VECTOR:
        return vq ? vq->vector : VIRTIO_NO_VECTOR;
    }
    return 0;
}

static uint64_t legacy_read(void *opaque, hwaddr offset, unsigned size)
{
    VirtioPci *s = opaque;
    VirtioDevice *vdev = s->bus->vdev;
    uint64_t value = 0;
    if (vdev && offset >= config_at(s)) {
        return virtio_config_read(vdev, offset - config_at(s), size);
    }
    if (vdev) {
        value = legacy_get(s, vdev, offset);
    }
    TRACE(virtio_pci_legacy_read, name_of(s), (unsigned)offset, size, (unsigned)value);
    return value;
}

/* The rings lie one behind the other from a page on (2.7.2), as large as the device says. */
static void set_pfn(VirtQueue *vq, uint32_t pfn)
{
    uint16_t vector = vq->vector;
    if (vq->enabled) {
        virtqueue_reset(vq);
        vq->vector = vector;
    }
    if (pfn == 0) {
        return;
    }
    vq->size = vq->max_size;
    vq->desc = (uint64_t)pfn << PAGE_SHIFT;
    vq->driver = vq->desc + 16ull * vq->size;
    vq->device = (vq->driver + 2ull * (3 + vq->size) + USED_ALIGN - 1) & ~(uint64_t)(USED_ALIGN - 1);
    virtqueue_enable(vq);
}

static void legacy_set(VirtioPci *s, VirtioDevice *vdev, hwaddr offset, uint32_t value)
{
    VirtQueue *vq = virtio_get_queue(vdev, s->queue_select);
    switch (offset) {
    case LEGACY_DRIVER_FEATURES:
        virtio_set_driver_features(vdev, 0, value);
        break;
    case LEGACY_QUEUE_PFN:
        if (vq) {
            set_pfn(vq, value);
        }
        break;
    case LEGACY_QUEUE_SELECT:
        s->queue_select = (uint16_t)value;
        break;
    case LEGACY_STATUS:
        virtio_legacy_set_status(vdev, (uint8_t)value);
        if (value == 0) {
            pci_set_irq(PCI_DEVICE(s), false);
        }
        break;
    case LEGACY_CONFIG_VECTOR:
        vdev->config_vector = virtio_pci_checked_vector(s, value);
        break;
    case LEGACY_QUEUE_VECTOR:
        if (vq) {
            vq->vector = virtio_pci_checked_vector(s, value);
        }
        break;
    default:
        LOG(LOG_GUEST_ERROR, "%s: write of legacy register 0x%x", name_of(s), (unsigned)offset);
    }
}

static void legacy_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    VirtioPci *s = opaque;
    VirtioDevice *vdev = s->bus->vdev;
    TRACE(virtio_pci_legacy_write, name_of(s), (unsigned)offset, size, (unsigned)value);
    if (!vdev) {
        return;
    }
    if (offset >= config_at(s)) {
        virtio_config_write(vdev, offset - config_at(s), value, size);
    } else {
        legacy_set(s, vdev, offset, (uint32_t)value);
    }
}

static const MemoryRegionOps legacy_ops = {
    .read = legacy_read,
    .write = legacy_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

static uint64_t notify_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0;
}

/* No lock: in the vCPU's thread, and it only rings. */
static void notify_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    virtio_bus_ring(((VirtioPci *)opaque)->bus, (unsigned)(value & UINT16_MAX));
}

static const MemoryRegionOps notify_ops = {
    .read = notify_read,
    .write = notify_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

void virtio_pci_legacy_init(VirtioPci *s)
{
    uint64_t size = 1;
    while (size < CONFIG_AT + MSIX_SIZE + s->vdev->config_size) {
        size *= 2;
    }
    memory_region_init(&s->legacy_bar, s, "virtio-pci-legacy", size);
    memory_region_init_io(&s->legacy_registers, s, &legacy_ops, s, "virtio-pci-legacy-registers", size,
                          &DEVICE(s)->lock);
    memory_region_init_io(&s->legacy_notify, s, &notify_ops, s, "virtio-pci-legacy-notify", 2, NULL);
    memory_region_add(&s->legacy_bar, 0, &s->legacy_registers);
    memory_region_add_overlap(&s->legacy_bar, LEGACY_QUEUE_NOTIFY, &s->legacy_notify, 1);
    pci_register_bar(PCI_DEVICE(s), LEGACY_BAR, PCI_BAR_IO, &s->legacy_bar);
}

void virtio_pci_legacy_destroy(VirtioPci *s)
{
    memory_region_destroy(&s->legacy_bar);
    memory_region_destroy(&s->legacy_notify);
    memory_region_destroy(&s->legacy_registers);
}
