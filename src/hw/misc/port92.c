/*
 * System control port A: fast A20 gate and fast reset. Source: IBM PS/2 Hardware Interface Technical
 * Reference, "System Control Port A". Ports in vCPUs' threads, under the HomeLock. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "hw/misc/port92.h"

#include "base/error.h"
#include "trace/trace.h"

TRACE_EVENT(port92_write, "value 0x%02x");

enum { PORT92 = 0x92, PORT92_RESET = 0x01, PORT92_A20 = 0x02 };

typedef struct Port92State {
    Device parent_obj;
    /* saved */
    uint8_t value;
    /* derived */
    MemoryRegion port;
    IrqLine *a20;
} Port92State;
#define PORT92_STATE(obj) OBJECT_CHECK(Port92State, obj, TYPE_PORT92)

static uint64_t port92_read(void *opaque, hwaddr offset, unsigned size)
{
    Port92State *s = opaque;
    return s->value;
}

static void port92_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Port92State *s = opaque;
    const VmServices *vm = s->parent_obj.env->vm;
    uint8_t old = s->value;
    TRACE(port92_write, (unsigned)value);
    s->value = value;
    if ((old ^ s->value) & PORT92_A20) {
        irq_set(s->a20, s->value & PORT92_A20);
    }
    if ((s->value & ~old & PORT92_RESET) && vm && vm->request_reset) {
        vm->request_reset(vm->opaque, SHUTDOWN_GUEST_RESET);
    }
}

static const MemoryRegionOps port92_ops = {
    .read = port92_read,
    .write = port92_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

static void port92_reset(Device *dev)
{
    Port92State *s = PORT92_STATE(dev);
    s->value = PORT92_A20; /* CPUs come out of reset with A20 open */
    irq_raise(s->a20);
}

static bool port92_realize(Device *dev, GError **error)
{
    Port92State *s = PORT92_STATE(dev);
    s->value = PORT92_A20;
    memory_region_init_io(&s->port, s, &port92_ops, s, TYPE_PORT92, 1, &dev->lock);
    if (!isa_map_port(dev, &s->port, PORT92, error)) {
        memory_region_destroy(&s->port);
        return false;
    }
    return true;
}

static void port92_unrealize(Device *dev)
{
    Port92State *s = PORT92_STATE(dev);
    memory_region_del(dev->env->system_io, &s->port);
    memory_region_destroy(&s->port);
}

void port92_set_a20(Device *dev, IrqLine *a20)
{
    PORT92_STATE(dev)->a20 = a20;
}

static const VmStateField port92_fields[] = { VMS_UINT8(value, Port92State), VMS_END };
static const VmState port92_vmstate = {
    .name = "port92",
    .version = 1,
    .minimum_version = 1,
    .fields = port92_fields,
};

static void port92_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = port92_realize;
    dc->unrealize = port92_unrealize;
    dc->reset = port92_reset;
    dc->vmstate = &port92_vmstate;
}

static const TypeInfo port92_info = {
    .name = TYPE_PORT92,
    .parent = TYPE_ISA_DEVICE,
    .description = "system control port A",
    .instance_size = sizeof(Port92State),
    .class_init = port92_class_init,
};
TYPE_REGISTER(port92_info);
