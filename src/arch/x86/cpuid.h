/*
 * CPUID: feature words, CPU models, and what the guest is shown. SDM vol. 2 CPUID; AMD APM vol. 3 appendix E;
 * Linux Documentation/virt/kvm/x86/cpuid.rst for the leaves at 0x40000000. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_CPUID_H
#define RHEA_ARCH_X86_CPUID_H

#include "arch/x86/cpu.h"

typedef enum FeatureWord {
    FEAT_1_EDX,
    FEAT_1_ECX,
    FEAT_7_0_EBX,
    FEAT_7_0_ECX,
    FEAT_7_0_EDX,
    FEAT_7_1_EAX,
    FEAT_8000_0001_EDX,
    FEAT_8000_0001_ECX,
    FEAT_8000_0007_EDX,
    FEAT_8000_0008_EBX,
    FEAT_8000_0021_EAX,
    FEAT_XSAVE, /* leaf 0xd, subleaf 1, EAX */
    FEAT_6_EAX,
    FEAT_KVM,
    FEAT_KVM_HINTS,
    FEAT_ARCH_CAPABILITIES, /* MSR 0x10a, low half */
    FEAT_CORE_CAPABILITIES, /* MSR 0xcf */
    FEAT_PERF_CAPABILITIES, /* MSR 0x345 */
    FEAT_SVM,               /* leaf 0x8000000a, EDX */
    FEAT_C000_0001_EDX,
    FEAT_14_0_ECX,
    FEAT_SGX_12_0_EAX,
    FEAT_SGX_12_0_EBX,
    FEAT_SGX_12_1_EAX,
    FEAT_VMX_PROCBASED, /* MSR 0x48e, allowed 1-settings */
    FEAT_VMX_SECONDARY, /* MSR 0x48b, allowed 1-settings */
    FEAT_VMX_PINBASED,  /* MSR 0x48d, allowed 1-settings */
    FEAT_VMX_EXIT,      /* MSR 0x48f, allowed 1-settings */
    FEAT_VMX_ENTRY,     /* MSR 0x490, allowed 1-settings */
    FEAT_VMX_MISC,      /* MSR 0x485 */
    FEAT_VMX_EPT,       /* MSR 0x48c, low half */
    FEAT_VMX_VPID,      /* MSR 0x48c, high half */
    FEAT_VMX_BASIC,     /* MSR 0x480, high half */
    FEAT_VMX_VMFUNC,    /* MSR 0x491 */
    FEATURE_WORDS,
} FeatureWord;

/* Bits that code asks for by name. */
#define CPUID_VME                      (1u << 1)
#define CPUID_DE                       (1u << 2)
#define CPUID_PSE                      (1u << 3)
#define CPUID_TSC                      (1u << 4)
#define CPUID_PAE                      (1u << 6)
#define CPUID_MCE                      (1u << 7)
#define CPUID_APIC                     (1u << 9)
#define CPUID_SEP                      (1u << 11)
#define CPUID_MTRR                     (1u << 12)
#define CPUID_PGE                      (1u << 13)
#define CPUID_MCA                      (1u << 14)
#define CPUID_PAT                      (1u << 16)
#define CPUID_CLFLUSH                  (1u << 19)
#define CPUID_FXSR                     (1u << 24)
#define CPUID_SSE                      (1u << 25)
#define CPUID_SSE2                     (1u << 26)
#define CPUID_HT                       (1u << 28)
#define CPUID_EXT_MONITOR              (1u << 3)
#define CPUID_EXT_VMX                  (1u << 5)
#define CPUID_EXT_FMA                  (1u << 12)
#define CPUID_EXT_CX16                 (1u << 13)
#define CPUID_EXT_PDCM                 (1u << 15)
#define CPUID_EXT_PCID                 (1u << 17)
#define CPUID_EXT_X2APIC               (1u << 21)
#define CPUID_EXT_MOVBE                (1u << 22)
#define CPUID_EXT_POPCNT               (1u << 23)
#define CPUID_EXT_TSC_DEADLINE         (1u << 24)
#define CPUID_EXT_AES                  (1u << 25)
#define CPUID_EXT_XSAVE                (1u << 26)
#define CPUID_EXT_OSXSAVE              (1u << 27)
#define CPUID_EXT_AVX                  (1u << 28)
#define CPUID_EXT_F16C                 (1u << 29)
#define CPUID_EXT_RDRAND               (1u << 30)
#define CPUID_EXT_HYPERVISOR           (1u << 31)
#define CPUID_7_FSGSBASE               (1u << 0)
#define CPUID_7_TSC_ADJUST             (1u << 1)
#define CPUID_7_BMI1                   (1u << 3)
#define CPUID_7_AVX2                   (1u << 5)
#define CPUID_7_SMEP                   (1u << 7)
#define CPUID_7_BMI2                   (1u << 8)
#define CPUID_7_INVPCID                (1u << 10)
#define CPUID_7_RDSEED                 (1u << 18)
#define CPUID_7_ADX                    (1u << 19)
#define CPUID_7_SMAP                   (1u << 20)
#define CPUID_7_CLFLUSHOPT             (1u << 23)
#define CPUID_7_CLWB                   (1u << 24)
#define CPUID_7_INTEL_PT               (1u << 25)
#define CPUID_7_SHA                    (1u << 29)
#define CPUID_7_AVX512F                (1u << 16)
#define CPUID_7_AVX512DQ               (1u << 17)
#define CPUID_7_AVX512IFMA             (1u << 21)
#define CPUID_7_AVX512CD               (1u << 28)
#define CPUID_7_AVX512BW               (1u << 30)
#define CPUID_7_AVX512VL               (1u << 31)
#define CPUID_7C_AVX512VBMI            (1u << 1)
#define CPUID_7C_AVX512VBMI2           (1u << 6)
#define CPUID_7C_GFNI                  (1u << 8)
#define CPUID_7C_VAES                  (1u << 9)
#define CPUID_7C_VPCLMULQDQ            (1u << 10)
#define CPUID_7C_AVX512VNNI            (1u << 11)
#define CPUID_7C_AVX512BITALG          (1u << 12)
#define CPUID_7C_AVX512VPOPCNTDQ       (1u << 14)
#define CPUID_7_1A_AVX512BF16          (1u << 5)
#define CPUID_7C_UMIP                  (1u << 2)
#define CPUID_7C_PKU                   (1u << 3)
#define CPUID_7C_OSPKE                 (1u << 4)
#define CPUID_7C_PKS                   (1u << 31)
#define CPUID_7C_RDPID                 (1u << 22)
#define CPUID_7D_SPEC_CTRL             (1u << 26)
#define CPUID_7D_ARCH_CAPABILITIES     (1u << 29)
#define CPUID_7D_CORE_CAPABILITIES     (1u << 30)
#define CPUID_EXT2_SYSCALL             (1u << 11)
#define CPUID_EXT2_NX                  (1u << 20)
#define CPUID_EXT2_FFXSR               (1u << 25)
#define CPUID_EXT2_PDPE1GB             (1u << 26)
#define CPUID_EXT2_RDTSCP              (1u << 27)
#define CPUID_EXT2_LM                  (1u << 29)
#define CPUID_EXT3_LAHF                (1u << 0)
#define CPUID_EXT3_SVM                 (1u << 2)
#define CPUID_EXT3_ABM                 (1u << 5)
#define CPUID_EXT3_TOPOEXT             (1u << 22)
#define CPUID_XSAVEOPT                 (1u << 0)
#define CPUID_XSAVEC                   (1u << 1)
#define CPUID_XGETBV1                  (1u << 2)
#define CPUID_XSAVES                   (1u << 3)
#define KVM_FEATURE_CLOCKSOURCE        (1u << 0)
#define KVM_FEATURE_NOPIODELAY         (1u << 1)
#define KVM_FEATURE_CLOCKSOURCE2       (1u << 3)
#define KVM_FEATURE_STEAL_TIME         (1u << 5)
#define KVM_FEATURE_PV_EOI             (1u << 6)
#define KVM_FEATURE_PV_UNHALT          (1u << 7)
#define KVM_FEATURE_PV_TLB_FLUSH       (1u << 9)
#define KVM_FEATURE_PV_SEND_IPI        (1u << 11)
#define KVM_FEATURE_POLL_CONTROL       (1u << 12)
#define KVM_FEATURE_PV_SCHED_YIELD     (1u << 13)
#define KVM_FEATURE_CLOCKSOURCE_STABLE (1u << 24)

/* A name that -cpu takes. */
typedef struct X86CpuModel {
    const char *name;
    const struct X86CpuGeneration *generation; /* the table's entry; NULL: none of a real CPU's */
    unsigned version;                          /* of the generation */
    bool unversioned;                          /* the machine chooses the version: this one, or the latest */
    bool everything;                           /* no list: all that this host and Rhea offer */
    const char *alias_of;                      /* the versioned name; NULL: this is one */
    const char *latest;                        /* of an unversioned name: the last version's name */
    const char *description;                   /* NULL: an alias */
} X86CpuModel;

/* What a model stands for, before anything is known of the host and the accelerator. */
typedef struct X86CpuIdentity {
    const char *vendor, *model_id; /* constants */
    uint32_t family, model, stepping, level, xlevel;
    uint32_t features[FEATURE_WORDS];
} X86CpuIdentity;

/* Per CPU, besides cpu->cpuid_features. */
typedef struct X86CpuidState {
    char vendor[13];
    char model_id[49];
    uint32_t family, model, stepping;
    uint32_t level, xlevel;
    bool kvm; /* show the KVM leaves */
    bool check, enforce, migratable, topoext_forced;
    uint64_t tsc_hz;
    uint32_t user_set[FEATURE_WORDS];    /* bits that the user named */
    uint32_t unavailable[FEATURE_WORDS]; /* asked for, but not to be had: set by realize */
    uint32_t phys_bits;                  /* 0: default */
    bool host_phys_bits, l3_cache, cpuid_0xb, pmu;
    char *hv_vendor_id;
} X86CpuidState;

static inline bool cpu_has_feature(const X86Cpu *cpu, FeatureWord word, uint32_t mask)
{
    return (cpu->cpuid_features[word] & mask) == mask;
}

/* The name of a bit, or NULL. */
const char *cpuid_feature_name(FeatureWord word, unsigned bit);
/* Finds a feature by its QEMU name; '_' and '-' are the same. false: no such feature. */
bool cpuid_feature_find(const char *name, FeatureWord *word, unsigned *bit);
/* What Rhea implements and this host can run. */
uint32_t cpuid_supported(FeatureWord word);
/* What guests can have under an accelerator that runs them on the host's processor: the words that it offers,
 * as far as Rhea knows the features' state. Models are then shown with the host's vendor, as software expects
 * of system calls. Control plane, before CPUs are made. */
void cpuid_set_accelerator(const uint32_t words[FEATURE_WORDS]);
/* Where QEMU's messages would place it: "CPUID.07H:EBX". */
const char *cpuid_word_location(FeatureWord word);
/* Whether guests run on the host's processor (cpuid_set_accelerator). */
bool cpuid_is_native(void);

/* All models, each under each of its names. */
const X86CpuModel *x86_cpu_models(unsigned *count);
/* NULL: no such model. */
const X86CpuModel *x86_cpu_model_find(const char *name);
void x86_cpu_model_resolve(const X86CpuModel *model, X86CpuIdentity *id);
/* What a machine that moves with time makes of a model's name: the latest version's; other names stay. */
const char *x86_cpu_model_latest(const char *name);
/* The text of "-cpu help": models and feature names. Caller frees. */
char *x86_cpu_models_help(void);

/* Fills identity and features of a new CPU from its model. */
void cpuid_init_from_model(X86Cpu *cpu, const X86CpuModel *model);
/* Drops what cannot be had (noting it in unavailable) and what depends on it. */
void cpuid_filter(X86Cpu *cpu);
/* The instruction's answer for a leaf. */
void cpuid_leaf(X86Cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
/* IA32_ARCH_CAPABILITIES. */
uint64_t cpuid_arch_capabilities(const X86Cpu *cpu);
/* Leaf 1's EAX, and EDX after reset. */
uint32_t cpuid_signature(const X86Cpu *cpu);
bool cpuid_is_intel(const X86Cpu *cpu);
bool cpuid_is_amd(const X86Cpu *cpu); /* or Hygon */
/* XCR0 bits that the guest may set, and the area that they need. */
uint64_t cpuid_xcr0_mask(const X86Cpu *cpu);
/* Whether the components may be enabled together, SDM vol. 1 13.3: x87 always, AVX with SSE, AVX-512 whole
 * and with AVX. */
bool cpuid_xcr0_valid(uint64_t xcr0);
/* Sets where the host's XSAVE image has what AVX-512 adds. */
void cpuid_host_xsave(X86Cpu *cpu);

#endif
