/*
 * Flattening: from the tree of regions to a sorted array of ranges.
 *
 * A region is drawn at the absolute position of its offset 0, clipped to what its parents show of it.
 * Children come before their container and by descending priority; each fills only what is still free, so
 * nothing that is drawn is ever covered again. Positions are 128 bit: an alias may reach below address 0 or
 * beyond 2^64 before it is clipped. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "mem/memory_internal.h"

typedef __int128 Position;

typedef struct Drawing {
    GArray *ranges; /* of FlatRange, sorted */
} Drawing;

/* Regions nest and alias one another by the program's own doing, not the guest's; deeper than this is a loop.
 */
#define MAX_DEPTH 64

static Position region_size(const MemoryRegion *mr)
{
    return mr->size == UINT64_MAX ? (Position)1 << 64 : (Position)mr->size;
}

/* Index of the first range that ends at or after addr. */
static unsigned first_range_at(const GArray *ranges, hwaddr addr)
{
    unsigned low = 0, high = ranges->len;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (g_array_index(ranges, FlatRange, middle).last < addr) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void fill_holes(Drawing *drawing, MemoryRegion *mr, Position base, Position first, Position last,
                       bool readonly)
{
    GArray *ranges = drawing->ranges;
    unsigned i = first_range_at(ranges, (hwaddr)first);
    while (first <= last) {
        Position end = last;
        if (i < ranges->len) {
            const FlatRange *next = &g_array_index(ranges, FlatRange, i);
            if (next->first <= (hwaddr)first) {
                first = (Position)next->last + 1;
                i++;
                continue;
            }
            if (next->first <= (hwaddr)last) {
                end = (Position)next->first - 1;
            }
        }
        FlatRange range = {
            .first = (hwaddr)first,
            .last = (hwaddr)end,
            .region = mr,
            .offset = (hwaddr)(first - base),
            .readonly = readonly || mr->readonly || mr->kind == MEMORY_ROM,
            .romd = mr->kind == MEMORY_ROM_DEVICE && mr->romd,
            .log_mask = mr->dirty_log_mask,
        };
        if (mr->ram && (mr->kind != MEMORY_ROM_DEVICE || mr->romd)) {
            range.host = mr->ram->host + range.offset;
        }
        mr->published = true;
        g_array_insert_val(ranges, i, range);
        i++;
        first = end + 1;
    }
}

static void draw(Drawing *drawing, MemoryRegion *mr, Position base, Position first, Position last,
                 bool readonly, int depth)
{
    if (!mr->enabled || mr->size == 0) {
        return;
    }
    if (depth > MAX_DEPTH) {
        g_error("memory region '%s' contains or aliases itself", mr->name);
    }
    first = MAX(first, base);
    last = MIN(last, base + region_size(mr) - 1);
    if (first > last) {
        return;
    }
    if (mr->kind == MEMORY_ALIAS) {
        draw(drawing, mr->alias, base - (Position)mr->alias_offset, first, last, readonly || mr->readonly,
             depth + 1);
        return;
    }
    if (mr->subregions) {
        for (unsigned i = 0; i < mr->subregions->len; i++) {
            MemoryRegion *sub = mr->subregions->pdata[i];
            draw(drawing, sub, base + (Position)sub->addr, first, last, readonly || mr->readonly, depth + 1);
        }
    }
    if (mr->kind != MEMORY_CONTAINER) {
        fill_holes(drawing, mr, base, first, last, readonly);
    }
}

static bool continues(const FlatRange *a, const FlatRange *b)
{
    return a->last + 1 == b->first && a->last != UINT64_MAX && a->region == b->region &&
           a->offset + (a->last - a->first) + 1 == b->offset && a->readonly == b->readonly &&
           a->romd == b->romd && a->log_mask == b->log_mask;
}

FlatView *flat_view_render(MemoryRegion *root)
{
    Drawing drawing = { .ranges = g_array_new(FALSE, FALSE, sizeof(FlatRange)) };
    if (root) {
        draw(&drawing, root, 0, 0, ((Position)1 << 64) - 1, false, 0);
    }
    unsigned count = 0;
    FlatRange *ranges = (FlatRange *)(void *)drawing.ranges->data;
    for (unsigned i = 0; i < drawing.ranges->len; i++) {
        if (count && continues(&ranges[count - 1], &ranges[i])) {
            ranges[count - 1].last = ranges[i].last;
        } else {
            ranges[count++] = ranges[i];
        }
    }
    FlatView *view = g_malloc(sizeof(*view) + count * sizeof(FlatRange));
    view->ref = 1;
    view->root = root;
    view->count = count;
    view->last_hit = 0;
    if (count) {
        memcpy(view->ranges, ranges, count * sizeof(FlatRange));
    }
    g_array_free(drawing.ranges, TRUE);
    return view;
}

static void view_free(struct rcu_head *head)
{
    RCU_TSAN_ACQUIRE();
    g_free(caa_container_of(head, FlatView, rcu));
}

void flat_view_unref(FlatView *view)
{
    if (view && --view->ref == 0) {
        memory_rcu_call(&view->rcu, view_free);
    }
}

uint64_t flat_view_hole(const FlatView *view, hwaddr addr)
{
    unsigned low = 0, high = view->count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (view->ranges[middle].last < addr) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low < view->count) {
        return view->ranges[low].first - addr;
    }
    return addr ? -addr : UINT64_MAX;
}
