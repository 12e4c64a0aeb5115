/*
 * Edges: attaching, detaching, leading elsewhere; roots; drain. SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Invariants:
 *  1. An edge changes only while every root above it is quiesced and has no request under way.
 *  2. root->quiesced counts the drains of all nodes below it; a request counts itself in flight first and
 * looks at quiesced then, the drain does it the other way round, so one of them sees the other.
 *  3. root->direct is set only where every node of the way passes requests on unchanged.
 */
#include "block/graph/graph_internal.h"

#include "base/error.h"

#include <string.h>
#include <unistd.h>

/* ---- drain ---- */

/* The roots above node, once each. */
static void roots_above(BlockNode *node, uint32_t mark, GPtrArray *roots)
{
    if (node->visit == mark) {
        return;
    }
    node->visit = mark;
    for (guint i = 0; i < node->parents->len; i++) {
        BlockChild *up = g_ptr_array_index(node->parents, i);

        if (up->parent) {
            roots_above(up->parent, mark, roots);
        } else {
            g_ptr_array_add(roots, up);
        }
    }
}

static void nodes_above(BlockNode *node, uint32_t mark, GPtrArray *nodes)
{
    if (node->visit == mark) {
        return;
    }
    node->visit = mark;
    g_ptr_array_add(nodes, node);
    for (guint i = 0; i < node->parents->len; i++) {
        BlockChild *up = g_ptr_array_index(node->parents, i);

        if (up->parent) {
            nodes_above(up->parent, mark, nodes);
        }
    }
}

static void quiesce_root(BlockChild *root)
{
    if (__atomic_add_fetch(&root->quiesced, 1, __ATOMIC_SEQ_CST) == 1 && root->ops &&
        root->ops->drain_begin) {
        root->ops->drain_begin(root->opaque);
    }
}

static void unquiesce_root(BlockChild *root)
{
    if (__atomic_sub_fetch(&root->quiesced, 1, __ATOMIC_SEQ_CST) == 0) {
        if (root->ops && root->ops->drain_end) {
            root->ops->drain_end(root->opaque);
        }
        co_queue_wake_all(&root->waiting);
    }
}

static void wait_idle(BlockGraph *graph, GPtrArray *roots, GPtrArray *nodes)
{
    for (;;) {
        bool busy = false;

        for (guint i = 0; i < roots->len && !busy; i++) {
            busy = __atomic_load_n(&((BlockChild *)g_ptr_array_index(roots, i))->in_flight, __ATOMIC_SEQ_CST);
        }
        for (guint i = 0; i < nodes->len && !busy; i++) {
            busy = __atomic_load_n(&((BlockNode *)g_ptr_array_index(nodes, i))->background, __ATOMIC_SEQ_CST);
        }
        if (!busy) {
            return;
        }
        if (!loop_iterate_io(graph->loop, false)) {
            usleep(20);
        }
    }
}

/* It remembers whom it stopped, since the graph may be another one at its end. */
struct BlockDrain {
    BlockGraph *graph;
    GPtrArray *roots, *nodes;
};

static BlockDrain *drain_start(BlockGraph *graph, GPtrArray *roots, GPtrArray *nodes)
{
    BlockDrain *drain = g_new(BlockDrain, 1);

    *drain = (BlockDrain){ graph, roots, nodes };
    for (guint i = 0; i < roots->len; i++) {
        quiesce_root(g_ptr_array_index(roots, i));
    }
    for (guint i = 0; i < nodes->len; i++) {
        BlockNode *n = g_ptr_array_index(nodes, i);

        n->refs++;
        if (__atomic_add_fetch(&n->quiesced, 1, __ATOMIC_SEQ_CST) == 1 && n->driver->drain_begin) {
            n->driver->drain_begin(n);
        }
    }
    wait_idle(graph, roots, nodes);
    return drain;
}

static BlockDrain *drain_around(BlockGraph *graph, BlockNode *const *around, size_t count)
{
    GPtrArray *roots = g_ptr_array_new(), *nodes = g_ptr_array_new();
    uint32_t mark = ++graph->visit;

    for (size_t i = 0; i < count; i++) {
        if (around[i]) {
            roots_above(around[i], mark, roots);
        }
    }
    mark = ++graph->visit;
    for (size_t i = 0; i < count; i++) {
        if (around[i]) {
            nodes_above(around[i], mark, nodes);
        }
    }
    return drain_start(graph, roots, nodes);
}

BlockDrain *block_drain_begin(BlockNode *node)
{
    return drain_around(node->graph, &node, 1);
}

BlockDrain *block_drain_all_begin(BlockGraph *graph)
{
    return drain_start(graph, g_ptr_array_copy(graph->roots, NULL, NULL),
                       g_ptr_array_copy(graph->nodes, NULL, NULL));
}

void block_drain_end(BlockDrain *drain)
{
    if (!drain) {
        return;
    }
    for (guint i = 0; i < drain->nodes->len; i++) {
        BlockNode *n = g_ptr_array_index(drain->nodes, i);

        if (__atomic_sub_fetch(&n->quiesced, 1, __ATOMIC_SEQ_CST) == 0 && n->driver->drain_end) {
            n->driver->drain_end(n);
        }
    }
    for (guint i = 0; i < drain->roots->len; i++) {
        if (g_ptr_array_find(drain->graph->roots, g_ptr_array_index(drain->roots, i), NULL)) {
            unquiesce_root(g_ptr_array_index(drain->roots, i));
        }
    }
    for (guint i = 0; i < drain->nodes->len; i++) {
        BlockNode *n = g_ptr_array_index(drain->nodes, i);

        n->refs--;
        if (!n->opening && !n->fresh) {
            block_node_release(n);
        }
    }
    g_ptr_array_unref(drain->roots);
    g_ptr_array_unref(drain->nodes);
    g_free(drain);
}

/* ---- the straight way ---- */

static void refresh_direct(BlockChild *root)
{
    BlockNode *node = root->node;
    uint64_t offset = 0;

    for (;;) {
        uint64_t add = 0;
        BlockChild *next;

        if (node->bitmaps->len || node->tracker->enabled || node->copy_on_read || node->write_threshold ||
            node->detect_zeroes != QAPI_BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF) {
            node = NULL;
            break;
        }
        if (node->driver->submit) {
            break;
        }
        next = node->driver->passthrough ? node->driver->passthrough(node, &add) : NULL;
        node = next ? next->node : NULL;
        if (!node) {
            break;
        }
        offset += add;
    }
    root->direct = node;
    root->direct_offset = offset;
}

unsigned block_graph_generation(const BlockGraph *graph)
{
    return __atomic_load_n(&graph->generation, __ATOMIC_RELAXED);
}

void block_graph_changed(BlockGraph *graph)
{
    __atomic_fetch_add(&graph->generation, 1, __ATOMIC_RELAXED);
}

void block_graph_refresh_direct(BlockGraph *graph)
{
    block_graph_changed(graph);
    for (guint i = 0; i < graph->roots->len; i++) {
        refresh_direct(g_ptr_array_index(graph->roots, i));
    }
}

/* ---- attaching ---- */

static bool reaches(BlockNode *from, BlockNode *to)
{
    if (from == to) {
        return true;
    }
    for (guint i = 0; i < from->children->len; i++) {
        if (reaches(((BlockChild *)g_ptr_array_index(from->children, i))->node, to)) {
            return true;
        }
    }
    return false;
}

static BlockChild *edge_new(BlockNode *parent, BlockNode *node, const char *name, unsigned role)
{
    BlockChild *child = g_new0(BlockChild, 1);

    child->name = g_strdup(name);
    child->node = node;
    child->parent = parent;
    child->role = role;
    child->shared = child->new_shared = BLOCK_PERM_ALL;
    co_queue_init(&child->waiting);
    g_ptr_array_add(node->parents, child);
    node->fresh = false;
    return child;
}

static void edge_free(BlockChild *child)
{
    g_ptr_array_remove(child->node->parents, child);
    g_free(child->name);
    g_free(child);
}

BlockChild *block_child_attach(BlockNode *parent, BlockNode *node, const char *name, unsigned role,
                               BlockChild **slot, GError **error)
{
    BlockNode *around[2] = { parent, node };
    BlockChild *child;
    BlockDrain *still;
    bool ok;

    if (reaches(node, parent)) {
        error_set(error, "Making '%s' a %s child of '%s' would create a cycle", node->name, name,
                  parent->name);
        return NULL;
    }
    still = drain_around(parent->graph, around, parent->opening ? 0 : 2);
    child = edge_new(parent, node, name, role);
    g_ptr_array_add(parent->children, child);
    if (slot) {
        *slot = child;
        child->slot = slot;
    }
    ok = block_perms_update(around, 2, error);
    if (!ok) {
        g_ptr_array_remove(parent->children, child);
        if (slot) {
            *slot = NULL;
        }
        edge_free(child);
        child = NULL;
    } else if (!parent->opening) {
        block_limits_refresh(parent);
        block_graph_refresh_direct(parent->graph);
    }
    block_drain_end(still);
    return child;
}

void block_child_detach(BlockChild *child)
{
    BlockNode *parent = child->parent, *node = child->node;
    BlockDrain *still = NULL;

    if (!parent->opening && !parent->closing) {
        still = drain_around(parent->graph, &parent, 1);
    }
    if (child->slot) {
        *child->slot = NULL;
    }
    g_ptr_array_remove(parent->children, child);
    edge_free(child);
    if (!block_perms_update(&node, 1, NULL)) {
        g_assert_not_reached(); /* less than before is always to be had */
    }
    if (!parent->opening && !parent->closing) {
        block_limits_refresh(parent);
        block_graph_refresh_direct(parent->graph);
        block_drain_end(still);
    }
    block_node_release(node);
}

/* Moves edges to another node; all or nothing. */
static bool move_edges(BlockChild *const *edges, size_t count, BlockNode *to, GError **error)
{
    BlockGraph *graph = to->graph;
    g_autofree BlockNode **nodes = g_new(BlockNode *, count + 1), **from = g_new(BlockNode *, count + 1);
    bool ok;

    for (size_t i = 0; i < count; i++) {
        from[i] = edges[i]->node;
        if (edges[i]->frozen && from[i] != to) {
            return error_set(error, "Cannot change frozen '%s' link from '%s' to '%s'", edges[i]->name,
                             edges[i]->parent ? edges[i]->parent->name : edges[i]->name, from[i]->name);
        }
        if (edges[i]->parent && reaches(to, edges[i]->parent)) {
            return error_set(error, "Making '%s' a %s child of '%s' would create a cycle", to->name,
                             edges[i]->name, edges[i]->parent->name);
        }
        if (edges[i]->parent && edges[i]->parent->driver->can_replace_child &&
            !edges[i]->parent->driver->can_replace_child(edges[i]->parent, edges[i], error)) {
            return false;
        }
    }
    memcpy(nodes, from, count * sizeof(*nodes));
    nodes[count] = to;
    BlockDrain *still = drain_around(graph, nodes, count + 1);
    for (size_t i = 0; i < count; i++) {
        if (from[i] != to) {
            from[i]->refs++;
            g_ptr_array_remove(from[i]->parents, edges[i]);
            edges[i]->node = to;
            g_ptr_array_add(to->parents, edges[i]);
        }
    }
    /* The new one's permissions come from its parents: edges keep theirs, and parents may think anew. */
    GPtrArray *start = g_ptr_array_new();
    for (size_t i = 0; i < count; i++) {
        g_ptr_array_add(start, edges[i]->parent ? edges[i]->parent : to);
        g_ptr_array_add(start, from[i]);
    }
    g_ptr_array_add(start, to);
    ok = block_perms_update((BlockNode **)start->pdata, start->len, error);
    g_ptr_array_unref(start);
    for (size_t i = 0; i < count; i++) {
        if (from[i] == to) {
            continue;
        }
        if (!ok) {
            g_ptr_array_remove(to->parents, edges[i]);
            edges[i]->node = from[i];
            g_ptr_array_add(from[i]->parents, edges[i]);
        } else if (edges[i]->parent) {
            block_limits_refresh(edges[i]->parent);
        }
    }
    block_graph_refresh_direct(graph);
    block_drain_end(still);
    for (size_t i = 0; i < count; i++) {
        if (from[i] != to) {
            from[i]->refs--;
            if (ok) {
                block_node_release(from[i]);
            }
        }
    }
    return ok;
}

bool block_child_replace(BlockChild *child, BlockNode *node, GError **error)
{
    return move_edges(&child, 1, node, error);
}

bool block_node_replace(BlockNode *from, BlockNode *to, GError **error)
{
    g_autoptr(GPtrArray) edges = g_ptr_array_new();

    for (guint i = 0; i < from->parents->len; i++) {
        BlockChild *up = g_ptr_array_index(from->parents, i);

        if (!up->stays && !(up->parent && reaches(to, up->parent))) {
            g_ptr_array_add(edges, up);
        }
    }
    return !edges->len || move_edges((BlockChild **)edges->pdata, edges->len, to, error);
}

bool block_node_append(BlockNode *top, BlockNode *base, GError **error)
{
    BlockChild *backing;

    if (top->backing || !top->driver->supports_backing) {
        return error_set(error, "Node '%s' cannot be an overlay: %s", top->name,
                         top->backing ? "it has a backing image already"
                                      : "its format knows no backing images");
    }
    if (block_size(&(BlockChild){ .node = top }) == 0) {
        return error_set(error, "Node '%s' cannot be an overlay: it is empty", top->name);
    }
    backing = block_child_attach(top, base, "backing", BLOCK_ROLE_COW, &top->backing, error);
    if (!backing) {
        return false;
    }
    if (!block_node_replace(base, top, error)) {
        block_child_detach(backing);
        return false;
    }
    return true;
}

bool block_backing_set(BlockNode *node, BlockNode *backing, GError **error)
{
    if (node->backing && node->backing->frozen) {
        return error_set(error, "Cannot change frozen 'backing' link from '%s' to '%s'", node->name,
                         node->backing->node->name);
    }
    if (!backing) {
        if (node->backing) {
            block_child_detach(node->backing);
        }
        return true;
    }
    if (node->backing) {
        return block_child_replace(node->backing, backing, error);
    }
    if (!node->driver->supports_backing) {
        return error_set(error, "Driver '%s' of node '%s' does not support backing files", node->driver->name,
                         node->name);
    }
    return block_child_attach(node, backing, "backing", BLOCK_ROLE_COW, &node->backing, error);
}

bool block_backing_change_file(BlockNode *node, const char *filename, const char *format, bool require_format,
                               GError **error)
{
    BlockDrain *drain;
    bool ok;

    if (!node->driver->change_backing) {
        return error_set(error, "Driver '%s' of node '%s' does not support backing files", node->driver->name,
                         node->name);
    }
    if (node->read_only) {
        return error_set(error, "Block node '%s' is read-only", node->name);
    }
    drain = block_drain_begin(node);
    ok = node->driver->change_backing(node, filename, format, require_format, error);
    block_drain_end(drain);
    if (ok) {
        char *name = g_strdup(filename), *fmt = g_strdup(format);

        g_free(node->backing_file);
        g_free(node->backing_format);
        node->backing_file = name;
        node->backing_format = fmt;
    }
    return ok;
}

/* ---- roots ---- */

BlockChild *block_root_new(BlockNode *node, const char *name, unsigned perm, unsigned shared,
                           const BlockRootOps *ops, void *opaque, GError **error)
{
    BlockChild *root = edge_new(NULL, node, name, 0);

    root->ops = ops;
    root->opaque = opaque;
    root->new_perm = perm;
    root->new_shared = shared;
    if (!block_perms_update(&node, 1, error)) {
        edge_free(root);
        block_node_release(node);
        return NULL;
    }
    g_ptr_array_add(node->graph->roots, root);
    refresh_direct(root);
    return root;
}

void block_root_free(BlockChild *root)
{
    BlockNode *node;
    BlockGraph *graph;

    if (!root) {
        return;
    }
    node = root->node;
    graph = node->graph;
    while (__atomic_load_n(&root->in_flight, __ATOMIC_SEQ_CST)) {
        if (!loop_iterate_io(graph->loop, false)) {
            usleep(20);
        }
    }
    g_ptr_array_remove(graph->roots, root);
    edge_free(root);
    if (!block_perms_update(&node, 1, NULL)) {
        g_assert_not_reached();
    }
    block_node_release(node);
}

bool block_root_set_perm(BlockChild *root, unsigned perm, unsigned shared, GError **error)
{
    BlockNode *node = root->node;

    root->new_perm = perm;
    root->new_shared = shared;
    return block_perms_update(&node, 1, error);
}

/* ---- copy-on-read ---- */

static void copy_on_read_add(BlockNode *node, int n, bool reads)
{
    BlockDrain *drain = block_drain_begin(node);

    __atomic_fetch_add(&node->copy_on_read, reads ? n : 0, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&node->tracker->enabled, n, __ATOMIC_SEQ_CST);
    block_graph_refresh_direct(node->graph);
    block_drain_end(drain);
}

void block_copy_on_read_enable(BlockNode *node)
{
    copy_on_read_add(node, 1, true);
}

void block_copy_on_read_disable(BlockNode *node)
{
    copy_on_read_add(node, -1, true);
}

void block_serialise_enable(BlockNode *node)
{
    copy_on_read_add(node, 1, false);
}

void block_serialise_disable(BlockNode *node)
{
    copy_on_read_add(node, -1, false);
}

void block_node_set_write_threshold(BlockNode *node, uint64_t threshold)
{
    BlockDrain *drain = block_drain_begin(node);

    __atomic_store_n(&node->write_threshold, threshold, __ATOMIC_RELAXED);
    block_graph_refresh_direct(node->graph);
    block_drain_end(drain);
}

/* ---- chains ---- */

BlockNode *block_filtered(BlockNode *node)
{
    BlockChild *child = !node->driver->is_filter ? NULL : node->file ? node->file : node->backing;

    return child ? child->node : NULL;
}

BlockNode *block_skip_filters(BlockNode *node)
{
    for (BlockNode *below; node && (below = block_filtered(node));) {
        node = below;
    }
    return node;
}

BlockNode *block_cow_child(BlockNode *node)
{
    return !node->driver->is_filter && node->backing ? node->backing->node : NULL;
}

BlockNode *block_below(BlockNode *node)
{
    BlockNode *below = block_filtered(node);

    return below ? below : block_cow_child(node);
}

bool block_chain_contains(BlockNode *top, BlockNode *node)
{
    for (; top; top = block_below(top)) {
        if (top == node) {
            return true;
        }
    }
    return false;
}

BlockNode *block_overlay_of(BlockNode *top, BlockNode *node)
{
    for (; top; top = block_below(top)) {
        if (block_below(top) == node) {
            return top;
        }
    }
    return NULL;
}

BlockNode *block_protocol_node(BlockNode *node)
{
    while (!node->driver->is_protocol) {
        BlockChild *primary = node->file;

        if (!primary) {
            primary = node->driver->is_filter ? node->backing : NULL;
        }
        if (!primary) {
            break;
        }
        node = primary->node;
    }
    return node;
}

int64_t block_node_allocated(BlockNode *node)
{
    int64_t sum = 0;

    if (node->driver->get_allocated) {
        return node->driver->get_allocated(node);
    }
    for (guint i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);
        int64_t n;

        if (!(child->role & (BLOCK_ROLE_DATA | BLOCK_ROLE_METADATA | BLOCK_ROLE_FILTERED))) {
            continue;
        }
        n = block_node_allocated(child->node);
        if (n < 0) {
            return n;
        }
        sum += n;
    }
    return sum;
}

bool block_node_info(BlockNode *node, BlockInfo *info, GError **error)
{
    *info = (BlockInfo){ 0 };
    for (BlockNode *n = node; n; n = block_filtered(n)) {
        if (n->driver->get_info) {
            return n->driver->get_info(n, info, error);
        }
    }
    return true;
}

json_object *block_node_specific_info(BlockNode *node)
{
    return node->driver->get_specific_info ? node->driver->get_specific_info(node) : NULL;
}

bool block_nodes_inactivate(BlockGraph *graph, GError **error)
{
    BlockDrain *drain = block_drain_all_begin(graph);
    bool ok = true;

    for (guint i = graph->nodes->len; i-- > 0 && ok;) {
        BlockNode *n = g_ptr_array_index(graph->nodes, i);

        if (!n->inactive) {
            ok = !n->driver->inactivate || n->driver->inactivate(n, error);
            n->inactive = ok;
        }
    }
    if (ok && graph->nodes->len) {
        ok = block_perms_update((BlockNode **)graph->nodes->pdata, graph->nodes->len, error);
    }
    block_drain_end(drain);
    return ok;
}

void block_graph_open_inactive(BlockGraph *graph)
{
    graph->open_inactive = true;
}

bool block_nodes_activate(BlockGraph *graph, GError **error)
{
    BlockDrain *drain = block_drain_all_begin(graph);
    bool ok = true;

    graph->open_inactive = false;

    for (guint i = 0; i < graph->nodes->len; i++) {
        BlockNode *n = g_ptr_array_index(graph->nodes, i);

        n->activating = n->inactive;
        n->inactive = false;
        n->open_flags &= ~(unsigned)BLOCK_OPEN_INACTIVE;
    }
    ok =
        !graph->nodes->len || block_perms_update((BlockNode **)graph->nodes->pdata, graph->nodes->len, error);
    for (guint i = 0; i < graph->nodes->len; i++) {
        BlockNode *n = g_ptr_array_index(graph->nodes, i);

        if (!ok) {
            n->inactive = n->activating;
        } else if (n->activating && n->driver->activate && !n->driver->activate(n, error)) {
            ok = false;
        }
        n->activating = false;
    }
    block_drain_end(drain);
    return ok;
}
