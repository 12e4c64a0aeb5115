/*
 * Refcounts and the allocator.
 *
 * 1. A cluster is handed out only if its refcount is 0, no allocation under way holds it (s->allocs, the
 * reserve, the room behind compressed clusters), and it is not busy: freed, but not stable or with I/O still
 * under way to it.
 * 2. Its refcount is set in the same section of the lock that links it. So a commit sees both or none, and an
 *    allocation that fails leaves nothing behind.
 * 3. The refcount page of an allocation is pinned from taking to linking: linking does no I/O.
 * 4. fresh_next only grows: what lies at or above it was never used, and the file reads as zeroes there.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include <errno.h>
#include <string.h>

#define WINDOW_MIN   16u
#define RUN_GOOD     16u /* clusters: a run of free ones that is worth passing smaller ones by */
#define WINDOW_BYTES (64u << 20)
#define MAX_HOST     (UINT64_C(1) << 56)

int qcow2_refcounts_load(Qcow2Node *s, GError **error)
{
    uint64_t bytes = (uint64_t)s->h.reftable_clusters << s->g.cluster_bits;
    int ret;

    g_free(s->reftable);
    s->reftable_entries = bytes / 8;
    s->reftable = g_try_malloc(bytes + 1);
    if (!s->reftable) {
        s->reftable_entries = 0;
        error_set(error, "%s: no memory for the refcount table", qcow2_what(s));
        return -ENOMEM;
    }
    ret = qcow2_read_padded(s, s->h.reftable_offset, s->reftable, bytes);
    if (ret < 0) {
        error_set_errno(error, -ret, "Could not read reference count table");
        return ret;
    }
    for (uint64_t i = 0; i < s->reftable_entries; i++) {
        s->reftable[i] = GUINT64_FROM_BE(s->reftable[i]);
    }
    return 0;
}

/* ---- single refcounts ---- */

static uint64_t block_index(const Qcow2Node *s, uint64_t cluster)
{
    return cluster >> s->g.refblock_bits;
}

/* Where in the file the page with a cluster's refcount is, and its number in there; 0: there is no block. */
static int refcount_place(Qcow2Node *s, uint64_t cluster, uint64_t *offset, uint64_t *index)
{
    uint64_t at = block_index(s, cluster), entry, bit;

    *offset = 0;
    if (at >= s->reftable_entries) {
        return 0;
    }
    entry = s->reftable[at];
    if (!entry) {
        return 0;
    }
    if (entry & (s->g.cluster_size - 1)) {
        qcow2_corrupt(s, true, UINT64_MAX,
                      "Refblock offset %#" G_GINT64_MODIFIER
                      "x unaligned (reftable index: %#" G_GINT64_MODIFIER "x)",
                      entry & ~QCOW2_REFTABLE_RESERVED, at);
        return -EIO;
    }
    bit = (cluster & ((UINT64_C(1) << s->g.refblock_bits) - 1)) << s->g.refcount_order;
    *offset = entry + bit / 8 / s->page_bytes * s->page_bytes;
    *index = (bit - (*offset - entry) * 8) >> s->g.refcount_order;
    return 0;
}

/* How many refcounts a page has. */
static uint64_t page_refcounts(const Qcow2Node *s)
{
    return ((uint64_t)s->page_bytes * 8) >> s->g.refcount_order;
}

int qcow2_refcount_get(Qcow2Node *s, uint64_t cluster, uint64_t *value)
{
    Qcow2Page *page;
    uint64_t offset, index = 0;
    int ret = refcount_place(s, cluster, &offset, &index);

    *value = 0;
    if (ret < 0 || !offset) {
        return ret;
    }
    ret = qcow2_page_get(s, offset, QCOW2_PAGE_REFCOUNT, &page);
    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&s->lock);
    *value = qcow2_refcount_load(s->g.refcount_order, page->data, index);
    qcow2_page_put(s, page);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static void store_refcount(Qcow2Node *s, Qcow2Page *page, uint64_t index, uint64_t value)
{
    uint64_t bit = index << s->g.refcount_order;

    qcow2_refcount_store(s->g.refcount_order, page->data, index, value);
    qcow2_page_dirty(s, page, (uint32_t)(bit / 8), MAX(1u, (1u << s->g.refcount_order) / 8));
}

static void range_add(GArray *ranges, uint64_t cluster, uint64_t count, bool punch)
{
    Qcow2Free *last = ranges->len ? &g_array_index(ranges, Qcow2Free, ranges->len - 1) : NULL;

    if (last && last->cluster + last->count == cluster && last->punch == punch) {
        last->count += count;
    } else {
        Qcow2Free f = { cluster, count, punch };

        g_array_append_val(ranges, f);
    }
}

/* Adds to the refcounts of a range; those that reach 0 go to `freed` (may be NULL). Whole or not at all but
 * for I/O errors half-way. */
static int change(Qcow2Node *s, uint64_t cluster, uint64_t count, int64_t add, bool punch, GArray *freed)
{
    while (count) {
        uint64_t offset, index = 0, n;
        Qcow2Page *page;
        int ret;

        if (add > 0) {
            ret = qcow2_refblock_ensure(s, cluster);
            if (ret < 0) {
                return ret;
            }
        }
        ret = refcount_place(s, cluster, &offset, &index);
        if (ret >= 0 && !offset) {
            qcow2_corrupt(s, false, cluster << s->g.cluster_bits, "Refcount of a free cluster goes down");
            ret = -EINVAL;
        }
        if (ret < 0) {
            return ret;
        }
        ret = qcow2_page_get(s, offset, QCOW2_PAGE_REFCOUNT, &page);
        if (ret < 0) {
            return ret;
        }
        n = MIN(count, page_refcounts(s) - index);
        pthread_mutex_lock(&s->lock);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t value = qcow2_refcount_load(s->g.refcount_order, page->data, index + i);

            if ((add < 0 && value < (uint64_t)-add) ||
                (add > 0 && value > s->g.refcount_max - (uint64_t)add)) {
                ret = -EINVAL;
                n = i;
                break;
            }
            value += (uint64_t)add;
            store_refcount(s, page, index + i, value);
            if (!value && freed) {
                range_add(freed, cluster + i, 1, punch);
            }
        }
        qcow2_page_put(s, page);
        pthread_mutex_unlock(&s->lock);
        if (ret < 0) {
            return ret;
        }
        cluster += n;
        count -= n;
    }
    return 0;
}

int qcow2_refcount_add(Qcow2Node *s, uint64_t cluster, uint64_t count, int64_t add)
{
    return change(s, cluster, count, add, s->pass_snapshot, s->busy);
}

/* ---- what must not be handed out ---- */

static bool overlaps(const GArray *ranges, uint64_t cluster, uint64_t *end)
{
    for (guint i = 0; i < ranges->len; i++) {
        const Qcow2Free *f = &g_array_index(ranges, Qcow2Free, i);

        if (cluster >= f->cluster && cluster < f->cluster + f->count) {
            *end = f->cluster + f->count;
            return true;
        }
    }
    return false;
}

/* Whether a cluster with refcount 0 is in other hands; *end: where that ends. */
static bool in_hands(Qcow2Node *s, uint64_t cluster, uint64_t *end)
{
    if (cluster >= s->reserve && cluster < s->reserve_end) {
        *end = s->reserve_end;
        return true;
    }
    if (s->compressed_end && cluster == qcow2_cluster_of(s, s->compressed_end - 1)) {
        *end = cluster + 1;
        return true;
    }
    for (const Qcow2Alloc *a = s->allocs; a; a = a->next) {
        if (a->host && cluster >= qcow2_cluster_of(s, a->host) &&
            cluster < qcow2_cluster_of(s, a->host_end + s->g.cluster_size - 1)) {
            *end = qcow2_cluster_of(s, a->host_end + s->g.cluster_size - 1);
            return true;
        }
    }
    return overlaps(s->busy, cluster, end) || overlaps(s->limbo[0], cluster, end) ||
           overlaps(s->limbo[1], cluster, end) || overlaps(s->punching, cluster, end);
}

/* ---- the refcount table and its blocks; alloc_lock held, or the control plane ---- */

/* The table in memory and in its page. */
static int set_reftable(Qcow2Node *s, uint64_t index, uint64_t entry)
{
    uint64_t offset = s->h.reftable_offset + index * 8, start = offset / s->page_bytes * s->page_bytes;
    Qcow2Page *page;
    int ret = qcow2_page_get(s, start, QCOW2_PAGE_REFTABLE, &page);

    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&s->lock);
    s->reftable[index] = entry;
    qcow2_table_add(s, entry);
    put_be64(page->data + (offset - start), entry);
    qcow2_page_dirty(s, page, (uint32_t)(offset - start), 8);
    qcow2_page_put(s, page);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

/* A larger table, with the blocks that describe it and themselves, behind everything that is in use. It is on
 * disk and stable before the header leads to it. */
static int grow_reftable(Qcow2Node *s, uint64_t need_index)
{
    uint64_t per_block = UINT64_C(1) << s->g.refblock_bits, old_offset = s->h.reftable_offset;
    uint64_t old_clusters = s->h.reftable_clusters, start, clusters, blocks, entries, total, *table;
    uint8_t *block;
    int ret = 0;

    /* From the first block that is not there on: nothing in it is in use. */
    start = MAX(need_index, s->reftable_entries);
    pthread_mutex_lock(&s->lock);
    for (const Qcow2Alloc *a = s->allocs; a; a = a->next) {
        if (a->host) { /* a table that is about to be there */
            start = MAX(start, block_index(s, qcow2_cluster_of(s, a->host_end - 1)) + 1);
        }
    }
    pthread_mutex_unlock(&s->lock);
    start <<= s->g.refblock_bits;
    clusters = blocks = 0;
    do {
        total = clusters + blocks;
        entries = MAX(s->reftable_entries * 3 / 2, (start + total) / per_block + 2);
        clusters = (entries * 8 + s->g.cluster_size - 1) >> s->g.cluster_bits;
        blocks = (clusters + blocks + per_block - 1) / per_block;
    } while (clusters + blocks != total);
    if ((clusters << s->g.cluster_bits) > QCOW2_MAX_REFTABLE ||
        (start + total) > MAX_HOST >> s->g.cluster_bits) {
        return -EFBIG;
    }
    entries = (clusters << s->g.cluster_bits) / 8;
    table = g_try_new0(uint64_t, entries);
    block = g_try_malloc(s->g.cluster_size);
    if (!table || !block) {
        g_free(table);
        g_free(block);
        return -ENOMEM;
    }
    memcpy(table, s->reftable, s->reftable_entries * 8);
    for (uint64_t i = 0; i < blocks && ret >= 0; i++) {
        uint64_t at = (start + i) << s->g.cluster_bits;

        memset(block, 0, s->g.cluster_size);
        for (uint64_t c = i * per_block; c < MIN(total, (i + 1) * per_block); c++) {
            qcow2_refcount_store(s->g.refcount_order, block, c - i * per_block, 1);
        }
        table[block_index(s, start) + i] = at;
        qcow2_pages_forget(s, at, s->g.cluster_size, block);
        ret = blk_pwrite(s->node.file, at, s->g.cluster_size, block, 0);
    }
    for (uint64_t i = 0; i < entries; i++) {
        table[i] = GUINT64_TO_BE(table[i]);
    }
    if (ret >= 0) {
        ret = blk_pwrite(s->node.file, (start + blocks) << s->g.cluster_bits, entries * 8, table, 0);
        qcow2_pages_forget(s, (start + blocks) << s->g.cluster_bits, entries * 8, (const uint8_t *)table);
    }
    if (ret >= 0) {
        ret = blk_flush(s->node.file);
    }
    pthread_mutex_lock(&s->lock);
    qcow2_lose_data(s);
    pthread_mutex_unlock(&s->lock);
    for (uint64_t i = 0; i < entries; i++) {
        table[i] = GUINT64_FROM_BE(table[i]);
    }
    if (ret >= 0) {
        s->h.reftable_offset = (start + blocks) << s->g.cluster_bits;
        s->h.reftable_clusters = (uint32_t)clusters;
        ret = qcow2_write_header(s);
        if (ret >= 0) {
            ret = blk_flush(s->node.file);
        }
        if (ret < 0) {
            s->h.reftable_offset = old_offset;
            s->h.reftable_clusters = (uint32_t)old_clusters;
        }
    }
    g_free(block);
    if (ret < 0) {
        g_free(table);
        return ret;
    }
    pthread_mutex_lock(&s->lock);
    g_free(s->reftable);
    s->reftable = table;
    s->reftable_entries = entries;
    s->fresh_next = MAX(s->fresh_next, start + total);
    pthread_mutex_unlock(&s->lock);
    return change(s, qcow2_cluster_of(s, old_offset), old_clusters, -1, false, s->busy);
}

/* A free cluster for a table, described by blocks that are there; 0: none. Not the reserve's. */
static int find_described(Qcow2Node *s, uint64_t from, uint64_t *cluster)
{
    *cluster = 0;
    for (uint64_t c = from; block_index(s, c) < s->reftable_entries && s->reftable[block_index(s, c)];) {
        uint64_t offset, index = 0, n;
        Qcow2Page *page;
        int ret = refcount_place(s, c, &offset, &index);

        if (ret < 0) {
            return ret;
        }
        ret = qcow2_page_get(s, offset, QCOW2_PAGE_REFCOUNT, &page);
        if (ret < 0) {
            return ret;
        }
        n = page_refcounts(s) - index;
        pthread_mutex_lock(&s->lock);
        for (uint64_t i = 0; i < n && !*cluster; i++) {
            uint64_t end;

            if (!qcow2_refcount_load(s->g.refcount_order, page->data, index + i) &&
                !in_hands(s, c + i, &end)) {
                *cluster = c + i;
            }
        }
        qcow2_page_put(s, page);
        pthread_mutex_unlock(&s->lock);
        if (*cluster) {
            return 0;
        }
        c += n;
    }
    return 0;
}

/* Makes sure that there is a refcount block for the cluster. */
int qcow2_refblock_ensure(Qcow2Node *s, uint64_t cluster)
{
    uint64_t index = block_index(s, cluster), home, end;
    uint8_t *block;
    bool own;
    int ret;

    if (cluster >= MAX_HOST >> s->g.cluster_bits) {
        return -EFBIG;
    }
    if (index >= s->reftable_entries) {
        if (s->journal.active) {
            /* The header and the table change outside of it: all older transactions must be home. */
            return -EAGAIN;
        }
        ret = grow_reftable(s, index);
        if (ret < 0) {
            return ret;
        }
    }
    if (s->reftable[index]) {
        return 0;
    }
    /* It describes itself, unless its whole range is in hands. */
    pthread_mutex_lock(&s->lock);
    for (home = MAX(1, index << s->g.refblock_bits); in_hands(s, home, &end); home = end) {}
    own = block_index(s, home) == index;
    pthread_mutex_unlock(&s->lock);
    if (!own) {
        ret = find_described(s, s->free_hint, &home);
        for (uint64_t next = index + 1; ret >= 0 && !home; next++) {
            ret = qcow2_refblock_ensure(s, next << s->g.refblock_bits);
            if (ret >= 0) {
                ret = find_described(s, next << s->g.refblock_bits, &home);
            }
        }
        if (ret >= 0) {
            ret = change(s, home, 1, 1, false, NULL);
        }
        if (ret < 0) {
            return ret;
        }
        if (s->reftable[index]) { /* made on the way */
            return 0;
        }
    }
    pthread_mutex_lock(&s->lock);
    s->fresh_next = MAX(s->fresh_next, home + 1);
    pthread_mutex_unlock(&s->lock);
    QCOW2_EVENT(s, REFBLOCK_ALLOC);
    block = g_malloc0(s->g.cluster_size);
    if (own) {
        qcow2_refcount_store(s->g.refcount_order, block, home - (index << s->g.refblock_bits), 1);
    }
    ret = blk_pwrite(s->node.file, home << s->g.cluster_bits, s->g.cluster_size, block, 0);
    qcow2_pages_forget(s, home << s->g.cluster_bits, s->g.cluster_size, block);
    g_free(block);
    pthread_mutex_lock(&s->lock);
    qcow2_lose_data(s); /* what the journal has of that place must not come over it */
    pthread_mutex_unlock(&s->lock);
    if (ret >= 0) {
        ret = blk_flush(s->node.file);
    }
    return ret < 0 ? ret : set_reftable(s, index, home << s->g.cluster_bits);
}

/* ---- the reserve ---- */

static int grow_file(Qcow2Node *s, uint64_t end_cluster)
{
    uint64_t need = end_cluster << s->g.cluster_bits;

    if (need <= block_size(s->node.file)) {
        return 0;
    }
    if (!s->can_grow) {
        return -ENOSPC;
    }
    return blk_truncate(s->node.file, need, false, QAPI_PREALLOC_MODE_OFF, 0, NULL) ? 0 : -ENOSPC;
}

/* Looks from free_hint on for the first run of free clusters, up to the window, in one page. alloc_lock held.
 */
static int refill(Qcow2Node *s, uint64_t want)
{
    uint64_t window = MAX(want, s->window), c = s->free_hint;
    int ret;

    if (s->reserve_page) {
        qcow2_page_unpin(s, s->reserve_page);
        s->reserve_page = NULL;
    }
    for (;;) {
        uint64_t offset, index = 0, n, run = 0, end, small = 0, small_run = 0;
        Qcow2Page *page;

        ret = qcow2_refblock_ensure(s, c);
        if (ret >= 0) {
            ret = refcount_place(s, c, &offset, &index);
        }
        if (ret >= 0) {
            ret = qcow2_page_get(s, offset, QCOW2_PAGE_REFCOUNT, &page);
        }
        if (ret < 0) {
            return ret;
        }
        pthread_mutex_lock(&s->lock);
        for (n = page_refcounts(s) - index; n && !run;) {
            if (qcow2_refcount_load(s->g.refcount_order, page->data, index) != 0) {
                c++, index++, n--;
            } else if (in_hands(s, c, &end)) {
                uint64_t skip = MIN(end - c, n);

                c += skip, index += skip, n -= skip;
            } else {
                while (run < n && run < window && (run == 0 || !in_hands(s, c + run, &end)) &&
                       !qcow2_refcount_load(s->g.refcount_order, page->data, index + run)) {
                    run++;
                }
                if (run < MIN(want, RUN_GOOD) && run < n) { /* one request's data rather in one piece */
                    small = small_run ? small : c;
                    small_run = small_run ? small_run : run;
                    c += run, index += run, n -= run;
                    run = 0;
                }
            }
        }
        if (!run && small_run) {
            c = small;
            run = small_run;
            small_run = 0;
        }
        if (run) {
            uint64_t file_end = block_size(s->node.file);

            s->reserve = c;
            s->reserve_end = c + run;
            s->free_hint = small_run ? small : c + run;
            s->reserve_page = page;
            s->window = MIN(s->window * 2, MAX(WINDOW_MIN, WINDOW_BYTES >> s->g.cluster_bits));
            pthread_mutex_unlock(&s->lock);
            ret = (c + run) << s->g.cluster_bits > file_end ? grow_file(s, c + run) : 0;
            if (ret < 0) {
                pthread_mutex_lock(&s->lock);
                /* What the file has room for can still be used; the search starts here again. */
                file_end >>= s->g.cluster_bits;
                s->free_hint = MIN(s->free_hint, c);
                s->reserve_end = MAX(c, MIN(s->reserve_end, file_end));
                s->window = WINDOW_MIN;
                pthread_mutex_unlock(&s->lock);
                if (run > want && s->can_grow && grow_file(s, c + want) >= 0) {
                    pthread_mutex_lock(&s->lock);
                    s->reserve_end = c + want;
                    pthread_mutex_unlock(&s->lock);
                }
                return s->reserve_end > s->reserve ? 0 : ret;
            }
            return 0;
        }
        qcow2_page_put(s, page);
        pthread_mutex_unlock(&s->lock);
    }
}

int qcow2_take_clusters(Qcow2Node *s, uint64_t want, Qcow2Alloc *a)
{
    uint64_t n;

    while (s->reserve == s->reserve_end) {
        int ret = 0;

        pthread_mutex_unlock(&s->lock);
        co_mutex_lock(&s->alloc_lock);
        if (s->reserve == s->reserve_end) {
            ret = refill(s, want);
        }
        co_mutex_unlock(&s->alloc_lock);
        if (ret == -EAGAIN) { /* the refcount table must grow */
            ret = qcow2_checkpoint(s);
        }
        pthread_mutex_lock(&s->lock);
        if (ret < 0) {
            return ret;
        }
    }
    n = MIN(want, s->reserve_end - s->reserve);
    a->host = s->reserve << s->g.cluster_bits;
    a->host_end = (s->reserve + n) << s->g.cluster_bits;
    a->fresh = s->can_grow && s->reserve >= s->fresh_next && !s->h.crypt_method;
    a->ref_page = s->reserve_page;
    a->ref_page->pins++;
    s->reserve += n;
    s->fresh_next = MAX(s->fresh_next, s->reserve);
    return (int)n;
}

void qcow2_link_clusters(Qcow2Node *s, Qcow2Alloc *a)
{
    uint64_t first = qcow2_cluster_of(s, a->host), count = (a->host_end - a->host) >> s->g.cluster_bits;
    uint64_t per_page = page_refcounts(s), in_block = first & ((UINT64_C(1) << s->g.refblock_bits) - 1);

    for (uint64_t i = 0; i < count; i++) {
        store_refcount(s, a->ref_page, (in_block + i) % per_page, 1);
    }
    qcow2_page_put(s, a->ref_page);
    a->ref_page = NULL;
    a->host = 0;
}

/* ---- freeing ---- */

void qcow2_free_later(Qcow2Node *s, uint64_t cluster, uint64_t count, bool punch)
{
    uint64_t at = s->compressed_end ? qcow2_cluster_of(s, s->compressed_end - 1) : 0;

    if (at >= cluster && at < cluster + count) { /* nothing more goes into it */
        s->compressed_at = s->compressed_end = 0;
    }
    range_add(s->pending, cluster, count, punch);
}

int qcow2_apply_frees(Qcow2Node *s, GArray *frees)
{
    for (guint i = 0; i < frees->len; i++) {
        const Qcow2Free *f = &g_array_index(frees, Qcow2Free, i);
        int ret = change(s, f->cluster, f->count, -1, f->punch, s->busy);

        if (ret == -EINVAL) {
            qcow2_corrupt(s, false, f->cluster << s->g.cluster_bits,
                          "Refcount of a cluster in use is too low");
        } else if (ret < 0) {
            /* What is left stays allocated: a leak at worst. The mapping is gone already. */
            return ret;
        }
    }
    return 0;
}

unsigned qcow2_io_begin(Qcow2Node *s)
{
    s->io_count[s->epoch]++;
    return s->epoch;
}

void qcow2_io_end(Qcow2Node *s, unsigned epoch)
{
    pthread_mutex_lock(&s->lock);
    s->io_count[epoch]--;
    pthread_mutex_unlock(&s->lock);
}

/* Those whose I/O has ended, of what was freed before. lock held. */
static bool take_ready(Qcow2Node *s)
{
    unsigned old = !s->epoch;

    if (!s->io_count[old] && s->limbo[old]->len) {
        g_array_append_vals(s->punching, s->limbo[old]->data, s->limbo[old]->len);
        g_array_set_size(s->limbo[old], 0);
    }
    if (!s->io_count[old] && s->limbo[s->epoch]->len) {
        s->epoch = old; /* later I/O counts there; the rest of this one's ends */
        return !s->io_count[!s->epoch];
    }
    return false;
}

void qcow2_release_frees(Qcow2Node *s)
{
    pthread_mutex_lock(&s->lock);
    if (s->busy->len) {
        g_array_append_vals(s->limbo[s->epoch], s->busy->data, s->busy->len);
        g_array_set_size(s->busy, 0);
    }
    while (take_ready(s)) {}
    for (guint i = 0; i < s->punching->len; i++) {
        Qcow2Free f = g_array_index(s->punching, Qcow2Free, i);

        if (f.punch) {
            pthread_mutex_unlock(&s->lock);
            blk_pdiscard(s->node.file, f.cluster << s->g.cluster_bits, f.count << s->g.cluster_bits);
            pthread_mutex_lock(&s->lock);
        }
    }
    for (guint i = 0; i < s->punching->len; i++) {
        s->free_hint = MIN(s->free_hint, g_array_index(s->punching, Qcow2Free, i).cluster);
    }
    g_array_set_size(s->punching, 0);
    pthread_mutex_unlock(&s->lock);
}

int qcow2_free_now(Qcow2Node *s, uint64_t offset, uint64_t bytes, bool punch)
{
    uint64_t first = qcow2_cluster_of(s, offset),
             count = qcow2_cluster_of(s, offset + bytes + s->g.cluster_size - 1);

    QCOW2_EVENT(s, CLUSTER_FREE);
    return change(s, first, count - first, -1, punch && s->pass_other, s->busy);
}

/* ---- tables ---- */

/* A run of free clusters of any length: behind everything that any refcount is set for, or in a gap. */
uint64_t qcow2_alloc_table(Qcow2Node *s, uint64_t bytes, int *result)
{
    uint64_t need = qcow2_cluster_of(s, bytes + s->g.cluster_size - 1), c = s->free_hint, run = 0;
    Qcow2Alloc hold = { 0 };
    int ret = 0;

    QCOW2_EVENT(s, CLUSTER_ALLOC);
    co_mutex_lock(&s->alloc_lock);
    while (run < need && ret >= 0) {
        uint64_t value, end = 0;

        ret = qcow2_refcount_get(s, c, &value);
        pthread_mutex_lock(&s->lock);
        if (value) {
            run = 0;
        } else if (in_hands(s, c, &end)) {
            run = 0;
            c = end - 1;
        } else {
            run++;
        }
        pthread_mutex_unlock(&s->lock);
        c++;
    }
    if (ret >= 0 && c >= MAX_HOST >> s->g.cluster_bits) {
        ret = -EFBIG;
    }
    if (ret >= 0) {
        ret = grow_file(s, c);
    }
    if (ret >= 0) {
        /* Blocks that describe it must not be put into it. */
        pthread_mutex_lock(&s->lock);
        qcow2_alloc_add(s, &hold, UINT64_MAX, 0);
        hold.host = (c - need) << s->g.cluster_bits;
        hold.host_end = c << s->g.cluster_bits;
        pthread_mutex_unlock(&s->lock);
        for (uint64_t i = c - need; i < c && ret >= 0;
             i = ((i >> s->g.refblock_bits) + 1) << s->g.refblock_bits) {
            ret = qcow2_refblock_ensure(s, i);
        }
        if (ret >= 0) {
            ret = change(s, c - need, need, 1, false, NULL);
        }
        pthread_mutex_lock(&s->lock);
        if (ret >= 0) {
            s->fresh_next = MAX(s->fresh_next, c);
        }
        qcow2_alloc_remove(s, &hold);
        pthread_mutex_unlock(&s->lock);
    }
    co_mutex_unlock(&s->alloc_lock);
    *result = ret;
    return ret < 0 ? 0 : (c - need) << s->g.cluster_bits;
}
