/*
 * nbd: a disk of a Network Block Device server, through libnbd. A thread of the node's own talks to the
 * server, so that requests of all loops go over one connection and none of them depends on another loop's
 * running. A lost connection fails what is under way, or with reconnect-delay is made anew and what was not
 * answered asked again. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include "base/error.h"
#include "host/library.h"
#include "io/fd_table.h"
#include "io/tls.h"
#include "rhea_config.h"

#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define MAX_PAYLOAD  (32u << 20)
#define RETRY_MS     1000
#define DEFAULT_PORT "10809"

/* ---- the library ---- */

/* It is loaded when the first disk wants it: what it stands on (TLS, XML, Unicode) takes as long to load as
 * all the rest of a small machine takes to start. */
#ifdef CONFIG_LIBNBD_TLS_HOSTNAME
#define LIBNBD_NEWER(X, P) X(P, set_tls_hostname)
#else
#define LIBNBD_NEWER(X, P)
#endif
/* clang-format off */
#define LIBNBD_SYMBOLS(X, P)                                                                         \
    X(P, add_meta_context) X(P, aio_block_status) X(P, aio_flush) X(P, aio_get_direction)            \
    X(P, aio_get_fd) X(P, aio_is_closed) X(P, aio_is_dead) X(P, aio_notify_read)                     \
    X(P, aio_notify_write) X(P, aio_pread) X(P, aio_pwrite) X(P, aio_trim) X(P, aio_zero)            \
    X(P, can_fast_zero) X(P, can_flush) X(P, can_fua) X(P, can_meta_context) X(P, can_trim)          \
    X(P, can_zero) X(P, close) X(P, connect_socket) X(P, connect_tcp) X(P, connect_unix)             \
    X(P, create) X(P, get_block_size) X(P, get_errno) X(P, get_error) X(P, get_size)                 \
    X(P, is_read_only) X(P, set_export_name) X(P, shutdown) X(P, set_tls) X(P, set_tls_certificates) \
    X(P, set_tls_psk_file) X(P, set_tls_username) X(P, set_tls_verify_peer) LIBNBD_NEWER(X, P)
/* clang-format on */
LIBRARY_TABLE(libnbd, nbd_, LIBNBD_SYMBOLS, SONAME_NBD, "libnbd0", "NBD");

typedef enum NbdOp { NBD_READ, NBD_WRITE, NBD_ZERO, NBD_TRIM, NBD_FLUSH, NBD_STATUS } NbdOp;

typedef struct NbdRequest NbdRequest;
struct NbdRequest {
    NbdRequest *next, *prev;
    struct NbdNode *n;
    NbdOp op;
    uint64_t offset, bytes;
    void *buf;
    uint32_t flags;
    Loop *loop;
    Coroutine *co;
    int result;
    bool issued;
    /* of STATUS: the first extent */
    uint64_t extent_bytes;
    uint32_t extent_flags;
};

typedef struct NbdNode {
    BlockNode node;
    char *host, *port, *path, *export, *context;
    int fd;        /* of an open socket; -1 */
    TlsCreds *tls; /* counted; NULL: in the clear */
    char *tls_hostname;
    uint32_t reconnect_delay_s, open_timeout_s;
    GThread *thread;
    EventNotifier wake;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t opened;
    NbdRequest *list; /* all requests that are not done; the oldest last */
    bool stop, connected, open_done, lost;
    char *open_error;
    int open_errno; /* of the host's connect; 0: the server was reached */
    /* the thread's, and of open() before there is another user */
    struct nbd_handle *h;
    int64_t lost_since_ns;
    uint64_t size;
    bool server_read_only, can_flush, can_fua, can_trim, can_zero, can_fast_zero, can_status,
        fixed_socket_used;
    uint32_t min_block;
    uint64_t max_block;
} NbdNode;

static int64_t now_ns(void)
{
    return clock_now_ns(NULL, CLOCK_TYPE_REALTIME);
}

/* ---- the thread ---- */

static void woken(void *opaque, ssize_t result)
{
    coroutine_enter(((NbdRequest *)opaque)->co);
}

/* Takes it off the list and wakes its coroutine, in whose hands it is then. */
static void finish(NbdRequest *r, int result)
{
    NbdNode *n = r->n;

    pthread_mutex_lock(&n->lock);
    *(r->prev ? &r->prev->next : &n->list) = r->next;
    if (r->next) {
        r->next->prev = r->prev;
    }
    pthread_mutex_unlock(&n->lock);
    r->result = result;
    loop_complete_from(r->loop, woken, r, 0);
}

static int on_extent(void *opaque, const char *context, uint64_t offset, uint32_t *entries, size_t count,
                     int *error)
{
    NbdRequest *r = opaque;

    if (strcmp(context, r->n->context) == 0 && count >= 2 && !r->extent_bytes) {
        r->extent_bytes = entries[0];
        r->extent_flags = entries[1];
    }
    return 0;
}

static int on_done(void *opaque, int *error)
{
    NbdRequest *r = opaque;

    if (*error == ENOTCONN || *error == ESHUTDOWN || libnbd.aio_is_dead(r->n->h) ||
        libnbd.aio_is_closed(r->n->h)) {
        r->issued = false; /* lost with the connection: it is for connection_lost() to say */
        return 1;
    }
    finish(r, -*error);
    return 1;
}

static void issue(NbdNode *n, NbdRequest *r)
{
    nbd_completion_callback done = { .callback = on_done, .user_data = r };
    nbd_extent_callback extent = { .callback = on_extent, .user_data = r };
    int64_t cookie = -1;

    r->issued = true;
    switch (r->op) {
    case NBD_READ:
        cookie = libnbd.aio_pread(n->h, r->buf, r->bytes, r->offset, done, 0);
        break;
    case NBD_WRITE:
        cookie = libnbd.aio_pwrite(n->h, r->buf, r->bytes, r->offset, done, r->flags);
        break;
    case NBD_ZERO:
        cookie = libnbd.aio_zero(n->h, r->bytes, r->offset, done, r->flags);
        break;
    case NBD_TRIM:
        cookie = libnbd.aio_trim(n->h, r->bytes, r->offset, done, 0);
        break;
    case NBD_FLUSH:
        cookie = libnbd.aio_flush(n->h, done, 0);
        break;
    case NBD_STATUS:
        r->extent_bytes = 0;
        cookie = libnbd.aio_block_status(n->h, r->bytes, r->offset, extent, done, LIBNBD_CMD_FLAG_REQ_ONE);
        break;
    }
    if (cookie < 0 && r->issued) {
        int error = libnbd.get_errno();

        if (libnbd.aio_is_dead(n->h) || libnbd.aio_is_closed(n->h)) {
            r->issued = false;
        } else {
            finish(r, error ? -error : -EIO);
        }
    }
}

/* The oldest that waits to be sent. */
static NbdRequest *next_request(NbdNode *n)
{
    NbdRequest *found = NULL;

    pthread_mutex_lock(&n->lock);
    for (NbdRequest *r = n->list; r; r = r->next) {
        found = r->issued ? found : r;
    }
    pthread_mutex_unlock(&n->lock);
    return found;
}

/* libnbd does TLS itself; it reads the files that the credentials name. */
static bool set_tls(NbdNode *n, GError **error)
{
    int ret;

    if (!n->tls) {
        return libnbd.set_tls(n->h, LIBNBD_TLS_DISABLE) == 0 ||
               error_set(error, "libnbd: %s", libnbd.get_error());
    }
    ret = libnbd.set_tls(n->h, LIBNBD_TLS_REQUIRE);
    ret = ret ? ret : libnbd.set_tls_verify_peer(n->h, tls_creds_verify_peer(n->tls));
    if (!ret && tls_creds_kind(n->tls) == TLS_X509) {
        ret = libnbd.set_tls_certificates(n->h, tls_creds_dir(n->tls));
#ifdef CONFIG_LIBNBD_TLS_HOSTNAME
        ret = ret || !n->tls_hostname ? ret : libnbd.set_tls_hostname(n->h, n->tls_hostname);
#endif
    } else if (!ret) {
        g_autofree char *keys = g_build_filename(tls_creds_dir(n->tls), "keys.psk", NULL);

        ret = libnbd.set_tls_username(n->h, tls_creds_username(n->tls));
        ret = ret ? ret : libnbd.set_tls_psk_file(n->h, keys);
    }
    return ret == 0 || error_set(error, "TLS: %s", libnbd.get_error());
}

static bool connect_server(NbdNode *n, GError **error)
{
    int ret;

    n->h = libnbd.create();
    if (!n->h) {
        return error_set(error, "libnbd: %s", libnbd.get_error());
    }
    libnbd.set_export_name(n->h, n->export ? n->export : "");
    libnbd.add_meta_context(n->h, n->context);
    if (!set_tls(n, error)) {
        libnbd.close(n->h);
        n->h = NULL;
        return false;
    }
    if (n->path) {
        ret = libnbd.connect_unix(n->h, n->path);
    } else if (n->fd >= 0) {
        ret = n->fixed_socket_used ? -1 : libnbd.connect_socket(n->h, n->fd);
        if (n->fixed_socket_used) {
            libnbd.close(n->h);
            n->h = NULL;
            return error_set(error, "the socket that was handed over is used up");
        }
        n->fixed_socket_used = true; /* the handle's now */
    } else {
        ret = libnbd.connect_tcp(n->h, n->host, n->port);
    }
    if (ret < 0) {
        const char *text = libnbd.get_error();

        error_set(error, "%s", text ? text : "cannot connect");
        libnbd.close(n->h);
        n->h = NULL;
        return false;
    }
    return true;
}

static void read_capabilities(NbdNode *n)
{
    int64_t size = libnbd.get_size(n->h), min, max;

    n->size = size > 0 ? (uint64_t)size : 0;
    n->server_read_only = libnbd.is_read_only(n->h) == 1;
    n->can_flush = libnbd.can_flush(n->h) == 1;
    n->can_fua = libnbd.can_fua(n->h) == 1;
    n->can_trim = libnbd.can_trim(n->h) == 1;
    n->can_zero = libnbd.can_zero(n->h) == 1;
    n->can_fast_zero = libnbd.can_fast_zero(n->h) == 1;
    n->can_status = libnbd.can_meta_context(n->h, n->context) == 1;
    min = libnbd.get_block_size(n->h, LIBNBD_SIZE_MINIMUM);
    max = libnbd.get_block_size(n->h, LIBNBD_SIZE_MAXIMUM);
    /* What a server says is checked: a power of two, not larger than what any disk has. */
    n->min_block = min > 0 && min <= 65536 && !(min & (min - 1)) ? (uint32_t)min : 1;
    n->max_block = max >= (int64_t)n->min_block ? MIN((uint64_t)max, MAX_PAYLOAD) : MAX_PAYLOAD;
}

static void set_lost(NbdNode *n, bool lost)
{
    pthread_mutex_lock(&n->lock);
    n->lost = lost;
    pthread_mutex_unlock(&n->lock);
}

static void fail_all(NbdNode *n)
{
    NbdRequest *r;

    while ((r = next_request(n))) {
        r->issued = true;
        finish(r, -EIO);
    }
}

/* What the handle still had is not answered any more. */
static void connection_lost(NbdNode *n)
{
    libnbd.close(n->h); /* calls on_done for all */
    n->h = NULL;
    pthread_mutex_lock(&n->lock);
    for (NbdRequest *r = n->list; r; r = r->next) {
        r->issued = false;
    }
    n->lost = true;
    pthread_mutex_unlock(&n->lock);
    n->lost_since_ns = now_ns();
}

/* Waits for a word from elsewhere, or the time. */
static void idle(NbdNode *n, int timeout_ms)
{
    struct pollfd p = { .fd = n->wake.fd, .events = POLLIN };

    poll(&p, 1, timeout_ms);
    event_notifier_test_and_clear(&n->wake);
}

static bool stopping(NbdNode *n)
{
    pthread_mutex_lock(&n->lock);
    bool stop = n->stop;
    pthread_mutex_unlock(&n->lock);
    return stop;
}

static void reconnect(NbdNode *n)
{
    g_autoptr(GError) error = NULL;
    bool late = now_ns() - n->lost_since_ns >= n->reconnect_delay_s * INT64_C(1000000000);
    uint64_t size = n->size;

    if (connect_server(n, &error)) {
        read_capabilities(n);
        if (n->size < size) { /* another disk */
            libnbd.close(n->h);
            n->h = NULL;
            n->size = size;
        } else {
            set_lost(n, false);
            return;
        }
    }
    if (late) {
        fail_all(n);
    }
    idle(n, RETRY_MS);
}

static void talk(NbdNode *n)
{
    struct pollfd p[2] = { { .fd = n->wake.fd, .events = POLLIN }, { .fd = libnbd.aio_get_fd(n->h) } };
    unsigned direction;
    NbdRequest *r;

    while ((r = next_request(n))) {
        issue(n, r);
        if (libnbd.aio_is_dead(n->h) || libnbd.aio_is_closed(n->h)) {
            connection_lost(n);
            return;
        }
    }
    direction = libnbd.aio_get_direction(n->h);
    p[1].events = (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                  (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
    if (poll(p, 2, -1) < 0 && errno != EINTR) {
        connection_lost(n);
        return;
    }
    if (p[0].revents) {
        event_notifier_test_and_clear(&n->wake);
    }
    if ((direction & LIBNBD_AIO_DIRECTION_READ) && (p[1].revents & (POLLIN | POLLHUP | POLLERR))) {
        libnbd.aio_notify_read(n->h);
    } else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) && (p[1].revents & (POLLOUT | POLLHUP | POLLERR))) {
        libnbd.aio_notify_write(n->h);
    }
    if (libnbd.aio_is_dead(n->h) || libnbd.aio_is_closed(n->h)) {
        connection_lost(n);
    }
}

static void *nbd_thread(void *opaque)
{
    NbdNode *n = opaque;
    g_autoptr(GError) error = NULL;
    int64_t give_up_ns = now_ns() + n->open_timeout_s * INT64_C(1000000000);
    bool ok;

    while (!(ok = connect_server(n, &error)) && now_ns() < give_up_ns && !stopping(n)) {
        g_clear_error(&error);
        idle(n, RETRY_MS);
    }
    if (ok) {
        read_capabilities(n);
    }
    pthread_mutex_lock(&n->lock);
    n->connected = ok;
    n->open_error = error ? g_strdup(error->message) : NULL;
    n->open_errno = error && strstr(error->message, ": connect: ") ? libnbd.get_errno() : 0;
    n->open_done = true;
    pthread_cond_signal(&n->opened);
    pthread_mutex_unlock(&n->lock);
    while (ok && !stopping(n)) {
        if (n->h) {
            talk(n);
        } else if (!n->reconnect_delay_s) {
            fail_all(n);
            idle(n, -1);
        } else {
            reconnect(n);
        }
    }
    if (n->h) {
        libnbd.shutdown(n->h, LIBNBD_SHUTDOWN_ABANDON_PENDING);
        libnbd.close(n->h);
        n->h = NULL;
    }
    return NULL;
}

/* ---- opening ---- */

static bool take_address(NbdNode *n, const QapiSocketAddress *server, GError **error)
{
    switch (server->type) {
    case QAPI_SOCKET_ADDRESS_TYPE_INET:
        n->host = g_strdup(server->u_inet->host);
        n->port = g_strdup(server->u_inet->port);
        return true;
    case QAPI_SOCKET_ADDRESS_TYPE_UNIX:
        n->path = g_strdup(server->u_unix->path);
        return true;
    case QAPI_SOCKET_ADDRESS_TYPE_FD:
        n->fd = fd_table_take(block_graph_fds(n->node.graph), server->u_fd->str, error);
        return n->fd >= 0;
    default:
        break;
    }
    return error_set(error, "%s: unknown kind of server address", n->node.what);
}

static bool nbd_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    NbdNode *n = (NbdNode *)node;
    const QapiBlockdevOptionsNbd *o = options->u_nbd;
    sigset_t all, old;

    n->fd = -1;
    n->wake.fd = -1;
    pthread_mutex_init(&n->lock, NULL);
    pthread_cond_init(&n->opened, NULL);
    if (o->tls_hostname && !o->tls_creds) {
        return error_set(error, "%s: tls-hostname needs tls-creds", node->what);
    }
#ifndef CONFIG_LIBNBD_TLS_HOSTNAME
    if (o->tls_hostname && (o->server->type != QAPI_SOCKET_ADDRESS_TYPE_INET ||
                            strcmp(o->tls_hostname, o->server->u_inet->host) != 0)) {
        return error_set(error, "%s: tls-hostname needs a libnbd that knows it (nbd_set_tls_hostname)",
                         node->what);
    }
#endif
    if (o->tls_creds) {
        n->tls = tls_creds_find(block_graph_objects(node->graph), o->tls_creds, false, error);
        if (!n->tls) {
            return false;
        }
        object_ref(OBJECT(n->tls));
        n->tls_hostname = g_strdup(o->tls_hostname);
        if (tls_creds_kind(n->tls) == TLS_ANON) {
            return error_set(error, "%s: libnbd knows no anonymous TLS: use tls-creds-x509 or tls-creds-psk",
                             node->what);
        }
    }
    if (!library_load(&libnbd_library, error) || !take_address(n, o->server, error) ||
        !event_notifier_init(&n->wake, error)) {
        return false;
    }
    if (o->export && strlen(o->export) > 4096) {
        return error_set(error, "export name too long to send to server");
    }
    n->export = g_strdup(o->export);
    n->context = g_strdup(o->x_dirty_bitmap ? o->x_dirty_bitmap : LIBNBD_CONTEXT_BASE_ALLOCATION);
    n->reconnect_delay_s = o->has_reconnect_delay ? o->reconnect_delay : 0;
    n->open_timeout_s = o->has_open_timeout ? o->open_timeout : 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    n->thread = g_thread_new("nbd", nbd_thread, n);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_mutex_lock(&n->lock);
    while (!n->open_done) {
        pthread_cond_wait(&n->opened, &n->lock);
    }
    pthread_mutex_unlock(&n->lock);
    node->filename = n->path
                         ? g_strdup_printf("nbd+unix:///%s?socket=%s", n->export ? n->export : "", n->path)
                     : n->host ? g_strdup_printf("nbd://%s:%s%s%s", n->host, n->port, n->export ? "/" : "",
                                                 n->export ? n->export : "")
                               : g_strdup("nbd:");
    if (!n->connected) {
        return n->open_errno
                   ? error_set_errno(error, n->open_errno, "Failed to connect to '%s'",
                                     n->path   ? n->path
                                     : n->host ? n->host
                                               : node->filename)
                   : error_set(error, "Failed to connect to '%s': %s", node->filename, n->open_error);
    }
    if (o->x_dirty_bitmap && !n->can_status) {
        return error_set(error, "requested x-dirty-bitmap %s not found", o->x_dirty_bitmap);
    }
    if (n->size > BLOCK_MAX_SIZE) {
        return error_set(error, "%s: the server's disk is too large", node->what);
    }
    if (n->server_read_only && !node->read_only) {
        if (!node->auto_read_only) {
            return error_set(
                error, "request on write denied without write permission: the export of '%s' is read-only",
                node->filename);
        }
        node->read_only = true;
    }
    node->size = n->size;
    node->write_flags = n->can_fua ? BLOCK_REQ_FUA : 0;
    node->zero_flags = BLOCK_REQ_MAY_UNMAP | (n->can_fua ? BLOCK_REQ_FUA : 0) |
                       (n->can_fast_zero ? BLOCK_REQ_NO_FALLBACK : 0);
    return true;
}

static void nbd_close_node(BlockNode *node)
{
    NbdNode *n = (NbdNode *)node;

    if (n->thread) {
        pthread_mutex_lock(&n->lock);
        n->stop = true;
        pthread_mutex_unlock(&n->lock);
        event_notifier_set(&n->wake);
        g_thread_join(n->thread);
    }
    if (n->wake.fd >= 0) {
        event_notifier_destroy(&n->wake);
    }
    if (n->fd >= 0 && !n->fixed_socket_used) {
        close(n->fd);
    }
    pthread_mutex_destroy(&n->lock);
    pthread_cond_destroy(&n->opened);
    g_free(n->host);
    g_free(n->port);
    g_free(n->path);
    g_free(n->export);
    g_free(n->context);
    g_free(n->tls_hostname);
    object_unref(OBJECT(n->tls));
    g_free(n->open_error);
}

static void put(json_object *o, const char *name, const char *value)
{
    json_object_object_add(o, name, json_object_new_string(value));
}

/* nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, and the old nbd:HOST:PORT[:exportname=NAME] and
 * nbd:unix:PATH[:exportname=NAME]. */
static bool nbd_parse_filename(const char *filename, json_object *o, GError **error)
{
    g_autoptr(GUri) uri = NULL;
    g_autofree char *rest = NULL;
    char *export, *colon;

    if (g_str_has_prefix(filename, "nbds")) {
        return error_set(error, "'%s': NBD over TLS is not in this version", filename);
    }
    if (strstr(filename, "://")) {
        const char *path;

        uri = g_uri_parse(filename, G_URI_FLAGS_NONE, NULL);
        if (!uri) {
            return error_set(error, "'%s' is no valid NBD URI", filename);
        }
        path = g_uri_get_path(uri);
        path += *path == '/';
        if (*path) {
            put(o, "export", path);
        }
        if (strcmp(g_uri_get_scheme(uri), "nbd+unix") == 0) {
            g_autoptr(GHashTable) query =
                g_uri_get_query(uri)
                    ? g_uri_parse_params(g_uri_get_query(uri), -1, "&", G_URI_PARAMS_NONE, NULL)
                    : NULL;
            const char *socket = query ? g_hash_table_lookup(query, "socket") : NULL;

            if (!socket) {
                return error_set(error, "'%s': a Unix socket is missing (?socket=PATH)", filename);
            }
            put(o, "server.type", "unix");
            put(o, "server.path", socket);
            return true;
        }
        if (!g_uri_get_host(uri) || !*g_uri_get_host(uri)) {
            return error_set(error, "'%s': a host is missing", filename);
        }
        put(o, "server.type", "inet");
        put(o, "server.host", g_uri_get_host(uri));
        rest = g_uri_get_port(uri) > 0 ? g_strdup_printf("%d", g_uri_get_port(uri)) : g_strdup(DEFAULT_PORT);
        put(o, "server.port", rest);
        return true;
    }
    if (!g_str_has_prefix(filename, "nbd:")) {
        return error_set(error, "'%s' names no NBD server", filename);
    }
    rest = g_strdup(filename + strlen("nbd:"));
    export = strstr(rest, ":exportname=");
    if (export) {
        *export = '\0';
        put(o, "export", export + strlen(":exportname="));
    }
    if (g_str_has_prefix(rest, "unix:")) {
        put(o, "server.type", "unix");
        put(o, "server.path", rest + strlen("unix:"));
        return true;
    }
    colon = strrchr(rest, ':');
    if (!colon || colon == rest) {
        return error_set(error, "'%s': expected nbd:HOST:PORT", filename);
    }
    *colon = '\0';
    put(o, "server.type", "inet");
    put(o, "server.host", rest);
    put(o, "server.port", colon + 1);
    return true;
}

static void nbd_refresh_limits(BlockNode *node)
{
    NbdNode *n = (NbdNode *)node;
    BlockLimits *l = &node->limits;

    l->request_alignment = n->min_block;
    l->max_transfer = n->max_block;
    l->max_discard = l->max_write_zeroes = (1u << 30) / n->min_block * n->min_block;
    l->can_discard = n->can_trim;
    l->can_write_zeroes = n->can_zero;
}

/* ---- requests ---- */

static int ask(NbdNode *n, NbdRequest *r)
{
    r->n = n;
    r->loop = loop_current();
    r->co = coroutine_self();
    pthread_mutex_lock(&n->lock);
    if (n->lost && !n->reconnect_delay_s) {
        pthread_mutex_unlock(&n->lock);
        return -EIO;
    }
    r->next = n->list;
    if (r->next) {
        r->next->prev = r;
    }
    n->list = r;
    pthread_mutex_unlock(&n->lock);
    event_notifier_set(&n->wake);
    coroutine_yield();
    return r->result;
}

/* The part of vec in one piece: as it lies there, or a copy. */
static void *flat(const BlockVec *vec, uint64_t from, uint64_t bytes, void **copy)
{
    struct iovec one;

    *copy = NULL;
    if (block_vec_count(vec, from, bytes) == 1) {
        block_vec_slice(vec, from, bytes, &one);
        return one.iov_base;
    }
    return *copy = g_try_malloc(bytes);
}

static int nbd_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                         unsigned flags)
{
    NbdNode *n = (NbdNode *)node;
    void *copy, *buf = flat(vec, from, bytes, &copy);
    uint64_t there = offset < n->size ? MIN(bytes, n->size - offset) : 0;
    NbdRequest r = { .op = NBD_READ, .offset = offset, .bytes = there, .buf = buf };
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    ret = there ? ask(n, &r) : 0;
    if (!ret) {
        memset((uint8_t *)buf + there, 0, bytes - there);
        if (copy) {
            block_vec_write(vec, from, copy, bytes);
        }
    }
    g_free(copy);
    return ret;
}

static int nbd_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          uint64_t from, unsigned flags)
{
    void *copy, *buf = flat(vec, from, bytes, &copy);
    NbdRequest r = { .op = NBD_WRITE,
                     .offset = offset,
                     .bytes = bytes,
                     .buf = buf,
                     .flags = flags & BLOCK_REQ_FUA ? LIBNBD_CMD_FLAG_FUA : 0 };
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    if (copy) {
        block_vec_read(vec, from, copy, bytes);
    }
    ret = ask((NbdNode *)node, &r);
    g_free(copy);
    return ret;
}

static int nbd_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    NbdNode *n = (NbdNode *)node;
    NbdRequest r = { .op = NBD_ZERO, .offset = offset, .bytes = bytes };

    if (!n->can_zero) {
        return -ENOTSUP;
    }
    r.flags = (flags & BLOCK_REQ_FUA ? LIBNBD_CMD_FLAG_FUA : 0) |
              (flags & BLOCK_REQ_MAY_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE) |
              (flags & BLOCK_REQ_NO_FALLBACK ? LIBNBD_CMD_FLAG_FAST_ZERO : 0);
    return ask(n, &r);
}

static int nbd_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    NbdRequest r = { .op = NBD_TRIM, .offset = offset, .bytes = bytes };

    return ((NbdNode *)node)->can_trim ? ask((NbdNode *)node, &r) : 0;
}

static int nbd_co_flush(BlockNode *node)
{
    NbdRequest r = { .op = NBD_FLUSH };

    return ((NbdNode *)node)->can_flush ? ask((NbdNode *)node, &r) : 0;
}

static int nbd_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                               BlockStatus *st)
{
    NbdNode *n = (NbdNode *)node;
    uint64_t max = MIN(bytes, UINT32_MAX / n->min_block * n->min_block);
    NbdRequest r = { .op = NBD_STATUS, .offset = offset, .bytes = max };
    int ret;

    *st = (BlockStatus){
        .flags = BLOCK_STATUS_DATA | BLOCK_STATUS_OFFSET_VALID, .bytes = bytes, .map = offset, .file = node
    };
    if (!n->can_status || offset >= n->size) {
        return 0;
    }
    r.bytes = MIN(max, n->size - offset);
    ret = ask(n, &r);
    if (ret) {
        return ret;
    }
    if (!r.extent_bytes) {
        return -EIO; /* a server that answers without an extent */
    }
    st->bytes = MIN(r.extent_bytes, bytes);
    st->flags = BLOCK_STATUS_OFFSET_VALID | (r.extent_flags & LIBNBD_STATE_HOLE ? 0 : BLOCK_STATUS_DATA) |
                (r.extent_flags & LIBNBD_STATE_ZERO ? BLOCK_STATUS_ZERO : 0);
    return 0;
}

static int nbd_co_truncate(BlockNode *node, uint64_t size, bool exact, QapiPreallocMode prealloc,
                           unsigned flags, GError **error)
{
    if (exact ? size == node->size : size <= node->size) {
        return 0;
    }
    error_set(error, exact ? "Cannot resize NBD nodes" : "Cannot grow NBD nodes");
    return exact ? -ENOTSUP : -EINVAL;
}

static int64_t nbd_allocated(BlockNode *node)
{
    return -ENOTSUP;
}

static const char *const nbd_prefixes[] = { "nbd", "nbd+tcp", "nbd+unix", "nbds", "nbds+unix", NULL };

/* host=, port= and path= stood where server.* does now. */
static void nbd_old_options(json_object *options)
{
    json_object *host, *port, *path, *server;
    bool inet = json_object_object_get_ex(options, "host", &host);

    if ((!inet && !json_object_object_get_ex(options, "path", &path)) ||
        json_object_object_get_ex(options, "server", NULL)) {
        return;
    }
    server = json_object_new_object();
    json_object_object_add(server, "type", json_object_new_string(inet ? "inet" : "unix"));
    if (inet) {
        bool has_port = json_object_object_get_ex(options, "port", &port);

        json_object_object_add(server, "host", json_object_get(host));
        json_object_object_add(server, "port",
                               has_port ? json_object_get(port) : json_object_new_string(DEFAULT_PORT));
        json_object_object_del(options, "host");
        json_object_object_del(options, "port");
    } else {
        json_object_object_add(server, "path", json_object_get(path));
        json_object_object_del(options, "path");
    }
    json_object_object_add(options, "server", server);
}

static const BlockDriver nbd_driver = {
    .name = "nbd",
    .create_options = block_create_existing_options,
    .co_create_named = block_co_create_existing,
    .instance_size = sizeof(NbdNode),
    .is_protocol = true,
    .prefixes = nbd_prefixes,
    .parse_filename = nbd_parse_filename,
    .old_options = nbd_old_options,
    .open = nbd_open,
    .close = nbd_close_node,
    .refresh_limits = nbd_refresh_limits,
    .get_allocated = nbd_allocated,
    .co_preadv = nbd_co_preadv,
    .co_pwritev = nbd_co_pwritev,
    .co_pwrite_zeroes = nbd_co_pwrite_zeroes,
    .co_pdiscard = nbd_co_pdiscard,
    .co_flush = nbd_co_flush,
    .co_block_status = nbd_co_block_status,
    .co_truncate = nbd_co_truncate,
};
BLOCK_DRIVER(nbd_driver);
