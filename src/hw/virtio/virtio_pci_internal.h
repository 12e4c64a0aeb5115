/*
 * What the two interfaces of virtio over PCI share. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_VIRTIO_VIRTIO_PCI_INTERNAL_H
#define RHEA_HW_VIRTIO_VIRTIO_PCI_INTERNAL_H

#include "hw/pci/pci.h"
#include "hw/virtio/virtio_device.h"

#define TYPE_VIRTIO_PCI "virtio-pci"

enum { LEGACY_AUTO, LEGACY_ON, LEGACY_OFF }; /* of disable-legacy */

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

/* A vector as the guest has written it; VIRTIO_NO_VECTOR where there is none of that number. */
uint16_t virtio_pci_checked_vector(VirtioPci *s, uint64_t value);
/* Reads and clears the interrupt status, and lowers INTx. */
uint8_t virtio_pci_take_isr(VirtioPci *s);

/* BAR 0; the virtio device is realized. */
void virtio_pci_legacy_init(VirtioPci *s);
void virtio_pci_legacy_destroy(VirtioPci *s);

#endif
