/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/log.h"

#include "base/error.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

typedef struct Seen {
    LogLevel level;
    char *line;
    int count;
} Seen;

static void sink(LogLevel level, const char *line, void *opaque)
{
    Seen *seen = opaque;
    g_free(seen->line);
    seen->level = level;
    seen->line = g_strdup(line);
    seen->count++;
}

static void test_sink(void)
{
    Seen seen = { 0 };
    log_set_sink(sink, &seen);
    log_warning("%d of %s", 3, "them");
    g_assert_cmpint(seen.level, ==, LOG_LEVEL_WARNING);
    g_assert_cmpstr(seen.line, ==, "3 of them");

    g_autoptr(GError) error = NULL;
    error_set(&error, "no disk");
    error_append_hint(&error, "add one");
    error_report(error);
    g_assert_cmpint(seen.count, ==, 3);
    g_assert_cmpint(seen.level, ==, LOG_LEVEL_HINT);
    g_assert_cmpstr(seen.line, ==, "add one");
    log_set_sink(NULL, NULL);
    g_free(seen.line);
}

static void test_mask(void)
{
    unsigned mask = 99;
    g_autoptr(GError) error = NULL;
    g_assert_true(log_parse_mask("int,guest_errors", &mask, &error));
    g_assert_cmpuint(mask, ==, LOG_INT | LOG_GUEST_ERROR);
    g_assert_true(log_parse_mask("none", &mask, &error));
    g_assert_cmpuint(mask, ==, 0);
    g_assert_false(log_parse_mask("int,guest_error", &mask, &error));
    g_autofree char *hint = error_hint(error);
    g_assert_cmpstr(hint, ==, "Did you mean 'guest_errors'?");
}

static void test_file(void)
{
    g_autofree char *path = g_build_filename(g_get_tmp_dir(), "rhea-log-test-%d", NULL);
    g_autofree char *real = g_strdup_printf("%s/rhea-log-test-%d", g_get_tmp_dir(), (int)getpid());
    g_assert_true(log_set_file(path, NULL));
    log_set_mask(LOG_INT);
    LOG(LOG_INT, "seen %d", 1);
    LOG(LOG_MMU, "not asked for");
    log_set_mask(0);
    g_assert_true(log_set_file(NULL, NULL));
    g_autofree char *content = NULL;
    g_assert_true(g_file_get_contents(real, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, "seen 1\n");
    g_unlink(real);

    g_autoptr(GError) error = NULL;
    g_assert_false(log_set_file("/nonexistent/x", &error));
    g_assert_nonnull(strstr(error->message, "/nonexistent/x"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/log/sink", test_sink);
    g_test_add_func("/log/mask", test_mask);
    g_test_add_func("/log/file", test_file);
    return g_test_run();
}
