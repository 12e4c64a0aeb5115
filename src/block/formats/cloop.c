/*
 * cloop, compressed loop-back images (Knoppix), version 2, to be read: a text, the size of blocks and their
 * number, a table of places, blocks compressed with zlib. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>

#define HEADER_BYTES 136u
#define MAX_BLOCK    (64u << 20)
#define MAX_TABLE    (512u << 20)
#define CHUNK        1024u

typedef struct CloopNode {
    BlocksNode b;
    uint64_t longest; /* compressed bytes of a block at most */
} CloopNode;

static int cloop_probe(const uint8_t *head, size_t size, const char *filename)
{
    static const char text[] =
        "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

    return size >= sizeof(text) - 1 && memcmp(head, text, sizeof(text) - 1) == 0 ? 2 : 0;
}

static int cloop_load(BlocksNode *b, uint64_t chunk, uint64_t *entries)
{
    for (uint32_t i = 0; i < CHUNK; i++) {
        entries[i] = BLOCKS_ENTRY(BLOCKS_PACKED, 0);
    }
    return 0;
}

static int cloop_read_packed(BlocksNode *b, uint64_t block, uint64_t value, uint8_t *buf)
{
    CloopNode *c = (CloopNode *)b;
    uLongf bytes = b->block_bytes;
    g_autofree uint8_t *in = NULL;
    uint8_t places[16];
    uint64_t at, end;
    int ret = blocks_read(b, HEADER_BYTES + block * 8, places, sizeof(places));

    if (ret < 0) {
        return ret;
    }
    at = blocks_be64(places);
    end = blocks_be64(places + 8);
    if (end < at || end - at > c->longest || end > block_size(b->node.file)) {
        return -EIO;
    }
    in = g_try_malloc(end - at + 1);
    ret = in ? blocks_read(b, at, in, end - at) : -ENOMEM;
    if (ret < 0) {
        return ret;
    }
    return uncompress(buf, &bytes, in, end - at) == Z_OK && bytes == b->block_bytes ? 0 : -EIO;
}

static const BlocksOps cloop_ops = { .load = cloop_load, .read_packed = cloop_read_packed };

static bool cloop_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    CloopNode *c = (CloopNode *)node;
    uint32_t block, blocks;
    uint8_t h[HEADER_BYTES];
    int ret;

    if (!blocks_read_only(node, error) || !block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file,
                                                            options, options->u_cloop->file, error)) {
        return false;
    }
    ret = blocks_read(&c->b, 0, h, sizeof(h));
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the cloop header");
    }
    block = blocks_be32(h + 128);
    blocks = blocks_be32(h + 132);
    if (!block) {
        return error_set(error, "block_size cannot be zero");
    }
    if (block % 512) {
        return error_set(error, "block_size %u must be a multiple of 512", block);
    }
    if (block > MAX_BLOCK) {
        return error_set(error, "block_size %u must be 64 MB or less", block);
    }
    if (blocks > (UINT32_MAX - 8) / 8) {
        return error_set(error, "n_blocks %u must be %u or less", blocks, (UINT32_MAX - 8) / 8);
    }
    if ((blocks + UINT64_C(1)) * 8 > MAX_TABLE) {
        return error_set(error, "image requires too many offsets, try increasing block size");
    }
    if (HEADER_BYTES + (blocks + UINT64_C(1)) * 8 > block_size(node->file)) {
        return error_set(error, "The cloop image ends inside of its table of %u blocks", blocks);
    }
    c->longest = (uint64_t)block * 2;
    return blocks_begin(&c->b, &cloop_ops, (uint64_t)blocks * block, block, CHUNK, HEADER_BYTES, error);
}

static const BlockDriver cloop_driver = {
    .name = "cloop",
    .instance_size = sizeof(CloopNode),
    .any_alignment = true,
    .probe = cloop_probe,
    .open = cloop_open,
    .close = blocks_close,
    .co_preadv = blocks_co_preadv,
    .co_block_status = blocks_co_block_status,
};
BLOCK_DRIVER(cloop_driver);
