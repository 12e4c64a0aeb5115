/*
 * Parallels disk images of the expanding kind ("WithoutFreeSpace" and "WithouFreSpacExt"): a header of 64
 * bytes, a table of 32-bit places in sectors or clusters, the clusters. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

#define HEADER_BYTES 64u
#define CHUNK        1024u
#define IN_USE       0x746f6e59u
#define MAX_ENTRIES  (INT32_MAX / 4)

typedef struct ParallelsNode {
    BlocksNode b;
    uint32_t unit; /* bytes that an entry counts in */
} ParallelsNode;

static bool is_old(const uint8_t *head)
{
    return memcmp(head, "WithoutFreeSpace", 16) == 0;
}

static int parallels_probe(const uint8_t *head, size_t size, const char *filename)
{
    return size >= HEADER_BYTES && (is_old(head) || memcmp(head, "WithouFreSpacExt", 16) == 0) &&
                   blocks_le32(head + 16) == 2
               ? 100
               : 0;
}

static int parallels_load(BlocksNode *b, uint64_t chunk, uint64_t *entries)
{
    ParallelsNode *p = (ParallelsNode *)b;
    g_autofree uint8_t *raw = g_malloc(CHUNK * 4);
    int ret = blocks_read(b, HEADER_BYTES + chunk * CHUNK * 4, raw, CHUNK * 4);

    for (uint32_t i = 0; ret >= 0 && i < CHUNK && chunk * CHUNK + i < b->count; i++) {
        uint32_t at = blocks_le32(raw + (size_t)i * 4);

        entries[i] = at ? BLOCKS_ENTRY(BLOCKS_DATA, (uint64_t)at * p->unit) : BLOCKS_ENTRY(BLOCKS_ZERO, 0);
    }
    return ret;
}

static int parallels_place(BlocksNode *b, uint64_t block, uint64_t *host)
{
    ParallelsNode *p = (ParallelsNode *)b;
    int ret = blocks_place_at_end(b, p->unit, host);

    return ret >= 0 && *host / p->unit > UINT32_MAX ? -EFBIG : ret;
}

static int parallels_store(BlocksNode *b, uint64_t block, uint64_t host)
{
    uint8_t entry[4];

    blocks_put_le32(entry, (uint32_t)(host / ((ParallelsNode *)b)->unit));
    return block_co_pwrite(b->node.file, HEADER_BYTES + block * 4, 4, entry, 0);
}

static const BlocksOps parallels_ops = { .load = parallels_load,
                                         .place = parallels_place,
                                         .store = parallels_store };

static bool parallels_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    ParallelsNode *p = (ParallelsNode *)node;
    uint64_t sectors, table, data;
    uint32_t entries, tracks;
    uint8_t h[HEADER_BYTES];
    int ret;

    if (!block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file, options, options->u_parallels->file,
                          error)) {
        return false;
    }
    ret = blocks_read(&p->b, 0, h, sizeof(h));
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the Parallels header");
    }
    if (!parallels_probe(h, sizeof(h), NULL)) {
        return error_set(error, "Image not in Parallels format");
    }
    tracks = blocks_le32(h + 28);
    entries = blocks_le32(h + 32);
    sectors = is_old(h) ? blocks_le32(h + 36) : blocks_le64(h + 36);
    if (!tracks || tracks > INT32_MAX / 513) {
        return error_set(error, "Invalid image: %s sectors per track", tracks ? "Too big" : "Zero");
    }
    if (entries > MAX_ENTRIES) {
        return error_set(error, "Catalog too large");
    }
    if (sectors > (uint64_t)entries * tracks) {
        return error_set(
            error, "Invalid image: its table of %u entries is too short for %" G_GUINT64_FORMAT " sectors",
            entries, sectors);
    }
    if (blocks_le32(h + 44) == IN_USE && !node->read_only && !(node->open_flags & BLOCK_OPEN_CHECK)) {
        error_set(error, "parallels: Image was not closed correctly; cannot be opened read/write");
        error_append_hint(error, "It can be read: open it with read-only=on, and convert it.");
        return false;
    }
    table = (HEADER_BYTES + (uint64_t)entries * 4 + 511) & ~UINT64_C(511);
    data = MAX(table, (uint64_t)blocks_le32(h + 48) * 512);
    p->unit = is_old(h) ? 512 : tracks * 512;
    return blocks_begin(&p->b, &parallels_ops, sectors * 512, tracks * 512, CHUNK, data, error);
}

static bool parallels_co_check(BlockNode *node, BlockCheckResult *result, unsigned fix, GError **error)
{
    BlocksNode *b = (BlocksNode *)node;
    uint64_t size = block_size(node->file), end;
    uint8_t mark[4];
    int ret = blocks_read(b, 44, mark, 4);

    if (ret < 0 || !blocks_co_check(node, result, fix, error)) {
        return ret >= 0 || error_set_errno(error, -ret, "Could not read the Parallels header");
    }
    if (blocks_le32(mark) == IN_USE) { /* the last writer did not come to its end */
        bool mend = fix & BLOCK_FIX_ERRORS;

        if (mend) {
            blocks_put_le32(mark, 0);
            mend = block_co_pwrite_sync(node->file, 44, 4, mark) >= 0;
        }
        *(mend ? &result->corruptions_fixed : &result->corruptions) += 1;
    }
    end = result->image_end_offset;
    if (!result->corruptions && size > end) { /* clusters at the end that nobody has */
        int64_t leaks = (int64_t)((size - end + b->block_bytes - 1) / b->block_bytes);
        bool mend = fix & BLOCK_FIX_LEAKS;

        mend = mend && block_co_truncate(node->file, end, true, QAPI_PREALLOC_MODE_OFF, 0, NULL) >= 0;
        *(mend ? &result->leaks_fixed : &result->leaks) += leaks;
        b->end = mend ? end : b->end;
    }
    return true;
}

static const BlockOption parallels_create_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, false },
    { "cluster_size", BLOCK_OPTION_SIZE, "Parallels image cluster size", "1048576", false },
    { NULL, 0, NULL, NULL, false },
};

static bool parallels_co_create_named(BlockGraph *graph, const char *filename, json_object *options,
                                      GError **error)
{
    uint64_t size = (blocks_number(options, "size", 0) + 511) & ~UINT64_C(511);
    uint64_t cluster = (blocks_number(options, "cluster_size", 1 << 20) + 511) & ~UINT64_C(511), entries,
             table;
    g_autofree uint8_t *buf = NULL;
    BlockChild *root;
    bool ok;
    int ret;

    if (!cluster || cluster / 512 > INT32_MAX / 513) {
        return error_set(error, "Cluster size is too large");
    }
    entries = size / cluster + !!(size % cluster);
    if (entries > MAX_ENTRIES) {
        return error_set(error, "Image size is too large for this cluster size");
    }
    /* The data begins on a cluster, for places count in clusters. */
    table = (HEADER_BYTES + entries * 4 + cluster - 1) / cluster * cluster;
    buf = g_malloc0(HEADER_BYTES);
    memcpy(buf, "WithouFreSpacExt", 16);
    blocks_put_le32(buf + 16, 2);
    blocks_put_le32(buf + 20, 16);
    blocks_put_le32(buf + 24, (uint32_t)MIN(size / 512 / 16 / 32, UINT32_MAX));
    blocks_put_le32(buf + 28, (uint32_t)(cluster / 512));
    blocks_put_le32(buf + 32, (uint32_t)entries);
    blocks_put_le64(buf + 36, size / 512);
    blocks_put_le32(buf + 48, (uint32_t)(table / 512));
    root = blocks_create_file(graph, filename, options, error);
    if (!root) {
        return false;
    }
    ok = blk_truncate(root, table, false, QAPI_PREALLOC_MODE_OFF, 0, error);
    if (ok) {
        ret = blk_pwrite(root, 0, HEADER_BYTES, buf, 0);
        ok = ret >= 0 || error_set_errno(error, -ret, "Failed to create Parallels image");
    }
    block_root_free(root);
    return ok;
}

static const BlockDriver parallels_driver = {
    .name = "parallels",
    .instance_size = sizeof(ParallelsNode),
    .any_alignment = true,
    .may_resize_file = true,
    .probe = parallels_probe,
    .open = parallels_open,
    .close = blocks_close,
    .co_preadv = blocks_co_preadv,
    .co_pwritev = blocks_co_pwritev,
    .co_block_status = blocks_co_block_status,
    .co_check = parallels_co_check,
    .co_create = blocks_co_create,
    .co_create_named = parallels_co_create_named,
    .create_options = parallels_create_options,
};
BLOCK_DRIVER(parallels_driver);
