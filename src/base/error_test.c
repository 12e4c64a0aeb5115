/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"

#include <errno.h>

static void test_set_and_class(void)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(error_set_class(&error, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%s' not found", "x"));
    g_assert_error(error, RHEA_ERROR, ERROR_CLASS_DEVICE_NOT_FOUND);
    g_assert_cmpstr(error_class_name(error->code), ==, "DeviceNotFound");
    g_assert_cmpstr(error->message, ==, "Device 'x' not found");
    g_assert_false(error_set(NULL, "ignored"));
}

static void test_hint(void)
{
    g_autoptr(GError) error = NULL;
    error_set_errno(&error, ENOENT, "Could not open '%s'", "a.img");
    error_append_hint(&error, "try b.img");
    error_append_hint(&error, "or c.img");
    error_prefix(&error, "drive0: ");
    g_autofree char *message = error_message(error);
    g_autofree char *hint = error_hint(error);
    g_assert_cmpstr(message, ==, "drive0: Could not open 'a.img': No such file or directory");
    g_assert_cmpstr(hint, ==, "try b.img\nor c.img");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/error/set-and-class", test_set_and_class);
    g_test_add_func("/error/hint", test_hint);
    return g_test_run();
}
