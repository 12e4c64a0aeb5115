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

/* Protection keys: each of 16 keys with each of its rights, for users' and supervisors' pages, against SDM
 * vol. 3 4.6.2. */
static void test_keys(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    long_mode(f);
    cpu->cr4 = CR4_PAE | CR4_PKE | CR4_PKS;
    for (unsigned bits = 0; bits < 1u << 8; bits++) {
        unsigned key = bits & 15, rights = bits >> 4 & 3;
        bool wp = bits & 64, user_page = bits & 128;
        map(f, P | W | U, P | W | (user_page ? U : 0) | (uint64_t)key << 59);
        cpu->cr0 = CR0_PE | CR0_PG | CR0_ET | (wp ? CR0_WP : 0);
        for (int index = MMU_KERNEL; index <= MMU_USER; index++) {
            for (int access = MMU_READ; access <= MMU_EXEC; access++) {
                MmuTranslation tr;
                uint32_t error;
                bool writer = access == MMU_WRITE && (wp || index == MMU_USER);
                bool denied = access != MMU_EXEC && ((rights & 1) || ((rights & 2) && writer));
                bool others = index == MMU_USER && !user_page;
                cpu->pkru = user_page ? rights << (2 * key) : ~0u;
                cpu->pkrs = user_page ? ~0u : rights << (2 * key);
                mmu_flush(cpu, false);
                bool done = mmu_walk(cpu, LINEAR, (MmuAccess)access, (MmuIndex)index, &tr, &error);
                g_assert_cmpint(done, ==, !denied && !others);
                if (!done) {
                    g_assert_cmphex(error & 0x21, ==, denied ? 0x21 : 1);
                }
            }
        }
    }
    cpu->cr4 = CR4_PAE;
    MmuTranslation tr;
    uint32_t error;
    map(f, P | W | U, P | W | U | UINT64_C(5) << 59);
    mmu_flush(cpu, false);
    g_assert_true(mmu_walk(cpu, LINEAR, MMU_WRITE, MMU_USER, &tr, &error)); /* the keys mean nothing then */
}

/* What is cached under a key goes when its rights change, and only then. */
static void test_keys_cached(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    long_mode(f);
    cpu->cr4 = CR4_PAE | CR4_PKE;
    cpu->cpl = 3;
    x86_update_mode(cpu);
    map(f, P | W | U, P | W | U | UINT64_C(5) << 59);
    mmu_flush(cpu, false);
    x86_st32(cpu, LINEAR, 7);
    uint64_t drops = cpu->mmu->drops;
    mmu_set_keys(cpu, true, 3u << 12); /* of key 6 */
    g_assert_cmpuint(cpu->mmu->drops, ==, drops);
    mmu_set_keys(cpu, true, 2u << 10);
    g_assert_cmpuint(cpu->mmu->drops, !=, drops);
    g_assert_cmpuint(x86_ld32(cpu, LINEAR), ==, 7);
    g_assert_cmpint(CATCH(cpu, x86_st32(cpu, LINEAR, 8)), ==, EXC_PF);
    mmu_set_keys(cpu, true, 1u << 10);
    g_assert_cmpint(CATCH(cpu, (void)x86_ld32(cpu, LINEAR)), ==, EXC_PF);
    mmu_set_keys(cpu, true, 0);
    x86_st32(cpu, LINEAR, 9);
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
            mmu_flush_page(cpu, LINEAR);
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
    mmu_flush_page(cpu, LINEAR);
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

/* ---- address-space contexts ---- */

#define OLD 1
#define NEW 2

typedef struct Heard {
    unsigned calls, context;
    uint64_t linear;
    bool one_page;
} Heard;
static Heard heard;

static void hear(X86Cpu *cpu, unsigned context, uint64_t linear, bool one_page)
{
    heard = (Heard){ heard.calls + 1, context, linear, one_page };
}

/* What LINEAR maps to at first, or later on; nothing is invalidated. */
static void map_old(CpuFixture *f, uint64_t flags)
{
    map(f, P | W | U, P | W | U | flags);
}

static void map_new(CpuFixture *f, uint64_t flags)
{
    poke(f, PT + 8, 8, (PAGE + 0x1000) | P | W | U | flags);
}

static void pcids(CpuFixture *f)
{
    long_mode(f);
    f->cpu->cr4 |= CR4_PCIDE;
    mmu_flush(f->cpu, false);
    poke(f, PAGE, 1, OLD);
    poke(f, PAGE + 0x1000, 1, NEW);
    f->cpu->mmu->code_mapping_changed = hear;
    heard = (Heard){ 0 };
}

static void go(CpuFixture *f, unsigned pcid, bool flush)
{
    x86_write_cr(f->cpu, 3, PML4 | pcid | (flush ? 0 : UINT64_C(1) << 63));
    g_assert_cmphex(f->cpu->cr3, ==, PML4 | pcid);
    g_assert_true(f->cpu->tlb == f->cpu->mmu->table[f->cpu->mmu->index]);
}

static void sees(CpuFixture *f, MmuIndex index, int what)
{
    g_assert_cmpint(x86_ld8_idx(f->cpu, LINEAR, index), ==, what);
}

/* What is cached of one context is there again when it comes back; nobody else sees it. */
static void test_retention(CpuFixture *f, gconstpointer data)
{
    pcids(f);
    map_old(f, 0);
    go(f, 1, true);
    unsigned first = f->cpu->mmu->context;
    for (int index = MMU_KERNEL; index <= MMU_USER; index++) {
        sees(f, (MmuIndex)index, OLD);
    }
    map_new(f, 0);
    sees(f, MMU_USER, OLD);
    go(f, 1, false); /* the same one: nothing is dropped, in the shared table neither */
    sees(f, MMU_KERNEL, OLD);
    go(f, 2, false);
    g_assert_cmpuint(f->cpu->mmu->context, !=, first);
    sees(f, MMU_KERNEL, NEW);
    sees(f, MMU_KERNEL_AC, NEW);
    sees(f, MMU_USER, NEW);
    map_old(f, 0);
    go(f, 1, false);
    g_assert_cmpuint(f->cpu->mmu->context, ==, first);
    sees(f, MMU_KERNEL, OLD); /* walked again: the shared table keeps only what is global */
    map_new(f, 0);
    sees(f, MMU_KERNEL_AC, OLD);
    sees(f, MMU_USER, OLD);
    go(f, 1, true); /* flushes 1, and not 2 */
    sees(f, MMU_USER, NEW);
    sees(f, MMU_KERNEL_AC, NEW);
    map_old(f, 0);
    go(f, 2, false);
    sees(f, MMU_USER, NEW);
    sees(f, MMU_KERNEL_AC, NEW);

    /* Without PCIDs every write of CR3 flushes, and bit 63 is reserved. */
    go(f, 0, false);
    x86_write_cr(f->cpu, 4, CR4_PAE | CR4_PGE);
    sees(f, MMU_USER, OLD);
    map_new(f, 0);
    x86_write_cr(f->cpu, 3, PML4);
    sees(f, MMU_USER, NEW);
    g_assert_cmpint(CATCH(f->cpu, x86_write_cr(f->cpu, 3, PML4 | UINT64_C(1) << 63)), ==, EXC_GP);
    map_old(f, 0);
    x86_write_cr(f->cpu, 3, PML4 | 0x18); /* PWT and PCD are no PCID */
    sees(f, MMU_USER, OLD);
}

/* Where code fetches from. */
static uint64_t code_at(CpuFixture *f, uint64_t linear, uint8_t cpl)
{
    CodePage page;

    f->cpu->cpl = cpl;
    x86_code_page(f->cpu, linear, &page);
    f->cpu->cpl = 0;
    return page.gpa;
}

/* A ninth PCID takes the place of the one that was left the longest ago, of which nothing stays. */
static void test_recycling(CpuFixture *f, gconstpointer data)
{
    pcids(f);
    map_old(f, G);
    for (unsigned pcid = 1; pcid <= MMU_CONTEXTS; pcid++) {
        go(f, pcid, false);
        sees(f, MMU_USER, OLD);
        poke(f, PT + 8, 8, PAGE | P | W | U); /* from the second one on, not global */
    }
    go(f, 1, false); /* 2 is the oldest now */
    code_at(f, LINEAR, 3);
    go(f, 2, false);
    code_at(f, LINEAR, 3);
    unsigned victim = f->cpu->mmu->context;
    for (unsigned pcid = 3; pcid <= MMU_CONTEXTS; pcid++) {
        go(f, pcid, false);
    }
    go(f, 1, false);
    map_new(f, 0);
    sees(f, MMU_USER, OLD); /* global, and its context is still there */
    heard = (Heard){ 0 };
    go(f, MMU_CONTEXTS + 1, false);
    g_assert_cmpuint(f->cpu->mmu->context, ==, victim);
    g_assert_cmpuint(heard.calls, ==, 1);
    g_assert_cmpuint(heard.context, ==, victim);
    g_assert_false(heard.one_page);
    sees(f, MMU_USER, NEW);
    g_assert_cmphex(code_at(f, LINEAR, 3), ==, PAGE + 0x1000);
    go(f, 3, false);
    sees(f, MMU_USER, OLD);
    go(f, 2, false); /* lost */
    sees(f, MMU_USER, NEW);
    go(f, 1, false);
    sees(f, MMU_USER, OLD);
}

static void test_global(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    pcids(f);
    map_old(f, G);
    go(f, 1, true);
    for (int index = MMU_KERNEL; index <= MMU_USER; index++) {
        sees(f, (MmuIndex)index, OLD);
    }
    go(f, 1, true);
    map_new(f, G);
    for (int index = MMU_KERNEL; index <= MMU_USER; index++) {
        sees(f, (MmuIndex)index, OLD);
    }
    go(f, 2, true);
    sees(f, MMU_KERNEL, OLD); /* shared by all */
    mmu_invpcid(cpu, 3, 0, 0);
    mmu_invpcid(cpu, 1, 1, 0);
    mmu_invpcid(cpu, 0, 1, LINEAR);
    sees(f, MMU_KERNEL, OLD);
    go(f, 1, false);
    sees(f, MMU_USER, OLD);
    go(f, 2, false);
    mmu_flush_page(cpu, LINEAR); /* INVLPG: global mappings of every context */
    sees(f, MMU_KERNEL, NEW);
    go(f, 1, false);
    sees(f, MMU_USER, NEW);
    sees(f, MMU_KERNEL_AC, NEW);
    map_old(f, G);
    mmu_invpcid(cpu, 2, 0, 0);
    sees(f, MMU_USER, OLD);
    sees(f, MMU_KERNEL, OLD);

    /* CR4.PGE's change drops all; without it nothing is global. */
    map_new(f, G);
    x86_write_cr(cpu, 4, CR4_PAE | CR4_PCIDE);
    sees(f, MMU_USER, NEW);
    sees(f, MMU_KERNEL, NEW);
    map_old(f, G);
    go(f, 1, true);
    sees(f, MMU_USER, OLD);
    sees(f, MMU_KERNEL, OLD);
    map_new(f, G);
    x86_write_cr(cpu, 4, CR4_PAE | CR4_PCIDE | CR4_PGE);
    sees(f, MMU_USER, NEW);
}

/* Types 0 and 1 reach one PCID, type 3 all of them. */
static void test_invpcid(CpuFixture *f, gconstpointer data)
{
    for (unsigned type = 0; type <= 3; type++) {
        for (unsigned current = 1; current <= 3; current++) {
            pcids(f);
            map_old(f, 0);
            for (unsigned pcid = 1; pcid <= 3; pcid++) {
                go(f, pcid, true);
                sees(f, MMU_USER, OLD);
                sees(f, MMU_KERNEL_AC, OLD);
            }
            go(f, current, false);
            sees(f, MMU_KERNEL, OLD);
            map_new(f, 0);
            mmu_invpcid(f->cpu, type, 2, LINEAR + 0x800);
            sees(f, MMU_KERNEL, type >= 2 || current == 2 ? NEW : OLD);
            for (unsigned pcid = 1; pcid <= 3; pcid++) {
                go(f, pcid, false);
                sees(f, MMU_USER, type >= 2 || pcid == 2 ? NEW : OLD);
                sees(f, MMU_KERNEL_AC, type >= 2 || pcid == 2 ? NEW : OLD);
            }
        }
    }
    mmu_invpcid(f->cpu, 0, 77, LINEAR); /* of nobody */
    mmu_invpcid(f->cpu, 1, 77, LINEAR);

    /* INVLPG: this PCID, not the others, but for a global mapping that a third has. */
    pcids(f);
    map_old(f, G);
    go(f, 3, true);
    sees(f, MMU_USER, OLD);
    map_old(f, 0);
    go(f, 1, true);
    sees(f, MMU_USER, OLD);
    go(f, 2, true);
    sees(f, MMU_USER, OLD);
    sees(f, MMU_KERNEL, OLD);
    map_new(f, 0);
    mmu_flush_page(f->cpu, LINEAR + 0x1000);
    sees(f, MMU_USER, OLD);
    mmu_flush_page(f->cpu, LINEAR + 0xfff);
    sees(f, MMU_USER, NEW);
    sees(f, MMU_KERNEL, NEW);
    go(f, 3, false);
    sees(f, MMU_USER, NEW);
    go(f, 1, false);
    sees(f, MMU_USER, OLD);
}

/* Any address of a large page names all of it. */
static void test_large_pages(CpuFixture *f, gconstpointer data)
{
    static const uint64_t old_base = 0x400000, new_base = 0x600000;

    for (unsigned round = 0; round < 8; round++) {
        bool huge = round & 1, other = round & 2, global = round & 4;
        uint64_t entry = huge ? PDPT + 8 : PD + 8, flags = P | W | U | PS | (global ? G : 0);
        uint64_t far = huge ? 0x30000000 : 0x80000; /* from LINEAR, in the same page */
        pcids(f);
        map_old(f, 0);
        poke(f, entry, 8, (huge ? 0 : old_base) | flags);
        go(f, 1, true);
        uint64_t linear = huge ? UINT64_C(0x40400000) : LINEAR, offset = huge ? 0 : 0x1000;
        poke(f, old_base + offset, 1, OLD);
        poke(f, new_base + offset, 1, NEW);
        g_assert_cmpint(x86_ld8_idx(f->cpu, linear, MMU_USER), ==, OLD);
        g_assert_cmpint(x86_ld8_idx(f->cpu, linear, MMU_KERNEL), ==, OLD);
        if (huge) {
            poke(f, PDPT + 8, 8, PD | P | W | U); /* with large pages in it instead */
            poke(f, PD + 16, 8, new_base | flags);
        } else {
            poke(f, entry, 8, new_base | flags);
        }
        if (other) {
            go(f, 2, true);
            mmu_flush_page(f->cpu, linear + far);
            go(f, 1, false);
            g_assert_cmpint(x86_ld8_idx(f->cpu, linear, MMU_USER), ==, global ? NEW : OLD);
            mmu_invpcid(f->cpu, 0, 1, linear + far);
        } else {
            mmu_flush_page(f->cpu, linear + far);
        }
        g_assert_cmpint(x86_ld8_idx(f->cpu, linear, MMU_USER), ==, NEW);
        g_assert_cmpint(x86_ld8_idx(f->cpu, linear, MMU_KERNEL), ==, NEW);
    }
}

static int fault_of(X86Cpu *cpu, uint64_t linear, MmuIndex index, bool write)
{
    return write ? CATCH(cpu, x86_st16_idx(cpu, linear, 1, index))
                 : CATCH(cpu, x86_ld16_idx(cpu, linear, index));
}

/* A fresh context's tables hold nothing, not even page 0; nor does the one with alignment checks. */
static void test_empty(CpuFixture *f, gconstpointer data)
{
    pcids(f);
    for (unsigned pcid = 0; pcid <= MMU_CONTEXTS; pcid++) {
        go(f, pcid, false);
        for (int index = MMU_KERNEL; index < MMU_INDEXES; index++) {
            for (uint64_t slot = 0; slot < TLB_SIZE; slot++) {
                g_assert_cmpint(fault_of(f->cpu, slot * 4096, (MmuIndex)index, slot & 1), ==, EXC_PF);
            }
        }
    }
    poke(f, PT, 8, PAGE | P | W | U);
    poke(f, PD, 8, PT | P | W | U);
    poke(f, PDPT, 8, PD | P | W | U);
    poke(f, PML4, 8, PDPT | P | W | U);
    g_assert_cmpint(x86_ld8_idx(f->cpu, 0, MMU_USER), ==, OLD);
    g_assert_cmpint(x86_ld8_idx(f->cpu, 0, MMU_USER_ALIGN), ==, OLD);
    g_assert_cmpint(fault_of(f->cpu, 1, MMU_USER_ALIGN, false), ==, EXC_AC);
    mmu_flush_page(f->cpu, 0);
    poke(f, PT, 8, (PAGE + 0x1000) | P | W | U);
    g_assert_cmpint(x86_ld8_idx(f->cpu, 0, MMU_USER), ==, NEW);
}

static gpointer clear_elsewhere(gpointer data)
{
    CpuFixture *f = data;

    return GINT_TO_POINTER(ram_test_and_clear_dirty(f->ram.ram, PAGE, 4096, DIRTY_MIGRATION));
}

static bool is_asked(CpuFixture *f)
{
    g_thread_join(g_thread_new("clear", clear_elsewhere, f));
    bool asked = f->cpu->interrupt_request & CPU_INTERRUPT_TLB;
    mmu_process_pending(f->cpu);
    /* What the executor does at a boundary. */
    __atomic_store_n(&f->cpu->mmu->replaced, false, __ATOMIC_SEQ_CST);
    ram_written(f->ram.ram, PAGE, 1);
    return asked;
}

static const uint8_t *copied;
static bool copies_may_write(const X86Cpu *cpu, const uint8_t *low, const uint8_t *high)
{
    return copied >= low && copied < high;
}

/* Who clears a dirty bit asks a vCPU where it may still write, and only there: through the TLB, through what
 * was there until the last boundary, or through copies. */
static void test_dirty_asked(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    pcids(f);
    map_old(f, 0);
    poke(f, PT + 16, 8, (PAGE + 0x2000) | P | W | U);
    go(f, 1, true);
    mmu_process_pending(cpu);
    cpu->mmu->replaced = false;
    ram_written(f->ram.ram, PAGE, 1);
    g_assert_false(is_asked(f));
    x86_st8_idx(cpu, LINEAR + 0x1000, 1, MMU_USER);
    x86_st8_idx(cpu, LINEAR + 0x1000, 2, MMU_USER);
    g_assert_false(is_asked(f));
    x86_st8_idx(cpu, LINEAR, 1, MMU_USER);
    x86_st8_idx(cpu, LINEAR, 2, MMU_USER);
    g_assert_true(is_asked(f));
    g_assert_false(is_asked(f));
    x86_st8_idx(cpu, LINEAR, 1, MMU_USER);
    x86_st8_idx(cpu, LINEAR, 2, MMU_USER);
    mmu_flush_page(cpu, LINEAR);
    g_assert_true(is_asked(f)); /* the instruction that is being executed may still write there */
    g_assert_false(is_asked(f));
    mmu_copies_set(cpu, copies_may_write);
    copied = f->ram.ram->host + PAGE + 0x2000;
    g_assert_false(is_asked(f));
    copied = f->ram.ram->host + PAGE + 17;
    g_assert_true(is_asked(f));
    mmu_copies_set(cpu, NULL);
    g_assert_false(is_asked(f));
}

/* Whoever clears a dirty bit hears of writes through every context's TLB, from this thread and from others.
 */
static void test_dirty_contexts(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;
    RamBlock *ram = f->ram.ram;

    for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
        for (int index = MMU_KERNEL; index <= MMU_USER; index++) {
            pcids(f);
            map_old(f, 0);
            go(f, 1, true);
            x86_st8_idx(cpu, LINEAR, 1, (MmuIndex)index);
            x86_st8_idx(cpu, LINEAR, 2, (MmuIndex)index);
            TlbEntry *e = mmu_entry(cpu->mmu, (MmuIndex)index, LINEAR);
            poke(f, PT + 16, 8, (PAGE + 0x2000) | P | W | U);
            x86_st8_idx(cpu, LINEAR + 0x1000, 1, (MmuIndex)index);
            x86_st8_idx(cpu, LINEAR + 0x1000, 2, (MmuIndex)index);
            g_assert_cmphex(e[1].tag[MMU_WRITE], ==, LINEAR + 0x1000);
            if (index != MMU_KERNEL) {
                go(f, 2, false);
            }
            g_assert_cmphex(e->tag[MMU_WRITE], ==, LINEAR);
            if (elsewhere) {
                g_thread_join(g_thread_new("clear", clear_elsewhere, f));
                g_assert_true(cpu->interrupt_request & CPU_INTERRUPT_TLB);
                mmu_process_pending(cpu);
                g_assert_false(cpu->interrupt_request & CPU_INTERRUPT_TLB);
            } else {
                clear_elsewhere(f);
            }
            g_assert_cmphex(e->tag[MMU_WRITE], !=, LINEAR);
            g_assert_cmphex(e->tag[MMU_READ], ==, LINEAR);
            g_assert_false(ram_page_fully_dirty(ram, PAGE));
            g_assert_cmphex(e[1].tag[MMU_WRITE], ==,
                            LINEAR + 0x1000); /* the other page's is still there, and known */
            g_assert_true(ram_test_and_clear_dirty(ram, PAGE + 0x2000, 4096, DIRTY_DISPLAY));
            g_assert_cmphex(e[1].tag[MMU_WRITE], !=, LINEAR + 0x1000);
            go(f, 1, false);
            x86_st8_idx(cpu, LINEAR, 3, (MmuIndex)index);
            g_assert_true(ram_page_fully_dirty(ram, PAGE));
            /* No tag (yet, or any more), and a boundary since: nobody need be asked. */
            cpu->mmu->replaced = false;
            g_assert_true(g_thread_join(g_thread_new("clear", clear_elsewhere, f)));
            g_assert_false(cpu->interrupt_request & CPU_INTERRUPT_TLB);
        }
    }
}

/* Who keeps code by linear address hears of every end of a mapping that it may have used, and of data pages
 * not. */
static void test_code_mapping(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;

    pcids(f);
    map_old(f, 0);
    poke(f, PT + 16, 8, (PAGE + 0x2000) | P | W | U);
    go(f, 1, true);
    unsigned first = cpu->mmu->context;
    g_assert_cmphex(code_at(f, LINEAR + 5, 3), ==, PAGE + 5);
    x86_ld8(cpu, LINEAR + 0x1000);
    go(f, 2, true);
    unsigned second = cpu->mmu->context;
    code_at(f, LINEAR, 3);
    g_assert_cmpuint(heard.calls, ==, 0);

    /* A retained context's pages are still known: the walk that would see the new mapping does not happen. */
    map_new(f, 0);
    go(f, 1, false);
    g_assert_cmphex(code_at(f, LINEAR + 5, 3), ==, PAGE + 5);
    mmu_flush_page(cpu, LINEAR + 0x1000);
    g_assert_cmpuint(heard.calls, ==, 0);
    mmu_flush_page(cpu, LINEAR + 7);
    g_assert_cmpuint(heard.calls, ==, 1);
    g_assert_true(heard.one_page && heard.context == first && heard.linear == LINEAR);
    g_assert_cmphex(code_at(f, LINEAR + 5, 3), ==, PAGE + 0x1005);
    go(f, 2, false);
    g_assert_cmphex(code_at(f, LINEAR, 3), ==, PAGE);
    mmu_invpcid(cpu, 0, 1, LINEAR);
    g_assert_cmpuint(heard.calls, ==, 2);
    g_assert_true(heard.one_page && heard.context == first);
    mmu_invpcid(cpu, 1, 2, 0);
    g_assert_cmpuint(heard.calls, ==, 3);
    g_assert_true(!heard.one_page && heard.context == second);
    g_assert_cmphex(code_at(f, LINEAR, 3), ==, PAGE + 0x1000);
    go(f, 2, true);
    g_assert_cmpuint(heard.calls, ==, 4);
    go(f, 2, true); /* nothing since */
    g_assert_cmpuint(heard.calls, ==, 4);

    /* Evicted from the instruction TLB by another page: still heard of. */
    code_at(f, LINEAR, 3);
    poke(f, PD + 8 + 8, 8, PT | P | W | U);
    code_at(f, LINEAR + (2 << 20), 3);
    mmu_flush_page(cpu, LINEAR);
    g_assert_cmpuint(heard.calls, ==, 5);
    g_assert_cmphex(heard.linear, ==, LINEAR);

    /* Global ones are everybody's. */
    map_old(f, G);
    mmu_flush(cpu, false);
    code_at(f, LINEAR, 0);
    heard = (Heard){ 0 };
    map_new(f, G);
    go(f, 1, true);
    mmu_invpcid(cpu, 3, 0, 0);
    g_assert_cmphex(code_at(f, LINEAR, 0), ==, PAGE);
    g_assert_cmpuint(heard.calls, ==, 0);
    mmu_flush_page(cpu, LINEAR);
    g_assert_cmpuint(heard.calls, ==, 1);
    g_assert_true(heard.one_page && heard.context == MMU_CONTEXT_ALL);
    g_assert_cmphex(code_at(f, LINEAR, 0), ==, PAGE + 0x1000);

    /* Supervisors' code that is not global is one context's at a time; what is kept of it for its return is
     * told of when it leaves again. */
    map_old(f, 0);
    mmu_flush(cpu, false);
    go(f, 1, true);
    code_at(f, LINEAR, 0);
    heard = (Heard){ 0 };
    go(f, 1, false);
    g_assert_cmpuint(heard.calls, ==, 0);
    for (unsigned round = 1; round <= 2; round++) {
        go(f, 2, false);
        g_assert_cmpuint(heard.calls, ==, round);
        g_assert_true(!heard.one_page && heard.context == MMU_CONTEXT_KERNEL);
        go(f, 1, false);
        g_assert_cmpuint(heard.calls, ==, round);
        code_at(f, LINEAR, 0);
    }
    mmu_flush_page(cpu, LINEAR);
    g_assert_cmpuint(heard.calls, ==, 3);
    g_assert_true(heard.one_page && heard.context == MMU_CONTEXT_KERNEL && heard.linear == LINEAR);
    go(f, 1, true);
    g_assert_cmpuint(heard.calls, ==, 4);
    g_assert_true(!heard.one_page && heard.context == MMU_CONTEXT_KERNEL);
    code_at(f, LINEAR, 0);
    go(f, 2, false);
    heard = (Heard){ 0 };
    mmu_invpcid(cpu, 1, 1, 0); /* nobody can have kept it */
    g_assert_cmpuint(heard.calls, ==, 0);

    /* A large page's end is that of all its pieces. */
    poke(f, PD + 8, 8, 0x400000 | P | W | U | PS);
    mmu_flush(cpu, false);
    code_at(f, LINEAR, 3);
    heard = (Heard){ 0 };
    mmu_flush_page(cpu, LINEAR + 0x100000);
    g_assert_cmpuint(heard.calls, ==, 1);
    g_assert_true(!heard.one_page && heard.context == cpu->mmu->context);
}

/* ---- mmu_refill ---- */

static bool hits(CpuFixture *f, uint64_t linear, MmuAccess access)
{
    return linear - mmu_entry_now(f->cpu, linear)->tag[access] <= 4095;
}

static void select_user(CpuFixture *f)
{
    f->cpu->segs[SEG_CS].attr |= DESC_L;
    mmu_select(f->cpu, MMU_USER);
}

static void test_refill(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;
    RamBlock *ram = f->ram.ram;

    pcids(f);
    map_old(f, 0);
    select_user(f);
    g_assert_true(mmu_refill(cpu, LINEAR + 0x123, MMU_READ));
    g_assert_true(hits(f, LINEAR + 0x123, MMU_READ));
    g_assert_cmpint(x86_ld8(cpu, LINEAR), ==, OLD);
    g_assert_cmphex(peek(f, PT + 8, 8) & (A | D), ==, A);
    g_assert_false(hits(f, LINEAR, MMU_WRITE)); /* D is not set */
    g_assert_true(mmu_refill(cpu, LINEAR, MMU_WRITE));
    g_assert_true(hits(f, LINEAR, MMU_WRITE) && hits(f, LINEAR, MMU_READ));
    g_assert_cmphex(peek(f, PT + 8, 8) & (A | D), ==, A | D);
    g_assert_cmphex(peek(f, PD + 8, 8) & peek(f, PDPT + 8, 8) & peek(f, PML4, 8) & A, ==, A);
    mmu_flush_page(cpu, LINEAR);
    g_assert_true(mmu_refill(cpu, LINEAR, MMU_READ));
    g_assert_true(hits(f, LINEAR, MMU_WRITE)); /* now with one walk */

    /* What the interpreter has to do: faults, which are not raised here, ... */
    map(f, P | W | U, 0);
    mmu_flush_page(cpu, LINEAR);
    g_assert_false(mmu_refill(cpu, LINEAR, MMU_READ));
    map(f, P | W | U, P);
    g_assert_false(mmu_refill(cpu, LINEAR, MMU_READ));
    map(f, P | W | U, P | U);
    g_assert_false(mmu_refill(cpu, LINEAR, MMU_WRITE));
    g_assert_cmphex(peek(f, PT + 8, 8), ==, PAGE | P | U);
    g_assert_true(mmu_refill(cpu, LINEAR, MMU_READ));
    g_assert_false(mmu_refill(cpu, UINT64_C(1) << 47, MMU_READ));
    g_assert_false(mmu_refill(cpu, LINEAR + 0x1000, MMU_READ));
    /* ... devices, ... */
    poke(f, PT + 16, 8, UINT64_C(0xfee00000) | P | W | U);
    g_assert_false(mmu_refill(cpu, LINEAR + 0x1000, MMU_READ));
    poke(f, PT + 16, 8, FIXTURE_RAM_SIZE | P | W | U);
    g_assert_false(mmu_refill(cpu, LINEAR + 0x1000, MMU_READ));
    /* ... tables that are not in RAM, ... */
    poke(f, PD + 16, 8, FIXTURE_RAM_SIZE | P | W | U);
    g_assert_false(mmu_refill(cpu, LINEAR + (2 << 20), MMU_READ));
    /* ... alignment checks and watched pages. */
    map_old(f, 0);
    mmu_flush_page(cpu, LINEAR);
    mmu_select(cpu, MMU_USER_ALIGN);
    g_assert_false(mmu_refill(cpu, LINEAR, MMU_READ));
    select_user(f);
    cpu->dr[0] = LINEAR + 0xff0;
    cpu->dr[7] = 0x30001; /* reads and writes of a byte */
    g_assert_false(mmu_refill(cpu, LINEAR, MMU_READ));
    g_assert_false(hits(f, LINEAR, MMU_READ));
    cpu->dr[7] = 0;
    g_assert_true(mmu_refill(cpu, LINEAR, MMU_WRITE));

    /* A page that somebody logs writes of can be read; the interpreter's store marks it. */
    g_assert_true(ram_test_and_clear_dirty(ram, PAGE, 4096, DIRTY_MIGRATION));
    g_assert_false(mmu_refill(cpu, LINEAR, MMU_WRITE));
    g_assert_true(mmu_refill(cpu, LINEAR, MMU_READ));
    g_assert_false(hits(f, LINEAR, MMU_WRITE));
    x86_st8(cpu, LINEAR, OLD);
    g_assert_true(mmu_refill(cpu, LINEAR, MMU_WRITE));

    /* A table that somebody logs writes of is not changed; where nothing needs to be, it is read. */
    poke(f, PT + 8, 8, PAGE | P | W | U);
    mmu_flush(cpu, false);
    g_assert_true(ram_test_and_clear_dirty(ram, PT, 4096, DIRTY_MIGRATION));
    g_assert_false(mmu_refill(cpu, LINEAR, MMU_READ));
    g_assert_cmphex(peek(f, PT + 8, 8), ==, PAGE | P | W | U);
    g_assert_false(ram_page_fully_dirty(ram, PT));
    g_assert_cmpint(x86_ld8(cpu, LINEAR), ==, OLD);
    g_assert_true(ram_page_fully_dirty(ram, PT));
    g_assert_true(ram_test_and_clear_dirty(ram, PT, 4096, DIRTY_MIGRATION));
    mmu_flush(cpu, false);
    g_assert_true(mmu_refill(cpu, LINEAR, MMU_READ));
    g_assert_false(mmu_refill(cpu, LINEAR, MMU_WRITE)); /* D */

    /* 32-bit: an address beyond 4 GiB is none. */
    cpu->efer = 0;
    cpu->cr4 = 0;
    cpu->cr0 = CR0_PE;
    cpu->cr3 = 0;
    mmu_flush(cpu, false);
    mmu_select(cpu, MMU_KERNEL);
    g_assert_false(mmu_refill(cpu, UINT64_C(0x100200000), MMU_READ));
    g_assert_true(mmu_refill(cpu, PAGE + 0x1000, MMU_WRITE));
    g_assert_cmpint(x86_ld8(cpu, PAGE + 0x1000), ==, NEW);
}

/* The map of physical memory that refills use follows the machine's. */
static void test_refill_memory(CpuFixture *f, gconstpointer data)
{
    X86Cpu *cpu = f->cpu;
    MemoryRegion other;
    GError *error = NULL;

    g_assert_true(mmu_refill(cpu, PAGE, MMU_WRITE) ||
                  (x86_st8(cpu, PAGE, OLD), mmu_refill(cpu, PAGE, MMU_WRITE)));
    memory_region_set_readonly(&f->ram, true);
    mmu_process_pending(cpu);
    g_assert_true(mmu_refill(cpu, PAGE, MMU_READ));
    g_assert_false(mmu_refill(cpu, PAGE, MMU_WRITE));
    memory_region_set_readonly(&f->ram, false);

    /* Half a page of other RAM on top: the pages around it are plain, that one is not. */
    g_assert_true(memory_region_init_ram(&other, NULL, "other", 0x1000, &error));
    memory_region_set_size(&other, 0x800);
    memory_region_add_overlap(&f->root, PAGE + 0x1000, &other, 1);
    mmu_process_pending(cpu);
    g_assert_true(mmu_refill(cpu, PAGE, MMU_READ));
    g_assert_true(mmu_refill(cpu, PAGE + 0x2000, MMU_READ));
    g_assert_false(mmu_refill(cpu, PAGE + 0x1000, MMU_READ));
    x86_st8(cpu, PAGE + 0x17ff, 77);
    x86_st8(cpu, PAGE + 0x1800, 78);
    g_assert_cmpint(x86_ld16(cpu, PAGE + 0x17ff), ==, 78 << 8 | 77);
    g_assert_cmphex(((uint8_t *)other.ram->host)[0x7ff], ==, 77);
    memory_region_del(&f->root, &other);
    mmu_process_pending(cpu);
    g_assert_true(mmu_refill(cpu, PAGE + 0x1000, MMU_READ));
    memory_region_destroy(&other);

    /* The CPU's own APIC lies in front of RAM. */
    g_assert_true(apic_set_base(cpu->apic, PAGE | 1 << 11 | 1 << 8));
    mmu_process_pending(cpu);
    g_assert_false(mmu_refill(cpu, PAGE, MMU_READ));
    g_assert_true(mmu_refill(cpu, PAGE + 0x1000, MMU_READ));
    g_assert_cmphex(x86_ld32(cpu, PAGE + 0x30) & 0xff, ==, apic_mmio_read(cpu->apic, 0x30) & 0xff);
    g_assert_true(apic_set_base(cpu->apic, UINT64_C(0xfee00000) | 1 << 11 | 1 << 8));
    mmu_process_pending(cpu);
    g_assert_true(mmu_refill(cpu, PAGE, MMU_READ));

    /* More ranges than the map holds: the rest is reached through the memory core. */
    MemoryRegion holes[40];
    memory_transaction_begin();
    for (unsigned i = 0; i < G_N_ELEMENTS(holes); i++) {
        memory_region_init_alias(&holes[i], NULL, "hole", &f->ram, 0x1000 * i, 0x1000);
        memory_region_add_overlap(&f->root, 0x300000 + 0x2000 * i, &holes[i], 1);
    }
    memory_transaction_commit();
    mmu_process_pending(cpu);
    unsigned light = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(holes); i++) {
        poke(f, 0x1000 * i, 4, 1000 + i);
        light += mmu_refill(cpu, 0x300000 + 0x2000 * i, MMU_READ);
        g_assert_cmpuint(x86_ld32(cpu, 0x300000 + 0x2000 * i), ==, 1000 + i);
    }
    g_assert_cmpuint(light, <, G_N_ELEMENTS(holes));
    for (unsigned i = 0; i < G_N_ELEMENTS(holes); i++) {
        memory_region_del(&f->root, &holes[i]);
        memory_region_destroy(&holes[i]);
    }
    mmu_process_pending(cpu);
}

/* The tables that a walk went through are remembered until INVLPG of any address, per PCID. */
static void test_tables(CpuFixture *f, gconstpointer data)
{
    static const uint64_t other_table = 0x104000;
    X86Cpu *cpu = f->cpu;

    for (unsigned round = 0; round < 7; round++) {
        /* The same tables in both halves. */
        uint64_t half = round & 1 ? UINT64_C(0xffff800000000000) : 0;
        pcids(f);
        map_old(f, 0);
        poke(f, PML4 + 256 * 8, 8, PDPT | P | W | U);
        for (unsigned i = 2; i <= 3; i++) {
            poke(f, PT + i * 8, 8, PAGE | P | W | U);
            poke(f, other_table + i * 8, 8, (PAGE + 0x1000) | P | W | U);
        }
        go(f, 1, true);
        g_assert_cmpint(x86_ld8_idx(cpu, half + LINEAR, MMU_USER), ==, OLD);
        poke(f, PD + 8, 8, other_table | P | W | U);
        g_assert_cmpint(x86_ld8_idx(cpu, half + LINEAR + 0x1000, MMU_USER), ==, OLD);
        bool gone = true;
        if (round < 2) {
            mmu_flush_page(cpu, 0);
        } else if (round == 2) {
            go(f, 1, true);
        } else if (round == 3) {
            mmu_invpcid(cpu, 1, 1, 0);
        } else if (round == 4) {
            mmu_invpcid(cpu, 0, 1, 0);
        } else {
            go(f, 2, true);
            mmu_flush_page(cpu, half);
            go(f, 1, false);
            gone = half != 0; /* another one's INVLPG reaches what kernels share only */
        }
        g_assert_cmpint(x86_ld8_idx(cpu, half + LINEAR + 0x2000, MMU_USER), ==, gone ? NEW : OLD);
    }

    /* An entry that has since become present, or gained rights, does not fault for what is remembered. */
    pcids(f);
    map_old(f, 0);
    poke(f, PT + 16, 8, 0);
    sees(f, MMU_USER, OLD);
    poke(f, PD + 8, 8, other_table | P | W | U);
    g_assert_cmpint(x86_ld8_idx(cpu, LINEAR + 0x1000, MMU_USER), ==, NEW);
    map(f, P | U, P | W | U);
    mmu_flush(cpu, false);
    sees(f, MMU_USER, OLD);
    g_assert_cmpint(fault_of(cpu, LINEAR, MMU_USER, true), ==, EXC_PF);
    poke(f, PD + 8, 8, PT | P | W | U);
    g_assert_cmpint(fault_of(cpu, LINEAR, MMU_USER, true), ==, -1);

    /* Rights of the levels above count with remembered tables as without. */
    map(f, P | U, P | W | U);
    poke(f, PT + 16, 8, PAGE | P | W | U);
    mmu_flush(cpu, false);
    x86_ld8_idx(cpu, LINEAR, MMU_USER);
    g_assert_cmpint(fault_of(cpu, LINEAR + 0x1000, MMU_USER, true), ==, EXC_PF);
    map(f, P | W, P | W | U);
    mmu_flush(cpu, false);
    x86_ld8_idx(cpu, LINEAR, MMU_KERNEL);
    g_assert_cmpint(fault_of(cpu, LINEAR + 0x1000, MMU_USER, false), ==, EXC_PF);
    map(f, P | W | U | NX, P | W | U);
    mmu_flush(cpu, false);
    x86_ld8_idx(cpu, LINEAR, MMU_USER);
    MmuTranslation tr;
    uint32_t error;
    g_assert_false(mmu_walk(cpu, LINEAR + 0x1000, MMU_EXEC, MMU_USER, &tr, &error));
    poke(f, PT + 16, 8, PAGE | P | W | U | UINT64_C(1) << cpu->phys_bits);
    x86_ld8_idx(cpu, LINEAR + 0x2000, MMU_USER);
    g_assert_false(mmu_walk(cpu, LINEAR + 0x1000, MMU_READ, MMU_USER, &tr, &error));
    g_assert_cmphex(error, ==, 13);
}

/* Writes through refilled tags, and A and D bits set on the way, against a thread that clears dirty bits:
 * after it has cleared them, whatever changes is marked. */
typedef struct Race {
    CpuFixture *f;
    bool stop;         /* atomic */
    unsigned boundary; /* atomic: how many the vCPU passed */
    unsigned light, slow;
} Race;

static gpointer race_vcpu(gpointer data)
{
    Race *race = data;
    X86Cpu *cpu = race->f->cpu;

    mmu_process_pending(cpu);
    __atomic_store_n(&cpu->executing, true, __ATOMIC_SEQ_CST);
    for (uint32_t i = 1; !__atomic_load_n(&race->stop, __ATOMIC_SEQ_CST); i++) {
        if (__atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST) & CPU_INTERRUPT_TLB) {
            mmu_process_pending(cpu);
        }
        if (i % 3 == 0) {
            mmu_flush(cpu, false);
            uint64_t *entry = (uint64_t *)(void *)(race->f->ram.ram->host + PT + 8);
            __atomic_fetch_and(entry, ~(A | D),
                               __ATOMIC_SEQ_CST); /* nobody's log; the walk sets them again */
        }
        if (hits(race->f, LINEAR, MMU_WRITE) || mmu_refill(cpu, LINEAR, MMU_WRITE)) {
            TlbEntry *e = mmu_entry_now(cpu, LINEAR);
            if (e->tag[MMU_WRITE] == LINEAR) {
                *(volatile uint32_t *)(LINEAR + e->addend) = i;
                race->light++;
            }
        } else {
            x86_st32(cpu, LINEAR, i);
            race->slow++;
        }
        __atomic_fetch_add(&race->boundary, 1, __ATOMIC_SEQ_CST);
    }
    __atomic_store_n(&cpu->executing, false, __ATOMIC_SEQ_CST);
    return NULL;
}

static void pass_boundaries(Race *race)
{
    unsigned from = __atomic_load_n(&race->boundary, __ATOMIC_SEQ_CST);

    for (unsigned spins = 0; __atomic_load_n(&race->boundary, __ATOMIC_SEQ_CST) - from < 2; spins++) {
        if (spins < 2000) {
            __builtin_ia32_pause();
        } else {
            g_thread_yield();
        }
    }
}

static void test_refill_race(CpuFixture *f, gconstpointer data)
{
    RamBlock *ram = f->ram.ram;
    const uint32_t *value = (const uint32_t *)(const void *)(ram->host + PAGE);
    Race race = { .f = f };
    unsigned changed = 0;

    pcids(f);
    map_old(f, 0);
    select_user(f);
    GThread *vcpu = g_thread_new("vcpu", race_vcpu, &race);
    pass_boundaries(&race);
    for (gint64 end = g_get_monotonic_time() + G_USEC_PER_SEC; g_get_monotonic_time() < end;) {
        ram_test_and_clear_dirty(ram, PAGE, 4096, DIRTY_MIGRATION);
        uint32_t before = __atomic_load_n(value, __ATOMIC_SEQ_CST);
        pass_boundaries(&race);
        uint32_t after = __atomic_load_n(value, __ATOMIC_SEQ_CST);
        pass_boundaries(&race); /* so that a slow store has marked what it wrote */
        if (after != before) {
            changed++;
            g_assert_true(ram_page_fully_dirty(ram, PAGE));
        }
    }
    __atomic_store_n(&race.stop, true, __ATOMIC_SEQ_CST);
    g_thread_join(vcpu);
    g_test_message("%u writes seen behind a clearing; %u through tags, %u slow", changed, race.light,
                   race.slow);
    g_assert_cmpuint(changed, >, 0);
    g_assert_cmpuint(race.light, >, 0);
    g_assert_cmpuint(race.slow, >, 0);
}

#define TEST(name) g_test_add("/mmu/" #name, CpuFixture, NULL, fixture_setup, test_##name, fixture_teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(rights);
    TEST(keys);
    TEST(keys_cached);
    TEST(faults);
    TEST(32bit);
    TEST(tlb);
    TEST(a20);
    TEST(retention);
    TEST(recycling);
    TEST(global);
    TEST(invpcid);
    TEST(large_pages);
    TEST(empty);
    TEST(dirty_contexts);
    TEST(dirty_asked);
    TEST(code_mapping);
    TEST(refill);
    TEST(refill_memory);
    TEST(tables);
    TEST(refill_race);
    return g_test_run();
}
