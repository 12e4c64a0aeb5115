/*
 * The NBD server: exports of block nodes, and connections that use them.
 *
 * A server and its connections belong to one loop, whose thread calls everything here. A connection is one
 * coroutine that reads requests, and one for each request under way; requests are answered as they end. What
 * a client sends is hostile: sizes are capped, names checked, and a client that breaks the protocol loses its
 * connection and nothing else. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_EXPORT_NBD_SERVER_H
#define RHEA_BLOCK_EXPORT_NBD_SERVER_H

#include "block/graph/dirty_bitmap.h"
#include "block/graph/graph.h"
#include "io/tls.h"

typedef struct NbdServer NbdServer;
typedef struct NbdExport NbdExport;

typedef struct NbdExportOptions {
    const char *name;        /* "" is the default export */
    const char *description; /* or NULL */
    bool writable;
    bool shared;       /* several clients may be connected: flushes of one hold for all */
    bool writethrough; /* every write is stable when it is answered */
    bool allocation_depth;
    const char *const *bitmaps; /* NULL-terminated names, or NULL */
    uint64_t offset;            /* only this part of the node */
    uint64_t size;              /* 0: to the end */
} NbdExportOptions;

NbdServer *nbd_server_new(BlockGraph *graph);
/* Ends all connections and exports. */
void nbd_server_free(NbdServer *server);
/* fd: a listening socket; owned from now on. */
bool nbd_server_listen(NbdServer *server, int fd, GError **error);
/* At most this many clients at a time: others wait in the listening queue. 0: no limit. */
void nbd_server_set_max_clients(NbdServer *server, unsigned max);
/* Every client must use TLS; authz: the id of the object that says whose certificates are let in, or NULL.
 * For clients that come from now on. */
bool nbd_server_set_tls(NbdServer *server, TlsCreds *creds, const char *authz, GError **error);
/* An accepted connection's descriptor; owned from now on. */
void nbd_server_add_client(NbdServer *server, int fd);
unsigned nbd_server_clients(const NbdServer *server);
/* Called when a client went; in the server's loop. */
void nbd_server_set_client_hook(NbdServer *server, void (*gone)(void *opaque), void *opaque);

/* Takes permissions on node. NULL on error. Freed with the server, or before. */
NbdExport *nbd_export_new(NbdServer *server, BlockNode *node, const NbdExportOptions *options,
                          GError **error);
/* Its connections end first. */
void nbd_export_free(NbdExport *exp);
NbdExport *nbd_export_find(NbdServer *server, const char *name);
unsigned nbd_export_clients(const NbdExport *exp);
BlockNode *nbd_export_node(const NbdExport *exp); /* borrowed */
uint64_t nbd_export_size(const NbdExport *exp);

#endif
