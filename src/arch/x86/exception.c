/*
 * Exceptions and interrupts: SDM vol. 3 chapter 6 (protected mode, 64-bit mode), 20.1.4 (real mode), 20.3
 * (virtual-8086 mode with and without the extensions).
 *
 * An event is worked out completely before any register changes: a fault on the way leaves the vCPU as it
 * was, apart from memory below the stack pointer. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/apic.h"
#include "arch/x86/segment.h"
#include "arch/x86/system.h"
#include "base/log.h"
#include "trace/trace.h"

TRACE_EVENT(x86_deliver, "cpu %u vector %d kind %d error %x rip %lx cr2 %lx");
TRACE_EVENT(x86_triple_fault, "cpu %u rip %lx vector %d");

static bool has_error_code(int vector)
{
    return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
}

static G_NORETURN void raise_exception(X86Cpu *cpu, int vector, uint32_t error_code, bool noncanonical,
                                       uint64_t linear)
{
    if (cpu->fault_return == NULL) {
        g_error("x86: exception %d outside an executor", vector);
    }
    mmu_lock_slow_abort(cpu);
    cpu->exc.vector = vector;
    cpu->exc.has_error = has_error_code(vector);
    cpu->exc.is_int = false;
    cpu->exc.error_code = error_code;
    cpu->exc.noncanonical = noncanonical;
    cpu->exc.linear = linear;
    siglongjmp(*cpu->fault_return, 1);
}

void x86_raise(X86Cpu *cpu, int vector)
{
    x86_fpu_leave(cpu);
    raise_exception(cpu, vector, 0, false, 0);
}

void x86_raise_error(X86Cpu *cpu, int vector, uint32_t error_code)
{
    x86_fpu_leave(cpu);
    raise_exception(cpu, vector, error_code, false, 0);
}

void x86_raise_noncanonical(X86Cpu *cpu, uint64_t linear)
{
    x86_fpu_leave(cpu);
    raise_exception(cpu, EXC_GP, 0, true, linear);
}

/* ---- delivery ---- */

typedef struct Event {
    EventKind kind;
    int vector;
    bool has_error;
    uint32_t error_code;
    uint64_t return_rip;
    unsigned ext; /* the EXT bit of error codes that this delivery itself causes */
} Event;

/* RFLAGS as pushed: RF is set for faults, so that a debugger's breakpoint is not hit again (SDM vol.
 * 3 17.3.1.1). */
static uint64_t pushed_flags(X86Cpu *cpu, const Event *e)
{
    uint64_t flags = x86_get_rflags(cpu);

    if (e->kind == EVENT_EXCEPTION && e->vector != EXC_DB && e->vector != EXC_DF && e->vector != EXC_MC) {
        flags |= FLAG_RF;
    }
    return flags;
}

static void deliver_real(X86Cpu *cpu, const Event *e)
{
    uint32_t offset = (uint32_t)e->vector * 4;

    if (offset + 3 > cpu->idt.limit) {
        x86_raise_error(cpu, EXC_GP, offset * 2 + 2 + e->ext);
    }
    uint32_t entry = x86_ld32_idx(cpu, (cpu->idt.base + offset) & UINT32_MAX, MMU_KERNEL);
    Stack s = stack_current(cpu);
    uint64_t flags = pushed_flags(cpu, e);
    stack_push(&s, 2, flags);
    stack_push(&s, 2, cpu->segs[SEG_CS].selector);
    stack_push(&s, 2, e->return_rip);
    cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
    segment_set_real(cpu, SEG_CS, (uint16_t)(entry >> 16));
    cpu->rip = entry & 0xffff;
    x86_set_rflags(cpu, x86_get_rflags(cpu) & ~(uint64_t)(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF));
    x86_update_mode(cpu);
}

/* The code segment of an interrupt or trap gate, with the checks of all modes. */
static Descriptor gate_code(X86Cpu *cpu, const Event *e, uint16_t selector)
{
    Descriptor code;
    uint32_t error = (selector & ~3u) | e->ext;

    if (selector_is_null(selector)) {
        x86_raise_error(cpu, EXC_GP, e->ext);
    }
    if (!descriptor_read(cpu, selector, &code) || !descriptor_is_code(code) ||
        descriptor_dpl(code) > cpu->cpl) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (in_long_mode(cpu) && (code.high & (DESC_L | DESC_B)) != DESC_L) {
        x86_raise_error(cpu, EXC_GP, error);
    }
    if (!(code.high & DESC_P)) {
        x86_raise_error(cpu, EXC_NP, error);
    }
    return code;
}

static void finish_flags(X86Cpu *cpu, bool interrupt_gate)
{
    uint64_t clear = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (interrupt_gate ? FLAG_IF : 0);

    x86_set_rflags(cpu, x86_get_rflags(cpu) & ~clear);
    x86_update_mode(cpu);
}

static void deliver_long(X86Cpu *cpu, const Event *e)
{
    uint32_t offset = (uint32_t)e->vector * 16;
    uint32_t gate_error = (uint32_t)e->vector * 8 + 2 + e->ext;

    if (offset + 15 > cpu->idt.limit) {
        x86_raise_error(cpu, EXC_GP, gate_error);
    }
    uint64_t low = x86_ld64_idx(cpu, cpu->idt.base + offset, MMU_KERNEL);
    uint64_t high = x86_ld64_idx(cpu, cpu->idt.base + offset + 8, MMU_KERNEL);
    Descriptor gate = { (uint32_t)low, (uint32_t)(low >> 32) };
    unsigned type = descriptor_type(gate);
    if ((gate.high & DESC_S) || (type != DESC_INT32 && type != DESC_TRAP32) ||
        (high & UINT64_C(0x1f0000000000))) {
        x86_raise_error(cpu, EXC_GP, gate_error);
    }
    if (e->kind == EVENT_SOFT_INT && descriptor_dpl(gate) < cpu->cpl) {
        x86_raise_error(cpu, EXC_GP, gate_error);
    }
    if (!(gate.high & DESC_P)) {
        x86_raise_error(cpu, EXC_NP, gate_error);
    }
    uint16_t selector = (uint16_t)(gate.low >> 16);
    uint64_t target = (gate.low & 0xffff) | (gate.high & 0xffff0000) | (high << 32);
    unsigned ist = gate.high & 7;
    Descriptor code = gate_code(cpu, e, selector);
    unsigned level = (code.high & DESC_C) ? cpu->cpl : descriptor_dpl(code);
    bool inner = level < cpu->cpl;
    Stack s = {
        .cpu = cpu, .mask = UINT64_MAX, .is64 = true, .index = mmu_index_of(cpu, level), .error = e->ext
    };

    if (ist != 0) {
        s.sp = tss64_stack(cpu, 36 + (ist - 1) * 8, e->ext);
    } else if (inner) {
        s.sp = tss64_stack(cpu, 4 + level * 8, e->ext);
    } else {
        s.sp = cpu->regs[R_RSP];
    }
    s.sp &= ~UINT64_C(15);
    if (!x86_is_canonical(target)) {
        x86_raise_error(cpu, EXC_GP, e->ext);
    }
    stack_push(&s, 8, cpu->segs[SEG_SS].selector);
    stack_push(&s, 8, cpu->regs[R_RSP]);
    stack_push(&s, 8, pushed_flags(cpu, e));
    stack_push(&s, 8, cpu->segs[SEG_CS].selector);
    stack_push(&s, 8, e->return_rip);
    if (e->has_error) {
        stack_push(&s, 8, e->error_code);
    }
    descriptor_set_accessed(cpu, selector, &code);
    cpu->regs[R_RSP] = s.sp;
    cpu->rip = target;
    segment_set(cpu, SEG_CS, (uint16_t)((selector & ~3u) | level), code);
    cpu->cpl = (uint8_t)level;
    if (inner) {
        segment_set_null(cpu, SEG_SS, (uint16_t)level);
    }
    finish_flags(cpu, type == DESC_INT32);
}

static void deliver_protected(X86Cpu *cpu, const Event *e)
{
    uint32_t offset = (uint32_t)e->vector * 8;
    uint32_t gate_error = offset + 2 + e->ext;

    if (offset + 7 > cpu->idt.limit) {
        x86_raise_error(cpu, EXC_GP, gate_error);
    }
    uint64_t value = x86_ld64_idx(cpu, (cpu->idt.base + offset) & UINT32_MAX, MMU_KERNEL);
    Descriptor gate = { (uint32_t)value, (uint32_t)(value >> 32) };
    unsigned type = descriptor_type(gate);
    bool known = type == DESC_TASK_GATE || type == DESC_INT16 || type == DESC_TRAP16 || type == DESC_INT32 ||
                 type == DESC_TRAP32;
    if ((gate.high & DESC_S) || !known) {
        x86_raise_error(cpu, EXC_GP, gate_error);
    }
    if (e->kind == EVENT_SOFT_INT && descriptor_dpl(gate) < cpu->cpl) {
        x86_raise_error(cpu, EXC_GP, gate_error);
    }
    if (!(gate.high & DESC_P)) {
        x86_raise_error(cpu, EXC_NP, gate_error);
    }
    uint16_t selector = (uint16_t)(gate.low >> 16);
    if (type == DESC_TASK_GATE) {
        uint64_t old_rip = cpu->rip;
        if (e->kind == EVENT_EXCEPTION && e->vector != EXC_DB && e->vector != EXC_DF) {
            x86_set_rflags(cpu, x86_get_rflags(cpu) | FLAG_RF); /* saved in the old task's image */
        }
        cpu->rip = old_rip;
        x86_task_switch(cpu, selector, TASK_SWITCH_GATE, e->return_rip, e->has_error, e->error_code);
        return;
    }
    bool vm86 = cpu->rflags & FLAG_VM;
    bool is32 = type == DESC_INT32 || type == DESC_TRAP32;
    unsigned size = is32 ? 4 : 2;
    uint32_t target = (gate.low & 0xffff) | (is32 ? gate.high & 0xffff0000 : 0);
    Descriptor code = gate_code(cpu, e, selector);
    uint32_t code_error = (selector & ~3u) | e->ext;
    unsigned level = (code.high & DESC_C) ? cpu->cpl : descriptor_dpl(code);
    uint64_t flags = pushed_flags(cpu, e);

    if (level < cpu->cpl) {
        uint16_t ss;
        Descriptor ss_descriptor;
        if (vm86 && level != 0) {
            x86_raise_error(cpu, EXC_GP, code_error);
        }
        Stack s = stack_inner(cpu, level, e->ext, &ss, &ss_descriptor);
        if (target > descriptor_limit(code)) {
            x86_raise_error(cpu, EXC_GP, e->ext);
        }
        if (vm86) {
            stack_push(&s, size, cpu->segs[SEG_GS].selector);
            stack_push(&s, size, cpu->segs[SEG_FS].selector);
            stack_push(&s, size, cpu->segs[SEG_DS].selector);
            stack_push(&s, size, cpu->segs[SEG_ES].selector);
        }
        stack_push(&s, size, cpu->segs[SEG_SS].selector);
        stack_push(&s, size, cpu->regs[R_RSP]);
        stack_push(&s, size, flags);
        stack_push(&s, size, cpu->segs[SEG_CS].selector);
        stack_push(&s, size, e->return_rip);
        if (e->has_error) {
            stack_push(&s, size, e->error_code);
        }
        descriptor_set_accessed(cpu, ss, &ss_descriptor);
        descriptor_set_accessed(cpu, selector, &code);
        cpu->cpl = (uint8_t)level;
        segment_set(cpu, SEG_SS, ss, ss_descriptor);
        cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
        if (vm86) {
            segment_set_null(cpu, SEG_GS, 0);
            segment_set_null(cpu, SEG_FS, 0);
            segment_set_null(cpu, SEG_DS, 0);
            segment_set_null(cpu, SEG_ES, 0);
        }
    } else {
        if (vm86) {
            x86_raise_error(cpu, EXC_GP, code_error);
        }
        Stack s = stack_current(cpu);
        s.error = e->ext;
        if (target > descriptor_limit(code)) {
            x86_raise_error(cpu, EXC_GP, e->ext);
        }
        stack_push(&s, size, flags);
        stack_push(&s, size, cpu->segs[SEG_CS].selector);
        stack_push(&s, size, e->return_rip);
        if (e->has_error) {
            stack_push(&s, size, e->error_code);
        }
        descriptor_set_accessed(cpu, selector, &code);
        cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
    }
    segment_set(cpu, SEG_CS, (uint16_t)((selector & ~3u) | level), code);
    cpu->rip = target;
    finish_flags(cpu, type == DESC_INT16 || type == DESC_INT32);
}

void event_deliver(X86Cpu *cpu, EventKind kind, int vector, bool has_error, uint32_t error_code,
                   uint64_t return_rip)
{
    Event e = {
        .kind = kind,
        .vector = vector,
        .has_error = has_error,
        .error_code = error_code,
        .return_rip = return_rip,
        .ext = kind != EVENT_SOFT_INT,
    };

    TRACE(x86_deliver, cpu->index, vector, (int)kind, error_code, (unsigned long)return_rip,
          (unsigned long)cpu->cr2);
    LOG(LOG_INT,
        "cpu %u: vector %02x kind %d error %x rip %04x:%016" PRIx64 " rsp %016" PRIx64 " cr2 %" PRIx64
        " rax %" PRIx64 " cpl %u",
        cpu->index, (unsigned)vector, (int)kind, error_code, cpu->segs[SEG_CS].selector, return_rip,
        cpu->regs[R_RSP], cpu->cr2, cpu->regs[R_RAX], cpu->cpl);
    cpu->inhibit_interrupts = cpu->inhibit_debug = false;
    if (!(cpu->cr0 & CR0_PE)) {
        deliver_real(cpu, &e);
    } else if (in_long_mode(cpu)) {
        deliver_long(cpu, &e);
    } else {
        deliver_protected(cpu, &e);
    }
}

static bool is_contributory(int vector)
{
    return vector == EXC_DE || (vector >= EXC_TS && vector <= EXC_GP);
}

void x86_shutdown(X86Cpu *cpu)
{
    cpu->halted = true;
    cpu->shutdown = true;
    if (cpu->env.request_reset != NULL) {
        cpu->env.request_reset(cpu->env.opaque);
    }
}

/* A double fault could not be delivered: the processor shuts down, and the board resets the machine. */
static void triple_fault(X86Cpu *cpu, int vector)
{
    TRACE(x86_triple_fault, cpu->index, (unsigned long)cpu->rip, vector);
    LOG(LOG_CPU_RESET | LOG_INT, "cpu %u: triple fault at %04x:%" PRIx64, cpu->index,
        cpu->segs[SEG_CS].selector, cpu->rip);
    x86_shutdown(cpu);
}

void x86_deliver(X86Cpu *cpu, EventKind kind, int vector, bool has_error, uint32_t error_code)
{
    sigjmp_buf *outer = cpu->fault_return;
    sigjmp_buf here;
    /* What is being delivered; changes only through the fault path, but has to survive it. */
    struct {
        EventKind kind;
        int vector;
        bool has_error;
        uint32_t error_code;
    } volatile e = { kind, vector, has_error, error_code };

    cpu->event_by_instruction = false;
    if (vector == EXC_DB && kind == EVENT_EXCEPTION) {
        /* DR7.GD is cleared on entry to the handler (SDM vol. 3 17.2.4). */
        cpu->dr[7] &= ~UINT64_C(0x2000);
    }
    if (sigsetjmp(here, 0) != 0) {
        /* A fault on the way: SDM vol. 3 table 6-5. */
        int second = cpu->exc.vector;
        bool first_exception = e.kind == EVENT_EXCEPTION;
        bool first_contributory = first_exception && is_contributory(e.vector);
        bool first_page_fault = first_exception && e.vector == EXC_PF;
        if (first_exception && e.vector == EXC_DF && (is_contributory(second) || second == EXC_PF)) {
            cpu->fault_return = outer;
            triple_fault(cpu, second);
            return;
        }
        e.kind = EVENT_EXCEPTION;
        if ((first_contributory && is_contributory(second)) ||
            (first_page_fault && (is_contributory(second) || second == EXC_PF))) {
            e.vector = EXC_DF;
            e.has_error = true;
            e.error_code = 0;
        } else {
            e.vector = second;
            e.has_error = cpu->exc.has_error;
            e.error_code = cpu->exc.error_code;
        }
    }
    cpu->fault_return = &here;
    event_deliver(cpu, e.kind, e.vector, e.has_error && (cpu->cr0 & CR0_PE), e.error_code, cpu->rip);
    cpu->fault_return = outer;
}

/* ---- interrupts by instruction ---- */

/* With the virtual-8086 extensions INT n is redirected to the 8086 program's own vector table, unless the
 * bitmap below the TSS's I/O bitmap says otherwise (SDM vol. 3 20.3.3). Returns whether it was. */
static bool vm86_redirect(X86Cpu *cpu, int vector, uint64_t next_rip)
{
    const X86Segment *tr = &cpu->segs[SEG_TR];

    if (!(cpu->cr4 & CR4_VME) || !(tr->attr & (8u << DESC_TYPE_SHIFT)) || tr->limit < 0x67) {
        return false;
    }
    uint16_t io_map = x86_ld16_idx(cpu, (tr->base + 0x66) & UINT32_MAX, MMU_KERNEL);
    if (io_map < 32) {
        return false;
    }
    uint32_t offset = (uint32_t)io_map - 32 + (unsigned)vector / 8;
    if (offset > tr->limit) {
        return false;
    }
    uint8_t bits = x86_ld8_idx(cpu, (tr->base + offset) & UINT32_MAX, MMU_KERNEL);
    if (bits >> (vector & 7) & 1) {
        return false;
    }
    uint64_t flags = x86_get_rflags(cpu);
    uint64_t clear = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_AC;
    uint64_t image = flags;
    if ((flags & FLAG_IOPL) == FLAG_IOPL) {
        clear |= FLAG_IF;
    } else {
        /* The program sees VIF as its IF, and IOPL as 3. */
        image = (flags & ~(uint64_t)FLAG_IF) | ((flags & FLAG_VIF) ? FLAG_IF : 0) | FLAG_IOPL;
        clear |= FLAG_VIF;
    }
    uint32_t entry = x86_ld32_idx(cpu, (uint64_t)vector * 4, MMU_USER);
    Stack s = stack_current(cpu);
    stack_push(&s, 2, image);
    stack_push(&s, 2, cpu->segs[SEG_CS].selector);
    stack_push(&s, 2, next_rip);
    cpu->regs[R_RSP] = stack_pointer(&s, cpu->regs[R_RSP]);
    segment_set_vm86(cpu, SEG_CS, (uint16_t)(entry >> 16));
    cpu->rip = entry & 0xffff;
    x86_set_rflags(cpu, flags & ~clear);
    x86_update_mode(cpu);
    return true;
}

void x86_int_n(X86Cpu *cpu, int vector, uint64_t next_rip)
{
    if ((cpu->cr0 & CR0_PE) && (cpu->rflags & FLAG_VM)) {
        if (vm86_redirect(cpu, vector, next_rip)) {
            return;
        }
        if ((cpu->rflags & FLAG_IOPL) != FLAG_IOPL) {
            x86_raise_error(cpu, EXC_GP, 0);
        }
    }
    cpu->event_by_instruction = cpu->mode & MODE_TF;
    event_deliver(cpu, EVENT_SOFT_INT, vector, false, 0, next_rip);
}

void x86_int3(X86Cpu *cpu, uint64_t next_rip)
{
    cpu->event_by_instruction = cpu->mode & MODE_TF;
    event_deliver(cpu, EVENT_SOFT_INT, EXC_BP, false, 0, next_rip);
}

void x86_into(X86Cpu *cpu, uint64_t next_rip)
{
    cpu->event_by_instruction = cpu->mode & MODE_TF;
    event_deliver(cpu, EVENT_SOFT_INT, EXC_OF, false, 0, next_rip);
}

void x86_icebp(X86Cpu *cpu, uint64_t next_rip)
{
    cpu->event_by_instruction = cpu->mode & MODE_TF;
    event_deliver(cpu, EVENT_ICEBP, EXC_DB, false, 0, next_rip);
    /* A trap that a load of SS has put off comes together with it. */
    cpu->dr[6] |= cpu->debug_pending;
    cpu->debug_pending = 0;
}

/* ---- between instructions ---- */

bool x86_has_work(const X86Cpu *cpu)
{
    uint32_t pending = __atomic_load_n(&cpu->interrupt_request, __ATOMIC_ACQUIRE);

    if (cpu->in_smm) {
        pending &= ~(CPU_INTERRUPT_SMI | CPU_INTERRUPT_INIT); /* they wait for RSM */
    }
    if (cpu->shutdown) {
        return pending & CPU_INTERRUPT_INIT;
    }
    if (cpu->wait_sipi) {
        return pending & (CPU_INTERRUPT_SIPI | CPU_INTERRUPT_INIT | CPU_INTERRUPT_TLB);
    }
    if (pending & (CPU_INTERRUPT_KICK | CPU_INTERRUPT_SMI | CPU_INTERRUPT_INIT | CPU_INTERRUPT_TIMER |
                   CPU_INTERRUPT_TLB)) {
        return true;
    }
    if ((pending & CPU_INTERRUPT_NMI) && !cpu->nmi_blocked) {
        return true;
    }
    return (pending & CPU_INTERRUPT_HARD) && (cpu->rflags & FLAG_IF) && apic_has_interrupt(cpu->apic);
}

bool x86_handle_interrupts(X86Cpu *cpu)
{
    uint32_t pending = __atomic_load_n(&cpu->interrupt_request, __ATOMIC_ACQUIRE);

    if (pending & CPU_INTERRUPT_TLB) {
        mmu_process_pending(cpu);
    }
    if (pending & CPU_INTERRUPT_TIMER) {
        cpu_interrupt_clear(cpu, CPU_INTERRUPT_TIMER);
        apic_timer_expired(cpu->apic);
        pending = __atomic_load_n(&cpu->interrupt_request, __ATOMIC_ACQUIRE);
    }
    if ((pending & CPU_INTERRUPT_INIT) && !cpu->in_smm) {
        cpu_interrupt_clear(cpu, CPU_INTERRUPT_INIT);
        x86_cpu_reset(cpu, true);
        return true;
    }
    if (pending & CPU_INTERRUPT_SIPI) {
        cpu_interrupt_clear(cpu, CPU_INTERRUPT_SIPI);
        if (cpu->wait_sipi) {
            uint8_t vector = apic_sipi_vector(cpu->apic);
            cpu->wait_sipi = false;
            cpu->halted = false;
            cpu->segs[SEG_CS].selector = (uint16_t)(vector << 8);
            cpu->segs[SEG_CS].base = (uint32_t)vector << 12;
            cpu->rip = 0;
            x86_update_mode(cpu);
            return true;
        }
    }
    if (cpu->wait_sipi || cpu->shutdown) {
        return false;
    }
    if (pending & CPU_INTERRUPT_KICK) {
        cpu_interrupt_clear(cpu, CPU_INTERRUPT_KICK);
        if (cpu->halted) {
            cpu->halted = false;
            return true;
        }
        cpu->pv_kicked = true;
    }
    if (cpu->inhibit_interrupts) {
        return false; /* SMIs, too: the save area has no room for it */
    }
    if ((pending & CPU_INTERRUPT_SMI) && !cpu->in_smm) {
        cpu_interrupt_clear(cpu, CPU_INTERRUPT_SMI);
        smm_enter(cpu);
        cpu->halted = false;
        return true;
    }
    if ((pending & CPU_INTERRUPT_NMI) && !cpu->nmi_blocked) {
        cpu_interrupt_clear(cpu, CPU_INTERRUPT_NMI);
        /* The bit may be set a second time for an NMI that has been taken already: the count decides. */
        if (__atomic_load_n(&cpu->nmi_count, __ATOMIC_SEQ_CST) > 0) {
            if (__atomic_sub_fetch(&cpu->nmi_count, 1, __ATOMIC_SEQ_CST) > 0) {
                cpu_interrupt(cpu, CPU_INTERRUPT_NMI);
            }
            cpu->halted = false;
            cpu->nmi_blocked = true;
            x86_deliver(cpu, EVENT_NMI, EXC_NMI, false, 0);
            return true;
        }
    }
    if ((pending & CPU_INTERRUPT_HARD) && (cpu->rflags & FLAG_IF)) {
        int vector = apic_acknowledge(cpu->apic);
        if (vector >= 0) {
            cpu->halted = false;
            x86_deliver(cpu, EVENT_HARD_INT, vector, false, 0);
            return true;
        }
    }
    return false;
}
