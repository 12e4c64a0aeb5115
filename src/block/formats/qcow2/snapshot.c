/*
 * Internal snapshots: the control plane, drained.
 *
 * 1. Every change goes: checkpoint (the journal is empty and off), new structures and refcounts that grow,
 * flush, the header, flush, refcounts that shrink. So a crash leaves leaks at worst.
 * 2. While an L2 table has references from more than one L1 table its L1 entries have no COPIED, and likewise
 * its clusters in the active table. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define ENTRY_BYTES 40u
#define KNOWN_EXTRA 24u
#define MAX_EXTRA   1024u

static void snapshot_clear(Qcow2Snapshot *snap)
{
    g_free(snap->id);
    g_free(snap->name);
    g_free(snap->unknown_extra);
}

void qcow2_snapshots_free(Qcow2Node *s)
{
    for (guint i = 0; i < s->snapshots->len; i++) {
        snapshot_clear(&g_array_index(s->snapshots, Qcow2Snapshot, i));
    }
    g_array_set_size(s->snapshots, 0);
    s->snapshots_bytes = 0;
}

uint64_t qcow2_vm_state_offset(const Qcow2Node *s)
{
    return qcow2_l1_entries(&s->g, s->h.size) << (s->g.cluster_bits + s->g.l2_bits);
}

/* ---- the table ---- */

bool qcow2_snapshot_l1_valid(const Qcow2Node *s, const Qcow2Snapshot *snap, GError **error)
{
    if (snap->l1_size > QCOW2_MAX_L1_BYTES / 8) {
        return error_set(error, "Snapshot L1 table too large");
    }
    if (snap->l1_offset % s->g.cluster_size || snap->l1_offset >> 56) {
        return error_set(error, "Snapshot L1 table offset invalid");
    }
    return true;
}

/* trim: extra data that is too long is cut to what is kept; *trimmed then. *length: of what is kept. */
static bool read_entry(Qcow2Node *s, uint64_t *at, Qcow2Snapshot *snap, uint32_t number, bool trim,
                       bool *trimmed, uint64_t *length, GError **error)
{
    uint8_t head[ENTRY_BYTES], extra[MAX_EXTRA] = { 0 };
    uint16_t id_size, name_size;
    uint32_t stored_extra;
    int ret = qcow2_read_padded(s, *at, head, sizeof(head));

    if (ret >= 0) {
        snap->l1_offset = get_be64(head);
        snap->l1_size = get_be32(head + 8);
        id_size = get_be16(head + 12);
        name_size = get_be16(head + 14);
        snap->date_s = get_be32(head + 16);
        snap->date_ns = get_be32(head + 20);
        snap->clock_ns = get_be64(head + 24);
        snap->vm_state_size = get_be32(head + 32);
        snap->extra_size = stored_extra = get_be32(head + 36);
        snap->disk_size = s->h.size;
        snap->icount = UINT64_MAX;
        *trimmed = stored_extra > MAX_EXTRA;
        if (*trimmed && !trim) {
            error_set(error, "Too much extra metadata in snapshot table entry %u", number);
            error_append_hint(error, "You can force-remove this extra metadata with qemu-img check -r all");
            return false;
        }
        if (*trimmed) {
            fprintf(stderr, "Discarding too much extra metadata in snapshot table entry %u (%u > %u)\n",
                    number, stored_extra, MAX_EXTRA);
            snap->extra_size = MAX_EXTRA;
        }
        ret = qcow2_read_padded(s, *at + ENTRY_BYTES, extra, snap->extra_size);
    }
    if (ret >= 0) {
        if (snap->extra_size >= 8) {
            snap->vm_state_size = get_be64(extra);
        }
        if (snap->extra_size >= 16) {
            snap->disk_size = get_be64(extra + 8);
        }
        if (snap->extra_size >= 24) {
            snap->icount = get_be64(extra + 16);
        }
        if (snap->extra_size > KNOWN_EXTRA) {
            snap->unknown_extra_size = snap->extra_size - KNOWN_EXTRA;
            snap->unknown_extra = g_memdup2(extra + KNOWN_EXTRA, snap->unknown_extra_size);
        }
        *at += ENTRY_BYTES + (uint64_t)stored_extra;
        snap->id = g_malloc0(id_size + 1u);
        snap->name = g_malloc0(name_size + 1u);
        ret = qcow2_read_padded(s, *at, snap->id, id_size);
        if (ret >= 0) {
            ret = qcow2_read_padded(s, *at + id_size, snap->name, name_size);
        }
        *at += id_size + name_size;
        *length = ENTRY_BYTES + snap->extra_size + id_size + name_size;
    }
    return ret >= 0 || error_set_errno(error, -ret, "Failed to read snapshot table");
}

bool qcow2_snapshots_load(Qcow2Node *s, Qcow2SnapshotRepair *repair, GError **error)
{
    uint64_t at = s->h.snapshots_offset, length = 0; /* length: of what would be written */

    for (uint32_t i = 0; i < s->h.snapshot_count; i++) {
        uint64_t start = at, entry_length = 0;
        Qcow2Snapshot snap = { 0 };
        bool trimmed = false;

        at = (at + 7) & ~UINT64_C(7);
        if (!read_entry(s, &at, &snap, i, repair, &trimmed, &entry_length, error)) {
            snapshot_clear(&snap);
            return false;
        }
        length = ((length + 7) & ~UINT64_C(7)) + entry_length;
        if (length > QCOW2_MAX_SNAPSHOT_TAB || at - s->h.snapshots_offset > INT32_MAX) {
            uint32_t over = s->h.snapshot_count - i;

            snapshot_clear(&snap);
            if (!repair) {
                error_set(error, "Snapshot table is too big");
                error_append_hint(
                    error, "You can force-remove all %u overhanging snapshots with qemu-img check -r all",
                    over);
                return false;
            }
            fprintf(stderr, "Discarding %u overhanging snapshots (snapshot table is too big)\n", over);
            repair->dropped += over;
            s->h.snapshot_count = i;
            at = start;
            break;
        }
        if (repair) {
            repair->trimmed += trimmed;
        }
        g_array_append_val(s->snapshots, snap);
    }
    s->snapshots_bytes = at - s->h.snapshots_offset;
    return true;
}

static void put_entry(GByteArray *out, const Qcow2Snapshot *snap)
{
    uint8_t head[ENTRY_BYTES + KNOWN_EXTRA] = { 0 };
    static const uint8_t zero[8];
    size_t id = strlen(snap->id), name = strlen(snap->name);

    put_be64(head, snap->l1_offset);
    put_be32(head + 8, snap->l1_size);
    put_be16(head + 12, (uint16_t)id);
    put_be16(head + 14, (uint16_t)name);
    put_be32(head + 16, snap->date_s);
    put_be32(head + 20, snap->date_ns);
    put_be64(head + 24, snap->clock_ns);
    put_be32(head + 32, snap->vm_state_size > UINT32_MAX ? 0 : (uint32_t)snap->vm_state_size);
    put_be32(head + 36, KNOWN_EXTRA + snap->unknown_extra_size);
    put_be64(head + 40, snap->vm_state_size);
    put_be64(head + 48, snap->disk_size);
    put_be64(head + 56, snap->icount);
    g_byte_array_append(out, head, sizeof(head));
    g_byte_array_append(out, snap->unknown_extra, snap->unknown_extra_size);
    g_byte_array_append(out, (const uint8_t *)snap->id, (guint)id);
    g_byte_array_append(out, (const uint8_t *)snap->name, (guint)name);
    g_byte_array_append(out, zero, (8 - out->len % 8) % 8);
}

/* The list as a new table; the header leads to it. Everything that it refers to is stable (checkpoint). */
int qcow2_snapshots_write(Qcow2Node *s)
{
    GByteArray *out = g_byte_array_new();
    uint64_t old = s->h.snapshots_offset, old_bytes = s->h.snapshot_count ? s->snapshots_bytes : 0,
             offset = 0;
    uint32_t old_count = s->h.snapshot_count;
    int ret = 0;

    for (guint i = 0; i < s->snapshots->len; i++) {
        put_entry(out, &g_array_index(s->snapshots, Qcow2Snapshot, i));
    }
    if (out->len > QCOW2_MAX_SNAPSHOT_TAB) {
        ret = -EFBIG;
    } else if (out->len) {
        offset = qcow2_alloc_table(s, out->len, &ret);
        if (offset) {
            ret = blk_pwrite(s->node.file, offset, out->len, out->data, 0);
        }
    }
    if (ret >= 0) {
        ret = qcow2_checkpoint(s);
    }
    if (ret >= 0) {
        s->h.snapshots_offset = offset;
        s->h.snapshot_count = s->snapshots->len;
        ret = qcow2_write_header(s);
        if (ret >= 0) {
            ret = blk_flush(s->node.file);
        }
        if (ret < 0) {
            s->h.snapshots_offset = old;
            s->h.snapshot_count = old_count;
        }
    }
    if (ret < 0) {
        if (offset) {
            qcow2_free_now(s, offset, out->len, false);
        }
    } else {
        s->snapshots_bytes = out->len;
        for (guint i = 0; i < s->snapshots->len; i++) {
            Qcow2Snapshot *snap = &g_array_index(s->snapshots, Qcow2Snapshot, i);

            snap->extra_size = KNOWN_EXTRA + snap->unknown_extra_size;
        }
        if (old_bytes) {
            qcow2_free_now(s, old, old_bytes,
                           true); /* where it fails the old table leaks: the new one counts */
        }
    }
    g_byte_array_free(out, TRUE);
    return ret;
}

/* ---- refcounts of all that an L1 table reaches ---- */

static int update_l2(Qcow2Node *s, uint64_t table, int add, bool *changed, uint8_t *buf)
{
    int ret = qcow2_read_padded(s, table, buf, s->g.cluster_size);
    bool dirty = false;

    for (uint32_t i = 0; i < 1u << s->g.l2_bits && ret >= 0; i++) {
        uint8_t *at = buf + (size_t)i * s->g.l2_entry_bytes;
        Qcow2Entry e = qcow2_entry_load(&s->g, at);
        uint64_t word = e.word & ~QCOW2_COPIED, refcount = 0;

        if (e.word & QCOW2_COMPRESSED) {
            uint64_t start, last;
            uint32_t bytes;

            qcow2_compressed_span(&s->g, e.word, &start, &bytes);
            last = qcow2_cluster_of(s, start + bytes - 1);
            start = qcow2_cluster_of(s, start);
            if (add) {
                ret = qcow2_refcount_add(s, start, last - start + 1, add);
            }
        } else if (qcow2_entry_host(e)) {
            uint64_t cluster = qcow2_cluster_of(s, qcow2_entry_host(e));

            if (qcow2_entry_host(e) & (s->g.cluster_size - 1)) {
                ret = -EIO;
                break;
            }
            if (add) {
                ret = qcow2_refcount_add(s, cluster, 1, add);
            }
            if (ret >= 0) {
                ret = qcow2_refcount_get(s, cluster, &refcount);
            }
            if (refcount == 1) {
                word |= QCOW2_COPIED;
            }
        }
        if (word != e.word) {
            put_be64(at, word);
            dirty = true;
        }
    }
    if (ret >= 0 && dirty) {
        ret = blk_pwrite(s->node.file, table, s->g.cluster_size, buf, 0);
        *changed = true;
    }
    return ret;
}

int qcow2_update_refcounts(Qcow2Node *s, uint64_t l1_offset, uint32_t l1_size, int add)
{
    bool active = l1_offset == s->h.l1_offset, changed = false;
    uint64_t *l1 = g_try_new0(uint64_t, (gsize)l1_size + 1);
    uint8_t *buf = g_try_malloc(s->g.cluster_size);
    int ret = l1 && buf ? 0 : -ENOMEM;

    if (ret >= 0) {
        ret = qcow2_read_padded(s, l1_offset, l1, (uint64_t)l1_size * 8);
    }
    for (uint32_t i = 0; i < l1_size && ret >= 0; i++) {
        uint64_t entry = GUINT64_FROM_BE(l1[i]), table = entry & QCOW2_OFFSET_MASK, refcount = 0;

        if (!table) {
            continue;
        }
        if (table & (s->g.cluster_size - 1)) {
            ret = -EIO;
            break;
        }
        /* Down: first what it refers to, while it is whole. */
        ret = update_l2(s, table, add, &changed, buf);
        if (ret >= 0 && add) {
            ret = qcow2_refcount_add(s, qcow2_cluster_of(s, table), 1, add);
        }
        if (ret >= 0) {
            ret = qcow2_refcount_get(s, qcow2_cluster_of(s, table), &refcount);
        }
        entry = table | (refcount == 1 ? QCOW2_COPIED : 0);
        if (ret >= 0 && add >= 0 && entry != GUINT64_FROM_BE(l1[i])) {
            l1[i] = GUINT64_TO_BE(entry);
            changed = true;
        }
    }
    if (ret >= 0 && add >= 0 && changed) {
        ret = blk_pwrite(s->node.file, l1_offset, (uint64_t)l1_size * 8, l1, 0);
    }
    /* L1 and L2 pages in memory are out of date now; refcount pages are dirty and stay. */
    if (active && l1) {
        for (uint32_t i = 0; i < MIN(l1_size, s->h.l1_size) && ret >= 0; i++) {
            s->l1[i] = GUINT64_FROM_BE(l1[i]);
        }
    }
    qcow2_extents_clear(s);
    qcow2_meta_drop(s);
    g_free(l1);
    g_free(buf);
    return ret;
}

/* ---- operations ---- */

static int find_id(Qcow2Node *s, const char *id)
{
    for (guint i = 0; i < s->snapshots->len; i++) {
        if (strcmp(g_array_index(s->snapshots, Qcow2Snapshot, i).id, id) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static void new_id(Qcow2Node *s, char *id, size_t size)
{
    uint64_t max = 0;

    for (guint i = 0; i < s->snapshots->len; i++) {
        max = MAX(max, g_ascii_strtoull(g_array_index(s->snapshots, Qcow2Snapshot, i).id, NULL, 10));
    }
    g_snprintf(id, (gulong)size, "%" G_GUINT64_FORMAT, max + 1);
}

typedef struct Op {
    Qcow2Node *s;
    BlockSnapshotInfo *info;
    const char *id;
    GError **error;
    int (*fn)(struct Op *op);
    int ret;
} Op;

static void op_entry(void *opaque)
{
    Op *op = opaque;

    op->ret = qcow2_checkpoint(op->s);
    if (op->ret >= 0) {
        op->ret = op->fn(op);
    }
    if (op->ret >= 0) {
        op->ret = qcow2_checkpoint(op->s);
    }
    if (op->s->tables) {
        qcow2_tables_collect(op->s);
    }
}

static bool run_op(BlockNode *node, Op *op, const char *what, GError **error)
{
    Qcow2Node *s = (Qcow2Node *)node;

    if (s->data_child || s->g.data_file) {
        return error_set(error, "%s: an image with an external data file has no internal snapshots",
                         qcow2_what(s));
    }
    if (__atomic_load_n(&s->broken, __ATOMIC_RELAXED) || s->view) {
        return error_set(error, "%s: %s", qcow2_what(s),
                         s->view ? "it shows a snapshot" : "the image is corrupt");
    }
    op->s = s;
    op->error = error;
    block_run(node->graph, op_entry, op);
    if (op->ret < 0 && (!error || !*error)) {
        error_set_errno(error, -op->ret, "%s: cannot %s", qcow2_what(s), what);
    }
    return op->ret >= 0;
}

static int create(Op *op)
{
    Qcow2Node *s = op->s;
    BlockSnapshotInfo *info = op->info;
    uint64_t bytes = (uint64_t)s->h.l1_size * 8, offset = 0;
    Qcow2Snapshot snap = { 0 };
    uint64_t *l1;
    int ret = 0;

    if (s->g.refcount_max < 2) {
        return -EINVAL; /* refcounts of 1 bit: what is shared cannot be counted */
    }
    if (s->snapshots->len >= QCOW2_MAX_SNAPSHOTS) {
        return -EFBIG;
    }
    if (!info->id[0] || find_id(s, info->id) >= 0) {
        new_id(s, info->id, sizeof(info->id));
    }
    if (bytes) {
        offset = qcow2_alloc_table(s, bytes, &ret);
        if (!offset) {
            return ret;
        }
    }
    /* Counts first: a crash then leaks them. */
    ret = qcow2_update_refcounts(s, s->h.l1_offset, s->h.l1_size, 1);
    if (ret >= 0 && bytes) {
        l1 = g_new(uint64_t, s->h.l1_size);
        for (uint32_t i = 0; i < s->h.l1_size; i++) {
            l1[i] = GUINT64_TO_BE(s->l1[i]);
        }
        ret = blk_pwrite(s->node.file, offset, bytes, l1, 0);
        g_free(l1);
    }
    if (ret < 0) {
        if (qcow2_checkpoint(s) >= 0) { /* counts that went up half-way go down again */
            qcow2_undo_counts(s);
            qcow2_l1_load(s, NULL);
        }
        return ret;
    }
    snap.l1_offset = offset;
    snap.l1_size = s->h.l1_size;
    snap.id = g_strdup(info->id);
    snap.name = g_strdup(info->name);
    snap.date_s = (uint32_t)info->date_s;
    snap.date_ns = (uint32_t)info->date_ns;
    snap.clock_ns = info->vm_clock_ns;
    snap.vm_state_size = info->vm_state_size;
    snap.disk_size = s->h.size;
    snap.icount = info->icount;
    snap.extra_size = KNOWN_EXTRA;
    g_array_append_val(s->snapshots, snap);
    ret = qcow2_snapshots_write(s);
    if (ret < 0) {
        snapshot_clear(&g_array_index(s->snapshots, Qcow2Snapshot, s->snapshots->len - 1));
        g_array_set_size(s->snapshots, s->snapshots->len - 1);
        qcow2_update_refcounts(s, s->h.l1_offset, s->h.l1_size, -1);
        qcow2_update_refcounts(s, s->h.l1_offset, s->h.l1_size, 0);
        return ret;
    }
    /* The VM state belongs to the snapshot alone now. */
    ret = qcow2_checkpoint(s);
    if (ret >= 0 && info->vm_state_size) {
        s->view_past_end = true;
        ret = qcow2_discard(s, qcow2_vm_state_offset(s), qcow2_round_up(s, info->vm_state_size), true);
        s->view_past_end = false;
    }
    return ret;
}

bool qcow2_snapshot_create(BlockNode *node, BlockSnapshotInfo *info, GError **error)
{
    Op op = { .info = info, .fn = create };

    return run_op(node, &op, "create the snapshot", error);
}

static int go_to(Op *op)
{
    Qcow2Node *s = op->s;
    int at = find_id(s, op->id), ret;
    const Qcow2Snapshot *snap;
    uint64_t *l1, size;

    if (at < 0) {
        error_set(op->error, "Can't find the snapshot '%s'", op->id);
        return -ENOENT;
    }
    snap = &g_array_index(s->snapshots, Qcow2Snapshot, at);
    if (!qcow2_snapshot_l1_valid(s, snap, op->error)) {
        error_prefix(op->error, "Failed to load snapshot: ");
        return -EINVAL;
    }
    size = snap->disk_size;
    if (size != s->h.size) {
        ret = qcow2_co_truncate(&s->node, size, true, QAPI_PREALLOC_MODE_OFF, 0, op->error);
        if (ret < 0) {
            return ret;
        }
        ret = qcow2_checkpoint(s);
        if (ret < 0) {
            return ret;
        }
    }
    ret = qcow2_grow_l1(s, snap->l1_size);
    if (ret < 0) {
        return ret;
    }
    l1 = g_try_new0(uint64_t, (gsize)s->h.l1_size + 1);
    ret = l1 ? qcow2_read_padded(s, snap->l1_offset, l1, (uint64_t)snap->l1_size * 8) : -ENOMEM;
    if (ret >= 0) {
        ret = qcow2_update_refcounts(s, snap->l1_offset, snap->l1_size, 1);
    }
    if (ret >= 0) {
        ret = qcow2_checkpoint(s);
    }
    if (ret >= 0) {
        uint64_t old_bytes = (uint64_t)s->h.l1_size * 8, *old = g_new(uint64_t, (gsize)s->h.l1_size + 1);
        uint64_t old_at = s->h.l1_offset, place;

        /* A new place for the active table: the old one is whole until the header leads to the new one. */
        for (uint32_t i = 0; i < s->h.l1_size; i++) {
            l1[i] &= GUINT64_TO_BE(QCOW2_OFFSET_MASK);
        }
        memcpy(old, s->l1, old_bytes);
        place = qcow2_alloc_table(s, old_bytes, &ret);
        if (place) {
            ret = blk_pwrite(s->node.file, place, old_bytes, l1, 0);
        }
        if (ret >= 0) {
            ret = qcow2_checkpoint(s);
        }
        if (ret >= 0) {
            s->h.l1_offset = place;
            ret = qcow2_write_header(s);
            ret = ret < 0 ? ret : blk_flush(s->node.file);
            if (ret < 0) {
                s->h.l1_offset = old_at;
            }
        }
        if (ret >= 0) {
            for (uint32_t i = 0; i < s->h.l1_size; i++) {
                s->l1[i] = GUINT64_FROM_BE(l1[i]);
            }
            qcow2_meta_drop(s);
            ret = qcow2_update_refcounts(s, old_at, s->h.l1_size, -1);
            if (ret >= 0) {
                ret = qcow2_free_now(s, old_at, old_bytes, true);
            }
            if (ret >= 0) {
                ret = qcow2_update_refcounts(s, s->h.l1_offset, s->h.l1_size, 0);
            }
        }
        g_free(old);
    }
    g_free(l1);
    return ret;
}

bool qcow2_snapshot_goto(BlockNode *node, const char *id, GError **error)
{
    Op op = { .id = id, .fn = go_to };

    return run_op(node, &op, "apply the snapshot", error);
}

static int delete (Op *op)
{
    Qcow2Node *s = op->s;
    int at = find_id(s, op->id), ret;
    Qcow2Snapshot snap;

    if (at < 0) {
        error_set(op->error, "Can't find the snapshot");
        return -ENOENT;
    }
    snap = g_array_index(s->snapshots, Qcow2Snapshot, at);
    if (!qcow2_snapshot_l1_valid(s, &snap, op->error)) {
        return -EINVAL;
    }
    g_array_remove_index(s->snapshots, (guint)at);
    ret = qcow2_snapshots_write(s);
    if (ret < 0) {
        g_array_insert_val(s->snapshots, (guint)at, snap);
        return ret;
    }
    /* It is gone from here on: what fails leaves leaks. */
    ret = qcow2_update_refcounts(s, snap.l1_offset, snap.l1_size, -1);
    if (ret >= 0 && snap.l1_size) {
        ret = qcow2_free_now(s, snap.l1_offset, (uint64_t)snap.l1_size * 8, true);
    }
    if (ret >= 0) {
        ret = qcow2_checkpoint(s);
    }
    if (ret < 0) {
        error_set_errno(op->error, -ret, "Failed to free the cluster and L1 table");
    } else {
        ret = qcow2_update_refcounts(s, s->h.l1_offset, s->h.l1_size, 0);
    }
    snapshot_clear(&snap);
    return ret;
}

bool qcow2_snapshot_delete(BlockNode *node, const char *id, GError **error)
{
    Op op = { .id = id, .fn = delete };

    return run_op(node, &op, "delete the snapshot", error);
}

bool qcow2_snapshot_list(BlockNode *node, GArray *list, GError **error)
{
    Qcow2Node *s = (Qcow2Node *)node;

    for (guint i = 0; i < s->snapshots->len; i++) {
        const Qcow2Snapshot *snap = &g_array_index(s->snapshots, Qcow2Snapshot, i);
        BlockSnapshotInfo info = { .vm_state_size = snap->vm_state_size,
                                   .size = snap->disk_size,
                                   .date_s = snap->date_s,
                                   .date_ns = snap->date_ns,
                                   .vm_clock_ns = snap->clock_ns,
                                   .icount = snap->icount };

        g_strlcpy(info.id, snap->id, sizeof(info.id));
        g_strlcpy(info.name, snap->name, sizeof(info.name));
        g_array_append_val(list, info);
    }
    return true;
}

static void view_entry(void *opaque)
{
    Op *op = opaque;
    Qcow2Node *s = op->s;
    int at = find_id(s, op->id);
    const Qcow2Snapshot *snap;
    uint64_t *l1;

    if (at < 0) {
        error_set(op->error, "Can't find snapshot");
        op->ret = -ENOENT;
        return;
    }
    snap = &g_array_index(s->snapshots, Qcow2Snapshot, at);
    if (!qcow2_snapshot_l1_valid(s, snap, op->error)) {
        op->ret = -EINVAL;
        return;
    }
    l1 = g_try_new0(uint64_t, (gsize)snap->l1_size + 1);
    op->ret = l1 ? qcow2_read_padded(s, snap->l1_offset, l1, (uint64_t)snap->l1_size * 8) : -ENOMEM;
    if (op->ret < 0) {
        g_free(l1);
        error_set_errno(op->error, -op->ret, "Failed to load the snapshot's L1 table");
        return;
    }
    for (uint32_t i = 0; i < snap->l1_size; i++) {
        l1[i] = GUINT64_FROM_BE(l1[i]);
    }
    qcow2_extents_clear(s);
    g_free(s->l1);
    s->l1 = l1;
    s->h.l1_offset = snap->l1_offset;
    s->h.l1_size = snap->l1_size;
    s->view = true;
    block_node_set_size(&s->node, snap->disk_size);
}

bool qcow2_snapshot_load(BlockNode *node, const char *id, GError **error)
{
    Op op = { .s = (Qcow2Node *)node, .id = id, .error = error };

    if (!node->read_only) {
        return error_set(error, "%s: a snapshot can be looked at only in an image that is opened read-only",
                         node->what);
    }
    block_run(node->graph, view_entry, &op);
    return op.ret >= 0;
}

/* ---- VM state ---- */

int qcow2_co_load_vmstate(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec)
{
    Qcow2Node *s = (Qcow2Node *)node;
    int ret;

    s->view_past_end = true;
    ret = qcow2_co_preadv(node, qcow2_vm_state_offset(s) + offset, bytes, vec, 0, 0);
    s->view_past_end = false;
    return ret;
}

int qcow2_co_save_vmstate(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec)
{
    Qcow2Node *s = (Qcow2Node *)node;
    uint64_t at = qcow2_vm_state_offset(s) + offset;
    int ret = qcow2_grow_l1(s, qcow2_l1_entries(&s->g, at + bytes));

    if (ret >= 0) {
        s->view_past_end = true;
        ret = qcow2_co_pwritev(node, at, bytes, vec, 0, 0);
        s->view_past_end = false;
    }
    return ret;
}
