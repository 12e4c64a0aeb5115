/*
 * Saving old data before it is overwritten: what `todo` marks goes from a source to a target, piece by piece,
 * each once. The engine of backup, copy-before-write and replication.
 *
 * Invariants:
 *  1. `todo` has what is not in the target yet. Whoever copies a unit takes its bit and lists it as busy; on
 * failure it gives the bit back.
 *  2. After block_copy_range() of a range returned 0 no unit of it has its bit or is busy.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_GRAPH_BLOCK_COPY_H
#define RHEA_BLOCK_GRAPH_BLOCK_COPY_H

#include "block/graph/dirty_bitmap.h"

typedef struct BlockCopyBusy BlockCopyBusy;
typedef struct BlockCopy {
    BlockChild *source, *target; /* borrowed edges */
    DirtyBitmap *todo;           /* borrowed; its granularity is the unit */
    bool compress;
    uint64_t *copied; /* counts bytes (atomic); may be NULL */
    pthread_mutex_t lock;
    BlockCopyBusy *busy;
} BlockCopy;

void block_copy_init(BlockCopy *copy, BlockChild *source, BlockChild *target, DirtyBitmap *todo);
void block_copy_destroy(BlockCopy *copy);
/* The unit that suits a target: its clusters, 64 KiB at least. */
bool block_copy_unit(BlockNode *target, uint32_t *unit, GError **error);
/* In a coroutine: copies what is to do in the range (made longer to whole units), and waits for what others
 * copy there. *is_read (may be NULL): whether it failed at the source. [any loop] */
int block_copy_range(BlockCopy *copy, uint64_t offset, uint64_t bytes, bool *is_read);

/* ---- a filter that saves before it writes ---- */

/* The node of a driver whose writing functions are the ones below. */
typedef struct BlockSaver {
    BlockNode node;
    void *owner; /* NULL: it lets all pass */
    /* In the request's coroutine, before the range of node.backing changes; in any loop. */
    void (*save)(void *owner, uint64_t offset, uint64_t bytes);
} BlockSaver;

int block_saver_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           uint64_t from, unsigned flags);
int block_saver_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);
int block_saver_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes);

#endif
