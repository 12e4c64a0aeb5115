/*
 * file and host_device: a file or block device of the host, through io_uring or worker threads.
 *
 * With cache.direct=on the host wants aligned offsets, lengths and memory. What comes unaligned goes through
 * an aligned copy; a write that does not cover whole blocks is read, changed and written back in a worker
 * thread, one at a time for each node, since two neighbours in one block must not undo each other.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"
#include "block/protocols/lock.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define ZERO_CHUNK (1u << 20)

typedef struct FileNode {
    BlockNode node;
    int fd;
    LoopIoEngine engine;
    bool is_device, locking;
    BlockLock lock;
    pthread_mutex_t rmw_lock;
    bool no_zero_range, no_punch; /* the host said so once; atomic */
} FileNode;

static FileNode *file_of(const BlockRequest *req)
{
    return (FileNode *)req->node;
}

/* ---- opening ---- */

static bool read_size(FileNode *f, GError **error)
{
    off_t end = lseek(f->fd, 0, SEEK_END);

    if (end < 0) {
        return error_set_errno(error, errno, "Cannot tell the size of '%s'", f->node.filename);
    }
    /* A guest counts in sectors: a last, broken one is filled with zeroes. */
    f->node.size = f->is_device ? (uint64_t)end : ((uint64_t)end + 511) & ~UINT64_C(511);
    return true;
}

/* The smallest alignment that a read with O_DIRECT accepts. */
static void probe_alignment(FileNode *f)
{
    BlockLimits *limits = &f->node.limits;
    uint8_t *buf;

    if (!f->node.cache_direct) {
        return;
    }
    buf = g_aligned_alloc(2, 8192, 4096);
    limits->request_alignment = limits->memory_alignment = 4096;
    for (uint32_t align = 512; align <= 4096; align *= 2) {
        if (pread(f->fd, buf, align, 0) >= 0) {
            limits->request_alignment = align;
            break;
        }
    }
    for (uint32_t align = 512; align < 4096; align *= 2) {
        if (pread(f->fd, buf + align, limits->request_alignment, 0) >= 0) {
            limits->memory_alignment = align;
            break;
        }
    }
    g_aligned_free(buf);
}

static void file_refresh_limits(BlockNode *node)
{
    FileNode *f = (FileNode *)node;
    BlockLimits *limits = &f->node.limits;
    struct stat st;
    int n;
    unsigned u;

    if (f->is_device) {
        if (ioctl(f->fd, BLKSSZGET, &n) == 0 && n > 0) {
            limits->logical_block_size = (uint32_t)n;
        }
        if (ioctl(f->fd, BLKPBSZGET, &u) == 0 && u) {
            limits->physical_block_size = u;
        }
        limits->physical_block_size = MAX(limits->physical_block_size, limits->logical_block_size);
    }
    limits->can_discard = f->node.discard;
    limits->can_write_zeroes = true;
    limits->discard_granularity = fstat(f->fd, &st) == 0 ? (uint32_t)MAX(st.st_blksize, 512) : 4096;
    probe_alignment(f);
}

static const char *strip_protocol(const char *name, const char *driver)
{
    g_autofree char *prefix = g_strconcat(driver, ":", NULL);

    return g_str_has_prefix(name, prefix) ? name + strlen(prefix) : name;
}

static const QapiBlockdevOptionsFile *options_of(const QapiBlockdevOptions *options)
{
    return options->driver == QAPI_BLOCKDEV_DRIVER_HOST_DEVICE  ? options->u_host_device
           : options->driver == QAPI_BLOCKDEV_DRIVER_HOST_CDROM ? options->u_host_cdrom
                                                                : options->u_file;
}

static bool file_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    FileNode *f = (FileNode *)node;
    bool want_device = options->driver != QAPI_BLOCKDEV_DRIVER_FILE;
    const QapiBlockdevOptionsFile *o = options_of(options);
    FdTable *fds = block_graph_fds(node->graph);
    const char *name;
    struct stat st;
    int flags;

    f->fd = -1;
    pthread_mutex_init(&f->rmw_lock, NULL);
    if (!*o->filename) {
        return error_set(error, "%s: parameter 'filename' is empty", node->what);
    }
    name = strip_protocol(o->filename, node->driver->name);
    /* As everybody else would have to write it: what looks like a protocol is not one. */
    node->filename =
        *name != '/' && block_name_has_protocol(name) ? g_strconcat("./", name, NULL) : g_strdup(name);
    f->engine = LOOP_IO_AUTO;
    if (o->has_aio && o->aio == QAPI_BLOCKDEV_AIO_OPTIONS_THREADS) {
        f->engine = LOOP_IO_THREADS;
    } else if (o->has_aio && o->aio == QAPI_BLOCKDEV_AIO_OPTIONS_NATIVE && !node->cache_direct) {
        /* With it, io_uring keeps the same promise: no worker threads. */
        return error_set(error,
                         "%s: aio=native was specified, but it requires cache.direct=on, which was not "
                         "specified",
                         node->what);
    }
    f->locking = !o->has_locking || o->locking != QAPI_ON_OFF_AUTO_OFF;
    flags = (node->read_only ? O_RDONLY : O_RDWR) | (node->cache_direct ? O_DIRECT : 0);
    f->fd = fd_table_open(fds, node->filename, flags, 0);
    if (f->fd < 0 && node->auto_read_only && !node->read_only &&
        (errno == EACCES || errno == EROFS || errno == EPERM)) {
        node->read_only = true;
        flags = (flags & ~O_ACCMODE) | O_RDONLY;
        f->fd = fd_table_open(fds, node->filename, flags, 0);
    }
    if (f->fd < 0) {
        int saved = errno;

        error_set_errno(error, saved, "Could not open '%s'", node->filename);
        if (saved == EINVAL && node->cache_direct) {
            error_append_hint(
                error, "The file system may not do direct I/O: try cache=writeback (cache.direct=off).");
        } else if ((saved == EACCES || saved == EROFS) && !node->read_only) {
            error_append_hint(error, "It may still be readable: read-only=on opens it so.");
        }
        return false;
    }
    if (fstat(f->fd, &st) < 0) {
        return error_set_errno(error, errno, "Could not open '%s'", node->filename);
    }
    f->is_device = S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode);
    if (want_device && !f->is_device) {
        return error_set(error, "'%s' driver requires '%s' to be either a character or block device",
                         node->driver->name, node->filename);
    }
    if (!want_device && !S_ISREG(st.st_mode)) {
        return error_set(error, "'file' driver requires '%s' to be a regular file", node->filename);
    }
    if (f->is_device || node->force_share) {
        f->locking = f->locking && !f->is_device && !node->force_share;
    }
    return read_size(f, error);
}

static void file_close(BlockNode *node)
{
    FileNode *f = (FileNode *)node;

    if (f->fd >= 0) {
        if (!node->read_only && !node->cache_no_flush && node->write_generation != node->flushed_generation) {
            fdatasync(f->fd);
        }
        close(f->fd);
    }
    pthread_mutex_destroy(&f->rmw_lock);
}

static bool file_check_perm(BlockNode *node, unsigned perm, unsigned shared, GError **error)
{
    FileNode *f = (FileNode *)node;
    g_autofree char *what = NULL;

    if (!f->locking) {
        return true;
    }
    what = g_strdup_printf("'%s'", node->filename);
    return block_lock_prepare(&f->lock, f->fd, what, perm, shared, error);
}

static void file_commit_perm(BlockNode *node, unsigned perm, unsigned shared)
{
    FileNode *f = (FileNode *)node;

    if (f->locking) {
        block_lock_commit(&f->lock, f->fd, perm, shared);
    }
}

static void file_abort_perm(BlockNode *node)
{
    FileNode *f = (FileNode *)node;

    if (f->locking) {
        block_lock_abort(&f->lock, f->fd);
    }
}

/* ---- size ---- */

typedef struct Resize {
    FileNode *f;
    uint64_t old, size;
    QapiPreallocMode prealloc;
} Resize;

static ssize_t write_all(int fd, const uint8_t *buf, size_t size, off_t offset)
{
    while (size) {
        ssize_t n = pwrite(fd, buf, size, offset);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        buf += n;
        size -= (size_t)n;
        offset += n;
    }
    return 0;
}

/* In a worker thread. */
static ssize_t do_resize(void *opaque)
{
    Resize *r = opaque;
    int fd = r->f->fd;
    ssize_t ret = 0;

    if (r->prealloc == QAPI_PREALLOC_MODE_FALLOC && r->size > r->old) {
        ret = posix_fallocate(fd, (off_t)r->old, (off_t)(r->size - r->old)) ? -errno : 0;
        if (ret) {
            return ret;
        }
    }
    if (ftruncate(fd, (off_t)r->size) < 0) {
        return -errno;
    }
    if (r->prealloc == QAPI_PREALLOC_MODE_FULL && r->size > r->old) {
        uint8_t *zeroes = g_aligned_alloc0(1, ZERO_CHUNK, 4096);

        for (uint64_t at = r->old; at < r->size && !ret; at += ZERO_CHUNK - at % ZERO_CHUNK) {
            ret = write_all(fd, zeroes, (size_t)MIN(ZERO_CHUNK - at % ZERO_CHUNK, r->size - at), (off_t)at);
        }
        g_aligned_free(zeroes);
    }
    if (ret && ftruncate(fd, (off_t)r->old) < 0) {
        return ret;
    }
    return ret;
}

static int file_co_truncate(BlockNode *node, uint64_t size, bool exact, QapiPreallocMode prealloc,
                            unsigned flags, GError **error)
{
    FileNode *f = (FileNode *)node;
    struct stat st;
    Resize r = { f, 0, size, prealloc };
    ssize_t ret;

    if (f->is_device) {
        if (prealloc != QAPI_PREALLOC_MODE_OFF) {
            error_set(error, "Preallocation mode '%s' unsupported for this non-regular file",
                      enum_name(&qapi_PreallocMode_lookup, prealloc));
            return -ENOTSUP;
        }
        if (exact ? size != node->size : size > node->size) {
            error_set(error, exact ? "Cannot resize device files" : "Cannot grow device files");
            return size > node->size ? -EINVAL : -ENOTSUP;
        }
        return 0;
    }
    if (prealloc == QAPI_PREALLOC_MODE_METADATA) {
        error_set(error, "Unsupported preallocation mode 'metadata'");
        return -ENOTSUP;
    }
    if (fstat(f->fd, &st) < 0) {
        error_set_errno(error, errno, "Cannot resize '%s'", node->filename);
        return -errno;
    }
    r.old = (uint64_t)st.st_size;
    ret = co_work(loop_current(), do_resize, &r);
    if (ret < 0) {
        error_set_errno(error, (int)-ret, "Cannot resize '%s'", node->filename);
        return (int)ret;
    }
    block_node_set_size(node, (size + 511) & ~UINT64_C(511));
    return 0;
}

static int64_t file_get_length(BlockNode *node)
{
    off_t end = lseek(((FileNode *)node)->fd, 0, SEEK_END);

    return end < 0 ? -errno : end;
}

static int64_t file_allocated(BlockNode *node)
{
    struct stat st;

    return fstat(((FileNode *)node)->fd, &st) == 0 ? (int64_t)st.st_blocks * 512 : -errno;
}

/* Holes are zeroes. Where the file system does not tell, all is data. */
static int file_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                                BlockStatus *st)
{
    FileNode *f = (FileNode *)node;
    off_t data, hole, end = lseek(f->fd, 0, SEEK_END);

    *st = (BlockStatus){
        .flags = BLOCK_STATUS_DATA | BLOCK_STATUS_OFFSET_VALID, .bytes = bytes, .map = offset, .file = node
    };
    if (f->is_device || !want_zero || end < 0) {
        return 0;
    }
    if (offset >= (uint64_t)end) { /* the last sector's rest */
        st->flags = BLOCK_STATUS_ZERO | BLOCK_STATUS_OFFSET_VALID;
        return 0;
    }
    data = lseek(f->fd, (off_t)offset, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
        return 0;
    }
    if (data < 0 || (uint64_t)data > offset) { /* in a hole, perhaps up to the end */
        st->flags = BLOCK_STATUS_ZERO | BLOCK_STATUS_OFFSET_VALID;
        st->bytes = data < 0 ? bytes : MIN(bytes, (uint64_t)data - offset);
        return 0;
    }
    hole = lseek(f->fd, (off_t)offset, SEEK_HOLE);
    /* Direct I/O sees whole sectors only; others the file's very end. */
    if (hole > (off_t)offset && (hole < end || !node->cache_direct)) {
        st->bytes = MIN(bytes, (uint64_t)hole - offset);
    }
    return 0;
}

/* ---- copying on the host ---- */

typedef struct CopyRange {
    int from, to;
    uint64_t from_offset, to_offset, bytes;
} CopyRange;

static ssize_t do_copy_range(void *opaque)
{
    CopyRange *c = opaque;
    off_t in = (off_t)c->from_offset, out = (off_t)c->to_offset;

    while (c->bytes) {
        ssize_t n = copy_file_range(c->from, &in, c->to, &out, (size_t)MIN(c->bytes, INT_MAX), 0);

        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno == ENOSPC || errno == EIO ? -errno : -ENOTSUP;
        }
        if (n == 0) {
            return -ENOTSUP; /* behind the end of the source, or a file system that pretends */
        }
        c->bytes -= (uint64_t)n;
    }
    return 0;
}

static int file_co_copy_range(BlockNode *source, uint64_t source_offset, BlockNode *target,
                              uint64_t target_offset, uint64_t bytes, unsigned flags)
{
    CopyRange c = { ((FileNode *)source)->fd, ((FileNode *)target)->fd, source_offset, target_offset, bytes };

    return (int)co_work(loop_current(), do_copy_range, &c);
}

/* ---- making and deleting ---- */

typedef struct MakeFile {
    const char *filename;
    uint64_t size;
    QapiPreallocMode prealloc;
    bool nocow;
    int error;
    const char *what;
} MakeFile;

static ssize_t do_make(void *opaque)
{
    MakeFile *m = opaque;
    FileNode f = { .fd = open(m->filename, O_RDWR | O_CREAT | O_CLOEXEC, 0644) };
    BlockLock lock = { 0 };
    g_autoptr(GError) locked = NULL;
    Resize r = { &f, 0, m->size, m->prealloc };
    ssize_t ret = 0;

    m->what = "Could not create";
    if (f.fd < 0) {
        return -errno;
    }
    /* Not under the hands of whoever uses it. */
    if (!block_lock_prepare(&lock, f.fd, m->filename, BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE,
                            BLOCK_PERM_ALL & ~(unsigned)BLOCK_PERM_RESIZE, &locked)) {
        m->what = "Failed to get \"write\" lock on";
        ret = -EBUSY;
    } else {
        if (m->nocow) {
            int attr;

            if (ioctl(f.fd, FS_IOC_GETFLAGS, &attr) == 0) {
                attr |= FS_NOCOW_FL;
                ioctl(f.fd, FS_IOC_SETFLAGS, &attr); /* a wish */
            }
        }
        m->what = "Could not resize";
        ret = ftruncate(f.fd, 0) < 0 ? -errno : do_resize(&r);
        /* Not all of it a hole: some file systems tell the alignment that direct I/O needs only by data. */
        if (ret >= 0 && m->size && m->prealloc == QAPI_PREALLOC_MODE_OFF) {
            static const uint8_t zero[4096];

            ret = pwrite(f.fd, zero, m->size < sizeof(zero) ? 512 : sizeof(zero), 0) < 0 ? -errno : 0;
        }
    }
    close(f.fd);
    return ret;
}

static bool make_file(MakeFile *m, GError **error)
{
    ssize_t ret;

    m->filename = block_strip_file_prefix(m->filename);
    ret = co_work(loop_current(), do_make, m);
    return ret >= 0 || error_set_errno(error, (int)-ret, "%s '%s'", m->what, m->filename);
}

static bool file_co_create(BlockGraph *graph, QapiBlockdevCreateOptions *options, GError **error)
{
    const QapiBlockdevCreateOptionsFile *o = options->u_file;
    MakeFile m = { .filename = o->filename,
                   .size = o->size,
                   .nocow = o->has_nocow && o->nocow,
                   .prealloc = o->has_preallocation ? o->preallocation : QAPI_PREALLOC_MODE_OFF };

    if (o->size % 512) {
        return error_set(error, "The size must be a multiple of 512 bytes");
    }
    if (m.prealloc == QAPI_PREALLOC_MODE_METADATA) {
        return error_set(error, "Unsupported preallocation mode 'metadata'");
    }
    return make_file(&m, error);
}

static bool file_co_create_named(BlockGraph *graph, const char *filename, json_object *options,
                                 GError **error)
{
    MakeFile m = { .filename = filename };
    json_object *value;

    if (json_object_object_get_ex(options, "size", &value)) {
        m.size = (json_object_get_uint64(value) + 511) & ~UINT64_C(511);
    }
    if (json_object_object_get_ex(options, "nocow", &value)) {
        m.nocow = json_object_get_boolean(value);
    }
    if (json_object_object_get_ex(options, "preallocation", &value)) {
        int mode = enum_parse(&qapi_PreallocMode_lookup, json_object_get_string(value), error);

        if (mode < 0) {
            return false;
        }
        if (mode == QAPI_PREALLOC_MODE_METADATA) {
            return error_set(error, "Unsupported preallocation mode 'metadata'");
        }
        m.prealloc = (QapiPreallocMode)mode;
    }
    return make_file(&m, error);
}

static bool file_co_delete(BlockNode *node, GError **error)
{
    struct stat st;

    if (lstat(node->filename, &st) < 0) {
        return error_set_errno(error, errno, "Cannot delete '%s'", node->filename);
    }
    if (!S_ISREG(st.st_mode)) {
        return error_set(error, "'%s' is not a regular file", node->filename);
    }
    return unlink(node->filename) == 0 || error_set_errno(error, errno, "Cannot delete '%s'", node->filename);
}

static const BlockOption file_create_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, false },
    { "nocow", BLOCK_OPTION_BOOL, "Turn off copy-on-write (valid only on btrfs)", NULL, false },
    { "preallocation", BLOCK_OPTION_STRING, "Preallocation mode (allowed values: off, falloc, full)", NULL,
      false },
    { "extent_size_hint", BLOCK_OPTION_SIZE, "Extent size hint for the image file, 0 to disable", NULL,
      false },
    { NULL, 0, NULL, NULL, false },
};

/* ---- the end of a request ---- */

static void finish(BlockRequest *req, int result)
{
    g_aligned_free(req->bounce);
    req->bounce = NULL;
    block_request_done(req, result);
}

static void on_sync_after_write(void *opaque, ssize_t result)
{
    finish(opaque, result < 0 ? (int)result : 0);
}

/* What was changed without LOOP_IO_STABLE is on its way to the disk's cache: make it stable if that was
 * asked. */
static void written(BlockRequest *req)
{
    FileNode *f = file_of(req);

    if ((req->flags & BLOCK_REQ_FUA) && !f->node.cache_no_flush) {
        loop_submit_io(req->loop, f->engine, LOOP_IO_FDATASYNC, f->fd, NULL, 0, 0, 0, 0, on_sync_after_write,
                       req);
    } else {
        finish(req, 0);
    }
}

/* ---- reading and writing ---- */

static void submit_rest(BlockRequest *req);

/* Copies between a flat buffer and the request's memory. */
static void copy_iov(BlockRequest *req, uint8_t *flat, bool to_flat)
{
    for (int i = 0; i < req->iov_count; i++) {
        if (to_flat) {
            memcpy(flat, req->iov[i].iov_base, req->iov[i].iov_len);
        } else {
            memcpy(req->iov[i].iov_base, flat, req->iov[i].iov_len);
        }
        flat += req->iov[i].iov_len;
    }
}

static uint64_t transfer_bytes(const BlockRequest *req)
{
    return req->bounce ? req->bounce_bytes : req->bytes;
}

static void transfer_done(BlockRequest *req)
{
    if (req->op == BLOCK_READ) {
        if (req->bounce) {
            copy_iov(req, req->bounce + (req->offset - req->bounce_offset), false);
        }
        finish(req, 0);
    } else {
        finish(req, 0); /* stable where that was asked: see submit_rest */
    }
}

static void advance(BlockRequest *req, size_t n)
{
    req->progress += n;
    while (n) {
        size_t take = MIN(n, req->iov_left->iov_len);

        req->iov_left->iov_base = (uint8_t *)req->iov_left->iov_base + take;
        req->iov_left->iov_len -= take;
        n -= take;
        if (!req->iov_left->iov_len) {
            req->iov_left++;
            req->iov_left_count--;
        }
    }
}

static void on_transfer(void *opaque, ssize_t result)
{
    BlockRequest *req = opaque;
    uint64_t left = transfer_bytes(req) - req->progress;

    if (result < 0) {
        finish(req, (int)result);
        return;
    }
    if ((uint64_t)result == left) {
        transfer_done(req);
        return;
    }
    if (result == 0) {
        if (req->op == BLOCK_WRITE) {
            finish(req, -EIO);
            return;
        }
        /* Behind the end of the file, which a guest's last sector or an aligned read may touch. */
        while (req->iov_left_count) {
            memset(req->iov_left->iov_base, 0, req->iov_left->iov_len);
            req->iov_left++;
            req->iov_left_count--;
        }
        transfer_done(req);
        return;
    }
    advance(req, (size_t)result);
    if (file_of(req)->node.cache_direct &&
        (req->progress & (file_of(req)->node.limits.request_alignment - 1))) {
        /* The rest would be unaligned: only the end of the file cuts so. */
        if (req->op == BLOCK_READ) {
            while (req->iov_left_count) {
                memset(req->iov_left->iov_base, 0, req->iov_left->iov_len);
                req->iov_left++;
                req->iov_left_count--;
            }
            transfer_done(req);
        } else {
            finish(req, -EIO);
        }
        return;
    }
    submit_rest(req);
}

static void submit_rest(BlockRequest *req)
{
    FileNode *f = file_of(req);
    uint64_t offset = (req->bounce ? req->bounce_offset : req->offset) + req->progress;
    bool write = req->op == BLOCK_WRITE,
         stable = write && (req->flags & BLOCK_REQ_FUA) && !f->node.cache_no_flush;

    loop_submit_io(req->loop, f->engine, write ? LOOP_IO_WRITEV : LOOP_IO_READV, f->fd, req->iov_left,
                   req->iov_left_count, (off_t)offset, 0,
                   stable                                            ? LOOP_IO_STABLE
                   : write && !f->node.cache_direct && !f->is_device ? LOOP_IO_CACHED
                                                                     : 0,
                   on_transfer, req);
}

static bool memory_aligned(const BlockRequest *req, const BlockLimits *limits)
{
    for (int i = 0; i < req->iov_count; i++) {
        if (((uintptr_t)req->iov[i].iov_base & (limits->memory_alignment - 1)) ||
            (req->iov[i].iov_len & (limits->request_alignment - 1))) {
            return false;
        }
    }
    return true;
}

static ssize_t full_pread(int fd, uint8_t *buf, size_t size, off_t offset)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = pread(fd, buf + done, size - done, offset + (off_t)done);

        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        if (n == 0) {
            memset(buf + done, 0, size - done);
            break;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* In a worker thread: an unaligned write. */
static ssize_t read_modify_write(void *opaque)
{
    BlockRequest *req = opaque;
    FileNode *f = file_of(req);
    uint64_t align = f->node.limits.request_alignment, done = 0;
    ssize_t ret = 0;

    pthread_mutex_lock(&f->rmw_lock);
    if (req->offset != req->bounce_offset) {
        ret = full_pread(f->fd, req->bounce, align, (off_t)req->bounce_offset);
    }
    if (!ret && ((req->offset + req->bytes) & (align - 1))) {
        uint64_t last = req->bounce_bytes - align;

        ret = full_pread(f->fd, req->bounce + last, align, (off_t)(req->bounce_offset + last));
    }
    if (!ret) {
        copy_iov(req, req->bounce + (req->offset - req->bounce_offset), true);
    }
    while (!ret && done < req->bounce_bytes) {
        ssize_t n =
            pwrite(f->fd, req->bounce + done, req->bounce_bytes - done, (off_t)(req->bounce_offset + done));

        if (n < 0 && errno != EINTR) {
            ret = -errno;
        } else if (n == 0) {
            ret = -EIO;
        }
        done += n > 0 ? (uint64_t)n : 0;
    }
    pthread_mutex_unlock(&f->rmw_lock);
    return ret;
}

static void on_rmw(void *opaque, ssize_t result)
{
    if (result < 0) {
        finish(opaque, (int)result);
    } else {
        written(opaque);
    }
}

static void start_transfer(BlockRequest *req)
{
    FileNode *f = file_of(req);
    const BlockLimits *limits = &f->node.limits;
    uint64_t mask = limits->request_alignment - 1;
    bool whole_blocks = !((req->offset | req->bytes) & mask);

    req->iov_left = req->iov;
    req->iov_left_count = req->iov_count;
    if (f->node.cache_direct && !(whole_blocks && memory_aligned(req, limits))) {
        req->bounce_offset = req->offset & ~mask;
        req->bounce_bytes = ((req->offset + req->bytes + mask) & ~mask) - req->bounce_offset;
        req->bounce = g_aligned_alloc(1, req->bounce_bytes, 4096);
        if (req->op == BLOCK_WRITE && !whole_blocks) {
            loop_submit_work(req->loop, read_modify_write, on_rmw, req);
            return;
        }
        if (req->op == BLOCK_WRITE) {
            copy_iov(req, req->bounce, true);
        }
        req->bounce_iov = (struct iovec){ req->bounce, req->bounce_bytes };
        req->iov_left = &req->bounce_iov;
        req->iov_left_count = 1;
    }
    submit_rest(req);
}

/* ---- flush ---- */

static void on_flush(void *opaque, ssize_t result)
{
    BlockRequest *req = opaque;
    BlockNode *node = req->node;

    if (result >= 0) {
        uint64_t old = __atomic_load_n(&node->flushed_generation, __ATOMIC_SEQ_CST);

        while (old < req->flush_generation &&
               !__atomic_compare_exchange_n(&node->flushed_generation, &old, req->flush_generation, true,
                                            __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    }
    finish(req, result < 0 ? (int)result : 0);
}

static void start_flush(BlockRequest *req)
{
    FileNode *f = file_of(req);
    BlockNode *node = req->node;

    req->flush_generation = __atomic_load_n(&node->write_generation, __ATOMIC_SEQ_CST);
    if (node->cache_no_flush || node->read_only ||
        __atomic_load_n(&node->flushed_generation, __ATOMIC_SEQ_CST) >= req->flush_generation) {
        loop_complete_later(req->loop, on_flush, req, 0); /* nothing was written since the last one */
        return;
    }
    loop_submit_io(req->loop, f->engine, LOOP_IO_FDATASYNC, f->fd, NULL, 0, 0, 0, 0, on_flush, req);
}

/* ---- discard and zeroes: in a worker thread, since hosts may take long over them ---- */

static ssize_t do_discard(void *opaque)
{
    BlockRequest *req = opaque;
    FileNode *f = file_of(req);
    uint64_t range[2] = { req->offset, req->bytes };
    int ret;

    if (f->is_device) {
        ret = ioctl(f->fd, BLKDISCARD, range);
    } else {
        ret = fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)req->offset,
                        (off_t)req->bytes);
    }
    /* A discard is a hint: where the host cannot, all is well. */
    return ret < 0 && errno != EOPNOTSUPP && errno != ENOTTY && errno != EINVAL ? -errno : 0;
}

static void on_discard(void *opaque, ssize_t result)
{
    finish(opaque, (int)result);
}

static ssize_t write_plain_zeroes(FileNode *f, uint64_t offset, uint64_t bytes)
{
    uint64_t align = f->node.limits.request_alignment, mask = align - 1;
    uint8_t *zeroes = g_aligned_alloc0(1, ZERO_CHUNK, 4096);
    ssize_t ret = 0;

    while (bytes && !ret) {
        uint64_t n = MIN(bytes, ZERO_CHUNK);

        if (f->node.cache_direct && ((offset | n) & mask)) { /* an unaligned edge */
            uint64_t base = offset & ~mask;
            uint8_t *block = zeroes; /* borrowed, made zero again below */

            n = MIN(bytes, base + align - offset);
            pthread_mutex_lock(&f->rmw_lock);
            ret = full_pread(f->fd, block, align, (off_t)base);
            memset(block + (offset - base), 0, n);
            if (!ret && pwrite(f->fd, block, align, (off_t)base) != (ssize_t)align) {
                ret = errno ? -errno : -EIO;
            }
            pthread_mutex_unlock(&f->rmw_lock);
            memset(block, 0, align);
        } else {
            ssize_t got = pwrite(f->fd, zeroes, n, (off_t)offset);

            if (got < 0) {
                ret = errno == EINTR ? 0 : -errno;
                got = 0;
            }
            n = (uint64_t)got;
        }
        if (!ret) {
            offset += n;
            bytes -= n;
        }
    }
    g_aligned_free(zeroes);
    return ret;
}

static ssize_t do_write_zeroes(void *opaque)
{
    BlockRequest *req = opaque;
    FileNode *f = file_of(req);
    uint64_t range[2] = { req->offset, req->bytes };

    if (f->is_device) {
        if (!((req->offset | req->bytes) & (f->node.limits.logical_block_size - 1)) &&
            ioctl(f->fd, BLKZEROOUT, range) == 0) {
            return 0;
        }
        return req->flags & BLOCK_REQ_NO_FALLBACK ? -ENOTSUP : write_plain_zeroes(f, req->offset, req->bytes);
    }
    if ((req->flags & BLOCK_REQ_MAY_UNMAP) && f->node.discard &&
        !__atomic_load_n(&f->no_punch, __ATOMIC_RELAXED)) {
        if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)req->offset,
                      (off_t)req->bytes) == 0) {
            return 0;
        }
        __atomic_store_n(&f->no_punch, errno == EOPNOTSUPP, __ATOMIC_RELAXED);
    }
    if (!__atomic_load_n(&f->no_zero_range, __ATOMIC_RELAXED)) {
        if (fallocate(f->fd, FALLOC_FL_ZERO_RANGE, (off_t)req->offset, (off_t)req->bytes) == 0) {
            return 0;
        }
        if (errno == ENOSPC || errno == EIO) {
            return -errno;
        }
        __atomic_store_n(&f->no_zero_range, errno == EOPNOTSUPP, __ATOMIC_RELAXED);
    }
    return req->flags & BLOCK_REQ_NO_FALLBACK ? -ENOTSUP : write_plain_zeroes(f, req->offset, req->bytes);
}

static void on_zeroes(void *opaque, ssize_t result)
{
    if (result < 0) {
        finish(opaque, (int)result);
    } else {
        written(opaque);
    }
}

static void file_submit(BlockNode *node, BlockRequest *req)
{
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        start_transfer(req);
        break;
    case BLOCK_FLUSH:
        start_flush(req);
        break;
    case BLOCK_DISCARD:
        if (node->discard) {
            loop_submit_work(req->loop, do_discard, on_discard, req);
        } else {
            loop_complete_later(req->loop, on_discard, req, 0);
        }
        break;
    case BLOCK_WRITE_ZEROES:
        loop_submit_work(req->loop, do_write_zeroes, on_zeroes, req);
        break;
    }
}

/* ---- another mode of opening ---- */

typedef struct FileReopen {
    int fd;
    BlockLock lock;
} FileReopen;

static bool file_reopen_prepare(BlockReopen *reopen, GError **error)
{
    FileNode *f = (FileNode *)reopen->node;
    FileReopen *r;
    int flags = (reopen->read_only ? O_RDONLY : O_RDWR) | (reopen->cache_direct ? O_DIRECT : 0);

    if (reopen->read_only == f->node.read_only && reopen->cache_direct == f->node.cache_direct) {
        return true;
    }
    r = g_new0(FileReopen, 1);
    r->fd = fd_table_open(block_graph_fds(f->node.graph), f->node.filename, flags, 0);
    if (r->fd < 0) {
        error_set_errno(error, errno, "Could not reopen '%s'", f->node.filename);
        g_free(r);
        return false;
    }
    reopen->opaque = r;
    return true;
}

static void file_reopen_commit(BlockReopen *reopen)
{
    FileNode *f = (FileNode *)reopen->node;
    FileReopen *r = reopen->opaque;

    if (!r) {
        return;
    }
    if (f->locking) { /* first on the new one, then off the old one: no gap, and both share with each other */
        block_lock_move(&f->lock, r->fd);
    }
    if (!f->node.read_only && f->node.write_generation != f->node.flushed_generation) {
        fdatasync(f->fd);
    }
    close(f->fd);
    f->fd = r->fd;
    g_free(r);
}

static void file_reopen_abort(BlockReopen *reopen)
{
    FileReopen *r = reopen->opaque;

    if (r) {
        close(r->fd);
        g_free(r);
    }
}

static const BlockDriver file_driver = {
    .name = "file",
    .instance_size = sizeof(FileNode),
    .is_protocol = true,
    .any_alignment = true,
    .open = file_open,
    .close = file_close,
    .reopen_prepare = file_reopen_prepare,
    .reopen_commit = file_reopen_commit,
    .reopen_abort = file_reopen_abort,
    .refresh_limits = file_refresh_limits,
    .check_perm = file_check_perm,
    .commit_perm = file_commit_perm,
    .abort_perm = file_abort_perm,
    .submit = file_submit,
    .co_truncate = file_co_truncate,
    .co_block_status = file_co_block_status,
    .co_copy_range = file_co_copy_range,
    .get_length = file_get_length,
    .get_allocated = file_allocated,
    .co_create = file_co_create,
    .co_create_named = file_co_create_named,
    .create_options = file_create_options,
    .co_delete_file = file_co_delete,
};
BLOCK_DRIVER(file_driver);

static const BlockDriver host_device_driver = {
    .name = "host_device",
    .instance_size = sizeof(FileNode),
    .is_protocol = true,
    .any_alignment = true,
    .open = file_open,
    .close = file_close,
    .reopen_prepare = file_reopen_prepare,
    .reopen_commit = file_reopen_commit,
    .reopen_abort = file_reopen_abort,
    .refresh_limits = file_refresh_limits,
    .check_perm = file_check_perm,
    .commit_perm = file_commit_perm,
    .abort_perm = file_abort_perm,
    .submit = file_submit,
    .co_truncate = file_co_truncate,
    .co_block_status = file_co_block_status,
    .co_copy_range = file_co_copy_range,
    .get_length = file_get_length,
    .get_allocated = file_allocated,
};
BLOCK_DRIVER(host_device_driver);

static const BlockDriver host_cdrom_driver = {
    .name = "host_cdrom",
    .instance_size = sizeof(FileNode),
    .is_protocol = true,
    .any_alignment = true,
    .open = file_open,
    .close = file_close,
    .reopen_prepare = file_reopen_prepare,
    .reopen_commit = file_reopen_commit,
    .reopen_abort = file_reopen_abort,
    .refresh_limits = file_refresh_limits,
    .check_perm = file_check_perm,
    .commit_perm = file_commit_perm,
    .abort_perm = file_abort_perm,
    .submit = file_submit,
    .co_truncate = file_co_truncate,
    .co_block_status = file_co_block_status,
    .co_copy_range = file_co_copy_range,
    .get_length = file_get_length,
    .get_allocated = file_allocated,
};
BLOCK_DRIVER(host_cdrom_driver);
