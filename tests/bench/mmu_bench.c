/*
 * What a TLB miss of the software CPU costs: nanoseconds for each page of a walk through more pages than the
 * TLB holds, by mmu_refill() and through the interpreter's slow path, and what switches between contexts
 * cost. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/cpu_fixture.h"

#include <stdio.h>
#include <time.h>

#define PML4   UINT64_C(0x100000)
#define PDPT   UINT64_C(0x101000)
#define PD     UINT64_C(0x102000)
#define TABLES UINT64_C(0x200000) /* 32 of them: 64 MiB */
#define DATA   UINT64_C(0x400000) /* 8 MiB that the 64 map to */
#define PAGES  16384u
#define LINEAR UINT64_C(0x40000000)
#define P_W_U  UINT64_C(7)
#define A_D    UINT64_C(0x60)

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static uint64_t page_at(unsigned i, bool scattered)
{
    return LINEAR + (uint64_t)(scattered ? (i * 7919u) % PAGES : i) * 4096;
}

typedef enum How { REFILL_READ, REFILL_WRITE, SLOW_READ, SLOW_WRITE } How;

static double round_ns(X86Cpu *cpu, How how, bool scattered, bool drop_tables)
{
    double start = now_ns();
    uint64_t sum = 0;

    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t linear = page_at(i, scattered) + 8;
        if (drop_tables) {
            mmu_flush_page(cpu,
                           LINEAR + PAGES * UINT64_C(4096)); /* some other page: INVLPG's price included */
        }
        switch (how) {
        case REFILL_READ:
            g_assert_true(mmu_refill(cpu, linear, MMU_READ));
            break;
        case REFILL_WRITE:
            g_assert_true(mmu_refill(cpu, linear, MMU_WRITE));
            break;
        case SLOW_READ:
            sum += mmu_load_slow(cpu, linear, 8, MMU_KERNEL);
            break;
        case SLOW_WRITE:
            mmu_store_slow(cpu, linear, sum, 8, MMU_KERNEL);
            break;
        }
    }
    return (now_ns() - start) / PAGES;
}

static void measure(X86Cpu *cpu, const char *name, How how, bool scattered, bool drop_tables)
{
    double best = 1e9;

    for (unsigned i = 0; i < 20; i++) {
        best = MIN(best, round_ns(cpu, how, scattered, drop_tables));
    }
    printf("%-52s %7.1f ns\n", name, best);
}

static void measure_switch(X86Cpu *cpu, const char *name, unsigned contexts, bool no_flush, unsigned touched)
{
    double best = 1e9;

    for (unsigned round = 0; round < 20; round++) {
        double spent = 0;
        for (unsigned i = 0; i < 400; i++) {
            for (unsigned k = 0; k < touched; k++) {
                x86_ld8_idx(cpu, page_at(k, false), MMU_USER);
            }
            double start = now_ns();
            mmu_switch(cpu, PML4 | (i % contexts), no_flush);
            spent += now_ns() - start;
        }
        best = MIN(best, spent / 400);
    }
    printf("%-52s %7.1f ns\n", name, best);
}

/* Of users' pages, as page faults do it, while the kernel has all memory mapped by large pages. */
static void measure_invlpg(CpuFixture *f)
{
    X86Cpu *cpu = f->cpu;
    double best = 1e9;

    poke(f, PML4 + 511 * 8, 8, (PDPT + 0x3000) | P_W_U);
    poke(f, PDPT + 0x3000 + 8, 8, (PD + 0x3000) | P_W_U);
    for (unsigned i = 0; i < 512; i++) {
        poke(f, PD + 0x3000 + i * 8, 8, (uint64_t)(i % 8) << 21 | P_W_U | A_D | 0x180); /* large and global */
    }
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 8 * TLB_SIZE; i++) {
            x86_ld8_idx(cpu, UINT64_C(0xffffff8040000000) + i * UINT64_C(0x61000) % (1 << 30), MMU_KERNEL);
        }
        double start = now_ns();
        for (unsigned i = 0; i < 1000; i++) {
            mmu_flush_page(cpu, page_at(i, false));
        }
        best = MIN(best, (now_ns() - start) / 1000);
    }
    printf("%-52s %7.1f ns\n", "INVLPG of a user's page", best);
}

/* What a page of code that is about to be translated costs (or one whose log is read): nobody may write it
 * unseen. */
static void measure_clear(CpuFixture *f, const char *name, unsigned contexts, uint64_t gpa)
{
    X86Cpu *cpu = f->cpu;
    double best = 1e9;

    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < contexts; i++) {
            mmu_switch(cpu, PML4 | i, true);
            for (unsigned k = 0; k < TLB_SIZE; k++) {
                x86_st8_idx(cpu, page_at(k + round * 100, false), 0, MMU_USER);
                x86_st8_idx(cpu, page_at(k + round * 100, false), 0, MMU_KERNEL_AC);
                x86_st8_idx(cpu, page_at(k + round * 100, false), 0, MMU_KERNEL);
            }
        }
        double start = now_ns();
        for (unsigned i = 0; i < 100; i++) {
            ram_test_and_clear_dirty(f->ram.ram, gpa + (i & 1) * 4096, 4096, DIRTY_MIGRATION);
            ram_written(f->ram.ram, gpa + (i & 1) * 4096, 4096);
        }
        best = MIN(best, (now_ns() - start) / 100);
    }
    printf("%-52s %7.1f ns\n", name, best);
}

int main(void)
{
    CpuFixture f = { 0 };

    fixture_setup(&f, NULL);
    X86Cpu *cpu = f.cpu;
    cpu->efer = EFER_LME | EFER_LMA | EFER_NXE;
    cpu->cr4 = CR4_PAE | CR4_PGE | CR4_PCIDE;
    cpu->cr0 = CR0_PE | CR0_PG | CR0_ET;
    cpu->cr3 = PML4;
    cpu->segs[SEG_CS].attr |= DESC_L;
    x86_update_mode(cpu);
    mmu_flush(cpu, false);
    poke(&f, PML4, 8, PDPT | P_W_U);
    poke(&f, PDPT + 8, 8, PD | P_W_U);
    for (unsigned i = 0; i < PAGES; i++) {
        if (i % 512 == 0) {
            poke(&f, PD + i / 512 * 8, 8, (TABLES + i / 512 * 4096) | P_W_U);
        }
        poke(&f, TABLES + i * 8, 8, (DATA + (i % 2048) * 4096) | P_W_U | A_D);
        poke(&f, DATA + (i % 2048) * 4096, 8, i);
    }
    measure(cpu, "mmu_refill, read, in order", REFILL_READ, false, false);
    measure(cpu, "mmu_refill, read, scattered", REFILL_READ, true, false);
    measure(cpu, "mmu_refill, write, scattered", REFILL_WRITE, true, false);
    measure(cpu, "mmu_refill, read, all levels walked (and INVLPG)", REFILL_READ, true, true);
    measure(cpu, "mmu_load_slow, scattered", SLOW_READ, true, false);
    measure(cpu, "mmu_store_slow, scattered", SLOW_WRITE, true, false);
    measure_switch(cpu, "switch among 4 contexts, kept, 0 pages touched", 4, true, 0);
    measure_switch(cpu, "switch among 4 contexts, kept, 200 pages touched", 4, true, 200);
    measure_switch(cpu, "switch among 4 contexts, flushed, 200 pages touched", 4, false, 200);
    measure_switch(cpu, "switch among 12 PCIDs, 200 pages touched", 12, true, 200);
    measure_invlpg(&f);
    measure_clear(&f, "a page's dirty bit cleared, 1 context's TLB full", 1, PML4);
    measure_clear(&f, "a page's dirty bit cleared, 8 contexts' TLBs full", 8, PML4);
    fixture_teardown(&f, NULL);
    return 0;
}
