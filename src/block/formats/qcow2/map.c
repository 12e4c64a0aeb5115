/*
 * From guest offsets to host offsets: the L1 table in memory, pages of L2 tables, and extents.
 *
 * 1. s->l1 is what the L1 table's pages hold, always; both change in one section of the lock.
 * 2. An L2 table whose L1 entry has COPIED is ours alone and is changed in place. Others are copied first
 *    (qcow2_l2_writable).
 * 3. Extents hold only what is DATA and COPIED in whole pages of L2 tables, in line on the host. Whoever
 * changes an entry drops the extent that covers it in the same section of the lock. So a write may go by an
 * extent. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MAX_EXTENTS 65536u

void qcow2_corrupt(Qcow2Node *s, bool fatal, uint64_t offset, const char *fmt, ...)
{
    va_list ap;
    char *text;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    block_node_corrupt(&s->node, fatal, offset, UINT64_MAX, "%s", text);
    if (fatal && !s->node.read_only && !__atomic_load_n(&s->broken, __ATOMIC_RELAXED)) {
        fprintf(stderr, "qcow2: Marking image as corrupt: %s; further corruption events will be suppressed\n",
                text);
    } else if (!__atomic_exchange_n(&s->told_corrupt, true, __ATOMIC_RELAXED)) {
        fprintf(stderr,
                "qcow2: Image is corrupt: %s; further non-fatal corruption events will be suppressed\n",
                text);
    }
    g_free(text);
    if (fatal && !s->check_mode && !__atomic_exchange_n(&s->broken, true, __ATOMIC_RELAXED) &&
        !s->node.read_only && s->h.version >= 3 && s->opened) {
        s->h.incompatible |= QCOW2_INCOMPAT_CORRUPT;
        if (in_coroutine()) {
            qcow2_write_header(s);
        }
    }
}

/* ---- what holds tables ---- */

static gpointer cluster_key(const Qcow2Node *s, uint64_t offset)
{
    return (gpointer)(uintptr_t)(qcow2_cluster_of(s, offset));
}

void qcow2_table_add(Qcow2Node *s, uint64_t offset)
{
    if (s->tables) {
        g_hash_table_add(s->tables, cluster_key(s, offset));
    }
}

void qcow2_table_remove(Qcow2Node *s, uint64_t offset)
{
    if (s->tables) {
        g_hash_table_remove(s->tables, cluster_key(s, offset));
    }
}

void qcow2_tables_collect(Qcow2Node *s)
{
    pthread_mutex_lock(&s->lock);
    if (!s->tables) {
        s->tables = g_hash_table_new(g_direct_hash, g_direct_equal);
    }
    g_hash_table_remove_all(s->tables);
    for (uint64_t i = 0; i < s->reftable_entries; i++) {
        if (s->reftable[i]) {
            qcow2_table_add(s, s->reftable[i]);
        }
    }
    for (uint64_t i = 0; i < s->h.l1_size; i++) {
        if (s->l1[i] & QCOW2_OFFSET_MASK) {
            qcow2_table_add(s, s->l1[i] & QCOW2_OFFSET_MASK);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

static bool ranges_meet(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    return a_bytes && b_bytes && a < b + b_bytes && b < a + a_bytes;
}

const char *qcow2_overlap(Qcow2Node *s, uint64_t offset, uint64_t bytes)
{
    if (!s->overlap_level || s->data_child) {
        return NULL;
    }
    if (offset < s->g.cluster_size) {
        return "qcow2_header";
    }
    if (ranges_meet(offset, bytes, s->h.l1_offset, (uint64_t)s->h.l1_size * 8)) {
        return "active L1 table";
    }
    if (ranges_meet(offset, bytes, s->h.reftable_offset,
                    (uint64_t)s->h.reftable_clusters << s->g.cluster_bits)) {
        return "refcount table";
    }
    if (s->journal.active && ranges_meet(offset, bytes, s->journal.offset, s->journal.size)) {
        return "journal";
    }
    for (uint64_t c = qcow2_cluster_of(s, offset); s->tables && c <= qcow2_cluster_of(s, offset + bytes - 1);
         c++) {
        if (g_hash_table_contains(s->tables, (gpointer)(uintptr_t)c)) {
            return "L2 table or refcount block";
        }
    }
    return NULL;
}

/* ---- L1 ---- */

int qcow2_l1_load(Qcow2Node *s, GError **error)
{
    uint64_t bytes = (uint64_t)s->h.l1_size * 8;
    int ret;

    g_free(s->l1);
    s->l1 = g_try_malloc0(bytes + 1);
    if (!s->l1) {
        error_set(error, "%s: no memory for the L1 table", qcow2_what(s));
        return -ENOMEM;
    }
    ret = bytes ? qcow2_read_padded(s, s->h.l1_offset, s->l1, bytes) : 0;
    if (ret < 0) {
        error_set_errno(error, -ret, "Could not read L1 table");
        memset(s->l1, 0, bytes);
        return ret;
    }
    for (uint32_t i = 0; i < s->h.l1_size; i++) {
        s->l1[i] = GUINT64_FROM_BE(s->l1[i]);
    }
    return 0;
}

int qcow2_l1_page(Qcow2Node *s, uint64_t index, Qcow2Page **page)
{
    uint64_t offset = s->h.l1_offset + index * 8;

    return qcow2_page_get(s, offset / s->page_bytes * s->page_bytes, QCOW2_PAGE_L1, page);
}

void qcow2_l1_set(Qcow2Node *s, Qcow2Page *page, uint64_t index, uint64_t entry)
{
    uint64_t old = s->l1[index] & QCOW2_OFFSET_MASK;
    uint32_t at = (uint32_t)(s->h.l1_offset + index * 8 - page->offset);

    if (old && old != (entry & QCOW2_OFFSET_MASK)) {
        qcow2_table_remove(s, old);
    }
    if (entry & QCOW2_OFFSET_MASK) {
        qcow2_table_add(s, entry & QCOW2_OFFSET_MASK);
    }
    s->l1[index] = entry;
    put_be64(page->data + at, entry);
    qcow2_page_dirty(s, page, at, 8);
}

/* ---- L2 ---- */

static uint64_t l1_index(const Qcow2Node *s, uint64_t offset)
{
    return offset >> (s->g.cluster_bits + s->g.l2_bits);
}

/* Bytes from the table's start to the entry of a guest offset. */
static uint64_t in_table(const Qcow2Node *s, uint64_t offset)
{
    return ((offset >> s->g.cluster_bits) & ((UINT64_C(1) << s->g.l2_bits) - 1)) * s->g.l2_entry_bytes;
}

uint32_t qcow2_l2_pos(const Qcow2Node *s, uint64_t offset)
{
    return (uint32_t)(in_table(s, offset) % s->page_bytes);
}

static int check_l1_entry(Qcow2Node *s, uint64_t index, uint64_t entry)
{
    if (entry & QCOW2_OFFSET_MASK & (s->g.cluster_size - 1)) {
        qcow2_corrupt(s, true, UINT64_MAX,
                      "L2 table offset %#" G_GINT64_MODIFIER "x unaligned (L1 index: %#" G_GINT64_MODIFIER
                      "x)",
                      entry & QCOW2_OFFSET_MASK, index);
        return -EIO;
    }
    return 0;
}

int qcow2_l2_page(Qcow2Node *s, uint64_t offset, Qcow2Page **page)
{
    uint64_t index = l1_index(s, offset), entry, table;

    *page = NULL;
    if (index >= s->h.l1_size) {
        return 0;
    }
    pthread_mutex_lock(&s->lock);
    entry = s->l1[index];
    table = entry & QCOW2_OFFSET_MASK;
    if (table && !(table & (s->g.cluster_size - 1))) {
        *page = qcow2_page_find(s, table + in_table(s, offset) / s->page_bytes * s->page_bytes);
    }
    pthread_mutex_unlock(&s->lock);
    if (!table || *page) {
        return 0;
    }
    if (check_l1_entry(s, index, entry) < 0) {
        return -EIO;
    }
    return qcow2_page_get(s, table + in_table(s, offset) / s->page_bytes * s->page_bytes, QCOW2_PAGE_L2,
                          page);
}

/* A new table for the L1 entry: empty, or a copy of one that is shared. table_lock held. */
static int make_table(Qcow2Node *s, uint64_t index)
{
    uint64_t old = s->l1[index] & QCOW2_OFFSET_MASK;
    uint8_t *copy = NULL;
    Qcow2Alloc a = { 0 };
    Qcow2Page *page;
    bool written = false;
    int ret = check_l1_entry(s, index, s->l1[index]);

    if (ret < 0) {
        return ret;
    }
    ret = qcow2_l1_page(s, index, &page);
    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&s->lock);
    qcow2_alloc_add(s, &a, UINT64_MAX, 0);
    ret = qcow2_take_clusters(s, 1, &a);
    pthread_mutex_unlock(&s->lock);
    if (ret > 0 && (old || !a.fresh)) {
        copy = g_try_malloc0(s->g.cluster_size);
        ret = copy ? 0 : -ENOMEM;
        if (ret >= 0 && old) {
            ret = qcow2_read_padded(s, old, copy, s->g.cluster_size);
        }
        if (ret >= 0) {
            ret = blk_pwrite(s->node.file, a.host, s->g.cluster_size, copy, 0);
        }
        written = true;
    }
    if (ret >= 0) {
        qcow2_pages_forget(s, a.host, s->g.cluster_size, copy);
    }
    g_free(copy);
    pthread_mutex_lock(&s->lock);
    if (ret >= 0) {
        uint64_t host = a.host;

        if (written) {
            qcow2_lose_data(s);
        }
        qcow2_link_clusters(s, &a);
        qcow2_l1_set(s, page, index, host | QCOW2_COPIED);
        if (old) {
            qcow2_free_later(s, qcow2_cluster_of(s, old), 1, false);
        }
    } else if (a.ref_page) {
        qcow2_page_put(s, a.ref_page);
    }
    qcow2_alloc_remove(s, &a);
    qcow2_page_put(s, page);
    pthread_mutex_unlock(&s->lock);
    return ret < 0 ? ret : 0;
}

int qcow2_l2_writable(Qcow2Node *s, uint64_t offset, Qcow2Page **page)
{
    uint64_t index = l1_index(s, offset);
    int ret = 0;

    *page = NULL;
    if (index >= s->h.l1_size) {
        return -EIO;
    }
    ret = qcow2_begin_change(s);
    if (ret < 0) {
        return ret;
    }
    if (!(__atomic_load_n(&s->l1[index], __ATOMIC_RELAXED) & QCOW2_COPIED)) {
        co_mutex_lock(&s->table_lock);
        if (!(s->l1[index] & QCOW2_COPIED)) {
            ret = make_table(s, index);
            /* Lazy refcounts lag for data only: a table's own count is there before anything stands in it. */
            if (ret >= 0 && s->lazy) {
                ret = qcow2_checkpoint(s);
            }
        }
        co_mutex_unlock(&s->table_lock);
    }
    if (ret < 0) {
        return ret;
    }
    ret = qcow2_l2_page(s, offset, page);
    return ret < 0 ? ret : *page ? 0 : -EIO;
}

/* ---- extents ---- */

/* The first extent that ends behind guest. */
static guint extent_at(const Qcow2Node *s, uint64_t guest)
{
    guint low = 0, high = s->extents->len;

    while (low < high) {
        guint mid = (low + high) / 2;
        const Qcow2Extent *e = &g_array_index(s->extents, Qcow2Extent, mid);

        if (e->guest + e->bytes > guest) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    return low;
}

void qcow2_extents_clear(Qcow2Node *s)
{
    g_array_set_size(s->extents, 0);
}

void qcow2_extents_forget(Qcow2Node *s, uint64_t guest, uint64_t bytes)
{
    guint i = extent_at(s, guest);

    while (i < s->extents->len) {
        Qcow2Extent *e = &g_array_index(s->extents, Qcow2Extent, i), tail;

        if (e->guest >= guest + bytes) {
            return;
        }
        tail = (Qcow2Extent){ guest + bytes, e->host + (guest + bytes - e->guest),
                              e->guest + e->bytes - guest - bytes };
        if (e->guest < guest) {
            bool more = e->guest + e->bytes > guest + bytes;

            e->bytes = guest - e->guest;
            i++;
            if (more) {
                g_array_insert_val(s->extents, i, tail);
                return;
            }
        } else if (e->guest + e->bytes > guest + bytes) {
            *e = tail;
            return;
        } else {
            g_array_remove_index(s->extents, i);
        }
    }
}

/* false: there are too many. */
static bool extent_add(Qcow2Node *s, uint64_t guest, uint64_t host, uint64_t bytes)
{
    guint i;
    Qcow2Extent *before = NULL, *after = NULL, e = { guest, host, bytes };

    qcow2_extents_forget(s, guest, bytes);
    i = extent_at(s, guest);
    if (i > 0) {
        before = &g_array_index(s->extents, Qcow2Extent, i - 1);
        before =
            before->guest + before->bytes == guest && before->host + before->bytes == host ? before : NULL;
    }
    if (i < s->extents->len) {
        after = &g_array_index(s->extents, Qcow2Extent, i);
        after = guest + bytes == after->guest && host + bytes == after->host ? after : NULL;
    }
    if (before) {
        before->bytes += bytes;
        if (after) {
            before->bytes += after->bytes;
            g_array_remove_index(s->extents, i);
        }
    } else if (after) {
        after->guest = guest;
        after->host = host;
        after->bytes += bytes;
    } else if (s->extents->len < MAX_EXTENTS) {
        g_array_insert_val(s->extents, i, e);
    } else {
        return false;
    }
    return true;
}

/* What one page of a table covers. */
static uint64_t page_span(const Qcow2Node *s)
{
    return (uint64_t)(s->page_bytes / s->g.l2_entry_bytes) << s->g.cluster_bits;
}

/* Adds the range of a page of a table where all of it is in line; whether it was. lock held. */
static bool learn_extent(Qcow2Node *s, const uint8_t *at, uint64_t offset)
{
    uint64_t span = page_span(s), guest = offset / span * span, host, word, bitmap;
    uint32_t n = s->page_bytes / s->g.l2_entry_bytes;
    Qcow2Entry first = qcow2_entry_load(&s->g, at);

    if (!(first.word & QCOW2_COPIED) || (first.word & QCOW2_COMPRESSED) ||
        (s->g.sub_bits && (uint32_t)first.bitmap != UINT32_MAX) ||
        qcow2_entry_kind(&s->g, first, 0) != QCOW2_KIND_DATA) {
        return false;
    }
    host = qcow2_entry_host(first);
    word = first.word;
    bitmap = first.bitmap;
    for (uint32_t i = 1; i < n; i++) { /* each like the one before, a cluster farther */
        at += s->g.l2_entry_bytes;
        word += s->g.cluster_size;
        if (get_be64(at) != word || (s->g.sub_bits && get_be64(at + 8) != bitmap)) {
            return false;
        }
    }
    if (s->data_child && host != guest) {
        return false;
    }
    return extent_add(s, guest, host, span);
}

/* ---- lookup ---- */

static void decode(Qcow2Node *s, const Qcow2Page *page, uint64_t offset, uint64_t bytes, Qcow2Map *map)
{
    uint32_t pos = qcow2_l2_pos(s, offset), sub, n;
    uint64_t in_cluster = offset & (s->g.cluster_size - 1), got, host;
    Qcow2Entry e = qcow2_entry_load(&s->g, page->data + pos);

    sub = s->g.sub_bits ? (uint32_t)(in_cluster / s->g.sub_size) : 0;
    n = qcow2_entry_run(&s->g, e, sub, &map->kind);
    map->word = e.word;
    map->copied = e.word & QCOW2_COPIED;
    host = qcow2_entry_host(e);
    map->host = host + in_cluster;
    got = (uint64_t)(sub + n) * s->g.sub_size - in_cluster;
    if (map->kind == QCOW2_KIND_COMPRESSED || map->kind == QCOW2_KIND_INVALID) {
        map->bytes = MIN(bytes, got);
        return;
    }
    /* On to the next entries while the run reaches the cluster's end. */
    while (got < bytes && sub + n == 1u << s->g.sub_bits) {
        Qcow2Kind kind;

        pos += s->g.l2_entry_bytes;
        if (pos >= s->page_bytes) {
            break;
        }
        e = qcow2_entry_load(&s->g, page->data + pos);
        sub = 0;
        n = qcow2_entry_run(&s->g, e, 0, &kind);
        if (kind != map->kind) {
            break;
        }
        if (qcow2_kind_has_host(kind)) {
            host += s->g.cluster_size;
            if (qcow2_entry_host(e) != host || !(e.word & QCOW2_COPIED) != !map->copied) {
                break;
            }
        }
        got += (uint64_t)n * s->g.sub_size;
    }
    map->bytes = MIN(bytes, got);
}

static int check_map(Qcow2Node *s, uint64_t offset, Qcow2Map *map)
{
    uint64_t host = map->word & QCOW2_OFFSET_MASK;

    if (map->kind == QCOW2_KIND_INVALID && !(map->word & QCOW2_COMPRESSED) &&
        (host & (s->g.cluster_size - 1))) {
        qcow2_corrupt(
            s, true, UINT64_MAX,
            "%s offset %#" G_GINT64_MODIFIER "x unaligned (L2 offset: %#" G_GINT64_MODIFIER
            "x, L2 index: %#" G_GINT64_MODIFIER "x)",
            !s->g.sub_bits && (map->word & QCOW2_ZERO) ? "Preallocated zero cluster" : "Cluster allocation",
            host, s->l1[l1_index(s, offset)] & QCOW2_OFFSET_MASK, in_table(s, offset) / s->g.l2_entry_bytes);
        return -EIO;
    }
    if (map->kind == QCOW2_KIND_INVALID) {
        qcow2_corrupt(s, true, UINT64_MAX,
                      "Invalid cluster entry found  (L2 offset: %#" G_GINT64_MODIFIER
                      "x, L2 index: %#" G_GINT64_MODIFIER "x)",
                      s->l1[l1_index(s, offset)] & QCOW2_OFFSET_MASK,
                      in_table(s, offset) / s->g.l2_entry_bytes);
        return -EIO;
    }
    if (map->kind == QCOW2_KIND_DATA && s->data_child && map->host != offset) {
        qcow2_corrupt(s, true, UINT64_MAX,
                      "External data file host cluster offset %#" G_GINT64_MODIFIER
                      "x does not match guest cluster offset: %#" G_GINT64_MODIFIER "x",
                      map->host & ~(uint64_t)(s->g.cluster_size - 1),
                      offset & ~(uint64_t)(s->g.cluster_size - 1));
        return -EIO;
    }
    return 0;
}

#define GROUP_BYTES (64u << 10)
#define GROUP_PAGES (GROUP_BYTES / 512)

/* Where pages in line are the rule only what they tell is kept, not the pages: 64 KiB are read, and become a
 * part of one extent. 1: now there is one for the offset; 0: its page must be looked at. */
static int learn_group(Qcow2Node *s, uint64_t table, uint64_t offset)
{
    uint64_t group = MIN(GROUP_BYTES, s->g.cluster_size), in = in_table(s, offset),
             first = table + in / group * group, index = l1_index(s, offset), changes;
    uint32_t count = (uint32_t)(group / s->page_bytes), wanted = (uint32_t)(in % group / s->page_bytes),
             told = 0, n = 0;
    uint64_t guest = (offset / page_span(s) - wanted) * page_span(s);
    bool mine = false, is_told = false;
    uint8_t *buf = g_try_malloc(group);
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    pthread_mutex_lock(&s->lock);
    changes = s->table_changes;
    mine = index < s->h.l1_size && s->l1[index] == (table | QCOW2_COPIED);
    pthread_mutex_unlock(&s->lock);
    ret = mine ? qcow2_read_padded(s, first, buf, group) : 0;
    pthread_mutex_lock(&s->lock);
    /* A page that was changed before and is not in the file yet is in memory; who changed one since is
     * counted. */
    for (uint32_t i = 0; ret >= 0 && mine && changes == s->table_changes && i < count; i++) {
        Qcow2Page *page = qcow2_page_find(s, first + (uint64_t)i * s->page_bytes);

        if (page) {
            qcow2_page_put(s, page);
            continue;
        }
        n++;
        if (learn_extent(s, buf + (size_t)i * s->page_bytes, guest + i * page_span(s))) {
            told++;
            is_told = is_told || i == wanted;
        }
    }
    if (n) {
        s->groups_pay = told >= (n + 1) / 2;
    }
    pthread_mutex_unlock(&s->lock);
    g_free(buf);
    return ret < 0 ? ret : is_told;
}

/* The L2 page of an offset, and what its neighbours tell. */
static int load_group(Qcow2Node *s, uint64_t table, uint64_t offset, Qcow2Page **page)
{
    uint64_t group = MIN(GROUP_BYTES, s->g.cluster_size), in = in_table(s, offset),
             first = table + in / group * group;
    uint32_t count = (uint32_t)(group / s->page_bytes), wanted = (uint32_t)(in % group / s->page_bytes),
             told = 0, n = 0;
    Qcow2Page *pages[GROUP_PAGES];
    int ret;

    pthread_mutex_lock(&s->lock);
    if (s->clock->len + count > s->max_pages && !s->groups_pay) {
        count = 1;
    }
    pthread_mutex_unlock(&s->lock);
    if (count <= 1) {
        return qcow2_page_get(s, table + in / s->page_bytes * s->page_bytes, QCOW2_PAGE_L2, page);
    }
    ret = qcow2_pages_get(s, first, count, wanted, QCOW2_PAGE_L2, pages);
    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t guest = offset / page_span(s) * page_span(s) + (uint64_t)i * page_span(s) -
                         (uint64_t)wanted * page_span(s);

        /* Only while the table is still the one of these offsets. */
        if (pages[i] && i != wanted) {
            n++;
            if (!pages[i]->learned && (s->l1[l1_index(s, offset)] & QCOW2_OFFSET_MASK) == table &&
                (s->l1[l1_index(s, offset)] & QCOW2_COPIED)) {
                pages[i]->learned = true;
                told += learn_extent(s, pages[i]->data, guest);
            }
            qcow2_page_put(s, pages[i]);
        }
    }
    if (n) {
        s->groups_pay = told >= n / 2;
    }
    pthread_mutex_unlock(&s->lock);
    *page = pages[wanted];
    return 0;
}

/* lock held */
static bool by_extent(Qcow2Node *s, uint64_t offset, uint64_t bytes, Qcow2Map *map)
{
    guint i = extent_at(s, offset);
    const Qcow2Extent *e = &g_array_index(s->extents, Qcow2Extent, i);

    if (i >= s->extents->len || e->guest > offset) {
        return false;
    }
    map->kind = QCOW2_KIND_DATA;
    map->copied = true;
    map->host = e->host + (offset - e->guest);
    map->bytes = MIN(bytes, e->guest + e->bytes - offset);
    return true;
}

/* What tells of an offset, into memory: its page, or (NULL) an extent as a rule. */
static int load(Qcow2Node *s, uint64_t table, uint64_t offset, Qcow2Page **page)
{
    int ret;

    if (!__atomic_load_n(&s->groups_pay, __ATOMIC_RELAXED) || s->g.cluster_size <= s->page_bytes) {
        return load_group(s, table, offset, page);
    }
    ret = learn_group(s, table, offset);
    return ret ? MIN(ret, 0)
               : qcow2_page_get(s, table + in_table(s, offset) / s->page_bytes * s->page_bytes, QCOW2_PAGE_L2,
                                page);
}

int qcow2_map(Qcow2Node *s, uint64_t offset, uint64_t bytes, Qcow2Map *map, unsigned *epoch)
{
    uint64_t index = l1_index(s, offset), table, in_span;
    Qcow2Page *page = NULL;

    memset(map, 0, sizeof(*map));
    pthread_mutex_lock(&s->lock);
    for (;;) {
        uint64_t want, entry = index < s->h.l1_size ? s->l1[index] : 0;
        int ret;

        if (by_extent(s, offset, bytes, map)) {
            break;
        }
        table = entry & QCOW2_OFFSET_MASK;
        if (!table) {
            map->kind = QCOW2_KIND_UNALLOCATED;
            in_span = offset & ((UINT64_C(1) << (s->g.cluster_bits + s->g.l2_bits)) - 1);
            map->bytes = MIN(bytes, (UINT64_C(1) << (s->g.cluster_bits + s->g.l2_bits)) - in_span);
            break;
        }
        want = table + in_table(s, offset) / s->page_bytes * s->page_bytes;
        if (!page) {
            page = qcow2_page_find(s, want);
        }
        if (page && page->offset == want) {
            decode(s, page, offset, bytes, map);
            if (map->kind == QCOW2_KIND_DATA && map->copied && !page->learned) {
                page->learned = true; /* until it changes */
                learn_extent(s, page->data, offset);
            }
            break;
        }
        if (page) { /* the table became another one meanwhile */
            qcow2_page_put(s, page);
            page = NULL;
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        ret = check_l1_entry(s, index, entry);
        if (ret >= 0) {
            ret = load(s, table, offset, &page);
        }
        if (ret < 0) {
            return ret;
        }
        pthread_mutex_lock(&s->lock);
    }
    qcow2_page_put(s, page);
    if (epoch) {
        *epoch = qcow2_io_begin(s);
    }
    pthread_mutex_unlock(&s->lock);
    if (check_map(s, offset, map) < 0) {
        if (epoch) {
            qcow2_io_end(s, *epoch);
        }
        return -EIO;
    }
    return 0;
}
