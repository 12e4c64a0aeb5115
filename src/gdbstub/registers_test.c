/* The register table: the description numbers what is read and written. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "gdbstub/registers.h"

#include "arch/x86/cpu_fixture.h"

#include <string.h>

/* The number that the description gives a name. */
static unsigned number_of(const char *name)
{
    g_autofree char *xml = gdb_target_xml();
    g_autofree char *key = g_strdup_printf("<reg name=\"%s\" ", name);
    const char *at = strstr(xml, key);
    g_assert_nonnull(at);
    at = strstr(at, "regnum=\"");
    return (unsigned)g_ascii_strtoull(at + 8, NULL, 10);
}

static void test_description(CpuFixture *f, gconstpointer data)
{
    g_autofree char *xml = gdb_target_xml();
    unsigned count = 0;

    for (const char *at = xml; (at = strstr(at, "<reg ")); at++) {
        unsigned bits = (unsigned)g_ascii_strtoull(strstr(at, "bitsize=\"") + 9, NULL, 10);
        uint8_t bytes[GDB_MAX_REGISTER_BYTES];
        g_assert_cmpuint(g_ascii_strtoull(strstr(at, "regnum=\"") + 8, NULL, 10), ==, count);
        g_assert_cmpuint(gdb_register_read(f->cpu, count, bytes) * 8, ==, bits);
        count++;
    }
    g_assert_cmpuint(count, ==, gdb_register_count());
    g_assert_cmpuint(number_of("rip"), ==, 16); /* gdb's own numbers of the first ones */
    g_assert_cmpuint(number_of("gs"), ==, 23);
    uint8_t bytes[GDB_MAX_REGISTER_BYTES];
    g_assert_cmpuint(gdb_register_read(f->cpu, count, bytes), ==, 0);
    g_assert_false(gdb_register_write(f->cpu, count, bytes, 8));
    g_assert_false(gdb_register_write(f->cpu, 0, bytes, 4));
}

static void test_round_trip(CpuFixture *f, gconstpointer data)
{
    static const char *const names[] = { "rax",     "rsp",     "r15",       "rip",   "st3",
                                         "fctrl",   "fop",     "xmm7",      "mxcsr", "ymm9h",
                                         "fs_base", "gs_base", "k_gs_base", "cr2",   "ftag" };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        uint8_t in[GDB_MAX_REGISTER_BYTES] = { 0 }, out[GDB_MAX_REGISTER_BYTES] = { 0 };
        unsigned number = number_of(names[i]), size = gdb_register_read(f->cpu, number, out);
        for (unsigned b = 0; b < size; b++) {
            in[b] = (uint8_t)(0x11 * (b + 1));
        }
        if (size == 4) { /* 16-bit registers; the tags of an empty stack */
            in[2] = in[3] = 0;
        }
        if (!strcmp(names[i], "ftag")) {
            in[0] = in[1] = 0xff;
        }
        g_assert_true(gdb_register_write(f->cpu, number, in, size));
        g_assert_cmpuint(gdb_register_read(f->cpu, number, out), ==, size);
        g_assert_cmpmem(in, size, out, size);
    }
}

static void test_special(CpuFixture *f, gconstpointer data)
{
    uint8_t bytes[GDB_MAX_REGISTER_BYTES];
    uint64_t value = FLAG_ZF | FLAG_CF | FLAG_DF;

    g_assert_true(gdb_register_write(f->cpu, number_of("eflags"), (const uint8_t *)&value, 4));
    gdb_register_read(f->cpu, number_of("eflags"), bytes);
    memcpy(&value, bytes, 4);
    g_assert_cmphex(value, ==, FLAG_ZF | FLAG_CF | FLAG_DF | FLAG_ONE);
    /* A full x87 stack whose top is 1.0: "valid" for it, "zero" for the rest. */
    f->cpu->xsave[2] = f->cpu->xsave[3] = 0;
    f->cpu->xsave[4] = 0xff;
    memset(f->cpu->xsave + 32, 0, 128);
    f->cpu->xsave[32 + 7] = 0x80;
    f->cpu->xsave[32 + 8] = 0xff;
    f->cpu->xsave[32 + 9] = 0x3f;
    gdb_register_read(f->cpu, number_of("ftag"), bytes);
    g_assert_cmphex(bytes[0] | bytes[1] << 8, ==, 0x5554);
    /* CR8 is the APIC's task priority. */
    value = 5;
    g_assert_true(gdb_register_write(f->cpu, number_of("cr8"), (const uint8_t *)&value, 8));
    g_assert_cmphex(apic_get_tpr(f->cpu->apic), ==, 0x50);
}

static void note_stop(X86Cpu *cpu, X86Debugger *debugger)
{
    (*(unsigned *)debugger->opaque)++;
}

static void test_points(CpuFixture *f, gconstpointer data)
{
    unsigned stops = 0;
    const uint64_t breakpoint = 0x1000;
    const X86Watchpoint watchpoint = { .address = 0x2004, .length = 4, .kinds = X86_WATCH_WRITE };
    X86Debugger d = { .breakpoints = &breakpoint,
                      .breakpoint_count = 1,
                      .watchpoints = &watchpoint,
                      .watchpoint_count = 1,
                      .stopped = note_stop,
                      .opaque = &stops };

    g_assert_false(f->cpu->mode & MODE_BP);
    x86_set_debugger(f->cpu, &d);
    g_assert_true(f->cpu->mode & MODE_BP); /* the translator keeps away */
    g_assert_true(x86_debugger_before(f->cpu, 0x1000) && d.stop == X86_STOP_BREAKPOINT && stops == 1);
    g_assert_false(x86_debugger_before(f->cpu, 0x1001));
    x86_st32(f->cpu, 0x2000, 1); /* beside it */
    x86_debugger_after(f->cpu);
    g_assert_cmpuint(stops, ==, 1);
    x86_debugger_before(f->cpu, 0x1002);
    g_assert_cmpuint(x86_ld32(f->cpu, 0x2004), ==, 0); /* reads are not watched */
    x86_st16(f->cpu, 0x2006, 1);
    x86_debugger_after(f->cpu);
    g_assert_true(stops == 2 && d.stop == X86_STOP_WATCH && d.hit.address == 0x2004);
    d.step = true;
    x86_debugger_before(f->cpu, 0x1003);
    x86_debugger_after(f->cpu);
    g_assert_true(stops == 3 && d.stop == X86_STOP_STEP);
    x86_set_debugger(f->cpu, NULL);
    g_assert_false(f->cpu->mode & MODE_BP);
}

#define TEST(name, fn) g_test_add("/gdbstub/" name, CpuFixture, NULL, fixture_setup, fn, fixture_teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST("description", test_description);
    TEST("round-trip", test_round_trip);
    TEST("special", test_special);
    TEST("points", test_points);
    return g_test_run();
}
