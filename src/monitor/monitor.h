/*
 * Monitors: QMP (JSON, for programs) and HMP (lines, for people) on character devices.
 *
 * Everything runs in the main loop's thread. A monitor never waits for a guest and never blocks on its
 * client: output is queued by the chardev, and a client that lets 16 MiB pile up is disconnected.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MONITOR_MONITOR_H
#define RHEA_MONITOR_MONITOR_H

#include "vm/vm.h"

typedef struct Monitor Monitor;
typedef struct MonitorSet MonitorSet; /* all monitors of one virtual machine */

typedef enum MonitorMode {
    MONITOR_HMP, /* -mon mode=readline, -monitor */
    MONITOR_QMP, /* -mon mode=control, -qmp */
} MonitorMode;

/* The set listens to the VM's events from now on. Free it before the VM. */
MonitorSet *monitor_set_new(Vm *vm);
void monitor_set_free(MonitorSet *set);
/* Puts a monitor on a chardev (borrowed; must outlive the set). pretty: indented JSON. id may be NULL. Fails
 * where the chardev has another user. */
bool monitor_set_add(MonitorSet *set, Chardev *chr, MonitorMode mode, bool pretty, const char *id,
                     GError **error);
/* What query-command-line-options answers: [{"option": "machine", "parameters": [{"name", "type",
 * "help"}...]}...]. Takes over the reference. */
void monitor_set_command_line_options(MonitorSet *set, json_object *options);

/* What gdbserver (HMP) is about; borrowed. */
struct GdbStub;
void monitor_set_gdbstub(MonitorSet *set, struct GdbStub *gdb);
/* Only these commands (NULL-terminated, borrowed) are there: of a program that is no virtual machine. */
void monitor_set_limit_commands(MonitorSet *set, const char *const *names);

/* Runs one HMP command line and gives what it printed; for human-monitor-command and tests. Caller frees. */
char *monitor_hmp_run(MonitorSet *set, const char *line);
/* Runs one QMP request ({"execute": ...}) and gives the reply object, without negotiation; for tests and bin.
 * The request is borrowed, the reply the caller's. */
json_object *monitor_qmp_run(MonitorSet *set, json_object *request);

#endif
