/*
 * The qcow2 format on disk; see format.h. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/format.h"

#include "base/error.h"
#include "block/formats/qcow2/qcow2.h"

#include <string.h>

typedef struct FeatureName {
    uint8_t type, bit; /* type 0: incompatible, 1: compatible, 2: autoclear */
    const char *name;
} FeatureName;
static const FeatureName feature_names[] = {
    { 0, 0, "dirty bit" },        { 0, 1, "corrupt bit" },         { 0, 2, "external data file" },
    { 0, 3, "compression type" }, { 0, 4, "extended L2 entries" }, { 1, 0, "lazy refcounts" },
    { 2, 0, "bitmaps" },          { 2, 1, "raw external data" },
};
#define JOURNAL_FEATURE_NAME "Rhea journal (open once with Rhea)"
#define FEATURE_NAME_BYTES   48u
#define EXT_JOURNAL_BYTES    40u

int qcow2_header_probe(const uint8_t *head, size_t size, const char *filename)
{
    uint32_t version;

    if (size < 8 || get_be32(head) != QCOW2_MAGIC) {
        return 0;
    }
    version = get_be32(head + 4);
    return version >= 2 ? 100 : 0;
}

uint32_t qcow2_header_cluster_size(const uint8_t *data, size_t size)
{
    uint32_t bits;

    if (size < QCOW2_V2_HEADER || get_be32(data) != QCOW2_MAGIC) {
        return 0;
    }
    bits = get_be32(data + 20);
    return bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS ? 0 : 1u << bits;
}

static bool check_table(uint64_t offset, uint64_t entries, uint32_t entry_bytes, uint64_t max_bytes,
                        uint32_t cluster_size, const char *name, GError **error)
{
    if (entries > max_bytes / entry_bytes) {
        return error_set(error, "%s too large", name);
    }
    if (offset > INT64_MAX - entries * entry_bytes || offset % cluster_size) {
        return error_set(error, "%s offset invalid", name);
    }
    return true;
}

static char *text_of(const uint8_t *data, size_t size)
{
    return memchr(data, 0, size) ? NULL : g_strndup((const char *)data, size);
}

static bool decode_journal(Qcow2Header *h, const uint8_t *data, uint32_t size, GError **error)
{
    Qcow2JournalExt *j = &h->journal;

    if (size < EXT_JOURNAL_BYTES) {
        return error_set(error, "The journal's header extension is too short");
    }
    j->present = true;
    j->wish = get_be32(data);
    j->offset = get_be64(data + 8);
    j->size = get_be64(data + 16);
    memcpy(j->uuid, data + 24, 16);
    return true;
}

static bool decode_extension(Qcow2Header *h, uint32_t type, const uint8_t *data, uint32_t size,
                             GError **error)
{
    Qcow2Extension ext = { .type = type, .size = size };

    switch (type) {
    case QCOW2_EXT_BACKING_FORMAT:
        if (size >= 16) {
            return error_set(error, "ERROR: ext_backing_format: len=%u too large (>=16)", size);
        }
        g_free(h->backing_format);
        h->backing_format = text_of(data, size);
        return true;
    case QCOW2_EXT_FEATURE_NAMES:
        return true; /* looked at only where something is unknown */
    case QCOW2_EXT_DATA_FILE:
        g_free(h->data_file);
        h->data_file = text_of(data, size);
        if (!h->data_file) {
            return error_set(error, "The name of the external data file holds a zero byte");
        }
        return true;
    case QCOW2_EXT_BITMAPS:
        if (size != 24) {
            return error_set(error, "bitmaps_ext: Invalid extension length");
        }
        if (!(h->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
            return true; /* written to by who does not know them: they are void */
        }
        h->has_bitmaps = true;
        h->bitmap_count = get_be32(data);
        h->bitmap_dir_size = get_be64(data + 8);
        h->bitmap_dir_offset = get_be64(data + 16);
        if (get_be32(data + 4)) {
            return error_set(error, "bitmaps_ext: Reserved field is not zero");
        }
        if (h->bitmap_count > QCOW2_MAX_BITMAPS) {
            return error_set(error, "bitmaps_ext: image has %u bitmaps, exceeding the maximum of %u",
                             h->bitmap_count, QCOW2_MAX_BITMAPS);
        }
        if (!h->bitmap_count) {
            return error_set(error, "bitmaps_ext: found bitmaps extension with zero bitmaps");
        }
        if (h->bitmap_dir_offset % (1u << h->cluster_bits) || !h->bitmap_dir_offset) {
            return error_set(error, "bitmaps_ext: invalid bitmap directory offset");
        }
        if (h->bitmap_dir_size > QCOW2_MAX_BITMAP_DIR ||
            h->bitmap_dir_offset > INT64_MAX - h->bitmap_dir_size) {
            return error_set(error,
                             "bitmaps_ext: bitmap directory size (%" G_GUINT64_FORMAT
                             ") exceeds the maximum supported size (%u)",
                             h->bitmap_dir_size, QCOW2_MAX_BITMAP_DIR);
        }
        return true;
    case QCOW2_EXT_CRYPTO:
        if (h->crypt_method != 2) {
            return error_set(error, "CRYPTO header extension only expected with LUKS encryption method");
        }
        if (size != 16) {
            return error_set(error, "CRYPTO header extension size %u, but expected size 16", size);
        }
        h->has_crypto = true;
        h->crypto_offset = get_be64(data);
        h->crypto_size = get_be64(data + 8);
        if (h->crypto_offset % (1u << h->cluster_bits)) {
            return error_set(error,
                             "Encryption header offset '%" G_GUINT64_FORMAT
                             "' is not a multiple of cluster size '%u'",
                             h->crypto_offset, 1u << h->cluster_bits);
        }
        return true;
    case QCOW2_EXT_JOURNAL:
        return decode_journal(h, data, size, error);
    default:
        ext.data = g_memdup2(data, size);
        g_array_append_val(h->unknown, ext);
        return true;
    }
}

static bool decode_extensions(Qcow2Header *h, const uint8_t *data, size_t end, GError **error)
{
    size_t at = h->header_length;

    while (at + 4 <= end) {
        uint32_t type = get_be32(data + at), size = at + 8 <= end ? get_be32(data + at + 4) : UINT32_MAX;

        at += 8;
        if (type == QCOW2_EXT_END) {
            return true;
        }
        if (at > end || size > end - at) {
            return error_set(error, "Header extension too large");
        }
        if (!decode_extension(h, type, data + at, size, error)) {
            return false;
        }
        at += MIN((size_t)(size + 7u) & ~(size_t)7, end - at);
    }
    return true;
}

static bool decode_fields(Qcow2Header *h, const uint8_t *data, size_t size, GError **error)
{
    if (size < QCOW2_V2_HEADER || get_be32(data) != QCOW2_MAGIC) {
        return error_set(error, "Image is not in qcow2 format");
    }
    h->version = get_be32(data + 4);
    h->backing_offset = get_be64(data + 8);
    h->backing_size = get_be32(data + 16);
    h->cluster_bits = get_be32(data + 20);
    h->size = get_be64(data + 24);
    h->crypt_method = get_be32(data + 32);
    h->l1_size = get_be32(data + 36);
    h->l1_offset = get_be64(data + 40);
    h->reftable_offset = get_be64(data + 48);
    h->reftable_clusters = get_be32(data + 56);
    h->snapshot_count = get_be32(data + 60);
    h->snapshots_offset = get_be64(data + 64);
    h->refcount_order = 4;
    h->header_length = QCOW2_V2_HEADER;
    if (h->version < 2 || h->version > 3) {
        return error_set(error, "Unsupported qcow2 version %u", h->version);
    }
    if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS || h->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        return error_set(error, "Unsupported cluster size: 2^%u", h->cluster_bits);
    }
    if (h->version == 2) {
        return true;
    }
    if (size < QCOW2_V3_HEADER) {
        return error_set(error, "qcow2 header too short");
    }
    h->incompatible = get_be64(data + 72);
    h->compatible = get_be64(data + 80);
    h->autoclear = get_be64(data + 88);
    h->refcount_order = get_be32(data + 96);
    h->header_length = get_be32(data + 100);
    if (h->header_length < QCOW2_V3_HEADER) {
        return error_set(error, "qcow2 header too short");
    }
    if (h->header_length > 1u << h->cluster_bits) {
        return error_set(error, "qcow2 header exceeds cluster size");
    }
    if (h->header_length > size) {
        return error_set(error, "qcow2 header is cut off by the end of the file");
    }
    if (h->header_length > QCOW2_V3_HEADER) {
        h->compression_type = data[104];
    }
    if (h->header_length > QCOW2_OUR_HEADER) {
        h->unknown_size = h->header_length - QCOW2_OUR_HEADER;
        h->unknown_fields = g_memdup2(data + QCOW2_OUR_HEADER, h->unknown_size);
    }
    return true;
}

static bool check_fields(Qcow2Header *h, const uint8_t *data, size_t size, GError **error)
{
    uint32_t cluster_size = 1u << h->cluster_bits;
    Qcow2Geometry g;

    if (h->backing_offset > cluster_size) {
        return error_set(error, "Invalid backing file offset");
    }
    if (h->refcount_order > 6) {
        return error_set(error, "Reference count entry width too large; may not exceed 64 bits");
    }
    if (!(h->incompatible & QCOW2_INCOMPAT_COMPRESSION) != !h->compression_type) {
        return error_set(error, h->compression_type
                                    ? "qcow2: Compression type incompatible feature bit must be set"
                                    : "qcow2: Compression type incompatible feature bit must not be set");
    }
    if (h->compression_type > QCOW2_ZSTD) {
        return error_set(error, "qcow2: unknown compression type: %u", h->compression_type);
    }
    if (!qcow2_compression_load(h->compression_type, error)) {
        return false;
    }
    if (h->crypt_method > 2) {
        return error_set(error, "Unsupported encryption method %u", h->crypt_method);
    }
    if ((h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) && h->cluster_bits < 14) {
        return error_set(error,
                         "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
    }
    if (h->size > INT64_MAX - (1u << 30)) {
        return error_set(error, "Image size %" G_GUINT64_FORMAT " is too large", h->size);
    }
    qcow2_geometry_init(&g, h);
    if (!h->reftable_clusters && !(h->incompatible & QCOW2_INCOMPAT_CORRUPT)) {
        return error_set(error, "Image does not contain a reference count table");
    }
    if (!check_table(h->reftable_offset, h->reftable_clusters, cluster_size, QCOW2_MAX_REFTABLE, cluster_size,
                     "Reference count table", error) ||
        !check_table(h->l1_offset, h->l1_size, 8, QCOW2_MAX_L1_BYTES, cluster_size, "Active L1 table",
                     error)) {
        return false;
    }
    if (qcow2_l1_entries(&g, h->size) > QCOW2_MAX_L1_BYTES / 8) {
        return error_set(error, "Image is too big");
    }
    if (h->l1_size < qcow2_l1_entries(&g, h->size)) {
        return error_set(error, "L1 table is too small");
    }
    if (h->backing_offset) {
        if (h->backing_size > 1023 || h->backing_size > cluster_size - h->backing_offset) {
            return error_set(error, "Backing file name too long");
        }
        if (h->backing_offset < h->header_length) {
            return error_set(error, "Invalid backing file offset");
        }
        if (h->backing_size > size || h->backing_offset > size - h->backing_size) {
            return error_set(error, "Could not read backing file name");
        }
        if (h->backing_size) {
            h->backing_file = text_of(data + h->backing_offset, h->backing_size);
            if (!h->backing_file) {
                return error_set(error, "The backing file's name holds a zero byte");
            }
        }
    }
    return true;
}

bool qcow2_header_check_snapshots(const Qcow2Header *h, GError **error)
{
    return check_table(h->snapshots_offset, h->snapshot_count, 1024, QCOW2_MAX_SNAPSHOT_TAB,
                       1u << h->cluster_bits, "Snapshot table", error);
}

bool qcow2_header_decode(Qcow2Header *h, const uint8_t *data, size_t size, GError **error)
{
    size_t end;
    char *unknown;

    memset(h, 0, sizeof(*h));
    h->unknown = g_array_new(FALSE, FALSE, sizeof(Qcow2Extension));
    if (!decode_fields(h, data, size, error)) {
        return false;
    }
    unknown = qcow2_unknown_features(h, data, size);
    if (unknown) {
        error_set(error, "Unsupported qcow2 feature(s): %s", unknown);
        g_free(unknown);
        return false;
    }
    if (!check_fields(h, data, size, error)) {
        return false;
    }
    end = MIN(size, (size_t)1 << h->cluster_bits);
    if (h->backing_offset) {
        end = MIN(end, h->backing_offset);
    }
    if (!decode_extensions(h, data, end, error)) {
        return false;
    }
    if ((h->incompatible & QCOW2_INCOMPAT_JOURNAL) && !h->journal.offset) {
        return error_set(error, "The image's journal is in use, but its header extension is missing");
    }
    if (h->crypt_method == 2 && !h->has_crypto) {
        return error_set(error, "CRYPTO header extension missing for LUKS encryption method");
    }
    if (h->data_file && !(h->incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
        g_clear_pointer(&h->data_file, g_free);
    }
    return true;
}

static bool put_extension(uint8_t *data, size_t size, size_t *at, uint32_t type, const void *bytes,
                          uint32_t length)
{
    size_t need = 8 + (((size_t)length + 7) & ~(size_t)7);

    if (need > size - *at) {
        return false;
    }
    put_be32(data + *at, type);
    put_be32(data + *at + 4, length);
    if (length) {
        memcpy(data + *at + 8, bytes, length);
    }
    *at += need;
    return true;
}

static bool put_feature_names(uint8_t *data, size_t size, size_t *at, bool journal)
{
    uint8_t table[(G_N_ELEMENTS(feature_names) + 1) * FEATURE_NAME_BYTES] = { 0 };
    uint32_t bytes = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(feature_names); i++, bytes += FEATURE_NAME_BYTES) {
        table[bytes] = feature_names[i].type;
        table[bytes + 1] = feature_names[i].bit;
        g_strlcpy((char *)table + bytes + 2, feature_names[i].name, FEATURE_NAME_BYTES - 2);
    }
    if (journal) {
        table[bytes + 1] = QCOW2_INCOMPAT_JOURNAL_BIT;
        g_strlcpy((char *)table + bytes + 2, JOURNAL_FEATURE_NAME, FEATURE_NAME_BYTES - 2);
        bytes += FEATURE_NAME_BYTES;
    }
    /* It helps only: where there is no room (512-byte clusters) it is left out. */
    return bytes + 8 + 256 <= size - *at
               ? put_extension(data, size, at, QCOW2_EXT_FEATURE_NAMES, table, bytes)
               : true;
}

bool qcow2_header_encode(const Qcow2Header *h, uint8_t *data, size_t size, GError **error)
{
    size_t at;
    bool fits = true;

    memset(data, 0, size);
    put_be32(data, QCOW2_MAGIC);
    put_be32(data + 4, h->version);
    put_be32(data + 20, h->cluster_bits);
    put_be64(data + 24, h->size);
    put_be32(data + 32, h->crypt_method);
    put_be32(data + 36, h->l1_size);
    put_be64(data + 40, h->l1_offset);
    put_be64(data + 48, h->reftable_offset);
    put_be32(data + 56, h->reftable_clusters);
    put_be32(data + 60, h->snapshot_count);
    put_be64(data + 64, h->snapshots_offset);
    at = QCOW2_V2_HEADER;
    if (h->version >= 3) {
        at = QCOW2_OUR_HEADER + h->unknown_size;
        if (at > size) {
            return error_set(error, "The qcow2 header does not fit into the first cluster");
        }
        put_be64(data + 72, h->incompatible);
        put_be64(data + 80, h->compatible);
        put_be64(data + 88, h->autoclear);
        put_be32(data + 96, h->refcount_order);
        put_be32(data + 100, (uint32_t)at);
        data[104] = h->compression_type;
        if (h->unknown_size) {
            memcpy(data + QCOW2_OUR_HEADER, h->unknown_fields, h->unknown_size);
        }
    }
    /* What changes while the image is in use lies in the first sector, with the features: a sector is written
     * whole. */
    if (h->journal.present) {
        uint8_t ext[EXT_JOURNAL_BYTES] = { 0 };

        put_be32(ext, h->journal.wish);
        put_be64(ext + 8, h->journal.offset);
        put_be64(ext + 16, h->journal.size);
        memcpy(ext + 24, h->journal.uuid, 16);
        fits = fits && put_extension(data, size, &at, QCOW2_EXT_JOURNAL, ext, sizeof(ext));
    }
    if (h->has_bitmaps) {
        uint8_t ext[24] = { 0 };

        put_be32(ext, h->bitmap_count);
        put_be64(ext + 8, h->bitmap_dir_size);
        put_be64(ext + 16, h->bitmap_dir_offset);
        fits = fits && put_extension(data, size, &at, QCOW2_EXT_BITMAPS, ext, sizeof(ext));
    }
    if (h->backing_format) {
        fits = fits && put_extension(data, size, &at, QCOW2_EXT_BACKING_FORMAT, h->backing_format,
                                     (uint32_t)strlen(h->backing_format));
    }
    if (h->data_file) {
        fits = fits && put_extension(data, size, &at, QCOW2_EXT_DATA_FILE, h->data_file,
                                     (uint32_t)strlen(h->data_file));
    }
    if (h->has_crypto) {
        uint8_t ext[16];

        put_be64(ext, h->crypto_offset);
        put_be64(ext + 8, h->crypto_size);
        fits = fits && put_extension(data, size, &at, QCOW2_EXT_CRYPTO, ext, sizeof(ext));
    }
    if (fits && h->version >= 3) {
        fits = put_feature_names(data, size, &at, h->journal.present);
    }
    for (guint i = 0; h->unknown && i < h->unknown->len; i++) {
        const Qcow2Extension *ext = &g_array_index(h->unknown, Qcow2Extension, i);

        fits = fits && put_extension(data, size, &at, ext->type, ext->data, ext->size);
    }
    fits = fits && put_extension(data, size, &at, QCOW2_EXT_END, NULL, 0);
    if (fits && h->backing_file) {
        size_t length = strlen(h->backing_file);

        fits = length <= 1023 && length <= size - at;
        if (fits) {
            memcpy(data + at, h->backing_file, length);
            put_be64(data + 8, at);
            put_be32(data + 16, (uint32_t)length);
        }
    }
    if (!fits) {
        return error_set(error, "The qcow2 header with its names does not fit into the first cluster");
    }
    return true;
}

void qcow2_header_clear(Qcow2Header *h)
{
    for (guint i = 0; h->unknown && i < h->unknown->len; i++) {
        g_free(g_array_index(h->unknown, Qcow2Extension, i).data);
    }
    if (h->unknown) {
        g_array_free(h->unknown, TRUE);
    }
    g_free(h->unknown_fields);
    g_free(h->backing_file);
    g_free(h->backing_format);
    g_free(h->data_file);
    memset(h, 0, sizeof(*h));
}

/* The feature-name table among the extensions; may be anywhere behind the header. */
static const uint8_t *find_feature_table(const Qcow2Header *h, const uint8_t *data, size_t size,
                                         uint32_t *bytes)
{
    size_t at = h->header_length, end = MIN(size, (size_t)1 << h->cluster_bits);

    while (at + 8 <= end) {
        uint32_t type = get_be32(data + at), length = get_be32(data + at + 4);

        at += 8;
        if (type == QCOW2_EXT_END || length > end - at) {
            break;
        }
        if (type == QCOW2_EXT_FEATURE_NAMES) {
            *bytes = length;
            return data + at;
        }
        at += MIN((size_t)(length + 7u) & ~(size_t)7, end - at);
    }
    return NULL;
}

char *qcow2_unknown_features(const Qcow2Header *h, const uint8_t *data, size_t size)
{
    uint64_t unknown = h->incompatible & ~QCOW2_INCOMPAT_KNOWN;
    uint32_t bytes = 0;
    const uint8_t *table;
    GString *text;

    if (!unknown) {
        return NULL;
    }
    text = g_string_new(NULL);
    table = find_feature_table(h, data, size, &bytes);
    for (uint32_t i = 0; table && i + 2 < bytes; i += FEATURE_NAME_BYTES) { /* the last may be cut off */
        uint64_t bit = table[i + 1] < 64 ? UINT64_C(1) << table[i + 1] : 0;

        if (table[i] == 0 && (unknown & bit)) {
            char *name = g_strndup((const char *)table + i + 2, MIN(FEATURE_NAME_BYTES, bytes - i) - 2);

            for (char *c = name; *c; c++) { /* it goes to a terminal */
                *c = g_ascii_isprint(*c) ? *c : '?';
            }
            g_string_append_printf(text, "%s%.46s", text->len ? ", " : "", name);
            g_free(name);
            unknown &= ~bit;
        }
    }
    if (unknown) {
        g_string_append_printf(text, "%sUnknown incompatible feature: %" G_GINT64_MODIFIER "x",
                               text->len ? ", " : "", unknown);
    }
    return g_string_free(text, FALSE);
}

/* ---- geometry ---- */

void qcow2_geometry_init(Qcow2Geometry *g, const Qcow2Header *h)
{
    bool extended = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;

    memset(g, 0, sizeof(*g));
    g->cluster_bits = h->cluster_bits;
    g->cluster_size = 1u << h->cluster_bits;
    g->l2_entry_bytes = extended ? 16 : 8;
    g->l2_bits = h->cluster_bits - (extended ? 4 : 3);
    g->sub_bits = extended ? 5 : 0;
    g->sub_size = g->cluster_size >> g->sub_bits;
    g->refcount_order = h->refcount_order;
    g->refblock_bits = h->cluster_bits + 3 - h->refcount_order;
    g->refcount_max = h->refcount_order == 6 ? INT64_MAX : (UINT64_C(1) << (1u << h->refcount_order)) - 1;
    g->csize_shift = 62 - (h->cluster_bits - 8);
    g->csize_mask = (UINT64_C(1) << (h->cluster_bits - 8)) - 1;
    g->coffset_mask = (UINT64_C(1) << g->csize_shift) - 1;
    g->data_file = h->incompatible & QCOW2_INCOMPAT_DATA_FILE;
    g->v2 = h->version == 2;
}

uint64_t qcow2_l1_entries(const Qcow2Geometry *g, uint64_t size)
{
    uint32_t shift = g->cluster_bits + g->l2_bits;

    return (size >> shift) + !!(size & ((UINT64_C(1) << shift) - 1));
}

/* ---- entries ---- */

Qcow2Entry qcow2_entry_load(const Qcow2Geometry *g, const uint8_t *at)
{
    return (Qcow2Entry){ get_be64(at), g->sub_bits ? get_be64(at + 8) : 0 };
}

void qcow2_entry_store(const Qcow2Geometry *g, uint8_t *at, Qcow2Entry e)
{
    put_be64(at, e.word);
    if (g->sub_bits) {
        put_be64(at + 8, e.bitmap);
    }
}

bool qcow2_entry_has_host(const Qcow2Geometry *g, Qcow2Entry e)
{
    if (e.word & QCOW2_COMPRESSED) {
        return false;
    }
    return qcow2_entry_host(e) || (g->data_file && (e.word & QCOW2_COPIED));
}

static bool entry_valid(const Qcow2Geometry *g, Qcow2Entry e)
{
    if (e.word & QCOW2_COMPRESSED) {
        return !g->data_file && !(e.word & g->coffset_mask & ~UINT64_C(0x00ffffffffffffff));
    }
    if (qcow2_entry_host(e) & (g->cluster_size - 1)) {
        return false;
    }
    if (g->sub_bits) {
        uint32_t alloc = (uint32_t)e.bitmap, zero = (uint32_t)(e.bitmap >> 32);

        return !(alloc & zero) && (!alloc || qcow2_entry_has_host(g, e));
    }
    return true;
}

Qcow2Kind qcow2_entry_kind(const Qcow2Geometry *g, Qcow2Entry e, uint32_t sub)
{
    bool host;

    if (!entry_valid(g, e)) {
        return QCOW2_KIND_INVALID;
    }
    if (e.word & QCOW2_COMPRESSED) {
        return QCOW2_KIND_COMPRESSED;
    }
    host = qcow2_entry_has_host(g, e);
    if (g->sub_bits) {
        if (e.bitmap >> 32 >> sub & 1) {
            return host ? QCOW2_KIND_ZERO_HOST : QCOW2_KIND_ZERO;
        }
        if (e.bitmap >> sub & 1) {
            return QCOW2_KIND_DATA;
        }
        return host ? QCOW2_KIND_UNALLOCATED_HOST : QCOW2_KIND_UNALLOCATED;
    }
    if (e.word & QCOW2_ZERO) {
        if (g->v2) {
            return QCOW2_KIND_INVALID;
        }
        return host ? QCOW2_KIND_ZERO_HOST : QCOW2_KIND_ZERO;
    }
    return host ? QCOW2_KIND_DATA : QCOW2_KIND_UNALLOCATED;
}

uint32_t qcow2_entry_run(const Qcow2Geometry *g, Qcow2Entry e, uint32_t sub, Qcow2Kind *kind)
{
    uint32_t subs = 1u << g->sub_bits, n = 1;

    *kind = qcow2_entry_kind(g, e, sub);
    if (*kind == QCOW2_KIND_COMPRESSED || *kind == QCOW2_KIND_INVALID) {
        return subs - sub;
    }
    while (sub + n < subs && qcow2_entry_kind(g, e, sub + n) == *kind) {
        n++;
    }
    return n;
}

void qcow2_entry_set_data(const Qcow2Geometry *g, Qcow2Entry *e, uint32_t from, uint32_t count)
{
    if (g->sub_bits) {
        uint64_t mask = qcow2_sub_mask(from, count);

        e->bitmap = (e->bitmap | mask) & ~(mask << 32);
    } else {
        e->word &= ~QCOW2_ZERO;
    }
}

void qcow2_entry_set_zero(const Qcow2Geometry *g, Qcow2Entry *e, uint32_t from, uint32_t count)
{
    if (g->sub_bits) {
        uint64_t mask = qcow2_sub_mask(from, count);

        e->bitmap = (e->bitmap | mask << 32) & ~mask;
    } else {
        e->word |= QCOW2_ZERO;
    }
}

void qcow2_compressed_span(const Qcow2Geometry *g, uint64_t word, uint64_t *offset, uint32_t *bytes)
{
    uint64_t sectors = ((word >> g->csize_shift) & g->csize_mask) + 1;

    *offset = word & g->coffset_mask;
    *bytes = (uint32_t)(sectors * 512 - (*offset & 511));
}

uint64_t qcow2_compressed_word(const Qcow2Geometry *g, uint64_t offset, uint32_t bytes)
{
    uint64_t sectors = (offset + bytes - 1) / 512 - offset / 512;

    if (!bytes || (offset & ~g->coffset_mask) || offset >> 56 || sectors > g->csize_mask) {
        return 0;
    }
    return QCOW2_COMPRESSED | sectors << g->csize_shift | offset;
}

uint64_t qcow2_refcount_load(uint32_t order, const uint8_t *block, uint64_t index)
{
    switch (order) {
    case 0:
    case 1:
    case 2:
        return block[index >> (3 - order)] >> ((index & ((8u >> order) - 1)) << order) &
               ((1u << (1u << order)) - 1);
    case 3:
        return block[index];
    case 4:
        return get_be16(block + index * 2);
    case 5:
        return get_be32(block + index * 4);
    default:
        return get_be64(block + index * 8);
    }
}

void qcow2_refcount_store(uint32_t order, uint8_t *block, uint64_t index, uint64_t value)
{
    uint8_t *byte;
    uint32_t shift, mask;

    switch (order) {
    case 0:
    case 1:
    case 2:
        byte = block + (index >> (3 - order));
        shift = (uint32_t)(index & ((8u >> order) - 1)) << order;
        mask = ((1u << (1u << order)) - 1) << shift;
        *byte = (uint8_t)((*byte & ~mask) | ((value << shift) & mask));
        break;
    case 3:
        block[index] = (uint8_t)value;
        break;
    case 4:
        put_be16(block + index * 2, (uint16_t)value);
        break;
    case 5:
        put_be32(block + index * 4, (uint32_t)value);
        break;
    default:
        put_be64(block + index * 8, value);
        break;
    }
}
