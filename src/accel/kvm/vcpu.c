/*
 * Running a vCPU: what comes before KVM_RUN (requests, events) and what its exits ask for.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "arch/x86/apic.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/mmu.h"
#include "arch/x86/system.h"
#include "base/error.h"
#include "base/log.h"
#include "trace/trace.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

TRACE_EVENT(kvm_exit, "cpu %u reason %u");

#define VCPU_SIGNAL SIGUSR1 /* accel/vcpu.c's */

void kvm_vcpu_fail(KvmVcpu *v, const char *what)
{
    X86Cpu *cpu = v->cpu;
    g_autoptr(GError) error = NULL;

    if (v->failed) {
        return;
    }
    v->failed = true;
    log_error("CPU %u: KVM cannot go on: %s", cpu->index, what);
    if (!v->here && kvm_state_get(v, &error)) {
        g_autofree char *text = x86_cpu_dump(cpu);
        log_info("%s", text);
    }
    log_hint("Use -accel tcg, the software CPU.");
    v->here = true;
    cpu->halted = cpu->shutdown = true;
    cpu->env.failed(cpu->env.opaque);
}

/* ---- between threads ---- */

void kvm_vcpu_kick(Accel *accel, X86Cpu *cpu)
{
    KvmVcpu *v = kvm_vcpu(cpu);

    if (!v) {
        return;
    }
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&v->in_run, __ATOMIC_SEQ_CST) && !pthread_equal(v->thread, pthread_self())) {
        pthread_kill(v->thread, VCPU_SIGNAL);
    }
}

int kvm_vcpu_run(KvmVcpu *v)
{
    __atomic_store_n(&v->in_run, 1, __ATOMIC_SEQ_CST);
    int result = ioctl(v->fd, KVM_RUN, NULL) < 0 ? -errno : 0;
    __atomic_store_n(&v->in_run, 0, __ATOMIC_SEQ_CST);
    if (G_UNLIKELY(__atomic_load_n(&v->flush, __ATOMIC_SEQ_CST))) {
        kvm_dirty_left(v);
    }
    return result;
}

void kvm_vcpu_sync(Accel *accel, X86Cpu *cpu)
{
    KvmVcpu *v = kvm_vcpu(cpu);
    g_autoptr(GError) error = NULL;

    if (!kvm_state_get(v, &error)) {
        kvm_vcpu_fail(v, error->message);
    }
    v->stood = true;
}

bool kvm_vcpu_wakes(Accel *accel, X86Cpu *cpu)
{
    const KvmVcpu *v = kvm_vcpu(cpu);

    if (v->failed || cpu->shutdown) {
        return false;
    }
    /* With the kernel's local APIC a halted vCPU sleeps inside KVM_RUN. */
    return kvm_has_lapic(v->kvm) || x86_has_work(cpu);
}

/* ---- accesses ---- */

static void access_memory(KvmVcpu *v, uint64_t gpa, uint8_t *data, uint32_t length, bool write)
{
    X86Cpu *cpu = v->cpu;
    uint64_t value = 0;

    if (v->kvm->irqchip == KVM_IRQCHIP_OFF && apic_owns(cpu->apic, gpa)) {
        uint32_t offset = gpa & 0xfff;
        if (!write) {
            value = (uint64_t)apic_mmio_read(cpu->apic, offset & ~3u) >> ((offset & 3) * 8);
            memcpy(data, &value, MIN(length, 8));
        } else if (length >= 4 && (offset & 3) == 0) {
            memcpy(&value, data, 4);
            apic_mmio_write(cpu->apic, offset, (uint32_t)value);
        }
        return;
    }
    bool single = length == 1 || length == 2 || length == 4 || length == 8;
    if (write) {
        if (single) {
            memcpy(&value, data, length);
            address_space_store(cpu->env.memory, gpa, length, value, MEMTXATTRS_NONE);
        } else {
            address_space_write(cpu->env.memory, gpa, MEMTXATTRS_NONE, data, length);
        }
    } else if (single) {
        value = address_space_ld(cpu->env.memory, gpa, length, MEMTXATTRS_NONE);
        memcpy(data, &value, length);
    } else {
        address_space_read(cpu->env.memory, gpa, MEMTXATTRS_NONE, data, length);
    }
}

static void access_ports(KvmVcpu *v)
{
    const struct kvm_run *run = v->run;
    unsigned size = run->io.size;
    uint64_t end = run->io.data_offset + (uint64_t)size * run->io.count;

    if ((size != 1 && size != 2 && size != 4) || end > v->kvm->run_size) {
        return; /* not what the interface promises */
    }
    uint8_t *data = (uint8_t *)v->run + run->io.data_offset;
    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        uint64_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, size);
            address_space_store(v->cpu->env.io, run->io.port, size, value, MEMTXATTRS_NONE);
        } else {
            value = address_space_ld(v->cpu->env.io, run->io.port, size, MEMTXATTRS_NONE);
            memcpy(data, &value, size);
        }
    }
}

static void access_msr(KvmVcpu *v)
{
    struct kvm_run *run = v->run;
    X86Cpu *cpu = v->cpu;
    uint32_t index = run->msr.index;
    uint64_t value = run->msr.data;
    bool write = run->exit_reason == KVM_EXIT_X86_WRMSR, ok = false;

    if (index == 0x6e0) {
        ok = cpu_has_feature(cpu, FEAT_1_ECX, CPUID_EXT_TSC_DEADLINE);
        if (ok && write) {
            apic_set_tsc_deadline(cpu->apic, value);
        } else {
            value = apic_get_tsc_deadline(cpu->apic);
        }
    } else if (index >= 0x800 && index <= 0x8ff) {
        ok = write ? apic_msr_write(cpu->apic, index, value) : apic_msr_read(cpu->apic, index, &value);
    }
    run->msr.data = value;
    run->msr.error = !ok;
}

/* Answers an exit that hands out an access; false: it is another exit. */
static bool serve_access(KvmVcpu *v)
{
    switch (v->run->exit_reason) {
    case KVM_EXIT_IO:
        v->io_exits++;
        access_ports(v);
        break;
    case KVM_EXIT_MMIO:
        v->mmio_exits++;
        access_memory(v, v->run->mmio.phys_addr, v->run->mmio.data, MIN(v->run->mmio.len, 8),
                      v->run->mmio.is_write);
        break;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        access_msr(v);
        break;
    default:
        return false;
    }
    v->incomplete = true;
    return true;
}

/* The page has the TPR and the base of a local APIC that is modelled here. */
static void apic_from_run(KvmVcpu *v)
{
    X86Cpu *cpu = v->cpu;

    if (v->kvm->irqchip != KVM_IRQCHIP_OFF) {
        return;
    }
    if (v->run->apic_base != apic_get_base(cpu->apic)) {
        apic_set_base(cpu->apic, v->run->apic_base);
    }
    if ((v->run->cr8 & 15) != apic_get_tpr(cpu->apic) >> 4) {
        apic_set_tpr(cpu->apic, (uint8_t)(v->run->cr8 << 4));
    }
}

bool kvm_vcpu_complete(KvmVcpu *v)
{
    for (unsigned i = 0; v->incomplete; i++) {
        v->incomplete = false;
        __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        int result = kvm_vcpu_run(v);
        if (result == -EINTR) {
            return true;
        }
        if (result < 0 || i == 64 || !serve_access(v)) { /* the next piece of the same access, perhaps */
            return false;
        }
    }
    return true;
}

/* ---- exits ---- */

static void describe_internal_error(KvmVcpu *v)
{
    g_autofree char *text =
        g_strdup_printf("internal error %u of the kernel's KVM", v->run->internal.suberror);

    kvm_vcpu_fail(v, text);
}

/* Whether the loop goes on. */
static bool handle_exit(KvmVcpu *v)
{
    struct kvm_run *run = v->run;
    X86Cpu *cpu = v->cpu;
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;

    TRACE(kvm_exit, cpu->index, run->exit_reason);
    v->exits++;
    if (serve_access(v)) {
        return true;
    }
    switch (run->exit_reason) {
    case KVM_EXIT_HLT: /* only without a local APIC in the kernel */
        v->halts++;
        cpu->halted = true;
        cpu->nmi_blocked = false; /* what the kernel has counts; this is for x86_has_work */
        cpu->rflags = (cpu->rflags & ~(uint64_t)FLAG_IF) | (run->if_flag ? FLAG_IF : 0);
        return true;
    case KVM_EXIT_IOAPIC_EOI:
        apic_bus_eoi(v->kvm->apic_bus, run->eoi.vector);
        return true;
    case KVM_EXIT_DIRTY_RING_FULL:
        kvm_dirty_reap(v->kvm);
        return true;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_INTR:
    case KVM_EXIT_SET_TPR:
        return true;
    case KVM_EXIT_SHUTDOWN:
        if (!kvm_state_get(v, &error)) {
            kvm_vcpu_fail(v, error->message);
            return false;
        }
        LOG(LOG_CPU_RESET | LOG_INT, "cpu %u: triple fault", cpu->index);
        cpu->halted = cpu->shutdown = true;
        cpu->env.request_reset(cpu->env.opaque);
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && v->kvm->rescue) {
            kvm_rescue(v);
            return !v->failed;
        }
        describe_internal_error(v);
        return false;
    case KVM_EXIT_FAIL_ENTRY:
        text = g_strdup_printf("the processor refused to enter the guest (reason 0x%llx)",
                               run->fail_entry.hardware_entry_failure_reason);
        kvm_vcpu_fail(v, text);
        return false;
    default:
        text = g_strdup_printf("exit reason %u is not known here", run->exit_reason);
        kvm_vcpu_fail(v, text);
        return false;
    }
}

/* ---- before the guest runs ---- */

static bool inject_nmis(KvmVcpu *v)
{
    X86Cpu *cpu = v->cpu;

    cpu_interrupt_clear(cpu, CPU_INTERRUPT_NMI);
    for (uint32_t n = __atomic_exchange_n(&cpu->nmi_count, 0, __ATOMIC_SEQ_CST); n > 0; n--) {
        int result = kvm_ioctl(v->fd, KVM_NMI, NULL);
        if (result < 0) {
            kvm_vcpu_fail(v, "an NMI cannot be injected");
            return false;
        }
        cpu->halted = false;
    }
    return true;
}

/* Whether a controller that is modelled here has one for this vCPU: its local APIC, or the 8259 in front of
 * the first CPU's in the kernel, which decides whether it takes it. */
static bool has_interrupt(const KvmVcpu *v)
{
    switch (v->kvm->irqchip) {
    case KVM_IRQCHIP_OFF:
        return apic_has_interrupt(v->cpu->apic);
    case KVM_IRQCHIP_SPLIT:
        return v->cpu->index == 0 && apic_bus_pic_pending(v->kvm->apic_bus);
    default:
        return false;
    }
}

/* Interrupts of controllers that are modelled here. */
static bool inject_interrupt(KvmVcpu *v)
{
    X86Cpu *cpu = v->cpu;

    v->run->request_interrupt_window = 0;
    if (kvm_has_lapic(v->kvm)) {
        cpu_interrupt_clear(cpu, CPU_INTERRUPT_HARD); /* so that the next edge wakes it */
    }
    if (!has_interrupt(v)) {
        return true;
    }
    if (v->run->ready_for_interrupt_injection) {
        int vector = v->kvm->irqchip == KVM_IRQCHIP_OFF ? apic_acknowledge(cpu->apic)
                                                        : apic_bus_pic_acknowledge(v->kvm->apic_bus);
        if (vector >= 0) {
            struct kvm_interrupt interrupt = { .irq = (uint32_t)vector };
            int result = kvm_ioctl(v->fd, KVM_INTERRUPT, &interrupt);
            if (result < 0) {
                kvm_vcpu_fail(v, "an interrupt cannot be injected");
                return false;
            }
            v->run->ready_for_interrupt_injection = 0;
            cpu->halted = false;
        }
    }
    v->run->request_interrupt_window = has_interrupt(v);
    return true;
}

/* INIT, SIPI, SMI: the registers come here for these. */
static bool take_rare_requests(KvmVcpu *v)
{
    g_autoptr(GError) error = NULL;

    if (!kvm_state_get(v, &error)) {
        kvm_vcpu_fail(v, error->message);
        return false;
    }
    mmu_flush(v->cpu, false);
    x86_handle_interrupts(v->cpu);
    return true;
}

/* Everything that has to be done before KVM_RUN; false: it is not to run now. */
static bool prepare(KvmVcpu *v)
{
    X86Cpu *cpu = v->cpu;
    g_autoptr(GError) error = NULL;
    uint32_t request = __atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST);

    if ((request & CPU_INTERRUPT_EXIT) || v->failed) {
        return false;
    }
    if (request & CPU_INTERRUPT_TLB) {
        mmu_process_pending(cpu);
    }
    if (request & CPU_INTERRUPT_TIMER) {
        cpu_interrupt_clear(cpu, CPU_INTERRUPT_TIMER);
        if (v->kvm->irqchip == KVM_IRQCHIP_OFF) {
            apic_timer_expired(cpu->apic);
        }
    }
    if (request & CPU_INTERRUPT_KICK) {
        cpu_interrupt_clear(cpu, CPU_INTERRUPT_KICK);
    }
    if ((request & (CPU_INTERRUPT_INIT | CPU_INTERRUPT_SIPI | CPU_INTERRUPT_SMI)) && !take_rare_requests(v)) {
        return false;
    }
    if (cpu->in_smm) {
        kvm_rescue_smm(v);
        return !v->failed;
    }
    if (cpu->shutdown || (cpu->wait_sipi && v->kvm->irqchip == KVM_IRQCHIP_OFF)) {
        return false;
    }
    if (cpu->debugger && v->kvm->irqchip == KVM_IRQCHIP_OFF) {
        kvm_rescue_debugged(v);
        return !v->failed && !cpu->halted;
    }
    if (cpu->debugger && !v->warned) {
        v->warned = true;
        log_warning("gdb: breakpoints, watchpoints and steps need -accel kvm,kernel-irqchip=off or -accel "
                    "tcg; without, "
                    "the guest runs past them");
    }
    if (v->here && !kvm_state_put(v, &error)) {
        kvm_vcpu_fail(v, error->message);
        return false;
    }
    if ((request & CPU_INTERRUPT_NMI) && !inject_nmis(v)) {
        return false;
    }
    if (!inject_interrupt(v)) {
        return false;
    }
    return !cpu->halted;
}

void kvm_vcpu_exec(Accel *accel, X86Cpu *cpu)
{
    KvmVcpu *v = kvm_vcpu(cpu);

    v->thread = pthread_self();
    for (;;) {
        __atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (!prepare(v)) {
            return;
        }
        if (cpu->in_smm || v->here) {
            continue;
        }
        v->run->cr8 = apic_get_tpr(cpu->apic) >> 4;
        v->incomplete = false;
        int result = kvm_vcpu_run(v);
        apic_from_run(v);
        if (result == -EINTR || result == -EAGAIN) {
            continue;
        }
        if (result < 0 && result != -EFAULT) {
            g_autofree char *text = g_strdup_printf("KVM_RUN: %s", g_strerror(-result));
            kvm_vcpu_fail(v, text);
            return;
        }
        if (result == -EFAULT) {
            kvm_vcpu_fail(v, "it ran into memory that the host cannot provide");
            return;
        }
        if (!handle_exit(v)) {
            return;
        }
    }
}
