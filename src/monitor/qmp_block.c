/* QMP: block nodes, dirty bitmaps, jobs. SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/monitor_internal.h"

#include "base/error.h"
#include "block/exports.h"
#include "block/operate.h"
#include "block/replication.h"
#include "block/throttling.h"
#include "qapi/qapi_commands.h"

#define JOBS block_registry_jobs(vm_blocks(ctx->vm))

/* ---- block devices ---- */

bool qmp_query_block(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = block_query(vm_blocks(ctx->vm));
    return true;
}

/* raw-return commands with arguments get them checked by the generated code. */
bool qmp_query_named_block_nodes(QmpContext *ctx, bool has_flat, bool flat, json_object **ret, GError **error)
{
    *ret = block_query_nodes(vm_blocks(ctx->vm), has_flat && flat);
    return true;
}

bool qmp_query_blockstats(QmpContext *ctx, bool has_query_nodes, bool query_nodes, json_object **ret,
                          GError **error)
{
    *ret = block_query_stats(vm_blocks(ctx->vm), has_query_nodes && query_nodes);
    return true;
}

bool qmp_blockdev_add(QmpContext *ctx, QapiBlockdevOptions *args, GError **error)
{
    return blockdev_add(vm_blocks(ctx->vm), args, error);
}

bool qmp_blockdev_del(QmpContext *ctx, const char *node_name, GError **error)
{
    return blockdev_del(vm_blocks(ctx->vm), node_name, error);
}

bool qmp_x_blockdev_change(QmpContext *ctx, const char *parent, const char *child, const char *node,
                           GError **error)
{
    return block_op_change(vm_blocks(ctx->vm), parent, child, node, error);
}

bool qmp_block_resize(QmpContext *ctx, const char *device, const char *node_name, int64_t size,
                      GError **error)
{
    if (size < 0) {
        return error_set(error, "Parameter 'size' expects a >0 size");
    }
    return block_resize(vm_blocks(ctx->vm), device, node_name, (uint64_t)size, error);
}

bool qmp_blockdev_reopen(QmpContext *ctx, GPtrArray *options, GError **error)
{
    return block_op_reopen(vm_blocks(ctx->vm), options, error);
}

bool qmp_blockdev_create(QmpContext *ctx, const char *job_id, QapiBlockdevCreateOptions *options,
                         GError **error)
{
    return block_op_create(vm_blocks(ctx->vm), job_id, options, error);
}

bool qmp_blockdev_snapshot(QmpContext *ctx, const char *node, const char *overlay, GError **error)
{
    return block_op_snapshot(vm_blocks(ctx->vm), node, overlay, error);
}

bool qmp_change_backing_file(QmpContext *ctx, const char *device, const char *image_node_name,
                             const char *backing_file, GError **error)
{
    return block_op_change_backing_file(vm_blocks(ctx->vm), device, image_node_name, backing_file, error);
}

bool qmp_block_set_write_threshold(QmpContext *ctx, const char *node_name, uint64_t write_threshold,
                                   GError **error)
{
    return block_op_write_threshold(vm_blocks(ctx->vm), node_name, write_threshold, error);
}

bool qmp_blockdev_snapshot_sync(QmpContext *ctx, QapiBlockdevSnapshotSync *args, GError **error)
{
    return block_op_snapshot_sync(vm_blocks(ctx->vm), args, error);
}

bool qmp_block_dirty_bitmap_add(QmpContext *ctx, QapiBlockDirtyBitmapAdd *args, GError **error)
{
    return block_op_bitmap_add(vm_blocks(ctx->vm), args, error);
}

bool qmp_block_dirty_bitmap_remove(QmpContext *ctx, QapiBlockDirtyBitmap *args, GError **error)
{
    return block_op_bitmap_remove(vm_blocks(ctx->vm), args, error);
}

bool qmp_block_dirty_bitmap_clear(QmpContext *ctx, QapiBlockDirtyBitmap *args, GError **error)
{
    return block_op_bitmap_clear(vm_blocks(ctx->vm), args, error);
}

bool qmp_block_dirty_bitmap_enable(QmpContext *ctx, QapiBlockDirtyBitmap *args, GError **error)
{
    return block_op_bitmap_enable(vm_blocks(ctx->vm), args, true, error);
}

bool qmp_block_dirty_bitmap_disable(QmpContext *ctx, QapiBlockDirtyBitmap *args, GError **error)
{
    return block_op_bitmap_enable(vm_blocks(ctx->vm), args, false, error);
}

bool qmp_block_dirty_bitmap_merge(QmpContext *ctx, QapiBlockDirtyBitmapMerge *args, GError **error)
{
    return block_op_bitmap_merge(vm_blocks(ctx->vm), args, error);
}

bool qmp_blockdev_mirror(QmpContext *ctx, QapiBlockdevMirror *args, GError **error)
{
    return block_op_mirror(vm_blocks(ctx->vm), args, error);
}

bool qmp_block_commit(QmpContext *ctx, QapiBlockCommit *args, GError **error)
{
    return block_op_commit(vm_blocks(ctx->vm), args, error);
}

bool qmp_block_stream(QmpContext *ctx, QapiBlockStream *args, GError **error)
{
    return block_op_stream(vm_blocks(ctx->vm), args, error);
}

bool qmp_blockdev_backup(QmpContext *ctx, QapiBlockdevBackup *args, GError **error)
{
    return block_op_backup(vm_blocks(ctx->vm), args, error);
}

bool qmp_transaction(QmpContext *ctx, GPtrArray *actions, QapiTransactionProperties *properties,
                     GError **error)
{
    return block_op_transaction(vm_blocks(ctx->vm), actions, error);
}

/* ---- exports ---- */

#define EXPORTS block_registry_exports(vm_blocks(ctx->vm))

bool qmp_nbd_server_start(QmpContext *ctx, QapiSocketAddressLegacy *addr, const char *tls_creds,
                          const char *tls_authz, bool has_max_connections, uint32_t max_connections,
                          GError **error)
{
    return block_exports_server_start_legacy(EXPORTS, addr, tls_creds, tls_authz, has_max_connections,
                                             max_connections, error);
}

bool qmp_nbd_server_stop(QmpContext *ctx, GError **error)
{
    return block_exports_server_stop(EXPORTS, error);
}

bool qmp_nbd_server_add(QmpContext *ctx, QapiNbdServerAddOptions *args, GError **error)
{
    return block_exports_nbd_add(EXPORTS, args, error);
}

bool qmp_nbd_server_remove(QmpContext *ctx, const char *name, bool has_mode, QapiBlockExportRemoveMode mode,
                           GError **error)
{
    return block_exports_nbd_remove(EXPORTS, name, has_mode && mode == QAPI_BLOCK_EXPORT_REMOVE_MODE_HARD,
                                    error);
}

bool qmp_block_export_add(QmpContext *ctx, QapiBlockExportOptions *args, GError **error)
{
    return block_export_add(EXPORTS, args, error);
}

bool qmp_block_export_del(QmpContext *ctx, const char *id, bool has_mode, QapiBlockExportRemoveMode mode,
                          GError **error)
{
    return block_export_del(EXPORTS, id, has_mode && mode == QAPI_BLOCK_EXPORT_REMOVE_MODE_HARD, error);
}

bool qmp_query_block_exports(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = block_exports_query(EXPORTS);
    return true;
}

bool qmp_block_latency_histogram_set(QmpContext *ctx, const char *id, GArray *boundaries,
                                     GArray *boundaries_read, GArray *boundaries_write,
                                     GArray *boundaries_flush, GError **error)
{
    return block_set_histograms(vm_blocks(ctx->vm), id, boundaries, boundaries_read, boundaries_write,
                                boundaries_flush, error);
}

bool qmp_block_set_io_throttle(QmpContext *ctx, QapiBlockIOThrottle *args, GError **error)
{
    return block_set_throttle(vm_blocks(ctx->vm), args, error);
}

/* ---- replication ---- */

bool qmp_xen_set_replication(QmpContext *ctx, bool enable, bool primary, bool has_failover, bool failover,
                             GError **error)
{
    BlockGraph *graph = block_registry_graph(vm_blocks(ctx->vm));

    if (enable) {
        if (has_failover) {
            return error_set(error, "Parameter 'failover' cannot be set when 'enable' is true");
        }
        return replication_start_all(
            graph, primary ? QAPI_REPLICATION_MODE_PRIMARY : QAPI_REPLICATION_MODE_SECONDARY, error);
    }
    return replication_stop_all(graph, has_failover && failover, error);
}

bool qmp_query_xen_replication_status(QmpContext *ctx, QapiReplicationStatus **ret, GError **error)
{
    g_autoptr(GError) why = NULL;

    *ret = g_new0(QapiReplicationStatus, 1);
    (*ret)->error = !replication_check_all(block_registry_graph(vm_blocks(ctx->vm)), &why);
    (*ret)->desc = why ? g_strdup(why->message) : NULL;
    return true;
}

bool qmp_xen_colo_do_checkpoint(QmpContext *ctx, GError **error)
{
    return replication_checkpoint_all(block_registry_graph(vm_blocks(ctx->vm)), error);
}

/* ---- jobs ---- */

bool qmp_query_jobs(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = jobs_query(JOBS);
    return true;
}

bool qmp_query_block_jobs(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = jobs_query_block(JOBS);
    return true;
}

bool qmp_job_cancel(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, false, error);

    return job && job_cancel(job, true, error);
}

bool qmp_block_job_cancel(QmpContext *ctx, const char *device, bool has_force, bool force, GError **error)
{
    Job *job = job_find(JOBS, device, true, error);

    return job && job_cancel(job, has_force && force, error);
}

bool qmp_block_job_set_speed(QmpContext *ctx, const char *device, int64_t speed, GError **error)
{
    Job *job = job_find(JOBS, device, true, error);

    if (job && speed < 0) {
        return error_set(error, "Parameter 'speed' expects a non-negative value");
    }
    return job && job_set_speed(job, (uint64_t)speed, error);
}

bool qmp_job_pause(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, false, error);

    return job && job_pause(job, error);
}

bool qmp_block_job_pause(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, true, error);

    return job && job_pause(job, error);
}

bool qmp_job_resume(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, false, error);

    return job && job_resume(job, error);
}

bool qmp_block_job_resume(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, true, error);

    return job && job_resume(job, error);
}

bool qmp_job_complete(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, false, error);

    return job && job_complete(job, error);
}

bool qmp_block_job_complete(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, true, error);

    return job && job_complete(job, error);
}

bool qmp_job_finalize(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, false, error);

    return job && job_finalize(job, error);
}

bool qmp_block_job_finalize(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, true, error);

    return job && job_finalize(job, error);
}

bool qmp_job_dismiss(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, false, error);

    return job && job_dismiss(job, error);
}

bool qmp_block_job_dismiss(QmpContext *ctx, const char *id, GError **error)
{
    Job *job = job_find(JOBS, id, true, error);

    return job && job_dismiss(job, error);
}
