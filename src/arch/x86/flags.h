/*
 * The arithmetic flags as the interpreter keeps them. The host has the same flags, so an instruction's flags
 * are taken from the host's own instruction with LAHF and SETO: cpu->cc holds AX after that, bits 15..8 = SF
 * ZF 0 AF 0 PF 1 CF, bits 7..0 = OF (0 or 1). Nothing is lazy and nothing is recomputed; conditions are bit
 * tests. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_FLAGS_H
#define RHEA_ARCH_X86_FLAGS_H

#include "arch/x86/cpu.h"

#define CC_OF (1u << 0)
#define CC_CF (1u << 8)
#define CC_PF (1u << 10)
#define CC_AF (1u << 12)
#define CC_ZF (1u << 14)
#define CC_SF (1u << 15)

/* The six arithmetic flags in RFLAGS layout (FLAGS_ARITH). */
static inline uint32_t x86_get_arith(const X86Cpu *cpu)
{
    return ((cpu->cc >> 8) & (FLAGS_ARITH & 0xff)) | (cpu->cc & CC_OF) << 11;
}

/* Sets all six from RFLAGS layout. */
static inline void x86_set_arith(X86Cpu *cpu, uint32_t flags)
{
    cpu->cc = (uint16_t)((flags & (FLAGS_ARITH & 0xff)) << 8 | ((flags >> 11) & 1));
}

/* Sets those of mask. */
static inline void x86_set_arith_masked(X86Cpu *cpu, uint32_t flags, uint32_t mask)
{
    x86_set_arith(cpu, (x86_get_arith(cpu) & ~mask) | (flags & mask));
}

static inline bool x86_get_cf(const X86Cpu *cpu)
{
    return cpu->cc & CC_CF;
}

/* Condition code 0 to 15 as in Jcc's opcode, SDM vol. 1 appendix B. */
static inline bool x86_condition(uint32_t cc, unsigned condition)
{
    bool value = false;
    switch (condition >> 1) {
    case 0:
        value = cc & CC_OF;
        break;
    case 1:
        value = cc & CC_CF;
        break;
    case 2:
        value = cc & CC_ZF;
        break;
    case 3:
        value = cc & (CC_CF | CC_ZF);
        break;
    case 4:
        value = cc & CC_SF;
        break;
    case 5:
        value = cc & CC_PF;
        break;
    case 6:
        value = ((cc >> 15) ^ cc) & 1;
        break;
    case 7:
        value = (((cc >> 15) ^ cc) & 1) || (cc & CC_ZF);
        break;
    }
    return value != (condition & 1);
}

#endif
