/*
 * The virtual machine's part in migrations: what must be the same on both sides, its disks, its run state.
 *
 * 1. While a state is taken or given (vm->frozen) the machine stands still, and requests wait.
 * 2. Disks are given up before the last byte leaves, and taken back before the machine runs again: two
 * programs never write an image at once. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/cpuid.h"
#include "base/error.h"
#include "vm/vm_internal.h"

#include <string.h>

/* ---- what the machine is ---- */

static void add_fact(GPtrArray *facts, const char *key, char *value)
{
    g_ptr_array_add(facts, g_strdup(key));
    g_ptr_array_add(facts, value);
}

static char *feature_list(const X86Cpu *cpu)
{
    GString *names = g_string_new(NULL);

    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        for (unsigned b = 0; b < 32; b++) {
            const char *name = cpuid_feature_name((FeatureWord)w, b);
            if (!(cpu->cpuid_features[w] >> b & 1)) {
                continue;
            }
            g_string_append(names, names->len ? " " : "");
            if (name) {
                g_string_append(names, name);
            } else {
                g_string_append_printf(names, "word%u.bit%u", w, b);
            }
        }
    }
    return g_string_free(names, FALSE);
}

static void add_cpu_facts(GPtrArray *facts, const X86Cpu *cpu)
{
    const X86CpuidState *id = cpu->cpuid;

    add_fact(facts, "cpu-vendor", g_strdup(id->vendor));
    add_fact(facts, "cpu-family", g_strdup_printf("%u", id->family));
    add_fact(facts, "cpu-model", g_strdup_printf("%u", id->model));
    add_fact(facts, "cpu-stepping", g_strdup_printf("%u", id->stepping));
    add_fact(facts, "cpu-address-bits", g_strdup_printf("%u", cpu->phys_bits));
    add_fact(facts, "cpu-tsc-khz", g_strdup_printf("%" G_GUINT64_FORMAT, cpu->tsc_khz));
    add_fact(facts, "cpu-features", feature_list(cpu));
}

GPtrArray *vm_state_facts(Vm *vm)
{
    GPtrArray *facts = g_ptr_array_new_with_free_func(g_free);
    const Machine *machine = vm->machine;

    if (machine) {
        add_fact(facts, "type", g_strdup(MACHINE_GET_CLASS(machine)->name));
        add_fact(facts, "memory", g_strdup_printf("%" G_GUINT64_FORMAT, machine->ram_size));
        add_fact(facts, "cpus", g_strdup_printf("%u", vm->vcpus ? vcpu_set_count(vm->vcpus) : 0));
        add_fact(facts, "topology",
                 g_strdup_printf("%u.%u.%u.%u", machine->smp.sockets, machine->smp.dies, machine->smp.cores,
                                 machine->smp.threads));
    }
    if (vm->vcpus && vcpu_set_count(vm->vcpus)) {
        add_cpu_facts(facts, vcpu_set_get(vm->vcpus, 0));
    }
    return facts;
}

StateMachine vm_describe_state(Vm *vm, GPtrArray *facts)
{
    return (StateMachine){ .root = vm->root, .clocks = vm->clocks, .vcpus = vm->vcpus, .facts = facts };
}

/* ---- disks ---- */

bool vm_take_disks(Vm *vm, GError **error)
{
    if (!vm->disks_given_up) {
        return true;
    }
    if (!block_nodes_activate(block_registry_graph(vm->blocks), error)) {
        error_append_hint(error, "Another machine may be using the disk.");
        return false;
    }
    vm->disks_given_up = false;
    block_drain_end(vm->disk_drain);
    vm->disk_drain = NULL;
    return true;
}

void vm_forget_disk_requests(Vm *vm)
{
    block_drain_end(vm->disk_drain); /* on nodes that are not ours: writes are refused */
    vm->disk_drain = NULL;
}

/* Requests under way end; then the images are as they would be after a clean exit. What devices ask for later
 * (the next piece of a long transfer) waits: the other side asks for it again, or we do with our disks back.
 */
static bool give_up_disks(Vm *vm, GError **error)
{
    vm->disks_given_up = true;
    vm->disk_drain = block_drain_all_begin(block_registry_graph(vm->blocks));
    return block_nodes_inactivate(block_registry_graph(vm->blocks), error);
}

/* ---- outgoing ---- */

void vm_unfreeze(Vm *vm)
{
    vm->frozen = false;
    bh_schedule(vm->request_bh); /* what was asked for meanwhile */
}

void vm_go_on(Vm *vm)
{
    GError *error = NULL;
    bool was_running = vm->before_freeze == RUN_STATE_RUNNING;

    vm_set_run_state(vm, was_running ? RUN_STATE_PAUSED : vm->before_freeze);
    if (!(was_running ? vm_start(vm, &error) : vm_take_disks(vm, &error))) {
        error_prefix(&error, "the machine cannot go on: ");
        error_report(error);
        g_clear_error(&error);
    }
}

void vm_freeze(Vm *vm, RunState state)
{
    vm->before_freeze = vm_run_state(vm);
    vm->frozen = true;
    if (vm_running(vm)) {
        vm_stop(vm, state);
    } else {
        vm_set_run_state(vm, state);
    }
}

static SavedState *host_freeze(void *opaque, GError **error)
{
    Vm *vm = opaque;

    vm_freeze(vm, RUN_STATE_FINISH_MIGRATE);
    g_autoptr(GPtrArray) facts = vm_state_facts(vm);
    StateMachine machine = vm_describe_state(vm, facts);
    SavedState *state = NULL;
    if (give_up_disks(vm, error)) {
        state = state_collect(&machine, enum_name(&run_state_lookup, (int)vm->before_freeze), error);
    }
    if (!state) {
        vm_unfreeze(vm);
        vm_go_on(vm);
    }
    return state;
}

static void host_thaw(void *opaque, bool completed)
{
    Vm *vm = opaque;

    vm_unfreeze(vm);
    if (completed) {
        vm_set_run_state(vm, RUN_STATE_POSTMIGRATE);
    } else {
        vm_go_on(vm);
    }
}

bool vm_migrate(Vm *vm, const char *uri, GError **error)
{
    RunState state = vm_run_state(vm);

    if (vm->incoming || state == RUN_STATE_INMIGRATE) {
        return error_set(error, "Guest is waiting for an incoming migration");
    }
    if (state == RUN_STATE_POSTMIGRATE) {
        return error_set(error, "Can't migrate the vm that was paused due to previous migration");
    }
    if (vm->frozen) {
        return error_set(error, "There's a migration process in progress");
    }
    return migration_start(vm->migration, uri, error);
}

/* ---- incoming ---- */

void vm_expect_incoming(Vm *vm)
{
    vm->incoming = true;
    vm->frozen = true;
    vm->disks_given_up = true;
    vm_set_run_state(vm, RUN_STATE_INMIGRATE);
    block_graph_open_inactive(block_registry_graph(vm->blocks));
}

void vm_set_autostart(Vm *vm, bool on)
{
    vm->autostart = on;
}

bool vm_migrate_incoming(Vm *vm, const char *uri, GError **error)
{
    if (!vm->incoming) {
        return error_set(error, "'-incoming' was not specified on the command line");
    }
    if (vm->incoming_started) {
        return error_set(error, "The incoming migration has already been started");
    }
    vm->incoming_started = migration_listen(vm->migration, uri, error);
    return vm->incoming_started;
}

static SavedState *host_expect(void *opaque)
{
    Vm *vm = opaque;
    g_autoptr(GPtrArray) facts = vm_state_facts(vm);
    StateMachine machine = vm_describe_state(vm, facts);

    return state_expect(&machine);
}

/* The state that a machine which did not run is in; one of those that mean something here. */
static RunState arrived_state(const char *name)
{
    static const RunState kept[] = { RUN_STATE_SHUTDOWN,  RUN_STATE_INTERNAL_ERROR, RUN_STATE_IO_ERROR,
                                     RUN_STATE_SUSPENDED, RUN_STATE_GUEST_PANICKED, RUN_STATE_WATCHDOG };

    for (size_t i = 0; i < G_N_ELEMENTS(kept); i++) {
        if (g_strcmp0(name, enum_name(&run_state_lookup, (int)kept[i])) == 0) {
            return kept[i];
        }
    }
    return RUN_STATE_PAUSED;
}

bool vm_apply_state(Vm *vm, SavedState *state, GError **error)
{
    StateMachine machine = vm_describe_state(vm, NULL);

    vm_tell_running(vm, false); /* devices do nothing by themselves until they are told otherwise */
    return state_apply(&machine, state, error);
}

static bool host_arrive(void *opaque, SavedState *state, GError **error)
{
    Vm *vm = opaque;
    bool ran = g_strcmp0(state->run_state, "running") == 0;

    if (!vm_apply_state(vm, state, error)) {
        return false;
    }
    vm->incoming = false;
    vm_unfreeze(vm);
    vm_set_run_state(vm, arrived_state(state->run_state));
    return ran && vm->autostart ? vm_start(vm, error) : vm_take_disks(vm, error);
}

static void host_lost(void *opaque, const GError *error)
{
    GError *copy = g_error_copy(error);

    error_prefix(&copy, "load of migration failed: ");
    error_report(copy);
    g_error_free(copy);
    vm_request_quit(opaque, EXIT_FAILURE);
}

/* ---- both ---- */

static void host_status_changed(void *opaque, MigrationStatus status)
{
    Vm *vm = opaque;

    if (vm->migrate_events) {
        json_object *data = json_object_new_object();
        json_object_object_add(data, "status", json_object_new_string(migration_status_name(status)));
        vm_emit_event(vm, "MIGRATION", data);
    }
}

void vm_migration_init(Vm *vm)
{
    MigrationHost host = {
        .loop = vm->loop,
        .fds = vm->fds,
        .opaque = vm,
        .freeze = host_freeze,
        .thaw = host_thaw,
        .expect = host_expect,
        .arrive = host_arrive,
        .lost = host_lost,
        .status_changed = host_status_changed,
    };

    vm->migration = migration_new(&host);
}

Migration *vm_migration(Vm *vm)
{
    return vm->migration;
}

void vm_set_migrate_events(Vm *vm, bool on)
{
    vm->migrate_events = on;
}

bool vm_migrate_events(Vm *vm)
{
    return vm->migrate_events;
}
