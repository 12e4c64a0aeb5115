/* Port 0xcf9: see reset_control.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/isa/reset_control.h"

#include "trace/trace.h"

TRACE_EVENT(reset_control, "value 0x%02x");

enum {
    RESET_PORT = 0xcf9,
    RESET_HARD = 1u << 1, /* the kind */
    RESET_CPU = 1u << 2,  /* 0 to 1 resets */
};

static uint64_t reset_read(void *opaque, hwaddr offset, unsigned size)
{
    return ((ResetControl *)opaque)->value;
}

static void reset_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    ResetControl *rc = opaque;
    const VmServices *vm = rc->dev->env->vm;
    TRACE(reset_control, (unsigned)value);
    if ((value & RESET_CPU) && !(rc->value & RESET_CPU) && vm && vm->request_reset) {
        vm->request_reset(vm->opaque, SHUTDOWN_GUEST_RESET);
    }
    rc->value = value & RESET_HARD; /* RESET_CPU itself falls with the reset */
}

static const MemoryRegionOps reset_ops = {
    .read = reset_read,
    .write = reset_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

void reset_control_init(ResetControl *rc, Device *dev)
{
    rc->dev = dev;
    memory_region_init_io(&rc->io, dev, &reset_ops, rc, "reset-control", 1, &dev->lock);
    /* Inside the four of the PCI configuration address port. */
    memory_region_add_overlap(dev->env->system_io, RESET_PORT, &rc->io, 1);
}

void reset_control_destroy(ResetControl *rc)
{
    memory_region_del(rc->dev->env->system_io, &rc->io);
    memory_region_destroy(&rc->io);
}
