/* HMP: "info". SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/hmp_internal.h"

#include "base/error.h"
#include "hw/acpi/vmgenid.h"
#include "hw/virtio/virtio_balloon.h"
#include "loop/iothread.h"
#include "rhea_config.h"
#include "trace/trace.h"

#include <string.h>

static bool print_owned(HmpContext *ctx, char *text)
{
    hmp_print(ctx, "%s", text ? text : "");
    if (text && *text && text[strlen(text) - 1] != '\n') {
        hmp_print(ctx, "\n");
    }
    g_free(text);
    return true;
}

static bool info_version(HmpContext *ctx, const char *args, GError **error)
{
    hmp_print(ctx, "%d.%d.%dRhea %s\n", MONITOR_VERSION_MAJOR, MONITOR_VERSION_MINOR, MONITOR_VERSION_MICRO,
              RHEA_VERSION);
    return true;
}

static bool info_status(HmpContext *ctx, const char *args, GError **error)
{
    RunState state = vm_run_state(ctx->vm);
    hmp_print(ctx, "VM status: %s", state == RUN_STATE_RUNNING ? "running" : "paused");
    if (state != RUN_STATE_RUNNING && state != RUN_STATE_PAUSED) {
        hmp_print(ctx, " (%s)", enum_name(&run_state_lookup, state));
    }
    hmp_print(ctx, "\n");
    return true;
}

static bool info_name(HmpContext *ctx, const char *args, GError **error)
{
    if (vm_name(ctx->vm)) {
        hmp_print(ctx, "%s\n", vm_name(ctx->vm));
    }
    return true;
}

static bool info_uuid(HmpContext *ctx, const char *args, GError **error)
{
    hmp_print(ctx, "%s\n", vm_uuid(ctx->vm));
    return true;
}

static bool info_kvm(HmpContext *ctx, const char *args, GError **error)
{
    json_object *kvm = hmp_qmp(ctx, "query-kvm", NULL, error);
    if (!kvm) {
        return false;
    }
    hmp_print(ctx, "kvm support: %s\n",
              json_object_get_boolean(json_object_object_get(kvm, "enabled"))   ? "enabled"
              : json_object_get_boolean(json_object_object_get(kvm, "present")) ? "disabled"
                                                                                : "not compiled");
    if (json_object_get_boolean(json_object_object_get(kvm, "enabled"))) {
        char *text = monitor_info_jit(ctx->vm);
        hmp_print(ctx, "%s", text ? text : "");
        g_free(text);
    } else if (json_object_get_boolean(json_object_object_get(kvm, "present"))) {
        g_autoptr(GError) why = NULL;
        const AccelClass *klass = (const AccelClass *)object_class_by_name("kvm-accel");
        if (klass && klass->preferred && !klass->preferred(&why)) {
            hmp_print(ctx, "accel=auto does not choose it: %s\n", why->message);
        }
    }
    json_object_put(kvm);
    return true;
}

static bool info_registers(HmpContext *ctx, const char *args, GError **error)
{
    VcpuSet *vcpus = vm_vcpus(ctx->vm);
    X86Cpu *cpu = hmp_cpu(ctx, error);
    if (!cpu) {
        return false;
    }
    vcpu_set_pause(vcpus);
    bool all = strcmp(args, "-a") == 0;
    for (unsigned i = 0; i < vcpu_set_count(vcpus); i++) {
        X86Cpu *one = vcpu_set_get(vcpus, i);
        if (all || one == cpu) {
            if (all) {
                hmp_print(ctx, "%s\nCPU#%u\n", i ? "" : "", one->index);
            }
            print_owned(ctx, x86_cpu_dump(one));
        }
    }
    vcpu_set_resume(vcpus);
    return true;
}

static bool info_cpus(HmpContext *ctx, const char *args, GError **error)
{
    VcpuSet *vcpus = vm_vcpus(ctx->vm);
    for (unsigned i = 0; vcpus && i < vcpu_set_count(vcpus); i++) {
        X86Cpu *cpu = vcpu_set_get(vcpus, i);
        hmp_print(ctx, "%c CPU #%u: thread_id=%d\n", i == *ctx->cpu_index ? '*' : ' ', cpu->index,
                  (int)vcpu_thread_id(cpu));
    }
    return true;
}

static bool info_mtree(HmpContext *ctx, const char *args, GError **error)
{
    Machine *machine = vm_machine(ctx->vm);
    bool flat = strstr(args, "-f") != NULL;
    if (!machine) {
        return true;
    }
    if (machine->memory) {
        print_owned(ctx, memory_print_tree(machine->memory, flat));
        hmp_print(ctx, "\n");
    }
    if (machine->io) {
        print_owned(ctx, memory_print_tree(machine->io, flat));
    }
    return true;
}

static bool info_qtree(HmpContext *ctx, const char *args, GError **error)
{
    return print_owned(ctx, device_print_tree(vm_root(ctx->vm)));
}

static void print_qom(HmpContext *ctx, Object *obj, int indent)
{
    const char *name = object_get_name_in_parent(obj);
    hmp_print(ctx, "%*s/%s (%s)\n", indent, "",
              name && indent ? name
              : name         ? name
                             : "",
              object_get_typename(obj));
    g_autoptr(GPtrArray) list = object_property_list(obj);
    for (guint i = 0; i < list->len; i++) {
        const ObjectProperty *p = g_ptr_array_index(list, i);
        if (p->child) {
            print_qom(ctx, p->child, indent + 2);
        }
    }
}

static bool info_qom_tree(HmpContext *ctx, const char *args, GError **error)
{
    const char *path = *args ? args : "/machine";
    Object *obj = object_resolve_path(vm_root(ctx->vm), path, NULL);
    if (!obj) {
        return error_set(error, "Path '%s' could not be resolved.", path);
    }
    print_qom(ctx, obj, 0);
    return true;
}

static bool info_network(HmpContext *ctx, const char *args, GError **error)
{
    return print_owned(ctx, net_info(vm_nets(ctx->vm)));
}

static bool info_usernet(HmpContext *ctx, const char *args, GError **error)
{
    return print_owned(ctx, net_info_usernet(vm_nets(ctx->vm)));
}

static bool info_block(HmpContext *ctx, const char *args, GError **error)
{
    return print_owned(ctx, block_info(vm_blocks(ctx->vm)));
}

static bool info_blockstats(HmpContext *ctx, const char *args, GError **error)
{
    json_object *list = block_query_stats(vm_blocks(ctx->vm), false);
    static const char *const shown[] = { "rd_bytes",         "wr_bytes",           "rd_operations",
                                         "wr_operations",    "flush_operations",   "wr_total_time_ns",
                                         "rd_total_time_ns", "flush_total_time_ns" };
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *entry = json_object_array_get_idx(list, i);
        json_object *stats = json_object_object_get(entry, "stats");
        const char *name = json_object_get_string(json_object_object_get(entry, "device"));
        const char *node = json_object_get_string(json_object_object_get(entry, "node-name"));
        hmp_print(ctx, "%s:", name && *name ? name : node ? node : "");
        for (size_t k = 0; k < G_N_ELEMENTS(shown); k++) {
            hmp_print(ctx, " %s=%" PRId64, shown[k],
                      json_object_get_int64(json_object_object_get(stats, shown[k])));
        }
        hmp_print(ctx, "\n");
    }
    json_object_put(list);
    return true;
}

static bool info_chardev(HmpContext *ctx, const char *args, GError **error)
{
    json_object *list = chardev_query(vm_chardevs(ctx->vm));
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *entry = json_object_array_get_idx(list, i);
        hmp_print(ctx, "%s: filename=%s\n", json_object_get_string(json_object_object_get(entry, "label")),
                  json_object_get_string(json_object_object_get(entry, "filename")));
    }
    json_object_put(list);
    return true;
}

char *monitor_info_jit(Vm *vm)
{
    Accel *accel = vm_accel(vm);
    if (!accel || !ACCEL_GET_CLASS(accel)->info) {
        return NULL;
    }
    VcpuSet *vcpus = vm_vcpus(vm);
    if (vcpus) {
        vcpu_set_pause(vcpus);
    }
    char *text = ACCEL_GET_CLASS(accel)->info(accel);
    if (vcpus) {
        vcpu_set_resume(vcpus);
    }
    return text;
}

static bool info_jit(HmpContext *ctx, const char *args, GError **error)
{
    char *text = monitor_info_jit(ctx->vm);
    print_owned(ctx, text ? text : g_strdup("no information\n"));
    return true;
}

static bool info_iothreads(HmpContext *ctx, const char *args, GError **error)
{
    json_object *list = iothread_query(vm_root(ctx->vm));
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *entry = json_object_array_get_idx(list, i);
        hmp_print(ctx, "%s:\n", json_object_get_string(json_object_object_get(entry, "id")));
        static const char *const members[] = { "thread-id", "poll-max-ns", "poll-grow", "poll-shrink",
                                               "aio-max-batch" };
        for (size_t k = 0; k < G_N_ELEMENTS(members); k++) {
            hmp_print(ctx, "  %s=%" PRId64 "\n", members[k],
                      json_object_get_int64(json_object_object_get(entry, members[k])));
        }
    }
    json_object_put(list);
    return true;
}

static bool info_memory_size(HmpContext *ctx, const char *args, GError **error)
{
    const Machine *machine = vm_machine(ctx->vm);
    hmp_print(ctx, "base memory: %" PRIu64 "\nplugged memory: 0\n", machine ? machine->ram_size : 0);
    return true;
}

static bool info_balloon(HmpContext *ctx, const char *args, GError **error)
{
    const Machine *machine = vm_machine(ctx->vm);
    int64_t actual;
    if (!virtio_balloon_query(vm_root(ctx->vm), machine ? machine->ram_size : 0, &actual, error)) {
        return false;
    }
    hmp_print(ctx, "balloon: actual=%" PRId64 "\n", actual >> 20);
    return true;
}

static bool info_vm_generation_id(HmpContext *ctx, const char *args, GError **error)
{
    char *guid = vmgenid_query(vm_root(ctx->vm), error);
    return guid && print_owned(ctx, guid);
}

typedef struct TracePrint {
    HmpContext *ctx;
    const char *pattern;
} TracePrint;

static void print_event(TraceEvent *event, void *opaque)
{
    const TracePrint *p = opaque;
    if (!*p->pattern || g_pattern_match_simple(p->pattern, event->name)) {
        hmp_print(p->ctx, "%s : state %d\n", event->name, event->enabled);
    }
}

static bool info_trace_events(HmpContext *ctx, const char *args, GError **error)
{
    TracePrint p = { ctx, args };
    trace_foreach(print_event, &p);
    return true;
}

static bool print_pci_device(Object *obj, void *opaque)
{
    HmpContext *ctx = opaque;
    if (!object_dynamic_cast(obj, "pci-device")) {
        return true;
    }
    /* What the device calls its own address and IDs are ordinary properties. */
    g_autofree char *path = object_get_canonical_path(obj);
    g_autofree char *addr =
        object_property_find(obj, "addr") ? object_property_print(obj, "addr", NULL) : g_strdup("?");
    hmp_print(ctx, "  addr %-8s %-24s %s\n", addr ? addr : "?", object_get_typename(obj), path);
    return true;
}

static bool info_pci(HmpContext *ctx, const char *args, GError **error)
{
    object_child_foreach(vm_root(ctx->vm), true, print_pci_device, ctx);
    return true;
}

static bool info_screen(HmpContext *ctx, const char *args, GError **error)
{
    DisplayConsole *console = display_console_find(vm_displays(ctx->vm), NULL, error);
    if (!console) {
        return false;
    }
    g_autofree char *text = display_console_text(console);
    hmp_print(ctx, "%s", text ? text : "The screen shows graphics.\n");
    return true;
}

const HmpCommand hmp_info_commands[] = {
    { "version", "", "of this program", info_version },
    { "status", "", "whether the machine runs", info_status },
    { "name", "", "what -name gave", info_name },
    { "vnc", "", "the VNC servers and who looks", hmp_info_vnc },
    { "mice", "", "the pointing devices", hmp_info_mice },
    { "uuid", "", "of the machine", info_uuid },
    { "kvm", "", "whether KVM is used", info_kvm },
    { "registers", "[-a]", "of the chosen CPU, or of all", info_registers },
    { "cpus", "", "the CPUs and their threads", info_cpus },
    { "mtree", "[-f]", "the memory map; -f: flattened", info_mtree },
    { "qtree", "", "the devices by their buses", info_qtree },
    { "qom-tree", "[PATH]", "the composition tree", info_qom_tree },
    { "network", "", "cards and back ends", info_network },
    { "usernet", "", "connections of user networking", info_usernet },
    { "block", "", "the disks", info_block },
    { "blockstats", "", "counters of the disks", info_blockstats },
    { "chardev", "", "the character devices", info_chardev },
    { "iothreads", "", "the I/O threads", info_iothreads },
    { "jit", "", "what the software CPU did", info_jit },
    { "memory_size_summary", "", "the size of memory", info_memory_size },
    { "pci", "", "the PCI functions", info_pci },
    { "screen", "", "the text that the guest's screen shows", info_screen },
    { "trace-events", "[PATTERN]", "the trace points", info_trace_events },
    { "snapshots", "", "what savevm has saved", hmp_info_snapshots },
    { "migrate", "", "the state of a migration", hmp_info_migrate },
    { "migrate_capabilities", "", "what can be switched", hmp_info_migrate_capabilities },
    { "migrate_parameters", "", "its limits", hmp_info_migrate_parameters },
    { "balloon", "", "the size of the balloon", info_balloon },
    { "vm-generation-id", "", "what the guest sees of vmgenid", info_vm_generation_id },
    { NULL, NULL, NULL, NULL },
};
