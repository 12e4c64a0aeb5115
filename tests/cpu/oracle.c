/*
 * The native oracle: the same instruction with the same registers, flags, FPU state and memory on the host's
 * CPU and on the interpreter, everything compared, faults included. Cases are made from the decode table
 * (case_gen.c).
 *
 *   oracle [--seconds N] [--seed S] [--form TEXT] [--cases N] [--keep-going] [--stop N] [--list]
 *
 * Ends with a count; exit status 1 where anything differed, 77 where the host cannot run it.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "case_gen.h"
#include "soft_run.h"

#include "arch/x86/cpu.h"
#include "arch/x86/cpuid.h"

#include <cpuid.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gint opt_seconds = 10, opt_cases = 0, opt_stop = 40, opt_per_form = 2;
static gint64 opt_seed = 1;
static gchar *opt_form;
static gboolean opt_windows, opt_jit, opt_list, opt_verbose, opt_trace, opt_pointers;

static const char *const reg_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
static const char *const mode_names[CASE_MODES] = { "64-bit", "32-bit", "16-bit", "32-bit segmented" };
static uint64_t mode_runs[CASE_MODES], mode_done[CASE_MODES];
static uint64_t form_runs[X86_FORM_COUNT], form_failures[X86_FORM_COUNT];
static uint64_t total, failures, unseen, page_faults;

/* ---- what the host has ---- */

static bool host_has(unsigned feature)
{
    const char *name = x86_feature_names[feature];
    unsigned a, b, c, d, b7, c7, d7, a71, ecx1, edx1, ae, be, ce, de;
    __cpuid(1, a, b, ecx1, edx1);
    __cpuid_count(7, 0, a, b7, c7, d7);
    __cpuid_count(7, 1, a71, b, c, d);
    __cpuid(0x80000001, ae, be, ce, de);
    (void)c;
    (void)d;
    (void)d7;
    (void)be;
    static const struct {
        const char *name;
        int word,
            bit; /* words: 0 1.ecx, 1 1.edx, 2 7.ebx, 3 7.ecx, 4 8000_0001.ecx, 5 8000_0001.edx, 6 7.1.eax */
    } bits[] = { { "adx", 2, 19 },
                 { "aes", 0, 25 },
                 { "avx", 0, 28 },
                 { "avx2", 2, 5 },
                 { "bmi1", 2, 3 },
                 { "bmi2", 2, 8 },
                 { "clflushopt", 2, 23 },
                 { "clwb", 2, 24 },
                 { "cmov", 1, 15 },
                 { "cx16", 0, 13 },
                 { "cx8", 1, 8 },
                 { "f16c", 0, 29 },
                 { "fma", 0, 12 },
                 { "fpu", 1, 0 },
                 { "fxsr", 1, 24 },
                 { "lzcnt", 4, 5 },
                 { "mmx", 1, 23 },
                 { "movbe", 0, 22 },
                 { "pclmulqdq", 0, 1 },
                 { "popcnt", 0, 23 },
                 { "sha", 2, 29 },
                 { "sse", 1, 25 },
                 { "sse2", 1, 26 },
                 { "sse3", 0, 0 },
                 { "sse4_1", 0, 19 },
                 { "sse4_2", 0, 20 },
                 { "ssse3", 0, 9 },
                 { "xsave", 0, 27 },
                 { "fsgsbase", 2, 0 },
                 { "prefetchw", 4, 8 },
                 { "smap", 2, 20 },
                 { "clfsh", 1, 19 },
                 { "lahf", 4, 0 },
                 { "gfni", 3, 8 },
                 { "vaes", 3, 9 },
                 { "vpclmulqdq", 3, 10 },
                 { "avx512f", 2, 16 },
                 { "avx512dq", 2, 17 },
                 { "avx512_ifma", 2, 21 },
                 { "avx512cd", 2, 28 },
                 { "avx512bw", 2, 30 },
                 { "avx512_vbmi", 3, 1 },
                 { "avx512_vbmi2", 3, 6 },
                 { "avx512_vnni", 3, 11 },
                 { "avx512_bitalg", 3, 12 },
                 { "avx512_vpopcntdq", 3, 14 },
                 { "avx512_bf16", 6, 5 } };
    unsigned words[7] = { ecx1, edx1, b7, c7, ce, de, a71 };
    for (unsigned i = 0; i < G_N_ELEMENTS(bits); i++) {
        if (!strcmp(bits[i].name, name)) {
            return words[bits[i].word] >> bits[i].bit & 1;
        }
    }
    if (!strcmp(name, "xsaveopt") || !strcmp(name, "xsavec")) {
        __cpuid_count(0xd, 1, a, b, c, d);
        return a >> (name[5] == 'c') & 1;
    }
    return true;
}

/* What Rhea asks of a host before it offers AVX-512. */
static bool cpuid_supported_avx512(void)
{
    return cpuid_supported(FEAT_7_0_EBX) & CPUID_7_AVX512F;
}

/* ---- comparison ---- */

typedef struct Difference {
    GString *text;
    unsigned count;
} Difference;

static void G_GNUC_PRINTF(2, 3) differ(Difference *d, const char *fmt, ...)
{
    va_list ap;
    d->count++;
    va_start(ap, fmt);
    g_string_append(d->text, "    ");
    g_string_append_vprintf(d->text, fmt, ap);
    g_string_append_c(d->text, '\n');
    va_end(ap);
}

static void hex(char *out, const uint8_t *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        sprintf(out + i * 2, "%02x", p[n - 1 - i]);
    }
}

static void compare_bytes(Difference *d, const char *name, int index, const uint8_t *native,
                          const uint8_t *soft, unsigned n)
{
    char a[129], b[129];
    if (memcmp(native, soft, n) != 0) {
        hex(a, native, n);
        hex(b, soft, n);
        differ(d, "%s%.*d: host %s, interpreter %s", name, index >= 0, index >= 0 ? index : 0, a, b);
    }
}

static uint64_t flags_mask(const Case *c, int vector)
{
    uint64_t mask = FLAGS_ARITH | FLAG_DF | FLAG_AC | FLAG_ID | FLAG_NT;
    if (vector < 0) {
        mask &= ~(uint64_t)c->insn.form->flags_undefined;
    }
    return mask;
}

static bool stores_state_image(const X86Form *form)
{
    switch (form->mnemonic) {
    case X86_FXSAVE:
    case X86_XSAVE:
    case X86_XSAVEOPT:
    case X86_XSAVEC:
        return true;
    }
    return false;
}

static bool is_state_area(const X86Form *form)
{
    switch (form->mnemonic) {
    case X86_FNSTENV:
    case X86_FLDENV:
    case X86_FNSAVE:
    case X86_FRSTOR:
    case X86_FXRSTOR:
    case X86_XRSTOR:
        return true;
    }
    return stores_state_image(form);
}

static bool is_memory_fault(int vector)
{
    return vector == EXC_PF || vector == EXC_AC || vector == EXC_GP || vector == EXC_SS;
}

static void compare(const Case *c, const CaseOutcome *n, const CaseOutcome *s, Difference *d)
{
    /* Which of two operands in memory is checked first is the processor's choice: where both fault, either
     * may. */
    bool either =
        c->insn.form->mnemonic == X86_CMPS && is_memory_fault(n->vector) && is_memory_fault(s->vector);
    if (n->vector != s->vector && !either) {
        differ(d, "outcome: host %d, interpreter %d (-1: done, else the exception)", n->vector, s->vector);
    } else if (n->vector >= 0) {
        /* Of large operands the very byte, and with it the page, is the vendor's choice. */
        bool exact = !is_state_area(c->insn.form) && !either;
        bool has_error = (n->vector >= 10 && n->vector <= 14) || n->vector == 17 || n->vector == 8;
        /* Linux does not tell whether a kernel address is mapped. */
        uint32_t ignore = n->vector == EXC_PF && n->cr2 >> 47 ? 1 : 0;
        if (n->vector == EXC_PF && !(n->error_code & 1) && (s->error_code & 1)) {
            unseen++; /* the hypervisor below this host had no translation of the page at hand */
            ignore = 1;
        }
        if (has_error && exact && ((n->error_code ^ s->error_code) & ~ignore)) {
            differ(d, "error code: host %#x, interpreter %#x", n->error_code, s->error_code);
        }
        if (n->vector == EXC_PF && exact && n->cr2 != s->cr2) {
            differ(d, "CR2: host %#" PRIx64 ", interpreter %#" PRIx64, n->cr2, s->cr2);
        }
    }
    /* Of several pushes and pops some may be done when a later one faults. */
    bool partial =
        n->vector >= 0 && (c->insn.form->mnemonic == X86_ENTER || c->insn.form->mnemonic == X86_POPA ||
                           c->insn.form->mnemonic == X86_PUSHA);
    unsigned regs = partial ? 0 : c->mode != CASE_64 ? 8 : 16;
    for (unsigned i = 0; i < regs; i++) {
        uint64_t mask = c->mode != CASE_64 ? 0xffffffffu : UINT64_MAX;
        if ((n->state.regs[i] ^ s->state.regs[i]) & mask) {
            differ(d, "%s: host %#" PRIx64 ", interpreter %#" PRIx64, reg_names[i], n->state.regs[i],
                   s->state.regs[i]);
        }
    }
    if (n->state.rip != s->state.rip) {
        differ(d, "rip: host %#" PRIx64 ", interpreter %#" PRIx64, n->state.rip, s->state.rip);
    }
    if ((n->state.rflags ^ s->state.rflags) & flags_mask(c, n->vector)) {
        differ(d, "rflags: host %#" PRIx64 ", interpreter %#" PRIx64 ", mask %#" PRIx64, n->state.rflags,
               s->state.rflags, flags_mask(c, n->vector));
    }
    if (n->state.fs_base != s->state.fs_base || n->state.gs_base != s->state.gs_base) {
        differ(d, "FS or GS base: host %#" PRIx64 " %#" PRIx64 ", interpreter %#" PRIx64 " %#" PRIx64,
               n->state.fs_base, n->state.gs_base, s->state.fs_base, s->state.gs_base);
    }
    const uint8_t *a = n->state.xsave, *b = s->state.xsave;
    if (opt_pointers) {
        compare_bytes(d, "fop", -1, a + 6, b + 6, 2);
        compare_bytes(d, "fip", -1, a + 8, b + 8, 8);
        compare_bytes(d, "fdp", -1, a + 16, b + 16, 8);
    }
    compare_bytes(d, "mxcsr", -1, a + 24, b + 24, 4);
    /* Whether an MMX instruction that faults has already left x87 mode is the vendor's choice. */
    if (!((c->insn.form->attrs & X86_ATTR_MMX) && n->vector >= 0)) {
        compare_bytes(d, "fcw", -1, a, b, 2);
        compare_bytes(d, "fsw", -1, a + 2, b + 2, 2);
        compare_bytes(d, "ftw", -1, a + 4, b + 4, 1);
        for (int i = 0; i < 8; i++) {
            compare_bytes(d, "st", i, a + 32 + i * 16, b + 32 + i * 16, 10);
        }
    }
    for (int i = 0; i < (c->mode != CASE_64 ? 8 : 16); i++) {
        compare_bytes(d, "xmm", i, a + 160 + i * 16, b + 160 + i * 16, 16);
        compare_bytes(d, "ymm_high", i, a + CASE_XSAVE_AVX + i * 16, b + CASE_XSAVE_AVX + i * 16, 16);
    }
    if (native_layout()->opmask) {
        CaseState *x = (CaseState *)&n->state, *y = (CaseState *)&s->state;
        for (unsigned i = 0; i < (c->mode != CASE_64 ? 8 : 32); i++) {
            unsigned at = i < 16 ? 32 : 0;
            compare_bytes(d, i < 16 ? "zmm_high" : "zmm", (int)i, case_vector(x, i, at),
                          case_vector(y, i, at), 64 - at);
        }
        for (unsigned i = 0; i < 8; i++) {
            compare_bytes(d, "k", (int)i, case_mask(x, i), case_mask(y, i), 8);
        }
    }
    uint8_t *nm = native_data(), *sm = soft_data();
    if (stores_state_image(c->insn.form) && n->vector < 0) {
        /* MXCSR_MASK and, in the image, the pointers are the host's own. */
        uint64_t at = c->operand - CASE_DATA_BASE;
        memcpy(sm + at + 6, nm + at + 6, 18);
        memcpy(sm + at + 28, nm + at + 28, 4);
    }
    if (c->insn.form->mnemonic == X86_PUSHF && n->vector < 0) {
        nm[n->state.regs[R_RSP] - CASE_DATA_BASE + 1] &= (uint8_t)~1; /* TF, by which the host is stepped */
    }
    size_t size = (size_t)CASE_PAGE * CASE_DATA_PAGES;
    if (partial) {
        memcpy(sm + CASE_PAGE, nm + CASE_PAGE, CASE_PAGE * 3);
    } else if (memcmp(nm, sm, size) != 0) {
        unsigned shown = 0;
        for (size_t i = 0; i < size; i++) {
            if (nm[i] != sm[i] && shown++ < 8) {
                differ(d, "memory %#" PRIx64 ": host %02x, interpreter %02x", CASE_DATA_BASE + i, nm[i],
                       sm[i]);
            }
        }
    }
}

static void print_case(const Case *c, const CaseOutcome *n, const Difference *d, uint64_t seed)
{
    printf("DIFFERS %s (%s) %s seed %" PRIu64 ":", x86_mnemonic_names[c->insn.form->mnemonic],
           c->insn.form->source, mode_names[c->mode], seed);
    for (unsigned i = 0; i < c->insn.length; i++) {
        printf(" %02x", c->bytes[i]);
    }
    printf("\n    reg %u rm %u vvvv %u operand size %u rip %#" PRIx64 " operand %#" PRIx64
           " host outcome %d\n",
           c->insn.reg, c->insn.rm, c->insn.vvvv, c->insn.operand_size, c->state.rip, c->operand, n->vector);
    printf("%s", d->text->str);
    if (opt_verbose) {
        char text[129];
        for (unsigned i = 0; i < 16; i++) {
            printf("    in %s %#" PRIx64 "\n", reg_names[i], c->state.regs[i]);
        }
        printf("    in rflags %#" PRIx64 " fcw %02x%02x fsw %02x%02x ftw %02x mxcsr %02x%02x\n",
               c->state.rflags, c->state.xsave[1], c->state.xsave[0], c->state.xsave[3], c->state.xsave[2],
               c->state.xsave[4], c->state.xsave[25], c->state.xsave[24]);
        for (unsigned i = 0; i < 8; i++) {
            hex(text, c->state.xsave + 32 + i * 16, 10);
            printf("    in st%u %s\n", i, text);
        }
        for (unsigned i = 0; i < 16; i++) {
            hex(text, c->state.xsave + CASE_XSAVE_AVX + i * 16, 16);
            printf("    in ymm%u %s ", i, text);
            hex(text, c->state.xsave + 160 + i * 16, 16);
            printf("%s\n", text);
        }
        for (unsigned i = 0; native_layout()->opmask && i < 8; i++) {
            hex(text, case_mask((CaseState *)&c->state, i), 8);
            printf("    in k%u %s\n", i, text);
        }
        for (unsigned i = 0; native_layout()->opmask && i < 32; i++) {
            unsigned at = i < 16 ? 32 : 0;
            hex(text, case_vector((CaseState *)&c->state, i, at), 64 - at);
            printf("    in zmm%u%s %s\n", i, at ? " high" : "", text);
        }
    }
}

/* ---- running ---- */

/* String instructions with REP, and gathers: each side runs until the instruction is left. */
#define MAX_STEPS 80

static void run_until_left(const Case *c, bool native, CaseOutcome *out)
{
    CaseState state = c->state;
    for (unsigned i = 0; i < MAX_STEPS; i++) {
        if (native) {
            native_run(&state, c->mode, out);
        } else {
            soft_run(&state, c->mode, out);
        }
        if (out->vector >= 0 || out->state.rip != c->state.rip) {
            return;
        }
        state = out->state;
        state.rflags &= ~(uint64_t)FLAG_TF;
    }
}

static void sync_memory(void)
{
    memcpy(soft_data() + CASE_PAGE, native_data() + CASE_PAGE, CASE_PAGE * 3);
}

/* Memory that the instruction reads as a state image should be acceptable now and then. */
static void prepare_memory(const Case *c, uint64_t seed)
{
    uint64_t page = (c->operand - CASE_DATA_BASE) / CASE_PAGE, at = c->operand - CASE_DATA_BASE;
    if (c->operand < CASE_DATA_BASE || page < 1 || page > 3) {
        return;
    }
    uint8_t *m = native_data() + at;
    uint32_t mxcsr;
    uint64_t header[8] = { 0 };
    Rng rng;
    rng_seed(&rng, seed ^ 0x5a5a);
    switch (c->insn.form->mnemonic) {
    case X86_LDMXCSR:
    case X86_VLDMXCSR:
        memcpy(&mxcsr, m, 4);
        mxcsr &= rng_one_in(&rng, 8) ? ~0x20000u : 0xffff; /* bit 17, MM, is the vendor's */
        memcpy(m, &mxcsr, 4);
        break;
    case X86_XRSTOR:
        header[0] = rng_below(&rng, 8) | (rng_one_in(&rng, 16) ? 0x100 : 0);
        if (rng_one_in(&rng, 2)) {
            header[1] = UINT64_C(1) << 63 | (rng_one_in(&rng, 8) ? rng_below(&rng, 8) : 7);
        }
        if (c->state.regs[R_RAX] & 0xe0) {
            header[0] |= rng_next(&rng) & 0xe0;
            header[1] = UINT64_C(1) << 63 | (rng_one_in(&rng, 8) ? rng_next(&rng) & 0xe7 : 0xe7);
        }
        if (rng_one_in(&rng, 16)) {
            header[1 + rng_below(&rng, 7)] |= UINT64_C(1) << (8 + rng_below(&rng, 3));
        }
        memcpy(m + 512, header, 64);
        /* fallthrough */
    case X86_FXRSTOR:
        if (page == 3 && at % CASE_PAGE > CASE_PAGE - 600) {
            break;
        }
        memcpy(&mxcsr, m + 24, 4);
        mxcsr &= rng_one_in(&rng, 8) ? ~0x20000u : 0xffff;
        memcpy(m + 24, &mxcsr, 4);
        break;
    default:
        return;
    }
    sync_memory();
}

static void run_case(const Case *c, uint64_t seed)
{
    static CaseOutcome native, soft;
    unsigned at = (unsigned)(c->state.rip - CASE_CODE_BASE);
    if (opt_trace) {
        fprintf(stderr, "%s (%s) seed %" PRIu64 "\n", x86_mnemonic_names[c->insn.form->mnemonic],
                c->insn.form->source, seed);
    }
    unsigned inside = MIN(c->insn.length, CASE_PAGE - at);
    memcpy(native_code() + at, c->bytes, inside);
    memcpy(soft_code() + at, c->bytes, inside);
    soft_code_written();
    /* A gather stops for the single-step trap when a later element faults, and goes on from there. */
    prepare_memory(c, seed);
    bool gather = false;
    for (unsigned i = 0; i < c->insn.form->operand_count; i++) {
        gather |= c->insn.form->operands[i].kind == X86_OPERAND_VSIBX ||
                  c->insn.form->operands[i].kind == X86_OPERAND_VSIBY;
    }
    bool repeated = gather || ((c->insn.form->attrs & X86_ATTR_REP) &&
                               (c->insn.prefixes & (X86_INSN_REP | X86_INSN_REPNE)));
    if (repeated) {
        run_until_left(c, false, &soft);
        run_until_left(c, true, &native);
    } else {
        soft_run(&c->state, c->mode, &soft);
        native_run(&c->state, c->mode, &native);
    }
    page_faults += native.vector == EXC_PF;
    Difference d = { .text = g_string_new("") };
    compare(c, &native, &soft, &d);
    size_t form = (size_t)(c->insn.form - x86_forms);
    total++;
    form_runs[form]++;
    mode_runs[c->mode]++;
    mode_done[c->mode] += native.vector < 0;
    if (d.count) {
        failures++;
        if (form_failures[form]++ < (uint64_t)opt_per_form) {
            print_case(c, &native, &d, seed);
        }
        sync_memory();
    }
    g_string_free(d.text, TRUE);
}

static GOptionEntry options[] = {
    { "seconds", 0, 0, G_OPTION_ARG_INT, &opt_seconds, "How long to run", "N" },
    { "seed", 0, 0, G_OPTION_ARG_INT64, &opt_seed, "Where the random numbers start; 0: from the clock", "S" },
    { "form", 0, 0, G_OPTION_ARG_STRING, &opt_form,
      "Only mnemonics (or table lines, as insns.tab:12) that match this glob", "NAME" },
    { "cases", 0, 0, G_OPTION_ARG_INT, &opt_cases, "Cases of each form and mode instead of a time", "N" },
    { "per-form", 0, 0, G_OPTION_ARG_INT, &opt_per_form, "Differences to print for one form", "N" },
    { "stop", 0, 0, G_OPTION_ARG_INT, &opt_stop, "Stop when so many forms differ", "N" },
    { "list", 0, 0, G_OPTION_ARG_NONE, &opt_list, "Only list the forms and what is left out", NULL },
    { "verbose", 'v', 0, G_OPTION_ARG_NONE, &opt_verbose, "Print a failing case's whole state", NULL },
    { "pointers", 0, 0, G_OPTION_ARG_NONE, &opt_pointers, "Compare x87's FOP, FIP and FDP too", NULL },
    { "windows", 0, 0, G_OPTION_ARG_NONE, &opt_windows, "the same, with its memory in windows", NULL },
    { "jit", 0, 0, G_OPTION_ARG_NONE, &opt_jit, "64-bit code through the translator", NULL },
    { "trace", 0, 0, G_OPTION_ARG_NONE, &opt_trace, "Name each case before it runs, on stderr", NULL },
    { NULL },
};

int main(int argc, char **argv)
{
    GError *error = NULL;
    g_autoptr(GOptionContext) context = g_option_context_new("- the interpreter against this CPU");
    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        fprintf(stderr, "oracle: %s\n", error->message);
        return 1;
    }
    if (opt_form) {
        char *lower = g_ascii_strdown(opt_form, -1);
        g_free(opt_form);
        opt_form = lower;
    }
    if (!opt_seed) {
        opt_seed = g_get_real_time() & 0x3fffffff;
        printf("seed %" PRId64 "\n", opt_seed);
    }
    g_autofree const X86Form **forms = g_new(const X86Form *, X86_FORM_COUNT);
    unsigned count = 0, left_out = 0, lacking = 0;
    for (unsigned i = 0; i < X86_FORM_COUNT; i++) {
        const X86Form *form = &x86_forms[i];
        const char *name = x86_mnemonic_names[form->mnemonic];
        if (opt_form && !g_pattern_match_simple(opt_form, name) &&
            !g_pattern_match_simple(opt_form, form->source)) {
            continue;
        }
        const char *why = case_form_unfit(form);
        if (!why &&
            (!host_has(form->feature) || ((form->attrs & X86_ATTR_AVX512) && !cpuid_supported_avx512()))) {
            why = "this host lacks it";
            lacking++;
        }
        if (opt_list) {
            printf("%-20s %-22s %s\n", name, form->source, why ? why : "");
        }
        if (why) {
            left_out++;
            continue;
        }
        forms[count++] = form;
    }
    if (opt_list) {
        return 0;
    }
    const char *why = native_setup();
    if (!why) {
        why = soft_setup(opt_windows ? SOFT_WINDOWS : opt_jit ? SOFT_TRANSLATED : SOFT_INTERPRETED);
    }
    if (why) {
        printf("skipped: %s\n", why);
        return 77;
    }
    if (!count) {
        fprintf(stderr, "oracle: no form matches\n");
        return 1;
    }
    CaseMode modes = native_has_segments() ? CASE_MODES : CASE_16;
    if (modes != CASE_MODES) {
        printf("no segments of our own: 16-bit code and segmented data are left out\n");
    }
    Rng memory_rng;
    rng_seed(&memory_rng, (uint64_t)opt_seed);
    gint64 end = g_get_monotonic_time() + opt_seconds * G_USEC_PER_SEC;
    static Case c;
    uint64_t seed = (uint64_t)opt_seed << 32;
    bool stop = false;
    for (int round = 0; !stop && (opt_cases ? round < opt_cases : true); round++) {
        if (round % 4 == 0) {
            case_fill_memory(&memory_rng, native_data());
            sync_memory();
        }
        unsigned differing = 0;
        for (unsigned i = 0; i < count && !stop; i++) {
            size_t form = (size_t)(forms[i] - x86_forms);
            for (CaseMode mode = CASE_64; mode < modes; mode++) {
                if (mode != CASE_64 ? forms[i]->attrs & X86_ATTR_ONLY64 : forms[i]->attrs & X86_ATTR_NO64) {
                    continue;
                }
                Rng rng;
                bool made = false;
                for (unsigned attempt = 0; attempt < 30 && !made; attempt++) {
                    rng_seed(&rng, ++seed);
                    made = case_make(&rng, forms[i], mode, &c);
                }
                if (made) {
                    run_case(&c, seed);
                }
            }
            differing += form_failures[form] > 0;
            if ((i & 15) == 0 && !opt_cases && g_get_monotonic_time() > end) {
                stop = true;
            }
        }
        if (differing >= (unsigned)opt_stop) {
            printf("stopped: %u forms differ\n", differing);
            stop = true;
        }
    }
    unsigned differing = 0, never = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t form = (size_t)(forms[i] - x86_forms);
        differing += form_failures[form] > 0;
        if (!form_runs[form]) {
            never++;
            printf("never run: %s (%s)\n", x86_mnemonic_names[forms[i]->mnemonic], forms[i]->source);
        }
        if (form_failures[form]) {
            printf("%-20s %-22s %" PRIu64 " of %" PRIu64 " differ\n", x86_mnemonic_names[forms[i]->mnemonic],
                   forms[i]->source, form_failures[form], form_runs[form]);
        }
    }
    printf("%" PRIu64 " cases of %u forms (%u left out, %u for want of the host; %u never ran): %" PRIu64
           " differ, in %u forms\n",
           total, count, left_out, lacking, never, failures, differing);
    for (CaseMode mode = CASE_64; mode < CASE_MODES; mode++) {
        printf("  %s: %" PRIu64 " cases, %" PRIu64 " without an exception\n", mode_names[mode],
               mode_runs[mode], mode_done[mode]);
    }
    if (unseen > 1000 && unseen > page_faults / 10) {
        printf("the error code's P bit differs in %" PRIu64 " of %" PRIu64 " page faults\n", unseen,
               page_faults);
        return 1;
    }
    return failures ? 1 : 0;
}
