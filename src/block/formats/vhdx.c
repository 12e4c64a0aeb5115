/*
 * VHDX, Hyper-V's disk images: dynamic and fixed ones, no differencing images. After Microsoft's [MS-VHDX].
 *
 * Invariants:
 *  1. Of the two headers the valid one with the higher sequence number counts; only the other one is written.
 *  2. An entry of the block table changes in this order: the data is in its place, a log entry with the new
 * sector is stable, the sector is written, it is stable. So each log entry is a sequence of its own: all
 * before it are in place.
 *  3. A log that holds something is replayed before anything of the image is looked at; an image that is
 * opened read-only with such a log is refused. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"
#include "block/formats/crypto/cipher.h"

#include <errno.h>
#include <string.h>

#define MIB_BYTES     (UINT64_C(1) << 20)
#define SECTOR_BYTES  4096u /* of headers and of the log */
#define TABLE_BYTES   65536u
#define MAX_REGIONS   2047u
#define MAX_LOG_BYTES (256u << 20)
#define MAX_DISK      (UINT64_C(64) << 40)
#define HEADER_1      65536u
#define HEADER_2      131072u
#define REGIONS_1     196608u
#define REGIONS_2     262144u
#define LOG_DATA      (SECTOR_BYTES - 12)

enum { NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, UNMAPPED_OLD = 5, FULLY_PRESENT, PARTIALLY_PRESENT };

/* GUIDs as they lie in the file. */
static const uint8_t region_bat[16] = { 0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                        0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 };
static const uint8_t region_metadata[16] = { 0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                             0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e };
static const uint8_t item_parameters[16] = { 0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                             0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b };
static const uint8_t item_size[16] = { 0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
                                       0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8 };
static const uint8_t item_page83[16] = { 0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45,
                                         0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46 };
static const uint8_t item_logical[16] = { 0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
                                          0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f };
static const uint8_t item_physical[16] = { 0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
                                           0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56 };

typedef struct Region {
    uint64_t offset;
    uint32_t bytes;
} Region;

typedef struct VhdxNode {
    BlocksNode b;
    uint8_t header[SECTOR_BYTES]; /* the current one */
    bool second;                  /* it is the second */
    bool writing;                 /* the header says that the log may hold something */
    Region log, bat, metadata;
    uint64_t log_sequence;
    uint32_t log_at;
    bool replayed;
    bool log_needed; /* a write of what the log holds failed: it must stay */
    uint32_t logical_sector;
} VhdxNode;

/* ---- checksums ---- */

/* CRC-32C (polynomial 0x1edc6f41, reflected). */
static uint32_t crc32c(uint32_t crc, const uint8_t *data, size_t size)
{
    static uint32_t table[256];
    static gsize ready;

    if (g_once_init_enter(&ready)) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;

            for (int k = 0; k < 8; k++) {
                c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
            }
            table[i] = c;
        }
        g_once_init_leave(&ready, 1);
    }
    while (size--) {
        crc = table[(crc ^ *data++) & 0xff] ^ crc >> 8;
    }
    return crc;
}

/* Of a structure whose checksum is its second word, which counts as zero. */
static uint32_t checksum_of(const uint8_t *p, size_t size)
{
    static const uint8_t none[4];
    uint32_t crc = crc32c(0xffffffffu, p, 4);

    crc = crc32c(crc, none, 4);
    return ~crc32c(crc, p + 8, size - 8);
}

static bool checksum_ok(const uint8_t *p, size_t size)
{
    return blocks_le32(p + 4) == checksum_of(p, size);
}

static uint16_t le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* ---- headers ---- */

static bool header_ok(const uint8_t *h)
{
    return memcmp(h, "head", 4) == 0 && checksum_ok(h, SECTOR_BYTES) && le16(h + 66) == 1;
}

static bool read_headers(VhdxNode *v, GError **error)
{
    g_autofree uint8_t *h = g_malloc(2 * SECTOR_BYTES);
    bool first, second;
    int ret = blocks_read(&v->b, HEADER_1, h, SECTOR_BYTES);

    ret = ret < 0 ? ret : blocks_read(&v->b, HEADER_2, h + SECTOR_BYTES, SECTOR_BYTES);
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the VHDX headers");
    }
    first = header_ok(h);
    second = header_ok(h + SECTOR_BYTES);
    if (!first && !second) {
        return error_set(error, "No valid VHDX header found");
    }
    v->second = second && (!first || blocks_le64(h + SECTOR_BYTES + 8) > blocks_le64(h + 8));
    memcpy(v->header, h + (v->second ? SECTOR_BYTES : 0), SECTOR_BYTES);
    return true;
}

/* The header with what changed, into the place of the older one. */
static int write_header(VhdxNode *v, BlockChild *file)
{
    uint8_t *h = v->header;
    int ret;

    blocks_put_le64(h + 8, blocks_le64(h + 8) + 1);
    blocks_put_le32(h + 4, checksum_of(h, SECTOR_BYTES));
    v->second = !v->second;
    ret = blk_pwrite(file, v->second ? HEADER_2 : HEADER_1, SECTOR_BYTES, h, 0);
    return ret < 0 ? ret : blk_flush(file);
}

/* Twice, so that both copies say the same. */
static int set_log_guid(VhdxNode *v, bool in_use)
{
    static const uint8_t none[16];
    GError *error = NULL;
    int ret;

    if (in_use) {
        if (!crypto_random(v->header + 16, 16, &error) || !crypto_random(v->header + 32, 16, &error) ||
            !crypto_random(v->header + 48, 16, &error)) {
            g_error_free(error);
            return -EIO;
        }
    } else {
        memcpy(v->header + 48, none, 16);
    }
    ret = write_header(v, v->b.node.file);
    return ret < 0 ? ret : write_header(v, v->b.node.file);
}

/* ---- the log ---- */

static void log_read(const VhdxNode *v, const uint8_t *log, uint64_t at, uint8_t *buf, uint64_t bytes)
{
    at %= v->log.bytes;
    uint64_t first = MIN(bytes, v->log.bytes - at);

    memcpy(buf, log + at, first);
    memcpy(buf + first, log, bytes - first);
}

/* The whole entry at that place, if one is: the caller's. Its length is in it. */
static uint8_t *log_entry(const VhdxNode *v, const uint8_t *log, uint64_t at)
{
    uint8_t head[64], *entry;
    uint32_t bytes, count, first, data = 0;
    uint64_t sequence;

    log_read(v, log, at, head, sizeof(head));
    bytes = blocks_le32(head + 8);
    count = blocks_le32(head + 24);
    sequence = blocks_le64(head + 16);
    if (memcmp(head, "loge", 4) != 0 || memcmp(head + 32, v->header + 48, 16) != 0 || !sequence || !bytes ||
        bytes % SECTOR_BYTES || bytes > v->log.bytes || blocks_le32(head + 12) % SECTOR_BYTES ||
        blocks_le32(head + 12) >= v->log.bytes || count > (bytes - 64) / 32) {
        return NULL;
    }
    entry = g_try_malloc(bytes);
    if (!entry) {
        return NULL;
    }
    log_read(v, log, at, entry, bytes);
    first = (64 + 32 * count + SECTOR_BYTES - 1) / SECTOR_BYTES;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *d = entry + 64 + (size_t)i * 32;
        bool zero = memcmp(d, "zero", 4) == 0;

        if ((!zero && memcmp(d, "desc", 4) != 0) || blocks_le64(d + 24) != sequence ||
            blocks_le64(d + 16) % SECTOR_BYTES || blocks_le64(d + 16) > BLOCK_MAX_SIZE / 2 ||
            (zero && (blocks_le64(d + 8) % SECTOR_BYTES || blocks_le64(d + 8) > BLOCK_MAX_SIZE / 2))) {
            goto bad;
        }
        data += !zero;
    }
    if ((uint64_t)(first + data) * SECTOR_BYTES != bytes || !checksum_ok(entry, bytes)) {
        goto bad;
    }
    for (uint32_t i = 0; i < data; i++) {
        const uint8_t *s = entry + (size_t)(first + i) * SECTOR_BYTES;

        if (memcmp(s, "data", 4) != 0 || blocks_le32(s + 4) != sequence >> 32 ||
            blocks_le32(s + SECTOR_BYTES - 4) != (uint32_t)sequence) {
            goto bad;
        }
    }
    return entry;
bad:
    g_free(entry);
    return NULL;
}

typedef struct Found {
    uint64_t sequence;
    uint32_t at, bytes, tail;
} Found;

static int by_sequence(const void *a, const void *b)
{
    const Found *x = a, *y = b;

    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

/* The newest run of entries that follow on each other and reach back to the tail that the last one names. */
static bool find_active(VhdxNode *v, const uint8_t *log, GArray *found, guint *first, guint *last)
{
    uint32_t size = v->log.bytes;

    if (size == 0) {
        return false;
    }
    for (uint32_t at = 0; at < size; at += SECTOR_BYTES) {
        g_autofree uint8_t *entry = log_entry(v, log, at);

        if (entry) {
            Found f = { blocks_le64(entry + 16), at, blocks_le32(entry + 8), blocks_le32(entry + 12) };

            g_array_append_val(found, f);
        }
    }
    g_array_sort(found, by_sequence);
    for (guint head = found->len; head-- > 0;) {
        const Found *h = &g_array_index(found, Found, head);

        for (guint i = head;; i--) {
            const Found *f = &g_array_index(found, Found, i), *before;

            if (f->at == h->tail) {
                *first = i;
                *last = head;
                return true;
            }
            if (i == 0) {
                break;
            }
            before = &g_array_index(found, Found, i - 1);
            if (before->sequence + 1 != f->sequence || (before->at + before->bytes) % size != f->at) {
                break;
            }
        }
    }
    return false;
}

static int apply_entry(VhdxNode *v, const uint8_t *entry)
{
    uint32_t count = blocks_le32(entry + 24);
    const uint8_t *data =
        entry + (size_t)((64 + 32 * count + SECTOR_BYTES - 1) / SECTOR_BYTES) * SECTOR_BYTES;
    BlockChild *file = v->b.node.file;
    int ret = 0;

    if (blocks_le64(entry + 48) > block_size(file)) {
        return -EINVAL; /* what was stable then is not there now: the file was cut */
    }
    for (uint32_t i = 0; i < count && ret >= 0; i++) {
        const uint8_t *d = entry + 64 + (size_t)i * 32;
        uint64_t offset = blocks_le64(d + 16);

        if (memcmp(d, "zero", 4) == 0) {
            uint64_t n = blocks_le64(d + 8), size = block_size(file);

            n = offset < size ? MIN(n, size - offset) : 0; /* what is behind the end is zero */
            ret = n ? blk_pwrite_zeroes(file, offset, n, BLOCK_REQ_MAY_UNMAP) : 0;
        } else {
            uint8_t sector[SECTOR_BYTES];

            memcpy(sector, d + 8, 8);
            memcpy(sector + 8, data + 8, LOG_DATA);
            memcpy(sector + SECTOR_BYTES - 4, d + 4, 4);
            ret = offset > block_size(file) ? -EINVAL : blk_pwrite(file, offset, SECTOR_BYTES, sector, 0);
            data += SECTOR_BYTES;
        }
    }
    if (ret >= 0 && blocks_le64(entry + 56) > block_size(file) &&
        blocks_le64(entry + 56) <= BLOCK_MAX_SIZE / 2) {
        ret = blk_truncate(file, blocks_le64(entry + 56), false, QAPI_PREALLOC_MODE_OFF, 0, NULL) ? 0 : -EIO;
    }
    return ret;
}

static bool log_is_empty(const VhdxNode *v)
{
    static const uint8_t none[16];

    return memcmp(v->header + 48, none, 16) == 0;
}

static bool open_log(VhdxNode *v, GError **error)
{
    BlockNode *node = &v->b.node;
    g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(Found));
    g_autofree uint8_t *log = NULL;
    guint first, last;
    int ret;

    v->log = (Region){ blocks_le64(v->header + 72), blocks_le32(v->header + 68) };
    if (v->log.offset < MIB_BYTES || v->log.offset % MIB_BYTES || v->log.bytes % MIB_BYTES ||
        v->log.offset > BLOCK_MAX_SIZE / 2 || v->log.bytes > MAX_LOG_BYTES) {
        return error_set(error, "%s: the VHDX log (at %" PRIu64 ", %u bytes) cannot be", node->what,
                         v->log.offset, v->log.bytes);
    }
    if (log_is_empty(v)) {
        return true;
    }
    if (le16(v->header + 64) != 0) {
        return error_set(error, "%s: unsupported version %u of the VHDX log", node->what,
                         le16(v->header + 64));
    }
    log = v->log.bytes ? g_try_malloc(v->log.bytes) : NULL;
    if (!log) {
        return error_set(error, "%s: no memory for a VHDX log of %u bytes", node->what, v->log.bytes);
    }
    ret = blocks_read(&v->b, v->log.offset, log, v->log.bytes);
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the VHDX log");
    }
    if (!find_active(v, log, found, &first, &last)) {
        return true; /* nothing was under way */
    }
    if (node->read_only) {
        error_set(error,
                  "VHDX image file '%s' opened read-only, but contains a log that needs to be replayed",
                  node->file->node->filename);
        error_append_hint(error, "To replay the log, run:\nrhea-img check -r all '%s'",
                          node->file->node->filename);
        return false;
    }
    for (guint i = first; i <= last && ret >= 0; i++) {
        g_autofree uint8_t *entry = log_entry(v, log, g_array_index(found, Found, i).at);

        ret = entry ? apply_entry(v, entry) : -ENOMEM;
    }
    ret = ret < 0 ? ret : blk_flush(node->file);
    ret = ret < 0 ? ret : set_log_guid(v, false);
    v->replayed = ret >= 0;
    return ret >= 0 || error_set_errno(error, -ret, "%s: cannot replay the VHDX log", node->what);
}

/* A sector of the file gets new contents, safely. [coroutine or open; b.lock held] */
static int write_logged(VhdxNode *v, uint64_t offset, const uint8_t *sector)
{
    BlockChild *file = v->b.node.file;
    g_autofree uint8_t *entry = g_malloc0(2 * SECTOR_BYTES);
    uint8_t *d = entry + 64, *s = entry + SECTOR_BYTES;
    uint64_t size = block_size(file);
    int ret;

    if (v->log_needed) {
        return -EIO;
    }
    if (!v->writing) {
        ret = set_log_guid(v, true);
        if (ret < 0) {
            return ret;
        }
        v->writing = true;
        v->log_sequence = 0;
        v->log_at = 0;
    }
    v->log_sequence++;
    memcpy(entry, "loge", 4);
    blocks_put_le32(entry + 8, 2 * SECTOR_BYTES);
    blocks_put_le32(entry + 12, v->log_at); /* it is its own tail */
    blocks_put_le64(entry + 16, v->log_sequence);
    blocks_put_le32(entry + 24, 1);
    memcpy(entry + 32, v->header + 48, 16);
    blocks_put_le64(entry + 48, size);
    blocks_put_le64(entry + 56, size);
    memcpy(d, "desc", 4);
    memcpy(d + 4, sector + SECTOR_BYTES - 4, 4);
    memcpy(d + 8, sector, 8);
    blocks_put_le64(d + 16, offset);
    blocks_put_le64(d + 24, v->log_sequence);
    memcpy(s, "data", 4);
    blocks_put_le32(s + 4, (uint32_t)(v->log_sequence >> 32));
    memcpy(s + 8, sector + 8, LOG_DATA);
    blocks_put_le32(s + SECTOR_BYTES - 4, (uint32_t)v->log_sequence);
    blocks_put_le32(entry + 4, checksum_of(entry, 2 * SECTOR_BYTES));
    ret = blk_pwrite(file, v->log.offset + v->log_at, 2 * SECTOR_BYTES, entry, 0);
    ret = ret < 0 ? ret : blk_flush(file);
    if (ret >= 0) {
        ret = blk_pwrite(file, offset, SECTOR_BYTES, sector, 0);
        ret = ret < 0 ? ret : blk_flush(file);
        v->log_needed = ret < 0;
    }
    v->log_at =
        (v->log_at + 2 * SECTOR_BYTES) % v->log.bytes; /* whole entries: the log is a multiple of them */
    return ret;
}

/* ---- the block table ---- */

static int vhdx_load(BlocksNode *b, uint64_t chunk, uint64_t *entries)
{
    VhdxNode *v = (VhdxNode *)b;
    size_t bytes = (size_t)b->per_chunk * 8;
    g_autofree uint8_t *raw = g_try_malloc(bytes);
    int ret =
        raw ? blocks_read(b, v->bat.offset + chunk * (b->per_chunk + UINT64_C(1)) * 8, raw, bytes) : -ENOMEM;

    for (uint32_t i = 0; ret >= 0 && i < b->per_chunk && chunk * b->per_chunk + i < b->count; i++) {
        uint64_t entry = blocks_le64(raw + (size_t)i * 8), at = entry & ~(MIB_BYTES - 1);

        if ((entry & 7) == PARTIALLY_PRESENT || (entry & 7) == 4) {
            return -EIO; /* only images with a parent have such */
        }
        if ((entry & 7) == FULLY_PRESENT && (at < MIB_BYTES || at > BLOCK_MAX_SIZE / 2)) {
            return -EIO;
        }
        entries[i] =
            (entry & 7) == FULLY_PRESENT ? BLOCKS_ENTRY(BLOCKS_DATA, at) : BLOCKS_ENTRY(BLOCKS_ZERO, 0);
    }
    return ret;
}

static int vhdx_place(BlocksNode *b, uint64_t block, uint64_t *host)
{
    return blocks_place_at_end(b, (uint32_t)MIB_BYTES, host);
}

static int vhdx_store(BlocksNode *b, uint64_t block, uint64_t host)
{
    VhdxNode *v = (VhdxNode *)b;
    uint64_t at = v->bat.offset + (block + block / b->per_chunk) * 8;
    uint8_t sector[SECTOR_BYTES];
    int ret = blocks_read(b, at & ~(uint64_t)(SECTOR_BYTES - 1), sector, SECTOR_BYTES);

    if (ret >= 0) {
        blocks_put_le64(sector + at % SECTOR_BYTES, host | FULLY_PRESENT);
        ret = block_co_flush(b->node.file); /* the data first */
    }
    return ret < 0 ? ret : write_logged(v, at & ~(uint64_t)(SECTOR_BYTES - 1), sector);
}

static const BlocksOps vhdx_ops = { .load = vhdx_load, .place = vhdx_place, .store = vhdx_store };

/* ---- opening ---- */

static int vhdx_probe(const uint8_t *head, size_t size, const char *filename)
{
    return size >= 8 && memcmp(head, "vhdxfile", 8) == 0 ? 100 : 0;
}

static bool overlap(const Region *a, const Region *b)
{
    return a->bytes && b->bytes && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

static bool read_regions(VhdxNode *v, GError **error)
{
    g_autofree uint8_t *t = g_malloc(TABLE_BYTES);
    const uint64_t places[2] = { REGIONS_1, REGIONS_2 };
    uint32_t count;
    bool valid = false;

    for (int i = 0; i < 2 && !valid; i++) {
        int ret = blocks_read(&v->b, places[i], t, TABLE_BYTES);

        if (ret < 0) {
            return error_set_errno(error, -ret, "Could not read the VHDX region table");
        }
        valid = memcmp(t, "regi", 4) == 0 && checksum_ok(t, TABLE_BYTES);
    }
    count = blocks_le32(t + 8);
    if (!valid || count > MAX_REGIONS) {
        return error_set(error, "%s: no valid VHDX region table found", v->b.node.what);
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *e = t + 16 + (size_t)i * 32;
        Region r = { blocks_le64(e + 16), blocks_le32(e + 24) }, *slot;

        slot = memcmp(e, region_bat, 16) == 0        ? &v->bat
               : memcmp(e, region_metadata, 16) == 0 ? &v->metadata
                                                     : NULL;
        if (!slot) {
            if (blocks_le32(e + 28) & 1) {
                return error_set(error, "%s: the VHDX image has an unknown region that is required",
                                 v->b.node.what);
            }
            continue;
        }
        if (slot->bytes || r.offset < MIB_BYTES || r.offset % MIB_BYTES || !r.bytes || r.bytes % MIB_BYTES ||
            r.offset > BLOCK_MAX_SIZE / 2) {
            return error_set(error, "%s: a region of the VHDX image (at %" PRIu64 ", %u bytes) cannot be",
                             v->b.node.what, r.offset, r.bytes);
        }
        *slot = r;
    }
    if (!v->bat.bytes || !v->metadata.bytes) {
        return error_set(error, "%s: the VHDX image has no %s", v->b.node.what,
                         v->bat.bytes ? "metadata" : "block table");
    }
    if (overlap(&v->bat, &v->metadata) || overlap(&v->bat, &v->log) || overlap(&v->metadata, &v->log)) {
        return error_set(error, "%s: regions of the VHDX image overlap", v->b.node.what);
    }
    return true;
}

/* An item's first bytes; false: it is not there, or too short. */
static bool read_item(VhdxNode *v, const uint8_t *table, const uint8_t *id, uint8_t *buf, uint32_t bytes)
{
    for (uint32_t i = 0; i < le16(table + 10); i++) {
        const uint8_t *e = table + 32 + (size_t)i * 32;
        uint32_t offset = blocks_le32(e + 16), length = blocks_le32(e + 20);

        if (memcmp(e, id, 16) == 0) {
            return offset >= TABLE_BYTES && length >= bytes && offset <= v->metadata.bytes - length &&
                   length <= v->metadata.bytes &&
                   blocks_read(&v->b, v->metadata.offset + offset, buf, bytes) >= 0;
        }
    }
    return false;
}

static bool read_metadata(VhdxNode *v, uint64_t *size, uint32_t *block_bytes, GError **error)
{
    g_autofree uint8_t *t = g_malloc(TABLE_BYTES);
    uint8_t buf[8];
    int ret = blocks_read(&v->b, v->metadata.offset, t, TABLE_BYTES);

    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the VHDX metadata");
    }
    if (memcmp(t, "metadata", 8) != 0 || le16(t + 10) > 2047) {
        return error_set(error, "%s: no valid VHDX metadata table", v->b.node.what);
    }
    if (!read_item(v, t, item_parameters, buf, 8)) {
        return error_set(error, "%s: the VHDX metadata lack the file's parameters", v->b.node.what);
    }
    *block_bytes = blocks_le32(buf);
    if (blocks_le32(buf + 4) & 2) {
        return error_set(error,
                         "%s: differencing VHDX images are not supported: merge it into its parent first",
                         v->b.node.what);
    }
    if (!read_item(v, t, item_size, buf, 8)) {
        return error_set(error, "%s: the VHDX metadata lack the disk's size", v->b.node.what);
    }
    *size = blocks_le64(buf);
    if (!read_item(v, t, item_logical, buf, 4)) {
        return error_set(error, "%s: the VHDX metadata lack the sector size", v->b.node.what);
    }
    v->logical_sector = blocks_le32(buf);
    if (*block_bytes < MIB_BYTES || *block_bytes > (256u << 20) || *block_bytes & (*block_bytes - 1) ||
        (v->logical_sector != 512 && v->logical_sector != 4096) || *size > MAX_DISK ||
        *size % v->logical_sector) {
        return error_set(
            error, "%s: VHDX with a size of %" PRIu64 ", blocks of %u and sectors of %u bytes cannot be",
            v->b.node.what, *size, *block_bytes, v->logical_sector);
    }
    return true;
}

static bool vhdx_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    VhdxNode *v = (VhdxNode *)node;
    uint8_t signature[8];
    uint32_t block_bytes = 0, ratio;
    uint64_t size = 0, count;
    int ret;

    if (!block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file, options, options->u_vhdx->file,
                          error)) {
        return false;
    }
    ret = blocks_read(&v->b, 0, signature, 8);
    if (ret < 0 || memcmp(signature, "vhdxfile", 8) != 0) {
        return ret < 0 ? error_set_errno(error, -ret, "Could not read the VHDX signature")
                       : error_set(error, "Image not in VHDX format");
    }
    if (!read_headers(v, error) || !open_log(v, error) || !read_regions(v, error) ||
        !read_metadata(v, &size, &block_bytes, error)) {
        return false;
    }
    ratio = (uint32_t)((UINT64_C(1) << 23) * v->logical_sector / block_bytes);
    count = size / block_bytes + !!(size % block_bytes);
    if (count && (count + (count - 1) / ratio) * 8 > v->bat.bytes) {
        return error_set(error, "%s: the VHDX block table is too small for the disk", node->what);
    }
    return blocks_begin(&v->b, &vhdx_ops, size, block_bytes, ratio, MIB_BYTES, error);
}

static void vhdx_close(BlockNode *node)
{
    VhdxNode *v = (VhdxNode *)node;

    if (v->writing && !v->log_needed && node->file && set_log_guid(v, false) < 0) {
        g_warning("%s: the VHDX header could not be written at the end", node->what);
    }
    blocks_close(node);
}

/* ---- check ---- */

static bool vhdx_co_check(BlockNode *node, BlockCheckResult *result, unsigned fix, GError **error)
{
    VhdxNode *v = (VhdxNode *)node;
    const Region *own[] = { &v->log, &v->bat, &v->metadata };
    uint64_t size = block_size(node->file);

    result->corruptions_fixed += v->replayed;
    if (!blocks_co_check(node, result, fix, error)) {
        return false;
    }
    result->image_end_offset = size;
    for (uint64_t i = 0; i < v->b.chunk_count; i++) {
        const uint64_t *entries = v->b.chunks[i];

        for (uint64_t k = 0; entries && k < v->b.per_chunk && i * v->b.per_chunk + k < v->b.count; k++) {
            Region block = { blocks_value(entries[k]), v->b.block_bytes };

            for (size_t r = 0; blocks_kind(entries[k]) == BLOCKS_DATA && r < G_N_ELEMENTS(own); r++) {
                result->corruptions += overlap(&block, own[r]);
            }
        }
    }
    return true;
}

/* ---- making ---- */

static const BlockOption vhdx_create_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Size of disk; max of 64TB.", NULL, false },
    { "log_size", BLOCK_OPTION_SIZE, "Log size; min 1MB.", "1048576", false },
    { "block_size", BLOCK_OPTION_SIZE,
      "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.", "0", false },
    { "subformat", BLOCK_OPTION_STRING,
      "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.", NULL, false },
    { "block_state_zero", BLOCK_OPTION_BOOL,
      "Force use of payload blocks of type 'ZERO'.  Non-standard, but default.  Do not set to 'off' when "
      "using "
      "qemu-img convert with subformat=dynamic.",
      "on", false },
    { NULL, 0, NULL, NULL, false },
};

static uint8_t *add_item(uint8_t *table, const uint8_t *id, uint32_t *offset, uint32_t bytes, bool disk)
{
    unsigned n = le16(table + 10);
    uint8_t *e = table + 32 + (size_t)n * 32, *place = table + *offset;

    table[10] = (uint8_t)(n + 1);
    memcpy(e, id, 16);
    blocks_put_le32(e + 16, *offset);
    blocks_put_le32(e + 20, bytes);
    blocks_put_le32(e + 24, disk ? 6 : 4); /* required; of the disk, or of the file */
    *offset += bytes;
    return place;
}

typedef struct Layout {
    uint64_t size, log, metadata, bat, data, count, bat_bytes;
    uint32_t log_bytes, block_bytes, ratio;
    bool fixed, zero;
} Layout;

static bool write_image(BlockChild *root, const Layout *l, GError **error)
{
    g_autofree uint8_t *head = g_malloc0(MIB_BYTES), *meta = g_malloc0(2 * TABLE_BYTES), *bat = NULL;
    uint8_t *h = head + HEADER_1, *t = head + REGIONS_1, *item;
    uint32_t at = TABLE_BYTES;
    int ret;

    bat = g_try_malloc0(l->bat_bytes);
    if (!bat) {
        return error_set(error, "No memory for a VHDX block table of %" PRIu64 " bytes", l->bat_bytes);
    }
    memcpy(head, "vhdxfile", 8);
    static const char creator[] = "Rhea";
    for (size_t i = 0; i < sizeof(creator) - 1; i++) {
        head[8 + 2 * i] = (uint8_t)creator[i]; /* UTF-16 */
    }
    memcpy(h, "head", 4);
    h[66] = 1;
    blocks_put_le32(h + 68, l->log_bytes);
    blocks_put_le64(h + 72, l->log);
    if (!crypto_random(h + 16, 16, error) || !crypto_random(h + 32, 16, error)) {
        return false;
    }
    memcpy(head + HEADER_2, h, SECTOR_BYTES);
    for (int i = 0; i < 2; i++) {
        uint8_t *copy = head + (i ? HEADER_2 : HEADER_1);

        blocks_put_le64(copy + 8, (uint64_t)i + 1);
        blocks_put_le32(copy + 4, checksum_of(copy, SECTOR_BYTES));
    }
    memcpy(t, "regi", 4);
    blocks_put_le32(t + 8, 2);
    memcpy(t + 16, region_bat, 16);
    blocks_put_le64(t + 32, l->bat);
    blocks_put_le32(t + 40, (uint32_t)l->bat_bytes);
    blocks_put_le32(t + 44, 1);
    memcpy(t + 48, region_metadata, 16);
    blocks_put_le64(t + 64, l->metadata);
    blocks_put_le32(t + 72, (uint32_t)MIB_BYTES);
    blocks_put_le32(t + 76, 1);
    blocks_put_le32(t + 4, checksum_of(t, TABLE_BYTES));
    memcpy(head + REGIONS_2, t, TABLE_BYTES);

    memcpy(meta, "metadata", 8);
    item = add_item(meta, item_parameters, &at, 8, false);
    blocks_put_le32(item, l->block_bytes);
    blocks_put_le32(item + 4, l->fixed ? 1 : 0); /* blocks stay allocated */
    blocks_put_le64(add_item(meta, item_size, &at, 8, true), l->size);
    if (!crypto_random(add_item(meta, item_page83, &at, 16, true), 16, error)) {
        return false;
    }
    blocks_put_le32(add_item(meta, item_logical, &at, 4, true), 512);
    blocks_put_le32(add_item(meta, item_physical, &at, 4, true), 512);
    for (uint64_t i = 0; i < l->count; i++) {
        uint64_t entry = l->fixed  ? (l->data + i * l->block_bytes) | FULLY_PRESENT
                         : l->zero ? ZERO
                                   : NOT_PRESENT;

        blocks_put_le64(bat + (i + i / l->ratio) * 8, entry);
    }
    if (!blk_truncate(root, l->fixed ? l->data + l->count * l->block_bytes : l->data, false,
                      QAPI_PREALLOC_MODE_OFF, 0, error)) {
        return false;
    }
    ret = blk_pwrite(root, l->metadata, 2 * TABLE_BYTES, meta, 0);
    ret = ret < 0 ? ret : blk_pwrite(root, l->bat, l->bat_bytes, bat, 0);
    ret = ret < 0 ? ret : blk_pwrite(root, 0, MIB_BYTES, head, 0);
    return ret >= 0 || error_set_errno(error, -ret, "Could not write the VHDX image");
}

static bool vhdx_co_create_named(BlockGraph *graph, const char *filename, json_object *options,
                                 GError **error)
{
    const char *subformat = blocks_option(options, "subformat");
    uint64_t log_bytes = blocks_number(options, "log_size", MIB_BYTES),
             block = blocks_number(options, "block_size", 0);
    Layout l = { .size = (blocks_number(options, "size", 0) + 511) & ~UINT64_C(511) };
    BlockChild *root;
    bool ok;

    l.fixed = subformat && strcmp(subformat, "fixed") == 0;
    l.zero = blocks_number(options, "block_state_zero", 1);
    if (subformat && !l.fixed && strcmp(subformat, "dynamic") != 0) {
        return error_set(error, "Invalid parameter 'subformat': '%s' is neither dynamic nor fixed",
                         subformat);
    }
    if (l.size > MAX_DISK) {
        return error_set(error, "Image size too large; max of 64TB");
    }
    log_bytes = MAX((log_bytes + MIB_BYTES - 1) & ~(MIB_BYTES - 1), MIB_BYTES);
    if (log_bytes > MAX_LOG_BYTES) {
        return error_set(error, "Log size too large; max of %u MiB", MAX_LOG_BYTES >> 20);
    }
    if (!block) {
        block = l.size > UINT64_C(32) << 40    ? 64 * MIB_BYTES
                : l.size > UINT64_C(100) << 30 ? 32 * MIB_BYTES
                : l.size > UINT64_C(1) << 30   ? 16 * MIB_BYTES
                                               : 8 * MIB_BYTES;
    }
    if (block < MIB_BYTES || block % MIB_BYTES || block & (block - 1) || block > 256 * MIB_BYTES) {
        return error_set(error,
                         block > 256 * MIB_BYTES ? "Block size must not exceed %" PRIu64
                                                 : "Block size must be a power of two of %" PRIu64
                                                   " at least",
                         block > 256 * MIB_BYTES ? 256 * MIB_BYTES : MIB_BYTES);
    }
    l.log = MIB_BYTES;
    l.log_bytes = (uint32_t)log_bytes;
    l.block_bytes = (uint32_t)block;
    l.ratio = (uint32_t)((UINT64_C(1) << 23) * 512 / block);
    l.metadata = l.log + log_bytes;
    l.bat = l.metadata + MIB_BYTES;
    l.count = l.size / block + !!(l.size % block);
    l.bat_bytes = l.count ? (l.count + (l.count - 1) / l.ratio) * 8 : 8;
    l.bat_bytes = (l.bat_bytes + MIB_BYTES - 1) & ~(MIB_BYTES - 1);
    l.data = l.bat + l.bat_bytes;
    root = blocks_create_file(graph, filename, options, error);
    if (!root) {
        return false;
    }
    ok = write_image(root, &l, error);
    block_root_free(root);
    return ok;
}

static const BlockDriver vhdx_driver = {
    .name = "vhdx",
    .instance_size = sizeof(VhdxNode),
    .any_alignment = true,
    .may_resize_file = true,
    .probe = vhdx_probe,
    .open = vhdx_open,
    .close = vhdx_close,
    .get_info = blocks_get_info,
    .co_preadv = blocks_co_preadv,
    .co_pwritev = blocks_co_pwritev,
    .co_block_status = blocks_co_block_status,
    .co_check = vhdx_co_check,
    .co_create = blocks_co_create,
    .co_create_named = vhdx_co_create_named,
    .create_options = vhdx_create_options,
};
BLOCK_DRIVER(vhdx_driver);
