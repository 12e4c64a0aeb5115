/*
 * Interrupt controllers: who models which, and the ways to them. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "base/error.h"

#include <string.h>

#define MSR_TSC_DEADLINE 0x6e0u

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

bool kvm_irqchip_setup(KvmAccel *kvm, GError **error)
{
    return setup_off(kvm, error);
}
