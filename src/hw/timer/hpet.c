/*
 * The high precision event timer block. Source: IA-PC HPET Specification 1.0a, chapters 2.3 (registers)
 * and 2.4 (periodic mode, legacy replacement).
 *
 * Left out on purpose: FSB (message) interrupt delivery; the capability is not offered.
 *
 * Threads: the main counter is read without a lock (it follows from the virtual clock and one word); every
 * other register under the HomeLock; timers fire in the main loop. The legacy lines of the 8254 and the RTC
 * look at one atomic flag.
 *
 * Invariant: while enabled, the counter is virtual time / HPET_TICK_NS + running_base; while halted it is
 * halted_value. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/timer/hpet.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(hpet_write, "offset 0x%03x size %u value 0x%" G_GINT64_MODIFIER "x");
TRACE_EVENT(hpet_fire, "timer %u");

enum { HPET_REGION_SIZE = 0x400, HPET_MIN_TIMERS = 3, HPET_MAX_TIMERS = 24 };
enum {
    HPET_CAPABILITIES = 0x000,
    HPET_CONFIG = 0x010,
    HPET_STATUS = 0x020,
    HPET_COUNTER = 0x0f0,
    HPET_TIMER = 0x100
};
enum { HPET_TIMER_STRIDE = 0x20, TN_CONFIG = 0x00, TN_COMPARATOR = 0x08 };
enum { HPET_ENABLE = 1, HPET_LEGACY = 2 };
enum {
    TN_LEVEL = 1u << 1,
    TN_INT_ENABLE = 1u << 2,
    TN_PERIODIC = 1u << 3,
    TN_PERIODIC_CAP = 1u << 4,
    TN_SIZE_CAP = 1u << 5,
    TN_VALUE_SET = 1u << 6,
    TN_32BIT = 1u << 8,
    TN_ROUTE_SHIFT = 9,
    TN_ROUTE_MASK = 0x1fu << 9,
    TN_WRITABLE = TN_LEVEL | TN_INT_ENABLE | TN_PERIODIC | TN_VALUE_SET | TN_32BIT | TN_ROUTE_MASK,
};
#define HPET_TICK_NS   10
#define HPET_PERIOD_FS 10000000ull
#define MIN_PERIOD_NS  20000
#define HPET_REVISION \
    0x8086a001ull /* Intel, legacy capable, 64 bits, revision 1; the number of timers is added */

typedef struct HpetState HpetState;
typedef struct HpetTimer {
    /* saved */
    uint64_t config; /* the route capability in the high half is added on reading */
    uint64_t comparator, period;
    Timer timer;
    /* derived */
    HpetState *hpet;
    uint8_t index;
} HpetTimer;

struct HpetState {
    Device parent_obj;
    /* saved */
    uint32_t config; /* atomic */
    uint32_t status;
    uint64_t running_base; /* atomic */
    uint64_t halted_value; /* atomic */
    HpetTimer timers[HPET_MAX_TIMERS];
    /* derived and configured */
    MemoryRegion region;
    IrqLine legacy_in[2];
    IrqLine *pit_control;
    uint8_t count;
    uint32_t route_cap;
};
#define HPET(obj) OBJECT_CHECK(HpetState, obj, TYPE_HPET)

/* ---- the main counter ---- */
static uint64_t clock_ticks(const HpetState *s)
{
    return (uint64_t)clock_now_ns(s->parent_obj.env->clocks, CLOCK_TYPE_VIRTUAL) / HPET_TICK_NS;
}

static uint64_t counter_read(const HpetState *s)
{
    if (__atomic_load_n(&s->config, __ATOMIC_ACQUIRE) & HPET_ENABLE) {
        return clock_ticks(s) + __atomic_load_n(&s->running_base, __ATOMIC_RELAXED);
    }
    return __atomic_load_n(&s->halted_value, __ATOMIC_RELAXED);
}

/* ---- interrupts ---- */
static bool legacy(const HpetState *s)
{
    return __atomic_load_n(&s->config, __ATOMIC_RELAXED) & HPET_LEGACY;
}

static const IrqLine *timer_line(const HpetTimer *t)
{
    const DeviceEnv *env = t->hpet->parent_obj.env;
    if (legacy(t->hpet) && t->index < 2) {
        return env->isa_irqs ? env->isa_irqs[t->index == 0 ? 0 : 8] : NULL;
    }
    unsigned route = (t->config & TN_ROUTE_MASK) >> TN_ROUTE_SHIFT;
    return env->gsi && route < 24 ? env->gsi[route] : NULL;
}

static void timer_interrupt(HpetTimer *t)
{
    HpetState *s = t->hpet;
    if (t->config & TN_LEVEL) {
        s->status |= 1u << t->index;
        if (t->config & TN_INT_ENABLE) {
            irq_raise(timer_line(t));
        }
    } else if (t->config & TN_INT_ENABLE) {
        irq_pulse(timer_line(t));
    }
}

static void timer_lower(HpetTimer *t)
{
    if (t->hpet->status & (1u << t->index)) {
        irq_lower(timer_line(t));
    }
}

/* ---- comparators ---- */

/* In periodic mode the comparator moves on by itself: to the first multiple that is not behind the counter.
 */
static void timer_catch_up(HpetTimer *t)
{
    if (!(t->config & TN_PERIODIC) || !t->period || !(t->hpet->config & HPET_ENABLE)) {
        return;
    }
    uint64_t behind = counter_read(t->hpet) - t->comparator;
    if (t->config & TN_32BIT) {
        behind = (uint32_t)behind;
        if ((int32_t)behind >= 0) {
            t->comparator = (uint32_t)(t->comparator + (behind / t->period + 1) * t->period);
        }
    } else if ((int64_t)behind >= 0) {
        t->comparator += (behind / t->period + 1) * t->period;
    }
}

/* Whether anybody would see the timer go off: through its interrupt, or the status bit that level triggering
 * sets. */
static bool timer_wanted(const HpetTimer *t)
{
    return (t->hpet->config & HPET_ENABLE) && (t->config & (TN_INT_ENABLE | TN_LEVEL));
}

/* Arms a timer for its comparator. just_written: a value that has passed already fires at once, since a
 * driver that wrote it a moment ago must not wait for the counter to come round. */
static void timer_arm(HpetTimer *t, bool just_written)
{
    HpetState *s = t->hpet;
    if (!timer_wanted(t)) {
        timer_cancel(&t->timer);
        return;
    }
    if (!just_written) {
        timer_catch_up(t);
    }
    uint64_t now = counter_read(s), wait;
    if (t->config & TN_32BIT) {
        wait = (uint32_t)(t->comparator - now);
        if (just_written && (int32_t)wait <= 0) {
            wait = 0;
        }
    } else {
        wait = t->comparator - now;
        if ((int64_t)wait <= 0) {
            if (!just_written) {
                timer_cancel(&t->timer);
                return;
            }
            wait = 0;
        }
    }
    uint64_t base = (uint64_t)clock_now_ns(s->parent_obj.env->clocks, CLOCK_TYPE_VIRTUAL);
    uint64_t limit = INT64_MAX / 2 / HPET_TICK_NS;
    timer_set(&t->timer, base + (wait > limit ? limit : wait) * HPET_TICK_NS);
}

static void timer_fired(void *opaque)
{
    HpetTimer *t = opaque;
    HpetState *s = t->hpet;
    TRACE(hpet_fire, t->index);
    if ((t->config & TN_PERIODIC) && t->period) {
        timer_catch_up(t);
        timer_arm(t, true);
        /* A guest that asks for a million interrupts a second gets fewer, and the main loop its time. */
        int64_t soonest = clock_now_ns(s->parent_obj.env->clocks, CLOCK_TYPE_VIRTUAL) + MIN_PERIOD_NS;
        if (timer_pending(&t->timer) && timer_expire_ns(&t->timer) < soonest) {
            timer_set(&t->timer, soonest);
        }
    }
    timer_interrupt(t);
}

/* ---- registers; offset is that of a whole 64-bit register ---- */
static uint64_t register_read(HpetState *s, unsigned offset)
{
    switch (offset) {
    case HPET_CAPABILITIES:
        return HPET_PERIOD_FS << 32 | HPET_REVISION | (s->count - 1u) << 8;
    case HPET_CONFIG:
        return s->config;
    case HPET_STATUS:
        return s->status;
    case HPET_COUNTER:
        return counter_read(s);
    default:
        break;
    }
    unsigned n = (offset - HPET_TIMER) / HPET_TIMER_STRIDE;
    if (offset < HPET_TIMER || n >= s->count) {
        return 0;
    }
    HpetTimer *t = &s->timers[n];
    switch (offset % HPET_TIMER_STRIDE) {
    case TN_CONFIG:
        return t->config | TN_PERIODIC_CAP | TN_SIZE_CAP | (uint64_t)s->route_cap << 32;
    case TN_COMPARATOR:
        timer_catch_up(t);
        return t->comparator;
    default:
        return 0;
    }
}

static void config_write(HpetState *s, uint32_t value)
{
    value &= HPET_ENABLE | HPET_LEGACY;
    uint32_t old = s->config;
    if ((value ^ old) & HPET_LEGACY) {
        for (unsigned i = 0; i < s->count; i++) {
            timer_lower(&s->timers[i]);
        }
    }
    if (!(old & HPET_ENABLE) && (value & HPET_ENABLE)) {
        __atomic_store_n(&s->running_base, s->halted_value - clock_ticks(s), __ATOMIC_RELAXED);
    } else if ((old & HPET_ENABLE) && !(value & HPET_ENABLE)) {
        __atomic_store_n(&s->halted_value, counter_read(s), __ATOMIC_RELAXED);
    }
    __atomic_store_n(&s->config, value, __ATOMIC_RELEASE);
    if ((value ^ old) & HPET_LEGACY) {
        irq_set(s->pit_control, !(value & HPET_LEGACY));
    }
    for (unsigned i = 0; i < s->count; i++) {
        if ((value ^ old) & HPET_ENABLE) {
            timer_arm(&s->timers[i], false);
        }
        if ((s->status & (1u << i)) && (s->timers[i].config & TN_INT_ENABLE)) {
            irq_raise(timer_line(&s->timers[i]));
        }
    }
}

static void status_write(HpetState *s, uint32_t value)
{
    for (unsigned i = 0; i < s->count; i++) {
        if (value & s->status & (1u << i)) {
            timer_lower(&s->timers[i]);
            s->status &= ~(1u << i);
        }
    }
}

/* mask: the bits of the register that this access writes. */
static void timer_config_write(HpetTimer *t, uint64_t value, uint64_t mask)
{
    timer_lower(t);
    mask &= TN_WRITABLE;
    t->config = (t->config & ~mask) | (value & mask);
    if (t->config & TN_32BIT) {
        t->comparator = (uint32_t)t->comparator;
        t->period = (uint32_t)t->period;
    }
    if ((t->hpet->status & (1u << t->index)) && (t->config & TN_INT_ENABLE)) {
        irq_raise(timer_line(t));
    }
    timer_arm(t, false);
}

static void timer_comparator_write(HpetTimer *t, uint64_t value, uint64_t mask)
{
    if (t->config & TN_32BIT) {
        mask &= UINT32_MAX;
        if (!mask) {
            return;
        }
    }
    if (!(t->config & TN_PERIODIC) || (t->config & TN_VALUE_SET)) {
        t->comparator = (t->comparator & ~mask) | (value & mask);
    }
    if (t->config & TN_PERIODIC) {
        t->period = (t->period & ~mask) | (value & mask);
    }
    if (mask & UINT32_MAX || !(t->config & TN_PERIODIC)) {
        t->config &= ~(uint64_t)TN_VALUE_SET;
    }
    timer_arm(t, true);
}

static void register_write(HpetState *s, unsigned offset, uint64_t value, uint64_t mask)
{
    switch (offset) {
    case HPET_CONFIG:
        if (mask & UINT32_MAX) {
            config_write(s, (s->config & ~mask) | (value & mask));
        }
        return;
    case HPET_STATUS:
        status_write(s, value & mask);
        return;
    case HPET_COUNTER:
        if (!(s->config & HPET_ENABLE)) { /* may be written only while halted */
            __atomic_store_n(&s->halted_value, (s->halted_value & ~mask) | (value & mask), __ATOMIC_RELAXED);
        }
        return;
    default:
        break;
    }
    unsigned n = (offset - HPET_TIMER) / HPET_TIMER_STRIDE;
    if (offset < HPET_TIMER || n >= s->count) {
        return;
    }
    switch (offset % HPET_TIMER_STRIDE) {
    case TN_CONFIG:
        timer_config_write(&s->timers[n], value, mask);
        break;
    case TN_COMPARATOR:
        timer_comparator_write(&s->timers[n], value, mask);
        break;
    default:
        break;
    }
}

/* ---- memory: 4 or 8 bytes, aligned ---- */
static uint64_t hpet_read(void *opaque, hwaddr offset, unsigned size)
{
    HpetState *s = opaque;
    unsigned shift = 8 * (offset & 7);
    if ((offset & ~7ull) == HPET_COUNTER) {
        return counter_read(s) >> shift;
    }
    if (!home_lock_enter(&s->parent_obj.lock)) {
        return UINT64_MAX;
    }
    uint64_t value = register_read(s, offset & ~7ull) >> shift;
    home_unlock(&s->parent_obj.lock);
    return value;
}

static void hpet_mmio_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    HpetState *s = opaque;
    TRACE(hpet_write, (unsigned)offset, size, value);
    if (!home_lock_enter(&s->parent_obj.lock)) {
        return;
    }
    unsigned shift = 8 * (offset & 7);
    register_write(s, offset & ~7ull, value << shift, (size == 8 ? UINT64_MAX : UINT32_MAX) << shift);
    home_unlock(&s->parent_obj.lock);
}

static const MemoryRegionOps hpet_ops = {
    .read = hpet_read,
    .write = hpet_mmio_write,
    .valid = { .min = 4, .max = 8 },
    .impl = { .min = 4, .max = 8 },
};

/* ---- the 8254's and the RTC's lines ---- */
static void legacy_input(void *opaque, int n, bool level)
{
    HpetState *s = opaque;
    const DeviceEnv *env = s->parent_obj.env;
    if (!legacy(s) && env && env->isa_irqs) {
        irq_set(env->isa_irqs[n == 0 ? 0 : 8], level);
    }
}

IrqLine *hpet_legacy_line(Device *dev, int n)
{
    return &HPET(dev)->legacy_in[n];
}

void hpet_set_pit_control(Device *dev, IrqLine *control)
{
    HPET(dev)->pit_control = control;
}

/* ---- life ---- */
static void hpet_reset(Device *dev)
{
    HpetState *s = HPET(dev);
    for (unsigned i = 0; i < s->count; i++) {
        HpetTimer *t = &s->timers[i];
        timer_cancel(&t->timer);
        timer_lower(t);
        t->config = 0;
        t->comparator = UINT64_MAX;
        t->period = 0;
    }
    s->status = 0;
    if (s->config & HPET_LEGACY) {
        irq_raise(s->pit_control);
    }
    s->config = 0;
    s->halted_value = s->running_base = 0;
}

static bool hpet_realize(Device *dev, GError **error)
{
    HpetState *s = HPET(dev);
    const DeviceEnv *env = dev->env;
    if (!env || !env->system_memory || !env->clocks || !env->loop) {
        return error_set(error, "%s needs memory and a clock", TYPE_HPET);
    }
    if (s->count < HPET_MIN_TIMERS || s->count > HPET_MAX_TIMERS) {
        return error_set(error, "hpet: property 'timers' must be %d to %d", HPET_MIN_TIMERS, HPET_MAX_TIMERS);
    }
    for (unsigned i = 0; i < s->count; i++) {
        HpetTimer *t = &s->timers[i];
        t->hpet = s;
        t->index = i;
        t->comparator = UINT64_MAX;
        timer_init(&t->timer, env->loop, env->clocks, CLOCK_TYPE_VIRTUAL, timer_fired, t, &dev->lock);
    }
    for (int n = 0; n < 2; n++) {
        s->legacy_in[n] = (IrqLine){ .handler = legacy_input, .opaque = s, .n = n };
    }
    memory_region_init_io(&s->region, s, &hpet_ops, s, "hpet", HPET_REGION_SIZE, NULL);
    memory_region_add_overlap(env->system_memory, HPET_ADDRESS, &s->region, 1);
    return true;
}

static void hpet_unrealize(Device *dev)
{
    HpetState *s = HPET(dev);
    memory_region_del(dev->env->system_memory, &s->region);
    memory_region_destroy(&s->region);
    for (unsigned i = 0; i < s->count; i++) {
        timer_destroy(&s->timers[i].timer);
    }
}

static const Property hpet_properties[] = {
    PROP_UINT8("timers", HpetState, count, HPET_MIN_TIMERS, "how many comparators, 3 to 24"),
    PROP_UINT32("hpet-intcap", HpetState, route_cap, 1u << 2, "global system interrupts that timers may use"),
    PROP_END,
};

static bool hpet_post_load(void *opaque, int version, GError **error)
{
    HpetState *s = opaque;
    s->config &= HPET_ENABLE | HPET_LEGACY;
    s->status &= (1u << s->count) - 1;
    for (unsigned i = 0; i < s->count; i++) {
        s->timers[i].config &= TN_WRITABLE;
    }
    return true;
}

static const VmStateField hpet_timer_fields[] = {
    VMS_UINT64(config, HpetTimer),
    VMS_UINT64(comparator, HpetTimer),
    VMS_UINT64(period, HpetTimer),
    VMS_TIMER(timer, HpetTimer),
    VMS_END,
};
static const VmState hpet_timer_vmstate = {
    .name = "hpet-timer",
    .version = 1,
    .minimum_version = 1,
    .fields = hpet_timer_fields,
};

static const VmStateField hpet_fields[] = {
    VMS_UINT32(config, HpetState),
    VMS_UINT32(status, HpetState),
    VMS_UINT64(running_base, HpetState),
    VMS_UINT64(halted_value, HpetState),
    VMS_STRUCT_ARRAY(timers, HpetState, HPET_MAX_TIMERS, hpet_timer_vmstate),
    VMS_END,
};
static const VmState hpet_vmstate = {
    .name = "hpet",
    .version = 1,
    .minimum_version = 1,
    .fields = hpet_fields,
    .post_load = hpet_post_load,
};

static void hpet_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = hpet_realize;
    dc->unrealize = hpet_unrealize;
    dc->reset = hpet_reset;
    dc->vmstate = &hpet_vmstate;
    dc->hotpluggable = false;
    object_class_add_properties(klass, hpet_properties);
}

static const TypeInfo hpet_info = {
    .name = TYPE_HPET,
    .parent = TYPE_DEVICE,
    .description = "high precision event timers",
    .instance_size = sizeof(HpetState),
    .class_init = hpet_class_init,
};
TYPE_REGISTER(hpet_info);
