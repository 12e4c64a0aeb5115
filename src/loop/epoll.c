/*
 * The epoll monitor, for hosts and containers that refuse io_uring. Disk I/O then goes to the thread pool.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "loop/loop_internal.h"

#include "base/error.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_PER_WAIT 128

typedef struct EpollMonitor {
    int fd;
    bool no_pwait2;    /* the host has only millisecond time-outs */
    GPtrArray *always; /* of LoopFd *: regular files, which epoll refuses since they never wait */
} EpollMonitor;

static bool epoll_init(Loop *loop, GError **error)
{
    EpollMonitor *e = g_new0(EpollMonitor, 1);
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };

    e->fd = epoll_create1(EPOLL_CLOEXEC);
    if (e->fd < 0 || epoll_ctl(e->fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0) {
        error_set_errno(error, errno, "Cannot make an event loop: epoll");
        if (e->fd >= 0) {
            close(e->fd);
        }
        g_free(e);
        return false;
    }
    e->always = g_ptr_array_new();
    loop->monitor_data = e;
    return true;
}

static void epoll_destroy(Loop *loop)
{
    EpollMonitor *e = loop->monitor_data;

    close(e->fd);
    g_ptr_array_unref(e->always);
    g_free(e);
}

static void epoll_changed(LoopFd *lfd)
{
    EpollMonitor *e = lfd->loop->monitor_data;
    uint8_t want = (lfd->on_read ? LOOP_READ : 0) | (lfd->on_write ? LOOP_WRITE : 0);
    struct epoll_event event = { .data.ptr = lfd };

    if (lfd->always_ready || (lfd->in_set ? lfd->armed : 0) == want) {
        return;
    }
    event.events = (want & LOOP_READ ? EPOLLIN | EPOLLRDHUP : 0) | (want & LOOP_WRITE ? EPOLLOUT : 0);
    if (!want) { /* not with an empty mask: hang-ups are reported even then, for ever */
        epoll_ctl(e->fd, EPOLL_CTL_DEL, lfd->fd, NULL);
        lfd->in_set = false;
    } else if (epoll_ctl(e->fd, lfd->in_set ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, lfd->fd, &event) == 0) {
        lfd->in_set = true;
    } else if (errno == EPERM) {
        lfd->always_ready = true;
        g_ptr_array_add(e->always, lfd);
    }
    lfd->armed = lfd->in_set ? want : 0;
}

static void epoll_removed(LoopFd *lfd)
{
    EpollMonitor *e = lfd->loop->monitor_data;

    if (lfd->in_set) {
        epoll_ctl(e->fd, EPOLL_CTL_DEL, lfd->fd, NULL);
        lfd->in_set = false;
    }
    if (lfd->always_ready) {
        g_ptr_array_remove_fast(e->always, lfd);
    }
    lfd->armed = 0;
}

static bool has_always(EpollMonitor *e)
{
    for (guint i = 0; i < e->always->len; i++) {
        LoopFd *lfd = g_ptr_array_index(e->always, i);

        if (lfd->on_read || lfd->on_write) {
            return true;
        }
    }
    return false;
}

static void epoll_wait_for(Loop *loop, int64_t timeout_ns)
{
    EpollMonitor *e = loop->monitor_data;
    struct epoll_event events[EVENTS_PER_WAIT];
    int n = -1;

    if (e->always->len && has_always(e)) {
        timeout_ns = 0;
    }
    if (!e->no_pwait2) {
        struct timespec ts = { .tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000 };

        n = epoll_pwait2(e->fd, events, EVENTS_PER_WAIT, timeout_ns < 0 ? NULL : &ts, NULL);
        if (n < 0 && (errno == ENOSYS || errno == EPERM)) {
            e->no_pwait2 = true;
        }
    }
    if (e->no_pwait2) {
        int timeout_ms = timeout_ns < 0 ? -1 : (int)MIN((timeout_ns + 999999) / 1000000, G_MAXINT);

        n = epoll_wait(e->fd, events, EVENTS_PER_WAIT, timeout_ms);
    }
    for (int i = 0; i < n; i++) {
        LoopFd *lfd = events[i].data.ptr;
        uint32_t bits = events[i].events;
        uint8_t ready = 0;

        if (!lfd) {
            uint64_t value;
            ssize_t ret = read(loop->wake_fd, &value, sizeof(value));

            (void)ret;
            continue;
        }
        if (bits & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
            ready |= LOOP_READ;
        }
        if (bits & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
            ready |= LOOP_WRITE;
        }
        loop_fd_ready(lfd, ready & lfd->armed);
    }
    for (guint i = 0; i < e->always->len; i++) {
        LoopFd *lfd = g_ptr_array_index(e->always, i);

        if (lfd->on_read || lfd->on_write) {
            loop_fd_ready(lfd, (lfd->on_read ? LOOP_READ : 0) | (lfd->on_write ? LOOP_WRITE : 0));
        }
    }
}

static void epoll_wait_io(Loop *loop)
{
    struct pollfd pfd = { .fd = loop->wake_fd, .events = POLLIN };

    if (poll(&pfd, 1, -1) > 0) {
        uint64_t value;
        ssize_t ret = read(loop->wake_fd, &value, sizeof(value));

        (void)ret;
    }
}

static bool epoll_has_ready(Loop *loop)
{
    return false;
}

const LoopMonitor loop_monitor_epoll = {
    .name = "epoll",
    .init = epoll_init,
    .destroy = epoll_destroy,
    .changed = epoll_changed,
    .removed = epoll_removed,
    .wait = epoll_wait_for,
    .wait_io = epoll_wait_io,
    .has_ready = epoll_has_ready,
};
