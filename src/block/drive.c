/*
 * -drive: one option that makes a file node, a format node and a backend with an id.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/block_internal.h"

#include "base/error.h"
#include "io/options.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *block_probe_format(const uint8_t *data, size_t size)
{
    static const struct {
        const char *format, *magic;
        size_t length, offset;
    } formats[] = {
        { "qcow2", "QFI\xfb", 4, 0 },     { "qed", "QED\0", 4, 0 },
        { "vmdk", "KDMV", 4, 0 },         { "vmdk", "COWD", 4, 0 },
        { "vhdx", "vhdxfile", 8, 0 },     { "vpc", "conectix", 8, 0 },
        { "luks", "LUKS\xba\xbe", 6, 0 }, { "vdi", "\x7f\x10\xda\xbe", 4, 64 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (size >= formats[i].offset + formats[i].length &&
            memcmp(data + formats[i].offset, formats[i].magic, formats[i].length) == 0) {
            return formats[i].format;
        }
    }
    return "raw";
}

/* The host's file that -drive names without a format: what is in it? */
static bool probe(BlockRegistry *reg, const char *path, const char **format, GError **error)
{
    uint8_t head[512];
    int fd = fd_table_open(block_registry_fds(reg), path, O_RDONLY | O_NONBLOCK, 0);
    ssize_t n;

    *format = "raw";
    if (fd < 0) {
        return error_set_errno(error, errno, "Could not open '%s'", path);
    }
    n = pread(fd, head, sizeof(head), 0);
    close(fd);
    if (n > 0) {
        *format = block_probe_format(head, (size_t)n);
    }
    return true;
}

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

static const char *const drive_options[] = {
    "file",
    "format",
    "driver",
    "if",
    "id",
    "cache",
    "aio",
    "readonly",
    "read-only",
    "auto-read-only",
    "snapshot",
    "media",
    "index",
    "bus",
    "unit",
    "serial",
    "werror",
    "rerror",
    "discard",
    "detect-zeroes",
    "copy-on-read",
    "node-name",
    "file.locking",
    "file.driver",
    "file.filename",
    "file.aio",
    "cache.writeback",
    "cache.direct",
    "cache.no-flush",
    "bootindex",
    "locking",
    "size",
    "read-zeroes",
    "latency-ns",
    "force-share",
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

/* Opens what the translated text means, as -blockdev would. */
static BlockNode *open_described(BlockRegistry *reg, json_object *description, const char *what,
                                 GError **error)
{
    g_autoptr(Visitor) v = visitor_new_input(description, true);
    g_autoptr(QapiBlockdevOptions) options = NULL;

    if (!qapi_visit_BlockdevOptions(v, NULL, &options, error)) {
        error_prefix(error, "%s: ", what);
        return NULL;
    }
    return block_node_open(reg, options, true, error);
}

static bool off(const char *text)
{
    return !text || strcmp(text, "off") == 0 || strcmp(text, "false") == 0;
}

/* The node that the options describe; NULL with an error. */
static BlockNode *open_node(BlockRegistry *reg, json_object *o, const char *what, const CacheMode *cache,
                            bool read_only, GError **error)
{
    const char *file = options_str(o, "file"), *format = options_str(o, "format");
    json_object *top = json_object_new_object(), *low = json_object_new_object();
    g_autofree char *path = NULL;
    BlockNode *node = NULL;
    struct stat st;

    if (!file) {
        file = options_str(o, "file.filename");
    }
    if (!format) {
        format = options_str(o, "driver");
    }
    put_bool(low, "read-only", read_only);
    put_bool(low, "auto-read-only", false);
    json_object *low_cache = json_object_new_object();
    put_bool(low_cache, "direct", cache->direct);
    put_bool(low_cache, "no-flush", cache->no_flush);
    json_object_object_add(low, "cache", low_cache);
    copy_discard(low, o);
    copy_option(low, "force-share", o, "force-share");
    if (g_str_has_prefix(file ? file : "", "null-co://") ||
        (!file && format && strcmp(format, "null-co") == 0)) {
        put_str(low, "driver", "null-co");
        copy_option(low, "size", o, "size");
        copy_option(low, "read-zeroes", o, "read-zeroes");
        copy_option(low, "latency-ns", o, "latency-ns");
        copy_option(low, "node-name", o, "node-name");
        node = open_described(reg, low, what, error);
        goto out;
    }
    path = g_strdup(g_str_has_prefix(file, "file:") ? file + strlen("file:") : file);
    if (!g_str_has_prefix(file, "file:")) {
        const char *colon = strchr(path, ':'), *slash = strchr(path, '/');

        if (colon && colon != path && (!slash || colon < slash) && stat(path, &st) < 0) {
            g_autofree char *protocol = g_strndup(path, (gsize)(colon - path));

            block_unknown_driver(protocol, error);
            goto out;
        }
    }
    if (!format && !probe(reg, path, &format, error)) {
        goto out;
    }
    if (strcmp(format, "raw") != 0) {
        if (strcmp(format, "file") == 0 || strcmp(format, "host_device") == 0) {
            format = "raw";
        } else {
            block_unknown_driver(format, error);
            error_prefix(error, "%s: ", path);
            goto out;
        }
    }
    put_str(low, "driver", stat(path, &st) == 0 && S_ISBLK(st.st_mode) ? "host_device" : "file");
    put_str(low, "filename", path);
    copy_option(low, "aio", o, "aio");
    copy_option(low, "aio", o, "file.aio");
    copy_option(low, "locking", o, "locking");
    copy_option(low, "locking", o, "file.locking");
    put_str(top, "driver", "raw");
    put_bool(top, "read-only", read_only);
    copy_discard(top, o);
    copy_option(top, "node-name", o, "node-name");
    copy_option(top, "detect-zeroes", o, "detect-zeroes");
    json_object_object_add(top, "file", json_object_get(low));
    node = open_described(reg, top, what, error);
out:
    json_object_put(top);
    json_object_put(low);
    return node;
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
    bool read_only = false, has_file;
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
    if (block_node_find(reg, id)) {
        error_set(error, "Device with id '%s' conflicts with a node of that name", id);
        return NULL;
    }
    if (!options_known(o, what, drive_options, error)) {
        return NULL;
    }
    if (!off(options_str(o, "snapshot"))) {
        error_set(error, "%s: snapshot=on is not in this version: it needs the qcow2 format", what);
        error_append_hint(error, "Use a copy of the image, or read-only=on.");
        return NULL;
    }
    if (!off(options_str(o, "copy-on-read"))) {
        error_set(error, "%s: copy-on-read is not supported", what);
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
    has_file = options_contains(o, "file") || options_contains(o, "file.filename") ||
               options_contains(o, "driver") ||
               (options_contains(o, "format") && !options_contains(o, "media"));
    if (has_file) {
        const char *file = options_str(o, "file");
        const char *format = options_str(o, options_contains(o, "format") ? "format" : "driver");

        if (!file && !options_contains(o, "file.filename") && (!format || strcmp(format, "null-co") != 0)) {
            error_set(error, "%s: a disk needs a file (file=)", what);
            return NULL;
        }
        if ((!file || *file)) {
            node = open_node(reg, o, what, &cache, read_only, error);
            if (!node) {
                return NULL;
            }
        }
    }
    bb = block_backend_new(reg, id, node);
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
