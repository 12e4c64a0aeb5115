/*
 * Types, classes, instances, properties and the composition tree. SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Invariants:
 * 1. A class exists once its type was asked for; its parent's class exists before it and is copied into its
 * beginning.
 * 2. A class never changes after its class_init ended, so that casts need no lock.
 * 3. An object is in the tree exactly while parent is set; the parent's child<> property holds one reference
 * to it.
 * 4. Property names are unique along an object's classes and its own table.
 */
#include "object/object.h"

#include "base/error.h"
#include "base/nearest.h"
#include "object/property.h"

#include <stdlib.h>
#include <string.h>

SECTION_DECLARE(rhea_types, const TypeInfo);

/* ---- types ---- */

typedef struct Type {
    const TypeInfo *info;
    struct Type *parent;
    size_t instance_size, instance_align, class_size;
    void *(*alloc)(size_t size);
    void (*free)(void *memory, size_t size);
    bool initialising;
    ObjectClass *klass; /* NULL: not needed so far */
} Type;

static GHashTable *types; /* name -> Type; the registry */
static GRecMutex types_lock;

static void type_insert(const TypeInfo *info)
{
    if (g_hash_table_contains(types, info->name)) {
        g_error("type '%s' is registered twice", info->name);
    }
    Type *t = g_new0(Type, 1);
    t->info = info;
    g_hash_table_insert(types, (gpointer)info->name, t);
}

static void types_open(void)
{
    g_rec_mutex_lock(&types_lock);
    if (!types) {
        types = g_hash_table_new(g_str_hash, g_str_equal);
        SECTION_FOREACH(rhea_types, const TypeInfo, it)
        {
            type_insert(*it);
        }
    }
}

static void types_close(void)
{
    g_rec_mutex_unlock(&types_lock);
}

void type_register(const TypeInfo *info)
{
    types_open();
    type_insert(info);
    types_close();
}

static void add_interface(GPtrArray *list, const char *name)
{
    /* An interface brings the interfaces it derives from. */
    for (Type *t = g_hash_table_lookup(types, name);; t = g_hash_table_lookup(types, t->info->parent)) {
        if (!t) {
            g_error("interface '%s' is not registered", name);
        }
        if (!t->info->parent) {
            return;
        }
        if (!g_ptr_array_find_with_equal_func(list, t->info->name, g_str_equal, NULL)) {
            g_ptr_array_add(list, (gpointer)t->info->name);
        }
    }
}

static void type_initialise(Type *t)
{
    if (t->klass) {
        return;
    }
    if (t->initialising) {
        g_error("type '%s' is needed by its own class_init", t->info->name);
    }
    t->initialising = true;
    const TypeInfo *info = t->info;
    size_t parent_class_size = sizeof(ObjectClass);
    t->instance_size = sizeof(Object);
    t->instance_align = _Alignof(max_align_t);
    t->alloc = info->instance_alloc;
    t->free = info->instance_free;
    if (info->parent) {
        t->parent = g_hash_table_lookup(types, info->parent);
        if (!t->parent) {
            g_error("type '%s': its parent '%s' is not registered", info->name, info->parent);
        }
        type_initialise(t->parent);
        parent_class_size = t->parent->class_size;
        t->instance_size = t->parent->instance_size;
        t->instance_align = t->parent->instance_align;
        if (!t->alloc) {
            t->alloc = t->parent->alloc;
            t->free = t->parent->free;
        }
    }
    t->class_size = info->class_size ? info->class_size : parent_class_size;
    t->instance_size = info->instance_size ? info->instance_size : t->instance_size;
    t->instance_align = MAX(t->instance_align, info->instance_align);
    g_assert(t->class_size >= parent_class_size);
    g_assert(!t->parent || t->instance_size >= t->parent->instance_size);
    g_assert((t->instance_align & (t->instance_align - 1)) == 0);

    ObjectClass *klass = g_malloc0(t->class_size);
    GPtrArray *interfaces = g_ptr_array_new();
    if (t->parent) {
        memcpy(klass, t->parent->klass, t->parent->class_size);
        for (const char *const *i = t->parent->klass->interfaces; *i; i++) {
            g_ptr_array_add(interfaces, (gpointer)*i);
        }
    }
    for (const char *const *i = info->interfaces; i && *i; i++) {
        add_interface(interfaces, *i);
    }
    g_ptr_array_add(interfaces, NULL);
    klass->interfaces = (const char *const *)g_ptr_array_free(interfaces, FALSE);
    klass->type = info;
    klass->parent = t->parent ? t->parent->klass : NULL;
    klass->properties = NULL;
    klass->property_order = NULL;
    for (Type *a = t; a; a = a->parent) {
        if (a->info->class_base_init) {
            a->info->class_base_init(klass, info->class_data);
        }
    }
    if (info->class_init) {
        info->class_init(klass, info->class_data);
    }
    t->klass = klass;
    t->initialising = false;
}

static Type *type_get(const char *name)
{
    types_open();
    Type *t = g_hash_table_lookup(types, name);
    if (t) {
        type_initialise(t);
    }
    types_close();
    return t;
}

/* ---- classes ---- */

ObjectClass *object_class_by_name(const char *type_name)
{
    Type *t = type_get(type_name);
    return t ? t->klass : NULL;
}

ObjectClass *object_class_get_parent(ObjectClass *klass)
{
    return klass->parent;
}

const char *object_class_get_name(ObjectClass *klass)
{
    return klass->type->name;
}

bool object_class_is_abstract(ObjectClass *klass)
{
    return klass->type->abstract;
}

static bool class_is(const ObjectClass *klass, const char *type_name)
{
    const ObjectClass *c = klass;
    do {
        if (c->type->name == type_name || strcmp(c->type->name, type_name) == 0) {
            return true;
        }
        c = c->parent;
    } while (c);
    for (const char *const *i = klass->interfaces; *i; i++) {
        if (strcmp(*i, type_name) == 0) {
            return true;
        }
    }
    return false;
}

ObjectClass *object_class_cast(ObjectClass *klass, const char *type_name)
{
    return klass && class_is(klass, type_name) ? klass : NULL;
}

static int class_compare(gconstpointer a, gconstpointer b)
{
    const ObjectClass *const *ca = a, *const *cb = b;
    return strcmp((*ca)->type->name, (*cb)->type->name);
}

/* Whether a type is or has `name`, without making its class: most questions concern few of the many types. */
static bool type_implements(const Type *t, const char *name)
{
    for (const Type *a = t; a; a = a->info->parent ? g_hash_table_lookup(types, a->info->parent) : NULL) {
        if (strcmp(a->info->name, name) == 0) {
            return true;
        }
        for (const char *const *i = a->info->interfaces; i && *i; i++) {
            const Type *interface = g_hash_table_lookup(types, *i);
            if (interface && strcmp(name, TYPE_INTERFACE) != 0 && type_implements(interface, name)) {
                return true;
            }
        }
    }
    return false;
}

GPtrArray *object_class_list(const char *implements, bool include_abstract)
{
    GPtrArray *list = g_ptr_array_new();
    types_open();
    /* A class_init may register more types; walk over a copy of the names. */
    g_autoptr(GList) all = g_hash_table_get_values(types);
    for (GList *l = all; l; l = l->next) {
        Type *t = l->data;
        if (t->info->abstract && !include_abstract) {
            continue;
        }
        if (type_implements(t, TYPE_INTERFACE) || (implements && !type_implements(t, implements))) {
            continue;
        }
        type_initialise(t);
        g_ptr_array_add(list, t->klass);
    }
    types_close();
    g_ptr_array_sort(list, class_compare);
    return list;
}

static void hint_type(GError **error, const char *name, const char *implements)
{
    if (!error) {
        return;
    }
    g_autoptr(GPtrArray) classes = object_class_list(implements, false);
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (guint i = 0; i < classes->len; i++) {
        ObjectClass *c = g_ptr_array_index(classes, i);
        g_ptr_array_add(names, (gpointer)c->type->name);
    }
    g_ptr_array_add(names, NULL);
    nearest_hint(error, name, (const char *const *)names->pdata);
}

/* ---- instances ---- */

static void property_free(void *opaque)
{
    ObjectProperty *p = opaque;
    g_free(p->name);
    g_free(p->type);
    g_free(p->description);
    g_free(p->default_value);
    g_free(p);
}

static void instance_init(Object *obj, ObjectClass *klass)
{
    if (klass->parent) {
        instance_init(obj, klass->parent);
    }
    object_property_tables_default(obj, klass);
    if (klass->type->instance_init) {
        klass->type->instance_init(obj);
    }
}

static void instance_post_init(Object *obj, const ObjectClass *klass)
{
    if (klass->parent) {
        instance_post_init(obj, klass->parent);
    }
    if (klass->type->instance_post_init) {
        klass->type->instance_post_init(obj);
    }
}

static size_t instance_bytes(const Type *t)
{
    return (t->instance_size + t->instance_align - 1) & ~(t->instance_align - 1);
}

Object *object_new(const char *type_name, GError **error)
{
    Type *t = type_get(type_name);
    if (!t) {
        error_set(error, "invalid object type: %s", type_name);
        hint_type(error, type_name, NULL);
        return NULL;
    }
    if (t->info->abstract || class_is(t->klass, TYPE_INTERFACE)) {
        error_set(error, "object type '%s' is abstract", type_name);
        return NULL;
    }
    size_t size = instance_bytes(t);
    Object *obj = t->alloc ? t->alloc(size) : aligned_alloc(t->instance_align, size);
    if (!obj) {
        error_set(error, "cannot allocate %zu bytes for an object of type '%s'", size, type_name);
        return NULL;
    }
    if (!t->alloc) {
        memset(obj, 0, size);
    }
    obj->klass = t->klass;
    obj->ref = 1;
    instance_init(obj, t->klass);
    instance_post_init(obj, t->klass);
    return obj;
}

Object *object_new_known(const char *type_name)
{
    g_autoptr(GError) error = NULL;
    Object *obj = object_new(type_name, &error);
    if (!obj) {
        g_error("%s", error->message);
    }
    return obj;
}

Object *object_ref(Object *obj)
{
    if (obj) {
        int before = __atomic_fetch_add(&obj->ref, 1, __ATOMIC_RELAXED);
        g_assert(before > 0);
    }
    return obj;
}

static void object_finalize(Object *obj)
{
    /* A parent would hold a reference. */
    g_assert(!obj->parent);
    while (obj->property_order && obj->property_order->len) {
        const ObjectProperty *p = g_ptr_array_index(obj->property_order, obj->property_order->len - 1);
        object_property_del(obj, p->name);
    }
    for (ObjectClass *k = obj->klass; k; k = k->parent) {
        if (k->type->instance_finalize) {
            k->type->instance_finalize(obj);
        }
        object_property_tables_release(obj, k);
    }
    g_clear_pointer(&obj->properties, g_hash_table_unref);
    g_clear_pointer(&obj->property_order, g_ptr_array_unref);
    const Type *t = type_get(obj->klass->type->name);
    if (t->free) {
        t->free(obj, instance_bytes(t));
    } else {
        free(obj);
    }
}

void object_unref(Object *obj)
{
    if (!obj) {
        return;
    }
    int before = __atomic_fetch_sub(&obj->ref, 1, __ATOMIC_ACQ_REL);
    g_assert(before > 0);
    if (before == 1) {
        object_finalize(obj);
    }
}

const char *object_get_typename(const Object *obj)
{
    return obj->klass->type->name;
}

void *object_dynamic_cast(const Object *obj, const char *type_name)
{
    return obj && class_is(obj->klass, type_name) ? (void *)obj : NULL;
}

void *object_check(const void *opaque, const char *type_name, const char *file, int line)
{
    const Object *obj = opaque;
    if (G_UNLIKELY(!obj)) {
        g_error("%s:%d: NULL is no object of type '%s'", file, line, type_name);
    }
    if (G_UNLIKELY(!class_is(obj->klass, type_name))) {
        g_error("%s:%d: an object of type '%s' is no '%s'", file, line, object_get_typename(obj), type_name);
    }
    return (void *)obj;
}

/* ---- properties ---- */

static ObjectProperty *property_new(const char *name, const char *type, PropertyAccessor *get,
                                    PropertyAccessor *set, void (*release)(Object *, const char *, void *),
                                    void *opaque)
{
    ObjectProperty *p = g_new0(ObjectProperty, 1);
    p->name = g_strdup(name);
    p->type = g_strdup(type);
    p->get = get;
    p->set = set;
    p->release = release;
    p->opaque = opaque;
    return p;
}

ObjectProperty *object_class_property_find(ObjectClass *klass, const char *name)
{
    for (const ObjectClass *k = klass; k; k = k->parent) {
        ObjectProperty *p = k->properties ? g_hash_table_lookup(k->properties, name) : NULL;
        if (p) {
            return p;
        }
    }
    return NULL;
}

ObjectProperty *object_property_find(const Object *obj, const char *name)
{
    ObjectProperty *p = obj->properties ? g_hash_table_lookup(obj->properties, name) : NULL;
    return p ? p : object_class_property_find(obj->klass, name);
}

ObjectProperty *object_property_add(Object *obj, const char *name, const char *type, PropertyAccessor *get,
                                    PropertyAccessor *set, void (*release)(Object *, const char *, void *),
                                    void *opaque)
{
    g_autofree char *numbered = NULL;
    if (g_str_has_suffix(name, "[*]")) {
        int stem = (int)strlen(name) - 3;
        for (unsigned i = 0;; i++) {
            g_free(numbered);
            numbered = g_strdup_printf("%.*s[%u]", stem, name, i);
            if (!object_property_find(obj, numbered)) {
                break;
            }
        }
        name = numbered;
    } else if (object_property_find(obj, name)) {
        g_error("property '%s.%s' is added twice", object_get_typename(obj), name);
    }
    if (!obj->properties) {
        obj->properties = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, property_free);
        obj->property_order = g_ptr_array_new();
    }
    ObjectProperty *p = property_new(name, type, get, set, release, opaque);
    g_hash_table_insert(obj->properties, p->name, p);
    g_ptr_array_add(obj->property_order, p);
    return p;
}

ObjectProperty *object_class_property_add(ObjectClass *klass, const char *name, const char *type,
                                          PropertyAccessor *get, PropertyAccessor *set, void *opaque)
{
    if (object_class_property_find(klass, name)) {
        g_error("class property '%s.%s' is added twice", klass->type->name, name);
    }
    if (!klass->properties) {
        klass->properties = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, property_free);
        klass->property_order = g_ptr_array_new();
    }
    ObjectProperty *p = property_new(name, type, get, set, NULL, opaque);
    g_hash_table_insert(klass->properties, p->name, p);
    g_ptr_array_add(klass->property_order, p);
    return p;
}

void object_property_set_description(ObjectProperty *property, const char *description)
{
    g_free(property->description);
    property->description = g_strdup(description);
}

void object_property_set_default_json(ObjectProperty *property, const char *json)
{
    g_free(property->default_value);
    property->default_value = g_strdup(json);
}

static void class_properties_append(GPtrArray *list, const ObjectClass *klass)
{
    if (klass->parent) {
        class_properties_append(list, klass->parent);
    }
    for (guint i = 0; klass->property_order && i < klass->property_order->len; i++) {
        g_ptr_array_add(list, g_ptr_array_index(klass->property_order, i));
    }
}

GPtrArray *object_class_property_list(ObjectClass *klass)
{
    GPtrArray *list = g_ptr_array_new();
    class_properties_append(list, klass);
    return list;
}

GPtrArray *object_property_list(const Object *obj)
{
    GPtrArray *list = object_class_property_list(obj->klass);
    for (guint i = 0; obj->property_order && i < obj->property_order->len; i++) {
        g_ptr_array_add(list, g_ptr_array_index(obj->property_order, i));
    }
    return list;
}

void object_property_del(Object *obj, const char *name)
{
    ObjectProperty *p = obj->properties ? g_hash_table_lookup(obj->properties, name) : NULL;
    if (!p) {
        return;
    }
    /* Out of the table first: what release does may look at the object. */
    g_hash_table_steal(obj->properties, name);
    g_ptr_array_remove(obj->property_order, p);
    if (p->child) {
        Object *child = p->child;
        child->parent = NULL;
        child->name_in_parent = NULL;
        object_unref(child);
    } else if (p->link) {
        object_unref(*p->link);
        *p->link = NULL;
    }
    if (p->release) {
        p->release(obj, p->name, p->opaque);
    }
    property_free(p);
}

static ObjectProperty *property_need(Object *obj, const char *name, GError **error)
{
    ObjectProperty *p = object_property_find(obj, name);
    if (!p) {
        error_set(error, "Property '%s.%s' not found", object_get_typename(obj), name);
        if (error) {
            g_autoptr(GPtrArray) list = object_property_list(obj);
            g_autoptr(GPtrArray) names = g_ptr_array_new();
            for (guint i = 0; i < list->len; i++) {
                const ObjectProperty *known = g_ptr_array_index(list, i);
                g_ptr_array_add(names, known->name);
            }
            g_ptr_array_add(names, NULL);
            nearest_hint(error, name, (const char *const *)names->pdata);
        }
    }
    return p;
}

bool object_property_get(Object *obj, const char *name, Visitor *v, GError **error)
{
    ObjectProperty *p = property_need(obj, name, error);
    if (!p) {
        return false;
    }
    if (!p->get) {
        return error_set(error, "Property '%s.%s' is not readable", object_get_typename(obj), name);
    }
    return p->get(obj, v, name, p->opaque, error);
}

bool object_property_set(Object *obj, const char *name, Visitor *v, GError **error)
{
    ObjectProperty *p = property_need(obj, name, error);
    if (!p) {
        return false;
    }
    if (!p->set) {
        return error_set(error, "Property '%s.%s' is not writable", object_get_typename(obj), name);
    }
    return p->set(obj, v, name, p->opaque, error);
}

bool object_property_parse(Object *obj, const char *name, const char *text, GError **error)
{
    g_autoptr(Visitor) v = visitor_new_text_input(text);
    return object_property_set(obj, name, v, error);
}

static bool get_json(Object *obj, const char *name, json_object **value, GError **error)
{
    g_autoptr(Visitor) v = visitor_new_output();
    if (!object_property_get(obj, name, v, error)) {
        return false;
    }
    *value = visitor_output_take(v);
    return true;
}

/* Takes the reference to value. */
static bool set_json(Object *obj, const char *name, json_object *value, GError **error)
{
    g_autoptr(Visitor) v = visitor_new_input(value, false);
    json_object_put(value);
    return object_property_set(obj, name, v, error);
}

char *object_property_print(Object *obj, const char *name, GError **error)
{
    json_object *value;
    if (!get_json(obj, name, &value, error)) {
        return NULL;
    }
    char *text = g_strdup(value ? json_object_to_json_string_ext(value, JSON_C_TO_STRING_SPACED |
                                                                            JSON_C_TO_STRING_NOSLASHESCAPE)
                                : "null");
    json_object_put(value);
    return text;
}

bool object_property_set_bool(Object *obj, const char *name, bool value, GError **error)
{
    return set_json(obj, name, json_object_new_boolean(value), error);
}

bool object_property_set_int(Object *obj, const char *name, int64_t value, GError **error)
{
    return set_json(obj, name, json_object_new_int64(value), error);
}

bool object_property_set_uint(Object *obj, const char *name, uint64_t value, GError **error)
{
    return set_json(obj, name, json_object_new_uint64(value), error);
}

bool object_property_set_str(Object *obj, const char *name, const char *value, GError **error)
{
    return set_json(obj, name, json_object_new_string(value), error);
}

bool object_property_get_bool(Object *obj, const char *name, bool *value, GError **error)
{
    json_object *j;
    if (!get_json(obj, name, &j, error)) {
        return false;
    }
    bool ok = json_object_is_type(j, json_type_boolean);
    if (ok) {
        *value = json_object_get_boolean(j);
    } else {
        error_set(error, "Property '%s.%s' is no boolean", object_get_typename(obj), name);
    }
    json_object_put(j);
    return ok;
}

static bool get_number(Object *obj, const char *name, json_object **j, GError **error)
{
    if (!get_json(obj, name, j, error)) {
        return false;
    }
    if (json_object_is_type(*j, json_type_int)) {
        return true;
    }
    json_object_put(*j);
    return error_set(error, "Property '%s.%s' is no integer", object_get_typename(obj), name);
}

bool object_property_get_int(Object *obj, const char *name, int64_t *value, GError **error)
{
    json_object *j;
    if (!get_number(obj, name, &j, error)) {
        return false;
    }
    *value = json_object_get_int64(j);
    json_object_put(j);
    return true;
}

bool object_property_get_uint(Object *obj, const char *name, uint64_t *value, GError **error)
{
    json_object *j;
    if (!get_number(obj, name, &j, error)) {
        return false;
    }
    *value = json_object_get_uint64(j);
    json_object_put(j);
    return true;
}

char *object_property_get_str(Object *obj, const char *name, GError **error)
{
    json_object *j;
    if (!get_json(obj, name, &j, error)) {
        return NULL;
    }
    char *s = NULL;
    if (json_object_is_type(j, json_type_string)) {
        s = g_strdup(json_object_get_string(j));
    } else {
        error_set(error, "Property '%s.%s' is no string", object_get_typename(obj), name);
    }
    json_object_put(j);
    return s;
}

/* ---- simple accessors ---- */

typedef struct BoolAccessors {
    bool (*get)(Object *, GError **);
    bool (*set)(Object *, bool, GError **);
} BoolAccessors;

static bool bool_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const BoolAccessors *a = opaque;
    GError *why = NULL;
    bool value = a->get(obj, &why);
    if (why) {
        g_propagate_error(error, why);
        return false;
    }
    return visit_bool(v, name, &value, error);
}

static bool bool_set(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const BoolAccessors *a = opaque;
    bool value;
    return visit_bool(v, name, &value, error) && a->set(obj, value, error);
}

static void free_accessors(Object *obj, const char *name, void *opaque)
{
    g_free(opaque);
}

ObjectProperty *object_property_add_bool(Object *obj, const char *name, bool (*get)(Object *, GError **),
                                         bool (*set)(Object *, bool, GError **))
{
    BoolAccessors *a = g_new0(BoolAccessors, 1);
    a->get = get;
    a->set = set;
    return object_property_add(obj, name, "bool", get ? bool_get : NULL, set ? bool_set : NULL,
                               free_accessors, a);
}

typedef struct StrAccessors {
    char *(*get)(Object *, GError **);
    bool (*set)(Object *, const char *, GError **);
} StrAccessors;

static bool str_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const StrAccessors *a = opaque;
    GError *why = NULL;
    g_autofree char *value = a->get(obj, &why);
    if (why) {
        g_propagate_error(error, why);
        return false;
    }
    return visit_str(v, name, &value, error);
}

static bool str_set(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const StrAccessors *a = opaque;
    g_autofree char *value = NULL;
    return visit_str(v, name, &value, error) && a->set(obj, value, error);
}

ObjectProperty *object_property_add_str(Object *obj, const char *name, char *(*get)(Object *, GError **),
                                        bool (*set)(Object *, const char *, GError **))
{
    StrAccessors *a = g_new0(StrAccessors, 1);
    a->get = get;
    a->set = set;
    return object_property_add(obj, name, "string", get ? str_get : NULL, set ? str_set : NULL,
                               free_accessors, a);
}

/* ---- children and links ---- */

static bool child_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    g_autofree char *path = object_get_canonical_path(opaque);
    return visit_str(v, name, &path, error);
}

bool object_property_add_child(Object *obj, const char *name, Object *child, GError **error)
{
    if (child->parent) {
        g_autofree char *path = object_get_canonical_path(child);
        return error_set(error, "the object is already in the tree, at '%s'", path);
    }
    if (!g_str_has_suffix(name, "[*]") && object_property_find(obj, name)) {
        return error_set(error, "attempt to add duplicate property '%s' to object (type '%s')", name,
                         object_get_typename(obj));
    }
    for (const Object *a = obj; a; a = a->parent) {
        if (a == child) {
            return error_set(error, "an object cannot be below itself");
        }
    }
    g_autofree char *type = g_strdup_printf("child<%s>", object_get_typename(child));
    ObjectProperty *p = object_property_add(obj, name, type, child_get, NULL, NULL, child);
    p->child = object_ref(child);
    child->parent = obj;
    child->name_in_parent = p->name;
    return true;
}

typedef struct LinkInfo {
    char *target_type;
    Object **target;
    bool (*check)(Object *, const char *, Object *, GError **);
} LinkInfo;

static bool link_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const LinkInfo *link = opaque;
    g_autofree char *path = *link->target ? object_get_canonical_path(*link->target) : g_strdup("");
    return visit_str(v, name, &path, error);
}

static bool link_assign(Object *obj, const char *name, const LinkInfo *link, Object *value, GError **error)
{
    if (value && !object_dynamic_cast(value, link->target_type)) {
        return error_set(error, "Invalid parameter type for '%s', expected: %s", name, link->target_type);
    }
    if (link->check && !link->check(obj, name, value, error)) {
        return false;
    }
    Object *old = *link->target;
    *link->target = object_ref(value);
    object_unref(old);
    return true;
}

bool object_link_resolve(Object *obj, const char *path, const char *target_type, Object **target,
                         GError **error)
{
    if (!*path) {
        *target = NULL;
        return true;
    }
    Object *root = obj;
    while (root->parent) {
        root = root->parent;
    }
    bool ambiguous = false;
    Object *found = object_resolve_path_of_type(root, path, target_type, &ambiguous);
    if (!found) {
        if (ambiguous) {
            return error_set(error, "Path '%s' does not uniquely identify an object", path);
        }
        if (object_resolve_path(root, path, NULL)) {
            return error_set(error, "Object '%s' is not of type '%s'", path, target_type);
        }
        return error_set_class(error, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%s' not found", path);
    }
    *target = found;
    return true;
}

static bool link_set(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const LinkInfo *link = opaque;
    g_autofree char *path = NULL;
    Object *target;
    return visit_str(v, name, &path, error) &&
           object_link_resolve(obj, path, link->target_type, &target, error) &&
           link_assign(obj, name, link, target, error);
}

static void link_release(Object *obj, const char *name, void *opaque)
{
    LinkInfo *link = opaque;
    g_free(link->target_type);
    g_free(link);
}

ObjectProperty *
object_property_add_link(Object *obj, const char *name, const char *target_type, Object **target,
                         bool (*check)(Object *obj, const char *name, Object *value, GError **error))
{
    LinkInfo *link = g_new0(LinkInfo, 1);
    link->target_type = g_strdup(target_type);
    link->target = target;
    link->check = check;
    g_autofree char *type = g_strdup_printf("link<%s>", target_type);
    ObjectProperty *p = object_property_add(obj, name, type, link_get, link_set, link_release, link);
    p->link = target;
    return p;
}

bool object_property_set_link(Object *obj, const char *name, Object *value, GError **error)
{
    ObjectProperty *p = property_need(obj, name, error);
    if (!p) {
        return false;
    }
    if (p->set == link_set) {
        return link_assign(obj, name, p->opaque, value, error);
    }
    bool known;
    bool ok = object_property_table_set_link(obj, p, value, &known, error);
    return known ? ok : error_set(error, "Property '%s.%s' is no link", object_get_typename(obj), name);
}

/* ---- the composition tree ---- */

static const TypeInfo object_info = {
    .name = TYPE_OBJECT,
    .description = "the root of all types",
    .instance_size = sizeof(Object),
    .class_size = sizeof(ObjectClass),
    .abstract = true,
};
TYPE_REGISTER(object_info);

static const TypeInfo interface_info = {
    .name = TYPE_INTERFACE,
    .description = "the root of all interfaces",
    .abstract = true,
};
TYPE_REGISTER(interface_info);

static const TypeInfo container_info = {
    .name = TYPE_CONTAINER,
    .parent = TYPE_OBJECT,
    .description = "a node of the composition tree that only holds others",
};
TYPE_REGISTER(container_info);

Object *object_root_new(void)
{
    return object_new_known(TYPE_CONTAINER);
}

Object *object_resolve_path_component(Object *parent, const char *part)
{
    const ObjectProperty *p = object_property_find(parent, part);
    if (!p) {
        return NULL;
    }
    return p->child ? p->child : p->link ? *p->link : object_property_table_link(parent, p);
}

Object *container_get(Object *root, const char *path)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", 0);
    Object *obj = root;
    for (char **part = parts; *part; part++) {
        if (!**part) {
            continue;
        }
        Object *next = object_resolve_path_component(obj, *part);
        if (!next) {
            next = object_new_known(TYPE_CONTAINER);
            bool ok = object_property_add_child(obj, *part, next, NULL);
            g_assert(ok);
            object_unref(next);
        }
        obj = next;
    }
    return obj;
}

char *object_get_canonical_path(const Object *obj)
{
    GString *path = g_string_new(NULL);
    if (!obj->parent) {
        /* A container without a parent is a root; anything else is outside. */
        g_string_append(path, strcmp(object_get_typename(obj), TYPE_CONTAINER) == 0 ? "/" : "?");
    }
    for (const Object *o = obj; o->parent; o = o->parent) {
        g_string_prepend(path, o->name_in_parent);
        g_string_prepend_c(path, '/');
        if (!o->parent->parent && strcmp(object_get_typename(o->parent), TYPE_CONTAINER) != 0) {
            g_string_assign(path, "?");
            break;
        }
    }
    return g_string_free(path, FALSE);
}

const char *object_get_name_in_parent(const Object *obj)
{
    return obj->name_in_parent;
}

static Object *resolve_parts(Object *obj, char **parts, const char *type_name)
{
    for (char **part = parts; *part && obj; part++) {
        if (**part) {
            obj = object_resolve_path_component(obj, *part);
        }
    }
    return obj && (!type_name || object_dynamic_cast(obj, type_name)) ? obj : NULL;
}

static void resolve_partial(Object *parent, char **parts, const char *type_name, Object **found,
                            bool *ambiguous)
{
    Object *match = resolve_parts(parent, parts, type_name);
    if (match && match != *found) {
        *ambiguous = *found != NULL;
        *found = match;
    }
    for (guint i = 0; !*ambiguous && parent->property_order && i < parent->property_order->len; i++) {
        const ObjectProperty *p = g_ptr_array_index(parent->property_order, i);
        if (p->child) {
            resolve_partial(p->child, parts, type_name, found, ambiguous);
        }
    }
}

Object *object_resolve_path_of_type(Object *root, const char *path, const char *type_name, bool *ambiguous)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", 0);
    bool two = false;
    Object *found = NULL;
    if (*path == '/') {
        found = resolve_parts(root, parts, type_name);
    } else if (*path) {
        resolve_partial(root, parts, type_name, &found, &two);
    }
    if (ambiguous) {
        *ambiguous = two;
    }
    return two ? NULL : found;
}

Object *object_resolve_path(Object *root, const char *path, bool *ambiguous)
{
    return object_resolve_path_of_type(root, path, NULL, ambiguous);
}

void object_unparent(Object *obj)
{
    if (obj->parent) {
        object_property_del(obj->parent, obj->name_in_parent);
    }
}

bool object_child_foreach(Object *obj, bool recursive, bool (*fn)(Object *child, void *opaque), void *opaque)
{
    if (!obj->property_order) {
        return true;
    }
    /* A copy with references: fn may add and remove children. */
    g_autoptr(GPtrArray) children = g_ptr_array_new_with_free_func((GDestroyNotify)object_unref);
    for (guint i = 0; i < obj->property_order->len; i++) {
        const ObjectProperty *p = g_ptr_array_index(obj->property_order, i);
        if (p->child) {
            g_ptr_array_add(children, object_ref(p->child));
        }
    }
    for (guint i = 0; i < children->len; i++) {
        Object *child = g_ptr_array_index(children, i);
        if (child->parent != obj) {
            continue; /* removed meanwhile */
        }
        if (!fn(child, opaque) || (recursive && !object_child_foreach(child, true, fn, opaque))) {
            return false;
        }
    }
    return true;
}

/* ---- user-creatable objects ---- */

static const TypeInfo user_creatable_info = {
    .name = TYPE_USER_CREATABLE,
    .parent = TYPE_INTERFACE,
    .description = "what -object and object-add may make",
    .abstract = true,
};
TYPE_REGISTER(user_creatable_info);

static GHashTable
    *user_creatable_ops; /* ObjectClass * -> const UserCreatableOps *; a registry, under types_lock */

void user_creatable_class_set(ObjectClass *klass, const UserCreatableOps *ops)
{
    types_open();
    if (!user_creatable_ops) {
        user_creatable_ops = g_hash_table_new(NULL, NULL);
    }
    g_hash_table_insert(user_creatable_ops, klass, (gpointer)ops);
    types_close();
}

const UserCreatableOps *user_creatable_class_get(ObjectClass *klass)
{
    static const UserCreatableOps none = { 0 };
    const UserCreatableOps *ops = NULL;
    if (!object_class_cast(klass, TYPE_USER_CREATABLE)) {
        return NULL;
    }
    types_open();
    for (ObjectClass *k = klass; k && user_creatable_ops && !ops; k = k->parent) {
        ops = g_hash_table_lookup(user_creatable_ops, k);
    }
    types_close();
    return ops ? ops : &none;
}

bool object_id_wellformed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    for (const char *p = id; *p; p++) {
        if (!g_ascii_isalnum(*p) && *p != '-' && *p != '.' && *p != '_') {
            return false;
        }
    }
    return true;
}

static bool set_all(Object *obj, Visitor *v, GError **error)
{
    if (!v) {
        return true;
    }
    if (!visit_start_struct(v, NULL, error)) {
        return false;
    }
    g_auto(GStrv) names = visit_member_names(v);
    bool ok = true;
    for (char **name = names; *name && ok; name++) {
        if (strcmp(*name, "qom-type") == 0 || strcmp(*name, "id") == 0) {
            g_autofree char *ignored = NULL;
            ok = visit_str(v, *name, &ignored, error);
        } else {
            ok = object_property_set(obj, *name, v, error);
        }
    }
    ok = ok && visit_check_struct(v, error);
    visit_end_struct(v);
    return ok;
}

Object *user_creatable_add(Object *root, const char *type_name, const char *id, Visitor *properties,
                           GError **error)
{
    ObjectClass *klass = object_class_by_name(type_name);
    if (!klass) {
        error_set(error, "invalid object type: %s", type_name);
        hint_type(error, type_name, TYPE_USER_CREATABLE);
        return NULL;
    }
    const UserCreatableOps *ops = user_creatable_class_get(klass);
    if (!ops) {
        error_set(error, "object type '%s' isn't supported by object-add", type_name);
        return NULL;
    }
    if (!object_id_wellformed(id)) {
        error_set(error, "Parameter 'id' expects an identifier");
        error_append_hint(error,
                          "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.");
        return NULL;
    }
    g_autoptr(Object) obj = object_new(type_name, error);
    /* Into the tree first: links among its properties are resolved from there. */
    if (!obj || !object_property_add_child(container_get(root, "/objects"), id, obj, error)) {
        return NULL;
    }
    if (!set_all(obj, properties, error) || (ops->complete && !ops->complete(obj, error))) {
        object_unparent(obj);
        return NULL;
    }
    return obj; /* the tree's reference stays when ours goes */
}

Object *user_creatable_add_options(Object *root, const QapiObjectOptions *options, GError **error)
{
    /* The type's properties take it from here: they are what the schema lists, as JSON again. */
    g_autoptr(Visitor) out = visitor_new_output();
    QapiObjectOptions *o = (QapiObjectOptions *)options; /* an output visitor only reads */

    if (!qapi_visit_ObjectOptions(out, NULL, &o, error)) {
        return NULL;
    }
    json_object *dict = visitor_output_take(out);
    g_autoptr(Visitor) in = visitor_new_input(dict, false);
    json_object_put(dict);
    return user_creatable_add(root, enum_name(&qapi_ObjectType_lookup, options->qom_type), options->id, in,
                              error);
}

Object *user_creatable_add_text(Object *root, const char *text, GError **error)
{
    g_autoptr(QapiObjectOptions) options = NULL;

    return qapi_option_object(text, &options, error) ? user_creatable_add_options(root, options, error)
                                                     : NULL;
}

bool user_creatable_del(Object *root, const char *id, GError **error)
{
    Object *obj = object_resolve_path_component(container_get(root, "/objects"), id);
    if (!obj) {
        return error_set(error, "object '%s' not found", id);
    }
    const UserCreatableOps *ops = user_creatable_class_get(obj->klass);
    if (ops && ops->can_be_deleted && !ops->can_be_deleted(obj)) {
        return error_set(error, "object '%s' is in use, can not be deleted", id);
    }
    object_unparent(obj);
    return true;
}
