/*
 * Two cascaded 8259A interrupt controllers and their edge/level registers. Sources: Intel 8259A data sheet
 * (231468); 82371SB data sheet (290550), chapter 2.5.3.3 (ELCR).
 *
 * Left out on purpose: MCS-80 call sequences, buffered mode, a slave anywhere but on input 2.
 *
 * Threads: devices set inputs from any thread, vCPUs acknowledge and program; all under the HomeLock. The
 * INTR output goes to the local APIC bus, a leaf.
 *
 * Invariant: master's input 2 follows the slave's request; intr is what the bus was told last.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/intc/i8259.h"

#include "arch/x86/chips.h"
#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(i8259_input, "irq %d level %d");
TRACE_EVENT(i8259_acknowledge, "irq %d vector 0x%02x");
TRACE_EVENT(i8259_write, "chip %u a0 %u value 0x%02x");
TRACE_EVENT(i8259_intr, "level %d");

enum { MASTER, SLAVE, CHIPS };
enum { CASCADE_INPUT = 2, SPURIOUS_INPUT = 7 };
enum { MASTER_PORT = 0x20, SLAVE_PORT = 0xa0, ELCR_PORT = 0x4d0 };
/* Which inputs may be level triggered: not the timer, keyboard, cascade, clock and coprocessor. */
static const uint8_t elcr_masks[CHIPS] = { 0xf8, 0xde };

/* Command words. */
enum { ICW1_IC4 = 0x01, ICW1_SNGL = 0x02, ICW1_LTIM = 0x08, ICW1 = 0x10 };
enum { ICW4_AEOI = 0x02, ICW4_SFNM = 0x10 };
enum { OCW3 = 0x08, OCW3_RIS = 0x01, OCW3_RR = 0x02, OCW3_POLL = 0x04, OCW3_SMM = 0x20, OCW3_ESMM = 0x40 };
enum {
    OCW2_ROTATE_AEOI_CLEAR = 0,
    OCW2_EOI = 1,
    OCW2_NOP = 2,
    OCW2_SPECIFIC_EOI = 3,
    OCW2_ROTATE_AEOI_SET = 4,
    OCW2_ROTATE_EOI = 5,
    OCW2_SET_PRIORITY = 6,
    OCW2_ROTATE_SPECIFIC_EOI = 7,
};
typedef struct I8259State {
    Device parent_obj;
    /* saved */
    PicChip chip[CHIPS];
    bool intr;
    /* derived */
    MemoryRegion ports[CHIPS], elcr_io;
    bool firmware_preset;
    const X86Chips *remote; /* an accelerator models them; chip[] is a copy while it is looked at */
} I8259State;
#define I8259(obj) OBJECT_CHECK(I8259State, obj, TYPE_I8259)

/* ---- logic; the lock is held ---- */

/* The set bit of highest priority, or -1. */
static int highest(const PicChip *c, uint8_t set)
{
    for (int i = 1; set && i <= 8; i++) {
        int line = (c->lowest + i) & 7;
        if (set & (1u << line)) {
            return line;
        }
    }
    return -1;
}

/* How far from the top an input is: 0 is the highest priority. */
static int rank(const PicChip *c, int line)
{
    return (line - c->lowest - 1) & 7;
}

/* The input that would be acknowledged now, or -1. */
static int chip_request(const I8259State *s, int which)
{
    const PicChip *c = &s->chip[which];
    int line = highest(c, c->irr & ~c->imr);
    if (line < 0 || c->init_step != PIC_INIT_DONE) {
        return -1;
    }
    uint8_t blocking = c->special_mask ? c->isr & ~c->imr : c->isr;
    if (which == MASTER && c->special_fully_nested) {
        blocking &= ~(1u << CASCADE_INPUT); /* the slave may interrupt its own service */
    }
    int in_service = highest(c, blocking);
    if (c->special_mask) {
        /* Only the very same input is held back. */
        return c->isr & (1u << line) ? -1 : line;
    }
    return in_service >= 0 && rank(c, in_service) <= rank(c, line) ? -1 : line;
}

static bool is_level(const PicChip *c, int line)
{
    return c->level_mode || (c->elcr & (1u << line));
}

static void chip_set_input(PicChip *c, int line, bool level)
{
    uint8_t bit = 1u << line;
    if (is_level(c, line)) {
        c->irr = level ? c->irr | bit : c->irr & ~bit;
    } else if (level && !(c->inputs & bit)) {
        c->irr |= bit;
    }
    c->inputs = level ? c->inputs | bit : c->inputs & ~bit;
}

static bool pull(I8259State *s)
{
    return !s->remote || s->remote->pic_get(s->remote->opaque, s->chip);
}

static bool push(I8259State *s)
{
    return !s->remote || s->remote->pic_put(s->remote->opaque, s->chip);
}

static void update_output(I8259State *s)
{
    if (s->remote) {
        return;
    }
    PicChip *master = &s->chip[MASTER];
    uint8_t cascade = 1u << CASCADE_INPUT;
    bool slave = chip_request(s, SLAVE) >= 0;
    master->irr = slave ? master->irr | cascade : master->irr & ~cascade;
    bool intr = chip_request(s, MASTER) >= 0;
    if (intr != s->intr) {
        s->intr = intr;
        TRACE(i8259_intr, intr);
        const DeviceEnv *env = s->parent_obj.env;
        if (env && env->apic_bus) {
            apic_bus_set_pic_line(env->apic_bus, intr);
        }
    }
}

/* INTA for one chip: request goes into service. */
static void chip_take(PicChip *c, int line)
{
    uint8_t bit = 1u << line;
    if (!c->auto_eoi) {
        c->isr |= bit;
    } else if (c->rotate_auto_eoi) {
        c->lowest = line;
    }
    if (!is_level(c, line)) {
        c->irr &= ~bit;
    }
}

int i8259_acknowledge(void *dev)
{
    I8259State *s = I8259(dev);
    home_lock(&s->parent_obj.lock);
    int irq = chip_request(s, MASTER), vector;
    if (irq < 0) {
        irq = SPURIOUS_INPUT; /* the request went away; nothing goes into service */
        vector = s->chip[MASTER].vector_base + irq;
    } else {
        int slave_irq = irq == CASCADE_INPUT ? chip_request(s, SLAVE) : -1;
        chip_take(&s->chip[MASTER], irq);
        if (irq != CASCADE_INPUT) {
            vector = s->chip[MASTER].vector_base + irq;
        } else if (slave_irq < 0) {
            vector = s->chip[SLAVE].vector_base + SPURIOUS_INPUT;
        } else {
            chip_take(&s->chip[SLAVE], slave_irq);
            vector = s->chip[SLAVE].vector_base + slave_irq;
            irq = 8 + slave_irq;
        }
    }
    update_output(s);
    home_unlock(&s->parent_obj.lock);
    TRACE(i8259_acknowledge, irq, vector);
    return vector;
}

void i8259_set_input(void *dev, int n, bool level)
{
    I8259State *s = I8259(dev);
    if (n < 0 || n > 15 || n == CASCADE_INPUT) {
        return;
    }
    TRACE(i8259_input, n, level);
    if (s->remote) {
        s->remote->pic_input(s->remote->opaque, (unsigned)n, level);
        return;
    }
    home_lock(&s->parent_obj.lock);
    chip_set_input(&s->chip[n >> 3], n & 7, level);
    update_output(s);
    home_unlock(&s->parent_obj.lock);
}

static void write_icw1(PicChip *c, uint8_t value)
{
    c->wants_icw4 = value & ICW1_IC4;
    c->single = value & ICW1_SNGL;
    c->level_mode = value & ICW1_LTIM;
    c->imr = c->isr = 0;
    /* The edge detectors start anew: a latched edge is lost, a level stays. */
    c->irr = c->inputs & (c->level_mode ? 0xff : c->elcr);
    c->lowest = 7;
    c->auto_eoi = c->rotate_auto_eoi = c->special_fully_nested = false;
    c->special_mask = c->read_isr = c->poll = false;
    c->init_step = PIC_INIT_ICW2;
}

static void write_ocw2(PicChip *c, uint8_t value)
{
    int line = value & 7;
    switch (value >> 5) {
    case OCW2_ROTATE_AEOI_CLEAR:
    case OCW2_ROTATE_AEOI_SET:
        c->rotate_auto_eoi = (value >> 5) == OCW2_ROTATE_AEOI_SET;
        break;
    case OCW2_EOI:
    case OCW2_ROTATE_EOI:
        line = highest(c, c->special_mask ? c->isr & ~c->imr : c->isr);
        if (line >= 0) {
            c->isr &= ~(1u << line);
            if ((value >> 5) == OCW2_ROTATE_EOI) {
                c->lowest = line;
            }
        }
        break;
    case OCW2_SPECIFIC_EOI:
        c->isr &= ~(1u << line);
        break;
    case OCW2_ROTATE_SPECIFIC_EOI:
        c->isr &= ~(1u << line);
        c->lowest = line;
        break;
    case OCW2_SET_PRIORITY:
        c->lowest = line;
        break;
    default:
        break;
    }
}

static void write_ocw3(PicChip *c, uint8_t value)
{
    if (value & OCW3_POLL) {
        c->poll = true;
    }
    if (value & OCW3_RR) {
        c->read_isr = value & OCW3_RIS;
    }
    if (value & OCW3_ESMM) {
        c->special_mask = value & OCW3_SMM;
    }
}

static void write_data(PicChip *c, uint8_t value)
{
    switch (c->init_step) {
    case PIC_INIT_ICW2:
        c->vector_base = value & 0xf8;
        c->init_step = !c->single ? PIC_INIT_ICW3 : c->wants_icw4 ? PIC_INIT_ICW4 : PIC_INIT_DONE;
        break;
    case PIC_INIT_ICW3:
        c->init_step = c->wants_icw4 ? PIC_INIT_ICW4 : PIC_INIT_DONE;
        break;
    case PIC_INIT_ICW4:
        c->auto_eoi = value & ICW4_AEOI;
        c->special_fully_nested = value & ICW4_SFNM;
        c->init_step = PIC_INIT_DONE;
        break;
    default:
        c->imr = value;
        break;
    }
}

/* ---- ports ---- */
static void port_write(I8259State *s, int which, hwaddr a0, uint8_t value)
{
    PicChip *c = &s->chip[which];
    TRACE(i8259_write, which, (unsigned)a0, value);
    pull(s);
    if (a0) {
        write_data(c, value);
    } else if (value & ICW1) {
        write_icw1(c, value);
    } else if (value & OCW3) {
        write_ocw3(c, value);
    } else {
        write_ocw2(c, value);
    }
    update_output(s);
    push(s);
}

static uint8_t port_read(I8259State *s, int which, hwaddr a0)
{
    PicChip *c = &s->chip[which];
    pull(s);
    if (c->poll) { /* this read is the acknowledge */
        c->poll = false;
        int line = chip_request(s, which);
        if (line >= 0) {
            chip_take(c, line);
            update_output(s);
        }
        push(s);
        return line >= 0 ? 0x80 | line : 0;
    }
    return a0 ? c->imr : c->read_isr ? c->isr : c->irr;
}

static uint64_t master_read(void *opaque, hwaddr offset, unsigned size)
{
    return port_read(opaque, MASTER, offset);
}

static void master_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    port_write(opaque, MASTER, offset, value);
}

static uint64_t slave_read(void *opaque, hwaddr offset, unsigned size)
{
    return port_read(opaque, SLAVE, offset);
}

static void slave_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    port_write(opaque, SLAVE, offset, value);
}

static uint64_t elcr_read(void *opaque, hwaddr offset, unsigned size)
{
    I8259State *s = opaque;
    pull(s);
    return s->chip[offset].elcr;
}

static void elcr_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    I8259State *s = opaque;
    pull(s);
    s->chip[offset].elcr = value & elcr_masks[offset];
    push(s);
}

#define BYTE_SIZES .valid = { .min = 1, .max = 4 }, .impl = { .min = 1, .max = 1 }
static const MemoryRegionOps port_ops[CHIPS] = {
    { .read = master_read, .write = master_write, BYTE_SIZES },
    { .read = slave_read, .write = slave_write, BYTE_SIZES },
};
static const MemoryRegionOps elcr_ops = { .read = elcr_read, .write = elcr_write, BYTE_SIZES };

/* ---- life ---- */
static void i8259_reset(Device *dev)
{
    I8259State *s = I8259(dev);
    pull(s);
    for (int i = 0; i < CHIPS; i++) {
        uint8_t inputs = s->chip[i].inputs; /* what devices drive survives */
        s->chip[i] = (PicChip){ .inputs = inputs, .lowest = 7, .init_step = PIC_INIT_NEVER };
        if (s->firmware_preset) {
            s->chip[i].init_step = PIC_INIT_DONE;
            s->chip[i].vector_base = i == MASTER ? 0x08 : 0x70;
            s->chip[i].imr = i == MASTER ? (uint8_t) ~(1u << CASCADE_INPUT) : 0xff;
            s->chip[i].elcr = i == MASTER ? 0 : 1u << (10 - 8) | 1u << (11 - 8);
            s->chip[i].irr = inputs & s->chip[i].elcr;
        }
    }
    update_output(s);
    push(s);
}

static bool i8259_realize(Device *dev, GError **error)
{
    static const uint16_t bases[CHIPS] = { MASTER_PORT, SLAVE_PORT };
    I8259State *s = I8259(dev);
    const DeviceEnv *env = dev->env;
    if (!env || !env->system_io) {
        return error_set(error, "%s needs I/O ports", TYPE_I8259);
    }
    for (int i = 0; i < CHIPS; i++) {
        s->chip[i].lowest = 7;
        s->chip[i].init_step = PIC_INIT_NEVER;
        memory_region_init_io(&s->ports[i], s, &port_ops[i], s, "pic", 2, &dev->lock);
        memory_region_add(env->system_io, bases[i], &s->ports[i]);
    }
    memory_region_init_io(&s->elcr_io, s, &elcr_ops, s, "elcr", 2, &dev->lock);
    memory_region_add(env->system_io, ELCR_PORT, &s->elcr_io);
    s->remote = apic_bus_chips(env->apic_bus);
    if (env->apic_bus) {
        apic_bus_set_pic(env->apic_bus, i8259_acknowledge, s);
    }
    return true;
}

static void i8259_unrealize(Device *dev)
{
    I8259State *s = I8259(dev);
    if (dev->env->apic_bus) {
        apic_bus_set_pic(dev->env->apic_bus, NULL, NULL);
    }
    MemoryRegion *regions[] = { &s->ports[0], &s->ports[1], &s->elcr_io };
    for (size_t i = 0; i < G_N_ELEMENTS(regions); i++) {
        memory_region_del(dev->env->system_io, regions[i]);
        memory_region_destroy(regions[i]);
    }
}

static const Property i8259_properties[] = {
    PROP_FULL("firmware-preset", I8259State, firmware_preset, bool, property_type_bool,
              "reset to what PC firmware leaves", .has_default = true, .may_set = device_property_any_time),
    PROP_END,
};

static bool i8259_post_load(void *opaque, int version, GError **error)
{
    I8259State *s = opaque;
    for (int i = 0; i < CHIPS; i++) {
        PicChip *c = &s->chip[i];
        if (c->init_step > PIC_INIT_NEVER || c->lowest > 7 || (c->vector_base & 7)) {
            return error_set(error, "%s: impossible state", TYPE_I8259);
        }
        c->elcr &= elcr_masks[i];
    }
    if (s->remote) {
        return push(s) || error_set(error, "%s: the accelerator does not take it", TYPE_I8259);
    }
    if (s->parent_obj.env && s->parent_obj.env->apic_bus) {
        apic_bus_set_pic_line(s->parent_obj.env->apic_bus, s->intr);
    }
    return true;
}

static bool i8259_pre_save(void *opaque, GError **error)
{
    I8259State *s = opaque;
    if (!s->remote) {
        return true;
    }
    bool ok = pull(s);
    s->intr = chip_request(s, MASTER) >= 0;
    return ok || error_set(error, "%s: the accelerator does not give its state", TYPE_I8259);
}

static const VmStateField chip_fields[] = {
    VMS_UINT8(irr, PicChip),
    VMS_UINT8(imr, PicChip),
    VMS_UINT8(isr, PicChip),
    VMS_UINT8(inputs, PicChip),
    VMS_UINT8(elcr, PicChip),
    VMS_UINT8(vector_base, PicChip),
    VMS_UINT8(lowest, PicChip),
    VMS_UINT8(init_step, PicChip),
    VMS_BOOL(wants_icw4, PicChip),
    VMS_BOOL(single, PicChip),
    VMS_BOOL(level_mode, PicChip),
    VMS_BOOL(auto_eoi, PicChip),
    VMS_BOOL(rotate_auto_eoi, PicChip),
    VMS_BOOL(special_fully_nested, PicChip),
    VMS_BOOL(special_mask, PicChip),
    VMS_BOOL(read_isr, PicChip),
    VMS_BOOL(poll, PicChip),
    VMS_END,
};
static const VmState chip_vmstate = {
    .name = "i8259-chip",
    .version = 1,
    .minimum_version = 1,
    .fields = chip_fields,
};

static const VmStateField i8259_fields[] = {
    VMS_STRUCT_ARRAY(chip, I8259State, CHIPS, chip_vmstate),
    VMS_BOOL(intr, I8259State),
    VMS_END,
};
static const VmState i8259_vmstate = {
    .name = "i8259",
    .version = 1,
    .minimum_version = 1,
    .fields = i8259_fields,
    .pre_save = i8259_pre_save,
    .post_load = i8259_post_load,
};

static void i8259_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = i8259_realize;
    dc->unrealize = i8259_unrealize;
    dc->reset = i8259_reset;
    dc->vmstate = &i8259_vmstate;
    dc->hotpluggable = false;
    object_class_add_properties(klass, i8259_properties);
}

static const TypeInfo i8259_info = {
    .name = TYPE_I8259,
    .parent = TYPE_DEVICE,
    .description = "pair of 8259A interrupt controllers",
    .instance_size = sizeof(I8259State),
    .class_init = i8259_class_init,
};
TYPE_REGISTER(i8259_info);
