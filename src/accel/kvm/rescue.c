/*
 * Instructions that the kernel's own emulator does not know (KVM_INTERNAL_ERROR_EMULATION) run on the
 * reference CPU: the registers come here, the interpreter executes one instruction with everything that
 * belongs to it (faults are delivered, traps taken, devices accessed), and the kernel goes on behind it.
 * System management mode, which not every host's KVM has, runs on the reference CPU as a whole.
 *
 * The kernel writes guest memory and page tables without telling: the reference CPU keeps no decoded code,
 * and its TLB is empty at the start of each rescue. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "accel/soft/interp/interp.h"
#include "arch/x86/decode.h"
#include "arch/x86/mmu.h"
#include "arch/x86/system.h"
#include "base/error.h"
#include "base/log.h"
#include "trace/trace.h"

#include <time.h>

TRACE_EVENT(kvm_rescue, "cpu %u rip %lx mnemonic %u");

G_STATIC_ASSERT(X86_MNEMONIC_COUNT <= G_N_ELEMENTS(((KvmVcpu *)0)->rescued_by));

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* Forgets what may have changed behind the reference CPU's back. */
static void reference_begin(X86Cpu *cpu)
{
    mmu_flush(cpu, false);
}

/* For the counters only. */
static unsigned mnemonic_at_rip(X86Cpu *cpu)
{
    X86DecodeMode mode;
    X86Insn insn;
    uint8_t bytes[15];
    unsigned count = 0;
    uint64_t linear = cpu->mode & MODE_CS64 ? cpu->rip : (uint32_t)(cpu->segs[SEG_CS].base + cpu->rip), gpa;

    for (; count < sizeof(bytes); count++) {
        if (!mmu_walk_debug(cpu, linear + count, &gpa) ||
            address_space_read(cpu->env.memory, gpa, MEMTXATTRS_NONE, &bytes[count], 1) != MEMTX_OK) {
            break;
        }
    }
    x86_decode_all_features(&mode);
    mode.code_size = cpu->mode & MODE_CS64 ? 8 : cpu->mode & MODE_CS32 ? 4 : 2;
    mode.protected_mode = mode.vex = (cpu->mode & (MODE_PE | MODE_VM86)) == MODE_PE;
    return x86_decode(&mode, bytes, count, &insn) == X86_DECODE_OK ? insn.form->mnemonic : 0;
}

void kvm_rescue(KvmVcpu *v)
{
    X86Cpu *cpu = v->cpu;
    g_autoptr(GError) error = NULL;
    int64_t start = now_ns();

    if (!kvm_state_get(v, &error)) {
        kvm_vcpu_fail(v, error->message);
        return;
    }
    reference_begin(cpu);
    unsigned mnemonic = mnemonic_at_rip(cpu);
    TRACE(kvm_rescue, cpu->index, (unsigned long)cpu->rip, mnemonic);
    if (!interp_run_instruction(cpu)) {
        v->rescue_faults++;
    }
    v->rescued++;
    v->rescued_by[mnemonic]++;
    v->rescue_ns += (uint64_t)(now_ns() - start);
}

void kvm_rescue_smm(KvmVcpu *v)
{
    X86Cpu *cpu = v->cpu;
    g_autoptr(GError) error = NULL;

    if (!kvm_state_get(v, &error)) {
        kvm_vcpu_fail(v, error->message);
        return;
    }
    reference_begin(cpu);
    while (cpu->in_smm && !cpu->halted &&
           !(__atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST) & CPU_INTERRUPT_EXIT)) {
        interp_run_instruction(cpu);
        v->rescued++;
    }
}

static bool wanted_elsewhere(const X86Cpu *cpu)
{
    return __atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST) & CPU_INTERRUPT_EXIT;
}

void kvm_rescue_debugged(KvmVcpu *v)
{
    X86Cpu *cpu = v->cpu;
    g_autoptr(GError) error = NULL;

    if (!kvm_state_get(v, &error)) {
        kvm_vcpu_fail(v, error->message);
        return;
    }
    reference_begin(cpu);
    while (cpu->debugger && !wanted_elsewhere(cpu)) {
        if (__atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST) && !cpu->inhibit_interrupts &&
            !cpu->debugger->step) {
            x86_handle_interrupts(cpu);
        }
        if (cpu->halted) {
            break;
        }
        interp_run_instruction(cpu);
    }
}

void kvm_rescue_describe(const KvmVcpu *v, GString *text)
{
    uint64_t below = UINT64_MAX;

    for (unsigned n = 0; n < 16; n++) {
        unsigned most = 0;
        for (unsigned m = 1; m < X86_MNEMONIC_COUNT; m++) {
            if (v->rescued_by[m] < below && v->rescued_by[m] > (most ? v->rescued_by[most] : 0)) {
                most = m;
            }
        }
        if (!most) {
            break;
        }
        below = v->rescued_by[most];
        g_string_append_printf(text, "%s%s %" G_GUINT64_FORMAT, n ? ", " : "", x86_mnemonic_names[most],
                               below);
    }
}
