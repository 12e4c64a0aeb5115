/*
 * The 8254 programmable interval timer and port 0x61 (channel 2's gate, the speaker). Sources: Intel 8254
 * data sheet (231164); IBM PC/AT Technical Reference for port 0x61.
 *
 * Counters are not stepped: every value follows from the time since the last load. Left out on purpose:
 * sound; a new count takes effect at once in modes 2 and 3 too; OUT's one-tick low pulse of mode 2 is given
 * as a pulse at its end.
 *
 * Threads: ports in vCPUs' threads, channel 0's edges in the main loop, all under the HomeLock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/timer/i8254.h"

#include "arch/x86/apic.h"
#include "arch/x86/chips.h"
#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(i8254_write, "port %u value 0x%02x");
TRACE_EVENT(i8254_load, "channel %d mode %u count %u");
TRACE_EVENT(i8254_edge, "time %" G_GINT64_MODIFIER "d ns");

enum { PIT_PORT = 0x40, SPEAKER_PORT = 0x61, CHANNELS = 3, CONTROL = 3 };
enum { RW_LATCH, RW_LSB, RW_MSB, RW_WORD };
enum { READ_BACK = 3, READ_BACK_NO_COUNT = 0x20, READ_BACK_NO_STATUS = 0x10 };
enum { STATUS_OUT = 0x80, STATUS_NULL_COUNT = 0x40 };
enum { SPEAKER_GATE = 1, SPEAKER_DATA = 2, SPEAKER_REFRESH = 0x10, SPEAKER_OUT = 0x20 };
#define PIT_HZ            1193182u
#define NS_PER_SECOND     1000000000ll
#define MIN_PERIOD_NS     20000
#define REFRESH_PERIOD_NS 15085 /* half of bit 4's cycle */

typedef struct I8254State {
    Device parent_obj;
    /* saved */
    PitChannel channel[CHANNELS];
    Timer edge;
    bool speaker_data;
    bool silenced; /* the HPET replaces channel 0 */
    /* derived and configured */
    MemoryRegion ports, speaker_io;
    IrqLine *irq, control;
    bool firmware_preset;
    const X86Chips *remote; /* an accelerator models it; channel[] is a copy while it is looked at */
    bool stands;            /* it does not count while the machine stands still: channel[] is the truth */
} I8254State;
#define I8254(obj) OBJECT_CHECK(I8254State, obj, TYPE_I8254)

/* ---- time ---- */
static int64_t now_ns(const I8254State *s)
{
    return clock_now_ns(s->parent_obj.env->clocks, CLOCK_TYPE_VIRTUAL);
}

/* ---- where an accelerator models it ---- */
static bool pull(I8254State *s)
{
    PitChip chip = { .now_ns = now_ns(s) };
    if (!s->remote || s->stands) {
        return true;
    }
    if (!s->remote->pit_get(s->remote->opaque, &chip)) {
        return false;
    }
    memcpy(s->channel, chip.channel, sizeof(s->channel));
    s->speaker_data = chip.speaker_data;
    return true;
}

static bool push(I8254State *s)
{
    PitChip chip = { .now_ns = now_ns(s), .speaker_data = s->speaker_data, .silenced = s->silenced };
    if (!s->remote) {
        return true;
    }
    memcpy(chip.channel, s->channel, sizeof(chip.channel));
    if (s->stands) {
        chip.channel[0].loaded = false;
    }
    return s->remote->pit_put(s->remote->opaque, &chip);
}

static void run_changed(void *opaque, bool running)
{
    I8254State *s = opaque;
    home_lock(&s->parent_obj.lock);
    if (running == s->stands) {
        pull(s);
        s->stands = !running;
        push(s);
    }
    home_unlock(&s->parent_obj.lock);
}

static int64_t ticks_to_ns(uint64_t ticks)
{
    unsigned __int128 ns = ((unsigned __int128)ticks * NS_PER_SECOND + PIT_HZ - 1) / PIT_HZ;
    return ns > INT64_MAX / 2 ? INT64_MAX / 2 : (int64_t)ns;
}

static bool gate_pauses(const PitChannel *c)
{
    return c->mode != 1 && c->mode != 5;
}

/* Ticks since counting began. */
static uint64_t elapsed(const PitChannel *c, int64_t now)
{
    if (!c->gate && gate_pauses(c)) {
        return c->frozen;
    }
    uint64_t ns = now > c->start_ns ? now - c->start_ns : 0;
    return (unsigned __int128)ns * PIT_HZ / NS_PER_SECOND;
}

static bool running(const PitChannel *c)
{
    return c->loaded && (gate_pauses(c) || c->triggered);
}

static bool output(const PitChannel *c, int64_t now)
{
    if (!running(c)) {
        return c->mode != 0;
    }
    uint64_t d = elapsed(c, now);
    switch (c->mode) {
    case 0:
    case 1:
        return d >= c->count;
    case 2:
        return !c->gate || d % c->count != c->count - 1;
    case 3:
        return !c->gate || d % c->count < (c->count + 1) / 2;
    default:
        return d != c->count;
    }
}

static uint16_t counter(const PitChannel *c, int64_t now)
{
    uint64_t d = running(c) ? elapsed(c, now) : 0, value;
    uint32_t wrap = c->bcd ? 10000 : 65536;
    switch (c->mode) {
    case 2:
        value = c->count - d % c->count;
        break;
    case 3:
        value = c->count - (2 * (d % c->count)) % c->count; /* counts down by two, twice a period */
        break;
    default:
        value = (c->count + wrap - d % wrap) % wrap; /* goes on below zero */
        break;
    }
    value %= wrap;
    if (!c->bcd) {
        return value;
    }
    return (value / 1000) << 12 | (value / 100 % 10) << 8 | (value / 10 % 10) << 4 | value % 10;
}

/* When OUT rises next, or -1. */
static int64_t next_rise_ns(const PitChannel *c, int64_t now)
{
    if (!running(c) || (!c->gate && gate_pauses(c))) {
        return -1;
    }
    uint64_t d = elapsed(c, now), rise;
    switch (c->mode) {
    case 0:
    case 1:
        rise = c->count;
        break;
    case 2:
    case 3:
        rise = (d / c->count + 1) * c->count;
        break;
    default:
        rise = (uint64_t)c->count + 1;
        break;
    }
    return rise > d ? c->start_ns + ticks_to_ns(rise) : -1;
}

/* Sets channel 0's line to what OUT is and arms its next edge. */
static void update_irq(I8254State *s)
{
    int64_t now = now_ns(s);
    if (s->silenced || s->remote) {
        timer_cancel(&s->edge);
        return;
    }
    irq_set(s->irq, output(&s->channel[0], now));
    int64_t next = next_rise_ns(&s->channel[0], now);
    if (next >= 0) {
        timer_set(&s->edge, next);
    } else {
        timer_cancel(&s->edge);
    }
}

static void edge_due(void *opaque)
{
    I8254State *s = opaque;
    int64_t now = now_ns(s);
    if (s->remote) {
        return; /* armed for a saved state only */
    }
    TRACE(i8254_edge, now);
    irq_lower(s->irq);
    irq_raise(s->irq);
    int64_t next = next_rise_ns(&s->channel[0], now);
    if (next >= 0) { /* a tiny count must not keep the main loop from everything else */
        timer_set(&s->edge, MAX(next, now + MIN_PERIOD_NS));
    }
}

/* ---- programming ---- */
static void load(I8254State *s, int n, uint16_t value)
{
    PitChannel *c = &s->channel[n];
    uint32_t count = value;
    if (c->bcd) { /* digits above nine are taken as they come */
        count = (value >> 12) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 + (value & 15);
        count = count > 10000 ? 10000 : count;
    }
    c->count = count ? count : c->bcd ? 10000 : 65536;
    c->loaded = true;
    TRACE(i8254_load, n, c->mode, c->count);
    if (gate_pauses(c)) {
        c->start_ns = now_ns(s);
        c->frozen = 0;
    }
    if (n == 0) {
        update_irq(s);
    }
}

static void latch_count(I8254State *s, PitChannel *c)
{
    if (!c->latched) {
        c->latch = counter(c, now_ns(s));
        c->latched = c->rw == RW_WORD ? 2 : 1;
        if (c->rw == RW_MSB) {
            c->latch >>= 8;
        }
    }
}

static void latch_status(I8254State *s, PitChannel *c)
{
    if (!c->status_latched) {
        c->status = (output(c, now_ns(s)) ? STATUS_OUT : 0) | (c->loaded ? 0 : STATUS_NULL_COUNT) |
                    c->rw << 4 | c->mode << 1 | c->bcd;
        c->status_latched = true;
    }
}

static void write_control(I8254State *s, uint8_t value)
{
    unsigned which = value >> 6;
    if (which == READ_BACK) {
        for (int n = 0; n < CHANNELS; n++) {
            if (value & (2u << n)) {
                if (!(value & READ_BACK_NO_COUNT)) {
                    latch_count(s, &s->channel[n]);
                }
                if (!(value & READ_BACK_NO_STATUS)) {
                    latch_status(s, &s->channel[n]);
                }
            }
        }
        return;
    }
    PitChannel *c = &s->channel[which];
    unsigned rw = value >> 4 & 3;
    if (rw == RW_LATCH) {
        latch_count(s, c);
        return;
    }
    c->rw = rw;
    c->mode = value >> 1 & 7;
    c->mode = c->mode > 5 ? c->mode - 4 : c->mode; /* bit 2 does not matter in modes 2 and 3 */
    c->bcd = value & 1;
    c->loaded = c->triggered = c->write_high = c->read_high = false;
    c->latched = 0;
    c->status_latched = false;
    c->frozen = 0;
    if (which == 0) {
        update_irq(s);
    }
}

static void write_count(I8254State *s, int n, uint8_t value)
{
    PitChannel *c = &s->channel[n];
    switch (c->rw) {
    case RW_LSB:
        load(s, n, value);
        break;
    case RW_MSB:
        load(s, n, value << 8);
        break;
    default:
        if (!c->write_high) {
            c->write_low = value;
            c->write_high = true;
        } else {
            c->write_high = false;
            load(s, n, c->write_low | value << 8);
        }
        break;
    }
}

/* *changed: what was latched, or which byte comes next. */
static uint8_t read_count(I8254State *s, PitChannel *c, bool *changed)
{
    *changed = true;
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->latched) {
        uint8_t value = c->latch;
        c->latch >>= 8;
        c->latched--;
        return value;
    }
    uint16_t value = counter(c, now_ns(s));
    *changed = c->rw != RW_LSB && c->rw != RW_MSB;
    if (c->rw == RW_LSB) {
        return value;
    }
    if (c->rw == RW_MSB) {
        return value >> 8;
    }
    c->read_high = !c->read_high;
    return c->read_high ? value : value >> 8;
}

static void set_gate(I8254State *s, int n, bool gate)
{
    PitChannel *c = &s->channel[n];
    int64_t now = now_ns(s);
    if (gate == c->gate) {
        return;
    }
    if (!gate) {
        c->frozen = elapsed(c, now);
        c->gate = false;
        return;
    }
    c->gate = true;
    if (c->mode == 0 || c->mode == 4) { /* goes on where it stopped */
        c->start_ns = now - ticks_to_ns(c->frozen);
    } else {
        c->start_ns = now;
        c->triggered = true;
    }
}

/* ---- ports ---- */
static uint64_t pit_read(void *opaque, hwaddr offset, unsigned size)
{
    I8254State *s = opaque;
    if (offset == CONTROL) {
        return 0;
    }
    pull(s);
    bool changed;
    uint8_t value = read_count(s, &s->channel[offset], &changed);
    if (changed) {
        push(s);
    }
    return value;
}

static void pit_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    I8254State *s = opaque;
    TRACE(i8254_write, (unsigned)offset, (unsigned)value);
    pull(s);
    if (offset == CONTROL) {
        write_control(s, value);
    } else {
        write_count(s, offset, value);
    }
    push(s);
}

static const MemoryRegionOps pit_ops = {
    .read = pit_read,
    .write = pit_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 1 },
};

static uint64_t speaker_read(void *opaque, hwaddr offset, unsigned size)
{
    I8254State *s = opaque;
    int64_t now = now_ns(s);
    pull(s);
    return (s->channel[2].gate ? SPEAKER_GATE : 0) | (s->speaker_data ? SPEAKER_DATA : 0) |
           (now / REFRESH_PERIOD_NS & 1 ? SPEAKER_REFRESH : 0) |
           (output(&s->channel[2], now) ? SPEAKER_OUT : 0);
}

static void speaker_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    I8254State *s = opaque;
    pull(s);
    s->speaker_data = value & SPEAKER_DATA;
    set_gate(s, 2, value & SPEAKER_GATE);
    push(s);
}

static const MemoryRegionOps speaker_ops = {
    .read = speaker_read,
    .write = speaker_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

/* ---- life ---- */
static void i8254_reset(Device *dev)
{
    I8254State *s = I8254(dev);
    for (int n = 0; n < CHANNELS; n++) {
        s->channel[n] = (PitChannel){ .count = 65536, .mode = 3, .rw = RW_WORD, .gate = n != 2 };
        s->channel[n].start_ns = now_ns(s);
    }
    s->speaker_data = s->silenced = false;
    if (s->firmware_preset) {
        s->channel[0].loaded = true;
    }
    update_irq(s);
    push(s);
}

static bool i8254_realize(Device *dev, GError **error)
{
    I8254State *s = I8254(dev);
    const DeviceEnv *env = dev->env;
    if (!env || !env->system_io || !env->clocks || !env->loop) {
        return error_set(error, "%s needs I/O ports and a clock", TYPE_I8254);
    }
    if (!s->irq && env->isa_irqs) {
        s->irq = env->isa_irqs[0];
    }
    timer_init(&s->edge, env->loop, env->clocks, CLOCK_TYPE_VIRTUAL, edge_due, s, &dev->lock);
    for (int n = 0; n < CHANNELS; n++) {
        s->channel[n] = (PitChannel){ .count = 65536, .mode = 3, .rw = RW_WORD, .gate = n != 2 };
    }
    const X86Chips *chips = apic_bus_chips(env->apic_bus);
    if (chips && chips->pit_create(chips->opaque)) {
        s->remote = chips;
        if (env->vm && env->vm->add_run_handler) {
            env->vm->add_run_handler(env->vm->opaque, run_changed, s);
        }
    }
    memory_region_init_io(&s->ports, s, &pit_ops, s, "pit", 4, &dev->lock);
    memory_region_init_io(&s->speaker_io, s, &speaker_ops, s, "pcspk", 1, &dev->lock);
    memory_region_add(env->system_io, PIT_PORT, &s->ports);
    memory_region_add(env->system_io, SPEAKER_PORT, &s->speaker_io);
    return true;
}

static void i8254_unrealize(Device *dev)
{
    I8254State *s = I8254(dev);
    if (s->remote && dev->env->vm && dev->env->vm->remove_handlers) {
        dev->env->vm->remove_handlers(dev->env->vm->opaque, s);
    }
    memory_region_del(dev->env->system_io, &s->ports);
    memory_region_del(dev->env->system_io, &s->speaker_io);
    memory_region_destroy(&s->ports);
    memory_region_destroy(&s->speaker_io);
    timer_destroy(&s->edge);
}

static void control_set(void *opaque, int n, bool level)
{
    I8254State *s = opaque;
    home_lock(&s->parent_obj.lock);
    pull(s);
    s->silenced = !level;
    update_irq(s);
    push(s);
    home_unlock(&s->parent_obj.lock);
}

IrqLine *i8254_control_line(Device *dev)
{
    I8254State *s = I8254(dev);
    s->control = (IrqLine){ .handler = control_set, .opaque = s };
    return &s->control;
}

void i8254_set_irq(Device *dev, IrqLine *out0)
{
    I8254(dev)->irq = out0;
}

static bool i8254_post_load(void *opaque, int version, GError **error)
{
    I8254State *s = opaque;
    for (int n = 0; n < CHANNELS; n++) {
        PitChannel *c = &s->channel[n];
        if (c->count == 0 || c->count > 65536 || c->mode > 5 || c->rw < RW_LSB || c->rw > RW_WORD ||
            c->latched > 2 || c->bcd > 1 || c->start_ns < 0) {
            return error_set(error, "%s: impossible state of channel %d", TYPE_I8254, n);
        }
    }
    if (s->remote) {
        timer_cancel(&s->edge);
    }
    return push(s) || error_set(error, "%s: the accelerator does not take it", TYPE_I8254);
}

/* The next edge, for a machine where the timer counts here. */
static bool i8254_pre_save(void *opaque, GError **error)
{
    I8254State *s = opaque;
    if (!s->remote) {
        return true;
    }
    bool ok = pull(s);
    int64_t next = next_rise_ns(&s->channel[0], now_ns(s));
    if (next >= 0 && !s->silenced) {
        timer_set(&s->edge, next);
    } else {
        timer_cancel(&s->edge);
    }
    return ok || error_set(error, "%s: the accelerator does not give its state", TYPE_I8254);
}

static const VmStateField channel_fields[] = {
    VMS_UINT32(count, PitChannel),
    VMS_INT64(start_ns, PitChannel),
    VMS_UINT64(frozen, PitChannel),
    VMS_UINT16(latch, PitChannel),
    VMS_UINT8(latched, PitChannel),
    VMS_UINT8(status, PitChannel),
    VMS_UINT8(write_low, PitChannel),
    VMS_UINT8(mode, PitChannel),
    VMS_UINT8(rw, PitChannel),
    VMS_UINT8(bcd, PitChannel),
    VMS_BOOL(status_latched, PitChannel),
    VMS_BOOL(write_high, PitChannel),
    VMS_BOOL(read_high, PitChannel),
    VMS_BOOL(loaded, PitChannel),
    VMS_BOOL(gate, PitChannel),
    VMS_BOOL(triggered, PitChannel),
    VMS_END,
};
static const VmState channel_vmstate = {
    .name = "i8254-channel",
    .version = 1,
    .minimum_version = 1,
    .fields = channel_fields,
};

static const VmStateField i8254_fields[] = {
    VMS_STRUCT_ARRAY(channel, I8254State, CHANNELS, channel_vmstate),
    VMS_TIMER(edge, I8254State),
    VMS_BOOL(speaker_data, I8254State),
    VMS_BOOL(silenced, I8254State),
    VMS_END,
};
static const VmState i8254_vmstate = {
    .name = "i8254",
    .version = 1,
    .minimum_version = 1,
    .fields = i8254_fields,
    .pre_save = i8254_pre_save,
    .post_load = i8254_post_load,
};

static const Property i8254_properties[] = {
    PROP_FULL("firmware-preset", I8254State, firmware_preset, bool, property_type_bool,
              "reset to what PC firmware leaves", .has_default = true, .may_set = device_property_any_time),
    PROP_END,
};

static void i8254_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = i8254_realize;
    dc->unrealize = i8254_unrealize;
    dc->reset = i8254_reset;
    dc->vmstate = &i8254_vmstate;
    dc->hotpluggable = false;
    object_class_add_properties(klass, i8254_properties);
}

static const TypeInfo i8254_info = {
    .name = TYPE_I8254,
    .parent = TYPE_DEVICE,
    .description = "8254 interval timer",
    .instance_size = sizeof(I8254State),
    .class_init = i8254_class_init,
};
TYPE_REGISTER(i8254_info);
