/*
 * Addresses of memory operands, for the instructions that run on the host. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "accel/soft/interp/interp.h"
#include "arch/x86/system.h"

uint64_t interp_effective(const X86Cpu *cpu, const InterpNative *native)
{
    const X86Insn *insn = &native->insn;
    uint64_t offset = (uint64_t)(int64_t)insn->disp;
    if (insn->base == X86_REG_RIP) {
        offset += interp_insn_rip(cpu, native) + insn->length;
    } else if (insn->base < 16) {
        offset += cpu->regs[insn->base];
    }
    if (insn->index < 16) {
        offset += cpu->regs[insn->index] << insn->scale;
    }
    return insn->address_size == 8 ? offset : insn->address_size == 4 ? (uint32_t)offset : (uint16_t)offset;
}

static bool canonical(uint64_t linear)
{
    return (uint64_t)((int64_t)(linear << 16) >> 16) == linear;
}

uint64_t interp_linear(X86Cpu *cpu, const InterpNative *native, unsigned size, bool write)
{
    const X86Insn *insn = &native->insn;
    uint64_t offset = interp_effective(cpu, native);
    if (G_LIKELY(cpu->mode & MODE_CS64)) {
        uint64_t linear = offset;
        if (insn->segment >= SEG_FS) {
            linear += cpu->segs[insn->segment].base;
        }
        if (G_LIKELY(canonical(linear) && canonical(linear + size - 1))) {
            return linear;
        }
    }
    return x86_linear(cpu, insn->segment, offset, size, write);
}
