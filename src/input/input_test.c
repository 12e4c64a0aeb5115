/* The registry of input handlers, and the table of keys. SPDX-License-Identifier: GPL-2.0-or-later */
#include "input/input.h"

#include <linux/input-event-codes.h>

typedef struct Sink {
    HomeLock lock;
    GString *log;
} Sink;

static void on_event(void *opaque, const InputEvent *event)
{
    Sink *s = opaque;
    g_assert_true(home_lock_held(&s->lock));
    g_string_append_printf(s->log, "%c%u=%d ", "kbra"[event->kind], event -> code, event -> value);
}

static void on_sync(void *opaque)
{
    g_string_append_c(((Sink *)opaque)->log, ';');
}

static const InputHandlerOps keyboard_ops = { "keyboard", 1u << INPUT_KEY, on_event, on_sync };
static const InputHandlerOps mouse_ops = { "mouse", 1u << INPUT_REL | 1u << INPUT_BUTTON, on_event, on_sync };
static const InputHandlerOps tablet_ops = { "tablet", 1u << INPUT_ABS | 1u << INPUT_BUTTON, on_event, NULL };

typedef struct Fixture {
    Loop *loop;
    ClockSet *clocks;
    InputRegistry *reg;
    Sink sinks[3];
} Fixture;

static void setup(Fixture *f)
{
    GError *error = NULL;
    f->loop = loop_new(NULL, &error);
    g_assert_no_error(error);
    f->clocks = clock_set_new();
    clock_set_run(f->clocks, true);
    f->reg = input_registry_new(f->loop, f->clocks);
    for (int i = 0; i < 3; i++) {
        home_lock_init(&f->sinks[i].lock);
        f->sinks[i].log = g_string_new(NULL);
    }
}

static void teardown(Fixture *f)
{
    input_registry_free(f->reg);
    clock_set_free(f->clocks);
    loop_free(f->loop);
    for (int i = 0; i < 3; i++) {
        home_lock_destroy(&f->sinks[i].lock);
        g_string_free(f->sinks[i].log, TRUE);
    }
}

static void expect_log(Sink *s, const char *text)
{
    g_assert_cmpstr(s->log->str, ==, text);
    g_string_truncate(s->log, 0);
}

static void test_routing(void)
{
    Fixture f;
    setup(&f);
    input_send_key(f.reg, KEY_A, true); /* nobody there */
    InputHandler *old = input_handler_new(f.reg, &keyboard_ops, &f.sinks[0], &f.sinks[0].lock, true);
    InputHandler *young = input_handler_new(f.reg, &keyboard_ops, &f.sinks[1], &f.sinks[1].lock, false);
    input_send_key(f.reg, KEY_A, true);
    expect_log(&f.sinks[0], "k30=1 ;");
    input_handler_activate(young); /* its driver comes while a key is down: the old one must not keep it */
    input_send_key(f.reg, KEY_B, true);
    expect_log(&f.sinks[0], "k30=0 ;");
    expect_log(&f.sinks[1], "k48=1 ;");
    input_send_key(f.reg, KEY_A, false); /* never pressed there */
    expect_log(&f.sinks[1], "");
    input_handler_set_leds(young, INPUT_LED_CAPS);
    g_assert_cmpuint(input_leds(f.reg), ==, INPUT_LED_CAPS);
    input_registry_set_running(f.reg, false);
    input_send_key(f.reg, KEY_C, true);
    input_send_key(f.reg, KEY_B, false);
    expect_log(&f.sinks[1], "k48=0 ;");
    input_registry_set_running(f.reg, true);
    input_handler_deactivate(young);
    input_send_key(f.reg, 9999, true);
    input_send_key(f.reg, KEY_C, true);
    expect_log(&f.sinks[0], "k46=1 ;");
    input_handler_free(old);
    input_handler_free(young);
    teardown(&f);
}

static void test_pointers(void)
{
    Fixture f;
    setup(&f);
    InputHandler *mouse = input_handler_new(f.reg, &mouse_ops, &f.sinks[0], &f.sinks[0].lock, true);
    g_assert_false(input_pointer_is_absolute(f.reg));
    InputHandler *tablet = input_handler_new(f.reg, &tablet_ops, &f.sinks[1], &f.sinks[1].lock, true);
    g_assert_true(input_pointer_is_absolute(f.reg));
    InputEvent events[] = { { INPUT_ABS, INPUT_AXIS_X, 5 },
                            { INPUT_ABS, INPUT_AXIS_Y, 6 },
                            { INPUT_BUTTON, INPUT_BUTTON_LEFT, 1 },
                            { INPUT_BUTTON, INPUT_BUTTON_COUNT, 1 },
                            { INPUT_ABS, 7, 1 } };
    input_send(f.reg, events, G_N_ELEMENTS(events));
    expect_log(&f.sinks[1], "a0=5 a1=6 b0=1 ");
    GArray *list = input_pointers(f.reg);
    g_assert_cmpuint(list->len, ==, 2);
    InputPointerInfo *info = &g_array_index(list, InputPointerInfo, 0);
    g_assert_true(info->current && info->absolute);
    g_assert_cmpint(info->index, ==, 2);
    g_array_unref(list);
    GError *error = NULL;
    g_assert_false(input_pointer_select(f.reg, 9, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    g_assert_true(input_pointer_select(f.reg, 1, &error));
    g_assert_false(input_pointer_is_absolute(f.reg));
    input_send(f.reg, &(InputEvent){ INPUT_BUTTON, INPUT_BUTTON_RIGHT, 1 }, 1);
    expect_log(&f.sinks[1], "b0=0 ");
    expect_log(&f.sinks[0], "b2=1 ;");
    input_handler_free(tablet);
    input_handler_free(mouse);
    teardown(&f);
}

static void test_typing(void)
{
    Fixture f;
    GError *error = NULL;
    setup(&f);
    InputHandler *h = input_handler_new(f.reg, &keyboard_ops, &f.sinks[0], &f.sinks[0].lock, true);
    uint16_t codes[] = { KEY_LEFTCTRL, KEY_C }, many[600] = { 0 };
    g_assert_true(input_type_keys(f.reg, codes, 2, 2, &error));
    input_send_key(f.reg, KEY_X, true); /* not in between */
    expect_log(&f.sinks[0], "k29=1 ;");
    int64_t end = g_get_monotonic_time() + 5 * G_TIME_SPAN_SECOND;
    while (!g_str_has_suffix(f.sinks[0].log->str, "k45=1 ;") && g_get_monotonic_time() < end) {
        loop_iterate(f.loop, true);
    }
    expect_log(&f.sinks[0], "k46=1 ;k46=0 ;k29=0 ;k45=1 ;");
    g_assert_false(input_type_keys(f.reg, many, 600, 2, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    input_handler_free(h);
    teardown(&f);
}

static void test_keys(void)
{
    bool printable, shift = false;
    g_assert_cmpuint(input_key_by_name("ret")->code, ==, KEY_ENTER);
    g_assert_cmpuint(input_key_by_name("sysrq")->code, ==, KEY_SYSRQ);
    g_assert_null(input_key_by_name("nokey"));
    g_assert_cmpuint(input_key_by_number(0x9c)->code, ==, KEY_KPENTER);
    g_assert_cmpuint(input_key_by_number(0x1c)->code, ==, KEY_ENTER);
    g_assert_null(input_key_by_number(0x1001c));
    g_assert_cmpuint(input_key_by_keysym('A', &printable, &shift)->code, ==, KEY_A);
    g_assert_true(printable && shift);
    g_assert_cmpuint(input_key_by_keysym('/', &printable, &shift)->code, ==, KEY_SLASH);
    g_assert_true(printable && !shift);
    g_assert_cmpuint(input_key_by_keysym(0xffbe + 11, &printable, &shift)->code, ==, KEY_F12);
    g_assert_false(printable);
    g_assert_null(input_key_by_keysym(0x100263a, &printable, &shift));
    for (unsigned c = 0x20; c < 0x7f; c++) { /* every character of ASCII has a key */
        g_assert_nonnull(input_key_by_keysym(c, &printable, &shift));
    }
    for (unsigned code = 1; code < INPUT_KEY_COUNT; code++) { /* both translations agree on every key */
        const InputKey *key = input_key_find(code);
        if (key) {
            uint8_t set1 = key->set1 & 0xff;
            g_assert_cmphex(input_set1_of_set2(input_set2_of_set1(set1)), ==, set1);
            g_assert_true(input_key_by_name(key->name) == key);
        }
    }
    g_assert_cmphex(input_set2_of_set1(0x1e), ==, 0x1c);
    g_assert_cmphex(input_set2_of_set1(0x41), ==, 0x83);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/input/routing", test_routing);
    g_test_add_func("/input/pointers", test_pointers);
    g_test_add_func("/input/typing", test_typing);
    g_test_add_func("/input/keys", test_keys);
    return g_test_run();
}
