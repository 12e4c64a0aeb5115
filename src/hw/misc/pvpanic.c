/*
 * How a guest tells that it panicked. Source: QEMU's documentation, "PVPANIC device" (docs/specs/pvpanic). It
 * keeps no state. Ports in vCPUs' threads, under the HomeLock. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/firmware/fw_cfg.h"
#include "hw/isa/isa.h"
#include "trace/trace.h"

#define TYPE_PVPANIC_ISA "pvpanic"

TRACE_EVENT(pvpanic_event, "events 0x%02x");

enum { PVPANIC_PANICKED = 1, PVPANIC_CRASH_LOADED = 2 };

typedef struct PvpanicState {
    Device parent_obj;
    MemoryRegion port;
    uint16_t ioport;
    uint8_t events;
} PvpanicState;
#define PVPANIC(obj) OBJECT_CHECK(PvpanicState, obj, TYPE_PVPANIC_ISA)

static uint64_t pvpanic_read(void *opaque, hwaddr offset, unsigned size)
{
    PvpanicState *s = opaque;
    return s->events;
}

static void pvpanic_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    PvpanicState *s = opaque;
    const VmServices *vm = s->parent_obj.env->vm;
    TRACE(pvpanic_event, (unsigned)value);
    if (!vm) {
        return;
    }
    if ((value & s->events & PVPANIC_CRASH_LOADED) && vm->emit_event) {
        json_object *data = json_object_new_object();
        json_object_object_add(data, "action", json_object_new_string("run"));
        vm->emit_event(vm->opaque, "GUEST_CRASHLOADED", data);
    }
    if ((value & s->events & PVPANIC_PANICKED) && vm->request_shutdown) {
        vm->request_shutdown(vm->opaque,
                             SHUTDOWN_GUEST_PANIC); /* the VM emits GUEST_PANICKED, by its -action */
    }
}

static const MemoryRegionOps pvpanic_ops = {
    .read = pvpanic_read,
    .write = pvpanic_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

static bool pvpanic_realize(Device *dev, GError **error)
{
    PvpanicState *s = PVPANIC(dev);
    memory_region_init_io(&s->port, s, &pvpanic_ops, s, TYPE_PVPANIC_ISA, 1, &dev->lock);
    if (!isa_map_port(dev, &s->port, s->ioport, error)) {
        memory_region_destroy(&s->port);
        return false;
    }
    if (dev->env->fw_cfg) { /* where firmware finds the port */
        uint16_t port = GUINT16_TO_LE(s->ioport);
        if (!fw_cfg_add_file(dev->env->fw_cfg, "etc/pvpanic-port", &port, sizeof(port), error)) {
            memory_region_del(dev->env->system_io, &s->port);
            memory_region_destroy(&s->port);
            return false;
        }
    }
    return true;
}

static void pvpanic_unrealize(Device *dev)
{
    PvpanicState *s = PVPANIC(dev);
    memory_region_del(dev->env->system_io, &s->port);
    memory_region_destroy(&s->port);
}

static const Property pvpanic_properties[] = {
    PROP_UINT16("ioport", PvpanicState, ioport, 0x505, "I/O port"),
    PROP_UINT8("events", PvpanicState, events, PVPANIC_PANICKED | PVPANIC_CRASH_LOADED,
               "events that are offered"),
    PROP_END,
};

static void pvpanic_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = pvpanic_realize;
    dc->unrealize = pvpanic_unrealize;
    dc->user_creatable = true;
    object_class_add_properties(klass, pvpanic_properties);
}

static const TypeInfo pvpanic_info = {
    .name = TYPE_PVPANIC_ISA,
    .parent = TYPE_ISA_DEVICE,
    .description = "port that tells of a guest's panic",
    .instance_size = sizeof(PvpanicState),
    .class_init = pvpanic_class_init,
};
TYPE_REGISTER(pvpanic_info);
