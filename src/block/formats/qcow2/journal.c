/*
 * The journal inside the image; on disk as docs/formats/qcow2-journal.md says.
 *
 * 1. Redo only: a transaction holds new contents of tables, and is applied as a whole or not at all (its
 * checksum covers all of it). Transactions are made one after the other; the next is written when the last is
 * stable.
 * 2. Applying transactions from the tail on, in order, to any state that their home writes may have left
 * gives the tables as of the last one. The tail moves only past what is stable at its own place.
 * 3. A transaction that holds all data written since the one before (qcow2_keep_data) is stable by itself:
 * the data is at its own place too, but nobody waits for that. From then on ("live") every commit is either
 * such a transaction, with the data of writes in place in it, or begins with a flush of the whole file, after
 * which no data in the journal is needed any more (data_seq). So what replay brings back of a place is the
 * last that was flushed there, or the file has that or newer. A cluster with live data that is freed asks for
 * such a flush too: its next user's bytes may be in no journal.
 * 4. Tables of freed clusters never lie in the journal: only the control plane frees tables, and it stops the
 *    journal first. L2 tables and refcount blocks that are made are written at their own place and flushed
 * before the transaction that refers to them.
 * 5. The journal's clusters have refcount 1 while the incompatible bit is set. A clean close gives them back,
 * so that other programs find no leak. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include <errno.h>
#include <string.h>
#include <zlib.h>

#define TX_MAGIC    0x524a5458u /* "RJTX" */
#define TX_BLOCK    4096u
#define TX_HEADER   64u
#define TX_RECORD   16u
#define TX_TABLE    1u
#define TX_DATA     2u
#define JOURNAL_MIN (1u << 20)
#define JOURNAL_MAX (1u << 30)
#define LAY_BYTES   UINT64_C(0x100000) /* in one go */
#define LAY_AHEAD   (LAY_BYTES / 2)

static uint64_t pad8(uint64_t bytes)
{
    return (bytes + 7) & ~UINT64_C(7);
}

/* The next run of set bits in a page's mask at or behind `bit`: false where there is none. */
static bool next_run(const uint64_t *mask, uint32_t bits, uint32_t *bit, uint32_t *count)
{
    uint32_t i = *bit, n = 0;

    while (i < bits && !(mask[i >> 6] >> (i & 63) & 1)) {
        i++;
    }
    while (i + n < bits && (mask[(i + n) >> 6] >> ((i + n) & 63) & 1)) {
        n++;
    }
    *bit = i;
    *count = n;
    return n > 0;
}

static uint8_t *put_record(uint8_t *at, uint64_t offset, uint32_t bytes, uint32_t type, const void *data)
{
    put_be64(at, offset);
    put_be32(at + 8, bytes);
    put_be32(at + 12, type);
    memcpy(at + TX_RECORD, data, bytes);
    memset(at + TX_RECORD + bytes, 0, pad8(bytes) - bytes);
    return at + TX_RECORD + pad8(bytes);
}

static uint64_t batch_bytes(const Qcow2Node *s, const Qcow2Batch *b)
{
    uint64_t bytes = TX_HEADER;

    for (guint i = 0; i < b->pages->len; i++) {
        const uint64_t *mask = &g_array_index(b->masks, uint64_t, (size_t)i * 2);
        uint32_t bit = 0, count;

        for (; next_run(mask, s->page_bytes / QCOW2_GRANULE, &bit, &count); bit += count) {
            bytes += TX_RECORD + (uint64_t)count * QCOW2_GRANULE;
        }
    }
    for (guint i = 0; i < b->kept->len; i++) {
        bytes += TX_RECORD + pad8(g_array_index(b->kept, Qcow2Kept, i).bytes);
    }
    return bytes;
}

int qcow2_journal_append(Qcow2Node *s, const Qcow2Batch *b, bool stable)
{
    Qcow2Journal *j = &s->journal;
    uint64_t bytes = batch_bytes(s, b), total = (bytes + TX_BLOCK - 1) & ~(uint64_t)(TX_BLOCK - 1),
             at = j->head;
    uint32_t records = 0;
    uint8_t *buf, *p;
    int ret;

    if (at + total > j->size) {
        at = 0;
    }
    /* One block stays free, so that a full journal does not look empty. */
    if (total > j->size ||
        (j->used && (at == 0 && j->head ? j->size - j->head : 0) + total + j->used >= j->size)) {
        return -ENOSPC;
    }
    buf = block_buffer_try(s->node.file, total);
    if (!buf) {
        return -ENOMEM;
    }
    pthread_mutex_lock(&s->lock);
    while (j->laying && at + total > j->laid) { /* the zeroes must not come over it */
        co_queue_wait_unlock(&j->waiting, &s->lock);
        pthread_mutex_lock(&s->lock);
    }
    j->laid = MAX(j->laid, at + total);
    pthread_mutex_unlock(&s->lock);
    memset(buf, 0, TX_HEADER);
    p = buf + TX_HEADER;
    for (guint i = 0; i < b->pages->len; i++) {
        const Qcow2Page *page = g_ptr_array_index(b->pages, i);
        const uint64_t *mask = &g_array_index(b->masks, uint64_t, (size_t)i * 2);
        uint32_t bit = 0, count;

        for (; next_run(mask, s->page_bytes / QCOW2_GRANULE, &bit, &count); bit += count, records++) {
            p = put_record(p, page->offset + bit * QCOW2_GRANULE, count * QCOW2_GRANULE, TX_TABLE,
                           b->contents + (size_t)i * s->page_bytes + bit * QCOW2_GRANULE);
        }
    }
    for (guint i = 0; i < b->kept->len; i++, records++) {
        const Qcow2Kept *o = &g_array_index(b->kept, Qcow2Kept, i);

        p = put_record(p, o->offset, o->bytes, TX_DATA, o->data);
    }
    memset(p, 0, total - (uint64_t)(p - buf));
    put_be32(buf, TX_MAGIC);
    put_be64(buf + 8, j->seq);
    put_be64(buf + 16, j->tail_seq);
    put_be64(buf + 24, j->data_seq);
    put_be32(buf + 32, (uint32_t)bytes);
    put_be32(buf + 36, records);
    put_be32(buf + 44, ++j->attempt);
    memcpy(buf + 48, j->uuid, 16);
    put_be32(buf + 40, (uint32_t)crc32_z(0, buf, bytes));
    ret = blk_pwrite(s->node.file, j->offset + at, total, buf, stable ? BLOCK_REQ_FUA : 0);
    g_aligned_free(buf);
    if (ret >= 0) {
        j->next_at = at;
        j->next_end = at + total;
    }
    return ret;
}

void qcow2_journal_committed(Qcow2Node *s)
{
    Qcow2Journal *j = &s->journal;

    if (j->tail_seq == j->seq) {
        j->tail = j->next_at;
    }
    j->head = j->next_end == j->size ? 0 : j->next_end;
    j->used = (j->head + j->size - j->tail) % j->size;
    j->seq++;
}

static uint64_t default_size(const Qcow2Node *s)
{
    return MAX(8u << 20, 4 * (uint64_t)s->g.cluster_size);
}

/* ---- laying out: the first write to a place costs the host's file system a transaction of its own ---- */

static int write_zeroes_out(Qcow2Node *s, uint64_t at, uint64_t bytes, unsigned flags)
{
    uint8_t *zeroes = block_buffer_try(s->node.file, bytes);
    int ret;

    if (!zeroes) {
        return -ENOMEM;
    }
    memset(zeroes, 0, bytes);
    ret = blk_pwrite(s->node.file, s->journal.offset + at, bytes, zeroes, flags);
    g_aligned_free(zeroes);
    return ret;
}

static void lay_entry(void *opaque)
{
    Qcow2Node *s = opaque;
    Qcow2Journal *j = &s->journal;
    uint64_t bytes = MIN(LAY_BYTES, j->size - j->laid);
    int ret = write_zeroes_out(s, j->laid, bytes, BLOCK_REQ_FUA); /* laid does not change while laying */

    pthread_mutex_lock(&s->lock);
    j->laid = ret < 0 ? j->size : j->laid + bytes; /* a transaction will say what is wrong */
    j->laying = false;
    co_queue_wake_all(&j->waiting);
    pthread_mutex_unlock(&s->lock);
    block_background_end(&s->node);
}

void qcow2_journal_lay(Qcow2Node *s)
{
    Qcow2Journal *j = &s->journal;
    bool start;

    pthread_mutex_lock(&s->lock);
    start =
        !j->laying && j->laid < j->size && j->head + LAY_AHEAD > j->laid && block_background_begin(&s->node);
    j->laying = j->laying || start;
    pthread_mutex_unlock(&s->lock);
    if (start) {
        coroutine_enter(coroutine_new(lay_entry, s));
    }
}

int qcow2_journal_start(Qcow2Node *s)
{
    Qcow2Journal *j = &s->journal;
    uint64_t size = qcow2_round_up(s, s->h.journal.wish ? CLAMP(s->h.journal.wish, JOURNAL_MIN, JOURNAL_MAX)
                                                        : default_size(s));
    Qcow2JournalExt old = s->h.journal;
    uint64_t offset;
    int ret;

    size = (size + TX_BLOCK - 1) & ~(uint64_t)(TX_BLOCK - 1);
    offset = qcow2_alloc_table(s, size, &ret);
    if (!offset) {
        return ret;
    }
    memset(j, 0, sizeof(*j));
    j->wanted = true;
    j->offset = offset;
    j->size = size;
    j->seq = j->tail_seq = j->data_seq = 1;
    j->laid = MIN(LAY_BYTES, size);
    co_queue_init(&j->waiting);
    for (int i = 0; i < 4; i++) {
        uint32_t word = g_random_int();

        memcpy(j->uuid + i * 4, &word, 4);
    }
    s->h.journal.present = true;
    s->h.journal.offset = offset;
    s->h.journal.size = size;
    memcpy(s->h.journal.uuid, j->uuid, 16);
    /* First whose the clusters are, then their refcounts, then that the journal counts. */
    s->h.autoclear |= QCOW2_AUTOCLEAR_JOURNAL;
    ret = qcow2_write_header(s);
    if (ret >= 0) {
        ret = write_zeroes_out(s, 0, j->laid, 0);
    }
    if (ret >= 0) {
        ret = blk_flush(s->node.file);
    }
    if (ret >= 0) {
        ret = qcow2_commit_ordered(s);
    }
    if (ret >= 0) {
        s->h.incompatible |= QCOW2_INCOMPAT_JOURNAL;
        ret = qcow2_write_header(s);
    }
    if (ret >= 0) {
        ret = blk_flush(s->node.file);
    }
    if (ret < 0) {
        s->h.journal = old;
        s->h.incompatible &= ~QCOW2_INCOMPAT_JOURNAL;
        s->h.autoclear &= ~QCOW2_AUTOCLEAR_JOURNAL;
        qcow2_write_header(
            s); /* which of them the file has is not known: each is true, the journal is empty */
        qcow2_free_now(s, offset, size, false);
        return ret;
    }
    j->active = true;
    return 0;
}

/* The journal is empty and all tables are stable: it ends, and its clusters are given back. */
static int end_journal(Qcow2Node *s)
{
    int ret;

    s->h.incompatible &= ~QCOW2_INCOMPAT_JOURNAL;
    s->h.autoclear |= QCOW2_AUTOCLEAR_JOURNAL;
    ret = qcow2_write_header(s);
    return ret < 0 ? ret : blk_flush(s->node.file);
}

bool qcow2_journal_reclaim(Qcow2Node *s, GError **error)
{
    uint64_t first = qcow2_cluster_of(s, s->h.journal.offset), count = qcow2_cluster_of(s, s->h.journal.size);
    int ret = 0;

    if (!(s->h.autoclear & QCOW2_AUTOCLEAR_JOURNAL)) {
        return true;
    }
    if (!first || s->h.journal.offset % s->g.cluster_size || s->h.journal.size % s->g.cluster_size ||
        s->h.journal.offset >> 56 || s->h.journal.size > 2 * (uint64_t)JOURNAL_MAX) {
        return error_set(error, "%s: the journal's header extension is invalid", qcow2_what(s));
    }
    for (uint64_t c = first; c < first + count && ret >= 0; c++) {
        uint64_t value;

        ret = qcow2_refcount_get(s, c, &value);
        if (ret >= 0 && value) {
            ret = qcow2_refcount_add(s, c, 1, -1);
        }
    }
    if (ret >= 0) {
        ret = qcow2_commit_ordered(s);
    }
    if (ret >= 0) {
        s->h.autoclear &= ~QCOW2_AUTOCLEAR_JOURNAL;
        s->h.journal.offset = s->h.journal.size = 0;
        memset(s->h.journal.uuid, 0, 16);
        ret = qcow2_write_header(s);
    }
    return ret >= 0 ||
           error_set_errno(error, -ret, "%s: cannot give back the journal's clusters", qcow2_what(s));
}

int qcow2_journal_stop(Qcow2Node *s)
{
    int ret = qcow2_commit_home(s);

    if (ret < 0) {
        return ret;
    }
    ret = end_journal(s);
    if (ret < 0) {
        s->h.incompatible |= QCOW2_INCOMPAT_JOURNAL;
        return ret;
    }
    s->journal.active = false;
    if (!qcow2_journal_reclaim(s, NULL)) {
        return -EIO;
    }
    return blk_flush(s->node.file);
}

/* ---- replay ---- */

typedef struct Tx {
    uint64_t seq, tail_seq, data_seq, at;
    uint32_t bytes, records, attempt;
    const uint8_t *data;
} Tx;

/* Whether a whole transaction of this journal stands at `at`. */
static bool parse_tx(Qcow2Node *s, uint8_t *area, uint64_t size, uint64_t at, Tx *tx)
{
    uint8_t *p = area + at;
    uint32_t bytes = get_be32(p + 32), sum = get_be32(p + 40), got;

    if (get_be32(p) != TX_MAGIC || memcmp(p + 48, s->h.journal.uuid, 16) != 0 || bytes < TX_HEADER ||
        bytes > size - at) {
        return false;
    }
    memset(p + 40, 0, 4);
    got = (uint32_t)crc32_z(0, p, bytes);
    put_be32(p + 40, sum);
    *tx = (Tx){ get_be64(p + 8), get_be64(p + 16), get_be64(p + 24), at,
                bytes,           get_be32(p + 36), get_be32(p + 44), p };
    return got == sum;
}

static int by_seq(const void *a, const void *b)
{
    const Tx *x = a, *y = b;

    if (x->seq != y->seq) {
        return x->seq < y->seq ? -1 : 1;
    }
    return x->attempt < y->attempt ? -1 : x->attempt > y->attempt;
}

/* Of one number that was tried several times (a flush failed) the last try counts. */
static void drop_old_attempts(GArray *sorted)
{
    guint kept = 0;

    for (guint i = 0; i < sorted->len; i++) {
        if (i + 1 < sorted->len && g_array_index(sorted, Tx, i + 1).seq == g_array_index(sorted, Tx, i).seq) {
            continue;
        }
        g_array_index(sorted, Tx, kept++) = g_array_index(sorted, Tx, i);
    }
    g_array_set_size(sorted, kept);
}

/* The records of one transaction; each checked before any is written. data: those with data too. */
static bool apply_tx(Qcow2Node *s, const Tx *tx, bool data, bool check_only, GError **error)
{
    uint64_t at = TX_HEADER, file = block_size(s->node.file);
    int ret;

    for (uint32_t i = 0; i < tx->records; i++) {
        uint64_t offset;
        uint32_t bytes, type;

        if (at + TX_RECORD > tx->bytes) {
            return error_set(error, "%s: the journal's transaction %" G_GUINT64_FORMAT " is malformed",
                             qcow2_what(s), tx->seq);
        }
        offset = get_be64(tx->data + at);
        bytes = get_be32(tx->data + at + 8);
        type = get_be32(tx->data + at + 12);
        at += TX_RECORD;
        if (bytes > tx->bytes - at || offset < s->g.cluster_size || offset >> 56 ||
            (offset < s->h.journal.offset + s->h.journal.size && s->h.journal.offset < offset + bytes) ||
            (type != TX_TABLE && type != TX_DATA)) {
            return error_set(
                error, "%s: the journal's transaction %" G_GUINT64_FORMAT " holds a record that cannot be",
                qcow2_what(s), tx->seq);
        }
        if (!check_only && (type == TX_TABLE || data)) {
            if (offset + bytes > file && !s->can_grow) {
                return error_set(error, "%s: the journal writes behind the end of the file", qcow2_what(s));
            }
            ret = blk_pwrite(s->node.file, offset, bytes, tx->data + at, 0);
            if (ret < 0) {
                return error_set_errno(error, -ret, "%s: cannot write what the journal holds", qcow2_what(s));
            }
        }
        at += MIN(pad8(bytes), tx->bytes - at);
    }
    return true;
}

static bool replay_area(Qcow2Node *s, uint8_t *area, uint64_t size, GError **error)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(Tx));
    bool ok = true;
    guint first;
    Tx tx;

    for (uint64_t at = 0; at + TX_HEADER <= size; at += TX_BLOCK) {
        if (parse_tx(s, area, size, at, &tx)) {
            g_array_append_val(found, tx);
            at += ((uint64_t)tx.bytes + TX_BLOCK - 1) / TX_BLOCK * TX_BLOCK - TX_BLOCK;
        }
    }
    g_array_sort(found, by_seq);
    drop_old_attempts(found);
    if (found->len) {
        const Tx *last = &g_array_index(found, Tx, found->len - 1);

        first = found->len - 1;
        while (first && g_array_index(found, Tx, first).seq > last->tail_seq &&
               g_array_index(found, Tx, first - 1).seq == g_array_index(found, Tx, first).seq - 1) {
            first--;
        }
        if (g_array_index(found, Tx, first).seq > last->tail_seq) {
            ok = error_set(error,
                           "%s: the journal lacks transactions %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT
                           ", which it should hold: the image was damaged after it was written",
                           qcow2_what(s), last->tail_seq, g_array_index(found, Tx, first).seq - 1);
        }
        for (int pass = 0; ok && pass < 2; pass++) {
            for (guint i = first; ok && i < found->len; i++) {
                const Tx *t = &g_array_index(found, Tx, i);

                ok = apply_tx(s, t, t->seq >= last->data_seq, pass == 0, error);
            }
        }
    }
    g_array_free(found, TRUE);
    return ok;
}

bool qcow2_journal_replay(Qcow2Node *s, GError **error)
{
    uint64_t offset = s->h.journal.offset, size = s->h.journal.size;
    uint8_t *area;
    bool ok;
    int ret;

    if (size < TX_BLOCK || size > 2 * (uint64_t)JOURNAL_MAX || size % TX_BLOCK ||
        offset % s->g.cluster_size || offset < s->g.cluster_size || offset >> 56) {
        return error_set(error, "%s: the journal's header extension is invalid", qcow2_what(s));
    }
    if (offset + size > block_size(s->node.file)) {
        return error_set(error, "%s: the journal lies behind the end of the file", qcow2_what(s));
    }
    area = g_try_malloc(size);
    if (!area) {
        return error_set(error, "%s: no memory for the journal of %" G_GUINT64_FORMAT " bytes", qcow2_what(s),
                         size);
    }
    ret = blk_pread(s->node.file, offset, size, area, 0);
    if (ret < 0) {
        g_free(area);
        return error_set_errno(error, -ret, "%s: cannot read the journal", qcow2_what(s));
    }
    ok = replay_area(s, area, size, error);
    g_free(area);
    if (!ok) {
        return false;
    }
    ret = blk_flush(s->node.file);
    if (ret >= 0) {
        ret = end_journal(s);
    }
    if (ret < 0) {
        return error_set_errno(error, -ret, "%s: cannot write the image after replaying its journal",
                               qcow2_what(s));
    }
    return true;
}
