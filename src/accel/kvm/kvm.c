/*
 * The accelerator "kvm": the object, its properties, its life. How a vCPU runs is in vcpu.c.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "accel/soft/interp/interp.h"
#include "accel/soft/interp/native.h"
#include "arch/x86/cpuid.h"
#include "base/error.h"
#include "base/log.h"
#include "object/property.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define DEVICE "/dev/kvm"
/* Four pages that Intel's processors want in the guest where nothing else is (KVM_SET_TSS_ADDR). */
#define IDENTITY_MAP UINT64_C(0xfeffc000)
#define TSS_PAGES    UINT64_C(0xfeffd000)

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
    int result;

    do {
        result = ioctl(fd, request, argument);
    } while (result < 0 && errno == EINTR && request != KVM_RUN);
    return result < 0 ? -errno : result;
}

int kvm_check(int fd, int capability)
{
    return kvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)capability);
}

static void kvm_instance_init(Object *obj)
{
    KvmAccel *kvm = (KvmAccel *)obj;

    kvm->fd = kvm->vm_fd = -1;
    kvm->rescue = true;
    g_mutex_init(&kvm->lock);
    g_mutex_init(&kvm->slot_lock);
    g_mutex_init(&kvm->route_lock);
    g_mutex_init(&kvm->flush_lock);
    g_cond_init(&kvm->flushed);
    kvm->vcpus = g_ptr_array_new();
}

static void kvm_instance_finalize(Object *obj)
{
    KvmAccel *kvm = (KvmAccel *)obj;

    if (kvm->vm_fd >= 0) {
        close(kvm->vm_fd);
    }
    if (kvm->fd >= 0) {
        close(kvm->fd);
    }
    g_ptr_array_unref(kvm->vcpus);
    kvm_routes_free(kvm);
    g_cond_clear(&kvm->flushed);
    g_mutex_clear(&kvm->flush_lock);
    g_mutex_clear(&kvm->route_lock);
    g_mutex_clear(&kvm->slot_lock);
    g_mutex_clear(&kvm->lock);
}

static bool kvm_available(GError **error)
{
    int fd = kvm_open(DEVICE, error);

    if (fd < 0) {
        return false;
    }
    close(fd);
    return true;
}

static bool kvm_preferred(GError **error)
{
    int fd = kvm_open(DEVICE, error);

    if (fd < 0) {
        return false;
    }
    bool native = kvm_runs_natively(fd, NULL, error);
    close(fd);
    return native;
}

static bool parse_irqchip(KvmAccel *kvm, GError **error)
{
    const char *name = kvm->irqchip_name;

    if (!name || strcmp(name, "split") == 0) {
        kvm->irqchip = KVM_IRQCHIP_SPLIT;
    } else if (strcmp(name, "on") == 0) {
        kvm->irqchip = KVM_IRQCHIP_ON;
    } else if (strcmp(name, "off") == 0) {
        kvm->irqchip = KVM_IRQCHIP_OFF;
    } else {
        return error_set(error, "-accel kvm: kernel-irqchip=%s is none of on, split and off", name);
    }
    return true;
}

static bool make_vm(KvmAccel *kvm, GError **error)
{
    kvm->fd = kvm_open(kvm->device ? kvm->device : DEVICE, error);
    if (kvm->fd < 0) {
        return false;
    }
    kvm->vm_fd = kvm_ioctl(kvm->fd, KVM_CREATE_VM, NULL);
    if (kvm->vm_fd < 0) {
        int why = -kvm->vm_fd;
        if (why == EBUSY) {
            error_set(error, "cannot use KVM: another hypervisor has the processor's virtualisation");
            error_append_hint(error, "Stop it (VirtualBox, VMware), or use -accel tcg.");
        } else {
            error_set_errno(error, why, "KVM cannot make a virtual machine");
        }
        return false;
    }
    uint64_t identity = IDENTITY_MAP;
    int result = kvm_check(kvm->vm_fd, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0
                     ? kvm_ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity)
                     : 0;
    if (result >= 0 && kvm_check(kvm->vm_fd, KVM_CAP_SET_TSS_ADDR) > 0) {
        result = kvm_ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)TSS_PAGES);
    }
    if (result < 0) {
        return error_set_errno(error, -result, "KVM does not take the place of its own pages in the guest");
    }
    int size = kvm_ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (size < (int)sizeof(struct kvm_run)) {
        return error_set(error, "KVM says that a vCPU's page has %d bytes", size);
    }
    kvm->run_size = (size_t)size;
    return true;
}

static bool kvm_setup(Accel *accel, AddressSpace *memory, ApicBus *apic_bus, GError **error)
{
    KvmAccel *kvm = (KvmAccel *)accel;

    kvm->apic_bus = apic_bus;
    if (!native_init(error) || !parse_irqchip(kvm, error) || !make_vm(kvm, error)) {
        return false;
    }
    kvm->has_debugregs = kvm_check(kvm->vm_fd, KVM_CAP_DEBUGREGS) > 0;
    kvm->has_xcrs = kvm_check(kvm->vm_fd, KVM_CAP_XCRS) > 0;
    kvm->has_adjust_clock = kvm_check(kvm->vm_fd, KVM_CAP_ADJUST_CLOCK) > 0;
    if (kvm_check(kvm->vm_fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE) > 0 && kvm->rescue) {
        /* Of programs' instructions, too; else they would get #UD. */
        struct kvm_enable_cap cap = { .cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args[0] = 1 };
        int result = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap);
        if (result < 0) {
            return error_set_errno(error, -result,
                                   "KVM does not hand out instructions that it cannot emulate");
        }
    }
    return kvm_irqchip_setup(kvm, error) && kvm_dirty_setup(kvm, error) && kvm_probe_cpuid(kvm, error) &&
           kvm_memory_start(kvm, memory, error);
}

static void kvm_teardown(Accel *accel)
{
    kvm_eventfd_stop((KvmAccel *)accel);
    kvm_memory_stop((KvmAccel *)accel);
}

/* ---- vCPUs ---- */

static void vcpu_free(KvmVcpu *v)
{
    kvm_dirty_unmap_ring(v);
    if (v->run) {
        munmap(v->run, v->kvm->run_size);
    }
    if (v->fd >= 0) {
        close(v->fd);
    }
    v->cpu->kvm = NULL;
    g_free(v);
}

/* The kernel's TSC runs at the host's rate unless the user wants another. */
static bool setup_tsc(KvmVcpu *v, GError **error)
{
    X86Cpu *cpu = v->cpu;
    int host_khz = kvm_ioctl(v->fd, KVM_GET_TSC_KHZ, NULL);

    if (cpu->cpuid->tsc_hz && (int)cpu->tsc_khz != host_khz) {
        int result = kvm_ioctl(v->fd, KVM_SET_TSC_KHZ, (void *)(uintptr_t)cpu->tsc_khz);
        if (result < 0) {
            return error_set_errno(
                error, -result, "CPU %u: this host cannot run a guest's TSC at %" PRIu64 " kHz (its own: %d)",
                cpu->index, cpu->tsc_khz, host_khz);
        }
    } else if (host_khz > 0) {
        cpu->tsc_khz = (uint64_t)host_khz;
    }
    return true;
}

static void setup_mce(KvmVcpu *v)
{
    uint64_t supported = 0,
             wanted = UINT64_C(0x1000100) | 10; /* MCG_CTL_P, SER_P, ten banks: arch/x86/msr.c */

    if (kvm_ioctl(v->kvm->fd, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported) < 0) {
        return; /* then the guest's bank registers are the kernel's own choice */
    }
    uint64_t capability = (wanted & supported & ~UINT64_C(0xff)) | MIN(supported & 0xff, wanted & 0xff);
    if (kvm_ioctl(v->fd, KVM_X86_SETUP_MCE, &capability) < 0) {
        LOG(LOG_UNIMP, "cpu %u: KVM does not take machine check banks", v->cpu->index);
    }
}

static bool kvm_vcpu_init(Accel *accel, X86Cpu *cpu, GError **error)
{
    KvmAccel *kvm = (KvmAccel *)accel;
    KvmVcpu *v = g_new0(KvmVcpu, 1);

    v->kvm = kvm;
    v->cpu = cpu;
    v->here = true;
    cpu->kvm = v;
    v->fd = kvm_ioctl(kvm->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)cpu->apic_id);
    if (v->fd < 0) {
        error_set_errno(error, -v->fd, "CPU %u: KVM cannot make a vCPU", cpu->index);
        vcpu_free(v);
        return false;
    }
    void *run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (run == MAP_FAILED) {
        error_set_errno(error, errno, "CPU %u: cannot map what the kernel shares of it", cpu->index);
        vcpu_free(v);
        return false;
    }
    v->run = run;
    setup_mce(v);
    if (!kvm_dirty_map_ring(v, error) || !setup_tsc(v, error) || !kvm_set_cpuid(v, error)) {
        vcpu_free(v);
        return false;
    }
    interp_vcpu_init(cpu);
    interp_keep_nothing(cpu);
    kvm_eventfd_listen_ports(kvm, cpu->env.io);
    g_mutex_lock(&kvm->lock);
    g_ptr_array_add(kvm->vcpus, v);
    g_mutex_unlock(&kvm->lock);
    return true;
}

static void kvm_vcpu_destroy(Accel *accel, X86Cpu *cpu)
{
    KvmAccel *kvm = (KvmAccel *)accel;
    KvmVcpu *v = kvm_vcpu(cpu);

    if (!v) {
        return;
    }
    g_mutex_lock(&kvm->lock);
    g_ptr_array_remove(kvm->vcpus, v);
    g_mutex_unlock(&kvm->lock);
    interp_vcpu_destroy(cpu);
    vcpu_free(v);
}

/* ---- for people ---- */

static unsigned used_routes(KvmAccel *kvm)
{
    unsigned count = 0;

    g_mutex_lock(&kvm->route_lock);
    for (unsigned i = 0; kvm->routes && i < kvm->message_routes; i++) {
        count += kvm->route_used[i];
    }
    g_mutex_unlock(&kvm->route_lock);
    return count;
}

static char *kvm_info(Accel *accel)
{
    static const char *const where[] = {
        [KVM_IRQCHIP_OFF] = "here",
        [KVM_IRQCHIP_SPLIT] = "local APICs in the kernel, the others here",
        [KVM_IRQCHIP_ON] = "in the kernel",
    };
    KvmAccel *kvm = (KvmAccel *)accel;
    GString *text = g_string_new(NULL);

    g_mutex_lock(&kvm->lock);
    g_string_append_printf(text, "interrupt controllers: %s\n", where[kvm->irqchip]);
    g_string_append_printf(text, "in the kernel: %d doorbells, %u messages\n", kvm->doorbells,
                           used_routes(kvm));
    if (kvm->vcpus->len) {
        const KvmVcpu *first = kvm->vcpus->pdata[0];
        g_string_append_printf(text, "TSC: %" PRIu64 " kHz\n", first->cpu->tsc_khz);
    }
    for (guint i = 0; i < kvm->vcpus->len; i++) {
        const KvmVcpu *v = kvm->vcpus->pdata[i];
        g_string_append_printf(text,
                               "CPU #%u: exits %" PRIu64 ": ports %" PRIu64 ", memory %" PRIu64
                               ", halts %" PRIu64 "\n        rescued instructions: %" PRIu64 " (%" PRIu64
                               " faulted), %" PRIu64 " us: ",
                               v->cpu->index, v->exits, v->io_exits, v->mmio_exits, v->halts, v->rescued,
                               v->rescue_faults, v->rescue_ns / 1000);
        kvm_rescue_describe(v, text);
        g_string_append_c(text, '\n');
    }
    g_mutex_unlock(&kvm->lock);
    return g_string_free(text, FALSE);
}

static uint64_t kvm_rescued(Accel *accel)
{
    KvmAccel *kvm = (KvmAccel *)accel;
    uint64_t sum = 0;

    g_mutex_lock(&kvm->lock);
    for (guint i = 0; i < kvm->vcpus->len; i++) {
        sum += __atomic_load_n(&((KvmVcpu *)kvm->vcpus->pdata[i])->rescued, __ATOMIC_RELAXED);
    }
    g_mutex_unlock(&kvm->lock);
    return sum;
}

static const Property kvm_properties[] = {
    PROP_STR("kernel-irqchip", KvmAccel, irqchip_name, NULL,
             "split: the kernel has the local APICs; on: the 8259, the I/O APIC and the 8254, too; off: all "
             "interrupt controllers are modelled here"),
    PROP_UINT32("dirty-ring-size", KvmAccel, ring_size, 0,
                "entries of each vCPU's ring of written pages, a power of two (default 0: a bitmap for each "
                "piece of memory)"),
    PROP_STR("device", KvmAccel, device, NULL, "KVM's device, instead of /dev/kvm"),
    PROP_BOOL("rescue", KvmAccel, rescue, true,
              "run instructions that the kernel cannot emulate on the software CPU"),
    PROP_END,
};

static void kvm_class_init(ObjectClass *klass, const void *data)
{
    AccelClass *accel = (AccelClass *)klass;

    accel->name = "kvm";
    accel->available = kvm_available;
    accel->preferred = kvm_preferred;
    accel->rescued = kvm_rescued;
    accel->setup = kvm_setup;
    accel->teardown = kvm_teardown;
    accel->vcpu_init = kvm_vcpu_init;
    accel->vcpu_destroy = kvm_vcpu_destroy;
    accel->vcpu_exec = kvm_vcpu_exec;
    accel->vcpu_kick = kvm_vcpu_kick;
    accel->vcpu_sync = kvm_vcpu_sync;
    accel->vcpu_wakes = kvm_vcpu_wakes;
    accel->info = kvm_info;
    object_class_add_properties(klass, kvm_properties);
}

static const TypeInfo kvm_accel_info = {
    .name = TYPE_KVM_ACCEL,
    .parent = TYPE_ACCEL,
    .description = "Linux's KVM: the host's processor runs the guest",
    .instance_size = sizeof(KvmAccel),
    .instance_init = kvm_instance_init,
    .instance_finalize = kvm_instance_finalize,
    .class_init = kvm_class_init,
};
TYPE_REGISTER(kvm_accel_info);
