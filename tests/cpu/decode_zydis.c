/*
 * The decoder against Zydis: random and systematic byte strings in 64-, 32- and 16-bit code; lengths, and
 * what is an instruction at all. Instruction sets that the table leaves out on purpose are told by Zydis's
 * names.
 *
 *   decode_zydis [--seconds N] [--seed S] [--show N]
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/decode.h"
#include "case_gen.h"

#include <Zydis/Zydis.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static gint opt_seconds = 5, opt_show = 3;
static gint64 opt_seed = 1;
static GHashTable *shown; /* "mnemonic kind" -> how often */
static uint64_t total, bad;

static const struct {
    ZydisMachineMode machine;
    ZydisStackWidth stack;
    uint8_t code_size;
} modes[3] = { { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64, 8 },
               { ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32, 4 },
               { ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16, 2 } };
static ZydisDecoder zydis[3];
static X86DecodeMode ours[3];

/* Extensions that the table has. */
static bool offered(const ZydisDecodedInstruction *z)
{
    static const char *const extensions[] = {
        "ADX",     "AES",        "AVX",    "AVX2",       "AVX2GATHER", "AVXAES",   "BASE",        "BMI1",
        "BMI2",    "CLFLUSHOPT", "CLFSH",  "CLWB",       "F16C",       "FMA",      "INVPCID",     "LONGMODE",
        "LZCNT",   "MMX",        "MOVBE",  "PAUSE",      "PCLMULQDQ",  "PKU",      "PREFETCHWT1", "RDPID",
        "RDRAND",  "RDSEED",     "RDTSCP", "RDWRFSGS",   "SHA",        "SMAP",     "SSE",         "SSE2",
        "SSE3",    "SSE4",       "SSSE3",  "X87",        "XSAVE",      "XSAVEC",   "XSAVEOPT",    "POPCNT",
        "MONITOR", "GFNI",       "VAES",   "VPCLMULQDQ", "AVX512EVEX", "AVX512VEX"
    };
    /* Parts of AVX-512 that the table leaves out. */
    static const char *const left_out[] = {
        "FP16", "AVX512PF", "AVX512ER", "4FMAPS", "4VNNIW", "VP2INTERSECT"
    };
    const char *set = ZydisISASetGetString(z->meta.isa_set);
    const char *name = ZydisISAExtGetString(z->meta.isa_ext);
    if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
        z->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(left_out); i++) {
        if (strstr(set, left_out[i])) {
            return false;
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(extensions); i++) {
        if (!strcmp(name, extensions[i])) {
            return true;
        }
    }
    return false;
}

static void report(const char *kind, const char *name, unsigned mode, const uint8_t *bytes,
                   const X86Insn *insn, X86DecodeStatus status, const ZydisDecodedInstruction *z, bool z_ok)
{
    g_autofree char *key = g_strdup_printf("%s %s", name, kind);
    guint count = GPOINTER_TO_UINT(g_hash_table_lookup(shown, key)) + 1;
    bad++;
    g_hash_table_insert(shown, g_strdup(key), GUINT_TO_POINTER(count));
    if (count > (guint)opt_show) {
        return;
    }
    printf("DIFFERS %s: %s, %u-bit:", name, kind, modes[mode].code_size * 8);
    for (unsigned i = 0; i < 15; i++) {
        printf(" %02x", bytes[i]);
    }
    printf(" ours: status %d length %u, Zydis: %s length %u %s\n", status, insn->length,
           z_ok ? "ok" : "invalid", z_ok ? z->length : 0, z_ok ? ZydisISAExtGetString(z->meta.isa_ext) : "");
}

/* What ours leaves to execution, where #UD is raised as well: reserved control, debug and segment registers,
 * gathers with one register twice. And the reserved NOPs that MPX took. */
static bool checked_later(const X86Insn *insn)
{
    const X86Form *form = insn->form;
    if (insn->evex_b && form->prefix == X86_PREFIX_F2 && (form->opcode == 0x2a || form->opcode == 0x7b)) {
        return true; /* VCVTSI2SD of 32 bits, where the rounding mode does not matter: Zydis refuses it with a
                        void W */
    }
    for (unsigned i = 0; i < form->operand_count; i++) {
        switch (form->operands[i].kind) {
        case X86_OPERAND_S:
        case X86_OPERAND_C:
        case X86_OPERAND_D:
        case X86_OPERAND_VSIBX:
        case X86_OPERAND_VSIBY:
            return true;
        }
    }
    return form->map == 1 && (form->opcode == 0x1a || form->opcode == 0x1b);
}

static void check(unsigned mode, const uint8_t bytes[15])
{
    X86Insn insn;
    ZydisDecodedInstruction z;
    X86DecodeStatus status = x86_decode(&ours[mode], bytes, 15, &insn);
    ZyanStatus zs = ZydisDecoderDecodeInstruction(&zydis[mode], NULL, bytes, 15, &z);
    bool z_ok = ZYAN_SUCCESS(zs);
    total++;
    if (status == X86_DECODE_OK && !z_ok && checked_later(&insn)) {
        return;
    }
    if (z_ok && z.mnemonic == ZYDIS_MNEMONIC_NOP && z.opcode == 0x0d) {
        return; /* 0F 0D with mod 3: a NOP to Zydis, #UD on silicon */
    }
    if (status == X86_DECODE_OK && !z_ok) {
        report("only ours", x86_mnemonic_names[insn.form->mnemonic], mode, bytes, &insn, status, &z, z_ok);
    } else if (status == X86_DECODE_OK && insn.length != z.length) {
        report("length", x86_mnemonic_names[insn.form->mnemonic], mode, bytes, &insn, status, &z, z_ok);
    } else if (status != X86_DECODE_OK && z_ok && offered(&z)) {
        report("only Zydis", ZydisMnemonicGetString(z.mnemonic), mode, bytes, &insn, status, &z, z_ok);
    }
}

/* EVEX: every opcode, with ModRM bytes and the other fields drawn; often with all of them as plain as can be.
 */
static void systematic_evex(Rng *rng)
{
    for (unsigned mode = 0; mode < 3; mode++) {
        for (unsigned at = 0; at < 3 * 256 * 8 * 3; at++) {
            unsigned map = 1 + at / (256 * 24), opcode = at / 24 % 256, pp_w = at / 3 % 8, length = at % 3;
            for (unsigned n = 0; n < 200; n++) {
                uint8_t b[15];
                uint64_t bits = rng_next(rng) & rng_next(rng) & rng_next(rng);
                for (unsigned i = 0; i < sizeof(b); i++) {
                    b[i] = (uint8_t)rng_next(rng);
                }
                b[0] = 0x62;
                b[1] = (uint8_t)(((mode ? 0xf0 : b[1] & 0xf0) | map) ^ (bits & (mode ? 0x30 : 8)));
                b[2] =
                    (uint8_t)((pp_w & 3) | (pp_w & 4) << 5 | 4 | (rng_one_in(rng, 2) ? b[2] & 0x78 : 0x78));
                b[3] = (uint8_t)(length << 5 | 8);
                b[3] ^= (uint8_t)(bits >> 8);
                b[4] = (uint8_t)opcode;
                check(mode, b);
            }
        }
    }
}

static const uint8_t prefixes[] = { 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x40, 0x48, 0x41, 0x44, 0x4f };

/* Every opcode of every map with every ModRM byte, behind each mandatory prefix, REX, and the VEX forms. */
static void systematic(Rng *rng)
{
    static const uint8_t leads[][2] = { { 0, 0 },       { 0x66, 0 },    { 0xf3, 0 },    { 0xf2, 0 },
                                        { 0x48, 0 },    { 0x41, 0 },    { 0x66, 0x48 }, { 0xf3, 0x48 },
                                        { 0xf2, 0x48 }, { 0x66, 0xf2 }, { 0xf0, 0 },    { 0x67, 0 } };
    uint8_t b[15];
    for (unsigned mode = 0; mode < 3; mode++) {
        for (unsigned lead = 0; lead < G_N_ELEMENTS(leads); lead++) {
            for (unsigned map = 0; map < 4; map++) {
                for (unsigned opcode = 0; opcode < 256; opcode++) {
                    for (unsigned modrm = 0; modrm < 256; modrm++) {
                        unsigned n = 0;
                        for (unsigned i = 0; i < 2; i++) {
                            if (leads[lead][i]) {
                                b[n++] = leads[lead][i];
                            }
                        }
                        if (map) {
                            b[n++] = 0x0f;
                        }
                        if (map > 1) {
                            b[n++] = map == 2 ? 0x38 : 0x3a;
                        }
                        b[n++] = (uint8_t)opcode;
                        b[n++] = (uint8_t)modrm;
                        while (n < 15) {
                            b[n++] = (uint8_t)rng_next(rng);
                        }
                        check(mode, b);
                    }
                }
            }
        }
        for (unsigned map = 1; map < 4; map++) {
            for (unsigned pp_l_w = 0; pp_l_w < 16; pp_l_w++) {
                for (unsigned opcode = 0; opcode < 256; opcode++) {
                    for (unsigned modrm = 0; modrm < 256; modrm++) {
                        for (unsigned v = 0; v < 2; v++) {
                            b[0] = 0xc4;
                            b[1] = (uint8_t)(0xe0 | map);
                            b[2] = (uint8_t)((pp_l_w & 3) | (pp_l_w & 4) | (pp_l_w & 8) << 4 |
                                             (v ? 0x78 : 0x50));
                            b[3] = (uint8_t)opcode;
                            b[4] = (uint8_t)modrm;
                            for (unsigned n = 5; n < 15; n++) {
                                b[n] = (uint8_t)rng_next(rng);
                            }
                            check(mode, b);
                        }
                    }
                }
            }
        }
    }
}

static void random_one(Rng *rng)
{
    uint8_t b[15];
    for (unsigned i = 0; i < 15; i++) {
        b[i] = (uint8_t)rng_next(rng);
    }
    unsigned n = rng_one_in(rng, 20) ? rng_below(rng, 15) : rng_below(rng, 4);
    for (unsigned i = 0; i < n; i++) {
        b[i] = prefixes[rng_below(rng, sizeof(prefixes))];
    }
    if (n < 12) {
        switch (rng_below(rng, 6)) {
        case 0:
            b[n] = 0x0f;
            break;
        case 1:
            b[n] = 0x0f;
            b[n + 1] = rng_one_in(rng, 2) ? 0x38 : 0x3a;
            break;
        case 2:
            b[n] = 0xc4;
            b[n + 1] = (uint8_t)((b[n + 1] & 0xe0) | (1 + rng_below(rng, 3)));
            break;
        case 3:
            b[n] = 0xc5;
            break;
        case 4:
            b[n] = 0x62;
            b[n + 1] = (uint8_t)((b[n + 1] & 0xf0) | (1 + rng_below(rng, 3)));
            b[n + 2] |= 4;
            break;
        default:
            break;
        }
    }
    check(rng_below(rng, 3), b);
}

static GOptionEntry options[] = {
    { "seconds", 0, 0, G_OPTION_ARG_INT, &opt_seconds,
      "How long to draw random strings after the systematic ones", "N" },
    { "seed", 0, 0, G_OPTION_ARG_INT64, &opt_seed, "Where the random numbers start; 0: from the clock", "S" },
    { "show", 0, 0, G_OPTION_ARG_INT, &opt_show, "Differences to print of one kind", "N" },
    { NULL },
};

int main(int argc, char **argv)
{
    GError *error = NULL;
    g_autoptr(GOptionContext) context = g_option_context_new("- the decoder against Zydis");
    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        fprintf(stderr, "decode_zydis: %s\n", error->message);
        return 1;
    }
    if (!opt_seed) {
        opt_seed = g_get_real_time() & 0x3fffffff;
        printf("seed %" PRId64 "\n", opt_seed);
    }
    shown = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (unsigned i = 0; i < 3; i++) {
        ZydisDecoderInit(&zydis[i], modes[i].machine, modes[i].stack);
        ours[i].code_size = modes[i].code_size;
        ours[i].protected_mode = ours[i].vex = true;
        x86_decode_all_features(&ours[i]);
    }
    Rng rng;
    rng_seed(&rng, (uint64_t)opt_seed);
    systematic(&rng);
    systematic_evex(&rng);
    gint64 end = g_get_monotonic_time() + opt_seconds * G_USEC_PER_SEC;
    while (g_get_monotonic_time() < end) {
        for (unsigned i = 0; i < 10000; i++) {
            random_one(&rng);
        }
    }
    GHashTableIter iter;
    gpointer key, value;
    g_hash_table_iter_init(&iter, shown);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        printf("%-40s %u\n", (char *)key, GPOINTER_TO_UINT(value));
    }
    printf("%" PRIu64 " byte strings: %" PRIu64 " differ\n", total, bad);
    return bad ? 1 : 0;
}
