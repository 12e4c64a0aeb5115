/*
 * What the two interfaces of virtio over PCI share. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_VIRTIO_VIRTIO_PCI_INTERNAL_H
#define RHEA_HW_VIRTIO_VIRTIO_PCI_INTERNAL_H

#include "hw/virtio/virtio_pci.h"

enum { LEGACY_AUTO, LEGACY_ON, LEGACY_OFF }; /* of disable-legacy */

/* A vector as the guest has written it; VIRTIO_NO_VECTOR where there is none of that number. */
uint16_t virtio_pci_checked_vector(VirtioPci *s, uint64_t value);
/* Reads and clears the interrupt status, and lowers INTx. */
uint8_t virtio_pci_take_isr(VirtioPci *s);

/* BAR 0; the virtio device is realized. */
void virtio_pci_legacy_init(VirtioPci *s);
void virtio_pci_legacy_destroy(VirtioPci *s);

#endif
