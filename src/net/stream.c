/*
 * -netdev stream: frames over a stream socket, each with its length in front as four bytes, big-endian; what
 * passt and QEMU's stream back end speak. As a server it takes one peer at a time; while there is none,
 * frames are dropped. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "io/socket.h"
#include "net/net_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEADER_BYTES 4

typedef struct StreamState {
    NetClient *nc;
    SocketAddress *addr;
    int listen_fd, fd; /* -1: none */
    LoopFd *listen_lfd, *lfd;
    NetQueue to_peer;
    GBytes *sending; /* the frame under way, header included */
    size_t sent;
    BottomHalf *work_bh;
    uint8_t *in; /* bytes of the peer that are not yet delivered */
    size_t in_start, in_end;
    bool stopped;   /* the card has no room */
    bool connected; /* atomic */
} StreamState;

#define IN_BYTES ((size_t)2 * (NET_MAX_FRAME + HEADER_BYTES))

static void stream_watch(StreamState *s);

static void stream_disconnect(StreamState *s)
{
    if (s->lfd) {
        loop_remove_fd(s->lfd);
        s->lfd = NULL;
    }
    if (s->fd >= 0) {
        close(s->fd);
        s->fd = -1;
    }
    __atomic_store_n(&s->connected, false, __ATOMIC_SEQ_CST);
    s->in_start = s->in_end = 0;
    s->stopped = false;
    g_clear_pointer(&s->sending, g_bytes_unref);
    s->sent = 0;
    GBytes *frame;
    while ((frame = net_queue_pop(&s->to_peer)) != NULL) {
        g_bytes_unref(frame);
    }
}

/* Delivers whole frames; false: the peer broke the protocol. */
static bool stream_deliver(StreamState *s)
{
    while (s->in_end - s->in_start >= HEADER_BYTES) {
        const uint8_t *p = s->in + s->in_start;
        uint32_t size = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
        if (size > NET_MAX_FRAME) {
            return false;
        }
        if (s->in_end - s->in_start < HEADER_BYTES + size) {
            break;
        }
        const struct iovec iov = { .iov_base = (void *)(p + HEADER_BYTES), .iov_len = size };
        if (size > 0 && net_client_deliver(s->nc, &iov, 1) == 0) {
            s->stopped = true;
            return true;
        }
        s->in_start += HEADER_BYTES + size;
    }
    s->stopped = false;
    memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
    s->in_end -= s->in_start;
    s->in_start = 0;
    return true;
}

static void stream_readable(void *opaque)
{
    StreamState *s = opaque;
    ssize_t got = read(s->fd, s->in + s->in_end, IN_BYTES - s->in_end);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        stream_disconnect(s);
        return;
    }
    s->in_end += (size_t)got;
    if (!stream_deliver(s)) {
        stream_disconnect(s);
        return;
    }
    stream_watch(s);
}

/* Writes what is queued, until the socket is full; false: it is. */
static bool stream_flush(StreamState *s)
{
    while (s->fd >= 0) {
        if (!s->sending) {
            GBytes *frame = net_queue_pop(&s->to_peer);
            if (!frame) {
                return true;
            }
            s->sending = frame;
            s->sent = 0;
        }
        gsize size;
        const uint8_t *data = g_bytes_get_data(s->sending, &size);
        ssize_t wrote = send(s->fd, data + s->sent, size - s->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote < 0 && errno == EAGAIN) {
            return false;
        }
        if (wrote < 0) {
            stream_disconnect(s);
            return true;
        }
        s->sent += (size_t)wrote;
        if (s->sent == size) {
            g_clear_pointer(&s->sending, g_bytes_unref);
        }
    }
    return true;
}

static void stream_work(void *opaque)
{
    StreamState *s = opaque;
    stream_flush(s);
    stream_watch(s);
    if (!s->sending && net_queue_take_refused(&s->to_peer)) {
        net_client_writable(s->nc);
    }
}

static void stream_watch(StreamState *s)
{
    if (s->lfd) {
        loop_fd_set(s->lfd, s->stopped ? NULL : stream_readable, s->sending ? stream_work : NULL);
    }
}

static void stream_take(StreamState *s, int fd)
{
    s->fd = fd;
    s->lfd = loop_add_fd(net_client_loop(s->nc), fd, stream_readable, NULL, NULL, s, NULL);
    __atomic_store_n(&s->connected, true, __ATOMIC_SEQ_CST);
}

static void stream_incoming(void *opaque)
{
    StreamState *s = opaque;
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    if (s->fd >= 0) {
        close(fd); /* one peer at a time */
        return;
    }
    stream_take(s, fd);
}

static ssize_t stream_send(NetClient *nc, int queue, const struct iovec *iov, int iov_count)
{
    StreamState *s = nc->state;
    size_t size = 0;
    for (int i = 0; i < iov_count; i++) {
        size += iov[i].iov_len;
    }
    if (!__atomic_load_n(&s->connected, __ATOMIC_SEQ_CST) || size > NET_MAX_FRAME - HEADER_BYTES) {
        return (ssize_t)size; /* nobody is there */
    }
    uint8_t header[HEADER_BYTES] = { size >> 24, size >> 16, size >> 8, size };
    g_autofree struct iovec *with_header = g_new(struct iovec, iov_count + 1);
    with_header[0] = (struct iovec){ .iov_base = header, .iov_len = sizeof(header) };
    memcpy(with_header + 1, iov, sizeof(*iov) * iov_count);
    bool taken = net_queue_push(&s->to_peer, with_header, iov_count + 1);
    bh_schedule(s->work_bh);
    return taken ? (ssize_t)size : 0;
}

static void stream_accept_input(NetClient *nc)
{
    StreamState *s = nc->state;
    if (s->stopped) {
        if (!stream_deliver(s)) {
            stream_disconnect(s);
        }
        stream_watch(s);
    }
}

static void stream_close(NetClient *nc)
{
    StreamState *s = nc->state;
    stream_disconnect(s);
    if (s->listen_lfd) {
        loop_remove_fd(s->listen_lfd);
    }
    if (s->listen_fd >= 0) {
        close(s->listen_fd);
        if (s->addr->kind == SOCKET_KIND_UNIX && !s->addr->abstract) {
            unlink(s->addr->path);
        }
    }
    bh_free(s->work_bh);
    net_queue_destroy(&s->to_peer);
    socket_address_free(s->addr);
    g_free(s->in);
}

static bool stream_open(NetClient *nc, const QapiNetdev *options, GError **error)
{
    StreamState *s = nc->state;
    const QapiNetdevStreamOptions *o = options->u_stream;
    g_autofree char *what = g_strdup_printf("netdev '%s'", nc->id);
    bool server = o->has_server && o->server;

    if (o->has_queues && !net_client_set_queues(nc, o->queues, error)) {
        return false;
    }
    s->addr = socket_address_from_qapi(o->addr, what, error);
    if (!s->addr) {
        return false;
    }
    int fd = server ? socket_listen(s->addr, net_client_fds(nc), error)
                    : socket_connect(s->addr, net_client_fds(nc), error);
    if (fd < 0) {
        error_prefix(error, "%s: ", what);
        socket_address_free(s->addr);
        return false;
    }
    s->nc = nc;
    s->in = g_malloc(IN_BYTES);
    s->fd = s->listen_fd = -1;
    net_queue_init(&s->to_peer);
    s->work_bh = bh_new(net_client_loop(nc), stream_work, s, NULL);
    if (server) {
        s->listen_fd = fd;
        s->listen_lfd = loop_add_fd(net_client_loop(nc), fd, stream_incoming, NULL, NULL, s, NULL);
    } else {
        stream_take(s, fd);
    }
    return true;
}

static void stream_describe(NetClient *nc, GString *out)
{
    const StreamState *s = nc->state;
    g_autofree char *text = socket_address_describe(s->addr);
    g_string_append_printf(out, "%s%s", text, s->connected ? "" : " (nobody is connected)");
}

const NetClientType net_client_stream = {
    .name = "stream",
    .state_size = sizeof(StreamState),
    .open = stream_open,
    .close = stream_close,
    .send = stream_send,
    .accept_input = stream_accept_input,
    .describe = stream_describe,
};
