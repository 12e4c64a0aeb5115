/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/socket.h"

#include "base/error.h"
#include "io/options.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
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

static SocketAddress *from_flat(json_object *o, SocketKind kind, const char *what, GError **error)
{
    g_autoptr(SocketAddress) addr = socket_address_new();
    bool v4 = false, v6 = false;

    addr->kind = kind;
    addr->family = AF_UNSPEC;
    switch (kind) {
    case SOCKET_KIND_UNIX:
        addr->path = g_strdup(options_str(o, "path"));
        if (!addr->path || !*addr->path) {
            error_set(error, "%s: parameter 'path' is missing", what);
            return NULL;
        }
        if (!options_bool(o, what, "abstract", &addr->abstract, error)) {
            return NULL;
        }
        break;
    case SOCKET_KIND_INET:
        addr->host = g_strdup(options_str(o, "host"));
        addr->port = g_strdup(options_str(o, "port"));
        if (!addr->host) {
            addr->host = g_strdup("");
        }
        if (!addr->port || !*addr->port) {
            error_set(error, "%s: parameter 'port' is missing", what);
            return NULL;
        }
        if (!options_bool(o, what, "ipv4", &v4, error) || !options_bool(o, what, "ipv6", &v6, error)) {
            return NULL;
        }
        if (v4 != v6) {
            addr->family = v4 ? AF_INET : AF_INET6;
        } else if (options_contains(o, "ipv4") && !v4 && !options_contains(o, "ipv6")) {
            addr->family = AF_INET6;
        } else if (options_contains(o, "ipv6") && !v6 && !options_contains(o, "ipv4")) {
            addr->family = AF_INET;
        }
        break;
    case SOCKET_KIND_FD:
        addr->fd = g_strdup(options_str(o, options_contains(o, "str") ? "str" : "fd"));
        if (!addr->fd || !*addr->fd) {
            error_set(error, "%s: parameter 'fd' is missing", what);
            return NULL;
        }
        break;
    }
    return g_steal_pointer(&addr);
}

SocketAddress *socket_address_from_options(json_object *options, const char *what, GError **error)
{
    bool has_path = options_contains(options, "path"), has_fd = options_contains(options, "fd");
    bool has_inet = options_contains(options, "host") || options_contains(options, "port");

    if (has_path + has_fd + has_inet != 1) {
        error_set(error, "%s: give one of 'path', 'fd' or 'host' with 'port'", what);
        return NULL;
    }
    return from_flat(options,
                     has_path ? SOCKET_KIND_UNIX
                     : has_fd ? SOCKET_KIND_FD
                              : SOCKET_KIND_INET,
                     what, error);
}

SocketAddress *socket_address_from_json(json_object *value, const char *what, GError **error)
{
    const char *type;
    json_object *data;

    if (!json_object_is_type(value, json_type_object) || !(type = options_str(value, "type"))) {
        error_set(error, "%s: an address needs a 'type'", what);
        return NULL;
    }
    if (!json_object_object_get_ex(value, "data", &data)) {
        data = value;
    } else if (!json_object_is_type(data, json_type_object)) {
        error_set(error, "%s: an address' 'data' must be an object", what);
        return NULL;
    }
    if (strcmp(type, "unix") == 0) {
        return from_flat(data, SOCKET_KIND_UNIX, what, error);
    }
    if (strcmp(type, "inet") == 0) {
        return from_flat(data, SOCKET_KIND_INET, what, error);
    }
    if (strcmp(type, "fd") == 0) {
        return from_flat(data, SOCKET_KIND_FD, what, error);
    }
    error_set(error, "%s: address type '%s' is not supported", what, type);
    return NULL;
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
    *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
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

int socket_listen(const SocketAddress *addr, FdTable *fds, GError **error)
{
    switch (addr->kind) {
    case SOCKET_KIND_UNIX:
        return listen_unix(addr, error);
    case SOCKET_KIND_INET:
        return set_nonblocking(inet_open(addr, true, error));
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
    struct sockaddr_storage ss;
    socklen_t length = sizeof(ss);

    return getsockname(fd, (struct sockaddr *)&ss, &length) == 0 ? name_of(&ss, length) : g_strdup("");
}

char *socket_peer_name(int fd)
{
    struct sockaddr_storage ss;
    socklen_t length = sizeof(ss);

    return getpeername(fd, (struct sockaddr *)&ss, &length) == 0 ? name_of(&ss, length) : g_strdup("");
}

bool socket_is_unix(int fd)
{
    struct sockaddr_storage ss;
    socklen_t length = sizeof(ss);

    return getsockname(fd, (struct sockaddr *)&ss, &length) == 0 && ss.ss_family == AF_UNIX;
}
