/* The bodies of QMP's commands on nodes. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/operate.h"

#include "base/error.h"
#include "block/graph/dirty_bitmap.h"
#include "qapi/visitor.h"

#include <string.h>

static BlockNode *node_by_name(BlockRegistry *reg, const char *name, GError **error)
{
    BlockNode *node = block_node_find(block_registry_graph(reg), name);

    if (!node) {
        error_set(error, "Cannot find device='' nor node-name='%s'", name);
    }
    return node;
}

/* A device's id or a node's name, as the older commands' "device" takes both. */
static BlockNode *node_of_device(BlockRegistry *reg, const char *device, GError **error)
{
    return block_lookup(reg, device, NULL, error);
}

bool block_op_reopen(BlockRegistry *reg, GPtrArray *options, GError **error)
{
    return block_nodes_reopen(block_registry_graph(reg), (QapiBlockdevOptions **)options->pdata, options->len,
                              error);
}

bool block_op_snapshot(BlockRegistry *reg, const char *node, const char *overlay, GError **error)
{
    BlockNode *base = node_by_name(reg, node, error), *top = base ? node_by_name(reg, overlay, error) : NULL;

    if (!top) {
        return false;
    }
    for (guint i = 0; i < top->parents->len; i++) {
        BlockChild *up = g_ptr_array_index(top->parents, i);

        if (!up->parent) {
            return error_set(error, "The overlay is already in use");
        }
    }
    return block_node_append(top, base, error);
}

bool block_op_snapshot_sync(BlockRegistry *reg, const QapiBlockdevSnapshotSync *a, GError **error)
{
    BlockGraph *graph = block_registry_graph(reg);
    BlockNode *base = block_lookup(reg, a->device, a->node_name, error), *top;
    const char *format = a->format ? a->format : "qcow2";
    json_object *o;
    bool ok = true;

    if (!base) {
        return false;
    }
    if (a->snapshot_node_name && block_node_find(graph, a->snapshot_node_name)) {
        return error_set(error, "New overlay node-name already in use");
    }
    if (!a->has_mode || a->mode != QAPI_NEW_IMAGE_MODE_EXISTING) {
        o = json_object_new_object();
        json_object_object_add(o, "backing_file", json_object_new_string(base->filename));
        json_object_object_add(o, "backing_fmt",
                               json_object_new_string(block_skip_filters(base)->driver->name));
        ok = block_image_create(graph, format, a->snapshot_file, base->size, o, false, error);
        json_object_put(o);
    }
    if (!ok) {
        return false;
    }
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string(format));
    json_object_object_add(o, "backing", NULL);
    json_object_object_add(o, "cache.direct", json_object_new_boolean(base->cache_direct));
    json_object_object_add(o, "cache.no-flush", json_object_new_boolean(base->cache_no_flush));
    if (base->discard) {
        json_object_object_add(o, "discard", json_object_new_string("unmap"));
    }
    if (a->snapshot_node_name) {
        json_object_object_add(o, "node-name", json_object_new_string(a->snapshot_node_name));
    }
    top = block_node_open_image(graph, a->snapshot_file, o, 0, error);
    json_object_put(o);
    if (!top) {
        return false;
    }
    block_node_ref(top);
    ok = block_node_append(top, base, error);
    block_node_unref(top);
    return ok;
}

bool block_op_change_backing_file(BlockRegistry *reg, const char *device, const char *image_node,
                                  const char *backing_file, GError **error)
{
    BlockNode *top = node_of_device(reg, device, error),
              *node = top ? node_by_name(reg, image_node, error) : NULL;
    bool was_read_only, ok;

    if (!node) {
        return false;
    }
    if (!block_chain_contains(top, node)) {
        return error_set(error, "'%s' and image file are not in the same chain", device);
    }
    if (!block_cow_child(node)) {
        return error_set(error, "not allowing backing file change on an image without a backing file");
    }
    was_read_only = node->read_only;
    if (was_read_only && !block_node_set_read_only(node, false, error)) {
        return false;
    }
    ok = block_backing_change_file(node, backing_file, node->backing_format, false, error);
    if (was_read_only) {
        block_node_set_read_only(node, true, NULL);
    }
    return ok;
}

bool block_op_write_threshold(BlockRegistry *reg, const char *name, uint64_t threshold, GError **error)
{
    BlockNode *node = node_by_name(reg, name, error);

    if (!node) {
        return false;
    }
    block_node_set_write_threshold(node, threshold);
    return true;
}

bool block_op_change(BlockRegistry *reg, const char *parent_name, const char *child_name,
                     const char *node_name, GError **error)
{
    BlockNode *parent = block_lookup(reg, parent_name, parent_name, error), *node;

    if (!parent) {
        return false;
    }
    if (!child_name == !node_name) {
        return error_set(error, child_name ? "The parameters child and node are in conflict"
                                           : "Either child or node must be specified");
    }
    if (child_name) {
        for (guint i = 0; i < parent->children->len; i++) {
            BlockChild *child = g_ptr_array_index(parent->children, i);

            if (strcmp(child->name, child_name) != 0) {
                continue;
            }
            if (!parent->driver->del_child) {
                return error_set(error, "The node %s does not support deleting a child", parent->name);
            }
            return parent->driver->del_child(parent, child, error);
        }
        return error_set(error, "Node '%s' does not have child '%s'", parent_name, child_name);
    }
    node = block_node_find(block_registry_graph(reg), node_name);
    if (!node) {
        return error_set(error, "Node '%s' not found", node_name);
    }
    if (!parent->driver->add_child) {
        return error_set(error, "The node %s does not support adding a child", parent->name);
    }
    if (node->parents->len) {
        return error_set(error, "The node %s already has a parent", node->name);
    }
    return parent->driver->add_child(parent, node, error);
}

/* ---- bitmaps ---- */

static DirtyBitmap *bitmap_of(BlockRegistry *reg, const char *node_name, const char *name, bool idle,
                              GError **error)
{
    BlockNode *node = block_lookup(reg, node_name, node_name, error);
    DirtyBitmap *b = node ? dirty_bitmap_find(node, name) : NULL;

    if (node && !b) {
        error_set(error, "Dirty bitmap '%s' not found", name);
    }
    if (b && idle && b->busy) {
        error_set(error, "Bitmap '%s' is currently in use by another operation and cannot be used", name);
        return NULL;
    }
    return b;
}

static bool writable(const DirtyBitmap *b, GError **error)
{
    if (b->read_only) {
        return error_set(error, "Bitmap '%s' is readonly and cannot be modified", b->name);
    }
    if (b->inconsistent) {
        error_set(error, "Bitmap '%s' is inconsistent and cannot be used", b->name);
        error_append_hint(error, "Try block-dirty-bitmap-remove to delete this bitmap from disk");
        return false;
    }
    return true;
}

bool block_op_bitmap_add(BlockRegistry *reg, const QapiBlockDirtyBitmapAdd *a, GError **error)
{
    BlockNode *node = block_lookup(reg, a->node, a->node, error);
    bool persistent = a->has_persistent && a->persistent;
    DirtyBitmap *b;

    if (!node) {
        return false;
    }
    if (!*a->name) {
        return error_set(error, "Bitmap name cannot be empty");
    }
    if (persistent) {
        if (!node->driver->bitmap_can_store) {
            return error_set(error, "Cannot store dirty bitmaps in file '%s'", node->filename);
        }
        if (!node->driver->bitmap_can_store(node, a->name, a->has_granularity ? a->granularity : 65536,
                                            error)) {
            return false;
        }
    }
    b = dirty_bitmap_new(node, a->name, a->has_granularity ? a->granularity : 0, error);
    if (!b) {
        return false;
    }
    b->persistent = persistent;
    __atomic_store_n(&b->enabled, !(a->has_disabled && a->disabled), __ATOMIC_SEQ_CST);
    return true;
}

bool block_op_bitmap_remove(BlockRegistry *reg, const QapiBlockDirtyBitmap *a, GError **error)
{
    DirtyBitmap *b = bitmap_of(reg, a->node, a->name, true, error);

    if (!b) {
        return false;
    }
    if (b->read_only) {
        return error_set(error, "Bitmap '%s' is readonly and cannot be modified", b->name);
    }
    if (b->persistent && b->node->driver->bitmap_remove_stored &&
        !b->node->driver->bitmap_remove_stored(b->node, b->name, error)) {
        return false;
    }
    dirty_bitmap_free(b);
    return true;
}

bool block_op_bitmap_clear(BlockRegistry *reg, const QapiBlockDirtyBitmap *a, GError **error)
{
    DirtyBitmap *b = bitmap_of(reg, a->node, a->name, true, error);

    if (!b || !writable(b, error)) {
        return false;
    }
    dirty_bitmap_clear(b);
    return true;
}

bool block_op_bitmap_enable(BlockRegistry *reg, const QapiBlockDirtyBitmap *a, bool on, GError **error)
{
    DirtyBitmap *b = bitmap_of(reg, a->node, a->name, true, error);

    if (!b || !writable(b, error)) {
        return false;
    }
    __atomic_store_n(&b->enabled, on, __ATOMIC_SEQ_CST);
    return true;
}

bool block_op_bitmap_merge(BlockRegistry *reg, const QapiBlockDirtyBitmapMerge *a, GError **error)
{
    DirtyBitmap *to = bitmap_of(reg, a->node, a->target, true, error);

    if (!to || !writable(to, error)) {
        return false;
    }
    for (int pass = 0; pass < 2; pass++) { /* look at all of them before the first */
        for (guint i = 0; i < a->bitmaps->len; i++) {
            const QapiBlockDirtyBitmapOrStr *one = g_ptr_array_index(a->bitmaps, i);
            bool local = one->kind == QAPI_BLOCK_DIRTY_BITMAP_OR_STR_LOCAL;
            DirtyBitmap *from = bitmap_of(reg, local ? a->node : one->u_external->node,
                                          local ? one->u_local : one->u_external->name, false, error);

            if (!from) {
                return false;
            }
            if (from->inconsistent) {
                return error_set(error, "Bitmap '%s' is inconsistent and cannot be used", from->name);
            }
            if (from->size != to->size) {
                return error_set(error,
                                 "Bitmaps are of different sizes (destination size is %" PRIu64
                                 " and source size is %" PRIu64 ") and can't be merged",
                                 to->size, from->size);
            }
            if (pass) {
                dirty_bitmap_merge(to, from);
            }
        }
    }
    return true;
}

/* ---- jobs ---- */

static bool start_of(JobStart *s, const char *job_id, const char *device, BlockRegistry *reg, bool has_speed,
                     uint64_t speed, bool has_finalize, bool finalize, bool has_dismiss, bool dismiss,
                     GError **error)
{
    *s = (JobStart){ .id = job_id,
                     .speed = has_speed ? speed : 0,
                     .auto_finalize = !has_finalize || finalize,
                     .auto_dismiss = !has_dismiss || dismiss };
    if (s->speed > G_MAXINT64) {
        return error_set(error, "Parameter 'speed' expects a non-negative value");
    }
    if (!s->id && device && !block_node_find(block_registry_graph(reg), device)) {
        s->id = device; /* a drive's id is the job's where none is given */
    }
    return true;
}

static JobOnError on_error(bool has, QapiBlockdevOnError value)
{
    return !has || value == QAPI_BLOCKDEV_ON_ERROR_AUTO ? JOB_ON_ERROR_REPORT : (JobOnError)value;
}

bool block_op_create(BlockRegistry *reg, const char *job_id, const QapiBlockdevCreateOptions *options,
                     GError **error)
{
    /* The job outlives the command: a copy of its own. */
    g_autoptr(Visitor) out = visitor_new_output(), in = NULL;
    QapiBlockdevCreateOptions *o = (QapiBlockdevCreateOptions *)options, *copy = NULL;
    json_object *json;
    bool ok;

    if (!qapi_visit_BlockdevCreateOptions(out, NULL, &o, error)) {
        return false;
    }
    json = visitor_output_take(out);
    in = visitor_new_input(json, false);
    ok = qapi_visit_BlockdevCreateOptions(in, NULL, &copy, error);
    json_object_put(json);
    return ok && job_create_start(block_registry_jobs(reg), job_id, copy, error);
}

bool block_op_mirror(BlockRegistry *reg, const QapiBlockdevMirror *a, GError **error)
{
    BlockNode *source = node_of_device(reg, a->device, error);
    BlockNode *target = source ? block_lookup(reg, a->target, a->target, error) : NULL;
    MirrorStart o = { .sync = (JobSync)a->sync,
                      .granularity = a->has_granularity ? a->granularity : 0,
                      .replaces = a->replaces,
                      .unmap = true };

    if (!target ||
        !start_of(&o.start, a->job_id, a->device, reg, a->has_speed, a->speed, a->has_auto_finalize,
                  a->auto_finalize, a->has_auto_dismiss, a->auto_dismiss, error)) {
        return false;
    }
    o.start.on_source_error = on_error(a->has_on_source_error, a->on_source_error);
    o.start.on_target_error = on_error(a->has_on_target_error, a->on_target_error);
    return job_mirror_start(block_registry_jobs(reg), source, target, &o, error);
}

bool block_op_commit(BlockRegistry *reg, const QapiBlockCommit *a, GError **error)
{
    BlockNode *active = node_of_device(reg, a->device, error), *top, *base;
    JobStart start;

    if (!active || !start_of(&start, a->job_id, a->device, reg, a->has_speed, a->speed, a->has_auto_finalize,
                             a->auto_finalize, a->has_auto_dismiss, a->auto_dismiss, error)) {
        return false;
    }
    start.on_source_error = start.on_target_error = on_error(a->has_on_error, a->on_error);
    if ((a->top && a->top_node) || (a->base && a->base_node)) {
        return error_set(error, "'%s-node' and '%s' are mutually exclusive",
                         a->top && a->top_node ? "top" : "base", a->top && a->top_node ? "top" : "base");
    }
    top = active;
    if (a->top_node) {
        top = node_by_name(reg, a->top_node, error);
        if (!top) {
            return false;
        }
    } else if (a->top && strcmp(a->top, active->filename) != 0) {
        top = block_chain_find_file(active, a->top);
        if (!top) {
            return error_set(error, "Top image file %s not found", a->top);
        }
    }
    if (a->base_node) {
        base = node_by_name(reg, a->base_node, error);
        if (!base) {
            return false;
        }
    } else if (a->base) {
        base = block_chain_find_file(top, a->base);
        if (!base) {
            return error_set(error, "Can't find '%s' in the backing chain", a->base);
        }
    } else {
        base = NULL;
        for (BlockNode *n = top; n; n = block_below(n)) {
            base = block_below(n) ? base : n; /* the last */
        }
    }
    return job_commit_start(block_registry_jobs(reg), active, top, base, a->backing_file, a->filter_node_name,
                            &start, error);
}

bool block_op_stream(BlockRegistry *reg, const QapiBlockStream *a, GError **error)
{
    BlockNode *node = node_of_device(reg, a->device, error), *base = NULL;
    JobStart start;

    if (!node || !start_of(&start, a->job_id, a->device, reg, a->has_speed, a->speed, a->has_auto_finalize,
                           a->auto_finalize, a->has_auto_dismiss, a->auto_dismiss, error)) {
        return false;
    }
    start.on_source_error = start.on_target_error = on_error(a->has_on_error, a->on_error);
    if (a->base && a->base_node) {
        return error_set(error, "'base' and 'base-node' cannot be specified at the same time");
    }
    if (a->base_node) {
        base = node_by_name(reg, a->base_node, error);
        if (!base) {
            return false;
        }
    } else if (a->base) {
        base = block_chain_find_file(node, a->base);
        if (!base) {
            return error_set(error, "Can't find '%s' in the backing chain", a->base);
        }
    }
    if (a->backing_file && !base) {
        return error_set(error, "backing file specified, but streaming the entire chain");
    }
    return job_stream_start(block_registry_jobs(reg), node, base, a->backing_file, &start, error);
}

bool block_op_backup(BlockRegistry *reg, const QapiBlockdevBackup *a, GError **error)
{
    BlockNode *source = node_of_device(reg, a->device, error);
    BlockNode *target = source ? block_lookup(reg, a->target, a->target, error) : NULL;
    BackupStart o = { .sync = (JobSync)a->sync,
                      .bitmap = a->bitmap,
                      .bitmap_mode = a->has_bitmap_mode ? (int)a->bitmap_mode : 0,
                      .compress = a->has_compress && a->compress,
                      .filter_name = a->filter_node_name };

    if (!target ||
        !start_of(&o.start, a->job_id, a->device, reg, a->has_speed, a->speed, a->has_auto_finalize,
                  a->auto_finalize, a->has_auto_dismiss, a->auto_dismiss, error)) {
        return false;
    }
    if (a->sync == QAPI_MIRROR_SYNC_MODE_BITMAP && !a->has_bitmap_mode) {
        return error_set(error, "Bitmap sync mode must be given when providing a bitmap");
    }
    o.start.on_source_error = on_error(a->has_on_source_error, a->on_source_error);
    o.start.on_target_error = on_error(a->has_on_target_error, a->on_target_error);
    return job_backup_start(block_registry_jobs(reg), source, target, &o, error);
}

/* ---- transactions ---- */

/* What an action that was done needs to be undone. */
typedef struct Undo {
    QapiTransactionActionKind kind;
    BlockNode *top, *base; /* snapshots; counted */
    DirtyBitmap *bitmap;
    uint64_t *bits; /* as they were */
    bool enabled, started;
    const char *job_id;
} Undo;

static bool keep_bits(Undo *u, DirtyBitmap *b)
{
    u->bitmap = b;
    u->enabled = b->enabled;
    u->bits = g_memdup2(b->bits, b->words * sizeof(*b->bits));
    return true;
}

static bool do_snapshot(BlockRegistry *reg, Undo *u, const QapiTransactionAction *a, GError **error)
{
    bool sync = a->type == QAPI_TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT_SYNC;
    const QapiBlockdevSnapshotSync *s = sync ? a->u_blockdev_snapshot_sync->data : NULL;
    const QapiBlockdevSnapshot *o = sync ? NULL : a->u_blockdev_snapshot->data;
    BlockNode *base =
        sync ? block_lookup(reg, s->device, s->node_name, error) : node_by_name(reg, o->node, error);
    bool ok;

    if (!base) {
        return false;
    }
    block_node_ref(base);
    ok = sync ? block_op_snapshot_sync(reg, s, error) : block_op_snapshot(reg, o->node, o->overlay, error);
    if (!ok) {
        block_node_unref(base);
        return false;
    }
    u->base = base;
    for (guint i = 0; i < base->parents->len; i++) {
        BlockChild *up = g_ptr_array_index(base->parents, i);

        if (up->parent && up->parent->backing == up) {
            u->top = up->parent;
        }
    }
    if (u->top) {
        block_node_ref(u->top);
    }
    return true;
}

static bool act(BlockRegistry *reg, Undo *u, const QapiTransactionAction *a, GError **error)
{
    const QapiBlockDirtyBitmap *which = NULL;
    DirtyBitmap *b;

    switch (a->type) {
    case QAPI_TRANSACTION_ACTION_KIND_ABORT:
        return error_set(error, "Transaction aborted using Abort action");
    case QAPI_TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ADD: {
        const QapiBlockDirtyBitmapAdd *add = a->u_block_dirty_bitmap_add->data;

        if (!block_op_bitmap_add(reg, add, error)) {
            return false;
        }
        u->bitmap = bitmap_of(reg, add->node, add->name, false, error);
        return true;
    }
    case QAPI_TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_REMOVE:
        which = a->u_block_dirty_bitmap_remove->data;
        b = bitmap_of(reg, which->node, which->name, true, error);
        return b && (!b->read_only || writable(b, error)); /* it goes when all has gone well */
    case QAPI_TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_CLEAR:
        which = a->u_block_dirty_bitmap_clear->data;
        b = bitmap_of(reg, which->node, which->name, true, error);
        return b && keep_bits(u, b) && block_op_bitmap_clear(reg, which, error);
    case QAPI_TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ENABLE:
    case QAPI_TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_DISABLE: {
        bool on = a->type == QAPI_TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ENABLE;

        which = on ? a->u_block_dirty_bitmap_enable->data : a->u_block_dirty_bitmap_disable->data;
        b = bitmap_of(reg, which->node, which->name, true, error);
        return b && keep_bits(u, b) && block_op_bitmap_enable(reg, which, on, error);
    }
    case QAPI_TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_MERGE: {
        const QapiBlockDirtyBitmapMerge *merge = a->u_block_dirty_bitmap_merge->data;

        b = bitmap_of(reg, merge->node, merge->target, true, error);
        return b && keep_bits(u, b) && block_op_bitmap_merge(reg, merge, error);
    }
    case QAPI_TRANSACTION_ACTION_KIND_BLOCKDEV_BACKUP: {
        const QapiBlockdevBackup *backup = a->u_blockdev_backup->data;

        u->job_id = backup->job_id ? backup->job_id : backup->device;
        u->started = block_op_backup(reg, backup, error);
        return u->started;
    }
    case QAPI_TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT:
    case QAPI_TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT_SYNC:
        return do_snapshot(reg, u, a, error);
    default:
        return error_set(error, "Unknown transaction action");
    }
}

static void undo(BlockRegistry *reg, Undo *u)
{
    Job *job = u->started ? job_find(block_registry_jobs(reg), u->job_id, false, NULL) : NULL;

    if (job) {
        job_cancel(job, true, NULL);
    }
    if (u->top) {
        /* Who has seen the overlay sees the base again. */
        if (block_node_replace(u->top, u->base, NULL)) {
            block_backing_set(u->top, NULL, NULL);
        }
    }
    if (u->bits && u->bitmap) {
        memcpy(u->bitmap->bits, u->bits, u->bitmap->words * sizeof(*u->bits));
        for (uint64_t w = 0; w < u->bitmap->words; w++) {
            u->bitmap->summary[w / 64] |= (uint64_t) !!u->bits[w] << (w % 64);
        }
        u->bitmap->enabled = u->enabled;
    } else if (u->bitmap) {
        dirty_bitmap_free(u->bitmap);
    }
}

bool block_op_transaction(BlockRegistry *reg, GPtrArray *actions, GError **error)
{
    g_autofree Undo *undos = g_new0(Undo, actions->len + 1);
    BlockDrain *drain = block_drain_all_begin(block_registry_graph(reg));
    bool ok = true;
    guint done;

    for (done = 0; done < actions->len; done++) {
        const QapiTransactionAction *a = g_ptr_array_index(actions, done);

        undos[done].kind = a->type;
        ok = act(reg, &undos[done], a, error);
        if (!ok) {
            break;
        }
    }
    for (guint i = done; !ok && i-- > 0;) {
        undo(reg, &undos[i]);
    }
    for (guint i = 0; ok && i < actions->len; i++) {
        const QapiTransactionAction *a = g_ptr_array_index(actions, i);

        if (a->type == QAPI_TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_REMOVE) {
            block_op_bitmap_remove(reg, a->u_block_dirty_bitmap_remove->data, NULL);
        }
    }
    for (guint i = 0; i < actions->len; i++) {
        g_free(undos[i].bits);
        if (undos[i].top) {
            block_node_unref(undos[i].top);
        }
        if (undos[i].base) {
            block_node_unref(undos[i].base);
        }
    }
    block_drain_end(drain);
    return ok;
}
