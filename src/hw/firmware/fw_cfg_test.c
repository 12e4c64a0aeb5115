/* fw_cfg: selector and data, the directory, DMA. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/firmware/fw_cfg.h"

static void read_item(TestBoard *b, uint16_t key, void *buffer, size_t length)
{
    test_out(b, 0x510, 2, key);
    for (size_t i = 0; i < length; i++) {
        ((uint8_t *)buffer)[i] = test_inb(b, 0x511);
    }
}

static void test_items(void)
{
    TestBoard *b = test_board_new();
    FwCfg *s = FW_CFG(test_board_add(b, TYPE_FW_CFG_IO, NULL, NULL));
    char signature[4];
    read_item(b, FW_CFG_SIGNATURE, signature, 4);
    g_assert_cmpmem(signature, 4, "QEMU", 4);
    uint32_t id = 0;
    read_item(b, FW_CFG_ID, &id, 4);
    g_assert_cmphex(id, ==, 3);
    fw_cfg_add_u16(s, FW_CFG_NB_CPUS, 5);
    uint16_t cpus = 0;
    read_item(b, FW_CFG_NB_CPUS, &cpus, 2);
    g_assert_cmpint(cpus, ==, 5);
    g_assert_cmphex(test_inb(b, 0x511), ==, 0); /* beyond the end */
    uint8_t none = 1;
    read_item(b, 0x3000, &none, 1);
    g_assert_cmpint(none, ==, 0);
    fw_cfg_add_string(s, FW_CFG_ACPI_TABLES, "arch");
    char text[5];
    read_item(b, FW_CFG_ACPI_TABLES, text, 5);
    g_assert_cmpstr(text, ==, "arch");
    test_board_free(b);
}

static void test_files(void)
{
    TestBoard *b = test_board_new();
    FwCfg *s = FW_CFG(test_board_add(b, TYPE_FW_CFG_IO, NULL, NULL));
    GError *error = NULL;
    g_assert_true(fw_cfg_add_file(s, "etc/one", "1", 1, &error));
    g_assert_true(fw_cfg_add_file(s, "opt/two", "two", 3, &error));
    g_assert_true(fw_cfg_add_file(s, "etc/one", "ONE!", 4, &error)); /* replaces */
    g_autofree char *name = g_strnfill(56, 'x');
    g_assert_false(fw_cfg_add_file(s, name, "", 0, &error));
    g_clear_error(&error);
    name[55] = 0;
    g_assert_true(fw_cfg_add_file(s, name, "", 0, &error));
    struct {
        uint32_t count;
        struct {
            uint32_t size;
            uint16_t key, reserved;
            char name[56];
        } file[3];
    } directory;
    read_item(b, FW_CFG_FILE_DIR, &directory, sizeof(directory));
    g_assert_cmpint(GUINT32_FROM_BE(directory.count), ==, 3);
    g_assert_cmpstr(directory.file[0].name, ==, "etc/one");
    g_assert_cmpint(GUINT32_FROM_BE(directory.file[0].size), ==, 4);
    g_assert_cmpstr(directory.file[1].name, ==, "opt/two");
    char content[4];
    read_item(b, GUINT16_FROM_BE(directory.file[0].key), content, 4);
    g_assert_cmpmem(content, 4, "ONE!", 4);
    test_board_free(b);
}

static uint32_t dma(TestBoard *b, uint32_t control, uint32_t length, uint64_t address)
{
    uint32_t words[2] = { GUINT32_TO_BE(control), GUINT32_TO_BE(length) };
    uint64_t target = GUINT64_TO_BE(address);
    memcpy(b->ram.ram->host + 0x8000, words, 8);
    memcpy(b->ram.ram->host + 0x8008, &target, 8);
    test_out(b, 0x514, 4, 0);
    test_out(b, 0x518, 4, GUINT32_TO_BE(0x8000));
    memcpy(words, b->ram.ram->host + 0x8000, 4);
    return GUINT32_FROM_BE(words[0]);
}

static void test_dma(void)
{
    TestBoard *b = test_board_new();
    FwCfg *s = FW_CFG(test_board_add(b, TYPE_FW_CFG_IO, NULL, NULL));
    g_assert_cmphex(GUINT32_FROM_BE(test_in(b, 0x514, 4)), ==, 0x51454d55);
    g_assert_cmphex(GUINT32_FROM_BE(test_in(b, 0x518, 4)), ==, 0x20434647);
    fw_cfg_add_bytes(s, 0x777, "0123456789", 10);
    uint8_t *ram = b->ram.ram->host;
    memset(ram + 0x9000, 0xee, 32);
    g_assert_cmphex(dma(b, 0x777 << 16 | 0x08 | 0x04, 3, 0), ==, 0); /* select, skip 3 */
    g_assert_cmphex(dma(b, 0x02, 4, 0x9000), ==, 0);
    g_assert_cmpmem(ram + 0x9000, 5, "3456\xee", 5);
    g_assert_cmphex(dma(b, 0x02, 8, 0x9000), ==, 0);
    g_assert_cmpmem(ram + 0x9000, 9, "789\0\0\0\0\0\xee", 9);                     /* zeros beyond the end */
    g_assert_cmphex(dma(b, 0x777 << 16 | 0x08 | 0x10, 4, 0x9000), ==, 1);         /* not writable */
    g_assert_cmphex(dma(b, 0x777 << 16 | 0x08 | 0x02, 4, 0xfffff0000000), ==, 1); /* no RAM there */
    test_out(b, 0x514, 4, GUINT32_TO_BE(0xffff));
    test_out(b, 0x518, 4, 0); /* nor there: nothing but an error nobody reads */
    test_board_free(b);
}

/* A guest writes a file: whole writes within it only; a reset forgets them, a saved state has them. */
static void test_writable(void)
{
    TestBoard *b = test_board_new(), *other = test_board_new();
    FwCfg *s = FW_CFG(test_board_add(b, TYPE_FW_CFG_IO, NULL, NULL)),
          *twin = FW_CFG(test_board_add(other, TYPE_FW_CFG_IO, NULL, NULL));
    GError *error = NULL;
    uint8_t *ram = b->ram.ram->host;
    char now[8];
    g_assert_true(fw_cfg_add_file(s, "etc/fixed", "fix", 3, &error));
    g_assert_true(fw_cfg_add_writable_file(s, "etc/mine", "01234567", 8, &error));
    g_assert_false(fw_cfg_add_writable_file(s, "etc/mine", "01234567", 8, &error));
    g_clear_error(&error);
    g_assert_false(fw_cfg_add_file(s, "etc/mine", "x", 1, &error));
    g_clear_error(&error);
    g_assert_false(fw_cfg_add_writable_file(s, "etc/fixed", "x", 1, &error));
    g_clear_error(&error);
    memcpy(ram + 0x9000, "abcdefghi", 9);
    g_assert_cmphex(dma(b, 0x21 << 16 | 0x08 | 0x10, 9, 0x9000), ==, 1); /* too long: nothing changes */
    g_assert_true(fw_cfg_read_file(s, "etc/mine", now, 8));
    g_assert_cmpmem(now, 8, "01234567", 8);
    g_assert_cmphex(dma(b, 0x21 << 16 | 0x08 | 0x10, 3, 0x9000), ==, 0);
    g_assert_cmphex(dma(b, 0x10, 2, 0x9006), ==, 0); /* goes on where that ended */
    g_assert_cmphex(dma(b, 0x10, 4, 0x9000), ==, 1);
    g_assert_cmphex(dma(b, 0x04, UINT32_MAX, 0), ==, 0);
    g_assert_cmphex(dma(b, 0x10, 1, 0x9000), ==, 1);
    g_assert_cmphex(dma(b, 0x21 << 16 | 0x08 | 0x10, 4, 0xfffff0000000), ==, 1); /* no RAM there */
    g_assert_cmphex(dma(b, 0x20 << 16 | 0x08 | 0x10, 1, 0x9000), ==,
                    1); /* the other one is not for writing */
    g_assert_true(fw_cfg_read_file(s, "etc/mine", now, 8));
    g_assert_cmpmem(now, 8, "abcgh567", 8);
    read_item(b, 0x21, now, 8);
    g_assert_cmpmem(now, 8, "abcgh567", 8);
    g_assert_false(fw_cfg_read_file(s, "etc/mine", now, 7));
    g_assert_false(fw_cfg_read_file(s, "etc/none", now, 8));
    const VmState *vms = DEVICE_GET_CLASS(s)->vmstate;
    g_autoptr(GByteArray) state = vmstate_save(vms, s, &error);
    g_assert_no_error(error);
    g_assert_false(vmstate_load(vms, twin, state->data, state->len, &error)); /* it has no such file */
    g_assert_nonnull(strstr(error->message, "8 in the saved state"));
    g_clear_error(&error);
    g_assert_true(fw_cfg_add_writable_file(twin, "etc/mine", "01234567", 8, &error));
    g_assert_true(vmstate_load(vms, twin, state->data, state->len, &error));
    g_assert_true(fw_cfg_read_file(twin, "etc/mine", now, 8));
    g_assert_cmpmem(now, 8, "abcgh567", 8);
    device_reset(DEVICE(twin));
    g_assert_true(fw_cfg_read_file(twin, "etc/mine", now, 8));
    g_assert_cmpmem(now, 8, "01234567", 8);
    test_board_free(b);
    test_board_free(other);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fw-cfg/items", test_items);
    g_test_add_func("/fw-cfg/files", test_files);
    g_test_add_func("/fw-cfg/dma", test_dma);
    g_test_add_func("/fw-cfg/writable", test_writable);
    return g_test_run();
}
