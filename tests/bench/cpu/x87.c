/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "x87": extended precision on the register stack. */
typedef long double Real;
#include "kernels.h"

static inline Real root(Real x)
{
    __asm__("fsqrt" : "+t"(x));
    return x;
}

static uint64_t run_nbody(uint64_t count)
{
    Body bodies[BODIES];

    bodies_make(bodies);
    bench_start();
    for (uint64_t i = 0; i < count; i++)
        bodies_step(bodies, (Real)0.0005, root);
    bench_stop();
    return bodies_sum(bodies);
}

static uint64_t run_mandelbrot(uint64_t count)
{
    uint64_t sum = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++)
        sum = bench_mix(sum, mandelbrot(64 + (unsigned)i % 8, 400));
    bench_stop();
    return sum;
}

/* The last bits of these instructions are the maker's choice: the sum is rounded. */
static uint64_t run_transcendental(uint64_t count)
{
    Real sum = 0;

    bench_start();
    for (uint64_t i = 1; i <= count; i++) {
        Real x = (Real)(i % 10007) / 10007 + (Real)0.01, y, one = 1;
        y = x;
        __asm__("fsin" : "+t"(y));
        sum += y;
        y = x;
        __asm__("fcos" : "+t"(y));
        sum += y;
        __asm__("fpatan" : "=t"(y) : "0"(x + 1), "u"(x) : "st(1)"); /* atan(x / (x + 1)) */
        sum += y;
        __asm__("fyl2x" : "=t"(y) : "0"(x), "u"(one) : "st(1)");
        sum += y;
        y = x * (Real)0.5;
        __asm__("f2xm1" : "+t"(y));
        sum += y;
    }
    bench_stop();
    return (uint64_t)(int64_t)(sum * 16);
}

const BenchProgram x87_programs[] = {
    { "x87_nbody", "x87", run_nbody, 550000 },
    { "x87_mandelbrot", "x87", run_mandelbrot, 28 },
    { "x87_transcendental", "x87", run_transcendental, 1500000 },
    { 0 },
};
