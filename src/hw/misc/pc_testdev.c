/*
 * The device that kvm-unit-tests expect on a PC. Source: kvm-unit-tests' own use of it, as its x86/ directory
 * and lib/x86 show: ports 0xe0-0xe3       a 32-bit latch, accesses of any width ports 0xe4-0xe7       a write
 * drops the mapping of the page at that address (nothing to do here) ports 0xe8-0xeb       the same latch
 * through byte accesses only ports 0x2000-0x2017   a write sets the level of that interrupt memory 0xff000000
 * 64 KiB of registers that read back what was written Threads: all in vCPUs' threads, under the HomeLock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/isa/isa.h"
#include "trace/trace.h"

#include <string.h>

#define TYPE_PC_TESTDEV "pc-testdev"

TRACE_EVENT(pc_testdev_irq, "irq %u level %u");

enum { LATCH_PORT = 0xe0, FLUSH_PORT = 0xe4, BYTE_LATCH_PORT = 0xe8, IRQ_PORT = 0x2000, IRQ_COUNT = 24 };
#define IOMEM_ADDRESS 0xff000000u
#define IOMEM_SIZE    0x10000u

typedef struct PcTestdevState {
    Device parent_obj;
    /* saved */
    uint32_t latch;
    uint8_t iomem[IOMEM_SIZE];
    /* derived */
    MemoryRegion latch_io, flush_io, byte_latch_io, irq_io, iomem_io;
} PcTestdevState;
#define PC_TESTDEV(obj) OBJECT_CHECK(PcTestdevState, obj, TYPE_PC_TESTDEV)

static uint64_t latch_read(void *opaque, hwaddr offset, unsigned size)
{
    PcTestdevState *s = opaque;
    return s->latch >> (8 * offset);
}

static void latch_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    PcTestdevState *s = opaque;
    uint32_t mask = (uint32_t)((1ull << (8 * size)) - 1) << (8 * offset);
    s->latch = (s->latch & ~mask) | ((uint32_t)value << (8 * offset) & mask);
}

static uint64_t zero_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0;
}

static void flush_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    /* No CPU here keeps a translation beyond what the architecture allows. */
}

static void irq_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    PcTestdevState *s = opaque;
    const DeviceEnv *env = s->parent_obj.env;
    TRACE(pc_testdev_irq, (unsigned)offset, (unsigned)value);
    if (offset < ISA_IRQS) {
        irq_set(env->isa_irqs ? env->isa_irqs[offset] : NULL, value != 0);
    } else {
        irq_set(env->gsi ? env->gsi[offset] : NULL, value != 0);
    }
}

static uint64_t iomem_read(void *opaque, hwaddr offset, unsigned size)
{
    PcTestdevState *s = opaque;
    uint64_t value = 0;
    memcpy(&value, s->iomem + offset, size);
    return value;
}

static void iomem_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    PcTestdevState *s = opaque;
    memcpy(s->iomem + offset, &value, size);
}

static const MemoryRegionOps latch_ops = {
    .read = latch_read,
    .write = latch_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};
static const MemoryRegionOps byte_latch_ops = {
    .read = latch_read,
    .write = latch_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 1 },
};
static const MemoryRegionOps flush_ops = {
    .read = zero_read,
    .write = flush_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};
/* The tests write dwords too, from any line on. */
static const MemoryRegionOps irq_ops = {
    .read = zero_read,
    .write = irq_write,
    .valid = { .min = 1, .max = 4, .unaligned = true },
    .impl = { .min = 1, .max = 1 },
};
static const MemoryRegionOps iomem_ops = {
    .read = iomem_read,
    .write = iomem_write,
    .valid = { .min = 1, .max = 8 },
    .impl = { .min = 1, .max = 8 },
};

typedef struct Part {
    MemoryRegion *region;
    const MemoryRegionOps *ops;
    const char *name;
    uint32_t port, size;
} Part;

static void parts(PcTestdevState *s, Part out[4])
{
    out[0] = (Part){ &s->latch_io, &latch_ops, "pc-testdev-ioport", LATCH_PORT, 4 };
    out[1] = (Part){ &s->flush_io, &flush_ops, "pc-testdev-flush-page", FLUSH_PORT, 4 };
    out[2] = (Part){ &s->byte_latch_io, &byte_latch_ops, "pc-testdev-ioport-byte", BYTE_LATCH_PORT, 4 };
    out[3] = (Part){ &s->irq_io, &irq_ops, "pc-testdev-irq-line", IRQ_PORT, IRQ_COUNT };
}

static bool pc_testdev_realize(Device *dev, GError **error)
{
    PcTestdevState *s = PC_TESTDEV(dev);
    Part all[4];
    if (!dev->env || !dev->env->system_io || !dev->env->system_memory) {
        return error_set(error, "%s needs memory and I/O ports", TYPE_PC_TESTDEV);
    }
    parts(s, all);
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        memory_region_init_io(all[i].region, s, all[i].ops, s, all[i].name, all[i].size, &dev->lock);
        memory_region_add(dev->env->system_io, all[i].port, all[i].region);
    }
    memory_region_init_io(&s->iomem_io, s, &iomem_ops, s, "pc-testdev-iomem", IOMEM_SIZE, &dev->lock);
    memory_region_add_overlap(dev->env->system_memory, IOMEM_ADDRESS, &s->iomem_io, 1);
    return true;
}

static void pc_testdev_unrealize(Device *dev)
{
    PcTestdevState *s = PC_TESTDEV(dev);
    Part all[4];
    parts(s, all);
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        memory_region_del(dev->env->system_io, all[i].region);
        memory_region_destroy(all[i].region);
    }
    memory_region_del(dev->env->system_memory, &s->iomem_io);
    memory_region_destroy(&s->iomem_io);
}

static const VmStateField pc_testdev_fields[] = {
    VMS_UINT32(latch, PcTestdevState),
    VMS_BUFFER(iomem, PcTestdevState),
    VMS_END,
};
static const VmState pc_testdev_vmstate = {
    .name = "pc-testdev",
    .version = 1,
    .minimum_version = 1,
    .fields = pc_testdev_fields,
};

static void pc_testdev_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = pc_testdev_realize;
    dc->unrealize = pc_testdev_unrealize;
    dc->vmstate = &pc_testdev_vmstate;
    dc->user_creatable = true;
}

static const TypeInfo pc_testdev_info = {
    .name = TYPE_PC_TESTDEV,
    .parent = TYPE_ISA_DEVICE,
    .description = "device for unit tests of virtual machines",
    .instance_size = sizeof(PcTestdevState),
    .class_init = pc_testdev_class_init,
};
TYPE_REGISTER(pc_testdev_info);
