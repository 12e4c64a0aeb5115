/*
 * What the files of the KVM accelerator share. A vCPU's registers are in one place at a time: in X86Cpu
 * (`here`), as everybody else knows them, or in the kernel. state.c moves them.
 *
 * Invariants:
 *  1. No result of an ioctl is ignored: what a guest can cause to fail stops that machine with a message, and
 * never ends the process.
 *  2. Registers move only while the vCPU is not inside KVM_RUN, in its own thread (or before it has run), and
 * after the kernel has completed an access that it had handed out.
 *  3. Nobody outside sees a vCPU whose registers are in the kernel: vcpu_sync brings them here before a pause
 * ends, before work runs on the vCPU's thread, and before the reference CPU executes an instruction.
 *  4. Whoever wants a running vCPU's attention publishes why, then sets immediate_exit and signals; the vCPU
 * clears immediate_exit first and then looks for reasons. So no request is lost.
 *
 * Source: Linux Documentation/virt/kvm/api.rst. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_KVM_KVM_H
#define RHEA_ACCEL_KVM_KVM_H

#include "accel/accel.h"
#include "arch/x86/apic.h"
#include "arch/x86/chips.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define TYPE_KVM_ACCEL "kvm-accel"

/* Who models the interrupt controllers. */
typedef enum KvmIrqchip {
    KVM_IRQCHIP_OFF,   /* all of them here */
    KVM_IRQCHIP_SPLIT, /* local APICs in the kernel; 8259, I/O APIC and 8254 here */
    KVM_IRQCHIP_ON,    /* all of them in the kernel */
} KvmIrqchip;

#define KVM_MSRS_MAX   112
#define KVM_CPUID_MAX  128
#define KVM_XSAVE_SIZE 4096u
/* Numbers of interrupts (GSI): pins have the lower ones, messages with a route of their own these. */
#define KVM_FIRST_MESSAGE_GSI  64u
#define KVM_MESSAGE_ROUTES_MAX 1024u

typedef struct KvmSlot {
    bool used;
    uint64_t gpa, size;
    uint8_t *host;
    uint32_t flags; /* KVM_MEM_LOG_DIRTY_PAGES: writes are logged */
    RamBlock *ram;
    uint64_t ram_offset;
} KvmSlot;

typedef struct KvmAccel {
    Accel parent_obj;
    /* ---- properties ---- */
    char *irqchip_name, *device; /* device: /dev/kvm */
    uint32_t ring_size;
    bool rescue;

    /* ---- of this machine ---- */
    int fd, vm_fd;
    KvmIrqchip irqchip;
    ApicBus *apic_bus;
    ApicRemote remote;
    X86Chips chips;
    GMutex route_lock; /* a leaf: of the four below */
    struct kvm_irq_routing *routes;
    unsigned fixed_routes, message_routes; /* of pins; how many there can be of messages */
    bool *route_used;                      /* of messages */
    bool has_any_length;
    MemoryListener ports_listener;
    int doorbells; /* writes that ring in the kernel; under the topology lock */
    size_t run_size;
    bool has_debugregs, has_xcrs, has_xsave2, has_user_msr, has_readonly, has_adjust_clock;
    int64_t host_tsc_khz;
    uint32_t msrs[KVM_MSRS_MAX]; /* the registers that state.c moves and this kernel has */
    unsigned msr_count;
    AddressSpace *memory;
    ClockSet *clocks;
    MemoryListener listener;
    GMutex slot_lock; /* only ram_written() below it: of slots and of what is read from their logs */
    GArray *slots;    /* of KvmSlot */
    unsigned max_slots;
    RamListener ram_listener; /* on blocks with logged slots */
    uint64_t log_protect;     /* what KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 was enabled with */
    uint32_t ring_entries;    /* of a vCPU's dirty ring; a power of two; 0: bitmaps */
    GMutex flush_lock;        /* a leaf: of KvmVcpu.flush */
    GCond flushed;
    GMutex lock;      /* vcpus, clock */
    GPtrArray *vcpus; /* of KvmVcpu * */
} KvmAccel;

typedef struct KvmVcpu {
    KvmAccel *kvm;
    X86Cpu *cpu;
    int fd;
    struct kvm_run *run;
    pthread_t thread; /* that runs it, once `running` has been set */
    uint32_t in_run;  /* atomic */
    bool here;        /* X86Cpu holds the registers, else the kernel does */
    bool pushed;      /* the kernel has had them once: `last` is valid */
    bool stood;       /* it stood still since it last ran: virtual time may have stopped */
    bool incomplete;  /* the last exit's access is completed by the next KVM_RUN */
    bool warned;      /* that a debugger sees no points */
    bool failed;      /* the kernel cannot run it; stands still until a reset */
    bool flush;       /* atomic: somebody waits until it has left the guest once */
    struct kvm_dirty_gfn *ring;
    uint32_t ring_next; /* under slot_lock */
    /* What the kernel has, as it was read or written last: only differences are written. */
    struct {
        struct kvm_regs regs;
        struct kvm_sregs sregs;
        struct kvm_vcpu_events events;
        struct kvm_debugregs debugregs;
        struct kvm_xcrs xcrs;
        uint64_t msrs[KVM_MSRS_MAX];
        uint8_t xsave[KVM_XSAVE_SIZE];
        uint32_t mp_state;
        uint8_t lapic[APIC_IMAGE_SIZE];
        int64_t tsc_offset;
        uint64_t tsc_deadline;
    } last;
    /* ---- counters; written by its thread, read as words ---- */
    uint64_t exits, io_exits, mmio_exits, halts, rescued, rescue_faults;
    uint64_t rescued_by[2048]; /* by mnemonic */
    uint64_t rescue_ns;
} KvmVcpu;

static inline KvmVcpu *kvm_vcpu(const X86Cpu *cpu)
{
    return cpu->kvm;
}

/* ---- kvm.c ---- */
/* ioctl that starts again after a signal; -errno. */
int kvm_ioctl(int fd, unsigned long request, void *argument);
/* What a capability's check says; 0: not there. */
int kvm_check(int fd, int capability);

/* ---- probe.c ---- */
/* Opens the device; the error names cause and cure. -1 on error. */
int kvm_open(const char *device, GError **error);
/* Whether kernel code of a guest runs natively here. Where it does not (a kernel's instruction emulator runs
 * it), the software CPU is faster; *ns_per_insn (may be NULL) is what was measured. false with an error, too,
 * where it cannot be measured. */
bool kvm_runs_natively(int fd, double *ns_per_insn, GError **error);
/* Tells arch/x86 which features KVM offers (cpuid_set_host_limits). */
bool kvm_probe_cpuid(KvmAccel *kvm, GError **error);
/* Gives a new vCPU its CPUID. */
bool kvm_set_cpuid(KvmVcpu *v, GError **error);

/* ---- memory.c ---- */
bool kvm_memory_start(KvmAccel *kvm, AddressSpace *memory, GError **error);
void kvm_memory_stop(KvmAccel *kvm);

/* ---- dirty.c ---- */
/* Before vCPUs are made. */
bool kvm_dirty_setup(KvmAccel *kvm, GError **error);
bool kvm_dirty_map_ring(KvmVcpu *v, GError **error);
void kvm_dirty_unmap_ring(KvmVcpu *v);
/* Makes vCPUs bring what they have buffered to their rings; no lock but the topology's is held. */
void kvm_dirty_flush(KvmAccel *kvm);
/* Starts or stops logging (kvm_dirty_flush was before that); slot_lock is held. */
void kvm_dirty_log(KvmAccel *kvm, unsigned index, bool on);
/* Reports what a slot's log has; slot_lock is held. Not for rings. */
void kvm_dirty_harvest(KvmAccel *kvm, unsigned index);
/* Reports what is in all rings, so that there is room again. */
void kvm_dirty_reap(KvmAccel *kvm);
/* A vCPU has left the guest: those who wait for that are told. */
void kvm_dirty_left(KvmVcpu *v);
int kvm_slot_set(KvmAccel *kvm, unsigned index, const KvmSlot *slot);

/* ---- state.c ---- */
void kvm_state_probe(KvmAccel *kvm);
/* Brings the registers here; the vCPU's thread. */
bool kvm_state_get(KvmVcpu *v, GError **error);
/* Gives them to the kernel, and virtual time to its clock. */
bool kvm_state_put(KvmVcpu *v, GError **error);

/* ---- vcpu.c ---- */
void kvm_vcpu_exec(Accel *accel, X86Cpu *cpu);
void kvm_vcpu_kick(Accel *accel, X86Cpu *cpu);
void kvm_vcpu_sync(Accel *accel, X86Cpu *cpu);
bool kvm_vcpu_wakes(Accel *accel, X86Cpu *cpu);
/* The machine cannot go on: says why and stops this vCPU. */
void kvm_vcpu_fail(KvmVcpu *v, const char *what);
/* KVM_RUN once: 0, or -errno. */
int kvm_vcpu_run(KvmVcpu *v);
/* Lets the kernel finish an access that it handed out. */
bool kvm_vcpu_complete(KvmVcpu *v);

/* ---- rescue.c ---- */
/* Executes the instruction at the vCPU's rip on the reference CPU; the registers are here afterwards. */
void kvm_rescue(KvmVcpu *v);
/* Runs the reference CPU from where the vCPU is until it has left SMM or somebody wants the vCPU's attention.
 */
void kvm_rescue_smm(KvmVcpu *v);
/* While a debugger has points or steps on it: runs it on the reference CPU, with the interrupts of
 * controllers that are here. */
void kvm_rescue_debugged(KvmVcpu *v);
/* "mnemonic count, ..." of what was rescued most. */
void kvm_rescue_describe(const KvmVcpu *v, GString *text);

/* ---- eventfd.c ---- */
void kvm_eventfd_listen_memory(KvmAccel *kvm); /* before the listener is added */
void kvm_eventfd_listen_ports(KvmAccel *kvm, AddressSpace *io);
void kvm_eventfd_stop(KvmAccel *kvm);
/* Room for `fixed` routes of pins, which the caller fills in, and for those of messages. */
bool kvm_routes_start(KvmAccel *kvm, unsigned fixed, GError **error);
int kvm_routes_write(KvmAccel *kvm); /* route_lock is held, or nobody else is there yet */
void kvm_routes_free(KvmAccel *kvm);
ApicRoute *kvm_route_new(void *opaque);
bool kvm_route_send(ApicRoute *r, uint64_t address, uint32_t data);
void kvm_route_free(ApicRoute *r);

/* ---- chips.c ---- */
bool kvm_chips_setup(KvmAccel *kvm, GError **error);

/* ---- irqchip.c ---- */
static inline bool kvm_has_lapic(const KvmAccel *kvm)
{
    return kvm->irqchip != KVM_IRQCHIP_OFF;
}
bool kvm_irqchip_setup(KvmAccel *kvm, GError **error);

#endif
