/*
 * Which rows of the instruction table a CPU has: the table's feature names against its CPUID feature words.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/ops.h"
#include "arch/x86/cpuid.h"

typedef struct RowFeature {
    uint16_t feature; /* X86_FEATURE_* */
    uint8_t word;     /* FeatureWord */
    uint8_t bit;
} RowFeature;

/* SDM vol. 2 CPUID; AMD APM vol. 3 appendix E. */
static const RowFeature row_features[] = {
    { X86_FEATURE_FPU, FEAT_1_EDX, 0 },
    { X86_FEATURE_TSC, FEAT_1_EDX, 4 },
    { X86_FEATURE_MSR, FEAT_1_EDX, 5 },
    { X86_FEATURE_CX8, FEAT_1_EDX, 8 },
    { X86_FEATURE_SEP, FEAT_1_EDX, 11 },
    { X86_FEATURE_CMOV, FEAT_1_EDX, 15 },
    { X86_FEATURE_CLFSH, FEAT_1_EDX, 19 },
    { X86_FEATURE_MMX, FEAT_1_EDX, 23 },
    { X86_FEATURE_FXSR, FEAT_1_EDX, 24 },
    { X86_FEATURE_SSE, FEAT_1_EDX, 25 },
    { X86_FEATURE_SSE2, FEAT_1_EDX, 26 },
    { X86_FEATURE_SSE3, FEAT_1_ECX, 0 },
    { X86_FEATURE_PCLMULQDQ, FEAT_1_ECX, 1 },
    { X86_FEATURE_MONITOR, FEAT_1_ECX, 3 },
    { X86_FEATURE_SSSE3, FEAT_1_ECX, 9 },
    { X86_FEATURE_FMA, FEAT_1_ECX, 12 },
    { X86_FEATURE_CX16, FEAT_1_ECX, 13 },
    { X86_FEATURE_SSE4_1, FEAT_1_ECX, 19 },
    { X86_FEATURE_SSE4_2, FEAT_1_ECX, 20 },
    { X86_FEATURE_MOVBE, FEAT_1_ECX, 22 },
    { X86_FEATURE_POPCNT, FEAT_1_ECX, 23 },
    { X86_FEATURE_AES, FEAT_1_ECX, 25 },
    { X86_FEATURE_XSAVE, FEAT_1_ECX, 26 },
    { X86_FEATURE_AVX, FEAT_1_ECX, 28 },
    { X86_FEATURE_F16C, FEAT_1_ECX, 29 },
    { X86_FEATURE_RDRAND, FEAT_1_ECX, 30 },
    { X86_FEATURE_FSGSBASE, FEAT_7_0_EBX, 0 },
    { X86_FEATURE_BMI1, FEAT_7_0_EBX, 3 },
    { X86_FEATURE_AVX2, FEAT_7_0_EBX, 5 },
    { X86_FEATURE_BMI2, FEAT_7_0_EBX, 8 },
    { X86_FEATURE_INVPCID, FEAT_7_0_EBX, 10 },
    { X86_FEATURE_RDSEED, FEAT_7_0_EBX, 18 },
    { X86_FEATURE_ADX, FEAT_7_0_EBX, 19 },
    { X86_FEATURE_SMAP, FEAT_7_0_EBX, 20 },
    { X86_FEATURE_CLFLUSHOPT, FEAT_7_0_EBX, 23 },
    { X86_FEATURE_CLWB, FEAT_7_0_EBX, 24 },
    { X86_FEATURE_SHA, FEAT_7_0_EBX, 29 },
    { X86_FEATURE_AVX512F, FEAT_7_0_EBX, 16 },
    { X86_FEATURE_AVX512DQ, FEAT_7_0_EBX, 17 },
    { X86_FEATURE_AVX512_IFMA, FEAT_7_0_EBX, 21 },
    { X86_FEATURE_AVX512CD, FEAT_7_0_EBX, 28 },
    { X86_FEATURE_AVX512BW, FEAT_7_0_EBX, 30 },
    { X86_FEATURE_AVX512VL, FEAT_7_0_EBX, 31 },
    { X86_FEATURE_AVX512_VBMI, FEAT_7_0_ECX, 1 },
    { X86_FEATURE_AVX512_VBMI2, FEAT_7_0_ECX, 6 },
    { X86_FEATURE_PKU, FEAT_7_0_ECX, 3 },
    { X86_FEATURE_GFNI, FEAT_7_0_ECX, 8 },
    { X86_FEATURE_VAES, FEAT_7_0_ECX, 9 },
    { X86_FEATURE_VPCLMULQDQ, FEAT_7_0_ECX, 10 },
    { X86_FEATURE_AVX512_VNNI, FEAT_7_0_ECX, 11 },
    { X86_FEATURE_AVX512_BITALG, FEAT_7_0_ECX, 12 },
    { X86_FEATURE_AVX512_VPOPCNTDQ, FEAT_7_0_ECX, 14 },
    { X86_FEATURE_AVX512_BF16, FEAT_7_1_EAX, 5 },
    { X86_FEATURE_RDPID, FEAT_7_0_ECX, 22 },
    { X86_FEATURE_SYSCALL, FEAT_8000_0001_EDX, 11 },
    { X86_FEATURE_RDTSCP, FEAT_8000_0001_EDX, 27 },
    { X86_FEATURE_LAHF, FEAT_8000_0001_ECX, 0 },
    { X86_FEATURE_LZCNT, FEAT_8000_0001_ECX, 5 },
    { X86_FEATURE_PREFETCHW, FEAT_8000_0001_ECX, 8 },
    { X86_FEATURE_XSAVEOPT, FEAT_XSAVE, 0 },
    { X86_FEATURE_XSAVEC, FEAT_XSAVE, 1 },
};

void interp_decode_features(const X86Cpu *cpu, X86DecodeMode *mode)
{
    memset(mode->features, 0, sizeof(mode->features));
    for (unsigned i = 0; i < G_N_ELEMENTS(row_features); i++) {
        const RowFeature *f = &row_features[i];
        if (cpu->cpuid_features[f->word] >> f->bit & 1) {
            mode->features[f->feature / 64] |= UINT64_C(1) << (f->feature % 64);
        }
    }
    /* PREFETCHW and PREFETCH are hints that long-mode processors take without the CPUID bit. */
    if (cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_LM)) {
        mode->features[X86_FEATURE_PREFETCHW / 64] |= UINT64_C(1) << (X86_FEATURE_PREFETCHW % 64);
    }
}
