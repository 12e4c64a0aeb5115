/*
 * The object model: types, classes, instances, interfaces, properties, and the composition tree.
 *
 * The design is that of QEMU's object model as its documentation describes it, since libvirt and users see
 * its names and paths: types are registered as data and initialised lazily, parents first; an object has
 * exactly one parent in the composition tree (a child<> property of it owns it) and a canonical path; link<>
 * properties point across. Everything here is control plane: call it from the main loop's thread only, except
 * object_ref/unref and casts.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_OBJECT_OBJECT_H
#define RHEA_OBJECT_OBJECT_H

#include "base/section.h"
#include "qapi/qapi_types.h"

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Object Object;
typedef struct ObjectClass ObjectClass;
typedef struct ObjectProperty ObjectProperty;
typedef struct TypeInfo TypeInfo;

/* A type, as data. Every pointer is borrowed and must stay for the life of the process. */
struct TypeInfo {
    const char *name;
    const char *parent; /* NULL only for "object" and "interface" */
    const char *description;
    size_t instance_size;  /* 0: the parent's */
    size_t instance_align; /* 0: the parent's; a power of two */
    /* Memory for an instance of `size` bytes (a multiple of instance_align), aligned to that and zero; NULL:
     * there is none. Not set: the parent's, or the C library's. */
    void *(*instance_alloc)(size_t size);
    void (*instance_free)(void *memory, size_t size); /* goes with instance_alloc */
    size_t class_size;                                /* 0: the parent's */
    bool abstract;
    /* Runs once, when the class is first needed, with a copy of the parent's class in *klass. */
    void (*class_init)(ObjectClass *klass, const void *class_data);
    /* Runs for this class and every class below it, before class_init of those: undoes what must not be
     * inherited. */
    void (*class_base_init)(ObjectClass *klass, const void *class_data);
    const void *class_data;
    void (*instance_init)(Object *obj);      /* parents first; cannot fail */
    void (*instance_post_init)(Object *obj); /* after every instance_init; parents first */
    void (*instance_finalize)(Object *obj);  /* children first */
    const char *const *interfaces;           /* NULL-terminated names, or NULL */
};

/* Registers one static const TypeInfo as data: TYPE_REGISTER(serial_info); */
#define TYPE_REGISTER(info) SECTION_ENTRY(rhea_types, const TypeInfo, info)
/* Registers a type made at run time (one per CPU model or machine version); the info is borrowed for ever. */
void type_register(const TypeInfo *info);

struct ObjectClass {
    const TypeInfo *type;
    ObjectClass *parent;
    const char *const *interfaces; /* all of them, inherited ones too; NULL-terminated */
    GHashTable *properties;        /* class properties of this very class by name; may be NULL */
    GPtrArray *property_order;     /* the same in the order of their addition; may be NULL */
    /* Asked before a table property (property.h) of an instance changes, unless the entry has a may_set of
     * its own; inherited; NULL: it may. */
    bool (*may_set)(Object *obj, const char *name, GError **error);
};

struct Object {
    ObjectClass *klass;
    int ref;                    /* atomic */
    Object *parent;             /* in the composition tree; borrowed */
    const char *name_in_parent; /* borrowed from the parent's child<> property */
    GHashTable *properties;     /* instance properties by name (with children and links); may be NULL */
    GPtrArray *property_order;
};

#define TYPE_OBJECT         "object"
#define TYPE_INTERFACE      "interface"
#define TYPE_CONTAINER      "container"      /* a node of the tree that only holds children */
#define TYPE_USER_CREATABLE "user-creatable" /* interface: -object and object-add may make it */

/* The user-creatable interface's class part: found with object_class_interface(klass, TYPE_USER_CREATABLE).
 * Types that have it set these in their class_init through user_creatable_class_set(). complete runs when all
 * properties are set; can_be_deleted says whether object-del may take it (NULL: it may). */
typedef struct UserCreatableOps {
    bool (*complete)(Object *obj, GError **error);
    bool (*can_be_deleted)(Object *obj);
} UserCreatableOps;
void user_creatable_class_set(ObjectClass *klass, const UserCreatableOps *ops);
const UserCreatableOps *user_creatable_class_get(ObjectClass *klass);
/* Makes /objects/ID from a type name and a dict of properties (a Visitor over it), as -object does. The
 * composition tree's root is passed in. Borrowed result. */
Object *user_creatable_add(Object *root, const char *type_name, const char *id, Visitor *properties,
                           GError **error);
/* The same from the schema's description (object-add's arguments), and from -object's text or JSON. */
Object *user_creatable_add_options(Object *root, const QapiObjectOptions *options, GError **error);
Object *user_creatable_add_text(Object *root, const char *text, GError **error);
bool user_creatable_del(Object *root, const char *id, GError **error);
/* Whether text may be the id of a device, object, back end or block node: a letter, then letters, digits, - .
 * _ */
bool object_id_wellformed(const char *id);

/* ---- classes ---- */
/* The class of a name, initialised; NULL where no such type is registered. Borrowed. */
ObjectClass *object_class_by_name(const char *type_name);
ObjectClass *object_class_get_parent(ObjectClass *klass);
const char *object_class_get_name(ObjectClass *klass);
bool object_class_is_abstract(ObjectClass *klass);
/* klass itself if it is type_name or below it or has the interface; else NULL. */
ObjectClass *object_class_cast(ObjectClass *klass, const char *type_name);
/* Every class that is type_name or below it (or has the interface), sorted by name. Free with
 * g_ptr_array_unref. */
GPtrArray *object_class_list(const char *implements, bool include_abstract);

/* ---- instances ---- */
/* A new object with one reference, or NULL: no such type (with a hint), or an abstract one. */
Object *object_new(const char *type_name, GError **error);
/* The same for a type that the program itself knows; aborts if it does not exist. */
Object *object_new_known(const char *type_name);
Object *object_ref(Object *obj);
/* Drops a reference; the last one finalizes. NULL is ignored. */
void object_unref(Object *obj);
const char *object_get_typename(const Object *obj);
/* obj if it is of that type (or has the interface), else NULL. Thread-safe. */
void *object_dynamic_cast(const Object *obj, const char *type_name);
/* Checked casts: abort with both names where the cast is wrong. */
void *object_check(const void *obj, const char *type_name, const char *file, int line);
#define OBJECT(obj)                   ((Object *)(obj))
#define OBJECT_CHECK(type, obj, name) ((type *)object_check((obj), (name), __FILE__, __LINE__))
#define OBJECT_GET_CLASS(type, obj)   ((type *)OBJECT(obj)->klass)
#define OBJECT_CLASS(klass)           ((ObjectClass *)(klass))

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Object, object_unref)

/* ---- properties ---- */
typedef bool PropertyAccessor(Object *obj, Visitor *v, const char *name, void *opaque, GError **error);

struct ObjectProperty {
    char *name;
    char *type; /* "bool", "uint32", "string", "child<serial>", "link<iothread>", an enum's name, ... */
    char *description;
    PropertyAccessor *get; /* NULL: cannot be read */
    PropertyAccessor *set; /* NULL: cannot be written */
    void (*release)(Object *obj, const char *name, void *opaque);
    void *opaque;
    char *default_value; /* as JSON text; NULL: none */
    Object *child;       /* of a child<> property */
    Object **link;       /* of a link<> property */
};

/* Adds an instance property; names are unique along class and instance (a duplicate is a programming error).
 * A name that ends in "[*]" gets the first free number. Borrowed result. */
ObjectProperty *object_property_add(Object *obj, const char *name, const char *type, PropertyAccessor *get,
                                    PropertyAccessor *set, void (*release)(Object *, const char *, void *),
                                    void *opaque);
ObjectProperty *object_class_property_add(ObjectClass *klass, const char *name, const char *type,
                                          PropertyAccessor *get, PropertyAccessor *set, void *opaque);
void object_property_set_description(ObjectProperty *property, const char *description);
void object_property_set_default_json(ObjectProperty *property, const char *json);

/* Makes child the child "name" of obj, which takes a reference of its own (the caller still owns its one). */
bool object_property_add_child(Object *obj, const char *name, Object *child, GError **error);
/* A link of a given type at *target (the object holds a counted reference while set). check may refuse a
 * value. */
ObjectProperty *
object_property_add_link(Object *obj, const char *name, const char *target_type, Object **target,
                         bool (*check)(Object *obj, const char *name, Object *value, GError **error));
/* Shorthands for simple ones. The pointed-to fields live in the object. */
ObjectProperty *object_property_add_bool(Object *obj, const char *name, bool (*get)(Object *, GError **),
                                         bool (*set)(Object *, bool, GError **));
ObjectProperty *object_property_add_str(Object *obj, const char *name, char *(*get)(Object *, GError **),
                                        bool (*set)(Object *, const char *, GError **));

ObjectProperty *object_property_find(const Object *obj, const char *name);
ObjectProperty *object_class_property_find(ObjectClass *klass, const char *name);
/* All of them, class ones first, in the order of their addition. Free the array only. */
GPtrArray *object_property_list(const Object *obj);
GPtrArray *object_class_property_list(ObjectClass *klass);
/* Takes a property away; a child is unparented by it. */
void object_property_del(Object *obj, const char *name);

/* Read or write through a visitor. An unknown name is an error that names the nearest one. */
bool object_property_get(Object *obj, const char *name, Visitor *v, GError **error);
bool object_property_set(Object *obj, const char *name, Visitor *v, GError **error);
/* Sets from a command line's text ("on", "512M", "0x3"): the property's type decides how it is read. */
bool object_property_parse(Object *obj, const char *name, const char *text, GError **error);
/* The value as text for a person. Caller frees; NULL on error. */
char *object_property_print(Object *obj, const char *name, GError **error);
bool object_property_set_bool(Object *obj, const char *name, bool value, GError **error);
bool object_property_set_int(Object *obj, const char *name, int64_t value, GError **error);
bool object_property_set_uint(Object *obj, const char *name, uint64_t value, GError **error);
bool object_property_set_str(Object *obj, const char *name, const char *value, GError **error);
bool object_property_set_link(Object *obj, const char *name, Object *value, GError **error);
bool object_property_get_bool(Object *obj, const char *name, bool *value, GError **error);
bool object_property_get_int(Object *obj, const char *name, int64_t *value, GError **error);
bool object_property_get_uint(Object *obj, const char *name, uint64_t *value, GError **error);
char *object_property_get_str(Object *obj, const char *name, GError **error); /* caller frees */

/* ---- the composition tree ---- */
/* A new root (a "container"); the Vm owns it. There is no global one. */
Object *object_root_new(void);
/* The container at a path below root ("/machine/peripheral"), made with its missing parents. Borrowed. */
Object *container_get(Object *root, const char *path);
/* "/machine/unattached/device[0]"; caller frees. "?" names an object outside the tree. */
char *object_get_canonical_path(const Object *obj);
/* Its last part, or NULL outside the tree. Borrowed. */
const char *object_get_name_in_parent(const Object *obj);
/* An absolute or partial path; *ambiguous (may be NULL) tells why a partial one gave NULL. Borrowed. */
Object *object_resolve_path(Object *root, const char *path, bool *ambiguous);
/* The same among objects of one type only (NULL: any). */
Object *object_resolve_path_of_type(Object *root, const char *path, const char *type_name, bool *ambiguous);
Object *object_resolve_path_component(Object *parent, const char *part);
/* What the text of a link names, looked up from the root of obj's tree (so obj must be in the tree before its
 * links are set): a path or an id; "" gives NULL. The target is borrowed. */
bool object_link_resolve(Object *obj, const char *path, const char *target_type, Object **target,
                         GError **error);
/* Removes obj from its parent; may drop the last reference. */
void object_unparent(Object *obj);
/* Calls fn for each child (recursive: for the whole subtree, parents first) until it returns false. */
bool object_child_foreach(Object *obj, bool recursive, bool (*fn)(Object *child, void *opaque), void *opaque);

#endif
