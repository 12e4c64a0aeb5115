/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "integer": arithmetic on general registers and small arrays. */
#include "bench.h"

#include <stdlib.h>

enum { SIEVE_SIZE = 1 << 18 };

static uint64_t run_sieve(uint64_t count)
{
    unsigned char *composite = bench_pages(SIEVE_SIZE);
    uint64_t sum = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        memset(composite, 0, SIEVE_SIZE);
        for (unsigned i = 2; i < SIEVE_SIZE; i++) {
            if (composite[i])
                continue;
            sum += i ^ round;
            for (unsigned j = i * 2; j < SIEVE_SIZE; j += i)
                composite[j] = 1;
        }
    }
    bench_stop();
    return sum;
}

static unsigned queens(unsigned all, unsigned columns, unsigned left, unsigned right)
{
    unsigned solutions = 0, free_squares = all & ~(columns | left | right);

    if (columns == all)
        return 1;
    while (free_squares) {
        unsigned square = free_squares & -free_squares;
        free_squares ^= square;
        solutions += queens(all, columns | square, (left | square) << 1, (right | square) >> 1);
    }
    return solutions;
}

static uint64_t run_queens(uint64_t count)
{
    uint64_t sum = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        unsigned size = 8 + round % 3;
        sum = bench_mix(sum, queens((1u << size) - 1, 0, 0, 0));
    }
    bench_stop();
    return sum;
}

/* SHA-256's compression, constants computed from the definition's cube roots. */
static uint32_t sha_k[64];

static void sha_constants(void)
{
    unsigned found = 0;
    for (unsigned candidate = 2; found < 64; candidate++) {
        unsigned divisor = 2;
        while (divisor * divisor <= candidate && candidate % divisor)
            divisor++;
        if (divisor * divisor <= candidate)
            continue;
        /* The cube root's fraction: the largest r with r^3 <= candidate * 2^96, by bisection in 128 bits. */
        uint64_t low = 0, high = (uint64_t)8 << 32;
        while (high - low > 1) {
            uint64_t middle = low + (high - low) / 2;
            unsigned __int128 square = (unsigned __int128)middle * middle;
            unsigned __int128 cube_high = (square >> 32) * middle >> 64;
            if (cube_high < candidate)
                low = middle;
            else
                high = middle;
        }
        sha_k[found++] = (uint32_t)low;
    }
}

static inline uint32_t rotate_right(uint32_t value, unsigned amount)
{
    return value >> amount | value << (32 - amount);
}

static void sha_block(uint32_t state[8], const uint32_t *data)
{
    uint32_t w[64], s[8];

    for (unsigned i = 0; i < 16; i++)
        w[i] = __builtin_bswap32(data[i]);
    for (unsigned i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotate_right(x, 7) ^ rotate_right(x, 18) ^ x >> 3) +
               (rotate_right(y, 17) ^ rotate_right(y, 19) ^ y >> 10);
    }
    memcpy(s, state, sizeof s);
    for (unsigned i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t t1 = s[7] + (rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25)) +
                      ((e & s[5]) ^ (~e & s[6])) + sha_k[i] + w[i];
        uint32_t t2 = (rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22)) +
                      ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6];
        s[6] = s[5];
        s[5] = s[4];
        s[4] = s[3] + t1;
        s[3] = s[2];
        s[2] = s[1];
        s[1] = s[0];
        s[0] = t1 + t2;
    }
    for (unsigned i = 0; i < 8; i++)
        state[i] += s[i];
}

static uint64_t run_sha(uint64_t count)
{
    enum { BLOCKS = 256 };
    uint32_t *data = bench_pages(BLOCKS * 64);
    uint32_t state[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    uint64_t seed = 1;

    sha_constants();
    for (unsigned i = 0; i < BLOCKS * 16; i++)
        data[i] = (uint32_t)bench_random(&seed);
    bench_start();
    for (uint64_t round = 0; round < count; round++)
        for (unsigned block = 0; block < BLOCKS; block++)
            sha_block(state, data + block * 16);
    bench_stop();
    return bench_mix_bytes(0, state, sizeof state);
}

static uint64_t run_division(uint64_t count)
{
    uint64_t seed = 7, sum = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        uint64_t a = bench_random(&seed), b = (bench_random(&seed) >> (i & 31)) | 1;
        sum += a / b + a % (b >> 7 | 3);
        sum += (uint64_t)((int64_t)a / (int64_t)(b >> 3 | 1));
        sum += (uint32_t)a / ((uint32_t)b | 1);
        sum ^= (uint64_t)((int32_t)a % ((int32_t)(b & 0xffff) + 1));
        /* Euclid: a chain of dependent remainders. */
        uint32_t x = (uint32_t)(a >> 20), y = (uint32_t)b;
        while (y) {
            uint32_t rest = x % y;
            x = y;
            y = rest;
        }
        sum += x;
    }
    bench_stop();
    return sum;
}

typedef struct Node {
    struct Node *next;
    int32_t value, index;
} Node;

/* Searches, reverses and sorts a list, multiplies small matrices, runs a state machine over text. */
static Node *list_merge(Node *a, Node *b)
{
    Node head, *tail = &head;
    while (a && b) {
        Node **smaller = a->value <= b->value ? &a : &b;
        tail->next = *smaller;
        tail = tail->next;
        *smaller = tail->next;
    }
    tail->next = a ? a : b;
    return head.next;
}

static Node *list_sort(Node *list)
{
    Node *slow = list, *fast;
    if (!list || !list->next)
        return list;
    for (fast = list->next; fast && fast->next; fast = fast->next->next)
        slow = slow->next;
    fast = slow->next;
    slow->next = NULL;
    return list_merge(list_sort(list), list_sort(fast));
}

static unsigned number_kinds(const char *text, unsigned kinds[4])
{
    unsigned state = 0, numbers = 0;
    for (; *text; text++) {
        char c = *text;
        switch (state) {
        case 0: /* between words */
            state = c >= '0' && c <= '9' ? 1 : c == '-' || c == '+' ? 2 : c == ' ' ? 0 : 4;
            break;
        case 1: /* digits */
        case 3: /* digits after the point */
            if (c >= '0' && c <= '9')
                break;
            if (c == '.' && state == 1) {
                state = 3;
            } else {
                numbers++;
                kinds[state == 1 ? 0 : 1]++;
                state = c == ' ' ? 0 : 4;
            }
            break;
        case 2: /* sign */
            state = c >= '0' && c <= '9' ? 1 : 4;
            break;
        default: /* a word */
            if (c == ' ') {
                kinds[2]++;
                state = 0;
            }
        }
    }
    return numbers;
}

static uint64_t run_mixed(uint64_t count)
{
    enum { NODES = 256, SIDE = 12, TEXT = 1024 };
    Node *nodes = bench_pages(NODES * sizeof(Node));
    static int32_t a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];
    static char text[TEXT + 1];
    uint64_t seed = 3, sum = 0;

    for (unsigned i = 0; i < TEXT; i++)
        text[i] = "0123456789.-+  ab"[bench_random(&seed) % 17];
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        Node *list = NULL, *reversed = NULL;
        for (unsigned i = 0; i < NODES; i++) {
            nodes[i] = (Node){ list, (int32_t)(bench_random(&seed) & 0xffff), (int32_t)i };
            list = &nodes[i];
        }
        list = list_sort(list);
        for (unsigned i = 0; i < 8; i++) {
            Node *at = list;
            while (at && at->index != (int32_t)(round * 8 + i) % NODES)
                at = at->next;
            sum += (uint64_t)at->value;
        }
        while (list) {
            Node *next = list->next;
            list->next = reversed;
            reversed = list;
            list = next;
        }
        sum = bench_mix(sum, (uint64_t)reversed->value);
        for (unsigned i = 0; i < SIDE; i++)
            for (unsigned j = 0; j < SIDE; j++) {
                a[i][j] = nodes[i * SIDE + j].value;
                b[i][j] = (int32_t)(i ^ j) + (int32_t)round;
            }
        for (unsigned i = 0; i < SIDE; i++)
            for (unsigned j = 0; j < SIDE; j++) {
                int32_t total = 0;
                for (unsigned k = 0; k < SIDE; k++)
                    total += (int16_t)a[i][k] * (int16_t)b[k][j];
                c[i][j] = total;
                sum += (uint64_t)(uint32_t)c[i][j];
            }
        unsigned kinds[4] = { 0 };
        sum = bench_mix(sum, number_kinds(text, kinds));
        sum += kinds[0] + kinds[1] * 3 + kinds[2] * 7;
        text[round % TEXT] = "0123456789.-+  ab"[bench_random(&seed) % 17];
    }
    bench_stop();
    return sum;
}

/* A byte-oriented LZ77: literals' run, then a match of length >= 4 found through a hash table of positions.
 */
static size_t lz_compress(const unsigned char *in, size_t size, unsigned char *out, uint32_t *table)
{
    size_t at = 0, literals = 0, length = 0;
    while (at + 8 < size) {
        uint32_t word;
        memcpy(&word, in + at, 4);
        uint32_t *slot = &table[word * 2654435761u >> 20];
        size_t candidate = *slot;
        *slot = (uint32_t)at;
        uint32_t there;
        memcpy(&there, in + candidate, 4);
        if (candidate < at && at - candidate < 65536 && there == word) {
            size_t matched = 4;
            while (at + matched < size && matched < 259 && in[candidate + matched] == in[at + matched])
                matched++;
            out[length++] = (unsigned char)(at - literals);
            memcpy(out + length, in + literals, at - literals);
            length += at - literals;
            out[length++] = (unsigned char)(matched - 4);
            out[length++] = (unsigned char)(at - candidate);
            out[length++] = (unsigned char)((at - candidate) >> 8);
            at += matched;
            literals = at;
        } else if (++at - literals == 255) {
            out[length++] = 255;
            memcpy(out + length, in + literals, 255);
            length += 255;
            out[length++] = 0;
            out[length++] = 0;
            out[length++] = 0; /* distance 0: no match */
            literals = at;
        }
    }
    out[length++] = (unsigned char)(size - literals);
    memcpy(out + length, in + literals, size - literals);
    return length + size - literals;
}

static size_t lz_expand(const unsigned char *in, size_t size, unsigned char *out)
{
    size_t at = 0, length = 0;
    for (;;) {
        size_t run = in[at++];
        memcpy(out + length, in + at, run);
        at += run;
        length += run;
        if (at >= size)
            return length;
        size_t matched = in[at] + 4u, distance = in[at + 1] | in[at + 2] << 8;
        at += 3;
        for (size_t i = 0; distance && i < matched; i++, length++)
            out[length] = out[length - distance];
    }
}

static uint64_t run_lz(uint64_t count)
{
    enum { SIZE = 60000 };
    unsigned char *plain = bench_pages(SIZE), *packed = bench_pages(SIZE * 2),
                  *again = bench_pages(SIZE + 512);
    uint32_t *table = bench_pages(4096 * 4);
    uint64_t seed = 5, sum = 0;

    for (unsigned at = 0; at < SIZE;) {
        uint64_t r = bench_random(&seed);
        if (at > 1000 && r % 3) {
            unsigned from = (unsigned)(bench_random(&seed) % (at - 40)), n = 4 + (unsigned)(r >> 8) % 30;
            for (unsigned i = 0; i < n && at < SIZE; i++)
                plain[at++] = plain[from + i];
        } else {
            plain[at++] = (unsigned char)('a' + (r >> 20) % 26);
        }
    }
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        memset(table, 0, 4096 * 4);
        plain[round % SIZE] ^= 1;
        size_t length = lz_compress(plain, SIZE, packed, table);
        if (lz_expand(packed, length, again) != SIZE || memcmp(plain, again, SIZE) != 0)
            bench_fail("what was packed does not unpack to the same");
        sum = bench_mix(sum, length);
    }
    bench_stop();
    return bench_mix_bytes(sum, packed, 4096);
}

static uint64_t run_crc(uint64_t count)
{
    enum { SIZE = 16384 };
    static uint32_t table[256];
    unsigned char *data = bench_pages(SIZE);
    uint64_t seed = 9;
    uint32_t crc = ~0u;

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (unsigned bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
        table[i] = value;
    }
    for (unsigned i = 0; i < SIZE; i++)
        data[i] = (unsigned char)bench_random(&seed);
    bench_start();
    for (uint64_t round = 0; round < count; round++)
        for (unsigned i = 0; i < SIZE; i++)
            crc = crc >> 8 ^ table[(crc ^ data[i]) & 255];
    bench_stop();
    return crc;
}

static void sort_words(uint32_t *low, uint32_t *high)
{
    while (high - low > 16) {
        uint32_t pivot = low[(high - low) / 2], *i = low, *j = high - 1;
        while (i <= j) {
            while (*i < pivot)
                i++;
            while (*j > pivot)
                j--;
            if (i <= j) {
                uint32_t swap = *i;
                *i++ = *j;
                *j-- = swap;
            }
        }
        sort_words(low, j + 1);
        low = i;
    }
    for (uint32_t *i = low + 1; i < high; i++) {
        uint32_t value = *i, *j = i;
        for (; j > low && j[-1] > value; j--)
            *j = j[-1];
        *j = value;
    }
}

static uint64_t run_sort(uint64_t count)
{
    enum { WORDS = 20000 };
    uint32_t *words = bench_pages(WORDS * 4);
    uint64_t seed = 11, sum = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned i = 0; i < WORDS; i++)
            words[i] = (uint32_t)bench_random(&seed);
        sort_words(words, words + WORDS);
        for (unsigned i = 1; i < WORDS; i++)
            if (words[i - 1] > words[i])
                bench_fail("not sorted at %u", i);
        sum = bench_mix(sum, words[round % WORDS]);
    }
    bench_stop();
    return sum;
}

static uint64_t run_hash(uint64_t count)
{
    enum { SIZE = 8192 };
    uint64_t *data = bench_pages(SIZE), seed = 13, hash = 0;

    for (unsigned i = 0; i < SIZE / 8; i++)
        data[i] = bench_random(&seed);
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned i = 0; i < SIZE / 8; i++) {
            hash ^= data[i] * 0x87c37b91114253d5u;
            hash = (hash << 31 | hash >> 33) * 0x4cf5ad432745937fu;
            hash += 0x52dce729;
        }
        hash ^= hash >> 33;
    }
    bench_stop();
    return hash;
}

static uint64_t run_bits(uint64_t count)
{
    uint64_t x = 1, sum = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t v = x;
        v = v - (v >> 1 & 0x5555555555555555u); /* number of ones */
        v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
        v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
        sum += v * 0x0101010101010101u >> 56;
        uint64_t r = x; /* bits reversed in each byte, then the bytes */
        r = (r & 0x5555555555555555u) << 1 | (r >> 1 & 0x5555555555555555u);
        r = (r & 0x3333333333333333u) << 2 | (r >> 2 & 0x3333333333333333u);
        r = (r & 0x0f0f0f0f0f0f0f0fu) << 4 | (r >> 4 & 0x0f0f0f0f0f0f0f0fu);
        sum ^= __builtin_bswap64(r);
        sum += (uint64_t)__builtin_ctzll(x | 1u << 20) + (uint64_t)__builtin_clzll(x | 1);
        sum = sum << 7 | sum >> 57;
        sum ^= x ^ x >> 1; /* Gray code */
    }
    bench_stop();
    return sum;
}

static uint64_t run_bigint(uint64_t count)
{
    enum { LIMBS = 32 };
    uint64_t a[LIMBS], b[LIMBS], product[LIMBS * 2], seed = 17, sum = 0;

    for (unsigned i = 0; i < LIMBS; i++) {
        a[i] = bench_random(&seed);
        b[i] = bench_random(&seed);
    }
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        memset(product, 0, sizeof product);
        for (unsigned i = 0; i < LIMBS; i++) {
            uint64_t carry = 0;
            for (unsigned j = 0; j < LIMBS; j++) {
                unsigned __int128 t = (unsigned __int128)a[i] * b[j] + product[i + j] + carry;
                product[i + j] = (uint64_t)t;
                carry = (uint64_t)(t >> 64);
            }
            product[i + LIMBS] = carry;
        }
        a[round % LIMBS] = product[LIMBS];
        sum = bench_mix(sum, product[LIMBS * 2 - 1]);
    }
    bench_stop();
    return sum;
}

const BenchProgram integer_programs[] = {
    { "sieve", "integer", run_sieve, 390 },      { "queens", "integer", run_queens, 4700 },
    { "sha_c", "integer", run_sha, 3500 },       { "division", "integer", run_division, 2600000 },
    { "mixed", "integer", run_mixed, 11000 },    { "lz", "integer", run_lz, 1800 },
    { "crc_c", "integer", run_crc, 5500 },       { "sort_words", "integer", run_sort, 230 },
    { "hash", "integer", run_hash, 120000 },     { "bits", "integer", run_bits, 51000000 },
    { "bigint", "integer", run_bigint, 230000 }, { 0 },
};
