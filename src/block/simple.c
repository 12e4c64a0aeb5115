/* raw (a window of its file node) and null-co. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/block_internal.h"

#include "base/error.h"
#include "io/options.h"

#include <errno.h>
#include <string.h>
#include <time.h>

static bool raw_open(BlockNode *node, json_object *options, GError **error)
{
    json_object *file;
    BlockNode *child;
    uint64_t offset = 0, size = 0, child_size;

    if (!json_object_object_get_ex(options, "file", &file) || !file) {
        return error_set(error, "%s: a block device must be specified for \"file\"", node->what);
    }
    if (json_object_is_type(file, json_type_object)) {
        const char *inherited[] = { "read-only", "auto-read-only", "discard", "force-share", "cache" };

        /* What the user said once holds for the parts that were not named. */
        for (size_t i = 0; i < G_N_ELEMENTS(inherited); i++) {
            json_object *value;

            if (!options_contains(file, inherited[i]) &&
                json_object_object_get_ex(options, inherited[i], &value)) {
                json_object_object_add(file, inherited[i], json_object_get(value));
            }
        }
        child = block_node_open(node->reg, file, true, error);
    } else {
        const char *name = json_object_get_string(file);

        child = block_node_find(node->reg, name);
        if (!child) {
            error_set(error, "Cannot find device='' nor node-name='%s'", name);
        }
    }
    if (!child) {
        return false;
    }
    node->child = child;
    child->users++;
    if (!options_size(options, node->what, "offset", &offset, error) ||
        !options_size(options, node->what, "size", &size, error)) {
        return false;
    }
    child_size = child->size;
    if (offset > child_size || size > child_size - offset) {
        return error_set(error,
                         "%s: offset and size must lie within the %" G_GUINT64_FORMAT " bytes of its file",
                         node->what, child_size);
    }
    node->child_offset = offset;
    node->size = options_contains(options, "size") ? size : child_size - offset;
    node->limits = child->limits;
    if (!node->read_only && child->read_only) {
        if (node->auto_read_only || child->auto_read_only) {
            node->read_only = true;
        } else {
            return error_set(error, "Block node '%s' is read-only", child->name);
        }
    }
    return true;
}

static const char *const raw_options[] = { "file", "offset", "size", NULL };
static const BlockDriver raw_driver = {
    .name = "raw",
    .options = raw_options,
    .open = raw_open,
};
BLOCK_DRIVER(raw_driver);

/* ---- null-co: a disk that holds nothing, for measuring what is above it ---- */

typedef struct NullNode {
    BlockNode node;
    bool read_zeroes;
    int64_t latency_ns;
} NullNode;

static bool null_open(BlockNode *node, json_object *options, GError **error)
{
    NullNode *n = (NullNode *)node;

    node->size = UINT64_C(1) << 30;
    node->limits.can_discard = node->limits.can_write_zeroes = true;
    node->filename = g_strdup("null-co://");
    return options_size(options, node->what, "size", &node->size, error) &&
           options_int(options, node->what, "latency-ns", 0, 1000000000, &n->latency_ns, error) &&
           options_bool(options, node->what, "read-zeroes", &n->read_zeroes, error);
}

static void null_done(void *opaque, ssize_t result)
{
    BlockRequest *req = opaque;

    if (req->op == BLOCK_READ && ((NullNode *)req->node)->read_zeroes) {
        for (int i = 0; i < req->iov_count; i++) {
            memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
        }
    }
    block_request_done(req, 0);
}

static ssize_t null_wait(void *opaque)
{
    int64_t ns = ((NullNode *)((BlockRequest *)opaque)->node)->latency_ns;
    struct timespec ts = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

    nanosleep(&ts, NULL);
    return 0;
}

static void null_submit(BlockNode *node, BlockRequest *req)
{
    if (((NullNode *)node)->latency_ns) {
        loop_submit_work(req->loop, null_wait, null_done, req);
    } else {
        loop_complete_later(req->loop, null_done, req, 0);
    }
}

static const char *const null_options[] = { "size", "latency-ns", "read-zeroes", NULL };
static const BlockDriver null_driver = {
    .name = "null-co",
    .options = null_options,
    .instance_size = sizeof(NullNode),
    .open = null_open,
    .submit = null_submit,
};
BLOCK_DRIVER(null_driver);
