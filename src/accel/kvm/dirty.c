/*
 * What the guest has written, as the kernel logs it: a bitmap for each slot, or a ring for each vCPU
 * (dirty-ring-size=). Either is brought into the dirty map of src/mem when somebody looks there.
 *
 * Invariants:
 *  1. A page is protected again (KVM_CLEAR_DIRTY_LOG, KVM_RESET_DIRTY_RINGS) before whoever asked reads it: a
 * write after that is logged anew, one before it is seen by the reader.
 *  2. What has been taken from a log is in the dirty map before slot_lock is released: no second reader
 * misses it.
 *  3. From the moment logging starts, all that was written before counts as written.
 *
 * Source: Linux Documentation/virt/kvm/api.rst, 4.8, 4.117, 8.29. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "base/error.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE        UINT64_C(4096)
#define CLEAR_PAGES UINT64_C(65536) /* at once: the kernel holds a lock for so long */
#define RING_MIN    1024u
#define RING_MAX    65536u

static KvmSlot *slot_at(KvmAccel *kvm, unsigned index)
{
    return &g_array_index(kvm->slots, KvmSlot, index);
}

static void report(const KvmSlot *slot, uint64_t page)
{
    if (page < slot->size / PAGE) {
        ram_written(slot->ram, slot->ram_offset + page * PAGE, PAGE);
    }
}

/* ---- bitmaps ---- */

/* Protects the pages again that are set in the bitmap. */
static int clear_pages(KvmAccel *kvm, unsigned index, uint64_t *bitmap, uint64_t pages)
{
    int result = 0;

    for (uint64_t first = 0; first < pages && result >= 0; first += CLEAR_PAGES) {
        struct kvm_clear_dirty_log request = {
            .slot = index,
            .num_pages = (uint32_t)MIN(CLEAR_PAGES, pages - first),
            .first_page = first,
            .dirty_bitmap = bitmap + first / 64,
        };
        bool any = false;
        for (uint64_t i = 0; i < (request.num_pages + 63) / 64 && !any; i++) {
            any = bitmap[first / 64 + i] != 0;
        }
        result = any ? kvm_ioctl(kvm->vm_fd, KVM_CLEAR_DIRTY_LOG, &request) : 0;
    }
    return result;
}

void kvm_dirty_harvest(KvmAccel *kvm, unsigned index)
{
    const KvmSlot *slot = slot_at(kvm, index);
    uint64_t pages = slot->size / PAGE, words = (pages + 63) / 64;
    g_autofree uint64_t *bitmap = g_new0(uint64_t, words);
    struct kvm_dirty_log request = { .slot = index, .dirty_bitmap = bitmap };
    int result = kvm_ioctl(kvm->vm_fd, KVM_GET_DIRTY_LOG, &request);

    if (result >= 0 && kvm->log_protect) {
        result = clear_pages(kvm, index, bitmap, pages);
    }
    if (result < 0) { /* then everything may have been written */
        log_warning("KVM: the log of memory at 0x%" PRIx64 " cannot be read: %s", slot->gpa,
                    g_strerror(-result));
        ram_written(slot->ram, slot->ram_offset, slot->size);
        return;
    }
    for (uint64_t i = 0; i < words; i++) {
        for (uint64_t word = bitmap[i]; word; word &= word - 1) {
            report(slot, i * 64 + (uint64_t)__builtin_ctzll(word));
        }
    }
}

/* ---- rings ---- */

/* Processors buffer what they log until a vCPU leaves the guest. */
void kvm_dirty_flush(KvmAccel *kvm)
{
    if (!kvm->ring_entries) {
        return;
    }
    g_mutex_lock(&kvm->lock);
    for (guint i = 0; i < kvm->vcpus->len; i++) {
        KvmVcpu *v = kvm->vcpus->pdata[i];
        g_mutex_lock(&kvm->flush_lock);
        __atomic_store_n(&v->flush, true, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&v->in_run, __ATOMIC_SEQ_CST)) {
            kvm_vcpu_kick(&kvm->parent_obj, v->cpu);
        }
        while (__atomic_load_n(&v->flush, __ATOMIC_SEQ_CST) &&
               __atomic_load_n(&v->in_run, __ATOMIC_SEQ_CST)) {
            g_cond_wait(&kvm->flushed, &kvm->flush_lock);
        }
        __atomic_store_n(&v->flush, false, __ATOMIC_SEQ_CST);
        g_mutex_unlock(&kvm->flush_lock);
    }
    g_mutex_unlock(&kvm->lock);
}

void kvm_dirty_left(KvmVcpu *v)
{
    g_mutex_lock(&v->kvm->flush_lock);
    __atomic_store_n(&v->flush, false, __ATOMIC_SEQ_CST);
    g_cond_broadcast(&v->kvm->flushed);
    g_mutex_unlock(&v->kvm->flush_lock);
}

/* slot_lock is held. */
static unsigned reap_ring(KvmVcpu *v)
{
    KvmAccel *kvm = v->kvm;
    unsigned count = 0;

    for (;; count++, v->ring_next++) {
        struct kvm_dirty_gfn *entry = &v->ring[v->ring_next & (kvm->ring_entries - 1)];
        if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY)) {
            return count;
        }
        unsigned index = entry->slot & 0xffff;
        if (index < kvm->slots->len && slot_at(kvm, index)->used) {
            report(slot_at(kvm, index), entry->offset);
        }
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
}

static void reap_rings(KvmAccel *kvm)
{
    unsigned count = 0;

    g_mutex_lock(&kvm->lock);
    for (guint i = 0; i < kvm->vcpus->len; i++) {
        count += reap_ring(kvm->vcpus->pdata[i]);
    }
    g_mutex_unlock(&kvm->lock);
    int result = count ? kvm_ioctl(kvm->vm_fd, KVM_RESET_DIRTY_RINGS, NULL) : 0;
    if (result < 0) {
        log_error("KVM: written pages cannot be protected again: %s", g_strerror(-result));
    }
}

void kvm_dirty_reap(KvmAccel *kvm)
{
    g_mutex_lock(&kvm->slot_lock);
    reap_rings(kvm);
    g_mutex_unlock(&kvm->slot_lock);
}

bool kvm_dirty_map_ring(KvmVcpu *v, GError **error)
{
    size_t bytes = v->kvm->ring_entries * sizeof(struct kvm_dirty_gfn);

    if (bytes == 0) {
        return true;
    }
    void *ring =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, KVM_DIRTY_LOG_PAGE_OFFSET * PAGE);
    if (ring == MAP_FAILED) {
        return error_set_errno(error, errno, "CPU %u: cannot map its ring of written pages", v->cpu->index);
    }
    v->ring = ring;
    return true;
}

void kvm_dirty_unmap_ring(KvmVcpu *v)
{
    if (v->ring) {
        munmap(v->ring, v->kvm->ring_entries * sizeof(struct kvm_dirty_gfn));
        v->ring = NULL;
    }
}

/* ---- both ---- */

static void dirty_sync(RamListener *l, RamBlock *block, uint64_t offset, uint64_t length)
{
    KvmAccel *kvm = (KvmAccel *)((uint8_t *)l - offsetof(KvmAccel, ram_listener));

    kvm_dirty_flush(kvm);
    g_mutex_lock(&kvm->slot_lock);
    if (kvm->ring_entries) {
        reap_rings(kvm);
    }
    for (guint i = 0; !kvm->ring_entries && kvm->slots && i < kvm->slots->len; i++) {
        const KvmSlot *slot = slot_at(kvm, i);
        if (slot->used && (slot->flags & KVM_MEM_LOG_DIRTY_PAGES) && slot->ram == block &&
            slot->ram_offset < offset + length && offset < slot->ram_offset + slot->size) {
            kvm_dirty_harvest(kvm, i);
        }
    }
    g_mutex_unlock(&kvm->slot_lock);
}

static unsigned logged_slots(const KvmAccel *kvm, const RamBlock *block)
{
    unsigned count = 0;

    for (guint i = 0; i < kvm->slots->len; i++) {
        const KvmSlot *slot = &g_array_index(kvm->slots, KvmSlot, i);
        count += slot->used && slot->ram == block && (slot->flags & KVM_MEM_LOG_DIRTY_PAGES);
    }
    return count;
}

/* What has been logged so far is reported before its log goes. */
static void stop_log(KvmAccel *kvm, unsigned index)
{
    if (kvm->ring_entries) {
        reap_rings(kvm);
    } else {
        kvm_dirty_harvest(kvm, index);
    }
}

void kvm_dirty_log(KvmAccel *kvm, unsigned index, bool on)
{
    KvmSlot *slot = slot_at(kvm, index);

    if (on == !!(slot->flags & KVM_MEM_LOG_DIRTY_PAGES) || (slot->flags & KVM_MEM_READONLY)) {
        return;
    }
    if (!on) {
        stop_log(kvm, index);
    }
    slot->flags ^= KVM_MEM_LOG_DIRTY_PAGES;
    int result = kvm_slot_set(kvm, index, slot);
    if (result < 0) {
        slot->flags ^= KVM_MEM_LOG_DIRTY_PAGES;
        log_error("KVM: writes to memory at 0x%" PRIx64 " cannot be logged: %s", slot->gpa,
                  g_strerror(-result));
        return;
    }
    if (on) {
        if (logged_slots(kvm, slot->ram) == 1) {
            ram_add_listener(slot->ram, &kvm->ram_listener);
        }
        ram_written(slot->ram, slot->ram_offset, slot->size);
    } else if (logged_slots(kvm, slot->ram) == 0) {
        ram_remove_listener(slot->ram, &kvm->ram_listener);
    }
}

/* Pages are protected again a piece at a time, and only once somebody has asked. */
static void setup_protect(KvmAccel *kvm)
{
    int offered = kvm_check(kvm->vm_fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                                  .args[0] =
                                      (uint64_t)MAX(offered, 0) &
                                      (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET) };

    if (cap.args[0] && kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap) >= 0) {
        kvm->log_protect = cap.args[0];
    }
}

static bool setup_rings(KvmAccel *kvm, GError **error)
{
    uint32_t entries = kvm->ring_size, bytes = entries * (uint32_t)sizeof(struct kvm_dirty_gfn);
    struct kvm_enable_cap cap = { .cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL, .args[0] = bytes };

    if ((entries & (entries - 1)) || entries < RING_MIN || entries > RING_MAX) {
        return error_set(error, "-accel kvm: dirty-ring-size=%u is no power of two from %u to %u", entries,
                         RING_MIN, RING_MAX);
    }
    int most = kvm_check(kvm->vm_fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
    if (most <= 0) { /* kernels before 6.1 */
        cap.cap = KVM_CAP_DIRTY_LOG_RING;
        most = kvm_check(kvm->vm_fd, KVM_CAP_DIRTY_LOG_RING);
    }
    if (most <= 0 || bytes > (uint32_t)most) {
        error_set(error, "dirty-ring-size=%u: this kernel's KVM has room for %d entries", entries,
                  MAX(most, 0) / (int)sizeof(struct kvm_dirty_gfn));
        error_append_hint(error, "Without it, a bitmap is used.");
        return false;
    }
    int result = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap);
    if (result < 0) {
        return error_set_errno(error, -result, "KVM does not make rings of written pages");
    }
    kvm->ring_entries = entries;
    return true;
}

bool kvm_dirty_setup(KvmAccel *kvm, GError **error)
{
    kvm->ram_listener.dirty_sync = dirty_sync;
    if (kvm->ring_size) {
        return setup_rings(kvm, error);
    }
    setup_protect(kvm);
    return true;
}
