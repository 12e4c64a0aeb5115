/* A UHCI driver in small: enumerates a tablet, reads its reports, and builds schedules that are wrong.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/pci/pci.h"
#include "input/input.h"

#include <linux/input-event-codes.h>

#define IO      0xc000
#define FRAMES  0x10000 /* of guest RAM: the frame list, a queue, descriptors, data */
#define QUEUE   0x11000
#define TDS     0x12000
#define DATA    0x14000
#define MAX_TDS 64

static TestBoard *b;
static MemoryRegion pci_memory;
static InputRegistry *inputs;

static int no_irq(void *opaque, unsigned slot, int pin)
{
    return 0;
}

static void set_irq(void *opaque, int input, bool level)
{
    b->gsi[0].level = level;
}

static Device *setup(const char *device)
{
    GError *error = NULL;
    b = test_board_new();
    inputs = input_registry_new(b->loop, b->clocks);
    b->env.inputs = inputs;
    memory_region_init(&pci_memory, NULL, "pci", UINT64_MAX);
    PciBus *bus =
        pci_root_bus_new(NULL, "pci.0", &b->env, &pci_memory, &b->io_root, b->memory, no_irq, set_irq, NULL);
    test_board_add(b, "piix3-usb-uhci", BUS(bus), "addr", "1.2", NULL);
    Device *dev = device ? test_board_add(b, device, bus_find(b->root, "usb-bus", NULL, &error), NULL) : NULL;
    g_assert_no_error(error);
    device_reset_all(b->root);
    pci_bus_assign_resources(bus, IO, IO + 0x1000, 0xe0000000, 0xf0000000, NULL);
    pci_bus_config_write(bus, 0x0a, PCI_COMMAND, 5, 2);
    return dev;
}

static void teardown(void)
{
    device_unrealize_all(b->root);
    input_registry_free(inputs);
    test_board_free(b);
    memory_region_destroy(&pci_memory);
}

static void run_ms(unsigned ms)
{
    for (unsigned i = 0; i < ms; i++) {
        test_board_advance(b, 1000000);
    }
}

static void start(void)
{
    test_out(b, IO + 0x00, 2, 2);
    for (unsigned i = 0; i < 1024; i++) {
        test_write(b, FRAMES + 4 * i, 4, QUEUE | 2);
    }
    test_write(b, QUEUE, 4, 1);
    test_write(b, QUEUE + 4, 4, 1);
    test_out(b, IO + 0x08, 4, FRAMES);
    test_out(b, IO + 0x04, 2, 15);
    test_out(b, IO + 0x00, 2, 0x81);
}

static void reset_port(void)
{
    g_assert_cmphex(test_in(b, IO + 0x10, 2) & 3, ==, 3);
    test_out(b, IO + 0x10, 2, 0x202);
    test_out(b, IO + 0x10, 2, 0);
    test_out(b, IO + 0x10, 2, 4);
    g_assert_cmphex(test_in(b, IO + 0x10, 2), ==, 0x85);
}

typedef struct Td {
    uint8_t pid;
    unsigned size;
    uint32_t data;
} Td;

/* Queues transfers, runs frames, and gives the control word of the last one. */
static uint32_t transfer(unsigned address, unsigned endpoint, const Td *tds, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint32_t at = TDS + 16 * i;
        test_write(b, at, 4, i + 1 < count ? (at + 16) | 4 : 1);
        test_write(b, at + 4, 4, 1u << 23 | (i + 1 == count ? 1u << 24 : 0) | 3u << 27);
        test_write(b, at + 8, 4,
                   tds[i].pid | address << 8 | endpoint << 15 | ((tds[i].size - 1) & 0x7ff) << 21);
        test_write(b, at + 12, 4, tds[i].data);
    }
    test_write(b, QUEUE + 4, 4, TDS);
    run_ms(3);
    return (uint32_t)test_read(b, TDS + 16 * (count - 1) + 4, 4);
}

static uint32_t control(unsigned address, const uint8_t setup_bytes[8], unsigned length)
{
    Td tds[MAX_TDS] = { { 0x2d, 8, DATA } };
    unsigned count = 1;
    bool in = setup_bytes[0] & 0x80;
    for (unsigned i = 0; i < 8; i++) {
        test_write(b, DATA + i, 1, setup_bytes[i]);
    }
    for (unsigned at = 0; at < length; at += 8) {
        tds[count++] = (Td){ in ? 0x69 : 0xe1, MIN(length - at, 8), DATA + 8 + at };
    }
    tds[count++] = (Td){ in && length ? 0xe1 : 0x69, 0, 0 };
    return transfer(address, 0, tds, count);
}

static void enumerate(void)
{
    static const uint8_t get_device[] = { 0x80, 6, 0, 1, 0, 0, 18, 0 },
                         set_address[] = { 0, 5, 7, 0, 0, 0, 0, 0 }, configure[] = { 0, 9, 1, 0, 0, 0, 0, 0 },
                         bad[] = { 0x80, 6, 0, 0x33, 0, 0, 8, 0 };
    start();
    reset_port();
    g_assert_cmphex(control(0, get_device, 18) >> 16 & 0xff, ==, 0);
    g_assert_cmphex(test_read(b, DATA + 8, 2), ==, 0x0112);
    g_assert_cmphex(test_read(b, DATA + 16, 2), ==, 0x0627);
    g_assert_true(b->gsi[0].level);
    g_assert_cmphex(test_in(b, IO + 2, 2), ==, 1);
    test_out(b, IO + 2, 2, 1);
    g_assert_false(b->gsi[0].level);
    g_assert_cmphex(control(0, set_address, 0) >> 16 & 0xff, ==, 0);
    g_assert_cmphex(control(7, configure, 0) >> 16 & 0xff, ==, 0);
    control(7, bad, 8);
    g_assert_cmphex(test_read(b, TDS + 16 + 4, 4) >> 16 & 0xff, ==, 0x40); /* stalled */
    g_assert_cmphex(test_in(b, IO + 2, 2) & 2, ==, 2);
    test_out(b, IO + 2, 2, 0x1f);
}

static void test_tablet(void)
{
    setup("usb-tablet");
    enumerate();
    const Td poll = { 0x69, 8, DATA + 0x100 };
    g_assert_true(input_pointer_is_absolute(inputs));
    g_assert_cmphex(transfer(7, 1, &poll, 1) >> 16 & 0xff, ==, 0x88); /* nothing yet: active, NAK */
    InputEvent move[] = { { INPUT_ABS, INPUT_AXIS_X, 0x1234 }, { INPUT_ABS, INPUT_AXIS_Y, 0x4321 } };
    input_send(inputs, move, 2);
    run_ms(3); /* the same descriptor is tried again */
    uint32_t status = (uint32_t)test_read(b, TDS + 4, 4);
    g_assert_cmphex(status >> 16 & 0xff, ==, 0);
    g_assert_cmphex(status & 0x7ff, ==, 5); /* six bytes */
    g_assert_cmphex(test_read(b, DATA + 0x100, 1), ==, 0);
    g_assert_cmphex(test_read(b, DATA + 0x101, 2), ==, 0x1234);
    g_assert_cmphex(test_read(b, DATA + 0x103, 2), ==, 0x4321);
    input_send(inputs, &(InputEvent){ INPUT_BUTTON, INPUT_BUTTON_LEFT, 1 }, 1);
    input_send(inputs, &(InputEvent){ INPUT_BUTTON, INPUT_BUTTON_LEFT, 0 }, 1);
    transfer(7, 1, &poll, 1);
    g_assert_cmphex(test_read(b, DATA + 0x100, 1), ==, 1); /* a quick click is seen */
    transfer(7, 1, &poll, 1);
    g_assert_cmphex(test_read(b, DATA + 0x100, 1), ==, 0);
    transfer(9, 1, &poll, 1); /* nobody has that address */
    g_assert_cmphex(test_read(b, TDS + 4, 4) >> 16 & 0xff, ==, 0x44);
    teardown();
}

static void test_keyboard(void)
{
    static const uint8_t leds[] = { 0x21, 9, 0, 2, 0, 0, 1, 0 };
    setup("usb-kbd");
    enumerate();
    const Td poll = { 0x69, 8, DATA + 0x100 };
    for (int i = 0; i < 1000; i++) {
        input_send_key(inputs, KEY_A, !(i & 1));
    }
    input_send_key(inputs, KEY_LEFTSHIFT, true);
    input_send_key(inputs, KEY_B, true);
    input_send_key(inputs, KEY_LEFTSHIFT, false);
    input_send_key(inputs, KEY_B, false);
    unsigned reports = 0;
    uint64_t last = 1;
    while (!(transfer(7, 1, &poll, 1) & 1u << 23)) {
        last = test_read(b, DATA + 0x100, 8);
        reports++;
        g_assert_cmpuint(reports, <, 1000);
    }
    g_assert_cmpuint(reports, >, 100);
    g_assert_cmphex(last, ==, 0); /* nothing is down in the end */
    input_send_key(inputs, KEY_RIGHTCTRL, true);
    input_send_key(inputs, KEY_KPENTER, true);
    transfer(7, 1, &poll, 1);
    g_assert_cmphex(test_read(b, DATA + 0x100, 8), ==, 0x10);
    transfer(7, 1, &poll, 1);
    g_assert_cmphex(test_read(b, DATA + 0x100, 8), ==, 0x580010);
    test_write(b, DATA + 8, 1, 2);
    g_assert_cmphex(control(7, leds, 1) >> 16 & 0xff, ==, 0);
    g_assert_cmpuint(input_leds(inputs), ==, INPUT_LED_CAPS);
    teardown();
}

/* Rings without an end, links to nowhere, packets that are too long: the frame ends, the guest is told. */
static void test_hostile(void)
{
    Device *dev = setup("usb-mouse");
    start();
    reset_port();
    test_write(b, QUEUE, 4, QUEUE | 2); /* a queue that follows itself */
    run_ms(5);
    test_write(b, TDS, 4, TDS); /* a descriptor that follows itself */
    test_write(b, TDS + 4, 4, 0);
    for (unsigned i = 0; i < 1024; i++) {
        test_write(b, FRAMES + 4 * i, 4, TDS);
    }
    run_ms(5);
    g_assert_cmphex(test_in(b, IO + 2, 2) & 0x20, ==, 0);
    test_write(b, TDS + 4, 4, 1u << 23);
    test_write(b, TDS + 8, 4, 0x69 | 0x6ffu << 21); /* 1792 bytes */
    run_ms(2);
    g_assert_cmphex(test_in(b, IO + 2, 2) & 0x30, ==, 0x30);
    start();
    test_out(b, IO + 0x08, 4, 0xfff00000); /* a list that is not in memory */
    run_ms(2);
    g_assert_cmphex(test_in(b, IO + 2, 2) & 0x20, ==, 0x20);
    device_unplug_done(dev);
    g_assert_cmphex(test_in(b, IO + 0x10, 2) & 3, ==, 2);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/uhci/tablet", test_tablet);
    g_test_add_func("/uhci/keyboard", test_keyboard);
    g_test_add_func("/uhci/hostile", test_hostile);
    return g_test_run();
}
