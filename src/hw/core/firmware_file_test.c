/* Finding firmware files. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/core/firmware_file.h"

#include "base/error.h"

#include <string.h>
#include <unistd.h>

static void test_find(void)
{
    GError *error = NULL;
    g_autofree char *dir = g_dir_make_tmp("rhea-firmware-XXXXXX", &error);
    g_autofree char *file = g_build_filename(dir, "bios-test.bin", NULL);
    const char *const dirs[] = { "/nonexistent", dir, NULL };
    g_assert_no_error(error);
    g_assert_true(g_file_set_contents(file, "0123456789", 10, NULL));
    g_autofree char *found = firmware_file_find(dirs, "bios-test.bin", &error);
    g_assert_cmpstr(found, ==, file);
    g_autofree char *direct = firmware_file_find(NULL, file, &error);
    g_assert_cmpstr(direct, ==, file);
    GByteArray *data = firmware_file_load(dirs, "bios-test.bin", 10, &error);
    g_assert_cmpmem(data->data, data->len, "0123456789", 10);
    g_byte_array_unref(data);
    g_assert_null(firmware_file_load(dirs, "bios-test.bin", 9, &error));
    g_assert_nonnull(strstr(error->message, "10 bytes"));
    g_clear_error(&error);
    g_assert_true(g_file_set_contents(file, "", 0, NULL));
    g_assert_null(firmware_file_load(dirs, "bios-test.bin", 9, &error));
    g_clear_error(&error);
    unlink(file);
    rmdir(dir);
}

static void test_missing(void)
{
    static const struct {
        const char *name, *package;
    } cases[] = { { "bios-none.bin", "'seabios'" },
                  { "vgabios-none.bin", "'seabios'" },
                  { "efi-none.rom", "'ipxe-qemu'" } };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        GError *error = NULL;
        g_assert_null(firmware_file_find(NULL, cases[i].name, &error));
        g_assert_nonnull(strstr(error->message, cases[i].name));
        g_autofree char *hint = error_hint(error);
        g_assert_nonnull(hint);
        g_assert_nonnull(strstr(hint, cases[i].package));
        g_clear_error(&error);
    }
    GError *error = NULL;
    g_assert_null(firmware_file_find(NULL, "/nonexistent/bios.bin", &error)); /* a path is only that */
    g_clear_error(&error);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/firmware-file/find", test_find);
    g_test_add_func("/firmware-file/missing", test_missing);
    return g_test_run();
}
