/*
 * A BlockGraph holds the nodes of one program and changes them: opening by options or by file name, roots,
 * permissions, drain, backing chains. Control plane: the thread of the graph's loop only, unless said
 * otherwise. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_GRAPH_GRAPH_H
#define RHEA_BLOCK_GRAPH_GRAPH_H

#include "block/graph/node.h"
#include "io/fd_table.h"

/* fds: for /dev/fdset/N; borrowed, may be NULL. */
BlockGraph *block_graph_new(Loop *loop, FdTable *fds);
/* Closes every node. There must be no roots left. */
void block_graph_free(BlockGraph *graph);
Loop *block_graph_loop(BlockGraph *graph);
FdTable *block_graph_fds(BlockGraph *graph);
/* Events of the graph (BLOCK_IMAGE_CORRUPTED, BLOCK_WRITE_THRESHOLD, BLOCK_JOB_*); data is the callee's.
 * Called in the graph's loop. */
typedef void BlockEventHook(void *opaque, const char *event, json_object *data);
void block_graph_set_event_hook(BlockGraph *graph, BlockEventHook *hook, void *opaque);
void block_graph_emit(BlockGraph *graph, const char *event, json_object *data); /* [any thread] */
/* Names besides those of nodes that a node must not take (drives). */
void block_graph_set_name_check(BlockGraph *graph, bool (*taken)(void *opaque, const char *name),
                                void *opaque);

/* What a device id stands for where options refer to a node (backing=drive0); NULL: nothing. */
void block_graph_set_device_lookup(BlockGraph *graph, BlockNode *(*lookup)(void *opaque, const char *id),
                                   void *opaque);
/* A node by its name, or by the id of the device that shows it. NULL with an error. */
BlockNode *block_reference_find(BlockGraph *graph, const char *name, GError **error);

/* The composition tree's root, below whose /objects the throttle groups are; borrowed. NULL: none are. */
typedef struct Object Object;
void block_graph_set_objects(BlockGraph *graph, Object *root);
Object *block_graph_objects(BlockGraph *graph);

/* ---- drivers ---- */
/* NULL-terminated names. */
const char *const *block_driver_names(void);
const BlockDriver *block_driver_find(const char *name, GError **error);
/* The driver whose format the bytes are; never NULL: raw where nothing else fits. */
const BlockDriver *block_probe(const uint8_t *head, size_t size, const char *filename);
/* The protocol driver that a file name means ("nbd://..."; a plain path: file or host_device). */
const BlockDriver *block_protocol_of(const char *filename, GError **error);
/* Whether it begins as "nbd:..." does. */
bool block_name_has_protocol(const char *filename);
/* The path without its protocol: "file:/x" is "/x". */
const char *block_strip_file_prefix(const char *filename);

/* ---- nodes ---- */
GPtrArray *block_graph_nodes(BlockGraph *graph); /* of BlockNode *, borrowed; in the order they were opened */
BlockNode *block_node_find(BlockGraph *graph, const char *name); /* NULL: none */
/* As -blockdev and blockdev-add say. flags: BLOCK_OPEN_*. The node lives until block_node_del(), or with
 * implicit until its last parent goes. options may be changed by it. */
BlockNode *block_node_open(BlockGraph *graph, QapiBlockdevOptions *options, bool implicit, unsigned flags,
                           GError **error);
/* The node that is there by that name, or a new implicit one. */
BlockNode *block_node_of_ref(BlockGraph *graph, const QapiBlockdevRef *ref, unsigned flags, GError **error);
/*
 * As -drive, tools and image headers name images. filename (may be NULL): a path, "nbd://...", "json:{...}",
 * "file:...". options (may be NULL; borrowed): a dict as BlockdevOptions, nested or with dotted keys, as text
 * or typed, whose parts go before the filename; without "driver" the format is probed. An implicit node.
 */
BlockNode *block_node_open_image(BlockGraph *graph, const char *filename, json_object *options,
                                 unsigned flags, GError **error);
/* blockdev-del. */
bool block_node_del(BlockGraph *graph, const char *node_name, GError **error);
/* blockdev-reopen: of several nodes, all or none. */
bool block_nodes_reopen(BlockGraph *graph, QapiBlockdevOptions *const *options, size_t count, GError **error);
/* The same for one node and what it stands on, with their other options as they are. */
bool block_node_set_read_only(BlockNode *node, bool read_only, GError **error);
/* An internal filter of a job over `below`, in its place for all who use it but roots that stay; its child is
 * "backing". name: NULL for a made one. The filter goes with block_node_remove_filter. NULL on error. */
BlockNode *block_node_insert_filter(BlockNode *below, const BlockDriver *driver, const char *name,
                                    GError **error);
/* The same, with a child "target" in *child from before anybody leads to the filter: parents that the target
 * stands on itself (its backing image may be `below`) stay where they are. target may be NULL. */
BlockNode *block_node_insert_filter_to(BlockNode *below, const BlockDriver *driver, const char *name,
                                       BlockNode *target, BlockChild **child, GError **error);
void block_node_remove_filter(BlockNode *filter);
/* For who holds a node over other calls: it is not closed before the last reference goes. */
void block_node_ref(BlockNode *node);
void block_node_unref(BlockNode *node);

/* ---- roots ---- */
/* Takes the permissions or fails. The root keeps the node alive. */
BlockChild *block_root_new(BlockNode *node, const char *name, unsigned perm, unsigned shared,
                           const BlockRootOps *ops, void *opaque, GError **error);
void block_root_free(BlockChild *root);
/* In a coroutine: waits while the node is drained, then counts as a request under way until released. For
 * work of several requests through edges of nodes, that must not stand still half done. */
void block_root_hold(BlockChild *root);
void block_root_release(BlockChild *root);
bool block_root_set_perm(BlockChild *root, unsigned perm, unsigned shared, GError **error);
typedef enum BlockOp { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES } BlockOp;
typedef void BlockDone(void *opaque, int result); /* 0 or a negative errno */
/* A request with a callback, for devices; and what a protocol with submit() gets. */
struct BlockRequest {
    Loop *loop; /* the submitter's */
    BlockOp op;
    unsigned flags;
    uint64_t offset, bytes;
    struct iovec *iov; /* the request's own: may be advanced */
    int iov_count;
    BlockDone *done;
    void *opaque;
    /* the core's */
    BlockNode *node;
    BlockChild *root;
    int result;
    bool submitting, finished;
    /* for the protocol's use */
    struct iovec *iov_left;
    int iov_left_count;
    uint64_t progress;
    uint8_t *bounce;
    uint64_t bounce_offset, bounce_bytes;
    struct iovec bounce_iov;
    uint64_t flush_generation;
    bool no_zero_range;
};
/* Prepares the fields that are not the submitter's. */
static inline void block_request_init(BlockRequest *req)
{
    *req = (BlockRequest){ 0 };
}
/* done runs in req->loop (the calling thread's), later, without locks; req, its iov and the memory that it
 * names must stay until then. No coroutine is made where all nodes down to a protocol with submit() let
 * requests pass. [any thread] */
void block_root_submit(BlockChild *root, BlockRequest *req);

/* ---- drain: between these, no request is under way on the node and none begins; nests. ---- */
typedef struct BlockDrain BlockDrain;
BlockDrain *block_drain_begin(BlockNode *node);
BlockDrain *block_drain_all_begin(BlockGraph *graph);
void block_drain_end(BlockDrain *drain);

/* ---- changing the graph (drains by itself) ---- */
BlockChild *block_child_attach(BlockNode *parent, BlockNode *node, const char *name, unsigned role,
                               BlockChild **slot, GError **error);
void block_child_detach(BlockChild *child);
/* Lets a child (or a root) lead to another node. */
bool block_child_replace(BlockChild *child, BlockNode *node, GError **error);
/* All parents of from, but for those that are reached from `to` itself, lead to `to` then. */
bool block_node_replace(BlockNode *from, BlockNode *to, GError **error);
/* Puts top (whose backing slot is empty) over base: base's parents lead to top, top's backing to base. */
bool block_node_append(BlockNode *top, BlockNode *base, GError **error);
/* node->backing leads to `backing` (NULL: to nothing). */
bool block_backing_set(BlockNode *node, BlockNode *backing, GError **error);
/* Stores the name in the image's header. */
bool block_backing_change_file(BlockNode *node, const char *filename, const char *format, bool require_format,
                               GError **error);
/* Images that are opened from now on belong to another program (the source of a migration) until they are
 * activated. */
void block_graph_open_inactive(BlockGraph *graph);
bool block_nodes_activate(BlockGraph *graph, GError **error);
bool block_nodes_inactivate(BlockGraph *graph, GError **error);

/* Reads of node fill it from its backing image; nests. Drains by itself. */
void block_copy_on_read_enable(BlockNode *node);
void block_copy_on_read_disable(BlockNode *node);
/* Makes serialising requests (BLOCK_REQ_SERIALISING, BLOCK_REQ_COPY_ON_READ) of roots reliable; nests. */
void block_serialise_enable(BlockNode *node);
void block_serialise_disable(BlockNode *node);

/* The end of a write beyond which BLOCK_WRITE_THRESHOLD is told once; 0: not. Drains by itself. */
void block_node_set_write_threshold(BlockNode *node, uint64_t threshold);

/* ---- looking at chains ---- */
BlockNode *block_filtered(BlockNode *node);     /* a filter's child; NULL for others */
BlockNode *block_skip_filters(BlockNode *node); /* the first that is no filter */
BlockNode *block_cow_child(BlockNode *node);    /* the backing image; NULL */
BlockNode *block_below(BlockNode *node);        /* the filtered or the backing node; NULL at the end */
bool block_chain_contains(BlockNode *top, BlockNode *node);
BlockNode *block_overlay_of(BlockNode *top, BlockNode *node); /* in top's chain; NULL */
/* By file name or backing name as clients give it. */
BlockNode *block_chain_find_file(BlockNode *top, const char *filename);
/* The backing image's name made absolute against the overlay's; caller frees; NULL with an error. */
char *block_backing_full_name(BlockNode *node, GError **error);
char *block_combine_path(const char *base, const char *relative);
/* What opens this node again, as far as names tell (for json:{...}); the caller's. */
json_object *block_node_json(BlockNode *node);
/* What has the image's data in the end: skips filters and formats by their primary child. */
BlockNode *block_protocol_node(BlockNode *node);
int64_t block_node_allocated(BlockNode *node); /* bytes on the host, or a negative errno */
bool block_node_info(BlockNode *node, BlockInfo *info, GError **error);
json_object *block_node_specific_info(BlockNode *node); /* or NULL */

/* ---- images by name ---- */
/* Makes the file or remote object under a format, empty: of the options it takes what the protocol knows, but
 * for the format's own size and preallocation; in a coroutine. */
bool block_co_create_file(BlockGraph *graph, const char *filename, json_object *options, GError **error);
/* The same with size and preallocation, for images that are just the file. */
bool block_co_create_raw(BlockGraph *graph, const char *filename, json_object *options, GError **error);
/* What rhea-img create does: format, name, size (UINT64_MAX: the backing image's), -o options as text. Checks
 * options against the drivers' tables and the backing image. Blocking. */
bool block_image_create(BlockGraph *graph, const char *format, const char *filename, uint64_t size,
                        json_object *options, bool check_backing, GError **error);
/* co_create_named of a protocol that cannot make objects: one that is there already is taken, where it is (or
 * can be made) as large as asked, and no longer shows the format that it had. */
bool block_co_create_existing(BlockGraph *graph, const char *filename, json_object *options, GError **error);
extern const BlockOption block_create_existing_options[];
bool block_image_delete_file(BlockNode *node, GError **error);

#endif
