/*
 * Permissions: what the parents of a node do to it and let each other do. SPDX-License-Identifier:
 * GPL-2.0-or-later
 *
 * Invariants:
 *  1. Outside block_perms_update, new_perm == perm and new_shared == shared for every edge.
 *  2. For two parents a, b of a node: a->perm is within b->shared.
 *  3. node->perm and node->shared are the union and the intersection over its parents; the driver holds locks
 * for just these.
 */
#include "block/graph/graph_internal.h"

#include "base/error.h"

#include <string.h>

char *block_perm_names(unsigned perm)
{
    static const char *const names[] = { "consistent read", "write", "write unchanged", "resize" };
    GString *s = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (perm & 1u << i) {
            g_string_append_printf(s, "%s%s", s->len ? ", " : "", names[i]);
        }
    }
    return g_string_free(s, FALSE);
}

static char *describe_parent(const BlockChild *child)
{
    if (child->parent) {
        return g_strdup_printf("node '%s'", child->parent->name);
    }
    return child->ops && child->ops->describe ? child->ops->describe(child->opaque)
                                              : g_strdup_printf("an unnamed %s", child->name);
}

static bool conflict(const BlockChild *user, const BlockChild *other, GError **error)
{
    g_autofree char *user_name = describe_parent(user), *other_name = describe_parent(other);
    g_autofree char *perms = block_perm_names(user->new_perm & ~other->new_shared);

    return error_set(
        error,
        "Permission conflict on node '%s': permissions '%s' are both required by %s (uses node '%s' "
        "as '%s' child) and unshared by %s (uses node '%s' as '%s' child).",
        user->node->name, perms, user_name, user->node->name, user->name, other_name, user->node->name,
        other->name);
}

void block_default_perms(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                         unsigned shared, unsigned *child_perm, unsigned *child_shared)
{
    if (role & BLOCK_ROLE_FILTERED) {
        *child_perm = perm;
        *child_shared = shared;
    } else if (role & BLOCK_ROLE_COW) {
        /* Our own writes do not reach it. Another's would change what our users see, unless they do not mind.
         */
        *child_perm = perm & BLOCK_PERM_CONSISTENT_READ;
        *child_shared = BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE_UNCHANGED |
                        (shared & BLOCK_PERM_WRITE ? BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE : 0);
        if (node->inactive) {
            *child_shared = BLOCK_PERM_ALL;
        }
    } else {
        bool writable = !node->read_only && !node->inactive;

        *child_perm = perm;
        *child_shared = shared;
        if (role & BLOCK_ROLE_METADATA) {
            if (writable) {
                *child_perm |= BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE;
            }
            if (!(node->open_flags & BLOCK_OPEN_NO_IO)) {
                *child_perm |= BLOCK_PERM_CONSISTENT_READ;
            }
            *child_shared &= ~(unsigned)(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE);
        }
        if (role & BLOCK_ROLE_DATA) {
            /* A write may have to make the file longer, and its length must stay what it was read as. */
            if (*child_perm & BLOCK_PERM_WRITE) {
                *child_perm |= BLOCK_PERM_RESIZE;
            }
            *child_shared &= ~(unsigned)BLOCK_PERM_RESIZE;
        }
        if (node->inactive) {
            *child_shared |= BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE;
        }
    }
}

/* Below `node`, parents first. */
static void topological(BlockNode *node, uint32_t mark, GPtrArray *reversed)
{
    if (node->visit == mark) {
        return;
    }
    node->visit = mark;
    for (guint i = 0; i < node->children->len; i++) {
        topological(((BlockChild *)g_ptr_array_index(node->children, i))->node, mark, reversed);
    }
    g_ptr_array_add(reversed, node);
}

static bool check_node(BlockNode *node, GError **error)
{
    unsigned perm = 0, shared = BLOCK_PERM_ALL;

    for (guint i = 0; i < node->parents->len; i++) {
        BlockChild *a = g_ptr_array_index(node->parents, i);

        for (guint k = 0; k < node->parents->len; k++) {
            BlockChild *b = g_ptr_array_index(node->parents, k);

            if (a != b && (a->new_perm & ~b->new_shared)) {
                return conflict(a, b, error);
            }
        }
        if (node->inactive && !a->parent) {
            /* Nobody uses it before it is activated, which looks at everything again: another program may
             * write it until then. */
            perm |= a->new_perm & BLOCK_PERM_CONSISTENT_READ;
        } else {
            perm |= a->new_perm;
            shared &= a->new_shared;
        }
    }
    if ((perm & (BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_UNCHANGED)) && node->read_only && !node->inactive) {
        return error_set(error, "Block node '%s' is read-only", node->name);
    }
    node->new_perm = perm;
    node->new_shared = shared;
    for (guint i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);

        (node->driver->child_perm ? node->driver->child_perm : block_default_perms)(
            node, child, child->role, perm, shared, &child->new_perm, &child->new_shared);
        if (node->force_share) {
            child->new_shared = BLOCK_PERM_ALL;
        }
    }
    return !node->driver->check_perm ||
           node->driver->check_perm(node, perm, node->force_share ? BLOCK_PERM_ALL : shared, error);
}

bool block_perms_update(BlockNode *const *nodes, size_t count, GError **error)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    guint checked = 0;
    bool ok = true;

    for (size_t i = 0; i < count; i++) {
        topological(nodes[i], i == 0 ? ++nodes[0]->graph->visit : nodes[0]->graph->visit, order);
    }
    if (count) {
        block_graph_changed(nodes[0]->graph);
    }
    /* Postorder turned round. */
    for (guint i = order->len; i-- > 0 && ok; checked++) {
        ok = check_node(g_ptr_array_index(order, i), error);
        if (!ok) {
            break;
        }
    }
    for (guint n = 0; n < order->len; n++) {
        BlockNode *node = g_ptr_array_index(order, order->len - 1 - n);

        if (ok) {
            node->perm = node->new_perm;
            node->shared = node->new_shared;
            if (node->driver->commit_perm) {
                node->driver->commit_perm(node, node->perm,
                                          node->force_share ? BLOCK_PERM_ALL : node->shared);
            }
        } else if (n < checked && node->driver->abort_perm) {
            node->driver->abort_perm(node);
        }
        for (guint i = 0; i < node->parents->len; i++) {
            BlockChild *up = g_ptr_array_index(node->parents, i);

            if (ok) {
                up->perm = up->new_perm;
                up->shared = up->new_shared;
            } else {
                up->new_perm = up->perm;
                up->new_shared = up->shared;
            }
        }
    }
    return ok;
}
