/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "arch/x86/cpu_fixture.h"

#include "vmstate/vmstate.h"

/* Nothing is shown that cannot be had; all of a model's features that can be had are shown. */
static void test_models(void)
{
    unsigned count;
    const X86CpuModel *models = x86_cpu_models(&count);

    g_assert_cmpuint(count, >, 130);
    for (unsigned i = 0; i < count; i++) {
        GError *error = NULL;
        json_object *props = x86_cpu_model_expand(models[i].name, NULL, true, &error), *value;
        X86CpuIdentity id;
        g_assert_no_error(error);
        g_assert_nonnull(props);
        x86_cpu_model_resolve(&models[i], &id);
        for (unsigned b = 0; b < 32; b++) {
            const char *name = cpuid_feature_name(FEAT_7_0_EBX, b);
            bool wanted = id.features[FEAT_7_0_EBX] >> b & 1, had = cpuid_supported(FEAT_7_0_EBX) >> b & 1;
            if (name != NULL && !models[i].everything) {
                g_assert_true(json_object_object_get_ex(props, name, &value));
                g_assert_cmpint(json_object_get_boolean(value), <=, wanted && had);
            }
        }
        g_assert_true(json_object_object_get_ex(props, "avx512-fp16", &value));
        g_assert_false(json_object_get_boolean(value));
        json_object_put(props);
    }
}

static void test_model_tables(void)
{
    X86CpuIdentity id;

    /* A version is what its predecessors were, and what it changes. */
    x86_cpu_model_resolve(x86_cpu_model_find("Haswell-v4"), &id);
    g_assert_cmpuint(id.model, ==, 60);
    g_assert_cmpuint(id.stepping, ==, 1);
    g_assert_cmpstr(id.model_id, ==, "Intel Core Processor (Haswell, no TSX, IBRS)");
    g_assert_true(id.features[FEAT_7_0_EDX] & CPUID_7D_SPEC_CTRL);
    g_assert_false(id.features[FEAT_7_0_EBX] & (1u << 11)); /* rtm */
    g_assert_true(id.features[FEAT_7_0_EBX] & CPUID_7_AVX2);
    x86_cpu_model_resolve(x86_cpu_model_find("Haswell-IBRS"), &id);
    g_assert_cmpuint(id.stepping, ==, 4);
    g_assert_true(id.features[FEAT_7_0_EBX] & (1u << 11));
    /* Names: of a version, of a machine's choice, of nothing. */
    g_assert_cmpstr(x86_cpu_model_find("Cascadelake-Server-noTSX")->alias_of, ==, "Cascadelake-Server-v3");
    g_assert_cmpstr(x86_cpu_model_find("Icelake-Server")->alias_of, ==, "Icelake-Server-v1");
    g_assert_null(x86_cpu_model_find("Icelake-Server-v6")->alias_of);
    g_assert_cmpstr(x86_cpu_model_latest("Icelake-Server"), ==, "Icelake-Server-v6");
    g_assert_cmpstr(x86_cpu_model_latest("Icelake-Server-v2"), ==, "Icelake-Server-v2");
    g_assert_cmpstr(x86_cpu_model_latest("no-such"), ==, "no-such");
    g_assert_null(x86_cpu_model_find("Icelake-Server-v7"));
    /* Nothing is promised of leaks in a time without leaves for it. */
    json_object *props = x86_cpu_model_expand("pentium3", NULL, true, NULL), *value;
    g_assert_true(json_object_object_get_ex(props, "level", &value));
    g_assert_cmpint(json_object_get_int(value), ==, 3);
    json_object_put(props);
}

static void test_properties(void)
{
    GError *error = NULL;
    g_autoptr(Object) obj = object_new("qemu64-" TYPE_X86_CPU, &error);
    bool value = true;
    uint64_t number;

    g_assert_true(object_property_get_bool(obj, "aes", &value, &error));
    g_assert_false(value);
    g_assert_true(object_property_parse(obj, "sse4.1", "on", &error));
    g_assert_true(object_property_get_bool(obj, "sse4-1", &value, &error));
    g_assert_true(value);
    g_assert_true(object_property_get_uint(obj, "family", &number, &error));
    g_assert_cmpuint(number, ==, 15);
    g_assert_false(object_property_parse(obj, "vendor", "Short", &error));
    g_clear_error(&error);
    g_assert_false(object_property_parse(obj, "stepping", "16", &error));
    g_clear_error(&error);
    g_assert_false(object_property_parse(obj, "sse4.3", "on", &error));
    g_assert_nonnull(strstr(error->message, "sse4.3"));
    g_clear_error(&error);
}

static void test_leaves(CpuFixture *f, gconstpointer data)
{
    uint32_t out[4];
    X86Cpu *cpu = f->cpu;

    cpuid_leaf(cpu, 0x40000000, 0, out);
    g_assert_cmphex(out[1], ==, 0x4b4d564b); /* "KVMK" */
    g_assert_cmphex(out[0], ==, 0x40000001);
    cpuid_leaf(cpu, 0x80000008, 0, out);
    g_assert_cmpuint(out[0] & 0xff, ==, cpu->phys_bits);
    cpuid_leaf(cpu, 0xd, 0, out);
    g_assert_cmphex(out[0], ==, (uint32_t)cpuid_xcr0_mask(cpu));
    cpuid_leaf(cpu, 1, 0, out);
    g_assert_false(out[2] & CPUID_EXT_OSXSAVE);
    cpu->cr4 |= CR4_OSXSAVE;
    cpuid_leaf(cpu, 1, 0, out);
    g_assert_true(out[2] & CPUID_EXT_OSXSAVE);
    g_assert_cmphex(out[0], ==, cpuid_signature(cpu));
}

static void xsetbv(X86Cpu *cpu, uint64_t value, int vector)
{
    sigjmp_buf jump;

    cpu->fault_return = &jump;
    cpu->exc.vector = -1;
    cpu->regs[R_RAX] = value;
    cpu->regs[R_RCX] = cpu->regs[R_RDX] = 0;
    if (sigsetjmp(jump, 0) == 0) {
        x86_xsetbv(cpu);
    }
    cpu->fault_return = NULL;
    g_assert_cmpint(cpu->exc.vector, ==, vector);
}

static void test_avx512(CpuFixture *f, gconstpointer data)
{
    static const uint32_t parts[][3] = {
        { 2, 256, 576 }, { 5, 64, 1088 }, { 6, 512, 1152 }, { 7, 1024, 1664 }
    };
    uint32_t out[4];
    X86Cpu *cpu = f->cpu;
    GError *error = NULL;

    if (!cpu_has_feature(cpu, FEAT_7_0_EBX, CPUID_7_AVX512F)) {
        g_test_skip("this host lacks AVX-512");
        return;
    }
    /* What a guest sees of it is the same on every host. */
    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
        cpuid_leaf(cpu, 0xd, parts[i][0], out);
        g_assert_cmpuint(out[0], ==, parts[i][1]);
        g_assert_cmpuint(out[1], ==, parts[i][2]);
    }
    cpu->cr4 |= CR4_OSXSAVE;
    cpuid_leaf(cpu, 0xd, 0, out);
    g_assert_cmphex(out[0], ==, 0x2e7);
    g_assert_cmpuint(out[1], ==, 576);
    g_assert_cmpuint(out[2], ==, 2696);
    xsetbv(cpu, 0xe7, -1);
    cpuid_leaf(cpu, 0xd, 0, out);
    g_assert_cmpuint(out[1], ==, 2688);
    cpuid_leaf(cpu, 0xd, 1, out);
    g_assert_cmpuint(out[1], ==, 576 + 256 + 64 + 512 + 1024);
    xsetbv(cpu, 0x2e7, -1);
    cpuid_leaf(cpu, 0xd, 0, out);
    g_assert_cmpuint(out[1], ==, 2696);
    cpuid_leaf(cpu, 0xd, 1, out);
    g_assert_cmpuint(out[1], ==, 576 + 256 + 64 + 512 + 1024 + 8);
    xsetbv(cpu, 0xe7, -1);
    xsetbv(cpu, 0xe3, EXC_GP);
    xsetbv(cpu, 0x27, EXC_GP);
    xsetbv(cpu, 0x67, EXC_GP);
    xsetbv(cpu, 0xc7, EXC_GP);
    xsetbv(cpu, 0x1e7, EXC_GP);
    g_assert_cmphex(cpu->xcr0, ==, 0xe7);
    g_assert_cmphex(cpu->fpu_mask, ==, 0xe7);
    /* The state travels by name, not by where this host has it. */
    memset(cpu->xsave + cpu->xsave_opmask, 0x11, XSAVE_OPMASK_SIZE);
    memset(cpu->xsave + cpu->xsave_zmm_hi, 0x22, XSAVE_ZMM_HI_SIZE);
    memset(cpu->xsave + cpu->xsave_hi16, 0x33, XSAVE_HI16_SIZE);
    cpu->fpu_bv = 0xe7;
    GByteArray *bytes = vmstate_save(&x86_cpu_vmstate, cpu, &error);
    g_assert_no_error(error);
    uint8_t before[X86_XSAVE_SIZE];
    memcpy(before, cpu->xsave, sizeof(before));
    uint16_t opmask = cpu->xsave_opmask, zmm_hi = cpu->xsave_zmm_hi, hi16 = cpu->xsave_hi16;
    x86_cpu_reset(cpu, false);
    g_assert_cmphex(cpu->fpu_bv, ==, 7);
    g_assert_true(vmstate_load(&x86_cpu_vmstate, cpu, bytes->data, bytes->len, &error));
    g_assert_no_error(error);
    g_assert_cmphex(cpu->fpu_bv, ==, 0xe7);
    g_assert_cmpmem(cpu->xsave + 576, X86_XSAVE_SIZE - 576, before + 576, X86_XSAVE_SIZE - 576);
    /* ... to a host that has it elsewhere, and to one that does not have it. */
    cpu->xsave_opmask = 1088;
    cpu->xsave_zmm_hi = 1152;
    cpu->xsave_hi16 = 1664;
    g_assert_true(vmstate_load(&x86_cpu_vmstate, cpu, bytes->data, bytes->len, &error));
    g_assert_cmpmem(cpu->xsave + 1088, 64, before + opmask, 64);
    g_assert_cmpmem(cpu->xsave + 1152, 512, before + zmm_hi, 512);
    g_assert_cmpmem(cpu->xsave + 1664, 1024, before + hi16, 1024);
    for (unsigned i = 832; i < 1088; i++) {
        g_assert_cmphex(cpu->xsave[i], ==, 0);
    }
    cpu->xsave_opmask = cpu->xsave_zmm_hi = cpu->xsave_hi16 = 0;
    g_assert_false(vmstate_load(&x86_cpu_vmstate, cpu, bytes->data, bytes->len, &error));
    g_assert_nonnull(strstr(error->message, "AVX-512"));
    g_clear_error(&error);
    cpuid_host_xsave(cpu);
    g_byte_array_unref(bytes);
    /* Nothing of it where it is not used. */
    x86_cpu_reset(cpu, false);
    bytes = vmstate_save(&x86_cpu_vmstate, cpu, &error);
    g_assert_null(memmem(bytes->data, bytes->len, "cpu/avx512", 10));
    g_byte_array_unref(bytes);
}

static void test_msr(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;
    uint64_t value;

    g_assert_true(x86_msr_write(cpu, 0xc0000082, UINT64_C(0xffff800000000000)));
    g_assert_false(x86_msr_write(cpu, 0xc0000082, UINT64_C(0x800000000000)));
    g_assert_true(x86_msr_read(cpu, 0xc0000082, &value));
    g_assert_cmphex(value, ==, UINT64_C(0xffff800000000000));
    g_assert_false(x86_msr_write(cpu, 0x277, UINT64_C(0x0202020202020202))); /* no such memory type */
    g_assert_false(x86_msr_read(cpu, 0x12345678, &value));
    /* IA32_TSC_ADJUST and the TSC move together. */
    uint64_t tsc = x86_tsc(cpu);
    g_assert_true(x86_msr_write(cpu, 0x3b, 1000));
    g_assert_cmpuint(x86_tsc(cpu), ==, tsc + 1000); /* virtual time stands still */
    g_assert_true(x86_msr_write(cpu, 0x10, 5));
    g_assert_cmpuint(x86_tsc(cpu), ==, 5);
    /* KVM's clock page: version even, time and scale of a 1-GHz TSC. */
    g_assert_true(x86_msr_write(cpu, 0x4b564d01, 0x6001));
    g_assert_cmpuint(peek(f, 0x6000, 4) & 1, ==, 0);
    g_assert_cmpuint(peek(f, 0x6008, 8), ==, 5);
    uint64_t mul = peek(f, 0x6018, 4);
    int8_t shift = (int8_t)peek(f, 0x601c, 1);
    uint64_t ns = (uint64_t)(((unsigned __int128)(UINT64_C(1000000) << shift) * mul) >> 32);
    g_assert_cmpuint(ns, ==, 1000000);
}

static void test_state(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;
    GError *error = NULL;

    cpu->regs[R_R9] = 0x99;
    x86_set_rflags(cpu, FLAG_ONE | FLAG_CF | FLAG_IF);
    cpu->segs[SEG_FS].base = 0x1234;
    GByteArray *bytes = vmstate_save(&x86_cpu_vmstate, cpu, &error);
    g_assert_no_error(error);
    x86_cpu_reset(cpu, false);
    g_assert_cmphex(cpu->regs[R_R9], ==, 0);
    g_assert_true(vmstate_load(&x86_cpu_vmstate, cpu, bytes->data, bytes->len, &error));
    g_assert_cmphex(cpu->regs[R_R9], ==, 0x99);
    g_assert_cmphex(x86_get_rflags(cpu), ==, FLAG_ONE | FLAG_CF | FLAG_IF);
    g_assert_cmphex(cpu->segs[SEG_FS].base, ==, 0x1234);
    cpu->xcr0 = 0x40;
    GByteArray *bad = vmstate_save(&x86_cpu_vmstate, cpu, &error);
    g_assert_false(vmstate_load(&x86_cpu_vmstate, cpu, bad->data, bad->len, &error));
    g_clear_error(&error);
    g_byte_array_unref(bytes);
    g_byte_array_unref(bad);
}

#define TEST(name) g_test_add("/cpuid/" #name, CpuFixture, NULL, fixture_setup, test_##name, fixture_teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cpuid/models", test_models);
    g_test_add_func("/cpuid/model-tables", test_model_tables);
    g_test_add_func("/cpuid/properties", test_properties);
    TEST(leaves);
    TEST(avx512);
    TEST(msr);
    TEST(state);
    return g_test_run();
}
