/* virtio-keyboard, -mouse and -tablet as a driver sees them. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/virtio/virtio_test.h"
#include "input/input.h"

#include <linux/input-event-codes.h>

static VirtioTest t;
static InputRegistry *inputs;
static uint32_t buffers[16];
static unsigned posted;

static void setup(const char *type)
{
    GError *error = NULL;
    vt_new(&t, type);
    inputs = input_registry_new(t.loop, t.clocks);
    t.env.inputs = inputs;
    g_assert_true(vt_realize(&t, &error));
    posted = 0;
}

static void teardown(void)
{
    device_unrealize(DEVICE(t.device));
    device_unrealize(t.transport);
    input_registry_free(inputs);
    irq_free(t.irq);
    vt_machine_free(&t);
}

static void post(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned slot = posted++ % 16;
        buffers[slot] = buffers[slot] ? buffers[slot] : vt_alloc(&t, NULL, 8);
        vt_add(&t, 0, (uint16_t)slot, &(VtBuffer){ buffers[slot], 8, true }, 1);
    }
    vt_kick(&t, 0);
    vt_settle(&t);
}

static void expect_event(unsigned type, unsigned code, int value)
{
    uint32_t written, slot = vt_take(&t, 0, &written);
    g_assert_cmpuint(written, ==, 8);
    g_assert_cmpuint(vt_ram(&t, buffers[slot], 2), ==, type);
    g_assert_cmpuint(vt_ram(&t, buffers[slot] + 2, 2), ==, code);
    g_assert_cmpint((int32_t)vt_ram(&t, buffers[slot] + 4, 4), ==, value);
}

static unsigned query(unsigned select, unsigned subselect)
{
    address_space_store(t.as, VT_MMIO + 0x100, 1, select, MEMTXATTRS_NONE);
    address_space_store(t.as, VT_MMIO + 0x101, 1, subselect, MEMTXATTRS_NONE);
    return (unsigned)vt_config(&t, 2, 1);
}

static void test_keyboard(void)
{
    memset(buffers, 0, sizeof(buffers));
    setup("virtio-keyboard-device");
    g_assert_cmpuint(vt_read(&t, 0x008), ==, 18);
    g_assert_cmpuint(query(1, 0), ==, strlen("QEMU Virtio Keyboard"));
    g_assert_cmpuint(vt_config(&t, 8, 1), ==, 'Q');
    g_assert_cmpuint(query(3, 0), ==, 8);
    g_assert_cmpuint(query(0x11, EV_KEY), ==, KEY_MEDIA / 8 + 1);
    g_assert_cmphex(vt_config(&t, 8 + KEY_A / 8, 1) >> (KEY_A % 8) & 1, ==, 1);
    g_assert_cmpuint(query(0x11, EV_REL), ==, 0);
    g_assert_cmpuint(query(0x11, EV_LED), ==, 1);
    g_assert_cmpuint(query(0x99, 7), ==, 0);
    input_send_key(inputs, KEY_B, true); /* no driver yet */
    vt_start(&t, 0, 2);
    post(8);
    input_send_key(inputs, KEY_A, true);
    input_send_key(inputs, KEY_A, true); /* the driver repeats */
    input_send_key(inputs, KEY_A, false);
    expect_event(EV_KEY, KEY_A, 1);
    expect_event(EV_SYN, SYN_REPORT, 0);
    expect_event(EV_KEY, KEY_A, 0);
    expect_event(EV_SYN, SYN_REPORT, 0);
    g_assert_cmpuint(vt_used_idx(&t, 0), ==, 4);
    uint8_t led[] = { EV_LED, 0, LED_CAPSL, 0, 1, 0, 0, 0 };
    vt_add(&t, 1, 0, &(VtBuffer){ vt_alloc(&t, led, 8), 8, false }, 1);
    vt_add(&t, 1, 1, &(VtBuffer){ vt_alloc(&t, led, 3), 3, false }, 1); /* too short: ignored */
    vt_kick(&t, 1);
    vt_take(&t, 1, NULL);
    vt_take(&t, 1, NULL);
    g_assert_cmpuint(input_leds(inputs), ==, INPUT_LED_CAPS);
    vt_write(&t, 0x070, 0); /* a reset: keys go elsewhere */
    vt_settle(&t);
    g_assert_cmpuint(input_leds(inputs), ==, 0);
    teardown();
}

/* A driver without buffers loses presses, and gets the release of all that it was told. */
static void test_backlog(void)
{
    memset(buffers, 0, sizeof(buffers));
    setup("virtio-keyboard-device");
    vt_start(&t, 0, 2);
    for (int i = 0; i < 2000; i++) {
        input_send_key(inputs, KEY_Q + i % 10, !(i / 10 % 2));
    }
    for (int i = 0; i < 10; i++) {
        input_send_key(inputs, KEY_Q + i, false);
    }
    int down[KEY_CNT] = { 0 };
    unsigned events = 0;
    post(16);
    while (vt_used_idx(&t, 0) != t.used[0]) {
        uint32_t slot = vt_take(&t, 0, NULL);
        unsigned type = (unsigned)vt_ram(&t, buffers[slot], 2),
                 code = (unsigned)vt_ram(&t, buffers[slot] + 2, 2);
        if (type == EV_KEY) {
            int value = (int)vt_ram(&t, buffers[slot] + 4, 4);
            g_assert_cmpint(down[code], ==, !value);
            down[code] = value;
        }
        events++;
        if (events % 2 == 0) {
            post(2);
        }
    }
    g_assert_cmpuint(events, >, 400);
    g_assert_cmpuint(events, <=, 1024);
    for (unsigned i = 0; i < KEY_CNT; i++) {
        g_assert_cmpint(down[i], ==, 0);
    }
    teardown();
}

static void test_tablet(void)
{
    memset(buffers, 0, sizeof(buffers));
    setup("virtio-tablet-device");
    g_assert_false(input_pointer_is_absolute(inputs));
    vt_start(&t, 0, 2);
    g_assert_true(input_pointer_is_absolute(inputs));
    g_assert_cmpuint(query(0x12, ABS_X), ==, 20);
    g_assert_cmpuint(vt_config(&t, 8 + 4, 4), ==, INPUT_ABS_MAX);
    g_assert_cmpuint(query(0x12, ABS_Z), ==, 0);
    InputEvent events[] = { { INPUT_ABS, INPUT_AXIS_X, 100 }, { INPUT_ABS, INPUT_AXIS_Y, 200 } };
    input_send(inputs, events, 2);
    post(2);
    g_assert_cmpuint(vt_used_idx(&t, 0), ==, 0); /* a group of three does not fit into two buffers */
    post(4);
    expect_event(EV_ABS, ABS_X, 100);
    expect_event(EV_ABS, ABS_Y, 200);
    expect_event(EV_SYN, SYN_REPORT, 0);
    input_send(inputs, &(InputEvent){ INPUT_BUTTON, INPUT_BUTTON_LEFT, 1 }, 1);
    expect_event(EV_KEY, BTN_LEFT, 1);
    expect_event(EV_SYN, SYN_REPORT, 0);
    post(4);
    input_send(inputs, &(InputEvent){ INPUT_BUTTON, INPUT_BUTTON_WHEEL_DOWN, 1 }, 1);
    expect_event(EV_REL, REL_WHEEL, -1);
    expect_event(EV_SYN, SYN_REPORT, 0);
    teardown();
}

static void test_mouse(void)
{
    memset(buffers, 0, sizeof(buffers));
    setup("virtio-mouse-device");
    vt_start(&t, 0, 2);
    post(4);
    g_assert_cmpuint(query(0x11, EV_REL), ==, 2);
    g_assert_cmpuint(query(0x11, EV_ABS), ==, 0);
    input_send(inputs, &(InputEvent){ INPUT_REL, INPUT_AXIS_Y, -7 }, 1);
    expect_event(EV_REL, REL_Y, -7);
    expect_event(EV_SYN, SYN_REPORT, 0);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-input/keyboard", test_keyboard);
    g_test_add_func("/virtio-input/backlog", test_backlog);
    g_test_add_func("/virtio-input/tablet", test_tablet);
    g_test_add_func("/virtio-input/mouse", test_mouse);
    return g_test_run();
}
