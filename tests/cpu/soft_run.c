/*
 * See soft_run.h. One megabyte of guest RAM: page tables from 0, the code page and the data pages behind
 * them; linear addresses are the host side's. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "soft_run.h"

#include "accel/soft/jit/tcg.h"

#include "accel/soft/interp/interp.h"
#include "accel/soft/interp/native.h"
#include "arch/x86/apic.h"
#include "arch/x86/cpu.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/mmu.h"
#include "mem/memory.h"

#include <string.h>

#define RAM_BYTES 0x100000u
#define GPA_CODE  0x10000u
#define GPA_DATA  0x20000u
#define PTE_P     1u
#define PTE_RW    2u
#define PTE_US    4u
#define PTE_AD    0x60u

static X86Cpu *cpu;
static RamBlock *ram;
static char failure[256];

static void put64(uint64_t gpa, uint64_t value)
{
    memcpy(ram->host + gpa, &value, 8);
}

/* A 4 KiB page; tables are taken from 0x1000 on (the top one is at 0x1000). */
static void map(uint64_t linear, uint64_t gpa, bool present, bool writable)
{
    static uint64_t next_table = 0x2000;
    uint64_t table = 0x1000;
    for (int level = 3; level > 0; level--) {
        uint64_t at = table + (linear >> (12 + level * 9) & 511) * 8, entry;
        memcpy(&entry, ram->host + at, 8);
        if (!entry) {
            entry = next_table | PTE_P | PTE_RW | PTE_US | PTE_AD;
            next_table += CASE_PAGE;
            put64(at, entry);
        }
        table = entry & UINT64_C(0xffffffffff000);
    }
    put64(table + (linear >> 12 & 511) * 8,
          present ? gpa | PTE_P | PTE_US | PTE_AD | (writable ? PTE_RW : 0) : 0);
}

static void map_page(uint64_t linear, uint64_t gpa, bool writable)
{
    map(linear, gpa, true, writable);
}

void soft_map(uint64_t linear, int data_page, bool writable)
{
    map(linear, GPA_DATA + (uint64_t)MAX(data_page, 0) * CASE_PAGE, data_page >= 0, writable);
    mmu_flush_page(cpu, linear);
}

RamBlock *soft_ram(uint64_t *data_offset)
{
    *data_offset = GPA_DATA;
    return ram;
}

static const char *fail(GError *error)
{
    g_strlcpy(failure, error ? error->message : "no reason given", sizeof(failure));
    g_clear_error(&error);
    return failure;
}

static bool translating;

const char *soft_setup(SoftKind kind)
{
    translating = kind != SOFT_INTERPRETED;
    static MemoryRegion root, ram_region;
    GError *error = NULL;
    memory_region_init(&root, NULL, "system", UINT64_MAX);
    const RamBlockOptions options = { .size = RAM_BYTES, .alias = kind == SOFT_WINDOWS };
    ram = ram_block_new("ram", &options, &error);
    if (!ram || !native_init(&error)) {
        return fail(error);
    }
    memory_region_init_ram_from_block(&ram_region, NULL, "ram", ram);
    memory_region_add(&root, 0, &ram_region);
    AddressSpace *as = address_space_new(&root, "memory");
    static MemoryRegion io;
    memory_region_init(&io, NULL, "io", 0x10000);
    ClockSet *clocks = clock_set_new();
    X86CpuEnv env = { .memory = as,
                      .smram = as,
                      .io = address_space_new(&io, "io"),
                      .apic_bus = apic_bus_new(),
                      .clocks = clocks };
    Object *object = object_new("max-x86_64-cpu", &error);
    if (!object) {
        return fail(error);
    }
    cpu = X86_CPU(object);
    cpu->apic_id = UINT32_MAX;
    cpu->sockets = cpu->dies = cpu->cores = cpu->threads = 1;
    if (!x86_cpu_realize(cpu, &env, &error)) {
        return fail(error);
    }
    interp_vcpu_init(cpu);
    if (translating) {
        Jit *jit = jit_new((size_t)64 << 20, &error);
        if (!jit) {
            return fail(error);
        }
        jit_single(jit);
        if (kind == SOFT_WINDOWS && !jit_windows(jit)) {
            return "windows need BMI2";
        }
        jit_vcpu_init(jit, cpu);
    }
    map_page(CASE_CODE_BASE, GPA_CODE, false);
    map_page(CASE_DATA_BASE + CASE_PAGE, GPA_DATA + CASE_PAGE, true);
    map_page(CASE_DATA_BASE + 2 * CASE_PAGE, GPA_DATA + 2 * CASE_PAGE, true);
    map_page(CASE_DATA_BASE + 3 * CASE_PAGE, GPA_DATA + 3 * CASE_PAGE, false);
    ram_written(ram, 0, RAM_BYTES);
    cpu->cr3 = 0x1000;
    cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    cpu->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP;
    cpu->xcr0 = cpuid_xcr0_mask(cpu);
    cpu->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
    cpu->idt.limit = cpu->gdt.limit = 0;
    cpu->segs[SEG_TR].limit = 0; /* no I/O permission bitmap */
    cpu->halted = false;
    mmu_flush(cpu, false);
    return NULL;
}

uint8_t *soft_code(void)
{
    return ram->host + GPA_CODE;
}

uint8_t *soft_data(void)
{
    return ram->host + GPA_DATA;
}

X86Cpu *soft_cpu(void)
{
    return cpu;
}

void soft_code_written(void)
{
    ram_written(ram, GPA_CODE, CASE_PAGE);
}

void soft_run(const CaseState *in, CaseMode mode, CaseOutcome *out)
{
    memcpy(cpu->regs, in->regs, sizeof(cpu->regs));
    cpu->rip = in->rip;
    memcpy(cpu->xsave, in->xsave, CASE_XSAVE_SIZE);
    for (int seg = 0; seg < SEG_COUNT; seg++) {
        cpu->segs[seg] =
            (X86Segment){ .selector = seg == SEG_CS ? 0x33 : 0x2b,
                          .attr = DESC_P | DESC_S | DESC_W | DESC_A | DESC_B | DESC_G | 3u << DESC_DPL_SHIFT,
                          .limit = UINT32_MAX };
    }
    if (case_mode_segmented(mode)) {
        for (int seg = SEG_ES; seg <= SEG_DS; seg += SEG_DS - SEG_ES) {
            cpu->segs[seg].selector = 0xf;
            cpu->segs[seg].base = CASE_DATA_BASE;
            cpu->segs[seg].limit = CASE_PAGE * CASE_DATA_PAGES - 1;
        }
    }
    if (mode != CASE_64) { /* null selectors */
        cpu->segs[SEG_FS].attr = cpu->segs[SEG_GS].attr = 0;
    }
    cpu->segs[SEG_CS].attr = DESC_P | DESC_S | DESC_CODE | DESC_R | DESC_A | DESC_G | 3u << DESC_DPL_SHIFT |
                             (mode == CASE_64   ? DESC_L
                              : mode == CASE_16 ? 0
                                                : DESC_B);
    if (mode == CASE_16) {
        cpu->segs[SEG_CS].selector = 7;
        cpu->segs[SEG_CS].base = CASE_CODE_BASE;
        cpu->segs[SEG_CS].limit = 0xffff;
        cpu->rip -= CASE_CODE_BASE;
    }
    cpu->segs[SEG_FS].base = in->fs_base;
    cpu->segs[SEG_GS].base = in->gs_base;
    cpu->cpl = 3;
    cpu->current_op = NULL;
    cpu->exc.vector = -1;
    x86_set_rflags(cpu, in->rflags);
    x86_update_mode(cpu);
    cpu->fpu_bv = cpu->fpu_mask;
    bool translated = translating && mode == CASE_64;
    if (translated) {
        jit_thread_enter(cpu);
    }
    bool ok = translated ? jit_step_one(cpu) : interp_step_one(cpu);
    out->vector = ok ? -1 : cpu->exc.vector;
    out->error_code = ok ? 0 : cpu->exc.error_code;
    if (out->vector == EXC_DB) {
        out->vector = -1;
    }
    memcpy(out->state.regs, cpu->regs, sizeof(cpu->regs));
    out->state.rip = cpu->rip + (mode == CASE_16 ? CASE_CODE_BASE : 0);
    out->state.rflags = x86_get_rflags(cpu);
    memcpy(out->state.xsave, cpu->xsave, CASE_XSAVE_SIZE);
    out->state.fs_base = cpu->segs[SEG_FS].base;
    out->state.gs_base = cpu->segs[SEG_GS].base;
    out->cr2 = cpu->cr2;
}
