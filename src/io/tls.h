/*
 * TLS over a stream socket: credentials as objects (tls-creds-x509, tls-creds-psk, tls-creds-anon), sessions
 * over a descriptor, and who may come in (authz-simple, authz-list, authz-list-file).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_IO_TLS_H
#define RHEA_IO_TLS_H

#include "object/object.h"

#include <sys/uio.h>

typedef struct TlsCreds TlsCreds; /* an Object */
typedef struct TlsSession TlsSession;

/* /objects/ID for that end of connections. Borrowed: take a reference where it is kept. NULL on error. */
TlsCreds *tls_creds_find(Object *root, const char *id, bool server, GError **error);
typedef enum TlsKind { TLS_X509, TLS_PSK, TLS_ANON } TlsKind;
TlsKind tls_creds_kind(const TlsCreds *creds);
const char *tls_creds_dir(const TlsCreds *creds);      /* or NULL */
const char *tls_creds_username(const TlsCreds *creds); /* of tls-creds-psk */
bool tls_creds_verify_peer(const TlsCreds *creds);

/* fd: borrowed, blocking or not. hostname: what a client expects the server's certificate to name; NULL: not
 * looked at. NULL on error. */
TlsSession *tls_session_new(TlsCreds *creds, int fd, const char *hostname, GError **error);
void tls_session_free(TlsSession *session); /* says good-bye where that needs no waiting */
/* 1: done; 0: when the socket is readable (or, *wants_write, writable) again; -1: an error. After 1 the
 * peer's certificate was looked at. */
int tls_handshake(TlsSession *session, bool *wants_write, GError **error);
/* As recv and send: bytes (0: the end), or a negative errno, -EAGAIN among them. */
ssize_t tls_recv(TlsSession *session, void *buf, size_t size);
ssize_t tls_sendv(TlsSession *session, const struct iovec *iov, int count);
/* The peer by its certificate's distinguished name or its PSK user name; NULL: it showed none. Borrowed. */
const char *tls_peer_name(const TlsSession *session);

/* Whether /objects/ID lets that name in. */
bool authz_find(Object *root, const char *id, GError **error);
bool authz_allows(Object *root, const char *id, const char *name, GError **error);

#endif
