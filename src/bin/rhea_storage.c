/*
 * rhea-storage: the block layer with QMP, jobs and NBD exports, without a machine. Options and behaviour are
 * qemu-storage-daemon's. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "block/exports.h"
#include "host/daemon.h"
#include "monitor/monitor.h"
#include "object/object.h"
#include "rhea_config.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    OPT_BLOCKDEV = 256,
    OPT_CHARDEV,
    OPT_DAEMONIZE,
    OPT_EXPORT,
    OPT_MONITOR,
    OPT_NBD_SERVER,
    OPT_OBJECT,
    OPT_PIDFILE,
    OPT_MAN,
};

/* clang-format off */
static const struct {
    const char *words, *meaning;
    struct option option;
} options[] = {
    { "-h, --help", "display this help and exit", { "help", no_argument, NULL, 'h' } },
    { "-V, --version", "output version information and exit", { "version", no_argument, NULL, 'V' } },
    { "-T, --trace PATTERN", "accepted; trace points are those of the build", { "trace", required_argument, NULL, 'T' } },
    { "--blockdev [driver=]<driver>[,node-name=<N>][,discard=ignore|unmap][,cache.direct=on|off][,cache.no-flush=on|off][,read-only=on|off][,auto-read-only=on|off][,force-share=on|off][,detect-zeroes=on|off|unmap][,driver specific parameters...]",
      "make a block node", { "blockdev", required_argument, NULL, OPT_BLOCKDEV } },
    { "--chardev <backend>,id=<id>[,options of the backend...]", "make a character device, for a monitor", { "chardev", required_argument, NULL, OPT_CHARDEV } },
    { "--daemonize", "go to the background when everything is set up", { "daemonize", no_argument, NULL, OPT_DAEMONIZE } },
    { "--export [type=]nbd,id=<id>,node-name=<node>[,name=<name>][,description=<text>][,writable=on|off][,writethrough=on|off][,bitmaps.0=<bitmap>][,allocation-depth=on|off]",
      "show a node through the NBD server (--nbd-server comes first)", { "export", required_argument, NULL, OPT_EXPORT } },
    { "--monitor [chardev=]<chardev>[,mode=control][,pretty[=on|off]]", "QMP on a character device", { "monitor", required_argument, NULL, OPT_MONITOR } },
    { "--nbd-server addr.type=inet,addr.host=<host>,addr.port=<port>[,tls-creds=<id>][,tls-authz=<id>][,max-connections=<n>]", "NBD server on a TCP port", { "nbd-server", required_argument, NULL, OPT_NBD_SERVER } },
    { "--nbd-server addr.type=unix,addr.path=<path>[,...]", "the same on a unix socket", { NULL, 0, NULL, 0 } },
    { "--nbd-server addr.type=fd,addr.str=<fd>[,...]", "the same on a listening socket that was handed over", { NULL, 0, NULL, 0 } },
    { "--object <type>,id=<id>[,properties...]", "make an object: secret, tls-creds-x509, throttle-group, ...", { "object", required_argument, NULL, OPT_OBJECT } },
    { "--pidfile <path>", "write the process ID to a file when everything is set up", { "pidfile", required_argument, NULL, OPT_PIDFILE } },
    { NULL, NULL, { "print-man", no_argument, NULL, OPT_MAN } },
};

/* What there is of QMP. */
static const char *const commands[] = {
    "add-fd", "block-commit", "block-dirty-bitmap-add", "block-dirty-bitmap-clear", "block-dirty-bitmap-disable",
    "block-dirty-bitmap-enable", "block-dirty-bitmap-merge", "block-dirty-bitmap-remove", "block-export-add",
    "block-export-del", "block-job-cancel", "block-job-complete", "block-job-dismiss", "block-job-finalize",
    "block-job-pause", "block-job-resume", "block-job-set-speed", "block-set-write-threshold", "block-stream",
    "block_resize", "blockdev-add", "blockdev-backup", "blockdev-create", "blockdev-del", "blockdev-mirror",
    "blockdev-reopen", "blockdev-snapshot", "blockdev-snapshot-delete-internal-sync",
    "blockdev-snapshot-internal-sync", "blockdev-snapshot-sync", "change-backing-file", "chardev-add",
    "chardev-remove", "closefd", "getfd", "job-cancel", "job-complete", "job-dismiss", "job-finalize", "job-pause",
    "job-resume", "nbd-server-add", "nbd-server-remove", "nbd-server-start", "nbd-server-stop", "object-add",
    "object-del", "qmp_capabilities", "qom-get", "qom-list", "qom-list-properties", "qom-list-types", "qom-set",
    "query-block-exports", "query-block-jobs", "query-blockstats", "query-chardev", "query-chardev-backends",
    "query-commands", "query-fdsets", "query-iothreads", "query-jobs", "query-named-block-nodes",
    "query-qmp-schema", "query-version", "query-xen-replication-status", "quit", "remove-fd",
    "trace-event-get-state", "trace-event-set-state", "transaction", "x-blockdev-change", "xen-colo-do-checkpoint",
    "xen-set-replication", NULL,
};
/* clang-format on */

static const char about[] =
    "The block layer without a virtual machine: block nodes, jobs and NBD exports, steered by options and by "
    "QMP on a character device. Options are done in the order in which they stand. It runs until the QMP "
    "command quit, or SIGTERM, SIGINT or SIGHUP, and writes everything back then.";

static void help(void)
{
    printf("Usage: %s [options]\n%s\n\n", g_get_prgname(), about);
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (options[i].words) {
            printf("  %s\n                         %s\n", options[i].words, options[i].meaning);
        }
    }
    printf("\nSee docs/howto/serve-disks.md and rhea-storage(1) for examples.\n");
}

static void print_man(void)
{
    printf(
        ".TH RHEA-STORAGE 1 \"\" \"Rhea " RHEA_VERSION "\"\n.SH NAME\nrhea-storage \\- block nodes, jobs and "
        "exports without a virtual machine\n.SH SYNOPSIS\n.B rhea-storage\n[options]\n.SH DESCRIPTION\n%s\n"
        ".SH OPTIONS\n",
        about);
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (options[i].words) {
            g_auto(GStrv) parts = g_strsplit(options[i].words, "-", -1);
            g_autofree char *words = g_strjoinv("\\-", parts);
            printf(".TP\n.B %s\n%s\n", words, options[i].meaning);
        }
    }
    printf(
        ".SH EXAMPLE\n.nf\nrhea-storage \\-\\-blockdev driver=file,node-name=file,filename=disk.qcow2 \\e\n"
        "  \\-\\-blockdev driver=qcow2,node-name=disk,file=file \\e\n"
        "  \\-\\-nbd-server addr.type=unix,addr.path=nbd.sock \\e\n"
        "  \\-\\-export nbd,id=exp0,node-name=disk,writable=on \\e\n"
        "  \\-\\-chardev socket,id=qmp,path=qmp.sock,server=on,wait=off \\-\\-monitor chardev=qmp\n.fi\n"
        ".SH SEE ALSO\nrhea-nbd(1), rhea-img(1), rhea-io(1)\n");
}

typedef struct Storage {
    Vm *vm;
    MonitorSet *monitors;
    const char *pidfile;
    bool daemonize;
} Storage;

static bool add_monitor(Storage *s, const char *text, GError **error)
{
    g_autoptr(QapiMonitorOptions) o = NULL;
    Chardev *chr;

    if (!qapi_option_monitor(text, &o, error)) {
        return false;
    }
    if (o->has_mode && o->mode != QAPI_MONITOR_OPTIONS_MODE_CONTROL) {
        return error_set(error, "Only the QMP monitor (mode=control) is there in this program");
    }
    chr = chardev_find(vm_chardevs(s->vm), o->chardev);
    if (!chr) {
        return error_set(error, "chardev \"%s\" not found", o->chardev);
    }
    return monitor_set_add(s->monitors, chr, MONITOR_QMP, o->has_pretty && o->pretty, o->id, error);
}

static bool do_option(Storage *s, int option, const char *text, GError **error)
{
    switch (option) {
    case OPT_BLOCKDEV:
        return blockdev_add_text(vm_blocks(s->vm), text, error);
    case OPT_CHARDEV:
        return chardev_add_text(vm_chardevs(s->vm), text, error) != NULL;
    case OPT_OBJECT:
        return user_creatable_add_text(vm_root(s->vm), text, error) != NULL;
    case OPT_MONITOR:
        return add_monitor(s, text, error);
    case OPT_NBD_SERVER: {
        g_autoptr(QapiNbdServerOptions) o = NULL;
        return qapi_option_nbd_server(text, &o, error) &&
               block_exports_server_start(block_registry_exports(vm_blocks(s->vm)), o, error);
    }
    case OPT_EXPORT: {
        g_autoptr(QapiBlockExportOptions) o = NULL;
        return qapi_option_export(text, &o, error) &&
               block_export_add(block_registry_exports(vm_blocks(s->vm)), o, error);
    }
    default:
        return true;
    }
}

/* One pass over the command line. s->vm NULL: what concerns the process; then the rest, in order. */
static bool parse(Storage *s, int argc, char **argv, GError **error)
{
    struct option longs[G_N_ELEMENTS(options) + 1] = { 0 };
    size_t n = 0;
    int c;

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (options[i].option.name) {
            longs[n++] = options[i].option;
        }
    }
    optind = 1;
    while ((c = getopt_long(argc, argv, "-hT:V", longs, NULL)) != -1) {
        switch (c) {
        case '?':
            exit(EXIT_FAILURE);
        case 'h':
            help();
            exit(EXIT_SUCCESS);
        case 'V':
            printf("%s version " RHEA_QEMU_VERSION " (Rhea " RHEA_VERSION ")\n", g_get_prgname());
            exit(EXIT_SUCCESS);
        case OPT_MAN:
            print_man();
            exit(EXIT_SUCCESS);
        case 1:
            return error_set(error, "Unexpected argument: %s", optarg);
        case OPT_DAEMONIZE:
            s->daemonize = true;
            break;
        case OPT_PIDFILE:
            s->pidfile = optarg;
            break;
        default:
            if (s->vm && !do_option(s, c, optarg, error)) {
                return false;
            }
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    g_autofree char *name = g_path_get_basename(argv[0] ? argv[0] : "rhea-storage"), *pidfile = NULL;
    g_autoptr(GError) error = NULL;
    int ready_fd = -1, pid_fd = -1, status = EXIT_FAILURE;
    Storage s = { 0 };

    g_set_prgname(name);
    log_set_program(g_get_prgname());
    signal(SIGPIPE, SIG_IGN);
    if (!parse(&s, argc, argv, &error)) {
        error_report(error);
        return EXIT_FAILURE;
    }
    pidfile = s.pidfile ? g_canonicalize_filename(s.pidfile, NULL) : NULL;
    if (s.daemonize) {
        ready_fd = daemon_start(&error);
        if (ready_fd < 0) {
            error_report(error);
            return EXIT_FAILURE;
        }
    }
    s.vm = vm_new(&error);
    if (s.vm) {
        s.monitors = monitor_set_new(s.vm);
        monitor_set_limit_commands(s.monitors, commands);
    }
    if (s.vm && parse(&s, argc, argv, &error)) {
        pid_fd = pidfile ? daemon_write_pidfile(pidfile, &error) : -1;
        if (!pidfile || pid_fd >= 0) {
            if (ready_fd >= 0) {
                daemon_ready(ready_fd);
            }
            status = vm_run(s.vm);
        }
    }
    if (error) {
        error_report(error);
    }
    if (s.vm) {
        monitor_set_free(s.monitors);
        vm_free(s.vm);
    }
    if (pid_fd >= 0) {
        unlink(pidfile);
        close(pid_fd);
    }
    return status;
}
