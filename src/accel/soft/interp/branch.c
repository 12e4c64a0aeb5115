/*
 * Near branches in every mode. Direct ones have an InterpLink behind them; bind.c makes their targets
 * relative to the block's start: op->imm of the taken one, op->disp of what follows. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "accel/soft/interp/ops.h"

/* A near target outside 64-bit mode: cut to the operand size, within CS's limit. */
static uint64_t legacy_target(X86Cpu *cpu, const InterpOp *op, uint64_t target)
{
    target &= size_mask(op_size(op));
    if (target > cpu->segs[SEG_CS].limit) {
        cpu->current_op = op;
        x86_raise_error(cpu, EXC_GP, 0);
    }
    return target;
}

/* Where an indirect branch goes, checked. */
static uint64_t indirect_target(X86Cpu *cpu, const InterpOp *op, uint64_t target)
{
    if (cpu->mode & MODE_CS64) {
        if (G_UNLIKELY(!is_canonical(target))) {
            cpu->current_op = op;
            x86_raise_error(cpu, EXC_GP, 0);
        }
        return target;
    }
    return legacy_target(cpu, op, target);
}

static inline void go(X86Cpu *cpu, const InterpOp *op, bool taken)
{
    if (taken) {
        uint64_t target = cpu->rip + (uint64_t)op->imm;
        if (!(cpu->mode & MODE_CS64)) {
            target = legacy_target(cpu, op, target);
        }
        FOLLOW(taken, taken_near, target);
    }
    FOLLOW(fall, fall_near, ip_mask(cpu, cpu->rip + (uint64_t)op->disp));
}

HANDLER(g_jcc)
{
    go(cpu, op, x86_condition(cpu->cc, op_form(op)->opcode & 15));
}
HANDLER(g_jmp)
{
    go(cpu, op, true);
}

/* What LOOP counts with has the address's size. */
static uint64_t counter(X86Cpu *cpu, const InterpOp *op)
{
    return reg_read(cpu, R_RCX, op_address_size(op));
}
static void loop(X86Cpu *cpu, const InterpOp *op, bool condition)
{
    uint64_t count = (counter(cpu, op) - 1) & address_mask(op);
    bool taken = count != 0 && condition;
    if (taken && !(cpu->mode & MODE_CS64)) {
        legacy_target(cpu, op, cpu->rip + (uint64_t)op->imm);
    }
    reg_write(cpu, R_RCX, count, op_address_size(op));
    go(cpu, op, taken);
}
HANDLER(g_loop)
{
    loop(cpu, op, true);
}
HANDLER(g_loope)
{
    loop(cpu, op, cpu->cc & CC_ZF);
}
HANDLER(g_loopne)
{
    loop(cpu, op, !(cpu->cc & CC_ZF));
}
HANDLER(g_jrcxz)
{
    go(cpu, op, counter(cpu, op) == 0);
}

static uint64_t near_operand(X86Cpu *cpu, const InterpOp *op)
{
    unsigned size = op_size(op);
    return op_is_memory(op) ? load(cpu, op_linear(cpu, op, size, false), size) : reg_read(cpu, op->rm, size);
}
HANDLER(g_jmp_ind)
{
    cpu->current_op = op;
    uint64_t target = indirect_target(cpu, op, near_operand(cpu, op));
    JUMP_TO(target);
}
HANDLER(g_call)
{
    cpu->current_op = op;
    uint64_t target = cpu->rip + (uint64_t)op->imm;
    if (!(cpu->mode & MODE_CS64)) {
        target = legacy_target(cpu, op, target);
    }
    push(cpu, op_next_rip(cpu, op), op_size(op));
    FOLLOW(taken, taken_near, target);
}
HANDLER(g_call_ind)
{
    cpu->current_op = op;
    uint64_t target = indirect_target(cpu, op, near_operand(cpu, op));
    push(cpu, op_next_rip(cpu, op), op_size(op));
    JUMP_TO(target);
}
HANDLER(g_ret)
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint64_t target = indirect_target(cpu, op, stack_top(cpu, size));
    stack_set(cpu, cpu->regs[R_RSP] + size + (uint64_t)op->imm);
    JUMP_TO(target);
}

InterpHandler *interp_branch_handler(const X86Form *form)
{
    switch (form->mnemonic) {
    case X86_JMP:
        return g_jmp;
    case X86_JMP_IND:
        return g_jmp_ind;
    case X86_CALL:
        return g_call;
    case X86_CALL_IND:
        return g_call_ind;
    case X86_RET:
        return g_ret;
    case X86_LOOP:
        return g_loop;
    case X86_LOOPE:
        return g_loope;
    case X86_LOOPNE:
        return g_loopne;
    case X86_JRCXZ:
        return g_jrcxz;
    default:
        break;
    }
    if ((form->map == 0 && (form->opcode & 0xf0) == 0x70) ||
        (form->map == 1 && (form->opcode & 0xf0) == 0x80)) {
        return g_jcc;
    }
    return NULL;
}
