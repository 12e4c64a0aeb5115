/*
 * The MC146818 real-time clock and its CMOS RAM. Sources: Motorola MC146818A data sheet; 82371SB data sheet
 * for the port pair; the century byte at 0x32 as PC firmware has it.
 *
 * Time is not stepped: the registers follow from a clock and an offset, and the flags of register C from what
 * has passed since it was read last. A timer runs only while an interrupt is enabled that is not pending yet.
 * Left out on purpose: the square-wave output, daylight saving (DSE reads back and does nothing).
 *
 * Threads: ports in vCPUs' threads, interrupts in the main loop, all under the HomeLock.
 *
 * Invariant: while the clock runs (running()), cmos[] bytes of the time are stale and clock + offset_ns is
 * the truth; while it is set or its divider is held, cmos[] is the truth. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "hw/timer/mc146818rtc.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(mc146818rtc_read, "index 0x%02x value 0x%02x");
TRACE_EVENT(mc146818rtc_write, "index 0x%02x value 0x%02x");
TRACE_EVENT(mc146818rtc_irq, "flags 0x%02x level %d");

enum { RTC_PORT = 0x70, RTC_IRQ = 8, CMOS_SIZE = 128 };
enum {
    RTC_SECONDS = 0,
    RTC_SECONDS_ALARM = 1,
    RTC_MINUTES = 2,
    RTC_MINUTES_ALARM = 3,
    RTC_HOURS = 4,
    RTC_HOURS_ALARM = 5,
    RTC_WEEKDAY = 6,
    RTC_DAY = 7,
    RTC_MONTH = 8,
    RTC_YEAR = 9,
    RTC_A = 10,
    RTC_B = 11,
    RTC_C = 12,
    RTC_D = 13,
    RTC_CENTURY = 0x32,
};
enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_DIVIDER_HELD = 0x60, A_RATE = 0x0f, A_RESET = 0x26 };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_SQWE = 0x08, B_BINARY = 0x04, B_24H = 0x02 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10 };
enum { D_VALID = 0x80, ALARM_ANY = 0xc0, HOUR_PM = 0x80 };
#define NS_PER_SECOND   1000000000ll
#define UIP_NS          244000 /* the update cycle is announced this long before it */
#define CRYSTAL_HZ      32768
#define SLEW_LIMIT      1000 /* lost periodic interrupts that are made up for at most */
#define SECONDS_PER_DAY 86400
#define TIME_MIN_S      (-2208988800ll) /* 1900 */
#define TIME_MAX_S      9000000000ll    /* 2255 */

static const char *const clock_names[] = { "host", "rt", "vm" };
static const EnumLookup clock_lookup = { .name = "RtcClock", .names = clock_names, .count = 3 };
static const char *const policy_names[] = { "discard", "delay", "merge", "slew" };
static const EnumLookup policy_lookup = { .name = "LostTickPolicy", .names = policy_names, .count = 4 };
enum { POLICY_DISCARD, POLICY_DELAY, POLICY_MERGE, POLICY_SLEW };

typedef struct RtcState {
    Device parent_obj;
    /* saved */
    uint8_t cmos[CMOS_SIZE];
    uint8_t index;
    int64_t offset_ns;               /* guest time of day (as if UTC, since 1970) is the clock plus this */
    int64_t frozen_ns;               /* guest time when it stopped running */
    int64_t second_seen, alarm_seen; /* up to where UF and AF have been looked at, in guest seconds */
    int64_t period_seen;             /* the same for PF, in periods */
    Timer event;
    /* derived and configured */
    MemoryRegion ports;
    IrqLine *irq;
    char *base;
    int clock, lost_tick_policy, base_year;
} RtcState;
#define RTC(obj) OBJECT_CHECK(RtcState, obj, TYPE_MC146818_RTC)

/* ---- time ---- */
static ClockType clock_type(const RtcState *s)
{
    static const ClockType types[] = { CLOCK_TYPE_HOST, CLOCK_TYPE_REALTIME, CLOCK_TYPE_VIRTUAL };
    return types[s->clock];
}

static int64_t clock_ns(const RtcState *s)
{
    return clock_now_ns(s->parent_obj.env->clocks, clock_type(s));
}

static bool running(const RtcState *s)
{
    return !(s->cmos[RTC_B] & B_SET) && (s->cmos[RTC_A] & A_DIVIDER_HELD) != A_DIVIDER_HELD;
}

static int64_t guest_ns(const RtcState *s)
{
    return running(s) ? clock_ns(s) + s->offset_ns : s->frozen_ns;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t sub_second_ns(int64_t ns)
{
    return ns - floor_div(ns, NS_PER_SECOND) * NS_PER_SECOND;
}

static uint8_t to_register(const RtcState *s, int value)
{
    return s->cmos[RTC_B] & B_BINARY ? value : (value / 10) << 4 | value % 10;
}

static int from_register(const RtcState *s, uint8_t value)
{
    return s->cmos[RTC_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t hour_to_register(const RtcState *s, int hour)
{
    if (s->cmos[RTC_B] & B_24H) {
        return to_register(s, hour);
    }
    int twelve = hour % 12 == 0 ? 12 : hour % 12;
    return to_register(s, twelve) | (hour >= 12 ? HOUR_PM : 0);
}

static int hour_from_register(const RtcState *s, uint8_t value)
{
    if (s->cmos[RTC_B] & B_24H) {
        return from_register(s, value);
    }
    int hour = from_register(s, value & ~HOUR_PM) % 12;
    return value & HOUR_PM ? hour + 12 : hour;
}

static void seconds_to_tm(int64_t seconds, struct tm *tm)
{
    time_t t = seconds;
    memset(tm, 0, sizeof(*tm));
    gmtime_r(&t, tm);
}

/* Brings cmos[] up to date. */
static void time_to_cmos(RtcState *s)
{
    struct tm tm;
    seconds_to_tm(floor_div(guest_ns(s), NS_PER_SECOND), &tm);
    int year = tm.tm_year + 1900 - s->base_year;
    year = year < 0 ? 0 : year > 9999 ? 9999 : year;
    s->cmos[RTC_SECONDS] = to_register(s, tm.tm_sec);
    s->cmos[RTC_MINUTES] = to_register(s, tm.tm_min);
    s->cmos[RTC_HOURS] = hour_to_register(s, tm.tm_hour);
    s->cmos[RTC_WEEKDAY] = to_register(s, tm.tm_wday + 1);
    s->cmos[RTC_DAY] = to_register(s, tm.tm_mday);
    s->cmos[RTC_MONTH] = to_register(s, tm.tm_mon + 1);
    s->cmos[RTC_YEAR] = to_register(s, year % 100);
    s->cmos[RTC_CENTURY] = to_register(s, year / 100);
}

static int64_t cmos_to_seconds(const RtcState *s)
{
    struct tm tm = {
        .tm_sec = from_register(s, s->cmos[RTC_SECONDS]),
        .tm_min = from_register(s, s->cmos[RTC_MINUTES]),
        .tm_hour = hour_from_register(s, s->cmos[RTC_HOURS]),
        .tm_mday = from_register(s, s->cmos[RTC_DAY]),
        .tm_mon = from_register(s, s->cmos[RTC_MONTH]) - 1,
        .tm_year = from_register(s, s->cmos[RTC_CENTURY]) * 100 + from_register(s, s->cmos[RTC_YEAR]) +
                   s->base_year - 1900,
    };
    /* Whatever a guest put there, the sum is some second; one that nanoseconds in 64 bits can tell. */
    return CLAMP((int64_t)timegm(&tm), TIME_MIN_S, TIME_MAX_S);
}

/* ---- interrupts ---- */

/* Length of a periodic interrupt's period in crystal ticks; 0: none. */
static uint32_t period_ticks(const RtcState *s)
{
    unsigned rate = s->cmos[RTC_A] & A_RATE;
    if (rate == 0 || (s->cmos[RTC_A] & A_DIVIDER_HELD) == A_DIVIDER_HELD) {
        return 0;
    }
    return 1u << ((rate <= 2 ? rate + 7 : rate) - 1);
}

/* Guest time in periods; the dividers go on while the time is being set. */
static int64_t periods(const RtcState *s, uint32_t ticks)
{
    __int128 crystal = (__int128)(clock_ns(s) + s->offset_ns) * CRYSTAL_HZ / NS_PER_SECOND;
    return (int64_t)(crystal / ticks);
}

static bool alarm_matches(uint8_t alarm, int wanted, int value)
{
    return (alarm & ALARM_ANY) == ALARM_ANY || wanted == value;
}

/* The first second after `after` at which the alarm goes off; INT64_MAX: never. */
static int64_t next_alarm(const RtcState *s, int64_t after)
{
    const uint8_t *cmos = s->cmos;
    int hour = hour_from_register(s, cmos[RTC_HOURS_ALARM]);
    int minute = from_register(s, cmos[RTC_MINUTES_ALARM]);
    int second = from_register(s, cmos[RTC_SECONDS_ALARM]);
    int64_t t = after + 1, end = t + SECONDS_PER_DAY;
    while (t < end) {
        int64_t of_day = t - floor_div(t, SECONDS_PER_DAY) * SECONDS_PER_DAY;
        if (!alarm_matches(cmos[RTC_HOURS_ALARM], hour, of_day / 3600)) {
            t += 3600 - of_day % 3600;
        } else if (!alarm_matches(cmos[RTC_MINUTES_ALARM], minute, of_day / 60 % 60)) {
            t += 60 - of_day % 60;
        } else if (!alarm_matches(cmos[RTC_SECONDS_ALARM], second, of_day % 60)) {
            t++;
        } else {
            return t;
        }
    }
    return INT64_MAX;
}

static void forget_past(RtcState *s)
{
    uint32_t ticks = period_ticks(s);
    s->second_seen = s->alarm_seen = floor_div(guest_ns(s), NS_PER_SECOND);
    s->period_seen = ticks ? periods(s, ticks) : 0;
}

/* Notes in register C what has happened up to now, drives the line, and arms the timer for what comes next.
 */
static void sync_events(RtcState *s)
{
    uint8_t b = s->cmos[RTC_B], *c = &s->cmos[RTC_C];
    int64_t now = guest_ns(s), second = floor_div(now, NS_PER_SECOND), next = INT64_MAX;
    uint32_t ticks = period_ticks(s);
    if (running(s)) {
        if (second > s->second_seen) {
            *c |= C_UF;
        }
        if (!(*c & C_AF)) {
            int64_t alarm = next_alarm(s, s->alarm_seen);
            if (alarm <= second) {
                *c |= C_AF;
            } else if ((b & B_AIE) && alarm != INT64_MAX) {
                next = MIN(next, alarm * NS_PER_SECOND);
            }
        }
        if ((b & B_UIE) && !(*c & C_UF)) {
            next = MIN(next, (second + 1) * NS_PER_SECOND);
        }
        s->second_seen = MAX(s->second_seen, second);
        s->alarm_seen = MAX(s->alarm_seen, second);
    }
    int64_t next_clock = next == INT64_MAX ? INT64_MAX : next - s->offset_ns;
    if (ticks) {
        int64_t period = periods(s, ticks);
        if (period > s->period_seen) {
            *c |= C_PF;
        } else if ((b & B_PIE) && !(*c & C_PF)) {
            __int128 at =
                ((__int128)(s->period_seen + 1) * ticks * NS_PER_SECOND + CRYSTAL_HZ - 1) / CRYSTAL_HZ;
            next_clock = MIN(next_clock, (int64_t)at - s->offset_ns);
        }
    }
    bool level = b & *c & (C_PF | C_AF | C_UF);
    *c = level ? *c | C_IRQF : *c & ~C_IRQF;
    TRACE(mc146818rtc_irq, *c, level);
    irq_set(s->irq, level);
    if (next_clock != INT64_MAX && next_clock >= 0) {
        timer_set(&s->event, next_clock);
    } else {
        timer_cancel(&s->event);
    }
}

static void event_due(void *opaque)
{
    sync_events(opaque);
}

static uint8_t read_c(RtcState *s)
{
    sync_events(s);
    uint8_t value = s->cmos[RTC_C];
    uint32_t ticks = period_ticks(s);
    s->cmos[RTC_C] = 0;
    if (ticks) {
        int64_t period = periods(s, ticks);
        /* Slewing hands out every period that passed, one a read, so that a guest which counts ticks keeps
         * time. */
        s->period_seen =
            s->lost_tick_policy == POLICY_SLEW ? MAX(s->period_seen + 1, period - SLEW_LIMIT) : period;
        s->period_seen = MIN(s->period_seen, period);
    }
    irq_lower(s->irq);
    sync_events(s);
    return value;
}

/* ---- registers ---- */

/* After registers A or B changed: starts or stops the time. */
static void running_changed(RtcState *s, bool was_running, int64_t was_ns, bool divider_was_held)
{
    if (was_running && !running(s)) {
        s->frozen_ns = was_ns;
    } else if (!was_running && running(s)) {
        /* The sub-second part comes from the divider chain, which starts half-way after it was held. */
        int64_t chain = clock_ns(s) + s->offset_ns;
        int64_t fraction = divider_was_held ? NS_PER_SECOND / 2 : sub_second_ns(chain);
        s->offset_ns = cmos_to_seconds(s) * NS_PER_SECOND + fraction - clock_ns(s);
        forget_past(s);
    }
}

static void write_control(RtcState *s, uint8_t index, uint8_t value)
{
    bool was_running = running(s);
    bool was_held = (s->cmos[RTC_A] & A_DIVIDER_HELD) == A_DIVIDER_HELD;
    int64_t was_ns = guest_ns(s);
    if (was_running) {
        time_to_cmos(s); /* in the old format, which a change of it must not reinterpret */
    }
    uint8_t old_b = s->cmos[RTC_B];
    if (index == RTC_A) {
        s->cmos[RTC_A] = value & ~A_UIP;
        if (period_ticks(s)) {
            s->period_seen = periods(s, period_ticks(s));
        }
    } else {
        s->cmos[RTC_B] = value & B_SET ? value & ~B_UIE : value;
    }
    running_changed(s, was_running, was_ns, was_held);
    if (running(s) && ((old_b ^ s->cmos[RTC_B]) & (B_BINARY | B_24H))) {
        time_to_cmos(s);
    }
    /* An enable that comes on shows what is pending, but no period that passed unseen before. */
    if (period_ticks(s) && (s->cmos[RTC_B] & ~old_b & B_PIE)) {
        s->period_seen = periods(s, period_ticks(s));
    }
    sync_events(s);
}

static void cmos_write(RtcState *s, uint8_t index, uint8_t value)
{
    TRACE(mc146818rtc_write, index, value);
    switch (index) {
    case RTC_SECONDS_ALARM:
    case RTC_MINUTES_ALARM:
    case RTC_HOURS_ALARM:
        sync_events(s);
        s->cmos[index] = value;
        sync_events(s);
        break;
    case RTC_SECONDS:
    case RTC_MINUTES:
    case RTC_HOURS:
    case RTC_WEEKDAY:
    case RTC_DAY:
    case RTC_MONTH:
    case RTC_YEAR:
    case RTC_CENTURY:
        if (!running(s)) {
            s->cmos[index] = value;
            s->frozen_ns = cmos_to_seconds(s) * NS_PER_SECOND;
            break;
        }
        time_to_cmos(s);
        s->cmos[index] = value;
        s->offset_ns = cmos_to_seconds(s) * NS_PER_SECOND + sub_second_ns(guest_ns(s)) - clock_ns(s);
        forget_past(s);
        sync_events(s);
        break;
    case RTC_A:
    case RTC_B:
        write_control(s, index, value);
        break;
    case RTC_C:
    case RTC_D:
        break; /* read-only */
    default:
        s->cmos[index] = value;
        break;
    }
}

static uint8_t cmos_read(RtcState *s, uint8_t index)
{
    switch (index) {
    case RTC_SECONDS:
    case RTC_MINUTES:
    case RTC_HOURS:
    case RTC_WEEKDAY:
    case RTC_DAY:
    case RTC_MONTH:
    case RTC_YEAR:
    case RTC_CENTURY:
        if (running(s)) {
            time_to_cmos(s);
        }
        return s->cmos[index];
    case RTC_A: {
        int64_t into = sub_second_ns(guest_ns(s));
        return s->cmos[RTC_A] | (running(s) && into >= NS_PER_SECOND - UIP_NS ? A_UIP : 0);
    }
    case RTC_C:
        return read_c(s);
    case RTC_D:
        return D_VALID;
    default:
        return s->cmos[index];
    }
}

/* ---- ports ---- */
static uint64_t rtc_read(void *opaque, hwaddr offset, unsigned size)
{
    RtcState *s = opaque;
    if (offset == 0) {
        return 0xff; /* the index cannot be read back */
    }
    uint8_t value = cmos_read(s, s->index);
    TRACE(mc146818rtc_read, s->index, value);
    return value;
}

static void rtc_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    RtcState *s = opaque;
    if (offset == 0) {
        s->index = value & (CMOS_SIZE - 1); /* bit 7 is the NMI mask, which nothing here drives */
    } else {
        cmos_write(s, s->index, value);
    }
}

static const MemoryRegionOps rtc_ops = {
    .read = rtc_read,
    .write = rtc_write,
    .valid = { .min = 1, .max = 2 },
    .impl = { .min = 1, .max = 1 },
};

/* ---- for the board ---- */
void mc146818rtc_set_cmos(Device *dev, uint8_t index, uint8_t value)
{
    g_assert(index > RTC_D && index < CMOS_SIZE);
    home_lock(&dev->lock);
    RTC(dev)->cmos[index] = value;
    home_unlock(&dev->lock);
}

void mc146818rtc_set_irq(Device *dev, IrqLine *irq)
{
    RTC(dev)->irq = irq;
}

void mc146818rtc_get_date(Device *dev, struct tm *tm)
{
    RtcState *s = RTC(dev);
    home_lock(&dev->lock);
    seconds_to_tm(floor_div(guest_ns(s), NS_PER_SECOND), tm);
    home_unlock(&dev->lock);
}

static bool date_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    struct tm tm = { 0 };
    if (DEVICE(obj)->realized) {
        mc146818rtc_get_date(DEVICE(obj), &tm);
    }
    int64_t values[] = { tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec };
    static const char *const names[] = { "tm_year", "tm_mon", "tm_mday", "tm_hour", "tm_min", "tm_sec" };
    if (!visit_start_struct(v, name, error)) {
        return false;
    }
    bool ok = true;
    for (size_t i = 0; ok && i < G_N_ELEMENTS(names); i++) {
        ok = visit_int64(v, names[i], &values[i], error);
    }
    visit_end_struct(v);
    return ok;
}

/* ---- life ---- */

/* What the clock shows at start, in seconds since 1970 as if it were UTC. */
static bool parse_base(const RtcState *s, int64_t host_seconds, int64_t *seconds, GError **error)
{
    const char *base = s->base ? s->base : "utc";
    *seconds = host_seconds;
    if (!strcmp(base, "utc")) {
        return true;
    }
    if (!strcmp(base, "localtime")) {
        time_t t = host_seconds;
        struct tm tm = { 0 };
        localtime_r(&t, &tm);
        *seconds = timegm(&tm);
        return true;
    }
    static const char *const formats[] = { "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d" };
    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        struct tm tm = { 0 };
        const char *end = strptime(base, formats[i], &tm);
        if (end && !*end) {
            *seconds = timegm(&tm);
            return true;
        }
    }
    error_set(error, "invalid datetime format: '%s'", base);
    error_append_hint(error, "valid formats: '2006-06-17T16:01:21' or '2006-06-17'");
    return false;
}

static void rtc_reset(Device *dev)
{
    RtcState *s = RTC(dev);
    s->cmos[RTC_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    s->cmos[RTC_C] = 0;
    forget_past(s);
    irq_lower(s->irq);
    sync_events(s);
}

static bool rtc_realize(Device *dev, GError **error)
{
    RtcState *s = RTC(dev);
    const DeviceEnv *env = dev->env;
    int64_t seconds;
    if (!env || !env->system_io || !env->clocks || !env->loop) {
        return error_set(error, "%s needs I/O ports and a clock", TYPE_MC146818_RTC);
    }
    int64_t host_ns = clock_now_ns(env->clocks, CLOCK_TYPE_HOST);
    if (!parse_base(s, host_ns / NS_PER_SECOND, &seconds, error)) {
        return false;
    }
    if (!s->irq && env->isa_irqs) {
        s->irq = env->isa_irqs[RTC_IRQ];
    }
    s->offset_ns = seconds * NS_PER_SECOND + host_ns % NS_PER_SECOND - clock_ns(s);
    s->cmos[RTC_A] = A_RESET;
    s->cmos[RTC_B] = B_24H;
    s->cmos[RTC_D] = D_VALID;
    forget_past(s);
    time_to_cmos(s);
    timer_init(&s->event, env->loop, env->clocks, clock_type(s), event_due, s, &dev->lock);
    memory_region_init_io(&s->ports, s, &rtc_ops, s, "rtc", 2, &dev->lock);
    memory_region_add(env->system_io, RTC_PORT, &s->ports);
    return true;
}

static void rtc_unrealize(Device *dev)
{
    RtcState *s = RTC(dev);
    memory_region_del(dev->env->system_io, &s->ports);
    memory_region_destroy(&s->ports);
    timer_destroy(&s->event);
}

static const Property rtc_properties[] = {
    PROP_STR("base", RtcState, base, "utc", "utc, localtime, or a date"),
    PROP_ENUM("clock", RtcState, clock, clock_lookup, 0, "which clock drives it: host, rt, vm"),
    PROP_ENUM("lost_tick_policy", RtcState, lost_tick_policy, policy_lookup, POLICY_DISCARD,
              "what becomes of periodic interrupts that a guest was too slow for"),
    PROP_INT32("base_year", RtcState, base_year, 0, "year that the registers' 0000 stands for"),
    PROP_END,
};

static bool rtc_pre_save(void *opaque, GError **error)
{
    RtcState *s = opaque;
    if (running(s)) {
        time_to_cmos(s);
    }
    return true;
}

static bool rtc_post_load(void *opaque, int version, GError **error)
{
    RtcState *s = opaque;
    s->index &= CMOS_SIZE - 1;
    s->cmos[RTC_A] &= ~A_UIP;
    __int128 guest = (__int128)clock_ns(s) + s->offset_ns;
    const int64_t seconds[] = { s->second_seen, s->alarm_seen, s->frozen_ns / NS_PER_SECOND,
                                (int64_t)(guest / NS_PER_SECOND) };
    bool ok = s->period_seen >= TIME_MIN_S * CRYSTAL_HZ && s->period_seen <= TIME_MAX_S * CRYSTAL_HZ;
    for (size_t i = 0; i < G_N_ELEMENTS(seconds); i++) {
        ok = ok && seconds[i] >= TIME_MIN_S && seconds[i] <= TIME_MAX_S;
    }
    if (!ok) {
        return error_set(error, "%s: impossible time", TYPE_MC146818_RTC);
    }
    return true;
}

static const VmStateField rtc_fields[] = {
    VMS_BUFFER(cmos, RtcState),       VMS_UINT8(index, RtcState),       VMS_INT64(offset_ns, RtcState),
    VMS_INT64(frozen_ns, RtcState),   VMS_INT64(second_seen, RtcState), VMS_INT64(alarm_seen, RtcState),
    VMS_INT64(period_seen, RtcState), VMS_TIMER(event, RtcState),       VMS_END,
};
static const VmState rtc_vmstate = {
    .name = "mc146818rtc",
    .version = 1,
    .minimum_version = 1,
    .fields = rtc_fields,
    .pre_save = rtc_pre_save,
    .post_load = rtc_post_load,
};

static void rtc_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = rtc_realize;
    dc->unrealize = rtc_unrealize;
    dc->reset = rtc_reset;
    dc->vmstate = &rtc_vmstate;
    dc->hotpluggable = false;
    object_class_add_properties(klass, rtc_properties);
    object_class_property_add(klass, "date", "struct tm", date_get, NULL, NULL);
}

static const TypeInfo rtc_info = {
    .name = TYPE_MC146818_RTC,
    .parent = TYPE_DEVICE,
    .description = "MC146818 real-time clock",
    .instance_size = sizeof(RtcState),
    .class_init = rtc_class_init,
};
TYPE_REGISTER(rtc_info);
