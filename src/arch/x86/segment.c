/*
 * Segment registers, far transfers and IRET: SDM vol. 3 chapters 3 and 5, and the instructions' pages in
 * vol. 2. Order of checks and error codes are those of the operation sections there. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "arch/x86/segment.h"

#include "arch/x86/system.h"

/* ---- descriptors ---- */

static bool descriptor_locate(X86Cpu *cpu, uint16_t selector, unsigned size, uint64_t *address)
{
    uint64_t base;
    uint32_t limit;

    if (selector & 4) {
        const X86Segment *ldt = &cpu->segs[SEG_LDTR];
        if (!(ldt->attr & DESC_P)) {
            return false;
        }
        base = ldt->base;
        limit = ldt->limit;
    } else {
        base = cpu->gdt.base;
        limit = cpu->gdt.limit;
    }
    uint32_t offset = selector & 0xfff8;
    if (offset + size - 1 > limit) {
        return false;
    }
    *address = base + offset;
    if (!in_long_mode(cpu)) {
        *address &= UINT32_MAX;
    }
    return true;
}

bool descriptor_read(X86Cpu *cpu, uint16_t selector, Descriptor *d)
{
    uint64_t address;

    if (!descriptor_locate(cpu, selector, 8, &address)) {
        return false;
    }
    uint64_t value = x86_ld64_idx(cpu, address, MMU_KERNEL);
    d->low = (uint32_t)value;
    d->high = (uint32_t)(value >> 32);
    return true;
}

bool descriptor_read_upper(X86Cpu *cpu, uint16_t selector, Descriptor *d)
{
    uint64_t address;

    if (!descriptor_locate(cpu, selector, 16, &address)) {
        return false;
    }
    uint64_t value = x86_ld64_idx(cpu, address + 8, MMU_KERNEL);
    d->low = (uint32_t)value;
    d->high = (uint32_t)(value >> 32);
    return true;
}

uint64_t descriptor_address(X86Cpu *cpu, uint16_t selector)
{
    uint64_t base = selector & 4 ? cpu->segs[SEG_LDTR].base : cpu->gdt.base;
    uint64_t address = base + (selector & 0xfff8);

    return in_long_mode(cpu) ? address : address & UINT32_MAX;
}

void descriptor_set_accessed(X86Cpu *cpu, uint16_t selector, Descriptor *d)
{
    if ((d->high & (DESC_S | DESC_A)) == DESC_S) {
        uint64_t address = descriptor_address(cpu, selector) + 5;
        d->high |= DESC_A;
        x86_st8_idx(cpu, address, (uint8_t)(d->high >> 8), MMU_KERNEL);
    }
}

void segment_set(X86Cpu *cpu, int seg, uint16_t selector, Descriptor d)
{
    cpu->segs[seg] = (X86Segment){ .selector = selector,
                                   .attr = d.high & DESC_ATTR_MASK,
                                   .limit = descriptor_limit(d),
                                   .base = descriptor_base(d) };
}

void segment_set_null(X86Cpu *cpu, int seg, uint16_t selector)
{
    X86Segment *s = &cpu->segs[seg];

    s->selector = selector;
    s->base = 0;
    s->limit = 0;
    /* SS keeps a DPL of CPL in 64-bit mode; nothing is present. */
    s->attr = seg == SEG_SS ? (uint32_t)cpu->cpl << DESC_DPL_SHIFT : 0;
}

void segment_set_real(X86Cpu *cpu, int seg, uint16_t selector)
{
    X86Segment *s = &cpu->segs[seg];

    s->selector = selector;
    s->base = (uint32_t)selector << 4;
    /* The limit stays (big real mode); what is loaded here can be read and written. */
    if (seg == SEG_CS) {
        s->attr = (s->attr & (DESC_B | DESC_G)) | DESC_P | DESC_S | DESC_CODE | DESC_R | DESC_A;
    } else {
        s->attr = (s->attr & (DESC_B | DESC_G)) | DESC_P | DESC_S | DESC_W | DESC_A;
    }
}

void segment_set_vm86(X86Cpu *cpu, int seg, uint16_t selector)
{
    cpu->segs[seg] = (X86Segment){ .selector = selector,
                                   .base = (uint32_t)selector << 4,
                                   .limit = 0xffff,
                                   .attr = DESC_P | DESC_S | (3u << DESC_DPL_SHIFT) | DESC_W | DESC_A |
                                           (seg == SEG_CS ? DESC_CODE : 0) };
}

void segment_set_cs(X86Cpu *cpu, uint16_t selector, Descriptor d, unsigned cpl)
{
    segment_set(cpu, SEG_CS, (uint16_t)((selector & ~3u) | cpl), d);
    cpu->cpl = (uint8_t)cpl;
    x86_update_mode(cpu);
}

uint64_t code_check_target(X86Cpu *cpu, Descriptor d, uint64_t offset, uint32_t error)
{
    if (in_long_mode(cpu) && (d.high & DESC_L)) {
        if (!x86_is_canonical(offset)) {
            x86_raise_error(cpu, EXC_GP, error);
        }
        return offset;
    }
    offset &= UINT32_MAX;
    if (offset > descriptor_limit(d)) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    return offset;
}

/* ---- stacks ---- */

Stack stack_current(X86Cpu *cpu)
{
    return (Stack){ .cpu = cpu,
                    .ss = cpu->segs[SEG_SS],
                    .sp = cpu->regs[R_RSP],
                    .mask = stack_mask(cpu),
                    .is64 = in_64bit_mode(cpu),
                    .index = mmu_index_of(cpu, cpu->cpl) };
}

static uint64_t stack_linear(const Stack *s, uint64_t offset, unsigned size)
{
    if (s->is64) {
        if (!x86_is_canonical(offset) || !x86_is_canonical(offset + size - 1)) {
            x86_raise_error(s->cpu, EXC_SS, s->error);
        }
        return offset;
    }
    uint64_t last = offset + size - 1;
    bool bad;
    if ((s->ss.attr & (DESC_CODE | DESC_E)) == DESC_E && in_protected_mode(s->cpu)) {
        bad = offset <= s->ss.limit || last > (s->ss.attr & DESC_B ? UINT32_MAX : UINT16_MAX);
    } else {
        bad = last > s->ss.limit;
    }
    if (bad) {
        x86_raise_error(s->cpu, EXC_SS, s->error);
    }
    return (s->ss.base + offset) & UINT32_MAX;
}

void stack_push(Stack *s, unsigned size, uint64_t value)
{
    s->sp = (s->sp - size) & s->mask;
    uint64_t linear = stack_linear(s, s->sp, size);
    switch (size) {
    case 2:
        x86_st16_idx(s->cpu, linear, (uint16_t)value, s->index);
        break;
    case 4:
        x86_st32_idx(s->cpu, linear, (uint32_t)value, s->index);
        break;
    default:
        x86_st64_idx(s->cpu, linear, value, s->index);
        break;
    }
}

uint64_t stack_pop(Stack *s, unsigned size)
{
    s->sp &= s->mask;
    uint64_t linear = stack_linear(s, s->sp, size);
    s->sp = (s->sp + size) & s->mask;
    switch (size) {
    case 2:
        return x86_ld16_idx(s->cpu, linear, s->index);
    case 4:
        return x86_ld32_idx(s->cpu, linear, s->index);
    default:
        return x86_ld64_idx(s->cpu, linear, s->index);
    }
}

uint64_t stack_pointer(const Stack *s, uint64_t old_rsp)
{
    if (s->mask == UINT16_MAX) {
        return (old_rsp & ~UINT64_C(0xffff)) | (s->sp & 0xffff);
    }
    return s->sp & s->mask;
}

void tss_stack(X86Cpu *cpu, unsigned level, unsigned ext, uint16_t *ss, uint64_t *sp)
{
    const X86Segment *tr = &cpu->segs[SEG_TR];
    bool is32 = tr->attr & (8u << DESC_TYPE_SHIFT);
    uint32_t offset = is32 ? 4 + level * 8 : 2 + level * 4;

    if (offset + (is32 ? 6 : 4) - 1 > tr->limit) {
        x86_raise_error(cpu, EXC_TS, (tr->selector & ~3u) | ext);
    }
    uint64_t linear = (tr->base + offset) & UINT32_MAX;
    if (is32) {
        *sp = x86_ld32_idx(cpu, linear, MMU_KERNEL);
        *ss = x86_ld16_idx(cpu, linear + 4, MMU_KERNEL);
    } else {
        *sp = x86_ld16_idx(cpu, linear, MMU_KERNEL);
        *ss = x86_ld16_idx(cpu, linear + 2, MMU_KERNEL);
    }
}

uint64_t tss64_stack(X86Cpu *cpu, unsigned slot_offset, unsigned ext)
{
    const X86Segment *tr = &cpu->segs[SEG_TR];

    if (slot_offset + 7 > tr->limit) {
        x86_raise_error(cpu, EXC_TS, (tr->selector & ~3u) | ext);
    }
    uint64_t rsp = x86_ld64_idx(cpu, tr->base + slot_offset, MMU_KERNEL);
    if (!x86_is_canonical(rsp)) {
        x86_raise_error(cpu, EXC_SS, ext);
    }
    return rsp;
}

/* ---- addressing ---- */

uint64_t x86_linear(X86Cpu *cpu, int seg, uint64_t offset, unsigned size, bool write)
{
    const X86Segment *s = &cpu->segs[seg];

    if (in_64bit_mode(cpu)) {
        uint64_t linear = seg == SEG_FS || seg == SEG_GS ? s->base + offset : offset;
        if (!x86_is_canonical(linear) || !x86_is_canonical(linear + size - 1)) {
            x86_raise_error(cpu, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
        }
        return linear;
    }
    uint64_t last = offset + size - 1;
    bool bad;
    if (in_protected_mode(cpu)) {
        bad = !(s->attr & DESC_P);
        if (s->attr & DESC_CODE) {
            bad |= write || !(s->attr & DESC_R);
        } else {
            bad |= write && !(s->attr & DESC_W);
        }
        if ((s->attr & (DESC_CODE | DESC_E)) == DESC_E) {
            bad |= offset <= s->limit || last > (s->attr & DESC_B ? UINT32_MAX : UINT16_MAX);
        } else {
            bad |= last > s->limit;
        }
    } else {
        bad = last > s->limit;
    }
    if (bad) {
        x86_raise_error(cpu, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
    }
    return (s->base + offset) & UINT32_MAX;
}

/* ---- loading segment registers ---- */

static void load_segment(X86Cpu *cpu, int seg, uint16_t selector)
{
    Descriptor d;

    if (!(cpu->cr0 & CR0_PE)) {
        segment_set_real(cpu, seg, selector);
        x86_update_mode(cpu);
        return;
    }
    if (cpu->rflags & FLAG_VM) {
        segment_set_vm86(cpu, seg, selector);
        x86_update_mode(cpu);
        return;
    }
    unsigned rpl = selector & 3;
    uint32_t error = selector & ~3u;
    if (selector_is_null(selector)) {
        if (seg == SEG_SS && !(in_64bit_mode(cpu) && cpu->cpl != 3 && rpl == cpu->cpl)) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
        segment_set_null(cpu, seg, selector);
        x86_update_mode(cpu);
        return;
    }
    if (!descriptor_read(cpu, selector, &d)) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    unsigned dpl = descriptor_dpl(d);
    if (seg == SEG_SS) {
        if (rpl != cpu->cpl || dpl != cpu->cpl || !descriptor_is_writable_data(d)) {
            x86_raise_error(cpu, EXC_GP, error);
        }
        if (!(d.high & DESC_P)) {
            x86_raise_error(cpu, EXC_SS, error);
        }
    } else {
        bool conforming = descriptor_is_code(d) && (d.high & DESC_C);
        if (!(d.high & DESC_S) || (descriptor_is_code(d) && !(d.high & DESC_R)) ||
            (!conforming && (rpl > dpl || cpu->cpl > dpl))) {
            x86_raise_error(cpu, EXC_GP, error);
        }
        if (!(d.high & DESC_P)) {
            x86_raise_error(cpu, EXC_NP, error);
        }
    }
    descriptor_set_accessed(cpu, selector, &d);
    segment_set(cpu, seg, selector, d);
    x86_update_mode(cpu);
}

void x86_load_segment(X86Cpu *cpu, int seg, uint16_t selector)
{
    load_segment(cpu, seg, selector);
    if (seg == SEG_SS) {
        cpu->inhibit_interrupts = true;
        cpu->inhibit_debug = cpu->mode & (MODE_TF | MODE_BP);
    }
}

/* The system segments: base of 64 bits in long mode. */
static void load_system_segment(X86Cpu *cpu, int seg, uint16_t selector, bool is_ldt)
{
    uint32_t error = selector & ~3u;
    Descriptor d, upper = { 0 };

    if (selector & 4) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (!descriptor_read(cpu, selector, &d)) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    unsigned type = descriptor_type(d);
    bool good =
        !(d.high & DESC_S) &&
        (is_ldt ? type == DESC_LDT : type == DESC_TSS32 || (type == DESC_TSS16 && !in_long_mode(cpu)));
    if (!good) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (in_long_mode(cpu)) {
        if (!descriptor_read_upper(cpu, selector, &upper) || (upper.high & 0x1f00)) {
            x86_raise_error(cpu, EXC_GP, error);
        }
    }
    if (!(d.high & DESC_P)) {
        x86_raise_error(cpu, EXC_NP, error);
    }
    uint64_t base = descriptor_base(d) | ((uint64_t)upper.low << 32);
    if (in_long_mode(cpu) && !x86_is_canonical(base)) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (!is_ldt) {
        d.high |= 2u << DESC_TYPE_SHIFT; /* busy */
        x86_st32_idx(cpu, descriptor_address(cpu, selector) + 4, d.high, MMU_KERNEL);
    }
    segment_set(cpu, seg, selector, d);
    cpu->segs[seg].base = base;
}

static void require_protected_cpl0(X86Cpu *cpu)
{
    if (!in_protected_mode(cpu)) {
        x86_raise(cpu, EXC_UD);
    }
    if (cpu->cpl != 0) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}

void x86_lldt(X86Cpu *cpu, uint16_t selector)
{
    require_protected_cpl0(cpu);
    if (selector_is_null(selector)) {
        cpu->segs[SEG_LDTR] = (X86Segment){ .selector = selector };
        return;
    }
    load_system_segment(cpu, SEG_LDTR, selector, true);
}

void x86_ltr(X86Cpu *cpu, uint16_t selector)
{
    require_protected_cpl0(cpu);
    if (selector_is_null(selector)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    load_system_segment(cpu, SEG_TR, selector, false);
}

/* Finds a descriptor for LAR, LSL, VERR, VERW, with the privilege check that they share. */
static bool inspect(X86Cpu *cpu, uint16_t selector, Descriptor *d)
{
    if (!in_protected_mode(cpu)) {
        x86_raise(cpu, EXC_UD);
    }
    if (selector_is_null(selector) || !descriptor_read(cpu, selector, d)) {
        return false;
    }
    bool conforming = descriptor_is_code(*d) && (d->high & DESC_C);
    unsigned dpl = descriptor_dpl(*d);
    return conforming || (cpu->cpl <= dpl && (selector & 3u) <= dpl);
}

bool x86_lar(X86Cpu *cpu, uint16_t selector, uint32_t *rights)
{
    Descriptor d;

    if (!inspect(cpu, selector, &d)) {
        return false;
    }
    if (!(d.high & DESC_S)) {
        uint32_t valid = in_long_mode(cpu)
                             ? 1u << DESC_LDT | 1u << DESC_TSS32 | 1u << DESC_TSS32_BUSY | 1u << DESC_CALL32
                             : 1u << DESC_TSS16 | 1u << DESC_LDT | 1u << DESC_TSS16_BUSY | 1u << DESC_CALL16 |
                                   1u << DESC_TASK_GATE | 1u << DESC_TSS32 | 1u << DESC_TSS32_BUSY |
                                   1u << DESC_CALL32;
        if (!(valid >> descriptor_type(d) & 1)) {
            return false;
        }
    }
    *rights = d.high & 0x00f0ff00;
    return true;
}

bool x86_lsl(X86Cpu *cpu, uint16_t selector, uint32_t *limit)
{
    Descriptor d;

    if (!inspect(cpu, selector, &d)) {
        return false;
    }
    if (!(d.high & DESC_S)) {
        uint32_t valid = in_long_mode(cpu) ? 1u << DESC_LDT | 1u << DESC_TSS32 | 1u << DESC_TSS32_BUSY
                                           : 1u << DESC_TSS16 | 1u << DESC_LDT | 1u << DESC_TSS16_BUSY |
                                                 1u << DESC_TSS32 | 1u << DESC_TSS32_BUSY;
        if (!(valid >> descriptor_type(d) & 1)) {
            return false;
        }
    }
    *limit = descriptor_limit(d);
    return true;
}

bool x86_verify(X86Cpu *cpu, uint16_t selector, bool write)
{
    Descriptor d;

    if (!inspect(cpu, selector, &d) || !(d.high & DESC_S)) {
        return false;
    }
    return write ? descriptor_is_writable_data(d) : !(d.high & DESC_CODE) || (d.high & DESC_R);
}

/* ---- far transfers ---- */

/* Real-address and virtual-8086 mode: what all far transfers load into CS:IP. */
static void load_cs_simple(X86Cpu *cpu, uint16_t selector)
{
    if (cpu->rflags & FLAG_VM) {
        segment_set_vm86(cpu, SEG_CS, selector);
    } else {
        segment_set_real(cpu, SEG_CS, selector);
    }
    x86_update_mode(cpu);
}

static void check_ip_simple(X86Cpu *cpu, uint64_t offset)
{
    if (offset > ((cpu->rflags & FLAG_VM) ? 0xffff : cpu->segs[SEG_CS].limit)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}

static uint64_t truncate_offset(uint64_t offset, unsigned operand_size)
{
    return operand_size == 2 ? offset & 0xffff : operand_size == 4 ? offset & UINT32_MAX : offset;
}

/* In long mode a code segment with both L and D is reserved. */
static bool code_size_reserved(X86Cpu *cpu, Descriptor d)
{
    return in_long_mode(cpu) && (d.high & (DESC_L | DESC_B)) == (DESC_L | DESC_B);
}

typedef struct CallGate {
    uint16_t selector;
    uint64_t offset;
    unsigned params;
    unsigned size; /* of its pushes: 2, 4, 8 */
    Descriptor code;
} CallGate;

/* Reads and checks a call gate and its code segment down to the point where JMP and CALL differ. */
static void read_call_gate(X86Cpu *cpu, uint16_t selector, Descriptor d, CallGate *gate)
{
    unsigned type = descriptor_type(d);

    gate->selector = (uint16_t)(d.low >> 16);
    gate->offset = (d.low & 0xffff) | (type == DESC_CALL16 ? 0 : d.high & 0xffff0000);
    gate->params = d.high & 31;
    gate->size = type == DESC_CALL16 ? 2 : 4;
    if (in_long_mode(cpu)) {
        Descriptor upper;
        if (!descriptor_read_upper(cpu, selector, &upper) || (upper.high & 0x1f00)) {
            x86_raise_error(cpu, EXC_GP, selector & ~3u);
        }
        gate->offset |= (uint64_t)upper.low << 32;
        gate->params = 0;
        gate->size = 8;
    }
    if (selector_is_null(gate->selector)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    uint32_t error = gate->selector & ~3u;
    if (!descriptor_read(cpu, gate->selector, &gate->code)) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (!descriptor_is_code(gate->code) || descriptor_dpl(gate->code) > cpu->cpl) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (in_long_mode(cpu) && (gate->code.high & (DESC_L | DESC_B)) != DESC_L) {
        x86_raise_error(cpu, EXC_GP, error);
    }
}

/* The checks on a gate or TSS that a far JMP or CALL names. */
static void check_system_target(X86Cpu *cpu, uint16_t selector, Descriptor d)
{
    unsigned type = descriptor_type(d), dpl = descriptor_dpl(d);
    uint32_t error = selector & ~3u;
    bool known =
        type == DESC_CALL32 || (!in_long_mode(cpu) && (type == DESC_CALL16 || type == DESC_TASK_GATE ||
                                                       type == DESC_TSS16 || type == DESC_TSS32));

    if (!known || dpl < cpu->cpl || dpl < (selector & 3u)) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (!(d.high & DESC_P)) {
        x86_raise_error(cpu, EXC_NP, error);
    }
}

/* A direct far transfer to a code segment: privilege and presence. */
static void check_direct_code(X86Cpu *cpu, uint16_t selector, Descriptor d)
{
    unsigned dpl = descriptor_dpl(d);
    uint32_t error = selector & ~3u;
    bool bad = code_size_reserved(cpu, d);

    if (d.high & DESC_C) {
        bad |= dpl > cpu->cpl;
    } else {
        bad |= (selector & 3u) > cpu->cpl || dpl != cpu->cpl;
    }
    if (bad) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (!(d.high & DESC_P)) {
        x86_raise_error(cpu, EXC_NP, error);
    }
}

void x86_far_jump(X86Cpu *cpu, uint16_t selector, uint64_t offset, unsigned operand_size, uint64_t next_rip)
{
    Descriptor d;

    offset = truncate_offset(offset, operand_size);
    if (!in_protected_mode(cpu)) {
        check_ip_simple(cpu, offset);
        load_cs_simple(cpu, selector);
        cpu->rip = offset;
        return;
    }
    if (selector_is_null(selector)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    if (!descriptor_read(cpu, selector, &d)) {
        x86_raise_error(cpu, EXC_GP, selector & ~3u);
    }
    if (d.high & DESC_S) {
        if (!(d.high & DESC_CODE)) {
            x86_raise_error(cpu, EXC_GP, selector & ~3u);
        }
        check_direct_code(cpu, selector, d);
        offset = code_check_target(cpu, d, offset, 0);
        descriptor_set_accessed(cpu, selector, &d);
        segment_set_cs(cpu, selector, d, cpu->cpl);
        cpu->rip = offset;
        return;
    }
    check_system_target(cpu, selector, d);
    unsigned type = descriptor_type(d);
    if (type == DESC_TSS16 || type == DESC_TSS32) {
        x86_task_switch(cpu, selector, TASK_SWITCH_JMP, next_rip, false, 0);
    } else if (type == DESC_TASK_GATE) {
        x86_task_switch(cpu, (uint16_t)(d.low >> 16), TASK_SWITCH_JMP, next_rip, false, 0);
    } else {
        CallGate gate;
        read_call_gate(cpu, selector, d, &gate);
        uint32_t error = gate.selector & ~3u;
        if (!(gate.code.high & DESC_C) && descriptor_dpl(gate.code) != cpu->cpl) {
            x86_raise_error(cpu, EXC_GP, error);
        }
        if (!(gate.code.high & DESC_P)) {
            x86_raise_error(cpu, EXC_NP, error);
        }
        offset = code_check_target(cpu, gate.code, gate.offset, 0);
        descriptor_set_accessed(cpu, gate.selector, &gate.code);
        segment_set_cs(cpu, gate.selector, gate.code, cpu->cpl);
        cpu->rip = offset;
    }
}

/* Checks a new SS that comes from a TSS for privilege level `level`: #TS or #SS with its selector. */
static Descriptor check_new_ss(X86Cpu *cpu, uint16_t ss, unsigned level, unsigned ext)
{
    Descriptor d;
    uint32_t error = (ss & ~3u) | ext;

    if (selector_is_null(ss)) {
        x86_raise_error(cpu, EXC_TS, ext);
    }
    if (!descriptor_read(cpu, ss, &d) || (ss & 3u) != level || descriptor_dpl(d) != level ||
        !descriptor_is_writable_data(d)) {
        x86_raise_error(cpu, EXC_TS, error);
    }
    if (!(d.high & DESC_P)) {
        x86_raise_error(cpu, EXC_SS, error);
    }
    return d;
}

Stack stack_inner(X86Cpu *cpu, unsigned level, unsigned ext, uint16_t *ss, Descriptor *ss_descriptor)
{
    uint64_t sp;

    tss_stack(cpu, level, ext, ss, &sp);
    *ss_descriptor = check_new_ss(cpu, *ss, level, ext);
    Stack s = { .cpu = cpu,
                .ss = { .selector = *ss,
                        .attr = ss_descriptor->high & DESC_ATTR_MASK,
                        .limit = descriptor_limit(*ss_descriptor),
                        .base = descriptor_base(*ss_descriptor) },
                .sp = sp,
                .mask = ss_descriptor->high & DESC_B ? UINT32_MAX : UINT16_MAX,
                .index = mmu_index_of(cpu, level),
                .error = (*ss & ~3u) | ext };
    return s;
}

/* CALL through a gate to a more privileged level. */
static void far_call_inner(X86Cpu *cpu, const CallGate *gate, Descriptor *code, uint64_t target,
                           uint64_t next_rip)
{
    unsigned level = descriptor_dpl(*code);
    uint16_t old_cs = cpu->segs[SEG_CS].selector, old_ss = cpu->segs[SEG_SS].selector;
    uint64_t old_sp = cpu->regs[R_RSP];

    if (in_long_mode(cpu)) {
        Stack s = { .cpu = cpu, .mask = UINT64_MAX, .is64 = true, .index = mmu_index_of(cpu, level) };
        s.sp = tss64_stack(cpu, 4 + level * 8, 0);
        stack_push(&s, 8, old_ss);
        stack_push(&s, 8, old_sp);
        stack_push(&s, 8, old_cs);
        stack_push(&s, 8, next_rip);
        descriptor_set_accessed(cpu, gate->selector, code);
        segment_set_cs(cpu, gate->selector, *code, level);
        segment_set_null(cpu, SEG_SS, (uint16_t)level);
        cpu->regs[R_RSP] = s.sp;
    } else {
        uint16_t ss;
        Descriptor ss_descriptor;
        uint32_t params[31];
        Stack from = stack_current(cpu);
        Stack s = stack_inner(cpu, level, 0, &ss, &ss_descriptor);
        for (unsigned i = 0; i < gate->params; i++) {
            params[i] = (uint32_t)stack_pop(&from, gate->size);
        }
        stack_push(&s, gate->size, old_ss);
        stack_push(&s, gate->size, old_sp);
        for (unsigned i = gate->params; i-- > 0;) {
            stack_push(&s, gate->size, params[i]);
        }
        stack_push(&s, gate->size, old_cs);
        stack_push(&s, gate->size, next_rip);
        descriptor_set_accessed(cpu, ss, &ss_descriptor);
        descriptor_set_accessed(cpu, gate->selector, code);
        segment_set(cpu, SEG_SS, ss, ss_descriptor);
        segment_set_cs(cpu, gate->selector, *code, level);
        cpu->regs[R_RSP] = stack_pointer(&s, old_sp);
    }
    cpu->rip = target;
}

void x86_far_call(X86Cpu *cpu, uint16_t selector, uint64_t offset, unsigned operand_size, uint64_t next_rip)
{
    Descriptor d;
    uint16_t old_cs = cpu->segs[SEG_CS].selector;
    Stack s = stack_current(cpu);

    offset = truncate_offset(offset, operand_size);
    if (!in_protected_mode(cpu)) {
        stack_push(&s, operand_size, old_cs);
        stack_push(&s, operand_size, next_rip);
        check_ip_simple(cpu, offset);
        load_cs_simple(cpu, selector);
        cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
        cpu->rip = offset;
        return;
    }
    if (selector_is_null(selector)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    if (!descriptor_read(cpu, selector, &d)) {
        x86_raise_error(cpu, EXC_GP, selector & ~3u);
    }
    if (d.high & DESC_S) {
        if (!(d.high & DESC_CODE)) {
            x86_raise_error(cpu, EXC_GP, selector & ~3u);
        }
        check_direct_code(cpu, selector, d);
        stack_push(&s, operand_size, old_cs);
        stack_push(&s, operand_size, next_rip);
        offset = code_check_target(cpu, d, offset, 0);
        descriptor_set_accessed(cpu, selector, &d);
        cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
        segment_set_cs(cpu, selector, d, cpu->cpl);
        cpu->rip = offset;
        return;
    }
    check_system_target(cpu, selector, d);
    unsigned type = descriptor_type(d);
    if (type == DESC_TSS16 || type == DESC_TSS32) {
        x86_task_switch(cpu, selector, TASK_SWITCH_CALL, next_rip, false, 0);
        return;
    }
    if (type == DESC_TASK_GATE) {
        x86_task_switch(cpu, (uint16_t)(d.low >> 16), TASK_SWITCH_CALL, next_rip, false, 0);
        return;
    }
    CallGate gate;
    read_call_gate(cpu, selector, d, &gate);
    if (!(gate.code.high & DESC_P)) {
        x86_raise_error(cpu, EXC_NP, gate.selector & ~3u);
    }
    offset = code_check_target(cpu, gate.code, gate.offset, 0);
    if (!(gate.code.high & DESC_C) && descriptor_dpl(gate.code) < cpu->cpl) {
        far_call_inner(cpu, &gate, &gate.code, offset, next_rip);
        return;
    }
    stack_push(&s, gate.size, old_cs);
    stack_push(&s, gate.size, next_rip);
    descriptor_set_accessed(cpu, gate.selector, &gate.code);
    cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
    segment_set_cs(cpu, gate.selector, gate.code, cpu->cpl);
    cpu->rip = offset;
}

/* The code segment that a far return or IRET pops. */
static Descriptor check_return_cs(X86Cpu *cpu, uint16_t selector)
{
    Descriptor d;
    uint32_t error = selector & ~3u;
    unsigned rpl = selector & 3u;

    if (selector_is_null(selector)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    if (!descriptor_read(cpu, selector, &d)) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    unsigned dpl = descriptor_dpl(d);
    if (!descriptor_is_code(d) || rpl < cpu->cpl || ((d.high & DESC_C) ? dpl > rpl : dpl != rpl) ||
        code_size_reserved(cpu, d)) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (!(d.high & DESC_P)) {
        x86_raise_error(cpu, EXC_NP, error);
    }
    return d;
}

/* The stack segment that a return to an outer level (or a 64-bit IRET) pops. null_ok: a null selector may be
 * loaded. */
static bool check_return_ss(X86Cpu *cpu, uint16_t selector, unsigned level, bool null_ok, Descriptor *d)
{
    uint32_t error = selector & ~3u;

    if (selector_is_null(selector)) {
        if (!null_ok || (selector & 3u) != level) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
        return false;
    }
    if (!descriptor_read(cpu, selector, d)) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if ((selector & 3u) != level || descriptor_dpl(*d) != level || !descriptor_is_writable_data(*d)) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (!(d->high & DESC_P)) {
        x86_raise_error(cpu, EXC_SS, error);
    }
    return true;
}

/* After a return to an outer level: data segments that this level may not use become null. */
static void drop_inner_segments(X86Cpu *cpu)
{
    static const int data_segments[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

    for (unsigned i = 0; i < G_N_ELEMENTS(data_segments); i++) {
        X86Segment *s = &cpu->segs[data_segments[i]];
        bool conforming = (s->attr & DESC_CODE) && (s->attr & DESC_C);
        if (!conforming && ((s->attr >> DESC_DPL_SHIFT) & 3) < cpu->cpl) {
            /* The base stays: FS and GS of 64-bit code live in it (AMD APM vol. 2 4.5.3). */
            s->selector = 0;
            s->attr = 0;
            s->limit = 0;
            if (!in_long_mode(cpu)) {
                s->base = 0;
            }
        }
    }
}

/* Common end of far return and IRET: loads CS (and SS:rSP where they were popped). */
static void finish_return(X86Cpu *cpu, uint16_t cs, Descriptor code, bool load_ss, uint16_t ss,
                          bool ss_present, Descriptor ss_descriptor, uint64_t sp, uint64_t rip)
{
    unsigned old_cpl = cpu->cpl, level = cs & 3u;

    descriptor_set_accessed(cpu, cs, &code);
    if (load_ss && ss_present) {
        descriptor_set_accessed(cpu, ss, &ss_descriptor);
    }
    segment_set_cs(cpu, cs, code, level);
    if (load_ss) {
        if (ss_present) {
            segment_set(cpu, SEG_SS, ss, ss_descriptor);
        } else {
            segment_set_null(cpu, SEG_SS, ss);
        }
    }
    cpu->regs[R_RSP] = sp;
    if (level > old_cpl) {
        drop_inner_segments(cpu);
    }
    x86_update_mode(cpu);
    cpu->rip = rip;
}

static uint64_t merge_sp(Descriptor ss, bool is64, uint64_t old, uint64_t sp)
{
    if (is64) {
        return sp;
    }
    return ss.high & DESC_B ? sp & UINT32_MAX : (old & ~UINT64_C(0xffff)) | (sp & 0xffff);
}

void x86_far_return(X86Cpu *cpu, unsigned operand_size, unsigned release_bytes)
{
    Stack s = stack_current(cpu);
    uint64_t offset = stack_pop(&s, operand_size);
    uint16_t selector = (uint16_t)stack_pop(&s, operand_size);

    if (!in_protected_mode(cpu)) {
        check_ip_simple(cpu, offset);
        load_cs_simple(cpu, selector);
        s.sp += release_bytes;
        cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
        cpu->rip = offset;
        return;
    }
    Descriptor code = check_return_cs(cpu, selector), ss_descriptor = { 0 };
    bool to64 = in_long_mode(cpu) && (code.high & DESC_L);
    unsigned level = selector & 3u;
    s.sp += release_bytes;
    if (level == cpu->cpl) {
        offset = code_check_target(cpu, code, offset, 0);
        finish_return(cpu, selector, code, false, 0, false, ss_descriptor,
                      stack_pointer(&s, cpu->regs[R_RSP]), offset);
        return;
    }
    uint64_t sp = stack_pop(&s, operand_size);
    uint16_t ss = (uint16_t)stack_pop(&s, operand_size);
    bool present = check_return_ss(cpu, ss, level, to64 && level != 3, &ss_descriptor);
    offset = code_check_target(cpu, code, offset, 0);
    sp += release_bytes;
    finish_return(cpu, selector, code, true, ss, present, ss_descriptor,
                  merge_sp(ss_descriptor, to64, cpu->regs[R_RSP], truncate_offset(sp, operand_size)), offset);
}

/* ---- IRET ---- */

/* The flags that IRET may change at this privilege. */
static uint64_t iret_flags(X86Cpu *cpu, uint64_t popped, unsigned operand_size, bool may_change_vm)
{
    uint64_t old = x86_get_rflags(cpu);
    uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;

    if (operand_size > 2) {
        mask |= FLAG_RF | FLAG_AC | FLAG_ID;
    }
    if (cpu->cpl <= ((old & FLAG_IOPL) >> 12)) {
        mask |= FLAG_IF;
    }
    if (cpu->cpl == 0) {
        mask |= FLAG_IOPL;
        if (operand_size > 2) {
            mask |= FLAG_VIF | FLAG_VIP;
            if (may_change_vm) {
                mask |= FLAG_VM;
            }
        }
    }
    return (old & ~mask) | (popped & mask);
}

static void iret_real(X86Cpu *cpu, unsigned operand_size)
{
    Stack s = stack_current(cpu);
    uint64_t offset = stack_pop(&s, operand_size);
    uint16_t selector = (uint16_t)stack_pop(&s, operand_size);
    uint64_t flags = stack_pop(&s, operand_size);
    uint64_t old = x86_get_rflags(cpu);
    uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT;

    if (operand_size == 4) {
        mask |= FLAG_RF | FLAG_AC | FLAG_ID;
    }
    check_ip_simple(cpu, offset);
    load_cs_simple(cpu, selector);
    cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
    cpu->rip = offset;
    x86_set_rflags(cpu, (old & ~mask) | (flags & mask));
    x86_nmi_unblock(cpu);
}

/* IRET inside virtual-8086 mode (SDM vol. 3 20.2.7 and, with VME, 20.3). */
static void iret_vm86(X86Cpu *cpu, unsigned operand_size)
{
    uint64_t old = x86_get_rflags(cpu);
    bool iopl3 = (old & FLAG_IOPL) == FLAG_IOPL;

    if (!iopl3 && !((cpu->cr4 & CR4_VME) && operand_size == 2)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    Stack s = stack_current(cpu);
    uint64_t offset = stack_pop(&s, operand_size);
    uint16_t selector = (uint16_t)stack_pop(&s, operand_size);
    uint64_t flags = stack_pop(&s, operand_size);
    uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;

    if (iopl3) {
        mask |= FLAG_IF;
        if (operand_size == 4) {
            mask |= FLAG_RF | FLAG_AC | FLAG_ID;
        }
    } else {
        if (((flags & FLAG_IF) && (old & FLAG_VIP)) || (flags & FLAG_TF)) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
        flags = (flags & ~(uint64_t)FLAG_VIF) | ((flags & FLAG_IF) ? FLAG_VIF : 0);
        mask |= FLAG_VIF;
    }
    check_ip_simple(cpu, offset);
    load_cs_simple(cpu, selector);
    cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
    cpu->rip = offset;
    x86_set_rflags(cpu, (old & ~mask) | (flags & mask));
    x86_nmi_unblock(cpu);
}

static void iret_to_vm86(X86Cpu *cpu, Stack *s, uint64_t offset, uint16_t cs, uint64_t flags)
{
    uint64_t sp = stack_pop(s, 4);
    uint16_t ss = (uint16_t)stack_pop(s, 4);
    uint16_t es = (uint16_t)stack_pop(s, 4);
    uint16_t ds = (uint16_t)stack_pop(s, 4);
    uint16_t fs = (uint16_t)stack_pop(s, 4);
    uint16_t gs = (uint16_t)stack_pop(s, 4);

    uint64_t new_flags = iret_flags(cpu, flags, 4, true);
    cpu->cpl = 3;
    segment_set_vm86(cpu, SEG_CS, cs);
    segment_set_vm86(cpu, SEG_SS, ss);
    segment_set_vm86(cpu, SEG_ES, es);
    segment_set_vm86(cpu, SEG_DS, ds);
    segment_set_vm86(cpu, SEG_FS, fs);
    segment_set_vm86(cpu, SEG_GS, gs);
    cpu->regs[R_RSP] = sp;
    cpu->rip = offset & 0xffff;
    x86_set_rflags(cpu, new_flags);
    x86_update_mode(cpu);
    x86_nmi_unblock(cpu);
}

void x86_iret(X86Cpu *cpu, unsigned operand_size, uint64_t next_rip)
{
    if (!(cpu->cr0 & CR0_PE)) {
        iret_real(cpu, operand_size);
        return;
    }
    if (cpu->rflags & FLAG_VM) {
        iret_vm86(cpu, operand_size);
        return;
    }
    if (cpu->rflags & FLAG_NT) {
        if (in_long_mode(cpu)) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
        /* Return to the task that the TSS's link field names. */
        uint16_t link = x86_ld16_idx(cpu, cpu->segs[SEG_TR].base & UINT32_MAX, MMU_KERNEL);
        if ((link & 4) || selector_is_null(link)) {
            x86_raise_error(cpu, EXC_TS, link & ~3u);
        }
        x86_task_switch(cpu, link, TASK_SWITCH_IRET, next_rip, false, 0);
        x86_nmi_unblock(cpu);
        return;
    }
    Stack s = stack_current(cpu);
    bool from64 = in_64bit_mode(cpu);
    uint64_t offset = stack_pop(&s, operand_size);
    uint16_t selector = (uint16_t)stack_pop(&s, operand_size);
    uint64_t flags = stack_pop(&s, operand_size);

    if (operand_size == 4 && (flags & FLAG_VM) && cpu->cpl == 0 && !in_long_mode(cpu)) {
        iret_to_vm86(cpu, &s, offset, selector, flags);
        return;
    }
    Descriptor code = check_return_cs(cpu, selector), ss_descriptor = { 0 };
    bool to64 = in_long_mode(cpu) && (code.high & DESC_L);
    unsigned level = selector & 3u;
    uint64_t new_flags = iret_flags(cpu, flags, operand_size, false);
    if (level == cpu->cpl && !from64) {
        offset = code_check_target(cpu, code, offset, 0);
        finish_return(cpu, selector, code, false, 0, false, ss_descriptor,
                      stack_pointer(&s, cpu->regs[R_RSP]), offset);
    } else {
        /* An outer level, or any return of 64-bit mode: SS:RSP come too. */
        uint64_t sp = stack_pop(&s, operand_size);
        uint16_t ss = (uint16_t)stack_pop(&s, operand_size);
        bool present = check_return_ss(cpu, ss, level, to64 && level != 3, &ss_descriptor);
        offset = code_check_target(cpu, code, offset, 0);
        finish_return(cpu, selector, code, true, ss, present, ss_descriptor,
                      merge_sp(ss_descriptor, to64, cpu->regs[R_RSP], truncate_offset(sp, operand_size)),
                      offset);
    }
    x86_set_rflags(cpu, new_flags);
    x86_nmi_unblock(cpu);
}
