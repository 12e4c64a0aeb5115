/*
 * blkverify: does everything twice, on `raw`, which is right, and on `test`, whose format is being tried, and
 * ends the program at the first difference. For tests only: that is its whole point.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct VerifyNode {
    BlockNode node;
    BlockChild *test; /* node.file is raw */
} VerifyNode;

typedef struct VerifyOp {
    VerifyNode *v;
    const char *what;
    uint64_t offset, bytes;
    const BlockVec *vec[2];
    uint64_t from;
    unsigned flags;
    int ret[2];
} VerifyOp;

static BlockChild *side(VerifyOp *op, size_t i)
{
    return i ? op->v->test : op->v->node.file;
}

static void stop(const VerifyOp *op, const char *fmt, ...) G_GNUC_PRINTF(2, 3) G_GNUC_NORETURN;
static void stop(const VerifyOp *op, const char *fmt, ...)
{
    va_list ap;

    fflush(stdout); /* what was read before belongs before it */
    fprintf(stderr, "blkverify: %s offset=%" PRIu64 " bytes=%" PRIu64 " ", op->what, op->offset, op->bytes);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    _exit(EXIT_FAILURE);
}

static int both(VerifyOp *op, void (*fn)(void *opaque, size_t index))
{
    co_parallel(2, fn, op);
    if (op->ret[0] != op->ret[1]) {
        stop(op, "return value mismatch %d != %d", op->ret[0], op->ret[1]);
    }
    return op->ret[0];
}

static void read_side(void *opaque, size_t i)
{
    VerifyOp *op = opaque;

    op->ret[i] = block_co_preadv(side(op, i), op->offset, op->bytes, op->vec[i], i ? 0 : op->from, 0);
}

static void write_side(void *opaque, size_t i)
{
    VerifyOp *op = opaque;

    op->ret[i] = block_co_pwritev(side(op, i), op->offset, op->bytes, op->vec[i], 0, op->flags);
}

static void zero_side(void *opaque, size_t i)
{
    VerifyOp *op = opaque;

    op->ret[i] = block_co_pwrite_zeroes(side(op, i), op->offset, op->bytes, op->flags);
}

static void flush_side(void *opaque, size_t i)
{
    VerifyOp *op = opaque;

    op->ret[i] = block_co_flush(side(op, i));
}

static int verify_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                            uint64_t from, unsigned flags)
{
    VerifyNode *v = (VerifyNode *)node;
    uint8_t *raw = block_buffer_try(node->file, bytes), *test = block_buffer_try(v->test, bytes);
    VerifyOp op = { .v = v, .what = "read", .offset = offset, .bytes = bytes };
    int ret = -ENOMEM;

    if (raw && test) {
        op.vec[0] = &BLOCK_VEC_BUF(raw, bytes);
        op.vec[1] = &BLOCK_VEC_BUF(test, bytes);
        ret = both(&op, read_side);
        for (uint64_t i = 0; !ret && i < bytes; i++) {
            if (raw[i] != test[i]) {
                stop(&op, "contents mismatch at offset %" PRIu64, offset + i);
            }
        }
        if (!ret) {
            block_vec_write(vec, from, raw, bytes);
        }
    }
    g_aligned_free(raw);
    g_aligned_free(test);
    return ret;
}

static int verify_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                             uint64_t from, unsigned flags)
{
    uint8_t *copy = block_buffer_try(node->file, bytes); /* memory of a guest may change between the two */
    VerifyOp op = {
        .v = (VerifyNode *)node, .what = "write", .offset = offset, .bytes = bytes, .flags = flags
    };
    int ret = -ENOMEM;

    if (copy) {
        block_vec_read(vec, from, copy, bytes);
        op.vec[0] = op.vec[1] = &BLOCK_VEC_BUF(copy, bytes);
        ret = both(&op, write_side);
    }
    g_aligned_free(copy);
    return ret;
}

static int verify_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    VerifyOp op = { .v = (VerifyNode *)node,
                    .what = "write zeroes",
                    .offset = offset,
                    .bytes = bytes,
                    .flags = flags & ~(unsigned)BLOCK_REQ_NO_FALLBACK }; /* one side may not know it */

    return both(&op, zero_side);
}

static int verify_co_flush(BlockNode *node)
{
    VerifyOp op = { .v = (VerifyNode *)node, .what = "flush" };

    return both(&op, flush_side);
}

/* A discard may do anything: after it the two need not be the same. */
static int verify_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return -ENOTSUP;
}

/* The reads are to be seen: nothing may be taken for granted from either's metadata. */
static int verify_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                                  BlockStatus *st)
{
    *st = (BlockStatus){ .flags = BLOCK_STATUS_DATA, .bytes = bytes };
    return 0;
}

static bool verify_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    VerifyNode *v = (VerifyNode *)node;
    const QapiBlockdevOptionsBlkverify *o = options->u_blkverify;

    if (!block_filter_open(node, "raw", options, o->raw, error) ||
        !block_child_open(node, "test", BLOCK_ROLE_DATA, &v->test, options, o->test, error)) {
        return false;
    }
    if (block_size(node->file) < block_size(v->test)) {
        return error_set(error,
                         "%s: the raw file has %" PRIu64 " bytes, the tested image %" PRIu64
                         ": it must be as large at least",
                         node->what, block_size(node->file), block_size(v->test));
    }
    node->size = block_size(v->test);
    return true;
}

static void verify_child_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                              unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    *child_perm = perm;
    *child_shared = shared & (BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE_UNCHANGED);
}

static void verify_refresh_limits(BlockNode *node)
{
    VerifyNode *v = (VerifyNode *)node;
    BlockLimits *l = &node->limits;

    l->request_alignment = MAX(l->request_alignment, v->test->node->limits.request_alignment);
    l->max_transfer = l->max_transfer ? MIN(l->max_transfer, 16u << 20) : 16u << 20;
}

/* "blkverify:raw:test" */
static bool verify_parse_filename(const char *filename, json_object *options, GError **error)
{
    const char *raw = filename + strlen("blkverify:"), *colon;

    if (!g_str_has_prefix(filename, "blkverify:")) {
        json_object_object_add(options, "test.filename", json_object_new_string(filename));
        return true;
    }
    colon = strchr(raw, ':');
    if (!colon || colon == raw || !colon[1]) {
        return error_set(error, "blkverify requires raw copy and original image path");
    }
    json_object_object_add(options, "raw.filename", json_object_new_string_len(raw, (int)(colon - raw)));
    json_object_object_add(options, "test.filename", json_object_new_string(colon + 1));
    return true;
}

static const char *const verify_prefixes[] = { "blkverify", NULL };

static const BlockDriver verify_driver = {
    .name = "blkverify",
    .prefixes = verify_prefixes,
    .instance_size = sizeof(VerifyNode),
    .is_filter = true,
    .parse_filename = verify_parse_filename,
    .open = verify_open,
    .child_perm = verify_child_perm,
    .refresh_limits = verify_refresh_limits,
    .co_preadv = verify_co_preadv,
    .co_pwritev = verify_co_pwritev,
    .co_pwrite_zeroes = verify_co_pwrite_zeroes,
    .co_pdiscard = verify_co_pdiscard,
    .co_flush = verify_co_flush,
    .co_block_status = verify_co_block_status,
};
BLOCK_DRIVER(verify_driver);
