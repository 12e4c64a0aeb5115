/* The clock: time, formats, alarm, periodic and update interrupts, CMOS. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/timer/mc146818rtc.h"

static uint8_t get(TestBoard *b, uint8_t index)
{
    test_outb(b, 0x70, index);
    return test_inb(b, 0x71);
}

static void set(TestBoard *b, uint8_t index, uint8_t value)
{
    test_outb(b, 0x70, index);
    test_outb(b, 0x71, value);
}

static Device *start(TestBoard *b, const char *base)
{
    return test_board_add(b, TYPE_MC146818_RTC, NULL, "clock", "vm", "base", base, NULL);
}

static void expect_time(TestBoard *b, const uint8_t want[7])
{
    static const uint8_t index[] = { 0x32, 9, 8, 7, 4, 2, 0 };
    for (size_t i = 0; i < G_N_ELEMENTS(index); i++) {
        g_assert_cmphex(get(b, index[i]), ==, want[i]);
    }
}

static void test_time(void)
{
    TestBoard *b = test_board_new();
    Device *rtc = start(b, "2023-12-31T23:59:58");
    g_assert_cmphex(get(b, 0x0b), ==, 0x02);
    g_assert_cmphex(get(b, 0x0d), ==, 0x80);
    expect_time(b, (const uint8_t[]){ 0x20, 0x23, 0x12, 0x31, 0x23, 0x59, 0x58 });
    g_assert_cmphex(get(b, 6), ==, 1); /* a Sunday */
    test_board_advance(b, 2000000000);
    expect_time(b, (const uint8_t[]){ 0x20, 0x24, 0x01, 0x01, 0x00, 0x00, 0x00 });
    struct tm tm;
    mc146818rtc_get_date(rtc, &tm);
    g_assert_cmpint(tm.tm_year, ==, 124);
    /* Binary, 12 hours. */
    set(b, 0x0b, 0x82);
    set(b, 4, 0x15);
    set(b, 0x0b, 0x02);
    set(b, 0x0b, 0x04);
    g_assert_cmphex(get(b, 4), ==, 0x83); /* 3 PM */
    set(b, 0x0b, 0x06);
    g_assert_cmpint(get(b, 4), ==, 15);
    /* Setting stops the clock; it goes on from what was written. */
    set(b, 0x0b, 0x86);
    set(b, 9, 99);
    set(b, 2, 30);
    test_board_advance(b, 10000000000);
    g_assert_cmpint(get(b, 2), ==, 30);
    g_assert_cmphex(get(b, 0x0a) & 0x80, ==, 0);
    set(b, 0x0b, 0x06);
    test_board_advance(b, 60000000000);
    g_assert_cmpint(get(b, 9), ==, 99);
    g_assert_cmpint(get(b, 2), ==, 31);
    test_board_free(b);
}

static void test_update(void)
{
    TestBoard *b = test_board_new();
    start(b, "2024-02-29");
    get(b, 0x0c);
    set(b, 0x0b, 0x12);
    test_board_advance(b, 100000000);
    unsigned seconds = get(b, 0);
    unsigned uips = 0, changes = 0;
    for (int i = 0; i < 20000; i++) { /* two seconds in steps of 0.1 ms */
        bool uip = get(b, 0x0a) & 0x80;
        uips += uip;
        if (get(b, 0) != seconds) {
            seconds = get(b, 0);
            changes++;
            g_assert_false(uip);
        }
        test_board_advance(b, 100000);
    }
    g_assert_cmpint(changes, ==, 2);
    g_assert_cmpint(uips, >=, 4); /* 244 us before each */
    g_assert_cmpint(uips, <=, 6);
    g_assert_true(b->isa[8].level);
    g_assert_cmphex(get(b, 0x0c) & 0x90, ==, 0x90);
    g_assert_false(b->isa[8].level);
    g_assert_cmphex(get(b, 0x0c) & 0x10, ==, 0);
    test_board_free(b);
}

static void test_alarm(void)
{
    TestBoard *b = test_board_new();
    start(b, "2024-02-29T10:00:00");
    set(b, 5, 0x10);
    set(b, 3, 0x01);
    set(b, 1, 0x05);
    set(b, 0x0b, 0x22);
    test_board_advance(b, 64000000000);
    g_assert_false(b->isa[8].level);
    test_board_advance(b, 1500000000);
    g_assert_true(b->isa[8].level);
    g_assert_cmphex(get(b, 0x0c) & 0xa0, ==, 0xa0);
    /* Any hour, any minute. */
    set(b, 5, 0xff);
    set(b, 3, 0xc0);
    unsigned rises = b->isa[8].rises;
    for (int i = 0; i < 180; i++) {
        test_board_advance(b, 1000000000);
        get(b, 0x0c);
    }
    g_assert_cmpint(b->isa[8].rises, ==, rises + 3);
    test_board_free(b);
}

static void test_periodic(void)
{
    TestBoard *b = test_board_new();
    start(b, "2024-02-29");
    set(b, 0x0a, 0x26); /* 1024 Hz */
    set(b, 0x0b, 0x42);
    unsigned rises = b->isa[8].rises;
    for (int i = 0; i < 2000; i++) {
        test_board_advance(b, 500000);
        if (b->isa[8].level) {
            g_assert_cmphex(get(b, 0x0c) & 0xc0, ==, 0xc0);
        }
    }
    g_assert_cmpint(b->isa[8].rises - rises, >=, 1000);
    /* The clock runs on by itself inside an advance, and is then set back: a period that ended in there
     * counts twice. Twice the rate would give an interrupt in each of the 2,000 steps. */
    g_assert_cmpint(b->isa[8].rises - rises, <, 1500);
    test_board_free(b);
}

static void test_cmos(void)
{
    TestBoard *b = test_board_new();
    Device *rtc = start(b, "2024-02-29");
    mc146818rtc_set_cmos(rtc, 0x34, 0x77);
    g_assert_cmphex(get(b, 0x34), ==, 0x77);
    set(b, 0x7f, 0x12);
    device_reset(rtc);
    g_assert_cmphex(get(b, 0x7f), ==, 0x12);
    set(b, 0x0c, 0xff);
    g_assert_cmphex(get(b, 0x0c) & 0x0f, ==, 0);
    set(b, 0x32, 0xff); /* whatever a guest writes */
    set(b, 9, 0xff);
    set(b, 8, 0xff);
    for (int i = 0; i < 10; i++) {
        get(b, i);
    }
    test_board_free(b);
}

static void test_bad_base(void)
{
    TestBoard *b = test_board_new();
    GError *error = NULL;
    Device *dev = device_new_unattached(b->root, TYPE_MC146818_RTC, NULL);
    g_assert_true(object_property_parse(OBJECT(dev), "base", "yesterday", &error));
    g_assert_false(device_realize(dev, NULL, &b->env, &error));
    g_assert_nonnull(strstr(error->message, "invalid datetime format: 'yesterday'"));
    g_error_free(error);
    test_board_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/mc146818rtc/time", test_time);
    g_test_add_func("/mc146818rtc/update", test_update);
    g_test_add_func("/mc146818rtc/alarm", test_alarm);
    g_test_add_func("/mc146818rtc/periodic", test_periodic);
    g_test_add_func("/mc146818rtc/cmos", test_cmos);
    g_test_add_func("/mc146818rtc/bad-base", test_bad_base);
    return g_test_run();
}
