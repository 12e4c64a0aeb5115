/*
 * The ISA bus and the base of its devices. Source: ISA System Architecture; nothing is arbitrated, a board
 * just decodes the ports. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/isa/isa.h"

#include "base/error.h"

Bus *isa_bus_new(Device *owner, const DeviceEnv *env)
{
    return bus_new(TYPE_ISA_BUS, owner, "isa.0", env);
}

bool isa_get_irq(Device *dev, uint32_t n, IrqLine **line, GError **error)
{
    *line = NULL;
    if (n >= ISA_IRQS) {
        return error_set(error, "Maximum value for \"irq\" is: %d", ISA_IRQS - 1);
    }
    if (dev->env && dev->env->isa_irqs) {
        *line = dev->env->isa_irqs[n];
    }
    return true;
}

bool isa_map_port(Device *dev, MemoryRegion *region, uint32_t port, GError **error)
{
    if (!dev->env || !dev->env->system_io) {
        return error_set(error, "Device '%s' needs I/O ports, which this machine lacks",
                         object_get_typename(OBJECT(dev)));
    }
    if (port > 0xffff || region->size > 0x10000 - port) {
        return error_set(error, "Device '%s': ports 0x%x to 0x%" PRIx64 " are not below 0x10000",
                         object_get_typename(OBJECT(dev)), port, port + region->size - 1);
    }
    memory_region_add(dev->env->system_io, port, region);
    return true;
}

static const TypeInfo isa_bus_info = {
    .name = TYPE_ISA_BUS,
    .parent = TYPE_BUS,
    .description = "ISA bus",
};
TYPE_REGISTER(isa_bus_info);

static void isa_device_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->bus_type = TYPE_ISA_BUS;
    dc->hotpluggable = false;
}

static const TypeInfo isa_device_info = {
    .name = TYPE_ISA_DEVICE,
    .parent = TYPE_DEVICE,
    .description = "device on an ISA bus",
    .abstract = true,
    .class_init = isa_device_class_init,
};
TYPE_REGISTER(isa_device_info);
