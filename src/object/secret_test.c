/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/secret.h"

#include "base/error.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static Object *add(Object *root, const char *text, GError **error)
{
    g_autofree char *whole = *text == '{' ? g_strdup(text) : g_strdup_printf("secret,%s", text);
    return user_creatable_add_text(root, whole, error);
}

static void test_secret(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) root = object_root_new();
    const uint8_t *value;
    size_t size;
    g_assert_nonnull(add(root, "id=a,data=letmein", &error));
    g_assert_true(secret_value(root, "a", &value, &size, &error));
    g_assert_cmpmem(value, size, "letmein", 7);
    g_assert_null(object_property_get_str(object_resolve_path(root, "/objects/a", NULL), "data", &error));
    g_clear_error(&error);
    g_assert_nonnull(add(root, "id=b,data=AAEC,format=base64", &error));
    g_assert_true(secret_value(root, "b", &value, &size, &error));
    g_assert_cmpmem(value, size, "\0\1\2", 3);

    g_autofree char *path = g_strdup_printf("%s/secret-%d", g_get_tmp_dir(), (int)getpid());
    g_assert_true(g_file_set_contents(path, "\xff\0\n", 3, NULL));
    g_autofree char *text = g_strdup_printf("id=c,file=%s", path);
    g_assert_nonnull(add(root, text, &error));
    g_unlink(path);
    g_assert_true(secret_value(root, "c", &value, &size, &error));
    g_assert_cmpmem(value, size, "\xff\0\n", 3);

    static const char *const bad[] = { "id=x",
                                       "id=x,data=a,file=b",
                                       "id=x,file=/nonexistent/file",
                                       "id=x,data=?,format=base64",
                                       "id=x,data=a,keyid=a",
                                       "id=x,data=a,format=hex",
                                       "data=a",
                                       "{\"qom-type\":\"secret\",\"id\":\"x\",\"data\":5}" };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_null(add(root, bad[i], &error));
        g_assert_nonnull(error);
        g_clear_error(&error);
        g_assert_false(secret_value(root, "x", &value, &size, NULL));
    }

    /* JSON takes the same way; what the schema does not know is named with the nearest that it does. */
    g_assert_nonnull(
        add(root, "{\"qom-type\":\"secret\",\"id\":\"j\",\"data\":\"eA==\",\"format\":\"base64\"}", &error));
    g_assert_true(secret_value(root, "j", &value, &size, &error));
    g_assert_cmpmem(value, size, "x", 1);
    static const struct {
        const char *text, *part;
    } named[] = {
        { "id=x,dat=a", "Parameter 'dat' is unexpected" },
        { "id=x,dat=a", "Did you mean 'data'?" },
        { "{\"qom-type\":\"secret\",\"id\":\"x\",\"dta\":\"a\"}", "Did you mean 'data'?" },
        { "{\"qom-type\":\"secert\",\"id\":\"x\"}", "Did you mean 'secret'?" },
        { "{\"id\":\"x\"}", "'qom-type' is missing" },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(named); i++) {
        g_assert_null(add(root, named[i].text, &error));
        g_assert_nonnull(error);
        g_assert_nonnull(strstr(error->message, named[i].part));
        g_clear_error(&error);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/object/secret", test_secret);
    return g_test_run();
}
