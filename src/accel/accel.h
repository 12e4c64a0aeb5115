/*
 * Accelerators: how vCPUs run. One object per virtual machine ("tcg-accel", "kvm-accel"). vcpu.c gives
 * each vCPU its thread, its stops and its sleep in HLT; the accelerator only executes.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_ACCEL_H
#define RHEA_ACCEL_ACCEL_H

#include "arch/x86/cpu.h"

#define TYPE_ACCEL "accel" /* abstract */

typedef struct Accel {
    Object parent_obj;
} Accel;

typedef struct AccelClass {
    ObjectClass parent_class;
    const char *name;  /* as -accel names it: "tcg" */
    const char *alias; /* "soft", or NULL */
    /* Whether it maps pages of RAM a second time, at addresses of the guest (RamBlockOptions.alias). */
    bool (*aliases_ram)(Accel *accel);
    /* Whether it can work on this host; the error names cause and cure. */
    bool (*available)(GError **error);
    /* For accel=auto: whether it is the better choice on this host (it is available); the error says why not.
     * NULL: it is never chosen by itself. */
    bool (*preferred)(GError **error);
    /* Once, when the machine's memory is built and before CPUs are realized. */
    bool (*setup)(Accel *accel, AddressSpace *memory, ApicBus *apic_bus, GError **error);
    bool (*vcpu_init)(Accel *accel, X86Cpu *cpu, GError **error); /* after x86_cpu_realize */
    void (*vcpu_destroy)(Accel *accel, X86Cpu *cpu);
    /* Runs guest code in the calling (vCPU) thread until interrupt_request has CPU_INTERRUPT_EXIT or the vCPU
     * halts (cpu->halted). State is complete at return. */
    void (*vcpu_exec)(Accel *accel, X86Cpu *cpu);
    /* Makes a vcpu_exec in progress see interrupt_request soon. [any thread] */
    void (*vcpu_kick)(Accel *accel, X86Cpu *cpu);
    /* For an accelerator that keeps registers elsewhere while it runs: brings them to cpu. In the vCPU's
     * thread, after vcpu_exec, before anybody else looks. NULL: vcpu_exec leaves them there. */
    void (*vcpu_sync)(Accel *accel, X86Cpu *cpu);
    /* Whether vcpu_exec of a halted vCPU would get it going. NULL: x86_handle_interrupts() and x86_has_work()
     * say. */
    bool (*vcpu_wakes)(Accel *accel, X86Cpu *cpu);
    /* When the vCPUs are gone, and devices, but not the address spaces. */
    void (*teardown)(Accel *accel);
    /* Instructions that another CPU than the accelerator's own had to run. NULL: it knows of none. */
    uint64_t (*rescued)(Accel *accel);
    /* Statistics for "info jit" (caller frees) or NULL. */
    char *(*info)(Accel *accel);
} AccelClass;
#define ACCEL(obj)           OBJECT_CHECK(Accel, obj, TYPE_ACCEL)
#define ACCEL_GET_CLASS(obj) OBJECT_GET_CLASS(AccelClass, obj)

/* Makes the first available one of "kvm:tcg" and the like; "auto" stands for the one that is best here, with
 * "tcg" as the last resort. Properties (keyval dict, may be NULL) are set on it. */
Accel *accel_new(const char *names, json_object *properties, GError **error);

/* ---- vCPU threads (vcpu.c) ---- */
typedef struct VcpuSet VcpuSet; /* the vCPUs of one machine */
VcpuSet *vcpu_set_new(Accel *accel, ClockSet *clocks);
void vcpu_set_free(VcpuSet *set); /* ends the threads */
/* Creates the vCPU's thread; it waits until vcpu_set_resume. */
bool vcpu_set_add(VcpuSet *set, X86Cpu *cpu, GError **error);
/* From the main loop's thread. pause returns when every vCPU stands between two instructions. Nested pauses
 * count. */
void vcpu_set_pause(VcpuSet *set);
void vcpu_set_resume(VcpuSet *set);
bool vcpu_set_running(const VcpuSet *set);
unsigned vcpu_set_count(const VcpuSet *set);
X86Cpu *vcpu_set_get(const VcpuSet *set, unsigned index);
pid_t vcpu_thread_id(const X86Cpu *cpu);
/* A vCPU that stands still although others may run, until it is let go. From its own thread: it stops at the
 * next boundary; from the main loop's: while all are paused. */
void vcpu_hold(X86Cpu *cpu, bool hold);
/* Runs fn in the vCPU's thread between instructions and waits for it. Hold no HomeLock. */
void vcpu_run_on(X86Cpu *cpu, void (*fn)(X86Cpu *cpu, void *opaque), void *opaque);

#endif
