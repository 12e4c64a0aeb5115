/*
 * Property tables: the fields of an object that users may set, as data.
 *
 *     static const Property serial_properties[] = {
 *         PROP_UINT32("baudbase", SerialState, baudbase, 115200, "base clock over 16, in Hz"),
 *         PROP_END,
 *     };
 *     object_class_add_properties(klass, serial_properties);
 *
 * Fields of char * are owned by the object and freed with it. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_OBJECT_PROPERTY_H
#define RHEA_OBJECT_PROPERTY_H

#include "object/object.h"

typedef struct EnumLookup EnumLookup; /* qapi/visitor.h */
typedef struct Property Property;

typedef struct PropertyType {
    const char *name; /* "uint32", "str", ... as introspection shows it */
    bool (*get)(Object *obj, Visitor *v, const char *name, const Property *prop, void *field, GError **error);
    bool (*set)(Object *obj, Visitor *v, const char *name, const Property *prop, void *field, GError **error);
    void (*set_default)(Object *obj, const Property *prop, void *field);
    void (*release)(Object *obj, const Property *prop, void *field);
    char *(*default_json)(const Property *prop); /* caller frees; NULL: none */
} PropertyType;

struct Property {
    const char *name;
    const PropertyType *type;
    size_t offset;
    const char *description;
    bool has_default;
    union {
        int64_t i;
        uint64_t u;
        const char *s;
    } def;
    const EnumLookup *lookup; /* enums */
    const char *link_type;    /* links */
    uint8_t bit;              /* PROP_BIT: the bit number in a uint32_t or uint64_t field */
    /* NULL, or refuses a change in the object's present state ("after realize"); the object model calls it
     * first */
    bool (*may_set)(Object *obj, const char *name, GError **error);
};

extern const PropertyType property_type_bool, property_type_uint8, property_type_uint16, property_type_uint32,
    property_type_uint64, property_type_int32, property_type_int64, property_type_size, property_type_str,
    property_type_enum, property_type_link, property_type_bit32, property_type_bit64, property_type_uuid;

#define PROP_FULL(n, state, field, ctype, ptype, desc, ...)                                            \
    {                                                                                                  \
        .name = (n), .type = &(ptype), .description = (desc),                                          \
        .offset = offsetof(state, field) + 0 * sizeof(((state *)0)->field == *(ctype *)0), __VA_ARGS__ \
    }
#define PROP_NUMBER(n, state, f, ctype, ptype, d, desc) \
    PROP_FULL(n, state, f, ctype, ptype, desc, .has_default = true, .def.u = (uint64_t)(d))
#define PROP_BOOL(n, state, f, d, desc)   PROP_NUMBER(n, state, f, bool, property_type_bool, d, desc)
#define PROP_UINT8(n, state, f, d, desc)  PROP_NUMBER(n, state, f, uint8_t, property_type_uint8, d, desc)
#define PROP_UINT16(n, state, f, d, desc) PROP_NUMBER(n, state, f, uint16_t, property_type_uint16, d, desc)
#define PROP_UINT32(n, state, f, d, desc) PROP_NUMBER(n, state, f, uint32_t, property_type_uint32, d, desc)
#define PROP_UINT64(n, state, f, d, desc) PROP_NUMBER(n, state, f, uint64_t, property_type_uint64, d, desc)
#define PROP_INT32(n, state, f, d, desc)  PROP_NUMBER(n, state, f, int32_t, property_type_int32, d, desc)
#define PROP_INT64(n, state, f, d, desc)  PROP_NUMBER(n, state, f, int64_t, property_type_int64, d, desc)
#define PROP_SIZE(n, state, f, d, desc) \
    PROP_NUMBER(n, state, f, uint64_t, property_type_size, d, desc) /* "64M" */
#define PROP_BIT32(n, state, f, b, d, desc) \
    PROP_FULL(n, state, f, uint32_t, property_type_bit32, desc, .bit = (b), .has_default = true, .def.u = (d))
#define PROP_BIT64(n, state, f, b, d, desc) \
    PROP_FULL(n, state, f, uint64_t, property_type_bit64, desc, .bit = (b), .has_default = true, .def.u = (d))
/* A char * field; d is the default or NULL. */
#define PROP_STR(n, state, f, d, desc) \
    PROP_FULL(n, state, f, char *, property_type_str, desc, .has_default = (d) != NULL, .def.s = (d))
/* An int field whose names an EnumLookup gives. */
#define PROP_ENUM(n, state, f, look, d, desc)                                                     \
    PROP_FULL(n, state, f, int, property_type_enum, desc, .lookup = &(look), .has_default = true, \
              .def.i = (d))
/* An Object-derived pointer; set by the canonical path or id of an object of that type. */
#define PROP_LINK(n, state, f, target_type, desc)                                                           \
    {                                                                                                       \
        .name = (n), .type = &property_type_link, .offset = offsetof(state, f), .link_type = (target_type), \
        .description = (desc)                                                                               \
    }
/* A property of a type that another folder brings (chardev, netdev, drive, MAC address, PCI address). */
#define PROP_TYPED(n, state, f, ptype, desc)                                               \
    {                                                                                      \
        .name = (n), .type = &(ptype), .offset = offsetof(state, f), .description = (desc) \
    }
#define PROP_TYPED_DEFAULT(n, state, f, ptype, d, desc)                                     \
    {                                                                                       \
        .name = (n), .type = &(ptype), .offset = offsetof(state, f), .description = (desc), \
        .has_default = true, .def.i = (d)                                                   \
    }
#define PROP_END     \
    {                \
        .name = NULL \
    }

/* Adds a table to a class; defaults are set in every instance before its instance_init runs for subclasses.
 * The table is borrowed for ever. */
void object_class_add_properties(ObjectClass *klass, const Property *table);

/* Between object.c and property.c: the fields of one class's tables in a new instance and in one that goes.
 */
void object_property_tables_default(Object *obj, ObjectClass *klass);
void object_property_tables_release(Object *obj, ObjectClass *klass);
/* A PROP_LINK's target; *known tells whether p is one. */
bool object_property_table_set_link(Object *obj, const ObjectProperty *p, Object *value, bool *known,
                                    GError **error);
Object *object_property_table_link(const Object *obj, const ObjectProperty *p);

/* Parses the text form of a UUID into its 16 bytes in text order. */
bool property_parse_uuid(const char *text, uint8_t uuid[16]);

/* Overrides of defaults by version ("compat properties") and -global: applied to every new object of a type,
 * in order, after instance_init and before the user's own values. Owned by the Vm, consulted through the
 * object's creator: see object_apply_globals. */
typedef struct GlobalProperty {
    const char *driver; /* a type name; types below it match too */
    const char *property;
    const char *value;
    bool user;     /* from -global: warn if never used, and an unknown property is an error */
    bool optional; /* skip silently where the type lacks the property */
    bool used;
} GlobalProperty;
/* Applies those entries of a list (GPtrArray of GlobalProperty *) that match the object's type. */
bool object_apply_globals(Object *obj, GPtrArray *globals, GError **error);

#endif
