/*
 * Interrupt controllers: who models which, and the ways to them. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "base/error.h"
#include "base/log.h"

#include <string.h>

#define MSR_TSC_DEADLINE 0x6e0u
#define IOAPIC_PINS      24u
#define MSI_ADDRESS      0xfee00000u

/* With the local APICs here, the kernel has to hand out their registers: x2APIC's MSRs, which it refuses, and
 * the TSC deadline, which it would take silently. */
static bool setup_off(KvmAccel *kvm, GError **error)
{
    static uint8_t denied[1];
    struct kvm_enable_cap cap = {
        .cap = KVM_CAP_X86_USER_SPACE_MSR,
        .args[0] = KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER,
    };
    struct kvm_msr_filter filter = {
        .flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
        .ranges[0] = { .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
                       .nmsrs = 1,
                       .base = MSR_TSC_DEADLINE,
                       .bitmap = denied },
    };

    if (kvm_check(kvm->vm_fd, KVM_CAP_X86_USER_SPACE_MSR) <= 0 ||
        kvm_check(kvm->vm_fd, KVM_CAP_X86_MSR_FILTER) <= 0) {
        error_set(error, "kernel-irqchip=off: this kernel's KVM cannot hand out model-specific registers");
        error_append_hint(error, "It needs Linux 5.10 or newer; kernel-irqchip=split works without.");
        return false;
    }
    int result = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap);
    if (result >= 0) {
        result = kvm_ioctl(kvm->vm_fd, KVM_X86_SET_MSR_FILTER, &filter);
    }
    if (result < 0) {
        return error_set_errno(error, -result,
                               "kernel-irqchip=off: KVM does not hand out model-specific registers");
    }
    return true;
}

/* ---- messages to the kernel's local APICs ---- */

/* As an MSI has it (SDM vol. 3 10.11), with the destination's upper bits in the upper half of the address. */
static void message_encode(const ApicMessage *m, uint32_t *low, uint32_t *high, uint32_t *data)
{
    *low = MSI_ADDRESS | (m->destination & 0xff) << 12 | (m->logical ? 1u << 2 : 0);
    *high = m->wide ? m->destination & 0xffffff00 : 0;
    *data = m->vector | (uint32_t)m->mode << 8 | (m->assert_ ? 1u << 14 : 0) | (m->level ? 1u << 15 : 0);
}

static void remote_deliver(void *opaque, const ApicMessage *m)
{
    KvmAccel *kvm = opaque;
    struct kvm_msi msi = { .flags = 0 };

    message_encode(m, &msi.address_lo, &msi.address_hi, &msi.data);
    int result = kvm_ioctl(kvm->vm_fd, KVM_SIGNAL_MSI, &msi); /* 0: the guest has blocked it */
    if (result < 0) {
        LOG(LOG_INT, "KVM does not take message %08x%08x %08x: %s", msi.address_hi, msi.address_lo, msi.data,
            g_strerror(-result));
    }
}

/* The kernel tells of the EOIs of those vectors only that it finds here as level-triggered. */
static void remote_pin(void *opaque, unsigned pin, const ApicMessage *m)
{
    KvmAccel *kvm = opaque;
    struct kvm_irq_routing_entry entry = { .gsi = pin, .type = KVM_IRQ_ROUTING_MSI };

    if (pin >= IOAPIC_PINS) {
        return;
    }
    if (m && m->level) {
        message_encode(m, &entry.u.msi.address_lo, &entry.u.msi.address_hi, &entry.u.msi.data);
    }
    g_mutex_lock(&kvm->route_lock);
    struct kvm_irq_routing_entry *old = &kvm->routes->entries[pin];
    if (old->type != entry.type || old->u.msi.address_lo != entry.u.msi.address_lo ||
        old->u.msi.address_hi != entry.u.msi.address_hi || old->u.msi.data != entry.u.msi.data) {
        *old = entry;
        int result = kvm_routes_write(kvm);
        if (result < 0) {
            log_error("KVM does not take the I/O APIC's routes: %s", g_strerror(-result));
        }
    }
    g_mutex_unlock(&kvm->route_lock);
}

static bool enable_split(KvmAccel *kvm, GError **error)
{
    struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = IOAPIC_PINS };

    if (kvm_check(kvm->vm_fd, KVM_CAP_SPLIT_IRQCHIP) <= 0) {
        error_set(error, "kernel-irqchip=split: this kernel's KVM cannot have the local APICs alone");
        error_append_hint(error, "It needs Linux 4.4 or newer; try kernel-irqchip=on or off.");
        return false;
    }
    int result = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &split);
    if (result < 0) {
        return error_set_errno(error, -result, "KVM cannot make local APICs");
    }
    if (!kvm_routes_start(kvm, IOAPIC_PINS, error)) {
        return false;
    }
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        kvm->routes->entries[i] = (struct kvm_irq_routing_entry){ .gsi = i, .type = KVM_IRQ_ROUTING_MSI };
    }
    result = kvm_routes_write(kvm);
    return result >= 0 || error_set_errno(error, -result, "KVM does not take interrupt routes");
}

/* Local APICs in the kernel. */
static bool setup_lapics(KvmAccel *kvm, GError **error)
{
    struct kvm_enable_cap x2apic = {
        .cap = KVM_CAP_X2APIC_API,
        .args[0] = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    };
    bool all = kvm->irqchip == KVM_IRQCHIP_ON;

    if (kvm_check(kvm->vm_fd, KVM_CAP_SIGNAL_MSI) <= 0 || kvm_check(kvm->vm_fd, KVM_CAP_X2APIC_API) <= 0) {
        error_set(error, "kernel-irqchip=%s: this kernel's KVM cannot be given messages",
                  all ? "on" : "split");
        error_append_hint(error, "It needs Linux 4.8 or newer; try kernel-irqchip=off.");
        return false;
    }
    if (!(all ? kvm_chips_setup(kvm, error) : enable_split(kvm, error))) {
        return false;
    }
    int result = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &x2apic);
    if (result < 0) {
        return error_set_errno(error, -result, "KVM's local APICs have no x2APIC");
    }
    kvm->remote = (ApicRemote){ .deliver = remote_deliver,
                                .pin = all ? NULL : remote_pin,
                                .route_new = kvm_route_new,
                                .route_send = kvm_route_send,
                                .route_free = kvm_route_free,
                                .chips = all ? &kvm->chips : NULL,
                                .opaque = kvm };
    apic_bus_set_remote(kvm->apic_bus, &kvm->remote);
    return true;
}

bool kvm_irqchip_setup(KvmAccel *kvm, GError **error)
{
    return kvm->irqchip == KVM_IRQCHIP_OFF ? setup_off(kvm, error) : setup_lapics(kvm, error);
}
