/*
 * commit: what images above a base hold comes into the base, and the images go. The active image takes the
 * way of a mirror (mirror.c), the others this one. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/jobs/job_internal.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

typedef struct CommitJob {
    Job job;
    BlockNode *top, *base, *overlay, *filter; /* counted */
    BlockChild *source, *target;
    char *backing_file;
    bool base_was_read_only, overlay_was_read_only;
} CommitJob;

static BlockDriver commit_top; /* block_mirror_top by the name that clients know */

static int commit_run(Job *job, GError **error)
{
    CommitJob *c = (CommitJob *)job;
    uint8_t *buf = block_buffer_try(c->source, JOB_CHUNK);
    uint64_t size = block_size(c->source), n = 0;
    int ret = buf ? 0 : -ENOMEM;

    job->total = size;
    for (uint64_t at = 0; at < size && !ret && !job_pause_point(job); at += n) {
        bool is_read = true;
        BlockStatus st = { 0 };

        ret = block_co_status_above(c->top, c->base, at, MIN(size - at, JOB_CHUNK), &st);
        n = ret ? 0 : st.bytes ? st.bytes : size - at;
        if (!ret && (st.flags & BLOCK_STATUS_ALLOCATED)) {
            if (st.flags & BLOCK_STATUS_ZERO) {
                is_read = false;
                ret = block_co_pwrite_zeroes(c->target, at, n, BLOCK_REQ_MAY_UNMAP);
            } else {
                ret = block_co_pread(c->source, at, n, buf, 0);
                if (!ret) {
                    is_read = false;
                    ret = block_co_pwrite(c->target, at, n, buf, 0);
                }
            }
            job_limit(job, n);
        }
        if (ret) {
            bool end = job_failed(job, is_read, -ret);

            if (end) {
                error_set_errno(error, -ret,
                                is_read ? "Reading the images failed" : "Writing to the base failed");
            } else {
                ret = 0;
                n = 0; /* again, or once more after it was resumed */
                if (!job->user_paused) {
                    n = MIN(size - at, JOB_CHUNK); /* ignored */
                }
            }
        }
        job->current = at + n;
    }
    if (!ret && !job->cancelled) {
        ret = block_co_flush(c->target);
        if (ret) {
            error_set_errno(error, -ret, "Flushing the base failed");
        }
    }
    g_aligned_free(buf);
    return ret;
}

static void let_go(CommitJob *c)
{
    block_root_free(c->source);
    block_root_free(c->target);
    c->source = c->target = NULL;
    for (BlockNode *n = c->filter ? c->filter : c->top; n && n != c->base; n = block_below(n)) {
        if (n->backing) {
            n->backing->frozen = false;
        }
    }
}

static bool commit_prepare(Job *job, GError **error)
{
    CommitJob *c = (CommitJob *)job;
    const char *format = c->base->driver->is_protocol ? "raw" : c->base->driver->name;

    let_go(c);
    if (c->overlay->read_only) {
        if (!block_node_set_read_only(c->overlay, false, error)) {
            return false;
        }
        c->overlay_was_read_only = true;
    }
    /* First the image says so, then the graph: a crash between leaves what is there already. */
    return block_backing_change_file(c->overlay, c->backing_file, format, false, error) &&
           block_backing_set(c->overlay, c->base, error);
}

static void commit_clean(Job *job, bool ok)
{
    CommitJob *c = (CommitJob *)job;

    let_go(c);
    if (c->filter) {
        if (c->filter->parents->len) {
            block_node_remove_filter(c->filter);
        } else {
            block_node_unref(c->filter);
        }
    }
    if (c->base_was_read_only) {
        block_node_set_read_only(c->base, true, NULL);
    }
    if (c->overlay_was_read_only) {
        block_node_set_read_only(c->overlay, true, NULL);
    }
    block_node_unref(c->overlay);
    block_node_unref(c->top);
    block_node_unref(c->base);
    g_free(c->backing_file);
}

static const JobDriver commit_driver = {
    .instance_size = sizeof(CommitJob),
    .type = "commit",
    .is_block_job = true,
    .run = commit_run,
    .prepare = commit_prepare,
    .clean = commit_clean,
};

bool job_commit_start(JobManager *jobs, BlockNode *active, BlockNode *top, BlockNode *base,
                      const char *backing_file, const char *filter_name, const JobStart *start,
                      GError **error)
{
    BlockNode *overlay = block_overlay_of(active, top);
    const char *id = active->implicit_name ? NULL : active->name;
    CommitJob *c;
    bool ok;

    if (top == base) {
        return error_set(error, "Cannot commit an image into itself");
    }
    if (!block_chain_contains(active, top)) {
        return error_set(error, "Node '%s' is not in the backing chain of '%s'", top->name, active->name);
    }
    if (!block_chain_contains(top, base)) {
        return error_set(error, "'%s' is not in this backing file chain", base->filename);
    }
    for (BlockNode *n = active; n && n != base; n = block_below(n)) {
        if (n->backing && n->backing->frozen) {
            return error_set(error, "Cannot change frozen 'backing' link from '%s' to '%s'", n->name,
                             n->backing->node->name);
        }
    }
    if (block_skip_filters(active) == block_skip_filters(top)) {
        if (backing_file) {
            return error_set(error, "'backing-file' specified, but 'top' is the active layer");
        }
        return job_active_commit_start(jobs, active, base, filter_name, start, error);
    }
    while (overlay && overlay->driver->is_filter) {
        overlay = block_overlay_of(active, overlay);
    }
    if (!overlay) {
        return error_set(error, "Could not find overlay image for %s:", top->filename);
    }
    if (!commit_top.name) {
        commit_top = block_mirror_top;
        commit_top.name = "commit_top";
    }
    c = (CommitJob *)job_new(jobs, &commit_driver, id, start, error);
    if (!c) {
        return false;
    }
    c->top = top;
    c->base = base;
    c->overlay = overlay;
    c->backing_file = g_strdup(backing_file ? backing_file : base->filename);
    block_node_ref(top);
    block_node_ref(base);
    block_node_ref(overlay);
    c->filter = block_node_insert_filter(top, &commit_top, filter_name, error);
    ok = c->filter != NULL;
    if (ok && base->read_only) {
        ok = block_node_set_read_only(base, false, error);
        c->base_was_read_only = ok;
    }
    if (ok) {
        c->source = block_root_new(top, "source", 0, BLOCK_PERM_ALL, &block_job_root_ops, c, error);
        c->target = c->source ? block_root_new(base, "target", BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE,
                                               BLOCK_PERM_ALL, &block_job_root_ops, c, error)
                              : NULL;
        ok = c->target != NULL;
    }
    if (ok && base->size < top->size) {
        ok = blk_truncate(c->target, top->size, false, QAPI_PREALLOC_MODE_OFF, 0, error);
    }
    if (!ok) {
        commit_clean(&c->job, false);
        job_drop(&c->job);
        return false;
    }
    c->source->stays = c->target->stays = true;
    for (BlockNode *n = c->filter; n && n != base; n = block_below(n)) {
        if (n->backing) {
            n->backing->frozen = true;
        }
    }
    job_run(&c->job);
    return true;
}
