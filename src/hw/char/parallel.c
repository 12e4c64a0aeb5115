/*
 * "isa-parallel", the PC's parallel port with a printer on it that is a character device. Sources: IEEE
 * 1284-1994, compatibility mode (the "standard parallel port"); IBM PC/AT technical reference, printer
 * adapter.
 *
 * The printer takes a byte as it is strobed and acknowledges it at once; it is busy only while the host takes
 * no more. Left out on purpose: the bidirectional, EPP and ECP modes, so that the direction bit does not
 * exist.
 *
 * Ports in vCPUs' threads, room in the main loop; all under the HomeLock. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "base/error.h"
#include "chardev/chardev.h"
#include "hw/isa/isa.h"
#include "trace/trace.h"

#define TYPE_ISA_PARALLEL "isa-parallel"

TRACE_EVENT(parallel_read, "register %u value 0x%02x");
TRACE_EVENT(parallel_write, "register %u value 0x%02x");
TRACE_EVENT(parallel_byte, "0x%02x taken %d");

enum { REG_DATA, REG_STATUS, REG_CONTROL, REGISTERS };
/* As the processor reads them: BUSY is inverted, ACK, FAULT are low-active lines. */
enum {
    STATUS_NOT_BUSY = 0x80,
    STATUS_NOT_ACK = 0x40,
    STATUS_SELECT = 0x10,
    STATUS_NO_FAULT = 0x08,
    STATUS_ONES = 0x07
};
enum {
    CONTROL_STROBE = 0x01,
    CONTROL_NOT_INIT = 0x04,
    CONTROL_SELECT = 0x08,
    CONTROL_IRQ = 0x10,
    CONTROL_MASK = 0x1f
};
#define CONTROL_ONES 0xe0
#define MAX_PARALLEL 3

typedef struct ParallelState {
    Device parent_obj;
    /* saved */
    uint8_t data, control;
    uint8_t held; /* a byte that the host did not take yet */
    bool busy;    /* there is one */
    bool irq;     /* a byte was acknowledged, and nobody has looked since */
    /* derived and configured */
    MemoryRegion ports;
    IrqLine *irq_line;
    ChardevFrontend chr;
    uint32_t index, iobase, irq_number;
} ParallelState;
#define PARALLEL(obj) OBJECT_CHECK(ParallelState, obj, TYPE_ISA_PARALLEL)

static void set_irq(ParallelState *s, bool level)
{
    s->irq = level;
    irq_set(s->irq_line, level);
}

static void acknowledge(ParallelState *s)
{
    s->busy = false;
    if (s->control & CONTROL_IRQ) {
        set_irq(s, true);
    }
}

static void print(ParallelState *s)
{
    s->busy = chardev_fe_write(&s->chr, &s->held, 1) == 0;
    TRACE(parallel_byte, s->held, !s->busy);
    if (!s->busy) {
        acknowledge(s);
    }
}

static void printer_writable(void *opaque)
{
    ParallelState *s = opaque;
    if (s->busy) {
        print(s);
    }
}

static const ChardevFrontendOps chardev_ops = { .writable = printer_writable };

static uint8_t status(ParallelState *s)
{
    set_irq(s, false);
    return STATUS_ONES | STATUS_NO_FAULT | STATUS_SELECT | STATUS_NOT_ACK | (s->busy ? 0 : STATUS_NOT_BUSY);
}

static void write_control(ParallelState *s, uint8_t value)
{
    uint8_t rose = value & ~s->control;
    s->control = value & CONTROL_MASK;
    if (!(value & CONTROL_NOT_INIT)) {
        s->busy = false; /* the printer starts anew */
    } else if ((rose & CONTROL_STROBE) && !s->busy) {
        set_irq(s, false);
        s->held = s->data;
        print(s);
    }
    if (!(value & CONTROL_IRQ)) {
        set_irq(s, false);
    }
}

static uint64_t parallel_read(void *opaque, hwaddr offset, unsigned size)
{
    ParallelState *s = opaque;
    uint8_t value = offset == REG_DATA     ? s->data
                    : offset == REG_STATUS ? status(s)
                                           : CONTROL_ONES | s->control;
    TRACE(parallel_read, (unsigned)offset, value);
    return value;
}

static void parallel_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    ParallelState *s = opaque;
    TRACE(parallel_write, (unsigned)offset, (unsigned)value);
    if (offset == REG_DATA) {
        s->data = (uint8_t)value;
    } else if (offset == REG_CONTROL) {
        write_control(s, (uint8_t)value);
    }
}

static const MemoryRegionOps parallel_ops = {
    .read = parallel_read,
    .write = parallel_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 1 },
};

/* ---- life ---- */

static void parallel_reset(Device *dev)
{
    ParallelState *s = PARALLEL(dev);
    s->data = s->held = 0;
    s->control = CONTROL_NOT_INIT | CONTROL_SELECT;
    s->busy = false;
    set_irq(s, false);
}

static uint32_t next_index(Device *dev)
{
    uint32_t used = 0, index = 0;
    for (guint i = 0; dev->bus && i < dev->bus->children->len; i++) {
        const ParallelState *other = object_dynamic_cast(dev->bus->children->pdata[i], TYPE_ISA_PARALLEL);
        used |= other && other->index < MAX_PARALLEL ? 1u << other->index : 0;
    }
    while (used & 1u << index) {
        index++;
    }
    return index;
}

static bool parallel_realize(Device *dev, GError **error)
{
    static const uint16_t bases[MAX_PARALLEL] = { 0x378, 0x278, 0x3bc };
    ParallelState *s = PARALLEL(dev);
    if (!chardev_fe_connected(&s->chr)) {
        return error_set(error, "Can't create parallel device, empty char device");
    }
    if (s->index == UINT32_MAX) {
        s->index = next_index(dev);
    }
    if (s->index >= MAX_PARALLEL) {
        return error_set(error, "Max. supported number of parallel ports is %d.", MAX_PARALLEL);
    }
    s->iobase = s->iobase == UINT32_MAX ? bases[s->index] : s->iobase;
    if (!isa_get_irq(dev, s->irq_number, &s->irq_line, error)) {
        return false;
    }
    memory_region_init_io(&s->ports, s, &parallel_ops, s, "parallel", REGISTERS, &dev->lock);
    if (!isa_map_port(dev, &s->ports, s->iobase, error)) {
        memory_region_destroy(&s->ports);
        return false;
    }
    chardev_fe_set_handlers(&s->chr, &chardev_ops, s, &dev->lock);
    chardev_fe_set_open(&s->chr, true);
    return true;
}

static void parallel_unrealize(Device *dev)
{
    ParallelState *s = PARALLEL(dev);
    chardev_fe_deinit(&s->chr);
    memory_region_del(dev->env->system_io, &s->ports);
    memory_region_destroy(&s->ports);
}

static const Property parallel_properties[] = {
    PROP_UINT32("index", ParallelState, index, UINT32_MAX, "0 to 2: which of the standard ports"),
    PROP_UINT32("iobase", ParallelState, iobase, UINT32_MAX, "first I/O port"),
    PROP_UINT32("irq", ParallelState, irq_number, 7, "ISA interrupt"),
    PROP_TYPED("chardev", ParallelState, chr, property_type_chardev, "what is printed on"),
    PROP_END,
};

static bool parallel_post_load(void *opaque, int version, GError **error)
{
    ParallelState *s = opaque;
    s->control &= CONTROL_MASK;
    set_irq(s, s->irq);
    if (s->busy) {
        print(s);
    }
    return true;
}

static const VmStateField parallel_fields[] = {
    VMS_UINT8(data, ParallelState), VMS_UINT8(control, ParallelState), VMS_UINT8(held, ParallelState),
    VMS_BOOL(busy, ParallelState),  VMS_BOOL(irq, ParallelState),      VMS_END,
};
static const VmState parallel_vmstate = {
    .name = TYPE_ISA_PARALLEL, .version = 1, .fields = parallel_fields, .post_load = parallel_post_load
};

static void parallel_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = parallel_realize;
    dc->unrealize = parallel_unrealize;
    dc->reset = parallel_reset;
    dc->vmstate = &parallel_vmstate;
    dc->category = "Input";
    dc->user_creatable = true;
    object_class_add_properties(klass, parallel_properties);
}

static const TypeInfo parallel_info = {
    .name = TYPE_ISA_PARALLEL,
    .parent = TYPE_ISA_DEVICE,
    .description = "parallel port",
    .instance_size = sizeof(ParallelState),
    .class_init = parallel_class_init,
};
TYPE_REGISTER(parallel_info);
