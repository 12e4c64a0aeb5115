/*
 * raw: a file's bytes as they are, or a window of them. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

typedef struct RawNode {
    BlockNode node;
    uint64_t offset;
    bool has_size, window;
} RawNode;

static bool raw_window(RawNode *r, const QapiBlockdevOptionsRaw *o, GError **error)
{
    uint64_t offset = o->has_offset ? o->offset : 0, size = o->has_size ? o->size : 0;
    uint64_t file_size = block_size(r->node.file);

    if (offset > file_size || size > file_size - offset) {
        return error_set(error,
                         "%s: offset and size must lie within the %" G_GUINT64_FORMAT " bytes of its file",
                         r->node.what, file_size);
    }
    r->offset = offset;
    r->has_size = o->has_size;
    r->window = offset || o->has_size;
    r->node.size = o->has_size ? size : file_size - offset;
    return true;
}

static bool raw_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    const QapiBlockdevOptionsRaw *o = options->u_raw;

    /* Not METADATA: nothing in the file is ours. */
    if (!block_child_open(node, "file", BLOCK_ROLE_DATA | BLOCK_ROLE_PRIMARY, &node->file, options, o->file,
                          error)) {
        return false;
    }
    node->write_flags = node->zero_flags =
        BLOCK_REQ_FUA | BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK | BLOCK_REQ_WRITE_UNCHANGED;
    node->truncate_flags = node->file->node->truncate_flags;
    if (!raw_window((RawNode *)node, o, error)) {
        return false;
    }
    return true;
}

static bool raw_reopen_prepare(BlockReopen *reopen, GError **error)
{
    const QapiBlockdevOptionsRaw *o = reopen->options->u_raw;
    uint64_t offset = o->has_offset ? o->offset : 0, size = o->has_size ? o->size : 0;
    uint64_t file_size = block_size(reopen->node->file);

    return (offset <= file_size && size <= file_size - offset) ||
           error_set(error, "%s: offset and size must lie within the %" G_GUINT64_FORMAT " bytes of its file",
                     reopen->node->what, file_size);
}

static void raw_reopen_commit(BlockReopen *reopen)
{
    raw_window((RawNode *)reopen->node, reopen->options->u_raw, NULL);
}

static void raw_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                           unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    *child_perm = perm;
    *child_shared = shared;
}

static void raw_refresh_limits(BlockNode *node)
{
    RawNode *r = (RawNode *)node;

    node->limits = node->file->node->limits;
    if (r->offset % node->limits.request_alignment) {
        node->limits.request_alignment = 1; /* the file makes it fit */
    }
}

static BlockChild *raw_passthrough(BlockNode *node, uint64_t *add)
{
    RawNode *r = (RawNode *)node;

    *add = r->offset;
    return node->file;
}

static int raw_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                         unsigned flags)
{
    block_debug_event(node->file, QAPI_BLKDEBUG_EVENT_READ_AIO);
    return block_co_preadv(node->file, offset + ((RawNode *)node)->offset, bytes, vec, from, flags);
}

static int raw_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          uint64_t from, unsigned flags)
{
    block_debug_event(node->file, QAPI_BLKDEBUG_EVENT_WRITE_AIO);
    return block_co_pwritev(node->file, offset + ((RawNode *)node)->offset, bytes, vec, from, flags);
}

static int raw_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return block_co_pwrite_zeroes(node->file, offset + ((RawNode *)node)->offset, bytes, flags);
}

static int raw_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return block_co_pdiscard(node->file, offset + ((RawNode *)node)->offset, bytes);
}

static int raw_co_truncate(BlockNode *node, uint64_t size, bool exact, QapiPreallocMode prealloc,
                           unsigned flags, GError **error)
{
    RawNode *r = (RawNode *)node;
    int ret;

    if (r->has_size) {
        error_set(error, "Cannot resize fixed-size raw disks");
        return -ENOTSUP;
    }
    if (size > BLOCK_MAX_SIZE - r->offset) {
        error_set(error, "Disk size too large for the chosen offset");
        return -EINVAL;
    }
    ret = block_co_truncate(node->file, size + r->offset, exact, prealloc, flags, error);
    if (!ret) {
        block_node_set_size(node, (size + 511) & ~UINT64_C(511));
    }
    return ret;
}

static int64_t raw_get_length(BlockNode *node)
{
    RawNode *r = (RawNode *)node;
    BlockNode *file = node->file->node;
    int64_t n = r->has_size                ? (int64_t)node->size
                : file->driver->get_length ? file->driver->get_length(file)
                                           : -1;

    return r->has_size || n < 0 ? n : n - (int64_t)r->offset;
}

static bool raw_get_info(BlockNode *node, BlockInfo *info, GError **error)
{
    return block_node_info(node->file->node, info, error);
}

static int raw_probe(const uint8_t *head, size_t size, const char *filename)
{
    return 1; /* anything is */
}

static bool raw_co_create_named(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    return block_co_create_raw(graph, filename, options, error);
}

static bool raw_co_measure(BlockGraph *graph, json_object *options, BlockNode *source, BlockMeasure *measure,
                           GError **error)
{
    json_object *value;
    uint64_t size = source ? source->size : 0;

    if (!source && json_object_object_get_ex(options, "size", &value)) {
        size = json_object_get_uint64(value);
    }
    measure->required = measure->fully_allocated = (size + 511) & ~UINT64_C(511);
    return true;
}

static const BlockOption raw_create_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, false },
    { NULL, 0, NULL, NULL, false },
};

static const BlockDriver raw_driver = {
    .name = "raw",
    .instance_size = sizeof(RawNode),
    .any_alignment = true,
    .needs_snapshot_children = true,
    .probe = raw_probe,
    .open = raw_open,
    .reopen_prepare = raw_reopen_prepare,
    .reopen_commit = raw_reopen_commit,
    .refresh_limits = raw_refresh_limits,
    .child_perm = raw_child_perm,
    .passthrough = raw_passthrough,
    .get_length = raw_get_length,
    .get_info = raw_get_info,
    .co_preadv = raw_co_preadv,
    .co_pwritev = raw_co_pwritev,
    .co_pwrite_zeroes = raw_co_pwrite_zeroes,
    .co_pdiscard = raw_co_pdiscard,
    .co_truncate = raw_co_truncate,
    .co_create_named = raw_co_create_named,
    .create_options = raw_create_options,
    .co_measure = raw_co_measure,
};
BLOCK_DRIVER(raw_driver);
