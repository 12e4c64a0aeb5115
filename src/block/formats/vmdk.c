/*
 * VMDK, VMware's disk images, where one file holds descriptor and data: "monolithicSparse" (read, write,
 * create) and "streamOptimized" (read). A header, a descriptor in text, a directory of grain tables (most
 * have it twice), tables of 512 places, grains. Images of several files are refused. After VMware's "Virtual
 * Disk Format 5.0". Numbers are little-endian and count in sectors. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <zlib.h>

#define MAGIC         0x564d444bu /* "KDMV" */
#define HEADER_BYTES  512u
#define AT_END        UINT64_MAX /* the directory's place is in a copy of the header near the file's end */
#define MAX_DESC      (1u << 20)
#define MAX_GRAIN     (64u << 20)
#define MAX_DIRECTORY (512u << 20) /* bytes */
#define NO_PARENT     0xffffffffu
enum { FLAG_TWICE = 1u << 1, FLAG_ZEROES = 1u << 2, FLAG_COMPRESSED = 1u << 16, FLAG_MARKERS = 1u << 17 };

typedef struct VmdkNode {
    BlocksNode b;
    uint32_t flags;
    uint64_t directory, second; /* bytes; second: 0 where there is none */
    uint64_t desc_offset, cid_at;
    uint32_t cid, parent_cid;
    char *create_type;
    bool cid_is_new;
} VmdkNode;

static int vmdk_probe(const uint8_t *head, size_t size, const char *filename)
{
    return size >= 8 && blocks_le32(head) == MAGIC ? 100 : 0;
}

/* ---- tables ---- */

/* Where the directory says that a table is, in bytes; 0: nowhere. */
static int table_of(VmdkNode *v, uint64_t directory, uint64_t chunk, uint64_t *table)
{
    uint8_t raw[4];
    int ret = blocks_read(&v->b, directory + chunk * 4, raw, sizeof(raw));

    *table = (uint64_t)blocks_le32(raw) * 512;
    return ret;
}

static int vmdk_load(BlocksNode *b, uint64_t chunk, uint64_t *entries)
{
    VmdkNode *v = (VmdkNode *)b;
    g_autofree uint8_t *raw = NULL;
    uint64_t table;
    int ret = table_of(v, v->directory, chunk, &table);

    if (ret < 0 || !table) {
        return ret;
    }
    raw = g_malloc((size_t)b->per_chunk * 4);
    ret = blocks_read(b, table, raw, (uint64_t)b->per_chunk * 4);
    for (uint32_t i = 0; ret >= 0 && i < b->per_chunk; i++) {
        uint64_t at = blocks_le32(raw + (size_t)i * 4);

        entries[i] = !at                                   ? BLOCKS_ENTRY(BLOCKS_NONE, 0)
                     : at == 1 && (v->flags & FLAG_ZEROES) ? BLOCKS_ENTRY(BLOCKS_ZERO, 0)
                     : v->flags & FLAG_COMPRESSED          ? BLOCKS_ENTRY(BLOCKS_PACKED, at * 512)
                                                           : BLOCKS_ENTRY(BLOCKS_DATA, at * 512);
    }
    return ret;
}

/* Overlays know their parent by this number: it changes with the contents. */
static int renew_cid(VmdkNode *v)
{
    char text[9];
    int ret;

    if (v->cid_is_new || !v->cid_at) {
        return 0;
    }
    v->cid = g_random_int_range(1, INT32_MAX);
    g_snprintf(text, sizeof(text), "%08x", v->cid);
    ret = block_co_pwrite(v->b.node.file, v->cid_at, 8, text, 0);
    v->cid_is_new = ret >= 0;
    return ret;
}

static int vmdk_place(BlocksNode *b, uint64_t block, uint64_t *host)
{
    int ret = blocks_place_at_end(b, 512, host);

    return ret >= 0 && *host / 512 > UINT32_MAX ? -EFBIG : ret;
}

static int store_in(VmdkNode *v, uint64_t directory, uint64_t block, uint64_t host)
{
    BlocksNode *b = &v->b;
    uint64_t chunk = block / b->per_chunk, table;
    uint8_t raw[4];
    int ret = table_of(v, directory, chunk, &table);

    if (ret >= 0 && !table) {
        size_t bytes = ((size_t)b->per_chunk * 4 + 511) & ~(size_t)511;
        g_autofree uint8_t *empty = g_malloc0(bytes);

        table = (b->end + 511) & ~UINT64_C(511);
        if (table / 512 > UINT32_MAX) {
            return -EFBIG;
        }
        ret = block_co_pwrite(b->node.file, table, bytes, empty, 0);
        ret = ret < 0 ? ret : block_co_flush(b->node.file);
        if (ret >= 0) {
            b->end = table + bytes;
            blocks_put_le32(raw, (uint32_t)(table / 512));
            ret = block_co_pwrite(b->node.file, directory + chunk * 4, 4, raw, 0);
        }
    }
    if (ret >= 0) {
        blocks_put_le32(raw, (uint32_t)(host / 512));
        ret = block_co_pwrite(b->node.file, table + block % b->per_chunk * 4, 4, raw, 0);
    }
    return ret;
}

static int vmdk_store(BlocksNode *b, uint64_t block, uint64_t host)
{
    VmdkNode *v = (VmdkNode *)b;
    int ret = v->second ? store_in(v, v->second, block, host) : 0;

    return ret < 0 ? ret : store_in(v, v->directory, block, host);
}

static int vmdk_read_packed(BlocksNode *b, uint64_t block, uint64_t value, uint8_t *buf)
{
    VmdkNode *v = (VmdkNode *)b;
    uint64_t length = b->block_bytes * UINT64_C(2);
    uLongf bytes = b->block_bytes;
    g_autofree uint8_t *in = NULL;
    uint8_t marker[12];
    int ret = 0;

    if (v->flags & FLAG_MARKERS) {
        ret = blocks_read(b, value, marker, sizeof(marker));
        if (ret < 0 || !blocks_le32(marker + 8) || blocks_le32(marker + 8) > length) {
            return ret < 0 ? ret : -EINVAL;
        }
        length = blocks_le32(marker + 8);
        value += sizeof(marker);
    }
    in = g_try_malloc(length);
    ret = in ? blocks_read(b, value, in, length) : -ENOMEM;
    if (ret < 0) {
        return ret;
    }
    if (uncompress(buf, &bytes, in, length) != Z_OK) {
        return -EINVAL;
    }
    memset(buf + bytes, 0, b->block_bytes - bytes); /* the last grain may be short */
    return 0;
}

static const BlocksOps vmdk_ops = {
    .load = vmdk_load, .place = vmdk_place, .store = vmdk_store, .read_packed = vmdk_read_packed
};

/* ---- opening ---- */

/* The value behind "name=" at the beginning of a line; NULL: there is none. Quotes are taken off. Caller
 * frees. */
static char *value_of(const char *text, const char *name, const char **at)
{
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        size_t n = strlen(name);

        if (strncmp(line, name, n) == 0 && line[n] == '=') {
            const char *value = line + n + 1;
            bool quoted = *value == '"';

            value += quoted;
            if (at) {
                *at = value;
            }
            return g_strndup(value, strcspn(value, quoted ? "\"\r\n" : "\r\n"));
        }
    }
    return NULL;
}

static bool read_descriptor(VmdkNode *v, uint64_t sectors, GError **error)
{
    BlockNode *node = &v->b.node;
    uint64_t bytes = MIN(sectors * 512, MAX_DESC);
    g_autofree char *text = g_malloc0(bytes + 1), *cid = NULL, *parent = NULL;
    const char *at = NULL;
    int ret = blocks_read(&v->b, v->desc_offset, text, bytes);

    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the VMDK descriptor");
    }
    cid = value_of(text, "CID", &at);
    parent = value_of(text, "parentCID", NULL);
    v->create_type = value_of(text, "createType", NULL);
    v->cid = cid ? (uint32_t)g_ascii_strtoull(cid, NULL, 16) : 0;
    v->cid_at = cid && strlen(cid) == 8 ? v->desc_offset + (uint64_t)(at - text) : 0;
    v->parent_cid = parent ? (uint32_t)g_ascii_strtoull(parent, NULL, 16) : NO_PARENT;
    if (!v->create_type ||
        (strcmp(v->create_type, "monolithicSparse") != 0 && strcmp(v->create_type, "streamOptimized") != 0)) {
        return error_set(error, "Unsupported image type '%s'", v->create_type ? v->create_type : "");
    }
    if (v->parent_cid != NO_PARENT) {
        node->backing_file = value_of(text, "parentFileNameHint", NULL);
        node->backing_format = g_strdup("vmdk");
    }
    return true;
}

static bool check_header(VmdkNode *v, const uint8_t *h, GError **error)
{
    BlockNode *node = &v->b.node;
    uint64_t capacity = blocks_le64(h + 12), grain = blocks_le64(h + 20), tables;
    uint32_t per_table = blocks_le32(h + 44), version = blocks_le32(h + 4);

    if (version > 3) {
        return error_set(error, "Unsupported VMDK version %u", version);
    }
    if (!per_table || per_table > 512) {
        return error_set(error, per_table ? "L2 table size too big" : "L1 entry size is invalid");
    }
    if (!grain || grain > MAX_GRAIN / 512) {
        return error_set(error, "Invalid granularity, image may be corrupt");
    }
    if (capacity > BLOCK_MAX_SIZE / 512) {
        return error_set(error, "Invalid capacity, image may be corrupt");
    }
    tables = capacity / grain / per_table + 1;
    if (tables * 4 > MAX_DIRECTORY) {
        return error_set(error, "L1 size too big");
    }
    v->flags = blocks_le32(h + 8);
    if ((v->flags & FLAG_COMPRESSED) && (h[77] | h[78] << 8) != 1) {
        return error_set(error, "The VMDK image is compressed in an unknown way (%u)",
                         (unsigned)(h[77] | h[78] << 8));
    }
    if (blocks_le64(h + 56) > INT64_MAX / 1024 || blocks_le64(h + 48) > INT64_MAX / 1024 ||
        blocks_le64(h + 28) > INT64_MAX / 1024) {
        return error_set(error, "The VMDK image's tables lie behind the end of any file");
    }
    v->directory = blocks_le64(h + 56) * 512;
    v->second = v->flags & FLAG_TWICE ? blocks_le64(h + 48) * 512 : 0;
    if (v->directory < HEADER_BYTES || v->directory >= block_size(node->file) ||
        (v->second && (v->second < HEADER_BYTES || v->second >= block_size(node->file)))) {
        return error_set(error, "File truncated, or its directory at %" PRIu64 " is wrong", v->directory);
    }
    /* Versions 1 and 2 differ in nothing that matters here; version 3 may track changes, which we would not.
     */
    if (version == 3 || (v->flags & FLAG_COMPRESSED)) {
        return blocks_read_only(node, error);
    }
    return true;
}

/* An overlay holds for what its parent was when it was made. */
static bool check_parent(const VmdkNode *v, GError **error)
{
    const BlockChild *backing = v->b.node.backing;

    if (!backing || backing->node->driver != v->b.node.driver) {
        return true;
    }
    uint32_t cid = ((const VmdkNode *)backing->node)->cid;
    if (cid != v->parent_cid) {
        return error_set(
            error, "The parent '%s' was written since this VMDK overlay was made (its CID is %08x, not %08x)",
            backing->node->filename, cid, v->parent_cid);
    }
    return true;
}

static bool vmdk_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    VmdkNode *v = (VmdkNode *)node;
    uint8_t h[HEADER_BYTES];
    uint64_t size;
    int ret;

    if (!block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file, options, options->u_vmdk->file,
                          error)) {
        return false;
    }
    size = block_size(node->file);
    ret = blocks_read(&v->b, 0, h, sizeof(h));
    if (ret >= 0 && blocks_le32(h) == MAGIC && blocks_le64(h + 56) == AT_END) {
        /* Behind the data: a marker, the header again, the end-of-stream marker. */
        uint8_t desc[16];

        memcpy(desc, h + 28, sizeof(desc));
        ret = size < 1536 ? -EINVAL : blocks_read(&v->b, size - 1024, h, sizeof(h));
        memcpy(h + 28, desc, sizeof(desc));
    }
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read header from file '%s'",
                               node->file->node->filename);
    }
    if (blocks_le32(h) != MAGIC) {
        error_set(error, "Image not in VMDK format");
        error_append_hint(error,
                          "Of images in several files only the descriptor is text: they are not supported.");
        return false;
    }
    v->desc_offset = blocks_le64(h + 28) > INT64_MAX / 1024 ? 0 : blocks_le64(h + 28) * 512;
    if (!v->desc_offset) {
        return error_set(error, "The VMDK image has no descriptor in it, and is a part of another");
    }
    return check_header(v, h, error) && read_descriptor(v, MIN(blocks_le64(h + 36), MAX_DESC / 512), error) &&
           blocks_begin(&v->b, &vmdk_ops, blocks_le64(h + 12) * 512, (uint32_t)blocks_le64(h + 20) * 512,
                        blocks_le32(h + 44), HEADER_BYTES, error) &&
           block_backing_open(node, options, options->u_vmdk->backing, error) && check_parent(v, error);
}

static void vmdk_close(BlockNode *node)
{
    g_clear_pointer(&((VmdkNode *)node)->create_type, g_free);
    blocks_close(node);
}

static int vmdk_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           uint64_t from, unsigned flags)
{
    int ret = renew_cid((VmdkNode *)node);

    return ret < 0 ? ret : blocks_co_pwritev(node, offset, bytes, vec, from, flags);
}

static json_object *vmdk_specific_info(BlockNode *node)
{
    VmdkNode *v = (VmdkNode *)node;
    json_object *o = json_object_new_object(), *data = json_object_new_object(),
                *extents = json_object_new_array(), *extent = json_object_new_object();

    json_object_object_add(extent, "virtual-size", json_object_new_uint64(node->size));
    json_object_object_add(extent, "filename", json_object_new_string(node->file->node->filename));
    json_object_object_add(extent, "cluster-size", json_object_new_int64(v->b.block_bytes));
    if (v->flags & FLAG_COMPRESSED) {
        json_object_object_add(extent, "compressed", json_object_new_boolean(true));
    }
    json_object_object_add(extent, "format", json_object_new_string(""));
    json_object_array_add(extents, extent);
    json_object_object_add(data, "cid", json_object_new_int64(v->cid));
    json_object_object_add(data, "parent-cid", json_object_new_int64(v->parent_cid));
    json_object_object_add(data, "create-type", json_object_new_string(v->create_type));
    json_object_object_add(data, "extents", extents);
    json_object_object_add(o, "type", json_object_new_string("vmdk"));
    json_object_object_add(o, "data", data);
    return o;
}

/* ---- making ---- */

static const BlockOption vmdk_create_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, false },
    { "adapter_type", BLOCK_OPTION_STRING,
      "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX", NULL, false },
    { "hwversion", BLOCK_OPTION_STRING, "VMDK hardware version", "undefined", false },
    { "subformat", BLOCK_OPTION_STRING, "VMDK flat extent format: monolithicSparse (default)", NULL, false },
    { NULL, 0, NULL, NULL, false },
};

#define GRAIN     128u /* sectors */
#define PER_TABLE 512u
#define TABLE     4u /* sectors */
#define DESC_AT   1u
#define DESC_SIZE 20u

static char *descriptor_text(const char *filename, uint64_t sectors, json_object *options, GError **error)
{
    const char *adapter = blocks_option(options, "adapter_type"),
               *version = blocks_option(options, "hwversion");
    g_autofree char *name = g_path_get_basename(filename);
    unsigned heads = 16;
    uint32_t cid;

    adapter = adapter ? adapter : "ide";
    version = version && strcmp(version, "undefined") != 0 ? version : "4";
    if (strcmp(adapter, "lsilogic") == 0 || strcmp(adapter, "buslogic") == 0 ||
        strcmp(adapter, "legacyESX") == 0) {
        heads = 255;
    } else if (strcmp(adapter, "ide") != 0) {
        error_set(error, "Unknown adapter type: '%s'", adapter);
        return NULL;
    }
    if (strpbrk(version, "\"\r\n") || strpbrk(name, "\"\r\n")) {
        error_set(error, "A VMDK descriptor cannot hold quotes and ends of lines");
        return NULL;
    }
    cid = (uint32_t)g_random_int_range(1, INT32_MAX);
    return g_strdup_printf("# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=ffffffff\n"
                           "createType=\"monolithicSparse\"\n\n# Extent description\nRW %" PRIu64
                           " SPARSE \"%s\"\n\n"
                           "# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"%s\"\n"
                           "ddb.geometry.cylinders = \"%" PRIu64 "\"\nddb.geometry.heads = \"%u\"\n"
                           "ddb.geometry.sectors = \"63\"\nddb.adapterType = \"%s\"\n"
                           "ddb.toolsVersion = \"2147483647\"\n",
                           cid, sectors, name, version, MIN(sectors / (heads * 63), 65535), heads, adapter);
}

static void fill_directory(uint8_t *image, uint64_t at, uint64_t tables)
{
    uint64_t first = at + (tables * 4 + 511) / 512;

    for (uint64_t i = 0; i < tables; i++) {
        blocks_put_le32(image + at * 512 + i * 4, (uint32_t)(first + i * TABLE));
    }
}

static bool vmdk_co_create_named(BlockGraph *graph, const char *filename, json_object *options,
                                 GError **error)
{
    const char *subformat = blocks_option(options, "subformat");
    uint64_t sectors = (blocks_number(options, "size", 0) + 511) / 512, tables, one, second, directory, data;
    g_autofree char *text = NULL;
    g_autofree uint8_t *image = NULL;
    BlockChild *root;
    bool ok;
    int ret;

    if (subformat && strcmp(subformat, "monolithicSparse") != 0) {
        return error_set(error, "Only the subformat monolithicSparse can be made, not '%s'", subformat);
    }
    tables = (sectors + GRAIN * PER_TABLE - 1) / (GRAIN * PER_TABLE);
    one = (tables * 4 + 511) / 512 + tables * TABLE;
    second = DESC_AT + DESC_SIZE;
    directory = second + one;
    data = (directory + one + GRAIN - 1) / GRAIN * GRAIN;
    if (data + sectors > UINT32_MAX || data * 512 > MAX_DIRECTORY) {
        return error_set(error, "The size is too large for a VMDK image in one file (2 TiB)");
    }
    text = descriptor_text(filename, sectors, options, error);
    if (!text) {
        return false;
    }
    if (strlen(text) > DESC_SIZE * 512) {
        return error_set(error, "The VMDK descriptor does not fit: the image's name is too long");
    }
    image = g_try_malloc0(data * 512);
    if (!image) {
        return error_set(error, "No memory for the tables of a VMDK image of that size");
    }
    blocks_put_le32(image, MAGIC);
    blocks_put_le32(image + 4, 1);
    blocks_put_le32(image + 8, 3); /* "\n" is checked; two directories */
    blocks_put_le64(image + 12, sectors);
    blocks_put_le64(image + 20, GRAIN);
    blocks_put_le64(image + 28, DESC_AT);
    blocks_put_le64(image + 36, DESC_SIZE);
    blocks_put_le32(image + 44, PER_TABLE);
    blocks_put_le64(image + 48, second);
    blocks_put_le64(image + 56, directory);
    blocks_put_le64(image + 64, data);
    memcpy(image + 73, "\n \r\n", 4);
    memcpy(image + DESC_AT * 512, text, strlen(text));
    fill_directory(image, second, tables);
    fill_directory(image, directory, tables);
    root = blocks_create_file(graph, filename, options, error);
    if (!root) {
        return false;
    }
    ret = blk_pwrite(root, 0, data * 512, image, 0);
    ok = ret >= 0 || error_set_errno(error, -ret, "Could not write the VMDK header");
    block_root_free(root);
    return ok;
}

static const BlockDriver vmdk_driver = {
    .name = "vmdk",
    .instance_size = sizeof(VmdkNode),
    .any_alignment = true,
    .may_resize_file = true,
    .supports_backing = true,
    .probe = vmdk_probe,
    .open = vmdk_open,
    .close = vmdk_close,
    .get_info = blocks_get_info,
    .get_specific_info = vmdk_specific_info,
    .co_preadv = blocks_co_preadv,
    .co_pwritev = vmdk_co_pwritev,
    .co_block_status = blocks_co_block_status,
    .co_check = blocks_co_check,
    .co_create_named = vmdk_co_create_named,
    .create_options = vmdk_create_options,
};
BLOCK_DRIVER(vmdk_driver);
