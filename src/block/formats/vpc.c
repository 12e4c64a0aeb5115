/*
 * VHD, the disk images of Virtual PC and Hyper-V ("vpc"): fixed ones, which are the disk and a footer, and
 * dynamic ones: the footer's copy, a header, a table of places, blocks with a bitmap each, the footer. No
 * differencing images. After Microsoft's "Virtual Hard Disk Image Format Specification". Numbers are
 * big-endian. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"
#include "block/formats/crypto/cipher.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define FOOTER_BYTES  512u
#define HEADER_BYTES  1024u
#define CHUNK         1024u
#define NOT_THERE     0xffffffffu
#define EPOCH         946684800              /* 2000-01-01, in the Unix epoch */
#define MAX_SECTORS   (UINT64_C(0xff000000)) /* 2040 GiB */
#define MAX_CHS       (UINT64_C(65535) * 16 * 255)
#define BLOCK_DEFAULT (2u << 20)
enum { TYPE_FIXED = 2, TYPE_DYNAMIC = 3, TYPE_DIFFERENCING = 4 };

typedef struct VpcNode {
    BlocksNode b;
    uint8_t footer[FOOTER_BYTES];
    bool fixed;
    uint64_t table_offset;
    uint32_t bitmap_bytes;
} VpcNode;

static int vpc_probe(const uint8_t *head, size_t size, const char *filename)
{
    return size >= 8 && memcmp(head, "conectix", 8) == 0 ? 100 : 0;
}

/* The complement of the sum of all bytes but the checksum's own. */
static uint32_t checksum_of(const uint8_t *p, size_t bytes, size_t at)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < bytes; i++) {
        sum += i >= at && i < at + 4 ? 0 : p[i];
    }
    return ~sum;
}

/* ---- dynamic images ---- */

static int vpc_load(BlocksNode *b, uint64_t chunk, uint64_t *entries)
{
    VpcNode *v = (VpcNode *)b;
    g_autofree uint8_t *raw = g_malloc(CHUNK * 4);
    int ret = blocks_read(b, v->table_offset + chunk * CHUNK * 4, raw, CHUNK * 4);

    for (uint32_t i = 0; ret >= 0 && i < CHUNK && chunk * CHUNK + i < b->count; i++) {
        uint32_t at = blocks_be32(raw + (size_t)i * 4);

        entries[i] = at == NOT_THERE ? BLOCKS_ENTRY(BLOCKS_ZERO, 0)
                                     : BLOCKS_ENTRY(BLOCKS_DATA, (uint64_t)at * 512 + v->bitmap_bytes);
    }
    return ret;
}

/* Over the old footer: a new one behind the block, and the block's bitmap, which says that all of it counts.
 */
static int vpc_place(BlocksNode *b, uint64_t block, uint64_t *host)
{
    VpcNode *v = (VpcNode *)b;
    uint64_t at = b->end, end = at + v->bitmap_bytes + b->block_bytes;
    g_autofree uint8_t *bitmap = NULL;
    int ret;

    if (at / 512 >= NOT_THERE) {
        return -EFBIG;
    }
    ret = block_co_pwrite(b->node.file, end, FOOTER_BYTES, v->footer, 0);
    if (ret >= 0) {
        bitmap = g_malloc(v->bitmap_bytes);
        memset(bitmap, 0xff, v->bitmap_bytes);
        ret = block_co_pwrite(b->node.file, at, v->bitmap_bytes, bitmap, 0);
    }
    if (ret >= 0) {
        b->end = end;
        *host = at + v->bitmap_bytes;
    }
    return ret;
}

static int vpc_store(BlocksNode *b, uint64_t block, uint64_t host)
{
    VpcNode *v = (VpcNode *)b;
    uint8_t entry[4];

    blocks_put_be32(entry, (uint32_t)((host - v->bitmap_bytes) / 512));
    return block_co_pwrite(b->node.file, v->table_offset + block * 4, 4, entry, 0);
}

static const BlocksOps vpc_ops = { .load = vpc_load, .place = vpc_place, .store = vpc_store };

/* Where the last block in use ends. */
static bool find_end(VpcNode *v, uint32_t entries, GError **error)
{
    BlocksNode *b = &v->b;
    uint64_t end = (v->table_offset + (uint64_t)entries * 4 + 511) & ~UINT64_C(511);
    uint8_t raw[4096];

    for (uint32_t i = 0; i < entries; i += sizeof(raw) / 4) {
        int ret = blocks_read(b, v->table_offset + (uint64_t)i * 4, raw, sizeof(raw));

        if (ret < 0) {
            return error_set_errno(error, -ret, "Error reading pagetable");
        }
        for (uint32_t j = 0; j < sizeof(raw) / 4 && i + j < entries; j++) {
            uint32_t at = blocks_be32(raw + (size_t)j * 4);

            if (at != NOT_THERE) {
                end = MAX(end, (uint64_t)at * 512 + v->bitmap_bytes + b->block_bytes);
            }
        }
    }
    if (end > block_size(b->node.file)) {
        return error_set(error,
                         "The VHD image's table leads behind the end of the file: it has been truncated");
    }
    b->end = end;
    return true;
}

static bool open_dynamic(VpcNode *v, uint64_t sectors, GError **error)
{
    uint64_t at = blocks_be64(v->footer + 16);
    uint8_t h[HEADER_BYTES];
    uint32_t block, entries;
    int ret = at > INT64_MAX - HEADER_BYTES ? -EINVAL : blocks_read(&v->b, at, h, sizeof(h));

    if (ret < 0) {
        return error_set_errno(error, -ret, "Error reading dynamic VHD header");
    }
    if (memcmp(h, "cxsparse", 8) != 0) {
        return error_set(error, "Invalid header magic");
    }
    block = blocks_be32(h + 32);
    entries = blocks_be32(h + 28);
    v->table_offset = blocks_be64(h + 16);
    if (block < 512 || (block & (block - 1)) || block > 1u << 30) {
        return error_set(error, "Invalid block size %u", block);
    }
    if (entries > INT32_MAX / 4) {
        return error_set(error, "Max Table Entries too large (%u)", entries);
    }
    if ((uint64_t)entries * block < sectors * 512) {
        return error_set(error, "Page table too small");
    }
    if (v->table_offset > block_size(v->b.node.file) || v->table_offset < FOOTER_BYTES) {
        return error_set(error, "The VHD image's table lies outside of the file");
    }
    v->bitmap_bytes = (block / 512 / 8 + 511) & ~511u;
    return blocks_begin(&v->b, &vpc_ops, sectors * 512, block, CHUNK, FOOTER_BYTES, error) &&
           find_end(v, entries, error);
}

static bool sized_by_geometry(const uint8_t *footer)
{
    static const char *const exact[] = { "win ", "qem2", "d2v ", "CTXS", "tap" };

    for (size_t i = 0; i < G_N_ELEMENTS(exact); i++) {
        if (memcmp(footer + 28, exact[i], MIN(strlen(exact[i]) + 1, 4)) == 0) {
            return false;
        }
    }
    return true;
}

static bool vpc_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    VpcNode *v = (VpcNode *)node;
    uint64_t size, sectors;
    uint32_t type;
    int ret;

    if (!block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file, options, options->u_vpc->file,
                          error)) {
        return false;
    }
    size = block_size(node->file);
    if (size < FOOTER_BYTES) {
        return error_set(error, "File too small for a VHD header");
    }
    ret = blocks_read(&v->b, 0, v->footer, FOOTER_BYTES);
    if (ret >= 0 && memcmp(v->footer, "conectix", 8) != 0) {
        ret = blocks_read(&v->b, size - FOOTER_BYTES, v->footer, FOOTER_BYTES);
        v->fixed = true;
    }
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the VHD footer");
    }
    type = blocks_be32(v->footer + 60);
    if (memcmp(v->footer, "conectix", 8) != 0 || (v->fixed && type != TYPE_FIXED)) {
        return error_set(error, "invalid VPC image");
    }
    if (checksum_of(v->footer, FOOTER_BYTES, 64) != blocks_be32(v->footer + 64)) {
        return error_set(error, "Incorrect header checksum");
    }
    if (type == TYPE_DIFFERENCING) {
        return error_set(error, "Differencing VHD images are not supported");
    }
    sectors = (uint64_t)(v->footer[56] << 8 | v->footer[57]) * v->footer[58] * v->footer[59];
    if (!sized_by_geometry(v->footer) || sectors == MAX_CHS) {
        sectors = blocks_be64(v->footer + 48) / 512;
    }
    if (sectors > MAX_SECTORS) {
        return error_set(error, "The VHD image says that it is larger than 2040 GiB");
    }
    if (!v->fixed) {
        return open_dynamic(v, sectors, error);
    }
    if (sectors * 512 > size - FOOTER_BYTES) {
        return error_set(
            error, "The VHD image is cut off: %" G_GUINT64_FORMAT " bytes for a disk of %" G_GUINT64_FORMAT,
            size, sectors * 512);
    }
    node->size = sectors * 512;
    return true;
}

/* ---- requests: fixed images are their file ---- */

static int vpc_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                         unsigned flags)
{
    return ((VpcNode *)node)->fixed ? block_co_preadv(node->file, offset, bytes, vec, from, 0)
                                    : blocks_co_preadv(node, offset, bytes, vec, from, flags);
}

static int vpc_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          uint64_t from, unsigned flags)
{
    return ((VpcNode *)node)->fixed ? block_co_pwritev(node->file, offset, bytes, vec, from, 0)
                                    : blocks_co_pwritev(node, offset, bytes, vec, from, flags);
}

static int vpc_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                               BlockStatus *st)
{
    if (!((VpcNode *)node)->fixed) {
        return blocks_co_block_status(node, want_zero, offset, bytes, st);
    }
    *st = (BlockStatus){ .flags = BLOCK_STATUS_RAW, .bytes = bytes, .map = offset, .file = node->file->node };
    return 0;
}

static bool vpc_get_info(BlockNode *node, BlockInfo *info, GError **error)
{
    return ((VpcNode *)node)->fixed || blocks_get_info(node, info, error);
}

/* ---- making ---- */

/* A geometry as the specification makes it from a size, in sectors. */
static void geometry_of(uint64_t sectors, uint32_t chs[3])
{
    uint32_t per_track, heads, tracks;

    sectors = MIN(sectors, MAX_CHS);
    if (sectors >= UINT64_C(65535) * 16 * 63) {
        per_track = 255;
        heads = 16;
    } else {
        per_track = 17;
        tracks = (uint32_t)(sectors / per_track);
        heads = MAX((tracks + 1023) / 1024, 4);
        if (tracks >= heads * 1024 || heads > 16) {
            per_track = 31;
            heads = 16;
            tracks = (uint32_t)(sectors / per_track);
        }
        if (tracks >= heads * 1024) {
            per_track = 63;
            heads = 16;
        }
    }
    tracks = (uint32_t)(sectors / per_track);
    chs[0] = tracks / heads;
    chs[1] = heads;
    chs[2] = per_track;
}

/* The smallest geometry that holds the size; or, exact, the largest one, which says that the size is in the
 * footer. */
static bool choose_geometry(uint64_t size, bool exact, uint32_t chs[3], uint64_t *sectors, GError **error)
{
    uint64_t want = MIN(size / 512, MAX_CHS), have = 0;

    for (uint64_t i = 0; !exact && have < want; i++) {
        geometry_of(want + i, chs);
        have = (uint64_t)chs[0] * chs[1] * chs[2];
    }
    if (exact) {
        chs[0] = 65535;
        chs[1] = 16;
        chs[2] = 255;
        have = MAX_CHS;
    }
    *sectors = have == MAX_CHS ? size / 512 : have;
    return *sectors <= MAX_SECTORS || error_set(error, "Disk size is too large, max size is 2040 GiB");
}

static const BlockOption vpc_create_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, false },
    { "subformat", BLOCK_OPTION_STRING,
      "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ", NULL, false },
    { "force_size", BLOCK_OPTION_BOOL,
      "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based "
      "calculation",
      NULL, false },
    { NULL, 0, NULL, NULL, false },
};

static bool make_footer(uint8_t *f, uint64_t size, bool fixed, bool exact, uint64_t *sectors, GError **error)
{
    uint32_t chs[3] = { 0, 0, 0 };

    if (!choose_geometry(size, exact, chs, sectors, error)) {
        return false;
    }
    memcpy(f, "conectix", 8);
    blocks_put_be32(f + 8, 2);
    blocks_put_be32(f + 12, 0x00010000);
    blocks_put_be64(f + 16, fixed ? UINT64_MAX : FOOTER_BYTES);
    blocks_put_be32(f + 24, (uint32_t)(time(NULL) - EPOCH));
    memcpy(f + 28, exact ? "qem2" : "qemu", 4);
    blocks_put_be32(f + 32, 0x00050003);
    memcpy(f + 36, "Wi2k", 4);
    blocks_put_be64(f + 40, *sectors * 512);
    blocks_put_be64(f + 48, *sectors * 512);
    f[56] = (uint8_t)(chs[0] >> 8);
    f[57] = (uint8_t)chs[0];
    f[58] = (uint8_t)chs[1];
    f[59] = (uint8_t)chs[2];
    blocks_put_be32(f + 60, fixed ? TYPE_FIXED : TYPE_DYNAMIC);
    if (!crypto_random(f + 68, 16, error)) {
        return false;
    }
    blocks_put_be32(f + 64, checksum_of(f, FOOTER_BYTES, 64));
    return true;
}

static int write_dynamic(BlockChild *root, const uint8_t *footer, uint64_t sectors)
{
    uint32_t entries = (uint32_t)((sectors * 512 + BLOCK_DEFAULT - 1) / BLOCK_DEFAULT);
    uint64_t table = ((uint64_t)entries * 4 + 511) & ~UINT64_C(511),
             all = FOOTER_BYTES + HEADER_BYTES + table + FOOTER_BYTES;
    g_autofree uint8_t *buf = g_malloc0(all);
    uint8_t *h = buf + FOOTER_BYTES;

    memcpy(buf, footer, FOOTER_BYTES);
    memcpy(buf + all - FOOTER_BYTES, footer, FOOTER_BYTES);
    memcpy(h, "cxsparse", 8);
    blocks_put_be64(h + 8, UINT64_MAX);
    blocks_put_be64(h + 16, FOOTER_BYTES + HEADER_BYTES);
    blocks_put_be32(h + 24, 0x00010000);
    blocks_put_be32(h + 28, entries);
    blocks_put_be32(h + 32, BLOCK_DEFAULT);
    blocks_put_be32(h + 36, checksum_of(h, HEADER_BYTES, 36));
    memset(h + HEADER_BYTES, 0xff, table);
    return blk_pwrite(root, 0, all, buf, 0);
}

static bool vpc_co_create_named(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    const char *subformat = blocks_option(options, "subformat");
    bool fixed = subformat && strcmp(subformat, "fixed") == 0, ok = true;
    uint64_t size = (blocks_number(options, "size", 0) + 511) & ~UINT64_C(511), sectors;
    uint8_t footer[FOOTER_BYTES] = { 0 };
    BlockChild *root;
    int ret;

    if (subformat && !fixed && strcmp(subformat, "dynamic") != 0) {
        return error_set(error, "Parameter 'subformat' does not accept value '%s'", subformat);
    }
    if (!make_footer(footer, size, fixed, blocks_number(options, "force_size", 0), &sectors, error)) {
        return false;
    }
    root = blocks_create_file(graph, filename, options, error);
    if (!root) {
        return false;
    }
    if (fixed) {
        ok = blk_truncate(root, sectors * 512 + FOOTER_BYTES, false, QAPI_PREALLOC_MODE_OFF, 0, error);
        ret = ok ? blk_pwrite(root, sectors * 512, FOOTER_BYTES, footer, 0) : 0;
    } else {
        ret = write_dynamic(root, footer, sectors);
    }
    ok = ok && (ret >= 0 || error_set_errno(error, -ret, "Could not write the VHD image"));
    block_root_free(root);
    return ok;
}

static const BlockDriver vpc_driver = {
    .name = "vpc",
    .instance_size = sizeof(VpcNode),
    .any_alignment = true,
    .may_resize_file = true,
    .probe = vpc_probe,
    .open = vpc_open,
    .close = blocks_close,
    .get_info = vpc_get_info,
    .co_preadv = vpc_co_preadv,
    .co_pwritev = vpc_co_pwritev,
    .co_block_status = vpc_co_block_status,
    .co_create = blocks_co_create,
    .co_create_named = vpc_co_create_named,
    .create_options = vpc_create_options,
};
BLOCK_DRIVER(vpc_driver);
