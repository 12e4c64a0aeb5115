/* Sizes, options and the order of members. SPDX-License-Identifier: GPL-2.0-or-later */
#include "img/tool.h"

#include <errno.h>
#include <string.h>

static void test_size_parse(void)
{
    static const struct {
        const char *text;
        int result;
        uint64_t value;
    } cases[] = {
        { "0", 0, 0 },
        { "512", 0, 512 },
        { "1k", 0, 1024 },
        { "1K", 0, 1024 },
        { "64M", 0, UINT64_C(64) << 20 },
        { "1.5G", 0, (UINT64_C(3) << 30) / 2 },
        { "2T", 0, UINT64_C(2) << 40 },
        { "1E", 0, UINT64_C(1) << 60 },
        { "17b", 0, 17 },
        { "0x100", 0, 256 },
        { "1024.0", 0, 1024 },
        { "-1", -EINVAL, 0 },
        { "", -EINVAL, 0 },
        { "foo", -EINVAL, 0 },
        { "1kilobyte", -EINVAL, 0 },
        { "0x10k", -EINVAL, 0 },
        { "1.5", -EINVAL, 0 },
        { "16E", -ERANGE, 0 },
        { "99999999999999999999", -ERANGE, 0 },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint64_t value = 0;
        g_test_message("%s", cases[i].text);
        g_assert_cmpint(img_size_value(cases[i].text, 1, &value), ==, cases[i].result);
        if (cases[i].result == 0) {
            g_assert_cmpuint(value, ==, cases[i].value);
        }
    }
}

static void test_size_text(void)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        { 0, "0 B" },
        { 512, "512 B" },
        { 1000, "0.977 KiB" },
        { 65536, "64 KiB" },
        { 197120, "192 KiB" },
        { UINT64_C(1000) << 10, "0.977 MiB" },
        { UINT64_C(1) << 30, "1 GiB" },
        { UINT64_C(3) << 39, "1.5 TiB" },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = img_size_text(cases[i].bytes);
        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

static const BlockOption table[] = {
    { "cluster_size", BLOCK_OPTION_SIZE, "size of a cluster", "65536", false },
    { "size", BLOCK_OPTION_SIZE, "virtual size", NULL, true },
    { "lazy", BLOCK_OPTION_BOOL, "later", "off", true },
    { "bits", BLOCK_OPTION_NUMBER, "how many", NULL, false },
    { "name", BLOCK_OPTION_STRING, "a name", NULL, false },
    { NULL },
};
static const BlockOption *const tables[] = { table, NULL };

static void test_options(void)
{
    g_autofree char *list = NULL;
    g_assert_true(img_options_add(&list, "cluster_size=4k,lazy"));
    g_assert_true(img_options_add(&list, "name=a,,b=c"));
    g_autoptr(GError) error = NULL;
    json_object *options = img_options_parse(tables, list, &error);
    g_assert_no_error(error);
    g_assert_nonnull(options);
    g_autofree char *text = img_options_text(tables, "some", options);
    g_assert_cmpstr(text, ==, "cluster_size=4096 lazy=on name=a,,b=c");
    json_object_put(options);

    static const struct {
        const char *text, *message;
    } bad[] = {
        { "nothing=1", "Invalid parameter 'nothing'" },
        { "lazy=maybe", "Parameter 'lazy' expects 'on' or 'off'" },
        { "bits=x", "Parameter 'bits' expects a number" },
        { "size=-1", "Parameter 'size' expects a non-negative number below 2^64" },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_clear_error(&error);
        g_assert_null(img_options_parse(tables, bad[i].text, &error));
        g_assert_true(g_str_has_prefix(error->message, bad[i].message));
    }
    options = img_options_parse(tables, "nolazy", NULL);
    json_object *value = NULL;
    g_assert_true(json_object_object_get_ex(options, "lazy", &value));
    g_assert_false(json_object_get_boolean(value));
    json_object_put(options);

    g_assert_true(img_options_want_help("help"));
    g_assert_true(img_options_want_help("size=1,?"));
    g_assert_false(img_options_want_help("name=help"));
    g_assert_false(img_options_want_help("name=a,,help"));
}

static void test_json_order(void)
{
    /* The order that qemu-img 7.2 prints these in. */
    static const char *const expected[] = { "snapshots", "virtual-size", "filename",        "cluster-size",
                                            "format",    "actual-size",  "format-specific", "dirty-flag" };
    json_object *dict = json_object_new_object();
    for (size_t i = G_N_ELEMENTS(expected); i-- > 0;) {
        json_object_object_add(dict, expected[i], json_object_new_int((int)i));
    }
    json_object *ordered = img_json_ordered(dict);
    size_t at = 0;
    json_object_object_foreach(ordered, key, value)
    {
        g_assert_cmpstr(key, ==, expected[at]);
        g_assert_cmpint(json_object_get_int(value), ==, (int)at);
        at++;
    }
    g_assert_cmpuint(at, ==, G_N_ELEMENTS(expected));
    json_object_put(ordered);
    json_object_put(dict);
}

static void test_cache(void)
{
    ImgCache cache;
    g_assert_true(img_cache_parse("none", &cache));
    g_assert_true(cache.direct && !cache.no_flush && !cache.writethrough);
    g_assert_true(img_cache_parse("directsync", &cache));
    g_assert_true(cache.direct && cache.writethrough);
    g_assert_true(img_cache_parse("unsafe", &cache));
    g_assert_true(cache.no_flush && !cache.direct);
    g_assert_false(img_cache_parse("nonsense", &cache));
}

static void test_snapshot_param(void)
{
    g_assert_true(img_snapshot_param_is_valid("plain name"));
    g_assert_true(img_snapshot_param_is_valid("snapshot.id=1,snapshot.name=x"));
    g_assert_false(img_snapshot_param_is_valid("snapshot.foo=1"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/img/size-parse", test_size_parse);
    g_test_add_func("/img/size-text", test_size_text);
    g_test_add_func("/img/options", test_options);
    g_test_add_func("/img/json-order", test_json_order);
    g_test_add_func("/img/cache", test_cache);
    g_test_add_func("/img/snapshot-param", test_snapshot_param);
    return g_test_run();
}
