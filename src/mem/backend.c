/*
 * -object memory-backend-ram, memory-backend-file and memory-backend-memfd: see memory_backend.h. Property
 * names and defaults are QEMU's. Left out: pmem=on (refused), rom. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "mem/memory_backend.h"
#include "object/property.h"

#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_NODES     1024
#define BITS_PER_LONG (8 * sizeof(unsigned long))

static const char *const policy_names[] = { "default", "preferred", "bind", "interleave" };
static const EnumLookup policy_lookup = { "HostMemPolicy", policy_names, G_N_ELEMENTS(policy_names) };

typedef struct MemoryBackend {
    Object parent_obj;
    uint64_t size;
    bool share, prealloc, merge, dump, reserve, canonical_path;
    uint32_t prealloc_threads;
    int policy;
    unsigned long nodes[MAX_NODES / BITS_PER_LONG];
    /* of -file */
    char *mem_path;
    uint64_t align, offset;
    bool readonly, discard_data, pmem;
    /* of -memfd */
    bool hugetlb, seal;
    uint64_t hugetlb_size;
    RamBlock *block;
} MemoryBackend;
#define MEMORY_BACKEND(obj) OBJECT_CHECK(MemoryBackend, obj, TYPE_MEMORY_BACKEND)

RamBlock *memory_backend_block(Object *backend)
{
    return MEMORY_BACKEND(backend)->block;
}

static bool before_complete(Object *obj, const char *name, GError **error)
{
    return !MEMORY_BACKEND(obj)->block ||
           error_set(error, "cannot change property '%s' of %s", name, object_get_typename(obj));
}

static bool check_policy(const MemoryBackend *m, unsigned long *max_node, GError **error)
{
    *max_node = 0;
    for (unsigned i = 0; i < MAX_NODES; i++) {
        if (m->nodes[i / BITS_PER_LONG] & (1ul << (i % BITS_PER_LONG))) {
            *max_node = i + 1;
        }
    }
    if (m->policy == MPOL_DEFAULT && *max_node) {
        error_set(error, "host-nodes must be empty for policy default");
        error_append_hint(error, "use policy=bind, preferred or interleave");
        return false;
    }
    if (m->policy != MPOL_DEFAULT && !*max_node) {
        return error_set(error, "host-nodes must be set for policy %s", policy_names[m->policy]);
    }
    return true;
}

static bool backend_complete(Object *obj, GError **error)
{
    MemoryBackend *m = MEMORY_BACKEND(obj);
    bool is_file = object_dynamic_cast(obj, TYPE_MEMORY_BACKEND_FILE);
    bool is_memfd = object_dynamic_cast(obj, TYPE_MEMORY_BACKEND_MEMFD);
    unsigned long max_node;
    if (m->size == 0) {
        return error_set(error, "can't create backend with size 0");
    }
    if (is_file && !m->mem_path) {
        return error_set(error, "mem-path property not set");
    }
    if (m->pmem) {
        return error_set(error, "property 'pmem' is not supported");
    }
    if (m->prealloc && !m->reserve) {
        return error_set(error, "'prealloc=on' and 'reserve=off' are incompatible");
    }
    if (!check_policy(m, &max_node, error)) {
        return false;
    }
    g_autofree char *path = object_get_canonical_path(obj);
    const char *name = object_get_name_in_parent(obj);
    const RamBlockOptions options = {
        .size = m->size,
        .path = is_file ? m->mem_path : NULL,
        .memfd = is_memfd,
        .share = m->share,
        .hugetlb = m->hugetlb,
        .hugetlb_size = m->hugetlb_size,
        .seal = is_memfd && m->seal,
        .prealloc = m->prealloc,
        .prealloc_threads = (int)m->prealloc_threads,
        .readonly = m->readonly,
        .merge = m->merge,
        .no_dump = !m->dump,
        .no_reserve = !m->reserve,
        .align = m->align,
        .fd_offset = m->offset,
        .policy = m->policy,
        .host_nodes = m->nodes,
        .max_node = max_node,
    };
    m->block = ram_block_new(m->canonical_path || !name ? path : name, &options, error);
    return m->block != NULL;
}

static bool backend_can_be_deleted(Object *obj)
{
    MemoryBackend *m = MEMORY_BACKEND(obj);
    return !m->block || __atomic_load_n(&m->block->ref, __ATOMIC_RELAXED) == 1;
}

static const UserCreatableOps backend_ops = { .complete = backend_complete,
                                              .can_be_deleted = backend_can_be_deleted };

static void backend_finalize(Object *obj)
{
    MemoryBackend *m = (MemoryBackend *)obj;
    if (m->block && m->discard_data && m->share) {
        madvise(m->block->host, m->block->size, MADV_REMOVE);
    }
    ram_block_unref(m->block);
}

/* ---- host-nodes: a list of node numbers ---- */

static bool get_nodes(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const MemoryBackend *m = MEMORY_BACKEND(obj);
    size_t count = 0;
    for (unsigned i = 0; i < MAX_NODES / BITS_PER_LONG; i++) {
        count += (size_t)__builtin_popcountl(m->nodes[i]);
    }
    if (!visit_start_list(v, name, &count, error)) {
        return false;
    }
    for (uint16_t i = 0; i < MAX_NODES; i++) {
        if ((m->nodes[i / BITS_PER_LONG] & (1ul << (i % BITS_PER_LONG))) &&
            !visit_uint16(v, NULL, &i, error)) {
            visit_end_list(v);
            return false;
        }
    }
    visit_end_list(v);
    return true;
}

/* "0-3", "0,2" or "1" on the command line, where a list is one string. */
static bool parse_node_text(MemoryBackend *m, const char *text, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    for (char **part = parts; *part; part++) {
        char *end;
        guint64 first = g_ascii_strtoull(*part, &end, 10), last = first;
        if (end == *part || (*end && *end != '-')) {
            return error_set(error, "'%s' is no list of NUMA nodes", text);
        }
        if (*end == '-') {
            const char *begin = end + 1;
            last = g_ascii_strtoull(begin, &end, 10);
            if (end == begin || *end) {
                return error_set(error, "'%s' is no list of NUMA nodes", text);
            }
        }
        if (last >= MAX_NODES || first > last) {
            return error_set(error, "Invalid host-nodes value: %s", *part);
        }
        for (guint64 i = first; i <= last; i++) {
            m->nodes[i / BITS_PER_LONG] |= 1ul << (i % BITS_PER_LONG);
        }
    }
    return true;
}

static bool set_nodes(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    MemoryBackend *m = MEMORY_BACKEND(obj);
    size_t count = 0;
    if (!before_complete(obj, name, error)) {
        return false;
    }
    memset(m->nodes, 0, sizeof(m->nodes));
    if (visit_peek_type(v, name) == json_type_string) {
        g_autofree char *text = NULL;
        return visit_str(v, name, &text, error) && parse_node_text(m, text, error);
    }
    if (!visit_start_list(v, name, &count, error)) {
        return false;
    }
    bool done = true;
    for (size_t i = 0; done && i < count; i++) {
        uint16_t node;
        done = visit_uint16(v, NULL, &node, error) &&
               (node < MAX_NODES || error_set(error, "Invalid host-nodes value: %u", node));
        if (done) {
            m->nodes[node / BITS_PER_LONG] |= 1ul << (node % BITS_PER_LONG);
        }
    }
    visit_end_list(v);
    return done;
}

/* ---- types ---- */

#define BOOL(n, f, d, text)                                                                           \
    PROP_FULL(n, MemoryBackend, f, bool, property_type_bool, text, .has_default = true, .def.u = (d), \
              .may_set = before_complete)
#define SIZE(n, f, text)                                                                                \
    PROP_FULL(n, MemoryBackend, f, uint64_t, property_type_size, text, .has_default = true, .def.u = 0, \
              .may_set = before_complete)

static const Property backend_properties[] = {
    SIZE("size", size, "bytes"),
    BOOL("share", share, false, "others may map it too (a file's contents change)"),
    BOOL("prealloc", prealloc, false, "take every page from the host at once"),
    PROP_FULL("prealloc-threads", MemoryBackend, prealloc_threads, uint32_t, property_type_uint32,
              "threads that take them", .has_default = true, .def.u = 1, .may_set = before_complete),
    BOOL("merge", merge, true, "let the host merge equal pages"),
    BOOL("dump", dump, true, "part of the host's core dumps"),
    BOOL("reserve", reserve, true, "set swap space aside"),
    PROP_FULL("policy", MemoryBackend, policy, int, property_type_enum, "placement on the host's NUMA nodes",
              .lookup = &policy_lookup, .has_default = true, .def.i = MPOL_DEFAULT,
              .may_set = before_complete),
    BOOL("x-use-canonical-path-for-ramblock-id", canonical_path, true, "how migration streams name it"),
    PROP_END,
};

static void backend_class_init(ObjectClass *klass, const void *data)
{
    user_creatable_class_set(klass, &backend_ops);
    object_class_add_properties(klass, backend_properties);
    ObjectProperty *nodes = object_class_property_add(klass, "host-nodes", "int", get_nodes, set_nodes, NULL);
    object_property_set_description(nodes, "the host's NUMA nodes that it may lie on");
}

static const char *const user_creatable[] = { TYPE_USER_CREATABLE, NULL };
static const TypeInfo backend_info = {
    .name = TYPE_MEMORY_BACKEND,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(MemoryBackend),
    .abstract = true,
    .class_init = backend_class_init,
    .instance_finalize = backend_finalize,
    .interfaces = user_creatable,
};
TYPE_REGISTER(backend_info);

static void ram_class_init(ObjectClass *klass, const void *data)
{
    user_creatable_class_set(klass, &backend_ops);
}

static const TypeInfo ram_info = {
    .name = TYPE_MEMORY_BACKEND_RAM,
    .parent = TYPE_MEMORY_BACKEND,
    .description = "guest memory from the host's anonymous memory",
    .class_init = ram_class_init,
};
TYPE_REGISTER(ram_info);

static const Property file_properties[] = {
    PROP_FULL("mem-path", MemoryBackend, mem_path, char *, property_type_str,
              "a file, or a directory (hugetlbfs)", .may_set = before_complete),
    SIZE("align", align, "alignment of the mapping in bytes"),
    SIZE("offset", offset, "where in the file it begins"),
    BOOL("readonly", readonly, false, "open the file read-only"),
    BOOL("discard-data", discard_data, false, "the file's contents may be lost in the end"),
    BOOL("pmem", pmem, false, "persistent memory (not supported)"),
    PROP_END,
};

static void file_class_init(ObjectClass *klass, const void *data)
{
    user_creatable_class_set(klass, &backend_ops);
    object_class_add_properties(klass, file_properties);
}

static const TypeInfo file_info = {
    .name = TYPE_MEMORY_BACKEND_FILE,
    .parent = TYPE_MEMORY_BACKEND,
    .description = "guest memory from a file",
    .class_init = file_class_init,
};
TYPE_REGISTER(file_info);

static const Property memfd_properties[] = {
    BOOL("hugetlb", hugetlb, false, "huge pages"),
    SIZE("hugetlbsize", hugetlb_size, "size of a huge page (0: the host's default)"),
    BOOL("seal", seal, true, "nobody can change its size"),
    PROP_END,
};

static void memfd_class_init(ObjectClass *klass, const void *data)
{
    user_creatable_class_set(klass, &backend_ops);
    object_class_add_properties(klass, memfd_properties);
}

static void memfd_init(Object *obj)
{
    ((MemoryBackend *)obj)->share = true;
}

static const TypeInfo memfd_info = {
    .name = TYPE_MEMORY_BACKEND_MEMFD,
    .parent = TYPE_MEMORY_BACKEND,
    .description = "guest memory from a memfd",
    .class_init = memfd_class_init,
    .instance_init = memfd_init,
};
TYPE_REGISTER(memfd_info);
