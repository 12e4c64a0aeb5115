/*
 * Making qcow2 images. The empty image is laid out in memory and written front to back; sizes beyond that,
 * data files and preallocation are then done through the driver itself. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include "block/graph/graph.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

const BlockOption qcow2_create_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, true },
    { "compat", BLOCK_OPTION_STRING, "Compatibility level (v2 [0.10] or v3 [1.1])", NULL, true },
    { "backing_file", BLOCK_OPTION_STRING, "File name of a base image", NULL, true },
    { "backing_fmt", BLOCK_OPTION_STRING, "Image format of the base image", NULL, true },
    { "data_file", BLOCK_OPTION_STRING, "File name of an external data file", NULL, true },
    { "data_file_raw", BLOCK_OPTION_BOOL, "The external data file must stay valid as a raw image", NULL,
      true },
    { "extended_l2", BLOCK_OPTION_BOOL, "Extended L2 tables", NULL, false },
    { "encryption", BLOCK_OPTION_BOOL,
      "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)", NULL, false },
    { "encrypt.format", BLOCK_OPTION_STRING, "Encrypt the image, format choices: 'aes', 'luks'", NULL,
      false },
    { "encrypt.key-secret", BLOCK_OPTION_STRING, "ID of secret providing qcow AES key or LUKS passphrase",
      NULL, false },
    { "encrypt.cipher-alg", BLOCK_OPTION_STRING, "Name of encryption cipher algorithm", NULL, false },
    { "encrypt.cipher-mode", BLOCK_OPTION_STRING, "Name of encryption cipher mode", NULL, false },
    { "encrypt.ivgen-alg", BLOCK_OPTION_STRING, "Name of IV generator algorithm", NULL, false },
    { "encrypt.ivgen-hash-alg", BLOCK_OPTION_STRING, "Name of IV generator hash algorithm", NULL, false },
    { "encrypt.hash-alg", BLOCK_OPTION_STRING, "Name of encryption hash algorithm", NULL, false },
    { "encrypt.iter-time", BLOCK_OPTION_NUMBER, "Time to spend in PBKDF in milliseconds", NULL, true },
    { "encrypt.state", BLOCK_OPTION_STRING, "Select new state of affected keyslots (active/inactive)", NULL,
      true, true },
    { "encrypt.keyslot", BLOCK_OPTION_NUMBER, "Select a single keyslot to modify explicitly", NULL, true,
      true },
    { "encrypt.old-secret", BLOCK_OPTION_STRING, "Select all keyslots that match this password", NULL, true,
      true },
    { "encrypt.new-secret", BLOCK_OPTION_STRING,
      "New secret to set in the matching keyslots. Empty string to erase", NULL, true, true },
    { "cluster_size", BLOCK_OPTION_SIZE, "qcow2 cluster size", NULL, false },
    { "preallocation", BLOCK_OPTION_STRING,
      "Preallocation mode (allowed values: off, metadata, falloc, full)", NULL, false },
    { "lazy_refcounts", BLOCK_OPTION_BOOL, "Postpone refcount updates", NULL, true },
    { "refcount_bits", BLOCK_OPTION_NUMBER, "Width of a reference count entry in bits", NULL, true },
    { "compression_type", BLOCK_OPTION_STRING, "Compression method used for image cluster compression", NULL,
      false },
    { "journal", BLOCK_OPTION_STRING,
      "Journal: on, off, or auto (on, and with a base image extended L2 tables too)", NULL, true },
    { NULL },
};

typedef struct Want {
    uint64_t size, cluster_size;
    uint32_t version, refcount_bits;
    bool extended_l2, has_extended_l2, lazy, data_raw, has_cluster_size;
    const char *backing, *backing_format, *data_file; /* names as stored */
    BlockNode *data;
    QapiPreallocMode prealloc;
    Qcow2Compression compression;
    bool journal, journal_auto;
    uint32_t crypt_method; /* as in the header */
    LuksCreate luks;
    const char *key_secret;
} Want;

static bool check_want(Want *w, GError **error)
{
    if (w->journal && w->version < 3) {
        if (!w->journal_auto) {
            return error_set(error,
                             "The journal requires compatibility level 1.1 (use compat=v3 or greater)");
        }
        w->journal = false;
    }
    if (w->journal && w->journal_auto && w->backing && !w->has_extended_l2) {
        /* First writes copy subclusters of 4 KiB rather than clusters of 64. */
        w->extended_l2 = true;
        if (!w->has_cluster_size) {
            w->cluster_size = 128u << 10;
        }
    }
    if (w->cluster_size < 512 || w->cluster_size > 2u << 20 || (w->cluster_size & (w->cluster_size - 1))) {
        return error_set(error, "Cluster size must be a power of two between %d and %dk", 512, 2048);
    }
    if (w->extended_l2 && w->cluster_size < 16384) {
        return error_set(
            error, "Extended L2 entries are only supported with cluster sizes of at least %u bytes", 16384u);
    }
    if (w->extended_l2 && w->version < 3) {
        return error_set(error,
                         "Extended L2 entries are only supported with compatibility level 1.1 and above "
                         "(use version=v3 or greater)");
    }
    if (w->refcount_bits > 64 || !w->refcount_bits || (w->refcount_bits & (w->refcount_bits - 1))) {
        return error_set(error, "Refcount width must be a power of two and may not exceed 64 bits");
    }
    if (w->version < 3 && w->refcount_bits != 16) {
        return error_set(error,
                         "Different refcount widths than 16 bits require compatibility level 1.1 or above "
                         "(use version=v3 or greater)");
    }
    if (w->lazy && w->version < 3) {
        return error_set(error, "Lazy refcounts only supported with compatibility level 1.1 and above "
                                "(use version=v3 or greater)");
    }
    if (w->compression != QCOW2_ZLIB && w->version < 3) {
        return error_set(error,
                         "Non-zlib compression type is only supported with compatibility level 1.1 and above "
                         "(use version=v3 or greater)");
    }
    if (w->size & 511) {
        return error_set(error, "Image size must be a multiple of 512 bytes");
    }
    if (w->prealloc != QAPI_PREALLOC_MODE_OFF && w->backing && !w->extended_l2) {
        return error_set(error,
                         "Backing file and preallocation can only be used at the same time if extended_l2 is "
                         "enabled");
    }
    if (w->data && w->version < 3) {
        return error_set(error,
                         "External data files are only supported with compatibility level 1.1 and above "
                         "(use version=v3 or greater)");
    }
    if (w->data_raw && !w->data) {
        return error_set(error, "data-file-raw requires data-file");
    }
    if (w->data_raw && w->backing) {
        return error_set(error, "Backing file and data-file-raw cannot be used at the same time");
    }
    if (w->backing && strlen(w->backing) > 1023) {
        return error_set(error, "The backing file's name is longer than 1023 bytes");
    }
    return true;
}

static void fill_header(Qcow2Header *h, const Want *w)
{
    memset(h, 0, sizeof(*h));
    h->version = w->version;
    h->cluster_bits = (uint32_t)__builtin_ctzll(w->cluster_size);
    h->size = w->size;
    h->refcount_order = (uint32_t)__builtin_ctz(w->refcount_bits);
    h->compression_type = (uint8_t)w->compression;
    h->incompatible = (w->extended_l2 ? QCOW2_INCOMPAT_EXTENDED_L2 : 0) |
                      (w->compression ? QCOW2_INCOMPAT_COMPRESSION : 0) |
                      (w->data ? QCOW2_INCOMPAT_DATA_FILE : 0);
    h->compatible = w->lazy ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0;
    h->autoclear = w->data_raw ? QCOW2_AUTOCLEAR_RAW_DATA : 0;
    h->backing_file = g_strdup(w->backing);
    h->backing_format = g_strdup(w->backing ? w->backing_format : NULL);
    h->crypt_method = w->crypt_method;
    h->data_file = w->data ? g_strdup(w->data_file) : NULL;
    if (w->journal) {
        h->journal.present = true;
        h->journal.wish = qcow2_journal_wish(w->size);
    }
}

static bool write_luks(BlockGraph *graph, BlockChild *root, uint64_t offset, const Want *w, GError **error)
{
    const uint8_t *password;
    LuksHeader header;
    size_t bytes;

    return luks_secret(graph, w->key_secret, "encrypt.", &password, &bytes, error) &&
           luks_format(&header, &w->luks, root, offset, password, bytes, error);
}

/* header | refcount table | refcount blocks | L1 table | encryption header: sizes depend on each other. */
static bool write_image(BlockGraph *graph, BlockChild *root, const Want *w, GError **error)
{
    Qcow2Header h;
    Qcow2Geometry g;
    uint64_t l1, blocks = 1, table = 1, total = 0, last, per_block, crypto = 0, end;
    uint8_t *buf;
    bool ok = true;
    int ret;

    fill_header(&h, w);
    qcow2_geometry_init(&g, &h);
    l1 = qcow2_l1_entries(&g, w->size);
    if (l1 > QCOW2_MAX_L1_BYTES / 8) {
        qcow2_header_clear(&h);
        return error_set(
            error, "The image size is too large for file format 'qcow2' (try using a larger cluster size)");
    }
    h.l1_size = (uint32_t)l1;
    l1 = (l1 * 8 + g.cluster_size - 1) >> g.cluster_bits;
    if (w->crypt_method == 2) {
        h.has_crypto = true;
        h.crypto_size = luks_create_payload(&w->luks);
        crypto = (h.crypto_size + g.cluster_size - 1) >> g.cluster_bits;
    }
    per_block = UINT64_C(1) << g.refblock_bits;
    do {
        last = total;
        total = 1 + table + blocks + l1 + crypto;
        blocks = (total + per_block - 1) / per_block;
        table = (blocks * 8 + g.cluster_size - 1) >> g.cluster_bits;
    } while (total != last);
    h.reftable_offset = g.cluster_size;
    h.reftable_clusters = (uint32_t)table;
    h.l1_offset = (1 + table + blocks) << g.cluster_bits;
    h.crypto_offset = crypto ? h.l1_offset + (l1 << g.cluster_bits) : 0;
    end = crypto ? total << g.cluster_bits : h.l1_offset + (uint64_t)h.l1_size * 8;
    buf = g_malloc0((1 + table + blocks) << g.cluster_bits);
    ok = qcow2_header_encode(&h, buf, g.cluster_size, error);
    for (uint64_t i = 0; i < blocks; i++) {
        put_be64(buf + g.cluster_size + i * 8, (1 + table + i) << g.cluster_bits);
    }
    for (uint64_t i = 0; i < total; i++) {
        qcow2_refcount_store(g.refcount_order, buf + ((1 + table + (i >> g.refblock_bits)) << g.cluster_bits),
                             i & (per_block - 1), 1);
    }
    /* All but the header first. */
    if (ok && !blk_truncate(root, 0, false, QAPI_PREALLOC_MODE_OFF, 0, NULL)) {
        /* A device: its old bytes count. */
        uint64_t wipe = MIN(block_size(root), (l1 + crypto) << g.cluster_bits);

        ret = wipe ? blk_pwrite_zeroes(root, h.l1_offset, wipe, 0) : 0;
        ok = ret >= 0 || error_set_errno(error, -ret, "Could not write the L1 table");
    } else if (ok) {
        ok = blk_truncate(root, end, false, QAPI_PREALLOC_MODE_OFF, 0, error);
    }
    if (ok && crypto) {
        ok = write_luks(graph, root, h.crypto_offset, w, error);
    }
    if (ok) {
        ret = blk_pwrite(root, g.cluster_size, (table + blocks) << g.cluster_bits, buf + g.cluster_size, 0);
        if (ret >= 0) {
            ret = blk_pwrite(root, 0, g.cluster_size, buf, 0);
        }
        ok = ret >= 0 || error_set_errno(error, -ret, "Could not write qcow2 header");
    }
    g_free(buf);
    qcow2_header_clear(&h);
    return ok;
}

/* The new image through the driver, for what goes beyond an empty one. */
static bool finish(BlockGraph *graph, BlockNode *file, const Want *w, GError **error)
{
    json_object *o;
    BlockNode *node;
    BlockChild *root;
    bool ok;

    if (w->prealloc == QAPI_PREALLOC_MODE_OFF && !w->data) {
        return true;
    }
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    json_object_object_add(o, "file", json_object_new_string(file->name));
    json_object_object_add(o, "backing", NULL);
    if (w->data) {
        json_object_object_add(o, "data-file", json_object_new_string(w->data->name));
    }
    if (w->crypt_method) {
        json_object_object_add(o, "encrypt.key-secret", json_object_new_string(w->key_secret));
    }
    node = block_node_open_image(graph, NULL, o, BLOCK_OPEN_NO_BACKING, error);
    json_object_put(o);
    root =
        node ? block_root_new(node, "tool", BLOCK_PERM_WRITE | BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_RESIZE,
                              BLOCK_PERM_ALL, NULL, NULL, error)
             : NULL;
    if (!root) {
        return false;
    }
    /* The other modes give the data file its size themselves. */
    ok = !w->data || (w->prealloc != QAPI_PREALLOC_MODE_OFF && w->prealloc != QAPI_PREALLOC_MODE_METADATA) ||
         block_size(((Qcow2Node *)node)->data_child) >= w->size ||
         blk_truncate(((Qcow2Node *)node)->data_child, w->size, false, QAPI_PREALLOC_MODE_OFF, 0, error);
    /* A raw data file is read by its mapping too: all of it is there from the start. */
    ok = ok &&
         ((w->prealloc == QAPI_PREALLOC_MODE_OFF && !w->data_raw) ||
          qcow2_preallocate((Qcow2Node *)node, 0, w->size,
                            w->prealloc == QAPI_PREALLOC_MODE_OFF ? QAPI_PREALLOC_MODE_METADATA : w->prealloc,
                            error) >= 0);
    block_root_free(root);
    return ok;
}

static bool create(BlockGraph *graph, BlockNode *file, Want *w, GError **error)
{
    BlockChild *root =
        block_root_new(file, "tool", BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE, BLOCK_PERM_ALL, NULL, NULL, error);
    bool ok;

    if (!root) {
        return false;
    }
    ok = write_image(graph, root, w, error) && block_root_set_perm(root, 0, BLOCK_PERM_ALL, error) &&
         finish(graph, file, w, error);
    block_root_free(root);
    return ok;
}

/* ---- by QMP ---- */

bool qcow2_co_create(BlockGraph *graph, QapiBlockdevCreateOptions *options, GError **error)
{
    const QapiBlockdevCreateOptionsQcow2 *o = options->u_qcow2;
    Want w = { .size = o->size,
               .cluster_size = o->has_cluster_size ? o->cluster_size : 65536,
               .version = o->has_version && o->version == QAPI_BLOCKDEV_QCOW2_VERSION_V2 ? 2 : 3,
               .refcount_bits = o->has_refcount_bits ? (uint32_t)CLAMP(o->refcount_bits, 0, 65) : 16,
               .extended_l2 = o->has_extended_l2 && o->extended_l2,
               .has_extended_l2 = true,
               .has_cluster_size = true,
               .lazy = o->has_lazy_refcounts && o->lazy_refcounts,
               .data_raw = o->has_data_file_raw && o->data_file_raw,
               .backing = o->backing_file,
               .backing_format =
                   o->has_backing_fmt ? enum_name(&qapi_BlockdevDriver_lookup, (int)o->backing_fmt) : NULL,
               .prealloc = o->has_preallocation ? o->preallocation : QAPI_PREALLOC_MODE_OFF,
               .compression =
                   o->has_compression_type && o->compression_type == QAPI_QCOW2_COMPRESSION_TYPE_ZSTD
                       ? QCOW2_ZSTD
                       : QCOW2_ZLIB };
    BlockNode *file = block_node_of_ref(graph, o->file, BLOCK_OPEN_RESIZE, error);

    if (!file) {
        return false;
    }
    if (o->data_file) {
        w.data = block_node_of_ref(graph, o->data_file, BLOCK_OPEN_RESIZE, error);
        if (!w.data) {
            return false;
        }
        w.data_file = w.data->filename;
    }
    return check_want(&w, error) && create(graph, file, &w, error);
}

/* ---- by name ---- */

static const char *text_option(json_object *o, const char *name)
{
    json_object *value;

    return json_object_object_get_ex(o, name, &value) && value ? json_object_get_string(value) : NULL;
}

static bool bool_option(json_object *o, const char *name, bool *has)
{
    json_object *value;

    if (!json_object_object_get_ex(o, name, &value)) {
        return false;
    }
    if (has) {
        *has = true;
    }
    return json_object_get_boolean(value);
}

static uint64_t number_option(json_object *o, const char *name, uint64_t otherwise)
{
    json_object *value;

    return json_object_object_get_ex(o, name, &value) ? json_object_get_uint64(value) : otherwise;
}

static bool read_want(Want *w, json_object *o, GError **error)
{
    const char *compat = text_option(o, "compat"), *prealloc = text_option(o, "preallocation"),
               *compression = text_option(o, "compression_type"), *journal = text_option(o, "journal"),
               *format = text_option(o, "encrypt.format");
    json_object *value;

    memset(w, 0, sizeof(*w));
    w->size = (number_option(o, "size", 0) + 511) & ~UINT64_C(511);
    w->has_cluster_size = json_object_object_get_ex(o, "cluster_size", &value);
    w->cluster_size = number_option(o, "cluster_size", 65536);
    w->refcount_bits = (uint32_t)MIN(number_option(o, "refcount_bits", 16), 65);
    w->extended_l2 = bool_option(o, "extended_l2", &w->has_extended_l2);
    w->lazy = bool_option(o, "lazy_refcounts", NULL);
    w->data_raw = bool_option(o, "data_file_raw", NULL);
    w->backing = text_option(o, "backing_file");
    w->backing_format = text_option(o, "backing_fmt");
    w->data_file = text_option(o, "data_file");
    w->key_secret = text_option(o, "encrypt.key-secret");
    if (bool_option(o, "encryption", NULL) && format) {
        return error_set(error, "Options encryption and encrypt.format are mutually exclusive");
    }
    if (format && strcmp(format, "aes") != 0 && strcmp(format, "luks") != 0) {
        return error_set(error, "Parameter 'encrypt.format' does not accept value '%s'", format);
    }
    w->crypt_method = format && strcmp(format, "luks") == 0          ? 2
                      : format || bool_option(o, "encryption", NULL) ? 1
                                                                     : 0;
    if (w->crypt_method && !w->key_secret) {
        return error_set(error, "Parameter 'encrypt.key-secret' is required for cipher");
    }
    if (w->crypt_method == 2 && !luks_create_options(&w->luks, o, "encrypt.", error)) {
        return false;
    }
    if (!compat || strcmp(compat, "1.1") == 0 || strcmp(compat, "v3") == 0) {
        w->version = 3;
    } else if (strcmp(compat, "0.10") == 0 || strcmp(compat, "v2") == 0) {
        w->version = 2;
    } else {
        return error_set(error, "Parameter 'version' does not accept value '%s'", compat);
    }
    if (prealloc && *prealloc) {
        int mode = enum_parse(&qapi_PreallocMode_lookup, prealloc, error);

        if (mode < 0) {
            return false;
        }
        w->prealloc = (QapiPreallocMode)mode;
    }
    if (compression && strcmp(compression, "zstd") == 0) {
        w->compression = QCOW2_ZSTD;
    } else if (compression && strcmp(compression, "zlib") != 0) {
        return error_set(error, "Invalid parameter '%s'", compression);
    }
    if (journal && strcmp(journal, "on") != 0 && strcmp(journal, "off") != 0 &&
        strcmp(journal, "auto") != 0) {
        return error_set(error, "Invalid parameter 'journal': '%s' is none of on, off, auto", journal);
    }
    w->journal = journal && strcmp(journal, "off") != 0;
    w->journal_auto = journal && strcmp(journal, "auto") == 0;
    return true;
}

static BlockNode *open_protocol(BlockGraph *graph, const char *filename, GError **error)
{
    const BlockDriver *protocol = block_protocol_of(filename, error);
    json_object *o;
    BlockNode *node;

    if (!protocol) {
        return NULL;
    }
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string(protocol->name));
    node = block_node_open_image(graph, filename, o, BLOCK_OPEN_RESIZE, error);
    json_object_put(o);
    return node;
}

/* The file that carries an image (or its data) is made empty: what it must hold is written by us. */
static bool make_file(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    json_object *o = json_object_new_object();
    bool ok;

    json_object_object_foreach(options, key, value)
    {
        if (strcmp(key, "preallocation") != 0 && strcmp(key, "size") != 0) {
            json_object_object_add(o, key, json_object_get(value));
        }
    }
    json_object_object_add(o, "size", json_object_new_uint64(0));
    ok = block_co_create_file(graph, filename, o, error);
    json_object_put(o);
    return ok;
}

bool qcow2_co_create_named(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    BlockChild *data_root = NULL;
    BlockNode *file;
    Want w;
    bool ok;

    if (!read_want(&w, options, error)) {
        return false;
    }
    if (w.data_file) {
        /* As QEMU does: the name as it is, not beside the image. */
        if (make_file(graph, w.data_file, options, error)) {
            w.data = open_protocol(graph, w.data_file, error);
        }
        data_root = w.data ? block_root_new(w.data, "tool", 0, BLOCK_PERM_ALL, NULL, NULL, error) : NULL;
        if (!data_root) {
            return false;
        }
    }
    ok = check_want(&w, error) && make_file(graph, filename, options, error);
    file = ok ? open_protocol(graph, filename, error) : NULL;
    ok = file && create(graph, file, &w, error);
    if (data_root) {
        block_root_free(data_root);
    }
    return ok;
}

/* ---- measure ---- */

static uint64_t metadata_bytes(const Qcow2Geometry *g, uint64_t size, uint64_t data_clusters)
{
    uint64_t l1 = qcow2_l1_entries(g, size), l1_clusters = (l1 * 8 + g->cluster_size - 1) >> g->cluster_bits;
    uint64_t base = 1 + l1_clusters + l1 + data_clusters, total = base, last,
             per_block = UINT64_C(1) << g->refblock_bits;

    do {
        uint64_t blocks = (total + per_block - 1) / per_block;
        uint64_t table = (blocks * 8 + g->cluster_size - 1) >> g->cluster_bits;

        last = total;
        total = base + blocks + table;
    } while (total != last);
    return (total - data_clusters) << g->cluster_bits;
}

bool qcow2_co_measure(BlockGraph *graph, json_object *options, BlockNode *source, BlockMeasure *m,
                      GError **error)
{
    Qcow2Geometry g;
    Qcow2Header h;
    Want w;
    uint64_t all, used = 0, luks = 0;
    bool ok = read_want(&w, options, error);

    if (!ok) {
        return false;
    }
    if (source) {
        w.size = (source->size + 511) & ~UINT64_C(511);
    }
    w.journal = false;
    if (!check_want(&w, error)) {
        return false;
    }
    fill_header(&h, &w);
    qcow2_geometry_init(&g, &h);
    qcow2_header_clear(&h);
    if (qcow2_l1_entries(&g, w.size) > QCOW2_MAX_L1_BYTES / 8) {
        return error_set(error, "The image size is too large (try using a larger cluster size)");
    }
    all = ((w.size + g.cluster_size - 1) >> g.cluster_bits) << g.cluster_bits;
    if (source && w.backing) { /* what that image has in common is not known */
        used = all;
    } else if (source && w.prealloc != QAPI_PREALLOC_MODE_FALLOC && w.prealloc != QAPI_PREALLOC_MODE_FULL) {
        for (uint64_t at = 0, counted = 0; at < source->size;) {
            BlockStatus st;
            int ret = block_co_status_above(source, NULL, at, MIN(source->size - at, BLOCK_MAX_REQUEST), &st);

            if (ret < 0) {
                return error_set_errno(error, -ret, "Unable to get block status");
            }
            if ((st.flags & BLOCK_STATUS_DATA) && !(st.flags & BLOCK_STATUS_ZERO)) {
                uint64_t first = MAX(counted, at >> g.cluster_bits);
                uint64_t end = (at + st.bytes + g.cluster_size - 1) >> g.cluster_bits;

                used += end > first ? (end - first) << g.cluster_bits : 0;
                counted = MAX(counted, end);
            }
            at += st.bytes;
        }
    } else if (source || w.prealloc == QAPI_PREALLOC_MODE_FALLOC || w.prealloc == QAPI_PREALLOC_MODE_FULL) {
        used = all;
    }
    memset(m, 0, sizeof(*m));
    if (w.crypt_method == 2) {
        luks = (luks_create_payload(&w.luks) + g.cluster_size - 1) >> g.cluster_bits;
    }
    m->fully_allocated =
        metadata_bytes(&g, w.size, (all >> g.cluster_bits) + luks) + all + (luks << g.cluster_bits);
    m->required = m->fully_allocated - all + used;
    if (w.data_file) {
        m->required = m->fully_allocated - all;
    }
    if (source && source->bitmaps && source->bitmaps->len && w.version >= 3) {
        m->has_bitmaps = true;
        m->bitmaps = qcow2_bitmaps_bytes(source, g.cluster_size);
    } else if (source && w.version >= 3 && strcmp(source->driver->name, "qcow2") == 0) {
        m->has_bitmaps = true;
    }
    return true;
}
