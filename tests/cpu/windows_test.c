/*
 * Windows: what translated code sees of its memory when page tables, dirty logs and rights change, and at
 * addresses where there is nothing. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "soft_run.h"

#include "accel/soft/jit/jit.h"
#include "arch/x86/cpu.h"
#include "mem/memory.h"

#include <glib.h>
#include <string.h>

#define READ  64u  /* mov rax, [rbx] */
#define WRITE 80u  /* mov [rbx], rax */
#define PUSH  96u  /* push rax */
#define FAR   112u /* mov rax, [rbx+rcx*8] */
#define PLACE (CASE_DATA_BASE + 64 * CASE_PAGE)
#define HIGH  (UINT64_C(0x7f) << 40) /* in another window */
#define TOP   ((UINT64_C(1) << 47) - CASE_PAGE)

static CaseState state;
static CaseOutcome outcome;

static void prepare(void)
{
    memcpy(soft_code() + READ, "\x48\x8b\x03", 3);
    memcpy(soft_code() + WRITE, "\x48\x89\x03", 3);
    memcpy(soft_code() + PUSH, "\x50", 1);
    memcpy(soft_code() + FAR, "\x48\x8b\x04\xcb", 4);
    soft_code_written();
    memset(&state, 0, sizeof(state));
    state.rflags = FLAG_ONE | FLAG_IF;
    state.xsave[0] = 0x7f;
    state.xsave[1] = 3;
    state.xsave[24] = 0x80;
    state.xsave[25] = 0x1f;
    for (int page = 1; page < 4; page++) {
        memset(soft_data() + page * CASE_PAGE, page, CASE_PAGE);
    }
}

static int run(unsigned offset, uint64_t address)
{
    state.rip = CASE_CODE_BASE + offset;
    state.regs[R_RBX] = address;
    soft_run(&state, CASE_64, &outcome);
    return outcome.vector;
}

/* Twice: the second time it is there. */
static void expect_read(uint64_t address, unsigned byte)
{
    for (unsigned k = 0; k < 2; k++) {
        g_assert_cmpint(run(READ, address), ==, -1);
        g_assert_cmphex(outcome.state.regs[R_RAX], ==, byte * UINT64_C(0x0101010101010101));
    }
}

static void expect_fault(unsigned offset, uint64_t address, uint64_t cr2, unsigned error_code)
{
    g_assert_cmpint(run(offset, address), ==, EXC_PF);
    g_assert_cmphex(outcome.cr2, ==, cr2);
    g_assert_cmphex(outcome.error_code, ==, error_code);
}

static void test_remap(void)
{
    prepare();
    for (unsigned round = 0; round < 3; round++) {
        soft_map(PLACE, 1, true);
        expect_read(PLACE, 1);
        soft_map(PLACE, 2, true);
        expect_read(PLACE, 2);
        soft_map(PLACE, -1, false);
        expect_fault(READ, PLACE, PLACE, 4);
        soft_map(PLACE, 3, false);
        expect_read(PLACE + 8, 3);
    }
}

static void test_rights(void)
{
    prepare();
    soft_map(PLACE, 1, true);
    state.regs[R_RAX] = 7;
    g_assert_cmpint(run(WRITE, PLACE), ==, -1);
    soft_map(PLACE, 1, false);
    expect_fault(WRITE, PLACE, PLACE, 7);
    g_assert_cmpint(soft_data()[CASE_PAGE], ==, 7);
    soft_map(PLACE, 1, true);
    state.regs[R_RAX] = 8;
    g_assert_cmpint(run(WRITE, PLACE), ==, -1);
    g_assert_cmpint(soft_data()[CASE_PAGE], ==, 8);
}

/* Two pages, one of which is not there: nothing is written. */
static void test_crossing(void)
{
    prepare();
    soft_map(PLACE, 1, true);
    soft_map(PLACE + CASE_PAGE, -1, false);
    state.regs[R_RAX] = 0;
    expect_fault(WRITE, PLACE + CASE_PAGE - 4, PLACE + CASE_PAGE, 6);
    g_assert_cmpint(soft_data()[2 * CASE_PAGE - 1], ==, 1);
    soft_map(PLACE + CASE_PAGE, 3, true);
    g_assert_cmpint(run(WRITE, PLACE + CASE_PAGE - 4), ==, -1);
    g_assert_cmpint(soft_data()[2 * CASE_PAGE - 1], ==, 0);
    g_assert_cmpint(soft_data()[3 * CASE_PAGE + 3], ==, 0);
}

/* A write is marked again after each look at the log. */
static void test_dirty(void)
{
    uint64_t offset;
    RamBlock *ram = soft_ram(&offset);
    prepare();
    soft_map(PLACE, 1, true);
    for (unsigned round = 0; round < 4; round++) {
        g_assert_cmpint(run(WRITE, PLACE), ==, -1);
        g_assert_true(ram_test_and_clear_dirty(ram, offset + CASE_PAGE, CASE_PAGE, DIRTY_MIGRATION));
        g_assert_false(ram_test_and_clear_dirty(ram, offset + CASE_PAGE, CASE_PAGE, DIRTY_MIGRATION));
        expect_read(PLACE + 512, 1);
        g_assert_false(ram_test_and_clear_dirty(ram, offset + CASE_PAGE, CASE_PAGE, DIRTY_MIGRATION));
    }
}

static void test_nowhere(void)
{
    static const uint64_t odd[] = { UINT64_C(1) << 47, UINT64_C(0x8000000000000000),
                                    UINT64_C(0x7fffffffffffffff), UINT64_C(0xffff000000000000),
                                    UINT64_C(0x4000000000000000) };
    prepare();
    soft_map(PLACE, 1, true);
    soft_map(HIGH, 2, true);
    soft_map(TOP, 3, true);
    expect_read(PLACE, 1);
    expect_read(HIGH, 2);
    expect_read(TOP, 3);
    for (unsigned i = 0; i < G_N_ELEMENTS(odd); i++) {
        g_assert_cmpint(run(READ, odd[i]), ==, EXC_GP);
    }
    for (uint64_t slot = 0; slot < 128; slot++) {
        uint64_t address = (slot << 40) + 123 * CASE_PAGE;
        expect_fault(READ, address, address, 4);
    }
    expect_fault(READ, UINT64_C(0xffff800000000000), UINT64_C(0xffff800000000000), 4);
    expect_fault(READ, UINT64_C(0xffffffffff600000), UINT64_C(0xffffffffff600000), 4);
    expect_fault(READ, 0, 0, 4);
    /* Beside a window, and from one into another. */
    expect_fault(READ, HIGH - 8, HIGH - 8, 4);
    state.regs[R_RCX] = (HIGH - PLACE) / 8;
    g_assert_cmpint(run(FAR, PLACE), ==, -1);
    g_assert_cmphex(outcome.state.regs[R_RAX], ==, UINT64_C(0x0202020202020202));
}

/* The stack in one window and then in another. */
static void test_stack(void)
{
    prepare();
    soft_map(PLACE, 1, true);
    soft_map(HIGH, 2, true);
    state.regs[R_RAX] = UINT64_C(0x4242424242424242);
    state.regs[R_RSP] = PLACE + 16;
    g_assert_cmpint(run(PUSH, 0), ==, -1);
    g_assert_cmpint(soft_data()[CASE_PAGE + 8], ==, 0x42);
    state.regs[R_RSP] = HIGH + 8;
    g_assert_cmpint(run(PUSH, 0), ==, -1);
    g_assert_cmpint(soft_data()[2 * CASE_PAGE], ==, 0x42);
    state.regs[R_RSP] = HIGH;
    expect_fault(PUSH, 0, HIGH - 8, 6);
    g_assert_cmphex(outcome.state.regs[R_RSP], ==, HIGH);
}

/* An operand that is expected as far away as the stack, and often is not: the block is made anew. */
static void test_expected(void)
{
    prepare();
    soft_map(PLACE, 1, true);
    soft_map(HIGH, 2, true);
    state.regs[R_RSP] = HIGH + 64;
    expect_read(HIGH, 2);
    const JitVcpu *v = jit_vcpu(soft_cpu());
    soft_cpu()->rip = CASE_CODE_BASE + READ;
    const JitBlock *b = jit_find_now(soft_cpu(), v->jit, jit_area(soft_cpu())->key);
    g_assert_nonnull(b);
    g_assert_cmpint(b->far_windows, ==, JIT_FAR_WINDOWS);
    for (unsigned k = 0; k <= 2 * JIT_FAR_WINDOWS; k++) {
        expect_read(PLACE, 1);
        expect_read(HIGH, 2);
    }
    /* They ran out: too soon, or the count began anew. */
    g_assert_true(b->stale || b->in_vain_since != 0);
    state.regs[R_RAX] = 9;
    g_assert_cmpint(run(WRITE, PLACE + 8), ==, -1);
    g_assert_cmpint(soft_data()[CASE_PAGE + 8], ==, 9);
    g_assert_cmpint(run(WRITE, HIGH + 8), ==, -1);
    g_assert_cmpint(soft_data()[2 * CASE_PAGE + 8], ==, 9);
    state.regs[R_RSP] = PLACE + 64;
    expect_read(PLACE, 1);
    expect_read(HIGH, 2);
    state.regs[R_RSP] = 0;
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    const char *problem = soft_setup(SOFT_WINDOWS);
    if (problem) {
        g_print("1..0 # SKIP %s\n", problem);
        return 0;
    }
    g_test_add_func("/windows/remap", test_remap);
    g_test_add_func("/windows/rights", test_rights);
    g_test_add_func("/windows/crossing", test_crossing);
    g_test_add_func("/windows/dirty", test_dirty);
    g_test_add_func("/windows/nowhere", test_nowhere);
    g_test_add_func("/windows/stack", test_stack);
    g_test_add_func("/windows/expected", test_expected);
    return g_test_run();
}
