/*
 * A virtual machine: what owns the composition tree, the main loop, the clocks, the host back ends, the
 * machine with its CPUs, and the run state. There may be several in a process, but for the property
 * registries of chardev, block and net, which serve one at a time.
 *
 * Threads: main loop's thread, but for what is marked [any thread]. Requests (vm_request_*) only queue; they
 * are coalesced and executed in the main loop. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_VM_VM_H
#define RHEA_VM_VM_H

#include "accel/accel.h"
#include "block/block.h"
#include "chardev/chardev.h"
#include "display/display.h"
#include "display/vnc.h"
#include "hw/core/device.h"
#include "input/input.h"
#include "io/fd_table.h"
#include "loop/loop.h"
#include "machine/machine.h"
#include "net/net.h"

typedef struct Vm Vm;

/* QEMU's run states; the names are run_state_lookup's. */
typedef enum RunState {
    RUN_STATE_DEBUG,
    RUN_STATE_INMIGRATE,
    RUN_STATE_INTERNAL_ERROR,
    RUN_STATE_IO_ERROR,
    RUN_STATE_PAUSED,
    RUN_STATE_POSTMIGRATE,
    RUN_STATE_PRELAUNCH,
    RUN_STATE_FINISH_MIGRATE,
    RUN_STATE_RESTORE_VM,
    RUN_STATE_RUNNING,
    RUN_STATE_SAVE_VM,
    RUN_STATE_SHUTDOWN,
    RUN_STATE_SUSPENDED,
    RUN_STATE_WATCHDOG,
    RUN_STATE_GUEST_PANICKED,
    RUN_STATE_COLO,
    RUN_STATE_COUNT,
} RunState;
extern const EnumLookup run_state_lookup;

/* A machine without a board yet: tree, loop, clocks and registries. NULL on error. */
Vm *vm_new(GError **error);
/* Stops the vCPUs, takes the devices away, closes the back ends. */
void vm_free(Vm *vm);

/* ---- parts; all borrowed ---- */
Object *vm_root(Vm *vm);
Loop *vm_loop(Vm *vm);
ClockSet *vm_clocks(Vm *vm);
FdTable *vm_fds(Vm *vm);
ChardevRegistry *vm_chardevs(Vm *vm);
BlockRegistry *vm_blocks(Vm *vm);
NetRegistry *vm_nets(Vm *vm);
DisplayRegistry *vm_displays(Vm *vm);
InputRegistry *vm_inputs(Vm *vm);
VncSet *vm_vnc(Vm *vm);
GPtrArray *vm_firmware_dirs(Vm *vm); /* of char *, ends with NULL: where firmware is looked for first */
GPtrArray *vm_globals(Vm *vm);       /* of GlobalProperty *: compat properties first, then -global's */
Machine *vm_machine(Vm *vm);         /* NULL before vm_create_machine */
Accel *vm_accel(Vm *vm);             /* the same */
VcpuSet *vm_vcpus(Vm *vm);           /* the same */
const VmServices *vm_services(Vm *vm);
const char *vm_name(Vm *vm); /* -name, or NULL */
void vm_set_name(Vm *vm, const char *name);
const char *vm_uuid(Vm *vm); /* "00000000-0000-0000-0000-000000000000" where none was given */
bool vm_set_uuid(Vm *vm, const char *uuid, GError **error);

/* ---- building: type and options of -machine, then accelerator, then board and CPUs ---- */
/* Makes /machine of a type name as -machine has it ("pc", "pc-i440fx-8.1"). Its properties may then be set.
 */
bool vm_create_machine(Vm *vm, const char *name, GError **error);
/* Takes over the accelerator's reference and, from config, RAM size, topology, CPU model and serial lines,
 * and builds the board (not running). config's loop, clocks, root and so on are filled in here. */
bool vm_init_machine(Vm *vm, Accel *accel, MachineConfig *config, GError **error);
/* After -device: the first reset; loads the kernel. The VM is then in prelaunch and can be started. */
bool vm_ready(Vm *vm, GError **error);

/* ---- run state ---- */
RunState vm_run_state(Vm *vm); /* [any thread] */
bool vm_running(Vm *vm);       /* [any thread] */
/* "cont": fails where the state does not allow it (internal-error and guest-panicked need a reset first).
 * After shutdown with -no-shutdown as well. Emits RESUME. Harmless on a running machine. */
bool vm_start(Vm *vm, GError **error);
/* Pauses, with a state that says why; emits STOP if it was running. */
void vm_stop(Vm *vm, RunState state);
/* The same from any thread, later. [any thread] */
void vm_request_stop(Vm *vm, RunState state);
void vm_request_reset(Vm *vm, ShutdownCause cause);    /* [any thread] */
void vm_request_shutdown(Vm *vm, ShutdownCause cause); /* [any thread] */
void vm_request_powerdown(Vm *vm);                     /* the ACPI power button. [any thread] */
void vm_request_wakeup(Vm *vm);                        /* [any thread] */
void vm_request_quit(Vm *vm, int status);              /* ends vm_run with that exit status. [any thread] */
/* NMI on all CPUs ("inject-nmi"). */
void vm_inject_nmi(Vm *vm);
/* Adds (for migration, snapshots, ...) what vm_services' add_run_handler does for devices. */
void vm_add_run_handler(Vm *vm, void (*fn)(void *opaque, bool running), void *opaque);

/* What to do when the guest does something (-action, set-action, -no-reboot, -no-shutdown, -watchdog-action).
 * Names as QEMU's: reboot {reset, shutdown}, shutdown {poweroff, pause}, panic {pause, shutdown,
 * exit-failure, none}, watchdog {reset, shutdown, poweroff, pause, debug, none, inject-nmi}. */
bool vm_set_action(Vm *vm, const char *event, const char *action, GError **error);
/* The guest's watchdog ran out: emits WATCHDOG and does the action. [any thread] */
void vm_watchdog_expired(Vm *vm);
/* The guest told of a panic: emits GUEST_PANICKED (or GUEST_CRASHLOADED) and does the action. [any thread] */
void vm_guest_panicked(Vm *vm, bool crash_loaded);

/* ---- saving and loading (migrate.c) ---- */
/* "migrate": stops the machine and sends its state to a channel (migration/channel.h), in the background; the
 * rest is told by vm_migration_info() and events. */
bool vm_migrate(Vm *vm, const char *uri, GError **error);
/* Before the disks are opened: the machine's state will come from elsewhere. vm_start() is refused until
 * then. */
void vm_expect_incoming(Vm *vm);
/* -incoming, "migrate-incoming". */
bool vm_migrate_incoming(Vm *vm, const char *uri, GError **error);
/* Whether what comes in runs at once, if it did where it was saved (-S: not). */
void vm_set_autostart(Vm *vm, bool on);
struct Migration;
struct Migration *vm_migration(Vm *vm);      /* migration/migration.h; borrowed */
void vm_set_migrate_events(Vm *vm, bool on); /* the capability "events": MIGRATION is emitted */
bool vm_migrate_events(Vm *vm);

/* ---- snapshots of the whole machine in qcow2 images (snapshot.c) ---- */
/* savevm, loadvm, delvm: at once. Disks: all that are writable; the state goes to the first of them. tag NULL
 * of save: a name made of the time. */
bool vm_snapshot_save(Vm *vm, const char *tag, GError **error);
bool vm_snapshot_load(Vm *vm, const char *tag, GError **error);
bool vm_snapshot_delete(Vm *vm, const char *tag, GError **error);
/* "info snapshots"; caller frees. NULL on error. */
char *vm_snapshot_list(Vm *vm, GError **error);
/* The same as jobs (snapshot-save and so on): by node names. */
typedef enum VmSnapshotAction { VM_SNAPSHOT_SAVE, VM_SNAPSHOT_LOAD, VM_SNAPSHOT_DELETE } VmSnapshotAction;
bool vm_snapshot_job(Vm *vm, VmSnapshotAction action, const char *job_id, const char *tag,
                     const char *vmstate /* NULL for delete */, GPtrArray *devices /* of char * */,
                     GError **error);

/* Runs the main loop until the machine has ended; the exit status of the process. */
int vm_run(Vm *vm);

/* ---- events ---- */
/* Called in the main loop's thread for each event; data (an object, maybe NULL) is borrowed, seconds and
 * microseconds are those of its making. */
typedef void VmEventSink(void *opaque, const char *event, json_object *data, int64_t seconds,
                         int microseconds);
void vm_add_event_sink(Vm *vm, VmEventSink *sink, void *opaque);
void vm_remove_event_sink(Vm *vm, VmEventSink *sink, void *opaque);
/* Takes over data's reference. [any thread] */
void vm_emit_event(Vm *vm, const char *event, json_object *data);

#endif
