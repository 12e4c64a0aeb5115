/*
 * Changing what a qcow2 image is: compatibility level, refcount width, names, lazy refcounts, journal.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include <errno.h>
#include <inttypes.h>
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

/* ---- to version 2 ---- */

typedef struct Progress {
    void (*fn)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
    uint64_t done, total;
} Progress;

static void step(Progress *p)
{
    p->done++;
    if (p->fn) {
        p->fn(p->opaque, p->done, p->total);
    }
}

/* A cluster of zeroes with as many references as the table that will lead to it. 0 with *ret set. */
static uint64_t zero_cluster(Qcow2Node *s, const uint8_t *zero, uint64_t refs, int *ret)
{
    uint64_t at = qcow2_alloc_table(s, s->g.cluster_size, ret);

    if (at) {
        *ret = blk_pwrite(s->node.file, at, s->g.cluster_size, zero, 0);
        if (*ret >= 0 && refs > 1) {
            *ret = qcow2_refcount_add(s, qcow2_cluster_of(s, at), 1, (int64_t)refs - 1);
        }
    }
    return *ret < 0 ? 0 : at;
}

/* Version 2 has no zero flag: such an entry becomes none where nothing shows through, a cluster of zeroes
 * otherwise. A table that several L1 tables lead to is changed in place, for it reads the same in all. */
static int expand_table(Qcow2Node *s, uint64_t table, uint8_t *buf, const uint8_t *zero)
{
    g_autoptr(GArray) freed = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    uint64_t refs;
    bool changed = false;
    int ret = qcow2_refcount_get(s, qcow2_cluster_of(s, table), &refs);

    if (ret >= 0) {
        ret = qcow2_read_padded(s, table, buf, s->g.cluster_size);
    }
    for (uint32_t i = 0; ret >= 0 && i < 1u << s->g.l2_bits; i++) {
        uint8_t *at = buf + (size_t)i * s->g.l2_entry_bytes;
        Qcow2Entry e = qcow2_entry_load(&s->g, at);
        Qcow2Kind kind = qcow2_entry_kind(&s->g, e, 0);
        uint64_t host = qcow2_entry_host(e), word = 0;

        if (kind != QCOW2_KIND_ZERO && kind != QCOW2_KIND_ZERO_HOST) {
            continue;
        }
        if (s->h.backing_file && s->h.crypt_method) {
            ret = -ENOTSUP; /* a cluster of zeroes would have to be encrypted for each of its users */
            break;
        }
        if (s->h.backing_file) {
            word = zero_cluster(s, zero, refs, &ret);
            word |= refs == 1 ? QCOW2_COPIED : 0;
        }
        if (ret >= 0 && host) {
            g_array_append_val(freed, host);
        }
        put_be64(at, word);
        changed = true;
    }
    if (ret >= 0 && changed) {
        ret = qcow2_checkpoint(s); /* the new clusters and their counts */
        ret = ret < 0 ? ret : blk_pwrite(s->node.file, table, s->g.cluster_size, buf, 0);
        ret = ret < 0 ? ret : blk_flush(s->node.file);
    }
    for (guint i = 0; ret >= 0 && i < freed->len; i++) {
        ret =
            qcow2_refcount_add(s, qcow2_cluster_of(s, g_array_index(freed, uint64_t, i)), 1, -(int64_t)refs);
    }
    return ret;
}

static int expand_l1(Qcow2Node *s, uint64_t offset, uint32_t entries, GHashTable *seen, uint8_t *buf,
                     const uint8_t *zero, Progress *p)
{
    uint64_t *l1 = g_try_new0(uint64_t, (gsize)entries + 1);
    int ret = l1 ? qcow2_read_padded(s, offset, l1, (uint64_t)entries * 8) : -ENOMEM;

    for (uint32_t i = 0; ret >= 0 && i < entries; i++, step(p)) {
        uint64_t table = GUINT64_FROM_BE(l1[i]) & QCOW2_OFFSET_MASK;

        if (!table || !g_hash_table_add(seen, (gpointer)(uintptr_t)table)) {
            continue;
        }
        ret = table & (s->g.cluster_size - 1) ? -EIO : expand_table(s, table, buf, zero);
    }
    g_free(l1);
    return ret;
}

static int expand_zeroes(Qcow2Node *s, Progress *p)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_direct_hash, g_direct_equal);
    uint8_t *zero = g_malloc0(s->g.cluster_size), *buf = g_malloc(s->g.cluster_size);
    int ret;

    p->total = s->h.l1_size;
    for (guint i = 0; i < s->snapshots->len; i++) {
        p->total +=
            g_array_index(s->snapshots, Qcow2Snapshot, i).l1_size; /* hostile ones are refused below */
    }
    ret = expand_l1(s, s->h.l1_offset, s->h.l1_size, seen, buf, zero, p);
    for (guint i = 0; ret >= 0 && i < s->snapshots->len; i++) {
        const Qcow2Snapshot *snap = &g_array_index(s->snapshots, Qcow2Snapshot, i);

        if (!qcow2_snapshot_l1_valid(s, snap, NULL)) {
            ret = -EINVAL;
            break;
        }
        ret = expand_l1(s, snap->l1_offset, snap->l1_size, seen, buf, zero, p);
    }
    g_free(zero);
    g_free(buf);
    if (ret >= 0) {
        ret = qcow2_checkpoint(s);
    }
    qcow2_extents_clear(s);
    qcow2_meta_drop(s);
    return ret;
}

static bool downgrade(Qcow2Node *s, Progress *p, GError **error)
{
    uint64_t unfit = s->h.incompatible & ~(uint64_t)(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_JOURNAL);
    int ret;

    if (s->g.refcount_order != 4) {
        return error_set(error, "compat=0.10 requires refcount_bits=16");
    }
    if (unfit & QCOW2_INCOMPAT_DATA_FILE) {
        return error_set(error, "Cannot downgrade an image with a data file");
    }
    if (unfit) {
        return error_set(error, "Cannot downgrade an image with incompatible features 0x%" PRIx64 " set",
                         unfit);
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
    s->journal.wanted = false;
    ret = qcow2_checkpoint(s);
    if (ret >= 0) {
        ret = expand_zeroes(s, p);
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
    if (get(o, "encryption", &v) && !json_object_get_boolean(v) != !s->h.crypt_method) {
        return error_set(error, "Changing the encryption flag is not supported");
    }
    if (get(o, "encrypt.format", &v) &&
        (strcmp(json_object_get_string(v), "luks") == 0 ? 2u : 1u) != s->h.crypt_method) {
        return error_set(error, "Changing the encryption format is not supported");
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
    json_object *v;

    if ((get(o, "backing_file", &v) && g_strcmp0(json_object_get_string(v), s->h.backing_file) != 0) ||
        (get(o, "backing_fmt", &v) && g_strcmp0(json_object_get_string(v), s->h.backing_format) != 0)) {
        error_set(error, "Cannot amend the backing file");
        error_append_hint(error, "You can use 'qemu-img rebase' instead.");
        return false;
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
    Progress p = { progress, opaque, 0, 1 };
    bool lazy = s->h.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    json_object *v;
    int ret;

    if (!check_fixed(s, options, error) || !qcow2_encrypt_amend(s, options, force, error)) {
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
    if (version == 2 && order != 4 && order != s->g.refcount_order) {
        return error_set(error, "Refcount widths other than 16 bits require compatibility level 1.1 or above "
                                "(use compat=1.1 or greater)");
    }
    if (lazy && !(s->h.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) && version == 2) {
        return error_set(error, "Lazy refcounts only supported with compatibility level 1.1 and above "
                                "(use compat=1.1 or greater)");
    }
    if (version > s->h.version && !upgrade(s, error)) {
        return false;
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
    if (get(options, "size", &v)) {
        ret = qcow2_co_truncate(node, (json_object_get_uint64(v) + 511) & ~UINT64_C(511), false,
                                QAPI_PREALLOC_MODE_OFF, node->backing ? BLOCK_REQ_ZERO_WRITE : 0, error);
        if (ret < 0) {
            return false;
        }
    }
    return version >= s->h.version || downgrade(s, &p, error);
}
