/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "float": scalar SSE2 floating point (built without vectorisation). */
typedef double Real;
#include "kernels.h"

#include <math.h>

static inline double root(double x)
{
    double result;
    __asm__("sqrtsd %1, %0" : "=x"(result) : "x"(x));
    return result;
}

static uint64_t run_nbody(uint64_t count)
{
    Body bodies[BODIES];

    bodies_make(bodies);
    bench_start();
    for (uint64_t i = 0; i < count; i++)
        bodies_step(bodies, 0.0005, root);
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

static uint64_t run_matrix(uint64_t count)
{
    enum { SIDE = 96 };
    double(*a)[SIDE] = bench_pages(SIDE * SIDE * 8), (*b)[SIDE] = bench_pages(SIDE * SIDE * 8);
    double(*c)[SIDE] = bench_pages(SIDE * SIDE * 8);

    for (unsigned i = 0; i < SIDE; i++)
        for (unsigned j = 0; j < SIDE; j++) {
            a[i][j] = (double)(i + 1) / (j + 1);
            b[i][j] = (double)(i * j % 17) - 8;
        }
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned i = 0; i < SIDE; i++)
            for (unsigned j = 0; j < SIDE; j++)
                c[i][j] = 0;
        for (unsigned i = 0; i < SIDE; i++)
            for (unsigned k = 0; k < SIDE; k++) {
                double factor = a[i][k];
                for (unsigned j = 0; j < SIDE; j++)
                    c[i][j] += factor * b[k][j];
            }
        a[round % SIDE][0] = c[0][round % SIDE] * 0.001;
    }
    bench_stop();
    return bench_mix_bytes(0, c, SIDE * SIDE * 8);
}

static uint64_t run_fft(uint64_t count)
{
    enum { POINTS = 1024 };
    static double re[POINTS], im[POINTS], cosine[POINTS / 2], sine[POINTS / 2];

    for (unsigned i = 0; i < POINTS; i++) {
        re[i] = (double)(i * 37 % 101) - 50;
        im[i] = 0;
    }
    /* Powers of the first root of unity: only multiplications, so the same everywhere. */
    cosine[0] = 1;
    sine[0] = 0;
    for (unsigned i = 1; i < POINTS / 2; i++) {
        const double c = 0.99998117528260111, s = 0.0061358846491544753; /* of 2 pi / 1024 */
        cosine[i] = cosine[i - 1] * c - sine[i - 1] * s;
        sine[i] = sine[i - 1] * c + cosine[i - 1] * s;
    }
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned i = 0, j = 0; i < POINTS; i++) { /* bit reversal */
            if (i < j) {
                double swap = re[i];
                re[i] = re[j];
                re[j] = swap;
                swap = im[i];
                im[i] = im[j];
                im[j] = swap;
            }
            unsigned bit = POINTS / 2;
            while (j & bit) {
                j ^= bit;
                bit /= 2;
            }
            j |= bit;
        }
        for (unsigned half = 1; half < POINTS; half *= 2)
            for (unsigned start = 0; start < POINTS; start += half * 2)
                for (unsigned k = 0; k < half; k++) {
                    unsigned i = start + k, j = i + half, w = k * (POINTS / 2 / half);
                    double tr = re[j] * cosine[w] - im[j] * sine[w], ti = re[j] * sine[w] + im[j] * cosine[w];
                    re[j] = re[i] - tr;
                    im[j] = im[i] - ti;
                    re[i] += tr;
                    im[i] += ti;
                }
        for (unsigned i = 0; i < POINTS; i++) {
            re[i] *= 0.03125;
            im[i] *= 0.03125;
        }
    }
    bench_stop();
    return bench_mix_bytes(bench_mix_bytes(0, re, sizeof re), im, sizeof im);
}

/* glibc chooses by CPU between variants whose last bits differ: the sum is rounded. */
static uint64_t run_libm(uint64_t count)
{
    double sum = 0;

    bench_start();
    for (uint64_t i = 1; i <= count; i++) {
        double x = (double)(i % 10007) * 0.001;
        sum += sin(x) + cos(x) * 0.5 + exp(-x) + log(x + 1) + pow(x + 0.5, 0.3) + atan2(x, 2.0) + cbrt(x);
    }
    bench_stop();
    return (uint64_t)llrint(sum * 16);
}

static uint64_t run_convert(uint64_t count)
{
    uint64_t sum = 0, seed = 61;
    float single = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        int64_t whole = (int64_t)bench_random(&seed) >> (i & 31);
        double x = (double)whole;
        float f = (float)x;
        int32_t small = (int32_t)(whole >> 40);
        single += (float)small;
        sum += (uint64_t)(int64_t)(x * 0.25);
        sum ^= (uint64_t)(uint32_t)(int32_t)(f * 1e-12f);
        sum += (uint64_t)(int64_t)(double)(single * 0.5f);
    }
    bench_stop();
    return sum;
}

static uint64_t run_lu(uint64_t count)
{
    enum { SIDE = 48 };
    static double a[SIDE][SIDE];
    uint64_t sum = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned i = 0; i < SIDE; i++)
            for (unsigned j = 0; j < SIDE; j++)
                a[i][j] = (double)((i * 31 + j * 17 + round) % 97) + (i == j ? 100 : 0);
        for (unsigned k = 0; k < SIDE; k++)
            for (unsigned i = k + 1; i < SIDE; i++) {
                double factor = a[i][k] / a[k][k];
                a[i][k] = factor;
                for (unsigned j = k + 1; j < SIDE; j++)
                    a[i][j] -= factor * a[k][j];
            }
        sum = bench_mix(sum, bench_bits(a[SIDE - 1][SIDE - 1]));
    }
    bench_stop();
    return sum;
}

const BenchProgram float_programs[] = {
    { "nbody", "float", run_nbody, 3000000 }, { "mandelbrot", "float", run_mandelbrot, 150 },
    { "matrix", "float", run_matrix, 780 },   { "fft", "float", run_fft, 22000 },
    { "libm", "float", run_libm, 3600000 },   { "convert", "float", run_convert, 74000000 },
    { "lu", "float", run_lu, 8400 },          { 0 },
};
