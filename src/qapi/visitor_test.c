/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qapi/visitor.h"

#include "base/error.h"
#include "qapi/json_text.h"

#include <string.h>

static void expect(GError **error, const char *text)
{
    g_assert_nonnull(*error);
    g_autofree char *message = error_message(*error);
    g_assert_cmpstr(message, ==, text);
    g_clear_error(error);
}

static Visitor *from_text(const char *text)
{
    json_object *j = json_tokener_parse(text);
    Visitor *v = visitor_new_input(j, false);
    json_object_put(j);
    return v;
}

static void test_scalars(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Visitor) v =
        from_text("{\"a\":18446744073709551615,\"b\":-129,\"c\":true,\"d\":\"x\",\"e\":1.5,"
                  "\"f\":null,\"g\":[1,2,300],\"h\":{\"i\":{\"j\":1}}}");
    uint64_t u;
    int64_t i;
    int8_t small;
    bool b, present;
    char *s;
    double d;
    size_t count;
    uint8_t byte;
    g_assert_true(visit_start_struct(v, NULL, &error));
    g_assert_true(visit_uint64(v, "a", &u, &error));
    g_assert_cmpuint(u, ==, UINT64_MAX);
    g_assert_false(visit_int64(v, "a", &i, &error));
    expect(&error, "Parameter 'a' expects int64_t");
    g_assert_false(visit_int8(v, "b", &small, &error));
    expect(&error, "Parameter 'b' expects int8_t");
    g_assert_false(visit_uint64(v, "b", &u, &error));
    expect(&error, "Parameter 'b' expects uint64_t");
    g_assert_true(visit_bool(v, "c", &b, &error) && b);
    g_assert_false(visit_bool(v, "d", &b, &error));
    expect(&error, "Invalid parameter type for 'd', expected: boolean");
    g_assert_true(visit_str(v, "d", &s, &error));
    g_assert_cmpstr(s, ==, "x");
    g_free(s);
    g_assert_true(visit_number(v, "e", &d, &error) && d == 1.5);
    g_assert_false(visit_int64(v, "e", &i, &error));
    expect(&error, "Invalid parameter type for 'e', expected: integer");
    g_assert_true(visit_null(v, "f", &error));
    g_assert_true(visit_optional(v, "f", &present) && present);
    g_assert_false(visit_optional(v, "z", &present) || present);
    g_assert_false(visit_bool(v, "z", &b, &error));
    expect(&error, "Parameter 'z' is missing");
    g_assert_cmpint(visit_peek_type(v, "g"), ==, json_type_array);
    g_assert_true(visit_start_list(v, "g", &count, &error) && count == 3);
    g_assert_true(visit_uint8(v, NULL, &byte, &error) && byte == 1);
    g_assert_true(visit_uint8(v, NULL, &byte, &error) && byte == 2);
    g_assert_false(visit_uint8(v, NULL, &byte, &error));
    expect(&error, "Parameter 'g[2]' expects uint8_t");
    visit_end_list(v);
    g_assert_false(visit_check_struct(v, &error));
    expect(&error, "Parameter 'h' is unexpected");
    g_assert_true(visit_start_struct(v, "h", &error));
    g_assert_true(visit_start_struct(v, "i", &error));
    g_assert_false(visit_check_struct(v, &error));
    expect(&error, "Parameter 'h.i.j' is unexpected");
    visit_end_struct(v);
    g_assert_true(visit_check_struct(v, &error));
    visit_end_struct(v);
    g_assert_true(visit_check_struct(v, &error));
    visit_end_struct(v);
}

static void test_hint(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Visitor) v = from_text("{\"flienames\":\"x\"}");
    bool present;
    g_assert_true(visit_start_struct(v, NULL, &error));
    visit_optional(v, "filenames", &present);
    g_assert_false(visit_check_struct(v, &error));
    g_autofree char *hint = error_hint(error);
    g_assert_nonnull(strstr(hint, "'filenames'"));
    visit_end_struct(v);
}

static bool size_of(const char *text, uint64_t *size)
{
    g_autoptr(Visitor) v = visitor_new_text_input(text);
    return visit_size(v, "size", size, NULL);
}

static void test_text(void)
{
    uint64_t n;
    static const struct {
        const char *text;
        uint64_t size;
    } good[] = { { "0", 0 },      { "512", 512 },
                 { "1k", 1024 },  { "1.5M", 3 << 19 },
                 { "0x10", 16 },  { "4G", 4ull << 30 },
                 { "2b", 2 },     { "15E", 15ull << 60 },
                 { "0.5K", 512 }, { "16777215T", 16777215ull << 40 } };
    static const char *const bad[] = {
        "", "x", "-1", "1x", "16E", "1.5", "1e3", "1.5e3K", "99999999999999999999", " 1", "1kk", "1."
    };
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        g_assert_true(size_of(good[i].text, &n));
        g_assert_cmpuint(n, ==, good[i].size);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_false(size_of(bad[i], &n));
    }
    g_autoptr(Visitor) v = visitor_new_text_input("-7");
    int64_t i;
    g_assert_true(visit_int64(v, "i", &i, NULL) && i == -7);
    g_autoptr(Visitor) w = visitor_new_text_input("yes");
    bool b;
    g_assert_true(visit_bool(w, "b", &b, NULL) && b);
    g_autoptr(Visitor) x = visitor_new_text_input("-1");
    g_assert_false(visit_uint64(x, "u", &n, NULL));
}

static void test_output(void)
{
    g_autoptr(Visitor) v = visitor_new_output();
    uint64_t u = UINT64_MAX;
    int64_t i = -1;
    char *s = (char *)"a\"\\\n\x01/ä";
    char *bad = (char *)"\xff";
    double d = 0.1, whole = 3;
    size_t two = 2;
    bool b = true;
    g_assert_true(visit_start_struct(v, NULL, NULL));
    visit_uint64(v, "u", &u, NULL);
    visit_int64(v, "i", &i, NULL);
    visit_str(v, "s", &s, NULL);
    visit_str(v, "bad", &bad, NULL);
    visit_number(v, "d", &d, NULL);
    visit_number(v, "w", &whole, NULL);
    visit_null(v, "n", NULL);
    visit_start_list(v, "l", &two, NULL);
    visit_bool(v, NULL, &b, NULL);
    visit_start_struct(v, NULL, NULL);
    visit_end_struct(v);
    visit_end_list(v);
    visit_end_struct(v);
    json_object *j = visitor_output_take(v);
    g_autoptr(GString) text = g_string_new(NULL);
    json_text_append(text, j, false);
    g_assert_cmpstr(text->str, ==,
                    "{\"u\": 18446744073709551615, \"i\": -1, \"s\": \"a\\\"\\\\\\n\\u0001/ä\", \"bad\": "
                    "\"\xef\xbf\xbd\", \"d\": 0.1, \"w\": 3.0, \"n\": null, \"l\": [true, {}]}");
    g_string_truncate(text, 0);
    json_object *small = json_tokener_parse("{\"a\":[1,{}],\"b\":[]}");
    json_text_append(text, small, true);
    g_assert_cmpstr(text->str, ==, "{\n    \"a\": [\n        1,\n        {}\n    ],\n    \"b\": []\n}");
    json_object_put(small);
    json_object_put(j);
}

static char *keyval(const char *text, const char *implied)
{
    g_autoptr(GError) error = NULL;
    bool is_json;
    json_object *j = keyval_parse(text, implied, &is_json, &error);
    if (!j) {
        return error_message(error);
    }
    char *s = g_strdup(json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN));
    json_object_put(j);
    return s;
}

static void test_keyval(void)
{
    static const struct {
        const char *text, *implied, *result;
    } cases[] = {
        { "", NULL, "{}" },
        { "virtio-blk-pci,addr=0x4", "driver", "{\"driver\":\"virtio-blk-pci\",\"addr\":\"0x4\"}" },
        { "a=1,,2,b=", NULL, "{\"a\":\"1,2\",\"b\":\"\"}" },
        { "file.driver=file,file.filename=/x,cache.direct=on", NULL,
          "{\"file\":{\"driver\":\"file\",\"filename\":\"\\/x\"},\"cache\":{\"direct\":\"on\"}}" },
        { "l.1=b,l.0=a", NULL, "{\"l\":[\"a\",\"b\"]}" },
        { "l.0.x=1,l.1.x=2", NULL, "{\"l\":[{\"x\":\"1\"},{\"x\":\"2\"}]}" },
        { "l.0=a,l.2=b", NULL, "Parameter 'l.1' missing" },
        { "l.0=a,l.x=b", NULL, "Parameters 'l.*' used inconsistently" },
        { "a=1,a.b=2", NULL, "Parameters 'a.*' used inconsistently" },
        { "a.b=2,a=1", NULL, "Parameters 'a.*' used inconsistently" },
        { "socket,server,nowait,nodelay", "backend",
          "{\"backend\":\"socket\",\"server\":\"on\",\"wait\":\"off\",\"nodelay\":\"on\"}" },
        { "a=1,a=2", NULL, "{\"a\":\"2\"}" },
        { "=1", NULL, "Invalid parameter ''" },
        { "a..b=1", NULL, "Invalid parameter 'a..b'" },
        { "a=1,,,b=2", NULL, "{\"a\":\"1,\",\"b\":\"2\"}" },
        { " {\"a\":[1]}", "driver", "{\"a\":[1]}" },
        { "{\"a\":1", NULL, "JSON parse error, the text ends too early: {\"a\":1" },
        { "{\"a\":1} x", NULL, NULL },
        { "{'a':1}", NULL, "{\"a\":1}" },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *got = keyval(cases[i].text, cases[i].implied);
        if (cases[i].result) {
            g_assert_cmpstr(got, ==, cases[i].result);
        } else {
            g_assert_true(g_str_has_prefix(got, "JSON parse error"));
        }
    }
    g_autoptr(GString) deep = g_string_new("a");
    for (int i = 0; i < 100; i++) {
        g_string_append(deep, ".a");
    }
    g_string_append(deep, "=1");
    g_autofree char *got = keyval(deep->str, NULL);
    g_assert_nonnull(strstr(got, "nested too deeply"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/visitor/scalars", test_scalars);
    g_test_add_func("/visitor/hint", test_hint);
    g_test_add_func("/visitor/text", test_text);
    g_test_add_func("/visitor/output", test_output);
    g_test_add_func("/visitor/keyval", test_keyval);
    return g_test_run();
}
