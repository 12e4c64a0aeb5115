/*
 * -chardev: its flat names as the nested description that chardev-add takes.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev/chardev_internal.h"

#include "base/error.h"

#include <string.h>

#define DATA(branch, Wrapper, Type) \
    ((branch) = g_new0(Qapi##Wrapper, 1), (branch)->data = g_new0(Qapi##Type, 1))

static QapiSocketAddressLegacy *address(const QapiChardevOptionsSocket *o, const char *what, GError **error)
{
    bool inet = o->host || o->port;

    if (!!o->path + !!o->fd + inet != 1) {
        error_set(error, "%s: give one of 'path', 'fd' or 'host' with 'port'", what);
        return NULL;
    }
    if (inet && !o->port) {
        error_set(error, "%s: parameter 'port' is missing", what);
        return NULL;
    }
    QapiSocketAddressLegacy *addr = g_new0(QapiSocketAddressLegacy, 1);
    if (o->path) {
        addr->type = QAPI_SOCKET_ADDRESS_TYPE_UNIX;
        QapiUnixSocketAddress *d = DATA(addr->u_unix, UnixSocketAddressWrapper, UnixSocketAddress);
        d->path = g_strdup(o->path);
        d->has_abstract = o->has_abstract;
        d->abstract = o->abstract;
        d->has_tight = o->has_tight;
        d->tight = o->tight;
    } else if (o->fd) {
        addr->type = QAPI_SOCKET_ADDRESS_TYPE_FD;
        DATA(addr->u_fd, StringWrapper, String)->str = g_strdup(o->fd);
    } else {
        addr->type = QAPI_SOCKET_ADDRESS_TYPE_INET;
        QapiInetSocketAddress *d = DATA(addr->u_inet, InetSocketAddressWrapper, InetSocketAddress);
        d->host = g_strdup(o->host ? o->host : "");
        d->port = g_strdup(o->port);
        d->has_to = o->has_to;
        d->to = o->to;
        d->has_ipv4 = o->has_ipv4;
        d->ipv4 = o->ipv4;
        d->has_ipv6 = o->has_ipv6;
        d->ipv6 = o->ipv6;
    }
    return addr;
}

static bool socket_backend(const QapiChardevOptionsSocket *o, const char *what, QapiChardevSocket *d,
                           GError **error)
{
    const char *refused = o->has_telnet && o->telnet         ? "telnet"
                          : o->has_tn3270 && o->tn3270       ? "tn3270"
                          : o->has_websocket && o->websocket ? "websocket"
                                                             : NULL;
    if (refused) {
        return error_set(error, "%s: '%s' is not supported yet", what, refused);
    }
    d->addr = address(o, what, error);
    if (!d->addr) {
        return false;
    }
    /* chardev-add's defaults are the other way round. */
    d->has_server = true;
    d->server = o->has_server && o->server;
    d->has_wait = o->has_wait || d->server;
    d->wait = o->has_wait ? o->wait : d->server;
    d->has_nodelay = o->has_nodelay || o->has_delay;
    d->nodelay = o->has_delay ? !o->delay : o->nodelay;
    d->has_reconnect = o->has_reconnect;
    d->reconnect = o->reconnect;
    return true;
}

static QapiChardevFile *file_backend(const QapiChardevOptionsFile *o, QapiChardevFile *d)
{
    d->out = g_strdup(o->path);
    d->in_ = g_strdup(o->input_path);
    d->has_append = o->has_append;
    d->append = o->append;
    return d;
}

static QapiChardevHostdev *device_backend(const QapiChardevOptionsPath *o, QapiChardevHostdev *d)
{
    d->device = g_strdup(o->path);
    return d;
}

static QapiChardevRingbuf *ringbuf_backend(const QapiChardevOptionsRingbuf *o, QapiChardevRingbuf *d)
{
    d->has_size = o->has_size;
    d->size = o->size;
    return d;
}

/* Allocates the branch of the kind and returns what it has in common with others; NULL on error. */
static QapiChardevCommon *fill(QapiChardevBackend *b, const QapiChardevOptions *o, const char *what,
                               GError **error)
{
    switch (o->backend) {
    case QAPI_CHARDEV_OPTIONS_KIND_FILE:
        b->type = QAPI_CHARDEV_BACKEND_KIND_FILE;
        return qapi_ChardevFile_base(
            file_backend(o->u_file, DATA(b->u_file, ChardevFileWrapper, ChardevFile)));
    case QAPI_CHARDEV_OPTIONS_KIND_SERIAL:
    case QAPI_CHARDEV_OPTIONS_KIND_TTY:
        b->type = QAPI_CHARDEV_BACKEND_KIND_SERIAL;
        return qapi_ChardevHostdev_base(
            device_backend(o->backend == QAPI_CHARDEV_OPTIONS_KIND_TTY ? o->u_tty : o->u_serial,
                           DATA(b->u_serial, ChardevHostdevWrapper, ChardevHostdev)));
    case QAPI_CHARDEV_OPTIONS_KIND_PIPE:
        b->type = QAPI_CHARDEV_BACKEND_KIND_PIPE;
        return qapi_ChardevHostdev_base(
            device_backend(o->u_pipe, DATA(b->u_pipe, ChardevHostdevWrapper, ChardevHostdev)));
    case QAPI_CHARDEV_OPTIONS_KIND_SOCKET: {
        b->type = QAPI_CHARDEV_BACKEND_KIND_SOCKET;
        QapiChardevSocket *d = DATA(b->u_socket, ChardevSocketWrapper, ChardevSocket);
        return socket_backend(o->u_socket, what, d, error) ? qapi_ChardevSocket_base(d) : NULL;
    }
    case QAPI_CHARDEV_OPTIONS_KIND_PTY: {
        b->type = QAPI_CHARDEV_BACKEND_KIND_PTY;
        QapiChardevPty *d = DATA(b->u_pty, ChardevPtyWrapper, ChardevPty);
        d->path = g_strdup(o->u_pty->path);
        return qapi_ChardevPty_base(d);
    }
    case QAPI_CHARDEV_OPTIONS_KIND_STDIO: {
        b->type = QAPI_CHARDEV_BACKEND_KIND_STDIO;
        QapiChardevStdio *d = DATA(b->u_stdio, ChardevStdioWrapper, ChardevStdio);
        d->has_signal = o->u_stdio->has_signal;
        d->signal = o->u_stdio->signal;
        return qapi_ChardevStdio_base(d);
    }
    case QAPI_CHARDEV_OPTIONS_KIND_RINGBUF:
    case QAPI_CHARDEV_OPTIONS_KIND_MEMORY:
        b->type = QAPI_CHARDEV_BACKEND_KIND_RINGBUF;
        return qapi_ChardevRingbuf_base(
            ringbuf_backend(o->backend == QAPI_CHARDEV_OPTIONS_KIND_MEMORY ? o->u_memory : o->u_ringbuf,
                            DATA(b->u_ringbuf, ChardevRingbufWrapper, ChardevRingbuf)));
    default:
        b->type = QAPI_CHARDEV_BACKEND_KIND_NULL;
        return DATA(b->u_null, ChardevCommonWrapper, ChardevCommon);
    }
}

QapiChardevBackend *chardev_backend_from_options(const QapiChardevOptions *options, GError **error)
{
    g_autofree char *what = g_strdup_printf("chardev '%s'", options->id);
    g_autoptr(QapiChardevBackend) backend = g_new0(QapiChardevBackend, 1);
    QapiChardevCommon *common = fill(backend, options, what, error);

    if (!common) {
        return NULL;
    }
    common->logfile = g_strdup(options->logfile);
    common->has_logappend = options->has_logappend;
    common->logappend = options->logappend;
    return g_steal_pointer(&backend);
}
