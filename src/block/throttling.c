/* Limits of drives: see throttling.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/throttling.h"
#include "block/block_internal.h"

#include "base/error.h"
#include "io/options.h"
#include "object/object.h"
#include "qapi/visitor.h"

#include <string.h>

#define PREFIX "throttling."

/* { older name, name in ThrottleLimits } without the suffixes -max and -max-length. */
static const struct {
    const char *old, *name;
} limits_of[] = {
    { "iops", "iops-total" }, { "iops_rd", "iops-read" }, { "iops_wr", "iops-write" },
    { "bps", "bps-total" },   { "bps_rd", "bps-read" },   { "bps_wr", "bps-write" },
};
static const struct {
    const char *old, *name;
} suffixes[] = { { "", "" }, { "_max", "-max" }, { "_max_length", "-max-length" } };

/* What ThrottleLimits calls it; NULL: it is none. Caller frees. */
static char *limit_name(const char *key)
{
    if (g_str_has_prefix(key, PREFIX)) {
        key += strlen(PREFIX);
        return strcmp(key, "group") == 0 ? NULL : g_strdup(key);
    }
    if (strcmp(key, "iops_size") == 0) {
        return g_strdup("iops-size");
    }
    for (size_t i = 0; i < G_N_ELEMENTS(limits_of); i++) {
        for (size_t k = 0; k < G_N_ELEMENTS(suffixes); k++) {
            g_autofree char *old = g_strconcat(limits_of[i].old, suffixes[k].old, NULL);

            if (strcmp(old, key) == 0) {
                return g_strconcat(limits_of[i].name, suffixes[k].name, NULL);
            }
        }
    }
    return NULL;
}

bool block_throttle_is_option(const char *key)
{
    g_autofree char *name = limit_name(key);

    return name || strcmp(key, PREFIX "group") == 0 || strcmp(key, "group") == 0;
}

json_object *block_throttle_options(json_object *options, const char **group)
{
    json_object *limits = json_object_new_object();

    *group = options_str(options, PREFIX "group");
    if (!*group) {
        *group = options_str(options, "group");
    }
    json_object_object_foreach(options, key, value)
    {
        g_autofree char *name = limit_name(key);

        if (name) {
            json_object_object_add(limits, name, json_object_get(value));
        }
    }
    if (!json_object_object_length(limits) && !*group) {
        json_object_put(limits);
        return NULL;
    }
    return limits;
}

/* Sets an existing group's limits, or makes it. */
static bool set_group(Object *root, const char *id, json_object *limits, GError **error)
{
    Object *group = object_resolve_path_component(container_get(root, "/objects"), id);
    json_object *o = json_object_new_object();
    bool ok = true;

    json_object_object_add(o, "limits", json_object_get(limits));
    if (group && !object_dynamic_cast(group, "throttle-group")) {
        ok = error_set(error, "Object '%s' is not a throttle group", id);
    } else if (group && json_object_object_length(limits)) {
        g_autoptr(Visitor) v = visitor_new_input(o, true);

        ok = visit_start_struct(v, NULL, error) && object_property_set(group, "limits", v, error);
    } else if (!group) {
        g_autoptr(QapiObjectOptions) options = NULL;
        g_autoptr(Visitor) v = NULL;

        json_object_object_add(o, "qom-type", json_object_new_string("throttle-group"));
        json_object_object_add(o, "id", json_object_new_string(id));
        v = visitor_new_input(o, true);
        ok = qapi_visit_ObjectOptions(v, NULL, &options, error) &&
             user_creatable_add_options(root, options, error);
    }
    json_object_put(o);
    return ok;
}

BlockNode *block_throttle_over(BlockGraph *graph, BlockNode *node, json_object *limits, const char *group,
                               const char *what, GError **error)
{
    Object *root = block_graph_objects(graph);
    g_autofree char *own = g_strconcat("throttle-", what, NULL);
    json_object *o;
    BlockNode *top = NULL;

    if (!root) {
        error_set(error, "limits need objects, of which there are none here");
        return NULL;
    }
    if (!set_group(root, group ? group : own, limits, error)) {
        return NULL;
    }
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("throttle"));
    json_object_object_add(o, "throttle-group", json_object_new_string(group ? group : own));
    json_object_object_add(o, "file", json_object_new_string(node->name));
    json_object_object_add(o, "read-only", json_object_new_string(node->read_only ? "on" : "off"));
    json_object_object_add(o, "discard", json_object_new_string("unmap")); /* the node below decides */
    top = block_node_open_image(graph, NULL, o, 0, error);
    json_object_put(o);
    return top;
}

/* ---- block_set_io_throttle ---- */

static void put_limit(json_object *limits, const char *name, bool given, int64_t value, int64_t otherwise)
{
    json_object_object_add(limits, name, json_object_new_int64(given ? value : otherwise));
}

static json_object *limits_from(const QapiBlockIOThrottle *a)
{
    json_object *l = json_object_new_object();

    put_limit(l, "bps-total", true, a->bps, 0);
    put_limit(l, "bps-read", true, a->bps_rd, 0);
    put_limit(l, "bps-write", true, a->bps_wr, 0);
    put_limit(l, "iops-total", true, a->iops, 0);
    put_limit(l, "iops-read", true, a->iops_rd, 0);
    put_limit(l, "iops-write", true, a->iops_wr, 0);
    put_limit(l, "bps-total-max", a->has_bps_max, a->bps_max, 0);
    put_limit(l, "bps-read-max", a->has_bps_rd_max, a->bps_rd_max, 0);
    put_limit(l, "bps-write-max", a->has_bps_wr_max, a->bps_wr_max, 0);
    put_limit(l, "iops-total-max", a->has_iops_max, a->iops_max, 0);
    put_limit(l, "iops-read-max", a->has_iops_rd_max, a->iops_rd_max, 0);
    put_limit(l, "iops-write-max", a->has_iops_wr_max, a->iops_wr_max, 0);
    put_limit(l, "bps-total-max-length", a->has_bps_max_length, a->bps_max_length, 1);
    put_limit(l, "bps-read-max-length", a->has_bps_rd_max_length, a->bps_rd_max_length, 1);
    put_limit(l, "bps-write-max-length", a->has_bps_wr_max_length, a->bps_wr_max_length, 1);
    put_limit(l, "iops-total-max-length", a->has_iops_max_length, a->iops_max_length, 1);
    put_limit(l, "iops-read-max-length", a->has_iops_rd_max_length, a->iops_rd_max_length, 1);
    put_limit(l, "iops-write-max-length", a->has_iops_wr_max_length, a->iops_wr_max_length, 1);
    put_limit(l, "iops-size", a->has_iops_size, a->iops_size, 0);
    return l;
}

bool block_set_throttle(BlockRegistry *reg, const QapiBlockIOThrottle *a, GError **error)
{
    const char *id = a->id ? a->id : a->device;
    BlockChild *root = id ? block_backend_root(reg, id, error) : NULL;
    BlockGraph *graph = block_registry_graph(reg);
    BlockNode *below, *top;
    json_object *limits;
    bool ok;

    if (!id) {
        return error_set(error, "Need exactly one of 'device' and 'id'");
    }
    if (!root) {
        return false;
    }
    limits = limits_from(a);
    below = root->node;
    if (below->implicit && strcmp(below->driver->name, "throttle") == 0) {
        below = below->file->node; /* limits that were set before make room */
    }
    top = block_throttle_over(graph, below, limits, a->group, id, error);
    ok = top != NULL;
    if (ok) {
        block_node_ref(top);
        ok = block_child_replace(root, top, error);
        block_node_unref(top);
    }
    json_object_put(limits);
    return ok;
}
