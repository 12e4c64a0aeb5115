/*
 * The CPU object: types (one a model), properties, life, reset, mode bits, state table, and the text of "info
 * registers". SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/cpu.h"

#include "arch/x86/apic.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/flags.h"
#include "arch/x86/mmu.h"
#include "arch/x86/segment.h"
#include "arch/x86/system.h"
#include "base/error.h"
#include "base/log.h"
#include "object/property.h"
#include "vmstate/vmstate.h"

#include <sys/mman.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

void (*cpu_wake_hook)(X86Cpu *cpu);
void (*cpu_timer_hook)(X86Cpu *cpu);

/* ---- between threads ---- */

void cpu_interrupt(X86Cpu *cpu, uint32_t mask)
{
    uint32_t old = __atomic_fetch_or(&cpu->interrupt_request, mask, __ATOMIC_SEQ_CST);

    __atomic_store_n(&cpu->interrupt_poll, 1, __ATOMIC_SEQ_CST);
    if ((old & mask) != mask && cpu_wake_hook != NULL) {
        cpu_wake_hook(cpu);
    }
}

void cpu_interrupt_clear(X86Cpu *cpu, uint32_t mask)
{
    __atomic_fetch_and(&cpu->interrupt_request, ~mask, __ATOMIC_SEQ_CST);
}

void cpu_nmi(X86Cpu *cpu)
{
    uint32_t count = __atomic_load_n(&cpu->nmi_count, __ATOMIC_RELAXED);

    while (count < 2 && !__atomic_compare_exchange_n(&cpu->nmi_count, &count, count + 1, false,
                                                     __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {}
    cpu_interrupt(cpu, CPU_INTERRUPT_NMI);
}

void x86_nmi_unblock(X86Cpu *cpu)
{
    uint32_t two = 2;

    if (cpu->nmi_blocked) {
        cpu->nmi_blocked = false;
        /* While one was served, one more could be latched, no matter how many came. */
        __atomic_compare_exchange_n(&cpu->nmi_count, &two, 1, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
}

void x86_cpu_set_a20(X86Cpu *cpu, bool enabled)
{
    if (__atomic_exchange_n(&cpu->a20_masked, !enabled, __ATOMIC_SEQ_CST) == enabled && cpu->mmu != NULL) {
        mmu_flush_later(cpu);
    }
}

/* ---- mode ---- */

static bool segment_is_flat(const X86Segment *s, bool write)
{
    if (s->base != 0 || s->limit != UINT32_MAX || !(s->attr & DESC_P)) {
        return false;
    }
    if (s->attr & DESC_CODE) {
        return !write && (s->attr & DESC_R);
    }
    return !(s->attr & DESC_E) && (s->attr & DESC_W);
}

void x86_update_mode(X86Cpu *cpu)
{
    uint32_t mode = 0;
    bool lma = cpu->efer & EFER_LMA;
    bool vm86 = cpu->rflags & FLAG_VM;
    uint32_t cs = cpu->segs[SEG_CS].attr;

    if (lma && (cs & DESC_L)) {
        mode |= MODE_CS64 | MODE_FLAT;
    } else {
        if (cs & DESC_B) {
            mode |= MODE_CS32;
        }
        if (segment_is_flat(&cpu->segs[SEG_CS], false) && segment_is_flat(&cpu->segs[SEG_DS], true) &&
            segment_is_flat(&cpu->segs[SEG_ES], true) && segment_is_flat(&cpu->segs[SEG_SS], true)) {
            mode |= MODE_FLAT;
        }
        if (cpu->segs[SEG_SS].attr & DESC_B) {
            mode |= MODE_SS32;
        }
    }
    if (cpu->cr0 & CR0_PE) {
        mode |= MODE_PE | (vm86 ? MODE_VM86 : 0);
    }
    mode |= (lma ? MODE_LMA : 0) | (uint32_t)cpu->cpl << MODE_CPL_SHIFT;
    mode |= cpu->rflags & FLAG_TF ? MODE_TF : 0;
    if (!(cpu->cr0 & (CR0_EM | CR0_TS))) {
        mode |= MODE_FPU_OK;
        if (cpu->cr4 & CR4_OSFXSR) {
            mode |= MODE_SSE_OK;
        }
    }
    if ((cpu->cr4 & CR4_OSXSAVE) && (cpu->xcr0 & 6) == 6 && !(cpu->cr0 & CR0_TS) && (cpu->cr0 & CR0_PE) &&
        !vm86) {
        mode |= MODE_AVX_OK | ((cpu->xcr0 & XCR0_AVX512) == XCR0_AVX512 ? MODE_AVX512_OK : 0);
    }
    cpu->fpu_mask = XCR0_BASE | ((cpu->xcr0 & XCR0_AVX512) == XCR0_AVX512 ? XCR0_AVX512 : 0);
    if (cpu->cpl <= ((cpu->rflags & FLAG_IOPL) >> 12)) {
        mode |= MODE_IOPL_OK;
    }
    mode |= cpu->in_smm ? MODE_SMM : 0;
    mode |= (cpu->dr[7] & 0xff) || cpu->debugger ? MODE_BP : 0;
    bool ac = cpu->rflags & FLAG_AC;
    if (cpu->cpl == 3) {
        bool aligned = ac && (cpu->cr0 & CR0_AM);
        mode |= aligned ? MODE_AC : 0;
        if (cpu->mmu != NULL) {
            mmu_select(cpu, aligned ? MMU_USER_ALIGN : MMU_USER);
        }
    } else if (cpu->mmu != NULL) {
        mmu_select(cpu, ac ? MMU_KERNEL_AC : MMU_KERNEL);
    }
    cpu->mode = mode;
}

/* ---- reset ---- */

static void reset_segment(X86Cpu *cpu, int seg, uint32_t attr)
{
    cpu->segs[seg] = (X86Segment){ .attr = attr, .limit = 0xffff };
}

/* What only power-on and RESET change, SDM vol. 3 table 10-1. */
static void reset_hard(X86Cpu *cpu)
{
    uint16_t fcw = 0x37f;
    uint32_t mxcsr = 0x1f80, mxcsr_mask = 0xffff;
    uint64_t xstate_bv = 7;

    memset(cpu->xsave, 0, sizeof(cpu->xsave));
    cpu->fpu_bv = XCR0_BASE;
    /* The x87 state is what FNINIT leaves, as firmware would hand it over. */
    memcpy(cpu->xsave, &fcw, 2);
    memcpy(cpu->xsave + 24, &mxcsr, 4);
    memcpy(cpu->xsave + 28, &mxcsr_mask, 4);
    memcpy(cpu->xsave + 512, &xstate_bv, 8);
    cpu->xcr0 = 1;
    cpu->xss = 0;
    cpu->pkru = cpu->pkrs = 0;
    cpu->star = cpu->lstar = cpu->cstar = cpu->fmask = cpu->kernel_gs_base = cpu->tsc_aux = 0;
    cpu->sysenter_cs = cpu->sysenter_esp = cpu->sysenter_eip = 0;
    cpu->pat = UINT64_C(0x0007040600070406);
    cpu->misc_enable = 1; /* fast strings */
    cpu->spec_ctrl = 0;
    cpu->smbase = 0x30000;
    cpu->tsc_adjust = 0;
    cpu->debugctl = 0;
    cpu->mtrr_def_type = 0;
    memset(cpu->mtrr_fixed, 0, sizeof(cpu->mtrr_fixed));
    memset(cpu->mtrr_var, 0, sizeof(cpu->mtrr_var));
    cpu->mcg_status = 0;
    cpu->mcg_ctl = UINT64_MAX;
    memset(cpu->mc_banks, 0, sizeof(cpu->mc_banks));
    for (int i = 0; i < 10; i++) {
        cpu->mc_banks[i * 4] = UINT64_MAX; /* MCi_CTL */
    }
    cpu->kvm_system_time = cpu->kvm_wall_clock = cpu->kvm_pv_eoi = cpu->kvm_steal_time = cpu->kvm_async_pf =
        0;
    cpu->kvm_poll_control = 1;
    cpu->kvm_int = cpu->kvm_migration = 0;
    cpu->bios_sign_id = cpuid_is_intel(cpu) ? UINT64_C(0x100000000) : 0x01000065;
    cpu->feature_control = 1;
    cpu->hwcr = cpu->de_cfg = 0;
    cpu->pv_kicked = false;
    cpu->nmi_blocked = false;
    cpu->nmi_count = 0;
    cpu->in_smm = false;
    cpu->tsc_offset = 0;
    cpu->interrupt_request &= CPU_INTERRUPT_EXIT | CPU_INTERRUPT_TLB;
}

void x86_cpu_reset(X86Cpu *cpu, bool is_init)
{
    x86_fpu_leave(cpu);
    bool is_bsp;

    LOG(LOG_CPU_RESET, "cpu %u: %s", cpu->index, is_init ? "INIT" : "reset");
    if (!is_init) {
        reset_hard(cpu);
    }
    memset(cpu->regs, 0, sizeof(cpu->regs));
    cpu->regs[R_RDX] = cpuid_signature(cpu);
    cpu->rip = 0xfff0;
    cpu->cr0 = CR0_ET | (is_init ? cpu->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW);
    cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->cr8 = 0;
    cpu->efer = 0;
    memset(cpu->dr, 0, sizeof(cpu->dr));
    cpu->dr[6] = 0xffff0ff0;
    cpu->dr[7] = 0x400;
    cpu->debug_pending = 0;
    cpu->cpl = 0;
    reset_segment(cpu, SEG_CS, DESC_P | DESC_S | DESC_CODE | DESC_R | DESC_A);
    cpu->segs[SEG_CS].selector = 0xf000;
    cpu->segs[SEG_CS].base = 0xffff0000;
    for (int seg = 0; seg < SEG_COUNT; seg++) {
        if (seg != SEG_CS) {
            reset_segment(cpu, seg, DESC_P | DESC_S | DESC_W | DESC_A);
        }
    }
    reset_segment(cpu, SEG_LDTR, DESC_P | DESC_LDT << DESC_TYPE_SHIFT);
    reset_segment(cpu, SEG_TR, DESC_P | DESC_TSS32_BUSY << DESC_TYPE_SHIFT);
    cpu->gdt = cpu->idt = (X86Table){ .base = 0, .limit = 0xffff };
    cpu->inhibit_interrupts = cpu->inhibit_debug = false;
    cpu->mwait = false;
    cpu->shutdown = false;
    cpu->exc.vector = -1;
    x86_set_rflags(cpu, FLAG_ONE);
    apic_reset(cpu->apic, is_init);
    is_bsp = apic_get_base(cpu->apic) & (1u << 8);
    cpu->wait_sipi = !is_bsp;
    cpu->halted = !is_bsp;
    mmu_flush(cpu, false);
    if (!is_init) {
        mmu_flush_later(cpu);
    }
    x86_update_mode(cpu);
}

/* ---- life ---- */

static void warn_unavailable(X86Cpu *cpu)
{
    const X86CpuidState *s = cpu->cpuid;

    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        for (unsigned b = 0; b < 32; b++) {
            if (s->unavailable[w] >> b & 1) {
                const char *name = cpuid_feature_name((FeatureWord)w, b);
                log_warning("%s doesn't support requested feature: %s%s%s [bit %u]",
                            cpuid_is_native() ? "host" : "TCG", cpuid_word_location((FeatureWord)w),
                            name ? "." : "", name ? name : "", b);
            }
        }
    }
}

static unsigned bits_for(uint32_t n)
{
    return n <= 1 ? 0 : 32 - (unsigned)__builtin_clz(n - 1);
}

/* SDM vol. 3 9.9.1: package, die, core and thread in fields of their own. */
static uint32_t default_apic_id(const X86Cpu *cpu)
{
    uint32_t threads = MAX(cpu->threads, 1), cores = MAX(cpu->cores, 1), dies = MAX(cpu->dies, 1);
    uint32_t i = cpu->index;
    uint32_t thread = i % threads, core = i / threads % cores, die = i / threads / cores % dies;
    uint32_t socket = i / threads / cores / dies;
    unsigned core_shift = bits_for(threads), die_shift = core_shift + bits_for(cores);

    return socket << (die_shift + bits_for(dies)) | die << die_shift | core << core_shift | thread;
}

bool x86_cpu_realize(X86Cpu *cpu, const X86CpuEnv *env, GError **error)
{
    X86CpuidState *s = cpu->cpuid;

    if (cpu->realized) {
        return error_set(error, "CPU %u is realized already", cpu->index);
    }
    cpuid_filter(cpu);
    bool missing = false;
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        missing |= s->unavailable[w] != 0;
    }
    if (missing && (s->check || s->enforce) && (cpu->index == 0 || s->enforce)) {
        warn_unavailable(cpu);
    }
    if (missing && s->enforce) {
        return error_set(error, "%s doesn't support requested features", cpuid_is_native() ? "Host" : "TCG");
    }
    if (!cpu_has_feature(cpu, FEAT_1_EDX, CPUID_APIC)) {
        return error_set(error, "CPU %u: a CPU without an APIC is not supported", cpu->index);
    }
    if (cpu->apic_id == UINT32_MAX) {
        cpu->apic_id = default_apic_id(cpu);
    }
    if (s->phys_bits != 0 && (s->phys_bits < 32 || s->phys_bits > 52)) {
        return error_set(error, "phys-bits should be between 32 and 52 (but is %u)", s->phys_bits);
    }
    cpu->phys_bits = s->phys_bits ? s->phys_bits : 40;
    if (!cpu_has_feature(cpu, FEAT_8000_0001_EDX, CPUID_EXT2_LM) && s->phys_bits == 0) {
        cpu->phys_bits = 36;
    }
    cpu->tsc_khz = s->tsc_hz ? s->tsc_hz / 1000 : 1000000;
    if (cpu->tsc_khz == 0) {
        return error_set(error, "tsc-frequency: at least 1 kHz is needed");
    }
    cpu->arch_capabilities = cpuid_arch_capabilities(cpu);
    cpu->env = *env;
    mmu_new(cpu);
    cpu->apic = apic_new(cpu, env->apic_bus);
    if (!object_property_add_child(OBJECT(cpu), "lapic", OBJECT(cpu->apic), error)) {
        x86_cpu_unrealize(cpu);
        return false;
    }
    x86_cpu_reset(cpu, false);
    cpu->realized = true;
    return true;
}

void x86_cpu_unrealize(X86Cpu *cpu)
{
    if (cpu->apic != NULL) {
        apic_free(cpu->apic);
        cpu->apic = NULL;
    }
    mmu_free(cpu->mmu);
    cpu->mmu = NULL;
    cpu->realized = false;
}

/* ---- properties ---- */

static bool refuse_realized(Object *obj, const char *name, GError **error)
{
    if (X86_CPU(obj)->realized) {
        return error_set(error, "Attempt to set property '%s' on a CPU after it was realized", name);
    }
    return true;
}

static bool feature_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    unsigned id = GPOINTER_TO_UINT(opaque);
    bool value = X86_CPU(obj)->cpuid_features[id >> 8] >> (id & 31) & 1;

    return visit_bool(v, name, &value, error);
}

static bool feature_set(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    X86Cpu *cpu = X86_CPU(obj);
    unsigned id = GPOINTER_TO_UINT(opaque);
    uint32_t mask = 1u << (id & 31);
    bool value;

    if (!refuse_realized(obj, name, error) || !visit_bool(v, name, &value, error)) {
        return false;
    }
    if (id >> 8 == FEAT_KVM && (id & 31) == 0) {
        mask |= KVM_FEATURE_CLOCKSOURCE2;
    }
    cpu->cpuid_features[id >> 8] = (cpu->cpuid_features[id >> 8] & ~mask) | (value ? mask : 0);
    cpu->cpuid->user_set[id >> 8] |= mask;
    return true;
}

typedef enum IdentityField {
    ID_VENDOR,
    ID_MODEL_ID,
    ID_FAMILY,
    ID_MODEL,
    ID_STEPPING,
    ID_LEVEL,
    ID_XLEVEL,
    ID_PHYS_BITS,
    ID_TSC_FREQUENCY,
    ID_KVM,
    ID_CHECK,
    ID_ENFORCE,
    ID_MIGRATABLE,
    ID_HOST_PHYS_BITS,
    ID_L3_CACHE,
    ID_CPUID_0XB,
    ID_PMU,
    ID_APIC_ID,
    ID_SOCKET_ID,
    ID_DIE_ID,
    ID_CORE_ID,
    ID_THREAD_ID,
} IdentityField;

static bool *bool_field(X86CpuidState *s, IdentityField field)
{
    switch (field) {
    case ID_KVM:
        return &s->kvm;
    case ID_CHECK:
        return &s->check;
    case ID_ENFORCE:
        return &s->enforce;
    case ID_MIGRATABLE:
        return &s->migratable;
    case ID_HOST_PHYS_BITS:
        return &s->host_phys_bits;
    case ID_L3_CACHE:
        return &s->l3_cache;
    case ID_CPUID_0XB:
        return &s->cpuid_0xb;
    default:
        return &s->pmu;
    }
}

static uint32_t *uint_field(X86Cpu *cpu, IdentityField field)
{
    X86CpuidState *s = cpu->cpuid;

    switch (field) {
    case ID_FAMILY:
        return &s->family;
    case ID_MODEL:
        return &s->model;
    case ID_STEPPING:
        return &s->stepping;
    case ID_LEVEL:
        return &s->level;
    case ID_XLEVEL:
        return &s->xlevel;
    case ID_APIC_ID:
        return &cpu->apic_id;
    default:
        return &s->phys_bits;
    }
}

static int32_t *int_field(X86Cpu *cpu, IdentityField field)
{
    return field == ID_SOCKET_ID ? &cpu->socket_id
           : field == ID_DIE_ID  ? &cpu->die_id
           : field == ID_CORE_ID ? &cpu->core_id
                                 : &cpu->thread_id;
}

static bool identity_get_bool(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    bool value = *bool_field(X86_CPU(obj)->cpuid, (IdentityField)GPOINTER_TO_UINT(opaque));

    return visit_bool(v, name, &value, error);
}

static bool identity_set_bool(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    return refuse_realized(obj, name, error) &&
           visit_bool(v, name, bool_field(X86_CPU(obj)->cpuid, (IdentityField)GPOINTER_TO_UINT(opaque)),
                      error);
}

static bool identity_get_uint(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    uint32_t value = *uint_field(X86_CPU(obj), (IdentityField)GPOINTER_TO_UINT(opaque));

    return visit_uint32(v, name, &value, error);
}

static bool identity_set_uint(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    static const struct {
        IdentityField field;
        uint32_t max;
    } limits[] = { { ID_FAMILY, 255 + 15 }, { ID_MODEL, 255 }, { ID_STEPPING, 15 } };
    IdentityField field = (IdentityField)GPOINTER_TO_UINT(opaque);
    uint32_t value;

    if (!refuse_realized(obj, name, error) || !visit_uint32(v, name, &value, error)) {
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(limits); i++) {
        if (limits[i].field == field && value > limits[i].max) {
            return error_set(error, "Property '%s' takes at most %u (got %u)", name, limits[i].max, value);
        }
    }
    *uint_field(X86_CPU(obj), field) = value;
    return true;
}

static bool identity_get_int(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    int32_t value = *int_field(X86_CPU(obj), (IdentityField)GPOINTER_TO_UINT(opaque));

    return visit_int32(v, name, &value, error);
}

static bool identity_set_int(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    return refuse_realized(obj, name, error) &&
           visit_int32(v, name, int_field(X86_CPU(obj), (IdentityField)GPOINTER_TO_UINT(opaque)), error);
}

static bool identity_get_str(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    X86CpuidState *s = X86_CPU(obj)->cpuid;
    char *value = GPOINTER_TO_UINT(opaque) == ID_VENDOR ? s->vendor : s->model_id;

    return visit_str(v, name, &value, error);
}

static bool identity_set_str(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    X86CpuidState *s = X86_CPU(obj)->cpuid;
    g_autofree char *value = NULL;

    if (!refuse_realized(obj, name, error) || !visit_str(v, name, &value, error)) {
        return false;
    }
    if (GPOINTER_TO_UINT(opaque) == ID_VENDOR) {
        if (strlen(value) != 12) {
            return error_set(error, "Property '%s' takes 12 characters, as in GenuineIntel (got '%s')", name,
                             value);
        }
        g_strlcpy(s->vendor, value, sizeof(s->vendor));
    } else {
        g_strlcpy(s->model_id, value, sizeof(s->model_id));
    }
    return true;
}

static bool tsc_frequency_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    X86Cpu *cpu = X86_CPU(obj);
    int64_t value = cpu->cpuid->tsc_hz ? (int64_t)cpu->cpuid->tsc_hz : (int64_t)cpu->tsc_khz * 1000;

    return visit_int64(v, name, &value, error);
}

static bool tsc_frequency_set(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    int64_t value;

    if (!refuse_realized(obj, name, error) || !visit_int64(v, name, &value, error)) {
        return false;
    }
    if (value < 0 || value > INT64_C(100000000000)) {
        return error_set(error, "Property '%s' takes 0 to 100000000000 (Hz)", name);
    }
    X86_CPU(obj)->cpuid->tsc_hz = (uint64_t)value;
    return true;
}

static bool unavailable_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    X86Cpu *cpu = X86_CPU(obj);
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        uint32_t missing = cpu->realized ? cpu->cpuid->unavailable[w]
                                         : cpu->cpuid_features[w] & ~cpuid_supported((FeatureWord)w);
        for (unsigned b = 0; b < 32; b++) {
            if ((missing >> b & 1) && cpuid_feature_name((FeatureWord)w, b) != NULL) {
                g_ptr_array_add(names, (char *)cpuid_feature_name((FeatureWord)w, b));
            }
        }
    }
    size_t count = names->len;
    if (!visit_start_list(v, name, &count, error)) {
        return false;
    }
    for (guint i = 0; i < names->len; i++) {
        char *s = names->pdata[i];
        if (!visit_str(v, NULL, &s, error)) {
            return false;
        }
    }
    visit_end_list(v);
    return true;
}

static bool realized_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    bool value = X86_CPU(obj)->realized;

    return visit_bool(v, name, &value, error);
}

static const struct {
    const char *name;
    IdentityField field;
} bool_properties[] = {
    { "kvm", ID_KVM },
    { "check", ID_CHECK },
    { "enforce", ID_ENFORCE },
    { "migratable", ID_MIGRATABLE },
    { "host-phys-bits", ID_HOST_PHYS_BITS },
    { "l3-cache", ID_L3_CACHE },
    { "cpuid-0xb", ID_CPUID_0XB },
    { "pmu", ID_PMU },
}, uint_properties[] = {
    { "family", ID_FAMILY }, { "model", ID_MODEL },   { "stepping", ID_STEPPING },   { "level", ID_LEVEL },
    { "xlevel", ID_XLEVEL }, { "apic-id", ID_APIC_ID }, { "phys-bits", ID_PHYS_BITS },
}, int_properties[] = {
    { "socket-id", ID_SOCKET_ID },
    { "die-id", ID_DIE_ID },
    { "core-id", ID_CORE_ID },
    { "thread-id", ID_THREAD_ID },
};

/* Further names that QEMU's users know for a bit (with '_' written as '-'). */
static const char *const property_aliases[] = {
    "sse3", "pclmuldq", "sse4-1", "sse4-2", "xd", "ffxsr", "i64"
};

static void add_feature_property(ObjectClass *klass, const char *name, FeatureWord word, unsigned bit)
{
    object_class_property_add(klass, name, "bool", feature_get, feature_set,
                              GUINT_TO_POINTER((unsigned)word << 8 | bit));
}

static void cpu_base_class_init(ObjectClass *klass, const void *data)
{
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        for (unsigned b = 0; b < 32; b++) {
            const char *name = cpuid_feature_name((FeatureWord)w, b);
            if (name != NULL) {
                add_feature_property(klass, name, (FeatureWord)w, b);
            }
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(property_aliases); i++) {
        FeatureWord word;
        unsigned bit;
        if (cpuid_feature_find(property_aliases[i], &word, &bit)) {
            add_feature_property(klass, property_aliases[i], word, bit);
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bool_properties); i++) {
        object_class_property_add(klass, bool_properties[i].name, "bool", identity_get_bool,
                                  identity_set_bool, GUINT_TO_POINTER(bool_properties[i].field));
    }
    for (size_t i = 0; i < G_N_ELEMENTS(uint_properties); i++) {
        object_class_property_add(klass, uint_properties[i].name, "uint32", identity_get_uint,
                                  identity_set_uint, GUINT_TO_POINTER(uint_properties[i].field));
    }
    for (size_t i = 0; i < G_N_ELEMENTS(int_properties); i++) {
        object_class_property_add(klass, int_properties[i].name, "int32", identity_get_int, identity_set_int,
                                  GUINT_TO_POINTER(int_properties[i].field));
    }
    object_class_property_add(klass, "vendor", "string", identity_get_str, identity_set_str,
                              GUINT_TO_POINTER(ID_VENDOR));
    object_class_property_add(klass, "model-id", "string", identity_get_str, identity_set_str,
                              GUINT_TO_POINTER(ID_MODEL_ID));
    object_class_property_add(klass, "tsc-frequency", "int", tsc_frequency_get, tsc_frequency_set, NULL);
    object_class_property_add(klass, "unavailable-features", "strList", unavailable_get, NULL, NULL);
    object_class_property_add(klass, "realized", "bool", realized_get, NULL, NULL);
}

/* ---- types ---- */

static void model_class_init(ObjectClass *klass, const void *data)
{
    ((X86CpuClass *)klass)->model = data;
}

static void cpu_instance_init(Object *obj)
{
    X86Cpu *cpu = (X86Cpu *)obj;

    cpu->cpuid = g_new0(X86CpuidState, 1);
    cpu->apic_id = UINT32_MAX;
    cpu->socket_id = cpu->die_id = cpu->core_id = cpu->thread_id = -1;
    cpu->fpu_stale = 1;
    cpu->fpu_mask = cpu->fpu_bv = XCR0_BASE;
    cpuid_host_xsave(cpu);
    cpu->exc.vector = -1;
}

static void model_instance_init(Object *obj)
{
    cpuid_init_from_model((X86Cpu *)obj, OBJECT_GET_CLASS(X86CpuClass, obj)->model);
}

static void cpu_instance_finalize(Object *obj)
{
    X86Cpu *cpu = (X86Cpu *)obj;

    x86_cpu_unrealize(cpu);
    g_free(cpu->cpuid->hv_vendor_id);
    g_free(cpu->cpuid);
}

/* Up to the end of a page, with X86_CPU_GUARD behind it. */
static void *cpu_instance_alloc(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (size + page - 1) & ~(page - 1);
    uint8_t *memory =
        mmap(NULL, pages + X86_CPU_GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED) {
        return NULL;
    }
    if (mprotect(memory, pages, PROT_READ | PROT_WRITE)) {
        munmap(memory, pages + X86_CPU_GUARD);
        return NULL;
    }
#ifdef __SANITIZE_ADDRESS__
    __lsan_register_root_region(memory, pages); /* what a CPU points to is no leak */
#endif
    return memory + pages - size;
}

static void cpu_instance_free(void *memory, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (size + page - 1) & ~(page - 1);

#ifdef __SANITIZE_ADDRESS__
    __lsan_unregister_root_region((uint8_t *)memory + size - pages, pages);
#endif
    munmap((uint8_t *)memory + size - pages, pages + X86_CPU_GUARD);
}

static const TypeInfo cpu_type = {
    .name = TYPE_X86_CPU,
    .parent = TYPE_OBJECT,
    .description = "x86-64 CPU",
    .instance_size = sizeof(X86Cpu),
    .instance_align = 64,
    .instance_alloc = cpu_instance_alloc,
    .instance_free = cpu_instance_free,
    .class_size = sizeof(X86CpuClass),
    .abstract = true,
    .class_init = cpu_base_class_init,
    .instance_init = cpu_instance_init,
    .instance_finalize = cpu_instance_finalize,
};
TYPE_REGISTER(cpu_type);

/* One type a model: before main, since the types' table is read at the first look-up. */
static void __attribute__((constructor)) register_models(void)
{
    unsigned count;
    const X86CpuModel *models = x86_cpu_models(&count);

    for (unsigned i = 0; i < count; i++) {
        const X86CpuModel *model = &models[i];
        TypeInfo *info = g_new0(TypeInfo, 1);
        info->name = g_strconcat(model->name, "-" TYPE_X86_CPU, NULL);
        info->parent = TYPE_X86_CPU;
        info->description = model->description ? model->description : model->alias_of;
        info->class_init = model_class_init;
        info->class_data = model;
        info->instance_init = model_instance_init;
        type_register(info);
    }
}

/* ---- for the monitor ---- */

GPtrArray *x86_cpu_unavailable_features(const X86CpuModel *model)
{
    GPtrArray *names = g_ptr_array_new();
    X86CpuidState state = { 0 };
    X86Cpu *cpu = g_aligned_alloc0(1, sizeof(X86Cpu), 64);

    cpu->cpuid = &state;
    cpuid_init_from_model(cpu, model);
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        uint32_t missing = cpu->cpuid_features[w] & ~cpuid_supported((FeatureWord)w);
        for (unsigned b = 0; b < 32; b++) {
            const char *name = cpuid_feature_name((FeatureWord)w, b);
            if ((missing >> b & 1) && name != NULL) {
                g_ptr_array_add(names, (char *)name);
            }
        }
    }
    g_aligned_free(cpu);
    return names;
}

json_object *x86_cpu_model_expand(const char *model_name, json_object *changes, bool full, GError **error)
{
    g_autofree char *type = g_strconcat(model_name, "-" TYPE_X86_CPU, NULL);
    ObjectClass *klass = object_class_by_name(type);

    if (klass == NULL) {
        error_set(error, "unable to find CPU model '%s'", model_name);
        return NULL;
    }
    g_autoptr(Object) obj = object_new(type, error);
    if (obj == NULL) {
        return NULL;
    }
    if (changes != NULL) {
        json_object_object_foreach(changes, key, value)
        {
            g_autoptr(Visitor) v = visitor_new_input(json_object_get(value), false);
            if (!object_property_set(obj, key, v, error)) {
                return NULL;
            }
        }
    }
    X86Cpu *cpu = X86_CPU(obj);
    cpuid_filter(cpu);
    json_object *props = json_object_new_object();
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        for (unsigned b = 0; b < 32; b++) {
            const char *name = cpuid_feature_name((FeatureWord)w, b);
            if (name != NULL) {
                json_object_object_add(props, name, json_object_new_boolean(cpu->cpuid_features[w] >> b & 1));
            }
        }
    }
    json_object_object_add(props, "vendor", json_object_new_string(cpu->cpuid->vendor));
    json_object_object_add(props, "family", json_object_new_int64(cpu->cpuid->family));
    json_object_object_add(props, "model", json_object_new_int64(cpu->cpuid->model));
    json_object_object_add(props, "stepping", json_object_new_int64(cpu->cpuid->stepping));
    json_object_object_add(props, "model-id", json_object_new_string(cpu->cpuid->model_id));
    json_object_object_add(props, "level", json_object_new_int64(cpu->cpuid->level));
    json_object_object_add(props, "xlevel", json_object_new_int64(cpu->cpuid->xlevel));
    if (full) {
        for (size_t i = 0; i < G_N_ELEMENTS(bool_properties); i++) {
            json_object_object_add(
                props, bool_properties[i].name,
                json_object_new_boolean(*bool_field(cpu->cpuid, bool_properties[i].field)));
        }
        json_object_object_add(props, "phys-bits", json_object_new_int64(cpu->cpuid->phys_bits));
    }
    return props;
}

static const char *segment_type_text(const X86Segment *s)
{
    if (!(s->attr & DESC_P)) {
        return "";
    }
    if (!(s->attr & DESC_S)) {
        return " sys";
    }
    return s->attr & DESC_CODE ? (s->attr & DESC_L ? " CS64" : s->attr & DESC_B ? " CS32" : " CS16") : " DS";
}

char *x86_cpu_dump(X86Cpu *cpu)
{
    static const char *const names[16] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                           "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15" };
    static const int order[16] = { R_RAX, R_RBX, R_RCX, R_RDX, R_RSI, R_RDI, R_RBP, R_RSP,
                                   R_R8,  R_R9,  R_R10, R_R11, R_R12, R_R13, R_R14, R_R15 };
    static const char *const segment_names[SEG_ALL] = {
        "ES ", "CS ", "SS ", "DS ", "FS ", "GS ", "LDT", "TR "
    };
    GString *out = g_string_new(NULL);
    uint64_t flags = x86_get_rflags(cpu);

    for (int i = 0; i < 16; i++) {
        g_string_append_printf(out, "%s=%016" PRIx64 "%c", names[order[i]], cpu->regs[order[i]],
                               i % 4 == 3 ? '\n' : ' ');
    }
    g_string_append_printf(
        out, "RIP=%016" PRIx64 " RFL=%08x [%c%c%c%c%c%c%c] CPL=%u II=%d A20=%d SMM=%d HLT=%d\n", cpu->rip,
        (unsigned)flags, flags & FLAG_DF ? 'D' : '-', flags & FLAG_OF ? 'O' : '-',
        flags & FLAG_SF ? 'S' : '-', flags & FLAG_ZF ? 'Z' : '-', flags & FLAG_AF ? 'A' : '-',
        flags & FLAG_PF ? 'P' : '-', flags & FLAG_CF ? 'C' : '-', cpu->cpl, cpu->inhibit_interrupts,
        !cpu->a20_masked, cpu->in_smm, cpu->halted);
    for (int i = 0; i < SEG_ALL; i++) {
        const X86Segment *s = &cpu->segs[i];
        g_string_append_printf(out, "%s=%04x %016" PRIx64 " %08x %08x DPL=%u%s\n", segment_names[i],
                               s->selector, s->base, s->limit, s->attr, (s->attr >> DESC_DPL_SHIFT) & 3,
                               segment_type_text(s));
    }
    g_string_append_printf(out, "GDT=     %016" PRIx64 " %08x\nIDT=     %016" PRIx64 " %08x\n", cpu->gdt.base,
                           cpu->gdt.limit, cpu->idt.base, cpu->idt.limit);
    g_string_append_printf(out, "CR0=%08x CR2=%016" PRIx64 " CR3=%016" PRIx64 " CR4=%08x\n",
                           (unsigned)cpu->cr0, cpu->cr2, cpu->cr3, (unsigned)cpu->cr4);
    for (int i = 0; i < 8; i++) {
        if (i != 4 && i != 5) {
            g_string_append_printf(out, "DR%d=%016" PRIx64 "%c", i, cpu->dr[i],
                                   i == 3 || i == 7 ? '\n' : ' ');
        }
    }
    g_string_append_printf(out, "EFER=%016" PRIx64 " XCR0=%" PRIx64 " FCW=%04x MXCSR=%08x\n", cpu->efer,
                           cpu->xcr0, *(const uint16_t *)cpu->xsave, *(const uint32_t *)(cpu->xsave + 24));
    for (int i = 0; i < 16; i++) {
        const uint64_t *xmm = (const uint64_t *)(cpu->xsave + 160 + i * 16);
        g_string_append_printf(out, "XMM%02d=%016" PRIx64 "%016" PRIx64 "%c", i, xmm[1], xmm[0],
                               i % 2 ? '\n' : ' ');
    }
    return g_string_free(out, FALSE);
}

/* ---- state ---- */

static const VmStateField segment_fields[] = {
    VMS_UINT16(selector, X86Segment),
    VMS_UINT32(attr, X86Segment),
    VMS_UINT32(limit, X86Segment),
    VMS_UINT64(base, X86Segment),
    VMS_END,
};
static const VmState segment_vmstate = {
    .name = "x86-segment", .version = 1, .minimum_version = 1, .fields = segment_fields
};

static const VmStateField table_fields[] = { VMS_UINT64(base, X86Table), VMS_UINT16(limit, X86Table),
                                             VMS_END };
static const VmState table_vmstate = {
    .name = "x86-table", .version = 1, .minimum_version = 1, .fields = table_fields
};

static bool cpu_pre_save(void *opaque, GError **error)
{
    X86Cpu *cpu = opaque;

    cpu->saved_rflags = x86_get_rflags(cpu);
    return true;
}

static bool cpu_pre_load(void *opaque, GError **error)
{
    X86Cpu *cpu = opaque;

    cpu->avx512_loaded = false;
    cpu->pkrs = 0;
    return true;
}

/* The components of AVX-512 lie elsewhere on other hosts: they travel by themselves. */
static bool avx512_needed(const void *opaque)
{
    const X86Cpu *cpu = opaque;

    return cpu->xsave_opmask && ((cpu->xcr0 & XCR0_AVX512) || (cpu->fpu_bv & XCR0_AVX512));
}

static bool avx512_pre_save(void *opaque, GError **error)
{
    X86Cpu *cpu = opaque;
    uint8_t *to = cpu->saved_avx512;

    memcpy(to, cpu->xsave + cpu->xsave_opmask, XSAVE_OPMASK_SIZE);
    memcpy(to + XSAVE_OPMASK_SIZE, cpu->xsave + cpu->xsave_zmm_hi, XSAVE_ZMM_HI_SIZE);
    memcpy(to + XSAVE_OPMASK_SIZE + XSAVE_ZMM_HI_SIZE, cpu->xsave + cpu->xsave_hi16, XSAVE_HI16_SIZE);
    return true;
}

static bool avx512_post_load(void *opaque, int version, GError **error)
{
    X86Cpu *cpu = opaque;

    if (!cpu->xsave_opmask) {
        return error_set(error, "cpu %u: the state has AVX-512 registers, which this host lacks", cpu->index);
    }
    cpu->avx512_loaded = true;
    return true;
}

static const VmStateField avx512_fields[] = { VMS_BUFFER(saved_avx512, X86Cpu), VMS_END };
static const VmState avx512_vmstate = {
    .name = "cpu/avx512",
    .version = 1,
    .minimum_version = 1,
    .fields = avx512_fields,
    .needed = avx512_needed,
    .pre_save = avx512_pre_save,
    .post_load = avx512_post_load,
};
static bool pks_needed(const void *opaque)
{
    const X86Cpu *cpu = opaque;

    return cpu->pkrs != 0;
}

static const VmStateField pks_fields[] = { VMS_UINT32(pkrs, X86Cpu), VMS_END };
static const VmState pks_vmstate = {
    .name = "cpu/pks",
    .version = 1,
    .minimum_version = 1,
    .fields = pks_fields,
    .needed = pks_needed,
};
static const VmState *const cpu_subsections[] = { &avx512_vmstate, &pks_vmstate, NULL };

/* Behind fields and subsections: what other hosts have behind AVX means nothing here. */
static void place_avx512(X86Cpu *cpu)
{
    const uint8_t *from = cpu->saved_avx512;

    memset(cpu->xsave + 832, 0, sizeof(cpu->xsave) - 832);
    cpu->fpu_bv = XCR0_BASE;
    if (cpu->avx512_loaded) {
        memcpy(cpu->xsave + cpu->xsave_opmask, from, XSAVE_OPMASK_SIZE);
        memcpy(cpu->xsave + cpu->xsave_zmm_hi, from + XSAVE_OPMASK_SIZE, XSAVE_ZMM_HI_SIZE);
        memcpy(cpu->xsave + cpu->xsave_hi16, from + XSAVE_OPMASK_SIZE + XSAVE_ZMM_HI_SIZE, XSAVE_HI16_SIZE);
        cpu->fpu_bv |= XCR0_AVX512;
    }
}

static bool cpu_post_load(void *opaque, int version, GError **error)
{
    X86Cpu *cpu = opaque;
    uint64_t xcr0_mask = cpuid_xcr0_mask(cpu) | 1;
    uint32_t mxcsr, mxcsr_mask = 0xffff;
    uint64_t xstate_bv = 7;

    if (cpu->cpl > 3 || (cpu->xcr0 & ~xcr0_mask) || !cpuid_xcr0_valid(cpu->xcr0)) {
        return error_set(error, "cpu %u: the state has an impossible privilege level or XCR0", cpu->index);
    }
    memcpy(&mxcsr, cpu->xsave + 24, 4);
    mxcsr &= mxcsr_mask;
    memcpy(cpu->xsave + 24, &mxcsr, 4);
    memcpy(cpu->xsave + 28, &mxcsr_mask, 4);
    memcpy(cpu->xsave + 512, &xstate_bv, 8);
    memset(cpu->xsave + 520, 0, 56);
    place_avx512(cpu);
    cpu->rflags = FLAG_ONE;
    x86_set_rflags(cpu, cpu->saved_rflags | FLAG_ONE);
    x86_update_mode(cpu);
    if (cpu->mmu != NULL) {
        mmu_flush_later(cpu);
    }
    return true;
}

static const VmStateField cpu_fields[] = {
    VMS_UINT64(regs, X86Cpu),
    VMS_UINT64(rip, X86Cpu),
    VMS_UINT64(saved_rflags, X86Cpu),
    VMS_UINT8(cpl, X86Cpu),
    VMS_BOOL(inhibit_interrupts, X86Cpu),
    VMS_BOOL(inhibit_debug, X86Cpu),
    VMS_BOOL(nmi_blocked, X86Cpu),
    VMS_BOOL(in_smm, X86Cpu),
    VMS_BOOL(smm_saved_nmi_blocked, X86Cpu),
    VMS_BOOL(pv_kicked, X86Cpu),
    VMS_BOOL(halted, X86Cpu),
    VMS_BOOL(a20_masked, X86Cpu),
    VMS_BOOL(mwait, X86Cpu),
    VMS_BOOL(wait_sipi, X86Cpu),
    VMS_BOOL(shutdown, X86Cpu),
    VMS_UINT32(interrupt_request, X86Cpu),
    VMS_UINT32(nmi_count, X86Cpu),
    VMS_STRUCT_ARRAY(segs, X86Cpu, SEG_ALL, segment_vmstate),
    VMS_STRUCT(gdt, X86Cpu, table_vmstate),
    VMS_STRUCT(idt, X86Cpu, table_vmstate),
    VMS_UINT64(cr0, X86Cpu),
    VMS_UINT64(cr2, X86Cpu),
    VMS_UINT64(cr3, X86Cpu),
    VMS_UINT64(cr4, X86Cpu),
    VMS_UINT64(cr8, X86Cpu),
    VMS_UINT64(dr, X86Cpu),
    VMS_UINT64(debug_pending, X86Cpu),
    VMS_UINT64(xcr0, X86Cpu),
    VMS_UINT64(xss, X86Cpu),
    VMS_UINT64(efer, X86Cpu),
    VMS_UINT64(star, X86Cpu),
    VMS_UINT64(lstar, X86Cpu),
    VMS_UINT64(cstar, X86Cpu),
    VMS_UINT64(fmask, X86Cpu),
    VMS_UINT64(kernel_gs_base, X86Cpu),
    VMS_UINT64(tsc_aux, X86Cpu),
    VMS_UINT64(sysenter_cs, X86Cpu),
    VMS_UINT64(sysenter_esp, X86Cpu),
    VMS_UINT64(sysenter_eip, X86Cpu),
    VMS_UINT64(pat, X86Cpu),
    VMS_UINT64(misc_enable, X86Cpu),
    VMS_UINT64(spec_ctrl, X86Cpu),
    VMS_UINT64(smbase, X86Cpu),
    VMS_UINT64(tsc_adjust, X86Cpu),
    VMS_UINT64(debugctl, X86Cpu),
    VMS_UINT64(mtrr_def_type, X86Cpu),
    VMS_UINT64(mtrr_fixed, X86Cpu),
    VMS_UINT64(mtrr_var, X86Cpu),
    VMS_UINT64(mcg_status, X86Cpu),
    VMS_UINT64(mcg_ctl, X86Cpu),
    VMS_UINT64(mc_banks, X86Cpu),
    VMS_UINT64(bios_sign_id, X86Cpu),
    VMS_UINT64(feature_control, X86Cpu),
    VMS_UINT64(hwcr, X86Cpu),
    VMS_UINT64(de_cfg, X86Cpu),
    VMS_UINT64(kvm_system_time, X86Cpu),
    VMS_UINT64(kvm_wall_clock, X86Cpu),
    VMS_UINT64(kvm_pv_eoi, X86Cpu),
    VMS_UINT64(kvm_steal_time, X86Cpu),
    VMS_UINT64(kvm_poll_control, X86Cpu),
    VMS_UINT64(kvm_async_pf, X86Cpu),
    VMS_UINT64(kvm_int, X86Cpu),
    VMS_UINT64(kvm_migration, X86Cpu),
    VMS_INT64(tsc_offset, X86Cpu),
    VMS_UINT32(pkru, X86Cpu),
    VMS_BUFFER(xsave, X86Cpu),
    VMS_END,
};

const VmState x86_cpu_vmstate = {
    .name = "cpu",
    .version = 1,
    .minimum_version = 1,
    .fields = cpu_fields,
    .subsections = cpu_subsections,
    .pre_save = cpu_pre_save,
    .pre_load = cpu_pre_load,
    .post_load = cpu_post_load,
};
