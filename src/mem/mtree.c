/* The text of "info mtree". SPDX-License-Identifier: GPL-2.0-or-later */
#include "mem/memory_internal.h"

static const char *kind_name(const MemoryRegion *mr)
{
    switch (mr->kind) {
    case MEMORY_RAM:
        return mr->readonly ? "rom" : "ram";
    case MEMORY_ROM:
        return "rom";
    case MEMORY_ROM_DEVICE:
        return mr->romd ? "romd" : "i/o";
    case MEMORY_ALIAS:
        return kind_name(mr->alias);
    case MEMORY_CONTAINER:
    case MEMORY_MMIO:
        break;
    }
    return "i/o";
}

static hwaddr last_byte(hwaddr base, uint64_t size)
{
    hwaddr last = size ? base + (size == UINT64_MAX ? size : size - 1) : base;
    return last < base ? UINT64_MAX : last;
}

static void print_region(GString *out, const MemoryRegion *mr, hwaddr base, int indent, GPtrArray *aliased)
{
    hwaddr addr = base + mr->addr;
    g_string_append_printf(out, "%*s%016" PRIx64 "-%016" PRIx64 " (prio %d, %s): ", indent, "", addr,
                           last_byte(addr, mr->size), mr->priority, kind_name(mr));
    if (mr->kind == MEMORY_ALIAS) {
        g_string_append_printf(out, "alias %s @%s %016" PRIx64 "-%016" PRIx64, mr->name, mr->alias->name,
                               mr->alias_offset, last_byte(mr->alias_offset, mr->size));
        if (!g_ptr_array_find(aliased, mr->alias, NULL)) {
            g_ptr_array_add(aliased, mr->alias);
        }
    } else {
        g_string_append(out, mr->name);
    }
    g_string_append(out, mr->enabled ? "\n" : " [disabled]\n");
    for (unsigned i = 0; mr->subregions && i < mr->subregions->len; i++) {
        print_region(out, mr->subregions->pdata[i], addr, indent + 2, aliased);
    }
}

static void print_tree(GString *out, AddressSpace *as)
{
    g_autoptr(GPtrArray) roots = g_ptr_array_new();
    g_string_append_printf(out, "address-space: %s\n", as->name);
    print_region(out, as->root, 0, 2, roots);
    for (unsigned i = 0; i < roots->len; i++) { /* grows while regions that aliases show alias others */
        const MemoryRegion *mr = roots->pdata[i];
        const MemoryRegion *top = mr;
        while (top->container) {
            top = top->container;
        }
        if (top == as->root) {
            continue; /* shown already */
        }
        g_string_append_printf(out, "\nmemory-region: %s\n", mr->name);
        print_region(out, mr, 0, 2, roots);
    }
}

static void print_flat(GString *out, AddressSpace *as)
{
    const FlatView *view = as->view;
    g_string_append_printf(out, "FlatView of address-space \"%s\", root: %s\n", as->name, as->root->name);
    if (view->count == 0) {
        g_string_append(out, "  No rendered FlatView\n");
    }
    for (unsigned i = 0; i < view->count; i++) {
        const FlatRange *r = &view->ranges[i];
        const char *kind = r->romd ? "romd" : r->host ? (r->readonly ? "rom" : "ram") : "i/o";
        g_string_append_printf(out, "  %016" PRIx64 "-%016" PRIx64 " (prio %d, %s): %s", r->first, r->last,
                               r->region->priority, kind, r->region->name);
        if (r->offset) {
            g_string_append_printf(out, " @%016" PRIx64, r->offset);
        }
        g_string_append_c(out, '\n');
    }
}

char *memory_print_tree(AddressSpace *as, bool flat)
{
    GString *out = g_string_new(NULL);
    memory_topology_lock();
    if (flat) {
        print_flat(out, as);
    } else {
        print_tree(out, as);
    }
    memory_topology_unlock();
    return g_string_free(out, FALSE);
}
