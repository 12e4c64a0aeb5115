/* Exports by id: see exports.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/exports.h"
#include "block/export/nbd_server.h"

#include "base/error.h"
#include "io/options.h"
#include "io/socket.h"

#include <string.h>
#include <unistd.h>

#define DEFAULT_MAX_CONNECTIONS 100

typedef struct Export {
    char *id, *name;
    NbdExport *nbd;
} Export;

struct BlockExports {
    BlockRegistry *reg;
    NbdServer *server;
    char *unix_path; /* of the listening socket: goes with it */
    GPtrArray *list; /* of Export * */
};

BlockExports *block_exports_new(BlockRegistry *reg)
{
    BlockExports *e = g_new0(BlockExports, 1);

    e->reg = reg;
    e->list = g_ptr_array_new();
    return e;
}

static void export_end(BlockExports *exports, Export *e)
{
    json_object *data = json_object_new_object();

    g_ptr_array_remove(exports->list, e);
    nbd_export_free(e->nbd);
    json_object_object_add(data, "id", json_object_new_string(e->id));
    block_graph_emit(block_registry_graph(exports->reg), "BLOCK_EXPORT_DELETED", data);
    g_free(e->id);
    g_free(e->name);
    g_free(e);
}

static void server_end(BlockExports *exports)
{
    while (exports->list->len) {
        export_end(exports, g_ptr_array_index(exports->list, 0));
    }
    nbd_server_free(exports->server);
    exports->server = NULL;
    if (exports->unix_path) {
        unlink(exports->unix_path);
        g_clear_pointer(&exports->unix_path, g_free);
    }
}

void block_exports_free(BlockExports *exports)
{
    if (exports->server) {
        server_end(exports);
    }
    g_ptr_array_unref(exports->list);
    g_free(exports);
}

static bool start(BlockExports *exports, const SocketAddress *addr, const char *tls_creds,
                  const char *tls_authz, unsigned max_connections, GError **error)
{
    BlockGraph *graph = block_registry_graph(exports->reg);
    TlsCreds *creds = NULL;
    int fd;

    if (exports->server) {
        return error_set(error, "NBD server already running");
    }
    if (tls_authz && !tls_creds) {
        return error_set(error, "NBD server: tls-authz needs tls-creds");
    }
    if (tls_creds) {
        creds = tls_creds_find(block_graph_objects(graph), tls_creds, true, error);
        if (!creds) {
            return false;
        }
    }
    fd = socket_listen(addr, block_graph_fds(graph), error);
    if (fd < 0) {
        return false;
    }
    exports->server = nbd_server_new(graph);
    if ((creds && !nbd_server_set_tls(exports->server, creds, tls_authz, error)) ||
        !nbd_server_listen(exports->server, fd, error)) {
        close(fd);
        server_end(exports);
        return false;
    }
    nbd_server_set_max_clients(exports->server, max_connections);
    if (addr->kind == SOCKET_KIND_UNIX && !addr->abstract) {
        exports->unix_path = g_canonicalize_filename(addr->path, NULL);
    }
    return true;
}

bool block_exports_server_start(BlockExports *exports, const QapiNbdServerOptions *o, GError **error)
{
    g_autoptr(SocketAddress) addr = socket_address_from_qapi(o->addr, "NBD server", error);

    return addr && start(exports, addr, o->tls_creds, o->tls_authz,
                         o->has_max_connections ? o->max_connections : DEFAULT_MAX_CONNECTIONS, error);
}

bool block_exports_server_start_legacy(BlockExports *exports, const QapiSocketAddressLegacy *legacy,
                                       const char *tls_creds, const char *tls_authz, bool has_max_connections,
                                       uint32_t max_connections, GError **error)
{
    g_autoptr(SocketAddress) addr = socket_address_from_legacy(legacy, "NBD server", error);

    return addr && start(exports, addr, tls_creds, tls_authz,
                         has_max_connections ? max_connections : DEFAULT_MAX_CONNECTIONS, error);
}

bool block_exports_server_stop(BlockExports *exports, GError **error)
{
    if (!exports->server) {
        return error_set(error, "NBD server not running");
    }
    server_end(exports);
    return true;
}

/* ---- exports ---- */

static Export *find(BlockExports *exports, const char *id, bool by_name)
{
    for (guint i = 0; i < exports->list->len; i++) {
        Export *e = g_ptr_array_index(exports->list, i);

        if (strcmp(by_name ? e->name : e->id, id) == 0) {
            return e;
        }
    }
    return NULL;
}

static bool add(BlockExports *exports, const char *id, BlockNode *node, const NbdExportOptions *options,
                GError **error)
{
    NbdExport *nbd;
    Export *e;

    if (!exports->server) {
        return error_set(error, "NBD server not running");
    }
    if (find(exports, id, false)) {
        return error_set(error, "Block export id '%s' is already in use", id);
    }
    nbd = nbd_export_new(exports->server, node, options, error);
    if (!nbd) {
        return false;
    }
    e = g_new(Export, 1);
    *e = (Export){ .id = g_strdup(id), .name = g_strdup(options->name), .nbd = nbd };
    g_ptr_array_add(exports->list, e);
    return true;
}

bool block_export_add(BlockExports *exports, const QapiBlockExportOptions *o, GError **error)
{
    const QapiBlockExportOptionsNbd *nbd = o->u_nbd; /* the only type */
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    BlockNode *node = block_lookup(exports->reg, NULL, o->node_name, error);
    NbdExportOptions options = { .name = nbd->name ? nbd->name : o->node_name,
                                 .description = nbd->description,
                                 .writable = o->has_writable && o->writable,
                                 .writethrough = o->has_writethrough && o->writethrough,
                                 .shared = true,
                                 .allocation_depth = nbd->has_allocation_depth && nbd->allocation_depth };

    if (!node) {
        return false;
    }
    if (!options_id_ok(o->id)) {
        return error_set(error, "Invalid block export id");
    }
    for (guint i = 0; nbd->bitmaps && i < nbd->bitmaps->len; i++) {
        const QapiBlockDirtyBitmapOrStr *b = g_ptr_array_index(nbd->bitmaps, i);
        bool local = b->kind == QAPI_BLOCK_DIRTY_BITMAP_OR_STR_LOCAL;

        if (!local) {
            BlockNode *of = block_lookup(exports->reg, NULL, b->u_external->node, error);

            if (!of) {
                return false;
            }
            if (!block_chain_contains(node, of)) {
                return error_set(error,
                                 "Node '%s' of bitmap '%s' is not in the chain of the exported node '%s'",
                                 of->name, b->u_external->name, node->name);
            }
        }
        g_ptr_array_add(names, local ? b->u_local : b->u_external->name);
    }
    g_ptr_array_add(names, NULL);
    options.bitmaps = (const char *const *)names->pdata;
    return add(exports, o->id, node, &options, error);
}

static bool end(BlockExports *exports, Export *e, bool hard, GError **error)
{
    if (!hard && nbd_export_clients(e->nbd)) {
        error_set(error, "export '%s' still in use", e->id);
        error_append_hint(error, "Use mode='hard' to force client disconnect");
        return false;
    }
    export_end(exports, e);
    return true;
}

bool block_export_del(BlockExports *exports, const char *id, bool hard, GError **error)
{
    Export *e = find(exports, id, false);

    return e ? end(exports, e, hard, error) : error_set(error, "Export '%s' is not found", id);
}

json_object *block_exports_query(BlockExports *exports)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < exports->list->len; i++) {
        const Export *e = g_ptr_array_index(exports->list, i);
        json_object *o = json_object_new_object();

        json_object_object_add(o, "id", json_object_new_string(e->id));
        json_object_object_add(o, "type", json_object_new_string("nbd"));
        json_object_object_add(o, "node-name", json_object_new_string(nbd_export_node(e->nbd)->name));
        json_object_object_add(o, "shutting-down", json_object_new_boolean(false));
        json_object_array_add(list, o);
    }
    return list;
}

/* ---- the older commands ---- */

bool block_exports_nbd_add(BlockExports *exports, const QapiNbdServerAddOptions *o, GError **error)
{
    BlockNode *node = block_lookup(exports->reg, o->device, o->device, error);
    const char *bitmaps[] = { o->bitmap, NULL };
    NbdExportOptions options = { .name = o->name ? o->name : o->device,
                                 .description = o->description,
                                 .shared = true,
                                 .bitmaps = bitmaps };

    if (!node) {
        return false;
    }
    options.writable = o->has_writable && o->writable && !node->read_only;
    return add(exports, options.name, node, &options, error);
}

bool block_exports_nbd_remove(BlockExports *exports, const char *name, bool hard, GError **error)
{
    Export *e = find(exports, name, true);

    return e ? end(exports, e, hard, error) : error_set(error, "Export '%s' is not found", name);
}
