/*
 * Features and the CPUID instruction: see cpuid.h; the models are in cpu_models.c.
 *
 * Policy: a guest is offered only what Rhea implements and this host's processor can execute, since floating
 * point and SIMD run on it. The speculation bits say that nothing leaks (nothing is speculated across guest
 * privilege here), so that guests leave their mitigations off. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/cpuid.h"

#include "arch/x86/apic.h"
#include "arch/x86/system.h"
#include "base/log.h"

#include <cpuid.h>
#include <string.h>

static const char *const feature_names[FEATURE_WORDS][32] = {
    [FEAT_1_EDX] = { "fpu",  "vme",  "de",   "pse", "tsc",  "msr", "pae",   "mce", "cx8",     "apic", NULL,
                     "sep",  "mtrr", "pge",  "mca", "cmov", "pat", "pse36", "pn",  "clflush", NULL,   "ds",
                     "acpi", "mmx",  "fxsr", "sse", "sse2", "ss",  "ht",    "tm",  "ia64",    "pbe" },
    [FEAT_1_ECX] = { "pni",    "pclmulqdq", "dtes64", "monitor",      "ds-cpl", "vmx",    "smx",
                     "est",    "tm2",       "ssse3",  "cid",          NULL,     "fma",    "cx16",
                     "xtpr",   "pdcm",      NULL,     "pcid",         "dca",    "sse4.1", "sse4.2",
                     "x2apic", "movbe",     "popcnt", "tsc-deadline", "aes",    "xsave",  NULL,
                     "avx",    "f16c",      "rdrand", "hypervisor" },
    [FEAT_7_0_EBX] = { "fsgsbase", "tsc-adjust", "sgx",      "bmi1",       "hle",      "avx2",
                       NULL,       "smep",       "bmi2",     "erms",       "invpcid",  "rtm",
                       NULL,       NULL,         "mpx",      NULL,         "avx512f",  "avx512dq",
                       "rdseed",   "adx",        "smap",     "avx512ifma", "pcommit",  "clflushopt",
                       "clwb",     "intel-pt",   "avx512pf", "avx512er",   "avx512cd", "sha-ni",
                       "avx512bw", "avx512vl" },
    [FEAT_7_0_ECX] = { NULL,         "avx512vbmi",  "umip",         "pku",       NULL,
                       "waitpkg",    "avx512vbmi2", NULL,           "gfni",      "vaes",
                       "vpclmulqdq", "avx512vnni",  "avx512bitalg", NULL,        "avx512-vpopcntdq",
                       NULL,         "la57",        NULL,           NULL,        NULL,
                       NULL,         NULL,          "rdpid",        NULL,        "bus-lock-detect",
                       "cldemote",   NULL,          "movdiri",      "movdir64b", NULL,
                       "sgxlc",      "pks" },
    [FEAT_7_0_EDX] = { NULL,
                       NULL,
                       "avx512-4vnniw",
                       "avx512-4fmaps",
                       "fsrm",
                       NULL,
                       NULL,
                       NULL,
                       "avx512-vp2intersect",
                       NULL,
                       "md-clear",
                       NULL,
                       NULL,
                       NULL,
                       "serialize",
                       NULL,
                       "tsx-ldtrk",
                       NULL,
                       NULL,
                       "arch-lbr",
                       NULL,
                       NULL,
                       "amx-bf16",
                       "avx512-fp16",
                       "amx-tile",
                       "amx-int8",
                       "spec-ctrl",
                       "stibp",
                       "flush-l1d",
                       "arch-capabilities",
                       "core-capability",
                       "ssbd" },
    [FEAT_7_1_EAX] = { NULL, NULL, NULL, NULL, "avx-vnni", "avx512-bf16", NULL, NULL, NULL, NULL, "fzrm",
                       "fsrs", "fsrc" },
    [FEAT_8000_0001_EDX] = { NULL, NULL,       NULL,      NULL,      NULL, NULL, NULL,       NULL,
                             NULL, NULL,       NULL,      "syscall", NULL, NULL, NULL,       NULL,
                             NULL, NULL,       NULL,      NULL,      "nx", NULL, "mmxext",   NULL,
                             NULL, "fxsr-opt", "pdpe1gb", "rdtscp",  NULL, "lm", "3dnowext", "3dnow" },
    [FEAT_8000_0001_ECX] = { "lahf-lm",   "cmp-legacy",  "svm",
                             "extapic",   "cr8legacy",   "abm",
                             "sse4a",     "misalignsse", "3dnowprefetch",
                             "osvw",      "ibs",         "xop",
                             "skinit",    "wdt",         NULL,
                             "lwp",       "fma4",        "tce",
                             NULL,        "nodeid-msr",  NULL,
                             "tbm",       "topoext",     "perfctr-core",
                             "perfctr-nb" },
    [FEAT_8000_0007_EDX] = { NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, "invtsc" },
    [FEAT_8000_0008_EBX] = { "clzero",    NULL,        "xsaveerptr",
                             NULL,        NULL,        NULL,
                             NULL,        NULL,        NULL,
                             "wbnoinvd",  NULL,        NULL,
                             "ibpb",      NULL,        "ibrs",
                             "amd-stibp", NULL,        "stibp-always-on",
                             NULL,        NULL,        NULL,
                             NULL,        NULL,        NULL,
                             "amd-ssbd",  "virt-ssbd", "amd-no-ssb",
                             NULL,        "amd-psfd",  "btc-no" },
    [FEAT_8000_0021_EAX] = { "no-nested-data-bp", NULL, "lfence-always-serializing", NULL, NULL, NULL,
                             "null-sel-clr-base", NULL, "auto-ibrs", [29] = "srso-no" },
    [FEAT_XSAVE] = { "xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd" },
    [FEAT_6_EAX] = { NULL, NULL, "arat" },
    [FEAT_KVM] = { "kvmclock", "kvm-nopiodelay", "kvm-mmu", NULL, "kvm-asyncpf", "kvm-steal-time",
                   "kvm-pv-eoi", "kvm-pv-unhalt", NULL, "kvm-pv-tlb-flush", "kvm-asyncpf-vmexit",
                   "kvm-pv-ipi", "kvm-poll-control", "kvm-pv-sched-yield", "kvm-asyncpf-int",
                   "kvm-msi-ext-dest-id", [24] = "kvmclock-stable-bit" },
    [FEAT_KVM_HINTS] = { "kvm-hint-dedicated" },
    [FEAT_ARCH_CAPABILITIES] = { "rdctl-no", "ibrs-all", "rsba", "skip-l1dfl-vmentry", "ssb-no", "mds-no",
                                 "pschange-mc-no", "tsx-ctrl", "taa-no", [13] = "sbdr-ssdp-no", "fbsdp-no",
                                 "psdp-no", [17] = "fb-clear", [20] = "bhi-no", [24] = "pbrsb-no",
                                 [26] = "gds-no", [27] = "rfds-no" },
    [FEAT_CORE_CAPABILITIES] = { [5] = "split-lock-detect" },
    [FEAT_PERF_CAPABILITIES] = { [13] = "full-width-write" },
    [FEAT_SVM] = { "npt", "lbrv", "svm-lock", "nrip-save", "tsc-scale", "vmcb-clean", "flushbyasid",
                   "decodeassists", [10] = "pause-filter", [12] = "pfthreshold",
                   "avic", [15] = "v-vmsave-vmload", "vgif", [28] = "svme-addr-chk" },
    [FEAT_C000_0001_EDX] = { [2] = "xstore",
                             "xstore-en",
                             [6] = "xcrypt",
                             "xcrypt-en",
                             "ace2",
                             "ace2-en",
                             "phe",
                             "phe-en",
                             "pmm",
                             "pmm-en" },
    [FEAT_14_0_ECX] = { [31] = "intel-pt-lip" },
    [FEAT_SGX_12_0_EAX] = { "sgx1", "sgx2" },
    [FEAT_SGX_12_0_EBX] = { "sgx-exinfo" },
    [FEAT_SGX_12_1_EAX] = { [1] = "sgx-debug",
                            "sgx-mode64",
                            [4] = "sgx-provisionkey",
                            "sgx-tokenkey",
                            [7] = "sgx-kss" },
    [FEAT_VMX_PROCBASED] = { [2] = "vmx-vintr-pending",
                             "vmx-tsc-offset",
                             [7] = "vmx-hlt-exit",
                             [9] = "vmx-invlpg-exit",
                             "vmx-mwait-exit",
                             "vmx-rdpmc-exit",
                             "vmx-rdtsc-exit",
                             [15] = "vmx-cr3-load-noexit",
                             "vmx-cr3-store-noexit",
                             [19] = "vmx-cr8-load-exit",
                             "vmx-cr8-store-exit",
                             "vmx-flexpriority",
                             "vmx-vnmi-pending",
                             "vmx-movdr-exit",
                             "vmx-io-exit",
                             "vmx-io-bitmap",
                             [27] = "vmx-mtf",
                             "vmx-msr-bitmap",
                             "vmx-monitor-exit",
                             "vmx-pause-exit",
                             "vmx-secondary-ctls" },
    [FEAT_VMX_SECONDARY] = { "vmx-apicv-xapic",
                             "vmx-ept",
                             "vmx-desc-exit",
                             "vmx-rdtscp-exit",
                             "vmx-apicv-x2apic",
                             "vmx-vpid",
                             "vmx-wbinvd-exit",
                             "vmx-unrestricted-guest",
                             "vmx-apicv-register",
                             "vmx-apicv-vid",
                             "vmx-ple",
                             "vmx-rdrand-exit",
                             "vmx-invpcid-exit",
                             "vmx-vmfunc",
                             "vmx-shadow-vmcs",
                             "vmx-encls-exit",
                             "vmx-rdseed-exit",
                             "vmx-pml",
                             [20] = "vmx-xsaves",
                             [25] = "vmx-tsc-scaling" },
    [FEAT_VMX_PINBASED] = { "vmx-intr-exit", [3] = "vmx-nmi-exit", [5] = "vmx-vnmi", "vmx-preemption-timer",
                            "vmx-posted-intr" },
    [FEAT_VMX_EXIT] = { [2] = "vmx-exit-nosave-debugctl",
                        [12] = "vmx-exit-load-perf-global-ctrl",
                        [15] = "vmx-exit-ack-intr",
                        [18] = "vmx-exit-save-pat",
                        "vmx-exit-load-pat",
                        "vmx-exit-save-efer",
                        "vmx-exit-load-efer",
                        "vmx-exit-save-preemption-timer",
                        "vmx-exit-clear-bndcfgs",
                        [25] = "vmx-exit-clear-rtit-ctl",
                        [29] = "vmx-exit-load-pkrs" },
    [FEAT_VMX_ENTRY] = { [2] = "vmx-entry-noload-debugctl",
                         [9] = "vmx-entry-ia32e-mode",
                         [13] = "vmx-entry-load-perf-global-ctrl",
                         "vmx-entry-load-pat",
                         "vmx-entry-load-efer",
                         "vmx-entry-load-bndcfgs",
                         [18] = "vmx-entry-load-rtit-ctl",
                         [22] = "vmx-entry-load-pkrs" },
    [FEAT_VMX_MISC] = { [5] = "vmx-store-lma",
                        "vmx-activity-hlt",
                        "vmx-activity-shutdown",
                        "vmx-activity-wait-sipi",
                        [29] = "vmx-vmwrite-vmexit-fields",
                        "vmx-zero-len-inject" },
    [FEAT_VMX_EPT] = { "vmx-ept-execonly", [6] = "vmx-page-walk-4", "vmx-page-walk-5", [16] = "vmx-ept-2mb",
                       "vmx-ept-1gb", [20] = "vmx-invept", "vmx-eptad",
                       "vmx-ept-advanced-exitinfo", [25] = "vmx-invept-single-context",
                       "vmx-invept-all-context" },
    [FEAT_VMX_VPID] = { "vmx-invvpid", [8] = "vmx-invvpid-single-addr", [10] = "vmx-invvpid-all-context",
                        "vmx-invept-single-context-noglobals" },
    [FEAT_VMX_BASIC] = { [22] = "vmx-ins-outs", "vmx-true-ctls" },
    [FEAT_VMX_VMFUNC] = { "vmx-eptp-switching" },
};

static const char *const word_locations[FEATURE_WORDS] = {
    [FEAT_1_EDX] = "CPUID.01H:EDX",
    [FEAT_1_ECX] = "CPUID.01H:ECX",
    [FEAT_7_0_EBX] = "CPUID.07H:EBX",
    [FEAT_7_0_ECX] = "CPUID.07H:ECX",
    [FEAT_7_0_EDX] = "CPUID.07H:EDX",
    [FEAT_7_1_EAX] = "CPUID.07H:EAX",
    [FEAT_8000_0001_EDX] = "CPUID.80000001H:EDX",
    [FEAT_8000_0001_ECX] = "CPUID.80000001H:ECX",
    [FEAT_8000_0007_EDX] = "CPUID.80000007H:EDX",
    [FEAT_8000_0008_EBX] = "CPUID.80000008H:EBX",
    [FEAT_8000_0021_EAX] = "CPUID.80000021H:EAX",
    [FEAT_XSAVE] = "CPUID.0DH:EAX",
    [FEAT_6_EAX] = "CPUID.06H:EAX",
    [FEAT_KVM] = "CPUID.40000001H:EAX",
    [FEAT_KVM_HINTS] = "CPUID.40000001H:EDX",
    [FEAT_ARCH_CAPABILITIES] = "MSR(10AH)",
    [FEAT_CORE_CAPABILITIES] = "MSR(CFH)",
    [FEAT_PERF_CAPABILITIES] = "MSR(345H)",
    [FEAT_SVM] = "CPUID.8000000AH:EDX",
    [FEAT_C000_0001_EDX] = "CPUID.C0000001H:EDX",
    [FEAT_14_0_ECX] = "CPUID.14H:ECX",
    [FEAT_SGX_12_0_EAX] = "CPUID.12H:EAX",
    [FEAT_SGX_12_0_EBX] = "CPUID.12H:EBX",
    [FEAT_SGX_12_1_EAX] = "CPUID.12H:EAX",
    [FEAT_VMX_PROCBASED] = "MSR(48EH)",
    [FEAT_VMX_SECONDARY] = "MSR(48BH)",
    [FEAT_VMX_PINBASED] = "MSR(48DH)",
    [FEAT_VMX_EXIT] = "MSR(48FH)",
    [FEAT_VMX_ENTRY] = "MSR(490H)",
    [FEAT_VMX_MISC] = "MSR(485H)",
    [FEAT_VMX_EPT] = "MSR(48CH)",
    [FEAT_VMX_VPID] = "MSR(48CH)",
    [FEAT_VMX_BASIC] = "MSR(480H)",
    [FEAT_VMX_VMFUNC] = "MSR(491H)",
};

/* Other names for the same bit. */
static const char *const feature_aliases[][2] = {
    { "sse3", "pni" },      { "pclmuldq", "pclmulqdq" },
    { "sse4-1", "sse4.1" }, { "sse4-2", "sse4.2" },
    { "xd", "nx" },         { "ffxsr", "fxsr-opt" },
    { "i64", "lm" },        { "lahf_lm", "lahf-lm" },
    { "ds_cpl", "ds-cpl" }, { "lbr", "arch-lbr" },
    { "rdrnd", "rdrand" },  { "cr8-legacy", "cr8legacy" },
};

/* What Rhea implements; the host is asked besides. */
static const char *const implemented =
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ss ht "
    "pni pclmulqdq monitor ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx "
    "f16c rdrand "
    "hypervisor "
    "fsgsbase tsc-adjust bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb sha-ni umip fsrm "
    "spec-ctrl pku pks "
    "arch-capabilities md-clear ssbd stibp "
    "syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm cmp-legacy cr8legacy abm misalignsse 3dnowprefetch "
    "topoext "
    "osvw invtsc ibpb ibrs amd-stibp amd-ssbd amd-no-ssb "
    "btc-no lfence-always-serializing null-sel-clr-base auto-ibrs srso-no no-nested-data-bp "
    "xsaveopt xsavec xgetbv1 arat "
    "avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512vbmi avx512vbmi2 gfni vaes vpclmulqdq "
    "avx512vnni "
    "avx512bitalg avx512-vpopcntdq avx512-bf16 "
    "kvmclock kvm-nopiodelay kvm-steal-time kvm-pv-eoi kvm-pv-unhalt kvm-pv-tlb-flush kvm-pv-ipi "
    "kvm-poll-control "
    "kvm-pv-sched-yield kvmclock-stable-bit kvm-hint-dedicated "
    "rdctl-no ibrs-all skip-l1dfl-vmentry ssb-no mds-no pschange-mc-no taa-no sbdr-ssdp-no fbsdp-no psdp-no "
    "bhi-no "
    "pbrsb-no gds-no rfds-no";

/* Of these the host must have the bit too: instructions that run on it. The rest is software here. */
static const char *const host_needed = "fpu cx8 cmov mmx fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 sse4.1 "
                                       "sse4.2 popcnt aes xsave avx f16c rdrand bmi1 avx2 "
                                       "bmi2 rdseed adx sha-ni lahf-lm abm xsaveopt xsavec xgetbv1 "
                                       "avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512vbmi "
                                       "avx512vbmi2 gfni vaes vpclmulqdq avx512vnni avx512bitalg "
                                       "avx512-vpopcntdq avx512-bf16";

/* What "max" leaves out although it could be had: MONITOR/MWAIT is no way to wait here. ("ht" follows the
 * topology.) */
static const char *const max_without =
    "monitor ht kvm-hint-dedicated md-clear ssbd stibp ibrs amd-stibp amd-ssbd";

/* What every model has here besides its table, and what it is without, as it is in QEMU under KVM. */
static const char *const model_adds = "kvmclock kvm-nopiodelay kvm-steal-time kvm-pv-eoi kvm-pv-unhalt "
                                      "kvm-pv-tlb-flush kvm-pv-ipi kvmclock-stable-bit x2apic";
static const char *const model_drops = "acpi monitor svm";

/* What every model says besides: the APIC timer never stops, the errata that OSVW would tell of are not
 * there, and nothing leaks, so that guests need no mitigations (which cost much in software). */
static const char *const amd_safe =
    "arat osvw auto-ibrs srso-no amd-no-ssb btc-no ibpb lfence-always-serializing "
    "null-sel-clr-base no-nested-data-bp";
static const char *const intel_safe = "spec-ctrl arch-capabilities rdctl-no ibrs-all skip-l1dfl-vmentry "
                                      "ssb-no mds-no pschange-mc-no taa-no sbdr-ssdp-no "
                                      "fbsdp-no psdp-no bhi-no pbrsb-no gds-no rfds-no";
#define ARCH_CAPABILITIES_ITS_NO (UINT64_C(1) << 62)

const char *cpuid_feature_name(FeatureWord word, unsigned bit)
{
    return word < FEATURE_WORDS && bit < 32 ? feature_names[word][bit] : NULL;
}

const char *cpuid_word_location(FeatureWord word)
{
    return word_locations[word];
}

static bool same_name(const char *a, const char *b, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        char x = a[i] == '_' ? '-' : a[i], y = b[i] == '_' ? '-' : b[i];
        if (x != y || y == '\0') {
            return false;
        }
    }
    return b[length] == '\0';
}

static bool find_feature(const char *name, size_t length, FeatureWord *word, unsigned *bit)
{
    for (size_t i = 0; i < G_N_ELEMENTS(feature_aliases); i++) {
        if (same_name(name, feature_aliases[i][0], length)) {
            name = feature_aliases[i][1];
            length = strlen(name);
            break;
        }
    }
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        for (unsigned b = 0; b < 32; b++) {
            if (feature_names[w][b] != NULL && same_name(name, feature_names[w][b], length)) {
                *word = (FeatureWord)w;
                *bit = b;
                return true;
            }
        }
    }
    return false;
}

bool cpuid_feature_find(const char *name, FeatureWord *word, unsigned *bit)
{
    return find_feature(name, strlen(name), word, bit);
}

/* Sets the bits of a space-separated list. */
static void parse_features(const char *list, uint32_t words[FEATURE_WORDS])
{
    while (*list != '\0') {
        size_t length = strcspn(list, " ");
        FeatureWord word;
        unsigned bit;
        if (length > 0) {
            if (!find_feature(list, length, &word, &bit)) {
                g_error("cpuid: the tables name an unknown feature at \"%.20s\"", list);
            }
            words[word] |= 1u << bit;
            /* "kvmclock" is both of KVM's clock interfaces, the old and the new MSR numbers. */
            if (word == FEAT_KVM && bit == 0) {
                words[word] |= KVM_FEATURE_CLOCKSOURCE2;
            }
        }
        list += length;
        list += strspn(list, " ");
    }
}

typedef struct HostCpu {
    uint32_t words[FEATURE_WORDS];     /* the host's */
    uint32_t supported[FEATURE_WORDS]; /* implemented, and had by the host where that matters */
    uint32_t max[FEATURE_WORDS];
    char vendor[13];
    char model_id[49];
    uint32_t family, model, stepping, phys_bits;
    uint16_t opmask, zmm_hi, hi16; /* in its XSAVE image; 0: no AVX-512 */
    bool native;                   /* guests run on it (cpuid_set_accelerator) */
} HostCpu;

#define AVX512_EBX                                                                                   \
    (CPUID_7_AVX512F | CPUID_7_AVX512DQ | CPUID_7_AVX512IFMA | CPUID_7_AVX512CD | CPUID_7_AVX512BW | \
     CPUID_7_AVX512VL)
#define AVX512_ECX                                                                              \
    (CPUID_7C_AVX512VBMI | CPUID_7C_AVX512VBMI2 | CPUID_7C_AVX512VNNI | CPUID_7C_AVX512BITALG | \
     CPUID_7C_AVX512VPOPCNTDQ)

/* Whether AVX-512 can be used: what Rhea's stubs need of it is there, and the system saves its registers. */
static bool host_avx512(HostCpu *h)
{
    const uint32_t needed = CPUID_7_AVX512F | CPUID_7_AVX512DQ | CPUID_7_AVX512BW | CPUID_7_AVX512VL;
    static const uint32_t sizes[] = { XSAVE_OPMASK_SIZE, XSAVE_ZMM_HI_SIZE, XSAVE_HI16_SIZE };
    uint32_t at[3], low, high, c, d;

    if (!(h->words[FEAT_1_ECX] & CPUID_EXT_OSXSAVE) || (h->words[FEAT_7_0_EBX] & needed) != needed ||
        !(h->words[FEAT_XSAVE] & CPUID_XGETBV1)) {
        return false;
    }
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & (XCR0_AVX512 | 6)) != (XCR0_AVX512 | 6)) {
        return false;
    }
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t size;
        __cpuid_count(0xd, 5 + i, size, at[i], c, d);
        if (size != sizes[i] || at[i] < 832 || at[i] % 64 != 0 || at[i] + size > X86_XSAVE_SIZE) {
            return false;
        }
    }
    h->opmask = (uint16_t)at[0];
    h->zmm_hi = (uint16_t)at[1];
    h->hi16 = (uint16_t)at[2];
    return true;
}

static void host_probe(HostCpu *h)
{
    uint32_t a, b, c, d, needed[FEATURE_WORDS] = { 0 }, without[FEATURE_WORDS] = { 0 }, level, xlevel;

    __cpuid(0, level, b, c, d);
    memcpy(h->vendor, &b, 4);
    memcpy(h->vendor + 4, &d, 4);
    memcpy(h->vendor + 8, &c, 4);
    __cpuid(1, a, b, h->words[FEAT_1_ECX], h->words[FEAT_1_EDX]);
    h->stepping = a & 15;
    h->model = (a >> 4) & 15;
    h->family = (a >> 8) & 15;
    if (h->family == 6 || h->family == 15) {
        h->model |= (a >> 12) & 0xf0;
    }
    if (h->family == 15) {
        h->family += (a >> 20) & 0xff;
    }
    if (level >= 7) {
        __cpuid_count(7, 0, a, h->words[FEAT_7_0_EBX], h->words[FEAT_7_0_ECX], h->words[FEAT_7_0_EDX]);
        if (a >= 1) {
            __cpuid_count(7, 1, h->words[FEAT_7_1_EAX], b, c, d);
        }
    }
    if (level >= 0xd) {
        __cpuid_count(0xd, 1, h->words[FEAT_XSAVE], b, c, d);
    }
    __cpuid(0x80000000, xlevel, b, c, d);
    if (xlevel >= 0x80000001) {
        __cpuid(0x80000001, a, b, h->words[FEAT_8000_0001_ECX], h->words[FEAT_8000_0001_EDX]);
    }
    if (xlevel >= 0x80000004) {
        for (uint32_t i = 0; i < 3; i++) {
            uint32_t r[4];
            __cpuid(0x80000002 + i, r[0], r[1], r[2], r[3]);
            memcpy(h->model_id + i * 16, r, 16);
        }
    }
    h->phys_bits = 36;
    if (xlevel >= 0x80000008) {
        __cpuid(0x80000008, a, b, c, d);
        h->phys_bits = a & 0xff;
    }
    /* The instructions may be there and yet not usable: the host's system has to save their registers. */
    if (!(h->words[FEAT_1_ECX] & CPUID_EXT_OSXSAVE)) {
        h->words[FEAT_1_ECX] &= ~(CPUID_EXT_XSAVE | CPUID_EXT_AVX | CPUID_EXT_FMA | CPUID_EXT_F16C);
        h->words[FEAT_7_0_EBX] &= ~CPUID_7_AVX2;
        h->words[FEAT_7_0_ECX] &= ~(CPUID_7C_VAES | CPUID_7C_VPCLMULQDQ);
    }
    if (!host_avx512(h)) {
        h->words[FEAT_7_0_EBX] &= ~AVX512_EBX;
        h->words[FEAT_7_0_ECX] &= ~AVX512_ECX;
        h->words[FEAT_7_1_EAX] &= ~CPUID_7_1A_AVX512BF16;
    }
    parse_features(implemented, h->supported);
    parse_features(host_needed, needed);
    parse_features(max_without, without);
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        h->supported[w] &= h->words[w] | ~needed[w];
        h->max[w] = h->supported[w] & ~without[w];
    }
}

static HostCpu *host_cpu(void)
{
    static HostCpu host;
    static gsize once;

    if (g_once_init_enter(&once)) {
        host_probe(&host);
        g_once_init_leave(&once, 1);
    }
    return &host;
}

uint32_t cpuid_supported(FeatureWord word)
{
    return host_cpu()->supported[word];
}

void cpuid_set_accelerator(const uint32_t words[FEATURE_WORDS])
{
    HostCpu *h = host_cpu();
    uint32_t known[FEATURE_WORDS] = { 0 }, without[FEATURE_WORDS] = { 0 };

    parse_features(implemented, known);
    parse_features(max_without, without);
    h->native = true;
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        h->supported[w] = words[w] & known[w];
        h->max[w] = h->supported[w] & ~without[w];
    }
}

bool cpuid_is_native(void)
{
    return host_cpu()->native;
}

bool cpuid_is_intel(const X86Cpu *cpu)
{
    return strcmp(cpu->cpuid->vendor, "GenuineIntel") == 0;
}

bool cpuid_is_amd(const X86Cpu *cpu)
{
    return strcmp(cpu->cpuid->vendor, "AuthenticAMD") == 0 || strcmp(cpu->cpuid->vendor, "HygonGenuine") == 0;
}

/* A feature, and one that it cannot be without. */
static const struct {
    FeatureWord word;
    uint32_t mask;
    FeatureWord needs_word;
    uint32_t needs;
} dependencies[] = {
    { FEAT_1_ECX, CPUID_EXT_AVX, FEAT_1_ECX, CPUID_EXT_XSAVE },
    { FEAT_1_ECX, CPUID_EXT_FMA | CPUID_EXT_F16C, FEAT_1_ECX, CPUID_EXT_AVX },
    { FEAT_7_0_EBX, CPUID_7_AVX2, FEAT_1_ECX, CPUID_EXT_AVX },
    { FEAT_7_0_ECX, CPUID_7C_VAES | CPUID_7C_VPCLMULQDQ, FEAT_1_ECX, CPUID_EXT_AVX },
    { FEAT_7_0_EBX, AVX512_EBX, FEAT_7_0_EBX, CPUID_7_AVX2 },
    { FEAT_7_0_EBX, AVX512_EBX, FEAT_7_0_EBX, CPUID_7_AVX512F },
    { FEAT_7_0_ECX, AVX512_ECX, FEAT_7_0_EBX, CPUID_7_AVX512F },
    { FEAT_7_1_EAX, CPUID_7_1A_AVX512BF16, FEAT_7_0_EBX, CPUID_7_AVX512F },
    { FEAT_XSAVE, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_XSAVE },
    { FEAT_7_0_EBX, CPUID_7_INVPCID, FEAT_1_ECX, CPUID_EXT_PCID },
    { FEAT_1_ECX, CPUID_EXT_PCID, FEAT_8000_0001_EDX, CPUID_EXT2_LM },
    { FEAT_ARCH_CAPABILITIES, UINT32_MAX, FEAT_7_0_EDX, CPUID_7D_ARCH_CAPABILITIES },
    { FEAT_CORE_CAPABILITIES, UINT32_MAX, FEAT_7_0_EDX, CPUID_7D_CORE_CAPABILITIES },
    { FEAT_PERF_CAPABILITIES, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_PDCM },
    { FEAT_SVM, UINT32_MAX, FEAT_8000_0001_ECX, CPUID_EXT3_SVM },
    { FEAT_14_0_ECX, UINT32_MAX, FEAT_7_0_EBX, CPUID_7_INTEL_PT },
    { FEAT_VMX_PROCBASED, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_VMX_SECONDARY, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_VMX_PINBASED, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_VMX_EXIT, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_VMX_ENTRY, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_VMX_MISC, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_VMX_EPT, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_VMX_VPID, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_VMX_BASIC, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_VMX_VMFUNC, UINT32_MAX, FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_8000_0001_EDX, CPUID_EXT2_LM, FEAT_1_EDX, CPUID_PAE },
};

static void drop_dependent(X86Cpu *cpu)
{
    for (size_t i = 0; i < G_N_ELEMENTS(dependencies); i++) {
        if (!cpu_has_feature(cpu, dependencies[i].needs_word, dependencies[i].needs)) {
            cpu->cpuid_features[dependencies[i].word] &= ~dependencies[i].mask;
        }
    }
}

/* "max" and "host". */
static void init_everything(X86Cpu *cpu, const X86CpuModel *model)
{
    X86CpuidState *s = cpu->cpuid;
    const HostCpu *host = host_cpu();
    bool named = strcmp(model->name, "max") == 0 && !host->native;

    g_strlcpy(s->vendor, host->vendor, sizeof(s->vendor));
    s->family = host->family;
    s->model = host->model;
    s->stepping = host->stepping;
    g_strlcpy(s->model_id, named ? "Rhea software CPU" : host->model_id, sizeof(s->model_id));
    memcpy(cpu->cpuid_features, host->max, sizeof(host->max));
    s->phys_bits = host->phys_bits;
    if (!cpuid_is_amd(cpu)) {
        cpu->cpuid_features[FEAT_8000_0021_EAX] = 0;
        cpu->cpuid_features[FEAT_8000_0008_EBX] = 0;
        cpu->cpuid_features[FEAT_8000_0001_ECX] &= ~CPUID_EXT3_TOPOEXT;
    } else {
        /* AMD's ways to say the same: the kernel looks at 0x80000021 and 0x80000008. */
        cpu->cpuid_features[FEAT_7_0_EDX] &= ~(CPUID_7D_SPEC_CTRL | CPUID_7D_ARCH_CAPABILITIES);
        cpu->cpuid_features[FEAT_ARCH_CAPABILITIES] = 0;
    }
}

/* Says that nothing leaks, where software of the model's time looks: no CPU without long mode has the leaves.
 */
static void add_safe(X86Cpu *cpu)
{
    X86CpuidState *s = cpu->cpuid;
    const HostCpu *host = host_cpu();
    uint32_t safe[FEATURE_WORDS] = { 0 };

    if (!cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_LM)) {
        return;
    }
    if (cpuid_is_amd(cpu)) {
        parse_features(amd_safe, safe);
        s->xlevel = MAX(s->xlevel, 0x80000021);
        s->level = MAX(s->level, 6);
    } else {
        parse_features(intel_safe, safe);
        s->level = MAX(s->level, 7);
    }
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        /* What nobody asked for by name is not missed either. */
        cpu->cpuid_features[w] |= host->native ? safe[w] & host->supported[w] : safe[w];
    }
}

static void adapt_to_accelerator(X86Cpu *cpu)
{
    const HostCpu *host = host_cpu();
    uint32_t adds[FEATURE_WORDS] = { 0 }, drops[FEATURE_WORDS] = { 0 };

    parse_features(model_adds, adds);
    parse_features(model_drops, drops);
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        if (host->native && (w == FEAT_KVM || w == FEAT_KVM_HINTS)) {
            adds[w] &= host->supported[w];
        }
        cpu->cpuid_features[w] = (cpu->cpuid_features[w] & ~drops[w]) | adds[w];
    }
}

void cpuid_init_from_model(X86Cpu *cpu, const X86CpuModel *model)
{
    X86CpuidState *s = cpu->cpuid;
    X86CpuIdentity id;

    x86_cpu_model_resolve(model, &id);
    memset(cpu->cpuid_features, 0, sizeof(cpu->cpuid_features));
    memcpy(cpu->cpuid_features, id.features, sizeof(id.features));
    s->kvm = true;
    s->check = true;
    s->migratable = true;
    s->l3_cache = true;
    s->cpuid_0xb = true;
    s->level = id.level;
    s->xlevel = id.xlevel;
    s->family = id.family;
    s->model = id.model;
    s->stepping = id.stepping;
    if (model->everything) {
        init_everything(cpu, model);
        return;
    }
    g_strlcpy(s->vendor, host_cpu()->native ? host_cpu()->vendor : id.vendor, sizeof(s->vendor));
    g_strlcpy(s->model_id, id.model_id, sizeof(s->model_id));
    if (model->generation != NULL) {
        adapt_to_accelerator(cpu);
        add_safe(cpu);
        drop_dependent(cpu);
    }
}

uint64_t cpuid_arch_capabilities(const X86Cpu *cpu)
{
    uint64_t low = cpu->cpuid_features[FEAT_ARCH_CAPABILITIES];

    return low ? low | ARCH_CAPABILITIES_ITS_NO : 0;
}

void cpuid_filter(X86Cpu *cpu)
{
    X86CpuidState *s = cpu->cpuid;

    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        uint32_t missing = cpu->cpuid_features[w] & ~cpuid_supported((FeatureWord)w);
        s->unavailable[w] = missing;
        cpu->cpuid_features[w] &= ~missing;
    }
    drop_dependent(cpu);
    if (!s->kvm) {
        cpu->cpuid_features[FEAT_KVM] = cpu->cpuid_features[FEAT_KVM_HINTS] = 0;
    }
}

uint64_t cpuid_xcr0_mask(const X86Cpu *cpu)
{
    if (!cpu_has_feature(cpu, FEAT_1_ECX, CPUID_EXT_XSAVE)) {
        return 0;
    }
    uint64_t keys = cpu_has_feature(cpu, FEAT_7_0_ECX, CPUID_7C_PKU) ? XCR0_PKRU : 0;
    if (!cpu_has_feature(cpu, FEAT_1_ECX, CPUID_EXT_AVX)) {
        return 3 | keys;
    }
    return XCR0_BASE | keys | (cpu_has_feature(cpu, FEAT_7_0_EBX, CPUID_7_AVX512F) ? XCR0_AVX512 : 0);
}

bool cpuid_xcr0_valid(uint64_t xcr0)
{
    uint64_t avx512 = xcr0 & XCR0_AVX512;

    if (!(xcr0 & 1) || (xcr0 & 6) == 4) {
        return false;
    }
    return avx512 == 0 || (avx512 == XCR0_AVX512 && (xcr0 & 6) == 6);
}

void cpuid_host_xsave(X86Cpu *cpu)
{
    const HostCpu *host = host_cpu();

    cpu->xsave_opmask = host->opmask;
    cpu->xsave_zmm_hi = host->zmm_hi;
    cpu->xsave_hi16 = host->hi16;
}

/* ---- leaves ---- */

/* How many bits number n things. */
static unsigned id_bits(uint32_t n)
{
    return n <= 1 ? 0 : 32 - (unsigned)__builtin_clz(n - 1);
}

typedef struct Topology {
    uint32_t threads, cores, dies; /* threads a core, cores a die, dies a socket */
    unsigned core_shift, die_shift, package_shift;
} Topology;

static Topology topology(const X86Cpu *cpu)
{
    Topology t = { .threads = MAX(cpu->threads, 1), .cores = MAX(cpu->cores, 1), .dies = MAX(cpu->dies, 1) };

    t.core_shift = id_bits(t.threads);
    t.die_shift = t.core_shift + id_bits(t.cores);
    t.package_shift = t.die_shift + id_bits(t.dies);
    return t;
}

static void leaf_cache_intel(X86Cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    /* L1d, L1i, L2, L3: type, level, sets, ways; lines of 64 bytes. */
    static const struct {
        uint32_t type, level, sets, ways;
    } caches[] = { { 1, 1, 64, 8 }, { 2, 1, 64, 8 }, { 3, 2, 4096, 16 }, { 3, 3, 16384, 16 } };
    Topology t = topology(cpu);

    if (subleaf >= G_N_ELEMENTS(caches)) {
        return;
    }
    uint32_t shared = caches[subleaf].level == 3 ? (1u << t.die_shift) : (1u << t.core_shift);
    uint32_t cores = 1u << (t.package_shift - t.core_shift);
    out[0] =
        caches[subleaf].type | caches[subleaf].level << 5 | 1u << 8 | (shared - 1) << 14 | (cores - 1) << 26;
    out[1] = 63 | (caches[subleaf].ways - 1) << 22;
    out[2] = caches[subleaf].sets - 1;
    out[3] = caches[subleaf].level == 3 ? 2 : 0;
}

static void leaf_cache_amd(X86Cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    leaf_cache_intel(cpu, subleaf, out);
    out[0] &= 0x03ffffff; /* the number of cores is elsewhere */
}

static void leaf_extended_topology(X86Cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    Topology t = topology(cpu);

    out[2] = subleaf & 0xff;
    out[3] = cpu->apic_id;
    if (subleaf == 0) {
        out[0] = t.core_shift;
        out[1] = t.threads;
        out[2] |= 1 << 8;
    } else if (subleaf == 1) {
        out[0] = t.package_shift;
        out[1] = t.threads * t.cores * t.dies;
        out[2] |= 2 << 8;
    }
}

/* Where XSAVE's standard format ends with these components. */
static uint32_t xsave_size(uint64_t components)
{
    return components & XCR0_PKRU     ? XSAVE_GUEST_PKRU + XSAVE_PKRU_SIZE
           : components & XCR0_AVX512 ? XSAVE_GUEST_AVX512_END
           : components & 4           ? 832
                                      : 576;
}

static void leaf_xsave(X86Cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    static const struct {
        uint32_t component, size, offset;
    } parts[] = { { 2, 256, 576 },
                  { 5, XSAVE_OPMASK_SIZE, XSAVE_GUEST_OPMASK },
                  { 6, XSAVE_ZMM_HI_SIZE, XSAVE_GUEST_ZMM_HI },
                  { 7, XSAVE_HI16_SIZE, XSAVE_GUEST_HI16 },
                  { 9, XSAVE_PKRU_SIZE, XSAVE_GUEST_PKRU } };
    uint64_t mask = cpuid_xcr0_mask(cpu);

    if (mask == 0) {
        return;
    }
    if (subleaf == 0) {
        out[0] = (uint32_t)mask;
        out[1] = xsave_size(cpu->xcr0);
        out[2] = xsave_size(mask);
    } else if (subleaf == 1) {
        out[0] = cpu->cpuid_features[FEAT_XSAVE];
        if (out[0] & (CPUID_XSAVEC | CPUID_XSAVES)) {
            out[1] = (cpu->xcr0 & 4 ? 832 : 576) + (cpu->xcr0 & XCR0_AVX512 ? XSAVE_AVX512_SIZE : 0) +
                     (cpu->xcr0 & XCR0_PKRU ? XSAVE_PKRU_SIZE : 0);
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
        if (subleaf == parts[i].component && (mask >> subleaf & 1)) {
            out[0] = parts[i].size;
            out[1] = parts[i].offset;
        }
    }
}

static void leaf_basic(X86Cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    X86CpuidState *s = cpu->cpuid;
    Topology t = topology(cpu);
    uint32_t logical = 1u << t.package_shift;

    switch (leaf) {
    case 0:
        out[0] = s->level;
        memcpy(&out[1], s->vendor, 4);
        memcpy(&out[3], s->vendor + 4, 4);
        memcpy(&out[2], s->vendor + 8, 4);
        break;
    case 1:
        out[0] = cpuid_signature(cpu);
        out[1] = cpu->apic_id << 24 | (logical > 1 ? logical << 16 : 0) | 8 << 8;
        out[2] = cpu->cpuid_features[FEAT_1_ECX] | (cpu->cr4 & CR4_OSXSAVE ? CPUID_EXT_OSXSAVE : 0);
        out[3] = cpu->cpuid_features[FEAT_1_EDX] | (logical > 1 ? CPUID_HT : 0);
        if (!(apic_get_base(cpu->apic) & (1u << 11))) {
            out[3] &= ~CPUID_APIC;
        }
        break;
    case 2:
        if (!cpuid_is_amd(cpu)) {
            out[0] = 0x00000001;
            out[3] = 0x00000000;
            out[1] = 0x000000ff; /* see leaf 4 */
        }
        break;
    case 4:
        if (!cpuid_is_amd(cpu)) {
            leaf_cache_intel(cpu, subleaf, out);
        }
        break;
    case 5:
        out[0] = out[1] = 64; /* monitor line size */
        out[2] = 3;
        break;
    case 6:
        out[0] = cpu->cpuid_features[FEAT_6_EAX];
        break;
    case 7:
        if (subleaf == 0) {
            out[0] = cpu->cpuid_features[FEAT_7_1_EAX] ? 1 : 0;
            out[1] = cpu->cpuid_features[FEAT_7_0_EBX];
            out[2] = cpu->cpuid_features[FEAT_7_0_ECX] | (cpu->cr4 & CR4_PKE ? CPUID_7C_OSPKE : 0);
            out[3] = cpu->cpuid_features[FEAT_7_0_EDX];
        } else if (subleaf == 1) {
            out[0] = cpu->cpuid_features[FEAT_7_1_EAX];
        }
        break;
    case 0xb:
        if (s->cpuid_0xb) {
            leaf_extended_topology(cpu, subleaf, out);
        }
        break;
    case 0xd:
        leaf_xsave(cpu, subleaf, out);
        break;
    }
}

static void leaf_extended(X86Cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    X86CpuidState *s = cpu->cpuid;
    Topology t = topology(cpu);
    uint32_t per_package = t.threads * t.cores * t.dies;

    switch (leaf) {
    case 0x80000000:
        out[0] = s->xlevel;
        memcpy(&out[1], s->vendor, 4);
        memcpy(&out[3], s->vendor + 4, 4);
        memcpy(&out[2], s->vendor + 8, 4);
        break;
    case 0x80000001:
        out[0] = cpuid_is_amd(cpu) ? cpuid_signature(cpu) : 0;
        out[2] = cpu->cpuid_features[FEAT_8000_0001_ECX];
        out[3] = cpu->cpuid_features[FEAT_8000_0001_EDX];
        if (cpuid_is_amd(cpu)) {
            /* AMD repeats these of leaf 1. */
            out[3] |= cpu->cpuid_features[FEAT_1_EDX] & 0x0183f3ff;
            if (per_package > 1) {
                out[2] |= 1u << 1; /* CmpLegacy */
            }
        }
        break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: {
        char text[48] = { 0 };
        memcpy(text, s->model_id, strnlen(s->model_id, sizeof(text)));
        memcpy(out, text + (leaf - 0x80000002) * 16, 16);
        break;
    }
    case 0x80000005:
        if (cpuid_is_amd(cpu)) {
            out[0] = out[1] = 0x01ff01ff;
            out[2] = out[3] = 32u << 24 | 8 << 16 | 1 << 8 | 64;
        }
        break;
    case 0x80000006:
        out[2] = 4096u << 16 | 8 << 12 | 1 << 8 | 64;
        if (cpuid_is_amd(cpu)) {
            out[0] = out[1] = 0x42004200;
            out[3] = (16384u / 512) << 18 | 8 << 12 | 1 << 8 | 64;
        }
        break;
    case 0x80000007:
        out[3] = cpu->cpuid_features[FEAT_8000_0007_EDX];
        break;
    case 0x80000008:
        out[0] =
            cpu->phys_bits | (cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_LM) ? 48u << 8 : 32u << 8);
        out[1] = cpu->cpuid_features[FEAT_8000_0008_EBX];
        if (per_package > 1) {
            out[2] = t.package_shift << 12 | (per_package - 1);
        }
        break;
    case 0x8000001d:
        if (cpu_has_feature(cpu, FEAT_8000_0001_ECX, CPUID_EXT3_TOPOEXT)) {
            leaf_cache_amd(cpu, subleaf, out);
        }
        break;
    case 0x8000001e:
        if (cpu_has_feature(cpu, FEAT_8000_0001_ECX, CPUID_EXT3_TOPOEXT)) {
            out[0] = cpu->apic_id;
            out[1] = (t.threads - 1) << 8 | ((cpu->apic_id >> t.core_shift) & 0xff);
            out[2] = (t.dies - 1) << 8 | ((cpu->apic_id >> t.die_shift) & 0xff);
        }
        break;
    case 0x80000021:
        out[0] = cpu->cpuid_features[FEAT_8000_0021_EAX];
        break;
    }
}

static void leaf_kvm(X86Cpu *cpu, uint32_t leaf, uint32_t out[4])
{
    switch (leaf) {
    case 0x40000000:
        out[0] = 0x40000001;
        memcpy(&out[1], "KVMKVMKVM\0\0\0", 12);
        break;
    case 0x40000001:
        out[0] = cpu->cpuid_features[FEAT_KVM];
        out[3] = cpu->cpuid_features[FEAT_KVM_HINTS];
        break;
    }
}

uint32_t cpuid_signature(const X86Cpu *cpu)
{
    const X86CpuidState *s = cpu->cpuid;
    uint32_t family = s->family, extended = 0;

    if (family > 15) {
        extended = family - 15;
        family = 15;
    }
    return (s->stepping & 15) | (s->model & 15) << 4 | family << 8 | (s->model >> 4) << 16 | extended << 20;
}

void cpuid_leaf(X86Cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    X86CpuidState *s = cpu->cpuid;

    out[0] = out[1] = out[2] = out[3] = 0;
    if (leaf >= 0x40000000 && leaf < 0x40000100) {
        if (s->kvm && cpu_has_feature(cpu, FEAT_1_ECX, CPUID_EXT_HYPERVISOR)) {
            leaf_kvm(cpu, leaf, out);
        }
        return;
    }
    if (leaf >= 0x80000000) {
        if (leaf <= s->xlevel) {
            leaf_extended(cpu, leaf, subleaf, out);
            return;
        }
        if (cpuid_is_amd(cpu)) {
            return;
        }
        leaf = s->level;
    } else if (leaf > s->level) {
        if (cpuid_is_amd(cpu)) {
            return;
        }
        leaf = s->level; /* Intel: data of the highest basic leaf (SDM vol. 2 CPUID) */
    }
    leaf_basic(cpu, leaf, subleaf, out);
}

void x86_cpuid(X86Cpu *cpu)
{
    uint32_t out[4];

    cpuid_leaf(cpu, (uint32_t)cpu->regs[R_RAX], (uint32_t)cpu->regs[R_RCX], out);
    cpu->regs[R_RAX] = out[0];
    cpu->regs[R_RBX] = out[1];
    cpu->regs[R_RCX] = out[2];
    cpu->regs[R_RDX] = out[3];
}
