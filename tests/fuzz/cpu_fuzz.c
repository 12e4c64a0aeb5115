/*
 * Any code in any mode on a CPU with RAM and nothing else: whatever a guest does, the emulator stands. The
 * input is a mode, a seed for registers and memory, and the code. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/interp.h"
#include "accel/soft/interp/native.h"
#include "arch/x86/apic.h"
#include "arch/x86/mmu.h"

#include <string.h>

#define RAM_BYTES (2u << 20)
#define CODE      0x10000u
#define STEPS     64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static MemoryRegion root, ram, io_root;
static AddressSpace *memory, *io;
static X86Cpu *cpu;

static void no_reset(void *opaque)
{
}

static void set_up(void)
{
    GError *error = NULL;
    memory_region_init(&root, NULL, "system", UINT64_MAX);
    memory_region_init(&io_root, NULL, "io", 65536);
    if (!memory_region_init_ram(&ram, NULL, "ram", RAM_BYTES, &error) || !native_init(&error)) {
        g_error("%s", error->message);
    }
    memory_region_add(&root, 0, &ram);
    memory = address_space_new(&root, "memory");
    io = address_space_new(&io_root, "io");
    cpu = (X86Cpu *)object_new("max-x86_64-cpu", &error);
    X86CpuEnv env = { .memory = memory,
                      .smram = memory,
                      .io = io,
                      .apic_bus = apic_bus_new(),
                      .clocks = clock_set_new(),
                      .request_reset = no_reset };
    if (!cpu || !x86_cpu_realize(cpu, &env, &error)) {
        g_error("%s", error->message);
    }
    interp_vcpu_init(cpu);
}

/* A small generator, so that an input means the same everywhere. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t plausible(uint64_t *state)
{
    uint64_t r = next_random(state);
    switch (r & 7) {
    case 0:
        return r;
    case 1:
        return (uint64_t)(int8_t)(r >> 8);
    case 2:
        return CODE + (r >> 8 & 0xfff);
    case 3:
        return r >> 8 & 0xff;
    default:
        return r >> 8 & (RAM_BYTES - 1);
    }
}

/* Identity-mapped tables of 2 MiB pages at 0x1000, an IDT and a GDT full of noise that is sometimes valid. */
static void prepare_memory(uint64_t *state)
{
    uint8_t *host = ram.ram->host;
    for (unsigned i = 0; i < 0x10000; i += 8) {
        uint64_t r = next_random(state);
        memcpy(host + i, &r, 8);
    }
    uint64_t pml4 = 0x2007, pdpt = 0x3007, pd = 0x87;
    memset(host + 0x1000, 0, 0x3000);
    memcpy(host + 0x1000, &pml4, 8);
    memcpy(host + 0x2000, &pdpt, 8);
    memcpy(host + 0x3000, &pd, 8);
    static const uint64_t descriptors[] = { 0,
                                            0x00af9b000000ffff,
                                            0x00cf93000000ffff,
                                            0x00cf9b000000ffff,
                                            0x008f9b000000ffff,
                                            0x00affb000000ffff,
                                            0x00cff3000000ffff,
                                            0x0000890050000067,
                                            0,
                                            0x0000820050000067 };
    memcpy(host + 0x4000, descriptors, sizeof(descriptors));
    ram_written(ram.ram, 0, 0x10000);
}

static void prepare_cpu(unsigned kind, uint64_t *state)
{
    uint32_t attr = DESC_P | DESC_S | DESC_A;
    unsigned level = kind & 8 ? 3 : 0;
    x86_cpu_reset(cpu, false);
    cpu->halted = false;
    cpu->interrupt_request = 0;
    cpu->cr0 = CR0_ET | CR0_NE;
    for (int i = 0; i < SEG_COUNT; i++) {
        cpu->segs[i] = (X86Segment){ 0, attr | DESC_W, 0xffff, 0 };
    }
    cpu->segs[SEG_CS] = (X86Segment){ CODE >> 4, attr | DESC_CODE | DESC_R, 0xffff, CODE };
    cpu->rip = 0;
    if ((kind & 3) != 0) {
        bool long_mode = (kind & 3) == 1;
        uint32_t dpl = level << DESC_DPL_SHIFT;
        cpu->cr0 |= CR0_PE | (kind & 4 || long_mode ? CR0_PG | CR0_WP : 0);
        cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE | CR4_FSGSBASE;
        cpu->xcr0 = 7;
        cpu->cr3 = long_mode ? 0x1000 : 0x2000;
        cpu->efer = EFER_NXE | EFER_SCE | (long_mode ? EFER_LME | EFER_LMA : 0);
        for (int i = 0; i < SEG_COUNT; i++) {
            cpu->segs[i] = (X86Segment){ (uint16_t)(0x30 | level), attr | dpl | DESC_W | DESC_B | DESC_G,
                                         0xffffffff, 0 };
        }
        cpu->segs[SEG_CS] = (X86Segment){ (uint16_t)(8 | level),
                                          attr | dpl | DESC_CODE | DESC_R | DESC_G |
                                              (long_mode     ? DESC_L
                                               : (kind & 16) ? 0
                                                             : DESC_B),
                                          0xffffffff, 0 };
        cpu->cpl = (uint8_t)level;
        cpu->rip = CODE;
    }
    cpu->gdt = (X86Table){ 0x4000, 0x4f };
    cpu->idt = (X86Table){ 0x6000, 0xfff };
    for (int i = 0; i < 16; i++) {
        cpu->regs[i] = plausible(state);
    }
    x86_set_rflags(cpu, FLAG_ONE | (next_random(state) & (FLAGS_ARITH | FLAG_DF | FLAG_TF | FLAG_IF)));
    x86_update_mode(cpu);
    mmu_flush(cpu, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4) {
        return 0;
    }
    if (!cpu) {
        set_up();
    }
    uint64_t state = 0x9e3779b97f4a7c15 ^ ((uint64_t)data[1] << 8 | data[2]);
    size_t count = MIN(size - 3, 512);
    prepare_memory(&state);
    address_space_write(memory, CODE, MEMTXATTRS_NONE, data + 3, count);
    prepare_cpu(data[0], &state);
    for (int i = 0; i < STEPS && !cpu->halted; i++) {
        if (!interp_step_one(cpu)) {
            x86_deliver(cpu, EVENT_EXCEPTION, cpu->exc.vector, cpu->exc.has_error, cpu->exc.error_code);
        }
        g_assert(cpu->zero == 0);
        g_assert(!(cpu->rflags & FLAGS_ARITH));
    }
    return 0;
}
