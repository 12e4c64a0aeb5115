/*
 * What the handlers of hot.c and hot_flat.c are made from: hosts' pointers to operands, and templates of
 * handlers with an operand in memory. The file that includes this says by hot_address() what an operand's
 * address is there. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_INTERP_HOT_H
#define RHEA_ACCEL_SOFT_INTERP_HOT_H

#include "accel/soft/interp/alu.h"
#include "accel/soft/interp/ops.h"

static inline uint64_t hot_address(const X86Cpu *cpu, const InterpOp *op);

#define SLOW()                             \
    do {                                   \
        interp_generic[op->form](cpu, op); \
        return;                            \
    } while (0)

#define TYPE8  uint8_t
#define TYPE16 uint16_t
#define TYPE32 uint32_t
#define TYPE64 uint64_t

#define GET8(n)     (*reg8(cpu, n))
#define GET16(n)    (*reg16(cpu, n))
#define GET32(n)    (*reg32(cpu, n))
#define GET64(n)    (*reg64(cpu, n))
#define SET8(n, v)  (*reg8(cpu, n) = (uint8_t)(v))
#define SET16(n, v) (*reg16(cpu, n) = (uint16_t)(v))
#define SET32(n, v) (*reg64(cpu, n) = (uint32_t)(v))
#define SET64(n, v) (*reg64(cpu, n) = (uint64_t)(v))

/* Declares name, the host pointer to an operand, or leaves for the general handler. */
#define HOST_AT(type, name, address, access)                                                            \
    uint64_t name##_linear = (address);                                                                 \
    const TlbEntry *name##_tlb = (const TlbEntry *)cpu->tlb + ((name##_linear >> 12) & (TLB_SIZE - 1)); \
    if (G_UNLIKELY(name##_linear - name##_tlb->tag[access] > 4096 - sizeof(type))) {                    \
        SLOW();                                                                                         \
    }                                                                                                   \
    HostUnaligned_##type *name = (HostUnaligned_##type *)(name##_linear + (uint64_t)name##_tlb->addend)
#define HOST(type, name, access) HOST_AT(type, name, hot_address(cpu, op), access)
typedef uint8_t HostUnaligned_uint8_t __attribute__((may_alias));
typedef uint16_t HostUnaligned_uint16_t __attribute__((aligned(1), may_alias));
typedef uint32_t HostUnaligned_uint32_t __attribute__((aligned(1), may_alias));
typedef uint64_t HostUnaligned_uint64_t __attribute__((aligned(1), may_alias));

enum { RR, RI, RM, MR, MI, SHAPES };

/* How the two operands of an ALU form or MOV are given; -1: in no hot way. Afterwards a destination register
 * is op->rm and a source register op->reg. */
int interp_hot_shape(const X86Insn *insn, InterpOp *op, bool memory_ok);
/* hot_flat.c: a handler for 32-bit code in flat segments, or NULL. */
InterpHandler *interp_hot_flat(const X86Cpu *cpu, const X86Insn *insn, InterpOp *op);

/* Whether op is one of its conditional branches. */
bool interp_hot_flat_is_jcc(const InterpOp *op);

/* ---- templates: operands in memory ---- */
#define ALU_MODIFY_MEMORY(bits, type, suffix, name)                             \
    HANDLER(name##_rm##bits)                                                    \
    {                                                                           \
        HOST(type, p, MMU_READ);                                                \
        SET##bits(op->reg, alu_##name##bits(GET##bits(op->reg), *p, &cpu->cc)); \
        NEXT();                                                                 \
    }                                                                           \
    HANDLER(name##_mr##bits)                                                    \
    {                                                                           \
        HOST(type, p, MMU_WRITE);                                               \
        *p = alu_##name##bits(*p, GET##bits(op->reg), &cpu->cc);                \
        NEXT();                                                                 \
    }                                                                           \
    HANDLER(name##_mi##bits)                                                    \
    {                                                                           \
        HOST(type, p, MMU_WRITE);                                               \
        *p = alu_##name##bits(*p, (type)op->imm, &cpu->cc);                     \
        NEXT();                                                                 \
    }
#define ALU_COMPARE_MEMORY(bits, type, suffix, name)        \
    HANDLER(name##_rm##bits)                                \
    {                                                       \
        HOST(type, p, MMU_READ);                            \
        alu_##name##bits(GET##bits(op->reg), *p, &cpu->cc); \
        NEXT();                                             \
    }                                                       \
    HANDLER(name##_mr##bits)                                \
    {                                                       \
        HOST(type, p, MMU_READ);                            \
        alu_##name##bits(*p, GET##bits(op->reg), &cpu->cc); \
        NEXT();                                             \
    }                                                       \
    HANDLER(name##_mi##bits)                                \
    {                                                       \
        HOST(type, p, MMU_READ);                            \
        alu_##name##bits(*p, (type)op->imm, &cpu->cc);      \
        NEXT();                                             \
    }
#define ALU_UNARY_MEMORY(bits, type, suffix, name) \
    HANDLER(name##_m##bits)                        \
    {                                              \
        HOST(type, p, MMU_WRITE);                  \
        *p = alu_##name##bits(*p, 0, &cpu->cc);    \
        NEXT();                                    \
    }
#define MOVE_MEMORY(bits, type, suffix, name) \
    HANDLER(name##_rm##bits)                  \
    {                                         \
        HOST(type, p, MMU_READ);              \
        SET##bits(op->reg, *p);               \
        NEXT();                               \
    }                                         \
    HANDLER(name##_mr##bits)                  \
    {                                         \
        HOST(type, p, MMU_WRITE);             \
        *p = GET##bits(op->reg);              \
        NEXT();                               \
    }                                         \
    HANDLER(name##_mi##bits)                  \
    {                                         \
        HOST(type, p, MMU_WRITE);             \
        *p = (type)op->imm;                   \
        NEXT();                               \
    }
/* Extensions: from a smaller place in memory into 32 or 64 bits. */
#define EXTEND_MEMORY(name, from_type, to_bits, cast) \
    HANDLER(name##_m)                                 \
    {                                                 \
        HOST(from_type, p, MMU_READ);                 \
        SET##to_bits(op->reg, (cast)*p);              \
        NEXT();                                       \
    }

/* ---- templates: branches ---- */
/* Conditions in the order of their codes, by the host's names and by cpu->cc. */
#define CC_LESS (((cpu->cc >> 15) ^ cpu->cc) & 1)
#define FOR_CONDITIONS(M, ...)                         \
    M(o, (cpu->cc & CC_OF), __VA_ARGS__)               \
    M(no, !(cpu->cc & CC_OF), __VA_ARGS__)             \
    M(b, (cpu->cc & CC_CF), __VA_ARGS__)               \
    M(ae, !(cpu->cc & CC_CF), __VA_ARGS__)             \
    M(e, (cpu->cc & CC_ZF), __VA_ARGS__)               \
    M(ne, !(cpu->cc & CC_ZF), __VA_ARGS__)             \
    M(be, (cpu->cc & (CC_CF | CC_ZF)), __VA_ARGS__)    \
    M(a, !(cpu->cc & (CC_CF | CC_ZF)), __VA_ARGS__)    \
    M(s, (cpu->cc & CC_SF), __VA_ARGS__)               \
    M(ns, !(cpu->cc & CC_SF), __VA_ARGS__)             \
    M(p, (cpu->cc & CC_PF), __VA_ARGS__)               \
    M(np, !(cpu->cc & CC_PF), __VA_ARGS__)             \
    M(l, CC_LESS, __VA_ARGS__)                         \
    M(ge, !CC_LESS, __VA_ARGS__)                       \
    M(le, (CC_LESS || (cpu->cc & CC_ZF)), __VA_ARGS__) \
    M(g, !(CC_LESS || (cpu->cc & CC_ZF)), __VA_ARGS__)

/* The branch may be op itself or the operation behind it; ip: what an instruction's address is cut to. */
#define BRANCH(branch, condition, ip)                                     \
    do {                                                                  \
        const InterpOp *branch_ = (branch);                               \
        InterpLink *link_ = (InterpLink *)(branch_ + 1);                  \
        if (condition) {                                                  \
            Block *target_ = link_->taken;                                \
            cpu->rip = (ip)(cpu->rip + (uint64_t)branch_->imm);           \
            if (G_LIKELY(target_ != NULL) && !interrupt_wanted(cpu)) {    \
                TAIL(target_->ops);                                       \
            }                                                             \
            interp_link(cpu, &link_->taken, link_->taken_near);           \
        } else {                                                          \
            Block *target_ = link_->fall;                                 \
            cpu->rip = (ip)(cpu->rip + (uint64_t)(int64_t)branch_->disp); \
            if (G_LIKELY(target_ != NULL) && !interrupt_wanted(cpu)) {    \
                TAIL(target_->ops);                                       \
            }                                                             \
            interp_link(cpu, &link_->fall, link_->fall_near);             \
        }                                                                 \
        return;                                                           \
    } while (0)

/* A flag setter and the conditional branch behind it. left and right are expressions; prepare declares what
 * they need. */
#define FUSED(cond, test, name, ip, insn, suffix, bits, prepare, left, right) \
    HANDLER(fused_##name##_##cond)                                            \
    {                                                                         \
        uint32_t f;                                                           \
        bool taken;                                                           \
        prepare;                                                              \
        __asm__(insn suffix " %3, %2" SAVE_FLAGS                              \
                : "=&a"(f), "=@cc" #cond(taken)                               \
                : "r"((TYPE##bits)(left)), "r"((TYPE##bits)(right)));         \
        cpu->cc = (uint16_t)f;                                                \
        BRANCH(op + 1, taken, ip);                                            \
    }
#define FUSED_ENTRY(cond, test, name, ...) fused_##name##_##cond,
#define FUSED_ALL(name, ...)                 \
    FOR_CONDITIONS(FUSED, name, __VA_ARGS__) \
    static InterpHandler *const table_fused_##name[16] = { FOR_CONDITIONS(FUSED_ENTRY, name, __VA_ARGS__) };
#endif
