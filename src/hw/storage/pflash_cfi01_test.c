/* NOR flash: the command set, what reaches the drive, who may write. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "block/block.h"
#include "hw/storage/pflash_cfi01.h"

#include <unistd.h>

#define AT   0xff000000u
#define SIZE 65536u

typedef struct Fixture {
    TestBoard *b;
    BlockRegistry *blocks;
    Device *flash;
    char *path;
} Fixture;

static Fixture *setup(const char *secure, const char *read_only)
{
    Fixture *f = g_new0(Fixture, 1);
    GError *error = NULL;
    g_autofree char *content = g_malloc(SIZE);
    f->b = test_board_new();
    f->path = g_strdup_printf("%s/rhea-pflash-%d", g_get_tmp_dir(), (int)getpid());
    memset(content, 0xff, SIZE);
    memcpy(content, "firmware", 8);
    g_assert_true(g_file_set_contents(f->path, content, SIZE, NULL));
    f->blocks = block_registry_new(f->b->loop, NULL);
    block_property_set_registry(f->blocks);
    g_autofree char *node =
        g_strdup_printf("driver=file,node-name=flash,filename=%s,read-only=%s", f->path, read_only);
    blockdev_add_text(f->blocks, node, &error);
    g_assert_no_error(error);
    f->flash = test_board_add(f->b, TYPE_PFLASH_CFI01, NULL, "drive", "flash", "name", "flash", "secure",
                              secure, NULL);
    memory_region_add(&f->b->memory_root, AT, pflash_cfi01_region(f->flash));
    return f;
}

static void teardown(Fixture *f)
{
    memory_region_del(&f->b->memory_root, pflash_cfi01_region(f->flash));
    device_unrealize_all(f->b->root);
    block_property_set_registry(NULL);
    block_registry_free(f->blocks);
    test_board_free(f->b);
    unlink(f->path);
    g_free(f->path);
    g_free(f);
}

static uint8_t rb(Fixture *f, uint32_t at)
{
    return (uint8_t)test_read(f->b, AT + at, 1);
}

static void wb(Fixture *f, uint32_t at, uint8_t value)
{
    test_write(f->b, AT + at, 1, value);
}

static void check_file(Fixture *f, uint32_t at, const char *wanted, size_t length)
{
    g_autofree char *content = NULL;
    g_assert_true(g_file_get_contents(f->path, &content, NULL, NULL));
    g_assert_cmpmem(content + at, length, wanted, length);
}

static void settle(Fixture *f)
{
    for (int i = 0; i < 200; i++) {
        if (!loop_iterate(f->b->loop, false)) {
            g_usleep(100);
        }
    }
}

static void test_commands(void)
{
    Fixture *f = setup("off", "off");
    g_assert_cmphex(rb(f, 0), ==, 'f');
    wb(f, 0, 0x90);
    g_assert_cmphex(rb(f, 0), ==, 0x89);
    wb(f, 0, 0x98);
    g_assert_cmphex(rb(f, 0x10), ==, 'Q');
    g_assert_cmphex(rb(f, 0x27), ==, 16);
    g_assert_cmphex(rb(f, 0x2d), ==, 15);
    g_assert_cmphex(rb(f, 0x2f), ==, 16);
    wb(f, 0, 0x50);
    wb(f, 0, 0x70);
    g_assert_cmphex(rb(f, 0), ==, 0x00);
    wb(f, 0, 0xff);
    g_assert_cmphex(rb(f, 0), ==, 'f');
    /* Bits fall. */
    wb(f, 0x1000, 0x40);
    wb(f, 0x1000, 0xf5);
    g_assert_cmphex(rb(f, 0x1000), ==, 0x80);
    wb(f, 0x1000, 0x40);
    wb(f, 0x1000, 0x5f);
    wb(f, 0x1000, 0xff);
    g_assert_cmphex(rb(f, 0x1000), ==, 0x55);
    settle(f);
    check_file(f, 0x1000, "\x55\xff", 2);
    /* An erase raises those of its sector. */
    wb(f, 0x1234, 0x20);
    wb(f, 0x1234, 0xd0);
    g_assert_cmphex(rb(f, 0), ==, 0x80);
    wb(f, 0, 0xff);
    g_assert_cmphex(rb(f, 0x1000), ==, 0xff);
    g_assert_cmphex(rb(f, 0), ==, 'f');
    /* One that is not confirmed is a wrong sequence. */
    wb(f, 0, 0x20);
    wb(f, 0, 0x11);
    g_assert_cmphex(rb(f, 0), ==, 0xb0);
    wb(f, 0, 0xff);
    g_assert_cmphex(rb(f, 0), ==, 'f');
    teardown(f);
}

static void test_buffer(void)
{
    Fixture *f = setup("off", "off");
    wb(f, 0x2000, 0xe8);
    g_assert_cmphex(rb(f, 0x2000) & 0x80, ==, 0x80);
    wb(f, 0x2000, 3);
    test_write(f->b, AT + 0x2004, 4, 0x64636261);
    wb(f, 0x2000, 0xd0);
    wb(f, 0, 0xff);
    g_assert_cmphex(test_read(f->b, AT + 0x2004, 4), ==, 0x64636261);
    g_assert_cmphex(rb(f, 0x2000), ==, 0xff);
    /* Bytes outside of the buffer's block spoil it. */
    wb(f, 0x2000, 0xe8);
    wb(f, 0x2000, 0);
    wb(f, 0x9000, 0x11);
    wb(f, 0x2000, 0xd0);
    g_assert_cmphex(rb(f, 0) & 0x10, ==, 0x10);
    wb(f, 0, 0xff);
    g_assert_cmphex(rb(f, 0x9000), ==, 0xff);
    teardown(f);
}

/* What was written just before the end is in the file. */
static void test_kept(void)
{
    Fixture *f = setup("off", "off");
    for (int i = 0; i < 5; i++) {
        wb(f, 0x3000 + i * 0x2000, 0x40);
        wb(f, 0x3000 + i * 0x2000, "hello"[i]);
    }
    memory_region_del(&f->b->memory_root, pflash_cfi01_region(f->flash));
    device_unrealize(f->flash);
    for (int i = 0; i < 5; i++) {
        check_file(f, 0x3000 + i * 0x2000, &"hello"[i], 1);
    }
    block_property_set_registry(NULL);
    object_unparent(OBJECT(f->flash));
    block_registry_free(f->blocks);
    test_board_free(f->b);
    unlink(f->path);
    g_free(f->path);
    g_free(f);
}

static void test_protected(void)
{
    Fixture *f = setup("on", "off");
    const MemTxAttrs smm = { .secure = true };
    wb(f, 0x1000, 0x40);
    wb(f, 0x1000, 0x00);
    wb(f, 0x1000, 0xff);
    g_assert_cmphex(rb(f, 0x1000), ==, 0xff);
    address_space_store(f->b->memory, AT + 0x1000, 1, 0x40, smm);
    wb(f, 0x1000, 0x11); /* from outside, in the middle of it */
    address_space_store(f->b->memory, AT + 0x1000, 1, 0x42, smm);
    address_space_store(f->b->memory, AT + 0x1000, 1, 0xff, smm);
    g_assert_cmphex(rb(f, 0x1000), ==, 0x42);
    teardown(f);
    f = setup("off", "on");
    wb(f, 0, 0x40);
    wb(f, 0, 0x00);
    g_assert_cmphex(rb(f, 0), ==, 0x90);
    wb(f, 0, 0x20);
    wb(f, 0, 0xd0);
    g_assert_cmphex(rb(f, 0), ==, 0xb0);
    wb(f, 0, 0xff);
    g_assert_cmphex(rb(f, 0), ==, 'f');
    teardown(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pflash/commands", test_commands);
    g_test_add_func("/pflash/buffer", test_buffer);
    g_test_add_func("/pflash/kept", test_kept);
    g_test_add_func("/pflash/protected", test_protected);
    return g_test_run();
}
