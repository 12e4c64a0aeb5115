/*
 * See case_gen.h. An encoding is drawn from the form's row, decoded by the decoder under test, and then the
 * registers are solved so that the memory operand lies where the case wants it. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "case_gen.h"

#include "arch/x86/cpu.h"

#include <string.h>

void rng_seed(Rng *rng, uint64_t seed)
{
    for (unsigned i = 0; i < 2; i++) { /* splitmix64 */
        uint64_t z = (seed += UINT64_C(0x9e3779b97f4a7c15));
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        rng->s[i] = z ^ (z >> 31);
    }
}

uint64_t rng_next(Rng *rng)
{
    uint64_t a = rng->s[0], b = rng->s[1], sum = a + b; /* xorshift128+ */
    rng->s[0] = b;
    a ^= a << 23;
    rng->s[1] = a ^ b ^ (a >> 18) ^ (b >> 5);
    return sum;
}

/* ---- what the oracle leaves out ---- */

const char *case_form_unfit(const X86Form *form)
{
    for (unsigned i = 0; i < form->operand_count; i++) {
        if ((form->operands[i].kind == X86_OPERAND_S || form->operands[i].kind == X86_OPERAND_SEG) &&
            (form->operands[i].access & X86_ACCESS_W)) {
            return "loads a segment register of the host";
        }
    }
    switch (form->mnemonic) {
    case X86_CPUID:
    case X86_RDTSC:
    case X86_RDTSCP:
    case X86_RDPMC:
    case X86_RDRAND:
    case X86_RDSEED:
    case X86_RDPID:
    case X86_XGETBV:
    case X86_RDPKRU:
    case X86_WRPKRU:
        return "its result is the host's own";
    case X86_SYSCALL:
    case X86_SYSENTER:
    case X86_SYSEXIT: /* #UD in AMD's long mode, else #GP */
    case X86_INT:
    case X86_INT3:
    case X86_INTO:
    case X86_ICEBP:
    case X86_MONITOR:
    case X86_MWAIT:
    case X86_VMCALL:
    case X86_IRET:
    case X86_CALL_FAR:
    case X86_JMP_FAR:
    case X86_RET_FAR:
        return "enters the host's kernel or changes segments";
    case X86_LAR:
    case X86_LSL:
    case X86_VERR:
    case X86_VERW:
    case X86_SGDT:
    case X86_SIDT:
    case X86_SLDT:
    case X86_STR:
    case X86_SMSW:
    case X86_PUSH_SEG:
    case X86_LDS:
    case X86_LES:
    case X86_LSS:
    case X86_LFS:
    case X86_LGS:
    case X86_MOV_FROM_SEG:
        return "depends on the host's descriptor tables";
    }
    return NULL;
}

/* ---- values ---- */

static uint64_t random_integer(Rng *rng)
{
    static const uint64_t corner[] = { 0,
                                       1,
                                       2,
                                       0x7f,
                                       0x80,
                                       0xff,
                                       0x7fff,
                                       0x8000,
                                       0xffff,
                                       0x7fffffff,
                                       0x80000000,
                                       0xffffffff,
                                       UINT64_C(0x7fffffffffffffff),
                                       UINT64_C(0x8000000000000000),
                                       UINT64_MAX };
    switch (rng_below(rng, 5)) {
    case 0:
        return corner[rng_below(rng, G_N_ELEMENTS(corner))];
    case 1:
        return rng_next(rng) >> rng_below(rng, 64);
    case 2:
        return (uint64_t) - (int64_t)(rng_next(rng) >> rng_below(rng, 64));
    case 3:
        return rng_below(rng, 64);
    default:
        return rng_next(rng);
    }
}

static uint32_t random_float(Rng *rng)
{
    static const uint32_t corner[] = { 0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
                                       0x7fc00000, 0xffc00000, 0x7f800001, 0x7fa00000, 1,          0x80000001,
                                       0x007fffff, 0x00800000, 0x80800000, 0x7f7fffff, 0xff7fffff, 0x4f000000,
                                       0xcf000000, 0x5f000000, 0xdf000000, 0x3f000000, 0x3fc00000, 0x40490fdb,
                                       0x4b000001, 0x34000000, 0x477fe000, 0x33800000 };
    switch (rng_below(rng, 4)) {
    case 0:
        return corner[rng_below(rng, G_N_ELEMENTS(corner))];
    case 1: /* near 1: sums and products that round */
        return 0x3f000000u + (uint32_t)rng_below(rng, 0x02000000) + (rng_one_in(rng, 2) ? 0x80000000u : 0);
    case 2: /* of integer size */
        return 0x42000000u + (uint32_t)rng_below(rng, 0x1e000000) + (rng_one_in(rng, 2) ? 0x80000000u : 0);
    default:
        return (uint32_t)rng_next(rng);
    }
}

static uint64_t random_double(Rng *rng)
{
    static const uint64_t corner[] = { 0,
                                       UINT64_C(0x8000000000000000),
                                       UINT64_C(0x3ff0000000000000),
                                       UINT64_C(0xbff0000000000000),
                                       UINT64_C(0x7ff0000000000000),
                                       UINT64_C(0xfff0000000000000),
                                       UINT64_C(0x7ff8000000000000),
                                       UINT64_C(0x7ff0000000000001),
                                       UINT64_C(0xfff4000000000000),
                                       1,
                                       UINT64_C(0x8000000000000001),
                                       UINT64_C(0x000fffffffffffff),
                                       UINT64_C(0x0010000000000000),
                                       UINT64_C(0x7fefffffffffffff),
                                       UINT64_C(0x41e0000000000000),
                                       UINT64_C(0xc1e0000000200000),
                                       UINT64_C(0x43e0000000000000),
                                       UINT64_C(0xc3e0000000000000),
                                       UINT64_C(0x3fe0000000000000),
                                       UINT64_C(0x4330000000000001),
                                       UINT64_C(0x3810000000000000),
                                       UINT64_C(0x3690000000000000),
                                       UINT64_C(0x47efffffe0000000),
                                       UINT64_C(0x47effffff0000000),
                                       UINT64_C(0x380fffffffffffff) };
    switch (rng_below(rng, 4)) {
    case 0:
        return corner[rng_below(rng, G_N_ELEMENTS(corner))];
    case 1:
        return UINT64_C(0x3fe0000000000000) + (rng_next(rng) >> 10) + (rng_next(rng) & UINT64_C(1) << 63);
    case 2:
        return UINT64_C(0x4000000000000000) + (rng_next(rng) >> 6) + (rng_next(rng) & UINT64_C(1) << 63);
    default:
        return rng_next(rng);
    }
}

/* Fills size (a multiple of 8) bytes with lanes of one kind. */
static void random_lanes(Rng *rng, uint8_t *out, unsigned size)
{
    unsigned kind = rng_below(rng, 6);
    for (unsigned i = 0; i < size; i += 8) {
        uint64_t v;
        switch (kind) {
        case 0:
            v = random_float(rng) | (uint64_t)random_float(rng) << 32;
            break;
        case 1:
            v = random_double(rng);
            break;
        case 2:
            v = random_integer(rng);
            break;
        case 3: { /* bytes that saturate or are equal */
            static const uint8_t b[] = { 0, 1, 0x7f, 0x80, 0x81, 0xff, 0x41, 0x42 };
            v = 0;
            for (unsigned j = 0; j < 8; j++) {
                v = v << 8 | b[rng_below(rng, 8)];
            }
            break;
        }
        case 4: /* small counts and selectors */
            v = rng_below(rng, 70);
            break;
        default:
            v = rng_next(rng);
            break;
        }
        memcpy(out + i, &v, 8);
    }
}

static void random_extended(Rng *rng, uint8_t out[16])
{
    static const uint16_t exponents[] = { 0,      1,      0x3ffe, 0x3fff, 0x4000, 0x4001, 0x403e,
                                          0x403f, 0x7ffe, 0x7fff, 0x3f81, 0x407e, 0x3c01 };
    uint64_t significand = rng_next(rng) | UINT64_C(1) << 63;
    uint16_t exponent;
    memset(out, 0, 16);
    switch (rng_below(rng, 5)) {
    case 0:
        exponent = exponents[rng_below(rng, G_N_ELEMENTS(exponents))];
        break;
    case 1:
        exponent = (uint16_t)(0x3ff0 + rng_below(rng, 80));
        break;
    case 2:
        exponent = (uint16_t)rng_below(rng, 0x8000);
        break;
    default:
        exponent = (uint16_t)(0x3ffc + rng_below(rng, 8));
        break;
    }
    switch (rng_below(rng, 6)) {
    case 0:
        significand = UINT64_C(1) << 63;
        break;
    case 1:
        significand = UINT64_C(3) << 62;
        break;
    case 2:
        significand &= ~(UINT64_C(0xffffffffff)); /* few bits: exact results */
        break;
    case 3:
        if (rng_one_in(rng, 4)) {
            significand = rng_one_in(rng, 2) ? 0 : rng_next(rng) >> 1; /* zero, denormal, or unsupported */
        }
        break;
    default:
        break;
    }
    if (rng_one_in(rng, 2)) {
        exponent |= 0x8000;
    }
    memcpy(out, &significand, 8);
    memcpy(out + 8, &exponent, 2);
}

static void random_state(Rng *rng, CaseState *s)
{
    uint8_t *x = s->xsave;
    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < 16; i++) {
        s->regs[i] = random_integer(rng);
    }
    s->rflags = FLAG_ONE | FLAG_IF | (rng_next(rng) & FLAGS_ARITH);
    if (rng_one_in(rng, 4)) {
        s->rflags |= FLAG_DF;
    }
    if (rng_one_in(rng, 16)) {
        s->rflags |= FLAG_AC;
    }
    uint16_t fcw = 0x37f, fsw = 0;
    if (rng_one_in(rng, 2)) {
        fcw = (uint16_t)(0x7f | rng_below(rng, 16) << 8);
        fcw = (fcw & 0x300) == 0x100 ? 0x37f : fcw; /* reserved precision */
    }
    if (rng_one_in(rng, 8)) {
        fcw = (uint16_t)((fcw & ~0x3f) | rng_below(rng, 64));
    }
    fsw = (uint16_t)(rng_below(rng, 8) << 11 | (rng_next(rng) & 0x4700));
    if (rng_one_in(rng, 4)) {
        fsw |= (uint16_t)rng_below(rng, 128);
    }
    if (fsw & ~fcw & 0x3f) {
        if (rng_one_in(rng, 4)) {
            fsw |= 0x8080;
        } else {
            fsw &= (uint16_t) ~(~fcw & 0x3f);
        }
    }
    memcpy(x, &fcw, 2);
    memcpy(x + 2, &fsw, 2);
    x[4] = rng_one_in(rng, 2) ? 0xff : (uint8_t)rng_next(rng);
    for (unsigned i = 0; i < 8; i++) {
        random_extended(rng, x + 32 + i * 16);
    }
    uint32_t mxcsr = 0x1f80;
    if (rng_one_in(rng, 2)) {
        mxcsr |= rng_below(rng, 4) << 13 | (rng_one_in(rng, 3) ? 0x8000 : 0) |
                 (rng_one_in(rng, 3) ? 0x40 : 0) | rng_below(rng, 64);
    }
    if (rng_one_in(rng, 8)) {
        mxcsr &= ~(rng_below(rng, 64) << 7);
    }
    memcpy(x + 24, &mxcsr, 4);
    random_lanes(rng, x + 160, 256);
    for (unsigned i = 0; i < 16; i++) {
        random_lanes(rng, x + 160 + i * 16, 16);
        random_lanes(rng, x + CASE_XSAVE_AVX + i * 16, 16);
    }
    if (native_layout()->opmask) {
        for (unsigned i = 0; i < 32; i++) {
            for (unsigned at = i < 16 ? 32 : 0; at < 64; at += 16) {
                random_lanes(rng, case_vector(s, i, at), 16);
            }
        }
        for (unsigned i = 0; i < 8; i++) {
            uint64_t mask = rng_next(rng);
            switch (rng_below(rng, 6)) {
            case 0:
                mask = 0;
                break;
            case 1:
                mask = UINT64_MAX;
                break;
            case 2:
                mask &= rng_next(rng) & rng_next(rng);
                break;
            case 3:
                mask |= rng_next(rng) | rng_next(rng);
                break;
            case 4:
                mask = UINT64_C(1) << (mask & 63);
                break;
            default:
                break;
            }
            memcpy(case_mask(s, i), &mask, 8);
        }
    }
}

void case_fill_memory(Rng *rng, uint8_t *data)
{
    for (unsigned i = 0; i < CASE_PAGE * CASE_DATA_PAGES; i += 64) {
        if (i / CASE_PAGE >= 1 && i / CASE_PAGE <= 3) {
            random_lanes(rng, data + i, 64);
        }
    }
}

/* ---- encodings ---- */

static bool form_is_vex(const X86Form *form)
{
    return form->space == X86_SPACE_VEX;
}

static bool form_uses(const X86Form *form, unsigned kind)
{
    for (unsigned i = 0; i < form->operand_count; i++) {
        if (form->operands[i].kind == kind) {
            return true;
        }
    }
    return false;
}

/* The four bytes of an EVEX prefix. */
static void draw_evex(Rng *rng, const X86Form *form, CaseMode mode, bool memory, unsigned pp, uint8_t out[4])
{
    bool vvvv = form_uses(form, X86_OPERAND_H), vsib = x86_form_has_vsib(form),
         rounds = form->evex & (X86_EVEX_ER | X86_EVEX_SAE);
    bool b = rng_one_in(rng, 3) && (memory ? form->broadcast != 0 : rounds);
    uint8_t l = form->l == X86_BIT_ANY ? (uint8_t)rng_below(rng, 3)
                : form->l == X86_BIT_1 ? 1
                : form->l == X86_BIT_2 ? 2
                                       : 0;
    uint8_t w = form->w == X86_BIT_ANY ? (uint8_t)rng_below(rng, 2) : form->w == X86_BIT_1;
    uint8_t aaa = 0, p0 = (uint8_t)(rng_next(rng) & 0xf0), v2 = 8;
    if (mode != CASE_64) {
        p0 |= 0xc0;
        if (form->mnemonic == X86_VPEXTRD || form->mnemonic == X86_VPINSRD || form->mnemonic == X86_VMOVD) {
            w = 0; /* as with VEX */
        }
    }
    if (form_uses(form, X86_OPERAND_KR)) {
        p0 |= 0x90;
    }
    if (form_uses(form, X86_OPERAND_G)) {
        p0 |= 0x10;
    }
    if (mode == CASE_64 && (vvvv || vsib) && rng_one_in(rng, 2)) {
        v2 = 0;
    }
    if (b && !memory) {
        l = (uint8_t)rng_below(rng, 4);
    }
    if (form->evex & (X86_EVEX_K | X86_EVEX_KK)) {
        aaa = (uint8_t)rng_below(rng, 8);
        if (rng_one_in(rng, 4) && !(form->evex & X86_EVEX_KK)) {
            aaa = 0;
        }
    }
    bool z = aaa && (form->evex & X86_EVEX_Z) && rng_one_in(rng, 2) &&
             !(memory && form->operands[0].kind == X86_OPERAND_W);
    out[0] = 0x62;
    out[1] = p0 | form->map;
    out[2] = (uint8_t)(w << 7 | (vvvv ? rng_below(rng, 16) : 15) << 3 | 4 | pp);
    out[3] = (uint8_t)(z << 7 | l << 5 | b << 4 | v2 | aaa);
}

/* Draws the bytes in front of what addressing and immediates need; those are random. */
static void draw_bytes(Rng *rng, const X86Form *form, CaseMode mode, uint8_t out[16])
{
    unsigned n = 0;
    bool want_66 = form->prefix == X86_PREFIX_66;
    uint8_t rep = form->prefix == X86_PREFIX_F3 ? 0xf3 : form->prefix == X86_PREFIX_F2 ? 0xf2 : 0;
    bool w = form->w == X86_BIT_1;
    for (unsigned i = 0; i < 16; i++) {
        out[i] = (uint8_t)rng_next(rng);
    }
    if (rng_one_in(rng, 12)) {
        static const uint8_t segments[] = { 0x64, 0x65, 0x2e, 0x3e };
        out[n++] = segments[rng_below(rng, mode != CASE_64 ? 1 : 4) + (mode != CASE_64 ? 3 : 0)];
    }
    if (mode == CASE_64 && rng_one_in(rng, 12)) {
        out[n++] = 0x67;
    }
    if (form->address_size == 4 && mode == CASE_64) {
        out[n++] = 0x67;
    }
    if (mode == CASE_16 && (form->address_size ? form->address_size == 4 : rng_one_in(rng, 3))) {
        out[n++] = 0x67;
    }
    if (mode == CASE_32_SEGMENTED && form->address_size != 4 && rng_one_in(rng, 3)) {
        out[n++] = 0x67; /* 16-bit addresses reach the data segments */
    }
    bool force_reg = form->mod == X86_MOD_REG, force_mem = form->mod == X86_MOD_MEM;
    bool memory = force_mem || (!force_reg && rng_one_in(rng, 2));
    if (form->space == X86_SPACE_EVEX) {
        draw_evex(rng, form, mode, memory, want_66 ? 1 : rep == 0xf3 ? 2 : rep == 0xf2 ? 3 : 0, out + n);
        n += 4;
    } else if (!form_is_vex(form)) {
        if (form->prefix == X86_PREFIX_ANY) {
            switch (form->operand_size) {
            case 2:
                want_66 = mode != CASE_16;
                break;
            case 4:
                want_66 = mode == CASE_16;
                break;
            case 8:
                w = true;
                break;
            case 0:
                if (form->w == X86_BIT_ANY && mode == CASE_64) {
                    w = rng_one_in(rng, 2);
                }
                want_66 = rng_one_in(rng, 3);
                break;
            }
            if ((form->attrs & X86_ATTR_REP) && rng_one_in(rng, 2)) {
                rep = rng_one_in(rng, 2) ? 0xf3 : 0xf2;
            }
            if ((form->attrs & X86_ATTR_LOCK) && rng_one_in(rng, 4)) {
                out[n++] = 0xf0;
                memory = true;
            }
        } else if (form->w == X86_BIT_ANY && mode == CASE_64) {
            w = rng_one_in(rng, 3);
        }
        if (want_66) {
            out[n++] = 0x66;
        }
        if (rep) {
            out[n++] = rep;
        }
        if (mode == CASE_64 && (w || rng_one_in(rng, 2))) {
            out[n++] = (uint8_t)(0x40 | (w ? 8 : 0) | (rng_next(rng) & 7));
        }
        if (form->map >= 1) {
            out[n++] = 0x0f;
        }
        if (form->map >= 2) {
            out[n++] = form->map == 2 ? 0x38 : 0x3a;
        }
    } else {
        bool vvvv = false;
        for (unsigned i = 0; i < form->operand_count; i++) {
            vvvv |= form->operands[i].kind == X86_OPERAND_H || form->operands[i].kind == X86_OPERAND_B ||
                    form->operands[i].kind == X86_OPERAND_KV;
        }
        uint8_t rxb = mode != CASE_64 ? 0xe0 : (uint8_t)(rng_next(rng) & 0xe0);
        uint8_t l = form->l == X86_BIT_ANY ? (uint8_t)rng_below(rng, 2) : form->l == X86_BIT_1;
        uint8_t vw = form->w == X86_BIT_ANY ? (uint8_t)rng_below(rng, 2) : form->w == X86_BIT_1;
        if (mode != CASE_64 && (form->mnemonic == X86_VPEXTRD || form->mnemonic == X86_VPINSRD)) {
            vw = 0; /* W1 outside 64-bit mode: ignored by Intel, #UD on AMD */
        }
        uint8_t pp = want_66 ? 1 : rep == 0xf3 ? 2 : rep == 0xf2 ? 3 : 0;
        uint8_t v = vvvv ? (uint8_t)rng_below(rng, 16) : 15;
        if (form->attrs & X86_ATTR_AVX512) { /* 0 to 7 */
            v |= mode == CASE_64 ? 8 : 0;
            rxb |= form_uses(form, X86_OPERAND_KR) ? 0x80 : 0;
        }
        out[n++] = 0xc4;
        out[n++] = rxb | form->map;
        out[n++] = (uint8_t)(vw << 7 | v << 3 | l << 2 | pp);
    }
    out[n++] = (uint8_t)(form->opcode + (form->plus_r ? rng_below(rng, 8) : 0));
    if (form->has_modrm) {
        uint8_t modrm = (uint8_t)rng_next(rng);
        if (form->exact_modrm >= 0) {
            modrm = (uint8_t)form->exact_modrm;
        } else {
            if (form->digit >= 0) {
                modrm = (uint8_t)((modrm & 0xc7) | form->digit << 3);
            }
            if (!memory) {
                modrm |= 0xc0;
            } else {
                modrm = (uint8_t)((modrm & 0x3f) | rng_below(rng, 3) << 6);
            }
            for (unsigned i = 0; i < form->operand_count; i++) {
                if (form->operands[i].kind == X86_OPERAND_VSIBX ||
                    form->operands[i].kind == X86_OPERAND_VSIBY) {
                    modrm = (uint8_t)((modrm & 0xf8) | 4);
                }
            }
        }
        out[n] = modrm;
    }
}

/* Where a memory operand of size bytes goes. */
static uint64_t draw_target(Rng *rng, unsigned size, bool low)
{
    uint64_t rw = CASE_DATA_BASE + CASE_PAGE;
    unsigned s = size ? size : 1;
    switch (rng_below(rng, 16)) {
    case 0: /* over the end, into nothing */
        return CASE_DATA_BASE + 4 * CASE_PAGE - rng_below(rng, s + 1);
    case 1: /* from nothing */
        return rw - rng_below(rng, s + 1);
    case 2: /* into the read-only page */
        return CASE_DATA_BASE + 3 * CASE_PAGE - rng_below(rng, s + 1);
    case 3: /* across two writable pages */
        return rw + CASE_PAGE - rng_below(rng, s + 1);
    case 4:
        return CASE_DATA_BASE + 3 * CASE_PAGE + rng_below(rng, CASE_PAGE - s);
    case 5:
        if (!low && rng_one_in(rng, 4)) {
            return UINT64_C(0x0000800000000000) + rng_next(rng) % UINT64_C(0xfffe000000000000);
        }
        return rw + rng_below(rng, 2 * CASE_PAGE - s);
    case 6:
    case 7:
    case 8:
        return rw + rng_below(rng, 2 * CASE_PAGE - s - 64);
    default: /* aligned */
        return rw + (rng_below(rng, 2 * CASE_PAGE - s - 64) & ~63u);
    }
}

static unsigned memory_size(const X86Insn *insn)
{
    for (unsigned i = 0; i < insn->form->operand_count; i++) {
        const X86Operand *o = &insn->form->operands[i];
        switch (o->kind) {
        case X86_OPERAND_E:
        case X86_OPERAND_M:
        case X86_OPERAND_W:
        case X86_OPERAND_KM:
        case X86_OPERAND_Q: {
            unsigned size = x86_memory_bytes(insn, o);
            return size ? size : 64;
        }
        default:
            break;
        }
    }
    return 8;
}

static bool uses_rep(const X86Insn *insn)
{
    return insn->prefixes & (X86_INSN_REP | X86_INSN_REPNE);
}

/* Makes the ModRM memory operand's address the target. False: not possible with this encoding. */
/* 16-bit addressing: SDM vol. 2 table 2-1. What is above bit 15 of the registers does not count. */
static bool solve_address_16(Rng *rng, Case *c, uint64_t offset)
{
    X86Insn *insn = &c->insn;
    uint64_t *regs = c->state.regs;
    if (offset > 0xffff) {
        return false;
    }
    if (insn->base == X86_REG_NONE) {
        uint16_t disp = (uint16_t)offset;
        memcpy(c->bytes + insn->disp_offset, &disp, 2);
        insn->disp = (int16_t)disp;
        return true;
    }
    uint64_t rest = offset - (uint64_t)(int64_t)insn->disp;
    if (insn->index < 16) {
        rest -= regs[insn->index];
    }
    regs[insn->base] = (rest & 0xffff) | (rng_next(rng) & 0xffff0000);
    return true;
}

static bool solve_address(Rng *rng, Case *c, uint64_t target)
{
    X86Insn *insn = &c->insn;
    uint64_t *regs = c->state.regs;
    uint64_t offset = target;
    bool canonical = target < UINT64_C(0x800000000000);
    if (c->mode == CASE_64 && insn->segment_override) {
        uint64_t *base = insn->segment == SEG_FS   ? &c->state.fs_base
                         : insn->segment == SEG_GS ? &c->state.gs_base
                                                   : NULL;
        if (base) {
            if (!canonical) {
                return false;
            }
            *base = rng_next(rng) & 0xffffff;
            offset -= *base;
        }
    } else if (c->mode != CASE_64 && insn->segment_override && insn->segment >= SEG_FS) {
        return false;
    }
    if (case_mode_segmented(c->mode) && insn->segment != SEG_SS) {
        if (insn->segment != SEG_DS && insn->segment != SEG_ES) {
            return false;
        }
        offset -= CASE_DATA_BASE;
    }
    if (insn->address_size == 2) {
        return solve_address_16(rng, c, offset);
    }
    if (insn->address_size == 4 && !canonical) {
        return false;
    }
    uint64_t mask = insn->address_size == 8 ? UINT64_MAX : 0xffffffffu;
    bool vsib = false;
    for (unsigned i = 0; i < insn->form->operand_count; i++) {
        vsib |= insn->form->operands[i].kind == X86_OPERAND_VSIBX ||
                insn->form->operands[i].kind == X86_OPERAND_VSIBY;
    }
    if (vsib) {
        /* Indexes stay near the base; sometimes one goes astray. */
        bool wide = insn->form->opcode & 1;
        for (unsigned i = 0; i < (insn->form->space == X86_SPACE_EVEX ? 64 : 32); i += wide ? 8 : 4) {
            int64_t v = (int64_t)rng_below(rng, 128) - 64;
            if (rng_one_in(rng, 40)) {
                v = rng_one_in(rng, 2) ? 4096 : -4096;
            }
            memcpy(case_vector(&c->state, insn->index, i & ~15u) + i % 16, &v, wide ? 8 : 4);
        }
    }
    bool has_index = insn->index < 16 && !vsib;
    if (insn->base == X86_REG_NONE && !has_index) {
        if (insn->disp_size != 4 || offset > 0x7fffffff) {
            return false;
        }
        int32_t disp = (int32_t)offset;
        memcpy(c->bytes + insn->disp_offset, &disp, 4);
        insn->disp = disp;
        return true;
    }
    if (insn->base == X86_REG_RIP) {
        int64_t disp = (int64_t)(offset - (c->state.rip + insn->length));
        if (disp != (int32_t)disp) {
            return false;
        }
        int32_t disp32 = (int32_t)disp;
        memcpy(c->bytes + insn->disp_offset, &disp32, 4);
        insn->disp = disp32;
        return true;
    }
    uint64_t rest = offset - (uint64_t)(int64_t)insn->disp;
    if (insn->base == X86_REG_NONE) {
        /* index << scale + disp: let the displacement's low bits give way */
        uint64_t index = rest >> insn->scale;
        int64_t slack = (int64_t)(rest - (index << insn->scale));
        int32_t disp = (int32_t)(insn->disp + slack);
        memcpy(c->bytes + insn->disp_offset, &disp, 4);
        insn->disp = disp;
        regs[insn->index] = index & mask;
        return true;
    }
    if (has_index && insn->index == insn->base) {
        return false;
    }
    if (has_index) {
        if (rng_one_in(rng, 2)) {
            regs[insn->index] = rng_next(rng) & 0xfff;
        }
        rest -= regs[insn->index] << insn->scale;
    }
    regs[insn->base] = rest & mask;
    if (insn->address_size == 4 && c->mode == CASE_64 && rng_one_in(rng, 2)) {
        regs[insn->base] |= rng_next(rng) << 32; /* must be ignored */
    }
    return true;
}

/* Which operands lie where registers that the instruction implies point. */
static void solve_implied(Rng *rng, Case *c)
{
    uint64_t *regs = c->state.regs;
    unsigned size = 16;
    regs[R_RSI] = draw_target(rng, size, true);
    regs[R_RDI] = draw_target(rng, size, true);
    if (rng_one_in(rng, 4)) {
        regs[R_RDI] = regs[R_RSI] + rng_below(rng, 32);
    }
    regs[R_RSP] = rng_one_in(rng, 8) ? draw_target(rng, size, true)
                                     : CASE_DATA_BASE + CASE_PAGE + 512 + rng_below(rng, CASE_PAGE);
    regs[R_RBP] = CASE_DATA_BASE + CASE_PAGE + 512 + rng_below(rng, CASE_PAGE);
    if (c->insn.form->mnemonic == X86_XLAT) {
        regs[R_RBX] = draw_target(rng, 256, true);
    }
    if (uses_rep(&c->insn)) {
        regs[R_RCX] = rng_below(rng, 12);
    }
    if (case_mode_segmented(c->mode)) {
        regs[R_RSI] -= CASE_DATA_BASE;
        regs[R_RDI] -= CASE_DATA_BASE;
        if (c->insn.form->mnemonic == X86_XLAT) {
            regs[R_RBX] -= CASE_DATA_BASE;
        }
        if (c->insn.address_size == 2) {
            for (unsigned i = R_RSI; i <= R_RDI; i++) {
                regs[i] |= rng_next(rng) & 0xffff0000; /* must be ignored, and kept */
            }
            regs[R_RCX] |= uses_rep(&c->insn) ? rng_next(rng) & 0xffff0000 : 0;
        }
    }
}

bool case_make(Rng *rng, const X86Form *form, CaseMode mode, Case *c)
{
    static X86DecodeMode modes[CASE_MODES];
    if (!modes[0].code_size) {
        static const uint8_t code_sizes[CASE_MODES] = { 8, 4, 2, 4 };
        for (unsigned i = 0; i < CASE_MODES; i++) {
            modes[i].code_size = code_sizes[i];
            modes[i].protected_mode = modes[i].vex = true;
            x86_decode_all_features(&modes[i]);
        }
    }
    c->mode = mode;
    draw_bytes(rng, form, mode, c->bytes);
    if (x86_decode(&modes[mode], c->bytes, 15, &c->insn) != X86_DECODE_OK || c->insn.form != form) {
        return false;
    }
    X86Insn *insn = &c->insn;
    if (mode == CASE_64 && (form->attrs & (X86_ATTR_F64 | X86_ATTR_BRANCH)) &&
        (insn->prefixes & X86_INSN_66)) {
        return false; /* 16-bit near branches in 64-bit mode: AMD has them, Intel ignores the prefix */
    }
    random_state(rng, &c->state);
    /* Immediates are random bytes so far: corner values too. */
    if (insn->imm_size && rng_one_in(rng, 2)) {
        uint64_t v = random_integer(rng);
        if (!(form->space == X86_SPACE_VEX && form->operand_count == 4 &&
              form->operands[3].kind == X86_OPERAND_L)) {
            memcpy(c->bytes + insn->imm_offset, &v, insn->imm_size > 8 ? 8 : insn->imm_size);
        }
    }
    c->state.rip = CASE_CODE_BASE + rng_below(rng, CASE_PAGE - 64);
    if (rng_one_in(rng, 16)) { /* up to the end of the page, or beyond it: the fetch faults */
        bool no_modrm = form->mnemonic == X86_UD0 || form->mnemonic == X86_UD1; /* AMD does not fetch it */
        unsigned inside = !no_modrm && rng_one_in(rng, 2) && insn->length > 1
                              ? 1 + rng_below(rng, insn->length - 1u)
                              : insn->length;
        c->state.rip = CASE_CODE_BASE + CASE_PAGE - inside;
    }
    solve_implied(rng, c);
    if (form->mnemonic == X86_MASKMOVQ || form->mnemonic == X86_MASKMOVDQU ||
        form->mnemonic == X86_VMASKMOVDQU) {
        c->state.rflags &= ~(uint64_t)FLAG_AC; /* which of its bytes are checked is the vendor's choice */
    }
    if (form->mnemonic == X86_ENTER) {
        /* Frames are copied one by one; what a fault leaves below the stack is undefined, and compared
         * leniently. */
        c->bytes[insn->imm_offset + 1] &= 1;
        c->bytes[insn->imm_offset + 2] &= 0xe3;
    }
    if (form->mnemonic == X86_CALL_IND || form->mnemonic == X86_CALL) {
        /* Bad stack and bad target together: which comes first depends on the vendor. */
        c->state.regs[R_RSP] = (CASE_DATA_BASE + CASE_PAGE + 512 + rng_below(rng, CASE_PAGE)) & ~UINT64_C(7);
    }
    c->operand = 0;
    for (unsigned i = 0; i < form->operand_count; i++) {
        /* A bit offset in a register reaches far beyond the operand. */
        if (form->operands[i].kind == X86_OPERAND_G && insn->is_memory &&
            (form->mnemonic == X86_BT || form->mnemonic == X86_BTS || form->mnemonic == X86_BTR ||
             form->mnemonic == X86_BTC)) {
            int64_t v = (int64_t)rng_below(rng, 1024) - 512;
            if (insn->base != insn->reg && insn->index != insn->reg) {
                c->state.regs[insn->reg] = (uint64_t)v;
            } else {
                return false;
            }
        }
        if (form->operands[i].kind == X86_OPERAND_O) {
            uint64_t target = draw_target(rng, x86_operand_bytes(insn, &form->operands[i]), true);
            uint64_t offset = target - (case_mode_segmented(mode) ? CASE_DATA_BASE : 0);
            memcpy(c->bytes + insn->imm_offset, &offset, insn->imm_size);
            if ((insn->imm_size == 2 && offset > 0xffff) || insn->segment_override) {
                return false;
            }
            c->operand = target;
        }
    }
    if (insn->is_memory && form->mnemonic == X86_CALL_IND && (insn->base == R_RSP || insn->index == R_RSP)) {
        return false;
    }
    if (insn->is_memory) {
        uint64_t target = draw_target(rng, memory_size(insn), mode != CASE_64);
        if (target >= UINT64_C(0x800000000000)) {
            target &= ~UINT64_C(63); /* #SS or #GP for alignment: the order depends on the vendor */
        }
        switch (form->mnemonic) {
        case X86_XSAVE:
        case X86_XSAVEOPT:
        case X86_XSAVEC:
        case X86_XRSTOR: {
            /* The host's area is larger than the guest's: leave room for all of it. Only the guest's
             * components. */
            target = CASE_DATA_BASE + CASE_PAGE + rng_below(rng, CASE_PAGE);
            target = rng_one_in(rng, 16)  ? target
                     : rng_one_in(rng, 8) ? target & ~UINT64_C(3)
                                          : target & ~UINT64_C(63);
            uint64_t mask = rng_one_in(rng, 4) ? rng_below(rng, 8) : 7;
            if ((form->mnemonic == X86_XSAVEC || form->mnemonic == X86_XRSTOR) && native_layout()->opmask) {
                mask |= rng_next(rng) &
                        0xe0; /* in the compacted format these lie at the same place in host and guest */
            }
            c->state.regs[R_RAX] = (c->state.regs[R_RAX] & ~UINT64_C(0xffffffff)) | mask;
            c->state.regs[R_RDX] &= ~UINT64_C(0xffffffff);
            if (insn->base == R_RAX || insn->base == R_RDX || insn->index == R_RAX || insn->index == R_RDX) {
                return false;
            }
            break;
        }
        default:
            break;
        }
        if (form->feature == X86_FEATURE_SHA) {
            target &= ~UINT64_C(15); /* whether they must be aligned depends on the vendor */
        }
        if (!solve_address(rng, c, target)) {
            return false;
        }
        c->operand = target;
    }
    if (mode != CASE_64) {
        for (unsigned i = 0; i < 16; i++) {
            c->state.regs[i] = i < 8 ? (uint32_t)c->state.regs[i] : 0;
        }
        memset(c->state.xsave + 160 + 128, 0, 128);
        memset(c->state.xsave + CASE_XSAVE_AVX + 128, 0, 128);
        if (native_layout()->opmask) {
            memset(case_vector(&c->state, 8, 32), 0, 256);
            memset(case_vector(&c->state, 16, 0), 0, 1024);
        }
    }
    /* Decode again: displacement and immediate may have changed. */
    return x86_decode(&modes[mode], c->bytes, 15, insn) == X86_DECODE_OK && insn->form == form;
}
