/*
 * Hardware task switches, SDM vol. 3 chapter 7. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/segment.h"
#include "arch/x86/system.h"

/* The two layouts of a task-state segment (figures 7-2 and 7-10). */
typedef struct TssLayout {
    unsigned limit, word; /* smallest limit; size of a register's field */
    unsigned link, cr3, ip, flags, regs, segs, seg_step, seg_count, ldt, trap;
} TssLayout;
static const TssLayout layout32 = { 0x67, 4, 0, 0x1c, 0x20, 0x24, 0x28, 0x48, 4, 6, 0x60, 0x64 };
static const TssLayout layout16 = { 0x2b, 2, 0, 0, 0x0e, 0x10, 0x12, 0x22, 2, 4, 0x2a, 0 };

typedef struct TaskState {
    uint32_t cr3, ip, flags, regs[8];
    uint16_t segs[6], ldt;
    bool trap;
} TaskState;

static uint32_t load(X86Cpu *cpu, uint64_t address, unsigned size)
{
    address &= UINT32_MAX;
    return size == 2 ? x86_ld16_idx(cpu, address, MMU_KERNEL) : x86_ld32_idx(cpu, address, MMU_KERNEL);
}

static void store(X86Cpu *cpu, uint64_t address, unsigned size, uint32_t value)
{
    address &= UINT32_MAX;
    if (size == 2) {
        x86_st16_idx(cpu, address, (uint16_t)value, MMU_KERNEL);
    } else {
        x86_st32_idx(cpu, address, value, MMU_KERNEL);
    }
}

static void read_task(X86Cpu *cpu, uint64_t base, const TssLayout *l, TaskState *t)
{
    memset(t, 0, sizeof(*t));
    if (l->cr3 != 0) {
        t->cr3 = load(cpu, base + l->cr3, 4);
        t->trap = load(cpu, base + l->trap, 2) & 1;
    }
    t->ip = load(cpu, base + l->ip, l->word);
    t->flags = load(cpu, base + l->flags, l->word);
    for (unsigned i = 0; i < 8; i++) {
        t->regs[i] = load(cpu, base + l->regs + i * l->word, l->word);
    }
    for (unsigned i = 0; i < l->seg_count; i++) {
        t->segs[i] = (uint16_t)load(cpu, base + l->segs + i * l->seg_step, 2);
    }
    t->ldt = (uint16_t)load(cpu, base + l->ldt, 2);
}

static void save_task(X86Cpu *cpu, uint64_t base, const TssLayout *l, uint32_t ip, uint32_t flags)
{
    store(cpu, base + l->ip, l->word, ip);
    store(cpu, base + l->flags, l->word, flags);
    for (unsigned i = 0; i < 8; i++) {
        store(cpu, base + l->regs + i * l->word, l->word, (uint32_t)cpu->regs[i]);
    }
    for (unsigned i = 0; i < l->seg_count; i++) {
        store(cpu, base + l->segs + i * l->seg_step, 2, cpu->segs[i].selector);
    }
}

static void set_busy(X86Cpu *cpu, uint16_t selector, bool busy)
{
    uint64_t address = (cpu->gdt.base + (selector & 0xfff8) + 5) & UINT32_MAX;
    uint8_t byte = x86_ld8_idx(cpu, address, MMU_KERNEL);

    x86_st8_idx(cpu, address, busy ? byte | 2 : byte & ~2, MMU_KERNEL);
}

/* Loads the segment registers of the new task; faults belong to it (7.3, table 7-1). */
static void load_task_segments(X86Cpu *cpu, const TaskState *t)
{
    Descriptor d;

    if (!selector_is_null(t->ldt)) {
        if ((t->ldt & 4) || !descriptor_read(cpu, t->ldt, &d) || (d.high & DESC_S) ||
            descriptor_type(d) != DESC_LDT || !(d.high & DESC_P)) {
            x86_raise_error(cpu, EXC_TS, t->ldt & ~3u);
        }
        segment_set(cpu, SEG_LDTR, t->ldt, d);
    }
    if (t->flags & FLAG_VM) {
        for (int i = 0; i < SEG_COUNT; i++) {
            segment_set_vm86(cpu, i, t->segs[i]);
        }
        cpu->cpl = 3;
        return;
    }
    uint16_t cs = t->segs[SEG_CS], ss = t->segs[SEG_SS];
    unsigned cpl = cs & 3;
    cpu->cpl = (uint8_t)cpl;
    uint32_t error = ss & ~3u;
    if (selector_is_null(ss) || !descriptor_read(cpu, ss, &d) || (ss & 3u) != cpl ||
        descriptor_dpl(d) != cpl || !descriptor_is_writable_data(d)) {
        x86_raise_error(cpu, EXC_TS, error);
    }
    if (!(d.high & DESC_P)) {
        x86_raise_error(cpu, EXC_SS, error);
    }
    descriptor_set_accessed(cpu, ss, &d);
    segment_set(cpu, SEG_SS, ss, d);
    static const int data_segments[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
    for (unsigned i = 0; i < G_N_ELEMENTS(data_segments); i++) {
        uint16_t selector = t->segs[data_segments[i]];
        if (selector_is_null(selector)) {
            continue;
        }
        error = selector & ~3u;
        if (!descriptor_read(cpu, selector, &d) || !(d.high & DESC_S) ||
            (descriptor_is_code(d) && !(d.high & DESC_R))) {
            x86_raise_error(cpu, EXC_TS, error);
        }
        bool conforming = descriptor_is_code(d) && (d.high & DESC_C);
        if (!conforming && (descriptor_dpl(d) < cpl || descriptor_dpl(d) < (selector & 3u))) {
            x86_raise_error(cpu, EXC_TS, error);
        }
        if (!(d.high & DESC_P)) {
            x86_raise_error(cpu, EXC_NP, error);
        }
        descriptor_set_accessed(cpu, selector, &d);
        segment_set(cpu, data_segments[i], selector, d);
    }
    error = cs & ~3u;
    if (selector_is_null(cs) || !descriptor_read(cpu, cs, &d) || !descriptor_is_code(d) ||
        ((d.high & DESC_C) ? descriptor_dpl(d) > cpl : descriptor_dpl(d) != cpl)) {
        x86_raise_error(cpu, EXC_TS, error);
    }
    if (!(d.high & DESC_P)) {
        x86_raise_error(cpu, EXC_NP, error);
    }
    descriptor_set_accessed(cpu, cs, &d);
    segment_set_cs(cpu, cs, d, cpl);
}

static void finish_task(X86Cpu *cpu, const TaskState *t, unsigned word, bool has_error, uint32_t error)
{
    load_task_segments(cpu, t);
    x86_update_mode(cpu);
    if (has_error) {
        Stack s = stack_current(cpu);
        stack_push(&s, word, error);
        cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
    }
    if (cpu->rip > cpu->segs[SEG_CS].limit) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}

void x86_task_switch(X86Cpu *cpu, uint16_t selector, int reason, uint64_t next_rip, bool has_error,
                     uint32_t error)
{
    Descriptor d;
    unsigned ext = reason == TASK_SWITCH_GATE ? 1 : 0;
    uint32_t code = (selector & ~3u) | ext;
    int vector = reason == TASK_SWITCH_IRET ? EXC_TS : EXC_GP;

    if (in_long_mode(cpu)) {
        x86_raise_error(cpu, EXC_GP, code);
    }
    if (selector_is_null(selector) || (selector & 4) || !descriptor_read(cpu, selector, &d)) {
        x86_raise_error(cpu, vector, code);
    }
    unsigned type = descriptor_type(d);
    bool is32 = type & 8, busy = type & 2;
    if ((d.high & DESC_S) || (type & 5) != 1 || busy != (reason == TASK_SWITCH_IRET)) {
        x86_raise_error(cpu, vector, code);
    }
    if (!(d.high & DESC_P)) {
        x86_raise_error(cpu, EXC_NP, code);
    }
    const TssLayout *to = is32 ? &layout32 : &layout16;
    const X86Segment old_tr = cpu->segs[SEG_TR];
    const TssLayout *from = old_tr.attr & (8u << DESC_TYPE_SHIFT) ? &layout32 : &layout16;
    if (descriptor_limit(d) < to->limit) {
        x86_raise_error(cpu, EXC_TS, code);
    }
    if (old_tr.limit < from->limit) {
        x86_raise_error(cpu, EXC_TS, (old_tr.selector & ~3u) | ext);
    }
    uint64_t base = descriptor_base(d);
    TaskState next;
    read_task(cpu, base, to, &next);

    /* Everything that is written has to be reachable before anything is. */
    x86_probe_idx(cpu, old_tr.base & UINT32_MAX, from->limit + 1, MMU_WRITE, MMU_KERNEL);
    uint64_t old_flags = x86_get_rflags(cpu);
    if (reason == TASK_SWITCH_IRET) {
        old_flags &= ~(uint64_t)FLAG_NT;
    }
    save_task(cpu, old_tr.base, from, (uint32_t)next_rip, (uint32_t)old_flags);
    if (reason == TASK_SWITCH_JMP || reason == TASK_SWITCH_IRET) {
        set_busy(cpu, old_tr.selector, false);
    }
    if (reason == TASK_SWITCH_CALL || reason == TASK_SWITCH_GATE) {
        store(cpu, base + to->link, 2, old_tr.selector);
        next.flags |= FLAG_NT;
    }
    if (reason != TASK_SWITCH_IRET) {
        set_busy(cpu, selector, true);
        d.high |= 2u << DESC_TYPE_SHIFT;
    }

    /* From here on it is the new task that runs, and that meets the faults. */
    segment_set(cpu, SEG_TR, selector, d);
    cpu->cr0 |= CR0_TS;
    if (is32 && (cpu->cr0 & CR0_PG)) {
        cpu->cr3 = next.cr3;
        mmu_switch(cpu, cpu->cr3, false);
    }
    for (unsigned i = 0; i < 8; i++) {
        cpu->regs[i] = is32 ? next.regs[i] : (cpu->regs[i] & ~UINT64_C(0xffff)) | next.regs[i];
    }
    cpu->rip = next.ip;
    cpu->segs[SEG_LDTR] = (X86Segment){ .selector = next.ldt };
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        cpu->segs[i] = (X86Segment){ .selector = next.segs[i] };
    }
    uint64_t flags = is32 ? next.flags : (old_flags & 0xffff0000) | next.flags;
    if (!is32) {
        flags &= ~(uint64_t)FLAG_VM;
        next.flags &= 0xffff;
    }
    cpu->cpl = flags & FLAG_VM ? 3 : next.segs[SEG_CS] & 3;
    x86_set_rflags(cpu, (flags & 0x3f7fd7) | FLAG_ONE);
    debug_on_task_switch(cpu, next.trap);

    sigjmp_buf *outer = cpu->fault_return;
    sigjmp_buf here;
    if (sigsetjmp(here, 0) == 0) {
        cpu->fault_return = &here;
        finish_task(cpu, &next, to->word, has_error, error);
        cpu->fault_return = outer;
    } else {
        cpu->fault_return = outer;
        x86_update_mode(cpu);
        x86_deliver(cpu, EVENT_EXCEPTION, cpu->exc.vector, cpu->exc.has_error, cpu->exc.error_code);
    }
}
