/*
 * dmg, Apple's disk images (UDIF), to be read. A trailer near the end of the file says where a property list
 * lies (or, in old images, a resource fork); in it are tables of chunks: runs of sectors that are zero,
 * plain, or compressed each for itself. Chunks have any length, so they are kept in order of their sectors
 * and searched; the last one that was decompressed stays. The format is known from what others wrote down:
 * Apple does not describe it. Not supported: images in several files, checksums, and chunks that are
 * compressed with ADC, LZFSE or LZMA. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include "base/error.h"
#include "host/library.h"
#include "rhea_config.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>
#ifdef CONFIG_BZIP2
#include <bzlib.h>
#endif

#define TRAILER_BYTES 512u
#define SEARCHED      1023u /* a file that does not end with a sector is seen with zeroes behind it */
#define TABLE_BYTES   204u  /* of a table before its chunks */
#define CHUNK_BYTES   40u
#define MAX_LIST      (64u << 20) /* a disk of half a TiB in chunks of 512 KiB */
#define MAX_PACKED    (64u << 20) /* a compressed chunk, before and after */

enum {
    CHUNK_ZERO = 0,
    CHUNK_PLAIN = 1,
    CHUNK_IGNORE = 2,
    CHUNK_COMMENT = 0x7ffffffe,
    CHUNK_ADC = (int)0x80000004,
    CHUNK_ZLIB,
    CHUNK_BZIP2,
    CHUNK_LZFSE,
    CHUNK_LZMA,
    CHUNK_END = -1,
};

typedef struct Chunk {
    uint64_t start, bytes;   /* of the disk */
    uint64_t offset, stored; /* in the file */
    int type;
} Chunk;

typedef struct DmgNode {
    BlockNode node;
    GArray *chunks; /* of Chunk, by start */
    CoMutex lock;   /* of what follows */
    uint8_t *plain;
    const Chunk *plain_chunk; /* what is in `plain` */
} DmgNode;

#ifdef CONFIG_BZIP2
#define BZIP2_SYMBOLS(X, P) X(P, bzBuffToBuffDecompress)
LIBRARY_TABLE(bzip2, BZ2_, BZIP2_SYMBOLS, SONAME_BZ2, "libbz2-1.0", "bzip2 decompression");
#endif

static int dmg_probe(const uint8_t *head, size_t size, const char *filename)
{
    /* What tells it is at the end. */
    return filename && g_str_has_suffix(filename, ".dmg") ? 2 : 0;
}

/* ---- the tables ---- */

static bool can_read(int type, GError **error)
{
    switch (type) {
    case CHUNK_ZLIB:
        return true;
#ifdef CONFIG_BZIP2
    case CHUNK_BZIP2:
        return library_load(&bzip2_library, error);
#else
    case CHUNK_BZIP2:
        return error_set(error,
                         "The dmg image is compressed with bzip2, which this build of Rhea cannot read");
#endif
    case CHUNK_ADC:
    case CHUNK_LZFSE:
    case CHUNK_LZMA:
        error_set(error, "The dmg image is compressed with %s, which Rhea cannot read",
                  type == CHUNK_ADC     ? "ADC"
                  : type == CHUNK_LZFSE ? "LZFSE"
                                        : "LZMA");
        error_append_hint(error, "On a Mac: hdiutil convert IMAGE.dmg -format UDZO -o NEW.dmg.");
        return false;
    default:
        return error_set(error, "The dmg image has chunks of an unknown type (0x%x)", (unsigned)type);
    }
}

/* A chunk whose sectors, counted from first_sector, and place, counted from data, stand at p. */
static bool add_chunk(DmgNode *d, const uint8_t *p, uint64_t first_sector, uint64_t data, GError **error)
{
    uint64_t sector, sectors = blocks_be64(p + 16), end, file = block_size(d->node.file);
    Chunk c = { .type = (int)blocks_be32(p), .stored = blocks_be64(p + 32) };
    bool empty = c.type == CHUNK_ZERO || c.type == CHUNK_IGNORE;

    if (c.type == CHUNK_COMMENT || c.type == CHUNK_END || !sectors) {
        return true;
    }
    if (__builtin_add_overflow(first_sector, blocks_be64(p + 8), &sector) ||
        __builtin_add_overflow(sector, sectors, &end) || end > BLOCK_MAX_SIZE / 512) {
        return error_set(error, "A chunk of the dmg image lies beyond the largest disk");
    }
    c.start = sector * 512;
    c.bytes = sectors * 512;
    if (!empty && (__builtin_add_overflow(data, blocks_be64(p + 24), &c.offset) ||
                   __builtin_add_overflow(c.offset, c.stored, &end) || end > file)) {
        return error_set(error, "A chunk of the dmg image lies behind the end of its file");
    }
    if (c.type == CHUNK_PLAIN && c.stored < c.bytes) {
        return error_set(error, "A chunk of the dmg image is shorter than its sectors");
    }
    if (!empty && c.type != CHUNK_PLAIN) {
        if (!can_read(c.type, error)) {
            return false;
        }
        if (c.bytes > MAX_PACKED || c.stored > MAX_PACKED) {
            return error_set(error, "A compressed chunk of the dmg image is larger than %u MiB",
                             MAX_PACKED >> 20);
        }
    }
    g_array_append_val(d->chunks, c);
    return true;
}

/* Other resources stand beside the tables: they are passed over. */
static bool add_table(DmgNode *d, const uint8_t *p, size_t bytes, uint64_t data_fork, GError **error)
{
    uint64_t first, data;
    uint32_t count;

    if (bytes < TABLE_BYTES || memcmp(p, "mish", 4) != 0) {
        return true;
    }
    first = blocks_be64(p + 8);
    count = blocks_be32(p + 200);
    if (__builtin_add_overflow(data_fork, blocks_be64(p + 24), &data) ||
        count > (bytes - TABLE_BYTES) / CHUNK_BYTES) {
        return error_set(error, "A table of the dmg image is shorter than its %u chunks", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!add_chunk(d, p + TABLE_BYTES + (size_t)i * CHUNK_BYTES, first, data, error)) {
            return false;
        }
    }
    return true;
}

/* list: the property list, with a zero behind it. Of XML no more is looked at than the data in it. */
static bool read_list(DmgNode *d, char *list, uint64_t data_fork, GError **error)
{
    static const char begin[] = "<data>", end[] = "</data>";

    for (char *at = list, *stop; (at = strstr(at, begin)); at = stop + sizeof(end) - 1) {
        gsize bytes = 0;

        at += sizeof(begin) - 1;
        stop = strstr(at, end);
        if (!stop) {
            return error_set(error, "The property list of the dmg image is cut off");
        }
        *stop = '\0';
        if (stop - at > 1) { /* what the decoder takes */
            g_base64_decode_inplace(at, &bytes);
            if (!add_table(d, (uint8_t *)at, bytes, data_fork, error)) {
                return false;
            }
        }
    }
    return true;
}

/* A header that says where data begins and how long it is; in it resources, each behind its length. */
static bool read_fork(DmgNode *d, const uint8_t *fork, uint64_t bytes, uint64_t data_fork, GError **error)
{
    uint64_t at = bytes >= 16 ? blocks_be32(fork) : bytes, length = bytes >= 16 ? blocks_be32(fork + 8) : 0;

    if (at < 16 || length > bytes || at > bytes - length) {
        return error_set(error, "The resource fork of the dmg image is not valid");
    }
    for (uint64_t end = at + length; end - at >= 4;) {
        uint32_t n = blocks_be32(fork + at);

        at += 4;
        if (n > end - at) {
            return error_set(error, "The resource fork of the dmg image is cut off");
        }
        if (!add_table(d, fork + at, n, data_fork, error)) {
            return false;
        }
        at += n;
    }
    return true;
}

static int by_start(const void *a, const void *b)
{
    const Chunk *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static bool read_tables(DmgNode *d, const uint8_t *trailer, GError **error)
{
    uint64_t data_fork = blocks_be64(trailer + 24), fork_bytes = blocks_be64(trailer + 48),
             list_bytes = blocks_be64(trailer + 224), file = block_size(d->node.file);
    bool list = list_bytes != 0;
    uint64_t at = blocks_be64(trailer + (list ? 216 : 40)), bytes = list ? list_bytes : fork_bytes;
    g_autofree char *buf = NULL;
    int ret;

    if (!bytes) {
        return error_set(error, "The dmg image has neither a property list nor a resource fork");
    }
    if (bytes > MAX_LIST || bytes > file || at > file - bytes) {
        return error_set(error, "The %s of the dmg image is too large, or behind the end of its file",
                         list ? "property list" : "resource fork");
    }
    buf = g_try_malloc(bytes + 1);
    ret = buf ? blk_pread(d->node.file, at, bytes, buf, 0) : -ENOMEM;
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the tables of the dmg image");
    }
    buf[bytes] = '\0';
    return list ? read_list(d, buf, data_fork, error)
                : read_fork(d, (const uint8_t *)buf, bytes, data_fork, error);
}

/* In order; the disk ends with the last one. */
static bool arrange(DmgNode *d, GError **error)
{
    uint64_t end = 0;

    g_array_sort(d->chunks, by_start);
    for (guint i = 0; i < d->chunks->len; i++) {
        const Chunk *c = &g_array_index(d->chunks, Chunk, i);

        if (c->start < end) {
            return error_set(error, "Two chunks of the dmg image hold the same sectors");
        }
        end = c->start + c->bytes;
    }
    d->node.size = end;
    return end || error_set(error, "The dmg image has no sectors");
}

static bool dmg_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    DmgNode *d = (DmgNode *)node;
    uint8_t buf[SEARCHED], *trailer = NULL;
    uint64_t size, bytes;
    int ret;

    co_mutex_init(&d->lock);
    d->chunks = g_array_new(FALSE, FALSE, sizeof(Chunk));
    if (!blocks_read_only(node, error) || !block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file,
                                                            options, options->u_dmg->file, error)) {
        return false;
    }
    size = block_size(node->file);
    bytes = MIN(size, SEARCHED);
    ret = bytes ? blk_pread(node->file, size - bytes, bytes, buf, 0) : 0;
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read the end of the dmg image");
    }
    for (uint64_t at = 0; at + TRAILER_BYTES <= bytes; at++) {
        trailer = memcmp(buf + at, "koly", 4) == 0 ? buf + at : trailer;
    }
    if (!trailer) {
        return error_set(error, "Image not in dmg format: its end has no trailer");
    }
    if (blocks_be32(trailer + 60) > 1) {
        return error_set(error, "The dmg image is one of %u files: such images are not supported",
                         blocks_be32(trailer + 60));
    }
    return read_tables(d, trailer, error) && arrange(d, error);
}

static void dmg_close(BlockNode *node)
{
    DmgNode *d = (DmgNode *)node;

    g_clear_pointer(&d->chunks, g_array_unref);
    g_clear_pointer(&d->plain, g_free);
}

/* ---- reading ---- */

/* NULL: there is none. */
static const Chunk *find(const DmgNode *d, uint64_t offset)
{
    guint low = 0, high = d->chunks->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        const Chunk *c = &g_array_index(d->chunks, Chunk, middle);

        if (offset < c->start) {
            high = middle;
        } else if (offset - c->start >= c->bytes) {
            low = middle + 1;
        } else {
            return c;
        }
    }
    return NULL;
}

typedef struct Job {
    const Chunk *chunk;
    uint8_t *in, *out;
} Job;

static ssize_t unpack(void *opaque)
{
    Job *job = opaque;
    const Chunk *c = job->chunk;
    uLongf bytes = c->bytes;

#ifdef CONFIG_BZIP2
    if (c->type == CHUNK_BZIP2) {
        unsigned n = (unsigned)c->bytes;

        return bzip2.bzBuffToBuffDecompress((char *)job->out, &n, (char *)job->in, (unsigned)c->stored, 0,
                                            0) == BZ_OK &&
                       n == c->bytes
                   ? 0
                   : -EIO;
    }
#endif
    return uncompress(job->out, &bytes, job->in, c->stored) == Z_OK && bytes == c->bytes ? 0 : -EIO;
}

/* lock held: the chunk is in `plain`. */
static int load(DmgNode *d, const Chunk *c)
{
    g_autofree uint8_t *in = NULL;
    Job job = { .chunk = c };
    int ret;

    if (d->plain_chunk == c) {
        return 0;
    }
    d->plain_chunk = NULL;
    g_free(d->plain);
    d->plain = g_try_malloc(c->bytes);
    in = g_try_malloc(c->stored + 1);
    ret = d->plain && in ? 0 : -ENOMEM;
    if (ret >= 0 && c->stored) {
        ret = block_co_pread(d->node.file, c->offset, c->stored, in, 0);
    }
    job.in = in;
    job.out = d->plain;
    ret = ret < 0 ? ret : (int)co_work(loop_current(), unpack, &job);
    d->plain_chunk = ret < 0 ? NULL : c;
    return ret;
}

static int dmg_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                         unsigned flags)
{
    DmgNode *d = (DmgNode *)node;

    for (uint64_t n; bytes; offset += n, from += n, bytes -= n) {
        const Chunk *c = find(d, offset);
        uint64_t in = c ? offset - c->start : 0;
        int ret = c ? 0 : -EIO; /* the tables leave it out */

        n = c ? MIN(bytes, c->bytes - in) : 0;
        if (c && (c->type == CHUNK_ZERO || c->type == CHUNK_IGNORE)) {
            block_vec_zero(vec, from, n);
        } else if (c && c->type == CHUNK_PLAIN) {
            ret = block_co_preadv(node->file, c->offset + in, n, vec, from, 0);
        } else if (c) {
            co_mutex_lock(&d->lock);
            ret = load(d, c);
            if (ret >= 0) {
                block_vec_write(vec, from, d->plain + in, n);
            }
            co_mutex_unlock(&d->lock);
        }
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static int dmg_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                               BlockStatus *st)
{
    const Chunk *c = find((DmgNode *)node, offset);

    *st = (BlockStatus){ .flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_DATA, .bytes = bytes };
    if (!c) {
        st->bytes = MIN(bytes, 512);
        return 0;
    }
    st->bytes = MIN(bytes, c->bytes - (offset - c->start));
    if (c->type == CHUNK_ZERO || c->type == CHUNK_IGNORE) {
        st->flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_ZERO;
    } else if (c->type == CHUNK_PLAIN) {
        st->flags |= BLOCK_STATUS_OFFSET_VALID | (want_zero ? BLOCK_STATUS_RECURSE : 0);
        st->map = c->offset + offset - c->start;
        st->file = node->file->node;
    } else {
        st->flags |= BLOCK_STATUS_COMPRESSED;
    }
    return 0;
}

static const BlockDriver dmg_driver = {
    .name = "dmg",
    .instance_size = sizeof(DmgNode),
    .any_alignment = true,
    .probe = dmg_probe,
    .open = dmg_open,
    .close = dmg_close,
    .co_preadv = dmg_co_preadv,
    .co_block_status = dmg_co_block_status,
};
BLOCK_DRIVER(dmg_driver);
