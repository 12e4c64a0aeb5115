/*
 * The memory map as the kernel knows it: one slot for each piece of RAM or ROM in the CPUs' address space.
 * What is no slot leaves the guest as an access (vcpu.c). The kernel takes whole pages only: smaller pieces
 * stay accesses, which the reference CPU can even run code from.
 *
 * Threads: listeners run under the topology lock; slot_lock is a leaf. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "base/error.h"
#include "base/log.h"

#include <errno.h>

#define PAGE UINT64_C(4096)

#define FROM_LISTENER(l) ((KvmAccel *)((uint8_t *)(l)-offsetof(KvmAccel, listener)))

int kvm_slot_set(KvmAccel *kvm, unsigned index, const KvmSlot *slot)
{
    struct kvm_userspace_memory_region region = {
        .slot = index,
        .flags = slot->flags,
        .guest_phys_addr = slot->gpa,
        .memory_size = slot->used ? slot->size : 0,
        .userspace_addr = (uint64_t)(uintptr_t)slot->host,
    };

    return kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static KvmSlot *slot_free(KvmAccel *kvm, unsigned *index)
{
    for (guint i = 0; i < kvm->slots->len; i++) {
        if (!g_array_index(kvm->slots, KvmSlot, i).used) {
            *index = i;
            return &g_array_index(kvm->slots, KvmSlot, i);
        }
    }
    if (kvm->slots->len >= kvm->max_slots) {
        return NULL;
    }
    g_array_set_size(kvm->slots, kvm->slots->len + 1);
    *index = kvm->slots->len - 1;
    return &g_array_index(kvm->slots, KvmSlot, *index);
}

/* The whole pages of a section that can be a slot; false: none. */
static bool section_slot(const MemoryRegionSection *section, KvmSlot *slot)
{
    const MemoryRegion *mr = section->region;
    uint64_t first = (section->addr + PAGE - 1) & ~(PAGE - 1);
    uint64_t skip = first - section->addr;

    if (!mr->ram || (mr->kind == MEMORY_ROM_DEVICE && !mr->romd) || section->size <= skip ||
        section->size - skip < PAGE) {
        return false;
    }
    uint64_t offset = section->offset_in_region + skip;
    if (((uintptr_t)mr->ram->host + offset) % PAGE != 0) {
        return false;
    }
    *slot = (KvmSlot){
        .used = true,
        .gpa = first,
        .size = (section->size - skip) & ~(PAGE - 1),
        .host = mr->ram->host + offset,
        .flags = section->readonly || mr->kind != MEMORY_RAM ? KVM_MEM_READONLY : 0,
        .ram = mr->ram,
        .ram_offset = offset,
    };
    return true;
}

static void listen_add(MemoryListener *l, const MemoryRegionSection *section)
{
    KvmAccel *kvm = FROM_LISTENER(l);
    KvmSlot slot;
    unsigned index;

    if (!section_slot(section, &slot) || ((slot.flags & KVM_MEM_READONLY) && !kvm->has_readonly)) {
        return;
    }
    g_mutex_lock(&kvm->slot_lock);
    KvmSlot *place = slot_free(kvm, &index);
    int result = -ENOSPC;
    if (place) {
        result = kvm_slot_set(kvm, index, &slot);
        if (result >= 0) {
            *place = slot;
        }
    }
    g_mutex_unlock(&kvm->slot_lock);
    if (result < 0) { /* accesses still work, a page at a time and slowly */
        log_warning("KVM: memory at 0x%" PRIx64 " (%" PRIu64
                    " KiB of '%s') cannot be mapped into the guest: %s",
                    slot.gpa, slot.size >> 10, section->region->name, g_strerror(-result));
    }
}

static void listen_del(MemoryListener *l, const MemoryRegionSection *section)
{
    KvmAccel *kvm = FROM_LISTENER(l);
    KvmSlot slot;

    if (!section_slot(section, &slot)) {
        /* A device that has just left its readable state has a slot still. */
        slot.gpa = (section->addr + PAGE - 1) & ~(PAGE - 1);
    }
    kvm_dirty_flush(kvm);
    g_mutex_lock(&kvm->slot_lock);
    for (guint i = 0; i < kvm->slots->len; i++) {
        KvmSlot *place = &g_array_index(kvm->slots, KvmSlot, i);
        if (place->used && place->gpa == slot.gpa) {
            kvm_dirty_log(kvm, i, false);
            place->used = false;
            int result = kvm_slot_set(kvm, i, place);
            if (result < 0) {
                log_error("KVM: memory at 0x%" PRIx64 " cannot be taken out of the guest: %s", place->gpa,
                          g_strerror(-result));
            }
            break;
        }
    }
    g_mutex_unlock(&kvm->slot_lock);
}

static void set_log(KvmAccel *kvm, const MemoryRegionSection *section, bool on)
{
    KvmSlot slot;

    if (!section_slot(section, &slot)) {
        return;
    }
    kvm_dirty_flush(kvm);
    g_mutex_lock(&kvm->slot_lock);
    for (guint i = 0; i < kvm->slots->len; i++) {
        const KvmSlot *place = &g_array_index(kvm->slots, KvmSlot, i);
        if (place->used && place->gpa == slot.gpa) {
            kvm_dirty_log(kvm, i, on);
        }
    }
    g_mutex_unlock(&kvm->slot_lock);
}

static void listen_log_start(MemoryListener *l, const MemoryRegionSection *section)
{
    set_log(FROM_LISTENER(l), section, true);
}

/* Some client needs it no more; the others may. */
static void listen_log_stop(MemoryListener *l, const MemoryRegionSection *section)
{
    if (!section->region->dirty_log_mask) {
        set_log(FROM_LISTENER(l), section, false);
    }
}

bool kvm_memory_start(KvmAccel *kvm, AddressSpace *memory, GError **error)
{
    int slots = kvm_check(kvm->vm_fd, KVM_CAP_NR_MEMSLOTS);

    kvm->max_slots = slots > 0 ? (unsigned)slots : 32;
    kvm->has_readonly = kvm_check(kvm->vm_fd, KVM_CAP_READONLY_MEM) > 0;
    kvm->slots = g_array_new(FALSE, TRUE, sizeof(KvmSlot));
    kvm->memory = memory;
    kvm->listener = (MemoryListener){ .name = "kvm-memory",
                                      .region_add = listen_add,
                                      .region_del = listen_del,
                                      .log_start = listen_log_start,
                                      .log_stop = listen_log_stop };
    kvm_eventfd_listen_memory(kvm);
    memory_listener_add(&kvm->listener, memory);
    return true;
}

void kvm_memory_stop(KvmAccel *kvm)
{
    if (kvm->memory) {
        memory_listener_remove(&kvm->listener);
        kvm->memory = NULL;
    }
    if (kvm->slots) {
        g_array_unref(kvm->slots);
        kvm->slots = NULL;
    }
}
