/*
 * VMDK, VMware's disk images. In one file: "monolithicSparse" (read, write, create) and "streamOptimized"
 * (read): a header, a descriptor in text, a directory of grain tables (most have it twice), tables of 512
 * places, grains. In several: a descriptor alone, whose extents are files beside it, flat ("monolithicFlat",
 * which can be made, and "twoGbMaxExtentFlat") or sparse ones ("twoGbMaxExtentSparse"), each of which is a
 * node of its own. A descriptor cannot name files in other directories: it may come from anybody. After
 * VMware's "Virtual Disk Format 5.0". Numbers are little-endian and count in sectors.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
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

#define MAX_EXTENTS 4096u

/* A part of a disk of several files. child NULL: zeroes. */
typedef struct Extent {
    uint64_t start, bytes, offset; /* offset: in a flat child */
    BlockChild *child;
} Extent;

typedef struct VmdkNode {
    BlocksNode b;
    GArray *extents; /* of Extent, in their order; NULL: all is in one file */
    uint32_t flags;
    uint64_t directory, second; /* bytes; second: 0 where there is none */
    uint64_t desc_offset, cid_at;
    uint32_t cid, parent_cid;
    char *create_type;
    bool cid_is_new;
} VmdkNode;

static int vmdk_probe(const uint8_t *head, size_t size, const char *filename)
{
    static const char text[] = "# Disk DescriptorFile";

    return size >= 8 && (blocks_le32(head) == MAGIC ||
                         (size >= sizeof(text) && memcmp(head, text, sizeof(text) - 1) == 0))
               ? 100
               : 0;
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
    int ret = v->desc_offset ? blocks_read(&v->b, v->desc_offset, text, bytes) : 0;

    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the VMDK descriptor");
    }
    if (!*text) { /* an extent of another image */
        v->parent_cid = NO_PARENT;
        v->create_type = g_strdup("monolithicSparse");
        return true;
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

/* ---- images of several files ---- */

static bool add_extent(VmdkNode *v, const char *line, const QapiBlockdevOptions *options, GError **error)
{
    BlockNode *node = &v->b.node, *file;
    Extent e = { .start = node->size };
    char access[16], kind[16], name[512] = "";
    uint64_t sectors, offset = 0;
    g_autofree char *path = NULL, *child_name = NULL;
    json_object *o;
    int n =
        sscanf(line, "%15s %" SCNu64 " %15s \"%511[^\"]\" %" SCNu64, access, &sectors, kind, name, &offset);
    bool flat = n >= 4 && (strcmp(kind, "FLAT") == 0 || strcmp(kind, "VMFS") == 0);

    if (n < 3 || (n < 4 && strcmp(kind, "ZERO") != 0) || sectors > BLOCK_MAX_SIZE / 512 - node->size / 512 ||
        offset > BLOCK_MAX_SIZE / 512 - sectors) {
        return error_set(error, "Invalid extent line: %.80s", line);
    }
    if (v->extents->len >= MAX_EXTENTS) {
        return error_set(error, "%s: a VMDK image has at most %u extents", node->what, MAX_EXTENTS);
    }
    if (strcmp(access, "RW") != 0 && !node->read_only) {
        return error_set(error, "%s: the VMDK extent '%s' is %s: open the image with read-only=on",
                         node->what, name, access);
    }
    e.bytes = sectors * 512;
    e.offset = offset * 512;
    if (strcmp(kind, "ZERO") != 0) {
        if (!flat && strcmp(kind, "SPARSE") != 0) {
            return error_set(error, "Unsupported extent type '%s'", kind);
        }
        if (strchr(name, '/') || block_name_has_protocol(name)) {
            return error_set(error, "%s: the VMDK extent '%s' is not a file beside its descriptor",
                             node->what, name);
        }
        path = block_combine_path(node->file->node->filename, name);
        o = json_object_new_object();
        json_object_object_add(o, "driver", json_object_new_string(flat ? "raw" : "vmdk"));
        json_object_object_add(o, "read-only", json_object_new_string(node->read_only ? "on" : "off"));
        json_object_object_add(o, "discard", json_object_new_string("unmap"));
        if (!flat) {
            json_object_object_add(o, "backing", NULL);
        }
        file = block_node_open_image(node->graph, path, o,
                                     (node->open_flags & BLOCK_OPEN_INHERITED) | BLOCK_OPEN_EXTENT, error);
        json_object_put(o);
        if (!file) {
            return false;
        }
        child_name = g_strdup_printf("extents.%u", v->extents->len);
        block_node_ref(file);
        e.child = block_child_attach(node, file, child_name, BLOCK_ROLE_DATA, NULL, error);
        block_node_unref(file);
        if (!e.child) {
            return false;
        }
        if (block_size(e.child) < e.offset + e.bytes) {
            return error_set(error, "%s: the VMDK extent '%s' has %" PRIu64 " bytes, not %" PRIu64,
                             node->what, name, block_size(e.child), e.offset + e.bytes);
        }
    }
    g_array_append_val(v->extents, e);
    node->size += e.bytes;
    return true;
}

static bool open_extents(VmdkNode *v, const QapiBlockdevOptions *options, GError **error)
{
    BlockNode *node = &v->b.node;
    uint64_t size = block_size(node->file);
    g_autofree char *text = NULL, *cid = NULL, *parent = NULL;
    g_auto(GStrv) lines = NULL;
    int ret;

    if (size > MAX_DESC) {
        return error_set(error, "%s: a VMDK descriptor of %" PRIu64 " bytes is too long", node->what, size);
    }
    text = g_malloc0(size + 1);
    ret = blocks_read(&v->b, 0, text, size);
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the VMDK descriptor");
    }
    v->extents = g_array_new(FALSE, FALSE, sizeof(Extent));
    v->create_type = value_of(text, "createType", NULL);
    cid = value_of(text, "CID", NULL);
    parent = value_of(text, "parentCID", NULL);
    v->cid = cid ? (uint32_t)g_ascii_strtoull(cid, NULL, 16) : 0;
    v->parent_cid = parent ? (uint32_t)g_ascii_strtoull(parent, NULL, 16) : NO_PARENT;
    if (!v->create_type ||
        (strcmp(v->create_type, "monolithicFlat") != 0 && strcmp(v->create_type, "twoGbMaxExtentFlat") != 0 &&
         strcmp(v->create_type, "twoGbMaxExtentSparse") != 0 && strcmp(v->create_type, "vmfs") != 0)) {
        return error_set(error, "Unsupported image type '%s'", v->create_type ? v->create_type : "");
    }
    if (v->parent_cid != NO_PARENT) {
        return error_set(error, "%s: VMDK overlays of several files are not supported", node->what);
    }
    lines = g_strsplit_set(text, "\r\n", -1);
    for (size_t i = 0; lines[i]; i++) {
        if ((g_str_has_prefix(lines[i], "RW ") || g_str_has_prefix(lines[i], "RDONLY ") ||
             g_str_has_prefix(lines[i], "NOACCESS ")) &&
            !add_extent(v, lines[i], options, error)) {
            return false;
        }
    }
    return v->extents->len || error_set(error, "%s: the VMDK descriptor names no extents", node->what);
}

/* The extent at offset; *bytes is cut to it. */
static const Extent *extent_at(const VmdkNode *v, uint64_t offset, uint64_t *bytes)
{
    guint low = 0, high = v->extents->len;
    const Extent *e;

    while (low + 1 < high) {
        guint middle = (low + high) / 2;

        if (g_array_index(v->extents, Extent, middle).start <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    e = &g_array_index(v->extents, Extent, low);
    *bytes = MIN(*bytes, e->start + e->bytes - offset);
    return e;
}

static int extents_transfer(VmdkNode *v, bool write, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                            uint64_t from, unsigned flags)
{
    while (bytes) {
        uint64_t n = bytes;
        const Extent *e = extent_at(v, offset, &n);
        uint64_t at = offset - e->start + e->offset;
        int ret = 0;

        if (!e->child) {
            if (write) {
                return -EACCES;
            }
            block_vec_zero(vec, from, n);
        } else {
            ret = write ? block_co_pwritev(e->child, at, n, vec, from, flags)
                        : block_co_preadv(e->child, at, n, vec, from, flags);
        }
        if (ret < 0) {
            return ret;
        }
        offset += n;
        from += n;
        bytes -= n;
    }
    return 0;
}

static int vmdk_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          uint64_t from, unsigned flags)
{
    VmdkNode *v = (VmdkNode *)node;

    return v->extents ? extents_transfer(v, false, offset, bytes, vec, from, flags)
                      : blocks_co_preadv(node, offset, bytes, vec, from, flags);
}

static int vmdk_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                                BlockStatus *st)
{
    VmdkNode *v = (VmdkNode *)node;
    const Extent *e;

    if (!v->extents) {
        return blocks_co_block_status(node, want_zero, offset, bytes, st);
    }
    e = extent_at(v, offset, &bytes);
    *st = e->child ? (BlockStatus){ .flags = BLOCK_STATUS_RAW,
                                    .bytes = bytes,
                                    .map = offset - e->start + e->offset,
                                    .file = e->child->node }
                   : (BlockStatus){ .flags = BLOCK_STATUS_ZERO, .bytes = bytes };
    return 0;
}

static bool vmdk_get_info(BlockNode *node, BlockInfo *info, GError **error)
{
    return ((VmdkNode *)node)->extents || blocks_get_info(node, info, error);
}

static bool vmdk_co_check(BlockNode *node, BlockCheckResult *result, unsigned fix, GError **error)
{
    VmdkNode *v = (VmdkNode *)node;

    if (!v->extents) {
        return blocks_co_check(node, result, fix, error);
    }
    for (guint i = 0; i < v->extents->len; i++) {
        const Extent *e = &g_array_index(v->extents, Extent, i);
        BlockCheckResult one = { 0 };

        if (!e->child || !e->child->node->driver->co_check) {
            continue;
        }
        if (!e->child->node->driver->co_check(e->child->node, &one, fix, error)) {
            return false;
        }
        result->corruptions += one.corruptions;
        result->check_errors += one.check_errors;
        result->total_clusters += one.total_clusters;
        result->allocated_clusters += one.allocated_clusters;
        result->fragmented_clusters += one.fragmented_clusters;
        result->compressed_clusters += one.compressed_clusters;
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
    if (vmdk_probe(h, sizeof(h), NULL) && blocks_le32(h) != MAGIC) {
        return node->open_flags & BLOCK_OPEN_EXTENT
                   ? error_set(error, "The VMDK extent '%s' is a descriptor itself",
                               node->file->node->filename)
                   : open_extents(v, options, error);
    }
    if (blocks_le32(h) != MAGIC) {
        return error_set(error, "Image not in VMDK format");
    }
    v->desc_offset = blocks_le64(h + 28) > INT64_MAX / 1024 ? 0 : blocks_le64(h + 28) * 512;
    return check_header(v, h, error) && read_descriptor(v, MIN(blocks_le64(h + 36), MAX_DESC / 512), error) &&
           blocks_begin(&v->b, &vmdk_ops, blocks_le64(h + 12) * 512, (uint32_t)blocks_le64(h + 20) * 512,
                        blocks_le32(h + 44), HEADER_BYTES, error) &&
           block_backing_open(node, options, options->u_vmdk->backing, error) && check_parent(v, error);
}

static void vmdk_close(BlockNode *node)
{
    VmdkNode *v = (VmdkNode *)node;

    g_clear_pointer(&v->create_type, g_free);
    g_clear_pointer(&v->extents, g_array_unref);
    blocks_close(node);
}

static int vmdk_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           uint64_t from, unsigned flags)
{
    VmdkNode *v = (VmdkNode *)node;
    int ret = v->extents ? 0 : renew_cid(v);

    if (v->extents) {
        return extents_transfer(v, true, offset, bytes, vec, from, flags);
    }
    return ret < 0 ? ret : blocks_co_pwritev(node, offset, bytes, vec, from, flags);
}

static json_object *vmdk_specific_info(BlockNode *node)
{
    VmdkNode *v = (VmdkNode *)node;
    json_object *o = json_object_new_object(), *data = json_object_new_object(),
                *extents = json_object_new_array(), *extent;

    for (guint i = 0; v->extents && i < v->extents->len; i++) {
        const Extent *e = &g_array_index(v->extents, Extent, i);
        bool flat = e->child && !e->child->node->backing && strcmp(e->child->node->driver->name, "raw") == 0;

        extent = json_object_new_object();
        json_object_object_add(extent, "virtual-size", json_object_new_uint64(e->bytes));
        json_object_object_add(extent, "filename",
                               json_object_new_string(e->child ? e->child->node->filename : ""));
        json_object_object_add(extent, "format",
                               json_object_new_string(flat       ? "FLAT"
                                                      : e->child ? "SPARSE"
                                                                 : "ZERO"));
        json_object_array_add(extents, extent);
    }
    extent = v->extents ? NULL : json_object_new_object();
    if (!extent) {
        goto rest;
    }
    json_object_object_add(extent, "virtual-size", json_object_new_uint64(node->size));
    json_object_object_add(extent, "filename", json_object_new_string(node->file->node->filename));
    json_object_object_add(extent, "cluster-size", json_object_new_int64(v->b.block_bytes));
    if (v->flags & FLAG_COMPRESSED) {
        json_object_object_add(extent, "compressed", json_object_new_boolean(true));
    }
    json_object_object_add(extent, "format", json_object_new_string(""));
    json_object_array_add(extents, extent);
rest:
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
    { "subformat", BLOCK_OPTION_STRING,
      "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat} ", NULL, false },
    { "backing_file", BLOCK_OPTION_STRING, "File name of a base image", NULL, false },
    { "backing_fmt", BLOCK_OPTION_STRING, "Must be 'vmdk' if present", NULL, false },
    { NULL, 0, NULL, NULL, false },
};

#define GRAIN     128u /* sectors */
#define PER_TABLE 512u
#define TABLE     4u /* sectors */
#define DESC_AT   1u
#define DESC_SIZE 20u

/* What an overlay says of its parent: two lines; NULL with an error. */
static char *parent_lines(BlockGraph *graph, const char *filename, const char *backing, const char *format,
                          GError **error)
{
    g_autofree char *full = NULL;
    json_object *o;
    BlockNode *node;
    uint32_t cid;

    if (!backing) {
        return g_strdup("parentCID=ffffffff\n");
    }
    if (strpbrk(backing, "\"\r\n")) {
        error_set(error, "A VMDK descriptor cannot hold quotes and ends of lines");
        return NULL;
    }
    if (format && strcmp(format, "vmdk") != 0) {
        error_set(error, "backing_file must be a vmdk image");
        return NULL;
    }
    full = block_combine_path(filename, backing);
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("vmdk"));
    json_object_object_add(o, "read-only", json_object_new_string("on"));
    node = block_node_open_image(graph, full, o, BLOCK_OPEN_NO_BACKING, error);
    json_object_put(o);
    if (!node) {
        return NULL;
    }
    cid = ((VmdkNode *)node)->cid;
    block_node_ref(node);
    block_node_unref(node);
    return g_strdup_printf("parentCID=%08x\nparentFileNameHint=\"%s\"\n", cid, backing);
}

static char *descriptor_text(BlockGraph *graph, const char *filename, const char *extent, bool flat,
                             uint64_t sectors, json_object *options, GError **error)
{
    const char *adapter = blocks_option(options, "adapter_type"),
               *version = blocks_option(options, "hwversion");
    g_autofree char *name = g_path_get_basename(extent), *parent = NULL;
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
    parent = parent_lines(graph, filename, blocks_option(options, "backing_file"),
                          blocks_option(options, "backing_fmt"), error);
    if (!parent) {
        return NULL;
    }
    cid = (uint32_t)g_random_int_range(1, INT32_MAX);
    return g_strdup_printf("# Disk DescriptorFile\nversion=1\nCID=%08x\n%s"
                           "createType=\"%s\"\n\n# Extent description\nRW %" PRIu64 " %s \"%s\"%s\n\n"
                           "# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"%s\"\n"
                           "ddb.geometry.cylinders = \"%" PRIu64 "\"\nddb.geometry.heads = \"%u\"\n"
                           "ddb.geometry.sectors = \"63\"\nddb.adapterType = \"%s\"\n"
                           "ddb.toolsVersion = \"2147483647\"\n",
                           cid, parent, flat ? "monolithicFlat" : "monolithicSparse", sectors,
                           flat ? "FLAT" : "SPARSE", name, flat ? " 0" : "", version,
                           MIN(sectors / (heads * 63), 65535), heads, adapter);
}

static void fill_directory(uint8_t *image, uint64_t at, uint64_t tables)
{
    uint64_t first = at + (tables * 4 + 511) / 512;

    for (uint64_t i = 0; i < tables; i++) {
        blocks_put_le32(image + at * 512 + i * 4, (uint32_t)(first + i * TABLE));
    }
}

/* The file for a flat image's data: beside the descriptor, or the node that stands for it. NULL on error. */
static BlockChild *flat_extent(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    g_autofree char *stem = g_strdup(filename), *name = NULL;
    json_object *extents, *o;
    BlockChild *root;

    if (json_object_object_get_ex(options, BLOCKS_EXTENTS, &extents)) {
        if (json_object_array_length(extents) != 1) {
            error_set(error, "A monolithicFlat image has one extent, not %zu",
                      json_object_array_length(extents));
            return NULL;
        }
        o = json_object_new_object();
        json_object_object_add(o, BLOCKS_NODE, json_object_get(json_object_array_get_idx(extents, 0)));
        root = blocks_create_file(graph, NULL, o, error);
        json_object_put(o);
        return root;
    }
    if (g_str_has_suffix(stem, ".vmdk")) {
        stem[strlen(stem) - strlen(".vmdk")] = '\0';
    }
    name = g_strconcat(stem, "-flat.vmdk", NULL);
    return blocks_create_file(graph, name, options, error);
}

/* The descriptor, and the data beside it. */
static bool create_flat(BlockGraph *graph, const char *filename, uint64_t sectors, json_object *options,
                        GError **error)
{
    g_autofree char *text = NULL;
    BlockChild *root;
    bool ok;
    int ret;

    if (blocks_option(options, "backing_file")) {
        return error_set(error, "Flat image can't have backing file");
    }
    root = flat_extent(graph, filename, options, error);
    if (!root) {
        return false;
    }
    text = descriptor_text(graph, filename, root->node->filename, true, sectors, options, error);
    ok = text && blk_truncate(root, sectors * 512, false, QAPI_PREALLOC_MODE_OFF, 0, error);
    block_root_free(root);
    root = ok ? blocks_create_file(graph, filename, options, error) : NULL;
    if (!root) {
        return false;
    }
    ret = blk_pwrite(root, 0, strlen(text), text, 0);
    block_root_free(root);
    return ret >= 0 || error_set_errno(error, -ret, "Could not write the VMDK descriptor");
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

    if (subformat && strcmp(subformat, "monolithicFlat") == 0) {
        return create_flat(graph, filename, sectors, options, error);
    }
    if (subformat && strcmp(subformat, "monolithicSparse") != 0) {
        return error_set(error,
                         "Only the subformats monolithicSparse and monolithicFlat can be made, not '%s'",
                         subformat);
    }
    tables = (sectors + GRAIN * PER_TABLE - 1) / (GRAIN * PER_TABLE);
    one = (tables * 4 + 511) / 512 + tables * TABLE;
    second = DESC_AT + DESC_SIZE;
    directory = second + one;
    data = (directory + one + GRAIN - 1) / GRAIN * GRAIN;
    if (data + sectors > UINT32_MAX || data * 512 > MAX_DIRECTORY) {
        return error_set(error, "The size is too large for a VMDK image in one file (2 TiB)");
    }
    text = descriptor_text(graph, filename, filename, false, sectors, options, error);
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
    .get_info = vmdk_get_info,
    .get_specific_info = vmdk_specific_info,
    .co_preadv = vmdk_co_preadv,
    .co_pwritev = vmdk_co_pwritev,
    .co_block_status = vmdk_co_block_status,
    .co_check = vmdk_co_check,
    .co_create = blocks_co_create,
    .co_create_named = vmdk_co_create_named,
    .create_options = vmdk_create_options,
};
BLOCK_DRIVER(vmdk_driver);
