/*
 * null-co and null-aio: a disk that holds nothing, for measuring what is above it. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include "base/error.h"

#include <string.h>
#include <time.h>

#define MAX_LATENCY_NS 10000000000

typedef struct NullNode {
    BlockNode node;
    bool read_zeroes;
    int64_t latency_ns;
} NullNode;

static bool null_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    NullNode *n = (NullNode *)node;
    bool aio = options->driver == QAPI_BLOCKDEV_DRIVER_NULL_AIO;
    const QapiBlockdevOptionsNull *o = aio ? options->u_null_aio : options->u_null_co;

    if (o->has_latency_ns && o->latency_ns > MAX_LATENCY_NS) {
        return error_set(error, "%s: parameter 'latency-ns' expects a number up to %" PRIu64, node->what,
                         (uint64_t)MAX_LATENCY_NS);
    }
    if (o->has_size && o->size > BLOCK_MAX_SIZE) {
        return error_set(error, "%s: parameter 'size' is too large", node->what);
    }
    n->latency_ns = o->has_latency_ns ? (int64_t)o->latency_ns : 0;
    n->read_zeroes = o->has_read_zeroes && o->read_zeroes;
    node->size = o->has_size ? o->size : UINT64_C(1) << 30;
    node->filename = g_strdup(aio ? "null-aio://" : "null-co://");
    return true;
}

static void null_refresh_limits(BlockNode *node)
{
    node->limits.can_discard = node->limits.can_write_zeroes = true;
}

static bool null_parse_filename(const char *filename, json_object *options, GError **error)
{
    const char *rest = strchr(filename, ':');

    if (rest && strcmp(rest, "://") != 0 && rest[1]) {
        return error_set(error, "The only allowed filename for this driver is 'null-co://' or 'null-aio://'");
    }
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

static int null_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                                BlockStatus *st)
{
    *st = (BlockStatus){ .flags = BLOCK_STATUS_OFFSET_VALID |
                                  (((NullNode *)node)->read_zeroes ? BLOCK_STATUS_ZERO : 0),
                         .bytes = bytes,
                         .map = offset,
                         .file = node };
    if (!((NullNode *)node)->read_zeroes) {
        st->flags |= BLOCK_STATUS_DATA;
    }
    return 0;
}

static int null_co_truncate(BlockNode *node, uint64_t size, bool exact, QapiPreallocMode prealloc,
                            unsigned flags, GError **error)
{
    block_node_set_size(node, size);
    return 0;
}

static int64_t null_allocated(BlockNode *node)
{
    return 0;
}

static const BlockDriver null_co_driver = {
    .name = "null-co",
    .instance_size = sizeof(NullNode),
    .is_protocol = true,
    .any_alignment = true,
    .parse_filename = null_parse_filename,
    .open = null_open,
    .refresh_limits = null_refresh_limits,
    .submit = null_submit,
    .co_truncate = null_co_truncate,
    .co_block_status = null_co_block_status,
    .get_allocated = null_allocated,
};
BLOCK_DRIVER(null_co_driver);

static const BlockDriver null_aio_driver = {
    .name = "null-aio",
    .instance_size = sizeof(NullNode),
    .is_protocol = true,
    .any_alignment = true,
    .parse_filename = null_parse_filename,
    .open = null_open,
    .refresh_limits = null_refresh_limits,
    .submit = null_submit,
    .co_truncate = null_co_truncate,
    .co_block_status = null_co_block_status,
    .get_allocated = null_allocated,
};
BLOCK_DRIVER(null_aio_driver);
