/*
 * Opening nodes anew with other options: of several nodes, all or none. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/graph/graph_internal.h"

#include "base/error.h"
#include "qapi/visitor.h"

#include <string.h>

typedef struct Entry {
    BlockReopen reopen;
    json_object *json; /* the new options */
    bool prepared;
    bool old_read_only, old_cache_direct, old_cache_no_flush, old_discard, old_force_share,
        old_auto_read_only;
    QapiBlockdevDetectZeroesOptions old_detect_zeroes;
    /* children that lead elsewhere now */
    GPtrArray *moved, *moved_from; /* of BlockChild *, BlockNode * */
    bool backing_set;
    BlockNode *old_backing;
} Entry;

static json_object *member(json_object *o, const char *name)
{
    json_object *value;

    return json_object_object_get_ex(o, name, &value) ? value : NULL;
}

static bool is_member(json_object *o, const char *name)
{
    return json_object_object_get_ex(o, name, NULL);
}

static BlockChild *child_by_name(BlockNode *node, const char *name)
{
    for (guint i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);

        if (strcmp(child->name, name) == 0) {
            return child;
        }
    }
    return NULL;
}

/* Lets the children lead to where the new options say by name. */
static bool change_children(Entry *e, GError **error)
{
    static const char *const names[] = { "file", "image", "data-file" };
    BlockNode *node = e->reopen.node;

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        json_object *value = member(e->json, names[i]);
        BlockChild *child = child_by_name(node, names[i]);
        BlockNode *to;

        if (!value || !child || !json_object_is_type(value, json_type_string)) {
            continue; /* described in place: it stays as it is */
        }
        to = block_node_find(node->graph, json_object_get_string(value));
        if (!to) {
            return error_set(error, "Cannot find device='' nor node-name='%s'",
                             json_object_get_string(value));
        }
        if (to != child->node) {
            block_node_ref(child->node);
            g_ptr_array_add(e->moved, child);
            g_ptr_array_add(e->moved_from, child->node);
            if (!block_child_replace(child, to, error)) {
                return false;
            }
        }
    }
    if (is_member(e->json, "backing")) {
        json_object *value = member(e->json, "backing");
        BlockNode *to = NULL;

        if (value && json_object_is_type(value, json_type_object)) {
            return true;
        }
        if (value && *json_object_get_string(value)) {
            to = block_node_find(node->graph, json_object_get_string(value));
            if (!to) {
                return error_set(error, "Cannot find device='' nor node-name='%s'",
                                 json_object_get_string(value));
            }
        }
        if (to != (node->backing ? node->backing->node : NULL)) {
            e->old_backing = node->backing ? node->backing->node : NULL;
            if (e->old_backing) {
                block_node_ref(e->old_backing);
            }
            e->backing_set = true;
            return block_backing_set(node, to, error);
        }
    }
    return true;
}

static void restore(Entry *e)
{
    BlockNode *node = e->reopen.node;

    for (guint i = e->moved->len; i-- > 0;) {
        block_child_replace(g_ptr_array_index(e->moved, i), g_ptr_array_index(e->moved_from, i), NULL);
    }
    if (e->backing_set) {
        block_backing_set(node, e->old_backing, NULL);
    }
    node->read_only = e->old_read_only;
    node->cache_direct = e->old_cache_direct;
    node->cache_no_flush = e->old_cache_no_flush;
    node->discard = e->old_discard;
    node->force_share = e->old_force_share;
    node->auto_read_only = e->old_auto_read_only;
    node->detect_zeroes = e->old_detect_zeroes;
}

static bool prepare(Entry *e, GError **error)
{
    BlockNode *node = e->reopen.node;
    const QapiBlockdevOptions *o = e->reopen.options;
    g_autoptr(Visitor) out = visitor_new_output();
    QapiBlockdevOptions *visited = e->reopen.options;

    if (strcmp(enum_name(&qapi_BlockdevDriver_lookup, o->driver), node->driver->name) != 0) {
        return error_set(error, "Cannot change the option 'driver'");
    }
    if (!qapi_visit_BlockdevOptions(out, NULL, &visited, error)) {
        return false;
    }
    e->json = visitor_output_take(out);
    e->old_read_only = node->read_only;
    e->old_cache_direct = node->cache_direct;
    e->old_cache_no_flush = node->cache_no_flush;
    e->old_discard = node->discard;
    e->old_force_share = node->force_share;
    e->old_auto_read_only = node->auto_read_only;
    e->old_detect_zeroes = node->detect_zeroes;
    e->reopen.read_only = o->has_read_only && o->read_only;
    e->reopen.cache_direct = o->cache && o->cache->has_direct && o->cache->direct;
    e->reopen.cache_no_flush = o->cache && o->cache->has_no_flush && o->cache->no_flush;
    e->reopen.discard = o->has_discard && o->discard == QAPI_BLOCKDEV_DISCARD_OPTIONS_UNMAP;
    if (o->has_auto_read_only && o->auto_read_only && node->read_only && !e->reopen.read_only) {
        e->reopen.read_only = true; /* it could not be opened otherwise */
    }
    if (o->has_force_share && o->force_share && !e->reopen.read_only) {
        return error_set(error, "%s: force-share=on can only be used with read-only images", node->what);
    }
    if (!e->reopen.read_only && node->file && node->file->node->read_only && !node->file->node->reopening) {
        return error_set(error, "Block node '%s' is read-only", node->file->node->name);
    }
    if (node->driver->is_protocol && !node->driver->reopen_prepare &&
        e->reopen.read_only != node->read_only) {
        return error_set(error, "Driver '%s' of node '%s' does not support reopening", node->driver->name,
                         node->name);
    }
    if (node->driver->reopen_prepare && !node->driver->reopen_prepare(&e->reopen, error)) {
        return false;
    }
    e->prepared = true;
    return true;
}

static void adopt_flags(Entry *e)
{
    BlockNode *node = e->reopen.node;
    const QapiBlockdevOptions *o = e->reopen.options;

    node->read_only = e->reopen.read_only;
    node->cache_direct = e->reopen.cache_direct;
    node->cache_no_flush = e->reopen.cache_no_flush;
    node->discard = e->reopen.discard;
    node->force_share = o->has_force_share && o->force_share;
    node->auto_read_only = o->has_auto_read_only && o->auto_read_only;
    node->detect_zeroes = o->has_detect_zeroes ? o->detect_zeroes : QAPI_BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF;
}

static bool reopen_all(BlockGraph *graph, Entry *entries, size_t count, GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    BlockDrain *drain = block_drain_all_begin(graph);
    bool ok = true;

    for (size_t i = 0; i < count; i++) {
        entries[i].moved = g_ptr_array_new();
        entries[i].moved_from = g_ptr_array_new();
        entries[i].reopen.node->reopening = true;
        g_ptr_array_add(nodes, entries[i].reopen.node);
    }
    for (size_t i = 0; i < count && ok; i++) {
        /* What is written stays written whatever the new mode is. */
        if (!entries[i].reopen.node->read_only) {
            BlockChild *root =
                block_root_new(entries[i].reopen.node, "reopen", 0, BLOCK_PERM_ALL, NULL, NULL, error);
            int ret = root ? blk_flush(root) : 0;

            block_root_free(root);
            ok = root &&
                 (!ret || error_set_errno(error, -ret, "Error flushing %s", entries[i].reopen.node->what));
        }
        ok = ok && prepare(&entries[i], error);
    }
    size_t changed = 0;
    for (; changed < count && ok; changed++) {
        ok = change_children(&entries[changed], error);
    }
    for (size_t i = 0; i < count && ok; i++) {
        adopt_flags(&entries[i]);
    }
    ok = ok && block_perms_update((BlockNode **)nodes->pdata, nodes->len, error);
    for (size_t i = 0; i < count; i++) {
        Entry *e = &entries[i];
        BlockNode *node = e->reopen.node;

        if (ok && node->driver->reopen_commit) {
            /* The driver sees the old mode in the node, as in prepare. */
            bool read_only = node->read_only, direct = node->cache_direct;

            node->read_only = e->old_read_only;
            node->cache_direct = e->old_cache_direct;
            node->driver->reopen_commit(&e->reopen);
            node->read_only = read_only;
            node->cache_direct = direct;
        } else if (!ok && e->prepared && node->driver->reopen_abort) {
            node->driver->reopen_abort(&e->reopen);
        }
        if (ok) {
            json_object_put(node->options);
            node->options = json_object_get(e->json);
            block_limits_refresh(node);
        }
    }
    for (size_t i = count; i-- > 0;) {
        Entry *e = &entries[i];

        if (!ok && e->json) {
            restore(e);
        }
    }
    if (!ok && !block_perms_update((BlockNode **)nodes->pdata, nodes->len, NULL)) {
        g_assert_not_reached(); /* it was so before */
    }
    for (size_t i = 0; i < count; i++) {
        Entry *e = &entries[i];

        e->reopen.node->reopening = false;
        for (guint k = 0; k < e->moved_from->len; k++) {
            block_node_unref(g_ptr_array_index(e->moved_from, k));
        }
        if (e->old_backing) {
            block_node_unref(e->old_backing);
        }
        g_ptr_array_unref(e->moved);
        g_ptr_array_unref(e->moved_from);
        json_object_put(e->json);
    }
    block_graph_refresh_direct(graph);
    block_drain_end(drain);
    return ok;
}

bool block_nodes_reopen(BlockGraph *graph, QapiBlockdevOptions *const *options, size_t count, GError **error)
{
    g_autofree Entry *entries = g_new0(Entry, count + 1);

    for (size_t i = 0; i < count; i++) {
        if (!options[i]->node_name) {
            return error_set(error, "node-name not specified");
        }
        entries[i].reopen.node = block_node_find(graph, options[i]->node_name);
        entries[i].reopen.options = options[i];
        if (!entries[i].reopen.node) {
            return error_set(error, "Failed to find node with node-name='%s'", options[i]->node_name);
        }
        for (size_t k = 0; k < i; k++) {
            if (entries[k].reopen.node == entries[i].reopen.node) {
                return error_set(error, "Node '%s' is there twice", options[i]->node_name);
            }
        }
    }
    return reopen_all(graph, entries, count, error);
}

bool block_node_set_read_only(BlockNode *node, bool read_only, GError **error)
{
    Entry entries[64] = { 0 };
    QapiBlockdevOptions *options[64] = { NULL };
    size_t count = 0;
    bool ok = true;

    if (node->read_only == read_only) {
        return true;
    }
    /* It and what it stands on: to write, from below; the other way round, what others write stays. */
    for (BlockNode *n = node; n && count < G_N_ELEMENTS(entries); n = n->file ? n->file->node : NULL) {
        g_autoptr(Visitor) v = NULL;
        json_object *copy = NULL;

        if (n->read_only == read_only || (read_only && n != node && !n->implicit)) {
            continue;
        }
        json_object_deep_copy(n->options, &copy, NULL);
        json_object_object_add(copy, "read-only", json_object_new_boolean(read_only));
        json_object_object_del(copy, "force-share");
        v = visitor_new_input(copy, false);
        ok = qapi_visit_BlockdevOptions(v, NULL, &options[count], error);
        json_object_put(copy);
        if (!ok) {
            break;
        }
        entries[count].reopen.node = n;
        entries[count].reopen.options = options[count];
        count++;
    }
    /* prepare() of a parent looks at whether its child is among them. */
    ok = ok && reopen_all(node->graph, entries, count, error);
    for (size_t i = 0; i < count; i++) {
        qapi_BlockdevOptions_free(options[i]);
    }
    return ok;
}
