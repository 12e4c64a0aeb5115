/* Changing images: `resize`, `rebase`, `commit`, `amend`, `bitmap`. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "img/tool.h"
#include "io/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COPY_BYTES (2u << 20)

/* ---- resize ---- */

int img_cmd_resize(ImgTool *tool, int argc, char **argv)
{
    enum { OPT_PREALLOC = IMG_OPT_FIRST, OPT_SHRINK };
    static const struct option longs[] = { IMG_LONG_HELP,
                                           IMG_LONG_OBJECT,
                                           IMG_LONG_IMAGE_OPTS,
                                           { "preallocation", required_argument, NULL, OPT_PREALLOC },
                                           { "shrink", no_argument, NULL, OPT_SHRINK },
                                           IMG_LONG_END };
    /* The size stands last and may begin with '-': it is no option. */
    if (argc < 3) {
        if (argc == 2 && (g_str_equal(argv[1], "-h") || g_str_equal(argv[1], "--help"))) {
            img_help();
            return EXIT_SUCCESS;
        }
        img_usage_error("Not enough arguments");
    }
    const char *size_text = argv[--argc];
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":f:hq", .longs = longs };
    QapiPreallocMode prealloc = QAPI_PREALLOC_MODE_OFF;
    bool shrink = false;
    int c;
    while ((c = img_args_next(&args)) != -1) {
        if (c == OPT_SHRINK) {
            shrink = true;
            continue;
        }
        int mode = enum_parse(&qapi_PreallocMode_lookup, optarg, NULL);
        if (mode < 0) {
            log_error("Invalid preallocation mode '%s'", optarg);
            return EXIT_FAILURE;
        }
        prealloc = (QapiPreallocMode)mode;
    }
    if (optind != argc - 1) {
        img_usage_error("Expecting image file name and size");
    }
    int relative = *size_text == '+' ? 1 : *size_text == '-' ? -1 : 0;
    size_text += relative ? 1 : 0;
    uint64_t amount = 0;
    int r = img_size_value(size_text, 1, &amount);
    if (r < 0 || amount > INT64_MAX) {
        if (r == -EINVAL) {
            log_error("Parameter 'size' expects a non-negative number below 2^64");
            log_hint("Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                     "and exabytes, respectively.");
        } else {
            log_error("Value '%s' is out of range for parameter 'size'", size_text);
        }
        return EXIT_FAILURE;
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    ImgDisk *disk = img_open(tool, args.image_opts, argv[optind], args.format,
                             IMG_OPEN_WRITE | IMG_OPEN_RESIZE, NULL, false, NULL);
    if (!disk) {
        return EXIT_FAILURE;
    }
    uint64_t current = ROUND_UP_SECTOR(block_size(disk->root));
    bool ok = false;
    g_autoptr(GError) error = NULL;
    if (relative < 0 && amount >= current) {
        log_error("New image size must be positive");
        goto out;
    }
    uint64_t total = relative > 0 ? current + amount : relative < 0 ? current - amount : amount;
    if (relative == 0 && total == 0) {
        log_error("New image size must be positive");
        goto out;
    }
    if (total <= current && prealloc != QAPI_PREALLOC_MODE_OFF) {
        log_error("Preallocation can only be used for growing images");
        goto out;
    }
    if (total < current && !shrink) {
        log_error("Use the --shrink option to perform a shrink operation.");
        log_warning(
            "Shrinking an image will delete all data beyond the shrunken image's end. Before performing such "
            "an operation, make sure there is no important data there.");
        goto out;
    }
    ok = blk_truncate(disk->root, total, true, prealloc, 0, &error);
    if (ok && blk_flush(disk->root) < 0) {
        ok = error_set(&error, "Could not flush the image");
    }
    if (!ok) {
        error_report(error);
    } else if (!args.quiet) {
        printf("Image resized.\n");
    }
out:
    img_close(disk);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- rebase ---- */

typedef struct Rebase {
    ImgDisk *overlay;
    BlockChild *old_base, *new_base; /* roots; NULL: none */
    BlockNode *prefix;               /* the new base where it lies in the old chain */
    uint8_t *old_buf, *new_buf;
    int result;
} Rebase;

static int read_padded(BlockChild *base, uint64_t offset, uint64_t bytes, uint8_t *buf)
{
    uint64_t size = base ? block_size(base) : 0, inside = offset < size ? MIN(bytes, size - offset) : 0;
    memset(buf + inside, 0, bytes - inside);
    return inside ? block_co_pread(base, offset, inside, buf, 0) : 0;
}

/* Writes the parts of the old base's data, which the overlay shows, that the new base has otherwise. */
static int copy_differences(Rebase *rb, uint64_t offset, uint64_t bytes)
{
    int r = read_padded(rb->old_base, offset, bytes, rb->old_buf);
    if (r < 0) {
        log_error("error while reading from old backing file");
        return r;
    }
    r = read_padded(rb->new_base, offset, bytes, rb->new_buf);
    if (r < 0) {
        log_error("error while reading from new backing file");
        return r;
    }
    for (uint64_t at = 0; at < bytes;) {
        uint64_t start = at;
        while (at < bytes && memcmp(rb->old_buf + at, rb->new_buf + at, MIN(512, bytes - at)) != 0) {
            at += MIN(512, bytes - at);
        }
        if (at > start) {
            const uint8_t *data = rb->old_buf + start;
            r = block_buffer_is_zero(data, at - start)
                    ? block_co_pwrite_zeroes(rb->overlay->root, offset + start, at - start,
                                             rb->overlay->write_flags)
                    : block_co_pwrite(rb->overlay->root, offset + start, at - start, data,
                                      rb->overlay->write_flags);
            if (r < 0) {
                log_error("Error while writing to COW image: %s", g_strerror(-r));
                return r;
            }
        } else {
            at += MIN(512, bytes - at);
        }
    }
    return 0;
}

static void co_rebase(void *opaque)
{
    Rebase *rb = opaque;
    BlockNode *node = block_skip_filters(rb->overlay->node), *below = block_cow_child(node);
    uint64_t size = block_size(rb->overlay->root);
    for (uint64_t offset = 0; offset < size;) {
        BlockStatus st = { 0 };
        int r = block_co_status(node, offset, size - offset, &st);
        uint64_t count = st.bytes;
        r = r < 0 ? r : (st.flags & BLOCK_STATUS_ALLOCATED) != 0;
        if (r == 0 && rb->prefix && below && offset < below->size) {
            /* What no layer between the overlay and the new base has is the same in both; but behind the old
             * base's end the new one may have data. */
            uint64_t changed = 0, limit = MIN(count, below->size - offset);
            r = block_co_is_allocated_above(below, rb->prefix, false, offset, limit, &changed);
            count = changed;
            r = r < 0 ? r : !r;
        }
        if (r < 0) {
            log_error("error while reading image metadata: %s", g_strerror(-r));
            rb->result = r;
            return;
        }
        count = CLAMP(count, 1, size - offset);
        if (r == 0) {
            count = MIN(count, COPY_BYTES - offset % 512);
            r = copy_differences(rb, offset, count);
            if (r < 0) {
                rb->result = r;
                return;
            }
        }
        offset += count;
        img_progress_ratio(offset, size);
    }
    rb->result = block_co_flush(rb->overlay->root);
}

static const BlockRootOps rebase_root_ops = { .kind = "tool" };

int img_cmd_rebase(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP, IMG_LONG_OBJECT, IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_FORCE_SHARE, IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":hf:F:b:upt:T:qU", .longs = longs };
    const char *new_name = NULL, *new_format = NULL;
    bool unsafe = false;
    int c;
    while ((c = img_args_next(&args)) != -1) {
        switch (c) {
        case 'F':
            new_format = optarg;
            break;
        case 'b':
            new_name = optarg;
            break;
        case 'u':
            unsafe = true;
            break;
        }
    }
    if (optind != argc - 1) {
        img_usage_error("Expecting one image file name");
    }
    if (!unsafe && !new_name) {
        img_usage_error("Must specify backing file (-b) or use unsafe mode (-u)");
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    ImgCache cache = { 0 }, src_cache = { 0 };
    if (args.cache && !img_cache_parse(args.cache, &cache)) {
        log_error("Invalid cache option: %s", args.cache);
        return EXIT_FAILURE;
    }
    if (args.src_cache && !img_cache_parse(args.src_cache, &src_cache)) {
        log_error("Invalid source cache option: %s", args.src_cache);
        return EXIT_FAILURE;
    }
    img_progress_start(args.progress, 1);
    int status = EXIT_FAILURE;
    g_autoptr(GError) error = NULL;
    Rebase rb = { 0 };
    ImgDisk *new_disk = NULL;
    rb.overlay =
        img_open(tool, args.image_opts, argv[optind], args.format,
                 IMG_OPEN_WRITE | (unsafe ? IMG_OPEN_NO_BACKING : 0), &cache, args.force_share, NULL);
    if (!rb.overlay) {
        goto out;
    }
    BlockNode *node = block_skip_filters(rb.overlay->node);
    if (new_format && !block_driver_find(new_format, NULL)) {
        log_error("Invalid format name: '%s'", new_format);
        goto out;
    }
    if (!unsafe) {
        BlockNode *below = block_cow_child(node);
        if (below) {
            rb.old_base = block_root_new(below, "tool", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL,
                                         &rebase_root_ops, NULL, &error);
            if (!rb.old_base) {
                error_prefix(&error, "Could not reuse old backing file '%s': ", below->filename);
                error_report(error);
                goto out;
            }
        }
        if (*new_name) {
            g_autofree char *full = block_combine_path(node->filename, new_name);
            rb.prefix = block_chain_find_file(node, full);
            if (rb.prefix) {
                rb.new_base = block_root_new(rb.prefix, "tool", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL,
                                             &rebase_root_ops, NULL, &error);
                if (!rb.new_base) {
                    error_prefix(&error, "Could not reuse backing file '%s': ", new_name);
                }
            } else {
                new_disk = img_try_open(tool, false, full, new_format, 0, &src_cache, args.force_share, NULL,
                                        &error);
                if (!new_disk) {
                    error_prefix(&error, "Could not open new backing file '%s': ", new_name);
                }
            }
            if (error) {
                error_report(error);
                goto out;
            }
        }
        if (new_disk) {
            rb.new_base = new_disk->root;
        }
        if (!rb.old_base && rb.new_base && !block_backing_set(node, rb.new_base->node, &error)) {
            /* With nothing below, a format may take zeroes for given and not write them: it must see the new
             * base. */
            error_report(error);
            goto out;
        }
        rb.old_buf = img_buffer(rb.overlay->root, COPY_BYTES);
        rb.new_buf = img_buffer(rb.overlay->root, COPY_BYTES);
        block_run(tool->graph, co_rebase, &rb);
        if (rb.result < 0) {
            goto out;
        }
    }
    bool drop = !new_name || !*new_name;
    if (!block_backing_change_file(node, drop ? NULL : new_name, drop ? NULL : new_format, !drop, &error)) {
        if (!drop && !new_format && strstr(error->message, "format")) {
            log_error("Could not change the backing file to '%s': backing format must be specified",
                      new_name);
        } else if (strstr(error->message, "space")) {
            log_error("Could not change the backing file to '%s': No space left in the file header",
                      new_name);
        } else {
            error_prefix(&error, "Could not change the backing file to '%s': ", drop ? "(null)" : new_name);
            error_report(error);
        }
        goto out;
    }
    img_progress(100);
    status = EXIT_SUCCESS;
out:
    img_progress_end();
    img_buffer_free(rb.old_buf);
    img_buffer_free(rb.new_buf);
    if (rb.old_base) {
        block_root_free(rb.old_base);
    }
    if (rb.new_base && !new_disk) {
        block_root_free(rb.new_base);
    }
    img_close(new_disk);
    img_close(rb.overlay);
    return status;
}

/* ---- commit ---- */

typedef struct Commit {
    ImgTool *tool;
    ImgDisk *top, *base;
    int64_t rate;
    bool empty; /* the top image afterwards */
    int result;
    const char *what; /* that failed */
} Commit;

static void co_commit(void *opaque)
{
    Commit *cm = opaque;
    BlockNode *top = block_skip_filters(cm->top->node);
    uint64_t size = block_size(cm->top->root);
    uint8_t *buf = img_buffer(cm->top->root, COPY_BYTES);
    int64_t start = g_get_monotonic_time();
    uint64_t copied = 0;
    for (uint64_t offset = 0; offset < size && cm->result >= 0;) {
        uint64_t count = 0;
        int r = block_co_is_allocated_above(top, NULL, true, offset, size - offset, &count);
        count = CLAMP(count, 1, size - offset);
        if (r > 0) {
            BlockStatus st = { 0 };
            r = block_co_status_above(top, NULL, offset, count, &st);
            if (r >= 0 && st.flags & BLOCK_STATUS_ZERO) {
                count = MIN(count, st.bytes);
                r = block_co_pwrite_zeroes(cm->base->root, offset, count,
                                           BLOCK_REQ_MAY_UNMAP | cm->base->write_flags);
            } else if (r >= 0) {
                count = MIN(count, COPY_BYTES);
                r = block_co_pread(cm->top->root, offset, count, buf, 0);
                if (r >= 0) {
                    r = block_co_pwrite(cm->base->root, offset, count, buf, cm->base->write_flags);
                }
                copied += count;
            }
            int64_t due = cm->rate ? start + (int64_t)((double)copied / (double)cm->rate * 1e6) : 0;
            if (due > g_get_monotonic_time()) {
                co_sleep_ns(cm->tool->loop, (due - g_get_monotonic_time()) * 1000);
            }
        }
        if (r < 0) {
            cm->result = r;
            cm->what = "Block job failed";
        }
        offset += count;
        img_progress_ratio(offset, size);
    }
    img_buffer_free(buf);
    if (cm->result >= 0) {
        cm->result = block_co_flush(cm->base->root);
        cm->what = "Could not flush the backing image";
    }
    if (cm->result >= 0 && cm->empty) {
        cm->what = "Failed to empty ";
        cm->result = top->driver->co_make_empty ? top->driver->co_make_empty(top) : -ENOTSUP;
    }
}

/* The image below one that was opened without its backing image: by its header. */
static char *backing_of(BlockNode *node, const char **format)
{
    *format = node->backing_format && *node->backing_format ? node->backing_format : NULL;
    return node->backing_file && *node->backing_file ? block_backing_full_name(node, NULL) : NULL;
}

/* What a dict of options says of the backing image; borrowed, NULL: nothing. */
static json_object *backing_options(json_object *options)
{
    json_object *backing = NULL;
    return options && json_object_object_get_ex(options, "backing", &backing) &&
                   json_object_is_type(backing, json_type_object)
               ? backing
               : NULL;
}

/* A copy without what belongs to the images below, and without its name, which is known; NULL where it is
 * NULL. */
static json_object *own_options(json_object *options)
{
    json_object *copy = NULL;
    if (options && json_object_deep_copy(options, &copy, NULL) == 0) {
        json_object_object_del(copy, "backing");
        json_object_object_del(copy, "file");
        json_object_object_del(copy, "filename");
        json_object_object_del(copy, "driver");
    }
    return copy;
}

/* Whether the user's name, which counts from the overlay's directory, means the file `full`. */
static bool same_image(BlockNode *overlay, const char *name, const char *full)
{
    g_autofree char *combined = block_combine_path(overlay->filename, name);
    char *a = realpath(combined, NULL), *b = realpath(full, NULL);
    bool same = a && b ? g_str_equal(a, b) : g_str_equal(combined, full);
    free(a);
    free(b);
    return same;
}

/*
 * The layers from top to just above the base are opened alone and linked, so that they share no permissions
 * with the base, which is opened for writing with its own backing chain (writes of half a cluster copy from
 * it).
 */
int img_cmd_commit(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP, IMG_LONG_OBJECT, IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":f:ht:b:dpqr:", .longs = longs };
    const char *base_name = NULL;
    bool drop = false;
    Commit cm = { .tool = tool };
    int c;
    while ((c = img_args_next(&args)) != -1) {
        switch (c) {
        case 'b':
            base_name = optarg;
            drop = true; /* the top shall stay as it is: layers between would be wrong otherwise */
            break;
        case 'd':
            drop = true;
            break;
        case 'r':
            cm.rate = img_size_parse(optarg, "rate limit", 0, INT64_MAX);
            if (cm.rate < 0) {
                return EXIT_FAILURE;
            }
            break;
        }
    }
    if (optind != argc - 1) {
        img_usage_error("Expecting one image file name");
    }
    const char *filename = argv[optind];
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    ImgCache cache = { 0 };
    if (args.cache && !img_cache_parse(args.cache, &cache)) {
        log_error("Invalid cache option: %s", args.cache);
        return EXIT_FAILURE;
    }
    int status = EXIT_FAILURE;
    g_autoptr(GError) error = NULL;
    json_object *all_options = NULL, *extra = NULL;  /* what the user says of images below (secrets) */
    g_autoptr(GPtrArray) layers = g_ptr_array_new(); /* ImgDisk: below the top, above the base */
    cm.top = img_open(tool, args.image_opts, filename, args.format,
                      IMG_OPEN_WRITE | IMG_OPEN_RESIZE | IMG_OPEN_UNMAP | IMG_OPEN_NO_BACKING, &cache, false,
                      NULL);
    if (!cm.top) {
        return EXIT_FAILURE;
    }
    img_progress_start(args.progress, 1);
    BlockNode *node = block_skip_filters(cm.top->node);
    const char *format = NULL;
    g_autofree char *below = backing_of(node, &format);
    if (!below) {
        if (base_name) {
            log_error("Did not find '%s' in the backing chain of '%s'", base_name, filename);
        } else {
            log_error("Image does not have a backing file");
        }
        goto out;
    }
    if (args.image_opts) {
        all_options = keyval_parse(filename, "file", NULL, NULL);
        extra = backing_options(all_options);
    }
    while (base_name && !same_image(node, base_name, below)) {
        ImgDisk *layer =
            img_open(tool, false, below, format, IMG_OPEN_NO_BACKING, NULL, false, own_options(extra));
        extra = backing_options(extra);
        if (!layer) {
            goto out;
        }
        g_ptr_array_add(layers, layer);
        if (!block_backing_set(node, layer->node, &error)) {
            error_report(error);
            goto out;
        }
        node = block_skip_filters(layer->node);
        char *next = backing_of(node, &format);
        g_free(below);
        below = next;
        if (!below || layers->len > 10000) {
            log_error("Did not find '%s' in the backing chain of '%s'", base_name, filename);
            goto out;
        }
    }
    cm.base = img_open(tool, false, below, format, IMG_OPEN_WRITE | IMG_OPEN_RESIZE | IMG_OPEN_UNMAP, &cache,
                       false, own_options(extra));
    if (!cm.base) {
        goto out;
    }
    cm.empty = !drop;
    uint64_t size = block_size(cm.top->root);
    if (size > block_size(cm.base->root) &&
        !blk_truncate(cm.base->root, size, false, QAPI_PREALLOC_MODE_OFF, 0, &error)) {
        error_report(error);
        goto out;
    }
    block_run(tool->graph, co_commit, &cm);
    if (cm.result < 0) {
        log_error("%s%s: %s", cm.what, g_str_equal(cm.what, "Failed to empty ") ? filename : "",
                  g_strerror(-cm.result));
        goto out;
    }
    status = EXIT_SUCCESS;
    img_progress(100);
out:
    img_progress_end();
    img_close(cm.base);
    json_object_put(all_options);
    img_close(cm.top);
    for (guint i = 0; i < layers->len; i++) {
        img_close(layers->pdata[i]);
    }
    if (status == EXIT_SUCCESS && !args.quiet) {
        printf("Image committed.\n");
    }
    return status;
}

/* ---- amend ---- */

typedef struct Amend {
    BlockNode *node;
    json_object *options;
    bool force, ok;
    GError *error;
} Amend;

static void amend_progress(void *opaque, uint64_t done, uint64_t total)
{
    img_progress_ratio(done, total);
}

static void co_amend(void *opaque)
{
    Amend *a = opaque;
    a->ok = a->node->driver->co_amend(a->node, a->options, a->force, amend_progress, NULL, &a->error);
}

/* Those of a table that can be changed; ends with an empty one. Caller frees. */
static BlockOption *amendable(const BlockOption *table)
{
    GArray *list = g_array_new(TRUE, TRUE, sizeof(BlockOption));
    for (; table->name; table++) {
        if (table->amendable) {
            BlockOption o = *table;

            o.amend_only = false; /* here is where it may be said */
            g_array_append_val(list, o);
        }
    }
    return (BlockOption *)(void *)g_array_free(list, FALSE);
}

int img_cmd_amend(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP,
                                           IMG_LONG_OBJECT,
                                           IMG_LONG_IMAGE_OPTS,
                                           { "force", no_argument, NULL, IMG_OPT_FIRST },
                                           IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":ho:f:t:pq", .longs = longs };
    g_autofree char *text = NULL;
    bool force = false;
    int c;
    while ((c = img_args_next(&args)) != -1) {
        if (c == IMG_OPT_FIRST) {
            force = true;
        } else if (!img_options_add(&text, optarg)) {
            return EXIT_FAILURE;
        }
    }
    if (!text) {
        img_usage_error("Must specify options (-o)");
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    const char *filename = optind == argc - 1 ? argv[optind] : NULL;
    g_autofree BlockOption *table = NULL;
    const BlockDriver *driver = NULL;
    if (args.format && img_options_want_help(text)) {
        driver = block_driver_find(args.format, NULL);
        if (!driver) {
            log_error("Unknown file format '%s'", args.format);
            return EXIT_FAILURE;
        }
        if (!driver->co_amend || !driver->create_options) {
            log_error("Format driver '%s' does not support option amendment", args.format);
            return EXIT_FAILURE;
        }
        table = amendable(driver->create_options);
        const BlockOption *tables[] = { table, NULL };
        printf("Amend options for '%s':\n", args.format);
        img_options_help(tables, true);
        return EXIT_SUCCESS;
    }
    if (!filename) {
        log_error("Expecting one image file name");
        return EXIT_FAILURE;
    }
    ImgCache cache = { 0 };
    if (args.cache && !img_cache_parse(args.cache, &cache)) {
        log_error("Invalid cache option: %s", args.cache);
        return EXIT_FAILURE;
    }
    ImgDisk *disk = img_open(tool, args.image_opts, filename, args.format, IMG_OPEN_WRITE | IMG_OPEN_RESIZE,
                             &cache, false, NULL);
    if (!disk) {
        return EXIT_FAILURE;
    }
    int status = EXIT_FAILURE;
    g_autoptr(GError) error = NULL;
    Amend amend = { .node = block_skip_filters(disk->node), .force = force };
    driver = amend.node->driver;
    if (!driver->co_amend || !driver->create_options) {
        log_error("Format driver '%s' does not support option amendment", driver->name);
        goto out;
    }
    table = amendable(driver->create_options);
    const BlockOption *tables[] = { table, NULL };
    if (img_options_want_help(text)) {
        printf("Amend options for '%s':\n", driver->name);
        img_options_help(tables, true);
        status = EXIT_SUCCESS;
        goto out;
    }
    img_progress_start(args.progress, 1);
    amend.options = img_options_parse(tables, text, &error);
    if (!amend.options) {
        /* Known, but not to be changed? */
        const BlockOption *all[] = { driver->create_options, NULL };
        json_object *other = img_options_parse(all, text, NULL);
        if (other) {
            json_object_put(other);
            error_append_hint(&error, "This option is only supported for image creation");
        }
        error_report(error);
        img_progress_end();
        goto out;
    }
    block_run(tool->graph, co_amend, &amend);
    if (amend.ok) {
        img_progress(100);
        status = EXIT_SUCCESS;
    }
    img_progress_end();
    if (!amend.ok) {
        error_report(amend.error);
        g_clear_error(&amend.error);
    }
out:
    json_object_put(amend.options);
    img_close(disk);
    return status;
}

/* ---- bitmap ---- */

enum { BITMAP_ADD = IMG_OPT_FIRST, BITMAP_REMOVE, BITMAP_CLEAR, BITMAP_ENABLE, BITMAP_DISABLE, BITMAP_MERGE };

typedef struct BitmapAction {
    int what;
    const char *source;
} BitmapAction;

static DirtyBitmap *bitmap_find(BlockNode *node, const char *name, GError **error)
{
    DirtyBitmap *bitmap = dirty_bitmap_find(node, name);
    if (!bitmap) {
        error_set(error, "Dirty bitmap '%s' not found", name);
    }
    return bitmap;
}

static bool bitmap_usable(const DirtyBitmap *bitmap, bool allow_inconsistent, GError **error)
{
    if (bitmap->inconsistent && !allow_inconsistent) {
        error_set(error, "Bitmap '%s' is inconsistent and cannot be used", bitmap->name);
        error_append_hint(error, "Try block-dirty-bitmap-remove to delete this bitmap from disk");
        return false;
    }
    return true;
}

static bool bitmap_act(BlockNode *node, BlockNode *source_node, const char *name, const BitmapAction *action,
                       uint32_t granularity, GError **error)
{
    DirtyBitmap *bitmap;
    if (action->what == BITMAP_ADD) {
        if (dirty_bitmap_find(node, name)) {
            return error_set(error, "Bitmap already exists: %s", name);
        }
        if (!node->driver->bitmap_can_store) {
            return error_set(error, "Cannot store dirty bitmaps in node '%s'", node->name);
        }
        if (!node->driver->bitmap_can_store(node, name, granularity ? granularity : 65536, error)) {
            return false;
        }
        bitmap = dirty_bitmap_new(node, name, granularity, error);
        if (!bitmap) {
            return false;
        }
        bitmap->persistent = true;
        return true;
    }
    bitmap = bitmap_find(node, name, error);
    if (!bitmap || !bitmap_usable(bitmap, action->what == BITMAP_REMOVE, error)) {
        return false;
    }
    switch (action->what) {
    case BITMAP_REMOVE:
        if (bitmap->persistent && node->driver->bitmap_remove_stored &&
            !node->driver->bitmap_remove_stored(node, name, error)) {
            return false;
        }
        dirty_bitmap_free(bitmap);
        return true;
    case BITMAP_CLEAR:
        dirty_bitmap_clear(bitmap);
        return true;
    case BITMAP_ENABLE:
    case BITMAP_DISABLE:
        __atomic_store_n(&bitmap->enabled, action->what == BITMAP_ENABLE, __ATOMIC_RELAXED);
        return true;
    default: {
        const DirtyBitmap *from = bitmap_find(source_node, action->source, error);
        if (!from || !bitmap_usable(from, false, error)) {
            return false;
        }
        if (from->size != bitmap->size) {
            return error_set(error,
                             "Bitmaps are of different sizes (destination size is %" PRIu64
                             ", source size is %" PRIu64 ") and can't be merged",
                             bitmap->size, from->size);
        }
        dirty_bitmap_merge(bitmap, from);
        return true;
    }
    }
}

int img_cmd_bitmap(ImgTool *tool, int argc, char **argv)
{
    static const char *const verbs[] = { "add", "remove", "clear", "enable", "disable", "merge" };
    static const struct option longs[] = { IMG_LONG_HELP,
                                           IMG_LONG_OBJECT,
                                           IMG_LONG_IMAGE_OPTS,
                                           { "add", no_argument, NULL, BITMAP_ADD },
                                           { "remove", no_argument, NULL, BITMAP_REMOVE },
                                           { "clear", no_argument, NULL, BITMAP_CLEAR },
                                           { "enable", no_argument, NULL, BITMAP_ENABLE },
                                           { "disable", no_argument, NULL, BITMAP_DISABLE },
                                           { "merge", required_argument, NULL, BITMAP_MERGE },
                                           { "granularity", required_argument, NULL, 'g' },
                                           { "source-file", required_argument, NULL, 'b' },
                                           { "source-format", required_argument, NULL, 'F' },
                                           IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":b:f:F:g:h", .longs = longs };
    g_autoptr(GArray) actions = g_array_new(FALSE, FALSE, sizeof(BitmapAction));
    const char *source_file = NULL, *source_format = NULL;
    int64_t granularity = 0;
    bool add = false, merge = false;
    int c;
    while ((c = img_args_next(&args)) != -1) {
        switch (c) {
        case 'b':
            source_file = optarg;
            break;
        case 'F':
            source_format = optarg;
            break;
        case 'g':
            granularity = img_size_parse(optarg, "granularity", 1, INT64_MAX);
            if (granularity < 0) {
                return EXIT_FAILURE;
            }
            break;
        default: {
            BitmapAction action = { c, optarg };
            add = add || c == BITMAP_ADD;
            merge = merge || c == BITMAP_MERGE;
            g_array_append_val(actions, action);
        }
        }
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    const char *wrong = actions->len == 0
                            ? "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"
                        : granularity && !add           ? "granularity only supported with --add"
                        : source_format && !source_file ? "-F only supported with -b"
                        : source_file && !merge ? "Merge bitmap source file only supported with --merge"
                        : optind != argc - 2    ? "Expecting filename and bitmap name"
                                                : NULL;
    if (!wrong && granularity &&
        (granularity < 512 || granularity > INT32_MAX || granularity & (granularity - 1))) {
        wrong = granularity < 512 || granularity > INT32_MAX ? "Granularity must be at least 512"
                                                             : "Granularity must be power of 2";
    }
    if (wrong) {
        log_error("%s", wrong);
        return EXIT_FAILURE;
    }
    const char *name = argv[optind + 1];
    ImgDisk *disk = img_open(tool, args.image_opts, argv[optind], args.format,
                             IMG_OPEN_WRITE | IMG_OPEN_RESIZE, NULL, false, NULL);
    if (!disk) {
        return EXIT_FAILURE;
    }
    int status = EXIT_FAILURE;
    ImgDisk *source = NULL;
    if (source_file) {
        /* Its data does not matter, and its backing image may be the very one that is changed. */
        source = img_open(tool, false, source_file, source_format, IMG_OPEN_NO_BACKING, NULL, false, NULL);
        if (!source) {
            goto out;
        }
    }
    BlockNode *node = block_skip_filters(disk->node);
    BlockNode *source_node = source ? block_skip_filters(source->node) : node;
    BlockDrain *drain = block_drain_begin(node);
    bool ok = true;
    for (guint i = 0; i < actions->len && ok; i++) {
        const BitmapAction *action = &g_array_index(actions, BitmapAction, i);
        g_autoptr(GError) error = NULL;
        ok = bitmap_act(node, source_node, name, action, (uint32_t)granularity, &error);
        if (!ok) {
            error_prefix(&error, "Operation %s on bitmap %s failed: ", verbs[action->what - BITMAP_ADD],
                         name);
            error_report(error);
        }
    }
    block_drain_end(drain);
    status = ok ? EXIT_SUCCESS : EXIT_FAILURE;
out:
    img_close(source);
    img_close(disk);
    return status;
}
