/*
 * quorum: several nodes that hold the same. Writes go to all; a read counts when enough of them say the same
 * (vote-threshold), or, with read-pattern=fifo, is the first child's that answers. Children come and go while
 * it runs (x-blockdev-change), which is how a disk is replicated to another machine.
 *
 * Data is compared in buffers of ours, never in the guest's memory, which may change meanwhile. Discards are
 * kept from the children: what is read after one may differ. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include "base/error.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_CHILDREN 64
#define MAX_TRANSFER (4u << 20) /* each read needs a buffer of its size for each child */

typedef struct QuorumNode {
    BlockNode node;
    unsigned threshold, next_index;
    bool blkverify, rewrite, fifo;
} QuorumNode;

/* A request on its way to all children. */
typedef struct QuorumOp {
    BlockNode *node;
    uint64_t offset, bytes;
    const BlockVec *vec;
    uint64_t from;
    unsigned flags;
    int ret[MAX_CHILDREN];
    uint8_t *buf[MAX_CHILDREN];
    size_t winner; /* whose buffer the others get */
    bool loser[MAX_CHILDREN];
} QuorumOp;

static BlockChild *child_at(BlockNode *node, size_t index)
{
    return g_ptr_array_index(node->children, index);
}

/* ---- telling ---- */

static void report_bad(BlockNode *node, size_t index, const char *type, uint64_t offset, uint64_t bytes,
                       int ret)
{
    json_object *data = json_object_new_object();
    uint64_t first = offset / 512, end = (offset + bytes + 511) / 512;

    json_object_object_add(data, "type", json_object_new_string(type));
    if (ret < 0) {
        json_object_object_add(data, "error", json_object_new_string(g_strerror(-ret)));
    }
    json_object_object_add(data, "node-name", json_object_new_string(child_at(node, index)->node->name));
    json_object_object_add(data, "sector-num", json_object_new_uint64(first));
    json_object_object_add(data, "sectors-count", json_object_new_uint64(end - first));
    block_graph_emit(node->graph, "QUORUM_REPORT_BAD", data);
}

static void report_failure(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    json_object *data = json_object_new_object();
    uint64_t first = offset / 512, end = (offset + bytes + 511) / 512;

    json_object_object_add(data, "reference", json_object_new_string(node->name));
    json_object_object_add(data, "sector-num", json_object_new_uint64(first));
    json_object_object_add(data, "sectors-count", json_object_new_uint64(end - first));
    block_graph_emit(node->graph, "QUORUM_FAILURE", data);
}

/* What most of those that failed say. */
static int common_error(const QuorumOp *op, size_t count)
{
    size_t best = 0;
    int error = -EIO;

    for (size_t i = 0; i < count; i++) {
        size_t same = 0;

        for (size_t k = 0; k < count; k++) {
            same += op->ret[k] == op->ret[i];
        }
        if (op->ret[i] < 0 && same > best) {
            best = same;
            error = op->ret[i];
        }
    }
    return error;
}

/* 0 where enough did it; tells of those that did not. */
static int count_votes(QuorumOp *op, const char *type)
{
    QuorumNode *q = (QuorumNode *)op->node;
    size_t count = op->node->children->len, good = 0;

    for (size_t i = 0; i < count; i++) {
        if (op->ret[i] < 0) {
            report_bad(op->node, i, type, op->offset, op->bytes, op->ret[i]);
        } else {
            good++;
        }
    }
    if (good >= q->threshold) {
        return 0;
    }
    report_failure(op->node, op->offset, op->bytes);
    return common_error(op, count);
}

/* ---- reading ---- */

static void read_one(void *opaque, size_t i)
{
    QuorumOp *op = opaque;

    op->ret[i] = block_co_pread(child_at(op->node, i), op->offset, op->bytes, op->buf[i], 0);
}

static void rewrite_one(void *opaque, size_t i)
{
    QuorumOp *op = opaque;

    if (op->loser[i]) {
        block_co_pwrite(child_at(op->node, i), op->offset, op->bytes, op->buf[op->winner], 0);
    }
}

static void blkverify_stop(const QuorumOp *op)
{
    uint64_t at = 0;

    while (at < op->bytes && op->buf[0][at] == op->buf[1][at]) {
        at++;
    }
    log_error("quorum: offset=%" PRIu64 " bytes=%" PRIu64 " contents mismatch at offset %" PRIu64, op->offset,
              op->bytes, op->offset + at);
    fflush(NULL);
    _exit(EXIT_FAILURE); /* what was asked for: nothing after the first difference counts */
}

/* Finds what most children hold; false: too few agree. */
static bool vote(QuorumOp *op)
{
    QuorumNode *q = (QuorumNode *)op->node;
    size_t count = op->node->children->len, best = 0;

    for (size_t i = 0; i < count; i++) {
        size_t votes = 0;

        for (size_t k = 0; op->ret[i] == 0 && k < count; k++) {
            votes += op->ret[k] == 0 && (k == i || memcmp(op->buf[i], op->buf[k], op->bytes) == 0);
        }
        if (votes > best) {
            best = votes;
            op->winner = i;
        }
    }
    if (best < q->threshold) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        op->loser[i] = op->ret[i] == 0 && memcmp(op->buf[i], op->buf[op->winner], op->bytes) != 0;
    }
    return true;
}

static int read_quorum(QuorumOp *op)
{
    QuorumNode *q = (QuorumNode *)op->node;
    size_t count = op->node->children->len;
    bool any_loser = false;
    int ret = 0;

    for (size_t i = 0; i < count && !ret; i++) {
        op->buf[i] = block_buffer_try(child_at(op->node, i), op->bytes);
        ret = op->buf[i] ? 0 : -ENOMEM;
    }
    if (!ret) {
        co_parallel(count, read_one, op);
        if (q->blkverify && (op->ret[0] < 0) != (op->ret[1] < 0)) {
            log_error("quorum: offset=%" PRIu64 " bytes=%" PRIu64 " return value mismatch %d != %d",
                      op->offset, op->bytes, op->ret[0], op->ret[1]);
            fflush(NULL);
            _exit(EXIT_FAILURE);
        }
        ret = count_votes(op, "read");
    }
    if (!ret && !vote(op)) {
        if (q->blkverify) {
            blkverify_stop(op);
        }
        report_failure(op->node, op->offset, op->bytes);
        ret = -EIO;
    }
    for (size_t i = 0; i < count && !ret; i++) {
        if (op->loser[i]) {
            report_bad(op->node, i, "read", op->offset, op->bytes, 0);
            any_loser = true;
        }
    }
    if (!ret) {
        if (any_loser && q->rewrite) {
            co_parallel(count, rewrite_one, op);
        }
        block_vec_write(op->vec, op->from, op->buf[op->winner], op->bytes);
    }
    for (size_t i = 0; i < count; i++) {
        g_aligned_free(op->buf[i]);
    }
    return ret;
}

static int quorum_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                            uint64_t from, unsigned flags)
{
    QuorumNode *q = (QuorumNode *)node;
    int ret = -EIO;

    if (!q->fifo) {
        g_autofree QuorumOp *op = g_new0(QuorumOp, 1);

        *op = (QuorumOp){ .node = node, .offset = offset, .bytes = bytes, .vec = vec, .from = from };
        return read_quorum(op);
    }
    for (size_t i = 0; i < node->children->len; i++) {
        ret = block_co_preadv(child_at(node, i), offset, bytes, vec, from, flags);
        if (ret == 0) {
            break;
        }
        report_bad(node, i, "read", offset, bytes, ret);
    }
    return ret;
}

/* ---- writing ---- */

static void write_one(void *opaque, size_t i)
{
    QuorumOp *op = opaque;

    op->ret[i] =
        op->vec ? block_co_pwritev(child_at(op->node, i), op->offset, op->bytes, op->vec, op->from, op->flags)
                : block_co_pwrite_zeroes(child_at(op->node, i), op->offset, op->bytes, op->flags);
}

static void flush_one(void *opaque, size_t i)
{
    QuorumOp *op = opaque;

    op->ret[i] = block_co_flush(child_at(op->node, i));
}

/* The guest's memory may change while children take it: all must get the same. */
static int quorum_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                             uint64_t from, unsigned flags)
{
    g_autofree QuorumOp *op = g_new0(QuorumOp, 1);
    bool several = node->children->len > 1;
    uint8_t *copy = several ? block_buffer_try(child_at(node, 0), bytes) : NULL;
    struct iovec iov = { copy, bytes };
    BlockVec flat = { &iov, 1 };
    int ret;

    if (several && !copy) {
        return -ENOMEM;
    }
    if (copy) {
        block_vec_read(vec, from, copy, bytes);
    }
    *op = (QuorumOp){ .node = node,
                      .offset = offset,
                      .bytes = bytes,
                      .vec = copy ? &flat : vec,
                      .from = copy ? 0 : from,
                      .flags = flags };
    co_parallel(node->children->len, write_one, op);
    ret = count_votes(op, "write");
    g_aligned_free(copy);
    return ret;
}

static int quorum_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    g_autofree QuorumOp *op = g_new0(QuorumOp, 1);

    *op = (QuorumOp){ .node = node, .offset = offset, .bytes = bytes, .flags = flags };
    co_parallel(node->children->len, write_one, op);
    for (size_t i = 0; i < node->children->len && (flags & BLOCK_REQ_NO_FALLBACK); i++) {
        if (op->ret[i] == -ENOTSUP) {
            return -ENOTSUP; /* whoever asks writes it all */
        }
    }
    return count_votes(op, "write");
}

static int quorum_co_flush(BlockNode *node)
{
    g_autofree QuorumOp *op = g_new0(QuorumOp, 1);

    *op = (QuorumOp){ .node = node };
    co_parallel(node->children->len, flush_one, op);
    return count_votes(op, "flush");
}

/* Zero where all children say so; else there is data. */
static int quorum_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                                  BlockStatus *st)
{
    uint64_t zero = bytes, data = 0;

    for (size_t i = 0; i < node->children->len; i++) {
        BlockStatus one;
        int ret = block_co_status_above(child_at(node, i)->node, NULL, offset, bytes, &one);

        if (ret < 0) {
            report_bad(node, i, "read", offset, bytes, ret);
            data = bytes; /* nobody knows: read it */
            break;
        }
        if (one.flags & BLOCK_STATUS_ZERO) {
            zero = MIN(zero, one.bytes);
        } else {
            data = MAX(data, MIN(one.bytes, bytes));
        }
    }
    *st = data ? (BlockStatus){ .flags = BLOCK_STATUS_DATA, .bytes = data }
               : (BlockStatus){ .flags = BLOCK_STATUS_ZERO, .bytes = zero };
    return 0;
}

/* ---- control plane ---- */

static bool check_threshold(const QuorumNode *q, int64_t threshold, size_t children, GError **error)
{
    if (threshold < 1) {
        return error_set(error, "Parameter 'vote-threshold' expects a value >= 1");
    }
    if ((uint64_t)threshold > children) {
        return error_set(error, "threshold may not exceed children count");
    }
    return true;
}

static void set_filename(BlockNode *node)
{
    QuorumNode *q = (QuorumNode *)node;
    json_object *o = json_object_new_object(), *children = json_object_new_array();

    json_object_object_add(o, "driver", json_object_new_string("quorum"));
    if (q->blkverify) {
        json_object_object_add(o, "blkverify", json_object_new_boolean(true));
    }
    if (q->rewrite) {
        json_object_object_add(o, "rewrite-corrupted", json_object_new_boolean(true));
    }
    if (q->fifo) {
        json_object_object_add(o, "read-pattern", json_object_new_string("fifo"));
    }
    json_object_object_add(o, "vote-threshold", json_object_new_int((int)q->threshold));
    for (size_t i = 0; i < node->children->len; i++) {
        json_object_array_add(children, block_node_json(child_at(node, i)->node));
    }
    json_object_object_add(o, "children", children);
    g_free(node->filename);
    node->filename =
        g_strconcat("json:", json_object_to_json_string_ext(o, JSON_C_TO_STRING_NOSLASHESCAPE), NULL);
    json_object_put(o);
}

static bool quorum_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    QuorumNode *q = (QuorumNode *)node;
    const QapiBlockdevOptionsQuorum *o = options->u_quorum;
    size_t count = o->children->len;

    q->blkverify = o->has_blkverify && o->blkverify;
    q->rewrite = o->has_rewrite_corrupted && o->rewrite_corrupted;
    q->fifo = o->has_read_pattern && o->read_pattern == QAPI_QUORUM_READ_PATTERN_FIFO;
    if (!count) {
        return error_set(error, "Number of provided children must be 1 or more");
    }
    if (count > MAX_CHILDREN) {
        return error_set(error, "%s: a quorum has at most %d children", node->what, MAX_CHILDREN);
    }
    if (!check_threshold(q, o->vote_threshold, count, error)) {
        return false;
    }
    q->threshold = (unsigned)o->vote_threshold;
    if (q->blkverify && (count != 2 || q->threshold != 2)) {
        return error_set(
            error, "blkverify=on can only be set if there are exactly two files and vote-threshold is 2");
    }
    if (q->rewrite && q->blkverify) {
        return error_set(error, "rewrite-corrupted=on cannot be used with blkverify=on");
    }
    for (size_t i = 0; i < count; i++) {
        g_autofree char *name = g_strdup_printf("children.%u", q->next_index++);
        BlockChild *child = block_child_open(node, name, BLOCK_ROLE_DATA, NULL, options,
                                             g_ptr_array_index(o->children, i), error);

        if (!child) {
            return false;
        }
        if (i == 0) {
            node->size = block_size(child);
        } else if (block_size(child) != node->size) {
            return error_set(error,
                             "%s: child '%s' has %" PRIu64 " bytes, but 'children.0' %" PRIu64
                             ": all must be of one size",
                             node->what, name, block_size(child), node->size);
        }
    }
    node->write_flags = BLOCK_REQ_FUA | BLOCK_REQ_WRITE_UNCHANGED;
    node->zero_flags =
        BLOCK_REQ_FUA | BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK | BLOCK_REQ_WRITE_UNCHANGED;
    set_filename(node);
    return true;
}

static bool quorum_add_child(BlockNode *node, BlockNode *below, GError **error)
{
    QuorumNode *q = (QuorumNode *)node;
    g_autofree char *name = g_strdup_printf("children.%u", q->next_index);

    if (q->blkverify) {
        return error_set(error, "Cannot add a child to a quorum in blkverify mode");
    }
    if (node->children->len >= MAX_CHILDREN || q->next_index == UINT32_MAX) {
        return error_set(error, "Too many children");
    }
    if (below->size != node->size) {
        return error_set(error,
                         "Node '%s' has %" PRIu64 " bytes, but quorum node '%s' %" PRIu64
                         ": all children must be of one size",
                         below->name, below->size, node->name, node->size);
    }
    if (below->read_only && !node->read_only) {
        return error_set(error, "Block node '%s' is read-only", below->name);
    }
    if (!block_child_attach(node, below, name, BLOCK_ROLE_DATA, NULL, error)) {
        return false;
    }
    q->next_index++;
    set_filename(node);
    return true;
}

static bool quorum_del_child(BlockNode *node, BlockChild *child, GError **error)
{
    QuorumNode *q = (QuorumNode *)node;

    if (node->children->len <= q->threshold) {
        return error_set(error, "The number of children cannot be lower than the vote threshold %u",
                         q->threshold);
    }
    block_child_detach(child);
    set_filename(node);
    return true;
}

static void quorum_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                              unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    QuorumNode *q = (QuorumNode *)node;

    *child_perm = perm | (q->rewrite && !node->read_only ? BLOCK_PERM_WRITE : 0);
    /* Nobody else may make the children differ. */
    *child_shared = (shared & BLOCK_PERM_CONSISTENT_READ) | BLOCK_PERM_WRITE_UNCHANGED;
}

static void quorum_refresh_limits(BlockNode *node)
{
    BlockLimits *l = &node->limits;

    l->max_transfer = l->max_transfer ? MIN(l->max_transfer, MAX_TRANSFER) : MAX_TRANSFER;
    for (size_t i = 0; i < node->children->len; i++) {
        const BlockLimits *c = &child_at(node, i)->node->limits;

        l->request_alignment = MAX(l->request_alignment, c->request_alignment);
        l->logical_block_size = MAX(l->logical_block_size, c->logical_block_size);
        l->physical_block_size = MAX(l->physical_block_size, c->physical_block_size);
        l->write_zeroes_alignment = MAX(l->write_zeroes_alignment, c->write_zeroes_alignment);
        l->can_write_zeroes = (i == 0 || l->can_write_zeroes) && c->can_write_zeroes;
    }
}

static const BlockDriver quorum_driver = {
    .name = "quorum",
    .instance_size = sizeof(QuorumNode),
    .any_alignment = true,
    .open = quorum_open,
    .add_child = quorum_add_child,
    .del_child = quorum_del_child,
    .child_perm = quorum_child_perm,
    .refresh_limits = quorum_refresh_limits,
    .co_preadv = quorum_co_preadv,
    .co_pwritev = quorum_co_pwritev,
    .co_pwrite_zeroes = quorum_co_pwrite_zeroes,
    .co_flush = quorum_co_flush,
    .co_block_status = quorum_co_block_status,
};
BLOCK_DRIVER(quorum_driver);
