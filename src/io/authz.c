/*
 * Who may come in, by the name that a connection's TLS proved: one name (authz-simple), rules (authz-list),
 * or rules in a file (authz-list-file). SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "io/tls.h"

#include "base/error.h"
#include "object/property.h"
#include "qapi/visitor.h"

#include <fnmatch.h>
#include <string.h>

#define FILE_BYTES_MAX (1u << 20)
#define TYPE_AUTHZ     "authz"

typedef struct Authz {
    Object parent_obj;
    char *identity; /* simple */
    int policy;     /* list: where no rule fits */
    GPtrArray *rules;
    char *filename; /* list-file */
    bool refresh;
    enum { SIMPLE, LIST, LIST_FILE } kind;
} Authz;

static bool rules_allow(int policy, const GPtrArray *rules, const char *name)
{
    for (guint i = 0; rules && i < rules->len; i++) {
        const QapiQAuthZListRule *r = g_ptr_array_index(rules, i);
        bool glob = r->has_format && r->format == QAPI_QAUTH_ZLIST_FORMAT_GLOB;

        if (glob ? fnmatch(r->match, name, 0) == 0 : strcmp(r->match, name) == 0) {
            policy = (int)r->policy;
            break;
        }
    }
    return policy == QAPI_QAUTH_ZLIST_POLICY_ALLOW;
}

static bool read_rules(Authz *a, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) why = NULL;
    g_autoptr(QapiAuthZListProperties) list = NULL;
    g_autoptr(Visitor) v = NULL;
    json_object *o;
    gsize size;
    bool ok;

    if (!g_file_get_contents(a->filename, &text, &size, &why) || size > FILE_BYTES_MAX) {
        return error_set(error, "Unable to read '%s': %s", a->filename,
                         why ? why->message : "it is too large");
    }
    o = json_tokener_parse(text);
    if (!o || !json_object_is_type(o, json_type_object)) {
        json_object_put(o);
        return error_set(error, "File '%s' must contain a JSON object", a->filename);
    }
    v = visitor_new_input(o, false);
    ok = qapi_visit_AuthZListProperties(v, NULL, &list, error);
    if (ok) {
        g_clear_pointer(&a->rules, g_ptr_array_unref);
        a->policy = list->has_policy ? (int)list->policy : QAPI_QAUTH_ZLIST_POLICY_DENY;
        a->rules = g_steal_pointer(&list->rules);
    } else {
        error_prefix(error, "%s: ", a->filename);
    }
    json_object_put(o);
    return ok;
}

static Authz *find(Object *root, const char *id, GError **error)
{
    Object *obj = root ? object_resolve_path_component(container_get(root, "/objects"), id) : NULL;
    Authz *a = object_dynamic_cast(obj, TYPE_AUTHZ);

    if (!a) {
        error_set(error, obj ? "Object '%s' is not an authorization" : "Cannot find QAuthZ object ID %s", id);
    }
    return a;
}

bool authz_find(Object *root, const char *id, GError **error)
{
    return find(root, id, error) != NULL;
}

bool authz_allows(Object *root, const char *id, const char *name, GError **error)
{
    Authz *a = find(root, id, error);
    bool allowed;

    if (!a) {
        return false;
    }
    if (!name) {
        return error_set(error, "TLS did not tell who the peer is, which '%s' must know", id);
    }
    if (a->kind == LIST_FILE && a->refresh && !read_rules(a, error)) {
        return false;
    }
    allowed = a->kind == SIMPLE ? strcmp(a->identity, name) == 0 : rules_allow(a->policy, a->rules, name);
    return allowed || error_set(error, "TLS x509 authz check for %s is denied", name);
}

/* ---- properties ---- */

static const Property simple_properties[] = {
    PROP_STR("identity", Authz, identity, NULL, "who may come in"),
    PROP_END,
};
static const Property file_properties[] = {
    PROP_STR("filename", Authz, filename, NULL, "a JSON object with policy and rules"),
    PROP_BOOL("refresh", Authz, refresh, true, "read again each time"),
    PROP_END,
};

static bool rules_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                      GError **error)
{
    GPtrArray *none = NULL, **rules = field;

    return qapi_visit_list_QAuthZListRule(v, name, *rules ? rules : &none, error);
}

static bool rules_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                      GError **error)
{
    GPtrArray *rules = NULL, **old = field;

    if (!qapi_visit_list_QAuthZListRule(v, name, &rules, error)) {
        return false;
    }
    g_clear_pointer(old, g_ptr_array_unref);
    *old = rules;
    return true;
}

static void rules_release(Object *obj, const Property *prop, void *field)
{
    g_clear_pointer((GPtrArray **)field, g_ptr_array_unref);
}

static const PropertyType property_type_rules = {
    .name = "QAuthZListRule", .get = rules_get, .set = rules_set, .release = rules_release
};
static const Property list_properties[] = {
    PROP_ENUM("policy", Authz, policy, qapi_QAuthZListPolicy_lookup, QAPI_QAUTH_ZLIST_POLICY_DENY,
              "for those whom no rule fits"),
    PROP_TYPED("rules", Authz, rules, property_type_rules, "looked at in their order"),
    PROP_END,
};

static bool simple_complete(Object *obj, GError **error)
{
    Authz *a = (Authz *)obj;

    a->kind = SIMPLE;
    return a->identity || error_set(error, "Parameter 'identity' is missing");
}

static bool list_complete(Object *obj, GError **error)
{
    ((Authz *)obj)->kind = LIST;
    return true;
}

static bool file_complete(Object *obj, GError **error)
{
    Authz *a = (Authz *)obj;

    a->kind = LIST_FILE;
    return a->filename ? read_rules(a, error) : error_set(error, "filename not provided");
}

static void authz_finalize(Object *obj)
{
    g_clear_pointer(&((Authz *)obj)->rules, g_ptr_array_unref);
}

static const UserCreatableOps simple_ops = { .complete = simple_complete },
                              list_ops = { .complete = list_complete },
                              file_ops = { .complete = file_complete };

static void simple_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, simple_properties);
    user_creatable_class_set(klass, &simple_ops);
}

static void list_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, list_properties);
    user_creatable_class_set(klass, &list_ops);
}

static void file_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, file_properties);
    user_creatable_class_set(klass, &file_ops);
}

static const TypeInfo authz_info = {
    .name = TYPE_AUTHZ,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(Authz),
    .instance_finalize = authz_finalize,
    .abstract = true,
};
TYPE_REGISTER(authz_info);

static const TypeInfo simple_info = {
    .name = "authz-simple",
    .parent = TYPE_AUTHZ,
    .description = "lets one name in",
    .instance_size = sizeof(Authz),
    .class_init = simple_class_init,
    .interfaces = (const char *const[]){ TYPE_USER_CREATABLE, NULL },
};
TYPE_REGISTER(simple_info);

static const TypeInfo list_info = {
    .name = "authz-list",
    .parent = TYPE_AUTHZ,
    .description = "lets names in by rules",
    .instance_size = sizeof(Authz),
    .class_init = list_class_init,
    .interfaces = (const char *const[]){ TYPE_USER_CREATABLE, NULL },
};
TYPE_REGISTER(list_info);

static const TypeInfo file_info = {
    .name = "authz-list-file",
    .parent = TYPE_AUTHZ,
    .description = "lets names in by rules in a file",
    .instance_size = sizeof(Authz),
    .class_init = file_class_init,
    .interfaces = (const char *const[]){ TYPE_USER_CREATABLE, NULL },
};
TYPE_REGISTER(file_info);
