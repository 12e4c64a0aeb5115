/*
 * Control registers, fast system calls, flags with privilege, port I/O and the other system instructions: SDM
 * vol. 2 and vol. 3 chapters 2, 5.8.7 (SYSENTER, SYSCALL), 18.5 (I/O permission bitmap), 20.3 (VME, PVI); AMD
 * APM vol. 3 for what SYSCALL does outside 64-bit mode. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/system.h"

#include "arch/x86/apic.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/segment.h"
#include "base/log.h"

#include <sched.h>

static inline void require_cpl0(X86Cpu *cpu)
{
    if (G_UNLIKELY(cpu->cpl != 0)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}

/* ---- control registers ---- */

uint64_t x86_read_cr(X86Cpu *cpu, int number)
{
    if (number != 0 && number != 2 && number != 3 && number != 4 && number != 8) {
        x86_raise(cpu, EXC_UD);
    }
    require_cpl0(cpu);
    switch (number) {
    case 0:
        return cpu->cr0;
    case 2:
        return cpu->cr2;
    case 3:
        return cpu->cr3;
    case 4:
        return cpu->cr4;
    default:
        return apic_get_tpr(cpu->apic) >> 4;
    }
}

uint64_t x86_cr4_allowed(const X86Cpu *cpu)
{
    static const struct {
        FeatureWord word;
        uint32_t feature;
        uint64_t bits;
    } rules[] = {
        { FEAT_1_EDX, CPUID_VME, CR4_VME | CR4_PVI },
        { FEAT_1_EDX, CPUID_TSC, CR4_TSD },
        { FEAT_1_EDX, CPUID_DE, CR4_DE },
        { FEAT_1_EDX, CPUID_PSE, CR4_PSE },
        { FEAT_1_EDX, CPUID_PAE, CR4_PAE },
        { FEAT_1_EDX, CPUID_MCE, CR4_MCE },
        { FEAT_1_EDX, CPUID_PGE, CR4_PGE },
        { FEAT_1_EDX, CPUID_FXSR, CR4_OSFXSR },
        { FEAT_1_EDX, CPUID_SSE, CR4_OSXMMEXCPT },
        { FEAT_7_0_ECX, CPUID_7C_UMIP, CR4_UMIP },
        { FEAT_7_0_EBX, CPUID_7_FSGSBASE, CR4_FSGSBASE },
        { FEAT_1_ECX, CPUID_EXT_PCID, CR4_PCIDE },
        { FEAT_1_ECX, CPUID_EXT_XSAVE, CR4_OSXSAVE },
        { FEAT_7_0_EBX, CPUID_7_SMEP, CR4_SMEP },
        { FEAT_7_0_EBX, CPUID_7_SMAP, CR4_SMAP },
        { FEAT_7_0_ECX, CPUID_7C_PKU, CR4_PKE },
        { FEAT_7_0_ECX, CPUID_7C_PKS, CR4_PKS },
    };
    uint64_t allowed = CR4_PCE;

    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        if (cpu_has_feature(cpu, rules[i].word, rules[i].feature)) {
            allowed |= rules[i].bits;
        }
    }
    return allowed;
}

/* PAE paging: the four page-directory-pointer entries are checked when CR3 or the mode is loaded (SDM vol.
 * 3 4.4.1). */
static void check_pdptes(X86Cpu *cpu, uint64_t cr3)
{
    uint64_t reserved = UINT64_C(0x1e6) | ~((UINT64_C(1) << cpu->phys_bits) - 1);

    for (unsigned i = 0; i < 4; i++) {
        uint64_t pdpte = mmu_physical_load(cpu, (cr3 & 0xffffffe0) + i * 8, 8);
        if ((pdpte & 1) && (pdpte & reserved)) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
    }
}

static void write_cr0(X86Cpu *cpu, uint64_t value)
{
    if (value >> 32) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    value &= CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
    value |= CR0_ET;
    if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD))) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    uint64_t changed = cpu->cr0 ^ value;
    uint64_t efer = cpu->efer;
    if ((changed & CR0_PG) && (value & CR0_PG)) {
        if (efer & EFER_LME) {
            if (!(cpu->cr4 & CR4_PAE) || (cpu->segs[SEG_CS].attr & DESC_L)) {
                x86_raise_error(cpu, EXC_GP, 0);
            }
            efer |= EFER_LMA;
        }
    } else if (changed & CR0_PG) {
        if (in_64bit_mode(cpu) || (cpu->cr4 & CR4_PCIDE)) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
        efer &= ~(uint64_t)EFER_LMA;
    }
    if ((value & CR0_PG) && (cpu->cr4 & CR4_PAE) && !(efer & EFER_LMA) &&
        (changed & (CR0_PG | CR0_CD | CR0_NW))) {
        check_pdptes(cpu, cpu->cr3);
    }
    cpu->cr0 = value;
    cpu->efer = efer;
    if (changed & (CR0_PG | CR0_WP | CR0_PE)) {
        mmu_flush(cpu, false);
    }
    x86_update_mode(cpu);
}

static void write_cr3(X86Cpu *cpu, uint64_t value)
{
    bool no_flush = false;

    if (in_long_mode(cpu)) {
        if (cpu->cr4 & CR4_PCIDE) {
            no_flush = value >> 63;
            value &= ~(UINT64_C(1) << 63);
        }
        if (value >> cpu->phys_bits) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
    } else {
        value &= UINT32_MAX;
        if ((cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE)) {
            check_pdptes(cpu, value);
        }
    }
    cpu->cr3 = value;
    mmu_switch(cpu, value, no_flush);
}

static void write_cr4(X86Cpu *cpu, uint64_t value)
{
    uint64_t changed = cpu->cr4 ^ value;

    if (value & ~x86_cr4_allowed(cpu)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    if (in_long_mode(cpu) && !(value & CR4_PAE)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    if ((changed & value & CR4_PCIDE) && (!in_long_mode(cpu) || (cpu->cr3 & 0xfff))) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    if ((cpu->cr0 & CR0_PG) && !in_long_mode(cpu) && (value & CR4_PAE) &&
        (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP))) {
        check_pdptes(cpu, cpu->cr3);
    }
    cpu->cr4 = value;
    if (changed & (CR4_PGE | CR4_PAE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS)) {
        mmu_flush(cpu, false);
    }
    x86_update_mode(cpu);
}

void x86_write_cr(X86Cpu *cpu, int number, uint64_t value)
{
    if (number != 0 && number != 2 && number != 3 && number != 4 && number != 8) {
        x86_raise(cpu, EXC_UD);
    }
    require_cpl0(cpu);
    if (!in_64bit_mode(cpu)) {
        value &= UINT32_MAX;
    }
    switch (number) {
    case 0:
        write_cr0(cpu, value);
        break;
    case 2:
        cpu->cr2 = value;
        break;
    case 3:
        write_cr3(cpu, value);
        break;
    case 4:
        write_cr4(cpu, value);
        break;
    default:
        if (value > 15) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
        apic_set_tpr(cpu->apic, (uint8_t)(value << 4));
        break;
    }
}

void x86_lmsw(X86Cpu *cpu, uint16_t value)
{
    require_cpl0(cpu);
    /* PE can be set, never cleared. */
    write_cr0(cpu, (cpu->cr0 & ~UINT64_C(14)) | (value & 15) | (cpu->cr0 & CR0_PE));
}

void x86_clts(X86Cpu *cpu)
{
    require_cpl0(cpu);
    cpu->cr0 &= ~(uint64_t)CR0_TS;
    x86_update_mode(cpu);
}

void x86_xsetbv(X86Cpu *cpu)
{
    uint64_t value = (uint32_t)cpu->regs[R_RAX] | cpu->regs[R_RDX] << 32;

    if (!(cpu->cr4 & CR4_OSXSAVE)) {
        x86_raise(cpu, EXC_UD);
    }
    require_cpl0(cpu);
    if ((uint32_t)cpu->regs[R_RCX] != 0 || (value & ~cpuid_xcr0_mask(cpu)) || !cpuid_xcr0_valid(value)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    cpu->xcr0 = value;
    x86_update_mode(cpu);
}

void x86_xgetbv(X86Cpu *cpu)
{
    uint32_t index = (uint32_t)cpu->regs[R_RCX];

    if (!(cpu->cr4 & CR4_OSXSAVE)) {
        x86_raise(cpu, EXC_UD);
    }
    if (index > 1 || (index == 1 && !cpu_has_feature(cpu, FEAT_XSAVE, CPUID_XGETBV1))) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    /* With index 1: AND the components in use; all of them count as that. */
    cpu->regs[R_RAX] = (uint32_t)cpu->xcr0;
    cpu->regs[R_RDX] = (uint32_t)(cpu->xcr0 >> 32);
}

static void keys_check(X86Cpu *cpu)
{
    if (!(cpu->cr4 & CR4_PKE)) {
        x86_raise(cpu, EXC_UD);
    }
    if ((uint32_t)cpu->regs[R_RCX] != 0) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}

void x86_rdpkru(X86Cpu *cpu)
{
    keys_check(cpu);
    cpu->regs[R_RAX] = cpu->pkru;
    cpu->regs[R_RDX] = 0;
}

void x86_wrpkru(X86Cpu *cpu)
{
    keys_check(cpu);
    if ((uint32_t)cpu->regs[R_RDX] != 0) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    mmu_set_keys(cpu, true, (uint32_t)cpu->regs[R_RAX]);
}

/* ---- time ---- */

uint64_t x86_tsc(X86Cpu *cpu)
{
    uint64_t ns = cpu->env.clocks ? (uint64_t)clock_now_ns(cpu->env.clocks, CLOCK_TYPE_VIRTUAL) : 0;

    if (G_LIKELY(cpu->tsc_khz == 1000000)) {
        return ns + (uint64_t)cpu->tsc_offset;
    }
    return (uint64_t)((unsigned __int128)ns * cpu->tsc_khz / 1000000) + (uint64_t)cpu->tsc_offset;
}

static void check_tsd(X86Cpu *cpu)
{
    if ((cpu->cr4 & CR4_TSD) && cpu->cpl != 0) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}

void x86_rdtsc(X86Cpu *cpu)
{
    check_tsd(cpu);
    uint64_t tsc = x86_tsc(cpu);
    cpu->regs[R_RAX] = (uint32_t)tsc;
    cpu->regs[R_RDX] = (uint32_t)(tsc >> 32);
}

void x86_rdtscp(X86Cpu *cpu)
{
    x86_rdtsc(cpu);
    cpu->regs[R_RCX] = (uint32_t)cpu->tsc_aux;
}

void x86_rdpid(X86Cpu *cpu, int reg)
{
    cpu->regs[reg] = cpu->tsc_aux;
}

void x86_rdpmc(X86Cpu *cpu)
{
    /* There are no performance counters. */
    x86_raise_error(cpu, EXC_GP, 0);
}

/* ---- TLB ---- */

void x86_invlpg(X86Cpu *cpu, uint64_t linear)
{
    require_cpl0(cpu);
    if (!in_long_mode(cpu) || x86_is_canonical(linear)) {
        mmu_flush_page(cpu, linear);
    }
}

void x86_invpcid(X86Cpu *cpu, uint64_t type, uint64_t descriptor_linear)
{
    struct {
        uint64_t pcid, linear;
    } d;

    require_cpl0(cpu);
    x86_read_bytes(cpu, descriptor_linear, &d, sizeof(d));
    if (type > 3 || (d.pcid >> 12) || (type == 0 && !x86_is_canonical(d.linear)) ||
        (type <= 1 && d.pcid != 0 && !(cpu->cr4 & CR4_PCIDE))) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    mmu_invpcid(cpu, (unsigned)type, d.pcid, d.linear);
}

/* ---- waiting ---- */

void x86_hlt(X86Cpu *cpu)
{
    require_cpl0(cpu);
    if (cpu->pv_kicked) {
        cpu->pv_kicked = false;
        return;
    }
    cpu->halted = true;
}

void x86_monitor(X86Cpu *cpu, uint64_t linear)
{
    if ((uint32_t)cpu->regs[R_RCX] != 0) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    x86_ld8(cpu, linear);
}

void x86_mwait(X86Cpu *cpu)
{
    if (cpu->cpl != 0) {
        x86_raise(cpu, EXC_UD);
    }
    if ((uint32_t)cpu->regs[R_RCX] & ~1u) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    /* Stores of others are not watched: a wake-up for no reason is legal, so this only gives way. */
    bool was = mmu_suspend(cpu);
    sched_yield();
    mmu_resume(cpu, was);
}

void x86_invd(X86Cpu *cpu)
{
    require_cpl0(cpu);
}

/* ---- KVM's hypercalls (Linux Documentation/virt/kvm/x86/hypercalls.rst) ---- */

enum { HC_VAPIC_POLL_IRQ = 1, HC_KICK_CPU = 5, HC_CLOCK_PAIRING = 9, HC_SEND_IPI = 10, HC_SCHED_YIELD = 11 };
#define HC_ENOSYS 1000
#define HC_EPERM  1

static bool send_ipi(X86Cpu *cpu, uint64_t id, const ApicMessage *m)
{
    return id < UINT32_MAX && apic_bus_deliver_to_id(cpu->env.apic_bus, (uint32_t)id, m);
}

static int64_t send_ipis(X86Cpu *cpu, uint64_t low, uint64_t high, uint32_t min_id, uint32_t icr)
{
    ApicMessage m = { .mode = (ApicDeliveryMode)((icr >> 8) & 7), .vector = (uint8_t)icr };
    unsigned word_bits = in_64bit_mode(cpu) ? 64 : 32;

    int64_t count = 0;

    if (m.mode != APIC_FIXED && m.mode != APIC_NMI) {
        return -HC_ENOSYS;
    }
    for (unsigned half = 0; half < 2; half++) {
        uint64_t bits = half ? high : low;
        for (unsigned i = 0; i < word_bits && bits != 0; i++, bits >>= 1) {
            if ((bits & 1) && send_ipi(cpu, (uint64_t)min_id + half * word_bits + i, &m)) {
                count++;
            }
        }
    }
    return count;
}

void x86_vmcall(X86Cpu *cpu)
{
    if (!cpu->cpuid->kvm || !cpu_has_feature(cpu, FEAT_1_ECX, CPUID_EXT_HYPERVISOR)) {
        x86_raise(cpu, EXC_UD);
    }
    uint64_t mask = in_64bit_mode(cpu) ? UINT64_MAX : UINT32_MAX;
    uint64_t number = cpu->regs[R_RAX] & mask, a0 = cpu->regs[R_RBX] & mask, a1 = cpu->regs[R_RCX] & mask;
    uint64_t a2 = cpu->regs[R_RDX] & mask, a3 = cpu->regs[R_RSI] & mask;
    int64_t result = -HC_ENOSYS;

    if (cpu->cpl != 0) {
        result = -HC_EPERM;
    } else if (number == HC_VAPIC_POLL_IRQ) {
        result = 0;
    } else if (number == HC_KICK_CPU && cpu_has_feature(cpu, FEAT_KVM, KVM_FEATURE_PV_UNHALT)) {
        apic_bus_kick(cpu->env.apic_bus, (uint32_t)a1);
        result = 0;
    } else if (number == HC_SEND_IPI && cpu_has_feature(cpu, FEAT_KVM, KVM_FEATURE_PV_SEND_IPI)) {
        result = send_ipis(cpu, a0, a1, (uint32_t)a2, (uint32_t)a3);
    } else if (number == HC_SCHED_YIELD && cpu_has_feature(cpu, FEAT_KVM, KVM_FEATURE_PV_SCHED_YIELD)) {
        bool was = mmu_suspend(cpu);
        sched_yield();
        mmu_resume(cpu, was);
        result = 0;
    }
    cpu->regs[R_RAX] = (uint64_t)result & mask;
}

/* ---- flags with privilege ---- */

void x86_clac_stac(X86Cpu *cpu, bool set)
{
    if (cpu->cpl != 0 || !cpu_has_feature(cpu, FEAT_7_0_EBX, CPUID_7_SMAP)) {
        x86_raise(cpu, EXC_UD);
    }
    cpu->rflags = (cpu->rflags & ~(uint64_t)FLAG_AC) | (set ? FLAG_AC : 0);
    mmu_select(cpu, set ? MMU_KERNEL_AC : MMU_KERNEL);
}

void x86_umip_check(X86Cpu *cpu)
{
    if ((cpu->cr4 & CR4_UMIP) && cpu->cpl != 0 && (cpu->cr0 & CR0_PE)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}

static inline unsigned iopl(const X86Cpu *cpu)
{
    return (cpu->rflags & FLAG_IOPL) >> 12;
}

/* CLI and STI act on VIF instead of IF: virtual-8086 mode with VME, or CPL 3 with PVI. */
static bool uses_vif(const X86Cpu *cpu)
{
    if (cpu->rflags & FLAG_VM) {
        return cpu->cr4 & CR4_VME;
    }
    return cpu->cpl == 3 && (cpu->cr4 & CR4_PVI);
}

static bool may_change_if(const X86Cpu *cpu)
{
    if (!(cpu->cr0 & CR0_PE)) {
        return true;
    }
    return (cpu->rflags & FLAG_VM) ? iopl(cpu) == 3 : cpu->cpl <= iopl(cpu);
}

void x86_cli(X86Cpu *cpu)
{
    if (may_change_if(cpu)) {
        cpu->rflags &= ~(uint64_t)FLAG_IF;
    } else if (uses_vif(cpu)) {
        cpu->rflags &= ~(uint64_t)FLAG_VIF;
    } else {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}

void x86_sti(X86Cpu *cpu)
{
    if (may_change_if(cpu)) {
        if (!(cpu->rflags & FLAG_IF)) {
            cpu->inhibit_interrupts = true;
        }
        cpu->rflags |= FLAG_IF;
    } else if (uses_vif(cpu) && !(cpu->rflags & FLAG_VIP)) {
        cpu->rflags |= FLAG_VIF;
    } else {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}

uint64_t x86_pushf(X86Cpu *cpu, unsigned operand_size)
{
    uint64_t flags = x86_get_rflags(cpu);

    if ((cpu->cr0 & CR0_PE) && (flags & FLAG_VM) && iopl(cpu) < 3) {
        if (!(cpu->cr4 & CR4_VME) || operand_size != 2) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
        return (flags & ~(uint64_t)FLAG_IF) | FLAG_IOPL | ((flags & FLAG_VIF) ? FLAG_IF : 0);
    }
    return operand_size == 2 ? flags & 0xffff : flags & ~(uint64_t)(FLAG_VM | FLAG_RF);
}

void x86_popf(X86Cpu *cpu, uint64_t value, unsigned operand_size)
{
    uint64_t flags = x86_get_rflags(cpu);
    uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;

    if (operand_size > 2) {
        mask |= FLAG_AC | FLAG_ID;
    }
    if (!(cpu->cr0 & CR0_PE)) {
        mask |= FLAG_IF | FLAG_IOPL;
    } else if (flags & FLAG_VM) {
        if (iopl(cpu) == 3) {
            mask |= FLAG_IF;
        } else {
            if (!(cpu->cr4 & CR4_VME) || operand_size != 2 || (value & FLAG_TF) ||
                ((value & FLAG_IF) && (flags & FLAG_VIP))) {
                x86_raise_error(cpu, EXC_GP, 0);
            }
            mask |= FLAG_VIF;
            value = (value & ~(uint64_t)FLAG_VIF) | ((value & FLAG_IF) ? FLAG_VIF : 0);
        }
    } else {
        if (cpu->cpl == 0) {
            mask |= FLAG_IOPL;
        }
        if (cpu->cpl <= iopl(cpu)) {
            mask |= FLAG_IF;
        }
    }
    if (operand_size > 2) {
        flags &= ~(uint64_t)FLAG_RF;
    }
    x86_set_rflags(cpu, (flags & ~mask) | (value & mask));
}

/* ---- system calls ---- */

static X86Segment flat_segment(uint16_t selector, unsigned dpl, bool code, bool is64)
{
    return (X86Segment){ .selector = selector,
                         .limit = UINT32_MAX,
                         .attr = DESC_P | DESC_S | DESC_A | DESC_W | DESC_G | dpl << DESC_DPL_SHIFT |
                                 (code ? DESC_CODE : 0) | (is64 ? DESC_L : DESC_B) };
}

static void load_flat(X86Cpu *cpu, unsigned cs, unsigned ss, unsigned cpl, bool is64)
{
    cpu->segs[SEG_CS] = flat_segment((uint16_t)(cs | cpl), cpl, true, is64);
    cpu->segs[SEG_SS] = flat_segment((uint16_t)(ss | cpl), cpl, false, false);
    cpu->cpl = (uint8_t)cpl;
}

/* After SYSCALL and SYSRET it is the new TF that makes a single-step trap, not the one that they began with.
 */
static void step_by_new_flags(X86Cpu *cpu, bool began_with_tf)
{
    if (G_UNLIKELY(began_with_tf || (cpu->rflags & FLAG_TF))) {
        cpu->event_by_instruction = false;
        if (cpu->rflags & FLAG_TF) {
            x86_debug_after(cpu, true);
        }
        cpu->event_by_instruction = began_with_tf;
    }
}

void x86_syscall(X86Cpu *cpu, uint64_t next_rip)
{
    bool amd = cpuid_is_amd(cpu), tf = cpu->mode & MODE_TF;

    if (!(cpu->efer & EFER_SCE) || !(cpu->cr0 & CR0_PE) || (!amd && !in_64bit_mode(cpu))) {
        x86_raise(cpu, EXC_UD);
    }
    unsigned cs = (cpu->star >> 32) & 0xfffc;
    uint64_t flags = x86_get_rflags(cpu);
    if (in_long_mode(cpu)) {
        bool from64 = in_64bit_mode(cpu);
        cpu->regs[R_RCX] = next_rip;
        cpu->regs[R_R11] = flags & ~(uint64_t)FLAG_RF;
        load_flat(cpu, cs, cs + 8, 0, true);
        cpu->rip = from64 ? cpu->lstar : cpu->cstar;
        x86_set_rflags(cpu, (flags & ~cpu->fmask & ~(uint64_t)FLAG_RF) | FLAG_ONE);
    } else {
        cpu->regs[R_RCX] = (uint32_t)next_rip;
        load_flat(cpu, cs, cs + 8, 0, false);
        cpu->rip = (uint32_t)cpu->star;
        x86_set_rflags(cpu, flags & ~(uint64_t)(FLAG_IF | FLAG_VM | FLAG_RF));
    }
    x86_update_mode(cpu);
    step_by_new_flags(cpu, tf);
}

void x86_sysret(X86Cpu *cpu, unsigned operand_size)
{
    bool amd = cpuid_is_amd(cpu), tf = cpu->mode & MODE_TF;

    if (!(cpu->efer & EFER_SCE) || (!amd && !in_64bit_mode(cpu))) {
        x86_raise(cpu, EXC_UD);
    }
    if (cpu->cpl != 0 || !(cpu->cr0 & CR0_PE)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    unsigned base = (cpu->star >> 48) & 0xfffc;
    if (in_long_mode(cpu)) {
        bool to64 = operand_size == 8;
        if (to64 && !x86_is_canonical(cpu->regs[R_RCX])) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
        cpu->rip = to64 ? cpu->regs[R_RCX] : (uint32_t)cpu->regs[R_RCX];
        load_flat(cpu, to64 ? base + 16 : base, base + 8, 3, to64);
        x86_set_rflags(cpu, (cpu->regs[R_R11] & 0x3c7fd7) | FLAG_ONE);
    } else {
        cpu->rip = (uint32_t)cpu->regs[R_RCX];
        load_flat(cpu, base, base + 8, 3, false);
        x86_set_rflags(cpu, x86_get_rflags(cpu) | FLAG_IF);
    }
    x86_update_mode(cpu);
    step_by_new_flags(cpu, tf);
}

void x86_sysenter(X86Cpu *cpu)
{
    bool lma = in_long_mode(cpu);

    if (lma && cpuid_is_amd(cpu)) {
        x86_raise(cpu, EXC_UD);
    }
    if (!(cpu->cr0 & CR0_PE) || (cpu->sysenter_cs & 0xfffc) == 0) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    unsigned cs = cpu->sysenter_cs & 0xfffc;
    uint64_t flags = x86_get_rflags(cpu) & ~(uint64_t)(FLAG_VM | FLAG_IF | FLAG_RF);
    load_flat(cpu, cs, cs + 8, 0, lma);
    cpu->regs[R_RSP] = lma ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
    cpu->rip = lma ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
    x86_set_rflags(cpu, flags);
    x86_update_mode(cpu);
}

void x86_sysexit(X86Cpu *cpu, unsigned operand_size)
{
    bool to64 = operand_size == 8;

    if (in_long_mode(cpu) && cpuid_is_amd(cpu)) {
        x86_raise(cpu, EXC_UD);
    }
    if (!(cpu->cr0 & CR0_PE) || cpu->cpl != 0 || (cpu->sysenter_cs & 0xfffc) == 0) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    if (to64 && (!x86_is_canonical(cpu->regs[R_RCX]) || !x86_is_canonical(cpu->regs[R_RDX]))) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    unsigned cs = (cpu->sysenter_cs & 0xfffc) + (to64 ? 32 : 16);
    cpu->rip = to64 ? cpu->regs[R_RDX] : (uint32_t)cpu->regs[R_RDX];
    cpu->regs[R_RSP] = to64 ? cpu->regs[R_RCX] : (uint32_t)cpu->regs[R_RCX];
    load_flat(cpu, cs, cs + 8, 3, to64);
    x86_update_mode(cpu);
}

void x86_swapgs(X86Cpu *cpu)
{
    if (!in_64bit_mode(cpu)) {
        x86_raise(cpu, EXC_UD);
    }
    require_cpl0(cpu);
    uint64_t base = cpu->segs[SEG_GS].base;
    cpu->segs[SEG_GS].base = cpu->kernel_gs_base;
    cpu->kernel_gs_base = base;
}

/* ---- port I/O ---- */

void x86_check_io(X86Cpu *cpu, uint16_t port, unsigned size)
{
    if (!(cpu->cr0 & CR0_PE) || (!(cpu->rflags & FLAG_VM) && cpu->cpl <= iopl(cpu))) {
        return;
    }
    const X86Segment *tr = &cpu->segs[SEG_TR];
    unsigned type = (tr->attr >> DESC_TYPE_SHIFT) & 15;
    if ((type == DESC_TSS32 || type == DESC_TSS32_BUSY) && (tr->attr & DESC_P) && tr->limit >= 0x67) {
        uint64_t base = in_long_mode(cpu) ? tr->base : tr->base & UINT32_MAX;
        uint32_t offset = x86_ld16_idx(cpu, base + 0x66, MMU_KERNEL);
        offset += port / 8;
        /* Two bytes are always read, so both have to be there (SDM vol. 1 19.5.2). */
        if (offset + 1 <= tr->limit) {
            uint32_t bits = x86_ld16_idx(cpu, base + offset, MMU_KERNEL);
            if (!(bits >> (port & 7) & ((1u << size) - 1))) {
                return;
            }
        }
    }
    x86_raise_error(cpu, EXC_GP, 0);
}

uint32_t x86_in(X86Cpu *cpu, uint16_t port, unsigned size)
{
    uint64_t value = UINT64_MAX;

    x86_check_io(cpu, port, size);
    debug_io(cpu, port, size);
    bool was = mmu_suspend(cpu);
    if (address_space_load(cpu->env.io, port, size, &value, MEMTXATTRS_NONE) != MEMTX_OK) {
        value = UINT64_MAX;
    }
    mmu_resume(cpu, was);
    return (uint32_t)(value & (UINT64_C(0xffffffff) >> (32 - size * 8)));
}

void x86_out(X86Cpu *cpu, uint16_t port, uint32_t value, unsigned size)
{
    x86_check_io(cpu, port, size);
    debug_io(cpu, port, size);
    bool was = mmu_suspend(cpu);
    address_space_store(cpu->env.io, port, size, value, MEMTXATTRS_NONE);
    mmu_resume(cpu, was);
}
