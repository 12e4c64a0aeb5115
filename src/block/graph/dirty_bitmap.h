/*
 * Dirty bitmaps: which parts of a node were written since. Setting bits is lock-free and happens in requests;
 * everything else is control plane unless said otherwise. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_GRAPH_DIRTY_BITMAP_H
#define RHEA_BLOCK_GRAPH_DIRTY_BITMAP_H

#include "block/graph/node.h"

struct DirtyBitmap {
    BlockNode *node;
    char *name; /* NULL: a job's own */
    uint64_t size;
    uint32_t granularity; /* bytes, a power of two, 512 at least */
    uint64_t *bits;       /* one for each granule; atomic */
    uint64_t *summary;    /* one for each word of bits: may be set though it is empty, never the reverse */
    uint64_t words;
    bool enabled; /* records writes; atomic */
    bool busy;    /* a job or an export uses it */
    bool persistent, inconsistent, read_only;
    bool skip_store;        /* not at the next close */
    DirtyBitmap *successor; /* records meanwhile, for a backup that may fail */
};

/* granularity 0: chosen by the image's clusters. name NULL: not found by name. The node owns it. */
DirtyBitmap *dirty_bitmap_new(BlockNode *node, const char *name, uint32_t granularity, GError **error);
void dirty_bitmap_free(DirtyBitmap *bitmap); /* takes it off its node */
DirtyBitmap *dirty_bitmap_find(BlockNode *node, const char *name);
void dirty_bitmap_set(DirtyBitmap *bitmap, uint64_t offset, uint64_t bytes); /* [any thread] */
void dirty_bitmap_reset(DirtyBitmap *bitmap, uint64_t offset,
                        uint64_t bytes);                           /* [any thread] whole granules */
bool dirty_bitmap_get(const DirtyBitmap *bitmap, uint64_t offset); /* [any thread] */
void dirty_bitmap_clear(DirtyBitmap *bitmap);
/* The next dirty or clean range at or behind offset: false where there is none below end. [any thread] */
bool dirty_bitmap_next_dirty(const DirtyBitmap *bitmap, uint64_t offset, uint64_t end, uint64_t *start,
                             uint64_t *bytes);
uint64_t dirty_bitmap_count(const DirtyBitmap *bitmap); /* dirty bytes */
/* Dirty in either is dirty in to. Granularities may differ. */
void dirty_bitmap_merge(DirtyBitmap *to, const DirtyBitmap *from);
/* The bits as the qcow2 format stores them: bytes of them for `bytes` from offset on, which begins at a
 * multiple of 64 granules; and back. */
uint64_t dirty_bitmap_serialized_size(const DirtyBitmap *bitmap, uint64_t offset, uint64_t bytes);
void dirty_bitmap_serialize(const DirtyBitmap *bitmap, uint8_t *buf, uint64_t offset, uint64_t bytes);
void dirty_bitmap_deserialize(DirtyBitmap *bitmap, const uint8_t *buf, uint64_t offset, uint64_t bytes);
/* All of node's; called by the core for each write, discard and write of zeroes. [any thread] */
void dirty_bitmaps_mark(BlockNode *node, uint64_t offset, uint64_t bytes);
void dirty_bitmaps_resize(BlockNode *node, uint64_t size); /* drained */

#endif
