/*
 * Virtio over PCI, for cards that are a virtio device and something else: see virtio_pci.c. Such a type is a
 * subclass of TYPE_VIRTIO_PCI with a kind of its own; its realize and reset call those from here.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_VIRTIO_VIRTIO_PCI_H
#define RHEA_HW_VIRTIO_VIRTIO_PCI_H

#include "hw/pci/pci.h"
#include "hw/virtio/virtio_device.h"

#define TYPE_VIRTIO_PCI "virtio-pci" /* abstract */

/* Where the structures are; device configuration and notifications lie at 0x2000 and 0x3000 of the BAR. */
typedef struct VirtioPciLayout {
    uint8_t bar, msix_bar;
    uint32_t common_at, isr_at;
    uint32_t low_size; /* of these two */
} VirtioPciLayout;

/* What makes the types differ: class_data. */
typedef struct VirtioPciKind {
    const char *backend;
    uint16_t virtio_id;
    uint16_t class_id;
    uint16_t transitional_id; /* 4.1.2.1; 0: there is no legacy interface for it */
    const char *category;
    const VirtioPciLayout *layout; /* NULL: as most have it */
} VirtioPciKind;

typedef struct VirtioPci {
    PciDevice parent_obj;
    /* saved */
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    /* from properties */
    uint32_t vectors;
    int disable_legacy;
    bool disable_modern;
    bool ioeventfd;
    /* derived */
    bool modern, legacy;   /* which interfaces there are */
    unsigned vector_count; /* 0: no MSI-X */
    uint8_t pci_cap;       /* offset of the configuration access capability */
    MemoryRegion bar, common, isr, device, notify;
    MemoryRegion legacy_bar, legacy_registers, legacy_notify;
    VirtioBus *bus;
    VirtioDevice *vdev; /* child "virtio-backend" */
} VirtioPci;
#define VIRTIO_PCI(obj) OBJECT_CHECK(VirtioPci, obj, TYPE_VIRTIO_PCI)

extern const VmState virtio_pci_vmstate;

/* For a subclass: class_init with its kind as data, then what it overrides; instance_init and
 * instance_finalize. */
void virtio_pci_kind_class_init(ObjectClass *klass, const void *data);
void virtio_pci_instance_init(Object *obj);
void virtio_pci_instance_finalize(Object *obj);
bool virtio_pci_realize(PciDevice *pci, GError **error);
void virtio_pci_unrealize(PciDevice *pci);
void virtio_pci_reset(Device *dev);

#endif
