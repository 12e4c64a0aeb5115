/*
 * Model-specific registers: SDM vol. 4, AMD APM vol. 2 appendix A, Linux Documentation/virt/kvm/x86/msr.rst.
 * What is not here raises #GP. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/apic.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/mmu.h"
#include "arch/x86/segment.h"
#include "arch/x86/system.h"
#include "base/log.h"

#include <time.h>

enum {
    MSR_P5_MC_ADDR = 0x0,
    MSR_P5_MC_TYPE = 0x1,
    MSR_TSC = 0x10,
    MSR_KVM_WALL_CLOCK_OLD = 0x11,
    MSR_KVM_SYSTEM_TIME_OLD = 0x12,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1b,
    MSR_EBL_CR_POWERON = 0x2a,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_BIOS_UPDATE_TRIGGER = 0x79,
    MSR_BIOS_SIGN_ID = 0x8b,
    MSR_FSB_FREQUENCY = 0xcd,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRR_CAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_MISC_FEATURES = 0x140,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_MCG_CTL = 0x17b,
    MSR_PERF_STATUS = 0x198,
    MSR_PERF_CTL = 0x199,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_LBR_FIRST = 0x1db,
    MSR_LBR_LAST = 0x1de,
    MSR_MTRR_VAR_FIRST = 0x200,
    MSR_MTRR_VAR_LAST = 0x20f,
    MSR_MTRR_FIX64K = 0x250,
    MSR_MTRR_FIX16K_0 = 0x258,
    MSR_MTRR_FIX16K_1 = 0x259,
    MSR_MTRR_FIX4K_FIRST = 0x268,
    MSR_MTRR_FIX4K_LAST = 0x26f,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_MC_FIRST = 0x400,
    MSR_MC_LAST = 0x427,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC_FIRST = 0x800,
    MSR_X2APIC_LAST = 0x8ff,
};
#define MSR_PKRS           0x6e1u
#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_FMASK          0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u
/* Performance counters that never count: what guests write to them is forgotten, from which they see it. */
#define MSR_AMD_PERF_FIRST   0xc0010000u
#define MSR_AMD_PERF_LAST    0xc0010007u
#define MSR_AMD_SYSCFG       0xc0010010u
#define MSR_AMD_HWCR         0xc0010015u
#define MSR_AMD_NB_CFG       0xc001001fu
#define MSR_AMD_PATCH_LOADER 0xc0010020u
#define MSR_AMD_INT_PENDING  0xc0010055u
#define MSR_AMD_MMCONF       0xc0010058u
#define MSR_AMD_VM_CR        0xc0010114u
#define MSR_AMD_OSVW_LENGTH  0xc0010140u
#define MSR_AMD_OSVW_STATUS  0xc0010141u
#define MSR_AMD_LS_CFG       0xc0011020u
#define MSR_AMD_DC_CFG       0xc0011022u
#define MSR_AMD_DE_CFG       0xc0011029u
#define MSR_AMD_BU_CFG2      0xc001102au
#define MSR_KVM_WALL_CLOCK   0x4b564d00u
#define MSR_KVM_SYSTEM_TIME  0x4b564d01u
#define MSR_KVM_ASYNC_PF     0x4b564d02u
#define MSR_KVM_STEAL_TIME   0x4b564d03u
#define MSR_KVM_PV_EOI       0x4b564d04u
#define MSR_KVM_POLL_CONTROL 0x4b564d05u
#define MCG_BANKS            10u
#define MCG_CAP_VALUE        (UINT64_C(0x1000100) | MCG_BANKS) /* MCG_CTL_P, SER_P */

/* ---- KVM's clock ---- */

/* struct pvclock_vcpu_time_info of the document. */
typedef struct PvClock {
    uint32_t version, pad0;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags, pad[2];
} PvClock;
#define PVCLOCK_TSC_STABLE 1

static void guest_write(X86Cpu *cpu, uint64_t gpa, const void *data, unsigned size)
{
    const uint8_t *bytes = data;

    for (unsigned i = 0; i + 4 <= size; i += 4) {
        uint32_t v;
        memcpy(&v, bytes + i, 4);
        mmu_physical_store(cpu, gpa + i, v, 4);
    }
}

/* ns = ((tsc << shift, or >> -shift) * mul) >> 32, exact as far as 32 bits go. */
static void pvclock_scale(uint64_t tsc_khz, uint32_t *mul, int8_t *shift)
{
    uint64_t hz = tsc_khz * 1000;
    int s = 0;

    while (hz > UINT64_C(2000000000)) {
        hz >>= 1;
        s--;
    }
    while (hz <= UINT64_C(1000000000)) {
        hz <<= 1;
        s++;
    }
    *mul = (uint32_t)((UINT64_C(1000000000) << 32) / hz);
    *shift = (int8_t)s;
}

/* The TSC is a fixed function of the virtual clock, so that one page holds for good; it is written anew only
 * where the guest moves the TSC. */
static void system_time_update(X86Cpu *cpu)
{
    if (!(cpu->kvm_system_time & 1)) {
        return;
    }
    uint64_t gpa = cpu->kvm_system_time & ~UINT64_C(1);
    uint32_t version = (uint32_t)mmu_physical_load(cpu, gpa, 4) | 1;
    int64_t ns = cpu->env.clocks ? clock_now_ns(cpu->env.clocks, CLOCK_TYPE_VIRTUAL) : 0;
    PvClock clock = {
        .version = version,
        .tsc_timestamp =
            (uint64_t)((unsigned __int128)(uint64_t)ns * cpu->tsc_khz / 1000000) + (uint64_t)cpu->tsc_offset,
        .system_time = (uint64_t)ns,
        .flags = cpu_has_feature(cpu, FEAT_KVM, KVM_FEATURE_CLOCKSOURCE_STABLE) ? PVCLOCK_TSC_STABLE : 0,
    };
    pvclock_scale(cpu->tsc_khz, &clock.tsc_to_system_mul, &clock.tsc_shift);
    guest_write(cpu, gpa, &clock, sizeof(clock));
    mmu_physical_store(cpu, gpa, version + 1, 4);
}

static void wall_clock_write(X86Cpu *cpu, uint64_t gpa)
{
    struct {
        uint32_t version, sec, nsec;
    } wall;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    int64_t boot = (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec -
                   (cpu->env.clocks ? clock_now_ns(cpu->env.clocks, CLOCK_TYPE_VIRTUAL) : 0);
    wall.version = ((uint32_t)mmu_physical_load(cpu, gpa, 4) | 1) + 1;
    wall.sec = (uint32_t)(boot / INT64_C(1000000000));
    wall.nsec = (uint32_t)(boot % INT64_C(1000000000));
    guest_write(cpu, gpa, &wall, sizeof(wall));
}

static bool kvm_msr_offered(const X86Cpu *cpu, uint32_t index)
{
    uint32_t needed;

    switch (index) {
    case MSR_KVM_WALL_CLOCK_OLD:
    case MSR_KVM_SYSTEM_TIME_OLD:
        needed = KVM_FEATURE_CLOCKSOURCE;
        break;
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_SYSTEM_TIME:
        needed = KVM_FEATURE_CLOCKSOURCE2;
        break;
    case MSR_KVM_STEAL_TIME:
        needed = KVM_FEATURE_STEAL_TIME;
        break;
    case MSR_KVM_PV_EOI:
        needed = KVM_FEATURE_PV_EOI;
        break;
    case MSR_KVM_POLL_CONTROL:
        needed = KVM_FEATURE_POLL_CONTROL;
        break;
    default:
        return false;
    }
    return cpu->cpuid->kvm && cpu_has_feature(cpu, FEAT_KVM, needed);
}

static bool kvm_msr_read(X86Cpu *cpu, uint32_t index, uint64_t *value)
{
    if (!kvm_msr_offered(cpu, index)) {
        return false;
    }
    switch (index) {
    case MSR_KVM_WALL_CLOCK_OLD:
    case MSR_KVM_WALL_CLOCK:
        *value = cpu->kvm_wall_clock;
        break;
    case MSR_KVM_SYSTEM_TIME_OLD:
    case MSR_KVM_SYSTEM_TIME:
        *value = cpu->kvm_system_time;
        break;
    case MSR_KVM_STEAL_TIME:
        *value = cpu->kvm_steal_time;
        break;
    case MSR_KVM_PV_EOI:
        *value = cpu->kvm_pv_eoi;
        break;
    default:
        *value = cpu->kvm_poll_control;
        break;
    }
    return true;
}

static bool kvm_msr_write(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    if (!kvm_msr_offered(cpu, index)) {
        return false;
    }
    switch (index) {
    case MSR_KVM_WALL_CLOCK_OLD:
    case MSR_KVM_WALL_CLOCK:
        cpu->kvm_wall_clock = value;
        wall_clock_write(cpu, value);
        break;
    case MSR_KVM_SYSTEM_TIME_OLD:
    case MSR_KVM_SYSTEM_TIME:
        cpu->kvm_system_time = value;
        system_time_update(cpu);
        break;
    case MSR_KVM_STEAL_TIME: {
        if (value & 0x3e) {
            return false;
        }
        cpu->kvm_steal_time = value;
        if (value & 1) {
            /* Nothing is ever stolen, and no vCPU counts as preempted. */
            static const uint8_t zero[64];
            guest_write(cpu, value & ~UINT64_C(63), zero, sizeof(zero));
        }
        break;
    }
    case MSR_KVM_PV_EOI:
        if (value & 2) {
            return false;
        }
        apic_pv_eoi_settle(cpu->apic);
        cpu->kvm_pv_eoi = value;
        break;
    default:
        if (value & ~UINT64_C(1)) {
            return false;
        }
        cpu->kvm_poll_control = value;
        break;
    }
    return true;
}

/* ---- memory types ---- */

static bool memory_type_valid(unsigned type)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

static bool pat_valid(uint64_t value)
{
    for (int i = 0; i < 8; i++, value >>= 8) {
        unsigned type = value & 0xff;
        if (!memory_type_valid(type) && type != 7) {
            return false;
        }
    }
    return true;
}

static int mtrr_fixed_index(uint32_t index)
{
    switch (index) {
    case MSR_MTRR_FIX64K:
        return 0;
    case MSR_MTRR_FIX16K_0:
        return 1;
    case MSR_MTRR_FIX16K_1:
        return 2;
    default:
        return index >= MSR_MTRR_FIX4K_FIRST && index <= MSR_MTRR_FIX4K_LAST
                   ? (int)(index - MSR_MTRR_FIX4K_FIRST) + 3
                   : -1;
    }
}

static bool mtrr_write(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    uint64_t high = ~((UINT64_C(1) << cpu->phys_bits) - 1);
    int fixed = mtrr_fixed_index(index);

    if (fixed >= 0) {
        for (int i = 0; i < 64; i += 8) {
            if (!memory_type_valid(value >> i & 0xff)) {
                return false;
            }
        }
        cpu->mtrr_fixed[fixed] = value;
        return true;
    }
    if (index == MSR_MTRR_DEF_TYPE) {
        if ((value & ~UINT64_C(0xcff)) || !memory_type_valid(value & 0xff)) {
            return false;
        }
        cpu->mtrr_def_type = value;
        return true;
    }
    bool is_mask = index & 1;
    if ((value & high) || (is_mask ? (value & 0x7ff) : (value & 0xf00) || !memory_type_valid(value & 0xff))) {
        return false;
    }
    cpu->mtrr_var[index - MSR_MTRR_VAR_FIRST] = value;
    return true;
}

/* ---- single registers ---- */

uint64_t x86_efer_allowed(const X86Cpu *cpu)
{
    uint64_t allowed = EFER_LMA;

    if (cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_SYSCALL)) {
        allowed |= EFER_SCE;
    }
    if (cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_LM)) {
        allowed |= EFER_LME;
    }
    if (cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_NX)) {
        allowed |= EFER_NXE;
    }
    if (cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_FFXSR)) {
        allowed |= EFER_FFXSR;
    }
    if (cpu->cpuid_features[FEAT_8000_0021_EAX] & (1u << 8)) {
        allowed |= UINT64_C(1) << 21; /* AutoIBRS */
    }
    return allowed;
}

static bool efer_write(X86Cpu *cpu, uint64_t value)
{
    if (value & ~x86_efer_allowed(cpu)) {
        return false;
    }
    if ((cpu->cr0 & CR0_PG) && ((value ^ cpu->efer) & EFER_LME)) {
        return false;
    }
    uint64_t old = cpu->efer;
    cpu->efer = (value & ~(uint64_t)EFER_LMA) | (old & EFER_LMA);
    if ((old ^ cpu->efer) & EFER_NXE) {
        mmu_flush(cpu, false);
    }
    x86_update_mode(cpu);
    return true;
}

static void tsc_move(X86Cpu *cpu, uint64_t delta)
{
    cpu->tsc_offset = (int64_t)((uint64_t)cpu->tsc_offset + delta);
    apic_tsc_changed(cpu->apic);
    system_time_update(cpu);
}

static bool has_spec_ctrl(const X86Cpu *cpu)
{
    return cpu_has_feature(cpu, FEAT_7_0_EDX, CPUID_7D_SPEC_CTRL) ||
           (cpu->cpuid_features[FEAT_8000_0008_EBX] & (1u << 14 | 1u << 24));
}

static bool machine_check_write(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    uint32_t offset = index - MSR_MC_FIRST;

    switch (offset & 3) {
    case 0: /* CTL: all or nothing; one bit less is what Linux writes for a quirk of bank 4 */
        if (value != 0 && (value | UINT64_C(1) << 10 | 1) != UINT64_MAX) {
            return false;
        }
        break;
    case 1: /* STATUS: may only be cleared */
        if (value != 0 && !(cpuid_is_amd(cpu) && (cpu->hwcr & (1u << 18)))) {
            return false;
        }
        break;
    }
    cpu->mc_banks[offset] = value;
    return true;
}

bool x86_msr_read(X86Cpu *cpu, uint32_t index, uint64_t *value)
{
    *value = 0;
    if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST) {
        return apic_msr_read(cpu->apic, index, value);
    }
    if (index >= MSR_MC_FIRST && index <= MSR_MC_LAST) {
        *value = cpu->mc_banks[index - MSR_MC_FIRST];
        return true;
    }
    if (index >= MSR_MTRR_VAR_FIRST && index <= MSR_MTRR_VAR_LAST) {
        *value = cpu->mtrr_var[index - MSR_MTRR_VAR_FIRST];
        return true;
    }
    int fixed = mtrr_fixed_index(index);
    if (fixed >= 0) {
        *value = cpu->mtrr_fixed[fixed];
        return true;
    }
    bool amd = cpuid_is_amd(cpu);
    switch (index) {
    case MSR_P5_MC_ADDR:
    case MSR_P5_MC_TYPE:
    case MSR_PLATFORM_ID:
    case MSR_EBL_CR_POWERON:
    case MSR_PLATFORM_INFO:
    case MSR_MISC_FEATURES:
    case MSR_PERF_CTL:
        return true;
    case MSR_TSC:
        *value = x86_tsc(cpu);
        return true;
    case MSR_APIC_BASE:
        *value = apic_get_base(cpu->apic);
        return true;
    case MSR_FEATURE_CONTROL:
        *value = cpu->feature_control;
        return !amd;
    case MSR_TSC_ADJUST:
        *value = cpu->tsc_adjust;
        return cpu_has_feature(cpu, FEAT_7_0_EBX, CPUID_7_TSC_ADJUST);
    case MSR_SPEC_CTRL:
        *value = cpu->spec_ctrl;
        return has_spec_ctrl(cpu);
    case MSR_BIOS_SIGN_ID:
        *value = cpu->bios_sign_id;
        return true;
    case MSR_FSB_FREQUENCY:
        *value = 3;
        return true;
    case MSR_MTRR_CAP:
        *value = 0x508;
        return true;
    case MSR_ARCH_CAPABILITIES:
        *value = cpu->arch_capabilities;
        return cpu_has_feature(cpu, FEAT_7_0_EDX, CPUID_7D_ARCH_CAPABILITIES);
    case MSR_SYSENTER_CS:
        *value = cpu->sysenter_cs;
        return true;
    case MSR_SYSENTER_ESP:
        *value = cpu->sysenter_esp;
        return true;
    case MSR_SYSENTER_EIP:
        *value = cpu->sysenter_eip;
        return true;
    case MSR_MCG_CAP:
        *value = MCG_CAP_VALUE;
        return true;
    case MSR_MCG_STATUS:
        *value = cpu->mcg_status;
        return true;
    case MSR_MCG_CTL:
        *value = cpu->mcg_ctl;
        return true;
    case MSR_PERF_STATUS:
        *value = UINT64_C(0x400000003e8); /* bus ratio and voltage as a plausible constant */
        return true;
    case MSR_MISC_ENABLE:
        *value = cpu->misc_enable;
        return true;
    case MSR_DEBUGCTL:
        *value = cpu->debugctl;
        return true;
    case MSR_LBR_FIRST ... MSR_LBR_LAST:
        return true;
    case MSR_PAT:
        *value = cpu->pat;
        return true;
    case MSR_MTRR_DEF_TYPE:
        *value = cpu->mtrr_def_type;
        return true;
    case MSR_TSC_DEADLINE:
        *value = apic_get_tsc_deadline(cpu->apic);
        return cpu_has_feature(cpu, FEAT_1_ECX, CPUID_EXT_TSC_DEADLINE);
    case MSR_EFER:
        *value = cpu->efer;
        return true;
    case MSR_STAR:
        *value = cpu->star;
        return true;
    case MSR_LSTAR:
        *value = cpu->lstar;
        return true;
    case MSR_CSTAR:
        *value = cpu->cstar;
        return true;
    case MSR_FMASK:
        *value = cpu->fmask;
        return true;
    case MSR_FS_BASE:
        *value = cpu->segs[SEG_FS].base;
        return true;
    case MSR_GS_BASE:
        *value = cpu->segs[SEG_GS].base;
        return true;
    case MSR_KERNEL_GS_BASE:
        *value = cpu->kernel_gs_base;
        return true;
    case MSR_PKRS:
        *value = cpu->pkrs;
        return cpu_has_feature(cpu, FEAT_7_0_ECX, CPUID_7C_PKS);
    case MSR_TSC_AUX:
        *value = cpu->tsc_aux;
        return cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_RDTSCP);
    case MSR_AMD_HWCR:
        *value = cpu->hwcr;
        return amd;
    case MSR_AMD_DE_CFG:
        *value = cpu->de_cfg | 2; /* LFENCE is serializing */
        return amd;
    case MSR_AMD_PERF_FIRST ... MSR_AMD_PERF_LAST:
    case MSR_AMD_SYSCFG:
    case MSR_AMD_NB_CFG:
    case MSR_AMD_INT_PENDING:
    case MSR_AMD_MMCONF:
    case MSR_AMD_OSVW_STATUS:
    case MSR_AMD_LS_CFG:
    case MSR_AMD_DC_CFG:
    case MSR_AMD_BU_CFG2:
        return amd;
    case MSR_AMD_OSVW_LENGTH:
        *value = 64; /* errata 0 to 63 are described, and none is there */
        return amd;
    case MSR_AMD_VM_CR:
        *value = 0x10; /* SVM is disabled */
        return amd;
    default:
        if (kvm_msr_read(cpu, index, value)) {
            return true;
        }
        LOG(LOG_UNIMP, "cpu %u: RDMSR of unknown register 0x%x", cpu->index, index);
        return false;
    }
}

bool x86_msr_write(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST) {
        return apic_msr_write(cpu->apic, index, value);
    }
    if (index >= MSR_MC_FIRST && index <= MSR_MC_LAST) {
        return machine_check_write(cpu, index, value);
    }
    if ((index >= MSR_MTRR_VAR_FIRST && index <= MSR_MTRR_VAR_LAST) || mtrr_fixed_index(index) >= 0 ||
        index == MSR_MTRR_DEF_TYPE) {
        return mtrr_write(cpu, index, value);
    }
    bool amd = cpuid_is_amd(cpu);
    switch (index) {
    case MSR_TSC: {
        uint64_t delta = value - x86_tsc(cpu);
        cpu->tsc_adjust += delta;
        tsc_move(cpu, delta);
        return true;
    }
    case MSR_TSC_ADJUST:
        if (!cpu_has_feature(cpu, FEAT_7_0_EBX, CPUID_7_TSC_ADJUST)) {
            return false;
        }
        tsc_move(cpu, value - cpu->tsc_adjust);
        cpu->tsc_adjust = value;
        return true;
    case MSR_APIC_BASE:
        return apic_set_base(cpu->apic, value);
    case MSR_EBL_CR_POWERON:
    case MSR_MISC_FEATURES:
    case MSR_PERF_CTL:
        return value == 0 || index == MSR_PERF_CTL;
    case MSR_FEATURE_CONTROL:
        return !amd && !(cpu->feature_control & 1);
    case MSR_SPEC_CTRL:
        if (!has_spec_ctrl(cpu) || (value & ~UINT64_C(7))) {
            return false;
        }
        cpu->spec_ctrl = value;
        return true;
    case MSR_PRED_CMD:
        return (has_spec_ctrl(cpu) || (cpu->cpuid_features[FEAT_8000_0008_EBX] & (1u << 12))) &&
               !(value & ~UINT64_C(1));
    case MSR_BIOS_UPDATE_TRIGGER:
        return true;
    case MSR_BIOS_SIGN_ID:
        if (amd) {
            return false;
        }
        cpu->bios_sign_id = value & UINT64_C(0xffffffff00000000);
        return true;
    case MSR_SYSENTER_CS:
        cpu->sysenter_cs = (uint32_t)value;
        return true;
    case MSR_SYSENTER_ESP:
        if (!x86_is_canonical(value)) {
            return false;
        }
        cpu->sysenter_esp = value;
        return true;
    case MSR_SYSENTER_EIP:
        if (!x86_is_canonical(value)) {
            return false;
        }
        cpu->sysenter_eip = value;
        return true;
    case MSR_MCG_STATUS:
        cpu->mcg_status = value & 7;
        return true;
    case MSR_MCG_CTL:
        if (value != 0 && value != UINT64_MAX) {
            return false;
        }
        cpu->mcg_ctl = value;
        return true;
    case MSR_MISC_ENABLE:
        cpu->misc_enable = value;
        return true;
    case MSR_DEBUGCTL:
        /* BTF and LBR can be set, and stay without effect. */
        if (value & ~UINT64_C(3)) {
            return false;
        }
        cpu->debugctl = value;
        return true;
    case MSR_PAT:
        if (!pat_valid(value)) {
            return false;
        }
        cpu->pat = value;
        return true;
    case MSR_TSC_DEADLINE:
        if (!cpu_has_feature(cpu, FEAT_1_ECX, CPUID_EXT_TSC_DEADLINE)) {
            return false;
        }
        apic_set_tsc_deadline(cpu->apic, value);
        return true;
    case MSR_EFER:
        return efer_write(cpu, value);
    case MSR_STAR:
        cpu->star = value;
        return true;
    case MSR_LSTAR:
        if (!x86_is_canonical(value)) {
            return false;
        }
        cpu->lstar = value;
        return true;
    case MSR_CSTAR:
        if (!x86_is_canonical(value)) {
            return false;
        }
        cpu->cstar = value;
        return true;
    case MSR_FMASK:
        cpu->fmask = (uint32_t)value;
        return true;
    case MSR_FS_BASE:
    case MSR_GS_BASE:
        if (!x86_is_canonical(value)) {
            return false;
        }
        cpu->segs[index == MSR_FS_BASE ? SEG_FS : SEG_GS].base = value;
        return true;
    case MSR_KERNEL_GS_BASE:
        if (!x86_is_canonical(value)) {
            return false;
        }
        cpu->kernel_gs_base = value;
        return true;
    case MSR_PKRS:
        if (!cpu_has_feature(cpu, FEAT_7_0_ECX, CPUID_7C_PKS) || value >> 32) {
            return false;
        }
        mmu_set_keys(cpu, false, (uint32_t)value);
        return true;
    case MSR_TSC_AUX:
        if (!cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_RDTSCP) || value >> 32) {
            return false;
        }
        cpu->tsc_aux = value;
        return true;
    case MSR_AMD_HWCR:
        cpu->hwcr = value & (1u << 18); /* McStatusWrEn; the rest has no effect */
        return amd;
    case MSR_AMD_DE_CFG:
        cpu->de_cfg = value;
        return amd;
    case MSR_AMD_PERF_FIRST ... MSR_AMD_PERF_LAST:
    case MSR_AMD_SYSCFG:
    case MSR_AMD_NB_CFG:
    case MSR_AMD_PATCH_LOADER:
    case MSR_AMD_INT_PENDING:
    case MSR_AMD_MMCONF:
    case MSR_AMD_LS_CFG:
    case MSR_AMD_DC_CFG:
    case MSR_AMD_BU_CFG2:
        return amd;
    default:
        if (kvm_msr_write(cpu, index, value)) {
            return true;
        }
        LOG(LOG_UNIMP, "cpu %u: WRMSR of unknown register 0x%x = %" PRIx64, cpu->index, index, value);
        return false;
    }
}

void x86_rdmsr(X86Cpu *cpu)
{
    uint64_t value;

    if (cpu->cpl != 0 || !x86_msr_read(cpu, (uint32_t)cpu->regs[R_RCX], &value)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    cpu->regs[R_RAX] = (uint32_t)value;
    cpu->regs[R_RDX] = (uint32_t)(value >> 32);
}

void x86_wrmsr(X86Cpu *cpu)
{
    uint64_t value = (uint32_t)cpu->regs[R_RAX] | cpu->regs[R_RDX] << 32;

    if (cpu->cpl != 0 || !x86_msr_write(cpu, (uint32_t)cpu->regs[R_RCX], value)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}
