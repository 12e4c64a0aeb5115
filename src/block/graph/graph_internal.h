/*
 * The inside of the block graph. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_GRAPH_GRAPH_INTERNAL_H
#define RHEA_BLOCK_GRAPH_GRAPH_INTERNAL_H

#include "block/graph/graph.h"

struct BlockGraph {
    Loop *loop;
    FdTable *fds;
    GPtrArray *nodes; /* of BlockNode * */
    GPtrArray *roots; /* of BlockChild * */
    unsigned next_name;
    bool open_inactive; /* images are another program's until block_nodes_activate() */
    uint32_t visit;
    unsigned generation; /* atomic */
    Object *objects;
    json_object *backing_extra; /* of the node that is being opened: options for the header's backing image */
    GPtrArray *chain;           /* of BlockNode *: whose backing images are being opened */
    BlockEventHook *event_hook;
    void *event_opaque;
    bool (*name_taken)(void *opaque, const char *name);
    void *name_opaque;
    BlockNode *(*device_lookup)(void *opaque, const char *id);
    void *device_opaque;
};

/* ---- requests that must not overlap (io.c) ---- */
typedef struct BlockTracked BlockTracked;
struct BlockTracked {
    BlockTracked *next, *prev;
    uint64_t offset, bytes;
    bool serialising, write;
    BlockTracked *waiting_for;
    CoQueue waiting;
};
typedef struct BlockTracker {
    pthread_mutex_t lock;
    BlockTracked *list;
    int enabled; /* counts who needs it; changed while drained */
} BlockTracker;

BlockTracker *block_tracker_new(void);
void block_tracker_free(BlockTracker *tracker);

/* perm.c: recomputes the permissions of everything below these nodes, all or nothing. */
bool block_perms_update(BlockNode *const *nodes, size_t count, GError **error);
/* "write, resize"; caller frees. */
char *block_perm_names(unsigned perm);

/* edge.c: finds anew where roots may go straight. */
void block_graph_refresh_direct(BlockGraph *graph);
void block_limits_refresh(BlockNode *node); /* and of everything above */
void block_node_release(BlockNode *node);   /* a parent or reference went: closes what nobody holds */
void block_node_close(BlockNode *node);
BlockChild *block_child_attach_raw(BlockNode *parent, BlockNode *node, const char *name, unsigned role,
                                   BlockChild **slot, GError **error);

/* open.c: what a child described in place gets of its parent. */
void block_options_inherit(QapiBlockdevOptions *child, const QapiBlockdevOptions *parent, unsigned role);
/* For a driver that is not there (yet): sets the error that says so. */
bool block_unknown_driver(const char *name, GError **error);

#endif
