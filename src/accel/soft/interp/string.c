/*
 * String instructions. With REP, MOVS and STOS on plain RAM run in chunks that end where a page ends; every
 * other element goes one at a time. Between chunks the registers are exact, so that an interrupt or a fault
 * leaves the instruction restartable. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/alu.h"
#include "accel/soft/interp/ops.h"

typedef struct String {
    unsigned size, address_size;
    int64_t step;
    uint64_t mask, count;
    bool rep;
} String;

static String string_begin(X86Cpu *cpu, const InterpOp *op)
{
    String s;
    const X86Operand *o = op_form(op)->operands;
    unsigned letter = o[0].kind == X86_OPERAND_GPR && o[0].size == X86_SIZE_W ? o[1].size : o[0].size;
    cpu->current_op = op;
    s.size = letter == X86_SIZE_B ? 1 : letter == X86_SIZE_Z ? (op_size(op) == 2 ? 2 : 4) : op_size(op);
    s.address_size = op_address_size(op);
    s.mask = size_mask(s.address_size);
    s.step = cpu->rflags & FLAG_DF ? -(int64_t)s.size : (int64_t)s.size;
    s.rep = op->flags & (OP_REP | OP_REPNE);
    s.count = s.rep ? cpu->regs[R_RCX] & s.mask : 1;
    return s;
}

static uint64_t source_linear(X86Cpu *cpu, const InterpOp *op, const String *s)
{
    return linear_address(cpu, op->segment, cpu->regs[R_RSI] & s->mask, s->size, false);
}
static uint64_t dest_linear(X86Cpu *cpu, const String *s, bool write)
{
    uint64_t offset = cpu->regs[R_RDI] & s->mask;
    return linear_address(cpu, SEG_ES, offset, s->size, write);
}
static void advance(X86Cpu *cpu, unsigned reg, const String *s, uint64_t elements)
{
    uint64_t value = cpu->regs[reg] + (uint64_t)s->step * elements;
    reg_write(cpu, reg, value, s->address_size);
}
static void count_down(X86Cpu *cpu, String *s, uint64_t elements)
{
    s->count -= elements;
    if (s->rep) {
        reg_write(cpu, R_RCX, s->count, s->address_size);
    }
}

/* Where a page is plain RAM in the TLB: its byte's host address. */
static uint8_t *tlb_host(X86Cpu *cpu, uint64_t linear, MmuAccess access)
{
    TlbEntry *e = mmu_entry_now(cpu, linear);
    if (e->tag[access] != (linear & PAGE_MASK_4K)) {
        return NULL;
    }
    return (uint8_t *)(linear + (uint64_t)e->addend);
}

/* How many elements can be done at once from offset reg upwards: within the page, without address wrap. */
static uint64_t chunk_elements(X86Cpu *cpu, const String *s, unsigned reg, uint64_t linear)
{
    uint64_t offset = cpu->regs[reg] & s->mask;
    uint64_t bytes = 4096 - (linear & 4095), to_wrap = s->mask - offset;
    if (bytes - 1 > to_wrap) {
        bytes = to_wrap + 1;
    }
    return bytes / s->size;
}
static bool chunks_allowed(const X86Cpu *cpu, const String *s)
{
    return s->step > 0 && s->count > 1 && (cpu->mode & (MODE_CS64 | MODE_FLAT)) && !(cpu->mode & MODE_BP);
}

/* Whether a repeated instruction should let interrupts in: it is restarted at its own address then. Also
 * where the translator would do better, once an element has been done (elements: of the last step). */
static bool slice_over(const X86Cpu *cpu, uint64_t elements)
{
    return interrupt_wanted(cpu) ||
           (elements == 1 && (cpu->mode & MODE_CS64) && ((const Interp *)cpu->accel_data)->run_translated);
}
#define RESTART()                   \
    do {                            \
        cpu->rip = op_rip(cpu, op); \
        return;                     \
    } while (0)

static void fill(uint8_t *host, uint64_t value, unsigned size, uint64_t elements)
{
    switch (size) {
    case 1:
        memset(host, (uint8_t)value, elements);
        break;
    case 2:
        __asm__ volatile("rep stosw" : "+D"(host), "+c"(elements) : "a"(value) : "memory");
        break;
    case 4:
        __asm__ volatile("rep stosl" : "+D"(host), "+c"(elements) : "a"(value) : "memory");
        break;
    default:
        __asm__ volatile("rep stosq" : "+D"(host), "+c"(elements) : "a"(value) : "memory");
        break;
    }
}

static uint64_t stos_chunk(X86Cpu *cpu, String *s, uint64_t linear)
{
    uint8_t *host = tlb_host(cpu, linear, MMU_WRITE);
    uint64_t n = MIN(chunk_elements(cpu, s, R_RDI, linear), s->count);
    if (!host || n == 0) {
        return 0;
    }
    fill(host, cpu->regs[R_RAX], s->size, n);
    return n;
}
HANDLER(g_stos)
{
    String s = string_begin(cpu, op);
    while (s.count) {
        uint64_t linear = dest_linear(cpu, &s, true), n = 0;
        if (chunks_allowed(cpu, &s)) {
            n = stos_chunk(cpu, &s, linear);
        }
        if (n == 0) {
            store(cpu, linear, cpu->regs[R_RAX], s.size);
            n = 1;
        }
        advance(cpu, R_RDI, &s, n);
        count_down(cpu, &s, n);
        if (s.count && slice_over(cpu, s.step > 0 ? n : 0)) {
            RESTART();
        }
    }
    NEXT();
}

static uint64_t movs_chunk(X86Cpu *cpu, const InterpOp *op, String *s, uint64_t from, uint64_t to)
{
    if (op->segment >= SEG_FS && !(cpu->mode & MODE_CS64)) {
        return 0; /* its limit is checked element by element */
    }
    uint8_t *dest = tlb_host(cpu, to, MMU_WRITE), *source = tlb_host(cpu, from, MMU_READ);
    if (!dest || !source) {
        return 0;
    }
    uint64_t n = MIN(chunk_elements(cpu, s, R_RDI, to), chunk_elements(cpu, s, R_RSI, from));
    n = MIN(n, s->count);
    uint64_t bytes = n * s->size;
    if (dest > source && dest < source + bytes) {
        /* Later elements are copies of earlier ones. */
        uint64_t distance = (uint64_t)(dest - source);
        if (distance < s->size) {
            return 0;
        }
        n = MIN(n, distance / s->size);
        bytes = n * s->size;
    }
    memmove(dest, source, bytes);
    return n;
}
HANDLER(g_movs)
{
    String s = string_begin(cpu, op);
    while (s.count) {
        uint64_t from = source_linear(cpu, op, &s), to = dest_linear(cpu, &s, true), n = 0;
        if (chunks_allowed(cpu, &s)) {
            n = movs_chunk(cpu, op, &s, from, to);
        }
        if (n == 0) {
            store(cpu, to, load(cpu, from, s.size), s.size);
            n = 1;
        }
        advance(cpu, R_RSI, &s, n);
        advance(cpu, R_RDI, &s, n);
        count_down(cpu, &s, n);
        if (s.count && slice_over(cpu, s.step > 0 ? n : 0)) {
            RESTART();
        }
    }
    NEXT();
}
HANDLER(g_lods)
{
    String s = string_begin(cpu, op);
    while (s.count) {
        uint64_t value = load(cpu, source_linear(cpu, op, &s), s.size);
        reg_write(cpu, R_RAX, value, s.size);
        advance(cpu, R_RSI, &s, 1);
        count_down(cpu, &s, 1);
        if (s.count && slice_over(cpu, 0)) {
            RESTART();
        }
    }
    NEXT();
}

static void compare(uint64_t a, uint64_t b, unsigned size, uint16_t *cc)
{
    switch (size) {
    case 1:
        alu_cmp8((uint8_t)a, (uint8_t)b, cc);
        break;
    case 2:
        alu_cmp16((uint16_t)a, (uint16_t)b, cc);
        break;
    case 4:
        alu_cmp32((uint32_t)a, (uint32_t)b, cc);
        break;
    default:
        alu_cmp64(a, b, cc);
        break;
    }
}
/* REPE goes on while equal, REPNE while not. */
static bool compare_ends(const X86Cpu *cpu, const InterpOp *op)
{
    bool equal = cpu->cc & CC_ZF;
    return op->flags & OP_REP ? !equal : equal;
}
HANDLER(g_cmps)
{
    String s = string_begin(cpu, op);
    while (s.count) {
        /* Where both operands' pages fault, processors report the second one's. */
        uint64_t source = source_linear(cpu, op, &s);
        uint64_t b = load(cpu, dest_linear(cpu, &s, false), s.size);
        uint64_t a = load(cpu, source, s.size);
        compare(a, b, s.size, &cpu->cc);
        advance(cpu, R_RSI, &s, 1);
        advance(cpu, R_RDI, &s, 1);
        count_down(cpu, &s, 1);
        if (s.rep && compare_ends(cpu, op)) {
            break;
        }
        if (s.count && slice_over(cpu, 0)) {
            RESTART();
        }
    }
    NEXT();
}
HANDLER(g_scas)
{
    String s;
    s = string_begin(cpu, op);
    while (s.count) {
        uint64_t b = load(cpu, dest_linear(cpu, &s, false), s.size);
        compare(cpu->regs[R_RAX], b, s.size, &cpu->cc);
        advance(cpu, R_RDI, &s, 1);
        count_down(cpu, &s, 1);
        if (s.rep && compare_ends(cpu, op)) {
            break;
        }
        if (s.count && slice_over(cpu, 0)) {
            RESTART();
        }
    }
    NEXT();
}

/* Port strings leave the block: a device may have done anything. */
HANDLER(g_ins)
{
    String s = string_begin(cpu, op);
    uint64_t next = op_next_rip(cpu, op), start = op_rip(cpu, op);
    uint16_t port = *reg16(cpu, R_RDX);
    x86_check_io(cpu, port, s.size); /* also where there is nothing to do */
    while (s.count) {
        uint64_t linear = dest_linear(cpu, &s, true);
        x86_probe(cpu, linear, s.size, MMU_WRITE);
        store(cpu, linear, x86_in(cpu, port, s.size), s.size);
        advance(cpu, R_RDI, &s, 1);
        count_down(cpu, &s, 1);
        if (s.count && slice_over(cpu, 0)) {
            next = start;
            break;
        }
    }
    cpu->rip = next;
}
HANDLER(g_outs)
{
    String s = string_begin(cpu, op);
    uint64_t next = op_next_rip(cpu, op), start = op_rip(cpu, op);
    uint16_t port = *reg16(cpu, R_RDX);
    x86_check_io(cpu, port, s.size); /* also where there is nothing to do */
    while (s.count) {
        x86_out(cpu, port, (uint32_t)load(cpu, source_linear(cpu, op, &s), s.size), s.size);
        advance(cpu, R_RSI, &s, 1);
        count_down(cpu, &s, 1);
        if (s.count && slice_over(cpu, 0)) {
            next = start;
            break;
        }
    }
    cpu->rip = next;
}

InterpHandler *interp_string_handler(const X86Form *form)
{
    switch (form->mnemonic) {
    case X86_MOVS:
        return g_movs;
    case X86_STOS:
        return g_stos;
    case X86_LODS:
        return g_lods;
    case X86_CMPS:
        return g_cmps;
    case X86_SCAS:
        return g_scas;
    case X86_INS:
        return g_ins;
    case X86_OUTS:
        return g_outs;
    default:
        return NULL;
    }
}
