/*
 * A vCPU's registers on their way between X86Cpu and the kernel. Only what differs from what the kernel has
 * is written. An event that the kernel was in the middle of delivering has no place in X86Cpu: the reference
 * CPU finishes it (kvm_state_get), which is what the processor would have done before the next instruction.
 *
 * The guest's TSC runs on while a machine stands still, as on other monitors; kvmclock is virtual time, and
 * is put right when a machine goes on. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "arch/x86/apic.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/mmu.h"
#include "arch/x86/system.h"
#include "base/error.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6e0u
#define XSAVE_HEADER     512u
#define CLOCK_SLACK_NS   500000 /* kvmclock may differ so far from virtual time before it is set */

typedef struct MsrPlace {
    uint32_t index;
    uint32_t offset; /* in X86Cpu, of a uint64_t */
} MsrPlace;
#define MSR_AT(index, field)           \
    {                                  \
        index, offsetof(X86Cpu, field) \
    }
#define MSR_AT4(index, field, n)                                                                       \
    MSR_AT(index, field[n]), MSR_AT((index) + 1, field[(n) + 1]), MSR_AT((index) + 2, field[(n) + 2]), \
        MSR_AT((index) + 3, field[(n) + 3])

static const MsrPlace places[] = {
    MSR_AT(0x3a, feature_control),
    MSR_AT(0x3b, tsc_adjust),
    MSR_AT(0x48, spec_ctrl),
    MSR_AT(0x8b, bios_sign_id),
    MSR_AT(0x10a, arch_capabilities),
    MSR_AT(0x174, sysenter_cs),
    MSR_AT(0x175, sysenter_esp),
    MSR_AT(0x176, sysenter_eip),
    MSR_AT(0x17a, mcg_status),
    MSR_AT(0x17b, mcg_ctl),
    MSR_AT(0x1a0, misc_enable),
    MSR_AT(0x1d9, debugctl),
    MSR_AT4(0x200, mtrr_var, 0),
    MSR_AT4(0x204, mtrr_var, 4),
    MSR_AT4(0x208, mtrr_var, 8),
    MSR_AT4(0x20c, mtrr_var, 12),
    MSR_AT(0x250, mtrr_fixed[0]),
    MSR_AT(0x258, mtrr_fixed[1]),
    MSR_AT(0x259, mtrr_fixed[2]),
    MSR_AT4(0x268, mtrr_fixed, 3),
    MSR_AT4(0x26c, mtrr_fixed, 7),
    MSR_AT(0x277, pat),
    MSR_AT(0x2ff, mtrr_def_type),
    MSR_AT4(0x400, mc_banks, 0),
    MSR_AT4(0x404, mc_banks, 4),
    MSR_AT4(0x408, mc_banks, 8),
    MSR_AT4(0x40c, mc_banks, 12),
    MSR_AT4(0x410, mc_banks, 16),
    MSR_AT4(0x414, mc_banks, 20),
    MSR_AT4(0x418, mc_banks, 24),
    MSR_AT4(0x41c, mc_banks, 28),
    MSR_AT4(0x420, mc_banks, 32),
    MSR_AT4(0x424, mc_banks, 36),
    MSR_AT(0xda0, xss),
    MSR_AT(0xc0000081, star),
    MSR_AT(0xc0000082, lstar),
    MSR_AT(0xc0000083, cstar),
    MSR_AT(0xc0000084, fmask),
    MSR_AT(0xc0000102, kernel_gs_base),
    MSR_AT(0xc0000103, tsc_aux),
    MSR_AT(0xc0010015, hwcr),
    MSR_AT(0xc0011029, de_cfg),
    MSR_AT(0x4b564d00, kvm_wall_clock),
    MSR_AT(0x4b564d01, kvm_system_time),
    MSR_AT(0x4b564d02, kvm_async_pf),
    MSR_AT(0x4b564d03, kvm_steal_time),
    MSR_AT(0x4b564d04, kvm_pv_eoi),
    MSR_AT(0x4b564d05, kvm_poll_control),
    MSR_AT(0x4b564d06, kvm_int),
    MSR_AT(0x4b564d08, kvm_migration),
};
G_STATIC_ASSERT(G_N_ELEMENTS(places) <= KVM_MSRS_MAX);

typedef struct MsrBatch {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[KVM_MSRS_MAX + 2];
} MsrBatch;

static uint64_t *msr_value(X86Cpu *cpu, uint32_t place)
{
    return (uint64_t *)((uint8_t *)cpu + places[place].offset);
}

/* Which of them a vCPU of this kernel lets one read; kvm->msrs holds numbers of places. */
static void probe_msrs(KvmVcpu *v)
{
    KvmAccel *kvm = v->kvm;

    kvm->msr_count = 0;
    for (uint32_t i = 0; i < G_N_ELEMENTS(places); i++) {
        MsrBatch batch = { .head.nmsrs = 1 };
        batch.entries[0].index = places[i].index;
        if (kvm_ioctl(v->fd, KVM_GET_MSRS, &batch) == 1) {
            kvm->msrs[kvm->msr_count++] = i;
        }
    }
}

/* ---- segments ---- */

static void segment_get(X86Segment *to, const struct kvm_segment *from)
{
    to->selector = from->selector;
    to->base = from->base;
    to->limit = from->limit;
    to->attr = from->unusable ? 0
                              : (uint32_t)from->type << DESC_TYPE_SHIFT | (from->s ? DESC_S : 0) |
                                    (uint32_t)from->dpl << DESC_DPL_SHIFT | (from->present ? DESC_P : 0) |
                                    (from->avl ? DESC_AVL : 0) | (from->l ? DESC_L : 0) |
                                    (from->db ? DESC_B : 0) | (from->g ? DESC_G : 0);
}

static void segment_put(struct kvm_segment *to, const X86Segment *from)
{
    *to = (struct kvm_segment){
        .selector = from->selector,
        .base = from->base,
        .limit = from->limit,
        .type = (from->attr >> DESC_TYPE_SHIFT) & 15,
        .s = !!(from->attr & DESC_S),
        .dpl = (from->attr >> DESC_DPL_SHIFT) & 3,
        .present = !!(from->attr & DESC_P),
        .avl = !!(from->attr & DESC_AVL),
        .l = !!(from->attr & DESC_L),
        .db = !!(from->attr & DESC_B),
        .g = !!(from->attr & DESC_G),
        .unusable = !(from->attr & DESC_P),
    };
}

/* ---- from the kernel ---- */

static void regs_get(X86Cpu *cpu, const struct kvm_regs *r)
{
    const uint64_t values[16] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
                                  r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

    memcpy(cpu->regs, values, sizeof(values));
    cpu->rip = r->rip;
}

static void regs_put(const X86Cpu *cpu, struct kvm_regs *r)
{
    const uint64_t *from = cpu->regs;

    *r = (struct kvm_regs){
        .rax = from[R_RAX],
        .rbx = from[R_RBX],
        .rcx = from[R_RCX],
        .rdx = from[R_RDX],
        .rsi = from[R_RSI],
        .rdi = from[R_RDI],
        .rsp = from[R_RSP],
        .rbp = from[R_RBP],
        .r8 = from[R_R8],
        .r9 = from[R_R9],
        .r10 = from[R_R10],
        .r11 = from[R_R11],
        .r12 = from[R_R12],
        .r13 = from[R_R13],
        .r14 = from[R_R14],
        .r15 = from[R_R15],
        .rip = cpu->rip,
        .rflags = x86_get_rflags(cpu),
    };
}

static void sregs_get(X86Cpu *cpu, const struct kvm_sregs *s)
{
    const struct kvm_segment *const from[SEG_ALL] = {
        [SEG_ES] = &s->es, [SEG_CS] = &s->cs, [SEG_SS] = &s->ss,    [SEG_DS] = &s->ds,
        [SEG_FS] = &s->fs, [SEG_GS] = &s->gs, [SEG_LDTR] = &s->ldt, [SEG_TR] = &s->tr,
    };

    for (int i = 0; i < SEG_ALL; i++) {
        segment_get(&cpu->segs[i], from[i]);
    }
    cpu->gdt = (X86Table){ s->gdt.base, s->gdt.limit };
    cpu->idt = (X86Table){ s->idt.base, s->idt.limit };
    cpu->cr0 = s->cr0;
    cpu->cr2 = s->cr2;
    cpu->cr3 = s->cr3;
    cpu->cr4 = s->cr4;
    cpu->efer = s->efer;
    cpu->cpl = s->cr0 & CR0_PE ? s->ss.dpl & 3 : 0;
}

static void sregs_put(const X86Cpu *cpu, struct kvm_sregs *s)
{
    struct kvm_segment *const to[SEG_ALL] = {
        [SEG_ES] = &s->es, [SEG_CS] = &s->cs, [SEG_SS] = &s->ss,    [SEG_DS] = &s->ds,
        [SEG_FS] = &s->fs, [SEG_GS] = &s->gs, [SEG_LDTR] = &s->ldt, [SEG_TR] = &s->tr,
    };

    memset(s, 0, sizeof(*s));
    for (int i = 0; i < SEG_ALL; i++) {
        segment_put(to[i], &cpu->segs[i]);
    }
    s->ss.dpl = cpu->cpl; /* that is where it keeps the privilege level */
    s->gdt.base = cpu->gdt.base;
    s->gdt.limit = cpu->gdt.limit;
    s->idt.base = cpu->idt.base;
    s->idt.limit = cpu->idt.limit;
    s->cr0 = cpu->cr0;
    s->cr2 = cpu->cr2;
    s->cr3 = cpu->cr3;
    s->cr4 = cpu->cr4;
    s->cr8 = apic_get_tpr(cpu->apic) >> 4;
    s->efer = cpu->efer;
    s->apic_base = apic_get_base(cpu->apic);
}

static void xsave_get(X86Cpu *cpu, const uint8_t *image)
{
    uint64_t components, own = 7;
    uint32_t mxcsr_mask = 0xffff;

    memcpy(&components, image + XSAVE_HEADER, 8);
    memcpy(cpu->xsave, image, X86_XSAVE_SIZE);
    memcpy(cpu->xsave + 28, &mxcsr_mask, 4);
    memset(cpu->xsave + XSAVE_HEADER, 0, 64);
    memcpy(cpu->xsave + XSAVE_HEADER, &own, 8);
    cpu->fpu_bv = XCR0_BASE | ((components & XCR0_AVX512) ? XCR0_AVX512 : 0);
}

static void xsave_put(const X86Cpu *cpu, uint8_t *image)
{
    uint64_t components = (XCR0_BASE | (cpu->fpu_bv & XCR0_AVX512)) & (cpuid_xcr0_mask(cpu) | 3);

    memcpy(image, cpu->xsave, X86_XSAVE_SIZE);
    memset(image + XSAVE_HEADER, 0, 64);
    memcpy(image + XSAVE_HEADER, &components, 8);
}

/* The guest's TSC as a distance from the one that virtual time makes (x86_tsc). */
static void tsc_get(X86Cpu *cpu, uint64_t tsc)
{
    cpu->tsc_offset = 0;
    cpu->tsc_offset = (int64_t)(tsc - x86_tsc(cpu));
}

static bool failed(KvmVcpu *v, const char *what, int result, GError **error)
{
    return error_set_errno(error, -result, "CPU %u: KVM: %s", v->cpu->index, what);
}

#define GET(v, request, what, target, name)                   \
    if ((result = kvm_ioctl((v)->fd, request, target)) < 0) { \
        return failed(v, "cannot read " name, result, error); \
    }

static bool msrs_get(KvmVcpu *v, GError **error)
{
    const KvmAccel *kvm = v->kvm;
    bool lapic = kvm_has_lapic(kvm);
    MsrBatch batch = { .head.nmsrs = kvm->msr_count + 1 + lapic };

    batch.entries[0].index = MSR_TSC;
    batch.entries[kvm->msr_count + 1].index = MSR_TSC_DEADLINE;
    for (unsigned i = 0; i < kvm->msr_count; i++) {
        batch.entries[i + 1].index = places[kvm->msrs[i]].index;
    }
    int result = kvm_ioctl(v->fd, KVM_GET_MSRS, &batch);
    if (result < (int)batch.head.nmsrs) {
        return failed(v, "cannot read model-specific registers", result < 0 ? result : -EIO, error);
    }
    v->last.tsc_deadline = lapic ? batch.entries[kvm->msr_count + 1].data : 0;
    tsc_get(v->cpu, batch.entries[0].data);
    v->last.tsc_offset = v->cpu->tsc_offset;
    for (unsigned i = 0; i < kvm->msr_count; i++) {
        *msr_value(v->cpu, kvm->msrs[i]) = v->last.msrs[i] = batch.entries[i + 1].data;
    }
    return true;
}

/* What the kernel was about to deliver. */
static void events_get(KvmVcpu *v, struct kvm_vcpu_events *e)
{
    X86Cpu *cpu = v->cpu;

    cpu->inhibit_interrupts = e->interrupt.shadow != 0;
    cpu->inhibit_debug = e->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
    cpu->nmi_blocked = e->nmi.masked;
    for (unsigned i = 0; i < MIN(e->nmi.pending, 2); i++) {
        cpu_nmi(cpu);
    }
    if (e->exception.injected || e->exception.pending || e->nmi.injected ||
        (e->interrupt.injected && !e->interrupt.soft)) {
        mmu_flush(cpu, false);
        if (e->exception.injected || e->exception.pending) {
            x86_deliver(cpu, EVENT_EXCEPTION, e->exception.nr, e->exception.has_error_code,
                        e->exception.error_code);
        } else if (e->nmi.injected) {
            cpu->nmi_blocked = true;
            x86_deliver(cpu, EVENT_NMI, 2, false, 0);
        } else {
            x86_deliver(cpu, EVENT_HARD_INT, e->interrupt.nr, false, 0);
        }
        cpu->halted = false;
    }
    if (e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT && e->triple_fault.pending) {
        cpu->shutdown = cpu->halted = true;
        cpu->env.request_reset(cpu->env.opaque);
    }
}

/* ---- the local APIC, where it is the kernel's ---- */

static bool lapic_get(KvmVcpu *v, GError **error)
{
    X86Cpu *cpu = v->cpu;
    struct kvm_lapic_state state;
    struct kvm_mp_state mp;
    int result;

    GET(v, KVM_GET_MP_STATE, mp_state, &mp, "whether it runs");
    GET(v, KVM_GET_LAPIC, lapic, &state, "local APIC");
    G_STATIC_ASSERT(sizeof(state.regs) == APIC_IMAGE_SIZE);
    apic_load_image(cpu->apic, (const uint8_t *)state.regs, v->last.sregs.apic_base, v->last.tsc_deadline);
    apic_save_image(cpu->apic, v->last.lapic);
    v->last.mp_state = mp.mp_state;
    cpu->wait_sipi = mp.mp_state == KVM_MP_STATE_UNINITIALIZED || mp.mp_state == KVM_MP_STATE_INIT_RECEIVED;
    cpu->halted = cpu->wait_sipi || mp.mp_state == KVM_MP_STATE_HALTED;
    return true;
}

/* Interrupts that have come in since it was read are not lost: unless the vCPU stood still on purpose,
 * requests are taken from what the kernel has now. */
static bool lapic_put(KvmVcpu *v, GError **error)
{
    X86Cpu *cpu = v->cpu;
    struct kvm_lapic_state now, fresh;
    uint8_t image[APIC_IMAGE_SIZE], compare[APIC_IMAGE_SIZE];
    int result;

    apic_save_image(cpu->apic, image);
    memcpy(compare, image, sizeof(compare));
    memcpy(compare + APIC_IMAGE_CURRENT, v->last.lapic + APIC_IMAGE_CURRENT, 4); /* time has passed */
    if (!v->pushed || memcmp(compare, v->last.lapic, sizeof(compare)) != 0) {
        memcpy(now.regs, image, sizeof(image));
        if (!v->stood && v->pushed) {
            GET(v, KVM_GET_LAPIC, lapic, &fresh, "local APIC");
            memcpy(now.regs + APIC_IMAGE_IRR, fresh.regs + APIC_IMAGE_IRR, 8 * 16);
        }
        if ((result = kvm_ioctl(v->fd, KVM_SET_LAPIC, &now)) < 0) {
            return failed(v, "does not take the local APIC", result, error);
        }
    }
    uint64_t deadline = apic_get_tsc_deadline(cpu->apic);
    if (!v->pushed || deadline != v->last.tsc_deadline) {
        MsrBatch batch = { .head.nmsrs = 1, .entries[0] = { .index = MSR_TSC_DEADLINE, .data = deadline } };
        if ((result = kvm_ioctl(v->fd, KVM_SET_MSRS, &batch)) < 0) {
            return failed(v, "does not take the TSC deadline", result, error);
        }
    }
    struct kvm_mp_state mp = { .mp_state = cpu->wait_sipi ? KVM_MP_STATE_INIT_RECEIVED
                                           : cpu->halted  ? KVM_MP_STATE_HALTED
                                                          : KVM_MP_STATE_RUNNABLE };
    if (!v->pushed || mp.mp_state != v->last.mp_state) {
        if ((result = kvm_ioctl(v->fd, KVM_SET_MP_STATE, &mp)) < 0) {
            return failed(v, "does not take whether it runs", result, error);
        }
        v->last.mp_state = mp.mp_state;
    }
    /* The kernel's from now on. */
    cpu->halted = cpu->wait_sipi = false;
    return true;
}

bool kvm_state_get(KvmVcpu *v, GError **error)
{
    X86Cpu *cpu = v->cpu;
    const KvmAccel *kvm = v->kvm;
    int result;

    if (v->here) {
        return true;
    }
    if (!kvm_vcpu_complete(v)) {
        return error_set(error, "CPU %u: KVM: an access that was under way cannot be completed", cpu->index);
    }
    GET(v, KVM_GET_REGS, regs, &v->last.regs, "general registers");
    GET(v, KVM_GET_SREGS, sregs, &v->last.sregs, "segments and control registers");
    GET(v, KVM_GET_XSAVE, xsave, v->last.xsave, "vector registers");
    GET(v, KVM_GET_VCPU_EVENTS, events, &v->last.events, "pending events");
    if (kvm->has_debugregs) {
        GET(v, KVM_GET_DEBUGREGS, debugregs, &v->last.debugregs, "debug registers");
        memcpy(cpu->dr, v->last.debugregs.db, 4 * 8);
        cpu->dr[6] = v->last.debugregs.dr6;
        cpu->dr[7] = v->last.debugregs.dr7;
    }
    if (kvm->has_xcrs) {
        GET(v, KVM_GET_XCRS, xcrs, &v->last.xcrs, "XCR0");
        cpu->xcr0 = v->last.xcrs.nr_xcrs ? v->last.xcrs.xcrs[0].value : 1;
    }
    if (!msrs_get(v, error)) {
        return false;
    }
    if (kvm_has_lapic(kvm) && !lapic_get(v, error)) {
        return false;
    }
    v->here = true;
    regs_get(cpu, &v->last.regs);
    sregs_get(cpu, &v->last.sregs);
    xsave_get(cpu, v->last.xsave);
    /* Reading all of them back at once would compare unequal where the two images differ in form only. */
    xsave_put(cpu, v->last.xsave);
    cpu->rflags = FLAG_ONE;
    x86_set_rflags(cpu, v->last.regs.rflags | FLAG_ONE);
    x86_update_mode(cpu);
    mmu_flush(cpu, false);
    sregs_put(cpu, &v->last.sregs);
    struct kvm_vcpu_events events = v->last.events;
    events_get(v, &events);
    return true;
}

/* ---- to the kernel ---- */

#define PUT(v, request, member, name)                                                      \
    if (!(v)->pushed || memcmp(&now.member, &(v)->last.member, sizeof(now.member)) != 0) { \
        if ((result = kvm_ioctl((v)->fd, request, &now.member)) < 0) {                     \
            return failed(v, "does not take " name, result, error);                        \
        }                                                                                  \
        (v)->last.member = now.member;                                                     \
    }

/* Registers that the kernel refuses are left as it has them: models differ in which exist. */
static bool msrs_put(KvmVcpu *v, GError **error)
{
    const KvmAccel *kvm = v->kvm;
    MsrBatch batch = { .head.nmsrs = 0 };
    struct kvm_msr_entry todo[KVM_MSRS_MAX + 1];
    unsigned count = 0;

    for (unsigned i = 0; i < kvm->msr_count; i++) {
        uint64_t value = *msr_value(v->cpu, kvm->msrs[i]);
        if (!v->pushed || value != v->last.msrs[i]) {
            todo[count++] = (struct kvm_msr_entry){ .index = places[kvm->msrs[i]].index, .data = value };
            v->last.msrs[i] = value;
        }
    }
    if (!v->pushed || v->cpu->tsc_offset != v->last.tsc_offset) {
        todo[count++] = (struct kvm_msr_entry){ .index = MSR_TSC, .data = x86_tsc(v->cpu) };
        v->last.tsc_offset = v->cpu->tsc_offset;
    }
    for (unsigned done = 0; done < count;) {
        batch.head.nmsrs = count - done;
        memcpy(batch.entries, todo + done, (count - done) * sizeof(todo[0]));
        int result = kvm_ioctl(v->fd, KVM_SET_MSRS, &batch);
        if (result < 0) {
            return failed(v, "does not take model-specific registers", result, error);
        }
        done += (unsigned)result;
        if (done < count) {
            LOG(LOG_UNIMP, "cpu %u: KVM does not take MSR 0x%x = 0x%llx", v->cpu->index, todo[done].index,
                (unsigned long long)todo[done].data);
            done++;
        }
    }
    return true;
}

/* kvmclock is virtual time: a machine that stood still goes on where it was. */
static bool clock_put(KvmAccel *kvm, const X86Cpu *cpu, GError **error)
{
    struct kvm_clock_data data;

    if (!kvm->has_adjust_clock || !cpu->env.clocks) {
        return true;
    }
    g_mutex_lock(&kvm->lock);
    int result = kvm_ioctl(kvm->vm_fd, KVM_GET_CLOCK, &data);
    int64_t now = clock_now_ns(cpu->env.clocks, CLOCK_TYPE_VIRTUAL);
    int64_t ahead = result < 0 ? 0 : (int64_t)data.clock - now;
    if (result >= 0 && (ahead > CLOCK_SLACK_NS || ahead < -CLOCK_SLACK_NS)) {
        memset(&data, 0, sizeof(data));
        data.clock = (uint64_t)now;
        result = kvm_ioctl(kvm->vm_fd, KVM_SET_CLOCK, &data);
    }
    g_mutex_unlock(&kvm->lock);
    return result >= 0 || error_set_errno(error, -result, "KVM does not take the guest's clock");
}

bool kvm_state_put(KvmVcpu *v, GError **error)
{
    X86Cpu *cpu = v->cpu;
    KvmAccel *kvm = v->kvm;
    struct {
        struct kvm_regs regs;
        struct kvm_sregs sregs;
        struct kvm_vcpu_events events;
        struct kvm_debugregs debugregs;
        struct kvm_xcrs xcrs;
        struct {
            uint8_t image[KVM_XSAVE_SIZE];
        } xsave;
    } now;
    int result;

    if (!v->here) {
        return true;
    }
    memset(&now, 0, offsetof(__typeof__(now), xsave));
    if (!v->pushed && kvm->msr_count == 0) {
        probe_msrs(v);
    }
    sregs_put(cpu, &now.sregs);
    PUT(v, KVM_SET_SREGS, sregs, "segments and control registers");
    if (kvm->has_xcrs && cpu_has_feature(cpu, FEAT_1_ECX, CPUID_EXT_XSAVE)) {
        now.xcrs.nr_xcrs = 1;
        now.xcrs.xcrs[0].value = cpu->xcr0;
        PUT(v, KVM_SET_XCRS, xcrs, "XCR0");
    }
    xsave_put(cpu, now.xsave.image);
    if (!v->pushed || memcmp(now.xsave.image, v->last.xsave, KVM_XSAVE_SIZE) != 0) {
        if ((result = kvm_ioctl(v->fd, KVM_SET_XSAVE, now.xsave.image)) < 0) {
            return failed(v, "does not take vector registers", result, error);
        }
        memcpy(v->last.xsave, now.xsave.image, KVM_XSAVE_SIZE);
    }
    if (!msrs_put(v, error)) {
        return false;
    }
    regs_put(cpu, &now.regs);
    PUT(v, KVM_SET_REGS, regs, "general registers");
    if (kvm->has_debugregs) {
        memcpy(now.debugregs.db, cpu->dr, 4 * 8);
        now.debugregs.dr6 = cpu->dr[6];
        now.debugregs.dr7 = cpu->dr[7];
        PUT(v, KVM_SET_DEBUGREGS, debugregs, "debug registers");
    }
    now.events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    now.events.interrupt.shadow = (cpu->inhibit_debug        ? KVM_X86_SHADOW_INT_MOV_SS
                                   : cpu->inhibit_interrupts ? KVM_X86_SHADOW_INT_STI
                                                             : 0);
    now.events.nmi.masked = cpu->nmi_blocked;
    PUT(v, KVM_SET_VCPU_EVENTS, events, "pending events");
    if (kvm_has_lapic(kvm) && !lapic_put(v, error)) {
        return false;
    }
    if (v->stood && !clock_put(kvm, cpu, error)) {
        return false;
    }
    v->stood = false;
    v->run->if_flag = !!(cpu->rflags & FLAG_IF);
    v->run->ready_for_interrupt_injection = v->run->if_flag && !cpu->inhibit_interrupts;
    v->here = false;
    v->pushed = true;
    return true;
}
