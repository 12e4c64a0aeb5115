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
 * 3. With the journal one transaction holds all of it (journal.c), and with little data that too: then the
 * transaction alone is made stable, with one write. With more (data_lost) the file is flushed as a whole;
 * before the transaction where the contents that a new mapping hides matter (order_lost), or where the
 * journal has live data. Clusters that were never used read as zeroes until their data arrives, which is what
 * was there before: they need no order.
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

/* Takes what is dirty (and kept data) out; lock held. skip_refcounts: they stay dirty. */
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
    b->kept = s->kept;
    b->kept_order = s->kept_order;
    b->data_lost = s->data_lost;
    b->order_lost = s->order_lost;
    s->kept = g_array_new(FALSE, FALSE, sizeof(Qcow2Kept));
    s->kept_bytes = 0;
    s->kept_order = s->data_lost = s->order_lost = false;
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
    if (!done && (b->kept->len || b->data_lost)) {
        s->kept_order = s->kept_order || b->kept_order || b->order_lost;
        qcow2_kept_clear(s->kept);
        s->kept_bytes = 0;
        s->data_lost = true;
        s->order_lost = s->order_lost || s->kept_order;
        s->kept_order = false;
    }
    pthread_mutex_unlock(&s->lock);
    qcow2_kept_clear(b->kept);
    g_array_free(b->kept, TRUE);
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
    bool ordered = b->order_lost || b->kept_order;
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

/* ---- the checkpoint: what stands in the journal becomes stable at its own places ---- */

typedef struct Checkpoint {
    Qcow2Node *s;
    GPtrArray *home;
    uint8_t *contents;
    uint64_t head, seq; /* the tail's place afterwards */
} Checkpoint;

static void forget_live(GHashTable *live)
{
    if (g_hash_table_size(live)) {
        g_hash_table_remove_all(live);
    }
}

static void live_merge(GHashTable *into, GHashTable *from)
{
    GHashTableIter iter;
    gpointer key;

    g_hash_table_iter_init(&iter, from);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        g_hash_table_add(into, key);
    }
    g_hash_table_remove_all(from);
}

static int run_checkpoint(Checkpoint *c)
{
    Qcow2Node *s = c->s;
    Qcow2Journal *j = &s->journal;
    int ret = write_pages(s, c->home, c->contents, ~0u);
    guint kept = 0;

    if (ret >= 0) {
        ret = flush_all(s);
    }
    pthread_mutex_lock(&s->lock);
    for (guint i = 0; ret >= 0 && i < s->home_pages->len; i++) {
        Qcow2Page *page = g_ptr_array_index(s->home_pages, i);

        if (page->home_seq >= c->seq) { /* changed again since */
            g_ptr_array_index(s->home_pages, kept++) = page;
        } else {
            page->home_dirty = false;
            page->pins--;
        }
    }
    if (ret >= 0) {
        g_ptr_array_set_size(s->home_pages, (gint)kept);
        forget_live(s->live[1]);
        j->passed_head = c->head;
        j->passed_seq = c->seq;
        j->checkpointed = true;
    } else { /* the journal keeps it, and the next commit tries again */
        live_merge(s->live[0], s->live[1]);
    }
    j->checkpointing = false;
    co_queue_wake_all(&j->waiting);
    pthread_mutex_unlock(&s->lock);
    g_ptr_array_free(c->home, TRUE);
    g_free(c->contents);
    g_free(c);
    return ret;
}

static void checkpoint_entry(void *opaque)
{
    Checkpoint *c = opaque;
    BlockNode *node = &c->s->node;

    run_checkpoint(c);
    block_background_end(node);
}

/* lock held */
static void tail_follows(Qcow2Node *s)
{
    Qcow2Journal *j = &s->journal;

    if (!j->checkpointed) {
        return;
    }
    j->checkpointed = false;
    j->tail = j->passed_head;
    j->tail_seq = j->passed_seq;
    j->data_seq = MAX(j->data_seq, j->passed_seq);
    j->used = (j->head + j->size - j->tail) % j->size;
}

/* Starts it with what the batch collected, which is stable in the journal now. */
static int start_checkpoint(Qcow2Node *s, Qcow2Batch *b, bool now)
{
    Checkpoint *c = g_new(Checkpoint, 1);
    int ret = 0;

    *c = (Checkpoint){ s, b->home, b->home_contents, s->journal.head, s->journal.seq };
    b->home = NULL;
    b->home_contents = NULL;
    pthread_mutex_lock(&s->lock);
    s->journal.checkpointing = true;
    live_merge(s->live[1], s->live[0]);
    pthread_mutex_unlock(&s->lock);
    if (now || !block_background_begin(&s->node)) {
        ret = run_checkpoint(c);
        pthread_mutex_lock(&s->lock);
        tail_follows(s);
        pthread_mutex_unlock(&s->lock);
    } else {
        coroutine_enter(coroutine_new(checkpoint_entry, c));
    }
    return ret;
}

static void wait_background(Qcow2Node *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->journal.checkpointing || s->journal.laying) {
        co_queue_wait_unlock(&s->journal.waiting, &s->lock);
        pthread_mutex_lock(&s->lock);
    }
    tail_follows(s);
    pthread_mutex_unlock(&s->lock);
}

/* ---- a commit with the journal ---- */

/* lock held */
static bool is_live(const Qcow2Node *s)
{
    return g_hash_table_size(s->live[0]) || g_hash_table_size(s->live[1]);
}

/* Whether clusters that become free have data in the journal, or will have it with the next commit. lock
 * held. */
static bool frees_live(const Qcow2Node *s, const GArray *frees)
{
    if (!frees->len || !(is_live(s) || s->kept->len)) {
        return false;
    }
    for (guint i = 0; i < frees->len; i++) {
        const Qcow2Free *f = &g_array_index(frees, Qcow2Free, i);

        for (uint64_t c = f->cluster; c < f->cluster + f->count; c++) {
            gpointer key = (gpointer)(uintptr_t)c;

            if (g_hash_table_contains(s->live[0], key) || g_hash_table_contains(s->live[1], key)) {
                return true;
            }
        }
        for (guint k = 0; k < s->kept->len; k++) {
            const Qcow2Kept *kept = &g_array_index(s->kept, Qcow2Kept, k);

            if (qcow2_cluster_of(s, kept->offset) < f->cluster + f->count &&
                f->cluster <= qcow2_cluster_of(s, kept->offset + kept->bytes - 1)) {
                return true;
            }
        }
    }
    return false;
}

static void live_add(Qcow2Node *s, const GArray *kept)
{
    pthread_mutex_lock(&s->lock);
    for (guint i = 0; i < kept->len; i++) {
        const Qcow2Kept *k = &g_array_index(kept, Qcow2Kept, i);

        for (uint64_t c = qcow2_cluster_of(s, k->offset); c <= qcow2_cluster_of(s, k->offset + k->bytes - 1);
             c++) {
            g_hash_table_add(s->live[0], (gpointer)(uintptr_t)c);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

/* All data at its own place becomes stable, so that the journal's is needed no more. */
static int settle_data(Qcow2Node *s, Qcow2Batch *b)
{
    int ret = blk_flush(s->node.file);

    if (ret < 0) {
        return ret;
    }
    qcow2_kept_clear(b->kept);
    pthread_mutex_lock(&s->lock);
    forget_live(s->live[0]);
    forget_live(s->live[1]);
    pthread_mutex_unlock(&s->lock);
    s->journal.data_seq = s->journal.seq;
    return 0;
}

static int append(Qcow2Node *s, Qcow2Batch *b, bool stable)
{
    int ret = qcow2_journal_append(s, b, stable);

    if (ret == -ENOSPC && s->journal.checkpointing) {
        wait_background(s);
        ret = qcow2_journal_append(s, b, stable);
    }
    if (ret == -ENOSPC && b->kept->len) {
        ret = settle_data(s, b);
        ret = ret < 0 ? ret : qcow2_journal_append(s, b, stable);
    }
    return ret;
}

/* Makes the batch stable. settle: the journal's data must not be needed afterwards. *appended: by a
 * transaction. */
static int commit_batch(Qcow2Node *s, Qcow2Batch *b, bool live, bool settle, bool *appended)
{
    bool tables = b->pages->len, last_flush = false;
    int ret = 0;

    *appended = true;
    if (settle || (live && b->data_lost)) {
        ret = settle_data(s, b);
    } else if (!tables && !live) {
        *appended = false;
        return blk_flush(s->node.file);
    } else if (!tables && !b->kept->len) {
        *appended = false; /* nothing was written since the last one */
        return 0;
    } else {
        if (!live) {
            s->journal.data_seq = s->journal.seq;
        }
        if (b->data_lost && b->order_lost) {
            ret = blk_flush(s->node.file);
        } else {
            last_flush = b->data_lost;
        }
    }
    if (ret >= 0) {
        ret = append(s, b, !last_flush);
    }
    if (ret >= 0 && last_flush) {
        ret = blk_flush(s->node.file);
    }
    return ret;
}

/* now: with a checkpoint, which is done when this returns. */
static int commit_journal(Qcow2Node *s, bool now)
{
    Qcow2Journal *j = &s->journal;
    GArray *frees = take_pending(s);
    bool checkpoint, live, settle, appended;
    Qcow2Batch b;
    int ret = 0;

    if (now) {
        wait_background(s);
    }
    pthread_mutex_lock(&s->lock);
    settle = frees_live(s, frees);
    pthread_mutex_unlock(&s->lock);
    if (frees->len) {
        ret = qcow2_apply_frees(s, frees);
    }
    g_array_free(frees, TRUE);
    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&s->lock);
    tail_follows(s);
    checkpoint =
        now || (!j->checkpointing && (j->used + s->dirty_bytes * 2 + s->kept_bytes > j->size / 8 * 5 ||
                                      s->home_pages->len > s->max_pages / 4 * 3));
    collect(s, &b, false, checkpoint, true);
    live = is_live(s);
    pthread_mutex_unlock(&s->lock);
    if (s->data_child) {
        ret = blk_flush(s->data_child);
    }
    if (ret >= 0) {
        ret = commit_batch(s, &b, live, settle, &appended);
    }
    if (ret < 0) {
        end_batch(s, &b, false);
        return ret;
    }
    if (appended) {
        qcow2_journal_committed(s);
        live_add(s, b.kept);
        qcow2_journal_lay(s);
    }
    qcow2_release_frees(s);
    if (checkpoint) {
        ret = start_checkpoint(s, &b, now);
    }
    end_batch(s, &b, true);
    return now ? ret : 0;
}

static bool has_work(Qcow2Node *s)
{
    bool work;

    pthread_mutex_lock(&s->lock);
    work = s->dirty_pages->len || s->pending->len;
    pthread_mutex_unlock(&s->lock);
    return work;
}

bool qcow2_has_work(Qcow2Node *s)
{
    bool work;

    pthread_mutex_lock(&s->lock);
    work = s->dirty_pages->len || s->pending->len || s->home_pages->len;
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
        for (int i = 0; ret >= 0 && i < 3 && has_work(s); i++) {
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

    pthread_mutex_lock(&s->lock);
    qcow2_lose_data(s); /* the control plane writes tables at their own places */
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; ret >= 0 && (i == 0 || qcow2_has_work(s)); i++) {
        if (i == 4) {
            return -EIO; /* a home write failed again and again */
        }
        ret = commit_journal(s, true);
    }
    wait_background(s);
    return ret < 0 ? ret : flush_all(s);
}

int qcow2_commit_ordered(Qcow2Node *s)
{
    return commit_plain(s, true);
}
