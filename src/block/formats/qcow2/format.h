/*
 * The qcow2 format on disk, without I/O: header, header extensions, and the arithmetic of L1, L2 and refcount
 * entries. Everything here takes bytes of an image as they come, hostile ones too. The format is described in
 * QEMU's docs/interop/qcow2.txt; the journal in docs/formats/qcow2-journal.md. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_FORMATS_QCOW2_FORMAT_H
#define RHEA_BLOCK_FORMATS_QCOW2_FORMAT_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QCOW2_MAGIC            0x514649fbu
#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_MAX_L1_BYTES     (32u << 20)
#define QCOW2_MAX_REFTABLE     (8u << 20) /* bytes */
#define QCOW2_MAX_SNAPSHOTS    65536u
#define QCOW2_MAX_SNAPSHOT_TAB (64u << 20)
#define QCOW2_MAX_BITMAPS      65535u
#define QCOW2_MAX_BITMAP_DIR   (64u << 20)
#define QCOW2_MAX_BITMAP_TABLE (1u << 25) /* entries */
#define QCOW2_V2_HEADER        72u
#define QCOW2_V3_HEADER        104u
#define QCOW2_OUR_HEADER       112u /* with compression_type and its padding */

enum {
    QCOW2_INCOMPAT_DIRTY = 1u << 0,
    QCOW2_INCOMPAT_CORRUPT = 1u << 1,
    QCOW2_INCOMPAT_DATA_FILE = 1u << 2,
    QCOW2_INCOMPAT_COMPRESSION = 1u << 3,
    QCOW2_INCOMPAT_EXTENDED_L2 = 1u << 4,
    QCOW2_COMPAT_LAZY_REFCOUNTS = 1u << 0,
    QCOW2_AUTOCLEAR_BITMAPS = 1u << 0,
    QCOW2_AUTOCLEAR_RAW_DATA = 1u << 1,
};
/* Set while the journal holds what the tables do not. */
#define QCOW2_INCOMPAT_JOURNAL_BIT 56
#define QCOW2_INCOMPAT_JOURNAL     (UINT64_C(1) << QCOW2_INCOMPAT_JOURNAL_BIT)
#define QCOW2_INCOMPAT_KNOWN                                                                                 \
    (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_DATA_FILE | QCOW2_INCOMPAT_COMPRESSION | \
     QCOW2_INCOMPAT_EXTENDED_L2 | QCOW2_INCOMPAT_JOURNAL)
/* The journal's header extension names clusters that are nobody else's, though the journal may be empty or
 * gone. */
#define QCOW2_AUTOCLEAR_JOURNAL (UINT64_C(1) << QCOW2_INCOMPAT_JOURNAL_BIT)
#define QCOW2_AUTOCLEAR_KNOWN   (QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA | QCOW2_AUTOCLEAR_JOURNAL)

enum {
    QCOW2_EXT_END = 0,
    QCOW2_EXT_BACKING_FORMAT = 0xe2792aca,
    QCOW2_EXT_FEATURE_NAMES = 0x6803f857,
    QCOW2_EXT_BITMAPS = 0x23852875,
    QCOW2_EXT_CRYPTO = 0x0537be77,
    QCOW2_EXT_DATA_FILE = 0x44415441,
    QCOW2_EXT_JOURNAL = 0x524a4e4c, /* "RJNL" */
};

typedef enum Qcow2Compression { QCOW2_ZLIB, QCOW2_ZSTD } Qcow2Compression;

typedef struct Qcow2Extension {
    uint32_t type, size;
    uint8_t *data;
} Qcow2Extension;

/* What the journal's extension says; see docs/formats/qcow2-journal.md. */
typedef struct Qcow2JournalExt {
    bool present;
    uint32_t wish;   /* bytes of journal that a writer should make; 0: none */
    uint64_t offset; /* 0: there is none now */
    uint64_t size;
    uint8_t uuid[16]; /* of this journal's life */
} Qcow2JournalExt;

typedef struct Qcow2Header {
    uint32_t version;
    uint64_t backing_offset;
    uint32_t backing_size;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_size;
    uint64_t l1_offset;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint32_t snapshot_count;
    uint64_t snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order;
    uint32_t header_length;
    uint8_t compression_type;
    uint8_t *unknown_fields; /* behind what we know; header_length counts them */
    uint32_t unknown_size;
    char *backing_file, *backing_format, *data_file; /* owned, or NULL */
    bool has_bitmaps;
    uint32_t bitmap_count;
    uint64_t bitmap_dir_size, bitmap_dir_offset;
    bool has_crypto;
    uint64_t crypto_offset, crypto_size;
    Qcow2JournalExt journal;
    GArray *unknown; /* of Qcow2Extension */
} Qcow2Header;

/* Reads a header from the image's first bytes: fields as they are, each checked for itself; sizes of tables
 * against QEMU's limits. data: the first cluster, or what the file has of it. */
bool qcow2_header_decode(Qcow2Header *h, const uint8_t *data, size_t size, GError **error);
/* Where the snapshot table is and how long: apart, for a check can mend what is wrong with it. */
bool qcow2_header_check_snapshots(const Qcow2Header *h, GError **error);
/* The size of the first cluster's part that is needed: from at least 104 bytes (72 of version 2). 0: no
 * qcow2. */
uint32_t qcow2_header_cluster_size(const uint8_t *data, size_t size);
/* Into a whole first cluster (zeroed by it): false where it does not fit. */
bool qcow2_header_encode(const Qcow2Header *h, uint8_t *data, size_t size, GError **error);
void qcow2_header_clear(Qcow2Header *h);
/* NULL, or a text that names the unknown incompatible features, by the image's feature-name table where it
 * has them. The caller frees it. */
char *qcow2_unknown_features(const Qcow2Header *h, const uint8_t *data, size_t size);
/* Whether there is an extension of that type that we do not know. */
int qcow2_header_probe(const uint8_t *head, size_t size, const char *filename);

/* ---- geometry ---- */
typedef struct Qcow2Geometry {
    uint32_t cluster_bits, cluster_size;
    uint32_t l2_entry_bytes; /* 8 or 16 */
    uint32_t l2_bits;        /* log2 of entries in a table */
    uint32_t sub_bits;       /* log2 of subclusters in a cluster: 0 or 5 */
    uint32_t sub_size;       /* bytes; the cluster's size without subclusters */
    uint32_t refcount_order;
    uint32_t refblock_bits; /* log2 of entries in a refcount block */
    uint64_t refcount_max;
    uint32_t csize_shift;
    uint64_t csize_mask, coffset_mask;
    bool data_file, v2;
} Qcow2Geometry;
void qcow2_geometry_init(Qcow2Geometry *g, const Qcow2Header *h);
/* L1 entries that a disk of that size needs; UINT64_MAX where it cannot be. */
uint64_t qcow2_l1_entries(const Qcow2Geometry *g, uint64_t size);

/* ---- entries; in host byte order ---- */
#define QCOW2_OFFSET_MASK       UINT64_C(0x00fffffffffffe00)
#define QCOW2_COPIED            (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED        (UINT64_C(1) << 62)
#define QCOW2_ZERO              (UINT64_C(1) << 0)
#define QCOW2_L1_RESERVED       UINT64_C(0x7f000000000001ff)
#define QCOW2_L2_RESERVED       UINT64_C(0x3f000000000001fe)
#define QCOW2_REFTABLE_RESERVED UINT64_C(0x1ff)

typedef struct Qcow2Entry {
    uint64_t word;
    uint64_t bitmap; /* of extended entries: allocated in bits 0 to 31, zero in 32 to 63 */
} Qcow2Entry;

/* What a subcluster (or a cluster without them) is. */
typedef enum Qcow2Kind {
    QCOW2_KIND_UNALLOCATED,      /* the backing image's; no host cluster */
    QCOW2_KIND_UNALLOCATED_HOST, /* the backing image's; the cluster has a place */
    QCOW2_KIND_ZERO,
    QCOW2_KIND_ZERO_HOST,
    QCOW2_KIND_DATA,
    QCOW2_KIND_COMPRESSED,
    QCOW2_KIND_INVALID,
} Qcow2Kind;
static inline bool qcow2_kind_has_host(Qcow2Kind k)
{
    return k == QCOW2_KIND_UNALLOCATED_HOST || k == QCOW2_KIND_ZERO_HOST || k == QCOW2_KIND_DATA;
}
Qcow2Entry qcow2_entry_load(const Qcow2Geometry *g, const uint8_t *at);
void qcow2_entry_store(const Qcow2Geometry *g, uint8_t *at, Qcow2Entry e);
/* sub: which subcluster; 0 without them. */
Qcow2Kind qcow2_entry_kind(const Qcow2Geometry *g, Qcow2Entry e, uint32_t sub);
/* From sub on: how many have the kind of the first. */
uint32_t qcow2_entry_run(const Qcow2Geometry *g, Qcow2Entry e, uint32_t sub, Qcow2Kind *kind);
/* Where a standard entry's host cluster is; 0: none (with an external data file: whether it has one tells
 * qcow2_entry_has_host). */
static inline uint64_t qcow2_entry_host(Qcow2Entry e)
{
    return e.word & QCOW2_OFFSET_MASK;
}
bool qcow2_entry_has_host(const Qcow2Geometry *g, Qcow2Entry e);
/* Subclusters [from, from + count) as mask. */
static inline uint32_t qcow2_sub_mask(uint32_t from, uint32_t count)
{
    return (uint32_t)(((UINT64_C(1) << count) - 1) << from);
}
/* Marks them as holding data (or reading as zeroes) in an entry. Without subclusters: the whole entry. */
void qcow2_entry_set_data(const Qcow2Geometry *g, Qcow2Entry *e, uint32_t from, uint32_t count);
void qcow2_entry_set_zero(const Qcow2Geometry *g, Qcow2Entry *e, uint32_t from, uint32_t count);
/* A compressed descriptor: where the bytes are, and how many at most (whole 512-byte sectors to the last). */
void qcow2_compressed_span(const Qcow2Geometry *g, uint64_t word, uint64_t *offset, uint32_t *bytes);
/* 0: does not fit. */
uint64_t qcow2_compressed_word(const Qcow2Geometry *g, uint64_t offset, uint32_t bytes);

/* Refcount number `index` of a block or a part of one. */
uint64_t qcow2_refcount_load(uint32_t order, const uint8_t *block, uint64_t index);
void qcow2_refcount_store(uint32_t order, uint8_t *block, uint64_t index, uint64_t value);

static inline uint16_t get_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}
static inline uint32_t get_be32(const uint8_t *p)
{
    uint32_t v;

    __builtin_memcpy(&v, p, 4);
    return __builtin_bswap32(v);
}
static inline uint64_t get_be64(const uint8_t *p)
{
    uint64_t v;

    __builtin_memcpy(&v, p, 8);
    return __builtin_bswap64(v);
}
static inline void put_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void put_be32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    __builtin_memcpy(p, &v, 4);
}
static inline void put_be64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    __builtin_memcpy(p, &v, 8);
}

#endif
