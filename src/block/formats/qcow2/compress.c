/*
 * Compressed clusters: (de)compression runs in the pool of threads, several clusters at once; the room behind
 * the last compressed cluster is filled before a new cluster is taken. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/formats/qcow2/deflate.h"
#include "block/formats/qcow2/qcow2.h"

#include "host/library.h"
#include "rhea_config.h"

#include <errno.h>
#ifdef CONFIG_LIBDEFLATE
#include <libdeflate.h>
#endif
#include <string.h>
#include <zlib.h>
#include <zstd.h>

/* Loaded when the first such image is opened. */
/* clang-format off */
#define ZSTD_SYMBOLS(X, P)                                                                           \
    X(P, DCtx_reset) X(P, compressCCtx) X(P, createCCtx) X(P, createDCtx) X(P, decompressDCtx)       \
    X(P, decompressStream) X(P, findFrameCompressedSize) X(P, freeCCtx) X(P, freeDCtx) X(P, isError)
/* clang-format on */
LIBRARY_TABLE(zstd, ZSTD_, ZSTD_SYMBOLS, SONAME_ZSTD, "libzstd1", "zstd compression");

#ifdef CONFIG_LIBDEFLATE
/* Loaded when the first cluster is inflated; where it is missing zlib does its work. */
#define FAST_SYMBOLS(X, P) X(P, alloc_decompressor) X(P, deflate_decompress_ex) X(P, free_decompressor)
LIBRARY_TABLE(fast, libdeflate_, FAST_SYMBOLS, SONAME_DEFLATE, "libdeflate0", "fast decompression");
#endif

bool qcow2_compression_load(Qcow2Compression type, GError **error)
{
    return type != QCOW2_ZSTD || library_load(&zstd_library, error);
}

/* What a (de)compressor needs is large and costs time to make: each thread keeps its own. */
typedef struct Workspace {
    z_stream in;
    bool have_in;
    Deflater *out;
    ZSTD_DCtx *zstd_in;
    ZSTD_CCtx *zstd_out;
#ifdef CONFIG_LIBDEFLATE
    struct libdeflate_decompressor *fast_in;
#endif
} Workspace;

static void workspace_free(gpointer data)
{
    Workspace *w = data;

    if (w->have_in) {
        inflateEnd(&w->in);
    }
    deflater_free(w->out);
    if (w->zstd_in) {
        zstd.freeDCtx(w->zstd_in);
    }
    if (w->zstd_out) {
        zstd.freeCCtx(w->zstd_out);
    }
#ifdef CONFIG_LIBDEFLATE
    if (w->fast_in) {
        fast.free_decompressor(w->fast_in);
    }
#endif
    g_free(w);
}

static GPrivate workspace_key = G_PRIVATE_INIT(workspace_free);

static Workspace *workspace(void)
{
    Workspace *w = g_private_get(&workspace_key);

    if (!w) {
        w = g_new0(Workspace, 1);
        g_private_set(&workspace_key, w);
    }
    return w;
}

static int inflate_zlib(const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    Workspace *w = workspace();
    int ret;

#ifdef CONFIG_LIBDEFLATE
    size_t used, got;

    if (!w->fast_in && library_load(&fast_library, NULL)) {
        w->fast_in = fast.alloc_decompressor();
    }
    /* What it refuses (a stream that goes on, for one) zlib judges. */
    if (w->fast_in &&
        fast.deflate_decompress_ex(w->fast_in, in, in_size, out, out_size, &used, &got) ==
            LIBDEFLATE_SUCCESS &&
        got == out_size) {
        return 0;
    }
#endif
    if (!w->have_in) {
        if (inflateInit2(&w->in, -15) != Z_OK) {
            return -ENOMEM;
        }
        w->have_in = true;
    } else {
        inflateReset(&w->in);
    }
    w->in.next_in = (Bytef *)in;
    w->in.avail_in = (uInt)in_size;
    w->in.next_out = out;
    w->in.avail_out = (uInt)out_size;
    ret = inflate(&w->in, Z_FINISH);
    /* The sectors' tail belongs to others: the stream may go on for inflate, but the cluster must be full. */
    return (ret == Z_STREAM_END || ret == Z_BUF_ERROR || ret == Z_OK) && w->in.avail_out == 0 ? 0 : -EIO;
}

static int inflate_zstd(const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    Workspace *w = workspace();
    ZSTD_inBuffer from = { in, in_size, 0 };
    ZSTD_outBuffer to = { out, out_size, 0 };
    size_t ret = 1, frame = zstd.findFrameCompressedSize(in, in_size);

    if (!w->zstd_in) {
        w->zstd_in = zstd.createDCtx();
    }
    if (!w->zstd_in) {
        return -ENOMEM;
    }
    /* One whole frame in one go, as a rule; anything else piece by piece. */
    if (!zstd.isError(frame) && zstd.decompressDCtx(w->zstd_in, out, out_size, in, frame) == out_size) {
        return 0;
    }
    zstd.DCtx_reset(w->zstd_in, ZSTD_reset_session_only);
    while (to.pos < to.size) {
        size_t in_before = from.pos, out_before = to.pos;

        ret = zstd.decompressStream(w->zstd_in, &to, &from);
        if (zstd.isError(ret) || (from.pos == in_before && to.pos == out_before)) {
            break;
        }
    }
    return !zstd.isError(ret) && to.pos == to.size ? 0 : -EIO;
}

int qcow2_inflate(Qcow2Compression type, const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    return type == QCOW2_ZSTD ? inflate_zstd(in, in_size, out, out_size)
                              : inflate_zlib(in, in_size, out, out_size);
}

/* Bytes, -ENOSPC where it does not get smaller than out_size, or another negative errno. */
ssize_t qcow2_deflate(Qcow2Compression type, const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    Workspace *w = workspace();
    size_t got;

    if (type == QCOW2_ZSTD) {
        if (!w->zstd_out) {
            w->zstd_out = zstd.createCCtx();
        }
        if (!w->zstd_out) {
            return -ENOMEM;
        }
        got = zstd.compressCCtx(w->zstd_out, out, out_size, in, in_size, ZSTD_CLEVEL_DEFAULT);
        return zstd.isError(got) ? -ENOSPC : (ssize_t)got;
    }
    if (!w->out) {
        w->out = deflater_new();
    }
    if (!w->out) {
        return -ENOMEM;
    }
    got = deflater_run(w->out, in, in_size, out, out_size);
    return got ? (ssize_t)got : -ENOSPC;
}

typedef struct Job {
    Qcow2Compression type;
    const uint8_t *in;
    uint8_t *out;
    size_t in_size, out_size;
} Job;

static ssize_t run_inflate(void *opaque)
{
    Job *job = opaque;

    return qcow2_inflate(job->type, job->in, job->in_size, job->out, job->out_size);
}

static ssize_t run_deflate(void *opaque)
{
    Job *job = opaque;

    return qcow2_deflate(job->type, job->in, job->in_size, job->out, job->out_size);
}

static ssize_t in_pool(ssize_t (*fn)(void *opaque), Job *job)
{
    Loop *loop = loop_current();

    return loop && in_coroutine() ? co_work(loop, fn, job) : fn(job);
}

int qcow2_read_compressed(Qcow2Node *s, uint64_t word, uint64_t in_cluster, uint64_t bytes,
                          const BlockVec *vec, uint64_t from)
{
    Job job = { .type = s->h.compression_type, .out_size = s->g.cluster_size };
    uint64_t at, size = block_size(s->node.file);
    uint32_t span;
    uint8_t *in, *out;
    int ret;

    pthread_mutex_lock(&s->lock);
    if (s->inflated && s->inflated_word == word) { /* small reads one after the other */
        block_vec_write(vec, from, s->inflated + in_cluster, bytes);
        pthread_mutex_unlock(&s->lock);
        return 0;
    }
    pthread_mutex_unlock(&s->lock);
    qcow2_compressed_span(&s->g, word, &at, &span);
    if (at >= size) {
        return -EIO;
    }
    QCOW2_EVENT(s, READ_COMPRESSED);
    span = (uint32_t)MIN(span, size - at); /* the last sector may end with the file */
    in = g_try_malloc(span);
    out = g_try_malloc(s->g.cluster_size);
    ret = in && out ? block_co_pread(s->node.file, at, span, in, 0) : -ENOMEM;
    if (ret >= 0) {
        job.in = in;
        job.in_size = span;
        job.out = out;
        ret = (int)in_pool(run_inflate, &job);
    }
    if (ret >= 0) {
        block_vec_write(vec, from, out + in_cluster, bytes);
        if (bytes < s->g.cluster_size) {
            pthread_mutex_lock(&s->lock);
            g_free(s->inflated);
            s->inflated = g_steal_pointer(&out);
            s->inflated_word = word;
            pthread_mutex_unlock(&s->lock);
        }
    }
    g_free(in);
    g_free(out);
    return ret;
}

/* A place for that many bytes, behind the last ones where there is room; a new cluster otherwise. Pieces do
 * not cross into a cluster that is not next to it. lock held (and released). a gets the new clusters, *old
 * the cluster that has one more reference; 0: none. */
static int find_place(Qcow2Node *s, uint64_t bytes, Qcow2Alloc *a, uint64_t *at, bool *shares)
{
    int got;

    if (s->compressed_at && s->compressed_end - s->compressed_at >= bytes) {
        *at = s->compressed_at;
        *shares = *at & (s->g.cluster_size - 1);
    } else {
        got = qcow2_take_clusters(s, 1, a);
        if (got < 0) {
            return got;
        }
        if (s->compressed_at && s->compressed_end == a->host) {
            /* It begins in the room that is left and goes on in the new cluster. */
            *at = s->compressed_at;
            *shares = s->compressed_at != a->host;
        } else {
            *at = a->host;
            *shares = false;
        }
        s->compressed_end = a->host_end;
    }
    s->compressed_at = *at + bytes;
    if (s->compressed_at == s->compressed_end) {
        s->compressed_at = s->compressed_end = 0;
    }
    return 0;
}

static int write_compressed(Qcow2Node *s, uint64_t offset, const uint8_t *data, uint32_t bytes)
{
    Qcow2Alloc a = { 0 };
    Qcow2Page *page, *shared = NULL;
    bool shares = false;
    uint64_t at = 0, word = 0;
    Qcow2Entry old;
    int ret = qcow2_l2_writable(s, offset, &page);

    if (ret < 0) {
        return ret;
    }
    /* One at a time finds its place, so that refcounts of the cluster that is shared are there when the next
     * comes. */
    co_mutex_lock(&s->compress_lock);
    pthread_mutex_lock(&s->lock);
    while (qcow2_alloc_conflict(s, qcow2_cluster_of(s, offset), 1)) {}
    qcow2_alloc_add(s, &a, qcow2_cluster_of(s, offset), 1);
    ret = find_place(s, bytes, &a, &at, &shares);
    pthread_mutex_unlock(&s->lock);
    if (ret >= 0) {
        word = qcow2_compressed_word(&s->g, at, bytes);
        ret = word ? 0 : -EFBIG;
    }
    if (ret >= 0 && shares) {
        /* Linked below; counted now: at worst a crash leaves a count too high. */
        ret = qcow2_refcount_add(s, qcow2_cluster_of(s, at), 1, 1);
        if (ret == -EINVAL && !a.ref_page) { /* the refcount cannot go higher: begin anew */
            pthread_mutex_lock(&s->lock);
            s->compressed_at = s->compressed_end = 0;
            ret = find_place(s, bytes, &a, &at, &shares);
            pthread_mutex_unlock(&s->lock);
            word = ret >= 0 ? qcow2_compressed_word(&s->g, at, bytes) : 0;
            ret = ret < 0 ? ret : word ? 0 : -EFBIG;
        } else if (ret == -EINVAL) {
            pthread_mutex_lock(&s->lock);
            at = a.host;
            s->compressed_at = at + bytes;
            s->compressed_end = a.host_end;
            pthread_mutex_unlock(&s->lock);
            word = qcow2_compressed_word(&s->g, at, bytes);
            ret = word ? 0 : -EFBIG;
        }
    }
    if (ret >= 0 && a.ref_page) {
        /* The new cluster's count too, for those that follow in it. */
        pthread_mutex_lock(&s->lock);
        shared = a.ref_page;
        qcow2_link_clusters(s, &a);
        pthread_mutex_unlock(&s->lock);
    }
    co_mutex_unlock(&s->compress_lock);
    if (ret >= 0) {
        QCOW2_EVENT(s, WRITE_COMPRESSED);
        ret = block_co_pwrite(s->node.file, at, bytes, data, 0);
    }
    pthread_mutex_lock(&s->lock);
    if (ret >= 0) {
        uint32_t pos = qcow2_l2_pos(s, offset);

        old = qcow2_entry_load(&s->g, page->data + pos);
        qcow2_release_entry(s, old, s->pass_other);
        qcow2_entry_store(&s->g, page->data + pos, (Qcow2Entry){ word, 0 });
        qcow2_page_dirty(s, page, pos, s->g.l2_entry_bytes);
        qcow2_extents_forget(s, offset & ~(uint64_t)(s->g.cluster_size - 1), s->g.cluster_size);
        qcow2_lose_data(s);
        if (s->inflated_word == word) { /* of what was there before */
            g_clear_pointer(&s->inflated, g_free);
        }
    } else if (a.ref_page) {
        qcow2_page_put(s, a.ref_page);
        s->compressed_at = s->compressed_end = 0;
        s->free_hint = MIN(s->free_hint, qcow2_cluster_of(s, a.host));
    } else if (shared || shares) {
        qcow2_free_later(s, qcow2_cluster_of(s, at),
                         qcow2_cluster_of(s, at + bytes - 1) - qcow2_cluster_of(s, at) + 1, false);
    }
    qcow2_alloc_remove(s, &a);
    qcow2_page_put(s, page);
    pthread_mutex_unlock(&s->lock);
    return ret < 0 ? ret : qcow2_relieve(s);
}

int qcow2_co_pwritev_compressed(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                                uint64_t from)
{
    Qcow2Node *s = (Qcow2Node *)node;
    uint32_t cluster = s->g.cluster_size;

    if (s->data_child || s->h.crypt_method) {
        return -ENOTSUP;
    }
    if (__atomic_load_n(&s->broken, __ATOMIC_RELAXED)) {
        return -EIO;
    }
    while (bytes) {
        uint64_t n = MIN(bytes, cluster);
        Job job = { .type = s->h.compression_type, .in_size = cluster, .out_size = cluster - 1 };
        uint8_t *in, *out;
        ssize_t got;
        int ret;

        if (offset & (cluster - 1) || (n < cluster && offset + n != block_node_end(s))) {
            return -EINVAL;
        }
        in = g_try_malloc(cluster);
        out = g_try_malloc(cluster);
        if (!in || !out) {
            g_free(in);
            g_free(out);
            return -ENOMEM;
        }
        block_vec_read(vec, from, in, n);
        memset(in + n, 0, cluster - n);
        job.in = in;
        job.out = out;
        got = in_pool(run_deflate, &job);
        g_free(in);
        ret = got == -ENOSPC ? qcow2_co_pwritev(node, offset, n, vec, from, 0)
              : got < 0      ? (int)got
                             : write_compressed(s, offset, out, (uint32_t)got);
        g_free(out);
        if (ret < 0) {
            return ret;
        }
        offset += n;
        from += n;
        bytes -= n;
    }
    return 0;
}
