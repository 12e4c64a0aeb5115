/* The 8254: every mode, latching, read-back, port 0x61. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "arch/x86/chips.h"
#include "hw/timer/i8254.h"

#define TICK(n) ((int64_t)(n)*1000000000 / 1193182 + 1)

static void program(TestBoard *b, int channel, int mode, uint16_t count)
{
    test_outb(b, 0x43, channel << 6 | 0x30 | mode << 1);
    test_outb(b, 0x40 + channel, count & 0xff);
    test_outb(b, 0x40 + channel, count >> 8);
}

static uint16_t latch(TestBoard *b, int channel)
{
    test_outb(b, 0x43, channel << 6);
    uint16_t low = test_inb(b, 0x40 + channel);
    return low | test_inb(b, 0x40 + channel) << 8;
}

static uint8_t status(TestBoard *b, int channel)
{
    test_outb(b, 0x43, 0xe0 | 2 << channel);
    return test_inb(b, 0x40 + channel);
}

static void test_modes(void)
{
    TestBoard *b = test_board_new();
    test_board_add(b, TYPE_I8254, NULL, NULL);
    /* Mode 0: OUT rises at the end of the count and stays. */
    program(b, 0, 0, 1000);
    g_assert_false(b->isa[0].level);
    test_board_advance(b, TICK(500));
    g_assert_cmpint(latch(b, 0), ==, 500);
    g_assert_false(b->isa[0].level);
    unsigned rises = b->isa[0].rises;
    test_board_advance(b, TICK(600));
    g_assert_true(b->isa[0].level);
    test_board_advance(b, TICK(5000));
    g_assert_cmpint(b->isa[0].rises, ==, rises + 1);
    /* Mode 2: one edge a period. */
    program(b, 0, 2, 11932); /* 10 ms */
    rises = b->isa[0].rises;
    for (int i = 0; i < 10; i++) {
        test_board_advance(b, TICK(11932));
    }
    g_assert_cmpint(b->isa[0].rises, ==, rises + 10);
    g_assert_cmphex(status(b, 0), ==, 0xb4);
    /* Mode 3: the output is high for the first half. */
    program(b, 0, 3, 1000);
    test_board_advance(b, TICK(100));
    g_assert_cmphex(status(b, 0) & 0x80, ==, 0x80);
    g_assert_cmpint(latch(b, 0), ==, 800);
    test_board_advance(b, TICK(500));
    g_assert_cmphex(status(b, 0) & 0x80, ==, 0);
    /* Mode 4: a strobe, once. */
    program(b, 0, 4, 1000);
    rises = b->isa[0].rises;
    test_board_advance(b, TICK(1100));
    g_assert_cmpint(b->isa[0].rises, ==, rises + 1);
    test_board_advance(b, TICK(200000));
    g_assert_cmpint(b->isa[0].rises, ==, rises + 1);
    test_board_free(b);
}

static void test_gate(void)
{
    TestBoard *b = test_board_new();
    test_board_add(b, TYPE_I8254, NULL, NULL);
    test_outb(b, 0x61, 0);
    program(b, 2, 0, 1000);
    test_board_advance(b, TICK(2000));
    g_assert_cmpint(latch(b, 2), ==, 1000); /* the gate is closed */
    g_assert_cmphex(test_inb(b, 0x61) & 0x23, ==, 0);
    test_outb(b, 0x61, 1);
    test_board_advance(b, TICK(400));
    g_assert_cmpint(latch(b, 2), ==, 600);
    test_outb(b, 0x61, 0);
    test_board_advance(b, TICK(400));
    g_assert_cmpint(latch(b, 2), ==, 600);
    test_outb(b, 0x61, 1);
    test_board_advance(b, TICK(600));
    g_assert_cmphex(test_inb(b, 0x61) & 0x21, ==, 0x21);
    /* Mode 1 waits for the gate's edge, mode 5 as well. */
    test_outb(b, 0x61, 0);
    program(b, 2, 1, 100);
    g_assert_cmphex(test_inb(b, 0x61) & 0x20, ==, 0x20);
    test_outb(b, 0x61, 1);
    g_assert_cmphex(test_inb(b, 0x61) & 0x20, ==, 0);
    test_board_advance(b, TICK(101));
    g_assert_cmphex(test_inb(b, 0x61) & 0x20, ==, 0x20);
    test_outb(b, 0x61, 0);
    program(b, 2, 5, 100);
    test_board_advance(b, TICK(500));
    g_assert_cmpint(latch(b, 2), ==, 100);
    test_outb(b, 0x61, 1);
    test_board_advance(b, TICK(40));
    g_assert_cmpint(latch(b, 2), ==, 60);
    test_board_free(b);
}

static void test_reading(void)
{
    TestBoard *b = test_board_new();
    test_board_add(b, TYPE_I8254, NULL, NULL);
    program(b, 0, 2, 0); /* 65536 */
    test_board_advance(b, TICK(0x100));
    test_outb(b, 0x43, 0x00);
    test_board_advance(b, TICK(0x1000)); /* what is latched stays */
    g_assert_cmphex(test_inb(b, 0x40), ==, 0x00);
    g_assert_cmphex(test_inb(b, 0x40), ==, 0xff);
    /* Read-back of status and count: status first. */
    program(b, 0, 2, 0x1234);
    test_outb(b, 0x43, 0xc2);
    g_assert_cmphex(test_inb(b, 0x40), ==, 0xb4);
    g_assert_cmphex(test_inb(b, 0x40), ==, 0x34);
    g_assert_cmphex(test_inb(b, 0x40), ==, 0x12);
    /* BCD. */
    test_outb(b, 0x43, 0x31);
    test_outb(b, 0x40, 0x00);
    test_outb(b, 0x40, 0x10); /* 1000 */
    test_board_advance(b, TICK(1));
    g_assert_cmphex(latch(b, 0), ==, 0x0999);
    /* A control word alone: no count yet. */
    test_outb(b, 0x43, 0x34);
    g_assert_cmphex(status(b, 0) & 0x40, ==, 0x40);
    test_board_free(b);
}

/* ---- where an accelerator models it ---- */

typedef struct FakePit {
    PitChip chip;
    bool refuse;
} FakePit;

static bool fake_create(void *opaque)
{
    return !((FakePit *)opaque)->refuse;
}

static bool fake_get(void *opaque, PitChip *chip)
{
    int64_t now_ns = chip->now_ns;
    *chip = ((FakePit *)opaque)->chip;
    chip->now_ns = now_ns;
    return true;
}

static bool fake_put(void *opaque, const PitChip *chip)
{
    ((FakePit *)opaque)->chip = *chip;
    return true;
}

static TestBoard *remote_board(X86Chips *chips, ApicRemote *remote, Device **pit)
{
    TestBoard *b = test_board_new();
    chips->pit_create = fake_create;
    chips->pit_get = fake_get;
    chips->pit_put = fake_put;
    remote->chips = chips;
    apic_bus_set_remote(b->apic_bus, remote);
    *pit = test_board_add(b, TYPE_I8254, NULL, NULL);
    return b;
}

static void test_remote(void)
{
    FakePit f = { .refuse = false };
    X86Chips chips = { .opaque = &f };
    ApicRemote remote = { .chips = NULL };
    Device *pit;
    TestBoard *b = remote_board(&chips, &remote, &pit);
    program(b, 0, 2, 11932);
    g_assert_cmpuint(f.chip.channel[0].count, ==, 11932);
    g_assert_cmpuint(f.chip.channel[0].mode, ==, 2);
    g_assert_true(f.chip.channel[0].loaded);
    test_board_advance(b, TICK(40000));
    g_assert_cmpuint(b->isa[0].rises, ==, 0); /* the accelerator raises it, not we */
    f.chip.channel[2].gate = true;
    f.chip.speaker_data = true;
    g_assert_cmphex(test_inb(b, 0x61) & 3, ==, 3);
    f.chip.channel[0].count = 5000;
    const VmState *state = DEVICE_GET_CLASS(pit)->vmstate;
    g_assert_true(state->pre_save(pit, NULL));
    f.chip.channel[0].count = 1;
    g_assert_true(state->post_load(pit, 1, NULL));
    g_assert_cmpuint(f.chip.channel[0].count, ==, 5000);
    test_board_advance(b, TICK(40000));
    g_assert_cmpuint(b->isa[0].rises, ==, 0);
    test_board_free(b);
}

/* An accelerator with the other controllers only. */
static void test_remote_refused(void)
{
    FakePit f = { .refuse = true };
    X86Chips chips = { .opaque = &f };
    ApicRemote remote = { .chips = NULL };
    Device *pit;
    TestBoard *b = remote_board(&chips, &remote, &pit);
    program(b, 0, 2, 11932);
    unsigned rises = b->isa[0].rises;
    test_board_advance(b, TICK(11932));
    g_assert_cmpuint(b->isa[0].rises, ==, rises + 1);
    test_board_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/i8254/modes", test_modes);
    g_test_add_func("/i8254/gate", test_gate);
    g_test_add_func("/i8254/reading", test_reading);
    g_test_add_func("/i8254/remote", test_remote);
    g_test_add_func("/i8254/remote-refused", test_remote_refused);
    return g_test_run();
}
