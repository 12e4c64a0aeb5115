/*
 * virtio-vsock: sockets between guest and host without a network. Source: VIRTIO 1.2, section 5.10.
 *
 * The host's end are unix sockets, and no kernel module. A program of the host connects to the property
 * `socket`, writes "CONNECT port\n", and reads "OK host-port\n" once the guest's listener has taken the
 * connection. A guest that connects to port P of CID 2 reaches whoever listens on the unix socket named
 * `socket`_P.
 *
 * Stream sockets only (no SEQPACKET). Flow control in both directions: of what the guest sends, BUFFER_BYTES
 * per connection are kept; the guest's own room bounds what it is sent. Connections do not survive a saved
 * state: the guest is told so by a transport reset event, as 5.10.6.7 has it.
 *
 * Invariants:
 *  1. A connection is in s->connections until it is freed; its key (guest_port, host_port) is there once.
 *  2. Bytes of to_host are what was received and not yet written to the host's socket: at most BUFFER_BYTES,
 * since fwd_count tells the guest of every byte written, and one that sends more is reset.
 *  3. Packets for the guest are made only when there is a buffer for them: what a connection owes it is kept
 * as bits. Runs in the main loop with the home lock held. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/virtio/virtio_device.h"
#include "io/socket.h"
#include "trace/trace.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

TRACE_EVENT(virtio_vsock_receive, "op %u guest port %u host port %u bytes %u");
TRACE_EVENT(virtio_vsock_send, "op %u guest port %u host port %u bytes %u");
TRACE_EVENT(virtio_vsock_closed, "guest port %u host port %u");

#define TYPE_VIRTIO_VSOCK "virtio-vsock-device"
#define QUEUE_SIZE        128
#define HOST_CID          2u
#define BUFFER_BYTES      (256u << 10)
#define CHUNK_BYTES       (64u << 10) /* the longest packet, both ways */
#define MAX_CONNECTIONS   1024
#define MAX_RESETS        256 /* replies to packets of no connection that wait for a buffer */
#define FIRST_HOST_PORT   (1u << 30)
#define GREETING_BYTES    32 /* "CONNECT 4294967295\n" */
#define SHUTDOWN_SECONDS  8  /* how long the guest may take to answer that it has closed, too */
#define BURST             64

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT };
enum { OP_INVALID, OP_REQUEST, OP_RESPONSE, OP_RST, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST };
enum { TYPE_STREAM = 1 };
enum { SHUTDOWN_RECEIVE = 1, SHUTDOWN_SEND = 2, SHUTDOWN_BOTH = 3 };
enum { EVENT_TRANSPORT_RESET = 0 };

typedef struct __attribute__((packed)) VsockHeader {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} VsockHeader;
G_STATIC_ASSERT(sizeof(VsockHeader) == 44);

typedef enum ConnectionState {
    CONNECTION_GREETING, /* the host's program has not said a port yet */
    CONNECTION_ASKED,    /* the guest has to answer */
    CONNECTION_UP,
    CONNECTION_DEAD, /* only a reset is owed */
} ConnectionState;

typedef struct Connection {
    struct VirtioVsock *s;
    GList link; /* in s->connections */
    ConnectionState state;
    uint32_t guest_port, host_port;
    int fd;
    LoopFd *lfd;
    char greeting[GREETING_BYTES + 1];
    unsigned greeting_size;
    /* what is owed to the guest */
    bool owes_request, owes_response, owes_reset, owes_credit;
    uint32_t owes_shutdown; /* flags; 0: nothing */
    /* the host's side */
    bool host_ended; /* it sends no more */
    bool readable;   /* there may be something to read */
    /* the guest's side */
    uint32_t guest_shutdown; /* flags */
    uint32_t guest_buffer, guest_forwarded, sent;
    /* from the guest */
    GByteArray *to_host;
    uint32_t forwarded, told_forwarded;
    int64_t deadline_us; /* after a shutdown; 0: none */
} Connection;

typedef struct PendingReset {
    uint32_t guest_port, host_port;
} PendingReset;

typedef struct VirtioVsock {
    VirtioDevice parent_obj;
    /* saved */
    bool had_connections; /* they are gone after a load: the guest is to be told */
    /* from properties */
    uint64_t guest_cid;
    char *path;
    /* derived */
    VirtQueue *rx, *tx, *events;
    GQueue connections;
    GArray *resets; /* of PendingReset */
    uint32_t next_host_port;
    int listen_fd;
    LoopFd *listen_lfd;
    Timer timer;
} VirtioVsock;
#define VIRTIO_VSOCK(obj) OBJECT_CHECK(VirtioVsock, obj, TYPE_VIRTIO_VSOCK)

static void fill_rx(VirtioVsock *s);
static void watch(Connection *c);

/* ---- connections ---- */

static Connection *connection_find(VirtioVsock *s, uint32_t guest_port, uint32_t host_port)
{
    for (GList *l = s->connections.head; l; l = l->next) {
        Connection *c = l->data;
        if (c->state != CONNECTION_GREETING && c->guest_port == guest_port && c->host_port == host_port) {
            return c;
        }
    }
    return NULL;
}

static Connection *connection_new(VirtioVsock *s, int fd)
{
    Connection *c = g_new0(Connection, 1);
    c->s = s;
    c->fd = fd;
    c->link.data = c;
    c->to_host = g_byte_array_new();
    g_queue_push_tail_link(&s->connections, &c->link);
    return c;
}

static void drop_socket(Connection *c)
{
    if (c->lfd) {
        loop_remove_fd(c->lfd);
        c->lfd = NULL;
    }
    if (c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
    }
}

static void connection_free(Connection *c)
{
    TRACE(virtio_vsock_closed, c->guest_port, c->host_port);
    drop_socket(c);
    g_queue_unlink(&c->s->connections, &c->link);
    g_byte_array_unref(c->to_host);
    g_free(c);
}

static void drop_all(VirtioVsock *s)
{
    while (s->connections.head) {
        connection_free(s->connections.head->data);
    }
    g_array_set_size(s->resets, 0);
}

/* Ends a connection that the guest knows of; what remains is to tell it. */
static void connection_reset(Connection *c)
{
    drop_socket(c);
    if (c->state == CONNECTION_GREETING || c->owes_request) {
        connection_free(c);
        return;
    }
    c->state = CONNECTION_DEAD;
    c->owes_response = c->owes_credit = false;
    c->owes_shutdown = 0;
    c->owes_reset = true;
}

static bool port_in_use(VirtioVsock *s, uint32_t host_port)
{
    for (GList *l = s->connections.head; l; l = l->next) {
        const Connection *c = l->data;
        if (c->state != CONNECTION_GREETING && c->host_port == host_port) {
            return true;
        }
    }
    return false;
}

static uint32_t new_host_port(VirtioVsock *s)
{
    do {
        s->next_host_port = s->next_host_port == UINT32_MAX - 1 ? FIRST_HOST_PORT : s->next_host_port + 1;
    } while (port_in_use(s, s->next_host_port));
    return s->next_host_port;
}

/* ---- to the host ---- */

static uint32_t guest_credit(const Connection *c)
{
    uint32_t out = c->sent - c->guest_forwarded;
    return out < c->guest_buffer ? c->guest_buffer - out : 0;
}

/* The guest is told of room when half of what it may send is used up. */
static void count_forwarded(Connection *c, uint32_t bytes)
{
    c->forwarded += bytes;
    if (c->forwarded - c->told_forwarded >= BUFFER_BYTES / 2) {
        c->owes_credit = true;
    }
}

/* Both sides have ended, or the host's end is gone: false where the connection is dead now. */
static bool flush_to_host(Connection *c)
{
    while (c->fd >= 0 && c->to_host->len) {
        ssize_t n = send(c->fd, c->to_host->data, c->to_host->len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            break;
        }
        if (n <= 0) {
            connection_reset(c);
            return false;
        }
        g_byte_array_remove_range(c->to_host, 0, (guint)n);
        count_forwarded(c, (uint32_t)n);
    }
    if (c->fd >= 0 && !c->to_host->len && (c->guest_shutdown & SHUTDOWN_SEND)) {
        shutdown(c->fd, SHUT_WR);
    }
    if ((!c->to_host->len || c->fd < 0) && c->guest_shutdown == SHUTDOWN_BOTH) {
        connection_reset(c); /* 5.10.6.5: the answer that all is done */
        return false;
    }
    return true;
}

/* ---- from the host's programs ---- */

static void arm_timer(VirtioVsock *s)
{
    int64_t first = 0;
    for (GList *l = s->connections.head; l; l = l->next) {
        const Connection *c = l->data;
        if (c->deadline_us && (!first || c->deadline_us < first)) {
            first = c->deadline_us;
        }
    }
    if (first) {
        timer_set(&s->timer, first * 1000);
    } else {
        timer_cancel(&s->timer);
    }
}

static int64_t now_us(VirtioVsock *s)
{
    return clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_REALTIME) / 1000;
}

/* Whoever did not answer a shutdown in time has no connection any more. */
static void timed_out(void *opaque)
{
    VirtioVsock *s = opaque;
    int64_t now = now_us(s);
    for (GList *l = s->connections.head, *next; l; l = next) {
        Connection *c = l->data;
        next = l->next;
        if (c->deadline_us && c->deadline_us <= now) {
            c->deadline_us = 0;
            connection_reset(c);
        }
    }
    arm_timer(s);
    fill_rx(s);
}

/* "CONNECT port\n" has come as a whole: what the guest is asked. */
static bool take_greeting(Connection *c)
{
    unsigned port;
    char end;
    if (sscanf(c->greeting, "CONNECT %u%c", &port, &end) != 2 || end != '\n' || c->greeting[8] < '0' ||
        c->greeting[8] > '9') {
        return false;
    }
    c->guest_port = port;
    c->host_port = new_host_port(c->s);
    c->state = CONNECTION_ASKED;
    c->owes_request = true;
    return true;
}

/* Byte for byte, so that nothing behind the line is lost. */
static void read_greeting(Connection *c)
{
    for (;;) {
        ssize_t n = recv(c->fd, c->greeting + c->greeting_size, 1, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0 || c->greeting_size + 1 >= GREETING_BYTES) {
            connection_free(c);
            return;
        }
        if (c->greeting[c->greeting_size++] == '\n') {
            break;
        }
    }
    if (!take_greeting(c)) {
        connection_free(c);
        return;
    }
    watch(c);
    fill_rx(c->s);
}

static void host_readable(void *opaque)
{
    Connection *c = opaque;
    VirtioVsock *s = c->s;
    if (c->state == CONNECTION_GREETING) {
        read_greeting(c);
        return;
    }
    c->readable = true;
    watch(c);
    fill_rx(s);
}

static void host_writable(void *opaque)
{
    Connection *c = opaque;
    VirtioVsock *s = c->s;
    if (flush_to_host(c)) {
        watch(c);
    }
    fill_rx(s);
}

/* Reads are switched off from the first that found something until a packet was made of it. */
static void watch(Connection *c)
{
    if (!c->lfd) {
        return;
    }
    bool wants =
        c->state == CONNECTION_GREETING || (c->state == CONNECTION_UP && !c->host_ended && !c->readable);
    loop_fd_set(c->lfd, wants ? host_readable : NULL, c->to_host->len ? host_writable : NULL);
}

static void adopt(Connection *c)
{
    c->lfd = loop_add_fd(DEVICE(c->s)->env->loop, c->fd, host_readable, NULL, NULL, c, c->s->parent_obj.home);
    watch(c);
}

static void incoming(void *opaque)
{
    VirtioVsock *s = opaque;
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    if (!virtio_device_active(&s->parent_obj) || s->connections.length >= MAX_CONNECTIONS) {
        close(fd);
        return;
    }
    adopt(connection_new(s, fd));
}

/* ---- packets to the guest ---- */

static void make_header(const VirtioVsock *s, VsockHeader *h, const Connection *c, uint16_t op, uint32_t len)
{
    *h = (VsockHeader){ .src_cid = HOST_CID,
                        .dst_cid = s->guest_cid,
                        .src_port = c->host_port,
                        .dst_port = c->guest_port,
                        .len = len,
                        .type = TYPE_STREAM,
                        .op = op,
                        .buf_alloc = BUFFER_BYTES,
                        .fwd_cnt = c->forwarded };
}

static void send_packet(VirtioVsock *s, VirtQueueElement *e, Connection *c, VsockHeader *h)
{
    TRACE(virtio_vsock_send, h->op, h->dst_port, h->src_port, h->len);
    if (c) {
        c->told_forwarded = c->forwarded;
        c->owes_credit = false;
    }
    iov_write(e->in, e->in_count, 0, h, sizeof(*h));
    virtqueue_push(s->rx, e, sizeof(*h) + h->len);
}

/* Bytes of the host's program straight into the guest's buffer: how many, 0 at its end, -1 for none now or an
 * error, which resets. */
static ssize_t read_into(Connection *c, VirtQueueElement *e, size_t limit)
{
    struct iovec iov[VIRTQUEUE_MAX_SG];
    int count = 0;
    size_t skip = sizeof(VsockHeader);
    for (unsigned i = 0; i < e->in_count && limit && count < 64; i++) {
        size_t drop = MIN(skip, e->in[i].iov_len), part = MIN(e->in[i].iov_len - drop, limit);
        skip -= drop;
        limit -= part;
        if (part) {
            iov[count++] = (struct iovec){ (uint8_t *)e->in[i].iov_base + drop, part };
        }
    }
    struct msghdr message = { .msg_iov = iov, .msg_iovlen = (size_t)count };
    ssize_t n = recvmsg(c->fd, &message, MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        connection_reset(c);
    }
    return n;
}

/* Whether the connection has something for the guest, and which packet it is. */
static bool next_op(Connection *c, uint16_t *op)
{
    if (c->owes_reset) {
        *op = OP_RST;
    } else if (c->owes_request) {
        *op = OP_REQUEST;
    } else if (c->owes_response) {
        *op = OP_RESPONSE;
    } else if (c->readable && c->fd >= 0 && c->state == CONNECTION_UP && guest_credit(c)) {
        *op = OP_RW;
    } else if (c->owes_shutdown) {
        *op = OP_SHUTDOWN;
    } else if (c->owes_credit) {
        *op = OP_CREDIT_UPDATE;
    } else {
        return false;
    }
    return true;
}

/* The host's program sends no more; where it has closed its socket altogether, it takes no more either. */
static void host_ended(Connection *c)
{
    struct pollfd closed = { .fd = c->fd };
    c->host_ended = true;
    c->readable = false;
    c->owes_shutdown = SHUTDOWN_SEND;
    if (poll(&closed, 1, 0) > 0 && (closed.revents & (POLLHUP | POLLERR))) {
        c->owes_shutdown = SHUTDOWN_BOTH;
        drop_socket(c);
    }
}

/* Makes a connection's packet in a buffer; false: there was nothing after all, and the buffer is still there.
 */
static bool send_for(VirtioVsock *s, Connection *c, uint16_t op, VirtQueueElement *e)
{
    VsockHeader h;
    if (op == OP_RW) {
        size_t room = MIN(e->in_size - sizeof(h), (size_t)MIN(guest_credit(c), CHUNK_BYTES));
        ssize_t n = room ? read_into(c, e, room) : -1;
        if (n <= 0) {
            if (n == 0) {
                host_ended(c);
            }
            c->readable = false;
            watch(c);
            return false;
        }
        c->sent += (uint32_t)n;
        make_header(s, &h, c, op, (uint32_t)n);
        send_packet(s, e, c, &h);
        return true;
    }
    make_header(s, &h, c, op, 0);
    if (op == OP_SHUTDOWN) {
        h.flags = c->owes_shutdown;
        c->owes_shutdown = 0;
    }
    send_packet(s, e, c, &h);
    c->owes_request = op == OP_REQUEST ? false : c->owes_request;
    c->owes_response = op == OP_RESPONSE ? false : c->owes_response;
    if (op == OP_RST) {
        connection_free(c);
    }
    return true;
}

/* Everything that may be sent, as long as there are buffers; each connection in its turn. */
static void fill_rx(VirtioVsock *s)
{
    VirtioDevice *vdev = &s->parent_obj;
    bool pushed = false;
    if (!virtio_device_active(vdev)) {
        return;
    }
    virtqueue_set_notification(s->rx, false);
    for (unsigned burst = 0, idle = 0;
         burst < 4 * BURST && (s->resets->len || idle < s->connections.length);) {
        Connection *c = s->resets->len ? NULL : s->connections.head->data;
        uint16_t op = OP_RST;
        if (c) {
            g_queue_unlink(&s->connections, &c->link);
            g_queue_push_tail_link(&s->connections, &c->link);
            if (!next_op(c, &op)) {
                idle++;
                continue;
            }
        }
        VirtQueueElement *e = virtqueue_pop(s->rx, sizeof(*e));
        if (!e) {
            break;
        }
        if (e->in_size <= sizeof(VsockHeader) || e->out_size) {
            virtio_device_error(vdev, "receive queue: buffer with %zu bytes out and %zu in", e->out_size,
                                e->in_size);
            virtqueue_discard(e);
            break;
        }
        idle = 0;
        burst++;
        if (!c) {
            PendingReset r = g_array_index(s->resets, PendingReset, 0);
            g_array_remove_index(s->resets, 0);
            Connection gone = { .guest_port = r.guest_port, .host_port = r.host_port };
            VsockHeader h;
            make_header(s, &h, &gone, OP_RST, 0);
            send_packet(s, e, NULL, &h);
        } else if (!send_for(s, c, op, e)) {
            virtqueue_unpop(s->rx, e);
            continue;
        }
        pushed = true;
    }
    virtqueue_set_notification(s->rx, true);
    if (pushed) {
        virtqueue_notify(s->rx);
        event_notifier_set(&s->rx->notifier); /* there may be more, after others' turn */
    }
}

static void handle_rx(VirtioDevice *vdev, VirtQueue *vq)
{
    fill_rx(VIRTIO_VSOCK(vdev));
}

/* ---- packets from the guest ---- */

static void answer_reset(VirtioVsock *s, const VsockHeader *h)
{
    PendingReset r = { h->src_port, h->dst_port };
    if (h->op != OP_RST && s->resets->len < MAX_RESETS) {
        g_array_append_val(s->resets, r);
    }
}

static int connect_to_port(const VirtioVsock *s, uint32_t port)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int length = s->path ? snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", s->path, port) : -1;
    if (length < 0 || (size_t)length >= sizeof(addr.sun_path)) {
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The guest connects. */
static void handle_request(VirtioVsock *s, const VsockHeader *h)
{
    int fd = s->connections.length < MAX_CONNECTIONS ? connect_to_port(s, h->dst_port) : -1;
    if (fd < 0) {
        answer_reset(s, h);
        return;
    }
    Connection *c = connection_new(s, fd);
    c->guest_port = h->src_port;
    c->host_port = h->dst_port;
    c->guest_buffer = h->buf_alloc;
    c->guest_forwarded = h->fwd_cnt;
    c->state = CONNECTION_UP;
    c->owes_response = true;
    adopt(c);
}

/* The guest's listener has taken a connection: its program on the host may begin. */
static void handle_response(Connection *c)
{
    char text[32];
    int length = snprintf(text, sizeof(text), "OK %u\n", c->host_port);
    if (c->state != CONNECTION_ASKED || c->owes_request) {
        connection_reset(c);
        return;
    }
    c->state = CONNECTION_UP;
    if (send(c->fd, text, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT) != length) {
        connection_reset(c);
        return;
    }
    watch(c);
}

static void handle_data(Connection *c, const VirtQueueElement *e, uint32_t len)
{
    if (c->state != CONNECTION_UP || c->fd < 0 || (c->guest_shutdown & SHUTDOWN_SEND) ||
        len > BUFFER_BYTES - MIN(c->to_host->len, BUFFER_BYTES)) {
        connection_reset(
            c); /* more than there is room for, or nobody who takes it, or after it had said to be done */
        return;
    }
    guint at = c->to_host->len;
    g_byte_array_set_size(c->to_host, at + len);
    iov_read(e->out, e->out_count, sizeof(VsockHeader), c->to_host->data + at, len);
    if (flush_to_host(c)) {
        watch(c);
    }
}

static void handle_shutdown(Connection *c, uint32_t flags)
{
    c->guest_shutdown |= flags & SHUTDOWN_BOTH;
    if ((c->guest_shutdown & SHUTDOWN_RECEIVE) && c->fd >= 0) {
        c->readable = false;
        c->host_ended = true; /* nobody reads it any more */
    }
    if (flush_to_host(c)) {
        if (c->guest_shutdown == SHUTDOWN_BOTH) {
            c->deadline_us =
                now_us(c->s) + SHUTDOWN_SECONDS * G_USEC_PER_SEC; /* for what the host does not take */
            arm_timer(c->s);
        }
        watch(c);
    }
}

static void handle_known(Connection *c, const VsockHeader *h, const VirtQueueElement *e)
{
    c->guest_buffer = h->buf_alloc;
    c->guest_forwarded = h->fwd_cnt;
    switch (h->op) {
    case OP_RESPONSE:
        handle_response(c);
        break;
    case OP_RST:
        connection_free(c);
        break;
    case OP_SHUTDOWN:
        handle_shutdown(c, h->flags);
        break;
    case OP_RW:
        handle_data(c, e, h->len);
        break;
    case OP_CREDIT_UPDATE:
        break;
    case OP_CREDIT_REQUEST:
        c->owes_credit = true;
        break;
    default:
        connection_reset(c);
    }
}

static void handle_packet(VirtioVsock *s, const VirtQueueElement *e)
{
    VsockHeader h;
    iov_read(e->out, e->out_count, 0, &h, sizeof(h));
    TRACE(virtio_vsock_receive, h.op, h.src_port, h.dst_port, h.len);
    if (h.src_cid != s->guest_cid || h.dst_cid != HOST_CID) {
        return; /* 5.10.6.4.1: not for us, or not from it */
    }
    Connection *c = connection_find(s, h.src_port, h.dst_port);
    if (h.type != TYPE_STREAM || h.len > CHUNK_BYTES || h.len > e->out_size - sizeof(h) ||
        (h.len && h.op != OP_RW)) {
        if (c) {
            connection_reset(c);
        } else {
            answer_reset(s, &h);
        }
    } else if (c) {
        if (c->state != CONNECTION_DEAD || h.op == OP_RST) {
            handle_known(c, &h, e);
        }
    } else if (h.op == OP_REQUEST) {
        handle_request(s, &h);
    } else {
        answer_reset(s, &h);
    }
}

static void handle_tx(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioVsock *s = VIRTIO_VSOCK(vdev);
    bool pushed = false;
    virtqueue_set_notification(vq, false);
    for (unsigned i = 0; i < BURST; i++) {
        VirtQueueElement *e = virtqueue_pop(vq, sizeof(*e));
        if (!e) {
            break;
        }
        if (e->out_size < sizeof(VsockHeader) || e->in_size) {
            virtio_device_error(vdev, "transmit queue: %zu bytes out and %zu in", e->out_size, e->in_size);
            virtqueue_discard(e);
            return;
        }
        handle_packet(s, e);
        virtqueue_push(vq, e, 0);
        pushed = true;
    }
    if (pushed) {
        virtqueue_notify(vq);
    }
    virtqueue_set_notification(vq, true);
    if (!virtqueue_empty(vq)) {
        event_notifier_set(&vq->notifier); /* others' turn first */
    }
    fill_rx(s);
}

/* ---- events ---- */

/* After a load: every connection of the guest is gone (5.10.6.7). */
static void tell_transport_reset(VirtioVsock *s)
{
    uint32_t event = EVENT_TRANSPORT_RESET;
    VirtQueueElement *e = s->had_connections ? virtqueue_pop(s->events, sizeof(*e)) : NULL;
    if (!e) {
        return;
    }
    iov_write(e->in, e->in_count, 0, &event, sizeof(event));
    virtqueue_push(s->events, e, sizeof(event));
    virtqueue_notify(s->events);
    s->had_connections = false;
}

static void handle_events(VirtioDevice *vdev, VirtQueue *vq)
{
    tell_transport_reset(VIRTIO_VSOCK(vdev));
}

/* ---- configuration and life ---- */

static void vsock_get_config(VirtioDevice *vdev, uint8_t *config)
{
    memcpy(config, &VIRTIO_VSOCK(vdev)->guest_cid, sizeof(uint64_t));
}

static void vsock_reset(VirtioDevice *vdev)
{
    drop_all(VIRTIO_VSOCK(vdev));
    VIRTIO_VSOCK(vdev)->had_connections = false;
    arm_timer(VIRTIO_VSOCK(vdev));
}

static bool start_listening(VirtioVsock *s, GError **error)
{
    if (!s->path) {
        return error_set(error, "Parameter 'socket' is missing");
    }
    if (strlen(s->path) > sizeof(((struct sockaddr_un *)0)->sun_path) - 12) {
        return error_set(error, "socket '%s': the path is too long for a port's number behind it", s->path);
    }
    SocketAddress address = { .kind = SOCKET_KIND_UNIX, .path = s->path };
    s->listen_fd = socket_listen(&address, NULL, error);
    return s->listen_fd >= 0;
}

static bool vsock_realize(VirtioDevice *vdev, GError **error)
{
    VirtioVsock *s = VIRTIO_VSOCK(vdev);
    const DeviceEnv *env = DEVICE(vdev)->env;
    if (s->guest_cid <= HOST_CID || s->guest_cid >= UINT32_MAX) {
        return error_set(error, "guest-cid property must be greater than 2 and less than 4294967295");
    }
    if (!start_listening(s, error)) {
        return false;
    }
    g_queue_init(&s->connections);
    s->resets = g_array_new(FALSE, FALSE, sizeof(PendingReset));
    s->next_host_port = FIRST_HOST_PORT;
    vdev->config_size = sizeof(uint64_t);
    s->rx = virtio_queue_add(vdev, QUEUE_SIZE, handle_rx, NULL);
    s->tx = virtio_queue_add(vdev, QUEUE_SIZE, handle_tx, NULL);
    s->events = virtio_queue_add(vdev, QUEUE_SIZE, handle_events, NULL);
    timer_init(&s->timer, env->loop, env->clocks, CLOCK_TYPE_REALTIME, timed_out, s, vdev->home);
    s->listen_lfd = loop_add_fd(env->loop, s->listen_fd, incoming, NULL, NULL, s, vdev->home);
    return true;
}

static void vsock_unrealize(VirtioDevice *vdev)
{
    VirtioVsock *s = VIRTIO_VSOCK(vdev);
    loop_remove_fd(s->listen_lfd);
    close(s->listen_fd);
    unlink(s->path);
    home_lock(vdev->home);
    drop_all(s);
    home_unlock(vdev->home);
    timer_destroy(&s->timer);
    g_array_unref(s->resets);
    s->resets = NULL;
}

static const Property vsock_properties[] = {
    PROP_UINT64("guest-cid", VirtioVsock, guest_cid, 0, "the guest's address (3 and up)"),
    PROP_STR("socket", VirtioVsock, path, NULL,
             "unix socket for connections to the guest; PATH_PORT are those from it"),
    PROP_END,
};

static bool vsock_pre_save(void *opaque, GError **error)
{
    VirtioVsock *s = opaque;
    s->had_connections = s->had_connections || s->connections.length;
    return true;
}

static bool vsock_post_load(void *opaque, int version, GError **error)
{
    VirtioVsock *s = opaque;
    drop_all(s);
    arm_timer(s);
    return true;
}

static const VmStateField vsock_fields[] = {
    VMS_STRUCT(parent_obj, VirtioVsock, virtio_device_vmstate),
    VMS_BOOL(had_connections, VirtioVsock),
    VMS_END,
};

static const VmState vsock_vmstate = {
    .name = "virtio-vsock",
    .version = 1,
    .fields = vsock_fields,
    .pre_save = vsock_pre_save,
    .post_load = vsock_post_load,
};

static void vsock_class_init(ObjectClass *klass, const void *data)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &vsock_vmstate;
    DEVICE_CLASS(klass)->category = "Misc";
    vc->virtio_id = VIRTIO_ID_VSOCK;
    vc->realize = vsock_realize;
    vc->unrealize = vsock_unrealize;
    vc->get_config = vsock_get_config;
    vc->reset = vsock_reset;
    object_class_add_properties(klass, vsock_properties);
}

static const TypeInfo vsock_info = {
    .name = TYPE_VIRTIO_VSOCK,
    .parent = TYPE_VIRTIO_DEVICE,
    .description = "virtio sockets between guest and host",
    .instance_size = sizeof(VirtioVsock),
    .class_init = vsock_class_init,
};
TYPE_REGISTER(vsock_info);
