/*
 * What this host's KVM can do: whether it is there at all, whether it runs a guest's kernel natively, which
 * CPU features it has. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "arch/x86/cpuid.h"
#include "base/error.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define API_VERSION           12
#define MSR_ARCH_CAPABILITIES 0x10au

/* ---- is it there ---- */

/* What the processor that we see has for it, in a word; NULL: nothing. */
static const char *hardware(void)
{
    uint32_t a, b, c = 0, d;

    if (__get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 5)) {
        return "VT-x";
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d) && (c & 1u << 2)) {
        return "AMD-V";
    }
    return NULL;
}

static void explain_missing(const char *device, GError **error)
{
    const char *have = hardware();
    uint32_t a, b, c = 0, d;
    bool guest = __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 31);

    if (have) {
        error_set(error, "cannot use KVM: %s does not exist, although the processor has %s", device, have);
        error_append_hint(error,
                          "Load the module (modprobe %s); in a container, pass the device in (--device %s). "
                          "-accel tcg needs neither.",
                          strcmp(have, "VT-x") == 0 ? "kvm_intel" : "kvm_amd", device);
    } else {
        error_set(error, "cannot use KVM: %s does not exist, and the processor shows neither VT-x nor AMD-V",
                  device);
        error_append_hint(
            error, guest ? "This host is itself a virtual machine: nested virtualisation has to be turned on "
                           "for it. -accel tcg, the software CPU, works anywhere."
                         : "Turn virtualisation on in the firmware's setup. -accel tcg, the software CPU, "
                           "works anywhere.");
    }
}

int kvm_open(const char *device, GError **error)
{
    int fd = open(device, O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        int why = errno;
        if (why == ENOENT) {
            explain_missing(device, error);
        } else if (why == EACCES || why == EPERM) {
            error_set(error, "cannot use KVM: no permission to open %s", device);
            error_append_hint(error,
                              "Become a member of the group that owns it (usermod -aG kvm USER, then log in "
                              "again), or use -accel tcg.");
        } else if (why == ENODEV || why == ENXIO) {
            error_set(error, "cannot use KVM: %s exists, but no KVM module serves it", device);
            error_append_hint(error,
                              "Load kvm_intel or kvm_amd and look at what dmesg says; virtualisation may be "
                              "off in the firmware's setup. -accel tcg works anywhere.");
        } else {
            error_set_errno(error, why, "cannot use KVM: cannot open %s", device);
        }
        return -1;
    }
    int version = kvm_ioctl(fd, KVM_GET_API_VERSION, NULL);
    if (version != API_VERSION) {
        if (version < 0) {
            error_set(error, "cannot use KVM: %s is no KVM device", device);
        } else {
            error_set(error, "cannot use KVM: the kernel speaks version %d of its interface, not %d", version,
                      API_VERSION);
        }
        error_append_hint(error, "Use -accel tcg.");
        close(fd);
        return -1;
    }
    static const struct {
        int capability;
        const char *name;
    } needed[] = {
        { KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
        { KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
        { KVM_CAP_XSAVE, "KVM_CAP_XSAVE" },
        { KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
        { KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
        { KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(needed); i++) {
        if (kvm_check(fd, needed[i].capability) <= 0) {
            error_set(error, "cannot use KVM: the kernel's lacks %s", needed[i].name);
            error_append_hint(error,
                              "A newer kernel has it (Linux 4.13 or later). -accel tcg works with this one.");
            close(fd);
            return -1;
        }
    }
    return fd;
}

/* ---- does it run kernel code ---- */

#define LOOP_COUNT        2000u
#define EMULATED_NS       50.0 /* an instruction of a simple loop takes less than a nanosecond on a processor */
#define MEASURE_MEMORY    4096u
#define MEASURE_CODE_BASE 0x1000u

static double monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* Runs the loop in flat 32-bit protected mode. */
static bool measure(int vcpu_fd, struct kvm_run *run, double *ns, GError **error)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = MEASURE_CODE_BASE, .rflags = 2 };
    int result = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &sregs);

    if (result >= 0) {
        struct kvm_segment data = {
            .limit = UINT32_MAX, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1
        };
        sregs.cr0 |= CR0_PE;
        sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
        data.type = 11;
        data.selector = 8;
        sregs.cs = data;
        result = kvm_ioctl(vcpu_fd, KVM_SET_SREGS, &sregs);
    }
    if (result >= 0) {
        result = kvm_ioctl(vcpu_fd, KVM_SET_REGS, &regs);
    }
    double best = 0;
    for (int round = 0; round < 3 && result >= 0; round++) { /* the first one pays for page tables */
        double start = monotonic_ns();
        result = kvm_ioctl(vcpu_fd, KVM_RUN, NULL);
        double took = monotonic_ns() - start;
        if (result >= 0 && run->exit_reason != KVM_EXIT_IO) {
            return error_set(error, "KVM cannot run a simple loop (exit reason %u)", run->exit_reason);
        }
        best = round == 0 || took < best ? took : best;
    }
    if (result < 0) {
        return error_set_errno(error, -result, "KVM cannot run a simple loop");
    }
    *ns = best / (2.0 * LOOP_COUNT);
    return true;
}

bool kvm_runs_natively(int fd, double *ns_per_insn, GError **error)
{
    static const uint8_t code[] = {
        0xb9,
        LOOP_COUNT & 0xff,
        LOOP_COUNT >> 8,
        0,
        0,    /* start: mov ecx, LOOP_COUNT */
        0x49, /* again: dec ecx */
        0x75,
        0xfd, /* jnz again */
        0xe6,
        0x80, /* out 0x80, al: an exit */
        0xeb,
        0xf4, /* jmp start */
    };
    int vm_fd = kvm_ioctl(fd, KVM_CREATE_VM, NULL), vcpu_fd = -1;
    int run_size = kvm_ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    struct kvm_run *run = MAP_FAILED;
    double ns = 0;
    bool ok = false;

    uint8_t *memory = mmap(NULL, MEASURE_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (vm_fd >= 0 && run_size > 0 && memory != MAP_FAILED) {
        struct kvm_userspace_memory_region region = {
            .guest_phys_addr = MEASURE_CODE_BASE,
            .memory_size = MEASURE_MEMORY,
            .userspace_addr = (uint64_t)(uintptr_t)memory,
        };
        uint64_t identity = 0xfeffc000;
        memcpy(memory, code, sizeof(code));
        kvm_ioctl(vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
        kvm_ioctl(vm_fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)0xfeffd000);
        vcpu_fd = kvm_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0
                      ? -1
                      : kvm_ioctl(vm_fd, KVM_CREATE_VCPU, NULL);
        if (vcpu_fd >= 0) {
            run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
        }
    }
    if (run == MAP_FAILED) {
        error_set(error, "KVM cannot make a virtual machine");
    } else {
        ok = measure(vcpu_fd, run, &ns, error);
        munmap(run, (size_t)run_size);
    }
    if (ns_per_insn) {
        *ns_per_insn = ns;
    }
    if (vcpu_fd >= 0) {
        close(vcpu_fd);
    }
    if (vm_fd >= 0) {
        close(vm_fd);
    }
    if (memory != MAP_FAILED) {
        munmap(memory, MEASURE_MEMORY);
    }
    if (ok && ns > EMULATED_NS) {
        return error_set(
            error,
            "this host's KVM runs kernel code in an emulator (%.0f ns an instruction): the software CPU "
            "is faster",
            ns);
    }
    return ok;
}

/* ---- CPUID ---- */

typedef struct CpuidList {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[KVM_CPUID_MAX * 2];
} CpuidList;

static const struct kvm_cpuid_entry2 *cpuid_find(const CpuidList *list, uint32_t leaf, uint32_t subleaf)
{
    static const struct kvm_cpuid_entry2 none;

    for (uint32_t i = 0; i < list->head.nent; i++) {
        const struct kvm_cpuid_entry2 *e = &list->entries[i];
        if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf)) {
            return e;
        }
    }
    return &none;
}

bool kvm_probe_cpuid(KvmAccel *kvm, GError **error)
{
    g_autofree CpuidList *list = g_new0(CpuidList, 1);
    uint32_t words[FEATURE_WORDS] = { 0 };

    list->head.nent = G_N_ELEMENTS(list->entries);
    int result = kvm_ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, list);
    if (result < 0) {
        return error_set_errno(error, -result, "KVM does not say which CPU features it has");
    }
    words[FEAT_1_EDX] = cpuid_find(list, 1, 0)->edx;
    words[FEAT_1_ECX] = cpuid_find(list, 1, 0)->ecx | CPUID_EXT_HYPERVISOR;
    words[FEAT_7_0_EBX] = cpuid_find(list, 7, 0)->ebx;
    /* PKRU would have to travel with the vector registers. */
    words[FEAT_7_0_ECX] = cpuid_find(list, 7, 0)->ecx & ~(CPUID_7C_PKU | CPUID_7C_PKS);
    words[FEAT_7_0_EDX] = cpuid_find(list, 7, 0)->edx;
    words[FEAT_7_1_EAX] = cpuid_find(list, 7, 1)->eax;
    words[FEAT_8000_0001_EDX] = cpuid_find(list, 0x80000001, 0)->edx;
    words[FEAT_8000_0001_ECX] = cpuid_find(list, 0x80000001, 0)->ecx;
    words[FEAT_8000_0007_EDX] = cpuid_find(list, 0x80000007, 0)->edx;
    words[FEAT_8000_0008_EBX] = cpuid_find(list, 0x80000008, 0)->ebx;
    words[FEAT_8000_0021_EAX] = cpuid_find(list, 0x80000021, 0)->eax;
    words[FEAT_XSAVE] = cpuid_find(list, 0xd, 1)->eax;
    words[FEAT_6_EAX] = cpuid_find(list, 6, 0)->eax;
    words[FEAT_KVM] = cpuid_find(list, 0x40000001, 0)->eax;
    words[FEAT_KVM_HINTS] = cpuid_find(list, 0x40000001, 0)->edx;
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } capabilities = { .head.nmsrs = 1, .entry.index = MSR_ARCH_CAPABILITIES };
    if (kvm_ioctl(kvm->fd, KVM_GET_MSRS, &capabilities) == 1) {
        words[FEAT_ARCH_CAPABILITIES] = (uint32_t)capabilities.entry.data;
    }
    /* The TSC deadline timer is the local APIC's, whoever models that. */
    words[FEAT_1_ECX] |= CPUID_EXT_TSC_DEADLINE | CPUID_EXT_X2APIC;
    cpuid_set_accelerator(words);
    return true;
}

static void cpuid_add(X86Cpu *cpu, CpuidList *list, uint32_t leaf, uint32_t subleaf, bool indexed)
{
    uint32_t out[4];

    if (list->head.nent >= KVM_CPUID_MAX) {
        return;
    }
    cpuid_leaf(cpu, leaf, subleaf, out);
    list->entries[list->head.nent++] = (struct kvm_cpuid_entry2){
        .function = leaf,
        .index = subleaf,
        .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
        .eax = out[0],
        .ebx = out[1],
        .ecx = out[2],
        .edx = out[3],
    };
}

bool kvm_set_cpuid(KvmVcpu *v, GError **error)
{
    static const struct {
        uint32_t leaf, subleaves;
    } indexed[] = { { 4, 5 }, { 7, 2 }, { 0xb, 3 }, { 0xd, 8 }, { 0x8000001d, 5 } };
    X86Cpu *cpu = v->cpu;
    g_autofree CpuidList *list = g_new0(CpuidList, 1);
    const uint32_t ranges[][2] = { { 0, MIN(cpu->cpuid->level, 0x1f) },
                                   { 0x40000000, 0x40000001 },
                                   { 0x80000000, MIN(cpu->cpuid->xlevel, 0x80000021) } };

    for (size_t r = 0; r < G_N_ELEMENTS(ranges); r++) {
        for (uint32_t leaf = ranges[r][0]; leaf <= ranges[r][1]; leaf++) {
            uint32_t subleaves = 0;
            for (size_t i = 0; i < G_N_ELEMENTS(indexed); i++) {
                subleaves = indexed[i].leaf == leaf ? indexed[i].subleaves : subleaves;
            }
            for (uint32_t i = 0; i < MAX(subleaves, 1); i++) {
                cpuid_add(cpu, list, leaf, i, subleaves > 0);
            }
        }
    }
    int result = kvm_ioctl(v->fd, KVM_SET_CPUID2, list);
    if (result < 0) {
        return error_set_errno(error, -result, "CPU %u: KVM does not take the CPU model", cpu->index);
    }
    return true;
}
