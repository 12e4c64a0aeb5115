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

/* ---- long chains: who below decides, without asking every layer in between ----
 *
 * Layers below do not change while the graph stands as it is: nobody writes to a node without a permission
 * for it, and every change of edges and permissions counts up the graph's generation. So what a walk through
 * the chain found stays true for the generation in which it was made, if nobody may write to the layers that
 * it passed. */

#define SKIP_BYTES (UINT64_C(1) << 30) /* that one walk looks at, at most */
#define SKIP_PART  (UINT64_C(1) << 25)
#define MAX_SKIPS  16384u

static guint skip_at(const Qcow2Node *s, uint64_t guest)
{
    guint low = 0, high = s->skips->len;

    while (low < high) {
        guint mid = (low + high) / 2;
        const Qcow2Skip *k = &g_array_index(s->skips, Qcow2Skip, mid);

        if (k->guest + k->bytes > guest) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    return low;
}

/* Who decides at offset and for how many of *bytes; NULL: not known. */
static BlockChild *skip_find(Qcow2Node *s, uint64_t offset, uint64_t *bytes)
{
    BlockChild *child = NULL;
    guint i;

    pthread_mutex_lock(&s->lock);
    if (s->skips_generation != block_graph_generation(s->node.graph)) {
        g_array_set_size(s->skips, 0);
        s->skips_generation = block_graph_generation(s->node.graph);
    }
    i = skip_at(s, offset);
    if (i < s->skips->len) {
        const Qcow2Skip *k = &g_array_index(s->skips, Qcow2Skip, i);

        if (k->guest <= offset) {
            child = k->child;
            *bytes = MIN(*bytes, k->guest + k->bytes - offset);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return child;
}

/* What was found, as far as nothing is known behind it; with a neighbour of the same kind it becomes one. */
static void skip_add(Qcow2Node *s, uint64_t offset, uint64_t bytes, BlockChild *child, unsigned generation)
{
    guint i;

    pthread_mutex_lock(&s->lock);
    if (s->skips_generation != generation || s->skips->len >= MAX_SKIPS) {
        g_array_set_size(s->skips, 0);
        s->skips_generation = generation;
    }
    i = skip_at(s, offset);
    if (i < s->skips->len) {
        Qcow2Skip *next = &g_array_index(s->skips, Qcow2Skip, i);

        if (next->guest <= offset) { /* another request was faster */
            pthread_mutex_unlock(&s->lock);
            return;
        }
        bytes = MIN(bytes, next->guest - offset);
        if (next->child == child && offset + bytes == next->guest) {
            next->bytes += bytes;
            next->guest = offset;
            pthread_mutex_unlock(&s->lock);
            return;
        }
    }
    if (i > 0) {
        Qcow2Skip *before = &g_array_index(s->skips, Qcow2Skip, i - 1);

        if (before->child == child && before->guest + before->bytes == offset) {
            before->bytes += bytes;
            pthread_mutex_unlock(&s->lock);
            return;
        }
    }
    g_array_insert_val(s->skips, i, ((Qcow2Skip){ offset, bytes, child }));
    pthread_mutex_unlock(&s->lock);
}

/* Whether the layer is one that can be passed by: plain qcow2 that nobody changes. */
static bool may_pass(const Qcow2Node *s, const BlockNode *node)
{
    return node->driver == s->node.driver && !__atomic_load_n(&node->copy_on_read, __ATOMIC_RELAXED) &&
           !(node->perm & (BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_UNCHANGED | BLOCK_PERM_RESIZE)) &&
           !((const Qcow2Node *)node)->view_past_end;
}

/* Walks down from the backing image. *bytes: cut to what the same node decides. */
static int skip_walk(Qcow2Node *s, uint64_t offset, uint64_t *bytes, BlockChild **result)
{
    unsigned generation = block_graph_generation(s->node.graph);
    BlockChild *child = s->node.backing;
    uint64_t run = *bytes;

    while (may_pass(s, child->node)) {
        Qcow2Node *layer = (Qcow2Node *)child->node;
        uint64_t size = block_size(child);
        Qcow2Map map;
        int ret;

        if (offset >= size) {
            break; /* zeroes */
        }
        run = MIN(run, size - offset);
        ret = qcow2_map(layer, offset, run, &map, NULL);
        if (ret < 0) {
            return ret;
        }
        run = MIN(run, map.bytes);
        if ((map.kind != QCOW2_KIND_UNALLOCATED && map.kind != QCOW2_KIND_UNALLOCATED_HOST) ||
            !layer->node.backing) {
            break;
        }
        child = layer->node.backing;
    }
    if (child != s->node.backing) {
        skip_add(s, offset, run, child, generation);
    }
    *bytes = run;
    *result = child;
    return 0;
}

/* Finds out about offset, and what lies before it in its part of the disk: so a few walks tell all of a part,
 * in whatever order it is read. *bytes as of skip_walk. */
static int skip_learn(Qcow2Node *s, uint64_t offset, uint64_t *bytes, BlockChild **result)
{
    uint64_t at = offset & ~(SKIP_PART - 1), end = block_node_end(s), run;

    for (int walks = 0; walks < 4 && at < offset;) {
        run = offset - at;
        if (!skip_find(s, at, &run)) {
            BlockChild *child;
            int ret;

            run = MIN(SKIP_BYTES, end - at);
            ret = skip_walk(s, at, &run, &child);
            if (ret < 0) {
                return ret;
            }
            walks++;
        }
        at += run;
    }
    *result = skip_find(s, offset, bytes);
    if (*result) {
        return 0;
    }
    run = MAX(*bytes, MIN(SKIP_BYTES, end - offset));
    int ret = skip_walk(s, offset, &run, result);
    *bytes = MIN(*bytes, run);
    return ret;
}

/* What this layer has nothing of; *bytes: as many of them as were read. */
static int read_below(Qcow2Node *s, uint64_t offset, uint64_t *bytes, const BlockVec *vec, uint64_t from)
{
    BlockChild *child = s->node.backing;
    int ret = 0;

    if (may_pass(s, child->node)) {
        child = skip_find(s, offset, bytes);
        if (!child) {
            ret = skip_learn(s, offset, bytes, &child);
        }
    }
    return ret < 0 ? ret : read_child(child, offset, *bytes, vec, from);
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
                ret = read_below(s, offset, &map.bytes, vec, from);
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
