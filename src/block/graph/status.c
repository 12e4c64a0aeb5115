/*
 * What is where: block status of a node and along its chain. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph_internal.h"

#include <errno.h>

/* What st says of a piece that its file holds: is it zero there? */
static void ask_file(BlockStatus *st)
{
    BlockStatus below;

    if (!st->file || block_co_status(st->file, st->map, st->bytes, &below) < 0) {
        return;
    }
    if (below.flags & BLOCK_STATUS_EOF && below.bytes == 0) {
        st->flags |= BLOCK_STATUS_ZERO; /* behind the end of the file */
        return;
    }
    st->bytes = MIN(st->bytes, below.bytes);
    if (below.flags & BLOCK_STATUS_ZERO) {
        st->flags |= BLOCK_STATUS_ZERO;
        if (!(below.flags & BLOCK_STATUS_DATA)) {
            st->flags &= ~(unsigned)BLOCK_STATUS_DATA;
        }
    }
}

static int node_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes, BlockStatus *st)
{
    uint64_t size = __atomic_load_n(&node->size, __ATOMIC_RELAXED), add = 0;
    uint64_t align = node->any_alignment ? 1 : node->limits.request_alignment;
    BlockNode *filtered = block_filtered(node);
    BlockChild *through = node->driver->passthrough ? node->driver->passthrough(node, &add) : NULL;
    int ret = 0;

    *st = (BlockStatus){ 0 };
    if (offset >= size) {
        st->flags = BLOCK_STATUS_EOF;
        return 0;
    }
    if (!bytes) {
        return 0;
    }
    bytes = MIN(bytes, size - offset);
    if (node->driver->co_block_status) {
        uint64_t base = offset & ~(align - 1), end = (offset + bytes + align - 1) & ~(align - 1);

        ret = node->driver->co_block_status(node, want_zero, base, end - base, st);
        if (ret < 0) {
            return ret;
        }
        if (st->bytes <= offset - base) {
            return -EIO; /* a driver that makes no progress */
        }
        st->bytes = MIN(st->bytes - (offset - base), bytes);
        if (st->flags & BLOCK_STATUS_OFFSET_VALID) {
            st->map += offset - base;
        }
    } else if (through || filtered) {
        BlockNode *below = through ? through->node : filtered;

        st->flags = BLOCK_STATUS_RAW;
        st->file = below;
        st->map = offset + add;
        st->bytes = bytes;
    } else {
        st->flags = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED;
        st->bytes = bytes;
        if (node->driver->is_protocol) {
            st->flags |= BLOCK_STATUS_OFFSET_VALID;
            st->file = node;
            st->map = offset;
        }
    }
    if (st->flags & BLOCK_STATUS_RAW) {
        uint64_t max = st->bytes;

        ret = node_status(st->file, want_zero, st->map, max, st);
        if (ret < 0) {
            return ret;
        }
        if (!st->bytes) { /* the file got shorter */
            *st = (BlockStatus){ .flags = BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED, .bytes = max };
        }
        st->flags &= ~(unsigned)BLOCK_STATUS_EOF;
    } else {
        if (st->flags & (BLOCK_STATUS_DATA | BLOCK_STATUS_ZERO)) {
            st->flags |= BLOCK_STATUS_ALLOCATED;
        } else if (want_zero && !node->backing && (node->driver->supports_backing || st->flags == 0)) {
            st->flags |= BLOCK_STATUS_ZERO;
        } else if (want_zero && node->backing && offset >= block_size(node->backing)) {
            st->flags |= BLOCK_STATUS_ZERO;
        }
        if (want_zero && (st->flags & BLOCK_STATUS_RECURSE) && (st->flags & BLOCK_STATUS_DATA) &&
            (st->flags & BLOCK_STATUS_OFFSET_VALID) && !(st->flags & BLOCK_STATUS_ZERO)) {
            ask_file(st);
        }
    }
    st->flags &= ~(unsigned)BLOCK_STATUS_RECURSE;
    if (offset + st->bytes >= size) {
        st->flags |= BLOCK_STATUS_EOF;
    }
    return 0;
}

int block_co_status(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *st)
{
    return node_status(node, true, offset, bytes, st);
}

static int status_above(BlockNode *node, BlockNode *base, bool include_base, bool want_zero, uint64_t offset,
                        uint64_t bytes, BlockStatus *st)
{
    uint64_t size = __atomic_load_n(&node->size, __ATOMIC_RELAXED);
    int ret, depth = 0;

    if (!include_base && node == base) {
        *st = (BlockStatus){ .bytes = bytes };
        return 0;
    }
    ret = node_status(node, want_zero, offset, bytes, st);
    if (ret < 0 || !st->bytes || st->flags & BLOCK_STATUS_ALLOCATED || node == base) {
        return ret;
    }
    bytes = st->bytes;
    for (BlockNode *below = block_below(node); below && (include_base || below != base);
         below = block_below(below)) {
        depth++;
        ret = node_status(below, want_zero, offset, bytes, st);
        if (ret < 0) {
            return ret;
        }
        st->depth = depth;
        if (!st->bytes) {
            /* It ends before: from there on the layers above read zeroes, which is theirs to say. */
            st->flags = BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED;
            st->bytes = bytes;
            st->file = NULL;
            break;
        }
        bytes = MIN(bytes, st->bytes);
        if (st->flags & BLOCK_STATUS_ALLOCATED || below == base) {
            break;
        }
    }
    st->flags &= ~(unsigned)BLOCK_STATUS_EOF;
    if (offset + st->bytes >= size) {
        st->flags |= BLOCK_STATUS_EOF;
    }
    return 0;
}

int block_co_status_above(BlockNode *node, BlockNode *base, uint64_t offset, uint64_t bytes, BlockStatus *st)
{
    return status_above(node, base, false, true, offset, bytes, st);
}

int block_co_is_allocated_above(BlockNode *node, BlockNode *base, bool include_base, uint64_t offset,
                                uint64_t bytes, uint64_t *count)
{
    BlockStatus st;
    int ret = status_above(node, base, include_base, false, offset, bytes, &st);

    if (ret < 0) {
        return ret;
    }
    *count = st.bytes;
    return !!(st.flags & BLOCK_STATUS_ALLOCATED);
}

int block_co_is_zero(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    while (bytes) {
        BlockStatus st;
        int ret = status_above(node, NULL, false, true, offset, bytes, &st);

        if (ret < 0 || (st.bytes && !(st.flags & BLOCK_STATUS_ZERO))) {
            return MIN(ret, 0);
        }
        if (!st.bytes) {
            return 1;
        }
        offset += st.bytes;
        bytes -= st.bytes;
    }
    return 1;
}
