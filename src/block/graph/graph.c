/*
 * The graph's nodes: drivers by name, opening by options, closing. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph_internal.h"

#include "base/error.h"
#include "base/nearest.h"
#include "block/graph/dirty_bitmap.h"
#include "io/options.h"
#include "qapi/visitor.h"

#include <string.h>

SECTION_DECLARE(rhea_block_drivers, const BlockDriver);

/* ---- drivers ---- */

const char *const *block_driver_names(void)
{
    static const char *names[64];
    size_t n = 0;

    SECTION_FOREACH(rhea_block_drivers, const BlockDriver, it)
    {
        if (n < G_N_ELEMENTS(names) - 1) {
            names[n++] = (*it)->name;
        }
    }
    return names;
}

bool block_unknown_driver(const char *name, GError **error)
{
    static const char *const later[] = { "qcow2",      "qcow",      "vmdk",         "vdi",
                                         "vhdx",       "vpc",       "qed",          "luks",
                                         "nbd",        "rbd",       "ssh",          "nfs",
                                         "iscsi",      "http",      "https",        "ftp",
                                         "ftps",       "curl",      "dmg",          "vvfat",
                                         "parallels",  "bochs",     "cloop",        "quorum",
                                         "nvme",       "throttle",  "blkdebug",     "copy-on-read",
                                         "host_cdrom", "blkverify", "blklogwrites", "replication",
                                         "gluster",    "compress",  "preallocate",  "copy-before-write",
                                         NULL };

    if (strcmp(name, "sheepdog") == 0) {
        error_set(error,
                  "Block driver 'sheepdog' is gone: the Sheepdog project ended, and QEMU dropped it too");
        error_append_hint(error,
                          "Copy the image to RBD (Ceph) or to an NBD server, and use driver=rbd or nbd.");
        return false;
    }
    if (g_strv_contains(later, name)) {
        g_autofree char *have = g_strjoinv(", ", (char **)(void *)block_driver_names());

        return error_set(error, "Block driver '%s' is not in this version: it has %s", name, have);
    }
    error_set(error, "Unknown driver '%s'", name);
    nearest_hint(error, name, block_driver_names());
    return false;
}

const BlockDriver *block_driver_find(const char *name, GError **error)
{
    SECTION_FOREACH(rhea_block_drivers, const BlockDriver, it)
    {
        if (strcmp((*it)->name, name) == 0) {
            return *it;
        }
    }
    block_unknown_driver(name, error);
    return NULL;
}

const BlockDriver *block_probe(const uint8_t *head, size_t size, const char *filename)
{
    const BlockDriver *best = NULL;
    int best_score = 0;

    SECTION_FOREACH(rhea_block_drivers, const BlockDriver, it)
    {
        int score = (*it)->probe ? (*it)->probe(head, size, filename) : 0;

        if (score > best_score) {
            best_score = score;
            best = *it;
        }
    }
    return best ? best : block_driver_find("raw", NULL);
}

/* ---- the graph ---- */

BlockGraph *block_graph_new(Loop *loop, FdTable *fds)
{
    BlockGraph *graph = g_new0(BlockGraph, 1);

    graph->loop = loop;
    graph->fds = fds;
    graph->nodes = g_ptr_array_new();
    graph->roots = g_ptr_array_new();
    graph->chain = g_ptr_array_new();
    return graph;
}

void block_graph_free(BlockGraph *graph)
{
    if (!graph) {
        return;
    }
    g_assert(!graph->roots->len);
    for (guint i = 0; i < graph->nodes->len; i++) {
        ((BlockNode *)g_ptr_array_index(graph->nodes, i))->implicit = true;
    }
    /* Tops first: closing one lets go of those below, which then close by themselves. */
    for (guint i = 0; i < graph->nodes->len;) {
        BlockNode *node = g_ptr_array_index(graph->nodes, i);

        if (node->parents->len || node->refs) {
            i++;
            continue;
        }
        block_node_close(node);
        i = 0;
    }
    g_assert(!graph->nodes->len);
    g_ptr_array_unref(graph->nodes);
    g_ptr_array_unref(graph->roots);
    g_ptr_array_unref(graph->chain);
    g_free(graph);
}

Loop *block_graph_loop(BlockGraph *graph)
{
    return graph->loop;
}

FdTable *block_graph_fds(BlockGraph *graph)
{
    return graph->fds;
}

void block_graph_set_objects(BlockGraph *graph, Object *root)
{
    graph->objects = root;
}

Object *block_graph_objects(BlockGraph *graph)
{
    return graph->objects;
}

GPtrArray *block_graph_nodes(BlockGraph *graph)
{
    return graph->nodes;
}

void block_graph_set_event_hook(BlockGraph *graph, BlockEventHook *hook, void *opaque)
{
    graph->event_hook = hook;
    graph->event_opaque = opaque;
}

void block_graph_set_name_check(BlockGraph *graph, bool (*taken)(void *opaque, const char *name),
                                void *opaque)
{
    graph->name_taken = taken;
    graph->name_opaque = opaque;
}

void block_graph_set_device_lookup(BlockGraph *graph, BlockNode *(*lookup)(void *opaque, const char *id),
                                   void *opaque)
{
    graph->device_lookup = lookup;
    graph->device_opaque = opaque;
}

BlockNode *block_reference_find(BlockGraph *graph, const char *name, GError **error)
{
    BlockNode *node = block_node_find(graph, name);

    if (!node && graph->device_lookup) {
        node = graph->device_lookup(graph->device_opaque, name);
    }
    if (!node) {
        error_set(error, "Cannot find device='' nor node-name='%s'", name);
    }
    return node;
}

typedef struct Event {
    BlockGraph *graph;
    const char *name;
    json_object *data;
} Event;

static void emit(void *opaque)
{
    Event *e = opaque;

    if (e->graph->event_hook) {
        e->graph->event_hook(e->graph->event_opaque, e->name, e->data);
    } else {
        json_object_put(e->data);
    }
    g_free(e);
}

void block_graph_emit(BlockGraph *graph, const char *event, json_object *data)
{
    Event *e = g_new(Event, 1);

    *e = (Event){ .graph = graph, .name = g_intern_string(event), .data = data };
    if (loop_is_current(graph->loop)) {
        emit(e);
    } else {
        loop_call(graph->loop, emit, e);
    }
}

void block_node_corrupt(BlockNode *node, bool fatal, uint64_t offset, uint64_t size, const char *fmt, ...)
{
    json_object *data = json_object_new_object();
    g_autofree char *message = NULL;
    va_list ap;

    va_start(ap, fmt);
    message = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    json_object_object_add(data, "device", json_object_new_string(""));
    if (!node->implicit_name) {
        json_object_object_add(data, "node-name", json_object_new_string(node->name));
    }
    json_object_object_add(data, "msg", json_object_new_string(message));
    if (offset != UINT64_MAX) {
        json_object_object_add(data, "offset", json_object_new_uint64(offset));
    }
    if (size != UINT64_MAX) {
        json_object_object_add(data, "size", json_object_new_uint64(size));
    }
    json_object_object_add(data, "fatal", json_object_new_boolean(fatal));
    if (fatal) {
        __atomic_store_n(&node->corrupt, true, __ATOMIC_SEQ_CST);
    }
    block_graph_emit(node->graph, "BLOCK_IMAGE_CORRUPTED", data);
}

/* ---- nodes ---- */

BlockNode *block_node_find(BlockGraph *graph, const char *name)
{
    for (guint i = 0; i < graph->nodes->len; i++) {
        BlockNode *node = g_ptr_array_index(graph->nodes, i);

        if (strcmp(node->name, name) == 0) {
            return node;
        }
    }
    return NULL;
}

void block_node_ref(BlockNode *node)
{
    node->refs++;
    node->fresh = false;
}

void block_node_unref(BlockNode *node)
{
    g_assert(node->refs > 0);
    node->refs--;
    block_node_release(node);
}

void block_node_release(BlockNode *node)
{
    if (node->implicit && !node->parents->len && !node->refs && !node->closing) {
        block_node_close(node);
    }
}

static bool common_open(BlockNode *node, const QapiBlockdevOptions *o, GError **error)
{
    node->read_only = o->has_read_only && o->read_only;
    node->auto_read_only = o->has_auto_read_only && o->auto_read_only;
    node->force_share = o->has_force_share && o->force_share;
    node->cache_direct = o->cache && o->cache->has_direct && o->cache->direct;
    node->cache_no_flush = o->cache && o->cache->has_no_flush && o->cache->no_flush;
    node->discard = o->has_discard && o->discard == QAPI_BLOCKDEV_DISCARD_OPTIONS_UNMAP;
    node->detect_zeroes = o->has_detect_zeroes ? o->detect_zeroes : QAPI_BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF;
    if (node->detect_zeroes == QAPI_BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP && !node->discard) {
        error_set(error,
                  "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
        error_append_hint(error, "Add discard=unmap to %s.", node->what);
        return false;
    }
    if (node->force_share && !node->read_only) {
        return error_set(error, "%s: force-share=on can only be used with read-only images", node->what);
    }
    return true;
}

void block_limits_refresh(BlockNode *node)
{
    BlockLimits *l = &node->limits;

    *l = (BlockLimits){ .request_alignment = 1,
                        .memory_alignment = 1,
                        .logical_block_size = 512,
                        .physical_block_size = 512,
                        .max_iov = 1024 };
    for (guint i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);
        const BlockLimits *c = &child->node->limits;

        if (child->role & BLOCK_ROLE_COW && !(child->role & BLOCK_ROLE_FILTERED)) {
            continue;
        }
        l->memory_alignment = MAX(l->memory_alignment, c->memory_alignment);
        if (c->max_iov && (!l->max_iov || c->max_iov < l->max_iov)) {
            l->max_iov = c->max_iov;
        }
        if (c->max_transfer && (!l->max_transfer || c->max_transfer < l->max_transfer)) {
            l->max_transfer = c->max_transfer;
        }
        if (child->role & (BLOCK_ROLE_FILTERED | BLOCK_ROLE_PRIMARY)) {
            l->logical_block_size = c->logical_block_size;
            l->physical_block_size = c->physical_block_size;
        }
        if (child->role & BLOCK_ROLE_FILTERED) {
            BlockLimits merged = *c;

            merged.memory_alignment = l->memory_alignment;
            merged.max_iov = l->max_iov;
            merged.max_transfer = l->max_transfer;
            *l = merged;
        }
    }
    if (node->driver->refresh_limits) {
        node->driver->refresh_limits(node);
    }
    l->request_alignment = MAX(l->request_alignment, 1);
    for (guint i = 0; node->parents && i < node->parents->len; i++) {
        BlockChild *up = g_ptr_array_index(node->parents, i);

        if (up->parent && !up->parent->closing && !up->parent->opening) {
            block_limits_refresh(up->parent);
        }
    }
}

static bool check_name(BlockGraph *graph, const char *name, GError **error)
{
    if (!options_id_ok(name) || strlen(name) > 31) {
        error_set(error, "Invalid node-name: '%s'", name);
        error_append_hint(
            error, "A node name begins with a letter and has up to 31 letters, digits, '-', '.' and '_'.");
        return false;
    }
    if (block_node_find(graph, name)) {
        return error_set(error, "Duplicate nodes with node-name='%s'", name);
    }
    if (graph->name_taken && graph->name_taken(graph->name_opaque, name)) {
        return error_set(error, "node-name=%s is conflicting with a device id", name);
    }
    return true;
}

static BlockNode *node_new(BlockGraph *graph, const BlockDriver *driver, const char *name)
{
    BlockNode *node = g_malloc0(MAX(driver->instance_size, sizeof(BlockNode)));

    node->driver = driver;
    node->graph = graph;
    node->implicit_name = !name;
    node->name = name ? g_strdup(name) : g_strdup_printf("#block%03u", graph->next_name++);
    node->what = name ? g_strdup_printf("node '%s'", name) : g_strdup_printf("%s node", driver->name);
    node->children = g_ptr_array_new();
    node->parents = g_ptr_array_new();
    node->bitmaps = g_ptr_array_new();
    node->tracker = block_tracker_new();
    node->shared = BLOCK_PERM_ALL;
    node->opening = true;
    node->any_alignment = driver->any_alignment;
    return node;
}

BlockNode *block_node_open(BlockGraph *graph, QapiBlockdevOptions *options, bool implicit, unsigned flags,
                           GError **error)
{
    const char *name = options->node_name;
    const BlockDriver *driver =
        block_driver_find(enum_name(&qapi_BlockdevDriver_lookup, options->driver), error);
    g_autoptr(Visitor) out = NULL;
    BlockNode *node;

    if (!driver || (name && !check_name(graph, name, error))) {
        return NULL;
    }
    node = node_new(graph, driver, name);
    node->implicit = implicit;
    node->open_flags = flags | (graph->open_inactive ? BLOCK_OPEN_INACTIVE : 0);
    node->inactive = node->open_flags & BLOCK_OPEN_INACTIVE;
    out = visitor_new_output();
    if (qapi_visit_BlockdevOptions(out, NULL, &options, NULL)) {
        node->options = visitor_output_take(out);
    }
    node->driver_opened = common_open(node, options, error);
    if (!node->driver_opened || !driver->open(node, options, error)) {
        block_node_close(node);
        return NULL;
    }
    block_limits_refresh(node);
    if (node->limits.request_alignment > 1 && !node->any_alignment) {
        node->tracker->enabled++;
    }
    if (!node->filename) {
        BlockChild *primary = node->file ? node->file : node->backing;

        node->filename = g_strdup(primary ? primary->node->filename : "");
    }
    node->opening = false;
    node->fresh = true;
    g_ptr_array_add(graph->nodes, node);
    return node;
}

BlockNode *block_node_of_ref(BlockGraph *graph, const QapiBlockdevRef *ref, unsigned flags, GError **error)
{
    return ref->kind == QAPI_BLOCKDEV_REF_REFERENCE
               ? block_reference_find(graph, ref->u_reference, error)
               : block_node_open(graph, ref->u_definition, true, flags, error);
}

BlockNode *block_node_insert_filter(BlockNode *below, const BlockDriver *driver, const char *name,
                                    GError **error)
{
    return block_node_insert_filter_to(below, driver, name, NULL, NULL, error);
}

BlockNode *block_node_insert_filter_to(BlockNode *below, const BlockDriver *driver, const char *name,
                                       BlockNode *target, BlockChild **child, GError **error)
{
    BlockNode *node;

    if (name && !check_name(below->graph, name, error)) {
        return NULL;
    }
    node = node_new(below->graph, driver, name);
    node->implicit = true;
    node->driver_opened = true;
    node->read_only = below->read_only;
    node->discard = true;
    node->size = below->size;
    node->filename = g_strdup(below->filename);
    node->write_flags = node->zero_flags =
        BLOCK_REQ_FUA | BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK | BLOCK_REQ_WRITE_UNCHANGED;
    node->truncate_flags = below->truncate_flags;
    node->refs = 1;
    if (child) {
        *child = NULL;
    }
    if (!block_child_attach(node, below, "backing", BLOCK_ROLE_FILTER, &node->backing, error) ||
        (target && !(*child = block_child_attach(node, target, "target", BLOCK_ROLE_DATA, NULL, error)))) {
        node->refs = 0;
        block_node_close(node);
        return NULL;
    }
    block_limits_refresh(node);
    node->opening = false;
    g_ptr_array_add(below->graph->nodes, node);
    if (!block_node_replace(below, node, error)) {
        block_node_unref(node);
        if (child) {
            *child = NULL;
        }
        return NULL;
    }
    return node;
}

void block_node_remove_filter(BlockNode *filter)
{
    BlockNode *below = filter->backing->node;
    g_autoptr(GError) error = NULL;

    filter->steps_aside = true;
    if (!block_node_replace(filter, below, &error)) {
        g_critical("%s cannot be taken away: %s", filter->what, error->message);
    }
    block_node_unref(filter);
}

void block_node_close(BlockNode *node)
{
    node->closing = true;
    while (__atomic_load_n(&node->background, __ATOMIC_SEQ_CST)) {
        loop_iterate_io(node->graph->loop, false);
    }
    if (node->driver->close && node->driver_opened) {
        node->driver->close(node);
    }
    g_ptr_array_remove(node->graph->nodes, node);
    while (node->bitmaps->len) {
        dirty_bitmap_free(g_ptr_array_index(node->bitmaps, 0));
    }
    while (node->children->len) {
        block_child_detach(g_ptr_array_index(node->children, node->children->len - 1));
    }
    g_assert(!node->parents->len);
    g_ptr_array_unref(node->children);
    g_ptr_array_unref(node->parents);
    g_ptr_array_unref(node->bitmaps);
    block_tracker_free(node->tracker);
    json_object_put(node->options);
    g_free(node->backing_file);
    g_free(node->backing_format);
    g_free(node->name);
    g_free(node->what);
    g_free(node->filename);
    g_free(node);
}

bool block_node_del(BlockGraph *graph, const char *node_name, GError **error)
{
    BlockNode *node = block_node_find(graph, node_name);

    if (!node) {
        return error_set(error, "Failed to find node with node-name='%s'", node_name);
    }
    if (node->implicit) {
        return error_set(error, "Node %s is not owned by the monitor", node_name);
    }
    if (node->parents->len || node->refs) {
        return error_set(error, "Block device %s is in use", node_name);
    }
    block_node_close(node);
    return true;
}

/* ---- background work ---- */

bool block_background_begin(BlockNode *node)
{
    __atomic_fetch_add(&node->background, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&node->quiesced, __ATOMIC_SEQ_CST)) {
        __atomic_fetch_sub(&node->background, 1, __ATOMIC_SEQ_CST);
        return false;
    }
    return true;
}

void block_background_end(BlockNode *node)
{
    __atomic_fetch_sub(&node->background, 1, __ATOMIC_SEQ_CST);
}
