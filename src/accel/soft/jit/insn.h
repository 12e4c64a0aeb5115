/*
 * What the translator knows of single instructions: which it may emit, how, and what they do to registers.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_JIT_INSN_H
#define RHEA_ACCEL_SOFT_JIT_INSN_H

#include "accel/soft/jit/emit.h"
#include "arch/x86/decode.h"

/* Where the guest's general registers are in translated code: a host register, or in memory (-1). Those of
 * the first encoding stay where they are, so that instructions need not grow; of the others the ones that
 * programs use most (r12, r13, r15). */
static const int8_t jit_home[16] = { H_RAX, H_RCX, H_RDX, H_RBX, H_R15, H_RBP, H_RSI, H_RDI,
                                     -1,    -1,    -1,    -1,    H_R8,  H_R9,  -1,    H_R10 };
#define JIT_SPILLED 0x4f00u /* a mask of those in memory */
static inline bool jit_is_spilled(unsigned reg)
{
    return JIT_SPILLED >> reg & 1;
}

/* Bits of a key that are not in the mode word. */
#define KEY_CAREFUL (1u << 21) /* every access has its own check */
#define KEY_WINDOW  (1u << 22) /* users' operands are in windows: see window.c */

typedef enum JitKind {
    JIT_COPY, /* the same instruction with other operands */
    JIT_NOP,
    JIT_LEA,
    JIT_PUSH,
    JIT_POP,
    JIT_LEAVE,
    JIT_CALL,
    JIT_CALL_IND,
    JIT_RET,
    JIT_JMP,
    JIT_JMP_IND,
    JIT_JCC,
    JIT_LOOP,    /* LOOP, LOOPE, LOOPNE, JRCXZ */
    JIT_STRING,  /* STOS, MOVS */
    JIT_SYSTEM,  /* what the translator does by itself of the system's instructions */
    JIT_CALLOUT, /* the interpreter's handler is called */
    JIT_STEP,    /* control goes to the interpreter for one instruction */
} JitKind;

/* Operands as numbers in the encoding; general registers are the guest's until the translator puts host
 * numbers there. */
typedef struct JitOperands {
    int reg, rm, vvvv;
    bool reg_gpr, rm_gpr, vvvv_gpr;
    bool byte[3], reads[3], writes[3]; /* of reg, rm, vvvv where they are general registers */
    unsigned spilled;                  /* how many different ones of r12 to r15 */
    bool high_byte;                    /* one is AH, CH, DH or BH */
    bool legacy_byte;                  /* byte registers 4 to 7 are these, for lack of a REX prefix */
} JitOperands;
/* What an instruction is, but for operands that make a call-out of it. */
JitKind jit_kind_of(const X86Insn *insn, uint32_t key);
/* The allow list, and the operands. key: the mode in which it runs. Only for 64-bit code. */
JitKind jit_classify(const X86Insn *insn, uint32_t key, JitOperands *operands);
/* Whether control never falls through. */
static inline bool jit_ends_block(JitKind kind)
{
    return (kind >= JIT_CALL && kind <= JIT_LOOP) || kind == JIT_STEP;
}
/* Uses vector, x87 or MMX registers, or their control words. */
bool jit_is_fpu(const X86Insn *insn);
/* Whether the interpreter's handler may run with the guest's vector registers live: it uses none and calls
 * only what calls x86_fpu_leave where it has to. */
bool jit_is_light(const X86Insn *insn);
/* Whether it leaves the flags alone in some cases (shifts by a count that may be 0). */
bool jit_flags_conditional(const X86Insn *insn);
/* Bytes of the memory operand; 0: not known. */
unsigned jit_memory_size(const X86Insn *insn, bool *write);
/* A mask of the guest's general registers that are written. */
uint32_t jit_written_gprs(const X86Insn *insn, JitKind kind, const JitOperands *o);
/* Those of them that hold a number of 32 bits afterwards, signed or not, whatever they held before; may leave
 * some out. */
uint32_t jit_narrow_gprs(const X86Insn *insn, JitKind kind, const JitOperands *o);
/* Those that are read, as addresses too; may name more than are. */
uint32_t jit_read_gprs(const X86Insn *insn, JitKind kind, const JitOperands *o);
/* The register that moves by a constant (*amount), or -1. */
int jit_constant_move(const X86Insn *insn, JitKind kind, int32_t *amount);

void jit_operands(const X86Insn *insn, JitOperands *o);
/* Whether the instruction does with a memory operand what it does with a register (rm) in its place. */
bool jit_takes_memory(const X86Insn *insn);
/* Encodes insn with other operands; m: the memory operand, NULL: rm is a register. */
void jit_emit(Asm *a, const X86Insn *insn, const JitOperands *o, const HostMem *m);

#endif
