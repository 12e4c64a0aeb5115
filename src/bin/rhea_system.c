/*
 * rhea-system-x86_64: QEMU's command line, Rhea's machine.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "gdbstub/gdbstub.h"
#include "host/daemon.h"
#include "monitor/monitor.h"
#include "vm/configure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static bool add_monitor(void *opaque, const VmMonitorRequest *r, GError **error)
{
    return monitor_set_add(opaque, r->chr, r->qmp ? MONITOR_QMP : MONITOR_HMP, r->pretty, r->id, error);
}

static bool start(Vm *vm, const Options *options, MonitorSet *monitors, GError **error)
{
    monitor_set_command_line_options(monitors, cmdline_introspect());
    return vm_configure(vm, options, add_monitor, monitors, error) && vm_ready(vm, error);
}

static char *run_monitor(void *opaque, const char *line)
{
    return monitor_hmp_run(opaque, line);
}

static bool listen_for_gdb(GdbStub *gdb, const Options *options, GError **error)
{
    const char *device = cmdline_last(options, OPT_GDB);

    if (!device && cmdline_has(options, OPT_GDB_SHORT)) {
        device = "tcp::1234";
    }
    return !device || gdbstub_listen(gdb, device, error);
}

/* Runs the machine, or waits for the one that comes from elsewhere. */
static bool set_off(Vm *vm, const Options *options, GError **error)
{
    const char *incoming = cmdline_last(options, OPT_INCOMING);
    bool autostart = !cmdline_has(options, OPT_STOPPED);

    vm_set_autostart(vm, autostart);
    if (incoming) {
        return strcmp(incoming, "defer") == 0 || vm_migrate_incoming(vm, incoming, error);
    }
    const char *tag = cmdline_last(options, OPT_LOADVM);
    return (!tag || vm_snapshot_load(vm, tag, error)) && (!autostart || vm_start(vm, error));
}

static int run(const Options *options, GError **error)
{
    const char *pidfile = cmdline_last(options, OPT_PIDFILE);
    g_autofree char *pidfile_path = pidfile ? g_canonicalize_filename(pidfile, NULL) : NULL;
    int ready_fd = -1, pid_fd = -1, status = EXIT_FAILURE;

    if (cmdline_has(options, OPT_DAEMONIZE)) {
        if (cmdline_has(options, OPT_NOGRAPHIC) && !cmdline_has(options, OPT_NODEFAULTS) &&
            !cmdline_has(options, OPT_SERIAL)) {
            error_set(error, "-nographic cannot be used with -daemonize");
            return status;
        }
        ready_fd = daemon_start(error);
        if (ready_fd < 0) {
            return status;
        }
    }
    Vm *vm = vm_new(error);
    if (!vm) {
        return status;
    }
    MonitorSet *monitors = monitor_set_new(vm);
    GdbStub *gdb = gdbstub_new(vm, run_monitor, monitors);
    monitor_set_gdbstub(monitors, gdb);
    bool ok = start(vm, options, monitors, error) && listen_for_gdb(gdb, options, error);
    if (ok && pidfile) {
        pid_fd = daemon_write_pidfile(pidfile_path, error);
        ok = pid_fd >= 0;
    }
    if (ok) {
        ok = set_off(vm, options, error);
    }
    if (ok) {
        if (ready_fd >= 0) {
            daemon_ready(ready_fd);
        }
        status = vm_run(vm);
    }
    monitor_set_free(monitors);
    gdbstub_free(gdb);
    vm_free(vm);
    if (pid_fd >= 0) {
        unlink(pidfile_path);
        close(pid_fd);
    }
    return status;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    bool failed;

    log_set_program("rhea-system-x86_64");
    Options *options = cmdline_parse(argc, argv, &error);
    int status = EXIT_FAILURE;
    if (options) {
        if (vm_answer_help(options, &failed, &error)) {
            status = failed ? EXIT_FAILURE : EXIT_SUCCESS;
        } else if (vm_configure_process(options, &error)) {
            status = run(options, &error);
        }
    }
    if (error) {
        error_report(error);
    }
    cmdline_free(options);
    return status;
}
