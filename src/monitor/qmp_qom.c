/* QMP: objects, types, devices. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "loop/iothread.h"
#include "monitor/monitor_internal.h"

#include <string.h>

static Object *resolve(QmpContext *ctx, const char *path, GError **error)
{
    bool ambiguous = false;
    Object *obj = object_resolve_path(vm_root(ctx->vm), path, &ambiguous);
    if (!obj && ambiguous) {
        error_set(error, "Path '%s' is ambiguous", path);
    } else if (!obj) {
        error_set_class(error, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%s' not found", path);
    }
    return obj;
}

static QapiObjectPropertyInfo *property_info(const ObjectProperty *p, bool with_default)
{
    QapiObjectPropertyInfo *info = g_new0(QapiObjectPropertyInfo, 1);
    info->name = g_strdup(p->name);
    info->type = g_strdup(p->type);
    if (with_default) {
        info->description = g_strdup(p->description);
        info->default_value = p->default_value ? json_tokener_parse(p->default_value) : NULL;
    }
    return info;
}

bool qmp_qom_list(QmpContext *ctx, const char *path, GPtrArray **ret, GError **error)
{
    Object *obj = resolve(ctx, path, error);
    if (!obj) {
        return false;
    }
    *ret = qapi_list_ObjectPropertyInfo_new();
    /* Every object has its type's name; it comes first, as clients know it. */
    QapiObjectPropertyInfo *type = g_new0(QapiObjectPropertyInfo, 1);
    type->name = g_strdup("type");
    type->type = g_strdup("string");
    g_ptr_array_add(*ret, type);
    g_autoptr(GPtrArray) list = object_property_list(obj);
    for (guint i = 0; i < list->len; i++) {
        g_ptr_array_add(*ret, property_info(g_ptr_array_index(list, i), false));
    }
    return true;
}

bool qmp_qom_get(QmpContext *ctx, const char *path, const char *property, json_object **ret, GError **error)
{
    Object *obj = resolve(ctx, path, error);
    if (!obj) {
        return false;
    }
    if (strcmp(property, "type") == 0 && !object_property_find(obj, property)) {
        *ret = json_object_new_string(object_get_typename(obj));
        return true;
    }
    g_autoptr(Visitor) v = visitor_new_output();
    if (!object_property_get(obj, property, v, error)) {
        return false;
    }
    *ret = visitor_output_take(v);
    return true;
}

bool qmp_qom_set(QmpContext *ctx, const char *path, const char *property, json_object *value, GError **error)
{
    Object *obj = resolve(ctx, path, error);
    if (!obj) {
        return false;
    }
    g_autoptr(Visitor) v = visitor_new_input(value, false);
    return object_property_set(obj, property, v, error);
}

bool qmp_qom_list_types(QmpContext *ctx, const char *implements, bool has_abstract, bool abstract,
                        GPtrArray **ret, GError **error)
{
    g_autoptr(GPtrArray) classes = object_class_list(implements, has_abstract && abstract);
    *ret = qapi_list_ObjectTypeInfo_new();
    for (guint i = 0; i < classes->len; i++) {
        ObjectClass *klass = g_ptr_array_index(classes, i);
        ObjectClass *parent = object_class_get_parent(klass);
        QapiObjectTypeInfo *info = g_new0(QapiObjectTypeInfo, 1);
        info->name = g_strdup(object_class_get_name(klass));
        info->has_abstract = info->abstract = object_class_is_abstract(klass);
        info->parent = parent ? g_strdup(object_class_get_name(parent)) : NULL;
        g_ptr_array_add(*ret, info);
    }
    return true;
}

/* The class's properties, and those that an instance makes for itself. */
static GPtrArray *type_properties(ObjectClass *klass)
{
    GPtrArray *result = qapi_list_ObjectPropertyInfo_new();
    g_autoptr(Object) obj = NULL;
    g_autoptr(GPtrArray) list = NULL;
    if (!object_class_is_abstract(klass) && !object_class_cast(klass, TYPE_INTERFACE)) {
        obj = object_new(object_class_get_name(klass), NULL);
    }
    list = obj ? object_property_list(obj) : object_class_property_list(klass);
    for (guint i = 0; i < list->len; i++) {
        g_ptr_array_add(result, property_info(g_ptr_array_index(list, i), true));
    }
    return result;
}

bool qmp_qom_list_properties(QmpContext *ctx, const char *type_name, GPtrArray **ret, GError **error)
{
    ObjectClass *klass = object_class_by_name(type_name);
    if (!klass) {
        return error_set_class(error, ERROR_CLASS_DEVICE_NOT_FOUND, "Class '%s' not found", type_name);
    }
    *ret = type_properties(klass);
    return true;
}

bool qmp_device_list_properties(QmpContext *ctx, const char *type_name, GPtrArray **ret, GError **error)
{
    ObjectClass *klass = object_class_by_name(type_name);
    if (!klass) {
        return error_set_class(error, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%s' not found", type_name);
    }
    if (!object_class_cast(klass, TYPE_DEVICE) || object_class_is_abstract(klass)) {
        return error_set(error, "Parameter 'typename' expects a non-abstract device type");
    }
    g_autoptr(GPtrArray) all = type_properties(klass);
    *ret = qapi_list_ObjectPropertyInfo_new();
    for (guint i = 0; i < all->len; i++) {
        QapiObjectPropertyInfo *info = g_ptr_array_index(all, i);
        if (g_str_has_prefix(info->type, "child<") || strcmp(info->name, "realized") == 0 ||
            strcmp(info->name, "hotplugged") == 0 || strcmp(info->name, "hotpluggable") == 0 ||
            strcmp(info->name, "parent_bus") == 0) {
            continue;
        }
        g_ptr_array_add(*ret, info);
        all->pdata[i] = NULL; /* moved; the free function takes NULL */
    }
    return true;
}

bool qmp_device_add(QmpContext *ctx, QapiDeviceOptions *args, GError **error)
{
    return device_create(vm_root(ctx->vm), NULL, args, true, vm_globals(ctx->vm), error) != NULL;
}

bool qmp_device_del(QmpContext *ctx, const char *id, GError **error)
{
    return device_delete(vm_root(ctx->vm), id, error);
}

bool qmp_object_add(QmpContext *ctx, QapiObjectOptions *args, GError **error)
{
    return user_creatable_add_options(vm_root(ctx->vm), args, error) != NULL;
}

bool qmp_object_del(QmpContext *ctx, const char *id, GError **error)
{
    return user_creatable_del(vm_root(ctx->vm), id, error);
}

bool qmp_query_iothreads(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = iothread_query(vm_root(ctx->vm));
    return true;
}
