/*
 * System management mode: entry and RSM, with the state save area of AMD APM vol. 2 table 10-1 (revision
 * 0x20064), which firmware for 64-bit processors expects.
 *
 * The revision offers SMBASE relocation (bit 17) but no I/O instruction restart (bit 16): an SMI comes after
 * the instruction that caused it, so that its field is written as 0 and not looked at.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/apic.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/segment.h"
#include "arch/x86/system.h"
#include "base/log.h"
#include "trace/trace.h"

TRACE_EVENT(smm_enter, "cpu %u rip %lx");
TRACE_EVENT(smm_leave, "cpu %u rip %lx");

#define SMM_REVISION 0x00020064u
/* Of RFLAGS: all that is defined, the fixed bit 1 apart. */
#define SAVED_FLAGS                                                                                  \
    (FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | \
     FLAG_VIF | FLAG_VIP | FLAG_ID)

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

/* Bases and tables hold canonical addresses only. */
static uint64_t canonical(uint64_t linear)
{
    return (uint64_t)((int64_t)(linear << 16) >> 16);
}

static void load_segment(X86Cpu *cpu, unsigned offset, X86Segment *s)
{
    uint32_t attr = (uint32_t)get(cpu, offset + 2, 2);

    s->selector = (uint16_t)get(cpu, offset, 2);
    s->attr = (attr & 0xff) << 8 | (attr & 0xf00) << 12;
    s->limit = (uint32_t)get(cpu, offset + 4, 4);
    s->base = canonical(get(cpu, offset + 8, 8));
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
    mmu_flush(cpu, false); /* paging is off, and so is CR4.PCIDE */
    x86_set_rflags(cpu, FLAG_ONE);
    x86_update_mode(cpu);
}

/* What RSM checks before it loads anything: SDM vol. 2 RSM, AMD APM vol. 2 10.4. */
static const char *saved_state_flaw(X86Cpu *cpu)
{
    uint64_t cr0 = get(cpu, SAVE_CR0, 8), cr3 = get(cpu, SAVE_CR3, 8), cr4 = get(cpu, SAVE_CR4, 8);
    uint64_t efer = get(cpu, SAVE_EFER, 8);
    bool long_mode = (cr0 & CR0_PG) && (efer & EFER_LME);
    X86Segment cs;

    load_segment(cpu, SAVE_SEGMENTS + SEG_CS * 16, &cs);
    if (cr0 >> 32 || ((cr0 & CR0_PG) && !(cr0 & CR0_PE)) || ((cr0 & CR0_NW) && !(cr0 & CR0_CD))) {
        return "CR0";
    }
    if (cr3 >> cpu->phys_bits) {
        return "CR3";
    }
    if (cr4 & ~x86_cr4_allowed(cpu)) {
        return "CR4";
    }
    if (efer & ~x86_efer_allowed(cpu)) {
        return "EFER";
    }
    if (long_mode ? !(cr4 & CR4_PAE) : cr4 & CR4_PCIDE) {
        return "CR4 with EFER";
    }
    if (long_mode && (cs.attr & DESC_L) && (cs.attr & DESC_B)) {
        return "CS";
    }
    if (get(cpu, SAVE_DR6, 8) >> 32 || get(cpu, SAVE_DR7, 8) >> 32) {
        return "DR6 or DR7";
    }
    return NULL;
}

/* The whole of the save area that RSM loads. No state comes out of it that no processor can be in, whatever
 * the handler wrote. */
static void load_state(X86Cpu *cpu)
{
    uint64_t cr0 = get(cpu, SAVE_CR0, 8), flags = get(cpu, SAVE_RFLAGS, 8);
    bool restart_halt = get(cpu, SAVE_HALT_RESTART, 1) & 1;
    uint64_t smbase = get(cpu, SAVE_SMBASE, 4);

    for (int i = 0; i < SEG_COUNT; i++) {
        load_segment(cpu, SAVE_SEGMENTS + (unsigned)i * 16, &cpu->segs[i]);
    }
    load_segment(cpu, SAVE_LDTR, &cpu->segs[SEG_LDTR]);
    load_segment(cpu, SAVE_TR, &cpu->segs[SEG_TR]);
    cpu->gdt.limit = (uint16_t)get(cpu, SAVE_GDTR + 4, 2);
    cpu->gdt.base = canonical(get(cpu, SAVE_GDTR + 8, 8));
    cpu->idt.limit = (uint16_t)get(cpu, SAVE_IDTR + 4, 2);
    cpu->idt.base = canonical(get(cpu, SAVE_IDTR + 8, 8));
    for (unsigned i = 0; i < 16; i++) {
        cpu->regs[saved_gprs[i]] = get(cpu, SAVE_GPRS + i * 8, 8);
    }
    cpu->rip = get(cpu, SAVE_RIP, 8);
    cpu->cr3 = get(cpu, SAVE_CR3, 8);
    cpu->cr4 = get(cpu, SAVE_CR4, 8);
    /* LMA follows from the others, as it does when CR0 is written. */
    cpu->efer = get(cpu, SAVE_EFER, 8) & ~(uint64_t)EFER_LMA;
    if ((cr0 & CR0_PG) && (cpu->efer & EFER_LME)) {
        cpu->efer |= EFER_LMA;
    }
    cpu->cr0 =
        (cr0 & (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)) |
        CR0_ET;
    cpu->dr[7] = get(cpu, SAVE_DR7, 8) | 0x400;
    cpu->dr[6] = get(cpu, SAVE_DR6, 8);
    if (!(cr0 & CR0_PE) || (cpu->efer & EFER_LMA)) {
        flags &= ~(uint64_t)FLAG_VM;
    }
    cpu->cpl = 0;
    if (cr0 & CR0_PE) {
        cpu->cpl = (flags & FLAG_VM) ? 3 : (cpu->segs[SEG_SS].attr >> DESC_DPL_SHIFT) & 3;
    }
    /* Last, since the area lies where the old SMBASE says, in memory that may only be seen in SMM. */
    cpu->smbase = smbase;
    switch_space(cpu, false);
    x86_set_rflags(cpu, (flags & SAVED_FLAGS) | FLAG_ONE);
    x86_update_mode(cpu);
    if (!(cpu->mode & MODE_CS64)) {
        cpu->rip = (uint32_t)cpu->rip;
    }
    cpu->halted = restart_halt;
}

void x86_rsm(X86Cpu *cpu)
{
    if (!cpu->in_smm) {
        x86_raise(cpu, EXC_UD);
    }
    const char *flaw = saved_state_flaw(cpu);
    if (flaw != NULL) {
        LOG(LOG_CPU_RESET, "cpu %u: RSM finds what cannot be in the saved %s: shutdown", cpu->index, flaw);
        x86_shutdown(cpu);
        return;
    }
    load_state(cpu);
    if (!cpu->smm_saved_nmi_blocked) {
        x86_nmi_unblock(cpu);
    }
    cpu->nmi_blocked = cpu->smm_saved_nmi_blocked;
    TRACE(smm_leave, cpu->index, (unsigned long)cpu->rip);
}
