/* The keyboard controller as drivers probe it. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/input/i8042.h"

static TestLine a20;
static IrqLine a20_line = { .handler = test_line_set, .opaque = &a20 };

static TestBoard *setup(void)
{
    TestBoard *b = test_board_new();
    Bus *isa = isa_bus_new(NULL, &b->env);
    GError *error = NULL;
    Device *dev = device_new_unattached(b->root, TYPE_I8042, NULL);
    i8042_set_a20(dev, &a20_line);
    g_assert_true(device_realize(dev, isa, NULL, &error));
    device_reset(dev);
    return b;
}

static uint8_t ask(TestBoard *b, uint8_t command)
{
    test_outb(b, 0x64, command);
    g_assert_cmphex(test_inb(b, 0x64) & 1, ==, 1);
    return test_inb(b, 0x60);
}

static void expect(TestBoard *b, bool aux, uint8_t byte)
{
    g_assert_cmphex(test_inb(b, 0x64) & 0x21, ==, aux ? 0x21 : 0x01);
    g_assert_cmphex(test_inb(b, 0x60), ==, byte);
}

static void test_controller(void)
{
    TestBoard *b = setup();
    g_assert_cmphex(test_inb(b, 0x64) & 1, ==, 0);
    g_assert_cmphex(ask(b, 0xaa), ==, 0x55);
    g_assert_cmphex(ask(b, 0xab), ==, 0);
    g_assert_cmphex(ask(b, 0xa9), ==, 0);
    test_outb(b, 0x64, 0x60);
    g_assert_cmphex(test_inb(b, 0x64) & 8, ==, 8);
    test_outb(b, 0x60, 0x74);
    g_assert_cmphex(ask(b, 0x20), ==, 0x74);
    test_outb(b, 0x64, 0xa8);
    g_assert_cmphex(ask(b, 0x20), ==, 0x54);
    test_outb(b, 0x64, 0xd3); /* the loop back test of the mouse port */
    test_outb(b, 0x60, 0x5a);
    expect(b, true, 0x5a);
    test_board_free(b);
}

static void test_devices(void)
{
    TestBoard *b = setup();
    test_outb(b, 0x64, 0x60);
    test_outb(b, 0x60, 0x03); /* both on, both interrupt, no translation */
    test_outb(b, 0x60, 0xff);
    g_assert_true(b->isa[1].level);
    expect(b, false, 0xfa);
    expect(b, false, 0xaa);
    g_assert_false(b->isa[1].level);
    test_outb(b, 0x60, 0xf2);
    expect(b, false, 0xfa);
    expect(b, false, 0xab);
    expect(b, false, 0x83);
    test_outb(b, 0x60, 0xed);
    expect(b, false, 0xfa);
    test_outb(b, 0x60, 0x07);
    expect(b, false, 0xfa);
    test_outb(b, 0x60, 0x01); /* no such command */
    expect(b, false, 0xfe);
    test_outb(b, 0x64, 0xd4);
    test_outb(b, 0x60, 0xff);
    g_assert_true(b->isa[12].level);
    expect(b, true, 0xfa);
    expect(b, true, 0xaa);
    expect(b, true, 0x00);
    test_outb(b, 0x64, 0xd4);
    test_outb(b, 0x60, 0xe9);
    expect(b, true, 0xfa);
    expect(b, true, 0x00);
    expect(b, true, 0x02);
    expect(b, true, 100);
    for (int i = 0; i < 1000; i++) { /* nobody reads: answers are dropped, nothing breaks */
        test_outb(b, 0x60, 0xf2);
    }
    test_board_free(b);
}

static void test_outputs(void)
{
    TestBoard *b = setup();
    g_assert_true(a20.level);
    test_outb(b, 0x64, 0xd1);
    test_outb(b, 0x60, 0xdd);
    g_assert_false(a20.level);
    test_outb(b, 0x64, 0xdf);
    g_assert_true(a20.level);
    g_assert_cmphex(ask(b, 0xd0) & 3, ==, 3);
    g_assert_cmpint(b->resets, ==, 0);
    test_outb(b, 0x64, 0xfe);
    g_assert_cmpint(b->resets, ==, 1);
    test_outb(b, 0x64, 0xff); /* pulses nothing */
    g_assert_cmpint(b->resets, ==, 1);
    test_board_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/i8042/controller", test_controller);
    g_test_add_func("/i8042/devices", test_devices);
    g_test_add_func("/i8042/outputs", test_outputs);
    return g_test_run();
}
