/* The UART and the debug console with a chardev in memory at their ends. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "chardev/chardev.h"
#include "hw/char/serial.h"

typedef struct Fixture {
    TestBoard *board;
    ChardevRegistry *chardevs;
    Bus *isa;
    Device *serial;
} Fixture;

static Fixture *setup(void)
{
    Fixture *f = g_new0(Fixture, 1);
    GError *error = NULL;
    f->board = test_board_new();
    f->chardevs = chardev_registry_new(f->board->loop, NULL);
    chardev_property_set_registry(f->chardevs);
    g_assert_nonnull(chardev_add_text(f->chardevs, "ringbuf,id=ring,size=1024", &error));
    f->isa = isa_bus_new(NULL, &f->board->env);
    f->serial = test_board_add(f->board, TYPE_ISA_SERIAL, f->isa, "chardev", "ring", NULL);
    return f;
}

static void teardown(Fixture *f)
{
    device_unrealize_all(f->board->root);
    chardev_property_set_registry(NULL);
    chardev_registry_free(f->chardevs);
    test_board_free(f->board);
    g_free(f);
}

static void expect_output(Fixture *f, const char *want)
{
    size_t count = 0;
    GError *error = NULL;
    while (loop_iterate(f->board->loop, false)) {}
    g_autofree char *text = chardev_ringbuf_read(f->chardevs, "ring", 1024, &count, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(text, count, want, strlen(want));
}

static void out(Fixture *f, unsigned reg, uint8_t value)
{
    test_outb(f->board, 0x3f8 + reg, value);
}

static uint8_t in(Fixture *f, unsigned reg)
{
    return test_inb(f->board, 0x3f8 + reg);
}

static void test_output(void)
{
    Fixture *f = setup();
    g_assert_cmphex(in(f, 5), ==, 0x60);
    for (const char *p = "hello"; *p; p++) {
        out(f, 0, *p);
        g_assert_cmphex(in(f, 5), ==, 0x60); /* empty again at once */
    }
    expect_output(f, "hello");
    /* The transmitter's interrupt: on enabling, after each byte, gone when IIR was read. */
    out(f, 1, 2);
    g_assert_true(f->board->isa[4].level);
    g_assert_cmphex(in(f, 2), ==, 0x02);
    g_assert_false(f->board->isa[4].level);
    g_assert_cmphex(in(f, 2), ==, 0x01);
    out(f, 0, 'x');
    g_assert_true(f->board->isa[4].level);
    expect_output(f, "x");
    /* The divisor hides behind DLAB. */
    out(f, 3, 0x83);
    out(f, 0, 0x34);
    out(f, 1, 0x12);
    g_assert_cmphex(in(f, 0) | in(f, 1) << 8, ==, 0x1234);
    out(f, 3, 0x03);
    g_assert_cmphex(in(f, 1), ==, 2);
    expect_output(f, "");
    out(f, 7, 0xa5);
    g_assert_cmphex(in(f, 7), ==, 0xa5);
    teardown(f);
}

/* Loopback is how drivers probe, and how a test feeds the receiver. */
static void test_loopback(void)
{
    Fixture *f = setup();
    g_assert_cmphex(in(f, 6) & 0xf0, ==, 0xb0);
    out(f, 4, 0x1a);
    g_assert_cmphex(in(f, 6) & 0xf0, ==, 0x90); /* RTS, OUT2 come back as CTS, DCD */
    g_assert_cmphex(in(f, 6) & 0x0f, ==, 0);    /* deltas went with the first read */
    out(f, 4, 0x1b);
    g_assert_cmphex(in(f, 6), ==, 0xb2);
    out(f, 1, 1);
    out(f, 0, 'a');
    g_assert_cmphex(in(f, 5) & 1, ==, 1);
    g_assert_true(f->board->isa[4].level);
    g_assert_cmphex(in(f, 2), ==, 0x04);
    out(f, 0, 'b'); /* overrun without FIFOs */
    g_assert_cmphex(in(f, 5) & 2, ==, 2);
    g_assert_cmphex(in(f, 5) & 2, ==, 0);
    g_assert_cmphex(in(f, 0), ==, 'b');
    g_assert_false(f->board->isa[4].level);
    expect_output(f, ""); /* nothing left the chip */
    teardown(f);
}

static void test_fifo(void)
{
    Fixture *f = setup();
    out(f, 4, 0x10);
    out(f, 2, 0x81); /* trigger at 8 */
    g_assert_cmphex(in(f, 2), ==, 0xc1);
    out(f, 1, 1);
    for (int i = 0; i < 7; i++) {
        out(f, 0, i);
    }
    g_assert_false(f->board->isa[4].level);
    test_board_advance(f->board, 100000000); /* four characters' time at 9600 baud is 4 ms */
    g_assert_true(f->board->isa[4].level);
    g_assert_cmphex(in(f, 2), ==, 0xcc);
    out(f, 0, 7);
    g_assert_cmphex(in(f, 2), ==, 0xc4);
    for (int i = 0; i < 8; i++) {
        g_assert_cmpint(in(f, 0), ==, i);
    }
    g_assert_cmphex(in(f, 5), ==, 0x60);
    g_assert_cmphex(in(f, 2), ==, 0xc1);
    for (int i = 0; i < 20; i++) { /* four too many: the FIFO keeps the first sixteen */
        out(f, 0, i);
    }
    g_assert_cmphex(in(f, 5) & 3, ==, 3);
    out(f, 2, 0x83); /* clears the receiver */
    g_assert_cmphex(in(f, 5) & 1, ==, 0);
    teardown(f);
}

static void test_ports(void)
{
    Fixture *f = setup();
    TestBoard *b = f->board;
    test_board_add(b, TYPE_ISA_SERIAL, f->isa, NULL); /* the second one, without a chardev */
    g_assert_cmphex(test_inb(b, 0x2fd), ==, 0x60);
    test_outb(b, 0x2f8, 'x');
    test_outb(b, 0x2f9, 2);
    g_assert_true(b->isa[3].level);
    test_board_add(b, TYPE_ISA_SERIAL, f->isa, "iobase", "0x1000", "irq", "7", NULL);
    g_assert_cmphex(test_inb(b, 0x1005), ==, 0x60);
    test_board_add(b, TYPE_ISA_SERIAL, f->isa, NULL);
    GError *error = NULL;
    Device *dev = device_new_unattached(b->root, TYPE_ISA_SERIAL, NULL);
    g_assert_false(device_realize(dev, f->isa, NULL, &error));
    g_assert_cmpstr(error->message, ==, "Max. supported number of ISA serial ports is 4.");
    g_clear_error(&error);
    dev = device_new_unattached(b->root, TYPE_ISA_SERIAL, NULL);
    object_property_parse(OBJECT(dev), "index", "1", NULL);
    object_property_parse(OBJECT(dev), "irq", "16", NULL);
    g_assert_false(device_realize(dev, f->isa, NULL, &error));
    g_clear_error(&error);
    teardown(f);
}

static void test_debugcon(void)
{
    Fixture *f = setup();
    GError *error = NULL;
    g_assert_nonnull(chardev_add_text(f->chardevs, "ringbuf,id=dbg,size=64", &error));
    Device *dev = device_new_unattached(f->board->root, "isa-debugcon", NULL);
    g_assert_false(device_realize(dev, f->isa, NULL, &error));
    g_assert_cmpstr(error->message, ==, "Can't create debugcon device, empty char device");
    g_clear_error(&error);
    test_board_add(f->board, "isa-debugcon", f->isa, "iobase", "0x402", "chardev", "dbg", NULL);
    g_assert_cmphex(test_inb(f->board, 0x402), ==, 0xe9);
    test_outb(f->board, 0x402, 'h');
    test_outb(f->board, 0x402, 'i');
    while (loop_iterate(f->board->loop, false)) {}
    size_t count = 0;
    g_autofree char *text = chardev_ringbuf_read(f->chardevs, "dbg", 64, &count, &error);
    g_assert_cmpmem(text, count, "hi", 2);
    teardown(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/serial/output", test_output);
    g_test_add_func("/serial/loopback", test_loopback);
    g_test_add_func("/serial/fifo", test_fifo);
    g_test_add_func("/serial/ports", test_ports);
    g_test_add_func("/debugcon", test_debugcon);
    return g_test_run();
}
