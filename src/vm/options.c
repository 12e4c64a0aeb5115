/* The option table and what is made from it. SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/options.h"

#include "base/error.h"
#include "base/nearest.h"
#include "rhea_config.h"

#include <errno.h>
#include <string.h>

#define STANDARD "Standard options"
#define BLOCK    "Block device options"
#define NETWORK  "Network options"
#define CHARDEV  "Character device options"
#define DISPLAY  "Display options"
#define BOOT     "Linux boot options"
#define RUNNING  "Running and debugging"
#define MACHINE_KEYS                                                                                         \
    "type,accel,kernel,initrd,append,memory-backend,dump-guest-core,mem-merge,usb,graphics,acpi,smm,vmport," \
    "hpet,pit,"                                                                                              \
    "pic,rtc,isa-serial,x-option-roms,auto-kernel-cmdline,kernel-irqchip,max-ram-below-4g,i8042"

/* clang-format off */
static const OptionInfo option_table[] = {
    { "h", NULL, STANDARD, "display this help and exit", OPT_H },
    { "help", NULL, STANDARD, "the same as -h", OPT_H },
    { "version", NULL, STANDARD, "display version information and exit", OPT_VERSION },
    { "print-man", NULL, STANDARD, "print the manual page (troff) and exit", OPT_PRINT_MAN },
    { "print-completion", NULL, STANDARD, "print a completion script for bash and exit", OPT_PRINT_COMPLETION },
    { "machine", "[type=]name[,prop=value...]", STANDARD,
      "selects the machine ('-machine help' lists them); properties: accel=NAME[:NAME...], kernel=, initrd=, append=, "
      "memory-backend=ID, dump-guest-core=on|off, acpi=on|off|auto, smm=, hpet=on|off, pit=, pic=, ...",
      OPT_MACHINE, MACHINE_KEYS },
    { "M", "[type=]name[,prop=value...]", STANDARD, "the same as -machine", OPT_MACHINE, MACHINE_KEYS },
    { "accel", "[accel=]name[,prop=value...]", STANDARD,
      "selects the accelerator: tcg (the software CPU, also called soft), kvm (the host's processor), auto (kvm where it runs "
      "kernel code natively, else tcg); several options are tried in turn", OPT_ACCEL,
      "accel,thread,tb-size,kernel-irqchip,rescue" },
    { "cpu", "model[,+feature][,-feature][,feature=value]", STANDARD, "selects the CPU model ('-cpu help' lists them)",
      OPT_CPU },
    { "smp", "[cpus=]n[,maxcpus=max][,sockets=s][,dies=d][,cores=c][,threads=t]", STANDARD,
      "sets the number of virtual CPUs and their topology", OPT_SMP, "cpus,maxcpus,sockets,dies,cores,threads,clusters" },
    { "m", "[size=]megs[,slots=n,maxmem=size]", STANDARD, "sets the size of guest memory (suffixes K, M, G, T; default 128M)",
      OPT_M, "size,slots,maxmem" },
    { "mem-path", "file", STANDARD, "takes guest memory from a file, or from a new file in a directory", OPT_MEM_PATH },
    { "mem-prealloc", NULL, STANDARD, "allocates all guest memory at the start", OPT_MEM_PREALLOC },
    { "name", "[guest=]string[,process=string][,debug-threads=on|off]", STANDARD,
      "names the guest; threads are always named", OPT_NAME, "guest,process,debug-threads" },
    { "uuid", "uuid", STANDARD, "sets the machine's UUID", OPT_UUID },
    { "boot", "[order=drives][,once=drives][,menu=on|off][,strict=on|off]", STANDARD,
      "boot order for firmware: letters a (floppy), c (disk), d (CD-ROM), n (network); once= at the first start", OPT_BOOT,
      "order,once,menu,splash,splash-time,reboot-timeout,strict" },
    { "rtc", "[base=utc|localtime|date][,clock=host|rt|vm][,driftfix=none|slew]", STANDARD, "sets the real-time clock",
      OPT_RTC, "base,clock,driftfix" },
    { "global", "driver.prop=value", STANDARD, "sets a default of a device's property", OPT_GLOBAL, "driver,property,value" },
    { "overcommit", "[mem-lock=on|off][,cpu-pm=on|off]", STANDARD, "locks all memory; cpu-pm is accepted and ignored",
      OPT_OVERCOMMIT, "mem-lock,cpu-pm" },
    { "nodefaults", NULL, STANDARD, "creates no default devices", OPT_NODEFAULTS },
    { "no-user-config", NULL, STANDARD, "reads no configuration files (there are none)", OPT_NO_USER_CONFIG },
    { "nodefconfig", NULL, STANDARD, "the same, an old name", OPT_NO_USER_CONFIG },
    { "no-acpi", NULL, STANDARD, "the same as -machine acpi=off", OPT_NO_ACPI },
    { "no-hpet", NULL, STANDARD, "the same as -machine hpet=off", OPT_NO_HPET },
    { "enable-kvm", NULL, STANDARD, "the same as -accel kvm", OPT_ENABLE_KVM },
    { "add-fd", "fd=fd,set=set[,opaque=text]", STANDARD, "adds a file descriptor to a set", OPT_ADD_FD, "fd,set,opaque" },
    { "fw_cfg", "[name=]name,file=file|string=text", STANDARD, "adds a file to fw_cfg", OPT_FW_CFG, "name,file,string" },
    { "smbios", "type=n[,field=value...]|file=file", STANDARD,
      "sets fields of SMBIOS tables: 0 BIOS, 1 system, 2 board, 3 chassis, 4 processors, 11 strings (value=..., several times), "
      "17 memory; or adds structures from a file", OPT_SMBIOS, "type,file" },

    { "drive", "[file=file][,if=type][,id=name][,format=f][,cache=mode][,aio=mode][,readonly=on|off]...", BLOCK,
      "defines a disk; if=none leaves it to a -device", OPT_DRIVE,
      "file,if,id,format,media,index,bus,unit,cache,aio,discard,detect-zeroes,readonly,snapshot,serial,werror,rerror" },
    { "blockdev", "[driver=]driver[,node-name=name][,...]", BLOCK, "defines a block node (key=value or JSON)", OPT_BLOCKDEV,
      "driver,node-name,filename,file,read-only,cache.direct,cache.no-flush,discard,detect-zeroes,aio,locking" },
    { "hda", "file", BLOCK, "the first disk: the same as -drive file=FILE,index=0,media=disk", OPT_HDA },
    { "hdb", "file", BLOCK, "the second, index=1", OPT_HDB },
    { "hdc", "file", BLOCK, "the third, index=2", OPT_HDC },
    { "hdd", "file", BLOCK, "the fourth, index=3", OPT_HDD },
    { "cdrom", "file", BLOCK, "a CD-ROM: the same as -drive file=FILE,index=2,media=cdrom", OPT_CDROM },
    { "fda", "file", BLOCK, "the first floppy disk: the same as -drive file=FILE,if=floppy,index=0", OPT_FDA },
    { "fdb", "file", BLOCK, "the second, index=1", OPT_FDB },
    { "snapshot", NULL, BLOCK, "temporary overlays", OPT_UNSUPPORTED, NULL, "temporary overlays are not supported yet" },

    { "device", "driver[,prop=value...]", STANDARD,
      "adds a device ('-device help' lists them, '-device NAME,help' its properties); key=value or JSON", OPT_DEVICE,
      "driver,id,bus,addr,multifunction,drive,netdev,mac,chardev,iothread,rng,bootindex,num-queues" },
    { "object", "typename,id=id[,prop=value...]", STANDARD, "creates an object ('-object help' lists types); key=value or JSON",
      OPT_OBJECT, "qom-type,id" },
    { "netdev", "type,id=id[,prop=value...]", NETWORK,
      "defines a network back end: user[,hostfwd=rule], tap[,ifname=|fd=], stream,...; key=value or JSON", OPT_NETDEV,
      "type,id,hostfwd,guestfwd,net,host,hostname,dns,restrict,ifname,fd,fds,script,downscript,vhost,queues" },
    { "nic", "type[,model=m][,mac=addr][,prop=value...]", NETWORK, "a network back end with its card; 'none' for no network",
      OPT_NIC, "type,model,mac,id" },
    { "net", "nic|user|none[,...]", NETWORK, "the old form of -nic", OPT_NET, "type,model,macaddr,id" },

    { "chardev", "backend,id=id[,prop=value...]", CHARDEV,
      "defines a character device: stdio, file, pipe, pty, socket, null, ringbuf", OPT_CHARDEV,
      "backend,id,path,host,port,server,wait,reconnect,fd,mux,signal,logfile,logappend,append" },
    { "serial", "dev", CHARDEV, "connects a serial port: stdio, mon:stdio, pty, null, none, file:F, pipe:P, unix:P, tcp:H:P, "
      "chardev:ID", OPT_SERIAL },
    { "parallel", "dev", CHARDEV, "connects a parallel port's printer: the same back ends", OPT_PARALLEL },
    { "monitor", "dev", CHARDEV, "connects a monitor for people (HMP)", OPT_MONITOR },
    { "qmp", "dev", CHARDEV, "connects a monitor for programs (QMP)", OPT_QMP },
    { "qmp-pretty", "dev", CHARDEV, "the same with indented JSON", OPT_QMP_PRETTY },
    { "mon", "[chardev=]id[,mode=readline|control][,pretty=on|off]", CHARDEV, "puts a monitor on a -chardev", OPT_MON,
      "chardev,mode,pretty,id" },

    { "nographic", NULL, DISPLAY, "no graphics; the serial port and the monitor share the terminal (Ctrl-A C)",
      OPT_NOGRAPHIC },
    { "display", "none|vnc=display[,...]", DISPLAY, "selects the display: none, or a VNC server as -vnc makes it", OPT_DISPLAY,
      "type" },
    { "vga", "std|virtio|none", DISPLAY,
      "selects the video card; 'virtio' is one for Linux and others with a driver; 'std' is a PC's own where it starts through firmware, else there is none", OPT_VGA },
    { "audiodev", "[driver=]none,id=id", DISPLAY, "defines an audio back end ('none' is the only one yet)", OPT_AUDIODEV,
      "driver,id" },
    { "k", "language", DISPLAY, "keyboard layout (accepted: keys are those of a US keyboard)", OPT_KEYMAP },
    { "echr", "code", CHARDEV, "the escape character's code instead of Ctrl-A", OPT_ECHR },
    { "vnc", "host:d|unix:path|none[,password=on|-secret=id][,websocket=on|[addr:]port][,web=on][,...]", DISPLAY,
      "starts a VNC server at port 5900+d: share=allow-exclusive|force-shared|ignore, connections=n, to=l, display=id; web=on "
      "serves noVNC's page at the websocket's port; none with a websocket listens for browsers alone", OPT_VNC,
      "vnc,id,password,password-secret,share,connections,websocket,web,to,ipv4,ipv6,display" },
    { "spice", "options", DISPLAY, "SPICE server", OPT_UNSUPPORTED, NULL, "SPICE is not supported" },
    { "usb", NULL, STANDARD, "adds a USB controller: the same as -machine usb=on", OPT_USB },
    { "usbdevice", "tablet|mouse|keyboard", STANDARD, "adds that device with a USB controller; -device usb-tablet and its kin "
      "say it better", OPT_USBDEVICE },

    { "kernel", "file", BOOT, "starts this kernel: bzImage, PVH ELF or multiboot", OPT_KERNEL },
    { "append", "cmdline", BOOT, "the kernel's command line", OPT_APPEND },
    { "initrd", "file", BOOT, "the initial ramdisk; for multiboot 'file args,file args'", OPT_INITRD },
    { "dtb", "file", BOOT, "device tree", OPT_UNSUPPORTED, NULL, "PCs have no device tree" },
    { "bios", "file", BOOT, "firmware image instead of SeaBIOS (bios-256k.bin)", OPT_BIOS },
    { "pflash", "file", BOOT, "firmware flash", OPT_UNSUPPORTED, NULL,
      "firmware in flash is not supported yet; use -bios" },
    { "option-rom", "file", BOOT, "an option ROM for firmware to run", OPT_OPTION_ROM },

    { "S", NULL, RUNNING, "does not start the CPUs ('cont' does)", OPT_STOPPED },
    { "daemonize", NULL, RUNNING, "goes to the background once everything is set up", OPT_DAEMONIZE },
    { "pidfile", "file", RUNNING, "writes the process id to a file", OPT_PIDFILE },
    { "no-reboot", NULL, RUNNING, "ends instead of rebooting", OPT_NO_REBOOT },
    { "no-shutdown", NULL, RUNNING, "stops instead of ending when the guest powers off", OPT_NO_SHUTDOWN },
    { "action", "event=action[,...]", RUNNING,
      "reboot=reset|shutdown, shutdown=poweroff|pause, panic=pause|shutdown|exit-failure|none, watchdog=reset|shutdown|"
      "poweroff|pause|debug|none|inject-nmi", OPT_ACTION, "reboot,shutdown,panic,watchdog" },
    { "watchdog-action", "action", RUNNING, "what happens when the guest's watchdog runs out", OPT_WATCHDOG_ACTION },
    { "sandbox", "on|off[,obsolete=...][,elevateprivileges=...][,spawn=...][,resourcecontrol=...]", RUNNING,
      "accepted and checked; system calls are not filtered yet", OPT_SANDBOX,
      "enable,obsolete,elevateprivileges,spawn,resourcecontrol" },
    { "msg", "[timestamp=on|off]", RUNNING, "puts the time before messages", OPT_MSG, "timestamp,guest-name" },
    { "d", "item1,...", RUNNING, "logs items ('-d help' lists them)", OPT_D },
    { "D", "file", RUNNING, "logs to a file instead of stderr", OPT_LOGFILE },
    { "trace", "[enable=]pattern[,events=file][,file=file]", RUNNING, "switches trace points on ('-trace help' lists them)",
      OPT_TRACE, "enable,events,file" },
    { "L", "path", RUNNING, "a directory where firmware is looked for first", OPT_DATA_DIR },
    { "no-fd-bootchk", NULL, RUNNING, "accepted", OPT_IGNORED },
    { "compat", "policy", RUNNING, "accepted", OPT_IGNORED },
    { "seed", "n", RUNNING, "accepted", OPT_IGNORED },
    { "gdb", "dev", RUNNING, "lets gdb connect to dev: tcp::1234, a unix socket, stdio, ...", OPT_GDB },
    { "s", NULL, RUNNING, "lets gdb connect to port 1234 of this host (-gdb tcp::1234)", OPT_GDB_SHORT },
    { "icount", "options", RUNNING, "instruction counting", OPT_UNSUPPORTED, NULL,
      "instruction counting is not supported" },
    { "incoming", "uri|defer", RUNNING, "waits for a machine's state: file:PATH, exec:COMMAND, unix:PATH, tcp:HOST:PORT, fd:NAME",
      OPT_INCOMING },
    { "loadvm", "tag", RUNNING, "starts from a snapshot (savevm)", OPT_LOADVM },
    { "runas", "user", RUNNING, "changes the user", OPT_UNSUPPORTED, NULL,
      "changing the user is not supported; start the program as that user" },
    { "chroot", "dir", RUNNING, "changes the root", OPT_UNSUPPORTED, NULL, "changing the root is not supported" },
    { "readconfig", "file", RUNNING, "reads a configuration file", OPT_UNSUPPORTED, NULL,
      "configuration files are not supported" },
    { "numa", "options", STANDARD, "NUMA nodes", OPT_UNSUPPORTED, NULL, "NUMA is not supported yet" },
    { "tpmdev", "options", STANDARD, "TPM", OPT_UNSUPPORTED, NULL, "TPM is not supported yet" },
    { "fsdev", "options", STANDARD, "file systems", OPT_UNSUPPORTED, NULL, "9p file systems are not supported yet" },
    { "virtfs", "options", STANDARD, "file systems", OPT_UNSUPPORTED, NULL, "9p file systems are not supported yet" },
    { "qtest", "dev", RUNNING, "test protocol", OPT_UNSUPPORTED, NULL, "the qtest protocol is not supported yet" },
};
/* clang-format on */
static const char *const sections[] = { STANDARD, BLOCK, NETWORK, CHARDEV, DISPLAY, BOOT, RUNNING };

/* ---- parsing ---- */

static const OptionInfo *option_find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(option_table); i++) {
        if (strcmp(option_table[i].name, name) == 0) {
            return &option_table[i];
        }
    }
    return NULL;
}

static bool option_unknown(const char *text, const char *name, GError **error)
{
    const char *names[G_N_ELEMENTS(option_table) + 1];

    for (size_t i = 0; i < G_N_ELEMENTS(option_table); i++) {
        names[i] = option_table[i].name;
    }
    names[G_N_ELEMENTS(option_table)] = NULL;
    error_set(error, "%s: invalid option", text);
    const char *near = nearest_match(name, names);
    if (near) {
        error_append_hint(error, "did you mean '-%s'?", near);
    }
    return false;
}

Options *cmdline_parse(int argc, char **argv, GError **error)
{
    Options *options = g_new0(Options, 1);

    options->list = g_array_new(false, true, sizeof(Option));
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i];
        if (text[0] != '-' || !text[1]) {
            error_set(error, "unexpected argument '%s'", text);
            error_append_hint(error, "A disk is given with -drive file=FILE,if=virtio.");
            cmdline_free(options);
            return NULL;
        }
        const char *name = text + (text[1] == '-' ? 2 : 1);
        Option option = { .info = option_find(name) };
        if (!option.info) {
            option_unknown(text, name, error);
            cmdline_free(options);
            return NULL;
        }
        if (option.info->argument) {
            if (i + 1 >= argc) {
                error_set(error, "%s: requires an argument", text);
                cmdline_free(options);
                return NULL;
            }
            option.argument = argv[++i];
        }
        if (option.info->id == OPT_UNSUPPORTED) {
            error_set(error, "-%s: %s", option.info->name, option.info->unsupported);
            cmdline_free(options);
            return NULL;
        }
        g_array_append_val(options->list, option);
    }
    return options;
}

void cmdline_free(Options *options)
{
    if (options) {
        g_array_unref(options->list);
        g_free(options);
    }
}

bool cmdline_has(const Options *options, OptionId id)
{
    for (guint i = 0; i < options->list->len; i++) {
        if (g_array_index(options->list, Option, i).info->id == id) {
            return true;
        }
    }
    return false;
}

const char *cmdline_last(const Options *options, OptionId id)
{
    for (guint i = options->list->len; i-- > 0;) {
        if (g_array_index(options->list, Option, i).info->id == id) {
            return g_array_index(options->list, Option, i).argument;
        }
    }
    return NULL;
}

/* ---- texts ---- */

static void append_wrapped(GString *out, const char *text, unsigned indent, unsigned width)
{
    unsigned column = indent;

    g_string_append_printf(out, "%*s", indent, "");
    while (*text) {
        size_t length = strcspn(text, " ");
        if (column > indent && column + 1 + length > width) {
            g_string_append_printf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            g_string_append_c(out, ' ');
            column++;
        }
        g_string_append_len(out, text, length);
        column += length;
        text += length;
        text += strspn(text, " ");
    }
    g_string_append_c(out, '\n');
}

char *cmdline_help(void)
{
    GString *out = g_string_new("Rhea machine emulator version " RHEA_VERSION "\n"
                                "usage: rhea-system-x86_64 [options]\n");

    for (size_t s = 0; s < G_N_ELEMENTS(sections); s++) {
        g_string_append_printf(out, "\n%s:\n", sections[s]);
        for (size_t i = 0; i < G_N_ELEMENTS(option_table); i++) {
            const OptionInfo *o = &option_table[i];
            if (strcmp(o->section, sections[s]) != 0 || o->id == OPT_UNSUPPORTED) {
                continue;
            }
            g_string_append_printf(out, "-%s%s%s\n", o->name, o->argument ? " " : "",
                                   o->argument ? o->argument : "");
            append_wrapped(out, o->help, 16, 100);
        }
    }
    g_string_append(
        out,
        "\nWith -nographic or -serial mon:stdio, press Ctrl-A H for the keys: Ctrl-A X ends the program, "
        "Ctrl-A C changes\nbetween the console and the monitor.\n");
    return g_string_free(out, false);
}

static void append_troff(GString *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '-' || *text == '\\') {
            g_string_append_c(out, '\\');
        }
        g_string_append_c(out, *text);
    }
}

char *cmdline_man_page(void)
{
    GString *out =
        g_string_new(".TH RHEA\\-SYSTEM\\-X86_64 1 \"\" \"Rhea " RHEA_VERSION "\" \"User Commands\"\n"
                     ".SH NAME\n"
                     "rhea\\-system\\-x86_64 \\- a virtual machine monitor and machine emulator\n"
                     ".SH SYNOPSIS\n"
                     ".B rhea\\-system\\-x86_64\n"
                     "[\\fIoptions\\fR]\n"
                     ".SH DESCRIPTION\n"
                     "Runs a virtual x86\\-64 machine. The options are those of qemu\\-system\\-x86_64, as "
                     "people and\nmanagement programs type them; what is not supported yet says so.\n"
                     ".SH OPTIONS\n");

    for (size_t s = 0; s < G_N_ELEMENTS(sections); s++) {
        g_string_append_printf(out, ".SS %s\n", sections[s]);
        for (size_t i = 0; i < G_N_ELEMENTS(option_table); i++) {
            const OptionInfo *o = &option_table[i];
            if (strcmp(o->section, sections[s]) != 0 || o->id == OPT_UNSUPPORTED) {
                continue;
            }
            g_string_append(out, ".TP\n\\fB\\-");
            append_troff(out, o->name);
            g_string_append(out, "\\fR");
            if (o->argument) {
                g_string_append(out, " \\fI");
                append_troff(out, o->argument);
                g_string_append(out, "\\fR");
            }
            g_string_append_c(out, '\n');
            append_troff(out, o->help);
            g_string_append(out, ".\n");
        }
    }
    g_string_append(
        out,
        ".SH EXIT STATUS\n"
        "0 when the guest powered off or the machine was ended from outside; 1 when the command line or\n"
        "the machine cannot be set up; other values come from the guest's isa\\-debug\\-exit device.\n"
        ".SH SEE ALSO\n"
        ".BR rhea (1)\n");
    return g_string_free(out, false);
}

char *cmdline_bash_completion(void)
{
    GString *out =
        g_string_new("# bash completion of rhea-system-x86_64\n_rhea_system()\n{\n    local cur prev\n"
                     "    cur=${COMP_WORDS[COMP_CWORD]}\n    prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                     "    case $prev in\n");

    for (size_t i = 0; i < G_N_ELEMENTS(option_table); i++) {
        const OptionInfo *o = &option_table[i];
        if (o->id == OPT_UNSUPPORTED || !o->argument) {
            continue;
        }
        g_string_append_printf(out, "    -%s) ", o->name);
        if (o->keys) {
            g_string_append(out, "COMPREPLY=($(compgen -W '");
            g_auto(GStrv) keys = g_strsplit(o->keys, ",", -1);
            for (char **key = keys; *key; key++) {
                g_string_append_printf(out, "%s%s=", key == keys ? "" : " ", *key);
            }
            g_string_append(out, " help' -- \"$cur\")); compopt -o nospace;");
        } else {
            g_string_append(out, "COMPREPLY=($(compgen -f -- \"$cur\"));");
        }
        g_string_append(out, " return;;\n");
    }
    g_string_append(out, "    esac\n    COMPREPLY=($(compgen -W '");
    for (size_t i = 0; i < G_N_ELEMENTS(option_table); i++) {
        if (option_table[i].id != OPT_UNSUPPORTED) {
            g_string_append_printf(out, "%s-%s", i ? " " : "", option_table[i].name);
        }
    }
    g_string_append(out, "' -- \"$cur\"))\n}\ncomplete -F _rhea_system rhea-system-x86_64\n");
    return g_string_free(out, false);
}

json_object *cmdline_introspect(void)
{
    json_object *list = json_object_new_array();

    for (size_t i = 0; i < G_N_ELEMENTS(option_table); i++) {
        const OptionInfo *o = &option_table[i];
        if (o->id == OPT_UNSUPPORTED || !o->keys || strcmp(o->name, "M") == 0) {
            continue;
        }
        json_object *parameters = json_object_new_array();
        g_auto(GStrv) keys = g_strsplit(o->keys, ",", -1);
        for (char **key = keys; *key; key++) {
            json_object *parameter = json_object_new_object();
            json_object_object_add(parameter, "name", json_object_new_string(*key));
            json_object_object_add(parameter, "type", json_object_new_string("string"));
            json_object_array_add(parameters, parameter);
        }
        json_object *entry = json_object_new_object();
        json_object_object_add(entry, "option",
                               json_object_new_string(o->id == OPT_SMP    ? "smp-opts"
                                                      : o->id == OPT_M    ? "memory"
                                                      : o->id == OPT_BOOT ? "boot-opts"
                                                                          : o->name));
        json_object_object_add(entry, "parameters", parameters);
        json_object_array_add(list, entry);
    }
    return list;
}

/* ---- values ---- */

bool cmdline_parse_size(const char *text, uint64_t default_unit, uint64_t *size, GError **error)
{
    static const char suffixes[] = "bkmgtpe";
    char *end;

    errno = 0;
    double value = g_ascii_strtod(text, &end);
    uint64_t whole = 0;
    bool exact = false;
    if (end != text && !memchr(text, '.', end - text) && g_ascii_isdigit(text[0])) {
        char *whole_end;
        errno = 0;
        whole = g_ascii_strtoull(text, &whole_end, 0);
        exact = errno == 0;
        if (errno == ERANGE) {
            return error_set(error, "size '%s' is too large: at most 16 EiB - 1 can be told", text);
        }
        end = whole_end;
    }
    uint64_t unit = default_unit;
    if (end == text || !(value >= 0)) {
        return error_set(error, "'%s' is no size", text);
    }
    if (*end) {
        const char *suffix = strchr(suffixes, g_ascii_tolower(*end));
        if (!suffix || end[1]) {
            return error_set(error, "'%s' is no size: suffixes are k, M, G, T, P and E", text);
        }
        unit = UINT64_C(1) << (10 * (suffix - suffixes));
    }
    if (exact ? __builtin_mul_overflow(whole, unit, size) : value * (double)unit >= 18446744073709551615.0) {
        return error_set(error, "size '%s' is too large: at most 16 EiB - 1 can be told", text);
    }
    if (!exact) {
        *size = (uint64_t)(value * (double)unit);
    }
    return true;
}

bool cmdline_check_keys(json_object *dict, const char *keys, GError **error)
{
    g_auto(GStrv) known = g_strsplit(keys, ",", -1);

    json_object_object_foreach(dict, key, value)
    {
        (void)value;
        if (!g_strv_contains((const char *const *)known, key)) {
            error_set(error, "Invalid parameter '%s'", key);
            nearest_hint(error, key, (const char *const *)known);
            return false;
        }
    }
    return true;
}

const char *cmdline_get(json_object *dict, const char *key)
{
    json_object *value;

    return json_object_object_get_ex(dict, key, &value) ? json_object_get_string(value) : NULL;
}

bool cmdline_get_bool(json_object *dict, const char *key, bool fallback, bool *value, GError **error)
{
    const char *text = cmdline_get(dict, key);

    *value = fallback;
    if (!text) {
        return true;
    }
    if (!strcmp(text, "on") || !strcmp(text, "yes") || !strcmp(text, "true") || !strcmp(text, "y")) {
        *value = true;
        return true;
    }
    if (!strcmp(text, "off") || !strcmp(text, "no") || !strcmp(text, "false") || !strcmp(text, "n")) {
        *value = false;
        return true;
    }
    return error_set(error, "Parameter '%s' expects 'on' or 'off'", key);
}

bool cmdline_get_uint(json_object *dict, const char *key, uint64_t fallback, uint64_t max, uint64_t *value,
                      GError **error)
{
    const char *text = cmdline_get(dict, key);
    char *end;

    *value = fallback;
    if (!text) {
        return true;
    }
    errno = 0;
    uint64_t number = g_ascii_strtoull(text, &end, 0);
    if (!g_ascii_isdigit(*text) || *end || errno) {
        return error_set(error, "Parameter '%s' expects a number", key);
    }
    if (number > max) {
        return error_set(error, "Parameter '%s' is too large: at most %" PRIu64, key, max);
    }
    *value = number;
    return true;
}
