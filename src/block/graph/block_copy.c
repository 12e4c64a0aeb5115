/* Saving old data: see block_copy.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/graph/block_copy.h"
#include "block/graph/graph.h"

#include "base/error.h"

#include <errno.h>

#define MIN_UNIT 65536u
#define MAX_UNIT (64u << 20)

struct BlockCopyBusy {
    BlockCopyBusy *next;
    uint64_t offset, bytes;
    CoQueue waiting;
};

void block_copy_init(BlockCopy *copy, BlockChild *source, BlockChild *target, DirtyBitmap *todo)
{
    *copy = (BlockCopy){ .source = source, .target = target, .todo = todo };
    pthread_mutex_init(&copy->lock, NULL);
}

void block_copy_destroy(BlockCopy *copy)
{
    pthread_mutex_destroy(&copy->lock);
}

bool block_copy_unit(BlockNode *target, uint32_t *unit, GError **error)
{
    BlockInfo info;

    if (!block_node_info(target, &info, error)) {
        return false;
    }
    *unit = (uint32_t)CLAMP(info.cluster_size, MIN_UNIT, MAX_UNIT);
    return true;
}

static int copy_unit(BlockCopy *copy, uint64_t offset, uint64_t bytes, bool *is_read)
{
    uint8_t *buf;
    BlockStatus st;
    int ret;

    *is_read = true;
    ret = block_co_status_above(copy->source->node, NULL, offset, bytes, &st);
    if (ret < 0) {
        return ret;
    }
    if (st.bytes >= bytes && (st.flags & BLOCK_STATUS_ZERO)) {
        *is_read = false;
        return block_co_pwrite_zeroes(copy->target, offset, bytes, BLOCK_REQ_MAY_UNMAP);
    }
    buf = block_buffer_try(copy->source, bytes);
    if (!buf) {
        return -ENOMEM;
    }
    ret = block_co_pread(copy->source, offset, bytes, buf, 0);
    if (!ret) {
        *is_read = false;
        ret = block_co_pwrite(copy->target, offset, bytes, buf,
                              copy->compress ? BLOCK_REQ_WRITE_COMPRESSED : 0);
    }
    g_aligned_free(buf);
    return ret;
}

int block_copy_range(BlockCopy *copy, uint64_t offset, uint64_t bytes, bool *is_read)
{
    uint64_t unit = copy->todo->granularity, start = offset / unit * unit,
             end = MIN((offset + bytes + unit - 1) / unit * unit, copy->todo->size);
    bool reading = false;
    int ret = 0;

    while (start < end && !ret) {
        uint64_t n = MIN(unit, end - start);
        bool mine = false;
        BlockCopyBusy self = { .offset = start, .bytes = n }, **link;

        co_queue_init(&self.waiting);
        pthread_mutex_lock(&copy->lock);
        for (BlockCopyBusy *other = copy->busy; other;) {
            if (other->offset < start + n && start < other->offset + other->bytes) {
                co_queue_wait_unlock(&other->waiting, &copy->lock);
                pthread_mutex_lock(&copy->lock);
                other = copy->busy; /* it may have failed, so look at all again */
                continue;
            }
            other = other->next;
        }
        if (dirty_bitmap_get(copy->todo, start)) {
            dirty_bitmap_reset(copy->todo, start, n);
            self.next = copy->busy;
            copy->busy = &self;
            mine = true;
        }
        pthread_mutex_unlock(&copy->lock);
        if (mine) {
            ret = copy_unit(copy, start, n, &reading);
            pthread_mutex_lock(&copy->lock);
            if (ret < 0) {
                dirty_bitmap_set(copy->todo, start, n);
            } else if (copy->copied) {
                __atomic_fetch_add(copy->copied, n, __ATOMIC_RELAXED);
            }
            for (link = &copy->busy; *link != &self; link = &(*link)->next) {}
            *link = self.next;
            co_queue_wake_all(&self.waiting);
            pthread_mutex_unlock(&copy->lock);
        }
        start += n;
    }
    if (is_read) {
        *is_read = reading;
    }
    return ret;
}

static void save(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    const BlockSaver *s = (BlockSaver *)node;

    if (s->owner) {
        s->save(s->owner, offset, bytes);
    }
}

int block_saver_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           uint64_t from, unsigned flags)
{
    save(node, offset, bytes);
    return block_co_pwritev(node->backing, offset, bytes, vec, from, flags);
}

int block_saver_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    save(node, offset, bytes);
    return block_co_pwrite_zeroes(node->backing, offset, bytes, flags);
}

int block_saver_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    save(node, offset, bytes);
    return block_co_pdiscard(node->backing, offset, bytes);
}
