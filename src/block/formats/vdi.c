/*
 * VDI, VirtualBox's disk images: a header, a map of 1 MiB blocks, the blocks. Dynamic and static ones; no
 * differencing images. After VirtualBox's own description of version 1.1. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"
#include "block/formats/crypto/cipher.h"

#include <errno.h>
#include <string.h>

#define SIGNATURE    0xbeda107fu
#define BLOCK_BYTES  (1u << 20)
#define NOT_THERE    0xffffffffu
#define IS_ZERO      0xfffffffeu
#define MAX_BLOCKS   0x3fffffffu
#define CHUNK        1024u /* entries read at a time */
#define HEADER_BYTES 512u
/* offsets in the header */
#define H_TEXT      0
#define H_SIGNATURE 64
#define H_VERSION   68
#define H_SIZE      72
#define H_TYPE      76
#define H_MAP       340
#define H_DATA      344
#define H_SECTOR    360
#define H_DISK      368
#define H_BLOCK     376
#define H_BLOCKS    384
#define H_ALLOCATED 388
#define H_UUID      392
#define H_UUID_SNAP 408
#define H_UUID_LINK 424
#define H_UUID_UP   440

typedef struct VdiNode {
    BlocksNode b;
    uint32_t map_offset, data_offset, allocated;
} VdiNode;

static int vdi_probe(const uint8_t *head, size_t size, const char *filename)
{
    return size >= HEADER_BYTES && blocks_le32(head + H_SIGNATURE) == SIGNATURE ? 100 : 0;
}

static int vdi_load(BlocksNode *b, uint64_t chunk, uint64_t *entries)
{
    VdiNode *v = (VdiNode *)b;
    g_autofree uint8_t *raw = g_malloc(CHUNK * 4);
    int ret = blocks_read(b, v->map_offset + chunk * CHUNK * 4, raw, CHUNK * 4);

    for (uint32_t i = 0; ret >= 0 && i < CHUNK && chunk * CHUNK + i < b->count; i++) {
        uint32_t at = blocks_le32(raw + (size_t)i * 4);

        entries[i] = at == NOT_THERE || at == IS_ZERO
                         ? BLOCKS_ENTRY(BLOCKS_ZERO, 0)
                         : BLOCKS_ENTRY(BLOCKS_DATA, v->data_offset + (uint64_t)at * BLOCK_BYTES);
    }
    return ret;
}

static int vdi_place(BlocksNode *b, uint64_t block, uint64_t *host)
{
    VdiNode *v = (VdiNode *)b;

    *host = v->data_offset + (uint64_t)v->allocated * BLOCK_BYTES;
    if (v->allocated >= MAX_BLOCKS) {
        return -EFBIG;
    }
    b->end = *host + BLOCK_BYTES;
    return 0;
}

static int vdi_store(BlocksNode *b, uint64_t block, uint64_t host)
{
    VdiNode *v = (VdiNode *)b;
    uint8_t entry[4], count[4];
    int ret;

    blocks_put_le32(entry, (uint32_t)((host - v->data_offset) / BLOCK_BYTES));
    blocks_put_le32(count, v->allocated + 1);
    /* The count first: a block that nobody has is lost space, one that two have is lost data. */
    ret = block_co_pwrite(b->node.file, H_ALLOCATED, 4, count, 0);
    if (ret >= 0) {
        v->allocated++;
        ret = block_co_pwrite(b->node.file, v->map_offset + block * 4, 4, entry, 0);
    }
    return ret;
}

static const BlocksOps vdi_ops = { .load = vdi_load, .place = vdi_place, .store = vdi_store };

static bool check_header(BlockNode *node, const uint8_t *h, GError **error)
{
    static const uint8_t none[16];
    uint64_t size = blocks_le64(h + H_DISK), blocks = blocks_le32(h + H_BLOCKS);

    if (blocks_le32(h + H_SIGNATURE) != SIGNATURE) {
        return error_set(error, "Image not in VDI format (bad signature %08x)", blocks_le32(h + H_SIGNATURE));
    }
    if (blocks_le32(h + H_VERSION) != 0x00010001) {
        return error_set(error, "unsupported VDI image (version %u.%u)", blocks_le32(h + H_VERSION) >> 16,
                         blocks_le32(h + H_VERSION) & 0xffff);
    }
    if (blocks_le32(h + H_MAP) % 512 || blocks_le32(h + H_DATA) % 512) {
        return error_set(error, "unsupported VDI image (map at 0x%x, data at 0x%x are not aligned)",
                         blocks_le32(h + H_MAP), blocks_le32(h + H_DATA));
    }
    if (blocks_le32(h + H_SECTOR) != 512) {
        return error_set(error, "unsupported VDI image (sector size %u is not 512)",
                         blocks_le32(h + H_SECTOR));
    }
    if (blocks_le32(h + H_BLOCK) != BLOCK_BYTES) {
        return error_set(error, "unsupported VDI image (block size %u is not %u)", blocks_le32(h + H_BLOCK),
                         BLOCK_BYTES);
    }
    if (blocks > MAX_BLOCKS || size > blocks * BLOCK_BYTES) {
        return error_set(error,
                         "unsupported VDI image (disk size %" G_GUINT64_FORMAT
                         ", image bitmap has room for %" G_GUINT64_FORMAT ")",
                         size, blocks * BLOCK_BYTES);
    }
    if (blocks_le32(h + H_ALLOCATED) > blocks) {
        return error_set(error, "unsupported VDI image (%u blocks in use of %" G_GUINT64_FORMAT ")",
                         blocks_le32(h + H_ALLOCATED), blocks);
    }
    if (blocks_le32(h + H_MAP) < HEADER_BYTES ||
        blocks_le32(h + H_DATA) < blocks_le32(h + H_MAP) + blocks * 4) {
        return error_set(error, "unsupported VDI image (its map lies over its header or its data)");
    }
    if (memcmp(h + H_UUID_LINK, none, 16) != 0 || memcmp(h + H_UUID_UP, none, 16) != 0) {
        return error_set(error, "unsupported VDI image (non-NULL %s UUID)",
                         memcmp(h + H_UUID_LINK, none, 16) != 0 ? "link" : "parent");
    }
    return true;
}

static bool vdi_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    VdiNode *v = (VdiNode *)node;
    uint8_t h[HEADER_BYTES];
    int ret;

    if (!block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file, options, options->u_vdi->file,
                          error)) {
        return false;
    }
    ret = blocks_read(&v->b, 0, h, sizeof(h));
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the VDI header");
    }
    if (!check_header(node, h, error)) {
        return false;
    }
    v->map_offset = blocks_le32(h + H_MAP);
    v->data_offset = blocks_le32(h + H_DATA);
    v->allocated = blocks_le32(h + H_ALLOCATED);
    return blocks_begin(&v->b, &vdi_ops, (blocks_le64(h + H_DISK) + 511) & ~UINT64_C(511), BLOCK_BYTES, CHUNK,
                        v->data_offset, error);
}

static const BlockOption vdi_create_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, false },
    { "static", BLOCK_OPTION_BOOL, "VDI static (pre-allocated) image", "off", false },
    { NULL, 0, NULL, NULL, false },
};

static bool vdi_co_create_named(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    uint64_t size = blocks_number(options, "size", 0), blocks = size / BLOCK_BYTES + !!(size % BLOCK_BYTES),
             map;
    const char *prealloc = blocks_option(options, "preallocation"); /* blockdev-create's word for static */
    bool whole = blocks_number(options, "static", 0) || g_strcmp0(prealloc, "metadata") == 0;
    g_autofree uint8_t *buf = NULL;
    BlockChild *root;
    bool ok = true;
    int ret;

    if (prealloc && !whole && strcmp(prealloc, "off") != 0) {
        return error_set(error, "Preallocation mode '%s' is not supported for VDI: only off and metadata",
                         prealloc);
    }
    if (blocks > MAX_BLOCKS) {
        return error_set(error,
                         "Unsupported VDI image size (size is 0x%" G_GINT64_MODIFIER
                         "x, max supported is 0x%" G_GINT64_MODIFIER "x)",
                         size, (uint64_t)MAX_BLOCKS * BLOCK_BYTES);
    }
    map = (blocks * 4 + 511) & ~UINT64_C(511);
    buf = g_try_malloc0(HEADER_BYTES + map);
    if (!buf) {
        return error_set(error, "No memory for the map of a VDI image of %" G_GUINT64_FORMAT " bytes", size);
    }
    g_strlcpy((char *)buf + H_TEXT, "<<< QEMU VM Virtual Disk Image >>>\n", 64);
    blocks_put_le32(buf + H_SIGNATURE, SIGNATURE);
    blocks_put_le32(buf + H_VERSION, 0x00010001);
    blocks_put_le32(buf + H_SIZE, 0x180);
    blocks_put_le32(buf + H_TYPE, whole ? 2 : 1);
    blocks_put_le32(buf + H_MAP, HEADER_BYTES);
    blocks_put_le32(buf + H_DATA, (uint32_t)(HEADER_BYTES + map));
    blocks_put_le32(buf + H_SECTOR, 512);
    blocks_put_le64(buf + H_DISK, size);
    blocks_put_le32(buf + H_BLOCK, BLOCK_BYTES);
    blocks_put_le32(buf + H_BLOCKS, (uint32_t)blocks);
    blocks_put_le32(buf + H_ALLOCATED, whole ? (uint32_t)blocks : 0);
    if (!crypto_random(buf + H_UUID, 16, error) || !crypto_random(buf + H_UUID_SNAP, 16, error)) {
        return false;
    }
    for (uint64_t i = 0; i < map / 4; i++) {
        blocks_put_le32(buf + HEADER_BYTES + i * 4, i >= blocks ? 0 : whole ? (uint32_t)i : NOT_THERE);
    }
    root = blocks_create_file(graph, filename, options, error);
    if (!root) {
        return false;
    }
    ret = blk_pwrite(root, 0, HEADER_BYTES + map, buf, 0);
    ok = ret >= 0 || error_set_errno(error, -ret, "Error writing header");
    if (ok && whole) {
        ok = blk_truncate(root, HEADER_BYTES + map + blocks * BLOCK_BYTES, false, QAPI_PREALLOC_MODE_OFF, 0,
                          error);
    }
    block_root_free(root);
    return ok;
}

static const BlockDriver vdi_driver = {
    .name = "vdi",
    .instance_size = sizeof(VdiNode),
    .any_alignment = true,
    .may_resize_file = true,
    .probe = vdi_probe,
    .open = vdi_open,
    .close = blocks_close,
    .get_info = blocks_get_info,
    .co_preadv = blocks_co_preadv,
    .co_pwritev = blocks_co_pwritev,
    .co_block_status = blocks_co_block_status,
    .co_check = blocks_co_check,
    .co_create = blocks_co_create,
    .co_create_named = vdi_co_create_named,
    .create_options = vdi_create_options,
};
BLOCK_DRIVER(vdi_driver);
