/*
 * The local APIC, xAPIC and x2APIC. SDM vol. 3 chapter 10 (section numbers below are of that chapter).
 *
 * Invariants:
 * 1. IRR and TMR are set by any thread, atomically, TMR before IRR; everything else belongs to the vCPU's thread. (The
 *    destination registers, which senders read, are plain words that are loaded and stored whole.)
 * 2. CPU_INTERRUPT_HARD is set after an IRR bit was set, by whoever set it. Only the vCPU's thread clears it, in
 *    apic_update(), and looks again afterwards.
 * Left out: CMCI, thermal and performance interrupts have no source here (their LVT entries hold what is written).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/apic.h"

#include "arch/x86/cpuid.h"
#include "arch/x86/system.h"
#include "base/error.h"
#include "base/log.h"
#include "trace/trace.h"
#include "vmstate/vmstate.h"

#include <string.h>

/* Register numbers: the MMIO offset over 16, and the low part of the x2APIC MSR (table 10-6). */
enum {
    REG_ID = 0x02, REG_VERSION = 0x03, REG_TPR = 0x08, REG_APR = 0x09, REG_PPR = 0x0a, REG_EOI = 0x0b, REG_RRD = 0x0c,
    REG_LDR = 0x0d, REG_DFR = 0x0e, REG_SVR = 0x0f, REG_ISR = 0x10, REG_TMR = 0x18, REG_IRR = 0x20, REG_ESR = 0x28,
    REG_LVT_CMCI = 0x2f, REG_ICR = 0x30, REG_ICR_HIGH = 0x31, REG_LVT_TIMER = 0x32, REG_LVT_THERMAL = 0x33,
    REG_LVT_PERF = 0x34, REG_LVT_LINT0 = 0x35, REG_LVT_LINT1 = 0x36, REG_LVT_ERROR = 0x37, REG_TIMER_INITIAL = 0x38,
    REG_TIMER_CURRENT = 0x39, REG_TIMER_DIVIDE = 0x3e, REG_SELF_IPI = 0x3f,
};
enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define VERSION_VALUE   (0x14 | (LVT_COUNT - 1) << 16)
#define BASE_BSP        (1u << 8)
#define BASE_X2APIC     (1u << 10)
#define BASE_ENABLE     (1u << 11)
#define BASE_DEFAULT    0xfee00000u
#define SVR_ENABLE      (1u << 8)
#define SVR_FOCUS       (1u << 9)
#define LVT_MASKED      (1u << 16)
#define LVT_LEVEL       (1u << 15)
#define LVT_REMOTE_IRR  (1u << 14)
#define LVT_PENDING     (1u << 12)
#define LVT_TIMER_MODE  (3u << 17)
#define TIMER_ONESHOT   (0u << 17)
#define TIMER_PERIODIC  (1u << 17)
#define TIMER_DEADLINE  (2u << 17)
#define ESR_SEND_ILLEGAL    (1u << 5)
#define ESR_RECEIVE_ILLEGAL (1u << 6)
#define ESR_REGISTER        (1u << 7)
#define ICR_BUSY        (1u << 12)
#define ICR_VALID       0x000ccfffu /* bits that exist but for delivery status */

/* The timer counts the bus clock: 1 GHz, a tick a nanosecond before the divider. */

#define BUS_MAX 4096

struct ApicBus {
    X86Apic *apics[BUS_MAX]; /* by X86Cpu.index; atomic */
    unsigned limit;          /* no APIC at or beyond it; atomic */
    struct {
        void (*fn)(void *opaque, uint8_t vector);
        void *opaque;
    } eoi_handlers[4];
    unsigned eoi_handler_count;
    int (*pic_acknowledge)(void *opaque);
    void *pic_opaque;
    bool pic_line; /* atomic */
};

struct X86Apic {
    X86Cpu *cpu;
    ApicBus *bus;
    uint64_t base;
    uint32_t id; /* the xAPIC ID register, bits 31 to 24 */
    uint32_t tpr, ldr, dfr, svr, esr, esr_shadow, divide;
    uint64_t icr;
    uint32_t lvt[LVT_COUNT];
    uint32_t irr[8], tmr[8]; /* atomic */
    uint32_t isr[8];
    uint32_t sipi_vector; /* atomic */
    uint32_t timer_initial;
    int64_t timer_start_ns;   /* when the present count began; virtual clock */
    int64_t timer_expire_ns;  /* INT64_MAX: not armed */
    uint64_t tsc_deadline;
};

TRACE_EVENT(apic_accept, "cpu %u mode %u vector 0x%02x level %u")
TRACE_EVENT(apic_acknowledge, "cpu %u vector %d")
TRACE_EVENT(apic_write, "cpu %u register 0x%02x value 0x%08x")
TRACE_EVENT(apic_icr, "cpu %u icr 0x%016" G_GINT64_MODIFIER "x")

static inline bool is_x2apic(const X86Apic *s)
{
    return (s->base & (BASE_ENABLE | BASE_X2APIC)) == (BASE_ENABLE | BASE_X2APIC);
}

static inline bool is_enabled(const X86Apic *s)
{
    return __atomic_load_n(&s->base, __ATOMIC_RELAXED) & BASE_ENABLE;
}

static inline bool is_software_enabled(const X86Apic *s)
{
    return __atomic_load_n(&s->svr, __ATOMIC_RELAXED) & SVR_ENABLE;
}

static bool bit_test(const uint32_t *bits, unsigned n)
{
    return __atomic_load_n(&bits[n / 32], __ATOMIC_RELAXED) >> (n % 32) & 1;
}

static void bit_set(uint32_t *bits, unsigned n)
{
    __atomic_fetch_or(&bits[n / 32], 1u << (n % 32), __ATOMIC_SEQ_CST);
}

static void bit_clear(uint32_t *bits, unsigned n)
{
    __atomic_fetch_and(&bits[n / 32], ~(1u << (n % 32)), __ATOMIC_SEQ_CST);
}

static int bit_highest(const uint32_t *bits)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t word = __atomic_load_n(&bits[i], __ATOMIC_SEQ_CST);
        if (word) {
            return i * 32 + 31 - __builtin_clz(word);
        }
    }
    return -1;
}

/* 10.8.3.1 */
static uint8_t processor_priority(const X86Apic *s)
{
    int in_service = bit_highest(s->isr);
    uint8_t class = in_service < 0 ? 0 : in_service & 0xf0;
    return (s->tpr & 0xf0) >= class ? s->tpr : class;
}

/* ---- taking interrupts ---- */

/* Whether the 8259's INTR reaches this CPU: through LINT0 as ExtINT, or directly with the APIC off. */
static bool accepts_pic(const X86Apic *s)
{
    if (!is_enabled(s)) {
        return s->base & BASE_BSP;
    }
    uint32_t lint0 = __atomic_load_n(&s->lvt[LVT_LINT0], __ATOMIC_RELAXED);
    return !(lint0 & LVT_MASKED) && ((lint0 >> 8) & 7) == APIC_EXTINT;
}

static bool pic_pending(const X86Apic *s)
{
    return __atomic_load_n(&s->bus->pic_line, __ATOMIC_SEQ_CST) && accepts_pic(s);
}

/* The vector that TPR and ISR let through, or -1. */
static int deliverable(const X86Apic *s)
{
    if (!is_enabled(s) || !is_software_enabled(s)) {
        return -1;
    }
    int vector = bit_highest(s->irr);
    return vector >= 0 && (vector & 0xf0) > (processor_priority(s) & 0xf0) ? vector : -1;
}

bool apic_has_interrupt(X86Apic *s)
{
    return deliverable(s) >= 0 || pic_pending(s);
}

/* Keeps CPU_INTERRUPT_HARD in step (invariant 2). */
static void apic_update(X86Apic *s)
{
    if (!apic_has_interrupt(s)) {
        cpu_interrupt_clear(s->cpu, CPU_INTERRUPT_HARD);
        if (!apic_has_interrupt(s)) {
            return;
        }
    }
    cpu_interrupt(s->cpu, CPU_INTERRUPT_HARD);
}

int apic_acknowledge(X86Apic *s)
{
    int vector = deliverable(s);
    if (vector >= 0) {
        bit_clear(s->irr, vector);
        bit_set(s->isr, vector);
    } else if (pic_pending(s) && s->bus->pic_acknowledge) {
        vector = s->bus->pic_acknowledge(s->bus->pic_opaque);
    }
    apic_update(s);
    TRACE(apic_acknowledge, s->cpu->index, vector);
    return vector;
}

static void raise_error(X86Apic *s, uint32_t bit);

/* Puts a vector into IRR. [any thread] */
static void accept_vector(X86Apic *s, uint8_t vector, bool level)
{
    if (level) {
        bit_set(s->tmr, vector);
    } else {
        bit_clear(s->tmr, vector);
    }
    bit_set(s->irr, vector);
    cpu_interrupt(s->cpu, CPU_INTERRUPT_HARD);
}

/* [any thread] */
static void accept_message(X86Apic *s, const ApicMessage *m)
{
    TRACE(apic_accept, s->cpu->index, m->mode, m->vector, m->level);
    switch (m->mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        if (!is_software_enabled(s)) {
            break;
        }
        if (m->vector < 16) {
            __atomic_fetch_or(&s->esr_shadow, ESR_RECEIVE_ILLEGAL, __ATOMIC_RELAXED);
            break;
        }
        accept_vector(s, m->vector, m->level);
        break;
    case APIC_SMI:
        cpu_interrupt(s->cpu, CPU_INTERRUPT_SMI);
        break;
    case APIC_NMI:
        cpu_interrupt(s->cpu, CPU_INTERRUPT_NMI);
        break;
    case APIC_INIT:
        cpu_interrupt(s->cpu, CPU_INTERRUPT_INIT);
        break;
    case APIC_SIPI:
        __atomic_store_n(&s->sipi_vector, m->vector, __ATOMIC_RELEASE);
        cpu_interrupt(s->cpu, CPU_INTERRUPT_SIPI);
        break;
    case APIC_EXTINT:
        cpu_interrupt(s->cpu, CPU_INTERRUPT_HARD); /* the 8259 is asked for the vector, if its line is up */
        break;
    case APIC_RESERVED:
        break;
    }
}

/* A local source: timer, LINT pins, error. vCPU's thread or, for LINT pins, any. */
static void local_interrupt(X86Apic *s, int entry)
{
    uint32_t lvt = __atomic_load_n(&s->lvt[entry], __ATOMIC_RELAXED);
    if (lvt & LVT_MASKED) {
        return;
    }
    ApicMessage m = { .vector = lvt & 0xff, .mode = (lvt >> 8) & 7 };
    if (entry == LVT_TIMER || entry == LVT_ERROR) {
        m.mode = APIC_FIXED;
    }
    if (entry == LVT_LINT0 || entry == LVT_LINT1) {
        m.level = lvt & LVT_LEVEL;
    }
    accept_message(s, &m);
}

/* 10.5.3: errors are gathered until the register is written. */
static void raise_error(X86Apic *s, uint32_t bit)
{
    uint32_t before = __atomic_fetch_or(&s->esr_shadow, bit, __ATOMIC_RELAXED);
    if (!(before & bit)) {
        local_interrupt(s, LVT_ERROR);
    }
}

static void end_of_interrupt(X86Apic *s)
{
    int vector = bit_highest(s->isr);
    if (vector < 0) {
        return;
    }
    bit_clear(s->isr, vector);
    if (bit_test(s->tmr, vector)) {
        for (unsigned i = 0; i < s->bus->eoi_handler_count; i++) {
            s->bus->eoi_handlers[i].fn(s->bus->eoi_handlers[i].opaque, vector);
        }
    }
    apic_update(s);
}

/* ---- the bus ---- */

ApicBus *apic_bus_new(void)
{
    return g_new0(ApicBus, 1);
}

void apic_bus_free(ApicBus *bus)
{
    g_free(bus);
}

static X86Apic *bus_get(const ApicBus *bus, unsigned index)
{
    return __atomic_load_n(&bus->apics[index], __ATOMIC_ACQUIRE);
}

static unsigned bus_limit(const ApicBus *bus)
{
    return __atomic_load_n(&bus->limit, __ATOMIC_ACQUIRE);
}

/* 10.6.2 */
static bool matches(const X86Apic *s, const ApicMessage *m)
{
    if (!is_enabled(s)) {
        return false;
    }
    uint32_t dest = m->destination;
    if (m->wide ? dest == UINT32_MAX : dest == 0xff) {
        return true;
    }
    if (!m->logical) {
        return is_x2apic(s) ? dest == s->cpu->apic_id : dest == s->id >> 24;
    }
    if (is_x2apic(s)) {
        uint32_t id = s->cpu->apic_id;
        return dest >> 16 == id >> 4 && (dest & 0xffff) >> (id & 0xf) & 1;
    }
    uint32_t ldr = __atomic_load_n(&s->ldr, __ATOMIC_RELAXED) >> 24;
    uint32_t dfr = __atomic_load_n(&s->dfr, __ATOMIC_RELAXED) >> 28;
    if (dfr == 0xf) {
        return dest & ldr & 0xff;
    }
    return dfr == 0 && (dest & 0xf0) == (ldr & 0xf0) && (dest & ldr & 0xf);
}

void apic_bus_deliver(ApicBus *bus, const ApicMessage *m)
{
    if (m->mode == APIC_INIT && m->level && !m->assert_) {
        return; /* INIT level de-assert only set arbitration IDs */
    }
    X86Apic *lowest = NULL;
    uint8_t lowest_priority = 0xff;
    for (unsigned i = 0; i < bus_limit(bus); i++) {
        X86Apic *s = bus_get(bus, i);
        if (!s || !matches(s, m)) {
            continue;
        }
        if (m->mode != APIC_LOWEST) {
            accept_message(s, m);
        } else if (is_software_enabled(s)) {
            uint8_t priority = __atomic_load_n(&s->tpr, __ATOMIC_RELAXED);
            /* Among equals the vector chooses, so that sources spread and each stays where it is. */
            if (!lowest || priority < lowest_priority || (priority == lowest_priority && (m->vector & 1) == (i & 1))) {
                lowest = s;
                lowest_priority = priority;
            }
        }
    }
    if (lowest) {
        accept_message(lowest, m);
    }
}

void apic_bus_msi(ApicBus *bus, uint64_t address, uint32_t data)
{
    const ApicMessage m = {
        .destination = (address >> 12 & 0xff),
        .logical = address >> 2 & 1,
        .mode = address >> 3 & 1 && (data >> 8 & 7) == APIC_FIXED ? APIC_LOWEST : (ApicDeliveryMode)(data >> 8 & 7),
        .vector = data & 0xff,
        .level = data >> 15 & 1,
        .assert_ = data >> 14 & 1,
    };
    apic_bus_deliver(bus, &m);
}

void apic_bus_add_eoi_handler(ApicBus *bus, void (*fn)(void *opaque, uint8_t vector), void *opaque)
{
    g_assert(bus->eoi_handler_count < G_N_ELEMENTS(bus->eoi_handlers));
    bus->eoi_handlers[bus->eoi_handler_count].fn = fn;
    bus->eoi_handlers[bus->eoi_handler_count++].opaque = opaque;
}

void apic_bus_set_pic(ApicBus *bus, int (*acknowledge)(void *opaque), void *opaque)
{
    bus->pic_acknowledge = acknowledge;
    bus->pic_opaque = opaque;
}

void apic_bus_set_pic_line(ApicBus *bus, bool level)
{
    bool before = __atomic_exchange_n(&bus->pic_line, level, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < bus_limit(bus); i++) {
        X86Apic *s = bus_get(bus, i);
        if (!s || !(s->base & BASE_BSP) || !level) {
            continue; /* a lowered line is noticed when the vCPU looks */
        }
        uint32_t lint0 = __atomic_load_n(&s->lvt[LVT_LINT0], __ATOMIC_RELAXED);
        if (accepts_pic(s)) {
            cpu_interrupt(s->cpu, CPU_INTERRUPT_HARD);
        } else if (is_enabled(s) && !before && ((lint0 >> 8) & 7) != APIC_EXTINT) {
            local_interrupt(s, LVT_LINT0);
        }
    }
}

void apic_bus_nmi(ApicBus *bus)
{
    for (unsigned i = 0; i < bus_limit(bus); i++) {
        X86Apic *s = bus_get(bus, i);
        if (!s) {
            continue;
        }
        if (is_enabled(s)) {
            local_interrupt(s, LVT_LINT1);
        } else {
            cpu_interrupt(s->cpu, CPU_INTERRUPT_NMI);
        }
    }
}

/* ---- the timer, 10.5.4 ---- */

static int64_t now_ns(const X86Apic *s)
{
    return clock_now_ns(s->cpu->env.clocks, CLOCK_TYPE_VIRTUAL);
}

static unsigned divide_shift(const X86Apic *s)
{
    unsigned value = (s->divide & 3) | (s->divide >> 1 & 4);
    return (value + 1) & 7;
}

static int64_t period_ns(const X86Apic *s)
{
    return (int64_t)s->timer_initial << divide_shift(s);
}

static void timer_changed(X86Apic *s)
{
    if (cpu_timer_hook) {
        cpu_timer_hook(s->cpu);
    }
}

static void timer_arm_deadline(X86Apic *s)
{
    X86Cpu *cpu = s->cpu;
    s->timer_expire_ns = INT64_MAX;
    if (s->tsc_deadline && cpu->tsc_khz) {
        uint64_t tsc = x86_tsc(cpu);
        int64_t now = now_ns(s);
        if (s->tsc_deadline <= tsc) {
            s->timer_expire_ns = now;
        } else {
            __uint128_t wait = (__uint128_t)(s->tsc_deadline - tsc) * 1000000 / cpu->tsc_khz + 1;
            s->timer_expire_ns = wait > INT64_MAX / 2 ? INT64_MAX : now + (int64_t)wait;
        }
    }
}

static void timer_restart(X86Apic *s)
{
    s->timer_start_ns = now_ns(s);
    if ((s->lvt[LVT_TIMER] & LVT_TIMER_MODE) == TIMER_DEADLINE) {
        timer_arm_deadline(s);
    } else {
        s->timer_expire_ns = s->timer_initial ? s->timer_start_ns + period_ns(s) : INT64_MAX;
    }
    timer_changed(s);
}

static uint32_t timer_current(const X86Apic *s)
{
    if ((s->lvt[LVT_TIMER] & LVT_TIMER_MODE) == TIMER_DEADLINE || !s->timer_initial) {
        return 0;
    }
    int64_t elapsed = now_ns(s) - s->timer_start_ns, period = period_ns(s);
    if ((s->lvt[LVT_TIMER] & LVT_TIMER_MODE) == TIMER_PERIODIC) {
        elapsed %= period;
    } else if (elapsed >= period) {
        return 0;
    }
    return s->timer_initial - (uint32_t)(elapsed >> divide_shift(s));
}

int64_t apic_timer_deadline_ns(X86Apic *s)
{
    return s->timer_expire_ns;
}

void apic_timer_expired(X86Apic *s)
{
    int64_t now = now_ns(s);
    if (s->timer_expire_ns > now) {
        timer_changed(s); /* too early, or re-armed meanwhile */
        return;
    }
    switch (s->lvt[LVT_TIMER] & LVT_TIMER_MODE) {
    case TIMER_PERIODIC: {
        /* Periods that passed unseen are one interrupt: the guest would not catch up with more. */
        int64_t period = MAX(period_ns(s), 1);
        s->timer_start_ns += (now - s->timer_start_ns) / period * period;
        s->timer_expire_ns = s->timer_initial ? s->timer_start_ns + period : INT64_MAX;
        break;
    }
    case TIMER_DEADLINE:
        if (s->tsc_deadline > x86_tsc(s->cpu)) {
            timer_arm_deadline(s);
            timer_changed(s);
            return;
        }
        s->tsc_deadline = 0;
        s->timer_expire_ns = INT64_MAX;
        break;
    default:
        s->timer_expire_ns = INT64_MAX;
    }
    local_interrupt(s, LVT_TIMER);
    timer_changed(s);
}

/* ---- registers ---- */

static void send_ipi(X86Apic *s)
{
    TRACE(apic_icr, s->cpu->index, s->icr);
    ApicMessage m = {
        .destination = is_x2apic(s) ? s->icr >> 32 : s->icr >> 56,
        .wide = is_x2apic(s),
        .logical = s->icr >> 11 & 1,
        .mode = (ApicDeliveryMode)(s->icr >> 8 & 7),
        .vector = s->icr & 0xff,
        .level = s->icr >> 15 & 1,
        .assert_ = s->icr >> 14 & 1,
    };
    unsigned shorthand = s->icr >> 18 & 3;
    if ((m.mode == APIC_FIXED || m.mode == APIC_LOWEST) && m.vector < 16) {
        raise_error(s, ESR_SEND_ILLEGAL);
        /* The message goes out all the same: the receiver notes it, too. */
    }
    if (m.mode != APIC_INIT) {
        m.level = false; /* only INIT has a trigger mode; other IPIs are edges */
    }
    if (shorthand == 0) {
        apic_bus_deliver(s->bus, &m);
        return;
    }
    if (m.mode == APIC_INIT && s->icr >> 15 & 1 && !m.assert_) {
        return;
    }
    for (unsigned i = 0; i < bus_limit(s->bus); i++) {
        X86Apic *target = bus_get(s->bus, i);
        if (!target || !is_enabled(target) || (shorthand == 1 && target != s) || (shorthand == 3 && target == s)) {
            continue;
        }
        accept_message(target, &m);
    }
}

static int lvt_index(unsigned reg)
{
    return reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR ? (int)(reg - REG_LVT_TIMER) : -1;
}

/* Bits that a guest may write in each LVT entry (figure 10-8). */
static uint32_t lvt_mask(const X86Apic *s, int entry)
{
    switch (entry) {
    case LVT_TIMER:
        return 0x000100ff | (cpu_has_feature(s->cpu, FEAT_1_ECX, CPUID_EXT_TSC_DEADLINE) ? LVT_TIMER_MODE
                                                                                        : TIMER_PERIODIC);
    case LVT_THERMAL:
    case LVT_PERF:
        return 0x000107ff;
    case LVT_ERROR:
        return 0x000100ff;
    default:
        return 0x0001a7ff;
    }
}

/* false: no such register (ESR bit in xAPIC mode, #GP in x2APIC mode). */
static bool register_read(X86Apic *s, unsigned reg, uint64_t *value)
{
    int entry = lvt_index(reg);
    if (entry >= 0) {
        *value = s->lvt[entry];
        return true;
    }
    switch (reg) {
    case REG_ID:
        *value = is_x2apic(s) ? s->cpu->apic_id : s->id;
        return true;
    case REG_VERSION:
        *value = VERSION_VALUE;
        return true;
    case REG_TPR:
        *value = s->tpr;
        return true;
    case REG_PPR:
        *value = processor_priority(s);
        return true;
    case REG_APR:
    case REG_RRD:
    case REG_EOI:
        *value = 0;
        return !is_x2apic(s);
    case REG_LDR:
        *value = is_x2apic(s) ? (s->cpu->apic_id >> 4) << 16 | 1u << (s->cpu->apic_id & 0xf) : s->ldr;
        return true;
    case REG_DFR:
        *value = s->dfr;
        return !is_x2apic(s);
    case REG_SVR:
        *value = s->svr;
        return true;
    case REG_ISR ... REG_ISR + 7:
        *value = s->isr[reg - REG_ISR];
        return true;
    case REG_TMR ... REG_TMR + 7:
        *value = __atomic_load_n(&s->tmr[reg - REG_TMR], __ATOMIC_RELAXED);
        return true;
    case REG_IRR ... REG_IRR + 7:
        *value = __atomic_load_n(&s->irr[reg - REG_IRR], __ATOMIC_RELAXED);
        return true;
    case REG_ESR:
        *value = s->esr;
        return true;
    case REG_ICR:
        *value = is_x2apic(s) ? s->icr : (uint32_t)s->icr;
        return true;
    case REG_ICR_HIGH:
        *value = s->icr >> 32;
        return !is_x2apic(s);
    case REG_TIMER_INITIAL:
        *value = s->timer_initial;
        return true;
    case REG_TIMER_CURRENT:
        *value = timer_current(s);
        return true;
    case REG_TIMER_DIVIDE:
        *value = s->divide;
        return true;
    default:
        *value = 0;
        return false;
    }
}

static void lvt_write(X86Apic *s, int entry, uint32_t value)
{
    uint32_t before = s->lvt[entry];
    value &= lvt_mask(s, entry);
    if (!is_software_enabled(s)) {
        value |= LVT_MASKED;
    }
    __atomic_store_n(&s->lvt[entry], value, __ATOMIC_RELAXED);
    if (entry == LVT_TIMER && ((before ^ value) & LVT_TIMER_MODE)) {
        /* A change to or from deadline mode disarms the timer; between the others it goes on. */
        if ((before & LVT_TIMER_MODE) == TIMER_DEADLINE || (value & LVT_TIMER_MODE) == TIMER_DEADLINE) {
            s->tsc_deadline = 0;
            s->timer_initial = 0;
            s->timer_expire_ns = INT64_MAX;
            timer_changed(s);
        } else if (s->timer_initial && (value & LVT_TIMER_MODE) == TIMER_PERIODIC &&
                   s->timer_expire_ns == INT64_MAX) {
            timer_restart(s);
        }
    }
    if (entry == LVT_LINT0) {
        apic_update(s);
    }
}

static bool register_write(X86Apic *s, unsigned reg, uint64_t value)
{
    bool x2apic = is_x2apic(s);
    TRACE(apic_write, s->cpu->index, reg, (uint32_t)value);
    int entry = lvt_index(reg);
    if (entry >= 0) {
        if (x2apic && value & ~(uint64_t)(lvt_mask(s, entry) | LVT_PENDING | LVT_REMOTE_IRR)) {
            return false;
        }
        lvt_write(s, entry, value);
        return true;
    }
    switch (reg) {
    case REG_ID:
        if (x2apic) {
            return false;
        }
        __atomic_store_n(&s->id, (uint32_t)value & 0xff000000, __ATOMIC_RELAXED);
        return true;
    case REG_TPR:
        if (x2apic && value >> 8) {
            return false;
        }
        apic_set_tpr(s, value);
        return true;
    case REG_EOI:
        if (x2apic && value) {
            return false;
        }
        end_of_interrupt(s);
        return true;
    case REG_LDR:
        if (x2apic) {
            return false;
        }
        __atomic_store_n(&s->ldr, (uint32_t)value & 0xff000000, __ATOMIC_RELAXED);
        return true;
    case REG_DFR:
        if (x2apic) {
            return false;
        }
        __atomic_store_n(&s->dfr, (uint32_t)value | 0x0fffffff, __ATOMIC_RELAXED);
        return true;
    case REG_SVR:
        if (x2apic && value & ~(uint64_t)(SVR_ENABLE | SVR_FOCUS | 0xff)) {
            return false;
        }
        __atomic_store_n(&s->svr, (uint32_t)value & (SVR_ENABLE | SVR_FOCUS | 0xff), __ATOMIC_RELAXED);
        if (!(value & SVR_ENABLE)) {
            for (int i = 0; i < LVT_COUNT; i++) {
                __atomic_fetch_or(&s->lvt[i], LVT_MASKED, __ATOMIC_RELAXED);
            }
        }
        apic_update(s);
        return true;
    case REG_ESR:
        if (x2apic && value) {
            return false;
        }
        s->esr = __atomic_exchange_n(&s->esr_shadow, 0, __ATOMIC_RELAXED);
        return true;
    case REG_ICR:
        if (x2apic) {
            if (value & ~(UINT64_C(0xffffffff00000000) | ICR_VALID)) {
                return false;
            }
            s->icr = value;
        } else {
            s->icr = (s->icr & UINT64_C(0xffffffff00000000)) | (value & ICR_VALID);
        }
        send_ipi(s);
        return true;
    case REG_ICR_HIGH:
        if (x2apic) {
            return false;
        }
        s->icr = (uint32_t)s->icr | (value & 0xff000000) << 32;
        return true;
    case REG_TIMER_INITIAL:
        if (x2apic && value >> 32) {
            return false;
        }
        if ((s->lvt[LVT_TIMER] & LVT_TIMER_MODE) != TIMER_DEADLINE) {
            s->timer_initial = value;
            timer_restart(s);
        }
        return true;
    case REG_TIMER_DIVIDE:
        if (x2apic && value & ~UINT64_C(0xb)) {
            return false;
        }
        s->divide = value & 0xb;
        if (s->timer_initial) {
            timer_restart(s);
        }
        return true;
    case REG_SELF_IPI:
        if (!x2apic || value >> 8) {
            return false;
        }
        {
            const ApicMessage m = { .mode = APIC_FIXED, .vector = value };
            if (m.vector < 16) {
                raise_error(s, ESR_SEND_ILLEGAL);
            }
            accept_message(s, &m);
        }
        return true;
    default:
        return false;
    }
}

bool apic_owns(X86Apic *s, uint64_t gpa)
{
    return (s->base & (BASE_ENABLE | BASE_X2APIC)) == BASE_ENABLE &&
           (gpa & ~UINT64_C(0xfff)) == (s->base & ~UINT64_C(0xfff));
}

uint32_t apic_mmio_read(X86Apic *s, uint32_t offset)
{
    uint64_t value = 0;
    if ((offset & 0xf) == 0 && !register_read(s, offset >> 4 & 0xff, &value)) {
        raise_error(s, ESR_REGISTER);
    }
    return (uint32_t)value;
}

void apic_mmio_write(X86Apic *s, uint32_t offset, uint32_t value)
{
    unsigned reg = offset >> 4 & 0xff;
    if (offset & 0xf) {
        return;
    }
    if (!register_write(s, reg, value)) {
        /* Registers that can only be read are no error (10.5.3); those that do not exist are. */
        uint64_t ignored;
        if (!register_read(s, reg, &ignored)) {
            raise_error(s, ESR_REGISTER);
        }
    }
}

bool apic_msr_read(X86Apic *s, uint32_t index, uint64_t *value)
{
    return is_x2apic(s) && index >= 0x800 && index <= 0x8ff && register_read(s, index - 0x800, value);
}

bool apic_msr_write(X86Apic *s, uint32_t index, uint64_t value)
{
    if (!is_x2apic(s) || index < 0x800 || index > 0x8ff || (value >> 32 && index != 0x800 + REG_ICR)) {
        return false;
    }
    return register_write(s, index - 0x800, value);
}

bool apic_tsc_deadline_read(X86Apic *s, uint64_t *value)
{
    if (!cpu_has_feature(s->cpu, FEAT_1_ECX, CPUID_EXT_TSC_DEADLINE)) {
        return false;
    }
    *value = s->tsc_deadline;
    return true;
}

bool apic_tsc_deadline_write(X86Apic *s, uint64_t value)
{
    if (!cpu_has_feature(s->cpu, FEAT_1_ECX, CPUID_EXT_TSC_DEADLINE)) {
        return false;
    }
    if ((s->lvt[LVT_TIMER] & LVT_TIMER_MODE) == TIMER_DEADLINE) {
        s->tsc_deadline = value;
        timer_arm_deadline(s);
        timer_changed(s);
    }
    return true;
}

uint8_t apic_get_tpr(X86Apic *s)
{
    return s->tpr;
}

void apic_set_tpr(X86Apic *s, uint8_t tpr)
{
    __atomic_store_n(&s->tpr, tpr, __ATOMIC_RELAXED);
    s->cpu->cr8 = tpr >> 4;
    apic_update(s);
}

uint8_t apic_sipi_vector(X86Apic *s)
{
    return __atomic_load_n(&s->sipi_vector, __ATOMIC_ACQUIRE);
}

uint64_t apic_get_base(X86Apic *s)
{
    return s->base;
}

static void reset_registers(X86Apic *s)
{
    s->tpr = 0;
    s->cpu->cr8 = 0;
    s->ldr = 0;
    s->dfr = UINT32_MAX;
    s->svr = 0xff;
    s->esr = s->esr_shadow = 0;
    s->icr = 0;
    s->divide = 0;
    s->timer_initial = 0;
    s->timer_expire_ns = INT64_MAX;
    s->tsc_deadline = 0;
    for (int i = 0; i < LVT_COUNT; i++) {
        s->lvt[i] = LVT_MASKED;
    }
    memset(s->irr, 0, sizeof(s->irr));
    memset(s->isr, 0, sizeof(s->isr));
    memset(s->tmr, 0, sizeof(s->tmr));
    timer_changed(s);
}

/* 10.12.5: off -> xAPIC -> x2APIC -> off; xAPIC -> off. Everything else is #GP. */
bool apic_set_base(X86Apic *s, uint64_t value)
{
    uint64_t physical = (UINT64_C(1) << s->cpu->phys_bits) - 1;
    uint64_t writable = (physical & ~UINT64_C(0xfff)) | BASE_ENABLE | BASE_BSP;
    if (cpu_has_feature(s->cpu, FEAT_1_ECX, CPUID_EXT_X2APIC)) {
        writable |= BASE_X2APIC;
    }
    if (value & ~writable) {
        return false;
    }
    bool was_enabled = s->base & BASE_ENABLE, was_x2apic = s->base & BASE_X2APIC;
    bool enable = value & BASE_ENABLE, x2apic = value & BASE_X2APIC;
    if ((x2apic && !enable) || (was_x2apic && enable && !x2apic) || (!was_enabled && x2apic)) {
        return false;
    }
    if (was_enabled && !enable) {
        reset_registers(s);
    }
    __atomic_store_n(&s->base, value, __ATOMIC_RELAXED);
    if (x2apic && !was_x2apic) {
        s->icr &= UINT32_MAX;
    }
    apic_update(s);
    return true;
}

void apic_reset(X86Apic *s, bool is_init)
{
    reset_registers(s);
    if (!is_init) {
        s->id = s->cpu->apic_id << 24;
        s->base = BASE_DEFAULT | BASE_ENABLE | (s->cpu->index == 0 ? BASE_BSP : 0);
        if (s->base & BASE_BSP) {
            /* Virtual wire mode, as firmware leaves it: the 8259's line comes through LINT0 as ExtINT. */
            s->lvt[LVT_LINT0] = APIC_EXTINT << 8;
        }
    } else if (is_x2apic(s)) {
        s->base &= ~(uint64_t)BASE_X2APIC;
    }
    cpu_interrupt_clear(s->cpu, CPU_INTERRUPT_HARD | CPU_INTERRUPT_TIMER);
}

X86Apic *apic_new(X86Cpu *cpu, ApicBus *bus)
{
    g_assert(cpu->index < BUS_MAX);
    X86Apic *s = g_new0(X86Apic, 1);
    s->cpu = cpu;
    s->bus = bus;
    s->timer_expire_ns = INT64_MAX;
    __atomic_store_n(&bus->apics[cpu->index], s, __ATOMIC_RELEASE);
    if (cpu->index >= bus->limit) {
        __atomic_store_n(&bus->limit, cpu->index + 1, __ATOMIC_RELEASE);
    }
    return s;
}

/* The machine stands still: nobody sends now. */
void apic_free(X86Apic *s)
{
    if (s) {
        __atomic_store_n(&s->bus->apics[s->cpu->index], NULL, __ATOMIC_RELEASE);
        g_free(s);
    }
}

/* ---- state ---- */

static bool apic_post_load(void *opaque, int version, GError **error)
{
    X86Apic *s = opaque;
    uint64_t base = s->base;
    if ((base & BASE_X2APIC) && !(base & BASE_ENABLE)) {
        return error_set(error, "apic: base 0x%" G_GINT64_MODIFIER "x enables x2APIC without the APIC", base);
    }
    if (s->divide & ~0xbu || s->sipi_vector > 0xff || s->tpr > 0xff) {
        return error_set(error, "apic: a register has bits that do not exist");
    }
    for (int i = 0; i < LVT_COUNT; i++) {
        s->lvt[i] &= lvt_mask(s, i) | LVT_TIMER_MODE;
    }
    s->cpu->cr8 = s->tpr >> 4;
    apic_update(s);
    timer_changed(s);
    return true;
}

static const VmStateField apic_fields[] = {
    VMS_UINT64(base, X86Apic),
    VMS_UINT32(id, X86Apic),
    VMS_UINT32(tpr, X86Apic),
    VMS_UINT32(ldr, X86Apic),
    VMS_UINT32(dfr, X86Apic),
    VMS_UINT32(svr, X86Apic),
    VMS_UINT32(esr, X86Apic),
    VMS_UINT32(esr_shadow, X86Apic),
    VMS_UINT32(divide, X86Apic),
    VMS_UINT64(icr, X86Apic),
    VMS_UINT32(lvt, X86Apic),
    VMS_UINT32(irr, X86Apic),
    VMS_UINT32(tmr, X86Apic),
    VMS_UINT32(isr, X86Apic),
    VMS_UINT32(sipi_vector, X86Apic),
    VMS_UINT32(timer_initial, X86Apic),
    VMS_INT64(timer_start_ns, X86Apic),
    VMS_INT64(timer_expire_ns, X86Apic),
    VMS_UINT64(tsc_deadline, X86Apic),
    VMS_END,
};

const VmState apic_vmstate = {
    .name = TYPE_APIC,
    .version = 1,
    .minimum_version = 1,
    .fields = apic_fields,
    .post_load = apic_post_load,
};
