/*
 * Resizing, preallocation and emptying of qcow2: the control plane, with no request under way.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include <errno.h>
#include <string.h>

/* A longer L1 table, written before the header leads to it. */
int qcow2_grow_l1(Qcow2Node *s, uint64_t entries)
{
    uint64_t old_offset = s->h.l1_offset, old_bytes = (uint64_t)s->h.l1_size * 8, bytes, offset, *l1;
    uint32_t old_size = s->h.l1_size;
    int ret;

    if (entries <= s->h.l1_size) {
        return 0;
    }
    if (entries > QCOW2_MAX_L1_BYTES / 8) {
        return -EFBIG;
    }
    ret = qcow2_checkpoint(s);
    if (ret < 0) {
        return ret;
    }
    bytes = entries * 8;
    l1 = g_try_new0(uint64_t, entries);
    if (!l1) {
        return -ENOMEM;
    }
    QCOW2_EVENT(s, L1_GROW_ALLOC_TABLE);
    offset = qcow2_alloc_table(s, bytes, &ret);
    if (offset) {
        for (uint32_t i = 0; i < old_size; i++) {
            l1[i] = GUINT64_TO_BE(s->l1[i]);
        }
        QCOW2_EVENT(s, L1_GROW_WRITE_TABLE);
        ret = blk_pwrite(s->node.file, offset, bytes, l1, 0);
    }
    if (ret >= 0) {
        ret = qcow2_checkpoint(s); /* its refcounts, and a flush */
    }
    if (ret >= 0) {
        s->h.l1_offset = offset;
        s->h.l1_size = (uint32_t)entries;
        QCOW2_EVENT(s, L1_GROW_ACTIVATE_TABLE);
        ret = qcow2_write_header(s);
        if (ret >= 0) {
            ret = blk_flush(s->node.file);
        }
    }
    if (ret < 0) {
        s->h.l1_offset = old_offset;
        s->h.l1_size = old_size;
        if (offset) {
            qcow2_free_now(s, offset, bytes, false);
        }
        g_free(l1);
        return ret;
    }
    memset(l1, 0, bytes);
    memcpy(l1, s->l1, old_bytes);
    g_free(s->l1);
    s->l1 = l1;
    qcow2_meta_drop(s);
    if (old_bytes) {
        ret = qcow2_free_now(s, old_offset, old_bytes, true);
    }
    return ret;
}

/* All of it reads as zeroes and has no place. */
static bool is_plain_zero(const Qcow2Node *s, Qcow2Entry e)
{
    Qcow2Kind kind;

    return qcow2_entry_run(&s->g, e, 0, &kind) == 1u << s->g.sub_bits && kind == QCOW2_KIND_ZERO;
}

/* Allocates all of [from, to) that has no cluster, without data. */
static int preallocate_tables(Qcow2Node *s, uint64_t from, uint64_t to)
{
    int ret = 0;

    from &= ~(uint64_t)(s->g.cluster_size - 1);
    while (from < to && ret >= 0) {
        uint64_t per_page = s->page_bytes / s->g.l2_entry_bytes, count, first = qcow2_cluster_of(s, from);
        Qcow2Alloc a = { 0 };
        bool zeroes = false;
        Qcow2Page *page;
        Qcow2Entry e;

        ret = qcow2_l2_writable(s, from, &page);
        if (ret < 0) {
            break;
        }
        pthread_mutex_lock(&s->lock);
        count = MIN(per_page - qcow2_l2_pos(s, from) / s->g.l2_entry_bytes,
                    qcow2_cluster_of(s, to + s->g.cluster_size - 1) - first);
        for (uint64_t i = 0; i < count; i++) {
            bool zero;

            e = qcow2_entry_load(&s->g, page->data + qcow2_l2_pos(s, from + (i << s->g.cluster_bits)));
            zero = is_plain_zero(s, e);
            if (i == 0) {
                zeroes = zero;
            }
            if (zero != zeroes || ((e.word || e.bitmap) && !zero)) {
                count = i;
            }
        }
        if (!count) {
            from += s->g.cluster_size;
        } else {
            uint64_t host = from;

            qcow2_alloc_add(s, &a, first, count);
            if (!s->data_child) {
                ret = qcow2_take_clusters(s, count, &a);
                count = ret > 0 ? (uint64_t)ret : 0;
                host = a.host;
            }
            for (uint64_t i = 0; i < count; i++) {
                uint32_t pos = qcow2_l2_pos(s, from + (i << s->g.cluster_bits));

                e = (Qcow2Entry){ (host + (i << s->g.cluster_bits)) | QCOW2_COPIED, 0 };
                /* Fresh space reads as zeroes; used space must not be seen. Over a backing image the place is
                 * all that is given (which takes subclusters). */
                if (zeroes) {
                    qcow2_entry_set_zero(&s->g, &e, 0, 1u << s->g.sub_bits);
                } else if (s->h.backing_file) {
                    e.bitmap = 0;
                } else if ((s->g.v2 && s->h.crypt_method) ||
                           ((a.fresh || s->data_child) && !s->h.crypt_method)) {
                    qcow2_entry_set_data(&s->g, &e, 0, 1u << s->g.sub_bits);
                } else {
                    qcow2_entry_set_zero(&s->g, &e, 0, 1u << s->g.sub_bits);
                }
                qcow2_entry_store(&s->g, page->data + pos, e);
                qcow2_page_dirty(s, page, pos, s->g.l2_entry_bytes);
            }
            if (count && a.ref_page) {
                qcow2_link_clusters(s, &a);
            }
            qcow2_extents_forget(s, from, count << s->g.cluster_bits);
            qcow2_alloc_remove(s, &a);
            from += count << s->g.cluster_bits;
        }
        qcow2_page_put(s, page);
        pthread_mutex_unlock(&s->lock);
        if (ret >= 0) {
            ret = qcow2_relieve(s);
        }
    }
    return ret;
}

int qcow2_preallocate(Qcow2Node *s, uint64_t from, uint64_t to, QapiPreallocMode mode, GError **error)
{
    uint64_t end;
    int ret;

    if (mode == QAPI_PREALLOC_MODE_OFF || from >= to) {
        return 0;
    }
    if (s->data_child) {
        QapiPreallocMode data = mode == QAPI_PREALLOC_MODE_METADATA ? QAPI_PREALLOC_MODE_OFF : mode;

        if (block_size(s->data_child) < to || data != QAPI_PREALLOC_MODE_OFF) {
            if (!blk_truncate(s->data_child, to, false, data, 0, error)) {
                return -EIO;
            }
        }
    } else if (mode != QAPI_PREALLOC_MODE_METADATA && s->can_grow) {
        /* The host's space first: clusters and their tables will lie in it, one after the other. */
        uint64_t clusters = qcow2_cluster_of(s, to - from + s->g.cluster_size - 1) + 1;
        uint64_t tables = (clusters >> s->g.l2_bits) + (clusters >> s->g.refblock_bits) + 3;

        end = (s->fresh_next + clusters + tables) << s->g.cluster_bits;
        if (!blk_truncate(s->node.file, end, false, mode, 0, error)) {
            return -ENOSPC;
        }
    }
    ret = preallocate_tables(s, from, to);
    if (ret >= 0) {
        ret = qcow2_checkpoint(s);
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "Could not preallocate metadata");
        return ret;
    }
    if (!s->data_child && s->can_grow) {
        end = s->fresh_next << s->g.cluster_bits;
        if (block_size(s->node.file) < end &&
            !blk_truncate(s->node.file, end, false,
                          mode == QAPI_PREALLOC_MODE_METADATA ? QAPI_PREALLOC_MODE_OFF : mode, 0, error)) {
            return -ENOSPC;
        }
        s->file_end = MAX(s->file_end, s->fresh_next);
    }
    return 0;
}

static int shrink(Qcow2Node *s, uint64_t size, GError **error)
{
    uint64_t old = s->h.size, keep = qcow2_l1_entries(&s->g, size);
    int ret = qcow2_discard(s, qcow2_round_up(s, size), old - MIN(old, qcow2_round_up(s, size)), true);

    if (ret < 0) {
        error_set_errno(error, -ret, "Failed to discard cropped clusters");
        return ret;
    }
    ret = qcow2_checkpoint(s);
    /* Tables of nothing but what was cropped. The L1 table keeps its place and its length. */
    for (uint64_t i = keep; ret >= 0 && i < s->h.l1_size; i++) {
        uint64_t table = s->l1[i] & QCOW2_OFFSET_MASK;
        Qcow2Page *page;

        if (!table) {
            continue;
        }
        ret = qcow2_l1_page(s, i, &page);
        if (ret >= 0) {
            pthread_mutex_lock(&s->lock);
            qcow2_l1_set(s, page, i, 0);
            qcow2_page_put(s, page);
            qcow2_free_later(s, qcow2_cluster_of(s, table), 1, true);
            pthread_mutex_unlock(&s->lock);
        }
    }
    if (ret >= 0) {
        ret = qcow2_checkpoint(s);
    }
    qcow2_meta_drop(s);
    if (ret < 0) {
        error_set_errno(error, -ret, "Failed to reduce the number of L2 tables");
    }
    return ret;
}

/* What lies in the last cluster behind the old end must not be seen. */
static int zero_tail(Qcow2Node *s, uint64_t old, uint64_t size)
{
    uint64_t end = MIN(size, qcow2_round_up(s, old));
    uint64_t bytes = end - MIN(old, end);
    uint8_t *zero;
    Qcow2Map map;
    BlockVec vec;
    int ret;

    if (!bytes) {
        return 0;
    }
    ret = qcow2_map(s, old, bytes, &map, NULL);
    if (ret < 0 || ((map.kind == QCOW2_KIND_UNALLOCATED || map.kind == QCOW2_KIND_ZERO) && !s->node.backing &&
                    map.bytes == bytes)) {
        return ret;
    }
    zero = g_malloc0(bytes);
    vec = BLOCK_VEC_BUF(zero, bytes);
    ret = qcow2_co_pwritev(&s->node, old, bytes, &vec, 0, 0);
    g_free(zero);
    return ret;
}

int qcow2_co_truncate(BlockNode *node, uint64_t size, bool exact, QapiPreallocMode prealloc, unsigned flags,
                      GError **error)
{
    Qcow2Node *s = (Qcow2Node *)node;
    uint64_t old = s->h.size;
    int ret = 0;

    if (size & 511) {
        error_set(error, "The new size must be a multiple of 512");
        return -EINVAL;
    }
    for (guint i = 0; i < s->snapshots->len; i++) {
        const Qcow2Snapshot *snap = &g_array_index(s->snapshots, Qcow2Snapshot, i);

        if (s->h.version < 3 || snap->extra_size < 16) {
            error_set(error, "Can't resize a v2 image which has snapshots");
            return -ENOTSUP;
        }
    }
    if (qcow2_l1_entries(&s->g, size) > QCOW2_MAX_L1_BYTES / 8) {
        error_set(error, "Failed to grow the L1 table: Image is too big for its cluster size");
        return -EFBIG;
    }
    if (size < old) {
        if (prealloc != QAPI_PREALLOC_MODE_OFF) {
            error_set(error, "Preallocation can't be used for shrinking an image");
            return -EINVAL;
        }
        ret = shrink(s, size, error);
        if (ret < 0) {
            return ret;
        }
    } else {
        ret = qcow2_grow_l1(s, qcow2_l1_entries(&s->g, size));
        if (ret < 0) {
            error_set_errno(error, -ret, "Failed to grow the L1 table");
            return ret;
        }
    }
    if (size > old) {
        __atomic_store_n(&node->size, size,
                         __ATOMIC_RELAXED); /* the new part is written before anybody sees it */
        ret = zero_tail(s, old, size);
        if (ret >= 0 && (flags & BLOCK_REQ_ZERO_WRITE) && qcow2_round_up(s, old) < size) {
            ret = qcow2_co_pwrite_zeroes(node, qcow2_round_up(s, old), size - qcow2_round_up(s, old),
                                         BLOCK_REQ_MAY_UNMAP);
        }
        if (ret < 0) {
            error_set_errno(error, -ret, "Failed to zero out the new area");
        } else if (qcow2_preallocate(s, old, size, prealloc, error) < 0) {
            ret = -EIO;
        }
        if (ret < 0) {
            __atomic_store_n(&node->size, old, __ATOMIC_RELAXED);
            return ret;
        }
    }
    ret = qcow2_checkpoint(s);
    if (ret >= 0) {
        s->h.size = size;
        if (s->raw_data && size != block_size(s->data_child) &&
            !blk_truncate(s->data_child, size, false, QAPI_PREALLOC_MODE_OFF, 0, error)) {
            s->h.size = old;
            __atomic_store_n(&node->size, old, __ATOMIC_RELAXED);
            return -EIO;
        }
        ret = qcow2_write_header(s);
        if (ret >= 0) {
            ret = blk_flush(node->file);
        }
    }
    if (ret < 0) {
        s->h.size = old;
        __atomic_store_n(&node->size, old, __ATOMIC_RELAXED);
        error_set_errno(error, -ret, "Failed to update the image size");
        return ret;
    }
    block_node_set_size(node, size);
    return 0;
}

int qcow2_co_make_empty(BlockNode *node)
{
    Qcow2Node *s = (Qcow2Node *)node;
    uint64_t span = UINT64_C(1) << (s->g.cluster_bits + s->g.l2_bits);
    int ret = 0;

    QCOW2_EVENT(s, L1_UPDATE);
    QCOW2_EVENT(s, EMPTY_IMAGE_PREPARE);
    QCOW2_EVENT(s, REFTABLE_UPDATE);
    QCOW2_EVENT(s, REFBLOCK_ALLOC);
    for (uint64_t i = 0; i < qcow2_l1_entries(&s->g, s->h.size) && ret >= 0; i++) {
        if (s->l1[i] & QCOW2_OFFSET_MASK) {
            ret = qcow2_discard(s, i * span, MIN(span, s->h.size - i * span), true);
        }
    }
    return ret < 0 ? ret : qcow2_checkpoint(s);
}
