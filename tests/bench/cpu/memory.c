/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "memory": string instructions, bulk copies, and accesses that miss caches or the TLB. */
#include "bench.h"

enum { MIB = 1 << 20 };

static uint64_t run_rep_movs(uint64_t count)
{
    enum { SIZE = 16384 };
    unsigned char *from = bench_pages(SIZE), *to = bench_pages(SIZE + 64);
    uint64_t seed = 41;

    for (unsigned i = 0; i < SIZE; i++)
        from[i] = (unsigned char)bench_random(&seed);
    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        unsigned char *source = from, *target = to + (i & 63);
        uint64_t n = SIZE;
        __asm__ volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(n) : : "memory");
        source = from;
        target = to;
        n = SIZE / 2 / 8;
        __asm__ volatile("rep movsq" : "+S"(source), "+D"(target), "+c"(n) : : "memory");
        from[i % SIZE]++;
    }
    bench_stop();
    return bench_mix_bytes(0, to, SIZE);
}

static uint64_t run_memset(uint64_t count)
{
    enum { SIZE = 4 * MIB };
    unsigned char *to = bench_pages(SIZE);
    uint64_t sum = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        size_t size = 64 + (i * 104729) % (i & 15 ? 1024 : 16384), offset = i * 86243 % (SIZE - 2 * MIB);
        memset(to + offset, (int)i, size);
        KEEP(to);
        sum += to[offset + size / 2];
    }
    bench_stop();
    return bench_mix_bytes(sum, to, SIZE);
}

static uint64_t run_memcpy(uint64_t count)
{
    enum { SIZE = 4 * MIB };
    unsigned char *from = bench_pages(SIZE), *to = bench_pages(SIZE);
    uint64_t seed = 43, sum = 0;

    for (unsigned i = 0; i < SIZE / 8; i++)
        ((uint64_t *)from)[i] = bench_random(&seed);
    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        size_t size = 8 + (i * 104729) % (i & 15 ? 500 : 4000), offset = i * 86243 % (SIZE - 2 * MIB);
        memcpy(to + offset, from + (offset ^ (i & 63)), size);
        KEEP(to);
        sum += to[offset + size / 2];
    }
    bench_stop();
    return bench_mix_bytes(sum, to, SIZE);
}

/* One word of each page of more pages than a TLB holds. */
static uint64_t run_touch(uint64_t count)
{
    enum { PAGES = 32768 };
    unsigned char *pages = bench_pages((size_t)PAGES * 4096);
    uint64_t sum = 0;

    for (uint64_t i = 0; i < PAGES; i++)
        *(uint64_t *)(pages + i * 4096 + i % 64 * 64) = i * i;
    bench_start();
    for (uint64_t round = 0; round < count; round++)
        for (uint64_t i = 0; i < PAGES; i++)
            sum += *(uint64_t *)(pages + i * 4096 + i % 64 * 64) ^ round;
    bench_stop();
    return sum;
}

static uint64_t run_triad(uint64_t count)
{
    enum { ELEMENTS = 4 * MIB };
    double *a = bench_pages(ELEMENTS * 8), *b = bench_pages(ELEMENTS * 8), *c = bench_pages(ELEMENTS * 8);

    for (unsigned i = 0; i < ELEMENTS; i++) {
        b[i] = i * 0.3;
        c[i] = i + 0.7;
    }
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        double factor = 1.0 + (double)round;
        for (unsigned i = 0; i < ELEMENTS; i++)
            a[i] = b[i] + factor * c[i];
        KEEP(a);
    }
    bench_stop();
    return bench_mix_bytes(0, a, ELEMENTS * 8);
}

/* A random cycle through `size` bytes, one step per cache line. */
static uint64_t chase(uint64_t count, size_t size)
{
    unsigned char *lines = bench_pages(size);
    size_t n = size / 64;
    uint32_t *order = bench_pages(n * 4);
    uint64_t seed = 47;

    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    for (size_t i = n - 1; i > 0; i--) {
        size_t j = bench_random(&seed) % i; /* below i: one cycle */
        uint32_t swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (size_t i = 0; i < n; i++)
        *(void **)(lines + i * 64) = lines + (size_t)order[i] * 64;
    void *at = lines;
    bench_start();
    for (uint64_t i = 0; i < count; i++)
        at = *(void **)at;
    KEEP(at);
    bench_stop();
    return (uint64_t)((unsigned char *)at - lines);
}

static uint64_t run_chase_16k(uint64_t count)
{
    return chase(count, 16 << 10);
}

static uint64_t run_chase_1m(uint64_t count)
{
    return chase(count, MIB);
}

static uint64_t run_chase_64m(uint64_t count)
{
    return chase(count, (size_t)64 * MIB);
}

/* Independent loads from random places: many misses at a time. */
static uint64_t run_random_read(uint64_t count)
{
    size_t size = (size_t)16 * MIB;
    uint64_t *words = bench_pages(size), seed = 53, sum = 0;

    for (size_t i = 0; i < size / 8; i++)
        words[i] = i * 0x9e3779b97f4a7c15u;
    bench_start();
    for (uint64_t i = 0; i < count; i++)
        sum += words[bench_random(&seed) % (16 * MIB / 8)];
    bench_stop();
    return sum;
}

static uint64_t run_transpose(uint64_t count)
{
    enum { SIDE = 1024 };
    uint32_t *a = bench_pages(SIDE * SIDE * 4), *b = bench_pages(SIDE * SIDE * 4);
    uint64_t seed = 59;

    for (unsigned i = 0; i < SIDE * SIDE; i++)
        a[i] = (uint32_t)bench_random(&seed);
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned row = 0; row < SIDE; row++)
            for (unsigned column = 0; column < SIDE; column++)
                b[column * SIDE + row] = a[row * SIDE + column] + (uint32_t)round;
        uint32_t *swap = a;
        a = b;
        b = swap;
    }
    bench_stop();
    return bench_mix_bytes(0, a, SIDE * SIDE * 4);
}

const BenchProgram memory_programs[] = {
    { "rep_movs", "memory", run_rep_movs, 97000 },
    { "memset", "memory", run_memset, 5100000 },
    { "memcpy", "memory", run_memcpy, 3700000 },
    { "touch", "memory", run_touch, 850 },
    { "triad", "memory", run_triad, 39 },
    { "chase_16k", "memory", run_chase_16k, 120000000 },
    { "chase_1m", "memory", run_chase_1m, 12000000 },
    { "chase_64m", "memory", run_chase_64m, 780000 },
    { "random_read", "memory", run_random_read, 17000000 },
    { "transpose", "memory", run_transpose, 21 },
    { 0 },
};
