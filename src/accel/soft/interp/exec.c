/*
 * The interpreter's loop. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/ops.h"

#include <setjmp.h>
#include <stdlib.h>

static inline JumpEntry *jump_entry(Interp *d, uint64_t rip)
{
    return &d->jump[(rip ^ (rip >> JUMP_BITS)) & ((1u << JUMP_BITS) - 1)];
}

/* Blocks may be found by rip alone where linear is rip. */
static inline bool jump_cacheable(uint32_t mode)
{
    return (mode & MODE_CS64) || (mode & (MODE_FLAT | MODE_CS32)) == (MODE_FLAT | MODE_CS32);
}

/* The host address behind an instruction address, if the ITLB knows it. */
static inline const uint8_t *itlb_host(const X86Cpu *cpu, uint64_t linear)
{
    const X86Mmu *mmu = cpu->mmu;
    const ItlbEntry *e = mmu_itlb_entry(cpu, linear);

    if (e->page != (linear & PAGE_MASK_4K) ||
        e->generation != (e->global ? mmu->global_generation : mmu->generation) || !e->code.host) {
        return NULL;
    }
    return e->code.host + (linear & 4095);
}

static inline Block *jump_probe(X86Cpu *cpu)
{
    Interp *d = cpu->accel_data;
    uint64_t rip = cpu->rip;
    JumpEntry *e = jump_entry(d, rip);
    if (e->rip == rip && e->mode == cpu->mode && e->block) {
        const uint8_t *host = itlb_host(cpu, rip);
        if (host && host == e->block->host) {
            return e->block;
        }
    }
    return NULL;
}

void interp_jump(X86Cpu *cpu)
{
    if (interrupt_wanted(cpu)) {
        return;
    }
    Block *b = jump_probe(cpu);
    if (b) {
        x86_fpu_leave(cpu); /* a call-out that led to code that is not translated */
        TAIL(b->ops);
    }
}

void interp_link(X86Cpu *cpu, Block **slot, bool near_target)
{
    if (interrupt_wanted(cpu)) {
        return;
    }
    Block *b = jump_probe(cpu);
    if (b) {
        if (near_target) {
            *slot = b;
        }
        TAIL(b->ops);
    }
    if (near_target) {
        ((Interp *)cpu->accel_data)->link_slot = slot;
    }
}

void interp_run(X86Cpu *cpu, const InterpOp *op)
{
#ifdef INTERP_TRAMPOLINE
    Interp *d = cpu->accel_data;
    do {
        d->resume = NULL;
        op->handler(cpu, op);
        op = d->resume;
    } while (op);
#else
    op->handler(cpu, op);
#endif
}

/* Whether an access that raised #GP for its form went through SS, so that it is #SS. */
static bool through_stack(const X86Cpu *cpu, const InterpOp *op)
{
    switch (x86_forms[op->form].mnemonic) {
    case X86_PUSH:
    case X86_POP:
    case X86_CALL:
    case X86_CALL_IND:
    case X86_RET:
    case X86_ENTER:
    case X86_LEAVE:
    case X86_PUSHF:
    case X86_POPF:
    case X86_PUSH_SEG:
    case X86_POP_SEG:
        if (cpu->exc.linear - cpu->regs[R_RSP] + 512 < 1024 || cpu->exc.linear == cpu->regs[R_RBP]) {
            return true;
        }
        break;
    default:
        break;
    }
    return op->rm == 0xff && op->segment == SEG_SS;
}

/* An exception was raised: makes rip the instruction's address. */
void interp_recover(X86Cpu *cpu)
{
    const InterpOp *op = cpu->current_op;
    if (op) {
        cpu->rip = ip_mask(cpu, cpu->rip + op->offset);
        if (cpu->exc.noncanonical && through_stack(cpu, op)) {
            cpu->exc.vector = EXC_SS;
        }
        cpu->current_op = NULL;
    }
}

/* Runs blocks from cpu->rip on until something wants attention; single: exactly one instruction. */
static void run_blocks(X86Cpu *cpu, bool single)
{
    Interp *d = cpu->accel_data;
    Block *b = single ? NULL : jump_probe(cpu);
    if (!b) {
        b = interp_find_block(cpu, single);
        if (!single && b->host && !b->host2 && jump_cacheable(cpu->mode)) {
            JumpEntry *e = jump_entry(d, cpu->rip);
            *e = (JumpEntry){ .rip = cpu->rip, .block = b, .mode = cpu->mode };
            if (d->link_slot) {
                *d->link_slot = b;
            }
        }
    }
    d->link_slot = NULL;
    interp_run(cpu, b->ops);
}

void interp_run_blocks(X86Cpu *cpu)
{
    run_blocks(cpu, false);
}

Block *interp_known_block(X86Cpu *cpu)
{
    return jump_probe(cpu);
}

void interp_run_counted(X86Cpu *cpu, Block *b)
{
    Interp *d = cpu->accel_data;
    if (b->host && !b->host2) {
        *jump_entry(d, cpu->rip) = (JumpEntry){ .rip = cpu->rip, .block = b, .mode = cpu->mode };
        if (d->link_slot) {
            *d->link_slot = b;
        }
    }
    d->link_slot = NULL;
    interp_run(cpu, b->ops);
}

void interp_run_one(X86Cpu *cpu)
{
    cpu->current_op = NULL;
    __atomic_store_n(&cpu->interrupt_poll, 1, __ATOMIC_SEQ_CST);
    run_blocks(cpu, true);
}

/* One instruction, with what belongs to instruction boundaries. */
static void run_single(X86Cpu *cpu)
{
    Interp *d = cpu->accel_data;
    bool resume = cpu->rflags & FLAG_RF, trace = cpu->mode & MODE_TF;
    uint64_t linear = cpu->mode & MODE_CS64 ? cpu->rip : (uint32_t)(cpu->segs[SEG_CS].base + cpu->rip);
    cpu->current_op = NULL;
    if (G_UNLIKELY(cpu->debugger != NULL) && x86_debugger_before(cpu, linear)) {
        return;
    }
    if ((cpu->mode & MODE_BP) && !resume && x86_debug_code_breakpoint(cpu, linear)) {
        return;
    }
    __atomic_store_n(&cpu->interrupt_poll, 1, __ATOMIC_SEQ_CST);
    d->event_taken = false;
    run_blocks(cpu, true);
    if (resume) {
        cpu->rflags &= ~(uint64_t)FLAG_RF;
    }
    if (x86_debug_after(cpu, trace && !d->event_taken)) {
        cpu->halted = false; /* a trap behind HLT ends it at once */
    }
    if (G_UNLIKELY(cpu->debugger != NULL)) {
        x86_debugger_after(cpu);
    }
}

void interp_vcpu_exec(X86Cpu *cpu)
{
    Interp *d = cpu->accel_data;
    sigjmp_buf fault;
    __atomic_store_n(&cpu->executing, true, __ATOMIC_SEQ_CST);
    cpu->fault_return = &fault;
    if (sigsetjmp(fault, 0)) {
        if (((Interp *)cpu->accel_data)->translated_left) {
            ((Interp *)cpu->accel_data)->translated_left(cpu);
        }
        interp_recover(cpu);
        ((Interp *)cpu->accel_data)->link_slot =
            NULL; /* a branch whose target's fetch faulted leads to no handler */
        x86_deliver(cpu, EVENT_EXCEPTION, cpu->exc.vector, cpu->exc.has_error, cpu->exc.error_code);
        cpu->fault_return = &fault;
        d = cpu->accel_data;
        if (G_UNLIKELY(cpu->debugger != NULL)) {
            x86_debugger_after(cpu);
        }
    }
    for (;;) {
        if (G_UNLIKELY(d->between != NULL)) {
            d->between(cpu);
        }
        /* First this, then that: a request that comes in between sets it again. */
        if (__atomic_load_n(&cpu->interrupt_poll, __ATOMIC_RELAXED)) {
            __atomic_store_n(&cpu->interrupt_poll, 0, __ATOMIC_SEQ_CST);
        }
        if (G_UNLIKELY(cpu->mmu->replaced)) {
            __atomic_store_n(&cpu->mmu->replaced, false, __ATOMIC_SEQ_CST);
        }
        uint32_t request = __atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST);
        if (G_UNLIKELY(request)) {
            x86_fpu_leave(cpu);
            d->link_slot = NULL; /* what comes may not be where the last branch went */
            if (request & CPU_INTERRUPT_CODE) {
                interp_cache_process(d);
            }
            if (request & CPU_INTERRUPT_TLB) {
                mmu_process_pending(cpu);
            }
            if (request & CPU_INTERRUPT_EXIT) {
                break;
            }
            cpu->current_op = NULL;
            if (!cpu->inhibit_interrupts && !(cpu->debugger && cpu->debugger->step)) {
                x86_handle_interrupts(cpu);
            }
        }
        if (cpu->halted) {
            cpu->inhibit_interrupts = false; /* HLT was the instruction that no interrupt came before */
            break;
        }
        if (G_UNLIKELY(cpu->inhibit_interrupts || (cpu->mode & (MODE_TF | MODE_BP)) ||
                       (cpu->rflags & FLAG_RF))) {
            cpu->inhibit_interrupts = false;
            x86_fpu_leave(cpu);
            run_single(cpu);
        } else if (d->run_translated && (cpu->mode & MODE_CS64)) {
            d->run_translated(cpu);
        } else {
            x86_fpu_leave(cpu);
            run_blocks(cpu, false);
        }
    }
    x86_fpu_leave(cpu);
    cpu->fault_return = NULL;
    if (cpu->halted) {
        interp_cache_trim(d);
    }
    __atomic_store_n(&cpu->executing, false, __ATOMIC_SEQ_CST);
}

bool interp_step_one(X86Cpu *cpu)
{
    sigjmp_buf fault;
    bool ok = true;
    __atomic_store_n(&cpu->executing, true, __ATOMIC_SEQ_CST);
    cpu->fault_return = &fault;
    if (sigsetjmp(fault, 0)) {
        interp_recover(cpu);
        ok = false;
    } else {
        uint32_t request = __atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST);
        if (request & CPU_INTERRUPT_CODE) {
            interp_cache_process(cpu->accel_data);
        }
        if (request & CPU_INTERRUPT_TLB) {
            mmu_process_pending(cpu);
        }
        cpu->inhibit_interrupts = false;
        __atomic_store_n(&cpu->interrupt_poll, 1, __ATOMIC_SEQ_CST);
        run_blocks(cpu, true);
    }
    cpu->fault_return = NULL;
    __atomic_store_n(&cpu->executing, false, __ATOMIC_SEQ_CST);
    return ok;
}

bool interp_run_instruction(X86Cpu *cpu)
{
    sigjmp_buf fault;
    volatile bool ok = true;
    __atomic_store_n(&cpu->executing, true, __ATOMIC_SEQ_CST);
    cpu->fault_return = &fault;
    if (sigsetjmp(fault, 0)) {
        interp_recover(cpu);
        ok = false;
        x86_deliver(cpu, EVENT_EXCEPTION, cpu->exc.vector, cpu->exc.has_error, cpu->exc.error_code);
    } else {
        uint32_t request = __atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST);
        if (request & CPU_INTERRUPT_CODE) {
            interp_cache_process(cpu->accel_data);
        }
        if (request & CPU_INTERRUPT_TLB) {
            mmu_process_pending(cpu);
        }
        cpu->inhibit_interrupts = false;
        run_single(cpu);
    }
    cpu->fault_return = NULL;
    __atomic_store_n(&cpu->executing, false, __ATOMIC_SEQ_CST);
    return ok;
}

void interp_keep_nothing(X86Cpu *cpu)
{
    ((Interp *)cpu->accel_data)->uncached = true;
}

void interp_vcpu_init(X86Cpu *cpu)
{
    Interp *d = g_new0(Interp, 1);
    d->cpu = cpu;
    cpu->accel_data = d;
    interp_generic_init();
    interp_decode_features(cpu, &d->decode_mode);
    interp_cache_init(cpu, d);
}

void interp_vcpu_destroy(X86Cpu *cpu)
{
    Interp *d = cpu->accel_data;
    if (d) {
        interp_cache_free(d);
        g_free(d);
        cpu->accel_data = NULL;
    }
}
