/*
 * -drive: one option that makes a file node, a format node and a backend with an id.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/block_internal.h"

#include "block/throttling.h"

#include "base/error.h"
#include "io/options.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Flat: the names keep their dots ("file.locking"), since "file" itself is text here. */
static json_object *parse_flat(const char *text, GError **error)
{
    json_object *o = json_object_new_object();
    const char *p = text;

    while (*p) {
        g_autoptr(GString) word = g_string_new(NULL);
        char *equals;

        for (; *p; p++) {
            if (*p == ',') {
                if (p[1] != ',') {
                    p++;
                    break;
                }
                p++;
            }
            g_string_append_c(word, *p);
        }
        if (!word->len) {
            continue;
        }
        equals = strchr(word->str, '=');
        if (equals) {
            *equals = '\0';
            json_object_object_add(o, word->str, json_object_new_string(equals + 1));
        } else {
            error_set(error, "-drive %s: expected '=' after parameter '%s'", text, word->str);
            json_object_put(o);
            return NULL;
        }
    }
    return o;
}

typedef struct CacheMode {
    const char *name;
    bool write_cache, direct, no_flush;
} CacheMode;

static const CacheMode cache_modes[] = {
    { "writeback", true, false, false },  { "none", true, true, false },
    { "off", true, true, false },         { "writethrough", false, false, false },
    { "directsync", false, true, false }, { "unsafe", true, false, true },
};

/* What is -drive's own; the rest describes the node. */
static const char *const drive_options[] = {
    "file",
    "format",
    "if",
    "id",
    "cache",
    "aio",
    "readonly",
    "snapshot",
    "media",
    "index",
    "bus",
    "unit",
    "serial",
    "werror",
    "rerror",
    "discard",
    "copy-on-read",
    "bootindex",
    "locking",
    "cache.writeback",
    "read-only",
    "cache.direct",
    "cache.no-flush",
    NULL,
};

static void copy_option(json_object *to, const char *to_name, json_object *from, const char *from_name)
{
    json_object *value;

    if (json_object_object_get_ex(from, from_name, &value)) {
        json_object_object_add(to, to_name, json_object_get(value));
    }
}

static void put_str(json_object *o, const char *name, const char *value)
{
    json_object_object_add(o, name, json_object_new_string(value));
}

static void put_bool(json_object *o, const char *name, bool value)
{
    put_str(o, name, value ? "on" : "off");
}

/* -drive's discard has two more names for its two values. */
static void copy_discard(json_object *to, json_object *from)
{
    const char *discard = options_str(from, "discard");

    if (discard) {
        put_str(to, "discard",
                strcmp(discard, "on") == 0    ? "unmap"
                : strcmp(discard, "off") == 0 ? "ignore"
                                              : discard);
    }
}

/* snapshot=on: an overlay in a file that nobody else sees and that goes with the program. */
static BlockNode *put_overlay(BlockRegistry *reg, BlockNode *base, const char *what, GError **error)
{
    const char *tmp = g_getenv("TMPDIR");
    g_autofree char *path = g_build_filename(tmp && *tmp ? tmp : "/var/tmp", "rhea-XXXXXX", NULL);
    BlockGraph *graph = block_registry_graph(reg);
    json_object *o = json_object_new_object(), *layout;
    BlockNode *node = NULL;
    int fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0) {
        error_set_errno(error, errno, "%s: cannot make a temporary overlay '%s'", what, path);
        json_object_put(o);
        return NULL;
    }
    close(fd);
    layout = json_object_new_object(); /* subclusters: first writes copy less */
    json_object_object_add(layout, "extended_l2", json_object_new_boolean(true));
    json_object_object_add(layout, "cluster_size", json_object_new_uint64(128u << 10));
    if (block_image_create(graph, "qcow2", path, base->size, layout, false, error)) {
        put_str(o, "driver", "qcow2");
        put_str(o, "file.driver", "file");
        put_str(o, "file.filename", path);
        put_str(o, "cache.no-flush", "on"); /* what it holds need not outlive the program */
        put_str(o, "discard", "unmap");
        put_str(o, "backing", base->name);
        node = block_node_open_image(graph, NULL, o, 0, error);
    }
    json_object_put(layout);
    if (!node) {
        error_prefix(error, "%s: snapshot=on: ", what);
    }
    unlink(path);
    json_object_put(o);
    return node;
}

/* The node that the options describe; NULL with an error. */
static BlockNode *open_node(BlockRegistry *reg, json_object *o, const char *what, const CacheMode *cache,
                            bool read_only, bool snapshot, GError **error)
{
    const char *file = options_str(o, "file"), *format = options_str(o, "format");
    json_object *n = json_object_new_object();
    BlockGraph *graph = block_registry_graph(reg);
    const BlockDriver *protocol = NULL;
    BlockNode *node, *overlay;

    json_object_object_foreach(o, key, value)
    {
        if (!g_strv_contains(drive_options, key) && !block_throttle_is_option(key)) {
            json_object_object_add(n, key, json_object_get(value));
        }
    }
    put_bool(n, "read-only", read_only || snapshot);
    put_bool(n, "cache.direct", cache->direct);
    put_bool(n, "cache.no-flush", cache->no_flush);
    copy_discard(n, o);
    if (!format) {
        format = options_str(o, "driver");
    }
    if (file && !g_str_has_prefix(file, "json:")) {
        protocol = block_protocol_of(file, error);
        if (!protocol) {
            json_object_put(n);
            return NULL;
        }
    }
    if (format) {
        const BlockDriver *drv = block_driver_find(format, error);

        if (!drv) {
            error_prefix(error, "%s: ", file ? file : what);
            json_object_put(n);
            return NULL;
        }
        /* format=file means its bytes as they are. */
        put_str(n, "driver", drv->is_protocol && file && protocol != drv ? "raw" : format);
        if (strcmp(format, "file") == 0 || strcmp(format, "host_device") == 0) {
            put_str(n, "driver", "raw");
        }
    }
    if (!file ||
        (protocol && (strcmp(protocol->name, "file") == 0 || strcmp(protocol->name, "host_device") == 0))) {
        copy_option(n, "file.aio", o, "aio");
        copy_option(n, "file.locking", o, "locking");
    }
    node = block_node_open_image(graph, file, n, 0, error);
    json_object_put(n);
    if (!node || !snapshot) {
        return node;
    }
    overlay = put_overlay(reg, node, what, error);
    if (!overlay && !node->parents->len) {
        block_node_ref(node);
        block_node_unref(node); /* it goes, since nobody has it */
    }
    return overlay;
}

BlockDrive *block_drive_add(BlockRegistry *reg, json_object *o, const char *default_interface, GError **error)
{
    const char *id = options_str(o, "id"), *cache_name = options_str(o, "cache"),
               *media = options_str(o, "media");
    const char *interface = options_str(o, "if");
    g_autofree char *made_id = NULL, *what = NULL;
    BlockOnError on_read = BLOCK_ON_ERROR_AUTO, on_write = BLOCK_ON_ERROR_AUTO;
    CacheMode cache = cache_modes[0];
    int64_t index = -1, bus = -1, unit = -1, bootindex = -1;
    bool read_only = false, snapshot = false, copy_on_read = false, has_file;
    BlockBackend *bb;
    BlockNode *node = NULL;
    BlockDrive *drive;

    if (!id) {
        made_id = g_strdup_printf("%s%u", interface ? interface : *default_interface ? default_interface : "drive",
                                  block_registry_drive_list(reg)->len);
        id = made_id;
    } else if (!options_id_ok(id)) {
        error_set(error, "Parameter 'id' expects an identifier, not '%s'", id);
        return NULL;
    }
    what = g_strdup_printf("drive '%s'", id);
    for (guint i = 0; i < block_registry_drive_list(reg)->len; i++) {
        BlockDrive *other = g_ptr_array_index(block_registry_drive_list(reg), i);

        if (strcmp(bb_name(other->bb), id) == 0) {
            error_set(error, "Duplicate ID '%s' for drive", id);
            return NULL;
        }
    }
    if (block_node_find(block_registry_graph(reg), id)) {
        error_set(error, "Device with id '%s' conflicts with a node of that name", id);
        return NULL;
    }
    if (cache_name) {
        size_t i;

        for (i = 0; i < G_N_ELEMENTS(cache_modes) && strcmp(cache_modes[i].name, cache_name) != 0; i++) {}
        if (i == G_N_ELEMENTS(cache_modes)) {
            error_set(error, "%s: invalid cache option '%s'", what, cache_name);
            error_append_hint(error, "Known ones: writeback, none, writethrough, directsync, unsafe.");
            return NULL;
        }
        cache = cache_modes[i];
    }
    if (media && strcmp(media, "disk") != 0 && strcmp(media, "cdrom") != 0) {
        error_set(error, "%s: '%s' invalid media", what, media);
        return NULL;
    }
    read_only = media && strcmp(media, "cdrom") == 0;
    if (!options_bool(o, what, "readonly", &read_only, error) ||
        !options_bool(o, what, "read-only", &read_only, error) ||
        !options_bool(o, what, "snapshot", &snapshot, error) ||
        !options_bool(o, what, "copy-on-read", &copy_on_read, error) ||
        !options_bool(o, what, "cache.writeback", &cache.write_cache, error) ||
        !options_bool(o, what, "cache.direct", &cache.direct, error) ||
        !options_bool(o, what, "cache.no-flush", &cache.no_flush, error) ||
        !options_int(o, what, "index", 0, 1000, &index, error) ||
        !options_int(o, what, "bus", 0, 1000, &bus, error) ||
        !options_int(o, what, "unit", 0, 1000, &unit, error) ||
        !options_int(o, what, "bootindex", 0, G_MAXINT32, &bootindex, error) ||
        !block_on_error_parse(options_str(o, "rerror"), what, true, &on_read, error) ||
        !block_on_error_parse(options_str(o, "werror"), what, false, &on_write, error)) {
        return NULL;
    }
    has_file = options_contains(o, "file") || options_contains(o, "driver") ||
               (options_contains(o, "format") && !options_contains(o, "media"));
    json_object_object_foreach(o, key, value)
    {
        has_file = has_file || g_str_has_prefix(key, "file.") ||
                   (!g_strv_contains(drive_options, key) && !block_throttle_is_option(key));
        (void)value;
    }
    if (has_file) {
        const char *file = options_str(o, "file");

        if (!file || *file) {
            node = open_node(reg, o, what, &cache, read_only, snapshot, error);
            if (!node) {
                return NULL;
            }
        }
    }
    if (node) {
        const char *group;
        json_object *limits = block_throttle_options(o, &group);

        if (limits) {
            BlockNode *top = block_throttle_over(block_registry_graph(reg), node, limits, group, id, error);

            json_object_put(limits);
            if (!top) {
                error_prefix(error, "%s: ", what);
                goto fail;
            }
            node = top;
        }
    }
    if (copy_on_read) {
        if (!node || node->read_only) {
            error_set(error, "%s: copy-on-read needs an image that may be written", what);
            goto fail;
        }
        block_copy_on_read_enable(node);
    }
    bb = block_backend_new(reg, id, node, error);
    if (!bb) {
        return NULL; /* the node went with it */
    }
    block_backend_configure(bb, cache.write_cache, on_read, on_write, options_str(o, "serial"));
    drive = g_new0(BlockDrive, 1);
    drive->bb = bb;
    drive->interface = g_strdup(interface ? interface : "");
    drive->media = g_strdup(media ? media : "disk");
    drive->serial = g_strdup(options_str(o, "serial"));
    drive->index = (int)index;
    drive->bus = (int)bus;
    drive->unit = (int)unit;
    drive->bootindex = (int)bootindex;
    g_ptr_array_add(block_registry_drive_list(reg), drive);
    return drive;
fail:
    if (node) {
        block_node_ref(node);
        block_node_unref(node);
    }
    return NULL;
}

BlockDrive *block_drive_add_text(BlockRegistry *reg, const char *text, const char *default_interface,
                                 GError **error)
{
    json_object *o = parse_flat(text, error);
    BlockDrive *drive;

    if (!o) {
        return NULL;
    }
    drive = block_drive_add(reg, o, default_interface ? default_interface : "", error);
    json_object_put(o);
    return drive;
}
