/*
 * What the oracle cannot reach from CPL 3 of a Linux host: FPU and SIMD instructions under CR0, CR4 and XCR0
 * bits, x87 exceptions that wait for the next instruction, environments in both sizes, and the XSAVE family's
 * faults. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "soft_run.h"

#include "accel/soft/interp/native.h"
#include "arch/x86/cpu.h"
#include "arch/x86/cpuid.h"

#include <glib.h>
#include <string.h>

#define DATA (CASE_DATA_BASE + CASE_PAGE)

static CaseState state;
static CaseOutcome outcome;
static uint64_t default_cr0, default_cr4;

/* Runs one instruction on the state; what it leaves is the next one's state. The exception, or -1. */
#define RUN(...) run_bytes((const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))
static int run_bytes(const uint8_t *bytes, size_t n)
{
    state.rip = CASE_CODE_BASE + 64;
    memcpy(soft_code() + 64, bytes, n);
    soft_code_written();
    soft_run(&state, CASE_64, &outcome);
    state = outcome.state;
    if (outcome.vector < 0) {
        g_assert_cmphex(state.rip, ==, CASE_CODE_BASE + 64 + n);
    } else {
        g_assert_cmphex(state.rip, ==, CASE_CODE_BASE + 64);
    }
    return outcome.vector;
}

static void fresh(void)
{
    X86Cpu *cpu = soft_cpu();
    memset(&state, 0, sizeof(state));
    state.rflags = FLAG_ONE | FLAG_IF;
    state.regs[R_RBX] = DATA;
    state.regs[R_RAX] = 7;
    state.xsave[0] = 0x7f;
    state.xsave[1] = 3;
    state.xsave[24] = 0x80;
    state.xsave[25] = 0x1f;
    cpu->cr0 = default_cr0;
    cpu->cr4 = default_cr4;
    cpu->xcr0 = 7;
    memset(soft_data() + CASE_PAGE, 0, 2 * CASE_PAGE);
}

static uint16_t get16(unsigned at)
{
    uint16_t v;
    memcpy(&v, state.xsave + at, 2);
    return v;
}

static uint8_t *memory(void)
{
    return soft_data() + CASE_PAGE;
}

#define X87     0xd9, 0xe8                         /* fld1 */
#define MMX     0x0f, 0xef, 0xc0                   /* pxor mm0, mm0 */
#define SSE     0x0f, 0x57, 0xc0                   /* xorps xmm0, xmm0 */
#define AVX     0xc5, 0xf8, 0x57, 0xc0             /* vxorps xmm0, xmm0, xmm0 */
#define AVX512  0x62, 0xf1, 0x7c, 0x48, 0x10, 0x03 /* vmovups zmm0, [rbx] */
#define KNOT    0xc5, 0xf8, 0x44, 0xc9             /* knotw k1, k1 */
#define FWAIT   0x9b
#define LDMXCSR 0x0f, 0xae, 0x13
#define FXSAVE  0x0f, 0xae, 0x03
#define FXRSTOR 0x0f, 0xae, 0x0b
#define XSAVE   0x0f, 0xae, 0x23
#define XRSTOR  0x0f, 0xae, 0x2b
#define XSAVEC  0x0f, 0xc7, 0x23
#define FNSTENV 0xd9, 0x33
#define FNSAVE  0xdd, 0x33
#define FRSTOR  0xdd, 0x23

static void test_task_switched(void)
{
    fresh();
    soft_cpu()->cr0 |= CR0_TS;
    g_assert_cmpint(RUN(X87), ==, EXC_NM);
    g_assert_cmpint(RUN(MMX), ==, EXC_NM);
    g_assert_cmpint(RUN(SSE), ==, EXC_NM);
    g_assert_cmpint(RUN(AVX), ==, EXC_NM);
    g_assert_cmpint(RUN(LDMXCSR), ==, EXC_NM);
    g_assert_cmpint(RUN(FXSAVE), ==, EXC_NM);
    g_assert_cmpint(RUN(XSAVE), ==, EXC_NM);
    g_assert_cmpint(RUN(0xdb, 0xe3), ==, EXC_NM);
    g_assert_cmpint(RUN(FWAIT), ==, EXC_NM);
    soft_cpu()->cr0 &= ~(uint64_t)CR0_MP;
    g_assert_cmpint(RUN(FWAIT), ==, -1);
}

static void test_emulate(void)
{
    fresh();
    soft_cpu()->cr0 = (soft_cpu()->cr0 | CR0_EM) & ~(uint64_t)CR0_MP;
    g_assert_cmpint(RUN(X87), ==, EXC_NM);
    g_assert_cmpint(RUN(MMX), ==, EXC_UD);
    g_assert_cmpint(RUN(SSE), ==, EXC_UD);
    g_assert_cmpint(RUN(FXSAVE), ==, EXC_NM);
    g_assert_cmpint(RUN(FWAIT), ==, -1);
    g_assert_cmpint(RUN(AVX), ==, -1); /* EM is not for VEX */
}

static void test_os_support(void)
{
    fresh();
    soft_cpu()->cr4 &= ~(uint64_t)CR4_OSFXSR;
    g_assert_cmpint(RUN(SSE), ==, EXC_UD);
    g_assert_cmpint(RUN(LDMXCSR), ==, EXC_UD);
    g_assert_cmpint(RUN(MMX), ==, -1);
    g_assert_cmpint(RUN(AVX), ==, -1);
    fresh();
    soft_cpu()->cr4 &= ~(uint64_t)CR4_OSXSAVE;
    g_assert_cmpint(RUN(AVX), ==, EXC_UD);
    g_assert_cmpint(RUN(XSAVE), ==, EXC_UD);
    g_assert_cmpint(RUN(XRSTOR), ==, EXC_UD);
    g_assert_cmpint(RUN(SSE), ==, -1);
    fresh();
    soft_cpu()->xcr0 = 3;
    g_assert_cmpint(RUN(AVX), ==, EXC_UD);
    g_assert_cmpint(RUN(0xc5, 0xf8, 0x77), ==, EXC_UD);
    soft_cpu()->cr0 |= CR0_TS;
    g_assert_cmpint(RUN(AVX), ==, EXC_UD); /* #UD before #NM */
}

static bool lacks_avx512(void)
{
    if (!(cpuid_xcr0_mask(soft_cpu()) & XCR0_AVX512)) {
        g_test_skip("this host lacks AVX-512");
        return true;
    }
    return false;
}

static uint64_t opmask(unsigned n)
{
    uint64_t v;
    memcpy(&v, state.xsave + soft_cpu()->xsave_opmask + n * 8, 8);
    return v;
}

static void test_avx512(void)
{
    if (lacks_avx512()) {
        return;
    }
    fresh();
    g_assert_cmpint(RUN(AVX512), ==, EXC_UD); /* XCR0 is 7 */
    g_assert_cmpint(RUN(KNOT), ==, EXC_UD);
    g_assert_cmpint(RUN(AVX), ==, -1);
    soft_cpu()->xcr0 = 0xe7;
    g_assert_cmpint(RUN(AVX512), ==, -1);
    g_assert_cmpint(RUN(KNOT), ==, -1);
    g_assert_cmphex(opmask(1), ==, 0xffff);
    soft_cpu()->cr0 |= CR0_TS;
    g_assert_cmpint(RUN(AVX512), ==, EXC_NM);
    g_assert_cmpint(RUN(KNOT), ==, EXC_NM);
    soft_cpu()->xcr0 = 7;
    g_assert_cmpint(RUN(AVX512), ==, EXC_UD); /* #UD before #NM */
    fresh();
    soft_cpu()->xcr0 = 0xe7;
    soft_cpu()->cr4 &= ~(uint64_t)CR4_OSXSAVE;
    g_assert_cmpint(RUN(AVX512), ==, EXC_UD);
    g_assert_cmpint(RUN(KNOT), ==, EXC_UD);
    /* A VEX instruction zeroes what is above; a legacy one leaves it. */
    fresh();
    soft_cpu()->xcr0 = 0xe7;
    memset(memory(), 0x77, 64);
    g_assert_cmpint(RUN(AVX512), ==, -1);
    g_assert_cmpint(RUN(SSE), ==, -1);
    g_assert_cmphex(state.xsave[soft_cpu()->xsave_zmm_hi], ==, 0x77);
    g_assert_cmpint(RUN(AVX), ==, -1);
    g_assert_cmphex(state.xsave[soft_cpu()->xsave_zmm_hi], ==, 0);
    g_assert_cmpint(RUN(AVX512), ==, -1);
    g_assert_cmpint(RUN(0xc5, 0xf8, 0x77), ==, -1); /* vzeroupper */
    g_assert_cmphex(state.xsave[XSAVE_XMM], ==, 0x77);
    g_assert_cmphex(state.xsave[soft_cpu()->xsave_zmm_hi], ==, 0);
    /* An unmasked exception: with {sae} none. divps zmm0, zmm0, zmm1: one through zero */
    for (int os = 0; os < 2; os++) {
        fresh();
        soft_cpu()->xcr0 = 0xe7;
        soft_cpu()->cr4 &= os ? UINT64_MAX : ~(uint64_t)CR4_OSXMMEXCPT;
        state.xsave[XSAVE_XMM + 3] = 0x3f;
        state.xsave[25] = 0x1d; /* ZM clear */
        g_assert_cmpint(RUN(0x62, 0xf1, 0x7c, 0x48, 0x5e, 0xc1), ==, os ? EXC_XM : EXC_UD);
        g_assert_cmphex(state.xsave[XSAVE_XMM + 3], ==, 0x3f);
        g_assert_cmpint(RUN(0x62, 0xf1, 0x7c, 0x18, 0x5e, 0xc1), ==, -1);
    }
    soft_cpu()->xcr0 = 7;
}

/* The standard format of a guest's XSAVE area is the same on every host. */
static void test_avx512_xsave(void)
{
    if (lacks_avx512()) {
        return;
    }
    const X86Cpu *cpu = soft_cpu();
    fresh();
    soft_cpu()->xcr0 = 0xe7;
    memset(state.xsave + cpu->xsave_opmask, 0x11, 64);
    memset(state.xsave + cpu->xsave_zmm_hi, 0x22, 512);
    memset(state.xsave + cpu->xsave_hi16, 0x33, 1024);
    CaseState full = state;
    state.regs[R_RAX] = 0xe7;
    memset(memory(), 0xee, CASE_PAGE);
    memset(memory() + 512, 0, 64);
    g_assert_cmpint(RUN(XSAVE), ==, -1);
    g_assert_cmphex(memory()[512], ==, 0xe0);
    g_assert_cmphex(memory()[1087], ==, 0xee);
    g_assert_cmpmem(memory() + 1088, 64, full.xsave + cpu->xsave_opmask, 64);
    g_assert_cmpmem(memory() + 1152, 512, full.xsave + cpu->xsave_zmm_hi, 512);
    g_assert_cmpmem(memory() + 1664, 1024, full.xsave + cpu->xsave_hi16, 1024);
    g_assert_cmphex(memory()[2688], ==, 0xee);
    /* Initial where the header says so, untouched where not asked for. */
    memory()[512] = 0x80;
    state.regs[R_RAX] = 0xc0;
    g_assert_cmpint(RUN(XRSTOR), ==, -1);
    g_assert_cmpmem(state.xsave + cpu->xsave_opmask, 64, full.xsave + cpu->xsave_opmask, 64);
    for (unsigned i = 0; i < 512; i++) {
        g_assert_cmphex(state.xsave[cpu->xsave_zmm_hi + i], ==, 0);
    }
    g_assert_cmpmem(state.xsave + cpu->xsave_hi16, 1024, full.xsave + cpu->xsave_hi16, 1024);
    /* Compacted: one behind the other, without gaps. */
    state = full;
    state.regs[R_RAX] = 0xa4;
    memset(memory(), 0xee, CASE_PAGE);
    memset(memory() + 512, 0, 64);
    g_assert_cmpint(RUN(XSAVEC), ==, -1);
    g_assert_cmphex(memory()[512], ==, 0xa0);
    g_assert_cmphex(memory()[520], ==, 0xa4);
    g_assert_cmphex(memory()[831], ==, 0xee); /* AVX's place, not in use */
    g_assert_cmpmem(memory() + 832, 64, full.xsave + cpu->xsave_opmask, 64);
    g_assert_cmpmem(memory() + 896, 1024, full.xsave + cpu->xsave_hi16, 1024);
    g_assert_cmphex(memory()[1920], ==, 0xee);
    memset(state.xsave + cpu->xsave_hi16, 0x44, 1024);
    g_assert_cmpint(RUN(XRSTOR), ==, -1);
    g_assert_cmpmem(state.xsave + cpu->xsave_hi16, 1024, full.xsave + cpu->xsave_hi16, 1024);
    soft_cpu()->xcr0 = 7;
}

static void test_simd_exceptions(void)
{
    static const float ones[4] = { 1, 1, 1, 1 };
    for (int os = 0; os < 2; os++) {
        fresh();
        if (!os) {
            soft_cpu()->cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
        }
        memcpy(state.xsave + XSAVE_XMM, ones, 16);
        state.xsave[25] = 0x1d; /* ZM clear */
        /* divps xmm0, xmm1: one through zero */
        g_assert_cmpint(RUN(0x0f, 0x5e, 0xc1), ==, os ? EXC_XM : EXC_UD);
        g_assert_cmpmem(state.xsave + XSAVE_XMM, 16, ones, 16);
        g_assert_cmphex(get16(XSAVE_MXCSR), ==, 0x1d84);
        /* the host's own MXCSR is as it was */
        g_assert_cmphex(__builtin_ia32_stmxcsr() & 0xffc0, ==, 0x1f80);
        /* the same with VEX and from memory */
        g_assert_cmpint(RUN(0xc5, 0xf8, 0x5e, 0x03), ==, os ? EXC_XM : EXC_UD);
        state.xsave[25] = 0x1f;
        g_assert_cmpint(RUN(0x0f, 0x5e, 0xc1), ==, -1);
    }
}

static void test_pending_x87(void)
{
    fresh();
    state.xsave[0] = 0x7b;                    /* ZM clear */
    g_assert_cmpint(RUN(0xd9, 0xe8), ==, -1); /* fld1 */
    g_assert_cmpint(RUN(0xd9, 0xee), ==, -1); /* fldz */
    g_assert_cmpint(RUN(0xd8, 0xf9), ==, -1); /* fdivr st0, st1: 1 / 0; reported later */
    g_assert_cmphex(get16(XSAVE_FSW) & 0x8084, ==, 0x8084);
    uint64_t fip;
    memcpy(&fip, state.xsave + XSAVE_FIP, 8);
    g_assert_false(native_contains(fip));
    g_assert_cmpint(RUN(0xdf, 0xe0), ==, -1); /* fnstsw ax does not wait */
    g_assert_cmphex(state.regs[R_RAX] & 0x8084, ==, 0x8084);
    g_assert_cmpint(RUN(X87), ==, EXC_MF);
    g_assert_cmpint(RUN(FWAIT), ==, EXC_MF);
    g_assert_cmpint(RUN(MMX), ==, EXC_MF);
    g_assert_cmpint(RUN(0xd9, 0x2b), ==, EXC_MF); /* fldcw */
    g_assert_cmpint(RUN(FRSTOR), ==, EXC_MF);
    g_assert_cmpint(RUN(SSE), ==, -1);
    g_assert_cmpint(RUN(0xd9, 0x3b), ==, -1); /* fnstcw */
    g_assert_cmpint(RUN(FNSTENV), ==, -1);    /* masks everything */
    g_assert_cmphex(get16(XSAVE_FCW), ==, 0x37f);
    g_assert_cmphex(get16(XSAVE_FSW) & 0x8084, ==, 4);
    g_assert_cmpint(RUN(X87), ==, -1);
    /* an unmasked overflow on a store leaves memory and the stack alone */
    fresh();
    state.xsave[0] = 0x77; /* OM clear */
    state.xsave[4] = 1;
    state.xsave[3] = 0; /* top 0 */
    memcpy(state.xsave + XSAVE_ST, (const uint8_t[]){ 0, 0, 0, 0, 0, 0, 0, 0x80, 0xfe, 0x7f }, 10);
    memset(memory(), 0xaa, 16);
    g_assert_cmpint(RUN(0xd9, 0x1b), ==, -1); /* fstp dword [rbx] */
    g_assert_cmphex(memory()[0], ==, 0xaa);
    g_assert_cmphex(state.xsave[4], ==, 1);
    g_assert_cmpint(RUN(FWAIT), ==, EXC_MF);
}

static void test_environment(void)
{
    fresh();
    g_assert_cmpint(RUN(0xd9, 0xe8), ==, -1); /* fld1: physical register 7 */
    g_assert_cmpint(RUN(0xd9, 0xee), ==, -1); /* fldz: 6 */
    g_assert_cmpint(RUN(FNSTENV), ==, -1);
    const uint8_t *m = memory();
    g_assert_cmphex(m[0] | m[1] << 8, ==, 0x37f);
    g_assert_cmphex(m[4] | m[5] << 8, ==, 6 << 11);
    g_assert_cmphex(m[8] | m[9] << 8, ==, 0x1fff); /* 7 valid, 6 zero, others empty */
    g_assert_cmphex(m[2], ==, 0xff);
    memset(memory(), 0x55, 128);
    g_assert_cmpint(RUN(0x66, 0xd9, 0x33), ==, -1); /* 16 bits: 14 bytes */
    g_assert_cmphex(m[2] | m[3] << 8, ==, 6 << 11);
    g_assert_cmphex(m[4] | m[5] << 8, ==, 0x1fff);
    g_assert_cmphex(m[14], ==, 0x55);
    CaseState before = state;
    g_assert_cmpint(RUN(FNSAVE), ==, -1);
    g_assert_cmphex(get16(XSAVE_FSW), ==, 0);
    g_assert_cmphex(state.xsave[XSAVE_FTW], ==, 0);
    g_assert_cmphex(m[28 + 8] | m[28 + 9] << 8, ==, 0);      /* ST0 is zero */
    g_assert_cmphex(m[38 + 8] | m[38 + 9] << 8, ==, 0x3fff); /* ST1 is one */
    g_assert_cmpint(RUN(FRSTOR), ==, -1);
    g_assert_cmpmem(state.xsave, 6, before.xsave, 6);
    g_assert_cmpmem(state.xsave + XSAVE_ST, 128, before.xsave + XSAVE_ST, 128);
    /* FINCSTP, FFREE and physical numbering: MMX register 6 is what was ST0 */
    g_assert_cmpint(RUN(0x0f, 0x7f, 0x3b), ==, -1); /* movq [rbx], mm7: the one's significand */
    g_assert_cmphex(m[7], ==, 0x80);
    g_assert_cmphex(get16(XSAVE_FSW), ==, 0);
    g_assert_cmphex(state.xsave[XSAVE_FTW], ==, 0xff);
}

static void test_xsave(void)
{
    fresh();
    for (unsigned i = 0; i < 256; i++) {
        state.xsave[XSAVE_XMM + i] = (uint8_t)i;
        state.xsave[XSAVE_AVX + i] = (uint8_t)~i;
    }
    g_assert_cmpint(RUN(X87), ==, -1);
    CaseState full = state;
    g_assert_cmpint(RUN(XSAVE), ==, -1);
    g_assert_cmphex(memory()[512], ==, 7);
    g_assert_cmpmem(memory() + 576, 256, full.xsave + XSAVE_AVX, 256);
    /* initial configuration comes back where XSTATE_BV says so, and only for what is asked */
    memory()[512] = 1;
    state.regs[R_RAX] = 5;
    g_assert_cmpint(RUN(XRSTOR), ==, -1);
    g_assert_cmpmem(state.xsave + XSAVE_XMM, 256, full.xsave + XSAVE_XMM, 256);
    for (unsigned i = 0; i < 256; i++) {
        g_assert_cmphex(state.xsave[XSAVE_AVX + i], ==, 0);
    }
    state.regs[R_RAX] = 7;
    /* compacted: an unused component is not written */
    memset(memory(), 0xee, 1024);
    g_assert_cmpint(RUN(XSAVEC), ==, -1);
    g_assert_cmphex(memory()[512], ==, 3);
    g_assert_cmphex(memory()[520], ==, 7);
    g_assert_cmphex(memory()[527], ==, 0x80);
    g_assert_cmphex(memory()[600], ==, 0xee);
    memset(memory() + 528, 0, 48);
    state = full;
    g_assert_cmpint(RUN(XRSTOR), ==, -1);
    g_assert_cmphex(state.xsave[XSAVE_AVX], ==, 0);
    g_assert_cmpmem(state.xsave + XSAVE_XMM, 256, full.xsave + XSAVE_XMM, 256);
    /* faults: a reserved bit, a header byte, MXCSR, alignment; nothing changes */
    static const struct {
        unsigned at;
        uint8_t value;
    } bad[] = { { 512, 0x10 }, { 528, 1 }, { 520, 0x40 }, { 26, 1 } };
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint8_t old = memory()[bad[i].at];
        memory()[bad[i].at] = bad[i].value;
        g_assert_cmpint(RUN(XRSTOR), ==, EXC_GP);
        g_assert_cmpmem(state.xsave + XSAVE_XMM, 256, full.xsave + XSAVE_XMM, 256);
        memory()[bad[i].at] = old;
    }
    state.regs[R_RBX]++;
    g_assert_cmpint(RUN(XSAVE), ==, EXC_GP);
    g_assert_cmpint(RUN(FXSAVE), ==, EXC_GP);
    /* a store that faults at its end has written nothing */
    state.regs[R_RBX] = DATA + 2 * CASE_PAGE - 512;
    memset(memory() + 2 * CASE_PAGE - 512, 0x33, 512);
    g_assert_cmpint(RUN(XSAVE), ==, EXC_PF);
    for (unsigned i = 0; i < 512; i++) {
        g_assert_cmphex(memory()[2 * CASE_PAGE - 512 + i], ==, 0x33);
    }
}

static void test_fxsave(void)
{
    fresh();
    for (unsigned i = 0; i < 256; i++) {
        state.xsave[XSAVE_XMM + i] = (uint8_t)i;
    }
    memset(memory(), 0x77, 512);
    g_assert_cmpint(RUN(FXSAVE), ==, -1);
    g_assert_cmpmem(memory() + 160, 256, state.xsave + XSAVE_XMM, 256);
    g_assert_cmphex(memory()[416], ==, 0x77);
    g_assert_cmphex(memory()[28] | memory()[29] << 8, ==, 0xffff); /* MXCSR_MASK */
    memory()[26] = 1;
    g_assert_cmpint(RUN(FXRSTOR), ==, EXC_GP);
    memory()[26] = 0;
    memory()[160] = 0x99;
    g_assert_cmpint(RUN(FXRSTOR), ==, -1);
    g_assert_cmphex(state.xsave[XSAVE_XMM], ==, 0x99);
    soft_cpu()->cr4 &= ~(uint64_t)CR4_OSFXSR;
    memory()[160] = 0x11;
    g_assert_cmpint(RUN(FXRSTOR), ==, -1);
    g_assert_cmphex(state.xsave[XSAVE_XMM], ==, 0x99); /* XMM registers are left out */
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    const char *why = soft_setup(SOFT_INTERPRETED);
    if (why) {
        g_test_message("%s", why);
        return 77;
    }
    default_cr0 = soft_cpu()->cr0;
    default_cr4 = soft_cpu()->cr4;
    g_test_add_func("/fpu/task-switched", test_task_switched);
    g_test_add_func("/fpu/emulate", test_emulate);
    g_test_add_func("/fpu/os-support", test_os_support);
    g_test_add_func("/fpu/avx512", test_avx512);
    g_test_add_func("/fpu/avx512-xsave", test_avx512_xsave);
    g_test_add_func("/fpu/simd-exceptions", test_simd_exceptions);
    g_test_add_func("/fpu/pending-x87", test_pending_x87);
    g_test_add_func("/fpu/environment", test_environment);
    g_test_add_func("/fpu/xsave", test_xsave);
    g_test_add_func("/fpu/fxsave", test_fxsave);
    return g_test_run();
}
