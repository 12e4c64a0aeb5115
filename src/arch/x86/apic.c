/*
 * The local APIC, SDM vol. 3 chapter 10: xAPIC (memory-mapped) and x2APIC (MSRs), and the bus between them.
 *
 * Left out: focus processor checking, EOI broadcast suppression, CMCI, thermal and performance-counter
 * interrupts (their LVT entries can be written and read). The timer's input clock is 1 GHz.
 *
 * Threads: messages arrive from any thread and only touch irr, tmr (atomic bit operations), sipi_vector and
 * interrupt_request. Everything else belongs to the vCPU's thread; what routing looks at (base, ids, ldr,
 * dfr, svr, tpr) is written with single stores, so that others read an old or a new value. The bus's list is
 * behind a read-write lock, a leaf. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/apic.h"

#include "arch/x86/cpuid.h"
#include "arch/x86/mmu.h"
#include "arch/x86/system.h"
#include "base/error.h"
#include "trace/trace.h"
#include "vmstate/vmstate.h"

TRACE_EVENT(apic_accept, "apic %u mode %d vector %02x level %d");
TRACE_EVENT(apic_write, "apic %u register %03x value %08x");
TRACE_EVENT(apic_timer, "apic %u fires, deadline %ld");

enum { /* register offsets, SDM vol. 3 table 10-1 */
       APIC_ID = 0x20,
       APIC_VERSION = 0x30,
       APIC_TPR = 0x80,
       APIC_APR = 0x90,
       APIC_PPR = 0xa0,
       APIC_EOI = 0xb0,
       APIC_LDR = 0xd0,
       APIC_DFR = 0xe0,
       APIC_SVR = 0xf0,
       APIC_ISR = 0x100,
       APIC_TMR = 0x180,
       APIC_IRR = 0x200,
       APIC_ESR = 0x280,
       APIC_ICR_LOW = 0x300,
       APIC_ICR_HIGH = 0x310,
       APIC_LVT_FIRST = 0x320,
       APIC_LVT_LAST = 0x370,
       APIC_TIMER_INITIAL = 0x380,
       APIC_TIMER_CURRENT = 0x390,
       APIC_TIMER_DIVIDE = 0x3e0,
       APIC_SELF_IPI = 0x3f0,
};
enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define LVT_MASKED           (1u << 16)
#define LVT_MODE(lvt)        (((lvt) >> 8) & 7)
#define TIMER_MODE(lvt)      (((lvt) >> 17) & 3)
#define TIMER_ONE_SHOT       0
#define TIMER_PERIODIC       1
#define TIMER_DEADLINE       2
#define BASE_BSP             (1u << 8)
#define BASE_X2APIC          (1u << 10)
#define BASE_ENABLE          (1u << 11)
#define SVR_ENABLE           (1u << 8)
#define ESR_SEND_ILLEGAL     0x20u
#define ESR_RECV_ILLEGAL     0x40u
#define ESR_ILLEGAL_REGISTER 0x80u
#define VERSION_VALUE        (0x14u | (LVT_COUNT - 1) << 16)

struct X86Apic {
    Object parent_obj;
    X86Cpu *cpu;
    ApicBus *bus;

    /* Written by the vCPU's thread, read by senders too. */
    _Atomic uint64_t base;
    _Atomic uint32_t xapic_id; /* 8 bits; writable in xAPIC mode */
    _Atomic uint32_t tpr, ldr, dfr, svr;
    _Atomic uint32_t lvt[LVT_COUNT];
    uint32_t esr, esr_pending;
    uint64_t icr;
    uint32_t isr[8];
    uint32_t tmr[8], irr[8]; /* atomic */
    uint32_t timer_initial, timer_divide;
    int64_t timer_start_ns;    /* when the current period began */
    int64_t timer_deadline_ns; /* INT64_MAX: does not run */
    uint64_t tsc_deadline;
    uint8_t sipi_vector;
    bool extint;         /* atomic: an ExtINT message came in */
    bool pv_eoi_pending; /* the guest was offered to end the interrupt by clearing a bit in memory */
};

struct ApicBus {
    pthread_rwlock_t lock;
    X86Apic *apics[APIC_BUS_MAX];
    unsigned count;
    int (*pic_acknowledge)(void *opaque);
    void *pic_opaque;
    bool pic_line; /* atomic */
    unsigned round_robin;
    const ApicRemote *remote;
    struct {
        void (*fn)(void *opaque, uint8_t vector);
        void *opaque;
    } eoi_handlers[8];
    unsigned eoi_handler_count;
};

/* ---- 256-bit vectors ---- */

static int highest_bit(const uint32_t bits[8])
{
    for (int i = 7; i >= 0; i--) {
        uint32_t word = __atomic_load_n(&bits[i], __ATOMIC_RELAXED);
        if (word != 0) {
            return i * 32 + 31 - __builtin_clz(word);
        }
    }
    return -1;
}

static void bit_set(uint32_t bits[8], unsigned n)
{
    __atomic_fetch_or(&bits[n / 32], 1u << (n % 32), __ATOMIC_SEQ_CST);
}

static void bit_clear(uint32_t bits[8], unsigned n)
{
    __atomic_fetch_and(&bits[n / 32], ~(1u << (n % 32)), __ATOMIC_SEQ_CST);
}

static bool bit_test(const uint32_t bits[8], unsigned n)
{
    return __atomic_load_n(&bits[n / 32], __ATOMIC_RELAXED) >> (n % 32) & 1;
}

/* ---- what state it is in ---- */

static inline bool apic_enabled(const X86Apic *a)
{
    return a->base & BASE_ENABLE;
}

static inline bool apic_is_x2(const X86Apic *a)
{
    return (a->base & (BASE_ENABLE | BASE_X2APIC)) == (BASE_ENABLE | BASE_X2APIC);
}

static inline bool apic_accepts(const X86Apic *a)
{
    return apic_enabled(a) && (a->svr & SVR_ENABLE);
}

static int64_t now_ns(const X86Apic *a)
{
    return a->cpu->env.clocks ? clock_now_ns(a->cpu->env.clocks, CLOCK_TYPE_VIRTUAL) : 0;
}

static void apic_do_eoi(X86Apic *a);

/* KVM's paravirtual EOI: where the guest has cleared the bit, the interrupt is over; else it is asked for a
 * real EOI. */
static void pv_eoi_sync(X86Apic *a)
{
    if (G_LIKELY(!a->pv_eoi_pending)) {
        return;
    }
    a->pv_eoi_pending = false;
    uint64_t gpa = a->cpu->kvm_pv_eoi & ~UINT64_C(3);
    uint8_t flags = (uint8_t)mmu_physical_load(a->cpu, gpa, 1);
    if (flags & 1) {
        mmu_physical_store(a->cpu, gpa, flags & ~1u, 1);
    } else {
        apic_do_eoi(a);
    }
}

void apic_pv_eoi_settle(X86Apic *a)
{
    pv_eoi_sync(a);
}

static uint32_t apic_ppr(const X86Apic *a)
{
    int in_service = highest_bit(a->isr);
    uint32_t isr_class = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;

    return (a->tpr & 0xf0) >= isr_class ? a->tpr : isr_class;
}

/* Whether the 8259's line reaches this CPU (ExtINT on LINT0, or no APIC at all). */
static bool pic_pending(const X86Apic *a)
{
    if (__atomic_load_n(&a->extint, __ATOMIC_RELAXED)) {
        return true;
    }
    if (!(a->base & BASE_BSP) || !__atomic_load_n(&a->bus->pic_line, __ATOMIC_ACQUIRE)) {
        return false;
    }
    uint32_t lint0 = a->lvt[LVT_LINT0];
    return !apic_enabled(a) || (!(lint0 & LVT_MASKED) && LVT_MODE(lint0) == APIC_EXTINT);
}

/* The vector that TPR and PPR let through, or -1. */
static int apic_pending_vector(const X86Apic *a)
{
    int vector = highest_bit(a->irr);

    return vector >= 0 && apic_enabled(a) && ((uint32_t)vector & 0xf0) > (apic_ppr(a) & 0xf0) ? vector : -1;
}

bool apic_has_interrupt(X86Apic *a)
{
    pv_eoi_sync(a);
    return apic_pending_vector(a) >= 0 || pic_pending(a);
}

/* Makes CPU_INTERRUPT_HARD tell the truth; vCPU's thread. A message that comes in between sets it again. */
static void apic_update(X86Apic *a)
{
    if (apic_pending_vector(a) >= 0 || pic_pending(a)) {
        cpu_interrupt(a->cpu, CPU_INTERRUPT_HARD);
        return;
    }
    cpu_interrupt_clear(a->cpu, CPU_INTERRUPT_HARD);
    if (apic_pending_vector(a) >= 0 || pic_pending(a)) {
        cpu_interrupt(a->cpu, CPU_INTERRUPT_HARD);
    }
}

int apic_acknowledge(X86Apic *a)
{
    pv_eoi_sync(a);
    if (pic_pending(a)) {
        __atomic_store_n(&a->extint, false, __ATOMIC_RELAXED);
        int vector = a->bus->pic_acknowledge ? a->bus->pic_acknowledge(a->bus->pic_opaque) : -1;
        apic_update(a);
        if (vector >= 0) {
            return vector;
        }
    }
    int vector = apic_pending_vector(a);
    if (vector < 0) {
        apic_update(a);
        return -1;
    }
    bool alone = highest_bit(a->isr) < 0;
    bit_clear(a->irr, (unsigned)vector);
    bit_set(a->isr, (unsigned)vector);
    if ((a->cpu->kvm_pv_eoi & 1) && alone && !bit_test(a->tmr, (unsigned)vector) && highest_bit(a->irr) < 0) {
        uint64_t gpa = a->cpu->kvm_pv_eoi & ~UINT64_C(3);
        mmu_physical_store(a->cpu, gpa, mmu_physical_load(a->cpu, gpa, 1) | 1, 1);
        a->pv_eoi_pending = true;
    }
    apic_update(a);
    return vector;
}

static void apic_do_eoi(X86Apic *a)
{
    int vector = highest_bit(a->isr);

    if (vector < 0) {
        return;
    }
    bit_clear(a->isr, (unsigned)vector);
    if (bit_test(a->tmr, (unsigned)vector)) {
        for (unsigned i = 0; i < a->bus->eoi_handler_count; i++) {
            a->bus->eoi_handlers[i].fn(a->bus->eoi_handlers[i].opaque, (uint8_t)vector);
        }
    }
}

static void apic_eoi(X86Apic *a)
{
    if (a->pv_eoi_pending) {
        /* A real EOI although the bit was offered: take the offer back. */
        a->pv_eoi_pending = false;
        uint64_t gpa = a->cpu->kvm_pv_eoi & ~UINT64_C(3);
        mmu_physical_store(a->cpu, gpa, mmu_physical_load(a->cpu, gpa, 1) & ~UINT64_C(1), 1);
    }
    apic_do_eoi(a);
    apic_update(a);
}

/* ---- messages ---- */

static void apic_error(X86Apic *a, uint32_t bit);

static void apic_accept(X86Apic *a, const ApicMessage *m)
{
    TRACE(apic_accept, a->cpu->apic_id, (int)m->mode, m->vector, m->level);
    switch (m->mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        if (!apic_accepts(a)) {
            return;
        }
        if (m->vector < 16) {
            __atomic_fetch_or(&a->esr_pending, ESR_RECV_ILLEGAL, __ATOMIC_RELAXED);
            return;
        }
        if (m->level) {
            bit_set(a->tmr, m->vector);
        } else {
            bit_clear(a->tmr, m->vector);
        }
        bit_set(a->irr, m->vector);
        cpu_interrupt(a->cpu, CPU_INTERRUPT_HARD);
        break;
    case APIC_SMI:
        cpu_interrupt(a->cpu, CPU_INTERRUPT_SMI);
        break;
    case APIC_NMI:
        cpu_nmi(a->cpu);
        break;
    case APIC_INIT:
        if (!(m->level && !m->assert_)) {
            cpu_interrupt(a->cpu, CPU_INTERRUPT_INIT);
        }
        break;
    case APIC_SIPI:
        __atomic_store_n(&a->sipi_vector, m->vector, __ATOMIC_RELEASE);
        cpu_interrupt(a->cpu, CPU_INTERRUPT_SIPI);
        break;
    case APIC_EXTINT:
        __atomic_store_n(&a->extint, true, __ATOMIC_RELEASE);
        cpu_interrupt(a->cpu, CPU_INTERRUPT_HARD);
        break;
    case APIC_RESERVED:
        break;
    }
}

static bool match_physical(const X86Apic *a, const ApicMessage *m)
{
    if (m->wide ? m->destination == UINT32_MAX : m->destination == 0xff) {
        return true;
    }
    return apic_is_x2(a) ? m->destination == a->cpu->apic_id : m->destination == a->xapic_id;
}

static bool match_logical(const X86Apic *a, const ApicMessage *m)
{
    uint32_t destination = m->destination;

    if (m->wide ? destination == UINT32_MAX : destination == 0xff) {
        return true;
    }
    if (apic_is_x2(a)) {
        return destination >> 16 == a->ldr >> 16 && (destination & a->ldr & 0xffff);
    }
    uint32_t id = a->ldr >> 24;
    if (a->dfr >> 28 == 0xf) {
        return destination <= 0xff && (destination & id);
    }
    return destination <= 0xff && destination >> 4 == id >> 4 && (destination & id & 0xf);
}

static bool match(const X86Apic *a, const ApicMessage *m)
{
    /* With its APIC disabled a processor is deaf to all but the pins. */
    return apic_enabled(a) && (m->logical ? match_logical(a, m) : match_physical(a, m));
}

void apic_bus_deliver(ApicBus *bus, const ApicMessage *m)
{
    if (bus->remote) {
        bus->remote->deliver(bus->remote->opaque, m);
        return;
    }
    pthread_rwlock_rdlock(&bus->lock);
    if (m->mode == APIC_LOWEST) {
        X86Apic *best = NULL;
        unsigned start = __atomic_fetch_add(&bus->round_robin, 1, __ATOMIC_RELAXED);
        for (unsigned i = 0; i < bus->count; i++) {
            X86Apic *a = bus->apics[(start + i) % bus->count];
            if (apic_accepts(a) && match(a, m) && (best == NULL || (a->tpr & 0xf0) < (best->tpr & 0xf0))) {
                best = a;
            }
        }
        if (best != NULL) {
            apic_accept(best, m);
        }
    } else {
        for (unsigned i = 0; i < bus->count; i++) {
            if (match(bus->apics[i], m)) {
                apic_accept(bus->apics[i], m);
            }
        }
    }
    pthread_rwlock_unlock(&bus->lock);
}

bool apic_bus_deliver_to_id(ApicBus *bus, uint32_t id, const ApicMessage *m)
{
    bool found = false;

    pthread_rwlock_rdlock(&bus->lock);
    for (unsigned i = 0; i < bus->count && !found; i++) {
        if (bus->apics[i]->cpu->apic_id == id) {
            apic_accept(bus->apics[i], m);
            found = true;
        }
    }
    pthread_rwlock_unlock(&bus->lock);
    return found;
}

static __thread X86Apic *thread_apic;

void apic_set_thread(X86Apic *apic)
{
    thread_apic = apic;
}

void apic_bus_smi(ApicBus *bus, bool all)
{
    const ApicMessage smi = { .mode = APIC_SMI, .assert_ = true };

    if (!all && thread_apic) {
        apic_accept(thread_apic, &smi);
        return;
    }
    pthread_rwlock_rdlock(&bus->lock);
    for (unsigned i = 0; i < bus->count; i++) {
        if (all || bus->apics[i]->cpu->apic_id == 0) {
            apic_accept(bus->apics[i], &smi);
        }
    }
    pthread_rwlock_unlock(&bus->lock);
}

void apic_bus_kick(ApicBus *bus, uint32_t id)
{
    pthread_rwlock_rdlock(&bus->lock);
    for (unsigned i = 0; i < bus->count; i++) {
        if (bus->apics[i]->cpu->apic_id == id) {
            cpu_interrupt(bus->apics[i]->cpu, CPU_INTERRUPT_KICK);
        }
    }
    pthread_rwlock_unlock(&bus->lock);
}

void apic_bus_msi(ApicBus *bus, uint64_t address, uint32_t data)
{
    ApicMessage m = {
        .destination = (address >> 12) & 0xff,
        .logical = address & 4,
        .mode = (ApicDeliveryMode)((data >> 8) & 7),
        .vector = (uint8_t)data,
        .level = data & (1u << 15),
        .assert_ = data & (1u << 14),
    };

    /* Destination bits 31 to 8 may come in the upper half of the address. */
    if (address >> 40) {
        m.destination |= (uint32_t)(address >> 32) & 0xffffff00;
        m.wide = true;
    }
    apic_bus_deliver(bus, &m);
}

void apic_bus_add_eoi_handler(ApicBus *bus, void (*fn)(void *opaque, uint8_t vector), void *opaque)
{
    g_assert(bus->eoi_handler_count < G_N_ELEMENTS(bus->eoi_handlers));
    bus->eoi_handlers[bus->eoi_handler_count].fn = fn;
    bus->eoi_handlers[bus->eoi_handler_count].opaque = opaque;
    bus->eoi_handler_count++;
}

void apic_bus_set_pic(ApicBus *bus, int (*acknowledge)(void *opaque), void *opaque)
{
    bus->pic_acknowledge = acknowledge;
    bus->pic_opaque = opaque;
}

/* A LINT pin is asserted. */
static void lint_assert(X86Apic *a, int which)
{
    uint32_t lvt = a->lvt[which];

    if (lvt & LVT_MASKED) {
        return;
    }
    ApicMessage m = { .mode = (ApicDeliveryMode)LVT_MODE(lvt),
                      .vector = (uint8_t)lvt,
                      .level = lvt & (1u << 15) };
    if (m.mode == APIC_INIT || m.mode == APIC_SIPI || m.mode == APIC_LOWEST) {
        return;
    }
    if (m.mode == APIC_EXTINT) {
        cpu_interrupt(a->cpu, CPU_INTERRUPT_HARD);
        return;
    }
    apic_accept(a, &m);
}

void apic_bus_set_pic_line(ApicBus *bus, bool level)
{
    bool was = __atomic_exchange_n(&bus->pic_line, level, __ATOMIC_SEQ_CST);

    if (!level || was == level) {
        return;
    }
    pthread_rwlock_rdlock(&bus->lock);
    for (unsigned i = 0; i < bus->count; i++) {
        X86Apic *a = bus->apics[i];
        if (!(a->base & BASE_BSP)) {
            continue;
        }
        if (apic_enabled(a) && !bus->remote) {
            lint_assert(a, LVT_LINT0);
        } else {
            cpu_interrupt(a->cpu, CPU_INTERRUPT_HARD);
        }
    }
    pthread_rwlock_unlock(&bus->lock);
}

void apic_bus_nmi(ApicBus *bus)
{
    pthread_rwlock_rdlock(&bus->lock);
    for (unsigned i = 0; i < bus->count; i++) {
        X86Apic *a = bus->apics[i];
        if (apic_enabled(a) && !bus->remote) {
            lint_assert(a, LVT_LINT1);
        } else {
            cpu_nmi(a->cpu);
        }
    }
    pthread_rwlock_unlock(&bus->lock);
}

/* An LVT entry's event inside this APIC. */
static void lvt_fire(X86Apic *a, int which)
{
    uint32_t lvt = a->lvt[which];

    if (lvt & LVT_MASKED) {
        return;
    }
    ApicMessage m = {
        .mode = which == LVT_TIMER || which == LVT_ERROR ? APIC_FIXED : (ApicDeliveryMode)LVT_MODE(lvt),
        .vector = (uint8_t)lvt,
    };
    apic_accept(a, &m);
}

static void apic_error(X86Apic *a, uint32_t bit)
{
    uint32_t old = __atomic_fetch_or(&a->esr_pending, bit, __ATOMIC_RELAXED);

    if (!(old & bit)) {
        lvt_fire(a, LVT_ERROR);
    }
}

/* To itself (1), to all (2), to all others (3). */
static void send_shorthand_away(X86Apic *a, const ApicMessage *m, unsigned shorthand)
{
    ApicBus *bus = a->bus;

    pthread_rwlock_rdlock(&bus->lock);
    for (unsigned i = 0; i < bus->count; i++) {
        const X86Apic *to = bus->apics[i];
        if (shorthand == 1 ? to == a : shorthand == 2 || to != a) {
            ApicMessage one = *m;
            one.logical = false;
            one.wide = true;
            one.destination = to->cpu->apic_id;
            bus->remote->deliver(bus->remote->opaque, &one);
        }
    }
    pthread_rwlock_unlock(&bus->lock);
}

static void apic_send_ipi(X86Apic *a)
{
    uint32_t low = (uint32_t)a->icr;
    ApicMessage m = {
        .destination = apic_is_x2(a) ? (uint32_t)(a->icr >> 32) : (uint32_t)(a->icr >> 56),
        .wide = apic_is_x2(a),
        .logical = low & (1u << 11),
        .mode = (ApicDeliveryMode)((low >> 8) & 7),
        .vector = (uint8_t)low,
        .level = low & (1u << 15),
        .assert_ = low & (1u << 14),
    };

    if ((m.mode == APIC_FIXED || m.mode == APIC_LOWEST) && m.vector < 16) {
        apic_error(a, ESR_SEND_ILLEGAL); /* and the receiver will note it as well */
    }
    if (m.mode != APIC_INIT) {
        m.level = false; /* IPIs other than INIT are edge triggered, whatever the bit says */
    }
    ApicBus *bus = a->bus;
    if (bus->remote && (low >> 18 & 3)) {
        send_shorthand_away(a, &m, low >> 18 & 3);
        return;
    }
    switch (low >> 18 & 3) {
    case 0:
        apic_bus_deliver(bus, &m);
        break;
    case 1:
        apic_accept(a, &m);
        break;
    default:
        pthread_rwlock_rdlock(&bus->lock);
        for (unsigned i = 0; i < bus->count; i++) {
            if (apic_enabled(bus->apics[i]) && ((low >> 18 & 3) == 2 || bus->apics[i] != a)) {
                apic_accept(bus->apics[i], &m);
            }
        }
        pthread_rwlock_unlock(&bus->lock);
        break;
    }
}

/* ---- timer ---- */

static unsigned timer_divisor(const X86Apic *a)
{
    unsigned code = (a->timer_divide & 3) | (a->timer_divide >> 1 & 4);

    return code == 7 ? 1 : 2u << code;
}

static void timer_set_deadline(X86Apic *a, int64_t deadline_ns)
{
    if (a->timer_deadline_ns != deadline_ns) {
        a->timer_deadline_ns = deadline_ns;
        if (cpu_timer_hook != NULL && !a->bus->remote) {
            cpu_timer_hook(a->cpu);
        }
    }
}

static void timer_start(X86Apic *a)
{
    if (TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE) {
        return;
    }
    if (a->timer_initial == 0) {
        timer_set_deadline(a, INT64_MAX);
        return;
    }
    a->timer_start_ns = now_ns(a);
    timer_set_deadline(a, a->timer_start_ns + (int64_t)a->timer_initial * timer_divisor(a));
}

/* When the guest's TSC will have reached a value, in virtual time. */
static int64_t tsc_to_ns(const X86Cpu *cpu, uint64_t tsc)
{
    unsigned __int128 ns = (unsigned __int128)(tsc - (uint64_t)cpu->tsc_offset) * 1000000 + cpu->tsc_khz - 1;

    ns /= cpu->tsc_khz;
    return ns > (unsigned __int128)(INT64_MAX - 1) ? INT64_MAX - 1 : (int64_t)ns;
}

uint64_t apic_get_tsc_deadline(X86Apic *a)
{
    return TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE ? a->tsc_deadline : 0;
}

void apic_set_tsc_deadline(X86Apic *a, uint64_t tsc)
{
    if (TIMER_MODE(a->lvt[LVT_TIMER]) != TIMER_DEADLINE) {
        return;
    }
    a->tsc_deadline = tsc;
    if (tsc == 0) {
        timer_set_deadline(a, INT64_MAX);
    } else if ((int64_t)(x86_tsc(a->cpu) - tsc) >= 0) {
        a->tsc_deadline = 0;
        timer_set_deadline(a, INT64_MAX);
        lvt_fire(a, LVT_TIMER);
    } else {
        timer_set_deadline(a, tsc_to_ns(a->cpu, tsc));
    }
}

void apic_tsc_changed(X86Apic *a)
{
    if (a->tsc_deadline != 0) {
        apic_set_tsc_deadline(a, a->tsc_deadline);
    }
}

int64_t apic_timer_deadline_ns(X86Apic *a)
{
    return a->bus->remote ? INT64_MAX : a->timer_deadline_ns;
}

void apic_timer_expired(X86Apic *a)
{
    int64_t now = now_ns(a);

    if (a->timer_deadline_ns > now) {
        return;
    }
    TRACE(apic_timer, a->cpu->apic_id, (long)a->timer_deadline_ns);
    switch (TIMER_MODE(a->lvt[LVT_TIMER])) {
    case TIMER_PERIODIC: {
        int64_t period = (int64_t)a->timer_initial * timer_divisor(a);
        int64_t next = a->timer_deadline_ns + period;
        if (period <= 0) {
            next = INT64_MAX;
        } else if (next <= now) {
            next = now + period - (now - a->timer_deadline_ns) % period; /* lost ticks are not made up for */
        }
        a->timer_start_ns = next == INT64_MAX ? 0 : next - period;
        lvt_fire(a, LVT_TIMER);
        timer_set_deadline(a, next);
        break;
    }
    case TIMER_DEADLINE:
        a->tsc_deadline = 0;
        lvt_fire(a, LVT_TIMER);
        timer_set_deadline(a, INT64_MAX);
        break;
    default:
        lvt_fire(a, LVT_TIMER);
        timer_set_deadline(a, INT64_MAX);
        break;
    }
}

static uint32_t timer_current(const X86Apic *a)
{
    if (a->timer_deadline_ns == INT64_MAX || TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE) {
        return 0;
    }
    int64_t left = a->timer_deadline_ns - now_ns(a);
    if (left <= 0) {
        return TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_PERIODIC ? a->timer_initial : 0;
    }
    return (uint32_t)((left + timer_divisor(a) - 1) / timer_divisor(a));
}

/* ---- registers ---- */

static uint32_t lvt_writable(const X86Apic *a, int which)
{
    switch (which) {
    case LVT_TIMER:
        return cpu_has_feature(a->cpu, FEAT_1_ECX, CPUID_EXT_TSC_DEADLINE) ? 0x700ff : 0x300ff;
    case LVT_LINT0:
    case LVT_LINT1:
        return 0x1a7ff;
    case LVT_ERROR:
        return 0x100ff;
    default:
        return 0x107ff;
    }
}

static void lvt_write(X86Apic *a, int which, uint32_t value)
{
    uint32_t old = a->lvt[which];

    value &= lvt_writable(a, which);
    if (!(a->svr & SVR_ENABLE)) {
        value |= LVT_MASKED;
    }
    a->lvt[which] = value;
    if (which == LVT_TIMER && TIMER_MODE(old) != TIMER_MODE(value)) {
        /* To or from the TSC deadline the timer is disarmed (10.5.4.1). */
        if (TIMER_MODE(old) == TIMER_DEADLINE || TIMER_MODE(value) == TIMER_DEADLINE) {
            a->tsc_deadline = 0;
            a->timer_initial = 0;
            timer_set_deadline(a, INT64_MAX);
        }
    }
    if (which == LVT_LINT0) {
        apic_update(a);
    }
}

static void svr_write(X86Apic *a, uint32_t value)
{
    a->svr = value & 0x3ff;
    if (!(value & SVR_ENABLE)) {
        for (int i = 0; i < LVT_COUNT; i++) {
            a->lvt[i] |= LVT_MASKED;
        }
    }
}

/* Registers that exist in both modes; offset is a multiple of 16. */
static bool register_read(X86Apic *a, uint32_t offset, uint32_t *value)
{
    switch (offset) {
    case APIC_ID:
        *value = apic_is_x2(a) ? a->cpu->apic_id : a->xapic_id << 24;
        return true;
    case APIC_VERSION:
        *value = VERSION_VALUE;
        return true;
    case APIC_TPR:
        *value = a->tpr;
        return true;
    case APIC_PPR:
        pv_eoi_sync(a);
        *value = apic_ppr(a);
        return true;
    case APIC_LDR:
        *value = a->ldr;
        return true;
    case APIC_SVR:
        *value = a->svr;
        return true;
    case APIC_ESR:
        *value = a->esr;
        return true;
    case APIC_ICR_LOW:
        *value = (uint32_t)a->icr;
        return true;
    case APIC_TIMER_INITIAL:
        *value = TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE ? 0 : a->timer_initial;
        return true;
    case APIC_TIMER_CURRENT:
        *value = timer_current(a);
        return true;
    case APIC_TIMER_DIVIDE:
        *value = a->timer_divide;
        return true;
    }
    if (offset >= APIC_ISR && offset < APIC_ESR) {
        const uint32_t *bits = offset < APIC_TMR ? a->isr : offset < APIC_IRR ? a->tmr : a->irr;
        pv_eoi_sync(a);
        *value = __atomic_load_n(&bits[offset >> 4 & 7], __ATOMIC_RELAXED);
        return true;
    }
    if (offset >= APIC_LVT_FIRST && offset <= APIC_LVT_LAST) {
        *value = a->lvt[(offset - APIC_LVT_FIRST) >> 4];
        return true;
    }
    return false;
}

static bool register_write(X86Apic *a, uint32_t offset, uint32_t value)
{
    TRACE(apic_write, a->cpu->apic_id, offset, value);
    switch (offset) {
    case APIC_TPR:
        apic_set_tpr(a, (uint8_t)value);
        return true;
    case APIC_EOI:
        apic_eoi(a);
        return true;
    case APIC_SVR:
        svr_write(a, value);
        apic_update(a);
        return true;
    case APIC_ESR:
        a->esr = __atomic_exchange_n(&a->esr_pending, 0, __ATOMIC_RELAXED);
        return true;
    case APIC_TIMER_INITIAL:
        if (TIMER_MODE(a->lvt[LVT_TIMER]) != TIMER_DEADLINE) {
            a->timer_initial = value;
            timer_start(a);
        }
        return true;
    case APIC_TIMER_DIVIDE: {
        uint32_t current = timer_current(a);
        a->timer_divide = value & 0xb;
        if (a->timer_deadline_ns != INT64_MAX && TIMER_MODE(a->lvt[LVT_TIMER]) != TIMER_DEADLINE) {
            timer_set_deadline(a, now_ns(a) + (int64_t)current * timer_divisor(a));
        }
        return true;
    }
    }
    if (offset >= APIC_LVT_FIRST && offset <= APIC_LVT_LAST) {
        lvt_write(a, (int)(offset - APIC_LVT_FIRST) >> 4, value);
        return true;
    }
    return false;
}

uint32_t apic_mmio_read(X86Apic *a, uint32_t offset)
{
    uint32_t value = 0;

    if (offset & 15) {
        return 0;
    }
    switch (offset) {
    case APIC_DFR:
        return a->dfr;
    case APIC_ICR_HIGH:
        return (uint32_t)(a->icr >> 32);
    case APIC_APR:
    case APIC_EOI:
        return 0;
    }
    if (!register_read(a, offset, &value)) {
        apic_error(a, ESR_ILLEGAL_REGISTER);
    }
    return value;
}

void apic_mmio_write(X86Apic *a, uint32_t offset, uint32_t value)
{
    if (offset & 15) {
        return;
    }
    switch (offset) {
    case APIC_ID:
        a->xapic_id = value >> 24;
        return;
    case APIC_LDR:
        a->ldr = value & 0xff000000;
        return;
    case APIC_DFR:
        a->dfr = value | 0x0fffffff;
        return;
    case APIC_ICR_LOW:
        a->icr = (a->icr & UINT64_C(0xffffffff00000000)) | (value & 0x000ccfff);
        apic_send_ipi(a);
        return;
    case APIC_ICR_HIGH:
        a->icr = (a->icr & UINT32_MAX) | (uint64_t)(value & 0xff000000) << 32;
        return;
    case APIC_VERSION:
    case APIC_APR:
    case APIC_PPR:
    case APIC_TIMER_CURRENT:
        return;
    }
    if (!register_write(a, offset, value)) {
        apic_error(a, ESR_ILLEGAL_REGISTER);
    }
}

bool apic_msr_read(X86Apic *a, uint32_t index, uint64_t *value)
{
    uint32_t offset = (index - 0x800) << 4, low;

    if (!apic_is_x2(a) || offset >= APIC_SELF_IPI || offset == APIC_ICR_HIGH) {
        return false;
    }
    if (offset == APIC_ICR_LOW) {
        *value = a->icr;
        return true;
    }
    if (!register_read(a, offset, &low)) {
        return false;
    }
    *value = low;
    return true;
}

bool apic_msr_write(X86Apic *a, uint32_t index, uint64_t value)
{
    uint32_t offset = (index - 0x800) << 4;

    if (!apic_is_x2(a)) {
        return false;
    }
    switch (offset) {
    case APIC_ICR_LOW:
        if (value & UINT64_C(0xfff32000)) {
            return false;
        }
        a->icr = value & ~UINT64_C(0x1000);
        apic_send_ipi(a);
        return true;
    case APIC_SELF_IPI: {
        if (value >> 8) {
            return false;
        }
        a->icr = (1u << 18) | (uint32_t)value;
        apic_send_ipi(a);
        return true;
    }
    case APIC_EOI:
    case APIC_ESR:
        if (value != 0) {
            return false;
        }
        break;
    case APIC_TPR:
        if (value >> 8) {
            return false;
        }
        break;
    case APIC_SVR:
        if (value & ~UINT64_C(0x3ff)) {
            return false;
        }
        break;
    case APIC_TIMER_DIVIDE:
        if (value & ~UINT64_C(0xb)) {
            return false;
        }
        break;
    default:
        if (value >> 32) {
            return false;
        }
        if (offset >= APIC_LVT_FIRST && offset <= APIC_LVT_LAST &&
            (value & ~(uint64_t)(lvt_writable(a, (int)(offset - APIC_LVT_FIRST) >> 4) | 0x5000))) {
            return false;
        }
        break;
    }
    return register_write(a, offset, (uint32_t)value);
}

uint8_t apic_get_tpr(X86Apic *a)
{
    return (uint8_t)a->tpr;
}

void apic_set_tpr(X86Apic *a, uint8_t tpr)
{
    a->tpr = tpr;
    a->cpu->cr8 = tpr >> 4;
    pv_eoi_sync(a);
    apic_update(a);
}

uint8_t apic_sipi_vector(X86Apic *a)
{
    return __atomic_load_n(&a->sipi_vector, __ATOMIC_ACQUIRE);
}

/* ---- base ---- */

uint64_t apic_get_base(X86Apic *a)
{
    return a->base;
}

bool apic_owns(X86Apic *a, uint64_t gpa)
{
    return (a->base & (BASE_ENABLE | BASE_X2APIC)) == BASE_ENABLE &&
           (gpa & ~UINT64_C(0xfff)) == (a->base & ~UINT64_C(0xfff));
}

/* Registers as after INIT, without the base. */
static void apic_clear(X86Apic *a)
{
    a->xapic_id = a->cpu->apic_id & 0xff;
    a->tpr = 0;
    a->cpu->cr8 = 0;
    a->ldr = 0;
    a->dfr = UINT32_MAX;
    a->svr = 0xff;
    a->esr = a->esr_pending = 0;
    a->icr = 0;
    a->timer_initial = a->timer_divide = 0;
    a->tsc_deadline = 0;
    memset(a->isr, 0, sizeof(a->isr));
    memset(a->tmr, 0, sizeof(a->tmr));
    memset(a->irr, 0, sizeof(a->irr));
    for (int i = 0; i < LVT_COUNT; i++) {
        a->lvt[i] = LVT_MASKED;
    }
    a->extint = false;
    a->pv_eoi_pending = false;
    timer_set_deadline(a, INT64_MAX);
}

static uint32_t x2apic_ldr(uint32_t id)
{
    return (id >> 4) << 16 | 1u << (id & 15);
}

bool apic_set_base(X86Apic *a, uint64_t value)
{
    uint64_t old = a->base;
    uint64_t reserved = ~(((UINT64_C(1) << a->cpu->phys_bits) - 1) & ~UINT64_C(0xfff)) &
                        ~(uint64_t)(BASE_BSP | BASE_X2APIC | BASE_ENABLE);
    bool had_x2 = old & BASE_X2APIC, has_x2 = value & BASE_X2APIC, had = old & BASE_ENABLE,
         has = value & BASE_ENABLE;

    if (value & reserved) {
        return false;
    }
    if (has_x2 && (!has || !cpu_has_feature(a->cpu, FEAT_1_ECX, CPUID_EXT_X2APIC))) {
        return false;
    }
    if ((had_x2 && has && !has_x2) || (!had && has_x2)) {
        return false; /* only through the disabled, or through xAPIC mode (10.12.5) */
    }
    a->base = value;
    if (had && !has) {
        apic_clear(a);
    }
    if (has && (!had || (has_x2 && !had_x2))) {
        a->xapic_id = a->cpu->apic_id & 0xff;
        a->ldr = has_x2 ? x2apic_ldr(a->cpu->apic_id) : a->ldr;
    }
    if (old != value) {
        mmu_flush_later(a->cpu);
        apic_update(a);
    }
    return true;
}

void apic_reset(X86Apic *a, bool is_init)
{
    if (!is_init) {
        a->base = UINT64_C(0xfee00000) | BASE_ENABLE | (a->cpu->index == 0 ? BASE_BSP : 0);
    }
    apic_clear(a);
    if (apic_is_x2(a)) {
        a->ldr = x2apic_ldr(a->cpu->apic_id);
    }
    if (!is_init && (a->base & BASE_BSP)) {
        /* Virtual wire mode, as firmware leaves it: a directly started kernel counts on it. */
        a->lvt[LVT_LINT0] = APIC_EXTINT << 8;
    }
    apic_update(a);
}

/* ---- somebody else's ---- */

void apic_bus_set_remote(ApicBus *bus, const ApicRemote *remote)
{
    bus->remote = remote;
}

void apic_bus_pin(ApicBus *bus, unsigned pin, const ApicMessage *message)
{
    if (bus->remote && bus->remote->pin) {
        bus->remote->pin(bus->remote->opaque, pin, message);
    }
}

ApicRoute *apic_bus_route_new(ApicBus *bus)
{
    return bus->remote && bus->remote->route_new ? bus->remote->route_new(bus->remote->opaque) : NULL;
}

bool apic_bus_route_send(ApicBus *bus, ApicRoute *route, uint64_t address, uint32_t data)
{
    return bus->remote->route_send(route, address, data);
}

void apic_bus_route_free(ApicBus *bus, ApicRoute *route)
{
    bus->remote->route_free(route);
}

const struct X86Chips *apic_bus_chips(const ApicBus *bus)
{
    return bus && bus->remote ? bus->remote->chips : NULL;
}

void apic_bus_eoi(ApicBus *bus, uint8_t vector)
{
    for (unsigned i = 0; i < bus->eoi_handler_count; i++) {
        bus->eoi_handlers[i].fn(bus->eoi_handlers[i].opaque, vector);
    }
}

bool apic_bus_pic_pending(ApicBus *bus)
{
    return __atomic_load_n(&bus->pic_line, __ATOMIC_ACQUIRE);
}

int apic_bus_pic_acknowledge(ApicBus *bus)
{
    return bus->pic_acknowledge ? bus->pic_acknowledge(bus->pic_opaque) : -1;
}

static void image_put(uint8_t *image, unsigned offset, uint32_t value)
{
    memcpy(image + offset, &value, 4);
}

static uint32_t image_get(const uint8_t *image, unsigned offset)
{
    uint32_t value;

    memcpy(&value, image + offset, 4);
    return value;
}

void apic_save_image(X86Apic *a, uint8_t image[APIC_IMAGE_SIZE])
{
    memset(image, 0, APIC_IMAGE_SIZE);
    image_put(image, APIC_ID, apic_is_x2(a) ? a->cpu->apic_id : a->xapic_id << 24);
    image_put(image, APIC_VERSION, VERSION_VALUE);
    image_put(image, APIC_TPR, a->tpr);
    image_put(image, APIC_PPR, apic_ppr(a));
    image_put(image, APIC_LDR, a->ldr);
    image_put(image, APIC_DFR, a->dfr);
    image_put(image, APIC_SVR, a->svr);
    for (unsigned i = 0; i < 8; i++) {
        image_put(image, APIC_ISR + i * 16, a->isr[i]);
        image_put(image, APIC_TMR + i * 16, __atomic_load_n(&a->tmr[i], __ATOMIC_RELAXED));
        image_put(image, APIC_IRR + i * 16, __atomic_load_n(&a->irr[i], __ATOMIC_RELAXED));
    }
    image_put(image, APIC_ESR, a->esr);
    image_put(image, APIC_ICR_LOW, (uint32_t)a->icr);
    image_put(image, APIC_ICR_HIGH, (uint32_t)(a->icr >> 32));
    for (unsigned i = 0; i < LVT_COUNT; i++) {
        image_put(image, APIC_LVT_FIRST + i * 16, a->lvt[i]);
    }
    image_put(image, APIC_TIMER_INITIAL, a->timer_initial);
    image_put(image, APIC_TIMER_CURRENT, timer_current(a));
    image_put(image, APIC_TIMER_DIVIDE, a->timer_divide);
}

void apic_load_image(X86Apic *a, const uint8_t image[APIC_IMAGE_SIZE], uint64_t base, uint64_t tsc_deadline)
{
    a->base = base;
    a->xapic_id = apic_is_x2(a) ? a->cpu->apic_id & 0xff : image_get(image, APIC_ID) >> 24;
    a->tpr = image_get(image, APIC_TPR) & 0xff;
    a->cpu->cr8 = a->tpr >> 4;
    a->ldr = image_get(image, APIC_LDR);
    a->dfr = image_get(image, APIC_DFR);
    a->svr = image_get(image, APIC_SVR);
    for (unsigned i = 0; i < 8; i++) {
        a->isr[i] = image_get(image, APIC_ISR + i * 16);
        __atomic_store_n(&a->tmr[i], image_get(image, APIC_TMR + i * 16), __ATOMIC_RELAXED);
        __atomic_store_n(&a->irr[i], image_get(image, APIC_IRR + i * 16), __ATOMIC_RELAXED);
    }
    a->esr = image_get(image, APIC_ESR);
    a->icr = image_get(image, APIC_ICR_LOW) | (uint64_t)image_get(image, APIC_ICR_HIGH) << 32;
    for (unsigned i = 0; i < LVT_COUNT; i++) {
        a->lvt[i] = image_get(image, APIC_LVT_FIRST + i * 16);
    }
    a->timer_initial = image_get(image, APIC_TIMER_INITIAL);
    a->timer_divide = image_get(image, APIC_TIMER_DIVIDE) & 0xb;
    a->tsc_deadline = 0;
    uint32_t left = image_get(image, APIC_TIMER_CURRENT);
    int64_t deadline = INT64_MAX;
    if (TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE) {
        a->tsc_deadline = tsc_deadline;
        deadline = tsc_deadline ? tsc_to_ns(a->cpu, tsc_deadline) : INT64_MAX;
    } else if (a->timer_initial && left) {
        deadline = now_ns(a) + (int64_t)left * timer_divisor(a);
        a->timer_start_ns = deadline - (int64_t)a->timer_initial * timer_divisor(a);
    }
    timer_set_deadline(a, deadline);
}

/* ---- life ---- */

ApicBus *apic_bus_new(void)
{
    ApicBus *bus = g_new0(ApicBus, 1);

    pthread_rwlock_init(&bus->lock, NULL);
    return bus;
}

void apic_bus_free(ApicBus *bus)
{
    if (bus != NULL) {
        pthread_rwlock_destroy(&bus->lock);
        g_free(bus);
    }
}

X86Apic *apic_new(X86Cpu *cpu, ApicBus *bus)
{
    X86Apic *a = (X86Apic *)object_new_known(TYPE_APIC);

    a->cpu = cpu;
    a->bus = bus;
    a->timer_deadline_ns = INT64_MAX;
    a->base = UINT64_C(0xfee00000) | BASE_ENABLE | (cpu->index == 0 ? BASE_BSP : 0);
    pthread_rwlock_wrlock(&bus->lock);
    g_assert(bus->count < APIC_BUS_MAX);
    bus->apics[bus->count++] = a;
    pthread_rwlock_unlock(&bus->lock);
    return a;
}

void apic_free(X86Apic *a)
{
    ApicBus *bus = a->bus;

    pthread_rwlock_wrlock(&bus->lock);
    for (unsigned i = 0; i < bus->count; i++) {
        if (bus->apics[i] == a) {
            bus->apics[i] = bus->apics[--bus->count];
            break;
        }
    }
    pthread_rwlock_unlock(&bus->lock);
    if (OBJECT(a)->parent != NULL) {
        object_unparent(OBJECT(a));
    }
    object_unref(OBJECT(a));
}

static const TypeInfo apic_type = {
    .name = TYPE_APIC,
    .parent = TYPE_OBJECT,
    .description = "local APIC",
    .instance_size = sizeof(X86Apic),
};
TYPE_REGISTER(apic_type);

static bool apic_post_load(void *opaque, int version, GError **error)
{
    X86Apic *a = opaque;

    if ((a->base & BASE_X2APIC) && !(a->base & BASE_ENABLE)) {
        return error_set(error, "apic %u: the state has an impossible base %" PRIx64, a->cpu->apic_id,
                         a->base);
    }
    a->timer_divide &= 0xb;
    a->tpr &= 0xff;
    a->cpu->cr8 = a->tpr >> 4;
    for (int i = 0; i < LVT_COUNT; i++) {
        a->lvt[i] &= lvt_writable(a, i);
    }
    if (cpu_timer_hook != NULL && !a->bus->remote) {
        cpu_timer_hook(a->cpu);
    }
    cpu_interrupt(a->cpu, CPU_INTERRUPT_HARD);
    return true;
}

static const VmStateField apic_fields[] = {
    VMS_UINT64(base, X86Apic),
    VMS_UINT32(xapic_id, X86Apic),
    VMS_UINT32(tpr, X86Apic),
    VMS_UINT32(ldr, X86Apic),
    VMS_UINT32(dfr, X86Apic),
    VMS_UINT32(svr, X86Apic),
    VMS_UINT32(esr, X86Apic),
    VMS_UINT32(esr_pending, X86Apic),
    VMS_UINT32(lvt, X86Apic),
    VMS_UINT64(icr, X86Apic),
    VMS_UINT32(isr, X86Apic),
    VMS_UINT32(tmr, X86Apic),
    VMS_UINT32(irr, X86Apic),
    VMS_UINT32(timer_initial, X86Apic),
    VMS_UINT32(timer_divide, X86Apic),
    VMS_INT64(timer_start_ns, X86Apic),
    VMS_INT64(timer_deadline_ns, X86Apic),
    VMS_UINT64(tsc_deadline, X86Apic),
    VMS_UINT8(sipi_vector, X86Apic),
    VMS_BOOL(extint, X86Apic),
    VMS_BOOL(pv_eoi_pending, X86Apic),
    VMS_END,
};
const VmState apic_vmstate = {
    .name = "apic", .version = 1, .minimum_version = 1, .fields = apic_fields, .post_load = apic_post_load
};
