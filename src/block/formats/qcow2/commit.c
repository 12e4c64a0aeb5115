/*
 * Flushes: how tables reach the file. Without a journal in this order, with a host flush at each "|":
 *
 *     data, refcounts that grew, refcount table | L2 tables | L1 table | refcounts that shrink, with the next
 * one
 *
 * 1. A table that refers to a cluster is written when that cluster's refcount and contents are stable; so a
 * crash leaves leaks at worst. Steps without anything to write, and their flush, are left out.
 * 2. A reference is given up in the refcounts after the table without it is stable, and a cluster that became
 * free is used again only after that, and after the I/O that was under way to it has ended (refcount.c).
 * 3. With the journal one transaction holds all of it (journal.c), so one flush does. Data that a new mapping
 * makes visible must not come after the mapping where the old contents matter: it is in the transaction too
 * where it is small, and flushed before it where it is not (ordered_lost). Clusters that were never used read
 * as zeroes until their data arrives, which is what was there before: they need no order.
 * 4. A batch that fails is dirty again in full; the next flush tries all of it.
 * 5. commit_lock makes one batch at a time. A flush that finds one done which began after it was asked for is
 * done. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include <errno.h>
#include <string.h>

#define MERGE_BYTES (1u << 20)

static int by_offset(const void *a, const void *b)
{
    const Qcow2Page *x = *(Qcow2Page *const *)a, *y = *(Qcow2Page *const *)b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Takes what is dirty (and ordered data) out; lock held. skip_refcounts: they stay dirty. */
static void collect(Qcow2Node *s, Qcow2Batch *b, bool skip_refcounts, bool checkpoint, bool journal)
{
    guint kept = 0;

    memset(b, 0, sizeof(*b));
    b->pages = g_ptr_array_new();
    b->masks = g_array_new(FALSE, FALSE, 2 * sizeof(uint64_t));
    for (guint i = 0; i < s->dirty_pages->len; i++) {
        Qcow2Page *page = g_ptr_array_index(s->dirty_pages, i);

        if (skip_refcounts && (page->kind == QCOW2_PAGE_REFCOUNT || page->kind == QCOW2_PAGE_REFTABLE)) {
            g_ptr_array_index(s->dirty_pages, kept++) = page;
        } else {
            g_ptr_array_add(b->pages, page); /* with its pin */
        }
    }
    g_ptr_array_set_size(s->dirty_pages, (gint)kept);
    if (b->pages->len > 1) {
        qsort(b->pages->pdata, b->pages->len, sizeof(void *), by_offset);
    }
    b->contents = g_malloc((size_t)b->pages->len * s->page_bytes + 1);
    for (guint i = 0; i < b->pages->len; i++) {
        Qcow2Page *page = g_ptr_array_index(b->pages, i);

        g_array_append_vals(b->masks, page->dirty, 1);
        s->dirty_bytes -=
            (uint64_t)(__builtin_popcountll(page->dirty[0]) + __builtin_popcountll(page->dirty[1])) *
            QCOW2_GRANULE;
        page->dirty[0] = page->dirty[1] = 0;
        memcpy(b->contents + (size_t)i * s->page_bytes, page->data, s->page_bytes);
        if (journal) {
            page->home_seq = s->journal.seq;
            if (!page->home_dirty) {
                page->home_dirty = true;
                page->pins++;
                g_ptr_array_add(s->home_pages, page);
            }
        }
    }
    if (checkpoint) {
        b->home = g_ptr_array_new();
        b->home_contents = g_malloc((size_t)s->home_pages->len * s->page_bytes + 1);
        for (guint i = 0; i < s->home_pages->len; i++) {
            g_ptr_array_add(b->home, g_ptr_array_index(s->home_pages, i));
        }
        if (b->home->len > 1) {
            qsort(b->home->pdata, b->home->len, sizeof(void *), by_offset);
        }
        for (guint i = 0; i < b->home->len; i++) {
            memcpy(b->home_contents + (size_t)i * s->page_bytes,
                   ((Qcow2Page *)g_ptr_array_index(b->home, i))->data, s->page_bytes);
        }
    }
    b->order_data = s->ordered_lost;
    b->ordered = s->ordered;
    s->ordered = g_array_new(FALSE, FALSE, sizeof(Qcow2Ordered));
    s->ordered_bytes = 0;
    s->ordered_lost = false;
    g_hash_table_remove_all(s->ordered_clusters);
}

static void drop_ordered(GArray *ordered)
{
    for (guint i = 0; i < ordered->len; i++) {
        g_free(g_array_index(ordered, Qcow2Ordered, i).data);
    }
    g_array_free(ordered, TRUE);
}

/* done: its pages are stable (or in the journal); otherwise they are dirty again. */
static void end_batch(Qcow2Node *s, Qcow2Batch *b, bool done)
{
    pthread_mutex_lock(&s->lock);
    for (guint i = 0; i < b->pages->len; i++) {
        Qcow2Page *page = g_ptr_array_index(b->pages, i);
        const uint64_t *mask = &g_array_index(b->masks, uint64_t, (size_t)i * 2);

        for (uint32_t bit = 0; !done && bit < s->page_bytes / QCOW2_GRANULE; bit++) {
            if (mask[bit >> 6] >> (bit & 63) & 1) {
                qcow2_page_dirty(s, page, bit * QCOW2_GRANULE, QCOW2_GRANULE);
            }
        }
        page->pins--;
    }
    if (!done && (b->ordered->len || b->order_data)) {
        s->ordered_lost = true;
    }
    pthread_mutex_unlock(&s->lock);
    drop_ordered(b->ordered);
    g_ptr_array_free(b->pages, TRUE);
    g_array_free(b->masks, TRUE);
    g_free(b->contents);
    if (b->home) {
        g_ptr_array_free(b->home, TRUE);
    }
    g_free(b->home_contents);
}

/* Pages with contents to their own places, neighbours together. kinds: a mask. */
static int write_pages(Qcow2Node *s, const GPtrArray *pages, const uint8_t *contents, unsigned kinds)
{
    for (guint i = 0; i < pages->len;) {
        const Qcow2Page *first = g_ptr_array_index(pages, i);
        guint n = 1;
        int ret;

        if (!(kinds & 1u << first->kind)) {
            i++;
            continue;
        }
        while (i + n < pages->len && n < MERGE_BYTES / s->page_bytes) {
            const Qcow2Page *next = g_ptr_array_index(pages, i + n);

            if (next->offset != first->offset + (uint64_t)n * s->page_bytes || !(kinds & 1u << next->kind)) {
                break;
            }
            n++;
        }
        ret = blk_pwrite(s->node.file, first->offset, (uint64_t)n * s->page_bytes,
                         contents + (size_t)i * s->page_bytes, 0);
        if (ret < 0) {
            return ret;
        }
        i += n;
    }
    return 0;
}

static unsigned kinds_in(const GPtrArray *pages)
{
    unsigned kinds = 0;

    for (guint i = 0; i < pages->len; i++) {
        kinds |= 1u << ((Qcow2Page *)g_ptr_array_index(pages, i))->kind;
    }
    return kinds;
}

static int flush_all(Qcow2Node *s)
{
    int ret = s->data_child ? blk_flush(s->data_child) : 0;

    return ret < 0 ? ret : blk_flush(s->node.file);
}

int qcow2_set_dirty_bit(Qcow2Node *s, bool on)
{
    uint64_t old = s->h.incompatible;
    int ret;

    if (!(old & QCOW2_INCOMPAT_DIRTY) == !on) {
        return 0;
    }
    s->h.incompatible = on ? old | QCOW2_INCOMPAT_DIRTY : old & ~(uint64_t)QCOW2_INCOMPAT_DIRTY;
    ret = qcow2_write_header(s);
    if (ret >= 0) {
        ret = blk_flush(s->node.file);
    }
    if (ret < 0) {
        s->h.incompatible = old;
    }
    return ret;
}

#define KINDS_REF (1u << QCOW2_PAGE_REFCOUNT | 1u << QCOW2_PAGE_REFTABLE)
#define KINDS_L2  (1u << QCOW2_PAGE_L2)
#define KINDS_L1  (1u << QCOW2_PAGE_L1)

static int write_in_order(Qcow2Node *s, const Qcow2Batch *b)
{
    unsigned kinds = kinds_in(b->pages);
    bool ordered = b->order_data || b->ordered->len;
    int ret = 0;

    if (kinds & KINDS_REF) {
        QCOW2_EVENT(s, REFBLOCK_UPDATE_PART);
        ret = write_pages(s, b->pages, b->contents, KINDS_REF);
    }
    if (ret >= 0 && (kinds & (KINDS_L2 | KINDS_L1)) && ((kinds & KINDS_REF) || ordered)) {
        ret = flush_all(s);
    }
    if (ret >= 0 && (kinds & KINDS_L2)) {
        QCOW2_EVENT(s, L2_UPDATE);
        ret = write_pages(s, b->pages, b->contents, KINDS_L2);
        if (ret >= 0 && (kinds & KINDS_L1)) {
            ret = flush_all(s);
        }
    }
    if (ret >= 0 && (kinds & KINDS_L1)) {
        QCOW2_EVENT(s, L1_UPDATE);
        ret = write_pages(s, b->pages, b->contents, KINDS_L1);
    }
    return ret < 0 ? ret : flush_all(s);
}

static GArray *take_pending(Qcow2Node *s)
{
    GArray *frees;

    pthread_mutex_lock(&s->lock);
    frees = s->pending;
    s->pending = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    pthread_mutex_unlock(&s->lock);
    return frees;
}

static void put_back(Qcow2Node *s, GArray *frees)
{
    pthread_mutex_lock(&s->lock);
    g_array_append_vals(s->pending, frees->data, frees->len);
    pthread_mutex_unlock(&s->lock);
}

static int commit_plain(Qcow2Node *s, bool all)
{
    bool lazy = s->lazy && !all;
    Qcow2Batch b;
    GArray *frees;
    int ret = 0;

    if (s->lazy && s->dirty_pages->len) {
        ret = qcow2_set_dirty_bit(s, true);
        if (ret < 0) {
            return ret;
        }
    }
    frees = take_pending(s); /* of mappings that are in this batch */
    pthread_mutex_lock(&s->lock);
    collect(s, &b, lazy, false, false);
    pthread_mutex_unlock(&s->lock);
    ret = write_in_order(s, &b);
    end_batch(s, &b, ret >= 0);
    if (ret < 0) {
        put_back(s, frees);
    } else if (frees->len) {
        ret = qcow2_apply_frees(s, frees);
    }
    g_array_free(frees, TRUE);
    if (ret >= 0) {
        qcow2_release_frees(s);
    }
    return ret;
}

/* What stands in the journal goes to its own places; the next flush makes it stable. */
static int write_home(Qcow2Node *s, Qcow2Batch *b)
{
    Qcow2Journal *j = &s->journal;
    uint64_t seq = j->seq - 1;
    guint kept = 0;
    int ret = write_pages(s, b->home, b->home_contents, ~0u);

    if (ret < 0) {
        return ret; /* the journal keeps it */
    }
    pthread_mutex_lock(&s->lock);
    for (guint i = 0; i < s->home_pages->len; i++) {
        Qcow2Page *page = g_ptr_array_index(s->home_pages, i);

        if (page->home_seq > seq) {
            g_ptr_array_index(s->home_pages, kept++) = page;
        } else {
            page->home_dirty = false;
            page->pins--;
        }
    }
    g_ptr_array_set_size(s->home_pages, (gint)kept);
    pthread_mutex_unlock(&s->lock);
    j->written = true;
    j->written_tail = j->head;
    j->written_seq = j->seq;
    return 0;
}

static void tail_follows(Qcow2Node *s)
{
    Qcow2Journal *j = &s->journal;

    j->tail = j->written_tail;
    j->tail_seq = j->written_seq;
    j->used = (j->head + j->size - j->tail) % j->size;
    j->written = false;
}

static int commit_journal(Qcow2Node *s, bool checkpoint)
{
    Qcow2Journal *j = &s->journal;
    GArray *frees = take_pending(s);
    bool home_was_written, something;
    Qcow2Batch b;
    int ret = 0;

    if (frees->len) {
        ret = qcow2_apply_frees(s, frees);
    }
    g_array_free(frees, TRUE);
    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&s->lock);
    checkpoint = checkpoint || j->used + s->dirty_bytes * 2 + s->ordered_bytes > j->size / 2 ||
                 s->home_pages->len > s->max_pages / 2;
    collect(s, &b, false, checkpoint, true);
    pthread_mutex_unlock(&s->lock);
    something = b.pages->len || b.ordered->len || j->last_has_data;
    if (s->data_child) {
        ret = blk_flush(s->data_child);
    }
    if (ret >= 0 && b.order_data && b.pages->len) {
        ret = blk_flush(s->node.file);
    }
    home_was_written = j->written;
    if (ret >= 0 && something) {
        ret = qcow2_journal_append(s, &b);
        if (ret == -ENOSPC && j->written) { /* the flush that lets the tail follow has not come yet */
            ret = blk_flush(s->node.file);
            if (ret >= 0) {
                tail_follows(s);
                home_was_written = false;
                ret = qcow2_journal_append(s, &b);
            }
        }
    }
    if (ret >= 0) {
        ret = blk_flush(s->node.file);
    }
    if (ret < 0) {
        end_batch(s, &b, false);
        return ret;
    }
    if (something) {
        qcow2_journal_committed(s, &b);
    }
    if (home_was_written) {
        tail_follows(s);
    }
    qcow2_release_frees(s);
    if (checkpoint) {
        write_home(s, &b); /* where that fails the journal still has it, and it is tried again */
    }
    end_batch(s, &b, true);
    return 0;
}

bool qcow2_has_work(Qcow2Node *s)
{
    bool work;

    pthread_mutex_lock(&s->lock);
    work = s->dirty_pages->len || s->pending->len || s->home_pages->len || s->ordered->len;
    pthread_mutex_unlock(&s->lock);
    return work;
}

static int commit_locked(Qcow2Node *s, bool all)
{
    uint64_t covers;
    int ret;

    pthread_mutex_lock(&s->lock);
    covers = s->ticket;
    pthread_mutex_unlock(&s->lock);
    ret = s->journal.active ? commit_journal(s, false) : commit_plain(s, all);
    if (ret >= 0) {
        s->committed = covers;
    }
    return ret;
}

int qcow2_commit(Qcow2Node *s)
{
    uint64_t ticket;
    int ret = 0;

    pthread_mutex_lock(&s->lock);
    ticket = ++s->ticket;
    pthread_mutex_unlock(&s->lock);
    co_mutex_lock(&s->commit_lock);
    if (s->committed < ticket) {
        ret = commit_locked(s, false);
    }
    co_mutex_unlock(&s->commit_lock);
    return ret;
}

int qcow2_begin_change(Qcow2Node *s)
{
    int ret = 0;

    if (!__atomic_load_n(&s->journal.wanted, __ATOMIC_RELAXED) ||
        __atomic_load_n(&s->journal.active, __ATOMIC_ACQUIRE)) {
        return 0;
    }
    co_mutex_lock(&s->commit_lock);
    if (s->journal.wanted && !s->journal.active) {
        ret = qcow2_journal_start(s);
        if (ret == -ENOSPC || ret == -EFBIG) { /* no room for one: it goes without */
            s->journal.wanted = false;
            ret = 0;
        }
    }
    co_mutex_unlock(&s->commit_lock);
    return ret;
}

int qcow2_relieve(Qcow2Node *s)
{
    uint64_t limit = s->journal.active ? s->journal.size / 8 : (uint64_t)s->max_pages * s->page_bytes / 2;
    bool full;
    int ret = 0;

    pthread_mutex_lock(&s->lock);
    full = s->dirty_bytes > limit || s->dirty_pages->len > s->max_pages / 2 || s->pending->len > 4096;
    pthread_mutex_unlock(&s->lock);
    if (full) {
        co_mutex_lock(&s->commit_lock);
        ret = commit_locked(s, true);
        co_mutex_unlock(&s->commit_lock);
    }
    return ret;
}

int qcow2_checkpoint(Qcow2Node *s)
{
    int ret;

    co_mutex_lock(&s->commit_lock);
    if (s->journal.active) {
        ret = qcow2_journal_stop(s);
    } else {
        ret = commit_plain(s, true);
        /* Frees that it applied are dirty again. */
        for (int i = 0; ret >= 0 && i < 3 && qcow2_has_work(s); i++) {
            ret = commit_plain(s, true);
        }
    }
    co_mutex_unlock(&s->commit_lock);
    return ret;
}

/* commit_lock held: everything into its own place, and stable. */
int qcow2_commit_home(Qcow2Node *s)
{
    int ret = 0;

    for (int i = 0; ret >= 0 && (i == 0 || qcow2_has_work(s)); i++) {
        if (i == 4) {
            return -EIO; /* a home write failed again and again */
        }
        ret = commit_journal(s, true);
    }
    if (ret >= 0) {
        ret = flush_all(s);
    }
    if (ret >= 0 && s->journal.written) {
        tail_follows(s);
    }
    return ret;
}
int qcow2_commit_ordered(Qcow2Node *s)
{
    return commit_plain(s, true);
}
