/*
 * Exports of block nodes by id, and the NBD server that shows them: what block-export-add and
 * nbd-server-start do. Control plane. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_EXPORTS_H
#define RHEA_BLOCK_EXPORTS_H

#include "block/block.h"

typedef struct BlockExports BlockExports;

BlockExports *block_registry_exports(BlockRegistry *reg);

bool block_exports_server_start(BlockExports *exports, const QapiNbdServerOptions *options, GError **error);
/* The same with the other form of an address. */
bool block_exports_server_start_legacy(BlockExports *exports, const QapiSocketAddressLegacy *addr,
                                       const char *tls_creds, const char *tls_authz, bool has_max_connections,
                                       uint32_t max_connections, GError **error);
/* With all of its exports. */
bool block_exports_server_stop(BlockExports *exports, GError **error);
bool block_export_add(BlockExports *exports, const QapiBlockExportOptions *options, GError **error);
/* hard: though clients use it. */
bool block_export_del(BlockExports *exports, const char *id, bool hard, GError **error);
/* query-block-exports; the caller's. */
json_object *block_exports_query(BlockExports *exports);
/* nbd-server-add and nbd-server-remove, which know exports by their names. */
bool block_exports_nbd_add(BlockExports *exports, const QapiNbdServerAddOptions *options, GError **error);
bool block_exports_nbd_remove(BlockExports *exports, const char *name, bool hard, GError **error);

/* ---- for the registry ---- */
BlockExports *block_exports_new(BlockRegistry *reg);
void block_exports_free(BlockExports *exports);

#endif
