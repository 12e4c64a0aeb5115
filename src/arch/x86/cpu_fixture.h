/*
 * For the unit tests of this folder: a vCPU with 16 MiB of RAM at 0 and nothing else.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_CPU_FIXTURE_H
#define RHEA_ARCH_X86_CPU_FIXTURE_H

#include "arch/x86/apic.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/mmu.h"
#include "arch/x86/segment.h"
#include "arch/x86/system.h"

#define FIXTURE_RAM_SIZE (16u << 20)

typedef struct CpuFixture {
    MemoryRegion root, ram;
    AddressSpace *memory;
    ApicBus *bus;
    ClockSet *clocks;
    X86Cpu *cpu;
    bool reset_requested;
} CpuFixture;

static inline void fixture_reset_request(void *opaque)
{
    ((CpuFixture *)opaque)->reset_requested = true;
}

static inline void fixture_setup(CpuFixture *f, gconstpointer data)
{
    GError *error = NULL;

    memory_region_init(&f->root, NULL, "root", UINT64_MAX);
    g_assert_true(memory_region_init_ram(&f->ram, NULL, "ram", FIXTURE_RAM_SIZE, &error));
    memory_region_add(&f->root, 0, &f->ram);
    f->memory = address_space_new(&f->root, "memory");
    f->bus = apic_bus_new();
    f->clocks = clock_set_new();
    f->cpu = X86_CPU(object_new_known("max-" TYPE_X86_CPU));
    X86CpuEnv env = {
        .memory = f->memory,
        .io = f->memory,
        .apic_bus = f->bus,
        .clocks = f->clocks,
        .request_reset = fixture_reset_request,
        .opaque = f,
    };
    g_assert_true(x86_cpu_realize(f->cpu, &env, &error));
    g_assert_no_error(error);
    mmu_process_pending(f->cpu);
}

static inline void fixture_teardown(CpuFixture *f, gconstpointer data)
{
    x86_cpu_unrealize(f->cpu);
    object_unref(OBJECT(f->cpu));
    apic_bus_free(f->bus);
    clock_set_free(f->clocks);
    address_space_free(f->memory);
    memory_region_destroy(&f->ram);
    memory_region_destroy(&f->root);
}

static inline void poke(CpuFixture *f, uint64_t gpa, unsigned size, uint64_t value)
{
    g_assert_cmpint(address_space_write(f->memory, gpa, MEMTXATTRS_NONE, &value, size), ==, MEMTX_OK);
}

static inline uint64_t peek(CpuFixture *f, uint64_t gpa, unsigned size)
{
    uint64_t value = 0;

    g_assert_cmpint(address_space_read(f->memory, gpa, MEMTXATTRS_NONE, &value, size), ==, MEMTX_OK);
    return value;
}

/* Runs code that may raise; the vector, or -1. */
#define CATCH(cpu, ...)                    \
    ({                                     \
        sigjmp_buf catch_;                 \
        volatile int vector_ = -1;         \
        if (sigsetjmp(catch_, 0) == 0) {   \
            (cpu)->fault_return = &catch_; \
            __VA_ARGS__;                   \
        } else {                           \
            vector_ = (cpu)->exc.vector;   \
        }                                  \
        (cpu)->fault_return = NULL;        \
        vector_;                           \
    })

#endif
