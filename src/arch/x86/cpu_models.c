/*
 * The CPU models that -cpu names, as tables: a model says how it differs from an older one, and a version how
 * it differs from the version before. Names, identities and feature sets are QEMU's
 * (tests/control/cpu_models_test.py compares them), as what libvirt writes into a guest's configuration has
 * to mean the same here. What a host cannot give is dropped later: see cpuid_filter. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "arch/x86/cpuid.h"

#include <stdlib.h>
#include <string.h>

#define INTEL "GenuineIntel"
#define AMD   "AuthenticAMD"
#define HYGON "HygonGenuine"
#define ID(vendor_, family_, model_, stepping_, level_, xlevel_)                                   \
    .vendor = vendor_, .family = family_, .model = model_, .stepping = stepping_, .level = level_, \
    .xlevel = xlevel_

/* "NAME-v2" and so on. What is not said stays as in the version before; features NULL: no such version. */
typedef struct Version {
    const char *features; /* added, or with '-' removed */
    const char *alias;    /* a further name */
    const char *note, *model_id;
    uint32_t model, stepping;
} Version;

typedef struct X86CpuGeneration {
    const char *name;
    const char *like; /* features are added to this one's, or to none */
    const char *vendor;
    uint32_t family, model, stepping, level, xlevel;
    const char *model_id;
    const char *features;
    Version versions[6]; /* from the second on */
} Generation;

static const Generation generations[] = {
    { .name = "486",
      ID(INTEL, 4, 8, 0, 0x1, 0x0),
      .model_id = "",
      .features = "fpu vme pse",
    },
    { .name = "pentium",
      .like = "486",
      ID(INTEL, 5, 4, 3, 0x1, 0x0),
      .model_id = "",
      .features = "de tsc msr mce cx8 apic mmx",
    },
    { .name = "pentium2",
      .like = "pentium",
      ID(INTEL, 6, 5, 2, 0x2, 0x0),
      .model_id = "",
      .features = "pae sep mtrr pge mca cmov pat pse36 fxsr",
    },
    { .name = "pentium3",
      .like = "pentium2",
      ID(INTEL, 6, 7, 3, 0x3, 0x0),
      .model_id = "",
      .features = "sse",
    },
    { .name = "coreduo",
      .like = "pentium3",
      ID(INTEL, 6, 14, 8, 0xa, 0x80000008),
      .model_id = "Genuine Intel(R) CPU           T2600  @ 2.16GHz",
      .features = "clflush acpi sse2 ss pni monitor nx -pse36",
    },
    { .name = "n270",
      .like = "coreduo",
      ID(INTEL, 6, 28, 2, 0xa, 0x80000008),
      .model_id = "Intel(R) Atom(TM) CPU N270   @ 1.60GHz",
      .features = "ssse3 movbe lahf-lm",
    },
    { .name = "core2duo",
      .like = "n270",
      ID(INTEL, 6, 15, 11, 0xa, 0x80000008),
      .model_id = "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz",
      .features = "pse36 cx16 syscall lm -movbe",
    },
    { .name = "qemu32",
      ID(INTEL, 6, 6, 3, 0x4, 0x80000004),
      .model_id = "QEMU Virtual CPU version 2.5+",
      .features = "fpu de pse tsc msr pae mce cx8 apic sep pge cmov pat mmx fxsr sse sse2 pni",
    },
    { .name = "athlon",
      .like = "qemu32",
      ID(AMD, 6, 2, 3, 0x2, 0x80000008),
      .model_id = "QEMU Virtual CPU version 2.5+",
      .features = "vme mtrr mca pse36 mmxext 3dnowext 3dnow -pni",
    },
    { .name = "kvm32",
      .like = "qemu32",
      ID(INTEL, 15, 6, 1, 0x5, 0x80000008),
      .model_id = "Common 32-bit KVM processor",
      .features = "vme mtrr mca pse36 clflush",
    },
    { .name = "kvm64",
      .like = "kvm32",
      ID(INTEL, 15, 6, 1, 0xd, 0x80000008),
      .model_id = "Common KVM processor",
      .features = "cx16 syscall nx lm",
    },
    { .name = "qemu64",
      .like = "kvm64",
      ID(AMD, 15, 107, 1, 0xd, 0x8000000a),
      .model_id = "QEMU Virtual CPU version 2.5+",
      .features = "lahf-lm svm -vme",
    },
    { .name = "Conroe",
      ID(INTEL, 6, 15, 3, 0xa, 0x80000008),
      .model_id = "Intel Celeron_4x0 (Conroe/Merom Class Core 2)",
      .features = "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush "
                  "mmx fxsr sse sse2 pni ssse3 syscall nx lm lahf-lm",
    },
    { .name = "Penryn",
      .like = "Conroe",
      ID(INTEL, 6, 23, 3, 0xa, 0x80000008),
      .model_id = "Intel Core 2 Duo P9xxx (Penryn Class Core 2)",
      .features = "cx16 sse4.1",
    },
    { .name = "Nehalem",
      .like = "Penryn",
      ID(INTEL, 6, 26, 3, 0xb, 0x80000008),
      .model_id = "Intel Core i7 9xx (Nehalem Class Core i7)",
      .features = "sse4.2 popcnt",
      .versions = {
          { .alias = "Nehalem-IBRS", .model_id = "Intel Core i7 9xx (Nehalem Core i7, IBRS update)", .features = "spec-ctrl" },
      },
    },
    { .name = "Westmere",
      .like = "Nehalem",
      ID(INTEL, 6, 44, 1, 0xb, 0x80000008),
      .model_id = "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
      .features = "pclmulqdq aes arat",
      .versions = {
          { .alias = "Westmere-IBRS", .model_id = "Westmere E56xx/L56xx/X56xx (IBRS update)", .features = "spec-ctrl" },
      },
    },
    { .name = "SandyBridge",
      .like = "Westmere",
      ID(INTEL, 6, 42, 1, 0xd, 0x80000008),
      .model_id = "Intel Xeon E312xx (Sandy Bridge)",
      .features = "x2apic tsc-deadline xsave avx rdtscp xsaveopt",
      .versions = {
          { .alias = "SandyBridge-IBRS", .model_id = "Intel Xeon E312xx (Sandy Bridge, IBRS update)", .features = "spec-ctrl" },
      },
    },
    { .name = "IvyBridge",
      .like = "SandyBridge",
      ID(INTEL, 6, 58, 9, 0xd, 0x80000008),
      .model_id = "Intel Xeon E3-12xx v2 (Ivy Bridge)",
      .features = "f16c rdrand fsgsbase smep erms",
      .versions = {
          { .alias = "IvyBridge-IBRS", .model_id = "Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)", .features = "spec-ctrl" },
      },
    },
    { .name = "Haswell",
      .like = "IvyBridge",
      ID(INTEL, 6, 60, 4, 0xd, 0x80000008),
      .model_id = "Intel Core Processor (Haswell)",
      .features = "fma pcid movbe bmi1 hle avx2 bmi2 invpcid rtm abm",
      .versions = {
          { .alias = "Haswell-noTSX", .model_id = "Intel Core Processor (Haswell, no TSX)", .stepping = 1, .features = "-hle -rtm" },
          { .alias = "Haswell-IBRS", .model_id = "Intel Core Processor (Haswell, IBRS)", .stepping = 4, .features = "hle rtm spec-ctrl" },
          { .alias = "Haswell-noTSX-IBRS", .model_id = "Intel Core Processor (Haswell, no TSX, IBRS)", .stepping = 1, .features = "-hle -rtm" },
      },
    },
    { .name = "Broadwell",
      .like = "Haswell",
      ID(INTEL, 6, 61, 2, 0xd, 0x80000008),
      .model_id = "Intel Core Processor (Broadwell)",
      .features = "rdseed adx smap 3dnowprefetch",
      .versions = {
          { .alias = "Broadwell-noTSX", .model_id = "Intel Core Processor (Broadwell, no TSX)", .features = "-hle -rtm" },
          { .alias = "Broadwell-IBRS", .model_id = "Intel Core Processor (Broadwell, IBRS)", .features = "hle rtm spec-ctrl" },
          { .alias = "Broadwell-noTSX-IBRS", .model_id = "Intel Core Processor (Broadwell, no TSX, IBRS)", .features = "-hle -rtm" },
      },
    },
    { .name = "Skylake-Client",
      .like = "Broadwell",
      ID(INTEL, 6, 94, 3, 0xd, 0x80000008),
      .model_id = "Intel Core Processor (Skylake)",
      .features = "xsavec xgetbv1",
      .versions = {
          { .alias = "Skylake-Client-IBRS", .model_id = "Intel Core Processor (Skylake, IBRS)", .features = "spec-ctrl" },
          { .alias = "Skylake-Client-noTSX-IBRS", .model_id = "Intel Core Processor (Skylake, IBRS, no TSX)", .features = "-hle -rtm" },
          { .note = "IBRS, XSAVES, no TSX", .features = "xsaves" },
      },
    },
    { .name = "Skylake-Server",
      .like = "Skylake-Client",
      ID(INTEL, 6, 85, 4, 0xd, 0x80000008),
      .model_id = "Intel Xeon Processor (Skylake)",
      .features = "avx512f avx512dq clflushopt clwb avx512cd avx512bw avx512vl pku pdpe1gb",
      .versions = {
          { .alias = "Skylake-Server-IBRS", .model_id = "Intel Xeon Processor (Skylake, IBRS)", .features = "spec-ctrl -clflushopt" },
          { .alias = "Skylake-Server-noTSX-IBRS", .model_id = "Intel Xeon Processor (Skylake, IBRS, no TSX)", .features = "-hle -rtm" },
          { .note = "IBRS, EPT switching, no TSX", .features = "" },
          { .note = "IBRS, XSAVES, EPT switching, no TSX", .features = "xsaves" },
      },
    },
    { .name = "Cascadelake-Server",
      .like = "Skylake-Server",
      ID(INTEL, 6, 85, 6, 0xd, 0x80000008),
      .model_id = "Intel Xeon Processor (Cascadelake)",
      .features = "avx512vnni spec-ctrl ssbd",
      .versions = {
          { .note = "ARCH_CAPABILITIES", .features = "arch-capabilities rdctl-no ibrs-all skip-l1dfl-vmentry mds-no" },
          { .alias = "Cascadelake-Server-noTSX", .note = "ARCH_CAPABILITIES, no TSX", .features = "-hle -rtm" },
          { .note = "ARCH_CAPABILITIES, EPT switching, no TSX", .features = "" },
          { .note = "ARCH_CAPABILITIES, EPT switching, XSAVES, no TSX", .features = "xsaves" },
      },
    },
    { .name = "Cooperlake",
      .like = "Cascadelake-Server-v2",
      ID(INTEL, 6, 85, 10, 0xd, 0x80000008),
      .model_id = "Intel Xeon Processor (Cooperlake)",
      .features = "stibp avx512-bf16 pschange-mc-no taa-no",
      .versions = {
          { .note = "XSAVES", .features = "xsaves" },
      },
    },
    { .name = "Icelake-Server",
      .like = "Cascadelake-Server",
      ID(INTEL, 6, 134, 0, 0xd, 0x80000008),
      .model_id = "Intel Xeon Processor (Icelake)",
      .features = "avx512vbmi umip avx512vbmi2 gfni vaes vpclmulqdq avx512bitalg avx512-vpopcntdq "
                  "la57 wbnoinvd",
      .versions = {
          { .alias = "Icelake-Server-noTSX", .note = "no TSX", .features = "-hle -rtm" },
          { .features = "arch-capabilities rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no "
                      "taa-no" },
          { .model = 106, .features = "avx512ifma sha-ni rdpid fsrm" },
          { .note = "XSAVES", .features = "xsaves" },
          { .note = "5-level EPT", .features = "" },
      },
    },
    { .name = "KnightsMill",
      .like = "Broadwell",
      ID(INTEL, 6, 133, 0, 0xd, 0x80000008),
      .model_id = "Intel Xeon Phi Processor (Knights Mill)",
      .features = "ss avx512f avx512pf avx512er avx512cd avx512-vpopcntdq avx512-4vnniw avx512-4fmaps "
                  "pdpe1gb -pcid -hle -invpcid -rtm -smap",
    },
    { .name = "Denverton",
      .like = "Skylake-Client",
      ID(INTEL, 6, 95, 1, 0x15, 0x80000008),
      .model_id = "Intel Atom Processor (Denverton)",
      .features = "monitor mpx clflushopt sha-ni spec-ctrl arch-capabilities ssbd pdpe1gb rdctl-no "
                  "skip-l1dfl-vmentry -fma -pcid -avx -f16c -bmi1 -hle -avx2 -bmi2 -invpcid -rtm -adx "
                  "-abm",
      .versions = {
          { .note = "no MPX, no MONITOR", .features = "-monitor -mpx" },
          { .note = "XSAVES, no MPX, no MONITOR", .features = "xsaves" },
      },
    },
    { .name = "Snowridge",
      .like = "Denverton",
      ID(INTEL, 6, 134, 1, 0x1b, 0x80000008),
      .model_id = "Intel Atom Processor (SnowRidge)",
      .features = "clwb umip gfni cldemote movdiri movdir64b core-capability split-lock-detect "
                  "-rdctl-no -skip-l1dfl-vmentry",
      .versions = {
          { .model_id = "Intel Atom Processor (Snowridge, no MPX)", .features = "-mpx" },
          { .note = "XSAVES, no MPX", .features = "xsaves" },
          { .note = "no split lock detect, no core-capability", .features = "-core-capability -split-lock-detect" },
      },
    },
    { .name = "Opteron_G1",
      .like = "Conroe",
      ID(AMD, 15, 6, 1, 0x5, 0x80000008),
      .model_id = "AMD Opteron 240 (Gen 1 Class Opteron)",
      .features = "-ssse3 -lahf-lm",
    },
    { .name = "Opteron_G2",
      .like = "Opteron_G1",
      ID(AMD, 15, 6, 1, 0x5, 0x8000000a),
      .model_id = "AMD Opteron 22xx (Gen 2 Class Opteron)",
      .features = "cx16 lahf-lm svm",
    },
    { .name = "Opteron_G3",
      .like = "Opteron_G2",
      ID(AMD, 16, 2, 3, 0x5, 0x8000000a),
      .model_id = "AMD Opteron 23xx (Gen 3 Class Opteron)",
      .features = "monitor popcnt rdtscp abm sse4a misalignsse",
    },
    { .name = "phenom",
      .like = "Opteron_G3",
      ID(AMD, 16, 2, 3, 0x5, 0x8000001a),
      .model_id = "AMD Phenom(tm) 9550 Quad-Core Processor",
      .features = "mmxext fxsr-opt pdpe1gb 3dnowext 3dnow npt -misalignsse",
    },
    { .name = "Opteron_G4",
      .like = "Opteron_G3",
      ID(AMD, 21, 1, 2, 0xd, 0x8000001a),
      .model_id = "AMD Opteron 62xx class CPU",
      .features = "pclmulqdq ssse3 sse4.1 sse4.2 aes xsave avx pdpe1gb 3dnowprefetch xop fma4 npt "
                  "nrip-save -monitor",
    },
    { .name = "Opteron_G5",
      .like = "Opteron_G4",
      ID(AMD, 21, 2, 0, 0xd, 0x8000001a),
      .model_id = "AMD Opteron 63xx class CPU",
      .features = "fma f16c tbm",
    },
    { .name = "EPYC",
      .like = "Opteron_G5",
      ID(AMD, 23, 1, 2, 0xd, 0x8000001e),
      .model_id = "AMD EPYC Processor",
      .features = "monitor movbe rdrand fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt "
                  "sha-ni mmxext fxsr-opt cr8legacy osvw topoext xsaveopt xsavec xgetbv1 arat -xop "
                  "-fma4 -tbm",
      .versions = {
          { .alias = "EPYC-IBPB", .model_id = "AMD EPYC Processor (with IBPB)", .features = "ibpb" },
          { .model_id = "AMD EPYC Processor", .features = "perfctr-core clzero xsaveerptr xsaves" },
      },
    },
    { .name = "Dhyana",
      .like = "EPYC-v2",
      ID(HYGON, 24, 0, 1, 0xd, 0x8000001e),
      .model_id = "Hygon Dhyana Processor",
      .features = "-pclmulqdq -aes -sha-ni",
      .versions = {
          { .note = "XSAVES", .features = "xsaves" },
      },
    },
    { .name = "EPYC-Rome",
      .like = "EPYC-v3",
      ID(AMD, 23, 49, 0, 0xd, 0x8000001e),
      .model_id = "AMD EPYC-Rome Processor",
      .features = "clwb umip rdpid wbnoinvd amd-stibp",
      .versions = {
          { .features = "ibrs amd-ssbd" },
      },
    },
    { .name = "EPYC-Milan",
      .like = "EPYC-Rome-v2",
      ID(AMD, 25, 1, 1, 0xd, 0x8000001e),
      .model_id = "AMD EPYC-Milan Processor",
      .features = "pcid erms invpcid pku fsrm svme-addr-chk",
    },
};

/* ---- features ---- */

static unsigned version_count(const Generation *g)
{
    unsigned count = 1;

    while (count <= G_N_ELEMENTS(g->versions) && g->versions[count - 1].features != NULL) {
        count++;
    }
    return count;
}

/* Finds "NAME" (version 1) or "NAME-v2". */
static const Generation *find_generation(const char *name, unsigned *version)
{
    for (size_t i = 0; i < G_N_ELEMENTS(generations); i++) {
        const char *known = generations[i].name;
        size_t length = strlen(known);
        if (strncmp(name, known, length) == 0 &&
            (name[length] == '\0' || strncmp(name + length, "-v", 2) == 0)) {
            *version = name[length] ? (unsigned)strtoul(name + length + 2, NULL, 10) : 1;
            return &generations[i];
        }
    }
    g_error("cpu models: the table is like an unknown model '%s'", name);
}

static void change_features(const char *list, uint32_t words[FEATURE_WORDS])
{
    g_auto(GStrv) names = g_strsplit(list, " ", -1);

    for (char **name = names; *name; name++) {
        bool remove = **name == '-';
        FeatureWord word;
        unsigned bit;
        if (**name == '\0') {
            continue;
        }
        if (!cpuid_feature_find(*name + remove, &word, &bit)) {
            g_error("cpu models: the table names an unknown feature '%s'", *name);
        }
        words[word] = (words[word] & ~(1u << bit)) | (remove ? 0 : 1u << bit);
    }
}

static void add_features(const Generation *g, unsigned version, uint32_t words[FEATURE_WORDS])
{
    unsigned like_version;

    if (g->like != NULL) {
        const Generation *like = find_generation(g->like, &like_version);
        add_features(like, like_version, words);
    }
    change_features(g->features, words);
    for (unsigned v = 2; v <= version; v++) {
        change_features(g->versions[v - 2].features, words);
    }
}

static void take_identity(const Generation *g, unsigned version, X86CpuIdentity *id)
{
    id->vendor = g->vendor;
    id->model_id = g->model_id;
    id->family = g->family;
    id->model = g->model;
    id->stepping = g->stepping;
    id->level = g->level;
    id->xlevel = g->xlevel;
    for (unsigned v = 2; v <= version; v++) {
        const Version *change = &g->versions[v - 2];
        id->model_id = change->model_id ? change->model_id : id->model_id;
        id->model = change->model ? change->model : id->model;
        id->stepping = change->stepping ? change->stepping : id->stepping;
    }
}

void x86_cpu_model_resolve(const X86CpuModel *model, X86CpuIdentity *id)
{
    memset(id, 0, sizeof(*id));
    if (model->generation == NULL) {
        id->vendor = id->model_id = "";
        id->level = model->everything ? 0xd : 0;
        id->xlevel = model->everything ? 0x80000021 : 0;
        return;
    }
    take_identity(model->generation, model->version, id);
    add_features(model->generation, model->version, id->features);
    id->features[FEAT_1_ECX] |= CPUID_EXT_HYPERVISOR;
}

/* ---- names ---- */

static void add_versions(GArray *list, const Generation *g)
{
    unsigned count = version_count(g);
    X86CpuModel model = { .name = g->name, .generation = g, .version = 1, .unversioned = true };

    model.alias_of = g_strdup_printf("%s-v1", g->name);
    model.latest = g_strdup_printf("%s-v%u", g->name, count);
    g_array_append_val(list, model);
    for (unsigned v = 1; v <= count; v++) {
        const Version *version = v > 1 ? &g->versions[v - 2] : NULL;
        X86CpuIdentity id;
        take_identity(g, v, &id);
        const char *name = g_strdup_printf("%s-v%u", g->name, v);
        model = (X86CpuModel){ .name = name, .generation = g, .version = v };
        model.description =
            version && version->note ? g_strdup_printf("%s [%s]", id.model_id, version->note) : id.model_id;
        g_array_append_val(list, model);
        if (version && version->alias) {
            model = (X86CpuModel){ .name = version->alias, .generation = g, .version = v, .alias_of = name };
            g_array_append_val(list, model);
        }
    }
}

static GArray *make_list(void)
{
    static const X86CpuModel others[] = {
        { .name = "base", .description = "base CPU model type with no features enabled" },
        { .name = "host",
          .everything = true,
          .description = "This host's processor as far as the accelerator can show it" },
        { .name = "max",
          .everything = true,
          .description = "Enables all features that Rhea and this host offer" },
    };
    GArray *list = g_array_new(FALSE, FALSE, sizeof(X86CpuModel));

    for (size_t i = 0; i < G_N_ELEMENTS(generations); i++) {
        add_versions(list, &generations[i]);
    }
    g_array_append_vals(list, others, G_N_ELEMENTS(others));
    return list;
}

const X86CpuModel *x86_cpu_models(unsigned *count)
{
    static GArray *list;
    static gsize once;

    if (g_once_init_enter(&once)) {
        list = make_list();
        g_once_init_leave(&once, 1);
    }
    g_assert(list != NULL); /* for the analyser, which does not see that the first call makes it */
    *count = list->len;
    return (const X86CpuModel *)list->data;
}

const X86CpuModel *x86_cpu_model_find(const char *name)
{
    unsigned count;
    const X86CpuModel *models = x86_cpu_models(&count);

    for (unsigned i = 0; i < count; i++) {
        if (strcmp(models[i].name, name) == 0) {
            return &models[i];
        }
    }
    return NULL;
}

const char *x86_cpu_model_latest(const char *name)
{
    const X86CpuModel *model = x86_cpu_model_find(name);

    return model && model->unversioned ? model->latest : name;
}

/* ---- -cpu help ---- */

/* Those without a generation come last. */
static int compare_models(const void *a, const void *b)
{
    const X86CpuModel *x = *(X86CpuModel *const *)a, *y = *(X86CpuModel *const *)b;

    if ((x->generation == NULL) != (y->generation == NULL)) {
        return x->generation ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void append_flags(GString *out)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    size_t line = 0;

    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        for (unsigned b = 0; b < 32; b++) {
            if (cpuid_feature_name((FeatureWord)w, b) != NULL) {
                g_ptr_array_add(names, (char *)cpuid_feature_name((FeatureWord)w, b));
            }
        }
    }
    g_ptr_array_sort(names, compare_names);
    g_string_append(out, "\nRecognized CPUID flags:\n");
    for (guint i = 0; i < names->len; i++) {
        const char *name = names->pdata[i];
        if (line > 0 && line + 1 + strlen(name) > 75) {
            g_string_append_c(out, '\n');
            line = 0;
        }
        g_string_append_printf(out, "%s%s", line ? " " : "  ", name);
        line += strlen(name) + 1;
    }
    g_string_append_c(out, '\n');
}

char *x86_cpu_models_help(void)
{
    unsigned count;
    const X86CpuModel *models = x86_cpu_models(&count);
    g_autoptr(GPtrArray) sorted = g_ptr_array_new();
    GString *out = g_string_new("Available CPUs:\n");

    for (unsigned i = 0; i < count; i++) {
        g_ptr_array_add(sorted, (void *)&models[i]);
    }
    g_ptr_array_sort(sorted, compare_models);
    for (guint i = 0; i < sorted->len; i++) {
        const X86CpuModel *m = sorted->pdata[i];
        g_string_append_printf(out, "x86 %-20s  ", m->name);
        if (m->unversioned) {
            g_string_append(out, "(alias configured by machine type)\n");
        } else if (m->alias_of) {
            g_string_append_printf(out, "(alias of %s)\n", m->alias_of);
        } else {
            g_string_append_printf(out, "%s\n", m->description);
        }
    }
    append_flags(out);
    return g_string_free(out, FALSE);
}
