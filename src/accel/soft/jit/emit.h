/*
 * The assembler of the translator: host x86-64 instructions into a buffer. Encodings after SDM vol. 2
 * chapter 2. Every function appends; when the buffer is full nothing more is written and `overflow` is set,
 * which the translator checks once a block. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_JIT_EMIT_H
#define RHEA_ACCEL_SOFT_JIT_EMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct Asm {
    uint8_t *p, *end; /* where it is written (the writable mapping) */
    bool overflow;
} Asm;

/* A host memory operand: [base + index << scale + disp]. -1: no register. */
typedef struct HostMem {
    int8_t base, index;
    uint8_t scale;
    int32_t disp;
} HostMem;

enum {
    H_RAX,
    H_RCX,
    H_RDX,
    H_RBX,
    H_RSP,
    H_RBP,
    H_RSI,
    H_RDI,
    H_R8,
    H_R9,
    H_R10,
    H_R11,
    H_R12,
    H_R13,
    H_R14,
    H_R15
};

/* Condition codes as in Jcc's opcode. */
enum { CC_O_ = 0, CC_B = 2, CC_AE = 3, CC_E = 4, CC_NE = 5, CC_BE = 6, CC_A = 7, CC_S = 8, CC_NS = 9 };

static inline HostMem mem_base(int base, int64_t disp)
{
    return (HostMem){ .base = (int8_t)base, .index = -1, .disp = (int32_t)disp };
}
static inline HostMem mem_index(int base, int index, unsigned scale, int64_t disp)
{
    return (HostMem){
        .base = (int8_t)base, .index = (int8_t)index, .scale = (uint8_t)scale, .disp = (int32_t)disp
    };
}

static inline void a_byte(Asm *a, unsigned b)
{
    if (a->p < a->end) {
        *a->p++ = (uint8_t)b;
    } else {
        a->overflow = true;
    }
}
static inline void a_bytes(Asm *a, const void *bytes, unsigned n)
{
    if ((size_t)(a->end - a->p) >= n) {
        memcpy(a->p, bytes, n);
        a->p += n;
    } else {
        a->overflow = true;
        a->p = a->end;
    }
}
static inline void a_u32(Asm *a, uint32_t v)
{
    a_bytes(a, &v, 4);
}
static inline void a_u64(Asm *a, uint64_t v)
{
    a_bytes(a, &v, 8);
}

/* The REX bits that a memory operand asks for: X in bit 1, B in bit 0. */
static inline unsigned mem_rex(const HostMem *m)
{
    return (m->index > 7 ? 2u : 0) | (m->base > 7 ? 1u : 0);
}

/*
 * An instruction is put together behind a pointer that the compiler keeps in a register: a_begin gives room
 * for A_INSN bytes, a_end takes what was written. Where the buffer is full it goes to `spare` and is lost.
 */
#define A_INSN 16
static inline uint8_t *a_begin(Asm *a, uint8_t spare[static A_INSN])
{
    if (__builtin_expect(a->end - a->p >= A_INSN, 1)) {
        return a->p;
    }
    a->overflow = true;
    a->p = a->end;
    return spare;
}
static inline void a_end(Asm *a, uint8_t *p)
{
    if (__builtin_expect(!a->overflow, 1)) {
        a->p = p;
    }
}
static inline uint8_t *put_u32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
    return p + 4;
}

/* ModRM, SIB and displacement of a memory operand; reg: the ModRM.reg field's low three bits. */
static inline uint8_t *put_modrm_mem(uint8_t *p, unsigned reg, const HostMem *m, bool disp8)
{
    reg = (reg & 7) << 3;
    if (m->base < 0) {
        /* no base: SIB with base 5 and mod 0 */
        *p++ = (uint8_t)(reg | 4);
        *p++ = (uint8_t)((unsigned)m->scale << 6 | (m->index < 0 ? 4u : (unsigned)m->index & 7) << 3 | 5);
        return put_u32(p, (uint32_t)m->disp);
    }
    bool need_sib = m->index >= 0 || (m->base & 7) == 4;
    unsigned mod = m->disp == 0 && (m->base & 7) != 5           ? 0
                   : disp8 && m->disp >= -128 && m->disp <= 127 ? 1
                                                                : 2;
    *p++ = (uint8_t)(mod << 6 | reg | (need_sib ? 4u : (unsigned)m->base & 7));
    if (need_sib) {
        *p++ = (uint8_t)((unsigned)m->scale << 6 | (m->index < 0 ? 4u : (unsigned)m->index & 7) << 3 |
                         ((unsigned)m->base & 7));
    }
    if (mod == 1) {
        *p++ = (uint8_t)m->disp;
    } else if (mod == 2) {
        p = put_u32(p, (uint32_t)m->disp);
    }
    return p;
}

static inline uint8_t *put_rex_and_opcode(uint8_t *p, unsigned rex, unsigned opcode)
{
    if (rex) {
        *p++ = (uint8_t)(0x40 | rex);
    }
    if (opcode > 0xff) {
        *p++ = (uint8_t)(opcode >> 8);
    }
    *p++ = (uint8_t)opcode;
    return p;
}

static inline void a_op_any_mem(Asm *a, bool w, unsigned opcode, unsigned reg, HostMem m)
{
    uint8_t spare[A_INSN], *p = a_begin(a, spare);
    unsigned rex = (w ? 8u : 0) | (reg > 7 ? 4u : 0) | mem_rex(&m);
    a_end(a, put_modrm_mem(put_rex_and_opcode(p, rex, opcode), reg, &m, true));
}
/* op reg, mem with an optional REX.W; opcode: up to two bytes, 0x0fXX for two-byte ones. Where all of it is
 * known to the compiler, a few stores are left of it. */
static inline __attribute__((always_inline)) void a_op_mem(Asm *a, bool w, unsigned opcode, unsigned reg,
                                                           HostMem m)
{
    if (__builtin_constant_p(m.base) && __builtin_constant_p(m.index) && __builtin_constant_p(m.disp) &&
        __builtin_constant_p(opcode) && __builtin_constant_p(reg) && __builtin_constant_p(w)) {
        uint8_t spare[A_INSN], *p = a_begin(a, spare);
        unsigned rex = (w ? 8u : 0) | (reg > 7 ? 4u : 0) | mem_rex(&m);
        a_end(a, put_modrm_mem(put_rex_and_opcode(p, rex, opcode), reg, &m, true));
    } else {
        a_op_any_mem(a, w, opcode, reg, m);
    }
}
/* op with register rm. */
static inline void a_op_reg(Asm *a, bool w, unsigned opcode, unsigned reg, unsigned rm)
{
    uint8_t spare[A_INSN], *p = a_begin(a, spare);
    unsigned rex = (w ? 8u : 0) | (reg > 7 ? 4u : 0) | (rm > 7 ? 1u : 0);
    p = put_rex_and_opcode(p, rex, opcode);
    *p++ = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
    a_end(a, p);
}

static inline __attribute__((always_inline)) void a_mov_load(Asm *a, unsigned reg, HostMem m)
{
    a_op_mem(a, true, 0x8b, reg, m);
}
static inline __attribute__((always_inline)) void a_mov_store(Asm *a, HostMem m, unsigned reg)
{
    a_op_mem(a, true, 0x89, reg, m);
}
static inline void a_mov_reg(Asm *a, unsigned to, unsigned from)
{
    if (to != from) {
        a_op_reg(a, true, 0x8b, to, from);
    }
}
static inline __attribute__((always_inline)) void a_lea(Asm *a, unsigned reg, HostMem m)
{
    a_op_mem(a, true, 0x8d, reg, m);
}
static inline void a_mov_imm32(Asm *a, unsigned reg, uint32_t v)
{
    uint8_t spare[A_INSN], *p = a_begin(a, spare);
    p = put_rex_and_opcode(p, reg > 7 ? 1 : 0, 0xb8 | (reg & 7));
    a_end(a, put_u32(p, v));
}
static inline void a_mov_imm64(Asm *a, unsigned reg, uint64_t v)
{
    uint8_t spare[A_INSN], *p = a_begin(a, spare);
    p = put_rex_and_opcode(p, 8 | (reg > 7 ? 1u : 0), 0xb8 | (reg & 7));
    memcpy(p, &v, 8);
    a_end(a, p + 8);
}
/* mov dword [m], imm32 */
static inline void a_mov_mem_imm32(Asm *a, HostMem m, uint32_t v)
{
    a_op_mem(a, false, 0xc7, 0, m);
    a_u32(a, v);
}
/* The group-1 operations with imm32: 0 add, 1 or, 4 and, 5 sub, 6 xor, 7 cmp. */
static inline void a_alu_imm(Asm *a, bool w, unsigned op, unsigned reg, int32_t imm)
{
    if (imm >= -128 && imm <= 127) {
        a_op_reg(a, w, 0x83, op, reg);
        a_byte(a, (uint8_t)imm);
    } else {
        a_op_reg(a, w, 0x81, op, reg);
        a_u32(a, (uint32_t)imm);
    }
}
static inline void a_shr_imm(Asm *a, bool w, unsigned reg, unsigned count)
{
    a_op_reg(a, w, 0xc1, 5, reg);
    a_byte(a, count);
}
static inline void a_shl_imm(Asm *a, bool w, unsigned reg, unsigned count)
{
    a_op_reg(a, w, 0xc1, 4, reg);
    a_byte(a, count);
}

/* to = from rotated right by count; BMI2. Leaves the flags alone. */
static inline void a_rorx(Asm *a, unsigned to, unsigned from, unsigned count)
{
    uint8_t spare[A_INSN], *p = a_begin(a, spare);
    *p++ = 0xc4;
    *p++ = (uint8_t)((to > 7 ? 0 : 0x80u) | 0x40 | (from > 7 ? 0 : 0x20u) | 3);
    *p++ = 0xfb;
    *p++ = 0xf0;
    *p++ = (uint8_t)(0xc0 | (to & 7) << 3 | (from & 7));
    *p++ = (uint8_t)count;
    a_end(a, p);
}

/* to = from >> count, a register (its low six bits); BMI2. Leaves the flags alone. */
static inline void a_shrx(Asm *a, unsigned to, unsigned from, unsigned count)
{
    uint8_t spare[A_INSN], *p = a_begin(a, spare);
    *p++ = 0xc4;
    *p++ = (uint8_t)((to > 7 ? 0 : 0x80u) | 0x40 | (from > 7 ? 0 : 0x20u) | 2);
    *p++ = (uint8_t)(0x80 | (~count & 15) << 3 | 3);
    *p++ = 0xf7;
    *p++ = (uint8_t)(0xc0 | (to & 7) << 3 | (from & 7));
    a_end(a, p);
}

/* Jumps and calls; target: an address in the same mapping as a->p. */
static inline void a_rel32(Asm *a, const uint8_t *target)
{
    a_u32(a, (uint32_t)(target - (a->p + 4)));
}
static inline void a_jmp(Asm *a, const uint8_t *target)
{
    a_byte(a, 0xe9);
    a_rel32(a, target);
}
static inline void a_call(Asm *a, const uint8_t *target)
{
    a_byte(a, 0xe8);
    a_rel32(a, target);
}
/* Returns where the rel32 lies, to be bound later. */
static inline uint8_t *a_jcc_forward(Asm *a, unsigned cc)
{
    a_byte(a, 0x0f);
    a_byte(a, 0x80 | cc);
    a_u32(a, 0);
    return a->p - 4;
}
static inline uint8_t *a_jmp_forward(Asm *a)
{
    a_byte(a, 0xe9);
    a_u32(a, 0);
    return a->p - 4;
}
static inline void a_bind_to(uint8_t *rel, const uint8_t *target)
{
    int32_t d = (int32_t)(target - (rel + 4));
    memcpy(rel, &d, 4);
}
static inline void a_bind(Asm *a, uint8_t *rel)
{
    if (!a->overflow && rel) {
        a_bind_to(rel, a->p);
    }
}
static inline void a_align(Asm *a, unsigned align)
{
    while ((uintptr_t)a->p & (align - 1)) {
        a_byte(a, 0x90);
    }
}

#endif
