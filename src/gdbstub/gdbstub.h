/*
 * A server of gdb's remote protocol, so that the guest can be debugged from outside. One a virtual machine.
 *
 * Threads: main loop's, but for what a vCPU does when it stops. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_GDBSTUB_GDBSTUB_H
#define RHEA_GDBSTUB_GDBSTUB_H

#include "vm/vm.h"

typedef struct GdbStub GdbStub;

/* What "monitor COMMAND" in gdb runs; the result is the caller's. May be NULL. */
typedef char *GdbMonitor(void *opaque, const char *line);

GdbStub *gdbstub_new(Vm *vm, GdbMonitor *monitor, void *opaque);
void gdbstub_free(GdbStub *g); /* before the VM */
/* Listens on a device: "tcp::1234" (a server that waits for nobody unless told otherwise), "stdio", a -serial
 * like name; "none" ends it. */
bool gdbstub_listen(GdbStub *g, const char *device, GError **error);

#endif
