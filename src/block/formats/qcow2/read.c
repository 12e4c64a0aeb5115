/*
 * Reads and block status of qcow2. No lock is held while data is read: a mapping that was looked up stays
 * good until qcow2_io_end(), for clusters that are freed meanwhile are not used again before.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include <errno.h>
#include <string.h>

/* Part of a child that may be shorter than what is asked: zeroes behind its end. */
static int read_child(BlockChild *child, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from)
{
    uint64_t size = block_size(child), part = offset < size ? MIN(bytes, size - offset) : 0;
    int ret = part ? block_co_preadv(child, offset, part, vec, from, 0) : 0;

    if (ret >= 0 && part < bytes) {
        block_vec_zero(vec, from + part, bytes - part);
    }
    return ret;
}

int qcow2_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                    unsigned flags)
{
    Qcow2Node *s = (Qcow2Node *)node;

    while (bytes) {
        Qcow2Map map;
        unsigned epoch;
        int ret = qcow2_map(s, offset, bytes, &map, &epoch);

        if (ret < 0) {
            return ret;
        }
        switch (map.kind) {
        case QCOW2_KIND_DATA:
            QCOW2_EVENT(s, READ_AIO);
            ret = s->h.crypt_method && !s->crypt ? -EPERM /* opened without its key */
                  : s->crypt ? qcow2_read_encrypted(s, offset, map.host, map.bytes, vec, from)
                             : read_child(qcow2_data(s), map.host, map.bytes, vec, from);
            break;
        case QCOW2_KIND_COMPRESSED:
            ret = qcow2_read_compressed(s, map.word, offset & (s->g.cluster_size - 1), map.bytes, vec, from);
            break;
        case QCOW2_KIND_UNALLOCATED:
        case QCOW2_KIND_UNALLOCATED_HOST:
            if (node->backing && !s->view_past_end) {
                QCOW2_EVENT(s, READ_BACKING_AIO);
                ret = read_child(node->backing, offset, map.bytes, vec, from);
                break;
            }
            /* fall through */
        default:
            block_vec_zero(vec, from, map.bytes);
            break;
        }
        qcow2_io_end(s, epoch);
        if (ret < 0) {
            return ret;
        }
        offset += map.bytes;
        from += map.bytes;
        bytes -= map.bytes;
    }
    return 0;
}

/* Whether the file has much less on the host than the refcounts say: then clusters are holes that were laid
 * out only, and it is worth asking the file what is there. */
static bool has_holes(Qcow2Node *s)
{
    int known = __atomic_load_n(&s->holes_known, __ATOMIC_RELAXED);

    if (!known) {
        const BlockDriver *driver = s->node.file->node->driver;
        int64_t allocated = driver->get_allocated ? driver->get_allocated(s->node.file->node) : -1;

        known = allocated >= 0 && (uint64_t)allocated + (64u << 10) < block_size(s->node.file) ? 2 : 1;
        __atomic_store_n(&s->holes_known, known, __ATOMIC_RELAXED);
    }
    return known == 2;
}

int qcow2_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes, BlockStatus *st)
{
    Qcow2Node *s = (Qcow2Node *)node;
    Qcow2Map map;
    int ret = qcow2_map(s, offset, bytes, &map, NULL);

    if (ret < 0) {
        return ret;
    }
    st->bytes = map.bytes;
    st->flags = 0;
    if ((map.kind == QCOW2_KIND_DATA || map.kind == QCOW2_KIND_ZERO_HOST) && !s->crypt) {
        st->flags |= BLOCK_STATUS_OFFSET_VALID;
        st->map = map.host;
        st->file = qcow2_data(s)->node;
    }
    switch (map.kind) {
    case QCOW2_KIND_ZERO:
    case QCOW2_KIND_ZERO_HOST:
        st->flags |= BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED;
        break;
    case QCOW2_KIND_DATA:
        st->flags |= BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED;
        if (want_zero && !s->crypt && has_holes(s)) {
            st->flags |= BLOCK_STATUS_RECURSE;
        }
        break;
    case QCOW2_KIND_COMPRESSED:
        st->flags |= BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_COMPRESSED;
        break;
    default:
        break;
    }
    return 0;
}
