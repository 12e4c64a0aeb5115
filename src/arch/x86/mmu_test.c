/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "arch/x86/cpu_fixture.h"

/* Where the tables lie: one page a level, and the page that is mapped. */
#define PML4 UINT64_C(0x100000)
#define PDPT UINT64_C(0x101000)
#define PD   UINT64_C(0x102000)
#define PT   UINT64_C(0x103000)
#define PAGE UINT64_C(0x200000)

#define P  UINT64_C(1)
#define W  UINT64_C(2)
#define U  UINT64_C(4)
#define A  UINT64_C(0x20)
#define D  UINT64_C(0x40)
#define PS UINT64_C(0x80)
#define G  UINT64_C(0x100)
#define NX (UINT64_C(1) << 63)

#define LINEAR UINT64_C(0x40201000) /* PML4 0, PDPT 1, PD 1, PT 1 */

static void long_mode(CpuFixture *f)
{
    f->cpu->efer = EFER_LME | EFER_LMA | EFER_NXE;
    f->cpu->cr4 = CR4_PAE | CR4_PGE;
    f->cpu->cr0 = CR0_PE | CR0_PG | CR0_ET;
    f->cpu->cr3 = PML4;
    f->cpu->segs[SEG_CS].attr |= DESC_L;
    x86_update_mode(f->cpu);
    mmu_flush(f->cpu, false);
}

static void map(CpuFixture *f, uint64_t upper, uint64_t leaf)
{
    poke(f, PML4, 8, PDPT | P | W | U);
    poke(f, PDPT + 8, 8, PD | P | W | U);
    poke(f, PD + 8, 8, PT | upper);
    poke(f, PT + 8, 8, PAGE | leaf);
}

/* Every combination of rights on two levels, of the control bits, and of the access, against SDM vol.
 * 3 4.6.1. */
static void test_rights(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;
    unsigned checked = 0;

    long_mode(f);
    for (unsigned bits = 0; bits < 1u << 11; bits++) {
        uint64_t upper = P | (bits & 1 ? W : 0) | (bits & 2 ? U : 0) | (bits & 4 ? NX : 0);
        uint64_t leaf = P | (bits & 8 ? W : 0) | (bits & 16 ? U : 0) | (bits & 32 ? NX : 0);
        bool wp = bits & 64, smep = bits & 128, smap = bits & 256;
        bool writable = upper & leaf & W, user = upper & leaf & U, nx = (upper | leaf) & NX;
        cpu->cr0 = CR0_PE | CR0_PG | CR0_ET | (wp ? CR0_WP : 0);
        cpu->cr4 = CR4_PAE | (smep ? CR4_SMEP : 0) | (smap ? CR4_SMAP : 0);
        for (int index = MMU_KERNEL; index <= MMU_USER; index++) {
            MmuAccess access = (MmuAccess)(bits >> 9);
            if (access > MMU_EXEC) {
                continue;
            }
            bool ok;
            if (index == MMU_USER) {
                ok = user && (access != MMU_WRITE || writable) && (access != MMU_EXEC || !nx);
            } else {
                ok = access == MMU_EXEC
                         ? !nx && !(smep && user)
                         : !(smap && user && index == MMU_KERNEL) && (access == MMU_READ || writable || !wp);
            }
            map(f, upper, leaf);
            MmuTranslation tr;
            uint32_t error = 0;
            bool walked = mmu_walk(cpu, LINEAR + 0x123, access, (MmuIndex)index, &tr, &error);
            g_assert_cmpint(walked, ==, ok);
            checked++;
            uint64_t pte = peek(f, PT + 8, 8);
            if (ok) {
                g_assert_cmphex(tr.gpa, ==, PAGE + 0x123);
                g_assert_cmphex(pte, ==, PAGE | leaf | A | (access == MMU_WRITE ? D : 0));
            } else {
                uint32_t expected = 1 | (access == MMU_WRITE ? 2 : 0) | (index == MMU_USER ? 4 : 0) |
                                    (access == MMU_EXEC ? 16 : 0);
                g_assert_cmphex(error, ==, expected);
                g_assert_cmphex(pte, ==, PAGE | leaf); /* a refused access leaves the leaf alone */
            }
            g_assert_cmphex(peek(f, PD + 8, 8) & A, ==, A);
        }
    }
    g_assert_cmpuint(checked, ==, 512 * 3 * 3);
}

static void test_faults(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;
    MmuTranslation tr;
    uint32_t error;

    long_mode(f);
    map(f, P | W | U, 0);
    g_assert_false(mmu_walk(cpu, LINEAR, MMU_WRITE, MMU_USER, &tr, &error));
    g_assert_cmphex(error, ==, 6); /* not present, write, user */
    map(f, P | W | U, P | UINT64_C(1) << cpu->phys_bits);
    g_assert_false(mmu_walk(cpu, LINEAR, MMU_READ, MMU_KERNEL, &tr, &error));
    g_assert_cmphex(error, ==, 9); /* present, reserved bit */
    map(f, P | W | U, P | NX);
    cpu->efer &= ~(uint64_t)EFER_NXE;
    g_assert_false(mmu_walk(cpu, LINEAR, MMU_READ, MMU_KERNEL, &tr, &error));
    g_assert_cmphex(error, ==, 9); /* bit 63 is reserved without EFER.NXE */
    cpu->efer |= EFER_NXE;
    poke(f, PD + 8, 8, 0x400000 | P | W | PS);
    g_assert_true(mmu_walk(cpu, LINEAR + 5, MMU_READ, MMU_KERNEL, &tr, &error));
    g_assert_cmphex(tr.gpa, ==, 0x401005);
    g_assert_cmphex(tr.page_size, ==, 2 << 20);
    poke(f, PD + 8, 8, 0x402000 | P | W | PS); /* address bits below 2 MiB are reserved */
    g_assert_false(mmu_walk(cpu, LINEAR, MMU_READ, MMU_KERNEL, &tr, &error));
    g_assert_cmphex(error, ==, 9);
    g_assert_cmpint(CATCH(cpu, x86_ld8(cpu, UINT64_C(0x800000000000))), ==, EXC_GP);
    g_assert_true(cpu->exc.noncanonical);
    map(f, P | W | U, 0);
    g_assert_cmpint(CATCH(cpu, x86_st32(cpu, LINEAR + 8, 1)), ==, EXC_PF);
    g_assert_cmphex(cpu->cr2, ==, LINEAR + 8);
    g_assert_cmphex(cpu->exc.error_code, ==, 2);
}

static void test_32bit(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;
    MmuTranslation tr;
    uint32_t error;

    cpu->cr0 = CR0_PE | CR0_PG | CR0_ET;
    cpu->cr3 = PML4;
    cpu->cr4 = CR4_PSE;
    poke(f, PML4 + 4, 4, PT | P | W | U); /* 4 to 8 MiB */
    poke(f, PT + 4, 4, PAGE | P | W);
    poke(f, PML4 + 8, 4, 0x800000 | P | W | PS | 0x2000); /* 8 MiB: a large page at 4 GiB + 8 MiB (PSE-36) */
    g_assert_true(mmu_walk(cpu, 0x401234, MMU_WRITE, MMU_KERNEL, &tr, &error));
    g_assert_cmphex(tr.gpa, ==, PAGE + 0x234);
    g_assert_cmphex(peek(f, PT + 4, 4), ==, PAGE | P | W | A | D);
    g_assert_true(mmu_walk(cpu, 0x812345, MMU_READ, MMU_KERNEL, &tr, &error));
    g_assert_cmphex(tr.gpa, ==, UINT64_C(0x100812345));
    g_assert_false(mmu_walk(cpu, 0x401234, MMU_READ, MMU_USER, &tr, &error));
    g_assert_cmphex(error, ==, 5);
}

static void test_tlb(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;
    RamBlock *ram = f->ram.ram;

    long_mode(f);
    map(f, P | W | U, P | W | U | G);
    x86_st64(cpu, LINEAR, UINT64_C(0x1122334455667788));
    g_assert_cmphex(peek(f, PAGE, 8), ==, UINT64_C(0x1122334455667788));
    TlbEntry *e = mmu_entry(cpu->mmu, MMU_KERNEL, LINEAR);
    x86_st64(cpu, LINEAR, 5);
    g_assert_cmphex(e->tag[MMU_WRITE], ==, LINEAR);

    /* The mapping goes elsewhere: seen after INVLPG, not before; global entries outlive CR3. */
    poke(f, PT + 8, 8, (PAGE + 0x1000) | P | W | U | G);
    g_assert_cmphex(x86_ld64(cpu, LINEAR), ==, 5);
    mmu_switch(cpu, cpu->cr3, false);
    g_assert_cmphex(x86_ld64(cpu, LINEAR), ==, 5);
    mmu_flush_page(cpu, LINEAR);
    g_assert_cmphex(x86_ld64(cpu, LINEAR), ==, 0);

    /* Who clears a dirty bit takes the write tag away, and hears of the next write. */
    x86_st8(cpu, LINEAR, 1);
    x86_st8(cpu, LINEAR, 2);
    g_assert_cmphex(e->tag[MMU_WRITE], ==, LINEAR);
    g_assert_true(ram_test_and_clear_dirty(ram, PAGE + 0x1000, 4096, DIRTY_MIGRATION));
    g_assert_cmphex(e->tag[MMU_WRITE], !=, LINEAR);
    g_assert_false(ram_test_and_clear_dirty(ram, PAGE + 0x1000, 4096, DIRTY_MIGRATION));
    x86_st8(cpu, LINEAR, 3);
    g_assert_true(ram_test_and_clear_dirty(ram, PAGE + 0x1000, 4096, DIRTY_MIGRATION));

    /* A page of data that crosses into one that is not there stays as it was. */
    x86_st32(cpu, LINEAR + 0xff8, 0);
    g_assert_cmpint(CATCH(cpu, x86_st64(cpu, LINEAR + 0xffc, UINT64_MAX)), ==, EXC_PF);
    g_assert_cmphex(cpu->cr2, ==, LINEAR + 0x1000);
    g_assert_cmphex(x86_ld32(cpu, LINEAR + 0xffc), ==, 0);
    poke(f, PT + 16, 8, PAGE | P | W | U);
    x86_st64(cpu, LINEAR + 0xffc, UINT64_C(0x0123456789abcdef));
    g_assert_cmphex(peek(f, PAGE + 0x1ffc, 4), ==, 0x89abcdef);
    g_assert_cmphex(peek(f, PAGE, 4), ==, 0x01234567);
    g_assert_cmphex(x86_ld64(cpu, LINEAR + 0xffc), ==, UINT64_C(0x0123456789abcdef));
}

static void test_a20(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    x86_st8(cpu, 0x100000, 0x11);
    x86_st8(cpu, 0, 0x22);
    g_assert_cmphex(x86_ld8(cpu, 0x100000), ==, 0x11);
    x86_cpu_set_a20(cpu, false);
    mmu_process_pending(cpu);
    g_assert_cmphex(x86_ld8(cpu, 0x100000), ==, 0x22);
    x86_cpu_set_a20(cpu, true);
    mmu_process_pending(cpu);
    g_assert_cmphex(x86_ld8(cpu, 0x100000), ==, 0x11);
}

#define TEST(name) g_test_add("/mmu/" #name, CpuFixture, NULL, fixture_setup, test_##name, fixture_teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(rights);
    TEST(faults);
    TEST(32bit);
    TEST(tlb);
    TEST(a20);
    return g_test_run();
}
