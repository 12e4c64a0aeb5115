/*
 * Order of creation: objects, character devices, block nodes, network back ends, the machine with its CPUs,
 * devices, default devices. References go backwards only. Each error carries the option that caused it.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "vm/configure.h"

#include "arch/x86/cpuid.h"
#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "machine/smbios.h"
#include "rhea_config.h"
#include "trace/trace.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

typedef struct Setup {
    Vm *vm;
    const Options *options;
    GPtrArray *monitors; /* of VmMonitorRequest *, owned */
    VmAddMonitor *add_monitor;
    void *monitor_opaque;
    MachineClass *mc;
    MachineConfig config;
    GString *accels; /* "kvm:tcg" */
    json_object *accel_properties;
    char *kernel_irqchip; /* of -machine, for -accel kvm; or NULL */
    bool nodefaults, nographic;
    int serials; /* -serial options seen */
    int parallels;
    int monitor_count, nic_count;
} Setup;

#define FOR_OPTION(setup, o, wanted)                                                  \
    for (guint o##_i = 0; o##_i < (setup)->options->list->len; o##_i++)               \
        for (const Option *o = &g_array_index((setup)->options->list, Option, o##_i); \
             o && o->info->id == (wanted); o = NULL)

/* "-device foo,bar=1: message" */
static bool option_error(const Option *o, GError **error)
{
    error_prefix(error, "-%s%s%s: ", o->info->name, o->argument ? " " : "", o->argument ? o->argument : "");
    return false;
}

static json_object *option_dict(const Option *o, const char *implied, GError **error)
{
    json_object *dict = keyval_parse(o->argument, implied, NULL, error);

    if (dict && !json_object_is_type(dict, json_type_object)) {
        json_object_put(dict);
        error_set(error, "expected key=value pairs or a JSON object");
        dict = NULL;
    }
    return dict;
}

static void monitor_request_free(void *opaque)
{
    VmMonitorRequest *request = opaque;

    g_free(request->id);
    g_free(request);
}

/* ---- the process ---- */

static bool configure_trace(const char *text, GError **error)
{
    json_object *dict = keyval_parse(text, "enable", NULL, error);

    if (!dict) {
        return false;
    }
    bool ok = cmdline_check_keys(dict, "enable,events,file", error);
    const char *pattern = cmdline_get(dict, "enable"), *events = cmdline_get(dict, "events"),
               *file = cmdline_get(dict, "file");
    if (ok && pattern && trace_set(pattern, true) == 0) {
        log_warning("trace event '%s' does not exist", pattern);
    }
    if (ok && events) {
        g_autofree char *content = NULL;
        g_autoptr(GError) read_error = NULL;
        if (!g_file_get_contents(events, &content, NULL, &read_error)) {
            ok = error_set(error, "%s", read_error->message);
        } else {
            g_auto(GStrv) lines = g_strsplit(content, "\n", -1);
            for (char **line = lines; *line; line++) {
                g_strstrip(*line);
                if (**line && **line != '#') {
                    trace_set(**line == '-' ? *line + 1 : *line, **line != '-');
                }
            }
        }
    }
    if (ok && file) {
        ok = log_set_file(file, error);
    }
    if (ok) {
        log_set_mask(log_mask | LOG_TRACE);
    }
    json_object_put(dict);
    return ok;
}

bool vm_configure_process(const Options *options, GError **error)
{
    for (guint i = 0; i < options->list->len; i++) {
        const Option *o = &g_array_index(options->list, Option, i);
        bool ok = true;
        if (o->info->id == OPT_MSG) {
            json_object *dict = option_dict(o, "timestamp", error);
            bool on;
            ok = dict && cmdline_check_keys(dict, o->info->keys, error) &&
                 cmdline_get_bool(dict, "timestamp", true, &on, error);
            if (ok) {
                log_set_timestamps(on);
            }
            json_object_put(dict);
        } else if (o->info->id == OPT_LOGFILE) {
            ok = log_set_file(o->argument, error);
        } else if (o->info->id == OPT_D) {
            unsigned mask;
            ok = log_parse_mask(o->argument, &mask, error);
            if (ok) {
                log_set_mask(log_mask | mask);
            }
        } else if (o->info->id == OPT_TRACE) {
            ok = configure_trace(o->argument, error);
        } else if (o->info->id == OPT_SANDBOX) {
            json_object *dict = option_dict(o, "enable", error);
            bool on;
            ok = dict && cmdline_check_keys(dict, o->info->keys, error) &&
                 cmdline_get_bool(dict, "enable", false, &on, error);
            json_object_put(dict);
        } else if (o->info->id == OPT_OVERCOMMIT) {
            json_object *dict = option_dict(o, NULL, error);
            bool lock, pm;
            ok = dict && cmdline_check_keys(dict, o->info->keys, error) &&
                 cmdline_get_bool(dict, "mem-lock", false, &lock, error) &&
                 cmdline_get_bool(dict, "cpu-pm", false, &pm, error);
            if (ok && lock && mlockall(MCL_CURRENT | MCL_FUTURE) < 0) {
                ok = error_set_errno(error, errno, "locking memory failed");
            }
            json_object_put(dict);
        }
        if (!ok) {
            return option_error(o, error);
        }
    }
    return true;
}

/* ---- the machine's options ---- */

static const char *intern_part(const char *text, size_t length)
{
    g_autofree char *part = g_strndup(text, length);

    return g_intern_string(part);
}

static bool configure_global(Setup *s, const Option *o, GError **error)
{
    GlobalProperty *p = g_new0(GlobalProperty, 1);

    p->user = true;
    const char *dot = strchr(o->argument, '.'), *equals = strchr(o->argument, '=');
    if (dot && equals && dot < equals) {
        p->driver = intern_part(o->argument, dot - o->argument);
        p->property = intern_part(dot + 1, equals - dot - 1);
        p->value = g_intern_string(equals + 1);
    } else {
        json_object *dict = option_dict(o, NULL, error);
        const char *driver, *property, *value;
        if (!dict || !cmdline_check_keys(dict, o->info->keys, error) ||
            !(driver = cmdline_get(dict, "driver")) || !(property = cmdline_get(dict, "property")) ||
            !(value = cmdline_get(dict, "value"))) {
            if (error && !*error) {
                error_set(error, "expected DRIVER.PROPERTY=VALUE");
            }
            json_object_put(dict);
            g_free(p);
            return false;
        }
        p->driver = g_intern_string(driver);
        p->property = g_intern_string(property);
        p->value = g_intern_string(value);
        json_object_put(dict);
    }
    g_ptr_array_add(vm_globals(s->vm), p);
    return true;
}

/* Which machine; its own properties follow once it exists. */
static bool configure_machine_type(Setup *s, GError **error)
{
    const char *name = NULL;
    g_autofree char *copy = NULL;

    FOR_OPTION(s, o, OPT_MACHINE)
    {
        json_object *dict = option_dict(o, "type", error);
        if (!dict) {
            return option_error(o, error);
        }
        if (cmdline_get(dict, "type")) {
            g_free(copy);
            name = copy = g_strdup(cmdline_get(dict, "type"));
        }
        json_object_put(dict);
    }
    if (!name) {
        s->mc = machine_class_default();
        return s->mc || error_set(error, "No machine specified, and there is no default");
    }
    s->mc = machine_class_find(name, error);
    return s->mc != NULL;
}

static bool machine_set(Setup *s, const char *key, const char *value, GError **error)
{
    return object_property_parse(OBJECT(vm_machine(s->vm)), key, value, error);
}

static bool configure_machine_properties(Setup *s, const Option *o, GError **error)
{
    json_object *dict = option_dict(o, "type", error);
    bool ok = dict != NULL;

    if (!ok) {
        return false;
    }
    json_object_object_foreach(dict, raw_key, value)
    {
        const char *text = json_object_get_string(value);
        g_autofree char *key = g_strdelimit(g_strdup(raw_key), "_", '-');
        if (strcmp(key, "type") == 0) {
            continue;
        }
        if (strcmp(key, "accel") == 0) {
            g_string_append_printf(s->accels, "%s%s", s->accels->len ? ":" : "", text);
        } else if (strcmp(key, "kernel-irqchip") == 0) {
            if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0 && strcmp(text, "split") != 0) {
                ok = error_set(error, "Parameter 'kernel-irqchip' expects 'on', 'off' or 'split'");
            } else {
                g_free(s->kernel_irqchip);
                s->kernel_irqchip = g_strdup(text);
            }
        } else {
            ok = machine_set(s, key, text, error);
        }
        if (!ok) {
            break;
        }
    }
    json_object_put(dict);
    return ok;
}

static bool configure_smp(Setup *s, const Option *o, GError **error)
{
    static const char *const names[] = {
        "cpus", "maxcpus", "sockets", "dies", "cores", "threads", "clusters"
    };
    uint64_t values[G_N_ELEMENTS(names)];
    json_object *dict = option_dict(o, "cpus", error);
    bool ok = dict && cmdline_check_keys(dict, o->info->keys, error);

    for (size_t i = 0; ok && i < G_N_ELEMENTS(names); i++) {
        ok = cmdline_get_uint(dict, names[i], 0, INT32_MAX, &values[i], error);
        if (ok && cmdline_get(dict, names[i]) && values[i] == 0) {
            ok = error_set(error, "Invalid CPU topology: CPU topology parameters must be greater than zero");
        }
    }
    json_object_put(dict);
    if (!ok) {
        return false;
    }
    if (values[6] > 1) {
        return error_set(error, "clusters are not supported by this machine's CPU topology");
    }
    s->config.smp = (MachineSmp){ .cpus = values[0],
                                  .max_cpus = values[1],
                                  .sockets = values[2],
                                  .dies = values[3],
                                  .cores = values[4],
                                  .threads = values[5] };
    return true;
}

static bool configure_memory(Setup *s, const Option *o, GError **error)
{
    json_object *dict = option_dict(o, "size", error);
    const char *text;
    uint64_t slots = 0;
    bool ok = dict && cmdline_check_keys(dict, o->info->keys, error);

    if (ok && (text = cmdline_get(dict, "size"))) {
        ok = cmdline_parse_size(text, 1 << 20, &s->config.ram_size, error);
        if (ok && (s->config.ram_size == 0 || s->config.ram_size > UINT64_MAX - 4095)) {
            ok = error_set(error, s->config.ram_size ? "ram size too large" : "ram size must not be 0");
        }
        s->config.ram_size = (s->config.ram_size + 8191) & ~UINT64_C(8191);
    }
    if (ok && (text = cmdline_get(dict, "maxmem"))) {
        ok = cmdline_parse_size(text, 1, &s->config.max_ram_size, error);
        if (ok && s->config.max_ram_size < s->config.ram_size) {
            ok = error_set(error, "invalid value of maxmem: it is less than the initial memory size");
        }
    }
    ok = ok && cmdline_get_uint(dict, "slots", 0, 256, &slots, error);
    if (ok && slots && !cmdline_get(dict, "maxmem")) {
        ok = error_set(error, "invalid -m option value: slots need maxmem");
    }
    s->config.ram_slots = slots;
    json_object_put(dict);
    return ok;
}

static bool configure_name(Setup *s, const Option *o, GError **error)
{
    json_object *dict = option_dict(o, "guest", error);
    bool ok = dict && cmdline_check_keys(dict, o->info->keys, error), threads;

    ok = ok && cmdline_get_bool(dict, "debug-threads", false, &threads, error);
    if (ok && cmdline_get(dict, "guest")) {
        vm_set_name(s->vm, cmdline_get(dict, "guest"));
    }
    if (ok && cmdline_get(dict, "process")) {
        prctl(PR_SET_NAME, cmdline_get(dict, "process"));
    }
    json_object_put(dict);
    return ok;
}

static bool configure_actions(Setup *s, const Option *o, GError **error)
{
    json_object *dict = option_dict(o, NULL, error);
    bool ok = dict != NULL;

    if (ok) {
        json_object_object_foreach(dict, key, value)
        {
            ok = ok && vm_set_action(s->vm, key, json_object_get_string(value), error);
        }
    }
    json_object_put(dict);
    return ok;
}

static bool configure_rtc(Setup *s, const Option *o, json_object **keep, GError **error)
{
    json_object *dict = option_dict(o, NULL, error);

    if (!dict || !cmdline_check_keys(dict, o->info->keys, error)) {
        json_object_put(dict);
        return false;
    }
    json_object_put(*keep);
    *keep = dict; /* the strings below live in it */
    s->config.rtc_base = cmdline_get(dict, "base");
    s->config.rtc_clock = cmdline_get(dict, "clock");
    s->config.rtc_driftfix = cmdline_get(dict, "driftfix");
    if (s->config.rtc_driftfix && strcmp(s->config.rtc_driftfix, "slew") != 0 &&
        strcmp(s->config.rtc_driftfix, "none") != 0) {
        return error_set(error, "Parameter 'driftfix' expects 'none' or 'slew'");
    }
    return true;
}

static bool configure_accel(Setup *s, const Option *o, GError **error)
{
    json_object *dict = option_dict(o, "accel", error);
    const char *name = dict ? cmdline_get(dict, "accel") : NULL;

    if (!dict) {
        return false;
    }
    if (!name) {
        json_object_put(dict);
        return error_set(error, "Parameter 'accel' is missing");
    }
    g_string_append_printf(s->accels, "%s%s", s->accels->len ? ":" : "", name);
    json_object_object_del(dict, "accel");
    /* This is QEMU's; this software CPU always runs each vCPU in a thread. */
    json_object_object_del(dict, "thread");
    json_object_put(s->accel_properties);
    s->accel_properties = json_object_object_length(dict) ? json_object_get(dict) : NULL;
    json_object_put(dict);
    return true;
}

static bool configure_none_only(const Option *o, const char *implied, const char *what, GError **error)
{
    json_object *dict = option_dict(o, implied, error);
    const char *value = dict ? cmdline_get(dict, implied) : NULL;
    bool ok = dict != NULL;

    if (ok && (!value || strcmp(value, "none") != 0)) {
        ok = error_set(error, "%s '%s' is not supported; only 'none' is", what, value ? value : o->argument);
    }
    json_object_put(dict);
    return ok;
}

static bool configure_add_fd(Setup *s, const Option *o, GError **error)
{
    json_object *dict = option_dict(o, NULL, error);
    uint64_t fd, set;
    bool ok = dict && cmdline_check_keys(dict, o->info->keys, error) &&
              cmdline_get_uint(dict, "fd", UINT64_MAX, INT32_MAX, &fd, error) &&
              cmdline_get_uint(dict, "set", UINT64_MAX, INT32_MAX, &set, error);

    if (ok && (fd == UINT64_MAX || set == UINT64_MAX)) {
        ok = error_set(error, "fd and set are needed");
    }
    ok = ok && fd_table_set_add(vm_fds(s->vm), set, fd, cmdline_get(dict, "opaque"), error) >= 0;
    json_object_put(dict);
    return ok;
}

/* ---- objects, devices ---- */

static bool configure_object(Setup *s, const Option *o, GError **error)
{
    return user_creatable_add_text(vm_root(s->vm), o->argument, error) != NULL;
}

static bool configure_device(Setup *s, const Option *o, GError **error)
{
    return device_create_text(vm_root(s->vm), &vm_machine(s->vm)->env, o->argument, false, vm_globals(s->vm),
                              error) != NULL;
}

/* A device that an option other than -device means; NULL-terminated pairs. */
static bool add_device(Setup *s, GError **error, const char *driver, ...)
{
    g_autoptr(QapiDeviceOptions) options = g_new0(QapiDeviceOptions, 1);
    va_list pairs;
    const char *key;

    options->driver = g_strdup(driver);
    options->more = json_object_new_object();
    options->more_is_text = true;
    va_start(pairs, driver);
    while ((key = va_arg(pairs, const char *))) {
        const char *value = va_arg(pairs, const char *);
        if (value && strcmp(key, "bus") == 0) {
            g_free(options->bus);
            options->bus = g_strdup(value);
        } else if (value) {
            json_object_object_add(options->more, key, json_object_new_string(value));
        }
    }
    va_end(pairs);
    return device_create(vm_root(s->vm), &vm_machine(s->vm)->env, options, false, vm_globals(s->vm), error) !=
           NULL;
}

/* Where an IDE drive goes: index n is channel n / 2, unit n % 2, or port n of a SATA controller; without one,
 * the first free place. */
static bool add_ide_drive(Setup *s, const BlockDrive *drive, unsigned *used, GError **error)
{
    Bus *first = bus_lookup(vm_root(s->vm), "ide.0");
    int units = first && bus_max_devices(first) == 1 ? 1 : 2, places = units == 1 ? 6 : 4;
    int place = drive->index;

    if (place < 0 && (drive->bus >= 0 || drive->unit >= 0)) {
        if (drive->unit >= units) {
            return error_set(error, "drive '%s': IDE channels have units 0 to %d, not %d", bb_name(drive->bb),
                             units - 1, drive->unit);
        }
        place = units * MAX(drive->bus, 0) + MAX(drive->unit, 0);
    }
    for (int i = 0; place < 0 && i < places; i++) {
        place = *used & 1u << i ? -1 : i;
    }
    if (place < 0 || place >= places) {
        return error_set(error, "drive '%s': there are %d places for IDE drives, index 0 to %d",
                         bb_name(drive->bb), places, places - 1);
    }
    if (*used & 1u << place) {
        return error_set(error, "drive '%s': index %d is taken by another drive", bb_name(drive->bb), place);
    }
    *used |= 1u << place;
    g_autofree char *bus = g_strdup_printf("ide.%d", place / units);
    g_autofree char *unit = g_strdup_printf("%d", place % units);
    g_autofree char *bootindex = drive->bootindex >= 0 ? g_strdup_printf("%d", drive->bootindex) : NULL;
    g_autoptr(GError) missing = NULL;
    if (!bus_find(vm_root(s->vm), "IDE", bus, &missing)) {
        error_set(error, "drive '%s': machine '%s' has no IDE controller", bb_name(drive->bb), s->mc->name);
        error_append_hint(error, "Use if=virtio, or if=none with a -device.");
        return false;
    }
    return add_device(s, error, strcmp(drive->media, "cdrom") == 0 ? "ide-cd" : "ide-hd", "bus", bus, "unit",
                      unit, "drive", bb_name(drive->bb), "bootindex", bootindex, NULL);
}

/* A drive of the floppy controller, which a board that has none by default gets with its first. */
static bool add_floppy_drive(Setup *s, const BlockDrive *drive, GError **error)
{
    int place = drive->index >= 0 ? drive->index : drive->unit;
    g_autofree char *unit = place >= 0 ? g_strdup_printf("%d", place) : NULL;
    g_autofree char *bootindex = drive->bootindex >= 0 ? g_strdup_printf("%d", drive->bootindex) : NULL;

    if (!bus_find(vm_root(s->vm), "floppy-bus", NULL, NULL) && !add_device(s, error, "isa-fdc", NULL)) {
        error_prefix(error, "drive '%s': ", bb_name(drive->bb));
        return false;
    }
    return add_device(s, error, "floppy", "unit", unit, "drive", bb_name(drive->bb), "bootindex", bootindex,
                      NULL);
}

/* -drive if=virtio and the like: a device for each drive whose interface says so. */
static bool configure_drive_devices(Setup *s, GError **error)
{
    GPtrArray *drives = block_drives(vm_blocks(s->vm));
    unsigned ide_used = 0;

    for (guint i = 0; i < drives->len; i++) {
        const BlockDrive *drive = drives->pdata[i];
        const char *interface = *drive->interface ? drive->interface : s->mc->default_disk_interface;
        if (strcmp(interface, "none") == 0) {
            continue;
        }
        if (strcmp(interface, "pflash") == 0) {
            if (!object_property_find(OBJECT(vm_machine(s->vm)), "pflash0")) {
                return error_set(error, "drive '%s': machine '%s' has no flash", bb_name(drive->bb),
                                 s->mc->name);
            }
            continue; /* the board has taken it */
        }
        if (strcmp(interface, "virtio") == 0) {
            bool pci = s->mc->default_nic_model && strstr(s->mc->default_nic_model, "-pci");
            if (!s->mc->default_nic_model) {
                return error_set(error, "machine '%s' has no bus for a virtio disk", s->mc->name);
            }
            g_autofree char *bootindex =
                drive->bootindex >= 0 ? g_strdup_printf("%d", drive->bootindex) : NULL;
            if (!add_device(s, error, pci ? "virtio-blk-pci" : "virtio-blk-device", "drive",
                            bb_name(drive->bb), "bootindex", bootindex, NULL)) {
                return false;
            }
            continue;
        }
        if (strcmp(interface, "ide") == 0) {
            if (!add_ide_drive(s, drive, &ide_used, error)) {
                return false;
            }
            continue;
        }
        if (strcmp(interface, "floppy") == 0) {
            if (!add_floppy_drive(s, drive, error)) {
                return false;
            }
            continue;
        }
        error_set(error, "-drive: interface '%s' is not supported yet", interface);
        error_append_hint(error, "Use if=virtio, if=ide or if=floppy, or if=none with a -device.");
        return false;
    }
    return true;
}

/* ---- network ---- */

/* -nic and -net: text of the back end without the card's own keys, and those. */
static bool configure_nic(Setup *s, const Option *o, GError **error)
{
    g_auto(GStrv) words = g_strsplit(o->argument, ",", -1);
    g_autofree char *model = NULL, *mac = NULL, *id = NULL;
    GString *client = g_string_new(NULL);
    bool ok = false;

    for (char **word = words; *word; word++) {
        const char *text = *word;
        if (word == words && g_str_has_prefix(text, "type=")) {
            text += 5;
        }
        if (g_str_has_prefix(text, "model=")) {
            g_free(model);
            model = g_strdup(text + 6);
        } else if (g_str_has_prefix(text, "mac=") || g_str_has_prefix(text, "macaddr=")) {
            g_free(mac);
            mac = g_strdup(strchr(text, '=') + 1);
        } else if (g_str_has_prefix(text, "id=")) {
            g_free(id);
            id = g_strdup(text + 3);
        } else {
            g_string_append_printf(client, "%s%s", client->len ? "," : "", text);
        }
    }
    if (!model) {
        model = g_strdup(s->mc->default_nic_model);
    } else if (strcmp(model, "virtio") == 0) {
        g_free(model);
        model = g_strdup(s->mc->default_nic_model);
    }
    if (!id) {
        id = g_strdup_printf("rhea-nic%d", s->nic_count);
    }
    s->nic_count++;
    g_string_append_printf(client, ",id=%s", id);
    if (!model) {
        error_set(error, "machine '%s' has no bus for a network card", s->mc->name);
    } else {
        ok = net_client_add_text(vm_nets(s->vm), client->str, error) &&
             add_device(s, error, model, "netdev", id, "mac", mac, NULL);
    }
    g_string_free(client, true);
    return ok;
}

/* -net nic with -net user (or tap): one pair, as people still type it. */
static bool configure_net(Setup *s, GError **error)
{
    const Option *client = NULL;
    g_autofree char *model = NULL, *mac = NULL;
    bool nic = false;

    for (guint i = 0; i < s->options->list->len; i++) {
        const Option *o = &g_array_index(s->options->list, Option, i);
        if (o->info->id != OPT_NET || strcmp(o->argument, "none") == 0) {
            continue;
        }
        if (g_str_has_prefix(o->argument, "nic")) {
            json_object *dict = option_dict(o, "type", error);
            if (!dict || nic || !cmdline_check_keys(dict, o->info->keys, error)) {
                if (nic && error && !*error) {
                    error_set(error, "only one -net nic is supported; use -nic");
                }
                json_object_put(dict);
                return option_error(o, error);
            }
            nic = true;
            model = g_strdup(cmdline_get(dict, "model"));
            mac = g_strdup(cmdline_get(dict, "macaddr"));
            json_object_put(dict);
        } else if (client) {
            error_set(error, "only one -net back end is supported; use -nic");
            return option_error(o, error);
        } else {
            client = o;
        }
    }
    if (!nic && !client) {
        return true;
    }
    if (!nic || !client) {
        return error_set(error, "-net: a card (-net nic) and a back end (-net user) are needed; use -nic");
    }
    g_autofree char *text = g_strdup_printf("%s%s%s%s%s", client->argument, model ? ",model=" : "",
                                            model ? model : "", mac ? ",mac=" : "", mac ? mac : "");
    Option both = { .info = client->info, .argument = text };
    return configure_nic(s, &both, error) || option_error(client, error);
}

static bool configure_networks(Setup *s, GError **error)
{
    FOR_OPTION(s, o, OPT_NIC)
    {
        if (strcmp(o->argument, "none") != 0 && !configure_nic(s, o, error)) {
            return option_error(o, error);
        }
    }
    if (!configure_net(s, error)) {
        return false;
    }
    if (s->nodefaults || !s->mc->default_nic || cmdline_has(s->options, OPT_NIC) ||
        cmdline_has(s->options, OPT_NET) || cmdline_has(s->options, OPT_NETDEV) ||
        !g_strv_contains(net_client_types(), "user")) {
        return true;
    }
    const Option standard = { .argument = "user" };
    return configure_nic(s, &standard, error);
}

/* ---- serial lines and monitors ---- */

static void want_monitor(Setup *s, Chardev *chr, bool qmp, bool pretty, const char *id)
{
    VmMonitorRequest *request = g_new0(VmMonitorRequest, 1);

    request->chr = chr;
    request->qmp = qmp;
    request->pretty = pretty;
    request->id = g_strdup(id);
    g_ptr_array_add(s->monitors, request);
}

static bool configure_serial(Setup *s, const char *text, GError **error)
{
    char id[16];
    bool monitor = false;

    if (s->serials >= MACHINE_MAX_SERIALS) {
        return error_set(error, "only %d serial ports are supported", MACHINE_MAX_SERIALS);
    }
    int n = s->serials++;
    if (strcmp(text, "none") == 0) {
        return true;
    }
    g_snprintf(id, sizeof(id), "serial%d", n);
    g_autoptr(GError) local = NULL;
    Chardev *chr = chardev_add_legacy(vm_chardevs(s->vm), id, text, &monitor, &local);
    if (!chr) {
        if (local) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        return true;
    }
    s->config.serial[n] = chr;
    if (monitor) {
        want_monitor(s, chr, false, false, NULL);
    }
    return true;
}

static bool configure_monitor(Setup *s, const char *text, bool qmp, bool pretty, GError **error)
{
    g_autofree char *id = g_strdup_printf("compat_monitor%d", s->monitor_count++);
    g_autoptr(GError) local = NULL;

    if (strcmp(text, "none") == 0) {
        return true;
    }
    Chardev *chr = chardev_add_legacy(vm_chardevs(s->vm), id, text, NULL, &local);
    if (!chr) {
        if (local) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        return true;
    }
    want_monitor(s, chr, qmp, pretty, id);
    return true;
}

static bool configure_mon(Setup *s, const Option *o, GError **error)
{
    static const char *const modes[] = { "readline", "control", NULL };
    json_object *dict = option_dict(o, "chardev", error);
    bool pretty, ok = dict && cmdline_check_keys(dict, o->info->keys, error) &&
                      cmdline_get_bool(dict, "pretty", false, &pretty, error);
    const char *id = ok ? cmdline_get(dict, "chardev") : NULL, *mode = ok ? cmdline_get(dict, "mode") : NULL;

    if (ok && !id) {
        ok = error_set(error, "Parameter 'chardev' is missing");
    }
    if (ok && mode && !g_strv_contains(modes, mode)) {
        ok = error_set(error, "unknown monitor mode '%s'", mode);
        nearest_hint(error, mode, modes);
    }
    Chardev *chr = ok ? chardev_find(vm_chardevs(s->vm), id) : NULL;
    if (ok && !chr) {
        ok = error_set(error, "chardev \"%s\" not found", id);
    }
    if (ok) {
        want_monitor(s, chr, mode && strcmp(mode, "control") == 0, pretty, cmdline_get(dict, "id"));
    }
    json_object_put(dict);
    return ok;
}

static bool uses_own_serial(const Setup *s)
{
    FOR_OPTION(s, o, OPT_DEVICE)
    {
        if (strstr(o->argument, "isa-serial")) {
            return true;
        }
    }
    return false;
}

static bool configure_lines(Setup *s, GError **error)
{
    bool serial_default =
        !s->nodefaults && !s->mc->no_serial && !cmdline_has(s->options, OPT_SERIAL) && !uses_own_serial(s);
    bool monitor_default = !s->nodefaults && !cmdline_has(s->options, OPT_MONITOR) &&
                           !cmdline_has(s->options, OPT_QMP) && !cmdline_has(s->options, OPT_QMP_PRETTY) &&
                           !cmdline_has(s->options, OPT_MON);

    for (guint i = 0; i < s->options->list->len; i++) {
        const Option *o = &g_array_index(s->options->list, Option, i);
        bool ok = true;
        switch ((int)o->info->id) {
        case OPT_SERIAL:
            ok = configure_serial(s, o->argument, error);
            break;
        case OPT_MONITOR:
            ok = configure_monitor(s, o->argument, false, false, error);
            break;
        case OPT_QMP:
            ok = configure_monitor(s, o->argument, true, false, error);
            break;
        case OPT_QMP_PRETTY:
            ok = configure_monitor(s, o->argument, true, true, error);
            break;
        case OPT_MON:
            ok = configure_mon(s, o, error);
            break;
        }
        if (!ok) {
            return option_error(o, error);
        }
    }
    if (s->nographic) {
        if (serial_default && monitor_default) {
            return configure_serial(s, "mon:stdio", error);
        }
        if (serial_default) {
            return configure_serial(s, "stdio", error);
        }
        if (monitor_default && !cmdline_has(s->options, OPT_SERIAL)) {
            return configure_monitor(s, "stdio", false, false, error);
        }
    } else if (serial_default) {
        return configure_serial(s, "null", error);
    }
    return true;
}

/* ---- fw_cfg ---- */

static bool configure_fw_cfg(Setup *s, const Option *o, GError **error)
{
    json_object *dict = option_dict(o, "name", error);
    const char *name, *file, *string;
    g_autofree char *content = NULL;
    gsize size = 0;
    bool ok = dict && cmdline_check_keys(dict, o->info->keys, error);

    if (ok) {
        name = cmdline_get(dict, "name");
        file = cmdline_get(dict, "file");
        string = cmdline_get(dict, "string");
        Machine *machine = vm_machine(s->vm);
        if (!name || !file == !string) {
            ok = error_set(error, "name and one of file and string are needed");
        } else if (!machine->fw_cfg) {
            ok = error_set(error, "machine '%s' has no fw_cfg", s->mc->name);
        } else if (file) {
            g_autoptr(GError) local = NULL;
            if (!g_file_get_contents(file, &content, &size, &local)) {
                ok = error_set(error, "%s", local->message);
            }
        } else {
            content = g_strdup(string);
            size = strlen(string);
        }
        ok = ok && fw_cfg_add_file(machine->fw_cfg, name, content, size, error);
    }
    json_object_put(dict);
    return ok;
}

/* ---- the whole ---- */

typedef bool Step(Setup *s, const Option *o, GError **error);

static bool for_each(Setup *s, OptionId id, Step *step, GError **error)
{
    FOR_OPTION(s, o, id)
    {
        if (!step(s, o, error)) {
            return option_error(o, error);
        }
    }
    return true;
}

static bool step_uuid(Setup *s, const Option *o, GError **error)
{
    return vm_set_uuid(s->vm, o->argument, error);
}

static bool step_display(Setup *s, const Option *o, GError **error)
{
    return g_str_has_prefix(o->argument, "vnc=") || configure_none_only(o, "type", "display", error);
}

static bool step_vnc(Setup *s, const Option *o, GError **error)
{
    return vnc_add_text(vm_vnc(s->vm), o->argument, vm_name(s->vm), error);
}

static bool step_vnc_display(Setup *s, const Option *o, GError **error)
{
    return !g_str_has_prefix(o->argument, "vnc=") ||
           vnc_add_text(vm_vnc(s->vm), o->argument + strlen("vnc="), vm_name(s->vm), error);
}

/* What -vga calls them, and as what a device is made; NULL: none. */
static const struct {
    const char *name, *driver;
} video_cards[] = { { "none", NULL }, { "std", "VGA" }, { "virtio", "virtio-vga" } };

static const char *video_driver(const char *card)
{
    for (size_t i = 0; i < G_N_ELEMENTS(video_cards); i++) {
        if (!strcmp(video_cards[i].name, card)) {
            return video_cards[i].driver;
        }
    }
    return NULL;
}

static bool step_vga(Setup *s, const Option *o, GError **error)
{
    return strcmp(o->argument, "none") == 0 || video_driver(o->argument) ||
           error_set(error, "video card '%s' is not supported; 'std', 'virtio' and 'none' are", o->argument);
}

/* A PC that starts a kernel at once has no screen unless asked for: nothing would set its mode. */
static bool configure_video(Setup *s, GError **error)
{
    const char *card = cmdline_last(s->options, OPT_VGA);
    bool by_default = !card && !s->nodefaults && vm_machine(s->vm)->env.firmware;

    if (!by_default && (!card || strcmp(card, "none") == 0)) {
        return true;
    }
    g_autoptr(GError) missing = NULL;
    if (!bus_find(vm_root(s->vm), "PCI", NULL, &missing)) {
        return error_set(error, "-vga %s: machine '%s' has no PCI bus", card, s->mc->name);
    }
    return add_device(s, error, video_driver(card ? card : "std"), NULL);
}

static bool step_usbdevice(Setup *s, const Option *o, GError **error)
{
    static const char *const names[][2] = { { "tablet", "usb-tablet" },
                                            { "mouse", "usb-mouse" },
                                            { "keyboard", "usb-kbd" } };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (strcmp(o->argument, names[i][0]) == 0) {
            return add_device(s, error, names[i][1], NULL);
        }
    }
    return error_set(error, "there is no USB device '%s'; tablet, mouse and keyboard are", o->argument);
}

static bool step_audio(Setup *s, const Option *o, GError **error)
{
    return configure_none_only(o, "driver", "audio driver", error);
}

static bool step_parallel(Setup *s, const Option *o, GError **error)
{
    g_autofree char *id = g_strdup_printf("parallel%d", s->parallels),
                    *index = g_strdup_printf("%d", s->parallels);
    g_autoptr(GError) local = NULL;

    s->parallels++;
    if (strcmp(o->argument, "none") == 0) {
        return true;
    }
    if (!chardev_add_legacy(vm_chardevs(s->vm), id, o->argument, NULL, &local)) {
        if (local) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        return true;
    }
    return add_device(s, error, "isa-parallel", "index", index, "chardev", id, NULL);
}

static bool step_boot(Setup *s, const Option *o, GError **error)
{
    json_object *dict = option_dict(o, "order", error);
    bool ok = dict && cmdline_check_keys(dict, o->info->keys, error);

    static const char *const keys[] = { "order", "once", "menu", "strict", "splash-time", "reboot-timeout" };
    for (size_t i = 0; ok && i < G_N_ELEMENTS(keys); i++) {
        const char *value = cmdline_get(dict, keys[i]);
        g_autofree char *property = g_strconcat("boot-", keys[i], NULL);
        ok = !value || machine_set(s, property, value, error);
    }
    json_object_put(dict);
    return ok;
}

/* All -smbios options, as the machine's property. */
static bool configure_smbios(Setup *s, GError **error)
{
    json_object *list = json_object_new_array();
    bool ok = true;

    FOR_OPTION(s, o, OPT_SMBIOS)
    {
        json_object *dict = ok ? keyval_parse_repeated(o->argument, NULL, NULL, error) : NULL;
        if (ok && !(dict && smbios_check_options(dict, error))) {
            ok = option_error(o, error);
        }
        if (dict) {
            json_object_array_add(list, dict);
        }
    }
    ok = ok && (!json_object_array_length(list) ||
                machine_set(s, "smbios", json_object_to_json_string(list), error));
    json_object_put(list);
    return ok;
}

/* What firmware is made of; the directories stay, since devices look for their ROMs there. */
static bool configure_firmware(Setup *s, GError **error)
{
    GPtrArray *dirs = vm_firmware_dirs(s->vm);
    g_autoptr(GString) roms = g_string_new(NULL);

    FOR_OPTION(s, o, OPT_DATA_DIR)
    {
        g_ptr_array_insert(dirs, (gint)dirs->len - 1, g_strdup(o->argument)); /* before the NULL */
    }
    s->config.firmware_dirs = (const char *const *)dirs->pdata;
    FOR_OPTION(s, o, OPT_OPTION_ROM)
    {
        g_string_append_printf(roms, "%s\n", o->argument);
    }
    return !roms->len || machine_set(s, "option-roms", roms->str, error);
}

static bool step_watchdog(Setup *s, const Option *o, GError **error)
{
    return vm_set_action(s->vm, "watchdog", o->argument, error);
}

static bool step_echr(Setup *s, const Option *o, GError **error)
{
    json_object *dict = option_dict(o, "code", error);
    uint64_t code;
    bool ok = dict && cmdline_get_uint(dict, "code", 1, 255, &code, error);

    if (ok) {
        chardev_registry_set_escape(vm_chardevs(s->vm), code);
    }
    json_object_put(dict);
    return ok;
}

static bool step_chardev(Setup *s, const Option *o, GError **error)
{
    return chardev_add_text(vm_chardevs(s->vm), o->argument, error) != NULL;
}

static bool step_blockdev(Setup *s, const Option *o, GError **error)
{
    return blockdev_add_text(vm_blocks(s->vm), o->argument, error);
}

static bool step_drive(Setup *s, const Option *o, GError **error)
{
    return block_drive_add_text(vm_blocks(s->vm), o->argument, s->mc->default_disk_interface, error) != NULL;
}

/* -hda and its kin. */
static bool step_disk(Setup *s, const Option *o, GError **error)
{
    bool cdrom = o->info->id == OPT_CDROM, floppy = o->info->id == OPT_FDA || o->info->id == OPT_FDB;
    g_auto(GStrv) parts = g_strsplit(o->argument, ",", -1);
    g_autofree char *file = g_strjoinv(",,", parts);
    int index = cdrom ? 2 : (int)(o->info->id - (floppy ? OPT_FDA : OPT_HDA));
    g_autofree char *text = g_strdup_printf("media=%s,index=%d%s,file=%s", cdrom ? "cdrom" : "disk", index,
                                            floppy ? ",if=floppy" : "", file);

    return block_drive_add_text(vm_blocks(s->vm), text, s->mc->default_disk_interface, error) != NULL;
}

static bool configure_disks(Setup *s, GError **error)
{
    return for_each(s, OPT_HDA, step_disk, error) && for_each(s, OPT_HDB, step_disk, error) &&
           for_each(s, OPT_HDC, step_disk, error) && for_each(s, OPT_HDD, step_disk, error) &&
           for_each(s, OPT_CDROM, step_disk, error) && for_each(s, OPT_FDA, step_disk, error) &&
           for_each(s, OPT_FDB, step_disk, error);
}

static bool step_netdev(Setup *s, const Option *o, GError **error)
{
    return net_client_add_text(vm_nets(s->vm), o->argument, error) != NULL;
}

static bool configure_vm(Setup *s, GError **error)
{
    /* General settings. */
    if (!for_each(s, OPT_NAME, configure_name, error) || !for_each(s, OPT_UUID, step_uuid, error) ||
        !for_each(s, OPT_DISPLAY, step_display, error) || !for_each(s, OPT_VGA, step_vga, error) ||
        !for_each(s, OPT_AUDIODEV, step_audio, error) || !for_each(s, OPT_ACTION, configure_actions, error) ||
        !for_each(s, OPT_WATCHDOG_ACTION, step_watchdog, error) ||
        !for_each(s, OPT_SMP, configure_smp, error) || !for_each(s, OPT_M, configure_memory, error) ||
        !for_each(s, OPT_ADD_FD, configure_add_fd, error)) {
        return false;
    }
    if (cmdline_has(s->options, OPT_NO_REBOOT)) {
        vm_set_action(s->vm, "reboot", "shutdown", NULL);
    }
    if (cmdline_has(s->options, OPT_NO_SHUTDOWN)) {
        vm_set_action(s->vm, "shutdown", "pause", NULL);
    }
    /* The machine's type is known first: drives and serial lines depend on its defaults. */
    if (!configure_machine_type(s, error) || !vm_create_machine(s->vm, s->mc->name, error) ||
        !for_each(s, OPT_GLOBAL, configure_global, error)) {
        return false;
    }
    if (cmdline_has(s->options, OPT_INCOMING)) {
        vm_expect_incoming(s->vm);
    }
    /* Back ends. */
    if (!for_each(s, OPT_ECHR, step_echr, error) || !for_each(s, OPT_CHARDEV, step_chardev, error) ||
        !for_each(s, OPT_OBJECT, configure_object, error) ||
        !for_each(s, OPT_BLOCKDEV, step_blockdev, error) || !for_each(s, OPT_DRIVE, step_drive, error) ||
        !configure_disks(s, error) || !for_each(s, OPT_NETDEV, step_netdev, error) ||
        !configure_lines(s, error)) {
        return false;
    }
    /* The machine. */
    if (!for_each(s, OPT_MACHINE, configure_machine_properties, error) ||
        !for_each(s, OPT_BOOT, step_boot, error) || !configure_firmware(s, error) ||
        !configure_smbios(s, error)) {
        return false;
    }
    static const struct {
        OptionId id;
        const char *property, *value;
    } shorthands[] = {
        { OPT_KERNEL, "kernel", NULL }, { OPT_INITRD, "initrd", NULL }, { OPT_APPEND, "append", NULL },
        { OPT_USB, "usb", "on" },       { OPT_USBDEVICE, "usb", "on" }, { OPT_NO_ACPI, "acpi", "off" },
        { OPT_NO_HPET, "hpet", "off" }, { OPT_BIOS, "firmware", NULL },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(shorthands); i++) {
        if (cmdline_has(s->options, shorthands[i].id)) {
            const char *value =
                shorthands[i].value ? shorthands[i].value : cmdline_last(s->options, shorthands[i].id);
            if (shorthands[i].id == OPT_NO_HPET &&
                !object_property_find(OBJECT(vm_machine(s->vm)), shorthands[i].property)) {
                continue; /* has none anyway */
            }
            if (!machine_set(s, shorthands[i].property, value, error)) {
                return false;
            }
        }
    }
    if (cmdline_has(s->options, OPT_ENABLE_KVM)) {
        g_string_append(s->accels, s->accels->len ? ":kvm" : "kvm");
    }
    if (!for_each(s, OPT_ACCEL, configure_accel, error)) {
        return false;
    }
    Accel *accel = accel_new(s->accels->len ? s->accels->str : "tcg", s->accel_properties, error);
    if (!accel) {
        return false;
    }
    if (s->kernel_irqchip && object_property_find(OBJECT(accel), "kernel-irqchip") &&
        !(s->accel_properties && json_object_object_get(s->accel_properties, "kernel-irqchip")) &&
        !object_property_parse(OBJECT(accel), "kernel-irqchip", s->kernel_irqchip, error)) {
        object_unref(OBJECT(accel));
        return false;
    }
    s->config.cpu_model = cmdline_last(s->options, OPT_CPU);
    s->config.mem_path = cmdline_last(s->options, OPT_MEM_PATH);
    s->config.mem_prealloc = cmdline_has(s->options, OPT_MEM_PREALLOC);
    s->config.graphics_off = s->nographic;
    json_object *rtc = NULL;
    bool ok = true;
    FOR_OPTION(s, o, OPT_RTC)
    {
        if (ok && !configure_rtc(s, o, &rtc, error)) {
            ok = option_error(o, error);
        }
    }
    ok = ok && vm_init_machine(s->vm, accel, &s->config, error);
    json_object_put(rtc);
    if (!ok) {
        return false;
    }
    /* What hangs on it. */
    ok = for_each(s, OPT_FW_CFG, configure_fw_cfg, error) && configure_video(s, error) &&
         for_each(s, OPT_USBDEVICE, step_usbdevice, error) &&
         for_each(s, OPT_PARALLEL, step_parallel, error) &&
         for_each(s, OPT_DEVICE, configure_device, error) && configure_drive_devices(s, error) &&
         configure_networks(s, error) && for_each(s, OPT_VNC, step_vnc, error) &&
         for_each(s, OPT_DISPLAY, step_vnc_display, error);
    /* Last, because the first front end of a mux has its focus: that is to be the guest's line. */
    for (guint i = 0; ok && i < s->monitors->len; i++) {
        ok = s->add_monitor(s->monitor_opaque, s->monitors->pdata[i], error);
    }
    return ok;
}

bool vm_configure(Vm *vm, const Options *options, VmAddMonitor *add_monitor, void *opaque, GError **error)
{
    Setup s = {
        .vm = vm,
        .options = options,
        .monitors = g_ptr_array_new_with_free_func(monitor_request_free),
        .add_monitor = add_monitor,
        .monitor_opaque = opaque,
        .accels = g_string_new(NULL),
        .nodefaults = cmdline_has(options, OPT_NODEFAULTS),
        .nographic = cmdline_has(options, OPT_NOGRAPHIC),
    };
    bool ok = configure_vm(&s, error);

    g_ptr_array_unref(s.monitors);
    g_string_free(s.accels, true);
    json_object_put(s.accel_properties);
    g_free(s.kernel_irqchip);
    return ok;
}

/* ---- questions ---- */

static int compare_category(const void *a, const void *b)
{
    const DeviceClass *x = *(DeviceClass *const *)a, *y = *(DeviceClass *const *)b;
    int order = g_strcmp0(x->category, y->category);

    return order ? order
                 : strcmp(object_class_get_name((ObjectClass *)x), object_class_get_name((ObjectClass *)y));
}

static void print_devices(void)
{
    GPtrArray *classes = object_class_list(TYPE_DEVICE, false);
    const char *category = "";

    g_ptr_array_sort(classes, compare_category);
    for (guint i = 0; i < classes->len; i++) {
        const DeviceClass *dc = classes->pdata[i];
        if (!dc->user_creatable) {
            continue;
        }
        const char *own = dc->category ? dc->category : "Misc";
        if (strcmp(own, category) != 0) {
            printf("%s%s devices:\n", *category ? "\n" : "", own);
            category = own;
        }
        const TypeInfo *type = dc->parent_class.type;
        printf("name \"%s\"", type->name);
        if (dc->bus_type) {
            printf(", bus %s", dc->bus_type);
        }
        if (type->description) {
            printf(", desc \"%s\"", type->description);
        }
        printf("\n");
    }
    g_ptr_array_unref(classes);
}

static bool print_properties(const char *type, const char *ancestor, GError **error)
{
    ObjectClass *klass = object_class_by_name(type);

    if (!klass || !object_class_cast(klass, ancestor)) {
        return error_set(error, "'%s' is not a valid %s name", type,
                         strcmp(ancestor, TYPE_DEVICE) == 0 ? "device model" : "object type");
    }
    GPtrArray *list = object_class_property_list(klass);
    printf("%s options:\n", type);
    for (guint i = 0; i < list->len; i++) {
        const ObjectProperty *p = list->pdata[i];
        if (!p->set) {
            continue;
        }
        g_autofree char *head = g_strdup_printf("  %s=<%s>", p->name, p->type);
        printf("%-30s", head);
        if (p->description || p->default_value) {
            printf(" -");
        }
        if (p->description) {
            printf(" %s", p->description);
        }
        if (p->default_value) {
            printf(" (default: %s)", p->default_value);
        }
        printf("\n");
    }
    g_ptr_array_unref(list);
    return true;
}

static void print_types(const char *title, const char *ancestor, const char *suffix)
{
    GPtrArray *classes = object_class_list(ancestor, false);

    printf("%s\n", title);
    for (guint i = 0; i < classes->len; i++) {
        g_autofree char *name = g_strdup(object_class_get_name(classes->pdata[i]));
        char *cut = suffix ? strstr(name, suffix) : NULL;
        if (cut) {
            *cut = 0;
        }
        printf("  %s\n", name);
    }
    g_ptr_array_unref(classes);
}

static void print_trace_event(TraceEvent *event, void *opaque)
{
    printf("%s\n", event->name);
}

static void print_names(const char *title, const char *const *names)
{
    printf("%s\n", title);
    for (; *names; names++) {
        printf("%s\n", *names);
    }
}

static bool is_help(const char *text)
{
    return text && (strcmp(text, "help") == 0 || strcmp(text, "?") == 0);
}

/* "NAME,help" gives NAME. */
static char *help_of(const char *text)
{
    const char *comma = text ? strchr(text, ',') : NULL;

    return comma && is_help(comma + 1) ? g_strndup(text, comma - text) : NULL;
}

bool vm_answer_help(const Options *options, bool *failed, GError **error)
{
    *failed = false;
    for (guint i = 0; i < options->list->len; i++) {
        const Option *o = &g_array_index(options->list, Option, i);
        g_autofree char *text = NULL;
        g_autofree char *name = help_of(o->argument);
        switch ((int)o->info->id) {
        case OPT_H:
            text = cmdline_help();
            break;
        case OPT_VERSION:
            text = g_strdup("Rhea machine emulator version " RHEA_VERSION "\n");
            break;
        case OPT_PRINT_MAN:
            text = cmdline_man_page();
            break;
        case OPT_PRINT_COMPLETION:
            text = cmdline_bash_completion();
            break;
        case OPT_MACHINE:
            if (is_help(o->argument) || g_strcmp0(o->argument, "type=help") == 0) {
                text = machine_help();
            } else if (name) {
                MachineClass *mc = machine_class_find(name, error);
                *failed =
                    !mc || !print_properties(object_class_get_name((ObjectClass *)mc), TYPE_MACHINE, error);
                return true;
            }
            break;
        case OPT_CPU:
            if (is_help(o->argument)) {
                text = x86_cpu_models_help();
            }
            break;
        case OPT_ACCEL:
            if (is_help(o->argument)) {
                print_types("Accelerators supported:", TYPE_ACCEL, "-accel");
                return true;
            }
            break;
        case OPT_DEVICE:
            if (is_help(o->argument)) {
                print_devices();
                return true;
            }
            if (name) {
                *failed = !print_properties(name, TYPE_DEVICE, error);
                return true;
            }
            break;
        case OPT_OBJECT:
            if (is_help(o->argument)) {
                print_types("List of user creatable objects:", TYPE_USER_CREATABLE, NULL);
                return true;
            }
            if (name) {
                *failed = !print_properties(name, TYPE_USER_CREATABLE, error);
                return true;
            }
            break;
        case OPT_NETDEV:
        case OPT_NIC:
            if (is_help(o->argument)) {
                print_names("Available netdev backend types:", net_client_types());
                return true;
            }
            break;
        case OPT_DRIVE:
        case OPT_BLOCKDEV:
            if (is_help(o->argument)) {
                print_names("Available block drivers:", block_driver_names());
                return true;
            }
            break;
        case OPT_D:
            if (is_help(o->argument)) {
                text = log_class_help();
            }
            break;
        case OPT_TRACE:
            if (is_help(o->argument)) {
                trace_foreach(print_trace_event, NULL);
                return true;
            }
            break;
        case OPT_CHARDEV:
            if (is_help(o->argument)) {
                json_object *list = chardev_query_backends();
                printf("Available chardev backend types:\n");
                for (size_t n = 0; n < json_object_array_length(list); n++) {
                    printf("  %s\n", cmdline_get(json_object_array_get_idx(list, n), "name"));
                }
                json_object_put(list);
                return true;
            }
            break;
        case OPT_VGA:
            if (is_help(o->argument)) {
                text = g_strdup("none\nstd\nvirtio\n");
            }
            break;
        case OPT_DISPLAY:
            if (is_help(o->argument)) {
                text = g_strdup("none\nvnc\n");
            }
            break;
        case OPT_AUDIODEV:
            if (is_help(o->argument)) {
                text = g_strdup("none\n");
            }
            break;
        }
        if (text) {
            fputs(text, stdout);
            return true;
        }
    }
    return false;
}
