/*
 * RFLAGS as a whole. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/flags.h"

uint64_t x86_get_rflags(const X86Cpu *cpu)
{
    return cpu->rflags | x86_get_arith(cpu) | FLAG_ONE;
}

void x86_set_rflags(X86Cpu *cpu, uint64_t value)
{
    const uint64_t in_mode = FLAG_TF | FLAG_IOPL | FLAG_VM | FLAG_AC;
    uint64_t old = cpu->rflags;
    x86_set_arith(cpu, (uint32_t)value);
    cpu->rflags = (value & ~(uint64_t)FLAGS_ARITH) | FLAG_ONE;
    if ((old ^ value) & in_mode) {
        x86_update_mode(cpu);
    }
}
