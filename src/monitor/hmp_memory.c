/* HMP: looking at memory and numbers. SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/hmp_internal.h"

#include "arch/x86/mmu.h"
#include "base/error.h"
#include "rhea_config.h"

#include <string.h>

#ifdef CONFIG_ZYDIS
#include <Zydis/Zydis.h>
#endif

#define MAX_COUNT 65536
#define MAX_NEST  32

bool monitor_read_virtual(Vm *vm, X86Cpu *cpu, uint64_t address, void *buffer, size_t size)
{
    uint8_t *to = buffer;
    while (size) {
        uint64_t gpa;
        size_t chunk = MIN(size, 4096 - (address & 4095));
        if (!mmu_walk_debug(cpu, address, &gpa) ||
            address_space_read(vm_machine(vm)->memory, gpa, MEMTXATTRS_NONE, to, chunk) != MEMTX_OK) {
            return false;
        }
        to += chunk;
        address += chunk;
        size -= chunk;
    }
    return true;
}

/* ---- expressions ---- */

typedef struct Parser {
    HmpContext *ctx;
    const char *at;
    int depth;
    GError **error;
} Parser;

static bool parse_sum(Parser *p, uint64_t *value);

static void skip_blanks(Parser *p)
{
    while (g_ascii_isspace(*p->at)) {
        p->at++;
    }
}

static bool read_register(Parser *p, uint64_t *value)
{
    static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    static const char *const segments[] = { "es", "cs", "ss", "ds", "fs", "gs" };
    const char *start = p->at;
    while (g_ascii_isalnum(*p->at) || *p->at == '_') {
        p->at++;
    }
    g_autofree char *name = g_ascii_strdown(start, p->at - start);
    X86Cpu *cpu = hmp_cpu(p->ctx, p->error);
    if (!cpu) {
        return false;
    }
    vcpu_set_pause(vm_vcpus(p->ctx->vm));
    bool found = true;
    if (strcmp(name, "rip") == 0 || strcmp(name, "eip") == 0 || strcmp(name, "pc") == 0) {
        *value = cpu->rip;
    } else if (strcmp(name, "rflags") == 0 || strcmp(name, "eflags") == 0) {
        *value = x86_get_rflags(cpu);
    } else if (strcmp(name, "cr0") == 0) {
        *value = cpu->cr0;
    } else if (strcmp(name, "cr2") == 0) {
        *value = cpu->cr2;
    } else if (strcmp(name, "cr3") == 0) {
        *value = cpu->cr3;
    } else if (strcmp(name, "cr4") == 0) {
        *value = cpu->cr4;
    } else {
        found = false;
        for (size_t i = 0; i < G_N_ELEMENTS(names) && !found; i++) {
            bool low = i < 8 && name[0] == 'e' && strcmp(name + 1, names[i] + 1) == 0;
            if (low || strcmp(name, names[i]) == 0) {
                *value = low ? (uint32_t)cpu->regs[i] : cpu->regs[i];
                found = true;
            }
        }
        for (size_t i = 0; i < G_N_ELEMENTS(segments) && !found; i++) {
            if (strncmp(name, segments[i], 2) == 0 && (!name[2] || strcmp(name + 2, "_base") == 0)) {
                *value = name[2] ? cpu->segs[i].base : cpu->segs[i].selector;
                found = true;
            }
        }
    }
    vcpu_set_resume(vm_vcpus(p->ctx->vm));
    return found || error_set(p->error, "unknown register '$%s'", name);
}

static bool parse_unary(Parser *p, uint64_t *value)
{
    skip_blanks(p);
    if (++p->depth > MAX_NEST) {
        return error_set(p->error, "the expression is nested too deeply");
    }
    bool ok = true;
    char c = *p->at;
    if (c == '+' || c == '-' || c == '~') {
        p->at++;
        ok = parse_unary(p, value);
        *value = c == '-' ? -*value : c == '~' ? ~*value : *value;
    } else if (c == '(') {
        p->at++;
        ok = parse_sum(p, value);
        skip_blanks(p);
        if (ok && *p->at++ != ')') {
            ok = error_set(p->error, "')' expected");
        }
    } else if (c == '$') {
        p->at++;
        ok = read_register(p, value);
    } else if (c == '\'' && p->at[1] && p->at[2] == '\'') {
        *value = (uint8_t)p->at[1];
        p->at += 3;
    } else if (g_ascii_isdigit(c)) {
        char *end;
        *value = g_ascii_strtoull(p->at, &end, 0);
        p->at = end;
    } else {
        ok = c ? error_set(p->error, "invalid char '%c' in expression", c)
               : error_set(p->error, "unexpected end of expression");
    }
    p->depth--;
    return ok;
}

static bool parse_product(Parser *p, uint64_t *value)
{
    if (!parse_unary(p, value)) {
        return false;
    }
    for (;;) {
        uint64_t right;
        skip_blanks(p);
        char op = *p->at;
        if (op != '*' && op != '/' && op != '%') {
            return true;
        }
        p->at++;
        if (!parse_unary(p, &right)) {
            return false;
        }
        if (op == '*') {
            *value *= right;
        } else if (!right) {
            return error_set(p->error, "division by zero");
        } else {
            *value = op == '/' ? *value / right : *value % right;
        }
    }
}

static bool parse_logic(Parser *p, uint64_t *value)
{
    if (!parse_product(p, value)) {
        return false;
    }
    for (;;) {
        uint64_t right;
        skip_blanks(p);
        char op = *p->at;
        if (op != '&' && op != '|' && op != '^') {
            return true;
        }
        p->at++;
        if (!parse_product(p, &right)) {
            return false;
        }
        *value = op == '&' ? *value & right : op == '|' ? *value | right : *value ^ right;
    }
}

static bool parse_sum(Parser *p, uint64_t *value)
{
    if (!parse_logic(p, value)) {
        return false;
    }
    for (;;) {
        uint64_t right;
        skip_blanks(p);
        char op = *p->at;
        if (op != '+' && op != '-') {
            return true;
        }
        p->at++;
        if (!parse_logic(p, &right)) {
            return false;
        }
        *value = op == '+' ? *value + right : *value - right;
    }
}

bool hmp_expression(HmpContext *ctx, const char *text, uint64_t *value, GError **error)
{
    Parser p = { .ctx = ctx, .at = text, .error = error };
    if (!parse_sum(&p, value)) {
        return false;
    }
    skip_blanks(&p);
    return !*p.at || error_set(error, "invalid char '%c' in expression", *p.at);
}

/* ---- formats: /COUNT FORMAT SIZE ---- */

typedef struct Format {
    unsigned count, size;
    char as;
} Format;

static bool parse_format(const char *text, Format *f, GError **error)
{
    *f = (Format){ .count = 1, .size = 4, .as = 'x' };
    bool has_size = false;
    if (g_ascii_isdigit(*text)) {
        char *end;
        guint64 count = g_ascii_strtoull(text, &end, 10);
        if (count > MAX_COUNT) {
            return error_set(error, "at most %d elements can be shown", MAX_COUNT);
        }
        f->count = (unsigned)count;
        text = end;
    }
    for (; *text; text++) {
        switch (*text) {
        case 'x':
        case 'd':
        case 'u':
        case 'o':
        case 'c':
        case 'i':
            f->as = *text;
            break;
        case 'b':
            f->size = 1;
            has_size = true;
            break;
        case 'h':
            f->size = 2;
            has_size = true;
            break;
        case 'w':
            f->size = 4;
            has_size = true;
            break;
        case 'g':
        case 'L':
            f->size = 8;
            has_size = true;
            break;
        default:
            return error_set(error, "invalid char '%c' in format", *text);
        }
    }
    if (f->as == 'c' && !has_size) {
        f->size = 1;
    }
    return true;
}

static void print_value(HmpContext *ctx, const Format *f, uint64_t value)
{
    int digits = (int)f->size * 2;
    int64_t as_signed = (int64_t)(value << (64 - 8 * f->size)) >> (64 - 8 * f->size);
    static const int decimal_width[] = { [1] = 3, [2] = 5, [4] = 10, [8] = 20 };
    switch (f->as) {
    case 'd':
        hmp_print(ctx, "%*" PRId64, decimal_width[f->size] + 1, as_signed);
        break;
    case 'u':
        hmp_print(ctx, "%*" PRIu64, decimal_width[f->size], value);
        break;
    case 'o':
        hmp_print(ctx, "0%0*" PRIo64, ((int)f->size * 8 + 2) / 3, value);
        break;
    case 'c':
        value &= 0xff;
        if (value == '\'' || value == '\\') {
            hmp_print(ctx, "'\\%c'", (int)value);
        } else if (value >= 0x20 && value < 0x7f) {
            hmp_print(ctx, "'%c'", (int)value);
        } else {
            hmp_print(ctx, "'\\x%02x'", (unsigned)value);
        }
        break;
    default:
        hmp_print(ctx, "0x%0*" PRIx64, digits, value);
        break;
    }
}

static bool read_memory(HmpContext *ctx, X86Cpu *cpu, uint64_t address, void *buffer, size_t size)
{
    if (cpu) {
        return monitor_read_virtual(ctx->vm, cpu, address, buffer, size);
    }
    return address_space_read(vm_machine(ctx->vm)->memory, address, MEMTXATTRS_NONE, buffer, size) ==
           MEMTX_OK;
}

#ifdef CONFIG_ZYDIS
static void disassemble(HmpContext *ctx, X86Cpu *for_mode, X86Cpu *cpu, uint64_t address, unsigned count)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    bool cs64 = for_mode && (for_mode->mode & MODE_CS64), cs32 = for_mode && (for_mode->mode & MODE_CS32);
    ZydisDecoderInit(&decoder,
                     cs64   ? ZYDIS_MACHINE_MODE_LONG_64
                     : cs32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                            : ZYDIS_MACHINE_MODE_REAL_16,
                     cs64   ? ZYDIS_STACK_WIDTH_64
                     : cs32 ? ZYDIS_STACK_WIDTH_32
                            : ZYDIS_STACK_WIDTH_16);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_ATT);
    for (unsigned i = 0; i < count; i++) {
        uint8_t bytes[15];
        size_t got = 0;
        while (got < sizeof(bytes) && read_memory(ctx, cpu, address + got, bytes + got, 1)) {
            got++;
        }
        if (!got) {
            hmp_print(ctx, "0x%08" PRIx64 ":  Cannot access memory\n", address);
            return;
        }
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        char text[256] = "(bad)";
        size_t length = 1;
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, got, &insn, operands))) {
            length = insn.length;
            ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible, text,
                                            sizeof(text), address, NULL);
        }
        hmp_print(ctx, "0x%08" PRIx64 ":  ", address);
        for (size_t k = 0; k < length; k++) {
            hmp_print(ctx, "%02x ", bytes[k]);
        }
        hmp_print(ctx, "%*s %s\n", (int)(3 * (10 - MIN(length, 10))), "", text);
        address += length;
    }
}
#endif

static bool examine(HmpContext *ctx, const char *args, bool physical, GError **error)
{
    Format f;
    uint64_t address;
    if (!parse_format(ctx->format, &f, error) || !hmp_expression(ctx, args, &address, error)) {
        return false;
    }
    const Machine *machine = vm_machine(ctx->vm);
    if (!machine || !machine->memory) {
        return error_set(error, "the machine has no memory");
    }
    X86Cpu *for_mode = hmp_cpu(ctx, physical ? NULL : error);
    if (!physical && !for_mode) {
        return false;
    }
    X86Cpu *cpu = physical ? NULL : for_mode;
    if (vm_vcpus(ctx->vm)) {
        vcpu_set_pause(vm_vcpus(ctx->vm));
    }
    if (f.as == 'i') {
#ifdef CONFIG_ZYDIS
        disassemble(ctx, for_mode, cpu, address, f.count);
#else
        error_set(error, "this build has no disassembler");
#endif
    } else {
        unsigned per_line = (f.as == 'c' || f.size == 1 ? 8 : 16) / f.size;
        for (unsigned i = 0; i < f.count; i++) {
            uint64_t value = 0;
            if (i % per_line == 0) {
                hmp_print(ctx, "%s%016" PRIx64 ":", i ? "\n" : "", address);
            }
            if (!read_memory(ctx, cpu, address, &value, f.size)) {
                hmp_print(ctx, " Cannot access memory");
                break;
            }
            hmp_print(ctx, " ");
            print_value(ctx, &f, value);
            address += f.size;
        }
        hmp_print(ctx, "\n");
    }
    if (vm_vcpus(ctx->vm)) {
        vcpu_set_resume(vm_vcpus(ctx->vm));
    }
    return true;
}

bool hmp_x(HmpContext *ctx, const char *args, GError **error)
{
    return examine(ctx, args, false, error);
}

bool hmp_xp(HmpContext *ctx, const char *args, GError **error)
{
    return examine(ctx, args, true, error);
}

bool hmp_p(HmpContext *ctx, const char *args, GError **error)
{
    Format f;
    uint64_t value;
    if (!parse_format(ctx->format, &f, error) || !hmp_expression(ctx, args, &value, error)) {
        return false;
    }
    switch (f.as) {
    case 'd':
        hmp_print(ctx, "%" PRId64 "\n", (int64_t)value);
        break;
    case 'u':
        hmp_print(ctx, "%" PRIu64 "\n", value);
        break;
    case 'o':
        hmp_print(ctx, "%#" PRIo64 "\n", value);
        break;
    case 'c':
        f.size = 1;
        print_value(ctx, &f, value);
        hmp_print(ctx, "\n");
        break;
    default:
        hmp_print(ctx, "%#" PRIx64 "\n", value);
        break;
    }
    return true;
}

bool hmp_sum(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *first = hmp_word(&args), *second = hmp_word(&args);
    uint64_t start, size;
    if (!first || !second) {
        return error_set(error, "sum ADDRESS SIZE");
    }
    if (!hmp_expression(ctx, first, &start, error) || !hmp_expression(ctx, second, &size, error)) {
        return false;
    }
    if (size > 1ull << 30 || !vm_machine(ctx->vm)) {
        return error_set(error, "at most 1 GiB can be summed up");
    }
    uint16_t sum = 0;
    for (uint64_t i = 0; i < size;) {
        uint8_t block[4096];
        size_t chunk = (size_t)MIN(size - i, sizeof(block));
        if (!read_memory(ctx, NULL, start + i, block, chunk)) {
            return error_set(error, "Cannot access memory");
        }
        for (size_t k = 0; k < chunk; k++) {
            sum = (uint16_t)((sum >> 1) | (sum << 15)); /* BSD checksum */
            sum = (uint16_t)(sum + block[k]);
        }
        i += chunk;
    }
    hmp_print(ctx, "%05d\n", sum);
    return true;
}

bool hmp_gva2gpa(HmpContext *ctx, const char *args, GError **error)
{
    uint64_t address, gpa;
    X86Cpu *cpu = hmp_cpu(ctx, error);
    if (!cpu || !hmp_expression(ctx, args, &address, error)) {
        return false;
    }
    vcpu_set_pause(vm_vcpus(ctx->vm));
    bool mapped = mmu_walk_debug(cpu, address, &gpa);
    vcpu_set_resume(vm_vcpus(ctx->vm));
    if (mapped) {
        hmp_print(ctx, "gpa: %#" PRIx64 "\n", gpa);
    } else {
        hmp_print(ctx, "Unmapped\n");
    }
    return true;
}
