/*
 * mirror: makes a target the same as a source that is in use, keeps it so, and lets it take the source's
 * place when asked; and the commit of the active image, which is a mirror into its own backing image.
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Invariants:
 *  1. What is different in source and target is dirty, or in an operation under way. A write of the guest
 * marks it after it is done; an operation clears first and reads then.
 *  2. Two operations under way never overlap.
 *  3. The switch happens while the source is drained, with nothing dirty and the target flushed.
 */
#include "block/jobs/job_internal.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

typedef struct MirrorJob {
    Job job;
    BlockNode *source_node, *target_node; /* counted */
    BlockNode *base;                      /* sync=top: not what stands from here on; NULL: all */
    BlockNode *filter;                    /* over the active image that is committed; or NULL */
    BlockChild *source, *target;
    DirtyBitmap *dirty;
    JobSync sync;
    bool unmap, is_commit, should_complete, target_was_read_only;
    char *replaces;
    uint64_t cursor;
    struct MirrorOp *ops;
    int failed; /* negative errno of an operation that ends the job */
    bool failed_read;
} MirrorJob;

typedef struct MirrorOp {
    struct MirrorOp *next;
    MirrorJob *m;
    uint64_t offset, bytes;
} MirrorOp;

/* ---- the filter of an active commit: it only has other permissions ---- */

static void top_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                           unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    /* What is read stays the same all the time, though the images below are not consistent by themselves. */
    *child_perm = node->steps_aside ? 0 : perm & ~(unsigned)BLOCK_PERM_CONSISTENT_READ;
    *child_shared = BLOCK_PERM_ALL;
}

const BlockDriver block_mirror_top = {
    .name = "mirror_top",
    .is_filter = true,
    .any_alignment = true,
    .instance_size = sizeof(BlockNode),
    .child_perm = top_child_perm,
};

/* ---- copying ---- */

/* One piece. Negative: failed; *is_read says at which end. */
static int copy_piece(MirrorJob *m, uint64_t offset, uint64_t bytes, bool *is_read)
{
    uint64_t end = offset + bytes;
    uint8_t *buf = NULL;
    int ret = 0;

    while (offset < end && !ret) {
        BlockStatus st;
        uint64_t n;

        *is_read = true;
        ret = block_co_status_above(m->source->node, m->base, offset, end - offset, &st);
        if (ret < 0) {
            break;
        }
        if (!st.bytes) {
            break; /* the source got shorter */
        }
        n = st.bytes;
        *is_read = false;
        if (m->base && !(st.flags & BLOCK_STATUS_ALLOCATED)) {
            /* Of the base, which the target has of its own. */
        } else if (st.flags & BLOCK_STATUS_ZERO) {
            ret = block_co_pwrite_zeroes(m->target, offset, n, m->unmap ? BLOCK_REQ_MAY_UNMAP : 0);
        } else {
            if (!buf) {
                buf = block_buffer_try(m->source, bytes);
                if (!buf) {
                    return -ENOMEM;
                }
            }
            *is_read = true;
            ret = block_co_pread(m->source, offset, n, buf, 0);
            if (!ret) {
                *is_read = false;
                ret = block_co_pwrite(m->target, offset, n, buf, 0);
            }
        }
        offset += n;
    }
    g_aligned_free(buf);
    return ret;
}

static void op_entry(void *opaque)
{
    MirrorOp *op = opaque, **link;
    MirrorJob *m = op->m;
    bool is_read = false;
    int ret = copy_piece(m, op->offset, op->bytes, &is_read);

    if (ret < 0) {
        dirty_bitmap_set(m->dirty, op->offset, op->bytes);
        if (job_failed(&m->job, is_read, -ret) && !m->failed) {
            m->failed = ret;
            m->failed_read = is_read;
        }
    } else {
        m->job.current += op->bytes;
    }
    for (link = &m->ops; *link != op; link = &(*link)->next) {}
    *link = op->next;
    g_free(op);
    job_op_end(&m->job);
}

static bool under_way(MirrorJob *m, uint64_t offset, uint64_t bytes)
{
    for (MirrorOp *op = m->ops; op; op = op->next) {
        if (offset < op->offset + op->bytes && op->offset < offset + bytes) {
            return true;
        }
    }
    return false;
}

/* What has to be copied at first. */
static int find_work(MirrorJob *m)
{
    uint64_t size = block_size(m->source), n;

    if (m->sync == JOB_SYNC_NONE) {
        return 0;
    }
    if (!m->base && m->sync == JOB_SYNC_FULL) {
        dirty_bitmap_set(m->dirty, 0, size);
        return 0;
    }
    for (uint64_t at = 0; at < size && !job_pause_point(&m->job); at += n) {
        int ret =
            block_co_is_allocated_above(m->source->node, m->base, false, at, MIN(size - at, 1u << 30), &n);

        if (ret < 0) {
            return ret;
        }
        if (!n) {
            break;
        }
        if (ret) {
            dirty_bitmap_set(m->dirty, at, n);
        }
    }
    return 0;
}

static void tell_progress(MirrorJob *m)
{
    uint64_t left = dirty_bitmap_count(m->dirty);

    for (MirrorOp *op = m->ops; op; op = op->next) {
        left += op->bytes;
    }
    m->job.total = m->job.current + left;
}

static int mirror_run(Job *job, GError **error)
{
    MirrorJob *m = (MirrorJob *)job;
    uint64_t chunk = MAX(JOB_CHUNK, m->dirty->granularity);
    bool flushed = false;
    int ret = find_work(m);

    while (!ret) {
        uint64_t start, bytes;

        if (job_pause_point(job)) {
            break;
        }
        if (m->failed) {
            ret = m->failed;
            break;
        }
        tell_progress(m);
        if (!dirty_bitmap_next_dirty(m->dirty, m->cursor, UINT64_MAX, &start, &bytes)) {
            if (m->cursor) {
                m->cursor = 0;
                continue;
            }
            if (m->ops) {
                job_wait(job);
                continue;
            }
            if (!flushed) {
                ret = block_co_flush(m->target);
                flushed = true;
                if (ret < 0 && !job_failed(job, false, -ret)) {
                    ret = 0;
                    flushed = false;
                }
                continue;
            }
            if (!job->ready) {
                job_set_ready(job);
            }
            if (m->should_complete || job->cancelled) {
                break;
            }
            job_sleep_ns(job, 20000000);
            continue;
        }
        /* Whole granules, since those are what is cleared. */
        start -= start % m->dirty->granularity;
        bytes = MIN(MIN(bytes + m->dirty->granularity - 1, chunk), m->dirty->size - start);
        bytes -= start + bytes == m->dirty->size ? 0 : bytes % m->dirty->granularity;
        if (under_way(m, start, bytes)) {
            job_wait(job);
            continue;
        }
        flushed = false;
        MirrorOp *op = g_new(MirrorOp, 1);

        *op = (MirrorOp){ .next = m->ops, .m = m, .offset = start, .bytes = bytes };
        dirty_bitmap_reset(m->dirty, start, bytes);
        m->cursor = start + bytes;
        m->ops = op;
        job_op_start(job, op_entry, op);
        job_limit(job, bytes);
    }
    if (ret < 0) {
        error_set_errno(error, -ret,
                        m->failed && !m->failed_read ? "Writing to the target failed"
                                                     : "Reading the source failed");
    }
    return ret;
}

/* ---- the end ---- */

typedef struct Rest {
    MirrorJob *m;
    int ret;
} Rest;

static void copy_rest(void *opaque)
{
    Rest *r = opaque;
    uint64_t start, bytes;
    bool is_read;

    for (uint64_t at = 0; !r->ret && dirty_bitmap_next_dirty(r->m->dirty, at, UINT64_MAX, &start, &bytes);
         at = start + bytes) {
        bytes = MIN(bytes, JOB_CHUNK);
        r->ret = copy_piece(r->m, start, bytes, &is_read);
        r->m->job.current += bytes;
        r->m->job.total = MAX(r->m->job.total, r->m->job.current);
    }
    r->ret = r->ret ? r->ret : block_co_flush(r->m->target);
}

static void let_go(MirrorJob *m)
{
    dirty_bitmap_free(m->dirty);
    m->dirty = NULL;
    block_root_free(m->source);
    block_root_free(m->target);
    m->source = m->target = NULL;
}

static bool mirror_prepare(Job *job, GError **error)
{
    MirrorJob *m = (MirrorJob *)job;
    BlockNode *from = m->filter ? m->filter : m->source_node;
    BlockDrain *drain;
    Rest rest = { m, 0 };
    bool ok;

    if (!m->should_complete) {
        return true; /* a ready one that was cancelled: the target is a copy of this moment */
    }
    if (m->replaces) {
        from = block_node_find(job->graph, m->replaces);
        if (!from) {
            return error_set(error, "Cannot find device='' nor node-name='%s'", m->replaces);
        }
    }
    drain = block_drain_begin(m->source_node);
    m->source->exempt = m->target->exempt = true;
    block_run(job->graph, copy_rest, &rest);
    ok = !rest.ret || error_set_errno(error, -rest.ret, "Copying the last changes failed");
    if (ok) {
        let_go(m);
        ok = block_node_replace(from, m->target_node, error);
    }
    block_drain_end(drain);
    return ok;
}

static void mirror_clean(Job *job, bool ok)
{
    MirrorJob *m = (MirrorJob *)job;

    let_go(m);
    if (m->filter) {
        for (BlockNode *n = m->source_node; n && n != m->target_node; n = block_below(n)) {
            if (n->backing) {
                n->backing->frozen = false;
            }
        }
        if (m->filter->parents->len) {
            block_node_remove_filter(m->filter);
        } else {
            block_node_unref(m->filter);
        }
    }
    if (m->target_was_read_only && !(ok && m->should_complete)) {
        block_node_set_read_only(m->target_node, true, NULL);
    }
    block_node_unref(m->source_node);
    block_node_unref(m->target_node);
    g_free(m->replaces);
}

static bool mirror_complete(Job *job, GError **error)
{
    MirrorJob *m = (MirrorJob *)job;

    if (m->replaces && !block_node_find(job->graph, m->replaces)) {
        return error_set(error, "Cannot find device='' nor node-name='%s'", m->replaces);
    }
    m->should_complete = true;
    job_enter(job);
    return true;
}

static const JobDriver mirror_driver = {
    .instance_size = sizeof(MirrorJob),
    .type = "mirror",
    .is_block_job = true,
    .run = mirror_run,
    .prepare = mirror_prepare,
    .clean = mirror_clean,
    .complete = mirror_complete,
};

static const JobDriver active_commit_driver = {
    .instance_size = sizeof(MirrorJob),
    .type = "commit",
    .is_block_job = true,
    .run = mirror_run,
    .prepare = mirror_prepare,
    .clean = mirror_clean,
    .complete = mirror_complete,
};

/* ---- starting ---- */

static char *describe_job(void *opaque)
{
    return g_strdup_printf("block job '%s'", ((Job *)opaque)->id);
}

const BlockRootOps block_job_root_ops = { .kind = "block job", .describe = describe_job };

static const char *device_of(BlockNode *node)
{
    return node->implicit_name ? NULL : node->name;
}

static bool open_ends(MirrorJob *m, uint32_t granularity, GError **error)
{
    uint64_t source_size = m->source_node->size;

    m->source = block_root_new(m->source_node, "source", m->is_commit ? 0 : BLOCK_PERM_CONSISTENT_READ,
                               BLOCK_PERM_ALL, &block_job_root_ops, m, error);
    if (!m->source) {
        return false;
    }
    m->source->stays = true;
    m->target = block_root_new(m->target_node, "target", BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE,
                               m->is_commit ? BLOCK_PERM_ALL
                                            : BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE_UNCHANGED,
                               &block_job_root_ops, m, error);
    if (!m->target) {
        return false;
    }
    m->target->stays = true;
    if (m->is_commit ? m->target_node->size < source_size : m->target_node->size != source_size) {
        if (!m->is_commit) {
            return error_set(
                error, "Target image has a different size than the source: %" PRIu64 " and %" PRIu64 " bytes",
                m->target_node->size, source_size);
        }
        if (!blk_truncate(m->target, source_size, false, QAPI_PREALLOC_MODE_OFF, 0, error)) {
            return false;
        }
    }
    m->dirty = dirty_bitmap_new(m->source_node, NULL, granularity, error);
    return m->dirty != NULL;
}

bool job_mirror_start(JobManager *jobs, BlockNode *source, BlockNode *target, const MirrorStart *o,
                      GError **error)
{
    MirrorJob *m;

    if (source == target) {
        return error_set(error, "Can't mirror node into itself");
    }
    if (block_chain_contains(source, target) || block_chain_contains(target, source)) {
        return error_set(error, "Node '%s' and node '%s' are of one chain: use block-commit or block-stream",
                         source->name, target->name);
    }
    if (o->sync != JOB_SYNC_TOP && o->sync != JOB_SYNC_FULL && o->sync != JOB_SYNC_NONE) {
        return error_set(error, "Sync mode '%s' not supported",
                         o->sync == JOB_SYNC_BITMAP ? "bitmap" : "incremental");
    }
    if (o->granularity && (o->granularity < 512 || o->granularity > 64u << 20)) {
        return error_set(error, "Parameter 'granularity' expects a value in range [512B, 64MB]");
    }
    m = (MirrorJob *)job_new(jobs, &mirror_driver, device_of(source), &o->start, error);
    if (!m) {
        return false;
    }
    m->source_node = source;
    m->target_node = target;
    block_node_ref(source);
    block_node_ref(target);
    m->sync = o->sync;
    m->base = o->sync == JOB_SYNC_TOP ? block_cow_child(block_skip_filters(source)) : NULL;
    if (m->sync == JOB_SYNC_TOP && !m->base) {
        m->sync = JOB_SYNC_FULL;
    }
    m->unmap = o->unmap;
    m->replaces = g_strdup(o->replaces);
    if (!open_ends(m, o->granularity, error)) {
        mirror_clean(&m->job, false);
        job_drop(&m->job);
        return false;
    }
    job_run(&m->job);
    return true;
}

/* base and the active image: of block_commit_start, which has looked at them. */
bool job_active_commit_start(JobManager *jobs, BlockNode *active, BlockNode *base, const char *filter_name,
                             const JobStart *start, GError **error)
{
    MirrorJob *m = (MirrorJob *)job_new(jobs, &active_commit_driver, device_of(active), start, error);
    bool ok;

    if (!m) {
        return false;
    }
    m->source_node = active;
    m->target_node = base;
    block_node_ref(active);
    block_node_ref(base);
    m->sync = JOB_SYNC_TOP;
    m->base = base;
    m->is_commit = true;
    m->filter = block_node_insert_filter(active, &block_mirror_top, filter_name, error);
    ok = m->filter != NULL;
    if (ok && base->read_only) {
        ok = block_node_set_read_only(base, false, error);
        m->target_was_read_only = ok;
    }
    ok = ok && open_ends(m, 0, error);
    if (!ok) {
        mirror_clean(&m->job, false);
        job_drop(&m->job);
        return false;
    }
    for (BlockNode *n = active; n && n != base; n = block_below(n)) {
        if (n->backing) {
            n->backing->frozen = true;
        }
    }
    job_run(&m->job);
    return true;
}
