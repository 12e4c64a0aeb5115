/*
 * Stream sockets by address: unix path, internet host and port, or a descriptor that was handed over.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_IO_SOCKET_H
#define RHEA_IO_SOCKET_H

#include "io/fd_table.h"
#include "qapi/qapi_types.h"

typedef enum SocketKind { SOCKET_KIND_UNIX, SOCKET_KIND_INET, SOCKET_KIND_FD } SocketKind;

typedef struct SocketAddress {
    SocketKind kind;
    char *path;        /* unix */
    bool abstract;     /* unix: in Linux' abstract name space */
    bool padded;       /* unix, abstract: the name is all of sun_path, with its zeroes */
    char *host, *port; /* inet; an empty host listens on every address */
    uint16_t port_end; /* inet: listens on the first free port from port to this one; 0: on port only */
    int family;        /* inet: AF_UNSPEC, AF_INET or AF_INET6 */
    char *fd;          /* fd: a number or a getfd name */
} SocketAddress;

SocketAddress *socket_address_new(void);
void socket_address_free(SocketAddress *addr);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SocketAddress, socket_address_free)
/* From the schema's two forms of it. NULL on error. what: for messages. */
SocketAddress *socket_address_from_qapi(const QapiSocketAddress *addr, const char *what, GError **error);
SocketAddress *socket_address_from_legacy(const QapiSocketAddressLegacy *addr, const char *what,
                                          GError **error);
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
