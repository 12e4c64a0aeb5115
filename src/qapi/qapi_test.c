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

static QapiBlockdevOptions *blockdev(const char *text, GError **error)
{
    QapiBlockdevOptions *o = NULL;
    bool ok = qapi_option_blockdev(text, &o, error);
    g_assert_true(ok == (o != NULL));
    return o;
}

/* An option is the same whichever way it is written. */
static void test_options(void)
{
    static const char *const ways[] = {
        "raw,node-name=n,read-only=on,cache.direct=on,file.driver=null-co,file.size=1M",
        "driver=raw,node-name=n,read-only,cache.direct=yes,file.driver=null-co,file.size=1048576",
        "  {\"driver\":\"raw\",\"node-name\":\"n\",\"read-only\":true,\"cache\":{\"direct\":true},"
        "\"file\":{\"driver\":\"null-co\",\"size\":1048576}}",
    };
    g_autoptr(GError) error = NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        g_autoptr(QapiBlockdevOptions) o = blockdev(ways[i], &error);
        g_assert_no_error(error);
        g_assert_cmpint(o->driver, ==, QAPI_BLOCKDEV_DRIVER_RAW);
        g_assert_cmpstr(o->node_name, ==, "n");
        g_assert_true(o->has_read_only && o->read_only && o->cache->has_direct && o->cache->direct);
        g_assert_false(o->has_discard || o->cache->has_no_flush);
        g_assert_cmpint(o->u_raw->file->kind, ==, QAPI_BLOCKDEV_REF_DEFINITION);
        g_assert_cmpuint(o->u_raw->file->u_definition->u_null_co->size, ==, 1 << 20);
        /* ... and can be told again. */
        g_autoptr(Visitor) out = visitor_new_output();
        g_assert_true(qapi_visit_BlockdevOptions(out, NULL, &o, &error));
        json_object *j = visitor_output_take(out);
        g_assert_cmpstr(
            json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN), ==,
            "{\"driver\":\"raw\",\"node-name\":\"n\",\"cache\":{\"direct\":true},\"read-only\":true,"
            "\"file\":{\"driver\":\"null-co\",\"size\":1048576}}");
        json_object_put(j);
    }
    g_autoptr(QapiBlockdevOptions) by_name = blockdev("raw,file=other", &error);
    g_assert_no_error(error);
    g_assert_cmpint(by_name->u_raw->file->kind, ==, QAPI_BLOCKDEV_REF_REFERENCE);
    g_assert_cmpstr(by_name->u_raw->file->u_reference, ==, "other");
    static const struct {
        const char *text, *message;
    } wrong[] = {
        { "", "Parameter 'driver' is missing" },
        { "raw", "Parameter 'file' is missing" },
        { "{\"driver\":\"raw\",\"file\":7}",
          "Invalid parameter type for 'file', expected: object or string" },
        { "{\"driver\":\"raw\",\"file\":null}",
          "Invalid parameter type for 'file', expected: object or string" },
        { "raw,file.driver=null-co,file.sise=1", "Parameter 'file.sise' is unexpected" },
        { "raw,file.driver=null-co,file.size=x",
          "Parameter 'file.size' expects a size value representible as a 64-bit number" },
        { "null-co,size.x=1", "Invalid parameter type for 'size', expected: integer" },
        { "rwa", "Parameter 'driver' does not accept value 'rwa'" },
        { "{\"driver\":\"raw\"", "JSON parse error, the text ends too early: {\"driver\":\"raw\"" },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_assert_null(blockdev(wrong[i].text, &error));
        g_autofree char *message = error_message(error);
        g_assert_cmpstr(message, ==, wrong[i].message);
        g_clear_error(&error);
    }
}

/* A repeated key is a list, whose elements may leave out the braces of a struct with one string. */
static void test_repeated_keys(void)
{
    g_autoptr(GError) error = NULL;
    QapiNetdev *n = NULL;
    g_assert_true(qapi_option_netdev(
        "user,id=n,hostfwd=tcp::1-:2,restrict=on,hostfwd=a,,b,restrict=off,dnssearch.0=x", &n, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(n->u_user->hostfwd->len, ==, 2);
    g_assert_cmpstr(((QapiString *)n->u_user->hostfwd->pdata[0])->str, ==, "tcp::1-:2");
    g_assert_cmpstr(((QapiString *)n->u_user->hostfwd->pdata[1])->str, ==, "a,b");
    g_assert_cmpstr(((QapiString *)n->u_user->dnssearch->pdata[0])->str, ==, "x");
    g_assert_true(n->u_user->has_restrict);
    g_assert_false(n->u_user->restrict_); /* where one is wanted, the last counts */
    g_clear_pointer(&n, qapi_Netdev_free);
    g_assert_false(
        qapi_option_netdev("{\"type\":\"user\",\"id\":\"n\",\"hostfwd\":\"tcp::1-:2\"}", &n, &error));
    g_autofree char *message = error_message(error);
    g_assert_cmpstr(message, ==, "Invalid parameter type for 'hostfwd', expected: array");
    g_clear_error(&error);

    QapiObjectOptions *o = NULL;
    g_assert_true(qapi_option_object("memory-backend-ram,id=m,size=1M,host-nodes=3-5", &o, &error));
    const GArray *nodes = o->u_memory_backend_ram->host_nodes;
    g_assert_cmpuint(nodes->len, ==, 3);
    g_assert_cmpuint(g_array_index(nodes, uint16_t, 2), ==, 5);
    g_clear_pointer(&o, qapi_ObjectOptions_free);
    g_assert_true(
        qapi_option_object("memory-backend-ram,id=m,size=1M,host-nodes=1,host-nodes=7", &o, &error));
    nodes = o->u_memory_backend_ram->host_nodes;
    g_assert_cmpuint(nodes->len, ==, 2);
    g_assert_cmpuint(g_array_index(nodes, uint16_t, 1), ==, 7);
    g_clear_pointer(&o, qapi_ObjectOptions_free);
    g_assert_false(qapi_option_object("memory-backend-ram,id=m,size=1M,host-nodes=0-99999999", &o, &error));
    g_assert_nonnull(strstr(error->message, "host-nodes"));
}

/* An open struct keeps what it does not know. */
static void test_open(void)
{
    static const char *const ways[] = {
        "toy,id=t,speed=3,lamp.on=yes", "{\"driver\":\"toy\",\"id\":\"t\",\"speed\":3,\"lamp\":{\"on\":true}}"
    };
    static const char *const rest[] = { "{\"speed\":\"3\",\"lamp\":{\"on\":\"yes\"}}",
                                        "{\"speed\":3,\"lamp\":{\"on\":true}}" };
    g_autoptr(GError) error = NULL;
    for (int i = 0; i < 2; i++) {
        g_autoptr(QapiDeviceOptions) o = NULL;
        g_assert_true(qapi_option_device(ways[i], &o, &error));
        g_assert_cmpstr(o->driver, ==, "toy");
        g_assert_null(o->bus);
        g_assert_true(o->more_is_text == (i == 0));
        g_assert_cmpstr(json_object_to_json_string_ext(o->more, JSON_C_TO_STRING_PLAIN), ==, rest[i]);
    }
    QapiDeviceOptions *o = NULL;
    g_assert_false(qapi_option_device("{\"driver\":\"toy\",\"bus\":1}", &o, &error));
    g_autofree char *message = error_message(error);
    g_assert_cmpstr(message, ==, "Invalid parameter type for 'bus', expected: string");
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
    g_test_add_func("/qapi/options", test_options);
    g_test_add_func("/qapi/repeated-keys", test_repeated_keys);
    g_test_add_func("/qapi/open", test_open);
    return g_test_run();
}
