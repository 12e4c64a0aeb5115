/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "sse": 128-bit vectors. */
#include "bench.h"

#include <smmintrin.h>

typedef __m128i Vector;
#define ADD         _mm_add_epi32
#define XOR         _mm_xor_si128
#define AND         _mm_and_si128
#define ANDNOT      _mm_andnot_si128
#define OR          _mm_or_si128
#define SHIFT_RIGHT _mm_srli_epi32
#define SHIFT_LEFT  _mm_slli_epi32
#define SPLAT(x)    _mm_set1_epi32((int)(x))
#include "vector_sha.h"

enum { FLOATS = 4096 };

static float *floats(unsigned n, unsigned factor)
{
    float *data = bench_pages(n * sizeof(float));
    for (unsigned i = 0; i < n; i++)
        data[i] = (float)(i * factor % 1013) * 0.1f - 50; /* inexact, as most numbers are */
    return data;
}

static uint64_t run_saxpy(uint64_t count)
{
    float *x = floats(FLOATS, 7), *y = floats(FLOATS, 11);

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        __m128 a = _mm_set1_ps(round & 1 ? -0.5f : 0.5f);
        for (unsigned i = 0; i < FLOATS; i += 4)
            _mm_store_ps(y + i, _mm_add_ps(_mm_load_ps(y + i), _mm_mul_ps(a, _mm_load_ps(x + i))));
        KEEP(y);
    }
    bench_stop();
    return bench_mix_bytes(0, y, FLOATS * 4);
}

static uint64_t run_matrix(uint64_t count)
{
    enum { SIDE = 64 };
    float *a = floats(SIDE * SIDE, 3), *b = floats(SIDE * SIDE, 5), *c = floats(SIDE * SIDE, 1);

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned i = 0; i < SIDE; i++)
            for (unsigned j = 0; j < SIDE; j += 8) {
                __m128 low = _mm_setzero_ps(), high = low;
                for (unsigned k = 0; k < SIDE; k++) {
                    __m128 factor = _mm_set1_ps(a[i * SIDE + k]);
                    low = _mm_add_ps(low, _mm_mul_ps(factor, _mm_load_ps(b + k * SIDE + j)));
                    high = _mm_add_ps(high, _mm_mul_ps(factor, _mm_load_ps(b + k * SIDE + j + 4)));
                }
                _mm_store_ps(c + i * SIDE + j, low);
                _mm_store_ps(c + i * SIDE + j + 4, high);
            }
        a[round % (SIDE * SIDE)] += 1;
        KEEP(c);
    }
    bench_stop();
    return bench_mix_bytes(0, c, SIDE * SIDE * 4);
}

static uint64_t run_dot(uint64_t count)
{
    float *x = floats(FLOATS, 13), *y = floats(FLOATS, 17);
    uint64_t sum = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        __m128 totals[4] = { _mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps() };
        for (unsigned i = 0; i < FLOATS; i += 16)
            for (unsigned j = 0; j < 4; j++)
                totals[j] =
                    _mm_add_ps(totals[j], _mm_mul_ps(_mm_load_ps(x + i + j * 4), _mm_load_ps(y + i + j * 4)));
        __m128 total = _mm_add_ps(_mm_add_ps(totals[0], totals[1]), _mm_add_ps(totals[2], totals[3]));
        total = _mm_add_ps(total, _mm_movehl_ps(total, total));
        total = _mm_add_ss(total, _mm_shuffle_ps(total, total, 1));
        x[round % FLOATS] += 0.5f;
        sum = bench_mix(sum, (uint32_t)_mm_cvtsi128_si32(_mm_castps_si128(total)));
    }
    bench_stop();
    return sum;
}

/* Clamps and chooses by comparison. */
static uint64_t run_blend(uint64_t count)
{
    float *x = floats(FLOATS, 19), *y = floats(FLOATS, 23), *z = floats(FLOATS, 1);
    const __m128 high = _mm_set1_ps(30), low = _mm_set1_ps(-30);

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        __m128 offset = _mm_set1_ps((float)(round % 16));
        for (unsigned i = 0; i < FLOATS; i += 4) {
            __m128 a = _mm_add_ps(_mm_load_ps(x + i), offset), b = _mm_load_ps(y + i);
            __m128 chosen = _mm_blendv_ps(b, a, _mm_cmplt_ps(a, b));
            _mm_store_ps(z + i, _mm_max_ps(low, _mm_min_ps(high, chosen)));
        }
        KEEP(z);
    }
    bench_stop();
    return bench_mix_bytes(0, z, FLOATS * 4);
}

static uint64_t run_search(uint64_t count)
{
    enum { SIZE = 32768 };
    unsigned char *text = bench_pages(SIZE);
    uint64_t seed = 71, sum = 0;

    for (unsigned i = 0; i < SIZE; i++)
        text[i] = (unsigned char)(bench_random(&seed) % 200);
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        __m128i wanted = _mm_set1_epi8((char)(round % 200));
        for (unsigned i = 0; i < SIZE; i += 16) {
            __m128i equal = _mm_cmpeq_epi8(_mm_load_si128((const __m128i *)(text + i)), wanted);
            unsigned mask = (unsigned)_mm_movemask_epi8(equal);
            if (mask)
                sum += i + (unsigned)__builtin_ctz(mask);
        }
    }
    bench_stop();
    return sum;
}

const BenchProgram sse_programs[] = {
    { "sse_saxpy", "sse", run_saxpy, 430000 },
    { "sse_matrix", "sse", run_matrix, 6100 },
    { "sse_dot", "sse", run_dot, 140000 },
    { "sse_blend", "sse", run_blend, 210000 },
    { "sse_search", "sse", run_search, 58000 },
    { "sse_sha", "sse", lanes_run, 6900 },
    { 0 },
};
