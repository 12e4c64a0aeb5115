/*
 * Filters of few lines: copy-on-read, compress, preallocate. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include "base/error.h"

#include <errno.h>

/* ---- copy-on-read: what is read comes into the image below for good ---- */

typedef struct CorNode {
    BlockNode node;
    char *bottom_name;
} CorNode;

static bool cor_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    const QapiBlockdevOptionsCor *o = options->u_copy_on_read;
    BlockNode *bottom;

    if (!block_filter_open(node, "file", options, o->file, error)) {
        return false;
    }
    if (node->read_only) { /* it could not keep what it reads */
        return error_set(error, "Block node is read-only");
    }
    if (o->bottom) {
        bottom = block_node_find(node->graph, o->bottom);
        if (!bottom) {
            return error_set(error, "Bottom node '%s' not found", o->bottom);
        }
        if (bottom->driver->is_filter) {
            return error_set(error, "Bottom node '%s' is a filter", o->bottom);
        }
        if (bottom == block_skip_filters(node->file->node) ||
            !block_chain_contains(node->file->node, bottom)) {
            return error_set(error, "Node '%s' is not in the backing chain of node '%s'", o->bottom,
                             node->name);
        }
        ((CorNode *)node)->bottom_name = g_strdup(o->bottom);
    }
    return true;
}

static void cor_close(BlockNode *node)
{
    g_free(((CorNode *)node)->bottom_name);
}

static void cor_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                           unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    *child_perm = (perm & BLOCK_PERM_ALL) | (node->read_only ? 0 : BLOCK_PERM_WRITE_UNCHANGED);
    *child_shared = shared | BLOCK_PERM_WRITE_UNCHANGED;
}

static int cor_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                         unsigned flags)
{
    CorNode *c = (CorNode *)node;
    /* Without it (that was replaced meanwhile) everything is copied. */
    BlockNode *bottom = c->bottom_name ? block_node_find(node->graph, c->bottom_name) : NULL;

    if (!c->bottom_name) {
        return block_co_preadv(node->file, offset, bytes, vec, from, flags | BLOCK_REQ_COPY_ON_READ);
    }
    while (bytes) {
        BlockNode *top = block_skip_filters(node->file->node);
        unsigned local = flags;
        uint64_t n = bytes;
        int ret = block_co_is_allocated_above(top, NULL, false, offset, bytes, &n);

        n = n ? MIN(n, bytes) : bytes;
        if (ret >= 0 && bottom) {
            uint64_t m = n;

            ret = block_co_is_allocated_above(block_below(top), bottom, true, offset, n, &m);
            n = m ? MIN(n, m) : n;
            local |= ret > 0 ? BLOCK_REQ_COPY_ON_READ : 0;
        }
        ret = block_co_preadv(node->file, offset, n, vec, from, local);
        if (ret < 0) {
            return ret;
        }
        offset += n;
        from += n;
        bytes -= n;
    }
    return 0;
}

static const BlockDriver cor_driver = {
    .name = "copy-on-read",
    .instance_size = sizeof(CorNode),
    .is_filter = true,
    .any_alignment = true,
    .open = cor_open,
    .close = cor_close,
    .child_perm = cor_child_perm,
    .co_preadv = cor_co_preadv,
};
BLOCK_DRIVER(cor_driver);

/* ---- compress: every write becomes compressed clusters ---- */

static bool compress_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    BlockNode *below;

    if (!block_filter_open(node, "file", options, options->u_compress->file, error)) {
        return false;
    }
    below = block_skip_filters(node->file->node);
    if (!below->driver->co_pwritev_compressed) {
        return error_set(error, "Compression is not supported by the format '%s' of node '%s'",
                         below->driver->name, below->name);
    }
    return true;
}

static void compress_refresh_limits(BlockNode *node)
{
    BlockInfo info;

    /* Whole clusters, so that each is compressed once. */
    if (block_node_info(node->file->node, &info, NULL) && info.cluster_size) {
        node->limits.request_alignment = (uint32_t)info.cluster_size;
    }
}

static int compress_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                               uint64_t from, unsigned flags)
{
    uint64_t unit = node->limits.request_alignment, size = block_size(node->file);

    if (offset + bytes > size) {
        bytes = size - offset; /* the last cluster goes beyond the disk */
    }
    while (bytes) {
        uint64_t n = MIN(bytes, unit);
        int ret = block_co_pwritev(node->file, offset, n, vec, from,
                                   (flags & ~(unsigned)BLOCK_REQ_FUA) | BLOCK_REQ_WRITE_COMPRESSED);

        if (ret < 0) {
            return ret;
        }
        offset += n;
        from += n;
        bytes -= n;
    }
    return flags & BLOCK_REQ_FUA ? block_co_flush(node->file) : 0;
}

static const BlockDriver compress_driver = {
    .name = "compress",
    .is_filter = true,
    .open = compress_open,
    .refresh_limits = compress_refresh_limits,
    .co_pwritev = compress_co_pwritev,
};
BLOCK_DRIVER(compress_driver);

/* ---- preallocate: a file that grows, grows in large steps ---- */

#define PREALLOC_ALIGN (1u << 20)
#define PREALLOC_SIZE  (128u << 20)

typedef struct PreallocateNode {
    BlockNode node;
    uint64_t align, step;
    CoMutex lock;
    uint64_t zero_end; /* up to here the file is made and zero behind `data_end`; 0: nothing was */
    uint64_t data_end; /* what the user thinks the file's size is */
} PreallocateNode;

static bool preallocate_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    PreallocateNode *p = (PreallocateNode *)node;
    const QapiBlockdevOptionsPreallocate *o = options->u_preallocate;

    co_mutex_init(&p->lock);
    p->align = o->has_prealloc_align ? o->prealloc_align : PREALLOC_ALIGN;
    p->step = o->has_prealloc_size ? o->prealloc_size : PREALLOC_SIZE;
    if (!p->align || p->align % 512) {
        return error_set(error, "prealloc-align parameter of preallocate filter is not aligned to 512");
    }
    if (!block_filter_open(node, "file", options, o->file, error)) {
        return false;
    }
    p->data_end = p->zero_end = node->size;
    return true;
}

static void preallocate_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                                   unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    block_default_perms(node, child, role, perm, shared, child_perm, child_shared);
    if (perm & BLOCK_PERM_WRITE) { /* the file is ours then */
        *child_perm |= BLOCK_PERM_RESIZE;
        *child_shared &= ~(unsigned)(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE);
    }
}

static int make_room(PreallocateNode *p, uint64_t end)
{
    uint64_t target = (end + p->step + p->align - 1) / p->align * p->align;
    int ret = 0;

    if (end > __atomic_load_n(&p->zero_end, __ATOMIC_RELAXED)) {
        co_mutex_lock(&p->lock);
        if (end > p->zero_end && target <= BLOCK_MAX_SIZE) {
            ret = block_co_pwrite_zeroes(p->node.file, p->zero_end, target - p->zero_end,
                                         BLOCK_REQ_NO_FALLBACK);
            if (!ret) {
                __atomic_store_n(&p->zero_end, target, __ATOMIC_RELAXED);
            }
        }
        co_mutex_unlock(&p->lock);
    }
    return ret;
}

static int preallocate_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                                  uint64_t from, unsigned flags)
{
    PreallocateNode *p = (PreallocateNode *)node;

    make_room(p, offset + bytes); /* without it the write makes its own */
    int ret = block_co_pwritev(node->file, offset, bytes, vec, from, flags);
    if (!ret) {
        uint64_t old = __atomic_load_n(&p->data_end, __ATOMIC_RELAXED);

        while (old < offset + bytes && !__atomic_compare_exchange_n(&p->data_end, &old, offset + bytes, true,
                                                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    }
    return ret;
}

static int preallocate_co_truncate(BlockNode *node, uint64_t size, bool exact, QapiPreallocMode prealloc,
                                   unsigned flags, GError **error)
{
    PreallocateNode *p = (PreallocateNode *)node;
    int ret = block_co_truncate(node->file, size, exact, prealloc, flags, error);

    if (!ret) {
        p->data_end = p->zero_end = size;
        block_node_set_size(node, block_size(node->file));
    }
    return ret;
}

static void preallocate_close(BlockNode *node)
{
    PreallocateNode *p = (PreallocateNode *)node;

    if (node->file && (node->file->perm & BLOCK_PERM_RESIZE) && p->zero_end > p->data_end) {
        blk_truncate(node->file, p->data_end, true, QAPI_PREALLOC_MODE_OFF, 0, NULL);
    }
}

/* The last writer goes: the file gets its real length. */
static void preallocate_commit_perm(BlockNode *node, unsigned perm, unsigned shared)
{
    PreallocateNode *p = (PreallocateNode *)node;

    if (!(perm & BLOCK_PERM_WRITE) && node->file && (node->file->perm & BLOCK_PERM_RESIZE) &&
        p->zero_end > p->data_end) {
        blk_truncate(node->file, p->data_end, true, QAPI_PREALLOC_MODE_OFF, 0, NULL);
        p->zero_end = p->data_end;
    }
}

static const BlockDriver preallocate_driver = {
    .name = "preallocate",
    .instance_size = sizeof(PreallocateNode),
    .is_filter = true,
    .any_alignment = true,
    .open = preallocate_open,
    .close = preallocate_close,
    .child_perm = preallocate_child_perm,
    .commit_perm = preallocate_commit_perm,
    .co_pwritev = preallocate_co_pwritev,
    .co_truncate = preallocate_co_truncate,
};
BLOCK_DRIVER(preallocate_driver);
