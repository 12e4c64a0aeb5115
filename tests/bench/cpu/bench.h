/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The programs of `make bench-cpu`. Each is a function that prepares its data, does a fixed amount of work
 * between bench_start() and bench_stop(), and returns a checksum of what it computed: the same on every
 * machine, so that a wrong emulation is an error and not a figure. `count` is about 0.2 s of work natively
 * (times the scale asked for).
 */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct BenchProgram {
    const char *name;
    const char *class;
    uint64_t (*run)(uint64_t count);
    uint64_t count;
} BenchProgram;

extern const BenchProgram integer_programs[], control_programs[], memory_programs[], float_programs[],
    x87_programs[], sse_programs[], avx2_programs[], special_programs[], atomic_programs[], code_programs[],
    system_programs[], time_programs[], extra_programs[];

/* Around the work that is timed. */
void bench_start(void);
void bench_stop(void);
uint64_t bench_now_ns(void);

/* Text that is printed behind the checksum, not compared: further figures of a program. */
void bench_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ends the program with status 1 and the message: a checksum could not say it better. */
void bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Zeroed pages, touched, aligned to a page; never freed (a program runs once). */
void *bench_pages(size_t size);

/* The value must be computed, and nothing is known of it afterwards. */
#define KEEP(value) __asm__ volatile("" : "+r"(value) : : "memory")

static inline uint64_t bench_mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    return hash ^ (hash >> 29);
}

/* xorshift64*: the state must not be 0. */
static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1du;
}

static inline uint64_t bench_bits(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint64_t bench_mix_bytes(uint64_t hash, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    for (; size >= 8; bytes += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        hash = bench_mix(hash, word);
    }
    for (; size > 0; bytes++, size--)
        hash = bench_mix(hash, *bytes);
    return hash;
}

#endif
