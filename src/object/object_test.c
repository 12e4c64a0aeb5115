/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/object.h"

#include "base/error.h"
#include "object/property.h"

#include <string.h>

typedef struct Animal {
    Object parent_obj;
    uint32_t legs;
    uint64_t weight;
    char *name;
    bool alive;
    int colour;
    uint64_t flags;
    Object *friend_of;
    int log[8], logged;
} Animal;

typedef struct AnimalClass {
    ObjectClass parent_class;
    int noise;
    int base_inits;
} AnimalClass;

static const char *const colour_names[] = { "red", "green", NULL, "blue" };
static const EnumLookup colours = { .name = "Colour", .names = colour_names, .count = 4 };

static bool may_set_legs(Object *obj, const char *name, GError **error)
{
    return ((Animal *)obj)->alive || error_set(error, "it is dead");
}

static const Property animal_properties[] = {
    PROP_UINT32("legs", Animal, legs, 4, "how many it walks on"),
    PROP_SIZE("weight", Animal, weight, 1 << 20, "in grams"),
    PROP_STR("name", Animal, name, "Rex", "what it hears to"),
    PROP_BOOL("alive", Animal, alive, true, "whether it is"),
    PROP_ENUM("colour", Animal, colour, colours, 1, "of its fur"),
    PROP_BIT64("tail", Animal, flags, 40, true, "whether it has one"),
    PROP_LINK("friend", Animal, friend_of, "test-animal", "another one"),
    { .name = "wings",
      .type = &property_type_uint32,
      .offset = offsetof(Animal, legs),
      .may_set = may_set_legs },
    PROP_END,
};

static int finalized;
static int class_inits;

static void animal_class_init(ObjectClass *klass, const void *data)
{
    class_inits++;
    ((AnimalClass *)klass)->noise = 1;
    object_class_add_properties(klass, animal_properties);
}

static void animal_base_init(ObjectClass *klass, const void *data)
{
    ((AnimalClass *)klass)->base_inits = ((AnimalClass *)klass)->base_inits * 10 + 1;
}

static void animal_init(Object *obj)
{
    Animal *a = (Animal *)obj;
    g_assert_cmpuint(a->legs, ==, 4); /* defaults came first */
    a->log[a->logged++] = 1;
}

static void animal_post_init(Object *obj)
{
    Animal *a = (Animal *)obj;
    a->log[a->logged++] = 3;
}

static void animal_finalize(Object *obj)
{
    finalized++;
}

static const TypeInfo animal_info = {
    .name = "test-animal",
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(Animal),
    .class_size = sizeof(AnimalClass),
    .abstract = true,
    .class_init = animal_class_init,
    .class_base_init = animal_base_init,
    .instance_init = animal_init,
    .instance_post_init = animal_post_init,
    .instance_finalize = animal_finalize,
};
TYPE_REGISTER(animal_info);

static const TypeInfo pet_info = { .name = "test-pet", .parent = TYPE_INTERFACE };
TYPE_REGISTER(pet_info);
static const TypeInfo house_pet_info = { .name = "test-house-pet", .parent = "test-pet" };
TYPE_REGISTER(house_pet_info);

static void dog_class_init(ObjectClass *klass, const void *data)
{
    g_assert_cmpint(((AnimalClass *)klass)->noise, ==, 1); /* the parent's was copied */
    ((AnimalClass *)klass)->noise = *(const int *)data;
}

static void dog_init(Object *obj)
{
    Animal *a = (Animal *)obj;
    a->log[a->logged++] = 2;
}

static const int dog_noise = 7;
static const TypeInfo dog_info = {
    .name = "test-dog",
    .parent = "test-animal",
    .class_init = dog_class_init,
    .class_data = &dog_noise,
    .instance_init = dog_init,
    .instance_align = 256,
    .interfaces = (const char *const[]){ "test-house-pet", TYPE_USER_CREATABLE, NULL },
};
TYPE_REGISTER(dog_info);

static const TypeInfo puppy_info = { .name = "test-puppy", .parent = "test-dog" };
TYPE_REGISTER(puppy_info);

static void test_classes(void)
{
    g_assert_null(object_class_by_name("test-nothing"));
    ObjectClass *dog = object_class_by_name("test-dog");
    g_assert_cmpint(class_inits, ==, 1);
    g_assert_cmpint(((AnimalClass *)dog)->noise, ==, 7);
    g_assert_cmpint(((AnimalClass *)dog)->base_inits, ==, 11);
    g_assert_cmpint(((AnimalClass *)dog->parent)->base_inits, ==, 1);
    g_assert_true(object_class_by_name("test-dog") == dog);
    g_assert_true(object_class_is_abstract(object_class_get_parent(dog)));
    g_assert_nonnull(object_class_cast(dog, "test-animal"));
    g_assert_nonnull(object_class_cast(dog, "test-pet"));
    g_assert_nonnull(object_class_cast(object_class_by_name("test-puppy"), "test-house-pet"));
    g_assert_null(object_class_cast(dog, "test-puppy"));
    g_autoptr(GPtrArray) list = object_class_list("test-animal", false);
    g_assert_cmpuint(list->len, ==, 2);
    g_assert_cmpstr(object_class_get_name(list->pdata[0]), ==, "test-dog");
    g_autoptr(GPtrArray) all = object_class_list("test-animal", true);
    g_assert_cmpuint(all->len, ==, 3);
    g_autoptr(GPtrArray) pets = object_class_list("test-pet", true);
    g_assert_cmpuint(pets->len, ==, 2);
    /* Types made at run time. */
    static const TypeInfo late = { .name = "test-late", .parent = "test-dog", .class_data = &dog_noise };
    type_register(&late);
    g_assert_nonnull(object_class_by_name("test-late"));
}

static void test_instances(void)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(object_new("test-dgo", &error));
    g_autofree char *message = error_message(error), *hint = error_hint(error);
    g_assert_cmpstr(message, ==, "invalid object type: test-dgo");
    g_assert_nonnull(strstr(hint, "test-dog"));
    g_clear_error(&error);
    g_assert_null(object_new("test-animal", &error));
    g_clear_error(&error);
    g_assert_null(object_new("test-pet", &error));
    g_clear_error(&error);

    finalized = 0;
    Object *obj = object_new("test-puppy", &error);
    Animal *a = OBJECT_CHECK(Animal, obj, "test-animal");
    g_assert_cmpuint((uintptr_t)obj % 256, ==, 0);
    g_assert_cmpint(a->log[0] * 100 + a->log[1] * 10 + a->log[2], ==, 123);
    g_assert_cmpuint(a->legs, ==, 4);
    g_assert_cmpstr(a->name, ==, "Rex");
    g_assert_cmpuint(a->flags, ==, 1ull << 40);
    g_assert_nonnull(object_dynamic_cast(obj, "test-pet"));
    g_assert_null(object_dynamic_cast(obj, TYPE_CONTAINER));
    object_ref(obj);
    object_unref(obj);
    g_assert_cmpint(finalized, ==, 0);
    object_unref(obj);
    g_assert_cmpint(finalized, ==, 1);
}

static void expect(GError **error, const char *text)
{
    g_assert_nonnull(*error);
    g_autofree char *message = error_message(*error);
    g_assert_cmpstr(message, ==, text);
    g_clear_error(error);
}

static void test_properties(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) obj = object_new_known("test-dog");
    Animal *a = (Animal *)obj;
    uint64_t u;
    bool b;
    g_assert_true(object_property_parse(obj, "legs", "0x3", &error));
    g_assert_cmpuint(a->legs, ==, 3);
    g_assert_true(object_property_parse(obj, "weight", "1.5G", &error));
    g_assert_cmpuint(a->weight, ==, 3ull << 29);
    g_assert_true(object_property_get_uint(obj, "weight", &u, &error));
    g_assert_cmpuint(u, ==, 3ull << 29);
    g_assert_true(object_property_parse(obj, "tail", "off", &error));
    g_assert_cmpuint(a->flags, ==, 0);
    g_assert_true(object_property_get_bool(obj, "alive", &b, &error) && b);
    g_assert_true(object_property_set_str(obj, "colour", "blue", &error));
    g_assert_cmpint(a->colour, ==, 3);
    g_autofree char *colour = object_property_print(obj, "colour", &error);
    g_assert_cmpstr(colour, ==, "\"blue\"");
    g_assert_false(object_property_set_str(obj, "colour", "grene", &error));
    g_autofree char *hint = error_hint(error);
    g_assert_nonnull(strstr(hint, "green"));
    expect(&error, "Parameter 'colour' does not accept value 'grene'");
    g_assert_false(object_property_parse(obj, "legs", "4294967296", &error));
    expect(&error, "Parameter 'legs' expects uint32_t");
    g_assert_false(object_property_parse(obj, "legs", "four", &error));
    expect(&error, "Parameter 'legs' expects integer");
    g_assert_false(object_property_parse(obj, "alive", "perhaps", &error));
    expect(&error, "Parameter 'alive' expects 'on' or 'off'");
    g_assert_false(object_property_set_str(obj, "legs", "4", &error));
    expect(&error, "Invalid parameter type for 'legs', expected: integer");
    g_assert_false(object_property_parse(obj, "lges", "4", &error));
    g_autofree char *near = error_hint(error);
    g_assert_nonnull(strstr(near, "'legs'"));
    expect(&error, "Property 'test-dog.lges' not found");
    a->alive = false;
    g_assert_false(object_property_parse(obj, "wings", "2", &error));
    expect(&error, "it is dead");

    ObjectProperty *legs = object_property_find(obj, "legs");
    g_assert_cmpstr(legs->type, ==, "uint32");
    g_assert_cmpstr(legs->default_value, ==, "4");
    g_assert_cmpstr(object_property_find(obj, "colour")->default_value, ==, "\"green\"");
    g_assert_cmpstr(object_property_find(obj, "colour")->type, ==, "Colour");
    g_assert_cmpstr(object_property_find(obj, "friend")->type, ==, "link<test-animal>");
    g_autoptr(GPtrArray) list = object_property_list(obj);
    g_assert_cmpuint(list->len, ==, 8);
    g_assert_true(list->pdata[0] == legs);
}

static char *get_greeting(Object *obj, GError **error)
{
    return g_strdup("hello");
}

static bool get_fails(Object *obj, GError **error)
{
    return error_set(error, "not now");
}

static void test_instance_properties(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) obj = object_new_known(TYPE_CONTAINER);
    object_property_add_str(obj, "greeting", get_greeting, NULL);
    object_property_add_bool(obj, "sometimes", get_fails, NULL);
    g_autofree char *s = object_property_get_str(obj, "greeting", &error);
    g_assert_cmpstr(s, ==, "hello");
    g_assert_false(object_property_set_str(obj, "greeting", "x", &error));
    expect(&error, "Property 'container.greeting' is not writable");
    bool b;
    g_assert_false(object_property_get_bool(obj, "sometimes", &b, &error));
    expect(&error, "not now");
    object_property_del(obj, "greeting");
    g_assert_null(object_property_find(obj, "greeting"));
}

static bool count_child(Object *child, void *opaque)
{
    return ++*(int *)opaque < 100;
}

static bool refuse(Object *obj, const char *name, Object *value, GError **error)
{
    return value || error_set(error, "must stay set");
}

static void test_tree(void)
{
    g_autoptr(GError) error = NULL;
    Object *root = object_root_new();
    g_autofree char *root_path = object_get_canonical_path(root);
    g_assert_cmpstr(root_path, ==, "/");
    Object *peripheral = container_get(root, "/machine/peripheral");
    g_assert_true(container_get(root, "/machine/peripheral") == peripheral);

    finalized = 0;
    Object *rex = object_new_known("test-dog"), *bello = object_new_known("test-puppy");
    g_autofree char *outside = object_get_canonical_path(rex);
    g_assert_cmpstr(outside, ==, "?");
    g_assert_false(object_property_set_str(bello, "friend", "rex", &error));
    expect(&error, "Device 'rex' not found");
    g_assert_true(object_property_add_child(peripheral, "rex", rex, &error));
    g_assert_true(object_property_add_child(peripheral, "dog[*]", bello, &error));
    object_unref(rex);
    object_unref(bello);
    g_autofree char *path = object_get_canonical_path(bello);
    g_assert_cmpstr(path, ==, "/machine/peripheral/dog[0]");
    g_assert_false(object_property_add_child(root, "again", rex, &error));
    expect(&error, "the object is already in the tree, at '/machine/peripheral/rex'");
    g_autoptr(Object) third = object_new_known("test-dog");
    g_assert_false(object_property_add_child(peripheral, "rex", third, &error));
    expect(&error, "attempt to add duplicate property 'rex' to object (type 'container')");

    g_assert_true(object_resolve_path(root, "/machine/peripheral/rex", NULL) == rex);
    g_assert_true(object_resolve_path(root, "rex", NULL) == rex);
    g_assert_true(object_resolve_path(root, "peripheral/rex", NULL) == rex);
    g_assert_true(object_resolve_path(root, "/", NULL) == root);
    g_assert_null(object_resolve_path(root, "/machine/rex", NULL));

    g_assert_true(object_property_set_str(bello, "friend", "rex", &error));
    g_assert_true(((Animal *)bello)->friend_of == rex);
    g_assert_cmpint(rex->ref, ==, 2);
    g_assert_true(object_resolve_path(root, "/machine/peripheral/dog[0]/friend", NULL) == rex);
    g_assert_true(object_property_set_link(bello, "friend", bello, &error));
    g_assert_true(object_property_set_link(bello, "friend", rex, &error));
    g_assert_false(object_property_set_link(bello, "friend", root, &error));
    expect(&error, "Invalid parameter type for 'friend', expected: test-animal");
    g_autofree char *friend_path = object_property_get_str(bello, "friend", &error);
    g_assert_cmpstr(friend_path, ==, "/machine/peripheral/rex");

    Object *target = NULL;
    object_property_add_link(root, "best", "test-animal", &target, refuse);
    g_assert_true(object_property_set_str(root, "best", "/machine/peripheral/rex", &error));
    g_assert_true(target == rex);
    g_assert_false(object_property_set_str(root, "best", "", &error));
    expect(&error, "must stay set");
    g_assert_false(object_property_set_str(root, "best", "/machine", &error));
    expect(&error, "Object '/machine' is not of type 'test-animal'");

    /* The same name twice: a partial path is ambiguous. */
    g_assert_true(object_property_add_child(root, "rex", third, &error));
    bool ambiguous;
    g_assert_null(object_resolve_path(root, "rex", &ambiguous));
    g_assert_true(ambiguous);

    int children = 0;
    g_assert_true(object_child_foreach(root, true, count_child, &children));
    g_assert_cmpint(children, ==, 5);

    object_unparent(rex); /* links keep it alive */
    g_assert_cmpint(finalized, ==, 0);
    g_assert_null(object_resolve_path(root, "/machine/peripheral/rex", NULL));
    object_unref(root);
    g_assert_null(target);
    g_assert_cmpint(finalized, ==, 2);
}

static void test_globals(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) globals = g_ptr_array_new();
    GlobalProperty list[] = { { .driver = "test-animal", .property = "legs", .value = "6" },
                              { .driver = "test-puppy", .property = "legs", .value = "8" },
                              { .driver = "test-dog", .property = "gills", .value = "1", .optional = true },
                              { .driver = "test-dog", .property = "gills", .value = "1", .user = true } };
    for (int i = 0; i < 3; i++) {
        g_ptr_array_add(globals, &list[i]);
    }
    g_autoptr(Object) obj = object_new_known("test-dog");
    g_assert_true(object_apply_globals(obj, globals, &error));
    g_assert_cmpuint(((Animal *)obj)->legs, ==, 6);
    g_assert_true(list[0].used && !list[1].used);
    g_ptr_array_add(globals, &list[3]);
    g_assert_false(object_apply_globals(obj, globals, &error));
    expect(&error, "can't apply global test-dog.gills=1: Property 'test-dog.gills' not found");
}

static Object *add(Object *root, const char *text, GError **error)
{
    bool is_json;
    json_object *dict = keyval_parse(text, "qom-type", &is_json, error);
    g_assert_nonnull(dict);
    g_autoptr(Visitor) v = visitor_new_input(dict, !is_json);
    Object *obj = user_creatable_add(root, json_object_get_string(json_object_object_get(dict, "qom-type")),
                                     json_object_get_string(json_object_object_get(dict, "id")), v, error);
    json_object_put(dict);
    return obj;
}

static void test_user_creatable(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) root = object_root_new();
    Object *d = add(root, "test-dog,id=d0,legs=3,name=a,,b", &error);
    g_assert_nonnull(d);
    g_assert_cmpstr(((Animal *)d)->name, ==, "a,b");
    Object *e =
        add(root, "{\"qom-type\":\"test-puppy\",\"id\":\"d1\",\"weight\":5,\"friend\":\"d0\"}", &error);
    g_assert_nonnull(e);
    g_assert_true(((Animal *)e)->friend_of == d);
    g_assert_null(add(root, "test-dog,id=d0", &error));
    expect(&error, "attempt to add duplicate property 'd0' to object (type 'container')");
    g_assert_null(add(root, "test-dog,id=0d", &error));
    expect(&error, "Parameter 'id' expects an identifier");
    g_assert_null(add(root, "test-dog,id=d2,fins=1", &error));
    expect(&error, "Property 'test-dog.fins' not found");
    g_assert_null(object_resolve_path(root, "/objects/d2", NULL));
    g_assert_null(add(root, "container,id=d2", &error));
    expect(&error, "object type 'container' isn't supported by object-add");
    g_assert_null(add(root, "test-god,id=d2", &error));
    expect(&error, "invalid object type: test-god");
    g_assert_true(user_creatable_del(root, "d1", &error));
    g_assert_false(user_creatable_del(root, "d1", &error));
    expect(&error, "object 'd1' not found");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/object/classes", test_classes);
    g_test_add_func("/object/instances", test_instances);
    g_test_add_func("/object/properties", test_properties);
    g_test_add_func("/object/instance-properties", test_instance_properties);
    g_test_add_func("/object/tree", test_tree);
    g_test_add_func("/object/globals", test_globals);
    g_test_add_func("/object/user-creatable", test_user_creatable);
    return g_test_run();
}
