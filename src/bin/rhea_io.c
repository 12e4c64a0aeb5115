/*
 * rhea-io: exercises a disk image by commands, for tests. Its lines of output are compared as they are by
 * suites that were written against qemu-io, and so are its words for what goes wrong.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "block/graph/node.h"
#include "img/io.h"
#include "img/tool.h"
#include "rhea_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void help(void)
{
    printf("Usage: %s [OPTIONS]... [-c STRING]... [file]\n"
           "Disk exerciser\n\n"
           "  --object OBJECTDEF   define an object such as 'secret' for\n"
           "                       passwords and/or encryption keys\n"
           "  --image-opts         treat file as option string\n"
           "  -c, --cmd STRING     execute command with its arguments\n"
           "                       from the given string\n"
           "  -f, --format FMT     specifies the block driver to use\n"
           "  -r, --read-only      export read-only\n"
           "  -s, --snapshot       use snapshot file\n"
           "  -n, --nocache        disable host cache, short for -t none\n"
           "  -C, --copy-on-read   enable copy-on-read\n"
           "  -m, --misalign       misalign memory, for O_DIRECT\n"
           "  -k, --native-aio     use kernel AIO implementation, short for -i native\n"
           "  -i, --aio=MODE       use AIO mode (threads, native or io_uring)\n"
           "  -t, --cache=MODE     use the given cache mode for the image\n"
           "  -d, --discard=MODE   use the given discard mode for the image\n"
           "  -T, --trace STRING   accepted; trace points are those of the build\n"
           "  -U, --force-share    force shared permissions\n"
           "  -h, --help           display this help and exit\n"
           "  -V, --version        output version information and exit\n\n"
           "See '%s -c help' for information on available commands.\n",
           g_get_prgname(), g_get_prgname());
}

static void print_man(void)
{
    printf(
        ".TH RHEA-IO 1 \"\" \"Rhea " RHEA_VERSION "\"\n.SH NAME\nrhea-io \\- disk exerciser for tests\n"
        ".SH SYNOPSIS\n.B rhea-io\n[OPTIONS]... [\\-c STRING]... [file]\n.SH DESCRIPTION\n"
        "Opens a disk image and runs commands on it: those of \\-c one after the other, or else lines of the "
        "standard input. Commands, output and exit status are those of qemu-io: 0, or 1 where a command "
        "failed.\n"
        ".SH COMMANDS\n.nf\n");
    fflush(stdout);
    io_print_commands();
    printf(".fi\n.SH SEE ALSO\nrhea-img(1), rhea-nbd(1)\n");
}

/* A line of standard input without its end, or NULL; requests that are under way go on meanwhile. */
static char *next_line(ImgTool *tool)
{
    printf("%s> ", g_get_prgname());
    fflush(stdout);
    char *line = NULL;
    size_t room = 0;
    ssize_t n = getline(&line, &room, stdin);
    while (loop_iterate(tool->loop, false)) {}
    if (n < 0) {
        free(line);
        return NULL;
    }
    if (n > 0 && line[n - 1] == '\n') {
        line[n - 1] = 0;
    }
    return line;
}

int main(int argc, char **argv)
{
    enum { OPT_MAN = 3000 };
    static const struct option longs[] = { { "help", no_argument, NULL, 'h' },
                                           { "version", no_argument, NULL, 'V' },
                                           { "cmd", required_argument, NULL, 'c' },
                                           { "format", required_argument, NULL, 'f' },
                                           { "read-only", no_argument, NULL, 'r' },
                                           { "snapshot", no_argument, NULL, 's' },
                                           { "nocache", no_argument, NULL, 'n' },
                                           { "copy-on-read", no_argument, NULL, 'C' },
                                           { "misalign", no_argument, NULL, 'm' },
                                           { "native-aio", no_argument, NULL, 'k' },
                                           { "aio", required_argument, NULL, 'i' },
                                           { "discard", required_argument, NULL, 'd' },
                                           { "cache", required_argument, NULL, 't' },
                                           { "trace", required_argument, NULL, 'T' },
                                           { "force-share", no_argument, NULL, 'U' },
                                           { "print-man", no_argument, NULL, OPT_MAN },
                                           IMG_LONG_OBJECT,
                                           IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_END };
    ImgTool tool;
    g_autofree char *name = g_path_get_basename(argv[0] ? argv[0] : "rhea-io");
    g_set_prgname(name);
    img_help = help;
    block_debug_tells = true;
    log_set_program(g_get_prgname());
    IoSession session = { .tool = &tool };
    IoOpen how = { 0 };
    g_autoptr(GPtrArray) commands = g_ptr_array_new();
    g_autoptr(GPtrArray) objects = g_ptr_array_new();
    const char *format = NULL;
    int c;
    while ((c = getopt_long(argc, argv, "hVc:d:f:rsnCmki:t:T:U", longs, NULL)) != -1) {
        switch (c) {
        case 's':
            how.snapshot = true;
            break;
        case 'n':
            how.cache = (ImgCache){ .direct = true };
            break;
        case 'C':
            how.copy_on_read = true;
            break;
        case 'd':
            if (!g_str_equal(optarg, "ignore") && !g_str_equal(optarg, "off") &&
                !g_str_equal(optarg, "unmap") && !g_str_equal(optarg, "on")) {
                log_error("Invalid discard option: %s", optarg);
                return EXIT_FAILURE;
            }
            how.discard = g_str_equal(optarg, "unmap") || g_str_equal(optarg, "on") ? "unmap" : "ignore";
            break;
        case 'f':
            format = optarg;
            break;
        case 'c':
            g_ptr_array_add(commands, optarg);
            break;
        case 'r':
            session.read_only = true;
            break;
        case 'm':
            session.misalign = true;
            break;
        case 'k':
            how.aio = "native";
            break;
        case 'i':
            if (!g_str_equal(optarg, "threads") && !g_str_equal(optarg, "native") &&
                !g_str_equal(optarg, "io_uring")) {
                log_error("Invalid aio option: %s", optarg);
                return EXIT_FAILURE;
            }
            how.aio = optarg;
            break;
        case 't':
            if (!img_cache_parse(optarg, &how.cache)) {
                log_error("Invalid cache option: %s", optarg);
                return EXIT_FAILURE;
            }
            break;
        case 'T':
            break;
        case 'U':
            how.force_share = true;
            break;
        case 'V':
            printf("%s version " RHEA_QEMU_VERSION " (Rhea " RHEA_VERSION ")\n", g_get_prgname());
            return EXIT_SUCCESS;
        case 'h':
            help();
            return EXIT_SUCCESS;
        case OPT_MAN:
            print_man();
            return EXIT_SUCCESS;
        case IMG_OPT_OBJECT:
            g_ptr_array_add(objects, optarg);
            break;
        case IMG_OPT_IMAGE_OPTS:
            session.image_opts = true;
            break;
        default:
            help();
            return EXIT_FAILURE;
        }
    }
    if (argc - optind > 1) {
        help();
        return EXIT_FAILURE;
    }
    if (format && session.image_opts) {
        log_error("--image-opts and -f are mutually exclusive");
        return EXIT_FAILURE;
    }
    img_tool_start(&tool, g_get_prgname());
    for (guint i = 0; i < objects->len; i++) {
        if (!img_object_add(&tool, objects->pdata[i])) {
            img_tool_end(&tool);
            return EXIT_FAILURE;
        }
    }
    how.read_only = session.read_only;
    if (optind < argc) {
        json_object *options = NULL;
        if (format) {
            options = json_object_new_object();
            json_object_object_add(options, "driver", json_object_new_string(format));
        }
        if (!io_open(&session, argv[optind], &how, options)) {
            img_tool_end(&tool);
            return EXIT_FAILURE;
        }
    }
    bool ok = true;
    for (guint i = 0; i < commands->len && !session.quit; i++) {
        ok = io_command(&session, commands->pdata[i]) && ok;
    }
    char *line;
    while (commands->len == 0 && !session.quit && (line = next_line(&tool))) {
        ok = io_command(&session, line) && ok;
        free(line);
    }
    /* Requests that nobody waited for still end before the image is closed. */
    io_close(&session);
    img_tool_end(&tool);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
