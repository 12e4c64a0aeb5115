/* What the generator makes: types, visitors, introspection. SPDX-License-Identifier: GPL-2.0-or-later */
#include "qapi/introspect.h"
#include "qapi/qapi_types.h"

#include "base/error.h"

#include <string.h>

static void test_round_trip(void)
{
    g_autoptr(GError) error = NULL;
    json_object *in =
        json_tokener_parse("[{\"type\":\"t\",\"vcpus-count\":1,\"props\":{\"socket-id\":3}},"
                           "{\"type\":\"u\",\"vcpus-count\":2,\"props\":{},\"qom-path\":\"/x\"}]");
    g_autoptr(Visitor) v = visitor_new_input(in, false);
    GPtrArray *list;
    g_assert_true(qapi_visit_list_HotpluggableCPU(v, NULL, &list, &error));
    g_assert_cmpuint(list->len, ==, 2);
    const QapiHotpluggableCPU *first = list->pdata[0], *second = list->pdata[1];
    g_assert_cmpstr(first->type, ==, "t");
    g_assert_true(first->props->has_socket_id && first->props->socket_id == 3);
    g_assert_false(first->props->has_die_id);
    g_assert_null(first->qom_path);
    g_assert_cmpstr(second->qom_path, ==, "/x");
    g_autoptr(Visitor) out = visitor_new_output();
    g_assert_true(qapi_visit_list_HotpluggableCPU(out, NULL, &list, &error));
    json_object *back = visitor_output_take(out);
    g_assert_true(json_object_equal(in, back));
    json_object_put(in);
    json_object_put(back);
    g_ptr_array_unref(list);
}

static void test_refused(void)
{
    static const struct {
        const char *json, *message;
    } cases[] = {
        { "{\"capability\":\"events\"}", "Parameter 'state' is missing" },
        { "{\"capability\":\"event\",\"state\":true}",
          "Parameter 'capability' does not accept value 'event'" },
        { "{\"capability\":\"events\",\"state\":1}",
          "Invalid parameter type for 'state', expected: boolean" },
        { "{\"capability\":\"events\",\"state\":true,\"x\":1}", "Parameter 'x' is unexpected" },
        { "[]", "Invalid parameter type for 'value', expected: object" },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        json_object *in = json_tokener_parse(cases[i].json);
        g_autoptr(Visitor) v = visitor_new_input(in, false);
        QapiMigrationCapabilityStatus *status = NULL;
        g_assert_false(qapi_visit_MigrationCapabilityStatus(v, NULL, &status, &error));
        g_assert_null(status);
        g_autofree char *message = error_message(error);
        g_assert_cmpstr(message, ==, cases[i].message);
        json_object_put(in);
    }
}

static void put(void *value)
{
    json_object_put(value);
}

/* Every name that an entity refers to must be an entity, and what libvirt looks for must be there. */
static void test_introspection(void)
{
    g_autoptr(GHashTable) names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, put);
    for (const char *const *e = qapi_schema_entries; *e; e++) {
        json_object *j = json_tokener_parse(*e);
        g_assert_true(json_object_is_type(j, json_type_object));
        const char *name = json_object_get_string(json_object_object_get(j, "name"));
        g_assert_nonnull(name);
        g_assert_false(g_hash_table_contains(names, name));
        g_hash_table_insert(names, g_strdup(name), j);
    }
    GHashTableIter it;
    gpointer value;
    g_hash_table_iter_init(&it, names);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        static const char *const refs[] = { "arg-type", "ret-type", "element-type" };
        for (size_t i = 0; i < G_N_ELEMENTS(refs); i++) {
            json_object *ref;
            if (json_object_object_get_ex(value, refs[i], &ref)) {
                g_assert_true(g_hash_table_contains(names, json_object_get_string(ref)));
            }
        }
        static const char *const lists[] = { "members", "variants" };
        for (size_t i = 0; i < G_N_ELEMENTS(lists); i++) {
            json_object *list = json_object_object_get(value, lists[i]), *ref;
            for (size_t k = 0; list && k < json_object_array_length(list); k++) {
                if (json_object_object_get_ex(json_object_array_get_idx(list, k), "type", &ref)) {
                    g_assert_true(g_hash_table_contains(names, json_object_get_string(ref)));
                }
            }
        }
    }
    json_object *device_add = g_hash_table_lookup(names, "device_add");
    g_assert_nonnull(strstr(json_object_to_json_string(device_add), "json-cli-hotplug"));
    json_object *driver = g_hash_table_lookup(names, "NetClientDriver");
    g_assert_nonnull(strstr(json_object_to_json_string(driver), "dgram"));
    json_object *object_add = g_hash_table_lookup(names, "object-add");
    g_assert_cmpstr(json_object_get_string(json_object_object_get(object_add, "arg-type")), ==,
                    "ObjectOptions");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/round-trip", test_round_trip);
    g_test_add_func("/qapi/refused", test_refused);
    g_test_add_func("/qapi/introspection", test_introspection);
    return g_test_run();
}
