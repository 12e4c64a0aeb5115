/* rhea-img: makes, describes, converts and changes disk images. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/log.h"
#include "img/tool.h"
#include "rhea_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
static const ImgCommand commands[] = {
    { "amend", img_cmd_amend, "[--object objectdef] [--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o options filename" },
    { "bench", img_cmd_bench, "[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] [--no-drain] [-o offset] [--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] filename" },
    { "bitmap", img_cmd_bitmap, "(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F source_fmt]] [-g granularity] [--object objectdef] [--image-opts | -f fmt] filename bitmap" },
    { "check", img_cmd_check, "[--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] filename" },
    { "commit", img_cmd_commit, "[--object objectdef] [--image-opts] [-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] filename" },
    { "compare", img_cmd_compare, "[--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] filename1 filename2" },
    { "convert", img_cmd_convert, "[--object objectdef] [--image-opts] [--target-image-opts] [--target-is-zero] [--bitmaps] [-U] [-C] [-c] [-p] [-q] [-n] [-f fmt] [-t cache] [-T src_cache] [-O output_fmt] [-B backing_file [-F backing_fmt]] [-o options] [-l snapshot_param] [-S sparse_size] [-r rate_limit] [-m num_coroutines] [-W] [--salvage] filename [filename2 [...]] output_filename" },
    { "create", img_cmd_create, "[--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename [size]" },
    { "dd", img_cmd_dd, "[--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] [skip=blocks] if=input of=output" },
    { "info", img_cmd_info, "[--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename" },
    { "map", img_cmd_map, "[--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] filename" },
    { "measure", img_cmd_measure, "[--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] [--image-opts] [-f fmt] [-l snapshot_param] filename]" },
    { "snapshot", img_cmd_snapshot, "[--object objectdef] [--image-opts] [-U] [-q] [-l | -a snapshot | -c snapshot | -d snapshot] filename" },
    { "rebase", img_cmd_rebase, "[--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [-u] -b backing_file [-F backing_fmt] filename" },
    { "resize", img_cmd_resize, "[--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] [-q] [--shrink] filename [+ | -]size" },
};

/* What is behind the list of commands: { heading or NULL, words, meaning }. */
static const struct {
    const char *heading, *words, *meaning;
} help_table[] = {
    { "Command parameters", "filename", "a disk image's file name, a URL (nbd://host/export), or json:{...}" },
    { NULL, "objectdef", "an object as in -object of the emulator; mostly 'secret', which holds a password or key" },
    { NULL, "fmt", "the image's format; guessed from the image where it is not given" },
    { NULL, "cache, src_cache", "how the output and the inputs are accessed: none, writeback (default, but for convert's output), writethrough, directsync, unsafe (default for convert's output)" },
    { NULL, "size", "a number of bytes; suffixes k, M, G, T, P and E count in powers of 1024" },
    { NULL, "options", "name=value,... of the format; '-o help' lists them" },
    { NULL, "snapshot_param", "an internal snapshot: 'snapshot.id=ID,snapshot.name=NAME', or an id or name" },
    { NULL, "-c", "convert: the target is compressed" },
    { NULL, "-u", "create: the backing image is not looked at; rebase: only its name is changed" },
    { NULL, "-p, -q", "show progress (SIGUSR1 shows it once on stderr); print errors only" },
    { NULL, "-S", "convert: this many zero bytes in a row are left out of the target (default 4k); 0 allocates everything" },
    { NULL, "-n", "convert: the target exists already" },
    { NULL, "-m, -W", "convert: how many pieces are under way at once (default 8, at most 16); write them in any order" },
    { NULL, "-C", "convert: let the host copy where it can" },
    { NULL, "-U", "open the image though another program may be writing to it" },
    { NULL, "--output", "human or json" },
    { NULL, "--bitmaps", "convert: persistent dirty bitmaps are copied too; --skip-broken-bitmaps leaves inconsistent ones out" },
    { NULL, "--salvage", "convert: what cannot be read becomes zeroes, with a warning" },
    { "Exit status of check", "0, 1, 2, 3, 63", "clean; not checked; corrupt; leaks only; the format has no check" },
    { "Exit status of compare", "0, 1, 2, 3, 4", "identical; different; cannot open; cannot read the status; cannot read the data" },
};
/* clang-format on */

static const char *program;

static void print_version(void)
{
    printf("%s version " RHEA_QEMU_VERSION " (Rhea " RHEA_VERSION ")\n", program);
}

static void help(void)
{
    print_version();
    printf("usage: %s [standard options] command [command options]\n"
           "disk image utility\n\n"
           "    '-h', '--help'       display this help and exit\n"
           "    '-V', '--version'    output version information and exit\n"
           "    '-T', '--trace'      [[enable=]<pattern>][,events=<file>][,file=<file>]\n"
           "                         accepted; trace points are those of the build\n\n"
           "Command syntax:\n",
           program);
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        printf("  %s %s\n", commands[i].name, commands[i].usage);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(help_table); i++) {
        if (help_table[i].heading) {
            printf("\n%s:\n", help_table[i].heading);
        }
        printf("  %-18s %s\n", help_table[i].words, help_table[i].meaning);
    }
    printf("\nSupported formats:");
    for (const char *const *d = block_driver_names(); *d; d++) {
        printf(" %s", *d);
    }
    printf("\n");
}

static void print_man(void)
{
    printf(
        ".TH RHEA-IMG 1 \"\" \"Rhea " RHEA_VERSION "\"\n.SH NAME\nrhea-img \\- disk image utility\n"
        ".SH SYNOPSIS\n.B rhea-img\n[\\-h|\\-V] command [command options]\n.SH DESCRIPTION\n"
        "Makes, describes, checks, converts and changes disk images. Its commands, options, output and exit "
        "statuses are those of qemu-img; called through a link of that name it stands in its place.\n"
        "Images must not be changed while a virtual machine uses them; they are locked against that.\n"
        ".SH COMMANDS\n");
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_auto(GStrv) parts = g_strsplit(commands[i].usage, "-", -1);
        g_autofree char *usage = g_strjoinv("\\-", parts);
        printf(".TP\n.B %s\n%s\n", commands[i].name, usage);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(help_table); i++) {
        if (help_table[i].heading) {
            g_autofree char *upper = g_ascii_strup(help_table[i].heading, -1);
            printf(".SH \"%s\"\n", upper);
        }
        printf(".TP\n.B %s\n%s\n", help_table[i].words, help_table[i].meaning);
    }
    printf(".SH SEE ALSO\nrhea-io(1), rhea-nbd(1), rhea-system-x86_64(1)\n");
}

int main(int argc, char **argv)
{
    static const struct option longs[] = { { "help", no_argument, NULL, 'h' },
                                           { "version", no_argument, NULL, 'V' },
                                           { "trace", required_argument, NULL, 'T' },
                                           { "print-man", no_argument, NULL, 'M' },
                                           { NULL, 0, NULL, 0 } };
    ImgTool tool;
    g_autofree char *name = g_path_get_basename(argv[0] ? argv[0] : "rhea-img");
    g_set_prgname(name);
    program = g_get_prgname();
    log_set_program(program);
    img_help = help;
    int c;
    while ((c = getopt_long(argc, argv, "+:hVT:", longs, NULL)) != -1) {
        switch (c) {
        case ':':
            img_usage_error("missing argument for option '%s'", argv[optind - 1]);
        case '?':
            img_usage_error("unrecognized option '%s'", argv[optind - 1]);
        case 'h':
            help();
            return EXIT_SUCCESS;
        case 'V':
            print_version();
            return EXIT_SUCCESS;
        case 'M':
            print_man();
            return EXIT_SUCCESS;
        }
    }
    if (optind >= argc) {
        img_usage_error("Not enough arguments");
    }
    argc -= optind;
    argv += optind;
    optind = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (g_str_equal(argv[0], commands[i].name)) {
            img_tool_start(&tool, program);
            int status = commands[i].run(&tool, argc, argv);
            img_tool_end(&tool);
            return status;
        }
    }
    log_error("Command not found: %s", argv[0]);
    log_hint("Try '%s --help' for more information", program);
    return EXIT_FAILURE;
}
