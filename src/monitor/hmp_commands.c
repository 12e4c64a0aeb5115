/* HMP: the commands. SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/hmp_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "gdbstub/gdbstub.h"
#include "qapi/json_text.h"
#include "trace/trace.h"

#include <string.h>

static json_object *one_arg(const char *name, const char *value)
{
    json_object *args = json_object_new_object();
    json_object_object_add(args, name, json_object_new_string(value));
    return args;
}

/* Runs a QMP command that returns nothing. */
static bool simple(HmpContext *ctx, const char *command, json_object *args, GError **error)
{
    json_object *result = hmp_qmp(ctx, command, args, error);
    json_object_put(result);
    return result != NULL;
}

static bool need_arg(const char *args, const char *what, GError **error)
{
    return *args || error_set(error, "%s is missing", what);
}

static bool hmp_help(HmpContext *ctx, const char *args, GError **error)
{
    if (strcmp(args, "info") == 0) {
        hmp_list(ctx, hmp_info_commands, "info ", NULL);
        return true;
    }
    if (*args && !hmp_find(hmp_commands, args, "command", error)) {
        return false;
    }
    if (strcmp(args, "log") == 0) {
        g_autofree char *classes = log_class_help();
        hmp_print(ctx, "Log items (comma separated):\nnone       remove all logs\n%s", classes);
        return true;
    }
    hmp_list(ctx, hmp_commands, "", *args ? args : NULL);
    return true;
}

static bool hmp_info(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *name = hmp_word(&args);
    if (!name) {
        hmp_list(ctx, hmp_info_commands, "info ", NULL);
        return true;
    }
    const HmpCommand *c = hmp_find(hmp_info_commands, name, "info command", error);
    return c && c->run(ctx, args, error);
}

static bool hmp_stop(HmpContext *ctx, const char *args, GError **error)
{
    return simple(ctx, "stop", NULL, error);
}

static bool hmp_cont(HmpContext *ctx, const char *args, GError **error)
{
    return simple(ctx, "cont", NULL, error);
}

static bool hmp_screendump(HmpContext *ctx, const char *args, GError **error)
{
    json_object *qmp_args = json_object_new_object();
    g_autofree char *word = hmp_word(&args);
    if (g_strcmp0(word, "-f") == 0) {
        g_autofree char *format = hmp_word(&args);
        json_object_object_add(qmp_args, "format", json_object_new_string(format ? format : ""));
        g_free(word);
        word = hmp_word(&args);
    }
    if (!word) {
        json_object_put(qmp_args);
        return error_set(error, "FILE is missing");
    }
    json_object_object_add(qmp_args, "filename", json_object_new_string(word));
    return simple(ctx, "screendump", qmp_args, error);
}

static bool hmp_system_reset(HmpContext *ctx, const char *args, GError **error)
{
    return simple(ctx, "system_reset", NULL, error);
}

static bool hmp_system_powerdown(HmpContext *ctx, const char *args, GError **error)
{
    return simple(ctx, "system_powerdown", NULL, error);
}

static bool hmp_system_wakeup(HmpContext *ctx, const char *args, GError **error)
{
    return simple(ctx, "system_wakeup", NULL, error);
}

static bool hmp_nmi(HmpContext *ctx, const char *args, GError **error)
{
    return simple(ctx, "inject-nmi", NULL, error);
}

static bool hmp_quit(HmpContext *ctx, const char *args, GError **error)
{
    return simple(ctx, "quit", NULL, error);
}

static bool hmp_cpu_command(HmpContext *ctx, const char *args, GError **error)
{
    uint64_t index;
    if (!hmp_expression(ctx, args, &index, error)) {
        return false;
    }
    if (!monitor_cpu(ctx->set, index, NULL)) {
        return error_set(error, "invalid CPU index");
    }
    *ctx->cpu_index = (unsigned)index;
    return true;
}

static bool hmp_log(HmpContext *ctx, const char *args, GError **error)
{
    unsigned mask = 0;
    if (!need_arg(args, "the list of items (help log)", error)) {
        return false;
    }
    if (strcmp(args, "none") != 0 && !log_parse_mask(args, &mask, error)) {
        return false;
    }
    log_set_mask(mask);
    return true;
}

static bool hmp_logfile(HmpContext *ctx, const char *args, GError **error)
{
    return log_set_file(*args ? args : NULL, error);
}

static bool hmp_trace_event(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *name = hmp_word(&args), *word = hmp_word(&args);
    bool on;
    if (!name) {
        return error_set(error, "trace-event NAME on|off");
    }
    if (!hmp_on_off(word, &on, error)) {
        return false;
    }
    if (!trace_set(name, on)) {
        return error_set(error, "unknown event \"%s\"", name);
    }
    /* The log is the back end: it must be open for trace points to be seen. */
    if (on && !(log_mask & LOG_TRACE)) {
        log_set_mask(log_mask | LOG_TRACE);
    }
    return true;
}

static bool hmp_device_add(HmpContext *ctx, const char *args, GError **error)
{
    if (!need_arg(args, "the driver", error)) {
        return false;
    }
    return device_create_text(vm_root(ctx->vm), NULL, args, true, vm_globals(ctx->vm), error) != NULL;
}

static bool hmp_device_del(HmpContext *ctx, const char *args, GError **error)
{
    return need_arg(args, "the device's id", error) && simple(ctx, "device_del", one_arg("id", args), error);
}

static bool hmp_object_add(HmpContext *ctx, const char *args, GError **error)
{
    return user_creatable_add_text(vm_root(ctx->vm), args, error) != NULL;
}

static bool hmp_object_del(HmpContext *ctx, const char *args, GError **error)
{
    return need_arg(args, "the object's id", error) && simple(ctx, "object-del", one_arg("id", args), error);
}

static bool hmp_chardev_add(HmpContext *ctx, const char *args, GError **error)
{
    return chardev_add_text(vm_chardevs(ctx->vm), args, error) != NULL;
}

static bool hmp_chardev_remove(HmpContext *ctx, const char *args, GError **error)
{
    return need_arg(args, "the chardev's id", error) &&
           simple(ctx, "chardev-remove", one_arg("id", args), error);
}

static bool hmp_netdev_add(HmpContext *ctx, const char *args, GError **error)
{
    return net_client_add_text(vm_nets(ctx->vm), args, error) != NULL;
}

static bool hmp_netdev_del(HmpContext *ctx, const char *args, GError **error)
{
    return need_arg(args, "the back end's id", error) &&
           simple(ctx, "netdev_del", one_arg("id", args), error);
}

static bool hmp_set_link(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *name = hmp_word(&args), *word = hmp_word(&args);
    bool up;
    if (!name) {
        return error_set(error, "set_link NAME on|off");
    }
    return hmp_on_off(word, &up, error) && net_set_link(vm_nets(ctx->vm), name, up, error);
}

static bool hostfwd(HmpContext *ctx, const char *args, bool add, GError **error)
{
    g_autofree char *first = hmp_word(&args), *second = hmp_word(&args);
    if (!first) {
        return error_set(error, "the rule is missing");
    }
    const char *id = second ? first : NULL, *rule = second ? second : first;
    return add ? net_hostfwd_add(vm_nets(ctx->vm), id, rule, error)
               : net_hostfwd_remove(vm_nets(ctx->vm), id, rule, error);
}

static bool hmp_hostfwd_add(HmpContext *ctx, const char *args, GError **error)
{
    return hostfwd(ctx, args, true, error);
}

static bool hmp_hostfwd_remove(HmpContext *ctx, const char *args, GError **error)
{
    return hostfwd(ctx, args, false, error);
}

static bool hmp_watchdog_action(HmpContext *ctx, const char *args, GError **error)
{
    return need_arg(args, "the action", error) && vm_set_action(ctx->vm, "watchdog", args, error);
}

static bool hmp_gdbserver(HmpContext *ctx, const char *args, GError **error)
{
    const char *device = *args ? args : "tcp::1234";

    if (!ctx->set->gdb) {
        return error_set(error, "there is no gdb server");
    }
    if (!gdbstub_listen(ctx->set->gdb, device, error)) {
        return false;
    }
    if (strcmp(device, "none") == 0) {
        hmp_print(ctx, "Disabled gdbserver\n");
    } else {
        hmp_print(ctx, "Waiting for gdb connection on device '%s'\n", device);
    }
    return true;
}

static bool hmp_qom_list(HmpContext *ctx, const char *args, GError **error)
{
    json_object *list = hmp_qmp(ctx, "qom-list", one_arg("path", *args ? args : "/"), error);
    if (!list) {
        return false;
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *p = json_object_array_get_idx(list, i);
        hmp_print(ctx, "%s (%s)\n", json_object_get_string(json_object_object_get(p, "name")),
                  json_object_get_string(json_object_object_get(p, "type")));
    }
    json_object_put(list);
    return true;
}

static bool hmp_qom_get(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *path = hmp_word(&args), *property = hmp_word(&args);
    if (!path || !property) {
        return error_set(error, "qom-get PATH PROPERTY");
    }
    bool ambiguous;
    Object *obj = object_resolve_path(vm_root(ctx->vm), path, &ambiguous);
    if (!obj) {
        return error_set(error, "Device '%s' not found", path);
    }
    g_autofree char *text = object_property_print(obj, property, error);
    if (!text) {
        return false;
    }
    hmp_print(ctx, "%s\n", text);
    return true;
}

static bool hmp_qom_set(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *path = hmp_word(&args), *property = hmp_word(&args), *value = hmp_word(&args);
    if (!path || !property || !value) {
        return error_set(error, "qom-set PATH PROPERTY VALUE");
    }
    bool ambiguous;
    Object *obj = object_resolve_path(vm_root(ctx->vm), path, &ambiguous);
    if (!obj) {
        return error_set(error, "Device '%s' not found", path);
    }
    return object_property_parse(obj, property, value, error);
}

const HmpCommand hmp_commands[] = {
    { "help|?", "[COMMAND]", "show what there is", hmp_help },
    { "info", "[WHAT]", "show the state of something", hmp_info },
    { "quit|q", "", "end the process", hmp_quit },
    { "stop|s", "", "pause the machine", hmp_stop },
    { "cont|c", "", "let it run again", hmp_cont },
    { "screendump", "[-f FORMAT] FILE", "write a picture of the screen; FORMAT: ppm, png", hmp_screendump },
    { "sendkey", "KEY[-KEY...] [HOLD_MS]", "type keys together (ctrl-alt-f1)", hmp_sendkey },
    { "mouse_move", "DX DY [DZ]", "move the mouse", hmp_mouse_move },
    { "mouse_button", "MASK", "press buttons; 1: left, 2: right, 4: middle, 0: none", hmp_mouse_button },
    { "mouse_set", "INDEX", "choose the mouse that gets events (info mice)", hmp_mouse_set },
    { "set_password", "vnc PASSWORD [keep|fail|disconnect]", "set the VNC password", hmp_set_password },
    { "expire_password", "vnc now|never|+SECONDS|TIME", "when it ends", hmp_expire_password },
    { "system_reset", "", "press the reset button", hmp_system_reset },
    { "system_powerdown", "", "press the power button", hmp_system_powerdown },
    { "system_wakeup", "", "wake a suspended guest", hmp_system_wakeup },
    { "nmi", "", "send a non-maskable interrupt", hmp_nmi },
    { "cpu", "INDEX", "choose the CPU that other commands look at", hmp_cpu_command },
    { "x", "/FMT ADDRESS", "show virtual memory; FMT: COUNT, then x d u o c i, then b h w g", hmp_x },
    { "xp", "/FMT ADDRESS", "show physical memory", hmp_xp },
    { "print|p", "/FMT EXPRESSION", "show the value of an expression ($rip + 4)", hmp_p },
    { "gva2gpa", "ADDRESS", "the physical address of a virtual one", hmp_gva2gpa },
    { "sum", "ADDRESS SIZE", "the checksum of physical memory", hmp_sum },
    { "log", "ITEM[,...]|none", "choose what is logged (help log)", hmp_log },
    { "logfile", "FILE", "where the log goes", hmp_logfile },
    { "trace-event", "PATTERN on|off", "switch trace points", hmp_trace_event },
    { "device_add", "DRIVER[,PROPERTY=VALUE...]", "plug in a device", hmp_device_add },
    { "device_del", "ID", "unplug a device", hmp_device_del },
    { "object_add", "TYPE,id=ID[,PROPERTY=VALUE...]", "make an object", hmp_object_add },
    { "object_del", "ID", "take an object away", hmp_object_del },
    { "chardev-add", "KIND,id=ID[,...]", "make a character device", hmp_chardev_add },
    { "chardev-remove", "ID", "take one away", hmp_chardev_remove },
    { "netdev_add", "TYPE,id=ID[,...]", "make a network back end", hmp_netdev_add },
    { "netdev_del", "ID", "take one away", hmp_netdev_del },
    { "set_link", "NAME on|off", "plug or pull a network cable", hmp_set_link },
    { "hostfwd_add", "[ID] RULE", "forward a port of the host (tcp::2222-:22)", hmp_hostfwd_add },
    { "hostfwd_remove", "[ID] RULE", "end that", hmp_hostfwd_remove },
    { "watchdog_action", "ACTION", "what to do when the watchdog runs out", hmp_watchdog_action },
    { "migrate", "[-d] URI",
      "send the machine to file:, exec:, unix:, tcp: or fd:; info migrate tells how it goes", hmp_migrate },
    { "migrate_cancel", "", "end that; the machine goes on", hmp_migrate_cancel },
    { "migrate_incoming", "URI", "wait for a machine (after -incoming defer)", hmp_migrate_incoming },
    { "migrate_set_capability", "NAME on|off", "switch a capability", hmp_migrate_set_capability },
    { "migrate_set_parameter", "NAME VALUE", "set a limit", hmp_migrate_set_parameter },
    { "gdbserver", "[DEVICE]|none", "let gdb connect (tcp::1234), or no more", hmp_gdbserver },
    { "savevm", "[TAG]", "save the machine in its disk images", hmp_savevm },
    { "loadvm", "TAG", "go back to what was saved", hmp_loadvm },
    { "delvm", "TAG", "forget it", hmp_delvm },
    { "qom-list", "[PATH]", "the properties and children of an object", hmp_qom_list },
    { "qom-get", "PATH PROPERTY", "read a property", hmp_qom_get },
    { "qom-set", "PATH PROPERTY VALUE", "write a property", hmp_qom_set },
    { NULL, NULL, NULL, NULL },
};
