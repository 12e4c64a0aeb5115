/* The HPET: counter, one-shot, periodic, level, legacy replacement. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "tests/machine/test_board.h"

#include "hw/timer/hpet.h"

#define R(offset) (HPET_ADDRESS + (offset))
enum { CAP = 0, CFG = 0x10, ISR = 0x20, CNT = 0xf0, T0 = 0x100, T1 = 0x120, T2 = 0x140, CMP = 8 };

static void test_counter(void)
{
    TestBoard *b = test_board_new();
    test_board_add(b, TYPE_HPET, NULL, NULL);
    g_assert_cmphex(test_read(b, R(CAP), 8), ==, 0x009896808086a201);
    test_board_advance(b, 1000);
    g_assert_cmphex(test_read(b, R(CNT), 8), ==, 0); /* halted */
    test_write(b, R(CNT), 8, 0xfffffff0);
    test_write(b, R(CFG), 4, 1);
    test_board_advance(b, 320);
    g_assert_cmphex(test_read(b, R(CNT), 8), ==, 0x100000010);
    g_assert_cmphex(test_read(b, R(CNT), 4), ==, 0x10);
    g_assert_cmphex(test_read(b, R(CNT) + 4, 4), ==, 1);
    test_write(b, R(CNT), 8, 7); /* not while it runs */
    g_assert_cmphex(test_read(b, R(CNT), 8), ==, 0x100000010);
    test_write(b, R(CFG), 4, 0);
    test_board_advance(b, 5000);
    g_assert_cmphex(test_read(b, R(CNT), 8), ==, 0x100000010);
    test_board_free(b);
}

static void test_oneshot(void)
{
    TestBoard *b = test_board_new();
    test_board_add(b, TYPE_HPET, NULL, NULL);
    test_write(b, R(CFG), 4, 1);
    test_write(b, R(T2), 4, 0x4 | 2 << 9); /* enabled, GSI 2 */
    g_assert_cmphex(test_read(b, R(T2) + 4, 4), ==, 4);
    test_write(b, R(T2 + CMP), 8, 100000); /* 1 ms */
    test_board_advance(b, 900000);
    g_assert_cmpint(b->gsi[2].rises, ==, 0);
    test_board_advance(b, 200000);
    g_assert_cmpint(b->gsi[2].rises, ==, 1);
    test_board_advance(b, 100000000);
    g_assert_cmpint(b->gsi[2].rises, ==, 1);
    test_write(b, R(T2 + CMP), 8, 5); /* has passed: fires at once */
    test_board_advance(b, 0);
    g_assert_cmpint(b->gsi[2].rises, ==, 2);
    /* Level triggered: up until the status bit is cleared. */
    test_write(b, R(T2), 4, 0x6 | 2 << 9);
    test_write(b, R(T2 + CMP), 8, test_read(b, R(CNT), 8) + 1000);
    test_board_advance(b, 20000);
    g_assert_true(b->gsi[2].level);
    g_assert_cmphex(test_read(b, R(ISR), 4), ==, 4);
    test_write(b, R(ISR), 4, 4);
    g_assert_false(b->gsi[2].level);
    g_assert_cmphex(test_read(b, R(ISR), 4), ==, 0);
    test_board_free(b);
}

static void test_periodic_legacy(void)
{
    TestBoard *b = test_board_new();
    Device *hpet = test_board_add(b, TYPE_HPET, NULL, NULL);
    IrqLine *pit = hpet_legacy_line(hpet, 0);
    irq_pulse(pit);
    g_assert_cmpint(b->isa[0].rises, ==, 1); /* passes on */
    test_write(b, R(CFG), 4, 3);
    irq_pulse(pit);
    irq_pulse(hpet_legacy_line(hpet, 1));
    g_assert_cmpint(b->isa[0].rises + b->isa[8].rises, ==, 1); /* replaced */
    /* Nothing is armed for a timer that nobody would notice. */
    test_write(b, R(T1), 4, 0x8 | 0x40);
    test_write(b, R(T1 + CMP), 4, 100);
    test_write(b, R(T1 + CMP), 4, 100);
    test_board_advance(b, 100000);
    g_assert_cmpint(test_read(b, R(T1 + CMP), 4), >, 10000);
    g_assert_cmpint(b->isa[8].rises, ==, 0);
    /* As Linux sets up a periodic tick: comparator through "value set", then the period. */
    test_write(b, R(T0), 4, 0x4 | 0x8 | 0x40 | 0x100);
    test_write(b, R(T0 + CMP), 4, 100000);
    test_write(b, R(T0 + CMP), 4, 100000);
    for (int i = 0; i < 20; i++) {
        test_board_advance(b, 1000000);
    }
    g_assert_cmpint(b->isa[0].rises, >=, 1 + 19);
    g_assert_cmpint(b->isa[0].rises, <=, 1 + 20);
    unsigned before = b->isa[0].rises;
    test_board_advance(b, 50000000); /* late: those that were missed are not made up */
    g_assert_cmpint(b->isa[0].rises, ==, before + 1);
    test_board_advance(b, 1000000);
    g_assert_cmpint(b->isa[0].rises, ==, before + 2);
    test_board_free(b);
}

static void test_storm(void)
{
    TestBoard *b = test_board_new();
    test_board_add(b, TYPE_HPET, NULL, NULL);
    test_write(b, R(CFG), 4, 3);
    test_write(b, R(T0), 4, 0x4 | 0x8 | 0x40);
    test_write(b, R(T0 + CMP), 8, 1);
    test_write(b, R(T0 + CMP), 8, 1); /* every 10 ns: the loop must come to rest between */
    test_board_advance(b, 1000000);
    g_assert_cmpint(b->isa[0].rises, >=, 1);
    test_board_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hpet/counter", test_counter);
    g_test_add_func("/hpet/oneshot", test_oneshot);
    g_test_add_func("/hpet/periodic-legacy", test_periodic_legacy);
    g_test_add_func("/hpet/storm", test_storm);
    return g_test_run();
}
