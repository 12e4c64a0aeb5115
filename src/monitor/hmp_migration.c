/* HMP: migrations. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "migration/migration.h"
#include "monitor/hmp_internal.h"
#include "vm/options.h"

#include <string.h>

/* Runs a QMP command that returns nothing; takes over args. */
static bool run(HmpContext *ctx, const char *command, json_object *args, GError **error)
{
    json_object *result = hmp_qmp(ctx, command, args, error);

    json_object_put(result);
    return result != NULL;
}

/* Runs a command that takes a URI: the rest of the line, or what stands in quotes. */
static bool run_uri(HmpContext *ctx, const char *command, const char *line, GError **error)
{
    bool quoted = *line == '"';
    g_autofree char *uri = quoted ? hmp_word(&line) : g_strdup(line);

    if (uri == NULL || !*uri) {
        return error_set(error, "the URI is missing");
    }
    if (quoted && *line) {
        return error_set(error, "what is \"%s\" behind the URI?", line);
    }
    json_object *args = json_object_new_object();
    json_object_object_add(args, "uri", json_object_new_string(uri));
    return run(ctx, command, args, error);
}

bool hmp_migrate(HmpContext *ctx, const char *args, GError **error)
{
    if (g_str_has_prefix(args, "-d ")) { /* it never waits */
        args += 3;
        args += strspn(args, " ");
    }
    return run_uri(ctx, "migrate", args, error);
}

bool hmp_migrate_cancel(HmpContext *ctx, const char *args, GError **error)
{
    return run(ctx, "migrate_cancel", NULL, error);
}

bool hmp_migrate_incoming(HmpContext *ctx, const char *args, GError **error)
{
    return run_uri(ctx, "migrate-incoming", args, error);
}

bool hmp_migrate_set_capability(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *name = hmp_word(&args), *state = hmp_word(&args);
    bool on;

    if (!name || !state) {
        return error_set(error, "migrate_set_capability NAME on|off");
    }
    if (!hmp_on_off(state, &on, error)) {
        return false;
    }
    json_object *one = json_object_new_object(), *list = json_object_new_array();
    json_object *qmp_args = json_object_new_object();
    json_object_object_add(one, "capability", json_object_new_string(name));
    json_object_object_add(one, "state", json_object_new_boolean(on));
    json_object_array_add(list, one);
    json_object_object_add(qmp_args, "capabilities", list);
    return run(ctx, "migrate-set-capabilities", qmp_args, error);
}

bool hmp_migrate_set_parameter(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *name = hmp_word(&args), *value = hmp_word(&args);
    uint64_t bytes;

    if (!name || !value) {
        return error_set(error, "migrate_set_parameter NAME VALUE");
    }
    if (!cmdline_parse_size(value, 1024 * 1024, &bytes, error)) {
        return false;
    }
    json_object *qmp_args = json_object_new_object();
    json_object_object_add(qmp_args, name, json_object_new_uint64(bytes));
    return run(ctx, "migrate-set-parameters", qmp_args, error);
}

bool hmp_info_migrate(HmpContext *ctx, const char *args, GError **error)
{
    MigrationInfo info;

    migration_info(vm_migration(ctx->vm), &info);
    if (info.status == MIGRATION_NONE) {
        return true;
    }
    hmp_print(ctx, "Migration status: %s%s%s\n", migration_status_name(info.status), info.error ? ": " : "",
              info.error ? info.error : "");
    if (!info.incoming) {
        const StateProgress *p = &info.progress;
        hmp_print(ctx, "total time: %" PRId64 " ms\n", info.total_ms);
        if (info.status == MIGRATION_COMPLETED) {
            hmp_print(ctx, "downtime: %" PRId64 " ms\n", info.downtime_ms);
        }
        hmp_print(ctx, "setup: %" PRId64 " ms\n", info.setup_ms);
        hmp_print(ctx,
                  "transferred ram: %" PRIu64 " kbytes\nremaining ram: %" PRIu64 " kbytes\n"
                  "total ram: %" PRIu64 " kbytes\nduplicate: %" PRIu64 " pages\nnormal: %" PRIu64
                  " pages\nnormal bytes: %" PRIu64 " kbytes\npage size: 4 kbytes\n",
                  p->sent >> 10, (p->total - MIN(p->done, p->total)) >> 10, p->total >> 10, p->zero_pages,
                  p->normal_pages, p->normal_pages * 4);
    }
    g_autofree char *listening = migration_listening(vm_migration(ctx->vm));
    if (listening) {
        hmp_print(ctx, "socket address: [\n\t%s\n]\n", listening);
    }
    return true;
}

bool hmp_info_migrate_capabilities(HmpContext *ctx, const char *args, GError **error)
{
    hmp_print(ctx, "events: %s\n", vm_migrate_events(ctx->vm) ? "on" : "off");
    return true;
}

bool hmp_info_migrate_parameters(HmpContext *ctx, const char *args, GError **error)
{
    hmp_print(ctx, "max-bandwidth: %" PRIu64 " bytes/second\n", migration_bandwidth(vm_migration(ctx->vm)));
    return true;
}

/* ---- snapshots ---- */

bool hmp_savevm(HmpContext *ctx, const char *args, GError **error)
{
    return vm_snapshot_save(ctx->vm, *args ? args : NULL, error);
}

bool hmp_loadvm(HmpContext *ctx, const char *args, GError **error)
{
    return *args ? vm_snapshot_load(ctx->vm, args, error) : error_set(error, "the tag is missing");
}

bool hmp_delvm(HmpContext *ctx, const char *args, GError **error)
{
    return *args ? vm_snapshot_delete(ctx->vm, args, error) : error_set(error, "the tag is missing");
}

bool hmp_info_snapshots(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *text = vm_snapshot_list(ctx->vm, error);

    if (!text) {
        return false;
    }
    hmp_print(ctx, "%s", text);
    return true;
}
