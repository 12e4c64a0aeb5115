/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "trace/trace.h"

#include "base/log.h"

#include <string.h>
#include <unistd.h>

TRACE_EVENT(tracetest_write, "addr 0x%02x val 0x%02x")
TRACE_EVENT(tracetest_read, "addr 0x%02x")
TRACE_EVENT(othertest_event, "")

static void count(TraceEvent *event, void *opaque)
{
    GString *names = opaque;
    if (g_str_has_suffix(event->name, "test_event") || g_str_has_prefix(event->name, "tracetest_")) {
        g_string_append_printf(names, "%s ", event->name);
    }
}

static void test_names(void)
{
    g_assert_cmpuint(trace_set("tracetest_*", true), ==, 2);
    g_assert_true(TRACE_ENABLED(tracetest_write));
    g_assert_true(TRACE_ENABLED(tracetest_read));
    g_assert_false(TRACE_ENABLED(othertest_event));
    g_assert_cmpuint(trace_set("tracetest_read", false), ==, 1);
    g_assert_false(TRACE_ENABLED(tracetest_read));
    g_assert_cmpuint(trace_set("no_such_event_*", true), ==, 0);
    g_autoptr(GString) names = g_string_new(NULL);
    trace_foreach(count, names);
    g_assert_cmpstr(names->str, ==, "othertest_event tracetest_read tracetest_write ");
    trace_set("tracetest_*", false);
}

static void test_log(void)
{
    g_autofree char *path = g_strdup_printf("%s/trace-test-%d", g_get_tmp_dir(), (int)getpid());
    g_autoptr(GError) error = NULL;
    g_assert_true(log_set_file(path, &error));
    TRACE(tracetest_write, 1, 2); /* off: not written */
    trace_set("tracetest_write", true);
    TRACE(tracetest_write, 0x10, 0xab);
    trace_set("*test_*", true);
    TRACE(othertest_event);
    trace_set("*", false);
    g_assert_true(log_set_file(NULL, &error));
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, &error));
    unlink(path);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), ==, 3);
    g_assert_true(g_str_has_suffix(lines[0], ":tracetest_write addr 0x10 val 0xab"));
    g_assert_true(g_str_has_suffix(lines[1], ":othertest_event"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/trace/names", test_names);
    g_test_add_func("/trace/log", test_log);
    return g_test_run();
}
