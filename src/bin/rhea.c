/*
 * rhea: the friendly front. `rhea run` turns a few words into the long command line of rhea-system-x86_64 and
 * becomes it; `rhea doctor` says what this host offers and how to mend what is missing.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "rhea_config.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>
#ifdef CONFIG_IO_URING
#include <liburing.h>
#endif
#include <arpa/inet.h>
#include <linux/kvm.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>

#define SYSTEM_PROGRAM "rhea-system-x86_64"

/* ---- rhea run ---- */

typedef struct RunOptions {
    char *image, *kernel, *initrd, *append, *memory, *machine, *cpu, *accel, *cpus, *format;
    char **forwards;
    gboolean print_command, no_network, web;
    char *web_address; /* of --web=ADDRESS, or NULL */
    char **rest;       /* what follows "--" goes to the system program as it is */
} RunOptions;

/* Memory by default: a quarter of what is free now, from 256 MiB to 2 GiB. */
static char *default_memory(void)
{
    struct sysinfo info;
    uint64_t mib = 512;
    if (sysinfo(&info) == 0) {
        mib = (uint64_t)info.freeram * info.mem_unit / 4 >> 20;
    }
    return g_strdup_printf("%u", (unsigned)CLAMP(mib, 256, 2048));
}

/* The image's format: by its first bytes; raw where they are nothing known. */
static bool probe_format(const char *path, const char **format, GError **error)
{
    static const struct {
        const char *magic;
        size_t length;
        const char *name;
    } known[] = { { "QFI\xfb", 4, "qcow2" }, { "KDMV", 4, "vmdk" },         { "QED", 4, "qed" },
                  { "vhdxfile", 8, "vhdx" }, { "LUKS\xba\xbe", 6, "luks" }, { "conectix", 8, "vpc" } };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        error_set_errno(error, errno, "Could not open disk image '%s'", path);
        if (errno == ENOENT) {
            error_append_hint(error, "To make an empty one: rhea-img create -f qcow2 '%s' 10G", path);
        }
        return false;
    }
    char head[8] = { 0 };
    ssize_t got = read(fd, head, sizeof(head));
    close(fd);
    *format = "raw";
    for (size_t i = 0; got > 0 && i < G_N_ELEMENTS(known); i++) {
        if ((size_t)got >= known[i].length && memcmp(head, known[i].magic, known[i].length) == 0) {
            *format = known[i].name;
        }
    }
    return true;
}

/* The system program beside this one, or by PATH. */
static char *system_program(void)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    if (self) {
        g_autofree char *directory = g_path_get_dirname(self);
        char *beside = g_build_filename(directory, SYSTEM_PROGRAM, NULL);
        if (access(beside, X_OK) == 0) {
            return beside;
        }
        g_free(beside);
    }
    return g_strdup(SYSTEM_PROGRAM);
}

static void add(GPtrArray *argv, const char *word)
{
    g_ptr_array_add(argv, g_strdup(word));
}

static void add_pair(GPtrArray *argv, const char *option, char *value /* taken */)
{
    add(argv, option);
    g_ptr_array_add(argv, value);
}

/* A file name inside an option's value: its commas are doubled. */
static char *escape_commas(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    return g_strjoinv(",,", parts);
}

/* "8080:80" or "tcp:127.0.0.1:8080:80" to a hostfwd rule of -netdev user. */
static char *forward_rule(const char *text, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, ":", -1);
    guint count = g_strv_length(parts);
    const char *protocol = count == 4 ? parts[0] : "tcp";
    const char *address = count == 4 ? parts[1] : "127.0.0.1";
    guint64 host, guest;
    if ((count != 2 && count != 4) ||
        !g_ascii_string_to_unsigned(parts[count - 2], 10, 1, 65535, &host, NULL) ||
        !g_ascii_string_to_unsigned(parts[count - 1], 10, 1, 65535, &guest, NULL) ||
        (strcmp(protocol, "tcp") != 0 && strcmp(protocol, "udp") != 0)) {
        error_set(error, "Port forward '%s' is not HOST:GUEST or PROTOCOL:ADDRESS:HOST:GUEST", text);
        return NULL;
    }
    return g_strdup_printf("hostfwd=%s:%s:%u-:%u", protocol, address, (unsigned)host, (unsigned)guest);
}

/* ---- the screen in a browser ---- */

#define WEB_FIRST_PORT 6080
#define WEB_PORTS      20

/* "PORT", "ADDRESS:PORT", or NULL: the first free port of this host's own address. Caller frees. */
static char *web_listen(const char *wanted, GError **error)
{
    guint64 port;

    if (wanted && g_ascii_string_to_unsigned(wanted, 10, 1, 65535, &port, NULL)) {
        return g_strdup_printf("127.0.0.1:%u", (unsigned)port);
    }
    if (wanted) {
        return g_strdup(wanted);
    }
    for (unsigned n = WEB_FIRST_PORT; n < WEB_FIRST_PORT + WEB_PORTS; n++) {
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_port = htons((uint16_t)n),
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        bool is_free = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
        close(fd);
        if (is_free) {
            return g_strdup_printf("127.0.0.1:%u", n);
        }
    }
    error_set(error, "No port from %d to %d is free for the screen's page", WEB_FIRST_PORT,
              WEB_FIRST_PORT + WEB_PORTS - 1);
    error_append_hint(error, "Name one: --web=PORT.");
    return NULL;
}

/* A password that only the address in the user's terminal has: eight letters and digits, in a file without a
 * name that the system program inherits. Its descriptor, or -1. */
static int web_password(char password[9], GError **error)
{
    static const char letters[] = "abcdefghijkmnpqrstuvwxyz23456789"; /* 32 that look different */
    uint8_t bytes[8];
    int fd = memfd_create("rhea-web-password", 0);

    if (fd < 0 || getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes)) {
        error_set_errno(error, errno, "Could not make a password for the screen's page");
        return -1;
    }
    for (size_t i = 0; i < sizeof(bytes); i++) {
        password[i] = letters[bytes[i] % 32];
    }
    password[8] = 0;
    if (write(fd, password, 8) != 8) {
        error_set_errno(error, errno, "Could not keep the password for the screen's page");
        return -1;
    }
    return fd;
}

static bool add_web(const RunOptions *o, GPtrArray *argv, GError **error)
{
    g_autofree char *listen = web_listen(o->web_address, error);
    g_autofree char *file = g_strdup("FILE-WITH-PASSWORD"); /* where the command is but shown */
    char password[9] = "";

    if (!listen) {
        return false;
    }
    if (!o->print_command) {
        int fd = web_password(password, error);
        if (fd < 0) {
            return false;
        }
        g_free(file);
        file = g_strdup_printf("/dev/fd/%d", fd);
    }
    if (!o->machine || !g_str_has_prefix(o->machine, "microvm")) {
        add_pair(argv, "-vga", g_strdup("std"));
        add_pair(argv, "-device", g_strdup("virtio-tablet-pci"));
    }
    add_pair(argv, "-object", g_strdup_printf("secret,id=web-password,file=%s", file));
    add_pair(argv, "-vnc", g_strdup_printf("none,websocket=%s,web=on,password-secret=web-password", listen));
    if (!o->print_command) {
        fprintf(stderr, "Screen: http://%s/#password=%s\n", listen, password);
    }
    return true;
}

static bool build_command(const RunOptions *o, GPtrArray *argv, GError **error)
{
    g_ptr_array_add(argv, system_program());
    if (!o->kernel && !o->image) {
        error_set(error, "Nothing to run: neither a disk image nor a kernel is given");
        error_append_hint(
            error, "Try 'rhea run disk.img' or 'rhea run --kernel vmlinuz --initrd initrd.gz disk.img'.");
        return false;
    }
    bool microvm = o->machine && g_str_has_prefix(o->machine, "microvm");
    const char *bus = microvm ? "device" : "pci";
    add_pair(argv, "-machine", g_strdup(o->machine ? o->machine : "pc"));
    add_pair(argv, "-accel", g_strdup(o->accel ? o->accel : "tcg"));
    add_pair(argv, "-cpu", g_strdup(o->cpu ? o->cpu : "max"));
    add_pair(argv, "-smp", g_strdup(o->cpus ? o->cpus : g_get_num_processors() > 1 ? "2" : "1"));
    add_pair(argv, "-m", o->memory ? g_strdup(o->memory) : default_memory());
    add(argv, "-nodefaults");
    add(argv, "-no-user-config");
    add_pair(argv, "-display", g_strdup("none"));
    add_pair(argv, "-chardev", g_strdup("stdio,id=console,mux=on,signal=off"));
    add_pair(argv, "-serial", g_strdup("chardev:console"));
    add_pair(argv, "-mon", g_strdup("chardev=console,mode=readline"));
    if (o->kernel) {
        add_pair(argv, "-kernel", g_strdup(o->kernel));
    } else if (!microvm && !o->web) {
        add_pair(argv, "-machine", g_strdup("graphics=off")); /* firmware talks on the serial port */
    }
    if (o->initrd) {
        add_pair(argv, "-initrd", g_strdup(o->initrd));
    }
    if (o->kernel || o->append) {
        add_pair(argv, "-append", g_strdup(o->append ? o->append : "console=ttyS0 quiet"));
    }
    if (o->image) {
        const char *format = o->format;
        if (!format && !probe_format(o->image, &format, error)) {
            return false;
        }
        g_autofree char *path = escape_commas(o->image);
        add_pair(argv, "-drive", g_strdup_printf("file=%s,format=%s,if=none,id=disk0", path, format));
        add_pair(argv, "-device", g_strdup_printf("virtio-blk-%s,drive=disk0", bus));
    }
    if (!o->no_network) {
        GString *netdev = g_string_new("user,id=net0");
        for (char **forward = o->forwards; forward && *forward; forward++) {
            g_autofree char *rule = forward_rule(*forward, error);
            if (!rule) {
                g_string_free(netdev, TRUE);
                return false;
            }
            g_string_append_printf(netdev, ",%s", rule);
        }
        add_pair(argv, "-netdev", g_string_free(netdev, FALSE));
        add_pair(argv, "-device", g_strdup_printf("virtio-net-%s,netdev=net0", bus));
    }
    add_pair(argv, "-object", g_strdup("rng-random,id=rng0,filename=/dev/urandom"));
    add_pair(argv, "-device", g_strdup_printf("virtio-rng-%s,rng=rng0", bus));
    if (o->web && !add_web(o, argv, error)) {
        return false;
    }
    for (char **word = o->rest; word && *word; word++) {
        add(argv, *word);
    }
    return true;
}

static int report(GError *error)
{
    error_report(error);
    g_error_free(error);
    return 1;
}

/* --web takes an address or none, which GOption wants a function for. */
static RunOptions *run_options;

static gboolean on_web(const char *option, const char *value, void *data, GError **error)
{
    run_options->web = TRUE;
    run_options->web_address = g_strdup(value);
    return TRUE;
}

static int command_run(int argc, char **argv)
{
    RunOptions o = { 0 };
    char **words = NULL;
    run_options = &o;
    const GOptionEntry entries[] = {
        { "kernel", 'k', 0, G_OPTION_ARG_FILENAME, &o.kernel,
          "Linux kernel (bzImage or PVH ELF) to start instead of the disk's boot loader", "FILE" },
        { "initrd", 'i', 0, G_OPTION_ARG_FILENAME, &o.initrd, "initial RAM disk", "FILE" },
        { "append", 'a', 0, G_OPTION_ARG_STRING, &o.append, "the kernel's command line", "TEXT" },
        { "memory", 'm', 0, G_OPTION_ARG_STRING, &o.memory, "guest memory, in MiB or with a suffix", "SIZE" },
        { "cpus", 'c', 0, G_OPTION_ARG_STRING, &o.cpus, "number of vCPUs", "N" },
        { "machine", 'M', 0, G_OPTION_ARG_STRING, &o.machine, "pc (default) or microvm", "TYPE" },
        { "cpu", 0, 0, G_OPTION_ARG_STRING, &o.cpu, "CPU model (default: max)", "MODEL" },
        { "accel", 0, 0, G_OPTION_ARG_STRING, &o.accel, "accelerator (default: the best this host has)",
          "NAME" },
        { "forward", 'p', 0, G_OPTION_ARG_STRING_ARRAY, &o.forwards, "forward a host port; may be repeated",
          "HOST:GUEST" },
        { "format", 'f', 0, G_OPTION_ARG_STRING, &o.format, "the image's format (default: looked at)",
          "NAME" },
        { "web", 'w', G_OPTION_FLAG_OPTIONAL_ARG, G_OPTION_ARG_CALLBACK, (void *)on_web,
          "show the screen in a browser, whose address is printed (default: a free port of this host)",
          "[ADDRESS:]PORT" },
        { "no-network", 0, 0, G_OPTION_ARG_NONE, &o.no_network, "no network card", NULL },
        { "print-command", 0, 0, G_OPTION_ARG_NONE, &o.print_command, "print the long command line and stop",
          NULL },
        { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &words, NULL, NULL },
        { NULL },
    };
    /* What follows "--" is for the system program. */
    int own = argc;
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            own = i;
            o.rest = &argv[i + 1];
            break;
        }
    }
    g_autoptr(GPtrArray) mine = g_ptr_array_new();
    for (int i = 0; i < own; i++) {
        g_ptr_array_add(mine, argv[i]);
    }
    int mine_count = mine->len;
    char **mine_argv = (char **)mine->pdata;
    g_autoptr(GOptionContext) context = g_option_context_new("[IMAGE] [-- OPTIONS OF " SYSTEM_PROGRAM "]");
    g_option_context_set_summary(
        context, "Runs a virtual machine: virtio disk and network, random numbers, the serial\n"
                 "console on this terminal. Ctrl-A X ends it, Ctrl-A C is the monitor.");
    g_option_context_add_main_entries(context, entries, NULL);
    GError *error = NULL;
    if (!g_option_context_parse(context, &mine_count, &mine_argv, &error)) {
        return report(error);
    }
    if (words && words[0] && words[1]) {
        error_set(&error, "One disk image at most: what is '%s'?", words[1]);
        return report(error);
    }
    o.image = words ? words[0] : NULL;

    g_autoptr(GPtrArray) command = g_ptr_array_new_with_free_func(g_free);
    if (!build_command(&o, command, &error)) {
        return report(error);
    }
    if (o.print_command) {
        for (guint i = 0; i < command->len; i++) {
            const char *word = command->pdata[i];
            bool plain =
                *word && strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                      "-_=,./:+@%") == strlen(word);
            g_autofree char *quoted = plain ? g_strdup(word) : g_shell_quote(word);
            printf("%s%s", i ? " " : "", quoted);
        }
        printf("\n");
        return 0;
    }
    g_ptr_array_add(command, NULL);
    execvp(command->pdata[0], (char **)command->pdata);
    error_set_errno(&error, errno, "Could not start '%s'", (char *)command->pdata[0]);
    return report(error);
}

/* ---- rhea doctor ---- */

typedef enum Verdict { VERDICT_OK, VERDICT_NOTE, VERDICT_BAD } Verdict;

typedef struct Doctor {
    json_object *list;
    bool json;
    Verdict worst;
} Doctor;

/* One finding: what was looked at, what was found, and (unless all is well) the cure. */
static void finding(Doctor *d, Verdict verdict, const char *name, const char *cure, const char *fmt, ...)
    G_GNUC_PRINTF(5, 6);
static void finding(Doctor *d, Verdict verdict, const char *name, const char *cure, const char *fmt, ...)
{
    static const char *const words[] = { "ok", "note", "bad" };
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    d->worst = MAX(d->worst, verdict);
    if (d->json) {
        json_object *entry = json_object_new_object();
        json_object_object_add(entry, "name", json_object_new_string(name));
        json_object_object_add(entry, "verdict", json_object_new_string(words[verdict]));
        json_object_object_add(entry, "finding", json_object_new_string(text));
        if (cure) {
            json_object_object_add(entry, "cure", json_object_new_string(cure));
        }
        json_object_array_add(d->list, entry);
    } else {
        printf("%-5s %-16s %s\n", words[verdict], name, text);
        if (cure) {
            printf("%-22s -> %s\n", "", cure);
        }
    }
}

static bool can_use_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    int version = ioctl(fd, KVM_GET_API_VERSION, 0);
    close(fd);
    return version == KVM_API_VERSION;
}

static void examine_kvm(Doctor *d)
{
    if (can_use_kvm()) {
        finding(d, VERDICT_NOTE, "kvm", NULL,
                "/dev/kvm works: -accel kvm uses it, -accel auto where it runs kernel code natively");
    } else if (errno == ENOENT) {
        finding(d, VERDICT_NOTE, "kvm",
                "modprobe kvm_intel or kvm_amd; in a container pass --device /dev/kvm",
                "/dev/kvm is missing: guests run on the software CPU");
    } else {
        finding(d, VERDICT_NOTE, "kvm",
                "add your user to the group that owns /dev/kvm: usermod -aG kvm $USER",
                "/dev/kvm cannot be opened: %s", g_strerror(errno));
    }
}

static void examine_io_uring(Doctor *d)
{
#ifdef CONFIG_IO_URING
    struct io_uring ring;
    int status = io_uring_queue_init(4, &ring, 0);
    if (status == 0) {
        io_uring_queue_exit(&ring);
        finding(d, VERDICT_OK, "io_uring", NULL, "works");
    } else {
        finding(d, VERDICT_NOTE, "io_uring",
                "sysctl kernel.io_uring_disabled=0, or a container profile that allows io_uring_setup",
                "refused (%s): epoll and threads are used instead", g_strerror(-status));
    }
#else
    finding(d, VERDICT_NOTE, "io_uring", "build with liburing-dev installed", "not built in");
#endif
}

static void examine_userfaultfd(Doctor *d)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) {
        close(fd);
        finding(d, VERDICT_OK, "userfaultfd", NULL, "works");
    } else {
        finding(d, VERDICT_NOTE, "userfaultfd", "sysctl vm.unprivileged_userfaultfd=1",
                "refused (%s): needed for postcopy migration only", g_strerror(errno));
    }
}

static void examine_cpu(Doctor *d)
{
    __builtin_cpu_init();
    bool v3 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
    if (v3) {
        finding(d, VERDICT_OK, "host CPU", NULL,
                "x86-64-v3: guests get AVX2, FMA and BMI2 on the software CPU");
    } else {
        finding(d, VERDICT_NOTE, "host CPU", NULL,
                "below x86-64-v3: guests get only the SIMD extensions that this CPU has");
    }
}

static void examine_memory(Doctor *d)
{
    struct sysinfo info;
    if (sysinfo(&info) == 0) {
        uint64_t free_mib = (uint64_t)info.freeram * info.mem_unit >> 20;
        finding(d, free_mib < 512 ? VERDICT_BAD : VERDICT_OK, "memory",
                free_mib < 512 ? "stop other programs, or run guests with less (-m 128)" : NULL,
                "%u MiB free", (unsigned)free_mib);
    }
    g_autofree char *huge = NULL;
    if (g_file_get_contents("/proc/sys/vm/nr_hugepages", &huge, NULL, NULL)) {
        bool some = g_ascii_strtoull(huge, NULL, 10) > 0;
        finding(d, some ? VERDICT_OK : VERDICT_NOTE, "huge pages",
                some ? NULL : "only if you want them: sysctl vm.nr_hugepages=512 reserves 1 GiB",
                "%s reserved", g_strstrip(huge));
    }
}

static void examine_limits(Doctor *d)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        bool low = limit.rlim_cur < 1024;
        finding(d, low ? VERDICT_BAD : VERDICT_OK, "open files", low ? "ulimit -n 4096" : NULL,
                "at most %llu", (unsigned long long)limit.rlim_cur);
    }
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < 8u << 20) {
        finding(d, VERDICT_NOTE, "locked memory", "ulimit -l unlimited, for guests with locked memory only",
                "at most %llu KiB", (unsigned long long)limit.rlim_cur >> 10);
    }
    /* The translator will need memory that is executable through one mapping and writable through another. */
    int fd = memfd_create("rhea-doctor", MFD_CLOEXEC);
    void *map = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, 4096) == 0) {
        map = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    if (map != MAP_FAILED) {
        munmap(map, 4096);
        finding(d, VERDICT_OK, "executable memory", NULL, "allowed");
    } else {
        finding(d, VERDICT_BAD, "executable memory",
                "sysctl vm.memfd_noexec=0, and no policy against execmem",
                "refused (%s): guest SIMD cannot run", g_strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void examine_network(Doctor *d)
{
#ifdef CONFIG_SLIRP
    finding(d, VERDICT_OK, "user network", NULL, "libslirp is built in");
#else
    finding(d, VERDICT_BAD, "user network", "build with libslirp-dev installed", "libslirp is not built in");
#endif
    bool tun = access("/dev/net/tun", R_OK | W_OK) == 0;
    finding(d, tun ? VERDICT_OK : VERDICT_NOTE, "tap",
            tun ? NULL : "modprobe tun, and run as root or with a tap device that is yours",
            "/dev/net/tun %s", tun ? "can be opened" : g_strerror(errno));
}

static void examine_firmware(Doctor *d)
{
    static const struct {
        const char *name, *path, *package;
    } files[] = {
        { "SeaBIOS", "/usr/share/seabios/bios-256k.bin", "seabios" },
        { "OVMF", "/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf" },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(files); i++) {
        bool there = access(files[i].path, R_OK) == 0;
        g_autofree char *cure = g_strdup_printf(
            "apt-get install %s (this version starts kernels without firmware)", files[i].package);
        finding(d, there ? VERDICT_OK : VERDICT_NOTE, files[i].name, there ? NULL : cure, "%s %s",
                files[i].path, there ? "is there" : "is missing");
    }
}

static int command_doctor(int argc, char **argv)
{
    gboolean json = FALSE;
    const GOptionEntry entries[] = {
        { "json", 0, 0, G_OPTION_ARG_NONE, &json, "print a JSON array", NULL },
        { NULL },
    };
    g_autoptr(GOptionContext) context = g_option_context_new("");
    g_option_context_set_summary(context, "Says what this host offers and how to mend what is missing.\n"
                                          "Exit status 1 where something bad was found.");
    g_option_context_add_main_entries(context, entries, NULL);
    GError *error = NULL;
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        return report(error);
    }
    Doctor d = { .json = json, .list = json_object_new_array() };
    examine_cpu(&d);
    examine_kvm(&d);
    examine_io_uring(&d);
    examine_userfaultfd(&d);
    examine_memory(&d);
    examine_limits(&d);
    examine_network(&d);
    examine_firmware(&d);
    if (json) {
        printf("%s\n", json_object_to_json_string_ext(d.list, JSON_C_TO_STRING_PRETTY));
    }
    json_object_put(d.list);
    return d.worst == VERDICT_BAD;
}

static void usage(FILE *to)
{
    fprintf(to, "usage: rhea COMMAND [OPTIONS]\n\n"
                "  run [IMAGE]   run a virtual machine with sensible defaults\n"
                "  doctor        say what this host offers and how to mend what is missing\n"
                "  version       print the version\n\n"
                "'rhea COMMAND --help' tells more; " SYSTEM_PROGRAM " takes every option.\n");
}

int main(int argc, char **argv)
{
    static const char *const commands[] = { "run", "doctor", "version", "help", NULL };
    log_set_program("rhea");
    if (argc < 2) {
        usage(stderr);
        return 1;
    }
    const char *command = argv[1];
    /* Each command sees its own name as argv[0]. */
    g_autofree char *name = g_strdup_printf("rhea %s", command);
    g_set_prgname(name);
    if (strcmp(command, "run") == 0) {
        return command_run(argc - 1, argv + 1);
    }
    if (strcmp(command, "doctor") == 0) {
        return command_doctor(argc - 1, argv + 1);
    }
    if (strcmp(command, "version") == 0 || strcmp(command, "--version") == 0) {
        printf("rhea " RHEA_VERSION "\n");
        return 0;
    }
    if (strcmp(command, "help") == 0 || strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0) {
        usage(stdout);
        return 0;
    }
    GError *error = NULL;
    error_set(&error, "Unknown command '%s'", command);
    nearest_hint(&error, command, commands);
    return report(error);
}
