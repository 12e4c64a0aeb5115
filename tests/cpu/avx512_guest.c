/*
 * What a program does with AVX-512, as lines "name hash": the same on the host and in every guest. Where a
 * kernel of the mask rules is at work a wrong fault ends the program. As the first process of a guest it
 * switches the machine off. SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS       300
#define TARGET(more) __attribute__((noinline, target("avx512f,avx512bw,avx512dq,avx512vl,avx512cd" more)))

static uint64_t mix(uint64_t hash, const void *data, size_t size)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

/* Numbers that no compiler sees through. */
static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill(void *to, size_t size, uint64_t *state)
{
    uint8_t *p = to;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t v = next(state);
        memcpy(p + i, &v, 8);
    }
}

typedef struct Data {
    uint8_t a[64], b[64], c[64];
    uint64_t mask;
} __attribute__((aligned(64))) Data;

TARGET("") static uint64_t integers(Data *d, uint64_t h)
{
    __m512i a = _mm512_load_si512(d->a), b = _mm512_loadu_si512(d->b), c = _mm512_load_si512(d->c);
    __mmask16 k = (__mmask16)d->mask;
    __mmask64 kb = d->mask;
    a = _mm512_mask_add_epi32(a, k, b, c);
    b = _mm512_ternarylogic_epi64(b, a, c, 0x96);
    c = _mm512_maskz_rolv_epi32(k, c, a);
    a = _mm512_mask_sub_epi8(a, kb, a, b);
    b = _mm512_mask_mullo_epi16(b, (__mmask32)d->mask, a, c);
    c = _mm512_permutexvar_epi32(a, c);
    a = _mm512_conflict_epi32(_mm512_and_si512(a, _mm512_set1_epi32(7)));
    b = _mm512_add_epi64(b, _mm512_set1_epi64((int64_t)d->mask));
    __mmask64 lt = _mm512_cmplt_epu8_mask(b, c);
    c = _mm512_mask_blend_epi8(lt ^ kb, b, c);
    __m256i low = _mm512_cvtepi16_epi8(c), lanes = _mm256_lzcnt_epi32(_mm512_extracti64x4_epi64(a, 1));
    _mm512_store_si512(d->a, a);
    _mm512_store_si512(d->b, _mm512_add_epi32(b, _mm512_broadcast_i64x4(_mm256_xor_si256(low, lanes))));
    _mm512_store_si512(d->c, c);
    uint64_t masks[3] = { lt, _cvtmask64_u64(_kadd_mask64(lt, kb)), _ktestc_mask64_u8(lt, kb) };
    return mix(mix(h, d, sizeof(*d)), masks, sizeof(masks));
}

TARGET("") static uint64_t floats(Data *d, uint64_t h)
{
    __m512 a = _mm512_cvtepi32_ps(_mm512_load_si512(d->a)), b = _mm512_cvtepi32_ps(_mm512_load_si512(d->b));
    __m512d x = _mm512_cvtepi64_pd(_mm512_load_si512(d->c));
    __mmask16 k = (__mmask16)d->mask;
    a = _mm512_add_round_ps(a, b, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
    b = _mm512_mask_div_round_ps(b, k, a, b, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    a = _mm512_fmadd_round_ps(a, b, _mm512_set1_ps(3.25f), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    x = _mm512_mask_sqrt_pd(x, (__mmask8)k, _mm512_abs_pd(x));
    x = _mm512_scalef_pd(x, _mm512_getexp_pd(x));
    x = _mm512_maskz_range_pd((__mmask8)(k >> 8), x, _mm512_roundscale_pd(x, 0x10), 5);
    __m512i r[3] = { _mm512_cvt_roundps_epu32(_mm512_abs_ps(a),
                                              _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                     _mm512_castps_si512(b), _mm512_castpd_si512(x) };
    h = mix(h, r, sizeof(r));
    uint32_t classes[2] = { _mm512_fpclass_ps_mask(a, 0x99), _mm_getcsr() & 0x3f };
    _mm_setcsr(0x1f80);
    return mix(h, classes, sizeof(classes));
}

/* Elements next to a page that is not there: only their masks keep them from it. */
static uint8_t *edge; /* the end of a page */

TARGET("") static uint64_t edges(Data *d, uint64_t h)
{
    unsigned n = d->mask % 16;
    __mmask16 k = (__mmask16)((1u << n) - 1);
    __m512i a = _mm512_load_si512(d->a), b = _mm512_load_si512(d->b);
    memset(edge - 256, 0x5a, 256);
    _mm512_mask_storeu_epi32(edge - 4 * n, k, a);
    h = mix(h, edge - 256, 256);
    b = _mm512_mask_loadu_epi32(b, k, edge - 4 * n);
    b = _mm512_mask_add_epi32(b, k, b, _mm512_maskz_loadu_epi32(k, edge - 4 * n));
    __mmask16 m = (__mmask16)(d->mask >> 16);
    unsigned bits = (unsigned)__builtin_popcount(m);
    _mm512_mask_compressstoreu_epi32(edge - 4 * bits, m, b);
    a = _mm512_mask_expandloadu_epi32(a, m, edge - 4 * bits);
    __m512i index = _mm512_and_si512(b, _mm512_set1_epi32(31));
    index = _mm512_mask_set1_epi32(index, (__mmask16)~m, 1 << 20); /* far behind the edge */
    a = _mm512_mask_i32gather_epi32(a, m, index, edge - 128, 4);
    _mm512_mask_i32scatter_epi32(edge - 128, m, index, b, 4);
    _mm256_mask_cvtepi32_storeu_epi16(edge - 2 * (n & 7), (__mmask8)((1u << (n & 7)) - 1),
                                      _mm512_castsi512_si256(a));
    _mm512_store_si512(d->a, a);
    _mm512_store_si512(d->b, b);
    return mix(mix(h, edge - 256, 256), d, sizeof(*d));
}

TARGET(",avx512vbmi,avx512vbmi2,avx512vnni,avx512bitalg,avx512vpopcntdq,avx512ifma,gfni,vaes,vpclmulqdq")
static uint64_t later_sets(Data *d, uint64_t h)
{
    __m512i a = _mm512_load_si512(d->a), b = _mm512_load_si512(d->b), c = _mm512_load_si512(d->c);
    a = _mm512_permutex2var_epi8(a, b, c);
    b = _mm512_mask_shldv_epi32(b, (__mmask16)d->mask, a, c);
    c = _mm512_dpbusd_epi32(c, a, b);
    a = _mm512_add_epi8(a, _mm512_popcnt_epi8(c));
    b = _mm512_madd52lo_epu64(b, a, c);
    c = _mm512_xor_si512(c, _mm512_gf2p8affine_epi64_epi8(a, b, 0x63));
    a = _mm512_aesenc_epi128(a, c);
    b = _mm512_xor_si512(b, _mm512_clmulepi64_epi128(a, c, 0x01));
    c = _mm512_maskz_compress_epi8(d->mask, c);
    c = _mm512_add_epi64(c, _mm512_popcnt_epi64(b));
    _mm512_store_si512(d->a, a);
    _mm512_store_si512(d->b, b);
    _mm512_store_si512(d->c, c);
    return mix(h, d, sizeof(*d));
}

static volatile sig_atomic_t signals;
TARGET("") static void on_signal(int sig)
{
    /* Other values in every register; the kernel puts the program's back. */
    __m512i junk = _mm512_set1_epi32(sig + signals++);
    __asm__ volatile(
        "vmovdqa64 %0, %%zmm3\n\tvmovdqa64 %0, %%zmm19\n\tvmovdqa64 %0, %%zmm31\n\tkxnorq %%k2, %%k2, %%k2"
        :
        : "v"(junk)
        : "xmm3", "xmm19", "xmm31", "k2");
}

/* Registers of all kinds across system calls, signals, VEX code and other processes. */
TARGET("") static uint64_t registers(Data *d, uint64_t h)
{
    uint64_t k = d->mask;
    __m512i a = _mm512_load_si512(d->a), b = _mm512_load_si512(d->b), c = _mm512_load_si512(d->c);
    __asm__ volatile(
        "vmovdqa64 %1, %%zmm3\n\tvmovdqa64 %2, %%zmm19\n\tvmovdqa64 %3, %%zmm31\n\tkmovq %0, %%k2\n\t"
        "mov $24, %%eax\n\tsyscall\n\t"                                       /* sched_yield */
        "mov $39, %%eax\n\tsyscall\n\t"                                       /* getpid */
        "mov %%eax, %%edi\n\tmov $10, %%esi\n\tmov $62, %%eax\n\tsyscall\n\t" /* kill(itself, SIGUSR1) */
        "vpaddd %%ymm3, %%ymm3, %%ymm4\n\t"                                   /* zeroes what is above */
        "vpaddq %%zmm4, %%zmm19, %%zmm19\n\tvpaddq %%zmm3, %%zmm31, %%zmm31\n\tkmovq %%k2, %0\n\t"
        "vmovdqa64 %%zmm3, %1\n\tvmovdqa64 %%zmm19, %2\n\tvmovdqa64 %%zmm31, %3"
        : "+r"(k), "+v"(a), "+v"(b), "+v"(c)
        :
        : "rax", "rcx", "r11", "rdi", "rsi", "xmm3", "xmm4", "xmm19", "xmm31", "k2", "memory");
    _mm512_store_si512(d->a, a);
    _mm512_store_si512(d->b, b);
    _mm512_store_si512(d->c, c);
    d->mask = k;
    return mix(h, d, sizeof(*d));
}

static uint64_t run(uint64_t (*kernel)(Data *, uint64_t), uint64_t seed)
{
    Data d;
    uint64_t state = seed * 2 + 0x9e3779b97f4a7c15, h = 0xcbf29ce484222325;
    for (unsigned i = 0; i < ROUNDS; i++) {
        fill(&d, sizeof(d), &state);
        h = kernel(&d, h);
    }
    return h;
}

/* The same work in processes that take turns on one CPU. */
static uint64_t processes(uint64_t (*kernel)(Data *, uint64_t))
{
    enum { COUNT = 4 };
    uint64_t *results = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    for (uint64_t i = 0; i < COUNT; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            sched_setaffinity(0, sizeof(one), &one);
            results[i] = run(kernel, 100 + i);
            _exit(0);
        }
    }
    int status, bad = 0;
    while (wait(&status) > 0) {
        bad |= status;
    }
    uint64_t h = mix(bad ? 1 : 0, results, COUNT * sizeof(results[0]));
    munmap(results, 4096);
    return h;
}

static void report(const char *name, uint64_t hash)
{
    printf("avx512: %s %016" PRIx64 "\n", name, hash);
    fflush(stdout);
}

int main(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512cd")) {
        uint8_t *pages = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        munmap(pages + 8192, 4096);
        edge = pages + 8192;
        signal(SIGUSR1, on_signal);
        report("integers", run(integers, 1));
        report("floats", run(floats, 2));
        report("edges", run(edges, 3));
        report("registers", run(registers, 4));
        report("processes", processes(registers));
        report("processes-edges", processes(edges));
        if (__builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni") &&
            __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("avx512vpopcntdq") &&
            __builtin_cpu_supports("avx512ifma") && __builtin_cpu_supports("gfni") &&
            __builtin_cpu_supports("vpclmulqdq")) {
            report("later-sets", run(later_sets, 5));
        }
    } else {
        printf("avx512: none\n");
    }
    printf("avx512: done\n");
    fflush(stdout);
    if (getpid() == 1) {
        sleep(1); /* the console */
        reboot(RB_POWER_OFF);
    }
    return 0;
}
