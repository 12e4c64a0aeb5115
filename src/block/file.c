/*
 * file and host_device: a file or block device of the host, through io_uring or worker threads.
 *
 * With cache.direct=on the host wants aligned offsets, lengths and memory. What comes unaligned goes through
 * an aligned copy; a write that does not cover whole blocks is read, changed and written back in a worker
 * thread, one at a time for each node, since two neighbours in one block must not undo each other.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/block_internal.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
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
    bool is_device, locking, locked;
    pthread_mutex_t rmw_lock;
    bool no_zero_range, no_punch; /* the host said so once; atomic */
} FileNode;

static FileNode *file_of(BlockRequest *req)
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

static void read_limits(FileNode *f)
{
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

static bool file_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    FileNode *f = (FileNode *)node;
    bool want_device = options->driver == QAPI_BLOCKDEV_DRIVER_HOST_DEVICE;
    const QapiBlockdevOptionsFile *o = want_device ? options->u_host_device : options->u_file;
    FdTable *fds = block_registry_fds(node->reg);
    struct stat st;
    int flags;

    f->fd = -1;
    pthread_mutex_init(&f->rmw_lock, NULL);
    if (!*o->filename) {
        return error_set(error, "%s: parameter 'filename' is empty", node->what);
    }
    node->filename = g_strdup(strip_protocol(o->filename, node->driver->name));
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
    if (S_ISDIR(st.st_mode) || S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) {
        return error_set(error, "Could not open '%s': it is no file and no block device", node->filename);
    }
    if (S_ISCHR(st.st_mode)) {
        return error_set(error, "Could not open '%s': character devices are not supported as disks",
                         node->filename);
    }
    f->is_device = S_ISBLK(st.st_mode);
    if (want_device && !f->is_device) {
        return error_set(error, "'%s' is not a block device: use driver=file", node->filename);
    }
    if (!read_size(f, error)) {
        return false;
    }
    read_limits(f);
    return true;
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

static bool file_lock(BlockNode *node, bool write, bool share_write, GError **error)
{
    FileNode *f = (FileNode *)node;
    g_autofree char *what = NULL;

    if (!f->locking || f->is_device) {
        return true;
    }
    if (f->locked) {
        return share_write ||
               error_set(error, "'%s' is already in use by another device of this machine", node->filename);
    }
    what = g_strdup_printf("'%s'", node->filename);
    f->locked = block_lock_fd(f->fd, what, write, share_write, error);
    return f->locked;
}

static void file_unlock(BlockNode *node)
{
    FileNode *f = (FileNode *)node;

    if (f->locked) {
        block_unlock_fd(f->fd);
        f->locked = false;
    }
}

static bool file_resize(BlockNode *node, uint64_t size, GError **error)
{
    FileNode *f = (FileNode *)node;

    if (f->is_device) {
        return error_set(error, "'%s' is a device: its size is the host's", node->filename);
    }
    return ftruncate(f->fd, (off_t)size) == 0 ||
           error_set_errno(error, errno, "Cannot resize '%s'", node->filename);
}

static uint64_t file_allocated(BlockNode *node)
{
    struct stat st;

    return fstat(((FileNode *)node)->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

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

/* A write is on its way to the disk's cache: make it stable if that was asked. */
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
        written(req);
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

    loop_submit_io(req->loop, f->engine, req->op == BLOCK_READ ? LOOP_IO_READV : LOOP_IO_WRITEV, f->fd,
                   req->iov_left, req->iov_left_count, (off_t)offset, 0, 0, on_transfer, req);
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
        return write_plain_zeroes(f, req->offset, req->bytes);
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
    return write_plain_zeroes(f, req->offset, req->bytes);
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

static const BlockDriver file_driver = {
    .name = "file",
    .instance_size = sizeof(FileNode),
    .open = file_open,
    .close = file_close,
    .submit = file_submit,
    .lock = file_lock,
    .unlock = file_unlock,
    .resize = file_resize,
    .allocated = file_allocated,
};
BLOCK_DRIVER(file_driver);

static const BlockDriver host_device_driver = {
    .name = "host_device",
    .instance_size = sizeof(FileNode),
    .open = file_open,
    .close = file_close,
    .submit = file_submit,
    .lock = file_lock,
    .unlock = file_unlock,
    .resize = file_resize,
    .allocated = file_allocated,
};
BLOCK_DRIVER(host_device_driver);
