/* The blocking forms. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/graph/graph_internal.h"

#include "base/error.h"

#include <errno.h>
#include <unistd.h>

typedef struct Run {
    CoroutineFunc *fn;
    void *opaque;
    bool done;
} Run;

static void run_entry(void *opaque)
{
    Run *run = opaque;

    run->fn(run->opaque);
    run->done = true;
}

void block_run(BlockGraph *graph, CoroutineFunc *fn, void *opaque)
{
    Run run = { fn, opaque, false };
    Loop *loop = loop_current(), *own = NULL, *outer;

    if (in_coroutine()) {
        fn(opaque);
        return;
    }
    if (!loop && loop_is_current(graph->loop)) {
        loop = graph->loop;
    }
    if (!loop) { /* a thread without a loop */
        loop = own = loop_new(NULL, NULL);
        g_assert(loop);
    }
    outer = loop_make_current(loop);
    coroutine_enter(coroutine_new(run_entry, &run));
    while (!run.done) {
        if (!loop_iterate_io(loop, true)) {
            usleep(20); /* what it waits for is in another thread's hands, or it sleeps */
        }
    }
    loop_make_current(outer);
    if (own) {
        loop_free(own);
    }
}

typedef enum Kind { READ, WRITE, ZEROES, DISCARD, FLUSH, TRUNCATE, STATUS, STATUS_ABOVE } Kind;

typedef struct Call {
    Kind kind;
    BlockChild *child;
    BlockNode *node, *base;
    uint64_t offset, bytes;
    const BlockVec *vec;
    unsigned flags;
    bool exact;
    QapiPreallocMode prealloc;
    BlockStatus *st;
    GError **error;
    int ret;
} Call;

static void call_entry(void *opaque)
{
    Call *c = opaque;

    switch (c->kind) {
    case READ:
        c->ret = block_co_preadv(c->child, c->offset, c->bytes, c->vec, 0, c->flags);
        break;
    case WRITE:
        c->ret = block_co_pwritev(c->child, c->offset, c->bytes, c->vec, 0, c->flags);
        break;
    case ZEROES:
        c->ret = block_co_pwrite_zeroes(c->child, c->offset, c->bytes, c->flags);
        break;
    case DISCARD:
        c->ret = block_co_pdiscard(c->child, c->offset, c->bytes);
        break;
    case FLUSH:
        c->ret = block_co_flush(c->child);
        break;
    case TRUNCATE:
        c->ret = block_co_truncate(c->child, c->bytes, c->exact, c->prealloc, c->flags, c->error);
        break;
    case STATUS:
        c->ret = block_co_status(c->node, c->offset, c->bytes, c->st);
        break;
    case STATUS_ABOVE:
        c->ret = block_co_status_above(c->node, c->base, c->offset, c->bytes, c->st);
        break;
    }
}

static int call(BlockNode *node, Call c)
{
    block_run(node->graph, call_entry, &c);
    return c.ret;
}

int blk_preadv(BlockChild *child, uint64_t offset, uint64_t bytes, const BlockVec *vec, unsigned flags)
{
    return call(
        child->node,
        (Call){ .kind = READ, .child = child, .offset = offset, .bytes = bytes, .vec = vec, .flags = flags });
}

int blk_pwritev(BlockChild *child, uint64_t offset, uint64_t bytes, const BlockVec *vec, unsigned flags)
{
    return call(
        child->node,
        (Call){
            .kind = WRITE, .child = child, .offset = offset, .bytes = bytes, .vec = vec, .flags = flags });
}

int blk_pread(BlockChild *child, uint64_t offset, uint64_t bytes, void *buf, unsigned flags)
{
    return blk_preadv(child, offset, bytes, &BLOCK_VEC_BUF(buf, bytes), flags);
}

int blk_pwrite(BlockChild *child, uint64_t offset, uint64_t bytes, const void *buf, unsigned flags)
{
    return blk_pwritev(child, offset, bytes, &BLOCK_VEC_BUF(buf, bytes), flags);
}

int blk_pwrite_sync(BlockChild *child, uint64_t offset, uint64_t bytes, const void *buf)
{
    return blk_pwrite(child, offset, bytes, buf, BLOCK_REQ_FUA);
}

int blk_pwrite_zeroes(BlockChild *child, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return call(child->node,
                (Call){ .kind = ZEROES, .child = child, .offset = offset, .bytes = bytes, .flags = flags });
}

int blk_pdiscard(BlockChild *child, uint64_t offset, uint64_t bytes)
{
    return call(child->node, (Call){ .kind = DISCARD, .child = child, .offset = offset, .bytes = bytes });
}

int blk_flush(BlockChild *child)
{
    return call(child->node, (Call){ .kind = FLUSH, .child = child });
}

bool blk_truncate(BlockChild *child, uint64_t size, bool exact, QapiPreallocMode prealloc, unsigned flags,
                  GError **error)
{
    g_autoptr(GError) local = NULL;
    int ret = call(child->node, (Call){ .kind = TRUNCATE,
                                        .child = child,
                                        .bytes = size,
                                        .exact = exact,
                                        .prealloc = prealloc,
                                        .flags = flags,
                                        .error = &local });

    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    return !ret || error_set_errno(error, -ret, "%s: cannot be resized", child->node->what);
}

int blk_status(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *st)
{
    return call(node, (Call){ .kind = STATUS, .node = node, .offset = offset, .bytes = bytes, .st = st });
}

int blk_status_above(BlockNode *node, BlockNode *base, uint64_t offset, uint64_t bytes, BlockStatus *st)
{
    return call(
        node,
        (Call){
            .kind = STATUS_ABOVE, .node = node, .base = base, .offset = offset, .bytes = bytes, .st = st });
}
