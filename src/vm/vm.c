/*
 * The virtual machine's life: run states, requests, events.
 *
 * 1. The run state changes in the main loop's thread only; others may read it (run_state is atomic).
 * 2. vCPUs run and virtual time passes exactly while the state is "running".
 * 3. Requests are kept under request_lock and executed by one bottom half, in a fixed order: suspend,
 * shutdown, reset, wake-up, power button, stop, quit.
 * 4. Events are delivered in the order of their making, in the main loop's thread.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "vm/vm.h"

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "vm/vm_internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

static const char *const run_state_names[RUN_STATE_COUNT] = {
    [RUN_STATE_DEBUG] = "debug",
    [RUN_STATE_INMIGRATE] = "inmigrate",
    [RUN_STATE_INTERNAL_ERROR] = "internal-error",
    [RUN_STATE_IO_ERROR] = "io-error",
    [RUN_STATE_PAUSED] = "paused",
    [RUN_STATE_POSTMIGRATE] = "postmigrate",
    [RUN_STATE_PRELAUNCH] = "prelaunch",
    [RUN_STATE_FINISH_MIGRATE] = "finish-migrate",
    [RUN_STATE_RESTORE_VM] = "restore-vm",
    [RUN_STATE_RUNNING] = "running",
    [RUN_STATE_SAVE_VM] = "save-vm",
    [RUN_STATE_SHUTDOWN] = "shutdown",
    [RUN_STATE_SUSPENDED] = "suspended",
    [RUN_STATE_WATCHDOG] = "watchdog",
    [RUN_STATE_GUEST_PANICKED] = "guest-panicked",
    [RUN_STATE_COLO] = "colo",
};
const EnumLookup run_state_lookup = { .name = "RunState",
                                      .names = run_state_names,
                                      .count = RUN_STATE_COUNT };

static const char *const shutdown_cause_names[] = {
    [SHUTDOWN_NONE] = "none",
    [SHUTDOWN_HOST_ERROR] = "host-error",
    [SHUTDOWN_HOST_QMP_QUIT] = "host-qmp-quit",
    [SHUTDOWN_HOST_QMP_SYSTEM_RESET] = "host-qmp-system-reset",
    [SHUTDOWN_HOST_SIGNAL] = "host-signal",
    [SHUTDOWN_HOST_UI] = "host-ui",
    [SHUTDOWN_GUEST_SHUTDOWN] = "guest-shutdown",
    [SHUTDOWN_GUEST_RESET] = "guest-reset",
    [SHUTDOWN_GUEST_PANIC] = "guest-panic",
    [SHUTDOWN_SUBSYSTEM_RESET] = "subsystem-reset",
};

/* ---- events ---- */

typedef struct VmEvent {
    char *name;
    json_object *data;
    int64_t realtime_us;
} VmEvent;

typedef struct VmSink {
    VmEventSink *fn;
    void *opaque;
} VmSink;

static void vm_deliver_events(Vm *vm)
{
    if (vm->delivering) {
        return; /* a sink that makes an event: the outer loop below takes it */
    }
    vm->delivering = true;
    for (;;) {
        g_mutex_lock(&vm->event_lock);
        VmEvent *event = g_queue_pop_head(&vm->events);
        g_mutex_unlock(&vm->event_lock);
        if (!event) {
            break;
        }
        for (guint i = 0; i < vm->sinks->len; i++) {
            VmSink *sink = vm->sinks->pdata[i];
            sink->fn(sink->opaque, event->name, event->data, event->realtime_us / 1000000,
                     event->realtime_us % 1000000);
        }
        g_free(event->name);
        json_object_put(event->data);
        g_free(event);
    }
    vm->delivering = false;
}

void vm_emit_event(Vm *vm, const char *name, json_object *data)
{
    VmEvent *event = g_new0(VmEvent, 1);

    event->name = g_strdup(name);
    event->data = data;
    event->realtime_us = g_get_real_time();
    g_mutex_lock(&vm->event_lock);
    g_queue_push_tail(&vm->events, event);
    g_mutex_unlock(&vm->event_lock);
    if (g_thread_self() == vm->thread) {
        vm_deliver_events(vm);
    } else {
        bh_schedule(vm->request_bh);
    }
}

void vm_add_event_sink(Vm *vm, VmEventSink *fn, void *opaque)
{
    VmSink *sink = g_new0(VmSink, 1);

    sink->fn = fn;
    sink->opaque = opaque;
    g_ptr_array_add(vm->sinks, sink);
}

void vm_remove_event_sink(Vm *vm, VmEventSink *fn, void *opaque)
{
    for (guint i = 0; i < vm->sinks->len; i++) {
        VmSink *sink = vm->sinks->pdata[i];
        if (sink->fn == fn && sink->opaque == opaque) {
            g_ptr_array_remove_index(vm->sinks, i);
            return;
        }
    }
}

static void vm_emit_cause(Vm *vm, const char *event, ShutdownCause cause)
{
    json_object *data = json_object_new_object();

    json_object_object_add(data, "guest", json_object_new_boolean(cause >= SHUTDOWN_GUEST_SHUTDOWN));
    json_object_object_add(data, "reason", json_object_new_string(shutdown_cause_names[cause]));
    vm_emit_event(vm, event, data);
}

/* ---- run state ---- */

typedef struct VmRunHandler {
    void (*fn)(void *opaque, bool running);
    void *opaque;
} VmRunHandler;

typedef struct VmPowerdownHandler {
    void (*fn)(void *opaque);
    void *opaque;
} VmPowerdownHandler;

RunState vm_run_state(Vm *vm)
{
    return __atomic_load_n(&vm->run_state, __ATOMIC_ACQUIRE);
}

bool vm_running(Vm *vm)
{
    return vm_run_state(vm) == RUN_STATE_RUNNING;
}

void vm_set_run_state(Vm *vm, RunState state)
{
    __atomic_store_n(&vm->run_state, state, __ATOMIC_RELEASE);
}

void vm_tell_running(Vm *vm, bool running)
{
    input_registry_set_running(vm->inputs, running);
    for (guint i = 0; i < vm->run_handlers->len; i++) {
        /* Back ends start first and stop last: the order turns round. */
        VmRunHandler *h = vm->run_handlers->pdata[running ? i : vm->run_handlers->len - 1 - i];
        h->fn(h->opaque, running);
    }
}

static void vm_set_in_motion(Vm *vm)
{
    vm_set_run_state(vm, RUN_STATE_RUNNING);
    clock_set_run(vm->clocks, true);
    vm_tell_running(vm, true);
    if (vm->vcpus) {
        vcpu_set_resume(vm->vcpus);
    }
}

void vm_bring_to_rest(Vm *vm, RunState state)
{
    if (vm->vcpus) {
        vcpu_set_pause(vm->vcpus);
    }
    clock_set_run(vm->clocks, false);
    vm_tell_running(vm, false);
    vm_set_run_state(vm, state);
}

bool vm_start(Vm *vm, GError **error)
{
    switch (vm_run_state(vm)) {
    case RUN_STATE_RUNNING:
    case RUN_STATE_SUSPENDED:
        return true;
    case RUN_STATE_INTERNAL_ERROR:
    case RUN_STATE_SHUTDOWN:
        return error_set(error, "Resetting the Virtual Machine is required");
    case RUN_STATE_INMIGRATE:
        return error_set_class(error, ERROR_CLASS_MIGRATION_EXPECTED,
                               "Guest is waiting for an incoming migration");
    case RUN_STATE_FINISH_MIGRATE:
    case RUN_STATE_SAVE_VM:
    case RUN_STATE_RESTORE_VM:
        return error_set(error, "Migration is not finalized yet");
    default:
        break;
    }
    if (!vm_take_disks(vm, error)) {
        return false;
    }
    vm_emit_event(vm, "RESUME", NULL);
    vm_set_in_motion(vm);
    return true;
}

void vm_stop(Vm *vm, RunState state)
{
    if (!vm_running(vm)) {
        /* From one stop to a graver one. */
        if (state == RUN_STATE_SHUTDOWN || state == RUN_STATE_INTERNAL_ERROR) {
            vm_set_run_state(vm, state);
        }
        return;
    }
    vm_bring_to_rest(vm, state);
    vm_emit_event(vm, "STOP", NULL);
}

void vm_add_run_handler(Vm *vm, void (*fn)(void *opaque, bool running), void *opaque)
{
    VmRunHandler *h = g_new0(VmRunHandler, 1);

    h->fn = fn;
    h->opaque = opaque;
    g_ptr_array_add(vm->run_handlers, h);
}

/* ---- requests ---- */

void vm_request_stop(Vm *vm, RunState state)
{
    g_mutex_lock(&vm->request_lock);
    vm->requests.stop = true;
    vm->requests.stop_state = state;
    g_mutex_unlock(&vm->request_lock);
    bh_schedule(vm->request_bh);
}

void vm_request_reset(Vm *vm, ShutdownCause cause)
{
    g_mutex_lock(&vm->request_lock);
    if (vm->reboot_action == VM_REBOOT_SHUTDOWN && cause != SHUTDOWN_SUBSYSTEM_RESET) {
        vm->requests.shutdown = cause;
    } else {
        vm->requests.reset = cause;
    }
    g_mutex_unlock(&vm->request_lock);
    bh_schedule(vm->request_bh);
}

void vm_request_shutdown(Vm *vm, ShutdownCause cause)
{
    g_mutex_lock(&vm->request_lock);
    vm->requests.shutdown = cause;
    if (cause == SHUTDOWN_HOST_SIGNAL || cause == SHUTDOWN_HOST_QMP_QUIT || cause == SHUTDOWN_HOST_UI) {
        vm->requests.must_end = true; /* -no-shutdown is about the guest's wishes */
    }
    g_mutex_unlock(&vm->request_lock);
    bh_schedule(vm->request_bh);
}

void vm_request_powerdown(Vm *vm)
{
    g_mutex_lock(&vm->request_lock);
    vm->requests.powerdown = true;
    g_mutex_unlock(&vm->request_lock);
    bh_schedule(vm->request_bh);
}

void vm_request_wakeup(Vm *vm)
{
    g_mutex_lock(&vm->request_lock);
    vm->requests.wakeup = true;
    g_mutex_unlock(&vm->request_lock);
    bh_schedule(vm->request_bh);
}

void vm_request_quit(Vm *vm, int status)
{
    g_mutex_lock(&vm->request_lock);
    if (!vm->requests.quit) {
        vm->requests.quit = true;
        vm->requests.status = status;
    }
    g_mutex_unlock(&vm->request_lock);
    bh_schedule(vm->request_bh);
}

static void vm_request_panic(Vm *vm, bool crash_loaded)
{
    g_mutex_lock(&vm->request_lock);
    *(crash_loaded ? &vm->requests.crash_loaded : &vm->requests.panic) = true;
    g_mutex_unlock(&vm->request_lock);
    bh_schedule(vm->request_bh);
}

void vm_guest_panicked(Vm *vm, bool crash_loaded)
{
    vm_request_panic(vm, crash_loaded);
}

void vm_watchdog_expired(Vm *vm)
{
    g_mutex_lock(&vm->request_lock);
    vm->requests.watchdog = true;
    g_mutex_unlock(&vm->request_lock);
    bh_schedule(vm->request_bh);
}

static void vm_end(Vm *vm, int status)
{
    if (!vm->ended) {
        vm->ended = true;
        vm->exit_status = status;
        loop_quit(vm->loop);
    }
}

void vm_inject_nmi(Vm *vm)
{
    if (vm->machine && vm->machine->apic_bus) {
        apic_bus_nmi(vm->machine->apic_bus);
    }
}

static void vm_do_shutdown(Vm *vm, ShutdownCause cause, bool must_end)
{
    vm_emit_cause(vm, "SHUTDOWN", cause);
    if (vm->shutdown_action == VM_SHUTDOWN_PAUSE && !must_end) {
        vm_stop(vm, RUN_STATE_SHUTDOWN);
        return;
    }
    int status = EXIT_SUCCESS;
    if (cause == SHUTDOWN_GUEST_PANIC && vm->panic_action == VM_PANIC_EXIT_FAILURE) {
        status = EXIT_FAILURE;
    }
    vm_end(vm, status);
}

static void vm_do_reset(Vm *vm, ShutdownCause cause)
{
    if (vm->vcpus) {
        vcpu_set_pause(vm->vcpus);
    }
    if (vm->machine && vm->machine->built) {
        machine_reset(vm->machine);
    }
    if (cause != SHUTDOWN_SUBSYSTEM_RESET) {
        vm_emit_cause(vm, "RESET", cause);
    }
    RunState state = vm_run_state(vm);
    if (state == RUN_STATE_SUSPENDED) {
        vm_set_in_motion(vm);
    } else if (state != RUN_STATE_RUNNING && state != RUN_STATE_INMIGRATE) {
        vm_set_run_state(vm, RUN_STATE_PRELAUNCH);
    }
    if (vm->vcpus) {
        vcpu_set_resume(vm->vcpus);
    }
}

static void vm_do_panic(Vm *vm, bool crash_loaded)
{
    const char *action = vm->panic_action == VM_PANIC_PAUSE  ? "pause"
                         : vm->panic_action == VM_PANIC_NONE ? "run"
                                                             : "poweroff";
    json_object *data = json_object_new_object();

    if (crash_loaded) {
        action = "run"; /* a crash kernel takes over */
    }
    json_object_object_add(data, "action", json_object_new_string(action));
    vm_emit_event(vm, crash_loaded ? "GUEST_CRASHLOADED" : "GUEST_PANICKED", data);
    if (crash_loaded || vm->panic_action == VM_PANIC_NONE) {
        return;
    }
    vm_stop(vm, RUN_STATE_GUEST_PANICKED);
    if (vm->panic_action != VM_PANIC_PAUSE) {
        vm_do_shutdown(vm, SHUTDOWN_GUEST_PANIC, true);
    }
}

static const char *const watchdog_names[] = {
    [VM_WATCHDOG_RESET] = "reset",       [VM_WATCHDOG_SHUTDOWN] = "shutdown",
    [VM_WATCHDOG_POWEROFF] = "poweroff", [VM_WATCHDOG_PAUSE] = "pause",
    [VM_WATCHDOG_DEBUG] = "debug",       [VM_WATCHDOG_NONE] = "none",
    [VM_WATCHDOG_NMI] = "inject-nmi",    NULL,
};

static void vm_powerdown(Vm *vm)
{
    vm_emit_event(vm, "POWERDOWN", NULL);
    for (guint i = 0; i < vm->powerdown_handlers->len; i++) {
        VmPowerdownHandler *h = vm->powerdown_handlers->pdata[i];
        h->fn(h->opaque);
    }
}

static void vm_do_watchdog(Vm *vm)
{
    json_object *data = json_object_new_object();

    json_object_object_add(data, "action", json_object_new_string(watchdog_names[vm->watchdog_action]));
    vm_emit_event(vm, "WATCHDOG", data);
    switch (vm->watchdog_action) {
    case VM_WATCHDOG_RESET:
        vm_do_reset(vm, SHUTDOWN_GUEST_RESET);
        break;
    case VM_WATCHDOG_SHUTDOWN:
        vm_powerdown(vm);
        break;
    case VM_WATCHDOG_POWEROFF:
        vm_do_shutdown(vm, SHUTDOWN_GUEST_SHUTDOWN, true);
        break;
    case VM_WATCHDOG_PAUSE:
        vm_stop(vm, RUN_STATE_WATCHDOG);
        break;
    case VM_WATCHDOG_DEBUG:
        log_warning("the guest's watchdog ran out");
        break;
    case VM_WATCHDOG_NMI:
        vm_inject_nmi(vm);
        break;
    default:
        break;
    }
}

static void vm_process_requests(void *opaque)
{
    Vm *vm = opaque;

    vm_deliver_events(vm);
    if (vm->ended) {
        return;
    }
    g_mutex_lock(&vm->request_lock);
    VmRequests r = vm->requests;
    memset(&vm->requests, 0, sizeof(vm->requests));
    g_mutex_unlock(&vm->request_lock);
    if (r.quit) {
        if (vm_running(vm)) {
            vm_bring_to_rest(vm, RUN_STATE_SHUTDOWN);
        }
        vm_end(vm, r.status);
        return;
    }
    if (vm->frozen) {
        bool must_end = r.must_end;
        if (!must_end) { /* the rest waits until the state is where it is to be */
            g_mutex_lock(&vm->request_lock);
            vm->requests = r;
            g_mutex_unlock(&vm->request_lock);
            return;
        }
    }
    if (r.panic || r.crash_loaded) {
        vm_do_panic(vm, !r.panic);
    }
    if (r.watchdog) {
        vm_do_watchdog(vm);
    }
    if (r.suspend && vm_running(vm)) {
        vm_bring_to_rest(vm, RUN_STATE_SUSPENDED);
        vm_emit_event(vm, "SUSPEND", NULL);
    }
    if (r.shutdown) {
        vm_do_shutdown(vm, r.shutdown, r.must_end);
        if (vm->ended) {
            return;
        }
    }
    if (r.reset) {
        vm_do_reset(vm, r.reset);
    }
    if (r.wakeup && vm_run_state(vm) == RUN_STATE_SUSPENDED) {
        /* Without firmware there is no resume vector to call: the machine starts anew. */
        vm_emit_event(vm, "WAKEUP", NULL);
        vm_do_reset(vm, SHUTDOWN_SUBSYSTEM_RESET);
    }
    if (r.powerdown) {
        vm_powerdown(vm);
    }
    if (r.stop) {
        vm_stop(vm, r.stop_state);
    }
}

/* ---- what devices may ask ---- */

static void service_reset(void *opaque, ShutdownCause cause)
{
    vm_request_reset(opaque, cause);
}

static void service_shutdown(void *opaque, ShutdownCause cause)
{
    if (cause == SHUTDOWN_GUEST_PANIC) {
        vm_request_panic(opaque, false);
    } else {
        vm_request_shutdown(opaque, cause);
    }
}

static void service_internal_error(void *opaque)
{
    vm_request_stop(opaque, RUN_STATE_INTERNAL_ERROR);
}

static void service_exit(void *opaque, int status)
{
    vm_request_quit(opaque, status);
}

static void service_suspend(void *opaque)
{
    Vm *vm = opaque;

    g_mutex_lock(&vm->request_lock);
    vm->requests.suspend = true;
    g_mutex_unlock(&vm->request_lock);
    bh_schedule(vm->request_bh);
}

static void service_wakeup(void *opaque)
{
    vm_request_wakeup(opaque);
}

static void service_watchdog_expired(void *opaque)
{
    vm_watchdog_expired(opaque);
}

static void service_add_powerdown_handler(void *opaque, void (*fn)(void *dev), void *dev)
{
    Vm *vm = opaque;
    VmPowerdownHandler *h = g_new0(VmPowerdownHandler, 1);

    h->fn = fn;
    h->opaque = dev;
    g_ptr_array_add(vm->powerdown_handlers, h);
}

static void service_add_run_handler(void *opaque, void (*fn)(void *dev, bool running), void *dev)
{
    vm_add_run_handler(opaque, fn, dev);
}

static void service_remove_handlers(void *opaque, void *dev)
{
    Vm *vm = opaque;

    for (guint i = vm->run_handlers->len; i-- > 0;) {
        if (((VmRunHandler *)vm->run_handlers->pdata[i])->opaque == dev) {
            g_ptr_array_remove_index(vm->run_handlers, i);
        }
    }
    for (guint i = vm->powerdown_handlers->len; i-- > 0;) {
        if (((VmPowerdownHandler *)vm->powerdown_handlers->pdata[i])->opaque == dev) {
            g_ptr_array_remove_index(vm->powerdown_handlers, i);
        }
    }
}

static void service_emit_event(void *opaque, const char *event, json_object *data)
{
    vm_emit_event(opaque, event, data);
}

/* ---- actions ---- */

static const char *const reboot_names[] = {
    [VM_REBOOT_RESET] = "reset", [VM_REBOOT_SHUTDOWN] = "shutdown", NULL
};
static const char *const shutdown_names[] = {
    [VM_SHUTDOWN_POWEROFF] = "poweroff", [VM_SHUTDOWN_PAUSE] = "pause", NULL
};
static const char *const panic_names[] = {
    [VM_PANIC_SHUTDOWN] = "shutdown",
    [VM_PANIC_PAUSE] = "pause",
    [VM_PANIC_EXIT_FAILURE] = "exit-failure",
    [VM_PANIC_NONE] = "none",
    NULL,
};

bool vm_set_action(Vm *vm, const char *event, const char *action, GError **error)
{
    static const char *const events[] = { "reboot", "shutdown", "panic", "watchdog", NULL };
    struct {
        const char *const *names;
        int *value;
    } const tables[] = {
        { reboot_names, &vm->reboot_action },
        { shutdown_names, &vm->shutdown_action },
        { panic_names, &vm->panic_action },
        { watchdog_names, &vm->watchdog_action },
    };

    for (int e = 0; events[e]; e++) {
        if (strcmp(events[e], event) != 0) {
            continue;
        }
        for (int a = 0; tables[e].names[a]; a++) {
            if (strcmp(tables[e].names[a], action) == 0) {
                g_mutex_lock(&vm->request_lock);
                *tables[e].value = a;
                g_mutex_unlock(&vm->request_lock);
                return true;
            }
        }
        error_set(error, "Parameter '%s' does not accept value '%s'", event, action);
        nearest_hint(error, action, tables[e].names);
        return false;
    }
    error_set(error, "Invalid parameter '%s'", event);
    nearest_hint(error, event, events);
    return false;
}

/* ---- signals ---- */

static void vm_on_signal(void *opaque)
{
    Vm *vm = opaque;
    struct signalfd_siginfo info;

    while (read(vm->signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGINT || info.ssi_signo == SIGTERM || info.ssi_signo == SIGHUP) {
            if (info.ssi_pid) {
                log_info("terminating on signal %u from pid %u", info.ssi_signo, info.ssi_pid);
            } else {
                log_info("terminating on signal %u", info.ssi_signo);
            }
            vm_request_shutdown(vm, SHUTDOWN_HOST_SIGNAL);
        }
    }
}

static void vm_block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* ---- life ---- */

static void vm_quit_key(void *opaque)
{
    vm_request_shutdown(opaque, SHUTDOWN_HOST_UI);
}

static void vm_on_block_error(void *opaque, BlockBackend *bb, const char *qdev, const char *node_name,
                              bool is_read, BlockErrorAction action, int error)
{
    static const char *const names[] = {
        [BLOCK_ERROR_REPORT] = "report", [BLOCK_ERROR_IGNORE] = "ignore", [BLOCK_ERROR_STOP] = "stop"
    };
    Vm *vm = opaque;
    json_object *data = json_object_new_object();

    json_object_object_add(data, "device", json_object_new_string(bb_name(bb)));
    json_object_object_add(data, "qom-path", json_object_new_string(qdev ? qdev : ""));
    if (node_name) {
        json_object_object_add(data, "node-name", json_object_new_string(node_name));
    }
    json_object_object_add(data, "operation", json_object_new_string(is_read ? "read" : "write"));
    json_object_object_add(data, "action", json_object_new_string(names[action]));
    if (action == BLOCK_ERROR_STOP) {
        json_object_object_add(data, "nospace", json_object_new_boolean(error == ENOSPC));
    }
    json_object_object_add(data, "reason", json_object_new_string(g_strerror(error)));
    vm_emit_event(vm, "BLOCK_IO_ERROR", data);
    if (action == BLOCK_ERROR_STOP) {
        vm_request_stop(vm, RUN_STATE_IO_ERROR);
    }
}

static void vm_on_block_event(void *opaque, const char *event, json_object *data)
{
    vm_emit_event(opaque, event, data);
}

Vm *vm_new(GError **error)
{
    Loop *loop = loop_new(NULL, error);

    if (!loop) {
        return NULL;
    }
    Vm *vm = g_new0(Vm, 1);
    sigset_t signals;
    vm_block_signals(&signals);
    vm->loop = loop;
    vm->thread = g_thread_self();
    vm->run_state = RUN_STATE_PRELAUNCH;
    g_mutex_init(&vm->request_lock);
    g_mutex_init(&vm->event_lock);
    g_queue_init(&vm->events);
    vm->sinks = g_ptr_array_new_with_free_func(g_free);
    vm->run_handlers = g_ptr_array_new_with_free_func(g_free);
    vm->powerdown_handlers = g_ptr_array_new_with_free_func(g_free);
    vm->displays = display_registry_new();
    vm->globals = g_ptr_array_new();
    vm->firmware_dirs = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(vm->firmware_dirs, NULL);
    vm->root = object_root_new();
    vm->clocks = clock_set_new();
    vm->inputs = input_registry_new(loop, vm->clocks);
    input_registry_set_running(vm->inputs, false);
    vm->request_bh = bh_new(loop, vm_process_requests, vm, NULL);
    vm->services = (VmServices){
        .request_reset = service_reset,
        .request_shutdown = service_shutdown,
        .internal_error = service_internal_error,
        .request_exit = service_exit,
        .request_suspend = service_suspend,
        .request_wakeup = service_wakeup,
        .watchdog_expired = service_watchdog_expired,
        .add_powerdown_handler = service_add_powerdown_handler,
        .add_run_handler = service_add_run_handler,
        .remove_handlers = service_remove_handlers,
        .emit_event = service_emit_event,
        .opaque = vm,
    };
    vm->signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (vm->signal_fd >= 0) {
        vm->signal_watch = loop_add_fd(loop, vm->signal_fd, vm_on_signal, NULL, NULL, vm, NULL);
    }
    vm->fds = fd_table_new();
    vm->chardevs = chardev_registry_new(loop, vm->fds);
    chardev_property_set_registry(vm->chardevs);
    chardev_registry_set_quit(vm->chardevs, vm_quit_key, vm);
    vm->blocks = block_registry_new(loop, vm->fds);
    block_property_set_registry(vm->blocks);
    block_registry_set_error_hook(vm->blocks, vm_on_block_error, vm);
    block_graph_set_event_hook(block_registry_graph(vm->blocks), vm_on_block_event, vm);
    block_graph_set_objects(block_registry_graph(vm->blocks), vm->root);
    vm->vnc = vnc_set_new(&(VncEnv){ .loop = loop,
                                     .displays = vm->displays,
                                     .inputs = vm->inputs,
                                     .fds = vm->fds,
                                     .root = vm->root,
                                     .emit_event = service_emit_event,
                                     .opaque = vm });
    vm->nets = net_registry_new(loop, vm->fds);
    net_property_set_registry(vm->nets);
    vm_migration_init(vm);
    return vm;
}

void vm_free(Vm *vm)
{
    if (!vm) {
        return;
    }
    vm_forget_disk_requests(vm);
    migration_free(vm->migration);
    vm->migration = NULL;
    if (vm_running(vm)) {
        vm_bring_to_rest(vm, RUN_STATE_SHUTDOWN);
    }
    vm_deliver_events(vm);
    vnc_set_free(vm->vnc);
    vcpu_set_free(vm->vcpus);
    vm->vcpus = NULL;
    if (vm->machine) {
        machine_fini(vm->machine);
    }
    object_unref(vm->root); /* with /machine and /objects below it */
    object_unref(OBJECT(vm->accel));
    net_property_set_registry(NULL);
    net_registry_free(vm->nets);
    display_registry_free(vm->displays);
    input_registry_free(vm->inputs);
    block_property_set_registry(NULL);
    block_registry_free(vm->blocks);
    chardev_property_set_registry(NULL);
    chardev_registry_free(vm->chardevs);
    fd_table_free(vm->fds);
    if (vm->signal_watch) {
        loop_remove_fd(vm->signal_watch);
    }
    if (vm->signal_fd >= 0) {
        close(vm->signal_fd);
    }
    bh_free(vm->request_bh);
    clock_set_free(vm->clocks);
    loop_free(vm->loop);
    for (guint i = 0; i < vm->globals->len; i++) {
        g_free(vm->globals->pdata[i]);
    }
    g_ptr_array_unref(vm->globals);
    g_ptr_array_unref(vm->firmware_dirs);
    g_ptr_array_unref(vm->sinks);
    g_ptr_array_unref(vm->run_handlers);
    g_ptr_array_unref(vm->powerdown_handlers);
    g_mutex_clear(&vm->request_lock);
    g_mutex_clear(&vm->event_lock);
    g_free(vm->name);
    g_free(vm);
}

bool vm_create_machine(Vm *vm, const char *name, GError **error)
{
    MachineClass *klass = machine_class_find(name, error);
    if (!klass) {
        return false;
    }
    GPtrArray *compat = g_ptr_array_new();
    machine_append_compat(klass, compat);
    for (guint i = 0; i < compat->len; i++) { /* before -global's, which win */
        GlobalProperty *copy = g_new0(GlobalProperty, 1);
        *copy = *(GlobalProperty *)compat->pdata[i];
        g_ptr_array_insert(vm->globals, i, copy);
    }
    g_ptr_array_unref(compat);
    Object *machine = object_new(object_class_get_name(OBJECT_CLASS(klass)), error);
    if (!machine) {
        return false;
    }
    if (!object_apply_globals(machine, vm->globals, error) ||
        !object_property_add_child(vm->root, "machine", machine, error)) {
        object_unref(machine);
        return false;
    }
    vm->machine = MACHINE(machine);
    object_unref(machine); /* the tree keeps it */
    return true;
}

bool vm_init_machine(Vm *vm, Accel *accel, MachineConfig *config, GError **error)
{
    vm->accel = accel;
    vm->vcpus = vcpu_set_new(accel, vm->clocks);
    config->root = vm->root;
    config->loop = vm->loop;
    config->clocks = vm->clocks;
    config->vm = &vm->services;
    config->accel = accel;
    config->vcpus = vm->vcpus;
    config->globals = vm->globals;
    config->blocks = vm->blocks;
    config->nets = vm->nets;
    config->displays = vm->displays;
    config->inputs = vm->inputs;
    config->uuid = vm->uuid[0] ? vm->uuid : NULL;
    return machine_init(vm->machine, config, error);
}

bool vm_ready(Vm *vm, GError **error)
{
    if (!machine_ready(vm->machine, error)) {
        return false;
    }
    machine_reset(vm->machine);
    return true;
}

int vm_run(Vm *vm)
{
    vm->thread = g_thread_self();
    if (!vm->ended) {
        loop_run(vm->loop);
    }
    if (vm_running(vm)) {
        vm_bring_to_rest(vm, RUN_STATE_SHUTDOWN);
    }
    vm_deliver_events(vm);
    return vm->exit_status;
}

/* ---- parts ---- */

Object *vm_root(Vm *vm)
{
    return vm->root;
}

Loop *vm_loop(Vm *vm)
{
    return vm->loop;
}

ClockSet *vm_clocks(Vm *vm)
{
    return vm->clocks;
}

FdTable *vm_fds(Vm *vm)
{
    return vm->fds;
}

ChardevRegistry *vm_chardevs(Vm *vm)
{
    return vm->chardevs;
}

BlockRegistry *vm_blocks(Vm *vm)
{
    return vm->blocks;
}

NetRegistry *vm_nets(Vm *vm)
{
    return vm->nets;
}

VncSet *vm_vnc(Vm *vm)
{
    return vm->vnc;
}

InputRegistry *vm_inputs(Vm *vm)
{
    return vm->inputs;
}

DisplayRegistry *vm_displays(Vm *vm)
{
    return vm->displays;
}

GPtrArray *vm_firmware_dirs(Vm *vm)
{
    return vm->firmware_dirs;
}

GPtrArray *vm_globals(Vm *vm)
{
    return vm->globals;
}

Machine *vm_machine(Vm *vm)
{
    return vm->machine;
}

Accel *vm_accel(Vm *vm)
{
    return vm->accel;
}

VcpuSet *vm_vcpus(Vm *vm)
{
    return vm->vcpus;
}

const VmServices *vm_services(Vm *vm)
{
    return &vm->services;
}

const char *vm_name(Vm *vm)
{
    return vm->name;
}

void vm_set_name(Vm *vm, const char *name)
{
    g_free(vm->name);
    vm->name = g_strdup(name);
}

const char *vm_uuid(Vm *vm)
{
    return vm->uuid[0] ? vm->uuid : "00000000-0000-0000-0000-000000000000";
}

bool vm_set_uuid(Vm *vm, const char *uuid, GError **error)
{
    if (!g_uuid_string_is_valid(uuid)) {
        return error_set(error, "failed to parse UUID string: wrong format: '%s'", uuid);
    }
    g_strlcpy(vm->uuid, uuid, sizeof(vm->uuid));
    return true;
}
