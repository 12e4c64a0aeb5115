/*
 * The debug console of Bochs and its successors: a byte written to its port goes to the chardev. Source:
 * Bochs user manual, "port 0xe9 hack". It keeps no state. Ports in vCPUs' threads, under the HomeLock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "chardev/chardev.h"
#include "hw/isa/isa.h"
#include "trace/trace.h"

#define TYPE_ISA_DEBUGCON "isa-debugcon"

TRACE_EVENT(debugcon_write, "value 0x%02x");

typedef struct DebugconState {
    Device parent_obj;
    MemoryRegion port;
    ChardevFrontend chr;
    uint32_t iobase, readback;
} DebugconState;
#define DEBUGCON(obj) OBJECT_CHECK(DebugconState, obj, TYPE_ISA_DEBUGCON)

static uint64_t debugcon_read(void *opaque, hwaddr offset, unsigned size)
{
    DebugconState *s = opaque;
    return s->readback; /* how a guest finds out that the port is there */
}

static void debugcon_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    DebugconState *s = opaque;
    uint8_t byte = value;
    TRACE(debugcon_write, byte);
    chardev_fe_write(&s->chr, &byte, 1);
}

static const MemoryRegionOps debugcon_ops = {
    .read = debugcon_read,
    .write = debugcon_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

static bool debugcon_realize(Device *dev, GError **error)
{
    DebugconState *s = DEBUGCON(dev);
    if (!chardev_fe_connected(&s->chr)) {
        return error_set(error, "Can't create debugcon device, empty char device");
    }
    memory_region_init_io(&s->port, s, &debugcon_ops, s, TYPE_ISA_DEBUGCON, 1, &dev->lock);
    if (!isa_map_port(dev, &s->port, s->iobase, error)) {
        memory_region_destroy(&s->port);
        return false;
    }
    chardev_fe_set_handlers(&s->chr, NULL, NULL, &dev->lock);
    chardev_fe_set_open(&s->chr, true);
    return true;
}

static void debugcon_unrealize(Device *dev)
{
    DebugconState *s = DEBUGCON(dev);
    chardev_fe_deinit(&s->chr);
    memory_region_del(dev->env->system_io, &s->port);
    memory_region_destroy(&s->port);
}

static const Property debugcon_properties[] = {
    PROP_UINT32("iobase", DebugconState, iobase, 0xe9, "I/O port"),
    PROP_TYPED("chardev", DebugconState, chr, property_type_chardev, "where bytes go"),
    PROP_UINT32("readback", DebugconState, readback, 0xe9, "what the port reads as"),
    PROP_END,
};

static void debugcon_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = debugcon_realize;
    dc->unrealize = debugcon_unrealize;
    dc->category = "Misc";
    dc->user_creatable = true;
    object_class_add_properties(klass, debugcon_properties);
}

static const TypeInfo debugcon_info = {
    .name = TYPE_ISA_DEBUGCON,
    .parent = TYPE_ISA_DEVICE,
    .description = "debug console port",
    .instance_size = sizeof(DebugconState),
    .class_init = debugcon_class_init,
};
TYPE_REGISTER(debugcon_info);
