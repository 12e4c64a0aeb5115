/*
 * Accesses: from an address to bytes of RAM or to a device's registers.
 *
 * RAM is shared with vCPUs that run at the same time, so aligned accesses of 1 to 8 bytes are single atomic
 * ones and everything else copies without promising an order, as a bus does. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "mem/cache.h"
#include "mem/memory_internal.h"

#include "base/log.h"

#include <string.h>

/* ---- bytes of guest RAM ---- */

/* Racing with the guest is the guest's own business, so ThreadSanitizer is kept out of it. */
static inline void ram_fill(void *to, uint8_t byte, size_t length)
{
#if RHEA_TSAN
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(byte) : "memory");
#else
    memset(to, byte, length);
#endif
}

static inline uint64_t ram_load(const uint8_t *host, unsigned size)
{
    if (((uintptr_t)host & (size - 1)) == 0) {
        switch (size) {
        case 1:
            return __atomic_load_n(host, __ATOMIC_RELAXED);
        case 2:
            return __atomic_load_n((const uint16_t *)(const void *)host, __ATOMIC_RELAXED);
        case 4:
            return __atomic_load_n((const uint32_t *)(const void *)host, __ATOMIC_RELAXED);
        case 8:
            return __atomic_load_n((const uint64_t *)(const void *)host, __ATOMIC_RELAXED);
        }
    }
    uint64_t value = 0;
    guest_memory_copy(&value, host, size);
    return value;
}

static inline void ram_store(uint8_t *host, uint64_t value, unsigned size)
{
    if (((uintptr_t)host & (size - 1)) == 0) {
        switch (size) {
        case 1:
            __atomic_store_n(host, (uint8_t)value, __ATOMIC_RELAXED);
            return;
        case 2:
            __atomic_store_n((uint16_t *)(void *)host, (uint16_t)value, __ATOMIC_RELAXED);
            return;
        case 4:
            __atomic_store_n((uint32_t *)(void *)host, (uint32_t)value, __ATOMIC_RELAXED);
            return;
        case 8:
            __atomic_store_n((uint64_t *)(void *)host, value, __ATOMIC_RELAXED);
            return;
        }
    }
    guest_memory_copy(host, &value, size);
}

/* ---- a device's registers ---- */

static inline uint64_t size_mask(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
}

static inline uint64_t swap_bytes(uint64_t value, unsigned size)
{
    return __builtin_bswap64(value) >> (64 - size * 8);
}

static inline unsigned valid_max(const MemoryRegionOps *ops)
{
    return ops->valid.max ? ops->valid.max : 4;
}

static bool access_valid(const MemoryRegion *mr, hwaddr offset, unsigned size, const char *what,
                         MemTxAttrs attrs)
{
    const MemoryRegionOps *ops = mr->ops;
    const char *why = NULL;
    if (!ops) {
        why = "no registers";
    } else if (attrs.dma && !ops->dma_ok) {
        why = "a device's DMA";
    } else if (size < ops->valid.min || size > valid_max(ops) || (size & (size - 1)) || size == 0) {
        why = "size";
    } else if (!ops->valid.unaligned && (offset & (size - 1))) {
        why = "alignment";
    }
    if (why) {
        LOG(LOG_GUEST_ERROR, "%s: refused %s of %u bytes at 0x%" PRIx64 " (%s)", mr->name, what, size, offset,
            why);
    }
    return !why;
}

/* One call of the device, its bytes put in little-endian order. */
static MemTxResult ops_read(MemoryRegion *mr, hwaddr offset, uint64_t *value, unsigned size, MemTxAttrs attrs)
{
    const MemoryRegionOps *ops = mr->ops;
    MemTxResult result = MEMTX_OK;
    *value = size_mask(size);
    if (ops->read) {
        *value = ops->read(mr->opaque, offset, size) & size_mask(size);
    } else if (ops->read_with_attrs) {
        result = ops->read_with_attrs(mr->opaque, offset, value, size, attrs);
        *value &= size_mask(size);
    } else {
        result = MEMTX_ACCESS_ERROR;
    }
    if (ops->endian == MEMORY_BIG_ENDIAN) {
        *value = swap_bytes(*value, size);
    }
    return result;
}

static MemTxResult ops_write(MemoryRegion *mr, hwaddr offset, uint64_t value, unsigned size, MemTxAttrs attrs)
{
    const MemoryRegionOps *ops = mr->ops;
    value &= size_mask(size);
    if (ops->endian == MEMORY_BIG_ENDIAN) {
        value = swap_bytes(value, size);
    }
    if (ops->write) {
        ops->write(mr->opaque, offset, value, size);
        return MEMTX_OK;
    }
    if (ops->write_with_attrs) {
        return ops->write_with_attrs(mr->opaque, offset, value, size, attrs);
    }
    return MEMTX_ACCESS_ERROR;
}

/* The next piece of an access that the device implements: at most impl.max and what is left, aligned if it
 * must be. */
static inline unsigned piece_size(const MemoryRegionOps *ops, hwaddr offset, unsigned left)
{
    unsigned max = ops->impl.max ? ops->impl.max : 4;
    unsigned piece = 1u << (31 - __builtin_clz(left));
    piece = MIN(piece, max);
    if (!ops->impl.unaligned && (offset & (piece - 1))) {
        piece = 1u << __builtin_ctzll(offset);
    }
    return piece;
}

/* Reads that are smaller than what the device implements take their bytes out of a wider one. */
static MemTxResult read_pieces(MemoryRegion *mr, hwaddr offset, uint64_t *value, unsigned size,
                               MemTxAttrs attrs)
{
    unsigned min = mr->ops->impl.min;
    MemTxResult result = MEMTX_OK;
    uint64_t all = 0;
    for (unsigned done = 0; done < size;) {
        hwaddr at = offset + done;
        unsigned piece = piece_size(mr->ops, at, size - done);
        uint64_t part;
        if (piece < min) {
            unsigned skip = (unsigned)(at & (min - 1));
            piece = MIN(min - skip, size - done);
            result |= ops_read(mr, at - skip, &part, min, attrs);
            part = (part >> (skip * 8)) & size_mask(piece);
        } else {
            result |= ops_read(mr, at, &part, piece, attrs);
        }
        all |= part << (done * 8);
        done += piece;
    }
    *value = all;
    return result;
}

static MemTxResult write_pieces(MemoryRegion *mr, hwaddr offset, uint64_t value, unsigned size,
                                MemTxAttrs attrs)
{
    unsigned min = mr->ops->impl.min;
    MemTxResult result = MEMTX_OK;
    for (unsigned done = 0; done < size;) {
        hwaddr at = offset + done;
        unsigned piece = piece_size(mr->ops, at, size - done);
        uint64_t part = value >> (done * 8);
        if (piece < min) {
            unsigned skip = (unsigned)(at & (min - 1));
            piece = MIN(min - skip, size - done);
            uint64_t mask = size_mask(piece) << (skip * 8), around;
            result |= ops_read(mr, at - skip, &around, min, attrs);
            part = (around & ~mask) | ((part << (skip * 8)) & mask);
            result |= ops_write(mr, at - skip, part, min, attrs);
        } else {
            result |= ops_write(mr, at, part, piece, attrs);
        }
        done += piece;
    }
    return result;
}

static bool region_enter(MemoryRegion *mr, hwaddr offset)
{
    if (mr->lock && !home_lock_enter(mr->lock)) {
        LOG(LOG_GUEST_ERROR, "%s: refused a re-entrant access at 0x%" PRIx64, mr->name, offset);
        return false;
    }
    return true;
}

static inline void region_leave(MemoryRegion *mr)
{
    if (mr->lock) {
        home_unlock(mr->lock);
    }
}

MemTxResult memory_region_dispatch_read(MemoryRegion *mr, hwaddr offset, uint64_t *value, unsigned size,
                                        MemTxAttrs attrs)
{
    *value = size_mask(size);
    if (mr->ram && (mr->kind != MEMORY_ROM_DEVICE || __atomic_load_n(&mr->romd, __ATOMIC_RELAXED))) {
        if (offset >= mr->ram->size || size > mr->ram->size - offset) {
            return MEMTX_DECODE_ERROR;
        }
        *value = ram_load(mr->ram->host + offset, size);
        return MEMTX_OK;
    }
    if (!access_valid(mr, offset, size, "read", attrs) || !region_enter(mr, offset)) {
        return MEMTX_ACCESS_ERROR;
    }
    MemTxResult result = read_pieces(mr, offset, value, size, attrs);
    region_leave(mr);
    return result;
}

static bool ring_ioeventfd(MemoryRegion *mr, hwaddr offset, uint64_t value, unsigned size)
{
    bool rung = false;
    memory_rcu_lock();
    const MemoryIoeventfdTable *table = rcu_fetch(&mr->ioeventfds);
    unsigned low = 0, high = table ? table->count : 0;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (table->entries[middle].offset < offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    for (unsigned i = low; table && i < table->count && table->entries[i].offset == offset && !rung; i++) {
        const MemoryIoeventfd *e = &table->entries[i];
        if ((e->size == 0 || e->size == size) && (!e->match_data || e->data == (value & size_mask(size)))) {
            event_notifier_set(e->notifier);
            rung = true;
        }
    }
    memory_rcu_unlock();
    return rung;
}

MemTxResult memory_region_dispatch_write(MemoryRegion *mr, hwaddr offset, uint64_t value, unsigned size,
                                         MemTxAttrs attrs)
{
    if (mr->ram && mr->kind != MEMORY_ROM_DEVICE) {
        if (offset >= mr->ram->size || size > mr->ram->size - offset) {
            return MEMTX_DECODE_ERROR;
        }
        if (mr->kind == MEMORY_RAM && !__atomic_load_n(&mr->readonly, __ATOMIC_RELAXED)) {
            ram_store(mr->ram->host + offset, value, size);
            ram_written(mr->ram, offset, size);
        }
        return MEMTX_OK;
    }
    if (!access_valid(mr, offset, size, "write", attrs)) {
        return MEMTX_ACCESS_ERROR;
    }
    if (G_UNLIKELY(__atomic_load_n(&mr->ioeventfds, __ATOMIC_RELAXED)) &&
        ring_ioeventfd(mr, offset, value, size)) {
        return MEMTX_OK;
    }
    if (!region_enter(mr, offset)) {
        return MEMTX_ACCESS_ERROR;
    }
    MemTxResult result = write_pieces(mr, offset, value, size, attrs);
    region_leave(mr);
    return result;
}

/* ---- address spaces ---- */

/* The last byte that an access at addr may reach. RAM ends where another region covers it. An access to
 * registers goes as a whole to the region where it begins, as on a bus: a 4 byte access to port 0xcf8 is the
 * PCI host bridge's although 0xcf9 alone is the reset register. */
static inline hwaddr reach(const FlatRange *range)
{
    if (range->host) {
        return range->last;
    }
    hwaddr start = range->first - range->offset, size = range->region->size;
    hwaddr last = size == UINT64_MAX ? UINT64_MAX : start + (size - 1);
    return last < range->last ? range->last : last;
}

/* How many bytes of an access at addr go to this range, at most length. */
static inline hwaddr span(const FlatRange *range, hwaddr addr, hwaddr length)
{
    hwaddr rest = range->last - addr;
    return length - 1 > rest ? rest + 1 : length;
}

/* The size of the next single access to registers: aligned, no larger than what the device takes. */
static unsigned mmio_step(const MemoryRegion *mr, hwaddr offset, hwaddr length)
{
    unsigned max = mr->ops ? valid_max(mr->ops) : 4;
    if (!(mr->ops && mr->ops->valid.unaligned) && offset) {
        unsigned alignment = 1u << MIN(__builtin_ctzll(offset), 3);
        max = MIN(max, alignment);
    }
    if (length < max) {
        max = 1u << (31 - __builtin_clz((unsigned)length));
    }
    return MIN(max, 8);
}

/* One access of a longer one to registers; *step tells its size. */
static MemTxResult mmio_read(const FlatRange *range, hwaddr addr, MemTxAttrs attrs, uint8_t *buffer,
                             hwaddr length, unsigned *step)
{
    hwaddr offset = range->offset + (addr - range->first);
    uint64_t value;
    *step = mmio_step(range->region, offset, MIN(length - 1, reach(range) - addr) + 1);
    MemTxResult result = memory_region_dispatch_read(range->region, offset, &value, *step, attrs);
    memcpy(buffer, &value, *step);
    return result;
}

static MemTxResult mmio_write(const FlatRange *range, hwaddr addr, MemTxAttrs attrs, const uint8_t *buffer,
                              hwaddr length, unsigned *step)
{
    hwaddr offset = range->offset + (addr - range->first);
    uint64_t value = 0;
    *step = mmio_step(range->region, offset, MIN(length - 1, reach(range) - addr) + 1);
    memcpy(&value, buffer, *step);
    return memory_region_dispatch_write(range->region, offset, value, *step, attrs);
}

MemTxResult address_space_read(AddressSpace *as, hwaddr addr, MemTxAttrs attrs, void *buffer, hwaddr length)
{
    uint8_t *to = buffer;
    MemTxResult result = MEMTX_OK;
    memory_rcu_lock();
    FlatView *view = rcu_fetch(&as->view);
    while (length) {
        const FlatRange *range = flat_view_find(view, addr);
        hwaddr part;
        if (!range) {
            part = MIN(flat_view_hole(view, addr), length);
            memset(to, 0xff, part);
            result |= MEMTX_DECODE_ERROR;
        } else {
            if (range->host) {
                part = span(range, addr, length);
                guest_memory_copy(to, range->host + (addr - range->first), part);
            } else {
                unsigned step;
                result |= mmio_read(range, addr, attrs, to, length, &step);
                part = step;
            }
        }
        addr += part;
        to += part;
        length -= part;
    }
    memory_rcu_unlock();
    return result;
}

static inline bool range_is_ram(const FlatRange *range)
{
    return range->host && range->region->kind != MEMORY_ROM_DEVICE;
}

/* The common body of write (from set) and fill (byte used where from is NULL). */
static MemTxResult write_or_fill(AddressSpace *as, hwaddr addr, MemTxAttrs attrs, const uint8_t *from,
                                 uint8_t byte, hwaddr length)
{
    MemTxResult result = MEMTX_OK;
    memory_rcu_lock();
    FlatView *view = rcu_fetch(&as->view);
    while (length) {
        const FlatRange *range = flat_view_find(view, addr);
        hwaddr part;
        if (!range) {
            part = MIN(flat_view_hole(view, addr), length);
            result |= MEMTX_DECODE_ERROR;
        } else {
            hwaddr inside = addr - range->first;
            unsigned step;
            if (range_is_ram(range)) {
                part = span(range, addr, length);
                if (!range->readonly) {
                    if (from) {
                        guest_memory_copy(range->host + inside, from, part);
                    } else {
                        ram_fill(range->host + inside, byte, part);
                    }
                    ram_written(range->region->ram, range->offset + inside, part);
                }
            } else {
                uint8_t bytes[8];
                memset(bytes, byte, sizeof(bytes));
                result |= mmio_write(range, addr, attrs, from ? from : bytes, length, &step);
                part = step;
            }
        }
        addr += part;
        from = from ? from + part : NULL;
        length -= part;
    }
    memory_rcu_unlock();
    return result;
}

MemTxResult address_space_write(AddressSpace *as, hwaddr addr, MemTxAttrs attrs, const void *buffer,
                                hwaddr length)
{
    return write_or_fill(as, addr, attrs, buffer, 0, length);
}

MemTxResult address_space_set(AddressSpace *as, hwaddr addr, uint8_t byte, hwaddr length, MemTxAttrs attrs)
{
    return write_or_fill(as, addr, attrs, NULL, byte, length);
}

MemTxResult address_space_load(AddressSpace *as, hwaddr addr, unsigned size, uint64_t *value,
                               MemTxAttrs attrs)
{
    MemTxResult result;
    *value = size_mask(size);
    memory_rcu_lock();
    const FlatRange *range = flat_view_find(rcu_fetch(&as->view), addr);
    if (!range) {
        result = MEMTX_DECODE_ERROR;
        if (flat_view_hole(rcu_fetch(&as->view), addr) < size) {
            result = address_space_read(as, addr, attrs, value, size);
        }
    } else if (reach(range) - addr < size - 1) {
        result = address_space_read(as, addr, attrs, value, size);
    } else if (range->host) {
        *value = ram_load(range->host + (addr - range->first), size);
        result = MEMTX_OK;
    } else {
        result = memory_region_dispatch_read(range->region, range->offset + (addr - range->first), value,
                                             size, attrs);
    }
    memory_rcu_unlock();
    return result;
}

MemTxResult address_space_store(AddressSpace *as, hwaddr addr, unsigned size, uint64_t value,
                                MemTxAttrs attrs)
{
    MemTxResult result = MEMTX_OK;
    memory_rcu_lock();
    const FlatRange *range = flat_view_find(rcu_fetch(&as->view), addr);
    if (!range || reach(range) - addr < size - 1) {
        result = address_space_write(as, addr, attrs, &value, size);
    } else if (range_is_ram(range)) {
        if (!range->readonly) {
            hwaddr inside = addr - range->first;
            ram_store(range->host + inside, value, size);
            ram_written(range->region->ram, range->offset + inside, size);
        }
    } else {
        result = memory_region_dispatch_write(range->region, range->offset + (addr - range->first), value,
                                              size, attrs);
    }
    memory_rcu_unlock();
    return result;
}

void address_space_translate(AddressSpace *as, hwaddr addr, MemoryTarget *target)
{
    FlatView *view = rcu_fetch(&as->view);
    const FlatRange *range = flat_view_find(view, addr);
    if (!range) {
        *target = (MemoryTarget){ .length = flat_view_hole(view, addr) };
        return;
    }
    MemoryRegion *mr = range->region;
    hwaddr inside = addr - range->first, rest = range->last - addr;
    *target = (MemoryTarget){
        .region = mr,
        .offset = range->offset + inside,
        .length = rest == UINT64_MAX ? rest : rest + 1,
        .host = range->host ? range->host + inside : NULL,
        .ram = range->host ? mr->ram : NULL,
        .ram_offset = range->host ? range->offset + inside : 0,
        .writable = range_is_ram(range) && !range->readonly,
    };
}

void *address_space_map(AddressSpace *as, hwaddr addr, hwaddr *length, bool is_write, MemTxAttrs attrs)
{
    (void)attrs;
    MemoryTarget target;
    void *host = NULL;
    memory_rcu_lock();
    address_space_translate(as, addr, &target);
    if (target.host && *length && (target.writable || !is_write)) {
        *length = MIN(*length, target.length);
        ram_block_ref(target.ram);
        host = target.host;
    }
    memory_rcu_unlock();
    if (!host) {
        *length = 0;
    }
    return host;
}

void address_space_unmap(AddressSpace *as, void *host, hwaddr mapped, bool is_write, hwaddr accessed)
{
    (void)as;
    uint64_t offset;
    memory_rcu_lock();
    RamBlock *block = ram_block_from_host(host, &offset);
    memory_rcu_unlock();
    g_assert(block && mapped <= block->size - offset); /* the mapping holds it */
    if (is_write && accessed) {
        ram_written(block, offset, MIN(accessed, mapped));
    }
    ram_block_unref(block);
}
