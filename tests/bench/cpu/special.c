/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "special": instructions that do in one step what C cannot say. */
#include "bench.h"

#include <nmmintrin.h>
#include <tmmintrin.h>
#include <wmmintrin.h>

enum { SIZE = 16384 };

static unsigned char *random_bytes(uint64_t seed)
{
    unsigned char *data = bench_pages(SIZE);
    for (unsigned i = 0; i < SIZE; i++)
        data[i] = (unsigned char)bench_random(&seed);
    return data;
}

static uint64_t run_crc32(uint64_t count)
{
    const uint64_t *words = (const uint64_t *)random_bytes(73);
    uint64_t crc = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++)
        for (unsigned i = 0; i < SIZE / 8; i++)
            crc = _mm_crc32_u64(crc, words[i]);
    bench_stop();
    return crc;
}

/* Four accumulators folded over the buffer. */
static uint64_t run_pclmul(uint64_t count)
{
    const __m128i *data = (const __m128i *)random_bytes(79);
    __m128i sums[4] = { _mm_set1_epi32(1), _mm_set1_epi32(2), _mm_set1_epi32(3), _mm_set1_epi32(4) };
    const __m128i fold = _mm_set_epi64x(0x1751997d0, 0x0ccaa009e);

    bench_start();
    for (uint64_t round = 0; round < count; round++)
        for (unsigned i = 0; i < SIZE / 16; i += 4)
            for (unsigned j = 0; j < 4; j++) {
                __m128i low = _mm_clmulepi64_si128(sums[j], fold, 0x00);
                __m128i high = _mm_clmulepi64_si128(sums[j], fold, 0x11);
                sums[j] = _mm_xor_si128(_mm_xor_si128(low, high), _mm_load_si128(data + i + j));
            }
    bench_stop();
    return bench_mix_bytes(0, sums, sizeof sums);
}

/* Hexadecimal digits by table look-up in a register. */
static uint64_t run_pshufb(uint64_t count)
{
    const __m128i *data = (const __m128i *)random_bytes(83);
    const __m128i digits =
        _mm_setr_epi8('0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f');
    const __m128i reverse = _mm_setr_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m128i nibble = _mm_set1_epi8(15);
    __m128i *out = bench_pages(SIZE * 2);

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned i = 0; i < SIZE / 16; i++) {
            __m128i bytes = _mm_shuffle_epi8(_mm_load_si128(data + i), reverse);
            __m128i low = _mm_shuffle_epi8(digits, _mm_and_si128(bytes, nibble));
            __m128i high = _mm_shuffle_epi8(digits, _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble));
            _mm_store_si128(out + i * 2, _mm_unpacklo_epi8(high, low));
            _mm_store_si128(out + i * 2 + 1, _mm_unpackhi_epi8(high, low));
        }
        KEEP(out);
    }
    bench_stop();
    return bench_mix_bytes(0, out, SIZE * 2);
}

/* Ten rounds in counter mode, four blocks at a time, with round keys that are random and not AES's schedule.
 */
static uint64_t run_aes(uint64_t count)
{
    __m128i keys[11], counter = _mm_setzero_si128(), sum = counter;
    const __m128i one = _mm_set_epi64x(0, 1);
    const unsigned char *random = random_bytes(89);

    memcpy(keys, random, sizeof keys);
    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        __m128i blocks[4];
        for (unsigned j = 0; j < 4; j++) {
            counter = _mm_add_epi64(counter, one);
            blocks[j] = _mm_xor_si128(counter, keys[0]);
        }
        for (unsigned round = 1; round < 10; round++)
            for (unsigned j = 0; j < 4; j++)
                blocks[j] = _mm_aesenc_si128(blocks[j], keys[round]);
        for (unsigned j = 0; j < 4; j++)
            sum = _mm_xor_si128(sum, _mm_aesenclast_si128(blocks[j], keys[10]));
    }
    bench_stop();
    return bench_mix_bytes(0, &sum, sizeof sum);
}

static uint64_t run_popcnt(uint64_t count)
{
    const uint64_t *words = (const uint64_t *)random_bytes(97);
    uint64_t sum = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++)
        for (unsigned i = 0; i < SIZE / 8; i++)
            sum += (uint64_t)_mm_popcnt_u64(words[i] ^ sum);
    bench_stop();
    return sum;
}

const BenchProgram special_programs[] = {
    { "crc32", "special", run_crc32, 120000 },   { "pclmul", "special", run_pclmul, 160000 },
    { "pshufb", "special", run_pshufb, 230000 }, { "aes", "special", run_aes, 9900000 },
    { "popcnt", "special", run_popcnt, 100000 }, { 0 },
};
