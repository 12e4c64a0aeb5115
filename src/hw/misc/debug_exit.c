/*
 * A port through which a test guest ends the program with a status: (value << 1) | 1. Source: QEMU's
 * documentation of isa-debug-exit. It keeps no state. Ports in vCPUs' threads, under the HomeLock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/isa/isa.h"
#include "trace/trace.h"

#define TYPE_ISA_DEBUG_EXIT "isa-debug-exit"

TRACE_EVENT(debug_exit, "value 0x%x");

typedef struct DebugExitState {
    Device parent_obj;
    MemoryRegion port;
    uint32_t iobase, iosize;
} DebugExitState;
#define DEBUG_EXIT(obj) OBJECT_CHECK(DebugExitState, obj, TYPE_ISA_DEBUG_EXIT)

static uint64_t debug_exit_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0;
}

static void debug_exit_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    DebugExitState *s = opaque;
    const VmServices *vm = s->parent_obj.env->vm;
    TRACE(debug_exit, (unsigned)value);
    if (vm && vm->request_exit) {
        vm->request_exit(vm->opaque, (int)((uint32_t)value << 1 | 1));
    }
}

static const MemoryRegionOps debug_exit_ops = {
    .read = debug_exit_read,
    .write = debug_exit_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

static bool debug_exit_realize(Device *dev, GError **error)
{
    DebugExitState *s = DEBUG_EXIT(dev);
    if (s->iosize == 0 || s->iosize > 4) {
        return error_set(error, "isa-debug-exit: property 'iosize' must be 1 to 4");
    }
    memory_region_init_io(&s->port, s, &debug_exit_ops, s, TYPE_ISA_DEBUG_EXIT, s->iosize, &dev->lock);
    if (!isa_map_port(dev, &s->port, s->iobase, error)) {
        memory_region_destroy(&s->port);
        return false;
    }
    return true;
}

static void debug_exit_unrealize(Device *dev)
{
    DebugExitState *s = DEBUG_EXIT(dev);
    memory_region_del(dev->env->system_io, &s->port);
    memory_region_destroy(&s->port);
}

static const Property debug_exit_properties[] = {
    PROP_UINT32("iobase", DebugExitState, iobase, 0x501, "first I/O port"),
    PROP_UINT32("iosize", DebugExitState, iosize, 0x02, "how many ports"),
    PROP_END,
};

static void debug_exit_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = debug_exit_realize;
    dc->unrealize = debug_exit_unrealize;
    dc->user_creatable = true;
    object_class_add_properties(klass, debug_exit_properties);
}

static const TypeInfo debug_exit_info = {
    .name = TYPE_ISA_DEBUG_EXIT,
    .parent = TYPE_ISA_DEVICE,
    .description = "port that ends the program with a status",
    .instance_size = sizeof(DebugExitState),
    .class_init = debug_exit_class_init,
};
TYPE_REGISTER(debug_exit_info);
