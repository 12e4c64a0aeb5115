/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "control": calls, returns, jumps through registers, and the library calls that are made of them. */
#include "bench.h"

#include <stdlib.h>

#define NOINLINE __attribute__((noinline, noclone))

static NOINLINE uint64_t step_add(uint64_t x)
{
    return x + 0x1234567;
}
static NOINLINE uint64_t step_xor(uint64_t x)
{
    return x ^ x >> 7;
}
static NOINLINE uint64_t step_mul(uint64_t x)
{
    return x * 0x9e3779b1;
}
static NOINLINE uint64_t step_rotate(uint64_t x)
{
    return x << 13 | x >> 51;
}
static NOINLINE uint64_t step_sub(uint64_t x)
{
    return x - 99;
}
static NOINLINE uint64_t step_not(uint64_t x)
{
    return ~x;
}
static NOINLINE uint64_t step_swap(uint64_t x)
{
    return __builtin_bswap64(x);
}
static NOINLINE uint64_t step_double(uint64_t x)
{
    return x * 3 + 1;
}

static uint64_t run_call_same(uint64_t count)
{
    uint64_t (*volatile step)(uint64_t) = step_mul;
    uint64_t x = 1;

    bench_start();
    for (uint64_t i = 0; i < count; i++)
        x = step(x + i);
    bench_stop();
    return x;
}

static uint64_t run_call_many(uint64_t count)
{
    static uint64_t (*const steps[8])(uint64_t) = { step_add, step_xor, step_mul,  step_rotate,
                                                    step_sub, step_not, step_swap, step_double };
    uint64_t x = 1, seed = 19;

    bench_start();
    for (uint64_t i = 0; i < count; i++)
        x = steps[bench_random(&seed) >> 61](x);
    bench_stop();
    return x;
}

static uint64_t run_malloc(uint64_t count)
{
    enum { SLOTS = 1024 };
    void **slots = bench_pages(SLOTS * sizeof(void *));
    uint64_t seed = 23, sum = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        uint64_t r = bench_random(&seed);
        void **slot = &slots[r % SLOTS];
        if (*slot) {
            sum = bench_mix(sum, *(uint64_t *)*slot);
            free(*slot);
        }
        size_t size = 16 + (r >> 20) % (r >> 60 ? 200 : 4000);
        *slot = malloc(size);
        if (!*slot)
            bench_fail("no memory");
        *(uint64_t *)*slot = r;
    }
    bench_stop();
    return sum;
}

static uint64_t run_strings(uint64_t count)
{
    enum { STRINGS = 64, SPACE = 64 };
    static char strings[STRINGS][SPACE], buffer[256];
    char *(*volatile find)(const char *, const char *) = strstr; /* or the compiler knows too much */
    uint64_t seed = 29, sum = 0;

    for (unsigned i = 0; i < STRINGS; i++) {
        unsigned length = 5 + (unsigned)(bench_random(&seed) % 50);
        for (unsigned j = 0; j < length; j++)
            strings[i][j] = (char)('a' + bench_random(&seed) % 20);
    }
    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        char *a = strings[i % STRINGS], *b = strings[i * 7 % STRINGS];
        KEEP(a);
        KEEP(b);
        strcpy(buffer, a);
        strcat(buffer, b);
        sum += strlen(buffer);
        sum += strcmp(a, b) > 0;
        const char *at = strchr(buffer, 't');
        sum += at ? (uint64_t)(at - buffer) : 77;
        at = find(buffer, b);
        sum = bench_mix(sum, at ? (uint64_t)(at - buffer) : 1);
        sum += memchr(buffer, 'q', 60) != NULL;
        sum += strspn(b, "abcdefgh");
    }
    bench_stop();
    return sum;
}

/* A register machine: the same byte code for both interpreters. */
enum { OP_ADD, OP_SUB, OP_XOR, OP_SHIFT, OP_LOAD, OP_STORE, OP_SMALL, OP_LOOP, OP_ODD, OP_END };

typedef struct Op {
    unsigned char code, to, from, other;
} Op;

static const Op byte_code[] = {
    { OP_SMALL, 1, 200, 0 }, /* 0: r1 = 200 */
    { OP_ADD, 2, 2, 1 },     /* 1 */
    { OP_XOR, 3, 3, 2 },     /* 2 */
    { OP_STORE, 3, 2, 0 },   /* 3 */
    { OP_SHIFT, 4, 3, 5 },   /* 4 */
    { OP_ODD, 4, 2, 0 },     /* 5: odd: the next two are left out */
    { OP_LOAD, 5, 4, 0 },    /* 6 */
    { OP_SUB, 2, 2, 5 },     /* 7 */
    { OP_ADD, 6, 6, 4 },     /* 8 */
    { OP_LOOP, 1, 1, 0 },    /* 9: to 1 while --r1 */
    { OP_END, 0, 0, 0 },
};

static uint64_t memory_words[256];

static NOINLINE void interpret_switch(uint64_t r[8])
{
    const Op *op = byte_code;
    for (;;) {
        switch (op->code) {
        case OP_ADD:
            r[op->to] = r[op->from] + r[op->other];
            break;
        case OP_SUB:
            r[op->to] = r[op->from] - r[op->other];
            break;
        case OP_XOR:
            r[op->to] = r[op->from] ^ r[op->other] * 5;
            break;
        case OP_SHIFT:
            r[op->to] = r[op->from] >> op->other;
            break;
        case OP_LOAD:
            r[op->to] = memory_words[r[op->from] & 255];
            break;
        case OP_STORE:
            memory_words[r[op->from] & 255] = r[op->to];
            break;
        case OP_SMALL:
            r[op->to] = op->from;
            break;
        case OP_LOOP:
            if (--r[op->to]) {
                op = byte_code + op->from;
                continue;
            }
            break;
        case OP_ODD:
            if (r[op->to] & 1)
                op += op->from;
            break;
        default:
            return;
        }
        op++;
    }
}

static NOINLINE void interpret_goto(uint64_t r[8])
{
    static const void *const labels[] = { &&add,   &&sub,   &&xor_,  &&shift, &&load,
                                          &&store, &&small, &&loop_, &&odd,   &&end };
    const Op *op = byte_code;
#define NEXT goto *labels[(++op)->code]
    goto *labels[op->code];
add:
    r[op->to] = r[op->from] + r[op->other];
    NEXT;
sub:
    r[op->to] = r[op->from] - r[op->other];
    NEXT;
xor_:
    r[op->to] = r[op->from] ^ r[op->other] * 5;
    NEXT;
shift:
    r[op->to] = r[op->from] >> op->other;
    NEXT;
load:
    r[op->to] = memory_words[r[op->from] & 255];
    NEXT;
store:
    memory_words[r[op->from] & 255] = r[op->to];
    NEXT;
small:
    r[op->to] = op->from;
    NEXT;
loop_:
    if (--r[op->to]) {
        op = byte_code + op->from;
        goto *labels[op->code];
    }
    NEXT;
odd:
    if (r[op->to] & 1)
        op += op->from;
    NEXT;
end:
    return;
#undef NEXT
}

static uint64_t interpret(uint64_t count, void (*machine)(uint64_t[8]))
{
    uint64_t r[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

    bench_start();
    for (uint64_t i = 0; i < count; i++)
        machine(r);
    bench_stop();
    return bench_mix_bytes(bench_mix_bytes(0, r, sizeof r), memory_words, sizeof memory_words);
}

static uint64_t run_interpret_switch(uint64_t count)
{
    return interpret(count, interpret_switch);
}

static uint64_t run_interpret_goto(uint64_t count)
{
    return interpret(count, interpret_goto);
}

static NOINLINE uint64_t fibonacci(unsigned n)
{
    uint64_t smaller;
    if (n < 2)
        return n;
    smaller = fibonacci(n - 2);
    KEEP(smaller); /* so that both calls stay calls */
    return fibonacci(n - 1) + smaller;
}

static NOINLINE uint64_t ackermann(uint64_t m, uint64_t n)
{
    if (m == 0)
        return n + 1;
    uint64_t inner = n == 0 ? 1 : ackermann(m, n - 1);
    KEEP(inner);
    return ackermann(m - 1, inner);
}

static uint64_t run_recursion(uint64_t count)
{
    uint64_t sum = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++)
        sum = bench_mix(sum, fibonacci(20) + ackermann(2, 60 + (i & 3)));
    bench_stop();
    return sum;
}

static int compare_words(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t run_qsort(uint64_t count)
{
    enum { WORDS = 10000 };
    uint32_t *words = bench_pages(WORDS * 4);
    uint64_t seed = 31, sum = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned i = 0; i < WORDS; i++)
            words[i] = (uint32_t)bench_random(&seed);
        qsort(words, WORDS, 4, compare_words);
        sum = bench_mix(sum, words[round % WORDS]);
    }
    bench_stop();
    return sum;
}

static uint64_t run_branchy(uint64_t count)
{
    uint64_t seed = 37, sum = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        uint64_t r = bench_random(&seed);
        KEEP(r);
        if (r & 1 << 10) {
            if (r & 1 << 20)
                sum += 3;
            else
                sum ^= r;
        } else if (r & 1 << 21) {
            sum = sum * 5 + 1;
        }
        if ((r & 0x700000000) == 0)
            sum -= r >> 3;
        if (r >> 40 & 1)
            sum ^= sum >> 11;
        KEEP(sum);
    }
    bench_stop();
    return sum;
}

const BenchProgram control_programs[] = {
    { "call_same", "control", run_call_same, 140000000 },
    { "call_many", "control", run_call_many, 23000000 },
    { "malloc", "control", run_malloc, 8300000 },
    { "strings", "control", run_strings, 7500000 },
    { "interp_switch", "control", run_interpret_switch, 70000 },
    { "interp_goto", "control", run_interpret_goto, 88000 },
    { "recursion", "control", run_recursion, 8100 },
    { "qsort", "control", run_qsort, 290 },
    { "branchy", "control", run_branchy, 31000000 },
    { 0 },
};
