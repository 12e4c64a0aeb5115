/*
 * Guest memory: a tree of regions that is flattened into views, which vCPUs and devices read under RCU,
 * without a lock. The tree is built by boards and devices; every change between memory_transaction_begin()
 * and _commit() becomes visible at once.
 *
 * A MemoryRegion is embedded in its owner's state and lives as long as that does. Where regions overlap
 * inside a container, the higher priority wins; holes of a container fall through to what lies below it.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MEM_MEMORY_H
#define RHEA_MEM_MEMORY_H

#include "base/home_lock.h"
#include "loop/loop.h"

#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>

typedef uint64_t hwaddr; /* a guest physical address (gpa) or an offset in a region */
#define PRIxHWADDR PRIx64

typedef struct MemoryRegion MemoryRegion;
typedef struct MemoryRegionOps MemoryRegionOps;
typedef struct MemoryRegionSection MemoryRegionSection;
typedef struct AddressSpace AddressSpace;
typedef struct FlatView FlatView;
typedef struct RamBlock RamBlock;
typedef struct MemoryListener MemoryListener;

/* How an access ended. Bits may be combined over the parts of an access. */
typedef enum MemTxResult {
    MEMTX_OK = 0,
    MEMTX_ERROR = 1,
    MEMTX_DECODE_ERROR = 2,
    MEMTX_ACCESS_ERROR = 4
} MemTxResult;

typedef struct MemTxAttrs {
    bool dma;              /* by a device, not a CPU: reaches RAM, and MMIO only where ops->dma_ok */
    bool secure;           /* by a CPU in system management mode */
    uint16_t requester_id; /* PCI bus/device/function of a device; 0 otherwise */
} MemTxAttrs;
#define MEMTXATTRS_NONE ((MemTxAttrs){ 0 })
#define MEMTXATTRS_DMA  ((MemTxAttrs){ .dma = true })

typedef enum MemoryEndian { MEMORY_LITTLE_ENDIAN, MEMORY_BIG_ENDIAN } MemoryEndian;

/* A device's register file. Accesses reach read/write in sizes of impl.min to impl.max (bytes, powers of
 * two); larger ones are split, smaller ones widened (reads) or, for writes, passed as they are if impl.min is
 * 1, else merged by read-modify-write. Sizes or alignments outside valid are refused (MEMTX_ACCESS_ERROR;
 * reads give all ones). All zero means 1 to 4, aligned. */
struct MemoryRegionOps {
    uint64_t (*read)(void *opaque, hwaddr offset, unsigned size);
    void (*write)(void *opaque, hwaddr offset, uint64_t value, unsigned size);
    /* Instead of the two above, where attributes or errors matter. */
    MemTxResult (*read_with_attrs)(void *opaque, hwaddr offset, uint64_t *value, unsigned size,
                                   MemTxAttrs attrs);
    MemTxResult (*write_with_attrs)(void *opaque, hwaddr offset, uint64_t value, unsigned size,
                                    MemTxAttrs attrs);
    MemoryEndian endian;
    struct {
        unsigned min, max;
        bool unaligned;
    } valid, impl;
    /* Other devices' DMA may land here (MSI doorbells). Its handler must take only leaf locks. */
    bool dma_ok;
};

typedef enum MemoryRegionKind {
    MEMORY_CONTAINER,
    MEMORY_RAM,
    MEMORY_ROM,        /* writes are ignored */
    MEMORY_ROM_DEVICE, /* reads from RAM (while romd is on), writes to ops */
    MEMORY_MMIO,
    MEMORY_ALIAS,
} MemoryRegionKind;

typedef struct MemoryIoeventfd {
    hwaddr offset;
    unsigned size; /* 0: any */
    bool match_data;
    uint64_t data;
    EventNotifier *notifier;
} MemoryIoeventfd;

struct MemoryRegion {
    char *name;
    void *owner; /* the Object whose life it shares; borrowed, may be NULL */
    MemoryRegionKind kind;
    uint64_t size; /* UINT64_MAX stands for 2^64 */
    const MemoryRegionOps *ops;
    void *opaque;
    HomeLock *lock; /* held around ops (NULL: none) */
    RamBlock *ram;  /* RAM, ROM, ROM_DEVICE */
    bool romd;
    bool enabled;
    bool readonly;
    MemoryRegion *container;
    hwaddr addr; /* in its container */
    int priority;
    MemoryRegion *alias;
    hwaddr alias_offset;
    GPtrArray *subregions;                   /* by descending priority, latest first among equals */
    struct MemoryIoeventfdTable *ioeventfds; /* RCU; NULL: none */
    uint8_t dirty_log_mask;                  /* of 1 << DirtyClient: who asked accelerators to log */
    bool published;                          /* a view has shown it: destruction waits for its readers */
};

/* ---- making regions; names are shown by "info mtree" and are migration ABI for RAM ---- */
void memory_region_init(MemoryRegion *mr, void *owner, const char *name, uint64_t size);
void memory_region_init_io(MemoryRegion *mr, void *owner, const MemoryRegionOps *ops, void *opaque,
                           const char *name, uint64_t size, HomeLock *lock);
/* Zeroed anonymous memory, or a block from ram_block_new*(), whose reference it takes over. */
bool memory_region_init_ram(MemoryRegion *mr, void *owner, const char *name, uint64_t size, GError **error);
void memory_region_init_ram_from_block(MemoryRegion *mr, void *owner, const char *name, RamBlock *block);
bool memory_region_init_rom(MemoryRegion *mr, void *owner, const char *name, uint64_t size, GError **error);
bool memory_region_init_rom_device(MemoryRegion *mr, void *owner, const MemoryRegionOps *ops, void *opaque,
                                   const char *name, uint64_t size, HomeLock *lock, GError **error);
void memory_region_init_alias(MemoryRegion *mr, void *owner, const char *name, MemoryRegion *target,
                              hwaddr offset, uint64_t size);
/* Takes it out of its container, waits until no thread is inside its ops any more, and frees what it owns.
 * Control plane: hold no HomeLock, and never from inside a region's ops or between memory_rcu_lock() and
 * _unlock(). A region that was never initialised (all zero) is left alone. */
void memory_region_destroy(MemoryRegion *mr);

/* ---- changing the tree [any thread; the topology lock is taken inside] ----
 * The topology lock comes after device locks in the order: between begin and commit take no HomeLock.
 * Transactions nest; nothing is visible before the outermost commit. */
void memory_transaction_begin(void);
void memory_transaction_commit(void);
void memory_region_add(MemoryRegion *container, hwaddr addr, MemoryRegion *sub);
void memory_region_add_overlap(MemoryRegion *container, hwaddr addr, MemoryRegion *sub, int priority);
void memory_region_del(MemoryRegion *container, MemoryRegion *sub);
void memory_region_set_enabled(MemoryRegion *mr, bool enabled);
void memory_region_set_readonly(MemoryRegion *mr, bool readonly);
void memory_region_set_address(MemoryRegion *mr, hwaddr addr);
void memory_region_set_size(MemoryRegion *mr, uint64_t size);
void memory_region_set_alias_offset(MemoryRegion *mr, hwaddr offset);
void memory_region_set_romd(MemoryRegion *mr, bool romd);
/* Asks accelerators that log writes on request (KVM) to do so for a client of enum DirtyClient, through the
 * listeners' log_start and log_stop. The software CPU's log is always on. */
void memory_region_set_log(MemoryRegion *mr, bool log, unsigned client);
/* Rings the notifier instead of calling ops for a matching write, perhaps without leaving the guest (KVM).
 * Take it away before the notifier is destroyed. */
void memory_region_add_eventfd(MemoryRegion *mr, hwaddr offset, unsigned size, bool match_data, uint64_t data,
                               EventNotifier *notifier);
void memory_region_del_eventfd(MemoryRegion *mr, hwaddr offset, unsigned size, bool match_data, uint64_t data,
                               EventNotifier *notifier);

/* ---- address spaces ---- */
AddressSpace *address_space_new(MemoryRegion *root, const char *name);
/* Its listeners are gone already. Like memory_region_destroy, control plane only. */
void address_space_free(AddressSpace *as);
const char *address_space_name(const AddressSpace *as);
MemoryRegion *address_space_root(const AddressSpace *as);
/* A number that changes with every new view, so that derived mappings (mem/cache.h) notice. [any thread] */
unsigned address_space_generation(const AddressSpace *as);
/* Bounded copies; parts that fail read as all ones. */
MemTxResult address_space_read(AddressSpace *as, hwaddr addr, MemTxAttrs attrs, void *buffer, hwaddr length);
MemTxResult address_space_write(AddressSpace *as, hwaddr addr, MemTxAttrs attrs, const void *buffer,
                                hwaddr length);
MemTxResult address_space_set(AddressSpace *as, hwaddr addr, uint8_t byte, hwaddr length, MemTxAttrs attrs);
/* One access of 1, 2, 4 or 8 bytes in the guest's (little-endian) order; one call of a device's ops where
 * possible. */
MemTxResult address_space_load(AddressSpace *as, hwaddr addr, unsigned size, uint64_t *value,
                               MemTxAttrs attrs);
MemTxResult address_space_store(AddressSpace *as, hwaddr addr, unsigned size, uint64_t value,
                                MemTxAttrs attrs);
static inline uint64_t address_space_ld(AddressSpace *as, hwaddr addr, unsigned size, MemTxAttrs attrs)
{
    uint64_t value = UINT64_MAX;
    address_space_load(as, addr, size, &value, attrs);
    return value;
}
/* Direct access to RAM: *length shrinks to what is contiguous. NULL where it is not RAM (or not writable):
 * use the copies instead. The mapping holds the block; unmap tells how much was written (marks it dirty). */
void *address_space_map(AddressSpace *as, hwaddr addr, hwaddr *length, bool is_write, MemTxAttrs attrs);
void address_space_unmap(AddressSpace *as, void *host, hwaddr mapped, bool is_write, hwaddr accessed);

/* What lies at an address, for vCPUs' TLBs and accelerators. Valid until the next grace period: call and use
 * between memory_rcu_lock() and memory_rcu_unlock() (mem/rcu.h), or from a thread that listens to topology
 * changes. */
typedef struct MemoryTarget {
    MemoryRegion *region; /* NULL: nothing there */
    hwaddr offset;        /* in the region */
    uint64_t length;      /* how far this target (or hole) goes on from here */
    uint8_t *host;        /* RAM, ROM, readable ROM_DEVICE: where the byte is; else NULL */
    RamBlock *ram;
    uint64_t ram_offset;
    bool writable; /* host may be written (plain RAM) */
} MemoryTarget;
void address_space_translate(AddressSpace *as, hwaddr addr, MemoryTarget *target);
/* Access to a target's device registers; takes the region's lock. A re-entrant access is refused. */
MemTxResult memory_region_dispatch_read(MemoryRegion *mr, hwaddr offset, uint64_t *value, unsigned size,
                                        MemTxAttrs attrs);
MemTxResult memory_region_dispatch_write(MemoryRegion *mr, hwaddr offset, uint64_t value, unsigned size,
                                         MemTxAttrs attrs);

/* ---- listeners: told of a view's differences, under the topology lock ---- */
struct MemoryRegionSection {
    MemoryRegion *region;
    hwaddr offset_in_region, addr;
    uint64_t size;
    bool readonly;
};
struct MemoryListener {
    const char *name;
    void (*begin)(MemoryListener *l);
    void (*commit)(MemoryListener *l); /* after the new view is published */
    void (*region_add)(MemoryListener *l, const MemoryRegionSection *section);
    void (*region_del)(MemoryListener *l, const MemoryRegionSection *section);
    void (*log_start)(MemoryListener *l, const MemoryRegionSection *section);
    void (*log_stop)(MemoryListener *l, const MemoryRegionSection *section);
    /* A notifier that a write rings: .offset is the address in the address space. For accelerators that can
     * ring it without asking; a write that comes here rings it, too. del comes while the notifier is open. */
    void (*eventfd_add)(MemoryListener *l, const MemoryIoeventfd *eventfd);
    void (*eventfd_del)(MemoryListener *l, const MemoryIoeventfd *eventfd);
    AddressSpace *as; /* set by add */
};
void memory_listener_add(MemoryListener *l, AddressSpace *as); /* gets region_add for all that is there */
void memory_listener_remove(MemoryListener *l);

/* ---- RAM blocks ---- */
#define RAM_PAGE_BITS 12
#define RAM_PAGE_SIZE (1u << RAM_PAGE_BITS)
/* Clients of the dirty log: bit n set = page written since client n last cleared it. For DIRTY_CODE the
 * meaning is turned round for speed: a clear bit says that the page holds translated code, and the first
 * write to it is reported. */
typedef enum DirtyClient { DIRTY_DISPLAY, DIRTY_CODE, DIRTY_MIGRATION, DIRTY_CLIENTS } DirtyClient;
#define DIRTY_ALL ((1u << DIRTY_CLIENTS) - 1)

struct RamBlock {
    char *id;      /* as the migration stream names it */
    uint8_t *host; /* page aligned */
    uint64_t size; /* bytes, whole pages */
    int fd;        /* memfd or file; -1 anonymous */
    uint64_t fd_offset;
    bool shared, no_dump, readonly; /* as RamBlockOptions says */
    uint64_t page_size;             /* of the backing: 4 KiB, or a huge page */
    uint8_t *dirty;                 /* a byte a page: mask of 1 << DirtyClient; atomic */
    int ref;
    struct RamListeners *listeners; /* RCU; NULL: none */
    uint64_t mapped_size;           /* what munmap is to get */
    struct rcu_head *rcu;           /* of its release */
};
typedef struct RamListener {
    /* A page whose DIRTY_CODE bit was clear has been written: drop translations of it. In the writer's
     * thread. */
    void (*code_written)(struct RamListener *l, RamBlock *block, uint64_t offset, uint64_t length);
    /* Dirty bits were cleared: drop every cached write translation of the range, and return when no vCPU uses
     * one. */
    void (*dirty_cleared)(struct RamListener *l, RamBlock *block, uint64_t offset, uint64_t length);
    /* Somebody wants to know what has been written: writes of which nobody was told yet (KVM logs them) are
     * reported now, with ram_written(). */
    void (*dirty_sync)(struct RamListener *l, RamBlock *block, uint64_t offset, uint64_t length);
} RamListener;

typedef struct RamBlockOptions {
    uint64_t size;
    const char *path; /* a file, a directory (hugetlbfs), or NULL */
    bool memfd, share, hugetlb, prealloc, readonly;
    bool alias;      /* pages of it can be mapped elsewhere, too: a memfd where there is no path */
    bool merge;      /* let KSM merge equal pages */
    bool no_dump;    /* leave it out of core dumps */
    bool no_reserve; /* no swap space is set aside */
    bool seal;       /* memfd: its size cannot change any more */
    uint64_t align;  /* of the host address and the file offset; 0: the backing's page size */
    uint64_t fd_offset;
    uint64_t hugetlb_size;
    int prealloc_threads;
    int policy; /* 0 default, 1 preferred, 2 bind, 3 interleave (MPOL_*) */
    const unsigned long *host_nodes;
    unsigned long max_node;
} RamBlockOptions;
/* NULL on error: too large, no memory, no such file. Nothing is left behind. The size is rounded up to whole
 * pages of the backing. Fresh blocks read as zero and are clean for every client. */
RamBlock *ram_block_new(const char *id, const RamBlockOptions *options, GError **error);
/* Calls fn for every block, in the order of their making. Control plane. */
void ram_block_foreach(void (*fn)(RamBlock *block, void *opaque), void *opaque);
/* The block that holds a host address, or NULL; *offset tells where. Inside an RCU read section. */
RamBlock *ram_block_from_host(const void *host, uint64_t *offset);
RamBlock *ram_block_ref(RamBlock *block);
void ram_block_unref(RamBlock *block);

/* THE hook: whoever writes guest RAM other than through a vCPU's write TLB (DMA, loaders, debuggers, incoming
 * migration, CPU slow paths) calls this afterwards. Marks pages dirty for every client and reports code
 * pages. [any thread] */
void ram_written(RamBlock *block, uint64_t offset, uint64_t length);
/* Whether every client has the page marked already, so that a vCPU may cache a write translation of it. */
static inline bool ram_page_fully_dirty(const RamBlock *block, uint64_t offset)
{
    return __atomic_load_n(&block->dirty[offset >> RAM_PAGE_BITS], __ATOMIC_RELAXED) == DIRTY_ALL;
}
/* Brings the dirty map up to date where an accelerator logs writes by itself. For those who read it: clearing
 * does it, too (but for DIRTY_CODE: such an accelerator keeps no code). */
void ram_sync_dirty(RamBlock *block, uint64_t offset, uint64_t length);
/* Clears a client's bits over a range; returns whether any was set. vCPUs' write translations of those pages
 * are dropped through the listeners' dirty_cleared before it returns (not called where no bit was set:
 * callers of one client serialise among themselves, or a second one could return before the first one's
 * listeners have). */
bool ram_test_and_clear_dirty(RamBlock *block, uint64_t offset, uint64_t length, DirtyClient client);
void ram_add_listener(RamBlock *block, RamListener *l);
void ram_remove_listener(RamBlock *block, RamListener *l);

/* ---- for people ---- */
/* "info mtree" text of the tree below an address space's root; flat: its flat view instead. Caller frees. */
char *memory_print_tree(AddressSpace *as, bool flat);

#endif
