/*
 * RAM blocks: where guest memory comes from, and which of its pages have been written.
 *
 * Invariants:
 * 1. A block's memory goes away a grace period after its last reference does.
 * 2. The registry is an array sorted by host address that is replaced as a whole; readers use RCU.
 * 3. A dirty byte is changed by atomic operations only; the map is reserved address space and costs memory
 * only where something was written. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "mem/memory_internal.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Half of what a process can address on x86-64: leaves room for the dirty map and everything else. */
#define MAX_BLOCK_SIZE (1ull << 46)
#define HUGE_PAGE      (2ull << 20)

#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif

/* Guest memory races by design: vCPUs and devices access it as the guest's own rules say, which are not C's.
 * So ThreadSanitizer is told of these ranges, and of nothing else; and since it never forgets a range, a
 * range that was guest memory is not given back for other use in such a build. */
#if RHEA_TSAN
void AnnotateBenignRaceSized(const char *file, int line, const volatile void *address, size_t size,
                             const char *what);
static void guest_memory_announce(void *host, size_t size)
{
    AnnotateBenignRaceSized(__FILE__, __LINE__, host, size, "guest memory");
}
static void guest_memory_unmap(void *host, size_t size)
{
    mmap(host, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}
#else
static void guest_memory_announce(void *host, size_t size)
{
}
static void guest_memory_unmap(void *host, size_t size)
{
    munmap(host, size);
}
#endif

typedef struct BlockTable {
    struct rcu_head rcu;
    unsigned count;
    RamBlock *blocks[];
} BlockTable;

typedef struct RamListeners {
    struct rcu_head rcu;
    unsigned count;
    RamListener *listeners[];
} RamListeners;

typedef struct BlockRelease {
    struct rcu_head rcu;
    RamBlock *block;
} BlockRelease;

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static BlockTable *by_address; /* RCU */
static GPtrArray *in_order;    /* under the lock */

/* ---- registry ---- */

static void table_free(struct rcu_head *head)
{
    RCU_TSAN_ACQUIRE();
    g_free(caa_container_of(head, BlockTable, rcu));
}

static void registry_replace(RamBlock *add, RamBlock *del)
{
    BlockTable *old = by_address;
    unsigned count = old ? old->count : 0;
    BlockTable *table = g_malloc(sizeof(*table) + (count + 1) * sizeof(RamBlock *));
    table->count = 0;
    for (unsigned i = 0; i < count; i++) {
        if (add && add->host < old->blocks[i]->host) {
            table->blocks[table->count++] = add;
            add = NULL;
        }
        if (old->blocks[i] != del) {
            table->blocks[table->count++] = old->blocks[i];
        }
    }
    if (add) {
        table->blocks[table->count++] = add;
    }
    if (table->count == 0) {
        g_free(table);
        table = NULL;
    }
    rcu_publish(&by_address, table);
    if (old) {
        memory_rcu_call(&old->rcu, table_free);
    }
}

static void registry_add(RamBlock *block)
{
    pthread_mutex_lock(&registry_lock);
    registry_replace(block, NULL);
    if (!in_order) {
        in_order = g_ptr_array_new();
    }
    g_ptr_array_add(in_order, block);
    pthread_mutex_unlock(&registry_lock);
}

static void registry_del(RamBlock *block)
{
    pthread_mutex_lock(&registry_lock);
    registry_replace(NULL, block);
    g_ptr_array_remove(in_order, block);
    if (in_order->len == 0) {
        g_ptr_array_free(in_order, TRUE);
        in_order = NULL;
    }
    pthread_mutex_unlock(&registry_lock);
}

void ram_block_foreach(void (*fn)(RamBlock *block, void *opaque), void *opaque)
{
    g_autoptr(GPtrArray) copy = g_ptr_array_new();
    pthread_mutex_lock(&registry_lock);
    for (unsigned i = 0; in_order && i < in_order->len; i++) {
        g_ptr_array_add(copy, ram_block_ref(in_order->pdata[i]));
    }
    pthread_mutex_unlock(&registry_lock);
    for (unsigned i = 0; i < copy->len; i++) {
        fn(copy->pdata[i], opaque);
        ram_block_unref(copy->pdata[i]);
    }
}

RamBlock *ram_block_from_host(const void *host, uint64_t *offset)
{
    const BlockTable *table = rcu_fetch(&by_address);
    const uint8_t *byte = host;
    unsigned low = 0, high = table ? table->count : 0;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        RamBlock *block = table->blocks[middle];
        if (byte < block->host) {
            high = middle;
        } else if (byte >= block->host + block->size) {
            low = middle + 1;
        } else {
            *offset = (uint64_t)(byte - block->host);
            return block;
        }
    }
    return NULL;
}

/* ---- where the bytes come from ---- */

static uint64_t fd_page_size(int fd)
{
    struct statfs fs;
    if (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC) {
        return (uint64_t)fs.f_bsize;
    }
    return RAM_PAGE_SIZE;
}

static bool open_memfd(RamBlock *block, const RamBlockOptions *options, GError **error)
{
    unsigned flags = MFD_CLOEXEC;
    if (options->hugetlb) {
        uint64_t size = options->hugetlb_size;
        if (size & (size - 1)) {
            return error_set(error, "huge page size %" PRIu64 " is not a power of two", size);
        }
        flags |= MFD_HUGETLB | (size ? (unsigned)__builtin_ctzll(size) << MFD_HUGE_SHIFT : 0);
    }
    if (options->seal) {
        flags |= MFD_ALLOW_SEALING;
    }
    g_autofree char *name = g_strdup_printf("rhea-%s", block->id);
    block->fd = memfd_create(name, flags);
    if (block->fd < 0) {
        return error_set_errno(error, errno, "Could not make a memfd for '%s'", block->id);
    }
    return true;
}

/* *grow: the file is ours to give a size. */
static bool open_file(RamBlock *block, const RamBlockOptions *options, bool *grow, GError **error)
{
    struct stat st;
    const char *path = options->path;
    *grow = true;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        if (options->readonly) {
            return error_set(error, "'%s' is a directory and cannot back read-only memory", path);
        }
        g_autofree char *safe = g_strdelimit(g_strdup(block->id), "/", '_');
        g_autofree char *name = g_strdup_printf("%s/rhea_%s.XXXXXX", path, safe);
        block->fd = mkostemp(name, O_CLOEXEC);
        if (block->fd < 0) {
            return error_set_errno(error, errno, "Could not create backing memory in '%s'", path);
        }
        unlink(name);
        return true;
    }
    int flags = O_CLOEXEC | (options->readonly ? O_RDONLY : O_RDWR | O_CREAT);
    block->fd = open(path, flags, 0644);
    if (block->fd < 0) {
        return error_set_errno(error, errno, "Could not open backing memory '%s'", path);
    }
    if (fstat(block->fd, &st) < 0) {
        return error_set_errno(error, errno, "Could not look at backing memory '%s'", path);
    }
    if (S_ISREG(st.st_mode) && st.st_size > 0) {
        *grow = false;
        uint64_t end = options->fd_offset + options->size;
        if ((uint64_t)st.st_size < end) {
            return error_set(error, "backing memory '%s' is too small: %" PRIu64 " bytes, needed %" PRIu64,
                             path, (uint64_t)st.st_size, end);
        }
    } else if (options->readonly) {
        return error_set(error, "backing memory '%s' is empty", path);
    }
    return true;
}

/* A mapping of size bytes at the given alignment, by reserving more than is needed and trimming. */
static void *map_aligned(uint64_t size, uint64_t alignment, int prot, int flags, int fd, off_t offset)
{
    if (alignment <= RAM_PAGE_SIZE) {
        return mmap(NULL, size, prot, flags, fd, offset);
    }
    uint64_t reserved = size + alignment;
    uint8_t *start = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
        return MAP_FAILED;
    }
    uint8_t *aligned = (uint8_t *)(((uintptr_t)start + alignment - 1) & ~(uintptr_t)(alignment - 1));
    void *host = mmap(aligned, size, prot, flags | MAP_FIXED, fd, offset);
    if (host == MAP_FAILED) {
        int saved = errno;
        munmap(start, reserved);
        errno = saved;
        return MAP_FAILED;
    }
    if (aligned > start) {
        munmap(start, (size_t)(aligned - start));
    }
    uint8_t *end = start + reserved;
    if (aligned + size < end) {
        munmap(aligned + size, (size_t)(end - (aligned + size)));
    }
    return host;
}

static bool map_block(RamBlock *block, const RamBlockOptions *options, GError **error)
{
    int prot = PROT_READ | (options->readonly ? 0 : PROT_WRITE);
    int flags = (block->shared ? MAP_SHARED : MAP_PRIVATE) | (block->fd < 0 ? MAP_ANONYMOUS : 0) |
                (options->no_reserve ? MAP_NORESERVE : 0);
    uint64_t alignment = MAX(block->page_size, options->align);
    bool transparent = block->page_size == RAM_PAGE_SIZE && block->size >= HUGE_PAGE;
    if (transparent) {
        alignment = MAX(alignment, HUGE_PAGE);
    }
    void *host = map_aligned(block->size, alignment, prot, flags, block->fd, (off_t)block->fd_offset);
    if (host == MAP_FAILED) {
        return error_set_errno(error, errno, "cannot set up guest memory '%s' of %" PRIu64 " bytes",
                               block->id, block->size);
    }
    block->host = host;
    block->mapped_size = block->size;
    guest_memory_announce(host, block->size);
    if (transparent) {
        madvise(host, block->size, MADV_HUGEPAGE);
    }
    if (options->merge) {
        madvise(host, block->size, MADV_MERGEABLE);
    }
    block->no_dump = options->no_dump;
    if (options->no_dump) {
        madvise(host, block->size, MADV_DONTDUMP);
    }
    return true;
}

static bool bind_block(RamBlock *block, const RamBlockOptions *options, GError **error)
{
    if (options->policy == MPOL_DEFAULT) {
        return true;
    }
    /* The kernel takes max_node as one more than the number of bits it reads. */
    if (syscall(SYS_mbind, block->host, block->size, options->policy, options->host_nodes,
                options->max_node + 1, MPOL_MF_STRICT | MPOL_MF_MOVE) < 0) {
        return error_set_errno(error, errno, "cannot bind memory '%s' to host NUMA nodes", block->id);
    }
    return true;
}

/* ---- touching every page before the guest does ---- */

typedef struct Populate {
    uint8_t *host;
    size_t length;
    uint64_t page_size;
    int errnum;
} Populate;

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static void *populate_thread(void *opaque)
{
    Populate *part = opaque;
    if (part->length == 0 || madvise(part->host, part->length, MADV_POPULATE_WRITE) == 0) {
        return NULL;
    }
    if (errno != EINVAL) {
        part->errnum = errno;
        return NULL;
    }
    for (size_t at = 0; at < part->length; at += part->page_size) { /* kernels before 5.14 */
        __atomic_fetch_or(part->host + at, 0, __ATOMIC_RELAXED);
    }
    return NULL;
}

static bool populate(RamBlock *block, int threads, GError **error)
{
    uint64_t pages = block->size / block->page_size;
    unsigned count = (unsigned)CLAMP(threads, 1, 64);
    count = (unsigned)MIN(count, pages);
    g_autofree Populate *parts = g_new0(Populate, count);
    g_autofree pthread_t *ids = g_new0(pthread_t, count);

    for (unsigned i = 0; i < count; i++) {
        uint64_t first = pages * i / count, end = pages * (i + 1) / count;
        parts[i] = (Populate){ block->host + first * block->page_size, (end - first) * block->page_size,
                               block->page_size, 0 };
        if (i + 1 == count || pthread_create(&ids[i], NULL, populate_thread, &parts[i]) != 0) {
            ids[i] = 0; /* this thread takes the last part, and those that got no thread */
            populate_thread(&parts[i]);
        }
    }
    int errnum = 0;
    for (unsigned i = 0; i < count; i++) {
        if (ids[i]) {
            pthread_join(ids[i], NULL);
        }
        errnum = errnum ? errnum : parts[i].errnum;
    }
    if (errnum) {
        return error_set_errno(error, errnum, "cannot preallocate memory '%s'", block->id);
    }
    return true;
}

/* ---- life ---- */

static void block_release(RamBlock *block)
{
    if (block->host) {
        guest_memory_unmap(block->host, block->mapped_size);
    }
    if (block->dirty) {
        munmap(block->dirty, block->size >> RAM_PAGE_BITS);
    }
    if (block->fd >= 0) {
        close(block->fd);
    }
    g_free(block->listeners);
    g_free(block->rcu);
    g_free(block->id);
    g_free(block);
}

static void block_release_rcu(struct rcu_head *head)
{
    RCU_TSAN_ACQUIRE();
    RamBlock *block = caa_container_of(head, BlockRelease, rcu)->block;
    block->rcu = NULL;
    g_free(caa_container_of(head, BlockRelease, rcu));
    block_release(block);
}

static bool block_setup(RamBlock *block, const RamBlockOptions *options, GError **error)
{
    bool grow = true;
    if (options->size == 0) {
        return error_set(error, "memory '%s' has no size", block->id);
    }
    if (options->size > MAX_BLOCK_SIZE) {
        return error_set(error, "memory '%s' of %" PRIu64 " bytes is larger than this host can map",
                         block->id, options->size);
    }
    if ((options->align & (options->align - 1)) || options->align > MAX_BLOCK_SIZE) {
        return error_set(error, "alignment 0x%" PRIx64 " of memory '%s' is not a power of two",
                         options->align, block->id);
    }
    if (options->path) {
        if (!open_file(block, options, &grow, error)) {
            return false;
        }
    } else if ((options->memfd || options->alias) && !open_memfd(block, options, error)) {
        return false;
    }
    block->page_size = fd_page_size(block->fd);
    block->fd_offset = options->fd_offset;
    if (block->fd_offset & (block->page_size - 1)) {
        return error_set(error,
                         "offset 0x%" PRIx64 " of memory '%s' is not a multiple of its page size 0x%" PRIx64,
                         block->fd_offset, block->id, block->page_size);
    }
    if (options->path && block->page_size > RAM_PAGE_SIZE && options->size < block->page_size) {
        return error_set(error,
                         "memory size 0x%" PRIx64 " must be equal to or larger than page size 0x%" PRIx64,
                         options->size, block->page_size);
    }
    block->size = (options->size + block->page_size - 1) & ~(block->page_size - 1);
    if (block->fd >= 0 && grow && ftruncate(block->fd, (off_t)(block->fd_offset + block->size)) < 0) {
        return error_set_errno(error, errno, "cannot give memory '%s' %" PRIu64 " bytes", block->id,
                               block->size);
    }
    if (options->memfd && options->seal &&
        fcntl(block->fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)) {
        return error_set_errno(error, errno, "cannot seal memory '%s'", block->id);
    }
    if (!map_block(block, options, error) || !bind_block(block, options, error)) {
        return false;
    }
    if (options->prealloc && !options->readonly && !populate(block, options->prealloc_threads, error)) {
        return false;
    }
    void *dirty = mmap(NULL, block->size >> RAM_PAGE_BITS, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (dirty == MAP_FAILED) {
        return error_set_errno(error, errno, "cannot set up the dirty log of memory '%s'", block->id);
    }
    block->dirty = dirty;
    return true;
}

RamBlock *ram_block_new(const char *id, const RamBlockOptions *options, GError **error)
{
    RamBlock *block = g_new0(RamBlock, 1);
    block->id = g_strdup(id);
    block->fd = -1;
    block->ref = 1;
    block->shared = options->share || options->alias;
    block->readonly = options->readonly;
    if (!block_setup(block, options, error)) {
        block_release(block);
        return NULL;
    }
    BlockRelease *release = g_new0(BlockRelease, 1);
    block->rcu = &release->rcu;
    registry_add(block);
    return block;
}

RamBlock *ram_block_ref(RamBlock *block)
{
    __atomic_fetch_add(&block->ref, 1, __ATOMIC_RELAXED);
    return block;
}

void ram_block_unref(RamBlock *block)
{
    if (block && __atomic_sub_fetch(&block->ref, 1, __ATOMIC_ACQ_REL) == 0) {
        registry_del(block);
        BlockRelease *release = caa_container_of(block->rcu, BlockRelease, rcu);
        release->block = block;
        memory_rcu_call(&release->rcu, block_release_rcu);
    }
}

/* ---- dirty log ---- */

static void listeners_free(struct rcu_head *head)
{
    RCU_TSAN_ACQUIRE();
    g_free(caa_container_of(head, RamListeners, rcu));
}

static void replace_listeners(RamBlock *block, RamListener *add, RamListener *del)
{
    pthread_mutex_lock(&registry_lock);
    RamListeners *old = block->listeners;
    unsigned count = old ? old->count : 0;
    RamListeners *table = g_malloc(sizeof(*table) + (count + 1) * sizeof(RamListener *));
    table->count = 0;
    for (unsigned i = 0; i < count; i++) {
        if (old->listeners[i] != del) {
            table->listeners[table->count++] = old->listeners[i];
        }
    }
    if (add) {
        table->listeners[table->count++] = add;
    }
    rcu_publish(&block->listeners, table);
    if (old) {
        memory_rcu_call(&old->rcu, listeners_free);
    }
    pthread_mutex_unlock(&registry_lock);
}

void ram_add_listener(RamBlock *block, RamListener *l)
{
    replace_listeners(block, l, NULL);
}

void ram_remove_listener(RamBlock *block, RamListener *l)
{
    replace_listeners(block, NULL, l);
}

static void tell_code_written(RamBlock *block, uint64_t offset, uint64_t length)
{
    memory_rcu_lock();
    const RamListeners *table = rcu_fetch(&block->listeners);
    for (unsigned i = 0; table && i < table->count; i++) {
        if (table->listeners[i]->code_written) {
            table->listeners[i]->code_written(table->listeners[i], block, offset, length);
        }
    }
    memory_rcu_unlock();
}

void ram_written(RamBlock *block, uint64_t offset, uint64_t length)
{
    if (length == 0) {
        return;
    }
    uint64_t page = offset >> RAM_PAGE_BITS, last = (offset + length - 1) >> RAM_PAGE_BITS;
    /* The bytes before the look at the map: whoever clears a bit and then reads the page sees them, or is
     * seen here. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (; page <= last; page++) {
        if (__atomic_load_n(&block->dirty[page], __ATOMIC_RELAXED) == DIRTY_ALL) {
            continue;
        }
        uint8_t before = __atomic_fetch_or(&block->dirty[page], DIRTY_ALL, __ATOMIC_ACQ_REL);
        if (!(before & (1u << DIRTY_CODE))) {
            uint64_t start = MAX(page << RAM_PAGE_BITS, offset);
            uint64_t end = MIN((page + 1) << RAM_PAGE_BITS, offset + length);
            tell_code_written(block, start, end - start);
        }
    }
}

void ram_sync_dirty(RamBlock *block, uint64_t offset, uint64_t length)
{
    memory_rcu_lock();
    const RamListeners *table = rcu_fetch(&block->listeners);
    for (unsigned i = 0; table && i < table->count; i++) {
        if (table->listeners[i]->dirty_sync) {
            table->listeners[i]->dirty_sync(table->listeners[i], block, offset, length);
        }
    }
    memory_rcu_unlock();
}

bool ram_test_and_clear_dirty(RamBlock *block, uint64_t offset, uint64_t length, DirtyClient client)
{
    uint8_t bit = (uint8_t)(1u << client);
    if (length == 0) {
        return false;
    }
    if (client != DIRTY_CODE) {
        ram_sync_dirty(block, offset, length);
    }
    uint64_t page = offset >> RAM_PAGE_BITS, last = (offset + length - 1) >> RAM_PAGE_BITS;
    bool any = false;
    for (; page <= last; page++) {
        if (__atomic_load_n(&block->dirty[page], __ATOMIC_RELAXED) & bit) {
            any |= (__atomic_fetch_and(&block->dirty[page], (uint8_t)~bit, __ATOMIC_ACQ_REL) & bit) != 0;
        }
    }
    if (any) {
        memory_rcu_lock();
        const RamListeners *table = rcu_fetch(&block->listeners);
        for (unsigned i = 0; table && i < table->count; i++) {
            if (table->listeners[i]->dirty_cleared) {
                table->listeners[i]->dirty_cleared(table->listeners[i], block, offset, length);
            }
        }
        memory_rcu_unlock();
    }
    return any;
}
