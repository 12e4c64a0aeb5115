/*
 * The pieces of code between C and translated blocks: made once, at the start of the code memory.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/jit.h"

#include <stddef.h>

#define CPU(field)  mem_cpu(offsetof(X86Cpu, field))
#define AREA(field) mem_cpu(offsetof(X86Cpu, jit) + offsetof(JitArea, field))
#define HOT(field)  mem_cpu(offsetof(X86Cpu, jit_hot) + offsetof(JitHot, field))
#define REG(n)      mem_cpu(offsetof(X86Cpu, regs) + 8u * (n))

static void save_registers(Asm *a)
{
    for (unsigned g = 0; g < 16; g++) {
        if (jit_home[g] >= 0) {
            a_mov_store(a, REG(g), (unsigned)jit_home[g]);
        }
    }
}

static void load_registers(Asm *a)
{
    for (unsigned g = 0; g < 16; g++) {
        if (jit_home[g] >= 0) {
            a_mov_load(a, (unsigned)jit_home[g], REG(g));
        }
    }
    a_mov_load(a, SD, HOT(stack_delta));
}

static const uint8_t callee_saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static void a_push(Asm *a, unsigned reg)
{
    if (reg > 7) {
        a_byte(a, 0x41);
    }
    a_byte(a, 0x50 | (reg & 7));
}
static void a_pop(Asm *a, unsigned reg)
{
    if (reg > 7) {
        a_byte(a, 0x41);
    }
    a_byte(a, 0x58 | (reg & 7));
}

/* jmp reg */
static void jump_reg(Asm *a, unsigned reg)
{
    a_op_reg(a, false, 0xff, 4, reg);
}

/* call of a C function; clobbers rax. */
static void call_c(Asm *a, const void *function)
{
    a_mov_imm64(a, H_RAX, (uint64_t)(uintptr_t)function);
    a_op_reg(a, false, 0xff, 2, H_RAX);
}

/* mov dword [exit_reason], reason; jmp leave */
static void leave_with(Asm *a, const JitThunks *t, JitExit reason)
{
    a_mov_mem_imm32(a, AREA(exit_reason), reason);
    a_jmp(a, t->leave);
}

/* The same, with the guest address in T0 and exit_arg in T1. */
static uint8_t *leave_at(Asm *a, const JitThunks *t, JitExit reason)
{
    uint8_t *start = a->p;
    a_mov_store(a, CPU(rip), T0);
    a_mov_store(a, AREA(exit_arg), T1);
    leave_with(a, t, reason);
    return start;
}

/* So that the C stack is aligned, below what is pushed. */
#define FRAME 8

static void make_enter(Asm *a)
{
    for (unsigned i = 0; i < sizeof(callee_saved); i++) {
        a_push(a, callee_saved[i]);
    }
    a_alu_imm(a, true, 5, H_RSP, FRAME);
    a_lea(a, BASE, mem_base(H_RDI, CPU_BIAS));
    a_mov_store(a, AREA(c_rsp), H_RSP);
    a_mov_store(a, AREA(target), H_RSI);
    load_registers(a);
    a_op_mem(a, false, 0xff, 4, AREA(target)); /* jmp [target] */
}

static void make_leave(Asm *a)
{
    save_registers(a);
    a_mov_load(a, H_RSP, AREA(c_rsp));
    a_alu_imm(a, true, 0, H_RSP, FRAME);
    for (unsigned i = sizeof(callee_saved); i-- > 0;) {
        a_pop(a, callee_saved[i]);
    }
    a_byte(a, 0xc3);
}

/* Before a call of C: the state is complete behind it, but for the vector registers (x86_fpu_leave). */
static void enter_c(Asm *a)
{
    save_registers(a);
    a_lea(a, H_RDI, mem_cpu(0));
}

static void make_fpu_load(Asm *a)
{
    /* Called where T0 holds nothing and the flags are not in RFLAGS. */
    a_mov_store(a, AREA(tmp[0]), H_RAX);
    a_mov_store(a, AREA(tmp[1]), H_RDX);
    a_lea(a, T0, mem_cpu(0));
    a_op_mem(a, false, 0x8b, H_RAX, mem_base(T0, offsetof(X86Cpu, fpu_bv)));
    a_op_reg(a, false, 0x31, H_RDX, H_RDX);
    /* The header: XSTATE_BV says which components are in the image; others become zero. */
    a_op_mem(a, true, 0x89, H_RAX, mem_base(T0, offsetof(X86Cpu, xsave) + 512));
    a_op_mem(a, false, 0x8b, H_RAX, mem_base(T0, offsetof(X86Cpu, fpu_mask)));
    a_op_mem(a, true, 0x89, H_RDX, mem_base(T0, offsetof(X86Cpu, xsave) + 520));
    a_op_mem(a, true, 0x0fae, 5, mem_base(T0, offsetof(X86Cpu, xsave))); /* xrstor64 */
    a_mov_mem_imm32(a, CPU(fpu_stale), 0);
    a_mov_load(a, H_RAX, AREA(tmp[0]));
    a_mov_load(a, H_RDX, AREA(tmp[1]));
    a_byte(a, 0xc3);
}

/* See JitRefill. T0: the linear address. Clobbers T0 and T1. */
static void emit_refill(Asm *a, bool again)
{
    a_mov_load(a, T1, mem_base(H_RSP, 0));
    a_alu_imm(a, true, 5, H_RSP, 8);
    enter_c(a);
    a_mov_reg(a, H_RSI, T0);
    a_lea(a, H_RDX, mem_base(T1, 5));
    call_c(a, (const void *)jit_refill);
    a_alu_imm(a, true, 0, H_RSP, 8);
    a_op_reg(a, false, 0x85, H_RAX, H_RAX); /* test eax, eax */
    uint8_t *fail = a_jcc_forward(a, CC_NE);
    load_registers(a);
    uint8_t *on = NULL;
    if (again) {
        a_mov_load(a, T0, AREA(site_save[0]));
        on = a_jmp_forward(a);
    } else {
        a_byte(a, 0xc3);
    }
    a_bind(a, fail);
    load_registers(a);
    a_pop(a, T1);
    a_lea(a, T1, mem_base(T1, 5 + sizeof(JitRefill)));
    jump_reg(a, T1);
    if (on) {
        a_bind(a, on);
    }
}

/* The TLB, for a place (JitRefill.site) that did not have the page of T0: into it, and its delta into T1. T0
 * and all others stay. */
static void make_site(Asm *a, JitThunks *t, bool user, bool write)
{
    static const uint32_t size = sizeof(((X86Cpu *)0)->jit_sites[0]);
    uint64_t sites = offsetof(X86Cpu, jit_sites) + (user ? size : 0);
    uint64_t budgets = offsetof(X86Cpu, jit_budget) + (user ? sizeof(((X86Cpu *)0)->jit_budget[0]) : 0);
    unsigned tag = write ? 8 : 0;
    HostMem at = mem_cpu(budgets);

    G_STATIC_ASSERT(sizeof(((X86Cpu *)0)->jit_sites[0][0]) == 16);
    a_align(a, 16);
    t->site[user][write] = a->p;
    a_mov_store(a, AREA(site_save[0]), T0);
    a_mov_store(a, AREA(site_save[1]), H_RAX);
    a_mov_store(a, AREA(site_save[2]), H_RCX);
    a_mov_load(a, H_RAX, mem_base(H_RSP, 0));
    a_mov_reg(a, T1, T0);
    a_shr_imm(a, true, T1, 7);
    a_alu_imm(a, false, 4, T1, (TLB_SIZE - 1) << 5);
    a_op_mem(a, true, 0x03, T1, CPU(tlb));
    a_op_mem(a, false, 0x0fb7, H_RCX, mem_base(H_RAX, 5 + offsetof(JitRefill, limit)));
    a_op_mem(a, true, 0x2b, T0, mem_base(T1, tag));
    a_op_reg(a, true, 0x3b, T0, H_RCX);
    uint8_t *miss = a_jcc_forward(a, CC_A);
    a_op_mem(a, false, 0x0fb7, H_RCX, mem_base(H_RAX, 5 + offsetof(JitRefill, site)));
    a_mov_load(a, T0, mem_base(T1, tag));
    a_mov_load(a, T1, mem_base(T1, offsetof(TlbEntry, addend)));
    /* A place that goes from page to page all the time does better without. */
    at.index = H_RCX;
    at.scale = 2;
    a_op_mem(a, false, 0x83, 5, at);
    a_byte(a, 1);
    uint8_t *spent = a_jcc_forward(a, CC_E);
    uint8_t *not_yet = a->p;
    uint8_t *user_half = NULL;
    if (!user) {
        /* What SMAP lets through now it may not later. */
        a_op_reg(a, true, 0x85, T0, T0);
        user_half = a_jcc_forward(a, CC_NS);
    }
    if (write) {
        /* What was there may still be in use in the block: mmu_note_replaced(). */
        a_mov_load(a, H_RAX, CPU(mmu));
        a_op_mem(a, false, 0xc6, 0, mem_base(H_RAX, offsetof(X86Mmu, replaced)));
        a_byte(a, 1);
    }
    a_op_reg(a, false, 0x03, H_RCX, H_RCX);
    at = mem_cpu(sites);
    at.index = H_RCX;
    at.scale = 3;
    a_mov_store(a, at, T0);
    at.disp += 8;
    a_mov_store(a, at, T1);
    a_mov_mem_imm32(a, AREA(sites_used), 1);
    if (user_half) {
        a_bind(a, user_half);
    }
    a_mov_load(a, H_RAX, AREA(site_save[1]));
    a_mov_load(a, H_RCX, AREA(site_save[2]));
    a_mov_load(a, T0, AREA(site_save[0]));
    a_byte(a, 0xc3);
    a_bind(a, spent);
    a_op_mem(a, false, 0xf6, 0, mem_base(H_RAX, 5 + offsetof(JitRefill, flags))); /* test byte, imm8 */
    a_byte(a, JIT_REFILL_LOOP);
    a_bind_to(a_jcc_forward(a, CC_NE), not_yet);
    a_pop(a, T1);
    a_op_mem(a, false, 0x0fb7, T0, mem_base(H_RAX, 5 + offsetof(JitRefill, offset)));
    a_mov_load(a, H_RAX, AREA(site_save[1]));
    a_lea(a, H_RCX, mem_base(T0, 1));
    a_op_mem(a, false, 0x89, H_RCX, AREA(exit_info));
    a_mov_load(a, H_RCX, AREA(site_save[2]));
    a_op_mem(a, true, 0x03, T0, HOT(page_va));
    a_jmp(a, t->changed);
    a_bind(a, miss);
    a_mov_load(a, H_RAX, AREA(site_save[1]));
    a_mov_load(a, H_RCX, AREA(site_save[2]));
    a_mov_load(a, T0, AREA(site_save[0]));
    emit_refill(a, true);
    a_jmp(a, t->site[user][write]);
}

/* Back to C, with cpu->rip, the registers and exit_reason right as they are. */
static void make_unwind(Asm *a)
{
    a_mov_load(a, H_RSP, AREA(c_rsp));
    a_alu_imm(a, true, 0, H_RSP, FRAME);
    for (unsigned i = sizeof(callee_saved); i-- > 0;) {
        a_pop(a, callee_saved[i]);
    }
    a_byte(a, 0xc3);
}

static void make_return(Asm *a)
{
    a_mov_mem_imm32(a, AREA(exit_reason), JIT_EXIT_LOOKUP);
    make_unwind(a);
}

/* A look-up in C, whose exit_reason counts where it finds nothing. */
static void make_lookup(Asm *a, JitThunks *t)
{
    /* T0: the target, exit_info: the branch. */
    a_align(a, 16);
    t->indirect = a->p;
    a_mov_store(a, AREA(exit_arg), T0);
    enter_c(a);
    call_c(a, (const void *)jit_lookup_indirect);
    uint8_t *on = a_jmp_forward(a);
    /* Called; eight bytes with the JitLink's address follow. */
    a_align(a, 16);
    t->link = a->p;
    a_pop(a, T1);
    a_mov_load(a, T1, mem_base(T1, 0));
    enter_c(a);
    a_mov_reg(a, H_RSI, T1);
    call_c(a, (const void *)jit_follow);
    uint8_t *follow = a_jmp_forward(a);
    /* T1: JIT_FAR_INFO of the jump, which leads nowhere yet. */
    a_align(a, 16);
    t->far = a->p;
    a_mov_reg(a, T0, H_RAX);
    a_bytes(a, "\x9f\x0f\x90\xc0\x66", 5); /* lahf; seto al; the prefix of a 16-bit mov */
    a_op_mem(a, false, 0x89, H_RAX, AREA(far_cc));
    a_mov_reg(a, H_RAX, T0);
    a_mov_store(a, AREA(exit_arg), T1);
    enter_c(a);
    a_mov_load(a, H_RSI, AREA(exit_arg));
    call_c(a, (const void *)jit_far);
    uint8_t *far = a_jmp_forward(a);
    /* T0: the guest address, T1: where it is looked up, in vain. The entry beside it, perhaps. */
    a_align(a, 16);
    t->ibtc_miss = a->p;
    a_alu_imm(a, true, 6, T1, 1);
    a_op_mem(a, true, 0x39, T0, jit_ibtc_va());
    uint8_t *nowhere = a_jcc_forward(a, CC_NE);
    a_op_mem(a, false, 0xff, 4, jit_ibtc_code());
    a_align(a, 16);
    /* T0: the guest address. */
    t->stale = a->p;
    a_bind(a, nowhere);
    a_mov_store(a, CPU(rip), T0);
    enter_c(a);
    call_c(a, (const void *)jit_lookup);
    a_bind(a, on);
    a_bind(a, follow);
    a_bind(a, far);
    a_op_reg(a, true, 0x85, H_RAX, H_RAX);
    uint8_t *none = a_jcc_forward(a, CC_E);
    a_mov_reg(a, T1, H_RAX);
    load_registers(a);
    a_mov_load(a, T0, CPU(rip));
    jump_reg(a, T1);
    a_bind(a, none);
    make_unwind(a);
}

bool jit_thunks_make(Jit *jit, Asm *a)
{
    JitThunks *t = &jit->thunks;

    t->enter = (void (*)(X86Cpu *, const uint8_t *))(uintptr_t)jit_rx(jit, a->p);
    make_enter(a);
    a_align(a, 16);
    t->leave = a->p;
    make_leave(a);

    make_lookup(a, t);
    /* T1: JIT_FAR_INFO where a far jump has led here. */
    t->poll = leave_at(a, t, JIT_EXIT_POLL);
    /* T1: the block. */
    t->changed = leave_at(a, t, JIT_EXIT_CHANGED);
    t->far_windows = leave_at(a, t, JIT_EXIT_FAR_WINDOWS);
    t->step = a->p;
    a_mov_store(a, CPU(rip), T0);
    leave_with(a, t, JIT_EXIT_STEP);

    /* Called; a JitCareful follows. */
    t->careful = a->p;
    a_pop(a, T1);
    a_mov_store(a, AREA(exit_arg), T1);
    leave_with(a, t, JIT_EXIT_CAREFUL);

    a_align(a, 16);
    t->fpu_load = a->p;
    make_fpu_load(a);
    a_align(a, 16);
    t->refill = a->p;
    emit_refill(a, false);
    for (unsigned k = 0; k < 4; k++) {
        make_site(a, t, k >> 1, k & 1);
    }

    /* Called; eight bytes with the JitCallout's address follow, then the code to go on with. */
    a_align(a, 16);
    t->callout = a->p;
    a_pop(a, T1);
    enter_c(a);
    a_mov_load(a, H_RSI, mem_base(T1, 0));
    call_c(a, (const void *)jit_callout);
    a_op_reg(a, false, 0x85, H_RAX, H_RAX);
    uint8_t *leave = a_jcc_forward(a, CC_NE);
    load_registers(a);
    a_lea(a, T1, mem_base(T1, 8));
    jump_reg(a, T1);
    a_bind(a, leave);
    make_return(a);

    /* The same for an instruction that ends its block. */
    a_align(a, 16);
    t->callout_end = a->p;
    a_pop(a, T1);
    enter_c(a);
    a_mov_load(a, H_RSI, mem_base(T1, 0));
    call_c(a, (const void *)jit_callout_end);
    a_op_reg(a, false, 0x85, H_RAX, H_RAX);
    leave = a_jcc_forward(a, CC_NE);
    load_registers(a);
    a_mov_load(a, T0, CPU(rip));
    t->chain = a->p;
    jit_emit_ibtc(a);
    a_op_mem(a, true, 0x39, T0, jit_ibtc_va());
    uint8_t *miss = a_jcc_forward(a, CC_NE);
    a_op_mem(a, false, 0xff, 4, jit_ibtc_code());
    a_bind_to(miss, t->ibtc_miss);
    a_bind(a, leave);
    make_return(a);
    a_align(a, 64);
    return !a->overflow;
}
