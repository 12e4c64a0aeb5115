/* The keyboard controller as drivers probe it. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/input/i8042.h"

#include "input/input.h"

#include <linux/input-event-codes.h>

static TestLine a20;
static InputRegistry *inputs;
static IrqLine a20_line = { .handler = test_line_set, .opaque = &a20 };

static TestBoard *setup(void)
{
    TestBoard *b = test_board_new();
    inputs = input_registry_new(b->loop, b->clocks);
    b->env.inputs = inputs;
    Bus *isa = isa_bus_new(NULL, &b->env);
    GError *error = NULL;
    Device *dev = device_new_unattached(b->root, TYPE_I8042, NULL);
    i8042_set_a20(dev, &a20_line);
    g_assert_true(device_realize(dev, isa, NULL, &error));
    device_reset(dev);
    return b;
}

static void teardown(TestBoard *b)
{
    device_unrealize_all(b->root);
    input_registry_free(inputs);
    test_board_free(b);
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
    teardown(b);
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
    teardown(b);
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
    teardown(b);
}

static void expect_bytes(TestBoard *b, bool aux, const char *hex)
{
    g_autoptr(GString) got = g_string_new(NULL);
    unsigned status;
    while ((status = test_inb(b, 0x64)) & 1) {
        g_assert_cmpint(!!(status & 0x20), ==, aux);
        g_string_append_printf(got, "%s%02x", got->len ? " " : "", test_inb(b, 0x60));
    }
    g_assert_cmpstr(got->str, ==, hex);
}

static void tap_key(unsigned code)
{
    input_send_key(inputs, code, true);
    input_send_key(inputs, code, false);
}

static void set_mode(TestBoard *b, uint8_t mode)
{
    test_outb(b, 0x64, 0x60);
    test_outb(b, 0x60, mode);
}

static void test_keys(void)
{
    TestBoard *b = setup();
    set_mode(b, 0x43); /* translated, as PCs do */
    tap_key(KEY_A);
    g_assert_true(b->isa[1].level);
    expect_bytes(b, false, "1e 9e");
    g_assert_false(b->isa[1].level);
    tap_key(KEY_F7);
    expect_bytes(b, false, "41 c1");
    tap_key(KEY_UP);
    expect_bytes(b, false, "e0 48 e0 c8");
    tap_key(KEY_PAUSE);
    expect_bytes(b, false, "e1 1d 45 e1 9d c5");
    tap_key(KEY_SYSRQ);
    expect_bytes(b, false, "e0 2a e0 37 e0 b7 e0 aa");
    input_send_key(inputs, KEY_LEFTALT, true);
    tap_key(KEY_SYSRQ);
    input_send_key(inputs, KEY_LEFTALT, false);
    expect_bytes(b, false, "38 54 d4 b8");
    set_mode(b, 0x03); /* as the keyboard says it: set 2 */
    tap_key(KEY_A);
    tap_key(KEY_KPENTER);
    expect_bytes(b, false, "1c f0 1c e0 5a e0 f0 5a");
    test_outb(b, 0x60, 0xf0);
    test_outb(b, 0x60, 3);
    expect_bytes(b, false, "fa fa");
    tap_key(KEY_UP);
    expect_bytes(b, false, "63 f0 63");
    test_outb(b, 0x60, 0xf9); /* make only */
    tap_key(KEY_UP);
    expect_bytes(b, false, "fa 63");
    test_outb(b, 0x60, 0xf0);
    test_outb(b, 0x60, 1);
    tap_key(KEY_RIGHTCTRL);
    expect_bytes(b, false, "fa fa e0 1d e0 9d");
    test_outb(b, 0x60, 0xf5);
    tap_key(KEY_A);
    expect_bytes(b, false, "fa");
    teardown(b);
}

/* A guest that reads nothing loses keys; none of those that it saw pressed stays down. */
static void test_full_queue(void)
{
    TestBoard *b = setup();
    uint8_t down[0x80] = { 0 };
    unsigned presses = 0;
    set_mode(b, 0x43);
    for (int i = 0; i < 500; i++) {
        tap_key(KEY_Q + i % 10);
    }
    for (int i = 0; i < 10; i++) {
        input_send_key(inputs, KEY_Q + i, true);
    }
    for (int i = 0; i < 10; i++) {
        input_send_key(inputs, KEY_Q + i, false);
    }
    test_outb(b, 0x60, 0xee); /* answers have their own room */
    bool echo = false;
    while (test_inb(b, 0x64) & 1) {
        uint8_t byte = test_inb(b, 0x60);
        echo |= byte == 0xee;
        if (byte < 0x80) {
            g_assert_cmpint(down[byte], ==, 0);
            presses++;
        }
        down[byte & 0x7f] = byte < 0x80;
    }
    g_assert_true(echo);
    g_assert_cmpuint(presses, >, 20);
    for (int i = 0; i < 0x6e; i++) {
        g_assert_cmpint(down[i], ==, 0);
    }
    teardown(b);
}

static void run_for_ms(TestBoard *b, unsigned ms)
{
    int64_t end = g_get_monotonic_time() + ms * 1000;
    while (g_get_monotonic_time() < end) {
        loop_iterate(b->loop, false);
    }
}

static void test_repeat(void)
{
    TestBoard *b = setup();
    set_mode(b, 0x43);
    test_outb(b, 0x60, 0xf3);
    test_outb(b, 0x60, 0x00); /* after 250 ms, every 33 ms */
    expect_bytes(b, false, "fa fa");
    clock_set_run(b->clocks, true);
    input_send_key(inputs, KEY_A, true);
    input_send_key(inputs, KEY_A, true); /* a host's repeat is none of ours */
    expect_bytes(b, false, "1e");
    run_for_ms(b, 100);
    expect_bytes(b, false, "");
    run_for_ms(b, 400);
    g_assert_cmphex(test_inb(b, 0x60), ==, 0x1e);
    while (test_inb(b, 0x64) & 1) {
        g_assert_cmphex(test_inb(b, 0x60), ==, 0x1e);
    }
    input_send_key(inputs, KEY_A, false);
    expect_bytes(b, false, "9e");
    run_for_ms(b, 100);
    expect_bytes(b, false, "");
    clock_set_run(b->clocks, false);
    teardown(b);
}

static void to_mouse(TestBoard *b, uint8_t byte)
{
    test_outb(b, 0x64, 0xd4);
    test_outb(b, 0x60, byte);
}

static void move(int dx, int dy)
{
    InputEvent events[] = { { INPUT_REL, INPUT_AXIS_X, dx }, { INPUT_REL, INPUT_AXIS_Y, dy } };
    input_send(inputs, events, 2);
}

static void button(InputButton which, bool down)
{
    input_send(inputs, &(InputEvent){ INPUT_BUTTON, (uint16_t)which, down }, 1);
}

static void test_mouse(void)
{
    TestBoard *b = setup();
    set_mode(b, 0x43);
    move(1, 1); /* not switched on yet */
    expect_bytes(b, true, "");
    to_mouse(b, 0xf4);
    expect_bytes(b, true, "fa");
    move(3, 5);
    g_assert_true(b->isa[12].level);
    expect_bytes(b, true, "28 03 fb");
    move(-300, 0); /* in two packets, since one holds 255 */
    expect_bytes(b, true, "18 01 00 18 d3 00");
    button(INPUT_BUTTON_LEFT, true);
    button(INPUT_BUTTON_RIGHT, true);
    button(INPUT_BUTTON_LEFT, false);
    expect_bytes(b, true, "09 00 00 0b 00 00 0a 00 00");
    button(INPUT_BUTTON_RIGHT, false);
    expect_bytes(b, true, "08 00 00");
    static const uint8_t knock[] = { 200, 100, 80 }, knock5[] = { 200, 200, 80 };
    for (size_t i = 0; i < 3; i++) {
        to_mouse(b, 0xf3);
        to_mouse(b, knock[i]);
    }
    to_mouse(b, 0xf2);
    while (test_inb(b, 0x64) & 1) {
        test_inb(b, 0x60);
    }
    to_mouse(b, 0xf2);
    expect_bytes(b, true, "fa 03");
    button(INPUT_BUTTON_WHEEL_UP, true);
    button(INPUT_BUTTON_WHEEL_UP, false);
    expect_bytes(b, true, "08 00 00 ff");
    for (size_t i = 0; i < 3; i++) {
        to_mouse(b, 0xf3);
        to_mouse(b, knock5[i]);
    }
    while (test_inb(b, 0x64) & 1) {
        test_inb(b, 0x60);
    }
    to_mouse(b, 0xf2);
    expect_bytes(b, true, "fa 04");
    button(INPUT_BUTTON_SIDE, true);
    expect_bytes(b, true, "08 00 00 10");
    button(INPUT_BUTTON_SIDE, false);
    expect_bytes(b, true, "08 00 00 00");
    for (int i = 0; i < 1000; i++) { /* nobody reads: motion adds up, nothing breaks */
        move(1, 0);
        button(INPUT_BUTTON_LEFT, i & 1);
    }
    unsigned packets = 0;
    int sum = 0;
    while (test_inb(b, 0x64) & 1) {
        uint8_t packet[4];
        for (int i = 0; i < 4; i++) {
            packet[i] = test_inb(b, 0x60);
        }
        g_assert_cmphex(packet[0] & 8, ==, 8);
        sum += packet[1];
        packets++;
    }
    g_assert_cmpint(sum, ==, 1000);
    g_assert_cmpuint(packets, >, 10);
    to_mouse(b, 0xe9);
    expect_bytes(b, true, "fa 24 02 50"); /* on, left button down */
    teardown(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/i8042/controller", test_controller);
    g_test_add_func("/i8042/devices", test_devices);
    g_test_add_func("/i8042/outputs", test_outputs);
    g_test_add_func("/i8042/keys", test_keys);
    g_test_add_func("/i8042/full-queue", test_full_queue);
    g_test_add_func("/i8042/repeat", test_repeat);
    g_test_add_func("/i8042/mouse", test_mouse);
    return g_test_run();
}
