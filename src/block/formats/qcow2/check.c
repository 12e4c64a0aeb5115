/*
 * Checking and repairing qcow2: counts every reference from the tables on disk, and compares with the
 * refcounts.
 *
 * 1. The tables are read from the file, past the pages in memory: what is dirty was written before
 * (checkpoint), and the pages are dropped when something was repaired.
 * 2. An image is only read unless fix says otherwise; every offset in it is checked before it is used.
 * 3. Leaks and counts that are too low are set right in place. Where a cluster that is used has no count at
 * all, or the refcount structures are damaged, new ones are written behind the end of all that is in use,
 * flushed, and then the header leads to them: a crash leaves the old or the new ones.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct Check {
    Qcow2Node *s;
    BlockCheckResult *r;
    unsigned fix;
    uint32_t *refs;
    uint64_t count; /* clusters of the file */
    bool rebuild, quiet;
    uint64_t next_contiguous;
    uint8_t *table; /* one cluster */
    int ret;
} Check;

static void G_GNUC_PRINTF(2, 3) say(const Check *c, const char *fmt, ...)
{
    va_list ap;

    if (!c->quiet) {
        va_start(ap, fmt);
        vfprintf(stderr, fmt, ap);
        va_end(ap);
    }
}

static bool grow_refs(Check *c, uint64_t count)
{
    uint32_t *refs;

    if (count <= c->count) {
        return true;
    }
    refs = g_try_realloc_n(c->refs, count, sizeof(*refs));
    if (!refs) {
        c->ret = -ENOMEM;
        return false;
    }
    memset(refs + c->count, 0, (count - c->count) * sizeof(*refs));
    c->refs = refs;
    c->count = count;
    return true;
}

/* One more reference to every cluster of the range. */
static void refer(Check *c, uint64_t offset, uint64_t bytes)
{
    Qcow2Node *s = c->s;
    uint64_t end = block_size(s->node.file);

    if (!bytes) {
        return;
    }
    if (offset >= end || bytes > end - offset) {
        uint64_t over = offset >= end ? UINT64_MAX : offset + bytes - end;

        if (over >= s->g.cluster_size) {
            say(c,
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: "
                "offset 0x%" PRIx64 " size 0x%" PRIx64 "\n",
                offset, bytes);
            c->r->corruptions++;
            return;
        }
    }
    if (!grow_refs(c, qcow2_cluster_of(s, offset + bytes - 1) + 1)) {
        return;
    }
    for (uint64_t i = qcow2_cluster_of(s, offset); i <= qcow2_cluster_of(s, offset + bytes - 1); i++) {
        if (c->refs[i] < MIN(UINT32_MAX, s->g.refcount_max)) {
            c->refs[i]++;
        } else {
            say(c,
                "ERROR: overflow cluster offset=0x%" PRIx64 "\n"
                "Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a "
                "clean copy if the image cannot be opened for writing\n",
                i << s->g.cluster_bits);
            c->r->corruptions++;
        }
    }
}

static bool read_table(Check *c, uint64_t offset, void *buf, uint64_t bytes, const char *what)
{
    int ret = qcow2_read_padded(c->s, offset, buf, bytes);

    if (ret < 0) {
        say(c, "ERROR: I/O error in %s\n", what);
        c->r->check_errors++;
    }
    return ret >= 0;
}

/* ---- counting ---- */

static bool fix_entry(Check *c, uint64_t table, uint32_t index, uint64_t entry, uint64_t bitmap)
{
    const Qcow2Geometry *g = &c->s->g;
    uint8_t buf[16];

    put_be64(buf, entry);
    put_be64(buf + 8, bitmap);
    return blk_pwrite(c->s->node.file, table + (uint64_t)index * g->l2_entry_bytes,
                      g->sub_bits && !(entry & QCOW2_COMPRESSED) ? 16 : 8, buf, 0) >= 0;
}

static void count_standard(Check *c, uint64_t table, uint32_t i, Qcow2Entry e, bool active)
{
    Qcow2Node *s = c->s;
    uint64_t host = qcow2_entry_host(e);

    if ((uint32_t)e.bitmap & (uint32_t)(e.bitmap >> 32)) {
        say(c, "ERROR offset=%" PRIx64 ": Allocated cluster has corrupted subcluster allocation bitmap\n",
            host);
        c->r->corruptions++;
    }
    if (host & (s->g.cluster_size - 1)) {
        bool data = s->g.sub_bits ? (uint32_t)e.bitmap != 0 : !(e.word & QCOW2_ZERO);
        bool fix = !data && (c->fix & BLOCK_FIX_ERRORS);

        say(c, "%s offset=%" PRIx64 ": %s cluster is not properly aligned; L2 entry corrupted.\n",
            fix ? "Repairing" : "ERROR", host, data ? "Data" : "Preallocated");
        if (fix && fix_entry(c, table, i, s->g.sub_bits ? 0 : QCOW2_ZERO, e.bitmap)) {
            c->r->corruptions_fixed++;
            return; /* it refers to nothing any more */
        }
        c->r->corruptions++;
    } else if (!((uint32_t)e.bitmap & (uint32_t)(e.bitmap >> 32)) &&
               qcow2_entry_kind(&s->g, e, 0) == QCOW2_KIND_INVALID) {
        say(c, "ERROR: entry %u of the L2 table at 0x%" PRIx64 " is invalid\n", i, table);
        c->r->corruptions++;
    }
    if (active) {
        c->r->allocated_clusters++;
        if (c->next_contiguous && host != c->next_contiguous) {
            c->r->fragmented_clusters++;
        }
        c->next_contiguous = host + s->g.cluster_size;
    }
    if (!s->g.data_file) {
        refer(c, host, s->g.cluster_size);
    }
}

static void count_l2(Check *c, uint64_t table, bool active)
{
    Qcow2Node *s = c->s;

    c->next_contiguous = 0; /* the table itself lies between */
    if (!read_table(c, table, c->table, s->g.cluster_size, "check_refcounts_l2")) {
        return;
    }
    for (uint32_t i = 0; i < 1u << s->g.l2_bits && c->ret >= 0; i++) {
        Qcow2Entry e = qcow2_entry_load(&s->g, c->table + (size_t)i * s->g.l2_entry_bytes);

        if (e.word & QCOW2_COMPRESSED) {
            uint64_t at;
            uint32_t bytes;

            if (e.word & QCOW2_COPIED) {
                bool fixed = (c->fix & BLOCK_FIX_ERRORS) && fix_entry(c, table, i, e.word & ~QCOW2_COPIED, 0);

                say(c, "%s: coffset=0x%" PRIx64 ": copied flag must never be set for compressed clusters\n",
                    fixed ? "Repairing" : "ERROR", e.word & s->g.coffset_mask);
                c->r->corruptions_fixed += fixed;
                c->r->corruptions += !fixed;
                e.word &= ~QCOW2_COPIED;
            }
            if (s->g.data_file) {
                say(c, "ERROR compressed cluster %u with data file, entry=0x%" PRIx64 "\n", i, e.word);
                c->r->corruptions++;
                continue;
            }
            qcow2_compressed_span(&s->g, e.word, &at, &bytes);
            refer(c, at, bytes);
            if (active) {
                c->r->allocated_clusters++;
                c->r->compressed_clusters++;
                c->r->fragmented_clusters++; /* by nature */
            }
        } else if (qcow2_entry_has_host(&s->g, e)) {
            count_standard(c, table, i, e, active);
        } else if (s->g.sub_bits && (uint32_t)e.bitmap) {
            say(c, "ERROR: Unallocated cluster has non-zero subcluster allocation map\n");
            c->r->corruptions++;
        }
    }
}

static void count_l1(Check *c, uint64_t offset, uint64_t entries, bool active)
{
    Qcow2Node *s = c->s;
    uint64_t bytes = entries * 8, *l1;

    if (!entries) {
        return;
    }
    refer(c, offset, bytes);
    l1 = g_try_malloc(bytes);
    if (!l1) {
        c->ret = -ENOMEM;
        return;
    }
    if (read_table(c, offset, l1, bytes, "check_refcounts_l1")) {
        for (uint64_t i = 0; i < entries && c->ret >= 0; i++) {
            uint64_t table = GUINT64_FROM_BE(l1[i]) & QCOW2_OFFSET_MASK;

            if (!table) {
                continue;
            }
            refer(c, table, s->g.cluster_size);
            if (table & (s->g.cluster_size - 1)) {
                say(c, "ERROR l2_offset=%" PRIx64 ": Table is not cluster aligned; L1 entry corrupted\n",
                    table);
                c->r->corruptions++;
            } else if (table >= block_size(s->node.file)) {
                continue; /* told already */
            } else {
                count_l2(c, table, active);
            }
        }
    } else {
        c->ret = -EIO;
    }
    g_free(l1);
}

static void count_range(void *opaque, uint64_t offset, uint64_t bytes)
{
    refer(opaque, offset, bytes);
}

static void count_refblocks(Check *c)
{
    Qcow2Node *s = c->s;

    for (uint64_t i = 0; i < s->reftable_entries && c->ret >= 0; i++) {
        uint64_t at = s->reftable[i], cluster;

        if (at & QCOW2_REFTABLE_RESERVED) {
            say(c, "ERROR refcount table entry %" PRIu64 " has reserved bits set\n", i);
            c->r->corruptions++;
            c->rebuild = true;
            continue;
        }
        if (!at) {
            continue;
        }
        cluster = qcow2_cluster_of(s, at);
        if (at & (s->g.cluster_size - 1)) {
            say(c,
                "ERROR refcount block %" PRIu64 " is not cluster aligned; refcount table entry corrupted\n",
                i);
            c->r->corruptions++;
            c->rebuild = true;
        } else if (at >= block_size(s->node.file)) {
            say(c, "ERROR refcount block %" PRIu64 " is outside image\n", i);
            c->r->corruptions++;
            c->rebuild = true;
        } else {
            refer(c, at, s->g.cluster_size);
            if (cluster < c->count && c->refs[cluster] != 1) {
                say(c, "ERROR refcount block %" PRIu64 " refcount=%u\n", i, c->refs[cluster]);
                c->r->corruptions++;
                c->rebuild = true;
            }
        }
    }
}

static void count_all(Check *c, bool with_refcounts)
{
    Qcow2Node *s = c->s;

    if (!c->refs) {
        c->ret = -ENOMEM;
        return;
    }
    memset(c->refs, 0, c->count * sizeof(*c->refs));
    c->next_contiguous = 0;
    c->r->allocated_clusters = c->r->fragmented_clusters = c->r->compressed_clusters = 0;
    c->r->total_clusters = qcow2_cluster_of(s, s->h.size + s->g.cluster_size - 1);
    refer(c, 0, s->g.cluster_size);
    count_l1(c, s->h.l1_offset, s->h.l1_size, true);
    for (guint i = 0; i < s->snapshots->len && c->ret >= 0; i++) {
        const Qcow2Snapshot *snap = &g_array_index(s->snapshots, Qcow2Snapshot, i);

        if (snap->l1_offset & (s->g.cluster_size - 1)) {
            say(c,
                "ERROR snapshot %s (%s) l1_offset=0x%" PRIx64
                ": L1 table is not cluster aligned; snapshot table entry"
                " corrupted\n",
                snap->id, snap->name, snap->l1_offset);
            c->r->corruptions++;
        } else if (snap->l1_size > QCOW2_MAX_L1_BYTES / 8) {
            say(c,
                "ERROR snapshot %s (%s) l1_size=0x%x: L1 table is too large; snapshot table entry "
                "corrupted\n",
                snap->id, snap->name, snap->l1_size);
            c->r->corruptions++;
        } else {
            count_l1(c, snap->l1_offset, snap->l1_size, false);
        }
    }
    if (s->h.snapshot_count) {
        refer(c, s->h.snapshots_offset, s->snapshots_bytes);
    }
    if (s->h.has_crypto) {
        refer(c, s->h.crypto_offset, s->h.crypto_size);
    }
    if (s->h.has_bitmaps && qcow2_bitmaps_walk(s, count_range, c) < 0) {
        say(c, "ERROR: the bitmap directory cannot be read\n");
        c->r->corruptions++;
    }
    if (with_refcounts) {
        refer(c, s->h.reftable_offset, (uint64_t)s->h.reftable_clusters << s->g.cluster_bits);
        count_refblocks(c);
    }
}

/* ---- comparing ---- */

/* The refcount block of `index` into buf; zeroes where there is none. */
static bool read_block(Check *c, uint64_t index, uint8_t *buf)
{
    Qcow2Node *s = c->s;
    uint64_t at = index < s->reftable_entries ? s->reftable[index] : 0;

    if (!at || (at & (s->g.cluster_size - 1)) || at >= block_size(s->node.file)) {
        memset(buf, 0, s->g.cluster_size);
        return true;
    }
    return read_table(c, at, buf, s->g.cluster_size, "refcount block");
}

static void compare_block(Check *c, unsigned fix, uint64_t index, uint8_t *block, uint64_t *highest)
{
    Qcow2Node *s = c->s;
    uint64_t base = index << s->g.refblock_bits, at = index < s->reftable_entries ? s->reftable[index] : 0;
    bool dirty = false;

    for (uint64_t i = 0; i < UINT64_C(1) << s->g.refblock_bits && base + i < c->count; i++) {
        uint64_t have = qcow2_refcount_load(s->g.refcount_order, block, i), want = c->refs[base + i];
        bool fixed = false;

        if (have || want) {
            *highest = base + i;
        }
        if (have == want) {
            continue;
        }
        if (!have) {
            c->rebuild = true;
        } else if (at && (fix & (have > want ? BLOCK_FIX_LEAKS : BLOCK_FIX_ERRORS)) &&
                   want <= s->g.refcount_max) {
            qcow2_refcount_store(s->g.refcount_order, block, i, want);
            fixed = dirty = true;
        }
        say(c, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64 "\n",
            fixed         ? "Repairing"
            : have < want ? "ERROR"
                          : "Leaked",
            base + i, have, want);
        if (have < want) {
            c->r->corruptions += !fixed;
            c->r->corruptions_fixed += fixed;
        } else {
            c->r->leaks += !fixed;
            c->r->leaks_fixed += fixed;
        }
    }
    if (dirty && blk_pwrite(s->node.file, at, s->g.cluster_size, block, 0) < 0) {
        say(c, "ERROR: cannot write a refcount block\n");
        c->r->check_errors++;
    }
}

/* Tells of every count that is wrong, or (fix) sets it right. */
static void compare(Check *c, unsigned fix)
{
    Qcow2Node *s = c->s;
    uint8_t *block = g_malloc(s->g.cluster_size);
    uint64_t highest = 0;

    for (uint64_t i = 0; i << s->g.refblock_bits < c->count; i++) {
        if (!read_block(c, i, block)) {
            continue;
        }
        compare_block(c, fix, i, block, &highest);
    }
    c->r->image_end_offset = (highest + 1) << s->g.cluster_bits;
    g_free(block);
}

/* ---- the COPIED flags ---- */

static uint64_t refcount_on_disk(Check *c, uint64_t offset, uint8_t *block, uint64_t *cached)
{
    Qcow2Node *s = c->s;
    uint64_t cluster = qcow2_cluster_of(s, offset), index = cluster >> s->g.refblock_bits;

    if (*cached != index) {
        if (!read_block(c, index, block)) {
            return UINT64_MAX;
        }
        *cached = index;
    }
    return qcow2_refcount_load(s->g.refcount_order, block,
                               cluster & ((UINT64_C(1) << s->g.refblock_bits) - 1));
}

static void check_copied(Check *c)
{
    Qcow2Node *s = c->s;
    uint8_t *block = g_malloc(s->g.cluster_size), buf[8];
    uint64_t cached = UINT64_MAX;
    /* The counts were set right before: where that is all that was wrong, the flags can follow them. */
    bool fix = (c->fix & BLOCK_FIX_ERRORS) ||
               ((c->fix & BLOCK_FIX_LEAKS) && !c->r->check_errors && !c->r->corruptions && !c->r->leaks);

    for (uint32_t i = 0; i < s->h.l1_size && c->ret >= 0; i++) {
        uint64_t entry = s->l1[i], table = entry & QCOW2_OFFSET_MASK, refcount;
        bool dirty = false;

        if (!table || (table & (s->g.cluster_size - 1)) || table >= block_size(s->node.file)) {
            continue;
        }
        refcount = refcount_on_disk(c, table, block, &cached);
        if ((refcount == 1) != !!(entry & QCOW2_COPIED)) {
            bool fixed = false;

            if (fix) {
                s->l1[i] = refcount == 1 ? entry | QCOW2_COPIED : entry & ~QCOW2_COPIED;
                put_be64(buf, s->l1[i]);
                fixed = blk_pwrite(s->node.file, s->h.l1_offset + (uint64_t)i * 8, 8, buf, 0) >= 0;
            }
            say(c, "%s OFLAG_COPIED L2 cluster: l1_index=%u l1_entry=%" PRIx64 " refcount=%" PRIu64 "\n",
                fixed ? "Repairing" : "ERROR", i, entry, refcount);
            c->r->corruptions += !fixed;
            c->r->corruptions_fixed += fixed;
        }
        if (!read_table(c, table, c->table, s->g.cluster_size, "check_oflag_copied")) {
            continue;
        }
        for (uint32_t j = 0; j < 1u << s->g.l2_bits; j++) {
            uint8_t *at = c->table + (size_t)j * s->g.l2_entry_bytes;
            Qcow2Entry e = qcow2_entry_load(&s->g, at);
            uint64_t host = qcow2_entry_host(e);

            if ((e.word & QCOW2_COMPRESSED) || !qcow2_entry_has_host(&s->g, e) ||
                (host & (s->g.cluster_size - 1))) {
                continue;
            }
            refcount = s->g.data_file ? 1 : refcount_on_disk(c, host, block, &cached);
            if ((refcount == 1) != !!(e.word & QCOW2_COPIED)) {
                say(c, "%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64 "\n",
                    fix ? "Repairing" : "ERROR", e.word, refcount);
                e.word = refcount == 1 ? e.word | QCOW2_COPIED : e.word & ~QCOW2_COPIED;
                put_be64(at, e.word);
                dirty = true;
                c->r->corruptions += !fix;
                c->r->corruptions_fixed += fix;
            }
        }
        if (dirty && fix && blk_pwrite(s->node.file, table, s->g.cluster_size, c->table, 0) < 0) {
            c->r->check_errors++;
        }
    }
    g_free(block);
}

/* ---- new refcount structures ---- */

static uint64_t used_clusters(const Check *c)
{
    uint64_t used = c->count;

    while (used > 1 && !c->refs[used - 1]) {
        used--;
    }
    return used;
}

/* Counts of refs, with that width, from cluster `used` on: nothing that is in use lies there, so the old ones
 * stay whole until the header changes. */
static int rebuild(Check *c, uint32_t order, uint64_t used)
{
    Qcow2Node *s = c->s;
    Qcow2Header old = s->h;
    uint32_t bits = s->g.cluster_bits + 3 - order;
    uint64_t per_block = UINT64_C(1) << bits,
             max = order == 6 ? INT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
    uint64_t total = 0, blocks, table, last, entries, *out;
    uint8_t *block = g_malloc(s->g.cluster_size);
    int ret = 0;

    do {
        last = total;
        blocks = (used + total + per_block - 1) / per_block;
        table = (blocks * 8 + s->g.cluster_size - 1) >> s->g.cluster_bits;
        total = blocks + table;
    } while (total != last);
    entries = (table << s->g.cluster_bits) / 8;
    if (!grow_refs(c, used + total) || (table << s->g.cluster_bits) > QCOW2_MAX_REFTABLE) {
        g_free(block);
        return -EFBIG;
    }
    for (uint64_t i = used; i < used + total; i++) {
        c->refs[i] = 1;
    }
    out = g_new0(uint64_t, entries);
    for (uint64_t i = 0; i < blocks && ret >= 0; i++) {
        uint64_t at = (used + i) << s->g.cluster_bits, end = MIN(c->count, used + total);

        memset(block, 0, s->g.cluster_size);
        for (uint64_t j = 0; j < per_block && i * per_block + j < end; j++) {
            if (c->refs[i * per_block + j] > max) {
                ret = -ERANGE;
            }
            qcow2_refcount_store(order, block, j, c->refs[i * per_block + j]);
        }
        out[i] = GUINT64_TO_BE(at);
        if (ret >= 0) {
            ret = blk_pwrite(s->node.file, at, s->g.cluster_size, block, 0);
        }
    }
    g_free(block);
    if (ret >= 0) {
        ret = blk_pwrite(s->node.file, (used + blocks) << s->g.cluster_bits, entries * 8, out, 0);
    }
    if (ret >= 0) {
        ret = blk_flush(s->node.file);
    }
    g_free(out);
    if (ret < 0) {
        return ret;
    }
    s->h.reftable_offset = (used + blocks) << s->g.cluster_bits;
    s->h.reftable_clusters = (uint32_t)table;
    s->h.refcount_order = order;
    ret = qcow2_write_header(s);
    if (ret >= 0) {
        ret = blk_flush(s->node.file);
    }
    if (ret < 0) {
        s->h.reftable_offset = old.reftable_offset;
        s->h.reftable_clusters = old.reftable_clusters;
        s->h.refcount_order = old.refcount_order;
        return ret;
    }
    qcow2_geometry_init(&s->g, &s->h);
    return qcow2_refcounts_load(s, NULL);
}

/* ---- from outside ---- */

/* The allocator and all pages begin anew. */
static void start_over(Qcow2Node *s)
{
    if (s->reserve_page) {
        qcow2_page_unpin(s, s->reserve_page);
        s->reserve_page = NULL;
    }
    s->reserve = s->reserve_end = 0;
    s->free_hint = 1;
    s->fresh_next = MAX(s->fresh_next, qcow2_cluster_of(s, block_size(s->node.file) + s->g.cluster_size - 1));
    s->compressed_at = s->compressed_end = 0;
    qcow2_meta_drop(s);
    qcow2_extents_clear(s);
    if (s->tables) {
        qcow2_tables_collect(s);
    }
}

static bool begin(Check *c, Qcow2Node *s, BlockCheckResult *r, unsigned fix)
{
    memset(c, 0, sizeof(*c));
    c->s = s;
    c->r = r;
    c->fix = fix;
    c->table = g_try_malloc(s->g.cluster_size);
    return c->table &&
           grow_refs(c, MAX(1, qcow2_cluster_of(s, block_size(s->node.file) + s->g.cluster_size - 1)));
}

static void end(Check *c)
{
    g_free(c->refs);
    g_free(c->table);
}

static void check_and_fix(Check *c)
{
    BlockCheckResult *r = c->r, before;

    count_all(c, true);
    if (c->ret < 0) {
        return;
    }
    before = *r;
    compare(c, 0);
    if (c->rebuild && (c->fix & BLOCK_FIX_ERRORS)) {
        int64_t corruptions = r->corruptions, leaks = r->leaks;
        bool quiet = c->quiet;

        say(c, "Rebuilding refcount structure\n");
        c->ret = rebuild(c, c->s->g.refcount_order, used_clusters(c));
        if (c->ret < 0) {
            return;
        }
        r->corruptions = r->leaks = 0;
        c->rebuild = false;
        count_all(c, true);
        c->quiet = quiet || !(c->fix & BLOCK_FIX_LEAKS);
        before = *r;
        compare(c, c->fix & BLOCK_FIX_LEAKS);
        c->quiet = quiet;
        /* What leaks now are the old structures: not a leak that the image came with. */
        before.image_end_offset = r->image_end_offset;
        *r = before;
        r->corruptions_fixed += MAX(0, corruptions - r->corruptions);
        r->leaks_fixed += MAX(0, leaks - r->leaks);
    } else if (c->rebuild && c->fix) {
        say(c, "ERROR need to rebuild refcount structures\n");
    } else if (c->fix && (r->leaks || r->corruptions)) {
        *r = before;
        compare(c, c->fix);
    }
    check_copied(c);
}

/* ---- the snapshot table ---- */

static int read_snapshots(Check *c, BlockCheckResult *r)
{
    Qcow2Node *s = c->s;
    Qcow2SnapshotRepair repair = { 0 };
    g_autoptr(GError) error = NULL;
    bool fix = c->fix & BLOCK_FIX_ERRORS;

    qcow2_snapshots_free(s);
    if (s->h.snapshot_count > QCOW2_MAX_SNAPSHOTS) {
        uint32_t over = s->h.snapshot_count - QCOW2_MAX_SNAPSHOTS;

        if (!fix) {
            error_set(&error, "ERROR snapshot table too large");
            error_append_hint(
                &error, "You can force-remove all %u overhanging snapshots with qemu-img check -r all", over);
            error_report(error);
            r->check_errors++;
            return -EFBIG;
        }
        say(c, "Discarding %u overhanging snapshots\n", over);
        repair.dropped = over;
        s->h.snapshot_count = QCOW2_MAX_SNAPSHOTS;
    }
    if (!qcow2_header_check_snapshots(&s->h, &error) ||
        !qcow2_snapshots_load(s, fix ? &repair : NULL, &error)) {
        error_prefix(&error, "ERROR failed to read the snapshot table: ");
        error_report(error);
        r->check_errors++;
        return -EFBIG;
    }
    r->corruptions += repair.dropped + repair.trimmed;
    if (repair.dropped) { /* what they leave behind is counted as a leak next */
        int ret = qcow2_write_header(s);

        if (ret < 0) {
            return ret;
        }
        r->corruptions -= repair.dropped;
        r->corruptions_fixed += repair.dropped;
    }
    for (guint i = 0; s->h.version >= 3 && i < s->snapshots->len; i++) {
        if (g_array_index(s->snapshots, Qcow2Snapshot, i).extra_size < 16) {
            say(c, "%s snapshot table entry %u is incomplete\n", fix ? "Repairing" : "ERROR", i);
            r->corruptions++;
        }
    }
    return 0;
}

static void add_result(BlockCheckResult *to, const BlockCheckResult *from)
{
    to->corruptions += from->corruptions;
    to->corruptions_fixed += from->corruptions_fixed;
    to->check_errors += from->check_errors;
}

static bool check_image(Qcow2Node *s, BlockCheckResult *result, unsigned fix, bool quiet, GError **error)
{
    BlockNode *node = &s->node;
    BlockCheckResult table = { 0 };
    Check c;
    int ret = 0;

    memset(result, 0, sizeof(*result));
    if (s->opened && !node->read_only && !__atomic_load_n(&s->broken, __ATOMIC_RELAXED)) {
        ret = qcow2_checkpoint(s);
    }
    if (ret < 0) {
        return error_set_errno(error, -ret, "%s: cannot write the tables before the check", qcow2_what(s));
    }
    if (!begin(&c, s, result, fix)) {
        end(&c);
        return error_set(error, "%s: no memory for the check", qcow2_what(s));
    }
    c.quiet = quiet;
    s->check_mode = true;
    if (node->open_flags & BLOCK_OPEN_CHECK) {
        ret = read_snapshots(&c, &table);
    }
    if (ret >= 0) {
        check_and_fix(&c);
        ret = c.ret;
    }
    end(&c);
    if (ret >= 0 && table.corruptions && (fix & BLOCK_FIX_ERRORS)) {
        start_over(s);
        ret = qcow2_snapshots_write(s);
        ret = ret < 0 ? ret : qcow2_checkpoint(s);
        table.corruptions_fixed += table.corruptions;
        table.corruptions = 0;
    }
    add_result(result, &table);
    if (fix) {
        start_over(s);
        if (ret >= 0) {
            ret = blk_flush(node->file);
        }
        if (ret >= 0 && !result->check_errors && !result->corruptions &&
            (s->h.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT))) {
            s->h.incompatible &= ~(uint64_t)(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
            ret = qcow2_write_header(s);
            ret = ret < 0 ? ret : blk_flush(node->file);
            __atomic_store_n(&s->broken, false, __ATOMIC_RELAXED);
        }
    }
    s->check_mode = false;
    return ret >= 0 || error_set_errno(error, -ret, "%s: the check failed", qcow2_what(s));
}

bool qcow2_co_check(BlockNode *node, BlockCheckResult *result, unsigned fix, GError **error)
{
    return check_image((Qcow2Node *)node, result, fix, false, error);
}

void qcow2_undo_counts(Qcow2Node *s)
{
    BlockCheckResult result;

    check_image(s, &result, BLOCK_FIX_LEAKS, true, NULL);
}

/* The counts as they stand in the image. *at: a cluster whose count is too large for that width (-ERANGE). */
static int load_counts(Check *c, uint32_t order, uint64_t *at)
{
    Qcow2Node *s = c->s;
    uint64_t max = MIN(order == 6 ? INT64_MAX : (UINT64_C(1) << (1u << order)) - 1, UINT32_MAX);
    uint8_t *block = g_malloc(s->g.cluster_size);
    int ret = 0;

    for (uint64_t i = 0; i << s->g.refblock_bits < c->count && ret >= 0; i++) {
        uint64_t base = i << s->g.refblock_bits;

        if (!read_block(c, i, block)) {
            ret = -EIO;
        }
        for (uint64_t j = 0; ret >= 0 && j < UINT64_C(1) << s->g.refblock_bits && base + j < c->count; j++) {
            uint64_t value = qcow2_refcount_load(s->g.refcount_order, block, j);

            if (value > max) {
                *at = base + j;
                c->refs[base + j] = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
                ret = -ERANGE;
            } else {
                c->refs[base + j] = (uint32_t)value;
            }
        }
    }
    g_free(block);
    return ret;
}

/* The structures that hold the counts now are given up. */
static int uncount_structures(Check *c)
{
    Qcow2Node *s = c->s;
    uint64_t table = qcow2_cluster_of(s, s->h.reftable_offset);

    for (uint64_t i = 0; i < s->reftable_entries + s->h.reftable_clusters; i++) {
        uint64_t cluster =
            i < s->reftable_entries ? qcow2_cluster_of(s, s->reftable[i]) : table + i - s->reftable_entries;

        if (i < s->reftable_entries && !s->reftable[i]) {
            continue;
        }
        if (cluster >= c->count || c->refs[cluster] != 1 ||
            (i < s->reftable_entries && (s->reftable[i] & (s->g.cluster_size - 1)))) {
            return -EIO; /* the image wants a check */
        }
        c->refs[cluster] = 0;
    }
    return 0;
}

int qcow2_rebuild_refcounts(Qcow2Node *s, uint32_t order, GError **error)
{
    BlockCheckResult result = { 0 };
    uint64_t used, at = 0;
    Check c;
    int ret = qcow2_checkpoint(s);

    if (ret < 0 || !begin(&c, s, &result, 0)) {
        error_set_errno(error, ret < 0 ? -ret : ENOMEM, "%s: cannot prepare new refcounts", qcow2_what(s));
        return ret < 0 ? ret : -ENOMEM;
    }
    c.quiet = true;
    ret = load_counts(&c, order, &at);
    used = used_clusters(&c);
    if (ret >= 0) {
        ret = uncount_structures(&c);
    }
    if (ret >= 0) {
        ret = rebuild(&c, order, used);
    }
    if (ret == -ERANGE) {
        error_set(error,
                  "Cannot decrease refcount entry width to %u bits: Cluster at offset %#" PRIx64
                  " has a refcount of %u",
                  1u << order, at << s->g.cluster_bits, c.refs[at]);
    } else if (ret < 0) {
        error_set_errno(error, -ret, "%s: cannot make new refcounts", qcow2_what(s));
    }
    end(&c);
    start_over(s);
    return ret;
}
