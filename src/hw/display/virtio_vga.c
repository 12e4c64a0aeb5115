/*
 * "virtio-vga": a VGA that is virtio-gpu, too: firmware and boot loaders use the one, a driver the other.
 * Sources: those of vga.c and virtio_gpu.c; QEMU's documentation of the card's BARs, so that its VGA BIOS and
 * OVMF find them.
 *
 * BAR 0 is the VGA's memory; BAR 2 has the VGA's registers in its first page and virtio's structures behind
 * them; BAR 4 the MSI-X table. The VGA's picture is shown until the driver sets the first screen up, and
 * again when it lets go of it.
 *
 * Threads: as the two parts', under the one lock of the function. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/display/vga.h"
#include "hw/display/virtio_gpu.h"
#include "hw/virtio/virtio_pci.h"

#define TYPE_VIRTIO_VGA "virtio-vga"

typedef struct VirtioVga {
    VirtioPci parent_obj;
    VgaCore vga;
} VirtioVga;
#define VIRTIO_VGA(obj) OBJECT_CHECK(VirtioVga, obj, TYPE_VIRTIO_VGA)

static const VirtioPciLayout layout = {
    .bar = 2, .msix_bar = 4, .common_at = 0x1000, .isr_at = 0x1800, .low_size = 0x800
};
static const VirtioPciKind kind = {
    .backend = TYPE_VIRTIO_GPU,
    .virtio_id = VIRTIO_ID_GPU,
    .class_id = PCI_CLASS_DISPLAY_VGA,
    .category = "Display",
    .layout = &layout,
};

static void virtio_vga_reset(Device *dev)
{
    vga_core_reset(&VIRTIO_VGA(dev)->vga);
    virtio_pci_reset(dev); /* last: it drops the lock while requests in flight end */
}

static bool virtio_vga_realize(PciDevice *pci, GError **error)
{
    VirtioVga *s = VIRTIO_VGA(pci);
    virtio_gpu_set_fallback(s->parent_obj.vdev, &vga_console_ops, &s->vga);
    if (!virtio_pci_realize(pci, error)) {
        return false;
    }
    if (!vga_core_init(&s->vga, pci, &s->parent_obj.bar, error)) {
        device_unrealize(DEVICE(s->parent_obj.vdev));
        virtio_pci_unrealize(pci);
        return false;
    }
    return true;
}

static void virtio_vga_unrealize(PciDevice *pci)
{
    vga_core_destroy(&VIRTIO_VGA(pci)->vga);
    virtio_pci_unrealize(pci);
}

static const Property virtio_vga_properties[] = {
    PROP_UINT32("vgamem_mb", VirtioVga, vga.memory_mb, 8, "memory of the VGA in MiB, a power of two"),
    PROP_END,
};

static const VmStateField virtio_vga_fields[] = {
    VMS_STRUCT(parent_obj, VirtioVga, virtio_pci_vmstate),
    VMS_STRUCT(vga, VirtioVga, vga_core_vmstate),
    VMS_END,
};
static const VmState virtio_vga_vmstate = { .name = TYPE_VIRTIO_VGA,
                                            .version = 1,
                                            .fields = virtio_vga_fields };

static void virtio_vga_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    virtio_pci_kind_class_init(klass, data);
    pc->default_rom = "vgabios-virtio.bin";
    pc->default_rom_required = true;
    pc->realize = virtio_vga_realize;
    pc->unrealize = virtio_vga_unrealize;
    dc->reset = virtio_vga_reset;
    dc->vmstate = &virtio_vga_vmstate;
    dc->hotpluggable = false;
    object_class_add_properties(klass, virtio_vga_properties);
}

static const TypeInfo virtio_vga_info = {
    .name = TYPE_VIRTIO_VGA,
    .parent = TYPE_VIRTIO_PCI,
    .description = "VGA that is virtio graphics, too",
    .instance_size = sizeof(VirtioVga),
    .class_init = virtio_vga_class_init,
    .class_data = &kind,
    .instance_init = virtio_pci_instance_init,
    .instance_finalize = virtio_pci_instance_finalize,
};
TYPE_REGISTER(virtio_vga_info);
