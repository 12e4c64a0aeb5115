/*
 * QED: two levels of tables of little-endian places, in clusters, and a backing image. Reads and writes; a
 * table is stable before something leads to it, so images need no check after a crash (and no mark that says
 * so). After QEMU's docs/interop/qed_spec.txt. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

#define MAGIC        0x00444551u /* "QED\0" */
#define HEADER_BYTES 64u
enum {
    FEATURE_BACKING = 1u << 0,
    FEATURE_NEED_CHECK = 1u << 1,
    FEATURE_NO_PROBE = 1u << 2,
    FEATURES_KNOWN = 7u
};

typedef struct QedNode {
    BlocksNode b;
    uint64_t l1_offset;
    uint32_t table_bytes;
} QedNode;

static int qed_probe(const uint8_t *head, size_t size, const char *filename)
{
    return size >= HEADER_BYTES && blocks_le32(head) == MAGIC ? 100 : 0;
}

static bool place_is_good(const BlocksNode *b, uint64_t at)
{
    return !(at & (b->block_bytes - 1)) && at >= b->data_start && at < block_size(b->node.file);
}

static int l2_table_of(QedNode *q, uint64_t chunk, uint64_t *table)
{
    uint8_t raw[8];
    int ret = blocks_read(&q->b, q->l1_offset + chunk * 8, raw, 8);

    *table = blocks_le64(raw);
    return ret;
}

static int qed_load(BlocksNode *b, uint64_t chunk, uint64_t *entries)
{
    QedNode *q = (QedNode *)b;
    g_autofree uint8_t *raw = NULL;
    uint64_t table;
    int ret = l2_table_of(q, chunk, &table);

    if (ret < 0 || !table) {
        return ret;
    }
    if (!place_is_good(b, table)) {
        return -EIO;
    }
    raw = g_malloc(q->table_bytes);
    ret = blocks_read(b, table, raw, q->table_bytes);
    for (uint32_t i = 0; ret >= 0 && i < q->table_bytes / 8; i++) {
        uint64_t at = blocks_le64(raw + (size_t)i * 8);

        if (at > 1 && !place_is_good(b, at)) {
            return -EIO;
        }
        entries[i] = at > 1 ? BLOCKS_ENTRY(BLOCKS_DATA, at) : BLOCKS_ENTRY(at ? BLOCKS_ZERO : BLOCKS_NONE, 0);
    }
    return ret;
}

static int qed_place(BlocksNode *b, uint64_t block, uint64_t *host)
{
    return blocks_place_at_end(b, b->block_bytes, host);
}

static int qed_store(BlocksNode *b, uint64_t block, uint64_t host)
{
    QedNode *q = (QedNode *)b;
    uint64_t per_table = q->table_bytes / 8, table;
    uint8_t raw[8];
    int ret = l2_table_of(q, block / per_table, &table);

    if (ret >= 0 && !table) {
        g_autofree uint8_t *empty = g_malloc0(q->table_bytes);

        table = (b->end + b->block_bytes - 1) & ~(uint64_t)(b->block_bytes - 1);
        ret = block_co_pwrite(b->node.file, table, q->table_bytes, empty, 0);
        ret = ret < 0 ? ret : block_co_flush(b->node.file);
        if (ret >= 0) {
            b->end = table + q->table_bytes;
            blocks_put_le64(raw, table);
            ret = block_co_pwrite(b->node.file, q->l1_offset + block / per_table * 8, 8, raw, 0);
        }
    }
    if (ret >= 0) {
        blocks_put_le64(raw, host);
        ret = block_co_pwrite(b->node.file, table + block % per_table * 8, 8, raw, 0);
    }
    return ret;
}

static const BlocksOps qed_ops = { .load = qed_load, .place = qed_place, .store = qed_store };

static bool power_between(uint64_t n, uint64_t low, uint64_t high)
{
    return n >= low && n <= high && !(n & (n - 1));
}

static bool check_header(QedNode *q, const uint8_t *h, GError **error)
{
    BlockNode *node = &q->b.node;
    uint64_t cluster = blocks_le32(h + 4), table = blocks_le32(h + 8), features = blocks_le64(h + 16),
             size = blocks_le64(h + 48);

    if (blocks_le32(h) != MAGIC) {
        return error_set(error, "Image not in QED format");
    }
    if (features & ~(uint64_t)FEATURES_KNOWN) {
        return error_set(error, "Unsupported QED features: %" G_GINT64_MODIFIER "x",
                         features & ~(uint64_t)FEATURES_KNOWN);
    }
    if (!power_between(cluster, 4096, 64u << 20)) {
        return error_set(error, "%s: QED clusters of %" G_GUINT64_FORMAT " bytes are not valid", node->what,
                         cluster);
    }
    if (!power_between(table, 1, 16) || table * cluster > 64u << 20) {
        return error_set(error, "%s: QED tables of %" G_GUINT64_FORMAT " clusters are not valid", node->what,
                         table);
    }
    q->table_bytes = (uint32_t)(table * cluster);
    if (size % 512 || size / cluster / (q->table_bytes / 8) > q->table_bytes / 8 || size > BLOCK_MAX_SIZE) {
        return error_set(error, "%s: a QED disk of %" G_GUINT64_FORMAT " bytes is not valid with its tables",
                         node->what, size);
    }
    q->l1_offset = blocks_le64(h + 40);
    if (q->l1_offset % cluster || q->l1_offset < cluster || q->l1_offset > block_size(node->file)) {
        return error_set(error, "%s: the QED image's table lies outside of the file", node->what);
    }
    if ((features & FEATURE_NEED_CHECK) && !node->read_only && !(node->open_flags & BLOCK_OPEN_CHECK)) {
        error_set(error, "%s: the QED image was not closed cleanly, and is not checked by this program",
                  node->what);
        error_append_hint(error, "It can be read: open it with read-only=on, and convert it.");
        return false;
    }
    return true;
}

static bool read_backing_name(QedNode *q, const uint8_t *h, GError **error)
{
    BlockNode *node = &q->b.node;
    uint32_t at = blocks_le32(h + 56), bytes = blocks_le32(h + 60), cluster = blocks_le32(h + 4);
    int ret;

    if (!(blocks_le64(h + 16) & FEATURE_BACKING)) {
        return true;
    }
    if (!bytes || bytes > 1023 || at > (uint64_t)blocks_le32(h + 12) * cluster ||
        at > block_size(node->file)) {
        return error_set(error, "%s: the backing file's name lies outside of the QED header", node->what);
    }
    node->backing_file = g_malloc0(bytes + 1u);
    ret = blocks_read(&q->b, at, node->backing_file, bytes);
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the backing file's name");
    }
    if (blocks_le64(h + 16) & FEATURE_NO_PROBE) {
        node->backing_format = g_strdup("raw");
    }
    return true;
}

static bool qed_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    QedNode *q = (QedNode *)node;
    uint8_t h[HEADER_BYTES];
    int ret;

    if (!block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file, options, options->u_qed->file,
                          error)) {
        return false;
    }
    ret = blocks_read(&q->b, 0, h, sizeof(h));
    if (ret < 0) {
        return error_set_errno(error, -ret, "Failed to read QED header");
    }
    return check_header(q, h, error) && read_backing_name(q, h, error) &&
           blocks_begin(&q->b, &qed_ops, blocks_le64(h + 48), blocks_le32(h + 4), q->table_bytes / 8,
                        blocks_le32(h + 4), error) &&
           block_backing_open(node, options, options->u_qed->backing, error);
}

static const BlockOption qed_create_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, false },
    { "backing_file", BLOCK_OPTION_STRING, "File name of a base image", NULL, false },
    { "backing_fmt", BLOCK_OPTION_STRING, "Image format of the base image", NULL, false },
    { "cluster_size", BLOCK_OPTION_SIZE, "Cluster size (in bytes)", "65536", false },
    { "table_size", BLOCK_OPTION_SIZE, "L1/L2 table size (in clusters)", NULL, false },
    { NULL, 0, NULL, NULL, false },
};

static bool qed_co_create_named(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    const char *backing = blocks_option(options, "backing_file"),
               *format = blocks_option(options, "backing_fmt");
    uint64_t size = (blocks_number(options, "size", 0) + 511) & ~UINT64_C(511),
             cluster = blocks_number(options, "cluster_size", 65536),
             table = blocks_number(options, "table_size", 4);
    size_t name = backing ? strlen(backing) : 0;
    uint64_t features = backing ? FEATURE_BACKING : 0;
    g_autofree uint8_t *buf = NULL;
    BlockChild *root;
    bool ok;
    int ret;

    if (!power_between(cluster, 4096, 64u << 20)) {
        return error_set(error, "QED cluster size must be within range [4096, 67108864] and power of 2");
    }
    if (!power_between(table, 1, 16) || table * cluster > 64u << 20) {
        return error_set(error, "QED table size must be within range [1, 16] and power of 2");
    }
    if (size / cluster / (table * cluster / 8) > table * cluster / 8 || size > BLOCK_MAX_SIZE) {
        return error_set(
            error,
            "QED image size must be a non-zero multiple of cluster size and less than %" G_GUINT64_FORMAT
            " bytes",
            table * cluster / 8 * (table * cluster / 8) * cluster);
    }
    if (name > 1023) {
        return error_set(error, "The backing file's name is longer than 1023 bytes");
    }
    features |= backing && format && strcmp(format, "raw") == 0 ? FEATURE_NO_PROBE : 0;
    buf = g_malloc0(cluster);
    blocks_put_le32(buf, MAGIC);
    blocks_put_le32(buf + 4, (uint32_t)cluster);
    blocks_put_le32(buf + 8, (uint32_t)table);
    blocks_put_le32(buf + 12, 1);
    blocks_put_le64(buf + 16, features);
    blocks_put_le64(buf + 40, cluster);
    blocks_put_le64(buf + 48, size);
    if (backing) {
        blocks_put_le32(buf + 56, HEADER_BYTES);
        blocks_put_le32(buf + 60, (uint32_t)name);
        memcpy(buf + HEADER_BYTES, backing, name);
    }
    root = blocks_create_file(graph, filename, options, error);
    if (!root) {
        return false;
    }
    ok = blk_truncate(root, cluster + table * cluster, false, QAPI_PREALLOC_MODE_OFF, 0, error);
    if (ok) {
        ret = blk_pwrite(root, 0, cluster, buf, 0);
        ok = ret >= 0 || error_set_errno(error, -ret, "Could not write the QED header");
    }
    block_root_free(root);
    return ok;
}

static const BlockDriver qed_driver = {
    .name = "qed",
    .instance_size = sizeof(QedNode),
    .any_alignment = true,
    .may_resize_file = true,
    .supports_backing = true,
    .probe = qed_probe,
    .open = qed_open,
    .close = blocks_close,
    .get_info = blocks_get_info,
    .co_preadv = blocks_co_preadv,
    .co_pwritev = blocks_co_pwritev,
    .co_block_status = blocks_co_block_status,
    .co_check = blocks_co_check,
    .co_create = blocks_co_create,
    .co_create_named = qed_co_create_named,
    .create_options = qed_create_options,
};
BLOCK_DRIVER(qed_driver);
