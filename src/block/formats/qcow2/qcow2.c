/*
 * qcow2: opening, closing, and what the graph asks of the driver. The parts:
 *   format.c   the format in bytes            header.c    writes the header
 *   meta.c     pages of tables in memory      map.c       guest to host
 *   refcount.c allocator                      commit.c    flushes, in order
 *   journal.c  the journal                    read.c, write.c, zero.c, compress.c: requests
 *   snapshot.c check.c truncate.c create.c amend.c bitmap.c: the control plane
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include "block/graph/graph.h"
#include <errno.h>
#include <limits.h>
#include <string.h>

#define DEFAULT_CACHE (32u << 20)

static void state_init(Qcow2Node *s)
{
    if (s->locks_made) {
        return;
    }
    s->locks_made = true;
    pthread_mutex_init(&s->lock, NULL);
    co_mutex_init(&s->table_lock);
    co_mutex_init(&s->commit_lock);
    co_mutex_init(&s->alloc_lock);
    co_mutex_init(&s->compress_lock);
    s->extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    s->skips = g_array_new(FALSE, FALSE, sizeof(Qcow2Skip));
    s->pending = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    s->busy = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    s->limbo[0] = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    s->limbo[1] = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    s->punching = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    s->kept = g_array_new(FALSE, FALSE, sizeof(Qcow2Kept));
    s->live[0] = g_hash_table_new(g_direct_hash, g_direct_equal);
    s->live[1] = g_hash_table_new(g_direct_hash, g_direct_equal);
    s->snapshots = g_array_new(FALSE, FALSE, sizeof(Qcow2Snapshot));
    s->bitmap_dir = g_array_new(FALSE, FALSE, sizeof(Qcow2BitmapEntry));
    s->overlap_level = 2;
}

/* What was read of the image. */
static void unload(Qcow2Node *s)
{
    qcow2_snapshots_free(s);
    if (s->reserve_page) {
        s->reserve_page->pins--;
        s->reserve_page = NULL;
    }
    qcow2_meta_free(s);
    g_clear_pointer(&s->l1, g_free);
    g_clear_pointer(&s->reftable, g_free);
    s->reftable_entries = 0;
    g_clear_pointer(&s->inflated, g_free);
    g_clear_pointer(&s->tables, g_hash_table_unref);
    qcow2_extents_clear(s);
    g_array_set_size(s->pending, 0);
    g_array_set_size(s->busy, 0);
    g_array_set_size(s->limbo[0], 0);
    g_array_set_size(s->limbo[1], 0);
    s->groups_pay = true;
    block_graph_changed(s->node.graph); /* what others know of this layer */
    s->reserve = s->reserve_end = 0;
    s->free_hint = 0;
    s->compressed_at = s->compressed_end = 0;
    s->dirty_bytes = 0;
    memset(&s->journal, 0, sizeof(s->journal));
    g_hash_table_remove_all(s->live[0]);
    g_hash_table_remove_all(s->live[1]);
    qcow2_bitmaps_free(s);
    qcow2_encrypt_close(s);
    qcow2_header_clear(&s->h);
    s->opened = false;
}

static void state_free(Qcow2Node *s)
{
    if (!s->locks_made) {
        return;
    }
    unload(s);
    qcow2_kept_clear(s->kept);
    g_array_free(s->extents, TRUE);
    g_array_free(s->skips, TRUE);
    g_array_free(s->pending, TRUE);
    g_array_free(s->busy, TRUE);
    g_array_free(s->limbo[0], TRUE);
    g_array_free(s->limbo[1], TRUE);
    g_array_free(s->punching, TRUE);
    g_array_free(s->kept, TRUE);
    g_hash_table_unref(s->live[0]);
    g_hash_table_unref(s->live[1]);
    g_array_free(s->snapshots, TRUE);
    g_array_free(s->bitmap_dir, TRUE);
    g_clear_pointer(&s->key_secret, g_free);
    g_clear_pointer(&s->key_format, g_free);
    pthread_mutex_destroy(&s->lock);
    s->locks_made = false;
}

/* ---- open ---- */

static bool read_header(Qcow2Node *s, GError **error)
{
    uint64_t size = block_size(s->node.file);
    uint8_t head[512] = { 0 };
    uint32_t cluster;
    uint8_t *data;
    int ret = blk_pread(s->node.file, 0, MIN(size, sizeof(head)), head, 0);
    bool ok;

    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read qcow2 header");
    }
    cluster = qcow2_header_cluster_size(head, MIN(size, sizeof(head)));
    if (!cluster) {
        return qcow2_header_decode(&s->h, head, MIN(size, sizeof(head)), error);
    }
    data = g_malloc0(cluster);
    ret = blk_pread(s->node.file, 0, MIN(size, cluster), data, 0);
    ok = ret >= 0 ? qcow2_header_decode(&s->h, data, MIN(size, cluster), error)
                  : error_set_errno(error, -ret, "Could not read qcow2 header");
    g_free(data);
    return ok;
}

static bool may_write(const Qcow2Node *s)
{
    return !s->node.read_only && !(s->node.open_flags & BLOCK_OPEN_INACTIVE) && !s->node.inactive;
}

/* Tables into memory. */
static bool load_tables(Qcow2Node *s, GError **error)
{
    uint64_t disk_l2 = (s->h.size >> s->g.cluster_bits) * s->g.l2_entry_bytes + s->g.cluster_size;
    uint64_t cache = MIN(s->cache_bytes ? s->cache_bytes : DEFAULT_CACHE, disk_l2);

    /* Refcounts of what is written, and tables that wait for a flush. */
    qcow2_meta_init(s, cache + cache / 4 + (1u << 20));
    if (qcow2_refcounts_load(s, error) < 0 || qcow2_l1_load(s, error) < 0) {
        return false;
    }
    s->can_grow = block_skip_filters(s->node.file->node)->driver->co_truncate != NULL;
    s->fresh_next = qcow2_cluster_of(s, block_size(s->node.file) + s->g.cluster_size - 1);
    s->file_end = s->fresh_next;
    s->window = 16;
    s->free_hint = 1;
    if (s->overlap_level) {
        qcow2_tables_collect(s);
    }
    return true;
}

static bool repair_dirty(Qcow2Node *s, GError **error)
{
    BlockCheckResult result = { 0 };
    GError *why = NULL;

    if (!qcow2_co_check(&s->node, &result, BLOCK_FIX_ERRORS | BLOCK_FIX_LEAKS, &why) || result.check_errors) {
        error_set(error, "Could not repair dirty image: %s", why ? why->message : "errors during the check");
        g_clear_error(&why);
        return false;
    }
    if (result.corruptions) {
        return error_set(error, "Could not repair dirty image");
    }
    return true;
}

static bool load(Qcow2Node *s, GError **error)
{
    unsigned flags = s->node.open_flags;
    int ret;

    if (!read_header(s, error)) {
        return false;
    }
    qcow2_geometry_init(&s->g, &s->h);
    s->node.size = s->h.size;
    if (!qcow2_encrypt_open(s, error)) {
        return false;
    }
    if ((s->h.incompatible & QCOW2_INCOMPAT_CORRUPT) && may_write(s) && !(flags & BLOCK_OPEN_CHECK)) {
        return error_set(error, "qcow2: Image is corrupt; cannot be opened read/write");
    }
    s->can_grow = block_skip_filters(s->node.file->node)->driver->co_truncate != NULL;
    if (s->h.incompatible & QCOW2_INCOMPAT_JOURNAL) {
        if (may_write(s)) {
            if (!qcow2_journal_replay(s, error)) {
                return false;
            }
        } else if (!(flags & (BLOCK_OPEN_NO_IO | BLOCK_OPEN_INACTIVE)) && !s->node.inactive) {
            error_set(error,
                      "%s: the journal holds changes that the tables lack, and the image is opened read-only",
                      qcow2_what(s));
            error_append_hint(
                error, "Open it once for writing (rhea-img check -r leaks): that brings it up to date.");
            return false;
        }
    }
    if (!load_tables(s, error)) {
        return false;
    }
    /* A check reads the table itself. */
    if (!(flags & BLOCK_OPEN_CHECK) &&
        (!qcow2_header_check_snapshots(&s->h, error) || !qcow2_snapshots_load(s, NULL, error))) {
        return false;
    }
    if (may_write(s) && !qcow2_journal_reclaim(s, error)) {
        return false;
    }
    s->raw_data = s->h.autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
    if (!may_write(s)) {
        s->opened = true;
        return qcow2_bitmaps_load(s, error);
    }
    if (s->h.version >= 3 && (s->h.autoclear & ~(uint64_t)QCOW2_AUTOCLEAR_KNOWN)) {
        s->h.autoclear &= QCOW2_AUTOCLEAR_KNOWN;
        ret = qcow2_write_header(s);
        if (ret < 0) {
            return error_set_errno(error, -ret, "Could not update qcow2 header");
        }
    }
    if ((s->h.incompatible & QCOW2_INCOMPAT_DIRTY) && !(flags & BLOCK_OPEN_CHECK) &&
        !repair_dirty(s, error)) {
        return false;
    }
    s->journal.wanted =
        s->h.journal.present && s->h.journal.wish && s->h.version >= 3 && !(flags & BLOCK_OPEN_CHECK);
    s->opened = true;
    return qcow2_bitmaps_load(s, error);
}

typedef struct Call {
    Qcow2Node *s;
    GError **error;
    bool ok;
} Call;

static void load_entry(void *opaque)
{
    Call *call = opaque;

    call->ok = load(call->s, call->error);
}

/* By the name in the header, unless options say where it is. */
static bool open_data_file(Qcow2Node *s, const QapiBlockdevOptions *options, QapiBlockdevRef *ref,
                           GError **error)
{
    BlockNode *node = &s->node, *data;
    const BlockDriver *protocol;
    json_object *o;
    bool ok;

    if (!(s->h.incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
        return !ref || error_set(error, "'data-file' can only be set for images with an external data file");
    }
    if (ref) {
        return block_child_open(node, "data-file", BLOCK_ROLE_DATA, &s->data_child, options, ref, error);
    }
    if (!s->h.data_file) {
        return error_set(error, "'data-file' is required for this image");
    }
    protocol = block_protocol_of(s->h.data_file, error);
    if (!protocol) {
        return false;
    }
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string(protocol->name));
    json_object_object_add(o, "read-only", json_object_new_boolean(node->read_only));
    json_object_object_add(o, "auto-read-only", json_object_new_boolean(node->auto_read_only));
    json_object_object_add(o, "force-share", json_object_new_boolean(node->force_share));
    json_object_object_add(o, "discard", json_object_new_string(node->discard ? "unmap" : "ignore"));
    json_object_object_add(o, "cache.direct", json_object_new_boolean(node->cache_direct));
    json_object_object_add(o, "cache.no-flush", json_object_new_boolean(node->cache_no_flush));
    data =
        block_node_open_image(node->graph, s->h.data_file, o, node->open_flags & BLOCK_OPEN_INHERITED, error);
    json_object_put(o);
    ok = data && block_child_attach(node, data, "data-file", BLOCK_ROLE_DATA, &s->data_child, error);
    return ok;
}

#define MAX_CACHE ((uint64_t)INT_MAX << 12) /* what can be meant by it */

/* What does not hang on the image (cluster_size 0) or does. */
static bool check_options(const QapiBlockdevOptionsQcow2 *o, uint32_t cluster_size, GError **error)
{
    if (o->has_cache_size && o->has_l2_cache_size && o->has_refcount_cache_size) {
        return error_set(error,
                         "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
    }
    if (o->has_cache_size && o->has_l2_cache_size && o->l2_cache_size > o->cache_size) {
        return error_set(error, "l2-cache-size may not exceed cache-size");
    }
    if (o->has_cache_size && o->has_refcount_cache_size && o->refcount_cache_size > o->cache_size) {
        return error_set(error, "refcount-cache-size may not exceed cache-size");
    }
    if (o->has_l2_cache_entry_size && cluster_size &&
        (o->l2_cache_entry_size < 512 || (uint64_t)o->l2_cache_entry_size > cluster_size ||
         (o->l2_cache_entry_size & (o->l2_cache_entry_size - 1)))) {
        return error_set(error,
                         "L2 cache entry size must be a power of two between 512 and the cluster size (%u)",
                         cluster_size);
    }
    if (o->has_l2_cache_size && (uint64_t)o->l2_cache_size > MAX_CACHE / 64) {
        return error_set(error, "L2 cache size too big");
    }
    if (o->has_refcount_cache_size && (uint64_t)o->refcount_cache_size > MAX_CACHE) {
        return error_set(error, "Refcount cache size too big");
    }
    return true;
}

static bool read_options(Qcow2Node *s, const QapiBlockdevOptionsQcow2 *o, GError **error)
{
    const QapiQcow2OverlapChecks *checks = o->overlap_check;

    g_free(s->key_secret);
    g_free(s->key_format);
    s->key_secret = o->encrypt ? g_strdup(o->encrypt->key_secret) : NULL;
    s->key_format =
        o->encrypt && o->encrypt->has_format
            ? g_strdup(enum_name(&qapi_BlockdevQcow2EncryptionFormat_lookup, (int)o->encrypt->format))
            : NULL;
    if (!check_options(o, 0, error)) {
        return false;
    }
    s->cache_bytes = o->has_l2_cache_size ? MAX(1, o->l2_cache_size)
                     : o->has_cache_size  ? MAX(1, o->cache_size)
                                          : 0;
    s->pass_request = o->has_pass_discard_request ? o->pass_discard_request : s->node.discard;
    s->pass_snapshot = o->has_pass_discard_snapshot ? o->pass_discard_snapshot : true;
    s->pass_other = o->has_pass_discard_other && o->pass_discard_other;
    if (checks) {
        QapiQcow2OverlapCheckMode mode = checks->kind == QAPI_QCOW2_OVERLAP_CHECKS_MODE ? checks->u_mode
                                         : checks->u_flags->has_template
                                             ? checks->u_flags->template
                                             : QAPI_QCOW2_OVERLAP_CHECK_MODE_CACHED;

        s->overlap_level = (int)mode;
    }
    return true;
}

static bool qcow2_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    Qcow2Node *s = (Qcow2Node *)node;
    const QapiBlockdevOptionsQcow2 *o = options->u_qcow2;
    Call call = { s, error, false };

    state_init(s);
    if (!read_options(s, o, error) ||
        !block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file, options, o->file, error)) {
        return false;
    }
    block_run(node->graph, load_entry, &call);
    if (!call.ok || !check_options(o, s->g.cluster_size, error)) {
        return false;
    }
    s->lazy =
        o->has_lazy_refcounts ? o->lazy_refcounts : (s->h.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) != 0;
    if (s->lazy && s->h.version < 3) {
        return error_set(error,
                         "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
    }
    s->lazy = s->lazy && !s->journal.wanted; /* it has the same use, and needs no repair */
    if (!(node->open_flags & BLOCK_OPEN_NO_IO) || o->data_file) {
        if (!open_data_file(s, options, o->data_file, error)) {
            return false;
        }
    }
    node->zero_flags = BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK;
    node->truncate_flags = BLOCK_REQ_ZERO_WRITE;
    node->backing_file = g_strdup(s->h.backing_file);
    node->backing_format = g_strdup(s->h.backing_format);
    return block_backing_open(node, options, o->backing, error);
}

/* ---- close ---- */

/* The file ends where the last cluster in use does. */
static void trim_file(Qcow2Node *s)
{
    uint64_t end = s->fresh_next, value;

    if (!s->can_grow || block_size(s->node.file) <= s->file_end << s->g.cluster_bits) {
        return;
    }
    while (end > s->file_end && qcow2_refcount_get(s, end - 1, &value) >= 0 && !value) {
        end--;
    }
    if (block_size(s->node.file) > end << s->g.cluster_bits) {
        blk_truncate(s->node.file, end << s->g.cluster_bits, false, QAPI_PREALLOC_MODE_OFF, 0, NULL);
    }
}

/* All that is in memory into the image, as a program that does not know the journal can read it. */
static bool settle(Qcow2Node *s, GError **error)
{
    bool work;
    int ret;

    if (!s->opened || !may_write(s) || s->view) {
        return true;
    }
    if (__atomic_load_n(&s->broken, __ATOMIC_RELAXED)) {
        return true; /* nothing is written any more */
    }
    if (!qcow2_bitmaps_store(s, error)) {
        return false;
    }
    work = qcow2_has_work(s) || s->journal.active;
    ret = qcow2_checkpoint(s);
    if (ret < 0 && !work) {
        return true; /* a flush failed, but the image holds all that this program knows */
    }
    if (ret >= 0) {
        trim_file(s);
        ret = s->node.open_flags & BLOCK_OPEN_CHECK ? 0 : qcow2_set_dirty_bit(s, false);
    }
    return ret >= 0 || error_set_errno(error, -ret, "%s: cannot write the image's tables", qcow2_what(s));
}

static void settle_entry(void *opaque)
{
    Call *call = opaque;

    call->ok = settle(call->s, call->error);
}

static void qcow2_close(BlockNode *node)
{
    Qcow2Node *s = (Qcow2Node *)node;
    GError *error = NULL;
    Call call = { s, &error, true };

    if (s->opened && node->file) {
        block_run(node->graph, settle_entry, &call);
        if (!call.ok) {
            error_report(error);
            g_clear_error(&error);
        }
    }
    state_free(s);
}

static bool qcow2_inactivate(BlockNode *node, GError **error)
{
    Call call = { (Qcow2Node *)node, error, true };

    block_run(node->graph, settle_entry, &call);
    return call.ok;
}

static bool qcow2_activate(BlockNode *node, GError **error)
{
    Qcow2Node *s = (Qcow2Node *)node;
    Call call = { s, error, true };

    unload(s);
    block_run(node->graph, load_entry, &call);
    return call.ok;
}

static bool qcow2_reopen_prepare(BlockReopen *reopen, GError **error)
{
    Qcow2Node *s = (Qcow2Node *)reopen->node;
    const QapiBlockdevOptionsQcow2 *o = reopen->options->u_qcow2;
    Call call = { s, error, true };

    if (!check_options(o, s->g.cluster_size, error)) {
        return false;
    }
    if (reopen->node->read_only && !reopen->read_only) {
        if (s->h.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_JOURNAL)) {
            return error_set(error,
                             "%s: the image was not closed cleanly: it must be opened for writing anew",
                             qcow2_what(s));
        }
        if (s->h.incompatible & QCOW2_INCOMPAT_CORRUPT) {
            return error_set(error, "Can't make a corrupt image writable");
        }
    }
    if (o->has_lazy_refcounts && o->lazy_refcounts && s->h.version < 3) {
        return error_set(error,
                         "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
    }
    if (reopen->read_only && !reopen->node->read_only) {
        block_run(reopen->node->graph, settle_entry, &call);
    }
    return call.ok;
}

static void mark_entry(void *opaque)
{
    Call *call = opaque;

    call->ok = qcow2_bitmaps_mark(call->s, true) >= 0;
}

static void qcow2_reopen_commit(BlockReopen *reopen)
{
    Qcow2Node *s = (Qcow2Node *)reopen->node;
    const QapiBlockdevOptionsQcow2 *o = reopen->options->u_qcow2;
    bool writes = reopen->node->read_only && !reopen->read_only;

    read_options(s, o, NULL);
    s->pass_request = o->has_pass_discard_request ? o->pass_discard_request : reopen->discard;
    s->lazy =
        o->has_lazy_refcounts ? o->lazy_refcounts : (s->h.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) != 0;
    if (writes) {
        Call call = { s, NULL, true };

        s->journal.wanted = s->h.journal.present && s->h.journal.wish && s->h.version >= 3;
        block_run(reopen->node->graph, mark_entry, &call);
    }
    s->lazy = s->lazy && !s->journal.wanted;
}

/* ---- what it is ---- */

static void qcow2_refresh_limits(BlockNode *node)
{
    Qcow2Node *s = (Qcow2Node *)node;

    node->limits.request_alignment = s->h.crypt_method ? CRYPTO_SECTOR : 1;
    node->limits.write_zeroes_alignment = s->g.sub_size;
    node->limits.discard_granularity = s->g.cluster_size;
    node->limits.can_discard = true;
    node->limits.can_write_zeroes = s->h.version >= 3;
}

static bool qcow2_get_info(BlockNode *node, BlockInfo *info, GError **error)
{
    Qcow2Node *s = (Qcow2Node *)node;

    info->cluster_size = s->g.cluster_size;
    info->subcluster_size = s->g.sub_size;
    info->vm_state_offset = qcow2_vm_state_offset(s);
    info->is_dirty = s->h.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_JOURNAL);
    return true;
}

static json_object *qcow2_specific_info(BlockNode *node)
{
    Qcow2Node *s = (Qcow2Node *)node;
    json_object *o = json_object_new_object(), *data = json_object_new_object(), *bitmaps;

    json_object_object_add(o, "type", json_object_new_string("qcow2"));
    json_object_object_add(data, "compat", json_object_new_string(s->h.version == 2 ? "0.10" : "1.1"));
    json_object_object_add(data, "compression-type",
                           json_object_new_string(s->h.compression_type == QCOW2_ZSTD ? "zstd" : "zlib"));
    if (s->h.version >= 3) {
        json_object_object_add(data, "lazy-refcounts",
                               json_object_new_boolean(s->h.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS));
    }
    json_object_object_add(data, "refcount-bits", json_object_new_int(1 << s->g.refcount_order));
    if (s->h.version >= 3) {
        bitmaps = qcow2_bitmaps_info(s);
        if (bitmaps) {
            json_object_object_add(data, "bitmaps", bitmaps);
        }
        if (s->h.crypt_method) {
            json_object_object_add(data, "encrypt", qcow2_encrypt_info(s));
        }
        if (s->h.incompatible & QCOW2_INCOMPAT_DATA_FILE) {
            if (s->h.data_file) {
                json_object_object_add(data, "data-file", json_object_new_string(s->h.data_file));
            }
            json_object_object_add(data, "data-file-raw",
                                   json_object_new_boolean(s->h.autoclear & QCOW2_AUTOCLEAR_RAW_DATA));
        }
        json_object_object_add(data, "corrupt",
                               json_object_new_boolean(s->h.incompatible & QCOW2_INCOMPAT_CORRUPT));
        json_object_object_add(data, "extended-l2",
                               json_object_new_boolean(s->h.incompatible & QCOW2_INCOMPAT_EXTENDED_L2));
        if (s->h.journal.present) {
            json_object_object_add(
                data, "journal",
                json_object_new_string(s->h.incompatible & QCOW2_INCOMPAT_JOURNAL ? "in use" : "on"));
        }
    }
    json_object_object_add(o, "data", data);
    return o;
}

static int qcow2_co_flush(BlockNode *node)
{
    return qcow2_commit((Qcow2Node *)node);
}

static const BlockDriver qcow2_driver = {
    .name = "qcow2",
    .instance_size = sizeof(Qcow2Node),
    .supports_backing = true,
    .may_resize_file = true,
    .any_alignment = true,
    .probe = qcow2_header_probe,
    .open = qcow2_open,
    .close = qcow2_close,
    .reopen_prepare = qcow2_reopen_prepare,
    .reopen_commit = qcow2_reopen_commit,
    .refresh_limits = qcow2_refresh_limits,
    .inactivate = qcow2_inactivate,
    .activate = qcow2_activate,
    .get_info = qcow2_get_info,
    .get_specific_info = qcow2_specific_info,
    .co_preadv = qcow2_co_preadv,
    .co_pwritev = qcow2_co_pwritev,
    .co_pwritev_compressed = qcow2_co_pwritev_compressed,
    .co_pwrite_zeroes = qcow2_co_pwrite_zeroes,
    .co_pdiscard = qcow2_co_pdiscard,
    .co_flush = qcow2_co_flush,
    .co_block_status = qcow2_co_block_status,
    .co_truncate = qcow2_co_truncate,
    .co_load_vmstate = qcow2_co_load_vmstate,
    .co_save_vmstate = qcow2_co_save_vmstate,
    .co_check = qcow2_co_check,
    .co_amend = qcow2_co_amend,
    .co_create = qcow2_co_create,
    .co_create_named = qcow2_co_create_named,
    .create_options = qcow2_create_options,
    .co_measure = qcow2_co_measure,
    .co_make_empty = qcow2_co_make_empty,
    .snapshot_create = qcow2_snapshot_create,
    .snapshot_goto = qcow2_snapshot_goto,
    .snapshot_delete = qcow2_snapshot_delete,
    .snapshot_list = qcow2_snapshot_list,
    .snapshot_load = qcow2_snapshot_load,
    .change_backing = qcow2_change_backing,
    .bitmap_can_store = qcow2_bitmap_can_store,
    .bitmap_remove_stored = qcow2_bitmap_remove_stored,
};
BLOCK_DRIVER(qcow2_driver);
