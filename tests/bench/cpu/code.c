/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Class "code": instructions that are written at run time. The generator makes code of the kind that
 * compilers make: arithmetic on registers, loads and stores, a conditional branch every six instructions or
 * so, calls of what was made before. Registers: rdi points to DATA bytes, rax carries the result, rcx rdx rsi
 * r8..r11 are free.
 */
#include "bench.h"

#include <sys/mman.h>

enum { DATA = 4096 };

typedef uint64_t (*Code)(void *data, uint64_t a, uint64_t b, uint64_t c);

typedef struct Emitter {
    unsigned char *at;
    uint64_t seed, instructions;
} Emitter;

static const unsigned char scratch[8] = { 0, 1, 2, 6, 8, 9, 10, 11 };

static unsigned choose(Emitter *emitter, unsigned n)
{
    return (unsigned)((bench_random(&emitter->seed) >> 32) % n);
}

static unsigned any(Emitter *emitter)
{
    return scratch[choose(emitter, 8)];
}

static void byte(Emitter *emitter, unsigned value)
{
    *emitter->at++ = (unsigned char)value;
}

static void dword(Emitter *emitter, uint32_t value)
{
    memcpy(emitter->at, &value, 4);
    emitter->at += 4;
}

/* REX.W OPCODE /r between registers. */
static void registers(Emitter *emitter, unsigned opcode, unsigned reg, unsigned rm)
{
    byte(emitter, 0x48 | (reg & 8) >> 1 | (rm & 8) >> 3);
    byte(emitter, opcode);
    byte(emitter, 0xc0 | (reg & 7) << 3 | (rm & 7));
    emitter->instructions++;
}

/* REX.W OPCODE /r with [rdi + displacement]. */
static void memory(Emitter *emitter, unsigned opcode, unsigned reg, unsigned displacement)
{
    byte(emitter, 0x48 | (reg & 8) >> 1);
    byte(emitter, opcode);
    byte(emitter, 0x87 | (reg & 7) << 3);
    dword(emitter, displacement);
    emitter->instructions++;
}

static void plain_instruction(Emitter *emitter)
{
    static const unsigned char operations[] = { 0x01, 0x29, 0x31, 0x21, 0x09, 0x39 };
    unsigned reg = any(emitter), other = any(emitter);

    switch (choose(emitter, 12)) {
    case 0:
    case 1:
    case 2: /* add, sub, xor, and, or, cmp */
        registers(emitter, operations[choose(emitter, 6)], reg, other);
        break;
    case 3: /* mov */
        registers(emitter, 0x89, reg, other);
        break;
    case 4: /* mov with an immediate */
        byte(emitter, 0x48 | (reg & 8) >> 3);
        byte(emitter, 0xc7);
        byte(emitter, 0xc0 | (reg & 7));
        dword(emitter, (uint32_t)bench_random(&emitter->seed));
        emitter->instructions++;
        break;
    case 5: /* lea reg, [other + index + 8 bits] */
    {
        unsigned index = any(emitter);
        byte(emitter, 0x48 | (reg & 8) >> 1 | (index & 8) >> 2 | (other & 8) >> 3);
        byte(emitter, 0x8d);
        byte(emitter, 0x44 | (reg & 7) << 3);
        byte(emitter, choose(emitter, 4) << 6 | (index & 7) << 3 | (other & 7));
        byte(emitter, choose(emitter, 128));
        emitter->instructions++;
        break;
    }
    case 6: /* shl or shr */
        byte(emitter, 0x48 | (reg & 8) >> 3);
        byte(emitter, 0xc1);
        byte(emitter, (choose(emitter, 2) ? 0xe0 : 0xe8) | (reg & 7));
        byte(emitter, 1 + choose(emitter, 20));
        emitter->instructions++;
        break;
    case 7:
    case 8: /* load */
        memory(emitter, 0x8b, reg, choose(emitter, DATA / 8) * 8);
        break;
    case 9: /* add from memory */
        memory(emitter, 0x03, reg, choose(emitter, DATA / 8) * 8);
        break;
    case 10: /* store */
        memory(emitter, 0x89, reg, choose(emitter, DATA / 8) * 8);
        break;
    default: /* add rax, reg: what was computed counts */
        registers(emitter, 0x01, reg, 0);
    }
}

/* A function of about `size` instructions; `callee` is called once or is NULL. */
static Code emit_function(Emitter *emitter, unsigned size, Code callee)
{
    unsigned char *start = emitter->at;
    uint64_t end = emitter->instructions + size;
    static const unsigned char conditions[] = { 0x74, 0x75, 0x72, 0x73, 0x7c, 0x7d, 0x7f, 0x78 };

    /* All free registers are set first: nothing depends on who called. */
    for (unsigned i = 0; i < 8; i++)
        memory(emitter, 0x8b, scratch[i], choose(emitter, DATA / 8) * 8);
    while (emitter->instructions < end) {
        for (unsigned n = 2 + choose(emitter, 6); n > 0; n--)
            plain_instruction(emitter);
        registers(emitter, choose(emitter, 2) ? 0x39 : 0x85, any(emitter), any(emitter)); /* cmp or test */
        byte(emitter, conditions[choose(emitter, 8)]);
        unsigned char *hole = emitter->at++;
        emitter->instructions++;
        for (unsigned n = 1 + choose(emitter, 3); n > 0; n--)
            plain_instruction(emitter);
        *hole = (unsigned char)(emitter->at - hole - 1);
        if (callee && choose(emitter, 4) == 0) {
            memory(emitter, 0x89, 0, 0); /* the result so far */
            byte(emitter, 0xe8);
            dword(emitter, (uint32_t)((unsigned char *)callee - (emitter->at + 4)));
            memory(emitter, 0x03, 0, 0);
            emitter->instructions++;
            callee = NULL;
        }
    }
    byte(emitter, 0xc3);
    emitter->instructions++;
    while ((uintptr_t)emitter->at & 15)
        byte(emitter, 0xcc);
    return (Code)start;
}

static void *code_pages(size_t size)
{
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (pages == MAP_FAILED)
        bench_fail("no memory that is writable and executable");
    return pages;
}

static void *code_data(void)
{
    uint64_t *data = bench_pages(DATA), seed = 101;
    for (unsigned i = 0; i < DATA / 8; i++)
        data[i] = bench_random(&seed);
    return data;
}

/* Small functions are made by copying and patching, as just-in-time compilers do; each runs a few times. */
static uint64_t run_code_new(uint64_t count)
{
    enum { TEMPLATES = 16, SPACE = 1 << 20, ROOM = 1024 };
    unsigned char *templates = bench_pages(TEMPLATES * ROOM), *space = code_pages(SPACE);
    uint64_t sum = 0;
    void *data = code_data();
    size_t sizes[TEMPLATES], at = 0;

    for (unsigned i = 0; i < TEMPLATES; i++) {
        Emitter emitter = { templates + i * ROOM, i + 1, 0 };
        emit_function(&emitter, 40, NULL);
        sizes[i] = (size_t)(emitter.at - (templates + i * ROOM));
    }
    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        unsigned which = i % TEMPLATES;
        memcpy(space + at, templates + which * ROOM, sizes[which]);
        uint32_t displacement = (uint32_t)(i * 8 % DATA); /* of the first load */
        memcpy(space + at + 3, &displacement, 4);
        for (unsigned run = 0; run < 25; run++)
            sum = bench_mix(sum, ((Code)(space + at))(data, 1, 2, 3));
        at = at + ROOM < SPACE - ROOM ? at + ROOM : 0;
    }
    bench_stop();
    return sum;
}

/* As a program's start is: fresh pages are filled with code (copied), which is run through once, and given
 * back. */
static uint64_t run_code_once(uint64_t count)
{
    enum { FUNCTIONS = 128, SPACE = 1 << 18 };
    unsigned char *model = bench_pages(SPACE);
    void *data = code_data();
    size_t starts[FUNCTIONS];
    Emitter emitter = { model, 103, 0 };
    uint64_t sum = 0;

    for (unsigned i = 0; i < FUNCTIONS; i++)
        starts[i] = (size_t)((unsigned char *)emit_function(&emitter, 200, NULL) - model);
    size_t size = (size_t)(emitter.at - model);
    if (size > SPACE)
        bench_fail("the generated code is larger than its space");
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        unsigned char *space =
            mmap(NULL, SPACE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (space == MAP_FAILED)
            bench_fail("no memory that is writable and executable");
        memcpy(space, model, size);
        for (unsigned i = 0; i < FUNCTIONS; i++) {
            uint32_t displacement =
                (uint32_t)((round + i) * 8 % DATA); /* of the first load: never twice the same */
            memcpy(space + starts[i] + 3, &displacement, 4);
        }
        for (unsigned i = 0; i < FUNCTIONS; i++)
            sum = bench_mix(sum, ((Code)(space + starts[i]))(data, 1, 2, 3));
    }
    bench_stop();
    return sum;
}

/* for (rcx = rsi; rcx; rcx--) rax = (rax ^ rcx) + IMMEDIATE, with a new immediate before each call. */
static uint64_t run_code_patched(uint64_t count)
{
    static const unsigned char loop[] = {
        0x48, 0x89, 0xf1,                   /* mov rcx, rsi */
        0x31, 0xc0,                         /* xor eax, eax */
        0x48, 0x31, 0xc8,                   /* xor rax, rcx */
        0x48, 0x05, 0x00, 0x00, 0x00, 0x00, /* add rax, imm32 */
        0x48, 0xff, 0xc9,                   /* dec rcx */
        0x75, 0xf2,                         /* jnz to the xor */
        0xc3,
    };
    unsigned char *space = code_pages(4096);
    uint64_t sum = 0;

    memcpy(space, loop, sizeof loop);
    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        uint32_t immediate = (uint32_t)(i * 77 & 0x7fffffff);
        memcpy(space + 10, &immediate, 4);
        sum = bench_mix(sum, ((Code)space)(NULL, 100, 0, 0));
    }
    bench_stop();
    return sum;
}

/* Code that keeps a number in its own page. */
static uint64_t run_code_data(uint64_t count)
{
    static const unsigned char body[] = {
        0x48, 0x8b, 0x05, 0xf9, 0x01, 0x00, 0x00, /* mov rax, [rip + 0x1f9]: offset 512 of the page */
        0x48, 0x01, 0xf0,                         /* add rax, rsi */
        0x48, 0x6b, 0xc0, 0x05,                   /* imul rax, rax, 5 */
        0x48, 0xc1, 0xc8, 0x07,                   /* ror rax, 7 */
        0x48, 0x31, 0xf0,                         /* xor rax, rsi */
        0x48, 0x6b, 0xc0, 0x0d,                   /* imul rax, rax, 13 */
        0x48, 0x89, 0x05, 0xe0, 0x01, 0x00, 0x00, /* mov [rip + 0x1e0], rax */
        0xc3,
    };
    unsigned char *space = code_pages(4096);
    uint64_t sum = 0;

    memcpy(space, body, sizeof body);
    bench_start();
    for (uint64_t i = 0; i < count; i++)
        sum += ((Code)space)(NULL, i, 0, 0);
    bench_stop();
    return bench_mix(sum, *(uint64_t *)(space + 512));
}

/*
 * What translation costs, apart: new code is run once and once more, and the times of both runs are noted.
 * Functions call each other, so that it looks like a program's start.
 */
static uint64_t run_translate(uint64_t count)
{
    enum { FUNCTIONS = 256, SPACE = 1 << 20 };
    unsigned char *space = code_pages(SPACE);
    void *data = code_data();
    Code functions[FUNCTIONS];
    uint64_t sum = 0, first = 0, second = 0, instructions = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        Emitter emitter = { space, round * 2 + 107, 0 };
        for (unsigned i = 0; i < FUNCTIONS; i++)
            functions[i] = emit_function(&emitter, 120, i % 4 == 3 ? functions[i - 1] : NULL);
        if (emitter.at > space + SPACE)
            bench_fail("the generated code is larger than its space");
        instructions += emitter.instructions;
        for (unsigned pass = 0; pass < 2; pass++) {
            uint64_t began = bench_now_ns();
            for (unsigned i = 0; i < FUNCTIONS; i++)
                sum = bench_mix(sum, functions[i](data, 1, 2, 3));
            *(pass ? &second : &first) += bench_now_ns() - began;
        }
    }
    bench_stop();
    bench_note("instructions=%llu first_ns=%llu second_ns=%llu", (unsigned long long)instructions,
               (unsigned long long)first, (unsigned long long)second);
    return sum;
}

const BenchProgram code_programs[] = {
    { "code_new", "code", run_code_new, 80000 },
    { "code_once", "code", run_code_once, 150 },
    { "code_patched", "code", run_code_patched, 250000 },
    { "code_data", "code", run_code_data, 9000000 },
    { 0 },
};

const BenchProgram extra_programs[] = {
    { "translate", "extra", run_translate, 20 },
    { 0 },
};
