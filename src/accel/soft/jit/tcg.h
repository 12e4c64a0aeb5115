/*
 * The translator as the rest sees it. The accelerator "tcg" (tcg.c) is a type, found by its name; what is
 * here is for tests, which run a vCPU without an accelerator object. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_JIT_TCG_H
#define RHEA_ACCEL_SOFT_JIT_TCG_H

#include "arch/x86/cpu.h"

typedef struct Jit Jit;

/* Code memory for a machine's vCPUs, size bytes. NULL on error. */
Jit *jit_new(size_t size, GError **error);
/* After every vCPU's jit_vcpu_destroy. */
void jit_free(Jit *jit);
/* After interp_vcpu_init: from now on interp_vcpu_exec runs translated code. */
void jit_vcpu_init(Jit *jit, X86Cpu *cpu);
void jit_vcpu_destroy(X86Cpu *cpu);
/* In the thread that is to run the vCPU, before interp_vcpu_exec. */
void jit_thread_enter(X86Cpu *cpu);
/* For tests: blocks of one instruction without links; one instruction at cpu->rip, as interp_step_one, but
 * translated (64-bit code only). */
void jit_single(Jit *jit);
/* For tests: users' code has windows onto its memory at once. false: not on this host. */
bool jit_windows(Jit *jit);
bool jit_step_one(X86Cpu *cpu);

#endif
