/*
 * Immediates that the guest patches.
 *
 * A block that checks itself (its page is written often) and finds other code is mostly made anew. Where only
 * the immediates of some instructions differ, these are noted: from then on the instruction reads its
 * immediate from the guest's code each time it runs, and the check leaves these bytes out.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/block.h"

#define VARYING_MAX 4096u

enum { GROUP_1_IMM32 = 0x81, GROUP_1_IMM8 = 0x83, MOV_IMM = 0xb8, MOV_RM_IMM = 0xc7, CMP = 7 };

/* What can be done with a register in the immediate's place, and to which register; false: not this one. */
static bool can_vary(const X86Insn *insn, unsigned *target)
{
    const X86Form *form = insn->form;
    unsigned opcode = insn->bytes[insn->opcode_offset];

    if (form->space != X86_SPACE_LEGACY || form->map != 0 || insn->is_memory || insn->operand_size < 4 ||
        (insn->prefixes & X86_INSN_LOCK)) {
        return false;
    }
    *target = insn->rm;
    if (opcode < 0x40 && (opcode & 7) == 5) {
        *target = R_RAX;
    } else if (opcode != GROUP_1_IMM32 && opcode != GROUP_1_IMM8 && (opcode & 0xf8) != MOV_IMM &&
               opcode != MOV_RM_IMM) {
        return false;
    }
    return true;
}

/* Whether *was, `length` bytes of code, differs from what is there now in immediates that can vary only;
 * those are noted then. */
static bool note(Jit *jit, const uint8_t *now, const uint8_t *was, unsigned length)
{
    X86DecodeMode mode = { .code_size = 8, .protected_mode = true, .vex = true };
    unsigned offset = 0, target, found = 0;
    X86Insn insn;

    x86_decode_all_features(&mode);
    while (offset < length) {
        if (x86_decode(&mode, was + offset, length - offset, &insn) != X86_DECODE_OK) {
            return false;
        }
        unsigned first = insn.imm_offset, end = first + insn.imm_size;
        bool differs = false;
        for (unsigned k = 0; k < insn.length; k++) {
            if (now[offset + k] == was[offset + k]) {
                continue;
            }
            if (k < first || k >= end || !can_vary(&insn, &target)) {
                return false;
            }
            differs = true;
        }
        if (differs) {
            g_hash_table_add(jit->varying, (gpointer)(now + offset));
            found++;
        }
        offset += insn.length;
    }
    return found != 0;
}

void jit_note_varying(Jit *jit, JitPage *page, const JitBlock *b)
{
    if (!b->made_of || b->second) {
        return;
    }
    if (g_hash_table_size(jit->varying) > VARYING_MAX) {
        g_hash_table_remove_all(jit->varying); /* what is still so is found again */
    }
    if (note(jit, b->page + b->offset, b->made_of, b->length)) {
        page->has_varying = true;
    }
}

void block_find_varying(T *t, const uint8_t *page, unsigned offset)
{
    t->varying = false;
    memset(t->varies, 0, sizeof(t->varies));
    for (unsigned k = 0; k < t->count; k++) {
        TInsn *i = &t->insns[k];
        unsigned target;
        if (i->kind != JIT_COPY || !g_hash_table_contains(t->jit->varying, page + i->offset) ||
            !can_vary(&i->insn, &target)) {
            continue;
        }
        i->varies = t->varying = true;
        for (unsigned n = 0; n < i->insn.imm_size; n++) {
            unsigned at = i->offset + i->insn.imm_offset + n - offset;
            t->varies[at / 64] |= UINT64_C(1) << (at % 64);
        }
    }
}

void block_emit_varying(T *t, const TInsn *i, const uint8_t *page)
{
    const X86Insn *insn = &i->insn;
    Asm *a = &t->a;
    unsigned opcode = insn->bytes[insn->opcode_offset], guest = 0, reads, writes;
    bool wide = insn->operand_size == 8, is_mov = (opcode & 0xf8) == MOV_IMM || opcode == MOV_RM_IMM;

    if (!can_vary(insn, &guest)) {
        return; /* not that it came here */
    }
    bool spilled = is_spilled(t, guest);
    unsigned host = spilled ? T0 : (unsigned)host_reg(t, guest), to = is_mov ? host : T0;
    block_flags_of(i, &reads, &writes);
    if (reads && !t->f.in_reg) {
        block_flags_want(t);
    }
    a_mov_imm64(a, T0, (uint64_t)(uintptr_t)(page + i->offset + insn->imm_offset));
    if (insn->imm_size == 1) {
        a_op_mem(a, wide, 0x0fbe, to, mem_base(T0, 0)); /* movsx */
    } else if (wide && insn->imm_size == 4) {
        a_op_mem(a, true, 0x63, to, mem_base(T0, 0)); /* movsxd */
    } else {
        a_op_mem(a, wide, 0x8b, to, mem_base(T0, 0));
    }
    if (is_mov) {
        if (spilled) {
            a_mov_store(a, REG(guest), to);
        }
        return;
    }
    unsigned operation = insn->form->digit >= 0 ? (unsigned)insn->form->digit : opcode >> 3 & 7;
    if (t->pc_count && !a->overflow) {
        t->pcs[t->pc_count - 1].in_reg = t->f.in_reg;
    }
    if (spilled) {
        a_op_mem(a, wide, operation << 3 | 1, T0, REG(guest));
        if (!wide && operation != CMP) {
            a_mov_mem_imm32(a, mem_cpu(offsetof(X86Cpu, regs) + 8u * guest + 4), 0);
        }
    } else {
        a_op_reg(a, wide, operation << 3 | 3, host, T0);
    }
    t->f = (FlagState){ .in_reg = true };
}
