/*
 * Instructions that C executes for a block, string instructions, and those of the system that need no C.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/block.h"

static JitCallout *new_callout(T *t, const TInsn *i)
{
    const X86Insn *insn = &i->insn;
    JitCallout *c = jit_alloc(t->jit, sizeof(JitCallout), true);

    c->block = t->b;
    c->offset = i->offset;
    c->length = insn->length;
    interp_bind(t->cpu, insn, &c->ops[0], 0, i->offset, &c->native);
    c->ops[1].handler = interp_h_stop;
    c->ops[1].offset = insn->length;
    c->ends = insn->form->attrs & X86_ATTR_END;
    c->light = jit_is_light(insn);
    return c;
}

void block_emit_callout(T *t, TInsn *i)
{
    Asm *a = &t->a;

    block_flags_release(t, i->live_before);
    block_t1_release(t);
    JitCallout *c = new_callout(t, i);
    a_call(a, c->ends && t->jit->chain ? t->jit->thunks.callout_end : t->jit->thunks.callout);
    a_u64(a, (uint64_t)(uintptr_t)c);
    t->f = (FlagState){ .in_mem = true };
    for (unsigned g = 0; g < t->group_count; g++) {
        t->groups[g].checked = false; /* what was checked may have changed */
    }
}

/* How many elements fit between reg and the end of its page: T0; the delta of the page: T1. Returns what is
 * done where the page is not in the TLB, or the first element crosses its end; the caller says where to go in
 * vain. */
static Cold *emit_run_probe(T *t, TInsn *i, unsigned reg, unsigned shift, bool write)
{
    Asm *a = &t->a;
    Cold *c = block_probe_cold(t, i, a->p, 1u << shift, write, false);
    c->m = mem_base((int)reg, 0);
    a_mov_reg(a, T1, reg);
    a_shr_imm(a, true, T1, 7);
    a_alu_imm(a, false, 4, T1, (TLB_SIZE - 1) << 5);
    a_op_mem(a, true, 0x03, T1, CPU(tlb));
    a_mov_reg(a, T0, reg);
    a_op_mem(a, true, 0x2b, T0, mem_base(T1, TAG_OFFSET(write)));
    a_alu_imm(a, true, 7, T0, 4096 - (1 << shift));
    c->site = a_jcc_forward(a, CC_A);
    a_op_reg(a, false, 0xf7, 3, T0); /* neg */
    a_alu_imm(a, false, 0, T0, 4096);
    if (shift) {
        a_shr_imm(a, false, T0, shift);
    }
    a_mov_load(a, T1, mem_base(T1, offsetof(TlbEntry, addend)));
    return c;
}

/* cmp T0, m; cmova T0, m */
static void emit_minimum(Asm *a, HostMem m)
{
    a_op_mem(a, true, 0x3b, T0, m);
    a_op_mem(a, true, 0x0f47, T0, m);
}

static Cold *string_cold(T *t, TInsn *i, uint8_t *const slow[], unsigned n, uint8_t *retry)
{
    Cold *c = block_add_cold(t);
    c->type = COLD_STRING;
    memcpy(c->slow, slow, n * sizeof(*slow));
    c->slow_count = n;
    c->retry = retry;
    c->callout = new_callout(t, i);
    return c;
}

/* STOS and MOVS upwards, in runs that end where a page ends; everything else by the interpreter. Between runs
 * the registers are right, and interrupts are let in. */
void block_emit_string(T *t, TInsn *i)
{
    Asm *a = &t->a;
    const X86Insn *insn = &i->insn;
    bool movs = insn->form->mnemonic == X86_MOVS, rep = insn->prefixes & (X86_INSN_REP | X86_INSN_REPNE);
    unsigned shift =
        insn->form->operands[0].size == X86_SIZE_B ? 0 : (unsigned)__builtin_ctz(insn->operand_size);
    uint8_t *slow[1], *none = NULL;
    Cold *probes[2] = { NULL, NULL };

    block_flags_release(t, i->live_before);
    block_t1_release(t);
    a_op_mem(a, false, 0xf6, 0, mem_cpu(offsetof(X86Cpu, rflags) + 1)); /* test byte [rflags+1], DF */
    a_byte(a, FLAG_DF >> 8);
    slow[0] = a_jcc_forward(a, CC_NE);
    uint8_t *again = a->p;
    if (rep) {
        a_op_reg(a, true, 0x85, H_RCX, H_RCX);
        none = a_jcc_forward(a, CC_E);
    }
    if (movs) {
        probes[1] = emit_run_probe(t, i, H_RSI, shift, false);
        a_mov_store(a, AREA(tmp[0]), T0);
        a_mov_store(a, AREA(tmp[1]), T1);
    }
    probes[0] = emit_run_probe(t, i, H_RDI, shift, true);
    if (rep) {
        if (movs) {
            emit_minimum(a, AREA(tmp[0]));
        }
        a_op_reg(a, true, 0x3b, T0, H_RCX);
        a_op_reg(a, true, 0x0f47, T0, H_RCX);
        a_op_reg(a, true, 0x2b, H_RCX, T0); /* what is left */
        a_mov_store(a, AREA(tmp[2]), H_RCX);
        a_mov_reg(a, H_RCX, T0);
    }
    if (movs) {
        a_mov_load(a, T0, AREA(tmp[1]));
        a_op_reg(a, true, 0x03, H_RSI, T0);
    }
    a_op_reg(a, true, 0x03, H_RDI, T1);
    if (rep) {
        a_byte(a, 0xf3);
    }
    if (insn->operand_size == 2 && shift) {
        a_byte(a, 0x66);
    }
    if (shift == 3) {
        a_byte(a, 0x48);
    }
    a_byte(a, (movs ? 0xa4u : 0xaau) | (shift ? 1u : 0));
    a_op_reg(a, true, 0x2b, H_RDI, T1);
    if (movs) {
        a_op_reg(a, true, 0x2b, H_RSI, T0);
    }
    if (rep) {
        a_mov_load(a, H_RCX, AREA(tmp[2]));
        a_op_reg(a, true, 0x85, H_RCX, H_RCX);
        uint8_t *done = a_jcc_forward(a, CC_E);
        a_op_mem(a, false, 0x83, 7, CPU(interrupt_poll));
        a_byte(a, 0);
        uint8_t *more = a_jcc_forward(a, CC_E);
        if (!a->overflow) {
            a_bind_to(more, again);
        }
        a_mov_load(a, T0, HOT(page_va));
        a_lea(a, T0, mem_base(T0, i->offset));
        a_jmp(a, t->jit->thunks.poll);
        a_bind(a, done);
        a_bind(a, none);
    }
    /* Emitted behind the probes' own cold code. */
    Cold *way = string_cold(t, i, slow, 1, a->p);
    for (unsigned k = 0; k < 2; k++) {
        if (probes[k]) {
            probes[k]->slow_way = way;
        }
    }
    t->f.in_reg = false;
    for (unsigned g = 0; g < t->group_count; g++) {
        t->groups[g].checked = false;
    }
}

/* ---- instructions of the system, as far as they need no C ---- */

static void forget_groups(T *t)
{
    block_t1_release(t);
    for (unsigned g = 0; g < t->group_count; g++) {
        t->groups[g].checked = false;
    }
}

/* op dword gs:[rflags], imm: 1 or, 4 and */
static void emit_rflags(T *t, unsigned op, uint32_t imm)
{
    a_op_mem(&t->a, false, 0x81, op, CPU(rflags));
    a_u32(&t->a, imm);
}

/* What is pending is delivered at once where interrupts are allowed now: the slow way sees to it. */
static uint8_t *emit_test_pending(T *t)
{
    a_op_mem(&t->a, false, 0x83, 7, CPU(interrupt_request));
    a_byte(&t->a, 0);
    return a_jcc_forward(&t->a, CC_NE);
}

static void emit_pushf(T *t, TInsn *i)
{
    Asm *a = &t->a;

    block_stack_check(t, i, &i->stack, mem_base(GSP, -8));
    block_flags_want(t);
    if ((i->live_after || t->window) && !t->f.in_mem) {
        block_flags_save(a);
        t->f.in_mem = true;
    }
    t->pcs[t->pc_count - 1].in_reg = false; /* should the stack not be there */
    a_bytes(a, "\x9c\x41\x5c", 3);          /* pushfq; pop T0 */
    a_alu_imm(a, false, 4, T0, FLAGS_ALL);
    a_op_mem(a, true, 0x0b, T0, CPU(rflags));
    a_alu_imm(a, true, 4, T0, (int32_t) ~(uint32_t)(FLAG_RF | FLAG_VM));
    t->f.in_reg = false;
    a_mov_store(a, block_stack_operand(t, i), T0);
    a_lea(a, GSP, mem_base(GSP, -8));
}

/* POPF where of the flags outside the arithmetic ones only IF and DF change. */
static void emit_popf(T *t, TInsn *i)
{
    Asm *a = &t->a;
    bool may_if = t->key & MODE_IOPL_OK;
    uint32_t mine = FLAG_DF | (may_if ? FLAG_IF : 0);
    uint32_t other =
        FLAG_TF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
    uint8_t *slow[2];

    block_stack_check(t, i, &i->stack, mem_base(GSP, 0));
    block_flags_release(t, 0);
    block_t1_release(t);
    a_mov_load(a, T0, block_stack_operand(t, i));
    a_mov_reg(a, T1, T0);
    a_op_mem(a, false, 0x33, T1, CPU(rflags));
    a_op_reg(a, false, 0xf7, 0, T1); /* test T1d, other */
    a_u32(a, other);
    slow[0] = a_jcc_forward(a, CC_NE);
    unsigned n = 1;
    if (may_if) {
        a_op_reg(a, false, 0xf7, 0, T0);
        a_u32(a, FLAG_IF);
        uint8_t *off = a_jcc_forward(a, CC_E);
        slow[n++] = emit_test_pending(t);
        a_bind(a, off);
    }
    emit_rflags(t, 4, ~mine);
    a_mov_reg(a, T1, T0);
    a_alu_imm(a, false, 4, T1, (int32_t)mine);
    a_op_mem(a, false, 0x09, T1, CPU(rflags));
    /* cpu->cc: AH's layout in the high byte, OF in the low one */
    a_mov_reg(a, T1, T0);
    a_shr_imm(a, false, T1, 11);
    a_alu_imm(a, false, 4, T1, 1);
    a_op_reg(a, false, 0x0fb6, T0, T0); /* movzx T0d, T0b */
    a_shl_imm(a, false, T0, 8);
    a_op_reg(a, false, 0x0b, T1, T0);
    a_byte(a, 0x66);
    a_op_mem(a, false, 0x89, T1, CPU(cc));
    a_lea(a, GSP, mem_base(GSP, 8));
    string_cold(t, i, slow, n, a->p);
    t->f = (FlagState){ .in_mem = true };
}

void block_emit_system(T *t, TInsn *i)
{
    Asm *a = &t->a;
    const X86Insn *insn = &i->insn;
    uint8_t *slow[1];

    switch (insn->form->mnemonic) {
    case X86_CLI:
        block_flags_release(t, i->live_before);
        emit_rflags(t, 4, ~FLAG_IF);
        break;
    case X86_STI:
        block_flags_release(t, i->live_before);
        block_t1_release(t);
        slow[0] = emit_test_pending(t);
        emit_rflags(t, 1, FLAG_IF);
        string_cold(t, i, slow, 1, a->p);
        break;
    case X86_CLD:
        block_flags_release(t, i->live_before);
        emit_rflags(t, 4, ~FLAG_DF);
        break;
    case X86_STD:
        block_flags_release(t, i->live_before);
        emit_rflags(t, 1, FLAG_DF);
        break;
    case X86_STAC:
    case X86_CLAC: {
        bool set = insn->form->mnemonic == X86_STAC;
        block_flags_release(t, i->live_before);
        forget_groups(t);
        if (set) {
            emit_rflags(t, 1, FLAG_AC);
        } else {
            emit_rflags(t, 4, ~FLAG_AC);
        }
        MmuIndex index = set ? MMU_KERNEL_AC : MMU_KERNEL;
        a_mov_load(a, T0, CPU(mmu));
        a_mov_mem_imm32(a, mem_base(T0, offsetof(X86Mmu, index)), index);
        a_mov_load(a, T1, mem_base(T0, offsetof(X86Mmu, table) + 8u * index));
        a_mov_store(a, CPU(tlb), T1);
        break;
    }
    case X86_SWAPGS: {
        HostMem base =
            mem_cpu(offsetof(X86Cpu, segs) + sizeof(X86Segment) * SEG_GS + offsetof(X86Segment, base));
        block_t1_release(t);
        a_mov_load(a, T0, base);
        a_mov_load(a, T1, CPU(kernel_gs_base));
        a_mov_store(a, base, T1);
        a_mov_store(a, CPU(kernel_gs_base), T0);
        break;
    }
    case X86_MOV_FROM_SEG: {
        HostMem selector =
            mem_cpu(offsetof(X86Cpu, segs) + sizeof(X86Segment) * insn->reg + offsetof(X86Segment, selector));
        if (is_spilled(t, insn->rm)) {
            a_op_mem(a, false, 0x0fb7, T0, selector);
            a_mov_store(a, REG(insn->rm), T0);
        } else {
            a_op_mem(a, false, 0x0fb7, (unsigned)host_reg(t, insn->rm), selector);
        }
        break;
    }
    case X86_PAUSE:
        a_bytes(a, "\xf3\x90", 2);
        break;
    case X86_PUSHF:
        emit_pushf(t, i);
        break;
    case X86_POPF:
        emit_popf(t, i);
        break;
    }
}

void block_emit_fpu_check(T *t)
{
    Asm *a = &t->a;
    a_op_mem(a, false, 0x83, 7, CPU(fpu_stale));
    a_byte(a, 0);
    a_bytes(a, "\x74\x05", 2); /* je over the call */
    a_call(a, t->jit->thunks.fpu_load);
}
