/*
 * The NBD server. Specification: NetworkBlockDevice/nbd, doc/proto.md: fixed newstyle negotiation, simple and
 * structured replies, block status of base:allocation, qemu:dirty-bitmap:NAME and qemu:allocation-depth.
 *
 * Invariants:
 *  1. A connection is freed by its reader coroutine alone, when no request of it is under way.
 *  2. `closing` is set once; from then on nothing more is read, and replies are dropped.
 *  3. What a client may make us hold is bounded: REQUESTS_MAX requests and BYTES_MAX bytes of data.
 *  4. An export is not freed while a connection refers to it.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/export/nbd_server.h"

#include "base/error.h"
#include "base/log.h"
#include "block/export/nbd_proto.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RX_BYTES      (64u << 10)
#define REQUESTS_MAX  128
#define BYTES_MAX     (64u << 20)
#define EXTENTS_MAX   2048
#define SPARSE_MIN    (64u << 10) /* reads below this are answered without looking for holes */
#define SEND_IOV      64
#define OPTIONS_MAX   1024 /* of one negotiation */
#define ID_ALLOCATION 0
#define ID_DEPTH      1
#define ID_BITMAP     2 /* and on */

typedef struct NbdConn NbdConn;

struct NbdExport {
    NbdServer *server;
    BlockChild *root;
    char *name, *description;
    uint64_t offset, size;
    uint16_t flags;
    bool depth, writethrough;
    GPtrArray *bitmaps; /* of DirtyBitmap *, borrowed; busy while exported */
    unsigned conns;
    bool dying;
};

struct NbdServer {
    BlockGraph *graph;
    Loop *loop;
    GPtrArray *exports, *conns, *listeners;
    unsigned max_clients;
    TlsCreds *tls; /* counted; NULL: none */
    char *authz;
    void (*gone)(void *opaque);
    void *gone_opaque;
};

typedef struct Listener {
    NbdServer *server;
    int fd;
    LoopFd *watch;
} Listener;

typedef struct NbdReply {
    struct NbdReply *next;
    uint8_t head[64];
    size_t head_bytes;
    uint8_t *data; /* owned; NULL: none */
    size_t data_bytes;
    bool aligned; /* data came from block_buffer_try() */
} NbdReply;

struct NbdConn {
    NbdServer *server;
    int fd;
    TlsSession *tls; /* once the client asked for it */
    bool handshaking;
    LoopFd *watch;
    Coroutine *reader; /* that waits for the socket; NULL: it does something else */
    bool want_read, want_write;
    bool closing, negotiated, no_zeroes, structured;
    NbdExport *exp;
    /* metadata contexts, for context_exp */
    NbdExport *context_exp;
    bool allocation, depth;
    bool *bitmap_on; /* one for each of context_exp's */
    unsigned options;
    /* received and not yet taken */
    uint8_t *rx;
    size_t rx_at, rx_end;
    bool rx_drained; /* the last recv() got all there was */
    /* to be sent */
    NbdReply *out, **out_end;
    size_t out_sent; /* of the first */
    BottomHalf *send_bh;
    unsigned in_flight;
    uint64_t bytes;
    CoQueue room;
};

typedef struct NbdRequest {
    NbdConn *conn;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
    uint8_t *data;
    int result; /* of what was wrong with it from the beginning */
} NbdRequest;

/* ---- the socket ---- */

static void conn_close(NbdConn *c)
{
    if (!c->closing) {
        c->closing = true;
        shutdown(c->fd, SHUT_RDWR);
    }
}

static void conn_on_read(void *opaque);
static void conn_on_write(void *opaque);

static void conn_watch(NbdConn *c)
{
    loop_fd_set(c->watch, c->want_read ? conn_on_read : NULL, c->want_write ? conn_on_write : NULL);
}

static void conn_on_read(void *opaque)
{
    NbdConn *c = opaque;
    Coroutine *reader = c->reader;
    if (!reader) { /* busy: it asks again */
        c->want_read = false;
        conn_watch(c);
        return;
    }
    c->reader = NULL;
    coroutine_enter(reader);
}

static void conn_wait_readable(NbdConn *c)
{
    if (!c->want_read) {
        c->want_read = true;
        conn_watch(c);
    }
    c->reader = coroutine_self();
    coroutine_yield();
}

/* Some bytes into buf: their number, 0 at the end, or a negative errno. */
static ssize_t conn_receive_some(NbdConn *c, void *buf, size_t size)
{
    for (;;) {
        if (c->rx_drained) {
            c->rx_drained = false;
            conn_wait_readable(c);
        }
        ssize_t n = c->tls ? tls_recv(c->tls, buf, size) : recv(c->fd, buf, size, 0);
        if (n >= 0) {
            c->rx_drained = !c->tls && n > 0 && (size_t)n < size; /* of TLS's records more may be there */
            return n;
        }
        if (c->tls) {
            errno = (int)-n;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            c->rx_drained = true;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
}

/* Exactly size bytes; false: the connection is at its end. */
static bool conn_read(NbdConn *c, void *buf, size_t size)
{
    uint8_t *p = buf;
    while (size > 0) {
        size_t have = c->rx_end - c->rx_at;
        if (have > 0) {
            size_t n = MIN(have, size);
            memcpy(p, c->rx + c->rx_at, n);
            c->rx_at += n;
            p += n;
            size -= n;
            continue;
        }
        if (c->closing) {
            return false;
        }
        /* Much goes to its place at once; little is read ahead. */
        bool direct = size >= RX_BYTES;
        ssize_t n = conn_receive_some(c, direct ? p : c->rx, direct ? size : RX_BYTES);
        if (n <= 0) {
            return false;
        }
        if (direct) {
            p += n;
            size -= (size_t)n;
        } else {
            c->rx_at = 0;
            c->rx_end = (size_t)n;
        }
    }
    return true;
}

static bool conn_skip(NbdConn *c, uint64_t bytes)
{
    uint8_t waste[4096];
    while (bytes > 0) {
        size_t n = MIN(bytes, sizeof(waste));
        if (!conn_read(c, waste, n)) {
            return false;
        }
        bytes -= n;
    }
    return true;
}

static void reply_free(NbdReply *r)
{
    if (r->aligned) {
        g_aligned_free(r->data);
    } else {
        g_free(r->data);
    }
    g_free(r);
}

static void conn_drop_output(NbdConn *c)
{
    while (c->out) {
        NbdReply *r = c->out;
        c->out = r->next;
        reply_free(r);
    }
    c->out_end = &c->out;
    c->out_sent = 0;
}

/* Takes n sent bytes off the queue. */
static void conn_sent(NbdConn *c, size_t n)
{
    n += c->out_sent;
    while (c->out && n >= c->out->head_bytes + c->out->data_bytes) {
        NbdReply *r = c->out;
        n -= r->head_bytes + r->data_bytes;
        c->out = r->next;
        reply_free(r);
    }
    if (!c->out) {
        c->out_end = &c->out;
    }
    c->out_sent = n;
}

static void conn_flush_output(NbdConn *c)
{
    while (c->out && !c->closing) {
        struct iovec iov[SEND_IOV];
        int count = 0;
        size_t skip = c->out_sent;
        for (NbdReply *r = c->out; r && count + 2 <= SEND_IOV; r = r->next) {
            const struct {
                uint8_t *base;
                size_t bytes;
            } parts[] = { { r->head, r->head_bytes }, { r->data, r->data_bytes } };
            for (int i = 0; i < 2; i++) {
                if (skip >= parts[i].bytes) {
                    skip -= parts[i].bytes;
                } else {
                    iov[count++] = (struct iovec){ parts[i].base + skip, parts[i].bytes - skip };
                    skip = 0;
                }
            }
        }
        struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)count };
        ssize_t n = c->tls ? tls_sendv(c->tls, iov, count) : sendmsg(c->fd, &msg, MSG_NOSIGNAL);
        if (c->tls && n < 0) {
            errno = (int)-n;
        }
        if (n >= 0) {
            conn_sent(c, (size_t)n);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!c->want_write) {
                c->want_write = true;
                conn_watch(c);
            }
            return;
        } else if (errno != EINTR) {
            conn_close(c);
        }
    }
    if (c->closing) {
        conn_drop_output(c);
    }
    if (c->want_write) {
        c->want_write = false;
        conn_watch(c);
    }
}

static void conn_on_write(void *opaque)
{
    NbdConn *c = opaque;
    if (c->handshaking) {
        Coroutine *reader = c->reader;
        c->reader = NULL;
        if (reader) {
            coroutine_enter(reader);
        }
    } else {
        conn_flush_output(c);
    }
}

static void conn_send_bh(void *opaque)
{
    NbdConn *c = opaque;
    if (!c->want_write) {
        conn_flush_output(c);
    }
}

/* Queues it; what ends in one turn of the loop goes out together. Takes reply. */
static void conn_send(NbdConn *c, NbdReply *reply)
{
    if (c->closing) {
        reply_free(reply);
        return;
    }
    *c->out_end = reply;
    c->out_end = &reply->next;
    if (c->want_write) {
        return;
    }
    if (c->in_flight <= 1) {
        conn_flush_output(c);
    } else {
        bh_schedule(c->send_bh);
    }
}

static void conn_send_bytes(NbdConn *c, const void *bytes, size_t size)
{
    NbdReply *r = g_new0(NbdReply, 1);
    if (size <= sizeof(r->head)) {
        memcpy(r->head, bytes, size);
        r->head_bytes = size;
    } else {
        r->data = g_memdup2(bytes, size);
        r->data_bytes = size;
    }
    conn_send(c, r);
}

/* ---- negotiation ---- */

static void send_option_reply(NbdConn *c, uint32_t option, uint32_t type, const void *data, uint32_t length)
{
    NbdReply *r = g_new0(NbdReply, 1);
    nbd_put64(r->head, NBD_OPTION_REPLY_MAGIC);
    nbd_put32(r->head + 8, option);
    nbd_put32(r->head + 12, type);
    nbd_put32(r->head + 16, length);
    r->head_bytes = 20;
    if (length) {
        r->data = g_memdup2(data, length);
        r->data_bytes = length;
    }
    conn_send(c, r);
}

static void send_option_error(NbdConn *c, uint32_t option, uint32_t type, const char *fmt, ...)
    G_GNUC_PRINTF(4, 5);
static void send_option_error(NbdConn *c, uint32_t option, uint32_t type, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    send_option_reply(c, option, type, text, (uint32_t)MIN(strlen(text), NBD_MAX_NAME));
}

/* A string of the protocol: length and bytes at *at of data; NULL where it does not fit or is no name. */
static char *take_string(const uint8_t *data, size_t size, size_t *at)
{
    if (size - *at < 4) {
        return NULL;
    }
    uint32_t length = nbd_get32(data + *at);
    if (length > NBD_MAX_NAME || length > size - *at - 4 || memchr(data + *at + 4, 0, length)) {
        return NULL;
    }
    char *text = g_strndup((const char *)data + *at + 4, length);
    *at += 4 + length;
    return text;
}

static void contexts_clear(NbdConn *c)
{
    c->context_exp = NULL;
    c->allocation = c->depth = false;
    g_clear_pointer(&c->bitmap_on, g_free);
}

static void conn_use(NbdConn *c, NbdExport *exp)
{
    c->exp = exp;
    exp->conns++;
    c->negotiated = true;
    if (c->context_exp != exp) {
        contexts_clear(c);
    }
}

static uint16_t export_flags(const NbdConn *c, const NbdExport *exp)
{
    return (uint16_t)(exp->flags | (c->structured ? NBD_FLAG_SEND_DF : 0));
}

static void option_list(NbdConn *c)
{
    for (guint i = 0; i < c->server->exports->len; i++) {
        const NbdExport *exp = c->server->exports->pdata[i];
        size_t name = strlen(exp->name), text = exp->description ? strlen(exp->description) : 0;
        g_autofree uint8_t *data = g_malloc(4 + name + text);
        nbd_put32(data, (uint32_t)name);
        memcpy(data + 4, exp->name, name);
        memcpy(data + 4 + name, exp->description ? exp->description : "", text);
        send_option_reply(c, NBD_OPT_LIST, NBD_REP_SERVER, data, (uint32_t)(4 + name + text));
    }
    send_option_reply(c, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

static void send_info_text(NbdConn *c, uint32_t option, uint16_t info, const char *text)
{
    size_t length = strlen(text);
    g_autofree uint8_t *data = g_malloc(2 + length);
    nbd_put16(data, info);
    memcpy(data + 2, text, length);
    send_option_reply(c, option, NBD_REP_INFO, data, (uint32_t)(2 + length));
}

/* INFO and GO. True: the transmission begins. */
static bool option_go(NbdConn *c, uint32_t option, const uint8_t *data, size_t size)
{
    size_t at = 0;
    g_autofree char *name = take_string(data, size, &at);
    if (!name || size - at < 2 || (size - at - 2) != 2 * (size_t)nbd_get16(data + at)) {
        send_option_error(c, option, NBD_REP_ERR_INVALID, "malformed request");
        return false;
    }
    bool want_name = false, want_description = false, want_sizes = false;
    for (at += 2; at < size; at += 2) {
        uint16_t info = nbd_get16(data + at);
        want_name = want_name || info == NBD_INFO_NAME;
        want_description = want_description || info == NBD_INFO_DESCRIPTION;
        want_sizes = want_sizes || info == NBD_INFO_BLOCK_SIZE;
    }
    NbdExport *exp = nbd_export_find(c->server, name);
    if (!exp) {
        send_option_error(c, option, NBD_REP_ERR_UNKNOWN, "export '%s' not present", name);
        return false;
    }
    if (want_name) {
        send_info_text(c, option, NBD_INFO_NAME, exp->name);
    }
    if (want_description && exp->description) {
        send_info_text(c, option, NBD_INFO_DESCRIPTION, exp->description);
    }
    const BlockLimits *limits = &exp->root->node->limits;
    bool any = exp->root->node->any_alignment;
    uint32_t align = any ? 1 : MAX(1, limits->request_alignment);
    uint8_t sizes[14];
    nbd_put16(sizes, NBD_INFO_BLOCK_SIZE);
    nbd_put32(sizes + 2, option == NBD_OPT_INFO || want_sizes ? align : 1);
    nbd_put32(sizes + 6, MAX(4096, align));
    nbd_put32(sizes + 10, NBD_MAX_REQUEST);
    send_option_reply(c, option, NBD_REP_INFO, sizes, sizeof(sizes));
    uint8_t info[12];
    nbd_put16(info, NBD_INFO_EXPORT);
    nbd_put64(info + 2, exp->size);
    nbd_put16(info + 10, export_flags(c, exp));
    send_option_reply(c, option, NBD_REP_INFO, info, sizeof(info));
    if (option == NBD_OPT_GO) {
        conn_use(c, exp);
    }
    send_option_reply(c, option, NBD_REP_ACK, NULL, 0);
    return option == NBD_OPT_GO;
}

/* False: the connection ends. */
static bool option_export_name(NbdConn *c, const uint8_t *data, size_t size)
{
    g_autofree char *name = g_strndup((const char *)data, size);
    NbdExport *exp = size <= NBD_MAX_NAME && strlen(name) == size ? nbd_export_find(c->server, name) : NULL;
    if (!exp) {
        return false;
    }
    uint8_t answer[134] = { 0 };
    conn_use(c, exp);
    nbd_put64(answer, exp->size);
    nbd_put16(answer + 8, export_flags(c, exp));
    conn_send_bytes(c, answer, c->no_zeroes ? 10 : sizeof(answer));
    return true;
}

static void send_context(NbdConn *c, uint32_t option, uint32_t id, const char *name)
{
    size_t length = strlen(name);
    g_autofree uint8_t *data = g_malloc(4 + length);
    nbd_put32(data, option == NBD_OPT_LIST_META_CONTEXT ? 0 : id);
    memcpy(data + 4, name, length);
    send_option_reply(c, option, NBD_REP_META_CONTEXT, data, (uint32_t)(4 + length));
}

/* Whether a query means this context: exactly, or (for a list) by an empty or shortened name ending with ':'.
 */
static bool query_matches(const char *query, const char *context, bool list)
{
    return g_str_equal(query, context) ||
           (list && g_str_has_suffix(query, ":") && g_str_has_prefix(context, query));
}

static void option_meta_context(NbdConn *c, uint32_t option, const uint8_t *data, size_t size)
{
    bool list = option == NBD_OPT_LIST_META_CONTEXT;
    size_t at = 0;
    if (!c->structured) {
        send_option_error(c, option, NBD_REP_ERR_INVALID, "structured replies were not negotiated");
        return;
    }
    g_autofree char *name = take_string(data, size, &at);
    if (!name || size - at < 4) {
        send_option_error(c, option, NBD_REP_ERR_INVALID, "malformed request");
        return;
    }
    if (!list) {
        contexts_clear(c);
    }
    NbdExport *exp = nbd_export_find(c->server, name);
    if (!exp) {
        send_option_error(c, option, NBD_REP_ERR_UNKNOWN, "export '%s' not present", name);
        return;
    }
    uint32_t queries = nbd_get32(data + at);
    at += 4;
    bool allocation = list && queries == 0, depth = allocation && exp->depth;
    g_autofree bool *bitmaps = g_new0(bool, exp->bitmaps->len + 1);
    for (guint i = 0; i < exp->bitmaps->len; i++) {
        bitmaps[i] = allocation;
    }
    for (uint32_t q = 0; q < queries; q++) {
        g_autofree char *query = take_string(data, size, &at);
        if (!query) {
            send_option_error(c, option, NBD_REP_ERR_INVALID, "malformed query");
            return;
        }
        allocation = allocation || query_matches(query, "base:allocation", list);
        depth = depth || (exp->depth && query_matches(query, "qemu:allocation-depth", list));
        for (guint i = 0; i < exp->bitmaps->len; i++) {
            const DirtyBitmap *b = exp->bitmaps->pdata[i];
            g_autofree char *context = g_strconcat("qemu:dirty-bitmap:", b->name, NULL);
            bitmaps[i] = bitmaps[i] || query_matches(query, context, list);
        }
    }
    if (at != size) {
        send_option_error(c, option, NBD_REP_ERR_INVALID, "malformed request");
        return;
    }
    if (allocation) {
        send_context(c, option, ID_ALLOCATION, "base:allocation");
    }
    if (depth) {
        send_context(c, option, ID_DEPTH, "qemu:allocation-depth");
    }
    for (guint i = 0; i < exp->bitmaps->len; i++) {
        const DirtyBitmap *b = exp->bitmaps->pdata[i];
        if (bitmaps[i]) {
            g_autofree char *context = g_strconcat("qemu:dirty-bitmap:", b->name, NULL);
            send_context(c, option, ID_BITMAP + i, context);
        }
    }
    send_option_reply(c, option, NBD_REP_ACK, NULL, 0);
    if (!list) {
        c->context_exp = exp;
        c->allocation = allocation;
        c->depth = depth;
        c->bitmap_on = g_steal_pointer(&bitmaps);
    }
}

/* The handshake, in the reader's coroutine. False: the connection ends. */
static bool start_tls(NbdConn *c)
{
    NbdServer *server = c->server;
    g_autoptr(GError) error = NULL;
    bool wants_write = false;
    int done = 0;
    while (c->out && !c->closing) { /* the acknowledgement goes in the clear */
        c->handshaking = c->want_write = true;
        c->reader = coroutine_self();
        conn_watch(c);
        coroutine_yield();
        c->handshaking = false;
        conn_flush_output(c);
    }
    if (c->rx_at < c->rx_end) {
        return false; /* what came before the handshake is not from who TLS will say it is */
    }
    c->tls = c->closing ? NULL : tls_session_new(server->tls, c->fd, NULL, &error);
    c->handshaking = true;
    while (c->tls && !c->closing && done == 0) {
        done = tls_handshake(c->tls, &wants_write, &error);
        if (done == 0) {
            c->want_write = wants_write;
            c->want_read = !wants_write;
            c->reader = coroutine_self();
            conn_watch(c);
            coroutine_yield();
        }
    }
    c->handshaking = false;
    c->want_read = c->want_write = false;
    conn_watch(c);
    c->rx_drained = false;
    if (done == 1 && server->authz &&
        !authz_allows(block_graph_objects(server->graph), server->authz, tls_peer_name(c->tls), &error)) {
        done = -1;
    }
    if (error) {
        log_info("NBD server: a client was turned away: %s", error->message);
    }
    /* What was said in the clear counts for nothing. */
    c->structured = false;
    contexts_clear(c);
    return done == 1;
}

typedef enum Next { NEXT_OPTION, NEXT_TRANSMISSION, NEXT_END } Next;

static Next one_option(NbdConn *c, bool fixed)
{
    uint8_t head[16];
    if (!conn_read(c, head, sizeof(head)) || nbd_get64(head) != NBD_OPTION_MAGIC ||
        ++c->options > OPTIONS_MAX) {
        return NEXT_END;
    }
    uint32_t option = nbd_get32(head + 8), length = nbd_get32(head + 12);
    if (length > NBD_MAX_OPTION_DATA) {
        if (option == NBD_OPT_EXPORT_NAME || !conn_skip(c, length)) {
            return NEXT_END;
        }
        send_option_error(c, option, NBD_REP_ERR_TOO_BIG, "option of %u bytes is too long", length);
        return NEXT_OPTION;
    }
    g_autofree uint8_t *data = g_malloc(length + 1);
    if (!conn_read(c, data, length)) {
        return NEXT_END;
    }
    bool clear = c->server->tls && !c->tls; /* nothing is told in the clear */
    if (clear && option != NBD_OPT_STARTTLS && option != NBD_OPT_ABORT) {
        if (option == NBD_OPT_EXPORT_NAME || !fixed) {
            return NEXT_END;
        }
        send_option_error(c, option, NBD_REP_ERR_TLS_REQD, "Option 0x%x not permitted before TLS", option);
        return NEXT_OPTION;
    }
    if (option == NBD_OPT_EXPORT_NAME) {
        return option_export_name(c, data, length) ? NEXT_TRANSMISSION : NEXT_END;
    }
    if (!fixed) {
        return NEXT_END; /* such a client may send nothing else */
    }
    switch (option) {
    case NBD_OPT_ABORT:
        send_option_reply(c, option, NBD_REP_ACK, NULL, 0);
        return NEXT_END;
    case NBD_OPT_LIST:
    case NBD_OPT_STRUCTURED_REPLY:
    case NBD_OPT_STARTTLS:
        if (length > 0) {
            send_option_error(c, option, NBD_REP_ERR_INVALID, "this option takes no data");
        } else if (option == NBD_OPT_LIST) {
            option_list(c);
        } else if (option == NBD_OPT_STARTTLS) {
            if (!c->server->tls) {
                send_option_error(c, option, NBD_REP_ERR_POLICY, "TLS is not configured");
            } else if (c->tls) {
                send_option_error(c, option, NBD_REP_ERR_INVALID, "TLS is in use already");
            } else {
                send_option_reply(c, option, NBD_REP_ACK, NULL, 0);
                return start_tls(c) ? NEXT_OPTION : NEXT_END;
            }
        } else if (c->structured) {
            send_option_error(c, option, NBD_REP_ERR_INVALID, "structured replies are negotiated already");
        } else {
            c->structured = true;
            send_option_reply(c, option, NBD_REP_ACK, NULL, 0);
        }
        return NEXT_OPTION;
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return option_go(c, option, data, length) ? NEXT_TRANSMISSION : NEXT_OPTION;
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        option_meta_context(c, option, data, length);
        return NEXT_OPTION;
    default:
        send_option_error(c, option, NBD_REP_ERR_UNSUP, "option %u is not supported", option);
        return NEXT_OPTION;
    }
}

static bool negotiate(NbdConn *c)
{
    uint8_t hello[18], flags[4];
    nbd_put64(hello, NBD_MAGIC);
    nbd_put64(hello + 8, NBD_OPTION_MAGIC);
    nbd_put16(hello + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    conn_send_bytes(c, hello, sizeof(hello));
    if (!conn_read(c, flags, sizeof(flags))) {
        return false;
    }
    uint32_t client = nbd_get32(flags);
    if (client & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) {
        return false;
    }
    c->no_zeroes = client & NBD_FLAG_NO_ZEROES;
    Next next;
    do {
        next = one_option(c, client & NBD_FLAG_FIXED_NEWSTYLE);
    } while (next == NEXT_OPTION);
    return next == NEXT_TRANSMISSION;
}

/* ---- answers ---- */

static uint32_t wire_error(int result)
{
    switch (-result) {
    case 0:
        return 0;
    case EPERM:
    case EROFS:
    case EACCES:
        return NBD_EPERM;
    case EIO:
        return NBD_EIO;
    case ENOMEM:
        return NBD_ENOMEM;
    case EDQUOT:
    case EFBIG:
    case ENOSPC:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EINVAL;
    }
}

/* A reply whose head is that of a chunk with `extra` bytes of fields behind it. */
static NbdReply *chunk_new(const NbdRequest *rq, uint16_t flags, uint16_t type, size_t extra,
                           size_t data_bytes)
{
    NbdReply *r = g_new0(NbdReply, 1);
    nbd_put32(r->head, NBD_STRUCTURED_REPLY_MAGIC);
    nbd_put16(r->head + 4, flags);
    nbd_put16(r->head + 6, type);
    nbd_put64(r->head + 8, rq->cookie);
    nbd_put32(r->head + 16, (uint32_t)(extra + data_bytes));
    r->head_bytes = 20 + extra;
    return r;
}

static void answer_error(const NbdRequest *rq, int result)
{
    NbdConn *c = rq->conn;
    if (c->structured && (rq->type == NBD_CMD_READ || rq->type == NBD_CMD_BLOCK_STATUS)) {
        const char *text = g_strerror(-result);
        size_t length = strlen(text);
        NbdReply *r = chunk_new(rq, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, 6, length);
        nbd_put32(r->head + 20, wire_error(result));
        nbd_put16(r->head + 24, (uint16_t)length);
        r->data = g_memdup2(text, length);
        r->data_bytes = length;
        conn_send(c, r);
        return;
    }
    NbdReply *r = g_new0(NbdReply, 1);
    nbd_put32(r->head, NBD_SIMPLE_REPLY_MAGIC);
    nbd_put32(r->head + 4, wire_error(result));
    nbd_put64(r->head + 8, rq->cookie);
    r->head_bytes = 16;
    conn_send(c, r);
}

/* A piece of what was read: data (taken, of request memory) or, data NULL, a hole. */
static void answer_chunk(const NbdRequest *rq, bool last, uint64_t offset, uint8_t *data, uint32_t bytes)
{
    NbdReply *r = data ? chunk_new(rq, last ? NBD_REPLY_FLAG_DONE : 0, NBD_REPLY_TYPE_OFFSET_DATA, 8, bytes)
                       : chunk_new(rq, last ? NBD_REPLY_FLAG_DONE : 0, NBD_REPLY_TYPE_OFFSET_HOLE, 12, 0);
    nbd_put64(r->head + 20, offset);
    if (data) {
        r->data = data;
        r->data_bytes = bytes;
        r->aligned = true;
    } else {
        nbd_put32(r->head + 28, bytes);
    }
    conn_send(rq->conn, r);
}

static int read_into(NbdExport *exp, uint64_t offset, uint32_t bytes, uint8_t **data)
{
    *data = block_buffer_try(exp->root, bytes);
    if (!*data) {
        return -ENOMEM;
    }
    int r = block_co_pread(exp->root, exp->offset + offset, bytes, *data, 0);
    if (r < 0) {
        g_aligned_free(*data);
        *data = NULL;
    }
    return r;
}

/* A large read in pieces: holes are told, not sent. */
static void do_sparse_read(NbdRequest *rq)
{
    NbdExport *exp = rq->conn->exp;
    uint64_t offset = rq->offset, left = rq->length;
    while (left > 0) {
        BlockStatus st = { 0 };
        uint8_t *data = NULL;
        int r = block_co_status_above(exp->root->node, NULL, exp->offset + offset, left, &st);
        uint64_t bytes = r < 0 ? left : CLAMP(st.bytes, 1, left);
        bool hole = r >= 0 && st.flags & BLOCK_STATUS_ZERO;
        if (!hole) {
            r = read_into(exp, offset, (uint32_t)bytes, &data);
            if (r < 0) {
                answer_error(rq, r);
                return;
            }
        }
        answer_chunk(rq, bytes == left, offset, data, (uint32_t)bytes);
        offset += bytes;
        left -= bytes;
    }
}

static void do_read(NbdRequest *rq)
{
    NbdConn *c = rq->conn;
    if (c->structured && rq->length >= SPARSE_MIN && !(rq->flags & NBD_CMD_FLAG_DF)) {
        do_sparse_read(rq);
        return;
    }
    uint8_t *data = NULL;
    int r = rq->length ? read_into(c->exp, rq->offset, rq->length, &data) : 0;
    if (r < 0) {
        answer_error(rq, r);
    } else if (c->structured && rq->length == 0) {
        conn_send(c, chunk_new(rq, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0, 0));
    } else if (c->structured) {
        answer_chunk(rq, true, rq->offset, data, rq->length);
    } else {
        NbdReply *reply = g_new0(NbdReply, 1);
        nbd_put32(reply->head, NBD_SIMPLE_REPLY_MAGIC);
        nbd_put64(reply->head + 8, rq->cookie);
        reply->head_bytes = 16;
        reply->data = data;
        reply->data_bytes = rq->length;
        reply->aligned = true;
        conn_send(c, reply);
    }
}

/* ---- block status ---- */

typedef struct Extents {
    uint8_t *data; /* context id, then length and flags of each */
    unsigned count, max;
    uint32_t last_flags;
    bool full;
} Extents;

static void extents_add(Extents *e, uint64_t bytes, uint32_t flags)
{
    uint8_t *last = e->data + 4 + 8 * (size_t)(e->count - 1);
    if (e->count > 0 && e->last_flags == flags && nbd_get32(last) + bytes <= UINT32_MAX) {
        nbd_put32(last, (uint32_t)(nbd_get32(last) + bytes));
        return;
    }
    if (e->count == e->max) {
        e->full = true;
        return;
    }
    uint8_t *p = e->data + 4 + 8 * (size_t)e->count++;
    nbd_put32(p, (uint32_t)bytes);
    nbd_put32(p + 4, flags);
    e->last_flags = flags;
}

static int collect_allocation(const NbdRequest *rq, bool depth, Extents *e)
{
    const NbdExport *exp = rq->conn->exp;
    for (uint64_t at = 0; at < rq->length && !e->full;) {
        BlockStatus st = { 0 };
        uint64_t left = rq->length - at;
        int r = block_co_status_above(exp->root->node, NULL, exp->offset + rq->offset + at, left, &st);
        if (r < 0) {
            return r;
        }
        uint64_t bytes = CLAMP(st.bytes, 1, left);
        uint32_t flags = (st.flags & BLOCK_STATUS_DATA ? 0 : NBD_STATE_HOLE) |
                         (st.flags & BLOCK_STATUS_ZERO ? NBD_STATE_ZERO : 0);
        if (depth) {
            flags = st.flags & BLOCK_STATUS_ALLOCATED ? (uint32_t)st.depth + 1 : 0;
        }
        extents_add(e, bytes, flags);
        at += bytes;
    }
    return 0;
}

static void collect_bitmap(const NbdRequest *rq, const DirtyBitmap *bitmap, Extents *e)
{
    uint64_t begin = rq->conn->exp->offset + rq->offset, end = begin + rq->length;
    while (begin < end && !e->full) {
        uint64_t start = end, bytes = 0;
        if (!dirty_bitmap_next_dirty(bitmap, begin, end, &start, &bytes)) {
            start = end;
        }
        if (start > begin) {
            extents_add(e, start - begin, 0);
        }
        if (start < end) {
            bytes = MIN(bytes, end - start);
            extents_add(e, bytes, NBD_STATE_DIRTY);
        }
        begin = MIN(end, start + bytes);
    }
}

static int answer_context(const NbdRequest *rq, uint32_t id, bool last)
{
    Extents e = { .max = rq->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : EXTENTS_MAX };
    e.data = g_malloc(4 + 8 * (size_t)e.max);
    nbd_put32(e.data, id);
    int r = 0;
    if (id >= ID_BITMAP) {
        collect_bitmap(rq, rq->conn->exp->bitmaps->pdata[id - ID_BITMAP], &e);
    } else {
        r = collect_allocation(rq, id == ID_DEPTH, &e);
    }
    if (r < 0) {
        g_free(e.data);
        return r;
    }
    size_t bytes = 4 + 8 * (size_t)e.count;
    NbdReply *reply = chunk_new(rq, last ? NBD_REPLY_FLAG_DONE : 0, NBD_REPLY_TYPE_BLOCK_STATUS, 0, bytes);
    reply->data = e.data;
    reply->data_bytes = bytes;
    conn_send(rq->conn, reply);
    return 0;
}

static void do_block_status(NbdRequest *rq)
{
    NbdConn *c = rq->conn;
    g_autoptr(GArray) ids = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    uint32_t id = ID_ALLOCATION;
    if (c->allocation) {
        g_array_append_val(ids, id);
    }
    id = ID_DEPTH;
    if (c->depth) {
        g_array_append_val(ids, id);
    }
    for (guint i = 0; c->bitmap_on && i < c->exp->bitmaps->len; i++) {
        id = ID_BITMAP + i;
        if (c->bitmap_on[i]) {
            g_array_append_val(ids, id);
        }
    }
    for (guint i = 0; i < ids->len; i++) {
        int r = answer_context(rq, g_array_index(ids, uint32_t, i), i + 1 == ids->len);
        if (r < 0) {
            answer_error(rq, r);
            return;
        }
    }
}

/* ---- requests ---- */

static int do_change(NbdRequest *rq)
{
    NbdExport *exp = rq->conn->exp;
    uint64_t offset = exp->offset + rq->offset;
    unsigned fua = rq->flags & NBD_CMD_FLAG_FUA || exp->writethrough ? BLOCK_REQ_FUA : 0;
    int r = 0;
    switch (rq->type) {
    case NBD_CMD_WRITE:
        return rq->length ? block_co_pwrite(exp->root, offset, rq->length, rq->data, fua) : 0;
    case NBD_CMD_WRITE_ZEROES: {
        unsigned flags = fua | (rq->flags & NBD_CMD_FLAG_NO_HOLE ? 0 : BLOCK_REQ_MAY_UNMAP) |
                         (rq->flags & NBD_CMD_FLAG_FAST_ZERO ? BLOCK_REQ_NO_FALLBACK : 0);
        for (uint64_t at = 0; at < rq->length && r >= 0; at += BLOCK_MAX_REQUEST) {
            r = block_co_pwrite_zeroes(exp->root, offset + at, MIN(BLOCK_MAX_REQUEST, rq->length - at),
                                       flags);
        }
        return r;
    }
    case NBD_CMD_TRIM:
        for (uint64_t at = 0; at < rq->length && r >= 0; at += BLOCK_MAX_REQUEST) {
            r = block_co_pdiscard(exp->root, offset + at, MIN(BLOCK_MAX_REQUEST, rq->length - at));
        }
        return r >= 0 && fua ? block_co_flush(exp->root) : r;
    case NBD_CMD_FLUSH:
        return block_co_flush(exp->root);
    case NBD_CMD_CACHE: {
        uint8_t *data = NULL;
        for (uint64_t at = 0; at < rq->length && r >= 0; at += NBD_MAX_REQUEST) {
            r = read_into(exp, rq->offset + at, (uint32_t)MIN(NBD_MAX_REQUEST, rq->length - at), &data);
            if (r >= 0) {
                g_aligned_free(data);
            }
        }
        return r;
    }
    default:
        return -EINVAL;
    }
}

static uint64_t request_bytes(const NbdRequest *rq)
{
    return rq->type == NBD_CMD_READ || rq->type == NBD_CMD_WRITE ? rq->length : 0;
}

static void co_request(void *opaque)
{
    NbdRequest *rq = opaque;
    NbdConn *c = rq->conn;
    if (rq->result < 0) {
        answer_error(rq, rq->result);
    } else if (rq->type == NBD_CMD_READ) {
        do_read(rq);
    } else if (rq->type == NBD_CMD_BLOCK_STATUS) {
        do_block_status(rq);
    } else {
        int r = do_change(rq);
        answer_error(rq, MIN(0, r)); /* a macro: its arguments are evaluated twice */
    }
    c->bytes -= request_bytes(rq);
    if (rq->data) {
        g_aligned_free(rq->data);
    }
    g_free(rq);
    c->in_flight--;
    co_queue_wake_all(&c->room);
}

/* What is wrong with it: 0 or a negative errno. */
static int request_check(const NbdConn *c, const NbdRequest *rq)
{
    const NbdExport *exp = c->exp;
    static const uint16_t allowed[] = {
        [NBD_CMD_READ] = NBD_CMD_FLAG_DF,
        [NBD_CMD_WRITE] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_FLUSH] = 0,
        [NBD_CMD_TRIM] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_CACHE] = 0,
        [NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
        [NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_REQ_ONE,
    };
    if (rq->type >= G_N_ELEMENTS(allowed) || rq->flags & ~allowed[rq->type] ||
        (rq->flags & NBD_CMD_FLAG_DF && !c->structured)) {
        return -EINVAL;
    }
    bool changes = rq->type == NBD_CMD_WRITE || rq->type == NBD_CMD_WRITE_ZEROES || rq->type == NBD_CMD_TRIM;
    if (changes && exp->flags & NBD_FLAG_READ_ONLY) {
        return -EPERM;
    }
    if (rq->type == NBD_CMD_FLUSH) {
        return 0;
    }
    if (rq->offset > exp->size || rq->length > exp->size - rq->offset) {
        return rq->type == NBD_CMD_WRITE || rq->type == NBD_CMD_WRITE_ZEROES ? -ENOSPC : -EINVAL;
    }
    if (rq->type == NBD_CMD_READ && rq->length > NBD_MAX_REQUEST) {
        return -EINVAL;
    }
    if (rq->type == NBD_CMD_BLOCK_STATUS &&
        (rq->length == 0 || !c->context_exp || !(c->allocation || c->depth || c->bitmap_on))) {
        return -EINVAL;
    }
    return 0;
}

/* Reads one request and starts it; false: the connection ends. */
static bool one_request(NbdConn *c)
{
    uint8_t head[28];
    if (!conn_read(c, head, sizeof(head)) || nbd_get32(head) != NBD_REQUEST_MAGIC) {
        return false;
    }
    NbdRequest *rq = g_new0(NbdRequest, 1);
    *rq = (NbdRequest){ .conn = c,
                        .flags = nbd_get16(head + 4),
                        .type = nbd_get16(head + 6),
                        .cookie = nbd_get64(head + 8),
                        .offset = nbd_get64(head + 16),
                        .length = nbd_get32(head + 24) };
    if (rq->type == NBD_CMD_DISC || (rq->type == NBD_CMD_WRITE && rq->length > NBD_MAX_REQUEST)) {
        g_free(rq);
        return false;
    }
    rq->result = request_check(c, rq);
    if (rq->result < 0 && rq->type != NBD_CMD_WRITE) {
        rq->length = 0;
    }
    while (!c->closing &&
           (c->in_flight >= REQUESTS_MAX || (c->in_flight > 0 && c->bytes + request_bytes(rq) > BYTES_MAX))) {
        co_queue_wait(&c->room);
    }
    bool ok = !c->closing;
    if (ok && rq->type == NBD_CMD_WRITE && rq->length > 0) {
        if (rq->result == 0) {
            rq->data = block_buffer_try(c->exp->root, rq->length);
            rq->result = rq->data ? 0 : -ENOMEM;
        }
        ok = rq->data ? conn_read(c, rq->data, rq->length) : conn_skip(c, rq->length);
    }
    if (!ok) {
        if (rq->data) {
            g_aligned_free(rq->data);
        }
        g_free(rq);
        return false;
    }
    c->in_flight++;
    c->bytes += request_bytes(rq);
    coroutine_enter(coroutine_new(co_request, rq));
    return true;
}

static void server_watch(NbdServer *server);

static void co_connection(void *opaque)
{
    NbdConn *c = opaque;
    NbdServer *server = c->server;
    bool ok = negotiate(c);
    while (ok) {
        ok = one_request(c);
    }
    /* What was asked before the end is still done, and answered where the client only shut its side down. */
    while (c->in_flight > 0) {
        co_queue_wait(&c->room);
    }
    conn_flush_output(c);
    c->closing = true;
    conn_drop_output(c);
    tls_session_free(c->tls);
    bool negotiated = c->negotiated;
    g_ptr_array_remove_fast(server->conns, c);
    loop_remove_fd(c->watch);
    close(c->fd);
    bh_free(c->send_bh);
    if (c->exp) {
        c->exp->conns--;
    }
    contexts_clear(c);
    g_free(c->rx);
    g_free(c);
    server_watch(server);
    if (negotiated && server->gone) {
        server->gone(server->gone_opaque);
    }
}

/* ---- the server ---- */

NbdServer *nbd_server_new(BlockGraph *graph)
{
    NbdServer *server = g_new0(NbdServer, 1);
    server->graph = graph;
    server->loop = block_graph_loop(graph);
    server->exports = g_ptr_array_new();
    server->conns = g_ptr_array_new();
    server->listeners = g_ptr_array_new();
    return server;
}

static void conn_end(NbdConn *c);

void nbd_server_free(NbdServer *server)
{
    for (guint i = 0; i < server->listeners->len; i++) {
        Listener *l = server->listeners->pdata[i];
        loop_remove_fd(l->watch);
        close(l->fd);
        g_free(l);
    }
    g_ptr_array_set_size(server->listeners, 0);
    server->gone = NULL;
    while (server->exports->len > 0) {
        nbd_export_free(server->exports->pdata[server->exports->len - 1]);
    }
    for (guint i = 0; i < server->conns->len; i++) {
        conn_end(server->conns->pdata[i]);
    }
    while (server->conns->len > 0) {
        if (!loop_iterate_io(server->loop, true)) {
            g_usleep(20);
        }
    }
    object_unref(OBJECT(server->tls));
    g_free(server->authz);
    g_ptr_array_unref(server->exports);
    g_ptr_array_unref(server->conns);
    g_ptr_array_unref(server->listeners);
    g_free(server);
}

static bool server_is_full(const NbdServer *server)
{
    return server->max_clients && server->conns->len >= server->max_clients;
}

static void listener_on_read(void *opaque)
{
    Listener *l = opaque;
    while (!server_is_full(l->server)) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            break;
        }
        nbd_server_add_client(l->server, fd);
    }
    server_watch(l->server);
}

static void server_watch(NbdServer *server)
{
    bool full = server_is_full(server);
    for (guint i = 0; i < server->listeners->len; i++) {
        Listener *l = server->listeners->pdata[i];
        loop_fd_set(l->watch, full ? NULL : listener_on_read, NULL);
    }
}

bool nbd_server_listen(NbdServer *server, int fd, GError **error)
{
    if (listen(fd, SOMAXCONN) < 0) {
        return error_set_errno(error, errno, "NBD server: cannot listen");
    }
    Listener *l = g_new0(Listener, 1);
    l->server = server;
    l->fd = fd;
    l->watch = loop_add_fd(server->loop, fd, listener_on_read, NULL, NULL, l, NULL);
    g_ptr_array_add(server->listeners, l);
    server_watch(server);
    return true;
}

void nbd_server_set_max_clients(NbdServer *server, unsigned max)
{
    server->max_clients = max;
    server_watch(server);
}

bool nbd_server_set_tls(NbdServer *server, TlsCreds *creds, const char *authz, GError **error)
{
    if (authz && !authz_find(block_graph_objects(server->graph), authz, error)) {
        return false;
    }
    object_ref(OBJECT(creds));
    object_unref(OBJECT(server->tls));
    g_free(server->authz);
    server->tls = creds;
    server->authz = g_strdup(authz);
    return true;
}

void nbd_server_add_client(NbdServer *server, int fd)
{
    NbdConn *c = g_new0(NbdConn, 1);
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* fails on unix sockets, which do not delay */
    c->server = server;
    c->fd = fd;
    c->rx = g_malloc(RX_BYTES);
    c->out_end = &c->out;
    co_queue_init(&c->room);
    c->watch = loop_add_fd(server->loop, fd, NULL, NULL, NULL, c, NULL);
    c->send_bh = bh_new(server->loop, conn_send_bh, c, NULL);
    g_ptr_array_add(server->conns, c);
    coroutine_enter(coroutine_new(co_connection, c));
}

unsigned nbd_server_clients(const NbdServer *server)
{
    return server->conns->len;
}

void nbd_server_set_client_hook(NbdServer *server, void (*gone)(void *opaque), void *opaque)
{
    server->gone = gone;
    server->gone_opaque = opaque;
}

/* ---- exports ---- */

static char *export_describe(void *opaque)
{
    const NbdExport *exp = opaque;
    return g_strdup_printf("NBD export '%s'", exp->name);
}

static void export_resized(void *opaque)
{
    /* The protocol cannot tell a client: what was promised stays, and requests behind a new end fail. */
}

static const BlockRootOps export_root_ops = { .kind = "export",
                                              .describe = export_describe,
                                              .resized = export_resized };

static bool export_add_bitmap(NbdExport *exp, const char *name, GError **error)
{
    /* The topmost layer that has one of that name. */
    DirtyBitmap *bitmap = NULL;
    for (BlockNode *node = exp->root->node; node && !bitmap; node = block_below(node)) {
        bitmap = dirty_bitmap_find(node, name);
    }
    if (!bitmap) {
        return error_set(error, "Bitmap '%s' is not found", name);
    }
    if (bitmap->inconsistent) {
        error_set(error, "Bitmap '%s' is inconsistent and cannot be used", name);
        error_append_hint(error, "Try block-dirty-bitmap-remove to delete this bitmap from disk");
        return false;
    }
    if (bitmap->busy) {
        return error_set(error, "Bitmap '%s' is currently in use by another operation and cannot be used",
                         name);
    }
    if (bitmap->enabled && exp->flags & NBD_FLAG_READ_ONLY && !exp->root->node->read_only &&
        exp->root->node == bitmap->node && (exp->root->node->perm & BLOCK_PERM_WRITE)) {
        return error_set(error, "Enabled bitmap '%s' incompatible with readonly export", name);
    }
    bitmap->busy = true;
    g_ptr_array_add(exp->bitmaps, bitmap);
    return true;
}

NbdExport *nbd_export_new(NbdServer *server, BlockNode *node, const NbdExportOptions *options, GError **error)
{
    if (nbd_export_find(server, options->name)) {
        error_set(error, "NBD server already has export named '%s'", options->name);
        return NULL;
    }
    if (strlen(options->name) > NBD_MAX_NAME ||
        (options->description && strlen(options->description) > NBD_MAX_NAME)) {
        error_set(error, "export name or description '%.32s...' too long", options->name);
        return NULL;
    }
    uint64_t size = __atomic_load_n(&node->size, __ATOMIC_RELAXED);
    if (options->offset > size || options->size > size - options->offset) {
        error_set(error,
                  "NBD export '%s': offset %" PRIu64 " is behind the end of the image (%" PRIu64 " bytes)",
                  options->name, options->offset, size);
        return NULL;
    }
    if (options->writable && node->read_only) {
        error_set(error, "Cannot export read-only %s for writing", node->what);
        return NULL;
    }
    NbdExport *exp = g_new0(NbdExport, 1);
    exp->server = server;
    exp->name = g_strdup(options->name);
    exp->description = g_strdup(options->description);
    exp->offset = options->offset;
    exp->size = options->size ? options->size : size - options->offset;
    exp->depth = options->allocation_depth;
    exp->writethrough = options->writethrough;
    exp->bitmaps = g_ptr_array_new();
    exp->flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
    if (options->writable) {
        exp->flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    } else {
        exp->flags |= NBD_FLAG_READ_ONLY;
    }
    if (options->shared) { /* one node behind all connections: a flush of one is one of all */
        exp->flags |= NBD_FLAG_CAN_MULTI_CONN;
    }
    unsigned perm = BLOCK_PERM_CONSISTENT_READ | (options->writable ? BLOCK_PERM_WRITE : 0);
    exp->root = block_root_new(node, "nbd", perm, BLOCK_PERM_ALL & ~(unsigned)BLOCK_PERM_RESIZE,
                               &export_root_ops, exp, error);
    bool ok = exp->root != NULL;
    for (const char *const *name = options->bitmaps; ok && name && *name; name++) {
        ok = export_add_bitmap(exp, *name, error);
    }
    g_ptr_array_add(server->exports, exp);
    if (!ok) {
        nbd_export_free(exp);
        return NULL;
    }
    return exp;
}

unsigned nbd_export_clients(const NbdExport *exp)
{
    return exp->conns;
}

BlockNode *nbd_export_node(const NbdExport *exp)
{
    return exp->root->node;
}

/* Ends it without the loop's turn: who waits for that lets only I/O go on. */
static void conn_end(NbdConn *c)
{
    Coroutine *reader = c->reader;

    conn_close(c);
    if (reader) {
        c->reader = NULL;
        coroutine_wake(c->server->loop, reader);
    }
}

void nbd_export_free(NbdExport *exp)
{
    NbdServer *server = exp->server;
    exp->dying = true; /* no new connection finds it */
    for (guint i = 0; i < server->conns->len; i++) {
        NbdConn *c = server->conns->pdata[i];
        if (c->exp == exp || c->context_exp == exp) {
            conn_end(c);
            if (c->context_exp == exp && c->exp != exp) {
                contexts_clear(c);
            }
        }
    }
    while (exp->conns > 0) {
        if (!loop_iterate_io(server->loop, true)) {
            g_usleep(20);
        }
    }
    for (guint i = 0; i < exp->bitmaps->len; i++) {
        ((DirtyBitmap *)exp->bitmaps->pdata[i])->busy = false;
    }
    g_ptr_array_remove(server->exports, exp);
    if (exp->root) {
        block_root_free(exp->root);
    }
    g_ptr_array_unref(exp->bitmaps);
    g_free(exp->name);
    g_free(exp->description);
    g_free(exp);
}

NbdExport *nbd_export_find(NbdServer *server, const char *name)
{
    for (guint i = 0; i < server->exports->len; i++) {
        NbdExport *exp = server->exports->pdata[i];
        if (!exp->dying && g_str_equal(exp->name, name)) {
            return exp;
        }
    }
    return NULL;
}

uint64_t nbd_export_size(const NbdExport *exp)
{
    return exp->size;
}
