/* Making images: `create`, and what convert and dd need of it. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "base/log.h"
#include "img/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool img_create_tables(const char *format, const char *filename, const BlockDriver **driver,
                       const BlockOption **tables, GError **error)
{
    const BlockDriver *protocol = NULL;
    *driver = block_driver_find(format, NULL);
    if (!*driver) {
        return error_set(error, "Unknown file format '%s'", format);
    }
    if (filename) {
        protocol = block_protocol_of(filename, error);
        if (!protocol) {
            return false;
        }
    }
    if (!(*driver)->create_options) {
        return error_set(error, "Format driver '%s' does not support image creation", (*driver)->name);
    }
    if (protocol && !protocol->create_options) {
        return error_set(error, "Protocol driver '%s' does not support image creation", protocol->name);
    }
    size_t count = 0;
    tables[count++] = (*driver)->create_options;
    if (protocol && protocol != *driver) {
        tables[count++] = protocol->create_options;
    }
    tables[count] = NULL;
    return true;
}

bool img_create_help(ImgTool *tool, const char *format, const char *filename)
{
    g_autoptr(GError) error = NULL;
    const BlockDriver *driver;
    const BlockOption *tables[3];
    if (!img_create_tables(format, filename, &driver, tables, &error)) {
        error_report(error);
        return false;
    }
    if (filename) {
        printf("Supported options:\n");
    } else {
        printf("Supported %s options:\n", format);
    }
    img_options_help(tables, false);
    if (!filename) {
        printf("\n"
               "The protocol level may support further options.\n"
               "Specify the target filename to include those options.\n");
    }
    return true;
}

typedef struct CreateRun {
    ImgTool *tool;
    const BlockDriver *driver;
    const char *filename;
    json_object *options;
    GError **error;
    bool ok;
} CreateRun;

static void co_create(void *opaque)
{
    CreateRun *run = opaque;
    run->ok = run->driver->co_create_named(run->tool->graph, run->filename, run->options, run->error);
}

bool img_create_image(ImgTool *tool, const BlockDriver *driver, const char *filename, json_object *options,
                      GError **error)
{
    CreateRun run = {
        .tool = tool, .driver = driver, .filename = filename, .options = options, .error = error
    };
    if (!driver->co_create_named) {
        return error_set(error, "Driver '%s' does not support image creation", driver->name);
    }
    block_run(tool->graph, co_create, &run);
    return run.ok;
}

static const char *option_text(json_object *options, const char *name)
{
    json_object *value = NULL;
    return json_object_object_get_ex(options, name, &value) ? json_object_get_string(value) : NULL;
}

static bool table_has(const BlockOption *const *tables, const char *name)
{
    for (; *tables; tables++) {
        for (const BlockOption *o = *tables; o->name; o++) {
            if (g_str_equal(o->name, name)) {
                return true;
            }
        }
    }
    return false;
}

/* Looks at the backing image: it must open, its format must have been said, and it may give the size. */
static bool check_backing(ImgTool *tool, const char *filename, const char *backing,
                          const char *backing_format, json_object *options, uint64_t *size, GError **error)
{
    g_autofree char *full = block_combine_path(filename, backing);
    json_object *more = json_object_new_object();
    json_object_object_add(more, "force-share", json_object_new_string("on"));
    ImgDisk *disk = img_try_open(tool, false, full, backing_format, IMG_OPEN_NO_IO, NULL, false, more, error);
    if (!disk) {
        error_append_hint(error, "Could not open backing image.");
        return false;
    }
    bool ok = true;
    if (!backing_format) {
        ok = error_set(error, "Backing file specified without backing format");
        error_append_hint(error, "Detected format of %s.", disk->node->driver->name);
    } else if (*size == UINT64_MAX) {
        *size = block_size(disk->root);
        json_object_object_add(options, "size", json_object_new_uint64(*size));
    }
    img_close(disk);
    return ok;
}

/* Over a backing image, subclusters make a first write copy 4 KiB rather than 64. QEMU reads them from
 * version 5.2 on. They are the default where the user said nothing that speaks of the layout, and not under
 * QEMU's name: its callers count on its defaults. */
static void choose_layout(const ImgTool *tool, const ImgCreate *create, json_object *options)
{
    static const char *const layout[] = { "extended_l2", "cluster_size", "compat", "preallocation",
                                          "journal" };

    if (!g_str_equal(create->format, "qcow2") || !option_text(options, "backing_file") ||
        g_str_has_prefix(tool->program, "qemu-")) {
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(layout); i++) {
        if (json_object_object_get_ex(options, layout[i], NULL)) {
            return;
        }
    }
    json_object_object_add(options, "extended_l2", json_object_new_boolean(true));
    json_object_object_add(options, "cluster_size", json_object_new_uint64(128u << 10));
}

bool img_create(ImgTool *tool, const ImgCreate *create, GError **error)
{
    const BlockDriver *driver;
    const BlockOption *tables[3];
    if (!img_create_tables(create->format, create->filename, &driver, tables, error)) {
        return false;
    }
    json_object *options = img_options_parse(tables, create->options, error);
    if (!options) {
        return false;
    }
    bool ok = false;
    uint64_t size = create->size;
    json_object *given = NULL;
    if (json_object_object_get_ex(options, "size", &given)) {
        if (size != UINT64_MAX) {
            error_set(error, "The image size must be specified only once");
            goto out;
        }
        size = json_object_get_uint64(given);
    } else if (size != UINT64_MAX) {
        json_object_object_add(options, "size", json_object_new_uint64(size));
    }
    if (create->backing_file) {
        if (!table_has(tables, "backing_file")) {
            error_set(error, "Backing file not supported for file format '%s'", create->format);
            goto out;
        }
        json_object_object_add(options, "backing_file", json_object_new_string(create->backing_file));
    }
    if (create->backing_format) {
        if (!table_has(tables, "backing_fmt")) {
            error_set(error, "Backing file format not supported for file format '%s'", create->format);
            goto out;
        }
        json_object_object_add(options, "backing_fmt", json_object_new_string(create->backing_format));
    }
    const char *backing = option_text(options, "backing_file");
    const char *backing_format = option_text(options, "backing_fmt");
    if (backing && g_str_equal(backing, create->filename)) {
        error_set(error, "Error: Trying to create an image with the same filename as the backing file");
        goto out;
    }
    if (backing && !*backing) {
        error_set(error, "Expected backing file name, got empty string");
        goto out;
    }
    if (backing && !create->no_backing_check) {
        if (backing_format && !block_driver_find(backing_format, NULL)) {
            error_set(error, "Unknown driver '%s'", backing_format);
            error_append_hint(error, "Could not open backing image.");
            goto out;
        }
        if (!check_backing(tool, create->filename, backing, backing_format, options, &size, error)) {
            goto out;
        }
    } else if (backing && !backing_format) {
        error_set(error, "Backing file specified without backing format");
        goto out;
    }
    if (size == UINT64_MAX) {
        error_set(error, "Image creation needs a size parameter");
        goto out;
    }
    choose_layout(tool, create, options);
    if (!create->quiet) {
        g_autofree char *text = img_options_text(tables, create->format, options);
        printf("Formatting '%s', fmt=%s %s\n", create->filename, create->format, text);
        fflush(stdout);
    }
    ok = img_create_image(tool, driver, create->filename, options, error);
    if (!ok && error && img_errno_of(*error) == EFBIG) { /* the host's words would not help */
        g_clear_error(error);
        error_set(error, "The image size is too large for file format '%s'%s", create->format,
                  table_has(tables, "cluster_size") ? " (try using a larger cluster size)" : "");
    }
    if (!ok && error && *error && g_str_has_prefix((*error)->message, "Value '")) {
        /* Of which option? */
        json_object_object_foreach(options, name, value)
        {
            g_autofree char *head =
                g_strdup_printf("Value '%s' is not one of ", json_object_get_string(value));
            if (json_object_is_type(value, json_type_string) && g_str_has_prefix((*error)->message, head)) {
                g_clear_error(error);
                error_set(error, "Parameter '%s' does not accept value '%s'", name,
                          json_object_get_string(value));
                break;
            }
        }
    }
out:
    json_object_put(options);
    return ok;
}

char *img_temporary_overlay(ImgTool *tool, const char *filename, const char *format)
{
    const char *dir = g_getenv("TMPDIR") ? g_getenv("TMPDIR") : "/var/tmp";
    char *path = g_build_filename(dir, "rhea.XXXXXX", NULL);
    int fd = g_mkstemp(path);
    if (fd < 0) {
        log_error("Could not create '%s': %s", path, g_strerror(errno));
        g_free(path);
        return NULL;
    }
    close(fd);
    g_autofree char *absolute = g_canonicalize_filename(filename, NULL);
    ImgCreate create = { .filename = path,
                         .format = "qcow2",
                         .backing_file = absolute,
                         .backing_format = format,
                         .size = UINT64_MAX,
                         .quiet = true };
    g_autoptr(GError) error = NULL;
    if (!img_create(tool, &create, &error)) {
        error_report(error);
        unlink(path);
        g_free(path);
        return NULL;
    }
    return path;
}

int img_cmd_create(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP, IMG_LONG_OBJECT, IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":F:b:f:ho:qu", .longs = longs };
    ImgCreate create = { .size = UINT64_MAX };
    g_autofree char *options = NULL;
    int c;
    while ((c = img_args_next(&args)) != -1) {
        switch (c) {
        case 'F':
            create.backing_format = optarg;
            break;
        case 'b':
            create.backing_file = optarg;
            break;
        case 'o':
            if (!img_options_add(&options, optarg)) {
                return EXIT_FAILURE;
            }
            break;
        case 'u':
            create.no_backing_check = true;
            break;
        }
    }
    create.format = args.format ? args.format : "raw";
    create.quiet = args.quiet;
    create.filename = optind < argc ? argv[optind] : NULL;
    create.options = options;
    if (options && img_options_want_help(options)) {
        return img_create_help(tool, create.format, create.filename) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    if (!create.filename) {
        img_usage_error("Expecting image file name");
    }
    optind++;
    if (optind < argc) {
        int64_t size = img_size_parse(argv[optind++], "image size", 0, INT64_MAX);
        if (size < 0) {
            return EXIT_FAILURE;
        }
        create.size = (uint64_t)size;
    }
    if (optind < argc) {
        img_usage_error("Unexpected argument: %s", argv[optind]);
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    g_autoptr(GError) error = NULL;
    if (!img_create(tool, &create, &error)) {
        error_prefix(&error, "%s: ", create.filename);
        error_report(error);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
