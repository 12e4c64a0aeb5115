/*
 * The interpreter: instructions are decoded once into blocks of operations, which run by tail calls from
 * handler to handler. The reference of what the software CPU does.
 *
 * While a block runs, cpu->rip is the address of its first instruction and every operation knows its offset.
 * A handler that may fault sets cpu->current_op = op first, so that interp_exec finds the faulting
 * instruction's address after x86_raise(). Handlers that call arch/x86/system.h set cpu->rip to the
 * instruction and current_op to NULL, and leave the block. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_INTERP_INTERP_H
#define RHEA_ACCEL_SOFT_INTERP_INTERP_H

#include "arch/x86/cpu.h"
#include "arch/x86/decode.h"

typedef struct InterpOp InterpOp;
typedef struct InterpNative InterpNative;
/* Executes op and whatever follows in the block; returns when the block is left (cpu->rip is then the next
 * instruction's address). */
typedef void InterpHandler(X86Cpu *cpu, const InterpOp *op);

enum { OP_ADDRESS_SHIFT = 2, OP_LOCK = 1 << 4, OP_REP = 1 << 5, OP_REPNE = 1 << 6, OP_DISP_WRAPPED = 1 << 7 };

struct InterpOp {
    InterpHandler *handler;
    /* Register operands: a number, or for 8-bit operands the byte's offset in cpu->regs. */
    uint8_t reg, rm;
    uint8_t base, index, scale, segment; /* of a memory operand; as in X86Insn */
    uint8_t length;
    uint8_t flags;   /* bits 0-1 log2 of the operand size, 2-3 of the address size; OP_* */
    int32_t disp;    /* RIP-relative: from the block's first byte */
    uint16_t form;   /* in x86_forms */
    uint16_t offset; /* of the instruction from the block's start */
    union {
        int64_t imm;
        InterpNative *native; /* of forms marked native, x87, mmx, sse or avx */
    };
};

/* ---- instructions that run on the host itself (native.c, x87.c, xsave.c) ---- */
/* Everything about one such instruction in a cached block. Lives as long as the block. */
struct InterpNative {
    X86Insn insn;
    uint16_t offset; /* from the block's start */
    /* Executes it: reads and writes cpu's registers, memory through mmu.h, raises through x86_raise. Changes
     * nothing before the last point where it may raise. cpu->current_op is set by the caller. */
    void (*exec)(X86Cpu *cpu, const InterpNative *native);
    void *data; /* native.c's: the stub */
    uint32_t aux;
};
/* Called when a block with such an instruction is built: sets exec (and data). False: the instruction raises
 * #UD. Runs in the vCPU's thread; raises nothing. */
bool interp_native_bind(X86Cpu *cpu, InterpNative *native);

/* The linear address of an instruction's memory operand, segment checks done (#GP, #SS) for size bytes. */
uint64_t interp_linear(X86Cpu *cpu, const InterpNative *native, unsigned size, bool write);
/* The same without the checks and the segment's base: the effective address (offset). */
uint64_t interp_effective(const X86Cpu *cpu, const InterpNative *native);
/* The address of the instruction, and of the next one. */
static inline uint64_t interp_insn_rip(const X86Cpu *cpu, const InterpNative *native)
{
    return cpu->rip + native->offset;
}

/* Executes exactly one instruction. True: done. False: it raised an exception that is reported in cpu->exc
 * (cr2 set, cpu->rip at the instruction) and not delivered. For tests (the oracle) and debuggers. No
 * interrupts are taken. */
bool interp_step_one(X86Cpu *cpu);
/* The same as a whole: with requests about caches served, a fault delivered, traps taken. For accelerators
 * that hand single instructions over. False: it faulted. */
bool interp_run_instruction(X86Cpu *cpu);
/* Guest memory is written behind the software CPU's back from now on: no decoded code is kept. */
void interp_keep_nothing(X86Cpu *cpu);
/* Makes and frees cpu->accel_data for tests without an Accel object. */
void interp_vcpu_init(X86Cpu *cpu);
void interp_vcpu_destroy(X86Cpu *cpu);
void interp_vcpu_exec(X86Cpu *cpu);

#endif
