/*
 * Deflate (RFC 1951) with a window of 4 KiB.
 *
 * 1. Matches are found by chains of positions with the same hash of four bytes, and by the last position with
 * the same three. Where the next position has a better one, the first byte is a literal (lazy evaluation).
 * 2. What the tables say is a proposal: every match is compared byte for byte, inside the input. So they are
 * never cleared: `base` moves on, which puts old positions out of reach.
 * 3. Tokens gather in a block. Each CHUNK of them is compared with what the block has: where two codes of
 * their own would take fewer bits than a common one, the block ends before it.
 * 4. A block takes the cheapest form: its own Huffman codes, the fixed ones, or stored.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/deflate.h"

#include <glib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW      4096u
#define MAX_MATCH   258u
#define MIN_LEFT    8u  /* input that must be left for a search: loads are wide */
#define NICE        64u /* long enough not to look for a better one */
#define DEPTH       48u
#define PATIENCE    8u /* bits of misses that make one position more go by untried */
#define LEAP_MAX    15u
#define NEAR_3      1024u /* farther away three bytes cost more as a match */
#define HASH3_BITS  11
#define HASH4_BITS  13
#define TOKENS_MAX  32768u
#define CHUNK       1024u
#define HEADER_COST (UINT64_C(420) << LOG_BITS) /* bits that a block's codes take, more or less */
#define LOG_BITS    8
#define LITLENS     286u
#define DISTS       30u
#define PRECODES    19u
#define END_BLOCK   256u
#define STORED_MAX  65535u

typedef struct Histogram {
    uint32_t litlen[288], dist[32];
    uint32_t litlens, dists; /* sums */
} Histogram;

typedef struct Code {
    uint8_t bits[288];
    uint16_t word[288]; /* as it goes out: first bit lowest */
} Code;

typedef struct Output {
    uint64_t held; /* bits that are not written yet */
    unsigned count;
    uint8_t *at, *end;
    bool full;
} Output;

struct Deflater {
    uint32_t base; /* number of the input's first byte in the tables */
    uint32_t head3[1u << HASH3_BITS], head4[1u << HASH4_BITS];
    uint16_t prev[WINDOW];                   /* how far before a position the one with the same hash is */
    uint32_t tokens[TOKENS_MAX + 2 * CHUNK]; /* a literal, or length << 16 | distance */
    uint32_t count, chunk_from;              /* tokens; where the chunk begins */
    uint32_t misses;                         /* positions without a match, one after the other */
    const uint8_t *block, *chunk;            /* the input that they stand for */
    Histogram sum, part;                     /* of the block without its last chunk; of the chunk */
    Code litlen, dist;
    uint8_t length_symbol[MAX_MATCH + 1]; /* less 257 */
    uint16_t log[256];                    /* of 1 + i/256 */
};

static const uint16_t length_base[29] = { 3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                          31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258 };
static const uint8_t length_extra[29] = { 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                          2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0 };

static uint32_t load32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return GUINT32_FROM_LE(v);
}

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return GUINT64_FROM_LE(v);
}

static unsigned log2_floor(uint32_t v)
{
    return 31 - (unsigned)__builtin_clz(v);
}

Deflater *deflater_new(void)
{
    Deflater *d = calloc(1, sizeof(*d));
    double value = 1.0;

    if (!d) {
        return NULL;
    }
    d->base = WINDOW;
    for (unsigned s = 0; s < 29; s++) {
        for (unsigned len = length_base[s]; len <= MAX_MATCH; len++) {
            d->length_symbol[len] = (uint8_t)s;
        }
    }
    /* log[i], from the powers of the 256th root of two below it: no library for it, and no table of
     * constants. */
    for (unsigned i = 0, step = 0; i < 256; i++) {
        while (step < 256 && value * 1.002711275050202 <= 1.0 + i / 256.0) {
            value *= 1.002711275050202;
            step++;
        }
        d->log[i] = (uint16_t)step;
    }
    return d;
}

void deflater_free(Deflater *d)
{
    free(d);
}

/* ---- bits out ---- */

static void put_bits(Output *o, uint64_t word, unsigned n)
{
    o->held |= word << o->count;
    o->count += n;
}

/* At most 7 bits stay; before and after there is room for 56 more. */
static void drain(Output *o)
{
    uint64_t le = GUINT64_TO_LE(o->held);

    if (o->end - o->at < 8) {
        o->full = true;
        o->count = 0;
        o->held = 0;
        return;
    }
    memcpy(o->at, &le, sizeof(le));
    o->at += o->count >> 3;
    o->held >>= o->count & ~7u;
    o->count &= 7;
}

static void put_byte_end(Output *o)
{
    o->count = (o->count + 7) & ~7u;
    drain(o);
}

/* ---- Huffman codes ---- */

/* Symbols with a frequency, rarest first: (frequency << 9 | symbol), two passes by byte. Their number. */
static unsigned sort_symbols(const uint32_t *freq, unsigned symbols, uint32_t *sorted)
{
    uint32_t other[288];
    uint16_t start[257];
    unsigned n = 0;

    for (unsigned i = 0; i < symbols; i++) {
        if (freq[i]) {
            sorted[n++] = MIN(freq[i], 0xffffu) << 9 | i;
        }
    }
    for (unsigned shift = 9; shift <= 17; shift += 8) {
        memset(start, 0, sizeof(start));
        for (unsigned i = 0; i < n; i++) {
            start[(sorted[i] >> shift & 255) + 1]++;
        }
        for (unsigned i = 0; i < 256; i++) {
            start[i + 1] = (uint16_t)(start[i + 1] + start[i]);
        }
        for (unsigned i = 0; i < n; i++) {
            other[start[sorted[i] >> shift & 255]++] = sorted[i];
        }
        memcpy(sorted, other, n * sizeof(*sorted));
    }
    return n;
}

/* The depths of n >= 2 leaves, rarest first, into at_depth[depth]: how many. Leaves and inner nodes are two
 * queues that both grow in weight, so the two lightest are at their heads. */
static void tree_depths(const uint32_t *sorted, unsigned n, unsigned limit, uint16_t *at_depth)
{
    uint32_t weight[288];
    uint16_t parent[288], depth[288];
    unsigned leaf = 0, inner = 0;
    uint32_t used = 0;

    memset(at_depth, 0, (limit + 1) * sizeof(*at_depth));
    for (unsigned next = 0; next + 1 < n; next++) {
        weight[next] = 0;
        for (int child = 0; child < 2; child++) {
            if (leaf < n && (inner == next || sorted[leaf] >> 9 <= weight[inner])) {
                weight[next] += sorted[leaf++] >> 9;
            } else {
                parent[inner] = (uint16_t)next;
                weight[next] += weight[inner++];
            }
        }
    }
    /* Every inner node has two children; those that are not inner are leaves. From the root downwards. */
    {
        uint16_t inner_at[288] = { 0 };
        unsigned deepest = 0;

        depth[n - 2] = 0;
        inner_at[0] = 1;
        for (unsigned i = n - 2; i-- > 0;) {
            depth[i] = (uint16_t)(depth[parent[i]] + 1);
            inner_at[depth[i]]++;
            deepest = MAX(deepest, depth[i]);
        }
        for (unsigned at = 0; at <= deepest; at++) {
            unsigned leaves = 2u * inner_at[at] - (at < deepest ? inner_at[at + 1] : 0);

            at_depth[MIN(at + 1, limit)] = (uint16_t)(at_depth[MIN(at + 1, limit)] + leaves);
        }
    }
    /* Too many where the limit cut: a leaf above goes one down and takes one of the lowest beside it. */
    for (unsigned at = 1; at <= limit; at++) {
        used += (uint32_t)at_depth[at] << (limit - at);
    }
    while (used > 1u << limit) {
        unsigned at = limit - 1;

        while (!at_depth[at]) {
            at--;
        }
        at_depth[at]--;
        at_depth[at + 1] = (uint16_t)(at_depth[at + 1] + 2);
        at_depth[limit]--;
        used--;
    }
}

static uint16_t reversed(unsigned word, unsigned bits)
{
    unsigned out = 0;

    for (unsigned i = 0; i < bits; i++) {
        out = out << 1 | (word >> i & 1);
    }
    return (uint16_t)out;
}

/* Words in the order that the standard says, from the lengths alone. */
static void assign_words(Code *c, unsigned symbols)
{
    unsigned next[17] = { 0 }, at_length[17] = { 0 }, word = 0;

    for (unsigned i = 0; i < symbols; i++) {
        at_length[c->bits[i]]++;
    }
    at_length[0] = 0;
    for (unsigned bits = 1; bits < 16; bits++) {
        word = (word + at_length[bits - 1]) << 1;
        next[bits] = word;
    }
    for (unsigned i = 0; i < symbols; i++) {
        c->word[i] = c->bits[i] ? reversed(next[c->bits[i]]++, c->bits[i]) : 0;
    }
}

/* The best code of at most `limit` bits. There are always two words at least: a code is complete. */
static void make_code(Code *c, const uint32_t *freq, unsigned symbols, unsigned limit)
{
    uint32_t sorted[288];
    uint16_t at_depth[16];
    unsigned n = sort_symbols(freq, symbols, sorted), i = 0;

    memset(c->bits, 0, sizeof(c->bits));
    if (n < 2) {
        unsigned only = n ? sorted[0] & 511 : 0;

        c->bits[only] = c->bits[only ? 0 : 1] = 1;
    } else {
        tree_depths(sorted, n, limit, at_depth);
        for (unsigned bits = limit; bits > 0; bits--) { /* the rarest get the longest */
            for (unsigned k = at_depth[bits]; k > 0; k--) {
                c->bits[sorted[i++] & 511] = (uint8_t)bits;
            }
        }
    }
    assign_words(c, symbols);
}

static void fixed_codes(Code *litlen, Code *dist)
{
    memset(litlen->bits, 8, 144);
    memset(litlen->bits + 144, 9, 112);
    memset(litlen->bits + 256, 7, 24);
    memset(litlen->bits + 280, 8, 8);
    assign_words(litlen, 288);
    memset(dist->bits, 5, 32);
    assign_words(dist, 32);
}

/* ---- a block's header ---- */

typedef struct Header {
    uint8_t symbol[320], extra[320]; /* the lengths of both codes, runs put together */
    unsigned count, litlens, dists, precodes;
    Code code;
    uint64_t bits;
} Header;

static const uint8_t precode_order[PRECODES] = { 16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                 11, 4,  12, 3, 13, 2, 14, 1, 15 };

static unsigned extra_of_precode(unsigned symbol)
{
    return symbol == 16 ? 2 : symbol == 17 ? 3 : symbol == 18 ? 7 : 0;
}

static void add_length(Header *h, uint32_t *freq, unsigned symbol, unsigned extra)
{
    h->symbol[h->count] = (uint8_t)symbol;
    h->extra[h->count++] = (uint8_t)extra;
    freq[symbol]++;
}

static void add_run(Header *h, uint32_t *freq, uint8_t bits, unsigned run)
{
    if (!bits) {
        for (; run >= 11; run -= MIN(run, 138)) {
            add_length(h, freq, 18, MIN(run, 138) - 11);
        }
        if (run >= 3) {
            add_length(h, freq, 17, run - 3);
            run = 0;
        }
    } else if (run >= 4) {
        add_length(h, freq, bits, 0);
        run--;
        for (; run >= 3; run -= MIN(run, 6)) {
            add_length(h, freq, 16, MIN(run, 6) - 3);
        }
    }
    while (run--) {
        add_length(h, freq, bits, 0);
    }
}

static void make_header(Header *h, const Code *litlen, const Code *dist)
{
    uint8_t all[LITLENS + DISTS];
    uint32_t freq[PRECODES] = { 0 };
    unsigned n;

    h->litlens = LITLENS;
    while (h->litlens > 257 && !litlen->bits[h->litlens - 1]) {
        h->litlens--;
    }
    h->dists = DISTS;
    while (h->dists > 1 && !dist->bits[h->dists - 1]) {
        h->dists--;
    }
    n = h->litlens + h->dists;
    memcpy(all, litlen->bits, h->litlens);
    memcpy(all + h->litlens, dist->bits, h->dists);
    h->count = 0;
    for (unsigned i = 0, run; i < n; i += run) {
        for (run = 1; i + run < n && all[i + run] == all[i]; run++) {}
        add_run(h, freq, all[i], run);
    }
    make_code(&h->code, freq, PRECODES, 7);
    h->precodes = PRECODES;
    while (h->precodes > 4 && !h->code.bits[precode_order[h->precodes - 1]]) {
        h->precodes--;
    }
    h->bits = 5 + 5 + 4 + 3 * h->precodes;
    for (unsigned s = 0; s < PRECODES; s++) {
        h->bits += (uint64_t)freq[s] * (h->code.bits[s] + extra_of_precode(s));
    }
}

static void put_header(Output *o, const Header *h)
{
    put_bits(o, h->litlens - 257, 5);
    put_bits(o, h->dists - 1, 5);
    put_bits(o, h->precodes - 4, 4);
    drain(o);
    for (unsigned i = 0; i < h->precodes; i++) {
        put_bits(o, h->code.bits[precode_order[i]], 3);
        drain(o);
    }
    for (unsigned i = 0; i < h->count; i++) {
        unsigned s = h->symbol[i];

        put_bits(o, h->code.word[s], h->code.bits[s]);
        put_bits(o, h->extra[i], extra_of_precode(s));
        drain(o);
    }
}

/* ---- a block ---- */

static unsigned dist_symbol(uint32_t dist)
{
    uint32_t d = dist - 1;
    unsigned e;

    if (d < 2) {
        return d;
    }
    e = log2_floor(d);
    return 2 * e + (d >> (e - 1) & 1);
}

static unsigned dist_extra(unsigned symbol)
{
    return symbol < 4 ? 0 : symbol / 2 - 1;
}

/* Of tokens and the end, without a header. */
static uint64_t body_bits(const Histogram *h, const Code *litlen, const Code *dist)
{
    uint64_t bits = 0;

    for (unsigned s = 0; s < LITLENS; s++) {
        bits += (uint64_t)h->litlen[s] * (litlen->bits[s] + (s > END_BLOCK ? length_extra[s - 257] : 0));
    }
    for (unsigned s = 0; s < DISTS; s++) {
        bits += (uint64_t)h->dist[s] * (dist->bits[s] + dist_extra(s));
    }
    return bits;
}

static void put_tokens(Deflater *d, uint32_t count, const Code *litlen, const Code *dist, Output *o)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t token = d->tokens[i], len = token >> 16;

        if (!len) {
            put_bits(o, litlen->word[token], litlen->bits[token]);
            if (o->count > 40) {
                drain(o);
            }
        } else {
            uint32_t far = token & 0xffff;
            unsigned s = d->length_symbol[len], t = dist_symbol(far), e = dist_extra(t);

            drain(o);
            put_bits(o, litlen->word[257 + s], litlen->bits[257 + s]);
            put_bits(o, len - length_base[s], length_extra[s]);
            put_bits(o, dist->word[t], dist->bits[t]);
            put_bits(o, (far - 1) & ((1u << e) - 1), e);
            if (o->count > 40) {
                drain(o);
            }
        }
        if (o->full) {
            return;
        }
    }
    drain(o);
    put_bits(o, litlen->word[END_BLOCK], litlen->bits[END_BLOCK]);
    drain(o);
}

static void put_stored(const uint8_t *in, size_t bytes, bool last, Output *o)
{
    while (bytes && !o->full) {
        uint32_t n = (uint32_t)MIN(bytes, STORED_MAX);

        put_bits(o, last && n == bytes, 3);
        put_byte_end(o);
        put_bits(o, n | (uint64_t)(~n & 0xffff) << 16, 32);
        drain(o);
        if (o->full || (size_t)(o->end - o->at) < n + 8) {
            o->full = true;
            return;
        }
        memcpy(o->at, in, n);
        o->at += n;
        in += n;
        bytes -= n;
    }
}

/* The first `count` tokens, which stand for the input from d->block to end. */
static void put_block(Deflater *d, uint32_t count, const uint8_t *end, bool last, Output *o)
{
    Histogram *h = &d->sum;
    size_t bytes = (size_t)(end - d->block);
    uint64_t own, fixed, stored = (bytes + 5 * (bytes / STORED_MAX + 1)) * 8;
    Header header;
    Code fixed_litlen, fixed_dist;

    h->litlen[END_BLOCK] = 1;
    make_code(&d->litlen, h->litlen, LITLENS, 15);
    make_code(&d->dist, h->dist, DISTS, 15);
    make_header(&header, &d->litlen, &d->dist);
    own = header.bits + body_bits(h, &d->litlen, &d->dist);
    fixed_codes(&fixed_litlen, &fixed_dist);
    fixed = body_bits(h, &fixed_litlen, &fixed_dist);
    if (stored < own && stored < fixed) {
        put_stored(d->block, bytes, last, o);
    } else if (fixed <= own) {
        put_bits(o, last | 1u << 1, 3);
        drain(o);
        put_tokens(d, count, &fixed_litlen, &fixed_dist, o);
    } else {
        put_bits(o, last | 2u << 1, 3);
        put_header(o, &header);
        put_tokens(d, count, &d->litlen, &d->dist, o);
    }
    memset(h, 0, sizeof(*h));
    d->block = end;
}

/* ---- where a block ends ---- */

/* v times its binary logarithm, times 1 << LOG_BITS */
static uint64_t weigh(const Deflater *d, uint64_t v)
{
    unsigned e;

    if (v < 2) {
        return 0;
    }
    e = log2_floor((uint32_t)v);
    return v * ((e << LOG_BITS) + d->log[((v << 8) >> e) & 255]);
}

/* Bits that the best code for both parts together takes above that for each alone. */
static uint64_t cost_of_sharing(const Deflater *d)
{
    const Histogram *a = &d->sum, *b = &d->part;
    uint64_t apart = weigh(d, a->litlens) + weigh(d, b->litlens) + weigh(d, a->dists) + weigh(d, b->dists),
             shared = weigh(d, a->litlens + b->litlens) + weigh(d, a->dists + b->dists);

    for (unsigned s = 0; s < LITLENS; s++) {
        if (b->litlen[s]) {
            apart -= weigh(d, a->litlen[s]) + weigh(d, b->litlen[s]);
            shared -= weigh(d, a->litlen[s] + b->litlen[s]);
        } else {
            uint64_t w = weigh(d, a->litlen[s]);

            apart -= w;
            shared -= w;
        }
    }
    for (unsigned s = 0; s < DISTS; s++) {
        apart -= weigh(d, a->dist[s]) + weigh(d, b->dist[s]);
        shared -= weigh(d, a->dist[s] + b->dist[s]);
    }
    return shared > apart ? shared - apart : 0;
}

static void merge_part(Deflater *d)
{
    for (unsigned s = 0; s < LITLENS; s++) {
        d->sum.litlen[s] += d->part.litlen[s];
    }
    for (unsigned s = 0; s < DISTS; s++) {
        d->sum.dist[s] += d->part.dist[s];
    }
    d->sum.litlens += d->part.litlens;
    d->sum.dists += d->part.dists;
    memset(&d->part, 0, sizeof(d->part));
}

/* A chunk is full: it belongs to the block, or the block ends before it. at: the input behind it. */
static void end_chunk(Deflater *d, const uint8_t *at, Output *o)
{
    if (d->chunk_from && (d->count >= TOKENS_MAX || cost_of_sharing(d) > HEADER_COST)) {
        put_block(d, d->chunk_from, d->chunk, false, o);
        memmove(d->tokens, d->tokens + d->chunk_from, (d->count - d->chunk_from) * sizeof(*d->tokens));
        d->count -= d->chunk_from;
    }
    merge_part(d);
    d->chunk_from = d->count;
    d->chunk = at;
}

/* ---- matches ---- */

static uint32_t hash4(uint32_t sequence)
{
    return (sequence * 0x9e3779b1u) >> (32 - HASH4_BITS);
}

static uint32_t hash3(uint32_t sequence)
{
    return ((sequence << 8) * 0x9e3779b1u) >> (32 - HASH3_BITS);
}

static uint32_t equal_bytes(const uint8_t *a, const uint8_t *b, uint32_t n, uint32_t max)
{
    while (n + 8 <= max) {
        uint64_t differ = load64(a + n) ^ load64(b + n);

        if (differ) {
            return n + (uint32_t)__builtin_ctzll(differ) / 8;
        }
        n += 8;
    }
    while (n < max && a[n] == b[n]) {
        n++;
    }
    return n;
}

/* Puts a position into the tables; how far before it the last one with the same hash of four is. */
static inline uint32_t insert(Deflater *d, uint32_t number, uint32_t sequence, uint32_t *near3)
{
    uint32_t *head3 = &d->head3[hash3(sequence)], *head4 = &d->head4[hash4(sequence)], back = number - *head4;

    *near3 = number - *head3;
    *head3 = *head4 = number;
    d->prev[number % WINDOW] = (uint16_t)MIN(back, WINDOW);
    return back;
}

/* The length of the best match that is longer than best; otherwise best. pos is inserted. */
static uint32_t find(Deflater *d, const uint8_t *in, uint32_t pos, uint32_t max, uint32_t best,
                     uint32_t depth, uint32_t *dist)
{
    const uint8_t *here = in + pos;
    uint32_t sequence = load32(here), number = d->base + pos, reach = MIN(WINDOW - 1, pos), near3,
             back = insert(d, number, sequence, &near3);

    if (best < 3) {
        if (near3 <= MIN(reach, NEAR_3) && !((load32(here - near3) ^ sequence) & 0xffffff)) {
            best = 3;
            *dist = near3;
        }
    }
    while (back <= reach && depth--) {
        const uint8_t *there = here - back;
        uint32_t last = MAX(best, 3) - 3;

        if (load32(there + last) == load32(here + last) && load32(there) == sequence) {
            uint32_t len = equal_bytes(here, there, 4, max);

            if (len > best) {
                best = len;
                *dist = back;
                if (len >= NICE || len == max) {
                    break;
                }
            }
        }
        back += d->prev[(number - back) % WINDOW];
    }
    return best;
}

static void add_literal(Deflater *d, uint8_t byte)
{
    d->tokens[d->count++] = byte;
    d->part.litlen[byte]++;
    d->part.litlens++;
}

static void add_match(Deflater *d, uint32_t len, uint32_t dist)
{
    d->tokens[d->count++] = len << 16 | dist;
    d->part.litlen[257 + d->length_symbol[len]]++;
    d->part.litlens++;
    d->part.dist[dist_symbol(dist)]++;
    d->part.dists++;
}

/* Whether the match at the next position is worth a literal before it. */
static bool is_better(uint32_t len, uint32_t dist, uint32_t next_len, uint32_t next_dist)
{
    return 4 * (int)(next_len - len) + (int)log2_floor(dist) - (int)log2_floor(next_dist) > 2;
}

/* Positions that nobody searches from can still be found. */
static void insert_run(Deflater *d, const uint8_t *in, uint32_t from, uint32_t end, uint32_t size)
{
    for (; from < end && size - from >= MIN_LEFT; from++) {
        uint32_t near3;

        insert(d, d->base + from, load32(in + from), &near3);
    }
}

/* Literals: of a position without a match, and of more where nothing has matched for long. */
static uint32_t pass_by(Deflater *d, const uint8_t *in, uint32_t pos, uint32_t size)
{
    uint32_t leap = MIN(d->misses >> PATIENCE, LEAP_MAX), end = MIN(size, pos + 1 + leap);
    d->misses++;

    insert_run(d, in, pos + 1, end, size);
    while (pos < end) {
        add_literal(d, in[pos++]);
    }
    return pos;
}

/* One match or literal at pos, and literals before it; the position behind it. */
static uint32_t step(Deflater *d, const uint8_t *in, uint32_t pos, uint32_t size)
{
    uint32_t dist = 0, len = find(d, in, pos, MIN(MAX_MATCH, size - pos), 2, DEPTH, &dist), from = pos + 1;

    if (len < 3) {
        return pass_by(d, in, pos, size);
    }
    d->misses = 0;
    while (len < NICE && size - from >= MIN_LEFT) {
        uint32_t next_dist = 0, max = MIN(MAX_MATCH, size - from),
                 next = len > max ? 0 : find(d, in, from, max, len - 1, DEPTH / 2, &next_dist);

        from++;
        if (!next_dist || !is_better(len, dist, next, next_dist)) {
            break;
        }
        add_literal(d, in[pos]);
        pos++;
        len = next;
        dist = next_dist;
    }
    add_match(d, len, dist);
    insert_run(d, in, from, pos + len, size);
    return pos + len;
}

size_t deflater_run(Deflater *d, const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    Output o = { .at = out, .end = out + out_size };
    uint32_t pos = 0, size = (uint32_t)in_size;

    d->count = d->chunk_from = d->misses = 0;
    d->block = d->chunk = in;
    memset(&d->sum, 0, sizeof(d->sum));
    memset(&d->part, 0, sizeof(d->part));
    while (pos < size && !o.full) {
        if (size - pos >= MIN_LEFT) {
            pos = step(d, in, pos, size);
        } else {
            add_literal(d, in[pos++]);
        }
        if (d->count - d->chunk_from >= CHUNK) {
            end_chunk(d, in + pos, &o);
        }
    }
    d->base += size + WINDOW;
    end_chunk(d, in + pos, &o);
    put_block(d, d->count, in + size, true, &o);
    put_byte_end(&o);
    return o.full ? 0 : (size_t)(o.at - out);
}
