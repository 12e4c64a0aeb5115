/* The command line's table and values. SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/options.h"

#include "base/error.h"
#include "qapi/visitor.h"

#include <string.h>

static Options *parse(GError **error, ...)
{
    char *argv[32] = { "program" };
    int argc = 1;
    va_list list;
    char *text;

    va_start(list, error);
    while ((text = va_arg(list, char *))) {
        argv[argc++] = text;
    }
    va_end(list);
    return cmdline_parse(argc, argv, error);
}

static void expect_error(GError *error, const char *message, const char *hint)
{
    g_autofree char *own = NULL, *own_hint = NULL;

    g_assert_nonnull(error);
    own = error_message(error);
    own_hint = error_hint(error);
    g_assert_cmpstr(own, ==, message);
    if (hint) {
        g_assert_nonnull(strstr(own_hint ? own_hint : "", hint));
    }
    g_error_free(error);
}

static void test_parse(void)
{
    GError *error = NULL;
    Options *o = parse(&error, "-S", "-m", "512", "--kernel", "k", "-kernel", "l", "-device", "a", "-device",
                       "b", NULL);

    g_assert_no_error(error);
    g_assert_true(cmdline_has(o, OPT_STOPPED));
    g_assert_false(cmdline_has(o, OPT_DAEMONIZE));
    g_assert_cmpstr(cmdline_last(o, OPT_KERNEL), ==, "l");
    g_assert_cmpstr(cmdline_last(o, OPT_M), ==, "512");
    g_assert_null(cmdline_last(o, OPT_QMP));
    g_assert_cmpuint(o->list->len, ==, 6);
    cmdline_free(o);

    g_assert_null(parse(&error, "-kernl", "x", NULL));
    expect_error(g_steal_pointer(&error), "-kernl: invalid option", "'-kernel'");
    g_assert_null(parse(&error, "-zzzzzzzz", NULL));
    expect_error(g_steal_pointer(&error), "-zzzzzzzz: invalid option", NULL);
    g_assert_null(parse(&error, "-m", NULL));
    expect_error(g_steal_pointer(&error), "-m: requires an argument", NULL);
    g_assert_null(parse(&error, "disk.img", NULL));
    expect_error(g_steal_pointer(&error), "unexpected argument 'disk.img'", "-drive");
    g_assert_null(parse(&error, "-icount", "1", NULL));
    expect_error(g_steal_pointer(&error), "-icount: instruction counting is not supported", NULL);
}

static void test_sizes(void)
{
    static const struct {
        const char *text;
        uint64_t size;
    } good[] = {
        { "512", 512u << 20 },         { "524288k", 512u << 20 },   { "1G", 1u << 30 },
        { "1.5G", 3u << 29 },          { "0x10", 16u << 20 },       { "7b", 7 },
        { "15E", UINT64_C(15) << 60 }, { "2T", UINT64_C(2) << 40 },
    };
    static const char *const bad[] = {
        "",      "x",   "1X", "1GG", "-1", "16E", "99999999999999999999", "18446744073709551615M",
        "1e30G", "nan", "."
    };

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        uint64_t size = 0;
        g_autoptr(GError) error = NULL;
        g_assert_true(cmdline_parse_size(good[i].text, 1 << 20, &size, &error));
        g_assert_cmpuint(size, ==, good[i].size);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint64_t size = 0;
        g_autoptr(GError) error = NULL;
        if (cmdline_parse_size(bad[i], 1 << 20, &size, &error)) {
            g_error("'%s' was taken as %" PRIu64, bad[i], size);
        }
        g_assert_nonnull(error);
    }
}

static void test_dicts(void)
{
    GError *error = NULL;
    json_object *dict = keyval_parse("a=on,b=12,chardev=x", NULL, NULL, &error);
    bool flag;
    uint64_t number;

    g_assert_no_error(error);
    g_assert_true(cmdline_check_keys(dict, "a,b,chardev,d", &error));
    g_assert_false(cmdline_check_keys(dict, "a,b,chardevs", &error));
    expect_error(g_steal_pointer(&error), "Invalid parameter 'chardev'", "chardevs");
    g_assert_true(cmdline_get_bool(dict, "a", false, &flag, &error) && flag);
    g_assert_true(cmdline_get_bool(dict, "d", true, &flag, &error) && flag);
    g_assert_false(cmdline_get_bool(dict, "b", true, &flag, &error));
    g_clear_error(&error);
    g_assert_true(cmdline_get_uint(dict, "b", 0, 100, &number, &error) && number == 12);
    g_assert_false(cmdline_get_uint(dict, "b", 0, 11, &number, &error));
    g_clear_error(&error);
    g_assert_false(cmdline_get_uint(dict, "chardev", 0, 11, &number, &error));
    g_clear_error(&error);
    json_object_put(dict);
}

static void test_texts(void)
{
    g_autofree char *help = cmdline_help(), *man = cmdline_man_page(),
                    *completion = cmdline_bash_completion();

    g_assert_nonnull(strstr(help, "\n-machine [type=]name"));
    g_assert_null(strstr(help, "-icount")); /* what is not there is not praised */
    for (const char *line = help; line && *line;) {
        const char *end = strchr(line, '\n');
        g_assert_cmpint(end - line, <, 120);
        line = end + 1;
    }
    g_assert_true(g_str_has_prefix(man, ".TH RHEA"));
    g_assert_nonnull(strstr(man, "\\fB\\-machine\\fR"));
    g_assert_nonnull(strstr(completion, "complete -F"));

    json_object *list = cmdline_introspect();
    bool sandbox = false, hpet = false;
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *entry = json_object_array_get_idx(list, i), *parameters;
        const char *name = cmdline_get(entry, "option");
        g_assert_true(json_object_object_get_ex(entry, "parameters", &parameters));
        g_assert_true(json_object_is_type(parameters, json_type_array));
        sandbox |= strcmp(name, "sandbox") == 0;
        for (size_t p = 0; strcmp(name, "machine") == 0 && p < json_object_array_length(parameters); p++) {
            hpet |= strcmp(cmdline_get(json_object_array_get_idx(parameters, p), "name"), "hpet") == 0;
        }
    }
    g_assert_true(sandbox && hpet);
    json_object_put(list);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/options/parse", test_parse);
    g_test_add_func("/options/sizes", test_sizes);
    g_test_add_func("/options/dicts", test_dicts);
    g_test_add_func("/options/texts", test_texts);
    return g_test_run();
}
