/*
 * Debug registers: breakpoints and single step, SDM vol. 3 chapter 17. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "arch/x86/segment.h"
#include "arch/x86/system.h"

#define DR6_BD (1u << 13)
#define DR6_BS (1u << 14)
#define DR6_BT (1u << 15)

enum { BREAK_EXECUTE, BREAK_WRITE, BREAK_IO, BREAK_ACCESS };

static bool breakpoint_enabled(const X86Cpu *cpu, int i)
{
    return cpu->dr[7] >> (i * 2) & 3;
}

static unsigned breakpoint_type(const X86Cpu *cpu, int i)
{
    return cpu->dr[7] >> (16 + i * 4) & 3;
}

static unsigned breakpoint_length(const X86Cpu *cpu, int i)
{
    static const uint8_t lengths[4] = { 1, 2, 8, 4 };

    return lengths[cpu->dr[7] >> (18 + i * 4) & 3];
}

static void deliver_debug(X86Cpu *cpu, uint64_t bits)
{
    cpu->dr[6] = (cpu->dr[6] & ~UINT64_C(15)) | bits;
    cpu->debug_pending = 0;
    cpu->halted = false; /* HLT ends with it */
    x86_deliver(cpu, EVENT_EXCEPTION, EXC_DB, false, 0);
}

bool x86_debug_after(X86Cpu *cpu, bool single_step)
{
    /* An event that the instruction itself delivered has cleared TF before the trap could come. */
    uint64_t bits = cpu->debug_pending | (single_step && !cpu->event_by_instruction ? DR6_BS : 0);

    cpu->event_by_instruction = false;
    if (cpu->inhibit_debug) {
        cpu->inhibit_debug =
            false; /* after a load of SS the trap waits for the next instruction's end (6.8.3) */
        return false;
    }
    if (bits == 0) {
        return false;
    }
    deliver_debug(cpu, bits);
    return true;
}

bool x86_debug_code_breakpoint(X86Cpu *cpu, uint64_t linear)
{
    uint64_t bits = 0;

    if (cpu->rflags & FLAG_RF) {
        return false;
    }
    for (int i = 0; i < 4; i++) {
        if (breakpoint_enabled(cpu, i) && breakpoint_type(cpu, i) == BREAK_EXECUTE && cpu->dr[i] == linear) {
            bits |= 1u << i;
        }
    }
    if (bits == 0) {
        return false;
    }
    deliver_debug(cpu, bits);
    return true;
}

static uint64_t breakpoints_hit(const X86Cpu *cpu, uint64_t address, unsigned size, unsigned types)
{
    uint64_t bits = 0;

    for (int i = 0; i < 4; i++) {
        uint64_t length = breakpoint_length(cpu, i), start = cpu->dr[i] & ~(length - 1);
        if (breakpoint_enabled(cpu, i) && (types >> breakpoint_type(cpu, i) & 1) &&
            address < start + length && start < address + size) {
            bits |= UINT64_C(1) << i;
        }
    }
    return bits;
}

static void debugger_data(X86Debugger *d, uint64_t linear, unsigned size, bool write)
{
    for (unsigned i = 0; i < d->watchpoint_count && d->stop != X86_STOP_WATCH; i++) {
        const X86Watchpoint *w = &d->watchpoints[i];
        if ((w->kinds & (write ? X86_WATCH_WRITE : X86_WATCH_READ)) && w->address < linear + size &&
            linear < w->address + w->length) {
            d->hit = *w;
            d->stop = X86_STOP_WATCH; /* at the instruction's end */
        }
    }
}

void x86_debug_data(X86Cpu *cpu, uint64_t linear, unsigned size, bool write)
{
    if (cpu->debugger) {
        debugger_data(cpu->debugger, linear, size, write);
    }
    if (!(cpu->dr[7] & 0xff)) {
        return;
    }
    cpu->debug_pending |=
        breakpoints_hit(cpu, linear, size, 1u << BREAK_ACCESS | (write ? 1u << BREAK_WRITE : 0));
}

void debug_io(X86Cpu *cpu, uint16_t port, unsigned size)
{
    if (G_UNLIKELY(cpu->dr[7] & 0xff) && (cpu->cr4 & CR4_DE)) {
        cpu->debug_pending |= breakpoints_hit(cpu, port, size, 1u << BREAK_IO);
    }
}

void debug_on_task_switch(X86Cpu *cpu, bool trap_flag)
{
    cpu->dr[7] &= ~UINT64_C(0x55); /* local enables end with the task */
    if (trap_flag) {
        cpu->debug_pending |= DR6_BT;
    }
}

/* ---- a debugger outside the guest ---- */

void x86_set_debugger(X86Cpu *cpu, X86Debugger *debugger)
{
    cpu->debugger = debugger;
    x86_update_mode(cpu);
    if (cpu->mmu != NULL) {
        mmu_flush_later(cpu); /* watched pages stay out of the TLB */
    }
}

bool x86_debugger_before(X86Cpu *cpu, uint64_t linear)
{
    X86Debugger *d = cpu->debugger;

    d->stop = X86_STOP_NONE;
    for (unsigned i = 0; i < d->breakpoint_count; i++) {
        if (d->breakpoints[i] == linear) {
            d->stop = X86_STOP_BREAKPOINT;
            d->stopped(cpu, d);
            return true;
        }
    }
    return false;
}

void x86_debugger_after(X86Cpu *cpu)
{
    X86Debugger *d = cpu->debugger;

    if (d->stop == X86_STOP_NONE && d->step) {
        d->stop = X86_STOP_STEP;
    }
    if (d->stop != X86_STOP_NONE) {
        d->stopped(cpu, d);
    }
}

/* ---- MOV to and from DRn ---- */

static int check_access(X86Cpu *cpu, int number)
{
    if (number > 7) {
        x86_raise(cpu, EXC_UD);
    }
    if (number == 4 || number == 5) {
        if (cpu->cr4 & CR4_DE) {
            x86_raise(cpu, EXC_UD);
        }
        number += 2;
    }
    if (cpu->cpl != 0) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    if (cpu->dr[7] & (1u << 13)) {
        /* General detect; the delivery clears GD. */
        cpu->dr[6] = (cpu->dr[6] & ~UINT64_C(15)) | DR6_BD;
        x86_raise(cpu, EXC_DB);
    }
    return number;
}

uint64_t x86_read_dr(X86Cpu *cpu, int number)
{
    return cpu->dr[check_access(cpu, number)];
}

void x86_write_dr(X86Cpu *cpu, int number, uint64_t value)
{
    bool watched = cpu->dr[7] & 0xff;

    number = check_access(cpu, number);
    if (number >= 6 && value >> 32) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    switch (number) {
    case 6:
        cpu->dr[6] = (value & 0xe00f) | 0xffff0ff0;
        break;
    case 7:
        cpu->dr[7] = (value & 0xffff23ff) | 0x400;
        break;
    default:
        cpu->dr[number] = value;
        break;
    }
    if (watched || (cpu->dr[7] & 0xff)) {
        mmu_flush(cpu, false); /* watched pages stay out of the TLB */
    }
    x86_update_mode(cpu);
}
