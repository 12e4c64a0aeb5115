/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The same floating-point work for scalar SSE and for the x87: Real is defined by who includes this. */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

#include "bench.h"

enum { BODIES = 5 };

typedef struct Body {
    Real x[3], v[3], mass;
} Body;

/* `root` is a call-free square root of a Real. */
static inline void bodies_step(Body bodies[BODIES], Real step, Real (*root)(Real))
{
    for (unsigned i = 0; i < BODIES; i++)
        for (unsigned j = i + 1; j < BODIES; j++) {
            Real d[3], square = 0;
            for (unsigned k = 0; k < 3; k++) {
                d[k] = bodies[i].x[k] - bodies[j].x[k];
                square += d[k] * d[k];
            }
            Real pull = step / (square * root(square));
            for (unsigned k = 0; k < 3; k++) {
                bodies[i].v[k] -= d[k] * bodies[j].mass * pull;
                bodies[j].v[k] += d[k] * bodies[i].mass * pull;
            }
        }
    for (unsigned i = 0; i < BODIES; i++)
        for (unsigned k = 0; k < 3; k++)
            bodies[i].x[k] += step * bodies[i].v[k];
}

static inline void bodies_make(Body bodies[BODIES])
{
    for (unsigned i = 0; i < BODIES; i++) {
        bodies[i].mass = i == 0 ? 40 : (Real)1 / (Real)(i + 20);
        for (unsigned k = 0; k < 3; k++) {
            bodies[i].x[k] = i == 0 ? 0 : (Real)(int)(i * 7 + 3 - k * 5);
            bodies[i].v[k] = i == 0 ? 0 : (Real)(int)(k * 2 + 1 - i) / 10;
        }
    }
}

static inline uint64_t bodies_sum(const Body bodies[BODIES])
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < BODIES; i++)
        for (unsigned k = 0; k < 3; k++)
            sum = bench_mix(sum, bench_bits((double)bodies[i].x[k]));
    return sum;
}

static inline uint64_t mandelbrot(unsigned side, unsigned limit)
{
    uint64_t total = 0;
    for (unsigned row = 0; row < side; row++)
        for (unsigned column = 0; column < side; column++) {
            Real cr = (Real)column * 3 / (Real)side - 2, ci = (Real)row * 2 / (Real)side - 1;
            Real zr = 0, zi = 0;
            unsigned n = 0;
            while (n < limit) {
                Real rr = zr * zr, ii = zi * zi;
                if (rr + ii > 4)
                    break;
                zi = 2 * zr * zi + ci;
                zr = rr - ii + cr;
                n++;
            }
            total += n;
        }
    return total;
}

#endif
