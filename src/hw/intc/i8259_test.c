/* The 8259A pair: priorities, EOIs, cascade, modes, spurious. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "arch/x86/chips.h"
#include "hw/intc/i8259.h"

static Device *start(TestBoard *b)
{
    Device *pic = test_board_add(b, TYPE_I8259, NULL, NULL);
    static const uint8_t words[][2] = { { 0x20, 0x11 }, { 0x21, 0x20 }, { 0x21, 0x04 }, { 0x21, 0x01 },
                                        { 0xa0, 0x11 }, { 0xa1, 0x28 }, { 0xa1, 0x02 }, { 0xa1, 0x01 } };
    for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
        test_outb(b, words[i][0], words[i][1]);
    }
    return pic;
}

static void pulse(Device *pic, int n)
{
    i8259_set_input(pic, n, true);
    i8259_set_input(pic, n, false);
}

static uint8_t isr(TestBoard *b, uint16_t port)
{
    test_outb(b, port, 0x0b);
    return test_inb(b, port);
}

static void test_priority(void)
{
    TestBoard *b = test_board_new();
    Device *pic = start(b);
    pulse(pic, 4);
    pulse(pic, 1);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x21);
    pulse(pic, 0);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x20); /* nests above 1 */
    g_assert_cmphex(isr(b, 0x20), ==, 0x03);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x27); /* 4 has to wait: spurious */
    test_outb(b, 0x20, 0x20);
    g_assert_cmphex(isr(b, 0x20), ==, 0x02);
    test_outb(b, 0x20, 0x61); /* specific EOI of 1 */
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x24);
    test_outb(b, 0x21, 0xff);
    pulse(pic, 3);
    g_assert_cmphex(test_inb(b, 0x21), ==, 0xff);
    test_outb(b, 0x20, 0x0a);
    g_assert_cmphex(test_inb(b, 0x20), ==, 0x08); /* IRR remembers what is masked */
    test_outb(b, 0x21, 0x00);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x23);
    test_board_free(b);
}

static void test_cascade(void)
{
    TestBoard *b = test_board_new();
    Device *pic = start(b);
    pulse(pic, 12);
    pulse(pic, 8);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x28);
    g_assert_cmphex(isr(b, 0x20), ==, 0x04);
    g_assert_cmphex(isr(b, 0xa0), ==, 0x01);
    test_outb(b, 0xa0, 0x20);
    test_outb(b, 0x20, 0x20);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x2c);
    test_outb(b, 0xa0, 0x20);
    test_outb(b, 0x20, 0x20);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x27);
    test_board_free(b);
}

static void test_level(void)
{
    TestBoard *b = test_board_new();
    Device *pic = start(b);
    test_outb(b, 0x4d0, 0xff);
    test_outb(b, 0x4d1, 0xff);
    g_assert_cmphex(test_inb(b, 0x4d0), ==, 0xf8); /* not for timer, keyboard, cascade */
    g_assert_cmphex(test_inb(b, 0x4d1), ==, 0xde);
    i8259_set_input(pic, 10, true);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x2a);
    test_outb(b, 0xa0, 0x20);
    test_outb(b, 0x20, 0x20);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x2a); /* asks again while it is high */
    i8259_set_input(pic, 10, false);
    test_outb(b, 0xa0, 0x20);
    test_outb(b, 0x20, 0x20);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x27);
    i8259_set_input(pic, 1, true); /* edge: once */
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x21);
    test_outb(b, 0x20, 0x20);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x27);
    test_board_free(b);
}

static void test_modes(void)
{
    TestBoard *b = test_board_new();
    Device *pic = start(b);
    /* Rotation: after a rotating EOI of 0, it is the lowest. */
    pulse(pic, 0);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x20);
    test_outb(b, 0x20, 0xa0);
    pulse(pic, 0);
    pulse(pic, 7);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x27);
    test_outb(b, 0x20, 0x20);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x20);
    test_outb(b, 0x20, 0x20);
    test_outb(b, 0x20, 0xc7); /* 7 is the lowest again */
    /* Special mask: with 1 in service and masked, a lower one gets through. */
    pulse(pic, 1);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x21);
    pulse(pic, 5);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x27);
    test_outb(b, 0x21, 0x02);
    test_outb(b, 0x20, 0x68);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x25);
    test_outb(b, 0x20, 0x48);
    test_outb(b, 0x20, 0x65);
    test_outb(b, 0x20, 0x61);
    test_outb(b, 0x21, 0x00);
    /* Poll: the read acknowledges. */
    pulse(pic, 6);
    test_outb(b, 0x20, 0x0c);
    g_assert_cmphex(test_inb(b, 0x20), ==, 0x86);
    g_assert_cmphex(isr(b, 0x20), ==, 0x40);
    test_outb(b, 0x20, 0x20);
    test_outb(b, 0x20, 0x0c);
    g_assert_cmphex(test_inb(b, 0x20), ==, 0x00);
    /* Automatic EOI. */
    test_outb(b, 0x20, 0x11);
    test_outb(b, 0x21, 0x40);
    test_outb(b, 0x21, 0x04);
    test_outb(b, 0x21, 0x03);
    pulse(pic, 3);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x43);
    g_assert_cmphex(isr(b, 0x20), ==, 0x00);
    test_board_free(b);
}

/* ---- where an accelerator models it ---- */

typedef struct FakePic {
    PicChip chip[2];
    unsigned puts;
    uint16_t lines;
} FakePic;

static void fake_input(void *opaque, unsigned input, bool level)
{
    FakePic *f = opaque;
    f->lines = level ? f->lines | 1u << input : f->lines & ~(1u << input);
}

static bool fake_get(void *opaque, PicChip chips[2])
{
    memcpy(chips, ((FakePic *)opaque)->chip, 2 * sizeof(PicChip));
    return true;
}

static bool fake_put(void *opaque, const PicChip chips[2])
{
    FakePic *f = opaque;
    memcpy(f->chip, chips, 2 * sizeof(PicChip));
    f->puts++;
    return true;
}

static void test_remote(void)
{
    FakePic f = { .chip = { { .inputs = 0x08 } } };
    X86Chips chips = { .pic_input = fake_input, .pic_get = fake_get, .pic_put = fake_put, .opaque = &f };
    ApicRemote remote = { .chips = &chips };
    TestBoard *b = test_board_new();
    apic_bus_set_remote(b->apic_bus, &remote);
    Device *pic = start(b); /* an access that comes here changes what the accelerator has */
    g_assert_cmpuint(f.chip[0].vector_base, ==, 0x20);
    g_assert_cmpuint(f.chip[1].vector_base, ==, 0x28);
    g_assert_cmpuint(f.chip[0].init_step, ==, PIC_INIT_DONE);
    i8259_set_input(pic, 4, true);
    i8259_set_input(pic, 12, true);
    i8259_set_input(pic, 4, false);
    g_assert_cmphex(f.lines, ==, 1u << 12);
    g_assert_false(apic_bus_pic_pending(b->apic_bus)); /* nobody here is told */
    f.chip[0].isr = 0x05;                              /* it goes on without us */
    f.chip[0].imr = 0x70;
    g_assert_cmphex(isr(b, 0x20), ==, 0x05);
    g_assert_cmphex(test_inb(b, 0x21), ==, 0x70);
    test_outb(b, 0x4d0, 0xff);
    g_assert_cmphex(f.chip[0].elcr, ==, 0xf8);
    const VmState *state = DEVICE_GET_CLASS(pic)->vmstate;
    f.chip[0] = (PicChip){ .irr = 0x10, .vector_base = 0x20, .lowest = 7 };
    g_assert_true(state->pre_save(pic, NULL));
    unsigned puts = f.puts;
    f.chip[0].irr = 0;
    g_assert_true(state->post_load(pic, 1, NULL));
    g_assert_cmpuint(f.puts, ==, puts + 1);
    g_assert_cmphex(f.chip[0].irr, ==, 0x10);
    f.chip[0].inputs = 0x40;
    DEVICE_GET_CLASS(pic)->reset(pic);
    g_assert_cmphex(f.chip[0].inputs, ==, 0x40); /* what devices drive survives */
    g_assert_cmpuint(f.chip[0].init_step, ==, PIC_INIT_NEVER);
    test_board_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/i8259/priority", test_priority);
    g_test_add_func("/i8259/cascade", test_cascade);
    g_test_add_func("/i8259/level", test_level);
    g_test_add_func("/i8259/modes", test_modes);
    g_test_add_func("/i8259/remote", test_remote);
    return g_test_run();
}
