/*
 * replication: a disk that a primary and a secondary machine hold, as docs/block-replication.txt of QEMU
 * draws it.
 *
 *   primary:   quorum (fifo) over the disk and replication(primary) over an NBD client of the secondary's
 * disk secondary: replication(secondary) over the active image, whose backing image is the hidden image,
 * whose backing image is the disk, which the primary writes through the NBD server
 *
 * While it runs a filter stands over the secondary's disk that saves what the primary overwrites into the
 * hidden image first. The active image has what the secondary's guest wrote. So active over hidden over disk
 * is the secondary's own view; a checkpoint empties both, and the disk alone is the truth again.
 *
 * Invariants:
 *  1. The hidden image has every unit of the disk that was written by others since the last checkpoint, as it
 * was then, before the write reaches the disk (or `error` is set).
 *  2. hidden's backing edge leads to the disk itself, never to the filter. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/replication.h"
#include "block/graph/block_copy.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

#define COPY_BYTES (1u << 20)

typedef enum Stage { NONE, RUNNING, FAILOVER_FAILED, DONE } Stage;

typedef struct ReplicationNode {
    BlockNode node;
    QapiReplicationMode mode;
    Stage stage; /* atomic */
    int error;   /* atomic: the first */
    /* secondary, while it runs; counted */
    BlockNode *active, *hidden, *disk, *filter;
    bool hidden_was_read_only, disk_was_read_only;
    DirtyBitmap *todo; /* of the filter */
    BlockCopy copy;
} ReplicationNode;

static Stage stage_of(const ReplicationNode *r)
{
    return __atomic_load_n(&r->stage, __ATOMIC_SEQ_CST);
}

static void note_error(ReplicationNode *r, int ret)
{
    int none = 0;

    __atomic_compare_exchange_n(&r->error, &none, ret, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* ---- the filter over the secondary's disk ---- */

static void save(void *owner, uint64_t offset, uint64_t bytes)
{
    ReplicationNode *r = owner;
    int ret = block_copy_range(&r->copy, offset, bytes, NULL);

    if (ret < 0) { /* who manages both machines decides what that means */
        note_error(r, ret);
    }
}

static int saver_co_flush(BlockNode *node)
{
    return block_co_flush(node->backing);
}

static void saver_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                             unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    if (node->steps_aside || (node->opening && role & BLOCK_ROLE_FILTERED)) {
        *child_perm = 0;
        *child_shared = BLOCK_PERM_ALL;
    } else if (role & BLOCK_ROLE_FILTERED) {
        *child_perm = perm;
        /* Whoever writes the disk comes this way: later users must not go past it. */
        *child_shared =
            (shared | BLOCK_PERM_CONSISTENT_READ) & ~(unsigned)(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE);
    } else {
        *child_perm = BLOCK_PERM_WRITE;
        *child_shared = BLOCK_PERM_ALL & ~(unsigned)BLOCK_PERM_RESIZE;
    }
}

static const BlockDriver saver_driver = {
    .name = "replication-saver",
    .is_filter = true,
    .any_alignment = true,
    .instance_size = sizeof(BlockSaver),
    .child_perm = saver_child_perm,
    .co_pwritev = block_saver_co_pwritev,
    .co_pwrite_zeroes = block_saver_co_pwrite_zeroes,
    .co_pdiscard = block_saver_co_pdiscard,
    .co_flush = saver_co_flush,
};

/* ---- requests of the node ---- */

static int may_read(const ReplicationNode *r)
{
    return r->mode == QAPI_REPLICATION_MODE_PRIMARY || stage_of(r) == NONE ? -EIO : 0;
}

static int may_write(const ReplicationNode *r)
{
    Stage stage = stage_of(r);

    if (r->mode == QAPI_REPLICATION_MODE_PRIMARY) {
        return stage == RUNNING ? 0 : -EIO;
    }
    return stage == NONE ? -EIO : 0;
}

/* The primary's guest goes on though its writes do not reach the secondary. */
static int written(ReplicationNode *r, int ret)
{
    if (ret < 0 && r->mode == QAPI_REPLICATION_MODE_PRIMARY) {
        note_error(r, ret);
        return 0;
    }
    return ret;
}

static int replication_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                                 uint64_t from, unsigned flags)
{
    int ret = may_read((ReplicationNode *)node);

    return ret ? ret : block_co_preadv(node->file, offset, bytes, vec, from, flags);
}

static int replication_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                                  uint64_t from, unsigned flags)
{
    ReplicationNode *r = (ReplicationNode *)node;
    int ret = may_write(r);

    return ret ? ret : written(r, block_co_pwritev(node->file, offset, bytes, vec, from, flags));
}

static int replication_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    ReplicationNode *r = (ReplicationNode *)node;
    int ret = may_write(r);

    if (!ret) {
        ret = block_co_pwrite_zeroes(node->file, offset, bytes, flags);
        ret = ret == -ENOTSUP ? ret : written(r, ret);
    }
    return ret;
}

static int replication_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    ReplicationNode *r = (ReplicationNode *)node;
    int ret = may_write(r);

    return ret ? ret : written(r, block_co_pdiscard(node->file, offset, bytes));
}

static int replication_co_flush(BlockNode *node)
{
    ReplicationNode *r = (ReplicationNode *)node;

    if (may_write(r)) {
        return 0; /* nothing was written */
    }
    return written(r, block_co_flush(node->file));
}

/* ---- opening ---- */

static bool replication_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    ReplicationNode *r = (ReplicationNode *)node;
    const QapiBlockdevOptionsReplication *o = options->u_replication;

    block_copy_init(&r->copy, NULL, NULL, NULL);
    r->mode = o->mode;
    if (r->mode == QAPI_REPLICATION_MODE_PRIMARY && o->top_id) {
        return error_set(error, "The primary side does not support option top-id");
    }
    if (r->mode == QAPI_REPLICATION_MODE_SECONDARY && !o->top_id) {
        return error_set(error, "Missing the option top-id");
    }
    return block_filter_open(node, "file", options, o->file, error);
}

static void replication_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                                   unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    *child_perm = BLOCK_PERM_CONSISTENT_READ | (node->read_only || node->inactive ? 0 : BLOCK_PERM_WRITE);
    /* The hidden image is filled, and the disk below written, while the guest uses them. */
    *child_shared = BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_UNCHANGED;
}

/* ---- start, checkpoint, stop ---- */

static void drop_filter(ReplicationNode *r)
{
    if (r->filter) {
        BlockDrain *drain = block_drain_begin(r->filter);

        ((BlockSaver *)r->filter)->owner = NULL;
        block_drain_end(drain);
        r->todo = NULL; /* goes with it */
        block_node_remove_filter(r->filter);
        r->filter = NULL;
    }
}

static void secondary_let_go(ReplicationNode *r)
{
    drop_filter(r);
    if (r->hidden_was_read_only) {
        block_node_set_read_only(r->hidden, true, NULL);
    }
    if (r->disk_was_read_only && stage_of(r) != DONE) {
        block_node_set_read_only(r->disk, true, NULL);
    }
    r->hidden_was_read_only = r->disk_was_read_only = false;
    g_clear_pointer(&r->active, block_node_unref);
    g_clear_pointer(&r->hidden, block_node_unref);
    g_clear_pointer(&r->disk, block_node_unref);
}

static void replication_close(BlockNode *node)
{
    ReplicationNode *r = (ReplicationNode *)node;

    secondary_let_go(r);
    block_copy_destroy(&r->copy);
}

typedef struct Empty {
    BlockNode *node;
    int ret;
} Empty;

static void empty_entry(void *opaque)
{
    Empty *e = opaque;

    e->ret = e->node->driver->co_make_empty(e->node);
}

static bool make_empty(ReplicationNode *r, BlockNode *node, GError **error)
{
    Empty e = { .node = node };

    block_run(node->graph, empty_entry, &e);
    if (e.ret < 0) {
        note_error(r, e.ret);
        return error_set_errno(error, -e.ret, "Cannot make %s empty", node->what);
    }
    return true;
}

static bool secondary_checkpoint(ReplicationNode *r, GError **error)
{
    BlockDrain *drain = block_drain_begin(r->disk);
    bool ok = make_empty(r, r->active, error) && make_empty(r, r->hidden, error);

    if (ok && r->todo) {
        dirty_bitmap_set(r->todo, 0, r->todo->size);
    }
    block_drain_end(drain);
    return ok;
}

static bool secondary_start(ReplicationNode *r, GError **error)
{
    BlockNode *node = &r->node, *active = block_skip_filters(node->file->node), *hidden, *disk;
    BlockDrain *drain;
    BlockChild *target;
    uint32_t unit;

    hidden = block_skip_filters(block_cow_child(active));
    if (!hidden) {
        return error_set(error, "Active disk %s doesn't have backing file", active->name);
    }
    disk = block_cow_child(hidden);
    if (!disk) {
        return error_set(error, "Hidden disk %s doesn't have backing file", hidden->name);
    }
    if (active->size != hidden->size || active->size != disk->size) {
        return error_set(error, "Active disk, hidden disk, secondary disk's length are not the same");
    }
    if (!active->driver->co_make_empty || !hidden->driver->co_make_empty) {
        return error_set(error, "Active disk %s or hidden disk %s cannot be made empty: use qcow2",
                         active->name, hidden->name);
    }
    r->active = active;
    r->hidden = hidden;
    r->disk = disk;
    block_node_ref(active);
    block_node_ref(hidden);
    block_node_ref(disk);
    if (hidden->read_only) {
        if (!block_node_set_read_only(hidden, false, error)) {
            return false;
        }
        r->hidden_was_read_only = true;
    }
    if (disk->read_only) {
        if (!block_node_set_read_only(disk, false, error)) {
            return false;
        }
        r->disk_was_read_only = true;
    }
    if (!block_copy_unit(hidden, &unit, error)) {
        return false;
    }
    drain = block_drain_begin(disk);
    r->filter = block_node_insert_filter_to(disk, &saver_driver, NULL, hidden, &target, error);
    r->todo = r->filter ? dirty_bitmap_new(r->filter, NULL, unit, error) : NULL;
    if (r->todo) {
        r->todo->enabled = false;
        block_copy_destroy(&r->copy);
        block_copy_init(&r->copy, r->filter->backing, target, r->todo);
        ((BlockSaver *)r->filter)->save = save;
        ((BlockSaver *)r->filter)->owner = r;
    }
    block_drain_end(drain);
    return r->todo && secondary_checkpoint(r, error);
}

static bool start_one(ReplicationNode *r, QapiReplicationMode mode, GError **error)
{
    if (stage_of(r) == RUNNING) {
        return error_set(error, "Block replication of node '%s' is running already", r->node.name);
    }
    if (r->mode != mode) {
        return error_set(error, "Node '%s' has the mode '%s', not '%s'", r->node.name,
                         enum_name(&qapi_ReplicationMode_lookup, r->mode),
                         enum_name(&qapi_ReplicationMode_lookup, mode));
    }
    __atomic_store_n(&r->error, 0, __ATOMIC_SEQ_CST);
    if (mode == QAPI_REPLICATION_MODE_SECONDARY && !secondary_start(r, error)) {
        secondary_let_go(r);
        return false;
    }
    __atomic_store_n(&r->stage, RUNNING, __ATOMIC_SEQ_CST);
    return true;
}

/* What stands above the disk comes into it: the secondary's own view becomes the disk. */
static int commit_view(BlockChild *view, BlockChild *disk)
{
    uint64_t size = block_size(view), n;
    uint8_t *buf = block_buffer_try(view, COPY_BYTES);
    int ret = buf ? 0 : -ENOMEM;

    for (uint64_t at = 0; at < size && !ret; at += n) {
        ret = block_co_is_allocated_above(view->node, disk->node, false, at, MIN(size - at, COPY_BYTES), &n);
        if (ret > 0) {
            ret = block_co_pread(view, at, n, buf, 0);
            ret = ret ? ret : block_co_pwrite(disk, at, n, buf, 0);
        }
        if (!ret && !n) {
            ret = -EIO;
        }
    }
    g_aligned_free(buf);
    return ret ? ret : block_co_flush(disk);
}

typedef struct Commit {
    BlockChild *view, *disk;
    int ret;
} Commit;

static void commit_entry(void *opaque)
{
    Commit *c = opaque;

    c->ret = commit_view(c->view, c->disk);
}

static bool secondary_failover(ReplicationNode *r, GError **error)
{
    BlockDrain *drain;
    Commit c = { 0 };
    bool ok = false;

    drain = block_drain_begin(r->disk);
    c.view =
        block_root_new(r->active, "failover", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL, NULL, NULL, error);
    c.disk = c.view ? block_root_new(r->disk, "failover", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, NULL, NULL, error)
                    : NULL;
    if (c.disk) {
        c.view->exempt = c.disk->exempt = true; /* all others stand still meanwhile */
        block_run(r->node.graph, commit_entry, &c);
        ok = c.ret == 0 || error_set_errno(error, -c.ret, "Failover of node '%s': cannot write %s",
                                           r->node.name, r->disk->what);
    }
    block_root_free(c.disk);
    block_root_free(c.view);
    ok = ok && block_child_replace(r->node.file, r->disk, error);
    block_drain_end(drain);
    return ok;
}

static bool stop_one(ReplicationNode *r, bool failover, GError **error)
{
    bool ok = true;

    if (stage_of(r) != RUNNING && stage_of(r) != FAILOVER_FAILED) {
        return error_set(error, "Block replication is not running");
    }
    if (r->mode == QAPI_REPLICATION_MODE_SECONDARY) {
        drop_filter(r); /* the primary writes no more */
        ok = failover ? secondary_failover(r, error) : secondary_checkpoint(r, error);
        __atomic_store_n(&r->stage, ok ? DONE : FAILOVER_FAILED, __ATOMIC_SEQ_CST);
        if (ok) {
            secondary_let_go(r);
        }
    } else {
        __atomic_store_n(&r->stage, DONE, __ATOMIC_SEQ_CST);
    }
    __atomic_store_n(&r->error, 0, __ATOMIC_SEQ_CST);
    return ok;
}

/* ---- all of them ---- */

static const BlockDriver replication_driver;

static ReplicationNode *next_node(BlockGraph *graph, guint *index)
{
    GPtrArray *nodes = block_graph_nodes(graph);

    while (*index < nodes->len) {
        BlockNode *node = g_ptr_array_index(nodes, (*index)++);

        if (node->driver == &replication_driver) {
            return (ReplicationNode *)node;
        }
    }
    return NULL;
}

/* The nodes, which may change while one is worked on, are taken first. */
static GPtrArray *all_nodes(BlockGraph *graph)
{
    GPtrArray *all = g_ptr_array_new();
    guint i = 0;

    for (ReplicationNode *r; (r = next_node(graph, &i));) {
        g_ptr_array_add(all, r);
    }
    return all;
}

bool replication_start_all(BlockGraph *graph, QapiReplicationMode mode, GError **error)
{
    g_autoptr(GPtrArray) all = all_nodes(graph);

    for (guint i = 0; i < all->len; i++) {
        if (!start_one(g_ptr_array_index(all, i), mode, error)) {
            while (i-- > 0) {
                stop_one(g_ptr_array_index(all, i), false, NULL);
            }
            return false;
        }
    }
    return true;
}

bool replication_checkpoint_all(BlockGraph *graph, GError **error)
{
    g_autoptr(GPtrArray) all = all_nodes(graph);
    bool ok = true;

    for (guint i = 0; i < all->len && ok; i++) {
        ReplicationNode *r = g_ptr_array_index(all, i);

        if (stage_of(r) == RUNNING && r->mode == QAPI_REPLICATION_MODE_SECONDARY) {
            ok = secondary_checkpoint(r, error);
        }
    }
    return ok;
}

bool replication_check_all(BlockGraph *graph, GError **error)
{
    g_autoptr(GPtrArray) all = all_nodes(graph);

    for (guint i = 0; i < all->len; i++) {
        ReplicationNode *r = g_ptr_array_index(all, i);
        int ret = __atomic_load_n(&r->error, __ATOMIC_SEQ_CST);

        if (stage_of(r) == NONE) {
            return error_set(error, "Block replication of node '%s' is not running", r->node.name);
        }
        if (ret) {
            return error_set_errno(error, -ret, "Block replication of node '%s': I/O error occurred",
                                   r->node.name);
        }
    }
    return true;
}

bool replication_stop_all(BlockGraph *graph, bool failover, GError **error)
{
    g_autoptr(GPtrArray) all = all_nodes(graph);
    bool ok = true;

    for (guint i = 0; i < all->len; i++) { /* the first error is told, the others are stopped all the same */
        ok = stop_one(g_ptr_array_index(all, i), failover, ok ? error : NULL) && ok;
    }
    return ok;
}

static const BlockDriver replication_driver = {
    .name = "replication",
    .instance_size = sizeof(ReplicationNode),
    .is_filter = true,
    .any_alignment = true,
    .open = replication_open,
    .close = replication_close,
    .child_perm = replication_child_perm,
    .co_preadv = replication_co_preadv,
    .co_pwritev = replication_co_pwritev,
    .co_pwrite_zeroes = replication_co_pwrite_zeroes,
    .co_pdiscard = replication_co_pdiscard,
    .co_flush = replication_co_flush,
};
BLOCK_DRIVER(replication_driver);
