/* Devices and buses: creation by options, errors, the tree, reset order, deletion. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "object/property.h"

typedef struct ToyDevice {
    Device parent_obj;
    uint32_t size;
    char *label;
    bool fail, has_bus;
    Bus *child;
    int resets;
} ToyDevice;
#define TOY(obj) OBJECT_CHECK(ToyDevice, obj, "toy")

static GString *reset_order;

static void toy_reset(Device *dev)
{
    g_assert_true(home_lock_held(&dev->lock));
    TOY(dev)->resets++;
    g_string_append(reset_order, dev->id ? dev->id : "?");
}

static bool toy_realize(Device *dev, GError **error)
{
    if (TOY(dev)->has_bus) {
        TOY(dev)->child = bus_new("toy-bus", dev, NULL, dev->env);
    }
    return !TOY(dev)->fail || error_set(error, "toy: told to fail");
}

static const Property toy_properties[] = {
    PROP_UINT32("size", ToyDevice, size, 7, "a number"),
    PROP_STR("label", ToyDevice, label, NULL, "a text"),
    PROP_BOOL("fail", ToyDevice, fail, false, "realize fails"),
    PROP_BOOL("has-bus", ToyDevice, has_bus, false, "brings a bus"),
    PROP_END,
};

static void toy_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->bus_type = "toy-bus";
    dc->user_creatable = true;
    dc->reset = toy_reset;
    dc->realize = toy_realize;
    object_class_add_properties(klass, toy_properties);
}

static void fixed_class_init(ObjectClass *klass, const void *data)
{
    DEVICE_CLASS(klass)->hotpluggable = false;
}

static void builtin_class_init(ObjectClass *klass, const void *data)
{
    DEVICE_CLASS(klass)->user_creatable = false;
}

static void toy_bus_class_init(ObjectClass *klass, const void *data)
{
    ((BusClass *)klass)->max_devices = 3;
    ((BusClass *)klass)->hotplug = true;
}

static const TypeInfo toy_bus_info = { .name = "toy-bus",
                                       .parent = TYPE_BUS,
                                       .class_init = toy_bus_class_init };
TYPE_REGISTER(toy_bus_info);
static const TypeInfo toy_info = {
    .name = "toy", .parent = TYPE_DEVICE, .instance_size = sizeof(ToyDevice), .class_init = toy_class_init
};
TYPE_REGISTER(toy_info);
static const TypeInfo toy_fixed_info = { .name = "toy-fixed",
                                         .parent = "toy",
                                         .class_init = fixed_class_init };
TYPE_REGISTER(toy_fixed_info);
static const TypeInfo toy_builtin_info = { .name = "toy-builtin",
                                           .parent = "toy",
                                           .class_init = builtin_class_init };
TYPE_REGISTER(toy_builtin_info);

static Device *create(TestBoard *b, const char *options, bool hotplug, GError **error)
{
    return device_create_text(b->root, &b->env, options, hotplug, NULL, error);
}

static void expect(TestBoard *b, const char *options, bool hotplug, const char *message, const char *hint)
{
    GError *error = NULL;
    g_assert_null(create(b, options, hotplug, &error));
    g_assert_nonnull(error);
    g_autofree char *text = error_message(error), *more = error_hint(error);
    g_assert_cmpstr(text, ==, message);
    if (hint) {
        g_assert_nonnull(more);
        g_assert_nonnull(strstr(more, hint));
    }
    g_error_free(error);
}

static void test_create(void)
{
    TestBoard *b = test_board_new();
    GError *error = NULL;
    expect(b, "toy", false, "No 'toy-bus' bus found for device 'toy'", NULL);
    Bus *bus = bus_new("toy-bus", NULL, "toy.0", &b->env);
    Device *dev = create(b, "toy,id=t0,size=0x10,label=hello", false, &error);
    g_assert_no_error(error);
    g_assert_true(dev->realized && dev->bus == bus && TOY(dev)->size == 16);
    g_assert_cmpstr(TOY(dev)->label, ==, "hello");
    g_assert_false(object_property_parse(OBJECT(dev), "size", "3", &error)); /* too late */
    g_assert_cmpstr(error->message, ==,
                    "Attempt to set property 'size' on device 't0' (type 'toy') after it was realized");
    g_clear_error(&error);
    g_autofree char *path = object_get_canonical_path(OBJECT(dev));
    g_assert_cmpstr(path, ==, "/machine/peripheral/t0");
    Device *anonymous = create(b, "toy", false, &error);
    g_assert_no_error(error);
    g_autofree char *anonymous_path = object_get_canonical_path(OBJECT(anonymous));
    g_assert_cmpstr(anonymous_path, ==, "/machine/peripheral-anon/device[0]");
    g_assert_true(device_find(b->root, "t0") == dev && device_find(b->root, anonymous_path) == anonymous);

    expect(b, "tyo", false, "'tyo' is not a valid device model name", "toy");
    expect(b, "device", false, "Parameter 'driver' expects a non-abstract device type", NULL);
    expect(b, "toy-builtin", false, "Parameter 'driver' expects a pluggable device type", NULL);
    expect(b, "toy-fixed", true, "Parameter 'driver' expects a hotpluggable device type", NULL);
    expect(b, "toy,id=t0", false, "Duplicate device ID 't0'", NULL);
    expect(b, "toy,id=7up", false, "Parameter 'id' expects an identifier", "letters");
    expect(b, "toy,sise=3", false, "Property 'toy.sise' not found", "size");
    expect(b, "toy,bus=toy.1", false, "Bus 'toy.1' not found", "toy.0");
    expect(b, "toy,id=t9,fail=on", false, "toy: told to fail", NULL);
    g_assert_null(device_find(b->root, "t9")); /* a failure leaves nothing behind */
    g_assert_nonnull(create(b, "toy,id=t9", false, &error));
    expect(b, "toy", false, "Bus 'toy.0' is full", NULL);
    test_board_free(b);
}

static void test_reset_and_walk(void)
{
    TestBoard *b = test_board_new();
    GError *error = NULL;
    bus_new("toy-bus", NULL, "toy.0", &b->env);
    create(b, "toy,id=a,has-bus=on", false, &error);
    create(b, "toy,id=b,bus=a.0", false, &error);
    create(b, "toy,id=c,bus=toy.0", false, &error);
    g_assert_no_error(error);
    g_string_truncate(reset_order, 0);
    device_reset_all(b->root);
    g_assert_cmpstr(reset_order->str, ==, "bac"); /* what is below a device's buses goes first */
    g_autofree char *tree = device_print_tree(b->root);
    const char *at = strstr(tree, "bus: toy.0");
    g_assert_nonnull(at);
    at = strstr(at, "  dev: toy, id \"a\"");
    g_assert_nonnull(at);
    g_assert_nonnull(strstr(at, "    size = 7"));
    at = strstr(at, "    bus: a.0");
    g_assert_nonnull(at);
    g_assert_nonnull(strstr(at, "      dev: toy, id \"b\""));
    test_board_free(b);
}

static void test_delete(void)
{
    TestBoard *b = test_board_new();
    GError *error = NULL;
    bus_new("toy-bus", NULL, "toy.0", &b->env);
    Device *dev = create(b, "toy,id=hot,has-bus=on", true, &error);
    create(b, "toy,id=inner,bus=hot.0", true, &error);
    create(b, "toy,bus=hot.0", true, &error); /* one without an id goes, too */
    g_assert_no_error(error);
    g_assert_true(dev->hotplugged && TOY(dev)->resets == 1); /* a hot-plugged device starts from reset */
    bool value = false;
    g_assert_true(object_property_get_bool(OBJECT(dev), "hotplugged", &value, &error) && value);
    g_assert_false(device_delete(b->root, "nobody", &error));
    g_assert_cmpint(error->code, ==, ERROR_CLASS_DEVICE_NOT_FOUND);
    g_clear_error(&error);
    g_assert_true(device_delete(b->root, "hot", &error));
    g_assert_cmpstr(b->last_event, ==, "DEVICE_DELETED");
    g_assert_cmpuint(b->events, ==, 3);
    g_assert_cmpstr(b->deleted, ==, "inner hot "); /* what sits on its bus is told of before it */
    g_assert_null(device_find(b->root, "hot"));
    g_assert_null(device_find(b->root, "inner"));
    create(b, "toy-fixed,id=f", false, &error);
    g_assert_no_error(error);
    g_assert_false(device_delete(b->root, "f", &error));
    g_assert_cmpstr(error->message, ==, "Device 'toy-fixed' does not support hotplugging");
    g_clear_error(&error);
    test_board_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    reset_order = g_string_new(NULL);
    g_test_add_func("/device/create", test_create);
    g_test_add_func("/device/reset-and-walk", test_reset_and_walk);
    g_test_add_func("/device/delete", test_delete);
    int status = g_test_run();
    g_string_free(reset_order, TRUE);
    return status;
}
