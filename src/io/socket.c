/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/socket.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

SocketAddress *socket_address_new(void)
{
    return g_new0(SocketAddress, 1);
}

void socket_address_free(SocketAddress *addr)
{
    if (addr) {
        g_free(addr->path);
        g_free(addr->host);
        g_free(addr->port);
        g_free(addr->fd);
        g_free(addr);
    }
}

static SocketAddress *from_unix(const QapiUnixSocketAddress *q, const char *what, GError **error)
{
    if (!*q->path) {
        error_set(error, "%s: parameter 'path' is empty", what);
        return NULL;
    }
    SocketAddress *addr = socket_address_new();
    addr->kind = SOCKET_KIND_UNIX;
    addr->path = g_strdup(q->path);
    addr->abstract = q->has_abstract && q->abstract;
    addr->padded = addr->abstract && q->has_tight && !q->tight;
    return addr;
}

/* ipv4 and ipv6 choose: each one that is on alone is meant alone, and one that is off leaves the other. */
static int inet_family(const QapiInetSocketAddress *q)
{
    bool v4 = q->has_ipv4 ? q->ipv4 : q->has_ipv6 && !q->ipv6;
    bool v6 = q->has_ipv6 ? q->ipv6 : q->has_ipv4 && !q->ipv4;

    return v4 == v6 ? AF_UNSPEC : v4 ? AF_INET : AF_INET6;
}

static SocketAddress *from_inet(const QapiInetSocketAddress *q, const char *what, GError **error)
{
    guint64 first;

    if (!*q->port) {
        error_set(error, "%s: parameter 'port' is empty", what);
        return NULL;
    }
    if (q->has_to &&
        (!g_ascii_string_to_unsigned(q->port, 10, 1, UINT16_MAX, &first, NULL) || q->to < first)) {
        error_set(error, "%s: parameter 'to' expects a port number that is not below 'port'", what);
        return NULL;
    }
    SocketAddress *addr = socket_address_new();
    addr->kind = SOCKET_KIND_INET;
    addr->host = g_strdup(q->host);
    addr->port = g_strdup(q->port);
    addr->port_end = q->has_to ? q->to : 0;
    addr->family = inet_family(q);
    return addr;
}

static SocketAddress *from_fd(const char *fd, const char *what, GError **error)
{
    if (!*fd) {
        error_set(error, "%s: the name of a descriptor is empty", what);
        return NULL;
    }
    SocketAddress *addr = socket_address_new();
    addr->kind = SOCKET_KIND_FD;
    addr->fd = g_strdup(fd);
    return addr;
}

SocketAddress *socket_address_from_qapi(const QapiSocketAddress *addr, const char *what, GError **error)
{
    switch (addr->type) {
    case QAPI_SOCKET_ADDRESS_TYPE_UNIX:
        return from_unix(addr->u_unix, what, error);
    case QAPI_SOCKET_ADDRESS_TYPE_INET:
        return from_inet(addr->u_inet, what, error);
    default:
        return from_fd(addr->u_fd->str, what, error);
    }
}

SocketAddress *socket_address_from_legacy(const QapiSocketAddressLegacy *addr, const char *what,
                                          GError **error)
{
    switch (addr->type) {
    case QAPI_SOCKET_ADDRESS_TYPE_UNIX:
        return from_unix(addr->u_unix->data, what, error);
    case QAPI_SOCKET_ADDRESS_TYPE_INET:
        return from_inet(addr->u_inet->data, what, error);
    default:
        return from_fd(addr->u_fd->data->str, what, error);
    }
}

char *socket_address_describe(const SocketAddress *addr)
{
    switch (addr->kind) {
    case SOCKET_KIND_UNIX:
        return g_strconcat("unix:", addr->path, NULL);
    case SOCKET_KIND_INET:
        return g_strdup_printf(strchr(addr->host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", addr->host, addr->port);
    default:
        return g_strconcat("fd:", addr->fd, NULL);
    }
}

static bool unix_address(const SocketAddress *addr, struct sockaddr_un *un, socklen_t *length, GError **error)
{
    size_t n = strlen(addr->path);

    memset(un, 0, sizeof(*un));
    un->sun_family = AF_UNIX;
    if (n + 1 > sizeof(un->sun_path)) {
        return error_set(error, "UNIX socket path '%s' is too long: at most %zu bytes", addr->path,
                         sizeof(un->sun_path) - 1);
    }
    memcpy(un->sun_path + addr->abstract, addr->path, n);
    *length = addr->padded ? sizeof(*un) : (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    return true;
}

/* Whether some process answers on a socket file (which must then not be taken away from it). */
static bool unix_in_use(const struct sockaddr_un *un, socklen_t length)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool used;

    if (fd < 0) {
        return false;
    }
    used = connect(fd, (const struct sockaddr *)un, length) == 0 || errno == EAGAIN;
    close(fd);
    return used;
}

static int listen_unix(const SocketAddress *addr, GError **error)
{
    struct sockaddr_un un;
    socklen_t length;
    int fd;

    if (!unix_address(addr, &un, &length, error)) {
        return -1;
    }
    if (!addr->abstract && unix_in_use(&un, length)) {
        error_set(error, "Cannot listen on '%s': another process already does", addr->path);
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!addr->abstract && unlink(addr->path) < 0 && errno != ENOENT) {
        error_set_errno(error, errno, "Cannot replace '%s'", addr->path);
        close(fd);
        return -1;
    }
    if (fd < 0 || bind(fd, (struct sockaddr *)&un, length) < 0 || listen(fd, 16) < 0) {
        error_set_errno(error, errno, "Cannot listen on '%s'", addr->path);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

static struct addrinfo *resolve(const SocketAddress *addr, bool passive, GError **error)
{
    struct addrinfo hints = { .ai_family = addr->family,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = passive ? AI_PASSIVE : 0 };
    struct addrinfo *list = NULL;
    int ret = getaddrinfo(*addr->host ? addr->host : NULL, addr->port, &hints, &list);

    if (ret) {
        error_set(error, "Cannot resolve '%s:%s': %s", addr->host, addr->port, gai_strerror(ret));
        return NULL;
    }
    return list;
}

static int inet_open(const SocketAddress *addr, bool server, GError **error)
{
    struct addrinfo *list = resolve(addr, server, error);
    int fd = -1, saved = EADDRNOTAVAIL, one = 1;

    if (!list) {
        return -1;
    }
    for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol);
        if (fd < 0) {
            saved = errno;
            continue;
        }
        if (server) {
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
            if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, 16) == 0) {
                break;
            }
        } else if (connect(fd, ai->ai_addr, ai->ai_addrlen) == 0) {
            break;
        }
        saved = errno;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    if (fd < 0) {
        error_set_errno(error, saved, server ? "Cannot listen on '%s:%s'" : "Cannot connect to '%s:%s'",
                        addr->host, addr->port);
        return -1;
    }
    return fd;
}

static int set_nonblocking(int fd)
{
    if (fd >= 0) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    }
    return fd;
}

/* A handed-over descriptor must be a stream socket in the right state. */
static int take_socket(const SocketAddress *addr, FdTable *fds, bool listening, GError **error)
{
    int fd = fd_table_take(fds, addr->fd, error), type = 0, state = 0;
    socklen_t length = sizeof(type);

    if (fd < 0) {
        return -1;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || type != SOCK_STREAM) {
        error_set(error, "File descriptor '%s' is not a stream socket", addr->fd);
        return -1;
    }
    length = sizeof(state);
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &state, &length);
    if (!!state != listening && listening && listen(fd, 16) < 0) {
        error_set_errno(error, errno, "File descriptor '%s' cannot listen", addr->fd);
        return -1;
    }
    if (state && !listening) {
        error_set(error, "File descriptor '%s' is a listening socket: add server=on", addr->fd);
        return -1;
    }
    return set_nonblocking(fd);
}

/* The first port of the range that is free. */
static int listen_inet(const SocketAddress *addr, GError **error)
{
    SocketAddress one = *addr;
    int fd = -1;

    if (!addr->port_end) {
        return inet_open(addr, true, error);
    }
    for (unsigned port = (unsigned)atoi(addr->port); fd < 0 && port <= addr->port_end; port++) {
        g_autoptr(GError) local = NULL;
        g_autofree char *text = g_strdup_printf("%u", port);

        one.port = text;
        fd = inet_open(&one, true, &local);
        if (fd < 0 && port == addr->port_end) {
            g_propagate_error(error, g_steal_pointer(&local));
        }
    }
    return fd;
}

int socket_listen(const SocketAddress *addr, FdTable *fds, GError **error)
{
    switch (addr->kind) {
    case SOCKET_KIND_UNIX:
        return listen_unix(addr, error);
    case SOCKET_KIND_INET:
        return set_nonblocking(listen_inet(addr, error));
    default:
        return take_socket(addr, fds, true, error);
    }
}

int socket_connect(const SocketAddress *addr, FdTable *fds, GError **error)
{
    struct sockaddr_un un;
    socklen_t length;
    int fd, one = 1;

    switch (addr->kind) {
    case SOCKET_KIND_UNIX:
        if (!unix_address(addr, &un, &length, error)) {
            return -1;
        }
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&un, length) < 0) {
            error_set_errno(error, errno, "Cannot connect to '%s'", addr->path);
            if (fd >= 0) {
                close(fd);
            }
            return -1;
        }
        return set_nonblocking(fd);
    case SOCKET_KIND_INET:
        fd = inet_open(addr, false, error);
        if (fd >= 0) {
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        }
        return set_nonblocking(fd);
    default:
        return take_socket(addr, fds, false, error);
    }
}

static char *name_of(const struct sockaddr_storage *ss, socklen_t length)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (ss->ss_family == AF_UNIX) {
        const struct sockaddr_un *un = (const void *)ss;

        return length > offsetof(struct sockaddr_un, sun_path) ? g_strdup(un->sun_path) : g_strdup("");
    }
    if (getnameinfo((const struct sockaddr *)ss, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return g_strdup("");
    }
    return g_strdup_printf(strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

char *socket_local_name(int fd)
{
    struct sockaddr_storage ss = { 0 };
    socklen_t length = sizeof(ss);

    return getsockname(fd, (struct sockaddr *)&ss, &length) == 0 ? name_of(&ss, length) : g_strdup("");
}

char *socket_peer_name(int fd)
{
    struct sockaddr_storage ss = { 0 };
    socklen_t length = sizeof(ss);

    return getpeername(fd, (struct sockaddr *)&ss, &length) == 0 ? name_of(&ss, length) : g_strdup("");
}

bool socket_is_unix(int fd)
{
    struct sockaddr_storage ss = { 0 };
    socklen_t length = sizeof(ss);

    return getsockname(fd, (struct sockaddr *)&ss, &length) == 0 && ss.ss_family == AF_UNIX;
}
