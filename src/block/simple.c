/* raw (a window of its file node) and null-co. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/block_internal.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>
#include <time.h>

static bool raw_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    const QapiBlockdevOptionsRaw *o = options->u_raw;
    uint64_t offset = o->has_offset ? o->offset : 0, size = o->has_size ? o->size : 0, child_size;
    BlockNode *child = block_node_by_ref(node, options, o->file, error);

    if (!child) {
        return false;
    }
    node->child = child;
    child->users++;
    child_size = child->size;
    if (offset > child_size || size > child_size - offset) {
        return error_set(error,
                         "%s: offset and size must lie within the %" G_GUINT64_FORMAT " bytes of its file",
                         node->what, child_size);
    }
    node->child_offset = offset;
    node->size = o->has_size ? size : child_size - offset;
    node->limits = child->limits;
    if (!node->read_only && child->read_only) {
        if (node->auto_read_only || child->auto_read_only) {
            node->read_only = true;
        } else {
            return error_set(error, "Block node '%s' is read-only", child->name);
        }
    }
    return true;
}

static const BlockDriver raw_driver = {
    .name = "raw",
    .open = raw_open,
};
BLOCK_DRIVER(raw_driver);

/* ---- null-co: a disk that holds nothing, for measuring what is above it ---- */

#define MAX_LATENCY_NS 1000000000

typedef struct NullNode {
    BlockNode node;
    bool read_zeroes;
    int64_t latency_ns;
} NullNode;

static bool null_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    NullNode *n = (NullNode *)node;
    const QapiBlockdevOptionsNull *o = options->u_null_co;

    if (o->has_latency_ns && o->latency_ns > MAX_LATENCY_NS) {
        return error_set(error, "%s: parameter 'latency-ns' expects a number up to %d", node->what,
                         MAX_LATENCY_NS);
    }
    n->latency_ns = o->has_latency_ns ? (int64_t)o->latency_ns : 0;
    n->read_zeroes = o->has_read_zeroes && o->read_zeroes;
    node->size = o->has_size ? o->size : UINT64_C(1) << 30;
    node->limits.can_discard = node->limits.can_write_zeroes = true;
    node->filename = g_strdup("null-co://");
    return true;
}

static void null_done(void *opaque, ssize_t result)
{
    BlockRequest *req = opaque;

    if (req->op == BLOCK_READ && ((NullNode *)req->node)->read_zeroes) {
        for (int i = 0; i < req->iov_count; i++) {
            memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
        }
    }
    block_request_done(req, 0);
}

static ssize_t null_wait(void *opaque)
{
    int64_t ns = ((NullNode *)((BlockRequest *)opaque)->node)->latency_ns;
    struct timespec ts = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

    nanosleep(&ts, NULL);
    return 0;
}

static void null_submit(BlockNode *node, BlockRequest *req)
{
    if (((NullNode *)node)->latency_ns) {
        loop_submit_work(req->loop, null_wait, null_done, req);
    } else {
        loop_complete_later(req->loop, null_done, req, 0);
    }
}

static const BlockDriver null_driver = {
    .name = "null-co",
    .instance_size = sizeof(NullNode),
    .open = null_open,
    .submit = null_submit,
};
BLOCK_DRIVER(null_driver);
