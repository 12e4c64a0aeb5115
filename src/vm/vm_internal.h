/* The Vm's inside; for src/vm alone. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_VM_VM_INTERNAL_H
#define RHEA_VM_VM_INTERNAL_H

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

    bool ended;
    int exit_status;
    int signal_fd;
    LoopFd *signal_watch;
};

#endif
