/*
 * blklogwrites: writes down all changes in the order in which they were completed, with the flushes between
 * them, so that the disk as it would be after a crash at any point can be made again. The log is what the
 * kernel's dm-log-writes target writes (Documentation/admin-guide/device-mapper/log-writes.rst): a header in
 * the first sector, then for each change a sector that describes it and its data.
 *
 * Invariants:
 *  1. A change is logged when it was completed below, one after another under `lock`: what an entry says
 * happened before all that follows, and a flush's entry stands behind all that it covers.
 *  2. The header counts only entries that are whole in the log. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

#define LOG_MAGIC   UINT64_C(0x6a736677736872)
#define LOG_VERSION 1

enum { LOG_FLUSH = 1u << 0, LOG_FUA = 1u << 1, LOG_DISCARD = 1u << 2 };

typedef struct LogNode {
    BlockNode node;
    BlockChild *log;
    uint32_t sector;
    uint64_t interval; /* entries between updates of the header; 0: at flushes only */
    CoMutex lock;      /* of all below */
    uint64_t next;     /* where the next entry goes, in sectors */
    uint64_t entries, entries_told;
} LogNode;

static void put64(uint8_t *p, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        p[i] = (uint8_t)(value >> 8 * i);
    }
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t value = 0;

    for (int i = 7; i >= 0; i--) {
        value = value << 8 | p[i];
    }
    return value;
}

/* Locked. */
static int write_header(LogNode *l)
{
    g_autofree uint8_t *head = g_malloc0(l->sector);
    int ret;

    put64(head, LOG_MAGIC);
    put64(head + 8, LOG_VERSION);
    put64(head + 16, l->entries);
    head[24] = (uint8_t)l->sector;
    head[25] = (uint8_t)(l->sector >> 8);
    head[26] = (uint8_t)(l->sector >> 16);
    ret = block_co_pwrite(l->log, 0, l->sector, head, 0);
    if (!ret) {
        l->entries_told = l->entries;
    }
    return ret;
}

/* An entry with its data: vec, or zeroes, or none. */
static int log_change(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                      bool zeroes, unsigned log_flags)
{
    LogNode *l = (LogNode *)node;
    g_autofree uint8_t *entry = g_malloc0(l->sector);
    uint64_t data = vec || zeroes ? bytes : 0, at;
    int ret;

    put64(entry, offset / l->sector);
    put64(entry + 8, bytes / l->sector);
    put64(entry + 16, log_flags);
    put64(entry + 24, data);
    co_mutex_lock(&l->lock);
    at = l->next * l->sector;
    if (at > BLOCK_MAX_SIZE - 2 * (uint64_t)l->sector - data) {
        ret = -EFBIG;
    } else {
        ret = block_co_pwrite(l->log, at, l->sector, entry, 0);
    }
    if (!ret && vec) {
        ret = block_co_pwritev(l->log, at + l->sector, bytes, vec, from, 0);
    } else if (!ret && zeroes) {
        ret = block_co_pwrite_zeroes(l->log, at + l->sector, bytes, 0);
    }
    if (!ret) {
        l->next += 1 + data / l->sector;
        l->entries++;
        if (log_flags & (LOG_FLUSH | LOG_FUA) ||
            (l->interval && l->entries - l->entries_told >= l->interval)) {
            ret = write_header(l);
        }
        if (!ret && log_flags & (LOG_FLUSH | LOG_FUA)) {
            ret = block_co_flush(l->log);
        }
    }
    co_mutex_unlock(&l->lock);
    return ret;
}

static int log_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          uint64_t from, unsigned flags)
{
    uint8_t *copy = block_buffer_try(node->file, bytes); /* the log gets what the disk got */
    int ret = -ENOMEM;

    if (copy) {
        BlockVec flat = BLOCK_VEC_BUF(copy, bytes);

        block_vec_read(vec, from, copy, bytes);
        ret = block_co_pwritev(node->file, offset, bytes, &flat, 0, flags);
        ret =
            ret ? ret : log_change(node, offset, bytes, &flat, 0, false, flags & BLOCK_REQ_FUA ? LOG_FUA : 0);
    }
    g_aligned_free(copy);
    return ret;
}

static int log_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int ret = block_co_pwrite_zeroes(node->file, offset, bytes, flags);

    return ret ? ret : log_change(node, offset, bytes, NULL, 0, true, flags & BLOCK_REQ_FUA ? LOG_FUA : 0);
}

static int log_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int ret = block_co_pdiscard(node->file, offset, bytes);

    return ret ? ret : log_change(node, offset, bytes, NULL, 0, false, LOG_DISCARD);
}

static int log_co_flush(BlockNode *node)
{
    int ret = block_co_flush(node->file);

    return ret ? ret : log_change(node, 0, 0, NULL, 0, false, LOG_FLUSH);
}

/* ---- opening ---- */

static bool sector_is_valid(uint64_t n)
{
    return n >= 512 && n < 1u << 24 && !(n & (n - 1));
}

/* Finds the end of a log that is to be continued. */
static bool read_log(LogNode *l, GError **error)
{
    uint64_t size = block_size(l->log), count;
    uint8_t head[28], entry[32];
    int ret;

    if (!size) {
        return true;
    }
    ret = size < sizeof(head) ? -EINVAL : blk_pread(l->log, 0, sizeof(head), head, 0);
    if (ret < 0) {
        return error_set_errno(error, -ret, "Could not read log superblock");
    }
    if (get64(head) != LOG_MAGIC) {
        return error_set(error, "Invalid log superblock magic");
    }
    if (get64(head + 8) != LOG_VERSION) {
        return error_set(error, "Unsupported log version %" PRIu64, get64(head + 8));
    }
    count = get64(head + 16);
    l->sector = (uint32_t)(head[24] | head[25] << 8 | head[26] << 16 | (uint32_t)head[27] << 24);
    if (!sector_is_valid(l->sector)) {
        return error_set(error, "Invalid log sector size %u", l->sector);
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = l->next * l->sector, data;

        if (l->next >= size / l->sector) {
            return error_set(error, "The log ends before its entry %" PRIu64 " of %" PRIu64, i + 1, count);
        }
        ret = blk_pread(l->log, at, sizeof(entry), entry, 0);
        if (ret < 0) {
            return error_set_errno(error, -ret, "Failed to read log entry %" PRIu64, i);
        }
        if (get64(entry + 16) & ~UINT64_C(15)) {
            return error_set(error, "Invalid flags 0x%" PRIx64 " in log entry %" PRIu64, get64(entry + 16),
                             i);
        }
        data = get64(entry + 16) & LOG_DISCARD ? 0 : get64(entry + 8);
        if (data > size / l->sector) {
            return error_set(error, "Log entry %" PRIu64 " is longer than the log", i);
        }
        l->next += 1 + data;
    }
    l->entries = l->entries_told = count;
    return true;
}

static bool log_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    LogNode *l = (LogNode *)node;
    const QapiBlockdevOptionsBlklogwrites *o = options->u_blklogwrites;

    co_mutex_init(&l->lock);
    l->sector = o->has_log_sector_size ? o->log_sector_size : 512;
    l->interval = o->has_log_super_update_interval ? o->log_super_update_interval : 4096;
    l->next = 1;
    if (!sector_is_valid(l->sector)) {
        return error_set(error, "Invalid log sector size %u", l->sector);
    }
    if (o->has_log_append && o->log_append && o->has_log_sector_size) {
        return error_set(error, "log-append and log-sector-size are mutually exclusive");
    }
    if (!block_filter_open(node, "file", options, o->file, error) ||
        !block_child_open(node, "log", BLOCK_ROLE_DATA, &l->log, options, o->log, error)) {
        return false;
    }
    if (node->size % l->sector) {
        return error_set(error, "%s: the disk's size is no multiple of the log's sectors of %u bytes",
                         node->what, l->sector);
    }
    return !(o->has_log_append && o->log_append) || read_log(l, error);
}

static void log_header_entry(void *opaque)
{
    LogNode *l = opaque;

    co_mutex_lock(&l->lock);
    if (l->entries != l->entries_told) {
        write_header(l);
    }
    co_mutex_unlock(&l->lock);
}

static void log_close(BlockNode *node)
{
    LogNode *l = (LogNode *)node;

    if (l->log && l->log->perm & BLOCK_PERM_WRITE) {
        block_run(node->graph, log_header_entry, l);
    }
}

static void log_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                           unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    if (role & BLOCK_ROLE_FILTERED) {
        *child_perm = perm;
        *child_shared = shared;
    } else {
        *child_perm =
            BLOCK_PERM_CONSISTENT_READ | (node->read_only ? 0 : BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE);
        *child_shared = BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE_UNCHANGED;
    }
}

static void log_refresh_limits(BlockNode *node)
{
    LogNode *l = (LogNode *)node;

    node->limits.request_alignment = MAX(node->limits.request_alignment, l->sector);
    node->limits.discard_granularity = MAX(node->limits.discard_granularity, l->sector);
    node->limits.max_transfer =
        node->limits.max_transfer ? MIN(node->limits.max_transfer, 16u << 20) : 16u << 20;
}

static const BlockDriver log_driver = {
    .name = "blklogwrites",
    .instance_size = sizeof(LogNode),
    .is_filter = true,
    .open = log_open,
    .close = log_close,
    .child_perm = log_child_perm,
    .refresh_limits = log_refresh_limits,
    .co_pwritev = log_co_pwritev,
    .co_pwrite_zeroes = log_co_pwrite_zeroes,
    .co_pdiscard = log_co_pdiscard,
    .co_flush = log_co_flush,
};
BLOCK_DRIVER(log_driver);
