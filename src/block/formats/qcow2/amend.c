/*
 * Changing what a qcow2 image is: compatibility level, refcount width, names, lazy refcounts, journal.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include <errno.h>
#include <string.h>

static int store_header(Qcow2Node *s)
{
    int ret = qcow2_checkpoint(s);

    if (ret >= 0) {
        ret = qcow2_write_header(s);
    }
    return ret < 0 ? ret : blk_flush(s->node.file);
}

typedef struct Change {
    Qcow2Node *s;
    const char *filename, *format;
    GError **error;
    bool ok;
} Change;

static void change_backing_entry(void *opaque)
{
    Change *c = opaque;
    Qcow2Node *s = c->s;
    char *old_file = s->h.backing_file, *old_format = s->h.backing_format;
    int ret;

    s->h.backing_file = c->filename && *c->filename ? g_strdup(c->filename) : NULL;
    s->h.backing_format = s->h.backing_file && c->format && *c->format ? g_strdup(c->format) : NULL;
    ret = store_header(s);
    c->ok = ret >= 0;
    if (!c->ok) {
        g_free(s->h.backing_file);
        g_free(s->h.backing_format);
        s->h.backing_file = old_file;
        s->h.backing_format = old_format;
        error_set_errno(c->error, -ret, "%s: cannot store the backing file's name", qcow2_what(s));
        return;
    }
    g_free(old_file);
    g_free(old_format);
    g_free(s->node.backing_file);
    g_free(s->node.backing_format);
    s->node.backing_file = g_strdup(s->h.backing_file);
    s->node.backing_format = g_strdup(s->h.backing_format);
}

bool qcow2_change_backing(BlockNode *node, const char *filename, const char *format, bool require_format,
                          GError **error)
{
    Change c = { (Qcow2Node *)node, filename, format, error, false };

    if (filename && strlen(filename) > 1023) {
        return error_set(error, "The backing file's name is longer than 1023 bytes");
    }
    if (filename && *filename && require_format && (!format || !*format)) {
        return error_set(error, "backing format must be specified");
    }
    if (c.s->raw_data && filename && *filename) {
        return error_set(error, "Cannot set a backing file for images with data-file-raw");
    }
    block_run(node->graph, change_backing_entry, &c);
    return c.ok;
}

/* Zero flags cannot stand in version 2: such clusters get zeroes as data, or nothing where nothing shows
 * through. */
static int expand_zeroes(Qcow2Node *s)
{
    uint8_t *zero = g_malloc0(s->g.cluster_size);
    int ret = 0;

    for (uint64_t at = 0; at < s->h.size && ret >= 0;) {
        BlockVec vec;
        Qcow2Map map;

        ret = qcow2_map(s, at, s->h.size - at, &map, NULL);
        if (ret < 0) {
            break;
        }
        if (map.kind == QCOW2_KIND_ZERO || map.kind == QCOW2_KIND_ZERO_HOST) {
            uint64_t bytes = MIN(map.bytes, s->g.cluster_size - (at & (s->g.cluster_size - 1)));

            if (!s->h.backing_file) {
                ret = qcow2_discard(s, at & ~(uint64_t)(s->g.cluster_size - 1), s->g.cluster_size, true);
            } else {
                vec = BLOCK_VEC_BUF(zero, bytes);
                ret = qcow2_co_pwritev(&s->node, at, bytes, &vec, 0, 0);
            }
            at += bytes;
        } else {
            at += map.bytes;
        }
    }
    g_free(zero);
    return ret < 0 ? ret : qcow2_checkpoint(s);
}

static bool downgrade(Qcow2Node *s, GError **error)
{
    int ret;

    if (s->h.incompatible &
        (QCOW2_INCOMPAT_DATA_FILE | QCOW2_INCOMPAT_COMPRESSION | QCOW2_INCOMPAT_EXTENDED_L2)) {
        return error_set(error, "Cannot downgrade an image with incompatible features set");
    }
    if (s->g.refcount_order != 4) {
        return error_set(error, "compat=0.10 requires refcount_bits=16");
    }
    if (s->h.has_bitmaps) {
        return error_set(error, "Cannot downgrade an image that holds bitmaps");
    }
    for (guint i = 0; i < s->snapshots->len; i++) {
        const Qcow2Snapshot *snap = &g_array_index(s->snapshots, Qcow2Snapshot, i);

        if (snap->vm_state_size > UINT32_MAX || snap->disk_size != s->h.size) {
            return error_set(error, "Internal snapshots prevent downgrade of image");
        }
    }
    if (s->snapshots->len) {
        return error_set(
            error, "Internal snapshots prevent downgrade of image: their tables may hold zero clusters");
    }
    s->journal.wanted = false;
    ret = qcow2_checkpoint(s);
    if (ret >= 0) {
        ret = expand_zeroes(s);
    }
    if (ret < 0) {
        return error_set_errno(error, -ret, "Failed to turn zero into data clusters");
    }
    s->h.incompatible = s->h.compatible = s->h.autoclear = 0;
    s->h.unknown_size = 0;
    s->h.journal.present = false;
    s->h.version = 2;
    s->lazy = false;
    ret = store_header(s);
    if (ret < 0) {
        s->h.version = 3;
        return error_set_errno(error, -ret, "Failed to update the image header");
    }
    qcow2_geometry_init(&s->g, &s->h);
    return true;
}

static bool upgrade(Qcow2Node *s, GError **error)
{
    int ret;

    s->h.version = 3;
    s->h.incompatible = s->h.compatible = s->h.autoclear = 0;
    ret = s->snapshots->len ? qcow2_snapshots_write(s) : 0; /* with the extra data that version 3 asks for */
    if (ret >= 0) {
        ret = store_header(s);
    }
    if (ret < 0) {
        s->h.version = 2;
        return error_set_errno(error, -ret, "Failed to update the image header");
    }
    qcow2_geometry_init(&s->g, &s->h);
    return true;
}

static bool get(json_object *o, const char *name, json_object **value)
{
    return json_object_object_get_ex(o, name, value) && *value;
}

/* What was created stays: the option may only say what is there. */
static bool check_fixed(Qcow2Node *s, json_object *o, GError **error)
{
    json_object *v;

    if (get(o, "cluster_size", &v) && json_object_get_uint64(v) != s->g.cluster_size) {
        return error_set(error, "Changing the cluster size is not supported");
    }
    if (get(o, "preallocation", &v)) {
        return error_set(error, "Cannot change preallocation mode");
    }
    if (get(o, "extended_l2", &v) && !json_object_get_boolean(v) != !s->g.sub_bits) {
        return error_set(error, "Toggling extended L2 entries is not supported");
    }
    if (get(o, "compression_type", &v) &&
        strcmp(json_object_get_string(v), s->h.compression_type == QCOW2_ZSTD ? "zstd" : "zlib") != 0) {
        return error_set(error, "Changing the compression type is not supported");
    }
    if (get(o, "data_file", &v) && !s->g.data_file) {
        return error_set(error, "data-file can only be set for images that use an external data file");
    }
    if (get(o, "data_file_raw", &v) && json_object_get_boolean(v) && !s->raw_data) {
        return error_set(error, "data-file-raw cannot be set on existing images");
    }
    return true;
}

static bool change_names(Qcow2Node *s, json_object *o, GError **error)
{
    json_object *file = NULL, *format = NULL, *v;

    if (get(o, "backing_file", &file) || get(o, "backing_fmt", &format)) {
        const char *name = file ? json_object_get_string(file) : s->h.backing_file;

        get(o, "backing_fmt", &format);
        if (s->raw_data && name && *name) {
            return error_set(error, "Cannot set a backing file for images with data-file-raw");
        }
        if (!qcow2_change_backing(&s->node, name,
                                  format ? json_object_get_string(format) : s->h.backing_format, false,
                                  error)) {
            return false;
        }
    }
    if (get(o, "data_file", &v)) {
        g_free(s->h.data_file);
        s->h.data_file = *json_object_get_string(v) ? g_strdup(json_object_get_string(v)) : NULL;
    }
    if (get(o, "data_file_raw", &v) && !json_object_get_boolean(v)) {
        s->raw_data = false;
        s->h.autoclear &= ~(uint64_t)QCOW2_AUTOCLEAR_RAW_DATA;
    }
    return true;
}

bool qcow2_co_amend(BlockNode *node, json_object *options, bool force,
                    void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque,
                    GError **error)
{
    Qcow2Node *s = (Qcow2Node *)node;
    uint32_t version = s->h.version, order = s->g.refcount_order;
    bool lazy = s->h.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    json_object *v;
    int ret;

    if (!check_fixed(s, options, error)) {
        return false;
    }
    if (get(options, "compat", &v)) {
        const char *text = json_object_get_string(v);

        if (strcmp(text, "0.10") == 0 || strcmp(text, "v2") == 0) {
            version = 2;
        } else if (strcmp(text, "1.1") == 0 || strcmp(text, "v3") == 0) {
            version = 3;
        } else {
            return error_set(error, "Unknown compatibility level %s", text);
        }
    }
    if (get(options, "lazy_refcounts", &v)) {
        lazy = json_object_get_boolean(v);
    }
    if (get(options, "refcount_bits", &v)) {
        uint64_t bits = json_object_get_uint64(v);

        if (!bits || bits > 64 || (bits & (bits - 1))) {
            return error_set(error, "Refcount width must be a power of two and may not exceed 64 bits");
        }
        order = (uint32_t)__builtin_ctzll(bits);
    }
    if (version == 2 && order != 4) {
        return error_set(error, "Refcount widths other than 16 bits require compatibility level 1.1 or above "
                                "(use compat=1.1 or greater)");
    }
    if (lazy && version == 2) {
        return error_set(error, "Lazy refcounts only supported with compatibility level 1.1 and above "
                                "(use compat=1.1 or greater)");
    }
    if (version > s->h.version && !upgrade(s, error)) {
        return false;
    }
    if (progress) {
        progress(opaque, 0, 3);
    }
    if (order != s->g.refcount_order && qcow2_rebuild_refcounts(s, order, error) < 0) {
        return false;
    }
    if (!change_names(s, options, error)) {
        return false;
    }
    if (s->h.version >= 3) {
        s->h.compatible = lazy ? s->h.compatible | QCOW2_COMPAT_LAZY_REFCOUNTS
                               : s->h.compatible & ~(uint64_t)QCOW2_COMPAT_LAZY_REFCOUNTS;
        s->lazy = lazy;
    }
    if (get(options, "journal", &v)) {
        const char *text = json_object_get_string(v);

        if (strcmp(text, "off") != 0 && version < 3) {
            return error_set(error, "The journal requires compatibility level 1.1");
        }
        s->h.journal.present = strcmp(text, "off") != 0;
        s->h.journal.wish = s->h.journal.present ? qcow2_journal_wish(s->h.size) : 0;
    }
    ret = store_header(s);
    if (ret < 0) {
        return error_set_errno(error, -ret, "Failed to update the image header");
    }
    s->journal.wanted = s->h.journal.present && s->h.journal.wish;
    s->lazy = s->lazy && !s->journal.wanted;
    if (progress) {
        progress(opaque, 1, 3);
    }
    if (get(options, "size", &v)) {
        ret = qcow2_co_truncate(node, (json_object_get_uint64(v) + 511) & ~UINT64_C(511), false,
                                QAPI_PREALLOC_MODE_OFF, node->backing ? BLOCK_REQ_ZERO_WRITE : 0, error);
        if (ret < 0) {
            return false;
        }
    }
    if (progress) {
        progress(opaque, 2, 3);
    }
    if (version < s->h.version && !downgrade(s, error)) {
        return false;
    }
    if (progress) {
        progress(opaque, 3, 3);
    }
    return true;
}
