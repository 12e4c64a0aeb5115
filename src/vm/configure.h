/*
 * From options to a machine: creates objects, back ends, board and devices in the order that their references
 * need. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_VM_CONFIGURE_H
#define RHEA_VM_CONFIGURE_H

#include "vm/options.h"
#include "vm/vm.h"

/* A monitor that the command line asks for; the program makes it (monitor is a higher floor). */
typedef struct VmMonitorRequest {
    Chardev *chr; /* borrowed from the registry */
    bool qmp, pretty;
    char *id; /* or NULL */
} VmMonitorRequest;

/* Options that only ask something ("-machine help", "-device X,help", -version): prints the answer and
 * returns true. */
bool vm_answer_help(const Options *options, bool *failed, GError **error);
/* What has to be in place before anything else: log, messages, names. */
bool vm_configure_process(const Options *options, GError **error);
typedef bool VmAddMonitor(void *opaque, const VmMonitorRequest *request, GError **error);
/* Builds everything. add_monitor is called for each monitor, after the devices are made: so a serial line
 * that shares a terminal with a monitor was there first and has the keyboard. */
bool vm_configure(Vm *vm, const Options *options, VmAddMonitor *add_monitor, void *opaque, GError **error);

#endif
