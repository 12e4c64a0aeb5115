/*
 * What goes between guest and devices without a stop here. A write that only rings a notifier does so in the
 * kernel (ioeventfd); a message that is sent again and again has a route of its own, and is sent by a write
 * to its eventfd (irqfd), which other processes and kernel threads can be given, too.
 *
 * Where the kernel takes no more of either, accesses come here and messages go one by one, as without.
 *
 * Threads: listeners run under the topology lock; route_lock is a leaf. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "base/error.h"
#include "base/log.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FROM_MEMBER(l, member) ((KvmAccel *)((uint8_t *)(l)-offsetof(KvmAccel, member)))

struct ApicRoute {
    KvmAccel *kvm;
    unsigned gsi;
    int fd;
    uint64_t address; /* what the route says; valid once `set` */
    uint32_t data;
    bool set;
};

/* ---- writes that ring ---- */

static void eventfd_set(KvmAccel *kvm, bool ports, const MemoryIoeventfd *e, bool on)
{
    struct kvm_ioeventfd request = {
        .datamatch = e->data,
        .addr = e->offset,
        .len = e->size,
        .fd = e->notifier->fd,
        .flags = (ports ? KVM_IOEVENTFD_FLAG_PIO : 0) | (e->match_data ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };

    if (e->size == 0 && (e->match_data || !kvm->has_any_length)) {
        return;
    }
    int result = kvm_ioctl(kvm->vm_fd, KVM_IOEVENTFD, &request);
    if (result >= 0) {
        kvm->doorbells += on ? 1 : -1;
    } else if (on) {
        LOG(LOG_UNIMP, "KVM does not ring for writes to %s 0x%" PRIx64 ": %s", ports ? "port" : "address",
            e->offset, g_strerror(-result));
    }
}

static void memory_eventfd_add(MemoryListener *l, const MemoryIoeventfd *e)
{
    eventfd_set(FROM_MEMBER(l, listener), false, e, true);
}

static void memory_eventfd_del(MemoryListener *l, const MemoryIoeventfd *e)
{
    eventfd_set(FROM_MEMBER(l, listener), false, e, false);
}

static void ports_eventfd_add(MemoryListener *l, const MemoryIoeventfd *e)
{
    eventfd_set(FROM_MEMBER(l, ports_listener), true, e, true);
}

static void ports_eventfd_del(MemoryListener *l, const MemoryIoeventfd *e)
{
    eventfd_set(FROM_MEMBER(l, ports_listener), true, e, false);
}

void kvm_eventfd_listen_memory(KvmAccel *kvm)
{
    if (kvm_check(kvm->vm_fd, KVM_CAP_IOEVENTFD) > 0) {
        kvm->has_any_length = kvm_check(kvm->vm_fd, KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0;
        kvm->listener.eventfd_add = memory_eventfd_add;
        kvm->listener.eventfd_del = memory_eventfd_del;
    }
}

void kvm_eventfd_listen_ports(KvmAccel *kvm, AddressSpace *io)
{
    if (!kvm->ports_listener.as && kvm_check(kvm->vm_fd, KVM_CAP_IOEVENTFD) > 0) {
        kvm->ports_listener = (MemoryListener){ .name = "kvm-ports",
                                                .eventfd_add = ports_eventfd_add,
                                                .eventfd_del = ports_eventfd_del };
        memory_listener_add(&kvm->ports_listener, io);
    }
}

void kvm_eventfd_stop(KvmAccel *kvm)
{
    if (kvm->ports_listener.as) {
        memory_listener_remove(&kvm->ports_listener);
    }
}

/* ---- the table of routes ---- */

bool kvm_routes_start(KvmAccel *kvm, unsigned fixed, GError **error)
{
    int most = kvm_check(kvm->vm_fd, KVM_CAP_IRQ_ROUTING);
    bool messages = kvm_check(kvm->vm_fd, KVM_CAP_IRQFD) > 0 && most > (int)KVM_FIRST_MESSAGE_GSI;

    kvm->message_routes = messages ? MIN((unsigned)most - KVM_FIRST_MESSAGE_GSI, KVM_MESSAGE_ROUTES_MAX) : 0;
    kvm->routes =
        g_malloc0(sizeof(*kvm->routes) + (fixed + kvm->message_routes) * sizeof(kvm->routes->entries[0]));
    kvm->fixed_routes = kvm->routes->nr = fixed;
    kvm->route_used = g_new0(bool, kvm->message_routes + 1);
    return true;
}

int kvm_routes_write(KvmAccel *kvm)
{
    return kvm_ioctl(kvm->vm_fd, KVM_SET_GSI_ROUTING, kvm->routes);
}

void kvm_routes_free(KvmAccel *kvm)
{
    g_clear_pointer(&kvm->routes, g_free);
    g_clear_pointer(&kvm->route_used, g_free);
}

/* ---- messages with a route of their own ---- */

static bool take_gsi(KvmAccel *kvm, unsigned *index)
{
    for (unsigned i = 0; i < kvm->message_routes; i++) {
        if (!kvm->route_used[i]) {
            kvm->route_used[i] = true;
            *index = i;
            return true;
        }
    }
    return false;
}

static int route_connect(ApicRoute *r, bool on)
{
    struct kvm_irqfd request = { .fd = (uint32_t)r->fd,
                                 .gsi = r->gsi,
                                 .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN };

    return kvm_ioctl(r->kvm->vm_fd, KVM_IRQFD, &request);
}

/* The table has no holes up to nr: a number that is not used says nothing that anybody sends. */
static int route_write(ApicRoute *r, uint64_t address, uint32_t data)
{
    KvmAccel *kvm = r->kvm;
    unsigned place = kvm->fixed_routes + r->gsi - KVM_FIRST_MESSAGE_GSI;

    while (kvm->routes->nr <= place) {
        kvm->routes->entries[kvm->routes->nr] = (struct kvm_irq_routing_entry){
            .gsi = KVM_FIRST_MESSAGE_GSI + kvm->routes->nr - kvm->fixed_routes, .type = KVM_IRQ_ROUTING_MSI
        };
        kvm->routes->nr++;
    }
    struct kvm_irq_routing_msi *msi = &kvm->routes->entries[place].u.msi;
    msi->address_lo = (uint32_t)address;
    msi->address_hi = (uint32_t)(address >> 32);
    msi->data = data;
    return kvm_routes_write(kvm);
}

ApicRoute *kvm_route_new(void *opaque)
{
    KvmAccel *kvm = opaque;
    unsigned index = 0;

    g_mutex_lock(&kvm->route_lock);
    bool found = take_gsi(kvm, &index);
    g_mutex_unlock(&kvm->route_lock);
    if (!found) {
        return NULL;
    }
    ApicRoute *r = g_new0(ApicRoute, 1);
    r->kvm = kvm;
    r->gsi = KVM_FIRST_MESSAGE_GSI + index;
    r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->fd < 0) {
        kvm_route_free(r);
        return NULL;
    }
    return r;
}

bool kvm_route_send(ApicRoute *r, uint64_t address, uint32_t data)
{
    uint64_t one = 1;

    if (!r->set || r->address != address || r->data != data) {
        g_mutex_lock(&r->kvm->route_lock);
        int result = route_write(r, address, data);
        if (result >= 0 && !r->set) {
            result = route_connect(r, true);
        }
        g_mutex_unlock(&r->kvm->route_lock);
        if (result < 0) {
            return false;
        }
        r->set = true;
        r->address = address;
        r->data = data;
    }
    return write(r->fd, &one, sizeof(one)) == sizeof(one);
}

void kvm_route_free(ApicRoute *r)
{
    if (r->set && route_connect(r, false) < 0) {
        log_warning("KVM does not let go of an interrupt's eventfd");
    }
    if (r->fd >= 0) {
        close(r->fd);
    }
    g_mutex_lock(&r->kvm->route_lock);
    r->kvm->route_used[r->gsi - KVM_FIRST_MESSAGE_GSI] = false;
    g_mutex_unlock(&r->kvm->route_lock);
    g_free(r);
}
