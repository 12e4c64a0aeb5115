/*
 * Writes of zeroes and discards of qcow2: changes of L2 entries alone. What they free is punched in the file
 * only after the tables without it are stable. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include <errno.h>

/* A cluster's new entry. false: cannot be done by tables alone. lock held. */
typedef bool EntryFunc(Qcow2Node *s, Qcow2Entry old, Qcow2Entry *e, uint32_t sub, uint32_t count,
                       unsigned flags);

/* flags: the piece was widened to a whole subcluster, for the rest read as zeroes; no data may be there now.
 */
#define WIDENED (1u << 30)

static bool zero_entry(Qcow2Node *s, Qcow2Entry old, Qcow2Entry *e, uint32_t sub, uint32_t count,
                       unsigned flags)
{
    uint32_t subs = 1u << s->g.sub_bits;
    bool has_host = qcow2_entry_has_host(&s->g, old);
    Qcow2Kind kind;

    if (qcow2_entry_kind(&s->g, old, 0) == QCOW2_KIND_INVALID) {
        return false;
    }
    /* A zero flag even where there is no backing image: one may come below some day. */
    if (s->g.v2 && !s->node.backing && qcow2_entry_run(&s->g, old, 0, &kind) == subs &&
        kind == QCOW2_KIND_UNALLOCATED) {
        return true;
    }
    kind = qcow2_entry_kind(&s->g, old, sub);
    if ((flags & WIDENED) && (kind == QCOW2_KIND_DATA || kind == QCOW2_KIND_COMPRESSED)) {
        return false;
    }
    if (count < subs) {
        if (old.word & QCOW2_COMPRESSED) {
            return false;
        }
        /* (A cluster that is shared too: its bytes stay as they are.) */
        qcow2_entry_set_zero(&s->g, e, sub, count);
        return true;
    }
    if (!has_host || !(old.word & QCOW2_COPIED) || (flags & BLOCK_REQ_MAY_UNMAP)) {
        *e = (Qcow2Entry){ 0, 0 };
    }
    if (s->g.v2) {
        return !s->node.backing && !e->word;
    }
    qcow2_entry_set_zero(&s->g, e, 0, subs);
    return true;
}

/* full (in flags): reads go to the backing image again. */
#define FULL_DISCARD (1u << 31)

static bool discard_entry(Qcow2Node *s, Qcow2Entry old, Qcow2Entry *e, uint32_t sub, uint32_t count,
                          unsigned flags)
{
    uint32_t subs = 1u << s->g.sub_bits;
    Qcow2Kind kind;

    if (count < subs || qcow2_entry_kind(&s->g, old, 0) == QCOW2_KIND_INVALID) {
        return false;
    }
    if (qcow2_entry_run(&s->g, old, 0, &kind) == subs &&
        (kind == QCOW2_KIND_UNALLOCATED || (kind == QCOW2_KIND_ZERO && !(flags & FULL_DISCARD)))) {
        if (kind == QCOW2_KIND_ZERO || (flags & FULL_DISCARD) || !s->node.backing) {
            return true;
        }
    }
    if (!(flags & FULL_DISCARD) && !s->node.backing && !qcow2_entry_has_host(&s->g, old) &&
        !(old.word & QCOW2_COMPRESSED)) {
        return true; /* nothing to give back, and it reads as zeroes either way */
    }
    *e = (Qcow2Entry){ 0, 0 };
    if (!(flags & FULL_DISCARD)) {
        if (s->g.v2) {
            return !s->node.backing;
        }
        qcow2_entry_set_zero(&s->g, e, 0, subs);
    }
    return true;
}

/* A page's worth of entries at most; *done bytes of it. */
static int change_entries(Qcow2Node *s, uint64_t offset, uint64_t bytes, unsigned flags, EntryFunc *fn,
                          bool punch, uint64_t *done)
{
    uint64_t mask = s->g.cluster_size - 1, at = offset, end;
    Qcow2Page *page;
    int ret = qcow2_l2_writable(s, offset, &page);

    if (ret < 0) {
        return ret;
    }
    end = MIN(offset + bytes,
              (offset & ~mask) + ((uint64_t)((s->page_bytes - qcow2_l2_pos(s, offset)) / s->g.l2_entry_bytes)
                                  << s->g.cluster_bits));
    pthread_mutex_lock(&s->lock);
    while (at < end) {
        uint64_t cluster = at & ~mask, to = MIN(end, cluster + s->g.cluster_size);
        uint32_t pos = qcow2_l2_pos(s, at), sub = (uint32_t)((at - cluster) / s->g.sub_size), count;
        Qcow2Entry old, e;

        if (to >= block_node_end(s)) { /* what is behind the disk's end does not matter */
            uint64_t unit = fn == zero_entry ? s->g.sub_size : s->g.cluster_size;

            to = (to + unit - 1) & ~(unit - 1);
        }
        count = (uint32_t)((to - cluster) / s->g.sub_size) - sub;
        while (qcow2_alloc_conflict(s, qcow2_cluster_of(s, at), 1)) {}
        old = e = qcow2_entry_load(&s->g, page->data + pos);
        if (((at | to) & (s->g.sub_size - 1)) || !count || !fn(s, old, &e, sub, count, flags)) {
            ret = -ENOTSUP;
            break;
        }
        if (e.word != old.word || e.bitmap != old.bitmap) {
            if (e.word != old.word &&
                ((old.word & QCOW2_COMPRESSED) || qcow2_entry_host(e) != qcow2_entry_host(old))) {
                qcow2_release_entry(s, old, punch);
            }
            qcow2_entry_store(&s->g, page->data + pos, e);
            qcow2_page_dirty(s, page, pos, s->g.l2_entry_bytes);
            qcow2_extents_forget(s, cluster, s->g.cluster_size);
        }
        at = to;
    }
    qcow2_page_put(s, page);
    pthread_mutex_unlock(&s->lock);
    *done = MIN(at, end) - offset;
    return ret < 0 ? ret : qcow2_relieve(s);
}

static bool no_table(Qcow2Node *s, uint64_t offset, uint64_t bytes, uint64_t *skip)
{
    uint32_t shift = s->g.cluster_bits + s->g.l2_bits;
    uint64_t index = offset >> shift;

    if (s->node.backing || index >= s->h.l1_size ||
        (__atomic_load_n(&s->l1[index], __ATOMIC_RELAXED) & QCOW2_OFFSET_MASK)) {
        return false;
    }
    *skip = MIN(bytes, ((index + 1) << shift) - offset);
    return true;
}

/* A piece of a subcluster: all of it can become zero where no data stands there and the rest reads as zeroes
 * already. false: the piece is to be written. */
static bool widen(Qcow2Node *s, uint64_t *offset, uint64_t *bytes, unsigned *flags)
{
    uint64_t unit = s->g.sub_size, head = *offset & (unit - 1), end = *offset + *bytes;
    uint64_t size = block_node_end(s), tail = end < size ? (unit - (end & (unit - 1))) & (unit - 1) : 0;
    Qcow2Map map;

    if (!head && !tail) {
        return true;
    }
    if (head + *bytes + tail > unit || (!s->node.backing && s->g.v2) ||
        qcow2_map(s, *offset - head, 1, &map, NULL) < 0 || map.kind == QCOW2_KIND_DATA ||
        map.kind == QCOW2_KIND_COMPRESSED) {
        return false;
    }
    if ((head && block_co_is_zero(&s->node, *offset - head, head) != 1) ||
        (tail && block_co_is_zero(&s->node, end, MIN(tail, size - end)) != 1)) {
        return false;
    }
    *offset -= head;
    *bytes += head + tail;
    *flags |= WIDENED;
    return true;
}

int qcow2_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    Qcow2Node *s = (Qcow2Node *)node;

    if (__atomic_load_n(&s->broken, __ATOMIC_RELAXED)) {
        return -EIO;
    }
    if (s->raw_data) {
        int ret = block_co_pwrite_zeroes(s->data_child, offset, bytes, flags & BLOCK_REQ_MAY_UNMAP);

        if (ret < 0) {
            return ret;
        }
    }
    if (!widen(s, &offset, &bytes, &flags)) {
        return -ENOTSUP;
    }
    while (bytes) {
        uint64_t done = 0;
        int ret = s->g.v2 && no_table(s, offset, bytes, &done)
                      ? 0
                      : change_entries(s, offset, bytes, flags, zero_entry, s->pass_request, &done);

        if (ret < 0) {
            return ret; /* the core writes all of it, which does no harm */
        }
        offset += done;
        bytes -= MIN(done, bytes);
    }
    return 0;
}

int qcow2_discard(Qcow2Node *s, uint64_t offset, uint64_t bytes, bool full)
{
    uint64_t mask = s->g.cluster_size - 1, end = offset + bytes;

    if (end < block_node_end(s)) {
        end &= ~mask;
    }
    offset = (offset + mask) & ~mask;
    while (offset < end) {
        uint64_t done = 0;
        int ret = no_table(s, offset, end - offset, &done)
                      ? 0
                      : change_entries(s, offset, end - offset, full ? FULL_DISCARD : 0, discard_entry,
                                       full ? s->pass_snapshot : s->pass_request, &done);

        if (ret < 0) {
            return ret;
        }
        offset += done;
    }
    return 0;
}

int qcow2_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Qcow2Node *s = (Qcow2Node *)node;
    int ret;

    if (__atomic_load_n(&s->broken, __ATOMIC_RELAXED)) {
        return -EIO;
    }
    if (s->g.v2 && node->backing) {
        return -ENOTSUP; /* old data of the backing image would come back */
    }
    ret = qcow2_discard(s, offset, bytes, false);
    if (ret >= 0 && s->data_child && s->pass_request) {
        ret = block_co_pdiscard(s->data_child, offset, bytes);
    }
    return ret;
}
