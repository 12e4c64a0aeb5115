/*
 * stream: what stands below an image, down to a base, comes into the image. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/jobs/job_internal.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

typedef struct StreamJob {
    Job job;
    BlockNode *node, *base; /* counted; base may be NULL */
    BlockChild *root;
    char *backing_file;
    bool was_read_only;
} StreamJob;

static int stream_run(Job *job, GError **error)
{
    StreamJob *s = (StreamJob *)job;
    BlockNode *node = block_skip_filters(s->node);
    uint64_t size = block_size(s->root), n = 0;
    int ret = 0;

    job->total = size;
    for (uint64_t at = 0; at < size && !ret && !job_pause_point(job); at += n) {
        uint64_t below = 0;

        ret = block_co_is_allocated_above(node, node, true, at, MIN(size - at, JOB_CHUNK), &n);
        n = n ? n : size - at;
        if (ret == 0 && block_cow_child(node)) {
            ret = block_co_is_allocated_above(block_cow_child(node), s->base, false, at, n, &below);
            n = below ? MIN(n, below) : n; /* 0: it ends before, and zeroes are what is read anyway */
            if (ret > 0) {
                ret = block_co_preadv(s->root, at, n, NULL, 0, BLOCK_REQ_COPY_ON_READ | BLOCK_REQ_PREFETCH);
                job_limit(job, n);
            }
        } else if (ret > 0) {
            ret = 0;
        }
        if (ret < 0) {
            if (job_failed(job, true, -ret)) {
                error_set_errno(error, -ret, "Copying from the backing images failed");
                break;
            }
            ret = 0;
            if (job->user_paused) {
                n = 0;
            }
        }
        job->current = at + n;
    }
    if (!ret && !job->cancelled) {
        ret = block_co_flush(s->root);
    }
    return ret;
}

static void let_go(StreamJob *s)
{
    if (s->root) {
        block_serialise_disable(block_skip_filters(s->node));
        block_root_free(s->root);
        s->root = NULL;
        for (BlockNode *n = s->node; n && n != s->base; n = block_below(n)) {
            if (n->backing) {
                n->backing->frozen = false;
            }
        }
    }
}

static bool stream_prepare(Job *job, GError **error)
{
    StreamJob *s = (StreamJob *)job;
    BlockNode *node = block_skip_filters(s->node);
    const char *name = s->backing_file ? s->backing_file : s->base ? s->base->filename : NULL;
    const char *format = !s->base ? NULL : s->base->driver->is_protocol ? "raw" : s->base->driver->name;

    let_go(s);
    return block_backing_change_file(node, name, name ? format : NULL, false, error) &&
           block_backing_set(node, s->base, error);
}

static void stream_clean(Job *job, bool ok)
{
    StreamJob *s = (StreamJob *)job;

    let_go(s);
    if (s->was_read_only) {
        block_node_set_read_only(s->node, true, NULL);
    }
    block_node_unref(s->node);
    if (s->base) {
        block_node_unref(s->base);
    }
    g_free(s->backing_file);
}

static const JobDriver stream_driver = {
    .instance_size = sizeof(StreamJob),
    .type = "stream",
    .is_block_job = true,
    .run = stream_run,
    .prepare = stream_prepare,
    .clean = stream_clean,
};

bool job_stream_start(JobManager *jobs, BlockNode *node, BlockNode *base, const char *backing_file,
                      const JobStart *start, GError **error)
{
    StreamJob *s;
    bool ok = true;

    if (base == node || (base && !block_chain_contains(node, base))) {
        return error_set(error, "Node '%s' is not a backing image of '%s'", base->name, node->name);
    }
    const char *id = node->implicit_name ? NULL : node->name;
    if (!block_skip_filters(node)->driver->change_backing) {
        return error_set(error, "Driver '%s' of node '%s' does not support backing files",
                         block_skip_filters(node)->driver->name, node->name);
    }
    for (BlockNode *n = node; n && n != base; n = block_below(n)) {
        if (n->backing && n->backing->frozen) {
            return error_set(error, "Cannot change frozen 'backing' link from '%s' to '%s'", n->name,
                             n->backing->node->name);
        }
    }
    s = (StreamJob *)job_new(jobs, &stream_driver, id, start, error);
    if (!s) {
        return false;
    }
    s->node = node;
    s->base = base;
    s->backing_file = g_strdup(backing_file);
    block_node_ref(node);
    if (base) {
        block_node_ref(base);
    }
    if (node->read_only) {
        ok = block_node_set_read_only(node, false, error);
        s->was_read_only = ok;
    }
    if (ok) {
        s->root = block_root_new(block_skip_filters(node), "stream",
                                 BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE_UNCHANGED, BLOCK_PERM_ALL,
                                 &block_job_root_ops, s, error);
        ok = s->root != NULL;
    }
    if (!ok) {
        stream_clean(&s->job, false);
        job_drop(&s->job);
        return false;
    }
    s->root->stays = true;
    block_serialise_enable(block_skip_filters(node));
    for (BlockNode *n = node; n && n != base; n = block_below(n)) {
        if (n->backing) {
            n->backing->frozen = true;
        }
    }
    job_run(&s->job);
    return true;
}
