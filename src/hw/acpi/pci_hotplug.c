/*
 * ACPI hot-plug of PCI functions: see pci_hotplug.h.
 *
 * Left out on purpose: buses behind bridges, the index of acpi-index.
 *
 * Threads: registers in vCPUs' threads under the owner's HomeLock; functions come and go in the main loop.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/acpi/pci_hotplug.h"

#include "base/error.h"
#include "trace/trace.h"

TRACE_EVENT(acpi_pci_hotplug, "up 0x%08x down 0x%08x");
TRACE_EVENT(acpi_pci_eject, "slots 0x%08x");

enum { REG_UP = 0, REG_DOWN = 4, REG_EJECT = 8, REG_REMOVABLE = 12, REG_SELECTOR = 16 };
#define RETRY_US 5000000

static uint64_t hotplug_read(void *opaque, hwaddr offset, unsigned size)
{
    AcpiPciHotplug *hp = opaque;
    uint32_t value = 0;

    if (offset == REG_SELECTOR) {
        return hp->selector;
    }
    if (hp->selector) {
        return 0; /* there is one bus */
    }
    switch (offset) {
    case REG_UP:
        value = hp->up;
        hp->up = 0; /* told once */
        break;
    case REG_DOWN:
        value = hp->down;
        break;
    case REG_REMOVABLE:
        value = UINT32_MAX; /* an eject of what is built in has no effect */
        break;
    default:
        break;
    }
    return value;
}

static void hotplug_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    AcpiPciHotplug *hp = opaque;

    if (offset == REG_SELECTOR) {
        hp->selector = value;
    } else if (offset == REG_EJECT && !hp->selector) {
        TRACE(acpi_pci_eject, (unsigned)value);
        hp->ejecting |= value;
        bh_schedule(hp->bh);
    }
}

static const MemoryRegionOps hotplug_ops = {
    .read = hotplug_read,
    .write = hotplug_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 4, .max = 4 },
};

/* ---- in the main loop ---- */

static Device *removable_in(AcpiPciHotplug *hp, uint32_t slots)
{
    const GPtrArray *children = hp->bus->parent_obj.children;
    for (guint i = children->len; i-- > 0;) {
        Device *dev = children->pdata[i];
        if ((slots & 1u << PCI_SLOT(PCI_DEVICE(dev)->devfn)) && DEVICE_GET_CLASS(dev)->hotpluggable) {
            return dev;
        }
    }
    return NULL;
}

static void eject(void *opaque)
{
    AcpiPciHotplug *hp = opaque;
    Device *dev;

    home_lock(&hp->dev->lock);
    uint32_t slots = hp->ejecting;
    hp->ejecting = 0;
    hp->down &= ~slots;
    hp->up &= ~slots;
    home_unlock(&hp->dev->lock);
    while ((dev = removable_in(hp, slots))) {
        device_unplug_done(dev);
    }
}

static void plugged(void *opaque, PciDevice *dev)
{
    AcpiPciHotplug *hp = opaque;

    if (!DEVICE(dev)->hotplugged || PCI_FUNC(dev->devfn)) {
        return; /* a slot's function 0 comes last */
    }
    home_lock(&hp->dev->lock);
    hp->up |= 1u << PCI_SLOT(dev->devfn);
    TRACE(acpi_pci_hotplug, hp->up, hp->down);
    hp->event(hp->opaque);
    home_unlock(&hp->dev->lock);
}

static bool unplug_request(void *opaque, PciDevice *dev, GError **error)
{
    AcpiPciHotplug *hp = opaque;
    Device *device = DEVICE(dev);

    device->pending_unplug = true;
    device->unplug_retry_us = g_get_monotonic_time() + RETRY_US;
    home_lock(&hp->dev->lock);
    hp->down |= 1u << PCI_SLOT(dev->devfn);
    TRACE(acpi_pci_hotplug, hp->up, hp->down);
    hp->event(hp->opaque);
    home_unlock(&hp->dev->lock);
    return true;
}

static const PciHotplugOps hotplug_bus_ops = { .plugged = plugged, .unplug_request = unplug_request };

/* ---- life ---- */

void acpi_pci_hotplug_reset(AcpiPciHotplug *hp)
{
    uint32_t asked = hp->down;
    hp->up = hp->down = hp->selector = 0;
    if (asked) {
        hp->ejecting |= asked;
        bh_schedule(hp->bh);
    }
}

void acpi_pci_hotplug_init(AcpiPciHotplug *hp, Device *dev, PciBus *bus, uint16_t port,
                           void (*event)(void *opaque), void *opaque)
{
    const DeviceEnv *env = dev->env;
    hp->dev = dev;
    hp->bus = bus;
    hp->event = event;
    hp->opaque = opaque;
    hp->bh = bh_new(env->loop, eject, hp, NULL);
    memory_region_init_io(&hp->io, dev, &hotplug_ops, hp, "acpi-pci-hotplug", ACPI_PCI_HOTPLUG_SIZE,
                          &dev->lock);
    memory_region_add(env->system_io, port, &hp->io);
    bus->hotplug = &hotplug_bus_ops;
    bus->hotplug_opaque = hp;
}

void acpi_pci_hotplug_destroy(AcpiPciHotplug *hp)
{
    hp->bus->hotplug = NULL;
    memory_region_del(hp->dev->env->system_io, &hp->io);
    memory_region_destroy(&hp->io);
    bh_free(hp->bh);
    hp->bh = NULL;
}

static const VmStateField acpi_pci_hotplug_fields[] = {
    VMS_UINT32(up, AcpiPciHotplug),
    VMS_UINT32(down, AcpiPciHotplug),
    VMS_UINT32(selector, AcpiPciHotplug),
    VMS_END,
};

const VmState acpi_pci_hotplug_vmstate = {
    .name = "acpi-pci-hotplug",
    .version = 1,
    .minimum_version = 1,
    .fields = acpi_pci_hotplug_fields,
};
