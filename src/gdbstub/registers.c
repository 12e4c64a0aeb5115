/*
 * Registers for gdb: one table that makes both the description and the access. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "gdbstub/registers.h"

#include "arch/x86/apic.h"
#include "arch/x86/flags.h"
#include "arch/x86/mmu.h"

#include <string.h>

/* Where the XSAVE area has them (SDM vol. 1 13.4). */
#define XSAVE_X87   32
#define XSAVE_MXCSR 24
#define XSAVE_XMM   160
#define XSAVE_YMM   576

typedef enum Kind {
    GDB_GENERAL, /* n: R_* */
    GDB_RIP,
    GDB_EFLAGS,
    GDB_SEGMENT, /* n: SEG_* */
    GDB_ST,
    GDB_X87, /* n: the place in gdb's order */
    GDB_XMM,
    GDB_MXCSR,
    GDB_YMM_HIGH,
    GDB_BASE,  /* n: SEG_FS, SEG_GS */
    GDB_FIELD, /* n: offset in X86Cpu, of 8 bytes */
} Kind;

typedef struct Register {
    const char *name, *type, *group;
    Kind kind;
    unsigned n;
    unsigned bytes;
} Register;

typedef struct Feature {
    const char *name;
    const Register *registers;
    unsigned count;
    const char *types; /* what the registers' types are made of */
} Feature;

#define GENERAL(name, n)                       \
    {                                          \
        name, "int64", NULL, GDB_GENERAL, n, 8 \
    }
#define POINTER(name, n)                          \
    {                                             \
        name, "data_ptr", NULL, GDB_GENERAL, n, 8 \
    }
#define SEGMENT(name, n)                       \
    {                                          \
        name, "int32", NULL, GDB_SEGMENT, n, 4 \
    }
#define ST(n)                                    \
    {                                            \
        "st" #n, "i387_ext", NULL, GDB_ST, n, 10 \
    }
#define X87(name, n)                        \
    {                                       \
        name, "int", "float", GDB_X87, n, 4 \
    }
#define XMM(n)                                   \
    {                                            \
        "xmm" #n, "vec128", NULL, GDB_XMM, n, 16 \
    }
#define YMM(n)                                             \
    {                                                      \
        "ymm" #n "h", "uint128", NULL, GDB_YMM_HIGH, n, 16 \
    }
#define FIELD(name, type, f)                                    \
    {                                                           \
        name, type, "system", GDB_FIELD, offsetof(X86Cpu, f), 8 \
    }

static const Register core[] = {
    GENERAL("rax", R_RAX),
    GENERAL("rbx", R_RBX),
    GENERAL("rcx", R_RCX),
    GENERAL("rdx", R_RDX),
    GENERAL("rsi", R_RSI),
    GENERAL("rdi", R_RDI),
    POINTER("rbp", R_RBP),
    POINTER("rsp", R_RSP),
    GENERAL("r8", R_R8),
    GENERAL("r9", R_R9),
    GENERAL("r10", R_R10),
    GENERAL("r11", R_R11),
    GENERAL("r12", R_R12),
    GENERAL("r13", R_R13),
    GENERAL("r14", R_R14),
    GENERAL("r15", R_R15),
    { "rip", "code_ptr", NULL, GDB_RIP, 0, 8 },
    { "eflags", "i386_eflags", NULL, GDB_EFLAGS, 0, 4 },
    SEGMENT("cs", SEG_CS),
    SEGMENT("ss", SEG_SS),
    SEGMENT("ds", SEG_DS),
    SEGMENT("es", SEG_ES),
    SEGMENT("fs", SEG_FS),
    SEGMENT("gs", SEG_GS),
    ST(0),
    ST(1),
    ST(2),
    ST(3),
    ST(4),
    ST(5),
    ST(6),
    ST(7),
    X87("fctrl", 0),
    X87("fstat", 1),
    X87("ftag", 2),
    X87("fiseg", 3),
    X87("fioff", 4),
    X87("foseg", 5),
    X87("fooff", 6),
    X87("fop", 7),
};
static const Register sse[] = {
    XMM(0),
    XMM(1),
    XMM(2),
    XMM(3),
    XMM(4),
    XMM(5),
    XMM(6),
    XMM(7),
    XMM(8),
    XMM(9),
    XMM(10),
    XMM(11),
    XMM(12),
    XMM(13),
    XMM(14),
    XMM(15),
    { "mxcsr", "i386_mxcsr", "vector", GDB_MXCSR, 0, 4 },
};
static const Register bases[] = {
    { "fs_base", "int", NULL, GDB_BASE, SEG_FS, 8 },
    { "gs_base", "int", NULL, GDB_BASE, SEG_GS, 8 },
};
static const Register avx[] = {
    YMM(0), YMM(1), YMM(2),  YMM(3),  YMM(4),  YMM(5),  YMM(6),  YMM(7),
    YMM(8), YMM(9), YMM(10), YMM(11), YMM(12), YMM(13), YMM(14), YMM(15),
};
static const Register control[] = {
    FIELD("k_gs_base", "int64", kernel_gs_base),
    FIELD("cr0", "cr0_bits", cr0),
    FIELD("cr2", "int64", cr2),
    FIELD("cr3", "int64", cr3),
    FIELD("cr4", "cr4_bits", cr4),
    FIELD("cr8", "int64", cr8),
    FIELD("efer", "efer_bits", efer),
};

#define FLAG(name, bit) "<field name=\"" name "\" start=\"" #bit "\" end=\"" #bit "\"/>"
static const char core_types[] =
    "<flags id=\"i386_eflags\" size=\"4\">" FLAG("CF", 0) FLAG("PF", 2) FLAG("AF", 4) FLAG("ZF", 6)
        FLAG("SF", 7) FLAG("TF", 8) FLAG("IF", 9) FLAG("DF", 10) FLAG("OF", 11) FLAG("NT", 14) FLAG("RF", 16)
            FLAG("VM", 17) FLAG("AC", 18) FLAG("VIF", 19) FLAG("VIP", 20) FLAG("ID", 21) "</flags>";
static const char sse_types[] =
    "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" "
    "count=\"2\"/>"
    "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
    "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
    "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
    "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
    "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>"
    "<field name=\"uint128\" type=\"uint128\"/></union>"
    "<flags id=\"i386_mxcsr\" size=\"4\">" FLAG("IE", 0) FLAG("DE", 1) FLAG("ZE", 2) FLAG("OE", 3)
        FLAG("UE", 4) FLAG("PE", 5) FLAG("DAZ", 6) FLAG("IM", 7) FLAG("DM", 8) FLAG("ZM", 9) FLAG("OM", 10)
            FLAG("UM", 11) FLAG("PM", 12) FLAG("FZ", 15) "</flags>";
static const char control_types[] =
    "<flags id=\"cr0_bits\" size=\"8\">" FLAG("PE", 0) FLAG("MP", 1) FLAG("EM", 2) FLAG("TS", 3) FLAG("ET", 4)
        FLAG("NE", 5) FLAG("WP", 16) FLAG("AM", 18) FLAG("NW", 29) FLAG("CD", 30) FLAG(
            "PG", 31) "</flags>"
                      "<flags id=\"cr4_bits\" size=\"8\">" FLAG("VME", 0) FLAG("PVI", 1) FLAG("TSD", 2)
                          FLAG("DE", 3) FLAG("PSE", 4) FLAG("PAE", 5) FLAG("MCE", 6) FLAG("PGE", 7)
                              FLAG("PCE", 8) FLAG("OSFXSR", 9) FLAG("OSXMMEXCPT", 10) FLAG("UMIP", 11)
                                  FLAG("LA57", 12) FLAG("VMXE", 13) FLAG("FSGSBASE", 16) FLAG("PCIDE", 17)
                                      FLAG("OSXSAVE", 18) FLAG("SMEP", 20) FLAG("SMAP", 21)
                                          FLAG("PKE", 22) "</flags>"
                                                          "<flags id=\"efer_bits\" size=\"8\">" FLAG("SCE", 0)
                                                              FLAG("LME", 8) FLAG("LMA", 10) FLAG("NXE", 11)
                                                                  FLAG("SVME", 12)
                                                                      FLAG("FFXSR", 14) "</flags>";

static const Feature features[] = {
    { "org.gnu.gdb.i386.core", core, G_N_ELEMENTS(core), core_types },
    { "org.gnu.gdb.i386.sse", sse, G_N_ELEMENTS(sse), sse_types },
    { "org.gnu.gdb.i386.segments", bases, G_N_ELEMENTS(bases), "" },
    { "org.gnu.gdb.i386.avx", avx, G_N_ELEMENTS(avx), "" },
    { "org.rhea.x86.control", control, G_N_ELEMENTS(control), control_types },
};

static const Register *find(unsigned number)
{
    for (size_t i = 0; i < G_N_ELEMENTS(features); i++) {
        if (number < features[i].count) {
            return &features[i].registers[number];
        }
        number -= features[i].count;
    }
    return NULL;
}

unsigned gdb_register_count(void)
{
    unsigned count = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(features); i++) {
        count += features[i].count;
    }
    return count;
}

char *gdb_target_xml(void)
{
    GString *xml = g_string_new("<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
                                "<target><architecture>i386:x86-64</architecture>");
    unsigned number = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(features); i++) {
        const Feature *f = &features[i];
        g_string_append_printf(xml, "<feature name=\"%s\">%s", f->name, f->types);
        for (unsigned r = 0; r < f->count; r++) {
            const Register *reg = &f->registers[r];
            g_string_append_printf(xml, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\" regnum=\"%u\"",
                                   reg->name, reg->bytes * 8, reg->type, number++);
            if (reg->group) {
                g_string_append_printf(xml, " group=\"%s\"", reg->group);
            }
            g_string_append(xml, "/>");
        }
        g_string_append(xml, "</feature>");
    }
    g_string_append(xml, "</target>");
    return g_string_free(xml, FALSE);
}

/* ---- the x87's environment, which gdb has in 32-bit pieces ---- */

/* The FXSAVE image has a bit a register for "not empty"; gdb wants the two-bit tags of FSAVE. */
static uint16_t full_tag(const uint8_t *xsave)
{
    uint16_t tag = 0, status;

    memcpy(&status, xsave + 2, 2);
    for (unsigned physical = 0; physical < 8; physical++) {
        unsigned st = (physical - (status >> 11 & 7)) & 7, value = 3;
        if (xsave[4] >> physical & 1) {
            uint64_t mantissa;
            uint16_t exponent;
            memcpy(&mantissa, xsave + XSAVE_X87 + st * 16, 8);
            memcpy(&exponent, xsave + XSAVE_X87 + st * 16 + 8, 2);
            exponent &= 0x7fff;
            value = exponent == 0x7fff || !(mantissa >> 63) ? (exponent || mantissa ? 2 : 1)
                    : exponent                              ? 0
                                                            : 2;
        }
        tag |= (uint16_t)(value << (physical * 2));
    }
    return tag;
}

static uint32_t read_x87(const uint8_t *xsave, unsigned n)
{
    static const uint8_t at[] = { 0, 2, 0, 12, 8, 20, 16, 6 }, size[] = { 2, 2, 0, 2, 4, 2, 4, 2 };
    uint32_t value = 0;

    if (n == 2) {
        return full_tag(xsave);
    }
    memcpy(&value, xsave + at[n], size[n]);
    return value;
}

static void write_x87(uint8_t *xsave, unsigned n, uint32_t value)
{
    static const uint8_t at[] = { 0, 2, 0, 12, 8, 20, 16, 6 }, size[] = { 2, 2, 0, 2, 4, 2, 4, 2 };

    if (n == 2) {
        xsave[4] = 0;
        for (unsigned physical = 0; physical < 8; physical++) {
            xsave[4] |= (uint8_t)(((value >> (physical * 2) & 3) != 3) << physical);
        }
        return;
    }
    memcpy(xsave + at[n], &value, size[n]);
}

/* ---- access ---- */

unsigned gdb_register_read(const X86Cpu *cpu, unsigned number, uint8_t bytes[GDB_MAX_REGISTER_BYTES])
{
    const Register *r = find(number);
    uint64_t value = 0;

    if (!r) {
        return 0;
    }
    switch (r->kind) {
    case GDB_GENERAL:
        value = cpu->regs[r->n];
        break;
    case GDB_RIP:
        value = cpu->rip;
        break;
    case GDB_EFLAGS:
        value = x86_get_rflags(cpu);
        break;
    case GDB_SEGMENT:
        value = cpu->segs[r->n].selector;
        break;
    case GDB_ST:
        memcpy(bytes, cpu->xsave + XSAVE_X87 + r->n * 16, 10);
        return 10;
    case GDB_X87:
        value = read_x87(cpu->xsave, r->n);
        break;
    case GDB_XMM:
        memcpy(bytes, cpu->xsave + XSAVE_XMM + r->n * 16, 16);
        return 16;
    case GDB_MXCSR:
        memcpy(&value, cpu->xsave + XSAVE_MXCSR, 4);
        break;
    case GDB_YMM_HIGH:
        memcpy(bytes, cpu->xsave + XSAVE_YMM + r->n * 16, 16);
        return 16;
    case GDB_BASE:
        value = cpu->segs[r->n].base;
        break;
    case GDB_FIELD:
        memcpy(&value, (const uint8_t *)cpu + r->n, 8);
        break;
    }
    memcpy(bytes, &value, r->bytes);
    return r->bytes;
}

static void write_field(X86Cpu *cpu, unsigned offset, uint64_t value)
{
    if (offset == offsetof(X86Cpu, cr8)) {
        apic_set_tpr(cpu->apic, (uint8_t)(value << 4));
        value &= 15;
    }
    memcpy((uint8_t *)cpu + offset, &value, 8);
    x86_update_mode(cpu);
    if (cpu->mmu) {
        mmu_flush_later(cpu);
    }
}

bool gdb_register_write(X86Cpu *cpu, unsigned number, const uint8_t *bytes, unsigned size)
{
    const Register *r = find(number);
    uint64_t value = 0;

    if (!r || size != r->bytes) {
        return false;
    }
    memcpy(&value, bytes, MIN(size, sizeof(value)));
    cpu->fpu_bv |= XCR0_BASE;
    switch (r->kind) {
    case GDB_GENERAL:
        cpu->regs[r->n] = value;
        break;
    case GDB_RIP:
        cpu->rip = value;
        break;
    case GDB_EFLAGS:
        x86_set_rflags(cpu, value | FLAG_ONE);
        break;
    case GDB_SEGMENT:
        break; /* a selector alone is no segment */
    case GDB_ST:
        memcpy(cpu->xsave + XSAVE_X87 + r->n * 16, bytes, 10);
        break;
    case GDB_X87:
        write_x87(cpu->xsave, r->n, (uint32_t)value);
        break;
    case GDB_XMM:
        memcpy(cpu->xsave + XSAVE_XMM + r->n * 16, bytes, 16);
        break;
    case GDB_MXCSR: {
        uint32_t mxcsr = (uint32_t)value & 0xffff; /* reserved bits would fault at the next FXRSTOR */
        memcpy(cpu->xsave + XSAVE_MXCSR, &mxcsr, 4);
        break;
    }
    case GDB_YMM_HIGH:
        memcpy(cpu->xsave + XSAVE_YMM + r->n * 16, bytes, 16);
        break;
    case GDB_BASE:
        cpu->segs[r->n].base = value;
        x86_update_mode(cpu);
        break;
    case GDB_FIELD:
        write_field(cpu, r->n, value);
        break;
    }
    return true;
}
