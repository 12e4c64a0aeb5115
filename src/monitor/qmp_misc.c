/* QMP: the monitor itself, file descriptors, trace points. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "monitor/monitor_internal.h"
#include "qapi/introspect.h"
#include "rhea_config.h"
#include "trace/trace.h"

#include <string.h>
#include <unistd.h>

bool qmp_query_version(QmpContext *ctx, QapiVersionInfo **ret, GError **error)
{
    *ret = g_new0(QapiVersionInfo, 1);
    (*ret)->qemu = g_new0(QapiVersionTriple, 1);
    (*ret)->qemu->major = MONITOR_VERSION_MAJOR;
    (*ret)->qemu->minor = MONITOR_VERSION_MINOR;
    (*ret)->qemu->micro = MONITOR_VERSION_MICRO;
    (*ret)->package = g_strdup("Rhea " RHEA_VERSION);
    return true;
}

bool qmp_query_commands(QmpContext *ctx, GPtrArray **ret, GError **error)
{
    *ret = qapi_list_CommandInfo_new();
    for (unsigned i = 0; i < qmp_commands_count; i++) {
        if (!qmp_command_is_there(ctx->set, qmp_commands[i].name)) {
            continue;
        }
        QapiCommandInfo *info = g_new0(QapiCommandInfo, 1);
        info->name = g_strdup(qmp_commands[i].name);
        g_ptr_array_add(*ret, info);
    }
    return true;
}

bool qmp_query_qmp_schema(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = json_object_new_array();
    for (const char *const *entry = qapi_schema_entries; *entry; entry++) {
        json_object *one = json_tokener_parse(*entry), *kind, *name;
        if (json_object_object_get_ex(one, "meta-type", &kind) &&
            strcmp(json_object_get_string(kind), "command") == 0 &&
            json_object_object_get_ex(one, "name", &name) &&
            !qmp_command_is_there(ctx->set, json_object_get_string(name))) {
            json_object_put(one);
            continue;
        }
        json_object_array_add(*ret, one);
    }
    return true;
}

bool qmp_human_monitor_command(QmpContext *ctx, const char *command_line, bool has_cpu_index,
                               int64_t cpu_index, char **ret, GError **error)
{
    unsigned index = 0;
    if (has_cpu_index) {
        if (cpu_index < 0 || !monitor_cpu(ctx->set, (uint64_t)cpu_index, error)) {
            return cpu_index >= 0 ? false : error_set(error, "Parameter 'cpu-index' expects a CPU number");
        }
        index = (unsigned)cpu_index;
    }
    GString *out = g_string_new(NULL);
    hmp_run(ctx->set, NULL, &index, command_line, out);
    *ret = g_string_free(out, FALSE);
    return true;
}

bool qmp_x_query_jit(QmpContext *ctx, QapiHumanReadableText **ret, GError **error)
{
    char *text = monitor_info_jit(ctx->set->vm);
    if (!text) {
        return error_set(error, "This accelerator keeps no statistics; -accel tcg does");
    }
    *ret = g_new0(QapiHumanReadableText, 1);
    (*ret)->human_readable_text = text;
    return true;
}

bool qmp_query_command_line_options(QmpContext *ctx, const char *option, json_object **ret, GError **error)
{
    json_object *all = ctx->set->command_line_options;
    *ret = json_object_new_array();
    for (size_t i = 0; all && i < json_object_array_length(all); i++) {
        json_object *entry = json_object_array_get_idx(all, i);
        const char *name = json_object_get_string(json_object_object_get(entry, "option"));
        if (!option || g_strcmp0(name, option) == 0) {
            json_object_array_add(*ret, json_object_get(entry));
        }
    }
    if (option && !json_object_array_length(*ret)) {
        json_object_put(*ret);
        return error_set(error, "invalid option name: %s", option);
    }
    return true;
}

/* ---- file descriptors ---- */

static int take_fd(QmpContext *ctx, GError **error)
{
    int fd = ctx->mon ? chardev_fe_take_fd(&ctx->mon->fe) : -1;
    if (fd < 0) {
        error_set(error, "No file descriptor supplied via SCM_RIGHTS");
    }
    return fd;
}

bool qmp_getfd(QmpContext *ctx, const char *fdname, GError **error)
{
    int fd = take_fd(ctx, error);
    if (fd < 0) {
        return false;
    }
    if (g_ascii_isdigit(fdname[0])) {
        close(fd);
        return error_set(error, "Parameter 'fdname' expects a name not starting with a digit");
    }
    return fd_table_put(vm_fds(ctx->vm), fdname, fd, error);
}

bool qmp_closefd(QmpContext *ctx, const char *fdname, GError **error)
{
    return fd_table_close(vm_fds(ctx->vm), fdname, error);
}

bool qmp_add_fd(QmpContext *ctx, bool has_fdset_id, int64_t fdset_id, const char *opaque, QapiAddfdInfo **ret,
                GError **error)
{
    int fd = take_fd(ctx, error);
    if (fd < 0) {
        return false;
    }
    if (has_fdset_id && fdset_id < 0) {
        close(fd);
        return error_set(error, "Parameter 'fdset-id' expects a non-negative value");
    }
    int64_t set = fd_table_set_add(vm_fds(ctx->vm), has_fdset_id ? fdset_id : -1, fd, opaque, error);
    if (set < 0) {
        return false;
    }
    *ret = g_new0(QapiAddfdInfo, 1);
    (*ret)->fdset_id = set;
    (*ret)->fd = fd;
    return true;
}

bool qmp_remove_fd(QmpContext *ctx, int64_t fdset_id, bool has_fd, int64_t fd, GError **error)
{
    if (has_fd && (fd < 0 || fd > G_MAXINT)) {
        return error_set(error, "File descriptor named 'fd:%" G_GINT64_FORMAT "' not found", fd);
    }
    return fd_table_set_remove(vm_fds(ctx->vm), fdset_id, has_fd ? (int)fd : -1, error);
}

bool qmp_query_fdsets(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = fd_table_set_query(vm_fds(ctx->vm));
    return true;
}

/* ---- trace points ---- */

typedef struct TraceQuery {
    GPatternSpec *pattern;
    GPtrArray *list;
} TraceQuery;

static void add_event(TraceEvent *event, void *opaque)
{
    TraceQuery *q = opaque;
    if (g_pattern_spec_match_string(q->pattern, event->name)) {
        QapiTraceEventInfo *info = g_new0(QapiTraceEventInfo, 1);
        info->name = g_strdup(event->name);
        info->state = event->enabled ? QAPI_TRACE_EVENT_STATE_ENABLED : QAPI_TRACE_EVENT_STATE_DISABLED;
        g_ptr_array_add(q->list, info);
    }
}

bool qmp_trace_event_get_state(QmpContext *ctx, const char *name, GPtrArray **ret, GError **error)
{
    TraceQuery q = { .pattern = g_pattern_spec_new(name), .list = qapi_list_TraceEventInfo_new() };
    trace_foreach(add_event, &q);
    g_pattern_spec_free(q.pattern);
    if (!q.list->len && !strpbrk(name, "*?")) {
        g_ptr_array_unref(q.list);
        return error_set(error, "unknown event \"%s\"", name);
    }
    *ret = q.list;
    return true;
}

bool qmp_trace_event_set_state(QmpContext *ctx, const char *name, bool enable, bool has_ignore_unavailable,
                               bool ignore_unavailable, GError **error)
{
    if (!trace_set(name, enable) && !strpbrk(name, "*?")) {
        return error_set(error, "unknown event \"%s\"", name);
    }
    return true;
}
