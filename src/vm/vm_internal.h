/* The Vm's inside; for src/vm alone. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_VM_VM_INTERNAL_H
#define RHEA_VM_VM_INTERNAL_H

#include "block/graph/graph.h"
#include "migration/migration.h"
#include "vm/vm.h"

enum { VM_REBOOT_RESET, VM_REBOOT_SHUTDOWN };
enum { VM_SHUTDOWN_POWEROFF, VM_SHUTDOWN_PAUSE };
enum { VM_PANIC_SHUTDOWN, VM_PANIC_PAUSE, VM_PANIC_EXIT_FAILURE, VM_PANIC_NONE };
enum {
    VM_WATCHDOG_RESET,
    VM_WATCHDOG_SHUTDOWN,
    VM_WATCHDOG_POWEROFF,
    VM_WATCHDOG_PAUSE,
    VM_WATCHDOG_DEBUG,
    VM_WATCHDOG_NONE,
    VM_WATCHDOG_NMI,
};

typedef struct VmRequests {
    ShutdownCause reset, shutdown;
    bool must_end, powerdown, wakeup, suspend, stop, quit, panic, crash_loaded, watchdog;
    RunState stop_state;
    int status;
} VmRequests;

struct Vm {
    Object *root;
    Loop *loop;
    GThread *thread; /* the main loop's */
    ClockSet *clocks;
    FdTable *fds;
    ChardevRegistry *chardevs;
    BlockRegistry *blocks;
    NetRegistry *nets;
    DisplayRegistry *displays;
    InputRegistry *inputs;
    VncSet *vnc;
    GPtrArray *globals;
    GPtrArray *firmware_dirs;
    Machine *machine; /* the tree has the reference */
    Accel *accel;
    VcpuSet *vcpus;
    VmServices services;
    char *name;
    char uuid[40];

    int run_state; /* atomic */
    GPtrArray *run_handlers, *powerdown_handlers;
    int reboot_action, shutdown_action, panic_action, watchdog_action;

    GMutex request_lock;
    VmRequests requests;
    BottomHalf *request_bh;

    GMutex event_lock;
    GQueue events;
    GPtrArray *sinks;
    bool delivering;

    Migration *migration;
    bool incoming;          /* -incoming: a state is waited for */
    bool incoming_started;  /* its channel is open */
    bool autostart;         /* what has come in may run at once */
    bool frozen;            /* its state is being taken or given: nothing else may move it */
    bool disks_given_up;    /* by the source of a migration */
    BlockDrain *disk_drain; /* meanwhile: requests wait until they are taken back */
    bool migrate_events;
    RunState before_freeze;

    bool ended;
    int exit_status;
    int signal_fd;
    LoopFd *signal_watch;
};

/* vm.c, for the files of this folder. */
void vm_set_run_state(Vm *vm, RunState state);
void vm_tell_running(Vm *vm, bool running);
void vm_bring_to_rest(Vm *vm, RunState state);
/* migrate.c */
void vm_migration_init(Vm *vm);
bool vm_take_disks(Vm *vm, GError **error);
void vm_forget_disk_requests(Vm *vm);                     /* at the end: what still waits fails */
StateMachine vm_describe_state(Vm *vm, GPtrArray *facts); /* facts: of vm_state_facts(), or NULL */
GPtrArray *vm_state_facts(Vm *vm);
void vm_freeze(Vm *vm, RunState state); /* stops, and lets nothing move it; before_freeze has what it was */
void vm_unfreeze(Vm *vm);
void vm_go_on(Vm *vm); /* as before vm_freeze */
/* Gives the machine a state that was read, memory excepted. */
bool vm_apply_state(Vm *vm, SavedState *state, GError **error);

#endif
