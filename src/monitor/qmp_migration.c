/* QMP: migrations. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "migration/migration.h"
#include "monitor/monitor_internal.h"

bool qmp_query_migrate_capabilities(QmpContext *ctx, GPtrArray **ret, GError **error)
{
    *ret = qapi_list_MigrationCapabilityStatus_new();
    QapiMigrationCapabilityStatus *status = g_new0(QapiMigrationCapabilityStatus, 1);
    status->capability = QAPI_MIGRATION_CAPABILITY_EVENTS;
    status->state = vm_migrate_events(ctx->vm);
    g_ptr_array_add(*ret, status);
    return true;
}

bool qmp_migrate_set_capabilities(QmpContext *ctx, GPtrArray *capabilities, GError **error)
{
    for (guint i = 0; i < capabilities->len; i++) {
        const QapiMigrationCapabilityStatus *status = g_ptr_array_index(capabilities, i);
        vm_set_migrate_events(ctx->vm, status->state); /* "events" is the only one */
    }
    return true;
}

static QapiMigrationStats *memory_stats(const MigrationInfo *info)
{
    const StateProgress *p = &info->progress;
    QapiMigrationStats *ram = g_new0(QapiMigrationStats, 1);

    ram->transferred = (int64_t)p->sent;
    ram->total = (int64_t)p->total;
    ram->remaining = (int64_t)(p->total - MIN(p->done, p->total));
    ram->duplicate = (int64_t)p->zero_pages;
    ram->normal = (int64_t)p->normal_pages;
    ram->normal_bytes = (int64_t)(p->normal_pages * RAM_PAGE_SIZE);
    ram->page_size = RAM_PAGE_SIZE;
    ram->dirty_sync_count = 1;
    ram->mbps = info->total_ms ? (double)p->sent * 8 / 1000 / (double)info->total_ms : 0;
    ram->pages_per_second = info->total_ms ? p->normal_pages * 1000 / (uint64_t)info->total_ms : 0;
    ram->downtime_bytes = p->sent;
    return ram;
}

bool qmp_query_migrate(QmpContext *ctx, QapiMigrationInfo **ret, GError **error)
{
    MigrationInfo info;

    migration_info(vm_migration(ctx->vm), &info);
    *ret = g_new0(QapiMigrationInfo, 1);
    if (info.status == MIGRATION_NONE) {
        return true;
    }
    (*ret)->has_status = true;
    (*ret)->status = (QapiMigrationStatus)enum_parse(&qapi_MigrationStatus_lookup,
                                                     migration_status_name(info.status), NULL);
    (*ret)->error_desc = g_strdup(info.error);
    if (info.incoming) {
        return true;
    }
    (*ret)->has_total_time = (*ret)->has_setup_time = true;
    (*ret)->total_time = info.total_ms;
    (*ret)->setup_time = info.setup_ms;
    if (info.status == MIGRATION_COMPLETED) {
        (*ret)->has_downtime = true;
        (*ret)->downtime = info.downtime_ms;
    }
    if (info.status != MIGRATION_SETUP) {
        (*ret)->ram = memory_stats(&info);
    }
    return true;
}

bool qmp_migrate(QmpContext *ctx, const char *uri, bool has_blk, bool blk, bool has_inc, bool inc,
                 bool has_detach, bool detach, bool has_resume, bool resume, GError **error)
{
    if ((has_blk && blk) || (has_inc && inc)) {
        error_set(error, "disks are not sent along: 'blk' and 'inc' must be false");
        error_append_hint(error, "Use storage that both sides reach, or copy it with drive-mirror.");
        return false;
    }
    if (has_resume && resume) {
        return error_set(error, "Cannot resume if there is no paused migration");
    }
    return vm_migrate(ctx->vm, uri, error);
}

bool qmp_migrate_cancel(QmpContext *ctx, GError **error)
{
    migration_cancel(vm_migration(ctx->vm));
    return true;
}

bool qmp_migrate_incoming(QmpContext *ctx, const char *uri, GError **error)
{
    return vm_migrate_incoming(ctx->vm, uri, error);
}

bool qmp_migrate_set_parameters(QmpContext *ctx, QapiMigrateSetParameters *args, GError **error)
{
    if (args->has_max_bandwidth) {
        migration_set_bandwidth(vm_migration(ctx->vm), args->max_bandwidth);
    }
    return true;
}

bool qmp_query_migrate_parameters(QmpContext *ctx, QapiMigrationParameters **ret, GError **error)
{
    *ret = g_new0(QapiMigrationParameters, 1);
    (*ret)->has_max_bandwidth = true;
    (*ret)->max_bandwidth = migration_bandwidth(vm_migration(ctx->vm));
    return true;
}

/* ---- snapshots ---- */

bool qmp_snapshot_save(QmpContext *ctx, const char *job_id, const char *tag, const char *vmstate,
                       GPtrArray *devices, GError **error)
{
    return vm_snapshot_job(ctx->vm, VM_SNAPSHOT_SAVE, job_id, tag, vmstate, devices, error);
}

bool qmp_snapshot_load(QmpContext *ctx, const char *job_id, const char *tag, const char *vmstate,
                       GPtrArray *devices, GError **error)
{
    return vm_snapshot_job(ctx->vm, VM_SNAPSHOT_LOAD, job_id, tag, vmstate, devices, error);
}

bool qmp_snapshot_delete(QmpContext *ctx, const char *job_id, const char *tag, GPtrArray *devices,
                         GError **error)
{
    return vm_snapshot_job(ctx->vm, VM_SNAPSHOT_DELETE, job_id, tag, NULL, devices, error);
}
