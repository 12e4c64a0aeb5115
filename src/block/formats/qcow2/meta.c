/*
 * Pages of metadata in memory: parts of at most 4 KiB of L1, L2, refcount table and refcount blocks.
 *
 * 1. A page is found by its place in the file alone; a place is never in two pages.
 * 2. A page that is pinned, dirty or behind its home (home_dirty) is not evicted; the last two count as pins.
 * 3. What a page holds changes only with the lock held and qcow2_page_dirty() called before it is let go, so
 * a commit that copies pages under the lock gets a state between two changes.
 * 4. While a page is loading it is in the table already: whoever wants it waits for the one read.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include <errno.h>
#include <string.h>

static uint32_t bucket_of(const Qcow2Node *s, uint64_t offset)
{
    return (uint32_t)((offset / s->page_bytes * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - s->hash_bits));
}

void qcow2_meta_init(Qcow2Node *s, uint64_t cache_bytes)
{
    s->page_bytes = MIN(QCOW2_PAGE_MAX, s->g.cluster_size);
    s->max_pages = (uint32_t)CLAMP(cache_bytes / s->page_bytes, 64, 1u << 22);
    s->hash_bits = 7;
    while ((1u << s->hash_bits) < s->max_pages && s->hash_bits < 22) {
        s->hash_bits++;
    }
    s->hash = g_new0(Qcow2Page *, (size_t)1 << s->hash_bits);
    s->clock = g_ptr_array_new();
    s->dirty_pages = g_ptr_array_new();
    s->home_pages = g_ptr_array_new();
}

static void free_page(Qcow2Node *s, Qcow2Page *page)
{
    Qcow2Page **at = &s->hash[bucket_of(s, page->offset)];
    Qcow2Page *last;

    while (*at != page) {
        at = &(*at)->hash_next;
    }
    *at = page->hash_next;
    last = g_ptr_array_index(s->clock, s->clock->len - 1);
    g_ptr_array_index(s->clock, page->slot) = last;
    last->slot = page->slot;
    g_ptr_array_set_size(s->clock, (gint)s->clock->len - 1);
    g_free(page->data);
    g_free(page);
}

void qcow2_meta_drop(Qcow2Node *s)
{
    for (guint i = s->clock->len; i-- > 0;) {
        Qcow2Page *page = g_ptr_array_index(s->clock, i);

        if (!page->pins) {
            free_page(s, page);
        }
    }
    s->hand = 0;
}

void qcow2_meta_free(Qcow2Node *s)
{
    if (!s->clock) {
        return;
    }
    for (guint i = 0; i < s->clock->len; i++) {
        Qcow2Page *page = g_ptr_array_index(s->clock, i);

        g_free(page->data);
        g_free(page);
    }
    g_ptr_array_free(s->clock, TRUE);
    g_ptr_array_free(s->dirty_pages, TRUE);
    g_ptr_array_free(s->home_pages, TRUE);
    g_free(s->hash);
    s->clock = NULL;
}

/* The clock's hand goes round for a page that nobody used since it came by. Where all are in use the cache
 * grows beyond its limit for a while. */
static void make_room(Qcow2Node *s)
{
    for (int tries = 0; s->clock->len >= s->max_pages && tries < 64; tries++) {
        Qcow2Page *page;

        s->hand = s->hand + 1 < s->clock->len ? s->hand + 1 : 0;
        page = g_ptr_array_index(s->clock, s->hand);
        if (page->pins) {
            continue;
        }
        if (page->used) {
            page->used = false;
        } else {
            free_page(s, page);
        }
    }
}

static Qcow2Page *lookup(Qcow2Node *s, uint64_t offset)
{
    Qcow2Page *page = s->hash[bucket_of(s, offset)];

    while (page && page->offset != offset) {
        page = page->hash_next;
    }
    return page;
}

static Qcow2Page *add_page(Qcow2Node *s, uint64_t offset, Qcow2PageKind kind)
{
    Qcow2Page *page = g_new0(Qcow2Page, 1), **bucket;

    make_room(s);
    bucket = &s->hash[bucket_of(s, offset)];
    page->offset = offset;
    page->kind = kind;
    page->pins = 1;
    page->used = true;
    page->data = g_malloc0(s->page_bytes);
    co_queue_init(&page->waiting);
    page->hash_next = *bucket;
    *bucket = page;
    page->slot = s->clock->len;
    g_ptr_array_add(s->clock, page);
    return page;
}

Qcow2Page *qcow2_page_find(Qcow2Node *s, uint64_t offset)
{
    Qcow2Page *page = lookup(s, offset);

    if (!page || page->loading) {
        return NULL;
    }
    page->pins++;
    page->used = true;
    return page;
}

int qcow2_read_padded(Qcow2Node *s, uint64_t offset, void *buf, uint64_t bytes)
{
    uint64_t size = block_size(s->node.file), part = offset < size ? MIN(bytes, size - offset) : 0;
    int ret = part ? blk_pread(s->node.file, offset, part, buf, 0) : 0;

    if (ret >= 0 && part < bytes) {
        memset((uint8_t *)buf + part, 0, bytes - part);
    }
    return ret < 0 ? ret : 0;
}

/* Reads a part of a table; a fault injector learns of which kind. */
static int load(Qcow2Node *s, Qcow2PageKind kind, uint64_t offset, void *buf, uint64_t bytes)
{
    if (kind == QCOW2_PAGE_L2) {
        QCOW2_EVENT(s, L2_LOAD);
    } else if (kind == QCOW2_PAGE_REFCOUNT) {
        QCOW2_EVENT(s, REFBLOCK_LOAD);
    }
    return qcow2_read_padded(s, offset, buf, bytes);
}

int qcow2_page_get(Qcow2Node *s, uint64_t offset, Qcow2PageKind kind, Qcow2Page **result)
{
    Qcow2Page *page;
    int ret;

    *result = NULL;
    pthread_mutex_lock(&s->lock);
    while ((page = lookup(s, offset)) && page->loading) {
        co_queue_wait_unlock(&page->waiting, &s->lock);
        pthread_mutex_lock(&s->lock);
    }
    if (page) {
        page->pins++;
        page->used = true;
        pthread_mutex_unlock(&s->lock);
        *result = page;
        return 0;
    }
    page = add_page(s, offset, kind);
    page->loading = true;
    pthread_mutex_unlock(&s->lock);
    ret = load(s, kind, offset, page->data, s->page_bytes);
    pthread_mutex_lock(&s->lock);
    page->loading = false;
    co_queue_wake_all(&page->waiting);
    if (ret < 0) {
        /* Those who waited look it up again. */
        page->pins--;
        free_page(s, page);
    } else {
        *result = page;
    }
    pthread_mutex_unlock(&s->lock);
    return ret;
}

int qcow2_pages_get(Qcow2Node *s, uint64_t first, uint32_t count, uint32_t wanted, Qcow2PageKind kind,
                    Qcow2Page **pages)
{
    uint64_t at = first + (uint64_t)wanted * s->page_bytes;
    Qcow2Page *page;
    uint8_t *buf;
    int ret;

    memset(pages, 0, count * sizeof(*pages));
    pthread_mutex_lock(&s->lock);
    while ((page = lookup(s, at)) && page->loading) {
        co_queue_wait_unlock(&page->waiting, &s->lock);
        pthread_mutex_lock(&s->lock);
    }
    if (page) {
        page->pins++;
        page->used = true;
        pages[wanted] = page;
        pthread_mutex_unlock(&s->lock);
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!lookup(s, first + (uint64_t)i * s->page_bytes)) {
            pages[i] = add_page(s, first + (uint64_t)i * s->page_bytes, kind);
            pages[i]->loading = true;
            pages[i]->used = i == wanted; /* the others go first */
        }
    }
    pthread_mutex_unlock(&s->lock);
    buf = g_try_malloc((size_t)count * s->page_bytes);
    ret = buf ? load(s, kind, first, buf, (uint64_t)count * s->page_bytes) : -ENOMEM;
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < count; i++) {
        if (!pages[i]) {
            continue;
        }
        pages[i]->loading = false;
        co_queue_wake_all(&pages[i]->waiting);
        if (ret < 0) {
            pages[i]->pins--;
            free_page(s, pages[i]);
        } else {
            memcpy(pages[i]->data, buf + (size_t)i * s->page_bytes, s->page_bytes);
        }
    }
    pthread_mutex_unlock(&s->lock);
    g_free(buf);
    return ret;
}

void qcow2_pages_forget(Qcow2Node *s, uint64_t offset, uint64_t bytes, const uint8_t *contents)
{
    pthread_mutex_lock(&s->lock);
    for (uint64_t at = 0; at < bytes; at += s->page_bytes) {
        Qcow2Page *page = lookup(s, offset + at);

        if (!page) {
            continue;
        }
        if (!page->pins) {
            free_page(s, page);
        } else if (contents) { /* somebody looks at it who will see that it is no longer his */
            memcpy(page->data, contents + at, s->page_bytes);
        } else {
            memset(page->data, 0, s->page_bytes);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

void qcow2_page_put(Qcow2Node *s, Qcow2Page *page)
{
    if (page) {
        page->pins--;
    }
}

void qcow2_page_unpin(Qcow2Node *s, Qcow2Page *page)
{
    if (page) {
        pthread_mutex_lock(&s->lock);
        page->pins--;
        pthread_mutex_unlock(&s->lock);
    }
}

void qcow2_page_dirty(Qcow2Node *s, Qcow2Page *page, uint32_t from, uint32_t bytes)
{
    page->learned = false;
    s->table_changes += page->kind == QCOW2_PAGE_L2 || page->kind == QCOW2_PAGE_L1;
    if (!page->dirty[0] && !page->dirty[1]) {
        page->pins++;
        g_ptr_array_add(s->dirty_pages, page);
    }
    for (uint32_t i = from / QCOW2_GRANULE; i <= (from + bytes - 1) / QCOW2_GRANULE; i++) {
        uint64_t bit = UINT64_C(1) << (i & 63);

        if (!(page->dirty[i >> 6] & bit)) {
            page->dirty[i >> 6] |= bit;
            s->dirty_bytes += QCOW2_GRANULE;
        }
    }
}
