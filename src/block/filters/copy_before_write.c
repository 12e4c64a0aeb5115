/*
 * copy-before-write: before a write changes the disk, the old data goes to a target; and snapshot-access, the
 * disk as it was when the filter was made: what was saved from the target, the rest from the disk.
 *
 * Invariants:
 *  1. `done` marks what the target has. A write reaches the disk only after its units are done (or the
 * snapshot is given up), and no reader of the snapshot reads them from the disk.
 *  2. Who reads the snapshot from the disk is listed in `readers` from before it looked at `done` until it
 * has read; both under `lock`. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/block_copy.h"
#include "block/graph/graph.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

typedef struct Reader {
    struct Reader *next;
    uint64_t offset, bytes;
    CoQueue waiting;
} Reader;

typedef struct CbwNode {
    BlockNode node;
    BlockChild *target;
    BlockCopy copy;
    DirtyBitmap *todo, *done, *access; /* access: what the snapshot shows at all */
    bool break_snapshot;
    uint64_t timeout_ns; /* 0: none */
    int failed;          /* atomic: why the snapshot is given up */
    pthread_mutex_t lock;
    Reader *readers;
} CbwNode;

/* ---- saving ---- */

/* A copy that is waited for only so long. */
typedef struct TimedCopy {
    CbwNode *c;
    uint64_t offset, bytes;
    int ret;
    bool ended, abandoned;
    Coroutine *waiting;
} TimedCopy;

static void timed_copy_entry(void *opaque)
{
    TimedCopy *t = opaque;

    t->ret = block_copy_range(&t->c->copy, t->offset, t->bytes, NULL);
    t->ended = true;
    if (t->abandoned) {
        block_background_end(&t->c->node);
        g_free(t);
    } else if (t->waiting) {
        coroutine_enter(t->waiting);
    }
}

static int save_timed(CbwNode *c, uint64_t offset, uint64_t bytes)
{
    TimedCopy *t;
    int ret;

    if (!c->timeout_ns || !block_background_begin(&c->node)) {
        return block_copy_range(&c->copy, offset, bytes, NULL);
    }
    t = g_new0(TimedCopy, 1);
    *t = (TimedCopy){ .c = c, .offset = offset, .bytes = bytes };
    coroutine_enter(coroutine_new(timed_copy_entry, t));
    if (!t->ended) {
        t->waiting = coroutine_self();
        co_sleep_ns(loop_current(), (int64_t)c->timeout_ns); /* or until the copy has ended */
    }
    if (!t->ended) {
        t->waiting = NULL;
        t->abandoned = true; /* it ends when it ends, and frees itself */
        return -ETIMEDOUT;
    }
    ret = t->ret;
    block_background_end(&c->node);
    g_free(t);
    return ret;
}

static int before_write(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    CbwNode *c = (CbwNode *)node;
    uint64_t unit = c->done->granularity, start = offset / unit * unit,
             end = MIN((offset + bytes + unit - 1) / unit * unit, c->done->size);
    int ret;

    if (__atomic_load_n(&c->failed, __ATOMIC_SEQ_CST)) {
        return 0; /* nobody has a use for it any more */
    }
    ret = save_timed(c, offset, bytes);
    if (ret < 0 && !c->break_snapshot) {
        return ret; /* the write is not done */
    }
    pthread_mutex_lock(&c->lock);
    if (ret < 0) {
        int none = 0;

        __atomic_compare_exchange_n(&c->failed, &none, ret, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        dirty_bitmap_set(c->done, start, end - start);
    }
    for (Reader *r = c->readers; r;) {
        if (r->offset < end && start < r->offset + r->bytes) {
            co_queue_wait_unlock(&r->waiting, &c->lock);
            pthread_mutex_lock(&c->lock);
            r = c->readers;
            continue;
        }
        r = r->next;
    }
    pthread_mutex_unlock(&c->lock);
    return 0;
}

static int cbw_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          uint64_t from, unsigned flags)
{
    int ret = flags & BLOCK_REQ_WRITE_UNCHANGED ? 0 : before_write(node, offset, bytes);

    return ret ? ret : block_co_pwritev(node->file, offset, bytes, vec, from, flags);
}

static int cbw_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int ret = before_write(node, offset, bytes);

    return ret ? ret : block_co_pwrite_zeroes(node->file, offset, bytes, flags);
}

static int cbw_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int ret = before_write(node, offset, bytes);

    return ret ? ret : block_co_pdiscard(node->file, offset, bytes);
}

/* The guest's flush is of its disk. */
static int cbw_co_flush(BlockNode *node)
{
    return block_co_flush(node->file);
}

/* ---- the snapshot ---- */

/* Where the snapshot's data at offset is: *from_target and *bytes of it, or a negative errno. From the disk:
 * as a reader, until end_read(). */
static int begin_read(CbwNode *c, uint64_t offset, uint64_t *bytes, bool *from_target, Reader *reader)
{
    uint64_t start, n;
    int ret = 0;

    pthread_mutex_lock(&c->lock);
    if (__atomic_load_n(&c->failed, __ATOMIC_SEQ_CST)) {
        ret = -EACCES;
    } else if (!dirty_bitmap_next_dirty(c->access, offset, offset + *bytes, &start, &n) || start > offset) {
        ret = -EACCES; /* it was not to be kept */
    } else {
        *bytes = MIN(*bytes, start + n - offset);
        *from_target = false;
        if (dirty_bitmap_next_dirty(c->done, offset, offset + *bytes, &start, &n)) {
            *from_target = start <= offset;
            *bytes = MIN(*bytes, *from_target ? start + n - offset : start - offset);
        }
        if (!*from_target) {
            *reader = (Reader){ .next = c->readers, .offset = offset, .bytes = *bytes };
            co_queue_init(&reader->waiting);
            c->readers = reader;
        }
    }
    pthread_mutex_unlock(&c->lock);
    return ret;
}

static void end_read(CbwNode *c, Reader *reader)
{
    Reader **link;

    pthread_mutex_lock(&c->lock);
    for (link = &c->readers; *link != reader; link = &(*link)->next) {}
    *link = reader->next;
    co_queue_wake_all(&reader->waiting);
    pthread_mutex_unlock(&c->lock);
}

static int cbw_co_snapshot_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                                  uint64_t from)
{
    CbwNode *c = (CbwNode *)node;
    int ret = 0;

    while (bytes && !ret) {
        uint64_t n = bytes;
        bool from_target;
        Reader reader;

        ret = begin_read(c, offset, &n, &from_target, &reader);
        if (ret) {
            break;
        }
        ret = block_co_preadv(from_target ? c->target : node->file, offset, n, vec, from, 0);
        if (!from_target) {
            end_read(c, &reader);
        }
        offset += n;
        from += n;
        bytes -= n;
    }
    return ret;
}

static int cbw_co_snapshot_status(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *st)
{
    CbwNode *c = (CbwNode *)node;
    BlockStatus found;
    bool from_target;
    Reader reader;
    int ret = begin_read(c, offset, &bytes, &from_target, &reader);

    if (ret) {
        return ret;
    }
    ret =
        block_co_status_above(from_target ? c->target->node : node->file->node, NULL, offset, bytes, &found);
    if (!from_target) {
        end_read(c, &reader);
    }
    if (ret < 0) {
        return ret;
    }
    *st = (BlockStatus){ .flags = found.flags & BLOCK_STATUS_ZERO ? BLOCK_STATUS_ZERO : BLOCK_STATUS_DATA,
                         .bytes = found.bytes ? found.bytes : bytes };
    return 0;
}

/* Whole units of the snapshot that nobody wants any more: they need not be saved. */
static int cbw_co_snapshot_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    CbwNode *c = (CbwNode *)node;
    uint64_t unit = c->todo->granularity, end = offset + bytes;

    offset = (offset + unit - 1) / unit * unit;
    end = end >= c->todo->size ? c->todo->size : end / unit * unit;
    if (offset >= end) {
        return 0;
    }
    pthread_mutex_lock(&c->lock);
    dirty_bitmap_reset(c->access, offset, end - offset);
    pthread_mutex_unlock(&c->lock);
    pthread_mutex_lock(&c->copy.lock);
    dirty_bitmap_reset(c->todo, offset, end - offset);
    pthread_mutex_unlock(&c->copy.lock);
    return block_co_pdiscard(c->target, offset, end - offset);
}

/* ---- control plane ---- */

static DirtyBitmap *own_bitmap(BlockNode *node, uint32_t unit, GError **error)
{
    DirtyBitmap *bitmap = dirty_bitmap_new(node, NULL, unit, error);

    if (bitmap) {
        bitmap->enabled = false; /* no record of writes */
    }
    return bitmap;
}

static bool cbw_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    CbwNode *c = (CbwNode *)node;
    const QapiBlockdevOptionsCbw *o = options->u_copy_before_write;
    DirtyBitmap *wanted = NULL;
    uint32_t unit;

    pthread_mutex_init(&c->lock, NULL);
    block_copy_init(&c->copy, NULL, NULL, NULL);
    c->break_snapshot = o->has_on_cbw_error && o->on_cbw_error == QAPI_ON_CBW_ERROR_BREAK_SNAPSHOT;
    c->timeout_ns = o->has_cbw_timeout ? (uint64_t)o->cbw_timeout * 1000000000u : 0;
    if (!block_filter_open(node, "file", options, o->file, error) ||
        !block_child_open(node, "target", BLOCK_ROLE_DATA, &c->target, options, o->target, error)) {
        return false;
    }
    if (node->size != block_size(c->target)) {
        return error_set(
            error, "%s: the target has %" PRIu64 " bytes, the disk %" PRIu64 ": they must be of one size",
            node->what, block_size(c->target), node->size);
    }
    if (o->bitmap) {
        BlockNode *of = block_node_find(node->graph, o->bitmap->node);

        wanted = of ? dirty_bitmap_find(of, o->bitmap->name) : NULL;
        if (!wanted) {
            return error_set(error, "Dirty bitmap '%s' of node '%s' not found", o->bitmap->name,
                             o->bitmap->node);
        }
        if (wanted->size != node->size || wanted->inconsistent) {
            return error_set(error, "Dirty bitmap '%s' %s", o->bitmap->name,
                             wanted->inconsistent ? "is inconsistent and cannot be used"
                                                  : "is of a disk of another size");
        }
    }
    if (!block_copy_unit(c->target->node, &unit, error)) {
        return false;
    }
    c->todo = own_bitmap(node, unit, error);
    c->done = c->todo ? own_bitmap(node, unit, error) : NULL;
    c->access = c->done ? own_bitmap(node, unit, error) : NULL;
    if (!c->access) {
        return false;
    }
    if (wanted) {
        dirty_bitmap_merge(c->todo, wanted);
    } else if (node->size) {
        dirty_bitmap_set(c->todo, 0, node->size);
    }
    dirty_bitmap_merge(c->access, c->todo);
    c->copy.source = node->file;
    c->copy.target = c->target;
    c->copy.todo = c->todo;
    return true;
}

static void cbw_close(BlockNode *node)
{
    CbwNode *c = (CbwNode *)node;

    block_copy_destroy(&c->copy);
    pthread_mutex_destroy(&c->lock);
}

static void cbw_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                           unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    if (!(role & BLOCK_ROLE_FILTERED)) {
        /* The target may stand on the disk itself, which goes on being written. */
        *child_perm = node->inactive ? 0 : BLOCK_PERM_WRITE;
        *child_shared = BLOCK_PERM_ALL & ~(unsigned)BLOCK_PERM_RESIZE;
        return;
    }
    if (!node->parents->len) { /* made, but not yet in its place: its disk has other users */
        *child_perm = 0;
        *child_shared = BLOCK_PERM_ALL;
        return;
    }
    *child_perm = perm | (perm & BLOCK_PERM_WRITE ? BLOCK_PERM_CONSISTENT_READ : 0);
    *child_shared = shared & ~(unsigned)(perm & BLOCK_PERM_WRITE ? BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE : 0);
}

static const BlockDriver cbw_driver = {
    .name = "copy-before-write",
    .instance_size = sizeof(CbwNode),
    .is_filter = true,
    .any_alignment = true,
    .open = cbw_open,
    .close = cbw_close,
    .child_perm = cbw_child_perm,
    .co_pwritev = cbw_co_pwritev,
    .co_pwrite_zeroes = cbw_co_pwrite_zeroes,
    .co_pdiscard = cbw_co_pdiscard,
    .co_flush = cbw_co_flush,
    .co_snapshot_preadv = cbw_co_snapshot_preadv,
    .co_snapshot_status = cbw_co_snapshot_status,
    .co_snapshot_discard = cbw_co_snapshot_discard,
};
BLOCK_DRIVER(cbw_driver);

/* ---- snapshot-access ---- */

static bool access_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    if (!block_child_open(node, "file", BLOCK_ROLE_DATA | BLOCK_ROLE_PRIMARY, &node->file, options,
                          options->u_snapshot_access->file, error)) {
        return false;
    }
    if (!node->file->node->driver->co_snapshot_preadv) {
        return error_set(error, "%s: node '%s' keeps no snapshot: it must be copy-before-write, not %s",
                         node->what, node->file->node->name, node->file->node->driver->name);
    }
    node->size = block_size(node->file);
    return true;
}

static int access_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                            uint64_t from, unsigned flags)
{
    BlockNode *cbw = node->file->node;

    return cbw->driver->co_snapshot_preadv(cbw, offset, bytes, vec, from);
}

static int access_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                                  BlockStatus *st)
{
    BlockNode *cbw = node->file->node;

    return cbw->driver->co_snapshot_status(cbw, offset, bytes, st);
}

static int access_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    BlockNode *cbw = node->file->node;

    return cbw->driver->co_snapshot_discard(cbw, offset, bytes);
}

static int access_co_flush(BlockNode *node)
{
    return 0;
}

/* It goes by the filter's own ways and needs nothing of it that others might have. */
static void access_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                              unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    *child_perm = 0;
    *child_shared = BLOCK_PERM_ALL;
}

static bool access_can_replace_child(BlockNode *node, const BlockChild *child, GError **error)
{
    return error_set(error, "Node '%s' shows the snapshot of '%s' and cannot be led elsewhere", node->name,
                     child->node->name);
}

static const BlockDriver access_driver = {
    .name = "snapshot-access",
    .any_alignment = true,
    .open = access_open,
    .child_perm = access_child_perm,
    .can_replace_child = access_can_replace_child,
    .co_preadv = access_co_preadv,
    .co_pdiscard = access_co_pdiscard,
    .co_flush = access_co_flush,
    .co_block_status = access_co_block_status,
};
BLOCK_DRIVER(access_driver);
