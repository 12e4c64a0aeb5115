/* rhea-nbd: exports a disk image over NBD, for anyone who speaks it. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "base/error.h"
#include "base/log.h"
#include "block/export/nbd_proto.h"
#include "block/export/nbd_server.h"
#include "img/tool.h"
#include "io/socket.h"
#include "io/tls.h"
#include "qapi/visitor.h"
#include "rhea_config.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define LISTEN_FD 3 /* the first that systemd hands over */

enum {
    OPT_CACHE = IMG_OPT_FIRST,
    OPT_AIO,
    OPT_DISCARD,
    OPT_DETECT_ZEROES,
    OPT_FORK,
    OPT_PID_FILE,
    OPT_TLS_CREDS,
    OPT_TLS_AUTHZ,
    OPT_TLS_HOSTNAME,
    OPT_SELINUX_LABEL,
    OPT_MAN,
};

/* clang-format off */
static const struct {
    const char *heading, *words, *meaning;
    struct option option;
} options[] = {
    { NULL, "-h, --help", "display this help and exit", { "help", no_argument, NULL, 'h' } },
    { NULL, "-V, --version", "output version information and exit", { "version", no_argument, NULL, 'V' } },
    { "Connection properties", "-p, --port=PORT", "port to listen on (default `10809')", { "port", required_argument, NULL, 'p' } },
    { NULL, "-b, --bind=IFACE", "interface to bind to (default `0.0.0.0')", { "bind", required_argument, NULL, 'b' } },
    { NULL, "-k, --socket=PATH", "path to the unix socket", { "socket", required_argument, NULL, 'k' } },
    { NULL, "-e, --shared=NUM", "device can be shared by NUM clients (default '1'; 0 is any number)", { "shared", required_argument, NULL, 'e' } },
    { NULL, "-t, --persistent", "don't exit on the last connection", { "persistent", no_argument, NULL, 't' } },
    { NULL, "-v, --verbose", "display extra debugging information", { "verbose", no_argument, NULL, 'v' } },
    { NULL, "-x, --export-name=NAME", "expose export by name (default is empty string)", { "export-name", required_argument, NULL, 'x' } },
    { NULL, "-D, --description=TEXT", "export a human-readable description", { "description", required_argument, NULL, 'D' } },
    { "Exposing part of the image", "-o, --offset=OFFSET", "offset into the image", { "offset", required_argument, NULL, 'o' } },
    { NULL, "-A, --allocation-depth", "expose the allocation depth", { "allocation-depth", no_argument, NULL, 'A' } },
    { NULL, "-B, --bitmap=NAME", "expose a persistent dirty bitmap", { "bitmap", required_argument, NULL, 'B' } },
    { "General purpose options", "-L, --list", "list exports available from another NBD server", { "list", no_argument, NULL, 'L' } },
    { NULL, "--object type,id=ID,...", "define an object such as 'secret' for providing passwords and/or encryption keys", { "object", required_argument, NULL, IMG_OPT_OBJECT } },
    { NULL, "-T, --trace STRING", "accepted; trace points are those of the build", { "trace", required_argument, NULL, 'T' } },
    { NULL, "--fork", "fork off the server process and exit the parent once the server is running", { "fork", no_argument, NULL, OPT_FORK } },
    { NULL, "--pid-file=PATH", "store the server's process ID in the given file", { "pid-file", required_argument, NULL, OPT_PID_FILE } },
    { NULL, "--tls-creds=ID", "use the TLS credentials object ID: every client must then", { "tls-creds", required_argument, NULL, OPT_TLS_CREDS } },
    { NULL, "--tls-authz=ID", "let in only whom the authorization object ID allows", { "tls-authz", required_argument, NULL, OPT_TLS_AUTHZ } },
    { NULL, "--tls-hostname=HOSTNAME", "with -L: what the server's certificate must name, instead of -b", { "tls-hostname", required_argument, NULL, OPT_TLS_HOSTNAME } },
    { "Block device options", "-f, --format=FORMAT", "set image format (raw, qcow2, ...)", { "format", required_argument, NULL, 'f' } },
    { NULL, "-r, --read-only", "export read-only", { "read-only", no_argument, NULL, 'r' } },
    { NULL, "-s, --snapshot", "write to a temporary overlay that is thrown away at the end", { "snapshot", no_argument, NULL, 's' } },
    { NULL, "-l, --load-snapshot=SNAPSHOT_PARAM", "export an internal snapshot read-only: 'snapshot.id=[ID],snapshot.name=[NAME]', or '[ID_OR_NAME]'", { "load-snapshot", required_argument, NULL, 'l' } },
    { NULL, "-n, --nocache", "disable host cache", { "nocache", no_argument, NULL, 'n' } },
    { NULL, "--cache=MODE", "'none', 'writeback' (default), 'writethrough', 'directsync' or 'unsafe'", { "cache", required_argument, NULL, OPT_CACHE } },
    { NULL, "--aio=MODE", "set AIO mode (native, io_uring or threads)", { "aio", required_argument, NULL, OPT_AIO } },
    { NULL, "--discard=MODE", "set discard mode (ignore, unmap)", { "discard", required_argument, NULL, OPT_DISCARD } },
    { NULL, "--detect-zeroes=MODE", "set detect-zeroes mode (off, on, unmap)", { "detect-zeroes", required_argument, NULL, OPT_DETECT_ZEROES } },
    { NULL, "--image-opts", "treat FILE as a full set of image options", { "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS } },
    /* known, but not for use here */
    { NULL, NULL, NULL, { "connect", required_argument, NULL, 'c' } },
    { NULL, NULL, NULL, { "disconnect", no_argument, NULL, 'd' } },
    { NULL, NULL, NULL, { "selinux-label", required_argument, NULL, OPT_SELINUX_LABEL } },
    { NULL, NULL, NULL, { "print-man", no_argument, NULL, OPT_MAN } },
};
/* clang-format on */

typedef struct Settings {
    const char *port, *bind, *socket, *export_name, *description, *format, *snapshot, *pid_file;
    const char *aio, *discard, *detect_zeroes, *tls_creds, *tls_authz, *tls_hostname;
    GPtrArray *bitmaps, *objects;
    uint64_t offset;
    unsigned shared;
    ImgCache cache;
    bool persistent, depth, list, fork, read_only, overlay, image_opts, verbose;
    bool has_cache;
} Settings;

typedef struct Serving {
    ImgTool *tool;
    NbdServer *server;
    bool persistent, stop;
    int signals;
} Serving;

static void help(void)
{
    printf("Usage: %s [OPTIONS] FILE\n  or:  %s -L [OPTIONS]\nDisk Network Block Device Utility\n\n",
           g_get_prgname(), g_get_prgname());
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (options[i].heading) {
            printf("\n%s:\n", options[i].heading);
        }
        if (options[i].words) {
            printf("  %-25s %s\n", options[i].words, options[i].meaning);
        }
    }
}

static void print_man(void)
{
    printf(".TH RHEA-NBD 1 \"\" \"Rhea " RHEA_VERSION "\"\n.SH NAME\nrhea-nbd \\- disk image server for NBD\n"
           ".SH SYNOPSIS\n.B rhea-nbd\n[OPTIONS] FILE\n.br\n.B rhea-nbd\n\\-L [OPTIONS]\n.SH DESCRIPTION\n"
           "Exports a disk image with the NBD protocol on a TCP port or a unix socket, or lists what another "
           "server "
           "exports. Options and behaviour are those of qemu-nbd. It ends when its last client leaves, "
           "unless \\-t is "
           "given, and on SIGTERM, SIGINT and SIGHUP, with everything written back. Where systemd hands over "
           "a socket "
           "(LISTEN_FDS=1), it serves that one.\n.SH OPTIONS\n");
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (options[i].heading) {
            printf(".SS %s\n", options[i].heading);
        }
        if (options[i].words) {
            g_auto(GStrv) parts = g_strsplit(options[i].words, "-", -1);
            g_autofree char *words = g_strjoinv("\\-", parts);
            printf(".TP\n.B %s\n%s\n", words, options[i].meaning);
        }
    }
    printf(".SH SEE ALSO\nrhea-img(1), rhea-io(1)\n");
}

static void fail(const char *fmt, ...) G_GNUC_PRINTF(1, 2) __attribute__((noreturn));
static void fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    log_error("%s", text);
    g_free(text);
    exit(EXIT_FAILURE);
}

static void parse(Settings *s, int argc, char **argv)
{
    struct option longs[G_N_ELEMENTS(options) + 1] = { 0 };
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        longs[i] = options[i].option;
    }
    uint64_t number;
    int c;
    while ((c = getopt_long(argc, argv, "hVb:o:p:rsnc:dvk:e:f:tl:x:T:D:AB:L", longs, NULL)) != -1) {
        switch (c) {
        case 'h':
            help();
            exit(EXIT_SUCCESS);
        case 'V':
            printf("%s " RHEA_QEMU_VERSION " (Rhea " RHEA_VERSION ")\n", g_get_prgname());
            exit(EXIT_SUCCESS);
        case OPT_MAN:
            print_man();
            exit(EXIT_SUCCESS);
        case 's':
            s->overlay = true;
            break;
        case 'n':
            optarg = (char *)"none";
            /* fall through */
        case OPT_CACHE:
            if (s->has_cache) {
                fail("-n and --cache can only be specified once");
            }
            s->has_cache = true;
            if (!img_cache_parse(optarg, &s->cache)) {
                fail("Invalid cache mode `%s'", optarg);
            }
            break;
        case OPT_AIO:
            if (s->aio) {
                fail("--aio can only be specified once");
            }
            s->aio = optarg;
            if (!g_str_equal(optarg, "native") && !g_str_equal(optarg, "threads") &&
                !g_str_equal(optarg, "io_uring")) {
                fail("Invalid aio mode '%s'", optarg);
            }
            break;
        case OPT_DISCARD:
            if (s->discard) {
                fail("--discard can only be specified once");
            }
            s->discard = optarg;
            if (!g_str_equal(optarg, "ignore") && !g_str_equal(optarg, "off") &&
                !g_str_equal(optarg, "unmap") && !g_str_equal(optarg, "on")) {
                fail("Invalid discard mode `%s'", optarg);
            }
            s->discard = g_str_equal(optarg, "unmap") || g_str_equal(optarg, "on") ? "unmap" : "ignore";
            break;
        case OPT_DETECT_ZEROES: {
            g_autoptr(GError) error = NULL;
            if (enum_parse(&qapi_BlockdevDetectZeroesOptions_lookup, optarg, &error) < 0) {
                error_prefix(&error, "Failed to parse detect_zeroes mode: ");
                error_report(error);
                exit(EXIT_FAILURE);
            }
            s->detect_zeroes = optarg;
            break;
        }
        case 'b':
            s->bind = optarg;
            break;
        case 'p':
            s->port = optarg;
            break;
        case 'o':
            if (img_size_value(optarg, 1, &s->offset) < 0 || s->offset > INT64_MAX) {
                fail("Invalid offset '%s'", optarg);
            }
            break;
        case 'l':
            if (!img_snapshot_param_is_valid(optarg)) {
                fail("Failed in parsing snapshot param `%s'", optarg);
            }
            s->snapshot = optarg;
            s->read_only = true;
            break;
        case 'r':
            s->read_only = true;
            break;
        case 'A':
            s->depth = true;
            break;
        case 'B':
            g_ptr_array_add(s->bitmaps, optarg);
            break;
        case 'k':
            s->socket = optarg;
            if (*optarg != '/') {
                fail("socket path must be absolute");
            }
            break;
        case 'e':
            if (!img_ulong(optarg, INT32_MAX, &number)) {
                fail("Invalid shared device number '%s'", optarg);
            }
            s->shared = (unsigned)number;
            break;
        case 'f':
            s->format = optarg;
            break;
        case 't':
            s->persistent = true;
            break;
        case 'x':
            s->export_name = optarg;
            if (strlen(optarg) > NBD_MAX_NAME) {
                fail("export name '%.32s...' too long", optarg);
            }
            break;
        case 'D':
            s->description = optarg;
            if (strlen(optarg) > NBD_MAX_NAME) {
                fail("export description '%.32s...' too long", optarg);
            }
            break;
        case 'v':
            s->verbose = true;
            break;
        case 'T':
            break;
        case 'L':
            s->list = true;
            break;
        case OPT_FORK:
            s->fork = true;
            break;
        case OPT_PID_FILE:
            s->pid_file = optarg;
            break;
        case IMG_OPT_OBJECT:
            g_ptr_array_add(s->objects, optarg);
            break;
        case IMG_OPT_IMAGE_OPTS:
            s->image_opts = true;
            break;
        case 'c':
        case 'd':
            fail("Kernel /dev/nbdN support not available");
        case OPT_TLS_CREDS:
            s->tls_creds = optarg;
            break;
        case OPT_TLS_AUTHZ:
            s->tls_authz = optarg;
            break;
        case OPT_TLS_HOSTNAME:
            s->tls_hostname = optarg;
            break;
        case OPT_SELINUX_LABEL:
            fail("SELinux support not enabled in this binary");
        default:
            log_error("Try `%s --help' for more information.", argv[0]);
            exit(EXIT_FAILURE);
        }
    }
    if (s->detect_zeroes && g_str_equal(s->detect_zeroes, "unmap") &&
        !(s->discard && g_str_equal(s->discard, "unmap"))) {
        fail("setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
    }
}

/* Whether systemd started us with a socket: its number is LISTEN_FD. */
static bool socket_was_handed_over(const Settings *s)
{
    uint64_t pid = 0, count = 0;
    const char *pid_text = g_getenv("LISTEN_PID"), *count_text = g_getenv("LISTEN_FDS");
    if (!pid_text || !count_text || !img_ulong(pid_text, UINT64_MAX, &pid) || pid != (uint64_t)getpid() ||
        !img_ulong(count_text, INT32_MAX, &count) || count == 0) {
        return false;
    }
    if (count > 1) {
        fail("%s does not support socket activation with LISTEN_FDS > 1", g_get_prgname());
    }
    const char *conflict = s->socket ? "Unix socket"
                           : s->bind ? "The interface"
                           : s->port ? "TCP port number"
                                     : NULL;
    if (conflict) {
        fail("%s can't be set when using socket activation", conflict);
    }
    g_unsetenv("LISTEN_PID");
    g_unsetenv("LISTEN_FDS");
    return true;
}

static SocketAddress *address_of(const Settings *s)
{
    SocketAddress *addr = socket_address_new();
    if (s->socket) {
        addr->kind = SOCKET_KIND_UNIX;
        addr->path = g_strdup(s->socket);
    } else {
        addr->kind = SOCKET_KIND_INET;
        addr->host = g_strdup(s->bind ? s->bind : s->list ? "127.0.0.1" : "0.0.0.0");
        addr->port = s->port ? g_strdup(s->port) : g_strdup_printf("%d", NBD_DEFAULT_PORT);
    }
    return addr;
}

/* The parent's side of --fork: shows what the server has to say until it runs. */
static void wait_for_child(int fd)
{
    char buf[1024];
    ssize_t n;
    bool said = false;
    while ((n = read(fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0) {
            said = true;
            if (write(STDERR_FILENO, buf, (size_t)n) < 0) {
                break;
            }
        }
    }
    exit(said ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* Returns in the child, whose stderr is the pipe; *old_stderr is what it was. */
static void fork_server(int *old_stderr)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0) {
        fail("Error setting up communication pipe: %s", g_strerror(errno));
    }
    pid_t pid = fork();
    if (pid < 0) {
        fail("Failed to fork: %s", g_strerror(errno));
    }
    if (pid > 0) {
        close(fds[1]);
        wait_for_child(fds[0]);
    }
    close(fds[0]);
    setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    *old_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    close(null);
}

static bool write_pid_file(const char *path)
{
    g_autofree char *text = g_strdup_printf("%d\n", (int)getpid());
    g_autoptr(GError) error = NULL;
    if (!g_file_set_contents(path, text, -1, &error)) {
        log_error("Could not write the pid file: %s", error->message);
        return false;
    }
    return true;
}

static ImgDisk *open_image(ImgTool *tool, const Settings *s, const char *filename)
{
    g_autoptr(GError) error = NULL;
    json_object *more = json_object_new_object();
    g_autofree char *overlay = NULL;
    const struct {
        const char *name, *value;
    } texts[] = { { "discard", s->discard }, { "detect-zeroes", s->detect_zeroes } };
    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        if (texts[i].value) {
            json_object_object_add(more, texts[i].name, json_object_new_string(texts[i].value));
        }
    }
    if (s->aio && !s->image_opts) {
        json_object *file = json_object_new_object();
        json_object_object_add(file, "aio", json_object_new_string(s->aio));
        json_object_object_add(more, "file", file);
    }
    if (s->overlay) {
        overlay = img_temporary_overlay(tool, filename, s->format);
        if (!overlay) {
            json_object_put(more);
            return NULL;
        }
    }
    ImgDisk *disk =
        img_try_open(tool, s->image_opts, overlay ? overlay : filename, overlay ? "qcow2" : s->format,
                     s->read_only ? 0 : IMG_OPEN_WRITE, &s->cache, false, more, &error);
    if (overlay) {
        unlink(overlay);
    }
    if (!disk) {
        error_prefix(&error, "Failed to blk_new_open '%s': ", filename);
        error_report(error);
        return NULL;
    }
    if (s->snapshot && !img_snapshot_load(disk->node, s->snapshot, &error)) {
        error_prefix(&error, "Failed to load snapshot: ");
        error_report(error);
        img_close(disk);
        return NULL;
    }
    return disk;
}

static void on_client_gone(void *opaque)
{
    Serving *serving = opaque;
    if (!serving->persistent && nbd_server_clients(serving->server) == 0) {
        serving->stop = true;
    }
}

static void on_signal(void *opaque)
{
    Serving *serving = opaque;
    struct signalfd_siginfo info;
    if (read(serving->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        serving->stop = true;
    }
}

static int serve(ImgTool *tool, const Settings *s, ImgDisk *disk, int listen_fd, int old_stderr)
{
    g_autoptr(GError) error = NULL;
    Serving serving = { .tool = tool, .persistent = s->persistent };
    serving.server = nbd_server_new(tool->graph);
    g_ptr_array_add(s->bitmaps, NULL);
    NbdExportOptions options_of_export = {
        .name = s->export_name ? s->export_name : "",
        .description = s->description,
        .writable = !s->read_only,
        .shared = s->shared != 1,
        .writethrough = s->cache.writethrough,
        .allocation_depth = s->depth,
        .bitmaps = (const char *const *)s->bitmaps->pdata,
        .offset = s->offset,
    };
    NbdExport *exp = nbd_export_new(serving.server, disk->node, &options_of_export, &error);
    int status = EXIT_FAILURE;
    LoopFd *watch = NULL;
    TlsCreds *creds = s->tls_creds ? tls_creds_find(tool->root, s->tls_creds, true, &error) : NULL;
    bool ok = exp && !error && (!creds || nbd_server_set_tls(serving.server, creds, s->tls_authz, &error));
    if (!ok || !nbd_server_listen(serving.server, listen_fd, &error)) {
        error_report(error);
        goto out;
    }
    nbd_server_set_max_clients(serving.server, s->shared);
    nbd_server_set_client_hook(serving.server, on_client_gone, &serving);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    serving.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (serving.signals < 0) {
        log_error("cannot watch signals: %s", g_strerror(errno));
        goto out;
    }
    watch = loop_add_fd(tool->loop, serving.signals, on_signal, NULL, NULL, &serving, NULL);
    if (s->pid_file && !write_pid_file(s->pid_file)) {
        goto out;
    }
    if (chdir("/") < 0) { /* no file system is kept busy by our directory */
        log_error("Could not chdir to root directory: %s", g_strerror(errno));
        goto out;
    }
    if (old_stderr >= 0) {
        /* The parent sees the end of its pipe: the server runs. Whoever waits for the end of our caller's
         * stderr must not wait for the server's; -v keeps it all the same. */
        dup2(s->verbose ? old_stderr : STDOUT_FILENO, STDERR_FILENO);
        close(old_stderr);
    }
    while (!serving.stop) {
        loop_iterate(tool->loop, true);
    }
    status = EXIT_SUCCESS;
out:
    nbd_server_free(serving.server);
    if (watch) {
        loop_remove_fd(watch);
    }
    if (serving.signals > 0) {
        close(serving.signals);
    }
    return status;
}

static bool add_objects(ImgTool *tool, const Settings *s)
{
    for (guint i = 0; i < s->objects->len; i++) {
        if (!img_object_add(tool, s->objects->pdata[i])) {
            return false;
        }
    }
    return true;
}

static int list_exports(const Settings *s)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(SocketAddress) addr = address_of(s);
    TlsCreds *creds = NULL;
    ImgTool tool;
    int status = EXIT_FAILURE;
    img_tool_start(&tool, g_get_prgname());
    bool ok = add_objects(&tool, s);
    if (ok && s->tls_creds) {
        creds = tls_creds_find(tool.root, s->tls_creds, false, &error);
    }
    if (ok && !error) {
        int fd = socket_connect(addr, NULL, &error);
        if (fd >= 0) {
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
            const char *expected = s->tls_hostname ? s->tls_hostname : addr->host;
            status = img_nbd_list(fd, creds, expected) ? EXIT_SUCCESS : EXIT_FAILURE;
        }
    }
    if (error) {
        error_report(error);
    }
    img_tool_end(&tool);
    return status;
}

int main(int argc, char **argv)
{
    g_autofree char *name = g_path_get_basename(argv[0] ? argv[0] : "rhea-nbd");
    g_set_prgname(name);
    log_set_program(g_get_prgname());
    signal(SIGPIPE, SIG_IGN);
    img_help = help;
    Settings s = { .shared = 1, .bitmaps = g_ptr_array_new(), .objects = g_ptr_array_new() };
    parse(&s, argc, argv);
    if (s.list) {
        if (argc != optind) {
            fail("List mode is incompatible with a file name");
        }
        if (s.export_name || s.description || s.read_only || s.snapshot || s.format || s.overlay ||
            s.has_cache || s.image_opts || s.bitmaps->len || s.offset) {
            fail("List mode is incompatible with per-device settings");
        }
        if (s.fork) {
            fail("List mode is incompatible with forking");
        }
        if (s.tls_authz) {
            fail("TLS authorization is incompatible with export list");
        }
        return list_exports(&s);
    }
    if (s.tls_hostname) {
        fail("TLS hostname is only supported with export list");
    }
    if (s.tls_authz && !s.tls_creds) {
        fail("TLS authorization needs --tls-creds");
    }
    if (argc - optind != 1) {
        log_error("Invalid number of arguments");
        log_hint("Try `%s --help' for more information.", argv[0]);
        return EXIT_FAILURE;
    }
    if (s.image_opts && s.format) {
        fail("--image-opts and -f are mutually exclusive");
    }
    bool activated = socket_was_handed_over(&s);
    int old_stderr = -1;
    if (s.fork) {
        fork_server(&old_stderr);
    }
    ImgTool tool;
    img_tool_start(&tool, g_get_prgname());
    int status = EXIT_FAILURE, listen_fd = LISTEN_FD;
    g_autoptr(GError) error = NULL;
    g_autoptr(SocketAddress) addr = address_of(&s);
    ImgDisk *disk = NULL;
    if (!add_objects(&tool, &s)) {
        goto out;
    }
    if (activated) {
        fcntl(listen_fd, F_SETFD, FD_CLOEXEC);
        fcntl(listen_fd, F_SETFL, fcntl(listen_fd, F_GETFL) | O_NONBLOCK);
    } else {
        listen_fd = socket_listen(addr, NULL, &error);
        if (listen_fd < 0) {
            error_report(error);
            goto out;
        }
    }
    disk = open_image(&tool, &s, argv[optind]);
    if (disk) {
        status = serve(&tool, &s, disk, listen_fd, old_stderr);
    }
    if (s.socket && !activated) {
        unlink(s.socket);
    }
out:
    img_close(disk);
    img_tool_end(&tool);
    if (s.pid_file && status == EXIT_SUCCESS) {
        unlink(s.pid_file);
    }
    g_ptr_array_unref(s.bitmaps);
    g_ptr_array_unref(s.objects);
    return status;
}
