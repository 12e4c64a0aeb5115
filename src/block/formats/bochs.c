/*
 * Bochs's growing disk images, to be read: a header, a catalog of extents, extents of a bitmap and data in
 * sectors. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

#define HEADER_BYTES 512u
#define MAX_CATALOG  (1u << 20) /* entries */

typedef struct BochsNode {
    BlocksNode b;
    uint64_t catalog, data; /* offsets */
    uint32_t bitmap_sectors, extent_sectors, entries;
} BochsNode;

static int bochs_probe(const uint8_t *head, size_t size, const char *filename)
{
    uint32_t version = size >= HEADER_BYTES ? blocks_le32(head + 64) : 0;

    return (version == 0x00020000 || version == 0x00010000) &&
                   memcmp(head, "Bochs Virtual HD Image", 23) == 0 && memcmp(head + 32, "Redolog", 8) == 0 &&
                   memcmp(head + 48, "Growing", 8) == 0
               ? 100
               : 0;
}

/* A chunk is an extent: its bitmap says which sectors are there. */
static int bochs_load(BlocksNode *b, uint64_t chunk, uint64_t *entries)
{
    BochsNode *n = (BochsNode *)b;
    size_t bytes = (size_t)n->bitmap_sectors * 512;
    g_autofree uint8_t *bitmap = NULL;
    uint8_t raw[4];
    uint64_t at;
    int ret;

    if (chunk >= n->entries) {
        return 0;
    }
    ret = blocks_read(b, n->catalog + chunk * 4, raw, 4);
    if (ret < 0 || blocks_le32(raw) == UINT32_MAX) {
        return ret;
    }
    at = n->data + (uint64_t)blocks_le32(raw) * 512 * (n->extent_sectors + n->bitmap_sectors);
    bitmap = g_malloc(bytes);
    ret = blocks_read(b, at, bitmap, bytes);
    for (uint32_t i = 0; ret >= 0 && i < n->extent_sectors; i++) {
        if (i / 8 < bytes && bitmap[i / 8] >> (i % 8) & 1) {
            entries[i] = BLOCKS_ENTRY(BLOCKS_DATA, at + bytes + (uint64_t)i * 512);
        }
    }
    return ret;
}

static const BlocksOps bochs_ops = { .load = bochs_load };

static bool bochs_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    BochsNode *n = (BochsNode *)node;
    uint32_t bitmap, extent, header;
    uint8_t h[HEADER_BYTES];
    uint64_t size;
    int ret;

    if (!blocks_read_only(node, error) || !block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file,
                                                            options, options->u_bochs->file, error)) {
        return false;
    }
    ret = blocks_read(&n->b, 0, h, sizeof(h));
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the Bochs header");
    }
    if (!bochs_probe(h, sizeof(h), NULL)) {
        return error_set(error, "Image not in Bochs format");
    }
    header = blocks_le32(h + 68);
    n->entries = blocks_le32(h + 72);
    bitmap = blocks_le32(h + 76);
    extent = blocks_le32(h + 80);
    size = blocks_le64(blocks_le32(h + 64) == 0x00010000 ? h + 84 : h + 88);
    if (n->entries > MAX_CATALOG) {
        return error_set(error, "Catalog size is too large");
    }
    if (extent < 512) {
        return error_set(error, "Extent size must be at least 512");
    }
    if (extent & (extent - 1)) {
        return error_set(error, "Extent size %u is not a power of two", extent);
    }
    if (extent > 0x800000) {
        return error_set(error, "Extent size %u is too large", extent);
    }
    if (bitmap > 0x800000) {
        return error_set(error, "Bitmap size %u is too large", bitmap);
    }
    n->catalog = header;
    n->data = (uint64_t)header + (uint64_t)n->entries * 4;
    n->bitmap_sectors = 1 + (bitmap ? bitmap - 1 : 0) / 512;
    n->extent_sectors = 1 + (extent - 1) / 512;
    if (size / extent + !!(size % extent) > n->entries) {
        return error_set(error, "Catalog size is too small for this disk size");
    }
    return blocks_begin(&n->b, &bochs_ops, size & ~UINT64_C(511), 512, n->extent_sectors, HEADER_BYTES,
                        error);
}

static const BlockDriver bochs_driver = {
    .name = "bochs",
    .instance_size = sizeof(BochsNode),
    .any_alignment = true,
    .probe = bochs_probe,
    .open = bochs_open,
    .close = blocks_close,
    .co_preadv = blocks_co_preadv,
    .co_block_status = blocks_co_block_status,
};
BLOCK_DRIVER(bochs_driver);
