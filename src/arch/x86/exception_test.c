/*
 * Delivery of exceptions and interrupts, and task switches, without an executor.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/cpu_fixture.h"

#define GDT  0x1000u
#define IDT  0x2000u
#define TSS  0x3000u
#define TSS2 0x4000u
/* Selectors. */
enum { CODE0 = 0x08, DATA0 = 0x10, CODE3 = 0x1b, DATA3 = 0x23, TASK = 0x28, TASK2 = 0x30, CODE64 = 0x38 };

static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

static void gate32(CpuFixture *f, unsigned vector, unsigned selector, uint32_t offset, unsigned access)
{
    poke(f, IDT + vector * 8, 8,
         (offset & 0xffff) | selector << 16 | (uint64_t)access << 40 | (uint64_t)(offset >> 16) << 48);
}

static void load_flat_cs(CpuFixture *f, uint16_t cs, uint16_t ss)
{
    Descriptor d = { 0 };
    X86Cpu *cpu = f->cpu;

    g_assert_cmpint(CATCH(cpu, descriptor_read(cpu, cs, &d)), ==, -1);
    segment_set_cs(cpu, cs, d, cs & 3);
    g_assert_cmpint(CATCH(cpu, x86_load_segment(cpu, SEG_SS, ss)), ==, -1);
}

static void protected_setup(CpuFixture *f, gconstpointer data)
{
    fixture_setup(f, data);
    X86Cpu *cpu = f->cpu;
    poke(f, GDT + CODE0, 8, descriptor(0, 0xfffff, 0x9a, 0xc));
    poke(f, GDT + DATA0, 8, descriptor(0, 0xfffff, 0x92, 0xc));
    poke(f, GDT + (CODE3 & ~3), 8, descriptor(0, 0xfffff, 0xfa, 0xc));
    poke(f, GDT + (DATA3 & ~3), 8, descriptor(0, 0xfffff, 0xf2, 0xc));
    poke(f, GDT + TASK, 8, descriptor(TSS, 0x67, 0x89, 0));
    poke(f, GDT + TASK2, 8, descriptor(TSS2, 0x67, 0x89, 0));
    poke(f, GDT + CODE64, 8, descriptor(0, 0xfffff, 0x9a, 0xa));
    poke(f, TSS + 4, 4, 0x9000); /* ESP0 */
    poke(f, TSS + 8, 4, DATA0);
    cpu->gdt = (X86Table){ GDT, 0x7f };
    cpu->idt = (X86Table){ IDT, 0x7ff };
    cpu->cr0 |= CR0_PE;
    x86_update_mode(cpu);
    load_flat_cs(f, CODE0, DATA0);
    g_assert_cmpint(CATCH(cpu, x86_ltr(cpu, TASK)), ==, -1);
    g_assert_cmphex(peek(f, GDT + TASK + 5, 1), ==, 0x8b); /* busy now */
    cpu->regs[R_RSP] = 0x8000;
    cpu->rip = 0x1234;
    cpu->inhibit_interrupts = false;
}

static void test_same_level(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    gate32(f, EXC_UD, CODE0, 0x55667788, 0x8e);
    x86_set_rflags(cpu, FLAG_ONE | FLAG_IF | FLAG_CF);
    x86_deliver(cpu, EVENT_EXCEPTION, EXC_UD, false, 0);
    g_assert_cmphex(cpu->rip, ==, 0x55667788);
    g_assert_cmphex(cpu->regs[R_RSP], ==, 0x8000 - 12);
    g_assert_cmphex(peek(f, 0x7ff4, 4), ==, 0x1234);
    g_assert_cmphex(peek(f, 0x7ff8, 4), ==, CODE0);
    g_assert_cmphex(peek(f, 0x7ffc, 4), ==, FLAG_ONE | FLAG_IF | FLAG_CF | FLAG_RF); /* a fault pushes RF */
    g_assert_false(cpu->rflags & FLAG_IF);
    /* ... and back. */
    g_assert_cmpint(CATCH(cpu, x86_iret(cpu, 4, 0)), ==, -1);
    g_assert_cmphex(cpu->rip, ==, 0x1234);
    g_assert_cmphex(cpu->regs[R_RSP], ==, 0x8000);
    g_assert_true(cpu->rflags & FLAG_IF);
}

static void test_inner_level(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    cpu->cpl = 3;
    load_flat_cs(f, CODE3, DATA3);
    cpu->regs[R_RSP] = 0x7000;
    gate32(f, EXC_GP, CODE0, 0x4444, 0x8f); /* a trap gate leaves IF alone */
    x86_set_rflags(cpu, FLAG_ONE | FLAG_IF);
    x86_deliver(cpu, EVENT_EXCEPTION, EXC_GP, true, 0xabc);
    g_assert_cmpuint(cpu->cpl, ==, 0);
    g_assert_cmphex(cpu->rip, ==, 0x4444);
    g_assert_cmphex(cpu->segs[SEG_SS].selector, ==, DATA0);
    g_assert_cmphex(cpu->regs[R_RSP], ==, 0x9000 - 24);
    static const uint32_t frame[] = { 0xabc, 0x1234, CODE3, FLAG_ONE | FLAG_IF | FLAG_RF, 0x7000, DATA3 };
    for (unsigned i = 0; i < G_N_ELEMENTS(frame); i++) {
        g_assert_cmphex(peek(f, 0x9000 - 24 + i * 4, 4), ==, frame[i]);
    }
    g_assert_true(cpu->rflags & FLAG_IF);
    cpu->regs[R_RSP] += 4;
    g_assert_cmpint(CATCH(cpu, x86_iret(cpu, 4, 0)), ==, -1);
    g_assert_cmpuint(cpu->cpl, ==, 3);
    g_assert_cmphex(cpu->regs[R_RSP], ==, 0x7000);
    g_assert_cmphex(cpu->segs[SEG_SS].selector, ==, DATA3);
}

static void test_soft_int_dpl(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    cpu->cpl = 3;
    load_flat_cs(f, CODE3, DATA3);
    gate32(f, 0x40, CODE0, 0x4444, 0x8e); /* DPL 0 */
    g_assert_cmpint(CATCH(cpu, x86_int_n(cpu, 0x40, 0x1236)), ==, EXC_GP);
    g_assert_cmphex(cpu->exc.error_code, ==, 0x40 * 8 + 2);
    g_assert_cmphex(cpu->rip, ==, 0x1234);
    gate32(f, 0x40, CODE0, 0x4444, 0xee);
    g_assert_cmpint(CATCH(cpu, x86_int_n(cpu, 0x40, 0x1236)), ==, -1);
    g_assert_cmphex(peek(f, 0x9000 - 20, 4), ==, 0x1236);
    gate32(f, 0x41, CODE0, 0x4444, 0x6e); /* not present */
    g_assert_cmpint(CATCH(cpu, x86_int_n(cpu, 0x41, 0x1236)), ==, EXC_NP);
}

static void test_double_and_triple(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    /* #GP with a gate that names no code segment: contributory after contributory. */
    gate32(f, EXC_GP, DATA0, 0x4444, 0x8e);
    gate32(f, EXC_DF, CODE0, 0xdf00, 0x8e);
    x86_deliver(cpu, EVENT_EXCEPTION, EXC_GP, true, 0);
    g_assert_cmphex(cpu->rip, ==, 0xdf00);
    g_assert_cmphex(peek(f, 0x7ff0, 4), ==, 0); /* the error code of #DF */
    g_assert_false(f->reset_requested);
    /* #UD is benign: the second fault is delivered as what it is. */
    cpu->rip = 0x1234;
    cpu->regs[R_RSP] = 0x8000;
    gate32(f, EXC_UD, 0x70, 0x4444, 0x8e);
    gate32(f, EXC_GP, CODE0, 0x6666, 0x8e);
    x86_deliver(cpu, EVENT_EXCEPTION, EXC_UD, false, 0);
    g_assert_cmphex(cpu->rip, ==, 0x6666);
    g_assert_cmphex(peek(f, 0x7ff0, 4), ==, 0x70 | 1); /* EXT */
    /* No gate for #DF either: shutdown. */
    cpu->idt.limit = 0;
    x86_deliver(cpu, EVENT_EXCEPTION, EXC_GP, true, 0);
    g_assert_true(f->reset_requested);
    g_assert_true(cpu->shutdown);
}

static void test_real_mode(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    cpu->cr0 &= ~(uint64_t)CR0_PE;
    cpu->idt = (X86Table){ 0, 0x3ff };
    segment_set_real(cpu, SEG_CS, 0x100);
    segment_set_real(cpu, SEG_SS, 0);
    cpu->segs[SEG_SS].attr &= ~(uint32_t)DESC_B;
    cpu->regs[R_RSP] = UINT64_C(0xdead0002);
    x86_update_mode(cpu);
    poke(f, 0x21 * 4, 4, 0x12345678);
    g_assert_cmpint(CATCH(cpu, x86_int_n(cpu, 0x21, 0x99)), ==, -1);
    g_assert_cmphex(cpu->segs[SEG_CS].base, ==, 0x12340);
    g_assert_cmphex(cpu->rip, ==, 0x5678);
    g_assert_cmphex(cpu->regs[R_RSP], ==, UINT64_C(0xdeadfffc)); /* 16 bits wrap, the rest stays */
    g_assert_cmphex(peek(f, 0xfffc, 2), ==, 0x99);
    g_assert_cmphex(peek(f, 0xfffe, 2), ==, 0x100);
}

static void test_task_gate(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    poke(f, TSS2 + 0x20, 4, 0xaaaa); /* EIP */
    poke(f, TSS2 + 0x24, 4, FLAG_ONE);
    poke(f, TSS2 + 0x38, 4, 0x6000); /* ESP */
    poke(f, TSS2 + 0x28, 4, 0x1111); /* EAX */
    static const uint16_t segs[6] = { DATA0, CODE0, DATA0, DATA0, 0, 0 };
    for (unsigned i = 0; i < 6; i++) {
        poke(f, TSS2 + 0x48 + i * 4, 2, segs[i]);
    }
    gate32(f, EXC_GP, TASK2, 0, 0x85);
    cpu->regs[R_RAX] = 0x2222;
    x86_deliver(cpu, EVENT_EXCEPTION, EXC_GP, true, 0x77);
    g_assert_cmphex(cpu->rip, ==, 0xaaaa);
    g_assert_cmphex(cpu->regs[R_RAX], ==, 0x1111);
    g_assert_cmphex(cpu->segs[SEG_TR].selector, ==, TASK2);
    g_assert_cmphex(peek(f, TSS2, 2), ==, TASK); /* the link back */
    g_assert_true(cpu->rflags & FLAG_NT);
    g_assert_true(cpu->cr0 & CR0_TS);
    g_assert_cmphex(cpu->regs[R_RSP], ==, 0x5ffc);
    g_assert_cmphex(peek(f, 0x5ffc, 4), ==, 0x77);
    g_assert_cmphex(peek(f, TSS + 0x28, 4), ==, 0x2222); /* the old task is saved */
    g_assert_cmphex(peek(f, TSS + 0x20, 4), ==, 0x1234);
    g_assert_cmphex(peek(f, GDT + TASK + 5, 1), ==, 0x8b);
    g_assert_cmphex(peek(f, GDT + TASK2 + 5, 1), ==, 0x8b);
    /* IRET goes back and frees the inner task. */
    cpu->rip = 0xaaab;
    g_assert_cmpint(CATCH(cpu, x86_iret(cpu, 4, 0xaaac)), ==, -1);
    g_assert_cmphex(cpu->rip, ==, 0x1234);
    g_assert_cmphex(cpu->regs[R_RAX], ==, 0x2222);
    g_assert_cmphex(peek(f, GDT + TASK2 + 5, 1), ==, 0x89);
    g_assert_cmphex(peek(f, TSS2 + 0x20, 4), ==, 0xaaac);
    g_assert_false(cpu->rflags & FLAG_NT);
}

/* 64-bit mode with identity mapping by one 1-GiB page. */
static void test_long_mode_ist(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;
    Descriptor d;

    poke(f, 0x10000, 8, 0x11000 | 7);
    poke(f, 0x11000, 8, 0x12000 | 7);
    for (unsigned i = 0; i < 8; i++) {
        poke(f, 0x12000 + i * 8, 8, (i << 21) | 0x87);
    }
    cpu->cr3 = 0x10000;
    cpu->cr4 = CR4_PAE;
    cpu->efer = EFER_LME | EFER_LMA;
    cpu->cr0 |= CR0_PG;
    mmu_flush(cpu, false);
    g_assert_cmpint(CATCH(cpu, descriptor_read(cpu, CODE64, &d)), ==, -1);
    segment_set_cs(cpu, CODE64, d, 0);
    poke(f, TSS + 36 + 8, 8, 0xa008); /* IST2, not aligned to 16 */
    poke(f, IDT + EXC_PF * 16, 8, 0x4321 | CODE64 << 16 | UINT64_C(0x8e02) << 32);
    poke(f, IDT + EXC_PF * 16 + 8, 8, 0);
    cpu->idt.limit = 0xfff;
    cpu->regs[R_RSP] = 0x8123;
    x86_deliver(cpu, EVENT_EXCEPTION, EXC_PF, true, 6);
    g_assert_cmphex(cpu->rip, ==, 0x4321);
    g_assert_cmphex(cpu->regs[R_RSP], ==, 0xa000 - 48);
    g_assert_cmphex(peek(f, 0xa000 - 48, 8), ==, 6);
    g_assert_cmphex(peek(f, 0xa000 - 16, 8), ==, 0x8123);
    g_assert_cmphex(peek(f, 0xa000 - 40, 8), ==, 0x1234);
    cpu->regs[R_RSP] += 8;
    g_assert_cmpint(CATCH(cpu, x86_iret(cpu, 8, 0)), ==, -1);
    g_assert_cmphex(cpu->regs[R_RSP], ==, 0x8123);
    /* A return address that is not canonical is refused before anything changes. */
    poke(f, 0x8000, 8, UINT64_C(0x800000000000));
    poke(f, 0x8008, 8, CODE64);
    poke(f, 0x8010, 8, FLAG_ONE);
    poke(f, 0x8018, 8, 0x7000);
    poke(f, 0x8020, 8, DATA0);
    cpu->regs[R_RSP] = 0x8000;
    g_assert_cmpint(CATCH(cpu, x86_iret(cpu, 8, 0)), ==, EXC_GP);
    g_assert_cmphex(cpu->regs[R_RSP], ==, 0x8000);
}

static void test_segment_limits(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    poke(f, GDT + 0x40, 8, descriptor(0x5000, 0xfff, 0x92, 4)); /* 4 KiB of data */
    poke(f, GDT + 0x48, 8, descriptor(0, 0xfff, 0x96, 4));      /* expands down, above 4 KiB */
    poke(f, GDT + 0x50, 8, descriptor(0, 0xfffff, 0x98, 0xc));  /* execute only */
    g_assert_cmpint(CATCH(cpu, x86_load_segment(cpu, SEG_DS, 0x40)), ==, -1);
    volatile uint64_t linear = 0;
    g_assert_cmpint(CATCH(cpu, linear = x86_linear(cpu, SEG_DS, 0xffc, 4, true)), ==, -1);
    g_assert_cmphex(linear, ==, 0x5ffc);
    g_assert_cmpint(CATCH(cpu, x86_linear(cpu, SEG_DS, 0xffd, 4, true)), ==, EXC_GP);
    g_assert_cmpint(CATCH(cpu, x86_load_segment(cpu, SEG_SS, 0x48)), ==, -1);
    g_assert_cmpint(CATCH(cpu, x86_linear(cpu, SEG_SS, 0xfff, 1, true)), ==, EXC_SS);
    g_assert_cmpint(CATCH(cpu, x86_linear(cpu, SEG_SS, 0x1000, 4, true)), ==, -1);
    g_assert_cmpint(CATCH(cpu, x86_load_segment(cpu, SEG_ES, 0x50)), ==, EXC_GP);
    g_assert_cmphex(cpu->exc.error_code, ==, 0x50);
    g_assert_cmpint(CATCH(cpu, x86_load_segment(cpu, SEG_ES, 0)), ==, -1);
    g_assert_cmpint(CATCH(cpu, x86_linear(cpu, SEG_ES, 0, 1, false)), ==, EXC_GP);
    g_assert_cmpint(CATCH(cpu, x86_load_segment(cpu, SEG_SS, 0)), ==, EXC_GP);
    g_assert_cmpint(CATCH(cpu, x86_load_segment(cpu, SEG_DS, 0x100)), ==, EXC_GP); /* beyond the table */
}

#define TEST(name) \
    g_test_add("/exception/" #name, CpuFixture, NULL, protected_setup, test_##name, fixture_teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(same_level);
    TEST(inner_level);
    TEST(soft_int_dpl);
    TEST(double_and_triple);
    TEST(real_mode);
    TEST(task_gate);
    TEST(long_mode_ist);
    TEST(segment_limits);
    return g_test_run();
}
