/*
 * The tree of regions, transactions, address spaces and their listeners.
 *
 * Invariants:
 * 1. The tree, listener lists and the list of address spaces change only under the topology lock.
 * 2. A published view is never changed; readers reach it under RCU only.
 * 3. A region or a RAM block that a view shows outlives every reader of that view: destruction takes it out
 * of the tree first and then waits for a grace period. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "mem/memory_internal.h"

#include "base/error.h"

#include <string.h>

#if RHEA_TSAN
char memory_rcu_tsan_clock;
#endif

static pthread_mutex_t topology_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static unsigned depth;    /* of transactions; under the lock */
static bool changed;      /* a view may be out of date */
static bool rewired;      /* an ioeventfd came or went */
static GPtrArray *spaces; /* the registry of address spaces */

void memory_topology_lock(void)
{
    pthread_mutex_lock(&topology_lock);
}

void memory_topology_unlock(void)
{
    pthread_mutex_unlock(&topology_lock);
}

/* ---- listeners and publication ---- */

static MemoryRegionSection section_of(const FlatRange *range)
{
    uint64_t size = range->last - range->first + 1;
    return (MemoryRegionSection){
        .region = range->region,
        .offset_in_region = range->offset,
        .addr = range->first,
        .size = size ? size : UINT64_MAX,
        .readonly = range->readonly || range->romd,
    };
}

static bool same_place(const FlatRange *a, const FlatRange *b)
{
    return a->first == b->first && a->last == b->last && a->region == b->region && a->offset == b->offset &&
           a->readonly == b->readonly && a->romd == b->romd && a->host == b->host;
}

#define TELL(as, member, ...)                                            \
    for (unsigned tell_i = 0; tell_i < (as)->listeners->len; tell_i++) { \
        MemoryListener *tell_l = (as)->listeners->pdata[tell_i];         \
        if (tell_l->member) {                                            \
            tell_l->member(tell_l, ##__VA_ARGS__);                       \
        }                                                                \
    }

/* Walks two sorted views in step: first what goes (deleted == true), then what comes. */
static void tell_difference(AddressSpace *as, const FlatView *from, const FlatView *to, bool deleted)
{
    const FlatView *walked = deleted ? from : to, *other = deleted ? to : from;
    unsigned j = 0;
    for (unsigned i = 0; i < walked->count; i++) {
        const FlatRange *range = &walked->ranges[i];
        while (j < other->count && other->ranges[j].first < range->first) {
            j++;
        }
        const FlatRange *twin =
            j < other->count && same_place(&other->ranges[j], range) ? &other->ranges[j] : NULL;
        MemoryRegionSection section = section_of(range);
        if (deleted) {
            if (!twin) {
                TELL(as, region_del, &section);
            }
            continue;
        }
        uint8_t before = twin ? twin->log_mask : 0;
        if (!twin) {
            TELL(as, region_add, &section);
        }
        if (range->log_mask & ~before) {
            TELL(as, log_start, &section);
        }
        if (before & ~range->log_mask) {
            TELL(as, log_stop, &section);
        }
    }
}

static bool views_equal(const FlatView *a, const FlatView *b)
{
    if (a->count != b->count) {
        return false;
    }
    for (unsigned i = 0; i < a->count; i++) {
        if (!same_place(&a->ranges[i], &b->ranges[i]) || a->ranges[i].log_mask != b->ranges[i].log_mask) {
            return false;
        }
    }
    return true;
}

static void publish(AddressSpace *as, FlatView *view)
{
    FlatView *old = as->view;
    if (views_equal(old, view)) {
        flat_view_unref(view);
        return;
    }
    TELL(as, begin);
    tell_difference(as, old, view, true);
    tell_difference(as, old, view, false);
    rcu_publish(&as->view, view);
    __atomic_fetch_add(&as->generation, 1, __ATOMIC_RELEASE);
    TELL(as, commit);
    flat_view_unref(old);
}

/* Address spaces whose roots show the same tree at the same place (each PCI device has its own) share one
 * view. */
static MemoryRegion *effective_root(MemoryRegion *root)
{
    while (root && root->enabled) {
        MemoryRegion *next = NULL;
        if (root->kind == MEMORY_CONTAINER && !root->readonly && root->subregions &&
            root->subregions->len == 1) {
            MemoryRegion *sub = root->subregions->pdata[0];
            if (!sub->enabled) {
                return NULL;
            }
            if (sub->addr == 0 && root->size >= sub->size) {
                next = sub;
            }
        } else if (root->kind == MEMORY_ALIAS && root->alias_offset == 0 && !root->readonly &&
                   root->alias->enabled && root->size >= root->alias->size) {
            next = root->alias;
        }
        if (!next) {
            return root;
        }
        root = next;
    }
    return root && root->enabled ? root : NULL;
}

static void publish_all(void)
{
    g_autoptr(GHashTable) rendered = g_hash_table_new(NULL, NULL);
    for (unsigned i = 0; spaces && i < spaces->len; i++) {
        AddressSpace *as = spaces->pdata[i];
        MemoryRegion *root = effective_root(as->root);
        FlatView *view = g_hash_table_lookup(rendered, root ? (void *)root : (void *)&rendered);
        if (view) {
            view->ref++;
        } else {
            view = flat_view_render(root);
            view->ref++; /* ours, until the loop below */
            g_hash_table_insert(rendered, root ? (void *)root : (void *)&rendered, view);
        }
        publish(as, view);
    }
    GHashTableIter iter;
    void *view;
    g_hash_table_iter_init(&iter, rendered);
    while (g_hash_table_iter_next(&iter, NULL, &view)) {
        flat_view_unref(view);
    }
}

/* ---- ioeventfds at their addresses, for those who listen to them ---- */

static int compare_eventfds(const MemoryIoeventfd *a, const MemoryIoeventfd *b)
{
#define BY(member)                                 \
    if ((a->member) != (b->member)) {              \
        return (a->member) < (b->member) ? -1 : 1; \
    }
    BY(offset)
    BY(size)
    BY(match_data)
    BY(data)
    BY(notifier)
#undef BY
    return 0;
}

/* Sorted, since ranges and tables are. */
static GArray *collect_eventfds(const FlatView *view)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(MemoryIoeventfd));
    for (unsigned i = 0; i < view->count; i++) {
        const FlatRange *range = &view->ranges[i];
        const MemoryIoeventfdTable *table = range->region->ioeventfds;
        for (unsigned j = 0; table && j < table->count; j++) {
            MemoryIoeventfd e = table->entries[j];
            if (e.offset >= range->offset && e.offset - range->offset <= range->last - range->first) {
                e.offset = range->first + (e.offset - range->offset);
                g_array_append_val(all, e);
            }
        }
    }
    return all;
}

/* Tells of those in `these` that `others` lacks. */
static void tell_eventfds(AddressSpace *as, const GArray *these, const GArray *others, bool added)
{
    unsigned j = 0;
    for (unsigned i = 0; i < these->len; i++) {
        const MemoryIoeventfd *e = &g_array_index(these, MemoryIoeventfd, i);
        while (j < others->len && compare_eventfds(&g_array_index(others, MemoryIoeventfd, j), e) < 0) {
            j++;
        }
        if (j < others->len && compare_eventfds(&g_array_index(others, MemoryIoeventfd, j), e) == 0) {
            continue;
        }
        if (added) {
            TELL(as, eventfd_add, e);
        } else {
            TELL(as, eventfd_del, e);
        }
    }
}

static void update_eventfds(AddressSpace *as)
{
    if (!as->eventfds) {
        return;
    }
    GArray *now = collect_eventfds(as->view);
    tell_eventfds(as, as->eventfds, now, false);
    tell_eventfds(as, now, as->eventfds, true);
    g_array_unref(as->eventfds);
    as->eventfds = now;
}

/* A listener comes or goes. */
static void tell_one_eventfds(MemoryListener *l, bool added)
{
    AddressSpace *as = l->as;
    if (!l->eventfd_add) {
        return;
    }
    if (!as->eventfds) {
        as->eventfds = collect_eventfds(as->view);
    }
    for (unsigned i = 0; i < as->eventfds->len; i++) {
        const MemoryIoeventfd *e = &g_array_index(as->eventfds, MemoryIoeventfd, i);
        if (added) {
            l->eventfd_add(l, e);
        } else {
            l->eventfd_del(l, e);
        }
    }
}

void memory_transaction_begin(void)
{
    memory_topology_lock();
    depth++;
}

void memory_transaction_commit(void)
{
    g_assert(depth > 0);
    if (depth == 1 && (changed || rewired)) {
        if (changed) {
            changed = false;
            publish_all();
        }
        rewired = false;
        for (unsigned i = 0; spaces && i < spaces->len; i++) {
            update_eventfds(spaces->pdata[i]);
        }
    }
    depth--;
    memory_topology_unlock();
}

/* ---- regions ---- */

void memory_region_init(MemoryRegion *mr, void *owner, const char *name, uint64_t size)
{
    memset(mr, 0, sizeof(*mr));
    mr->name = g_strdup(name);
    mr->owner = owner;
    mr->size = size;
    mr->kind = MEMORY_CONTAINER;
    mr->enabled = true;
    mr->romd = true;
}

void memory_region_init_io(MemoryRegion *mr, void *owner, const MemoryRegionOps *ops, void *opaque,
                           const char *name, uint64_t size, HomeLock *lock)
{
    memory_region_init(mr, owner, name, size);
    mr->kind = MEMORY_MMIO;
    mr->ops = ops;
    mr->opaque = opaque;
    mr->lock = lock;
}

void memory_region_init_ram_from_block(MemoryRegion *mr, void *owner, const char *name, RamBlock *block)
{
    memory_region_init(mr, owner, name, block->size);
    mr->kind = MEMORY_RAM;
    mr->ram = block;
}

bool memory_region_init_ram(MemoryRegion *mr, void *owner, const char *name, uint64_t size, GError **error)
{
    RamBlock *block = ram_block_new(name, &(RamBlockOptions){ .size = size }, error);
    if (!block) {
        memset(mr, 0, sizeof(*mr));
        return false;
    }
    memory_region_init_ram_from_block(mr, owner, name, block);
    mr->size = size;
    return true;
}

bool memory_region_init_rom(MemoryRegion *mr, void *owner, const char *name, uint64_t size, GError **error)
{
    if (!memory_region_init_ram(mr, owner, name, size, error)) {
        return false;
    }
    mr->kind = MEMORY_ROM;
    mr->readonly = true;
    return true;
}

bool memory_region_init_rom_device(MemoryRegion *mr, void *owner, const MemoryRegionOps *ops, void *opaque,
                                   const char *name, uint64_t size, HomeLock *lock, GError **error)
{
    if (!memory_region_init_ram(mr, owner, name, size, error)) {
        return false;
    }
    mr->kind = MEMORY_ROM_DEVICE;
    mr->ops = ops;
    mr->opaque = opaque;
    mr->lock = lock;
    return true;
}

void memory_region_init_alias(MemoryRegion *mr, void *owner, const char *name, MemoryRegion *target,
                              hwaddr offset, uint64_t size)
{
    memory_region_init(mr, owner, name, size);
    mr->kind = MEMORY_ALIAS;
    mr->alias = target;
    mr->alias_offset = offset;
}

static void remove_from_container(MemoryRegion *mr)
{
    if (mr->container) {
        g_ptr_array_remove(mr->container->subregions, mr);
        mr->container = NULL;
        changed = true;
    }
}

void memory_region_destroy(MemoryRegion *mr)
{
    if (!mr->name) {
        return;
    }
    memory_transaction_begin();
    g_assert(depth == 1 || !mr->published); /* else the views would still show it */
    remove_from_container(mr);
    if (mr->subregions) {
        for (unsigned i = 0; i < mr->subregions->len; i++) {
            MemoryRegion *sub = mr->subregions->pdata[i];
            sub->container = NULL;
            changed = true;
        }
        g_ptr_array_free(mr->subregions, TRUE);
        mr->subregions = NULL;
    }
    memory_transaction_commit();
    if (mr->published) {
        g_assert(!memory_rcu_held());
        memory_rcu_synchronize();
    }
    g_free(mr->ioeventfds);
    ram_block_unref(mr->ram);
    g_free(mr->name);
    memset(mr, 0, sizeof(*mr));
}

void memory_region_add_overlap(MemoryRegion *container, hwaddr addr, MemoryRegion *sub, int priority)
{
    g_assert(!sub->container && sub != container);
    memory_transaction_begin();
    if (!container->subregions) {
        container->subregions = g_ptr_array_new();
    }
    sub->container = container;
    sub->addr = addr;
    sub->priority = priority;
    unsigned i = 0;
    while (i < container->subregions->len &&
           ((MemoryRegion *)container->subregions->pdata[i])->priority > priority) {
        i++;
    }
    g_ptr_array_insert(container->subregions, (int)i, sub);
    changed |= sub->enabled;
    memory_transaction_commit();
}

void memory_region_add(MemoryRegion *container, hwaddr addr, MemoryRegion *sub)
{
    memory_region_add_overlap(container, addr, sub, 0);
}

void memory_region_del(MemoryRegion *container, MemoryRegion *sub)
{
    g_assert(sub->container == container);
    memory_transaction_begin();
    remove_from_container(sub);
    memory_transaction_commit();
}

#define CHANGE(mr, field, value)                                       \
    do {                                                               \
        memory_transaction_begin();                                    \
        if ((mr)->field != (value)) {                                  \
            __atomic_store_n(&(mr)->field, (value), __ATOMIC_RELAXED); \
            changed = true;                                            \
        }                                                              \
        memory_transaction_commit();                                   \
    } while (0)

void memory_region_set_enabled(MemoryRegion *mr, bool enabled)
{
    CHANGE(mr, enabled, enabled);
}

void memory_region_set_readonly(MemoryRegion *mr, bool readonly)
{
    CHANGE(mr, readonly, readonly);
}

void memory_region_set_address(MemoryRegion *mr, hwaddr addr)
{
    memory_transaction_begin();
    MemoryRegion *container = mr->container;
    if (mr->addr != addr && container) {
        /* Taken out and put back, so that it lies over its equals like a newcomer. */
        remove_from_container(mr);
        memory_region_add_overlap(container, addr, mr, mr->priority);
    }
    mr->addr = addr;
    memory_transaction_commit();
}

void memory_region_set_size(MemoryRegion *mr, uint64_t size)
{
    g_assert(!mr->ram || size <= mr->ram->size);
    CHANGE(mr, size, size);
}

void memory_region_set_alias_offset(MemoryRegion *mr, hwaddr offset)
{
    CHANGE(mr, alias_offset, offset);
}

void memory_region_set_romd(MemoryRegion *mr, bool romd)
{
    CHANGE(mr, romd, romd);
}

void memory_region_set_log(MemoryRegion *mr, bool log, unsigned client)
{
    uint8_t mask = log ? mr->dirty_log_mask | 1u << client : mr->dirty_log_mask & ~(1u << client);
    CHANGE(mr, dirty_log_mask, mask);
}

/* ---- ioeventfds: a table that is replaced as a whole ---- */

static void table_free(struct rcu_head *head)
{
    RCU_TSAN_ACQUIRE();
    g_free(caa_container_of(head, MemoryIoeventfdTable, rcu));
}

static void replace_ioeventfds(MemoryRegion *mr, const MemoryIoeventfd *entry, bool add)
{
    memory_transaction_begin();
    MemoryIoeventfdTable *old = mr->ioeventfds;
    unsigned count = old ? old->count : 0;
    MemoryIoeventfdTable *table = g_malloc(sizeof(*table) + (count + 1) * sizeof(*entry));
    table->count = 0;
    for (unsigned i = 0; i < count; i++) {
        int order = compare_eventfds(&old->entries[i], entry);
        if (add && order > 0) {
            table->entries[table->count++] = *entry;
            add = false;
        }
        if (order != 0) {
            table->entries[table->count++] = old->entries[i];
        }
    }
    if (add) {
        table->entries[table->count++] = *entry;
    }
    if (table->count == 0) {
        g_free(table);
        table = NULL;
    }
    rcu_publish(&mr->ioeventfds, table);
    if (old) {
        memory_rcu_call(&old->rcu, table_free);
    }
    rewired = true;
    memory_transaction_commit();
}

void memory_region_add_eventfd(MemoryRegion *mr, hwaddr offset, unsigned size, bool match_data, uint64_t data,
                               EventNotifier *notifier)
{
    replace_ioeventfds(mr, &(MemoryIoeventfd){ offset, size, match_data, match_data ? data : 0, notifier },
                       true);
}

void memory_region_del_eventfd(MemoryRegion *mr, hwaddr offset, unsigned size, bool match_data, uint64_t data,
                               EventNotifier *notifier)
{
    replace_ioeventfds(mr, &(MemoryIoeventfd){ offset, size, match_data, match_data ? data : 0, notifier },
                       false);
}

/* ---- address spaces ---- */

AddressSpace *address_space_new(MemoryRegion *root, const char *name)
{
    AddressSpace *as = g_new0(AddressSpace, 1);
    as->name = g_strdup(name);
    as->root = root;
    as->listeners = g_ptr_array_new();
    memory_transaction_begin();
    if (!spaces) {
        spaces = g_ptr_array_new();
    }
    g_ptr_array_add(spaces, as);
    rcu_publish(&as->view, flat_view_render(depth == 1 ? effective_root(root) : NULL));
    as->generation = 1;
    changed |= depth > 1;
    memory_transaction_commit();
    return as;
}

void address_space_free(AddressSpace *as)
{
    if (!as) {
        return;
    }
    memory_transaction_begin();
    g_assert(as->listeners->len == 0);
    g_ptr_array_remove(spaces, as);
    if (spaces->len == 0) {
        g_ptr_array_free(spaces, TRUE);
        spaces = NULL;
    }
    memory_transaction_commit();
    g_assert(!memory_rcu_held());
    memory_rcu_synchronize();
    memory_topology_lock();
    flat_view_unref(as->view);
    memory_topology_unlock();
    g_ptr_array_free(as->listeners, TRUE);
    g_clear_pointer(&as->eventfds, g_array_unref);
    g_free(as->name);
    g_free(as);
}

const char *address_space_name(const AddressSpace *as)
{
    return as->name;
}

MemoryRegion *address_space_root(const AddressSpace *as)
{
    return as->root;
}

unsigned address_space_generation(const AddressSpace *as)
{
    return __atomic_load_n(&as->generation, __ATOMIC_ACQUIRE);
}

static void tell_all(MemoryListener *l, const FlatView *view, bool added)
{
    for (unsigned i = 0; i < view->count; i++) {
        MemoryRegionSection section = section_of(&view->ranges[i]);
        if (added && l->region_add) {
            l->region_add(l, &section);
        }
        if (added && view->ranges[i].log_mask && l->log_start) {
            l->log_start(l, &section);
        }
        if (!added && l->region_del) {
            l->region_del(l, &section);
        }
    }
}

void memory_listener_add(MemoryListener *l, AddressSpace *as)
{
    memory_topology_lock();
    l->as = as;
    g_ptr_array_add(as->listeners, l);
    if (l->begin) {
        l->begin(l);
    }
    tell_all(l, as->view, true);
    tell_one_eventfds(l, true);
    if (l->commit) {
        l->commit(l);
    }
    memory_topology_unlock();
}

void memory_listener_remove(MemoryListener *l)
{
    memory_topology_lock();
    if (l->as) {
        if (l->begin) {
            l->begin(l);
        }
        tell_one_eventfds(l, false);
        tell_all(l, l->as->view, false);
        if (l->commit) {
            l->commit(l);
        }
        g_ptr_array_remove(l->as->listeners, l);
        l->as = NULL;
    }
    memory_topology_unlock();
}
