/*
 * Handlers of what runs most in 32-bit code whose segments are flat (MODE_FLAT, MODE_CS32): firmware,
 * loaders, kernels that unpack themselves, 32-bit guests. Addresses are 32 bits wide, so are instructions',
 * and no access checks its segment (but FS and GS, which the general handlers do). As in hot.c, what is not a
 * hit in the TLB goes to the general handler before anything has changed. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "accel/soft/interp/hot.h"

static inline uint64_t hot_address(const X86Cpu *cpu, const InterpOp *op)
{
    return (uint32_t)(reg_value(cpu, op->base) + (reg_value(cpu, op->index) << op->scale) +
                      (uint64_t)(int64_t)op->disp);
}

#define FOR_SIZES_32(M, ...)          \
    M(8, uint8_t, "b", __VA_ARGS__)   \
    M(16, uint16_t, "w", __VA_ARGS__) \
    M(32, uint32_t, "l", __VA_ARGS__)

/* ---- arithmetic and moves ---- */
#define ROW(name, shape)                                           \
    {                                                              \
        name##_##shape##8, name##_##shape##16, name##_##shape##32, \
    }
#define MEMORY_ALL(make, name)                                           \
    FOR_SIZES_32(make, name)                                             \
    static InterpHandler *const table_##name[SHAPES][3] = {              \
        [RM] = ROW(name, rm), [MR] = ROW(name, mr), [MI] = ROW(name, mi) \
    };
MEMORY_ALL(ALU_MODIFY_MEMORY, add)
MEMORY_ALL(ALU_MODIFY_MEMORY, or)
MEMORY_ALL(ALU_MODIFY_MEMORY, adc)
MEMORY_ALL(ALU_MODIFY_MEMORY, sbb)
MEMORY_ALL(ALU_MODIFY_MEMORY, and)
MEMORY_ALL(ALU_MODIFY_MEMORY, sub)
MEMORY_ALL(ALU_MODIFY_MEMORY, xor)
MEMORY_ALL(ALU_COMPARE_MEMORY, cmp)
MEMORY_ALL(ALU_COMPARE_MEMORY, test)
MEMORY_ALL(MOVE_MEMORY, mov)

#define UNARY_ALL(name)                  \
    FOR_SIZES_32(ALU_UNARY_MEMORY, name) \
    static InterpHandler *const table_##name[3] = ROW(name, m);
UNARY_ALL(inc)
UNARY_ALL(dec)
UNARY_ALL(neg)
UNARY_ALL(not )

EXTEND_MEMORY(movzx8, uint8_t, 32, uint8_t)
EXTEND_MEMORY(movzx16, uint16_t, 32, uint16_t)
EXTEND_MEMORY(movsx8, uint8_t, 32, int8_t)
EXTEND_MEMORY(movsx16, uint16_t, 32, int16_t)

/* AL or EAX and a place whose address is in the instruction. */
#define MOVE_OFFSET(bits, type, suffix, name)           \
    HANDLER(name##_ao##bits)                            \
    {                                                   \
        HOST_AT(type, p, (uint32_t)op->imm, MMU_READ);  \
        SET##bits(R_RAX, *p);                           \
        NEXT();                                         \
    }                                                   \
    HANDLER(name##_oa##bits)                            \
    {                                                   \
        HOST_AT(type, p, (uint32_t)op->imm, MMU_WRITE); \
        *p = GET##bits(R_RAX);                          \
        NEXT();                                         \
    }
FOR_SIZES_32(MOVE_OFFSET, mov)
static InterpHandler *const table_offset[2][3] = { ROW(mov, ao), ROW(mov, oa) };

HANDLER(lea)
{
    SET32(op->reg, hot_address(cpu, op));
    NEXT();
}

/* ---- the stack ---- */
static inline uint32_t stack_below(const X86Cpu *cpu)
{
    return (uint32_t)cpu->regs[R_RSP] - 4;
}
/* ESP moves; what was above it in RSP stays. */
static inline void set_esp(X86Cpu *cpu, uint64_t value)
{
    cpu->regs[R_RSP] = (cpu->regs[R_RSP] & ~(uint64_t)UINT32_MAX) | (uint32_t)value;
}
HANDLER(push_r)
{
    HOST_AT(uint32_t, p, stack_below(cpu), MMU_WRITE);
    *p = GET32(op->rm);
    set_esp(cpu, p_linear);
    NEXT();
}
HANDLER(push_i)
{
    HOST_AT(uint32_t, p, stack_below(cpu), MMU_WRITE);
    *p = (uint32_t)op->imm;
    set_esp(cpu, p_linear);
    NEXT();
}
HANDLER(push_m)
{
    HOST(uint32_t, q, MMU_READ);
    HOST_AT(uint32_t, p, stack_below(cpu), MMU_WRITE);
    *p = *q;
    set_esp(cpu, p_linear);
    NEXT();
}
HANDLER(pop_r)
{
    HOST_AT(uint32_t, p, (uint32_t)cpu->regs[R_RSP], MMU_READ);
    uint32_t value = *p;
    set_esp(cpu, p_linear + 4);
    SET32(op->rm, value);
    NEXT();
}
HANDLER(leave)
{
    HOST_AT(uint32_t, p, (uint32_t)cpu->regs[R_RBP], MMU_READ);
    set_esp(cpu, p_linear + 4);
    SET32(R_RBP, *p);
    NEXT();
}

/* ---- branches ---- */
HANDLER(jmp)
{
    FOLLOW(taken, taken_near, (uint32_t)(cpu->rip + (uint64_t)op->imm));
}
HANDLER(jmp_r)
{
    JUMP_TO(GET32(op->rm));
}
HANDLER(call)
{
    HOST_AT(uint32_t, p, stack_below(cpu), MMU_WRITE);
    *p = (uint32_t)(cpu->rip + (uint64_t)(int64_t)op->disp);
    set_esp(cpu, p_linear);
    FOLLOW(taken, taken_near, (uint32_t)(cpu->rip + (uint64_t)op->imm));
}
HANDLER(call_r)
{
    uint32_t target = GET32(op->rm);
    HOST_AT(uint32_t, p, stack_below(cpu), MMU_WRITE);
    *p = (uint32_t)(cpu->rip + op->offset + op->length);
    set_esp(cpu, p_linear);
    JUMP_TO(target);
}
HANDLER(ret)
{
    HOST_AT(uint32_t, p, (uint32_t)cpu->regs[R_RSP], MMU_READ);
    uint32_t target = *p;
    set_esp(cpu, p_linear + 4 + (uint64_t)op->imm);
    JUMP_TO(target);
}

#define JCC(cond, test, ...)        \
    HANDLER(j##cond)                \
    {                               \
        BRANCH(op, test, uint32_t); \
    }
FOR_CONDITIONS(JCC, )
#define JCC_ENTRY(cond, test, ...) j##cond,
static InterpHandler *const table_jcc[16] = { FOR_CONDITIONS(JCC_ENTRY, ) };

bool interp_hot_flat_is_jcc(const InterpOp *op)
{
    for (unsigned i = 0; i < 16; i++) {
        if (op->handler == table_jcc[i]) {
            return true;
        }
    }
    return false;
}

/* ---- choosing ---- */
static InterpHandler *const (*two_operands(unsigned mnemonic))[3]
{
    switch (mnemonic) {
    case X86_ADD:
        return table_add;
    case X86_OR:
        return table_or;
    case X86_ADC:
        return table_adc;
    case X86_SBB:
        return table_sbb;
    case X86_AND:
        return table_and;
    case X86_SUB:
        return table_sub;
    case X86_XOR:
        return table_xor;
    case X86_CMP:
        return table_cmp;
    case X86_TEST:
        return table_test;
    case X86_MOV:
        return table_mov;
    default:
        return NULL;
    }
}

static InterpHandler *of_memory(const X86Insn *insn, InterpOp *op)
{
    const X86Form *form = insn->form;
    unsigned bytes = form->operand_count ? x86_operand_bytes(insn, &form->operands[0]) : 0;
    unsigned size = bytes ? (unsigned)__builtin_ctz(bytes) : 0;
    InterpHandler *const(*table)[3] = two_operands(form->mnemonic);

    if (table) {
        int shape = interp_hot_shape(insn, op, true);
        return shape < 0 || size > 2 ? NULL : table[shape][size];
    }
    switch (form->mnemonic) {
    case X86_INC:
        return table_inc[size];
    case X86_DEC:
        return table_dec[size];
    case X86_NEG:
        return table_neg[size];
    case X86_NOT:
        return table_not[size];
    case X86_MOVZX:
        bytes = x86_operand_bytes(insn, &form->operands[1]);
        return insn->operand_size != 4 ? NULL : bytes == 1 ? movzx8_m : movzx16_m;
    case X86_MOVSX:
        bytes = x86_operand_bytes(insn, &form->operands[1]);
        return insn->operand_size != 4 ? NULL : bytes == 1 ? movsx8_m : movsx16_m;
    case X86_LEA:
        return insn->operand_size == 4 ? lea : NULL;
    default:
        return NULL;
    }
}

/* MOV between AL, AX or EAX and an offset. */
static InterpHandler *of_offset(const X86Insn *insn)
{
    const X86Form *form = insn->form;

    if (form->mnemonic != X86_MOV || form->operand_count != 2 || insn->address_size != 4 ||
        insn->segment >= SEG_FS) {
        return NULL;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (form->operands[i].kind == X86_OPERAND_O) {
            unsigned size = (unsigned)__builtin_ctz(x86_operand_bytes(insn, &form->operands[i]));
            return size > 2 ? NULL : table_offset[i == 0][size];
        }
    }
    return NULL;
}

/* With operands of 32 bits and, of those that use the stack, a stack of 32 bits. */
static InterpHandler *of_control(const X86Insn *insn, bool stack32, bool memory_ok)
{
    const X86Form *form = insn->form;

    switch (form->mnemonic) {
    case X86_JMP:
        return jmp;
    case X86_JMP_IND:
        return insn->is_memory ? NULL : jmp_r;
    default:
        break;
    }
    if ((form->map == 0 && (form->opcode & 0xf0) == 0x70) ||
        (form->map == 1 && (form->opcode & 0xf0) == 0x80)) {
        return table_jcc[form->opcode & 15];
    }
    if (!stack32) {
        return NULL;
    }
    switch (form->mnemonic) {
    case X86_PUSH:
        if (form->operands[0].kind == X86_OPERAND_I) {
            return push_i;
        }
        return !insn->is_memory ? push_r : memory_ok ? push_m : NULL;
    case X86_POP:
        return insn->is_memory ? NULL : pop_r;
    case X86_LEAVE:
        return leave;
    case X86_CALL:
        return call;
    case X86_CALL_IND:
        return insn->is_memory ? NULL : call_r;
    case X86_RET:
        return ret;
    default:
        return NULL;
    }
}

InterpHandler *interp_hot_flat(const X86Cpu *cpu, const X86Insn *insn, InterpOp *op)
{
    bool memory_ok = insn->is_memory && insn->address_size == 4 && insn->segment < SEG_FS;
    InterpHandler *h = NULL;

    if (insn->operand_size == 4) {
        h = of_control(insn, cpu->mode & MODE_SS32, memory_ok);
    }
    h = h || !memory_ok ? h : of_memory(insn, op);
    return h ? h : of_offset(insn);
}
