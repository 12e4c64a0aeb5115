/*
 * qcow, version 1: the ancestor of qcow2. Two levels of tables of big-endian places, clusters that may be
 * compressed, a backing image. Encrypted images are refused. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"
#include "block/formats/qcow2/qcow2.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define QCOW_HEADER     48u
#define QCOW_COMPRESSED (UINT64_C(1) << 63)
#define PACKED_SHIFT    45                  /* a compressed cluster's length stands above its place */
#define MAX_L1          (UINT64_C(1) << 28) /* bytes */

typedef struct QcowNode {
    BlocksNode b;
    uint32_t cluster_bits, l2_bits;
    uint64_t l1_offset;
} QcowNode;

static int qcow_probe(const uint8_t *head, size_t size, const char *filename)
{
    return size >= 8 && get_be32(head) == QCOW2_MAGIC && get_be32(head + 4) == 1 ? 100 : 0;
}

static int l2_table_of(QcowNode *q, uint64_t chunk, uint64_t *table)
{
    uint8_t raw[8];
    int ret = blocks_read(&q->b, q->l1_offset + chunk * 8, raw, 8);

    *table = get_be64(raw);
    return ret;
}

static int qcow_load(BlocksNode *b, uint64_t chunk, uint64_t *entries)
{
    QcowNode *q = (QcowNode *)b;
    size_t bytes = (size_t)8 << q->l2_bits;
    g_autofree uint8_t *raw = NULL;
    uint64_t table;
    int ret = l2_table_of(q, chunk, &table);

    if (ret < 0 || !table) {
        return ret; /* none: all is the backing image's */
    }
    if (table >= block_size(b->node.file)) {
        return -EIO;
    }
    raw = g_malloc(bytes);
    ret = blocks_read(b, table, raw, bytes);
    for (uint32_t i = 0; ret >= 0 && i < 1u << q->l2_bits; i++) {
        uint64_t at = get_be64(raw + (size_t)i * 8);

        if (at & QCOW_COMPRESSED) {
            uint64_t place = at & ((UINT64_C(1) << (63 - q->cluster_bits)) - 1),
                     length = (at & (QCOW_COMPRESSED - 1)) >> (63 - q->cluster_bits);

            if (place >> PACKED_SHIFT) {
                return -EIO; /* behind the end of any file */
            }
            entries[i] = BLOCKS_ENTRY(BLOCKS_PACKED, place | length << PACKED_SHIFT);
        } else {
            entries[i] =
                at ? BLOCKS_ENTRY(BLOCKS_DATA, at & (UINT64_MAX >> 2)) : BLOCKS_ENTRY(BLOCKS_NONE, 0);
        }
    }
    return ret;
}

static int qcow_place(BlocksNode *b, uint64_t block, uint64_t *host)
{
    return blocks_place_at_end(b, b->block_bytes, host);
}

static int qcow_store(BlocksNode *b, uint64_t block, uint64_t host)
{
    QcowNode *q = (QcowNode *)b;
    uint64_t chunk = block >> q->l2_bits, in = block & ((UINT64_C(1) << q->l2_bits) - 1), table;
    size_t bytes = (size_t)8 << q->l2_bits;
    uint8_t raw[8];
    int ret = l2_table_of(q, chunk, &table);

    if (ret >= 0 && !table) {
        g_autofree uint8_t *empty = g_malloc0(bytes);

        /* Empty and stable before the first level leads to it. */
        table = (b->end + b->block_bytes - 1) & ~(uint64_t)(b->block_bytes - 1);
        ret = block_co_pwrite(b->node.file, table, bytes, empty, 0);
        ret = ret < 0 ? ret : block_co_flush(b->node.file);
        if (ret >= 0) {
            b->end = table + bytes;
            put_be64(raw, table);
            ret = block_co_pwrite(b->node.file, q->l1_offset + chunk * 8, 8, raw, 0);
        }
    }
    if (ret >= 0) {
        put_be64(raw, host);
        ret = block_co_pwrite(b->node.file, table + in * 8, 8, raw, 0);
    }
    return ret;
}

static int qcow_read_packed(BlocksNode *b, uint64_t block, uint64_t value, uint8_t *buf)
{
    uint64_t at = value & ((UINT64_C(1) << PACKED_SHIFT) - 1), bytes = value >> PACKED_SHIFT;
    g_autofree uint8_t *in = g_malloc(bytes + 1);
    int ret = blocks_read(b, at, in, bytes);

    return ret < 0 ? ret : qcow2_inflate(QCOW2_ZLIB, in, bytes, buf, b->block_bytes);
}

static const BlocksOps qcow_ops = {
    .load = qcow_load, .place = qcow_place, .store = qcow_store, .read_packed = qcow_read_packed
};

static bool read_backing_name(QcowNode *q, const uint8_t *h, GError **error)
{
    uint64_t at = get_be64(h + 8);
    uint32_t bytes = get_be32(h + 16);
    char *name;
    int ret;

    if (!at) {
        return true;
    }
    if (bytes > 1023) {
        return error_set(error, "Backing file name too long");
    }
    if (at > block_size(q->b.node.file)) {
        return error_set(error, "The backing file's name lies outside of the file");
    }
    name = g_malloc0(bytes + 1u);
    ret = blocks_read(&q->b, at, name, bytes);
    if (ret < 0) {
        g_free(name);
        return error_set_errno(error, -ret, "Could not read the backing file's name");
    }
    q->b.node.backing_file = name;
    return true;
}

static bool qcow_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    QcowNode *q = (QcowNode *)node;
    uint8_t h[QCOW_HEADER];
    uint64_t size, l1;
    int ret;

    if (!block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file, options, options->u_qcow->file,
                          error)) {
        return false;
    }
    ret = blocks_read(&q->b, 0, h, sizeof(h));
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the qcow header");
    }
    if (get_be32(h) != QCOW2_MAGIC) {
        return error_set(error, "Image not in qcow format");
    }
    if (get_be32(h + 4) != 1) {
        error_set(error, "qcow (v%u) does not support qcow version %u", 1u, get_be32(h + 4));
        error_append_hint(error, "Try to use 'qcow2' instead.");
        return false;
    }
    size = get_be64(h + 24);
    q->cluster_bits = h[32];
    q->l2_bits = h[33];
    q->l1_offset = get_be64(h + 40);
    if (size <= 1) {
        return error_set(error, "Image size is too small (must be at least 2 bytes)");
    }
    if (q->cluster_bits < 9 || q->cluster_bits > 16) {
        return error_set(error, "Cluster size must be between 512 and 64k");
    }
    if (q->l2_bits < 6 || q->l2_bits > 13) {
        return error_set(error, "L2 table size must be between 512 and 64k");
    }
    if (get_be32(h + 36)) {
        return error_set(error, "Encrypted qcow images are not supported");
    }
    l1 = (size >> (q->cluster_bits + q->l2_bits)) + 1;
    if (size > BLOCK_MAX_SIZE || l1 * 8 > MAX_L1) {
        return error_set(error, "Image too large");
    }
    if (q->l1_offset < QCOW_HEADER || q->l1_offset > block_size(node->file)) {
        return error_set(error, "The L1 table lies outside of the file");
    }
    return read_backing_name(q, h, error) &&
           blocks_begin(&q->b, &qcow_ops, (size + 511) & ~UINT64_C(511), 1u << q->cluster_bits,
                        1u << q->l2_bits, QCOW_HEADER, error) &&
           block_backing_open(node, options, options->u_qcow->backing, error);
}

static const BlockOption qcow_create_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, false },
    { "backing_file", BLOCK_OPTION_STRING, "File name of a base image", NULL, false },
    { "backing_fmt", BLOCK_OPTION_STRING, "Format of the backing image", NULL, false },
    { NULL, 0, NULL, NULL, false },
};

static bool qcow_co_create_named(BlockGraph *graph, const char *filename, json_object *options,
                                 GError **error)
{
    const char *backing = blocks_option(options, "backing_file");
    uint64_t size = (blocks_number(options, "size", 0) + 511) & ~UINT64_C(511), l1, at = QCOW_HEADER;
    uint32_t cluster_bits = backing ? 9 : 12,
             l2_bits = backing ? 12 : 9; /* small clusters where much is copied */
    size_t name = backing ? strlen(backing) : 0;
    g_autofree uint8_t *buf = NULL;
    BlockChild *root;
    bool ok;
    int ret;

    if (!size) {
        return error_set(error, "Image size is too small, cannot be zero length");
    }
    if (name > 1023) {
        return error_set(error, "Backing file name too long");
    }
    l1 = (size >> (cluster_bits + l2_bits)) + !!(size & ((UINT64_C(1) << (cluster_bits + l2_bits)) - 1));
    if (l1 * 8 > MAX_L1) {
        return error_set(error, "Image too large");
    }
    at = (at + name + 7) & ~UINT64_C(7);
    buf = g_malloc0(at + (l1 + 1) * 8);
    put_be32(buf, QCOW2_MAGIC);
    put_be32(buf + 4, 1);
    if (backing) {
        put_be64(buf + 8, QCOW_HEADER);
        put_be32(buf + 16, (uint32_t)name);
        memcpy(buf + QCOW_HEADER, backing, name);
    }
    put_be64(buf + 24, size);
    buf[32] = (uint8_t)cluster_bits;
    buf[33] = (uint8_t)l2_bits;
    put_be64(buf + 40, at);
    root = blocks_create_file(graph, filename, options, error);
    if (!root) {
        return false;
    }
    ret = blk_pwrite(root, 0, at + (l1 + 1) * 8, buf, 0);
    ok = ret >= 0 || error_set_errno(error, -ret, "Could not write the qcow header");
    block_root_free(root);
    return ok;
}

static const BlockDriver qcow_driver = {
    .name = "qcow",
    .instance_size = sizeof(QcowNode),
    .any_alignment = true,
    .may_resize_file = true,
    .supports_backing = true,
    .probe = qcow_probe,
    .open = qcow_open,
    .close = blocks_close,
    .get_info = blocks_get_info,
    .co_preadv = blocks_co_preadv,
    .co_pwritev = blocks_co_pwritev,
    .co_block_status = blocks_co_block_status,
    .co_create = blocks_co_create,
    .co_create_named = qcow_co_create_named,
    .create_options = qcow_create_options,
};
BLOCK_DRIVER(qcow_driver);
