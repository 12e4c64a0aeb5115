/*
 * Instructions whose work is arch/x86/system.h's: operands are read here, with current_op set; then cpu->rip
 * becomes the instruction's own address and the function is called; then the block is left.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/ops.h"

/* From here on an exception belongs to cpu->rip as it stands. */
#define SYSTEM_BEGIN()                        \
    uint64_t next_rip = op_next_rip(cpu, op); \
    cpu->rip = ip_mask(cpu, op_rip(cpu, op)); \
    cpu->current_op = NULL;                   \
    (void)next_rip
/* Goes on behind the instruction, over the dispatcher, which looks at everything anew. */
#define SYSTEM_END()         \
    do {                     \
        cpu->rip = next_rip; \
        return;              \
    } while (0)
/* The same where neither interrupt shadows nor HLT are at stake. */
#define SYSTEM_END_FAST()    \
    do {                     \
        cpu->rip = next_rip; \
        interp_jump(cpu);    \
        return;              \
    } while (0)

static unsigned full_size(const X86Cpu *cpu)
{
    return cpu->mode & MODE_CS64 ? 8 : 4;
}

/* The 16-bit operand of Ew. */
static uint16_t read_word(X86Cpu *cpu, const InterpOp *op)
{
    cpu->current_op = op;
    return op_is_memory(op) ? x86_ld16(cpu, op_linear(cpu, op, 2, false)) : *reg16(cpu, op->rm);
}
/* Stores a selector or the like: 16 bits to memory, the operand size to a register. */
static void write_word(X86Cpu *cpu, const InterpOp *op, uint64_t value)
{
    cpu->current_op = op;
    if (op_is_memory(op)) {
        x86_st16(cpu, op_linear(cpu, op, 2, true), (uint16_t)value);
    } else {
        reg_write(cpu, op->rm, value, op_size(op));
    }
}
static void set_zf(X86Cpu *cpu, bool set)
{
    cpu->cc = (uint16_t)((cpu->cc & ~CC_ZF) | (set ? CC_ZF : 0));
}

/* ---- segment registers ---- */
HANDLER(g_mov_from_seg)
{
    cpu->current_op = op;
    if (op->reg >= SEG_COUNT) {
        x86_raise(cpu, EXC_UD);
    }
    write_word(cpu, op, cpu->segs[op->reg].selector);
    NEXT();
}
HANDLER(g_mov_to_seg)
{
    cpu->current_op = op;
    if (op->reg >= SEG_COUNT || op->reg == SEG_CS) {
        x86_raise(cpu, EXC_UD);
    }
    uint16_t selector = read_word(cpu, op);
    int seg = op->reg;
    SYSTEM_BEGIN();
    x86_load_segment(cpu, seg, selector);
    SYSTEM_END();
}
HANDLER(g_push_seg)
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint16_t selector = cpu->segs[op_form(op)->operands[0].number].selector;
    if (size == 4 && !(cpu->mode & MODE_CS64)) {
        /* Processors write 16 bits of the slot only. */
        uint64_t sp = cpu->regs[R_RSP] - 4;
        x86_st16(cpu, stack_linear(cpu, sp, 4, true), selector);
        stack_set(cpu, sp);
    } else {
        push(cpu, selector, size);
    }
    NEXT();
}
HANDLER(g_pop_seg)
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    int seg = op_form(op)->operands[0].number;
    uint16_t selector = (uint16_t)load(cpu, stack_linear(cpu, cpu->regs[R_RSP], size, false), 2);
    uint64_t sp = cpu->regs[R_RSP] + size, mask = stack_mask(cpu);
    SYSTEM_BEGIN();
    x86_load_segment(cpu, seg, selector);
    cpu->regs[R_RSP] = (cpu->regs[R_RSP] & ~mask) | (sp & mask); /* by the old SS.B */
    SYSTEM_END();
}
static void load_far_segment(X86Cpu *cpu, const InterpOp *op, int seg)
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint64_t linear = op_linear(cpu, op, size + 2, false);
    uint64_t offset = load(cpu, linear, size);
    uint16_t selector = x86_ld16(cpu, linear + size);
    SYSTEM_BEGIN();
    x86_load_segment(cpu, seg, selector);
    reg_write(cpu, op->reg, offset, size);
    SYSTEM_END();
}
#define LOAD_FAR(name, seg)             \
    HANDLER(g_##name)                   \
    {                                   \
        load_far_segment(cpu, op, seg); \
    }
LOAD_FAR(lds, SEG_DS)
LOAD_FAR(les, SEG_ES)
LOAD_FAR(lss, SEG_SS)
LOAD_FAR(lfs, SEG_FS)
LOAD_FAR(lgs, SEG_GS)

/* ---- far transfers ---- */
static void far_pointer(X86Cpu *cpu, const InterpOp *op, uint16_t *selector, uint64_t *offset)
{
    unsigned size = op_size(op);
    cpu->current_op = op;
    if (op_form(op)->operands[0].kind == X86_OPERAND_A) {
        *selector = (uint16_t)op->disp;
        *offset = (uint64_t)op->imm;
        return;
    }
    uint64_t linear = op_linear(cpu, op, size + 2, false);
    *offset = load(cpu, linear, size);
    *selector = x86_ld16(cpu, linear + size);
}
HANDLER(g_jmp_far)
{
    uint16_t selector;
    uint64_t offset;
    far_pointer(cpu, op, &selector, &offset);
    SYSTEM_BEGIN();
    x86_far_jump(cpu, selector, offset, op_size(op), next_rip);
}
HANDLER(g_call_far)
{
    uint16_t selector;
    uint64_t offset;
    far_pointer(cpu, op, &selector, &offset);
    SYSTEM_BEGIN();
    x86_far_call(cpu, selector, offset, op_size(op), next_rip);
}
HANDLER(g_ret_far)
{
    SYSTEM_BEGIN();
    x86_far_return(cpu, op_size(op), (unsigned)op->imm);
}
/* After IF, TF, RF or the blocking of NMI may have changed: what waits may now be taken, and a trap may be
 * due. */
static void return_to(X86Cpu *cpu)
{
    if (!(cpu->rflags & (FLAG_RF | FLAG_TF)) && !__atomic_load_n(&cpu->interrupt_request, __ATOMIC_RELAXED)) {
        interp_jump(cpu);
    }
}
HANDLER(g_iret)
{
    SYSTEM_BEGIN();
    x86_iret(cpu, op_size(op), next_rip);
    return_to(cpu);
}
/* Software interrupts clear TF before its trap could come. */
static void event_taken(X86Cpu *cpu)
{
    ((Interp *)cpu->accel_data)->event_taken = true;
}
HANDLER(g_int)
{
    SYSTEM_BEGIN();
    event_taken(cpu);
    x86_int_n(cpu, (int)(uint8_t)op->imm, next_rip);
}
HANDLER(g_int3)
{
    SYSTEM_BEGIN();
    event_taken(cpu);
    x86_int3(cpu, next_rip);
}
HANDLER(g_into)
{
    SYSTEM_BEGIN();
    if (cpu->cc & CC_OF) {
        event_taken(cpu);
        x86_into(cpu, next_rip);
        return;
    }
    SYSTEM_END();
}
HANDLER(g_icebp)
{
    SYSTEM_BEGIN();
    event_taken(cpu);
    x86_icebp(cpu, next_rip);
}
HANDLER(g_syscall)
{
    SYSTEM_BEGIN();
    x86_syscall(cpu, next_rip);
    if (!(cpu->rflags & FLAG_TF)) {
        event_taken(cpu); /* masked by FMASK: no trap behind SYSCALL */
    }
    interp_jump(cpu);
}
HANDLER(g_sysret)
{
    SYSTEM_BEGIN();
    x86_sysret(cpu, op_size(op));
    return_to(cpu);
}
HANDLER(g_sysenter)
{
    SYSTEM_BEGIN();
    x86_sysenter(cpu);
}
HANDLER(g_sysexit)
{
    SYSTEM_BEGIN();
    x86_sysexit(cpu, op_size(op));
}
HANDLER(g_rsm)
{
    SYSTEM_BEGIN();
    x86_rsm(cpu);
}

/* Instructions without operands. */
#define PLAIN(name, call, end) \
    HANDLER(g_##name)          \
    {                          \
        SYSTEM_BEGIN();        \
        call;                  \
        end();                 \
    }
PLAIN(swapgs, x86_swapgs(cpu), SYSTEM_END_FAST)
PLAIN(clts, x86_clts(cpu), SYSTEM_END_FAST)
PLAIN(invd, x86_invd(cpu), SYSTEM_END_FAST)
PLAIN(hlt, x86_hlt(cpu), SYSTEM_END)
PLAIN(mwait, x86_mwait(cpu), SYSTEM_END)
PLAIN(vmcall, x86_vmcall(cpu), SYSTEM_END)
PLAIN(xgetbv, x86_xgetbv(cpu), SYSTEM_END_FAST)
PLAIN(xsetbv, x86_xsetbv(cpu), SYSTEM_END)
PLAIN(rdpkru, x86_rdpkru(cpu), SYSTEM_END)
PLAIN(wrpkru, x86_wrpkru(cpu), SYSTEM_END)
PLAIN(rdmsr, x86_rdmsr(cpu), SYSTEM_END_FAST)
PLAIN(wrmsr, x86_wrmsr(cpu), SYSTEM_END_FAST)
PLAIN(cpuid, x86_cpuid(cpu), SYSTEM_END_FAST)
PLAIN(rdtsc, x86_rdtsc(cpu), SYSTEM_END_FAST)
PLAIN(rdtscp, x86_rdtscp(cpu), SYSTEM_END_FAST)
PLAIN(rdpmc, x86_rdpmc(cpu), SYSTEM_END_FAST)
PLAIN(clac, x86_clac_stac(cpu, false), SYSTEM_END_FAST)
PLAIN(stac, x86_clac_stac(cpu, true), SYSTEM_END_FAST)
PLAIN(sti, x86_sti(cpu), SYSTEM_END)
PLAIN(rdpid, x86_rdpid(cpu, op->rm), SYSTEM_END_FAST)

HANDLER(g_cli)
{
    if ((cpu->mode & MODE_IOPL_OK) && (cpu->mode & (MODE_PE | MODE_VM86)) != (MODE_PE | MODE_VM86)) {
        cpu->rflags &= ~(uint64_t)FLAG_IF;
        NEXT();
    }
    uint64_t block = cpu->rip;
    SYSTEM_BEGIN();
    x86_cli(cpu);
    cpu->rip = block;
    NEXT();
}
HANDLER(g_pause)
{
    if (interrupt_wanted(cpu)) {
        cpu->rip = op_next_rip(cpu, op);
        return;
    }
    __asm__ volatile("pause");
    JUMP_TO(op_next_rip(cpu, op));
}
HANDLER(g_monitor)
{
    cpu->current_op = op;
    if (cpu->cpl != 0) {
        x86_raise(cpu, EXC_UD);
    }
    uint64_t linear = linear_address(cpu, op->segment, cpu->regs[R_RAX] & address_mask(op), 1, false);
    SYSTEM_BEGIN();
    x86_monitor(cpu, linear);
    SYSTEM_END_FAST();
}

/* ---- flags ---- */
HANDLER(g_pushf)
{
    uint64_t block = cpu->rip;
    unsigned size = op_size(op);
    SYSTEM_BEGIN();
    uint64_t value = x86_pushf(cpu, size);
    cpu->rip = block;
    cpu->current_op = op;
    push(cpu, value, size);
    NEXT();
}
HANDLER(g_popf)
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint64_t value = stack_top(cpu, size), sp = cpu->regs[R_RSP] + size;
    bool was_enabled = cpu->rflags & FLAG_IF;
    SYSTEM_BEGIN();
    x86_popf(cpu, value, size);
    stack_set(cpu, sp);
    cpu->rip = next_rip;
    if (was_enabled || !(cpu->rflags & (FLAG_IF | FLAG_TF))) {
        interp_jump(cpu);
    }
}

/* ---- port I/O ---- */
HANDLER(g_in)
{
    const X86Form *form = op_form(op);
    uint16_t port = form->operands[1].kind == X86_OPERAND_I ? (uint8_t)op->imm : *reg16(cpu, R_RDX);
    unsigned size = form->operands[0].size == X86_SIZE_B ? 1 : MIN(op_size(op), 4);
    SYSTEM_BEGIN();
    reg_write(cpu, R_RAX, x86_in(cpu, port, size), size);
    SYSTEM_END();
}
HANDLER(g_out)
{
    const X86Form *form = op_form(op);
    uint16_t port = form->operands[0].kind == X86_OPERAND_I ? (uint8_t)op->imm : *reg16(cpu, R_RDX);
    unsigned size = form->operands[1].size == X86_SIZE_B ? 1 : MIN(op_size(op), 4);
    SYSTEM_BEGIN();
    x86_out(cpu, port, (uint32_t)reg_read(cpu, R_RAX, size), size);
    SYSTEM_END();
}

/* ---- FS and GS bases ---- */
static void check_fsgsbase(X86Cpu *cpu, const InterpOp *op)
{
    cpu->current_op = op;
    if (!(cpu->cr4 & CR4_FSGSBASE)) {
        x86_raise(cpu, EXC_UD);
    }
}
HANDLER(g_rdfsgsbase)
{
    check_fsgsbase(cpu, op);
    int seg = op_form(op)->mnemonic == X86_RDFSBASE ? SEG_FS : SEG_GS;
    reg_write(cpu, op->rm, cpu->segs[seg].base, op_size(op) == 8 ? 8 : 4);
    NEXT();
}
HANDLER(g_wrfsgsbase)
{
    check_fsgsbase(cpu, op);
    int seg = op_form(op)->mnemonic == X86_WRFSBASE ? SEG_FS : SEG_GS;
    uint64_t value = reg_read(cpu, op->rm, op_size(op) == 8 ? 8 : 4);
    if (!is_canonical(value)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    cpu->segs[seg].base = value;
    JUMP_TO(op_next_rip(cpu, op));
}

/* ---- descriptor tables ---- */
static void check_cpl0(X86Cpu *cpu, const InterpOp *op)
{
    cpu->current_op = op;
    if (cpu->cpl != 0) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}
static void umip(X86Cpu *cpu, const InterpOp *op)
{
    cpu->current_op = op;
    x86_umip_check(cpu);
}
HANDLER(g_sldt)
{
    umip(cpu, op);
    write_word(cpu, op, cpu->segs[SEG_LDTR].selector);
    NEXT();
}
HANDLER(g_str)
{
    umip(cpu, op);
    write_word(cpu, op, cpu->segs[SEG_TR].selector);
    NEXT();
}
HANDLER(g_smsw)
{
    umip(cpu, op);
    write_word(cpu, op, cpu->cr0);
    NEXT();
}
HANDLER(g_lldt)
{
    check_cpl0(cpu, op);
    uint16_t selector = read_word(cpu, op);
    SYSTEM_BEGIN();
    x86_lldt(cpu, selector);
    SYSTEM_END_FAST();
}
HANDLER(g_ltr)
{
    check_cpl0(cpu, op);
    uint16_t selector = read_word(cpu, op);
    SYSTEM_BEGIN();
    x86_ltr(cpu, selector);
    SYSTEM_END_FAST();
}
HANDLER(g_lmsw)
{
    check_cpl0(cpu, op);
    uint16_t value = read_word(cpu, op);
    SYSTEM_BEGIN();
    x86_lmsw(cpu, value);
    SYSTEM_END();
}
static void verify(X86Cpu *cpu, const InterpOp *op, bool write)
{
    uint16_t selector = read_word(cpu, op);
    set_zf(cpu, x86_verify(cpu, selector, write));
}
HANDLER(g_verr)
{
    verify(cpu, op, false);
    NEXT();
}
HANDLER(g_verw)
{
    verify(cpu, op, true);
    NEXT();
}
HANDLER(g_lar)
{
    { /* a scope of its own: else its locals keep NEXT() from being a jump */
        uint32_t rights;
        uint16_t selector = read_word(cpu, op);
        bool ok = x86_lar(cpu, selector, &rights);
        if (ok) {
            reg_write(cpu, op->reg, rights, op_size(op));
        }
        set_zf(cpu, ok);
    }
    NEXT();
}
HANDLER(g_lsl)
{
    { /* a scope of its own: else its locals keep NEXT() from being a jump */
        uint32_t limit;
        uint16_t selector = read_word(cpu, op);
        bool ok = x86_lsl(cpu, selector, &limit);
        if (ok) {
            reg_write(cpu, op->reg, limit, op_size(op));
        }
        set_zf(cpu, ok);
    }
    NEXT();
}
static void store_table(X86Cpu *cpu, const InterpOp *op, const X86Table *table)
{
    umip(cpu, op);
    unsigned size = full_size(cpu);
    uint64_t linear = op_linear(cpu, op, size + 2, true);
    x86_probe(cpu, linear, size + 2, MMU_WRITE);
    x86_st16(cpu, linear, table->limit);
    store(cpu, linear + 2, table->base, size);
}
HANDLER(g_sgdt)
{
    store_table(cpu, op, &cpu->gdt);
    NEXT();
}
HANDLER(g_sidt)
{
    store_table(cpu, op, &cpu->idt);
    NEXT();
}
static void load_table(X86Cpu *cpu, const InterpOp *op, X86Table *table)
{
    check_cpl0(cpu, op);
    unsigned size = full_size(cpu);
    uint64_t linear = op_linear(cpu, op, size + 2, false);
    uint16_t limit = x86_ld16(cpu, linear);
    uint64_t base = load(cpu, linear + 2, size);
    if (size == 4 && op_size(op) == 2) {
        base &= 0xffffff;
    }
    if (size == 8 && !is_canonical(base)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    table->base = base;
    table->limit = limit;
}
HANDLER(g_lgdt)
{
    load_table(cpu, op, &cpu->gdt);
    JUMP_TO(op_next_rip(cpu, op));
}
HANDLER(g_lidt)
{
    load_table(cpu, op, &cpu->idt);
    JUMP_TO(op_next_rip(cpu, op));
}

/* ---- paging and control registers ---- */
HANDLER(g_invlpg)
{
    check_cpl0(cpu, op);
    uint64_t ea = op_effective(cpu, op);
    uint64_t linear =
        ea + (op->segment >= SEG_FS || !(cpu->mode & MODE_CS64) ? cpu->segs[op->segment].base : 0);
    if (!(cpu->mode & MODE_CS64)) {
        linear = (uint32_t)linear;
    }
    SYSTEM_BEGIN();
    x86_invlpg(cpu, linear);
    SYSTEM_END_FAST();
}
HANDLER(g_invpcid)
{
    check_cpl0(cpu, op);
    uint64_t linear = op_linear(cpu, op, 16, false);
    uint64_t type = reg_read(cpu, op->reg, full_size(cpu));
    SYSTEM_BEGIN();
    x86_invpcid(cpu, type, linear);
    SYSTEM_END_FAST();
}
HANDLER(g_mov_from_cr)
{
    unsigned size = full_size(cpu);
    SYSTEM_BEGIN();
    uint64_t value = x86_read_cr(cpu, op->reg);
    reg_write(cpu, op->rm, value, size);
    SYSTEM_END_FAST();
}
HANDLER(g_mov_to_cr)
{
    uint64_t value = reg_read(cpu, op->rm, full_size(cpu));
    SYSTEM_BEGIN();
    x86_write_cr(cpu, op->reg, value);
    SYSTEM_END_FAST();
}
HANDLER(g_mov_from_dr)
{
    unsigned size = full_size(cpu);
    SYSTEM_BEGIN();
    uint64_t value = x86_read_dr(cpu, op->reg);
    reg_write(cpu, op->rm, value, size);
    SYSTEM_END_FAST();
}
HANDLER(g_mov_to_dr)
{
    uint64_t value = reg_read(cpu, op->rm, full_size(cpu));
    SYSTEM_BEGIN();
    x86_write_dr(cpu, op->reg, value);
    SYSTEM_END();
}

InterpHandler *interp_system_handler(const X86Form *form)
{
    switch (form->mnemonic) {
    case X86_MOV_FROM_SEG:
        return g_mov_from_seg;
    case X86_MOV_TO_SEG:
        return g_mov_to_seg;
    case X86_PUSH_SEG:
        return g_push_seg;
    case X86_POP_SEG:
        return g_pop_seg;
    case X86_LDS:
        return g_lds;
    case X86_LES:
        return g_les;
    case X86_LSS:
        return g_lss;
    case X86_LFS:
        return g_lfs;
    case X86_LGS:
        return g_lgs;
    case X86_JMP_FAR:
        return g_jmp_far;
    case X86_CALL_FAR:
        return g_call_far;
    case X86_RET_FAR:
        return g_ret_far;
    case X86_IRET:
        return g_iret;
    case X86_INT:
        return g_int;
    case X86_INT3:
        return g_int3;
    case X86_INTO:
        return g_into;
    case X86_ICEBP:
        return g_icebp;
    case X86_SYSCALL:
        return g_syscall;
    case X86_SYSRET:
        return g_sysret;
    case X86_SYSENTER:
        return g_sysenter;
    case X86_SYSEXIT:
        return g_sysexit;
    case X86_RSM:
        return g_rsm;
    case X86_SWAPGS:
        return g_swapgs;
    case X86_CLTS:
        return g_clts;
    case X86_INVD:
        return g_invd;
    case X86_HLT:
        return g_hlt;
    case X86_MWAIT:
        return g_mwait;
    case X86_MONITOR:
        return g_monitor;
    case X86_VMCALL:
        return g_vmcall;
    case X86_XGETBV:
        return g_xgetbv;
    case X86_XSETBV:
        return g_xsetbv;
    case X86_RDPKRU:
        return g_rdpkru;
    case X86_WRPKRU:
        return g_wrpkru;
    case X86_RDMSR:
        return g_rdmsr;
    case X86_WRMSR:
        return g_wrmsr;
    case X86_CPUID:
        return g_cpuid;
    case X86_RDTSC:
        return g_rdtsc;
    case X86_RDTSCP:
        return g_rdtscp;
    case X86_RDPMC:
        return g_rdpmc;
    case X86_RDPID:
        return g_rdpid;
    case X86_CLAC:
        return g_clac;
    case X86_STAC:
        return g_stac;
    case X86_CLI:
        return g_cli;
    case X86_STI:
        return g_sti;
    case X86_PAUSE:
        return g_pause;
    case X86_PUSHF:
        return g_pushf;
    case X86_POPF:
        return g_popf;
    case X86_IN:
        return g_in;
    case X86_OUT:
        return g_out;
    case X86_RDFSBASE:
    case X86_RDGSBASE:
        return g_rdfsgsbase;
    case X86_WRFSBASE:
    case X86_WRGSBASE:
        return g_wrfsgsbase;
    case X86_SLDT:
        return g_sldt;
    case X86_STR:
        return g_str;
    case X86_SMSW:
        return g_smsw;
    case X86_LLDT:
        return g_lldt;
    case X86_LTR:
        return g_ltr;
    case X86_LMSW:
        return g_lmsw;
    case X86_VERR:
        return g_verr;
    case X86_VERW:
        return g_verw;
    case X86_LAR:
        return g_lar;
    case X86_LSL:
        return g_lsl;
    case X86_SGDT:
        return g_sgdt;
    case X86_SIDT:
        return g_sidt;
    case X86_LGDT:
        return g_lgdt;
    case X86_LIDT:
        return g_lidt;
    case X86_INVLPG:
        return g_invlpg;
    case X86_INVPCID:
        return g_invpcid;
    case X86_MOV_FROM_CR:
        return g_mov_from_cr;
    case X86_MOV_TO_CR:
        return g_mov_to_cr;
    case X86_MOV_FROM_DR:
        return g_mov_from_dr;
    case X86_MOV_TO_DR:
        return g_mov_to_dr;
    case X86_UD0:
    case X86_UD1:
    case X86_UD2:
        return interp_h_ud;
    default:
        return NULL;
    }
}
