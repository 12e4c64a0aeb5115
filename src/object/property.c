/*
 * Property tables. SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each entry becomes a class property whose opaque is the entry itself; the entry says where in the instance
 * the value lies. Defaults are written when an instance is made, what fields own is released when it goes.
 */
#include "object/property.h"

#include "base/error.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

static void *field_of(const Object *obj, const Property *prop)
{
    return (char *)obj + prop->offset;
}

static bool table_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const Property *prop = opaque;
    return prop->type->get(obj, v, name, prop, field_of(obj, prop), error);
}

static bool entry_may_set(Object *obj, const Property *prop, const char *name, GError **error)
{
    bool (*may_set)(Object *, const char *, GError **) = prop->may_set ? prop->may_set : obj->klass->may_set;
    return !may_set || may_set(obj, name, error);
}

static bool table_set(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const Property *prop = opaque;
    if (!entry_may_set(obj, prop, name, error)) {
        return false;
    }
    return prop->type->set(obj, v, name, prop, field_of(obj, prop), error);
}

/* The table entry behind a class property, or NULL. */
static const Property *table_entry(const ObjectProperty *p)
{
    return p->get == table_get || p->set == table_set ? p->opaque : NULL;
}

void object_class_add_properties(ObjectClass *klass, const Property *table)
{
    for (const Property *prop = table; prop->name; prop++) {
        g_autofree char *link = prop->link_type ? g_strdup_printf("link<%s>", prop->link_type) : NULL;
        const char *type = link ? link : prop->lookup ? prop->lookup->name : prop->type->name;
        ObjectProperty *p =
            object_class_property_add(klass, prop->name, type, prop->type->get ? table_get : NULL,
                                      prop->type->set ? table_set : NULL, (void *)prop);
        object_property_set_description(p, prop->description);
        if (prop->has_default && prop->type->default_json) {
            g_autofree char *json = prop->type->default_json(prop);
            object_property_set_default_json(p, json);
        }
    }
}

void object_property_tables_default(Object *obj, ObjectClass *klass)
{
    for (guint i = 0; klass->property_order && i < klass->property_order->len; i++) {
        const Property *prop = table_entry(g_ptr_array_index(klass->property_order, i));
        if (prop && prop->has_default && prop->type->set_default) {
            prop->type->set_default(obj, prop, field_of(obj, prop));
        }
    }
}

void object_property_tables_release(Object *obj, ObjectClass *klass)
{
    for (guint i = 0; klass->property_order && i < klass->property_order->len; i++) {
        const Property *prop = table_entry(g_ptr_array_index(klass->property_order, i));
        if (prop && prop->type->release) {
            prop->type->release(obj, prop, field_of(obj, prop));
        }
    }
}

/* ---- numbers ---- */

static char *default_unsigned(const Property *prop)
{
    return g_strdup_printf("%" G_GUINT64_FORMAT, prop->def.u);
}

static char *default_signed(const Property *prop)
{
    return g_strdup_printf("%" G_GINT64_FORMAT, prop->def.i);
}

#define NUMBER_TYPE(id, ctype, visit, type_name, as_json)                                              \
    static bool id##_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field, \
                         GError **error)                                                               \
    {                                                                                                  \
        ctype value = *(ctype *)field;                                                                 \
        return visit(v, name, &value, error);                                                          \
    }                                                                                                  \
    static bool id##_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field, \
                         GError **error)                                                               \
    {                                                                                                  \
        ctype value;                                                                                   \
        if (!visit(v, name, &value, error)) {                                                          \
            return false;                                                                              \
        }                                                                                              \
        *(ctype *)field = value;                                                                       \
        return true;                                                                                   \
    }                                                                                                  \
    static void id##_default(Object *obj, const Property *prop, void *field)                           \
    {                                                                                                  \
        *(ctype *)field = (ctype)prop->def.u;                                                          \
    }                                                                                                  \
    const PropertyType property_type_##id = { .name = (type_name),                                     \
                                              .get = id##_get,                                         \
                                              .set = id##_set,                                         \
                                              .set_default = id##_default,                             \
                                              .default_json = (as_json) }

NUMBER_TYPE(uint8, uint8_t, visit_uint8, "uint8", default_unsigned);
NUMBER_TYPE(uint16, uint16_t, visit_uint16, "uint16", default_unsigned);
NUMBER_TYPE(uint32, uint32_t, visit_uint32, "uint32", default_unsigned);
NUMBER_TYPE(uint64, uint64_t, visit_uint64, "uint64", default_unsigned);
NUMBER_TYPE(int32, int32_t, visit_int32, "int32", default_signed);
NUMBER_TYPE(int64, int64_t, visit_int64, "int64", default_signed);
NUMBER_TYPE(size, uint64_t, visit_size, "size", default_unsigned);

static char *default_bool(const Property *prop)
{
    return g_strdup(prop->def.u ? "true" : "false");
}
NUMBER_TYPE(bool, bool, visit_bool, "bool", default_bool);

#define BIT_TYPE(id, ctype)                                                                            \
    static bool id##_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field, \
                         GError **error)                                                               \
    {                                                                                                  \
        bool value = *(ctype *)field >> prop->bit & 1;                                                 \
        return visit_bool(v, name, &value, error);                                                     \
    }                                                                                                  \
    static void id##_put(void *field, uint8_t bit, bool value)                                         \
    {                                                                                                  \
        ctype mask = (ctype)1 << bit;                                                                  \
        *(ctype *)field = value ? *(ctype *)field | mask : *(ctype *)field & ~mask;                    \
    }                                                                                                  \
    static bool id##_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field, \
                         GError **error)                                                               \
    {                                                                                                  \
        bool value;                                                                                    \
        if (!visit_bool(v, name, &value, error)) {                                                     \
            return false;                                                                              \
        }                                                                                              \
        id##_put(field, prop->bit, value);                                                             \
        return true;                                                                                   \
    }                                                                                                  \
    static void id##_default(Object *obj, const Property *prop, void *field)                           \
    {                                                                                                  \
        id##_put(field, prop->bit, prop->def.u != 0);                                                  \
    }                                                                                                  \
    const PropertyType property_type_##id = { .name = "bool",                                          \
                                              .get = id##_get,                                         \
                                              .set = id##_set,                                         \
                                              .set_default = id##_default,                             \
                                              .default_json = default_bool }
BIT_TYPE(bit32, uint32_t);
BIT_TYPE(bit64, uint64_t);

/* ---- strings ---- */

static bool str_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                    GError **error)
{
    return visit_str(v, name, field, error);
}

static bool str_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                    GError **error)
{
    char *value;
    if (!visit_str(v, name, &value, error)) {
        return false;
    }
    g_free(*(char **)field);
    *(char **)field = value;
    return true;
}

static void str_default(Object *obj, const Property *prop, void *field)
{
    *(char **)field = g_strdup(prop->def.s);
}

static void str_release(Object *obj, const Property *prop, void *field)
{
    g_clear_pointer((char **)field, g_free);
}

static char *str_default_json(const Property *prop)
{
    json_object *s = json_object_new_string(prop->def.s ? prop->def.s : "");
    char *text =
        g_strdup(json_object_to_json_string_ext(s, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(s);
    return text;
}

const PropertyType property_type_str = { .name = "str",
                                         .get = str_get,
                                         .set = str_set,
                                         .set_default = str_default,
                                         .release = str_release,
                                         .default_json = str_default_json };

/* ---- enumerations ---- */

static bool enum_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                     GError **error)
{
    return visit_enum(v, name, field, prop->lookup, error);
}

static bool enum_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                     GError **error)
{
    return visit_enum(v, name, field, prop->lookup, error);
}

static void enum_default(Object *obj, const Property *prop, void *field)
{
    *(int *)field = (int)prop->def.i;
}

static char *enum_default_json(const Property *prop)
{
    return g_strdup_printf("\"%s\"", enum_name(prop->lookup, (int)prop->def.i));
}

const PropertyType property_type_enum = { .name = "enum",
                                          .get = enum_get,
                                          .set = enum_set,
                                          .set_default = enum_default,
                                          .default_json = enum_default_json };

/* ---- links ---- */

static bool plink_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                      GError **error)
{
    Object *target = *(Object **)field;
    g_autofree char *path = target ? object_get_canonical_path(target) : g_strdup("");
    return visit_str(v, name, &path, error);
}

static bool plink_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                      GError **error)
{
    g_autofree char *path = NULL;
    Object *target;
    if (!visit_str(v, name, &path, error) ||
        !object_link_resolve(obj, path, prop->link_type, &target, error)) {
        return false;
    }
    Object *old = *(Object **)field;
    *(Object **)field = object_ref(target);
    object_unref(old);
    return true;
}

static void plink_release(Object *obj, const Property *prop, void *field)
{
    object_unref(*(Object **)field);
    *(Object **)field = NULL;
}

const PropertyType property_type_link = {
    .name = "link", .get = plink_get, .set = plink_set, .release = plink_release
};

bool object_property_table_set_link(Object *obj, const ObjectProperty *p, Object *value, bool *known,
                                    GError **error)
{
    const Property *prop = table_entry(p);
    *known = prop && prop->type == &property_type_link;
    if (!*known) {
        return false;
    }
    if (!entry_may_set(obj, prop, p->name, error)) {
        return false;
    }
    if (value && !object_dynamic_cast(value, prop->link_type)) {
        return error_set(error, "Invalid parameter type for '%s', expected: %s", p->name, prop->link_type);
    }
    Object **field = field_of(obj, prop);
    Object *old = *field;
    *field = object_ref(value);
    object_unref(old);
    return true;
}

Object *object_property_table_link(const Object *obj, const ObjectProperty *p)
{
    const Property *prop = table_entry(p);
    return prop && prop->type == &property_type_link ? *(Object **)field_of(obj, prop) : NULL;
}

/* ---- UUIDs: 16 bytes in the order of their text ---- */

static bool uuid_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                     GError **error)
{
    const uint8_t *u = field;
    g_autofree char *text = g_strdup_printf(
        "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3], u[4],
        u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
    return visit_str(v, name, &text, error);
}

bool property_parse_uuid(const char *text, uint8_t uuid[16])
{
    if (!g_uuid_string_is_valid(text)) {
        return false;
    }
    for (int i = 0; i < 16; i++) {
        text += *text == '-';
        uuid[i] = (uint8_t)(g_ascii_xdigit_value(text[0]) << 4 | g_ascii_xdigit_value(text[1]));
        text += 2;
    }
    return true;
}

static void uuid_random(uint8_t uuid[16])
{
    g_autofree char *text = g_uuid_string_random();
    bool ok = property_parse_uuid(text, uuid);
    g_assert(ok);
}

static bool uuid_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                     GError **error)
{
    g_autofree char *text = NULL;
    if (!visit_str(v, name, &text, error)) {
        return false;
    }
    if (strcmp(text, "auto") == 0) {
        uuid_random(field);
        return true;
    }
    uint8_t uuid[16];
    if (!property_parse_uuid(text, uuid)) {
        return error_set(error, "Property '%s.%s' doesn't take value '%s'", object_get_typename(obj), name,
                         text);
    }
    memcpy(field, uuid, sizeof(uuid));
    return true;
}

static void uuid_default(Object *obj, const Property *prop, void *field)
{
    if (prop->def.i) {
        uuid_random(field);
    }
}

const PropertyType property_type_uuid = {
    .name = "str", .get = uuid_get, .set = uuid_set, .set_default = uuid_default
};

/* ---- globals ---- */

bool object_apply_globals(Object *obj, GPtrArray *globals, GError **error)
{
    for (guint i = 0; globals && i < globals->len; i++) {
        GlobalProperty *g = g_ptr_array_index(globals, i);
        if (!object_dynamic_cast(obj, g->driver)) {
            continue;
        }
        g->used = true;
        if (g->optional && !object_property_find(obj, g->property)) {
            continue;
        }
        if (!object_property_parse(obj, g->property, g->value, error)) {
            error_prefix(error, "can't apply global %s.%s=%s: ", g->driver, g->property, g->value);
            return false;
        }
    }
    return true;
}
