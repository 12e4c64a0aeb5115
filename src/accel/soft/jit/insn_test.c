/*
 * Re-encoding of AVX-512: what jit_emit() makes of an instruction is the same instruction with the operands
 * that it was given. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/insn.h"
#include "arch/x86/cpu.h"

#include <glib.h>

static X86DecodeMode mode = { .code_size = 8, .protected_mode = true, .vex = true };
#define KEY (MODE_CS64 | MODE_AVX_OK | MODE_AVX512_OK)

static bool draw(X86Insn *insn)
{
    uint8_t bytes[15];
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)g_test_rand_int();
    }
    if (g_test_rand_int_range(0, 8)) {
        bytes[0] = 0x62;
        bytes[1] = (uint8_t)((bytes[1] & 0xf0) | g_test_rand_int_range(1, 4));
        bytes[2] |= (uint8_t)(4 | (g_test_rand_bit() ? 0x78 : 0));
        bytes[3] &= g_test_rand_bit() ? 0x68 : 0x7f;
        bytes[3] |= 8;
        bytes[3] ^= (uint8_t)(g_test_rand_int() & g_test_rand_int() & g_test_rand_int());
    } else {
        bytes[0] = 0xc4; /* mask registers */
        bytes[1] = (uint8_t)((bytes[1] & 0xe0) | (g_test_rand_bit() ? 1 : 3));
        bytes[3] = (uint8_t)(g_test_rand_bit() ? 0x90 | (bytes[3] & 3) : 0x40 | (bytes[3] & 11));
    }
    return x86_decode(&mode, bytes, sizeof(bytes), insn) == X86_DECODE_OK &&
           (insn->form->attrs & X86_ATTR_AVX512);
}

static void test_round_trip(void)
{
    unsigned copied = 0, called = 0, memory = 0;
    for (unsigned i = 0; i < 1000000; i++) {
        X86Insn insn, again;
        JitOperands o;
        uint8_t code[32];
        Asm a = { .p = code, .end = code + sizeof(code) };
        if (!draw(&insn)) {
            continue;
        }
        if (jit_classify(&insn, KEY, &o) != JIT_COPY) {
            called++;
            g_assert_true(insn.is_memory || !(insn.form->attrs & X86_ATTR_NATIVE));
            continue;
        }
        g_assert_cmpint(jit_classify(&insn, KEY & ~MODE_AVX512_OK, &o), ==, JIT_CALLOUT);
        HostMem m = mem_index(H_R13, g_test_rand_bit() ? H_R12 : -1, 0, (int8_t)g_test_rand_int() * 3);
        if (o.rm_gpr) {
            o.rm = H_R12;
        }
        if (o.reg_gpr) {
            o.reg = H_R13;
        }
        jit_emit(&a, &insn, &o, insn.is_memory ? &m : NULL);
        g_assert_false(a.overflow);
        g_assert_cmpint(x86_decode(&mode, code, (size_t)(a.p - code), &again), ==, X86_DECODE_OK);
        g_assert_true(again.form == insn.form);
        g_assert_cmpint(again.length, ==, a.p - code);
        g_assert_cmpint(again.reg, ==, o.reg);
        g_assert_cmpint(again.vvvv, ==, insn.vvvv);
        g_assert_cmpint(again.opmask, ==, insn.opmask);
        g_assert_cmpint(again.evex_z, ==, insn.evex_z);
        g_assert_cmpint(again.evex_b, ==, insn.evex_b);
        g_assert_cmpint(again.vex_l, ==, insn.vex_l);
        g_assert_cmpint(again.evex_ll, ==, insn.evex_ll);
        g_assert_cmpint(again.rex_w, ==, insn.rex_w);
        g_assert_cmphex(again.imm, ==, insn.imm);
        g_assert_cmpint(again.is_memory, ==, insn.is_memory);
        if (insn.is_memory) {
            bool write;
            g_assert_cmpint(again.base, ==, H_R13);
            g_assert_cmpint(again.index, ==, m.index < 0 ? X86_REG_NONE : H_R12);
            g_assert_cmpint(again.disp, ==, m.disp);
            g_assert_cmpuint(jit_memory_size(&insn, &write), ==, jit_memory_size(&again, &write));
            g_assert_cmpuint(jit_memory_size(&insn, &write), >, 0);
            memory++;
        } else if (insn.form->has_modrm) {
            g_assert_cmpint(again.rm, ==, o.rm);
        }
        copied++;
    }
    g_assert_cmpuint(copied, >, 10000);
    g_assert_cmpuint(memory, >, 1000);
    g_assert_cmpuint(called, >, 100);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    x86_decode_all_features(&mode);
    g_test_add_func("/jit/avx512-round-trip", test_round_trip);
    return g_test_run();
}
