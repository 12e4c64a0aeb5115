/*
 * System management mode: entry and RSM, with the state save area of AMD APM vol. 2 table 10-1 (revision
 * 0x20064), which firmware for 64-bit processors expects. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/apic.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/segment.h"
#include "arch/x86/system.h"
#include "trace/trace.h"

TRACE_EVENT(smm_enter, "cpu %u rip %lx");
TRACE_EVENT(smm_leave, "cpu %u rip %lx");

#define SMM_REVISION 0x00020064u

/* Offsets from SMBASE + 0x8000. */
enum {
    SAVE_SEGMENTS = 0x7e00,
    SAVE_GDTR = 0x7e60,
    SAVE_LDTR = 0x7e70,
    SAVE_IDTR = 0x7e80,
    SAVE_TR = 0x7e90,
    SAVE_IO_RESTART = 0x7ec8,
    SAVE_HALT_RESTART = 0x7ec9,
    SAVE_EFER = 0x7ed0,
    SAVE_REVISION = 0x7efc,
    SAVE_SMBASE = 0x7f00,
    SAVE_CR4 = 0x7f48,
    SAVE_CR3 = 0x7f50,
    SAVE_CR0 = 0x7f58,
    SAVE_DR7 = 0x7f60,
    SAVE_DR6 = 0x7f68,
    SAVE_RFLAGS = 0x7f70,
    SAVE_RIP = 0x7f78,
    SAVE_GPRS = 0x7f80,
};
/* From the lowest address up. */
static const uint8_t saved_gprs[16] = { R_R15, R_R14, R_R13, R_R12, R_R11, R_R10, R_R9,  R_R8,
                                        R_RDI, R_RSI, R_RBP, R_RSP, R_RBX, R_RDX, R_RCX, R_RAX };

static void put(X86Cpu *cpu, unsigned offset, unsigned size, uint64_t value)
{
    mmu_physical_store(cpu, cpu->smbase + 0x8000 + offset, value, size);
}

static uint64_t get(X86Cpu *cpu, unsigned offset, unsigned size)
{
    return mmu_physical_load(cpu, cpu->smbase + 0x8000 + offset, size);
}

static void save_segment(X86Cpu *cpu, unsigned offset, const X86Segment *s)
{
    put(cpu, offset, 2, s->selector);
    put(cpu, offset + 2, 2, (s->attr >> 8 & 0xff) | (s->attr >> 12 & 0xf00));
    put(cpu, offset + 4, 4, s->limit);
    put(cpu, offset + 8, 8, s->base);
}

static void load_segment(X86Cpu *cpu, unsigned offset, X86Segment *s)
{
    uint32_t attr = (uint32_t)get(cpu, offset + 2, 2);

    s->selector = (uint16_t)get(cpu, offset, 2);
    s->attr = (attr & 0xff) << 8 | (attr & 0xf00) << 12;
    s->limit = (uint32_t)get(cpu, offset + 4, 4);
    s->base = get(cpu, offset + 8, 8);
}

/* SMRAM shows or hides itself: what was cached of memory is void. */
static void switch_space(X86Cpu *cpu, bool in_smm)
{
    cpu->in_smm = in_smm;
    mmu_flush_physical(cpu);
}

void smm_enter(X86Cpu *cpu)
{
    uint64_t flags = x86_get_rflags(cpu);
    bool was_halted = cpu->halted;

    TRACE(smm_enter, cpu->index, (unsigned long)cpu->rip);
    switch_space(cpu, true);
    for (int i = 0; i < SEG_COUNT; i++) {
        save_segment(cpu, SAVE_SEGMENTS + (unsigned)i * 16, &cpu->segs[i]);
    }
    save_segment(cpu, SAVE_LDTR, &cpu->segs[SEG_LDTR]);
    save_segment(cpu, SAVE_TR, &cpu->segs[SEG_TR]);
    put(cpu, SAVE_GDTR + 4, 2, cpu->gdt.limit);
    put(cpu, SAVE_GDTR + 8, 8, cpu->gdt.base);
    put(cpu, SAVE_IDTR + 4, 2, cpu->idt.limit);
    put(cpu, SAVE_IDTR + 8, 8, cpu->idt.base);
    put(cpu, SAVE_IO_RESTART, 1, 0);
    put(cpu, SAVE_HALT_RESTART, 1, was_halted);
    put(cpu, SAVE_EFER, 8, cpu->efer);
    put(cpu, SAVE_REVISION, 4, SMM_REVISION);
    put(cpu, SAVE_SMBASE, 4, cpu->smbase);
    put(cpu, SAVE_CR4, 8, cpu->cr4);
    put(cpu, SAVE_CR3, 8, cpu->cr3);
    put(cpu, SAVE_CR0, 8, cpu->cr0);
    put(cpu, SAVE_DR7, 8, cpu->dr[7]);
    put(cpu, SAVE_DR6, 8, cpu->dr[6]);
    put(cpu, SAVE_RFLAGS, 8, flags);
    put(cpu, SAVE_RIP, 8, cpu->rip);
    for (unsigned i = 0; i < 16; i++) {
        put(cpu, SAVE_GPRS + i * 8, 8, cpu->regs[saved_gprs[i]]);
    }

    cpu->smm_saved_nmi_blocked = cpu->nmi_blocked;
    cpu->nmi_blocked = true;
    cpu->cr0 &= ~(uint64_t)(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
    cpu->cr4 = 0;
    cpu->efer = 0;
    cpu->dr[7] = 0x400;
    cpu->cpl = 0;
    cpu->rip = 0x8000;
    for (int i = 0; i < SEG_COUNT; i++) {
        cpu->segs[i] =
            (X86Segment){ .limit = UINT32_MAX, .attr = DESC_P | DESC_S | DESC_W | DESC_A | DESC_G };
    }
    cpu->segs[SEG_CS] = (X86Segment){ .selector = (uint16_t)(cpu->smbase >> 4),
                                      .base = cpu->smbase,
                                      .limit = UINT32_MAX,
                                      .attr = DESC_P | DESC_S | DESC_CODE | DESC_R | DESC_A | DESC_G };
    x86_set_rflags(cpu, FLAG_ONE);
    x86_update_mode(cpu);
}

void x86_rsm(X86Cpu *cpu)
{
    if (!cpu->in_smm) {
        x86_raise(cpu, EXC_UD);
    }
    uint64_t cr0 = get(cpu, SAVE_CR0, 8), cr4 = get(cpu, SAVE_CR4, 8), efer = get(cpu, SAVE_EFER, 8);
    if (((cr0 & CR0_PG) && !(cr0 & CR0_PE)) || ((cr0 & CR0_NW) && !(cr0 & CR0_CD)) ||
        (cr4 & ~x86_cr4_allowed(cpu)) || ((efer & EFER_LMA) && !(cr4 & CR4_PAE))) {
        /* The save area was spoiled: shutdown (SDM vol. 3 31.4.1.1). */
        cpu->halted = cpu->shutdown = true;
        if (cpu->env.request_reset != NULL) {
            cpu->env.request_reset(cpu->env.opaque);
        }
        return;
    }
    for (int i = 0; i < SEG_COUNT; i++) {
        load_segment(cpu, SAVE_SEGMENTS + (unsigned)i * 16, &cpu->segs[i]);
    }
    load_segment(cpu, SAVE_LDTR, &cpu->segs[SEG_LDTR]);
    load_segment(cpu, SAVE_TR, &cpu->segs[SEG_TR]);
    cpu->gdt.limit = (uint16_t)get(cpu, SAVE_GDTR + 4, 2);
    cpu->gdt.base = get(cpu, SAVE_GDTR + 8, 8);
    cpu->idt.limit = (uint16_t)get(cpu, SAVE_IDTR + 4, 2);
    cpu->idt.base = get(cpu, SAVE_IDTR + 8, 8);
    bool restart_halt = get(cpu, SAVE_HALT_RESTART, 1) & 1;
    uint64_t smbase = get(cpu, SAVE_SMBASE, 4);
    cpu->cr0 = cr0 | CR0_ET;
    cpu->cr4 = cr4;
    cpu->cr3 = get(cpu, SAVE_CR3, 8);
    cpu->efer = efer;
    cpu->dr[7] = get(cpu, SAVE_DR7, 8);
    cpu->dr[6] = get(cpu, SAVE_DR6, 8);
    uint64_t flags = get(cpu, SAVE_RFLAGS, 8);
    cpu->rip = get(cpu, SAVE_RIP, 8);
    for (unsigned i = 0; i < 16; i++) {
        cpu->regs[saved_gprs[i]] = get(cpu, SAVE_GPRS + i * 8, 8);
    }
    cpu->smbase = smbase;
    cpu->nmi_blocked = cpu->smm_saved_nmi_blocked;
    cpu->cpl = (flags & FLAG_VM) ? 3 : (cr0 & CR0_PE) ? (cpu->segs[SEG_SS].attr >> DESC_DPL_SHIFT) & 3 : 0;
    switch_space(cpu, false);
    x86_set_rflags(cpu, (flags & 0x3f7fd7) | FLAG_ONE);
    x86_update_mode(cpu);
    cpu->halted = restart_halt;
    TRACE(smm_leave, cpu->index, (unsigned long)cpu->rip);
}
