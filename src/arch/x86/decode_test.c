/* The decoder against encodings written by hand from the manual. SPDX-License-Identifier: GPL-2.0-or-later */
#include "arch/x86/cpu.h"
#include "arch/x86/decode.h"

#include <glib.h>
#include <string.h>

typedef struct Case {
    uint8_t code_size;
    uint8_t count;
    uint8_t bytes[16];
    X86DecodeStatus status;
    const char *name;
    uint8_t length, operand_size;
} Case;

static const Case cases[] = {
    { 8, 3, { 0x48, 0x01, 0xc8 }, X86_DECODE_OK, "add", 3, 8 },
    { 4, 3, { 0x66, 0x01, 0xc8 }, X86_DECODE_OK, "add", 3, 2 },
    { 2, 3, { 0x66, 0x01, 0xc8 }, X86_DECODE_OK, "add", 3, 4 },
    { 8, 10, { 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8 }, X86_DECODE_OK, "mov", 10, 8 },
    { 8, 5, { 0xb8, 1, 2, 3, 4 }, X86_DECODE_OK, "mov", 5, 4 },
    { 4, 1, { 0x48 }, X86_DECODE_OK, "dec", 1, 4 },
    /* A REX with another prefix behind it does not count. */
    { 8, 4, { 0x48, 0x66, 0x01, 0xc8 }, X86_DECODE_OK, "add", 4, 2 },
    /* LOCK: only before a memory destination of the right instructions. */
    { 8, 3, { 0xf0, 0x01, 0x08 }, X86_DECODE_OK, "add", 3, 4 },
    { 8, 3, { 0xf0, 0x01, 0xc8 }, X86_DECODE_UD, NULL, 0, 0 },
    { 8, 3, { 0xf0, 0x03, 0x08 }, X86_DECODE_UD, NULL, 0, 0 },
    { 8, 2, { 0xf0, 0x90 }, X86_DECODE_UD, NULL, 0, 0 },
    /* Only in, and not in, 64-bit code. */
    { 8, 1, { 0x27 }, X86_DECODE_UD, NULL, 0, 0 },
    { 4, 1, { 0x27 }, X86_DECODE_OK, "daa", 1, 4 },
    { 8, 3, { 0x48, 0x63, 0xc1 }, X86_DECODE_OK, "movsxd", 3, 8 },
    { 4, 2, { 0x63, 0xc1 }, X86_DECODE_OK, "arpl", 2, 4 },
    { 8, 5, { 0xc4, 0x08, 0, 0, 0 }, X86_DECODE_UD, NULL, 0, 0 },
    { 4, 2, { 0xc4, 0x08 }, X86_DECODE_OK, "les", 2, 4 },
    /* Mandatory prefixes choose; F3 beats 66, which then is the operand size. */
    { 8, 4, { 0xf3, 0x0f, 0xb8, 0xc1 }, X86_DECODE_OK, "popcnt", 4, 4 },
    { 8, 5, { 0x66, 0xf3, 0x0f, 0xb8, 0xc1 }, X86_DECODE_OK, "popcnt", 5, 2 },
    { 8, 3, { 0x0f, 0xb8, 0xc1 }, X86_DECODE_UD, NULL, 0, 0 },
    { 8, 4, { 0xf3, 0x0f, 0xbc, 0xc1 }, X86_DECODE_OK, "tzcnt", 4, 4 },
    { 8, 3, { 0x0f, 0xbc, 0xc1 }, X86_DECODE_OK, "bsf", 3, 4 },
    { 8, 2, { 0xf3, 0x90 }, X86_DECODE_OK, "pause", 2, 4 },
    /* VEX: ANDN eax, ecx, edx, then with a prefix in front that is forbidden. */
    { 8, 5, { 0xc4, 0xe2, 0x70, 0xf2, 0xc2 }, X86_DECODE_OK, "andn", 5, 4 },
    { 8, 6, { 0x66, 0xc4, 0xe2, 0x70, 0xf2, 0xc2 }, X86_DECODE_UD, NULL, 0, 0 },
    { 8, 6, { 0x48, 0xc4, 0xe2, 0x70, 0xf2, 0xc2 }, X86_DECODE_UD, NULL, 0, 0 },
    { 8, 6, { 0xf0, 0xc4, 0xe2, 0x70, 0xf2, 0xc2 }, X86_DECODE_UD, NULL, 0, 0 },
    /* RORX has no vvvv: it must be 1111. */
    { 8, 6, { 0xc4, 0xe3, 0x7b, 0xf0, 0xc1, 5 }, X86_DECODE_OK, "rorx", 6, 4 },
    { 8, 6, { 0xc4, 0xe3, 0x73, 0xf0, 0xc1, 5 }, X86_DECODE_UD, NULL, 0, 0 },
    /* Memory forms: RIP-relative, SIB without base, 16-bit. */
    { 8, 6, { 0x8b, 0x05, 1, 0, 0, 0 }, X86_DECODE_OK, "mov", 6, 4 },
    { 8, 7, { 0x8b, 0x04, 0x25, 1, 0, 0, 0 }, X86_DECODE_OK, "mov", 7, 4 },
    { 2, 4, { 0x8b, 0x06, 1, 0 }, X86_DECODE_OK, "mov", 4, 2 },
    { 2, 3, { 0x8b, 0x46, 1 }, X86_DECODE_OK, "mov", 3, 2 },
    /* ENTER has two immediates, a far jump a pointer. */
    { 8, 4, { 0xc8, 0x10, 0, 1 }, X86_DECODE_OK, "enter", 4, 8 },
    { 4, 7, { 0xea, 1, 2, 3, 4, 5, 6 }, X86_DECODE_OK, "jmp_far", 7, 4 },
    { 8, 7, { 0xea, 1, 2, 3, 4, 5, 6 }, X86_DECODE_UD, NULL, 0, 0 },
    /* MOV from CR0: mod is ignored. */
    { 8, 3, { 0x0f, 0x20, 0x00 }, X86_DECODE_OK, "mov_from_cr", 3, 4 },
    /* A near branch stays 64-bit under 66. */
    { 8, 6, { 0x66, 0xe8, 0, 0, 0, 0 }, X86_DECODE_OK, "call", 6, 8 },
    { 4, 4, { 0x66, 0xe8, 0, 0 }, X86_DECODE_OK, "call", 4, 2 },
    /* Too short, and too long. */
    { 8, 2, { 0x48, 0x8b }, X86_DECODE_MORE, NULL, 0, 0 },
    { 8,
      15,
      { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90 },
      X86_DECODE_OK,
      "xchg_ax",
      15,
      2 },
    { 8,
      16,
      { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90 },
      X86_DECODE_TOO_LONG,
      NULL,
      0,
      0 },
    { 8,
      16,
      { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0xb8, 1, 2 },
      X86_DECODE_TOO_LONG,
      NULL,
      0,
      0 },
    /* EVEX: plain, a reserved map, L'L of 3 as a length and as a rounding mode, {z} without a mask, a vvvv
     * that no operand names; BOUND in 32-bit code; a mask register beyond k7. */
    { 8, 6, { 0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1 }, X86_DECODE_OK, "vaddps", 6, 4 },
    { 8, 6, { 0x62, 0xf4, 0x7c, 0x48, 0x58, 0xc1 }, X86_DECODE_UD, NULL, 0, 0 },
    { 8, 6, { 0x62, 0xf1, 0x7c, 0x68, 0x58, 0xc1 }, X86_DECODE_UD, NULL, 0, 0 },
    { 8, 6, { 0x62, 0xf1, 0x7c, 0x78, 0x58, 0xc1 }, X86_DECODE_OK, "vaddps", 6, 4 },
    { 8, 6, { 0x62, 0xf1, 0x7c, 0xc8, 0x58, 0xc1 }, X86_DECODE_UD, NULL, 0, 0 },
    { 8, 6, { 0x62, 0xf1, 0x7c, 0xc9, 0x58, 0xc1 }, X86_DECODE_OK, "vaddps", 6, 4 },
    { 8, 6, { 0x62, 0xf1, 0x74, 0x48, 0x51, 0xc1 }, X86_DECODE_UD, NULL, 0, 0 },
    { 4, 2, { 0x62, 0x00 }, X86_DECODE_OK, "bound", 2, 4 },
    { 8, 5, { 0xc4, 0xe1, 0x70, 0x41, 0xc2 }, X86_DECODE_UD, NULL, 0, 0 },
    { 8, 5, { 0xc4, 0xe1, 0x75, 0x41, 0xc2 }, X86_DECODE_OK, "kandb", 5, 4 },
    { 8, 5, { 0xc4, 0xe1, 0x35, 0x41, 0xc2 }, X86_DECODE_UD, NULL, 0, 0 },
};

static void test_cases(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        const Case *c = &cases[i];
        X86DecodeMode mode = { .code_size = c->code_size, .protected_mode = true, .vex = true };
        X86Insn insn;
        x86_decode_all_features(&mode);
        X86DecodeStatus status = x86_decode(&mode, c->bytes, c->count, &insn);
        g_test_message("case %zu", i);
        g_assert_cmpint(status, ==, c->status);
        if (status == X86_DECODE_OK) {
            g_assert_cmpstr(x86_mnemonic_names[insn.form->mnemonic], ==, c->name);
            g_assert_cmpint(insn.length, ==, c->length);
            g_assert_cmpint(insn.operand_size, ==, c->operand_size);
        }
    }
}

static void test_memory_operand(void)
{
    X86DecodeMode mode = { .code_size = 8, .protected_mode = true, .vex = true };
    X86Insn insn;
    x86_decode_all_features(&mode);
    /* mov r9, fs:[r12 + r13*8 - 0x10] */
    static const uint8_t bytes[] = { 0x64, 0x4f, 0x8b, 0x4c, 0xec, 0xf0 };
    g_assert_cmpint(x86_decode(&mode, bytes, sizeof(bytes), &insn), ==, X86_DECODE_OK);
    g_assert_cmpint(insn.reg, ==, R_R9);
    g_assert_cmpint(insn.base, ==, R_R12);
    g_assert_cmpint(insn.index, ==, R_R13);
    g_assert_cmpint(insn.scale, ==, 3);
    g_assert_cmpint(insn.disp, ==, -16);
    g_assert_cmpint(insn.segment, ==, SEG_FS);
    g_assert_cmpint(insn.modrm_offset, ==, 3);
    g_assert_cmpint(insn.disp_offset, ==, 5);
    /* Without SSE4.2's bit CRC32 is #UD; without BMI1 TZCNT is BSF. */
    static const uint8_t crc[] = { 0xf2, 0x0f, 0x38, 0xf1, 0xc1 }, tzcnt[] = { 0xf3, 0x0f, 0xbc, 0xc1 };
    memset(mode.features, 0, sizeof(mode.features));
    g_assert_cmpint(x86_decode(&mode, crc, sizeof(crc), &insn), ==, X86_DECODE_UD);
    g_assert_cmpint(x86_decode(&mode, tzcnt, sizeof(tzcnt), &insn), ==, X86_DECODE_OK);
    g_assert_cmpint(insn.form->mnemonic, ==, X86_BSF);
}

static void test_evex(void)
{
    X86DecodeMode mode = { .code_size = 8, .protected_mode = true, .vex = true };
    X86Insn insn;
    x86_decode_all_features(&mode);
    /* vaddps zmm25{k3}{z}, zmm30, zmm21, {rz-sae} */
    static const uint8_t registers[] = { 0x62, 0x21, 0x0c, 0xf3, 0x58, 0xcd };
    g_assert_cmpint(x86_decode(&mode, registers, sizeof(registers), &insn), ==, X86_DECODE_OK);
    g_assert_cmpint(insn.reg, ==, 25);
    g_assert_cmpint(insn.vvvv, ==, 30);
    g_assert_cmpint(insn.rm, ==, 21);
    g_assert_cmpint(insn.opmask, ==, 3);
    g_assert_true(insn.evex_z && insn.evex_b);
    g_assert_cmpint(insn.evex_ll, ==, 3);
    g_assert_cmpint(insn.vex_l, ==, 2);
    /* disp8 is scaled: by the vector's length, by the element that is broadcast, by half the length. */
    static const struct {
        uint8_t bytes[8];
        int disp;
        unsigned size;
    } scaled[] = {
        { { 0x62, 0xf1, 0x7c, 0x48, 0x58, 0x48, 0xff }, -64, 64 }, /* vaddps zmm1, zmm0, [rax - 64] */
        { { 0x62, 0xf1, 0x7c, 0x28, 0x58, 0x48, 0x02 }, 64, 32 },
        { { 0x62, 0xf1, 0x7c, 0x58, 0x58, 0x48, 0xff }, -4, 4 }, /* ... dword [rax - 4]{1to16} */
        { { 0x62, 0xf1, 0xfd, 0x58, 0x58, 0x48, 0x7f }, 127 * 8, 8 },
        { { 0x62, 0xf1, 0x7c, 0x48, 0x5a, 0x48, 0x01 }, 32, 32 }, /* vcvtps2pd zmm1, [rax + 32] */
        { { 0x62, 0xf1, 0x7e, 0x08, 0x58, 0x48, 0x03 }, 12, 4 },  /* vaddss xmm1, xmm0, [rax + 12] */
        { { 0x62, 0xf2, 0x7d, 0x48, 0x88, 0x48, 0x03 }, 12, 64 }, /* vexpandps zmm1, [rax + 12] */
        { { 0x62, 0xf2, 0x7d, 0x48, 0x32, 0x48, 0x03 }, 24, 8 },  /* vpmovzxbq zmm1, [rax + 24] */
    };
    for (size_t i = 0; i < G_N_ELEMENTS(scaled); i++) {
        g_assert_cmpint(x86_decode(&mode, scaled[i].bytes, 7, &insn), ==, X86_DECODE_OK);
        const X86Form *form = insn.form;
        g_assert_cmpint(insn.disp, ==, scaled[i].disp);
        g_assert_cmpuint(x86_memory_bytes(&insn, &form->operands[form->operand_count - 1]), ==,
                         scaled[i].size);
    }
    /* vpgatherdd zmm17{k2}, [rbx + zmm28 * 4 + 8]: a mask is a must, and so is another destination. */
    uint8_t gather[] = { 0x62, 0xa2, 0x7d, 0x42, 0x90, 0x4c, 0xa3, 0x02 };
    g_assert_cmpint(x86_decode(&mode, gather, sizeof(gather), &insn), ==, X86_DECODE_OK);
    g_assert_cmpint(insn.reg, ==, 17);
    g_assert_cmpint(insn.index, ==, 28);
    g_assert_cmpint(insn.base, ==, R_RBX);
    g_assert_cmpint(insn.disp, ==, 8);
    gather[3] = 0x40;
    g_assert_cmpint(x86_decode(&mode, gather, sizeof(gather), &insn), ==, X86_DECODE_UD);
    /* Lengths below 512 bits are AVX512VL's. */
    static const uint8_t narrow[] = { 0x62, 0xf1, 0x7c, 0x28, 0x58, 0xc1 };
    mode.features[X86_FEATURE_AVX512VL / 64] &= ~(UINT64_C(1) << X86_FEATURE_AVX512VL % 64);
    g_assert_cmpint(x86_decode(&mode, narrow, sizeof(narrow), &insn), ==, X86_DECODE_UD);
    g_assert_cmpint(x86_decode(&mode, registers, sizeof(registers), &insn), ==, X86_DECODE_OK);
}

/* Any bytes: no crash, and never more read than there is. */
static void test_random(void)
{
    static const uint8_t sizes[] = { 2, 4, 8 };
    for (int i = 0; i < 300000; i++) {
        uint8_t bytes[15];
        X86Insn insn;
        X86DecodeMode mode = { .code_size = sizes[i % 3], .protected_mode = i & 64, .vex = i & 64 };
        x86_decode_all_features(&mode);
        for (size_t k = 0; k < sizeof(bytes); k++) {
            bytes[k] = (uint8_t)g_test_rand_int();
        }
        if (i % 4 == 0) {
            bytes[0] = 0x62;
            bytes[1] = (uint8_t)((bytes[1] & 0xf0) | (1 + i / 4 % 3));
            bytes[2] |= 4;
        }
        size_t count = (size_t)g_test_rand_int_range(0, 16);
        X86DecodeStatus status = x86_decode(&mode, bytes, count, &insn);
        if (status == X86_DECODE_OK) {
            g_assert_cmpuint(insn.length, <=, count);
            X86Insn again;
            g_assert_cmpint(x86_decode(&mode, bytes, insn.length, &again), ==, X86_DECODE_OK);
            g_assert_true(insn.length == 0 ||
                          x86_decode(&mode, bytes, insn.length - 1u, &again) == X86_DECODE_MORE);
        }
    }
}

/* With 16 bytes in 64-bit code there is a shorter way, the second time: it must come to the same. */
static void test_quick(void)
{
    static const uint8_t legacy[] = { 0x64, 0x65, 0x66, 0xf2, 0xf3, 0x2e, 0xf0, 0x67 };
    unsigned decoded = 0;
    for (int i = 0; i < 1500000; i++) {
        uint8_t bytes[16];
        unsigned n = 0;
        X86Insn slow, quick;
        X86DecodeMode mode = { .code_size = 8, .protected_mode = true, .vex = true };
        if (i % 3) {
            x86_decode_all_features(&mode);
        }
        for (size_t k = 0; k < sizeof(bytes); k++) {
            bytes[k] = (uint8_t)g_test_rand_int();
        }
        for (int prefixes = i % 5; prefixes > 2; prefixes--) {
            bytes[n++] = legacy[g_test_rand_int_range(0, G_N_ELEMENTS(legacy))];
        }
        if (i & 1) {
            bytes[n] = 0x40 | (bytes[n] & 15);
            n++;
        }
        if (i & 6) {
            bytes[n++] = 0x0f;
        }
        bytes[15] = 0;
        X86DecodeStatus status = x86_decode(&mode, bytes, 15, &slow);
        g_assert_cmpint(x86_decode(&mode, bytes, 16, &quick), ==, status);
        if (status == X86_DECODE_OK) {
            decoded++;
            g_assert_cmpmem(&quick, sizeof(quick), &slow, sizeof(slow));
        }
    }
    g_assert_cmpuint(decoded, >, 500000);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/decode/cases", test_cases);
    g_test_add_func("/decode/memory-operand", test_memory_operand);
    g_test_add_func("/decode/evex", test_evex);
    g_test_add_func("/decode/random", test_random);
    g_test_add_func("/decode/quick", test_quick);
    return g_test_run();
}
