/*
 * Dirty bitmaps. SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Invariants:
 *  1. A set bit of `bits` has its word's bit in `summary` set; a summary bit may be set without.
 *  2. Requests set bits with atomics only; `bits` itself is replaced only while the node is drained.
 */
#include "block/graph/dirty_bitmap.h"

#include "base/error.h"
#include "block/graph/graph_internal.h"

#include <string.h>

#define MAX_NAME 1023

static uint64_t granules(const DirtyBitmap *b)
{
    return (b->size + b->granularity - 1) / b->granularity;
}

static void allocate(DirtyBitmap *b)
{
    b->words = (granules(b) + 63) / 64;
    b->bits = g_new0(uint64_t, b->words + 1);
    b->summary = g_new0(uint64_t, b->words / 64 + 1);
}

static uint32_t default_granularity(BlockNode *node)
{
    BlockInfo info;

    if (block_node_info(node, &info, NULL) && info.cluster_size) {
        return (uint32_t)CLAMP(info.cluster_size, 4096, 65536);
    }
    return 65536;
}

DirtyBitmap *dirty_bitmap_new(BlockNode *node, const char *name, uint32_t granularity, GError **error)
{
    DirtyBitmap *b;
    BlockDrain *drain;

    if (!granularity) {
        granularity = default_granularity(node);
    }
    if (granularity < 512 || (granularity & (granularity - 1))) {
        error_set(error, granularity < 512 ? "Granularity must be at least 512 bytes"
                                           : "Granularity must be a power of 2");
        return NULL;
    }
    if (name && strlen(name) > MAX_NAME) {
        error_set(error, "Bitmap name too long");
        return NULL;
    }
    if (name && dirty_bitmap_find(node, name)) {
        error_set(error, "Bitmap already exists: %s", name);
        return NULL;
    }
    b = g_new0(DirtyBitmap, 1);
    b->node = node;
    b->name = g_strdup(name);
    b->size = node->size;
    b->granularity = granularity;
    b->enabled = true;
    allocate(b);
    drain = node->opening ? NULL : block_drain_begin(node);
    g_ptr_array_add(node->bitmaps, b);
    block_graph_refresh_direct(node->graph);
    block_drain_end(drain);
    return b;
}

void dirty_bitmap_free(DirtyBitmap *b)
{
    BlockNode *node;
    BlockDrain *drain;

    if (!b) {
        return;
    }
    node = b->node;
    drain = node->opening || node->closing ? NULL : block_drain_begin(node);
    g_ptr_array_remove(node->bitmaps, b);
    block_graph_refresh_direct(node->graph);
    block_drain_end(drain);
    g_free(b->name);
    g_free(b->bits);
    g_free(b->summary);
    g_free(b);
}

DirtyBitmap *dirty_bitmap_find(BlockNode *node, const char *name)
{
    for (guint i = 0; i < node->bitmaps->len; i++) {
        DirtyBitmap *b = g_ptr_array_index(node->bitmaps, i);

        if (b->name && strcmp(b->name, name) == 0) {
            return b;
        }
    }
    return NULL;
}

/* The bits of word w that lie in granules [first, last]. */
static uint64_t mask_of(uint64_t w, uint64_t first, uint64_t last)
{
    uint64_t mask = UINT64_MAX;

    if (w == first / 64) {
        mask &= UINT64_MAX << (first % 64);
    }
    if (w == last / 64) {
        mask &= UINT64_MAX >> (63 - last % 64);
    }
    return mask;
}

void dirty_bitmap_set(DirtyBitmap *b, uint64_t offset, uint64_t bytes)
{
    uint64_t first, last;

    if (offset >= b->size || !bytes) {
        return;
    }
    bytes = MIN(bytes, b->size - offset);
    first = offset / b->granularity;
    last = (offset + bytes - 1) / b->granularity;
    for (uint64_t w = first / 64; w <= last / 64; w++) {
        uint64_t mask = mask_of(w, first, last);

        if ((__atomic_load_n(&b->bits[w], __ATOMIC_SEQ_CST) & mask) != mask) {
            __atomic_fetch_or(&b->bits[w], mask, __ATOMIC_SEQ_CST);
            __atomic_fetch_or(&b->summary[w / 64], UINT64_C(1) << (w % 64), __ATOMIC_SEQ_CST);
        }
    }
}

void dirty_bitmap_reset(DirtyBitmap *b, uint64_t offset, uint64_t bytes)
{
    uint64_t end, first, last;

    if (offset >= b->size || !bytes) {
        return;
    }
    end = MIN(bytes, b->size - offset) + offset;
    first = (offset + b->granularity - 1) / b->granularity;
    last = end == b->size ? granules(b) : end / b->granularity;
    if (first >= last) {
        return;
    }
    last--;
    for (uint64_t w = first / 64; w <= last / 64; w++) {
        __atomic_fetch_and(&b->bits[w], ~mask_of(w, first, last), __ATOMIC_SEQ_CST);
    }
}

bool dirty_bitmap_get(const DirtyBitmap *b, uint64_t offset)
{
    uint64_t granule = offset / b->granularity;

    return offset < b->size &&
           (__atomic_load_n(&b->bits[granule / 64], __ATOMIC_SEQ_CST) >> (granule % 64) & 1);
}

void dirty_bitmap_clear(DirtyBitmap *b)
{
    for (uint64_t w = 0; w < b->words; w++) {
        __atomic_store_n(&b->bits[w], 0, __ATOMIC_SEQ_CST);
    }
}

/* The first granule at or behind `at` whose bit is `set`, below `end`; end where there is none. */
static uint64_t find(const DirtyBitmap *b, uint64_t at, uint64_t end, bool set)
{
    while (at < end) {
        uint64_t w = at / 64, word;

        if (set && !(at % 64) && w % 64 == 0 && !__atomic_load_n(&b->summary[w / 64], __ATOMIC_SEQ_CST)) {
            at += 64 * 64; /* nothing in 64 words */
            continue;
        }
        word = __atomic_load_n(&b->bits[w], __ATOMIC_SEQ_CST);
        word = (set ? word : ~word) & (UINT64_MAX << (at % 64));
        if (word) {
            return MIN(w * 64 + (uint64_t)__builtin_ctzll(word), end);
        }
        at = (w + 1) * 64;
    }
    return end;
}

bool dirty_bitmap_next_dirty(const DirtyBitmap *b, uint64_t offset, uint64_t end, uint64_t *start,
                             uint64_t *bytes)
{
    uint64_t last, first, behind, stop;

    end = MIN(end, b->size);
    if (offset >= end) {
        return false;
    }
    last = (end + b->granularity - 1) / b->granularity;
    first = find(b, offset / b->granularity, last, true);
    if (first >= last) {
        return false;
    }
    behind = find(b, first, last, false);
    *start = MAX(first * b->granularity, offset);
    stop = MIN(behind * b->granularity, end);
    *bytes = stop - *start;
    return true;
}

uint64_t dirty_bitmap_count(const DirtyBitmap *b)
{
    uint64_t n = 0, all = granules(b), bytes;

    for (uint64_t w = 0; w < b->words; w++) {
        n += (uint64_t)__builtin_popcountll(__atomic_load_n(&b->bits[w], __ATOMIC_RELAXED));
    }
    bytes = n * b->granularity;
    if (all && b->size % b->granularity && dirty_bitmap_get(b, (all - 1) * b->granularity)) {
        bytes -= b->granularity - b->size % b->granularity;
    }
    return bytes;
}

void dirty_bitmap_merge(DirtyBitmap *to, const DirtyBitmap *from)
{
    uint64_t start, bytes;

    for (uint64_t at = 0; dirty_bitmap_next_dirty(from, at, from->size, &start, &bytes); at = start + bytes) {
        dirty_bitmap_set(to, start, bytes);
    }
}

/* ---- as the qcow2 format stores them ---- */

uint64_t dirty_bitmap_serialized_size(const DirtyBitmap *b, uint64_t offset, uint64_t bytes)
{
    uint64_t n = (bytes + b->granularity - 1) / b->granularity;

    return (n + 63) / 64 * 8;
}

void dirty_bitmap_serialize(const DirtyBitmap *b, uint8_t *buf, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset / b->granularity / 64, n = dirty_bitmap_serialized_size(b, offset, bytes) / 8;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t word = first + i < b->words ? __atomic_load_n(&b->bits[first + i], __ATOMIC_SEQ_CST) : 0;

        word = GUINT64_TO_LE(word);
        memcpy(buf + 8 * i, &word, 8);
    }
}

void dirty_bitmap_deserialize(DirtyBitmap *b, const uint8_t *buf, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset / b->granularity / 64, n = dirty_bitmap_serialized_size(b, offset, bytes) / 8;
    uint64_t all = granules(b);

    for (uint64_t i = 0; i < n && first + i < b->words; i++) {
        uint64_t word, w = first + i;

        memcpy(&word, buf + 8 * i, 8);
        word = GUINT64_FROM_LE(word);
        if (w == b->words - 1 && all % 64) {
            word &= UINT64_MAX >> (64 - all % 64); /* what an image says behind its end */
        }
        __atomic_store_n(&b->bits[w], word, __ATOMIC_SEQ_CST);
        if (word) {
            __atomic_fetch_or(&b->summary[w / 64], UINT64_C(1) << (w % 64), __ATOMIC_SEQ_CST);
        }
    }
}

/* ---- by the core ---- */

void dirty_bitmaps_mark(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    for (guint i = 0; i < node->bitmaps->len; i++) {
        DirtyBitmap *b = g_ptr_array_index(node->bitmaps, i);

        if (__atomic_load_n(&b->enabled, __ATOMIC_RELAXED)) {
            dirty_bitmap_set(b, offset, bytes);
        }
    }
}

void dirty_bitmaps_resize(BlockNode *node, uint64_t size)
{
    for (guint i = 0; i < node->bitmaps->len; i++) {
        DirtyBitmap *b = g_ptr_array_index(node->bitmaps, i);
        uint64_t *old = b->bits, old_words = b->words, old_size = b->size;

        if (b->size == size) {
            continue;
        }
        g_free(b->summary);
        b->size = size;
        allocate(b);
        for (uint64_t w = 0; w < MIN(old_words, b->words); w++) {
            b->bits[w] = old[w];
            b->summary[w / 64] |= (uint64_t) !!old[w] << (w % 64);
        }
        if (granules(b) % 64 && size < old_size) {
            b->bits[b->words - 1] &= UINT64_MAX >> (64 - granules(b) % 64);
        }
        g_free(old);
    }
}
