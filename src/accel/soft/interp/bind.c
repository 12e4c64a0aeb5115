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

/* The first operation of a block whose runs are counted. */
void interp_h_count(X86Cpu *cpu, const InterpOp *op)
{
    Interp *d = cpu->accel_data;
    Block *b = (Block *)((char *)(uintptr_t)op - offsetof(Block, ops));
    if (G_UNLIKELY(b->runs >= d->run_limit)) {
        cpu->current_op = NULL;
        return;
    }
    /* Code that comes back after other code is likely to do so again; a burst may be all there ever is. */
    uint32_t now = ++d->runs;
    b->runs += b->runs && now - b->when > RUN_GAP ? d->count_return : 1;
    b->when = now;
    NEXT();
}

void interp_h_native(X86Cpu *cpu, const InterpOp *op)
{
    cpu->current_op = op;
    op->native->exec(cpu, op->native);
    NEXT();
}

static void interp_h_native_end(X86Cpu *cpu, const InterpOp *op)
{
    cpu->current_op = op;
    op->native->exec(cpu, op->native);
    cpu->rip = ip_mask(cpu, op_next_rip(cpu, op));
    cpu->current_op = NULL;
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

/* ---- plans: what interp_bind found for a form and a shape of operands in 64-bit code ---- */
enum {
    PLAN_BYTE_REG = 1, /* the operand in ModRM.reg is a byte register, that in ModRM.rm */
    PLAN_BYTE_RM = 2,
    PLAN_SWAP = 4,     /* of reg and rm */
    PLAN_RM_ZERO = 8,  /* rm is RAX */
    PLAN_IMM_ONE = 16, /* the immediate is 1 */
    PLAN_BRANCH = 32,
    PLAN_ENDS = 64,
    PLAN_NO_REP = 128,
};

/* What the operation depends on but for numbers: the form, operand size and kind of operand; 0: no plan. */
static uint32_t plan_key(const X86Insn *insn)
{
    const X86Form *form = insn->form;
    unsigned kind = 0;
    if (form->space != X86_SPACE_LEGACY || (form->attrs & ATTR_ON_HOST) || (insn->prefixes & X86_INSN_LOCK) ||
        insn->address_size != 8) {
        return 0;
    }
    if (insn->is_memory) {
        kind = (insn->segment >= SEG_FS ? 1u : 2u) | (insn->index == X86_REG_NONE ? 4u : 0);
    }
    unsigned size = (unsigned)insn->operand_size >> 2; /* 2, 4, 8: 0, 1, 2 */
    return (uint32_t)(form - x86_forms) << 6 | size << 4 | kind << 1 | 1;
}

static BindPlan *plan_of(Interp *d, uint32_t key)
{
    return &d->plans[(key * UINT32_C(0x9e3779b1)) >> (32 - PLAN_BITS)];
}

static bool plan_apply(const BindPlan *plan, const X86Insn *insn, InterpOp *op, unsigned offset,
                       unsigned page_offset)
{
    unsigned flags = plan->flags;
    bool rex = insn->prefixes & X86_INSN_REX;
    uint8_t reg = insn->reg, rm = insn->rm;

    reg = flags & PLAN_BYTE_REG ? byte_register(reg, rex) : reg;
    rm = insn->is_memory ? 0xff : flags & PLAN_BYTE_RM ? byte_register(rm, rex) : rm;
    op->handler = plan->handler;
    op->reg = flags & PLAN_SWAP ? rm : reg;
    op->rm = flags & PLAN_RM_ZERO ? 0 : flags & PLAN_SWAP ? reg : rm;
    op->scale = insn->scale;
    op->length = insn->length;
    op->flags = (uint8_t)((unsigned)(insn->operand_size >> 2) + 1u + (3u << OP_ADDRESS_SHIFT) +
                          (insn->prefixes & X86_INSN_REP && !(flags & PLAN_NO_REP) ? OP_REP : 0) +
                          (insn->prefixes & X86_INSN_REPNE && !(flags & PLAN_NO_REP) ? OP_REPNE : 0));
    op->form = (uint16_t)(insn->form - x86_forms);
    op->offset = (uint16_t)offset;
    bind_memory(insn, op, offset);
    op->imm = flags & PLAN_IMM_ONE ? 1 : (int64_t)insn->imm;
    if (flags & PLAN_BRANCH) {
        bind_branch(insn, op, offset, page_offset, 8);
    }
    return flags & PLAN_ENDS;
}

/* op is what insn became, by a handler that was chosen before (general) or for it. */
static void plan_make(X86Cpu *cpu, uint32_t key, const X86Insn *insn, const InterpOp *op, bool branch,
                      bool ends)
{
    const X86Form *form = insn->form;
    InterpOp probe = *op;
    unsigned flags = (branch ? PLAN_BRANCH : 0) | (ends ? PLAN_ENDS : 0);

    if (form->mnemonic == X86_ENTER || op->handler == interp_h_ud || (op->flags & OP_DISP_WRAPPED) ||
        (form->operand_count && form->operands[0].kind == X86_OPERAND_A) || form->mnemonic == X86_XCHG_AX) {
        return;
    }
    if (!(form->attrs & X86_ATTR_REP)) {
        flags |= PLAN_NO_REP;
    }
    for (unsigned i = 0; i < form->operand_count; i++) {
        if (form->operands[i].size == X86_SIZE_B) {
            switch (form->operands[i].kind) {
            case X86_OPERAND_G:
                flags |= PLAN_BYTE_REG;
                break;
            case X86_OPERAND_E:
            case X86_OPERAND_Z:
            case X86_OPERAND_R:
                flags |= PLAN_BYTE_RM;
                break;
            default:
                break;
            }
        }
    }
    /* The handler is chosen again, with operands that show where they go. */
    enum { REG = 201, RM = 202, IMM = 203 };
    probe.reg = REG;
    probe.rm = RM;
    probe.imm = IMM;
    interp_hot_handler(cpu, insn, &probe);
    flags |= (probe.reg == RM ? PLAN_SWAP : 0) | (probe.rm == 0 ? PLAN_RM_ZERO : 0) |
             (probe.imm == 1 ? PLAN_IMM_ONE : 0);
    *plan_of(cpu->accel_data, key) = (BindPlan){ .key = key, .flags = flags, .handler = op->handler };
}

bool interp_bind(X86Cpu *cpu, const X86Insn *insn, InterpOp *op, unsigned offset, unsigned page_offset,
                 InterpNative *native)
{
    uint32_t key = cpu->mode & MODE_CS64 ? plan_key(insn) : 0;
    if (key) {
        const BindPlan *plan = plan_of(cpu->accel_data, key);
        if (plan->key == key) {
            op->flags = 0;
            bool ends = plan_apply(plan, insn, op, offset, page_offset);
            if (G_LIKELY(!(op->flags & OP_DISP_WRAPPED))) {
                return ends;
            }
        }
    }

    const X86Form *form = insn->form;
    unsigned code_size = cpu->mode & MODE_CS64 ? 8 : cpu->mode & MODE_CS32 ? 4 : 2;
    bool has_branch = false, ends;
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
        if (form->attrs & X86_ATTR_END) {
            op->handler = interp_h_native_end;
            return true;
        }
        return false;
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
    ends = has_branch || (form->attrs & X86_ATTR_END);
    if (key) {
        plan_make(cpu, key, insn, op, has_branch, ends);
    }
    return ends;
}
