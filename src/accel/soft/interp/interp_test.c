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

/* ---- flat 32-bit code: what hot_flat.c does must be what the general handlers do ---- */
#define SCRATCH       0x20000u
#define SCRATCH_BYTES 0x3000u

typedef struct Code {
    uint8_t bytes[512];
    size_t size;
} Code;

static void emit(Code *c, const void *bytes, size_t size)
{
    memcpy(c->bytes + c->size, bytes, size);
    c->size += size;
}

static void emit8(Code *c, unsigned byte)
{
    uint8_t b = (uint8_t)byte;

    emit(c, &b, 1);
}

static void emit32(Code *c, uint32_t value)
{
    emit(c, &value, 4);
}

/* A ModRM byte and what follows, of a place in the scratch pages; it may lie across their border. */
static void emit_operand(Code *c, GRand *rand, unsigned reg)
{
    uint32_t at =
        SCRATCH + (uint32_t)g_rand_int_range(rand, 0, 2) * 0xffd + (uint32_t)g_rand_int_range(rand, 0, 4);

    switch (g_rand_int_range(rand, 0, 3)) {
    case 0: /* disp32 */
        emit8(c, reg << 3 | 5);
        emit32(c, at);
        break;
    case 1: /* [ebx + disp32], which wraps where EBX is large */
        emit8(c, 0x80 | reg << 3 | R_RBX);
        emit32(c, at - 0xffff0000u);
        break;
    default: /* [esi * 4 + disp32] */
        emit8(c, reg << 3 | 4);
        emit8(c, 2 << 6 | R_RSI << 3 | 5);
        emit32(c, at - 12 * 4);
        break;
    }
}

static void emit_random(Code *c, GRand *rand)
{
    /* With a ModRM byte: EAX, ECX, EDX, EBP (as a byte: CH), and memory. */
    static const uint8_t modrm[] = { 0x00, 0x01, 0x02, 0x03, 0x08, 0x09, 0x0a, 0x0b, 0x10, 0x11,
                                     0x12, 0x13, 0x18, 0x19, 0x1a, 0x1b, 0x20, 0x21, 0x22, 0x23,
                                     0x28, 0x29, 0x2a, 0x2b, 0x30, 0x31, 0x32, 0x33, 0x38, 0x39,
                                     0x3a, 0x3b, 0x84, 0x85, 0x88, 0x89, 0x8a, 0x8b, 0x8d };
    static const uint8_t registers[] = { R_RAX, R_RCX, R_RDX, R_RBP };
    unsigned reg = registers[g_rand_int_range(rand, 0, 4)], kind = (unsigned)g_rand_int_range(rand, 0, 10);

    bool word = kind < 7 && g_rand_int_range(rand, 0, 5) == 0;
    if (word) {
        emit8(c, 0x66);
    }
    switch (kind) {
    case 0:
    case 1:
    case 2:
        emit8(c, modrm[g_rand_int_range(rand, 0, sizeof(modrm))]);
        emit_operand(c, rand, reg);
        break;
    case 3: /* arithmetic with an immediate of a byte, of both sizes */
        emit8(c, g_rand_boolean(rand) ? 0x80 : 0x83);
        emit_operand(c, rand, (unsigned)g_rand_int_range(rand, 0, 8));
        emit8(c, (unsigned)g_rand_int_range(rand, 0, 256));
        break;
    case 4: /* movzx, movsx */
        emit8(c, 0x0f);
        emit8(c, (g_rand_boolean(rand) ? 0xb6u : 0xbeu) + (unsigned)g_rand_int_range(rand, 0, 2));
        emit_operand(c, rand, reg);
        break;
    case 5: /* not, neg, inc, dec */
        if (g_rand_boolean(rand)) {
            emit8(c, 0xf6u + (unsigned)g_rand_int_range(rand, 0, 2));
            emit_operand(c, rand, 2u + (unsigned)g_rand_int_range(rand, 0, 2));
        } else {
            emit8(c, 0xfeu + (unsigned)g_rand_int_range(rand, 0, 2));
            emit_operand(c, rand, (unsigned)g_rand_int_range(rand, 0, 2));
        }
        break;
    case 6: /* AL or eAX and an offset; MOV of an immediate */
        if (g_rand_boolean(rand)) {
            emit8(c, 0xa0u + (unsigned)g_rand_int_range(rand, 0, 4));
            emit32(c, SCRATCH + 0xffd + (uint32_t)g_rand_int_range(rand, 0, 4));
        } else {
            emit8(c, 0xc7);
            emit_operand(c, rand, 0);
            uint32_t value = g_rand_int(rand);
            emit(c, &value, word ? 2 : 4);
        }
        break;
    case 7: /* the stack: a register, an immediate, a place; then all three come back */
        emit8(c, 0x50 | reg);
        emit8(c, 0x6a);
        emit8(c, (unsigned)g_rand_int_range(rand, 0, 256));
        emit8(c, 0xff);
        emit_operand(c, rand, 6);
        for (int i = 0; i < 3; i++) {
            emit8(c, 0x58 | registers[g_rand_int_range(rand, 0, 4)]);
        }
        break;
    case 8: /* call over an instruction, whose return is a POP; a frame and LEAVE */
        emit(c, "\xe8\x01\x00\x00\x00\x40\x59\x55\x89\xe5\x51\xc9", 12);
        break;
    default: { /* a comparison and a conditional jump over an INC; what CALL and RET do */
        static const uint8_t compare[][2] = {
            { 0x39, 0xc8 }, { 0x38, 0xca }, { 0x85, 0xc2 }, { 0x84, 0xd1 }, { 0x01, 0xf8 }
        };
        emit(c, compare[g_rand_int_range(rand, 0, 5)], 2);
        emit8(c, 0x70u + (unsigned)g_rand_int_range(rand, 0, 16));
        emit8(c, 1);
        emit8(c, 0x40 | reg);
        emit(c, "\xe8\x02\x00\x00\x00\xeb\x02\x42\xc3", 9); /* call L; jmp E; L: inc edx; ret; E: */
        break;
    }
    }
}

static void run_flat(Rig *r, const Code *c, bool flat, bool small_stack, uint64_t *regs, uint16_t *cc,
                     uint8_t *memory)
{
    X86Cpu *cpu = r->cpu;

    address_space_write(r->as, CODE, MEMTXATTRS_NONE, c->bytes, c->size);
    address_space_write(r->as, CODE + c->size, MEMTXATTRS_NONE, "\x0f\x0b", 2);
    for (uint32_t i = 0; i < SCRATCH_BYTES; i++) {
        r->host[SCRATCH + i] = (uint8_t)(i * 37 + (i >> 7));
    }
    memset(r->host + 0x7f00, 0, 0x100);
    rig_mode(r, CODE32);
    if (!flat) {
        cpu->segs[SEG_ES].limit = 0x7fffffff; /* nobody uses it */
    }
    if (small_stack) {
        cpu->segs[SEG_SS].attr &= ~(uint32_t)DESC_B;
    }
    x86_update_mode(cpu);
    cpu->idt.limit = 0;
    cpu->regs[R_RAX] = 0x12345678;
    cpu->regs[R_RCX] = 0xfedcba98;
    cpu->regs[R_RDX] = 0x80;
    cpu->regs[R_RBX] = 0xffff0000;
    cpu->regs[R_RSI] = 12;
    cpu->regs[R_RDI] = 0x7fffffff;
    cpu->regs[R_RSP] = UINT64_C(0xabcd00000000) | 0x8000;
    interp_vcpu_exec(cpu);
    g_assert_true(cpu->halted);
    memcpy(regs, cpu->regs, sizeof(uint64_t) * 8);
    *cc = cpu->cc;
    memcpy(memory, r->host + SCRATCH, SCRATCH_BYTES);
    memcpy(memory + SCRATCH_BYTES, r->host + 0x7f00, 0x100);
}

static void test_flat(void)
{
    Rig *r = rig_new();
    GRand *rand = g_rand_new_with_seed(20261129);
    g_autofree uint8_t *hot = g_malloc(SCRATCH_BYTES + 0x100), *general = g_malloc(SCRATCH_BYTES + 0x100);

    for (int round = 0; round < 4000; round++) {
        Code c = { .size = 0 };
        uint64_t regs[2][8];
        uint16_t cc[2];
        bool small_stack = round % 8 == 7;

        for (int i = 0; i < 12; i++) {
            emit_random(&c, rand);
        }
        run_flat(r, &c, true, small_stack, regs[0], &cc[0], hot);
        g_assert_cmphex(r->cpu->mode & MODE_FLAT, !=, 0);
        run_flat(r, &c, false, small_stack, regs[1], &cc[1], general);
        g_assert_cmphex(r->cpu->mode & MODE_FLAT, ==, 0);
        g_assert_cmpmem(regs[0], sizeof(regs[0]), regs[1], sizeof(regs[1]));
        g_assert_cmphex(cc[0], ==, cc[1]);
        g_assert_cmpmem(hot, SCRATCH_BYTES + 0x100, general, SCRATCH_BYTES + 0x100);
    }
    g_rand_free(rand);
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
    g_test_add_func("/interp/flat", test_flat);
    g_test_add_func("/interp/speed", test_speed);
    return g_test_run();
}
