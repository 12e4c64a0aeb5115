/*
 * Descriptors, segment registers and stacks: what segment.c, exception.c and task.c share.
 * SDM vol. 3 chapters 3, 5 and 6. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_SEGMENT_H
#define RHEA_ARCH_X86_SEGMENT_H

#include "arch/x86/cpu.h"
#include "arch/x86/mmu.h"

/* System descriptor types, SDM vol. 3 table 3-2. */
enum {
    DESC_TSS16 = 1,
    DESC_LDT = 2,
    DESC_TSS16_BUSY = 3,
    DESC_CALL16 = 4,
    DESC_TASK_GATE = 5,
    DESC_INT16 = 6,
    DESC_TRAP16 = 7,
    DESC_TSS32 = 9,
    DESC_TSS32_BUSY = 11,
    DESC_CALL32 = 12,
    DESC_INT32 = 14,
    DESC_TRAP32 = 15,
};
#define DESC_ATTR_MASK 0x00f0ff00u

typedef struct Descriptor {
    uint32_t low, high;
} Descriptor;

static inline unsigned descriptor_type(Descriptor d)
{
    return (d.high >> DESC_TYPE_SHIFT) & 15;
}
static inline unsigned descriptor_dpl(Descriptor d)
{
    return (d.high >> DESC_DPL_SHIFT) & 3;
}
static inline bool descriptor_is_code(Descriptor d)
{
    return (d.high & DESC_S) && (d.high & DESC_CODE);
}
static inline bool descriptor_is_writable_data(Descriptor d)
{
    return (d.high & DESC_S) && !(d.high & DESC_CODE) && (d.high & DESC_W);
}
static inline uint32_t descriptor_base(Descriptor d)
{
    return (d.low >> 16) | ((d.high & 0xff) << 16) | (d.high & 0xff000000);
}
static inline uint32_t descriptor_limit(Descriptor d)
{
    uint32_t limit = (d.low & 0xffff) | (d.high & 0x000f0000);

    return d.high & DESC_G ? (limit << 12) | 0xfff : limit;
}
static inline bool selector_is_null(uint16_t selector)
{
    return (selector & 0xfffc) == 0;
}

static inline bool in_long_mode(const X86Cpu *cpu)
{
    return cpu->efer & EFER_LMA;
}
static inline bool in_protected_mode(const X86Cpu *cpu)
{
    return (cpu->cr0 & CR0_PE) && !(cpu->rflags & FLAG_VM);
}
static inline bool in_64bit_mode(const X86Cpu *cpu)
{
    return cpu->mode & MODE_CS64;
}

/* Reads descriptor memory as the processor itself does. false: beyond the table's limit or no table. May
 * raise #PF. */
bool descriptor_read(X86Cpu *cpu, uint16_t selector, Descriptor *d);
/* The upper half of a 16-byte system descriptor. */
bool descriptor_read_upper(X86Cpu *cpu, uint16_t selector, Descriptor *d);
/* The linear address of a selector's descriptor, which descriptor_read has found. */
uint64_t descriptor_address(X86Cpu *cpu, uint16_t selector);
/* Sets the accessed bit in memory where it is clear. */
void descriptor_set_accessed(X86Cpu *cpu, uint16_t selector, Descriptor *d);
void segment_set(X86Cpu *cpu, int seg, uint16_t selector, Descriptor d);
void segment_set_null(X86Cpu *cpu, int seg, uint16_t selector);
void segment_set_real(X86Cpu *cpu, int seg, uint16_t selector); /* real mode */
void segment_set_vm86(X86Cpu *cpu, int seg, uint16_t selector);
/* Loads CS and CPL, and updates the mode. */
void segment_set_cs(X86Cpu *cpu, uint16_t selector, Descriptor d, unsigned cpl);
/* RIP's form for a code segment: checks a target against limit or canonical form, #GP(error). */
uint64_t code_check_target(X86Cpu *cpu, Descriptor d, uint64_t offset, uint32_t error);
/* SS:ESP of a privilege level from the TSS; #TS(TR's selector + ext). */
void tss_stack(X86Cpu *cpu, unsigned level, unsigned ext, uint16_t *ss, uint64_t *sp);
uint64_t tss64_stack(X86Cpu *cpu, unsigned slot_offset, unsigned ext);

/* A stack while a transfer is being worked out: registers change only when all pushes or pops went through.
 */
typedef struct Stack {
    X86Cpu *cpu;
    X86Segment ss;
    uint64_t sp, mask;
    bool is64;
    MmuIndex index;
    uint32_t error; /* of #SS */
} Stack;
Stack stack_current(X86Cpu *cpu);
/* The stack of an inner level, from the TSS, with its checks (not for long mode). */
Stack stack_inner(X86Cpu *cpu, unsigned level, unsigned ext, uint16_t *ss, Descriptor *ss_descriptor);
void stack_push(Stack *s, unsigned size, uint64_t value);
uint64_t stack_pop(Stack *s, unsigned size);
/* The stack pointer as the register receives it. */
uint64_t stack_pointer(const Stack *s, uint64_t old_rsp);
static inline MmuIndex mmu_index_of(const X86Cpu *cpu, unsigned cpl)
{
    return cpl == 3 ? MMU_USER : (cpu->rflags & FLAG_AC) ? MMU_KERNEL_AC : MMU_KERNEL;
}
static inline uint64_t stack_mask(const X86Cpu *cpu)
{
    return in_64bit_mode(cpu) ? UINT64_MAX : (cpu->segs[SEG_SS].attr & DESC_B) ? UINT32_MAX : UINT16_MAX;
}

/* Delivers one event, raising what goes wrong (exception.c). */
void event_deliver(X86Cpu *cpu, EventKind kind, int vector, bool has_error, uint32_t error_code,
                   uint64_t return_rip);
/* The processor gives up: nothing but INIT or reset helps, and the board is asked for the latter. */
void x86_shutdown(X86Cpu *cpu);
/* SMM (smm.c). */
void smm_enter(X86Cpu *cpu);
/* #DB bookkeeping when an exception or task switch is delivered (debug.c). */
void debug_io(X86Cpu *cpu, uint16_t port, unsigned size);
void debug_on_task_switch(X86Cpu *cpu, bool trap_flag);

#endif
