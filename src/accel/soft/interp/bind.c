/*
 * From a decoded instruction to an operation of a block. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/ops.h"

#define ATTR_ON_HOST \
    (X86_ATTR_NATIVE | X86_ATTR_X87 | X86_ATTR_MMX | X86_ATTR_SSE | X86_ATTR_AVX | X86_ATTR_AVX512)

InterpHandler *interp_generic[X86_FORM_COUNT];

void interp_generic_init(void)
{
    if (interp_generic[0]) {
        return;
    }
    for (unsigned i = X86_FORM_COUNT; i-- > 0;) {
        const X86Form *form = &x86_forms[i];
        InterpHandler *h = interp_integer_handler(form);
        h = h ? h : interp_branch_handler(form);
        h = h ? h : interp_string_handler(form);
        h = h ? h : interp_system_handler(form);
        if (form->attrs & ATTR_ON_HOST) {
            h = interp_h_native;
        }
        interp_generic[i] = h ? h : interp_h_ud;
    }
}

void interp_h_ud(X86Cpu *cpu, const InterpOp *op)
{
    cpu->current_op = op;
    x86_raise(cpu, EXC_UD);
}

/* An instruction longer than 15 bytes. */
void interp_h_gp0(X86Cpu *cpu, const InterpOp *op)
{
    cpu->current_op = op;
    x86_raise_error(cpu, EXC_GP, 0);
}

/* The block's code goes on in another block. */
void interp_h_end(X86Cpu *cpu, const InterpOp *op)
{
    FOLLOW(fall, fall_near, ip_mask(cpu, cpu->rip + (uint64_t)op->disp));
}

/* The block's code was written: look it up again. */
void interp_h_stale(X86Cpu *cpu, const InterpOp *op)
{
    cpu->rip = ip_mask(cpu, op_rip(cpu, op));
}

void interp_h_native(X86Cpu *cpu, const InterpOp *op)
{
    cpu->current_op = op;
    op->native->exec(cpu, op->native);
    NEXT();
}

void interp_h_stop(X86Cpu *cpu, const InterpOp *op)
{
    cpu->rip = ip_mask(cpu, op_rip(cpu, op));
    cpu->current_op = NULL;
}

void interp_h_nop(X86Cpu *cpu, const InterpOp *op)
{
    NEXT();
}

static uint8_t byte_register(unsigned n, bool rex)
{
    return (uint8_t)(n >= 4 && n < 8 && !rex ? (n - 4) * 8 + 1 : n * 8);
}

static void bind_registers(const X86Insn *insn, InterpOp *op)
{
    const X86Form *form = insn->form;
    bool rex = insn->prefixes & X86_INSN_REX;
    op->reg = insn->reg;
    op->rm = insn->rm;
    for (unsigned i = 0; i < form->operand_count; i++) {
        if (form->operands[i].size != X86_SIZE_B) {
            continue;
        }
        switch (form->operands[i].kind) {
        case X86_OPERAND_G:
            op->reg = byte_register(insn->reg, rex);
            break;
        case X86_OPERAND_E:
        case X86_OPERAND_Z:
        case X86_OPERAND_R:
            op->rm = byte_register(insn->rm, rex);
            break;
        default:
            break;
        }
    }
    if (insn->is_memory) {
        op->rm = 0xff;
    }
}

static void bind_memory(const X86Insn *insn, InterpOp *op, unsigned offset)
{
    op->base = insn->base;
    op->index = insn->index;
    op->scale = insn->scale;
    op->segment = insn->segment;
    op->disp = insn->disp;
    if (insn->base == X86_REG_RIP) {
        /* cpu->rip is the block's start while it runs. */
        int64_t disp = (int64_t)insn->disp + offset + insn->length;
        op->disp = (int32_t)disp;
        if (disp != op->disp) {
            op->flags |= OP_DISP_WRAPPED;
        }
    }
}

/* Direct branches: targets relative to the block's start, and the link behind the operation. */
static void bind_branch(const X86Insn *insn, InterpOp *op, unsigned offset, unsigned page_offset,
                        unsigned code_size)
{
    InterpLink link = { 0 };
    int64_t next = (int64_t)offset + insn->length, taken = next + (int64_t)insn->imm;
    op->imm = taken;
    op->disp = (int32_t)next;
    bool wide = code_size >= 4 && insn->operand_size >= 4;
    link.taken_near = wide && taken + page_offset >= 0 && taken + page_offset < 4096;
    link.fall_near = wide && next + page_offset < 4096;
    memcpy(op + 1, &link, sizeof(link));
}

bool interp_bind(X86Cpu *cpu, const X86Insn *insn, InterpOp *op, unsigned offset, unsigned page_offset,
                 InterpNative *native)
{
    const X86Form *form = insn->form;
    unsigned code_size = cpu->mode & MODE_CS64 ? 8 : cpu->mode & MODE_CS32 ? 4 : 2;
    bool has_branch = false;
    memset(op, 0, sizeof(*op));
    op->form = (uint16_t)(form - x86_forms);
    op->offset = (uint16_t)offset;
    op->length = insn->length;
    op->flags = (uint8_t)(__builtin_ctz(insn->operand_size) |
                          (unsigned)__builtin_ctz(insn->address_size) << OP_ADDRESS_SHIFT |
                          (insn->prefixes & X86_INSN_LOCK ? OP_LOCK : 0) |
                          (insn->prefixes & X86_INSN_REP ? OP_REP : 0) |
                          (insn->prefixes & X86_INSN_REPNE ? OP_REPNE : 0));
    if (!(form->attrs & X86_ATTR_REP)) {
        op->flags &= (uint8_t) ~(OP_REP | OP_REPNE);
    }
    op->handler = interp_generic[op->form];
    bind_registers(insn, op);
    bind_memory(insn, op, offset);
    if (form->attrs & ATTR_ON_HOST) {
        native = native ? native : interp_cache_alloc(cpu->accel_data, sizeof(InterpNative));
        memset(native, 0, sizeof(*native));
        native->insn = *insn;
        native->offset = (uint16_t)offset;
        op->native = native;
        if (!interp_native_bind(cpu, native)) {
            op->handler = interp_h_ud;
            return true;
        }
        return form->attrs & X86_ATTR_END;
    }
    op->imm = (int64_t)insn->imm;
    if (form->space == X86_SPACE_VEX) {
        op->imm = (int64_t)(insn->vvvv | insn->imm << 8);
    }
    for (unsigned i = 0; i < form->operand_count; i++) {
        if (form->operands[i].kind == X86_OPERAND_J) {
            bind_branch(insn, op, offset, page_offset, code_size);
            has_branch = true;
        }
    }
    if (form->mnemonic == X86_ENTER) {
        op->imm = (int64_t)(insn->imm | insn->imm2 << 16);
    } else if (form->operand_count && form->operands[0].kind == X86_OPERAND_A) {
        op->disp = (int32_t)insn->imm2;
    } else if (form->mnemonic == X86_XCHG_AX && insn->rm == R_RAX) {
        op->handler = interp_h_nop;
        return false;
    } else if (op->handler == interp_h_ud) {
        return true;
    }
    InterpHandler *hot = interp_hot_handler(cpu, insn, op);
    if (hot) {
        op->handler = hot;
    }
    return has_branch || (form->attrs & X86_ATTR_END);
}
