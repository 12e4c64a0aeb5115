/*
 * Writes of qcow2.
 *
 * 1. A write to clusters that are DATA and COPIED goes straight to its place; nothing else is changed by it.
 * 2. Any other write registers what it changes in s->allocs first. Two such requests never hold the same
 * guest cluster: the later one waits. Entries of held clusters are changed by their holder alone.
 * 3. The old contents around the new data are read with one request where the gap is small (two otherwise),
 * and go out with the data in one write; not at all where they read as zeroes and the new place does too.
 * 4. The mapping, its refcounts and what is given up change together under the lock, after the data was
 * written.
 * 5. Where the old contents were not zeroes, or the new place may hold old bytes, a mapping must not become
 * stable before its data: qcow2_keep_data() tells the next commit.
 * 6. Every write of data is kept or marked as lost (data_lost) in the section of the lock that ends it: what
 * a commit takes out is all that has ended since the last one. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include <errno.h>
#include <string.h>

#define READ_ONCE_GAP    (64u << 10)  /* between head and tail */
#define KEEP_MAX         (256u << 10) /* bytes of data in one transaction; more is better written once */
#define KEEP_ORDERED_MAX (1u << 20)   /* of data that would need a flush of its own */
#define ALLOC_MAX        (16u << 20)  /* of one step */
#define CRYPT_PIECE      (1u << 20)

void qcow2_alloc_add(Qcow2Node *s, Qcow2Alloc *a, uint64_t first, uint64_t count)
{
    a->first = first;
    a->count = count;
    co_queue_init(&a->waiting);
    a->next = s->allocs;
    s->allocs = a;
}

void qcow2_alloc_remove(Qcow2Node *s, Qcow2Alloc *a)
{
    Qcow2Alloc **at = &s->allocs;

    while (*at != a) {
        at = &(*at)->next;
    }
    *at = a->next;
    co_queue_wake_all(&a->waiting);
}

static Qcow2Alloc *find_conflict(Qcow2Node *s, uint64_t first, uint64_t count)
{
    for (Qcow2Alloc *a = s->allocs; a; a = a->next) {
        if (first < a->first + a->count && a->first < first + count) {
            return a;
        }
    }
    return NULL;
}

bool qcow2_alloc_conflict(Qcow2Node *s, uint64_t first, uint64_t count)
{
    Qcow2Alloc *a = find_conflict(s, first, count);

    if (!a) {
        return false;
    }
    co_queue_wait_unlock(&a->waiting, &s->lock);
    pthread_mutex_lock(&s->lock);
    return true;
}

/* ---- data that is written and not stable ---- */

void qcow2_kept_clear(GArray *kept)
{
    for (guint i = 0; i < kept->len; i++) {
        g_free(g_array_index(kept, Qcow2Kept, i).data);
    }
    g_array_set_size(kept, 0);
}

static void lose_kept(Qcow2Node *s)
{
    qcow2_kept_clear(s->kept);
    s->data_lost = true;
    s->order_lost = s->order_lost || s->kept_order;
    s->kept_order = false;
    s->kept_bytes = 0;
}

void qcow2_lose_data(Qcow2Node *s)
{
    lose_kept(s);
    s->order_lost = true;
}

void qcow2_keep_data(Qcow2Node *s, uint64_t host, uint64_t bytes, const BlockVec *vec, uint64_t from,
                     bool order)
{
    Qcow2Kept k = { .offset = host, .bytes = (uint32_t)bytes };
    uint64_t most = order || s->kept_order ? KEEP_ORDERED_MAX : KEEP_MAX;

    if (!s->data_lost &&
        (!s->journal.active || s->data_child || s->kept_bytes + bytes > MIN(most, s->journal.size / 8))) {
        lose_kept(s);
    }
    if (s->data_lost) {
        s->order_lost = s->order_lost || order;
        return;
    }
    k.data = g_malloc(bytes);
    block_vec_read(vec, from, k.data, bytes);
    g_array_append_val(s->kept, k);
    s->kept_bytes += bytes;
    s->kept_order = s->kept_order || order;
}

/* A write in place has ended. Where it is likely that the next commit writes a transaction anyway, the data
 * is kept for it; where there is nothing but writes in place, a flush of the file is the cheapest. */
static void written_in_place(Qcow2Node *s, uint64_t host, uint64_t bytes, const BlockVec *vec, uint64_t from)
{
    if (s->data_lost) {
        return;
    }
    if (s->kept->len || s->dirty_pages->len || g_hash_table_size(s->live[0]) ||
        g_hash_table_size(s->live[1])) {
        qcow2_keep_data(s, host, bytes, vec, from, false);
    } else {
        s->data_lost = true;
    }
}

/* ---- the allocating write ---- */

typedef struct Plan {
    Qcow2Alloc alloc;
    Qcow2Page *page;
    uint64_t host;       /* of the first cluster */
    uint64_t start, end; /* guest bytes that will hold data: with head and tail */
    bool reuse;          /* the cluster has its place: new subclusters, or zeroes that become data */
    bool head_zero, tail_zero, order;
} Plan;

static bool needs_place(const Qcow2Node *s, Qcow2Entry e)
{
    return !(qcow2_entry_has_host(&s->g, e) && (e.word & QCOW2_COPIED));
}

static Qcow2Entry entry_at(const Qcow2Node *s, const Qcow2Page *page, uint64_t guest)
{
    return qcow2_entry_load(&s->g, page->data + qcow2_l2_pos(s, guest));
}

/* Where data must begin (or, tail, end) for a write that begins (ends) at `at` in a cluster. */
static uint64_t edge(const Qcow2Node *s, Qcow2Entry e, uint64_t at, bool tail)
{
    uint64_t cluster = (tail ? at - 1 : at) & ~(uint64_t)(s->g.cluster_size - 1), unit = s->g.cluster_size;
    uint32_t sub = (uint32_t)(((tail ? at - 1 : at) - cluster) / s->g.sub_size);

    if (!needs_place(s, e)) {
        if (qcow2_entry_kind(&s->g, e, sub) == QCOW2_KIND_DATA) {
            return at;
        }
        unit = s->g.sub_size;
    } else if (!(e.word & QCOW2_COMPRESSED) && s->g.sub_bits) {
        /* What holds data moves to the new place, from the first such subcluster to the last; others stay. */
        uint32_t data = (uint32_t)e.bitmap, first, last;

        if (qcow2_entry_has_host(&s->g, e) && data) {
            first = MIN(sub, (uint32_t)__builtin_ctz(data));
            last = MAX(sub, 31 - (uint32_t)__builtin_clz(data));
            return cluster + (tail ? last + 1 : first) * (uint64_t)s->g.sub_size;
        }
        unit = s->g.sub_size;
    }
    return (tail ? at + unit - 1 : at) & ~(unit - 1);
}

/* Whether [from, to) of the guest, in one cluster, reads as zeroes for sure. */
static bool reads_zero(const Qcow2Node *s, Qcow2Entry e, uint64_t from, uint64_t to)
{
    for (uint64_t at = from; at < to; at = (at | (s->g.sub_size - 1)) + 1) {
        switch (qcow2_entry_kind(&s->g, e, (uint32_t)((at & (s->g.cluster_size - 1)) / s->g.sub_size))) {
        case QCOW2_KIND_ZERO:
        case QCOW2_KIND_ZERO_HOST:
            break;
        case QCOW2_KIND_UNALLOCATED:
        case QCOW2_KIND_UNALLOCATED_HOST:
            if (s->node.backing && at < block_size(s->node.backing)) {
                return false;
            }
            break;
        default:
            return false;
        }
    }
    return true;
}

/* What is to be done for a write at offset: fills in the plan and registers it. 0: try again, 1: go on. lock
 * held. */
static int make_plan(Qcow2Node *s, Plan *p, uint64_t offset, uint64_t bytes)
{
    uint64_t first = qcow2_cluster_of(s, offset), n = 1, last_entry,
             per_page = s->page_bytes / s->g.l2_entry_bytes;
    Qcow2Entry e, last;
    Qcow2Kind kind;

    if (qcow2_alloc_conflict(s, first, 1)) {
        return 0;
    }
    e = entry_at(s, p->page, offset);
    kind = qcow2_entry_kind(&s->g, e, (uint32_t)((offset & (s->g.cluster_size - 1)) / s->g.sub_size));
    if (kind == QCOW2_KIND_INVALID || (kind == QCOW2_KIND_DATA && !needs_place(s, e))) {
        return 0; /* the lookup says which */
    }
    p->reuse = !needs_place(s, e);
    if (!p->reuse) {
        uint64_t max = qcow2_cluster_of(s, offset + MIN(bytes, ALLOC_MAX) - 1) - first + 1;

        max = MIN(max, per_page - qcow2_l2_pos(s, offset) / s->g.l2_entry_bytes);
        while (n < max && !find_conflict(s, first + n, 1)) {
            Qcow2Entry next = entry_at(s, p->page, (first + n) << s->g.cluster_bits);

            if (!needs_place(s, next) || qcow2_entry_kind(&s->g, next, 0) == QCOW2_KIND_INVALID) {
                break;
            }
            n++;
        }
    }
    qcow2_alloc_add(s, &p->alloc, first, n);
    if (p->reuse) {
        p->host = qcow2_entry_host(e);
    } else if (s->data_child) {
        p->host = first << s->g.cluster_bits;
    } else {
        int got = qcow2_take_clusters(s, n, &p->alloc);

        if (got < 0) {
            qcow2_alloc_remove(s, &p->alloc);
            return got;
        }
        n = p->alloc.count = (uint64_t)got;
        p->host = p->alloc.host;
    }
    p->end = MIN(offset + bytes, (first + n) << s->g.cluster_bits);
    last_entry = (p->end - 1) & ~(uint64_t)(s->g.cluster_size - 1);
    last = entry_at(s, p->page, last_entry);
    p->start = edge(s, e, offset, false);
    bytes = p->end - offset;
    p->end = edge(s, last, p->end, true);
    p->head_zero = reads_zero(s, e, p->start, offset);
    p->tail_zero = reads_zero(s, last, offset + bytes, p->end);
    p->order = !p->alloc.fresh;
    for (uint64_t i = 0; i < n && !p->order; i++) {
        uint64_t at = (first + i) << s->g.cluster_bits;

        p->order = !reads_zero(s, entry_at(s, p->page, at), at, at + s->g.cluster_size);
    }
    return 1;
}

static int read_old(Qcow2Node *s, uint64_t offset, uint64_t bytes, uint8_t *buf)
{
    uint64_t end = block_node_end(s), part = offset < end ? MIN(bytes, end - offset) : 0;
    BlockVec vec = BLOCK_VEC_BUF(buf, bytes);

    memset(buf + part, 0, bytes - part);
    QCOW2_EVENT(s, COW_READ);
    return part ? qcow2_co_preadv(&s->node, offset, part, &vec, 0, 0) : 0;
}

/* Reads what is around and writes all of it. Kept data goes to *flat where it must be kept. */
static int write_plan(Qcow2Node *s, Plan *p, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                      uint64_t from)
{
    uint64_t head = offset - p->start, tail = p->end - offset - bytes, base = p->start;
    uint64_t host = p->host + (p->start & (s->g.cluster_size - 1));
    bool read_head = head && !p->head_zero, read_tail = tail && !p->tail_zero;
    uint8_t *old = NULL, *tail_at = NULL, *cipher = NULL;
    int count = block_vec_count(vec, from, bytes), ret = 0, n = 0;
    struct iovec *iov;
    BlockVec out;

    if (head && p->head_zero && p->alloc.fresh) {
        base += head;
        host += head;
        head = 0;
    }
    if (tail && p->tail_zero && p->alloc.fresh) {
        tail = 0;
    }
    if (head || tail) {
        bool once = read_head && read_tail && bytes <= READ_ONCE_GAP;
        uint64_t room = head + tail + (once ? bytes : 0);

        old = block_buffer_try(qcow2_data(s), room);
        if (!old) {
            return -ENOMEM;
        }
        tail_at = old + room - tail;
        if (once) {
            ret = read_old(s, base, room, old);
        } else {
            if (read_head) {
                ret = read_old(s, base, head, old);
            } else {
                memset(old, 0, head);
            }
            if (ret >= 0 && read_tail) {
                ret = read_old(s, offset + bytes, tail, tail_at);
            } else if (ret >= 0) {
                memset(tail_at, 0, tail);
            }
        }
    }
    iov = g_new(struct iovec, (gsize)count + 2);
    if (head) {
        iov[n++] = (struct iovec){ old, head };
    }
    n += block_vec_slice(vec, from, bytes, iov + n);
    if (tail) {
        iov[n++] = (struct iovec){ tail_at, tail };
    }
    out = (BlockVec){ iov, n };
    bytes += head + tail;
    if (ret >= 0) {
        const char *hit;

        pthread_mutex_lock(&s->lock);
        hit = qcow2_overlap(s, host, bytes);
        pthread_mutex_unlock(&s->lock);
        if (hit) {
            qcow2_corrupt(s, true, host, "Preventing invalid allocation of data on %s", hit);
            ret = -EIO;
        }
    }
    if (ret >= 0 && s->crypt) {
        cipher = block_buffer_try(qcow2_data(s), bytes);
        if (cipher) {
            block_vec_read(&out, 0, cipher, bytes);
            qcow2_encrypt(s, base, host, cipher, bytes);
            iov[0] = (struct iovec){ cipher, bytes };
            out = (BlockVec){ iov, 1 };
        } else {
            ret = -ENOMEM;
        }
    }
    if (ret >= 0) {
        QCOW2_EVENT(s, WRITE_AIO);
        ret = block_co_pwritev(qcow2_data(s), host, bytes, &out, 0, 0);
    }
    if (ret >= 0) {
        pthread_mutex_lock(&s->lock);
        qcow2_keep_data(s, host, bytes, &out, 0, p->order);
        pthread_mutex_unlock(&s->lock);
    }
    g_free(iov);
    if (old) {
        g_aligned_free(old);
    }
    if (cipher) {
        g_aligned_free(cipher);
    }
    return ret;
}

void qcow2_release_entry(Qcow2Node *s, Qcow2Entry e, bool punch)
{
    if (s->data_child) {
        return;
    }
    if (e.word & QCOW2_COMPRESSED) {
        uint64_t at;
        uint32_t bytes;

        qcow2_compressed_span(&s->g, e.word, &at, &bytes);
        qcow2_free_later(s, qcow2_cluster_of(s, at),
                         qcow2_cluster_of(s, at + bytes - 1) - qcow2_cluster_of(s, at) + 1, punch);
    } else if (qcow2_entry_host(e)) {
        qcow2_free_later(s, qcow2_cluster_of(s, qcow2_entry_host(e)), 1, punch);
    }
}

/* lock held */
static void link_plan(Qcow2Node *s, Plan *p)
{
    for (uint64_t i = 0; i < p->alloc.count; i++) {
        uint64_t guest = (p->alloc.first + i) << s->g.cluster_bits;
        uint64_t from = MAX(p->start, guest), to = MIN(p->end, guest + s->g.cluster_size);
        uint32_t pos = qcow2_l2_pos(s, guest), sub = (uint32_t)((from - guest) / s->g.sub_size);
        Qcow2Entry e = qcow2_entry_load(&s->g, p->page->data + pos);

        if (!p->reuse) {
            qcow2_release_entry(s, e, s->pass_other);
            e.bitmap = (e.word & QCOW2_COMPRESSED) ? 0 : e.bitmap;
            e.word = (p->host + (i << s->g.cluster_bits)) | QCOW2_COPIED;
        }
        qcow2_entry_set_data(&s->g, &e, sub,
                             (uint32_t)((to - guest + s->g.sub_size - 1) / s->g.sub_size) - sub);
        qcow2_entry_store(&s->g, p->page->data + pos, e);
        qcow2_page_dirty(s, p->page, pos, s->g.l2_entry_bytes);
    }
    qcow2_extents_forget(s, p->alloc.first << s->g.cluster_bits, p->alloc.count << s->g.cluster_bits);
    if (p->alloc.ref_page) {
        qcow2_link_clusters(s, &p->alloc);
    }
}

/* One step of a write that needs a new mapping. *done: how much of it was written; may be 0: look again. */
static int write_alloc(Qcow2Node *s, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                       uint64_t *done)
{
    Plan p = { 0 };
    int ret = qcow2_l2_writable(s, offset, &p.page);

    *done = 0;
    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&s->lock);
    ret = make_plan(s, &p, offset, bytes);
    if (ret <= 0) {
        qcow2_page_put(s, p.page);
        pthread_mutex_unlock(&s->lock);
        return ret;
    }
    pthread_mutex_unlock(&s->lock);
    bytes = MIN(bytes, ((p.alloc.first + p.alloc.count) << s->g.cluster_bits) - offset);
    ret = write_plan(s, &p, offset, bytes, vec, from);
    pthread_mutex_lock(&s->lock);
    if (ret >= 0) {
        link_plan(s, &p);
        *done = bytes;
    } else if (p.alloc.ref_page) {
        qcow2_page_put(s, p.alloc.ref_page);
        s->free_hint = MIN(s->free_hint, qcow2_cluster_of(s, p.alloc.host));
    }
    qcow2_alloc_remove(s, &p.alloc);
    qcow2_page_put(s, p.page);
    pthread_mutex_unlock(&s->lock);
    return ret < 0 ? ret : 0;
}

/* To where it is already; encrypted on the way where the image is. */
static int write_in_place(Qcow2Node *s, uint64_t offset, const Qcow2Map *map, const BlockVec *vec,
                          uint64_t from)
{
    uint8_t *cipher = NULL;
    struct iovec iov;
    BlockVec own = { &iov, 1 };
    int ret;

    if (s->crypt) {
        cipher = block_buffer_try(qcow2_data(s), map->bytes);
        if (!cipher) {
            return -ENOMEM;
        }
        block_vec_read(vec, from, cipher, map->bytes);
        qcow2_encrypt(s, offset, map->host, cipher, map->bytes);
        iov = (struct iovec){ cipher, map->bytes };
        vec = &own;
        from = 0;
    }
    ret = block_co_pwritev(qcow2_data(s), map->host, map->bytes, vec, from, 0);
    if (ret >= 0) {
        pthread_mutex_lock(&s->lock);
        written_in_place(s, map->host, map->bytes, vec, from);
        pthread_mutex_unlock(&s->lock);
    }
    if (cipher) {
        g_aligned_free(cipher);
    }
    return ret;
}

int qcow2_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                     unsigned flags)
{
    Qcow2Node *s = (Qcow2Node *)node;

    while (bytes) {
        uint64_t done;
        const char *hit = NULL;
        Qcow2Map map;
        unsigned epoch;
        int ret;

        if (__atomic_load_n(&s->broken, __ATOMIC_RELAXED)) {
            return -EIO;
        }
        if (s->h.crypt_method && !s->crypt) {
            return -EPERM; /* opened without its key */
        }
        ret = qcow2_map(s, offset, bytes, &map, &epoch);
        if (ret < 0) {
            return ret;
        }
        if (map.kind == QCOW2_KIND_DATA && map.copied) {
            if (s->crypt) {
                map.bytes = MIN(map.bytes, CRYPT_PIECE);
            }
            done = map.bytes;
            pthread_mutex_lock(&s->lock);
            hit = qcow2_overlap(s, map.host, map.bytes);
            pthread_mutex_unlock(&s->lock);
            if (hit) {
                qcow2_corrupt(s, true, map.host, "Preventing invalid write on metadata (overlaps with %s)",
                              hit);
                ret = -EIO;
            } else {
                QCOW2_EVENT(s, WRITE_AIO);
                ret = write_in_place(s, offset, &map, vec, from);
            }
            qcow2_io_end(s, epoch);
        } else {
            qcow2_io_end(s, epoch);
            ret = write_alloc(s, offset, bytes, vec, from, &done);
            if (ret >= 0) {
                ret = qcow2_relieve(s);
            }
        }
        if (ret < 0) {
            return ret;
        }
        offset += done;
        from += done;
        bytes -= done;
    }
    return 0;
}
