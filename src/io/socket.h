/*
 * Stream sockets by address: unix path, internet host and port, or a descriptor that was handed over.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_IO_SOCKET_H
#define RHEA_IO_SOCKET_H

#include "io/fd_table.h"

typedef enum SocketKind { SOCKET_KIND_UNIX, SOCKET_KIND_INET, SOCKET_KIND_FD } SocketKind;

typedef struct SocketAddress {
    SocketKind kind;
    char *path;        /* unix */
    bool abstract;     /* unix: in Linux' abstract name space */
    char *host, *port; /* inet; an empty host listens on every address */
    int family;        /* inet: AF_UNSPEC, AF_INET or AF_INET6 */
    char *fd;          /* fd: a number or a getfd name */
} SocketAddress;

SocketAddress *socket_address_new(void);
void socket_address_free(SocketAddress *addr);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SocketAddress, socket_address_free)
/* From flat options (path, abstract, host, port, ipv4, ipv6, fd). NULL on error. what: for messages. */
SocketAddress *socket_address_from_options(json_object *options, const char *what, GError **error);
/* From QMP's form: {"type": "unix", "path": ...} or {"type": "unix", "data": {"path": ...}}. NULL on error.
 */
SocketAddress *socket_address_from_json(json_object *value, const char *what, GError **error);
/* "unix:/path", "tcp:host:port", "fd:name". Caller frees. */
char *socket_address_describe(const SocketAddress *addr);

/* Both give a descriptor that the caller owns, close-on-exec and non-blocking; -1 on error. A unix path that
 * is in the way is removed, unless somebody listens on it. Connecting waits for the other side to accept. */
int socket_listen(const SocketAddress *addr, FdTable *fds, GError **error);
int socket_connect(const SocketAddress *addr, FdTable *fds, GError **error);
/* "host:port" or the path of an end of a connected or listening socket. Caller frees. */
char *socket_local_name(int fd);
char *socket_peer_name(int fd);
bool socket_is_unix(int fd);

#endif
