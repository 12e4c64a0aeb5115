/* Blocks that are made, found, linked, made stale and evicted, on a bare CPU. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "accel/soft/interp/native.h"
#include "accel/soft/jit/jit.h"
#include "accel/soft/jit/tcg.h"
#include "arch/x86/apic.h"

#define CODE  0x10000u
#define STACK 0x8000u

#define RAM_BYTES (16u << 20)

typedef struct Rig {
    MemoryRegion root, ram, io_root;
    AddressSpace *memory, *io;
    ApicBus *bus;
    ClockSet *clocks;
    X86Cpu *cpu;
    Jit *jit;
    JitVcpu *v;
} Rig;

static void no_reset(void *opaque)
{
}

static void setup_with(Rig *r, gconstpointer data, unsigned lockstep_every)
{
    GError *error = NULL;

    memory_region_init(&r->root, NULL, "system", UINT64_MAX);
    memory_region_init(&r->io_root, NULL, "io", 65536);
    g_assert_true(memory_region_init_ram(&r->ram, NULL, "ram", RAM_BYTES, &error));
    memory_region_add(&r->root, 0, &r->ram);
    r->memory = address_space_new(&r->root, "memory");
    r->io = address_space_new(&r->io_root, "io");
    r->bus = apic_bus_new();
    r->clocks = clock_set_new();
    g_assert_true(native_init(&error));
    X86Cpu *cpu = r->cpu = X86_CPU(object_new("max-x86_64-cpu", &error));
    g_assert_no_error(error);
    X86CpuEnv env = { .memory = r->memory,
                      .smram = r->memory,
                      .io = r->io,
                      .apic_bus = r->bus,
                      .clocks = r->clocks,
                      .request_reset = no_reset };
    g_assert_true(x86_cpu_realize(cpu, &env, &error));
    interp_vcpu_init(cpu);
    r->jit = jit_new((size_t)GPOINTER_TO_UINT(data) << 20, &error);
    g_assert_no_error(error);
    if (lockstep_every) {
        r->jit->lockstep = true;
        r->jit->lockstep_every = lockstep_every;
        r->jit->chain = r->jit->tier = false;
    }
    jit_vcpu_init(r->jit, cpu);
    jit_thread_enter(cpu);
    r->v = jit_vcpu(cpu);
    /* Flat 64-bit segments without paging, which no processor allows but the software CPU does not mind. */
    x86_cpu_reset(cpu, false);
    uint32_t attr = DESC_P | DESC_S | DESC_G | DESC_A;
    for (int i = 0; i < SEG_COUNT; i++) {
        cpu->segs[i] = (X86Segment){ 0x10, attr | DESC_W | DESC_B, 0xffffffff, 0 };
    }
    cpu->segs[SEG_CS] = (X86Segment){ 8, attr | DESC_CODE | DESC_R | DESC_L, 0xffffffff, 0 };
    cpu->cr0 = CR0_ET | CR0_PE;
    cpu->efer = EFER_LMA | EFER_LME;
    cpu->cr4 = CR4_PAE | CR4_OSFXSR;
    cpu->idt.limit = 0;
    cpu->cpl = 0;
    x86_set_rflags(cpu, FLAG_ONE);
    x86_update_mode(cpu);
    mmu_flush(cpu, false);
}

static void setup(Rig *r, gconstpointer data)
{
    setup_with(r, data, 0);
}

static void setup_lockstep(Rig *r, gconstpointer data)
{
    setup_with(r, data, 3);
}

static void teardown(Rig *r, gconstpointer data)
{
    jit_vcpu_destroy(r->cpu);
    interp_vcpu_destroy(r->cpu);
    jit_free(r->jit);
    x86_cpu_unrealize(r->cpu);
    object_unref(OBJECT(r->cpu));
    apic_bus_free(r->bus);
    address_space_free(r->memory);
    address_space_free(r->io);
    memory_region_destroy(&r->ram);
    memory_region_destroy(&r->root);
    memory_region_destroy(&r->io_root);
    clock_set_free(r->clocks);
}

/* Runs from gpa to a HLT; returns rax. */
static uint64_t run(Rig *r, uint64_t gpa)
{
    X86Cpu *cpu = r->cpu;

    cpu->halted = false;
    cpu->rip = gpa;
    cpu->regs[R_RSP] = STACK;
    __atomic_store_n(&cpu->interrupt_request, 0, __ATOMIC_SEQ_CST);
    interp_vcpu_exec(cpu);
    g_assert_true(cpu->halted);
    g_assert_false(cpu->inhibit_interrupts); /* or nothing would wake it */
    g_assert_false(cpu->shutdown);
    return cpu->regs[R_RAX];
}

static void put(Rig *r, uint64_t gpa, const void *code, size_t size)
{
    g_assert_cmpint(address_space_write(r->memory, gpa, MEMTXATTRS_NONE, code, size), ==, MEMTX_OK);
}

/* mov ecx, rounds; xor eax, eax; L: add eax, step; dec ecx; jnz L; hlt */
static void put_loop(Rig *r, uint64_t gpa, uint32_t rounds, uint8_t step)
{
    uint8_t code[] = { 0xb9, 0, 0, 0, 0, 0x31, 0xc0, 0x83, 0xc0, step, 0xff, 0xc9, 0x75, 0xf9, 0xf4 };

    memcpy(code + 1, &rounds, 4);
    put(r, gpa, code, sizeof(code));
}

/* mov eax, value; hlt */
static void put_value(Rig *r, uint64_t gpa, uint32_t value)
{
    uint8_t code[] = { 0xb8, 0, 0, 0, 0, 0xf4 };

    memcpy(code + 1, &value, 4);
    put(r, gpa, code, sizeof(code));
}

static JitBlock *block_at(Rig *r, uint64_t gpa)
{
    X86Cpu *cpu = r->cpu;

    cpu->rip = gpa;
    return jit_find_made(cpu, r->v, cpu->mode, jit_code_at(cpu));
}

static void test_tier(Rig *r, gconstpointer data)
{
    put_loop(r, CODE, JIT_COLD_RUNS / 2, 3);
    g_assert_cmpuint(run(r, CODE), ==, JIT_COLD_RUNS / 2 * 3);
    g_assert_cmpuint(r->jit->translated, ==, 0);
    /* The loop is warm in its second run; what stands before it is not. */
    put_loop(r, CODE, 1000, 3);
    g_assert_cmpuint(run(r, CODE), ==, 3000);
    g_assert_nonnull(block_at(r, CODE + 7));
    g_assert_null(block_at(r, CODE));
    uint64_t made = r->jit->translated;
    g_assert_cmpuint(run(r, CODE), ==, 3000);
    g_assert_cmpuint(r->jit->translated, ==, made);
    for (unsigned n = 0; n < JIT_COLD_RUNS; n++) {
        run(r, CODE);
    }
    g_assert_nonnull(block_at(r, CODE));
    /* What was hot before is translated at once when it has changed. */
    uint64_t interpreted = ((Interp *)r->cpu->accel_data)->runs;
    put_loop(r, CODE, 1000, 5);
    g_assert_null(block_at(r, CODE));
    g_assert_null(block_at(r, CODE + 7));
    g_assert_cmpuint(run(r, CODE), ==, 5000);
    g_assert_nonnull(block_at(r, CODE));
    g_assert_cmpuint(((Interp *)r->cpu->accel_data)->runs - interpreted, <=, 1); /* the HLT, perhaps */
}

static void test_written(Rig *r, gconstpointer data)
{
    r->jit->tier = false;
    for (unsigned n = 1; n <= 40; n++) {
        put_value(r, CODE, n);
        put_value(r, CODE + 64, n * 1000);
        g_assert_cmpuint(run(r, CODE), ==, n);
        g_assert_cmpuint(run(r, CODE + 64), ==, n * 1000);
        g_assert_cmpuint(run(r, CODE), ==, n);
    }
    /* By now the page is not protected, and its blocks look for themselves. */
    g_assert_true(block_at(r, CODE)->checks_itself);
    put_value(r, CODE + 4096, 7);
    g_assert_cmpuint(run(r, CODE + 4096), ==, 7);
    g_assert_false(block_at(r, CODE + 4096)->checks_itself);
    /* Some seconds later that is over, and writes are heard of again. */
    JitPage *page = g_hash_table_lookup(r->jit->pages, block_at(r, CODE)->page);
    g_assert_true(page->often);
    g_assert_cmpuint(r->jit->often_count, ==, 1);
    jit_review_pages(r->jit, r->cpu);
    g_assert_true(block_at(r, CODE)->checks_itself);
    page->since_ns -= 3 * INT64_C(1000000000);
    r->jit->reviewed_ns = 0;
    jit_review_pages(r->jit, r->cpu);
    g_assert_false(page->often);
    g_assert_cmpuint(r->jit->often_count, ==, 0);
    g_assert_null(block_at(r, CODE));
    g_assert_cmpuint(run(r, CODE), ==, 40);
    g_assert_false(block_at(r, CODE)->checks_itself);
    put_value(r, CODE, 41);
    g_assert_null(block_at(r, CODE));
    g_assert_cmpuint(run(r, CODE), ==, 41);
    put_value(r, CODE, 40);
    g_assert_cmpuint(run(r, CODE), ==, 40);
    uint64_t stale = r->jit->stale_count;
    jit_drop_all(r->jit);
    g_assert_cmpuint(r->jit->stale_count, >, stale);
    g_assert_cmpuint(r->jit->block_count, ==, 0);
    g_assert_null(block_at(r, CODE));
    g_assert_cmpuint(run(r, CODE), ==, 40);
}

/* An instruction in two pages: found where both follow each other, and gone with either. */
static void test_straddling(Rig *r, gconstpointer data)
{
    uint64_t at = CODE + 4096 - 2;

    r->jit->tier = false;
    put_value(r, at, 0x01020304);
    g_assert_cmpuint(run(r, at), ==, 0x01020304);
    JitBlock *b = block_at(r, at);
    g_assert_nonnull(b);
    g_assert_nonnull(b->second);
    put(r, at + 4, "\x09", 1);
    g_assert_true(b->stale);
    g_assert_cmpuint(run(r, at), ==, 0x09020304);
    b = block_at(r, at);
    put(r, at, "\xb8\x05", 2);
    g_assert_true(b->stale);
    g_assert_cmpuint(run(r, at), ==, 0x09020305);
}

/* More code than the memory holds, several times over. */
static void test_regions(Rig *r, gconstpointer data)
{
    const unsigned count = 100000;
    GRand *rand = g_rand_new_with_seed(7);

    r->jit->tier = false;
    for (unsigned n = 0; n < count; n++) {
        uint64_t at = 0x100000 + n * 64;
        put_value(r, at, n * 77);
        g_assert_cmpuint(run(r, at), ==, n * 77);
        if (n % 16 == 0) {
            unsigned k = (unsigned)g_rand_int_range(rand, 0, (gint32)n + 1);
            g_assert_cmpuint(run(r, 0x100000 + k * 64), ==, k * 77);
            jit_evict_one(r->jit, r->cpu, g_rand_int(rand));
        }
    }
    g_assert_cmpuint(r->jit->evictions, >, JIT_REGIONS);
    /* The table has what is there, and nothing else; code leads to its block. */
    unsigned found = 0;
    for (unsigned i = 0; i < JIT_REGIONS; i++) {
        const GPtrArray *blocks = r->jit->regions[i].blocks;
        for (guint n = 0; n < blocks->len; n++) {
            JitBlock *b = blocks->pdata[n];
            JitBlock *in_table = jit_find_made(r->cpu, r->v, b->key, b->page + b->offset);
            found += !b->stale;
            g_assert_true(b->stale ? in_table != b : in_table == b);
            g_assert_true(jit_block_at(r->jit, jit_rx(r->jit, b->code)) == b);
            g_assert_true(jit_block_at(r->jit, jit_rx(r->jit, b->code + b->code_size - 1)) == b);
            if (b->cold_size) {
                g_assert_true(jit_block_at(r->jit, jit_rx(r->jit, b->cold)) == b);
            }
        }
    }
    g_assert_cmpuint(found, ==, r->jit->block_count);
    g_rand_free(rand);
}

/* Code whose immediates are patched all the time is not made anew for it; other patches are noticed. */
static void test_varying(Rig *r, gconstpointer data)
{
    uint8_t code[] = {
        0x48, 0xc7, 0xc0, 0,    0,    0,    0,                   /* mov rax, imm32 */
        0x49, 0xb8, 0,    0,    0,    0,    0, 0,    0,    0,    /* mov r8, imm64 */
        0x45, 0x31, 0xe4, 0x49, 0x81, 0xc4, 0, 0,    0,    0,    /* xor r12d, r12d; add r12, imm32 */
        0x4c, 0x01, 0xe0, 0x48, 0x05, 0,    0, 0,    0,          /* add rax, r12; add rax, imm32 */
        0x48, 0x83, 0xd0, 0,                                     /* adc rax, imm8 */
        0x49, 0x81, 0xf0, 0,    0,    0,    0,                   /* xor r8, imm32 */
        0x4c, 0x01, 0xc0,                                        /* add rax, r8 */
        0x41, 0x81, 0xe8, 0,    0,    0,    0, 0x4c, 0x01, 0xc0, /* sub r8d, imm32; add rax, r8 */
        0xf4,                                                    /* hlt */
    };
    static const struct {
        uint8_t at, size;
    } fields[] = { { 3, 4 }, { 9, 8 }, { 23, 4 }, { 32, 4 }, { 39, 1 }, { 43, 4 }, { 53, 4 } };
    enum { OPERATION = 42 };
    GRand *rand = g_rand_new_with_seed(3);
    uint64_t made = 0;

    r->jit->tier = false;
    for (unsigned round = 0; round < 600; round++) {
        unsigned f = round % G_N_ELEMENTS(fields);
        int32_t imm[G_N_ELEMENTS(fields)];
        uint64_t r8;
        for (unsigned k = 0; k < fields[f].size; k++) {
            code[fields[f].at + k] = (uint8_t)g_rand_int(rand);
        }
        if (round == 300) {
            made = r->jit->translated;
        }
        if (round == 500) {
            g_assert_cmpuint(r->jit->translated, ==, made);
        }
        /* From xor to and, and back. */
        code[OPERATION] = round >= 500 && round % 7 == 0 ? 0xe0 : 0xf0;
        put(r, CODE, code, sizeof(code));
        for (unsigned n = 0; n < G_N_ELEMENTS(fields); n++) {
            memcpy(&imm[n], code + fields[n].at, 4);
        }
        memcpy(&r8, code + fields[1].at, 8);
        uint64_t rax = (uint64_t)(int64_t)imm[0] + (uint64_t)(int64_t)imm[2], sum;
        bool carry = __builtin_add_overflow(rax, (uint64_t)(int64_t)imm[3], &sum);
        sum += (uint64_t)(int8_t)code[fields[4].at] + carry;
        uint64_t operand = (uint64_t)(int64_t)imm[5];
        r8 = code[OPERATION] == 0xe0 ? r8 & operand : r8 ^ operand;
        sum += r8;
        sum += (uint32_t)r8 - (uint32_t)imm[6];
        g_assert_cmphex(run(r, CODE), ==, sum);
    }
    g_assert_true(block_at(r, CODE)->checks_itself);
    g_rand_free(rand);
}

/* Blocks that go on in their careful variants, of which lockstep compares some: each comes back by itself,
 * also where it ran before without being compared. One that did not would end behind its own end, with flags
 * that are right for there (dead, as ADD is next). */
static void test_lockstep_careful(Rig *r, gconstpointer data)
{
    enum { PAGES = 64, RUNS = 6, BLOCK = JIT_MAX_INSNS };
    uint64_t operands = 0x20000 + 4096 - 4;

    for (unsigned page = 0; page < PAGES; page++) {
        uint64_t at = CODE + 0x20000 + page * 4096;
        /* mov rbx, operands; jmp to the next (one block; what follows is another) */
        uint8_t start[] = { 0x48, 0xc7, 0xc3, 0, 0, 0, 0, 0xeb, 0x00 };
        uint32_t address = (uint32_t)operands;
        memcpy(start + 3, &address, 4);
        put(r, at, start, sizeof(start));
        at += sizeof(start);
        put(r, at, "\x31\xc0\x31\xd2", 4); /* xor eax, eax; xor edx, edx */
        at += 4;
        /* A group of accesses that lies in two pages; ADDs up to the block's end. */
        put(r, at, "\x8b\x0b\x8b\x73\x08", 5); /* mov ecx, [rbx]; mov esi, [rbx + 8] */
        at += 5;
        for (unsigned n = 4; n < BLOCK; n++, at += 3) {
            put(r, at, "\x83\xc0\xff", 3); /* add eax, -1 */
        }
        put(r, at, "\x83\xc2\xff\x89\x13", 5); /* add edx, -1; mov [rbx], edx: the careful variant's end */
        put(r, at + 5, "\x83\xc0\x01\x01\xd0\xf4", 6); /* add eax, 1; add eax, edx; hlt */
        for (unsigned n = 0; n < RUNS; n++) {
            uint64_t careful = r->v->exits[JIT_EXIT_CAREFUL], checked = jit_lockstep_checked(r->v);
            g_assert_cmphex(run(r, CODE + 0x20000 + page * 4096), ==, (uint32_t) - (BLOCK - 4));
            g_assert_true(r->v->exits[JIT_EXIT_CAREFUL] > careful || jit_lockstep_checked(r->v) > checked);
        }
    }
    g_assert_cmpuint(r->v->exits[JIT_EXIT_CAREFUL], >=, PAGES * 2);
    g_assert_cmpuint(jit_lockstep_checked(r->v), >=, PAGES * 2);
}

/* HLT behind what keeps interrupts away from it. */
static void test_shadow(Rig *r, gconstpointer data)
{
    r->jit->tier = false;
    put(r, CODE, "\x31\xc0\xfb\xf4", 4);           /* xor eax, eax; sti; hlt */
    put(r, CODE + 64, "\x31\xc0\x8e\xd0\xf4", 5);  /* xor eax, eax; mov ss, ax; hlt */
    put(r, CODE + 128, "\x31\xc0\xfb\x90\xf4", 5); /* xor eax, eax; sti; nop; hlt */
    for (unsigned n = 0; n < 40; n++) {
        run(r, CODE);
        run(r, CODE + 64);
        run(r, CODE + 128);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/jit/cache/tier", Rig, GUINT_TO_POINTER(16), setup, test_tier, teardown);
    g_test_add("/jit/cache/written", Rig, GUINT_TO_POINTER(16), setup, test_written, teardown);
    g_test_add("/jit/cache/straddling", Rig, GUINT_TO_POINTER(16), setup, test_straddling, teardown);
    g_test_add("/jit/cache/regions", Rig, GUINT_TO_POINTER(8), setup, test_regions, teardown);
    g_test_add("/jit/cache/varying", Rig, GUINT_TO_POINTER(16), setup, test_varying, teardown);
    g_test_add("/jit/cache/shadow", Rig, GUINT_TO_POINTER(16), setup, test_shadow, teardown);
    g_test_add("/jit/lockstep/shadow", Rig, GUINT_TO_POINTER(16), setup_lockstep, test_shadow, teardown);
    g_test_add("/jit/lockstep/careful", Rig, GUINT_TO_POINTER(16), setup_lockstep, test_lockstep_careful,
               teardown);
    return g_test_run();
}
