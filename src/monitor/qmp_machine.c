/* QMP: run state, machine, CPUs, memory. SPDX-License-Identifier: GPL-2.0-or-later */
#include "arch/x86/cpuid.h"
#include "base/error.h"
#include "hw/acpi/vmgenid.h"
#include "hw/virtio/virtio_balloon.h"
#include "monitor/monitor_internal.h"
#include "rhea_config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- run state ---- */

bool qmp_query_status(QmpContext *ctx, QapiStatusInfo **ret, GError **error)
{
    RunState state = vm_run_state(ctx->vm);
    *ret = g_new0(QapiStatusInfo, 1);
    (*ret)->running = state == RUN_STATE_RUNNING;
    int value = enum_parse(&qapi_RunState_lookup, enum_name(&run_state_lookup, state), NULL);
    (*ret)->status = (QapiRunState)MAX(value, 0);
    return true;
}

bool qmp_stop(QmpContext *ctx, GError **error)
{
    if (vm_run_state(ctx->vm) == RUN_STATE_INMIGRATE) {
        vm_set_autostart(ctx->vm, false);
    }
    if (vm_running(ctx->vm)) {
        vm_stop(ctx->vm, RUN_STATE_PAUSED);
    }
    return true;
}

bool qmp_cont(QmpContext *ctx, GError **error)
{
    if (vm_run_state(ctx->vm) == RUN_STATE_INMIGRATE) {
        vm_set_autostart(ctx->vm, true);
        return true;
    }
    return vm_start(ctx->vm, error);
}

bool qmp_system_reset(QmpContext *ctx, GError **error)
{
    vm_request_reset(ctx->vm, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
    return true;
}

bool qmp_system_powerdown(QmpContext *ctx, GError **error)
{
    vm_request_powerdown(ctx->vm);
    return true;
}

bool qmp_system_wakeup(QmpContext *ctx, GError **error)
{
    if (vm_run_state(ctx->vm) != RUN_STATE_SUSPENDED) {
        return error_set(error, "Unable to wake up: guest is not in suspended state");
    }
    vm_request_wakeup(ctx->vm);
    return true;
}

bool qmp_inject_nmi(QmpContext *ctx, GError **error)
{
    if (!vm_machine(ctx->vm) || !vm_vcpus(ctx->vm)) {
        return error_set(error, "machine does not provide NMIs");
    }
    vm_inject_nmi(ctx->vm);
    return true;
}

bool qmp_quit(QmpContext *ctx, GError **error)
{
    if (ctx->set && ctx->set->only) { /* no machine whose end there is to tell of */
        vm_request_quit(ctx->vm, 0);
    } else {
        vm_request_shutdown(ctx->vm, SHUTDOWN_HOST_QMP_QUIT);
    }
    return true;
}

bool qmp_set_action(QmpContext *ctx, bool has_reboot, QapiRebootAction reboot, bool has_shutdown,
                    QapiShutdownAction shutdown, bool has_panic, QapiPanicAction panic, bool has_watchdog,
                    QapiWatchdogAction watchdog, GError **error)
{
    Vm *vm = ctx->vm;
    return (!has_reboot ||
            vm_set_action(vm, "reboot", enum_name(&qapi_RebootAction_lookup, (int)reboot), error)) &&
           (!has_shutdown ||
            vm_set_action(vm, "shutdown", enum_name(&qapi_ShutdownAction_lookup, (int)shutdown), error)) &&
           (!has_panic ||
            vm_set_action(vm, "panic", enum_name(&qapi_PanicAction_lookup, (int)panic), error)) &&
           (!has_watchdog ||
            vm_set_action(vm, "watchdog", enum_name(&qapi_WatchdogAction_lookup, (int)watchdog), error));
}

bool qmp_watchdog_set_action(QmpContext *ctx, QapiWatchdogAction action, GError **error)
{
    return vm_set_action(ctx->vm, "watchdog", enum_name(&qapi_WatchdogAction_lookup, (int)action), error);
}

/* ---- what the machine is ---- */

bool qmp_query_target(QmpContext *ctx, QapiTargetInfo **ret, GError **error)
{
    *ret = g_new0(QapiTargetInfo, 1);
    (*ret)->arch = QAPI_SYS_EMU_TARGET_X86_64;
    return true;
}

bool qmp_query_kvm(QmpContext *ctx, QapiKvmInfo **ret, GError **error)
{
    Accel *accel = vm_accel(ctx->vm);
    ObjectClass *kvm = object_class_by_name("kvm-accel");
    *ret = g_new0(QapiKvmInfo, 1);
    (*ret)->enabled = accel && object_dynamic_cast(OBJECT(accel), "kvm-accel");
    if ((*ret)->enabled && ACCEL_GET_CLASS(accel)->rescued) {
        (*ret)->has_rescued = true;
        (*ret)->rescued = ACCEL_GET_CLASS(accel)->rescued(accel);
    }
    (*ret)->present = kvm && (!((AccelClass *)kvm)->available || ((AccelClass *)kvm)->available(NULL));
    return true;
}

bool qmp_query_name(QmpContext *ctx, QapiNameInfo **ret, GError **error)
{
    *ret = g_new0(QapiNameInfo, 1);
    (*ret)->name = g_strdup(vm_name(ctx->vm));
    return true;
}

bool qmp_query_uuid(QmpContext *ctx, QapiUuidInfo **ret, GError **error)
{
    *ret = g_new0(QapiUuidInfo, 1);
    (*ret)->UUID = g_strdup(vm_uuid(ctx->vm));
    return true;
}

bool qmp_query_machines(QmpContext *ctx, GPtrArray **ret, GError **error)
{
    g_autoptr(GPtrArray) classes = machine_class_list();
    *ret = qapi_list_MachineInfo_new();
    for (guint i = 0; i < classes->len; i++) {
        const MachineClass *klass = g_ptr_array_index(classes, i);
        QapiMachineInfo *info = g_new0(QapiMachineInfo, 1);
        info->name = g_strdup(klass->name);
        info->alias = g_strdup(klass->alias);
        info->has_is_default = info->is_default = klass->is_default;
        info->cpu_max = klass->max_cpus ? klass->max_cpus : 1;
        info->hotpluggable_cpus = klass->hotpluggable_cpus;
        info->numa_mem_supported = klass->numa_mem_supported;
        info->deprecated = klass->deprecation_reason != NULL;
        info->default_cpu_type = g_strdup(klass->default_cpu_type);
        info->default_ram_id = g_strdup(klass->default_ram_id);
        info->acpi = !klass->no_cpus;
        g_ptr_array_add(*ret, info);
    }
    return true;
}

bool qmp_query_current_machine(QmpContext *ctx, QapiCurrentMachineParams **ret, GError **error)
{
    *ret = g_new0(QapiCurrentMachineParams, 1);
    return true;
}

/* ---- CPUs ---- */

static QapiCpuInstanceProperties *cpu_props(const X86Cpu *cpu)
{
    QapiCpuInstanceProperties *p = g_new0(QapiCpuInstanceProperties, 1);
    p->has_socket_id = cpu->socket_id >= 0;
    p->socket_id = cpu->socket_id;
    p->has_die_id = cpu->die_id >= 0 && cpu->dies > 1;
    p->die_id = cpu->die_id;
    p->has_core_id = cpu->core_id >= 0;
    p->core_id = cpu->core_id;
    p->has_thread_id = cpu->thread_id >= 0;
    p->thread_id = cpu->thread_id;
    return p;
}

bool qmp_query_cpus_fast(QmpContext *ctx, GPtrArray **ret, GError **error)
{
    VcpuSet *vcpus = vm_vcpus(ctx->vm);
    *ret = qapi_list_CpuInfoFast_new();
    for (unsigned i = 0; vcpus && i < vcpu_set_count(vcpus); i++) {
        X86Cpu *cpu = vcpu_set_get(vcpus, i);
        QapiCpuInfoFast *info = g_new0(QapiCpuInfoFast, 1);
        info->cpu_index = cpu->index;
        info->qom_path = object_get_canonical_path(OBJECT(cpu));
        info->thread_id = vcpu_thread_id(cpu);
        info->props = cpu_props(cpu);
        info->target = QAPI_SYS_EMU_TARGET_X86_64;
        g_ptr_array_add(*ret, info);
    }
    return true;
}

bool qmp_query_hotpluggable_cpus(QmpContext *ctx, GPtrArray **ret, GError **error)
{
    const Machine *machine = vm_machine(ctx->vm);
    if (!machine || !MACHINE_GET_CLASS(machine)->hotpluggable_cpus || !machine->cpu_slots) {
        return error_set(error, "machine does not support hot-plugging CPUs");
    }
    *ret = qapi_list_HotpluggableCPU_new();
    for (unsigned i = machine->smp.max_cpus; i-- > 0;) {
        const MachineCpuSlot *slot = &machine->cpu_slots[i];
        QapiHotpluggableCPU *info = g_new0(QapiHotpluggableCPU, 1);
        info->type = g_strdup(machine->cpu_type);
        info->vcpus_count = 1;
        info->props = g_new0(QapiCpuInstanceProperties, 1);
        info->props->has_socket_id = info->props->has_core_id = info->props->has_thread_id = true;
        info->props->socket_id = slot->socket_id;
        info->props->has_die_id = machine->smp.dies > 1;
        info->props->die_id = slot->die_id;
        info->props->core_id = slot->core_id;
        info->props->thread_id = slot->thread_id;
        info->qom_path = slot->cpu ? object_get_canonical_path(OBJECT(slot->cpu)) : NULL;
        g_ptr_array_add(*ret, info);
    }
    return true;
}

static bool latest_cpu_models(const QmpContext *ctx)
{
    const Machine *machine = vm_machine(ctx->vm);

    return machine && MACHINE_GET_CLASS(machine)->latest_cpu_models;
}

bool qmp_query_cpu_definitions(QmpContext *ctx, GPtrArray **ret, GError **error)
{
    g_autoptr(GPtrArray) classes = object_class_list(TYPE_X86_CPU, false);
    bool latest = latest_cpu_models(ctx);
    *ret = qapi_list_CpuDefinitionInfo_new();
    for (guint i = 0; i < classes->len; i++) {
        ObjectClass *klass = g_ptr_array_index(classes, i);
        const char *type = object_class_get_name(klass);
        QapiCpuDefinitionInfo *info = g_new0(QapiCpuDefinitionInfo, 1);
        const char *suffix = g_strrstr(type, "-" TYPE_X86_CPU);
        info->name = suffix ? g_strndup(type, (gsize)(suffix - type)) : g_strdup(type);
        info->typename = g_strdup(type);
        const X86CpuModel *model = ((X86CpuClass *)klass)->model;
        bool moves = model->everything;
        info->has_migration_safe = true;
        info->migration_safe = !moves;
        info->static_ = model->generation == NULL && !moves;
        if (latest && model->unversioned) {
            model = x86_cpu_model_find(model->latest);
            info->alias_of = g_strdup(model->name);
        } else {
            info->alias_of = g_strdup(model->alias_of);
        }
        g_autoptr(GPtrArray) missing = x86_cpu_unavailable_features(model);
        info->unavailable_features = qapi_list_str_new();
        for (guint k = 0; !moves && k < missing->len; k++) {
            g_ptr_array_add(info->unavailable_features, g_strdup(g_ptr_array_index(missing, k)));
        }
        g_ptr_array_add(*ret, info);
    }
    return true;
}

bool qmp_query_cpu_model_expansion(QmpContext *ctx, QapiCpuModelExpansionType type, QapiCpuModelInfo *model,
                                   QapiCpuModelExpansionInfo **ret, GError **error)
{
    bool full = type == QAPI_CPU_MODEL_EXPANSION_TYPE_FULL;
    if (model->props && !json_object_is_type(model->props, json_type_object)) {
        return error_set(error, "Invalid parameter type for 'model.props', expected: object");
    }
    const char *name = latest_cpu_models(ctx) ? x86_cpu_model_latest(model->name) : model->name;
    json_object *props = x86_cpu_model_expand(name, model->props, full, error);
    if (!props) {
        return false;
    }
    *ret = g_new0(QapiCpuModelExpansionInfo, 1);
    (*ret)->model = g_new0(QapiCpuModelInfo, 1);
    /* A static expansion is told in terms of a model that never changes: one without any feature. */
    (*ret)->model->name = g_strdup(full ? model->name : "base");
    (*ret)->model->props = props;
    return true;
}

/* ---- memory ---- */

bool qmp_query_memory_size_summary(QmpContext *ctx, QapiMemoryInfo **ret, GError **error)
{
    const Machine *machine = vm_machine(ctx->vm);
    *ret = g_new0(QapiMemoryInfo, 1);
    (*ret)->base_memory = machine ? machine->ram_size : 0;
    (*ret)->has_plugged_memory = true;
    return true;
}

bool qmp_query_memory_devices(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = json_object_new_array();
    return true;
}

typedef bool ReadMemory(void *opaque, uint64_t address, void *buffer, size_t size, GError **error);

/* Copies guest memory to a file page by page; the file is only made once the first page could be read. */
static bool save_memory(ReadMemory *read, void *opaque, int64_t address, int64_t size, const char *filename,
                        GError **error)
{
    if (size <= 0) {
        return error_set(error, "Parameter 'size' expects a positive number");
    }
    FILE *file = NULL;
    uint64_t at = (uint64_t)address, left = (uint64_t)size;
    bool ok = true;
    while (ok && left) {
        uint8_t page[4096];
        size_t chunk = MIN(left, sizeof(page) - (at & 4095));
        ok = read(opaque, at, page, chunk, error);
        if (ok && !file) {
            file = fopen(filename, "wbe");
            if (!file) {
                return error_set_errno(error, errno, "Could not open '%s'", filename);
            }
        }
        if (ok && fwrite(page, 1, chunk, file) != chunk) {
            ok = error_set_errno(error, errno, "Could not write '%s'", filename);
        }
        at += chunk;
        left -= chunk;
    }
    if (file && fclose(file) != 0 && ok) {
        ok = error_set_errno(error, errno, "Could not write '%s'", filename);
    }
    return ok;
}

static bool read_physical(void *opaque, uint64_t address, void *buffer, size_t size, GError **error)
{
    const Machine *machine = vm_machine(opaque);
    if (!machine || !machine->memory ||
        address_space_read(machine->memory, address, MEMTXATTRS_NONE, buffer, size) != MEMTX_OK) {
        return error_set(error, "Invalid addr 0x%016" PRIx64 "/size %zu specified", address, size);
    }
    return true;
}

bool qmp_pmemsave(QmpContext *ctx, int64_t val, int64_t size, const char *filename, GError **error)
{
    return save_memory(read_physical, ctx->vm, val, size, filename, error);
}

typedef struct VirtualRead {
    Vm *vm;
    X86Cpu *cpu;
} VirtualRead;

static bool read_virtual(void *opaque, uint64_t address, void *buffer, size_t size, GError **error)
{
    VirtualRead *r = opaque;
    if (!monitor_read_virtual(r->vm, r->cpu, address, buffer, size)) {
        return error_set(error, "Invalid addr 0x%016" PRIx64 "/size %zu specified", address, size);
    }
    return true;
}

bool qmp_memsave(QmpContext *ctx, int64_t val, int64_t size, const char *filename, bool has_cpu_index,
                 int64_t cpu_index, GError **error)
{
    VirtualRead r = { .vm = ctx->vm,
                      .cpu = monitor_cpu(ctx->set, has_cpu_index ? (uint64_t)cpu_index : 0, error) };
    if (!r.cpu) {
        return false;
    }
    vcpu_set_pause(vm_vcpus(ctx->vm));
    bool ok = save_memory(read_virtual, &r, val, size, filename, error);
    vcpu_set_resume(vm_vcpus(ctx->vm));
    return ok;
}

static uint64_t machine_ram_size(QmpContext *ctx)
{
    const Machine *machine = vm_machine(ctx->vm);
    return machine ? machine->ram_size : 0;
}

bool qmp_query_balloon(QmpContext *ctx, QapiBalloonInfo **ret, GError **error)
{
    int64_t actual;
    if (!virtio_balloon_query(vm_root(ctx->vm), machine_ram_size(ctx), &actual, error)) {
        return false;
    }
    *ret = g_new0(QapiBalloonInfo, 1);
    (*ret)->actual = actual;
    return true;
}

bool qmp_balloon(QmpContext *ctx, int64_t value, GError **error)
{
    return virtio_balloon_set_target(vm_root(ctx->vm), machine_ram_size(ctx), value, error);
}

bool qmp_query_vm_generation_id(QmpContext *ctx, QapiGuidInfo **ret, GError **error)
{
    char *guid = vmgenid_query(vm_root(ctx->vm), error);
    if (!guid) {
        return false;
    }
    *ret = g_new0(QapiGuidInfo, 1);
    (*ret)->guid = guid;
    return true;
}
