/* Machine code on a bare CPU with RAM. SPDX-License-Identifier: GPL-2.0-or-later */
#include "accel/soft/interp/interp.h"
#include "accel/soft/interp/native.h"
#include "arch/x86/apic.h"
#include "arch/x86/flags.h"
#include "arch/x86/mmu.h"

#include <string.h>

#define RAM_BYTES (4u << 20)
#define CODE      0x10000u

typedef struct Rig {
    MemoryRegion root, ram;
    AddressSpace *as;
    AddressSpace *io;
    MemoryRegion io_root;
    ApicBus *bus;
    ClockSet *clocks;
    X86Cpu *cpu;
    uint8_t *host;
} Rig;

static void no_reset(void *opaque)
{
}

static Rig *rig_new(void)
{
    Rig *r = g_new0(Rig, 1);
    GError *error = NULL;
    memory_region_init(&r->root, NULL, "system", UINT64_MAX);
    memory_region_init(&r->io_root, NULL, "io", 65536);
    g_assert_true(memory_region_init_ram(&r->ram, NULL, "ram", RAM_BYTES, &error));
    memory_region_add(&r->root, 0, &r->ram);
    r->as = address_space_new(&r->root, "memory");
    r->io = address_space_new(&r->io_root, "io");
    r->host = r->ram.ram->host;
    r->bus = apic_bus_new();
    r->clocks = clock_set_new();
    g_assert_true(native_init(&error));
    r->cpu = (X86Cpu *)object_new("max-x86_64-cpu", &error);
    g_assert_no_error(error);
    X86CpuEnv env = { .memory = r->as,
                      .smram = r->as,
                      .io = r->io,
                      .apic_bus = r->bus,
                      .clocks = r->clocks,
                      .request_reset = no_reset };
    g_assert_true(x86_cpu_realize(r->cpu, &env, &error));
    interp_vcpu_init(r->cpu);
    return r;
}

static void rig_free(Rig *r)
{
    interp_vcpu_destroy(r->cpu);
    x86_cpu_unrealize(r->cpu);
    object_unref((Object *)r->cpu);
    apic_bus_free(r->bus);
    address_space_free(r->as);
    address_space_free(r->io);
    memory_region_destroy(&r->ram);
    memory_region_destroy(&r->root);
    memory_region_destroy(&r->io_root);
    clock_set_free(r->clocks);
    g_free(r);
}

typedef enum CodeKind { CODE16, CODE32, CODE64 } CodeKind;

/* Flat segments without paging; 64-bit code too, which no processor allows but the interpreter does not mind.
 */
static void rig_mode(Rig *r, CodeKind kind)
{
    X86Cpu *cpu = r->cpu;
    x86_cpu_reset(cpu, false);
    cpu->halted = false;
    cpu->interrupt_request = 0;
    if (kind == CODE16) {
        cpu->segs[SEG_CS] =
            (X86Segment){ CODE >> 4, DESC_P | DESC_S | DESC_CODE | DESC_R | DESC_A, 0xffff, CODE };
        cpu->rip = 0;
        for (int i = 0; i < SEG_COUNT; i++) {
            if (i != SEG_CS) {
                cpu->segs[i] = (X86Segment){ 0, DESC_P | DESC_S | DESC_W | DESC_A, 0xffff, 0 };
            }
        }
        cpu->cr0 = CR0_ET;
    } else {
        uint32_t attr = DESC_P | DESC_S | DESC_G | DESC_A;
        cpu->cr0 = CR0_ET | CR0_PE;
        for (int i = 0; i < SEG_COUNT; i++) {
            cpu->segs[i] = (X86Segment){ 0x10, attr | DESC_W | DESC_B, 0xffffffff, 0 };
        }
        cpu->segs[SEG_CS] =
            (X86Segment){ 8, attr | DESC_CODE | DESC_R | (kind == CODE64 ? DESC_L : DESC_B), 0xffffffff, 0 };
        cpu->efer = kind == CODE64 ? EFER_LMA | EFER_LME | EFER_SCE | EFER_NXE : 0;
        cpu->cr4 = kind == CODE64 ? CR4_PAE | CR4_OSFXSR : 0;
        cpu->rip = CODE;
    }
    cpu->cpl = 0;
    cpu->regs[R_RSP] = 0x8000;
    x86_set_rflags(cpu, FLAG_ONE);
    x86_update_mode(cpu);
    mmu_flush(cpu, false);
}

/* Runs code, behind which a UD2 with an empty IDT stops the CPU (triple fault). */
static void rig_run(Rig *r, CodeKind kind, const uint8_t *code, size_t size)
{
    address_space_write(r->as, CODE, MEMTXATTRS_NONE, code, size);
    address_space_write(r->as, CODE + size, MEMTXATTRS_NONE, "\x0f\x0b", 2);
    rig_mode(r, kind);
    r->cpu->idt.limit = 0;
    interp_vcpu_exec(r->cpu);
    g_assert_true(r->cpu->halted);
}
#define RUN(r, kind, ...)                               \
    do {                                                \
        static const uint8_t code_[] = { __VA_ARGS__ }; \
        rig_run(r, kind, code_, sizeof(code_));         \
    } while (0)

static void test_arithmetic(void)
{
    Rig *r = rig_new();
    X86Cpu *cpu = r->cpu;
    /* mov eax, 7; mov ecx, 5; add eax, ecx; imul edx, eax, 100; sub ecx, eax */
    RUN(r, CODE64, 0xb8, 7, 0, 0, 0, 0xb9, 5, 0, 0, 0, 0x01, 0xc8, 0x6b, 0xd0, 100, 0x29, 0xc1);
    g_assert_cmpuint(cpu->regs[R_RAX], ==, 12);
    g_assert_cmpuint(cpu->regs[R_RDX], ==, 1200);
    g_assert_cmpuint(cpu->regs[R_RCX], ==, 0xfffffff9);
    g_assert_cmphex(x86_get_rflags(cpu) & FLAGS_ARITH, ==, FLAG_CF | FLAG_SF | FLAG_AF | FLAG_PF);
    /* sum of 1..1000: mov ecx,1000; xor eax,eax; L: add rax,rcx; dec rcx; jnz L */
    RUN(r, CODE64, 0xb9, 0xe8, 3, 0, 0, 0x31, 0xc0, 0x48, 0x01, 0xc8, 0x48, 0xff, 0xc9, 0x75, 0xf8);
    g_assert_cmpuint(cpu->regs[R_RAX], ==, 500500);
    /* high byte registers: mov ax, 0x1234; add ah, al; mov bl, ah */
    RUN(r, CODE64, 0x66, 0xb8, 0x34, 0x12, 0x00, 0xc4, 0x88, 0xe3);
    g_assert_cmphex(cpu->regs[R_RAX] & 0xffff, ==, 0x4634);
    g_assert_cmphex(cpu->regs[R_RBX] & 0xff, ==, 0x46);
    /* div: mov edx,1; mov eax,0; mov ecx,16; div ecx */
    RUN(r, CODE64, 0xba, 1, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xb9, 16, 0, 0, 0, 0xf7, 0xf1);
    g_assert_cmphex(cpu->regs[R_RAX], ==, 0x10000000);
    g_assert_cmphex(cpu->regs[R_RDX], ==, 0);
    rig_free(r);
}

static void test_memory(void)
{
    Rig *r = rig_new();
    X86Cpu *cpu = r->cpu;
    /* mov rbx,0x20000; mov [rbx+8],rax... : lea rax,[rip+0]; mov [rbx],rax; add qword [rbx],5; mov rcx,[rbx];
     * push rcx; pop rdx; call +0; pop rsi */
    RUN(r, CODE64, 0xbb, 0, 0, 2, 0, 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x48, 0x89, 0x03, 0x48, 0x83, 0x03, 5,
        0x48, 0x8b, 0x0b, 0x51, 0x5a, 0xe8, 0, 0, 0, 0, 0x5e);
    g_assert_cmphex(cpu->regs[R_RAX], ==, CODE + 12);
    g_assert_cmphex(cpu->regs[R_RCX], ==, CODE + 17);
    g_assert_cmphex(cpu->regs[R_RDX], ==, CODE + 17);
    g_assert_cmphex(cpu->regs[R_RSI], ==, CODE + 29);
    g_assert_cmphex(cpu->regs[R_RSP], ==, 0x8000);
    /* Page-crossing store and load: mov rbx,0x20ffd; mov rax,0x1122334455667788; mov [rbx],rax; mov rcx,[rbx]
     */
    RUN(r, CODE64, 0xbb, 0xfd, 0x0f, 2, 0, 0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x48,
        0x89, 0x03, 0x48, 0x8b, 0x0b);
    g_assert_cmphex(cpu->regs[R_RCX], ==, 0x1122334455667788);
    /* lock xadd [0x20000],eax ; rep stosb; rep movsq */
    memset(r->host + 0x30000, 0, 0x10000);
    RUN(r, CODE64, 0xbf, 0x10, 0, 3, 0, 0xb9, 0, 0x30, 0, 0, 0xb0, 0x5a, 0xf3, 0xaa, 0xbe, 0, 0, 3, 0, 0xbf,
        0x01, 0x80, 3, 0, 0xb9, 0, 2, 0, 0, 0xf3, 0x48, 0xa5);
    g_assert_cmphex(cpu->regs[R_RCX], ==, 0);
    g_assert_cmphex(cpu->regs[R_RDI], ==, 0x39001);
    g_assert_cmphex(cpu->regs[R_RSI], ==, 0x31000);
    g_assert_cmphex(r->host[0x3000f], ==, 0);
    g_assert_cmphex(r->host[0x30010], ==, 0x5a);
    g_assert_cmphex(r->host[0x3300f], ==, 0x5a);
    g_assert_cmphex(r->host[0x33010], ==, 0);
    g_assert_cmphex(r->host[0x38010], ==, 0);
    g_assert_cmphex(r->host[0x38011], ==, 0x5a);
    g_assert_cmphex(r->host[0x39000], ==, 0x5a);
    g_assert_cmphex(r->host[0x39001], ==, 0);
    rig_free(r);
}

static void test_modes(void)
{
    Rig *r = rig_new();
    X86Cpu *cpu = r->cpu;
    /* Real mode: mov ax,0x2000; mov ds,ax; mov word [0x10],0xbeef; mov bx,[0x10]; push bx; pop cx; aam */
    RUN(r, CODE16, 0xb8, 0, 0x20, 0x8e, 0xd8, 0xc7, 0x06, 0x10, 0, 0xef, 0xbe, 0x8b, 0x1e, 0x10, 0, 0x53,
        0x59, 0xb8, 0x3f, 0, 0xd4, 10);
    g_assert_cmphex(cpu->regs[R_RBX] & 0xffff, ==, 0xbeef);
    g_assert_cmphex(cpu->regs[R_RCX] & 0xffff, ==, 0xbeef);
    g_assert_cmphex(cpu->regs[R_RAX] & 0xffff, ==, 0x0603);
    g_assert_cmphex(r->host[0x20011], ==, 0xbe);
    /* 32-bit: mov eax,0x12345678; push eax; pushad; popad; pop ebx; inc ebx; bswap ebx; loop of 3 */
    RUN(r, CODE32, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x50, 0x60, 0x61, 0x5b, 0x43, 0x0f, 0xcb, 0xb9, 3, 0, 0, 0,
        0x42, 0xe2, 0xfd);
    g_assert_cmphex(cpu->regs[R_RBX], ==, 0x79563412);
    g_assert_cmphex(cpu->regs[R_RDX] & 0xff, !=, 0);
    g_assert_cmphex(cpu->regs[R_RCX], ==, 0);
    g_assert_cmphex(cpu->regs[R_RSP], ==, 0x8000);
    rig_free(r);
}

static void test_self_modifying(void)
{
    Rig *r = rig_new();
    X86Cpu *cpu = r->cpu;
    /* Each turn adds to the immediate of an instruction in the same block, before it runs:
     * mov ecx,10; xor eax,eax; L: inc byte [rip+1]; add eax, imm8 ; dec ecx; jnz L */
    RUN(r, CODE64, 0xb9, 10, 0, 0, 0, 0x31, 0xc0, 0xfe, 0x05, 2, 0, 0, 0, 0x83, 0xc0, 0, 0xff, 0xc9, 0x75,
        0xf3);
    g_assert_cmpuint(cpu->regs[R_RAX], ==, 55);
    rig_free(r);
}

static void test_faults(void)
{
    Rig *r = rig_new();
    X86Cpu *cpu = r->cpu;
    static const uint8_t division[] = { 0x31, 0xc9, 0x90, 0xf7, 0xf1 }; /* xor ecx,ecx; nop; div ecx */
    address_space_write(r->as, CODE, MEMTXATTRS_NONE, division, sizeof(division));
    rig_mode(r, CODE64);
    g_assert_true(interp_step_one(cpu));
    g_assert_cmphex(cpu->rip, ==, CODE + 2);
    g_assert_true(interp_step_one(cpu));
    g_assert_false(interp_step_one(cpu));
    g_assert_cmphex(cpu->rip, ==, CODE + 3);
    g_assert_cmpint(cpu->exc.vector, ==, EXC_DE);
    /* An instruction over a page's end runs as one. */
    static const uint8_t add[] = { 0x48, 0x05, 0x78, 0x56, 0x34, 0x12 };
    address_space_write(r->as, CODE + 0xffd, MEMTXATTRS_NONE, add, sizeof(add));
    rig_mode(r, CODE64);
    cpu->rip = CODE + 0xffd;
    cpu->regs[R_RAX] = 1;
    g_assert_true(interp_step_one(cpu));
    g_assert_cmphex(cpu->regs[R_RAX], ==, 0x12345679);
    g_assert_cmphex(cpu->rip, ==, CODE + 0x1003);
    /* A change of its second page is seen. */
    address_space_write(r->as, CODE + 0x1000, MEMTXATTRS_NONE, "\x00\x00\x00", 3);
    cpu->rip = CODE + 0xffd;
    cpu->regs[R_RAX] = 0;
    g_assert_true(interp_step_one(cpu));
    g_assert_cmphex(cpu->regs[R_RAX], ==, 0x78);
    rig_free(r);
}

static void test_speed(void)
{
    Rig *r = rig_new();
    /* mov ecx, 50e6; L: add rax,rcx; xor rdx,rax; mov [rsp-8],rdx; mov rbx,[rsp-8]; dec rcx; jnz L */
    gint64 start = g_get_monotonic_time();
    RUN(r, CODE64, 0xb9, 0x80, 0x96, 0x98, 0, 0x48, 0x01, 0xc8, 0x48, 0x31, 0xc2, 0x48, 0x89, 0x54, 0x24,
        0xf8, 0x48, 0x8b, 0x5c, 0x24, 0xf8, 0x48, 0xff, 0xc9, 0x75, 0xeb);
    gint64 us = g_get_monotonic_time() - start;
    g_test_message("%.0f million instructions a second", 60e6 / (double)us);
    g_assert_cmpuint(r->cpu->regs[R_RCX], ==, 0);
    rig_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/interp/arithmetic", test_arithmetic);
    g_test_add_func("/interp/memory", test_memory);
    g_test_add_func("/interp/modes", test_modes);
    g_test_add_func("/interp/self-modifying", test_self_modifying);
    g_test_add_func("/interp/faults", test_faults);
    g_test_add_func("/interp/speed", test_speed);
    return g_test_run();
}
