/*
 * The set of monitors: making them, their output, events. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "monitor/monitor_internal.h"

#include "base/error.h"
#include "qapi/json_text.h"

#include <string.h>

void monitor_write(Monitor *mon, const char *text, size_t size)
{
    if (mon->open && !chardev_fe_write_all(&mon->fe, text, size)) {
        /* The client does not read: what is queued is all it may cost us. */
        mon->open = false; /* the rest of its input is not worth an answer */
        chardev_fe_disconnect(&mon->fe);
    }
}

void monitor_send_json(Monitor *mon, json_object *value)
{
    if (!mon->open) {
        return;
    }
    g_autoptr(GString) text = g_string_new(NULL);
    json_text_append(text, value, mon->pretty);
    g_string_append(text, "\r\n");
    monitor_write(mon, text->str, text->len);
}

static void monitor_receive(void *opaque, const uint8_t *data, size_t size)
{
    Monitor *mon = opaque;
    if (mon->mode == MONITOR_QMP) {
        qmp_monitor_receive(mon, data, size);
    } else {
        hmp_monitor_receive(mon, data, size);
    }
}

static void monitor_event(void *opaque, ChardevEvent event)
{
    Monitor *mon = opaque;
    switch (event) {
    case CHARDEV_EVENT_OPENED:
        mon->open = true;
        if (mon->mode == MONITOR_QMP) {
            qmp_monitor_opened(mon);
        } else if (chardev_fe_has_focus(&mon->fe)) { /* else MUX_IN comes first */
            hmp_monitor_opened(mon);
        }
        break;
    case CHARDEV_EVENT_CLOSED:
        mon->open = false;
        mon->negotiated = false;
        mon->prompt_shown = false;
        break;
    case CHARDEV_EVENT_MUX_IN:
        if (mon->mode == MONITOR_HMP && mon->open) {
            hmp_monitor_opened(mon);
        }
        break;
    case CHARDEV_EVENT_MUX_OUT:
    case CHARDEV_EVENT_BREAK:
        break;
    }
}

static const ChardevFrontendOps monitor_chardev_ops = {
    .receive = monitor_receive,
    .event = monitor_event,
};

static void monitor_free(void *opaque)
{
    Monitor *mon = opaque;
    if (mon->attached) {
        chardev_fe_set_handlers(&mon->fe, NULL, NULL, NULL);
        chardev_fe_deinit(&mon->fe);
    }
    if (mon->mode == MONITOR_QMP) {
        qmp_monitor_free(mon);
    } else {
        hmp_monitor_free(mon);
    }
    g_free(mon->id);
    g_free(mon);
}

bool monitor_set_add(MonitorSet *set, Chardev *chr, MonitorMode mode, bool pretty, const char *id,
                     GError **error)
{
    Monitor *mon = g_new0(Monitor, 1);
    mon->set = set;
    mon->mode = mode;
    mon->pretty = pretty;
    mon->id = g_strdup(id);
    if (mode == MONITOR_QMP) {
        qmp_monitor_init(mon);
    } else {
        hmp_monitor_init(mon);
    }
    if (!chardev_fe_init(&mon->fe, chr, error)) {
        monitor_free(mon);
        return false;
    }
    mon->attached = true;
    mon->fe.yields_focus = true; /* on a mux the guest's console comes first */
    g_ptr_array_add(set->monitors, mon);
    chardev_fe_set_handlers(&mon->fe, &monitor_chardev_ops, mon, NULL);
    chardev_fe_set_open(&mon->fe, true);
    return true;
}

static void event_sink(void *opaque, const char *event, json_object *data, int64_t seconds, int microseconds)
{
    MonitorSet *set = opaque;
    json_object *message = json_object_new_object();
    json_object *timestamp = json_object_new_object();
    json_object_object_add(timestamp, "seconds", json_object_new_int64(seconds));
    json_object_object_add(timestamp, "microseconds", json_object_new_int(microseconds));
    json_object_object_add(message, "timestamp", timestamp);
    json_object_object_add(message, "event", json_object_new_string(event));
    if (data) {
        json_object_object_add(message, "data", json_object_get(data));
    }
    for (guint i = 0; i < set->monitors->len; i++) {
        Monitor *mon = g_ptr_array_index(set->monitors, i);
        if (mon->mode == MONITOR_QMP) {
            qmp_monitor_event(mon, message);
        }
    }
    json_object_put(message);
}

MonitorSet *monitor_set_new(Vm *vm)
{
    MonitorSet *set = g_new0(MonitorSet, 1);
    set->vm = vm;
    set->monitors = g_ptr_array_new_with_free_func(monitor_free);
    vm_add_event_sink(vm, event_sink, set);
    return set;
}

void monitor_set_free(MonitorSet *set)
{
    if (set) {
        vm_remove_event_sink(set->vm, event_sink, set);
        g_ptr_array_unref(set->monitors);
        json_object_put(set->command_line_options);
        g_free(set);
    }
}

void monitor_set_gdbstub(MonitorSet *set, struct GdbStub *gdb)
{
    set->gdb = gdb;
}

void monitor_set_command_line_options(MonitorSet *set, json_object *options)
{
    json_object_put(set->command_line_options);
    set->command_line_options = options;
}

void monitor_set_limit_commands(MonitorSet *set, const char *const *names)
{
    set->only = names;
}

char *monitor_hmp_run(MonitorSet *set, const char *line)
{
    GString *out = g_string_new(NULL);
    unsigned cpu_index = 0;
    hmp_run(set, NULL, &cpu_index, line, out);
    return g_string_free(out, FALSE);
}

json_object *monitor_qmp_run(MonitorSet *set, json_object *request)
{
    QmpContext ctx = { .set = set, .vm = set->vm };
    return qmp_dispatch(&ctx, request, true, true);
}

X86Cpu *monitor_cpu(MonitorSet *set, uint64_t index, GError **error)
{
    VcpuSet *vcpus = vm_vcpus(set->vm);
    unsigned count = vcpus ? vcpu_set_count(vcpus) : 0;
    if (index >= count) {
        if (!count) {
            error_set(error, "The machine has no CPUs");
        } else {
            error_set(error, "Parameter 'cpu-index' expects a CPU number");
        }
        return NULL;
    }
    return vcpu_set_get(vcpus, (unsigned)index);
}
