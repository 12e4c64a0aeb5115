/*
 * The io_uring monitor: descriptors are watched with one-shot poll requests that are armed again after their
 * handler ran (so that they behave level-triggered), all in the same system call that waits. Disk I/O shares
 * the ring. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "loop/loop_internal.h"

#include "base/error.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define SQ_ENTRIES 256
#define CQ_ENTRIES 4096

/* What a completion is about, in the low bits of its user data; the rest is a pointer. */
enum { TAG_IO, TAG_READ, TAG_WRITE, TAG_WAKE, TAG_NONE, TAG_MASK = 7 };

typedef struct UringMonitor {
    struct io_uring ring;
    uint64_t wake_value;
    bool wake_armed;
    LoopFd *arm;
} UringMonitor;

static bool uring_init(Loop *loop, GError **error)
{
    UringMonitor *u = g_new0(UringMonitor, 1);
    struct io_uring_params params = { .cq_entries = CQ_ENTRIES };
    unsigned wanted = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL;
    int ret;

    params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    ret = io_uring_queue_init_params(SQ_ENTRIES, &u->ring, &params);
    if (ret == -EINVAL) { /* before Linux 5.19 */
        memset(&params, 0, sizeof(params));
        params.flags = IORING_SETUP_CQSIZE;
        params.cq_entries = CQ_ENTRIES;
        ret = io_uring_queue_init_params(SQ_ENTRIES, &u->ring, &params);
    }
    if (ret < 0) {
        g_free(u);
        return error_set_errno(error, -ret, "This host refuses io_uring");
    }
    if ((params.features & wanted) != wanted) {
        io_uring_queue_exit(&u->ring);
        g_free(u);
        return error_set(error, "This host's io_uring is too old");
    }
    loop->monitor_data = u;
    return true;
}

static void uring_destroy(Loop *loop)
{
    UringMonitor *u = loop->monitor_data;

    io_uring_queue_exit(&u->ring);
    g_free(u);
}

static void uring_reap(Loop *loop)
{
    UringMonitor *u = loop->monitor_data;
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;

    io_uring_for_each_cqe(&u->ring, head, cqe)
    {
        uint64_t data = cqe->user_data;
        void *ptr = (void *)(uintptr_t)(data & ~(uint64_t)TAG_MASK);
        int res = cqe->res;

        n++;
        switch (data & TAG_MASK) {
        case TAG_IO:
            if (res == -EAGAIN || res == -EINTR) { /* the pool may block where the ring would not */
                LoopIo *io = ptr;

                if (!loop->pool) {
                    loop->pool = thread_pool_new(loop->pool_min, loop->pool_max);
                }
                thread_pool_submit(loop->pool, io);
            } else {
                loop_io_finished(ptr, res);
            }
            break;
        case TAG_READ:
        case TAG_WRITE: {
            LoopFd *lfd = ptr;
            uint8_t event = (data & TAG_MASK) == TAG_READ ? LOOP_READ : LOOP_WRITE;

            lfd->armed &= ~event;
            if (lfd->removed) {
                loop_fd_maybe_free(lfd);
            } else if (res != -ECANCELED) {
                loop_fd_ready(lfd, event); /* errors too: the handler's read or write finds them */
            }
            break;
        }
        case TAG_WAKE:
            u->wake_armed = false;
            break;
        default:
            break;
        }
    }
    io_uring_cq_advance(&u->ring, n);
}

static struct io_uring_sqe *get_sqe(Loop *loop)
{
    UringMonitor *u = loop->monitor_data;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

    while (!sqe) {
        if (io_uring_submit(&u->ring) < 0) {
            io_uring_get_events(&u->ring);
            uring_reap(loop);
        }
        sqe = io_uring_get_sqe(&u->ring);
    }
    return sqe;
}

static void uring_changed(LoopFd *lfd)
{
    UringMonitor *u = lfd->loop->monitor_data;
    uint8_t want = (lfd->on_read ? LOOP_READ : 0) | (lfd->on_write ? LOOP_WRITE : 0);

    /* What is armed and no longer wanted is left: it completes once, and is not armed again. */
    if ((want & ~lfd->armed) && !lfd->on_arm) {
        lfd->on_arm = true;
        lfd->arm_next = u->arm;
        u->arm = lfd;
    }
}

static void uring_removed(LoopFd *lfd)
{
    static const struct {
        uint8_t event, tag;
    } halves[] = { { LOOP_READ, TAG_READ }, { LOOP_WRITE, TAG_WRITE } };
    UringMonitor *u = lfd->loop->monitor_data;

    if (lfd->on_arm) {
        LoopFd **link = &u->arm;

        while (*link != lfd) {
            link = &(*link)->arm_next;
        }
        *link = lfd->arm_next;
        lfd->on_arm = false;
    }
    if (!lfd->armed) {
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(halves); i++) {
        if (lfd->armed & halves[i].event) {
            struct io_uring_sqe *sqe = get_sqe(lfd->loop);

            io_uring_prep_poll_remove(sqe, (uintptr_t)lfd | halves[i].tag);
            sqe->user_data = TAG_NONE;
        }
    }
    /* Now, not with the next wait: the request holds the file open, and the caller is about to close it. */
    io_uring_submit(&u->ring);
}

static void arm_fds(Loop *loop)
{
    UringMonitor *u = loop->monitor_data;

    while (u->arm) {
        LoopFd *lfd = u->arm;
        uint8_t want = (lfd->on_read ? LOOP_READ : 0) | (lfd->on_write ? LOOP_WRITE : 0);

        u->arm = lfd->arm_next;
        lfd->on_arm = false;
        want &= ~(lfd->armed | lfd->ready);
        if (want & LOOP_READ) {
            struct io_uring_sqe *sqe = get_sqe(loop);

            io_uring_prep_poll_add(sqe, lfd->fd, POLLIN | POLLRDHUP);
            sqe->user_data = (uintptr_t)lfd | TAG_READ;
            lfd->armed |= LOOP_READ;
        }
        if (want & LOOP_WRITE) {
            struct io_uring_sqe *sqe = get_sqe(loop);

            io_uring_prep_poll_add(sqe, lfd->fd, POLLOUT);
            sqe->user_data = (uintptr_t)lfd | TAG_WRITE;
            lfd->armed |= LOOP_WRITE;
        }
    }
    if (!u->wake_armed) {
        struct io_uring_sqe *sqe = get_sqe(loop);

        io_uring_prep_poll_add(sqe, loop->wake_fd, POLLIN);
        sqe->user_data = TAG_WAKE;
        u->wake_armed = true;
    }
}

static bool uring_has_ready(Loop *loop)
{
    UringMonitor *u = loop->monitor_data;

    return io_uring_cq_ready(&u->ring) || (__atomic_load_n(u->ring.sq.kflags, __ATOMIC_RELAXED) &
                                           (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

static void enter(Loop *loop, int64_t timeout_ns)
{
    UringMonitor *u = loop->monitor_data;
    bool wake_was_armed;
    struct io_uring_cqe *cqe;

    if (timeout_ns == 0) {
        if (io_uring_sq_ready(&u->ring) || uring_has_ready(loop)) {
            io_uring_submit_and_get_events(&u->ring);
        }
    } else {
        struct __kernel_timespec ts = { .tv_sec = timeout_ns / 1000000000,
                                        .tv_nsec = timeout_ns % 1000000000 };

        io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, timeout_ns < 0 ? NULL : &ts, NULL);
    }
    wake_was_armed = u->wake_armed;
    uring_reap(loop);
    if (wake_was_armed && !u->wake_armed) {
        ssize_t n = read(loop->wake_fd, &u->wake_value, sizeof(u->wake_value));

        (void)n;
    }
}

static void uring_wait(Loop *loop, int64_t timeout_ns)
{
    arm_fds(loop);
    enter(loop, timeout_ns);
}

static void uring_wait_io(Loop *loop)
{
    UringMonitor *u = loop->monitor_data;

    if (!u->wake_armed) {
        struct io_uring_sqe *sqe = get_sqe(loop);

        io_uring_prep_poll_add(sqe, loop->wake_fd, POLLIN);
        sqe->user_data = TAG_WAKE;
        u->wake_armed = true;
    }
    enter(loop, -1);
}

static bool uring_submit_io(Loop *loop, LoopIo *io)
{
    UringMonitor *u = loop->monitor_data;
    struct io_uring_sqe *sqe;

    if (io->iov_count > 1024) {
        return false;
    }
    sqe = get_sqe(loop);
    switch (io->op) {
    case LOOP_IO_READV:
        if (io->iov_count == 1 && io->iov->iov_len <= G_MAXINT32) {
            io_uring_prep_read(sqe, io->fd, io->iov->iov_base, io->iov->iov_len, io->offset);
        } else {
            io_uring_prep_readv(sqe, io->fd, io->iov, io->iov_count, io->offset);
        }
        break;
    case LOOP_IO_WRITEV:
        if (io->iov_count == 1 && io->iov->iov_len <= G_MAXINT32) {
            io_uring_prep_write(sqe, io->fd, io->iov->iov_base, io->iov->iov_len, io->offset);
        } else {
            io_uring_prep_writev(sqe, io->fd, io->iov, io->iov_count, io->offset);
        }
        sqe->rw_flags = io->mode & LOOP_IO_STABLE ? RWF_DSYNC : 0;
        break;
    case LOOP_IO_FSYNC:
        io_uring_prep_fsync(sqe, io->fd, 0);
        break;
    case LOOP_IO_FDATASYNC:
        io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC);
        break;
    case LOOP_IO_FALLOCATE:
        io_uring_prep_fallocate(sqe, io->fd, io->mode, io->offset, io->length);
        break;
    }
    sqe->user_data = (uintptr_t)io | TAG_IO;
    if (io_uring_sq_ready(&u->ring) >= (unsigned)__atomic_load_n(&loop->io_max_batch, __ATOMIC_RELAXED)) {
        io_uring_submit(&u->ring);
    }
    return true;
}

const LoopMonitor loop_monitor_uring = {
    .name = "io_uring",
    .init = uring_init,
    .destroy = uring_destroy,
    .changed = uring_changed,
    .removed = uring_removed,
    .wait = uring_wait,
    .wait_io = uring_wait_io,
    .has_ready = uring_has_ready,
    .submit = uring_submit_io,
};
