/*
 * Handlers of the forms that run most, one per operand kind and size. Memory operands here mean 64-bit code
 * with 64-bit addresses and no FS or GS; hot_flat.c has those of flat 32-bit code. They never fault: whatever
 * is not a hit in the TLB tail-calls the form's general handler, before anything has changed.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/hot.h"

static inline uint64_t hot_address(const X86Cpu *cpu, const InterpOp *op)
{
    return reg_value(cpu, op->base) + (reg_value(cpu, op->index) << op->scale) + (uint64_t)(int64_t)op->disp;
}
static inline uint64_t hot_address_segment(const X86Cpu *cpu, const InterpOp *op)
{
    return hot_address(cpu, op) + cpu->segs[op->segment].base;
}

/* ---- two-operand arithmetic ---- */
#define ALU_MODIFY(bits, type, suffix, name)                                                  \
    HANDLER(name##_rr##bits)                                                                  \
    {                                                                                         \
        SET##bits(op->rm, alu_##name##bits(GET##bits(op->rm), GET##bits(op->reg), &cpu->cc)); \
        NEXT();                                                                               \
    }                                                                                         \
    HANDLER(name##_ri##bits)                                                                  \
    {                                                                                         \
        SET##bits(op->rm, alu_##name##bits(GET##bits(op->rm), (type)op->imm, &cpu->cc));      \
        NEXT();                                                                               \
    }                                                                                         \
    ALU_MODIFY_MEMORY(bits, type, suffix, name)
#define ALU_COMPARE(bits, type, suffix, name)                              \
    HANDLER(name##_rr##bits)                                               \
    {                                                                      \
        alu_##name##bits(GET##bits(op->rm), GET##bits(op->reg), &cpu->cc); \
        NEXT();                                                            \
    }                                                                      \
    HANDLER(name##_ri##bits)                                               \
    {                                                                      \
        alu_##name##bits(GET##bits(op->rm), (type)op->imm, &cpu->cc);      \
        NEXT();                                                            \
    }                                                                      \
    ALU_COMPARE_MEMORY(bits, type, suffix, name)
#define SIZE_ROW(name, shape)                                                         \
    {                                                                                 \
        name##_##shape##8, name##_##shape##16, name##_##shape##32, name##_##shape##64 \
    }
#define ALU_TABLE(name)                                                                             \
    static InterpHandler *const table_##name[SHAPES][4] = { SIZE_ROW(name, rr), SIZE_ROW(name, ri), \
                                                            SIZE_ROW(name, rm), SIZE_ROW(name, mr), \
                                                            SIZE_ROW(name, mi) };
#define ALU_ALL(make, name) \
    FOR_SIZES(make, name)   \
    ALU_TABLE(name)
ALU_ALL(ALU_MODIFY, add)
ALU_ALL(ALU_MODIFY, or)
ALU_ALL(ALU_MODIFY, adc)
ALU_ALL(ALU_MODIFY, sbb)
ALU_ALL(ALU_MODIFY, and)
ALU_ALL(ALU_MODIFY, sub)
ALU_ALL(ALU_MODIFY, xor)
ALU_ALL(ALU_COMPARE, cmp)
ALU_ALL(ALU_COMPARE, test)

/* ---- one operand: register or memory ---- */
#define ALU_UNARY(bits, type, suffix, name)                                  \
    HANDLER(name##_r##bits)                                                  \
    {                                                                        \
        SET##bits(op->rm, alu_##name##bits(GET##bits(op->rm), 0, &cpu->cc)); \
        NEXT();                                                              \
    }                                                                        \
    ALU_UNARY_MEMORY(bits, type, suffix, name)
#define UNARY_ALL(name)        \
    FOR_SIZES(ALU_UNARY, name) \
    static InterpHandler *const table_##name[2][4] = { SIZE_ROW(name, r), SIZE_ROW(name, m) };
UNARY_ALL(inc)
UNARY_ALL(dec)
UNARY_ALL(neg)
UNARY_ALL(not )

/* ---- shifts of registers: by imm (1 included) or CL ---- */
#define ALU_SHIFT(bits, type, suffix, name)                                              \
    HANDLER(name##_i##bits)                                                              \
    {                                                                                    \
        SET##bits(op->rm, alu_##name##bits(GET##bits(op->rm), (type)op->imm, &cpu->cc)); \
        NEXT();                                                                          \
    }                                                                                    \
    HANDLER(name##_c##bits)                                                              \
    {                                                                                    \
        SET##bits(op->rm, alu_##name##bits(GET##bits(op->rm), (type)GET8(8), &cpu->cc)); \
        NEXT();                                                                          \
    }
#define SHIFT_ALL(name)        \
    FOR_SIZES(ALU_SHIFT, name) \
    static InterpHandler *const table_##name[2][4] = { SIZE_ROW(name, i), SIZE_ROW(name, c) };
SHIFT_ALL(rol)
SHIFT_ALL(ror)
SHIFT_ALL(shl)
SHIFT_ALL(shr)
SHIFT_ALL(sar)

/* ---- moves ---- */
#define MOVES(bits, type, suffix, name)                            \
    HANDLER(name##_rr##bits)                                       \
    {                                                              \
        SET##bits(op->rm, GET##bits(op->reg));                     \
        NEXT();                                                    \
    }                                                              \
    HANDLER(name##_ri##bits)                                       \
    {                                                              \
        SET##bits(op->rm, op->imm);                                \
        NEXT();                                                    \
    }                                                              \
    HANDLER(name##_rs##bits)                                       \
    {                                                              \
        HOST_AT(type, p, hot_address_segment(cpu, op), MMU_READ);  \
        SET##bits(op->reg, *p);                                    \
        NEXT();                                                    \
    }                                                              \
    HANDLER(name##_sr##bits)                                       \
    {                                                              \
        HOST_AT(type, p, hot_address_segment(cpu, op), MMU_WRITE); \
        *p = GET##bits(op->reg);                                   \
        NEXT();                                                    \
    }                                                              \
    MOVE_MEMORY(bits, type, suffix, name)
FOR_SIZES(MOVES, mov)

/* The commonest address by far: a base and a displacement. */
static inline uint64_t hot_address_base(const X86Cpu *cpu, const InterpOp *op)
{
    return reg_value(cpu, op->base) + (uint64_t)(int64_t)op->disp;
}
#define MOVES_BASE(bits, type, suffix, name)                    \
    HANDLER(mov_rb##bits)                                       \
    {                                                           \
        HOST_AT(type, p, hot_address_base(cpu, op), MMU_READ);  \
        SET##bits(op->reg, *p);                                 \
        NEXT();                                                 \
    }                                                           \
    HANDLER(mov_br##bits)                                       \
    {                                                           \
        HOST_AT(type, p, hot_address_base(cpu, op), MMU_WRITE); \
        *p = GET##bits(op->reg);                                \
        NEXT();                                                 \
    }
FOR_SIZES(MOVES_BASE, mov)
ALU_TABLE(mov)
static InterpHandler *const table_mov_base[2][4] = { SIZE_ROW(mov, rb), SIZE_ROW(mov, br) };
static InterpHandler *const table_mov_segment[2][4] = { SIZE_ROW(mov, rs), SIZE_ROW(mov, sr) };

/* Extensions: from a smaller register or memory into 32 or 64 bits. */
#define EXTEND(name, from_bits, from_type, to_bits, cast)    \
    HANDLER(name##_r)                                        \
    {                                                        \
        SET##to_bits(op->reg, (cast)GET##from_bits(op->rm)); \
        NEXT();                                              \
    }                                                        \
    EXTEND_MEMORY(name, from_type, to_bits, cast)            \
    static InterpHandler *const table_##name[2] = { name##_r, name##_m };
EXTEND(movzx8, 8, uint8_t, 64, uint8_t)
EXTEND(movzx16, 16, uint16_t, 64, uint16_t)
EXTEND(movsx8_32, 8, uint8_t, 32, int8_t)
EXTEND(movsx8_64, 8, uint8_t, 64, int8_t)
EXTEND(movsx16_32, 16, uint16_t, 32, int16_t)
EXTEND(movsx16_64, 16, uint16_t, 64, int16_t)
EXTEND(movsx32_64, 32, uint32_t, 64, int32_t)

HANDLER(lea64)
{
    SET64(op->reg, hot_address(cpu, op));
    NEXT();
}
HANDLER(lea32)
{
    SET32(op->reg, hot_address(cpu, op));
    NEXT();
}
HANDLER(lea64_bd)
{
    SET64(op->reg, reg_value(cpu, op->base) + (uint64_t)(int64_t)op->disp);
    NEXT();
}
HANDLER(imul_rr32)
{
    SET32(op->reg, alu_imul32(GET32(op->reg), GET32(op->rm), &cpu->cc));
    NEXT();
}
HANDLER(imul_rr64)
{
    SET64(op->reg, alu_imul64(GET64(op->reg), GET64(op->rm), &cpu->cc));
    NEXT();
}
HANDLER(imul_rri32)
{
    SET32(op->reg, alu_imul32(GET32(op->rm), (uint32_t)op->imm, &cpu->cc));
    NEXT();
}
HANDLER(imul_rri64)
{
    SET64(op->reg, alu_imul64(GET64(op->rm), (uint64_t)op->imm, &cpu->cc));
    NEXT();
}
HANDLER(bt_rr64)
{
    alu_bt64(GET64(op->rm), GET64(op->reg), &cpu->cc);
    NEXT();
}
HANDLER(bt_rr32)
{
    alu_bt32(GET32(op->rm), GET32(op->reg), &cpu->cc);
    NEXT();
}
HANDLER(bt_ri64)
{
    alu_bt64(GET64(op->rm), (uint64_t)op->imm, &cpu->cc);
    NEXT();
}
HANDLER(bt_ri32)
{
    alu_bt32(GET32(op->rm), (uint32_t)op->imm, &cpu->cc);
    NEXT();
}
HANDLER(xchg_rr64)
{
    uint64_t a = GET64(op->rm);
    SET64(op->rm, GET64(op->reg));
    SET64(op->reg, a);
    NEXT();
}
HANDLER(cdqe)
{
    SET64(R_RAX, (int32_t)GET32(R_RAX));
    NEXT();
}

/* ---- the stack, 64-bit ---- */
HANDLER(push_r)
{
    HOST_AT(uint64_t, p, cpu->regs[R_RSP] - 8, MMU_WRITE);
    *p = GET64(op->rm);
    cpu->regs[R_RSP] = p_linear;
    NEXT();
}
HANDLER(push_i)
{
    HOST_AT(uint64_t, p, cpu->regs[R_RSP] - 8, MMU_WRITE);
    *p = (uint64_t)op->imm;
    cpu->regs[R_RSP] = p_linear;
    NEXT();
}
HANDLER(push_m)
{
    HOST(uint64_t, q, MMU_READ);
    HOST_AT(uint64_t, p, cpu->regs[R_RSP] - 8, MMU_WRITE);
    *p = *q;
    cpu->regs[R_RSP] = p_linear;
    NEXT();
}
HANDLER(pop_r)
{
    HOST_AT(uint64_t, p, cpu->regs[R_RSP], MMU_READ);
    uint64_t value = *p;
    cpu->regs[R_RSP] = p_linear + 8;
    SET64(op->rm, value);
    NEXT();
}
HANDLER(leave64)
{
    HOST_AT(uint64_t, p, cpu->regs[R_RBP], MMU_READ);
    cpu->regs[R_RSP] = p_linear + 8;
    cpu->regs[R_RBP] = *p;
    NEXT();
}

/* ---- branches, 64-bit ---- */
HANDLER(jmp64)
{
    FOLLOW(taken, taken_near, cpu->rip + (uint64_t)op->imm);
}
HANDLER(call64)
{
    HOST_AT(uint64_t, p, cpu->regs[R_RSP] - 8, MMU_WRITE);
    *p = cpu->rip + (uint64_t)(int64_t)op->disp;
    cpu->regs[R_RSP] = p_linear;
    FOLLOW(taken, taken_near, cpu->rip + (uint64_t)op->imm);
}
HANDLER(call_r64)
{
    uint64_t target = GET64(op->rm);
    HOST_AT(uint64_t, p, cpu->regs[R_RSP] - 8, MMU_WRITE);
    if (G_UNLIKELY(!is_canonical(target))) {
        SLOW();
    }
    *p = cpu->rip + op->offset + op->length;
    cpu->regs[R_RSP] = p_linear;
    JUMP_TO(target);
}
HANDLER(jmp_r64)
{
    uint64_t target = GET64(op->rm);
    if (G_UNLIKELY(!is_canonical(target))) {
        SLOW();
    }
    JUMP_TO(target);
}
HANDLER(ret64)
{
    HOST_AT(uint64_t, p, cpu->regs[R_RSP], MMU_READ);
    uint64_t target = *p;
    if (G_UNLIKELY(!is_canonical(target))) {
        SLOW();
    }
    cpu->regs[R_RSP] = p_linear + 8 + (uint64_t)op->imm;
    JUMP_TO(target);
}

#define CONDITIONAL(cond, test, ...)                              \
    HANDLER(j##cond##_64)                                         \
    {                                                             \
        BRANCH(op, test, uint64_t);                               \
    }                                                             \
    HANDLER(set##cond##_r)                                        \
    {                                                             \
        SET8(op->rm, !!(test));                                   \
        NEXT();                                                   \
    }                                                             \
    HANDLER(cmov##cond##_32)                                      \
    {                                                             \
        uint32_t value = (test) ? GET32(op->rm) : GET32(op->reg); \
        SET32(op->reg, value);                                    \
        NEXT();                                                   \
    }                                                             \
    HANDLER(cmov##cond##_64)                                      \
    {                                                             \
        uint64_t value = (test) ? GET64(op->rm) : GET64(op->reg); \
        SET64(op->reg, value);                                    \
        NEXT();                                                   \
    }
FOR_CONDITIONS(CONDITIONAL, )
#define JCC_ENTRY(cond, test, ...)    j##cond##_64,
#define SETCC_ENTRY(cond, test, ...)  set##cond##_r,
#define CMOV32_ENTRY(cond, test, ...) cmov##cond##_32,
#define CMOV64_ENTRY(cond, test, ...) cmov##cond##_64,
static InterpHandler *const table_jcc[16] = { FOR_CONDITIONS(JCC_ENTRY, ) };
static InterpHandler *const table_setcc[16] = { FOR_CONDITIONS(SETCC_ENTRY, ) };
static InterpHandler *const table_cmov32[16] = { FOR_CONDITIONS(CMOV32_ENTRY, ) };
static InterpHandler *const table_cmov64[16] = { FOR_CONDITIONS(CMOV64_ENTRY, ) };

/* ---- pairs: a flag setter and the conditional branch behind it ---- */
#define MEMORY(bits_type) HOST(bits_type, p, MMU_READ)
FUSED_ALL(cmp_rr8, uint64_t, "cmp", "b", 8, , GET8(op->rm), GET8(op->reg))
FUSED_ALL(cmp_rr32, uint64_t, "cmp", "l", 32, , GET32(op->rm), GET32(op->reg))
FUSED_ALL(cmp_rr64, uint64_t, "cmp", "q", 64, , GET64(op->rm), GET64(op->reg))
FUSED_ALL(cmp_ri8, uint64_t, "cmp", "b", 8, , GET8(op->rm), op->imm)
FUSED_ALL(cmp_ri32, uint64_t, "cmp", "l", 32, , GET32(op->rm), op->imm)
FUSED_ALL(cmp_ri64, uint64_t, "cmp", "q", 64, , GET64(op->rm), op->imm)
FUSED_ALL(test_rr8, uint64_t, "test", "b", 8, , GET8(op->rm), GET8(op->reg))
FUSED_ALL(test_rr32, uint64_t, "test", "l", 32, , GET32(op->rm), GET32(op->reg))
FUSED_ALL(test_rr64, uint64_t, "test", "q", 64, , GET64(op->rm), GET64(op->reg))
FUSED_ALL(test_ri8, uint64_t, "test", "b", 8, , GET8(op->rm), op->imm)
FUSED_ALL(test_ri32, uint64_t, "test", "l", 32, , GET32(op->rm), op->imm)
FUSED_ALL(cmp_mi8, uint64_t, "cmp", "b", 8, MEMORY(uint8_t), *p, op->imm)
FUSED_ALL(cmp_mi32, uint64_t, "cmp", "l", 32, MEMORY(uint32_t), *p, op->imm)
FUSED_ALL(cmp_mi64, uint64_t, "cmp", "q", 64, MEMORY(uint64_t), *p, op->imm)
FUSED_ALL(test_mi8, uint64_t, "test", "b", 8, MEMORY(uint8_t), *p, op->imm)
FUSED_ALL(cmp_rm32, uint64_t, "cmp", "l", 32, MEMORY(uint32_t), GET32(op->reg), *p)
FUSED_ALL(cmp_rm64, uint64_t, "cmp", "q", 64, MEMORY(uint64_t), GET64(op->reg), *p)
FUSED_ALL(cmp_mr32, uint64_t, "cmp", "l", 32, MEMORY(uint32_t), *p, GET32(op->reg))
FUSED_ALL(cmp_mr64, uint64_t, "cmp", "q", 64, MEMORY(uint64_t), *p, GET64(op->reg))

/* The same in flat 32-bit code. */
FUSED_ALL(flat_cmp_rr8, uint32_t, "cmp", "b", 8, , GET8(op->rm), GET8(op->reg))
FUSED_ALL(flat_cmp_rr32, uint32_t, "cmp", "l", 32, , GET32(op->rm), GET32(op->reg))
FUSED_ALL(flat_cmp_ri8, uint32_t, "cmp", "b", 8, , GET8(op->rm), op->imm)
FUSED_ALL(flat_cmp_ri32, uint32_t, "cmp", "l", 32, , GET32(op->rm), op->imm)
FUSED_ALL(flat_test_rr8, uint32_t, "test", "b", 8, , GET8(op->rm), GET8(op->reg))
FUSED_ALL(flat_test_rr32, uint32_t, "test", "l", 32, , GET32(op->rm), GET32(op->reg))
FUSED_ALL(flat_test_ri8, uint32_t, "test", "b", 8, , GET8(op->rm), op->imm)

static const struct {
    InterpHandler *plain;
    InterpHandler *const *fused; /* [16] */
} pairs[] = {
    { cmp_rr8, table_fused_cmp_rr8 },     { cmp_rr32, table_fused_cmp_rr32 },
    { cmp_rr64, table_fused_cmp_rr64 },   { cmp_ri8, table_fused_cmp_ri8 },
    { cmp_ri32, table_fused_cmp_ri32 },   { cmp_ri64, table_fused_cmp_ri64 },
    { test_rr8, table_fused_test_rr8 },   { test_rr32, table_fused_test_rr32 },
    { test_rr64, table_fused_test_rr64 }, { test_ri8, table_fused_test_ri8 },
    { test_ri32, table_fused_test_ri32 }, { cmp_mi8, table_fused_cmp_mi8 },
    { cmp_mi32, table_fused_cmp_mi32 },   { cmp_mi64, table_fused_cmp_mi64 },
    { test_mi8, table_fused_test_mi8 },   { cmp_rm32, table_fused_cmp_rm32 },
    { cmp_rm64, table_fused_cmp_rm64 },   { cmp_mr32, table_fused_cmp_mr32 },
    { cmp_mr64, table_fused_cmp_mr64 },
}, pairs_flat[] = {
    { cmp_rr8, table_fused_flat_cmp_rr8 }, { cmp_rr32, table_fused_flat_cmp_rr32 },
    { cmp_ri8, table_fused_flat_cmp_ri8 }, { cmp_ri32, table_fused_flat_cmp_ri32 },
    { test_rr8, table_fused_flat_test_rr8 }, { test_rr32, table_fused_flat_test_rr32 },
    { test_ri8, table_fused_flat_test_ri8 },
};

static bool is_jcc(const InterpOp *op)
{
    for (unsigned i = 0; i < 16; i++) {
        if (op->handler == table_jcc[i]) {
            return true;
        }
    }
    return false;
}

bool interp_hot_fuse(InterpOp *previous, const InterpOp *op)
{
    bool flat = interp_hot_flat_is_jcc(op);
    size_t count = flat ? G_N_ELEMENTS(pairs_flat) : G_N_ELEMENTS(pairs);

    if (!flat && !is_jcc(op)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (previous->handler == (flat ? pairs_flat : pairs)[i].plain) {
            previous->handler = (flat ? pairs_flat : pairs)[i].fused[x86_forms[op->form].opcode & 15];
            return true;
        }
    }
    return false;
}

/* ---- choosing ---- */
static InterpHandler *const (*alu_table(unsigned mnemonic))[4]
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

static InterpHandler *const (*shift_table(unsigned mnemonic))[4]
{
    switch (mnemonic) {
    case X86_ROL:
        return table_rol;
    case X86_ROR:
        return table_ror;
    case X86_SHL:
        return table_shl;
    case X86_SHR:
        return table_shr;
    case X86_SAR:
        return table_sar;
    default:
        return NULL;
    }
}

static InterpHandler *const (*unary_table(unsigned mnemonic))[4]
{
    switch (mnemonic) {
    case X86_INC:
        return table_inc;
    case X86_DEC:
        return table_dec;
    case X86_NEG:
        return table_neg;
    case X86_NOT:
        return table_not;
    default:
        return NULL;
    }
}

int interp_hot_shape(const X86Insn *insn, InterpOp *op, bool memory_ok)
{
    const X86Form *form = insn->form;
    uint8_t first = form->operands[0].kind, second = form->operands[1].kind;
    if (insn->is_memory && !memory_ok) {
        return -1;
    }
    if (first == X86_OPERAND_E && second == X86_OPERAND_G) {
        return insn->is_memory ? MR : RR;
    }
    if (first == X86_OPERAND_G && second == X86_OPERAND_E) {
        if (insn->is_memory) {
            return RM;
        }
        uint8_t reg = op->reg;
        op->reg = op->rm;
        op->rm = reg;
        return RR;
    }
    if (first == X86_OPERAND_E && second == X86_OPERAND_I) {
        return insn->is_memory ? MI : RI;
    }
    if (first == X86_OPERAND_Z && second == X86_OPERAND_I) {
        return RI;
    }
    if (first == X86_OPERAND_GPR && second == X86_OPERAND_I) {
        op->rm = 0;
        return RI;
    }
    return -1;
}

static InterpHandler *extension(const X86Insn *insn, bool is_signed)
{
    unsigned from = x86_operand_bytes(insn, &insn->form->operands[1]), to = insn->operand_size;
    if (to == 2) {
        return NULL;
    }
    if (!is_signed) {
        return from == 1 ? table_movzx8[insn->is_memory] : table_movzx16[insn->is_memory];
    }
    switch (from * 16 + to) {
    case 1 * 16 + 4:
        return table_movsx8_32[insn->is_memory];
    case 1 * 16 + 8:
        return table_movsx8_64[insn->is_memory];
    case 2 * 16 + 4:
        return table_movsx16_32[insn->is_memory];
    case 2 * 16 + 8:
        return table_movsx16_64[insn->is_memory];
    case 4 * 16 + 8:
        return table_movsx32_64[insn->is_memory];
    default:
        return NULL;
    }
}

/* Forms that exist in 64-bit code only here. */
static InterpHandler *hot_64(const X86Insn *insn, const InterpOp *op, bool memory_ok)
{
    const X86Form *form = insn->form;
    bool wide = insn->operand_size == 8;
    switch (form->mnemonic) {
    case X86_PUSH:
        if (!wide) {
            return NULL;
        }
        if (form->operands[0].kind == X86_OPERAND_I) {
            return push_i;
        }
        return !insn->is_memory ? push_r : memory_ok ? push_m : NULL;
    case X86_POP:
        return wide && !insn->is_memory ? pop_r : NULL;
    case X86_LEAVE:
        return wide ? leave64 : NULL;
    case X86_JMP:
        return jmp64;
    case X86_CALL:
        return call64;
    case X86_RET:
        return ret64;
    case X86_JMP_IND:
        return insn->is_memory ? NULL : jmp_r64;
    case X86_CALL_IND:
        return insn->is_memory ? NULL : call_r64;
    case X86_LEA:
        if (insn->address_size != 8 || (op->flags & OP_DISP_WRAPPED)) {
            return NULL;
        }
        if (insn->operand_size == 8) {
            return insn->index == X86_REG_NONE ? lea64_bd : lea64;
        }
        return insn->operand_size == 4 ? lea32 : NULL;
    case X86_CBW:
        return wide ? cdqe : NULL;
    default:
        break;
    }
    if ((form->map == 0 && (form->opcode & 0xf0) == 0x70) ||
        (form->map == 1 && (form->opcode & 0xf0) == 0x80)) {
        return table_jcc[form->opcode & 15];
    }
    return NULL;
}

InterpHandler *interp_hot_handler(X86Cpu *cpu, const X86Insn *insn, InterpOp *op)
{
    const X86Form *form = insn->form;
    bool code64 = cpu->mode & MODE_CS64;
    bool address_ok = code64 && insn->address_size == 8 && !(op->flags & OP_DISP_WRAPPED);
    bool memory_ok = address_ok && insn->segment < SEG_FS;
    if ((op->flags & OP_LOCK) || form->space != X86_SPACE_LEGACY) {
        return NULL;
    }
    if (code64) {
        InterpHandler *h = hot_64(insn, op, memory_ok);
        if (h) {
            return h;
        }
    } else if ((cpu->mode & (MODE_FLAT | MODE_CS32)) == (MODE_FLAT | MODE_CS32)) {
        InterpHandler *h = interp_hot_flat(cpu, insn, op);
        if (h) {
            return h;
        }
    }
    unsigned bytes = form->operand_count ? x86_operand_bytes(insn, &form->operands[0]) : 0;
    unsigned size = bytes ? (unsigned)__builtin_ctz(bytes) : 0;
    InterpHandler *const(*table)[4] = alu_table(form->mnemonic);
    if (table) {
        if (form->mnemonic == X86_MOV && insn->is_memory && address_ok && !memory_ok) {
            if (form->operands[1].kind == X86_OPERAND_E) {
                return table_mov_segment[0][size];
            }
            return form->operands[1].kind == X86_OPERAND_G ? table_mov_segment[1][size] : NULL;
        }
        int shape = interp_hot_shape(insn, op, memory_ok);
        if (form->mnemonic == X86_MOV && insn->index == X86_REG_NONE && (shape == RM || shape == MR)) {
            return table_mov_base[shape == MR][size];
        }
        return shape < 0 ? NULL : table[shape][size];
    }
    if (insn->is_memory && !memory_ok) {
        return NULL;
    }
    table = unary_table(form->mnemonic);
    if (table) {
        return table[insn->is_memory][size];
    }
    table = shift_table(form->mnemonic);
    if (table && !insn->is_memory) {
        if (form->operands[1].kind == X86_OPERAND_CONST) {
            op->imm = 1;
        }
        return table[form->operands[1].kind == X86_OPERAND_GPR][size];
    }
    switch (form->mnemonic) {
    case X86_MOVZX:
        return extension(insn, false);
    case X86_MOVSX:
    case X86_MOVSXD:
        return extension(insn, true);
    case X86_IMUL2:
        return insn->is_memory || bytes == 2 ? NULL : bytes == 4 ? imul_rr32 : imul_rr64;
    case X86_IMUL3:
        return insn->is_memory || bytes == 2 ? NULL : bytes == 4 ? imul_rri32 : imul_rri64;
    case X86_BT:
        if (insn->is_memory || bytes == 2) {
            return NULL;
        }
        if (form->operands[1].kind == X86_OPERAND_G) {
            return bytes == 4 ? bt_rr32 : bt_rr64;
        }
        return bytes == 4 ? bt_ri32 : bt_ri64;
    case X86_XCHG:
        return !insn->is_memory && bytes == 8 ? xchg_rr64 : NULL;
    default:
        break;
    }
    if (form->map == 1 && !insn->is_memory) {
        if ((form->opcode & 0xf0) == 0x90 && form->operand_count == 1) {
            return table_setcc[form->opcode & 15];
        }
        if ((form->opcode & 0xf0) == 0x40 && form->operand_count == 2 && bytes >= 4) {
            return (bytes == 4 ? table_cmov32 : table_cmov64)[form->opcode & 15];
        }
    }
    return NULL;
}
