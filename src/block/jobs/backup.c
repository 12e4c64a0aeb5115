/*
 * backup: a target gets what the source holds at this moment, while the source goes on being written: a
 * filter over the source copies what is about to be overwritten first. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/jobs/job_internal.h"

#include "base/error.h"
#include "block/graph/block_copy.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct BackupJob {
    Job job;
    BlockNode *source_node, *target_node, *filter; /* counted */
    BlockChild *root; /* on the filter: pieces of the job count as its requests */
    BlockChild
        *target; /* the filter's edge, like the source: what a guest's write waits for goes on in a drain */
    BlockCopy copy;
    DirtyBitmap *todo, *bitmap;
    uint32_t unit;
    JobSync sync;
    int bitmap_mode;
    bool compress;
    int failed; /* atomic: a write of the guest could not save the old data */
    bool failed_read;
} BackupJob;

/* ---- the filter ---- */

static void before_write(void *owner, uint64_t offset, uint64_t bytes)
{
    BackupJob *b = owner;
    bool is_read = false;
    int ret;

    if (__atomic_load_n(&b->failed, __ATOMIC_SEQ_CST)) {
        return;
    }
    ret = block_copy_range(&b->copy, offset, bytes, &is_read);
    if (ret < 0) { /* the guest goes on; the backup has failed */
        b->failed_read = is_read;
        __atomic_store_n(&b->failed, ret, __ATOMIC_SEQ_CST);
    }
}

static void cbw_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                           unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    *child_perm = node->steps_aside ? 0 : perm;
    *child_shared = node->steps_aside ? BLOCK_PERM_ALL : shared;
}

static const BlockDriver cbw_driver = {
    .name = "copy-before-write",
    .is_filter = true,
    .any_alignment = true,
    .instance_size = sizeof(BlockSaver),
    .child_perm = cbw_child_perm,
    .co_pwritev = block_saver_co_pwritev,
    .co_pwrite_zeroes = block_saver_co_pwrite_zeroes,
    .co_pdiscard = block_saver_co_pdiscard,
};

/* ---- the job ---- */

typedef struct BackupOp {
    BackupJob *b;
    uint64_t offset, bytes;
} BackupOp;

static void op_entry(void *opaque)
{
    BackupOp *op = opaque;
    BackupJob *b = op->b;
    bool is_read = false;
    int ret;

    block_root_hold(b->root);
    ret = block_copy_range(&b->copy, op->offset, op->bytes, &is_read);
    block_root_release(b->root);
    if (ret < 0 && job_failed(&b->job, is_read, -ret)) {
        b->failed_read = is_read;
        __atomic_store_n(&b->failed, ret, __ATOMIC_SEQ_CST);
    }
    g_free(op);
    job_op_end(&b->job);
}

static int find_work(BackupJob *b)
{
    uint64_t size = b->todo->size, n;

    if (b->sync != JOB_SYNC_TOP) {
        return 0;
    }
    for (uint64_t at = 0; at < size; at += n) { /* what is not in the top image need not be copied */
        BlockNode *top = block_skip_filters(b->source_node);
        int ret = block_co_is_allocated_above(top, top, true, at, MIN(size - at, 1u << 30), &n);

        if (ret < 0) {
            return ret;
        }
        if (!n) {
            break;
        }
        if (!ret) {
            dirty_bitmap_reset(b->todo, at, n);
        }
    }
    return 0;
}

static int backup_run(Job *job, GError **error)
{
    BackupJob *b = (BackupJob *)job;
    uint64_t cursor = 0, start, bytes;
    int ret = find_work(b);

    job->total = b->sync == JOB_SYNC_NONE ? b->todo->size : dirty_bitmap_count(b->todo);
    while (!ret && !job_pause_point(job)) {
        BackupOp *op;

        ret = __atomic_load_n(&b->failed, __ATOMIC_SEQ_CST);
        if (ret) {
            break;
        }
        if (b->sync == JOB_SYNC_NONE) {
            job_sleep_ns(job, 100000000); /* the filter does it all, until it is cancelled */
            continue;
        }
        if (!dirty_bitmap_next_dirty(b->todo, cursor, UINT64_MAX, &start, &bytes)) {
            if (job->ops) {
                job_wait(job);
                cursor = 0;
                continue;
            }
            if (cursor) {
                cursor = 0; /* what failed and was to be ignored or tried again */
                if (!dirty_bitmap_next_dirty(b->todo, 0, UINT64_MAX, &start, &bytes)) {
                    break;
                }
                continue;
            }
            break;
        }
        bytes = MIN(bytes, MAX((uint64_t)b->unit, (uint64_t)JOB_CHUNK / b->unit * b->unit));
        if (b->compress) {
            bytes = MIN(bytes, b->unit);
        }
        op = g_new(BackupOp, 1);
        *op = (BackupOp){ b, start, bytes };
        cursor = start + bytes;
        job_op_start(job, op_entry, op);
        job_limit(job, bytes);
    }
    job_ops_wait(job);
    ret = ret ? ret : __atomic_load_n(&b->failed, __ATOMIC_SEQ_CST);
    if (!ret && !job->cancelled) {
        block_root_hold(b->root);
        ret = block_co_flush(b->target);
        block_root_release(b->root);
    }
    if (ret) {
        error_set_errno(error, -ret,
                        b->failed_read ? "Reading the source failed" : "Writing to the target failed");
    }
    return ret;
}

static void backup_clean(Job *job, bool ok)
{
    BackupJob *b = (BackupJob *)job;

    block_root_free(b->root);
    if (b->filter) {
        BlockDrain *drain = block_drain_begin(b->filter);

        ((BlockSaver *)b->filter)->owner = NULL;
        block_drain_end(drain);
        block_node_remove_filter(b->filter);
    }
    if (b->bitmap) {
        DirtyBitmap *next = b->bitmap->successor;

        if (next) {
            /* What was written meanwhile is for the next backup; what was not copied too. */
            if ((ok && b->bitmap_mode == 0) || b->bitmap_mode == 2) {
                dirty_bitmap_clear(b->bitmap);
                if (!ok) {
                    dirty_bitmap_merge(b->bitmap, b->todo);
                }
            }
            dirty_bitmap_merge(b->bitmap, next);
            b->bitmap->successor = NULL;
            __atomic_store_n(&b->bitmap->enabled, next->enabled, __ATOMIC_SEQ_CST);
            dirty_bitmap_free(next);
        }
        b->bitmap->busy = false;
    }
    dirty_bitmap_free(b->todo);
    block_node_unref(b->source_node);
    block_node_unref(b->target_node);
    block_copy_destroy(&b->copy);
}

static const JobDriver backup_driver = {
    .instance_size = sizeof(BackupJob),
    .type = "backup",
    .is_block_job = true,
    .run = backup_run,
    .clean = backup_clean,
};

static bool backup_open(BackupJob *b, const BackupStart *o, GError **error)
{
    BlockDrain *drain;

    if (!block_copy_unit(b->target_node, &b->unit, error)) {
        return false;
    }
    if (o->bitmap) {
        b->bitmap = dirty_bitmap_find(b->source_node, o->bitmap);
        if (!b->bitmap) {
            return error_set(error, "Bitmap '%s' could not be found", o->bitmap);
        }
        if (b->bitmap->busy || b->bitmap->inconsistent) {
            const char *why = b->bitmap->busy ? "is currently in use by another operation and cannot be used"
                                              : "is inconsistent and cannot be used";

            b->bitmap = NULL;
            return error_set(error, "Bitmap '%s' %s", o->bitmap, why);
        }
    }
    if (b->compress && !block_skip_filters(b->target_node)->driver->co_pwritev_compressed) {
        b->bitmap = NULL;
        return error_set(error, "Compression is not supported for this drive %s", b->target_node->name);
    }
    if (b->source_node->size != b->target_node->size) {
        b->bitmap = NULL;
        return error_set(error, "Source and target image have different sizes");
    }
    b->todo = dirty_bitmap_new(b->source_node, NULL, b->unit, error);
    if (!b->todo) {
        b->bitmap = NULL;
        return false;
    }
    b->todo->enabled = false; /* it is ours, no record of writes */
    /* From here on in one drain: the moment that the backup is of. */
    drain = block_drain_begin(b->source_node);
    if (b->bitmap) {
        b->bitmap->successor = dirty_bitmap_new(b->source_node, NULL, b->bitmap->granularity, error);
        if (!b->bitmap->successor) {
            b->bitmap = NULL;
            block_drain_end(drain);
            return false;
        }
        b->bitmap->successor->enabled = b->bitmap->enabled;
        b->bitmap->enabled = false;
        b->bitmap->busy = true;
        dirty_bitmap_merge(b->todo, b->bitmap);
    } else {
        dirty_bitmap_set(b->todo, 0, b->todo->size);
    }
    b->filter = block_node_insert_filter_to(b->source_node, &cbw_driver, o->filter_name, b->target_node,
                                            &b->target, error);
    if (b->filter) {
        bool compress = b->compress;

        block_copy_destroy(&b->copy);
        block_copy_init(&b->copy, b->filter->backing, b->target, b->todo);
        b->copy.compress = compress;
        b->copy.copied = &b->job.current;
        b->root = block_root_new(b->filter, "job", 0, BLOCK_PERM_ALL, &block_job_root_ops, b, error);
    }
    if (b->filter && b->root) {
        b->root->stays = true;
        ((BlockSaver *)b->filter)->save = before_write;
        ((BlockSaver *)b->filter)->owner = b;
    }
    block_drain_end(drain);
    return b->root != NULL;
}

bool job_backup_start(JobManager *jobs, BlockNode *source, BlockNode *target, const BackupStart *o,
                      GError **error)
{
    BackupJob *b;

    if (source == target) {
        return error_set(error, "Source and target cannot be the same");
    }
    if ((o->sync == JOB_SYNC_INCREMENTAL || o->sync == JOB_SYNC_BITMAP) && !o->bitmap) {
        return error_set(error, "must provide a valid bitmap name for '%s' sync mode",
                         o->sync == JOB_SYNC_BITMAP ? "bitmap" : "incremental");
    }
    if (o->bitmap && o->sync != JOB_SYNC_INCREMENTAL && o->sync != JOB_SYNC_BITMAP) {
        return error_set(error,
                         "Bitmap '%s' given, but the sync mode takes none: use sync=bitmap or incremental",
                         o->bitmap);
    }
    if (o->sync == JOB_SYNC_INCREMENTAL && o->bitmap_mode != 0) {
        return error_set(error, "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'");
    }
    b = (BackupJob *)job_new(jobs, &backup_driver, source->implicit_name ? NULL : source->name, &o->start,
                             error);
    if (!b) {
        return false;
    }
    block_copy_init(&b->copy, NULL, NULL, NULL);
    b->source_node = source;
    b->target_node = target;
    block_node_ref(source);
    block_node_ref(target);
    b->sync = o->sync;
    b->bitmap_mode = o->bitmap_mode;
    b->compress = o->compress;
    if (!backup_open(b, o, error)) {
        backup_clean(&b->job, false);
        job_drop(&b->job);
        return false;
    }
    job_run(&b->job);
    return true;
}
