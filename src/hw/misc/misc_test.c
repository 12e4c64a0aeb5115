/* The small devices: debug exit, test device, port 92, panic port. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "tests/machine/test_board.h"

#include "hw/firmware/fw_cfg.h"
#include "hw/misc/port92.h"

static void test_debug_exit(void)
{
    TestBoard *b = test_board_new();
    Bus *isa = isa_bus_new(NULL, &b->env);
    test_board_add(b, "isa-debug-exit", isa, "iobase", "0xf4", "iosize", "0x4", NULL);
    test_out(b, 0xf4, 4, 0x21);
    g_assert_cmpint(b->exit_status, ==, 0x43);
    test_outb(b, 0xf4, 0);
    g_assert_cmpint(b->exit_status, ==, 1);
    GError *error = NULL;
    Device *dev = device_new_unattached(b->root, "isa-debug-exit", NULL);
    object_property_parse(OBJECT(dev), "iobase", "0xfffe", &error);
    object_property_parse(OBJECT(dev), "iosize", "4", &error);
    g_assert_false(device_realize(dev, isa, NULL, &error));
    g_assert_nonnull(strstr(error->message, "0x10000"));
    g_clear_error(&error);
    test_board_free(b);
}

static void test_pc_testdev(void)
{
    TestBoard *b = test_board_new();
    test_board_add(b, "pc-testdev", isa_bus_new(NULL, &b->env), NULL);
    test_out(b, 0xe0, 4, 0x12345678);
    g_assert_cmphex(test_in(b, 0xe0, 4), ==, 0x12345678);
    g_assert_cmphex(test_in(b, 0xe2, 2), ==, 0x1234);
    test_outb(b, 0xe1, 0xff);
    g_assert_cmphex(test_in(b, 0xe8, 4), ==, 0x1234ff78); /* through bytes */
    test_out(b, 0xe4, 4, 0x1000);
    test_outb(b, 0x200e, 1);
    g_assert_true(b->isa[14].level);
    test_outb(b, 0x200e, 0);
    g_assert_false(b->isa[14].level);
    test_outb(b, 0x2017, 1);
    g_assert_true(b->gsi[23].level);
    test_write(b, 0xff000008, 8, 0x1122334455667788);
    g_assert_cmphex(test_read(b, 0xff00000a, 2), ==, 0x5566);
    g_assert_cmphex(test_read(b, 0xff000008, 8), ==, 0x1122334455667788);
    test_board_free(b);
}

static void test_port92(void)
{
    TestBoard *b = test_board_new();
    TestLine a20 = { 0 };
    IrqLine line = { .handler = test_line_set, .opaque = &a20 };
    Device *dev = device_new_unattached(b->root, TYPE_PORT92, NULL);
    GError *error = NULL;
    port92_set_a20(dev, &line);
    g_assert_true(device_realize(dev, isa_bus_new(NULL, &b->env), NULL, &error));
    device_reset(dev);
    g_assert_true(a20.level);
    test_outb(b, 0x92, 0x00);
    g_assert_false(a20.level);
    test_outb(b, 0x92, 0x02);
    g_assert_true(a20.level);
    test_outb(b, 0x92, 0x03);
    test_outb(b, 0x92, 0x03); /* no new edge */
    g_assert_cmpint(b->resets, ==, 1);
    test_board_free(b);
}

static void test_pvpanic(void)
{
    TestBoard *b = test_board_new();
    b->env.fw_cfg = FW_CFG(test_board_add(b, TYPE_FW_CFG_IO, NULL, NULL));
    test_board_add(b, "pvpanic", isa_bus_new(NULL, &b->env), NULL);
    g_assert_cmphex(test_inb(b, 0x505), ==, 3);
    test_outb(b, 0x505, 2);
    g_assert_cmpstr(b->last_event, ==, "GUEST_CRASHLOADED");
    test_outb(b, 0x505, 1);
    g_assert_cmpint(b->cause, ==, SHUTDOWN_GUEST_PANIC);
    test_board_free(b);
}

static void expect_note(Device *dev, const char *format, const char *address, const char *size)
{
    static const char *const names[] = { "note-format", "note-address", "note-size" };
    const char *const wanted[] = { format, address, size };
    for (int i = 0; i < 3; i++) {
        g_autofree char *text = object_property_print(OBJECT(dev), names[i], NULL);
        g_assert_cmpstr(text, ==, wanted[i]);
    }
}

static void test_vmcoreinfo(void)
{
    TestBoard *b = test_board_new();
    GError *error = NULL;
    b->env.fw_cfg = FW_CFG(test_board_add(b, TYPE_FW_CFG_IO, NULL, NULL));
    Device *dev = test_board_add(b, "vmcoreinfo", NULL, NULL);
    uint8_t file[16];
    g_assert_true(fw_cfg_read_file(b->env.fw_cfg, "etc/vmcoreinfo", file, sizeof(file)));
    g_assert_cmpuint(file[0], ==, 1); /* what we understand: ELF */
    expect_note(dev, "0", "0", "0");
    static const uint8_t note[16] = { 1, 0, 1, 0, 0x24, 0x10, 0, 0, 0, 0x60, 0x5f, 0x1e, 0, 0, 0, 0 };
    fw_cfg_write_file(b->env.fw_cfg, "etc/vmcoreinfo", note, sizeof(note));
    expect_note(dev, "1", "509566976", "4132");
    device_reset_all(b->root);
    expect_note(dev, "0", "0", "0");
    Device *second = device_new_unattached(b->root, "vmcoreinfo", NULL);
    g_assert_false(device_realize(second, NULL, &b->env, &error));
    g_assert_nonnull(strstr(error->message, "etc/vmcoreinfo"));
    g_clear_error(&error);
    test_board_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/debug-exit", test_debug_exit);
    g_test_add_func("/pc-testdev", test_pc_testdev);
    g_test_add_func("/port92", test_port92);
    g_test_add_func("/pvpanic", test_pvpanic);
    g_test_add_func("/misc/vmcoreinfo", test_vmcoreinfo);
    return g_test_run();
}
