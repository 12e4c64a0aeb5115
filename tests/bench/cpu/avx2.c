/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "avx2": 256-bit vectors with fused multiply-add. */
#include "bench.h"

#include <immintrin.h>

typedef __m256i Vector;
#define ADD         _mm256_add_epi32
#define XOR         _mm256_xor_si256
#define AND         _mm256_and_si256
#define ANDNOT      _mm256_andnot_si256
#define OR          _mm256_or_si256
#define SHIFT_RIGHT _mm256_srli_epi32
#define SHIFT_LEFT  _mm256_slli_epi32
#define SPLAT(x)    _mm256_set1_epi32((int)(x))
#include "vector_sha.h"

enum { FLOATS = 4096 };

static float *floats(unsigned n, unsigned factor)
{
    float *data = bench_pages(n * sizeof(float));
    for (unsigned i = 0; i < n; i++)
        data[i] = (float)(i * factor % 1013) * 0.1f - 50; /* inexact, as most numbers are */
    return data;
}

/* 64 bodies as arrays of coordinates: each against four others at a time. */
static uint64_t run_nbody(uint64_t count)
{
    enum { N = 64 };
    double *x[3], *v[3], *mass = bench_pages(N * 8);

    for (unsigned k = 0; k < 3; k++) {
        x[k] = bench_pages(N * 8);
        v[k] = bench_pages(N * 8);
    }
    for (unsigned i = 0; i < N; i++) {
        mass[i] = 1.0 + i % 5;
        for (unsigned k = 0; k < 3; k++) {
            x[k][i] = (double)(i * (k * 2 + 3) % 61) - 30 + k * 0.25;
            v[k][i] = 0;
        }
    }
    const __m256d soft = _mm256_set1_pd(0.01), step = _mm256_set1_pd(0.001);
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned i = 0; i < N; i++) {
            __m256d px = _mm256_set1_pd(x[0][i]), py = _mm256_set1_pd(x[1][i]), pz = _mm256_set1_pd(x[2][i]);
            __m256d ax = _mm256_setzero_pd(), ay = ax, az = ax;
            for (unsigned j = 0; j < N; j += 4) {
                __m256d dx = _mm256_sub_pd(_mm256_load_pd(x[0] + j), px);
                __m256d dy = _mm256_sub_pd(_mm256_load_pd(x[1] + j), py);
                __m256d dz = _mm256_sub_pd(_mm256_load_pd(x[2] + j), pz);
                __m256d square =
                    _mm256_fmadd_pd(dx, dx, _mm256_fmadd_pd(dy, dy, _mm256_fmadd_pd(dz, dz, soft)));
                __m256d pull =
                    _mm256_div_pd(_mm256_load_pd(mass + j), _mm256_mul_pd(square, _mm256_sqrt_pd(square)));
                ax = _mm256_fmadd_pd(dx, pull, ax);
                ay = _mm256_fmadd_pd(dy, pull, ay);
                az = _mm256_fmadd_pd(dz, pull, az);
            }
            __m256d pairs = _mm256_hadd_pd(ax, ay);
            __m128d xy = _mm_add_pd(_mm256_castpd256_pd128(pairs), _mm256_extractf128_pd(pairs, 1));
            __m128d zz = _mm_add_pd(_mm256_castpd256_pd128(az), _mm256_extractf128_pd(az, 1));
            v[0][i] += _mm_cvtsd_f64(xy) * 0.001;
            v[1][i] += _mm_cvtsd_f64(_mm_unpackhi_pd(xy, xy)) * 0.001;
            v[2][i] += (_mm_cvtsd_f64(zz) + _mm_cvtsd_f64(_mm_unpackhi_pd(zz, zz))) * 0.001;
        }
        for (unsigned k = 0; k < 3; k++)
            for (unsigned i = 0; i < N; i += 4)
                _mm256_store_pd(x[k] + i,
                                _mm256_fmadd_pd(step, _mm256_load_pd(v[k] + i), _mm256_load_pd(x[k] + i)));
    }
    bench_stop();
    return bench_mix_bytes(bench_mix_bytes(0, x[0], N * 8), x[2], N * 8);
}

static uint64_t run_saxpy(uint64_t count)
{
    float *x = floats(FLOATS, 7), *y = floats(FLOATS, 11);

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        __m256 a = _mm256_set1_ps(round & 1 ? -0.5f : 0.5f);
        for (unsigned i = 0; i < FLOATS; i += 8)
            _mm256_store_ps(y + i, _mm256_fmadd_ps(a, _mm256_load_ps(x + i), _mm256_load_ps(y + i)));
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
        for (unsigned i = 0; i < SIDE; i += 2)
            for (unsigned j = 0; j < SIDE; j += 16) {
                __m256 sums[4] = { _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                                   _mm256_setzero_ps() };
                for (unsigned k = 0; k < SIDE; k++) {
                    __m256 low = _mm256_load_ps(b + k * SIDE + j),
                           high = _mm256_load_ps(b + k * SIDE + j + 8);
                    __m256 first = _mm256_broadcast_ss(a + i * SIDE + k);
                    __m256 second = _mm256_broadcast_ss(a + (i + 1) * SIDE + k);
                    sums[0] = _mm256_fmadd_ps(first, low, sums[0]);
                    sums[1] = _mm256_fmadd_ps(first, high, sums[1]);
                    sums[2] = _mm256_fmadd_ps(second, low, sums[2]);
                    sums[3] = _mm256_fmadd_ps(second, high, sums[3]);
                }
                _mm256_store_ps(c + i * SIDE + j, sums[0]);
                _mm256_store_ps(c + i * SIDE + j + 8, sums[1]);
                _mm256_store_ps(c + (i + 1) * SIDE + j, sums[2]);
                _mm256_store_ps(c + (i + 1) * SIDE + j + 8, sums[3]);
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
        __m256 totals[4] = { _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                             _mm256_setzero_ps() };
        for (unsigned i = 0; i < FLOATS; i += 32)
            for (unsigned j = 0; j < 4; j++)
                totals[j] =
                    _mm256_fmadd_ps(_mm256_load_ps(x + i + j * 8), _mm256_load_ps(y + i + j * 8), totals[j]);
        __m256 all = _mm256_add_ps(_mm256_add_ps(totals[0], totals[1]), _mm256_add_ps(totals[2], totals[3]));
        __m128 total = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
        total = _mm_add_ps(total, _mm_movehl_ps(total, total));
        total = _mm_add_ss(total, _mm_shuffle_ps(total, total, 1));
        x[round % FLOATS] += 0.5f;
        sum = bench_mix(sum, (uint32_t)_mm_cvtsi128_si32(_mm_castps_si128(total)));
    }
    bench_stop();
    return sum;
}

static uint64_t run_blend(uint64_t count)
{
    float *x = floats(FLOATS, 19), *y = floats(FLOATS, 23), *z = floats(FLOATS, 1);
    const __m256 high = _mm256_set1_ps(30), low = _mm256_set1_ps(-30);

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        __m256 offset = _mm256_set1_ps((float)(round % 16));
        for (unsigned i = 0; i < FLOATS; i += 8) {
            __m256 a = _mm256_add_ps(_mm256_load_ps(x + i), offset), b = _mm256_load_ps(y + i);
            __m256 chosen = _mm256_blendv_ps(b, a, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
            _mm256_store_ps(z + i, _mm256_max_ps(low, _mm256_min_ps(high, chosen)));
        }
        KEEP(z);
    }
    bench_stop();
    return bench_mix_bytes(0, z, FLOATS * 4);
}

/* The passes of a Stockham FFT of 1024 complex numbers, with one table of factors for all of them. */
static uint64_t run_fft(uint64_t count)
{
    enum { POINTS = 1024 };
    float *re = floats(POINTS, 37), *im = floats(POINTS, 41), *re2 = floats(POINTS, 1),
          *im2 = floats(POINTS, 1);
    float *wr = bench_pages(POINTS * 4), *wi = bench_pages(POINTS * 4);

    /* A table of unit vectors: exact Pythagorean parametrisation, as good as roots of unity for measuring. */
    for (unsigned i = 0; i < POINTS / 2; i++) {
        float t = (float)i / (POINTS / 2);
        wr[i] = (1 - t * t) / (1 + t * t);
        wi[i] = -2 * t / (1 + t * t);
    }
    const __m256 half = _mm256_set1_ps(0.70710678f);
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned pass = 0; pass < 10; pass++) {
            for (unsigned i = 0; i < POINTS / 2; i += 8) {
                __m256 ar = _mm256_load_ps(re + i), ai = _mm256_load_ps(im + i);
                __m256 br = _mm256_load_ps(re + i + POINTS / 2), bi = _mm256_load_ps(im + i + POINTS / 2);
                __m256 cr = _mm256_load_ps(wr + i), ci = _mm256_load_ps(wi + i);
                __m256 sr = _mm256_mul_ps(_mm256_add_ps(ar, br), half);
                __m256 si = _mm256_mul_ps(_mm256_add_ps(ai, bi), half);
                __m256 dr = _mm256_mul_ps(_mm256_sub_ps(ar, br), half);
                __m256 di = _mm256_mul_ps(_mm256_sub_ps(ai, bi), half);
                __m256 tr = _mm256_fmsub_ps(dr, cr, _mm256_mul_ps(di, ci));
                __m256 ti = _mm256_fmadd_ps(dr, ci, _mm256_mul_ps(di, cr));
                __m256 low = _mm256_unpacklo_ps(sr, tr), high = _mm256_unpackhi_ps(sr, tr);
                _mm256_store_ps(re2 + i * 2, _mm256_permute2f128_ps(low, high, 0x20));
                _mm256_store_ps(re2 + i * 2 + 8, _mm256_permute2f128_ps(low, high, 0x31));
                low = _mm256_unpacklo_ps(si, ti);
                high = _mm256_unpackhi_ps(si, ti);
                _mm256_store_ps(im2 + i * 2, _mm256_permute2f128_ps(low, high, 0x20));
                _mm256_store_ps(im2 + i * 2 + 8, _mm256_permute2f128_ps(low, high, 0x31));
            }
            float *swap = re;
            re = re2;
            re2 = swap;
            swap = im;
            im = im2;
            im2 = swap;
        }
    }
    bench_stop();
    return bench_mix_bytes(bench_mix_bytes(0, re, POINTS * 4), im, POINTS * 4);
}

static uint64_t run_triad(uint64_t count)
{
    enum { ELEMENTS = 1 << 18 };
    double *a = bench_pages(ELEMENTS * 8), *b = bench_pages(ELEMENTS * 8), *c = bench_pages(ELEMENTS * 8);

    for (unsigned i = 0; i < ELEMENTS; i++) {
        b[i] = i * 0.3;
        c[i] = i + 0.7;
    }
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        __m256d factor = _mm256_set1_pd(1.0 + (double)round);
        for (unsigned i = 0; i < ELEMENTS; i += 4)
            _mm256_store_pd(a + i, _mm256_fmadd_pd(factor, _mm256_load_pd(c + i), _mm256_load_pd(b + i)));
        KEEP(a);
    }
    bench_stop();
    return bench_mix_bytes(0, a, ELEMENTS * 8);
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
        __m256i wanted = _mm256_set1_epi8((char)(round % 200));
        for (unsigned i = 0; i < SIZE; i += 32) {
            __m256i equal = _mm256_cmpeq_epi8(_mm256_load_si256((const __m256i *)(text + i)), wanted);
            unsigned mask = (unsigned)_mm256_movemask_epi8(equal);
            if (mask)
                sum += i + (unsigned)__builtin_ctz(mask);
        }
    }
    bench_stop();
    return sum;
}

static uint64_t run_mandelbrot(uint64_t count)
{
    enum { SIDE = 64, LIMIT = 300 };
    const __m256d four = _mm256_set1_pd(4), lanes = _mm256_set_pd(3, 2, 1, 0),
                  three = _mm256_set1_pd(3.0 / SIDE);
    uint64_t total = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++)
        for (unsigned row = 0; row < SIDE; row++)
            for (unsigned column = 0; column < SIDE; column += 4) {
                __m256d cr =
                    _mm256_fmadd_pd(_mm256_add_pd(lanes, _mm256_set1_pd(column)), three, _mm256_set1_pd(-2));
                __m256d ci = _mm256_set1_pd((double)row * 2 / SIDE - 1 + (double)(round % 8) / 1024);
                __m256d zr = _mm256_setzero_pd(), zi = zr;
                for (unsigned n = 0; n < LIMIT; n++) {
                    __m256d rr = _mm256_mul_pd(zr, zr), square = _mm256_fmadd_pd(zi, zi, rr);
                    unsigned inside = (unsigned)_mm256_movemask_pd(_mm256_cmp_pd(square, four, _CMP_LE_OQ));
                    if (!inside)
                        break;
                    total += (unsigned)__builtin_popcount(inside);
                    __m256d product = _mm256_mul_pd(zr, zi);
                    zr = _mm256_add_pd(_mm256_fnmadd_pd(zi, zi, rr), cr);
                    zi = _mm256_add_pd(_mm256_add_pd(product, product), ci);
                }
            }
    bench_stop();
    return total;
}

const BenchProgram avx2_programs[] = {
    { "avx_nbody", "avx2", run_nbody, 30000 },
    { "avx_saxpy", "avx2", run_saxpy, 850000 },
    { "avx_matrix", "avx2", run_matrix, 18000 },
    { "avx_dot", "avx2", run_dot, 300000 },
    { "avx_blend", "avx2", run_blend, 300000 },
    { "avx_fft", "avx2", run_fft, 110000 },
    { "avx_triad", "avx2", run_triad, 1800 },
    { "avx_search", "avx2", run_search, 76000 },
    { "avx_sha", "avx2", lanes_run, 7100 },
    { "avx_mandelbrot", "avx2", run_mandelbrot, 470 },
    { 0 },
};
