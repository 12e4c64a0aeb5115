/*
 * Requests on their way through the graph. SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Invariants:
 *  1. A root counts its requests in flight; nodes below do not: whoever drains waits for the roots.
 *  2. What a driver gets is aligned to its request_alignment (any_alignment excepted) and within its limits.
 *  3. While a serialising request runs on a node, no other that overlaps runs; a request waits only for such
 * as do not wait themselves, so no two wait for each other.
 */
#include "block/graph/graph_internal.h"

#include "base/error.h"
#include "block/graph/dirty_bitmap.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define ZERO_BUFFER       (1u << 20)
#define COPY_ON_READ_UNIT 65536

/* ---- the door of a root ---- */

static bool is_quiesced(void *opaque)
{
    BlockChild *root = opaque;

    return __atomic_load_n(&root->quiesced, __ATOMIC_SEQ_CST) && !root->exempt;
}

static void enter(BlockChild *child)
{
    if (child->parent) {
        return;
    }
    for (;;) {
        __atomic_fetch_add(&child->in_flight, 1, __ATOMIC_SEQ_CST);
        if (!is_quiesced(child)) {
            return;
        }
        __atomic_fetch_sub(&child->in_flight, 1, __ATOMIC_SEQ_CST);
        co_queue_wait_if(&child->waiting, is_quiesced, child);
    }
}

static void leave(BlockChild *child)
{
    if (!child->parent) {
        __atomic_fetch_sub(&child->in_flight, 1, __ATOMIC_SEQ_CST);
    }
}

void block_root_hold(BlockChild *root)
{
    enter(root);
}

void block_root_release(BlockChild *root)
{
    leave(root);
}

/* ---- requests that overlap ---- */

BlockTracker *block_tracker_new(void)
{
    BlockTracker *t = g_new0(BlockTracker, 1);

    pthread_mutex_init(&t->lock, NULL);
    return t;
}

void block_tracker_free(BlockTracker *t)
{
    pthread_mutex_destroy(&t->lock);
    g_free(t);
}

/* With the lock held: gives it up while it waits for who must be through first. -EBUSY: with no_wait. */
static int wait_for_others(BlockTracker *tracker, BlockTracked *self, bool no_wait)
{
again:
    for (BlockTracked *t = tracker->list; t; t = t->next) {
        if (t == self || (!t->serialising && !self->serialising) || t->offset >= self->offset + self->bytes ||
            self->offset >= t->offset + t->bytes || t->waiting_for) {
            continue;
        }
        if (no_wait) {
            return -EBUSY;
        }
        self->waiting_for = t;
        co_queue_wait_unlock(&t->waiting, &tracker->lock);
        pthread_mutex_lock(&tracker->lock);
        self->waiting_for = NULL;
        goto again;
    }
    return 0;
}

static bool tracked_begin(BlockNode *node, BlockTracked *t, uint64_t offset, uint64_t bytes, bool write,
                          unsigned flags, uint64_t serialise_align, int *result)
{
    BlockTracker *tracker = node->tracker;

    *result = 0;
    if (!__atomic_load_n(&tracker->enabled, __ATOMIC_RELAXED) && !serialise_align) {
        return false;
    }
    *t = (BlockTracked){ .offset = offset, .bytes = bytes, .write = write };
    co_queue_init(&t->waiting);
    if (serialise_align) {
        uint64_t mask = serialise_align - 1, end = (offset + bytes + mask) & ~mask;

        t->serialising = true;
        t->offset = offset & ~mask;
        t->bytes = end - t->offset;
    }
    pthread_mutex_lock(&tracker->lock);
    t->next = tracker->list;
    if (t->next) {
        t->next->prev = t;
    }
    tracker->list = t;
    *result = wait_for_others(tracker, t, flags & BLOCK_REQ_NO_WAIT);
    pthread_mutex_unlock(&tracker->lock);
    return true;
}

static void tracked_end(BlockNode *node, BlockTracked *t)
{
    pthread_mutex_lock(&node->tracker->lock);
    *(t->prev ? &t->prev->next : &node->tracker->list) = t->next;
    if (t->next) {
        t->next->prev = t->prev;
    }
    co_queue_wake_all(&t->waiting);
    pthread_mutex_unlock(&node->tracker->lock);
}

/* ---- protocols with submit() ---- */

typedef struct Submitted {
    BlockRequest req;
    Coroutine *co;
    int result;
} Submitted;

static void submitted_done(void *opaque, int result)
{
    Submitted *s = opaque;

    s->result = result;
    coroutine_enter(s->co);
}

static int co_submit(BlockNode *node, BlockOp op, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                     uint64_t from, unsigned flags)
{
    Submitted s;
    struct iovec iov_inline[8], *iov = iov_inline;

    block_request_init(&s.req);
    if (vec) {
        int n = block_vec_count(vec, from, bytes);

        if (n > (int)G_N_ELEMENTS(iov_inline)) {
            iov = g_new(struct iovec, n);
        }
        s.req.iov_count = block_vec_slice(vec, from, bytes, iov);
        s.req.iov = iov;
    }
    s.co = coroutine_self();
    s.req.loop = loop_current();
    s.req.op = op;
    s.req.flags = flags;
    s.req.offset = offset;
    s.req.bytes = bytes;
    s.req.done = submitted_done;
    s.req.opaque = &s;
    s.req.node = node;
    node->driver->submit(node, &s.req);
    coroutine_yield();
    if (iov != iov_inline) {
        g_free(iov);
    }
    return s.result;
}

void block_request_done(BlockRequest *req, int result)
{
    BlockChild *root = req->root;

    req->done(req->opaque, result);
    /* Last: who drains must find the device's own completion done. */
    if (root) {
        __atomic_fetch_sub(&root->in_flight, 1, __ATOMIC_SEQ_CST);
    }
}

/* ---- reading ---- */

/* Where a filter without an own way of doing something does it. */
static BlockChild *filter_child(BlockNode *node)
{
    return !node->driver->is_filter ? NULL : node->file ? node->file : node->backing;
}

static int driver_read(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                       unsigned flags)
{
    if (node->driver->submit) {
        return co_submit(node, BLOCK_READ, offset, bytes, vec, from, 0);
    }
    if (!node->driver->co_preadv && filter_child(node)) {
        return block_co_preadv(filter_child(node), offset, bytes, vec, from, flags);
    }
    return node->driver->co_preadv ? node->driver->co_preadv(node, offset, bytes, vec, from, flags)
                                   : -ENOTSUP;
}

/* The most that may go down at once, from `left`. */
static uint64_t piece_of(const BlockNode *node, const BlockVec *vec, uint64_t from, uint64_t left)
{
    const BlockLimits *l = &node->limits;
    uint64_t max = l->max_transfer ? l->max_transfer & ~(uint64_t)(l->request_alignment - 1) : left;

    max = MIN(MAX(max, l->request_alignment), left);
    if (l->max_iov && vec->count > (int)l->max_iov && block_vec_count(vec, from, max) > (int)l->max_iov) {
        uint64_t n = 0;
        struct iovec *iov = g_new(struct iovec, vec->count);

        block_vec_slice(vec, from, max, iov);
        for (uint32_t i = 0; i < l->max_iov; i++) {
            n += iov[i].iov_len;
        }
        g_free(iov);
        n &= ~(uint64_t)(l->request_alignment - 1);
        max = n ? MIN(n, max) : max;
    }
    return max;
}

static int aligned_read(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                        unsigned flags)
{
    uint64_t size = __atomic_load_n(&node->size, __ATOMIC_RELAXED);
    uint64_t align = node->any_alignment ? 1 : node->limits.request_alignment, there = bytes;
    int ret = 0;

    /* Behind the end there are zeroes; the last block may be cut by it. */
    if (offset >= size) {
        there = 0;
    } else if (bytes > size - offset) {
        there = MIN(bytes, (size - offset + align - 1) & ~(align - 1));
    }
    for (uint64_t done = 0; done < there && !ret;) {
        uint64_t n = piece_of(node, vec, from + done, there - done);

        ret = driver_read(node, offset + done, n, vec, from + done, flags);
        done += n;
    }
    if (!ret && there < bytes) {
        block_vec_zero(vec, from + there, bytes - there);
    }
    return ret;
}

/* A request made longer at both ends to whole blocks. */
typedef struct Padded {
    uint8_t *buf; /* two blocks: what is before and behind */
    struct iovec *iov;
    BlockVec vec;
    uint64_t offset, bytes, head, tail;
} Padded;

static bool pad(BlockNode *node, Padded *p, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                uint64_t from)
{
    uint64_t align = node->any_alignment ? 1 : node->limits.request_alignment, mask = align - 1;
    int n = 0;

    if (!((offset | bytes) & mask)) {
        return false;
    }
    *p = (Padded){ .head = offset & mask, .tail = (align - ((offset + bytes) & mask)) & mask };
    p->offset = offset - p->head;
    p->bytes = p->head + bytes + p->tail;
    p->buf = g_aligned_alloc0(2, align, MAX(4096, node->limits.memory_alignment));
    p->iov = g_new(struct iovec, (vec ? block_vec_count(vec, from, bytes) : 1) + 2);
    if (p->head) {
        p->iov[n++] = (struct iovec){ p->buf, p->head };
    }
    n += vec ? block_vec_slice(vec, from, bytes, p->iov + n) : 0;
    if (p->tail) {
        p->iov[n++] = (struct iovec){ p->buf + 2 * align - p->tail, p->tail };
    }
    p->vec = (BlockVec){ p->iov, n };
    return true;
}

static void pad_end(Padded *p)
{
    g_aligned_free(p->buf);
    g_free(p->iov);
}

static int copy_on_read(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                        unsigned flags);

static int node_read(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                     unsigned flags)
{
    BlockTracked tracked = { 0 };
    bool is_tracked;
    Padded p;
    int ret;

    if (!bytes) {
        return 0;
    }
    if (__atomic_load_n(&node->copy_on_read, __ATOMIC_RELAXED)) {
        flags |= BLOCK_REQ_COPY_ON_READ;
    }
    if (flags & BLOCK_REQ_COPY_ON_READ && !node->read_only) {
        return copy_on_read(node, offset, bytes, vec, from, flags);
    }
    is_tracked = tracked_begin(node, &tracked, offset, bytes, false, flags,
                               flags & BLOCK_REQ_SERIALISING ? node->limits.request_alignment : 0, &ret);
    flags &= ~(unsigned)(BLOCK_REQ_SERIALISING | BLOCK_REQ_NO_WAIT);
    if (!ret) {
        if (pad(node, &p, offset, bytes, vec, from)) {
            ret = aligned_read(node, p.offset, p.bytes, &p.vec, 0, flags);
            pad_end(&p);
        } else {
            ret = aligned_read(node, offset, bytes, vec, from, flags);
        }
    }
    if (is_tracked) {
        tracked_end(node, &tracked);
    }
    return ret;
}

/* ---- writing ---- */

static int node_flush(BlockNode *node);

static int driver_write(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                        unsigned flags)
{
    bool flush;
    int ret;

    if (filter_child(node) && !node->driver->co_pwritev) {
        return block_co_pwritev(filter_child(node), offset, bytes, vec, from, flags);
    }
    if (flags & BLOCK_REQ_WRITE_COMPRESSED) {
        if (filter_child(node) && !node->driver->co_pwritev_compressed) {
            return block_co_pwritev(filter_child(node), offset, bytes, vec, from, flags);
        }
        return node->driver->co_pwritev_compressed
                   ? node->driver->co_pwritev_compressed(node, offset, bytes, vec, from)
                   : -ENOTSUP;
    }
    if (node->driver->submit) {
        return co_submit(node, BLOCK_WRITE, offset, bytes, vec, from, flags & BLOCK_REQ_FUA);
    }
    if (!node->driver->co_pwritev) {
        return -ENOTSUP;
    }
    flush = (flags & BLOCK_REQ_FUA) && !(node->write_flags & BLOCK_REQ_FUA);
    ret = node->driver->co_pwritev(node, offset, bytes, vec, from, flags & node->write_flags);
    return ret || !flush ? ret : node_flush(node);
}

/* Before the first byte of a change. */
static int change_begin(BlockNode *node)
{
    if (node->read_only) {
        return -EPERM;
    }
    if (__atomic_load_n(&node->corrupt, __ATOMIC_RELAXED)) {
        return -EIO;
    }
    /* Before the write begins: a flush that begins meanwhile must not count as covering it. */
    __atomic_fetch_add(&node->write_generation, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void write_threshold_event(BlockNode *node, uint64_t end)
{
    uint64_t threshold = __atomic_load_n(&node->write_threshold, __ATOMIC_RELAXED);
    json_object *data;

    if (!threshold || end <= threshold ||
        !__atomic_compare_exchange_n(&node->write_threshold, &threshold, 0, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED)) {
        return;
    }
    data = json_object_new_object();
    json_object_object_add(data, "node-name", json_object_new_string(node->name));
    json_object_object_add(data, "amount-exceeded", json_object_new_uint64(end - threshold));
    json_object_object_add(data, "write-threshold", json_object_new_uint64(threshold));
    block_graph_emit(node->graph, "BLOCK_WRITE_THRESHOLD", data);
}

static void change_end(BlockNode *node, uint64_t offset, uint64_t bytes, int ret)
{
    uint64_t size = __atomic_load_n(&node->size, __ATOMIC_RELAXED), end = offset + bytes;

    while (!ret && end > size &&
           !__atomic_compare_exchange_n(&node->size, &size, end, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    if (node->bitmaps->len) {
        dirty_bitmaps_mark(node, offset, bytes);
    }
}

static int aligned_write_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);

static void debug_here(BlockNode *node, QapiBlkdebugEvent event)
{
    if (node->driver->co_debug_event) {
        node->driver->co_debug_event(node, event);
    }
}

static int aligned_write(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                         unsigned flags)
{
    int ret = 0;

    if (node->detect_zeroes != QAPI_BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF &&
        !(flags & BLOCK_REQ_WRITE_COMPRESSED) && block_vec_is_zero(vec, from, bytes)) {
        if (node->detect_zeroes == QAPI_BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP) {
            flags |= BLOCK_REQ_MAY_UNMAP;
        }
        return aligned_write_zeroes(node, offset, bytes, flags);
    }
    write_threshold_event(node, offset + bytes);
    if (flags & BLOCK_REQ_WRITE_COMPRESSED) {
        return driver_write(node, offset, bytes, vec, from, flags);
    }
    debug_here(node, QAPI_BLKDEBUG_EVENT_PWRITEV);
    for (uint64_t done = 0; done < bytes && !ret;) {
        uint64_t n = piece_of(node, vec, from + done, bytes - done);

        /* Only the last piece's flush covers them all. */
        ret = driver_write(node, offset + done, n, vec, from + done,
                           done + n < bytes && !(node->write_flags & BLOCK_REQ_FUA) && !node->driver->submit
                               ? flags & ~(unsigned)BLOCK_REQ_FUA
                               : flags);
        done += n;
    }
    debug_here(node, QAPI_BLKDEBUG_EVENT_PWRITEV_DONE);
    return ret;
}

/* Fills what a padded write keeps: the blocks at its ends, as they are. */
static int pad_read(BlockNode *node, Padded *p)
{
    if (!p->buf) {
        return 0; /* nothing to keep */
    }
    uint64_t align = node->limits.request_alignment;
    uint8_t *block = g_aligned_alloc(1, align, MAX(4096, node->limits.memory_alignment));
    int ret = 0;

    if (p->head || p->bytes == align) {
        ret = aligned_read(node, p->offset, align, &BLOCK_VEC_BUF(block, align), 0, 0);
        if (!ret && p->head) {
            memcpy(p->buf, block, p->head);
        }
        if (!ret && p->bytes == align) {
            memcpy(p->buf + 2 * align - p->tail, block + align - p->tail, p->tail);
        }
    }
    if (!ret && p->tail && p->bytes > align) {
        ret = aligned_read(node, p->offset + p->bytes - align, align, &BLOCK_VEC_BUF(block, align), 0, 0);
        memcpy(p->buf + 2 * align - p->tail, block + align - p->tail, p->tail);
    }
    g_aligned_free(block);
    return ret;
}

static int node_write(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                      unsigned flags)
{
    uint64_t align = node->any_alignment ? 1 : node->limits.request_alignment;
    bool unaligned = (offset | bytes) & (align - 1), is_tracked;
    BlockTracked tracked = { 0 };
    int ret = change_begin(node);

    if (ret || !bytes) {
        return ret;
    }
    if (flags & BLOCK_REQ_WRITE_COMPRESSED) {
        unaligned = false; /* the driver's clusters are its own affair */
    }
    is_tracked = tracked_begin(node, &tracked, offset, bytes, true, flags,
                               unaligned || (flags & BLOCK_REQ_SERIALISING) ? align : 0, &ret);
    flags &= ~(unsigned)(BLOCK_REQ_SERIALISING | BLOCK_REQ_NO_WAIT);
    if (!ret && unaligned) {
        Padded p = { 0 };

        pad(node, &p, offset, bytes, vec, from);
        if (p.head) {
            debug_here(node, QAPI_BLKDEBUG_EVENT_PWRITEV_RMW_HEAD);
        }
        if (p.tail) {
            debug_here(node, QAPI_BLKDEBUG_EVENT_PWRITEV_RMW_TAIL);
        }
        ret = pad_read(node, &p);
        if (p.head) {
            debug_here(node, QAPI_BLKDEBUG_EVENT_PWRITEV_RMW_AFTER_HEAD);
        }
        if (p.tail) {
            debug_here(node, QAPI_BLKDEBUG_EVENT_PWRITEV_RMW_AFTER_TAIL);
        }
        if (!ret) {
            ret = aligned_write(node, p.offset, p.bytes, &p.vec, 0, flags);
        }
        pad_end(&p);
    } else if (!ret) {
        ret = aligned_write(node, offset, bytes, vec, from, flags);
    }
    change_end(node, offset, bytes, ret);
    if (is_tracked) {
        tracked_end(node, &tracked);
    }
    return ret;
}

/* ---- zeroes ---- */

static int driver_write_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int ret;

    if (node->driver->submit) {
        return co_submit(node, BLOCK_WRITE_ZEROES, offset, bytes, NULL, 0,
                         flags & (BLOCK_REQ_FUA | BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK));
    }
    if (!node->driver->co_pwrite_zeroes) {
        return filter_child(node) ? block_co_pwrite_zeroes(filter_child(node), offset, bytes, flags)
                                  : -ENOTSUP;
    }
    if ((flags & BLOCK_REQ_NO_FALLBACK) && !(node->zero_flags & BLOCK_REQ_NO_FALLBACK)) {
        return -ENOTSUP;
    }
    ret = node->driver->co_pwrite_zeroes(node, offset, bytes, flags & node->zero_flags);
    return ret || !(flags & BLOCK_REQ_FUA) || (node->zero_flags & BLOCK_REQ_FUA) ? ret : node_flush(node);
}

static int write_plain_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    uint64_t chunk = MIN(bytes, MAX(ZERO_BUFFER, node->limits.request_alignment));
    uint8_t *zeroes = g_aligned_alloc0(1, chunk, MAX(4096, node->limits.memory_alignment));
    int ret = 0;

    flags &= ~(unsigned)BLOCK_REQ_MAY_UNMAP;
    while (bytes && !ret) {
        uint64_t n = MIN(bytes, chunk);
        BlockVec vec = { &(struct iovec){ zeroes, n }, 1 };

        n = piece_of(node, &vec, 0, n);
        ret = driver_write(node, offset, n, &vec, 0, flags);
        offset += n;
        bytes -= n;
    }
    g_aligned_free(zeroes);
    return ret;
}

/* Aligned to request_alignment; pieces that are not to write_zeroes_alignment are written. */
static int aligned_write_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    const BlockLimits *l = &node->limits;
    uint64_t align = MAX(l->write_zeroes_alignment, l->request_alignment);
    uint64_t max = l->max_write_zeroes ? l->max_write_zeroes : BLOCK_MAX_REQUEST;
    int ret = 0;

    max = MAX(max - max % align, align); /* align: not always a power of two */
    while (bytes && !ret) {
        uint64_t n = bytes, head = offset % align;

        if (head) {
            n = MIN(n, align - head);
        } else if (n > max) {
            n = max;
        } else if (n >= align) {
            n -= n % align;
        }
        ret = driver_write_zeroes(node, offset, n, flags);
        if (ret == -ENOTSUP && !(flags & BLOCK_REQ_NO_FALLBACK)) {
            ret = write_plain_zeroes(node, offset, n, flags);
        }
        offset += n;
        bytes -= n;
    }
    return ret;
}

static int node_write_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    uint64_t align = node->any_alignment ? 1 : node->limits.request_alignment, mask = align - 1;
    uint64_t end = offset + bytes, first = (offset + mask) & ~mask, last = end & ~mask;
    bool unaligned = (offset | bytes) & mask, is_tracked;
    BlockTracked tracked = { 0 };
    int ret = change_begin(node);

    if (ret || !bytes) {
        return ret;
    }
    if (!node->discard) {
        flags &= ~(unsigned)BLOCK_REQ_MAY_UNMAP;
    }
    is_tracked = tracked_begin(node, &tracked, offset, bytes, true, flags,
                               unaligned || (flags & BLOCK_REQ_SERIALISING) ? align : 0, &ret);
    flags &= ~(unsigned)(BLOCK_REQ_SERIALISING | BLOCK_REQ_NO_WAIT);
    write_threshold_event(node, end);
    if (!ret && unaligned) {
        /* Parts of blocks at the ends, whole ones between. */
        uint64_t parts[2][2] = { { offset, MIN(first, end) }, { MAX(last, first), end } };

        for (int i = 0; i < 2 && !ret; i++) {
            uint64_t n = parts[i][1] > parts[i][0] ? parts[i][1] - parts[i][0] : 0;
            g_autofree uint8_t *zeroes = n ? g_malloc0(n) : NULL;
            Padded p = { 0 };

            if (n && pad(node, &p, parts[i][0], n, &BLOCK_VEC_BUF(zeroes, n), 0)) {
                ret = pad_read(node, &p);
                ret = ret ? ret : aligned_write(node, p.offset, p.bytes, &p.vec, 0, flags);
                pad_end(&p);
            }
        }
        if (!ret && last > first) {
            ret = aligned_write_zeroes(node, first, last - first, flags);
        }
    } else if (!ret) {
        ret = aligned_write_zeroes(node, offset, bytes, flags);
    }
    change_end(node, offset, bytes, ret);
    if (is_tracked) {
        tracked_end(node, &tracked);
    }
    return ret;
}

/* ---- discard and flush ---- */

static int node_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    const BlockLimits *l = &node->limits;
    uint64_t align = MAX(l->request_alignment, 1), max, unit, end = offset + bytes;
    BlockTracked tracked = { 0 };
    bool is_tracked;
    int ret;

    if (node->read_only) {
        return -EPERM;
    }
    if (!node->discard || (!node->driver->submit && !node->driver->co_pdiscard && !filter_child(node))) {
        return 0; /* a hint */
    }
    ret = change_begin(node);
    if (ret) {
        return ret;
    }
    if (!node->any_alignment) { /* whole blocks only */
        offset = (offset + align - 1) & ~(align - 1);
        end &= ~(align - 1);
    }
    if (offset >= end) {
        return 0;
    }
    bytes = end - offset;
    is_tracked = tracked_begin(node, &tracked, offset, bytes, true, 0, 0, &ret);
    max = l->max_discard ? MAX(l->max_discard & ~(align - 1), align) : BLOCK_MAX_REQUEST;
    unit = MAX(MAX(l->discard_granularity, align), 1); /* not always a power of two */
    for (uint64_t at = offset; at < end && !ret;) {
        uint64_t n = MIN(max, end - at), over = (at + n) % unit;

        /* A piece that is not the last ends where a unit does, so that none is cut in two. */
        if (at + n < end && over < n) {
            n -= over;
        }

        ret = node->driver->submit        ? co_submit(node, BLOCK_DISCARD, at, n, NULL, 0, 0)
              : node->driver->co_pdiscard ? node->driver->co_pdiscard(node, at, n)
                                          : block_co_pdiscard(filter_child(node), at, n);
        if (ret == -ENOTSUP) {
            ret = 0;
        }
        at += n;
    }
    change_end(node, offset, 0, ret);
    if (node->bitmaps->len) {
        dirty_bitmaps_mark(node, offset, bytes);
    }
    if (is_tracked) {
        tracked_end(node, &tracked);
    }
    return ret;
}

static int node_flush(BlockNode *node)
{
    uint64_t generation = __atomic_load_n(&node->write_generation, __ATOMIC_SEQ_CST), old;
    int ret = 0;

    if (node->read_only) {
        return 0;
    }
    if (node->driver->co_flush_to_os) {
        ret = node->driver->co_flush_to_os(node);
    }
    if (ret || node->cache_no_flush) {
        return ret;
    }
    old = __atomic_load_n(&node->flushed_generation, __ATOMIC_SEQ_CST);
    if (node->driver->submit) {
        return co_submit(node, BLOCK_FLUSH, 0, 0, NULL, 0, 0);
    }
    if (old >= generation && !node->driver->is_filter && !node->driver->passthrough) {
        return 0; /* nothing was written since the last one */
    }
    if (node->driver->co_flush) {
        ret = node->driver->co_flush(node);
    } else {
        for (guint i = 0; i < node->children->len && !ret; i++) {
            BlockChild *child = g_ptr_array_index(node->children, i);

            if (child->perm & (BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_UNCHANGED)) {
                ret = node_flush(child->node);
            }
        }
    }
    while (!ret && old < generation &&
           !__atomic_compare_exchange_n(&node->flushed_generation, &old, generation, true, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {}
    return ret;
}

/* ---- copy-on-read ---- */

static int copy_on_read(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                        unsigned flags)
{
    uint64_t size = __atomic_load_n(&node->size, __ATOMIC_RELAXED), end = offset + bytes, unit;
    bool prefetch = flags & BLOCK_REQ_PREFETCH;
    BlockTracked tracked = { 0 };
    BlockInfo info;
    uint8_t *buf;
    int ret;

    flags &= ~(unsigned)(BLOCK_REQ_COPY_ON_READ | BLOCK_REQ_PREFETCH | BLOCK_REQ_SERIALISING);
    block_node_info(node, &info, NULL);
    unit = info.subcluster_size ? info.subcluster_size
           : info.cluster_size  ? info.cluster_size
                                : COPY_ON_READ_UNIT;
    unit = MAX(unit, node->limits.request_alignment);
    tracked_begin(node, &tracked, offset, bytes, true, 0, unit, &ret);
    buf = g_aligned_alloc(1, MAX(unit, ZERO_BUFFER), MAX(4096, node->limits.memory_alignment));
    while (offset < end && !ret) {
        uint64_t base = offset & ~(unit - 1), n, use;
        BlockStatus st;

        n = MIN(MAX(unit, ZERO_BUFFER), ((end + unit - 1) & ~(unit - 1)) - base);
        n = base < size ? MIN(n, size - base) : 0;
        if (!n) { /* behind the end */
            if (!prefetch) {
                block_vec_zero(vec, from, end - offset);
            }
            break;
        }
        ret = block_co_status(node, base, n, &st);
        if (ret) {
            break;
        }
        n = MIN(n, st.bytes);
        if (base + n <= offset) { /* a piece of status before what was asked */
            n = MIN(((offset - base) & ~(unit - 1)) + unit, size - base);
            st.flags &= ~(unsigned)BLOCK_STATUS_ALLOCATED;
        }
        use = MIN(base + n, end) - offset;
        if (st.flags & BLOCK_STATUS_ALLOCATED) {
            if (!prefetch) {
                Padded p;

                if (pad(node, &p, offset, use, vec, from)) {
                    ret = aligned_read(node, p.offset, p.bytes, &p.vec, 0, flags);
                    pad_end(&p);
                } else {
                    ret = aligned_read(node, offset, use, vec, from, flags);
                }
            }
        } else {
            BlockVec whole = { &(struct iovec){ buf, n }, 1 };

            ret = aligned_read(node, base, n, &whole, 0, flags);
            if (!ret && !prefetch) {
                block_vec_write(vec, from, buf + (offset - base), use);
            }
            if (!ret) {
                int wrote = change_begin(node);

                if (!wrote) {
                    wrote = block_buffer_is_zero(buf, n)
                                ? aligned_write_zeroes(node, base, n, BLOCK_REQ_WRITE_UNCHANGED)
                                : driver_write(node, base, n, &whole, 0, BLOCK_REQ_WRITE_UNCHANGED);
                }
                /* The guest has its data: a copy that fails matters to who wants nothing else. */
                ret = prefetch ? wrote : 0;
            }
        }
        from += use;
        offset += use;
    }
    g_aligned_free(buf);
    tracked_end(node, &tracked);
    return ret;
}

/* ---- callers ---- */

/* What lies outside the disk: nobody's but for who may make it longer. */
static int check_range(const BlockChild *child, uint64_t offset, uint64_t bytes, bool write, uint64_t max)
{
    uint64_t size = block_size(child);

    if (offset > BLOCK_MAX_SIZE || bytes > max || bytes > BLOCK_MAX_SIZE - offset) {
        return -EIO;
    }
    if (offset > size || bytes > size - offset) {
        if (write ? !(child->perm & BLOCK_PERM_RESIZE) : !child->parent) {
            return -EIO;
        }
    }
    return 0;
}

int block_co_preadv(BlockChild *child, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                    uint64_t vec_from, unsigned flags)
{
    int ret;

    enter(child);
    ret = check_range(child, offset, bytes, false, BLOCK_MAX_REQUEST);
    ret = ret ? ret : node_read(child->node, offset, bytes, vec, vec_from, flags);
    leave(child);
    return ret;
}

int block_co_pwritev(BlockChild *child, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                     uint64_t vec_from, unsigned flags)
{
    int ret;

    enter(child);
    ret = check_range(child, offset, bytes, true, BLOCK_MAX_REQUEST);
    ret = ret ? ret : node_write(child->node, offset, bytes, vec, vec_from, flags);
    leave(child);
    return ret;
}

int block_co_pread(BlockChild *child, uint64_t offset, uint64_t bytes, void *buf, unsigned flags)
{
    return block_co_preadv(child, offset, bytes, &BLOCK_VEC_BUF(buf, bytes), 0, flags);
}

int block_co_pwrite(BlockChild *child, uint64_t offset, uint64_t bytes, const void *buf, unsigned flags)
{
    return block_co_pwritev(child, offset, bytes, &BLOCK_VEC_BUF(buf, bytes), 0, flags);
}

int block_co_pwrite_sync(BlockChild *child, uint64_t offset, uint64_t bytes, const void *buf)
{
    return block_co_pwrite(child, offset, bytes, buf, BLOCK_REQ_FUA);
}

int block_co_pwrite_zeroes(BlockChild *child, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int ret;

    enter(child);
    ret = check_range(child, offset, bytes, true, BLOCK_MAX_SIZE);
    ret = ret ? ret : node_write_zeroes(child->node, offset, bytes, flags);
    leave(child);
    return ret;
}

int block_co_pdiscard(BlockChild *child, uint64_t offset, uint64_t bytes)
{
    uint64_t size;
    int ret;

    enter(child);
    size = block_size(child);
    ret = check_range(child, offset, bytes, false, BLOCK_MAX_SIZE);
    if (!ret && offset < size) {
        ret = node_discard(child->node, offset, MIN(bytes, size - offset));
    }
    leave(child);
    return ret;
}

int block_co_flush(BlockChild *child)
{
    int ret;

    enter(child);
    ret = node_flush(child->node);
    leave(child);
    return ret;
}

/* Those above whose size follows. */
static void resized(BlockNode *node)
{
    for (guint i = 0; i < node->parents->len; i++) {
        BlockChild *up = g_ptr_array_index(node->parents, i);

        if (!up->parent) {
            if (up->ops && up->ops->resized) {
                up->ops->resized(up->opaque);
            }
        } else if (up->role & BLOCK_ROLE_FILTERED) {
            __atomic_store_n(&up->parent->size, node->size, __ATOMIC_RELAXED);
            dirty_bitmaps_resize(up->parent, node->size);
            resized(up->parent);
        }
    }
}

void block_node_set_size(BlockNode *node, uint64_t size)
{
    __atomic_store_n(&node->size, size, __ATOMIC_RELAXED);
}

int block_co_truncate(BlockChild *child, uint64_t size, bool exact, QapiPreallocMode prealloc, unsigned flags,
                      GError **error)
{
    BlockNode *node = child->node;
    uint64_t old;
    int ret;

    if (size > BLOCK_MAX_SIZE) {
        error_set(error, "Required too big image size, it must be not greater than %" PRIu64,
                  (uint64_t)BLOCK_MAX_SIZE);
        return -EFBIG;
    }
    enter(child);
    old = block_size(child);
    if (node->read_only) {
        error_set(error, "Image is read-only");
        ret = -EACCES;
    } else if (__atomic_load_n(&node->corrupt, __ATOMIC_RELAXED)) {
        error_set(error, "%s: the image is corrupt", node->what);
        ret = -EIO;
    } else {
        BlockTracked tracked = { 0 };
        uint64_t at = MIN(old, size);
        bool is_tracked;

        /* What overlaps the new part waits. */
        is_tracked = tracked_begin(node, &tracked, at, MAX(old, size) - at, true, 0, 0, &ret);
        if (!node->driver->co_truncate && filter_child(node)) {
            ret = block_co_truncate(filter_child(node), size, exact, prealloc, flags, error);
            if (!ret) {
                block_node_set_size(node, block_size(filter_child(node)));
            }
        } else if (node->driver->co_truncate) {
            __atomic_fetch_add(&node->write_generation, 1, __ATOMIC_SEQ_CST);
            /* A shorter backing image must not leave its old bytes to be seen in the new part. */
            if (size > old && node->backing && !node->driver->is_filter && block_size(node->backing) > old) {
                flags |= BLOCK_REQ_ZERO_WRITE;
            }
            if (flags & ~node->truncate_flags) {
                error_set(error, "%s: its format cannot make the new part read as zeroes", node->what);
                ret = -ENOTSUP;
            } else {
                ret = node->driver->co_truncate(node, size, exact, prealloc, flags, error);
            }
        } else {
            error_set(error, "Image format driver does not support resize");
            ret = -ENOTSUP;
        }
        if (is_tracked) {
            tracked_end(node, &tracked);
        }
    }
    if (!ret && block_size(child) != old && loop_is_current(node->graph->loop)) {
        dirty_bitmaps_resize(node, node->size);
        resized(node);
    }
    leave(child);
    return ret;
}

int block_co_copy_range(BlockChild *source, uint64_t source_offset, BlockChild *target,
                        uint64_t target_offset, uint64_t bytes, unsigned flags)
{
    BlockNode *from = source->node, *to = target->node;
    int ret;

    enter(source);
    enter(target);
    ret = check_range(source, source_offset, bytes, false, BLOCK_MAX_REQUEST);
    ret = ret ? ret : check_range(target, target_offset, bytes, true, BLOCK_MAX_REQUEST);
    if (!ret) {
        uint64_t add_from = 0, add_to = 0, add;
        BlockChild *next;

        /* Down to where both lie. A filter on the way wants to see the data. */
        while ((next = from->driver->passthrough ? from->driver->passthrough(from, &add) : NULL)) {
            from = next->node;
            add_from += add;
            add = 0;
        }
        for (add = 0;
             (next = to->driver->passthrough && !to->bitmaps->len ? to->driver->passthrough(to, &add) : NULL);
             add = 0) {
            to = next->node;
            add_to += add;
        }
        if (!to->driver->co_copy_range || to->driver != from->driver || to->bitmaps->len) {
            ret = -ENOTSUP;
        } else {
            ret = change_begin(to);
            ret = ret ? ret
                      : to->driver->co_copy_range(from, source_offset + add_from, to, target_offset + add_to,
                                                  bytes, flags);
            if (!ret) {
                change_end(to, target_offset + add_to, bytes, 0);
            }
        }
    }
    leave(target);
    leave(source);
    return ret;
}

void block_debug_event(BlockChild *child, QapiBlkdebugEvent event)
{
    if (child && child->node->driver->co_debug_event) {
        child->node->driver->co_debug_event(child->node, event);
    }
}

void *block_buffer_try(const BlockChild *child, uint64_t bytes)
{
    size_t align = MAX(4096, child->node->limits.memory_alignment);
    void *p = NULL;

    return posix_memalign(&p, align, MAX(bytes, 1)) == 0 ? p : NULL;
}

/* ---- callback requests ---- */

static void finished_later(void *opaque, ssize_t result)
{
    block_request_done(opaque, (int)result);
}

static void request_coroutine(void *opaque)
{
    BlockRequest *req = opaque;
    BlockChild *root = req->root;
    BlockVec vec = { req->iov, req->iov_count };
    int ret = 0;

    /* Not through the door of the block_co_* functions: the count is given back after done ran. */
    enter(root);
    bool gone = root->node->inactive && req->op != BLOCK_READ; /* another program writes it now */
    switch (gone ? BLOCK_FLUSH : req->op) {
    case BLOCK_READ:
        ret = check_range(root, req->offset, req->bytes, false, BLOCK_MAX_REQUEST);
        ret = ret ? ret : node_read(root->node, req->offset, req->bytes, &vec, 0, req->flags);
        break;
    case BLOCK_WRITE:
        ret = check_range(root, req->offset, req->bytes, true, BLOCK_MAX_REQUEST);
        ret = ret ? ret : node_write(root->node, req->offset, req->bytes, &vec, 0, req->flags);
        break;
    case BLOCK_FLUSH:
        ret = gone ? -EPERM : node_flush(root->node);
        break;
    case BLOCK_DISCARD:
        ret = check_range(root, req->offset, req->bytes, false, BLOCK_MAX_SIZE);
        ret = ret ? ret : node_discard(root->node, req->offset, req->bytes);
        break;
    case BLOCK_WRITE_ZEROES:
        ret = check_range(root, req->offset, req->bytes, true, BLOCK_MAX_SIZE);
        ret = ret ? ret : node_write_zeroes(root->node, req->offset, req->bytes, req->flags);
        break;
    }
    if (req->submitting) { /* not from inside the call */
        loop_complete_later(req->loop, finished_later, req, ret);
    } else {
        block_request_done(req, ret);
    }
}

static bool go_direct(BlockChild *root, BlockRequest *req)
{
    BlockNode *node = root->direct;
    bool write = req->op != BLOCK_READ && req->op != BLOCK_FLUSH;

    if (!node || check_range(root, req->offset, req->bytes, false, BLOCK_MAX_REQUEST) ||
        (write && root->node->read_only) || root->node->inactive ||
        (req->op == BLOCK_DISCARD && !root->node->discard) || (req->op != BLOCK_FLUSH && !req->bytes)) {
        return false;
    }
    req->offset += root->direct_offset;
    req->node = node;
    if (write) {
        __atomic_fetch_add(&node->write_generation, 1, __ATOMIC_SEQ_CST);
    }
    if (req->op == BLOCK_WRITE_ZEROES && !root->node->discard) {
        req->flags &= ~(unsigned)BLOCK_REQ_MAY_UNMAP;
    }
    node->driver->submit(node, req);
    return true;
}

void block_root_submit(BlockChild *root, BlockRequest *req)
{
    Loop *outer;

    req->root = root;
    __atomic_fetch_add(&root->in_flight, 1, __ATOMIC_SEQ_CST);
    if (!is_quiesced(root) && go_direct(root, req)) {
        return;
    }
    __atomic_fetch_sub(&root->in_flight, 1, __ATOMIC_SEQ_CST);
    outer = loop_make_current(req->loop);
    req->submitting = true;
    coroutine_enter(coroutine_new(request_coroutine, req));
    req->submitting = false; /* it is still there: done runs from the loop */
    loop_make_current(outer);
}
