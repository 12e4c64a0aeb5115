/*
 * Virtio over PCI: the functions "virtio-blk-pci" and so on, each with its virtio device as child
 * "virtio-backend". Source: VIRTIO 1.2, section 4.1. This file is the modern interface; virtio_pci_legacy.c
 * is the legacy one.
 *
 * BAR 0 has the legacy registers, BAR 1 the MSI-X table, BAR 4 (64 bit, 16 KiB) common configuration,
 * interrupt status, device configuration and notifications, 4 KiB each; a subclass may lay that out in
 * another way. Left out: shared memory, SR-IOV.
 *
 * All registers are under the function's HomeLock, which the virtio device borrows, but for notifications:
 * they only ring a queue's notifier, whose handler runs in the queue's loop. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "hw/virtio/virtio_pci.h"

#include "base/error.h"
#include "base/log.h"
#include "hw/virtio/virtio_pci_internal.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(virtio_pci_common_read, "%s offset 0x%x size %u value 0x%x")
TRACE_EVENT(virtio_pci_common_write, "%s offset 0x%x size %u value 0x%x")
TRACE_EVENT(virtio_pci_irq, "%s isr 0x%x vector 0x%x")

#define TYPE_VIRTIO_PCI_BUS "virtio-pci-bus"

/* Common configuration (4.1.4.3). */
enum {
    COMMON_DEVICE_FEATURE_SELECT = 0x00,
    COMMON_DEVICE_FEATURE = 0x04,
    COMMON_DRIVER_FEATURE_SELECT = 0x08,
    COMMON_DRIVER_FEATURE = 0x0c,
    COMMON_CONFIG_VECTOR = 0x10,
    COMMON_NUM_QUEUES = 0x12,
    COMMON_STATUS = 0x14,
    COMMON_GENERATION = 0x15,
    COMMON_QUEUE_SELECT = 0x16,
    COMMON_QUEUE_SIZE = 0x18,
    COMMON_QUEUE_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY_OFF = 0x1e,
    COMMON_QUEUE_DESC = 0x20,
    COMMON_QUEUE_DRIVER = 0x28,
    COMMON_QUEUE_DEVICE = 0x30,
    COMMON_SIZE = 0x38,
};

/* Capabilities (4.1.4): types and the layout of BAR 4. */
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI = 5 };
enum { CAP_TYPE = 3, CAP_BAR = 4, CAP_OFFSET = 8, CAP_LENGTH = 12, CAP_SIZE = 16, CAP_EXTRA = 16 };

#define PART_SIZE         0x1000
#define DEVICE_AT         0x2000
#define NOTIFY_AT         0x3000
#define BAR_SIZE          0x4000
#define NOTIFY_MULTIPLIER 4
#define MAX_VECTORS       2048

#define VENDOR_ID           0x1af4
#define DEVICE_ID_MODERN    0x1040
#define SUBSYSTEM_ID_MODERN 0x1100

typedef struct VirtioPciClass {
    PciDeviceClass parent_class;
    const VirtioPciKind *kind;
} VirtioPciClass;

static const VirtioPciLayout usual_layout = {
    .bar = 4, .msix_bar = 1, .common_at = 0, .isr_at = 0x1000, .low_size = PART_SIZE
};

static const VirtioPciLayout *layout_of(const VirtioPci *s)
{
    const VirtioPciLayout *layout = ((VirtioPciClass *)OBJECT(s)->klass)->kind->layout;
    return layout ? layout : &usual_layout;
}

static const char *name_of(const VirtioPci *s)
{
    return object_get_typename(OBJECT(s));
}

/* ---- interrupts ---- */

static void interrupt(VirtioPci *s, uint8_t isr, uint16_t vector)
{
    PciDevice *pci = PCI_DEVICE(s);
    TRACE(virtio_pci_irq, name_of(s), isr, vector);
    if (pci_msix_enabled(pci)) {
        if (vector != VIRTIO_NO_VECTOR) {
            pci_msix_notify(pci, vector);
        }
        return;
    }
    __atomic_fetch_or(&s->vdev->isr, isr, __ATOMIC_ACQ_REL);
    pci_set_irq(pci, true);
}

static void notify_queue(void *opaque, VirtQueue *vq)
{
    interrupt(opaque, VIRTIO_ISR_QUEUE, vq->vector);
}

static void notify_config(void *opaque)
{
    VirtioPci *s = opaque;
    interrupt(s, VIRTIO_ISR_CONFIG, s->vdev->config_vector);
}

/* The queue is told by the address (4.1.4.4), whatever is written there. */
static void connect_queue(void *opaque, VirtQueue *vq, bool on)
{
    VirtioPci *s = opaque;
    if (s->ioeventfd) {
        (on ? memory_region_add_eventfd : memory_region_del_eventfd)(
            &s->notify, vq->index * NOTIFY_MULTIPLIER, 0, false, 0, &vq->notifier);
    }
}

static const VirtioTransportOps transport_ops = { .notify_queue = notify_queue,
                                                  .notify_config = notify_config,
                                                  .connect_queue = connect_queue };

/* ---- common configuration ---- */

static uint64_t common_get(VirtioPci *s, VirtioDevice *vdev, hwaddr offset)
{
    VirtQueue *vq = virtio_get_queue(vdev, s->queue_select);
    switch (offset) {
    case COMMON_DEVICE_FEATURE_SELECT:
        return s->device_feature_select;
    case COMMON_DEVICE_FEATURE:
        return s->device_feature_select > 1
                   ? 0
                   : (uint32_t)(virtio_device_features(vdev) >> (32 * s->device_feature_select));
    case COMMON_DRIVER_FEATURE_SELECT:
        return s->driver_feature_select;
    case COMMON_DRIVER_FEATURE:
        return s->driver_feature_select > 1
                   ? 0
                   : (uint32_t)(vdev->driver_features >> (32 * s->driver_feature_select));
    case COMMON_CONFIG_VECTOR:
        return vdev->config_vector;
    case COMMON_NUM_QUEUES:
        return vdev->queue_count;
    case COMMON_STATUS:
        return virtio_get_status(vdev);
    case COMMON_GENERATION:
        return (uint8_t)__atomic_load_n(&vdev->config_generation, __ATOMIC_RELAXED);
    case COMMON_QUEUE_SELECT:
        return s->queue_select;
    case COMMON_QUEUE_SIZE:
        return vq ? vq->size : 0;
    case COMMON_QUEUE_VECTOR:
        return vq ? vq->vector : VIRTIO_NO_VECTOR;
    case COMMON_QUEUE_ENABLE:
        return vq && vq->enabled;
    case COMMON_QUEUE_NOTIFY_OFF:
        return vq ? vq->index : 0;
    case COMMON_QUEUE_DESC:
        return vq ? vq->desc : 0;
    case COMMON_QUEUE_DRIVER:
        return vq ? vq->driver : 0;
    case COMMON_QUEUE_DEVICE:
        return vq ? vq->device : 0;
    }
    return 0;
}

/* Where the field that holds a byte begins, and its size. */
static hwaddr field_start(hwaddr offset, unsigned *size)
{
    if (offset < COMMON_CONFIG_VECTOR) {
        *size = 4;
    } else if (offset == COMMON_STATUS || offset == COMMON_GENERATION) {
        *size = 1;
    } else if (offset < COMMON_QUEUE_DESC) {
        *size = 2;
    } else {
        *size = 8;
    }
    return offset & ~(hwaddr)(*size - 1);
}

static uint64_t common_read(void *opaque, hwaddr offset, unsigned size)
{
    VirtioPci *s = opaque;
    VirtioDevice *vdev = s->bus->vdev;
    uint64_t value = 0;
    for (unsigned done = 0; vdev && done < size && offset + done < COMMON_SIZE;) {
        unsigned field_size;
        hwaddr at = offset + done, start = field_start(at, &field_size);
        unsigned skip = (unsigned)(at - start), part = MIN(field_size - skip, size - done);
        uint64_t bits = common_get(s, vdev, start) >> (8 * skip);
        if (part < 8) {
            bits &= (1ull << (8 * part)) - 1;
        }
        value |= bits << (8 * done);
        done += part;
    }
    TRACE(virtio_pci_common_read, name_of(s), (unsigned)offset, size, (unsigned)value);
    return value;
}

uint16_t virtio_pci_checked_vector(VirtioPci *s, uint64_t value)
{
    return value < s->vector_count ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static void set_address(uint64_t *address, hwaddr offset, uint64_t value, unsigned size)
{
    if (size == 8) {
        *address = value;
    } else if (offset & 4) {
        *address = (*address & UINT32_MAX) | value << 32;
    } else {
        *address = (*address & ~(uint64_t)UINT32_MAX) | (uint32_t)value;
    }
}

static void queue_set(VirtioPci *s, VirtQueue *vq, hwaddr offset, uint64_t value, unsigned size)
{
    if (offset == COMMON_QUEUE_VECTOR) {
        vq->vector = virtio_pci_checked_vector(s, value);
        return;
    }
    if (offset == COMMON_QUEUE_ENABLE) {
        if (value == 1) {
            virtqueue_enable(vq);
        }
        return;
    }
    if (vq->enabled) {
        LOG(LOG_GUEST_ERROR, "%s: register 0x%x of a live queue", name_of(s), (unsigned)offset);
        return;
    }
    switch (offset & ~(hwaddr)7) {
    case COMMON_QUEUE_SIZE & ~7:
        if (offset == COMMON_QUEUE_SIZE) {
            vq->size = (uint16_t)value;
        }
        break;
    case COMMON_QUEUE_DESC:
        set_address(&vq->desc, offset, value, size);
        break;
    case COMMON_QUEUE_DRIVER:
        set_address(&vq->driver, offset, value, size);
        break;
    case COMMON_QUEUE_DEVICE:
        set_address(&vq->device, offset, value, size);
        break;
    }
}

static void common_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    VirtioPci *s = opaque;
    VirtioDevice *vdev = s->bus->vdev;
    unsigned field_size;
    TRACE(virtio_pci_common_write, name_of(s), (unsigned)offset, size, (unsigned)value);
    if (!vdev || offset >= COMMON_SIZE) {
        return;
    }
    hwaddr start = field_start(offset, &field_size);
    /* 4.1.3.1: accesses have the field's own width; halves of 64 bit fields are fine. */
    if (!(size == field_size && offset == start) && !(field_size == 8 && size == 4 && !(offset & 3))) {
        LOG(LOG_GUEST_ERROR, "%s: write of %u bytes at 0x%x", name_of(s), size, (unsigned)offset);
        return;
    }
    switch (offset) {
    case COMMON_DEVICE_FEATURE_SELECT:
        s->device_feature_select = (uint32_t)value;
        break;
    case COMMON_DRIVER_FEATURE_SELECT:
        s->driver_feature_select = (uint32_t)value;
        break;
    case COMMON_DRIVER_FEATURE:
        virtio_set_driver_features(vdev, s->driver_feature_select, (uint32_t)value);
        break;
    case COMMON_CONFIG_VECTOR:
        vdev->config_vector = virtio_pci_checked_vector(s, value);
        break;
    case COMMON_STATUS:
        virtio_set_status(vdev, (uint8_t)value);
        if (value == 0) {
            pci_set_irq(PCI_DEVICE(s), false);
        }
        break;
    case COMMON_QUEUE_SELECT:
        s->queue_select = (uint16_t)value;
        break;
    case COMMON_DEVICE_FEATURE:
    case COMMON_NUM_QUEUES:
    case COMMON_GENERATION:
    case COMMON_QUEUE_NOTIFY_OFF:
        break; /* read-only */
    default: {
        VirtQueue *vq = virtio_get_queue(vdev, s->queue_select);
        if (vq) {
            queue_set(s, vq, offset, value, size);
        }
    }
    }
}

static const MemoryRegionOps common_ops = {
    .read = common_read,
    .write = common_write,
    .valid = { .min = 1, .max = 8 },
    .impl = { .min = 1, .max = 8 },
};

/* ---- interrupt status, device configuration, notifications ---- */

uint8_t virtio_pci_take_isr(VirtioPci *s)
{
    uint8_t isr = virtio_take_isr(s->vdev);
    pci_set_irq(PCI_DEVICE(s), false);
    return isr;
}

static uint64_t isr_read(void *opaque, hwaddr offset, unsigned size)
{
    VirtioPci *s = opaque;
    return offset || !s->bus->vdev ? 0 : virtio_pci_take_isr(s);
}

static void isr_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
}

static const MemoryRegionOps isr_ops = {
    .read = isr_read,
    .write = isr_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

static uint64_t device_read(void *opaque, hwaddr offset, unsigned size)
{
    VirtioPci *s = opaque;
    return s->bus->vdev ? virtio_config_read(s->bus->vdev, offset, size) : 0;
}

static void device_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    VirtioPci *s = opaque;
    if (s->bus->vdev) {
        virtio_config_write(s->bus->vdev, offset, value, size);
    }
}

static const MemoryRegionOps device_ops = {
    .read = device_read,
    .write = device_write,
    .valid = { .min = 1, .max = 8 },
    .impl = { .min = 1, .max = 8 },
};

static uint64_t notify_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0;
}

/* No lock: in the vCPU's thread, and it only rings. The queue is told by the address (4.1.4.4). */
static void notify_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    VirtioPci *s = opaque;
    virtio_bus_ring(s->bus, (unsigned)(offset / NOTIFY_MULTIPLIER));
}

static const MemoryRegionOps notify_ops = {
    .read = notify_read,
    .write = notify_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

/* ---- configuration access capability (4.1.4.9): BAR 4 through configuration space ---- */

/* What is at an offset of the BAR, which becomes one within it; NULL: nothing. */
static const MemoryRegionOps *part_at(const VirtioPci *s, uint32_t *offset)
{
    const VirtioPciLayout *l = layout_of(s);
    const struct {
        uint32_t at, size;
        const MemoryRegionOps *ops;
    } parts[] = {
        { l->common_at, l->low_size, &common_ops },
        { l->isr_at, l->low_size, &isr_ops },
        { DEVICE_AT, PART_SIZE, &device_ops },
        { NOTIFY_AT, PART_SIZE, &notify_ops },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
        if (*offset - parts[i].at < parts[i].size) {
            *offset -= parts[i].at;
            return parts[i].ops;
        }
    }
    return NULL;
}

/* The window as the guest has set it up; false where it does not point at one of virtio's structures. */
static bool window(VirtioPci *s, const MemoryRegionOps **ops, uint32_t *offset, unsigned *size)
{
    const uint8_t *cap = PCI_DEVICE(s)->config + s->pci_cap;
    *offset = pci_get_long(cap + CAP_OFFSET);
    uint32_t length = pci_get_long(cap + CAP_LENGTH);
    if (cap[CAP_BAR] != layout_of(s)->bar || (length != 1 && length != 2 && length != 4) ||
        (*offset & (length - 1))) {
        return false;
    }
    *ops = part_at(s, offset);
    *size = length;
    return *ops != NULL;
}

static bool touches_window(const VirtioPci *s, uint32_t address, unsigned size)
{
    uint32_t data = s->pci_cap + CAP_EXTRA;
    return s->pci_cap && address < data + 4u && address + size > data;
}

static uint32_t virtio_pci_config_read(PciDevice *pci, uint32_t address, unsigned size)
{
    VirtioPci *s = VIRTIO_PCI(pci);
    const MemoryRegionOps *ops;
    uint32_t offset;
    unsigned length;
    if (touches_window(s, address, size) && window(s, &ops, &offset, &length)) {
        pci_set_long(pci->config + s->pci_cap + CAP_EXTRA, (uint32_t)ops->read(s, offset, length));
    }
    return pci_default_config_read(pci, address, size);
}

static void virtio_pci_config_write(PciDevice *pci, uint32_t address, uint32_t value, unsigned size)
{
    VirtioPci *s = VIRTIO_PCI(pci);
    const MemoryRegionOps *ops;
    uint32_t offset;
    unsigned length;
    pci_default_config_write(pci, address, value, size);
    if (touches_window(s, address, size) && window(s, &ops, &offset, &length)) {
        uint32_t data = pci_get_long(pci->config + s->pci_cap + CAP_EXTRA);
        ops->write(s, offset, length == 4 ? data : data & ((1u << (8 * length)) - 1), length);
    }
}

static uint8_t add_cap(VirtioPci *s, uint8_t type, uint32_t offset, uint32_t length, uint8_t size,
                       GError **error)
{
    PciDevice *pci = PCI_DEVICE(s);
    uint8_t at = pci_add_capability(pci, PCI_CAP_VENDOR, 0, size, error);
    if (at) {
        uint8_t *cap = pci->config + at;
        cap[2] = size;
        cap[CAP_TYPE] = type;
        cap[CAP_BAR] = type == CAP_PCI ? 0 : layout_of(s)->bar;
        pci_set_long(cap + CAP_OFFSET, offset);
        pci_set_long(cap + CAP_LENGTH, length);
    }
    return at;
}

static bool add_caps(VirtioPci *s, GError **error)
{
    PciDevice *pci = PCI_DEVICE(s);
    const VirtioPciLayout *l = layout_of(s);
    uint8_t notify;
    if (!add_cap(s, CAP_COMMON, l->common_at, l->low_size, CAP_SIZE, error) ||
        !add_cap(s, CAP_ISR, l->isr_at, l->low_size, CAP_SIZE, error) ||
        !add_cap(s, CAP_DEVICE, DEVICE_AT, PART_SIZE, CAP_SIZE, error) ||
        !(notify = add_cap(s, CAP_NOTIFY, NOTIFY_AT, PART_SIZE, CAP_SIZE + 4, error)) ||
        !(s->pci_cap = add_cap(s, CAP_PCI, 0, 0, CAP_SIZE + 4, error))) {
        return false;
    }
    pci_set_long(pci->config + notify + CAP_EXTRA, NOTIFY_MULTIPLIER);
    pci->wmask[s->pci_cap + CAP_BAR] = 0xff;
    pci_set_long(pci->wmask + s->pci_cap + CAP_OFFSET, UINT32_MAX);
    pci_set_long(pci->wmask + s->pci_cap + CAP_LENGTH, UINT32_MAX);
    pci_set_long(pci->wmask + s->pci_cap + CAP_EXTRA, UINT32_MAX);
    return true;
}

/* ---- life ---- */

static bool init_msix(VirtioPci *s, GError **error)
{
    PciDevice *pci = PCI_DEVICE(s);
    bool chosen = s->vectors != UINT32_MAX;
    unsigned vectors = chosen ? s->vectors : MIN(s->vdev->queue_count + 1, MAX_VECTORS);
    g_autoptr(GError) local = NULL;
    if (vectors == 0) {
        return true;
    }
    if (vectors > MAX_VECTORS) {
        return error_set(error, "Property 'vectors' is %u, at most %u are possible", vectors, MAX_VECTORS);
    }
    if (pci_msix_init_exclusive(pci, vectors, layout_of(s)->msix_bar, &local)) {
        s->vector_count = vectors;
        return true;
    }
    if (chosen) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    return true; /* INTx serves as well */
}

static void init_regions(VirtioPci *s)
{
    HomeLock *lock = &DEVICE(s)->lock;
    const VirtioPciLayout *l = layout_of(s);
    memory_region_init(&s->bar, s, "virtio-pci", BAR_SIZE);
    memory_region_init_io(&s->common, s, &common_ops, s, "virtio-pci-common", l->low_size, lock);
    memory_region_init_io(&s->isr, s, &isr_ops, s, "virtio-pci-isr", l->low_size, lock);
    memory_region_init_io(&s->device, s, &device_ops, s, "virtio-pci-device", PART_SIZE, lock);
    memory_region_init_io(&s->notify, s, &notify_ops, s, "virtio-pci-notify", PART_SIZE, NULL);
    memory_region_add(&s->bar, l->common_at, &s->common);
    memory_region_add(&s->bar, l->isr_at, &s->isr);
    memory_region_add(&s->bar, DEVICE_AT, &s->device);
    memory_region_add(&s->bar, NOTIFY_AT, &s->notify);
}

static void destroy_regions(VirtioPci *s)
{
    memory_region_destroy(&s->bar);
    memory_region_destroy(&s->common);
    memory_region_destroy(&s->isr);
    memory_region_destroy(&s->device);
    memory_region_destroy(&s->notify);
}

static const char *const on_off_auto_names[] = { "auto", "on", "off" };
static const EnumLookup on_off_auto_lookup = { "OnOffAuto", on_off_auto_names, 3 };

/* Which interfaces it has; as QEMU decides where nothing is said: no legacy one below a PCI Express port,
 * where there may be no I/O ports. */
static bool choose_interfaces(VirtioPci *s, GError **error)
{
    const VirtioPciKind *kind = ((VirtioPciClass *)OBJECT(s)->klass)->kind;
    PciBus *bus = PCI_BUS(DEVICE(s)->bus);
    bool below_port = pci_bus_is_express(bus) && !pci_bus_is_root(bus);
    s->modern = !s->disable_modern;
    s->legacy = s->disable_legacy == LEGACY_OFF ||
                (s->disable_legacy == LEGACY_AUTO && kind->transitional_id && !below_port);
    if (s->legacy && !kind->transitional_id) {
        return error_set(error, "Device '%s' has no legacy interface: use 'disable-legacy=on'", name_of(s));
    }
    if (!s->modern && !s->legacy) {
        return error_set(error,
                         "Device '%s' cannot work with 'disable-modern=on': it has no legacy interface",
                         name_of(s));
    }
    if (s->legacy) {
        pci_set_word(PCI_DEVICE(s)->config + PCI_DEVICE_ID, kind->transitional_id);
        pci_set_word(PCI_DEVICE(s)->config + PCI_SUBSYSTEM_ID, kind->virtio_id);
        PCI_DEVICE(s)->config[PCI_REVISION_ID] = 0;
    }
    return true;
}

bool virtio_pci_realize(PciDevice *pci, GError **error)
{
    VirtioPci *s = VIRTIO_PCI(pci);
    if (!pci->dma_as) {
        return error_set(error, "Device '%s' has no memory to work on", name_of(s));
    }
    if (!choose_interfaces(s, error)) {
        return false;
    }
    /* With a reference of its own: the core lets the bus go while registers can still be reached. */
    s->bus =
        VIRTIO_BUS(object_ref(OBJECT(bus_new(TYPE_VIRTIO_PCI_BUS, DEVICE(s), "virtio-bus", DEVICE(s)->env))));
    s->bus->ops = &transport_ops;
    s->bus->opaque = s;
    s->bus->home = &DEVICE(s)->lock;
    s->bus->dma_as = pci->dma_as;
    s->bus->legacy = s->legacy;
    init_regions(s); /* the device connects its queues */
    if (!device_realize(DEVICE(s->vdev), BUS(s->bus), NULL, error)) {
        destroy_regions(s);
        object_unref(OBJECT(s->bus));
        s->bus = NULL;
        return false;
    }
    pci->config[PCI_INTERRUPT_PIN] = 1;
    if ((s->modern && !add_caps(s, error)) || !init_msix(s, error)) {
        device_unrealize(DEVICE(s->vdev));
        destroy_regions(s);
        object_unref(OBJECT(s->bus));
        s->bus = NULL;
        return false;
    }
    if (s->modern) {
        pci_register_bar(pci, layout_of(s)->bar, PCI_BAR_MEM64 | PCI_BAR_PREFETCH, &s->bar);
    }
    if (s->legacy) {
        virtio_pci_legacy_init(s);
    }
    return true;
}

void virtio_pci_unrealize(PciDevice *pci)
{
    VirtioPci *s = VIRTIO_PCI(pci);
    destroy_regions(s);
    if (s->legacy) {
        virtio_pci_legacy_destroy(s);
    }
    object_unref(OBJECT(s->bus));
    s->bus = NULL;
    s->pci_cap = 0;
    s->vector_count = 0;
}

void virtio_pci_reset(Device *dev)
{
    VirtioPci *s = VIRTIO_PCI(dev);
    pci_device_reset(dev);
    s->device_feature_select = s->driver_feature_select = 0;
    s->queue_select = 0;
    if (s->pci_cap) {
        uint8_t *cap = PCI_DEVICE(s)->config + s->pci_cap;
        cap[CAP_BAR] = 0;
        memset(cap + CAP_OFFSET, 0, CAP_SIZE + 4 - CAP_OFFSET);
    }
    if (s->bus->vdev) {
        virtio_device_power_reset(s->bus->vdev);
    }
}

static VirtioDevice *backend_of(Object *proxy)
{
    return ((VirtioPci *)proxy)->vdev;
}

void virtio_pci_instance_init(Object *obj)
{
    VirtioPci *s = (VirtioPci *)obj;
    VirtioPciClass *klass = (VirtioPciClass *)obj->klass;
    Object *backend = object_new_known(klass->kind->backend);
    s->vdev = VIRTIO_DEVICE(backend);
    object_property_add_child(obj, "virtio-backend", backend, NULL);
}

void virtio_pci_instance_finalize(Object *obj)
{
    object_unref(
        OBJECT(((VirtioPci *)obj)->vdev)); /* that of instance_init: the tree may have let it go already */
}

static const Property virtio_pci_properties[] = {
    PROP_UINT32("vectors", VirtioPci, vectors, UINT32_MAX,
                "MSI-X vectors (default: one per queue and one more; 0: INTx)"),
    PROP_ENUM("disable-legacy", VirtioPci, disable_legacy, on_off_auto_lookup, LEGACY_AUTO,
              "no legacy interface (auto: there is one, but below PCI Express ports)"),
    PROP_BOOL("disable-modern", VirtioPci, disable_modern, false, "no modern interface"),
    PROP_BOOL("ioeventfd", VirtioPci, ioeventfd, true,
              "an accelerator that can (KVM) rings queues without leaving the guest"),
    PROP_END,
};

static const VmStateField virtio_pci_fields[] = {
    VMS_STRUCT(parent_obj, VirtioPci, pci_device_vmstate),
    VMS_UINT32(device_feature_select, VirtioPci),
    VMS_UINT32(driver_feature_select, VirtioPci),
    VMS_UINT16(queue_select, VirtioPci),
    VMS_END,
};
const VmState virtio_pci_vmstate = { .name = "virtio-pci", .version = 1, .fields = virtio_pci_fields };

static void virtio_pci_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    dc->vmstate = &virtio_pci_vmstate;
    dc->reset = virtio_pci_reset;
    dc->hotpluggable = true;
    pc->vendor_id = VENDOR_ID;
    pc->subsystem_vendor_id = VENDOR_ID;
    pc->subsystem_id = SUBSYSTEM_ID_MODERN;
    pc->revision = 1;
    pc->realize = virtio_pci_realize;
    pc->unrealize = virtio_pci_unrealize;
    pc->config_read = virtio_pci_config_read;
    pc->config_write = virtio_pci_config_write;
    object_class_add_properties(klass, virtio_pci_properties);
}

static const TypeInfo virtio_pci_info = {
    .name = TYPE_VIRTIO_PCI,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(VirtioPci),
    .class_size = sizeof(VirtioPciClass),
    .abstract = true,
    .class_init = virtio_pci_class_init,
};
TYPE_REGISTER(virtio_pci_info);

static const TypeInfo virtio_pci_bus_info = { .name = TYPE_VIRTIO_PCI_BUS, .parent = TYPE_VIRTIO_BUS };
TYPE_REGISTER(virtio_pci_bus_info);

/* ---- the types ---- */

void virtio_pci_kind_class_init(ObjectClass *klass, const void *data)
{
    const VirtioPciKind *kind = data;
    ((VirtioPciClass *)klass)->kind = kind;
    PCI_DEVICE_CLASS(klass)->device_id = DEVICE_ID_MODERN + kind->virtio_id;
    PCI_DEVICE_CLASS(klass)->class_id = kind->class_id;
    DEVICE_CLASS(klass)->category = kind->category;
    if (kind->virtio_id == VIRTIO_ID_NET) {
        PCI_DEVICE_CLASS(klass)->default_rom = "efi-virtio.rom"; /* network boot */
    }
    virtio_proxy_class_add_backend_properties(klass, kind->backend, backend_of);
}

static void force_legacy(Object *obj)
{
    virtio_pci_instance_init(obj);
    ((VirtioPci *)obj)->disable_legacy = LEGACY_OFF;
}

static void force_modern(Object *obj)
{
    virtio_pci_instance_init(obj);
    ((VirtioPci *)obj)->disable_legacy = LEGACY_ON;
}

#define VIRTIO_PCI_NAME_(symbol, suffix, x, x_name, init)  \
    static const TypeInfo symbol = {                       \
        .name = "virtio-" x_name "-pci" suffix,            \
        .parent = TYPE_VIRTIO_PCI,                         \
        .class_init = virtio_pci_kind_class_init,          \
        .class_data = &x##_kind,                           \
        .instance_init = (init),                           \
        .instance_finalize = virtio_pci_instance_finalize, \
    };                                                     \
    TYPE_REGISTER(symbol)
/* "virtio-X-pci" and its other name "virtio-X-pci-non-transitional". */
#define VIRTIO_PCI_MODERN_TYPE(x, x_name, id, pci_class, transitional, category_name)                \
    static const VirtioPciKind x##_kind = { "virtio-" x_name "-device", id, pci_class, transitional, \
                                            category_name };                                         \
    VIRTIO_PCI_NAME_(x##_info, "", x, x_name, virtio_pci_instance_init);                             \
    VIRTIO_PCI_NAME_(x##_modern_info, "-non-transitional", x, x_name, force_modern)
/* With "virtio-X-pci-transitional", too. */
#define VIRTIO_PCI_TYPE(x, x_name, id, pci_class, transitional, category_name)     \
    VIRTIO_PCI_MODERN_TYPE(x, x_name, id, pci_class, transitional, category_name); \
    VIRTIO_PCI_NAME_(x##_legacy_info, "-transitional", x, x_name, force_legacy)

VIRTIO_PCI_TYPE(blk, "blk", VIRTIO_ID_BLOCK, 0x0100, 0x1001, "Storage");
VIRTIO_PCI_TYPE(net, "net", VIRTIO_ID_NET, 0x0200, 0x1000, "Network");
VIRTIO_PCI_TYPE(rng, "rng", VIRTIO_ID_ENTROPY, 0x00ff, 0x1005, "Misc");
VIRTIO_PCI_TYPE(serial, "serial", VIRTIO_ID_CONSOLE, 0x0780, 0x1003, "Input");
VIRTIO_PCI_TYPE(scsi, "scsi", VIRTIO_ID_SCSI, 0x0100, 0x1004, "Storage");
VIRTIO_PCI_TYPE(balloon, "balloon", VIRTIO_ID_BALLOON, 0x00ff, 0x1002, "Misc");
VIRTIO_PCI_MODERN_TYPE(vsock, "vsock", VIRTIO_ID_VSOCK, 0x0780, 0, "Misc");
VIRTIO_PCI_MODERN_TYPE(keyboard, "keyboard", VIRTIO_ID_INPUT, 0x0900, 0, "Input");
VIRTIO_PCI_MODERN_TYPE(mouse, "mouse", VIRTIO_ID_INPUT, 0x0902, 0, "Input");
VIRTIO_PCI_MODERN_TYPE(tablet, "tablet", VIRTIO_ID_INPUT, 0x0902, 0, "Input");
VIRTIO_PCI_MODERN_TYPE(gpu, "gpu", VIRTIO_ID_GPU, 0x0380, 0, "Display");
