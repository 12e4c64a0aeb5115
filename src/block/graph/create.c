/* Making images by name. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/graph/graph_internal.h"

#include "base/error.h"
#include "base/nearest.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <string.h>

static const BlockOption *option_find(const BlockDriver *drv, const char *name)
{
    for (const BlockOption *o = drv->create_options; o && o->name; o++) {
        if (strcmp(o->name, name) == 0 && !o->amend_only) {
            return o;
        }
    }
    return NULL;
}

/* A text as the option's type; NULL with an error. */
static json_object *typed(const BlockOption *o, json_object *value, GError **error)
{
    const char *text = json_object_get_string(value);
    g_autoptr(Visitor) v = NULL;
    uint64_t n = 0;
    bool b = false;

    if (!json_object_is_type(value, json_type_string)) {
        return json_object_get(value);
    }
    if (o->type == BLOCK_OPTION_STRING) {
        return json_object_get(value);
    }
    v = visitor_new_text_input(text);
    switch (o->type) {
    case BLOCK_OPTION_BOOL:
        return visit_bool(v, o->name, &b, error) ? json_object_new_boolean(b) : NULL;
    case BLOCK_OPTION_NUMBER:
        return visit_uint64(v, o->name, &n, error) ? json_object_new_uint64(n) : NULL;
    default:
        return visit_size(v, o->name, &n, error) ? json_object_new_uint64(n) : NULL;
    }
}

/* What the driver (and, for what is left, its protocol) may be told; typed, with defaults. */
static json_object *check_options(const BlockDriver *drv, const BlockDriver *protocol, json_object *options,
                                  GError **error)
{
    json_object *out = json_object_new_object();

    if (options) {
        json_object_object_foreach(options, key, value)
        {
            const BlockOption *o = option_find(drv, key);
            json_object *t;

            if (!o && protocol) {
                o = option_find(protocol, key);
            }
            if (!o) {
                error_set(error, "Invalid parameter '%s'", key);
                json_object_put(out);
                return NULL;
            }
            t = typed(o, value, error);
            if (!t) {
                json_object_put(out);
                return NULL;
            }
            json_object_object_add(out, key, t);
        }
    }
    for (const BlockOption *o = drv->create_options; o && o->name; o++) {
        if (o->default_value && !json_object_object_get_ex(out, o->name, NULL)) {
            json_object *text = json_object_new_string(o->default_value), *t = typed(o, text, error);

            json_object_put(text);
            if (!t) {
                json_object_put(out);
                return NULL;
            }
            json_object_object_add(out, o->name, t);
        }
    }
    return out;
}

bool block_co_create_raw(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    const BlockDriver *drv = block_protocol_of(filename, error);
    json_object *mine;
    bool ok;

    if (!drv) {
        return false;
    }
    if (!drv->co_create_named) {
        return error_set(error, "Protocol driver '%s' does not support image creation", drv->name);
    }
    /* Only what it knows: the rest is the format's. */
    mine = json_object_new_object();
    json_object_object_foreach(options, key, value)
    {
        if (option_find(drv, key)) {
            json_object_object_add(mine, key, json_object_get(value));
        }
    }
    ok = drv->co_create_named(graph, filename, mine, error);
    json_object_put(mine);
    return ok;
}

bool block_co_create_file(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    json_object *rest = json_object_new_object();
    bool ok;

    json_object_object_foreach(options, key, value)
    {
        if (strcmp(key, "size") != 0 && strcmp(key, "preallocation") != 0) {
            json_object_object_add(rest, key, json_object_get(value));
        }
    }
    ok = block_co_create_raw(graph, filename, rest, error);
    json_object_put(rest);
    return ok;
}

const BlockOption block_create_existing_options[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, false },
    { NULL, 0, NULL, NULL, false },
};

bool block_co_create_existing(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    json_object *o = json_object_new_object(), *value;
    uint64_t size = 0, head;
    BlockNode *node;
    BlockChild *root;
    bool ok = true;
    int ret = 0;

    if (json_object_object_get_ex(options, "size", &value)) {
        size = json_object_get_uint64(value);
    }
    json_object_object_add(o, "driver", json_object_new_string(block_protocol_of(filename, NULL)->name));
    json_object_object_add(o, "filename", json_object_new_string(filename));
    node = block_node_open_image(graph, NULL, o, BLOCK_OPEN_RESIZE, error);
    json_object_put(o);
    if (!node) {
        return false;
    }
    root =
        block_root_new(node, "tool", BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE, BLOCK_PERM_ALL, NULL, NULL, error);
    if (!root) {
        block_node_release(node);
        return false;
    }
    if (block_size(root) < size && !blk_truncate(root, size, false, QAPI_PREALLOC_MODE_OFF, 0, NULL)) {
        ok = error_set(error,
                       "'%s' is there, but with %" G_GUINT64_FORMAT " of the %" G_GUINT64_FORMAT
                       " bytes that are asked for, and driver '%s' cannot make it larger",
                       filename, block_size(root), size, node->driver->name);
    }
    head = MIN(block_size(root), 512);
    if (ok && head) {
        ret = blk_pwrite_zeroes(root, 0, head, 0);
        ok = ret >= 0 || error_set_errno(error, -ret, "Could not clear the old header of '%s'", filename);
    }
    block_root_free(root);
    return ok;
}

typedef struct Create {
    BlockGraph *graph;
    const BlockDriver *drv;
    const char *filename;
    json_object *options;
    GError **error;
    bool ok;
} Create;

static void create_entry(void *opaque)
{
    Create *c = opaque;

    c->ok = c->drv->co_create_named(c->graph, c->filename, c->options, c->error);
}

static const char *text_of(json_object *o, const char *name)
{
    json_object *value;

    return json_object_object_get_ex(o, name, &value) && value ? json_object_get_string(value) : NULL;
}

bool block_image_create(BlockGraph *graph, const char *format, const char *filename, uint64_t size,
                        json_object *options, bool check_backing, GError **error)
{
    const BlockDriver *drv = block_driver_find(format, error), *protocol;
    const char *backing, *backing_format;
    json_object *o, *value;
    bool ok = false;

    if (!drv) {
        return error_set((g_clear_error(error), error), "Unknown file format '%s'", format);
    }
    protocol = block_protocol_of(filename, error);
    if (!protocol) {
        return false;
    }
    if (!drv->create_options || !drv->co_create_named) {
        return error_set(error, "Format driver '%s' does not support image creation", format);
    }
    if (!protocol->create_options) {
        return error_set(error, "Protocol driver '%s' does not support image creation", protocol->name);
    }
    o = check_options(drv, protocol, options, error);
    if (!o) {
        return false;
    }
    backing = text_of(o, "backing_file");
    backing_format = text_of(o, "backing_fmt");
    if (size == UINT64_MAX && json_object_object_get_ex(o, "size", &value)) {
        size = json_object_get_uint64(value);
    }
    if (backing && !*backing) {
        error_set(error, "Expected backing file name, got empty string");
        goto out;
    }
    if (backing && strcmp(backing, filename) == 0) {
        error_set(error, "Error: Trying to create an image with the same filename as the backing file");
        goto out;
    }
    if (backing_format && !block_driver_find(backing_format, NULL)) {
        error_set(error, "Unknown backing file format '%s'", backing_format);
        goto out;
    }
    if (backing && !backing_format) {
        error_set(error, "Backing file specified without backing format");
        error_append_hint(error, "Say it with -F (or backing_fmt=).");
        goto out;
    }
    if (backing && (check_backing || size == UINT64_MAX)) {
        g_autofree char *full = block_combine_path(filename, backing);
        json_object *bo = json_object_new_object();
        BlockNode *node;

        json_object_object_add(bo, "driver", json_object_new_string(backing_format));
        json_object_object_add(bo, "read-only", json_object_new_boolean(true));
        if (!check_backing || size == UINT64_MAX) {
            json_object_object_add(bo, "force-share", json_object_new_boolean(true));
        }
        node = block_node_open_image(graph, full, bo, BLOCK_OPEN_NO_BACKING, error);
        json_object_put(bo);
        if (!node) {
            if (size == UINT64_MAX || check_backing) {
                error_append_hint(error, "Could not open backing image.");
                goto out;
            }
        } else {
            if (size == UINT64_MAX) {
                size = node->size;
            }
            block_node_release(node);
        }
    }
    if (size == UINT64_MAX) {
        error_set(error, "Image creation needs a size parameter");
        goto out;
    }
    json_object_object_add(o, "size", json_object_new_uint64(size));
    Create c = { graph, drv, filename, o, error, false };
    block_run(graph, create_entry, &c);
    ok = c.ok;
out:
    json_object_put(o);
    return ok;
}

typedef struct Delete {
    BlockNode *node;
    GError **error;
    bool ok;
} Delete;

static void delete_entry(void *opaque)
{
    Delete *d = opaque;

    d->ok = d->node->driver->co_delete_file(d->node, d->error);
}

bool block_image_delete_file(BlockNode *node, GError **error)
{
    Delete d = { block_protocol_node(node), error, false };

    if (!d.node->driver->co_delete_file) {
        return error_set(error, "Protocol driver '%s' cannot delete images", d.node->driver->name);
    }
    block_run(node->graph, delete_entry, &d);
    return d.ok;
}
