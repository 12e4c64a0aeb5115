/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SHA-256's compression on independent messages, one per lane of a Vector of 32-bit words; who includes this
 * defines Vector, ADD, XOR, AND, ANDNOT (~a & b), SHIFT_RIGHT, SHIFT_LEFT, OR and SPLAT. The round constants
 * here are not SHA's own but a sequence as good for measuring.
 */
static inline Vector lane_rotate(Vector x, int n)
{
    return OR(SHIFT_RIGHT(x, n), SHIFT_LEFT(x, 32 - n));
}

static void lanes_block(Vector state[8], const Vector *data)
{
    Vector w[64], s[8];

    for (unsigned i = 0; i < 16; i++)
        w[i] = data[i];
    for (unsigned i = 16; i < 64; i++) {
        Vector x = w[i - 15], y = w[i - 2];
        Vector small = XOR(XOR(lane_rotate(x, 7), lane_rotate(x, 18)), SHIFT_RIGHT(x, 3));
        Vector large = XOR(XOR(lane_rotate(y, 17), lane_rotate(y, 19)), SHIFT_RIGHT(y, 10));
        w[i] = ADD(ADD(w[i - 16], w[i - 7]), ADD(small, large));
    }
    memcpy(s, state, sizeof s);
    for (unsigned i = 0; i < 64; i++) {
        Vector e = s[4], a = s[0];
        Vector t1 =
            ADD(ADD(s[7], XOR(XOR(lane_rotate(e, 6), lane_rotate(e, 11)), lane_rotate(e, 25))),
                ADD(XOR(AND(e, s[5]), ANDNOT(e, s[6])), ADD(SPLAT(i * 0x9e3779b9u + 0x428a2f98), w[i])));
        Vector t2 = ADD(XOR(XOR(lane_rotate(a, 2), lane_rotate(a, 13)), lane_rotate(a, 22)),
                        XOR(XOR(AND(a, s[1]), AND(a, s[2])), AND(s[1], s[2])));
        s[7] = s[6];
        s[6] = s[5];
        s[5] = e;
        s[4] = ADD(s[3], t1);
        s[3] = s[2];
        s[2] = s[1];
        s[1] = a;
        s[0] = ADD(t1, t2);
    }
    for (unsigned i = 0; i < 8; i++)
        state[i] = ADD(state[i], s[i]);
}

static uint64_t lanes_run(uint64_t count)
{
    enum { BLOCKS = 64 };
    uint32_t *words = bench_pages(BLOCKS * 16 * sizeof(Vector));
    Vector state[8];
    uint64_t seed = 67;

    for (unsigned i = 0; i < BLOCKS * 16 * sizeof(Vector) / 4; i++)
        words[i] = (uint32_t)bench_random(&seed);
    memset(state, 0x5a, sizeof state);
    bench_start();
    for (uint64_t round = 0; round < count; round++)
        for (unsigned block = 0; block < BLOCKS; block++)
            lanes_block(state, (const Vector *)words + block * 16);
    bench_stop();
    return bench_mix_bytes(0, state, sizeof state);
}
