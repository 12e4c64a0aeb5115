/*
 * What a single random instruction does not show of translated code: the places of a program share the slots
 * in which they keep translations; and the log of it. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "soft_run.h"

#include "arch/x86/cpu.h"
#include "base/log.h"

#include <glib.h>
#include <string.h>
#include <unistd.h>

/* More than there are slots. */
#define PLACES    300
#define READERS   64
#define WRITERS   (READERS + PLACES * 3)
#define READ_ONLY (CASE_DATA_BASE + 3 * CASE_PAGE)
#define WRITABLE  (CASE_DATA_BASE + CASE_PAGE)

static CaseState state;
static CaseOutcome outcome;

static int run_at(unsigned offset, uint64_t address)
{
    state.rip = CASE_CODE_BASE + offset;
    state.regs[R_RBX] = address;
    soft_run(&state, CASE_64, &outcome);
    return outcome.vector;
}

/* mov rax, [rbx] and mov [rbx], rax, PLACES times each. */
static void code_make(void)
{
    for (unsigned i = 0; i < PLACES; i++) {
        memcpy(soft_code() + READERS + i * 3, "\x48\x8b\x03", 3);
        memcpy(soft_code() + WRITERS + i * 3, "\x48\x89\x03", 3);
    }
    soft_code_written();
    memset(&state, 0, sizeof(state));
    state.rflags = FLAG_ONE | FLAG_IF;
    state.xsave[0] = 0x7f;
    state.xsave[1] = 3;
    state.xsave[24] = 0x80;
    state.xsave[25] = 0x1f;
}

/* Where many places have read a page, none may write to it that could not before. */
static void test_read_only(void)
{
    code_make();
    uint64_t value = UINT64_C(0x1122334455667788);
    memcpy(soft_data() + 3 * CASE_PAGE, &value, 8);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < PLACES; i++) {
            g_assert_cmpint(run_at(READERS + i * 3, READ_ONLY), ==, -1);
            g_assert_cmphex(outcome.state.regs[R_RAX], ==, value);
        }
        state.regs[R_RAX] = 1;
        for (unsigned i = 0; i < PLACES; i++) {
            g_assert_cmpint(run_at(WRITERS + i * 3, READ_ONLY), ==, EXC_PF);
            g_assert_cmphex(outcome.error_code, ==, 7);
            g_assert_cmphex(outcome.cr2, ==, READ_ONLY);
        }
        g_assert_cmpmem(soft_data() + 3 * CASE_PAGE, 8, &value, 8);
    }
}

/* And what writers have is right for readers, page by page. */
static void test_writable(void)
{
    code_make();
    for (uint64_t i = 0; i < PLACES; i++) {
        uint64_t page = i & 1 ? CASE_PAGE : 0;
        state.regs[R_RAX] = i;
        g_assert_cmpint(run_at(WRITERS + (unsigned)i * 3, WRITABLE + page), ==, -1);
        g_assert_cmpint(run_at(READERS + (unsigned)i * 3, WRITABLE + page), ==, -1);
        g_assert_cmphex(outcome.state.regs[R_RAX], ==, i);
        if (i > 0) {
            g_assert_cmpint(run_at(READERS + (unsigned)i * 3, WRITABLE + CASE_PAGE - page), ==, -1);
            g_assert_cmphex(outcome.state.regs[R_RAX], ==, i - 1);
        }
    }
}

/* -d out_asm: guest code beside host code. */
static void test_log(void)
{
    GError *error = NULL;
    g_autofree char *name = NULL, *text = NULL;
    int fd = g_file_open_tmp("rhea-log-XXXXXX", &name, &error);
    g_assert_no_error(error);
    close(fd);
    g_assert_true(log_set_file(name, &error));
    code_make();
    memcpy(soft_code() + READERS, "\x48\x0f\xc8", 3); /* bswap rax */
    soft_code_written();
    log_set_mask(LOG_OUT_ASM);
    state.regs[R_RAX] = 1;
    g_assert_cmpint(run_at(READERS, WRITABLE), ==, -1);
    g_assert_cmphex(outcome.state.regs[R_RAX], ==, UINT64_C(1) << 56);
    log_set_mask(0);
    g_assert_true(log_set_file(NULL, &error));
    g_assert_true(g_file_get_contents(name, &text, NULL, &error));
    unlink(name);
    g_autofree char *head = g_strdup_printf("block at %016" G_GINT64_MODIFIER "x: 1 instructions in 3 bytes",
                                            (uint64_t)CASE_CODE_BASE + READERS);
    g_assert_nonnull(strstr(text, head));
    /* Once as the guest's, behind it as the host's. */
    const char *guest = strstr(text, "48 0f c8");
    g_assert_nonnull(guest);
    g_assert_nonnull(strstr(guest + 8, "48 0f c8"));
    g_assert_nonnull(strstr(text, "ways out:"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    const char *problem = soft_setup(SOFT_TRANSLATED);
    if (problem) {
        g_printerr("translated_test: %s\n", problem);
        return 1;
    }
    g_test_add_func("/translated/read_only", test_read_only);
    g_test_add_func("/translated/writable", test_writable);
    g_test_add_func("/translated/log", test_log);
    return g_test_run();
}
