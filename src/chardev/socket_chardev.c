/*
 * A stream socket, unix or tcp, as server or client. A server serves one client at a time; further ones wait
 * in the kernel's queue. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev/chardev_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "io/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FDS_MAX         16
#define MAX_RECONNECT_S 1000000

typedef struct SocketChardev {
    Chardev chr;
    SocketAddress *addr;
    bool server, nodelay;
    int64_t reconnect_s;
    int listen_fd, fd; /* -1: none */
    LoopFd *listener, *in;
    Timer retry;
    int fds[FDS_MAX]; /* that came with the input */
    int fds_count;
    bool connecting; /* a pool thread is at it */
} SocketChardev;

static void socket_update_input(Chardev *chr);
static void socket_disconnect(Chardev *chr);
static void on_client(void *opaque);

static void connected(SocketChardev *s, int fd)
{
    int one = 1;

    if (s->nodelay) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    pthread_mutex_lock(&s->chr.lock);
    s->fd = fd;
    chardev_drop_output(&s->chr);
    pthread_mutex_unlock(&s->chr.lock);
    if (s->listener) {
        loop_fd_set(s->listener, NULL, NULL);
    }
    chardev_set_open(&s->chr, true);
    socket_update_input(&s->chr);
}

static void on_client(void *opaque)
{
    SocketChardev *s = opaque;
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        connected(s, fd);
    }
}

/* ---- connecting again, in a pool thread since it may take long ---- */

typedef struct Connecting {
    SocketChardev *s;
    SocketAddress *addr; /* borrowed: s outlives this */
    int fd;
} Connecting;

static ssize_t connect_work(void *opaque)
{
    Connecting *c = opaque;

    c->fd = socket_connect(c->addr, NULL, NULL);
    return 0;
}

static void schedule_retry(SocketChardev *s)
{
    if (!s->server && s->reconnect_s) {
        timer_set(&s->retry, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + s->reconnect_s * 1000000000);
    }
}

static void connect_done(void *opaque, ssize_t result)
{
    Connecting *c = opaque;
    SocketChardev *s = c->s;

    s->connecting = false;
    if (c->fd >= 0) {
        connected(s, c->fd);
    } else {
        schedule_retry(s);
    }
    g_free(c);
}

static void retry(void *opaque)
{
    SocketChardev *s = opaque;
    Connecting *c;

    if (s->connecting || s->fd >= 0) {
        return;
    }
    c = g_new0(Connecting, 1);
    s->connecting = true;
    c->s = s;
    c->addr = s->addr;
    loop_submit_work(s->chr.loop, connect_work, connect_done, c);
}

/* ---- data ---- */

static ssize_t receive(Chardev *chr, int fd, void *buf, size_t size)
{
    SocketChardev *s = (SocketChardev *)chr;
    struct iovec iov = { buf, size };
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
    } control;
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

    if (n < 0) {
        return n;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

            for (size_t i = 0; i < count; i++) {
                int got;

                memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
                if (s->fds_count < FDS_MAX) {
                    s->fds[s->fds_count++] = got;
                } else {
                    close(got);
                }
            }
        }
    }
    return n;
}

static int socket_take_fd(Chardev *chr)
{
    SocketChardev *s = (SocketChardev *)chr;
    int fd = -1;

    if (s->fds_count) {
        fd = s->fds[0];
        memmove(s->fds, s->fds + 1, (size_t)--s->fds_count * sizeof(int));
    }
    return fd;
}

static void on_input(void *opaque)
{
    SocketChardev *s = opaque;
    ssize_t n = chardev_read_fd(&s->chr, s->fd, receive);

    if (n == -EBUSY) {
        loop_fd_set(s->in, NULL, NULL);
    } else if (n <= 0 && n != -EAGAIN) {
        socket_disconnect(&s->chr);
    }
}

static void socket_update_input(Chardev *chr)
{
    SocketChardev *s = (SocketChardev *)chr;
    bool wants = chardev_wants_input(chr);

    if (s->fd < 0) {
        return;
    }
    if (s->in) {
        loop_fd_set(s->in, wants ? on_input : NULL, NULL);
    } else if (wants) {
        s->in = loop_add_fd(chr->loop, s->fd, on_input, NULL, NULL, s, NULL);
    }
}

static void socket_disconnect(Chardev *chr)
{
    SocketChardev *s = (SocketChardev *)chr;
    int fd = s->fd;

    if (fd < 0) {
        return;
    }
    loop_remove_fd(s->in);
    s->in = NULL;
    chardev_unwatch_output(chr);
    pthread_mutex_lock(&chr->lock);
    s->fd = -1;
    chardev_drop_output(chr);
    pthread_mutex_unlock(&chr->lock);
    close(fd);
    while (s->fds_count) {
        close(s->fds[--s->fds_count]);
    }
    __atomic_store_n(&chr->input_paused, false, __ATOMIC_SEQ_CST);
    chardev_set_open(chr, false);
    if (s->listener) {
        loop_fd_set(s->listener, on_client, NULL);
    } else {
        schedule_retry(s);
    }
}

static ssize_t socket_write(Chardev *chr, const uint8_t *data, size_t size)
{
    SocketChardev *s = (SocketChardev *)chr;
    ssize_t n;

    if (s->fd < 0) {
        return -ENOTCONN;
    }
    do {
        n = send(s->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return 0;
        }
        /* The loop finds out by reading; if the front end reads nothing, tell it so. */
        __atomic_store_n(&chr->disconnect_asked, true, __ATOMIC_SEQ_CST);
        bh_schedule(chr->bh);
        return -EPIPE;
    }
    return n;
}

static int socket_write_fd(Chardev *chr)
{
    return ((SocketChardev *)chr)->fd;
}

static char *socket_filename(Chardev *chr)
{
    SocketChardev *s = (SocketChardev *)chr;
    g_autofree char *where = NULL, *peer = NULL;
    int fd = s->fd >= 0 ? s->fd : s->listen_fd;
    const char *server = s->server ? ",server=on" : "";

    if (fd < 0) {
        where = socket_address_describe(s->addr);
    } else if (socket_is_unix(fd)) {
        g_autofree char *name = s->server && s->listen_fd >= 0 ? socket_local_name(s->listen_fd) : NULL;

        where = g_strconcat("unix:", name ? name : s->addr->path ? s->addr->path : "", NULL);
    } else {
        g_autofree char *name = socket_local_name(fd);

        where = g_strconcat("tcp:", name, NULL);
        if (s->fd >= 0) {
            g_autofree char *other = socket_peer_name(s->fd);

            peer = g_strconcat(s->server ? " <-> " : " -> ", other, NULL);
        }
    }
    return g_strconcat(s->fd < 0 ? "disconnected:" : "", where, server, peer, NULL);
}

static bool wait_for_client(SocketChardev *s, GError **error)
{
    g_autofree char *name = socket_filename(&s->chr);
    struct pollfd pfd = { .fd = s->listen_fd, .events = POLLIN };
    int fd;

    log_info("waiting for connection on: %s", name);
    do {
        while (poll(&pfd, 1, -1) < 0 && errno == EINTR) {}
        fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED));
    if (fd < 0) {
        return error_set_errno(error, errno, "%s: accept", s->chr.what);
    }
    connected(s, fd);
    return true;
}

static bool socket_open(Chardev *chr, const QapiChardevBackend *backend, GError **error)
{
    SocketChardev *s = (SocketChardev *)chr;
    FdTable *fds = chardev_registry_fds(chr->reg);
    const QapiChardevSocket *o = backend->u_socket->data;

    s->fd = s->listen_fd = -1;
    timer_init(&s->retry, chr->loop, NULL, CLOCK_TYPE_REALTIME, retry, s, NULL);
    s->addr = socket_address_from_legacy(o->addr, chr->what, error);
    if (!s->addr) {
        return false;
    }
    s->server = !o->has_server || o->server;
    if (!s->server && o->has_wait) {
        return error_set(error, "%s: 'wait' option is incompatible with socket in client connect mode",
                         chr->what);
    }
    if (o->has_reconnect && (o->reconnect < 0 || o->reconnect > MAX_RECONNECT_S)) {
        return error_set(error, "%s: parameter 'reconnect' expects a number from 0 to %d", chr->what,
                         MAX_RECONNECT_S);
    }
    s->reconnect_s = o->has_reconnect ? o->reconnect : 0;
    if (s->server && s->reconnect_s) {
        return error_set(error, "%s: 'reconnect' option is incompatible with server mode", chr->what);
    }
    s->nodelay = o->has_nodelay ? o->nodelay : s->addr->kind == SOCKET_KIND_INET;
    if (s->server) {
        s->listen_fd = socket_listen(s->addr, fds, error);
        if (s->listen_fd < 0) {
            return false;
        }
        if (o->has_wait && o->wait && !wait_for_client(s, error)) {
            return false;
        }
        s->listener = loop_add_fd(chr->loop, s->listen_fd, s->fd < 0 ? on_client : NULL, NULL, NULL, s, NULL);
        return true;
    }
    if (s->reconnect_s && s->addr->kind != SOCKET_KIND_FD) {
        retry(s);
        return true;
    }
    {
        int fd = socket_connect(s->addr, fds, error);

        if (fd < 0) {
            return false;
        }
        connected(s, fd);
    }
    return true;
}

static void socket_close(Chardev *chr)
{
    SocketChardev *s = (SocketChardev *)chr;

    while (s->connecting) { /* its answer is for us */
        loop_iterate_io(chr->loop, true);
    }
    s->reconnect_s = 0;
    if (s->listener) {
        loop_remove_fd(s->listener);
        s->listener = NULL;
    }
    chr->fe = NULL;
    socket_disconnect(chr);
    timer_destroy(&s->retry);
    if (s->listen_fd >= 0) {
        close(s->listen_fd);
        if (s->addr->kind == SOCKET_KIND_UNIX && !s->addr->abstract) {
            unlink(s->addr->path);
        }
    }
    socket_address_free(s->addr);
}

static const ChardevDriver socket_driver = {
    .name = "socket",
    .instance_size = sizeof(SocketChardev),
    .open = socket_open,
    .close = socket_close,
    .write = socket_write,
    .write_fd = socket_write_fd,
    .update_input = socket_update_input,
    .disconnect = socket_disconnect,
    .filename = socket_filename,
    .take_fd = socket_take_fd,
};
CHARDEV_DRIVER(socket_driver);
