/*
 * From names and dicts to nodes: json: and protocol names, probing, children, backing chains.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph_internal.h"

#include "base/error.h"
#include "io/options.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROBE_BYTES       2048
#define MAX_CHAIN         1000
#define MAX_OPTIONS_DEPTH 32

SECTION_DECLARE(rhea_block_drivers, const BlockDriver);

/* ---- file names ---- */

/* The length of NAME in "NAME:rest", where NAME looks like a protocol; 0: a plain path. */
static size_t protocol_length(const char *filename)
{
    size_t n = strspn(filename, "abcdefghijklmnopqrstuvwxyz0123456789+.-_ABCDEFGHIJKLMNOPQRSTUVWXYZ");

    return n && filename[n] == ':' ? n : 0;
}

bool block_name_has_protocol(const char *filename)
{
    return protocol_length(filename) > 0;
}

const char *block_strip_file_prefix(const char *filename)
{
    return g_str_has_prefix(filename, "file:") ? filename + strlen("file:") : filename;
}

const BlockDriver *block_protocol_of(const char *filename, GError **error)
{
    size_t n = protocol_length(filename);
    g_autofree char *name = g_strndup(filename, n);
    g_autoptr(GError) local = NULL;
    struct stat st;

    if (!n || strcmp(name, "file") == 0) {
        filename = block_strip_file_prefix(filename);
        return block_driver_find(stat(filename, &st) == 0 && S_ISBLK(st.st_mode) ? "host_device" : "file",
                                 error);
    }
    SECTION_FOREACH(rhea_block_drivers, const BlockDriver, it)
    {
        if (((*it)->prefixes && g_strv_contains((*it)->prefixes, name)) ||
            ((*it)->is_protocol && strcmp((*it)->name, name) == 0)) {
            return *it;
        }
    }
    if (stat(filename, &st) == 0) { /* a file with a colon in its name, where that means nothing else */
        return block_driver_find(S_ISBLK(st.st_mode) ? "host_device" : "file", error);
    }
    if (!block_driver_find(name, &local) && !g_str_has_prefix(local->message, "Unknown driver")) {
        g_propagate_error(error, g_steal_pointer(&local)); /* one that is known, but not in this program */
        return NULL;
    }
    error_set(error, "Unknown protocol '%s'", name);
    return NULL;
}

char *block_combine_path(const char *base, const char *relative)
{
    const char *slash, *start = base;

    if (*relative == '/' || protocol_length(relative)) {
        return g_strdup(relative);
    }
    if (protocol_length(base)) {
        start = base + protocol_length(base) + 1;
    }
    slash = strrchr(start, '/');
    if (slash) {
        start = slash + 1;
    }
    return g_strdup_printf("%.*s%s", (int)(start - base), base, relative);
}

char *block_backing_full_name(BlockNode *node, GError **error)
{
    const char *base = node->filename ? node->filename : "";

    if (!node->backing_file) {
        error_set(error, "%s has no backing file", node->what);
        return NULL;
    }
    for (BlockNode *n = node; n && base && g_str_has_prefix(base, "json:");) {
        n = n->file ? n->file->node : NULL; /* where its file lies is the directory that is meant */
        base = n ? n->filename : NULL;
    }
    if (*node->backing_file != '/' && !protocol_length(node->backing_file) && !base) {
        error_set(error, "Cannot use relative backing file names for '%s'", node->filename);
        return NULL;
    }
    return block_combine_path(base ? base : "", node->backing_file);
}

/* ---- dicts ---- */

static json_object *deep_copy(json_object *o)
{
    json_object *copy = NULL;

    return o && json_object_deep_copy(o, &copy, NULL) == 0 ? copy : NULL;
}

/* Puts `value` (owned) at the end of a dotted key. */
static void put_dotted(json_object *dict, const char *key, json_object *value)
{
    const char *dot = strchr(key, '.');
    g_autofree char *first = NULL;
    json_object *inner;

    if (!dot) {
        json_object_object_add(dict, key, value);
        return;
    }
    first = g_strndup(key, (gsize)(dot - key));
    if (!json_object_object_get_ex(dict, first, &inner) || !json_object_is_type(inner, json_type_object)) {
        inner = json_object_new_object();
        json_object_object_add(dict, first, inner);
    }
    put_dotted(inner, dot + 1, value);
}

/* A dict whose keys are "0", "1" and so on is a list. Takes and gives a reference. */
static json_object *listify(json_object *dict)
{
    json_object *list = json_object_new_array(), *value;
    size_t n = (size_t)json_object_object_length(dict);
    char key[24];

    for (size_t i = 0; i < n; i++) {
        g_snprintf(key, sizeof(key), "%zu", i);
        if (!json_object_object_get_ex(dict, key, &value)) {
            json_object_put(list);
            return dict;
        }
        json_object_array_add(list, json_object_get(value));
    }
    if (!n) {
        json_object_put(list);
        return dict;
    }
    json_object_put(dict);
    return list;
}

static json_object *listify_members(json_object *dict, int depth)
{
    if (depth <= MAX_OPTIONS_DEPTH) {
        json_object_object_foreach(dict, key, value)
        {
            if (value && json_object_is_type(value, json_type_object)) {
                json_object *now = listify_members(json_object_get(value), depth + 1);

                if (now != value) {
                    json_object_object_add(dict, key, now);
                } else {
                    json_object_put(now);
                }
            }
        }
    }
    return listify(dict);
}

/* Dotted keys nested, scalars as text (the visitors parse them then, as for key=value). */
static json_object *normalise(json_object *value, int depth)
{
    if (depth > MAX_OPTIONS_DEPTH) {
        return json_object_new_string("");
    }
    switch (json_object_get_type(value)) {
    case json_type_object: {
        json_object *out = json_object_new_object();

        json_object_object_foreach(value, key, inner)
        {
            put_dotted(out, key, normalise(inner, depth + 1));
        }
        return depth ? out : listify_members(out, 0);
    }
    case json_type_array: {
        json_object *out = json_object_new_array();

        for (size_t i = 0; i < json_object_array_length(value); i++) {
            json_object_array_add(out, normalise(json_object_array_get_idx(value, i), depth + 1));
        }
        return out;
    }
    case json_type_boolean:
        return json_object_new_string(json_object_get_boolean(value) ? "on" : "off");
    case json_type_null:
        return NULL;
    default:
        return json_object_new_string(json_object_get_string(value));
    }
}

static json_object *get(json_object *o, const char *name)
{
    json_object *value;

    return json_object_object_get_ex(o, name, &value) ? value : NULL;
}

static const char *get_text(json_object *o, const char *name)
{
    json_object *value = get(o, name);

    return value && json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static void put_text(json_object *o, const char *name, const char *text)
{
    json_object_object_add(o, name, json_object_new_string(text));
}

/* What is in `from` and not in `to` yet. */
static void merge(json_object *to, json_object *from)
{
    json_object_object_foreach(from, key, value)
    {
        json_object *have = NULL;

        if (!json_object_object_get_ex(to, key, &have)) {
            json_object_object_add(to, key, json_object_get(value));
        } else if (json_object_is_type(have, json_type_object) &&
                   json_object_is_type(value, json_type_object)) {
            merge(have, value);
        }
    }
}

/* The dict behind "json:", normalised; NULL with an error. */
static json_object *parse_json_name(const char *filename, GError **error)
{
    json_object *o = json_tokener_parse(filename + strlen("json:")), *n;

    if (!o || !json_object_is_type(o, json_type_object)) {
        json_object_put(o);
        error_set(error, "Could not parse the JSON options of '%s'", filename);
        return NULL;
    }
    n = normalise(o, 0);
    json_object_put(o);
    return n;
}

json_object *block_node_json(BlockNode *node)
{
    const char *name = node->filename ? node->filename : "";
    json_object *o;

    /* Its own name, and not its file's. */
    if (g_str_has_prefix(name, "json:") && (!node->file || strcmp(node->file->node->filename, name) != 0)) {
        o = json_tokener_parse(name + strlen("json:"));
        if (o) {
            return o;
        }
    }
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string(node->driver->name));
    if (node->file) {
        json_object_object_add(o, node->file->name, block_node_json(node->file->node));
    } else {
        json_object_object_add(o, "filename", json_object_new_string(name));
    }
    return o;
}

static const char *const inherited_names[] = { "read-only", "auto-read-only", "force-share", NULL };

/* What a part described in a dict gets of the whole. */
static void inherit_text(json_object *to, json_object *from)
{
    for (size_t i = 0; inherited_names[i]; i++) {
        json_object *value = get(from, inherited_names[i]);

        if (value && !get(to, inherited_names[i])) {
            json_object_object_add(to, inherited_names[i], json_object_get(value));
        }
    }
    /* The node above decides which discards come down. */
    if (!get(to, "discard")) {
        put_text(to, "discard", "unmap");
    }
    if (get(from, "cache")) {
        if (!get(to, "cache")) {
            json_object_object_add(to, "cache", json_object_new_object());
        }
        merge(get(to, "cache"), get(from, "cache"));
    }
}

/* Makes "driver" and the driver's own names out of "filename". */
static bool complete_protocol(json_object *o, GError **error)
{
    const char *filename = get_text(o, "filename"), *driver = get_text(o, "driver");
    const BlockDriver *drv;
    g_autofree char *name = g_strdup(filename);

    if (driver && !filename) {
        return true;
    }
    if (!filename) {
        return error_set(error, "A block device must be specified for \"file\"");
    }
    if (g_str_has_prefix(name, "json:")) {
        json_object *named = parse_json_name(name, error);

        if (!named) {
            return false;
        }
        json_object_object_del(o, "filename");
        merge(o, named);
        json_object_put(named);
        return complete_protocol(o, error);
    }
    drv = driver ? block_driver_find(driver, error) : block_protocol_of(name, error);
    if (!drv) {
        return false;
    }
    put_text(o, "driver", drv->name);
    if (drv->parse_filename) {
        json_object *parsed = json_object_new_object(), *n;

        json_object_object_del(o, "filename");
        if (!drv->parse_filename(name, parsed, error)) {
            json_object_put(parsed);
            return false;
        }
        n = normalise(parsed, 0);
        json_object_put(parsed);
        merge(o, n);
        json_object_put(n);
    } else {
        put_text(o, "filename", driver ? name : block_strip_file_prefix(name));
    }
    return true;
}

static BlockNode *visit_and_open(BlockGraph *graph, json_object *o, unsigned flags, GError **error)
{
    g_autoptr(Visitor) v = visitor_new_input(o, true);
    g_autoptr(QapiBlockdevOptions) options = NULL;

    return qapi_visit_BlockdevOptions(v, NULL, &options, error)
               ? block_node_open(graph, options, true, flags, error)
               : NULL;
}

static BlockNode *open_dict(BlockGraph *graph, json_object *o, bool probe, unsigned flags, int depth,
                            GError **error);

/* A part that the dict describes: opens it by its own rules and puts its name in its place. The node has a
 * reference, since it has no parent yet; it goes to `held`. */
static bool open_part(BlockGraph *graph, json_object *o, const char *name, bool is_image, unsigned flags,
                      int depth, GPtrArray *held, GError **error)
{
    json_object *part = get(o, name);
    BlockNode *node;

    if (!part || !json_object_is_type(part, json_type_object)) {
        return true;
    }
    if (strcmp(name, "backing") == 0) {
        if (!get(part, "read-only")) {
            put_text(part, "read-only", "on");
        }
        if (!get(part, "force-share") && get(o, "force-share")) {
            json_object_object_add(part, "force-share", json_object_get(get(o, "force-share")));
        }
        if (get(o, "cache") && !get(part, "cache")) {
            json_object_object_add(part, "cache", deep_copy(get(o, "cache")));
        }
    } else {
        inherit_text(part, o);
    }
    node = open_dict(graph, part, is_image, flags & BLOCK_OPEN_INHERITED, depth + 1, error);
    if (!node) {
        return false;
    }
    block_node_ref(node);
    g_ptr_array_add(held, node);
    put_text(o, name, node->name);
    return true;
}

/* The same for a list of parts. */
static bool open_list(BlockGraph *graph, json_object *o, const char *name, unsigned flags, int depth,
                      GPtrArray *held, GError **error)
{
    json_object *list = get(o, name);
    size_t n = list && json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

    for (size_t i = 0; i < n; i++) {
        json_object *part = json_object_array_get_idx(list, i), *around;
        bool ok;

        if (!part || !json_object_is_type(part, json_type_object)) {
            continue;
        }
        around = json_object_new_object(); /* as if it were the whole's only part */
        inherit_text(part, o);
        json_object_object_add(around, name, json_object_get(part));
        ok = open_part(graph, around, name, true, flags, depth, held, error);
        if (ok) {
            json_object_array_put_idx(list, i, json_object_get(get(around, name)));
        }
        json_object_put(around);
        if (!ok) {
            return false;
        }
    }
    return true;
}

/* Formats that are told by their first bytes, whether or not their drivers are in this program: an image of
 * one that is not must not be taken for raw. */
static const char *known_format(const uint8_t *head, size_t size)
{
    static const struct {
        const char *format, *magic;
        size_t length, offset;
    } formats[] = {
        { "qcow2", "QFI\xfb\0\0\0\2", 8, 0 },
        { "qcow2", "QFI\xfb\0\0\0\3", 8, 0 },
        { "qcow", "QFI\xfb\0\0\0\1", 8, 0 },
        { "qed", "QED\0", 4, 0 },
        { "vmdk", "KDMV", 4, 0 },
        { "vmdk", "COWD", 4, 0 },
        { "vhdx", "vhdxfile", 8, 0 },
        { "vpc", "conectix", 8, 0 },
        { "luks", "LUKS\xba\xbe", 6, 0 },
        { "vdi", "\x7f\x10\xda\xbe", 4, 64 },
        { "parallels", "WithoutFreeSpace", 16, 0 },
        { "parallels", "WithouFreSpacExt", 16, 0 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (size >= formats[i].offset + formats[i].length &&
            memcmp(head + formats[i].offset, formats[i].magic, formats[i].length) == 0) {
            return formats[i].format;
        }
    }
    return NULL;
}

/* Reads the first bytes of `file` and says whose format they are. */
static const BlockDriver *probe_node(BlockNode *file, GError **error)
{
    g_autofree uint8_t *head = g_malloc0(PROBE_BYTES);
    BlockChild *root = block_root_new(file, "probe", 0, BLOCK_PERM_ALL, NULL, NULL, error);
    uint64_t n;
    int ret;

    if (!root) {
        return NULL;
    }
    n = MIN(block_size(root), PROBE_BYTES);
    ret = n ? blk_pread(root, 0, n, head, 0) : 0;
    block_root_free(root);
    if (ret < 0) {
        error_set_errno(error, -ret, "Could not read image for determining its format");
        return NULL;
    }
    if (known_format(head, n) && !block_driver_find(known_format(head, n), NULL)) {
        block_unknown_driver(known_format(head, n), error);
        error_append_hint(error, "format=raw takes the file's bytes as they are.");
        return NULL;
    }
    return block_probe(head, n, file->filename);
}

/* probe: an image, whose format may be left open; else a protocol is meant where there is no driver. */
static BlockNode *open_dict(BlockGraph *graph, json_object *o, bool probe, unsigned flags, int depth,
                            GError **error)
{
    static const char *const parts[] = { "file", "image", "data-file", "backing", "test",
                                         "raw",  "log",   "target",    NULL };
    const char *driver = get_text(o, "driver");
    const BlockDriver *drv = NULL;
    g_autoptr(GPtrArray) held = g_ptr_array_new();
    json_object *backing_extra = NULL;
    BlockNode *node = NULL;

    if (depth > MAX_OPTIONS_DEPTH) {
        error_set(error, "The options are nested too deeply");
        return NULL;
    }
    if (driver) {
        drv = block_driver_find(driver, error);
        if (!drv) {
            return NULL;
        }
    }
    if (!probe || (drv && (drv->is_protocol || (drv->parse_filename && get(o, "filename"))))) {
        if (!complete_protocol(o, error)) {
            return NULL;
        }
        drv = block_driver_find(get_text(o, "driver"), error);
        if (!drv) {
            return NULL;
        }
    } else if (get(o, "filename")) {
        /* "filename" of an image is its file's. */
        json_object *file = get(o, "file");

        if (get_text(o, "file")) {
            error_set(error, "Can't use 'file' and a file name together");
            return NULL;
        }
        if (!file) {
            file = json_object_new_object();
            json_object_object_add(o, "file", file);
        }
        if (!get(file, "filename")) {
            json_object_object_add(file, "filename", json_object_get(get(o, "filename")));
        }
        json_object_object_del(o, "filename");
    }
    if (drv && drv->old_options) {
        drv->old_options(o);
    }
    if (!drv && !get(o, "file")) {
        error_set(error, "Can't open an image without a file name or a driver");
        return NULL;
    }
    for (size_t i = 0; parts[i]; i++) {
        json_object *part = get(o, parts[i]);
        const char *of =
            part && json_object_is_type(part, json_type_object) ? get_text(part, "driver") : NULL;
        const BlockDriver *part_driver = of ? block_driver_find(of, NULL) : NULL;
        bool image = strcmp(parts[i], "backing") == 0 || (part && get(part, "file")) ||
                     (part_driver && !part_driver->is_protocol && !part_driver->parse_filename) ||
                     strcmp(parts[i], "test") == 0 || strcmp(parts[i], "target") == 0 ||
                     strcmp(parts[i], "log") == 0;

        if (strcmp(parts[i], "backing") == 0 && part && json_object_is_type(part, json_type_object) &&
            !get(part, "filename") && !get(part, "file") &&
            (!part_driver || part_driver->supports_backing || !part_driver->is_protocol)) {
            backing_extra = json_object_get(part); /* more about the image that the header names */
            json_object_object_del(o, "backing");
            continue;
        }

        if (!open_part(graph, o, parts[i], image, flags, depth, held, error)) {
            goto out;
        }
    }
    if (!open_list(graph, o, "children", flags, depth, held, error)) {
        goto out;
    }
    if (!drv) {
        BlockNode *file = block_reference_find(graph, get_text(o, "file") ? get_text(o, "file") : "", error);

        if (!file) {
            goto out;
        }
        drv = probe_node(file, error);
        if (!drv) {
            goto out;
        }
        put_text(o, "driver", drv->name);
        flags |= BLOCK_OPEN_PROBED;
    }
    graph->backing_extra = backing_extra;
    node = visit_and_open(graph, o, flags, error);
    graph->backing_extra = NULL;
out:
    json_object_put(backing_extra);
    for (guint i = held->len; i-- > 0;) {
        if (node) {
            node->refs++; /* it may be what goes with the last reference, if it took none of its parts */
        }
        block_node_unref(g_ptr_array_index(held, i));
        if (node) {
            node->refs--;
        }
    }
    return node;
}

BlockNode *block_node_open_image(BlockGraph *graph, const char *filename, json_object *options,
                                 unsigned flags, GError **error)
{
    json_object *o = options ? normalise(options, 0) : json_object_new_object();
    BlockNode *node = NULL;

    if (filename && g_str_has_prefix(filename, "json:")) {
        json_object *named = parse_json_name(filename, error);

        if (!named) {
            goto out;
        }
        merge(o, named);
        json_object_put(named);
        filename = NULL;
    }
    if (filename) {
        if (!*filename) {
            error_set(error, "The 'file' block driver requires a file name");
            goto out;
        }
        if (!get(o, "driver")) {
            /* "blkdebug:...:x" and such are filters with a name of their own, not files of an image. */
            size_t n = protocol_length(filename);
            g_autofree char *protocol = g_strndup(filename, n);
            const BlockDriver *drv = n ? block_driver_find(protocol, NULL) : NULL;

            if (drv && !drv->is_protocol && drv->parse_filename) {
                json_object *file = json_object_new_object();

                put_text(file, "driver", drv->name);
                put_text(file, "filename", filename);
                json_object_object_add(o, "file", file);
                filename = NULL;
            }
        }
        if (filename) {
            put_text(o, "filename", filename);
        }
    }
    node = open_dict(graph, o, true, flags, 0, error);
    if (!node && filename && error && *error && !strstr((*error)->message, filename)) {
        error_prefix(error, "Could not open '%s': ", filename);
    }
out:
    json_object_put(o);
    return node;
}

/* ---- children that drivers open ---- */

void block_options_inherit(QapiBlockdevOptions *child, const QapiBlockdevOptions *parent, unsigned role)
{
#define INHERIT(field)                                \
    if (!child->has_##field && parent->has_##field) { \
        child->has_##field = true;                    \
        child->field = parent->field;                 \
    }
    if (role & BLOCK_ROLE_COW) {
        if (!child->has_read_only) {
            child->has_read_only = child->read_only = true;
        }
    } else {
        INHERIT(read_only)
        INHERIT(auto_read_only)
        if (!child->has_discard) { /* the node above decides which come down */
            child->has_discard = true;
            child->discard = QAPI_BLOCKDEV_DISCARD_OPTIONS_UNMAP;
        }
    }
    INHERIT(force_share)
#undef INHERIT
    if (!child->cache && parent->cache) {
        child->cache = g_new(QapiBlockdevCacheOptions, 1);
        *child->cache = *parent->cache;
    }
}

BlockChild *block_child_open(BlockNode *node, const char *name, unsigned role, BlockChild **slot,
                             const QapiBlockdevOptions *options, QapiBlockdevRef *ref, GError **error)
{
    BlockNode *below;
    BlockChild *child;

    if (!ref) {
        error_set(error, "A block device must be specified for \"%s\"", name);
        return NULL;
    }
    if (ref->kind == QAPI_BLOCKDEV_REF_DEFINITION) {
        block_options_inherit(ref->u_definition, options, role);
        below = block_node_open(node->graph, ref->u_definition, true, node->open_flags & BLOCK_OPEN_INHERITED,
                                error);
        if (!below) {
            return NULL;
        }
    } else {
        below = block_reference_find(node->graph, ref->u_reference, error);
        if (!below) {
            return NULL;
        }
    }
    if (below->read_only && !node->read_only && !(role & BLOCK_ROLE_COW)) {
        if (!node->auto_read_only && !below->auto_read_only) {
            error_set(error, "Block node '%s' is read-only", below->name);
            block_node_release(below);
            return NULL;
        }
        node->read_only = true;
    }
    below->refs++;
    child = block_child_attach(node, below, name, role, slot, error);
    below->refs--;
    if (!child) {
        block_node_release(below);
    }
    return child;
}

bool block_filter_open(BlockNode *node, const char *name, const QapiBlockdevOptions *options,
                       QapiBlockdevRef *ref, GError **error)
{
    const unsigned flags =
        BLOCK_REQ_FUA | BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK | BLOCK_REQ_WRITE_UNCHANGED;

    if (!block_child_open(node, name, BLOCK_ROLE_FILTER, &node->file, options, ref, error)) {
        return false;
    }
    node->size = block_size(node->file);
    node->write_flags = node->zero_flags = flags;
    node->truncate_flags = node->file->node->truncate_flags;
    return true;
}

/* Whether the image that is to be opened as a backing image is one of those that are being opened above it.
 */
static bool chain_loops(BlockNode *node, const char *full_name, GError **error)
{
    GPtrArray *chain = node->graph->chain;

    for (guint i = 0; i < chain->len; i++) {
        if (strcmp(((BlockNode *)chain->pdata[i])->filename, full_name) == 0) {
            error_set(error, "Backing file '%s' of '%s' creates an infinite loop.", full_name,
                      node->filename);
            return true;
        }
    }
    if (chain->len > MAX_CHAIN) {
        error_set(error, "The backing chain of '%s' is longer than %d images", full_name, MAX_CHAIN);
        return true;
    }
    return false;
}

bool block_backing_open(BlockNode *node, const QapiBlockdevOptions *options, QapiBlockdevRefOrNull *ref,
                        GError **error)
{
    g_autofree char *name = NULL;
    json_object *o, *extra = node->graph->backing_extra;
    BlockNode *below = NULL;
    BlockChild *child;

    node->graph->backing_extra = NULL;
    if (!node->filename && node->file) {
        node->filename = g_strdup(node->file->node->filename);
    }
    if ((ref && ref->kind == QAPI_BLOCKDEV_REF_OR_NULL_NULL) || (node->open_flags & BLOCK_OPEN_NO_BACKING)) {
        return true;
    }
    if (ref && ref->kind == QAPI_BLOCKDEV_REF_OR_NULL_REFERENCE) {
        below = block_reference_find(node->graph, ref->u_reference, error);
        if (!below) {
            return false;
        }
    } else if (ref) {
        block_options_inherit(ref->u_definition, options, BLOCK_ROLE_COW);
        below = block_node_open(node->graph, ref->u_definition, true, node->open_flags & BLOCK_OPEN_INHERITED,
                                error);
    } else {
        if (!node->backing_file || !*node->backing_file) {
            return true;
        }
        name = block_backing_full_name(node, error);
        if (!name) {
            return false;
        }
        g_ptr_array_add(node->graph->chain, node);
        if (chain_loops(node, name, error)) {
            g_ptr_array_remove(node->graph->chain, node);
            return false;
        }
        o = json_object_new_object();
        if (extra) {
            merge(o, extra);
        }
        put_text(o, "read-only", "on");
        if (node->backing_format && *node->backing_format && !get(o, "driver")) {
            if (!block_driver_find(node->backing_format, error)) {
                g_ptr_array_remove(node->graph->chain, node);
                json_object_put(o);
                error_prefix(error, "Could not open backing file: ");
                return false;
            }
            put_text(o, "driver", node->backing_format);
        }
        if (node->force_share) {
            put_text(o, "force-share", "on");
        }
        if (node->cache_direct || node->cache_no_flush) {
            put_text(o, "cache.direct", node->cache_direct ? "on" : "off");
            put_text(o, "cache.no-flush", node->cache_no_flush ? "on" : "off");
        }
        below = block_node_open_image(node->graph, name, o, node->open_flags & BLOCK_OPEN_INHERITED, error);
        g_ptr_array_remove(node->graph->chain, node);
        json_object_put(o);
        if (!below) {
            error_prefix(error, "Could not open backing file: ");
        }
    }
    if (!below) {
        return false;
    }
    below->refs++;
    child = block_child_attach(node, below, "backing", BLOCK_ROLE_COW, &node->backing, error);
    below->refs--;
    if (!child) {
        block_node_release(below);
    }
    return child != NULL;
}

BlockNode *block_chain_find_file(BlockNode *top, const char *filename)
{
    for (BlockNode *over = block_skip_filters(top); over; over = block_skip_filters(block_cow_child(over))) {
        BlockNode *below = block_skip_filters(block_cow_child(over));
        g_autofree char *full = NULL, *wanted = NULL;

        if (!below) {
            return NULL;
        }
        if ((over->backing_file && strcmp(over->backing_file, filename) == 0) ||
            (below->filename && strcmp(below->filename, filename) == 0)) {
            return below;
        }
        full = block_backing_full_name(over, NULL);
        wanted = block_combine_path(over->filename ? over->filename : "", filename);
        if ((full && strcmp(full, wanted) == 0) ||
            (below->filename && strcmp(below->filename, wanted) == 0)) {
            return below;
        }
    }
    return NULL;
}
