/*
 * The instructions that change segments, privilege, control registers and the like: called by the interpreter
 * (and later by the translator as call-outs). Each raises what the manual says in the manual's order, with no
 * state changed.
 *
 * On entry cpu->rip is the address of the instruction and next_rip that of the next one. Functions that
 * transfer control set cpu->rip themselves; the others leave it alone. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_SYSTEM_H
#define RHEA_ARCH_X86_SYSTEM_H

#include "arch/x86/cpu.h"

/* ---- segmentation (segment.c), SDM vol. 3 chapters 3 and 5 ---- */
/* The linear address of segment:offset for an access of size bytes, after limit, type and canonical checks
 * (#GP, #SS). offset is already truncated to the address size. */
uint64_t x86_linear(X86Cpu *cpu, int seg, uint64_t offset, unsigned size, bool write);
void x86_load_segment(X86Cpu *cpu, int seg, uint16_t selector); /* MOV Sreg, POP Sreg, Lxs; not CS */
void x86_lldt(X86Cpu *cpu, uint16_t selector);
void x86_ltr(X86Cpu *cpu, uint16_t selector);
/* LAR, LSL, VERR, VERW: false clears ZF. */
bool x86_lar(X86Cpu *cpu, uint16_t selector, uint32_t *rights);
bool x86_lsl(X86Cpu *cpu, uint16_t selector, uint32_t *limit);
bool x86_verify(X86Cpu *cpu, uint16_t selector, bool write);
/* Far transfers; operand_size is 2, 4 or 8 bytes. */
void x86_far_jump(X86Cpu *cpu, uint16_t selector, uint64_t offset, unsigned operand_size, uint64_t next_rip);
void x86_far_call(X86Cpu *cpu, uint16_t selector, uint64_t offset, unsigned operand_size, uint64_t next_rip);
void x86_far_return(X86Cpu *cpu, unsigned operand_size, unsigned release_bytes);
void x86_iret(X86Cpu *cpu, unsigned operand_size, uint64_t next_rip);
void x86_task_switch(X86Cpu *cpu, uint16_t selector, int reason, uint64_t next_rip, bool has_error,
                     uint32_t error);
enum { TASK_SWITCH_CALL, TASK_SWITCH_IRET, TASK_SWITCH_JMP, TASK_SWITCH_GATE };

/* ---- interrupts by instruction ---- */
void x86_int_n(X86Cpu *cpu, int vector, uint64_t next_rip); /* INT n with its VM86 and IOPL rules */
void x86_int3(X86Cpu *cpu, uint64_t next_rip);
void x86_into(X86Cpu *cpu, uint64_t next_rip);
void x86_icebp(X86Cpu *cpu, uint64_t next_rip);

/* ---- system calls ---- */
void x86_syscall(X86Cpu *cpu, uint64_t next_rip);
void x86_sysret(X86Cpu *cpu, unsigned operand_size);
void x86_sysenter(X86Cpu *cpu);
void x86_sysexit(X86Cpu *cpu, unsigned operand_size);
void x86_swapgs(X86Cpu *cpu);
void x86_rsm(X86Cpu *cpu);

/* ---- control, debug and model-specific registers (system.c, msr.c) ---- */
uint64_t x86_read_cr(X86Cpu *cpu, int number);
void x86_write_cr(X86Cpu *cpu, int number, uint64_t value);
uint64_t x86_read_dr(X86Cpu *cpu, int number);
void x86_write_dr(X86Cpu *cpu, int number, uint64_t value);
uint64_t x86_cr4_allowed(const X86Cpu *cpu);  /* the bits that CPUID makes legal */
uint64_t x86_efer_allowed(const X86Cpu *cpu); /* likewise, LMA included */
void x86_lmsw(X86Cpu *cpu, uint16_t value);
void x86_clts(X86Cpu *cpu);
void x86_rdmsr(X86Cpu *cpu); /* ECX -> EDX:EAX */
void x86_wrmsr(X86Cpu *cpu);
bool x86_msr_read(X86Cpu *cpu, uint32_t index, uint64_t *value); /* false: #GP; no privilege check */
bool x86_msr_write(X86Cpu *cpu, uint32_t index, uint64_t value);
void x86_xsetbv(X86Cpu *cpu);
/* RDPKRU, WRPKRU: SDM vol. 2. */
void x86_rdpkru(X86Cpu *cpu);
void x86_wrpkru(X86Cpu *cpu);
void x86_xgetbv(X86Cpu *cpu);
void x86_cpuid(X86Cpu *cpu);
void x86_rdtsc(X86Cpu *cpu);
void x86_rdtscp(X86Cpu *cpu);
void x86_rdpid(X86Cpu *cpu, int reg);
void x86_rdpmc(X86Cpu *cpu);
uint64_t x86_tsc(X86Cpu *cpu);
void x86_invlpg(X86Cpu *cpu, uint64_t linear);
void x86_invpcid(X86Cpu *cpu, uint64_t type, uint64_t descriptor_linear);
void x86_hlt(X86Cpu *cpu); /* sets halted; the executor leaves */
void x86_monitor(X86Cpu *cpu, uint64_t linear);
void x86_mwait(X86Cpu *cpu);
void x86_invd(X86Cpu *cpu);   /* INVD, WBINVD: privilege check only */
void x86_vmcall(X86Cpu *cpu); /* KVM's hypercalls, where the guest was told of them */
void x86_clac_stac(X86Cpu *cpu, bool set);
/* SGDT, SIDT, SLDT, STR, SMSW obey CR4.UMIP: raises #GP where it forbids them. */
void x86_umip_check(X86Cpu *cpu);
/* CLI, STI, POPF, PUSHF with IOPL, VM86, VME and PVI. */
void x86_cli(X86Cpu *cpu);
void x86_sti(X86Cpu *cpu);
uint64_t x86_pushf(X86Cpu *cpu, unsigned operand_size);
void x86_popf(X86Cpu *cpu, uint64_t value, unsigned operand_size);

/* ---- port I/O with its permission bitmap ---- */
uint32_t x86_in(X86Cpu *cpu, uint16_t port, unsigned size);
void x86_out(X86Cpu *cpu, uint16_t port, uint32_t value, unsigned size);
void x86_check_io(X86Cpu *cpu, uint16_t port, unsigned size);

/* ---- debug (debug.c): breakpoints and single step ---- */
/* After an instruction, with cpu->rip at the next one: delivers the #DB traps for data breakpoints that it
 * hit (cpu->debug_pending) and, where it began with TF set, the single step. Returns whether it delivered. */
bool x86_debug_after(X86Cpu *cpu, bool single_step);
/* Before an instruction, where MODE_BP is on: delivers #DB (a fault) for an instruction breakpoint at linear,
 * unless RFLAGS.RF is set. Returns whether it delivered. The executor clears RF after each instruction that
 * completes. */
bool x86_debug_code_breakpoint(X86Cpu *cpu, uint64_t linear);
void x86_debug_data(X86Cpu *cpu, uint64_t linear, unsigned size,
                    bool write); /* from slow paths of watched pages */

/* ---- a debugger outside the guest (gdbstub) ---- */
enum { X86_WATCH_READ = 1, X86_WATCH_WRITE = 2 };
typedef struct X86Watchpoint {
    uint64_t address, length; /* linear */
    unsigned kinds;
} X86Watchpoint;
typedef enum X86DebugStop { X86_STOP_NONE, X86_STOP_BREAKPOINT, X86_STOP_STEP, X86_STOP_WATCH } X86DebugStop;
/* What it wants of a vCPU, which then runs in the interpreter, an instruction at a time. Changed only while
 * the vCPU stands still. */
typedef struct X86Debugger {
    const uint64_t *breakpoints; /* linear addresses; borrowed */
    unsigned breakpoint_count;
    const X86Watchpoint *watchpoints;
    unsigned watchpoint_count;
    bool step; /* stop after one instruction, which no interrupt comes before */
    /* set when it stops */
    X86DebugStop stop;
    X86Watchpoint hit; /* of X86_STOP_WATCH: the point, with the kind of access */
    /* In the vCPU's thread: it is to stand still from now on, and the machine to stop. */
    void (*stopped)(X86Cpu *cpu, struct X86Debugger *debugger);
    void *opaque;
} X86Debugger;
/* Sets or takes away (NULL) what is wanted of it. The vCPU stands still. */
void x86_set_debugger(X86Cpu *cpu, X86Debugger *debugger);
/* Before an instruction at linear: true: it stops here. */
bool x86_debugger_before(X86Cpu *cpu, uint64_t linear);
/* After one, or when an exception was delivered instead. */
void x86_debugger_after(X86Cpu *cpu);

#endif
